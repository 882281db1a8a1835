"""Test that the loss gives the values of the original library."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.engine

# The values of segmentation-models 0.2.0 for `arrays()` (Keras 2.2.4, TensorFlow 1.12.0, NumPy 1.16.1, float32):
#     K.eval(bce_jaccard_loss(K.constant(t), K.constant(p)))
ORIGINAL = {"all": 2.3165829181671143, "with a subject": 2.38407301902771, "without": 2.181602954864502, "perfect": 1.0720350474002771e-07}
#     K.gradients(bce_jaccard_loss(t, p), p)
ORIGINAL_GRADIENT_SUM = 21.119213104248047  # of absolute values
ORIGINAL_GRADIENT = {
    (1, 0, 0, 0): -0.0439363569021225,
    (1, 0, 1, 0): 0.026224736124277115,
    (1, 0, 2, 0): 0.026427429169416428,
    (2, 0, 0, 0): 0.07634548842906952,
    (2, 0, 1, 0): 0.054773591458797455,
    (0, 0, 0, 0): 0.003231828100979328,
}


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return three images of 4 x 5; the last has no subject, and two confidences are exactly 0 and 1, which the loss clips."""
    random = np.random.RandomState(20181108)  # NumPy guarantees that its stream never changes
    truth = (random.rand(3, 4, 5, 1) < 0.4).astype(np.float32)
    p = random.rand(3, 4, 5, 1).astype(np.float32)
    truth[2] = 0
    p[0, 0, 0, 0], p[0, 0, 1, 0] = 0, 1
    return truth, p


def loss(truth: np.ndarray, p: np.ndarray) -> float:
    from engine.losses import bce_jaccard_loss

    return float(bce_jaccard_loss(truth, p))


@pytest.mark.parametrize(("name", "images"), [("all", slice(0, 3)), ("with a subject", slice(0, 2)), ("without", slice(2, 3))])
def test_original_values(name: str, images: slice) -> None:
    truth, p = arrays()
    assert loss(truth[images], p[images]) == pytest.approx(ORIGINAL[name], rel=2e-6)


def test_perfect_prediction() -> None:
    truth, _ = arrays()
    assert loss(truth[:2], truth[:2]) == pytest.approx(ORIGINAL["perfect"], abs=3e-8)


def test_by_hand() -> None:
    """Check two images of two pixels against values worked out by hand.

    Truth (1, 0), p (0.5, 0.25): cross-entropy -(ln 0.5 + ln 0.75) / 2; IoU 0.5 / (1 + 0.75 - 0.5) = 0.4.
    Truth (0, 0), p (0.5, 0.5): cross-entropy -ln 0.5; IoU 1e-12 / (1 + 1e-12), which is 0.
    The mean over all pixels, and 1 - the mean IoU of the two images (not the IoU of both together, 0.5 / 2.25).
    """
    truth = np.array([[1, 0], [0, 0]], np.float32).reshape(2, 1, 2, 1)
    p = np.array([[0.5, 0.25], [0.5, 0.5]], np.float32).reshape(2, 1, 2, 1)
    crossentropy = (-np.log(0.5) - np.log(0.75) - 2 * np.log(0.5)) / 4
    assert loss(truth, p) == pytest.approx(crossentropy + 1 - (0.4 + 0.0) / 2, rel=1e-6)


def test_original_gradients() -> None:
    import tensorflow as tf

    from engine.losses import bce_jaccard_loss

    truth, p = arrays()
    variable = tf.Variable(p)
    with tf.GradientTape() as tape:
        value = bce_jaccard_loss(truth, variable)
    gradient = tape.gradient(value, variable).numpy()
    assert np.abs(gradient).sum() == pytest.approx(ORIGINAL_GRADIENT_SUM, rel=1e-5)
    for place, expected in ORIGINAL_GRADIENT.items():
        assert gradient[place] == pytest.approx(expected, rel=1e-5)


def test_half_precision_is_lifted() -> None:
    """Check that the loss is right in half precision, where a sum over an image overflows (float16 ends at 65,504)."""
    truth, p = np.ones((1, 300, 300, 1), np.float16), np.full((1, 300, 300, 1), 0.5, np.float16)
    assert loss(truth, p) == pytest.approx(-np.log(0.5) + 0.5, rel=1e-3)
