"""What must survive a run, a failure or an unusual environment: results of earlier runs, of this one, and folders."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import made_up
import pytest
from conftest import ROOT, change_kmnist
from outcomes import finished, read_files

import predict
from neural_lib import checkpoint
from neural_lib.checkpoint import load_archive
from neural_lib.data import download
from neural_lib.evaluation import annotate, plots, report, scores
from neural_lib.system import cli
from neural_lib.training import loop
from neural_lib.training.progress import STATE_FORMAT
from neural_lib.training.state import TrainingState

pytestmark = pytest.mark.usefixtures("few_digits")

RUN = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--epochs", 2, "--batch-size", 32)
REPORT = {"report.json", "report.html", "confusion.png", "mistakes.png", "labels.csv"}
OUTPUTS = {"model.pth", "checkpoint.pth", "plot.png", "results.csv", "results.json", *REPORT}


@pytest.fixture
def trained(run_train) -> dict[str, bytes]:
    """The files of a finished run, which are in `output`."""
    files = finished(run_train, *RUN).files
    made_up.write_files(files, Path("output"))
    return files


@pytest.fixture
def begin(run_train, monkeypatch):
    """Run a command until its training begins, where Ctrl-C arrives; returns its stderr."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    def run(*arguments: object) -> str:
        with monkeypatch.context() as patched:
            patched.setattr(loop, "train_one_epoch", stop)
            status, _, stderr = run_train(*arguments)
        assert status == 130
        return stderr

    return run


# --- results of earlier runs ---


@pytest.mark.slow
def test_a_model_in_a_folder_of_its_own_has_its_plot_and_report_there(run_train, trained):
    assert run_train(*RUN, "-m", "output/other/model.pth")[0] == 0
    assert read_files("output") == trained
    assert {*os.listdir("output/other")} == OUTPUTS


@pytest.mark.slow
def test_a_new_command_replaces_a_finished_runs_state(run_train, trained):
    assert run_train(*RUN, "--seed", 7)[0] == 0
    assert load_archive("output/checkpoint.pth", STATE_FORMAT)["requested"][0]["seed"] == 7
    assert {*os.listdir("output")} == OUTPUTS


def replacement_warnings(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "this command replaces it, its records and its report" in line]


def test_a_network_that_will_be_replaced_is_named_before_training(begin, trained):
    accuracy = checkpoint.load("output/model.pth").metrics["test_accuracy"]
    stderr = begin(*RUN, "--seed", 7, "--quiet")
    warning = f"[WARNING] output/model.pth holds lenet-slim trained on digits, test accuracy {accuracy:.4f}; "
    assert len(replacement_warnings(stderr)) == 1 and stderr.startswith(warning)
    Path("output/model.pth").write_bytes(trained["model.pth"][:-9])
    (line,) = replacement_warnings(begin(*RUN))
    assert "holds a damaged model file" in line
    assert not replacement_warnings(begin(*RUN, "-m", "new/model.pth"))


def test_a_copy_is_not_scored_in_the_place_of_its_original(trained, capfd):
    shutil.copy("output/model.pth", "output/copy.pth")
    before = read_files("output")
    assert cli.run(predict.main, "predict.py", ["--evaluate", "-m", "output/copy.pth"]) == 2
    assert "the report beside it is of model.pth; give --output" in capfd.readouterr().err
    assert read_files("output") == before
    assert cli.run(predict.main, "predict.py", ["--evaluate", "-m", "output/copy.pth", "-o", "elsewhere"]) == 0


def test_a_network_that_is_replaced_takes_its_report_with_it(run_train, trained, monkeypatch):
    Path("output/report-mnist.json").touch()
    monkeypatch.setattr(scores, "score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run_train(*RUN, "--seed", 1)[0] == 130
    assert {*os.listdir("output")} == {"checkpoint.pth", "model.pth", "results.csv", "results.json"}


def test_a_missing_export_costs_no_report_on_another_data_set(run_train, trained):
    Path("output/report-mnist.json").write_text('{"format": "neural_lib report"}')
    os.remove("output/plot.png")
    assert run_train("--resume")[0] == 0
    assert {*os.listdir("output")} == {*OUTPUTS, "report-mnist.json"}


def test_a_folder_in_the_place_of_an_old_report_is_no_obstacle(run_train):
    Path("output/report-mnist.json").mkdir(parents=True)
    assert run_train(*RUN)[0] == 0


# --- folders ---


@pytest.mark.parametrize("exists", [False, True])
def test_where_no_data_can_be_downloaded_no_folder_is_left(run_train, monkeypatch, tmp_path, exists):
    def unreachable(folder):
        (folder / "half").write_bytes(b"half a file")
        raise OSError("no route to host")

    monkeypatch.setitem(download.FETCHERS, "unreachable", unreachable)
    change_kmnist(monkeypatch, sources={"an.example": ("unreachable",)})
    pictures = tmp_path / "photos"
    if exists:
        (pictures / "cats").mkdir(parents=True)
    status, _, stderr = run_train("-d", "kmnist", "--data", pictures, "-m", "new/folder/model.pth")
    assert status == 1 and "no source delivered the files (an.example: no route to host)" in stderr
    assert stderr.count("no route to host") == 1
    assert sorted(os.listdir(tmp_path)) == (["photos"] if exists else [])
    assert not exists or os.listdir(pictures) == ["cats"]


# --- results of this run ---


@pytest.mark.slow  # in a process of its own; test_train.py has such a backend in its environment too
@pytest.mark.parametrize("backend", ["nonsense", "tkagg"])
def test_a_backend_in_the_environment_does_not_affect_files(run_script, tmp_path, backend):
    done = run_script("train.py", *RUN, "--epochs", 1, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert {*os.listdir(tmp_path / "output")} == OUTPUTS


@pytest.mark.few(1)
@pytest.mark.parametrize("broken, missing", [
    ((plots, "plot_results"), {"plot.png", "report.html"}),
    ((plots, "plot_confusion"), {"confusion.png"}),
    ((annotate, "encode"), {"mistakes.png"}),
    ((report, "classification_report"), {"report.json", "report.html", "the classification report"}),
    ((report.Report, "html"), {"report.html"}),
    ((report, "check_data"), {"the check of the labels"}),
    ((report, "log_runs"), {"the table of the runs"}),
])  # fmt: skip
def test_an_output_that_fails_costs_no_other_output(run_train, kmnist_dir, monkeypatch, broken, missing):
    def fail(*_, **__):
        raise RuntimeError("a library's own words")

    monkeypatch.setattr(*broken, fail)
    grid = ("-d", "kmnist", "--data", kmnist_dir, *RUN[2:], "--seed", 1, 2, "--quiet", "-m", "new/model.pth")
    status, _, stderr = run_train(*grid, "--epochs", 2 if "plot.png" in missing else 1)
    assert status == 1
    errors = [line for line in stderr.splitlines() if line.startswith("[ERROR]")]
    names = {name if " " in name else f"new/{name}" for name in missing}
    assert sorted(errors) == sorted(
        f"[ERROR] {each}: RuntimeError: a library's own words; it was not written" for each in names
    )
    unchecked = {"labels.csv"} if "the check of the labels" in missing else set()
    assert {*os.listdir("new")} == OUTPUTS - missing - unchecked
    assert "test_accuracy" in checkpoint.load("new/model.pth").metrics


def test_an_output_of_predict_that_fails_costs_no_other_output(trained, monkeypatch, capfd):
    for name in REPORT:
        os.remove(f"output/{name}")
    monkeypatch.setattr(plots, "plot_confusion", lambda *_: 1 / 0)
    assert cli.run(predict.main, "predict.py", ["--evaluate"]) == 1
    assert "[ERROR] output/confusion.png: ZeroDivisionError: division by zero; it was not" in capfd.readouterr().err
    assert {*os.listdir("output")} == OUTPUTS - {"confusion.png"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
def test_a_schedulers_warning_saves_the_state(run_train, monkeypatch):
    end_epoch = TrainingState.end_epoch

    def end_epoch_and_warn(self, val):
        os.kill(os.getpid(), signal.SIGUSR1)
        return end_epoch(self, val)

    monkeypatch.setattr(TrainingState, "end_epoch", end_epoch_and_warn)
    status, _, stderr = run_train(*RUN)
    assert status == 128 + signal.SIGUSR1
    assert "; the same command with --resume resumes at epoch 2, step 1" in stderr
    assert load_archive("output/checkpoint.pth", STATE_FORMAT)["run"]["epoch"] == 2


@pytest.mark.slow  # in a process of its own
@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
def test_a_schedulers_warning_from_outside_saves_the_state(tmp_path, name):
    command = [sys.executable, "-u", str(ROOT / "train.py"), *map(str, RUN), "--epochs", "400"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(" 1/400 " in line for line in process.stdout)
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert "; the same command with --resume resumes at epoch " in stderr
    assert (tmp_path / "output" / "checkpoint.pth").exists()
