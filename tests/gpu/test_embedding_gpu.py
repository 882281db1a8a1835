"""The examples of the pages (docs/embedding.md) that need a GPU, as they are written there."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..test_pages import PAGES, ROOT, blocks

pytestmark = pytest.mark.gpu


def _imported(body: str) -> list[str]:
    """Return the modules that an example imports."""
    found = []
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(str(node.module))
    return found


EXAMPLES = [(block.body, _imported(block.body)) for page in PAGES for block in blocks(page) if block.needs == "gpu"]


@pytest.mark.parametrize(("body", "modules"), EXAMPLES, ids=[", ".join(modules) for _, modules in EXAMPLES])
def test_an_example_runs(
    body: str, modules: list[str], need_runtime: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_runtime("tensorrt")
    for module in modules:
        pytest.importorskip(module)
    shutil.copy(ROOT / "seseg_trt/data/images/photo_rocket.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(body, "example", "exec"), {"__name__": "example"})
