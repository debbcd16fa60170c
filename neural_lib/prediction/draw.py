"""Windows: images shown one by one, and a board to write on with what the network reads beside it."""

import collections
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from neural_lib.data.catalog import title_of
from neural_lib.data.pictures import PictureError
from neural_lib.evaluation import annotate
from neural_lib.system.errors import UserError
from neural_lib.system.files import write_file

KEYS_TO_END = (ord("q"), 27)  # 27: Esc
SIZE = 448  # pixels, the canvas's height and width
PEN = 24  # pixels: 1.5 of 28; thinner strokes than a data set has are thickened anyway
PAPER, INK = 255, 0
TOP = 5  # classes in the chart
PANEL = 280  # pixels: width of what stands beside the canvas
READ_EVERY = 0.04  # seconds, while the mouse is moving
HELP = ["c clear   u undo   s save", "q or Esc quit"]

log = logging.getLogger(__name__)


class Canvas:
    """White paper and a black pen: strokes in, an array out."""

    def __init__(self) -> None:
        self.strokes: list[list[tuple[int, int]]] = []  # pixels from the left and from the top
        self.is_down = False

    def press(self, x: int, y: int) -> None:
        """Put the pen down."""
        self.is_down = True
        self.strokes.append([(x, y)])

    def move(self, x: int, y: int) -> None:
        """Move the pen, which draws while it is down."""
        if self.is_down:
            self.strokes[-1].append((x, y))

    def lift(self) -> None:
        """End the stroke."""
        self.is_down = False

    def undo(self) -> None:
        """Take the last stroke away, if there is one."""
        self.is_down, self.strokes = False, self.strokes[:-1]

    def clear(self) -> None:
        """Take a new sheet."""
        self.is_down, self.strokes = False, []

    def picture(self) -> np.ndarray:
        """The drawing, RGB, uint8 (SIZE, SIZE, 3)."""
        pixels = np.full((SIZE, SIZE), PAPER, np.uint8)
        for stroke in self.strokes:
            for start, end in zip([stroke[0], *stroke], stroke, strict=False):
                cv2.line(pixels, start, end, INK, PEN, cv2.LINE_AA)
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)


class DrawingBoard:
    """Takes the events of mouse and keyboard, and shows the canvas with what a Recogniser reads on it.

    folder: where drawings are saved.
    """

    def __init__(self, recogniser: Any, folder: Path) -> None:
        self.recogniser, self.folder = recogniser, folder
        self.canvas = Canvas()
        self.answer = None  # a recogniser.Answer, None if there is no ink
        self.status = ""
        self._read_at = float("-inf")  # seconds on the monotonic clock
        self._changed()

    def press(self, x: int, y: int) -> None:
        """The mouse's button went down there, in pixels of the frame."""
        if x < SIZE:
            self.canvas.press(x, y)
            self._changed()

    def move(self, x: int, y: int) -> None:
        """The mouse was moved to there."""
        if self.canvas.is_down:
            self.canvas.move(min(x, SIZE - 1), y)
            self._changed()

    def lift(self, x: int, y: int) -> None:
        """The mouse's button went up there."""
        self.move(x, y)
        self.canvas.lift()

    def key(self, key: str) -> None:
        """One of HELP's keys, but for those that end."""
        changes = {"c": self.canvas.clear, "u": self.canvas.undo}
        if key in changes:
            changes[key]()
            self._changed()
        elif key == "s":
            self._save()

    def frame(self, is_moving: bool = False) -> np.ndarray:
        """The picture to be shown: uint8 BGR, the same array until something changes.

        is_moving: the mouse has just been moved. A window reports every position only while it is polled often, so the
        drawing is read when the mouse rests, and while it moves every READ_EVERY seconds.
        """
        if not self._is_read and not (is_moving and time.monotonic() < self._read_at + READ_EVERY):
            self._read()
        if self._frame is None:
            self._frame = np.hstack([self.canvas.picture(), self._panel])
        return self._frame

    def _changed(self) -> None:
        self._is_read, self._frame = False, None

    def _read(self) -> None:
        try:
            self.answer = self.recogniser.read(self.canvas.picture(), invert="yes", top=TOP)
        except PictureError:  # no ink
            self.answer = None
        self._is_read, self._read_at = True, time.monotonic()
        self._show_status("")

    def _save(self) -> None:
        if not self._is_read:
            self._read()
        if not self.answer:
            self._show_status("nothing to save")
            return
        try:
            path = save_drawing(self.folder, self.canvas.picture(), self.answer.to_dict())
        except OSError as error:
            self._show_status(f"not saved: {error.strerror}")
            return
        log.info("wrote %s and %s", path, path.with_suffix(".json").name)
        self._show_status(f"saved {path.name}")

    def _show_status(self, status: str) -> None:
        self.status = status
        if self.answer is None:
            parts = [annotate.draw_lines(["write on the white" if not self.canvas.strokes else "no ink found"], PANEL)]
        else:
            names = [f"{each.label} {each.glyph}".strip() for each in self.answer.top]
            seen = annotate.with_text(annotate.enlarged(self.answer.seen, 112), "what it sees", PANEL)
            parts = [annotate.draw_bars(names, [each.probability for each in self.answer.top], PANEL, 44 * TOP), seen]
        foot = annotate.draw_lines([status, *HELP], PANEL)
        room = SIZE - sum(part.shape[0] for part in [*parts, foot])
        self._panel = np.vstack([*parts, np.full((room, PANEL, 3), annotate.BACKGROUND, np.uint8), foot])
        self._frame = None


def save_drawing(folder: Path, picture: np.ndarray, answer: dict) -> Path:
    """Write a drawing, RGB, and its answer beside it as JSON, with the drawing's path, under the first free number.

    Returns the drawing's path: folder/drawing-1.png, with drawing-1.json. Raises OSError if it can't be written.
    """
    number = 1
    while any((folder / f"drawing-{number}{suffix}").exists() for suffix in (".png", ".json")):
        number += 1
    path = folder / f"drawing-{number}.png"
    write_file(path, lambda: annotate.encode(picture, ".png"))
    text = json.dumps(answer | {"path": str(path)}) + "\n"
    write_file(path.with_suffix(".json"), text.encode)
    return path


# --- windows ---


def is_display_available() -> bool:
    """True if a window can really be opened here.

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
    log.info("showing them one by one: any key steps on, q or Esc ends")
    _open_window(title)
    for image in images:
        cv2.imshow(title, image)
        if _wait_for_key(title) in KEYS_TO_END:
            break
    cv2.destroyAllWindows()


def draw(recogniser: Any, folder: Path) -> None:
    """Let the user write with the mouse and see what the recogniser reads. Raises UserError for networks of photos."""
    saved = recogniser.saved
    if not saved.placement:
        raise UserError(f"--draw: this network knows {title_of(saved.dataset)}, photos, and can't read what is drawn")
    recogniser.read(255 * np.eye(SIZE // 16, dtype=np.uint8))  # the first answer takes longer
    log.info("write on the white with the mouse; keys: c clears, u undoes a stroke, s saves, q or Esc quits")
    run_board(DrawingBoard(recogniser, folder), "draw")


def run_board(board: DrawingBoard, title: str) -> None:
    """Show the board in a window and pass on what mouse and keyboard do, until q, Esc or closing the window."""
    _open_window(title)
    events = collections.deque()  # handled below: OpenCV swallows a callback's exceptions

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
            elif event in (cv2.EVENT_MOUSEMOVE, cv2.EVENT_LBUTTONUP):  # maybe released outside the window
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


def _open_window(title: str) -> None:
    # the wheel ships Qt without fonts and says so at each start; windows without text need none
    os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
    cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)  # without Qt's tool bar


def _wait_for_key(title: str) -> int:
    while True:  # in short waits, so that Ctrl-C and the window's own close button are noticed
        key = cv2.waitKey(100)
        if key >= 0:
            return key & 0xFF
        if not _is_open(title):
            return KEYS_TO_END[0]


def _is_open(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # Qt has ended together with its last window
        return False
