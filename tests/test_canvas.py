import numpy as np
import pytest

from neural_lib.canvas import INK, PAPER, PEN, SIZE, Canvas


@pytest.fixture
def canvas() -> Canvas:
    return Canvas()


def draw(canvas: Canvas, *points: tuple[int, int]) -> None:
    canvas.press(*points[0])
    for point in points[1:]:
        canvas.move(*point)
    canvas.lift()


def test_a_new_sheet_is_blank(canvas):
    picture = canvas.picture()
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 and (picture == PAPER).all()


def test_a_stroke_goes_from_point_to_point(canvas):
    draw(canvas, (100, 50), (300, 50), (300, 200))
    grey = canvas.picture()[..., 0]
    assert grey[50, 100] == grey[50, 200] == grey[50, 300] == grey[125, 300] == grey[200, 300] == INK
    assert grey[200, 100] == PAPER
    across = (grey[:, 200] < 128).sum()
    assert across == pytest.approx(PEN, abs=2)


def test_a_touch_leaves_a_dot(canvas):
    draw(canvas, (200, 220))
    dark = canvas.picture()[..., 0] < 128
    assert dark[220, 200] and dark.sum() == pytest.approx(np.pi * PEN**2 / 4, rel=0.2)


def test_only_a_pen_that_is_down_draws(canvas):
    canvas.move(100, 100)
    draw(canvas, (10, 10), (20, 20))
    before = canvas.picture()
    canvas.move(300, 300)
    assert np.array_equal(canvas.picture(), before)


def test_a_stroke_may_leave_the_sheet(canvas):
    draw(canvas, (400, 400), (SIZE + 50, SIZE + 50), (-50, -50))
    assert canvas.picture()[200, 200, 0] == INK


def test_undo_takes_one_stroke_and_clear_all(canvas):
    pictures = [canvas.picture()]
    for number in range(3):
        draw(canvas, (50, 100 + 100 * number), (350, 100 + 100 * number))
        pictures.append(canvas.picture())
    canvas.undo()
    assert np.array_equal(canvas.picture(), pictures[2])
    canvas.undo()
    assert np.array_equal(canvas.picture(), pictures[1])
    draw(canvas, (50, 200), (350, 200))
    assert np.array_equal(canvas.picture(), pictures[2])
    canvas.clear()
    assert np.array_equal(canvas.picture(), pictures[0]) and canvas.strokes == []
    canvas.undo()  # of nothing
    assert np.array_equal(canvas.picture(), pictures[0])


def test_undo_in_the_middle_of_a_stroke_lifts_the_pen(canvas):
    canvas.press(50, 50)
    canvas.undo()
    canvas.move(300, 300)
    assert (canvas.picture() == PAPER).all()
