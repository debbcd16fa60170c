"""Windows, in which images are shown one by one, and whether there is a display for them."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterable

import cv2
import numpy as np

KEYS_TO_END = (ord("q"), 27)  # 27: Esc

log = logging.getLogger(__name__)


def is_display_available() -> bool:
    """True if a window can be opened.

    OpenCV's Qt aborts the whole process if there is no display, and DISPLAY may name one that is gone; so a child
    process opens a window first (0.3 s).
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        probe = [sys.executable, "-P", "-c", "import cv2; cv2.namedWindow('probe')"]  # -P: not a cv2.py in this folder
        return subprocess.run(probe, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def show_one_by_one(images: Iterable[np.ndarray], title: str) -> None:
    """Show BGR images in one window: any key for the next, q, Esc or closing the window to end."""
    log.info("showing them one by one: any key for the next, q or Esc to end")
    # hides Qt's warning at each start that OpenCV's package has no fonts; these windows show no text
    os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
    cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)  # without Qt's tool bar
    for image in images:
        cv2.imshow(title, image)
        # in short waits, so that Ctrl-C and the window's close button are noticed
        while (key := cv2.waitKey(100)) < 0 and _is_open(title):
            pass
        if key < 0 or key & 0xFF in KEYS_TO_END:
            break
    cv2.destroyAllWindows()


def _is_open(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # Qt has ended together with its last window
        return False
