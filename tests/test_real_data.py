"""On the real data sets, where they are in ../shared/data or data/; never downloaded for a test."""

from pathlib import Path

import cv2
import drawn
import numpy as np
import pytest
import torch
from conftest import ROOT, change_kmnist
from test_downloads import left_in, serve_openml

import train
from neural_lib import checkpoint, cli, export, ink, own_pictures, prepare
from neural_lib.datasets import DATASETS, load_images
from neural_lib.recogniser import Recogniser

DATA_DIRS = [ROOT.parent / "shared" / "data", ROOT / "data"]
REAL = {
    "kmnist": "KMNIST",
    "fashion-mnist": "FashionMNIST",
    "mnist": "MNIST",
    "cifar10": "CIFAR10",
}  # torchvision's


def folder_with(name: str) -> Path:
    info = DATASETS[name]
    for folder in DATA_DIRS:
        if all((folder / info.folder / file).exists() for file in info.sha256):
            return folder
    pytest.skip(f"the real {info.title} is in neither ../shared/data nor data/")


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", REAL)
def test_what_is_read_is_what_torchvision_reads(name, train):
    from torchvision import datasets

    info, data_dir = DATASETS[name], folder_with(name)
    size = info.train_size if train else info.test_size
    images, labels = load_images(name, data_dir, train)  # official checksums, or this raises
    theirs = getattr(datasets, REAL[name])(data_dir, train=train)
    pixels = torch.as_tensor(theirs.data).view(size, info.image_size, info.image_size, -1)  # (N, H, W, C)
    assert images.shape == (size, info.channels, info.image_size, info.image_size) and images.dtype == torch.uint8
    assert torch.equal(images.permute(0, 2, 3, 1), pixels) and torch.equal(labels, torch.as_tensor(theirs.targets))
    assert labels.bincount(minlength=10).min() > 0
    if name != "mnist":  # whose classes are not equally large
        assert labels.bincount().tolist() == [size // 10] * 10


@pytest.mark.parametrize("name", REAL)
def test_the_statistics(name):
    info = DATASETS[name]
    pixels = load_images(name, folder_with(name), train=True).images.double().transpose(0, 1).flatten(1) / 255
    assert pixels.mean(1).tolist() == pytest.approx(info.mean, abs=5e-5)  # (C, N * H * W) -> (C,)
    assert pixels.std(1).tolist() == pytest.approx(info.std, abs=5e-5)


@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.placement])
def test_the_placement(name):
    # how the training images hold what they show: the longer side of its box, what is centred, how wide strokes are
    info, size = DATASETS[name], DATASETS[name].image_size
    images = load_images(name, folder_with(name) if info.sha256 else "nowhere", train=True).images[:, 0].numpy()
    seen = images > 255 * ink.SEEN_FROM
    rows, columns = seen.any(2), seen.any(1)
    starts = [each.argmax(1) for each in (rows, columns)]
    ends = [size - each[:, ::-1].argmax(1) for each in (rows, columns)]
    assert np.median(np.maximum(*(end - start for start, end in zip(starts, ends, strict=True)))) == info.placement.box
    total = images.sum((1, 2), dtype=float)
    along = np.arange(size) + 0.5
    masses = [images.sum(axis, dtype=float) @ along / total for axis in (2, 1)]
    boxes = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
    beside = {"mass": masses, "box": boxes}[info.placement.centre]
    other = {"mass": boxes, "box": masses}[info.placement.centre]
    assert np.std(beside) < np.std(other)
    assert np.mean(beside) == pytest.approx(size / 2 + (0.5 if info.placement.centre == "mass" else 0), abs=0.25)
    if info.placement.stroke:
        widths = [ink.stroke_width(image / np.float32(255)) for image in images[:10_000]]
        assert np.percentile(widths, 5) == pytest.approx(info.placement.stroke, abs=0.05)


@pytest.fixture(scope="module")
def reader_of_kmnist(tmp_path_factory) -> tuple[Recogniser, list[np.ndarray], np.ndarray]:
    """A network that has learned the real KMNIST in one epoch, and 200 test images with their labels."""
    data_dir, path = folder_with("kmnist"), tmp_path_factory.mktemp("kmnist") / "model.pth"
    outputs = ["--model", str(path), "--plot", str(path.with_suffix(".png"))]
    arguments = ["-d", "kmnist", "--data", str(data_dir), "--recipe", "fast", "--quiet", *outputs]
    assert cli.run(train.main, "train.py", arguments) == 0
    images, labels = load_images("kmnist", data_dir, train=False)
    recogniser = Recogniser(checkpoint.load(path), torch.device("cpu"))
    return recogniser, list(images[:200, 0].numpy()), labels[:200].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("size", [40, 120, 400])
@pytest.mark.parametrize("inverted", [False, True])
def test_kmnist_written_out_as_pictures_is_recognised_as_well(reader_of_kmnist, tmp_path, size, inverted):
    recogniser, images, labels = reader_of_kmnist
    originals = recogniser.probabilities(torch.from_numpy(np.stack(images))[:, None]).argmax(1).numpy() == labels
    generator = np.random.default_rng(size)
    paths = [tmp_path / f"{number:03}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), drawn.picture(image, size, generator, inverted, quality=50)[..., ::-1])
    results = own_pictures.read_files(recogniser, paths, DATASETS["kmnist"], "auto", 1, 28)
    found = np.array([result.answer.labels[0] for result in results])
    assert (found == labels).mean() >= originals.mean() - 0.02


@pytest.mark.parametrize("name, most", [("kmnist", 14), ("mnist", 8), ("fashion-mnist", 40)])
def test_the_images_themselves_come_back_as_they_are(name, most):
    info = DATASETS[name]
    images = load_images(name, folder_with(name), train=False).images[:300, 0].numpy()
    back = [prepare.prepare(np.repeat(image[..., None], 3, 2), info)[0] for image in images]  # none without ink
    assert np.abs(np.stack(back).astype(float) - images).mean() < most  # grey levels of 255


@pytest.mark.slow
def test_the_whole_test_set_is_the_same_in_onnx(reader_of_kmnist):
    recogniser = reader_of_kmnist[0]
    images = load_images("kmnist", folder_with("kmnist"), train=False).images
    comparison = export.compare(export.to_onnx(recogniser), recogniser, images)
    assert comparison.images == 10_000 and comparison.other_labels == 0 and comparison.greatest < 1e-4


@pytest.mark.slow
def test_a_whole_table_in_openmls_format_gives_the_official_files(server, monkeypatch, tmp_path):
    # 70,000 rows through scikit-learn's reader, about a minute; what the live OpenML sends, no test here can tell
    from sklearn.datasets import _openml

    info, data_dir = DATASETS["kmnist"], folder_with("kmnist")
    for name in ("_SEARCH_NAME", "_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        monkeypatch.setattr(_openml, name, getattr(_openml, name).replace("https://www.openml.org", server.url))
    serve_openml(server, {name: (data_dir / "KMNIST" / "raw" / name).read_bytes() for name in info.sha256})
    change_kmnist(monkeypatch, sources={"openml.org": info.sources["openml.org"]})
    images, labels = load_images("kmnist", tmp_path, train=False)
    assert np.array_equal(labels, load_images("kmnist", data_dir, train=False).labels)
    assert left_in(tmp_path) == sorted(f"KMNIST/raw/{name}" for name in info.sha256)


@pytest.mark.slow
def test_resnet18_learns_a_part_of_kmnist_on_this_machines_cpu(run_train, monkeypatch, tmp_path):
    # half a minute; the whole of KMNIST is for a GPU
    data_dir = folder_with("kmnist")

    def read_few(*arguments, read=DATASETS["kmnist"].read):
        images, labels = read(*arguments)
        return images[:1200].copy(), labels[:1200].copy()

    change_kmnist(monkeypatch, read=read_few, train_size=1200, test_size=1200)
    arguments = ("-d", "kmnist", "--data", data_dir, "--arch", "resnet18", "--epochs", 2, "--batch-size", 32)
    status, stdout, stderr = run_train(*arguments, "--device", "cpu", "--precision", "auto")
    assert status == 0, stderr
    assert checkpoint.load("output/model.pth").metrics["test_accuracy"] > 0.5
