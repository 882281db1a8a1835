"""Test some of the steps at which a run may be killed; ``python -m tests.soak`` tests all of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.runs import needs_scale
from tests.soak.each_step import KINDS, WITH_RESULTS


@pytest.mark.timeout(280)
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs_scale if kind in WITH_RESULTS else ()) for kind in KINDS])
def test_a_run_killed_before_a_step_is_gone_on_with(kind: str) -> None:
    stride = "9" if kind.startswith(("parent", "worker")) else "3"
    done = subprocess.run([sys.executable, "-m", "tests.soak.each_step", kind, stride, "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["killed"] > 2
