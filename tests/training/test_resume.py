"""train.py interrupted and resumed, from its command line to its files: equal to the uninterrupted run, bit for bit."""

import json
import math
import os
import signal
from pathlib import Path

import made_up
import pytest
import torch
from conftest import killed_after_saving
from outcomes import finished, outcome, read_files

import predict
from neural_lib import checkpoint
from neural_lib.checkpoint import archive_bytes, load_archive
from neural_lib.config import PHOTO_RECIPE, RECIPES
from neural_lib.data import download
from neural_lib.evaluation import scores
from neural_lib.prediction.command import prepare
from neural_lib.system.errors import DivergedError
from neural_lib.training import run, state
from neural_lib.training.outputs import Outputs
from neural_lib.training.progress import STATE_FORMAT
from neural_lib.training.state import TrainingState

pytestmark = pytest.mark.usefixtures("few_digits")

# 8 steps an epoch
DIGITS = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--quiet", "--epochs", 3, "--batch-size", 32)


@pytest.fixture
def interrupted(run_train, stop_at):
    """Run a command and interrupt it, by default in the second epoch."""

    def run(*command: object, count: int = 12) -> str:
        stop_at(count)
        status, _, stderr = run_train(*command)
        assert status == 130
        stop_at(0)
        return stderr

    return run


def read_state(path: str = "output/checkpoint.pth") -> dict:
    """All that checkpoint.pth holds."""
    return load_archive(path, STATE_FORMAT)


def weights(folder: str) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in checkpoint.load(f"{folder}/model.pth").state_dict.items()}


QUICK = {("classic", "lenet-slim"), ("best", "vgg-small")}
RUNS = [
    pytest.param(recipe, arch, marks=() if (recipe, arch) in QUICK else pytest.mark.slow)
    for recipe in RECIPES
    for arch in made_up.SMALL_ARCHS
    if recipe != PHOTO_RECIPE and (arch != "resnet18" or recipe == "best")
]


@pytest.mark.parametrize("recipe, arch", RUNS)
def test_a_resumed_run_ends_bit_for_bit_where_the_uninterrupted_one_does(run_train, stop_at, recipe, arch):
    # there are 9 checks in an epoch's training and one or more in its validation
    command = (*DIGITS, "--recipe", recipe, "--arch", arch, "--dropout", 0.2, "--train-split", 0.8)
    command += {"vgg-small": ("--width", 4), "resnet18": ("--epochs", 2, "--train-split", 0.2)}.get(arch, ())
    whole = finished(run_train, *command).outcome
    # in the 1st epoch, before its validation, before the 2nd begins, ...
    for count in (3, 7, 4, 12) if arch != "resnet18" else (4,):
        stop_at(count)
        status, _, stderr = run_train(*command, *(["--resume"] if os.path.exists("output/checkpoint.pth") else []))
        assert status == 130 and "--resume resumes at epoch" in stderr
    stop_at(0)
    assert run_train(*command, "--resume")[0] == 0
    assert outcome("output") == whole


# --- kept networks ---


@pytest.mark.slow
def test_the_network_is_kept_after_every_so_many_epochs(run_train):
    warning = "[WARNING] --keep-every 2 keeps no network, as the last epoch is 1"
    assert warning in run_train(*DIGITS, "--epochs", 1, "--keep-every", 2, "-m", "one/model.pth")[2]
    assert run_train(*DIGITS, "--epochs", 4, "--keep-every", 2)[0] == 0
    assert {path.name for path in Path("output").glob("model*")} == {
        "model-epoch-2.pth", "model-epoch-4.pth", "model.pth",
    }  # fmt: skip
    rows = json.loads(Path("output/results.json").read_text())["rows"]
    for epoch in (2, 4):
        metrics = checkpoint.load(f"output/model-epoch-{epoch}.pth").metrics
        assert metrics == {name: rows[epoch - 1][name] for name in metrics} and metrics["epoch"] == epoch
    trained = read_state()["run"]["model"]
    kept = checkpoint.load("output/model-epoch-4.pth").state_dict
    assert all(torch.equal(value, trained[name]) for name, value in kept.items())
    evaluate = predict.parse_args(["--model", "output/model-epoch-2.pth", "--evaluate"])
    assert prepare(evaluate)[0] == Path("output/model-epoch-2")  # not beside the best network's report


def test_a_command_that_was_killed_before_its_state_was_saved_keeps_the_same_network_again(run_train, monkeypatch):
    save, numbers = Outputs.save_checkpoint, iter(range(10))

    def die(self):
        if next(numbers) == 1:
            raise SystemExit("killed")
        save(self)

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(Outputs, "save_checkpoint", die)
        run_train(*DIGITS, "--keep-every", 1)
    assert read_state()["run"]["epoch"] == 2
    first, second = (checkpoint.load(f"output/model-epoch-{epoch}.pth").state_dict for epoch in (1, 2))
    assert not torch.equal(first["out.bias"], second["out.bias"])
    Path("output/model-epoch-2.pth").unlink()
    assert run_train("--resume", "--keep-every", 1, "--device", "cpu", "--quiet")[0] == 0
    for epoch, weights in ((1, first), (2, second)):
        kept = checkpoint.load(f"output/model-epoch-{epoch}.pth").state_dict
        assert all(torch.equal(value, weights[name]) for name, value in kept.items())
    assert Path("output/model-epoch-3.pth").exists()


# --- where a run resumes ---


@pytest.mark.few(1)
@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("times", [1, 3, 4, 5])  # after an epoch, the last epoch, the end of the run, the test
def test_a_run_killed_between_checkpoint_and_exports_is_resumed_from_the_checkpoint_alone(run_train, times, deleted):
    with killed_after_saving(times):
        run_train(*DIGITS)
    saved = read_state()
    assert (saved["run"]["epoch"], saved["run"]["step"]) == (min(times, 3) + 1, 0)
    assert (saved["finished"], saved["tested"]) == ([1] if times > 3 else [], times == 5)
    if deleted:
        for name in set(os.listdir("output")) - {"checkpoint.pth"}:
            os.remove(f"output/{name}")
    assert run_train(*DIGITS, "--resume")[0] == 0
    assert outcome("output") == finished(run_train, *DIGITS).outcome


def test_the_state_is_saved_every_so_many_steps(run_train, monkeypatch):
    saved = []
    monkeypatch.setattr(Outputs, "save_checkpoint", lambda self: saved.append(self.progress.position))
    run_train(*DIGITS, "--checkpoint-every", 3, "--epochs", 2)
    expected = [(1, 1, 4), (1, 1, 7), (1, 2, 1), (1, 2, 4), (1, 2, 7), (1, 3, 1)]  # run, epoch, next step, from 1
    assert saved == [*expected, None, None]  # the run's end, and the test's


def test_a_grid_resumes_in_the_middle_of_a_run(run_train, interrupted):
    grid = (*DIGITS, "--lr", 0.001, 0.002)
    assert "--resume resumes at run 2, epoch 1, step " in interrupted(*grid, count=40)  # 11 checks an epoch or so
    status, stdout, stderr = run_train("--resume")
    assert status == 0 and "this command replaces it" not in stderr and "1 of 2 runs had finished" in stdout
    assert outcome("output") == finished(run_train, *grid).outcome


@pytest.mark.slow
def test_a_run_that_would_have_stopped_early_does_so_when_it_goes_on(run_train, stop_at):
    command = (*DIGITS, "--epochs", 60, "--lr", 0.03, "--patience", 1)
    whole = finished(run_train, *command).outcome
    epochs = len(whole["results"]["rows"])
    assert 2 <= epochs < 60
    for count in (11 * epochs - 13, 11, 5):
        stop_at(count)
        run_train(*command, *(["--resume"] if os.path.exists("output/checkpoint.pth") else []))
    stop_at(0)
    assert run_train(*command, "--resume")[0] == 0
    assert outcome("output") == whole


@pytest.mark.slow
def test_options_that_are_not_given_come_from_the_interrupted_run(run_train, interrupted):
    command = (*DIGITS, "--lr", 0.002, "--seed", 7, "--recipe", "fast", "--precision", "fp32")
    interrupted(*command)
    assert run_train("--resume", "--quiet", "--device", "cpu")[0] == 0
    assert outcome("output") == finished(run_train, *command).outcome
    page = Path("output/report.html").read_text()
    assert "<span>--seed</span> <span>7</span>" in page and "--resume" not in page  # the command that repeats it


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 0])  # interrupted in the first epoch, or finished
def test_more_epochs_may_be_given_where_the_learning_rate_is_constant(run_train, stop_at, count):
    command = (*DIGITS, "--dropout", 0.2, "--epochs")
    stop_at(count)
    run_train(*command, 2)
    stop_at(0)
    assert run_train("--epochs", 3, "--resume", "--quiet")[0] == 0
    assert run_train("--epochs", 4, "--resume", "--quiet")[0] == 0
    assert outcome("output") == finished(run_train, *command, 4).outcome


@pytest.mark.slow
def test_files_of_a_finished_run_stay_until_it_has_more_epochs(run_train, interrupted):
    made_up.write_files(finished(run_train, *DIGITS).files, Path("output"))
    before = read_files("output")
    interrupted("--resume", "--epochs", 4, count=2)  # after the first step
    kept = {"model.pth", "plot.png", "report.json", "report.html", "confusion.png", "mistakes.png", "labels.csv"}
    assert {name: read_files("output")[name] for name in kept} == {name: before[name] for name in kept}
    assert run_train("--resume", "--quiet")[0] == 0
    assert outcome("output") == finished(run_train, *DIGITS[:-4], "--epochs", 4, "--batch-size", 32).outcome


def test_a_run_that_has_finished_says_so_and_is_only_tested_again(run_train):
    made_up.write_files(finished(run_train, *DIGITS).files, Path("output"))
    status, stdout, stderr = run_train("-d", "digits", "--resume", "--target-accuracy", 0.01)
    assert status == 0 and "all is trained already; more --epochs train longer\n" in stdout
    assert "training the network" not in stdout
    status, _, stderr = run_train("--resume", "--target-accuracy", 1)
    assert status == 1 and "is below --target-accuracy 1.0" in stderr
    assert outcome("output") == finished(run_train, *DIGITS).outcome


def test_a_network_that_was_the_best_so_far_is_saved_again_where_it_is_gone(run_train, interrupted):
    interrupted(*DIGITS)
    before = weights("output")
    Path("output/model.pth").unlink()
    interrupted(*DIGITS, "--resume", count=3)
    assert weights("output") == before


def test_records_that_are_gone_are_written_again_before_the_first_step(run_train, interrupted):
    interrupted(*DIGITS)
    before = read_files("output")
    for name in ("results.csv", "results.json"):
        Path("output", name).unlink()
    interrupted(*DIGITS, "--resume", count=1)
    assert all(read_files("output").get(name) == before[name] for name in ("results.csv", "results.json"))


def test_without_a_state_a_run_begins_anew_and_says_why(run_train, interrupted):
    for _ in range(2):
        stderr = interrupted(*DIGITS, "--resume")
        assert "[WARNING] --resume: output/checkpoint.pth is missing, so training starts from the beginning" in stderr
        Path("output/checkpoint.pth").unlink()


@pytest.mark.slow
def test_a_grid_killed_when_a_better_run_has_ended_is_resumed(run_train):
    grid = (*DIGITS, "--lr", 1e-5, 0.01)
    with killed_after_saving(8):  # three epochs and an end, twice
        run_train(*grid)
    assert checkpoint.load("output/model.pth").config["lr"] == 1e-5 and read_state()["finished"] == [1, 2]
    assert run_train("--resume")[0] == 0
    assert outcome("output") == finished(run_train, *grid).outcome


@pytest.mark.slow
def test_runs_that_differ_in_their_epochs_are_told_apart(run_train, interrupted):
    grid = (*DIGITS, "--epochs", 1, 3)
    assert "resumes at run 2, epoch 2" in interrupted(*grid, count=24)
    status, stdout, _ = run_train("--resume", "--device", "cpu")
    assert status == 0 and "resuming at epoch 2 of 3" in stdout
    assert outcome("output") == finished(run_train, *grid).outcome


@pytest.mark.slow
def test_a_folder_with_records_of_an_earlier_run_is_as_good_as_an_empty_one(run_train, interrupted):
    made_up.write_files(finished(run_train, *DIGITS).files, Path("output"))
    command = (*DIGITS, "--lr", 0.002)
    interrupted(*command, count=3)  # before its own first row
    assert run_train(*command, "--resume")[0] == 0
    assert outcome("output") == finished(run_train, *command).outcome


@pytest.mark.slow
def test_the_run_that_was_interrupted_comes_before_one_that_failed(run_train, interrupted):
    grid = (*DIGITS, "--lr", 1e30, 0.001, "--checkpoint-every", 1)
    assert "run 2, epoch 2" in interrupted(*grid, count=25)
    stderr = interrupted(*grid, "--resume", count=3)
    assert "output/model.pth keeps run 2, epoch 1" in stderr and "at run 2, epoch 2" in stderr
    assert run_train(*grid, "--resume")[0] == 1  # the first fails again
    assert outcome("output") == finished(run_train, *grid).outcome


@pytest.mark.slow
def test_a_grid_whose_first_run_failed_resumes_before_the_next_has_ended_an_epoch(run_train, interrupted, monkeypatch):
    grid = (*DIGITS, "--lr", 0.001, 0.002)
    end_epoch = TrainingState.end_epoch

    def diverge(self, val):
        if (self.config.lr, self.epoch) == (0.001, 2):
            raise DivergedError.of("validation", math.nan, self.epoch, self.config.lr)
        return end_epoch(self, val)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "end_epoch", diverge)
        assert "resumes at run 2, epoch 1" in interrupted(*grid, count=25)
    assert run_train("--resume", "--quiet")[0] == 0  # the first run, too
    expected = finished(run_train, *grid).outcome
    assert outcome("output")["metrics"] == expected["metrics"] and outcome("output")["weights"] == expected["weights"]


@pytest.mark.slow
def test_a_finished_run_is_not_lost_if_it_diverges_in_later_epochs(run_train, stop_at, monkeypatch):
    made_up.write_files(finished(run_train, *DIGITS).files, Path("output"))
    stop_at(3)
    assert run_train("--resume", "--epochs", 6, "--quiet", "--device", "cpu")[0] == 130
    stop_at(0)

    def diverge(self, val):
        raise DivergedError.of("validation", math.nan, self.epoch, self.config.lr)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "end_epoch", diverge)
        assert run_train("--resume", "--quiet")[0] == 1
    assert read_state()["run"]["best_epoch"] > 0
    assert run_train("--resume", "--quiet")[0] == 0
    assert (
        outcome("output")["metrics"]
        == finished(run_train, *DIGITS[:-4], "--epochs", 6, *DIGITS[-2:]).outcome["metrics"]
    )


def test_a_state_beyond_its_epoch_ends_that_epoch(run_train, interrupted):
    interrupted(*DIGITS)
    saved = read_state()
    saved["run"]["step"] = 1000
    Path("output/checkpoint.pth").write_bytes(archive_bytes(saved, STATE_FORMAT))
    assert run_train(*DIGITS, "--resume")[0] == 0  # and doesn't train without end


# --- signals ---


@pytest.mark.parametrize("where", ["after a step", "at an epoch's end"])
def test_a_second_signal_ends_the_run_at_once_and_leaves_the_last_state(run_train, monkeypatch, where):
    """It may come when something is half done."""

    def twice(*_) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        if where == "after a step":
            add = scores.RunningScores.add
            patched.setattr(
                scores.RunningScores, "add", lambda self, *rest: twice() if self.count > 100 else add(self, *rest)
            )
        else:
            patched.setattr(state, "monitored_score", twice)
        assert run_train(*DIGITS, "--checkpoint-every", 2)[0] == 130
    assert run_train("--resume", "--quiet", "--device", "cpu")[0] == 0
    assert outcome("output") == finished(run_train, *DIGITS).outcome


def test_a_signal_after_the_last_step_ends_a_grid_after_that_run(run_train, monkeypatch):
    end_epoch = TrainingState.end_epoch

    def signal_in_the_last_epoch(self, val):
        if self.epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return end_epoch(self, val)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingState, "end_epoch", signal_in_the_last_epoch)
        status, _, stderr = run_train(*DIGITS, "--lr", 0.001, 0.002)
    assert status == 143 and "the same command with --resume resumes\n" in stderr
    results = json.loads(Path("output/results.json").read_text())
    assert results["finished"] == [1] and {row["run"] for row in results["rows"]} == {1}
    assert run_train(*DIGITS, "--lr", 0.001, 0.002, "--resume")[0] == 0


def test_an_interruption_before_or_after_the_training_says_how_to_go_on(run_train, interrupted, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(scores, "score", stop)
        stderr = run_train(*DIGITS)[2]
    best = checkpoint.load("output/model.pth").metrics["epoch"]
    kept = f"output/model.pth keeps epoch {best}, all is trained; the same command with --resume tests and reports it"
    assert stderr == f"train.py: error: interrupted; {kept}\n"
    status, _, stderr = run_train(*DIGITS)  # would train it all once more
    assert status == 2 and "output/checkpoint.pth belongs to an interrupted run: resume it with --resume" in stderr
    assert run_train(*DIGITS, "--resume")[0] == 0

    interrupted(*DIGITS)
    for functions, name in ((download.READERS, "digits"), (vars(run), "build_network")):
        with monkeypatch.context() as patched:
            patched.setitem(functions, name, stop)
            status, _, stderr = run_train(*DIGITS, "--resume")
        assert status == 130 and "the same command" in stderr and "resumes" in stderr and "not written" not in stderr


# --- states that are refused ---


def test_a_state_that_is_damaged_or_belongs_to_something_else_is_refused_in_one_line(run_train, interrupted):
    interrupted(*DIGITS)
    path = Path("output/checkpoint.pth")
    saved, whole = read_state(path), path.read_bytes()

    def changed(**values: object) -> bytes:
        return archive_bytes(saved | values, STATE_FORMAT)

    for content, message in (
        (changed(fingerprint="0" * 64), "the images have changed (sha256 was 000000000000..., is "),
        (changed(device="cuda"), "--device was cuda, is cpu"),
        (changed(resolved=[saved["resolved"][0] | {"lr": 0.5}]), "begun with other values: --lr was 0.5, is 0.001"),
        (changed(run=saved["run"] | {"model": {}}), "doesn't fit its network"),
        (changed(run=saved["run"] | {"optimizer": {}}), "doesn't fit its network"),
        (changed(format_version=3), "has training state format 3, and this version reads"),
        (whole[:-1], "is damaged"),
        (whole[:5000] + b"another" + whole[5007:], "is damaged"),
        (b"", "is damaged"),
        (Path("output/model.pth").read_bytes(), "was not written by train.py"),
    ):
        path.write_bytes(content)
        status, _, stderr = run_train(*DIGITS, "--resume")
        assert (status, stderr.count("\n")) == (2, 1) and message in stderr, message
    path.write_bytes(whole)
    assert run_train(*DIGITS, "--resume")[0] == 0


def test_it_resumes_where_device_said_to_compute(run_train, interrupted):
    interrupted(*DIGITS)
    status, stdout, _ = run_train("--resume")  # on a machine with a GPU, too
    assert status == 0 and "computing on cpu (as --device says; " in stdout


@pytest.mark.slow
def test_a_run_that_is_resumed_or_prolonged_stays_in_its_tensorboard_folder(run_train, interrupted):
    interrupted(*DIGITS, "--logdir", "runs", count=1)
    assert run_train("--resume", "--seed", 42, "--logdir", "runs")[0] == 0
    assert run_train("--resume", "--epochs", 4, "--logdir", "runs")[0] == 0
    (name,) = os.listdir("runs")
    assert name.startswith("classic,")
