"""A training run's folder: its state, from which it goes on after a kill; its curves; its checkpoint.

Every file is written beside its place and moved there when it is whole, so a kill at any moment leaves the last whole one.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from seseg_trt.errors import UsageError

STATE = "state.npz"
CHECKPOINT = "checkpoint.hdf5"
CURVES = "curves.csv"
PLOT = "curves.png"
RECORD = "run.json"

Row = dict[str, float]


@dataclasses.dataclass
class Progress:
    """Where a run stands.

    Attributes:
        recipe: what the run was started with, as JSON; another one can't go on from here.
        step: batches learnt from.
        loss_sum: of the batches of the epoch under way.
        rows: one for each finished epoch: the curves.
        best_epoch: the row whose weights the checkpoint has, from 1; 0 before the first.
        stopped_early: the held-out IoU had not risen for as many epochs as the recipe's patience.
        seconds: spent training, over all its starts; wall clock.
        cpu_seconds: the same, of all processors.
    """

    recipe: str
    step: int = 0
    loss_sum: float = 0.0
    rows: list[Row] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that is whole or not there, and on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_state(run: Path, variables: list[Any], progress: Progress) -> None:
    """Save all numbers that training goes on from: the model's and the optimizer's variables, and where the run stands."""
    arrays: dict[str, Any] = {f"v{i:05d}": np.asarray(v) for i, v in enumerate(variables)}
    record = np.frombuffer(json.dumps(dataclasses.asdict(progress)).encode(), np.uint8)
    write_whole(run / STATE, lambda file: np.savez(file, progress=record, **arrays))


def load_progress(run: Path) -> Progress | None:
    """Where the run in this folder stands, or None for a new one."""
    if not (run / STATE).exists():
        return None
    with np.load(run / STATE) as state:
        return Progress(**json.loads(state["progress"].tobytes()))


def load_variables(run: Path, variables: list[Any]) -> None:
    """Put the saved numbers into the model's and the optimizer's variables."""
    with np.load(run / STATE) as state:
        for i, variable in enumerate(variables):
            variable.assign(state[f"v{i:05d}"])


def check_same_recipe(run: Path, progress: Progress, recipe: str) -> None:
    """Refuse to go on with another recipe or other data than the run was started with."""
    if progress.recipe == recipe:
        return
    old, new = json.loads(progress.recipe), json.loads(recipe)
    changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    raise UsageError(
        f"{run} holds a run with another recipe: " + "; ".join(f"{k} was {old.get(k)}, is {new.get(k)}" for k in changed),
        "give another --out to start a new run, or the same options to go on with this one",
    )


def write_curves(run: Path, rows: list[Row]) -> None:
    """Write the curves as CSV and as a picture."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(run / CURVES, lambda file: file.write(text.getvalue().encode()))
    write_whole(run / PLOT, lambda file: _plot(rows, file))


def _plot(rows: list[Row], file: BinaryIO) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, and without pyplot's global state
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for axes, names, label in ((losses, ("loss", "val_loss"), "loss"), (scores, ("val_iou", "val_iou_mean"), "held-out IoU")):
        for name in names:
            axes.plot(epochs, [row[name] for row in rows], marker=".", label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, format="png", dpi=100)


def write_record(run: Path, record: dict[str, Any]) -> None:
    """Write what the run was and came to, as JSON."""
    write_whole(run / RECORD, lambda file: file.write((json.dumps(record, indent=2) + "\n").encode()))


def write_checkpoint(model: Any, path: Path) -> None:
    """Write a model's weights as Keras 2's ``save_weights()`` does: the form of HDF5 that :mod:`engine.checkpoint` reads.

    Args:
        model: made by :func:`engine.network.build_unet`.
        path: of the file.
    """
    import h5py

    from .architecture import keras2_order
    from .network import plan_layers, spec_of

    layers = [layer for layer in keras2_order(plan_layers(spec_of(model))) if layer.weights]
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.4"  # whose layout this is
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, values in zip(names, model.get_layer(layer.name).get_weights(), strict=True):
                group.create_dataset(name, data=np.asarray(values, np.float32))
    write_whole(path, lambda out: out.write(image.getvalue()))
