"""Which convolutions an 8-bit graph can't afford to quantise: each is tried alone, and the worst are kept until the masks are good."""

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
    """What a scoring function gives: whether the gate is met, and the numbers for people."""

    @property
    def good(self) -> bool:
        """Whether the gate is met."""
        ...

    def __str__(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Try:
    """One graph that was scored: the layers that it kept, and the verdict in words."""

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
    """Quantise all that can be quantised, and keep the most sensitive convolutions out until a gate is met.

    Args:
        model: an ``onnx.ModelProto`` in FP32.
        calibration: on this graph.
        how: ``how.keep`` is kept in any case.
        score: judges a graph; the gate is its own.
        probes: images, uint8 [S, S, 3], on which each layer's part in the noise is measured, if need be.
        note: is told what is tried.

    Returns:
        The first graph that met the gate, and what was tried.

    Raises:
        GateError: none did, with half of the convolutions kept at last; the message has the numbers and the layers.
    """
    tries: list[Try] = []
    order: list[str] | None = None
    names = [point.name for point in points_of(model) if point.name not in how.keep]
    for count in _counts(len(names)):
        if count and order is None:
            note(f"measuring what each of {len(names)} layers does to the logits")
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
        "calibrate on more and truer images, take activations = 'u8' where only CPUs matter, or set the gate to what you can accept; "
        "FP16 costs far less in masks",
    )


def sensitivity(model: Any, calibration: Calibration, how: Quantisation, probes: Sequence[npt.NDArray[np.uint8]]) -> list[str]:
    """Return the names of the convolutions, the most sensitive first: by the noise that each brings to the logits when it is quantised alone.

    Args:
        model, calibration, how: as in :func:`quantise_within_gate`.
        probes: uint8 [S, S, 3]; a few do.
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
    """Yield how many layers to keep: 0, 1, 2, 3, 4, 6, 8, 12, 16, ... up to half of all."""
    most = int(layers * MOST_SHARE)
    count = step = 1
    yield 0
    while count < most:
        yield count
        step = max(1, 2 ** max(0, count.bit_length() - 2))
        count += step
    if most:
        yield most
