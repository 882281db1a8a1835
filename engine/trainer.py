"""Train a network: the recipe, the training step, and a loop that can be killed and resumed at any moment."""

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
    """How a network is trained. The recipe and the data together determine the result.

    Attributes:
        network: the sizes of the network.
        train_encoder: train the encoder too; if False it is frozen, except for its BatchNorms (see `encoder_batchnorm`).
        encoder_batchnorm: how a frozen encoder's BatchNorms behave. ``original``: as in segmentation-models 0.2.0, gamma and beta are
            trained, and training uses each batch's statistics and updates the moving ones. ``frozen``: nothing in the encoder changes.
        epochs: the most epochs.
        batch: the number of images in a batch.
        learning_rate: Adam's learning rate.
        schedule: ``constant``, or ``cosine``: a short warm-up, then cosine decay to 0 over all epochs.
        seed: the seed of new weights, of the order and of the augmentation.
        augmentation: how images are augmented.
        patience: stop after this many epochs without a higher held-out IoU; 0: never.
        mixed_precision: compute in float16 with float32 weights; for GPUs.
        deterministic: use only operations whose result does not depend on the timing of threads.
        save_every: the number of batches between two saved states.
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
    """The weights that training starts from, loaded over new random weights; without any, those stay.

    Attributes:
        checkpoint: an HDF5 checkpoint of the whole network.
        encoder: an HDF5 file of an encoder's weights; loaded after the checkpoint.
    """

    checkpoint: Path | None = None
    encoder: Path | None = None


class Trainer:
    """A model with its optimizer and its training step; not thread-safe.

    Args:
        recipe: how to train.
        start: the weights to start from.
        steps: the number of batches in all epochs, for the schedule.

    Raises:
        CheckpointError: a file of `start` can't be read.
        UsageError: the checkpoint holds another network.
    """

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
        # In float16 the sigmoid rounds to 0 or 1 too early, where the loss has no gradient.
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
        """All variables of the model and the optimizer."""
        return [*self.model.variables, *self.optimizer.variables]

    def _backward(self, images: Any, truths: Any, wanted: list[Any]) -> tuple[Any, list[Any]]:
        """Return the loss of a batch and its gradients; those of frozen variables are exactly zero, as the tape does not watch them."""
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
        """Return each variable of the model with its gradient on a batch; exactly zero for frozen variables and moving statistics.

        Args:
            images, truths: a batch, as of :meth:`engine.dataset.Batches.make`.
        """
        _, found = self._backward(images, truths, self.model.variables)
        return [(variable, np.asarray(g)) for variable, g in zip(self.model.variables, found, strict=True)]

    def learn(self, images: NDArray[np.float32], truths: NDArray[np.float32]) -> float:
        """Train on one batch, as of :meth:`engine.dataset.Batches.make`; return its loss before the update."""
        return float(self._learn(images, truths))

    def evaluate(self, source: Source, batch: int) -> runs.Row:
        """Measure the loss and the IoU on a source, at the network's input size and a threshold of 50%.

        Args:
            source: the pairs to measure on.
            batch: the number of images in a batch.

        Returns:
            ``val_loss``; ``val_iou``, pooled over all images; ``val_iou_mean``, the mean of the images' IoUs.
        """
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
    """Train a network in the folder `out`, or resume the run in it.

    Args:
        recipe: how to train.
        learn_from: the pairs to train on.
        held_out: the pairs to measure on after each epoch.
        out: the run's folder; it gets ``checkpoint.hdf5`` (the epoch with the highest held-out IoU), ``curves.csv``, ``curves.png``,
            ``run.json`` and ``state.npz``.
        start: the weights to start from.
        data: a description of the pairs, for the record; a run can only be resumed with the same.
        command: the command line, for the record.

    Returns:
        The progress at the end.

    Raises:
        CheckpointError: a file of `start` can't be read.
        UsageError: `out` holds another run, the encoder would be frozen without weights, or the checkpoint holds another network.
    """
    if not recipe.train_encoder and start == Start():
        raise UsageError(
            "the encoder is frozen but has no weights, so there is nothing to train on",
            "give its ImageNet weights with --encoder-weights, or a checkpoint with --init, or train it too with --train-encoder",
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
        click.echo(f"resuming at batch {progress.step} of {steps}")
    click.echo(
        f"{recipe.network.name}: {trainer.model.count_params():,} parameters, {len(learn_from)} pairs to train on, {len(held_out)} held out"
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
