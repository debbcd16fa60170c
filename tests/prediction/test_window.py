"""The windows of predict.py on a virtual display (Debian: xvfb, xdotool, openbox, wmctrl)."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from neural_lib.prediction.window import is_display_available

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
    assert is_display_available() is (sys.platform != "linux")


@pytest.mark.skipif(sys.platform != "linux", reason="DISPLAY is X11's")
def test_a_display_that_is_gone_is_not_found(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":9999")
    assert not is_display_available()


def test_a_display_is_found(xvfb, monkeypatch):
    monkeypatch.setenv("DISPLAY", xvfb)
    assert is_display_available()


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
        "import numpy as np; from neural_lib.prediction.window import show_one_by_one\n"
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
def test_each_key_shows_the_next_image_until_the_last(open_viewer):
    viewer = open_viewer()
    for number in range(3):
        viewer.wait_for(f"image {number}")
        viewer.press("space")
    assert viewer.finish() == (0, "done\n", "")


@pytest.mark.few(1)
@KEYS
@pytest.mark.parametrize("key", ["q", "Escape"])
def test_q_and_esc_close_the_window(open_viewer, key):
    viewer = open_viewer()
    viewer.wait_for("image 0")
    viewer.press(key)
    assert viewer.finish() == (0, "done\n", "")


def test_closing_the_window_ends_the_program(open_viewer, xvfb):
    if not (shutil.which("openbox") and shutil.which("wmctrl")):
        pytest.skip("openbox and wmctrl, which close a window as a user does, are not installed")
    manager = subprocess.Popen(["openbox"], env=os.environ | {"DISPLAY": xvfb}, stderr=subprocess.DEVNULL)
    try:
        viewer = open_viewer()
        viewer.wait_for("image 0")
        while viewer.is_open():
            viewer.close_window()  # again, until openbox manages the window and it has received the message
            time.sleep(0.1)
        assert viewer.finish() == (0, "done\n", "")
    finally:
        manager.terminate()
        manager.wait()


@pytest.mark.slow
@KEYS
def test_predict_shows_windows_where_it_can_and_may(open_viewer, xvfb, run_script, digits_model, tmp_path):
    silent = run_script("predict.py", "--model", digits_model, "--no-show", DISPLAY=xvfb)
    assert silent.returncode == 0 and "showing" not in silent.stdout
    for options in ([], ["--show"]):
        viewer = open_viewer("prediction", ROOT / "predict.py", "--model", digits_model, *options, folder=tmp_path)
        viewer.wait_for("[INFO] showing them one by one: any key for the next, q or Esc to end\n")
        viewer.press("q")
        assert viewer.finish() == (0, "", "")
