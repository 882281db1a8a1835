"""Define the loss that the original network was trained with."""

from __future__ import annotations

from typing import Any

SMOOTH = 1e-12


def bce_jaccard_loss(truth: Any, p: Any) -> Any:
    """Compute binary cross-entropy + (1 - IoU), as segmentation-models 0.2.0 does under the same name.

    The cross-entropy is Keras's, with p clipped to 1e-7 .. 1 - 1e-7, averaged over all pixels. The IoU is soft, computed for each image
    and then averaged: (sum(t p) + 1e-12) / (sum(t + p) - sum(t p) + 1e-12). An image without a subject therefore has an IoU of about 0
    for every p, and contributes gradients through the cross-entropy alone.

    Args:
        truth: the true masks t, [N, H, W, 1], 0 or 1.
        p: the confidence, [N, H, W, 1], 0..1.

    Returns:
        A scalar, float32, since a sum over an image can overflow float16.

    Source: ``segmentation_models/losses.py`` and ``metrics.py`` of segmentation-models 0.2.0 (MIT):
    ``bce_jaccard_loss(gt, pr, bce_weight=1., smooth=1e-12, per_image=True)``.
    """
    import keras
    from keras import ops

    truth, p = ops.cast(truth, "float32"), ops.cast(p, "float32")
    crossentropy = ops.mean(keras.losses.binary_crossentropy(truth, p))
    both = ops.sum(truth * p, axis=(1, 2))
    either = ops.sum(truth + p, axis=(1, 2)) - both
    return crossentropy + 1 - ops.mean((both + SMOOTH) / (either + SMOOTH))
