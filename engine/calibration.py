"""Collect statistics of a network's tensors over images, in bounded memory, and choose quantisation ranges from them.

For each tensor, the extremes over all images are kept, and a random sample of a few thousand values of each image. The range of an
8-bit tensor is then the one with the least mean squared error on the sample: activations have long tails, so a finer step for most values
is worth clipping a few. Source: Wu et al., "Integer Quantization for Deep Learning Inference", https://arxiv.org/abs/2004.09602,
section 4.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seseg_trt.errors import UsageError
from seseg_trt.models.artifact import INPUT_NAME

Floats = npt.NDArray[np.float32]

VALUES_PER_IMAGE = 2048
MOST_VALUES = 1 << 19
CANDIDATES = 65
LEAST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Seen:
    """Statistics of one tensor: its extremes over all images, and a sample of its values, float32 [K]."""

    lowest: float
    highest: float
    values: Floats

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.lowest, self.highest)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Statistics of all tensors.

    Attributes:
        tensors: the statistics of each tensor, by its name.
        images: how many images were run.
        sha256: a hash over the network inputs, independent of their order; hex.
    """

    tensors: dict[str, Seen]
    images: int
    sha256: str


def calibrate(
    model: Any, names: Sequence[str], images: Iterable[npt.NDArray[np.uint8]], progress: Callable[[], None] | None = None
) -> Calibration:
    """Run images through a graph in ONNX Runtime and collect statistics of its tensors.

    Args:
        model: an ``onnx.ModelProto`` in FP32.
        names: the names of the tensors.
        images: network inputs, uint8 [S, S, 3] each; iterated once.
        progress: called after each image.

    Raises:
        UsageError: there are no images.
    """
    run = float_session(model, names)
    random = np.random.default_rng(0)
    kept: dict[str, list[Floats]] = {name: [] for name in names}
    lowest, highest = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    digests = []
    for image in images:
        digests.append(hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest())
        for name, tensor in zip(names, run(image[None]), strict=True):
            flat = tensor.reshape(-1)
            lowest[name], highest[name] = min(lowest[name], float(flat.min())), max(highest[name], float(flat.max()))
            kept[name].append(flat[random.integers(0, flat.size, VALUES_PER_IMAGE)])
        if progress is not None:
            progress()
    if not digests:
        raise UsageError("there is no image to calibrate on", "give --images a folder of images")
    tensors = {}
    for name in names:
        values = np.concatenate(kept.pop(name))
        tensors[name] = Seen(lowest[name], highest[name], values[:: -(-values.size // MOST_VALUES)])
    return Calibration(tensors, len(digests), hashlib.sha256(b"".join(sorted(digests))).hexdigest())


def float_session(model: Any, names: Sequence[str]) -> Callable[[Any], list[Any]]:
    """Open a graph in ONNX Runtime on the CPU, with the named tensors as its outputs.

    Args:
        model: an ``onnx.ModelProto``; it is not changed.
        names: the names of FP32 tensors.

    Returns:
        A function that takes images, uint8 [N, S, S, 3], and returns the tensors in the order of `names`.
    """
    import onnx
    import onnxruntime

    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    there = {output.name for output in graph.graph.output}
    for name in names:
        if name not in there:
            graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(images: Any) -> list[Any]:
        results: list[Any] = session.run(list(names), {INPUT_NAME: images})
        return results

    return run


def best_range(seen: Seen, least: int, most: int) -> float:
    """Return the magnitude that the highest 8-bit level stands for: of 65 candidates, the one with the least mean squared error.

    Args:
        seen: the statistics of the tensor.
        least, most: the lowest and the highest level, e.g. -127 and 127.
    """
    largest = seen.largest
    if not largest:
        return 1.0
    values = seen.values
    errors = []
    for share in np.linspace(LEAST_SHARE, 1, CANDIDATES):
        step = np.float32(share * largest / most)
        rounded = np.clip(np.rint(values / step), least, most) * step
        errors.append((float(np.mean(np.square(rounded - values), dtype=np.float64)), float(share)))
    return min(errors)[1] * largest
