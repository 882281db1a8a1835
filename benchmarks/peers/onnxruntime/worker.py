# mypy: ignore-errors
"""Run ONNX Runtime with default settings and Pillow, one image at a time."""

import platform
import time

import numpy as np
import pillow_loop
from protocol import serve, timed

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
session = None


def predict(image):
    return session.run(["confidence"], {"image": image})[0]


def load(model_path, what="cpu", **_):
    global session
    start = time.perf_counter()
    import onnxruntime
    import PIL

    provider = PROVIDERS[what or "cpu"]
    session = onnxruntime.InferenceSession(model_path, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} did not start; ONNX Runtime would run on {session.get_providers()[0]}")
    versions = {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__, "pillow": PIL.__version__}
    return {"seconds": time.perf_counter() - start, "versions": versions}


def engine(count, batch=1, **_):
    images = np.random.default_rng(0).integers(0, 256, (batch, 256, 256, 3), np.uint8)
    return {"seconds": timed(lambda: predict(images), count), "count": count * batch}


def files(inputs, output_dir, output, threshold=None):
    return pillow_loop.run_folder(predict, inputs, output_dir, output, threshold)


if __name__ == "__main__":
    serve({"load": load, "engine": engine, "files": files})
