"""predict.py from its command line to its picture, on small data."""

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import made_up
import numpy as np
import pytest
import torch
from conftest import change_kmnist, rewrite

import predict
import train
from neural_lib import annotate, checkpoint, cli, datasets, display, export, pictures
from neural_lib.config import TrainConfig
from neural_lib.lenet import LeNet

LINE = re.compile(r"\[INFO\] ground truth label: (\S+), predicted label: (\S+) \((\d+\.\d)%\)")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the made-up KMNIST in data/ and a model trained on it in output/, made once."""
    folder = tmp_path_factory.mktemp("trained")
    files = made_up.make_files()
    made_up.write_files(files, folder / "data" / "KMNIST" / "raw")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        change_kmnist(monkeypatch, sha256=made_up.sha256(files), train_size=made_up.TRAIN_SIZE)
        arguments = ["-d", "kmnist", "--epochs", "3", "--batch-size", "16", "--quiet"]
        assert cli.run(train.main, "train.py", arguments) == 0
    return folder


@pytest.fixture
def model(trained, made_up_kmnist, tmp_path, monkeypatch) -> Path:
    """output/model.pth in the current folder, and its data in data/."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
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


def test_log_and_picture_take_the_names_from_the_checkpoint(model, run_predict, monkeypatch):
    names = [f"class-{number}" for number in range(10)]
    rewrite(model, {"classes": names})
    drawn = []
    monkeypatch.setattr(annotate, "annotate", lambda *args, draw=annotate.annotate: drawn.append(args) or draw(*args))
    told = LINE.findall(run_predict()[1])
    assert [(truth, predicted) for truth, predicted, _ in told] == [
        (truth.split()[0], predicted.split()[0]) for _, predicted, _, truth in drawn
    ]
    assert {truth for truth, _, _ in told} <= set(names)


@pytest.mark.slow  # in a process of its own
def test_the_command_line(run_script, tmp_path):
    network, config = LeNet(numChannels=1, classes=10), TrainConfig(dataset="digits")
    described = checkpoint.for_run(config, datasets.DATASETS["digits"], {"numChannels": 1, "classes": 10})
    checkpoint.save(replace(described, state_dict=network.state_dict()), tmp_path / "d.pth")
    done = run_script("predict.py", "--model", "d.pth", "--samples", 3, "--output", "new/folder/p.jpg")
    assert done.returncode == 0, done.stderr
    assert len(LINE.findall(done.stdout)) == 3
    assert cv2.imread(str(tmp_path / "new/folder/p.jpg")).std() > 0


@pytest.mark.parametrize("arguments, expected, message", [
    (["--samples", 101], 2, "--samples 101: kmnist has 100 test images; ask for fewer"),
    (["--data", "empty"], 1, "no source delivered the files"),
])  # fmt: skip
def test_what_cannot_be_predicted_is_told_in_one_line(model, run_predict, monkeypatch, arguments, expected, message):
    change_kmnist(monkeypatch, sources={})
    status, _, stderr = run_predict(*arguments)
    assert status == expected
    assert stderr.startswith("predict.py: error: ") and message in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("change, message", [
    ({"dataset": "unheard-of"}, "its data set 'unheard-of' is not one of kmnist, fashion-mnist, mnist, "),
    ({"classes": ["x"], "glyphs": []}, "the checkpoint doesn't fit together"),
    ({"format_version": torch.ones(2)}, "has checkpoint format"),
    ({"state_dict": {1: torch.ones(2)}}, "something else than a checkpoint's own in state_dict"),
    ({"mean": ["x"]}, "something else than a checkpoint's own in mean"),
    ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "something else than a checkpoint's own in mean"),
    ({"metrics": {"epoch": torch.ones(1)}}, "something else than a checkpoint's own in metrics"),
])  # fmt: skip
def test_a_checkpoint_that_cannot_be_right_is_told_in_one_line(model, run_predict, change, message):
    rewrite(model, change)
    status, _, stderr = run_predict()
    assert status == 2
    assert stderr.startswith("predict.py: error: ") and message in stderr and stderr.count("\n") == 1


def change_network(model, channels: int, classes: int, image_size: int) -> None:
    """Let the checkpoint hold an untrained network for other images or classes."""
    arch_args = {"numChannels": channels, "classes": classes, "image_size": image_size}
    change = {
        "arch_args": arch_args,
        "state_dict": LeNet(**arch_args).state_dict(),
        "classes": list("0123456789")[:classes],
        "glyphs": [],
        "image_size": image_size,
        "mean": [0.5] * channels,
        "std": [0.5] * channels,
    }
    rewrite(model, change)


def test_a_network_for_other_classes_is_refused_in_one_line(model, run_predict):
    change_network(model, channels=1, classes=2, image_size=28)
    for arguments in ([], ["--evaluate"], ["--dataset", "digits"]):
        status, _, stderr = run_predict(*arguments)
        assert status == 2 and stderr.count("\n") == 1
        assert "it tells 2 classes apart, and " in stderr and stderr.endswith(" has 10\n")


@pytest.mark.parametrize("channels, image_size, told", [
    (1, 32, "28x28 to 32x32 pixels"),
    (3, 28, "grey to three equal channels"),
])  # fmt: skip
def test_images_are_converted_for_a_network_for_other_ones(model, run_predict, channels, image_size, told):
    change_network(model, channels, 10, image_size)
    status, stdout, stderr = run_predict()
    assert status == 0 and len(LINE.findall(stdout)) == 10
    assert stderr == f"[WARNING] the images of kmnist are converted for this model: {told}\n"


def test_a_one_channel_model_takes_colour_images_as_grey_and_says_so(model, run_predict, cifar_batches):
    made_up.write_files(cifar_batches, Path("data/cifar-10-batches-py"))
    for arguments in ([], ["--evaluate"]):
        status, stdout, stderr = run_predict("--dataset", "cifar10", *arguments)
        assert status == 0
        names, converted = stderr.splitlines()
        assert names.startswith("[WARNING] the classes of cifar10 are airplane, ") and "this model calls them" in names
        assert converted.endswith("are converted for this model: colour to grey, 32x32 to 28x28 pixels")
    report = json.loads(Path("output/report-cifar10.json").read_text())
    assert (report["dataset"], report["trained_on"], report["images"]) == ("cifar10", "kmnist", 60)


def test_the_data_are_looked_for_where_training_found_them(model, run_predict, tmp_path, monkeypatch):
    change_kmnist(monkeypatch, sources={})
    saved = checkpoint.load(model)
    assert Path(saved.training["data"]).is_absolute() and Path(saved.training["data"]).name == "data"
    shutil.move("data", "elsewhere")
    rewrite(model, {"training": {"data": str(tmp_path / "elsewhere")}})
    for arguments in ([], ["--evaluate"], ["--data", "elsewhere"]):
        assert run_predict(*arguments)[0] == 0
    status, _, stderr = run_predict("--data", "data")  # what is given wins
    assert status == 1 and "no source delivered the files" in stderr
    shutil.move("elsewhere", "data")
    assert run_predict()[0] == 0  # they are no more where training found them


def test_a_network_of_an_unknown_data_set_is_scored_on_a_known_one(model, run_predict, few_digits):
    rewrite(model, {"dataset": "of-the-future"})
    status, stdout, _ = run_predict("--evaluate", "--dataset", "digits")
    assert status == 0
    assert stdout.replace(os.sep, "/").endswith("open output/report-digits.html\n")
    page = Path("output/report-digits.html").read_text()
    assert "trained on of-the-future, scored on digits" in page


def test_a_model_from_before_its_training_was_told_has_a_page(model, run_predict):
    rewrite(model, {}, without=["training"])
    assert run_predict("--evaluate")[0] == 0
    assert "<dt>command</dt>" not in Path("output/report.html").read_text()


# --- pictures of one's own ---


@pytest.fixture
def page(digits_model, tmp_path, monkeypatch) -> Path:
    """A folder of pictures to recognise: a one, a seven, a blank page; one more in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scans"
    (folder / "more").mkdir(parents=True)
    one, seven = np.full((2, 300, 400), 255, np.uint8)
    cv2.line(one, (200, 50), (195, 250), 0, 20)
    cv2.polylines(seven, [np.array([(120, 50), (280, 50), (180, 260)])], False, 0, 20)
    cv2.imwrite(str(folder / "one.png"), one)
    cv2.imwrite(str(folder / "seven.jpg"), seven)
    cv2.imwrite(str(folder / "more" / "light.webp"), 255 - seven)
    cv2.imwrite(str(folder / "blank.png"), np.full((300, 400), 250, np.uint8))
    (folder / "notes.txt").write_text("of no interest")
    return folder


@pytest.fixture
def recognise(run_predict, digits_model):
    return lambda *arguments: run_predict("--model", digits_model, *arguments)


def test_pictures_are_told_in_a_table_and_a_montage(page, recognise):
    status, stdout, stderr = recognise("scans", "-r", "--show-input")
    assert status == 0
    rows = [line.split() for line in stdout.splitlines() if line.startswith(" scans")]
    assert [Path(row[0]).name for row in rows] == ["one.png", "seven.jpg", "light.webp"]
    assert [row[1] for row in rows] == ["1", "7", "7"] and all(row[2].endswith("%") for row in rows)
    assert "[INFO] recognised 3 of 4 pictures\n[INFO] wrote output/predictions.png\n" in stdout.replace(os.sep, "/")
    assert stderr.splitlines() == [
        f"[WARNING] no pictures by their names, and skipped: {Path('scans/notes.txt')}",
        f"[WARNING] {Path('scans/blank.png')}: no ink found",
    ]
    picture = cv2.imread("output/predictions.png")
    assert picture.shape == (234, 3 * (2 * 168 + 6 + 6), 3) and picture.std() > 10


def test_pictures_are_told_to_programs(page, recognise):
    status, stdout, stderr = recognise("scans", "nowhere.png", "--json", "--top", 2)
    assert status == 0
    told = [json.loads(line) for line in stdout.splitlines()]
    assert [Path(each["path"]).name for each in told] == ["blank.png", "one.png", "seven.jpg", "nowhere.png"]
    assert [each.get("label") for each in told] == [None, "1", "7", None]
    assert told[0]["error"] == "no ink found" and "No such file" in told[3]["error"]
    assert [entry["label"] for entry in told[1]["top"]][0] == "1" and len(told[1]["top"]) == 2
    assert "[INFO] recognised 2 of 4 pictures" in stderr and not Path("output").exists()


def test_an_option_of_another_mode_that_does_no_harm_is_ignored(page, recognise):
    status, stdout, _ = recognise("scans/one.png", "--data", "nowhere", "--samples", 3, "--seed", 5)
    assert status == 0 and "recognised 1 of 1 picture" in stdout
    assert recognise("--evaluate", "-d", "digits", "-o", "here", "--top", 5, "--show", "-r", "--show-input")[0] == 0


def test_a_pattern_is_expanded(page, recognise):
    status, stdout, _ = recognise("scans/*e*.[pj]*g", "--no-show")
    assert status == 0 and "recognised 2 of 2 pictures" in stdout


def test_with_json_the_montage_is_written_where_it_is_asked_for(page, recognise):
    assert recognise("scans", "--json", "--output", "p.jpg")[0] == 0
    assert cv2.imread("p.jpg").shape == (234, 2 * 174, 3)


def test_many_pictures_come_to_several_pages(page, recognise):
    status, stdout, _ = recognise(*["scans/one.png"] * 101)
    assert status == 0 and stdout.count("one.png  ") == 101
    assert "[INFO] wrote output/predictions-page-1.png to predictions-page-2.png\n" in stdout.replace(os.sep, "/")
    assert sorted(os.listdir("output")) == ["predictions-page-1.png", "predictions-page-2.png"]


def test_no_page_replaces_a_picture(page, recognise):
    shutil.copy("scans/one.png", "p-page-2.png")
    status, _, stderr = recognise(*["scans/one.png"] * 100, "p-page-2.png", "--output", "p.png")
    assert status == 2 and "--output p-page-2.png: is one of the pictures to recognise; choose another" in stderr
    Path("q-page-1.png").mkdir()  # tried before the long work
    status, _, stderr = recognise(*["scans/one.png"] * 101, "--output", "q.png")
    assert status == 2 and "--output q-page-1.png: is a folder" in stderr


def test_a_montage_in_the_folder_is_not_recognised_the_next_time(page, recognise):
    for _ in range(2):
        status, stdout, _ = recognise("scans", "--output", "scans/result.png")
        assert status == 0 and "recognised 2 of 3 pictures" in stdout


def test_ctrl_c_ends_it_with_one_line(page, recognise, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "read", interrupted)
    status, _, stderr = recognise("scans")
    assert status == 130 and stderr.splitlines()[-1] == "predict.py: error: interrupted"


@pytest.mark.parametrize("arguments, told", [
    (["nowhere.png"], "[WARNING] nowhere.png: can't be read (No such file or directory)"),
    (["scans/blank.png"], "blank.png: no ink found"),
    (["scans/notes.txt"], "notes.txt: is none of PNG, "),
    (["empty"], "[WARNING] empty: holds no picture (.png, "),
])  # fmt: skip
def test_where_nothing_is_recognised_the_status_is_1(page, recognise, arguments, told):
    Path("empty").mkdir()
    status, stdout, stderr = recognise(*arguments)
    assert status == 1 and told in stderr
    assert stderr.splitlines()[-1].startswith("predict.py: error: ") and stderr.count("error") == 1
    assert "%" not in stdout and not os.path.exists("output")


def test_invert_can_be_said(page, recognise):
    grey = np.full((300, 400), 128, np.uint8)
    cv2.line(grey, (80, 50), (80, 250), 0, 20)  # dark
    cv2.polylines(grey, [np.array([(160, 50), (320, 50), (220, 260)])], False, 255, 20)  # light
    cv2.imwrite("both.png", grey)
    for invert, label in (("yes", "1"), ("no", "7")):
        assert json.loads(recognise("both.png", "--json", "--invert", invert)[1])["label"] == label


def test_file_names_of_any_kind_are_told(page, recognise):
    name = "すし\n\x1b.png"
    shutil.copy("scans/one.png", name)
    if sys.platform == "linux":
        shutil.copy("scans/one.png", os.fsdecode(b"\xff.png"))
    cv2.imwrite("blank\x1b[31m.png", np.full((50, 50), 255, np.uint8))
    status, stdout, stderr = recognise(".")
    assert (status, "Traceback" in stderr, "\x1b" in stderr) == (0, False, False)
    assert "[WARNING] blank?[31m.png: no ink found\n" in stderr
    assert " すし??.png " in stdout and (sys.platform != "linux" or " ?.png " in stdout)


def test_a_network_for_photos_recognises_pictures_of_any_size(page, cifar_dir, run_train, run_predict):
    assert run_train("-d", "cifar10", "--data", cifar_dir, "--arch", "lenet-slim", "--epochs", 1, "--quiet")[0] == 0
    status, stdout, stderr = run_predict("scans/blank.png", "scans/one.png", "--show-input")
    assert (status, stderr) == (0, "") and "recognised 2 of 2 pictures" in stdout
    assert "[WARNING] --invert no changes nothing" in run_predict("scans/one.png", "--invert", "no")[2]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(display, "is_available", lambda: True)
        status, _, stderr = run_predict("--draw")
    assert status == 2 and "--draw: this network knows CIFAR-10, photos, and can't read what is drawn" in stderr


def test_the_windows_show_the_pictures_answers(page, recognise, monkeypatch):
    shown = []
    monkeypatch.setattr(display, "is_available", lambda: True)
    monkeypatch.setattr(display, "show_one_by_one", lambda tiles, title: shown.extend(tiles))
    assert recognise("scans")[0] == 0
    assert [tile.shape for tile in shown] == [(2 * 228, 2 * 168, 3)] * 2
    for silent in ("--no-show", "--json"):
        recognise("scans", silent)
    assert len(shown) == 2


# --- for other programs ---


def test_a_network_is_exported_and_compared_on_its_test_set(page, recognise, few_digits):
    status, stdout, stderr = recognise("--export", "new/model.onnx")
    assert (status, stderr) == (0, "")
    assert re.search(r"the same labels in OpenCV's dnn for 100 test images of digits; prob.* at most \de-\d\d", stdout)
    assert os.listdir("new") == ["model.onnx"]
    network = cv2.dnn.readNetFromONNX("new/model.onnx")
    network.setInput(np.zeros((2, 1, 28, 28), np.float32))
    assert network.forward().sum(1) == pytest.approx([1, 1], abs=1e-5)


def test_without_its_test_set_a_network_is_compared_on_noise(model, run_predict):
    shutil.rmtree("data")
    status, stdout, _ = run_predict("--export", "model.onnx", "--data", "data")
    assert status == 0 and "for 1000 images of noise, for data holds no KMNIST" in stdout


def test_nothing_is_exported_that_differs(page, recognise, few_digits, monkeypatch):
    monkeypatch.setattr(export, "CLOSE", 0.0)
    status, _, stderr = recognise("--export", "model.onnx")
    assert status == 1 and "nothing written" in stderr and not Path("model.onnx").exists()


# --- the report ---


def test_the_report_of_a_saved_model_is_that_of_its_training_to_the_last_bit(model, run_predict):
    files = ["report.json", "confusion.png", "mistakes.png", "report.html"]
    by_train = {name: Path("output", name).read_bytes() for name in files}
    for name in files:
        Path("output", name).unlink()
    status, stdout, stderr = run_predict("--evaluate")
    assert (status, stderr) == (0, "")
    assert {name: Path("output", name).read_bytes() for name in files} == by_train
    report = json.loads(by_train["report.json"])
    assert report["accuracy"] == torch.load(model, weights_only=True)["metrics"]["test_accuracy"]
    assert f"[INFO] test accuracy: {report['accuracy']:.4f}\n" in stdout
    assert f"[INFO] wrote in output: {', '.join(files[:3])}\n" in stdout
    assert stdout.replace(os.sep, "/").endswith("open output/report.html\n")
    for row in report["classes"]:
        figures = " +".join(f"{row[name]:.4f}" for name in ("precision", "recall", "f1-score"))
        assert re.search(rf"^ +{row['class']} +{figures} +{row['support']}$", stdout, re.MULTILINE)


@pytest.mark.skipif(sys.platform == "win32", reason="links need permission on Windows")
def test_the_report_lies_beside_what_a_link_leads_to(model, run_predict):
    Path("link.pth").symlink_to(model)
    Path("output/report.json").unlink()
    assert run_predict("--model", "link.pth", "--evaluate")[0] == 0
    assert Path("output/report.json").exists() and not Path("report.json").exists()


def test_the_report_goes_where_output_says(model, run_predict):
    before = sorted(os.listdir("output"))
    assert run_predict("--evaluate", "--output", "new/folder")[0] == 0
    assert sorted(os.listdir("new/folder")) == ["confusion.png", "mistakes.png", "report.html", "report.json"]
    assert sorted(os.listdir("output")) == before


@pytest.mark.parametrize("arguments, message", [
    (["--samples", "0"], "--samples must be from 1 to 1000, not 0"),
    (["--samples", "1001"], "--samples must be from 1 to 1000, not 1001"),
    (["--seed", "-1"], "--seed must be 0 or more"),
    (["--model", "nowhere.pth"], "--model nowhere.pth: can't be read (No such file or directory); train a"),
    (["--model", "."], "--model .: can't be read (Is a directory); train a network first"),
    (["--model", "m.pth", "--output", "."], "--output .: is a folder"),
    (["--model", "m.pth", "--output", "p.pdf"], "--output p.pdf: can't write that kind of file; end the name in .png"),
    (["--evaluate", "p.png"], "pictures and --evaluate don't go together; give one command for each"),
    (["--draw", "--export", "m.onnx"], "--draw and --export don't go together"),
    (["p.png", "--dataset", "digits"], "--dataset doesn't go with pictures, but with test images or --evaluate"),
    (["--evaluate", "--invert", "yes"], "--invert doesn't go with --evaluate, but with pictures"),
    (["--json"], "--json doesn't go with test images, but with pictures"),
    (["p.png", ""], "a PICTURE needs a name"),
    (["--draw", "--output", "d.png"], "--output d.png: with --draw it names a folder"),
    (["p.png", "--top", "0"], "--top must be 1 or more, not 0"),
    (["p.png", "--invert", "maybe"], "argument --invert: invalid choice: 'maybe'"),
    (["--model", "m.pth", "--export", "m.pth"], "--export m.pth: can't write that kind of file; end the name in .onnx"),
    (["--model", "m.pth", "--draw"], "--draw: no display here to open a window on; give picture files instead"),
    (["--model", "m.pth", "a.png", "--output", "a.png"], "--output a.png: is one of the pictures to recognise"),
    (["--model", "m.pth", "--evaluate", "--output", "m.pth"], "--output m.pth: is a file; give the name of a folder"),
    (["--model", "m.pth", "--evaluate", "--output", "r.json"], "--output r.json: with --evaluate it names a folder"),
    (["--model", "m.pth", "--dataset", "imagenet"], "invalid choice: 'imagenet' (choose from"),
    (["--model", "m.pth", "--output", "o.png", "--show"], "--show: no display here to open a window on"),
])  # fmt: skip
def test_bad_arguments_are_refused_in_one_line_without_torch(run_without_torch, tmp_path, arguments, message):
    (tmp_path / "m.pth").touch()
    if {"--show", "--draw"} & set(arguments) and sys.platform != "linux":
        pytest.skip("only Linux can be without a display here")
    done = run_without_torch("predict", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("predict.py: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert os.listdir(tmp_path) == ["m.pth"]


def test_help_needs_no_torch(run_without_torch):
    done = run_without_torch("predict", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
