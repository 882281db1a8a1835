# mypy: ignore-errors
# ruff: noqa: UP032
"""What the original program does with a folder, one image after another, around any function that runs the network.

The steps and their cost are the original's (an image of the mask colour is built for each output, the inverse of the mask takes a detour
over int16); the words are ours. It runs under Python 3.6 and Pillow 5.4.1 as well as under today's.
"""

import os
import time

import numpy as np
from PIL import Image

SIDE = 256
GREY = (127, 127, 127)


def run_folder(predict, inputs, output_dir, output, threshold=None, color=GREY):
    """Mask files one by one, each written before the next is read.

    Args:
        predict: uint8 [1, 256, 256, 3] to 65,536 confidences in any shape, as float of 0..1 or uint8 of 0..255.
        inputs: paths.
        output_dir: it is there.
        output: ``se``, ``nse`` or ``mask``.
        threshold: None, or 1..100.

    Returns:
        A dict: the seconds, the count of images, and the bytes written.
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
    """Return the confidence of the network at the size of the image, mode L."""
    small = np.array(image.resize((SIDE, SIDE), Image.NEAREST))
    confidence = predict(small[np.newaxis]).reshape(SIDE, SIDE)
    if confidence.dtype != np.uint8:
        confidence = confidence * 255
    return Image.fromarray(confidence.astype("uint8")).resize(image.size, Image.BICUBIC)


def apply_threshold(mask, threshold):
    """Return the mask with two levels."""
    levels, limit = np.array(mask), 255 * (threshold / 100)
    marked = levels > limit
    levels[marked] = 255
    levels[~marked] = 0
    return Image.fromarray(levels)


def cover(image, mask, output, color):
    """Return the image with the colour over what is marked (nse) or over all else (se)."""
    if output == "se":
        inverse = np.array(mask).astype("int16")
        inverse -= 255
        mask = Image.fromarray((-inverse).astype("uint8"))
    covered = image.copy()
    paint = np.dstack([np.full((image.height, image.width), level) for level in color])
    covered.paste(Image.fromarray(paint.astype("uint8")), (0, 0), mask)
    return covered
