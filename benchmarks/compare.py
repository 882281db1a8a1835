"""Compare two runs case by case, and decide whether a change is more than noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .records import Record, spread

LEAST = 0.02
"""A smaller change always counts as noise: on a quiet machine, two runs of the same code differ by this much."""


@dataclasses.dataclass(frozen=True)
class Change:
    """The change of one case between two runs.

    Attributes:
        name: the name of the case.
        factor: how many times as fast the case is in the second run.
        noise: how far from 1 the factor may be by chance: twice the sum of both runs' spreads, and of the anchors'.
        anchored: whether each rate was divided by that of the matrix product of its own run, so that another clock rate is not a change.
    """

    name: str
    factor: float
    noise: float
    anchored: bool

    @property
    def beyond_noise(self) -> bool:
        """Whether the change is more than noise."""
        return abs(self.factor - 1) > max(self.noise, LEAST)


def compare(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """Compare the cases that both runs measured. Limits are the anchors; limits and stages are not compared themselves."""
    earlier = {(r.contest, r.name): r for r in before if r.samples}
    changes = []
    for record in after:
        old = earlier.get((record.contest, record.name))
        if old is None or not record.samples or record.case["figure"] in ("limit", "stages"):
            continue
        factor, noise = old.median / record.median, 2 * (old.spread + record.spread)
        anchors = _anchor(old, before), _anchor(record, after)
        if anchors[0] and anchors[1]:
            factor *= anchors[0].median / anchors[1].median
            noise += 2 * (spread(anchors[0].samples) + spread(anchors[1].samples))
        changes.append(Change(record.name, factor, noise, bool(anchors[0] and anchors[1])))
    return changes


def _anchor(record: Record, records: Sequence[Record]) -> Record | None:
    """Return the record of NumPy's largest matrix product in the same run and contest, or None."""
    found = [r for r in records if (r.run, r.contest) == (record.run, record.contest) and r.samples and r.case["who"] == "openblas"]
    products = [r for r in found if str(r.case["what"]).startswith("f32")]
    return max(products, key=lambda r: int(str(r.case["what"]).partition("-")[2]), default=None)
