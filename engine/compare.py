"""Compare a graph's confidence maps with Keras's, before the graph is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seseg_trt.errors import ModelError
from seseg_trt.models.artifact import FLOAT_OUTPUT_NAME, INPUT_NAME, OUTPUT_NAME

from .graph import float_output_in_memory

TOLERANCE = 1e-3
MIN_SHARE = 0.999
MIN_IOU = 0.9999
THRESHOLD = 0.5

Images = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The agreement of a graph's confidence with Keras's on the same images.

    Attributes:
        images: how many images were compared.
        max_difference: the largest absolute difference of the confidences p, 0..1.
        share: the share of pixels whose difference is at most :data:`TOLERANCE`.
        iou: the IoU of the masks at :data:`THRESHOLD`, pooled over the images.
        decided_iou: the same without the pixels that Keras puts within :data:`TOLERANCE` of the threshold. Such a pixel
            may be on either side of the threshold, and in a small mask one pixel can fail the gate.
    """

    images: int
    max_difference: float
    share: float
    iou: float
    decided_iou: float

    @property
    def good(self) -> bool:
        """Whether `share` is at least :data:`MIN_SHARE` and `decided_iou` at least :data:`MIN_IOU`."""
        return self.share >= MIN_SHARE and self.decided_iou >= MIN_IOU

    def __str__(self) -> str:
        return (
            f"max |dp| {self.max_difference:.2g}, {self.share:.4%} of pixels within {TOLERANCE:g}, "
            f"mask IoU {self.iou:.6f}, on {self.images} images"
        )


def compare(graph: Any, model: Any, images: Images) -> Agreement:
    """Run a graph in ONNX Runtime and its model in Keras on the same images, and compare the results.

    Args:
        graph: an ``onnx.ModelProto``.
        model: the Keras model.
        images: uint8 [N, S, S, 3].

    Raises:
        ModelError: one of them gives values that are not confidences (NaN, or outside 0..1), or the graph's
            ``confidence`` is not 255 ``p``, truncated.
    """
    largest, within, pixels = 0.0, 0, 0
    both = either = decided_both = decided_either = 0
    for p, confidence, reference in _run_both(graph, model, images):
        for name, values in (("Keras", reference), ("the graph", p)):
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                raise ModelError(f"{name} gives values that are not confidences (NaN, or outside 0 to 1)", "the weights are damaged")
        if not np.array_equal(confidence, (p * np.float32(255)).astype(np.uint8)):
            raise ModelError("the graph's uint8 output is not its float output times 255, truncated", "this is a bug: please report it")
        difference = np.abs(p - reference)
        largest = max(largest, float(difference.max()))
        within += int((difference <= TOLERANCE).sum())
        pixels += difference.size
        ours, theirs = p > THRESHOLD, reference > THRESHOLD
        decided = np.abs(reference - THRESHOLD) > TOLERANCE
        both, either = both + int((ours & theirs).sum()), either + int((ours | theirs).sum())
        decided_both += int((ours & theirs & decided).sum())
        decided_either += int(((ours | theirs) & decided).sum())
    return Agreement(
        images=len(images),
        max_difference=largest,
        share=within / pixels,
        iou=both / either if either else 1.0,
        decided_iou=decided_both / decided_either if decided_either else 1.0,
    )


def _run_both(graph: Any, model: Any, images: Images) -> Iterator[tuple[Maps, Images, Maps]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(float_output_in_memory(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    for image in images:
        p, confidence = session.run([FLOAT_OUTPUT_NAME, OUTPUT_NAME], {INPUT_NAME: image[None]})
        reference = np.asarray(model(image[None].astype(np.float32), training=False))[..., 0]
        yield p, confidence, reference


def procedural_images(size: int, count: int = 6) -> Images:
    """Draw the images that graphs are compared on: striped blobs on noisy gradients, then one black, one white and one of noise.

    Returns:
        uint8 [count, size, size, 3], the same in every run.
    """
    rng = np.random.default_rng(20181108)
    y, x = np.mgrid[0:size, 0:size] / size
    images = []
    for index in range(count - 3):
        image = np.stack([127 + 100 * (a * x + b * y) for a, b in rng.uniform(-1, 1, (3, 2))], -1)
        for _ in range(3 + index):
            centre, radius = rng.uniform(0.15, 0.85, 2), rng.uniform(0.08, 0.3)
            blob = np.hypot(x - centre[0], y - centre[1]) < radius
            stripes = 0.5 + 0.5 * np.sign(np.sin((x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)) * rng.uniform(40, 250)))
            paint = rng.uniform(0, 255, 3) * stripes[..., None] + rng.uniform(0, 255, 3) * (1 - stripes[..., None])
            image = np.where(blob[..., None], paint, image)
        images.append(np.clip(image + rng.normal(0, 6, image.shape), 0, 255))
    plain = [np.zeros((size, size, 3)), np.full((size, size, 3), 255.0), rng.uniform(0, 256, (size, size, 3))]
    return np.stack([*images, *plain])[:count].astype(np.uint8)
