from __future__ import annotations

import struct

import pytest

from seseg_trt.codecs.headers import read, tiff
from seseg_trt.codecs.headers.tiff import read_directory

from .by_hand import refused, refused_later, told
from .tiff_by_hand import PIXELS, Tags, directory, head, kind, page, read_back, without
from .tiff_by_hand import tiff as tiff_of

BOTH = pytest.mark.parametrize("order", ["<", ">"])
THUMBNAIL = (
    "it is a TIFF whose first directory is a thumbnail (a raw photograph, or a file without its main picture), which is not decoded; "
)


def ends_early(what: str) -> tuple[str, str]:
    return "truncated", f"the TIFF ends too early: {what}"


class TestThePicture:
    @BOTH
    def test_what_a_plain_file_says(self, order: str) -> None:
        data = tiff_of(PIXELS, page({274: 6, 270: 1}), order=order)
        header = read(data)
        assert told(header) == (kind(), 20, 12, 6, 1, False, False) and header.complete is None
        stripped = header.stripped()
        assert stripped[8 : len(data)] == data[8:] and len(data) % 2 == 0
        place, tags, following = read_back(stripped, order)
        assert (place, following) == (len(data), 0)
        short, long = (
            {tag: (field, (value,)) for tag, value in values.items()}
            for field, values in (
                (3, {258: 8, 259: 1, 262: 1, 277: 1, 284: 1, 339: 1}),
                (4, {256: 20, 257: 12, 273: 8, 278: 12, 279: 240}),
            )
        )
        assert tags == short | long and len(stripped) == place + 2 + 12 * 11 + 4

    @BOTH
    def test_a_big_tiff_becomes_a_tiff(self, order: str) -> None:
        tags = page({256: 10, 258: (8, 8, 8), 262: 2, 273: (16, 136), 277: 3, 278: 4, 279: (120, 120), 257: 8})
        fields = {256: 16, 257: 18, 273: 16, 278: 13, 279: 4}
        data = tiff_of(PIXELS + b"x", tags, order=order, big=True, fields=fields)
        header = read(data)
        assert told(header) == (kind("RGB", 3), 10, 8, 1, 1, False, False)
        stripped = header.stripped()
        place, found, following = read_back(stripped, order)
        assert place == len(data) + len(data) % 2 and following == 0 and stripped[8 : len(data)] == data[8:]
        assert found == {
            256: (4, (10,)), 257: (4, (8,)), 258: (3, (8, 8, 8)), 259: (3, (1,)), 262: (3, (2,)), 273: (4, (16, 136)),
            277: (3, (3,)), 278: (4, (4,)), 279: (4, (120, 120)), 284: (3, (1,)), 339: (3, (1, 1, 1)),
        }  # fmt: skip

    def test_a_file_of_an_odd_length_is_padded(self) -> None:
        for extra in (b"", b"x"):
            data = tiff_of(PIXELS, page()) + extra
            place, tags, _ = read_back(read(data).stripped())
            assert place == len(data) + len(extra) and tags[256] == (4, (20,))

    def test_every_tag_that_pixels_need_is_kept_and_no_other(self) -> None:
        rgba: Tags = {256: 32, 257: 32, 258: (8, 8, 8, 8), 259: 7, 262: 2, 266: 1, 277: 4, 284: 1, 317: 1, 338: 0, 339: (1, 1, 1, 1)}
        rgba |= {322: 16, 323: 32, 324: (8, 10), 325: (2, 2), 347: tuple(b"\xff\xd8tables\xff\xd9!"), 530: (2, 1, 1), 292: 5, 293: 6}
        lost: Tags = {254: 0, 255: 1, 269: 1, 274: 2, 282: 3, 305: 4, 332: 1, 700: 5, 34675: 6}
        data = tiff_of(b"\xff\xd9\xff\xd9", rgba | lost, fields={347: 7})
        header = read(data)
        assert told(header) == (kind("RGB", 4, compression="JPEG"), 32, 32, 2, 1, False, False)
        _, tags, following = read_back(header.stripped())
        numbers = {tag: value if isinstance(value, tuple) else (value,) for tag, value in rgba.items()} | {338: (2,)}
        assert {tag: values for tag, (_, values) in tags.items()} == numbers and following == 0
        assert {tag: field for tag, (field, _) in tags.items()} == {
            tag: 7 if tag == 347 else 4 if tag in (256, 257, 292, 293, 322, 323, 324, 325) else 3 for tag in numbers
        }

    def test_strips_are_as_high_as_the_picture_at_most(self) -> None:
        for rows in (12, 13, 2**32 - 1):
            _, tags, _ = read_back(read(tiff_of(PIXELS, page({278: rows}))).stripped())
            assert tags[278] == (4, (12,))
        header = read(tiff_of(PIXELS, without(page(), 278)))
        assert told(header) == (kind(), 20, 12, 1, 1, False, False) and 278 not in read_back(header.stripped())[1]

    def test_samples_and_planes_are_written_for_every_channel(self) -> None:
        for planar, offsets, counts in ((2, (8, 88, 168), (80, 80, 80)), (1, (8,), (240,))):
            data = tiff_of(PIXELS, page({257: 4, 258: 8, 262: 2, 277: 3, 278: 4, 284: planar, 273: offsets, 279: counts}))
            assert told(read(data)) == (kind("RGB", 3, planar=planar == 2), 20, 4, 1, 1, False, False)
            tags = read_back(read(data).stripped())[1]
            assert (tags[258], tags[339], tags[284]) == ((3, (8, 8, 8)), (3, (1, 1, 1)), (3, (planar,)))
            assert (tags[273], tags[279]) == ((4, offsets), (4, counts))

    def test_planes_of_one_channel_are_none(self) -> None:
        header = read(tiff_of(PIXELS, page({284: 2})))
        assert header.kind == kind() and read_back(header.stripped())[1][284] == (3, (1,))

    def test_the_orientation_is_one_of_eight(self) -> None:
        assert [read(tiff_of(PIXELS, page({274: value}))).orientation for value in range(11)] == [1, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]
        for values, orientation in (((), 1), ((6, 3), 6), ((6, 99), 6), ((65_535,), 1)):
            assert read(tiff_of(PIXELS, page({274: values}))).orientation == orientation
        assert read(tiff_of(PIXELS, page())).orientation == 1

    def test_a_tag_out_of_its_range_is_not_written(self) -> None:
        for changed in ({317: 65_536}, {259: 65_536}):
            header = read(tiff_of(PIXELS, page(changed), fields={317: 4, 259: 4}))
            reason, message = refused_later(header)
            assert reason == "unsupported" and "a TIFF of over 4 GiB, or with a tag out of its range" in message
        assert read_back(read(tiff_of(PIXELS, page({317: 65_535}), fields={317: 4})).stripped())[1][317] == (3, (65_535,))


class TestTheDirectory:
    @BOTH
    @pytest.mark.parametrize("big", [False, True])
    def test_gives_the_wanted_tags_and_the_next_one(self, order: str, big: bool) -> None:
        data = tiff_of(b"body", {256: 20, 257: (3, 70_000, 5), 258: 8}, {256: 30}, order=order, big=big)
        first, following = read_directory(data, frozenset({256, 257, 259}))
        assert first == {256: (20,), 257: (3, 70_000, 5)}
        assert read_directory(data, frozenset({256}), following) == ({256: (30,)}, 0)
        assert read_directory(data, frozenset(), following) == ({}, 0)

    @pytest.mark.parametrize(("big", "pointer"), [(False, 4), (True, 8)])
    def test_may_be_the_last_of_the_file(self, big: bool, pointer: int) -> None:
        data = tiff_of(b"body", {256: 20, 258: 8}, big=big)
        for missing in range(pointer + 1):
            assert read_directory(data[: len(data) - missing], frozenset({256})) == ({256: (20,)}, 0)
        assert refused(data[: -pointer - 1]) == ends_early("its directory is not whole")

    def test_that_lies_beyond_the_end(self) -> None:
        for data in (head(8), head(8) + b"\1", head(2**32 - 1) + bytes(9), head(16, big=True), head(2**63, big=True), b"II*\0\1"):
            assert refused(data) == ends_early("its header is not whole")

    @pytest.mark.parametrize("big", [False, True])
    def test_names_each_tag_once(self, big: bool) -> None:
        twice = {256: 20, 257: 1}
        data = bytearray(tiff_of(b"body", twice, big=big))
        at = data.index(struct.pack("<H", 257))
        data[at : at + 2] = struct.pack("<H", 256)
        assert refused(bytes(data)) == ("decode_error", "the TIFF's directory names its tag 256 twice")
        assert read_directory(bytes(data), frozenset({999})) == ({}, 0)

    def test_field_types_that_a_tag_can_have(self) -> None:
        for field in range(1, 20):
            data = head(8) + struct.pack("<HHHIIIQ", 1, 256, field, 1, 26, 0, 5)
            if field in (3, 4, 13, 16, 18):
                assert read_directory(data, frozenset({256})) == ({256: (5 if field in (16, 18) else 26,)}, 0)
            else:
                assert refused(data) == ("decode_error", f"the TIFF's tag 256 has the field type {field}, which it can't have")

    @pytest.mark.parametrize("tag", [347, 0xB002])
    def test_bytes_are_bytes(self, tag: int) -> None:
        for field in (1, 7):
            data = head(8) + struct.pack("<HHHI4sI", 1, tag, field, 3, b"\1\2\xff\4", 0)
            assert read_directory(data, frozenset({tag})) == ({tag: (1, 2, 255)}, 0)
        for field in (2, 3, 4, 6, 13):
            data = head(8) + struct.pack("<HHHIII", 1, tag, field, 1, 8, 0)
            with pytest.raises(Exception, match=f"the TIFF's tag {tag} has the field type {field}"):
                read_directory(data, frozenset({tag}))

    def test_values_lie_in_the_entry_if_they_fit(self) -> None:
        for field, values, raw in ((3, (1, 2), "<HH"), (4, (7,), "<I"), (3, (5,), "<Hxx"), (3, (), "<xxxx"), (4, (), "<xxxx")):
            data = head(8) + struct.pack("<HHHI", 1, 256, field, len(values)) + struct.pack(raw, *values) + bytes(4)
            assert read_directory(data, frozenset({256})) == ({256: values}, 0)
        for field, values, raw in ((3, (1, 2, 3, 4), "<HHHH"), (4, (1, 2), "<II"), (16, (2**40,), "<Q"), (3, (1,), "<Hxxxxxx")):
            data = head(16, big=True) + struct.pack("<QHHQ", 1, 256, field, len(values)) + struct.pack(raw, *values) + bytes(8)
            assert read_directory(data, frozenset({256})) == ({256: values}, 0)

    @pytest.mark.parametrize("big", [False, True])
    def test_values_that_do_not_fit_lie_anywhere_but_in_the_signature(self, big: bool) -> None:
        start = 16 if big else 8
        code, count = ("<QHHQQQ", 5) if big else ("<HHHIII", 3)
        body = struct.pack(f"<{count}H", *range(300, 300 + count))
        for where in (start + struct.calcsize(code), 8):
            data = head(start, big=big) + struct.pack(code, 1, 256, 3, count, where, 0) + body
            expected = struct.unpack_from(f"<{count}H", data, where)
            assert read_directory(data, frozenset({256})) == ({256: expected}, 0)
        for where in (7, 0, 1):
            data = head(start, big=big) + struct.pack(code, 1, 256, 3, count, where, 0) + body
            assert refused(data) == ("decode_error", "the TIFF's tag 256 lies within the file's signature")
        for where in (len(data) - 2 * count + 1, len(data), 2**32 - 1):
            data = head(start, big=big) + struct.pack(code, 1, 256, 3, count, where, 0) + body
            assert refused(data) == ends_early("its tag 256 is not whole")


class TestPages:
    def test_are_counted_but_for_thumbnails_and_masks(self) -> None:
        small: list[Tags] = [page({254: 1}), page({254: 4}), page({254: 5}), page({254: 7}), page({255: 2}), page({254: 0, 255: 2})]
        large: list[Tags] = [page({254: 0}), page({254: 2}), page({254: 8}), page({255: 1}), page({255: 3}), page({255: 0})]
        assert told(read(tiff_of(PIXELS, *large))) == (kind(), 20, 12, 1, 6, False, False)
        for first in large:
            assert read(tiff_of(PIXELS, page({254: 1, 256: 10, 279: 120}), first, *small)).width == 20
            assert read(tiff_of(PIXELS, first, *small, page())).pictures == 2
        for lone in small:
            reason, message = refused(tiff_of(PIXELS, lone, lone))
            assert reason == "unsupported" and message.startswith(THUMBNAIL)

    def test_of_several_the_first(self) -> None:
        header = read(tiff_of(PIXELS, page({254: 1}), page({256: 10, 279: 120, 274: 3}), page()))
        assert told(header) == (kind(), 10, 12, 3, 2, False, False) and read_back(header.stripped())[1][256] == (4, (10,))

    def test_one_that_nobody_can_read_ends_the_list(self) -> None:
        for lost in (b"\xff\xff", b"\1\0" + struct.pack("<HHII", 256, 99, 1, 1) + bytes(4), b""):
            data = head(248) + PIXELS + directory(248, page(), following=len(tiff_of(PIXELS, page()))) + lost
            assert told(read(data)) == (kind(), 20, 12, 1, 1, False, False)

    def test_none_that_can_be_read(self) -> None:
        data = head(8) + b"\1\0" + struct.pack("<HHII", 256, 99, 1, 1) + bytes(4)
        assert refused(data) == ("decode_error", "the TIFF's tag 256 has the field type 99, which it can't have")
        thumbnail = directory(8, {254: 1}, following=8 + 18)
        assert refused(head(8) + thumbnail + data[8:])[0] == "decode_error"

    def test_a_next_one_beyond_the_end_is_none(self) -> None:
        size = len(tiff_of(PIXELS, page()))
        for following in (size, size + 1, 2**32 - 1):
            assert read(head(248) + PIXELS + directory(248, page(), following=following)).pictures == 1

    def test_directories_in_a_circle_end(self) -> None:
        first, length = page(), len(directory(0, page()))
        for back in (248, 248 + length):
            data = head(248) + PIXELS + directory(248, first, following=248 + length) + directory(248 + length, first, following=back)
            assert read(data).pictures == 2

    def test_so_many_are_read_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = tiff_of(PIXELS, *[page()] * 9)
        assert read(data).pictures == 9
        for most in (3, 8, 9, 10):
            monkeypatch.setattr(tiff, "MOST_PAGES", most)
            assert read(data).pictures == min(most, 9)

    def test_pictures_in_sub_directories_are_counted(self) -> None:
        inner, small, lost = (directory(0, page()), directory(0, page({254: 1})), b"\xff\xff")
        at = [8 + 240]
        body = PIXELS
        for each in (page(), page({254: 1}), page()):
            body += directory(8 + len(body), each)
            at.append(8 + len(body))
        body += lost
        assert len(inner) == at[1] - at[0] and len(small) == at[2] - at[1]
        good, reduced, other, bad = at
        for below, pictures in (
            ((good,), 2),
            ((good, other), 3),
            ((reduced,), 1),
            ((good, reduced, other), 3),
            ((bad,), 1),
            ((bad, good), 2),
            ((good, bad, other), 3),
            ((2**32 - 1, good), 2),
            ((), 1),
        ):
            assert told(read(tiff_of(body, page({330: below})))) == (kind(), 20, 12, 1, pictures, False, False)
            assert read(tiff_of(body, page({330: below}), page({330: (good,)}))).pictures == pictures + 2
            assert read(tiff_of(body, page({254: 1, 330: below}), page())).pictures == 1
