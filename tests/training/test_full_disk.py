"""train.py where files can't be written: what continues, what stops, and that nothing is lost or half there."""

import errno
import math
import os
import stat
import sys
from pathlib import Path

import made_up
import pytest
import torch
from outcomes import finished, outcome

from neural_lib import checkpoint
from neural_lib.checkpoint import load_archive
from neural_lib.evaluation import report, scores
from neural_lib.system import signals
from neural_lib.system.signals import Stopped
from neural_lib.training import state
from neural_lib.training.progress import STATE_FORMAT

pytestmark = pytest.mark.usefixtures("few_digits")

RUN = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--quiet", "--epochs", 3, "--batch-size", 32)
FULL = "No space left on device"


@pytest.fixture
def full(monkeypatch):
    """Let the writing of these files fail; `times`: so often, after which it works again."""
    replace = os.replace

    def fill(*names: str, times: int = 10**6) -> None:
        left = iter(range(times))

        def fail(source, target):
            if Path(target).name in names and next(left, None) is not None:
                raise OSError(errno.ENOSPC, FULL)
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail)

    return fill


@pytest.fixture(autouse=True)
def no_warning_of_a_gap(monkeypatch):
    monkeypatch.setattr(report, "GAP_WORTH_A_WARNING", 1.0)


@pytest.fixture
def whole(run_train) -> dict:
    """The outcome where all files can be written."""
    return finished(run_train, *RUN).outcome


@pytest.fixture
def earlier(run_train) -> dict[str, bytes]:
    """The files of an earlier run in `output`, of another seed."""
    files = finished(run_train, *RUN, "--seed", 7).files
    made_up.write_files(files, Path("output"))
    return files


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["model.pth", "checkpoint.pth", "results.csv", "results.json"])
def test_space_that_is_found_again_in_time_has_cost_nothing(run_train, full, whole, name):
    full(name, times=1)
    status, _, stderr = run_train(*RUN)
    assert status == 0 and stderr == f"[WARNING] output/{name}: {FULL}; trying again later\n"
    assert outcome("output") == whole
    assert not [name for name in os.listdir("output") if name.startswith(".")]


def test_a_kept_network_that_is_written_late_is_that_of_its_epoch(run_train, full, whole):
    full("model-epoch-2.pth", times=1)
    status, _, stderr = run_train(*RUN, "--keep-every", 2)
    assert status == 0 and stderr == f"[WARNING] output/model-epoch-2.pth: {FULL}; trying again later\n"
    assert outcome("output") == whole
    metrics = checkpoint.load("output/model-epoch-2.pth").metrics
    assert metrics["val_loss"] == whole["results"]["rows"][1]["val_loss"] and metrics["epoch"] == 2


@pytest.mark.slow
def test_a_model_that_cannot_be_written_stops_the_run_at_its_end_and_is_in_the_state(run_train, full, whole, earlier):
    full("model.pth")
    status, _, stderr = run_train(*RUN)
    assert status == 1 and f"[WARNING] output/model.pth: {FULL}; trying again later\n" in stderr
    last = "train.py: error: output/model.pth: the best network could not be saved; make room, and give the same "
    assert stderr.splitlines()[-1].startswith(last)
    assert Path("output/model.pth").read_bytes() == earlier["model.pth"]
    assert {"report.json", "confusion.png", "mistakes.png"} <= {*os.listdir("output")}  # which are of that network
    saved = load_archive("output/checkpoint.pth", STATE_FORMAT)
    assert saved["best"]["metrics"]["epoch"] == whole["metrics"]["epoch"]
    full()
    assert run_train("--resume", "--quiet")[0] == 0
    assert outcome("output") == whole


def test_a_state_that_cannot_be_written_is_named_and_costs_nothing_else(run_train, full, whole):
    full("checkpoint.pth")
    status, _, stderr = run_train(*RUN)
    assert status == 1 and stderr.splitlines()[-1] == f"[ERROR] output/checkpoint.pth: {FULL}; it was not written"
    assert outcome("output") == whole


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name", ["plot.png", "confusion.png", "mistakes.png", "labels.csv", "report.json", "report.html", "results.json"]
)
def test_a_file_that_cannot_be_written_costs_nothing_else(run_train, full, whole, name):
    full(name)
    status, stdout, stderr = run_train(*RUN[:-5], "--epochs", 3, "--batch-size", 32)
    assert status == 1 and f"[ERROR] output/{name}: {FULL}; it was not written\n" in stderr
    assert stderr.count("[ERROR]") == 1 and name not in stdout.split("wrote in")[1]
    assert checkpoint.load("output/model.pth").metrics == whole["metrics"]
    others = {"model.pth", "checkpoint.pth", "results.csv", "results.json", "plot.png"}
    others |= {"report.json", "report.html", "confusion.png", "mistakes.png", "labels.csv"}
    assert {*os.listdir("output")} == others - {name}
    full()
    assert run_train("--resume", "--quiet")[0] == 0
    assert outcome("output") == whole


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["plot.png", "report.html", "model.pth"])
def test_resume_writes_what_is_missing_in_the_end(run_train, full, whole, monkeypatch, name):
    """The disk is full from the end of training on."""
    score = scores.score
    with monkeypatch.context() as patched:
        patched.setattr(scores, "score", lambda *rest: (full(name), score(*rest))[1])
        assert run_train(*RUN)[0] == 1
    full()
    assert run_train("--resume", "--quiet")[0] == 0
    assert outcome("output") == whole and Path("output", name).exists()


def test_a_state_is_whole_without_its_exports(run_train, full, whole, earlier, monkeypatch):
    full("results.csv", "results.json", "model.pth")
    check, numbers = signals.GracefulStop.check, iter(range(10**6))

    def check_in_the_second_epoch(self, signum=None):
        check(self, 2 if next(numbers) == 12 else signum)

    with monkeypatch.context() as patched:
        patched.setattr(signals.GracefulStop, "check", check_in_the_second_epoch)
        status, _, stderr = run_train(*RUN)
    assert status == 130 and "--resume resumes at epoch 2" in stderr
    assert "model.pth holds an earlier network" in stderr
    full()
    assert run_train("--resume", "--quiet")[0] == 0
    assert outcome("output") == whole


def test_an_old_whole_state_stays_if_no_new_one_can_be_written(run_train, full, earlier, monkeypatch):
    full("checkpoint.pth")
    monkeypatch.setattr(signals.GracefulStop, "check", lambda self, signum=None: (_ for _ in ()).throw(Stopped(2)))
    status, _, stderr = run_train(*RUN)
    assert status == 130 and "--resume" not in stderr  # there is nothing to resume
    assert Path("output/checkpoint.pth").read_bytes() == earlier["checkpoint.pth"]


def test_where_neither_model_nor_state_can_be_written_nothing_is_promised(run_train, full):
    full("model.pth", "checkpoint.pth")
    status, _, stderr = run_train(*RUN)
    assert status == 1 and stderr.splitlines()[-1].endswith(
        "neither the best network nor the training state could be saved; make room"
    )


def test_a_file_of_an_earlier_run_is_not_logged_as_written(run_train, full, earlier):
    full("results.csv")
    _, stdout, _ = run_train(*RUN[:-5], "--epochs", 3, "--batch-size", 32)
    assert "results.csv" not in stdout.split("wrote in output: ")[1]


@pytest.mark.slow  # in a process of its own
@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are Unix's")
def test_a_file_that_is_too_large_for_the_system_is_one_line_that_names_it(run_python, tmp_path):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "import train; from neural_lib.system import cli\n"
        "sys.exit(cli.run(train.main, 'train.py', ['-d', 'digits', '--quiet', '--epochs', '1']))"
    )
    done = run_python("-c", code)  # a model takes 1.7 MB
    assert done.returncode == 1
    warnings, error = done.stderr.splitlines()[:-1], done.stderr.splitlines()[-1]
    assert all(line.startswith("[WARNING] output/") and "File too large" in line for line in warnings)
    assert error.startswith("train.py: error: output/model.pth: neither the best network nor the training state could")
    assert sorted(os.listdir(tmp_path / "output")) == ["results.csv", "results.json"]


def test_what_waits_for_space_is_tried_after_each_epoch_and_before_a_failure(run_train, full, monkeypatch):
    full("model.pth", times=2)  # after the first epoch, and again after the second
    steps = iter(range(10**6))

    class Loss(torch.nn.NLLLoss):
        def forward(self, log_probs, labels):
            return super().forward(log_probs, labels) * (math.nan if next(steps) >= 2 * 8 else 1)

    monkeypatch.setattr(torch.nn, "NLLLoss", Loss)
    numbers = iter(range(10**6))
    monkeypatch.setattr(state, "monitored_score", lambda *_: -next(numbers))  # no later epoch is better
    status, _, stderr = run_train(*RUN)
    assert status == 1 and stderr.count("output/model.pth: No space left on device; trying again later") == 2
    assert stderr.splitlines()[-1].endswith("output/model.pth keeps epoch 1")
    assert checkpoint.load("output/model.pth").metrics["epoch"] == 1
    saved = load_archive("output/checkpoint.pth", STATE_FORMAT)
    assert saved["run"] is None and "became nan" in saved["failures"][1]  # resuming would lead to the same NaN
    assert run_train(*RUN)[0] == 1  # a new command is not refused


def test_a_folder_that_cannot_be_synced_is_no_failure(run_train, monkeypatch):
    sync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    assert run_train(*RUN)[0::2] == (0, "")
