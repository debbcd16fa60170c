"""The report on a network's test scores: figures on the terminal and in report.json, two pictures and a page."""

import functools
import io
import itertools
import logging
import math
import os
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn.metrics import classification_report
from torch import nn

from neural_lib.checkpoint import Checkpoint
from neural_lib.config import TrainConfig, format_value, format_values
from neural_lib.data.catalog import DATASETS, title_of
from neural_lib.data.custom import path_of, read_originals
from neural_lib.data.images import ImageTensors, Normalisation, Parts, pixel_digest, pixels_of
from neural_lib.evaluation import annotate, plots
from neural_lib.evaluation.calibration import MAX_VAL, expected_calibration_error
from neural_lib.evaluation.copies import Copy
from neural_lib.evaluation.data_check import DataCheck, Place, check_data
from neural_lib.evaluation.gradcam import heat_maps
from neural_lib.evaluation.html import base64_text, render
from neural_lib.evaluation.label_check import Suspect
from neural_lib.evaluation.report_files import LABELS_COLUMNS, REPORT_FORMAT, ReportFiles
from neural_lib.evaluation.scores import (
    Scores,
    confusion_matrix,
    confusions,
    most_confident_mistakes,
    score,
    standard_error,
)
from neural_lib.records import TITLES, Records, figure_text, json_text
from neural_lib.system.errors import UserError, escaped, printable
from neural_lib.system.files import Writer, csv_bytes

MAX_MISTAKES = 28  # tiles of mistakes.png: four full rows of seven
MAX_CONFUSIONS = 5  # pairs of classes on the terminal
MAX_ROWS = 40  # rows of the table of runs on the terminal; results.csv has all
GAP_WORTH_A_WARNING = 0.01  # difference of validation and test accuracy: one percentage point

# The page.
MAX_SUSPECTS = 50  # images with a doubtful label, on the page and in report.json
SUSPECTS_IN_LOG = 10
MAX_COPIES = 20  # pairs of near-copies
MAX_ORIGINALS = 200  # test images that are shown as their files have them
MAX_IMAGES = 20  # images of a cell of the confusion matrix
MISTAKES_ON_PAGE = 20  # images shown before anything is clicked
CONFUSIONS_ON_PAGE = 10  # pairs of classes in the list
IMAGE_BYTES = 2_800_000  # size of all images as base64; the whole page then stays below 4 MB
SVG_POINTS = 10_000  # a figure with more points, as for a grid of hundreds of runs, is a PNG
MAX_RUNS = 200  # rows of the table of runs
MAX_MATRIX = 200  # classes whose confusion matrix is on the page
QUALITIES = (  # (encoding, number of images per cell): the first is used with which all images fit
    ({"format": "PNG"}, MAX_IMAGES),
    ({"format": "WEBP", "quality": 80}, MAX_IMAGES),
    ({"format": "WEBP", "quality": 50}, 8),
    ({"format": "WEBP", "quality": 50}, 2),
    ({"format": "WEBP", "quality": 50}, 0),
)
LONGEST_SIDE = 160  # pixels; larger images are reduced to it
EXACT_SIDE = 64  # pixels; images with a longer side are always lossy
FAINTEST = 0.15  # opacity of the lowest value on a colour scale; the highest has 1

log = logging.getLogger(__name__)


class Report:
    """The figures, pictures and page of a network's scores on the test images of a data set.

    images: the scored images, in the scores' order. records: those of the command that trained the network; None: the
    page has no curves and no runs. model: the network, on the images' device; None: the page doesn't show what decided.
    check: of the data set that the network was trained on; None: the report says nothing of it.
    """

    def __init__(
        self,
        saved: Checkpoint,
        dataset: str,
        scores: Scores,
        images: ImageTensors,
        records: Records | None = None,
        model: nn.Module | None = None,
        check: DataCheck | None = None,
    ) -> None:
        self.saved, self.dataset, self.scores, self.images, self.records = saved, dataset, scores, images, records
        self.model, self.check = model, check
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
            "mistakes": [
                {
                    "path": self.path(self.images, index),
                    "label": saved.classes[int(scores.labels[index])],
                    "predicted": saved.classes[int(scores.predictions[index])],
                    "probability": round(float(scores.probabilities[index]), 6),
                }
                for index in self.mistakes
            ],
            "labels": self._labels(),
            "copies": self._copies(),
        }

    @functools.cached_property
    def mistakes(self) -> list[int]:
        """The indices of all wrong predictions, the most confident first."""
        scores = self.scores
        return most_confident_mistakes(scores.labels, scores.predictions, scores.probabilities, len(scores.labels))

    def path(self, images: ImageTensors, index: int) -> str:
        """The path of an image's file; of images in no file their place, such as test[17]."""
        return path_of(self.dataset, images.name(index))

    def path_at(self, place: Place) -> str:
        """The path of an image of the check."""
        return self.path(self.check.parts[place.part], place.index)

    def _labels(self) -> dict | None:
        # The images with labels worth a second look; None if the labels weren't checked.
        if not self.check:
            return None
        rows = [
            {
                "part": place.part,
                **dict(zip(LABELS_COLUMNS, self._label_row(place, each), strict=True)),
                "suggested": each.suggested,
            }
            for place, each in self.suspects
        ]
        return {"images": self.check.checked, "found": self.check.suspects, "suspects": rows}

    @property
    def suspects(self) -> list[tuple[Place, Suspect]]:
        """The images with the labels that are most probably wrong; none if the labels weren't checked."""
        return self.check.doubtful[: min(self.check.suspects, MAX_SUSPECTS)] if self.check else []

    def _label_row(self, place: Place, suspect: Suspect) -> tuple[str, str, str, float]:
        # The values of LABELS_COLUMNS.
        classes = self.saved.classes
        return self.path_at(place), classes[suspect.label], classes[suspect.suggestion], suspect.probability

    def _copies(self) -> list[dict] | None:
        # Pairs of near-copies, the path of each image by its part; None if none were looked for.
        if not self.check:
            return None
        return [{place.part: self.path_at(place) for place in _places(each)} for each in self.check.copies]

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
        if difference > 0:
            return difference, "hardly chance; the epoch was chosen on it, or the test is harder"
        return difference, "hardly chance; the test images are easier, or labels are wrong"

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
        return has_count and pixel_digest(self.images.on_cpu()) == training.get("val_fingerprint")

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

    def log_check(self) -> None:
        """Log the images with labels worth a second look, and how many near-copies are in several parts.

        Copies with equal pixels were named when user images were read.
        """
        if not self.check:
            return
        found, classes = self._labels(), [annotate.shortened(name) for name in self.saved.classes]
        of = f"of {found['images']:,} training and validation images" + self._share()
        if not found["images"]:
            log.info("the labels could not be checked: too few images of each class, or features that don't vary")
        elif not found["found"]:
            log.info("labels worth a second look: none %s", of)
        else:
            lines = [
                f"    {self._name_at(place)}: {classes[each.label]} ({each.probability:.1%}), looks like "
                f"{classes[each.suggestion]} ({each.suggested:.1%})"
                for place, each in self.suspects[:SUSPECTS_IN_LOG]
            ]
            if found["found"] > SUSPECTS_IN_LOG:
                lines.append(f"    and {found['found'] - SUSPECTS_IN_LOG:,} more: labels.csv")
            log.info("labels worth a second look: %s %s\n%s", f"{found['found']:,}", of, "\n".join(lines))
        if copies := [each for each in self.check.copies if not each.is_equal]:
            example = " and ".join(map(self._name_at, _places(copies[0])))
            images = f"{len(copies):,} validation or test image" + ("s are" if len(copies) > 1 else " is")
            log.warning("%s nearly equal to an image of an earlier part: %s; report.html shows them", images, example)

    def _name_at(self, place: Place) -> str:
        return printable(self.check.parts[place.part].name(place.index))

    def _share(self) -> str:
        compared = sum(map(len, self.check.parts.values()))
        return f", a share of {compared / self.check.total:.0%}" * (compared < self.check.total)

    # --- the files ---

    def write(self, files: ReportFiles, writer: Writer) -> None:
        """Write the files. If one fails, a warning is logged and the others are still written."""
        writer.write(files.json, lambda: json_text(**self.content).encode())
        writer.write(files.mistakes, lambda: annotate.encode(self._mistakes(), files.mistakes.suffix))
        writer.write(files.confusion, self._confusion)
        if self.check:
            writer.write(files.labels, self._labels_table)
        # A path on the page may contain bytes that are no UTF-8.
        writer.write(files.page, lambda: self.html().encode(errors="backslashreplace"))

    def _mistakes(self) -> np.ndarray:
        scores, saved = self.scores, self.saved
        count, shown = len(self.mistakes), self.mistakes[:MAX_MISTAKES]
        tiles = [
            annotate.annotate_image(
                self.picture(self.images, index),
                saved.display_name(int(scores.predictions[index])),
                float(scores.probabilities[index]),
                saved.display_name(int(scores.labels[index])),
                caption=printable(self.images.name(index)),
            )
            for index in shown
        ]
        which = f"{count} mistake{'' if count == 1 else 's'}"
        mistakes = f"the {len(shown)} most confident of {count:,} mistakes" if count > len(shown) else which
        return annotate.titled_montage(tiles, f"{self.heading}: {mistakes} among {len(scores.labels):,} images")

    @functools.cached_property
    def _originals(self) -> dict[str, np.ndarray]:
        # By name: the pictures of files, if these have more pixels than the network's images.
        shown = [*self.mistakes[:MAX_MISTAKES], *itertools.chain(*self._cells.values())]
        images = [(self.images, index) for index in dict.fromkeys(shown)][:MAX_ORIGINALS]
        if self.check:
            places = [place for place, _ in self.suspects]
            places += itertools.chain(*map(_places, self.check.copies[:MAX_COPIES]))
            images += [(self.check.parts[place.part], place.index) for place in places]
        names = [name for part, index in images if (name := part.name(index))]
        found = read_originals(self.dataset, names, annotate.TILE_WIDTH)
        longest = min(self.saved.image_size, annotate.TILE_WIDTH - 1)
        return {name: each for name, each in found.items() if max(each.shape[:2]) > longest}

    def picture(self, images: ImageTensors, index: int) -> np.ndarray:
        """What is shown of an image: its file's picture, whole, if that has more pixels, else the network's image.

        Returns uint8 (H, W) or RGB (H, W, 3).
        """
        original = self._originals.get(images.name(index))
        return pixels_of(images.on_cpu()[index]) if original is None else original

    @functools.cached_property
    def _cells(self) -> dict[tuple[int, int], list[int]]:
        # The images of each cell of the confusion matrix on the page.
        return images_of_cells(self.scores, len(self.matrix)) if len(self.matrix) <= MAX_MATRIX else {}

    def _labels_table(self) -> bytes:
        rows = [self._label_row(place, suspect) for place, suspect in self.check.doubtful]
        cells = [(escaped(path), *names, f"{probability:.4f}") for path, *names, probability in rows]
        return csv_bytes([LABELS_COLUMNS, *cells])

    def _confusion(self) -> bytes:
        title = f"{self.heading}: {self.scores.accuracy:.2%} of {len(self.scores.labels):,} images right"
        figure = plots.plot_confusion(self.matrix, self.saved.classes, title, self.saved.glyphs)
        return plots.to_bytes(figure, "png")

    def html(self) -> str:
        """The content of report.html, which refers to no other file."""
        saved, scores, report, records, matrix = self.saved, self.scores, self.content, self.records, self.matrix
        names = [saved.display_name(label) for label in range(len(matrix))]
        mistakes = self.mistakes[:MISTAKES_ON_PAGE]
        heat, check = self._heat(mistakes), self.check and self._check_on_page(names)
        room = IMAGE_BYTES - sum(map(len, (*heat.values(), *_uris_of(check))))
        uris, cells = _as_uris(functools.partial(self.picture, self.images), self._cells, mistakes, room)
        number = {index: place for place, index in enumerate(uris)}
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
                    "name": self.images.name(index),
                    "heat": heat.get(index, ""),
                }
                for index in mistakes
            ],
            pictures=[
                [uri, round(float(scores.probabilities[index]), 6), self.images.name(index)]
                for index, uri in uris.items()
            ],
            is_photo=bool(self._originals) or saved.image_size > EXACT_SIDE,
            folder=path_of(self.dataset, ""),
            check=check,
            share=self.check and self._share(),
            cells={f"{truth},{predicted}": [number[index] for index in indices]
                   for (truth, predicted), indices in cells.items()},
            # If the data set's classes weren't matched by name, the page lists their names beside the network's.
            own_classes=saved.classes if not self.info or set(self.info.classes) <= saved.labels.keys()
            else self.info.classes,
        )  # fmt: skip

    def _heat(self, indices: list[int]) -> dict[int, str]:
        # What decided for the predicted class, drawn over the network's images, as URIs by index; {} for networks
        # without such a map.
        if self.model is None or not indices:
            return {}
        images = self.images.subset(torch.tensor(indices))[:][0]
        classes = self.scores.predictions[indices].to(images.device)
        normalise = Normalisation(self.saved.mean, self.saved.std).to(images.device)
        try:
            maps = heat_maps(self.model, normalise(images), classes)
        except RuntimeError as error:  # such as too little memory: the page is worth more
            log.warning("the report can't show what decided: %s", " ".join(str(error).split()))
            return {}
        if maps is None:
            return {}
        return {
            index: _own_uri(annotate.draw_heat(pixels_of(image), heat))
            for index, image, heat in zip(indices, images, maps.cpu().numpy(), strict=True)
        }

    def _check_on_page(self, names: list[str]) -> dict:
        # The sections on the data set that the network was trained on.
        def shown(place: Place) -> dict:
            images = self.check.parts[place.part]
            picture = self.picture(images, place.index)
            label = names[int(images.labels[place.index])]
            return {"uri": _own_uri(picture), "part": place.part, "name": images.name(place.index), "label": label}

        samples, classes = self.check.samples[:]
        found = self.content["labels"]
        return {
            "images": found["images"],
            "found": found["found"],
            "suspects": [
                {**shown(place), "suggestion": names[each.suggestion],
                 "probability": each.probability, "suggested": each.suggested}
                for place, each in self.suspects
            ],
            "samples": [
                {"uri": _own_uri(pixels_of(image)), "label": names[label]}
                for image, label in zip(samples, classes.tolist(), strict=True)
            ],
            "is_distorted": self.check.is_distorted,
            "copies": [list(map(shown, _places(each))) for each in self.check.copies[:MAX_COPIES]],
            "copies_found": len(self.check.copies),
        }  # fmt: skip


def report_results(
    files: ReportFiles,
    plot: Path,
    records: Records,
    writer: Writer,
    saved: Checkpoint,
    model: nn.Module,
    scores: Scores,
    parts: Parts,
) -> None:
    """Log and write the report on the best network of a command, the table of its runs, and the learning curves.

    plot: the file of the learning curves. model: the network. parts: of the data set, on its device.
    """
    best, report = records.best(), Report(saved, saved.dataset, scores, parts.test, records, model)
    writer.attempt("the classification report", report.log)
    if records.count > 1:
        writer.attempt("the table of the runs", lambda: log_runs(records))
    report.log_accuracy()
    write_checked(report, parts, files, writer)
    epoch = f"run {best['run']}, epoch {best['epoch']}" if records.count > 1 else f"epoch {best['epoch']}"
    title = f"{saved.arch} on {report.title}: test accuracy {scores.accuracy:.2%} ({epoch})"
    if regularisation := TrainConfig(**saved.config).regularisation():
        title += f"\ntraining with {', '.join(regularisation)}"
    writer.write(plot, lambda: plots.to_bytes(plots.plot_results(records, title), plot.suffix[1:]))
    report.log_gap()


def write_checked(report: Report, parts: Parts, files: ReportFiles, writer: Writer) -> None:
    """Check the images that the network was trained on, if they are at hand, and write the report, with or without it.

    A check that fails is tried again when the writer tries again what failed; then the report is written once more.
    """

    def check() -> None:
        check = check_data(report.saved, report.model, parts)
        checked = Report(
            report.saved, report.dataset, report.scores, report.images, report.records, report.model, check
        )
        checked.log_check()
        checked.write(files, writer)

    if not (parts.train and writer.attempt("the check of the labels", check)):
        report.write(files, writer)


def evaluate_model(
    saved: Checkpoint, model: nn.Module, dataset: str, parts: Parts, folder: Path, model_path: Path
) -> bool:
    """Score a saved network on test images and write its report to `folder`; returns True if all files were written.

    model_path: the network's file; the page shows the records beside it.
    """
    suffix, other = ("", "") if dataset == saved.dataset else (f"-{os.path.basename(dataset)}", dataset)
    files = ReportFiles(folder, "--output", suffix, dataset=other)
    records = records_of(saved, Path(os.path.realpath(model_path)).parent)
    writer, scores = Writer(), score(saved, model, parts.test)
    report = Report(saved, dataset, scores, parts.test, records, model)
    report.log()
    report.log_accuracy()
    write_checked(report, parts, files, writer)
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


def _places(copy: Copy) -> tuple[Place, Place]:
    return Place(copy.part, copy.index), Place(copy.other_part, copy.other_index)


def images_of_cells(scores: Scores, classes: int) -> dict[tuple[int, int], list[int]]:
    """For each cell (true, predicted) that isn't empty: up to MAX_IMAGES indices, most confident first."""
    cells = (scores.labels * classes + scores.predictions).numpy()
    order = np.lexsort((-scores.probabilities.numpy(), cells))  # by cell, then by probability; stable
    _, starts = np.unique(cells[order], return_index=True)
    return {divmod(int(cells[group[0]]), classes): group[:MAX_IMAGES].tolist() for group in np.split(order, starts[1:])}


def _as_uris(
    picture: Callable[[int], np.ndarray], cells: dict[tuple[int, int], list[int]], mistakes: list[int], room: int
) -> tuple[dict[int, str], dict[tuple[int, int], list[int]]]:
    # Encoded images by index, and the indices that are shown for each cell. Images are exact if all of them fit into
    # `room` bytes, otherwise lossy, and in the end fewer. picture: see Report.picture.
    for encode, max_images in QUALITIES:
        shown_of = {cell: indices[:max_images] for cell, indices in cells.items()}
        uris, size = {}, 0
        for index in dict.fromkeys([*mistakes, *itertools.chain(*shown_of.values())]):
            uris[index] = _as_uri(picture(index), **encode)
            size += len(uris[index])
            if size > room and max_images:  # the last quality, without images of cells, is taken in any case
                break
        else:
            break
    return uris, shown_of


def _uris_of(values: object) -> Iterator[str]:
    # The encoded images in nested lists and dicts.
    if isinstance(values, str):
        yield from [values] if values.startswith("data:") else []
    elif isinstance(values, dict | list):
        for each in values.values() if isinstance(values, dict) else values:
            yield from _uris_of(each)


def _own_uri(pixels: np.ndarray) -> str:
    # A picture of a section with few pictures.
    return _as_uri(pixels, **QUALITIES[0][0])


def _as_uri(pixels: np.ndarray, **encode: object) -> str:
    # pixels: uint8 (H, W) or (H, W, 3).
    if max(pixels.shape[:2]) > EXACT_SIDE and encode["format"] == "PNG":
        encode = QUALITIES[1][0]
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
