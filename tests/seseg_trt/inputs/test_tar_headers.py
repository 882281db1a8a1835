"""What a tar's headers may say: each kind of entry, each way in which a tar ends, and in which words it is told."""

from __future__ import annotations

import io
import struct
import tarfile
from typing import Any

import pytest

from seseg_trt.inputs.tar_index import BLOCK, TAIL_BYTES, BadEntry, Entry, Index, read_index
from tests.seseg_trt.inputs.tars import index, pack


def made(*entries: tuple[str, bytes, str, bytes]) -> bytes:
    """Return a tar of entries: name, type, link, data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for name, kind, link, data in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def regular(name: str, data: bytes = b"x") -> tuple[str, bytes, str, bytes]:
    return name, tarfile.REGTYPE, "", data


def sym(name: str, target: str) -> tuple[str, bytes, str, bytes]:
    return name, tarfile.SYMTYPE, target, b""


def hard(name: str, target: str) -> tuple[str, bytes, str, bytes]:
    return name, tarfile.LNKTYPE, target, b""


def refused(found: Index) -> dict[str, tuple[str, str]]:
    return {bad.path: (bad.reason, bad.message) for bad in found.refused}


ONE = pack([("a.jpg", b"123")])
END = 2 * BLOCK
"""Where the end mark of :data:`ONE` begins."""
LOST = "entries after it, if there were any, are lost"
NOT_FOUND = "entries after it, if there are any, can't be found"


def test_a_block_is_what_tars_have() -> None:
    assert BLOCK == 512 and TAIL_BYTES == 1_048_576
    assert index(ONE).entries == {"a.jpg": Entry(1, 512, 3)} and index(ONE).damage is None


def test_an_index_counts_all_that_it_knows() -> None:
    found = index(pack([("a.jpg", b"1"), ("a.json", b"2"), ("a.txt", b"3"), ("b", b"4"), ("b", b"5")]))
    assert (len(found.entries), len(found.sidecars), len(found.refused), len(found)) == (2, 2, 1, 5)
    assert len(Index()) == 0


@pytest.mark.parametrize(("length", "damage"), [(END, True), (END + 1, True), (END + BLOCK - 1, True), (END + BLOCK, False)])
def test_a_tar_ends_with_one_empty_block_at_least(length: int, damage: bool) -> None:
    found = index(ONE[:length])
    assert found.damage == (("truncated", f"the tar ends without its end mark, after entry 1; {LOST}") if damage else None)
    assert found.entries == {"a.jpg": Entry(1, 512, 3)}


def test_an_entry_whose_padding_is_missing_is_whole_and_one_whose_bytes_are_is_not() -> None:
    assert index(ONE[: BLOCK + 3]).entries == {"a.jpg": Entry(1, 512, 3)}
    found = index(ONE[: BLOCK + 2])
    assert found.refused == [BadEntry(1, "a.jpg", True, "truncated", "the tar ends within it: 2 of its 3 bytes are there")]
    assert found.damage is not None and found.damage[0] == "truncated"


@pytest.mark.parametrize(
    ("place", "seen"), [(END, True), (END + BLOCK - 1, True), (END + BLOCK, True), (END + BLOCK + TAIL_BYTES - 1, True)]
)
def test_what_follows_the_end_mark_is_not_passed_over(place: int, seen: bool) -> None:
    data = bytearray(ONE[:END] + bytes(BLOCK + TAIL_BYTES + 2))
    data[place] = 1
    damage = index(bytes(data)).damage
    assert damage is not None and damage[0] == "unreadable"
    if place < END + BLOCK:
        assert NOT_FOUND in damage[1] and damage[1].startswith("the tar is damaged after entry 1 (")
    else:
        assert damage[1] == (
            "more bytes follow the mark that ends the tar, after entry 1; "
            "tars put one after another are read as the first alone: give each by itself"
        )


def test_what_follows_far_behind_the_end_mark_is_not_looked_for() -> None:
    data = bytearray(ONE[:END] + bytes(BLOCK + TAIL_BYTES + 2))
    data[END + BLOCK + TAIL_BYTES] = 1
    assert index(bytes(data)).damage is None


def test_a_tar_without_entries_is_told_by_its_beginning() -> None:
    assert index(bytes(10_240)).damage is None and len(index(bytes(10_240))) == 0
    assert index(bytes(10_239) + b"\1").damage is not None and "before its first entry" in index(bytes(10_239) + b"\1").damage[1]  # type: ignore[index]
    assert index(b"").damage == ("empty", "the tar has 0 bytes")


@pytest.mark.parametrize(
    ("magic", "kind"),
    [(b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4")],
)
@pytest.mark.parametrize("length", [20, 2000])
def test_a_compressed_tar_is_named(magic: bytes, kind: str, length: int) -> None:
    found = index((magic + b"x" * length)[:length])
    assert found.damage == ("unsupported", f"it is compressed with {kind}: decompress it first, so that its entries can be found")


def test_what_is_no_tar_is_told_from_what_is_too_short_for_one() -> None:
    short, long = (index(b"x" * length).damage for length in (BLOCK - 1, BLOCK))
    assert short is not None and short[0] == "truncated" and short[1].startswith("it is too short for a tar: ")
    assert long is not None and long[0] == "unreadable" and long[1].startswith("it is no tar: ")


def with_size(header: bytes, size: int) -> bytes:
    """Return a header with another size, as a negative number too, and with its checksum."""
    header = header[:124] + (struct.pack(">q", size).rjust(12, b"\xff") if size < 0 else b"%011o\0" % size) + header[136:]
    checksum = 256 + sum(header[:148]) + sum(header[156:512])
    return header[:148] + b"%06o\0 " % checksum + header[156:]


@pytest.mark.parametrize("size", [-1, -512, -513, -1024])
def test_a_negative_size_ends_the_reading(size: int) -> None:
    first = index(with_size(ONE[:BLOCK], size) + ONE[BLOCK:])
    assert first.damage is not None and first.damage[0] == "unreadable" and len(first) == 0
    assert first.damage[1].startswith("the tar is damaged before its first entry (") and first.damage[1].endswith(f"; {NOT_FOUND}")
    second = index(ONE[:END] + with_size(ONE[:BLOCK], size) + ONE[BLOCK:])
    assert second.damage is not None and "after entry 1 (" in second.damage[1] and list(second.entries) == ["a.jpg"]


@pytest.mark.parametrize("size", [-512, -1024, -1536])
def test_a_header_that_leads_back_ends_the_reading(size: int) -> None:
    """A sparse entry's size in the tar is another than that of its file."""
    header = bytearray(made(("b.jpg", tarfile.GNUTYPE_SPARSE, "", b""))[:BLOCK])
    header[483:495] = b"%011o\0" % 5
    found = index(ONE[:END] + with_size(bytes(header), size) + ONE[BLOCK:])
    assert found.damage is not None and found.damage[0] == "unreadable"
    assert found.damage[1].startswith("the tar is damaged after entry 1 (") and list(found.entries) == ["a.jpg"]


@pytest.mark.parametrize(("error", "words"), [(ValueError("odd"), "odd"), (KeyError(), "KeyError"), (tarfile.HeaderError("h"), "h")])
def test_whatever_a_header_does_to_the_reader_is_damage(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tarfile.TarFile.next

    def fail(self: tarfile.TarFile) -> Any:
        if self.offset and self.firstmember is None:  # type: ignore[attr-defined]
            raise error
        return real(self)

    monkeypatch.setattr(tarfile.TarFile, "next", fail)
    found = index(pack([("a.jpg", b"123"), ("b.jpg", b"4")]))
    assert found.damage == ("unreadable", f"the tar is damaged after entry 1 ({words}); {NOT_FOUND}")
    assert list(found.entries) == ["a.jpg"]


def test_each_kind_of_entry_is_told() -> None:
    data = made(
        ("x", tarfile.DIRTYPE, "", b""),
        ("pipe", tarfile.FIFOTYPE, "", b""),
        ("character", tarfile.CHRTYPE, "", b""),
        ("block", tarfile.BLKTYPE, "", b""),
        ("odd", b"Q", "", b""),
        regular("a.jpg"),
        regular("a.jpg"),
        regular("./a.jpg"),
    )
    found = index(data)
    assert list(found.entries) == ["a.jpg"] and found.entries["a.jpg"].number == 6
    assert [(bad.number, bad.path, bad.safe, bad.reason, bad.message) for bad in found.refused] == [
        (2, "pipe", True, "not_a_file", "it is a pipe, not a regular file"),
        (3, "character", True, "not_a_file", "it is a device, not a regular file"),
        (4, "block", True, "not_a_file", "it is a device, not a regular file"),
        (5, "odd", True, "not_a_file", "it is an entry of the unknown type b'Q', not a regular file"),
        (7, "a.jpg", False, "collision", "entry 6 of the same tar has the same name; rename one of the two"),
        (8, "a.jpg", False, "collision", "entry 6 of the same tar has the same name; rename one of the two"),
    ]


def test_names_that_can_be_no_paths_are_refused_by_a_name_for_people() -> None:
    found = index(made(regular("../up.jpg"), regular("x/../a.jpg"), regular("x/.."), regular("."), regular("//"), regular("..b/c..d")))
    assert list(found.entries) == ["..b/c..d"]
    assert [(bad.number, bad.path, bad.safe) for bad in found.refused] == [
        (1, "up.jpg", False),
        (2, "a.jpg", False),
        (3, "nameless", False),
        (4, "nameless", False),
        (5, "nameless", False),
    ]
    assert {bad.reason for bad in found.refused} == {"unreadable"}
    assert found.refused[0].message == "its name, '../up.jpg', can't be a path inside the tar"


def test_a_name_with_a_zero_byte_is_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"path": "x/a\0b.jpg"}
        tar.addfile(info)
    (bad,) = index(buffer.getvalue()).refused
    assert (bad.path, bad.safe, bad.reason) == ("a?b.jpg", False, "unreadable")


def test_a_sparse_entry_is_refused_with_the_way_out() -> None:
    header = bytearray(made(("b.jpg", tarfile.GNUTYPE_SPARSE, "", b""))[:BLOCK])
    header[483:495] = b"%011o\0" % 5
    found = index(with_size(bytes(header), 0) + ONE)
    assert refused(found)["b.jpg"] == (
        "unreadable",
        "it is stored with holes (a sparse entry), which is not read; pack it without --sparse",
    )
    assert list(found.entries) == ["a.jpg"] and found.damage is None


def test_links_lead_to_files_wherever_they_stand() -> None:
    found = index(
        made(
            sym("x/early.jpg", "../a.jpg"),
            regular("a.jpg", b"123"),
            hard("hard.jpg", "./a.jpg"),
            sym("chain.jpg", "x/early.jpg"),
            sym("x/y/deep.jpg", "../../x/../a.jpg"),
            sym("x/here.jpg", "early.jpg"),
        )
    )
    assert not found.refused and {entry[1:] for entry in found.entries.values()} == {(3 * BLOCK - BLOCK, 3)}
    assert [(name, entry.number) for name, entry in found.entries.items()] == [
        ("x/early.jpg", 1),
        ("a.jpg", 2),
        ("hard.jpg", 3),
        ("chain.jpg", 4),
        ("x/y/deep.jpg", 5),
        ("x/here.jpg", 6),
    ]


def test_links_that_lead_to_no_file_say_why() -> None:
    found = index(
        made(
            ("x", tarfile.DIRTYPE, "", b""),
            ("../x", tarfile.DIRTYPE, "", b""),
            regular("a.jpg"),
            ("pipe", tarfile.FIFOTYPE, "", b""),
            sym("gone", "nowhere"),
            sym("up", "../a.jpg"),
            sym("far", "x/../../a.jpg"),
            sym("beside", "../x"),
            sym("root", "/a.jpg"),
            sym("self", "self"),
            sym("one", "two"),
            sym("two", "one"),
            sym("into", "one"),
            sym("folder", "x"),
            hard("hard", "x"),
            sym("bad", "pipe"),
            hard("later", "gone"),
            hard("back", "../a.jpg"),
        )
    )
    missing, circle = ("missing", "it is a link that leads to nothing in the tar"), ("link_loop", "links of the tar lead in a circle")
    assert refused(found) == {
        "pipe": ("not_a_file", "it is a pipe, not a regular file"),
        **dict.fromkeys(("gone", "up", "far", "beside", "root", "later", "back"), missing),
        **dict.fromkeys(("self", "one", "two", "into"), circle),
        **dict.fromkeys(("folder", "hard"), ("not_a_file", "it is a link to a folder of the tar, x")),
        "bad": ("unreadable", "it is a link to pipe, which can't be read"),
    }
    numbers = {bad.path: bad.number for bad in found.refused}
    assert (numbers["gone"], numbers["self"], numbers["later"]) == (5, 10, 17) and all(bad.safe for bad in found.refused)


def test_only_what_describes_an_image_of_its_folder_is_a_sidecar() -> None:
    cut = made(regular("x/1.json"), regular("x/1.JPEG"), regular("x/2.cls"), regular("1.txt"), regular("x/1"), regular("x/3.tar.gz"))
    found = index(cut)
    assert list(found.sidecars) == ["x/1.json", "x/1"] and list(found.entries) == ["x/1.JPEG", "x/2.cls", "1.txt", "x/3.tar.gz"]
    assert found.sidecars["x/1.json"].number == 1
    refused_image = index(made(("1.jpg", tarfile.FIFOTYPE, "", b""), regular("1.json"), regular("../2.jpg"), regular("2.json")))
    assert list(refused_image.sidecars) == ["1.json"] and list(refused_image.entries) == ["2.json"]


def test_the_size_is_what_the_caller_says() -> None:
    found = read_index(io.BytesIO(ONE), BLOCK + 1)
    assert refused(found) == {"a.jpg": ("truncated", "the tar ends within it: 1 of its 3 bytes are there")}
