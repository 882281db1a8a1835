"""TensorFlow and tf2onnx with their voices down, for commands whose output is read by people."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator


def quiet_tensorflow(gpu: bool = False) -> None:
    """Import TensorFlow, and keep its notes and tf2onnx's off the terminal; exceptions stay what they are.

    To be called before anything else imports TensorFlow.

    Args:
        gpu: leave the GPUs to it. Without, it sees none: a graph is made on the CPU, and a missing driver is no news
            there.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _native_stderr_dropped():  # notes that are written before its log levels are read
        import tensorflow as tf

        if not gpu:  # from TensorFlow alone: TensorRT may want them in this process
            tf.config.set_visible_devices([], "GPU")
        tf.nn.relu(tf.constant(0.0))
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)


@contextlib.contextmanager
def _native_stderr_dropped() -> Iterator[None]:
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
