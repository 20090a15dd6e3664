"""The reader of all images, against Pillow, and against values that other libraries wrote."""

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from anomalib.data.utils.image import IMG_EXTENSIONS
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from anomalib_anoseg.utils.image_header import read_header
from anomalib_anoseg.utils.images import SUFFIXES, count_pages, find_images, read_image
from anomalib_anoseg.utils.pixel_limit import any_size

RNG = np.random.default_rng(0)
GREY, COLOURS = (RNG.integers(0, 2**16, size, dtype=np.uint16) for size in ((37, 53), (37, 53, 3)))
ALPHA = RNG.integers(0, 2**16, (37, 53, 4), dtype=np.uint16)


def png(pixels: NDArray[np.uint16], *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a 16-bit PNG by hand: what no library has changed."""
    height, width, channels = (*pixels.shape, 1)[:3]
    rows = pixels.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def tiff(pixels: NDArray[Any], **arguments: Any) -> bytes:
    file = io.BytesIO()
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(file, pixels, **{"photometric": kind} | arguments)
    return file.getvalue()


def pnm(pixels: NDArray[np.uint16], highest: int) -> bytes:
    height, width = pixels.shape[:2]
    kind = b"P6" if pixels.ndim == 3 else b"P5"
    return (
        b"%s\n# 16 bits\n%d %d\n%d\n" % (kind, width, height, highest)
        + pixels.astype(">u2").tobytes()
    )


def share(pixels: NDArray[Any], highest: float) -> NDArray[np.float64]:
    return pixels / highest


def packed_tiff(pixels: NDArray[Any], bits: int) -> bytes | None:
    """Return a file of so many bits per sample; None if this imagecodecs does not pack them."""
    try:
        return tiff(pixels, bitspersample=bits)
    except (NotImplementedError, TypeError):
        return None


DEEP: dict[str, tuple[bytes | None, NDArray[np.float64]]] = {
    "png, grey": (png(GREY), share(GREY, 65535)),
    "png, RGB": (png(COLOURS), share(COLOURS, 65535)),
    "png, RGBA": (png(ALPHA), share(ALPHA[..., :3], 65535)),
    "png, grey and alpha": (png(ALPHA[..., :2]), share(ALPHA[..., 0], 65535)),
    # The standard has writers scale to all 16 bits, and say how many there were.
    "png, sBIT": (png(GREY, (b"sBIT", b"\x0c")), share(GREY, 65535)),
    "png, gAMA": (png(GREY, (b"gAMA", struct.pack(">I", 100_000))), share(GREY, 65535)),
    "tiff, RGBA": (tiff(ALPHA, extrasamples=["unassalpha"]), share(ALPHA[..., :3], 65535)),
    "tiff, white is 0": (tiff(GREY, photometric="miniswhite"), 1 - share(GREY, 65535)),
    "tiff, LZW": (tiff(COLOURS, compression="lzw", predictor=True), share(COLOURS, 65535)),
    "tiff, Deflate": (tiff(COLOURS, compression="zlib"), share(COLOURS, 65535)),
    "tiff, big-endian": (tiff(COLOURS, byteorder=">"), share(COLOURS, 65535)),
    "tiff, BigTIFF": (tiff(GREY, bigtiff=True), share(GREY, 65535)),
    "tiff, tiles": (tiff(COLOURS, tile=(16, 16)), share(COLOURS, 65535)),
    # A statistic, which the standard forbids to use for display.
    "tiff, MaxSampleValue": (tiff(GREY, extratags=[(281, 3, 1, 4095, True)]), share(GREY, 65535)),
    "tiff, float64": (tiff(COLOURS / 65535), share(COLOURS, 65535)),
    "tiff, float32": (tiff((GREY / 65535).astype(np.float32)), share(GREY, 65535)),
    "pgm, 10 bits": (pnm(GREY >> 6, 1023), share(GREY >> 6, 1023)),
    "ppm, 16 bits": (pnm(COLOURS, 65535), share(COLOURS, 65535)),
} | {
    f"tiff, {bits} bits, {name}": (
        packed_tiff(pixels >> (16 - bits), bits),
        share(pixels >> (16 - bits), 2**bits - 1),
    )
    for bits in (10, 12, 14, 16)
    for name, pixels in (("grey", GREY), ("RGB", COLOURS))
}


@pytest.mark.parametrize(("data", "expected"), DEEP.values(), ids=DEEP.keys())
def test_more_than_8_bits_are_a_share_of_the_files_full_range(
    tmp_path: Path, data: bytes | None, expected: NDArray[np.float64]
) -> None:
    if data is None:
        pytest.skip("needs an imagecodecs that packs bits")
    path = tmp_path / "image"
    path.write_bytes(data)
    image = read_image(path)
    if expected.ndim == 2:
        expected = expected[..., None].repeat(3, -1)
    assert image.dtype == np.float32
    assert image.shape == expected.shape
    np.testing.assert_allclose(image, expected, atol=6e-8, rtol=0)
    header = read_header(path)
    assert (header.height, header.width) == image.shape[:2]
    assert header.depth is not None


def test_the_same_grey_in_8_and_16_bits_is_the_same_number(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "8.png")
    (tmp_path / "16.png").write_bytes(png(levels.astype(np.uint16) * 257))
    shallow = read_image(tmp_path / "8.png")
    assert shallow.dtype == np.uint8
    assert (shallow.astype(np.float32) / 255 == read_image(tmp_path / "16.png")).all()


def in_pillow(pixels: NDArray[Any], kind: str) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, kind)
    return stored.getvalue()


REFUSED: dict[str, tuple[bytes, str]] = {
    "JPEG 2000": (in_pillow(GREY, "JPEG2000"), "more than 8 bits in JPEG2000: save it as PNG"),
    "IM": (in_pillow(GREY.astype(np.float32), "IM"), "more than 8 bits in IM"),
    "signed": (tiff(GREY.astype(np.int16)), r"signed samples of \[16\] bits"),
    "signed, 8 bits": (tiff(GREY.astype(np.int8)), r"\bsigned samples of \[8\] bits"),
    "signed, 8 bits, RGB": (tiff(COLOURS.astype(np.int8)), r"\bsigned samples of \[8, 8, 8\]"),
    "MPEG": (b"\0\0\1\xb3\x06\0\x40\x13" + bytes(64), "not an image, or damaged"),
    "32 bits": (tiff(GREY.astype(np.uint32)), r"unsigned samples of \[32\] bits"),
    "half": (tiff(GREY.astype(np.float16)), r"float samples of \[16\] bits"),
    "CMYK": (tiff(ALPHA, photometric="separated"), "other colours than grey and RGB"),
    "planes": (
        tiff(np.moveaxis(COLOURS, -1, 0).copy(), planarconfig="separate"), "stored in planes",
    ),
    "Zstandard": (tiff(COLOURS, compression="zstd"), "compression 50000"),
    "text": (b"hello", "not an image, or damaged"),
    "empty": (b"", "not an image, or damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_read_rightly_is_refused_by_its_header(
    tmp_path: Path, data: bytes, says: str
) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(data)
    for read in (read_header, read_image, count_pages):
        with pytest.raises(ValueError, match=rf"^cannot read {path}: .*{says}[^\n]*$"):
            read(path)


@pytest.mark.parametrize("values", [(0, 1.01), (-0.01, 1), (0, float("nan"))])
def test_floats_outside_0_to_1_are_refused(tmp_path: Path, values: tuple[float, float]) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(np.array([values], np.float32)))
    with pytest.raises(ValueError, match=r"image.tif: float values must lie in \[0, 1\], got"):
        read_image(path)


def encoded(**arguments: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray((COLOURS >> 8).astype(np.uint8)).save(file, **arguments)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        *(encoded(format=name) for name in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")),
        encoded(format="JPEG", progressive=True), encoded(format="TIFF", compression="tiff_lzw"),
        png(GREY), tiff(COLOURS), tiff(COLOURS, compression="zlib", rowsperstrip=4),
        pnm(COLOURS, 65535),
    ],
    ids=[
        "png", "jpeg", "bmp", "webp", "tiff", "ppm", "progressive jpeg", "tiff with lzw",
        "deep png", "deep tiff", "deep tiff with deflate", "deep ppm",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:(Truncated|Corrupt):UserWarning")
def test_torn_files_are_errors_not_half_pictures(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    assert read_image(path).shape == (37, 53, 3)
    for torn in (data[: len(data) // 2], data[:-100]):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match=rf"^cannot read {path}: [^\n]+$"):
            read_image(path)


def test_8_bits_are_what_pillow_reads(tmp_path: Path) -> None:
    smooth = cv2.resize(COLOURS[:8, :8] >> 8, (83, 61), interpolation=cv2.INTER_CUBIC)
    picture = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
    for suffix in SUFFIXES:
        picture.save(tmp_path / f"colour{suffix}", **{"format": "PPM"} if "p" in suffix else {})
    for mode in ("L", "1", "P", "LA", "RGBA"):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
        picture.convert(mode).save(tmp_path / f"{mode}.tif")
    for mode in ("L", "CMYK", "YCbCr"):
        picture.convert(mode).save(tmp_path / f"{mode}.jpg")
    picture.convert("CMYK").save(tmp_path / "CMYK.tif")
    picture.save(tmp_path / "lossless.webp", lossless=True)
    for quality, subsampling in ((30, 0), (75, 2), (95, 1)):
        arguments: dict[str, Any] = {"quality": quality, "subsampling": subsampling}
        picture.save(tmp_path / f"{quality}.jpg", **arguments)
        picture.save(tmp_path / f"{quality} progressive.jpg", **arguments, progressive=True)
    picture.save(tmp_path / "key.png", transparency=tuple(smooth[0, 0].tolist()))
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    picture.save(tmp_path / "gamma.png", pnginfo=gamma)
    picture.save(tmp_path / "film.png", save_all=True, append_images=[picture.convert("L")])
    (tmp_path / "dark.pgm").write_bytes(b"P5\n2 1\n100\n\x32\x64")  # a maximum of 100
    for path in tmp_path.iterdir():
        expected = np.asarray(Image.open(path).convert("RGB"))
        image = read_image(path)
        assert image.dtype == np.uint8
        assert (image == expected).all(), path.name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(40, 40), (30, 50)], ids=["square", "oblong"])
def test_images_are_turned_upright(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    height, width = size
    upright = np.full((height, width, 3), 90, np.uint8)
    upright[2:10, width - 14 : width - 2] = 250, 20, 20  # a defect at the upper right
    # Turned by Pillow, back from what the camera's number says.
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        7: Image.Transpose.TRANSVERSE,
    } | back  # fmt: skip
    picture = Image.fromarray(upright)
    if orientation > 1:
        picture = picture.transpose(methods[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("jpg", "png", "webp", "tif"):
        quality = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
        quality |= {"lossless": True} if suffix == "webp" else {}
        picture.save(tmp_path / f"8.{suffix}", exif=exif, **quality)
    deep = np.asarray(picture).astype(np.uint16) * 257
    (tmp_path / "16.png").write_bytes(png(deep, (b"eXIf", exif.tobytes()[6:])))
    (tmp_path / "16.tif").write_bytes(tiff(deep, extratags=[(274, 3, 1, orientation, True)]))
    for path in tmp_path.iterdir():
        image = read_image(path)
        header = read_header(path)
        assert image.shape == upright.shape == (header.height, header.width, 3), path.name
        assert header.orientation == orientation
        scaled = image if image.dtype == np.uint8 else image * 255
        assert np.abs(scaled.astype(float) - upright).max() < 30, path.name  # JPEG's loss
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "8.jpg"))
    assert (read_image(tmp_path / "8.jpg") == np.asarray(expected)).all()


def test_pages_are_counted_and_read(tmp_path: Path) -> None:
    pages = [np.full((5, 7), value, np.uint8) for value in (10, 20, 30)]
    pictures = [Image.fromarray(page) for page in pages]
    pictures[0].save(tmp_path / "8.tif", save_all=True, append_images=pictures[1:])
    pictures[0].save(tmp_path / "8.png", save_all=True, append_images=pictures[1:])
    with tifffile.TiffWriter(tmp_path / "16.tif") as writer:
        for page in pages:
            writer.write(page.astype(np.uint16) * 257, photometric="minisblack")
    for name in ("8.tif", "8.png", "16.tif"):
        path = tmp_path / name
        assert count_pages(path) == 3
        values = [read_image(path, page).mean() * (255 if "16" in name else 1) for page in range(3)]
        np.testing.assert_allclose(values, (10, 20, 30), rtol=1e-6)
        with pytest.raises(ValueError, match=f"cannot read {path}: "):
            read_image(path, 3)
    pictures[0].save(tmp_path / "one.jpg")
    pictures[0].save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=pictures[1:])
    assert count_pages(tmp_path / "one.jpg") == count_pages(tmp_path / "phone.jpg") == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("limit", [1, 1900], ids=["an error of Pillow's", "a warning"])
def test_images_of_any_size_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """A small limit stands for large images; it holds again afterwards."""
    names = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
    for name in names:
        (tmp_path / name).write_bytes(encoded(format=name))
    pages = [Image.fromarray((GREY >> 8).astype(np.uint8))] * 3
    pages[0].save(tmp_path / "pages", "TIFF", save_all=True, append_images=pages[1:])
    (tmp_path / "film").write_bytes(encoded(format="PNG", save_all=True, append_images=pages[1:]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for path in tmp_path.iterdir():
        assert read_header(path)[:2] == (37, 53)
        assert read_image(path, count_pages(path) - 1).shape == (37, 53, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_back_when_the_last_thread_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with ThreadPoolExecutor(2) as pool:
        with any_size:
            pool.submit(any_size.__enter__).result()
        assert Image.MAX_IMAGE_PIXELS is None  # the other thread still reads
        pool.submit(any_size.__exit__).result()
    assert Image.MAX_IMAGE_PIXELS == 7


def test_formats_are_those_of_anomalibs_data_modules() -> None:
    assert set(IMG_EXTENSIONS) == SUFFIXES


def test_images_are_found_in_order_at_any_depth(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a.jpg", "b/1.pgm", "note.txt", "b/deep/3.tiff"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.png").mkdir()
    found = find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a.jpg", "b/1.pgm", "b/2.PNG", "b/deep/3.tiff",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_an_orientation_behind_the_pixels_turns_no_kind_of_png(mode: str, tmp_path: Path) -> None:
    """A mask beside the image is compared with what its header says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = b"eXIf" + exif.tobytes()[6:]
    stored = io.BytesIO()
    picture = Image.fromarray((COLOURS >> 8).astype(np.uint8)).convert(mode)
    picture.save(stored, "PNG")
    whole, path = stored.getvalue(), tmp_path / "image.png"
    behind = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(whole[:-12] + behind + whole[-12:])
    assert Image.open(path).load() is not None
    assert read_header(path)[:3] == (37, 53, 1)
    assert (read_image(path) == np.asarray(picture.convert("RGB"))).all()


def test_a_folder_that_cannot_be_looked_into_is_an_error_where_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "closed/b.png", "lost+found/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = os.scandir
    closed = tmp_path / "closed"

    def scandir(path: Any) -> Any:
        if Path(path) in (closed, tmp_path / "lost+found"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find_images(tmp_path) == [tmp_path / "a.png", closed]
    with pytest.raises(OSError, match="closed"):
        read_image(closed)
    with pytest.raises(PermissionError, match="closed"):
        find_images(closed)


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    reads: list[Callable[[Path], Any]] = [read_image, read_header, count_pages]
    for read in reads:
        with pytest.raises(FileNotFoundError, match=r"none\.png"):
            read(tmp_path / "none.png")
