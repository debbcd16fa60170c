"""A montage of many tiles, in as many picture files as it takes, each written as soon as it is full."""

import os
import re
from pathlib import Path

import numpy as np

from neural_lib import annotate
from neural_lib.files import atomic_write

MARK = b"neural_lib montage"  # at the end of each file, where no reader of pictures looks
PAGE = 100  # tiles: 12 x 9 of annotate's are 2,088 x 2,148 pixels, with their heading


def paths(path: Path, tiles: int) -> list[Path]:
    """The files that so many tiles come to: `path` alone, or p-page-1.png, p-page-2.png ... where it is p.png."""
    count = max(1, -(-tiles // PAGE))
    digits = len(str(count))
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-page-{n:0{digits}}") for n in range(1, count + 1)]


def is_page(file: Path, path: Path) -> bool:
    """Whether `file` is one that an earlier command wrote as one of paths(path, ...)."""
    page = rf"{re.escape(path.stem)}(-page-\d+)?{re.escape(path.suffix)}"
    if not re.fullmatch(page, file.name) or os.path.realpath(file.parent) != os.path.realpath(path.parent):
        return False
    try:
        return file.read_bytes().endswith(MARK)
    except OSError:
        return False


class Pages:
    """Collects tiles of one size; holds no more than a page of them.

    tiles: how many will come at most, which decides the files' names. Raises OSError where one can't be written.
    """

    def __init__(self, path: Path, tiles: int) -> None:
        self.paths = paths(path, tiles)
        self.tiles: list[np.ndarray] = []
        self.written: list[Path] = []

    def add(self, tile: np.ndarray) -> None:
        """Take one more."""
        self.tiles.append(tile)
        if len(self.tiles) == PAGE:
            self._write()

    def finish(self) -> list[Path]:
        """Write what is left; returns the files of all pages."""
        if self.tiles:
            self._write()
        return self.written

    def _write(self) -> None:
        path, first = self.paths[len(self.written)], len(self.written) * PAGE + 1
        if len(self.paths) == 1:
            picture = annotate.montage(self.tiles)
        else:
            picture = annotate.headed(self.tiles, f"{first:,} to {first + len(self.tiles) - 1:,}")
        with atomic_write(path) as handle:
            handle.write(annotate.encode(picture, path.suffix) + MARK)
        self.written.append(path)
        self.tiles = []
