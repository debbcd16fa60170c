import csv
import math

import pytest
import torch
from torch import nn

from neural_lib.evaluation.report import runs_table
from neural_lib.evaluation.scores import Scores
from neural_lib.records import MEASURES, Records, read_json
from neural_lib.system.errors import UserError
from neural_lib.training.runs import RunBuilder, RunManager


def test_a_run_for_each_combination_the_last_name_varying_fastest():
    runs = RunBuilder.get_runs({"lr": [0.01, 0.001], "batch_size": [100, 1000]})
    assert [tuple(run) for run in runs] == [(0.01, 100), (0.01, 1000), (0.001, 100), (0.001, 1000)]
    assert str(runs[1]) == "Run(lr=0.01, batch_size=1000)" and runs[2].lr == 0.001


def test_no_values_at_all_are_one_run():
    assert [tuple(run) for run in RunBuilder.get_runs({})] == [()]


@pytest.mark.parametrize("params, message", [
    ({"lr": []}, "--lr needs at least one value"),
    ({"batch_size": [64, 32, 64]}, "--batch-size 64 is given twice"),
    ({"lr": [0.1, 1e-1]}, "--lr 0.1 is given twice"),
])  # fmt: skip
def test_an_empty_or_repeated_value_is_refused_with_its_option(params, message):
    with pytest.raises(UserError, match=message):
        RunBuilder.get_runs(params)


class RecordingBoard:
    """Has TensorBoard's methods and keeps the calls."""

    def __init__(self) -> None:
        self.calls = []

    def begin_run(self, label, network=None, loader=None, optimizer=None, done=0):
        self.calls.append(("begin", dict(label)))

    def end_epoch(self, epoch, count, measures, val=None, is_best=True):
        self.calls.append((epoch, count))

    def end_run(self, best):
        self.calls.append(("end", best["epoch"]))

    def close(self):
        self.calls.append("close")


class Clock:
    """A second passes each time that it is read."""

    time = 0

    def __call__(self) -> int:
        self.time += 1
        return self.time


@pytest.fixture
def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches, the last one shorter."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(count, 4, generator=generator), torch.arange(count) % 3) for count in (8, 3)]


def test_an_own_loop_is_recorded_with_losses_weighted_by_images(tmp_path, images):
    board = RecordingBoard()
    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path, board=board, now=Clock())
    expected = []
    for run in manager.runs:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1))
        with manager.run(run, network, images):
            for _ in range(2):
                losses, right = [], 0
                with manager.epoch():
                    for inputs, labels in images:
                        log_probs = network(inputs * run.lr)
                        manager.track_loss(nn.functional.nll_loss(log_probs, labels), len(labels))
                        manager.track_num_correct(log_probs, labels)
                        losses += nn.functional.nll_loss(log_probs, labels, reduction="none").tolist()
                        right += (log_probs.argmax(1) == labels).sum().item()
                expected.append((sum(losses) / 11, right / 11))
    rows = manager.rows
    for row, figures in zip(rows, expected, strict=True):
        assert (row["train_loss"], row["train_accuracy"]) == pytest.approx(figures)
    assert [(row["run"], row["epoch"], row["lr"]) for row in rows] == [
        (1, 1, 0.1),
        (1, 2, 0.1),
        (2, 1, 0.2),
        (2, 2, 0.2),
    ]
    assert [(row["epoch_duration"], row["run_duration"]) for row in rows] == [(1, 2), (1, 4), (1, 2), (1, 4)]
    assert manager.finished == [1, 2] and manager.unfinished() == []
    assert board.calls == [
        *(("begin", {"lr": 0.1}), (1, 11), (2, 11), ("end", 1)),
        *(("begin", {"lr": 0.2}), (1, 11), (2, 11), ("end", 1)),
    ]
    assert len(list(csv.DictReader((tmp_path / "results.csv").open()))) == 4


def one_epoch(manager, accuracy: float, loss: float = 0.25, f1: float = 0.5) -> None:
    with manager.epoch():
        manager.track_loss(torch.tensor(0.5), 2)
        manager.track_num_correct(torch.eye(2), torch.tensor([0, 1]))
        manager.track_validation(Scores(loss, accuracy, f1, *torch.zeros(3, 1).long()))


def test_runs_are_compared_by_validation(tmp_path):
    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path)
    for run, accuracies in zip(manager.runs, ([0.5, 0.7], [0.6, 0.6]), strict=True):
        with manager.run(run):
            for accuracy in accuracies:
                one_epoch(manager, accuracy)
    assert (manager.best()["run"], manager.best()["epoch"]) == (1, 2)
    assert manager.best()["val_loss"] == 0.25 and manager.best()["train_accuracy"] == 1.0


def test_what_is_not_tracked_or_not_finite_is_recorded_as_none(tmp_path):
    manager = RunManager({}, tmp_path / "made" / "here")
    with manager.run(manager.runs[0]):
        for loss in (None, math.nan):
            with manager.epoch():
                if loss:
                    manager.track_loss(torch.tensor(loss), 2)
                manager.track_num_correct(torch.eye(2), torch.tensor([0, 1]))
    rows = read_json(tmp_path / "made" / "here" / "results.json")["rows"]
    assert [(row["train_loss"], row["val_accuracy"], row["train_accuracy"]) for row in rows] == [(None, None, 1.0)] * 2


@pytest.mark.parametrize("monitor", ["accuracy", "loss", "f1"])
@pytest.mark.parametrize("losses, best_epoch", [([0.5, 0.3, 0.4], 2), ([None, None], 1)])
def test_a_loop_that_tracks_less_is_recorded_and_compared_by_what_there_is(tmp_path, monitor, losses, best_epoch):
    hyperparameters = [{"seed": seed, "monitor": monitor} for seed in (1, 2)]
    manager = RunManager({"seed": [1, 2]}, tmp_path, hyperparameters)
    for run in manager.runs:
        with manager.run(run):
            for loss in losses:
                with manager.epoch():
                    if loss:
                        manager.track_loss(torch.tensor(loss), 10)
    assert manager.best()["epoch"] == best_epoch and manager.ranked() == [1, 2]
    assert runs_table(manager, 80).count("-  ") and manager.spreads() == []
    assert read_json(tmp_path / "results.json")["finished"] == [1, 2]


def test_a_run_that_fails_is_not_finished_and_its_reason_is_kept(tmp_path):
    board = RecordingBoard()
    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path, board=board)
    first, second = manager.runs
    with pytest.raises(RuntimeError), manager.run(first):
        one_epoch(manager, 0.9)
        raise RuntimeError
    assert board.calls[-1] == "close"
    manager.fail_run(1, "it became nan")
    with manager.run(second):
        one_epoch(manager, 0.5)
    assert manager.failures == {1: "it became nan"} and manager.finished == [2]
    assert manager.best()["run"] == 2
    assert manager.unfinished() == [1]  # --resume tries it again
    with manager.run(first):
        one_epoch(manager, 0.9)
    assert manager.failures == {} and [row["run"] for row in manager.rows] == [1, 2]


def test_an_epoch_that_is_interrupted_leaves_no_row(tmp_path):
    manager = RunManager({}, tmp_path)
    with pytest.raises(KeyboardInterrupt), manager.run(manager.runs[0]), manager.epoch():
        raise KeyboardInterrupt
    assert manager.rows == [] and manager.finished == []


def test_a_board_that_fails_leaves_a_run_that_has_not_finished(tmp_path):
    class FailingBoard(RecordingBoard):
        def end_run(self, best):
            raise MemoryError

    manager = RunManager({}, tmp_path, board=FailingBoard())
    with pytest.raises(MemoryError), manager.run(manager.runs[0]):
        one_epoch(manager, 0.5)
    assert manager.finished == []


def test_a_board_that_cannot_write_is_given_up_with_a_warning(tmp_path, caplog):
    class FullBoard(RecordingBoard):
        def end_epoch(self, *_):
            raise OSError("No space left on device")

    manager = RunManager({"lr": [0.1, 0.2]}, tmp_path, board=FullBoard())
    for run in manager.runs:
        with manager.run(run):
            one_epoch(manager, 0.5)
    assert manager.finished == [1, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "--logdir: No space left on device" in caplog.text


# --- the files ---


@pytest.mark.parametrize("runs, epochs_written", [(1, [1, 2]), (2, [])])
def test_the_files_are_written_after_a_run_and_of_a_run_alone_after_each_epoch(tmp_path, runs, epochs_written):
    written = []
    manager = RunManager({"seed": list(range(runs))}, tmp_path, write=lambda path, make: written.append(path.name))
    for run in manager.runs:
        for path in (manager.begin_run(manager.runs.index(run) + 1), *range(2)):
            if path is not None:
                one_epoch(manager, 0.5)
        before = len(written)
        manager.end_run()
        assert written[before:] == ["results.csv", "results.json"]
    assert len(written) == 2 * (len(epochs_written) + runs)


def test_both_files_hold_every_row_and_every_failure(tmp_path):
    manager = RunManager({"lr": [0.1, 0.2], "shuffle": [True]}, tmp_path, options={"recipe": "best"})
    with manager.run(manager.runs[0]):
        one_epoch(manager, 0.5)
        one_epoch(manager, 0.7)
    manager.fail_run(2, "it became nan")
    *rows, failed = csv.DictReader((tmp_path / "results.csv").open())
    content = read_json(tmp_path / "results.json")
    for text, row in zip(rows, content["rows"], strict=True):
        assert list(text) == ["run", "epoch", *MEASURES, "lr", "shuffle", "failure"]
        assert {name: text[name] for name in row} == {name: str(value) for name, value in row.items()}
    assert (failed["run"], failed["epoch"], failed["lr"], failed["failure"]) == ("2", "", "0.2", "it became nan")
    command = {"options": {"recipe": "best"}, "params": {"lr": [0.1, 0.2], "shuffle": [True]}, "tested": False}
    assert content.items() >= {**command, "finished": [1], "failures": {"2": "it became nan"}}.items()


def test_what_was_recorded_can_be_read(tmp_path):
    params = {"lr": [0.1, 0.2]}
    manager = RunManager(params, tmp_path)
    with manager.run(manager.runs[1]):
        one_epoch(manager, 0.5)
    manager.fail_run(1, "out of memory")
    shown = Records.read(tmp_path)
    assert (shown.rows, shown.finished, shown.failures) == (manager.rows, [2], {1: "out of memory"})
    assert (shown.swept, shown.best()["run"]) == (["lr"], 2)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = RunManager({}, None)
    with manager.run(manager.runs[0]):
        one_epoch(manager, 0.5)
    assert manager.best()["val_accuracy"] == 0.5 and list(tmp_path.iterdir()) == []


# --- hyper-parameters ---


def test_no_hyper_parameter_can_have_a_columns_name(tmp_path):
    with pytest.raises(ValueError, match="the name of a column: epoch, val_loss"):
        RunManager({}, tmp_path, [{"epoch": 1, "val_loss": 1, "lr": 1}])
