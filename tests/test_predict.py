"""predict.py from its command line to its picture, on small data."""

import json
import os
import re
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

import cv2
import made_up
import numpy as np
import odd
import pages
import pytest
import torch
from conftest import ROOT, change_kmnist, leave_out_figures, rewrite
from PIL import Image

import predict
import train
from neural_lib import checkpoint
from neural_lib.data import catalog
from neural_lib.data.images import load_images
from neural_lib.evaluation import annotate
from neural_lib.prediction import command, modes, recogniser, webpage
from neural_lib.system import cli

LINE = re.compile(r"\[INFO\] ground truth label: (\S+), predicted label: (\S+) \((\d+\.\d)%\)")


@pytest.fixture(scope="module")
def trained(make_once) -> Path:
    """A folder with the made-up KMNIST in data/ and a model trained on it in output/."""

    def make(folder: Path) -> None:
        files = made_up.make_files()
        made_up.write_files(files, folder / "data" / "KMNIST" / "raw")
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.chdir(folder)
            change_kmnist(monkeypatch, sha256=made_up.sha256(files), train_size=made_up.TRAIN_SIZE)
            arguments = ["-d", "kmnist", "--epochs", "3", "--batch-size", "16", "--quiet"]
            assert cli.run(train.main, "train.py", arguments) == 0

    return make_once("trained-on-kmnist", make)


@pytest.fixture
def model(trained, made_up_kmnist, tmp_path, monkeypatch) -> Path:
    """output/model.pth in the current folder, and its data in data/."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "output" / "model.pth"


@pytest.fixture
def run_predict(capfd, monkeypatch, request):
    """Run predict.main in this process; returns exit status, stdout, stderr.

    matplotlib's figures are not drawn, unless the test is marked `figures`.
    """
    if not request.node.get_closest_marker("figures"):
        leave_out_figures(monkeypatch)

    def run(*arguments):
        status = cli.run(predict.main, "predict.py", [str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


def test_ten_test_images_are_logged_and_drawn(model, run_predict):
    status, stdout, stderr = run_predict()
    assert (status, stderr) == (0, "")
    lines = LINE.findall(stdout)
    assert len(lines) == 10
    assert {truth for truth, _, _ in lines} <= set(catalog.DATASETS["kmnist"].classes)
    right = sum(truth == predicted for truth, predicted, _ in lines)
    assert right >= 8  # the made-up images are easy
    assert f"{right} of 10 right; wrote output/predictions.png" in stdout.replace(os.sep, "/")
    picture = cv2.imread("output/predictions.png")
    assert picture.shape == (2 * 234, 5 * 174, 3) and picture.std() > 0


def test_the_draw_is_seeded_and_repeats_no_image(model, run_predict):
    whole = LINE.findall(run_predict("-n", 100)[1])
    truths = load_images("kmnist", "data", train=False).labels.tolist()
    names = catalog.DATASETS["kmnist"].classes
    assert sorted(truth for truth, _, _ in whole) == sorted(names[label] for label in truths)
    first, again, other = (LINE.findall(run_predict("--seed", seed)[1]) for seed in (1, 1, 2))
    assert first == again != other


def test_log_and_picture_take_the_names_from_the_checkpoint(model, run_predict, monkeypatch):
    names = [f"class-{number}" for number in range(10)]
    rewrite(model, {"classes": names})
    drawn = []

    def annotate_image(*args, annotate_image=annotate.annotate_image):
        drawn.append(args)
        return annotate_image(*args)

    monkeypatch.setattr(annotate, "annotate_image", annotate_image)
    lines = LINE.findall(run_predict()[1])
    assert [(truth, predicted) for truth, predicted, _ in lines] == [
        (truth.split()[0], predicted.split()[0]) for _, predicted, _, truth in drawn
    ]
    assert {truth for truth, _, _ in lines} <= set(names)


@pytest.mark.slow  # in a separate process
def test_the_command_line(run_script, tmp_path):
    (tmp_path / "d.pth").write_bytes(made_up.make_checkpoint("digits").to_bytes())
    done = run_script("predict.py", "--model", "d.pth", "--samples", 3, "--output", "new/folder/p.jpg")
    assert done.returncode == 0, done.stderr
    assert len(LINE.findall(done.stdout)) == 3
    assert cv2.imread(str(tmp_path / "new/folder/p.jpg")).std() > 0


@pytest.mark.parametrize("arguments, expected, message", [
    (["--samples", 101], 2, "--samples 101: KMNIST has 100 test images; ask for fewer"),
    (["--data", "empty"], 1, "no source delivered the files"),
])  # fmt: skip
def test_what_cannot_be_predicted_is_refused_in_one_line(model, run_predict, monkeypatch, arguments, expected, message):
    change_kmnist(monkeypatch, sources={})
    status, _, stderr = run_predict(*arguments)
    assert status == expected
    assert stderr.startswith("predict.py: error: ") and message in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("change, message", [
    ({"dataset": "unheard-of"}, "unheard-of, which this network was trained on, is not there; name a data set with "),
    ({"classes": ["x"], "glyphs": []}, "the model file doesn't fit together"),
    ({"format_version": torch.ones(2)}, "has model file format"),
])  # fmt: skip
def test_a_checkpoint_that_cannot_be_right_is_refused_in_one_line(model, run_predict, change, message):
    rewrite(model, change)
    status, _, stderr = run_predict()
    assert status == 2
    assert stderr.startswith("predict.py: error: ") and message in stderr and stderr.count("\n") == 1


def test_a_one_channel_model_takes_colour_images_as_grey_and_says_so(model, run_predict, cifar_batches):
    made_up.write_files(cifar_batches, Path("data/cifar-10-batches-py"))
    for arguments in ([], ["--evaluate"]):
        status, stdout, stderr = run_predict("--dataset", "cifar10", *arguments)
        assert status == 0
        names, converted = stderr.splitlines()
        assert names.startswith("[WARNING] the classes of CIFAR-10 are airplane, ") and "this model calls them" in names
        assert converted.endswith("are converted for this model: colour to grey, 32x32 to 28x28 pixels")
    report = json.loads(Path("output/report-cifar10.json").read_text())
    assert (report["dataset"], report["trained_on"], report["images"]) == ("cifar10", "kmnist", 60)


def test_the_data_set_is_read_where_training_found_it(model, run_predict, tmp_path, monkeypatch):
    change_kmnist(monkeypatch, sources={})
    trained_from = Path(checkpoint.load(model).training["data"])
    assert trained_from.is_absolute() and trained_from.name == "data"
    shutil.move("data", "elsewhere")
    rewrite(model, {"training": {"data": str(tmp_path / "elsewhere")}})
    for arguments in ([], ["--evaluate"], ["--data", "elsewhere"]):
        assert run_predict(*arguments)[0] == 0
    status, _, stderr = run_predict("--data", "data")  # an option comes first
    assert status == 1 and "no source delivered the files" in stderr
    shutil.move("elsewhere", "data")
    assert run_predict()[0] == 0  # data is read where training's folder is gone


def test_a_model_file_without_a_training_record_has_a_page(model, run_predict):
    rewrite(model, {}, without=["training"])
    assert run_predict("--evaluate")[0] == 0
    assert "<dt>command</dt>" not in Path("output/report.html").read_text()


# --- user pictures ---


@pytest.fixture
def page(digits_model, tmp_path, monkeypatch) -> Path:
    """A folder of pictures to recognise: a one, a seven, a blank page; one more in a subfolder."""
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


def test_pictures_are_listed_in_a_table_and_a_montage(page, recognise):
    status, stdout, stderr = recognise("scans", "-r", "--show-input")
    assert status == 0
    rows = [line.split() for line in stdout.splitlines() if line.startswith(" scans")]
    assert [Path(row[0]).name for row in rows] == ["one.png", "seven.jpg", "light.webp"]
    assert [row[1] for row in rows] == ["1", "7", "7"] and all(row[2].endswith("%") for row in rows)
    assert "[INFO] wrote output/predictions.png\n[INFO] recognised 3 of 4 pictures\n" in stdout.replace(os.sep, "/")
    assert stderr.splitlines() == [
        f"[WARNING] skipped, for the content is not that of a picture: {Path('scans/notes.txt')}",
        f"[WARNING] {Path('scans/blank.png')}: no ink found",
    ]
    picture = cv2.imread("output/predictions.png")
    assert picture.shape == (234, 3 * (2 * 168 + 6 + 6), 3) and picture.std() > 10


def test_pictures_as_json(page, recognise):
    status, stdout, stderr = recognise("scans", "nowhere.png", "--json", "--top", 2)
    assert status == 0
    answers = [json.loads(line) for line in stdout.splitlines()]
    assert [Path(each["path"]).name for each in answers] == ["blank.png", "one.png", "seven.jpg", "nowhere.png"]
    assert [each.get("label") for each in answers] == [None, "1", "7", None]
    assert answers[0]["error"] == "no ink found" and "No such file" in answers[3]["error"]
    assert answers[1]["top"][0]["label"] == "1" and len(answers[1]["top"]) == 2
    assert "[INFO] recognised 2 of 4 pictures" in stderr and not Path("output").exists()
    Path("scans/photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    _, stdout, stderr = recognise("scans", "--json")
    assert json.loads(stdout.splitlines()[0])["error"].startswith("is a HEIC photo; convert it to JPEG")
    assert "[INFO] recognised 2 of 4 pictures" in stderr


@pytest.mark.slow
def test_an_option_of_another_mode_that_does_no_harm_is_ignored(page, recognise):
    status, stdout, _ = recognise("scans/one.png", "--data", "nowhere", "--samples", 3, "--seed", 5)
    assert status == 0 and "recognised 1 of 1 picture" in stdout
    assert recognise("--evaluate", "-d", "digits", "-o", "here", "--top", 5, "--show", "-r")[0] == 0


def test_a_pattern_is_expanded(page, recognise):
    status, stdout, _ = recognise("scans/*e*.[pj]*g", "--no-show")
    assert status == 0 and "recognised 2 of 2 pictures" in stdout


def test_with_json_a_montage_is_written_where_output_says(page, recognise):
    assert recognise("scans", "--json", "--output", "p.jpg")[0] == 0
    assert cv2.imread("p.jpg").shape == (234, 2 * 174, 3)


def test_many_pictures_come_to_several_pages(page, recognise, monkeypatch):
    monkeypatch.setattr(annotate, "PAGE", 3)
    status, stdout, _ = recognise(*["scans/one.png"] * 4)
    assert status == 0 and stdout.count("one.png  ") == 4
    assert "[INFO] wrote output/predictions-page-1.png, predictions-page-2.png\n" in stdout.replace(os.sep, "/")
    assert sorted(os.listdir("output")) == ["predictions-page-1.png", "predictions-page-2.png"]


def test_no_page_replaces_a_picture(page, recognise, monkeypatch):
    monkeypatch.setattr(annotate, "PAGE", 3)
    shutil.copy("scans/one.png", "p-page-2.png")
    status, _, stderr = recognise(*["scans/one.png"] * 3, "p-page-2.png", "--output", "p.png")
    assert status == 2 and "--output p.png: might replace p-page-2.png, a picture to read; choose another" in stderr


def test_a_montage_in_the_folder_is_not_recognised_the_next_time(page, recognise):
    for _ in range(2):
        status, stdout, _ = recognise("scans", "--output", "scans/result.png")
        assert status == 0 and "recognised 2 of 3 pictures" in stdout
    assert "recognised 2 of 3 pictures" in recognise("scans", "--output", "elsewhere.png")[1]
    assert "recognised 2 of 3 pictures" in recognise("scans", "--json")[2]
    assert "1 of 1 picture" in recognise("scans/result.png")[1]  # what is named is read


def test_ctrl_c_ends_it_with_one_line(page, recognise, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(recogniser, "read_picture", interrupted)
    status, _, stderr = recognise("scans")
    assert status == 130 and stderr.splitlines()[-1] == "predict.py: error: interrupted"


@pytest.mark.parametrize("arguments, warning", [
    (["nowhere.png"], "[WARNING] nowhere.png: can't be read (No such file or directory)"),
    (["scans/blank.png"], "blank.png: no ink found"),
    (["scans/notes.txt"], "notes.txt: is not a PNG, "),
    (["empty"], "[WARNING] empty: holds no picture (PNG, "),
])  # fmt: skip
def test_where_nothing_is_recognised_the_status_is_1(page, recognise, arguments, warning):
    Path("empty").mkdir()
    status, stdout, stderr = recognise(*arguments)
    assert status == 1 and warning in stderr
    assert stderr.splitlines()[-1].startswith("predict.py: error: ") and stderr.count("error") == 1
    assert "%" not in stdout and not os.path.exists("output")


def test_file_names_of_any_kind_are_printed(page, recognise):
    name = "すし\n\x1b.png"
    shutil.copy("scans/one.png", name)
    if sys.platform == "linux":
        shutil.copy("scans/one.png", os.fsdecode(b"\xff.png"))
    cv2.imwrite("blank\x1b[31m.png", np.full((50, 50), 255, np.uint8))
    status, stdout, stderr = recognise(".")
    assert (status, "Traceback" in stderr, "\x1b" in stderr) == (0, False, False)
    assert "[WARNING] blank?[31m.png: no ink found\n" in stderr
    assert " すし??.png " in stdout and (sys.platform != "linux" or " ?.png " in stdout)


def test_a_network_for_photos_recognises_pictures_of_any_size(page, run_predict):
    Path("photos.pth").write_bytes(made_up.make_checkpoint("cifar10").to_bytes())
    status, stdout, stderr = run_predict("-m", "photos.pth", "scans/blank.png", "scans/one.png", "--show-input")
    assert (status, stderr) == (0, "") and "answered 2 of 2 pictures" in stdout
    inverted = run_predict("-m", "photos.pth", "scans/one.png", "--invert", "no")
    assert "[WARNING] --invert no changes nothing" in inverted[2]


def test_the_windows_show_the_pictures_answers(page, recognise, monkeypatch):
    shown = []
    monkeypatch.setattr(command, "is_display_available", lambda: True)
    monkeypatch.setattr(modes, "show_one_by_one", lambda tiles, title: shown.extend(tiles))
    assert recognise("scans")[0] == 0
    assert [tile.shape for tile in shown] == [(2 * 228, 2 * 168, 3)] * 2
    for silent in ("--no-show", "--json"):
        recognise("scans", silent)
    assert len(shown) == 2


# --- a page to draw on ---


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The addresses of the pages that a browser is asked to open."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    return addresses


@pytest.mark.slow
def test_draw_opens_the_page_that_export_writes(page, recognise, opened, few_digits):
    options = ("--min-probability", 0.75, "--title", "Which <digit>?")
    assert recognise("--draw", *options)[0] == 0
    assert opened == [Path("output/draw.html").absolute().as_uri()]
    assert recognise("--export", "page.html", *options)[0] == 0
    assert "<title>Which &lt;digit&gt;?</title>" in Path("page.html").read_text(encoding="utf-8")
    assert Path("output/draw.html").read_bytes() == Path("page.html").read_bytes()
    assert recognise("--draw", "--output", "new/a folder", "--show")[0] == 0
    assert opened[1].endswith("/new/a%20folder/draw.html") and len(opened) == 2


def test_draw_without_showing_names_the_page(page, recognise, opened, few_digits):
    status, stdout, _ = recognise("--draw", "--no-show")
    assert status == 0 and f"[INFO] wrote {Path('output/draw.html')} (" in stdout and opened == []


@pytest.mark.few(1)
@pytest.mark.parametrize("error", [webbrowser.Error("could not locate runnable browser"), None])
def test_where_no_browser_opens_draw_names_the_page(page, recognise, few_digits, monkeypatch, error):
    def open_nothing(address: str) -> bool:
        if error:
            raise error
        return False

    monkeypatch.setattr(webbrowser, "open", open_nothing)
    status, _, stderr = recognise("--draw")
    assert status == 0 and Path("output/draw.html").exists()
    assert stderr.splitlines()[-1] == f"[WARNING] no browser can be opened; open {Path('output/draw.html')} in one"


@pytest.mark.slow  # in a separate process
def test_draw_starts_the_users_browser_without_a_display(run_script, digits_model, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "opened $1"\n')
    browser.chmod(0o755)
    done = run_script("predict.py", "--model", digits_model, "--draw", BROWSER=f"{browser} %s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"opened {(tmp_path / 'output' / 'draw.html').as_uri()}"


def test_a_network_that_cannot_read_drawings_is_refused(page, run_predict, opened):
    Path("photos.pth").write_bytes(made_up.make_checkpoint("cifar10").to_bytes())
    status, _, stderr = run_predict("-m", "photos.pth", "--draw")
    assert status == 2 and opened == [] and not Path("output").exists()
    message = "--draw: this network knows CIFAR-10, photos, not drawings; give picture files instead"
    assert stderr == f"predict.py: error: {message}\n"


def test_a_network_that_the_page_cannot_hold_is_refused(page, recognise, opened, few_digits, monkeypatch):
    monkeypatch.setattr(webpage, "PAGE_LIMIT", 1_000_000)
    status, _, stderr = recognise("--draw")
    assert status == 2 and opened == [] and not Path("output").exists()
    message = f"{Path('output/draw.html')}: the page would have 1.2 MB, more than the limit of 1.0 MB; use a smaller"
    assert stderr == f"predict.py: error: {message} network\n"


def test_draw_replaces_no_folder_and_no_report(page, recognise, opened):
    Path("output/draw.html").mkdir(parents=True)
    status, _, stderr = recognise("--draw")
    assert status == 2 and f"--output {Path('output/draw.html')}: is a folder" in stderr
    Path("output/draw.html").rmdir()
    Path("output/draw.html").symlink_to(Path("output/report.html").absolute())
    status, _, stderr = recognise("--draw")
    assert status == 2 and "report.html: is reserved for a file of the report" in stderr
    assert opened == [] and not Path("output/report.html").exists()


# --- for other programs ---


@pytest.mark.slow
def test_a_network_is_exported_and_compared_on_its_test_set(page, recognise, few_digits):
    status, stdout, stderr = recognise("--export", "new/model.onnx")
    assert (status, stderr) == (0, "") and "computing on cpu (export runs on the CPU)" in stdout
    assert re.search(r"the same labels in OpenCV's dnn for 100 test images of digits; prob.* at most \de-\d\d", stdout)
    assert os.listdir("new") == ["model.onnx"]
    network = cv2.dnn.readNetFromONNX("new/model.onnx")
    network.setInput(np.zeros((2, 1, 28, 28), np.float32))
    assert network.forward().sum(1) == pytest.approx([1, 1], abs=1e-5)


def test_packages_that_an_export_lacks_are_named(page, recognise, monkeypatch):
    monkeypatch.setattr(command, "ONNX_PACKAGES", ("json", "onnxfoo", "onnxbar"))
    status, _, stderr = recognise("--export", "model.onnx")
    assert status == 2
    assert stderr == "predict.py: error: --export model.onnx: needs onnxfoo and onnxbar: pip install onnxfoo onnxbar\n"


# --- the report ---


@pytest.mark.figures
def test_the_report_of_a_saved_model_is_that_of_its_training_to_the_last_bit(model, run_predict):
    files = ["report.json", "confusion.png", "mistakes.png", "labels.csv", "report.html"]
    by_train = {name: Path("output", name).read_bytes() for name in files}
    for name in files:
        Path("output", name).unlink()
    status, stdout, stderr = run_predict("--evaluate")
    assert (status, stderr) == (0, "")
    assert {name: Path("output", name).read_bytes() for name in files} == by_train
    report = json.loads(by_train["report.json"])
    assert report["accuracy"] == torch.load(model, weights_only=True)["metrics"]["test_accuracy"]
    assert f"[INFO] test accuracy: {report['accuracy']:.4f}\n" in stdout
    assert f"[INFO] wrote in output: {', '.join(files[:4])}\n" in stdout
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
    assert sorted(os.listdir("new/folder")) == [
        "confusion.png", "labels.csv", "mistakes.png", "report.html", "report.json",
    ]  # fmt: skip
    assert sorted(os.listdir("output")) == before


# --- bad arguments ---

REFUSED = [
    (["--samples", "0"], "--samples must be from 1 to 1000, not 0"),
    (["--samples", "1001"], "--samples must be from 1 to 1000, not 1001"),
    (["--seed", "-1"], "--seed must be 0 or more"),
    (["--model", "nowhere.pth"], "--model nowhere.pth: can't be read (No such file or directory); train a"),
    (["--model", "."], "--model .: is a folder, not a file; train a network first"),
    (["--model", "m.pth", "--output", "."], "--output .: is a folder"),
    (["--model", "m.pth", "--output", "p.pdf"], "--output p.pdf: can't write that kind of file; end the name in .png"),
    (["--evaluate", "p.png"], "pictures and --evaluate don't go together; give one command for each"),
    (["--sheet", "s.pdf", "--labels", "a", "b"], 'several labels are one text: --labels "a b c"'),
    (["--draw", "--export", "m.onnx"], "--draw and --export don't go together"),
    (["p.png", "--dataset", "digits"], "--dataset doesn't go with pictures, but with test images or --evaluate"),
    (["--evaluate", "--invert", "yes"], "--invert doesn't go with --evaluate, but with pictures"),
    (["--json"], "--json doesn't go with test images, but with pictures"),
    (["p.png", "--title", "t"], "--title doesn't go with pictures, but with --export or --draw"),
    (["--export", "m.onnx", "--title", "t"], "--title is for a page, and --export m.onnx is none"),
    (["--draw", "--title", "a\nb"], "--title 'a\\nb': is not UTF-8, or has control characters"),
    (["p.png", ""], "a PICTURE needs a name"),
    (["--draw", "--output", "d.html"], "--output d.html: with --draw it names a folder"),
    (["p.png", "--top", "0"], "--top must be 1 or more, not 0"),
    (["p.png", "--invert", "maybe"], "argument --invert: invalid choice: 'maybe'"),
    (["--model", "m.pth", "--export", "n.pth"], "--export n.pth: can't write that kind of file; end the name in .html"),
    (["--model", "m.pth", "--export", "report.html"], "--export report.html: is reserved for a file of the report"),
    (["--model", "m.pth", "--draw", "--output", "m.pth"], "--output m.pth: is a file; give the name of a folder"),
    (["--model", "m.pth", "a.png", "--output", "a.png"], "--output a.png: might replace a.png, a picture to read"),
    (["--model", "m.pth", "--evaluate", "--output", "m.pth"], "--output m.pth: is a file; give the name of a folder"),
    (["--model", "m.pth", "--evaluate", "--output", "r.json"], "--output r.json: with --evaluate it names a folder"),
    (["--model", "m.pth", "--dataset", "imagenet"], "--dataset imagenet: is no data set, file or folder; "),
    (["--model", "m.pth", "--output", "o.png", "--show"], "--show: no display to open a window on"),
]  # fmt: skip
COMMAND_LINES = """
import contextlib, io, json, os, sys
sys.modules["torch"] = None  # importing it is an error
import predict
from neural_lib.system import cli
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            status = cli.run(predict.main, "predict.py", arguments)
        except SystemExit as end:  # of --help
            status = end.code
    print(json.dumps([status, stdout.getvalue(), stderr.getvalue(), os.listdir()]))
"""


@pytest.fixture(scope="module")
def refusal_of(tmp_path_factory):
    """A function that gives the result of one of REFUSED's command lines, or of --help: status, stdout, stderr, files.

    All of them are run in one process, in a folder with a file m.pth, and can't import torch.
    """
    folder = tmp_path_factory.mktemp("refused")
    (folder / "m.pth").touch()
    command_lines = [arguments for arguments, _ in REFUSED] + [["--help"]]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND_LINES],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, input=json.dumps(command_lines),
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return lambda *arguments: results[command_lines.index(list(arguments))]


@pytest.mark.parametrize("arguments, message", REFUSED)
def test_bad_arguments_are_refused_in_one_line_without_torch(refusal_of, arguments, message):
    if "--show" in arguments and sys.platform != "linux":
        pytest.skip("only Linux can be without a display here")
    status, stdout, stderr, files = refusal_of(*arguments)
    assert (status, stdout, files) == (2, "", ["m.pth"])
    assert stderr.startswith("predict.py: error: ") and message in stderr and stderr.count("\n") == 1


def test_help_needs_no_torch(refusal_of):
    status, stdout, stderr, _ = refusal_of("--help")
    assert (status, stderr) == (0, "")
    assert max(map(len, stdout.splitlines())) <= 80


# --- pages, as people photograph and scan them ---


def a_sheet(digits: str, size: int = 180, ink: int = 40) -> np.ndarray:
    """Digits on a page of 800 x 1,150 pixels, grey, at most three in a row."""
    images, labels = load_images("digits", "nowhere", train=False)[:]
    grey = np.random.default_rng(0).normal(230, 2, (800, 1150)).round().clip(0, 255)
    for number, digit in enumerate(digits):
        image = images[(labels == int(digit)).nonzero()[2 + number], 0][0].numpy()  # of another writer each time
        mark = pages.written(image, size, "brush")
        top, left = 200 + number // 3 * 330, 200 + number % 3 * 330
        part = grey[top : top + size, left : left + size]
        part += (ink - part) * mark
    return grey.astype(np.uint8)


def on_lines(grey: np.ndarray, across: bool = True, down: bool = False) -> np.ndarray:
    lined = grey.copy()
    if across:
        lined[30::80] = lined[31::80] = np.minimum(lined[30::80], 150)
    if down:
        lined[:, 30::80] = lined[:, 31::80] = np.minimum(lined[:, 30::80], 150)
    return lined


def in_a_box(grey: np.ndarray) -> np.ndarray:
    return cv2.rectangle(grey.copy(), (160, 160), (420, 420), 30, 4)


def with_dark_edges(grey: np.ndarray) -> np.ndarray:
    return cv2.rectangle(grey.copy(), (0, 0), (1149, 799), 10, 80)


def below_a_table(grey: np.ndarray) -> np.ndarray:
    dark = grey.copy()
    dark[:70] = 50
    return dark


def with_specks(grey: np.ndarray) -> np.ndarray:
    specked = grey.copy()
    for x, y in np.random.default_rng(1).integers(0, (1150, 800), (300, 2)).tolist():
        cv2.circle(specked, (x, y), 1, 40, cv2.FILLED)
    return specked


def save(name: str, *grey: np.ndarray, **how: object) -> str:
    first, *others = map(Image.fromarray, grey)
    first.save(name, save_all=True, append_images=others, **how) if others else first.save(name, **how)
    return name


TRIED = {  # what a person tries: a function that writes a file and returns its name, and what is to be read
    "two side by side": (lambda: save("p.png", a_sheet("38")), "38"),
    "five": (lambda: save("p.jpg", a_sheet("31407")), "31407"),
    "a sheet of 2 x 3": (lambda: save("p.png", a_sheet("274630")), "274630"),
    "ruled paper": (lambda: save("p.png", on_lines(a_sheet("3"))), "3"),
    "squared paper": (lambda: save("p.png", on_lines(a_sheet("62"), down=True)), "62"),
    "a box around it": (lambda: save("p.png", in_a_box(a_sheet("4"))), "4"),
    "an empty box": (lambda: save("p.png", in_a_box(a_sheet(""))), ""),
    "a scanner's edge": (lambda: save("p.png", with_dark_edges(a_sheet("3"))), "3"),
    "a table's edge": (lambda: save("p.png", below_a_table(a_sheet("6"))), "6"),
    "300 specks": (lambda: save("p.png", with_specks(a_sheet("2"))), "2"),
    "a dithered scan": (lambda: save("p.tif", np.asarray(Image.fromarray(a_sheet("4")).convert("1"))), "4"),
    "12 bits in 16": (lambda: save("p.png", a_sheet("3").astype(np.uint16) * 16), "3"),
    "a TIFF of ten pages": (
        lambda: save("p.tif", *(a_sheet(digit)[:500, :500] for digit in "0123456789")),
        "0123456789",
    ),
    "a GIF of three": (lambda: save("p.gif", *(a_sheet(digit) for digit in "470")), "470"),
    "a JPEG with another name": (lambda: save("IMG_1.HEIC", a_sheet("3"), format="JPEG"), "3"),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("tried", TRIED)
def test_what_people_try_is_read(recognise, tmp_path, monkeypatch, tried):
    monkeypatch.chdir(tmp_path)
    make, digits = TRIED[tried]
    name = make()
    status, stdout, _ = recognise(name, "--json")
    results = [json.loads(line) for line in stdout.splitlines()]
    if not digits:
        assert status == 1 and results[0]["error"] == "no ink found"
        return
    characters = [each for result in results for each in result["characters"]]
    assert status == 0 and "".join(each["label"] for each in characters) == digits
    if len(results) > 1:
        assert [result["page"] for result in results] == list(range(1, len(digits) + 1))
    else:
        assert "page" not in results[0] and [each["box"][:2] for each in characters] == pytest.approx(
            np.array([(200 + number % 3 * 330, 200 + number // 3 * 330) for number in range(len(digits))]), abs=90
        )
        assert (results[0].get("label"), results[0].get("box")) == (
            (digits, characters[0]["box"]) if len(digits) == 1 else (None, None)
        )


@pytest.mark.slow
def test_a_sheet_in_table_picture_and_order(page, recognise):
    save("sheet.png", a_sheet("274630"))
    status, stdout, _ = recognise("sheet.png", "--order", "columns")
    assert status == 0 and "recognised 6 characters in 1 of 1 picture" in stdout
    rows = [line.split() for line in stdout.splitlines() if line.startswith(" sheet.png")]
    assert [row[1:3] for row in rows] == [["1", "4"], ["2", "0"], ["3", "7"], ["4", "3"], ["5", "2"], ["6", "6"]]
    picture = cv2.imread("output/predictions.png")
    assert (
        picture.shape == (712 + annotate.LINE_HEIGHT, 1024, 3) and (picture == annotate.DARK_GREEN).all(2).sum() > 3000
    )
    assert recognise("sheet.png", "scans/one.png", "--output", "p.png")[0] == 0
    assert cv2.imread("p-sheet-1.png").shape == (712 + annotate.LINE_HEIGHT, 1024, 3) and cv2.imread("p.png").shape == (
        234,
        174,
        3,
    )


def test_with_single_a_picture_holds_one_character(page, recognise):
    save("sheet.png", a_sheet("27"))
    status, stdout, _ = recognise("sheet.png", "--single", "--json")
    (result,) = map(json.loads, stdout.splitlines())
    assert status == 0 and len(result["characters"]) == 1 and "box" not in result and result["label"]


def test_an_unsure_answer_is_marked_everywhere(page, recognise):
    status, stdout, _ = recognise("scans", "--min-probability", 1)
    assert (
        status == 0
        and "recognised 2 of 3 pictures, 2 unsure (?: less probable than 100%, unlike the training images, or too long"
        in stdout
        and stdout.count("% ?") == 2
    )
    marked = cv2.imread("output/predictions.png")
    assert (marked == annotate.AMBER).all(2).any()
    answers = [json.loads(line) for line in recognise("scans", "--min-probability", 1, "--json")[1].splitlines()]
    assert [each.get("sure") for each in answers] == [None, False, False]
    answers = [json.loads(line) for line in recognise("scans", "--min-probability", 0, "--json")[1].splitlines()]
    assert [each.get("sure") for each in answers] == [None, True, True]


def test_pages_of_a_file_are_numbered_in_table_and_errors(page, recognise):
    save("scan.tif", a_sheet("3"), a_sheet(""), a_sheet("48"))
    status, stdout, stderr = recognise("scan.tif")
    assert status == 0 and "recognised 3 characters in 2 of 3 pictures" in stdout
    assert [line.split()[0] for line in stdout.splitlines() if line.startswith(" scan")] == [
        "scan.tif[1]", "scan.tif[3]", "scan.tif[3]",
    ]  # fmt: skip
    assert "[WARNING] scan.tif[2]: no ink found" in stderr


@pytest.mark.slow
def test_letters_dots_and_scribbles_are_mostly_unsure(page, recognise):
    Path("odd").mkdir()
    for number, (kind, picture) in enumerate(odd.pictures(1, count=5)):
        if kind not in ("digit", "scratch"):  # a scratch may be a one
            cv2.imwrite(f"odd/{number}.png", picture)
    Path("right").mkdir()
    cv2.imwrite("right/0-5.png", a_sheet("012345"))
    cv2.imwrite("right/6-9.png", a_sheet("6789"))
    shares = []
    for folder in ("odd", "right"):
        answers = [json.loads(line) for line in recognise(folder, "--json")[1].splitlines()]
        sure = [each["sure"] for answer in answers for each in answer.get("characters", [])]
        shares.append(1 - sum(sure) / len(sure))
    assert shares[0] > shares[1] + 0.3
