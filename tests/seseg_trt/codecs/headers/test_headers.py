"""What is read of a file before it is decoded: metadata, frames, missing rows, kinds that are not decoded."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, features

from seseg_trt.codecs import headers, pillow
from seseg_trt.codecs.headers import tiff
from seseg_trt.codecs.headers.sniff import file_format
from seseg_trt.errors import BadImage
from seseg_trt.options import DecodeOptions
from tests.corpus import make_images, png_of, saved, scene

AS_STORED = DecodeOptions(exif_orientation=False)
FIRST = DecodeOptions(frames="first")
PICTURE = Image.fromarray(scene())
OTHER = PICTURE.transpose(Image.Transpose.ROTATE_180)
THIRD = PICTURE.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
PLAIN = DecodeOptions()
HAS_AVIF = "avif" in features.modules and features.check("avif")


def pixels_of(data: bytes, options: DecodeOptions = PLAIN) -> npt.NDArray[np.uint8]:
    return np.asarray(pillow.decode(data, options).image)


def refusal(data: bytes, options: DecodeOptions = PLAIN) -> BadImage:
    with pytest.raises(BadImage) as caught:
        pillow.decode(data, options)
    return caught.value


def chunk(name: bytes, data: bytes, *, flip: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ flip)


def segment(marker: int, body: bytes, length: int | None = None) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2 if length is None else length) + body


def riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) & 1)


JPEG, PNG, WEBP, TIFF = (saved(PICTURE, name) for name in ("JPEG", "PNG", "WEBP", "TIFF"))
GIF, JP2 = saved(PICTURE.quantize(64), "GIF"), saved(PICTURE, "JPEG2000")
BIG = zlib.compress(b"x" * 2_000_000)


class TestMetadataCostsNoPixels:
    @pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE])
    @pytest.mark.parametrize(
        "body", [b"", b"J", b"JFIF\0", b"Exif\0\0", b"Adobe", b"Adobe\0\x64", b"ICC_PROFILE\0\1", b"MPF\0II*\0", b"\xff" * 9]
    )
    def test_short_segments_of_a_jpeg(self, marker: int, body: bytes) -> None:
        assert np.array_equal(pixels_of(JPEG[:2] + segment(marker, body) + JPEG[2:]), pixels_of(JPEG))

    @pytest.mark.parametrize("length", [0, 1])
    def test_a_segment_that_is_shorter_than_its_own_length(self, length: int) -> None:
        assert np.array_equal(pixels_of(JPEG[:2] + segment(0xE5, b"", length) + JPEG[2:]), pixels_of(JPEG))

    @pytest.mark.parametrize("between", [b"\xff\xff\xff", b"\0\0\0", b"lost\0", b"\xff\x01", b"\xff\0\xff\0"])
    def test_what_lies_between_segments(self, between: bytes) -> None:
        assert np.array_equal(pixels_of(JPEG[:20] + between + JPEG[20:]), pixels_of(JPEG))

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            (b"zTXt", b"workflow\0\0" + BIG),
            (b"iTXt", b"workflow\0\1\0\0\0" + BIG),
            (b"iCCP", b"profile\0\0" + BIG),
            (b"iCCP", b"no end"),
            (b"tRNS", b"\0"),
            (b"bKGD", b""),
            (b"pHYs", b"\0"),
            (b"gAMA", b""),
            (b"hIST", b"odd"),
            (b"sBIT", bytes(40)),
            (b"eXIf", b"\xff" * 30),
            (b"PLTE", bytes(7)),
            (b"zzZz", bytes(2_000_000)),
        ],
    )
    @pytest.mark.parametrize("flip", [0, 1], ids=["right_sum", "wrong_sum"])
    @pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
    def test_ancillary_chunks_of_a_png(self, name: bytes, data: bytes, flip: int, late: bool) -> None:
        extra = chunk(name, data, flip=flip)
        changed = PNG[:-12] + extra + PNG[-12:] if late else PNG[:33] + extra + PNG[33:]
        assert np.array_equal(pixels_of(changed), scene())

    def test_seventy_megabytes_of_text(self) -> None:
        text = chunk(b"tEXt", b"k\0" + b"x" * (1 << 20))
        assert np.array_equal(pixels_of(PNG[:33] + text * 70 + PNG[33:]), scene())

    @pytest.mark.parametrize("name", [b"EXIF", b"XMP ", b"ICCP", b"junk"])
    @pytest.mark.parametrize("flags", [0, 0b00101100])
    def test_chunks_of_a_webp(self, name: bytes, flags: int) -> None:
        extended = riff(b"VP8X", bytes([flags, 0, 0, 0]) + (119).to_bytes(3, "little") + (79).to_bytes(3, "little"))
        body = b"WEBP" + extended + riff(name, b"\xff" * 51) + WEBP[12:] + riff(name, b"\0" * 9)
        assert np.array_equal(pixels_of(b"RIFF" + struct.pack("<I", len(body)) + body), pixels_of(WEBP))

    @pytest.mark.parametrize("tag", [270, 34675, 34665, 700, 33723, 34853, 50341, 65_000])
    @pytest.mark.parametrize(("field", "count", "place"), [(2, 2**31, 2**31), (7, 99, 2**32 - 1), (99, 1, 0), (4, 1, 8), (5, 0, 0)])
    def test_private_tags_of_a_tiff(self, tag: int, field: int, count: int, place: int) -> None:
        entries = directory_of(TIFF)
        data = with_directory(TIFF, [*entries, struct.pack("<HHII", tag, field, count, place)])
        assert np.array_equal(pixels_of(data), scene())
        assert np.array_equal(pixels_of(with_directory(data, directory_of(data) + directory_of(data)[-1:])), scene())

    @pytest.mark.parametrize("label", [0xFE, 0xFF, 0x01, 0x77])
    def test_extensions_of_a_gif(self, label: int) -> None:
        at = GIF.index(b"!\xf9") if b"!\xf9" in GIF else GIF.index(b",", 13 + 192)
        assert np.array_equal(pixels_of(GIF[:at] + bytes([0x21, label, 3]) + b"abc\0" + GIF[at:]), pixels_of(GIF))

    def test_boxes_of_a_jpeg_2000(self) -> None:
        box = struct.pack(">I4s", 24, b"uuid") + b"\xff" * 16
        assert np.array_equal(pixels_of(JP2[:32] + box + JP2[32:]), pixels_of(JP2))

    @pytest.mark.parametrize("name", [n for n, (_, expected) in make_images().items() if expected == "mask" and not n.startswith("icon")])
    def test_nothing_private_reaches_a_decoder(self, name: str) -> None:
        data = make_images()[name][0]
        header = headers.read(data)
        assert headers.read(header.stripped()).kind == header.kind
        assert len(header.stripped()) <= len(data) + 1_000


def directory_of(data: bytes) -> list[bytes]:
    at = struct.unpack_from("<I", data, 4)[0]
    return [data[at + 2 + 12 * k : at + 14 + 12 * k] for k in range(struct.unpack_from("<H", data, at)[0])]


def with_directory(data: bytes, entries: list[bytes], following: int = 0) -> bytes:
    place = len(data) + (len(data) & 1)
    whole = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)
    return data[:4] + struct.pack("<I", place) + data[8:] + bytes(place - len(data)) + whole


def entry(tag: int, value: int, field: int = 4) -> bytes:
    return struct.pack("<HHII", tag, field, 1, value)


def apng(frames: int, hidden: bool) -> bytes:
    parameters: dict[str, Any] = {"default_image": hidden} if hidden else {}
    return saved(PICTURE, "PNG", save_all=True, append_images=[OTHER, THIRD][: frames - 1 + hidden], duration=40, **parameters)


class TestSeveralPictures:
    @staticmethod
    def animated(name: str) -> bytes:
        if name == "PPM":
            return b"".join(saved(image, "PPM") for image in (PICTURE, OTHER, THIRD))
        first, *others = (image.quantize(64) if name == "GIF" else image.copy() for image in (PICTURE, OTHER, THIRD))
        how = {"lossless": True} if name == "WEBP" else {}
        return saved(first, name, save_all=True, append_images=others, **how)

    @pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF", "PPM"])
    def test_are_refused_with_their_number_or_the_first_is_taken(self, name: str) -> None:
        data = self.animated(name)
        bad = refusal(data)
        assert bad.reason == "several_frames" and ("3 pictures" in bad.message or name == "PPM") and "--frames first" in bad.message
        expected = np.asarray(PICTURE.quantize(64).convert("RGB")) if name == "GIF" else scene()
        assert np.array_equal(pixels_of(data, FIRST), expected)

    @pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF decoder")
    def test_an_avif_sequence(self) -> None:
        data = saved(PICTURE, "AVIF", save_all=True, append_images=[OTHER, THIRD], quality=90)
        bad = refusal(data)
        assert bad.reason == "several_frames" and "3 pictures" in bad.message
        assert np.abs(pixels_of(data, FIRST).astype(int) - scene()).mean() < 20

    @pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF decoder")
    def test_bytes_behind_an_avif_cost_nothing(self) -> None:
        data = saved(PICTURE, "AVIF", quality=90)
        for more in (b"\0" * 9, b"\xff" * 40, b"more than there was"):
            assert np.array_equal(pixels_of(data + more), pixels_of(data))

    def test_a_still_image_that_an_animation_hides(self) -> None:
        assert headers.read(apng(1, hidden=True)).pictures == 2
        assert headers.read(apng(2, hidden=False)).pictures == 2
        assert headers.read(PNG).pictures == 1

    def test_an_animation_that_states_fewer_frames_than_it_has(self) -> None:
        data = apng(3, hidden=False)
        at = data.index(b"acTL")
        stated = chunk(b"acTL", struct.pack(">II", 1, 0))
        assert refusal(data[: at - 4] + stated + data[at + 16 :]).reason == "several_frames"

    def test_one_frame_is_a_picture(self) -> None:
        body = b"WEBP" + riff(b"VP8X", bytes([2, 0, 0, 0]) + (119).to_bytes(3, "little") + (79).to_bytes(3, "little"))
        frame = bytes(6) + (119).to_bytes(3, "little") + (79).to_bytes(3, "little") + bytes(4)
        body += riff(b"ANIM", bytes(6)) + riff(b"ANMF", frame + WEBP[12:])
        data = b"RIFF" + struct.pack("<I", len(body)) + body
        assert headers.read(data).pictures == 1 and pixels_of(data).shape == (80, 120, 3)

    def test_of_the_jpegs_of_an_mpo_the_largest(self) -> None:
        small = PICTURE.resize((60, 40))
        for images, size in (([PICTURE, small], (120, 80)), ([small, PICTURE], (120, 80)), ([PICTURE, OTHER], (120, 80))):
            data = saved(images[0].copy(), "MPO", save_all=True, append_images=images[1:], quality=95)
            decoded = pillow.decode(data, DecodeOptions())
            assert (decoded.width, decoded.height) == size
            assert np.abs(np.asarray(decoded.image).astype(int) - scene()).mean() < 20

    def test_of_an_icons_sizes_the_largest(self) -> None:
        for kind in ("png", "bmp"):
            sizes = [(64, 64), (16, 16), (32, 32)]
            data = saved(PICTURE.resize((64, 64)).convert("RGBA"), "ICO", sizes=sizes, bitmap_format=kind)
            assert (pixels_of(data) == np.asarray(PICTURE.resize((64, 64)))).all()

    def test_an_icon_whose_directory_understates_a_picture(self) -> None:
        inside = png_of(30_000, 30_000, 8, 2, bytes(100))
        data = b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22) + inside
        assert refusal(data, DecodeOptions(max_pixels=1_000_000)).reason == "too_large"

    def test_a_thumbnail_before_the_picture_of_a_tiff(self) -> None:
        thumbnail = saved(PICTURE.resize((12, 8)), "TIFF")
        whole = thumbnail + bytes(len(thumbnail) & 1)
        shift = len(whole)
        moved = []
        for each in directory_of(TIFF):
            tag, field, count, value = struct.unpack("<HHII", each)
            far = tag == 273 or count * {2: 1, 3: 2, 4: 4, 5: 8}[field] > 4
            moved.append(struct.pack("<HHII", tag, field, count, value + shift if far else value))
        both = whole + TIFF
        page = len(both) + (len(both) & 1)
        both += bytes(page - len(both)) + struct.pack("<H", len(moved)) + b"".join(moved) + bytes(4)
        data = with_directory(both, [entry(254, 1), *directory_of(thumbnail)], page)
        assert np.array_equal(pixels_of(data), scene())
        assert refusal(with_directory(both, directory_of(thumbnail), page)).reason == "several_frames"

    def test_a_raw_photograph_whose_first_directory_is_a_thumbnail(self) -> None:
        data = with_directory(TIFF, [entry(254, 1), *directory_of(TIFF)])
        assert refusal(data).reason == "unsupported" and "thumbnail" in refusal(data).message

    def test_pictures_in_sub_directories(self) -> None:
        at = struct.unpack_from("<I", TIFF, 4)[0]
        assert refusal(with_directory(TIFF, [*directory_of(TIFF), entry(330, at)])).reason == "several_frames"
        mask = with_directory(TIFF, [entry(254, 4), *directory_of(TIFF)])
        inner = struct.unpack_from("<I", mask, 4)[0]
        assert np.array_equal(pixels_of(with_directory(mask, [*directory_of(TIFF), entry(330, inner)])), scene())

    def test_directories_in_a_circle(self) -> None:
        at = struct.unpack_from("<I", TIFF, 4)[0]
        data = TIFF[: at + 2 + 12 * len(directory_of(TIFF))] + struct.pack("<I", at)
        assert headers.read(data + TIFF[len(data) :]).pictures == 1


class TestMissingRows:
    @pytest.mark.parametrize(
        ("color", "channels", "depth"), [(0, 1, 1), (0, 1, 8), (0, 1, 16), (2, 3, 8), (2, 3, 16), (4, 2, 8), (6, 4, 8)]
    )
    @pytest.mark.parametrize("missing", [1, 20, 39])
    def test_of_a_png(self, color: int, channels: int, depth: int, missing: int) -> None:
        row = b"\0" + b"\xa5" * ((64 * channels * depth + 7) // 8)
        assert refusal(png_of(64, 40, depth, color, row * (40 - missing))).reason == "truncated"
        assert pixels_of(png_of(64, 40, depth, color, row * 40)).any()

    def test_black_rows_are_there(self) -> None:
        assert not pixels_of(png_of(64, 40, 8, 2, bytes(40 * 193))).any()

    def test_of_a_png_with_a_palette_or_interlaced(self) -> None:
        image = PICTURE.quantize(64)
        whole = saved(image, "PNG")
        start = whole.index(b"IDAT")
        rows = zlib.decompress(whole[start + 4 : start + 4 + struct.unpack_from(">I", whole, start - 4)[0]])
        cut = whole[: start - 4] + chunk(b"IDAT", zlib.compress(rows[:-121])) + chunk(b"IEND", b"")
        assert refusal(cut).reason == "truncated"
        passes = png_of(8, 8, 8, 0, b"\0\7" * 3)
        interlaced = bytearray(passes)
        interlaced[28] = 1
        interlaced[29:33] = struct.pack(">I", zlib.crc32(interlaced[12:29]))
        assert refusal(bytes(interlaced)).reason == "truncated"

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4", "group3", "jpeg", None])
    def test_of_a_tiff(self, compression: str | None) -> None:
        image = PICTURE.convert("1") if compression in ("group3", "group4") else PICTURE
        whole = saved(image, "TIFF", compression=compression)
        assert pixels_of(whole).shape == (80, 120, 3)
        counts = [k for k, each in enumerate(directory_of(whole)) if struct.unpack_from("<H", each)[0] == 279]
        entries = directory_of(whole)
        tag, field, count, value = struct.unpack("<HHII", entries[counts[0]])
        assert count == 1
        entries[counts[0]] = struct.pack("<HHII", tag, field, count, value * 2 // 3)
        assert refusal(with_directory(whole, entries)).reason in {"truncated", "decode_error"}

    def test_strips_that_a_tiff_does_not_have(self) -> None:
        entries = [each for each in directory_of(TIFF) if struct.unpack_from("<H", each)[0] not in (257, 278)]
        data = with_directory(TIFF, sorted([*entries, entry(257, 100), entry(278, 80)], key=lambda each: struct.unpack_from("<H", each)))
        assert refusal(data).reason == "truncated"

    def test_of_a_gif(self) -> None:
        at = GIF.index(b",", 13 + 3 * 64)
        assert GIF[at + 10] == 8  # codes have 9 bits: 256 clears the table, 257 ends the picture
        for colour in (0, 1):
            codes = 256 | colour << 9 | colour << 18 | 257 << 27
            cut = GIF[: at + 11] + b"\5" + codes.to_bytes(5, "little") + b"\0;"
            assert refusal(cut).reason == "truncated"

    @pytest.mark.parametrize("name", ["BMP", "PPM"])
    def test_of_files_without_compression(self, name: str) -> None:
        assert refusal(saved(PICTURE, name)[:-360]).reason == "truncated"


class TestNamed:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"\0\0\0\x18ftypcrx \0\0\0\1mif1heic", "Canon raw"),
            (b"\0\0\0\x18ftypisom\0\0\0\1isomavc1", "video"),
            (b"P7\nWIDTH 4\n", "PAM"),
            (b"PF\n4 4\n-1.0\n", "floating-point"),
            (b"\0\0\2\0\1\0\x10\x10", "cursor"),
            (b"<!DOCTYPE html><html>", "HTML"),
            (b"\xff\xd8\xff\xf7\0\x0b\x08\0\4\0\4\1\1\x11\0\xff\xda\0\x08\1\1\0\0\0\0", "JPEG-LS"),
            (b"Rar!\x1a\7\0", "archive"),
        ],
    )
    def test_by_what_it_is_and_the_way_out(self, data: bytes, words: str) -> None:
        bad = refusal(data + bytes(3_000))
        assert bad.reason == "unsupported" and words in bad.message and "; " in bad.message

    def test_a_jpeg_of_twelve_bits(self) -> None:
        at = JPEG.index(b"\xff\xc0")
        bad = refusal(JPEG[: at + 4] + b"\x0c" + JPEG[at + 5 :])
        assert bad.reason == "unsupported" and "12-bit" in bad.message

    @pytest.mark.parametrize("brand", [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1"])
    def test_heif_names_its_extra(self, brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        bad = refusal(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\1mif1heic" + bytes(3_000))
        assert bad.reason == "unsupported" and "[heif]" in bad.message

    def test_an_avif_under_the_general_brand(self) -> None:
        assert file_format(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") == "AVIF"
        assert file_format(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic") == "HEIF"


class TestTiff:
    def test_a_value_that_a_tag_cannot_have_is_no_reason_to_reserve_memory(self) -> None:
        for tag, value in ((277, 65_535), (258, 65_535), (257, 2**31 - 1), (278, 0), (322, 2**31)):
            entries = [each for each in directory_of(TIFF) if struct.unpack_from("<H", each)[0] != tag]
            entries = sorted([*entries, entry(tag, value)], key=lambda each: struct.unpack_from("<H", each))
            assert refusal(with_directory(TIFF, entries)).reason in {"unsupported", "decode_error", "truncated", "too_large"}

    def test_a_tag_that_is_named_twice(self) -> None:
        assert refusal(with_directory(TIFF, [*directory_of(TIFF), entry(262, 1)])).reason == "decode_error"

    @pytest.mark.parametrize("changed", [{338: (1,)}, {262: (8,)}, {266: (2,)}, {339: (2,)}, {332: (2,), 262: (5,)}])
    def test_what_changes_the_meaning_of_samples(self, changed: dict[int, tuple[int, ...]]) -> None:
        rgba = saved(PICTURE.convert("RGBA"), "TIFF")
        entries = [each for each in directory_of(rgba) if struct.unpack_from("<H", each)[0] not in changed]
        entries += [struct.pack("<HHIHH", tag, 3, 1, value[0], 0) for tag, value in changed.items()]
        data = with_directory(rgba, sorted(entries, key=lambda each: struct.unpack_from("<H", each)))
        assert refusal(data).reason in {"unsupported", "decode_error"}

    def test_a_directory_of_one_picture_alone_is_passed_on(self) -> None:
        data = saved(PICTURE.copy(), "TIFF", save_all=True, append_images=[OTHER.copy()])
        assert headers.read(headers.read(data).stripped()).pictures == 1
        tags, following = tiff.read_directory(headers.read(data).stripped(), frozenset({256}))
        assert (tags, following) == ({256: (120,)}, 0)


def test_a_reader_answers_for_any_bytes() -> None:
    rng = np.random.default_rng(4)
    for name, (data, _) in make_images().items():
        for size in {0, 1, 9, 17, 33, len(data) // 3, *rng.integers(0, len(data) + 1, 6)} if len(data) < 100_000 else ():
            try:
                headers.read(data[:size])
            except BadImage as bad:
                assert bad.reason in {"empty", "not_an_image", "unsupported", "truncated", "decode_error"}, name


def test_every_format_has_a_reader() -> None:
    assert set(headers._READERS) == set(pillow.FORMATS)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), ValueError("odd"), ZeroDivisionError()])
def test_whatever_a_reader_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> headers.Header:
        raise error

    monkeypatch.setitem(headers._READERS, "PNG", fail)
    bad = refusal(PNG)
    assert bad.reason == "decode_error" and type(error).__name__ in bad.message
