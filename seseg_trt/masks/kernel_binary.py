"""The kernels' machine code: the fatbin that the package brings, and the ways to make it.

``python -m seseg_trt.masks.kernel_binary`` compiles it (``make kernels``): with the CUDA toolkit's nvcc, for every GPU from Turing on.
Beside it lies a record of the sources' hash: a fatbin of other sources is never loaded. Where it can't serve, the kernels are compiled
for the one GPU, by NVRTC from its wheel (``pip install nvidia-cuda-nvrtc``) or by nvcc.
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
HEADERS = ("compositing.h", "bodies.h", "fused.h")
FATBIN = FOLDER / "kernels.fatbin"
RECORD = FOLDER / "kernels.json"

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
PTX = "90"
"""The PTX in the fatbin, which the driver compiles for GPUs that have no machine code here: Jetson Thor, and what comes."""

OPTIONS = ("--std=c++17",)
_MAKE = "make kernels (needs the CUDA toolkit's nvcc), or pip install nvidia-cuda-nvrtc"


def sources_sha256() -> str:
    """Return the SHA-256 (hex) of the kernels' sources."""
    hasher = hashlib.sha256()
    for path in (SOURCE, *(FOLDER / name for name in HEADERS)):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()


def find_nvcc() -> str | None:
    """Return the path of the CUDA toolkit's compiler, if it is there."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def compile_fatbin(out: Path = FATBIN, architectures: tuple[str, ...] = ARCHITECTURES, ptx: str | None = PTX) -> None:
    """Compile the kernels with nvcc and, for the package's own fatbin, record the sources' hash.

    Args:
        out: the fatbin to write.
        architectures: compute capabilities to make machine code for, without the dot.
        ptx: the compute capability to make PTX for, or None.

    Raises:
        DeviceError: there is no nvcc, or it failed.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise DeviceError("there is no CUDA compiler: nvcc is not on PATH", "install the CUDA toolkit, 13.0 or later")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    if ptx is not None:
        targets.append(f"-gencode=arch=compute_{ptx},code=compute_{ptx}")
    command = [nvcc, "-fatbin", "-O3", "--compress-mode=size", *OPTIONS, "-Werror", "all-warnings", *targets, "-o", str(out), str(SOURCE)]
    _run(command)
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
    """Return machine code for a GPU: the package's fatbin, or what is compiled now where that is missing or of other sources.

    Args:
        capability: the GPU's compute capability, such as (9, 0).

    Raises:
        DeviceError: the GPU is too old, or there is no fatbin and no compiler.
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
    """Whether the package's fatbin was made of the sources that lie beside it."""
    try:
        recorded = json.loads(RECORD.read_text())["sources_sha256"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(recorded == sources_sha256())


# ---------------------------------------------------------------------------------------------------------------------------- NVRTC


@functools.cache
def nvrtc_library() -> Any:
    """Return NVRTC, loaded from its wheel or from the system, or None."""
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
            # NVRTC opens this one by its bare name, and does not look beside itself.
            for builtins in sorted(Path(name).parent.glob("libnvrtc-builtins.so.*")) if "/" in name else []:
                ctypes.CDLL(str(builtins))
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    return None


def compile_with_nvrtc(architecture: str, kind: str = "CUBIN") -> bytes:
    """Compile the kernels with NVRTC, which needs neither a toolkit nor a GPU.

    Args:
        architecture: a compute capability without the dot, such as ``90``.
        kind: ``CUBIN`` for machine code, ``PTX`` for PTX.

    Raises:
        DeviceError: NVRTC is not there, or failed.
    """
    nvrtc = nvrtc_library()
    if nvrtc is None:
        raise DeviceError("NVRTC is not installed", "pip install nvidia-cuda-nvrtc")
    count = len(HEADERS)
    texts = (ctypes.c_char_p * count)(*((FOLDER / name).read_bytes() for name in HEADERS))
    names = (ctypes.c_char_p * count)(*(name.encode() for name in HEADERS))
    program = ctypes.c_void_p()
    source = SOURCE.read_bytes()
    _checked(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, SOURCE.name.encode(), count, texts, names))
    try:
        prefix = "sm" if kind == "CUBIN" else "compute"
        options = [o.encode() for o in (f"--gpu-architecture={prefix}_{architecture}", *OPTIONS)]
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
