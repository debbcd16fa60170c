"""train.py under torchrun, from the command line to its files; test_distributed.py has quicker tests of the same."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_up
import pytest
from conftest import ROOT, killed_after_saving, leave_out_figures, mind_ctrl_c
from ranks import COMMAND, free_port

import train
from neural_lib import checkpoint
from neural_lib.system import cli

DEADLINE = 200  # seconds
RESUMED = ("-m", "resumed/model.pth", "-p", "resumed/plot.png")
MEASURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1")


@pytest.fixture
def torchrun(tmp_path):
    """Run a script as `count` processes; returns what torchrun and they have written."""

    def run(count: int, *arguments: object, script: str = "train.py", options=()) -> subprocess.CompletedProcess:
        command = command_of(count, script, arguments, options)
        return subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=DEADLINE
        )

    return run


def command_of(count: int, script: str, arguments, options=()) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count, *options]
    return [str(each) for each in (*launcher, ROOT / script, *arguments)]


def environment() -> dict:
    # As in a new shell: train.py, called in this process by another fixture, sets the format of torch's log.
    unset = ("OMP_NUM_THREADS", "TORCH_LOGS_FORMAT")
    return {name: value for name, value in os.environ.items() if name not in unset}


def own_lines(stderr: str) -> list[str]:
    """The lines of train.py on stderr, without those of torchrun."""
    return [line for line in stderr.splitlines() if re.match(r"train\.py: |\[[A-Z]+\]", line)]


def rows_of(folder: Path) -> list[dict]:
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_history(folder: Path, other: Path) -> None:
    rows, others = rows_of(folder), rows_of(other)
    assert [(row["run"], row["epoch"]) for row in rows] == [(row["run"], row["epoch"]) for row in others]
    for row, expected in zip(rows, others, strict=True):
        for name in MEASURES:
            assert float(row[name]) == pytest.approx(float(expected[name]), abs=1e-4), name


@pytest.fixture(scope="module")
def whole(make_once) -> Path:
    """The folder of one process's uninterrupted run."""

    def make(folder: Path) -> None:
        outputs = ("-m", folder / "model.pth", "-p", folder / "plot.png")
        with pytest.MonkeyPatch.context() as monkeypatch:
            leave_out_figures(monkeypatch)
            assert cli.run(train.main, "train.py", [str(each) for each in (*COMMAND, "--quiet", *outputs)]) == 0

    return make_once("torchrun-whole", make)


@pytest.mark.slow
def test_a_run_under_torchrun_is_the_run_of_one_process(torchrun, whole, tmp_path):
    done = torchrun(2, *COMMAND, "--logdir", "runs")
    assert done.returncode == 0, done.stderr
    assert len(os.listdir(tmp_path / "runs")) == 1  # only rank 0 writes
    assert "[INFO] batches of 48 images: 24 in each of 2 processes\n" in done.stdout
    for once in ("loading the digits dataset", "       2/2 ", "evaluating the network", "wrote in output: model.pth"):
        assert done.stdout.count(once) == 1, once  # only rank 0 logs
    assert all("points apart" in line for line in own_lines(done.stderr))
    assert_same_history(tmp_path / "output", whole)
    scores = [json.loads((folder / "report.json").read_text()) for folder in (tmp_path / "output", whole)]
    assert scores[0]["confusion_matrix"] == scores[1]["confusion_matrix"]

    # resumed with two ranks again, it has the same weights bit for bit
    torchrun(2, 1, "killed", 1, *COMMAND, "--quiet", *RESUMED, script="tests/dying_train.py")
    assert torchrun(2, *COMMAND, "--quiet", "--resume", *RESUMED).returncode == 0
    saved = [checkpoint.load(tmp_path / folder / "model.pth").state_dict for folder in ("output", "resumed")]
    assert all(value.equal(saved[1][name]) for name, value in saved[0].items())


@pytest.mark.slow
def test_a_grid_under_torchrun_is_the_grid_of_one_process(torchrun, run_train, tmp_path):
    grid = (*COMMAND, "--lr", 0.001, 0.003)
    done = torchrun(3, *grid, "-m", "three/model.pth", "-p", "three/plot.png", "--logdir", "three/runs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run 2 of 2: ") == 1
    assert run_train(*grid, "--quiet", "-m", "one/model.pth", "-p", "one/plot.png")[0] == 0
    assert_same_history(tmp_path / "three", tmp_path / "one")
    assert len(list((tmp_path / "three" / "runs").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--no-cache",)])
def test_ranks_read_ones_own_images_alike(torchrun, run_train, tmp_path, options):
    photos = made_up.write_photos(tmp_path / "photos", red=20, green=20, blue=7)
    (photos / "red" / "notes.txt").write_text("no picture")
    command = ("-d", photos, "--arch", "lenet-slim", "--epochs", 2, "--batch-size", 10, "--class-weights", "balanced")
    command += ("--init", tmp_path / "first.pth")
    (tmp_path / "first.pth").write_bytes(made_up.make_checkpoint("digits", "lenet-slim").to_bytes())
    done = torchrun(2, *command, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("photos: 3 classes, 47 images to learn from: blue (7), green (20), red (20)") == 1
    assert done.stdout.count("starting from the weights in") == 1 and done.stderr.count("1 file is left out") == 1
    assert run_train(*command, "-m", "one/model.pth")[0] == 0
    assert_same_history(tmp_path / "output", tmp_path / "one")


@pytest.mark.slow
def test_a_wrong_argument_is_one_line_of_one_rank(torchrun):
    done = torchrun(2, "--lr", "fast")
    assert own_lines(done.stderr) == [
        "train.py: error: argument --lr: invalid float value: 'fast' (--help lists the options)"
    ]
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_do_not_come_are_one_line(run_python, rank):
    code = """
import sys
from datetime import timedelta
from neural_lib.system import cli, distributed
import train
distributed.JOIN_LIMIT = timedelta(seconds=1)
sys.exit(cli.run(train.main, "train.py", sys.argv[1:]))
"""
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = run_python("-c", code, *COMMAND, "--quiet", **variables)
    assert done.returncode == 1
    who, at = f"{'rank 1: ' * rank}rank {rank} of 2", f"127.0.0.1:{variables['MASTER_PORT']}"
    message = rf"train\.py: error: {who} could not connect to the other ranks at {at} in "
    *notes, error = done.stderr.splitlines()  # torch's own notes on a store that it can't reach come before
    assert re.match(message, error) and not any("train.py" in note for note in notes)


# --- failures, and resuming after them ---


LOST = "the connection to another rank was lost; torchrun's report names the one that failed first"


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_another_number_of_ranks_resumes(torchrun, whole, tmp_path):
    """Killed at the end of epoch 2, so that the state is the one after epoch 1."""
    done = torchrun(3, 0, "killed", 2, *COMMAND, script="tests/dying_train.py")
    assert done.returncode == 1 and 'train.py", line' not in done.stderr
    for message in own_lines(done.stderr):  # torchrun may end a rank before it has printed its error
        if message.startswith("train.py: error:"):
            assert LOST in message or "interrupted" in message
    assert "rank      : 0 " in done.stderr
    done = torchrun(2, "--resume")
    assert done.returncode == 0 and "[INFO] resuming at epoch 2 of 2, step 1\n" in done.stdout, done.stderr
    assert_same_history(tmp_path / "output", whole)


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory_says_so(torchrun):
    done = torchrun(2, 1, "memory", 1, *COMMAND, "--quiet", script="tests/dying_train.py")
    assert done.returncode == 1
    assert any(
        "rank 1: out of memory; a smaller --batch-size" in line or LOST in line for line in own_lines(done.stderr)
    )


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_waited_for_only_so_long(torchrun):
    done = torchrun(2, 1, "stuck", 1, *COMMAND, "--quiet", script="tests/dying_train.py")
    (message,) = [line for line in own_lines(done.stderr) if line.startswith("train.py: error:")]
    assert LOST in message and message.endswith("--resume resumes at epoch 2, step 1")


@pytest.mark.slow
def test_torchrun_restarts_the_ranks_and_the_run_is_resumed(torchrun, whole, tmp_path):
    restarts = ("--max-restarts", 1)
    done = torchrun(2, 1, "killed", 1, *COMMAND, "--resume", script="tests/dying_train.py", options=restarts)
    assert done.returncode == 0, done.stderr
    assert "[INFO] resuming at epoch 2 of 2, step 1\n" in done.stdout
    assert_same_history(tmp_path / "output", whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_ends_all_ranks_in_order_and_one_process_resumes(run_train, whole, tmp_path, signum):
    process = subprocess.Popen(
        command_of(2, "train.py", [*COMMAND, "--checkpoint-every", 5]), cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=mind_ctrl_c,
    )  # fmt: skip
    while not (tmp_path / "output" / "checkpoint.pth").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    (message,) = own_lines(process.communicate(timeout=DEADLINE)[1])
    assert re.search(r"error: interrupted; .*; the same command with --resume resumes at epoch \d, step \d+$", message)
    assert run_train(*COMMAND, "--quiet", "--resume")[0] == 0
    assert_same_history(tmp_path / "output", whole)


@pytest.mark.slow
def test_a_nan_loss_fails_only_its_own_run(torchrun, tmp_path):
    done = torchrun(2, *COMMAND, "--quiet", "--lr", 1e30, 0.001)
    assert done.returncode == 1 and sum("run 1 failed: " in line for line in own_lines(done.stderr)) == 1
    assert json.loads((tmp_path / "output" / "results.json").read_text())["finished"] == [2]


@pytest.mark.slow
def test_ranks_can_be_started_without_torchrun(tmp_path):
    """As other launchers do: the store is then in rank 0's process and ends with it."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "train.py", *map(str, COMMAND), "--quiet"], cwd=tmp_path,
            env=os.environ | place | {"RANK": str(rank)}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=DEADLINE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[1] == ("", "") and outputs[0][0] == ""


@pytest.mark.slow
def test_two_ranks_resume_a_grid_that_was_killed_when_a_better_run_had_ended(torchrun, run_train, tmp_path):
    """Only rank 0 has read checkpoint.pth, which alone holds the best network."""
    grid = (*COMMAND, "--lr", 1e-5, 0.01)
    assert run_train(*grid, "-m", "whole/model.pth", "-p", "whole/plot.png")[0] == 0
    with killed_after_saving(6):  # two epochs and an end, twice
        run_train(*grid)
    done = torchrun(2, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_history(tmp_path / "output", tmp_path / "whole")
