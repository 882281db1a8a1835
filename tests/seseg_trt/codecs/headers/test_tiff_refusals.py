from __future__ import annotations

import pytest

from seseg_trt.codecs.headers import read

from .by_hand import refused, told
from .tiff_by_hand import PIXELS, Tags, damaged, kind, page, refusal, told_of, unsupported, without
from .tiff_by_hand import tiff as tiff_of

END_OF_BLOCK = b"\0\x10\x01"


class TestTheKind:
    @pytest.mark.parametrize(
        ("photometric", "colors", "base"),
        [
            (0, "white is zero", 1), (1, "grey", 1), (2, "RGB", 3), (5, "CMYK", 4), (6, "YCbCr", 3), (8, "CIELAB", 3), (9, "ICCLAB", 3),
            (10, "ITULAB", 3), (32803, "colour filter array", 1), (32844, "LogL", 1), (32845, "LogLuv", 3), (34892, "linear raw", 3),
        ],
    )  # fmt: skip
    def test_the_colours_and_their_channels(self, photometric: int, colors: str, base: int) -> None:
        for channels in range(1, base + 3):
            changed: Tags = {256: 2, 257: 1, 258: 8, 262: photometric, 277: channels, 279: 2 * channels}
            if channels < base:
                assert refusal(changed) == damaged(f"the TIFF has {channels} channels of {colors}")
            else:
                assert told_of(changed).kind == kind(colors, channels)
                assert refusal(changed | {338: (0,) * (channels - base + 1)})[0] == "decode_error"

    def test_unknown_colours_have_any_channels(self) -> None:
        for photometric in (4, 7, 32_804, 65_535):
            for channels in (1, 2, 3, 7):
                header = told_of({256: 2, 257: 1, 262: photometric, 277: channels, 279: 2 * channels})
                assert header.kind == kind(f"photometric {photometric}", channels)

    @pytest.mark.parametrize(
        ("code", "compression"),
        [
            (1, "uncompressed"), (5, "LZW"), (6, "old JPEG"), (7, "JPEG"), (8, "deflate"), (32773, "PackBits"), (32946, "deflate"),
            (33003, "JPEG 2000"), (33005, "JPEG 2000"), (34712, "JPEG 2000"), (34887, "LERC"), (34925, "LZMA"), (50000, "Zstandard"),
            (50001, "WebP"), (50002, "JPEG XL"), (52546, "JPEG XL"), (2, "fax RLE"), (3, "fax group 3"), (4, "fax group 4"),
            (0, "compression 0"), (9, "compression 9"), (32774, "compression 32774"),
        ],
    )  # fmt: skip
    def test_the_compression(self, code: int, compression: str) -> None:
        body = (END_OF_BLOCK if 2 <= code <= 4 else b"x") + b"\xff\xd9" * (code == 7)
        changed: Tags = {256: 1, 257: 1, 258: 1, 259: code, 278: 1, 279: len(body)}
        assert told_of(changed, body).kind == kind(depth=1, compression=compression)
        for predictor, suffix in ((1, ""), (2, " with a predictor"), (3, " with the predictor 3"), (0, " with the predictor 0")):
            assert told_of(changed | {317: predictor}, body).kind == kind(depth=1, compression=compression + suffix)

    @pytest.mark.parametrize(
        ("code", "sample"),
        [
            (0, "unknown"), (1, "uint"), (2, "int"), (3, "float"), (4, "undefined"), (5, "complex int"), (6, "complex float"), (7, "unknown"),
        ],
    )  # fmt: skip
    def test_what_the_samples_are(self, code: int, sample: str) -> None:
        assert told_of({339: code}).kind == kind(sample=sample)

    def test_what_tags_are_when_they_are_left_out(self) -> None:
        header = read(tiff_of(PIXELS, without(page({279: 36}), 258, 259, 277, 278)))
        assert told(header) == (kind(depth=1), 20, 12, 1, 1, False, False)
        for tag, name in ((256, 256), (257, 257), (262, 262)):
            assert refused(tiff_of(PIXELS, without(page(), tag))) == damaged(f"the TIFF's tag {name} has 0 values in place of one")

    @pytest.mark.parametrize("tag", [256, 257, 259, 262, 266, 277, 278, 284, 317, 332])
    def test_tags_with_one_value(self, tag: int) -> None:
        changed: Tags = {262: 5, 277: 4, 256: 5, 284: 1, 266: 1, 317: 1, 332: 1}
        assert told_of(changed).kind == kind("CMYK", 4)
        for values in ((), (1, 1)):
            assert refusal(changed | {tag: values}) == damaged(f"the TIFF's tag {tag} has {len(values)} values in place of one")

    def test_every_channel_has_the_same_samples(self) -> None:
        rgb: Tags = {256: 2, 257: 1, 262: 2, 277: 3, 279: 6}
        for tag, value in ((258, 8), (339, 1)):
            for values in ((value,), (value,) * 3):
                assert told_of(rgb | {tag: values}).kind == kind("RGB", 3)
            for wrong in ((value,) * 2, (value,) * 4, (value, value, value + 1), (value + 1, value, value), (value, value + 1), ()):
                assert refusal(rgb | {tag: wrong}) == unsupported("a TIFF whose channels differ in their samples")

    def test_sizes_and_channels_have_bounds(self) -> None:
        for changed, size in (
            ({256: 2**31 - 1, 257: 1}, (2**31 - 1, 1)),
            ({256: 1, 257: 2**31 - 1, 278: 2**31 - 1}, (1, 2**31 - 1)),
            ({256: 1, 257: 1}, (1, 1)),
        ):
            assert told(told_of({259: 5, **changed}))[1:3] == size
        for width, height in ((0, 1), (1, 0), (2**31, 1), (1, 2**31)):
            changed = {259: 5, 256: width, 257: height, 278: max(1, height)}
            assert refusal(changed) == damaged(f"the TIFF states a size of {width} x {height} pixels")
        assert told_of({256: 1, 257: 1, 277: 64, 279: 64}).kind == kind(channels=64)
        for channels in (0, 65, 65_535):
            assert refusal({256: 1, 257: 1, 277: channels}) == unsupported(f"a TIFF of {channels} channels")


class TestExtras:
    def test_the_extra_channels_are_as_many_as_there_are(self) -> None:
        rgba: Tags = {256: 2, 257: 1, 262: 2, 277: 4, 279: 8}
        for value in (0, 2):
            assert told_of(rgba | {338: value}).kind == kind("RGB", 4)
        for values in ((), (0, 0), (2, 2, 2)):
            assert refusal(rgba | {338: values}) == damaged(f"the TIFF names {len(values)} extra channels and has 1")
        assert refusal({338: 0}) == damaged("the TIFF names 1 extra channels and has 0")

    def test_colours_multiplied_by_alpha(self) -> None:
        five: Tags = {256: 2, 257: 1, 262: 2, 277: 5, 279: 10}
        assert told_of(five | {338: (2, 0)}).kind == kind("RGB", 5)
        for values in ((1, 2), (2, 1), (3, 0), (0, 999)):
            assert refusal(five | {338: values}) == unsupported("a TIFF whose colours are multiplied by its alpha channel")

    def test_inks(self) -> None:
        cmyk: Tags = {256: 2, 257: 1, 262: 5, 277: 4, 279: 8}
        assert told_of(cmyk | {332: 1}).kind == told_of(cmyk).kind == kind("CMYK", 4)
        for ink in (0, 2):
            assert refusal(cmyk | {332: ink}) == unsupported("a TIFF of other inks than CMYK")
            assert told_of({332: ink}).kind == kind()

    def test_planes(self) -> None:
        for planes in (0, 3):
            for changed in ({}, {256: 2, 257: 1, 262: 2, 277: 3, 279: 6}):
                assert refusal({284: planes, **changed}) == damaged(f"the TIFF's planes are arranged in the unknown way {planes}")

    def test_twelve_bits(self) -> None:
        assert told_of({257: 8, 258: 12}).kind == kind(depth=12)
        assert refusal({257: 8, 258: 12}, order=">") == unsupported("a big-endian TIFF of 12-bit samples")
        for depth, row in ((11, 28), (13, 33)):
            assert told_of({257: 7, 258: depth, 278: 7, 279: 7 * row}, order=">").kind == kind(depth=depth)

    def test_bits_in_another_order(self) -> None:
        for depth in (1, 2, 4, 7):
            for photometric, colors in ((0, "white is zero"), (1, "grey")):
                assert told_of({258: depth, 262: photometric, 266: 2, 279: 12 * ((20 * depth + 7) // 8)}).kind == kind(colors, depth=depth)
        palette: Tags = {258: 1, 262: 3, 279: 36, 320: (0,) * 6}
        assert told_of(palette | {266: 1}).kind == kind("palette", depth=1)
        for changed in ({}, {258: 16, 257: 6}, {259: 5, 258: 1, 279: 36}, palette):
            assert refusal({**changed, 266: 2}) == unsupported("a TIFF whose bits are in the order 2")
        for fill in (0, 3):
            for changed in ({}, {258: 1, 279: 36}, {258: 1, 259: 4}):
                assert refusal({**changed, 266: fill}) == unsupported(f"a TIFF whose bits are in the order {fill}")

    @pytest.mark.parametrize("depth", [1, 4, 8, 16])
    def test_a_palette_has_three_times_as_many_values_as_there_are_colours(self, depth: int) -> None:
        row = (20 * depth + 7) // 8
        changed: Tags = {257: 6, 258: depth, 262: 3, 278: 6, 279: 6 * row}
        size = 3 << depth
        for table in ((0,) * size, (256,) + (0,) * (size - 1), (0,) * (size - 1) + (65_535,)):
            assert told_of(changed | {320: table}).kind == kind("palette", depth=depth)
        for wrong in ((), (256,) * (size - 1), (256,) * (size + 1), (256,) * (size // 3)):
            assert refusal(changed | {320: wrong}) == damaged("the TIFF's palette is missing or has a wrong size")
        assert refusal(changed) == damaged("the TIFF's palette is missing or has a wrong size")
        for low in ((1,) + (0,) * (size - 1), (0,) * (size - 1) + (255,)):
            assert refusal(changed | {320: low}) == unsupported("a TIFF whose palette has 8 bits in place of 16")
        message = "the TIFF's tag 320 has the field type 4, which it can't have"
        assert refusal(changed | {320: (256,) * size}, fields={320: 4}) == damaged(message)

    def test_a_palette_of_more_than_sixteen_bits(self) -> None:
        for depth in (17, 32, 65_535):
            assert refusal({259: 5, 258: depth, 262: 3, 320: (0,) * 6}) == damaged("the TIFF's palette is missing or has a wrong size")
        assert refusal({259: 5, 258: 17, 262: 3, 320: (256,) * (3 << 17)}) == damaged("the TIFF's palette is missing or has a wrong size")
