# mypy: ignore-errors
"""Run OpenVINO's benchmark_app once a round, with its own warm-up and timing, in FP32 as ours."""

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
    # Without -infer_precision, CPUs with AMX would run it in BF16, which gives other results.
    command += ["-infer_precision", "f32", "-shape", "image[1,256,256,3]", "-niter", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [re.search(p, done.stdout) for p in (r"Count:\s+(\d+) iterations", r"Duration:\s+([\d.]+) ms")]
    if done.returncode or not all(found):
        raise RuntimeError(f"benchmark_app ended with {done.returncode}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return {"seconds": float(found[1][1]) / 1e3, "count": int(found[0][1])}


if __name__ == "__main__":
    serve({"load": load, "engine": engine})
