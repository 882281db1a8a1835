"""What tests of tars as outputs share."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from seseg_trt import FakeBackend, MaskOptions, RunOptions, Summary, segment_files

MASKS = MaskOptions(("se", "mask"), threshold=50)
STATE_FILES = {"journal.sqlite", "lock", "quarantine.jsonl", "log.txt"}


def run(source: object, target: object, masks: MaskOptions = MASKS, **options: Any) -> Summary:
    observer = options.pop("observer", None)
    summary = segment_files(
        [str(source)], str(target), masks=masks, options=RunOptions(**options), observer=observer, backend=FakeBackend(16)
    )
    assert summary.inputs == summary.done + summary.skipped + summary.quarantined + summary.left
    return summary


def extracted(*tars: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in tars:
        with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
            for info in tar:
                assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
                assert info.isreg() and info.name not in found
                found[info.name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    return found


def nothing_stray(target: Path) -> None:
    state = target.with_name(target.name + ".seseg")
    assert {path.name for path in state.iterdir()} <= STATE_FILES, list(state.iterdir())
    assert not [path for path in target.parent.iterdir() if path.name.startswith(".seseg-")]


def tars_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("m*.tar")}
