"""What tests of tars as inputs share."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from seseg_trt import FakeBackend, MaskOptions, RunOptions, Summary, segment_files
from seseg_trt.inputs.tar_index import Index, read_index
from seseg_trt.outputs.naming import Naming
from seseg_trt.run.plan import WorkPlan, make_plan
from tests.runs import picture

MASKS = MaskOptions(("se", "mask"), threshold=50)


def run(source: object, target: Path, masks: MaskOptions = MASKS, **options: Any) -> Summary:
    observer = options.pop("observer", None)
    sources = [str(one) for one in source] if isinstance(source, list) else [str(source)]
    summary = segment_files(sources, target, masks=masks, options=RunOptions(**options), observer=observer, backend=FakeBackend(16))
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


def index(data: bytes) -> Index:
    return read_index(io.BytesIO(data), len(data))


def pack(entries: list[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def plan(*inputs: object, output: str = "/nowhere/out", naming: Naming | None = None, **options: Any) -> WorkPlan:
    return make_plan([str(i) for i in inputs], output, naming or Naming(), **options)


ENTRIES = [(f"{number}.png", picture(number)) for number in range(6)]
ARCHIVE = pack(ENTRIES)
STARTS = [index(ARCHIVE).entries[name].offset - 512 for name, _ in ENTRIES]
