from __future__ import annotations

import struct

import pytest

from seseg_trt.codecs.headers import boxes, read
from seseg_trt.codecs.headers.base import Header
from seseg_trt.codecs.headers.kinds import Kind
from seseg_trt.errors import BadImage

from .by_hand import box, refused, told

JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
FTYP = b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
WAY_OUT = ", which is not decoded; convert it to an 8-bit PNG, as `magick IN -depth 8 OUT.png` does"


class TestTheBoxes:
    def test_lie_one_behind_the_other(self) -> None:
        data = (
            b"##"
            + box(b"abcd", b"12")
            + box(b"efgh")
            + struct.pack(">I4sQ", 1, b"ijkl", 19)
            + b"123"
            + struct.pack(">I4s", 0, b"mnop")
            + b"rest"
        )
        assert list(boxes.boxes(data, 2, len(data))) == [(b"abcd", 10, 12), (b"efgh", 20, 20), (b"ijkl", 36, 39), (b"mnop", 47, 51)]
        assert list(boxes.boxes(data, 2, 20)) == [(b"abcd", 10, 12), (b"efgh", 20, 20)]
        assert list(boxes.boxes(data, 2, 19)) == [(b"abcd", 10, 12)]
        assert list(boxes.boxes(data, 39, 49)) == [(b"mnop", 47, 49)]

    def test_the_last_one_may_reach_beyond_the_end(self) -> None:
        data = struct.pack(">I4s", 99, b"long") + b"12"
        assert list(boxes.boxes(data, 0, len(data))) == [(b"long", 8, 99)]

    @pytest.mark.parametrize(
        "head", [struct.pack(">I4s", size, b"none") for size in (2, 7)] + [struct.pack(">I4sQ", 1, b"none", size) for size in (0, 1, 8, 15)]
    )
    def test_end_where_one_is_shorter_than_its_own_head(self, head: bytes) -> None:
        data = box(b"abcd", b"12") + head + box(b"efgh") * 9
        assert list(boxes.boxes(data, 0, len(data))) == [(b"abcd", 8, 10)]

    def test_that_are_nothing_but_a_head_are_boxes(self) -> None:
        data = struct.pack(">I4s", 8, b"abcd") + struct.pack(">I4sQ", 1, b"efgh", 16)
        assert list(boxes.boxes(data, 0, len(data))) == [(b"abcd", 8, 8), (b"efgh", 24, 24)]

    def test_are_so_many_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert len(list(boxes.boxes(box(b"abcd") * 20, 0, 160))) == 20
        monkeypatch.setattr(boxes, "MOST_BOXES", 7)
        assert len(list(boxes.boxes(box(b"abcd") * 20, 0, 160))) == 7


def codestream(
    parts: list[tuple[int, int, int]],
    area: tuple[int, int, int, int] = (300, 2, 0, 0),
    end: bytes = b"\xff\xd9",
    channels: int | None = None,
) -> bytes:
    """Return a codestream: (depth and sign, step across, step down) of each channel; (right, bottom, left, top)."""
    count = len(parts) if channels is None else channels
    size = struct.pack(">HHIIIIIIIIH", 38 + 3 * len(parts), 0, *area, *area[:2], 0, 0, count) + b"".join(bytes(part) for part in parts)
    return b"\xff\x4f\xff\x51" + size + b"\xff\x93pixels" + end


def jp2(*boxes_: bytes) -> bytes:
    return JP2 + FTYP + b"".join(boxes_)


def wavelets(colors: str, channels: int, depth: int = 8, sample: str = "uint") -> Kind:
    return Kind("JPEG2000", depth, sample, colors, channels, False, "wavelets")


EIGHT = (7, 1, 1)
IHDR = box(b"ihdr", struct.pack(">IIHBBBB", 2, 300, 3, 7, 7, 0, 0))


def stated(space: int, method: int = 1) -> bytes:
    return box(b"colr", bytes([method, 0, 0]), struct.pack(">I", space), b"more")


class TestJpeg2000:
    @pytest.mark.parametrize(("channels", "colors"), [(1, "grey"), (2, "grey"), (3, "RGB"), (4, "RGB"), (5, "RGB")])
    def test_a_codestream_alone(self, channels: int, colors: str) -> None:
        data = codestream([EIGHT] * channels)
        assert told(read(data)) == (wavelets(colors, channels), 300, 2, 1, 1, False, False)
        assert read(data).stripped() == data and read(data).complete is None

    @pytest.mark.parametrize(
        ("bits", "depth", "sample"),
        [(0, 1, "uint"), (7, 8, "uint"), (15, 16, "uint"), (37, 38, "uint"), (0x87, 8, "int"), (0xFF, 128, "int")],
    )
    def test_the_depth_and_the_sign(self, bits: int, depth: int, sample: str) -> None:
        assert read(codestream([(bits, 1, 1)] * 3)).kind == wavelets("RGB", 3, depth, sample)

    def test_the_size_is_that_of_the_area(self) -> None:
        assert told(read(codestream([EIGHT], (300, 200, 20, 50))))[1:3] == (280, 150)
        assert told(read(codestream([EIGHT], (21, 51, 20, 50))))[1:3] == (1, 1)
        for area in ((20, 200, 20, 50), (300, 50, 20, 50), (19, 200, 20, 50), (300, 49, 20, 50), (0, 0, 0, 0), (19, 49, 20, 50)):
            assert refused(codestream([EIGHT], area)) == ("decode_error", "the JPEG 2000 states no size")
        assert refused(codestream([])) == ("decode_error", "the JPEG 2000 states no size")

    def test_channels_that_differ_or_are_smaller(self) -> None:
        for part in ((8, 1, 1), (7, 2, 1), (7, 1, 2), (0x87, 1, 1)):
            for parts in ([EIGHT, part], [part, EIGHT, EIGHT], [EIGHT, EIGHT, part]):
                assert refused(codestream(parts)) == (
                    "unsupported",
                    "it is a JPEG 2000 whose channels differ in their samples or sizes" + WAY_OUT,
                )
        for part in ((7, 2, 1), (7, 1, 2), (7, 2, 2), (7, 0, 1), (7, 1, 0)):
            assert refused(codestream([part])) == ("unsupported", "it is a JPEG 2000 whose channels are smaller than the picture" + WAY_OUT)

    def test_without_an_end_it_is_cut(self) -> None:
        for end, cut in (
            (b"\xff\xd9", False),
            (b"\xff\xd9\0\0\0", False),
            (b"", True),
            (b"\xff", True),
            (b"\xff\xd9x", True),
            (b"\xff\xd8", True),
        ):
            assert told(read(codestream([EIGHT], end=end))) == (wavelets("grey", 1), 300, 2, 1, 1, False, cut)

    def test_that_ends_within_its_header(self) -> None:
        for data in (codestream([EIGHT])[:44], codestream([EIGHT])[:30], codestream([EIGHT] * 3, end=b"", channels=20)):
            assert refused(data) == ("truncated", "the JPEG2000 ends too early: its header is not whole")

    @pytest.mark.parametrize(
        ("inner", "channels", "colors"),
        [
            ([], 1, "grey"),
            ([], 3, "RGB"),
            ([stated(16)], 3, "RGB"),
            ([stated(17)], 3, "grey"),
            ([stated(17)], 1, "grey"),
            ([stated(18)], 3, "YCbCr"),
            ([stated(12)], 4, "CMYK"),
            ([stated(14)], 3, "colour space 14"),
            ([stated(70_000)], 3, "colour space 70000"),
            ([stated(18, method=2)], 3, "RGB"),
            ([stated(18, method=0)], 3, "RGB"),
            ([stated(14, method=2), stated(18), stated(12)], 3, "YCbCr"),
            ([stated(18), box(b"pclr", b"palette")], 1, "palette"),
            ([box(b"pclr", b"palette")], 1, "palette"),
            ([box(b"pcls", b"none"), box(b"aclr", b"none")], 1, "grey"),
            ([box(b"cols", stated(18)[8:]), box(b"colq", stated(18)[8:])], 3, "RGB"),
        ],
    )
    def test_the_colours_in_a_box(self, inner: list[bytes], channels: int, colors: str) -> None:
        data = jp2(box(b"jp2h", IHDR, *inner), box(b"jp2c", codestream([EIGHT] * channels)))
        assert told(read(data)) == (wavelets(colors, channels), 300, 2, 1, 1, False, False)

    def test_what_pixels_need_is_kept(self) -> None:
        stream = codestream([EIGHT] * 3)
        kept = [IHDR, box(b"bpcc", b"1"), stated(16), box(b"pclr", b"23"), box(b"cmap"), box(b"cdef", b"4")]
        lost = [box(b"res ", b"5"), box(b"xml ", b"6"), box(b"bpcd"), box(b"ihds"), box(b"zzzz"), box(b"AAAA")]
        mixed = [each for pair in zip(kept, lost, strict=True) for each in pair]
        data = jp2(box(b"uuid", b"7"), box(b"jp2h", *mixed), box(b"xml ", b"8"), box(b"jp2c", stream), box(b"uuid", b"9")) + b"\xff\xd9"
        header = box(b"jp2h", *kept)
        assert read(data).stripped() == JP2 + FTYP + header + b"\0\0\0\0jp2c" + stream
        assert told(read(data)) == (wavelets("palette", 3), 300, 2, 1, 1, False, False)

    def test_of_several_codestreams_and_headers_the_first(self) -> None:
        first, second = codestream([EIGHT] * 3), codestream([EIGHT], (9, 9, 0, 0))
        data = jp2(box(b"jp2h", stated(18)), box(b"jp2h", stated(12)), box(b"jp2c", first), box(b"jp2c", second))
        assert told(read(data)) == (wavelets("YCbCr", 3), 300, 2, 1, 2, False, False)
        assert read(data).stripped() == JP2 + FTYP + box(b"jp2h", stated(18)) + b"\0\0\0\0jp2c" + first

    def test_without_a_header_or_a_codestream(self) -> None:
        header, stream = box(b"jp2h", IHDR), box(b"jp2c", codestream([EIGHT]))
        for data in (jp2(), jp2(header), jp2(stream), jp2(box(b"jp2g", IHDR), stream), jp2(box(b"jp2i", IHDR), stream)):
            assert refused(data) == ("truncated", "the JPEG2000 ends too early: it has no picture")
        for name in (b"jp2b", b"jp2d"):
            assert refused(jp2(header, box(name, codestream([EIGHT])))) == ("truncated", "the JPEG2000 ends too early: it has no picture")

    def test_without_a_codestream_where_one_is_stated(self) -> None:
        for wrong in (b"\xff\x4f\xff\x52", b"\xff\x4f\xff\x50", b"\0\0\0\0"):
            data = jp2(box(b"jp2h", IHDR), box(b"jp2c", wrong + codestream([EIGHT])[4:]))
            assert refused(data) == ("decode_error", "the JPEG 2000 has no codestream where it states one")


def av1(flags: int) -> bytes:
    return box(b"av1C", bytes([0x81, 0xFF & ~flags, flags, 0xFF & ~flags]))


def hevc(chroma: int, depth: int) -> bytes:
    return box(b"hvcC", bytes([0xA5]) * 16 + bytes([0xFC | chroma, 0xF8 | depth - 8]) + bytes([0x5A]) * 3)


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", struct.pack(">III", 0, width, height))


def full(name: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(name, bytes([version]), flags.to_bytes(3, "big"), *parts)


def ipma(items: list[tuple[int, list[int]]], version: int = 0, flags: int = 0) -> bytes:
    """Return which properties each item has, every second one marked as essential."""
    found = struct.pack(">I", len(items))
    for item, numbers in items:
        found += struct.pack(">I" if version else ">H", item) + bytes([len(numbers)])
        for place, number in enumerate(numbers):
            essential = place % 2 == 0
            found += struct.pack(">H", number | essential << 15) if flags & 1 else bytes([number | essential << 7])
    return full(b"ipma", version, flags, found)


def meta(properties: list[bytes], associations: bytes, primary: int = 1, version: int = 0) -> bytes:
    pitm = full(b"pitm", version, 0, struct.pack(">I" if version else ">H", primary), b"\x77\x77")
    return full(b"meta", 0, 0, full(b"hdlr", 0, 0), pitm, box(b"iprp", box(b"ipco", *properties), associations))


PICTURE = [ispe(300, 2), av1(0)]
MAPPED = ipma([(1, [1, 2])])
AVIF = box(b"ftyp", b"avif\0\0\0\0")
MDAT = box(b"mdat", b"pixels")


def av1_kind(colors: str = "YCbCr 444", channels: int = 3, depth: int = 8) -> Kind:
    return Kind("AVIF", depth, "uint", colors, channels, False, "AV1")


class TestHeif:
    def test_what_a_plain_file_says(self) -> None:
        data = AVIF + meta(PICTURE, MAPPED) + MDAT
        assert told(read(data)) == (av1_kind(), 300, 2, 0, 1, False, False)
        assert read(data).stripped() == data and read(data).complete is None

    @pytest.mark.parametrize(
        ("flags", "depth", "colors"),
        [
            (0, 8, "YCbCr 444"),
            (0x20, 8, "YCbCr 444"),
            (0x40, 10, "YCbCr 444"),
            (0x60, 12, "YCbCr 444"),
            (0x10, 8, "grey"),
            (0x1C, 8, "grey"),
            (0x0C, 8, "YCbCr 420"),
            (0x08, 8, "YCbCr 422"),
            (0x04, 8, "YCbCr"),
            (0x83, 8, "YCbCr 444"),
            (0xEF, 12, "YCbCr 420"),
        ],
    )
    def test_the_depth_and_the_colours_of_av1(self, flags: int, depth: int, colors: str) -> None:
        data = AVIF + meta([ispe(300, 2), av1(flags)], MAPPED) + MDAT
        assert told(read(data)) == (av1_kind(colors, 1 if colors == "grey" else 3, depth), 300, 2, 0, 1, False, False)

    @pytest.mark.parametrize(("chroma", "colors"), list(enumerate(("grey", "YCbCr 420", "YCbCr 422", "YCbCr 444"))))
    @pytest.mark.parametrize("depth", [8, 10, 12, 15])
    def test_the_depth_and_the_colours_of_hevc(self, chroma: int, colors: str, depth: int) -> None:
        data = box(b"ftyp", b"heic\0\0\0\0") + meta([hevc(chroma, depth), ispe(300, 2)], MAPPED) + MDAT
        kind = Kind("HEIF", depth, "uint", colors, 1 if colors == "grey" else 3, False, "HEVC")
        assert told(boxes.read_heif(data, "HEIF")) == (kind, 300, 2, 0, 1, False, False)

    @pytest.mark.parametrize("version", [0, 1])
    @pytest.mark.parametrize("flags", [0, 1])
    @pytest.mark.parametrize("pitm", [0, 1])
    def test_the_properties_are_those_of_the_primary_item(self, version: int, flags: int, pitm: int) -> None:
        properties = [ispe(1, 1), av1(0), ispe(5, 5), av1(0x10), ispe(300, 2), av1(0x4C)]
        listed = ipma([(1, [1, 2]), (2, [3]), (258, [4, 2, 6, 5]), (3, [3, 4])], version, flags)
        header = read(AVIF + meta(properties, listed, 258, pitm) + MDAT)
        assert told(header) == (av1_kind("grey", 1), 300, 2, 0, 1, False, False)

    @pytest.mark.parametrize("flags", [0, 1, 2, 3])
    def test_numbers_beyond_the_properties_are_none(self, flags: int) -> None:
        header = read(AVIF + meta(PICTURE, ipma([(1, [0, 3, 100, 1])], flags=flags)) + MDAT)
        assert told(header) == (av1_kind(), 300, 2, 0, 1, False, False)

    def test_property_numbers_of_fifteen_bits(self) -> None:
        properties = [box(b"free")] * 300 + PICTURE
        assert read(AVIF + meta(properties, ipma([(1, [301, 302])], flags=1)) + MDAT).width == 300

    def test_the_coding_of_a_grid_is_that_of_its_first_tile(self) -> None:
        properties = [av1(0x4C), ispe(1, 1), av1(0), ispe(300, 2)]
        header = read(AVIF + meta(properties, ipma([(1, [1, 2]), (2, [4])]), 2) + MDAT)
        assert told(header) == (av1_kind("YCbCr 420", 3, 10), 300, 2, 0, 1, False, False)

    def test_a_picture_of_which_nothing_is_known(self) -> None:
        size, coding = ispe(300, 2), av1(0)
        pitm, ipco, iprp = full(b"pitm", 0, 0, b"\0\1"), box(b"ipco", size, coding), box(b"iprp", box(b"ipco", size, coding), MAPPED)
        for broken in (
            meta([size], ipma([(1, [1])])),
            meta([coding], ipma([(1, [1])])),
            meta([size, coding], ipma([(1, [2])])),
            meta([size, coding], ipma([(2, [1, 2])])),
            meta([size, coding], ipma([])),
            meta([size, box(b"av1D", b"\0\0\0\0"), box(b"av1B"), box(b"hvcD"), box(b"hvcB")], MAPPED),
            full(b"meta", 0, 0, iprp),
            full(b"meta", 0, 0, pitm),
            full(b"meta", 0, 0, pitm, box(b"iprp", ipco)),
            full(b"meta", 0, 0, pitm, box(b"iprp", MAPPED)),
            full(b"meta", 0, 0, pitm, box(b"iprq", ipco, MAPPED)),
        ):
            assert refused(AVIF + broken + MDAT) == ("decode_error", "the AVIF does not say what its image is")

    def test_the_first_of_two_sizes_and_codings(self) -> None:
        header = read(AVIF + meta([ispe(300, 2), ispe(1, 1), av1(0x10), av1(0)], ipma([(1, [1, 2, 3, 4])])) + MDAT)
        assert told(header) == (av1_kind("grey", 1), 300, 2, 0, 1, False, False)

    @pytest.mark.parametrize("name", [b"ftyp", b"meta", b"mdat", b"moov"])
    def test_a_part_that_is_not_whole(self, name: bytes) -> None:
        whole = AVIF + meta(PICTURE, MAPPED)
        assert read(whole + box(name, b"12")).width == 300
        assert refused(whole + box(name, b"12")[:-1]) == ("truncated", "the AVIF ends too early: a part is not whole")

    @pytest.mark.parametrize("name", [b"free", b"skip", b"uuid", b"mdau", b"moow", b"zzzz", b"AAAA"])
    def test_another_part_that_is_not_whole_costs_nothing(self, name: bytes) -> None:
        data = AVIF + meta(PICTURE, MAPPED) + MDAT + box(name, b"12")[:-1]
        assert told(read(data)) == (av1_kind(), 300, 2, 0, 1, False, False)

    @pytest.mark.parametrize(("name", "article"), [("AVIF", "an"), ("HEIF", "a")])
    def test_a_sequence_without_a_still_image(self, name: str, article: str) -> None:
        for data in (AVIF + MDAT, AVIF + box(b"metb", meta(PICTURE, MAPPED)[8:]) + MDAT, AVIF + track(3)):
            with pytest.raises(BadImage) as caught:
                boxes.read_heif(data, name)
            assert caught.value.reason == "unsupported"
            assert caught.value.message == f"it is {article} {name} sequence without a still image" + WAY_OUT

    def test_the_number_of_frames_is_that_of_the_longest_track(self) -> None:
        def pictures(*more: bytes) -> int:
            header: Header = read(AVIF + meta(PICTURE, MAPPED) + b"".join(more) + MDAT)
            assert told(header) == (av1_kind(), 300, 2, 0, header.pictures, False, False)
            return header.pictures

        inner = track(5)[8:]
        assert pictures() == 1
        assert pictures(track(0)) == 1 and pictures(track(1)) == 1 and pictures(track(2)) == 2 and pictures(track(2**31 + 5)) == 2**31 + 5
        assert pictures(box(b"moov", inner, track(9)[8:], track(3)[8:])) == 9
        assert pictures(track(4), track(6), track(5)) == 6
        assert pictures(box(b"moov", box(b"mvhd", b"1"), inner, box(b"udta"))) == 5
        assert pictures(box(b"moov", box(b"trak"), inner)) == 5 and pictures(box(b"moov", inner, box(b"trak"))) == 5
        for other in (b"tral", b"traj", b"AAAA", b"zzzz"):
            assert pictures(box(b"moov", box(other, inner[8:]))) == 1
        assert pictures(box(b"moow", inner)) == 1 and pictures(box(b"moou", inner)) == 1


def track(frames: int) -> bytes:
    """Return a movie of one track."""
    sizes = full(b"stsz", 0, 0, struct.pack(">III", 77, frames, 99))
    return box(b"moov", box(b"trak", box(b"tkhd"), box(b"mdia", box(b"minf", box(b"stbl", box(b"stts"), sizes)))))
