"""train.py interrupted and resumed, from its command line to its files: equal to the uninterrupted run, bit for bit."""

import json
import os
import signal
from pathlib import Path

import pytest
from conftest import killed_before_recording

import train
from neural_lib import archive, checkpoint, datasets, interrupts, metrics, models, report, state
from neural_lib.config import RECIPES
from neural_lib.models import ARCHS

pytestmark = pytest.mark.usefixtures("few_digits")

# 8 steps an epoch
DIGITS = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--quiet", "--epochs", 3, "--batch-size", 32)


@pytest.fixture
def stop_at(monkeypatch):
    """Let a signal arrive when one is asked for the n-th time: before an epoch's first step, after each, ..."""

    def stop(count: int, signum: int = 2) -> None:
        asked = iter(range(1, 10**6))
        check = CHECK

        def noting(self, signum_of_any=None) -> None:
            if next(asked) == count:
                self.signum = signum
            check(self, signum_of_any)

        monkeypatch.setattr(interrupts.GracefulStop, "check", noting)

    return stop


def outcome(folder: str) -> dict:
    """All that a run leaves but its durations."""
    saved = checkpoint.load(f"{folder}/model.pth")
    results = json.loads(Path(folder, "results.json").read_text())
    del results["options"], results["params"]  # how the command was written
    for row in results["rows"]:
        assert row.pop("epoch_duration") > 0 and row.pop("run_duration") > 0
    weights = {name: value.numpy().tobytes() for name, value in saved.state_dict.items()}
    return {
        "weights": weights,
        "metrics": saved.metrics,
        "config": saved.config,
        "results": results,
        "report": Path(folder, "report.json").read_bytes(),
    }


CHECK = interrupts.GracefulStop.check
QUICK = {("classic", "lenet"), ("fast", "lenet-slim"), ("best", "vgg-small")}
RUNS = [
    pytest.param(recipe, arch, marks=() if (recipe, arch) in QUICK else pytest.mark.slow)
    for recipe in RECIPES
    for arch in ARCHS
    if arch != "resnet18" or recipe == "best"
]


@pytest.mark.parametrize("recipe, arch", RUNS)
def test_a_resumed_run_ends_bit_for_bit_where_the_uninterrupted_one_does(run_train, stop_at, recipe, arch):
    # an epoch asks 9 times in training and once or more in validation
    command = (*DIGITS, "--recipe", recipe, "--arch", arch, "--dropout", 0.2, "--train-split", 0.8)
    command += {"vgg-small": ("--width", 4), "resnet18": ("--epochs", 2, "--train-split", 0.2)}.get(arch, ())
    assert run_train(*command, "-m", "whole/model.pth", "-p", "whole/plot.png")[0] == 0
    outputs = ("-m", "part/model.pth", "-p", "part/plot.png")
    for count in (
        (3, 7, 4, 12) if arch != "resnet18" else (4,)
    ):  # in the 1st epoch, before its validation, before the 2nd begins, ...
        stop_at(count)
        status, _, stderr = run_train(
            *command, *outputs, *(["--resume"] if os.path.exists("part/checkpoint.pth") else [])
        )
        assert status == 130 and "--resume goes on with epoch" in stderr
    stop_at(0)
    assert run_train(*command, *outputs, "--resume")[0] == 0
    assert outcome("part") == outcome("whole")


# --- what is gone on with ---


def weights(folder: str) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in checkpoint.load(f"{folder}/model.pth").state_dict.items()}


def test_without_a_signal_a_run_killed_after_an_epoch_goes_on_from_there(run_train, monkeypatch):
    assert run_train(*DIGITS, "-m", "whole/model.pth", "-p", "whole/plot.png")[0] == 0
    save_state = train.Outputs.save_state

    def die(*arguments):
        save_state(*arguments)
        raise SystemExit("killed")

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(train.Outputs, "save_state", die)
        run_train(*DIGITS)
    saved = state.read("output/checkpoint.pth")
    assert (saved["epoch"], saved["step"], len(saved["rows"])) == (2, 0, 1)
    assert run_train(*DIGITS, "--resume")[0] == 0
    assert outcome("output") == outcome("whole")


def test_every_so_many_steps_the_state_is_saved(run_train, monkeypatch):
    where = []
    monkeypatch.setattr(train.Outputs, "save_state", lambda _, state: where.append((state.epoch, state.step)))
    run_train(*DIGITS, "--checkpoint-every", 3, "--epochs", 2)
    assert where == [(1, 3), (1, 6), (2, 0), (2, 3), (2, 6), (3, 0)]


def interrupted(run_train, stop_at, *command, count: int = 12) -> None:
    """Leave a run interrupted, by default in the second epoch."""
    stop_at(count)
    assert run_train(*command)[0] == 130
    stop_at(0)


def test_a_grid_goes_on_in_the_middle_of_a_run(run_train, stop_at):
    grid = (*DIGITS, "--lr", 0.001, 0.002)
    run_train(*grid, "-m", "whole/model.pth", "-p", "whole/plot.png")
    stop_at(40)  # an epoch asks 11 times or so
    status, _, stderr = run_train(*grid)
    assert status == 130 and "--resume goes on with run 2, epoch 1, step " in stderr
    stop_at(0)
    assert run_train(*grid, "--resume")[0] == 0
    assert outcome("output") == outcome("whole")


def test_a_run_that_would_have_stopped_early_does_so_when_it_goes_on(run_train, stop_at):
    command = (*DIGITS, "--epochs", 60, "--lr", 0.03, "--patience", 1)
    run_train(*command, "-m", "whole/model.pth", "-p", "whole/plot.png")
    epochs = len(json.loads(Path("whole/results.json").read_text())["rows"])
    assert 2 <= epochs < 60
    for count in (11 * epochs - 13, 11, 5):
        stop_at(count)
        run_train(*command, *(["--resume"] if os.path.exists("output/checkpoint.pth") else []))
    stop_at(0)
    assert run_train(*command, "--resume")[0] == 0
    assert outcome("output") == outcome("whole")


def test_a_state_elsewhere_can_be_named(run_train, stop_at):
    run_train(*DIGITS, "-m", "whole/model.pth", "-p", "whole/plot.png")
    interrupted(run_train, stop_at, *DIGITS)
    assert run_train(*DIGITS, "--resume", "output", "-m", "other/model.pth")[0] == 0
    assert outcome("other") == outcome("whole")
    assert state.read("output/checkpoint.pth")["epoch"] == 2  # it stays as it was


def longer(epochs: int) -> tuple:
    return (*DIGITS[:-4], "--epochs", epochs, "--batch-size", 32)


def test_options_that_are_not_given_come_from_the_state(run_train, stop_at):
    """Once an interrupted --epochs 4 went on to 10, the default."""
    command = (*DIGITS, "--lr", 0.002, "--seed", 7, "--recipe", "fast", "--precision", "fp32")
    run_train(*command, "-m", "whole/model.pth", "-p", "whole/plot.png")
    interrupted(run_train, stop_at, *command)
    assert run_train("--resume", "--quiet", "--device", "cpu")[0] == 0
    assert outcome("output") == outcome("whole")
    page = Path("output/report.html").read_text()
    assert "<span>--seed</span> <span>7</span>" in page and "--resume" not in page  # the command that repeats it


def test_the_place_of_the_data_comes_from_the_state_too(run_train, stop_at, kmnist_dir):
    command = ("-d", "kmnist", *DIGITS[2:], "--train-split", 0.3)
    interrupted(run_train, stop_at, *command, "--data", kmnist_dir)
    assert run_train("--resume", "--quiet")[0] == 0


@pytest.mark.parametrize("when", [3, None])  # interrupted in the first epoch, or finished
def test_more_epochs_may_be_given_where_the_learning_rate_is_constant(run_train, stop_at, when):
    run_train(*longer(5), "--dropout", 0.2, "-m", "whole/model.pth", "-p", "whole/plot.png")
    stop_at(when or 0)
    run_train(*DIGITS, "--dropout", 0.2)
    stop_at(0)
    assert run_train("--epochs", 4, "--resume", "--quiet")[0] == 0
    assert run_train("--epochs", 5, "--resume", "--quiet")[0] == 0  # and once more
    assert outcome("output") == outcome("whole")


def test_no_more_epochs_may_be_given_to_a_schedule_that_knows_its_end(run_train, stop_at):
    one_cycle = (*DIGITS, "--schedule", "one-cycle")
    for when in (12, 0):
        stop_at(when)
        run_train(*one_cycle, *(["--resume"] if when == 0 else []))
        before = {path: path.read_bytes() for path in Path("output").iterdir()}
        status, _, stderr = run_train("--epochs", 4, "--resume")
        assert status == 2 and stderr.count("\n") == 1
        assert "--epochs 3 there, 4 here (a one-cycle schedule is laid out for its number of epochs" in stderr
        assert {path: path.read_bytes() for path in Path("output").iterdir()} == before


def test_fewer_epochs_are_another_run(run_train, stop_at):
    interrupted(run_train, stop_at, *DIGITS)
    status, _, stderr = run_train("--epochs", 2, "--resume")
    assert status == 2 and "another command: --epochs 3 there, 2 here (fewer than before)" in stderr


def test_a_run_that_has_finished_says_so_and_changes_nothing(run_train):
    run_train(*DIGITS)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("output").iterdir()}
    status, stdout, stderr = run_train(*DIGITS[:-5], "--epochs", 3, "--batch-size", 32, "--resume")
    assert (status, stderr) == (0, "") and "output/model.pth: all is trained and tested" in stdout
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path("output").iterdir()} == before
    Path("output/checkpoint.pth").unlink()
    status, _, stderr = run_train("--resume", "--epochs", 9)
    assert status == 2 and "--resume: more epochs need output/checkpoint.pth, which is not there" in stderr


def test_a_new_command_replaces_a_finished_runs_state(run_train, stop_at):
    for seed in (1, 2):
        assert run_train(*DIGITS, "--seed", seed)[0] == 0
    assert state.read("output/checkpoint.pth")["config"]["seed"] == 2


def test_a_network_that_was_the_best_so_far_is_beside_the_model_again(run_train, stop_at):
    interrupted(run_train, stop_at, *DIGITS)
    before = weights("output")
    Path("output/model.pth").unlink()
    stop_at(3)
    assert run_train(*DIGITS, "--resume")[0] == 130
    assert weights("output") == before


def test_with_nothing_to_go_on_with_it_begins_and_says_so(run_train):
    status, _, stderr = run_train(*DIGITS, "--resume")
    assert status == 0 and "[WARNING] --resume: nothing was interrupted here, so this is the beginning" in stderr


def test_without_its_state_a_run_begins_anew_and_says_why(run_train, stop_at):
    interrupted(run_train, stop_at, *DIGITS)
    Path("output/checkpoint.pth").unlink()
    _, _, stderr = run_train(*DIGITS, "--resume")
    assert "[WARNING] --resume: output/checkpoint.pth is not there, so this is the beginning" in stderr


def test_a_run_killed_before_its_end_was_recorded_is_tested_and_reported(run_train):
    run_train(*DIGITS, "-m", "whole/model.pth", "-p", "whole/plot.png")
    with killed_before_recording(1):
        run_train(*DIGITS)
    assert state.read("output/checkpoint.pth")["epoch"] == 4
    assert run_train("--resume")[0] == 0
    assert outcome("output") == outcome("whole")


def test_a_grid_killed_before_a_runs_end_was_recorded_goes_on(run_train):
    """Its best network is saved already, and only the training state knows of that run."""
    grid = (*DIGITS, "--lr", 1e-5, 0.01)
    run_train(*grid, "-m", "whole/model.pth", "-p", "whole/plot.png")
    with killed_before_recording(2):
        run_train(*grid)
    assert run_train("--resume")[0] == 0
    assert outcome("output") == outcome("whole")


@pytest.mark.parametrize("path", ["output", "output/checkpoint.pth", "./output/../output", "link", None])
def test_the_models_own_state_is_known_by_any_name(run_train, stop_at, path):
    grid = (*DIGITS, "--lr", 0.001, 0.002, 0.003)
    run_train(*grid, "-m", "whole/model.pth", "-p", "whole/plot.png")
    stop_at(40)
    assert run_train(*grid)[0] == 130
    stop_at(0)
    Path("link").symlink_to("output")
    status, stdout, stderr = run_train("--resume", path or Path("output").absolute())
    assert status == 0 and "this run replaces it" not in stderr and "1 of 3 runs had finished" in stdout
    assert outcome("output") == outcome("whole")


def test_runs_that_differ_in_their_epochs_are_told_apart(run_train, stop_at):
    grid = (*DIGITS, "--epochs", 1, 3)
    run_train(*grid, "-m", "whole/model.pth", "-p", "whole/plot.png")
    stop_at(24)
    assert "goes on with run 2, epoch 2" in run_train(*grid)[2]
    stop_at(0)
    status, stdout, _ = run_train("--resume", "--device", "cpu")
    assert status == 0 and "going on with epoch 2 of 3" in stdout
    assert outcome("output") == outcome("whole")


def test_a_state_without_results_json_knows_its_options(run_train, stop_at):
    command = (*DIGITS, "--lr", 0.002, "--seed", 3)
    run_train(*command, "-m", "whole/model.pth", "-p", "whole/plot.png")
    interrupted(run_train, stop_at, *command)
    Path("elsewhere").mkdir()
    Path("output/checkpoint.pth").rename("elsewhere/checkpoint.pth")
    assert run_train("--resume", "elsewhere", "--quiet", "-m", "other/model.pth")[0] == 0
    assert outcome("other") == outcome("whole")
    status, _, stderr = run_train("--resume", "elsewhere", "--lr", 0.5, "-m", "another/model.pth")
    assert status == 2 and "--lr 0.002 there, 0.5 here" in stderr


def test_going_on_for_more_epochs_costs_nothing_that_was_there(run_train, stop_at):
    run_train(*DIGITS)
    before = {path.name: path.read_bytes() for path in Path("output").iterdir()}
    stop_at(2)  # after the first step
    assert run_train("--resume", "--epochs", 5)[0] == 130
    kept = {"model.pth", "plot.png", "report.json", "report.html", "confusion.png", "mistakes.png"}
    assert {name: Path("output", name).read_bytes() for name in kept} == {name: before[name] for name in kept}
    stop_at(0)
    assert run_train("--resume", "--quiet")[0] == 0
    run_train(*longer(5), "-m", "whole/model.pth", "-p", "whole/plot.png")
    assert outcome("output") == outcome("whole")


def test_a_finished_run_can_be_held_to_an_accuracy(run_train):
    run_train(*DIGITS)
    assert run_train("--resume", "--target-accuracy", 0.01)[0] == 0
    status, _, stderr = run_train("--resume", "--target-accuracy", 1)
    assert status == 1 and "is below --target-accuracy 1.0" in stderr


@pytest.mark.parametrize("where", ["after a step", "at an epoch's end"])
def test_a_second_signal_leaves_at_once_and_the_state_as_it_was(run_train, monkeypatch, where):
    """It may come when something is half done."""
    run_train(*DIGITS, "-m", "whole/model.pth", "-p", "whole/plot.png")

    def twice(*_) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        if where == "after a step":
            add = metrics.RunningScores.add
            patched.setattr(
                metrics.RunningScores, "add", lambda self, *rest: twice() if self.count > 100 else add(self, *rest)
            )
        else:
            patched.setattr(state.TrainingState, "_score", twice)
        assert run_train(*DIGITS, "--checkpoint-every", 2)[0] == 130
    assert run_train("--resume", "--quiet", "--device", "cpu")[0] == 0
    assert outcome("output") == outcome("whole")


# --- what is refused ---


@pytest.mark.parametrize("change, told", [
    ({"runs": [{"lr": 0.1}]}, "is of another program or version"),  # as of a RunManager in a loop of one's own
    ({"params": None}, "is of another program or version"),
    ("epochs", "was changed (--epochs must be a whole number of at least 1, not True)"),
    ("elastic", "is of another program or version"),
])  # fmt: skip
def test_records_of_something_else_are_one_line(run_train, stop_at, change, told):
    interrupted(run_train, stop_at, *DIGITS)
    path = Path("output/results.json")
    found = json.loads(path.read_text())
    if change == "epochs":
        change = {"runs": [{**run, "epochs": True} for run in found["runs"]], "params": {}}
    elif change == "elastic":
        change = {"runs": [{name: run[name] for name in run if name != "elastic"} for run in found["runs"]]}
    found |= change
    if change.get("runs") == [{"lr": 0.1}]:
        found["params"] = {"lr": [0.1]}
        found["rows"] = [{**row, "lr": 0.1} for row in found["rows"]]
    path.write_text(json.dumps(found))
    status, _, stderr = run_train("--resume")
    assert status == 2 and told in stderr and stderr.count("\n") == 1


def test_a_state_beyond_its_epoch_ends_that_epoch(run_train, stop_at):
    interrupted(run_train, stop_at, *DIGITS)
    saved = state.read("output/checkpoint.pth")
    archive.save(saved | {"step": 1000}, "output/checkpoint.pth", state.KIND)
    assert run_train("--resume", "--quiet")[0] == 0  # and not a training without end


def test_a_new_command_does_not_replace_an_interrupted_run(run_train, stop_at, run_without_torch):
    interrupted(run_train, stop_at, *DIGITS)
    done = run_without_torch("train", *DIGITS)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (
        "output/checkpoint.pth is of an interrupted run: go on with --resume, give a --model in another" in done.stderr
    )


@pytest.mark.parametrize("change, told", [
    (("--lr", 0.5), "--lr 0.001 there, 0.5 here"),
    (("--arch", "lenet"), "--arch lenet-slim there, lenet here"),
    (("--recipe", "fast", "--lr", 0.001), "--optimizer adam there, adamw here"),
])  # fmt: skip
def test_another_configuration_is_refused_with_what_differs(run_train, stop_at, change, told):
    interrupted(run_train, stop_at, *DIGITS)
    status, _, stderr = run_train(*DIGITS, *change, "--resume")  # refused by results.json, before torch is loaded
    assert status == 2 and told in stderr and stderr.count("\n") == 1
    status, _, stderr = run_train(*DIGITS, *change, "--resume", "output/checkpoint.pth", "-m", "other/model.pth")
    assert status == 2 and told in stderr and stderr.count("\n") == 1  # refused by the state itself
    assert run_train(*DIGITS, "--lr", 0.001, "--resume")[0] == 0  # the same value given once more is none


def test_other_images_and_another_device_are_refused(run_train, stop_at, monkeypatch):
    interrupted(run_train, stop_at, *DIGITS)
    saved = state.read("output/checkpoint.pth")
    for change, told in (({"data": "0" * 64}, r"is of other images (sha256 000000000000... there, "),
                         ({"device": "cuda"}, "--device cuda there, cpu here")):  # fmt: skip
        archive.save(saved | change, "output/checkpoint.pth", state.KIND)
        status, _, stderr = run_train(*DIGITS, "--resume")
        assert status == 2 and told in stderr and stderr.count("\n") == 1


def test_a_state_whose_parts_do_not_fit_is_refused(run_train, stop_at):
    interrupted(run_train, stop_at, *DIGITS)
    saved = state.read("output/checkpoint.pth")
    for change, told in (({"model": {}}, "doesn't fit together"), ({"seconds": "1"}, "a state's own in seconds")):
        archive.save(saved | change, "output/checkpoint.pth", state.KIND)
        status, _, stderr = run_train(*DIGITS, "--resume")
        assert status == 2 and told in stderr and stderr.count("\n") == 1


def test_what_is_no_state_is_refused(run_train, stop_at):
    interrupted(run_train, stop_at, *DIGITS)
    whole = Path("output/checkpoint.pth").read_bytes()
    damaged = whole[:5000] + b"another" + whole[5007:]
    for content, told in ((whole[:-1], "is damaged"), (b"", "is no training state"), (damaged, "is damaged"),
                          (Path("output/model.pth").read_bytes(), "is no training state of train.py")):  # fmt: skip
        Path("output/checkpoint.pth").write_bytes(content)
        status, _, stderr = run_train(*DIGITS, "--resume")
        assert status == 2 and told in stderr and stderr.count("\n") == 1
    Path("output/checkpoint.pth").unlink()
    status, _, stderr = run_train(*DIGITS, "--resume", "nowhere.pth")
    assert status == 2 and "--resume nowhere.pth: can't be read (No such file or directory)" in stderr


def test_a_model_has_another_name_than_the_state(run_train):
    status, _, stderr = run_train(*DIGITS, "-m", "checkpoint.pth")
    assert status == 2 and "--model checkpoint.pth: is where the training state goes; give another name" in stderr


def test_a_folder_with_older_records_is_as_good(run_train, stop_at):
    run_train(*DIGITS, "--lr", 0.002, "-m", "whole/model.pth", "-p", "whole/plot.png")
    assert run_train(*DIGITS)[0] == 0  # finished, and its results.json is there
    interrupted(run_train, stop_at, *DIGITS, "--lr", 0.002, count=3)  # before its own first row
    assert run_train(*DIGITS, "--lr", 0.002, "--resume")[0] == 0
    assert outcome("output") == outcome("whole")


def test_a_signal_after_the_last_step_is_heeded(run_train, monkeypatch):
    end_epoch = state.TrainingState.end_epoch

    def signal_in_the_last_epoch(self, val):
        if self.epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return end_epoch(self, val)

    with monkeypatch.context() as patched:
        patched.setattr(state.TrainingState, "end_epoch", signal_in_the_last_epoch)
        status, _, stderr = run_train(*DIGITS, "--lr", 0.001, 0.002)
    assert status == 143 and "the same command with --resume goes on\n" in stderr
    results = json.loads(Path("output/results.json").read_text())
    assert results["finished"] == [1] and {row["run"] for row in results["rows"]} == {1}
    assert run_train(*DIGITS, "--lr", 0.001, 0.002, "--resume")[0] == 0


def test_the_run_that_was_interrupted_comes_before_one_that_failed(run_train, stop_at):
    grid = (*DIGITS, "--lr", 1e30, 0.001, "--checkpoint-every", 1)
    run_train(*grid, "-m", "whole/model.pth", "-p", "whole/plot.png")
    stop_at(25)
    assert "run 2, epoch 2" in run_train(*grid)[2]
    stop_at(3)
    status, _, stderr = run_train(*grid, "--resume")
    assert status == 130 and "output/model.pth keeps run 2, epoch 1" in stderr and "with run 2, epoch 2" in stderr
    stop_at(0)
    assert run_train(*grid, "--resume")[0] == 1  # the first fails again
    assert outcome("output") == outcome("whole")


def test_a_state_elsewhere_does_not_replace_the_one_that_is_there(run_train, stop_at):
    interrupted(run_train, stop_at, *DIGITS)
    resumed = (*DIGITS, "--resume", "output/checkpoint.pth", "-m", "other/model.pth")
    stop_at(5)
    assert run_train(*resumed)[0] == 130
    before = Path("other/checkpoint.pth").read_bytes()
    status, _, stderr = run_train(*resumed)
    assert status == 2 and "other/checkpoint.pth is there too and would be replaced: give --resume alone" in stderr
    assert Path("other/checkpoint.pth").read_bytes() == before


def test_an_interruption_before_or_after_the_training_says_how_to_go_on(run_train, stop_at, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report, "score", stop)
        stderr = run_train(*DIGITS)[2]
    best = checkpoint.load("output/model.pth").metrics["epoch"]
    told = f"output/model.pth keeps epoch {best}, all is trained; the same command with --resume tests and reports it"
    assert stderr == f"train.py: error: interrupted; {told}\n"
    status, _, stderr = run_train(*DIGITS)  # would train it all once more
    assert status == 2 and "output/checkpoint.pth is of an interrupted run: go on with --resume" in stderr
    assert run_train(*DIGITS, "--resume")[0] == 0

    interrupted(run_train, stop_at, *DIGITS)
    for place in ((datasets, "load_images"), (models, "build_model")):
        with monkeypatch.context() as patched:
            patched.setattr(*place, stop)
            status, _, stderr = run_train(*DIGITS, "--resume")
        assert status == 130 and "the same command" in stderr and "goes on" in stderr and "not written" not in stderr


def test_a_file_of_somebody_elses_is_not_called_an_interrupted_run(run_train):
    Path("output").mkdir()
    Path("output/checkpoint.pth").write_bytes(b"mine")
    for more in ((), ("--resume",)):
        status, _, stderr = run_train(*DIGITS, *more)
        assert status == 2 and "output/checkpoint.pth: is no training state of train.py; move it" in stderr
