"""How good a saved network is on a test set: its scores as text and report.json, and two pictures that tell why.

torch is imported inside the functions, so that the files can be tried before it is loaded.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from neural_lib import plots
from neural_lib.datasets import DATASETS
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
MOST_MISTAKES = 28  # in mistakes.png: four full rows of seven

log = logging.getLogger(__name__)


class ReportFiles:
    """report.json, confusion.png and mistakes.png in one folder, of one data set.

    Raises UserError where one of them can't be written, or report.json is somebody else's. suffix: of all three names.
    """

    def __init__(self, folder: Path, option: str, suffix: str = "") -> None:
        self.json = check_output(folder / f"report{suffix}.json", option, (".json",))
        check_is_ours(self.json, first=json_text(**FORMAT)[:30])
        self.confusion = check_output(folder / f"confusion{suffix}.png", option, (".png",))
        self.mistakes = check_output(folder / f"mistakes{suffix}.png", option, (".png",))

    def __str__(self) -> str:
        return f"{self.json}, {self.confusion.name} and {self.mistakes.name}"


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
        "loss": evaluation.loss,
        **metrics.scores(evaluation.labels, evaluation.predictions, saved.classes),
        "confusion_matrix": _matrix(saved, evaluation).tolist(),  # true, predicted
    }


def write(files: ReportFiles, saved: "Checkpoint", dataset: str, evaluation: "Evaluation", images: "Tensor") -> None:
    """Write the three files. images: (N, C, H, W), uint8, in the evaluation's order.

    Where OpenCV can't be loaded, the matrix has no written characters, mistakes.png isn't drawn, and a warning says so.
    """
    with atomic_write(files.json) as handle:
        handle.write(json_text(**as_dict(saved, dataset, evaluation)).encode())
    try:
        from neural_lib import annotate

        glyphs = [annotate.glyph(each) for each in saved.glyphs]
        picture = annotate.encode(_mistakes(saved, dataset, evaluation, images), files.mistakes.suffix)
        with atomic_write(files.mistakes) as handle:
            handle.write(picture)
    except ImportError as error:
        log.warning("%s was not drawn: OpenCV can't be loaded (%s); see Troubleshooting", files.mistakes, error)
        glyphs = []
    title = f"{DATASETS[dataset].title}, test: {evaluation.accuracy:.2%} of {len(evaluation.labels):,} images right"
    figure = plots.plot_confusion(_matrix(saved, evaluation), saved.classes, title, glyphs)
    with atomic_write(files.confusion) as handle:
        figure.savefig(handle, format="png")


def worst(evaluation: "Evaluation", most: int = MOST_MISTAKES) -> list[int]:
    """The wrong predictions, the most confident first: their places in the evaluation, at most so many."""
    wrong = (evaluation.predictions != evaluation.labels).nonzero().flatten()
    order = evaluation.probabilities[wrong].sort(descending=True, stable=True).indices
    return wrong[order[:most]].tolist()


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
    which = f"the {len(shown)} most confident of {count:,} mistakes" if count > len(shown) else f"{count} mistakes"
    return annotate.headed(tiles, f"{DATASETS[dataset].title}, test: {which} among {all_images:,} images")
