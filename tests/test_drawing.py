import json
import os

import cv2
import numpy as np
import pytest

from neural_lib import annotate, checkpoint, drawing
from neural_lib.canvas import SIZE
from neural_lib.config import TrainConfig
from neural_lib.datasets import DATASETS
from neural_lib.drawing import PANEL, DrawingBoard, Reading

SAVED = checkpoint.for_run(TrainConfig(dataset="kmnist"), DATASETS["kmnist"], {})


class Reader:
    """Says of a drawing how dark it is; of white paper nothing."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, picture: np.ndarray) -> Reading | None:
        self.calls += 1
        dark = float((picture < 128).mean())
        return Reading(np.zeros((28, 28), np.uint8), [dark, 1 - dark, *[0.0] * 8]) if dark else None


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def board(reader) -> DrawingBoard:
    return DrawingBoard(SAVED, reader, save=lambda picture, reading: "drawing-7.png")


def stroke(board: DrawingBoard, *points: tuple[int, int]) -> None:
    board.press(*points[0])
    for point in points[1:]:
        board.move(*point)
    board.lift(*points[-1])


def test_the_frame_holds_the_canvas_and_the_panel(board):
    blank = board.frame()
    assert blank.shape == (SIZE, SIZE + PANEL, 3) and blank.dtype == np.uint8
    assert (blank[:, :SIZE] == 255).all() and board.reading is None
    stroke(board, (100, 100), (300, 300))
    frame = board.frame()
    assert np.array_equal(frame[:, :SIZE], board.canvas.picture())
    assert (frame[:, SIZE:] != blank[:, SIZE:]).any()


def test_an_answer_follows_every_move_and_nothing_is_read_twice(board, reader):
    board.frame()
    before = reader.calls
    board.press(100, 100)
    told = []
    for x in (150, 200, 250):
        board.move(x, 100)
        board.frame()
        told.append(board.reading.probabilities[0])
        assert board.frame() is board.frame()
    assert told == sorted(set(told)) and reader.calls == before + 3
    board.lift(250, 100)
    board.frame()
    calls = reader.calls
    board.move(300, 300)  # with the button up
    assert board.frame() is not None and reader.calls == calls


def test_many_moves_between_two_frames_are_read_once(board, reader):
    board.frame()
    before = reader.calls
    stroke(board, *[(x, 100) for x in range(50, 300)])
    board.frame()
    assert reader.calls == before + 1


def test_while_the_mouse_moves_it_is_drawn_at_once_and_read_now_and_then(board, reader, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(drawing.time, "monotonic", lambda: clock[0])
    board.press(50, 50)
    board.frame()
    before = reader.calls
    for x in range(60, 200, 10):
        clock[0] += drawing.READ_EVERY / 4
        board.move(x, 50)
        assert board.frame(is_moving=True)[50, x].max() == 0
    assert before + 3 <= reader.calls <= before + 4  # 14 moves, 4 in each interval
    calls = reader.calls
    for _ in range(3):
        board.frame(is_moving=False)
    assert reader.calls == calls + 1  # of all of it, once the mouse rests


def test_the_stroke_goes_to_where_the_button_is_released(board):
    board.press(50, 50)
    board.lift(200, 50)
    assert board.frame()[50, 190].max() == 0 and not board.canvas.is_down


def test_the_chart_names_the_most_probable_five(board, monkeypatch):
    drawn = []
    bars = annotate.bars
    monkeypatch.setattr(
        annotate, "bars", lambda names, values, *size: drawn.append((names, values)) or bars(names, values, *size)
    )
    stroke(board, (100, 100), (300, 300))
    board.frame()
    ((names, values),) = drawn
    assert names[:2] == ["ki き", "o お"] and len(names) == drawing.TOP and values == sorted(values, reverse=True)


def test_keys_undo_and_clear(board):
    for _ in range(2):
        stroke(board, (100, 100), (300, 300))
    board.key("u")
    assert len(board.canvas.strokes) == 1 and board.frame() is not None and board.reading
    board.key("c")
    board.frame()
    assert board.canvas.strokes == [] and board.reading is None


def test_s_saves_what_is_on_the_canvas(reader):
    saved = []

    def save(picture, reading):
        saved.append((picture, reading))
        return "drawing-7.png"

    board = DrawingBoard(SAVED, reader, save)
    board.key("s")
    assert board.status == "nothing to save" and saved == []
    stroke(board, (100, 100), (300, 300))
    board.key("s")  # before a frame was shown
    ((picture, reading),) = saved
    assert np.array_equal(picture, board.canvas.picture()) and reading.probabilities == reader(picture).probabilities
    assert board.status == "saved drawing-7.png"
    stroke(board, (10, 10), (20, 20))
    board.frame()
    assert board.status == ""


def test_a_disk_that_is_full_is_told_and_the_drawing_stays(reader):
    def save(picture, reading):
        raise OSError(28, "No space left on device")

    board = DrawingBoard(SAVED, reader, save)
    stroke(board, (100, 100), (300, 300))
    board.key("s")
    assert board.status == "not saved: No space left on device" and board.canvas.strokes


def test_a_press_beside_the_canvas_draws_nothing(board):
    stroke(board, (SIZE + 10, 100), (100, 100))
    assert board.canvas.strokes == []


def test_a_drawing_and_its_answer_are_saved_under_the_next_number(tmp_path):
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    picture[100:200, 100:120] = 0
    (tmp_path / "drawing-2.json").touch()
    written = [drawing.save(tmp_path, picture, lambda path: json.dumps({"path": str(path)})) for _ in range(2)]
    assert [path.name for path in written] == ["drawing-1.png", "drawing-3.png"]
    assert np.array_equal(cv2.imread(str(written[1])), picture)
    assert json.loads((tmp_path / "drawing-3.json").read_text()) == {"path": str(written[1])}
    assert sorted(os.listdir(tmp_path)) == [
        "drawing-1.json",
        "drawing-1.png",
        *(f"drawing-{n}" for n in ("2.json", "3.json", "3.png")),
    ]
