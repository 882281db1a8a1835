# mypy: ignore-errors
# ruff: noqa: UP032
"""Mask files one by one as the original program does, with any function that runs the network.

The steps and their cost are the original's: an image of the mask colour is built for each output, and the mask is inverted in int16. The
code is our own. It runs under Python 3.6 and Pillow 5.4.1 as well as under current versions.
"""

import os
import time

import numpy as np
from PIL import Image

SIDE = 256
GREY = (127, 127, 127)


def run_folder(predict, inputs, output_dir, output, threshold=None, color=GREY):
    """Mask files one by one; each output is written before the next input is read.

    Args:
        predict: takes uint8 [1, 256, 256, 3]; returns 65,536 confidences in any shape, float 0..1 or uint8 0..255.
        inputs: the paths of the files.
        output_dir: an existing folder.
        output: ``se``, ``nse`` or ``mask``.
        threshold: in percent, 1..100; None: no threshold.
        color: the RGB colour of the mask.

    Returns:
        A dict: ``seconds``; ``count``, of images; ``bytes_out``, of the outputs.
    """
    written = 0
    start = time.perf_counter()
    for path in inputs:
        name = os.path.basename(path).split(".")[0]
        image = Image.open(path).convert("RGB")
        mask = predict_mask(predict, image)
        if threshold:
            mask = apply_threshold(mask, threshold)
        if output == "mask":
            target = os.path.join(output_dir, name + "_pred.png")
            mask.save(target)
        else:
            target = os.path.join(output_dir, "{}_{}.png".format(name, output))
            cover(image, mask, output, color).save(target)
        written += os.path.getsize(target)
    return {"seconds": time.perf_counter() - start, "count": len(inputs), "bytes_out": written}


def predict_mask(predict, image):
    """Return the network's confidence at the size of the image, as an image of mode L."""
    small = np.array(image.resize((SIDE, SIDE), Image.NEAREST))
    confidence = predict(small[np.newaxis]).reshape(SIDE, SIDE)
    if confidence.dtype != np.uint8:
        confidence = confidence * 255
    return Image.fromarray(confidence.astype("uint8")).resize(image.size, Image.BICUBIC)


def apply_threshold(mask, threshold):
    """Return the mask with 255 above the threshold (in percent), else 0."""
    levels, limit = np.array(mask), 255 * (threshold / 100)
    marked = levels > limit
    levels[marked] = 255
    levels[~marked] = 0
    return Image.fromarray(levels)


def cover(image, mask, output, color):
    """Return the image with the colour over the marked part (``nse``) or over everything else (``se``)."""
    if output == "se":
        inverse = np.array(mask).astype("int16")
        inverse -= 255
        mask = Image.fromarray((-inverse).astype("uint8"))
    covered = image.copy()
    paint = np.dstack([np.full((image.height, image.width), level) for level in color])
    covered.paste(Image.fromarray(paint.astype("uint8")), (0, 0), mask)
    return covered
