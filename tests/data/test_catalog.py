import pytest

from neural_lib.data import catalog, download
from neural_lib.data.catalog import DATASETS


def test_every_data_set_is_described():
    for info in DATASETS.values():
        assert len(info.glyphs) in (0, len(info.classes))
        assert info.licence and info.source
        assert info.format in download.READERS
        assert info.sha256 or not info.sources  # files that the user has to put there have no source
        assert all(kind in download.FETCHERS for kind, *_ in info.sources.values())


@pytest.mark.parametrize("name, dataset", [("kmnist", "KMNIST"), ("fashion-mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_the_facts_agree_with_torchvisions(name, dataset):
    from torchvision import datasets

    info, reference = DATASETS[name], getattr(datasets, dataset)
    assert list(info.classes) == [name.split(" - ")[0] for name in reference.classes]  # such as "0 - zero"
    assert set(info.sha256) == {file.removesuffix(".gz") for file, _ in reference.resources}
    assert info.folder == f"{reference.__name__}/raw"
    assert list(info.sources)[0] == reference.mirrors[0].split("/")[2]  # the host that error messages name


def test_cifar10s_facts_agree_with_torchvisions():
    from torchvision.datasets import CIFAR10

    info = DATASETS["cifar10"]
    assert (CIFAR10.tgz_md5, CIFAR10.base_folder) == catalog.CIFAR10
    assert info.folder == CIFAR10.base_folder
    assert list(info.sha256) == [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    assert list(info.sources)[0] == CIFAR10.url.split("/")[2]
