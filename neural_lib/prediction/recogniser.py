"""Recogniser: a trained network that reads pictures, from files or arrays."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neural_lib import checkpoint
from neural_lib.checkpoint import Checkpoint
from neural_lib.data import ink
from neural_lib.data.images import Normalisation, pixels_of
from neural_lib.data.pictures import PictureError, read_picture
from neural_lib.evaluation.annotate import TILE_WIDTH
from neural_lib.evaluation.calibration import Calibration, outputs_of
from neural_lib.prediction import INVERT
from neural_lib.system.devices import select_device

BATCH_SIZE = 100  # pictures; they are in memory together
THUMBNAIL = 2 * TILE_WIDTH  # pixels, the longer side of an answer's picture at most
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601-7, section 2.5.1

Picture = str | Path | np.ndarray


class Candidate(NamedTuple):
    """One class that a picture may show."""

    label: str  # the class name
    probability: float  # 0 to 1
    index: int  # of the class, from 0
    glyph: str  # its written character, if a class is one


@dataclass(frozen=True, eq=False)
class Answer:
    """A network's answer to a picture."""

    top: list[Candidate]  # the most probable classes, the first one most
    seen: np.ndarray  # what the network was given, uint8 (S, S) or (S, S, 3)
    path: Path | None = None  # of the file
    picture: np.ndarray | None = None  # for a montage: RGB, uint8 (H, W, 3), reduced if it is large

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0].label

    @property
    def probability(self) -> float:
        """Its probability, 0 to 1."""
        return self.top[0].probability

    def to_dict(self) -> dict:
        """{"path", "label", "index", "glyph", "probability", "top": [the same of the most probable classes]}."""
        classes = [
            {"label": each.label, "index": each.index, **({"glyph": each.glyph} if each.glyph else {}),
             "probability": each.probability}
            for each in self.top
        ]  # fmt: skip
        return {"path": str(self.path) if self.path else None, **classes[0], "top": classes}


class Failure(NamedTuple):
    """A picture file without an answer, and why."""

    path: Path | None
    reason: str


class Recogniser:
    """A trained network that reads pictures as predict.py does; Recogniser.load makes one from a model file.

    Raises UserError if the checkpoint's parts don't fit together.
    """

    def __init__(self, saved: Checkpoint, device: torch.device) -> None:
        self.saved, self.device = saved, device
        self.model = saved.build_model().to(device)
        self.normalise = Normalisation(saved.mean, saved.std).to(device)
        self.calibration = Calibration(saved.calibration, device)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> "Recogniser":
        """The recogniser of a model file. Raises UserError if that can't be read or the device isn't there."""
        return cls(checkpoint.load(path, option=""), select_device(device)[0])

    def read(self, picture: Picture | Sequence[Picture], invert: str = "auto", top: int = 3) -> Answer | list[Answer]:
        """The answer to a picture, or the answers to a list of them.

        picture: a file, or a uint8 array (H, W) or, in RGB, (H, W, 3). invert: "yes" reads what is darker than its
        ground, "no" what is lighter, "auto" whichever stands out more. top: classes in an answer.
        Raises PictureError, naming the file or the place in the list, if one can't be read or shows no ink.
        """
        if invert not in INVERT:
            raise ValueError(f"invert must be one of {', '.join(INVERT)}, not {invert!r}")
        if top < 1:
            raise ValueError(f"top must be at least 1, not {top}")
        pictures = picture if isinstance(picture, list | tuple) else [picture]
        if not all(isinstance(each, str | Path | np.ndarray) for each in pictures):
            raise TypeError("a picture must be a path or a uint8 array, or a list of these")
        answers = []
        for number, result in enumerate(self.read_each(pictures, invert, top), start=1):
            if isinstance(result, Failure):
                raise PictureError(f"{result.path or f'picture {number}'}: {result.reason}")
            answers.append(replace(result, picture=None))
        return answers if isinstance(picture, list | tuple) else answers[0]

    def read_each(
        self, pictures: Sequence[Picture], invert: str, top: int, on_read: Callable[[], object] = lambda: None
    ) -> Iterator[Answer | Failure]:
        """The answers to pictures, in their order and in batches; on_read is called after each picture was read."""
        for first in range(0, len(pictures), BATCH_SIZE):
            results: list[tuple[Path | None, np.ndarray] | Failure] = []  # path and thumbnail, or why not
            images = []
            for each in pictures[first : first + BATCH_SIZE]:
                path = None if isinstance(each, np.ndarray) else Path(each)
                try:
                    pixels = read_picture(each)
                    images.append(torch.from_numpy(ink.prepare(pixels, self.saved.preparation, invert)))
                    results.append((path, _thumbnail(pixels)))
                except PictureError as error:
                    results.append(Failure(path, str(error)))
                on_read()
            if images:
                batch, _ = convert(torch.stack(images), len(self.saved.mean), self.saved.image_size)
                read = iter(zip(batch, self.probabilities(batch), strict=True))
            for each in results:
                if isinstance(each, Failure):
                    yield each
                else:
                    image, probabilities = next(read)
                    yield Answer(self.candidates(probabilities, top), pixels_of(image), *each)

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


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    scale = THUMBNAIL / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
