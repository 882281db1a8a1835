"""Test loading a checkpoint into a Keras model through the reader process."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import checkpoint
from engine.architecture import keras2_order
from engine.network import PRESETS, NetworkSpec, is_encoder, plan_layers
from seseg_trt.errors import CheckpointError

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def reference(keras224: Path) -> dict[str, Any]:
    with np.load(keras224 / "reference.npz") as arrays:
        return dict(arrays)


def test_keras_gives_what_the_original_stack_gave(keras_model: Any, reference: dict[str, Any]) -> None:
    names = [name.removesuffix("__pred") for name in reference if name.endswith("__pred")]
    assert len(names) == 8
    images = np.stack([reference[f"{name}__input256"] for name in names]).astype(np.float32)
    expected = np.stack([reference[f"{name}__pred"] for name in names])
    difference = np.abs(np.asarray(keras_model(images, training=False))[..., 0] - expected)
    assert difference.max() < 2e-5  # measured: 4.4e-6


def test_the_process_apart_reads_what_this_one_reads(keras224: Path) -> None:
    from engine.reader import read_checkpoint

    ours, theirs = read_checkpoint(keras224 / "weights.h5"), checkpoint.read_apart(keras224 / "weights.h5")
    assert ours[1] == theirs[1]
    assert list(ours[0]) == list(theirs[0])
    assert all(np.array_equal(a, b) for name in ours[0] for a, b in zip(ours[0][name], theirs[0][name], strict=True))


def test_its_errors_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_checkpoint("x.hdf5")
    assert caught.value.message == "x.hdf5 is not an HDF5 file"
    assert "Keras 2" in caught.value.hint


@pytest.fixture
def instead_of_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a shell script run in place of the reader."""

    def install(script: str) -> None:
        path = tmp_path / "reader"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(checkpoint.sys, "executable", str(path))

    return install


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -SEGV $$", "its reader crashed with SIGSEGV"),
        ("kill -KILL $$", "its reader crashed with SIGKILL"),
        ("echo MemoryError >&2; exit 1", "its reader failed: MemoryError"),
        ("exit 3", "it said nothing"),
        ("echo nonsense", "its reader failed"),
    ],
)
def test_a_reader_that_dies_is_a_damaged_checkpoint(
    instead_of_the_reader: Callable[[str], None], keras224: Path, script: str, said: str
) -> None:
    instead_of_the_reader(script)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_apart(keras224 / "weights.h5")
    assert said in caught.value.message
    assert caught.value.hint


def test_a_reader_that_never_ends_is_ended(
    instead_of_the_reader: Callable[[str], None], keras224: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_the_reader("exec sleep 1000")
    monkeypatch.setattr(checkpoint, "TIMEOUT", 0.2)
    with pytest.raises(CheckpointError, match="was not read in"):
        checkpoint.read_apart(keras224 / "weights.h5")


@pytest.fixture(scope="module")
def encoder_file(keras224: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the encoder's weights of the fixture, in the form in which image-classifiers publishes ImageNet weights without the top."""
    import h5py

    order = keras2_order(plan_layers(PRESETS["seresnet20"]))
    path = tmp_path_factory.mktemp("encoder") / "encoder.h5"
    with h5py.File(keras224 / "weights.h5") as whole, h5py.File(path, "w") as part:
        names = whole.attrs["layer_names"]
        assert len(names) == len(order)
        kept = [name for name, layer in zip(names, order, strict=True) if is_encoder(layer.name)]
        for name in kept:
            whole.copy(whole[name], part, name)
        part.attrs["layer_names"] = kept
    return path


def test_an_encoder_is_loaded_alone(encoder_file: Path, keras_model: Any) -> None:
    from engine.network import build_unet

    model = build_unet(PRESETS["seresnet20"])
    before = {layer.name: layer.get_weights() for layer in model.layers}
    checkpoint.load_encoder_weights(model, encoder_file)
    for layer in model.layers:
        wanted = keras_model.get_layer(layer.name).get_weights() if is_encoder(layer.name) else before[layer.name]
        assert all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), wanted, strict=True)), layer.name


def test_the_weights_of_another_encoder_are_refused(encoder_file: Path, keras224: Path) -> None:
    from engine.network import build_unet

    deeper = build_unet(NetworkSpec((1, 2, 3, 1), 8, (4, 4, 4, 4, 4), input_size=32))
    with pytest.raises(CheckpointError, match="stage3_unit3_conv1"):
        checkpoint.load_encoder_weights(deeper, encoder_file)
    whole = build_unet(PRESETS["seresnet20"])
    with pytest.raises(CheckpointError, match=r"'decoder_stage0_conv1' .* one more than the network has"):
        checkpoint.load_encoder_weights(whole, keras224 / "weights.h5")
