"""``python -m tests.soak [RUNS]``: the whole soak; its record goes to benchmarks/results/soak.json."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.memory import MIB, large_image, many_images
from tests.soak.soak import soak
from tests.soak.test_mutated import run_over_mutated

runs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
with tempfile.TemporaryDirectory() as folder:
    top = Path(folder)
    record = soak(top / "runs", runs=runs, others=runs, images=300, jobs=os.cpu_count() or 1)
    record["mutated files"] = run_over_mutated(top / "mutated", 50 * runs, seed=12)
    record["memory"] = {**many_images(top / "many", 500, 20_000), **large_image(top / "large", 10_000, 2048 * MIB)}
record["date"] = time.strftime("%Y-%m-%d")
record["machine"] = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
target = Path(__file__).parents[2] / "benchmarks" / "results" / "soak.json"
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
sys.stdout.write(json.dumps(record, indent=1) + "\n")
