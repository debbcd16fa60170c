"""predict.py from its command line to its picture, on small data."""

import os
import re
import sys

import cv2
import pytest

import predict
import train
from neural_lib import cli, datasets

LINE = re.compile(r"\[INFO\] ground truth label: (\S+), predicted label: (\S+) \((\d+\.\d)%\)")


@pytest.fixture
def model(kmnist_dir, tmp_path, monkeypatch, capfd):
    """output/model.pth in the current folder, trained on the made-up KMNIST in data/."""
    monkeypatch.chdir(tmp_path)
    arguments = ["-d", "kmnist", "--epochs", "3", "--batch-size", "16", "--quiet"]
    assert cli.run(train.main, "train.py", arguments) == 0
    capfd.readouterr()
    return tmp_path / "output" / "model.pth"


@pytest.fixture
def run_predict(capfd):
    def run(*arguments):
        status = cli.run(predict.main, "predict.py", [str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


def test_ten_test_images_are_told_and_drawn(model, run_predict):
    status, stdout, stderr = run_predict()
    assert (status, stderr) == (0, "")
    told = LINE.findall(stdout)
    assert len(told) == 10
    assert {truth for truth, _, _ in told} <= set(datasets.DATASETS["kmnist"].classes)
    right = sum(truth == predicted for truth, predicted, _ in told)
    assert right >= 8  # the made-up images are easy
    assert f"{right} of 10 right; wrote output/predictions.png" in stdout.replace(os.sep, "/")
    picture = cv2.imread("output/predictions.png")
    assert picture.shape == (2 * 234, 5 * 174, 3) and picture.std() > 0


def test_the_draw_is_seeded_and_repeats_no_image(model, run_predict):
    whole = LINE.findall(run_predict("-n", 100)[1])
    truths = datasets.load_images("kmnist", "data", train=False).labels.tolist()
    names = datasets.DATASETS["kmnist"].classes
    assert sorted(truth for truth, _, _ in whole) == sorted(names[label] for label in truths)
    first, again, other = (LINE.findall(run_predict("--seed", seed)[1]) for seed in (1, 1, 2))
    assert first == again != other


def test_the_command_line(model, run_script, tmp_path):
    # a process of its own can't be given the made-up checksums, so it goes as far as the data: its own model on digits
    done = run_script("train.py", "-d", "digits", "--epochs", 1, "--quiet", "-m", "d.pth", "-p", "d.png")
    assert done.returncode == 0, done.stderr
    done = run_script("predict.py", "--model", "d.pth", "--samples", 3, "--output", "new/folder/p.jpg")
    assert done.returncode == 0, done.stderr
    assert len(LINE.findall(done.stdout)) == 3
    assert cv2.imread(str(tmp_path / "new/folder/p.jpg")).std() > 0


@pytest.mark.parametrize("arguments, message", [
    (["--samples", 101], "--samples 101: kmnist has 100 test images; ask for fewer"),
    (["--model", "nowhere.pth"], "--model nowhere.pth: no such file; train a network first"),
    (["--model", "data"], "--model data: no such file"),
    (["--data", "empty"], "KMNIST"),
])  # fmt: skip
def test_what_cannot_be_predicted_is_told_in_one_line(model, run_predict, monkeypatch, arguments, message):
    from neural_lib import downloads

    monkeypatch.setitem(downloads.SOURCES, "KMNIST", {})
    status, _, stderr = run_predict(*arguments)
    assert status in (1, 2)
    assert stderr.startswith("predict.py: error: ") and message in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("arguments, message", [
    (["--samples", "0"], "--samples must be from 1 to 1000, not 0"),
    (["--samples", "1001"], "--samples must be from 1 to 1000, not 1001"),
    (["--seed", "-1"], "--seed must be 0 or more"),
    (["--output", "."], "--output .: is a folder"),
    (["--output", "p.pdf"], "--output p.pdf: can't write that kind of picture; end the name in .png"),
    (["--show"], "--show: no display here to open a window on"),
])  # fmt: skip
def test_bad_arguments_are_refused_in_one_line_without_torch(run_without_torch, arguments, message):
    if arguments == ["--show"] and sys.platform != "linux":
        pytest.skip("only Linux can be without a display here")
    done = run_without_torch("predict", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("predict.py: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_help_needs_no_torch(run_without_torch):
    done = run_without_torch("predict", "--help")
    assert (done.returncode, done.stderr) == (0, "")
