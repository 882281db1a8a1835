# mypy: ignore-errors
"""OpenVINO's benchmark_app, run once a round: its own warm-up, its own clock, the precision held at FP32 as ours is."""

import os
import platform
import re
import subprocess
import sys

from protocol import serve

model = None


def load(model_path, **_):
    global model
    import openvino

    model = model_path
    return {"seconds": 0.0, "versions": {"python": platform.python_version(), "openvino": openvino.__version__}}


def engine(count, what="latency", **_):
    command = [os.path.join(os.path.dirname(sys.executable), "benchmark_app"), "-m", model, "-d", "CPU", "-hint", what]
    # CPUs with AMX would run it in BF16 otherwise, which is another network.
    command += ["-infer_precision", "f32", "-shape", "image[1,256,256,3]", "-niter", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [re.search(p, done.stdout) for p in (r"Count:\s+(\d+) iterations", r"Duration:\s+([\d.]+) ms")]
    if done.returncode or not all(found):
        raise RuntimeError(f"benchmark_app ended with {done.returncode}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return {"seconds": float(found[1][1]) / 1e3, "count": int(found[0][1])}


if __name__ == "__main__":
    serve({"load": load, "engine": engine})
