"""Test the full-size network from random weights to a run, in a separate process so that its peak memory can be measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3600)]

SCRIPT = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from engine.quiet import quiet_tensorflow
quiet_tensorflow()
from engine.compare import procedural_images
from engine.export import export_onnx
from engine.random_weights import random_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

said, start = {}, time.monotonic()
def lap(name):
    global start
    said[name] = {"seconds": round(time.monotonic() - start, 1), "peak_gib": round(peak(), 2)}
    start = time.monotonic()

images = procedural_images(256)[:4]
model = random_model(7, "seresnet152", images)
said["parameters"] = model.count_params()
lap("build")
exported = export_onnx(model, Path(sys.argv[1]), checkpoint_sha256="random:7", check_images=images)
said.update(nodes=exported.nodes, agreement=str(exported.agreement), max_difference=exported.agreement.max_difference)
lap("export")
import openvino
compiled = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
maps = compiled(images)["confidence"]
lap("openvino")
ours = np.floor(np.asarray(model(images.astype(np.float32), training=False))[..., 0] * 255).astype(int)
said["within_1"] = float((abs(maps.astype(int) - ours) <= 1).mean())
said["spread"] = float(maps.std())
print(json.dumps(said))
"""


def test_it_is_built_exported_checked_and_run_within_24_gib(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(said, indent=1))
    assert said["parameters"] == 73_939_329
    assert said["openvino"]["peak_gib"] < 24
    assert said["within_1"] >= 0.999
    assert said["spread"] > 5  # a constant map would agree trivially
    assert 4 * 70e6 < path.stat().st_size < 4 * 75e6
