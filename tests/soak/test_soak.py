from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.soak import soak


@pytest.mark.timeout(280)
def test_a_tenth_of_the_soak(tmp_path: Path) -> None:
    record = soak(tmp_path, runs=6, others=1, images=40, seed=7)
    assert len(record["ways"]) == 7  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_whole_soak(tmp_path: Path) -> None:
    soak(tmp_path, runs=60, others=60, images=300)
