"""Test that checkpoints are matched by structure, and that each damaged or hostile one gives one clear CheckpointError."""

from __future__ import annotations

import marshal
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.reader import read_checkpoint
from seseg_trt.errors import CheckpointError

from .checkpoints import Edit, refused, settings

pytestmark = pytest.mark.engine


class TestGoodFiles:
    def test_all_three_hold_the_same_weights(self, keras224: Path) -> None:
        names = ("checkpoint.hdf5", "checkpoint_tversion.hdf5", "weights.h5")
        read = [read_checkpoint(keras224 / name) for name in names]
        assert [info.kind for _, info in read] == ["model", "model", "weights"]
        assert {info.spec.name for _, info in read} == {"u-seresnet20"}
        assert {info.keras_version for _, info in read} == {"2.2.4"}
        first = read[0][0]
        assert sum(w.size for values in first.values() for w in values) == 248_131
        for weights, _ in read[1:]:
            assert list(weights) == list(first)
            for name, values in weights.items():
                assert all(np.array_equal(a, b) for a, b in zip(values, first[name], strict=True)), name

    @pytest.mark.parametrize("name", ["checkpoint.hdf5", "weights.h5"])
    def test_long_lists_of_names_may_be_split(self, edited: Callable[..., Path], name: str) -> None:
        def split(file: Any) -> None:
            root = file.get("model_weights", file)
            names = root.attrs["layer_names"]
            del root.attrs["layer_names"]
            for i, piece in enumerate(np.array_split(names, 3)):
                root.attrs[f"layer_names{i}"] = piece

        weights, _ = read_checkpoint(edited(name, split))
        assert len(weights) == 79

    def test_attributes_may_be_text_or_bytes(self, edited: Callable[..., Path]) -> None:
        def as_text(file: Any) -> None:
            import h5py

            root = file["model_weights"]
            names = [n.decode() for n in root.attrs["layer_names"]]
            root.attrs.create("layer_names", names, dtype=h5py.string_dtype())
            for name in names:
                weights = [n.decode() for n in root[name].attrs["weight_names"]] if len(root[name]) else []
                root[name].attrs.create("weight_names", weights, dtype=h5py.string_dtype(), shape=(len(weights),))
            file.attrs["model_config"] = np.bytes_(file.attrs["model_config"].encode()[:0] or b"{}")

        def as_bytes(file: Any) -> None:
            config = file.attrs["model_config"].encode()
            as_text(file)
            del file.attrs["model_config"]
            file.attrs.create("model_config", config, dtype=f"S{len(config)}") if len(config) < 64_000 else None

        path = edited("checkpoint.hdf5", as_bytes)  # without its architecture, the file is read as weights only
        weights, info = read_checkpoint(path)
        assert (info.kind, len(weights)) == ("weights", 79)

    def test_what_changes_no_prediction_is_not_minded(self, redescribed: Callable[[Edit], Path]) -> None:
        def edit(config: Any) -> None:
            conv = settings(config, "decoder_stage0_conv1")["config"]
            conv["kernel_regularizer"] = {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 1e-4}}
            conv["trainable"] = False
            del settings(config, "decoder_stage0_upsample")["config"]["interpolation"]
            settings(config, "input")["config"]["batch_input_shape"] = [None, 320, 320, 3]

        _, info = read_checkpoint(redescribed(edit))
        assert info.spec.input_size == 320

    def test_the_code_of_a_lambda_is_never_decoded(self, redescribed: Callable[[Edit], Path], monkeypatch: pytest.MonkeyPatch) -> None:
        def never(*_: Any) -> None:
            raise AssertionError("a checkpoint's code was decoded")

        monkeypatch.setattr(marshal, "loads", never)

        def edit(config: Any) -> None:
            settings(config, "lambda_1")["config"]["function"] = ["not base64 of marshalled code at all", None, None]

        weights, _ = read_checkpoint(redescribed(edit))
        assert len(weights) == 79


class TestWrongWeights:
    KERNEL = "conv2d_3/conv2d_3/kernel:0"

    @pytest.mark.parametrize("name", ["checkpoint.hdf5", "weights.h5"])
    def test_a_wrong_shape_names_the_layer_and_both_shapes(self, edited: Callable[..., Path], name: str) -> None:
        def edit(file: Any) -> None:
            root = file.get("model_weights", file)
            del root[self.KERNEL]
            root[self.KERNEL] = np.zeros((3, 3, 8, 9), np.float32)

        message = refused(edited(name, edit))
        assert "'conv2d_3'" in message
        assert "(3, 3, 8, 9)" in message
        assert "(3, 3, 8, 8)" in message

    @pytest.mark.parametrize("name", ["checkpoint.hdf5", "weights.h5"])
    def test_a_listed_layer_without_its_group(self, edited: Callable[..., Path], name: str) -> None:
        def edit(file: Any) -> None:
            del file.get("model_weights", file)["batch_normalization_7"]

        assert "'batch_normalization_7'" in refused(edited(name, edit))

    def test_a_layer_that_is_not_listed(self, edited: Callable[..., Path]) -> None:
        def edit(file: Any) -> None:
            names = file["model_weights"].attrs["layer_names"]
            file["model_weights"].attrs["layer_names"] = names[names != b"final_conv"]

        message = refused(edited("checkpoint.hdf5", edit))
        assert "'final_conv'" in message
        assert "missing" in message

    def test_weights_alone_that_end_early(self, edited: Callable[..., Path]) -> None:
        def edit(file: Any) -> None:
            names = file.attrs["layer_names"]
            file.attrs["layer_names"] = names[names != b"decoder_stage4_bn2"]

        message = refused(edited("weights.h5", edit))
        assert "decoder_stage4_bn2" in message

    def test_a_missing_layer_in_the_middle_of_weights_alone(self, edited: Callable[..., Path]) -> None:
        def edit(file: Any) -> None:
            names = file.attrs["layer_names"]
            file.attrs["layer_names"] = names[names != b"conv2d_16"]

        message = refused(edited("weights.h5", edit))
        assert "stage2_unit2_conv3" in message  # the position of the missing conv2d_16, where the next layer is found
        assert "(1, 1, 16, 64)" in message

    @pytest.mark.parametrize("name", ["checkpoint.hdf5", "weights.h5"])
    def test_a_layer_too_many(self, edited: Callable[..., Path], name: str) -> None:
        def edit(file: Any) -> None:
            root = file.get("model_weights", file)
            root["conv2d_99/kernel:0"] = np.zeros((1, 1, 4, 4), np.float32)
            root["conv2d_99"].attrs["weight_names"] = [b"kernel:0"]
            root.attrs["layer_names"] = np.append(root.attrs["layer_names"], b"conv2d_99")

        assert "'conv2d_99'" in refused(edited(name, edit))

    def test_a_layer_listed_twice(self, edited: Callable[..., Path]) -> None:
        def edit(file: Any) -> None:
            file.attrs["layer_names"] = np.append(file.attrs["layer_names"], b"final_conv")

        assert "'final_conv' twice" in refused(edited("weights.h5", edit))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_no_numbers(self, edited: Callable[..., Path], value: float) -> None:
        def edit(file: Any) -> None:
            file[self.KERNEL][0, 0, 0, 0] = value

        message = refused(edited("weights.h5", edit))
        assert "'conv2d_3'" in message
        assert "1 of 576" in message

    def test_a_negative_variance(self, edited: Callable[..., Path]) -> None:
        def edit(file: Any) -> None:
            file["batch_normalization_2/batch_normalization_2/moving_variance:0"][3] = -1

        assert "'batch_normalization_2' has a negative moving_variance" in refused(edited("weights.h5", edit))

    def test_swapped_tensors_of_one_shape_are_noticed_by_their_names(self, edited: Callable[..., Path]) -> None:
        def edit(file: Any) -> None:
            group = file["batch_normalization_2"]
            names = group.attrs["weight_names"]
            group.attrs["weight_names"] = names[[1, 0, 2, 3]]

        assert "'batch_normalization_2'" in refused(edited("weights.h5", edit))


class TestHostileFiles:
    KERNEL = TestWrongWeights.KERNEL

    def replace(self, edited: Callable[..., Path], make: Edit) -> str:
        def edit(file: Any) -> None:
            del file[self.KERNEL]
            make(file)

        message = refused(edited("weights.h5", edit))
        assert "'conv2d_3'" in message
        return message

    def test_an_external_link(self, edited: Callable[..., Path], keras224: Path) -> None:
        import h5py

        target = h5py.ExternalLink(str((keras224 / "weights.h5").absolute()), self.KERNEL)
        message = self.replace(edited, lambda file: file.__setitem__(self.KERNEL, target))
        assert "link to somewhere else" in message

    def test_a_soft_link(self, edited: Callable[..., Path]) -> None:
        import h5py

        link = h5py.SoftLink("/conv2d_9/conv2d_9/kernel:0")
        assert "link to somewhere else" in self.replace(edited, lambda file: file.__setitem__(self.KERNEL, link))

    def test_a_link_in_place_of_all_weights(self, edited: Callable[..., Path], keras224: Path) -> None:
        import h5py

        def edit(file: Any) -> None:
            del file["model_weights"]
            file["model_weights"] = h5py.ExternalLink(str((keras224 / "weights.h5").absolute()), "/")

        assert "'model_weights' is a link" in refused(edited("checkpoint.hdf5", edit))

    def test_numbers_in_another_file(self, edited: Callable[..., Path], tmp_path: Path) -> None:
        other = tmp_path / "secret.bin"
        other.write_bytes(b"\0" * 4 * 576)
        message = self.replace(
            edited, lambda file: file.create_dataset(self.KERNEL, (3, 3, 8, 8), "f4", external=[(str(other), 0, 4 * 576)])
        )
        assert "another file" in message

    def test_a_virtual_dataset(self, edited: Callable[..., Path], keras224: Path) -> None:
        import h5py

        layout = h5py.VirtualLayout((3, 3, 8, 8), "f4")
        layout[...] = h5py.VirtualSource(str((keras224 / "weights.h5").absolute()), self.KERNEL, (3, 3, 8, 8))
        assert "compressed or virtual" in self.replace(edited, lambda file: file.create_virtual_dataset(self.KERNEL, layout))

    def test_a_compressed_one_says_how_to_mend_it(self, edited: Callable[..., Path]) -> None:
        def edit(file: Any) -> None:
            del file[self.KERNEL]
            file.create_dataset(self.KERNEL, (3, 3, 8, 8), "f4", compression="gzip")

        with pytest.raises(CheckpointError, match="h5repack -f NONE"):
            read_checkpoint(edited("weights.h5", edit))

    def test_a_huge_one_that_is_not_there(self, edited: Callable[..., Path]) -> None:
        message = self.replace(edited, lambda file: file.create_dataset(self.KERNEL, (1 << 20, 1 << 20, 8, 8), "f4"))
        assert "no numbers" in message

    @pytest.mark.parametrize("kind", ["f2", "f8", "i4", "S4"])
    def test_another_type(self, edited: Callable[..., Path], kind: str) -> None:
        def make(file: Any) -> None:
            file[self.KERNEL] = np.zeros((3, 3, 8, 8), kind)

        assert "not float32" in self.replace(edited, make)

    @pytest.mark.parametrize("name", [b"../../conv2d_9/conv2d_9/kernel:0", b"/conv2d_9/conv2d_9/kernel:0", b""])
    def test_names_that_lead_elsewhere(self, edited: Callable[..., Path], name: bytes) -> None:
        def edit(file: Any) -> None:
            file["conv2d_3"].attrs["weight_names"] = np.array([name or b"\0"])

        assert "not the name of a tensor" in refused(edited("weights.h5", edit))

    def test_an_hdf5_file_of_something_else(self, tmp_path: Path) -> None:
        import h5py

        with h5py.File(tmp_path / "x.hdf5", "w") as file:
            file["data"] = np.arange(10)
        assert "no Keras weights" in refused(tmp_path / "x.hdf5")

    @pytest.mark.parametrize(
        ("content", "said"), [(b"", "is empty"), (b"\x89PNG\r\n\x1a\n123", "not an HDF5 file"), (b"\x89HDF\r\n\x1a\n", "damaged")]
    )
    def test_files_that_are_no_hdf5(self, tmp_path: Path, content: bytes, said: str) -> None:
        path = tmp_path / "x.hdf5"
        path.write_bytes(content)
        assert said in refused(path)

    def test_no_file_and_a_folder(self, tmp_path: Path) -> None:
        assert "no checkpoint" in refused(tmp_path / "nothing.hdf5")
        assert "is a folder" in refused(tmp_path)

    def fuzz(self, source: Path, tmp_path: Path, first: int, count: int) -> None:
        content = source.read_bytes()
        outcomes = set()
        for seed in range(first, first + count):
            path = tmp_path / f"{seed}.h5"
            path.write_bytes(damage(content, random.Random(seed)))
            try:
                read_checkpoint(path)
                outcomes.add("read")  # the damage is in a value, or in a part that is not read
            except CheckpointError as error:
                assert error.hint
                outcomes.add("refused")
            path.unlink()
        assert outcomes == {"read", "refused"}

    @pytest.mark.parametrize("name", ["checkpoint.hdf5", "weights.h5"])
    def test_damaged_files_are_read_or_refused(self, keras224: Path, tmp_path: Path, name: str) -> None:
        self.fuzz(keras224 / name, tmp_path, 0, 25)

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("name", ["checkpoint.hdf5", "weights.h5"])
    def test_thousands_of_damaged_files(self, keras224: Path, tmp_path: Path, name: str) -> None:
        self.fuzz(keras224 / name, tmp_path, 1000, 2000)


def damage(content: bytes, dice: random.Random) -> bytes:
    """Truncate a file, flip some of its bits, or copy a part of it over another."""
    kind = dice.random()
    if kind < 0.25:
        return content[: dice.randrange(len(content))]
    damaged = bytearray(content)
    if kind < 0.85:
        for _ in range(dice.choice([1, 2, 8, 64])):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    else:
        start, end, length = dice.randrange(len(damaged)), dice.randrange(len(damaged)), dice.randrange(1, 4096)
        damaged[end : end + length] = damaged[start : start + length]
    return bytes(damaged)
