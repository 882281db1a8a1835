"""The GPU examples of docs/embedding.md, as they are written there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seseg_trt.plan_identity import Runtime

from ..test_embedding import NEEDS, run

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("title", list(NEEDS))
def test_an_example_runs(title: str, need_runtime: Callable[[Runtime], None]) -> None:
    need_runtime("tensorrt")
    for module in NEEDS[title]:
        pytest.importorskip(module)
    run(title)
