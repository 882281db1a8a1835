from __future__ import annotations

from typing import Any

from seseg_trt.journal.row import Row
from seseg_trt.run.tally import Tally


def row(state: Any, decoded_by: str | None = None) -> Row:
    return Row(b"a", b"/a", None, None, "", "", {}, state, decoded_by=decoded_by)


def test_nothing_is_counted_at_first() -> None:
    tally = Tally()
    assert (tally.done, tally.quarantined, tally.pixels, tally.settled, dict(tally.decoded_by)) == (0, 0, 0, 0, {})


def test_what_is_done_counts_with_its_pixels_and_its_decoder() -> None:
    tally = Tally()
    tally.add(row("done", "pillow"), 12)
    tally.add(row("done", "pillow"), 30)
    tally.add(row("done", "dali"), 500)
    tally.add(row("done"), 7000)
    assert (tally.done, tally.quarantined, tally.pixels, tally.settled) == (4, 0, 7542, 4)
    assert tally.decoded_by == {"pillow": 2, "dali": 1, "unknown": 1}


def test_what_is_quarantined_counts_alone() -> None:
    tally = Tally()
    tally.add(row("quarantined", "pillow"), 12)
    tally.add(row("quarantined"), 12)
    tally.add(row("done", "pillow"), 5)
    assert (tally.done, tally.quarantined, tally.pixels, tally.settled) == (1, 2, 5, 3)
    assert tally.decoded_by == {"pillow": 1}


def test_tallies_share_no_counter() -> None:
    one, other = Tally(), Tally()
    one.add(row("done", "pillow"), 1)
    assert not other.decoded_by


def test_settled_is_what_is_done_and_what_is_quarantined() -> None:
    tally = Tally()
    for _ in range(3):
        tally.add(row("done"), 1)
        tally.add(row("quarantined"), 1)
    assert (tally.done, tally.quarantined, tally.settled) == (3, 3, 6)
