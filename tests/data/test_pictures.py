"""Picture files of every kind, damaged ones and large ones; files and folders named on a command line."""

import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neural_lib.data import pictures
from neural_lib.data.pictures import PictureError, read_picture

SCENE = np.full((40, 60, 3), 255, np.uint8)
SCENE[10:30, 20:30] = (200, 30, 30)
FILES = {
    "png": {}, "jpg": {"quality": 95}, "bmp": {}, "tif": {}, "webp": {"lossless": True}, "gif": {},
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
    dark = read_picture(write(tmp_path / "dark.png", Image.fromarray(values // 256)))
    assert dark.max() <= 1  # and not stretched to what would be noise


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


def test_the_first_of_several_frames_is_read(tmp_path):
    frames = [Image.new("L", (30, 20), level) for level in (10, 240)]
    for name in ("p.gif", "p.tif", "p.webp"):
        write(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        assert read_picture(tmp_path / name).mean() == pytest.approx(10, abs=2)


def test_an_array_is_read_as_the_file_of_it(tmp_path):
    for array in (SCENE, SCENE[..., 0], SCENE.transpose(1, 0, 2), SCENE.repeat(40, 0).repeat(40, 1)):
        path = write(tmp_path / "p.png", Image.fromarray(array.copy()))
        assert np.array_equal(read_picture(array), read_picture(path))
    read = read_picture(SCENE)
    read[:] = 0
    assert SCENE.max() == 255  # a copy


@pytest.mark.parametrize("array", [
    np.zeros((9, 9), np.float32), np.zeros((9, 9), bool), np.zeros(9, np.uint8), np.zeros((9, 9, 4), np.uint8),
    np.zeros((9, 9, 1), np.uint8), np.zeros((2, 9, 9, 3), np.uint8), np.zeros((0, 9), np.uint8),
], ids=lambda array: f"{array.dtype}{array.shape}")  # fmt: skip
def test_an_array_of_another_kind_is_refused(array):
    with pytest.raises(PictureError, match=r"uint8 \(H, W\) or \(H, W, 3\)") as caught:
        read_picture(array)
    assert str(array.shape) in str(caught.value) and str(array.dtype) in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_large_picture_is_reduced(tmp_path, kind):
    large = Image.fromarray(SCENE).resize((3000, 2000))
    read = read_picture(write(tmp_path / f"p.{kind}", large))
    assert read.shape == (683, 1024, 3)
    assert read[20, 20].min() > 250 and read[341, 427].max() > read[341, 427].min() + 100


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("width, height", [(20_000, 20_000), (12_000, 9_000), (2**31 - 1, 1)])
def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch, width, height):
    from PIL import ImageFile

    (tmp_path / "p.png").write_bytes(png_header(width, height))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it is decoded"))
    with pytest.raises(PictureError, match="pixels.*reduce it$") as caught:
        read_picture(tmp_path / "p.png")
    assert "\n" not in str(caught.value)


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
    import io

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
            refusals += "is not a PNG" in str(error) or "is damaged" in str(error)
    assert refusals == 6


@pytest.mark.parametrize("kind", FILES)
def test_no_damage_leads_to_another_error(tmp_path, kind):
    content, generator = content_of(kind), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(0, min(len(content), 400), size=4):
            damaged[place] = generator.integers(256)
        (tmp_path / "p").write_bytes(damaged)
        try:
            assert read_picture(tmp_path / "p").shape[2] == 3  # nothing that matters was hit
        except PictureError as error:
            assert str(error)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("not a picture\n")
    (tmp_path / "empty.png").touch()
    for name in ("text.png", "empty.png"):
        with pytest.raises(PictureError, match="^is not a PNG, .*; convert it to one of these$"):
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


# --- what a command line names ---


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("b.PNG", "a.jpg", "notes.txt", "ü す.webp", "in/c.gif", "in/deep/d.tiff", "empty/.keep"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(paths, folder) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_folder_gives_its_pictures_by_name(folder):
    found = pictures.find([folder])
    assert names(found.files, folder) == ["a.jpg", "b.PNG", "ü す.webp"]
    assert names(found.skipped, folder) == ["notes.txt"]
    assert found.problems() == [f"skipped, for its name is not that of a picture: {folder / 'notes.txt'}"]


def test_recursive_looks_into_subfolders(folder):
    found = pictures.find([folder], recursive=True)
    assert names(found.files, folder) == ["a.jpg", "b.PNG", "ü す.webp", "in/c.gif", "in/deep/d.tiff"]


def test_a_named_file_is_taken_whatever_its_ending_is_and_in_its_order(folder):
    given = [folder / "notes.txt", folder / "nowhere.png", folder / "in", folder / "a.jpg", folder / "a.jpg"]
    assert names(pictures.find(given).files, folder) == ["notes.txt", "nowhere.png", "in/c.gif", "a.jpg", "a.jpg"]


def test_a_folder_without_a_picture_is_a_problem(folder):
    (folder / "empty" / "link").symlink_to(folder / "in", target_is_directory=True)  # which -r wouldn't follow
    for empty, recursive, advice in (
        ("empty", False, ""),
        ("empty", True, ""),
        ("outer", False, "; -r looks into its folders"),
    ):
        (folder / "outer" / "inner").mkdir(parents=True, exist_ok=True)
        found = pictures.find([folder / empty], recursive)
        assert found.files == []
        assert [line for line in found.problems() if line.startswith(f"{folder / empty}: holds no picture (.png, ")]
        assert found.problems()[0].endswith(f".gif){advice}")


def test_numbers_in_names_are_sorted_as_numbers(tmp_path):
    for number in (1, 10, 2, 100):
        (tmp_path / f"scan{number}.png").touch()
    assert names(pictures.find([tmp_path]).files, tmp_path) == [f"scan{number}.png" for number in (1, 2, 10, 100)]


def test_what_the_program_wrote_is_left_out_of_folders(folder):
    found = pictures.find([folder, folder / "a.jpg"], is_own=lambda path: path.name == "a.jpg")
    assert names(found.files, folder) == ["b.PNG", "ü す.webp", "a.jpg"]  # but not where it is named itself


def test_a_path_takes_one_line_whatever_it_holds(tmp_path):
    assert pictures.printable(Path("a\nb\x1b[1m" + os.fsdecode(b"\xff") + "す.png")) == "a?b?[1m?す.png"
    (tmp_path / "x\x1b[31m.txt").touch()
    assert not any("\x1b" in line for line in pictures.find([tmp_path]).problems())


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
    found = pictures.find([folder], recursive=True)
    assert f"{folder / 'in'}: can't be looked into (Permission denied)" in found.problems()
    assert names(found.files, folder) == ["a.jpg", "b.PNG", "ü す.webp"]


def test_a_pattern_that_no_shell_has_expanded_is_expanded(folder):
    for number in (1, 10, 2):
        (folder / f"scan{number}.png").touch()
    assert names(pictures.find([folder / "scan*.png"]).files, folder) == ["scan1.png", "scan2.png", "scan10.png"]
    assert names(pictures.find([str(folder / "**" / "*.gif")]).files, folder) == ["in/c.gif"]
    nothing = folder / "nothing*.png"
    assert pictures.find([nothing]).files == [nothing]  # read_picture will say that it isn't there
    (folder / "a[1].png").touch()  # a real name, not a pattern
    (folder / "a1.png").touch()
    assert names(pictures.find([folder / "a[1].png"]).files, folder) == ["a[1].png"]
