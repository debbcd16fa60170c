"""Windows for real, on a virtual display (Debian: apt-get install xvfb xdotool openbox wmctrl)."""

import os
import shutil
import subprocess
import sys
import time

import pytest

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
    """A process that shows three images in a window and then prints 'done'."""

    CODE = (
        "import numpy as np; from neural_lib.display import show_one_by_one; "
        "show_one_by_one([np.full((300, 400, 3), grey, np.uint8) for grey in (60, 120, 180)], 'viewer'); "
        "print('done')"
    )

    def __init__(self, display_name: str) -> None:
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self.environment = os.environ | {"PYTHONPATH": root, "DISPLAY": display_name}
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.window = self.xdotool("search", "--sync", "--onlyvisible", "--name", "viewer").split()[0]

    def xdotool(self, *arguments: str) -> str:
        command = ["xdotool", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=20).stdout

    def press(self, key: str) -> None:
        self.xdotool("windowfocus", "--sync", self.window, "key", key)
        time.sleep(0.3)  # the viewer looks for keys every 0.1 s

    def is_open(self) -> bool:
        return self.process.poll() is None

    def finish(self) -> tuple[str, str]:
        try:
            return self.process.communicate(timeout=10)
        finally:
            self.process.kill()


@pytest.fixture
def viewer(xvfb):
    running = Viewer(xvfb)
    yield running
    running.process.kill()


@KEYS
def test_a_key_steps_on_until_the_last_image(viewer):
    for _ in range(2):
        viewer.press("space")
        assert viewer.is_open()
    viewer.press("space")
    assert viewer.finish() == ("done\n", "")


@KEYS
@pytest.mark.parametrize("key", ["q", "Escape"])
def test_q_and_esc_end(viewer, key):
    viewer.press("space")
    viewer.press(key)
    assert viewer.finish()[0] == "done\n"


@KEYS
def test_closing_the_window_ends(xvfb):
    if not (shutil.which("openbox") and shutil.which("wmctrl")):
        pytest.skip("openbox and wmctrl, which close a window as a person does, are not installed")
    manager = subprocess.Popen(["openbox"], env=os.environ | {"DISPLAY": xvfb}, stderr=subprocess.DEVNULL)
    try:
        viewer = Viewer(xvfb)
        closing = ["wmctrl", "-c", "viewer"]
        while viewer.is_open() and subprocess.run(closing, env=viewer.environment, capture_output=True).returncode:
            time.sleep(0.1)  # until openbox manages the window
        assert viewer.finish() == ("done\n", "")
    finally:
        manager.terminate()
        manager.wait()
