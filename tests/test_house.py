"""The house as docs/architecture.md draws it: who may import whom, how long a file may be, and what is loaded late."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 365
FOLDERS = ("seseg_trt", "engine", "benchmarks")

# The floors, the lowest first. A module belongs to the longest name here that it begins with.
FLOORS = (
    ("seseg_trt.errors", "seseg_trt.cores", "seseg_trt.native"),
    ("seseg_trt.options", "seseg_trt.storage", "seseg_trt.cuda"),
    ("seseg_trt.inputs", "seseg_trt.models", "seseg_trt.codecs", "seseg_trt.masks"),
    ("seseg_trt.journal", "seseg_trt.backends"),
    ("seseg_trt.outputs", "seseg_trt.lanes"),
    ("seseg_trt.run",),
    ("seseg_trt.workers",),
    ("seseg_trt.files", "seseg_trt.segmenter"),
    ("seseg_trt.quality", "seseg_trt.doctor"),
    ("seseg_trt.reports", "engine"),
    ("seseg_trt.cli", "seseg_trt.__main__", "engine.build_images", "build_engine", "benchmarks"),
)
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
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
    for path in [ROOT / "build_engine.py", *(p for folder in FOLDERS for p in ROOT.glob(f"{folder}/**/*.py"))]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _room(module: str) -> str:
    while module not in ROOMS:
        module = module.rpartition(".")[0]
    return module


def _imports(module: str, path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Yield each imported module of this project or of others, with its statement."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = package
            for _ in range(node.level - 1):
                base = base.rpartition(".")[0]
            source = ".".join(filter(None, [base if node.level else "", node.module]))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES else source, node


def _graph() -> dict[str, set[str]]:
    """Return what each module imports, wherever in the file, for type checkers too. The package's face may name any floor."""
    return {
        module: {name for name, _ in _imports(module, path) if name in MODULES and name != module} - FACE
        for module, path in MODULES.items()
        if module not in FACE
    }


GRAPH = _graph()


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_file_imports_from_its_own_floor_or_those_below(module: str) -> None:
    above = {name for name in GRAPH[module] if ROOMS[_room(name)] > ROOMS[_room(module)]}
    assert not above, f"{module} imports from floors above {_room(module)}: {above}"


def test_no_modules_import_one_another_in_a_circle() -> None:
    _refuse_circles(GRAPH)


def test_no_rooms_import_one_another_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, names in GRAPH.items():
        rooms[_room(module)] |= {_room(name) for name in names} - {_room(module)}
    _refuse_circles(rooms)


def _refuse_circles(graph: dict[str, set[str]]) -> None:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" > ".join(reversed(error.args[1])))


def test_seseg_trt_never_imports_engine() -> None:
    guilty = {
        module
        for module, path in MODULES.items()
        if module.startswith("seseg_trt")
        for name, _ in _imports(module, path)
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
    sorted(p.relative_to(ROOT).as_posix() for folder in FOLDERS for p in ROOT.glob(f"{folder}/**/*.py")),
)
def test_no_file_is_much_over_350_lines(path: str) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_drawing_names_every_room() -> None:
    drawing = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for module in MODULES:
        parts = module.split(".")
        if parts[0] == "seseg_trt" and module not in FACE and not parts[-1].startswith("__"):
            assert parts[1] in drawing and parts[-1] in drawing, module
