"""Read and write the files of a training run: the state that it resumes from, its curves, its checkpoint and its record.

Every file is written atomically, so a run that is killed at any moment leaves complete files.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from seseg_trt.errors import UsageError
from seseg_trt.storage.atomic import atomic_write

STATE = "state.npz"
CHECKPOINT = "checkpoint.hdf5"
CURVES = "curves.csv"
PLOT = "curves.png"
RECORD = "run.json"

Row = dict[str, float]


@dataclasses.dataclass
class Progress:
    """The progress of a training run.

    Attributes:
        recipe: the recipe and the data of the run, as JSON; the run can only be resumed with the same.
        step: the number of batches trained on.
        loss_sum: the sum of the losses of the current epoch's batches.
        rows: the curves, one row for each finished epoch.
        best_epoch: the epoch, from 1, whose weights are in the checkpoint; 0 before the first.
        stopped_early: whether training stopped because the held-out IoU had not risen for the recipe's patience.
        seconds: the time spent training, over all starts of the run; wall-clock seconds.
        cpu_seconds: the CPU time spent training, over all starts, of all cores; seconds.
    """

    recipe: str
    step: int = 0
    loss_sum: float = 0.0
    rows: list[Row] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def save_state(run: Path, variables: list[Any], progress: Progress) -> None:
    """Save what training resumes from: the variables of the model and the optimizer, and the progress."""
    arrays: dict[str, Any] = {f"v{i:05d}": np.asarray(v) for i, v in enumerate(variables)}
    record = np.frombuffer(json.dumps(dataclasses.asdict(progress)).encode(), np.uint8)
    with atomic_write(run / STATE, durable=True) as file:
        np.savez(file, progress=record, **arrays)


def load_progress(run: Path) -> Progress | None:
    """Load the progress of the run in this folder; None if there is no run."""
    if not (run / STATE).exists():
        return None
    with np.load(run / STATE) as state:
        return Progress(**json.loads(state["progress"].tobytes()))


def load_variables(run: Path, variables: list[Any]) -> None:
    """Load the saved values into the variables of the model and the optimizer."""
    with np.load(run / STATE) as state:
        for i, variable in enumerate(variables):
            variable.assign(state[f"v{i:05d}"])


def check_same_recipe(run: Path, progress: Progress, recipe: str) -> None:
    """Refuse to resume a run with another recipe or other data than it was started with.

    Raises:
        UsageError: something differs; the message names it.
    """
    if progress.recipe == recipe:
        return
    old, new = json.loads(progress.recipe), json.loads(recipe)
    changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    raise UsageError(
        f"{run} holds a run with another recipe: " + "; ".join(f"{k} was {old.get(k)}, is {new.get(k)}" for k in changed),
        "give another --out to start a new run, or the same options to resume this one",
    )


def write_curves(run: Path, rows: list[Row]) -> None:
    """Write the curves as CSV and as a PNG plot; nothing before the first epoch has ended."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(run / CURVES, durable=True) as file:
        file.write(text.getvalue().encode())
    with atomic_write(run / PLOT, durable=True) as file:
        _plot(rows, file)


def _plot(rows: list[Row], file: BinaryIO) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)  # needs neither a display nor pyplot's global state
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
    """Write the run's recipe, data, versions and results as JSON."""
    with atomic_write(run / RECORD, durable=True) as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


def write_checkpoint(model: Any, path: Path) -> None:
    """Write a model's weights in the HDF5 layout of Keras 2's ``save_weights()``, which :mod:`engine.checkpoint` reads.

    Args:
        model: a Keras model of :func:`engine.network.build_unet`.
        path: the file to write.
    """
    import h5py

    from .architecture import keras2_order
    from .network import plan_layers, spec_of

    layers = [layer for layer in keras2_order(plan_layers(spec_of(model))) if layer.weights]
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.4"  # the version whose layout this is
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, values in zip(names, model.get_layer(layer.name).get_weights(), strict=True):
                group.create_dataset(name, data=np.asarray(values, np.float32))
    with atomic_write(path, durable=True) as out:
        out.write(image.getvalue())
