"""One input's names, and the reasons why one can't be read."""

from __future__ import annotations

import errno
import os

import pytest

from seseg_trt.inputs.item import InputItem, describe_os_error
from seseg_trt.storage.base import ChangedError


def test_an_input_knows_its_source_and_its_bytes() -> None:
    item = InputItem("/in", "sub/a\udcff.jpg")
    assert (item.source, item.identity) == ("/in/sub/a\udcff.jpg", b"sub/a\xff.jpg")
    assert (item.listed, item.offset) == (None, None)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ESTALE])
def test_what_the_system_refuses_is_unreadable_in_its_words(number: int) -> None:
    assert describe_os_error(OSError(number, os.strerror(number))) == ("unreadable", f"it can't be read: {os.strerror(number)}")


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (OSError("of a store"), "unreadable", "it can't be read: of a store"),
        (FileNotFoundError("of a store, without a number"), "missing", "the file is not there, or is a link that leads nowhere"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "missing", "the file is not there, or is a link that leads nowhere"),
        (OSError(errno.ELOOP, "Too many levels"), "link_loop", "symbolic links lead in a circle"),
        (OSError(errno.EISDIR, "Is a directory"), "not_a_file", "it is a folder, not a file"),
        (ChangedError("the object changed"), "changed", "the object changed"),
        (ChangedError(errno.EBUSY, "the tar changed", "a.tar"), "changed", "the tar changed"),
    ],
)
def test_each_error_has_its_reason_and_its_sentence(error: OSError, reason: str, message: str) -> None:
    assert describe_os_error(error) == (reason, message)
