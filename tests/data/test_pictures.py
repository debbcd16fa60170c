"""Picture files of every kind, damaged ones and large ones; files and folders named on a command line."""

import io
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, features

from neural_lib.data import pictures
from neural_lib.data.pictures import PictureError, count_pages, read_picture, size_of

SCENE = np.full((40, 60, 3), 255, np.uint8)
SCENE[10:30, 20:30] = (200, 30, 30)
FILES = {
    "png": {}, "jpg": {"quality": 95}, "bmp": {}, "tif": {}, "webp": {"lossless": True}, "gif": {},
    "ppm": {}, **({"avif": {"quality": 95}} if features.check("avif") else {}),
}  # fmt: skip


def write(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_is_read(tmp_path, kind):
    path = write(tmp_path / f"p.{kind}", Image.fromarray(SCENE), **FILES[kind])
    read = read_picture(path)
    assert read.shape == SCENE.shape and read.dtype == np.uint8
    assert np.abs(read.astype(int) - SCENE).mean() < 3
    assert read_picture(str(path)).shape == SCENE.shape


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_kind_of_pixel_is_read(tmp_path, mode):
    grey = Image.fromarray(SCENE).convert("L")
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image
    elif mode == "F":
        image = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    else:
        image = Image.fromarray(SCENE).convert("L" if mode in ("LA",) else "RGB").convert(mode)
    read = read_picture(write(tmp_path / "p.tif", image))
    assert read.shape == (40, 60, 3)
    assert read[0, 0].min() > 250 and read[20, 25].min() < 120


def test_16_bits_are_reduced_to_8(tmp_path):
    values = np.linspace(0, 65_535, 40 * 60).reshape(40, 60).astype(np.uint16)
    read = read_picture(write(tmp_path / "p.png", Image.fromarray(values)))
    assert np.abs(read[..., 0] - values / 257).max() <= 1
    dark = read_picture(write(tmp_path / "dark.png", Image.fromarray(values // 8192)))
    assert dark.max() <= 7  # not stretched, which would amplify noise


@pytest.mark.parametrize("magic, rows", [
    ("P1", b"1 0 1\n0 1 0\n"), ("P2", b"15\n0 15 0 15 0 15"), ("P3", b"255 " + b"0 0 0 255 255 255 " * 3),
    ("P4", b"\xa0\x40"), ("P5", b"4095\n" + b"\0\0\x0f\xff" * 3), ("P6", b"255\n" + (b"\0" * 3 + b"\xff" * 3) * 3),
])  # fmt: skip
@pytest.mark.parametrize("head", ["{} 3 2\n", "{}\n# made by hand, as some programs write it\n3\n2\n"])
def test_every_netpbm_picture_is_read(tmp_path, magic, rows, head):
    (tmp_path / "p").write_bytes(head.format(magic).encode() + rows)
    assert pictures.find([tmp_path]).files == [tmp_path / "p"]
    assert (read_picture(tmp_path / "p")[..., 0] == [[0, 255, 0], [255, 0, 255]]).all()


@pytest.mark.parametrize("size", [12, 40, 52, 56, 64, 108, 124])
def test_every_header_of_a_bmp_is_known(tmp_path, size):
    """Of OS/2, 12 and 64 bytes, and of Windows: BITMAPINFOHEADER (40) to BITMAPV5HEADER (124)."""
    fields = struct.pack("<IHHHH" if size == 12 else "<IiiHH", size, 3, 2, 1, 24)
    rows = (b"\0\0\xff" * 3 + b"\0" * 3) * 2  # red, from the bottom, each row padded to 4 bytes
    content = fields.ljust(size, b"\0") + rows
    (tmp_path / "p").write_bytes(struct.pack("<2sIII", b"BM", 14 + len(content), 0, 14 + size) + content)
    assert pictures.find([tmp_path]).files == [tmp_path / "p"]
    assert (read_picture(tmp_path / "p") == (255, 0, 0)).all() and size_of(tmp_path / "p") == (3, 2)


def png_16(values: np.ndarray) -> bytes:
    """Encode values (H, W, C) as a PNG with 16 bits per channel, which Pillow can't write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return png(header, zlib.compress(rows))


@pytest.mark.parametrize("kind, channels", [
    *(("png", channels) for channels in (1, 2, 3, 4)), ("tif", 1), ("tif", 3), ("int", 1), ("float", 1),
])  # fmt: skip
@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_full_scale_is_the_power_of_two_above_the_highest_value(tmp_path, kind, channels, bits):
    full = 2**bits - 1
    values = np.random.default_rng(0).integers(0, full + 1, (20, 30, channels))
    values[0, 0] = full
    if channels % 2 == 0:
        values[..., -1] = 65_535  # opaque
    expected = values[..., : channels - (channels % 2 == 0)] * (255 / full)
    files = []
    if kind == "png":
        files.append(png_16(values))
    elif channels == 1:
        image = Image.fromarray(values[..., 0].astype({"int": np.int32, "float": np.float32}.get(kind, np.uint16)))
        for compression in (None, "tiff_lzw"):
            files.append(write(tmp_path / "p.tif", image, compression=compression).read_bytes())
    else:
        for compression in (1, 5):  # none, LZW
            options = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
            files.append(cv2.imencode(".tif", values[..., ::-1].astype(np.uint16), options)[1].tobytes())
    for content in files:
        (tmp_path / "p").write_bytes(content)
        assert np.abs(read_picture(tmp_path / "p") - expected).max() <= 1


def test_numbers_from_0_to_1_are_stretched(tmp_path):
    for kind in (np.int32, np.float32):
        path = write(tmp_path / "p.tif", Image.fromarray(np.eye(20, dtype=kind)))
        assert np.array_equal(read_picture(path)[..., 0], np.eye(20) * 255)


def test_transparent_pixels_become_white(tmp_path):
    clear = np.zeros((20, 30, 4), np.uint8)
    clear[5:10, 5:10] = (0, 0, 0, 255)
    clear[15:, :] = (0, 0, 0, 128)
    read = read_picture(write(tmp_path / "p.png", Image.fromarray(clear)))
    assert read[0, 0].tolist() == [255] * 3 and read[7, 7].tolist() == [0] * 3
    assert read[17, 7] == pytest.approx([127] * 3, abs=1)
    palette = Image.fromarray(clear[..., 0]).convert("P")
    palette.info["transparency"] = 0
    assert read_picture(write(tmp_path / "p.gif", palette, transparency=0)).min() == 255


def test_a_photo_is_turned_by_its_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    read = read_picture(write(tmp_path / "p.jpg", Image.fromarray(SCENE), exif=exif, quality=95))
    assert read.shape == (60, 40, 3)
    assert read[25, 20].tolist() != pytest.approx([255] * 3, abs=20)


def test_a_long_thin_picture_is_reduced(tmp_path):
    path = write(tmp_path / "p.png", Image.new("L", (10_000, 1), 9))
    assert read_picture(path).shape == (1, 1024, 3) and read_picture(path, longest=10_000).shape == (1, 10_000, 3)


# --- several pages ---

LEVELS = (10, 240, 120, 60)


def write_pages(path: Path, **options) -> Path:
    frames = [Image.new("L", (30, 20), level) for level in LEVELS]
    return write(path, frames[0], save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("name, options", [
    ("p.gif", {}), ("p.tif", {}), ("p.tif", {"compression": "tiff_lzw"}), ("p.tif", {"big_tiff": True}),
    ("a gif.png", {"format": "GIF"}),
])  # fmt: skip
def test_every_page_is_read(tmp_path, name, options):
    path = write_pages(tmp_path / name, **options)
    assert count_pages(path) == count_pages(str(path)) == 4
    for page in (2, 0, 3, 1):
        assert read_picture(path, page).mean() == pytest.approx(LEVELS[page], abs=2)
    for page in (4, -1):
        with pytest.raises(PictureError):
            read_picture(path, page)


@pytest.mark.parametrize("name, options", [
    ("p.webp", {}), ("p.png", {}), ("p.jpg", {"format": "MPO"}), *([("p.avif", {})] if "avif" in FILES else []),
])  # fmt: skip
def test_an_animation_or_a_pair_of_photos_is_one_page(tmp_path, name, options):
    path = write_pages(tmp_path / name, **options)
    assert count_pages(path) == 1 and read_picture(path).mean() == pytest.approx(10, abs=2)
    with pytest.raises(PictureError, match="^has no page 2$"):
        read_picture(path, 1)


def test_the_frames_of_a_gif_are_read_as_they_are_displayed(tmp_path):
    frames = [Image.new("P", (30, 20), 0) for _ in range(3)]
    for frame in frames:
        frame.putpalette([255, 255, 255, 0, 0, 0])
    for number, frame in enumerate(frames):
        frame.paste(1, (10 * number, 0, 10 * number + 10, 20))
    path = write(tmp_path / "p.gif", frames[0], save_all=True, append_images=frames[1:] + frames[2:], duration=[1] * 4)
    for page in range(3):
        dark = np.argwhere(read_picture(path, page)[..., 0] < 128)
        assert (dark.min(0)[1], dark.max(0)[1]) == (10 * page, 10 * page + 9)


def tiff(*directories: dict[int, int], order: str = "<", next_of_last: int = 0) -> bytes:
    """A TIFF of images of 8 x 8 pixels; the grey level of each is its number. directories: additional tags of each."""
    content = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8))
    for number, extra in enumerate(directories):
        tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 8, 279: 64, **extra}
        size = 2 + 12 * len(tags) + 4
        tags[273] = len(content) + size
        content += struct.pack(order + "H", len(tags))
        for tag, value in sorted(tags.items()):
            content += struct.pack(order + "HHII", tag, 4, 1, value)
        is_last = number == len(directories) - 1
        content += struct.pack(order + "I", next_of_last if is_last else tags[273] + 64) + bytes([number]) * 64
    return bytes(content)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("types, pages", [
    ([0, 0], [0, 1]), ([2, 2, 2], [0, 1, 2]), ([0, 1], [0]), ([0, 1, 0, 4, 2], [0, 2, 4]), ([1, 0], [1]), ([1], [0]),
], ids=str)  # fmt: skip
def test_previews_and_masks_are_no_pages(tmp_path, order, types, pages):
    (tmp_path / "p.tif").write_bytes(tiff(*({254: each} for each in types), order=order))
    assert count_pages(tmp_path / "p.tif") == len(pages)
    assert [read_picture(tmp_path / "p.tif", page).max() for page in range(len(pages))] == pages


def test_pages_that_lead_back_are_counted_once(tmp_path):
    (tmp_path / "p.tif").write_bytes(tiff({}, {}, next_of_last=8))
    assert count_pages(tmp_path / "p.tif") == 2


def test_a_later_page_that_is_damaged_is_refused_alone(tmp_path):
    content = tiff({}, {}, {256: 0, 257: 0})
    for name, damaged in (("cut", content[:-70]), ("far", tiff({}, {}, next_of_last=9999)), ("no size", content)):
        (tmp_path / name).write_bytes(damaged)
        assert count_pages(tmp_path / name) == 3
        assert [read_picture(tmp_path / name, page).max() for page in (0, 1)] == [0, 1]
        with pytest.raises(PictureError, match="^is damaged"):
            read_picture(tmp_path / name, 2)
    content = write_pages(tmp_path / "p.gif").read_bytes()
    (tmp_path / "p.gif").write_bytes(content[:-10])
    assert count_pages(tmp_path / "p.gif") == 4
    assert read_picture(tmp_path / "p.gif", 2).mean() == pytest.approx(120, abs=2)
    for end in range(len(content) // 2, len(content), 7):  # wherever it is cut after its first frame
        (tmp_path / "p.gif").write_bytes(content[:end])
        assert count_pages(tmp_path / "p.gif") > 1
        assert read_picture(tmp_path / "p.gif").mean() == pytest.approx(LEVELS[0], abs=2)
    with pytest.raises(PictureError, match="^is damaged"):
        read_picture(tmp_path / "p.gif", 3)


def test_what_cannot_be_read_counts_as_one_page(tmp_path):
    (tmp_path / "text.tif").write_text("II*\0, but no more")
    (tmp_path / "text.gif").write_text("GIF89a, but no more")
    for name in ("text.tif", "text.gif", "nowhere", "."):
        assert count_pages(tmp_path / name) == 1


def test_the_size_is_that_of_the_first_page(tmp_path):
    assert size_of(write_pages(tmp_path / "p.tif")) == (30, 20)
    (tmp_path / "p.tif").write_bytes(tiff({254: 1, 257: 4}, {254: 0}))
    assert size_of(tmp_path / "p.tif") == (8, 8)
    assert size_of(tmp_path) is None and size_of(tmp_path / "nowhere") is None


def test_an_array_is_read_as_the_file_of_it(tmp_path):
    for array in (SCENE, SCENE[..., 0], SCENE.transpose(1, 0, 2), SCENE.repeat(40, 0).repeat(40, 1)):
        path = write(tmp_path / "p.png", Image.fromarray(array.copy()))
        assert np.array_equal(read_picture(array), read_picture(path))
    read = read_picture(SCENE)
    read[:] = 0
    assert SCENE.max() == 255  # a copy


# --- bytes, open files, Pillow images, tensors ---


def filled(file: BinaryIO, content: bytes) -> BinaryIO:
    """An open file with this content, at its end."""
    file.write(content)
    return file


@pytest.mark.parametrize("kind", FILES)
def test_content_is_read_as_the_file_that_holds_it(tmp_path, kind):
    path = write(tmp_path / f"p.{kind}", Image.fromarray(SCENE), **FILES[kind])
    expected, content = read_picture(path), path.read_bytes()
    with tempfile.TemporaryFile() as on_disk, tempfile.SpooledTemporaryFile() as upload:
        files = [filled(file, content) for file in (on_disk, upload, io.BytesIO())]
        for encoded in (content, bytearray(content), memoryview(content), *files):
            assert pictures.kind_of(encoded) == pictures.kind_of(path)
            assert (size_of(encoded), count_pages(encoded)) == ((60, 40), 1)
            for _ in range(2):  # an open file is read from its beginning, and stays open
                assert np.array_equal(read_picture(encoded), expected)


def test_content_has_the_pages_bits_and_reduction_of_the_file(tmp_path):
    pages = write_pages(tmp_path / "p.tif").read_bytes()
    assert count_pages(pages) == 4
    for encoded in (pages, io.BytesIO(pages)):
        assert count_pages(encoded) == 4 and size_of(encoded, 3) == (30, 20)
        assert [read_picture(encoded, page).mean() for page in (2, 0)] == [LEVELS[2], LEVELS[0]]
    dark = png_16(np.full((20, 30, 3), 4095))  # 12 of 16 bits
    assert read_picture(dark).min() == 255
    large = io.BytesIO()
    Image.fromarray(SCENE).resize((1200, 800)).save(large, "JPEG")
    assert read_picture(large, min_side=200).shape == (200, 300, 3)


def test_a_pillow_image_is_read_as_its_file_and_stays_as_it_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for kind, mode in (("jpg", "RGB"), ("png", "RGBA"), ("tif", "L"), ("png", "P"), ("png", "I;16"), ("png", "1")):
        image = Image.fromarray(SCENE).convert("L" if mode == "I;16" else "RGB").resize((1200, 800)).convert(mode)
        path = write(tmp_path / f"p.{kind}", image, exif=exif)
        with Image.open(io.BytesIO(path.read_bytes())) as opened:  # given a path, Pillow 13 garbles rotated TIFFs
            assert max(size_of(opened)) == 1200 and count_pages(opened) == 1
            assert np.abs(read_picture(opened).astype(int) - read_picture(path)).max() < 8  # a JPEG, within its noise
            before = opened.copy()
            read_picture(opened)
            assert (opened.mode, opened.size) == (before.mode, before.size) and opened.tobytes() == before.tobytes()
    with Image.open(write_pages(tmp_path / "pages.tif")) as opened:
        opened.seek(2)
        assert read_picture(opened).mean() == LEVELS[2] and opened.tell() == 2
        with pytest.raises(PictureError, match="^has no page 2$"):
            read_picture(opened, 1)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_a_tensor_is_read_as_the_array_of_it(kind):
    values = torch.from_numpy(SCENE.copy()).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
    tensor = values if kind == torch.uint8 else (values / 255).to(kind).requires_grad_()
    tolerance = kind == torch.bfloat16
    assert np.abs(read_picture(tensor).astype(int) - SCENE).max() <= tolerance
    assert np.abs(read_picture(tensor[:1]).astype(int) - SCENE[..., :1]).max() <= tolerance
    assert (size_of(tensor), count_pages(tensor)) == ((60, 40), 1)


@pytest.mark.parametrize("tensor, what", [
    (torch.zeros(9, 9, dtype=torch.uint8), r"uint8 \(9, 9\)"), (torch.zeros(9, 9, 3, dtype=torch.uint8), "uint8"),
    (torch.zeros(2, 3, 9, 9), "float32"), (torch.zeros(4, 9, 9), "float32"), (torch.zeros(3, 0, 9), "float32"),
    (torch.zeros(3, 9, 9, dtype=torch.int64), r"int64 \(3, 9, 9\)"), (torch.zeros(3, 9, 9, dtype=torch.bool), "bool"),
    (torch.full((3, 9, 9), 255.0), r"float32 \(3, 9, 9\) from 255 to 255"), (torch.full((3, 9, 9), -0.5), "float32"),
    (torch.full((3, 9, 9), torch.nan), "float32"),
], ids=lambda value: "tensor" if isinstance(value, torch.Tensor) else None)  # fmt: skip
def test_a_tensor_with_two_readings_is_refused(tensor, what):
    with pytest.raises(PictureError, match=rf"\(1, H, W\) or \(3, H, W\), uint8 or floats from 0 to 1, not {what}"):
        read_picture(tensor)


def test_content_that_cannot_be_read_gives_the_reason(tmp_path):
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

    path = write(tmp_path / "p.png", Image.fromarray(SCENE))
    for given, reason in (
        (b"", "is empty"), (b"not a picture", "is not a PNG, "), (path.read_bytes()[:90], "is damaged or cut short"),
        (CONVERTIBLE["heic"][0], "is a HEIC photo; convert it to JPEG, as with ImageMagick: magick picture.heic "),
        (Stream(path.read_bytes()), "can't be read from its beginning; give the bytes"),
    ):  # fmt: skip
        with pytest.raises(PictureError, match=f"^{reason}"):
            read_picture(given)
        assert count_pages(given) == 1
    with open(path) as text, pytest.raises(PictureError, match="^is open as text; open it in binary mode$"):
        read_picture(text)
    with open(path, "rb") as closed:
        pass
    with pytest.raises(PictureError, match="^is closed$"):
        read_picture(closed)
    for given in (None, 7, [path], {}):
        with pytest.raises(TypeError, match="^a picture must be a path, bytes, .* not "):
            read_picture(given)


@pytest.mark.parametrize("array", [
    np.zeros((9, 9), np.float32), np.zeros((9, 9), bool), np.zeros(9, np.uint8), np.zeros((9, 9, 4), np.uint8),
    np.zeros((9, 9, 1), np.uint8), np.zeros((2, 9, 9, 3), np.uint8), np.zeros((0, 9), np.uint8),
], ids=lambda array: f"{array.dtype}{array.shape}")  # fmt: skip
def test_an_array_of_another_kind_is_refused(array):
    with pytest.raises(PictureError, match=r"uint8 \(H, W\) or \(H, W, 3\)") as caught:
        read_picture(array)
    assert str(array.shape) in str(caught.value) and str(array.dtype) in str(caught.value)


@pytest.mark.parametrize("name, mode, options", [
    *(("p.png", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "I;16")),
    ("p.jpg", "L", {}), ("p.jpg", "CMYK", {}),
    *(("p.tif", mode, {"compression": compression}) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F")
      for compression in (None, "tiff_lzw")),
    ("p.webp", "RGB", {}), *([("p.avif", "RGB", {})] if "avif" in FILES else []),
])  # fmt: skip
def test_every_kind_is_turned_by_its_orientation(tmp_path, name, mode, options):
    scene = SCENE.repeat(2, 0).repeat(2, 1)
    if mode in ("I;16", "F"):
        green = scene[..., 1].astype(np.uint16 if mode == "I;16" else np.float32)
        image = Image.fromarray(green * 257 if mode == "I;16" else green)
    else:
        image = Image.fromarray(scene).convert(mode)
    for orientation, turned in (
        (2, scene[:, ::-1]), (3, scene[::-1, ::-1]), (5, scene.transpose(1, 0, 2)), (6, np.rot90(scene, -1)),
        (8, np.rot90(scene)),
    ):  # fmt: skip
        exif = Image.Exif()
        exif[0x0112] = orientation
        dark = np.argwhere(read_picture(write(tmp_path / name, image, exif=exif, **options)).min(2) < 200)
        expected = np.argwhere(turned.min(2) < 200)
        assert np.abs(dark.min(0) - expected.min(0)).max() <= 1 and np.abs(dark.max(0) - expected.max(0)).max() <= 1


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_large_picture_is_reduced(tmp_path, kind):
    large = Image.fromarray(SCENE).resize((3000, 2000))
    path = write(tmp_path / f"p.{kind}", large)
    assert read_picture(path, longest=300).shape == (200, 300, 3)
    shapes = [read_picture(path, min_side=side).shape[:2] for side in (250, 251, 501, 1001)]
    by_kind = {"png": [(683, 1024)] * 4, "jpg": [(250, 375), (500, 750), (683, 1024), (683, 1024)]}
    assert shapes == by_kind[kind]
    halved = read_picture(path, min_side=1000)  # to 1000 x 1500, then to the longest side that is allowed
    assert halved.shape == (683, 1024, 3) and np.abs(halved.astype(int) - read_picture(path)).mean() < 2
    assert read_picture(path, longest=9999).shape == (2000, 3000, 3)
    read = read_picture(path)
    assert read.shape == (683, 1024, 3)
    assert read[20, 20].min() > 250 and read[341, 427].max() > read[341, 427].min() + 100


def png_header(width: int, height: int) -> bytes:
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), zlib.compress(bytes(1000)))


def png(header: bytes, compressed: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height, reason", [
    (20_001, 20_000, "has 20,001 x 20,000 pixels, and at most 400,000,000 are read; reduce it"),
    (2**31 - 1, 1, "has 2,147,483,647 x 1 pixels, and at most "),
    (20_000, 20_000, "has 20,000 x 20,000 pixels in 74 bytes, as decompression bombs do; reduce it"),
    (12_000, 9_000, "has 12,000 x 9,000 pixels in 74 bytes, as decompression bombs do; reduce it"),
])  # fmt: skip
def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch, width, height, reason):
    from PIL import ImageFile

    (tmp_path / "p.png").write_bytes(png_header(width, height))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it is decoded"))
    for given in (tmp_path / "p.png", png_header(width, height)):
        with pytest.raises(PictureError, match=f"^{reason}") as caught:
            read_picture(given)
        assert "\n" not in str(caught.value)
    with pytest.raises(PictureError, match="has more pixels than are read in this format"):  # 16,383 x 16,383
        read_picture(b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0")


@pytest.mark.parametrize("kind, mode, needed", [
    ("jpg", "RGB", 10 * 375 * 250), ("progressive jpg", "RGB", 10 * 375 * 250 + 6 * 3000 * 2000),
    ("png", "RGB", 10 * 3000 * 2000), ("tif", "I;16", 26 * 3000 * 2000),
])  # fmt: skip
def test_a_large_photo_is_decoded_reduced_and_if_there_is_memory(tmp_path, monkeypatch, kind, mode, needed):
    scene = Image.fromarray(SCENE).convert("RGB" if mode == "RGB" else "L").resize((3000, 2000)).convert(mode)
    path = write(tmp_path / "p", scene, format={"tif": "TIFF", "png": "PNG"}.get(kind, "JPEG"), progressive=" " in kind)
    expected = read_picture(path, longest=300)
    sizes, free, thumbnail = [], [needed], Image.Image.thumbnail

    def keep_size(image: Image.Image, *args: object) -> None:
        sizes.append(image.size)
        thumbnail(image, *args)

    monkeypatch.setattr(Image.Image, "thumbnail", keep_size)
    monkeypatch.setattr(pictures, "LARGE", 5_999_999)
    monkeypatch.setattr(pictures, "available_memory", lambda: free[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)  # Pillow refuses more than twice as many
    read = read_picture(path, longest=300)
    assert read.shape == (200, 300, 3) and np.abs(read.astype(int) - expected).mean() < 1
    assert sizes == [(375, 250) if "jpg" in kind else (3000, 2000)] and Image.MAX_IMAGE_PIXELS == 2_000_000
    free[0] -= 1
    with pytest.raises(PictureError, match="^takes .* MB of memory, and .* MB are free; reduce it$"):
        read_picture(path, longest=300)
    assert size_of(path) == (3000, 2000)  # which decodes nothing


def test_large_pictures_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    path, decoding = write(tmp_path / "p.png", Image.fromarray(SCENE)), threading.Lock()

    def thumbnail(*_: object) -> None:
        assert decoding.acquire(blocking=False), "another one is decoded"
        time.sleep(0.01)
        decoding.release()

    monkeypatch.setattr(pictures, "LARGE", SCENE.size // 3 - 1)
    monkeypatch.setattr(Image.Image, "thumbnail", thumbnail)
    with ThreadPoolExecutor(4) as pool:
        assert all(read.shape == SCENE.shape for read in pool.map(read_picture, [path] * 8))


@pytest.mark.slow  # in a process of its own
def test_the_memory_that_a_photo_of_400_megapixels_takes(tmp_path):
    code = """
import resource, sys
from neural_lib.data.pictures import read_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert read_picture(sys.argv[1]).shape == (1024, 1024, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    tile = Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8))
    tile.resize((20_000, 20_000)).save(tmp_path / "p.jpg")
    command = [sys.executable, "-c", code, tmp_path / "p.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 100_000  # kB


def test_odd_metadata_warns_of_nothing(tmp_path):
    """In a process of its own: pytest has filters for warnings of its own."""
    entry, too_long = (struct.pack("<HHI", 305, 4, count) for count in (1, 9999))  # 305: Software
    (tmp_path / "p.tif").write_bytes(tiff({305: 8}).replace(entry, too_long))
    code = "import sys; from neural_lib.data.pictures import read_picture; read_picture(sys.argv[1])"
    command = [sys.executable, "-W", "default::UserWarning", "-c", code, tmp_path / "p.tif"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_a_large_picture_of_any_kind_is_reduced(tmp_path, mode):
    small = Image.fromarray(SCENE).resize((2100, 1400))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    else:
        image = small.convert("L" if mode == "F" else "RGB").convert(mode)
    read = read_picture(write(tmp_path / "p.tif", image))
    assert read.shape == (683, 1024, 3)
    assert read[20, 20].min() > 250 and read[341, 427].min() < 130


def content_of(kind: str) -> bytes:
    content, suffix = io.BytesIO(), {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper())
    Image.fromarray(SCENE.repeat(3, 0).repeat(3, 1)).save(content, format=suffix)
    return content.getvalue()


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_was_cut_short_is_refused(tmp_path, kind):
    content = content_of(kind)
    refusals = 0
    for end in (0, 1, 5, 20, len(content) // 4, len(content) // 2):
        (tmp_path / "p").write_bytes(content[:end])
        try:
            read_picture(tmp_path / "p")
        except PictureError as error:
            refusals += "is empty" in str(error) or "is not a PNG" in str(error) or "is damaged" in str(error)
    assert refusals == 6


@pytest.mark.parametrize("kind", FILES)
def test_no_damage_leads_to_another_error(tmp_path, kind):
    content, generator = content_of(kind), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, min(len(content), 400), size=4):
            damaged[place] = generator.integers(256)
        (tmp_path / "p").write_bytes(damaged)
        assert count_pages(tmp_path / "p") >= 1
        try:
            assert read_picture(tmp_path / "p").shape[2] == 3  # the damage may be harmless
        except PictureError as error:
            assert str(error)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture\n")
    (tmp_path / "empty.png").touch()
    for name, reason in (("text.png", "is not a PNG, .* file; convert it to one of these"), ("empty.png", "is empty")):
        with pytest.raises(PictureError, match=f"^{reason}$"):
            read_picture(tmp_path / name)
    for path in (tmp_path / "nowhere.png", tmp_path / "text.png" / "inside.png"):
        with pytest.raises(PictureError, match=r"^can't be read \(No"):
            read_picture(path)
    with pytest.raises(PictureError, match="^is not a file$"):
        read_picture(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.png")
    with pytest.raises(PictureError, match="^is not a file$"):
        read_picture(tmp_path / "p.png")


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "p.png", Image.fromarray(SCENE))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read anything
        monkeypatch.setattr("builtins.open", _refused)
    with pytest.raises(PictureError, match=r"^can't be read \(Permission denied\)$"):
        read_picture(path)


def _refused(*_, **__):
    raise PermissionError(13, "Permission denied")


# --- files and folders on a command line ---


CONTENT = {
    "png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff\xe0", "gif": b"GIF89a", "webp": b"RIFF1234WEBPVP8 ",
    "bmp": b"BM12\0\0" + bytes(4) + b"6\0\0\0(\0\0\0", "tif": b"MM\0*\0\0\0\x08", "pgm": b"P5 9 9 255 ",
}  # fmt: skip
CONVERTIBLE = {
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC photo", "magick {file} {jpg}"),
    "HEIF": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "is a HEIC photo", "magick {file} {jpg}"),
    "hif": (b"\0\0\0\x18ftyphevc\0\0\0\0mif1hevc", "is a HEIC photo", "magick {file} {jpg}"),
    "pdf": (b"%PDF-1.7\n", "is a PDF", "pdftoppm -r 300 -png {file} {stem}"),
}
NO_PICTURES = (
    b"", b"B", b"BMW and other text", b"GIF", b"RIFF1234WAVEfmt ", b"\0\0\0\x18ftypisom\0\0\0\0isom", b"II and MM\0",
    b"P1 is a plan", b"P5 1 of 2 pages", b"PK\x03\x04", b"\0" * 99, b"<svg/>", "﻿text".encode(),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("b.PNG", "a.jpg", "notes.txt", "ü す.webp", "in/c.gif", "in/deep/d.tiff", "empty/.keep"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT.get(path.suffix.lower()[1:].replace("tiff", "tif"), b""))
    return tmp_path


def names(paths, folder) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_folder_gives_its_pictures_by_name(folder):
    result = pictures.find([folder])
    assert names(result.files, folder) == ["a.jpg", "b.PNG", "ü す.webp"]
    assert result.problems() == [
        f"{folder}: the folders in it are not looked into; -r does",
        f"skipped, for the content is not that of a picture: {folder / 'notes.txt'}",
    ]


@pytest.mark.parametrize("name", ["p.HEIC", "p.txt", "p", "p.pdf"])
@pytest.mark.parametrize("kind", CONTENT)
def test_a_picture_is_known_by_its_content(tmp_path, name, kind):
    (tmp_path / name).write_bytes(CONTENT[kind])
    result = pictures.find([tmp_path])
    assert names(result.files, tmp_path) == [name] and not result.problems()


def test_each_kind_that_is_read_is_found(tmp_path):
    for kind, options in FILES.items():
        write(tmp_path / f"p.{kind}", Image.fromarray(SCENE), **options).rename(tmp_path / f"{kind}.dat")
    assert len(pictures.find([tmp_path]).files) == len(FILES)


@pytest.mark.parametrize("content", NO_PICTURES)
def test_what_is_no_picture_is_skipped_whatever_its_name_is(tmp_path, content):
    (tmp_path / "p.png").write_bytes(content)
    result = pictures.find([tmp_path])
    assert not result.files and result.problems()[1].endswith(f"content is not that of a picture: {tmp_path / 'p.png'}")


@pytest.mark.parametrize("ending", CONVERTIBLE)
def test_what_must_be_converted_is_named_with_the_command(tmp_path, ending):
    content, what, command = CONVERTIBLE[ending]
    path = tmp_path / f"p 1.{ending}"
    path.write_bytes(content)
    command = command.format(file=f"'{path}'", stem=f"'{tmp_path / 'p 1'}'", jpg=f"'{tmp_path / 'p 1.jpg'}'")
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{what}; convert it to ") and str(caught.value).endswith(f": {command}")
    assert count_pages(path) == 1
    write(tmp_path / "p.png", Image.fromarray(SCENE))
    result = pictures.find([tmp_path])
    assert names(result.files, tmp_path) == ["p.png"] and result.problems() == [f"{path}: {caught.value}"]


def test_many_that_must_be_converted_take_one_line(tmp_path):
    for number in range(1, 31):
        (tmp_path / f"{number}.heic").write_bytes(CONVERTIBLE["heic"][0])
    (tmp_path / "a.pdf").write_bytes(CONVERTIBLE["pdf"][0])
    heic, pdf = pictures.find([tmp_path]).problems()[1:]
    assert heic.startswith(f"{tmp_path / '1.heic'} and 29 more: each is a HEIC photo; convert it to JPEG, ")
    assert pdf.startswith(f"{tmp_path / 'a.pdf'}: is a PDF; convert it to PNG, ")


def test_hidden_and_system_files_are_passed_over(folder):
    for name in (
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "._a.jpg",
        ".hidden.png",
        ".git/x.png",
        "@eaDir/a.jpg",
        "sheets.csv",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(CONTENT["png"])
    result = pictures.find([folder], recursive=True)
    assert len(result.files) == 5 and len(result.problems()) == 1
    assert pictures.find([folder / ".hidden.png"]).files == [folder / ".hidden.png"]  # hidden, but named
    assert pictures.find([folder / ".git"]).files == [folder / ".git" / "x.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_pipe_or_a_broken_link_in_a_folder_is_named(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    result = pictures.find([folder])
    assert names(result.files, folder) == ["a.jpg", "b.PNG", "ü す.webp"]
    assert result.problems()[0] == f"{folder / 'link.png'}: can't be read (No such file or directory)"
    assert str(folder / "pipe.png") in result.problems()[2]


def test_files_without_permission_take_one_line(tmp_path, monkeypatch):
    for number in range(1, 31):
        (tmp_path / f"{number}.png").write_bytes(CONTENT["png"])
    monkeypatch.setattr("builtins.open", _refused)
    assert pictures.find([tmp_path]).problems() == [
        f"{tmp_path / '1.png'} and 29 more: can't be read (Permission denied)"
    ]


def test_recursive_looks_into_subfolders(folder):
    result = pictures.find([folder], recursive=True)
    assert names(result.files, folder) == ["a.jpg", "b.PNG", "ü す.webp", "in/c.gif", "in/deep/d.tiff"]
    assert not result.closed


def test_a_named_file_is_taken_whatever_its_ending_is_and_in_its_order(folder):
    given = [folder / "notes.txt", folder / "nowhere.png", folder / "in", folder / "a.jpg", folder / "a.jpg"]
    assert names(pictures.find(given).files, folder) == ["notes.txt", "nowhere.png", "in/c.gif", "a.jpg", "a.jpg"]


def test_a_folder_without_a_picture_is_a_problem(folder):
    (folder / "empty" / "link").symlink_to(folder / "in", target_is_directory=True)  # -r doesn't follow links
    for empty, recursive, advice in (
        ("empty", False, ""),
        ("empty", True, ""),
        ("outer", False, "; -r looks into its folders"),
    ):
        (folder / "outer" / "inner").mkdir(parents=True, exist_ok=True)
        result = pictures.find([folder / empty], recursive)
        assert result.files == []
        assert [line for line in result.problems() if line.startswith(f"{folder / empty}: holds no picture (PNG, ")]
        assert result.problems()[0].endswith(f"){advice}")


def test_numbers_in_names_are_sorted_as_numbers(tmp_path):
    for number in (1, 10, 2, 100):
        (tmp_path / f"scan{number}.png").write_bytes(CONTENT["png"])
    assert names(pictures.find([tmp_path]).files, tmp_path) == [f"scan{number}.png" for number in (1, 2, 10, 100)]


def test_what_the_program_wrote_is_left_out_of_folders(folder):
    result = pictures.find([folder, folder / "a.jpg"], is_excluded=lambda path: path.name == "a.jpg")
    assert names(result.files, folder) == ["b.PNG", "ü す.webp", "a.jpg"]  # but not if it is named itself


def test_a_path_takes_one_line_whatever_it_holds(tmp_path):
    assert pictures.printable(Path("a\nb\x1b[1m" + os.fsdecode(b"\xff") + "す.png")) == "a?b?[1m?す.png"
    (tmp_path / "x\x1b[31m.txt").touch()
    assert not any("\x1b" in line for line in pictures.find([tmp_path]).problems())


def test_files_that_may_be_pictures_but_cannot_be_read_have_a_reason_each():
    skipped = {"PDF": [Path("a.pdf"), Path("b.pdf")], "HEIC": [Path("c.heic")], "": [Path("notes.txt")]}
    refused = pictures.PictureFiles([], skipped, {Path("d.png"): "can't be read"}, {}, []).refused()
    assert {path.name: reason.split(";")[0] for path, reason in refused.items()} == {
        "a.pdf": "is a PDF", "b.pdf": "is a PDF", "c.heic": "is a HEIC photo", "d.png": "can't be read",
    }  # fmt: skip


def test_many_files_that_are_skipped_are_named_in_part(tmp_path):
    for number in range(15):
        (tmp_path / f"{number:02}.txt").touch()
    (line,) = [line for line in pictures.find([tmp_path]).problems() if "skipped" in line]
    assert "09.txt and 5 more" in line and "10.txt" not in line


def test_a_folder_without_permission_is_a_problem(folder, monkeypatch):
    def scandir(path, scandir=os.scandir):
        if Path(path).name == "in":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = pictures.find([folder], recursive=True)
    assert f"{folder / 'in'}: can't be looked into (Permission denied)" in result.problems()
    assert names(result.files, folder) == ["a.jpg", "b.PNG", "ü す.webp"]


def test_a_pattern_that_no_shell_has_expanded_is_expanded(folder):
    for number in (1, 10, 2):
        (folder / f"scan{number}.png").touch()
    assert names(pictures.find([folder / "scan*.png"]).files, folder) == ["scan1.png", "scan2.png", "scan10.png"]
    assert names(pictures.find([str(folder / "**" / "*.gif")]).files, folder) == ["in/c.gif"]
    nothing = folder / "nothing*.png"
    assert pictures.find([nothing]).files == [nothing]  # read_picture reports that it doesn't exist
    (folder / "a[1].png").touch()  # an existing file's name is no pattern
    (folder / "a1.png").touch()
    assert names(pictures.find([folder / "a[1].png"]).files, folder) == ["a[1].png"]


def test_a_conversion_never_names_its_own_file(tmp_path):
    path = tmp_path / "IMG_1.jpg"
    path.write_bytes(CONVERTIBLE["heic"][0])
    *_, line = pictures.find([tmp_path]).problems()
    assert line.endswith(f"magick {path} {path.with_stem('IMG_1-converted')}")


@pytest.mark.parametrize("given", [".", "*.png"])
def test_pictures_are_found_in_natural_order(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    names = ["anna.png", "anna2.png", "anna-2.png", "page2.png", "page10.png"]
    for name in reversed(names):
        Image.new("L", (9, 9)).save(name)
    assert [path.name for path in pictures.find([given], False).files] == names
