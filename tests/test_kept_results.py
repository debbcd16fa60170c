"""What a run, a refusal or a strange surrounding must not cost: results of earlier runs, of this one, and folders."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, change_kmnist

from neural_lib import checkpoint, plots

pytestmark = pytest.mark.usefixtures("few_digits")

RUN = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--epochs", 2, "--batch-size", 32)
REPORT = {"report.json", "report.html", "confusion.png", "mistakes.png"}
OUTPUTS = {"model.pth", "plot.png", "results.csv", "results.json", *REPORT}


def everything_in(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_a_model_in_a_folder_of_its_own_has_its_plot_there(run_train):
    assert run_train(*RUN)[0] == 0
    before = everything_in("output")
    assert run_train(*RUN, "-m", "output/other/model.pth")[0] == 0
    assert {path: content for path, content in everything_in("output").items() if "other" not in path} == before
    assert {*os.listdir("output/other")} == OUTPUTS


def test_a_second_model_in_a_folder_is_refused(run_train):
    run_train(*RUN)
    before = everything_in(".")
    status, stdout, stderr = run_train(*RUN, "-m", "output/q.pth")
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert "--model output/q.pth: output/model.pth is a network in the same folder" in stderr
    assert "a folder of its own" in stderr and everything_in(".") == before


def test_a_copy_of_a_model_beside_it_is_no_second_model(run_train):
    run_train(*RUN)
    shutil.copy("output/model.pth", "output/kept.pth")
    Path("output/other.pth").write_bytes(b"not a model of this project")
    assert run_train(*RUN)[0] == 0


def replacement_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "this run replaces it when its first epoch ends" in line]


def test_what_is_replaced_is_told_before_training(run_train, monkeypatch):
    status, _, stderr = run_train(*RUN)
    assert status == 0 and not replacement_lines(stderr)  # there is nothing yet
    accuracy = checkpoint.load("output/model.pth").metrics["test_accuracy"]
    _, _, stderr = run_train(*RUN, "--seed", 7, "--quiet")
    told = f"[WARNING] output/model.pth holds lenet-slim trained on digits, test accuracy {accuracy:.4f}; "
    assert len(replacement_lines(stderr)) == 1 and stderr.startswith(told)

    Path("output/model.pth").write_bytes(b"something")
    (line,) = replacement_lines(run_train(*RUN)[2])
    assert "holds something else than a network of train.py" in line


@pytest.mark.parametrize("there", [False, True])
def test_where_no_data_can_be_had_no_folder_is_left(run_train, monkeypatch, tmp_path, there):
    def unreachable(folder):
        (folder / "half").write_bytes(b"half a file")
        raise OSError("no route to host")

    change_kmnist(monkeypatch, sources={"an.example": unreachable})
    pictures = tmp_path / "photos"
    if there:
        (pictures / "cats").mkdir(parents=True)
    status, _, stderr = run_train("-d", "kmnist", "--data", pictures, "-m", "new/folder/model.pth")
    assert status == 1 and "no source delivered the files (an.example: no route to host)" in stderr
    assert stderr.count("no route to host") == 1
    assert sorted(os.listdir(tmp_path)) == (["photos"] if there else [])
    assert not there or os.listdir(pictures) == ["cats"]


@pytest.mark.parametrize("arguments", [("--resume", "nowhere.pth"), ("--plot", "plot.xyz"), ("--logdir", "a-file")])
def test_a_refused_command_leaves_no_folder(run_train, tmp_path, arguments):
    (tmp_path / "a-file").touch()
    assert run_train(*RUN, "-m", "a/b/c/model.pth", *arguments)[0] == 2
    assert os.listdir(tmp_path) == ["a-file"]


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "tkagg"])
def test_a_backend_in_the_environment_has_no_say_in_files(run_script, tmp_path, backend):
    done = run_script("train.py", *RUN, "--epochs", 1, MPLBACKEND=backend)
    assert done.returncode == 0, done.stderr
    assert {*os.listdir(tmp_path / "output")} == OUTPUTS


@pytest.mark.parametrize("broken, missing", [
    ((plots, "plot_results"), {"plot.png", "report.html"}),
    ((plots, "plot_confusion"), {"confusion.png"}),
])  # fmt: skip
def test_a_figure_that_cannot_be_made_costs_nothing_else(run_train, monkeypatch, broken, missing):
    def fail(*_):
        raise RuntimeError("a library's own words")

    monkeypatch.setattr(*broken, fail)
    status, stdout, stderr = run_train(*RUN, "--epochs", 3, "--quiet", "-m", "new/model.pth")
    assert status == 1
    errors = [line for line in stderr.splitlines() if line.startswith("[ERROR]")]
    assert sorted(errors) == sorted(
        f"[ERROR] new/{name}: RuntimeError: a library's own words; it was not written" for name in missing
    )
    assert {*os.listdir("new")} == OUTPUTS - missing
    assert "test_accuracy" in checkpoint.load("new/model.pth").metrics


def test_predict_too_writes_what_it_can(run_train, monkeypatch, capfd):
    import predict
    from neural_lib import cli

    run_train(*RUN)
    for name in REPORT:
        os.remove(f"output/{name}")
    monkeypatch.setattr(plots, "plot_confusion", lambda *_: 1 / 0)
    assert cli.run(predict.main, "predict.py", ["--evaluate"]) == 1
    assert "[ERROR] output/confusion.png: ZeroDivisionError: division by zero; it was not" in capfd.readouterr().err
    assert {*os.listdir("output")} == OUTPUTS - {"confusion.png"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
@pytest.mark.parametrize("name", ["SIGUSR1", pytest.param("SIGUSR2", marks=pytest.mark.slow)])
def test_a_schedulers_warning_saves_the_state(tmp_path, name):
    command = [sys.executable, "-u", str(ROOT / "train.py"), *map(str, RUN), "--epochs", "400"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(" 1/400 " in line for line in process.stdout)
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert "; the same command with --resume goes on with epoch " in stderr
    assert (tmp_path / "output" / "checkpoint.pth").exists()
