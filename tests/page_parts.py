"""A made-up report with everything on its page: awkward names, a grid with a failed run, mistakes to click."""

import json
from pathlib import Path

import numpy as np
import torch

from neural_lib.checkpoint import Checkpoint
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import ImageTensors
from neural_lib.evaluation.copies import Copy
from neural_lib.evaluation.data_check import DataCheck, Place
from neural_lib.evaluation.label_check import Suspect
from neural_lib.evaluation.report import Report
from neural_lib.evaluation.report_files import ReportFiles
from neural_lib.evaluation.scores import Scores
from neural_lib.lenet import LeNet
from neural_lib.records import MEASURES, Records
from neural_lib.system.files import Writer
from neural_lib.training.runs import RunManager

NAMES = ['<b>&"', "it's", "$a_{$ {{ 1 }}", "</script><script>alert(1)</script>", "é ü", "a name of several words"]
COUNT = 400


def images() -> ImageTensors:
    """Images (N, 1, 28, 28), each with its own number in its first two pixels and in its name."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 28, 28), dtype=np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.divmod(np.arange(COUNT), 256)
    names = [f'<i>"&{number}.png' for number in range(COUNT)]
    return ImageTensors(torch.from_numpy(pixels), scores().labels, names=names)


def scores() -> Scores:
    """Of 6 classes: most images right, one pair confused more often than 20 times, some cells empty."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(COUNT) % len(NAMES)
    predictions = torch.where(torch.rand(COUNT, generator=generator) < 0.9, labels, (labels + 1) % len(NAMES))
    predictions[(labels == 2) & (torch.rand(COUNT, generator=generator) < 0.6)] = 5
    probabilities = 0.2 + 0.8 * torch.rand(COUNT, generator=generator)
    accuracy = (labels == predictions).double().mean().item()
    return Scores(0.5, accuracy, 0.8, labels, predictions, probabilities)


def make_check() -> DataCheck:
    """Three doubtful labels, of which two are worth a second look, a pair of near-copies, and samples."""
    parts = {"training": images().subset(torch.arange(200)), "validation": images().subset(torch.arange(200, 300))}
    doubtful = [
        (Place("training", 7), Suspect(7, 0, 1, 0.0123, 0.9)), (Place("validation", 5), Suspect(205, 2, 3, 0.04, 0.8)),
        (Place("training", 9), Suspect(9, 3, 4, 0.4, 0.5)),
    ]  # fmt: skip
    return DataCheck(
        parts=parts | {"test": images().subset(torch.arange(300, 400))}, total=COUNT, checked=300, doubtful=doubtful,
        suspects=2, copies=[Copy("training", 11, "test", 4, False)], samples=images().subset(torch.arange(16)),
        is_distorted=True,
    )  # fmt: skip


def write_grid(folder: Path, epochs: int = 3) -> RunManager:
    """Records of 2 x 2 runs, over learning rates and seeds, and of two more that failed."""
    records = RunManager({"lr": [0.01, 0.001, 10.0], "seed": [1, 2]}, folder)
    for number in range(1, 5):
        score = [0.5 + 0.07 * number + 0.01 * epoch * (-1) ** number for epoch in range(1, epochs + 1)]
        names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1")
        rows = [dict(zip(names, (1 - each, each + 0.02, 1.1 - each, each, each - 0.01), strict=True)) for each in score]
        durations = [{"epoch_duration": 1.5, "run_duration": 1.5 * epoch} for epoch in range(1, epochs + 1)]
        rows = [dict.fromkeys(MEASURES) | row | duration for row, duration in zip(rows, durations, strict=True)]
        records.begin_run(number, rows=rows)
        records.end_run()
    for run in records.runs[4:]:
        records.fail_run(records.runs.index(run) + 1, "the training loss became nan <at> epoch 1")
    return records


def make_report(records: Records | None = None) -> Report:
    """The report of `scores` on `images`, with the records of a grid and a check of the data, or without."""
    best = records.best() if records else {"epoch": 3, "val_accuracy": 0.9, "val_loss": 0.4}
    saved = Checkpoint(
        arch="lenet", arch_args={}, state_dict={}, dataset="digits", classes=NAMES,
        image_size=28, mean=[0.2], std=[0.3], placement=DATASETS["digits"].placement._asdict(),
        config={"epochs": 3, "lr": 0.01, "seed": 1},
        metrics={name: best[name] for name in ("epoch", "val_accuracy", "val_loss")},
        training={"command": "python train.py --model 'a <b> c/model.pth'", "device": "cpu, 2 threads",
                  "started": "2026-11-26T01:02:03+00:00", "processes": 2, "data": "data"},
    )  # fmt: skip
    torch.manual_seed(0)
    model = LeNet(1, len(NAMES)).eval()
    return Report(saved, "digits", scores(), images(), records, model, make_check() if records else None)


def write(folder: Path, records: Records | None = None) -> dict:
    """Write the report's files into `folder`; returns report.json's content."""
    writer = Writer()
    make_report(records).write(ReportFiles(folder, "--model"), writer)
    assert writer.finish()
    return json.loads((folder / "report.json").read_text())
