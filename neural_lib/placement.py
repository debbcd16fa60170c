"""How the images of a data set hold what they show."""

from typing import NamedTuple


class Placement(NamedTuple):
    """How a data set's images hold what they show, light on black; measured on its training images.

    tests/test_real_data.py measures all of it again.
    """

    box: int  # pixels: the longer side of its bounding box, which keeps its aspect
    centre: str  # "box": the bounding box is in the middle; "mass": the centre of mass, in the pixel right and below
    stroke: float = 0.0  # pixels: the width that 95 % of the images' strokes exceed; 0: what they show isn't strokes

    @property
    def is_written(self) -> bool:
        """Whether the images show strokes, and a person's pictures of such things a page."""
        return self.stroke > 0
