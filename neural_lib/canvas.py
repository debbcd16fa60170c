"""What is drawn with a pen, stroke by stroke: points in, an array out."""

import cv2
import numpy as np

SIZE = 448  # pixels, height and width
PEN = 24  # pixels: 1.5 of 28; thinner strokes than a data set has are thickened anyway
PAPER, INK = 255, 0


class Canvas:
    """White paper and a black pen."""

    def __init__(self) -> None:
        self.strokes: list[list[tuple[int, int]]] = []
        self.is_down = False
        self._pixels = np.full((SIZE, SIZE), PAPER, np.uint8)

    def press(self, x: int, y: int) -> None:
        """Put the pen down there, in pixels from the left and from the top."""
        self.is_down = True
        self.strokes.append([])
        self._to(x, y)

    def move(self, x: int, y: int) -> None:
        """Move it, which draws while it is down."""
        if self.is_down:
            self._to(x, y)

    def lift(self) -> None:
        """End the stroke."""
        self.is_down = False

    def undo(self) -> None:
        """Take the last stroke away, if there is one."""
        self.is_down = False
        strokes, self.strokes = self.strokes[:-1], []
        self._pixels[:] = PAPER
        for stroke in strokes:
            self.strokes.append([])
            for x, y in stroke:
                self._to(x, y)

    def clear(self) -> None:
        """Take a new sheet."""
        self.strokes = []
        self.undo()

    def picture(self) -> np.ndarray:
        """The drawing, RGB, uint8 (SIZE, SIZE, 3)."""
        return cv2.cvtColor(self._pixels, cv2.COLOR_GRAY2RGB)

    def _to(self, x: int, y: int) -> None:
        stroke = self.strokes[-1]
        stroke.append((x, y))
        cv2.line(self._pixels, stroke[-2:][0], (x, y), INK, PEN, cv2.LINE_AA)
