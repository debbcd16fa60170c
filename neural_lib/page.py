"""report.html: one self-contained page about a trained network, from the figures of report.json and results.json.

The template beside this file holds all markup, style and script; here are the figures that it shows.
"""

import base64
import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from PIL import Image

from neural_lib import metrics, plots
from neural_lib.config import TrainConfig, flag_of, shown
from neural_lib.datasets import DATASETS

if TYPE_CHECKING:
    from torch import Tensor

    from neural_lib.checkpoint import Checkpoint
    from neural_lib.evaluation import Evaluation
    from neural_lib.runs import RunManager

MOST_IMAGES = 20  # of a cell of the confusion matrix
MOST_MISTAKES = 20  # shown before anything is clicked
MOST_CONFUSIONS = 10  # pairs of classes in the list
IMAGE_BYTES = 2_800_000  # of all images, as base64: with the rest of the page it stays below 4 MB
SVG_POINTS = 10_000  # a figure of more, as of a grid of hundreds of runs, is a PNG
MOST_RUNS = 200  # in the table
QUALITIES = (  # how images are encoded, and how many of a cell, until they fit
    ({"format": "PNG"}, MOST_IMAGES),
    ({"format": "WEBP", "quality": 80}, MOST_IMAGES),
    ({"format": "WEBP", "quality": 50}, 8),
    ({"format": "WEBP", "quality": 50}, 2),
)
LONGEST_SIDE = 64  # pixels; larger images are reduced to it
LEAST_SPAN = 0.1  # of the diagonal's colour scale
FAINTEST = 0.15  # opacity of the lowest value on either colour scale, 1 being the highest's

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,  # names come from data and files
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_environment.filters["shown"] = shown


def render(
    saved: "Checkpoint",
    report: dict,
    evaluation: "Evaluation",
    images: "Tensor",
    title: str,
    gap: float,
    meaning: str,
    records: "RunManager | None" = None,
) -> str:
    """The page, as HTML.

    report: report.json's content. images: the scored ones (N, C, H, W), uint8, in the evaluation's order. title: the
    data set's. gap, meaning: validation accuracy less test accuracy, and what that means, as report.gap gives them.
    records: of the command that trained the network; without them there are no curves and no runs.
    """
    matrix = report["confusion_matrix"]
    worst = metrics.worst(evaluation.labels, evaluation.predictions, evaluation.probabilities, MOST_MISTAKES)
    uris, cells = _as_uris(images, images_of_cells(evaluation, len(matrix)), worst)
    number = {index: place for place, index in enumerate(uris)}
    names, scales = [saved.written(label) for label in range(len(matrix))], _scales(matrix)
    return _environment.get_template("report.html.jinja").render(
        saved=saved,
        training={"command": "", "started": "", "device": "", "processes": 1, **saved.training},  # or of an older file
        report=report,
        title=title,
        gap=None if math.isnan(gap) else gap,
        meaning=meaning,
        names=names,
        standard_error=metrics.standard_error(report["accuracy"], report["images"]),
        figure=_figure(records),
        records=records,
        runs=list(itertools.islice(_rows_of_runs(records), MOST_RUNS)) if records and records.count > 1 else [],
        epochs=records.rows_of[records.best()["run"]] if records else [],
        seconds=sum(records.rows_of[run][-1]["run_duration"] for run in records.finished) if records else None,
        matrix=_shaded(matrix, scales),
        scales=scales,
        confusions=metrics.confusions(matrix)[:MOST_CONFUSIONS],
        wrong=report["images"] - sum(row[label] for label, row in enumerate(matrix)),
        mistakes=[
            {
                "uri": uris[index],
                "truth": names[int(evaluation.labels[index])],
                "predicted": names[int(evaluation.predictions[index])],
                "probability": float(evaluation.probabilities[index]),
            }
            for index in worst
        ],
        pictures=[[uri, round(float(evaluation.probabilities[index]), 6)] for index, uri in uris.items()],
        cells={f"{truth},{predicted}": [number[index] for index in indices]
               for (truth, predicted), indices in cells.items()},
        own_classes=DATASETS[report["dataset"]].classes if report["dataset"] in DATASETS else saved.classes,
        defaults=TrainConfig().to_dict(),
        flag_of=flag_of,
    )  # fmt: skip


def images_of_cells(evaluation: "Evaluation", classes: int) -> dict[tuple[int, int], list[int]]:
    """For each cell (true, predicted) that isn't empty: up to MOST_IMAGES places in the evaluation, surest first."""
    cells = (evaluation.labels * classes + evaluation.predictions).numpy()
    order = np.lexsort((-evaluation.probabilities.numpy(), cells))  # by cell, then by probability; stable
    _, starts = np.unique(cells[order], return_index=True)
    return {
        divmod(int(cells[group[0]]), classes): group[:MOST_IMAGES].tolist() for group in np.split(order, starts[1:])
    }


def _as_uris(
    images: "Tensor", cells: dict[tuple[int, int], list[int]], mistakes: list[int]
) -> tuple[dict[int, str], dict[tuple[int, int], list[int]]]:
    # by index, and what of the cells is shown: exact images if they are small enough, else lossy ones, else fewer
    for encode, most in QUALITIES:
        shown_of = {cell: indices[:most] for cell, indices in cells.items()}
        uris, size = {}, 0
        for index in dict.fromkeys([*mistakes, *itertools.chain(*shown_of.values())]):
            uris[index] = _as_uri(images[index].permute(1, 2, 0).squeeze(2).numpy(), **encode)
            size += len(uris[index])
            if size > IMAGE_BYTES:
                break
        else:
            return uris, shown_of
    return {index: uris[index] for index in mistakes}, dict.fromkeys(cells, [])


def _as_uri(pixels: np.ndarray, **encode: object) -> str:
    # (H, W) or (H, W, 3), uint8
    picture, file = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    picture.save(file, **encode)
    return _data_uri(f"image/{encode['format'].lower()}", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _figure(records: "RunManager | None") -> str:
    # plot.png's; nothing where no run has a second epoch, for a curve needs two points
    if not records or max(len(records.rows_of[run]) for run in records.finished) < 2:
        return ""
    figure, points = plots.plot_results(records, ""), sum(map(len, records.rows_of.values()))
    kind, name = ("svg", "svg+xml") if points <= SVG_POINTS else ("png", "png")
    return _data_uri(f"image/{name}", plots.to_bytes(figure, kind, transparent=True))


def _rows_of_runs(records: "RunManager") -> Iterator[dict]:
    # the best first, those that failed last
    for run in records.ranked():
        yield {"run": run, "label": records.label(run), "best": records.best_of(run),
               "seconds": records.rows_of[run][-1]["run_duration"], "failure": ""}  # fmt: skip
    for run in sorted(records.failures):
        yield {"run": run, "label": records.label(run), "best": {}, "seconds": None, "failure": records.failures[run]}


def _scales(matrix: list[list[int]]) -> dict[bool, tuple[float, float]]:
    # lowest and highest share of the true class: of the diagonal, whose scale spans LEAST_SPAN or more, and of the rest
    shares = {True: [], False: []}
    for truth, row in enumerate(matrix):
        for predicted, count in enumerate(row):
            if count:
                shares[truth == predicted].append(count / sum(row))
    right, wrong = (max(shares[each], default=0.0) for each in (True, False))
    return {True: (max(0.0, min([right - LEAST_SPAN, *shares[True]])), right), False: (0.0, wrong)}


def _shaded(matrix: list[list[int]], scales: dict[bool, tuple[float, float]]) -> list[list[dict]]:
    # each cell's count and its place on its colour scale
    def cell(truth: int, predicted: int) -> dict:
        is_right, count = truth == predicted, matrix[truth][predicted]
        low, high = scales[is_right]
        place = (count / max(sum(matrix[truth]), 1) - low) / (high - low) if high > low else 1.0
        return {"count": count, "right": is_right, "shade": FAINTEST + (1 - FAINTEST) * place}

    return [[cell(truth, predicted) for predicted in range(len(matrix))] for truth in range(len(matrix))]
