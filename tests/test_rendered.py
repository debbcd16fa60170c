"""rendered.py: made-up photos."""

import cv2
import numpy as np
import pytest
import rendered


@pytest.mark.parametrize("thing", [*rendered.CLASSES.values(), *rendered.ODD.values()])
def test_a_photo_follows_from_the_seed_alone(thing):
    first, again, other = (rendered.photo(thing, np.random.default_rng(seed), size=40) for seed in (1, 1, 2))
    assert first.shape == (40, 40, 3) and first.dtype == np.uint8 and first.std() > 10
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("thing", [*rendered.CLASSES.values(), *rendered.ODD.values()])
def test_a_thing_stands_on_the_table_inside_the_ball_that_is_rendered(thing):
    grid = np.mgrid[-1.2:1.2:49j, -0.4:2:49j, -1.2:1.2:49j].reshape(3, -1).astype(np.float32)
    for seed in range(10):
        parts, colours = thing(np.random.default_rng(seed))
        distances = parts(*grid)
        inside = grid.T[np.minimum.reduce(distances) < 0]
        assert len(distances) == len(colours) and -0.02 < inside[:, 1].min() < 0.06
        assert np.linalg.norm(inside - rendered.CENTRE, axis=1).max() < rendered.RADIUS


def test_the_script_writes_a_folder_for_each_class_and_one_of_odd_things(tmp_path, monkeypatch):
    monkeypatch.setattr(rendered, "photo", lambda thing, random: np.full((2, 2, 3), [200, 0, 0], np.uint8))
    monkeypatch.setattr("sys.argv", ["rendered.py", str(tmp_path / "new")])
    rendered.main()
    files = [path.relative_to(tmp_path / "new").parent.as_posix() for path in tmp_path.rglob("*.jpg")]
    counts = {f"{part}/{name}": count for part, count in (("train", 24), ("test", 12)) for name in rendered.CLASSES}
    assert {folder: files.count(folder) for folder in files} == counts | {"odd": 12}
    blue, _, red = cv2.imread(str(tmp_path / "new/odd/cone0.jpg"))[0, 0]
    assert red > 190 and blue < 10
    with pytest.raises(SystemExit):
        rendered.main()
