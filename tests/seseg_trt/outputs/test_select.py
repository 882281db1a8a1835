"""Which place a name means."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from seseg_trt.journal.journal import Journal
from seseg_trt.outputs.folder import OutputFolder
from seseg_trt.outputs.select import open_outputs
from seseg_trt.outputs.tar import TarOutputs
from tests.runs import needs_scale


@pytest.mark.parametrize("target", ["out", "/x/out.tar.d", "masks-%06d"])
def test_a_name_without_more_is_a_local_folder(target: str, tmp_path: Path) -> None:
    for durable in (False, True):
        found = open_outputs(target=target, state=tmp_path, durable=durable)
        assert type(found) is OutputFolder and found.root == Path(target) and found._durable is durable


@pytest.mark.parametrize("target", ["out.tar", "/x/masks-%06d.tar", "memory://photos/out.tar"])
def test_a_tar_is_staged_in_the_state_folder(target: str, tmp_path: Path) -> None:
    if "://" in target:
        pytest.importorskip("fsspec")
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal:
        found = open_outputs(target, tmp_path, durable=True, journal=journal)
        assert isinstance(found, TarOutputs) and found.target == target and found.root == tmp_path / "staged"
        assert found._durable is True and found._journal is journal
    plain = open_outputs(target, tmp_path)
    assert isinstance(plain, TarOutputs) and plain._durable is False and plain._journal is None


@needs_scale
def test_an_address_is_a_folder_of_a_store(tmp_path: Path) -> None:
    from seseg_trt.outputs.objects import RemoteOutputs

    found = open_outputs("memory://photos/out/", tmp_path, durable=True)
    assert isinstance(found, RemoteOutputs) and found.root == "memory://photos/out"


def test_nothing_is_flushed_where_it_was_not_asked_for(tmp_path: Path) -> None:
    found = open_outputs(str(tmp_path / "out"), tmp_path)
    assert isinstance(found, OutputFolder) and found._durable is False
    assert not (tmp_path / "out").exists()  # until it is prepared
