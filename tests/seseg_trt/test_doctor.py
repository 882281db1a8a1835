"""What doctor says of this machine, and of machines where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seseg_trt import doctor, native
from seseg_trt.doctor import Chain, Check
from seseg_trt.models import cache


def test_the_cpu_lane_runs_here() -> None:
    chains = {chain.name: chain for chain in doctor.diagnose()}
    assert chains["CPU lane, backend openvino"].ok
    assert "FP8" in chains["CPU lane, backend onnxruntime"].checks[-1].detail


def test_code_that_was_not_built_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def chain() -> Chain:
        return next(chain for chain in doctor.diagnose() if "compiled code" in chain.name)

    assert chain().ok
    monkeypatch.setattr(native, "MODULE", None)
    broken = chain().broken
    assert broken is not None and "g++" in broken.mend


def test_the_first_broken_link_is_named() -> None:
    chain = Chain("x", (Check("a", True, "1"), Check("b", False, "gone", "get b"), Check("c", False, "gone")))
    assert not chain.ok and chain.broken is not None and chain.broken.name == "b"


def test_a_missing_library_is_a_finding_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # Python's way to make an import fail
    chain = next(chain for chain in doctor.diagnose() if "openvino" in chain.name)
    assert not chain.ok and chain.broken is not None and chain.broken.mend == "pip install openvino"


def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "seseg_trt", "doctor", "--json"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", cache.HOME_VARIABLE: str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    model = next(chain for chain in found["chains"] if chain["name"] == "default model")
    assert not model["ok"] and "make engine" in model["checks"][0]["mend"]
