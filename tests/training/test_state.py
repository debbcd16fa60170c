"""The training state: what it knows, and that it is restored bit for bit."""

import pytest
import torch
from one_run import make_run, train_epochs, train_steps, weights_of

from neural_lib.checkpoint import archive_bytes, load_archive
from neural_lib.config import TrainConfig
from neural_lib.evaluation.scores import Scores, evaluate
from neural_lib.training.progress import STATE_FORMAT
from neural_lib.training.state import TrainingState


def validation(loss: float, accuracy: float, f1: float = 0.5) -> Scores:
    return Scores(loss, accuracy, f1, *torch.zeros(3, 0))


def tiny_state(**values) -> TrainingState:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    now = iter(range(1000))
    return TrainingState(TrainConfig(**values), model, optimizer, now=lambda: float(next(now)))


@pytest.mark.parametrize("val_accs, best_epoch, improved", [
    ([0.5, 0.9, 0.8], 2, [1, 2]),
    ([0.5, 0.9, 0.9], 2, [1, 2]),  # the earliest of equals
    ([0.0], 1, [1]),
])  # fmt: skip
def test_the_best_epochs_weights_are_kept(val_accs, best_epoch, improved):
    kept, weights, better = tiny_state(), {}, []
    for epoch, accuracy in enumerate(val_accs, start=1):
        weights[epoch] = kept.model.weight.item()
        if kept.end_epoch(validation(1.0, accuracy)):
            better.append(epoch)
        with torch.no_grad():
            kept.model.weight += 1  # later training must not reach into the copy
    assert kept.best_epoch == best_epoch and better == improved
    assert kept.best_weights["weight"].item() == weights[best_epoch]


@pytest.mark.parametrize("monitor, best_epoch", [("accuracy", 3), ("loss", 2), ("f1", 4)])
def test_the_monitored_measure_decides_which_epoch_is_best(monitor, best_epoch):
    kept = tiny_state(monitor=monitor)
    for scores in ((0.9, 0.6, 0.5), (0.5, 0.7, 0.6), (0.7, 0.8, 0.7), (0.8, 0.75, 0.8)):
        kept.end_epoch(validation(*scores))
    assert kept.best_epoch == best_epoch


@pytest.mark.parametrize("val_accs, patience, ended", [
    ([0.5, 0.6, 0.6, 0.6, 0.9], 2, 4),
    ([0.5, 0.6, 0.6, 0.7, 0.7, 0.1, 0.9], 2, 6),
    ([0.5, 0.4, 0.3, 0.2], 0, None),
    ([0.5, 0.4, 0.3], 1, 2),
])  # fmt: skip
def test_patience_ends_after_so_many_epochs_without_a_better_one(val_accs, patience, ended):
    kept, ends = tiny_state(patience=patience), []
    for epoch, accuracy in enumerate(val_accs, start=1):
        kept.end_epoch(validation(1.0, accuracy))
        if kept.is_out_of_patience():
            ends.append(epoch)
    assert (ends[0] if ends else None) == ended


def test_durations_leave_out_the_time_between_an_interruption_and_going_on():
    first = tiny_state()  # whose clock moves on by a second each time it is read
    first.end_epoch(validation(1.0, 0.5))
    saved = first.state_dict()
    again = tiny_state()
    again.load_state_dict(saved)
    again.end_epoch(validation(1.0, 0.5))
    assert [row["run_duration"] for row in again.rows] == [1.0, 3.0]
    assert [row["epoch_duration"] for row in again.rows] == [1.0, 2.0]


def test_durations_are_recorded_to_the_millisecond():
    kept = tiny_state()
    readings = iter([1.2344, 3.0006])
    kept.start, kept.now = 0.0, lambda: next(readings)
    for _ in range(2):
        kept.end_epoch(validation(1.0, 0.5))
    assert [(row["epoch_duration"], row["run_duration"]) for row in kept.rows] == [(1.234, 1.234), (1.767, 3.001)]


@pytest.mark.few(1)
@pytest.mark.parametrize("steps, values", [
    (3, {"arch": "lenet-slim", "dropout": 0.3, "optimizer": "sgd"}),
    (0, {"arch": "lenet-slim", "label_smoothing": 0.1}),
    (3, {"arch": "vgg-small", "width": 4, "optimizer": "adamw", "schedule": "one-cycle"}),
    (3, {"arch": "vgg-small", "width": 4, "optimizer": "muon", "schedule": "linear"}),
    (8, {"arch": "lenet-slim", "dropout": 0.3, "rotation": 10.0}),  # all steps, before validation
])  # fmt: skip
def test_a_run_goes_on_from_its_file_bit_for_bit(images, tmp_path, values, steps):
    whole, begun, resumed = (make_run(images, **values) for _ in range(3))
    train_epochs(whole, 3)
    train_epochs(begun, 1)
    if steps:
        train_steps(begun, steps)
    (tmp_path / "checkpoint.pth").write_bytes(archive_bytes(begun.state.state_dict(), STATE_FORMAT))
    torch.rand(100)  # other draws from the default generator
    resumed.state.load_state_dict(load_archive(tmp_path / "checkpoint.pth", STATE_FORMAT))
    assert (resumed.state.epoch, resumed.state.step) == (2, steps)
    train_epochs(resumed, 2)
    assert weights_of(resumed) == weights_of(whole)
    best, expected = (each.state.best_weights for each in (resumed, whole))
    assert all(torch.equal(best[name], expected[name]) for name in expected)
    for row, other in zip(resumed.state.rows, whole.state.rows, strict=True):
        assert all(row[name] == other[name] for name in row if "duration" not in name)


def test_no_generator_is_in_it(images):
    run = train_epochs(make_run(images, arch="lenet-slim", dropout=0.5, rotation=10.0), 1)
    assert not any("generator" in name or "rng" in name or "random" in name for name in run.state.state_dict())


def test_the_best_epochs_weights_score_as_recorded(images):
    run = train_epochs(make_run(images, arch="vgg-small", width=4), 2)  # with running statistics among the weights
    kept = run.best_checkpoint()
    assert evaluate(kept.build_model(), run.val_loader).accuracy == kept.metrics["val_accuracy"]
