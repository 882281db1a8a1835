# mypy: ignore-errors
"""Run the original program's steps with its own libraries: Keras 2.2.4's predict and Pillow 5.4.1, one image at a time."""

import platform
import time

import numpy as np
import pillow_loop
from protocol import serve, timed

model = None


def load(model_path, **_):
    global model
    start = time.perf_counter()
    import h5py
    import keras
    import PIL
    import tensorflow as tf
    from keras.models import load_model
    from segmentation_models.losses import bce_jaccard_loss  # noqa: F401 - the import registers the loss with Keras

    model = load_model(model_path)
    versions = {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
    }
    return {"seconds": time.perf_counter() - start, "versions": versions}


def engine(count, **_):
    image = np.random.RandomState(0).randint(0, 256, (1, 256, 256, 3)).astype("uint8")
    return {"seconds": timed(lambda: model.predict(image), count), "count": count}


def files(inputs, output_dir, output, threshold=None):
    return pillow_loop.run_folder(model.predict, inputs, output_dir, output, threshold)


if __name__ == "__main__":
    serve({"load": load, "engine": engine, "files": files})
