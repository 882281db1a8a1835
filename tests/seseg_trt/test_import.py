"""Importing the package costs next to nothing, whatever is installed; the public face is what `__all__` says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

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
    "pyarrow",
    "fsspec",
    "s3fs",
)


def _loaded_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_loads_no_heavy_library() -> None:
    assert not _loaded_by("import seseg_trt") & {*HEAVY, "numpy", "click"}


def test_the_help_loads_no_heavy_library() -> None:
    loaded = _loaded_by("from seseg_trt.cli.main import group, run\nassert run(group, ['--help']) == 0")
    assert not loaded & {*HEAVY, "numpy"}


def test_the_library_writes_nothing_to_standard_error_by_itself() -> None:
    script = "import logging, seseg_trt.backends.select as s; s.log.warning('said'); logging.basicConfig(); s.log.warning('asked for')"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == "WARNING:seseg_trt.backends.select:asked for\n" and result.stdout == ""


def test_the_library_has_no_word_for_a_terminal() -> None:
    package = Path(seseg_trt.__file__).parent
    words = re.compile(r"sys\.std(out|err)|\bprint\(|click\.|tqdm|warnings\.warn|\bstd::c(out|err)|printf\(")
    sources = [path for kind in ("py", "cpp", "h", "cu") for path in package.rglob(f"*.{kind}") if path.parent.name != "cli"]
    assert len(sources) > 80
    assert not [path for path in sources if words.search(path.read_text(encoding="utf-8"))]


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
            "RunObserver",
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
