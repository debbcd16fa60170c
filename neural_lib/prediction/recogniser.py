"""Recogniser: a trained network that reads pictures, from files or arrays."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neural_lib import checkpoint
from neural_lib.checkpoint import Checkpoint
from neural_lib.data import ink
from neural_lib.data.images import Normalisation, pixels_of
from neural_lib.data.page import find_characters
from neural_lib.data.pictures import LONGEST_SIDE, PictureError, count_pages, read_picture, reduced, size_of
from neural_lib.evaluation.annotate import PAGE_SIDE, TILE_WIDTH
from neural_lib.evaluation.calibration import Calibration, outputs_of
from neural_lib.prediction import INVERT, MIN_PROBABILITY, ORDERS
from neural_lib.system.devices import select_device

BATCH_SIZE = 100  # images; they are in memory together, with their pictures
THUMBNAIL = 2 * TILE_WIDTH  # pixels: the longer side of a single character's picture in a Reading at most
SMALLEST_PAGE = 64  # pixels: a picture with a shorter longer side holds one character
SHARP = 48  # pixels: a page whose characters are smaller is read again, reduced less; so is one with lines
FEW = 3  # characters of a picture that may be one, found in parts
PAGE_SIDES = (LONGEST_SIDE, 2 * LONGEST_SIDE, 4 * LONGEST_SIDE)  # pixels: the longer side that it is reduced to
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601-7, section 2.5.1

Picture = str | Path | np.ndarray
Box = tuple[int, int, int, int]  # left, top, width, height, pixels


class Candidate(NamedTuple):
    """One class that a picture may show."""

    label: str  # the class name
    probability: float  # 0 to 1
    index: int  # of the class, from 0
    glyph: str  # its written character, if a class is one


@dataclass(frozen=True, eq=False)
class Answer:
    """A network's answer to a picture, or to one character of it."""

    top: list[Candidate]  # the most probable classes, the first one most
    seen: np.ndarray = field(repr=False)  # what the network was given, uint8 (S, S) or (S, S, 3)
    path: Path | None = None  # of the file
    box: Box | None = None  # of the ink in the picture as it is displayed; None where the whole picture was read
    is_sure: bool = True  # the probability is not below the recogniser's, and the image is not unlike all of training

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0].label

    @property
    def probability(self) -> float:
        """Its probability, 0 to 1."""
        return self.top[0].probability

    def to_dict(self) -> dict:
        """{"path", "label", "index", "glyph", "probability", "sure", "box", "top": [the most probable classes alike]}.

        "glyph" only where classes are written characters, "box" only where there is one.
        """
        classes = [
            {"label": each.label, "index": each.index, **({"glyph": each.glyph} if each.glyph else {}),
             "probability": each.probability}
            for each in self.top
        ]  # fmt: skip
        box = {"box": list(self.box)} if self.box else {}
        path = str(self.path) if self.path else None
        return {"path": path, **classes[0], "sure": self.is_sure, **box, "top": classes}


class Source(NamedTuple):
    """Where a picture is from."""

    path: Path | None  # None for an array
    page: int = 0  # from 1, of a file with several; 0 of all others

    @property
    def name(self) -> str:
        """The path, with the page: "scan.tif[2]"."""
        return f"{self.path}[{self.page}]" if self.page else str(self.path)

    def to_dict(self) -> dict:
        """{"path", "page"}, the latter only of a file with several."""
        return {"path": str(self.path) if self.path else None, **({"page": self.page} if self.page else {})}


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read in a picture."""

    source: Source
    picture: np.ndarray = field(repr=False)  # RGB, uint8 (H, W, 3), reduced if it is large
    scale: float  # of that picture's pixels to those of the boxes
    answers: list[Answer]  # at least one; of a page in reading order

    def to_dict(self) -> dict:
        """{"path", "characters": [Answer.to_dict() of each]}; a single one's keys stand beside these, too."""
        characters = [
            {name: value for name, value in each.to_dict().items() if name != "path"} for each in self.answers
        ]
        return {**self.source.to_dict(), **(characters[0] if len(characters) == 1 else {}), "characters": characters}


class _Prepared(NamedTuple):
    # a picture whose images wait for their answers
    source: Source
    picture: np.ndarray  # as Reading has it
    scale: float
    images: list[np.ndarray]  # uint8 (C, S, S), of each character
    boxes: list[Box | None]
    may_be_one: bool = False  # the picture may hold a single character that was not found whole


class Failure(NamedTuple):
    """A picture without an answer, and why."""

    source: Source
    reason: str


class Recogniser:
    """A trained network that reads pictures as predict.py does; Recogniser.load makes one from a model file.

    min_probability: of an answer that is sure. Raises UserError if the checkpoint's parts don't fit together.
    """

    def __init__(self, saved: Checkpoint, device: torch.device, min_probability: float = MIN_PROBABILITY) -> None:
        self.saved, self.device, self.min_probability = saved, device, min_probability
        self.model = saved.build_model().to(device)
        self.normalise = Normalisation(saved.mean, saved.std).to(device)
        self.calibration = Calibration(saved.calibration, device)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", min_probability: float = MIN_PROBABILITY) -> "Recogniser":
        """The recogniser of a model file. Raises UserError if that can't be read or the device isn't there."""
        return cls(checkpoint.load(path, option=""), select_device(device)[0], min_probability)

    @property
    def reads_pages(self) -> bool:
        """True if the network knows written characters, several of which can be found on a page."""
        placement = self.saved.preparation.placement
        return placement is not None and placement.is_written

    def read(self, picture: Picture | Sequence[Picture], invert: str = "auto", top: int = 3) -> Answer | list[Answer]:
        """The answer to a picture that holds one character or thing, or the answers to a list of them.

        picture: a file, of which the first page is read, or a uint8 array (H, W) or, in RGB, (H, W, 3). invert: "yes"
        reads what is darker than its ground, "no" what is lighter, "auto" whichever stands out more. top: classes in
        an answer. Raises PictureError, naming the file or the place in the list, if one can't be read or shows no ink.
        """
        pictures = picture if isinstance(picture, list | tuple) else [picture]
        _check(pictures, invert, top)
        answers = []
        sources = [(Source(_path_of(each)), each) for each in pictures]
        for number, result in enumerate(self._read_all(sources, invert, None, top), start=1):
            if isinstance(result, Failure):
                raise PictureError(f"{result.source.path or f'picture {number}'}: {result.reason}")
            answers += result.answers
        return answers if isinstance(picture, list | tuple) else answers[0]

    def read_page(
        self, picture: Picture, invert: str = "auto", order: str = "rows", top: int = 3, page: int = 1
    ) -> list[Answer]:
        """The answers to the characters of a page, in reading order.

        picture, invert, top: see read. order: see page.find_characters. page: from 1, of a file with several. Of a
        network that knows no written characters, and of a small picture, the whole is one.
        Raises PictureError, naming the file, if it can't be read or shows no ink.
        """
        _check([picture], invert, top)
        if page < 1:
            raise ValueError(f"page must be at least 1, not {page}")
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
        source = Source(_path_of(picture), page if page > 1 else 0)
        (result,) = self._read_all([(source, picture)], invert, order, top)
        if isinstance(result, Failure):
            raise PictureError(f"{source.name if source.path else 'the picture'}: {result.reason}")
        return result.answers

    def read_files(
        self,
        files: Sequence[Path],
        invert: str,
        order: str | None,
        top: int,
        on_read: Callable[[], object] = lambda: None,
    ) -> Iterator[Reading | Failure]:
        """What is read in each page of each file, in their order; on_read is called after each file.

        order: None if a picture holds one character.
        """

        def sources() -> Iterator[tuple[Source, Picture]]:
            for path in files:
                pages = count_pages(path)
                yield from ((Source(path, number), path) for number in (range(1, pages + 1) if pages > 1 else [0]))
                on_read()

        return self._read_all(sources(), invert, order, top)

    def _read_all(
        self, sources: Iterable[tuple[Source, Picture]], invert: str, order: str | None, top: int
    ) -> Iterator[Reading | Failure]:
        # in batches of about BATCH_SIZE images, which are in memory together with their pictures; a page takes more
        waiting: list[_Prepared | Failure] = []
        load = 0
        for source, picture in sources:
            try:
                waiting.append(self._prepare(source, picture, invert, order))
                load += 1 if len(waiting[-1].images) == 1 else max(BATCH_SIZE // 10, len(waiting[-1].images))
            except PictureError as error:
                waiting.append(Failure(source, str(error)))
                load += 1
            if load >= BATCH_SIZE:
                yield from self._answer(waiting, invert, top)
                waiting, load = [], 0
        yield from self._answer(waiting, invert, top)

    def _prepare(self, source: Source, picture: Picture, invert: str, order: str | None) -> _Prepared:
        how, page = self.saved.preparation, max(source.page - 1, 0)
        pixels = read_picture(picture, page)
        size = max(pixels.shape[:2])
        if size == LONGEST_SIDE:  # it may have been reduced
            size = max(picture.shape[:2] if isinstance(picture, np.ndarray) else size_of(picture, page) or [size])
        if order is None or not self.reads_pages or size < SMALLEST_PAGE:
            images = [ink.prepare(pixels, how, invert)]
            return _Prepared(source, reduced(pixels, THUMBNAIL), 1.0, images, [None])
        sharp = max(SHARP, 1.5 * how.image_size)
        for longest in PAGE_SIDES:
            if longest != LONGEST_SIDE:
                pixels = read_picture(picture, page, longest)
            scale = max(pixels.shape[:2]) / size
            found, is_plain = find_characters(ink.to_grey(pixels), invert, order)
            is_sharp = bool(found) and np.median([max(each.box[2:]) for each in found]) >= sharp
            if scale == 1 or is_sharp and (is_plain or longest != PAGE_SIDES[0]):
                break
        images = [ink.place(each.ink, how.placement, how.image_size)[None] for each in found]  # (S, S) -> (1, S, S)
        boxes = [tuple(round(value / scale) for value in each.box) for each in found]
        small = reduced(pixels, PAGE_SIDE if len(found) > FEW else THUMBNAIL if len(found) == 1 else LONGEST_SIDE)
        scale *= max(small.shape[:2]) / max(pixels.shape[:2])
        return _Prepared(source, small, scale, images, boxes, may_be_one=is_plain and len(found) <= FEW)

    def _answer(self, waiting: list[_Prepared | Failure], invert: str, top: int) -> Iterator[Reading | Failure]:
        images = [image for each in waiting if isinstance(each, _Prepared) for image in each.images]
        answers = iter(self._answers(images, top))
        for each in waiting:
            if isinstance(each, Failure):
                yield each
                continue
            own = [replace(next(answers), path=each.source.path, box=box) for box in each.boxes]
            if each.may_be_one and not (own and all(answer.is_sure for answer in own)):
                with contextlib.suppress(PictureError):
                    whole = ink.prepare(each.picture, self.saved.preparation, invert)
                    (one,) = self._answers([whole], top)
                    own = [replace(one, path=each.source.path)] if one.is_sure else own
            if own:
                yield Reading(each.source, each.picture, each.scale, own)
            else:
                yield Failure(each.source, "no ink found")

    def _answers(self, images: Sequence[np.ndarray], top: int) -> list[Answer]:
        # to images (C, S, S), without their places
        answers = []
        for first in range(0, len(images), BATCH_SIZE):
            stacked = torch.from_numpy(np.stack(images[first : first + BATCH_SIZE]))
            batch, _ = convert(stacked, len(self.saved.mean), self.saved.image_size)
            for image, probabilities, is_unlike in zip(batch, *self.answers_of(batch), strict=True):
                candidates = self.candidates(probabilities, top)
                is_sure = candidates[0].probability >= self.min_probability and not is_unlike
                answers.append(Answer(candidates, pixels_of(image), is_sure=bool(is_sure)))
        return answers

    def candidates(self, probabilities: Tensor, top: int) -> list[Candidate]:
        """The most probable classes, at most `top`, of the probability of each (classes,); equals in their order."""
        saved, order = self.saved, probabilities.sort(descending=True, stable=True)
        return [
            Candidate(saved.classes[index], value, index, saved.glyphs[index] if saved.glyphs else "")
            for value, index in zip(order.values[:top].tolist(), order.indices[:top].tolist(), strict=True)
        ]

    def inputs(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 -> what the network is given, float32, on its device."""
        return self.normalise(images.to(self.device))

    @torch.inference_mode()
    def answers_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), uint8 -> the calibrated probability of each class, (N, classes), on the CPU.

        And with it whether the image is unlike every training image, (N,) bool.
        """
        outputs = outputs_of(self.model, self.inputs(images))
        return self.calibration.probabilities(outputs.log_probs).cpu(), self.calibration.is_unlike(outputs).cpu()

    def probabilities(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 -> the calibrated probability of each class, (N, classes), on the CPU."""
        return self.answers_of(images)[0]


def convert(images: Tensor, channels: int, size: int) -> tuple[Tensor, list[str]]:
    """Convert images (N, C, H, W), uint8, of 1 or 3 channels to (N, channels, size, size); also returns what changed.

    Colour becomes grey by LUMA, grey the same in each of three channels; other sizes are resampled bilinearly, with
    antialiasing.
    """
    changes, values = [], images.float()
    if images.size(1) != channels:
        values = (
            (values * torch.tensor(LUMA).view(3, 1, 1)).sum(1, True) if channels == 1 else values.expand(-1, 3, -1, -1)
        )
        changes.append("colour to grey" if channels == 1 else "grey to three equal channels")
    if tuple(images.shape[2:]) != (size, size):
        values = functional.interpolate(values, (size, size), mode="bilinear", antialias=True)
        changes.append(f"{images.size(3)}x{images.size(2)} to {size}x{size} pixels")
    return (values.round().clamp(0, 255).to(torch.uint8), changes) if changes else (images, [])


def _path_of(picture: Picture) -> Path | None:
    return None if isinstance(picture, np.ndarray) else Path(picture)


def _check(pictures: Sequence[Picture], invert: str, top: int) -> None:
    if invert not in INVERT:
        raise ValueError(f"invert must be one of {', '.join(INVERT)}, not {invert!r}")
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    if not all(isinstance(each, str | Path | np.ndarray) for each in pictures):
        raise TypeError("a picture must be a path or a uint8 array, or a list of these")
