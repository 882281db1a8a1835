"""Run the whole soak: ``python -m tests.soak [RUNS]``. Its record is written to benchmarks/results/soak.json after each part."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.each_step import KINDS
from tests.soak.memory import MIB, large_image, many_images
from tests.soak.soak import soak
from tests.soak.test_mutated import run_over_mutated

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "benchmarks" / "results" / "soak.json"

runs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
whole: dict[str, object] = {
    "date": time.strftime("%Y-%m-%d"),
    "commit": commit or "unknown",
    "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}",
}


def keep(name: str, part: dict[str, object]) -> None:
    """Add a part to the record and write it."""
    whole[name] = part
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


with tempfile.TemporaryDirectory() as folder:
    top = Path(folder)
    keep("mutated files", dict(run_over_mutated(top / "mutated", 50 * runs, seed=12)))
    keep("memory", {**many_images(top / "many", 500, 20_000), **large_image(top / "large", 10_000, 2048 * MIB)})
    steps: dict[str, object] = {}
    for kind in KINDS:
        done = subprocess.run([sys.executable, "-m", "tests.soak.each_step", kind], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        steps[kind] = {name: count for name, count in found.items() if name != "kind"}
        keep("killed before each step on the disk", steps)
    jobs = (os.cpu_count() or 1) + 1
    soak(top / "runs", runs=runs, others=runs, images=300, jobs=jobs, keep=lambda record: keep("disturbed runs", record))
sys.stdout.write(json.dumps(whole, indent=1) + "\n")
