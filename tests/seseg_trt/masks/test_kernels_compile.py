"""Test that the kernels compile for every GPU, that the dtypes match the compiled structs, and that the fatbin is current."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest

from seseg_trt.errors import DeviceError
from seseg_trt.masks import kernel_binary, records
from seseg_trt.masks.kernel_binary import ARCHITECTURES
from seseg_trt.masks.launches import plan_composite

from .kernel_host import Host

KERNELS = (
    "seseg_weights",
    "seseg_stretch",
    "seseg_shrink",
    "seseg_pack_bits",
    "seseg_opacity_fixed",
    "seseg_opacity_random",
    "seseg_threshold_fixed",
    "seseg_threshold_random",
    "seseg_indices",
    "seseg_sample",
)
ELF = b"\x7fELF"

needs_nvcc = pytest.mark.skipif(kernel_binary.find_nvcc() is None, reason="nvcc is not on PATH: NVRTC compiles the same sources, below")


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_makes_machine_code_and_ptx(tmp_path: Path, architecture: str) -> None:
    out = tmp_path / "one.fatbin"
    kernel_binary.compile_fatbin(out, (architecture,), architecture)
    assert out.stat().st_size > 10_000


@pytest.mark.nvrtc
@pytest.mark.parametrize("architecture", ["75", "90", "120"] if kernel_binary.find_nvcc() else ARCHITECTURES)
def test_nvrtc_makes_machine_code_and_ptx(architecture: str) -> None:
    cubin = kernel_binary.compile_with_nvrtc(architecture)
    assert cubin.startswith(ELF)
    ptx = kernel_binary.compile_with_nvrtc(architecture, "PTX").decode()
    for name in KERNELS:
        assert name.encode() in cubin
        assert f".entry {name}(" in ptx
    # Pillow rounds its doubles after each operation; a fused multiply-add could change a weight.
    assert "fma.rn.f64" not in ptx
    assert ".local" not in ptx
    if int(architecture) >= 80:
        assert "cp.async.cg.shared.global" in ptx
    assert "st.global.cs.v4" in ptx


@pytest.mark.nvrtc
def test_nvrtc_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="NVRTC failed"):
        kernel_binary.compile_with_nvrtc("12")
    monkeypatch.setattr(kernel_binary, "OPTIONS", ("--std=c++17", "-DQuad=int"))
    with pytest.raises(DeviceError, match="error"):
        kernel_binary.compile_with_nvrtc("90")


def test_the_fatbin_was_made_of_these_sources() -> None:
    assert kernel_binary.is_current(), "run: make kernels"
    recorded = json.loads(kernel_binary.RECORD.read_text())
    assert tuple(recorded["architectures"]) == ARCHITECTURES
    assert recorded["ptx"] == kernel_binary.PTX
    assert kernel_binary.FATBIN.stat().st_size < 1_000_000


def test_a_stale_fatbin_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_binary.load_binary((9, 0)) == kernel_binary.FATBIN.read_bytes()
    record = tmp_path / "kernels.json"
    record.write_text('{"sources_sha256": "of others"}')
    monkeypatch.setattr(kernel_binary, "RECORD", record)
    monkeypatch.setattr(kernel_binary, "nvrtc_library", lambda: None)
    monkeypatch.setattr(kernel_binary, "find_nvcc", lambda: None)
    with pytest.raises(DeviceError, match="made of other sources"):
        kernel_binary.load_binary((9, 0))
    with pytest.raises(DeviceError, match="too old"):
        kernel_binary.load_binary((7, 0))
    with pytest.raises(DeviceError, match="no CUDA compiler"):
        kernel_binary.compile_fatbin(tmp_path / "never.fatbin")


@needs_nvcc
def test_without_a_fatbin_the_kernels_are_compiled_for_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_binary, "FATBIN", tmp_path / "missing.fatbin")
    monkeypatch.setattr(kernel_binary, "nvrtc_library", lambda: None)
    assert len(kernel_binary.load_binary((8, 9))) > 10_000


def test_records_are_laid_out_as_the_compiler_lays_them_out(host: Host) -> None:
    library = host.library
    for which, (name, dtype) in enumerate(
        [("image", records.IMAGE), ("batch", records.BATCH), ("source", records.SOURCE), ("sampling", records.SAMPLING)]
    ):
        assert library.size_of(which) == dtype.itemsize, name
        out = np.empty(len(dtype.names or ()), np.uint32)
        getattr(library, f"{name}_offsets")(ctypes.c_void_p(out.ctypes.data))
        assert out.tolist() == [dtype.fields[field][1] for field in dtype.names], name  # type: ignore[index]
    # An entry of the columns table has 16 bytes, and the fused kernel's shared memory is the plan's.
    assert library.size_of(4) == 16
    image = records.DeviceImage(width=64, height=64, map=256, source=512, se=1024)
    for images, scratch in (([image], 0), ([image, records.DeviceImage(width=64, height=64, map=256, source=512, se=1, nse=2)], 1)):
        launch = plan_composite(images, 256, None, (1, 2, 3)).launches[-1]
        assert launch.shared == records.WARPS * library.warp_shared_bytes(scratch)
        assert launch.shared <= 48 * 1024, "more needs an attribute of the function"


def test_constants_are_those_of_the_headers() -> None:
    text = "".join(path.read_text() for path in kernel_binary.HEADERS)
    for line in (
        f"constexpr u32 WARPS = {records.WARPS};",
        f"constexpr u32 RUN = {records.RUN};",
        f"constexpr u32 STRIP = {records.STRIP};",
        "constexpr u32 TABLE = 32 * WARPS;",
        "constexpr i32 NEVER = 3 << 29;",
        "constexpr i32 PRECISION_BITS = 32 - 8 - 2;",
    ):
        assert line in text, line
