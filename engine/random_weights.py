"""Make a network with random weights for benchmarks: speed does not depend on the weights' values, but masks must not be constant."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from seseg_trt.errors import UsageError

from .network import PRESETS, build_unet, plan_layers

BRANCH_SCALE = 0.2
LOGIT_SPREAD = 3.0
MARKED_SHARE = 0.3
IMAGES = 6


def random_model(seed: int, network: str, images: Any = None) -> Any:
    """Build a network with random weights, calibrated on images so that its confidence maps have edges and many levels.

    With untrained BatchNorms the signal grows through 152 layers until every confidence is 0 or 1, so their statistics are set to those
    of the images. The last BatchNorm of each block gets a scale (gamma) of 0.2, about what training leads to: with a scale of 1, 50
    random blocks amplify rounding errors until two libraries no longer give the same mask. The last convolution is scaled so that the
    logits have a standard deviation of 3 and 30% of all pixels are marked.

    Args:
        seed: the seed of the weights.
        network: a name in :data:`engine.network.PRESETS`, with or without the prefix ``u-``.
        images: images to calibrate on, uint8 [N, S, S, 3]; None: six scenes of :mod:`engine.scenes`.

    Returns:
        A ``keras.Model`` as of :func:`engine.network.build_unet`.

    Raises:
        UsageError: there is no such network.
    """
    import keras

    spec = PRESETS.get(network.removeprefix("u-"))
    if spec is None:
        raise UsageError(f"there is no network {network!r}", f"choose from {', '.join(PRESETS)}")
    keras.utils.set_random_seed(seed)
    model = build_unet(spec)
    if images is None:
        from .scenes import draw_scene

        images = np.stack([draw_scene(seed, index, spec.input_size, spec.input_size).image for index in range(IMAGES)])
    batch = np.asarray(images, np.float32)
    for layer in plan_layers(spec).values():
        if layer.kind == "BatchNormalization":
            normalisation = model.get_layer(layer.name)
            normalisation.momentum = 0.0  # one pass then sets the statistics to the batch's
            if re.fullmatch(r"stage\d_unit\d+_bn3", layer.name):
                gamma, *others = normalisation.get_weights()
                normalisation.set_weights([np.full_like(gamma, BRANCH_SCALE), *others])
    model(batch, training=True)
    logits_of = keras.Model(model.input, model.get_layer("final_conv").output)
    last = model.get_layer("final_conv")
    kernel, bias = last.get_weights()
    logits = np.asarray(logits_of(batch, training=False), np.float64) - bias
    scale = LOGIT_SPREAD / logits.std()
    shift = -scale * np.quantile(logits, 1 - MARKED_SHARE)
    last.set_weights([(kernel * scale).astype(np.float32), np.full_like(bias, shift)])
    return model
