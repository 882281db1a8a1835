"""The house as docs/architecture.md draws it: who may import whom, how long a file may be, and what is loaded late."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 365

# The longest prefix that fits a module says its floor.
FLOORS = {
    "seseg_trt.errors": 1,
    "seseg_trt": 2,
    "seseg_trt.backends": 3,
    "seseg_trt.codecs": 3,
    "seseg_trt.masks": 3,
    "seseg_trt.certificate": 3,
    "engine": 3,
    "engine.build_images": 8,
    "seseg_trt.lanes": 4,
    "seseg_trt.run": 5,
    "seseg_trt.device_images": 5,
    "seseg_trt.run_options": 6,
    "seseg_trt.files": 6,
    "seseg_trt.segmenter": 6,
    "seseg_trt.verify": 7,
    "seseg_trt.evaluate": 7,
    "seseg_trt.quality": 7,
    "seseg_trt.doctor": 7,
    "seseg_trt.cli": 8,
    "seseg_trt.__main__": 8,
    "seseg_trt.commands": 8,
    "seseg_trt.console": 8,
}
FACE = {"seseg_trt"}  # the package's own __init__ names the public things of every floor, and loads them when they are used
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
    "cuda",
    "nvidia",
    "pyarrow",
    "fsspec",
)


def _modules() -> dict[str, Path]:
    found = {}
    for path in [*ROOT.glob("seseg_trt/**/*.py"), *ROOT.glob("engine/**/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _floor(module: str) -> int:
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS[module]


def _imports(module: str, path: Path) -> Iterator[tuple[str, ast.stmt, bool]]:
    """Yield each imported module of this project or of others, the statement, and whether it is for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node, node in typing_only
        elif isinstance(node, ast.ImportFrom):
            base = package
            for _ in range(node.level - 1):
                base = base.rpartition(".")[0]
            source = ".".join(filter(None, [base if node.level else "", node.module]))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES else source, node, node in typing_only


@pytest.mark.parametrize("module", sorted(set(MODULES) - FACE))
def test_a_file_imports_from_its_own_floor_or_those_below(module: str) -> None:
    above = {
        name
        for name, _, typing_only in _imports(module, MODULES[module])
        if name in MODULES and name not in FACE and not typing_only and _floor(name) > _floor(module)
    }
    assert not above, f"{module} (floor {_floor(module)}) imports {above}"


def test_seseg_trt_never_imports_engine() -> None:
    guilty = {
        module
        for module, path in MODULES.items()
        if module.startswith("seseg_trt")
        for name, _, _ in _imports(module, path)
        if name.startswith("engine")
    }
    assert not guilty


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("seseg_trt")))
def test_heavy_libraries_are_imported_late(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_the_top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in at_the_top if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert not {name for name in names if name.partition(".")[0] in HEAVY}


@pytest.mark.parametrize(
    "path",
    sorted(
        p.relative_to(ROOT).as_posix()
        for folder in ("seseg_trt", "engine", "benchmarks")
        for p in ROOT.glob(f"{folder}/**/*.py")
        if "/." not in p.as_posix()
    ),
)
def test_no_file_is_much_over_350_lines(path: str) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_drawing_names_every_room() -> None:
    drawing = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for module in MODULES:
        parts = module.split(".")
        if parts[0] == "seseg_trt" and len(parts) == 2 and not parts[1].startswith("__"):
            assert parts[1] in drawing, module
