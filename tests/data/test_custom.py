"""Data sets of user images: folders of pictures, read, prepared and cached."""

import contextlib
import itertools
import os
import shutil
import threading
import tracemalloc
import warnings
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

try:
    import resource
except ImportError:  # Windows
    resource = None

from neural_lib.data import custom, ink
from neural_lib.data.catalog import Preparation
from neural_lib.data.custom import Request
from neural_lib.data.pictures import read_picture
from neural_lib.system import environment
from neural_lib.system.errors import UserError
from neural_lib.system.files import remove_empty_folders


def picture(*size: int, seed: int = 0) -> np.ndarray:
    """A picture of random pixels: uint8 (H, W) or (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Cats and dogs in pictures of mixed modes, formats and sizes, five each."""
    for number, (name, kind) in enumerate(itertools.product(("cat", "dog"), ("L", "RGB", "P", "RGBA", "1"))):
        path = tmp_path / "photos" / name / f"{number}.{('png', 'bmp', 'webp', 'gif', 'tif')[number % 5]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(30 + number, 90 - 5 * number, 3, seed=number)).convert(kind).save(path)
    return tmp_path / "photos"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "neural_lib"


def load(path: object, *how, **options) -> custom.Collection:
    return custom.load(str(path), Request(*how), **options)


# --- what can't be read ---


def test_what_is_no_picture_is_named_and_left_out(photos, caplog):
    (photos / "cat" / "b\x1bell.txt").write_text("not a picture")
    (photos / "dog" / "cut.jpg").write_bytes(cv2.imencode(".jpg", picture(90, 90))[1].tobytes()[:99])
    os.symlink("nowhere", photos / "dog" / "gone.png")
    (photos / "readme.md").write_text("beside")
    data = load(photos)
    assert len(data.names) == 13 and len(data.indices["train"]) == 10
    (warning,) = caplog.messages
    assert warning.startswith("photos: 4 files are left out\n    readme.md: belongs to no class\n")
    assert "cat/b?ell.txt: is not a PNG, JPEG" in warning and "dog/cut.jpg: is damaged" in warning
    assert "dog/gone.png: can't be read (No such file or directory)" in warning


@pytest.mark.parametrize("name", ["pages.tif", "moving.gif"])
def test_the_first_of_several_pages_is_an_image_and_a_warning_says_so(photos, caplog, name):
    levels = (250, 10, 20)
    pages = [Image.new("RGB", (40, 40), (level,) * 3) for level in levels]
    pages[0].save(photos / "cat" / name, save_all=True, append_images=pages[1:])
    for _ in range(2):  # read, and from the cache
        data = load(photos)
        assert data.images[data.names.index(f"cat/{name}")].min() > 240
        assert caplog.messages == [f"photos: only the first page of a file is an image: cat/{name}"]
        caplog.clear()


def test_of_much_that_is_left_out_the_first_ten_are_named(photos, caplog):
    for number in range(25):
        (photos / "cat" / f"n{number}.txt").write_text("no picture")
    load(photos)
    lines = caplog.messages[0].splitlines()
    assert lines[0] == "photos: 25 files are left out" and len(lines) == 12
    assert lines[10].startswith("    cat/n9.txt: ") and lines[11] == "    and 15 more"


def test_a_class_or_a_part_without_a_readable_picture_is_refused(photos, cache):
    (photos / "fox").mkdir()
    (photos / "fox" / "1.jpg").write_text("no picture")
    with pytest.raises(UserError, match="no picture that can be read in fox; add"):
        load(photos)
    assert not list(cache.parent.glob("*/*"))
    (photos / "fox" / "2.png").write_bytes((photos / "cat" / "0.png").read_bytes())
    (photos / "train").mkdir()
    for name in ("cat", "dog", "fox"):
        (photos / name).rename(photos / "train" / name)
    (photos / "test" / "cat").mkdir(parents=True)
    (photos / "test" / "cat" / "1.jpg").write_text("no picture")
    with pytest.raises(UserError, match="no picture that can be read in test/; add"):
        load(photos)


def test_a_file_name_that_is_not_utf8_is_read(photos):
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    write(photos / "cat" / name, picture(20, 20))
    assert len(load(photos).indices["train"]) == 11
    assert len(load(photos).indices["train"]) == 11  # from the cache


# --- size and channels ---


@pytest.mark.parametrize("sizes, size", [
    ([(28, 28)] * 3, 28), ([(16, 16)], 16), ([(64, 64)], 64), ([(8, 8)] * 2, 32), ([(65, 65)] * 2, 32),
    ([(28, 28), (28, 29)], 32), ([(20, 40)] * 2, 32), ([None, (28, 28), None], 28), ([None], 32), ([], 32),
])  # fmt: skip
def test_images_keep_a_size_that_all_have(sizes, size):
    assert custom.common_size(sizes) == size


def test_only_the_first_sizes_are_looked_at_if_they_differ():
    assert custom.common_size(itertools.chain([(640, 480)], iter(lambda: pytest.fail("looked at"), None))) == 32


def test_images_are_grey_if_all_pictures_show_grey_alone(tmp_path):
    for number, name in enumerate("aabb"):
        grey = picture(20, 20, seed=number)
        write(tmp_path / "d" / name / f"{number}.png", np.dstack([grey] * 3) if number % 2 else grey)
    data = load(tmp_path / "d")
    assert data.preparation == Preparation(20, 1, None, "crop") and data.images.shape == (4, 1, 20, 20)
    assert all(np.array_equal(image[0], picture(20, 20, seed=number)) for number, image in enumerate(data.images))
    nearly = np.dstack([picture(20, 20) // 2 + add for add in (8, 0, 8)])  # as lossy WebP decodes grey
    write(tmp_path / "d" / "b" / "nearly.png", nearly)
    assert load(tmp_path / "d").images.shape == (5, 1, 20, 20)
    write(tmp_path / "d" / "b" / "colour.png", picture(20, 20, 3))
    assert load(tmp_path / "d").images.shape == (6, 3, 20, 20)


@pytest.mark.parametrize("size", [20, 64, 128])
def test_a_grey_network_gets_from_its_training_files_what_it_was_trained_on(tmp_path, size):
    """OpenCV enlarges three channels and one with different code: a few pixels in a million differ by 1."""
    for number in range(60):
        write(tmp_path / "d" / "ab"[number % 2] / f"{number}.png", picture(8 + number % 5, 8 + number % 7, seed=number))
    data = load(tmp_path / "d", size)
    assert data.preparation.channels == 1
    for image, name in zip(data.images, data.names, strict=True):
        assert np.array_equal(image, ink.prepare(read_picture(tmp_path / "d" / name), data.preparation))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [16, 48])
def test_a_picture_is_made_square(fit, size):
    wide = np.zeros((30, 90, 3), np.uint8)
    wide[:, 30:60] = (250, 0, 0)  # the middle is red
    wide[:, 60:] = (0, 250, 0)
    image = ink.prepare(wide, Preparation(size, 3, None, fit))
    assert image.shape == (3, size, size)
    red, green = (image[channel] > 125 for channel in (0, 1))
    expected = {"crop": (1, 0), "pad": (1 / 9, 1 / 9), "stretch": (1 / 3, 1 / 3)}[fit]
    assert (red.mean(), green.mean()) == pytest.approx(expected, abs=0.06)
    if fit == "pad":
        assert not image[:, : size // 4].any() and not image[:, -(size // 4) :].any()  # the bars are black


@pytest.mark.parametrize("how", [(), (24, "pad"), (40, "stretch"), (0, "crop", True), (56, "crop", True)])
def test_each_image_is_what_prediction_makes_of_its_file(photos, how):
    data = load(photos, *how)
    for index, name in enumerate(data.names):
        if index in data.indices["train"]:
            seen = read_picture(photos / name, min_side=data.preparation.min_side)
            assert np.array_equal(ink.prepare(seen, data.preparation), data.images[index])


def test_a_large_photo_is_decoded_reduced_for_large_images_and_whole_for_small_ones(tmp_path, monkeypatch):
    for name in "ab":
        write(tmp_path / "d" / name / "1.jpg", cv2.resize(picture(30, 40, 3), (800, 600)))
    shapes, preparing = {}, custom.prepare
    monkeypatch.setattr(custom, "prepare", lambda seen, how: shapes.update({seen.shape: 0}) or preparing(seen, how))
    for size in (64, 65):
        load(tmp_path / "d", size, use_cache=False)
    assert list(shapes) == [(600, 800, 3), (150, 200, 3)]


def test_writing_is_placed_as_kmnists(tmp_path):
    for name in "ab":
        page = np.full((300, 400, 3), 220, np.uint8)
        cv2.line(page, (50, 60), (150, 260), (30, 30, 30), 9)
        write(tmp_path / "d" / name / "1.png", page)
    for size in (28, 56):
        data = load(tmp_path / "d", size, "crop", True)
        assert data.preparation.placement == (size, "box", 1.55 * size / 28)
        rows = np.flatnonzero(data.images[0, 0].any(axis=1))
        assert (rows[0], rows[-1]) == (0, size - 1) and data.images.max() == 255


# --- memory, time, interruption ---


def test_what_does_not_fit_into_the_memory_is_refused_before_it_is_read(photos, monkeypatch):
    monkeypatch.setattr(environment, "available_memory", lambda: 1_000_000)
    monkeypatch.setattr(custom, "read_picture", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UserError, match="10 images of 224x224 pixels take 1.5 MB of memory, and 1.0 MB are free; give"):
        load(photos, 224, use_cache=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["L", "RGB"])
def test_images_in_the_cache_are_never_in_memory_together(tmp_path, cache, monkeypatch, kind):
    monkeypatch.setattr(environment, "available_memory", lambda: 0)
    for number in range(100):
        path = tmp_path / "d" / "ab"[number % 2] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(8, 8, 3, seed=number)).convert(kind).save(path)
    tracemalloc.start()
    data = load(tmp_path / "d", 224)  # in colour the images take 15 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.images.shape == (100, len(kind), 224, 224) and peak < 8_000_000


def test_a_disk_that_is_too_small_is_refused_before_pictures_are_read(photos, cache, monkeypatch):
    fail_to_read(monkeypatch)
    disk = namedtuple("Disk", "total used free")(5 * 10**9, 5 * 10**9, 1_505_279)  # a byte too few
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk if path == cache else pytest.fail("another disk"))
    with pytest.raises(UserError) as error:
        load(photos, 224)
    assert "photos: 10 images of 224x224 pixels take 1.5 MB, and 1.5 MB are free in " in str(error.value)
    advice = f"in {cache}; set XDG_CACHE_HOME to a folder on a disk with more room, or give a smaller --image-size"
    assert advice in str(error.value) and "\n" not in str(error.value)
    assert not list(cache.iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=1_505_280))
    assert len(load(photos, 224).images) == 10


@contextlib.contextmanager
def longest_file(size: int):
    """Within this block a file can't become longer, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(resource is None, reason="Windows has no limit of a file's size")
@pytest.mark.parametrize("size", [200_000, 1_505_280])  # bytes: some of the images, or all but the header
def test_a_disk_that_fills_up_meanwhile(photos, cache, monkeypatch, caplog, size):
    monkeypatch.setattr(custom, "BATCH", 1)
    expected = load(photos, 224, use_cache=False)
    with longest_file(size):
        assert_same(load(photos, 224), expected)
    (message,) = [each for each in caplog.messages if "cache" in each]
    assert "the images can't be cached (File too large), so the next run decodes them again" in message
    monkeypatch.setattr(environment, "available_memory", lambda: 1000)
    with longest_file(size), pytest.raises(UserError) as error:
        load(photos, 224)
    assert str(cache) in str(error.value) and "can't be cached (File too large); set XDG_CACHE_HOME" in str(error.value)
    assert "10 images of 224x224 pixels take 1.5 MB of memory" in str(error.value) and "\n" not in str(error.value)
    assert not list(cache.iterdir())


def test_reading_leaves_pythons_warnings_as_they_are(photos, monkeypatch):
    monkeypatch.setattr(custom, "SMALL_FILE", 0)
    monkeypatch.setattr(custom, "BATCH", 1)
    monkeypatch.setattr(custom, "usable_cores", lambda: 8)
    before = list(warnings.filters)
    for _ in range(20):
        load(photos, use_cache=False)
    assert warnings.filters == before


def test_pictures_are_read_on_all_cores(photos, monkeypatch):
    barrier, reading = threading.Barrier(2, timeout=10), custom.read_picture
    monkeypatch.setattr(custom, "usable_cores", lambda: 2)
    monkeypatch.setattr(custom, "BATCH", 5)
    monkeypatch.setattr(custom, "SMALL_FILE", 100)

    def read(path, **options):
        barrier.wait()  # passes only if another thread reads at the same time
        return reading(path, **options)

    monkeypatch.setattr(custom, "read_picture", read)
    assert len(load(photos, use_cache=False).indices["train"]) == 10


def test_an_interrupted_reading_leaves_nothing_behind(photos, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def interrupt(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(custom.tqdm, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(photos)
    remove_empty_folders()  # as at the end of a command
    assert not (tmp_path / "cache").exists()
    assert threading.active_count() == 1 or not any("ThreadPool" in each.name for each in threading.enumerate())


# --- the cache ---


def fail_to_read(monkeypatch) -> None:
    monkeypatch.setattr(custom, "read_picture", lambda *_, **__: pytest.fail("read again"))


def assert_same(one: custom.Collection, other: custom.Collection) -> None:
    assert np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)
    assert (one.preparation, one.names, one.classes) == (other.preparation, other.names, other.classes)
    assert {part: list(each) for part, each in one.indices.items()} == {
        part: list(each) for part, each in other.indices.items()
    }


def test_what_was_read_is_found_again_and_mapped_from_the_file(photos, cache, monkeypatch):
    (photos / "cat" / "notes.txt").write_text("no picture")
    first = load(photos)
    (file,) = cache.iterdir()
    fail_to_read(monkeypatch)
    again = load(photos)
    assert_same(first, again)
    assert isinstance(again.images, np.memmap) and Path(again.images.filename) == file
    assert_same(first, custom.load(str(photos), first.preparation))  # as predict.py loads it


@pytest.mark.parametrize("kind", ["L", "RGB"])
@pytest.mark.parametrize("size", [0, 80])
def test_images_decoded_into_the_cache_are_those_decoded_in_memory(tmp_path, cache, monkeypatch, kind, size):
    monkeypatch.setattr(custom, "BATCH", 3)
    monkeypatch.setattr(custom, "SMALL_FILE", 0)  # several threads
    for number in range(20):
        pixels = picture(30 + number, 40, 3, seed=number)
        path = tmp_path / "d" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(kind).save(path)
    (tmp_path / "d" / "a" / "5.txt").write_text("no picture")
    in_memory, new, cached = (load(tmp_path / "d", size, use_cache=use) for use in (False, True, True))
    assert_same(in_memory, new)
    assert_same(in_memory, cached)
    assert isinstance(new.images, np.memmap) and not isinstance(in_memory.images, np.memmap)
    assert new.images.shape == (21, len(kind), size or 32, size or 32)


def test_the_mapped_images_can_be_written_to_without_changing_the_file(photos, cache):
    load(photos).images[:] = 0
    assert load(photos).images.any()


@pytest.mark.parametrize("change", ["touch", "chmod", "new", "gone", "request", "elsewhere"])
def test_what_has_changed_is_read_again(photos, cache, monkeypatch, change):
    load(photos)
    how = ()
    if change == "touch":
        os.utime(photos / "cat" / "0.png", ns=(1, 1))
    elif change == "chmod":
        (photos / "cat" / "0.png").chmod(0o600)  # a file that could not be read may be readable now
    elif change == "new":
        write(photos / "cat" / "new.png", picture(9, 9))
    elif change == "gone":
        (photos / "cat" / "0.png").unlink()
    elif change == "request":
        how = (16,)
    elif change == "elsewhere":
        photos = photos.rename(photos.with_name("others"))
    count, reading = [], custom.read_picture
    monkeypatch.setattr(custom, "read_picture", lambda path, **how: count.append(path) or reading(path, **how))
    data = load(photos, *how)
    assert len(count) == len(data.names)
    assert len(list(cache.iterdir())) == (2 if change in ("request", "elsewhere") else 1)  # else replaced


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "lost", "listing"])
def test_a_damaged_cache_is_read_anew(photos, cache, damage):
    first = load(photos)
    first = first._replace(images=first.images.copy())  # a copy, not mapped from the file that will be damaged
    (file,) = cache.iterdir()
    content = file.read_bytes()
    damaged = {"cut": content[:-1], "empty": b"", "foreign": b"\xff{]\n", "lost": content[1:]}
    damaged["listing"] = content.replace(b'"listing": "' + content.partition(b'"listing": "')[2][:1], b'"listing": "x')
    file.write_bytes(damaged[damage])
    assert_same(load(photos), first)
    assert file.stat().st_size > 10_000


def test_without_a_cache_nothing_is_written(photos, cache):
    assert_same(load(photos, use_cache=False), load(photos, use_cache=False))
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_warned_of(photos, cache, caplog):
    cache.parent.mkdir()
    cache.write_text("a file in the folder's place")
    assert len(load(photos).indices["train"]) == 10
    assert "the images can't be cached" in caplog.text and "so the next run decodes them again" in caplog.text


# --- too many classes ---


def test_more_classes_than_a_report_can_show_are_refused(photos, monkeypatch):
    monkeypatch.setattr(custom, "MAX_CLASSES", 2)
    assert len(load(photos).classes) == 2
    monkeypatch.setattr(custom, "MAX_CLASSES", 1)
    with pytest.raises(UserError, match="has 2 classes, and 1 is the limit; is each folder a class?"):
        load(photos)
    assert len(custom.load(str(photos), Preparation(28, 3, None)).classes) == 2  # to be scored


# --- the pictures in the files ---


@pytest.mark.parametrize("kind", ["folder", "zip", "gztar", "table"])
def test_the_original_of_each_image_is_its_whole_picture(tmp_path, photos, kind):
    (photos / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    dataset = photos
    if kind in ("zip", "gztar"):
        dataset = Path(shutil.make_archive(str(tmp_path / "all"), kind, photos))
    elif kind == "table":
        dataset = photos / "table.csv"
        files = sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*"))
        dataset.write_text("".join(f"{name},{name[:3]}\n" for name in files))
    data = load(dataset)
    names = [*data.names, "cat/missing.png"]
    found = custom.read_originals(str(dataset), names, longest=40)
    assert found.keys() == {*names} - {"cat/missing.png", "cat/broken.png"} and len(found) == 10
    for name, original in found.items():
        expected = read_picture(photos / name)
        scale = min(1, 40 / max(expected.shape[:2]))
        assert original.shape == (*(round(scale * side) for side in expected.shape[:2]), 3)
        assert abs(original.mean() - expected.mean()) < 3
        assert os.path.exists(custom.path_of(str(dataset), name)) or kind in ("zip", "gztar")
    assert custom.read_originals(str(dataset), [], 40) == {}


def test_images_in_no_file_have_no_original(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x_train=picture(4, 28, 28), y_train=np.arange(4))
    names = load(path).names
    assert custom.read_originals(str(path), names, 40) == custom.read_originals("digits", ["test[3]"], 40) == {}
    assert (
        custom.path_of("digits", "test[3]") == "test[3]" and custom.path_of(str(path), names[0]) == f"{path}/{names[0]}"
    )
    assert custom.read_originals(str(tmp_path / "moved.zip"), ["cat/1.png"], 40) == {}
