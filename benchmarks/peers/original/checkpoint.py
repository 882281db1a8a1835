# mypy: ignore-errors
# ruff: noqa: UP032
"""Make a full-size checkpoint of random weights that the original program can load: checkpoint.py SEED IMAGES_DIR OUT.hdf5.

The published checkpoint may not be available, and speed does not depend on the weights' values. With untrained BatchNorms the signal grows
through 152 layers until every confidence is 0 or 1, so their statistics are set to those of the images. The last BatchNorm of each block
gets a scale (gamma) of 0.2, about what training leads to: with a scale of 1, 50 random blocks amplify rounding errors until two libraries
no longer give the same mask. The last convolution is scaled so that the logits of the images have a standard deviation of 3 and 30% of all
pixels are marked: confidence maps with edges and many levels.
"""

import glob
import os
import sys

import numpy as np

BRANCH_SCALE = 0.2
LOGIT_SPREAD = 3.0


def main(seed, folder, target):
    import tensorflow as tf

    np.random.seed(seed)
    tf.set_random_seed(seed)
    import keras.backend as K
    from PIL import Image
    from tensorflow.python.training import moving_averages

    # A momentum of 0: one pass then sets the moving statistics of a BatchNorm to the batch's.
    K.moving_average_update = lambda x, value, momentum: moving_averages.assign_moving_average(x, value, 0.0, zero_debias=False)
    from segmentation_models import Unet
    from segmentation_models.losses import bce_jaccard_loss

    model = Unet("seresnet152", encoder_weights=None, encoder_freeze=True)
    paths = sorted(glob.glob(os.path.join(folder, "*.jpg")))[:6]
    images = np.stack([np.array(Image.open(p).convert("RGB").resize((256, 256), Image.NEAREST)) for p in paths])
    squeezes = [layer for layer in model.layers if type(layer).__name__ == "Lambda"]
    last = [layer._inbound_nodes[0].inbound_layers[0].gamma for layer in squeezes]
    # All in one call, since each change of a session's graph takes seconds.
    K.batch_set_value([(gamma, np.full(K.int_shape(gamma), BRANCH_SCALE, "float32")) for gamma in last])
    # model.updates lacks the updates of the frozen encoder's BatchNorms, so take them from the layers.
    updates = [update for layer in model.layers for update in getattr(layer, "_updates", [])]
    K.function([model.input, K.learning_phase()], [model.output], updates=updates)([images.astype("float32"), 1])

    p = np.clip(model.predict(images), 1e-7, 1 - 1e-7).astype("float64")
    logits = np.log(p / (1 - p))
    kernel, bias = model.get_layer("final_conv").get_weights()
    scale = LOGIT_SPREAD / logits.std()
    shift = -scale * np.percentile(logits - bias, 70)
    model.get_layer("final_conv").set_weights([kernel * scale, np.full_like(bias, shift)])
    p = model.predict(images)
    marked = float((p > 0.5).mean())
    if not (np.isfinite(p).all() and 0.1 < marked < 0.6):
        sys.exit("the random network marks {:.1%} of the pixels, outside 10% to 60%: its maps are of no use".format(marked))
    model.compile("Adam", loss=bce_jaccard_loss)
    # save() fetches the weights layer by layer, and each fetch from so large a graph is slow: fetch all of them in one call.
    values = dict(zip(model.weights, K.batch_get_value(model.weights)))  # noqa: B905 - Python 3.6
    K.batch_get_value = lambda tensors: [values[tensor] for tensor in tensors]
    model.save(target)
    message = "{:,} parameters, {:.1%} of the pixels marked, p from {:.4f} to {:.4f}\n"
    sys.stdout.write(message.format(model.count_params(), marked, p.min(), p.max()))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
