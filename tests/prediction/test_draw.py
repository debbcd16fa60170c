"""The drawing board, in memory; its windows, on a virtual display (Debian: xvfb, xdotool, openbox, wmctrl)."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import made_up
import numpy as np
import pytest
import torch
from conftest import ROOT

from neural_lib.data.pictures import PictureError
from neural_lib.evaluation import annotate
from neural_lib.prediction import draw
from neural_lib.prediction.draw import INK, PANEL, PAPER, PEN, SIZE, Canvas, DrawingBoard
from neural_lib.prediction.recogniser import Answer, Candidate, Recogniser

# strokes of two digits, in pixels of the canvas
FIVE = [(330, 60), (150, 80), (120, 200), (280, 210), (300, 320), (200, 390), (110, 350)]
FOUR = [(250, 50), (120, 250), (330, 250), (270, 150), (250, 400)]

# --- the canvas ---


@pytest.fixture
def canvas() -> Canvas:
    return Canvas()


def draw_stroke(canvas: Canvas, *points: tuple[int, int]) -> None:
    canvas.press(*points[0])
    for point in points[1:]:
        canvas.move(*point)
    canvas.lift()


def test_a_new_canvas_is_blank(canvas):
    picture = canvas.picture()
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 and (picture == PAPER).all()


def test_a_stroke_goes_from_point_to_point(canvas):
    draw_stroke(canvas, (100, 50), (300, 50), (300, 200))
    grey = canvas.picture()[..., 0]
    assert grey[50, 100] == grey[50, 200] == grey[50, 300] == grey[125, 300] == grey[200, 300] == INK
    assert grey[200, 100] == PAPER
    across = (grey[:, 200] < 128).sum()
    assert across == pytest.approx(PEN, abs=2)


def test_a_single_click_leaves_a_dot(canvas):
    draw_stroke(canvas, (200, 220))
    dark = canvas.picture()[..., 0] < 128
    assert dark[220, 200] and dark.sum() == pytest.approx(np.pi * PEN**2 / 4, rel=0.2)


def test_only_a_pen_that_is_down_draws(canvas):
    canvas.move(100, 100)
    draw_stroke(canvas, (10, 10), (20, 20))
    before = canvas.picture()
    canvas.move(300, 300)
    assert np.array_equal(canvas.picture(), before)


def test_a_stroke_may_leave_the_canvas(canvas):
    draw_stroke(canvas, (400, 400), (SIZE + 50, SIZE + 50), (-50, -50))
    assert canvas.picture()[200, 200, 0] == INK


def test_undo_removes_one_stroke_and_clear_all(canvas):
    pictures = [canvas.picture()]
    for number in range(3):
        draw_stroke(canvas, (50, 100 + 100 * number), (350, 100 + 100 * number))
        pictures.append(canvas.picture())
    canvas.undo()
    assert np.array_equal(canvas.picture(), pictures[2])
    canvas.undo()
    assert np.array_equal(canvas.picture(), pictures[1])
    draw_stroke(canvas, (50, 200), (350, 200))
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


# --- the drawing board ---


class DarknessRecogniser:
    """Answers with the share of dark pixels, and refuses white paper; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def read(self, picture: np.ndarray, invert: str, top: int) -> Answer:
        assert (invert, top) == ("yes", draw.TOP)
        self.calls += 1
        dark = float((picture < 128).mean())
        if not dark:
            raise PictureError("no ink found")
        others = [Candidate(str(index), 0.0, index, "") for index in range(2, draw.TOP)]
        top_classes = [Candidate("ki", 1 - dark, 1, "き"), Candidate("o", dark, 0, "お"), *others]
        return Answer(top_classes, np.zeros((28, 28), np.uint8))


@pytest.fixture
def recogniser() -> DarknessRecogniser:
    return DarknessRecogniser()


@pytest.fixture
def board(recogniser, tmp_path) -> DrawingBoard:
    return DrawingBoard(recogniser, tmp_path)


def write_on(board: DrawingBoard, *points: tuple[int, int]) -> None:
    board.press(*points[0])
    for point in points[1:]:
        board.move(*point)
    board.lift(*points[-1])


def test_the_frame_holds_the_canvas_and_the_panel(board):
    blank = board.frame()
    assert blank.shape == (SIZE, SIZE + PANEL, 3) and blank.dtype == np.uint8
    assert (blank[:, :SIZE] == 255).all() and board.answer is None
    write_on(board, (100, 100), (300, 300))
    frame = board.frame()
    assert np.array_equal(frame[:, :SIZE], board.canvas.picture())
    assert (frame[:, SIZE:] != blank[:, SIZE:]).any()


def test_every_move_is_read_and_nothing_is_read_twice(board, recogniser):
    board.frame()
    before = recogniser.calls
    board.press(100, 100)
    probabilities = []
    for x in (150, 200, 250):
        board.move(x, 100)
        board.frame()
        probabilities.append(board.answer.probability)
        assert board.frame() is board.frame()
    assert probabilities == sorted(set(probabilities), reverse=True) and recogniser.calls == before + 3
    board.lift(250, 100)
    frame, calls = board.frame(), recogniser.calls
    board.move(300, 300)  # with the button up
    assert board.frame() is frame and recogniser.calls == calls


def test_many_moves_between_two_frames_are_read_once(board, recogniser):
    board.frame()
    before = recogniser.calls
    write_on(board, *[(x, 100) for x in range(50, 300)])
    board.frame()
    assert recogniser.calls == before + 1


def test_a_moving_mouse_is_drawn_at_once_and_read_now_and_then(board, recogniser, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(draw.time, "monotonic", lambda: clock[0])
    board.press(50, 50)
    board.frame()
    before = recogniser.calls
    for x in range(60, 200, 10):
        clock[0] += draw.READ_EVERY / 4
        board.move(x, 50)
        assert board.frame(is_moving=True)[50, x].max() == 0
    assert before + 3 <= recogniser.calls <= before + 4  # 14 moves, 4 in each interval
    calls = recogniser.calls
    for _ in range(3):
        board.frame(is_moving=False)
    assert recogniser.calls == calls + 1  # the whole drawing, once the mouse rests


def test_the_stroke_goes_to_where_the_button_is_released(board):
    board.press(50, 50)
    board.lift(200, 50)
    assert board.frame()[50, 190].max() == 0 and not board.canvas.is_down


def test_the_chart_names_the_most_probable_classes(board):
    write_on(board, (100, 100), (300, 300))
    frame = board.frame()
    assert [each.label for each in board.answer.top] == ["ki", "o", "2", "3", "4"]
    probabilities = [each.probability for each in board.answer.top]
    chart = annotate.draw_bars(["ki き", "o お", "2", "3", "4"], probabilities, PANEL, 44 * draw.TOP)
    assert np.array_equal(frame[: len(chart), SIZE:], chart)


def test_keys_undo_and_clear(board):
    blank = board.frame()
    write_on(board, (100, 100), (300, 300))
    once, answer = board.frame(), board.answer
    write_on(board, (300, 100), (100, 300))
    assert (board.frame() != once).any() and board.answer.top != answer.top
    board.key("u")
    assert np.array_equal(board.frame(), once) and board.answer.top == answer.top
    board.key("c")
    assert np.array_equal(board.frame(), blank) and board.answer is None


def test_s_saves_what_is_on_the_canvas(board, tmp_path):
    board.key("s")
    assert board.status == "nothing to save" and os.listdir(tmp_path) == []
    write_on(board, (100, 100), (300, 300))
    board.key("s")  # before a frame was shown
    path = tmp_path / "drawing-1.png"
    assert np.array_equal(cv2.imread(str(path)), board.canvas.picture())
    assert json.loads(path.with_suffix(".json").read_text()) == board.answer.to_dict() | {"path": str(path)}
    assert board.status == "saved drawing-1.png"
    write_on(board, (10, 10), (20, 20))
    board.frame()
    assert board.status == ""


def test_a_failure_to_save_is_shown_and_the_drawing_stays(board, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(draw, "write_file", no_space)
    before = board.frame()
    write_on(board, (100, 100), (300, 300))
    board.key("s")
    assert board.status == "not saved: No space left on device" and board.canvas.strokes
    assert (board.frame()[:, SIZE:] != before[:, SIZE:]).any()


def test_a_press_beside_the_canvas_draws_nothing(board):
    write_on(board, (SIZE + 10, 100), (100, 100))
    assert board.canvas.strokes == []


def test_a_drawing_is_saved_under_the_next_free_number(tmp_path):
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    picture[100:200, 100:120] = 0
    (tmp_path / "drawing-2.json").touch()
    written = [draw.save_drawing(tmp_path, picture, {"path": None, "label": "o"}) for _ in range(2)]
    assert [path.name for path in written] == ["drawing-1.png", "drawing-3.png"]
    assert np.array_equal(cv2.imread(str(written[1])), picture)
    assert json.loads((tmp_path / "drawing-3.json").read_text()) == {"path": str(written[1]), "label": "o"}
    assert sorted(os.listdir(tmp_path)) == [
        "drawing-1.json",
        "drawing-1.png",
        *(f"drawing-{n}" for n in ("2.json", "3.json", "3.png")),
    ]


def test_drawn_digits_are_read_by_a_trained_network(digits_model, tmp_path):
    board = DrawingBoard(Recogniser.load(digits_model, "cpu"), tmp_path)
    for strokes, label in (([FIVE], "5"), ([FOUR], "4")):
        for points in strokes:
            write_on(board, *points)
        board.frame()
        assert (board.answer.label, len(board.answer.top)) == (label, draw.TOP)
        board.key("s")
        board.key("c")
    saved = [json.loads((tmp_path / f"drawing-{number}.json").read_text()) for number in (1, 2)]
    assert [each["label"] for each in saved] == ["5", "4"]


def test_draw_opens_a_board(monkeypatch, tmp_path):
    boards = []
    monkeypatch.setattr(draw, "run_board", lambda board, title: boards.append(board))
    recogniser = Recogniser(made_up.make_checkpoint("kmnist"), torch.device("cpu"))
    draw.draw(recogniser, tmp_path)
    assert [(board.recogniser, board.folder) for board in boards] == [(recogniser, tmp_path)]


# --- windows ---

KEYS = pytest.mark.skipif(not shutil.which("xdotool"), reason="xdotool, which presses the keys, is not installed")


@pytest.fixture(scope="module")
def xvfb():
    """The name of a virtual display of 1024x768 pixels."""
    if not shutil.which("Xvfb"):
        pytest.skip("Xvfb, the virtual display, is not installed")
    read_end, write_end = os.pipe()
    command = ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write_end], stderr=subprocess.DEVNULL)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        number = answer.readline().strip()  # once it is ready
    yield f":{number}"
    server.terminate()
    server.wait()


def test_without_a_display_none_is_found():
    assert draw.is_display_available() is (sys.platform != "linux")


@pytest.mark.skipif(sys.platform != "linux", reason="DISPLAY is X11's")
def test_a_display_that_is_gone_is_not_found(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":9999")
    assert not draw.is_display_available()


def test_a_display_is_found(xvfb, monkeypatch):
    monkeypatch.setenv("DISPLAY", xvfb)
    assert draw.is_display_available()


class Viewer:
    """A process that opens a window of that title, and a user's actions and observations."""

    def __init__(self, display_name: str, title: str, *command: object, folder: Path | None = None) -> None:
        self.title = title
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "DISPLAY": display_name}
        self.process = subprocess.Popen(
            [sys.executable, "-u", *map(str, command)],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.watchdog = threading.Timer(60, self.process.kill)  # no test waits for ever
        self.watchdog.start()

    def wait_for(self, text: str) -> None:
        while text not in (line := self.process.stdout.readline()):
            assert line, f"it ended before it printed {text!r}: {self.process.stderr.read()}"

    def press(self, key: str) -> None:
        search = ["search", "--sync", "--onlyvisible", "--name", f"^{self.title}$"]
        subprocess.run(
            ["xdotool", *search, "windowfocus", "--sync", "sleep", "0.1", "key", key],
            env=self.environment, check=True, capture_output=True, timeout=30,
        )  # fmt: skip

    def close_window(self) -> bool:
        closing = subprocess.run(["wmctrl", "-c", self.title], env=self.environment, capture_output=True)
        return closing.returncode == 0

    def draw(self, *points: tuple[int, int]) -> None:
        """Press the left button on the first point of the window, move to the others, release it."""
        found = subprocess.run(
            ["xdotool", "search", "--sync", "--onlyvisible", "--name", f"^{self.title}$"],
            env=self.environment, check=True, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        window = found.stdout.split()[0]
        first, *others = [["mousemove", "--window", window, str(x), str(y), "sleep", "0.08"] for x, y in points]
        command = [*first, "mousedown", "1", *sum(others, []), "mouseup", "1"]
        subprocess.run(["xdotool", *command], env=self.environment, check=True, capture_output=True, timeout=30)

    def is_open(self) -> bool:
        return self.process.poll() is None

    def finish(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate()
        self.watchdog.cancel()
        return self.process.returncode, stdout, stderr


@pytest.fixture
def open_viewer(xvfb):
    """Open a Viewer on the virtual display; without a command, of three plain images whose numbers it prints."""
    code = (
        "import numpy as np; from neural_lib.prediction.draw import show_one_by_one\n"
        "def images():\n"
        "    for number in range(3):\n"
        "        print('image', number)\n"
        "        yield np.full((300, 400, 3), 60 + 60 * number, np.uint8)\n"
        "show_one_by_one(images(), 'viewer'); print('done')"
    )
    viewers = []

    def open_viewer(title="viewer", *command, folder=None):
        viewers.append(Viewer(xvfb, title, *(command or ("-c", code)), folder=folder))
        return viewers[-1]

    yield open_viewer
    for viewer in viewers:
        viewer.watchdog.cancel()
        viewer.process.kill()


@KEYS
def test_a_key_steps_on_until_the_last_image(open_viewer):
    viewer = open_viewer()
    for number in range(3):
        viewer.wait_for(f"image {number}")
        viewer.press("space")
    assert viewer.finish() == (0, "done\n", "")


@KEYS
@pytest.mark.parametrize("key", ["q", "Escape"])
def test_q_and_esc_close_the_window(open_viewer, key):
    viewer = open_viewer()
    viewer.wait_for("image 0")
    viewer.press(key)
    assert viewer.finish() == (0, "done\n", "")


@pytest.mark.parametrize("title", ["viewer", "board"])
def test_closing_the_window_ends_the_program(open_viewer, xvfb, title):
    if not (shutil.which("openbox") and shutil.which("wmctrl")):
        pytest.skip("openbox and wmctrl, which close a window as a user does, are not installed")
    manager = subprocess.Popen(["openbox"], env=os.environ | {"DISPLAY": xvfb}, stderr=subprocess.DEVNULL)
    try:
        viewer = open_viewer() if title == "viewer" else open_viewer(title, "-c", BOARD)
        viewer.wait_for("image 0" if title == "viewer" else "frame")
        while viewer.is_open():
            viewer.close_window()  # again, until openbox manages the window and it has received the message
            time.sleep(0.1)
        status, stdout, stderr = viewer.finish()
        assert (status, stdout.splitlines()[-1], stderr) == (0, "done", "")
    finally:
        manager.terminate()
        manager.wait()


BOARD = """
import numpy as np
from neural_lib.prediction.draw import run_board

class Board:  # prints the events it gets
    shown = np.full((300, 400, 3), 60, np.uint8)
    def press(self, x, y): print("press", x, y)
    def move(self, x, y): print("move", x, y)
    def lift(self, x, y): print("lift", x, y)
    def key(self, key): print("key", key)
    def frame(self, is_moving):
        if self.shown is not None:
            print("frame")
        frame, self.shown = self.shown if self.shown is not None else self.last, None
        self.last = frame
        return frame

run_board(Board(), "board")
print("done")
"""


@KEYS
def test_mouse_and_keyboard_reach_the_board(open_viewer):
    viewer = open_viewer("board", "-c", BOARD)
    viewer.wait_for("frame")
    viewer.draw((50, 60), (70, 80), (200, 150))
    for key in ("u", "Insert", "Right", "Prior", "q"):  # the codes of the middle three end in those of c, S and U
        viewer.press(key)
    status, stdout, stderr = viewer.finish()
    events = stdout.splitlines()
    assert (status, stderr) == (0, "") and events[-1] == "done"
    stroke = events[events.index("press 50 60") : events.index("lift 200 150") + 1]
    assert "move 200 150" in stroke and set(stroke[1:-1]) <= {"move 70 80", "move 200 150"}  # Qt may leave some out
    assert [line for line in events if line.startswith("key")] == ["key u", "key q"]
    assert "frame" not in events  # only once, before


@pytest.mark.slow
@KEYS
def test_a_person_writes_and_reads_the_answers(open_viewer, digits_model, tmp_path):
    viewer = open_viewer("draw", ROOT / "predict.py", "--draw", "--model", digits_model, "-o", "kept", folder=tmp_path)
    viewer.wait_for("write on the white")
    viewer.draw(*FIVE)
    viewer.press("s")
    viewer.wait_for(f"[INFO] wrote {Path('kept', 'drawing-1.png')} and drawing-1.json\n")
    viewer.draw((300, 300), (400, 400))
    viewer.press("u")
    viewer.press("s")
    viewer.wait_for(f"[INFO] wrote {Path('kept', 'drawing-2.png')} and drawing-2.json\n")
    viewer.press("c")
    viewer.draw(*FOUR)
    viewer.press("s")
    viewer.wait_for(f"[INFO] wrote {Path('kept', 'drawing-3.png')} and drawing-3.json\n")
    viewer.press("Escape")
    assert viewer.finish() == (0, "", "")
    saved = [json.loads((tmp_path / "kept" / f"drawing-{number}.json").read_text()) for number in (1, 2, 3)]
    assert [each["label"] for each in saved] == ["5", "5", "4"]
    first, undone = (cv2.imread(str(tmp_path / "kept" / f"drawing-{number}.png")) for number in (1, 2))
    assert (first == undone).all() and first[390, 200].max() == 0


@pytest.mark.slow
@KEYS
def test_predict_shows_windows_where_it_can_and_may(open_viewer, xvfb, run_script, digits_model, tmp_path):
    silent = run_script("predict.py", "--model", digits_model, "--no-show", DISPLAY=xvfb)
    assert silent.returncode == 0 and "showing" not in silent.stdout
    for options in ([], ["--show"]):
        viewer = open_viewer("prediction", ROOT / "predict.py", "--model", digits_model, *options, folder=tmp_path)
        viewer.wait_for("[INFO] showing them one by one: any key steps on, q or Esc ends\n")
        viewer.press("q")
        assert viewer.finish() == (0, "", "")
