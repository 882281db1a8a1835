# mypy: ignore-errors
"""Run TensorRT's trtexec once a round, with its own warm-up and timing, without data transfers."""

import re
import subprocess

from protocol import serve

model = None


def load(model_path, **_):
    global model
    model = model_path
    said = subprocess.run(["trtexec", "--help"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"TensorRT[ .]v?(\d+)", said)
    return {"seconds": 0.0, "versions": {"tensorrt": found[1] if found else "unknown"}}


def throughput(said):
    """Return the batches a second that trtexec reports in its output."""
    found = re.search(r"Throughput:\s+([\d.]+)\s+qps", said)
    if not found:
        raise RuntimeError("trtexec gave no throughput")
    return float(found[1])


def engine(count, batch=1, **_):
    # --stronglyTyped takes the precision from the graph; --noDataTransfers keeps the inputs on the GPU, as ours are.
    command = ["trtexec", f"--onnx={model}", f"--shapes=image:{batch}x256x256x3", "--noDataTransfers", "--stronglyTyped"]
    done = subprocess.run([*command, f"--iterations={count}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"trtexec ended with {done.returncode}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return {"seconds": 1.0, "count": throughput(done.stdout) * batch}


if __name__ == "__main__":
    serve({"load": load, "engine": engine})
