from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from neural_lib import annotate, pages
from neural_lib.pages import PAGE, Pages


@pytest.mark.parametrize("tiles, expected", [
    (1, ["p.png"]), (PAGE, ["p.png"]), (PAGE + 1, ["p-page-1.png", "p-page-2.png"]),
    (10 * PAGE, [f"p-page-{number:02}.png" for number in range(1, 11)]),
])  # fmt: skip
def test_the_files_of_so_many_tiles(tiles, expected):
    assert pages.paths(Path("out/p.png"), tiles) == [Path("out") / name for name in expected]


@pytest.mark.parametrize("announced, added, written", [
    (3, 3, ["p.png"]),
    (PAGE + 5, PAGE + 5, ["p-page-1.png", "p-page-2.png"]),
    (2 * PAGE, PAGE, ["p-page-1.png"]),  # the others could not be read
    (5, 0, []),
])  # fmt: skip
def test_every_tile_is_on_a_page(tmp_path, announced, added, written):
    montage, most = Pages(tmp_path / "p.png", announced), 0
    for number in range(added):
        montage.add(np.full((228, 168, 3), 1 + number % 255, np.uint8))
        most = max(most, len(montage.tiles))
    assert [path.name for path in montage.finish()] == written == sorted(path.name for path in tmp_path.iterdir())
    assert most < PAGE  # never more in memory
    seen = set()
    for name in written:
        seen |= set(np.unique(cv2.imread(str(tmp_path / name))[..., 0]).tolist())
    assert seen >= set(range(1, 1 + added))


def test_pages_say_what_is_on_them(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(annotate, "headed", lambda tiles, text: said.append(text) or annotate.montage(tiles))
    montage = Pages(tmp_path / "p.png", PAGE + 5)
    for _ in range(PAGE + 5):
        montage.add(np.zeros((228, 168, 3), np.uint8))
    montage.finish()
    assert said == ["1 to 100", "101 to 105"]


@pytest.mark.parametrize("name, expected", [
    ("p.png", True), ("p-page-1.png", True), ("p-page-012.png", True), ("p-1.png", False), ("pxpng", False),
    ("p-page-1.jpg", False), ("ap.png", False), ("other/p.png", False),
])  # fmt: skip
def test_what_is_a_page_of_ours(tmp_path, name, expected):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    assert not pages.is_page(path, tmp_path / "p.png")  # it isn't there
    path.write_bytes(b"somebody's picture")
    assert not pages.is_page(path, tmp_path / "p.png")
    path.write_bytes(b"a montage" + pages.MARK)
    assert pages.is_page(path, tmp_path / "p.png") is expected


@pytest.mark.parametrize("suffix", annotate.SUFFIXES)
def test_the_mark_of_a_page_is_no_obstacle_to_readers(tmp_path, suffix):
    montage = Pages(tmp_path / f"p{suffix}", 1)
    montage.add(np.full((228, 168, 3), 200, np.uint8))
    (path,) = montage.finish()
    assert path.read_bytes().endswith(pages.MARK)
    assert abs(int(np.median(cv2.imread(str(path)))) - 200) < 5 and Image.open(path).convert("RGB").size == (174, 234)
