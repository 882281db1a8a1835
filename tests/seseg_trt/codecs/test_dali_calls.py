"""What DALI is asked for, seen by a stand-in for it: on the GPU too, which no test machine needs to have."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seseg_trt.codecs import dali as module
from seseg_trt.codecs.batches import BatchRefused
from seseg_trt.codecs.dali import HARDWARE_SHARE, DaliDecoder, DaliResampler, GpuImage, Spares
from seseg_trt.errors import DeviceError, install_hint


class GpuTensor:
    """A tensor on the GPU."""

    def __init__(self, data: Any) -> None:
        self.__cuda_array_interface__ = {"shape": [len(data), 2, 3], "data": (4096, False)}


class Library:
    """A stand-in for the module ``nvidia.dali`` that notes what it is asked for; a pipeline gives back what it was fed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fed: list[tuple[str, list[Any], Any, Any]] = []
        self.pipelines = 0
        self.fails_to_build: Exception | None = None
        self.fails_to_run: Exception | None = None
        self.types = SimpleNamespace(UINT8="uint8", RGB="rgb", INTERP_CUBIC="cubic", INTERP_LINEAR="linear")
        self.fn = SimpleNamespace(
            external_source=lambda **named: self._note("external_source", named),
            resize=lambda source, **named: self._note("resize", {"of": source, **named}),
            decoders=SimpleNamespace(image=lambda source, **named: self._note("image", {"of": source, **named})),
        )
        self.pipeline = SimpleNamespace(Pipeline=self._pipeline)

    def _note(self, name: str, named: dict[str, Any]) -> str:
        self.asked.append((name, named))
        return name

    def _pipeline(self, **named: Any) -> Any:
        library = self
        library._note("Pipeline", named)
        library.pipelines += 1
        on_gpu = named["device_id"] is not None

        class Pipeline:
            def __enter__(self) -> None:
                library._note("enter", {})

            def __exit__(self, *error: object) -> None:
                library._note("leave", {})

            def set_outputs(self, *outputs: Any) -> None:
                library._note("outputs", {"are": outputs})

            def build(self) -> None:
                if library.fails_to_build is not None:
                    raise library.fails_to_build

            def feed_input(self, name: str, images: list[Any], cuda_stream: Any) -> None:
                self.images = images
                library.fed.append((name, images, cuda_stream, self))

            def run(self, stream: Any) -> tuple[list[Any], ...]:
                assert stream == library.fed[-1][2]
                if library.fails_to_run is not None:
                    raise library.fails_to_run
                found = [GpuTensor(image) if on_gpu else np.array(image) for image in self.images]
                return ([*found, *(None for _ in range(named["batch_size"] - len(found)))], [])

        return Pipeline()

    def named(self, name: str) -> dict[str, Any]:
        (found,) = [named for asked, named in self.asked if asked == name]
        return found


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setattr(module, "import_late", lambda *arguments: found)
    return found


def test_on_the_cpu_the_bytes_are_not_copied(library: Library) -> None:
    DaliDecoder(6, 3)
    pipeline = {"batch_size": 6, "num_threads": 3, "device_id": None, "prefetch_queue_depth": 1, "exec_dynamic": True}
    assert library.named("Pipeline") == pipeline
    assert library.named("external_source") == {"name": "images", "ndim": 1, "dtype": "uint8", "no_copy": True}
    assert library.named("image") == {"of": "external_source", "device": "cpu", "output_type": "rgb", "adjust_orientation": True}
    assert library.named("outputs") == {"are": ("image",)}
    assert [name for name, _ in library.asked] == ["Pipeline", "enter", "external_source", "image", "outputs", "leave"]


def test_on_the_gpu_the_bytes_are_copied_and_chroma_is_upsampled_as_pillow_does(library: Library) -> None:
    DaliDecoder(6, device=0)
    assert library.named("Pipeline")["device_id"] == 0 and library.named("Pipeline")["num_threads"] == 1
    assert library.named("external_source") == {"name": "images", "ndim": 1, "dtype": "uint8", "no_copy": False}
    assert library.named("image") == {
        "of": "external_source",
        "device": "mixed",
        "output_type": "rgb",
        "adjust_orientation": True,
        "jpeg_fancy_upsampling": True,
        "hw_decoder_load": HARDWARE_SHARE,
    }
    assert 0 < HARDWARE_SHARE < 1


@pytest.mark.parametrize(("count", "pieces"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (6, [3, 3]), (7, [3, 3, 1])])
def test_a_large_batch_is_split(library: Library, count: int, pieces: list[int]) -> None:
    decoder = DaliDecoder(3)
    files = [bytes([number, 9]) for number in range(count)]
    found = decoder.decode(files, 5)
    assert [image.tolist() for image in found] == [list(data) for data in files]
    assert [len(images) for _, images, _, _ in library.fed] == pieces
    assert {(name, stream) for name, _, stream, _ in library.fed} <= {("images", 5)}
    assert all(image.dtype == np.uint8 for _, images, _, _ in library.fed for image in images)
    assert library.pipelines == 1


def test_images_of_the_gpu_stay_there(library: Library) -> None:
    found = DaliDecoder(2, device=1).decode([b"123", b"4"])
    assert all(isinstance(image, GpuImage) for image in found) and [image.shape for image in found] == [(3, 2, 3), (1, 2, 3)]
    assert [stream for _, _, stream, _ in library.fed] == [None]


def test_a_refusal_is_told_in_dalis_words_and_its_pipeline_is_not_used_again(library: Library) -> None:
    decoder = DaliDecoder(2)
    library.fails_to_run = error = RuntimeError("one of them is odd")
    with pytest.raises(BatchRefused, match="one of them is odd") as caught:
        decoder.decode([b"1"])
    assert caught.value.__cause__ is error
    library.fails_to_run = None
    assert library.pipelines == 1
    decoder.decode([b"1"])
    decoder.decode([b"1"])
    assert library.pipelines == 2 and library.fed[0][3] is not library.fed[1][3] is library.fed[2][3]
    library.fails_to_run = KeyError("ours")
    with pytest.raises(KeyError):
        decoder.decode([b"1"])


@pytest.mark.parametrize(("device", "where"), [(None, "the CPU"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_device_that_dali_cannot_use_is_told_at_once(library: Library, device: int | None, where: str) -> None:
    library.fails_to_build = error = RuntimeError("no driver\nStacktrace: ...")
    with pytest.raises(DeviceError) as caught:
        DaliDecoder(2, device=device)
    assert str(caught.value) == f"DALI can't start on {where}: no driver\n  --decoder pillow decodes without it"
    assert caught.value.__cause__ is error
    library.fails_to_build = KeyError("ours")
    with pytest.raises(KeyError):
        DaliDecoder(2, device=device)


def test_without_dali_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    for make in (lambda: DaliDecoder(2), lambda: DaliResampler(8, "cubic", 2)):
        with pytest.raises(DeviceError, match="NVIDIA DALI can't be imported: ") as caught:
            make()
        assert caught.value.hint == f"{install_hint('dali')}, or --decoder pillow"


@pytest.mark.parametrize(("device", "kind"), [(None, "cpu"), (0, "gpu")])
def test_a_filter_makes_squares_of_the_networks_size(library: Library, device: int | None, kind: str) -> None:
    resampler = DaliResampler(224, "cubic", 2, 3, device)
    assert library.pipelines == 0  # until the first image comes
    images = [np.full((4, 5, 3), number, np.uint8) for number in range(3)]
    found = resampler.resample(images, 7)
    assert len(found) == 3 and [len(fed) for _, fed, _, _ in library.fed] == [2, 1]
    assert library.named("Pipeline") == {
        "batch_size": 2,
        "num_threads": 3,
        "device_id": device,
        "prefetch_queue_depth": 1,
        "exec_dynamic": True,
    }
    source = {"name": "images", "ndim": 3, "dtype": "uint8", "layout": "HWC", "no_copy": True, "device": kind}
    assert library.named("external_source") == source
    assert library.named("resize") == {"of": "external_source", "size": (224, 224), "interp_type": "cubic"}


def test_a_filter_takes_one_thread_unless_more_are_asked_for(library: Library) -> None:
    DaliResampler(224, "linear", 2).resample([np.zeros((4, 5, 3), np.uint8)])
    assert library.named("Pipeline")["num_threads"] == 1


def test_a_filter_that_fails_is_the_devices_fault(library: Library) -> None:
    resampler = DaliResampler(8, "linear", 2)
    library.fails_to_run = error = RuntimeError("out of memory\nStacktrace: ...")
    with pytest.raises(DeviceError) as caught:
        resampler.resample([np.zeros((4, 5, 3), np.uint8)])
    assert str(caught.value) == "DALI failed to resample: out of memory" and caught.value.__cause__ is error
    library.fails_to_run = KeyError("ours")
    with pytest.raises(KeyError):
        resampler.resample([np.zeros((4, 5, 3), np.uint8)])


def test_spares_grow_to_the_largest_number_in_use_and_lose_what_broke() -> None:
    made: list[object] = []
    spares = Spares(lambda: (made.append(object()), made[-1])[1])
    with spares.one() as first, spares.one() as second:
        assert first is not second
    with spares.one(), spares.one():
        assert len(made) == 2
    with pytest.raises(ValueError, match="broken"), spares.one() as broken:
        raise ValueError("broken")
    with spares.one() as left, spares.one() as new:
        assert left is not broken and new is not broken and len(made) == 3
