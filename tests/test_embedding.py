"""Every example of docs/embedding.md is run as it is written there, where its library and a GPU are there; the first, everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seseg_trt import cache

PAGE = Path(__file__).parent.parent / "docs" / "embedding.md"
BLOCK = re.compile(r"^## (?P<title>[^\n]*)\n```python\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {match["title"]: match["body"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}
NEEDS = {"PyTorch": ("torch",), "CuPy": ("cupy",), "A DALI pipeline": ("torch", "nvidia.dali")}


def run(title: str) -> None:
    photograph = min(cache.demo_path().parent.glob("images/photo_*.jpg"))
    exec(compile(EXAMPLES[title], f"{PAGE.name}: {title}", "exec"), {"photograph": photograph, "__name__": "example"})


def test_the_page_has_the_examples() -> None:
    assert set(EXAMPLES) == {"NumPy, on any machine", *NEEDS}
    for title, body in EXAMPLES.items():
        compile(body, title, "exec")


def test_the_host_example_runs() -> None:
    run("NumPy, on any machine")


@pytest.mark.gpu
@pytest.mark.parametrize("title", list(NEEDS))
def test_a_gpu_example_runs(title: str) -> None:
    from seseg_trt.backends.tensorrt import available

    for module in NEEDS[title]:
        pytest.importorskip(module)
    reason = available("tensorrt")
    if reason is not None:
        pytest.skip(reason)
    run(title)
