# mypy: ignore-errors
"""Run the original program's loop with a current Keras: model.predict and Pillow, one image at a time."""

import platform
import time

import numpy as np
import pillow_loop
from protocol import serve, timed

model = None


def predict(image):
    return model.predict(image.astype(np.float32), verbose=0)


def load(model_path, **_):
    global model
    start = time.perf_counter()
    import keras
    import PIL
    import tensorflow as tf

    from engine.checkpoint import load_checkpoint

    model, _ = load_checkpoint(model_path)
    versions = {"python": platform.python_version(), "keras": keras.__version__, "tensorflow": tf.__version__, "pillow": PIL.__version__}
    return {"seconds": time.perf_counter() - start, "versions": versions}


def engine(count, **_):
    image = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    return {"seconds": timed(lambda: predict(image), count), "count": count}


def files(inputs, output_dir, output, threshold=None):
    return pillow_loop.run_folder(predict, inputs, output_dir, output, threshold)


if __name__ == "__main__":
    serve({"load": load, "engine": engine, "files": files})
