"""Silence the log messages of TensorFlow and tf2onnx, for commands whose output is read by people."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator


def quiet_tensorflow(gpu: bool = False) -> None:
    """Import TensorFlow without its and tf2onnx's log messages; exceptions are unaffected.

    Must be called before anything else imports TensorFlow.

    Args:
        gpu: let TensorFlow use GPUs. If False, GPUs are hidden from it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _native_stderr_dropped():  # some messages are written before the log level is read
        import tensorflow as tf

        if not gpu:  # hidden from TensorFlow alone: TensorRT may need them in this process
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
