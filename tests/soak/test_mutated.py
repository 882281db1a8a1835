from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.mutate import write_mutated


def run_over_mutated(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Mask mutated files in a separate process, which must neither crash nor hang; return the counts."""
    write_mutated(folder / "in", count, seed)
    command = [sys.executable, "-m", "seseg_trt", "segment", "--model", "demo", "--json", "--keep_suffix", "--timeout", "60"]
    command += ["--max-pixels", "20000000", str(folder / "in"), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + count)
    assert done.returncode in (0, 2), (done.returncode, done.stderr[-2000:])
    found = json.loads(done.stdout)
    assert found["inputs"] == count == found["done"] + found["quarantined"]
    lines = [json.loads(line) for line in (folder / "out" / ".seseg" / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == found["quarantined"]
    reasons: dict[str, int] = {}
    for line in lines:
        reasons[line["reason"]] = reasons.get(line["reason"], 0) + 1
    assert set(reasons) <= {"empty", "truncated", "not_an_image", "unsupported", "several_frames", "too_large", "decode_error"}, reasons
    masked = {path.name.removesuffix("_se.png") for path in (folder / "out").glob("*_se.png")}
    assert len(masked) == found["done"] and not masked & {line["path"] for line in lines}
    return {"done": found["done"], **reasons}


def test_a_tenth_of_the_mutated_files(tmp_path: Path) -> None:
    found = run_over_mutated(tmp_path, 300, seed=11)
    assert found["done"] > 20 and len(found) >= 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_mutated_files(tmp_path: Path) -> None:
    run_over_mutated(tmp_path, 3000, seed=12)
