from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

from seseg_trt.inputs.tar_index import BLOCK, read_index
from tests.runs import make_inputs, make_tar


class FailingFile(io.BytesIO):
    """A file of a disk that can't read one of its blocks."""

    bad: int

    def read(self, size: int | None = -1) -> bytes:
        begin = self.tell()
        data = super().read(size)
        if begin <= self.bad < begin + len(data):
            raise OSError(errno.EIO, "Input/output error")
        return data


def test_an_io_error_is_no_end_of_the_tar(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 6)
    data = make_tar(tmp_path / "a.tar", tmp_path / "in").read_bytes()
    index = read_index(io.BytesIO(data), len(data))
    assert len(index.entries) == 6 and index.damage is None
    headers = [entry.offset - BLOCK for entry in index.entries.values()]
    for bad in headers:
        file = FailingFile(data)
        file.bad = bad + 7
        with pytest.raises(OSError, match="Input/output"):
            read_index(file, len(data))
