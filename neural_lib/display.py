"""Windows: whether this machine can show one, showing images in it, and a board to draw on."""

import collections
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neural_lib.drawing import DrawingBoard

KEYS_TO_END = (ord("q"), 27)  # 27: Esc


def is_available() -> bool:
    """Whether a window can really be opened here.

    OpenCV's Qt aborts the whole process where there is no display, and DISPLAY may name one that is gone; so a child
    process opens a window first (0.3 s).
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        probe = [sys.executable, "-P", "-c", "import cv2; cv2.namedWindow('probe')"]  # -P: no cv2.py of this folder
        return subprocess.run(probe, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def show_one_by_one(images: Iterable[np.ndarray], title: str) -> None:
    """Show BGR images in one window; any key steps on, q, Esc or closing the window ends."""
    import cv2

    _be_quiet()
    cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)  # without Qt's tool bar
    for image in images:
        cv2.imshow(title, image)
        if _wait_for_key(title) in KEYS_TO_END:
            break
    cv2.destroyAllWindows()


def run_board(board: "DrawingBoard", title: str) -> None:
    """Show the board in a window and tell it what mouse and keyboard do, until q, Esc or closing the window."""
    import cv2

    _be_quiet()
    cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
    events = collections.deque()  # acted on below: what a callback raises goes nowhere

    def note(event: int, x: int, y: int, flags: int, _: object) -> None:
        events.append((event, x, y, flags & cv2.EVENT_FLAG_LBUTTON))

    cv2.setMouseCallback(title, note)
    shown, key = None, None
    while key not in KEYS_TO_END:
        is_moving = bool(events)
        while events:
            event, x, y, is_down = events.popleft()
            if event == cv2.EVENT_LBUTTONDOWN:
                board.press(x, y)
            elif event == cv2.EVENT_MOUSEMOVE and is_down:
                board.move(x, y)
            elif event in (cv2.EVENT_MOUSEMOVE, cv2.EVENT_LBUTTONUP):  # released, maybe where no window heard of it
                board.lift(x, y)
        if shown is not (frame := board.frame(is_moving)):
            shown = frame
            cv2.imshow(title, shown)
        key = cv2.waitKeyEx(5)
        if 0 <= key < 128:  # arrows and the like have larger numbers, whose last eight bits are letters
            board.key(chr(key).lower())
        elif not _is_open(title):
            break
    cv2.destroyAllWindows()


def _be_quiet() -> None:
    # the wheel ships Qt without fonts and says so at each start; windows without text need none
    os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")


def _wait_for_key(title: str) -> int:
    import cv2

    while True:  # in short waits, so that Ctrl-C and the window's own close button are noticed
        key = cv2.waitKey(100)
        if key >= 0:
            return key & 0xFF
        if not _is_open(title):
            return KEYS_TO_END[0]


def _is_open(title: str) -> bool:
    import cv2

    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # Qt has ended together with its last window
        return False
