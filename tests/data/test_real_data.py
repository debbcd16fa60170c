"""Tests on the real data sets, skipped unless they are in ../shared/data or data/; tests download nothing."""

import functools
from pathlib import Path

import cv2
import drawn
import made_up
import numpy as np
import pages
import pytest
import torch
from conftest import ROOT, change_kmnist
from sklearn.datasets import _openml
from test_download import files_in, serve_openml

import train
from neural_lib import checkpoint
from neural_lib.data import ink
from neural_lib.data.catalog import DATASETS
from neural_lib.data.download import READERS, idx_bytes, is_available
from neural_lib.data.images import Data, ImageTensors, load_images
from neural_lib.data.page import find_characters
from neural_lib.prediction import export
from neural_lib.prediction.recogniser import Answer, Candidate, Recogniser
from neural_lib.system import cli

DATA_DIRS = [ROOT.parent / "shared" / "data", ROOT / "data"]
REAL = {  # torchvision's class; the published mean and standard deviation of each channel
    "kmnist": ("KMNIST", [0.1918], [0.3483]),
    "fashion-mnist": ("FashionMNIST", [0.2860], [0.3530]),
    "mnist": ("MNIST", [0.1307], [0.3081]),
    "cifar10": ("CIFAR10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
}


def folder_with(name: str) -> Path:
    for folder in DATA_DIRS:
        if is_available(name, folder):
            return folder
    pytest.skip(f"the real {DATASETS[name].title} is in neither ../shared/data nor data/")


@functools.cache
def load(name: str, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of a real data set; their official checksums are checked once in this process."""
    return load_images(name, folder_with(name), train)[:]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", REAL)
def test_the_images_are_those_that_torchvision_reads(name, train):
    from torchvision import datasets

    info, (images, labels) = DATASETS[name], load(name, train)
    size = info.train_size if train else info.test_size
    reference = getattr(datasets, REAL[name][0])(folder_with(name), train=train)
    pixels = torch.as_tensor(reference.data).view(size, info.image_size, info.image_size, -1)  # (N, H, W, C)
    assert images.shape == (size, info.channels, info.image_size, info.image_size) and images.dtype == torch.uint8
    assert torch.equal(images.permute(0, 2, 3, 1), pixels) and torch.equal(labels, torch.as_tensor(reference.targets))
    assert labels.bincount(minlength=10).min() > 0
    if name != "mnist":  # MNIST's classes are not equally large
        assert labels.bincount().tolist() == [size // 10] * 10


@pytest.mark.parametrize("name", REAL)
def test_the_statistics_are_the_published_ones(name):
    assert (
        Data(name, DATASETS[name], *(ImageTensors(*load(name, part)) for part in (True, False))).statistics
        == REAL[name][1:]
    )


@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.placement])
def test_the_training_images_have_the_catalogs_placement(name):
    # Measure the longer side of the bounding box, the centre and the stroke width, on every sixth image.
    info, size = DATASETS[name], DATASETS[name].image_size
    images = load(name, train=True)[0][:, 0].numpy()
    images = images[::6] if len(images) > 10_000 else images
    seen = images > 255 * ink.SEEN_FROM
    rows, columns = seen.any(2), seen.any(1)
    starts = [each.argmax(1) for each in (rows, columns)]
    ends = [size - each[:, ::-1].argmax(1) for each in (rows, columns)]
    assert np.median(np.maximum(*(end - start for start, end in zip(starts, ends, strict=True)))) == info.placement.box
    total = images.sum((1, 2), dtype=float)
    along = np.arange(size) + 0.5
    masses = [images.sum(axis, dtype=float) @ along / total for axis in (2, 1)]
    boxes = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
    centred = {"mass": masses, "box": boxes}[info.placement.centre]
    other = {"mass": boxes, "box": masses}[info.placement.centre]
    assert np.std(centred) < np.std(other)
    assert np.mean(centred) == pytest.approx(size / 2 + (0.5 if info.placement.centre == "mass" else 0), abs=0.25)
    if info.placement.stroke:
        widths = [ink.stroke_width(image / np.float32(255)) for image in images[:3000]]
        assert np.percentile(widths, 5) == pytest.approx(info.placement.stroke, abs=0.05)


@pytest.fixture(scope="module")
def kmnist_recogniser(tmp_path_factory) -> tuple[Recogniser, list[np.ndarray], np.ndarray]:
    """A network trained on the real KMNIST for one epoch, and 1,000 test images with their labels."""
    data_dir, path = folder_with("kmnist"), tmp_path_factory.mktemp("kmnist") / "model.pth"
    outputs = ["--model", str(path), "--plot", str(path.with_suffix(".png"))]
    arguments = ["-d", "kmnist", "--data", str(data_dir), "--recipe", "fast", "--quiet", *outputs]
    assert cli.run(train.main, "train.py", arguments) == 0
    images, labels = load("kmnist", train=False)
    recogniser = Recogniser(checkpoint.load(path), torch.device("cpu"))
    return recogniser, list(images[:1000, 0].numpy()), labels[:1000].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("size, inverted", [(40, False), (120, True), (400, True)])
def test_kmnist_written_out_as_pictures_is_read_about_as_well(kmnist_recogniser, tmp_path, size, inverted):
    recogniser, images, labels = kmnist_recogniser
    originals = recogniser.probabilities(torch.from_numpy(np.stack(images))[:, None]).argmax(1).numpy() == labels
    generator = np.random.default_rng(size)
    paths = [tmp_path / f"{number:04}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), drawn.picture(image, size, generator, inverted, quality=50)[..., ::-1])
    predictions = np.array([answer.top[0].index for answer in recogniser.read(paths, top=1)])
    assert (predictions == labels).mean() >= originals.mean() - 0.02


@pytest.mark.parametrize("name, max_difference", [("kmnist", 14), ("mnist", 8), ("fashion-mnist", 40)])
def test_an_image_that_is_prepared_as_a_picture_stays_nearly_the_same(name, max_difference):
    images = load(name, train=False)[0][:300, 0].numpy()
    back = [ink.prepare(np.repeat(image[..., None], 3, 2), DATASETS[name].preparation)[0] for image in images]
    assert np.abs(np.stack(back).astype(float) - images).mean() < max_difference  # grey levels of 255


@pytest.mark.slow
def test_the_whole_test_set_is_the_same_in_onnx(kmnist_recogniser):
    recogniser = kmnist_recogniser[0]
    images = load("kmnist", False)[0]
    assert len(images) == 10_000 and export.verify(export.to_onnx(recogniser), recogniser, images) < 1e-5


@pytest.mark.slow
def test_a_table_in_openmls_format_gives_the_real_files(server, monkeypatch, tmp_path):
    # Only the first images of each part, because scikit-learn's reader is slow.
    parts = {name: load("kmnist", train=name == "train") for name in ("train", "t10k")}
    sizes = {"train": 3000, "t10k": 500}
    files = {}
    for name, (images, labels) in parts.items():
        files[f"{name}-images-idx3-ubyte"] = idx_bytes(images[: sizes[name], 0].numpy())
        files[f"{name}-labels-idx1-ubyte"] = idx_bytes(labels[: sizes[name]].numpy().astype(np.uint8))
    for name in ("_SEARCH_NAME", "_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        monkeypatch.setattr(_openml, name, getattr(_openml, name).replace("https://www.openml.org", server.url))
    serve_openml(server, files)
    source = (*DATASETS["kmnist"].sources["openml.org"][:-1], sizes["t10k"])
    change_kmnist(monkeypatch, sources={"openml.org": source}, sha256=made_up.sha256(files))
    images, labels = load_images("kmnist", tmp_path, train=False)[:]
    expected_images, expected_labels = parts["t10k"]
    assert torch.equal(images, expected_images[:500]) and torch.equal(labels, expected_labels[:500])
    assert files_in(tmp_path) == sorted(f"KMNIST/raw/{name}" for name in files)


@pytest.mark.slow
def test_resnet18_learns_a_part_of_kmnist_on_this_machines_cpu(run_train, monkeypatch, tmp_path):
    # A part of KMNIST, because the whole takes too long on a CPU.
    data_dir = folder_with("kmnist")

    few = {True: 1200, False: 400}

    def read_few(folder, info, train, read_idx=READERS["idx"]):
        images, labels = read_idx(folder, info, train)
        return images[: few[train]].copy(), labels[: few[train]].copy()

    monkeypatch.setitem(READERS, "idx", read_few)
    change_kmnist(monkeypatch, train_size=few[True], test_size=few[False])
    arguments = ("-d", "kmnist", "--data", data_dir, "--arch", "resnet18", "--epochs", 2, "--batch-size", 32)
    status, stdout, stderr = run_train(*arguments, "--device", "cpu", "--precision", "auto")
    assert status == 0, stderr
    accuracy = checkpoint.load("output/model.pth").metrics["test_accuracy"]
    assert accuracy > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in pages.KINDS if kind != "touching"])
def test_the_characters_of_composed_pages_are_found(kind):
    images, labels = (each[:1000].numpy() for each in load("kmnist", False))
    totals = np.zeros(len(pages.Counts._fields), int)
    for number in range(6):
        page = pages.compose(images[:, 0], np.random.default_rng([99, number]), kind)
        characters = find_characters(cv2.cvtColor(page.picture, cv2.COLOR_RGB2GRAY), order=page.order).characters
        answers = [Answer([Candidate("", 1.0, 0, "")], each.ink, box=each.box) for each in characters]
        totals += pages.judge(page, answers, labels, np.ones(len(labels), bool))
    sums = pages.Counts(*totals)
    assert sums.found >= 0.96 * sums.characters and sums.false <= 0.04 * sums.answers and sums.in_order >= 5
