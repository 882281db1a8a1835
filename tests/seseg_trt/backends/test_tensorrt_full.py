"""Build the full-size network into an FP16 plan for three generations of RTX GPUs.

This takes minutes and 14 GB, nearly all for TensorFlow to make the graph. ``SESEG_FULL_GRAPH=model.onnx`` uses an existing graph.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seseg_trt.models.plan_file import open_plan

from .test_tensorrt_build import ROOT, to_fp16

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.rtx, pytest.mark.ort, pytest.mark.timeout(1800)]

MAKE_GRAPH = """
import sys
import onnx
from engine.export import make_graph
from engine.network import NetworkSpec, build_unet
onnx.save(make_graph(build_unet(NetworkSpec())), sys.argv[1])
"""

BUILD = """
import json, sys, time
from pathlib import Path
from seseg_trt.backends.tensorrt_build import build_plan
from seseg_trt.models.plan_identity import BuildOptions
options = BuildOptions(runtime="rtx", targets=("sm86", "sm89", "sm120"), profiles=((1, 1, 1), (1, 32, 128)))
start = time.monotonic()
identity = build_plan(Path(sys.argv[1]), Path(sys.argv[2]), options)
# Not getrusage: a child inherits the peak of the process that started it.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
print(json.dumps({"seconds": round(time.monotonic() - start, 1), "bytes": identity.plan_bytes, "peak_mb": peak}))
"""


def test_the_full_network_builds_in_fp16(tmp_path: Path) -> None:
    """TensorFlow and TensorRT run in separate processes, so that the memory peak is TensorRT's alone."""
    graph, plan = os.environ.get("SESEG_FULL_GRAPH"), tmp_path / "model.plan"
    if not graph:
        graph = str(tmp_path / "model.onnx")
        subprocess.run([sys.executable, "-c", MAKE_GRAPH, graph], cwd=ROOT, check=True)
    half = to_fp16(Path(graph), tmp_path / "model.fp16.onnx")
    command = [sys.executable, "-c", BUILD, str(half), str(plan)]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    figures = json.loads(said.splitlines()[-1])
    sys.stdout.write(f"{figures}\n")
    with open_plan(plan) as (identity, payload):
        assert identity.precision == "fp16"
        # 73.9 million parameters of two bytes each.
        assert 140e6 < payload.nbytes == figures["bytes"] < 250e6
