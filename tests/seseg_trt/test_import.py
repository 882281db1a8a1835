"""Importing the package costs next to nothing, whatever is installed; the public face is what `__all__` says."""

from __future__ import annotations

import json
import subprocess
import sys

import seseg_trt

HEAVY = (
    "openvino",
    "onnxruntime",
    "onnx",
    "tensorflow",
    "keras",
    "PIL",
    "tensorrt",
    "tensorrt_rtx_bindings",
    "pycuda",
    "nvidia",
    "torch",
    "cuda",
)


def _loaded_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_loads_no_heavy_library() -> None:
    assert not _loaded_by("import seseg_trt") & {*HEAVY, "numpy", "click"}


def test_the_help_loads_no_heavy_library() -> None:
    loaded = _loaded_by("from seseg_trt.cli import group, run\nassert run(group, ['--help']) == 0")
    assert not loaded & {*HEAVY, "numpy"}


def test_every_public_name_is_there_and_documented() -> None:
    for name in seseg_trt.__all__:
        assert getattr(seseg_trt, name).__doc__, name


def test_the_public_names_are_these() -> None:
    assert sorted(seseg_trt.__all__) == sorted(
        [
            "Segmenter",
            "segment_files",
            "MaskOptions",
            "DecodeOptions",
            "EncodeOptions",
            "RunOptions",
            "Watch",
            "Summary",
            "Backend",
            "FakeBackend",
            "SesegError",
            "UsageError",
            "BadImage",
            "ModelError",
            "CheckpointError",
            "DeviceError",
            "GateError",
            "StoppedError",
        ]
    )
    assert set(dir(seseg_trt)) >= set(seseg_trt.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    try:
        seseg_trt.nothing_of_the_kind  # noqa: B018
    except AttributeError as error:
        assert "nothing_of_the_kind" in str(error)
    else:
        raise AssertionError("no error")
