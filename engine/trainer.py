"""The training itself: a recipe, a model that learns by it, and a loop that can be killed at any moment."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

from seseg_trt.errors import UsageError

from . import runs
from .dataset import Augmentation, Batches, Source, sample, to_arrays
from .network import NetworkSpec

WARM_UP_STEPS = 100


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained; with the data, it decides the result.

    Attributes:
        network: its sizes.
        train_encoder: learn the encoder too; else it is frozen but for its BatchNorms (next line).
        encoder_batchnorm: of a frozen encoder. ``original`` as segmentation-models 0.2.0 leaves them: gamma and beta are learnt, a batch's own
            statistics are used in training and go into the running ones. ``frozen``: nothing in the encoder changes.
        epochs: at most.
        batch: images in a batch.
        learning_rate: Adam's.
        schedule: ``constant``, or ``cosine``: a short warm-up, then half a cosine down to 0 over all epochs.
        seed: of fresh weights, of the order and of the augmentation.
        augmentation: how images are varied.
        patience: epochs without a higher held-out IoU before training stops; 0 to never stop early.
        mixed_precision: float16 arithmetic on float32 weights; for GPUs.
        deterministic: operations whose result does not depend on the threads' timing.
        save_every: batches between two saved states.
    """

    network: NetworkSpec
    train_encoder: bool = False
    encoder_batchnorm: Literal["original", "frozen"] = "original"
    epochs: int = 60
    batch: int = 8
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    seed: int = 0
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    patience: int = 10
    mixed_precision: bool = False
    deterministic: bool = True
    save_every: int = 200


@dataclasses.dataclass(frozen=True)
class Start:
    """What fresh weights are replaced with: a whole network's checkpoint, an encoder's weights, or nothing."""

    checkpoint: Path | None = None
    encoder: Path | None = None


class Trainer:
    """A model, its optimizer, and one step of learning; all in the main thread."""

    def __init__(self, recipe: Recipe, start: Start, steps: int) -> None:
        import keras
        import tensorflow as tf

        from .checkpoint import load_checkpoint, load_encoder_weights
        from .losses import bce_jaccard_loss
        from .network import build_unet, freeze_encoder

        keras.utils.set_random_seed(recipe.seed)
        if recipe.deterministic:
            tf.config.experimental.enable_op_determinism()
        policy = keras.config.dtype_policy()
        try:
            keras.config.set_dtype_policy("mixed_float16" if recipe.mixed_precision else "float32")
            self.model = build_unet(recipe.network)
        finally:
            keras.config.set_dtype_policy(policy)
        # In half precision a sigmoid is 0 or 1 too soon, and the loss then gives no gradient.
        self.model.get_layer("sigmoid").dtype_policy = keras.DTypePolicy("float32")
        if start.checkpoint is not None:
            loaded, info = load_checkpoint(start.checkpoint)
            if dataclasses.replace(info.spec, input_size=recipe.network.input_size) != recipe.network:
                raise UsageError(f"{start.checkpoint} holds {info.spec.name}, not {recipe.network.name}", "give its name to --network")
            self.model.set_weights(loaded.get_weights())
        if start.encoder is not None:
            load_encoder_weights(self.model, start.encoder)
        if not recipe.train_encoder:
            freeze_encoder(self.model, batchnorm=recipe.encoder_batchnorm == "frozen")
        rate: Any = recipe.learning_rate
        if recipe.schedule == "cosine":
            warm_up = min(WARM_UP_STEPS, max(steps // 10, 1))
            rate = keras.optimizers.schedules.CosineDecay(0.0, max(steps - warm_up, 1), warmup_target=rate, warmup_steps=warm_up)
        optimizer = keras.optimizers.Adam(rate)
        self.optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer) if recipe.mixed_precision else optimizer
        self.optimizer.build(self.model.trainable_variables)
        self._loss = bce_jaccard_loss
        self._learn = tf.function(self._learn_eagerly)
        self._predict = tf.function(lambda images: self.model(images, training=False))

    @property
    def variables(self) -> list[Any]:
        """Every number that learning changes."""
        return [*self.model.variables, *self.optimizer.variables]

    def _backward(self, images: Any, truths: Any, wanted: list[Any]) -> tuple[Any, list[Any]]:
        """The loss of a batch, and its gradients; exactly zero for what is frozen, since the tape watches nothing else."""
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in self.model.trainable_variables])
            loss = self._loss(truths, self.model(images, training=True))
            scaled = self.optimizer.scale_loss(loss)
        return loss, tape.gradient(scaled, [v.value for v in wanted], unconnected_gradients="zero")

    def _learn_eagerly(self, images: Any, truths: Any) -> Any:
        loss, gradients = self._backward(images, truths, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def gradients(self, images: NDArray[np.float32], truths: NDArray[np.float32]) -> list[tuple[Any, NDArray[np.float32]]]:
        """Every variable of the model with its gradient on a batch; frozen ones and moving statistics have exactly zero."""
        _, found = self._backward(images, truths, self.model.variables)
        return [(variable, np.asarray(g)) for variable, g in zip(self.model.variables, found, strict=True)]

    def learn(self, images: NDArray[np.float32], truths: NDArray[np.float32]) -> float:
        """Learn from one batch; return its loss before that."""
        return float(self._learn(images, truths))

    def evaluate(self, source: Source, batch: int) -> runs.Row:
        """The loss and the IoU on a source, at the network's own size and the threshold of 50."""
        losses, both, either, scores = [], 0, 0, []
        for first in range(0, len(source), batch):
            size = self.model.input_shape[1]
            pairs = [sample(source.load(i), size) for i in range(first, min(first + batch, len(source)))]
            images, truths = to_arrays(pairs)
            p = self._predict(images)
            losses += [float(self._loss(truths[i : i + 1], p[i : i + 1])) for i in range(len(pairs))]
            ours, theirs = np.floor(np.asarray(p, np.float32) * 255) > 127.5, truths > 0
            meets, joins = (ours & theirs).sum(axis=(1, 2, 3)), (ours | theirs).sum(axis=(1, 2, 3))
            both, either = both + int(meets.sum()), either + int(joins.sum())
            scores += [m / j if j else 1.0 for m, j in zip(meets.tolist(), joins.tolist(), strict=True)]
        return {"val_loss": float(np.mean(losses)), "val_iou": both / either if either else 1.0, "val_iou_mean": float(np.mean(scores))}


def train(
    recipe: Recipe, learn_from: Source, held_out: Source, out: Path, start: Start, data: dict[str, Any], command: str = ""
) -> runs.Progress:
    """Train, or go on training, in the folder `out`.

    Args:
        recipe: how.
        learn_from: pairs to learn from.
        held_out: pairs to measure on after every epoch.
        out: the run's folder; it gets ``checkpoint.hdf5`` (the epoch with the highest held-out IoU), ``curves.csv``, ``curves.png``,
            ``run.json`` and ``state.npz``.
        start: the weights to begin with.
        data: what the pairs are, for the record; a run goes on only with the same.
        command: for the record.

    Returns:
        Where the run stands at its end.

    Raises:
        UsageError: `out` holds another run, or the encoder would be frozen without weights.
    """
    if not recipe.train_encoder and start == Start():
        raise UsageError(
            "the encoder is frozen but has no weights, so there is nothing to learn from",
            "give its ImageNet weights with --encoder-weights, or a checkpoint with --init, or learn it too with --train-encoder",
        )
    out.mkdir(parents=True, exist_ok=True)
    identity = json.dumps({**dataclasses.asdict(recipe), "data": data}, sort_keys=True)
    progress = runs.load_progress(out)
    if progress is not None:
        runs.check_same_recipe(out, progress, identity)
    batches = Batches(learn_from, recipe.network.input_size, recipe.batch, recipe.seed, recipe.augmentation)
    steps = recipe.epochs * batches.in_epoch
    trainer = Trainer(recipe, start, steps)
    if progress is None:
        progress = runs.Progress(identity)
    else:
        runs.load_variables(out, trainer.variables)
        click.echo(f"going on from batch {progress.step} of {steps}")
    click.echo(
        f"{recipe.network.name}: {trainer.model.count_params():,} parameters, {len(learn_from)} pairs to learn from, {len(held_out)} held out"
    )
    if not progress.stopped_early:
        _loop(recipe, trainer, batches, held_out, out, progress, steps)
    runs.write_record(out, _record(recipe, progress, data, command, start))
    return progress


def _loop(recipe: Recipe, trainer: Trainer, batches: Batches, held_out: Source, out: Path, progress: runs.Progress, steps: int) -> None:
    from tqdm import tqdm

    wall, cpu = time.monotonic() - progress.seconds, time.process_time() - progress.cpu_seconds
    with tqdm(total=steps, initial=progress.step, unit="batch", disable=None) as bar:
        for images, truths in batches.from_step(progress.step, steps):
            progress.loss_sum += trainer.learn(images, truths)
            progress.step += 1
            bar.update()
            ended = progress.step % batches.in_epoch == 0
            if ended:
                _end_epoch(recipe, trainer, batches, held_out, out, progress)
                bar.write(_line(progress.rows[-1]))
            if ended or progress.step % recipe.save_every == 0:
                progress.seconds, progress.cpu_seconds = time.monotonic() - wall, time.process_time() - cpu
                runs.save_state(out, trainer.variables, progress)
            if progress.stopped_early:
                break


def _end_epoch(recipe: Recipe, trainer: Trainer, batches: Batches, held_out: Source, out: Path, progress: runs.Progress) -> None:
    epoch = progress.step // batches.in_epoch
    row = {"epoch": float(epoch), "step": float(progress.step), "loss": progress.loss_sum / batches.in_epoch}
    row.update(trainer.evaluate(held_out, recipe.batch))
    progress.rows.append(row)
    progress.loss_sum = 0.0
    if progress.best_epoch == 0 or row["val_iou"] > progress.rows[progress.best_epoch - 1]["val_iou"]:
        progress.best_epoch = epoch
        runs.write_checkpoint(trainer.model, out / runs.CHECKPOINT)
    progress.stopped_early = 0 < recipe.patience <= epoch - progress.best_epoch
    runs.write_curves(out, progress.rows)


def _line(row: runs.Row) -> str:
    return f"epoch {row['epoch']:.0f}: " + ", ".join(f"{k} {v:.4f}" for k, v in row.items() if k not in ("epoch", "step"))


def _record(recipe: Recipe, progress: runs.Progress, data: dict[str, Any], command: str, start: Start) -> dict[str, Any]:
    import keras
    import PIL
    import tensorflow as tf

    best = progress.rows[progress.best_epoch - 1] if progress.best_epoch else {}
    return {
        "command": command,
        "network": recipe.network.name,
        "recipe": dataclasses.asdict(recipe),
        "data": data,
        "start": {k: str(v) for k, v in dataclasses.asdict(start).items() if v is not None},
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
        "epochs": len(progress.rows),
        "stopped_early": progress.stopped_early,
        "best": best,
        "seconds": round(progress.seconds, 1),
        "cpu_seconds": round(progress.cpu_seconds, 1),
    }
