"""The report on a network's test scores: figures on the terminal and in report.json, two pictures and a page."""

import functools
import io
import itertools
import logging
import math
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn.metrics import classification_report
from torch import Tensor, nn

from neural_lib.checkpoint import Checkpoint
from neural_lib.config import TrainConfig, format_value, format_values
from neural_lib.data.catalog import DATASETS, title_of
from neural_lib.data.images import ImagesOnCPU, ImageTensors, pixel_digest, pixels_of
from neural_lib.evaluation import annotate, plots
from neural_lib.evaluation.calibration import MAX_VAL, expected_calibration_error
from neural_lib.evaluation.html import base64_text, render
from neural_lib.evaluation.report_files import REPORT_FORMAT, ReportFiles
from neural_lib.evaluation.scores import (
    Scores,
    confusion_matrix,
    confusions,
    most_confident_mistakes,
    score,
    standard_error,
)
from neural_lib.records import TITLES, Records, figure_text, json_text
from neural_lib.system.errors import UserError
from neural_lib.system.files import Writer

MAX_MISTAKES = 28  # tiles of mistakes.png: four full rows of seven
MAX_CONFUSIONS = 5  # pairs of classes on the terminal
MAX_ROWS = 40  # rows of the table of runs on the terminal; results.csv has all
GAP_WORTH_A_WARNING = 0.01  # difference of validation and test accuracy: one percentage point

# The page.
MAX_IMAGES = 20  # images of a cell of the confusion matrix
MISTAKES_ON_PAGE = 20  # images shown before anything is clicked
CONFUSIONS_ON_PAGE = 10  # pairs of classes in the list
IMAGE_BYTES = 2_800_000  # size of all images as base64; the whole page then stays below 4 MB
SVG_POINTS = 10_000  # a figure with more points, as for a grid of hundreds of runs, is a PNG
MAX_RUNS = 200  # rows of the table of runs
QUALITIES = (  # (encoding, number of images per cell): the first is used with which all images fit
    ({"format": "PNG"}, MAX_IMAGES),
    ({"format": "WEBP", "quality": 80}, MAX_IMAGES),
    ({"format": "WEBP", "quality": 50}, 8),
    ({"format": "WEBP", "quality": 50}, 2),
    ({"format": "WEBP", "quality": 50}, 0),
)
LONGEST_SIDE = 64  # pixels; larger images are reduced to it
FAINTEST = 0.15  # opacity of the lowest value on a colour scale; the highest has 1

log = logging.getLogger(__name__)


class Report:
    """The figures, pictures and page of a network's scores on the test images of a data set.

    images: the scored images, uint8 (N, C, H, W), in the scores' order: a tensor, or ImagesOnCPU. records: the
    records of the command that trained the network; None: the page has no curves and no runs.
    """

    def __init__(
        self,
        saved: Checkpoint,
        dataset: str,
        scores: Scores,
        images: Tensor | ImagesOnCPU,
        records: Records | None = None,
    ) -> None:
        self.saved, self.dataset, self.scores, self.images, self.records = saved, dataset, scores, images, records
        self.title, self.info = title_of(dataset), DATASETS.get(dataset)
        network = "" if dataset == saved.dataset else f" by a network for {title_of(saved.dataset)}"
        self.heading = f"{self.title}, test{network}"
        counts = confusion_matrix(scores.labels, scores.predictions, len(saved.classes))
        self.matrix: list[list[int]] = counts.tolist()  # (true, predicted)

    @functools.cached_property
    def content(self) -> dict:
        """The content of report.json: scikit-learn's figures, unrounded, the confusion matrix, network and data set."""
        saved, scores = self.saved, self.scores
        # The classes are numbers, because names may be equal, or "accuracy", which is one of scikit-learn's keys.
        numbers = [str(label) for label in range(len(saved.classes))]
        table = self._classification(target_names=numbers, output_dict=True)
        classes = [{"class": name, **table[number]} for name, number in zip(saved.classes, numbers, strict=True)]
        for row in [*classes, table["macro avg"], table["weighted avg"]]:
            row["support"] = int(row["support"])
        return {
            **REPORT_FORMAT,
            "dataset": self.dataset,
            "part": "test",
            "images": len(scores.labels),
            "arch": saved.arch,
            "trained_on": saved.dataset,
            "epoch": saved.metrics.get("epoch"),
            "config": saved.config,
            "loss": scores.loss if math.isfinite(scores.loss) else None,
            "accuracy": (scores.labels == scores.predictions).double().mean().item(),
            "validation": self.validation,
            "balanced_accuracy": statistics.mean(row["recall"] for row in classes if row["support"]),
            "macro avg": table["macro avg"],
            "weighted avg": table["weighted avg"],
            "calibration": self._calibration(),
            "classes": classes,
            "confusion_matrix": self.matrix,
        }

    @property
    def validation(self) -> dict | None:
        """The validation accuracy of the saved epoch, and the number of images, None for older model files.

        None if the network has no validation accuracy on this data set.
        """
        accuracy = self.saved.metrics.get("val_accuracy")
        if accuracy is None or self.dataset != self.saved.dataset:
            return None
        return {"accuracy": accuracy, "images": self.saved.training.get("val_images")}

    def _calibration(self) -> dict[str, float | None]:
        # Expected calibration errors, 0 to 1; None for model files of earlier versions, which have no temperature.
        scores, is_right = self.scores, self.scores.labels == self.scores.predictions
        before, after = expected_calibration_error(scores.probabilities, is_right), None
        if scores.uncalibrated is not None:
            before, after = expected_calibration_error(scores.uncalibrated, is_right), before
        temperature = self.saved.calibration.get("temperature")
        return {"temperature": temperature, "ece_before": before, "ece_after": after}

    @property
    def not_calibrated(self) -> str:
        """Why the network has no temperature besides 1, which changes nothing; "" if it has one, or was never tried."""
        count = self.saved.training.get("val_images")
        which = "the" if count is None else f"{min(count, MAX_VAL):,}"
        why = f"on {which} validation image{'' if count == 1 else 's'} a temperature doesn't lower the loss"
        return why if self.saved.calibration.get("temperature") == 1 else ""

    def _classification(self, **options: object) -> object:
        # All classes have a row. Scores of a class that neither occurs nor is predicted are 0.
        options |= {"labels": range(len(self.saved.classes)), "zero_division": 0}
        return classification_report(self.scores.labels, self.scores.predictions, **options)

    @functools.cached_property
    def gap(self) -> tuple[float, str]:
        """Validation accuracy minus test accuracy, and an explanation of the difference.

        (NaN, "") if the network has no validation accuracy on this data set.
        """
        if not self.validation:
            return math.nan, ""
        difference = self.validation["accuracy"] - self.scores.accuracy
        error, val_error = self._errors()
        if self.is_gap_by_chance:
            return difference, f"may be chance (standard errors {100 * val_error:.1f} and {100 * error:.1f} points)"
        if self.info and self.info.shift_note and difference > 0:
            return difference, self.info.shift_note
        harder = "the epoch was chosen on it, or the test is harder"
        return difference, f"hardly chance; {harder if difference > 0 else 'the test images are easier'}"

    @property
    def is_gap_by_chance(self) -> bool:
        """True if validation and test accuracy differ by at most two standard errors of their difference."""
        return abs(self.validation["accuracy"] - self.scores.accuracy) <= 2 * math.hypot(*self._errors())

    def _errors(self) -> tuple[float, float]:
        # Standard errors of test accuracy and of validation accuracy, 0 to 1.
        count = len(self.scores.labels)
        val_error = standard_error(self.validation["accuracy"], self.validation["images"] or count)
        return standard_error(self.scores.accuracy, count), val_error

    @property
    def is_tested_on_train(self) -> bool:
        """True if the scored images were taken out of train/, for want of test/, while those of val/ validated."""
        saved, parts = self.saved, self.saved.training.get("parts", ())
        if self.dataset != saved.dataset or len(self.scores.labels) != saved.training.get("test_images"):
            return False
        config = TrainConfig(**saved.config)
        return (config.test_source(parts), config.val_source(parts)) == ("train", "val")

    @functools.cached_property
    def is_scored_on_val(self) -> bool:
        """True if the scored images are all those of the part val/ that validated the network, wherever they lie."""
        training = self.saved.training
        has_count = len(self.images) == training.get("val_images")
        return has_count and pixel_digest(self.images) == training.get("val_fingerprint")

    # --- on the terminal ---

    def log(self) -> None:
        """Log precision, recall and F1 of each class, the most frequent confusions, and the calibration."""
        names = [annotate.shortened(name) for name in self.saved.classes]
        log.info("classification report\n%s", self._classification(target_names=names, digits=4))
        lines = [
            f"    {names[pair['truth']]} {self.saved.taken_for} {names[pair['predicted']]}: "
            f"{pair['count']:,} of {pair['support']:,}"
            for pair in confusions(self.matrix)[:MAX_CONFUSIONS]
        ]
        if lines:
            log.info("the most frequent confusions\n%s", "\n".join(lines))
        temperature, before, after = self.content["calibration"].values()
        if self.not_calibrated:
            log.info("expected calibration error: %.4f; not calibrated: %s", before, self.not_calibrated)
        elif after is not None:
            figures = (before, after, temperature)
            log.info("expected calibration error: %.4f, after calibration %.4f (temperature %.2f)", *figures)

    def log_accuracy(self) -> None:
        """Log the accuracy, and if val/ validated and train/ gave the test images, both accuracies and their images.

        Warn if the images are those that validated.
        """
        log.info("test accuracy: %.4f", self.scores.accuracy)
        if self.is_tested_on_train:
            rows = [("test, taken out of train/", self.scores.accuracy, len(self.scores.labels))]
            rows.append(("validation, val/", self.validation["accuracy"], self.validation["images"]))
            figures = [
                f"    {name:26}{count:7,} images, accuracy {accuracy:.4f} +- {standard_error(accuracy, count):.4f}"
                for name, accuracy, count in rows
            ]
            advice = "    +-: standard error; train.py --test val scores val/ as test instead"
            text = "there is no test/: images of train/ were tested on, val/ validated\n%s"
            log.info(text, "\n".join([*figures, advice]))
        if self.is_scored_on_val:
            why = "these images validated the network and chose its epoch"
            log.warning("%s: %s: the scores may promise too much", self.title, why)

    def log_gap(self) -> None:
        """Log both accuracies if they are further apart than GAP_WORTH_A_WARNING; warn if chance can't explain it."""
        difference, meaning = self.gap
        if abs(difference) > GAP_WORTH_A_WARNING:
            figures = (self.saved.metrics["val_accuracy"], self.scores.accuracy, 100 * abs(difference), meaning)
            level = logging.INFO if self.is_gap_by_chance else logging.WARNING
            log.log(level, "validation accuracy %.4f, test %.4f, %.1f points apart: %s", *figures)

    # --- the files ---

    def write(self, files: ReportFiles, writer: Writer) -> None:
        """Write the four files. If one fails, a warning is logged and the others are still written."""
        writer.write(files.json, lambda: json_text(**self.content).encode())
        writer.write(files.mistakes, lambda: annotate.encode(self._mistakes(), files.mistakes.suffix))
        writer.write(files.confusion, self._confusion)
        # A path on the page may contain bytes that are no UTF-8.
        writer.write(files.page, lambda: self.html().encode(errors="backslashreplace"))

    def _mistakes(self) -> np.ndarray:
        scores, saved = self.scores, self.saved
        count = int((scores.predictions != scores.labels).sum())
        shown = most_confident_mistakes(scores.labels, scores.predictions, scores.probabilities, MAX_MISTAKES)
        tiles = [
            annotate.annotate_image(
                pixels_of(self.images[index]),
                saved.display_name(int(scores.predictions[index])),
                float(scores.probabilities[index]),
                saved.display_name(int(scores.labels[index])),
            )
            for index in shown
        ]
        which = f"{count} mistake{'' if count == 1 else 's'}"
        mistakes = f"the {len(shown)} most confident of {count:,} mistakes" if count > len(shown) else which
        return annotate.titled_montage(tiles, f"{self.heading}: {mistakes} among {len(scores.labels):,} images")

    def _confusion(self) -> bytes:
        title = f"{self.heading}: {self.scores.accuracy:.2%} of {len(self.scores.labels):,} images right"
        figure = plots.plot_confusion(self.matrix, self.saved.classes, title, self.saved.glyphs)
        return plots.to_bytes(figure, "png")

    def html(self) -> str:
        """The content of report.html, which refers to no other file."""
        saved, scores, report, records, matrix = self.saved, self.scores, self.content, self.records, self.matrix
        mistakes = most_confident_mistakes(scores.labels, scores.predictions, scores.probabilities, MISTAKES_ON_PAGE)
        uris, cells = _as_uris(self.images, images_of_cells(scores, len(matrix)), mistakes)
        number = {index: place for place, index in enumerate(uris)}
        names = [saved.display_name(label) for label in range(len(matrix))]
        shares, scales = plots.shares_and_scales(matrix)
        gap, meaning = self.gap
        return render(
            Path(__file__).with_name("report.html.jinja"),
            saved,
            # Model files of earlier versions lack these.
            training={"command": "", "started": "", "device": "", "processes": 1, **saved.training},
            report=report,
            title=self.title,
            gap=None if math.isnan(gap) else gap,
            meaning=meaning,
            names=names,
            standard_error=standard_error,
            is_tested_on_train=self.is_tested_on_train,
            is_scored_on_val=self.is_scored_on_val,
            not_calibrated=self.not_calibrated,
            figure=_figure(records),
            records=records,
            runs=_rows_of_runs(records, MAX_RUNS) if records and records.count > 1 else [],
            epochs=records.rows_by_run[records.best()["run"]] if records else [],
            seconds=sum(records.rows_by_run[run][-1]["run_duration"] for run in records.finished) if records else None,
            matrix=matrix,
            shades=_shades(shares, scales),
            scales=scales,
            confusions=confusions(matrix)[:CONFUSIONS_ON_PAGE],
            wrong=report["images"] - sum(row[label] for label, row in enumerate(matrix)),
            mistakes=[
                {
                    "uri": uris[index],
                    "truth": names[int(scores.labels[index])],
                    "predicted": names[int(scores.predictions[index])],
                    "probability": float(scores.probabilities[index]),
                }
                for index in mistakes
            ],
            pictures=[[uri, round(float(scores.probabilities[index]), 6)] for index, uri in uris.items()],
            cells={f"{truth},{predicted}": [number[index] for index in indices]
                   for (truth, predicted), indices in cells.items()},
            # If the data set's classes weren't matched by name, the page lists their names beside the network's.
            own_classes=saved.classes if not self.info or set(self.info.classes) <= saved.labels.keys()
            else self.info.classes,
        )  # fmt: skip


def report_results(
    files: ReportFiles,
    plot: Path,
    records: Records,
    writer: Writer,
    saved: Checkpoint,
    scores: Scores,
    images: Tensor | ImagesOnCPU,
) -> None:
    """Log and write the report on the best network of a command, the table of its runs, and the learning curves.

    plot: the file of the learning curves. images: see Report.
    """
    best, report = records.best(), Report(saved, saved.dataset, scores, images, records)
    writer.attempt("the classification report", report.log)
    if records.count > 1:
        writer.attempt("the table of the runs", lambda: log_runs(records))
    report.log_accuracy()
    report.write(files, writer)
    epoch = f"run {best['run']}, epoch {best['epoch']}" if records.count > 1 else f"epoch {best['epoch']}"
    title = f"{saved.arch} on {report.title}: test accuracy {scores.accuracy:.2%} ({epoch})"
    if regularisation := TrainConfig(**saved.config).regularisation():
        title += f"\ntraining with {', '.join(regularisation)}"
    writer.write(plot, lambda: plots.to_bytes(plots.plot_results(records, title), plot.suffix[1:]))
    report.log_gap()


def evaluate_model(
    saved: Checkpoint, model: nn.Module, dataset: str, images: ImageTensors, folder: Path, model_path: Path
) -> bool:
    """Score a saved network on test images and write its report to `folder`; returns True if all files were written.

    model_path: the network's file; the page shows the records beside it.
    """
    suffix, other = ("", "") if dataset == saved.dataset else (f"-{os.path.basename(dataset)}", dataset)
    files = ReportFiles(folder, "--output", suffix, dataset=other)
    records = records_of(saved, Path(os.path.realpath(model_path)).parent)
    writer, report = Writer(), Report(saved, dataset, score(saved, model, images), images.on_cpu(), records)
    report.log()
    report.log_accuracy()
    report.write(files, writer)
    is_complete = writer.finish()
    log_written([path for path in files if writer.is_written(path)])
    return is_complete


def log_written(paths: Sequence[Path]) -> None:
    """Log which files were written, a line for each folder, and last the page, which is the file to open."""
    pages = [path for path in paths if path.suffix == ".html"]
    for folder in dict.fromkeys(path.parent for path in paths if path not in pages):
        names = [path.name for path in paths if path.parent == folder and path not in pages]
        log.info("wrote in %s: %s", folder, ", ".join(names))
    for path in pages:
        log.info("to look at it all, open %s", path)


def records_of(saved: Checkpoint, folder: Path) -> Records | None:
    """Read the records in a model's folder; None if there are none, or they belong to another command's network."""
    try:
        records = Records.read(folder)
    except UserError as error:
        log.warning("%s; so the page has no curves", str(error).partition(";")[0])
        return None
    best = (records and records.best()) or {}
    figures = ("epoch", "val_loss", "val_accuracy")
    expected = {**saved.config, **{name: saved.metrics.get(name) for name in figures}}
    return records if best and expected.items() <= best.items() else None


# --- the page's parts ---


def images_of_cells(scores: Scores, classes: int) -> dict[tuple[int, int], list[int]]:
    """For each cell (true, predicted) that isn't empty: up to MAX_IMAGES indices, most confident first."""
    cells = (scores.labels * classes + scores.predictions).numpy()
    order = np.lexsort((-scores.probabilities.numpy(), cells))  # by cell, then by probability; stable
    _, starts = np.unique(cells[order], return_index=True)
    return {divmod(int(cells[group[0]]), classes): group[:MAX_IMAGES].tolist() for group in np.split(order, starts[1:])}


def _as_uris(
    images: Tensor | ImagesOnCPU, cells: dict[tuple[int, int], list[int]], mistakes: list[int]
) -> tuple[dict[int, str], dict[tuple[int, int], list[int]]]:
    # Encoded images by index, and the indices that are shown for each cell. Images are exact if all of them fit into
    # IMAGE_BYTES, otherwise lossy, and in the end fewer.
    for encode, max_images in QUALITIES:
        shown_of = {cell: indices[:max_images] for cell, indices in cells.items()}
        uris, size = {}, 0
        for index in dict.fromkeys([*mistakes, *itertools.chain(*shown_of.values())]):
            uris[index] = _as_uri(pixels_of(images[index]), **encode)
            size += len(uris[index])
            if size > IMAGE_BYTES and max_images:  # the last quality, without images of cells, is taken in any case
                break
        else:
            break
    return uris, shown_of


def _as_uri(pixels: np.ndarray, **encode: object) -> str:
    # pixels: uint8 (H, W) or (H, W, 3).
    picture, file = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    picture.save(file, **encode)
    return f"data:image/{encode['format'].lower()};base64,{base64_text(file.getvalue())}"


def _figure(records: Records | None) -> str:
    # The figure of plot.png; "" if no run has a second epoch, because a curve needs two points.
    if not records or max(len(records.rows_by_run[run]) for run in records.finished) < 2:
        return ""
    figure, points = plots.plot_results(records, ""), sum(map(len, records.rows_by_run.values()))
    kind, name = ("svg", "svg+xml") if points <= SVG_POINTS else ("png", "png")
    return f"data:image/{name};base64,{base64_text(plots.to_bytes(figure, kind, transparent=True))}"


def _shades(shares: np.ndarray, scales: dict[bool, tuple[float, float]]) -> list[list[float]]:
    # The opacity of each cell of the confusion matrix. shares, scales: see plots.shares_and_scales.
    is_right = np.eye(len(shares), dtype=bool)
    low, high = (np.where(is_right, *ends) for ends in zip(scales[True], scales[False], strict=True))
    position = np.divide(shares - low, high - low, out=np.ones_like(shares), where=high > low)
    return (FAINTEST + (1 - FAINTEST) * position).tolist()


# --- the runs as a table ---


def _rows_of_runs(records: Records, max_count: int) -> list[dict]:
    # The finished runs, the best first, then the failed: at most max_count.
    rows = []
    for run in [*records.ranked(), *sorted(records.failures)][:max_count]:
        row = {"run": run, "label": records.label(run), "failure": records.failures.get(run, "")}
        if run in records.finished:
            row |= {"best": records.best_of(run), "seconds": records.rows_by_run[run][-1]["run_duration"]}
        rows.append(row)
    return rows


def log_runs(records: Records) -> None:
    """Log the grid's runs, and means over the seeds if there are several."""
    log.info("the runs, by validation %s\n%s", records.monitor, runs_table(records))
    if over_seeds := spreads_text(records):
        log.info("validation accuracy, mean and standard deviation over the seeds\n%s", over_seeds)


def runs_table(records: Records, width: int | None = None) -> str:
    """The grid's runs as a table, the best first and the failed last.

    width: terminal columns; default: the current terminal's. If columns don't fit, all hyper-parameters share one.
    """
    width = width or shutil.get_terminal_size().columns
    table = _table(records)
    if Console(width=10_000).measure(table).maximum > width:
        table = _table(records, is_joint=True)
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False, color_system=None, legacy_windows=False).print(table)
    plain = text.getvalue().replace("\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-")  # some terminals can't show it
    left_out = len(records.finished) + len(records.failures) - MAX_ROWS
    rest = f"\n and {left_out} more in {records.csv_path}" if left_out > 0 else ""
    return "\n".join(line.rstrip() for line in plain.splitlines()).strip("\n") + rest


def spreads_text(records: Records) -> str:
    """A line for each group of runs that differ only in their seed: mean, standard deviation, number of runs."""
    return "\n".join(
        f"    {format_values(group) or 'all'}: {mean:.4f} +- {deviation:.4f} (n = {count})"
        for group, mean, deviation, count in records.spreads()
    )


def _table(records: Records, is_joint: bool = False) -> Table:
    # is_joint: all hyper-parameters share a column.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("run", justify="right")
    for title in ["hyper-parameters"] if is_joint else records.swept:
        table.add_column(title, justify="left" if is_joint else "right", overflow="fold")
    measures = [*(["val_f1"] if records.monitor == "f1" else []), "val_accuracy", "val_loss", "train_accuracy"]
    for title in (*(TITLES[name] for name in measures), "epoch", "seconds"):
        table.add_column(title, justify="right")
    for row in _rows_of_runs(records, MAX_ROWS):
        values = [format_values(row["label"])] if is_joint else [format_value(each) for each in row["label"].values()]
        figures = ["failed"]
        if not row["failure"]:
            figures = [figure_text(row["best"][name]) for name in measures]
            figures += [str(row["best"]["epoch"]), f"{row['seconds']:.1f}"]
        table.add_row(str(row["run"]), *values, *figures)
    return table
