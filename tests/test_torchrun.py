"""train.py under torchrun, from the command line to its files."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, killed_before_recording, mind_ctrl_c
from ranks import free_port

from neural_lib import checkpoint

DEADLINE = 200  # seconds
# 10 steps an epoch, of 48 images and of 18; many more let rounding grow past 1e-4 on processors with AMX
DIGITS = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--epochs", 2, "--batch-size", 48)
DIGITS += ("--train-split", 0.3)
MEASURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1")


@pytest.fixture
def torchrun(tmp_path):
    """Run a script as so many processes; returns what torchrun and they wrote."""

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
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def own_lines(stderr: str) -> list[str]:
    """What train.py said there, without torchrun's own remarks and report."""
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


def uninterrupted(run_train, tmp_path) -> Path:
    assert run_train(*DIGITS, "--quiet", "-m", "whole/model.pth", "-p", "whole/plot.png")[0] == 0
    return tmp_path / "whole"


def test_a_run_under_torchrun_is_the_run_of_one_process(torchrun, run_train, tmp_path):
    done = torchrun(2, *DIGITS)
    assert done.returncode == 0, done.stderr
    assert "[INFO] batches of 48 images: 24 in each of 2 processes\n" in done.stdout
    for once in ("loading the digits dataset", "       2/2 ", "evaluating the network", "wrote in output: model.pth"):
        assert done.stdout.count(once) == 1, once  # process 0 alone speaks
    assert all("points apart" in line for line in own_lines(done.stderr))
    assert_same_history(tmp_path / "output", uninterrupted(run_train, tmp_path))
    scores = [json.loads((tmp_path / folder / "report.json").read_text()) for folder in ("output", "whole")]
    assert scores[0]["confusion_matrix"] == scores[1]["confusion_matrix"]


@pytest.mark.slow
def test_a_grid_under_torchrun_is_the_grid_of_one_process(torchrun, run_train, tmp_path):
    grid = (*DIGITS, "--lr", 0.001, 0.003, "--batch-size", 48, 50)
    done = torchrun(3, *grid, "-m", "three/model.pth", "-p", "three/plot.png", "--logdir", "three/runs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run 4 of 4: ") == 1
    assert run_train(*grid, "--quiet", "-m", "one/model.pth", "-p", "one/plot.png")[0] == 0
    assert_same_history(tmp_path / "three", tmp_path / "one")
    assert len(list((tmp_path / "three" / "runs").iterdir())) == 4


def test_what_is_refused_is_refused_once(torchrun):
    done = torchrun(2, "--lr", "fast")
    assert own_lines(done.stderr) == [
        "train.py: error: argument --lr: invalid float value: 'fast' (--help lists the options)"
    ]
    assert done.stdout == ""


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_others_that_can_not_be_reached_are_waited_for_only_so_long(run_python, rank):
    code = """
import sys
from datetime import timedelta
from neural_lib import cli, distributed
import train
distributed.JOIN_LIMIT = timedelta(seconds=3)
sys.exit(cli.run(train.main, "train.py", sys.argv[1:]))
"""
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = run_python("-c", code, *DIGITS, "--quiet", **place)
    assert done.returncode == 1
    who, at = f"{'rank 1: ' * rank}rank {rank} of 2", f"127.0.0.1:{place['MASTER_PORT']}"
    told = rf"train\.py: error: {who} did not meet the others at {at} in "
    assert re.match(told, done.stderr) and done.stderr.count("\n") == 1


# --- failures, and going on after them ---


LOST = "the connection to another rank was lost; torchrun's report names the one that failed first"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_killed_rank_ends_all_and_another_number_goes_on(torchrun, run_train, tmp_path, rank):
    """Killed at the end of an epoch, so that the state is the one after epoch 1."""
    whole = uninterrupted(run_train, tmp_path)
    done = torchrun(3, rank, "killed", 1 if rank else 2, *DIGITS, script="tests/dying_train.py")
    assert done.returncode == 1 and 'train.py", line' not in done.stderr
    for message in own_lines(done.stderr):  # torchrun may end a rank before it has said so
        if message.startswith("train.py: error:"):
            assert LOST in message or "interrupted" in message
    assert f"rank      : {rank} " in done.stderr
    done = torchrun(2, "--resume")
    assert done.returncode == 0 and "[INFO] going on with epoch 2 of 2, step 1\n" in done.stdout, done.stderr
    assert_same_history(tmp_path / "output", whole)


@pytest.mark.slow
def test_a_rank_that_fails_itself_says_why(torchrun):
    done = torchrun(2, 1, "memory", 1, *DIGITS, "--quiet", script="tests/dying_train.py")
    assert done.returncode == 1
    assert any(
        "rank 1: out of memory; a smaller --batch-size" in line or LOST in line for line in own_lines(done.stderr)
    )


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_waited_for_only_so_long(torchrun):
    done = torchrun(2, 1, "stuck", 1, *DIGITS, "--quiet", script="tests/dying_train.py")
    (message,) = [line for line in own_lines(done.stderr) if line.startswith("train.py: error:")]
    assert LOST in message and message.endswith("--resume goes on with epoch 2, step 1")


@pytest.mark.slow
def test_torchrun_starts_anew_and_the_run_goes_on_where_it_was(torchrun, run_train, tmp_path):
    whole = uninterrupted(run_train, tmp_path)
    restarts = ("--max-restarts", 1)
    done = torchrun(2, 1, "killed", 1, *DIGITS, "--resume", script="tests/dying_train.py", options=restarts)
    assert done.returncode == 0, done.stderr
    assert "[INFO] going on with epoch 2 of 2, step 1\n" in done.stdout
    assert_same_history(tmp_path / "output", whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_ends_all_in_order_and_one_process_goes_on(run_train, tmp_path, signum):
    whole = uninterrupted(run_train, tmp_path)
    process = subprocess.Popen(
        command_of(2, "train.py", [*DIGITS, "--checkpoint-every", 5]), cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=mind_ctrl_c,
    )  # fmt: skip
    while not (tmp_path / "output" / "checkpoint.pth").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    (message,) = own_lines(process.communicate(timeout=DEADLINE)[1])
    assert re.search(
        r"error: interrupted; .*; the same command with --resume goes on with epoch \d, step \d+$", message
    )
    assert run_train(*DIGITS, "--quiet", "--resume")[0] == 0
    assert_same_history(tmp_path / "output", whole)


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit_where_they_were(torchrun, tmp_path):
    """Of three, the order in which gradients are added up changes after the first step."""
    assert torchrun(2, *DIGITS, "--quiet", "-m", "whole/model.pth", "-p", "whole/plot.png").returncode == 0
    torchrun(2, 1, "killed", 1, *DIGITS, "--quiet", script="tests/dying_train.py")
    assert torchrun(2, *DIGITS, "--quiet", "--resume").returncode == 0
    saved = [checkpoint.load(tmp_path / folder / "model.pth").state_dict for folder in ("whole", "output")]
    assert all(value.equal(saved[1][name]) for name, value in saved[0].items())


@pytest.mark.slow
def test_a_loss_that_became_nan_fails_its_run_alone(torchrun, tmp_path):
    done = torchrun(2, *DIGITS, "--quiet", "--lr", 1e30, 0.001)
    assert done.returncode == 1 and sum("run 1 failed: " in line for line in own_lines(done.stderr)) == 1
    assert json.loads((tmp_path / "output" / "results.json").read_text())["finished"] == [2]


@pytest.mark.slow
def test_ranks_can_be_told_by_hand(tmp_path):
    """As other launchers do: the store is process 0's own then, and goes with it."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "train.py", *map(str, DIGITS), "--quiet"], cwd=tmp_path,
            env=os.environ | place | {"RANK": str(rank)}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=DEADLINE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert told[1] == ("", "") and told[0][0] == ""


@pytest.mark.slow
def test_two_ranks_resume_a_grid_that_was_killed_before_a_run_was_recorded(torchrun, run_train, tmp_path):
    """Its best network is saved, and only rank 0 has the file of its training state."""
    grid = (*DIGITS, "--lr", 1e-5, 0.01)
    assert run_train(*grid, "-m", "whole/model.pth", "-p", "whole/plot.png")[0] == 0
    with killed_before_recording(2):
        run_train(*grid)
    done = torchrun(2, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_history(tmp_path / "output", tmp_path / "whole")
