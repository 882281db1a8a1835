"""Find the convolutions that must not be quantised: measure each one alone, and keep the most sensitive ones until the gate is met."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seseg_trt.errors import GateError

from .calibration import Calibration, float_session
from .precision import Quantisation, end_of, quantise
from .qdq import points_of

MOST_SHARE = 0.5
Score = Callable[[Any], "Verdict"]


class Verdict(Protocol):
    """The result of scoring a graph: whether it meets the gate, and as a string the numbers for people."""

    @property
    def good(self) -> bool:
        """Whether the graph meets the gate."""
        ...

    def __str__(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Try:
    """A graph that was scored: the names of the layers that it does not quantise, and the verdict as a string."""

    kept: tuple[str, ...]
    verdict: str


def quantise_within_gate(
    model: Any,
    calibration: Calibration,
    how: Quantisation,
    score: Score,
    probes: Sequence[npt.NDArray[np.uint8]],
    note: Callable[[str], None] = lambda line: None,
) -> tuple[Any, list[Try]]:
    """Quantise as many convolutions as a gate allows.

    First all of them are quantised; then the most sensitive ones are left out, more and more, until the gate is met.

    Args:
        model: an ``onnx.ModelProto`` in FP32.
        calibration: statistics of this graph's tensors.
        how: how to quantise; the layers in ``how.keep`` are never quantised.
        score: judges a graph by its own gate.
        probes: network inputs, uint8 [S, S, 3] each, for :func:`sensitivity`; used only if the first graph misses the gate.
        note: takes a line of progress for people.

    Returns:
        The first graph that met the gate, and all tries.

    Raises:
        GateError: no graph met the gate, not even with half of the convolutions left out; the message has the numbers and the layers.
    """
    tries: list[Try] = []
    order: list[str] | None = None
    names = [point.name for point in points_of(model) if point.name not in how.keep]
    for count in _counts(len(names)):
        if count and order is None:
            note(f"measuring the noise that each of {len(names)} layers adds to the logits")
            order = sensitivity(model, calibration, how, probes)
        kept = tuple(sorted({*how.keep, *(order or [])[:count]}))
        graph = quantise(model, calibration, dataclasses.replace(how, keep=kept))
        verdict = score(graph)
        tries.append(Try(kept, str(verdict)))
        note(f"{len(names) - count} of {len(names)} layers in {how.precision}: {verdict}")
        if verdict.good:
            return graph, tries
    lines = "\n    ".join(f"{len(t.kept)} layers kept: {t.verdict}" for t in tries)
    raise GateError(
        f"no {how.precision} graph met the gate:\n    {lines}\n    kept last: {', '.join(tries[-1].kept)}",
        "calibrate on more images, and ones more like yours; use activations = 'u8' if only CPUs matter; or set a gate that you can accept. "
        "FP16 changes the masks far less",
    )


def sensitivity(model: Any, calibration: Calibration, how: Quantisation, probes: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
    """Return the names of the convolutions, the most sensitive first.

    A convolution's sensitivity is the squared error of the logits when it alone is quantised.

    Args:
        model, calibration, how: as in :func:`quantise_within_gate`.
        probes: network inputs, uint8 [S, S, 3] each; a few are enough.
    """
    logits = end_of(model)[0].input[0]
    everything = [point.name for point in points_of(model)]
    images = [image[None] for image in probes]
    run = float_session(model, [logits])
    exact = [run(image)[0].astype(np.float64) for image in images]
    noise = {}
    for name in everything:
        if name in how.keep:
            continue
        others = tuple(other for other in everything if other != name)
        run = float_session(quantise(model, calibration, dataclasses.replace(how, keep=others, rest="fp32")), [logits])
        noise[name] = float(sum(np.square(run(image)[0] - e).sum() for image, e in zip(images, exact, strict=True)))
    return sorted(noise, key=lambda name: (-noise[name], everything.index(name)))


def _counts(layers: int) -> Iterator[int]:
    """Yield how many layers to leave out: 0, 1, 2, 3, 4, 6, 8, 12, 16, ... up to half of all."""
    most = int(layers * MOST_SHARE)
    count = step = 1
    yield 0
    while count < most:
        yield count
        step = max(1, 2 ** max(0, count.bit_length() - 2))
        count += step
    if most:
        yield most
