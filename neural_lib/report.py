"""How good a saved network is on a test set: scores as text and report.json, two pictures and a page that tell why.

torch is imported inside the functions, so that the files can be tried before it is loaded.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neural_lib import plots
from neural_lib.datasets import DATASETS
from neural_lib.errors import UserError
from neural_lib.files import Writer, check_output
from neural_lib.results import check_is_ours, json_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from neural_lib.checkpoint import Checkpoint
    from neural_lib.evaluation import Evaluation
    from neural_lib.loaders import ImageTensors
    from neural_lib.runs import RunManager

FORMAT = {"format": "neural_lib report", "format_version": 1}
FIRST_LINES = json_text(format=FORMAT["format"]).partition(",")[0]
PAGE_BEGINS = "<!DOCTYPE html>\n<!-- neural_lib report -->"
NAMES = ("report.json", "confusion.png", "mistakes.png", "report.html")
MOST_MISTAKES = 28  # in mistakes.png: four full rows of seven
MOST_CONFUSIONS = 5  # on the terminal
GAP_WORTH_A_WARNING = 0.01  # between validation and test accuracy: a point

log = logging.getLogger(__name__)


class ReportFiles:
    """report.json, confusion.png, mistakes.png and report.html in one folder, of one data set.

    suffix: of all four names. Raises UserError where one of them can't be written, is the file `taken` by another
    output, or where report.json is somebody else's.
    """

    def __init__(self, folder: Path, option: str, suffix: str = "", taken: Path | None = None) -> None:
        paths = [_with_suffix(folder / name, suffix) for name in NAMES]
        checked = (check_output(path, option, (path.suffix,)) for path in paths)
        self.json, self.confusion, self.mistakes, self.page = checked
        check_is_ours(self.json, first=FIRST_LINES)
        check_is_ours(self.page, first=PAGE_BEGINS)
        if taken in (self.confusion, self.mistakes):
            raise UserError(f"--plot {taken}: is where a picture of the report goes; choose another name")

    @staticmethod
    def of_all_data_sets(folder: Path) -> list[Path]:
        """What reports of a network in that folder may be there, whatever they are of."""
        suffixes = ["", *(f"-{dataset}" for dataset in DATASETS)]
        return [_with_suffix(folder / name, suffix) for name in NAMES for suffix in suffixes]

    def __iter__(self) -> Iterator[Path]:
        return iter((self.json, self.confusion, self.mistakes, self.page))


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_stem(f"{path.stem}{suffix}")


def score(saved: "Checkpoint", model: "nn.Module", images: "ImageTensors") -> "Evaluation":
    """The network's scores on all images, in float32 and the same batches whoever asks; all ranks together."""
    from neural_lib.evaluation import evaluate
    from neural_lib.loaders import Normalisation, evaluation_loader

    normalise = Normalisation(saved.mean, saved.std).to(images.images.device)
    return evaluate(model, evaluation_loader(images, normalise))


def log_scores(saved: "Checkpoint", evaluation: "Evaluation") -> None:
    """Log a line for each class, accuracy and the two means, then the most frequent confusions."""
    from neural_lib import metrics

    table = metrics.report(evaluation.labels, evaluation.predictions, saved.classes)
    log.info("classification report\n%s", table)
    pairs = metrics.confusions(_matrix(saved, evaluation).tolist())[:MOST_CONFUSIONS]
    lines = [
        f"    {saved.classes[pair['truth']]} read as {saved.classes[pair['predicted']]}: "
        f"{pair['count']:,} of {pair['support']:,}"
        for pair in pairs
    ]
    if lines:
        log.info("the most frequent confusions\n%s", "\n".join(lines))


def gap(saved: "Checkpoint", dataset: str, evaluation: "Evaluation") -> tuple[float, str]:
    """Validation accuracy less test accuracy, and a sentence on what that means; NaN where there is none.

    There is none for another data set than the network was trained on.
    """
    from neural_lib.metrics import standard_error

    validation, count = saved.metrics.get("val_accuracy"), len(evaluation.labels)
    if validation is None or dataset != saved.dataset:
        return math.nan, ""
    difference, error = validation - evaluation.accuracy, standard_error(evaluation.accuracy, count)
    both = math.hypot(error, standard_error(validation, saved.training.get("val_images", count)))
    scatter = f"on {count:,} images test accuracy has a standard error of {100 * error:.1f} points"
    note = DATASETS[dataset].shift_note if dataset in DATASETS else ""
    if abs(difference) <= 2 * both:
        return difference, f"{scatter}, so chance may explain that"
    if note and difference > 0:
        return difference, note
    chosen = "what validation chose looks best there, or the test images are harder"
    why = chosen if difference > 0 else "the test images are easier"
    return difference, f"{scatter}, so chance alone hardly explains that: {why}"


def gap_warning(saved: "Checkpoint", dataset: str, evaluation: "Evaluation") -> str:
    """A line on validation and test accuracy where they are further apart than GAP_WORTH_A_WARNING."""
    difference, meaning = gap(saved, dataset, evaluation)
    if not abs(difference) > GAP_WORTH_A_WARNING:
        return ""
    validation, test = saved.metrics["val_accuracy"], evaluation.accuracy
    points = f"{100 * abs(difference):.1f} points apart"
    return f"validation accuracy {validation:.4f}, test accuracy {test:.4f}: {points}: {meaning}"


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
    writer: Writer,
    records: "RunManager | None" = None,
) -> None:
    """Write the four files; where one fails, a warning says so and the others are written all the same.

    images: (N, C, H, W), uint8, in the evaluation's order. records: of the command that trained the network.

    Where OpenCV can't be loaded, the matrix has no written characters, there is no mistakes.png, and a warning says so.
    """

    @functools.cache  # for report.json and the page
    def described() -> dict:
        return as_dict(saved, dataset, evaluation)

    writer.write(files.json, lambda: json_text(**described()).encode())
    try:
        from neural_lib import annotate
    except Exception as error:  # libraries that it needs may be missing, or half there
        log.warning("%s can't be drawn without OpenCV (%s); see Troubleshooting in README.md", files.mistakes, error)
        with contextlib.suppress(OSError):
            files.mistakes.unlink()  # it would be of another network
        annotate = None
    else:
        suffix = files.mistakes.suffix
        writer.write(files.mistakes, lambda: annotate.encode(_mistakes(saved, dataset, evaluation, images), suffix))
    title = f"{_which(saved, dataset)}: {evaluation.accuracy:.2%} of {len(evaluation.labels):,} images right"

    def confusion() -> bytes:
        glyphs = [annotate.glyph(each) for each in saved.glyphs] if annotate else []
        return plots.to_bytes(plots.plot_confusion(_matrix(saved, evaluation), saved.classes, title, glyphs), "png")

    def html() -> bytes:
        from neural_lib import page

        about = (_title(dataset), *gap(saved, dataset, evaluation))
        text = page.render(saved, described(), evaluation, images, *about, records)
        return text.encode(errors="backslashreplace")  # a path may hold bytes of any kind

    writer.write(files.confusion, confusion)
    writer.write(files.page, html)


def log_written(paths: Sequence[Path]) -> None:
    """Log which files were written, a line for each folder, and last the page, for that is the one to open."""
    pages = [path for path in paths if path.suffix == ".html"]
    others = [path for path in paths if path not in pages]
    for folder in dict.fromkeys(path.parent for path in others):
        names = ", ".join(path.name for path in others if path.parent == folder)
        log.info("wrote in %s: %s", folder, names)
    for path in pages:
        log.info("to look at it all, open %s", path)


def records_of(saved: "Checkpoint", folder: Path) -> "RunManager | None":
    """The records beside a model, where they are of the command that trained it."""
    from neural_lib.runs import read_results

    try:
        records = read_results(folder)
    except UserError as error:
        log.warning("%s; so the page has no curves", str(error).partition(";")[0])
        return None
    best = records and records.best()
    if not best:
        return None
    figures = ("epoch", "val_accuracy", "val_loss")
    is_its = all(best.get(name) == value for name, value in saved.config.items() if name != "epochs") and all(
        best[name] == saved.metrics.get(name) for name in figures
    )
    return records if is_its else None


def _title(dataset: str) -> str:
    return DATASETS[dataset].title if dataset in DATASETS else dataset


def _which(saved: "Checkpoint", dataset: str) -> str:
    other = "" if dataset == saved.dataset else f" by a network for {_title(saved.dataset)}"
    return f"{_title(dataset)}, test{other}"


def _matrix(saved: "Checkpoint", evaluation: "Evaluation") -> "Tensor":
    from neural_lib.metrics import confusion_matrix

    return confusion_matrix(evaluation.labels, evaluation.predictions, len(saved.classes))


def _mistakes(saved: "Checkpoint", dataset: str, evaluation: "Evaluation", images: "Tensor") -> "np.ndarray":
    from neural_lib import annotate
    from neural_lib.metrics import worst

    shown = worst(evaluation.labels, evaluation.predictions, evaluation.probabilities, MOST_MISTAKES)
    all_images = len(evaluation.labels)
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
