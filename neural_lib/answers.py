"""What a network answered about a picture: as a row of a table for people, as JSON for programs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neural_lib.pictures import printable

if TYPE_CHECKING:
    from neural_lib.checkpoint import Checkpoint

LEAST_PATH = 16  # columns of a terminal that a path has at least


@dataclass(frozen=True)
class Answer:
    """The most probable classes of one picture."""

    path: Path
    labels: list[int]  # the most probable first
    probabilities: list[float]  # theirs, 0 to 1


def most_probable(probabilities: Sequence[float], top: int) -> tuple[list[int], list[float]]:
    """The `top` most probable classes, of which there may be fewer, and their probabilities, the highest first."""
    labels = sorted(range(len(probabilities)), key=lambda label: -probabilities[label])[:top]
    return labels, [probabilities[label] for label in labels]


def as_json(saved: "Checkpoint", answer: Answer) -> str:
    """One line: {"path", "label", "index", "glyph", "probability", "top": [the same of the most probable classes]}."""
    classes = [
        {
            "label": saved.classes[label],
            "index": label,
            **({"glyph": saved.glyphs[label]} if saved.glyphs else {}),
            "probability": probability,
        }
        for label, probability in zip(answer.labels, answer.probabilities, strict=True)
    ]
    return json.dumps({"path": str(answer.path), **classes[0], "top": classes})


class AnswersAsJson:
    """For programs: a line for each picture, whether it was recognised or not."""

    def __init__(self, saved: "Checkpoint") -> None:
        self.saved = saved

    def answer(self, answer: Answer) -> list[str]:
        """The line of an answer."""
        return [as_json(self.saved, answer)]

    def failure(self, path: Path, reason: str) -> list[str]:
        """The line of a picture without one: {"path", "error"}."""
        return [json.dumps({"path": str(path), "error": reason})]


class AnswerTable:
    """For people: a table whose rows can be printed one by one, for its columns are as wide as what may come.

    paths: of all pictures. top: classes in a row. width: of the terminal, in columns; a Hiragana takes two.
    """

    def __init__(self, saved: "Checkpoint", paths: Iterable[Path], top: int, width: int) -> None:
        from rich.cells import cell_len

        self.names = [saved.written(label) for label in range(len(saved.classes))]
        self.name_width = max(len("label"), *map(cell_len, self.names))
        others = min(top, len(self.names)) - 1
        self.others_width = max(others * (self.name_width + len(" 99.9%, ")), len("next best") if others else 0)
        room = width - 1 - len(_line("", 0, "", self.name_width, "")) - self.others_width
        longest = max((cell_len(printable(path)) for path in paths), default=0)
        self.path_width = max(LEAST_PATH, min(room, longest))

        self.has_head = False

    def answer(self, answer: Answer) -> list[str]:
        """The line of an answer: path, class, probability and the next best; before the first one the titles."""
        head, self.has_head = [] if self.has_head else self._head(), True
        name, *others = (self.names[label] for label in answer.labels)
        percents = [f"{probability:.1%}" for probability in answer.probabilities]
        path = _end_of(printable(answer.path), self.path_width)
        line = _line(path, self.path_width, name, self.name_width, percents[0])
        rest = [f"{other} {percent}" for other, percent in zip(others, percents[1:], strict=True)]
        return [*head, f"{line}  {', '.join(rest)}".rstrip()]

    def failure(self, path: Path, reason: str) -> list[str]:
        """Nothing: people read it in the log."""
        return []

    def _head(self) -> list[str]:
        titles = _line("picture", self.path_width, "label", self.name_width, "probability")
        titles += "  next best" if self.others_width else ""
        return [titles, f" {'-' * (len(titles) - 1)}"]


def _line(path: str, path_width: int, name: str, name_width: int, probability: str) -> str:
    from rich.cells import set_cell_size

    return f" {set_cell_size(path, path_width)}  {set_cell_size(name, name_width)}  {probability:>11}"


def _end_of(path: str, width: int) -> str:
    # the end of a path tells more than its beginning
    from rich.cells import cell_len

    while cell_len(path) > width:
        path = "..." + path.removeprefix("...")[1:]
    return path
