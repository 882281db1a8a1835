"""Record the names in TensorRT's Python bindings, without TensorRT: ``python tests/record_tensorrt_api.py WHEEL...``.

The words ``cuda-bindings`` and ``pycuda`` record these two, which must be importable (pycuda with a driver, or with any
libcuda.so.1 that defines what it wants).

The bindings' wheels are on PyPI; the libraries beside them come from NVIDIA's own index. A binding module defines
all its classes when it is imported, and calls nothing of the libraries for that: so it imports beside empty shared
objects that carry the libraries' names and define the symbols it wants. What is written,
``tests/data/tensorrt_api/PACKAGE-VERSION.json``, holds names alone: of the module's attributes, and of the
attributes of its classes.

No constructor of a class that reaches into the libraries may be called in such a process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "data" / "tensorrt_api"

NAMES_OF_MODULE = """
import json, sys
import {module} as trt
api = {{"version": trt.__version__, "module": [], "classes": {{}}}}
for name in sorted(dir(trt)):
    if name.startswith("_"):
        continue
    api["module"].append(name)
    value = getattr(trt, name)
    if isinstance(value, type):
        api["classes"][name] = sorted(n for n in dir(value) if not n.startswith("_"))
json.dump(api, sys.stdout)
"""


def _needed(library: Path) -> list[str]:
    text = subprocess.run(["readelf", "-d", str(library)], check=True, capture_output=True, text=True).stdout
    names = re.findall(r"NEEDED\)\s+Shared library: \[(.+?)\]", text)
    return [n for n in names if n.startswith(("libnv", "libtensorrt"))]


def _undefined(library: Path) -> list[str]:
    text = subprocess.run(["nm", "-D", "--undefined-only", str(library)], check=True, capture_output=True, text=True).stdout
    names = [line.split()[-1] for line in text.splitlines() if " U " in line]
    return [n for n in names if "@" not in n and not n.startswith(("Py", "_Py", "_Z"))]


def record(wheel: Path) -> Path:
    """Write the names that a bindings wheel defines; return the file."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        library = next(Path(folder).glob("*_bindings/tensorrt*.so"))
        stubs = Path(folder) / "stubs"
        stubs.mkdir()
        # The C library's own (dlopen and the like) are undefined without a version too in some builds; defining
        # them again would break the process.
        source = "".join(f"void {n}(void) {{}}\n" for n in _undefined(library) if not n.startswith("dl"))
        for position, name in enumerate(_needed(library)):
            text = source if position == 0 else ""
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(stubs / name), "-x", "c", "-"]
            subprocess.run(command, input=text, text=True, check=True)
        names = subprocess.run(
            [sys.executable, "-c", NAMES_OF_MODULE.format(module=library.parent.name)],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": folder, "LD_LIBRARY_PATH": str(stubs)},
        ).stdout
    return _write(library.parent.name.removesuffix("_bindings"), json.loads(names))


def record_installed(distribution: str, module: str) -> Path:
    """Write the names of the driver API in an installed package."""
    driver = importlib.import_module(module)
    api: dict[str, Any] = {"version": importlib.metadata.version(distribution), "classes": {}}
    # cuda-bindings also has each enumerator of C at the module's level: thousands of names that nobody should use.
    api["module"] = sorted(n for n in dir(driver) if not n.startswith(("_", "CU_", "CUDA_")))
    for name in api["module"]:
        value = getattr(driver, name)
        if isinstance(value, type):
            api["classes"][name] = sorted(n for n in dir(value) if not n.startswith("_"))
    return _write(distribution.replace("-", "_"), api)


def _write(package: str, api: dict[str, Any]) -> Path:
    OUT.mkdir(parents=True, exist_ok=True)
    out = OUT / f"{package}-{api['version']}.json"
    out.write_text(json.dumps(api, indent=0, sort_keys=True) + "\n")
    return out


INSTALLED = {"cuda-bindings": "cuda.bindings.driver", "pycuda": "pycuda.driver"}

if __name__ == "__main__":
    for argument in sys.argv[1:]:
        module = INSTALLED.get(argument)
        sys.stdout.write(f"{record_installed(argument, module) if module else record(Path(argument))}\n")
