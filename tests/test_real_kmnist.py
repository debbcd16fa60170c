"""On the real KMNIST, where it lies in ../shared/data or data/; it is never downloaded for a test."""

import numpy as np
import pytest
import torch
from conftest import ROOT, change_kmnist
from test_downloads import left_in, serve_openml

from neural_lib.datasets import DATASETS, load_images

INFO = DATASETS["kmnist"]
DATA_DIRS = [ROOT.parent / "shared" / "data", ROOT / "data"]


@pytest.fixture(scope="module")
def data_dir():
    for folder in DATA_DIRS:
        if all((folder / "KMNIST" / "raw" / name).exists() for name in INFO.sha256):
            return folder
    pytest.skip("the real KMNIST is in neither ../shared/data nor data/")


@pytest.mark.parametrize("train, size", [(True, INFO.train_size), (False, INFO.test_size)])
def test_what_is_read_is_what_torchvision_reads(data_dir, train, size):
    from torchvision.datasets import KMNIST

    images, labels = load_images("kmnist", data_dir, train)  # official checksums, or this raises
    theirs = KMNIST(data_dir, train=train)
    assert images.shape == (size, 1, 28, 28) and images.dtype == torch.uint8
    assert torch.equal(images.squeeze(1), theirs.data) and torch.equal(labels, theirs.targets)
    assert labels.bincount().tolist() == [size // 10] * 10


def test_the_statistics(data_dir):
    pixels = load_images("kmnist", data_dir, train=True).images.double() / 255
    assert pixels.mean().item() == pytest.approx(INFO.mean[0], abs=5e-5)
    assert pixels.std().item() == pytest.approx(INFO.std[0], abs=5e-5)


@pytest.mark.slow
def test_a_whole_table_in_openmls_format_gives_the_official_files(data_dir, server, monkeypatch, tmp_path):
    # 70,000 rows through scikit-learn's reader, about a minute; what the live OpenML sends, no test here can tell
    from sklearn.datasets import _openml

    for name in ("_SEARCH_NAME", "_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        monkeypatch.setattr(_openml, name, getattr(_openml, name).replace("https://www.openml.org", server.url))
    serve_openml(server, {name: (data_dir / "KMNIST" / "raw" / name).read_bytes() for name in INFO.sha256})
    change_kmnist(monkeypatch, sources={"openml.org": INFO.sources["openml.org"]})
    images, labels = load_images("kmnist", tmp_path, train=False)
    assert np.array_equal(labels, load_images("kmnist", data_dir, train=False).labels)
    assert left_in(tmp_path) == sorted(f"KMNIST/raw/{name}" for name in INFO.sha256)
