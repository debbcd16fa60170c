"""Recogniser: a trained network that reads pictures from files or the memory."""

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
from neural_lib.data.images import Normalisation, eval_batch_size, pixels_of
from neural_lib.data.page import Place, find_characters
from neural_lib.data.pictures import (
    LONGEST_SIDE,
    Picture,
    PictureError,
    count_pages,
    read_picture,
    reduced,
    size_of,
)
from neural_lib.data.sheet import is_crossed_out
from neural_lib.evaluation.annotate import PAGE_SIDE, TILE_WIDTH
from neural_lib.evaluation.calibration import Calibration, outputs_of
from neural_lib.evaluation.gradcam import heat_maps
from neural_lib.prediction import INVERT, ORDERS, default_min_probability
from neural_lib.system.devices import select_device

BATCH_SIZE = 100  # images; they and their pictures are in memory together
THUMBNAIL = 2 * TILE_WIDTH  # pixels: limit of the longer side of a single character's picture in a Reading
SMALLEST_PAGE = 64  # pixels: a picture whose longer side is shorter holds one character
SHARP = 48  # pixels: a page with smaller characters or with lines is read again, at a higher resolution
FEW = 3  # if at most this many characters are found in a picture, they may be parts of a single one
PAGE_SIDES = (LONGEST_SIDE, 2 * LONGEST_SIDE, 4 * LONGEST_SIDE)  # pixels: the longer side of a page, reduced
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in grey: ITU-R BT.601-7, section 2.5.1

Box = tuple[int, int, int, int]  # left, top, width, height, pixels


class Candidate(NamedTuple):
    """One class that a picture may show."""

    label: str  # the class name
    probability: float  # 0 to 1
    index: int  # the class, from 0
    glyph: str  # the written character, or empty


@dataclass(frozen=True, eq=False)
class Answer:
    """A network's answer to a picture, or to one character of it."""

    top: list[Candidate]  # the most probable classes, in descending order
    seen: np.ndarray = field(repr=False)  # the network's input, uint8 (S, S) or (S, S, 3)
    path: Path | None = None  # the picture's file
    box: Box | None = None  # around the ink, in the picture as displayed; None if the whole picture was read
    place: Place | None = None  # None if the whole picture was read, or for ink outside of a page's printed boxes
    # False if it isn't probable enough, or the image is unlike those of training or too long for one character.
    is_sure: bool = True

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0].label

    @property
    def probability(self) -> float:
        """The probability of the most probable class, 0 to 1."""
        return self.top[0].probability

    def to_dict(self) -> dict:
        """{"path", "label", "index", "glyph", "probability", "sure", "box", "number", "row", "column", "top": [...]}.

        "top" lists {"label", "index", "glyph", "probability"}. "glyph" is present if the classes are written
        characters, "box" if the answer has one, and "number", "row" and "column" if it has a place.
        """
        classes = [
            {"label": each.label, "index": each.index, **({"glyph": each.glyph} if each.glyph else {}),
             "probability": each.probability}
            for each in self.top
        ]  # fmt: skip
        box = {"box": list(self.box)} if self.box else {}
        path = str(self.path) if self.path else None
        place = self.place._asdict() if self.place else {}
        return {"path": path, **classes[0], "sure": self.is_sure, **box, **place, "top": classes}


class Source(NamedTuple):
    """The origin of a picture: a file, or a page of it."""

    path: Path | None  # None for a picture without a path, such as an array
    page: int = 0  # from 1; 0 if the file has one page

    @property
    def name(self) -> str:
        """The path, with the page if the file has several: "scan.tif[2]"."""
        return f"{self.path}[{self.page}]" if self.page else str(self.path)

    def to_dict(self) -> dict:
        """{"path", "page"}; "page" is present if the file has several."""
        return {"path": str(self.path) if self.path else None, **({"page": self.page} if self.page else {})}


@dataclass(frozen=True, eq=False)
class Reading:
    """A picture and the answers to its characters, or the reason why there are none."""

    source: Source
    picture: np.ndarray | None = field(default=None, repr=False)  # RGB, uint8 (H, W, 3), reduced if it is large
    scale: float = 1.0  # pixels of `picture` per pixel of the boxes
    answers: Sequence[Answer] = ()  # those of a page in reading order
    boxes: Sequence[Box] = ()  # the printed boxes of a page, empty ones, too, in reading order
    reason: str = ""  # why there are no answers; empty if all known boxes are

    def to_dict(self) -> dict:
        """{"path", "characters": [Answer.to_dict(), ...]}; with a single character, also its keys.

        Without an answer: {"path", "error"}.
        """
        if not self.answers:
            return {**self.source.to_dict(), "error": self.reason}
        characters = [
            {name: value for name, value in each.to_dict().items() if name != "path"} for each in self.answers
        ]
        return {**self.source.to_dict(), **(characters[0] if len(characters) == 1 else {}), "characters": characters}


class _Prepared(NamedTuple):
    # a picture whose images have no answers yet
    reading: Reading
    images: Sequence[np.ndarray] = ()  # one for each character and each of its parts, uint8 (C, S, S)
    boxes: Sequence[Box | None] = ()
    places: Sequence[Place | None] = ()
    # For each character: the number of its parts, which follow it in those; True if it can hardly be one, or is crossed
    # out.
    cuts: Sequence[tuple[int, bool]] = ()
    may_be_one: bool = False  # the characters found may be the parts of one


class Recogniser:
    """A trained network that reads pictures as predict.py does; Recogniser.load makes one from a model file.

    min_probability: a less probable answer is not sure; default: default_min_probability. Raises UserError if the
    checkpoint's parts don't fit together.
    """

    def __init__(self, saved: Checkpoint, device: torch.device, min_probability: float | None = None) -> None:
        self.saved, self.device = saved, device
        default = default_min_probability(len(saved.classes))
        self.min_probability = default if min_probability is None else min_probability
        self.model = saved.build_model().to(device)
        self.normalise = Normalisation(saved.mean, saved.std).to(device)
        self.calibration = Calibration(saved.calibration, device)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", min_probability: float | None = None) -> "Recogniser":
        """The recogniser of a model file. Raises UserError if the file can't be read or there is no such device."""
        return cls(checkpoint.load(path, option=""), select_device(device)[0], min_probability)

    @property
    def reads_pages(self) -> bool:
        """True if the classes are written characters, so that pages can be read."""
        return self.saved.is_of_writing

    def read(self, picture: Picture | Sequence[Picture], invert: str = "auto", top: int = 3) -> Answer | list[Answer]:
        """The answer to a picture that holds one character or thing, or the answers to a list of such pictures.

        picture: a path, bytes, an open file, a Pillow image, an array or a tensor: see pictures.read_picture; of a file
        the first page is read. invert: "yes": the ink is darker than its ground, "no": lighter, "auto": whichever
        stands out more. top: classes in an answer. Several threads may call this at once.
        Raises PictureError, naming the file or the place in the list, if a picture can't be read or shows no ink.
        """
        if isinstance(picture, list | tuple):
            return self._read_or_raise(picture, 0, invert, None, top)
        return self._read_or_raise([picture], 0, invert, None, top)[0]

    def read_page(
        self,
        picture: Picture,
        invert: str = "auto",
        order: str = "rows",
        top: int = 3,
        page: int = 1,
        boxes: np.ndarray | None = None,
    ) -> list[Answer]:
        """The answers to the characters of a page, in reading order.

        picture, invert, top: see read. order: see page.find_characters. page: of the file, from 1. A small picture is
        read as one character, and so is any picture if the network reads no pages.
        boxes: the printed boxes of a level page if they are known, see page.find_characters: then there is an answer
        for each box with ink in it, perhaps none, which is not sure if the box is crossed out from corner to corner.
        The picture is read at its full resolution.
        Raises PictureError, naming the file, if it can't be read or, without boxes, shows no ink; and ValueError if an
        argument is out of range or boxes are given to a network that reads no pages.
        """
        if boxes is not None:
            boxes = np.asarray(boxes)
            if boxes.ndim != 2 or boxes.shape[1] != 4:
                raise ValueError(f"boxes must be (N, 4), not {boxes.shape}")
            if not self.reads_pages:
                raise ValueError("boxes need a network for written characters")
        if page < 1:
            raise ValueError(f"page must be at least 1, not {page}")
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
        return self._read_or_raise([picture], page if page > 1 else 0, invert, order, top, boxes)

    def reading_of(self, picture: Picture, invert: str = "auto", order: str = "rows", top: int = 1) -> Reading:
        """The reading of a page: the answers of read_page and the printed boxes; or the reason if there are none."""
        return next(self._read_all([(Source(None), picture)], invert, order, top))

    def _read_or_raise(
        self,
        pictures: Sequence[Picture],
        page: int,
        invert: str,
        order: str | None,
        top: int,
        boxes: np.ndarray | None = None,
    ) -> list[Answer]:
        if invert not in INVERT:
            raise ValueError(f"invert must be one of {', '.join(INVERT)}, not {invert!r}")
        if top < 1:
            raise ValueError(f"top must be at least 1, not {top}")
        answers = []
        sources = [
            (Source(Path(each) if isinstance(each, str | os.PathLike) else None, page), each) for each in pictures
        ]
        for number, result in enumerate(self._read_all(sources, invert, order, top, boxes), start=1):
            if result.reason:
                name = result.source.name if result.source.path else "the picture"
                name = f"picture {number}" if not result.source.path and len(sources) > 1 else name
                raise PictureError(f"{name}: {result.reason}")
            answers += result.answers
        return answers

    def read_files(
        self, files: Iterable[Path], invert: str, order: str | None, top: int, first_page: bool = False
    ) -> Iterator[Reading]:
        """The reading of each page of each file, in the order of the files.

        order: see read_page; None if each picture holds one character. first_page: read no other page of a file.
        """

        def sources() -> Iterator[tuple[Source, Picture]]:
            for path in files:
                pages = 1 if first_page else count_pages(path)
                yield from ((Source(path, number), path) for number in (range(1, pages + 1) if pages > 1 else [0]))

        return self._read_all(sources(), invert, order, top)

    def _read_all(
        self,
        sources: Iterable[tuple[Source, Picture]],
        invert: str,
        order: str | None,
        top: int,
        boxes: np.ndarray | None = None,
    ) -> Iterator[Reading]:
        # in batches of about BATCH_SIZE images; a page counts as several, for its picture takes more memory
        waiting, load = [], 0
        for source, picture in sources:
            try:
                waiting.append(self._prepare(source, picture, invert, order, boxes))
            except PictureError as error:
                waiting.append(_Prepared(Reading(source, reason=str(error))))
            count = len(waiting[-1].images)
            load += 1 if count == 1 else max(BATCH_SIZE // 10, count)
            if load >= BATCH_SIZE:
                yield from self._answer(waiting, invert, order, top)
                waiting, load = [], 0
        yield from self._answer(waiting, invert, order, top)

    def _prepare(
        self, source: Source, picture: Picture, invert: str, order: str | None, boxes: np.ndarray | None
    ) -> _Prepared:
        how, page = self.saved.preparation, max(source.page - 1, 0)
        pixels = read_picture(picture, page, min_side=how.min_side)
        size = max(pixels.shape[:2])
        if size == LONGEST_SIDE:  # it may have been reduced
            size = max(size_of(picture, page) or [size])
        if order is None or not self.reads_pages or boxes is None and size < SMALLEST_PAGE:
            images = [ink.prepare(pixels, how, invert)]
            return _Prepared(Reading(source, reduced(pixels, THUMBNAIL)), images, [None], [None], [(0, False)])
        sharp = max(SHARP, 1.5 * how.image_size)
        for longest in PAGE_SIDES if boxes is None else [max(size, LONGEST_SIDE)]:
            if longest != LONGEST_SIDE:
                pixels = read_picture(picture, page, longest)
            scale = max(pixels.shape[:2]) / size
            found, is_plain, printed = find_characters(ink.to_grey(pixels), invert, order, boxes)
            is_sharp = bool(found) and np.median([max(each.box[2:]) for each in found]) >= sharp
            if scale == 1 or is_sharp and (is_plain or longest != PAGE_SIDES[0]):
                break
        inks = [each for character in found for each in (character, *character.parts)]
        images = [ink.place(each.ink, how.placement, how.image_size)[None] for each in inks]  # (S, S) -> (1, S, S)
        around = [tuple(round(value / scale) for value in each.box) for each in inks]
        cuts = [
            (len(each.parts), each.is_long or boxes is not None and is_crossed_out(each, boxes[each.place.number - 1]))
            for each in found
        ]
        small = reduced(pixels, PAGE_SIDE if len(found) > FEW else THUMBNAIL if len(found) == 1 else LONGEST_SIDE)
        printed = [tuple(round(value / scale) for value in each) for each in printed]
        scale *= max(small.shape[:2]) / max(pixels.shape[:2])
        may_be_one = boxes is None and is_plain and len(found) <= FEW and not any(each.is_long for each in found)
        reason = "" if found or boxes is not None else "no ink found"
        reading = Reading(source, small, scale, boxes=printed, reason=reason)
        places = [character.place for character in found for _ in (character, *character.parts)]
        return _Prepared(reading, images, around, places, cuts, may_be_one)

    def _answer(self, waiting: list[_Prepared], invert: str, order: str | None, top: int) -> Iterator[Reading]:
        answers = iter(self._answers([image for each in waiting for image in each.images], top))
        for reading, _, boxes, places, cuts, may_be_one in waiting:
            path = reading.source.path
            parts = _without_touching(
                [
                    replace(next(answers), path=path, box=box, place=place)
                    for box, place in zip(boxes, places, strict=True)
                ],
                cuts,
            )
            parts = _counted_on(parts, order)
            if may_be_one and not (parts and all(answer.is_sure for answer in parts)):
                with contextlib.suppress(PictureError):
                    whole = ink.prepare(reading.picture, self.saved.preparation, invert)
                    (one,) = self._answers([whole], top)
                    parts = [replace(one, path=path)] if one.is_sure else parts
            yield replace(reading, answers=parts, reason="" if parts else reading.reason)

    def _answers(self, images: Sequence[np.ndarray], top: int) -> list[Answer]:
        # the answers to images (C, S, S), without path and box
        answers, size = [], min(BATCH_SIZE, eval_batch_size(self.saved.image_size, self.device))
        for first in range(0, len(images), size):
            batch = torch.from_numpy(np.stack(images[first : first + size]))
            for image, probabilities, is_unlike in zip(batch, *self.answers_of(batch), strict=True):
                candidates = self.candidates(probabilities, top)
                is_sure = candidates[0].probability >= self.min_probability and not is_unlike
                answers.append(Answer(candidates, pixels_of(image), is_sure=bool(is_sure)))
        return answers

    def heat_map(self, answer: Answer) -> np.ndarray | None:
        """How much each place of answer.seen speaks for the answer, (h, w), 0 to 1; None without one, see heat_maps."""
        pixels = torch.from_numpy(answer.seen).view(*answer.seen.shape[:2], -1).permute(2, 0, 1)  # (C, S, S)
        classes = torch.tensor([answer.top[0].index], device=self.device)
        maps = heat_maps(self.model, self.normalise(pixels[None].to(self.device)), classes)
        return None if maps is None else maps[0].cpu().numpy()

    def candidates(self, probabilities: Tensor, top: int) -> list[Candidate]:
        """The at most `top` most probable classes; equally probable ones by index. probabilities: (classes,)."""
        saved, order = self.saved, probabilities.sort(descending=True, stable=True)
        return [
            Candidate(saved.classes[index], value, index, saved.glyphs[index] if saved.glyphs else "")
            for value, index in zip(order.values[:top].tolist(), order.indices[:top].tolist(), strict=True)
        ]

    @torch.inference_mode()
    def answers_of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), uint8 -> calibrated probabilities (N, classes), and is_unlike (N,), bool; on the CPU."""
        outputs = outputs_of(self.model, self.normalise(images.to(self.device)))
        return self.calibration.probabilities(outputs.log_probs).cpu(), self.calibration.is_unlike(outputs).cpu()

    def probabilities(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8 -> calibrated probabilities (N, classes), on the CPU."""
        return self.answers_of(images)[0]


def _without_touching(answers: list[Answer], cuts: Sequence[tuple[int, bool]]) -> list[Answer]:
    # The answers to the characters, given those to each and to its parts. Parts replace a character if all are sure and
    # more probable. Otherwise the answer to one that is too long to be one character is not sure.
    chosen, following = [], iter(answers)
    for count, is_long in cuts:
        whole, *parts = itertools.islice(following, 1 + count)
        if parts and all(each.is_sure and each.probability > whole.probability for each in parts):
            chosen += parts
        else:
            chosen.append(replace(whole, is_sure=whole.is_sure and not is_long))
    return chosen


def _counted_on(answers: list[Answer], order: str | None) -> list[Answer]:
    # The answers with a place each, given that the parts of a character all have its place.
    counted, more, last = [], Counter(), None
    for answer in answers:
        if (place := answer.place) is None:
            counted.append(answer)
            continue
        line = place.row if order == "rows" else place.column
        more.update(["all", line] if place == last else [])  # by how many numbers and places in a line to count on
        last = place
        along = {"column": place.column + more[line]} if order == "rows" else {"row": place.row + more[line]}
        counted.append(replace(answer, place=place._replace(number=place.number + more["all"], **along)))
    return counted


def convert(images: Tensor, channels: int, size: int) -> tuple[Tensor, list[str]]:
    """Images (N, C, H, W), uint8, of 1 or 3 channels -> (N, channels, size, size), and the changes in words.

    Colour becomes grey by LUMA, and grey three equal channels. Other sizes are resampled with antialiasing.
    """
    changes, values = [], images.float()
    if images.size(1) > channels:
        values = (values * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)  # (N, 3, H, W) -> (N, 1, H, W)
        changes.append("colour to grey")
    elif images.size(1) < channels:
        values = values.expand(-1, 3, -1, -1)  # (N, 1, H, W) -> (N, 3, H, W)
        changes.append("grey to three equal channels")
    if tuple(images.shape[2:]) != (size, size):
        values = functional.interpolate(values, (size, size), mode="bilinear", antialias=True)
        changes.append(f"{images.size(3)}x{images.size(2)} to {size}x{size} pixels")
    return (values.round().clamp(0, 255).to(torch.uint8), changes) if changes else (images, [])
