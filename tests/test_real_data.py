"""On the real data sets, where they are in ../shared/data or data/; never downloaded for a test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, change_kmnist
from test_downloads import left_in, serve_openml

from neural_lib import checkpoint
from neural_lib.datasets import DATASETS, load_images

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
