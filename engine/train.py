"""Train the network by the original recipe, on your own images and masks or on procedural scenes.

::

    python -m engine.train --images DIR --masks DIR --encoder-weights FILE --out RUN
    python -m engine.train --demo --out RUN          # the demonstration network

The recipe is that of the original model: a U-Net on an SE-ResNet encoder with frozen ImageNet weights, binary cross-entropy + (1 - IoU),
Adam. The same command resumes a run that was stopped. engine/README.md describes all steps from images to masks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any, Literal

import click

from seseg_trt.errors import SesegError, UsageError

from . import runs
from .dataset import Augmentation, Cached, Folder, Scenes, Source, find_pairs, split
from .network import PRESETS, NetworkSpec
from .trainer import Recipe, Start, train

# Few channels at high resolution: the last two decoder stages take most of the time in so small a network.
DEMO_NETWORK = NetworkSpec(repetitions=(1, 2, 2, 1), encoder_filters=12, decoder_filters=(48, 32, 24, 12, 6))
DEMO_TRAIN_SEED = 1
DEMO_VALIDATION_SEED = 2
DEMO_SCENES = 4000
VALIDATION_SCENES = 96


def _sources(images: Path | None, masks: Path | None, demo: bool, scenes: int, validation: float) -> tuple[Source, Source, dict[str, Any]]:
    """Return the pairs to train on, the held-out pairs, and a description that identifies both."""
    if demo:
        if images or masks:
            raise UsageError("--demo draws its own scenes; leave --images and --masks out")
        held_out = max(min(VALIDATION_SCENES, scenes // 4), 1)
        data: dict[str, Any] = {
            "scenes": {"seed": DEMO_TRAIN_SEED, "count": scenes},
            "held_out": {"seed": DEMO_VALIDATION_SEED, "count": held_out},
        }
        return Cached(Scenes(DEMO_TRAIN_SEED, scenes)), Cached(Scenes(DEMO_VALIDATION_SEED, held_out, [(256, 256)])), data
    if images is None or masks is None:
        raise UsageError("there is nothing to train on", "give --images DIR and --masks DIR, or --demo")
    pairs = find_pairs(images, masks)
    kept, held = split(pairs, validation)
    names = "\n".join(p.name for p in pairs)
    data = {
        "pairs": len(pairs),
        "held_out": len(held),
        "names_sha256": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
        "validation": validation,
    }
    return Cached(Folder(kept)), Folder(held), data


def _precision(choice: str) -> bool:
    import tensorflow as tf

    gpu = bool(tf.config.list_physical_devices("GPU"))
    if choice == "on" and not gpu:
        raise UsageError("mixed precision needs a GPU, and TensorFlow sees none here", "leave --mixed-precision out")
    return gpu and choice != "off"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--images", type=click.Path(path_type=Path), help="Folder of images; subfolders are included.")
@click.option("--masks", type=click.Path(path_type=Path), help="Folder of masks with the same relative paths: a/b.jpg has a/b.png.")
@click.option("--demo", is_flag=True, help="Train the demonstration network, encoder included, on procedural scenes.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's folder; a stopped run in it is resumed.")
@click.option("--network", type=click.Choice(sorted(PRESETS)), help="The encoder.  [default: seresnet152]")
@click.option("--encoder-weights", type=click.Path(path_type=Path), help="HDF5 of the encoder's ImageNet weights, without the top.")
@click.option("--init", type=click.Path(path_type=Path), help="HDF5 checkpoint of the whole network to start from.")
@click.option("--train-encoder", is_flag=True, help="Train the encoder too.")
@click.option("--encoder-batchnorm", type=click.Choice(["original", "frozen"]), default="original", help="BatchNorms of a frozen encoder.")
@click.option("--epochs", type=click.IntRange(min=1), help="The most epochs.  [default: 60; with --demo, 5]")
@click.option("--batch", type=click.IntRange(min=1), help="Images in a batch.  [default: 8; with --demo, 4]")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help="Learning rate.  [default: 0.001; with --demo, 0.002]")
@click.option("--patience", type=click.IntRange(min=0), default=10, help="Most epochs without a better held-out IoU; 0: no limit.")
@click.option("--validation", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2, help="Share of images held out.")
@click.option("--crop", type=click.FloatRange(0.05, 1), default=0.5, help="The least share of an image's area that a random crop keeps.")
@click.option("--colour", type=click.FloatRange(0, 1), default=0.2, help="Strength of random colour changes.")
@click.option("--flip/--no-flip", default=True, help="Mirror images at random.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The seed of new weights, order and augmentation.")
@click.option("--mixed-precision", type=click.Choice(["auto", "on", "off"]), default="auto", help="auto: only on a GPU.")
@click.option("--deterministic/--no-deterministic", default=True, help="Give the same result in every run; a little slower.")
@click.option("--input-size", type=click.IntRange(32, 1024), default=256, help="Side of the network's input, pixels; originally 256.")
@click.option("--scenes", type=click.IntRange(min=4), default=DEMO_SCENES, help="The number of scenes that --demo trains on.")
def main(
    images: Path | None,
    masks: Path | None,
    demo: bool,
    out: Path,
    network: str | None,
    encoder_weights: Path | None,
    init: Path | None,
    train_encoder: bool,
    encoder_batchnorm: Literal["original", "frozen"],
    epochs: int | None,
    batch: int | None,
    learning_rate: float | None,
    patience: int,
    validation: float,
    crop: float,
    colour: float,
    flip: bool,
    seed: int,
    mixed_precision: str,
    deterministic: bool,
    input_size: int,
    scenes: int,
) -> None:
    """Train the network and write OUT/checkpoint.hdf5, from which build_engine.py makes a graph."""
    from .quiet import quiet_tensorflow

    learn_from, held_out, data = _sources(images, masks, demo, scenes, validation)
    quiet_tensorflow(gpu=True)
    spec = DEMO_NETWORK if demo and network is None else PRESETS[network or "seresnet152"]
    recipe = Recipe(
        network=dataclasses.replace(spec, input_size=input_size),
        train_encoder=train_encoder or demo,
        encoder_batchnorm=encoder_batchnorm,
        epochs=epochs or (5 if demo else 60),
        batch=batch or (4 if demo else 8),
        learning_rate=learning_rate or (2e-3 if demo else 1e-3),
        schedule="cosine" if demo else "constant",
        seed=seed,
        # Scenes already vary in light and position.
        augmentation=Augmentation(flip=flip, crop=1.0, colour=0.0) if demo else Augmentation(flip=flip, crop=crop, colour=colour),
        patience=patience,
        mixed_precision=_precision(mixed_precision),
        deterministic=deterministic,
    )
    command = " ".join(["python -m engine.train", *sys.argv[1:]])
    progress = train(recipe, learn_from, held_out, out, Start(init, encoder_weights), data, command)
    best = progress.rows[progress.best_epoch - 1]
    click.echo(f"best: epoch {progress.best_epoch}, held-out IoU {best['val_iou']:.4f}: {out / runs.CHECKPOINT}")
    click.echo(f"make its graph:  python build_engine.py --checkpoint {out / runs.CHECKPOINT} --out {out}")


def run() -> None:
    """Run the command; report an expected error as one message on stderr and exit with its code."""
    try:
        main(standalone_mode=False)
    except SesegError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("stopped; the same command resumes from the last saved state", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(1)


if __name__ == "__main__":
    run()
