"""The examples of docs/embedding.md: the first is run everywhere, the others where a GPU is (tests/gpu/test_embedding_gpu.py)."""

from __future__ import annotations

import re
from pathlib import Path

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
