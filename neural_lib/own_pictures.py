"""Pictures of a person's own: from their files, or from a drawing, to what a network says of them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neural_lib import prepare
from neural_lib.annotate import pixels_of
from neural_lib.answers import Answer, most_probable
from neural_lib.pictures import PictureError
from neural_lib.recogniser import Recogniser

if TYPE_CHECKING:
    from neural_lib.datasets import DatasetInfo

AT_ONCE = 100  # pictures in a batch; their thumbnails are in memory together


class Recognised(NamedTuple):
    """A picture and its answer."""

    answer: Answer
    thumbnail: np.ndarray  # the picture, RGB, uint8 (H, W, 3), reduced
    seen: np.ndarray  # what the network was given, uint8 (S, S) or (S, S, 3)


class NotRecognised(NamedTuple):
    """A picture without an answer, and why."""

    path: Path
    reason: str


def read(
    recogniser: Recogniser, picture: np.ndarray, info: "DatasetInfo", invert: str
) -> tuple[np.ndarray, list[float]]:
    """One picture, RGB, (H, W, 3) -> what the network is given of it, as Recognised.seen, and its probabilities.

    Raises ink.NoInk where there is nothing to be seen in it.
    """
    images = recogniser.images([prepare.prepare(picture, info, invert)])
    return pixels_of(images[0]), recogniser.probabilities(images)[0].tolist()


def read_files(
    recogniser: Recogniser,
    paths: Sequence[Path],
    info: "DatasetInfo",
    invert: str,
    top: int,
    thumbnail: int,
    on_read: Callable[[], object] = lambda: None,
) -> Iterator[Recognised | NotRecognised]:
    """Picture files in batches -> each one's answer, in their order.

    info: of the data set whose images they are brought to. invert: see ink.find. top: classes in an answer.
    thumbnail: pixels, its longer side at most. on_read: called after each file was read.
    """
    for first in range(0, len(paths), AT_ONCE):
        batch: list[prepare.Prepared | NotRecognised] = []
        for path in paths[first : first + AT_ONCE]:
            try:
                batch.append(prepare.from_file(path, info, invert, thumbnail))
            except PictureError as error:
                batch.append(NotRecognised(path, str(error)))
            on_read()
        yield from _recognised(recogniser, batch, top)


def _recognised(recogniser: Recogniser, batch: list, top: int) -> Iterator[Recognised | NotRecognised]:
    ready = [each.image for each in batch if isinstance(each, prepare.Prepared)]
    images = recogniser.images(ready) if ready else []
    results = zip(images, recogniser.probabilities(images).tolist() if ready else [], strict=True)
    for each in batch:
        if isinstance(each, NotRecognised):
            yield each
        else:
            image, probabilities = next(results)
            yield Recognised(Answer(each.path, *most_probable(probabilities, top)), each.thumbnail, pixels_of(image))
