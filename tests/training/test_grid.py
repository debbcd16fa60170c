"""train.py with grids of runs, from the command line to the records: failures, interruptions, the terminal."""

import contextlib
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from conftest import ROOT, mind_ctrl_c, shown_on_a_terminal
from outcomes import finished, outcome
from test_tensorboard import scalars

from neural_lib import checkpoint
from neural_lib.checkpoint import load_archive
from neural_lib.evaluation import scores
from neural_lib.training import loop, run
from neural_lib.training.progress import STATE_FORMAT
from neural_lib.training.state import TrainingState

SMALL = ("-d", "digits", "--arch", "lenet-slim", "--epochs", 2, "--batch-size", 64, "--device", "cpu")
pytestmark = pytest.mark.usefixtures("few_digits")

GRID = (*SMALL, "--lr", 0.001, 0.01, "--seed", 1, 2)


def content(folder: str = "output") -> dict:
    return json.loads((Path(folder) / "results.json").read_text())


def rows() -> list[dict]:
    return content()["rows"]


def without_durations(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if not name.endswith("_duration")} for row in rows]


def table_of(stdout: str) -> list[list[str]]:
    return [line.split() for line in stdout.split("the runs, by validation accuracy\n")[1].splitlines()[2:]]


@pytest.mark.slow
@pytest.mark.figures
def test_table_csv_json_tensorboard_and_model_agree(run_train):
    status, stdout, _ = run_train(*GRID, "--logdir", "runs")
    assert status == 0
    found = rows()
    assert [(row["run"], row["lr"], row["seed"], row["epoch"]) for row in found] == [
        (1, 0.001, 1, 1), (1, 0.001, 1, 2), (2, 0.001, 2, 1), (2, 0.001, 2, 2),
        (3, 0.01, 1, 1), (3, 0.01, 1, 2), (4, 0.01, 2, 1), (4, 0.01, 2, 2),
    ]  # fmt: skip
    for text, row in zip(csv.DictReader(Path("output/results.csv").read_text().splitlines()), found, strict=True):
        assert text == {name: str(value) for name, value in row.items()} | {"failure": ""}

    best = {
        run: max((row for row in found if row["run"] == run), key=lambda row: row["val_accuracy"])
        for run in (1, 2, 3, 4)
    }
    ranked = sorted(best.values(), key=lambda row: (-row["val_accuracy"], row["run"]))
    table = table_of(stdout)
    for shown, row in zip(table, ranked, strict=False):
        figures = [f"{row[name]:.4f}" for name in ("val_accuracy", "val_loss", "train_accuracy")]
        assert shown[:7] == [str(row["run"]), f"{row['lr']:g}", str(row["seed"]), *figures, str(row["epoch"])]
    for line in stdout.split("over the seeds\n")[1].splitlines()[:2]:
        lr, mean = re.match(r" +lr=(\S+): (\S+) \+- \S+ \(n = 2\)", line).groups()
        accuracies = [row["val_accuracy"] for row in best.values() if f"{row['lr']:g}" == lr]
        assert mean == f"{sum(accuracies) / 2:.4f}"

    for row in found:
        folder = f"runs/lr={row['lr']:g},seed={row['seed']}"
        for part in ("train", "val"):
            for name in ("loss", "accuracy"):
                logged = dict(scalars(f"{folder}/{part}", name))[row["epoch"]]
                assert logged == pytest.approx(row[f"{part}_{name}"], rel=1e-6)  # TensorBoard keeps float32
    assert dict(scalars("runs/lr=0.01,seed=1", "best/val_accuracy")) == pytest.approx(
        {best[3]["epoch"]: best[3]["val_accuracy"]}
    )

    saved = checkpoint.load("output/model.pth")
    assert {name: ranked[0][name] for name in saved.config} == saved.config
    assert all(saved.metrics[name] == ranked[0][name] for name in ("epoch", "val_loss", "val_accuracy", "train_loss"))
    assert f"test accuracy: {saved.metrics['test_accuracy']:.4f}" in stdout and stdout.count("test accuracy:") == 1
    assert cv2.imread("output/plot.png").std() > 0


@pytest.mark.slow
def test_the_best_run_of_a_grid_is_the_same_run_alone(run_train):
    best = finished(run_train, *GRID).outcome
    config = best["config"]
    alone = finished(run_train, *SMALL, "--lr", config["lr"], "--seed", config["seed"]).outcome
    assert all(alone[name] == best[name] for name in ("config", "metrics", "weights", "report"))
    assert len(alone["results"]["rows"]) == 2  # a single run has its records too


def test_only_the_best_run_is_scored_on_the_test_set(run_train, monkeypatch):
    scored, evaluate = [], scores.evaluate

    def count(model, loader, *rest, **options):
        scored.append(len(loader.dataset))
        return evaluate(model, loader, *rest, **options)

    for module in (loop, scores):
        monkeypatch.setattr(module, "evaluate", count)
    status, stdout, stderr = run_train(*GRID, "--quiet")
    assert scored.count(75) == 8 and scored.count(100) == 1  # validation and test images of the digits
    assert (status, stdout, stderr) == (0, "", "")


# --- runs that fail ---


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_and_the_grid_goes_on(run_train):
    status, stdout, stderr = run_train(*SMALL, "--lr", 1e30, 0.01, "--logdir", "runs")
    assert status == 1
    assert re.search(r"\[ERROR\] run 1 failed: the training loss became \w+ at epoch 1, step \d+; try a lower", stderr)
    assert re.search(r"\[ERROR\] 1 of 2 runs failed; output.results.json tells why\n", stderr)
    assert content()["finished"] == [2] and "try a lower --lr" in content()["failures"]["1"]
    first, *_, last = csv.DictReader(Path("output/results.csv").read_text().splitlines())
    assert first["run"] == "2" and last["run"] == "1" and "became" in last["failure"] and last["val_loss"] == ""
    assert table_of(stdout)[1] == ["1", "1e+30", "failed"]
    assert checkpoint.load("output/model.pth").config["lr"] == 0.01


def test_out_of_memory_is_a_failure_like_another_and_a_defect_is_not(run_train, monkeypatch):
    build_network = run.build_network

    def build(arch, **arch_args):
        if arch == "lenet":
            raise error
        return build_network(arch, **arch_args)

    monkeypatch.setattr(run, "build_network", build)
    arguments = ("-d", "digits", "--epochs", 1, "--arch", "lenet", "lenet-slim")
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried")
    assert run_train(*arguments)[0] == 1
    assert content()["failures"]["1"].startswith("out of memory; a smaller --batch-size")
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_train(*arguments)


def test_where_all_runs_fail_the_last_reason_is_reported(run_train):
    status, _, stderr = run_train(*SMALL, "--lr", 1e29, 1e30)
    assert status == 1
    assert re.fullmatch(
        r"train.py: error: all 2 runs failed, the last one because the training loss became .*; "
        r"try a lower --lr than 1e\+30; output.model.pth was not written", stderr.splitlines()[-1]
    )  # fmt: skip
    assert not os.path.exists("output/model.pth") and len(content()["failures"]) == 2


# --- interruptions ---


@pytest.fixture
def interrupt(monkeypatch):
    """Let Ctrl-C arrive in the n-th run that is begun, after its first epoch; returns the states of those runs."""
    begun: list[TrainingState] = []
    train_one_epoch = loop.train_one_epoch

    def arrange(number: int) -> list[TrainingState]:
        def interrupted(run, *rest, **options):
            if run.state not in begun:
                begun.append(run.state)
            elif len(begun) == number:
                raise KeyboardInterrupt
            return train_one_epoch(run, *rest, **options)

        monkeypatch.setattr(loop, "train_one_epoch", interrupted)
        return begun

    return arrange


@pytest.mark.slow
def test_an_interrupted_grid_goes_on_where_it_stopped(run_train, interrupt):
    whole = finished(run_train, *GRID).outcome
    begun = interrupt(3)
    status, _, stderr = run_train(*GRID)
    assert status == 130
    assert re.fullmatch(
        r"train.py: error: interrupted; output.model.pth keeps run [12], epoch \d; "
        r"the same command with --resume resumes at run 3, epoch 2, step 1\n", stderr
    )  # fmt: skip
    assert [row["run"] for row in rows()] == [1, 1, 2, 2]  # of run 3 the training state knows
    assert content()["finished"] == [1, 2]

    status, stdout, _ = run_train(*GRID, "--resume")
    assert status == 0 and "2 of 4 runs had finished\n" in stdout
    runs = [(state.config.lr, state.config.seed) for state in begun]
    assert runs == [(0.001, 1), (0.001, 2), (0.01, 1), (0.01, 1), (0.01, 2)]
    assert outcome("output") == whole

    status, again, _ = run_train(*GRID, "--resume")
    assert status == 0 and len(begun) == 5 and "all is trained already" in again
    assert outcome("output") == whole


def test_a_finished_runs_network_stays_until_a_better_run_has_finished(run_train, interrupt):
    interrupt(2)
    assert run_train(*SMALL, "--lr", 0.0001, 0.01)[0] == 130  # one epoch of the second is better than two of the first
    second = load_archive("output/checkpoint.pth", STATE_FORMAT)["run"]["rows"]
    assert max(row["val_accuracy"] for row in rows()) < second[0]["val_accuracy"]
    assert checkpoint.load("output/model.pth").config["lr"] == 0.0001


def test_an_epochs_record_is_written_before_its_network(run_train, monkeypatch):
    # the other way round, an interruption would leave the new command's network with the old command's records
    run_train(*SMALL, "--lr", 0.01)
    first = checkpoint.load("output/model.pth").config
    monkeypatch.setattr(checkpoint.Checkpoint, "to_bytes", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert run_train(*SMALL, "--lr", 0.02)[0] == 130
    assert [row["lr"] for row in rows()] == [0.02] and content()["finished"] == []
    assert checkpoint.load("output/model.pth").config == first


def test_a_fallback_to_another_data_set_is_checked_before_the_first_run(run_train, no_network):
    status, _, stderr = run_train("--epochs", 1, "--batch-size", 100, 2000)
    assert status == 2 and stderr.endswith(
        "--batch-size 2000 is larger than the 225 images of digits that are trained on\n"
    )
    assert not os.path.exists("output/results.json")


def test_a_grid_that_fell_back_says_how_it_goes_on(run_train, interrupt, no_network):
    interrupt(2)
    grid = ("--epochs", 2, "--arch", "lenet-slim", "--seed", 1, 2)
    status, _, stderr = run_train(*grid)
    assert status == 130 and "the same command with --resume resumes at run 2, epoch 2" in stderr
    status, _, stderr = run_train(*grid, "--resume", "--dataset", "kmnist")
    assert status == 2 and "another command: --dataset was digits, is kmnist" in stderr
    assert run_train("--resume")[0] == 0  # which is enough: it is the digits that were trained on
    assert content()["finished"] == [1, 2]


def test_a_failed_run_is_tried_again_on_resume(run_train, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(run, "build_network", lambda arch, **rest: (_ for _ in ()).throw(MemoryError()))
        assert run_train(*SMALL, "--lr", 0.001, 0.01)[0] == 1
    assert run_train(*SMALL, "--lr", 0.001, 0.01, "--resume")[0] == 0
    assert content()["failures"] == {}


@pytest.mark.slow
def test_a_grid_whose_network_was_replaced_ends_with_its_own(run_train, interrupt):
    other = finished(run_train, *SMALL, "--lr", 0.02).files["model.pth"]
    interrupt(2)
    run_train(*GRID)
    Path("output/model.pth").write_bytes(other)
    assert run_train(*GRID, "--resume")[0] == 0
    assert outcome("output") == finished(run_train, *GRID).outcome


def killed_at_random(command: list[str], folder, kills: int, seconds: float, seed: int) -> list[list[int]]:
    """Run a grid, kill it `kills` times at random moments and resume it; the runs that had finished at each kill.

    What is left after each kill is whole, and no finished run is ever lost.
    """
    chance = random.Random(seed)
    finished_then = []
    path = folder / "output" / "results.json"
    for _ in range(kills):
        process = subprocess.Popen([*command, "--resume"], cwd=folder, stdout=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=chance.uniform(0, seconds))
        process.kill()
        process.wait()
        found = json.loads(path.read_text()) if path.exists() else {"finished": [], "rows": []}
        table = list(csv.reader(path.with_suffix(".csv").read_text().splitlines())) if path.exists() else []
        assert all(len(row) == len(table[0]) for row in table)
        assert not finished_then or set(finished_then[-1]) <= set(found["finished"])
        if found["finished"]:
            checkpoint.load(folder / "output" / "model.pth")
        finished_then.append(found["finished"])
    return finished_then


@pytest.mark.slow
def test_a_grid_killed_at_random_moments_loses_no_finished_run(run_script, tmp_path):
    grid = [*map(str, GRID), "--quiet", "--epochs", "8"]
    command = [sys.executable, str(ROOT / "train.py"), *grid]
    whole = run_script("train.py", *grid, "-m", "whole/model.pth")
    assert whole.returncode == 0, whole.stderr
    started = time.monotonic()
    assert run_script("train.py", *grid, "-m", "again/model.pth").returncode == 0
    killed_at_random(command, tmp_path, kills=3, seconds=time.monotonic() - started, seed=0)
    last = run_script("train.py", *grid, "--resume")
    assert last.returncode == 0, last.stderr
    contents = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "output")]
    assert without_durations(contents[0]["rows"]) == without_durations(contents[1]["rows"])
    models = [checkpoint.load(tmp_path / name / "model.pth") for name in ("whole", "output")]
    assert models[0].metrics == models[1].metrics
    left = [name for name in sorted(os.listdir(tmp_path / "output")) if not name.endswith(".tmp")]
    assert left == sorted({*os.listdir(tmp_path / "whole")})
    reports = [(tmp_path / name / "report.json").read_bytes() for name in ("whole", "output")]
    assert reports[0] == reports[1]


# --- on a terminal ---


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_a_terminal_gets_a_bar_for_the_grid_and_one_for_the_epoch(tmp_path):
    shown = shown_on_a_terminal(
        ["-d", "digits", "--epochs", "1", "-b", "4", "--seed", "1", "2"], tmp_path, log_too=True
    )
    pieces = re.split(r"[\r\n]|\x1b\[A", shown)
    assert any(re.match(r"runs 1/2 \|.*\| \d\d:\d\d<\d\d:\d\d", piece) for piece in pieces)
    bars = [piece for piece in pieces if piece.startswith("epoch 1/1")]
    assert any(
        re.search(r"1/1 \|.{15,}\| loss \d\.\d{3}, acc \d\.\d{3}, \d\d:\d\d left, run \d\d:\d\d", bar) for bar in bars
    )
    assert max(map(len, pieces)) <= 80
    after = shown.split("epoch 1/1")[-1].split("\r")[1:]
    assert after[0].strip() == ""  # blanked out, so that the log lines take its place
    table = shown.split("by validation accuracy")[1]
    assert "runs " not in table and "epoch 1/1" not in table  # the bars have gone by then


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
def test_ctrl_c_in_a_grid_is_one_line_and_130(tmp_path):
    command = [sys.executable, "-u", str(ROOT / "train.py"), *map(str, GRID), "--epochs", "30"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=mind_ctrl_c
    )
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("[INFO] run 2 of 4: lr=0.001, seed=2") for line in lines)
    assert any(line.split()[:1] == ["1/30"] for line in lines)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert re.fullmatch(
        r"train.py: error: interrupted; .* keeps run 1, epoch \d+; the same .* --resume resumes at run 2, epoch \d+, "
        r"step \d+\n",
        stderr,
    )
