"""Load or compile the machine code of the CUDA kernels.

The package ships a fatbin for every GPU since Turing. ``make kernels`` (``python -m seseg_trt.masks.kernel_binary``) compiles it with the
CUDA toolkit's nvcc and records the hash of the sources beside it. A fatbin whose hash does not match the sources is never loaded; the
kernels are then compiled for the present GPU by NVRTC (``pip install nvidia-cuda-nvrtc``) or nvcc.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ..errors import DeviceError

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "kernels.cu"
NATIVE = FOLDER.parent / "native"
HEADERS = (NATIVE / "compositing.h", FOLDER / "bodies.h", FOLDER / "fused.h")
FATBIN = FOLDER / "kernels.fatbin"
RECORD = FOLDER / "kernels.json"

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
PTX = "90"
"""The PTX version in the fatbin. The driver compiles it for GPUs without machine code here: Jetson Thor and future GPUs."""

OPTIONS = ("--std=c++17",)
_MAKE = "make kernels (needs the CUDA toolkit's nvcc), or pip install nvidia-cuda-nvrtc"


def sources_sha256() -> str:
    """Return the SHA-256 (hex) of the kernels' sources."""
    hasher = hashlib.sha256()
    for path in (SOURCE, *HEADERS):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()


def find_nvcc() -> str | None:
    """Return the path of the CUDA toolkit's compiler nvcc, or None if it is not installed."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def compile_fatbin(out: Path = FATBIN, architectures: tuple[str, ...] = ARCHITECTURES, ptx: str | None = PTX) -> None:
    """Compile the kernels with nvcc. For the package's own fatbin, also record the hash of the sources.

    Args:
        out: the fatbin to write.
        architectures: compute capabilities to make machine code for, without the dot.
        ptx: the compute capability to make PTX for, or None.

    Raises:
        DeviceError: nvcc is not installed, or it failed.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise DeviceError("there is no CUDA compiler: nvcc is not on PATH", "install the CUDA toolkit, 13.0 or later")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    if ptx is not None:
        targets.append(f"-gencode=arch=compute_{ptx},code=compute_{ptx}")
    command = [nvcc, "-fatbin", "-O3", "--compress-mode=size", *OPTIONS, "-Werror", "all-warnings", *targets]
    _run([*command, f"-I{NATIVE}", "-o", str(out), str(SOURCE)])
    if out == FATBIN:
        version = _run([nvcc, "--version"]).strip().splitlines()[-1]
        record = {"sources_sha256": sources_sha256(), "compiler": version, "architectures": architectures, "ptx": ptx}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"nvcc could not compile the kernels:\n{done.stdout}{done.stderr}", "CUDA 13.0 or later is needed")
    return done.stdout


def load_binary(capability: tuple[int, int]) -> bytes:
    """Return the kernels' machine code for a GPU: the package's fatbin if it is current, else a freshly compiled binary.

    Args:
        capability: the GPU's compute capability, such as (9, 0).

    Raises:
        DeviceError: the GPU is too old, or there is neither a current fatbin nor a compiler.
    """
    architecture = f"{capability[0]}{capability[1]}"
    if capability < (7, 5):
        raise DeviceError(f"a GPU of compute capability {capability[0]}.{capability[1]} is too old: 7.5 is needed", "use --device cpu")
    if FATBIN.exists() and is_current():
        return FATBIN.read_bytes()
    if nvrtc_library() is not None:
        return compile_with_nvrtc(architecture)
    if find_nvcc() is not None:
        with tempfile.TemporaryDirectory() as folder:
            compile_fatbin(Path(folder, "kernels.fatbin"), (architecture,), None)
            return Path(folder, "kernels.fatbin").read_bytes()
    raise DeviceError("the kernels' fatbin is missing or was made of other sources", _MAKE)


def is_current() -> bool:
    """Return whether the package's fatbin was compiled from the present sources."""
    try:
        recorded = json.loads(RECORD.read_text())["sources_sha256"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(recorded == sources_sha256())


# ---------------------------------------------------------------------------------------------------------------------------- NVRTC


@functools.cache
def nvrtc_library() -> Any:
    """Load NVRTC from its wheel or from the system; return None if it is not installed."""
    candidates = []
    for package in ("nvidia.cu13", "nvidia.cuda_nvrtc"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in (spec.submodule_search_locations or []) if spec else []:
            candidates += sorted(str(p) for p in Path(folder, "lib").glob("libnvrtc.so.*"))
    for name in (*candidates, "libnvrtc.so.13", "libnvrtc.so"):
        try:
            # NVRTC loads this library by its bare name without looking in its own folder, so load it first.
            for builtins in sorted(Path(name).parent.glob("libnvrtc-builtins.so.*")) if "/" in name else []:
                ctypes.CDLL(str(builtins))
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    return None


def compile_with_nvrtc(architecture: str, kind: str = "CUBIN") -> bytes:
    """Compile the kernels with NVRTC, which needs neither a CUDA toolkit nor a GPU.

    Args:
        architecture: a compute capability without the dot, such as ``90``.
        kind: ``CUBIN`` for machine code, ``PTX`` for PTX.

    Raises:
        DeviceError: NVRTC is not installed, or it failed.
    """
    nvrtc = nvrtc_library()
    if nvrtc is None:
        raise DeviceError("NVRTC is not installed", "pip install nvidia-cuda-nvrtc")
    program = ctypes.c_void_p()
    _checked(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), SOURCE.name.encode(), 0, None, None))
    try:
        prefix = "sm" if kind == "CUBIN" else "compute"
        options = [o.encode() for o in (f"--gpu-architecture={prefix}_{architecture}", *OPTIONS, f"-I{FOLDER}", f"-I{NATIVE}")]
        code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        _checked(nvrtc, code, lambda: _output(nvrtc, program, "ProgramLog").decode(errors="replace"))
        return _output(nvrtc, program, kind)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _output(nvrtc: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _checked(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _checked(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _checked(nvrtc: Any, code: int, log: Any = None) -> None:
    if code:
        said = nvrtc.nvrtcGetErrorString(code).decode()
        raise DeviceError(f"NVRTC failed: {said}\n{log() if log else ''}".rstrip(), _MAKE)


if __name__ == "__main__":
    compile_fatbin()
