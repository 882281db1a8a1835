"""What every place for outputs says when it refuses."""

from __future__ import annotations

import errno
import os

import pytest

from seseg_trt.errors import StoppedError
from seseg_trt.outputs.base import RUN_AGAIN, refused_name, writing_to


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "/out/a.png"), "Input/output error"),
        (OSError("of a store"), "of a store"),
    ],
)
def test_a_place_that_refuses_stops_the_run_with_the_way_out(error: OSError, words: str) -> None:
    with pytest.raises(StoppedError) as caught, writing_to("/out"):
        raise error
    assert (caught.value.message, caught.value.hint) == (f"the output folder /out can't be written: {words}", RUN_AGAIN)
    assert caught.value.__cause__ is error


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="ours"), writing_to("/out"):
        raise ValueError("ours")
    with writing_to("/out"):
        pass


def test_a_name_that_is_refused_costs_its_image_alone() -> None:
    bad = refused_name("a\n.png", "it is odd")
    assert (bad.reason, bad.message) == (
        "encode_error",
        "its output 'a\\n.png' can't be written under that name: it is odd; rename the input",
    )
