"""Pillow's warnings are silent while anybody decodes, and heard before and after."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import pytest

from seseg_trt.codecs.silence import PillowSilence

FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@pytest.fixture(autouse=True)
def _filters_are_this_tests_own() -> Iterator[None]:
    with warnings.catch_warnings():
        yield


def warn(module: str = "PIL.PngImagePlugin") -> None:
    warnings.warn_explicit("odd", UserWarning, "file.py", 1, module=module)


def test_pillow_is_silent_inside_and_heard_outside() -> None:
    silence = PillowSilence()
    before = list(warnings.filters)
    with silence:
        warn()
        for module in ("ours", "xPIL.x", "PILLOW"):
            with pytest.raises(UserWarning, match="odd"):
                warn(module)
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="odd"):
        warn()


def test_the_last_to_leave_takes_the_filter_away() -> None:
    silence = PillowSilence()
    before = list(warnings.filters)
    silence.__enter__()
    with silence:
        with silence:
            assert warnings.filters.count(FILTER) == 1
        warn()
    warn()
    assert warnings.filters.count(FILTER) == 1
    silence.__exit__(None, None, None)
    assert list(warnings.filters) == before
    with silence:
        warn()
    assert list(warnings.filters) == before


def test_an_error_inside_takes_the_filter_away_and_passes() -> None:
    before = list(warnings.filters)
    with pytest.raises(KeyError), PillowSilence():
        raise KeyError
    assert list(warnings.filters) == before


def test_a_filter_that_somebody_removed_is_set_again() -> None:
    silence = PillowSilence()
    with silence:
        warnings.filters.remove(FILTER)  # type: ignore[attr-defined]
        with silence:
            warn()
    assert FILTER not in warnings.filters
