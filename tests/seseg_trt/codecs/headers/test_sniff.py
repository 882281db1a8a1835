from __future__ import annotations

import pytest

from seseg_trt.codecs.headers.sniff import AVIF_BRANDS, HEIF_BRANDS, SIGNATURES, UNSUPPORTED, file_format, unsupported_kind

HEADS: list[tuple[bytes, str]] = [
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript program"),
    (b"\xc5\xd0\xd3\xc6\x1e\0\0\0", "a PostScript program"),
    (b"%PDF-1.7\n", "a PDF document"),
    (b"8BPS\0\1\0\0", "a Photoshop document"),
    (b"\xd7\xcd\xc6\x9a\0\0", "a Windows metafile (a drawing)"),
    (b"\1\0\0\0\x6c\0\0\0".ljust(40, b"\0") + b" EMF\0\0\1\0", "a Windows metafile (a drawing)"),
    (b"SIMPLE  =                    T", "a FITS table"),
    (b"\x89HDF\r\n\x1a\n\0", "HDF5 data"),
    (b"GRIB\0\0\0\2", "a GRIB weather field"),
    (b"BUFR\0\0\1\4", "a BUFR weather report"),
    (b"DDS \x7c\0\0\0", "a DirectDraw texture"),
    (b"qoif\0\0\0\5", "a QOI image"),
    (b"icns\0\0\1\0", "an Apple icon"),
    (b"gimp xcf v011\0", "a GIMP document"),
    (b"v/1\1\2\0\0\0", "an OpenEXR image"),
    (b"#?RADIANCE\nFORMAT=", "a Radiance HDR image"),
    (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14", "a JPEG XL image"),
    (b"\0\0\0\x18ftypcrx \0\0\0\1", "a Canon raw photograph (CR3)"),
    (b"\0\0\0\x14ftypjxl \0\0\0\0", "a JPEG XL image"),
    (b"\0\0\0\x20ftypisom\0\0\2\0", "a video"),
    (b"\0\0\0\x20ftypqt  \0\0\2\0", "a video"),
    (b"\0\1\2\3moov\0\0\0\x6cmvhd", "a video"),
    (b"\x1aE\xdf\xa3\1\0\0\0", "a video"),
    (b"\0\0\1\xba\x44", "a video"),
    (b"FLV\1\5\0\0", "a video"),
    (b"RIFF\x24\0\0\0AVI LIST", "a video"),
    (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9", "a video"),
    (b"OggS\0\2\0\0", "a sound or a video"),
    (b"ID3\4\0\0", "a sound"),
    (b"RIFF\x24\0\0\0WAVEfmt ", "a sound"),
    (b"\0\0\2\0\1\0\x20\x20", "a mouse cursor (CUR)"),
    (b"P7\nWIDTH 4\n", "a PAM image"),
    (b"PF\n4 4\n-1.0\n", "a floating-point image (PFM)"),
    (b"Pf\n4 4\n-1.0\n", "a floating-point image (PFM)"),
    (b"PF4\n4 4\n-1.0\n", "a floating-point image (PFM)"),
    (b"II\xbc\1\x20\0\0\0", "a JPEG XR image"),
    (b"IIU\0\x18\0\0\0", "a raw photograph"),
    (b"IIRO\x08\0\0\0", "a raw photograph"),
    (b"IIRS\x08\0\0\0", "a raw photograph"),
    (b"MMOR\0\0\0\x08", "a raw photograph"),
    (b"FUJIFILMCCD-RAW 0201", "a raw photograph"),
    (b"FOVb\0\0\2\0", "a raw photograph"),
    (b"\0MRM\0\0\0\0", "a raw photograph"),
    (b"\x8aMNG\r\n\x1a\n\0\0", "an MNG animation"),
    (b"\x8bJNG\r\n\x1a\n\0\0", "a JNG image"),
    (b"BPG\xfb\0\0", "a BPG image"),
    (b"FLIF\x31\0", "a FLIF image"),
    (b"\1\xda\0\1\0\2", "an SGI image"),
    (b"\1\xda\1\1\0\3", "an SGI image"),
    (b"\x59\xa6\x6a\x95\0\0", "a Sun raster"),
    (b"AT&TFORM\0\0", "a DjVu document"),
    (b"/* XPM */\nstatic", "an XPM image"),
    (b"#define x_width 4\n", "an XBM image"),
    (bytes(128) + b"DICM\2\0", "a DICOM image"),
    (b"\x93NUMPY\1\0", "a NumPy array"),
    (b"PK\3\4\x14\0", "a ZIP archive"),
    (b"PK\5\6\0\0", "a ZIP archive"),
    (b"Rar!\x1a\7\1\0", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
    (b"\x1f\x8b\x08\0", "a gzip file"),
    (b"BZh91AY", "a bzip2 file"),
    (b"\xfd7zXZ\0\0\4", "an xz file"),
    (b"\x28\xb5\x2f\xfd\4\0", "a Zstandard file"),
    (b"PAR1\x15\4", "a Parquet table"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    (b"picture.png".ljust(257, b"\0") + b"ustar\x0000", "a tar"),
]
"""How files of other formats begin, as those formats' own descriptions give it."""
WAYS_OUT = {
    "video": "extract its frames as images first",
    "sound": "leave it out",
    "archive": "unpack it first",
    "pointer": "fetch the file with `git lfs pull`",
    "file": "unpack it first",
    "tar": "name it itself as an input, and its entries are read",
}


def said(data: bytes) -> tuple[str, str] | None:
    bad = unsupported_kind(data)
    return None if bad is None else (bad.reason, bad.message)


@pytest.mark.parametrize(("head", "what"), HEADS)
def test_a_file_that_is_not_decoded_is_named_with_a_way_out(head: bytes, what: str) -> None:
    way_out = WAYS_OUT.get(what.rpartition(" ")[2], "convert it to a PNG first")
    expected = ("unsupported", f"it is {what}, which is not decoded; {way_out}")
    assert said(head) == said(head + bytes(300)) == expected
    assert said(b"x" + head) != expected


def test_every_format_that_is_not_decoded_has_an_example() -> None:
    shown = [entry for head, _ in HEADS for entry in UNSUPPORTED if head[entry[0] : entry[0] + len(entry[1])] == entry[1]]
    assert set(shown) == set(UNSUPPORTED)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_part_of_a_signature_names_nothing(missing: int) -> None:
    for head in (b"%PDF", b"8BPS", b"GRIB", b"qoif", b"Rar!\x1a\7", b"FLV\1", bytes(128) + b"DICM", bytes(257) + b"ustar"):
        assert said(head[:-missing]) is None and said(head) is not None


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b" \t\r\n", b"\xef\xbb\xbf\n  "])
def test_drawings_and_pages_in_letters_of_any_size(start: bytes) -> None:
    svg = ("unsupported", "it is an SVG drawing, which is not decoded; convert it to a PNG first")
    html = ("unsupported", "it is an HTML page, which is not decoded; fetch the image that it stands for")
    for text in (b"<svg xmlns=", b"<SVG>", b"<?xml version='1.0'?>\n<svg>", b"<?XML?><!-- x --><Svg "):
        assert said(start + text) == svg
    for text in (b"<!doctype html>", b"<!DOCTYPE HTML PUBLIC", b"<html lang='en'>", b"<HTML><svg>"):
        assert said(start + text) == html
    for text in (b"<?xml version='1.0'?><rss>", b"x<svg>", b"x<html>", b"<sv", b"<head>", b"text", b""):
        assert said(start + text) is None


def test_a_drawing_is_looked_for_in_the_first_kilobyte() -> None:
    for length, found in ((1020, True), (1021, False), (5_000, False)):
        assert (said(b"<?xml".ljust(length) + b"<svg>") is not None) is found


def test_the_first_bytes_of_the_formats_that_are_decoded() -> None:
    expected = {
        b"\xff\xd8": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF",
        b"II+\0": "TIFF", b"MM\0+": "TIFF", b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000", b"\xff\x4f\xff\x51": "JPEG2000", b"BM": "BMP",
        b"\0\0\1\0": "ICO",
    }  # fmt: skip
    assert dict(SIGNATURES) == expected
    for head, name in expected.items():
        assert file_format(head) == file_format(head + b"more") == name
        assert file_format(head[:-1]) is None and file_format(b"x" + head) is None and file_format(head[:-1] + b"~") is None


def test_a_webp_is_a_riff_of_its_name() -> None:
    assert file_format(b"RIFF\1\2\3\4WEBP") == file_format(b"RIFF\xff\xff\xff\xffWEBPVP8 ") == "WEBP"
    for data in (
        b"RIFX\1\2\3\4WEBP",
        b"RIFF\1\2\3\4WEBQ",
        b"RIFF\1\2\3\4WAVE",
        b"RIFF\1\2\3WEBP",
        b"RIFFWEBP",
        b"AAAA\1\2\3\4WEBP",
        b"zzzz\1\2\3\4WEBP",
    ):
        assert file_format(data) is None
    assert file_format(b"RIFF\1\2\3\4AAAA") is None and file_format(b"RIFF\1\2\3\4zzzz") is None


def test_the_pnm_family() -> None:
    for number in range(10):
        for behind in b" \t\r\n\f\v#":
            assert file_format(b"P%d" % number + bytes([behind]) + b"4 4") == ("PPM" if 1 <= number <= 6 else None)
        for behind in b"x\0,0":
            assert file_format(b"P%d" % number + bytes([behind])) is None
        assert file_format(b"P%d" % number) is None
    assert file_format(b" P5 4 4") is None


def ftyp(major: bytes, *others: bytes, size: int | None = None) -> bytes:
    length = 16 + 4 * len(others) if size is None else size
    return length.to_bytes(4, "big") + b"ftyp" + major + b"\0\0\0\0" + b"".join(others)


def test_the_brands_of_boxes() -> None:
    assert {b"avif", b"avis"} == AVIF_BRANDS
    assert {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"} == HEIF_BRANDS
    for major in (b"avif", b"avis"):
        for others in ((), (b"mif1", b"heic"), (b"avif",)):
            assert file_format(ftyp(major, *others)) == "AVIF"
    for major in HEIF_BRANDS:
        general = major in (b"mif1", b"msf1", b"mif2")
        assert file_format(ftyp(major)) == file_format(ftyp(major, b"mif1", b"heic")) == "HEIF"
        for others in (
            (b"avif",),
            (b"heic", b"avis"),
            (b"avif", b"heic"),
            (b"one ", b"two ", b"avif"),
        ):
            assert file_format(ftyp(major, *others)) == ("AVIF" if general else "HEIF")
    for major in (b"isom", b"crx ", b"jxl ", b"AAAA", b"zzzz", b"avig", b"heid"):
        assert file_format(ftyp(major, b"avif", b"heic")) is None
    assert file_format(b"\0\0\0\x18ftyq" + b"avif") is None and file_format(b"\0\0\0\x18ftyo" + b"avif") is None


def test_the_brands_are_those_within_the_box_and_the_first_four_kilobytes() -> None:
    def of(number: int, size: int | None = None) -> str | None:
        return file_format(ftyp(b"mif1", *[b"miaf"] * number, b"avif", size=size))

    assert of(0) == of(5) == of(1019) == "AVIF" and of(1020) == of(2_000) == "HEIF"
    assert of(0, 20) == of(0, 23) == "AVIF" and of(0, 19) == of(0, 16) == of(0, 0) == "HEIF"
    assert of(1, 24) == of(1, 2**32 - 1) == "AVIF" and of(1, 23) == "HEIF"
    assert file_format(ftyp(b"mif1", b"\0\0av", b"if\0\0")) == "HEIF"  # across two brands
    assert file_format(b"\0\0\0\x14ftypmif1avif") == "HEIF"  # where the version lies
