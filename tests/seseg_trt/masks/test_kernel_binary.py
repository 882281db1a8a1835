"""Test how the kernels' machine code is found or compiled, with compilers that only note what they are told."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import runpy
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from seseg_trt.errors import DeviceError
from seseg_trt.masks import kernel_binary

SCRIPT = """#!/bin/sh
if [ "$1" = --version ]; then printf 'the compiler\\nBuild 13.0\\n\\n'; exit 0; fi
printf '%s\\n' "$@" > "{folder}/arguments"
while [ $# -gt 0 ]; do
    if [ "$1" = -o ]; then printf machine-code > "$2"; fi
    shift
done
echo said; echo complained >&2
exit {code}
"""


class Nvcc:
    """A compiler that notes its arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "nvcc"
        self.says(0)

    def says(self, code: int) -> None:
        self.path.write_text(SCRIPT.format(folder=self.folder, code=code))
        self.path.chmod(0o755)

    @property
    def arguments(self) -> list[str]:
        return (self.folder / "arguments").read_text().splitlines()


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nvcc:
    made = Nvcc(tmp_path)
    monkeypatch.setattr(kernel_binary, "find_nvcc", lambda: str(made.path))
    monkeypatch.setattr(kernel_binary, "FATBIN", tmp_path / "kernels.fatbin")
    monkeypatch.setattr(kernel_binary, "RECORD", tmp_path / "kernels.json")
    return made


def test_the_hash_covers_names_and_contents() -> None:
    folder = kernel_binary.FOLDER
    paths = [folder / "kernels.cu", folder.parent / "native" / "compositing.h", folder / "bodies.h", folder / "fused.h"]
    text = b"".join(path.name.encode() + b"\0" + path.read_bytes() + b"\0" for path in paths)
    assert kernel_binary.sources_sha256() == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    ("on_path", "in_cuda", "found"),
    [("/bin/nvcc", None, "/bin/nvcc"), (None, "/cuda/nvcc", "/cuda/nvcc"), ("/bin/nvcc", "/cuda/nvcc", "/bin/nvcc"), (None, None, None)],
)
def test_nvcc_is_looked_for_on_the_path_and_then_where_cuda_puts_it(
    on_path: str | None, in_cuda: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {("nvcc", None): on_path, ("nvcc", "/usr/local/cuda/bin"): in_cuda}
    monkeypatch.setattr(shutil, "which", lambda name, path=None: places[name, path])
    assert kernel_binary.find_nvcc() == found


def test_nvcc_is_told_the_architectures(nvcc: Nvcc, tmp_path: Path) -> None:
    for name in ("a.fatbin", "z.fatbin"):
        kernel_binary.compile_fatbin(tmp_path / name, ("75", "90"), "90")
        assert (tmp_path / name).read_bytes() == b"machine-code"
        assert not kernel_binary.RECORD.exists(), "only the package's own fatbin is recorded"
        assert nvcc.arguments == [
            *("-fatbin", "-O3", "--compress-mode=size", "--std=c++17", "-Werror", "all-warnings"),
            *("-gencode=arch=compute_75,code=sm_75", "-gencode=arch=compute_90,code=sm_90"),
            "-gencode=arch=compute_90,code=compute_90",
            *(f"-I{kernel_binary.NATIVE}", "-o", str(tmp_path / name), str(kernel_binary.SOURCE)),
        ]


def test_the_packages_fatbin_is_recorded(nvcc: Nvcc, tmp_path: Path) -> None:
    kernel_binary.compile_fatbin(Path(str(kernel_binary.FATBIN)))
    expected = {
        "sources_sha256": kernel_binary.sources_sha256(),
        "compiler": "Build 13.0",
        "architectures": ["75", "80", "86", "89", "90", "100", "120"],
        "ptx": "90",
    }
    assert kernel_binary.RECORD.read_text() == json.dumps(expected, indent=1) + "\n"
    assert kernel_binary.is_current()
    assert kernel_binary.load_binary((7, 5)) == b"machine-code"


def test_what_nvcc_said_is_told(nvcc: Nvcc, tmp_path: Path) -> None:
    nvcc.says(2)
    with pytest.raises(DeviceError, match=r"could not compile the kernels:\nsaid\ncomplained"):
        kernel_binary.compile_fatbin(tmp_path / "a.fatbin")


@pytest.mark.parametrize("text", [None, "no json", "{}", '{"sources_sha256": ""}', '{"sources_sha256": "g"}'])
def test_a_fatbin_without_a_record_of_these_sources_is_not_current(text: str | None, nvcc: Nvcc) -> None:
    if text is not None:
        kernel_binary.RECORD.write_text(text)
    assert kernel_binary.is_current() is False


def test_nvrtc_is_preferred_to_nvcc(nvcc: Nvcc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_binary, "nvrtc_library", object)
    monkeypatch.setattr(kernel_binary, "compile_with_nvrtc", lambda architecture: f"for {architecture}".encode())
    assert kernel_binary.load_binary((8, 9)) == b"for 89"
    assert kernel_binary.load_binary((12, 0)) == b"for 120"
    kernel_binary.FATBIN.write_bytes(b"stale")
    assert kernel_binary.load_binary((7, 5)) == b"for 75"
    kernel_binary.FATBIN.unlink()
    monkeypatch.setattr(kernel_binary, "is_current", lambda: True)
    assert kernel_binary.load_binary((9, 0)) == b"for 90"


def test_nvcc_compiles_for_the_one_gpu(nvcc: Nvcc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_binary, "nvrtc_library", lambda: None)
    assert kernel_binary.load_binary((8, 6)) == b"machine-code"
    assert [a for a in nvcc.arguments if a.startswith("-gencode")] == ["-gencode=arch=compute_86,code=sm_86"]
    assert not kernel_binary.RECORD.exists() and not kernel_binary.FATBIN.exists()


@pytest.mark.parametrize("capability", [(7, 4), (7, 0), (6, 9), (3, 5)])
def test_gpus_before_turing_are_too_old(capability: tuple[int, int]) -> None:
    with pytest.raises(DeviceError, match=rf"capability {capability[0]}\.{capability[1]} is too old: 7\.5 is needed"):
        kernel_binary.load_binary(capability)


def test_the_module_compiles_when_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.delitem(sys.modules, kernel_binary.__name__)
    with pytest.raises(DeviceError, match="no CUDA compiler"):
        runpy.run_module(kernel_binary.__name__, run_name="__main__")


class Libraries:
    """Shared libraries that can or can't be loaded, and the packages of wheels that hold some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[str] = []
        self.tried: list[str] = []
        self.broken: set[str] = set()
        self.packages: dict[str, Any] = {}
        monkeypatch.setattr(ctypes, "CDLL", self._load)
        monkeypatch.setattr(importlib.util, "find_spec", self._find)

    def _load(self, name: str) -> Any:
        self.tried.append(name)
        if name in self.broken or not ("/" in name or name in self.packages):
            raise OSError(name)
        self.loaded.append(name)
        return types.SimpleNamespace(name=name, nvrtcGetErrorString=types.SimpleNamespace(restype=None))

    def _find(self, name: str) -> Any:
        if name not in self.packages:
            raise ModuleNotFoundError(name)
        return self.packages[name]

    def wheel(self, package: str, folder: Path, *names: str) -> list[str]:
        (folder / "lib").mkdir(parents=True)
        for name in names:
            (folder / "lib" / name).touch()
        self.packages[package] = types.SimpleNamespace(submodule_search_locations=[str(folder)])
        return [str(folder / "lib" / name) for name in names]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Libraries:
    return Libraries(monkeypatch)


def search() -> Any:
    return kernel_binary.nvrtc_library.__wrapped__()


def test_without_nvrtc_there_is_none(libraries: Libraries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.packages |= {"nvidia.cu13": None, "nvidia.cuda_nvrtc": types.SimpleNamespace(submodule_search_locations=None)}
    (tmp_path / "libnvrtc-builtins.so.13.0").touch()
    monkeypatch.chdir(tmp_path)  # a library in the working folder is nobody's
    assert search() is None
    assert libraries.tried == ["libnvrtc.so.13", "libnvrtc.so"]


@pytest.mark.parametrize("package", ["nvidia.cu13", "nvidia.cuda_nvrtc"])
def test_nvrtc_of_a_wheel_is_loaded_after_its_builtins(package: str, libraries: Libraries, tmp_path: Path) -> None:
    paths = libraries.wheel(package, tmp_path, "libnvrtc-builtins.so.13.0", "libnvrtc.so.13")
    library = search()
    assert libraries.loaded == paths and library.name == paths[1]
    assert library.nvrtcGetErrorString.restype is ctypes.c_char_p


def test_nvrtc_of_the_system_is_the_last_resort(libraries: Libraries, tmp_path: Path) -> None:
    libraries.broken |= set(libraries.wheel("nvidia.cu13", tmp_path, "libnvrtc.so.13"))
    libraries.packages["libnvrtc.so"] = "of the system"
    assert search().name == "libnvrtc.so"
    libraries.broken.clear()
    assert search().name.endswith("/lib/libnvrtc.so.13")


class Nvrtc:
    """A fake of NVRTC's C functions: what it makes says for what it was made."""

    def __init__(self, create: int = 0, compiles: int = 0) -> None:
        self.create, self.compiles, self.alive = create, compiles, 0
        self.options: list[bytes] = []
        self.outputs = {"CUBIN": b"\x7fELF\0code\0", "PTX": b".version\0", "ProgramLog": b"line 1: \xff wrong\n\0"}
        for what, output in self.outputs.items():
            setattr(self, f"nvrtcGet{what}Size", lambda program, size, made=output: self._set(size, len(made)))
            setattr(self, f"nvrtcGet{what}", lambda program, buffer, made=output: setattr(buffer, "raw", made))

    @staticmethod
    def _set(place: Any, value: int) -> int:
        place._obj.value = value
        return 0

    def nvrtcCreateProgram(self, program: Any, source: bytes, name: bytes, count: int, headers: Any, names: Any) -> int:
        assert source == kernel_binary.SOURCE.read_bytes() and (name, count, headers, names) == (b"kernels.cu", 0, None, None)
        self.alive += self.create == 0
        self._set(program, 7)
        return self.create

    def nvrtcCompileProgram(self, program: Any, count: int, options: Any) -> int:
        self.options = list(options)
        assert count == len(self.options) and program.value == 7
        return self.compiles

    def nvrtcDestroyProgram(self, program: Any) -> int:
        self.alive -= 1
        return 0

    def nvrtcGetErrorString(self, code: int) -> bytes:
        return f"ERROR_{code}".encode()


@pytest.mark.parametrize(("kind", "prefix"), [("CUBIN", "sm"), ("".join(("CU", "BIN")), "sm"), ("PTX", "compute")])
def test_nvrtc_gives_all_bytes(kind: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nvrtc = Nvrtc()
    monkeypatch.setattr(kernel_binary, "nvrtc_library", lambda: nvrtc)
    assert kernel_binary.compile_with_nvrtc("90", kind) == nvrtc.outputs[kind]
    folders = [f"-I{folder}".encode() for folder in (kernel_binary.FOLDER, kernel_binary.NATIVE)]
    assert nvrtc.options == [f"--gpu-architecture={prefix}_90".encode(), b"--std=c++17", *folders]
    assert nvrtc.alive == 0
    assert kernel_binary.compile_with_nvrtc("90") == nvrtc.outputs["CUBIN"]


def test_what_nvrtc_said_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nvrtc: Nvrtc | None = Nvrtc(compiles=6)
    monkeypatch.setattr(kernel_binary, "nvrtc_library", lambda: nvrtc)
    with pytest.raises(DeviceError, match="NVRTC failed: ERROR_6\nline 1: \ufffd wrong"):
        kernel_binary.compile_with_nvrtc("90")
    assert nvrtc is not None and nvrtc.alive == 0
    nvrtc = Nvrtc(create=-1)
    with pytest.raises(DeviceError) as caught:
        kernel_binary.compile_with_nvrtc("90")
    assert caught.value.args[0] == "NVRTC failed: ERROR_-1" and nvrtc.alive == 0
    nvrtc = None
    with pytest.raises(DeviceError, match="NVRTC is not installed"):
        kernel_binary.compile_with_nvrtc("90")
