"""The training state: what it knows, and that it is restored bit for bit or refused."""

import copy
from types import SimpleNamespace

import made_up
import pytest
import torch
from one_run import Run, make_run

from neural_lib.checkpoint import Checkpoint, archive_bytes
from neural_lib.config import TrainConfig
from neural_lib.data.images import ImageTensors
from neural_lib.evaluation.scores import Scores, evaluate
from neural_lib.system.errors import UserError
from neural_lib.training.runs import RunManager
from neural_lib.training.state import STATE_FORMAT, TYPES, Outputs, TrainingState, read_state


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


@pytest.mark.parametrize("steps, values", [
    (0, {"arch": "lenet-slim", "label_smoothing": 0.1}),
    (3, {"arch": "lenet-slim", "dropout": 0.3, "optimizer": "sgd"}),
    (3, {"arch": "vgg-small", "width": 4, "optimizer": "adamw", "schedule": "one-cycle"}),
    (3, {"arch": "vgg-small", "width": 4, "optimizer": "muon", "schedule": "linear"}),
    (8, {"arch": "lenet-slim", "dropout": 0.3, "rotation": 10.0}),  # all steps, before validation
])  # fmt: skip
def test_a_run_goes_on_from_its_file_bit_for_bit(images, tmp_path, values, steps):
    whole, begun, resumed = (make_run(images, **values) for _ in range(3))
    whole.epochs(3)
    begun.epochs(1)
    if steps:
        begun.train(most_steps=steps)
    (tmp_path / "checkpoint.pth").write_bytes(begun.state.to_bytes())
    torch.rand(100)  # other draws from the default generator
    resumed.state.load_state_dict(read_state(tmp_path / "checkpoint.pth"))
    assert (resumed.state.epoch, resumed.state.step) == (2, steps)
    resumed.epochs(2)
    assert resumed.weights() == whole.weights()
    best, expected = (each.state.best_weights for each in (resumed, whole))
    assert all(torch.equal(best[name], expected[name]) for name in expected)
    for row, other in zip(resumed.state.rows, whole.state.rows, strict=True):
        assert all(row[name] == other[name] for name in row if "duration" not in name)


def test_no_generator_is_in_it(images):
    run = make_run(images, arch="lenet-slim", dropout=0.5, rotation=10.0).epochs(1)
    assert not any("generator" in name or "rng" in name or "random" in name for name in run.state.state_dict())


def make_slim_run() -> Run:
    pixels, labels = made_up.make_images(300, seed=0)
    return make_run(
        ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long()), arch="lenet-slim"
    )


@pytest.fixture(scope="module")
def state_of_the_second_epoch() -> dict:
    run = make_slim_run().epochs(1)
    run.train(most_steps=2)
    return run.state.state_dict()


@pytest.fixture
def saved(state_of_the_second_epoch) -> dict:
    """The state of a run in its second epoch, with moments of Adam."""
    return copy.deepcopy(state_of_the_second_epoch)


def with_moments(saved: dict, without: str = "", **change) -> dict:
    moments = {index: {**each, **change} for index, each in saved["optimizer"]["state"].items()}
    moments = {index: {name: each[name] for name in each if name != without} for index, each in moments.items()}
    return {"optimizer": {**saved["optimizer"], "state": moments}}


CHANGES = {
    "moments too short": lambda saved: with_moments(saved, exp_avg=torch.zeros(1)),  # a fused step would write beyond
    "a moment too many": lambda saved: with_moments(saved, more=torch.zeros(1)),
    "a moment that is None": lambda saved: with_moments(saved, exp_avg_sq=None),
    "a moment missing": lambda saved: with_moments(saved, without="exp_avg"),
    "moments of nothing": lambda saved: {"optimizer": {**saved["optimizer"], "state": {99: {}}}},
    "a group of another type": lambda saved: {
        "optimizer": {**saved["optimizer"], "param_groups": [{**saved["optimizer"]["param_groups"][0], "lr": "high"}]}
    },
    "an empty optimizer": lambda saved: {"optimizer": {}},
    "no weights": lambda saved: {"model": {}},
    "no best weights": lambda saved: {"best_weights": {}},
    "a best epoch that has not ended": lambda saved: {"best_epoch": 2},
    "no best epoch": lambda saved: {"best_epoch": 0},
    "other sums": lambda saved: {"sums": {"update": 5}},
    "tensors as sums": lambda saved: {"sums": {name: torch.zeros(3) for name in saved["sums"]}},
    "rows of something else": lambda saved: {"rows": [1]},
    "a row missing": lambda saved: {"rows": []},
    "too late an epoch": lambda saved: {"epoch": 99},
    "a negative step": lambda saved: {"step": -1},
    "a duration of nan": lambda saved: {"seconds": float("nan")},
    "a number as schedule": lambda saved: {"scheduler": 3},
    "a schedule": lambda saved: {"scheduler": {"step": 1}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_that_does_not_fit_is_refused(saved, name):
    fresh = make_slim_run()
    before = fresh.weights()
    with pytest.raises(UserError, match="--resume: the training state doesn't fit together"):
        fresh.state.load_state_dict(saved | CHANGES[name](saved))
    assert fresh.weights() == before and fresh.state.epoch == 1


@pytest.mark.parametrize("change", [
    {"config": {1: 2}}, {"config": None}, {"model": None}, {"epoch": 1.5}, {"epoch": True}, {"rows": None},
    {"rows": [1]}, {"rows": [{}]}, {"seconds": "1"}, {"data": None}, {"device": 1}, {"sums": [1]}, {"versions": "1"},
])  # fmt: skip
def test_a_file_with_other_types_is_refused(saved, tmp_path, change):
    (tmp_path / "checkpoint.pth").write_bytes(archive_bytes(saved | change, STATE_FORMAT))
    with pytest.raises(UserError, match=f"invalid values for {', '.join(change)}; delete it"):
        read_state(tmp_path / "checkpoint.pth")


def test_a_file_that_lacks_something_is_refused(saved, tmp_path):
    path = tmp_path / "checkpoint.pth"
    for name in TYPES:
        path.write_bytes(archive_bytes({key: saved[key] for key in saved if key != name}, STATE_FORMAT))
        with pytest.raises(UserError, match=f"invalid values for {name}; "):
            read_state(path)


def test_moments_of_other_strides_are_copied_to_the_parameters_layout(saved):
    # one number that is expanded to a parameter's shape: a fused step would write beyond its memory
    moments = {
        index: {**each, "exp_avg": torch.zeros(1).expand(each["exp_avg"].shape)}
        for index, each in saved["optimizer"]["state"].items()
    }
    fresh = make_slim_run()
    fresh.state.load_state_dict(saved | {"optimizer": {**saved["optimizer"], "state": moments}})
    for parameter, kept in fresh.optimizer.state.items():
        assert kept["exp_avg"].stride() == parameter.stride() and not kept["exp_avg"].any()
        assert kept["exp_avg"].untyped_storage().nbytes() == parameter.untyped_storage().nbytes()


def outputs_of(folder, configs: list[TrainConfig]) -> Outputs:
    """The outputs of a command that goes on with the state in `folder`."""
    manager = RunManager({"lr": [config.lr for config in configs]}, folder, [config.to_dict() for config in configs])
    paths = {"resume_from": folder / "checkpoint.pth", "state": folder / "checkpoint.pth", "model": folder / "m.pth"}
    return Outputs(SimpleNamespace(configs=configs, is_resume=False, **paths), manager)


def test_a_state_is_matched_to_its_run_and_refused_for_others(saved, tmp_path):
    (tmp_path / "checkpoint.pth").write_bytes(archive_bytes(saved, STATE_FORMAT))
    configs = [TrainConfig(arch="lenet-slim", batch_size=32, epochs=9, lr=lr) for lr in (0.1, 1e-3)]
    longer = [TrainConfig(arch="lenet-slim", batch_size=32, epochs=20)]
    for of_command, number in ((configs, 2), (longer, 1)):
        outputs = outputs_of(tmp_path, of_command)
        state, best = outputs.resume("these images", torch.device("cpu"))
        assert (state["epoch"], best, outputs.manager.number) == (2, None, number)
        assert len(outputs.manager.rows_of[number]) == 1
        assert outputs.summary("it").endswith("epoch 2, step 3")
    for lr in (torch.ones(2), [1e-3]):  # a configuration that no command writes
        strange = saved | {"config": saved["config"] | {"lr": lr}}
        (tmp_path / "strange.pth").write_bytes(archive_bytes(strange, STATE_FORMAT))
        outputs = outputs_of(tmp_path, configs)
        outputs.command.resume_from = tmp_path / "strange.pth"
        with pytest.raises(UserError, match="of another run: --lr"):
            outputs.resume("these images", torch.device("cpu"))
    for of_command, data, device, message in (
        (configs[:1], "these images", "cpu", "of another run: --lr 0.001 there, 0.1 here"),
        (configs, "others", "cpu", r"is of other images \(sha256 these images... there, others... here\)"),
        (configs, "these images", "cuda", "--device cpu there, cuda here"),
    ):
        with pytest.raises(UserError, match=message):
            outputs_of(tmp_path, of_command).resume(data, torch.device(device))


def test_the_best_epochs_weights_score_as_recorded(images):
    run = make_run(images, arch="vgg-small", width=4).epochs(2)  # with running statistics among the weights
    described = Checkpoint(
        arch="vgg-small", arch_args={"numChannels": 1, "classes": 10, "width": 4}, state_dict={}, dataset="kmnist",
        classes=list("0123456789"), image_size=28, mean=[0.2], std=[0.3], config={}, metrics={},
    )  # fmt: skip
    kept = run.state.best_of(described)
    assert evaluate(kept.build_model(), run.val_loader).accuracy == kept.metrics["val_accuracy"]


@pytest.mark.parametrize("change", [{"total_steps": 99}, {"last_epoch": 10**6}, {"last_epoch": -1}])
def test_a_schedule_of_another_length_is_refused(images, change):
    values = {"arch": "lenet-slim", "schedule": "one-cycle", "optimizer": "adamw"}
    run = make_run(images, **values).epochs(1)
    saved = copy.deepcopy(run.state.state_dict())
    with pytest.raises(UserError, match="doesn't fit together"):
        make_run(images, **values).state.load_state_dict(saved | {"scheduler": saved["scheduler"] | change})
