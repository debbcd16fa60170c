import gzip

import made_up
import pytest
import torch

from neural_lib import datasets
from neural_lib.datasets import DATASETS, load_images
from neural_lib.errors import UserError


def test_every_data_set_is_described():
    for info in DATASETS.values():
        assert len(info.mean) == len(info.std) == info.channels
        assert len(info.glyphs) in (0, len(info.classes))
        assert info.licence and info.source


@pytest.mark.parametrize("name, theirs", [("kmnist", "KMNIST"), ("fashion-mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_a_data_set_is_what_torchvision_says_it_is(name, theirs):
    from torchvision import datasets

    info, theirs = DATASETS[name], getattr(datasets, theirs)
    assert list(info.classes) == [name.split(" - ")[0] for name in theirs.classes]  # MNIST's are "0 - zero" there
    assert set(info.sha256) == {file.removesuffix(".gz") for file, _ in theirs.resources}
    assert info.folder == f"{theirs.__name__}/raw"
    assert list(info.sources)[0] == theirs.mirrors[0].split("/")[2]  # the host that a failure is reported with


def test_cifar10_is_what_torchvision_says_it_is():
    from torchvision.datasets import CIFAR10

    info = DATASETS["cifar10"]
    assert info.folder == CIFAR10.base_folder == datasets.CIFAR10_ARCHIVE["folder"]
    assert datasets.CIFAR10_ARCHIVE["md5"] == CIFAR10.tgz_md5
    assert list(info.sha256) == [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    assert list(info.sources)[0] == CIFAR10.url.split("/")[2]


def test_digits_need_nothing_and_have_a_fixed_test_part(tmp_path):
    info = DATASETS["digits"]
    train, test = (load_images("digits", tmp_path / "nowhere", part) for part in (True, False))
    for part, size in ((train, info.train_size), (test, info.test_size)):
        assert part.images.shape == (size, 1, 28, 28)
        assert part.images.dtype == torch.uint8
        assert part.labels.shape == (size,)
        assert part.labels.unique().tolist() == list(range(10))
    assert torch.equal(load_images("digits", tmp_path, False).images, test.images)


def test_the_statistics_of_digits():
    pixels = load_images("digits", ".", train=True).images.double() / 255
    info = DATASETS["digits"]
    assert pixels.mean().item() == pytest.approx(info.mean[0], abs=1e-4)
    assert pixels.std().item() == pytest.approx(info.std[0], abs=1e-4)


@pytest.mark.parametrize("train, count, seed", [(True, made_up.TRAIN_SIZE, 0), (False, made_up.TEST_SIZE, 1)])
def test_idx_files_are_read_as_they_were_written(kmnist_dir, train, count, seed):
    images, labels = load_images("kmnist", kmnist_dir, train)
    expected_images, expected_labels = made_up.make_images(count, seed)
    assert torch.equal(images.squeeze(1), torch.from_numpy(expected_images))
    assert torch.equal(labels, torch.from_numpy(expected_labels).long())


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    place = len(content) // 3
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _wrong_magic(content: bytes) -> bytes:
    return b"\x00\x00\x0d\x03" + content[4:]


@pytest.mark.parametrize("damage", [_truncated, _flipped, _wrong_magic, gzip.compress, lambda content: b""])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_file_is_named_and_left_alone(kmnist_dir, name, damage):
    path = kmnist_dir / "KMNIST" / "raw" / name
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=f"{name}: damaged, or not the official file"):
        load_images("kmnist", kmnist_dir, train=True)
    assert path.read_bytes() == damaged


def test_all_damaged_files_are_named_at_once(kmnist_dir):
    raw = kmnist_dir / "KMNIST" / "raw"
    names = ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    for name in names:
        (raw / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"{names[0]}, .*{names[1]}: damaged"):
        load_images("kmnist", kmnist_dir, train=True)


def test_what_old_torchvision_versions_left_behind_is_not_read(kmnist_dir):
    # KMNIST/processed/*.pt, which torchvision's class would prefer to the verified files
    processed = kmnist_dir / "KMNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1).long()), processed / name)
    assert len(load_images("kmnist", kmnist_dir, train=True).images) == made_up.TRAIN_SIZE


def test_importing_the_descriptions_loads_no_torch(run_python):
    assert run_python("-c", "import sys, neural_lib.datasets; print('torch' in sys.modules)").stdout == "False\n"
