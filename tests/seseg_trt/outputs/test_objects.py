"""Outputs in a folder of an object store (the one that fsspec keeps in memory)."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from seseg_trt.errors import BadImage, StoppedError
from seseg_trt.outputs.base import RUN_AGAIN
from seseg_trt.outputs.objects import LONGEST_KEY, RemoteOutputs
from seseg_trt.storage.objects import STORES, ObjectStorage
from tests.runs import needs_scale

pytestmark = needs_scale

TOP = "memory://a-bucket-with-a-long-name/out"


@pytest.fixture
def outputs() -> Iterator[RemoteOutputs]:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield RemoteOutputs(TOP + "/")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_an_output_is_there_with_its_hash(outputs: RemoteOutputs) -> None:
    outputs.prepare()
    assert outputs.write("sub/a_se.png", b"data") == (hashlib.sha256(b"data").hexdigest(), 4)
    assert outputs.read("sub/a_se.png") == b"data" and outputs.size("sub/a_se.png") == 4
    outputs.write("sub/a_se.png", b"other")
    assert STORES.read(f"{TOP}/sub/a_se.png", lambda size: None)[0] == b"other"
    with pytest.raises(FileNotFoundError):
        outputs.read("nothing.png")


def test_the_folder_is_listed_once_and_again_for_another_run(outputs: RemoteOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = ObjectStorage.find
    monkeypatch.setattr(ObjectStorage, "find", lambda self, name: (listed.append(name), real(self, name))[1])
    assert outputs.size("a.png") is None and outputs.size("b.png") is None  # there is nothing yet
    outputs.write("a.png", b"123")
    assert outputs.size("a.png") is None and listed == [TOP]
    outputs.prepare()
    assert outputs.size("a.png") == 3 and outputs.size("b.png") is None and listed == [TOP, TOP]


def test_a_store_that_cannot_be_asked_stops_the_run(outputs: RemoteOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, name: str) -> None:
        raise StoppedError("it can't be listed")

    monkeypatch.setattr(ObjectStorage, "find", refuse)
    with pytest.raises(StoppedError, match="can't be listed"):
        outputs.size("a.png")


def test_what_is_removed_need_not_be_there(outputs: RemoteOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs.write("a.png", b"123")
    outputs.remove("a.png")
    outputs.remove("a.png")
    assert outputs.size("a.png") is None

    def refuse(self: object, name: str) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(ObjectStorage, "remove", refuse)
    with pytest.raises(RuntimeError, match="ours"):
        outputs.remove("a.png")


def test_a_name_may_be_as_long_as_stores_take_it(outputs: RemoteOutputs) -> None:
    assert LONGEST_KEY == 1024
    for letter, size in (("x", 1), ("ü", 2)):
        whole = 1024 - len("out/")
        name = letter * (whole // size)
        assert outputs.write(name, b"1")[1] == 1  # the bucket's name does not count
        with pytest.raises(BadImage) as caught:
            outputs.write(name + "y", b"1")
        assert caught.value.reason == "encode_error"
        assert "a store takes up to 1024 bytes and no control characters; rename the input" in caught.value.message
        outputs.prepare()
        assert outputs.size(name) == 1 and outputs.size(name + "y") is None


@pytest.mark.parametrize(("character", "taken"), [("\0", False), ("\n", False), ("\x1f", False), (" ", True), ("!", True), ("\x7f", True)])
def test_control_characters_are_refused(outputs: RemoteOutputs, character: str, taken: bool) -> None:
    for name in (f"a{character}b.png", f"sub{character}/b.png"):
        if taken:
            outputs.write(name, b"1")
            assert outputs.read(name) == b"1"
        else:
            with pytest.raises(BadImage, match="no control characters"):
                outputs.write(name, b"1")


def test_a_name_that_is_not_utf8_is_refused(outputs: RemoteOutputs) -> None:
    with pytest.raises(BadImage) as caught:
        outputs.write("a\udcff.png", b"1")
    assert caught.value.reason == "encode_error" and "it is not UTF-8, as names in a store are" in caught.value.message
    assert isinstance(caught.value.__cause__, UnicodeEncodeError)


def test_a_store_that_refuses_stops_the_run_with_the_way_out(outputs: RemoteOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, name: str, data: Any) -> None:
        raise OSError(errno.EACCES, "Access denied")

    monkeypatch.setattr(ObjectStorage, "put", refuse)
    with pytest.raises(StoppedError) as caught:
        outputs.write("a.png", b"1")
    assert (caught.value.message, caught.value.hint) == (f"{TOP}/a.png can't be written: Access denied", RUN_AGAIN)
