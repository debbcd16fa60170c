"""What a run, a refusal or a strange surrounding must not cost: results of earlier runs, of this one, and folders."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, change_kmnist

from neural_lib import annotate, checkpoint, metrics, page, plots, tables

pytestmark = pytest.mark.usefixtures("few_digits")

RUN = ("-d", "digits", "--arch", "lenet-slim", "--device", "cpu", "--epochs", 2, "--batch-size", 32)
REPORT = {"report.json", "report.html", "confusion.png", "mistakes.png"}
OUTPUTS = {"model.pth", "checkpoint.pth", "plot.png", "results.csv", "results.json", *REPORT}


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
    return [line for line in stderr.splitlines() if "this run replaces it, its records and its report when" in line]


def test_what_is_replaced_is_told_before_training(run_train, monkeypatch):
    status, _, stderr = run_train(*RUN)
    assert status == 0 and not replacement_lines(stderr)  # there is nothing yet
    accuracy = checkpoint.load("output/model.pth").metrics["test_accuracy"]
    _, _, stderr = run_train(*RUN, "--seed", 7, "--quiet")
    told = f"[WARNING] output/model.pth holds lenet-slim trained on digits, test accuracy {accuracy:.4f}; "
    assert len(replacement_lines(stderr)) == 1 and stderr.startswith(told)

    Path("output/model.pth").write_bytes(Path("output/model.pth").read_bytes()[:-9])
    (line,) = replacement_lines(run_train(*RUN)[2])
    assert "holds a damaged model file" in line


def test_a_state_of_elsewhere_replaces_a_network_with_a_word(run_train, monkeypatch):
    for seed, folder in enumerate(("here", "there")):
        assert run_train(*RUN, "--seed", seed, "-m", f"{folder}/model.pth")[0] == 0
    os.remove("here/checkpoint.pth")
    _, _, stderr = run_train("--resume", "there", "--epochs", 3, "-m", "here/model.pth")
    assert len(replacement_lines(stderr.replace(" report now", " report when"))) == 1


@pytest.mark.parametrize("name", ["model.pth", "report.html", "report.json", "results.csv", "results.json"])
def test_a_file_of_somebody_elses_is_not_replaced(run_train, name):
    Path("output").mkdir()
    Path("output", name).write_text("mine")
    status, _, stderr = run_train(*RUN)
    assert status == 2 and f"output/{name}: is no " in stderr and stderr.count("\n") == 1
    assert {name: Path("output", name).read_text() for name in os.listdir("output")} == {name: "mine"}


def test_a_copy_is_neither_trained_nor_scored_in_the_place_of_its_original(run_train, capfd):
    import predict
    from neural_lib import cli

    run_train(*RUN)
    shutil.copy("output/model.pth", "output/copy.pth")
    before = everything_in("output")
    status, _, stderr = run_train(*RUN, "-m", "output/copy.pth")
    assert status == 2 and "output/model.pth is a network in the same folder" in stderr
    assert cli.run(predict.main, "predict.py", ["--evaluate", "-m", "output/copy.pth"]) == 2
    assert "the report beside it is of model.pth; give --output" in capfd.readouterr().err
    assert everything_in("output") == before
    assert cli.run(predict.main, "predict.py", ["--evaluate", "-m", "output/copy.pth", "-o", "elsewhere"]) == 0


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


PICTURES = {"plot.png", "confusion.png", "mistakes.png"}


@pytest.mark.parametrize("broken, missing", [
    ((plots, "plot_results"), {"plot.png", "report.html"}),
    ((plots, "plot_confusion"), {"confusion.png"}),
    ((annotate, "glyph"), {"confusion.png"}),
    ((annotate, "encode"), {"mistakes.png"}),
    ((metrics, "scores"), {"report.json", "report.html"}),
    ((metrics, "report"), {"the classification report"}),
    ((page, "render"), {"report.html"}),
    ((tables, "log_runs"), {"the table of the runs"}),
])  # fmt: skip
def test_what_cannot_be_made_costs_nothing_else(run_train, kmnist_dir, monkeypatch, broken, missing):
    def fail(*_):
        raise RuntimeError("a library's own words")

    monkeypatch.setattr(*broken, fail)
    grid = ("-d", "kmnist", "--data", kmnist_dir, *RUN[2:], "--seed", 1, 2)
    status, stdout, stderr = run_train(
        *grid, "--epochs", 1 if "plot.png" not in missing else 2, "--quiet", "-m", "new/model.pth"
    )
    assert status == 1
    errors = [line for line in stderr.splitlines() if line.startswith("[ERROR]")]
    names = {name if " " in name else f"new/{name}" for name in missing}
    assert sorted(errors) == sorted(
        f"[ERROR] {each}: RuntimeError: a library's own words; it was not written" for each in names
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


def test_a_folder_in_the_place_of_an_old_report_is_no_obstacle(run_train):
    Path("output/report-mnist.json").mkdir(parents=True)
    assert run_train(*RUN)[0] == 0
