"""Windows for real, on a virtual display (Debian: apt-get install xvfb xdotool openbox wmctrl)."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import pytest
from conftest import ROOT

from neural_lib import display

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


def test_no_display_is_told_without_dying():
    assert display.is_available() is (sys.platform != "linux")


@pytest.mark.skipif(sys.platform != "linux", reason="DISPLAY is X11's")
def test_a_display_that_is_gone_is_told_without_dying(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":9999")
    assert not display.is_available()


def test_a_display_is_found(xvfb, monkeypatch):
    monkeypatch.setenv("DISPLAY", xvfb)
    assert display.is_available()


class Viewer:
    """A process that opens a window of that title, and the hands and eyes of the person before it."""

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

    def wait_for(self, line: str) -> None:
        while (read := self.process.stdout.readline()) != f"{line}\n":
            assert read, f"it ended before it said {line!r}: {self.process.stderr.read()}"

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
    """Open a Viewer on the virtual display; without a command of its own, it shows and tells three plain images."""
    code = (
        "import numpy as np; from neural_lib.display import show_one_by_one\n"
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
def test_q_and_esc_end(open_viewer, key):
    viewer = open_viewer()
    viewer.wait_for("image 0")
    viewer.press("space")
    viewer.wait_for("image 1")
    viewer.press(key)
    assert viewer.finish() == (0, "done\n", "")


@pytest.mark.parametrize("title", ["viewer", "board"])
def test_closing_the_window_ends(open_viewer, xvfb, title):
    if not (shutil.which("openbox") and shutil.which("wmctrl")):
        pytest.skip("openbox and wmctrl, which close a window as a person does, are not installed")
    manager = subprocess.Popen(["openbox"], env=os.environ | {"DISPLAY": xvfb}, stderr=subprocess.DEVNULL)
    try:
        viewer = open_viewer() if title == "viewer" else open_viewer(title, "-c", BOARD)
        viewer.wait_for("image 0" if title == "viewer" else "frame")
        while viewer.is_open():
            viewer.close_window()  # again, until openbox manages the window and it has heard of it
            time.sleep(0.1)
        status, stdout, stderr = viewer.finish()
        assert (status, stdout.splitlines()[-1], stderr) == (0, "done", "")
    finally:
        manager.terminate()
        manager.wait()


# --- the board ---

BOARD = """
import numpy as np
from neural_lib.display import run_board

class Board:  # tells what it is told
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
def test_the_board_is_told_what_mouse_and_keyboard_do(open_viewer):
    viewer = open_viewer("board", "-c", BOARD)
    viewer.wait_for("frame")
    viewer.draw((50, 60), (70, 80), (200, 150))
    viewer.press("u")
    for key in ("Insert", "Right", "Prior"):  # whose codes end in those of c, S and U
        viewer.press(key)
    viewer.press("q")
    status, stdout, stderr = viewer.finish()
    told = stdout.splitlines()
    assert (status, stderr) == (0, "") and told[-1] == "done"
    stroke = told[told.index("press 50 60") : told.index("lift 200 150") + 1]
    assert "move 200 150" in stroke and set(stroke[1:-1]) <= {"move 70 80", "move 200 150"}  # Qt may leave some out
    assert [line for line in told if line.startswith("key")] == ["key u", "key q"]
    assert "frame" not in told  # once, before


FIVE = [(330, 60), (150, 80), (120, 200), (280, 210), (300, 320), (200, 390), (110, 350)]
FOUR = [(250, 50), (120, 250), (330, 250), (270, 150), (250, 400)]


@KEYS
def test_a_person_writes_and_reads_the_answers(open_viewer, digits_model, tmp_path):
    viewer = open_viewer("draw", ROOT / "predict.py", "--draw", "--model", digits_model, "-o", "kept", folder=tmp_path)
    while "write on the white" not in (line := viewer.process.stdout.readline()):
        assert line, viewer.process.stderr.read()
    viewer.draw(*FIVE)
    viewer.press("s")
    viewer.wait_for(f"[INFO] wrote {Path('kept', 'drawing-1.png')} and drawing-1.json")
    viewer.draw((300, 300), (400, 400))
    viewer.press("u")
    viewer.press("s")
    viewer.wait_for(f"[INFO] wrote {Path('kept', 'drawing-2.png')} and drawing-2.json")
    viewer.press("c")
    viewer.draw(*FOUR)
    viewer.press("s")
    viewer.wait_for(f"[INFO] wrote {Path('kept', 'drawing-3.png')} and drawing-3.json")
    viewer.press("Escape")
    assert viewer.finish() == (0, "", "")
    told = [json.loads((tmp_path / "kept" / f"drawing-{number}.json").read_text()) for number in (1, 2, 3)]
    assert [each["label"] for each in told] == ["5", "5", "4"]
    first, undone = (cv2.imread(str(tmp_path / "kept" / f"drawing-{number}.png")) for number in (1, 2))
    assert (first == undone).all() and first[390, 200].max() == 0


@pytest.mark.slow
@KEYS
def test_predict_shows_windows_where_it_can_and_may(open_viewer, xvfb, run_script, tmp_path):
    done = run_script("train.py", "-d", "digits", "--epochs", 1, "--quiet")
    assert done.returncode == 0, done.stderr
    silent = run_script("predict.py", "--no-show", DISPLAY=xvfb)
    assert silent.returncode == 0 and "showing" not in silent.stdout
    for options in ([], ["--show"]):
        viewer = open_viewer("prediction", ROOT / "predict.py", *options, folder=tmp_path)
        viewer.wait_for("[INFO] showing them one by one: any key steps on, q or Esc ends")
        viewer.press("q")
        assert viewer.finish() == (0, "", "")
