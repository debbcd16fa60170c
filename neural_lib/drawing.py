"""A board to write on: a canvas, and beside it what the network says of it, after every move of the pen."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neural_lib import annotate
from neural_lib.answers import most_probable
from neural_lib.canvas import SIZE, Canvas
from neural_lib.files import atomic_write

if TYPE_CHECKING:
    from neural_lib.checkpoint import Checkpoint

TOP = 5  # classes in the chart
PANEL = 280  # pixels: width of what stands beside the canvas
READ_EVERY = 0.04  # seconds, while the mouse is moving
HELP = ["c clear   u undo   s save", "q or Esc quit"]


class Reading(NamedTuple):
    """What the network says of a drawing."""

    seen: np.ndarray  # what it was given, as annotate takes an image
    probabilities: list[float]  # of each class


class DrawingBoard:
    """Takes the mouse's and the keyboard's events, and shows the canvas with the answers to what is on it.

    read: an RGB picture -> what the network says of it, None where it shows nothing. save: called with the picture and
    what was said of it; returns the name that it was saved under.
    """

    def __init__(
        self,
        saved: "Checkpoint",
        read: Callable[[np.ndarray], Reading | None],
        save: Callable[[np.ndarray, Reading], str],
    ) -> None:
        self.names = [saved.written(label) for label in range(len(saved.classes))]
        self.read, self.save = read, save
        self.canvas = Canvas()
        self.reading: Reading | None = None
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
        """What is to be shown: uint8 BGR, the same array until something changes.

        is_moving: the mouse has just been moved. A window learns of each place it was at only while it is asked often,
        so the drawing is read when the mouse rests, and in between once every READ_EVERY.
        """
        if not self._is_read and not (is_moving and time.monotonic() < self._read_at + READ_EVERY):
            self._read()
        if self._frame is None:
            self._frame = np.hstack([self.canvas.picture(), self._panel])
        return self._frame

    def _changed(self) -> None:
        self._is_read, self._frame = False, None

    def _read(self) -> None:
        self.reading, self._is_read = self.read(self.canvas.picture()), True
        self._read_at = time.monotonic()
        self._tell("")

    def _save(self) -> None:
        if not self._is_read:
            self._read()
        try:
            name = self.save(self.canvas.picture(), self.reading) if self.reading else None
            self._tell(f"saved {name}" if name else "nothing to save")
        except OSError as error:
            self._tell(f"not saved: {error.strerror}")

    def _tell(self, status: str) -> None:
        self.status, self._panel, self._frame = status, self._drawn_panel(status), None

    def _drawn_panel(self, status: str) -> np.ndarray:
        if self.reading is None:
            parts = [annotate.lines(["write on the white" if not self.canvas.strokes else "no ink found"], PANEL)]
        else:
            best, values = most_probable(self.reading.probabilities, TOP)
            names = [self.names[label] for label in best]
            seen = annotate.beside(annotate.enlarged(self.reading.seen, 112), "what it sees", PANEL)
            parts = [annotate.bars(names, values, PANEL, 44 * TOP), seen]
        foot = annotate.lines([status, *HELP], PANEL)
        room = SIZE - sum(part.shape[0] for part in [*parts, foot])
        return np.vstack([*parts, np.full((room, PANEL, 3), annotate.BACKGROUND, np.uint8), foot])


def save(folder: Path, picture: np.ndarray, as_json: Callable[[Path], str]) -> Path:
    """Write a drawing, RGB, and what as_json says of the file, beside it, under the first number that is free.

    Returns the drawing's path: folder/drawing-1.png, with drawing-1.json. Raises OSError where it can't be written.
    """
    number = 1
    while any((folder / f"drawing-{number}{suffix}").exists() for suffix in (".png", ".json")):
        number += 1
    path = folder / f"drawing-{number}.png"
    contents = {path: annotate.encode(picture, ".png"), path.with_suffix(".json"): f"{as_json(path)}\n".encode()}
    for each, content in contents.items():
        with atomic_write(each) as handle:
            handle.write(content)
    return path
