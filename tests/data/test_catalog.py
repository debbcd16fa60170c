import re

import pytest

from neural_lib.data import catalog, download
from neural_lib.data.catalog import DATASETS, identify
from neural_lib.system.errors import UserError


def test_every_data_set_is_described():
    for info in DATASETS.values():
        assert len(info.glyphs) in (0, len(info.classes))
        assert info.licence and info.source
        assert info.format in download.READERS
        assert info.checksums or not info.sources  # files that the user has to put there have no source
        assert all(kind in download.FETCHERS for kind, *_ in info.sources.values())


@pytest.mark.parametrize("name, dataset", [("kmnist", "KMNIST"), ("fashion-mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_the_facts_agree_with_torchvisions(name, dataset):
    from torchvision import datasets

    info, reference = DATASETS[name], getattr(datasets, dataset)
    assert list(info.classes) == [name.split(" - ")[0] for name in reference.classes]  # such as "0 - zero"
    assert set(info.sha256) == {file.removesuffix(".gz") for file, _ in reference.resources}
    assert info.folder == f"{reference.__name__}/raw"
    assert list(info.sources)[0] == reference.mirrors[0].split("/")[2]  # the host that error messages name


@pytest.mark.parametrize("name, dataset", [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifars_facts_agree_with_torchvisions(name, dataset):
    from torchvision import datasets

    info, reference = DATASETS[name], getattr(datasets, dataset)
    files = dict(reference.train_list + reference.test_list)  # name -> md5
    assert (reference.tgz_md5, reference.base_folder) == getattr(catalog, dataset)
    assert info.folder == reference.base_folder
    assert list(info.checksums) == list(files)
    assert info.md5 in ({}, files)
    assert list(info.sources)[0] == reference.url.split("/")[2]


@pytest.mark.parametrize("split, unused", [("letters", ["N/A"]), ("balanced", [])])  # no file has the label N/A
def test_emnists_facts_agree_with_torchvisions(split, unused):
    from torchvision.datasets import EMNIST

    info = DATASETS[f"emnist-{split}"]
    assert [*unused, *info.classes] == EMNIST.classes_split_dict[split]
    assert (info.folder, list(info.checksums)) == ("EMNIST/raw", [EMNIST.url.rsplit("/", 1)[1]])
    assert info.sources == {EMNIST.url.split("/")[2]: ("files", EMNIST.url.removesuffix("gzip.zip"), "gzip.zip")}


def test_qmnists_facts_agree_with_torchvisions():
    from torchvision.datasets import QMNIST

    info = DATASETS["qmnist"]
    urls = [url for part in ("train", "test") for url, _ in QMNIST.resources[part]]
    ((kind, folder, *names),) = info.sources.values()
    assert kind == "files" and [folder + name for name in names] == urls and list(info.checksums) == names
    assert info.folder == "QMNIST/raw"
    assert list(info.classes) == [name.split(" - ")[0] for name in QMNIST.classes]
    assert info.placement == DATASETS["mnist"].placement


def test_kuzushiji_49s_classes_are_the_hiragana_without_small_and_voiced_ones_in_unicodes_order():
    info = DATASETS["kuzushiji-49"]
    codes = [ord(glyph) for glyph in info.glyphs]
    assert codes == sorted(codes) and (codes[0], codes[-1]) == (0x3042, 0x309D) and len(set(codes)) == 49
    both = {*zip(info.classes, info.glyphs, strict=True)}
    assert both >= {*zip(DATASETS["kmnist"].classes, DATASETS["kmnist"].glyphs, strict=True)}


@pytest.mark.parametrize("name, count", [("cifar100", 100), ("emnist-letters", 26), ("emnist-balanced", 47)])
def test_class_names_are_complete_and_in_the_official_order(name, count):
    classes = DATASETS[name].classes
    assert list(classes) == sorted({*classes}) and len(classes) == count


# --- a name that isn't known ---


@pytest.mark.parametrize("given, hint", [
    ("FashionMNIST", "did you mean fashion-mnist?"),
    ("fashion-mnst", "did you mean fashion-mnist?"),
    ("KMNIST", "did you mean kmnist?"),
    ("Kuzushiji-MNIST", "did you mean kmnist?"),
    ("kmnist-49", "did you mean kuzushiji-49?"),
    ("K49", "did you mean kuzushiji-49?"),
    ("cifar-10", "did you mean cifar10?"),
    ("CIFAR10", "did you mean cifar10?"),
    ("cifar", "did you mean cifar10 or cifar100?"),
    ("EMNIST_Letters", "did you mean emnist-letters?"),
    ("emnist", "did you mean emnist-letters or emnist-balanced?"),
    ("imagenet", "--help lists the data sets"),
    ("photos/cats", "--help lists the data sets"),
    ("holidays/cat", "did you mean holidays/cats?"),
    ("holiday/", "did you mean holidays?"),
    ("", "--help lists the data sets"),
])  # fmt: skip
def test_an_unknown_data_set_is_refused_with_the_name_that_was_probably_meant(given, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holidays" / "cats").mkdir(parents=True)
    with pytest.raises(UserError, match=f"^--dataset {given}: is no data set, file or folder; {re.escape(hint)}$"):
        identify(given)


def test_a_folder_with_nearly_the_name_of_a_data_set_is_user_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10").mkdir()
    assert identify("cifar-10") == str(tmp_path / "cifar-10")
    assert identify("cifar10") == "cifar10"
