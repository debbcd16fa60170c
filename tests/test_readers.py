import os
import pickle
import warnings

import made_up
import numpy as np
import pytest
import torch

from neural_lib.datasets import load_images
from neural_lib.errors import UserError


@pytest.mark.parametrize("train", [True, False])
def test_cifars_batches_are_read_as_they_were_written(cifar_dir, train):
    seeds = range(5) if train else [5]
    expected = [made_up.make_colour_images(made_up.CIFAR_BATCH_SIZE, seed) for seed in seeds]
    with warnings.catch_warnings(action="error"):  # NumPy's of what a pickle of 2009 holds
        images, labels = load_images("cifar10", cifar_dir, train)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert torch.equal(images, torch.from_numpy(np.concatenate([pixels for pixels, _ in expected])))
    assert torch.equal(labels, torch.from_numpy(np.concatenate([each for _, each in expected])))


def test_the_made_up_batches_are_what_torchvision_reads_too(cifar_batches, tmp_path):
    # that they are in the real format is what the other tests rely on
    with warnings.catch_warnings(action="ignore"):
        for name, content in cifar_batches.items():
            batch = pickle.loads(content, encoding="latin1")  # as torchvision's CIFAR10 does
            assert set(batch) == {"batch_label", "labels", "data", "filenames"}, name
            assert batch["data"].shape == (made_up.CIFAR_BATCH_SIZE, 3072) and batch["data"].dtype == np.uint8


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("was_here",)


def test_no_batch_is_unpickled_but_the_official_one(cifar_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = cifar_dir / "cifar-10-batches-py" / "data_batch_3"
    load_images("cifar10", cifar_dir, train=True)
    path.write_bytes(pickle.dumps(Malicious()).ljust(path.stat().st_size, b"."))
    with pytest.raises(UserError, match="data_batch_3: damaged, or not the official file"):
        load_images("cifar10", cifar_dir, train=True)
    assert not (tmp_path / "was_here").exists()


def test_even_an_official_batch_could_import_nothing_but_arrays(cifar_batches, monkeypatch, tmp_path):
    from conftest import change_dataset

    monkeypatch.chdir(tmp_path)
    batches = cifar_batches | {"test_batch": pickle.dumps(Malicious(), protocol=2)}
    change_dataset(monkeypatch, "cifar10", sha256=made_up.sha256(batches))
    made_up.write_files(batches, tmp_path / "cifar-10-batches-py")
    with pytest.raises(KeyError):
        load_images("cifar10", tmp_path, train=False)
    assert not (tmp_path / "was_here").exists()
