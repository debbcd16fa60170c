"""How good a saved network is on a test set: its scores as text and report.json, and two pictures that tell why.

torch is imported inside the functions, so that the files can be tried before it is loaded.
"""

import io
import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from neural_lib import plots
from neural_lib.datasets import DATASETS
from neural_lib.errors import UserError
from neural_lib.files import atomic_write, check_output
from neural_lib.results import check_is_ours, json_text

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from neural_lib.checkpoint import Checkpoint
    from neural_lib.datasets import Images
    from neural_lib.evaluation import Evaluation

FORMAT = {"format": "neural_lib report", "format_version": 1}
FIRST_LINES = json_text(format=FORMAT["format"]).partition(",")[0]
NAMES = {"report": ".json", "confusion": ".png", "mistakes": ".png"}
MOST_MISTAKES = 28  # in mistakes.png: four full rows of seven

log = logging.getLogger(__name__)


class ReportFiles:
    """report.json, confusion.png and mistakes.png in one folder, of one data set.

    suffix: of all three names. Raises UserError where one of them can't be written, is the file `taken` by another
    output, or where report.json is somebody else's.
    """

    def __init__(self, folder: Path, option: str, suffix: str = "", taken: Path | None = None) -> None:
        paths = [folder / f"{stem}{suffix}{end}" for stem, end in NAMES.items()]
        self.json, self.confusion, self.mistakes = (check_output(path, option, (path.suffix,)) for path in paths)
        check_is_ours(self.json, first=FIRST_LINES)
        if taken in (self.confusion, self.mistakes):
            raise UserError(f"--plot {taken}: is where a picture of the report goes; choose another name")

    @staticmethod
    def of_all_data_sets(folder: Path) -> list[Path]:
        """What reports of a network in that folder may be there, whatever they are of."""
        suffixes = ["", *(f"-{dataset}" for dataset in DATASETS)]
        return [folder / f"{stem}{suffix}{end}" for stem, end in NAMES.items() for suffix in suffixes]

    def __iter__(self) -> Iterator[Path]:
        return iter((self.json, self.confusion, self.mistakes))


def score(saved: "Checkpoint", model: "nn.Module", images: "Images", device: "torch.device") -> "Evaluation":
    """The network's scores on all images, in float32 and the same batches whoever asks."""
    from neural_lib.evaluation import evaluate
    from neural_lib.loaders import EVAL_BATCH_SIZE, ImageTensors, Normalisation, make_loader

    normalise = Normalisation(saved.mean, saved.std).to(device)
    return evaluate(model, make_loader(ImageTensors(*images, device), EVAL_BATCH_SIZE, normalise))


def text(saved: "Checkpoint", evaluation: "Evaluation") -> str:
    """A line for each class, then accuracy and the two means."""
    from neural_lib import metrics

    return metrics.report(evaluation.labels, evaluation.predictions, saved.classes)


def as_dict(saved: "Checkpoint", dataset: str, evaluation: "Evaluation") -> dict:
    """The same in plain types, unrounded, with the confusion matrix and what it is of."""
    from neural_lib import metrics

    return {
        **FORMAT,
        "dataset": dataset,
        "part": "test",
        "images": len(evaluation.labels),
        "arch": saved.arch,
        "trained_on": saved.dataset,
        "epoch": saved.metrics.get("epoch"),
        "config": saved.config,
        "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
        **metrics.scores(evaluation.labels, evaluation.predictions, saved.classes),
        "confusion_matrix": _matrix(saved, evaluation).tolist(),  # true, predicted
    }


def write(
    files: ReportFiles,
    saved: "Checkpoint",
    dataset: str,
    evaluation: "Evaluation",
    images: "Tensor",
    attempt: AbstractContextManager | None = None,
) -> list[Path]:
    """Write the three files and return which. images: (N, C, H, W), uint8, in the evaluation's order.

    attempt: a context for the writing of each, such as files.Attempts; without one an OSError ends it.

    Where OpenCV can't be loaded, the matrix has no written characters, there is no mistakes.png, and a warning says so.
    """
    attempt, written = attempt or nullcontext(), []

    def write_one(path: Path, content: bytes) -> None:
        with attempt:
            with atomic_write(path) as handle:
                handle.write(content)
            written.append(path)

    write_one(files.json, json_text(**as_dict(saved, dataset, evaluation)).encode())
    try:
        from neural_lib import annotate
    except ImportError as error:
        log.warning("%s can't be drawn without OpenCV (%s); see Troubleshooting in README.md", files.mistakes, error)
        files.mistakes.unlink(missing_ok=True)  # it would be of another network
        glyphs = []
    else:
        glyphs = [annotate.glyph(each) for each in saved.glyphs]
        picture = annotate.encode(_mistakes(saved, dataset, evaluation, images), files.mistakes.suffix)
        write_one(files.mistakes, picture)
    title = f"{_which(saved, dataset)}: {evaluation.accuracy:.2%} of {len(evaluation.labels):,} images right"
    figure = plots.plot_confusion(_matrix(saved, evaluation), saved.classes, title, glyphs)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_one(files.confusion, drawn.getbuffer())
    return written


def worst(evaluation: "Evaluation", most: int = MOST_MISTAKES) -> list[int]:
    """The wrong predictions, the most confident first: their places in the evaluation, at most so many."""
    wrong = (evaluation.predictions != evaluation.labels).nonzero().flatten()
    order = evaluation.probabilities[wrong].sort(descending=True, stable=True).indices
    return wrong[order[:most]].tolist()


def _which(saved: "Checkpoint", dataset: str) -> str:
    other = "" if dataset == saved.dataset else f" by a network for {DATASETS[saved.dataset].title}"
    return f"{DATASETS[dataset].title}, test{other}"


def _matrix(saved: "Checkpoint", evaluation: "Evaluation") -> "Tensor":
    from neural_lib.metrics import confusion_matrix

    return confusion_matrix(evaluation.labels, evaluation.predictions, len(saved.classes))


def _mistakes(saved: "Checkpoint", dataset: str, evaluation: "Evaluation", images: "Tensor") -> "np.ndarray":
    from neural_lib import annotate

    shown, all_images = worst(evaluation), len(evaluation.labels)
    count = int((evaluation.predictions != evaluation.labels).sum())
    tiles = [
        annotate.annotate(
            annotate.pixels_of(images[index]),
            saved.written(int(evaluation.predictions[index])),
            float(evaluation.probabilities[index]),
            saved.written(int(evaluation.labels[index])),
        )
        for index in shown
    ]
    which = f"the {len(shown)} most confident of {count:,} mistakes" if count > len(shown) else f"{count} mistake"
    which += "s" if count != 1 and count <= len(shown) else ""
    return annotate.headed(tiles, f"{_which(saved, dataset)}: {which} among {all_images:,} images")
