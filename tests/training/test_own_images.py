"""train.py and predict.py on images of one's own, in whole commands."""

import json
import os
import re
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import made_up
import numpy as np
import pytest
import torch
from conftest import killed_after_saving, rewrite
from outcomes import outcome
from sklearn.utils.class_weight import compute_class_weight

import predict
from neural_lib import checkpoint
from neural_lib.config import TrainConfig
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import ImageTensors, load_data, load_images, split
from neural_lib.networks import build_network
from neural_lib.prediction import Recogniser
from neural_lib.prediction.modes import load_test_images
from neural_lib.pretrained import copy_weights
from neural_lib.system import cli, signals
from neural_lib.system.distributed import PADDING
from neural_lib.system.errors import UserError
from neural_lib.training.optim import build_loss
from neural_lib.training.progress import STATE_FORMAT
from neural_lib.training.run import resolve

QUICK = ("--arch", "lenet-slim", "--device", "cpu", "--epochs", 2)


@pytest.fixture
def photos(tmp_path) -> Path:
    return made_up.write_photos(tmp_path / "photos", red=12, green=8, blue=3)


@pytest.fixture
def run_predict(tmp_path, monkeypatch, capfd):
    """Run predict.main in this process; returns exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        status = cli.run(predict.main, "predict.py", [str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


def parts_of(dataset: str, data_dir: str, config: TrainConfig) -> dict[str, tuple]:
    """Images and labels of a data set's parts, as a run with this configuration divides it."""
    train, val = split(load_images(dataset, data_dir, train=True), config)
    test = load_images(dataset, data_dir, train=False)[:]
    return {"train": (train.images, train.labels), "val": (val.images, val.labels), "test": test}


@pytest.mark.few(1)
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("write, name", [(made_up.write_parts, "d"), (made_up.write_npz, "d.npz")])
@pytest.mark.parametrize("options", [(), ("--recipe", "best", "--dropout", 0.1, "--train-split", 0.75)])
def test_a_data_set_written_out_trains_to_the_same_weights(run_train, tmp_path, write, name, options):
    path = write(tmp_path / name, parts_of("digits", "nowhere", TrainConfig()))
    for dataset, folder in (("digits", "built-in"), (path, "own")):
        assert run_train("-d", dataset, *options, *QUICK, "-b", 64, "-m", f"{folder}/model.pth")[0] == 0
    expected, found = (outcome(folder) for folder in ("built-in", "own"))
    assert found["weights"] == expected["weights"] and found["metrics"] == expected["metrics"]
    saved = checkpoint.load("own/model.pth")
    assert (saved.mean, saved.std) == (
        checkpoint.load("built-in/model.pth").mean,
        checkpoint.load("built-in/model.pth").std,
    )
    assert saved.classes == [*"0123456789"] and saved.dataset == str(path) and saved.placement == {}


@pytest.mark.slow
@pytest.mark.parametrize("write, name", [(made_up.write_parts, "d"), (made_up.write_npz, "d.npz")])
@pytest.mark.parametrize("dataset", ["kmnist", "fashion-mnist"])
def test_the_real_data_sets_written_out_train_to_the_same_weights(run_train, tmp_path, write, name, dataset):
    folders = [Path(each) / DATASETS[dataset].folder for each in (Path(__file__).parents[3] / "shared/data", "data")]
    data = next((each.parents[1] for each in folders if each.exists()), None)
    if not data:
        pytest.skip(f"the real {dataset} is neither in ../shared/data nor in data")
    config = TrainConfig(dataset=dataset)
    path = write(tmp_path / name, parts_of(dataset, data, config))
    for given, folder in ((dataset, "built-in"), (path, "own")):
        command = ("-d", given, "--data", data, "--epochs", 1, "--device", "cpu", "-m", f"{folder}/model.pth")
        assert run_train(*command)[0] == 0
    expected, found = (outcome(folder) for folder in ("built-in", "own"))
    assert found["weights"] == expected["weights"] and found["metrics"] == expected["metrics"]


def test_an_archive_of_files_whose_names_tell_classes_is_trained_on_and_scored_again(run_train, run_predict, photos):
    with zipfile.ZipFile("flat.zip", "w") as archive:
        for path in photos.rglob("*.*"):
            archive.write(path, f"flat/{path.name}")
    status, _, stderr = run_train("-d", "flat.zip", *QUICK)
    assert status == 2 and "look like 3 classes, blue, green, red: give --labels-from-names" in stderr
    status, stdout, _ = run_train("-d", "flat.zip", "--labels-from-names", *QUICK)
    assert status == 0 and "flat.zip: 3 classes, 23 images to learn from: blue (3), green (8), red (12)\n" in stdout
    report = Path("output/report.json").read_bytes()
    assert run_predict("--evaluate")[0] == 0 and Path("output/report.json").read_bytes() == report
    assert run_predict("--evaluate", "-d", photos)[0] == 0  # of another data set, folders tell the classes
    shutil.copy("flat.zip", "moved.zip")
    assert run_predict("--evaluate", "-d", "moved.zip", "--labels-from-names")[0] == 0


# --- parts ---


def test_what_is_held_out_is_of_every_class_and_scored_alike_later(run_train, run_predict, photos):
    status, stdout, stderr = run_train("-d", photos, *QUICK)
    assert status == 0
    assert "photos: 3 classes, 23 images to learn from: blue (3), green (8), red (12)\n" in stdout
    assert "photos: 32x32 pixels, in colour, the middle of each\n" in stdout
    assert "photos: 4 images are held out for test: 15% of each class, drawn by seed 42\n" in stdout
    assert "[INFO] 19 images to train on and to validate, 4 to test\n" in stdout
    assert "[WARNING] red has 4.0 times as many images as blue: --class-weights balanced" in stderr
    saved, report = checkpoint.load("output/model.pth"), Path("output/report.json").read_bytes()
    assert saved.training["val_images"] == 5 and saved.config["batch_size"] == 8
    support = [row["support"] for row in json.loads(report)["classes"]]
    assert support == [1, 1, 2] and json.loads(report)["dataset"] == str(photos)
    assert run_predict("--evaluate")[0] == 0
    assert Path("output/report.json").read_bytes() == report
    made_up.write_photos(photos, seed=1, green=2)  # two that are there are replaced
    status, _, stderr = run_predict("--evaluate")
    assert status == 0 and "photos has changed since, so among these may be some that were trained on" in stderr


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_parts_are_disjoint_whole_and_drawn_by_the_seed(photos, share):
    def parts(seed: int) -> list[set[int]]:
        data = load_data(
            TrainConfig(dataset=str(photos), test_split=share, train_split=1 - share, seed=seed), "nowhere"
        )
        every = [*data.split(TrainConfig(train_split=1 - share, seed=seed)), data.test]
        for part in every:
            assert len(part.labels.unique()) == 3 and torch.equal(part.images, part[:][0])
        return [set(part.indices.tolist()) for part in every]

    first = parts(1)
    assert sum(map(len, first)) == 23 and set.union(*first) == set(range(23))
    assert parts(1) == first != parts(2)


def test_a_grid_over_seeds_has_one_test_part(run_train, run_predict, photos):
    assert run_train("-d", photos, *QUICK, "--seed", 7, 8)[0] == 0
    saved, report = checkpoint.load("output/model.pth"), Path("output/report.json").read_bytes()
    assert saved.training["test_seed"] == 7
    assert run_predict("--evaluate")[0] == 0 and Path("output/report.json").read_bytes() == report


def write_sheets(folder: Path, seed: int = 0) -> Path:
    """Photos of three colours that were cut from nine sheets, such as <colour>/sheet-2-017.jpg."""
    made_up.write_photos(folder, seed=seed, red=30, green=24, blue=16)
    for path in [*folder.rglob("*.*")]:
        number = int(re.search(r"\d+", path.stem)[0])
        path.rename(path.with_stem(f"sheet-{number % 9}-{number:03}"))
    return folder


def sheets_of(images: ImageTensors) -> set[str]:
    return {images.name(index).rsplit("/", 1)[1].rsplit("-", 1)[0] for index in range(len(images))}


@pytest.mark.slow
def test_sheets_that_were_held_out_are_found_again(run_train, run_predict, tmp_path):
    write_sheets(tmp_path / "d")
    command = ("-d", "d", "--group-by", "sheet", *QUICK, "--seed", 7, 8)
    with killed_after_saving(4):
        run_train(*command)
    status, stdout, _ = run_train(*command, "--resume")
    assert status == 0 and re.search(r"d: 9 groups by sheet: \d train, \d validate, \d test\n", stdout)
    saved, expected = checkpoint.load("output/model.pth"), json.loads(Path("output/report.json").read_text())
    for seed in (7, 8):
        parts = load_test_images(saved, str(tmp_path / "d"), "nowhere")
        every = [*parts.split(TrainConfig(**saved.config | {"seed": seed}), by_class=True), parts.test]
        assert sum(len(sheets_of(part)) for part in every) == 9 == len(set.union(*map(sheets_of, every)))
        if seed == saved.config["seed"]:
            assert saved.training["val_images"] == len(every[1]) and expected["images"] == len(every[2])
    shutil.make_archive("packed", "zip", "d")
    shutil.copytree("d", "copy")
    for other in ("d", "copy", "packed.zip"):
        log, report, _ = evaluated(run_predict, "--dataset", other)
        assert report["confusion_matrix"] == expected["confusion_matrix"] and "held out for test are scored" in log
    (tmp_path / "copy" / "red" / "sheet-1-001.jpg").rename("copy/red/other.jpg")  # a data set without groups
    log, report, _ = evaluated(run_predict, "--dataset", "copy")
    assert report["images"] == 70 and "copy has no test/: all 70 images are scored" in log
    shutil.copytree("copy", "d", dirs_exist_ok=True)
    status, _, stderr = run_predict("--evaluate")
    assert status == 2 and "1 of 71 images have no group, such as red/other.jpg" in stderr
    for path in (tmp_path / "d").rglob("*.*"):
        if not path.name.startswith("sheet-0-"):
            path.unlink()
    log, report, _ = evaluated(run_predict)
    assert report["images"] == 9 and "d has no test/: all 9 images are scored" in log


def test_with_given_test_images_the_report_judges_the_parts_that_were_trained_on(run_train, run_predict, tmp_path):
    write_sheets(tmp_path / "d/train")
    write_sheets(tmp_path / "d/test", seed=1)
    status, _, stderr = run_train("-d", "d", "--group-by", "sheet", *QUICK)
    assert status == 0 and "d: 9 groups are in two parts, because these are given, so" in stderr
    labels = Path("output/labels.csv").read_bytes()
    Path("output/labels.csv").unlink()
    assert run_predict("--evaluate")[0] == 0 and Path("output/labels.csv").read_bytes() == labels


@pytest.mark.parametrize("counts, given, message", [
    ({"red": 5, "green": 2}, (), "a class needs 3 or more images, so that each part has one: to train, to validate, to "
     "test; too few: green 2"),
    ({"red": 5, "green": 1}, ("test",), "a class needs 2 or more images"),
])  # fmt: skip
def test_a_class_that_is_too_small_for_all_parts_is_refused(run_train, tmp_path, counts, given, message):
    for part in ("train", *given):
        made_up.write_photos(tmp_path / "d" / part, **counts)
    status, _, stderr = run_train("-d", "d", *QUICK)
    assert status == 2 and message in stderr and stderr.count("\n") == 1 and not os.path.exists("output")


def test_pictures_that_are_in_two_parts_are_counted(run_train, tmp_path):
    for part, seed in (("train", 0), ("val", 1), ("test", 2)):
        made_up.write_photos(tmp_path / "d" / part, seed=seed, red=6, green=4)
    for number in range(3):  # the same bytes, and another file of the same pixels
        (tmp_path / f"d/test/red/copy{number}.png").write_bytes((tmp_path / "d/train/red/red0.png").read_bytes())
    cv2.imwrite(str(tmp_path / "d/val/green/bitmap.bmp"), cv2.imread(str(tmp_path / "d/train/green/green0.png")))
    status, _, stderr = run_train("-d", "d", *QUICK)
    (warning,) = [line for line in stderr.splitlines() if "earlier part" in line]
    assert status == 0 and warning.startswith(
        "[WARNING] 4 images of the validation or test part are in an earlier part"
    )
    assert "train/green/green0.png and val/green/bitmap.bmp; train/red/red0.png and test/red/copy0.png" in warning


def test_a_small_data_set_gets_small_batches_unless_a_size_is_given(run_train, photos):
    data = load_data(TrainConfig(dataset=str(photos)), "nowhere")
    for count, batch_size in ((7, 7), (14, 8), (100, 12), (511, 63), (512, 64), (9999, 64)):
        data.train = data.val = ImageTensors(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count).long())
        assert [each.batch_size for each in resolve([TrainConfig()], data, torch.device("cpu"))] == [batch_size]
    status, _, stderr = run_train("-d", photos, *QUICK, "--batch-size", 15)
    assert status == 2 and "--batch-size 15 is larger than the 14 images to train on" in stderr
    assert run_train("-d", photos, *QUICK, "--batch-size", 14)[0] == 0


def test_what_is_missing_in_a_part_or_has_no_effect_is_said(run_train, tmp_path):
    made_up.write_photos(tmp_path / "d" / "train", red=6, green=4)
    made_up.write_photos(tmp_path / "d" / "testing", seed=1, red=3)
    status, _, stderr = run_train("-d", "d", *QUICK, "--test-split", 0.4)
    assert status == 0 and "d: the test part has no image of green" in stderr
    assert "--test-split has no effect, as the test part of d is given" in stderr
    status, stdout, stderr = run_train(
        "-d", "d", *QUICK, "--test", "val", "--train-split", 0.5, "-m", "again/model.pth"
    )
    assert status == 0 and "--test has no effect, as the test part of d is given" in stderr
    assert "test_seed" not in checkpoint.load("again/model.pth").training
    assert "train_split=" in stdout and "test=" not in stdout and "test_split=" not in stdout


# --- train/ and val/, but no test/ ---


@pytest.fixture
def divided(tmp_path) -> Path:
    """The folder d with 26 images in train/ and 12 in val/."""
    made_up.write_photos(tmp_path / "d" / "train", red=12, green=8, blue=6)
    return made_up.write_photos(tmp_path / "d" / "val", seed=1, red=5, green=4, blue=3).parent


def evaluated(run_predict, *options: object) -> tuple[str, dict, str]:
    """The whole output of predict.py --evaluate, its report.json and its page."""
    status, stdout, stderr = run_predict("--evaluate", "--output", "scored", *options)
    assert status == 0
    (report,), (page,) = Path("scored").glob("*.json"), Path("scored").glob("*.html")
    content = json.loads(report.read_text()), " ".join(page.read_text().split())
    shutil.rmtree("scored")
    return stdout + stderr, *content


def test_what_was_tested_and_what_chose_the_epoch_are_told_apart(run_train, run_predict, divided):
    status, stdout, _ = run_train("-d", "d", *QUICK, "--train-split", 0.5, "--test-split", 0.16)
    assert status == 0
    before, after = stdout.split("evaluating the network")
    assert (
        "d has no test/: 4 images of train/ are held out for test (16% of each class, drawn by seed 42), while the 12 "
        "images of val/ validate; --test val scores val/ as test instead\n"
    ) in before
    assert "train_split" not in before and "test_split=0.16" in before
    report, page = json.loads(Path("output/report.json").read_text()), Path("output/report.html").read_text()
    assert report["images"] == 4 and report["validation"]["images"] == 12
    head, test, val, advice = after.split(f"test accuracy: {report['accuracy']:.4f}\n")[1].splitlines()[:4]
    assert head == "[INFO] there is no test/: images of train/ were tested on, val/ validated"
    assert test.split(" +-")[0] == f"    test, taken out of train/       4 images, accuracy {report['accuracy']:.4f}"
    figure = report["validation"]["accuracy"]
    assert val.split(" +-")[0] == f"    validation, val/               12 images, accuracy {figure:.4f}"
    assert advice == "    +-: standard error; train.py --test val scores val/ as test instead"
    assert max(map(len, (head, test, val, advice))) <= 80
    assert '<p id="parts">d has no test/: the 4 test images' in page and "validation accuracy of 12 images" in page
    assert "<code>--train-split</code>" not in page and "<code>--test-split</code>" in page
    log, again, page = evaluated(run_predict)
    assert again == report and head in log and '<p id="parts">' in page
    made_up.write_photos(divided / "test", seed=2, red=2)  # the test images are no longer those of train/
    log, again, page = evaluated(run_predict)
    assert again["images"] == 2 and head not in log and '<p id="parts">' not in page


@pytest.mark.few(1)
@pytest.mark.parametrize("options, test, val, summary", [
    ((), 12, 7, "d: the 12 images of val/ are the test set; 7 of train/ validate\n"),
    (("--test-split", 0.4), 5, 7, "d: 5 images of val/ are held out for test: 40% of each class, drawn by seed 3; 7 "
     "validate\n"),
])  # fmt: skip
def test_val_or_a_share_of_it_is_scored_as_test(run_train, run_predict, divided, options, test, val, summary):
    status, stdout, _ = run_train("-d", "d", *QUICK, "--test", "val", *options, "--train-split", 0.74, "--seed", 3, 4)
    assert status == 0 and summary in stdout and "there is no test/" not in stdout
    assert ("train_split=0.74" in stdout) is not bool(options)
    saved, report = checkpoint.load("output/model.pth"), json.loads(Path("output/report.json").read_text())
    assert saved.training.items() >= {"val_images": val, "test_images": test, "test_seed": 3}.items()
    data = load_data(TrainConfig(**saved.config | {"seed": 3}), "nowhere")
    train_part, val_part = data.split(TrainConfig(**saved.config))
    parts = [{each.name(index) for index in range(len(each))} for each in (train_part, val_part, data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 38 and [*map(len, parts[1:])] == [val, test]
    assert {name.partition("/")[0] for name in parts[2]} == {"val"}
    assert all(len(part.labels.unique()) == 3 for part in (train_part, val_part, data.test))
    log, again, _ = evaluated(run_predict)
    assert again == report and f"the {test} images held out for test are scored" in log and "chose" not in log
    rewrite(Path("output/model.pth"), {"config": saved.config | {"seed": 4}})  # as if the second run were the best
    assert report["labels"]["images"] > 0
    divided.rename("moved")
    log, again, _ = evaluated(run_predict, "--dataset", "moved")
    assert again["labels"] is again["copies"] is None  # what it was trained on is in another place now
    assert again["confusion_matrix"] == report["confusion_matrix"] and f"the {test} images held out" in log
    shutil.rmtree("moved/val")
    log, again, _ = evaluated(run_predict, "--dataset", "moved")
    assert again["images"] == 26 and "moved has no test/: all 26 images are scored" in log


@pytest.mark.slow
def test_images_that_chose_the_epoch_are_recognised_wherever_they_lie(run_train, run_predict, divided):
    warning = "these images validated the network and chose its epoch: the scores may promise too much"
    assert run_train("-d", "d", *QUICK)[0] == 0
    log, report, page = evaluated(run_predict, "--dataset", "d/val")
    assert f"[WARNING] val: {warning}\n" in log and '<p id="chosen">' in page
    assert report["accuracy"] == pytest.approx(checkpoint.load("output/model.pth").metrics["val_accuracy"])
    assert warning not in evaluated(run_predict)[0]
    shutil.copytree("d/val", "elsewhere/test")
    assert warning in evaluated(run_predict, "--dataset", "elsewhere")[0]
    made_up.write_photos(Path("elsewhere/test"), seed=3, red=1)  # another image in the place of one
    log, _, page = evaluated(run_predict, "--dataset", "elsewhere")
    assert warning not in log and '<p id="chosen">' not in page
    assert run_train("-d", "d/train", *QUICK, "-m", "alone/model.pth")[0] == 0
    log, report, _ = evaluated(run_predict, "--dataset", "d/val", "--model", "alone/model.pth")
    assert report["images"] == 12 and warning not in log
    assert "val has no test/: all 12 images are scored, which must not have been trained on" in log


def test_a_model_file_of_an_earlier_version_scores_what_was_held_out(run_train, run_predict, divided):
    assert run_train("-d", "d", *QUICK, "--test-split", 0.3)[0] == 0
    expected, saved = evaluated(run_predict)[1], checkpoint.load("output/model.pth")
    config = {name: value for name, value in saved.config.items() if name != "test"}
    new = ("parts", "val_fingerprint", "test_images")
    training = {name: value for name, value in saved.training.items() if name not in new}
    rewrite(Path("output/model.pth"), {"config": config, "training": training})
    log, report, _ = evaluated(run_predict)
    assert report["confusion_matrix"] == expected["confusion_matrix"] and "held out for test are scored" in log


@pytest.mark.parametrize("options, message", [
    (("-d", "d/train", "--test", "val"), "has no val/; add one, or leave that option out"),
    (("-d", "d", "--test", "val", "--test-split", 0.5), "--test-split 0.5 leaves no image of val/ to validate; leave"),
    (("-d", "d", "--test-split", 1), "--test-split 1 leaves no image to train on"),
    (("-d", "digits", "--test", "val"), "--test: for your own images"),
    (("-d", "pair", "--test", "val"), "a class needs 2 or more images, so that each part has one"),
])  # fmt: skip
def test_a_part_that_would_be_empty_is_refused(run_train, tmp_path, options, message):
    for part, count in (("d/train", 3), ("d/val", 1), ("pair/train", 1), ("pair/val", 3)):
        made_up.write_photos(tmp_path / part, red=count, green=count)
    status, _, stderr = run_train(*options, *QUICK)
    assert status == 2 and message in stderr and stderr.count("\n") == 1


# --- prediction ---


@pytest.mark.few(1)
@pytest.mark.parametrize("how", [(), ("--fit", "pad", "--image-size", 40), ("--fit", "stretch")])
def test_prediction_prepares_a_picture_as_training_did(run_train, photos, how):
    assert run_train("-d", photos, *QUICK, *how)[0] == 0
    saved = checkpoint.load("output/model.pth")
    data = load_data(TrainConfig(**saved.config), "nowhere")
    reader = Recogniser.load("output/model.pth")
    answers = reader.read([photos / name for name in data.train.names])
    for index, answer in enumerate(answers):
        assert np.array_equal(answer.seen.transpose(2, 0, 1), data.train.stored[index])
    assert all(answer.label in ("red", "green", "blue") for answer in answers)


@pytest.mark.slow
def test_another_folder_is_scored_by_the_names_of_its_classes(run_train, run_predict, tmp_path, photos):
    assert run_train("-d", photos, *QUICK, "--epochs", 30, "--lr", 0.005)[0] == 0
    made_up.write_photos(tmp_path / "other", seed=5, green=4, blue=3)  # not all classes, and in other places
    status, _, stderr = run_predict("--evaluate", "--dataset", "other")
    assert status == 0 and "other has no test/: all 7 images are scored, which must not have been trained on" in stderr
    report = json.loads(Path("output/report-other.json").read_text())
    assert [row["support"] for row in report["classes"]] == [3, 4, 0] and report["accuracy"] == 1
    assert report["balanced_accuracy"] == 1  # of the classes that occur
    shutil.copytree(photos, tmp_path / "copy")  # the images that were trained on, elsewhere
    status, stdout, stderr = run_predict("--evaluate", "--dataset", "copy")
    assert status == 0 and "copy: the network was trained on it; the 4 images held out for test are scored" in stdout
    assert json.loads(Path("output/report-copy.json").read_text())["images"] == 4 and "changed" not in stderr
    made_up.write_photos(tmp_path / "divided" / "test", seed=6, red=2)
    assert run_predict("--evaluate", "--dataset", "divided")[0] == 0
    assert json.loads(Path("output/report-divided.json").read_text())["images"] == 2
    (tmp_path / "other" / "blue").rename(tmp_path / "other" / "cyan")
    status, _, stderr = run_predict("--evaluate", "--dataset", "other")
    assert status == 2 and "other has classes that this network doesn't know: cyan" in stderr
    photos.rename("elsewhere")
    status, _, stderr = run_predict("--evaluate")
    assert status == 2 and f"{photos}, which this network was trained on, is not there; name a data set" in stderr


@pytest.mark.slow
def test_test_images_and_export_work_as_for_other_data_sets(run_train, run_predict, photos):
    assert run_train("-d", photos, *QUICK)[0] == 0
    status, stdout, _ = run_predict()
    assert status == 0 and stdout.count("ground truth label: ") == 4  # all that there are
    pytest.importorskip("onnxscript")
    status, stdout, _ = run_predict("--export", "model.onnx")
    assert status == 0 and "the same labels in OpenCV's dnn for 4 test images of photos" in stdout


@pytest.mark.slow
def test_predicting_without_the_cache_leaves_none(run_train, run_predict, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run_train("-d", photos, *QUICK, "--no-cache")[0] == 0
    assert run_predict("--evaluate", "--no-cache")[0] == 0 and not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_what_the_data_sets_folder_has_become_is_no_traceback(run_train, run_predict, photos):
    assert run_train("-d", photos, *QUICK)[0] == 0
    (photos / "val").mkdir()
    for name in ("red", "green", "blue"):
        (photos / name).rename(photos / "val" / name)
    status, _, stderr = run_predict("--evaluate")
    assert status == 0 and "photos has no test/: all 23 images are scored" in stderr
    shutil.rmtree(photos / "val")
    status, _, stderr = run_predict("--evaluate")
    assert status == 2 and "photos: holds no folders; a data set is" in stderr
    pytest.importorskip("onnxscript")
    status, stdout, _ = run_predict("--export", "model.onnx")
    assert status == 0 and "images of noise (no photos here)" in stdout


def test_classes_that_are_known_in_part_are_refused(run_predict, tmp_path, few_digits):
    saved = made_up.make_checkpoint("digits", "lenet-slim")
    Path("m.pth").write_bytes(replace(saved, classes=[*"012345678", "nine"]).to_bytes())
    status, _, stderr = run_predict("--model", "m.pth", "--evaluate")
    assert status == 2 and "digits has classes that this network doesn't know: 9" in stderr


def test_reports_on_folders_of_one_name_do_not_replace_each_other(run_train, run_predict, photos, tmp_path):
    assert run_train("-d", photos, *QUICK)[0] == 0
    for parent in "ab":
        made_up.write_photos(tmp_path / parent / "other", seed=ord(parent), red=3, blue=2)
    assert run_predict("--evaluate", "--dataset", "a/other")[0] == run_predict("--evaluate", "-d", "a/other")[0] == 0
    status, _, stderr = run_predict("--evaluate", "--dataset", "b/other")
    assert status == 2 and "report-other.json: is of another data set of that name; give --output" in stderr
    assert run_train("-d", photos, *QUICK, "--seed", 1)[0] == 0  # the network before is gone, and its reports with it
    assert not list(Path("output").glob("*-other.*"))


def test_a_folder_whose_path_is_no_text_is_refused(run_train, photos):
    name = b"caf\xe9".decode(errors="surrogateescape")
    photos.rename(photos.with_name(name))
    status, _, stderr = run_train("-d", name, *QUICK)
    assert status == 2 and "its path is not UTF-8, or has control characters; rename it" in stderr


@pytest.mark.slow
def test_the_page_shows_balanced_accuracy_and_how_images_were_prepared(run_train, photos):
    assert run_train("-d", photos, *QUICK, "--fit", "pad")[0] == 0
    page = Path("output/report.html").read_text()
    assert "balanced accuracy" in page and "<code>--fit</code>" in page and "lenet-slim on photos" in page
    assert run_train("-d", "digits", *QUICK, "-m", "digits/model.pth")[0] == 0
    assert "<code>--fit</code>" not in Path("digits/report.html").read_text()


# --- several runs, interrupted ---


def test_an_interrupted_grid_resumes_unless_the_images_have_changed(run_train, photos, monkeypatch):
    command = ("-d", photos, *QUICK, "--lr", 0.01, 0.001, "--batch-size", 4)
    assert run_train(*command, "-m", "whole/model.pth")[0] == 0
    numbers, check = iter(range(100)), signals.GracefulStop.check

    def stop(self, signum_of_any=None):
        self.signum = signal.SIGINT if next(numbers) == 16 else 0  # in the second run
        check(self, signum_of_any)

    with monkeypatch.context() as patched:
        patched.setattr(signals.GracefulStop, "check", stop)
        assert run_train(*command)[0] == 130
    extra = photos / "red" / "new.png"
    extra.write_bytes((photos / "red" / "red0.png").read_bytes())
    status, _, stderr = run_train("--resume")
    assert status == 2 and "the images have changed (sha256 was" in stderr
    extra.unlink()
    status, _, stderr = run_train("--resume", "--fit", "pad")
    assert status == 2 and "--fit was crop, is pad" in stderr
    assert run_train("--resume")[0] == 0
    assert outcome("output") == outcome("whole")


# --- unequal classes ---


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_weights_are_scikit_learns(smoothing):
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())).float()
    log_probs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    config = TrainConfig(class_weights="balanced", label_smoothing=smoothing)
    found = build_loss(config, torch.bincount(labels))(log_probs, labels)
    targets = torch.nn.functional.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    each = -(targets * log_probs).sum(dim=1)  # an image's loss
    assert found.item() == pytest.approx((weights[labels] * each).sum().item(), rel=1e-5)
    with_padding = torch.cat([log_probs, log_probs[:2]]), torch.cat([labels, torch.tensor([PADDING, PADDING])])
    assert build_loss(config, torch.bincount(labels))(*with_padding).item() == pytest.approx(found.item(), rel=1e-6)


def test_with_balanced_weights_a_smoothed_loss_is_lowest_at_the_true_classes():
    counts, labels = torch.tensor([990, 10]), torch.tensor([0] * 99 + [1])
    loss = build_loss(TrainConfig(class_weights="balanced", label_smoothing=0.1), counts)
    right = torch.tensor([[0.95, 0.05]] * 99 + [[0.05, 0.95]]).log()
    rare = torch.tensor([[0.05, 0.95]] * 100).log()
    assert loss(right, labels) < loss(rare, labels)


def test_with_balanced_weights_there_is_no_hint(run_train, photos):
    status, _, stderr = run_train("-d", photos, *QUICK, "--class-weights", "balanced", "--monitor", "f1")
    assert status == 0 and "times as many" not in stderr


# --- from another network's weights ---


@pytest.fixture
def digits_net(tmp_path) -> Path:
    saved = made_up.make_checkpoint("digits", "lenet-slim")
    (tmp_path / "digits.pth").write_bytes(saved.to_bytes())
    return tmp_path / "digits.pth"


def begun(classes: list[str], saved: checkpoint.Checkpoint, **arch_args) -> tuple[dict, list[str]]:
    """The weights of a network that begins from another one's, and what is said to begin anew."""
    args = {"numChannels": 1, "image_size": 28, "classes": len(classes), **arch_args}
    model = build_network(saved.arch, **args)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    anew = copy_weights(model, saved, classes)
    return {name: (before[name], value) for name, value in model.state_dict().items()}, anew


def test_all_weights_are_taken_where_all_classes_are_known():
    saved = made_up.make_checkpoint("kmnist", "lenet")
    order = [3, 1, 2, 0, 9, 8, 7, 6, 5, 4]
    for names in ([saved.classes[label] for label in order], [saved.glyphs[label] for label in order]):
        weights, anew = begun(names, saved)
        assert anew == []
        for name, (_, value) in weights.items():
            there = saved.state_dict[name]
            assert torch.equal(value, there[order] if name.startswith("fc2") else there)


def test_what_does_not_fit_begins_anew_and_is_named():
    saved = made_up.make_checkpoint("digits", "lenet-slim")
    weights, anew = begun(["7", "x", "1"], saved, numChannels=3)
    assert anew == ["conv1.weight (of another shape)", "the last layer for 1 of its 3 classes"]
    before, value = weights["out.weight"]
    assert torch.equal(
        value, torch.stack([saved.state_dict["out.weight"][7], before[1], saved.state_dict["out.weight"][1]])
    )
    assert torch.equal(*weights["conv1.weight"]) and torch.equal(
        weights["conv2.weight"][1], saved.state_dict["conv2.weight"]
    )
    assert begun([*"abcdefghij"], saved)[1] == ["the last layer for its classes"]  # as many, but others
    weights, anew = begun(saved.classes, saved, image_size=32)
    assert anew == ["fc1.weight (of another shape)"] and torch.equal(*weights["fc1.weight"])


def test_a_run_begins_from_another_networks_weights(run_train, photos, digits_net):
    status, stdout, stderr = run_train("-d", photos, *QUICK, "--init", digits_net, "--epochs", 0, "--lr", 0.1, 0.2)
    assert status == 0 and stderr.count("if these pictures show some, too, give --writing") == 1  # not for each run
    assert stderr.count("in the middle of the network begin anew (it was trained on images of 28 pixels, not 32)") == 1
    anew = "conv1.weight (of another shape); fc1.weight (of another shape); the last layer for its classes"
    assert f"starting from the weights in {digits_net}; newly initialised: {anew}" in stdout
    assert checkpoint.load("output/model.pth").training["init"] == str(digits_net)


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_a_trained_network_goes_on_from_its_weights(run_train):
    assert run_train("-d", "digits", *QUICK, "-m", "first/model.pth")[0] == 0
    status, stdout, _ = run_train("-d", "digits", *QUICK, "--init", "first/model.pth")
    assert status == 0 and "first/model.pth; newly initialised: nothing" in stdout
    first, second = (checkpoint.load(f"{folder}/model.pth").metrics for folder in ("first", "output"))
    assert second["val_loss"] < first["val_loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_a_resumed_grid_begins_its_other_runs_from_the_same_weights(run_train, digits_net, monkeypatch):
    command = ("-d", "digits", *QUICK, "--init", digits_net, "--lr", 0.01, 0.001)
    assert run_train(*command, "-m", "whole/model.pth")[0] == 0
    numbers, check = iter(range(100)), signals.GracefulStop.check

    def stop(self, signum_of_any=None):
        self.signum = signal.SIGINT if next(numbers) == 3 else 0
        check(self, signum_of_any)

    with monkeypatch.context() as patched:
        patched.setattr(signals.GracefulStop, "check", stop)
        assert run_train(*command)[0] == 130
    content = digits_net.read_bytes()
    digits_net.write_bytes(made_up.make_checkpoint("kmnist", "lenet-slim").to_bytes())
    status, _, stderr = run_train("--resume")
    assert status == 2 and "has changed, and a run is still to begin from it; put it back" in stderr
    digits_net.write_bytes(content)
    status, _, stderr = run_train("--resume", "--init", "whole/model.pth")
    assert status == 2 and f"another command: --init was {digits_net}, is " in stderr
    assert run_train("--resume")[0] == 0
    assert outcome("output") == outcome("whole")


@pytest.mark.slow
@pytest.mark.parametrize("has_weights_alone", [False, True])
def test_a_grid_killed_before_its_second_run_begins_that_from_the_same_weights(
    run_train, few_digits, digits_net, has_weights_alone
):
    if has_weights_alone:  # as another program saves them
        torch.save({**checkpoint.load(digits_net).state_dict, "extra": torch.zeros(1)}, digits_net)
    command = ("-d", "digits", *QUICK, "--seed", 1, 2, "--init", digits_net)
    assert run_train(*command, "-m", "whole/model.pth")[0] == 0
    with killed_after_saving(3):  # two epochs and the end of the first run
        run_train(*command)
    status, stdout, stderr = run_train("--resume")
    assert status == 0 and stdout.rsplit("computing on", 1)[1].count("starting from the weights in") == 1
    warning = f"--init {digits_net}: not all of its weights are used: unknown: extra"
    assert stderr.count(warning) == has_weights_alone  # by the killed command, not by the resumed one
    assert outcome("output") == outcome("whole")


@pytest.mark.parametrize("options, message", [
    (("--init", "gone.pth"), "--init gone.pth: can't be read (No such file or directory); give a model file"),
    (("--init", "photos/red/red0.png"), "--init photos/red/red0.png: is no model file of train.py, and no file of"),
    (("--init", "state.pth"), "--init state.pth: is a training state, for --resume; give the network beside it, model"),
    (("--init", "digits.pth", "--arch", "lenet"), "give --writing if these pictures show written"),
    (("--init", "digits.pth", "--arch", "vgg-small", "lenet-slim"), "is another network than is to be trained"),
    (("--init", "output/model.pth", "--lr", 0.1, 0.2), "is --model too, which this grid's first run would"),
])  # fmt: skip
def test_a_network_that_cannot_be_begun_from_is_refused(run_train, photos, digits_net, options, message):
    Path("output").mkdir()
    Path("output/model.pth").write_bytes(digits_net.read_bytes())
    Path("state.pth").write_bytes(checkpoint.archive_bytes({}, STATE_FORMAT))
    status, _, stderr = run_train("-d", photos, "--epochs", 1, "--arch", "lenet-slim", *options)
    assert status == 2 and message in stderr and "Traceback" not in stderr
    assert Path("output/model.pth").read_bytes() == digits_net.read_bytes()


# --- characters of one's own ---


@pytest.fixture
def pages(tmp_path) -> Path:
    """Photographed pages with a bar or a ring on each, dark on light or light on dark."""
    generator = np.random.default_rng(0)
    for number in range(24):
        page = np.full((120, 160, 3), 215, np.uint8)
        x, y = generator.integers(40, 80, 2).tolist()
        if number % 2:
            cv2.line(page, (x, y - 20), (x + 20, y + 20), (40, 40, 40), 5)
        else:
            cv2.circle(page, (x, y), 22, (40, 40, 40), 5)
        path = tmp_path / "pages" / ("bar" if number % 2 else "ring") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), 255 - page if number % 3 else page)
    return tmp_path / "pages"


def test_writing_is_read_from_pages_and_from_a_drawing(run_train, pages, tmp_path):
    (pages / "bar" / "blank.png").write_bytes(cv2.imencode(".png", np.full((50, 50), 200, np.uint8))[1].tobytes())
    status, stdout, stderr = run_train("-d", pages, "--writing", *QUICK, "--epochs", 10)
    assert status == 0 and "pages: 28x28 pixels, grey, their ink placed as KMNIST's" in stdout
    assert "bar/blank.png: no ink found" in stderr
    reader = Recogniser.load("output/model.pth")
    assert reader.saved.preparation == DATASETS["kmnist"].preparation
    drawing = np.full((400, 400), 255, np.uint8)
    cv2.polylines(drawing, [np.array([(200, 100), (240, 180), (290, 300)], np.int32)], False, 0, 20)
    assert reader.read(drawing).label == "bar"


def test_photos_can_be_mirrored_and_writing_cannot(run_train, photos, pages):
    assert run_train("-d", photos, *QUICK, "--flip", "on")[0] == 0
    status, _, stderr = run_train("-d", pages, "--writing", *QUICK, "--flip", "on", "-m", "pages-net/model.pth")
    assert status == 2 and "--flip on: in the mirror an image of pages means something else" in stderr


def test_writing_has_no_fit():
    with pytest.raises(UserError, match="--fit pad doesn't go with --writing"):
        TrainConfig(writing=True, fit="pad")
    assert replace(TrainConfig(writing=True), image_size=64).fit == "crop"
