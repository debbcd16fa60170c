"""Downloads from an HTTP server on loopback, and the checksums of existing files."""

import gzip
import hashlib
import json
import logging
import os
import pickle
import tarfile
import time
from types import SimpleNamespace

import loopback
import made_up
import numpy as np
import pytest
import torch
from conftest import change_dataset, change_kmnist
from sklearn.datasets import _openml
from torchvision.datasets import KMNIST

from neural_lib.config import TrainConfig
from neural_lib.data import catalog, download
from neural_lib.data.download import DownloadError
from neural_lib.data.images import load_data, load_images
from neural_lib.system.errors import UserError
from neural_lib.system.files import remove_empty_folders

IMAGES = "train-images-idx3-ubyte"
TRAIN_SIZE, TEST_SIZE = 40, 10


@pytest.fixture
def files(monkeypatch) -> dict[str, bytes]:
    """Files of a small made-up KMNIST, whose checksums the catalogue holds until the test ends."""
    files = made_up.make_files(TRAIN_SIZE, TEST_SIZE)
    sources = {
        "codh.rois.ac.jp": ("torchvision", "KMNIST"),
        "openml.org": ("openml", "Kuzushiji-MNIST", 1, (28, 28), TEST_SIZE),
    }
    sizes = {"train_size": TRAIN_SIZE, "test_size": TEST_SIZE}
    change_kmnist(monkeypatch, sha256=made_up.sha256(files), sources=sources, **sizes)
    return files


@pytest.fixture
def folder(files, tmp_path):
    """The folder in the data folder tmp_path that holds all these files."""
    return made_up.write_files(files, tmp_path / "KMNIST" / "raw")


@pytest.fixture
def sources(server, files, monkeypatch):
    """Both sources moved to the loopback server, which serves neither data set yet."""
    monkeypatch.setattr(KMNIST, "mirrors", [f"{server.url}/codh/"])
    pause = SimpleNamespace(sleep=lambda _: None)  # scikit-learn pauses for a second between two tries
    monkeypatch.setattr(_openml, "time", pause)
    for name in ("_SEARCH_NAME", "_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        path = getattr(_openml, name).removeprefix("https://www.openml.org")
        monkeypatch.setattr(_openml, name, server.url + path)
    return server


def serve_codh(server, files, monkeypatch) -> None:
    """Serve the archives of KMNIST, whose md5 torchvision then expects."""
    archives = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in archives.items()]
    monkeypatch.setattr(KMNIST, "resources", resources)
    server.pages |= archives


def serve_openml(server, files, monkeypatch=None) -> None:
    """Serve OpenML's four answers about a table, and the table itself: training images first, then the test images."""
    parts = [[np.frombuffer(files[f"{part}-{kind}"], np.uint8)[skip:] for kind, skip in
              (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))] for part in ("train", "t10k")]  # fmt: skip
    rows = [
        ",".join(map(str, [*image, label]))
        for images, labels in parts
        for image, label in zip(images.reshape(-1, 784), labels, strict=True)
    ]
    names = [f"pixel{i}" for i in range(1, 785)]
    arff = "@RELATION kmnist\n" + "".join(f"@ATTRIBUTE {name} REAL\n" for name in names)
    arff += "@ATTRIBUTE class {0,1,2,3,4,5,6,7,8,9}\n@DATA\n" + "\n".join(rows) + "\n"
    features = [{"index": str(i), "name": name, "data_type": "numeric"} for i, name in enumerate(names)]
    features.append({"index": "784", "name": "class", "data_type": "nominal", "nominal_value": list("0123456789")})
    for feature in features:
        target = str(feature["name"] == "class").lower()
        feature |= {"is_target": target, "is_ignore": "false", "is_row_identifier": "false"}
        feature |= {"number_of_missing_values": "0"}
    description = {"id": "1", "name": "Kuzushiji-MNIST", "version": "1", "format": "ARFF", "status": "active",
                   "description": "made up", "url": f"{server.url}/kmnist.arff",
                   "md5_checksum": hashlib.md5(arff.encode()).hexdigest()}  # fmt: skip
    answers = {
        "/api/v1/json/data/list/data_name/kuzushiji-mnist/limit/2/data_version/1": {
            "data": {"dataset": [{"did": 1, "version": 1, "status": "active"}]}
        },
        "/api/v1/json/data/1": {"data_set_description": description},
        "/api/v1/json/data/features/1": {"data_features": {"feature": features}},
        "/api/v1/json/data/qualities/1": {
            "data_qualities": {"quality": [{"name": "NumberOfInstances", "value": str(len(rows))}]}
        },
    }
    server.pages |= {path: json.dumps(answer).encode() for path, answer in answers.items()}
    server.pages["/kmnist.arff"] = arff.encode()


def files_in(data_dir) -> list[str]:
    return sorted(str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file())


ALL_FILES = sorted(f"KMNIST/raw/{name}" for name in made_up.make_files(1, 1))


# --- sources ---


def test_the_first_source_is_used(sources, files, monkeypatch, tmp_path):
    serve_codh(sources, files, monkeypatch)
    images, _ = load_images("kmnist", tmp_path, train=True)[:]
    assert len(images) == TRAIN_SIZE
    assert files_in(tmp_path) == ALL_FILES  # no archive, no temporary files
    requests = len(sources.requested)
    load_images("kmnist", tmp_path, train=False)
    assert len(sources.requested) == requests  # nothing is downloaded twice


def test_the_second_source_is_used_after_the_first_failed(sources, files, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    serve_openml(sources, files)
    images, labels = load_images("kmnist", tmp_path, train=False)[:]
    expected_images, expected_labels = made_up.make_images(TEST_SIZE, seed=1)
    assert np.array_equal(images.squeeze(1), expected_images) and np.array_equal(labels, expected_labels)
    assert files_in(tmp_path) == ALL_FILES
    assert "downloading from codh.rois.ac.jp..." in caplog.text and "downloading from openml.org..." in caplog.text


def test_existing_files_stay_when_missing_ones_are_downloaded(sources, files, monkeypatch, tmp_path):
    serve_codh(sources, files, monkeypatch)
    raw = made_up.write_files({IMAGES: files[IMAGES]}, tmp_path / "KMNIST" / "raw")
    before = (raw / IMAGES).stat()
    load_images("kmnist", tmp_path, train=True)
    assert os.path.samestat((raw / IMAGES).stat(), before)


def truncated(page: bytes) -> tuple:
    return (loopback.TRUNCATE, page)


ARCHIVE, TABLE, DESCRIPTION = f"{IMAGES}.gz", "/kmnist.arff", "/api/v1/json/data/1"
WRONG_CONTENT = "what it sent as train-images-idx3-ubyte is not the official file"


@pytest.mark.few(2)
@pytest.mark.parametrize("serve, page, damage, reason", [
    (serve_codh, None, None, f"codh.rois.ac.jp: {WRONG_CONTENT}"),  # with the right md5
    (serve_codh, ARCHIVE, lambda page: gzip.compress(b"something else"), "codh.rois.ac.jp: .*corrupted"),
    (serve_codh, ARCHIVE, truncated, "codh.rois.ac.jp: .*corrupted"),
    (serve_codh, "t10k-labels-idx1-ubyte.gz", lambda page: 404, "codh.rois.ac.jp: .*t10k-labels.*404"),
    (serve_codh, ARCHIVE, lambda page: loopback.HANG, "codh.rois.ac.jp: .*timed out"),
    (serve_openml, None, None, f"openml.org: {WRONG_CONTENT}"),
    (serve_openml, TABLE, lambda page: loopback.HANG, "openml.org: .*timed out"),
    (serve_openml, TABLE, truncated, "openml.org: .*"),
    (serve_openml, DESCRIPTION, lambda page: b"<html>maintenance</html>", "openml.org: .*"),
])  # fmt: skip
def test_a_bad_source_leaves_nothing_behind(sources, files, monkeypatch, tmp_path, serve, page, damage, reason):
    other_images = {IMAGES: files[IMAGES][:-1] + b"\xaa"}  # as in the data set's older version
    serve(sources, files if page else files | other_images, monkeypatch)
    if page:
        sources.pages[page] = damage(sources.pages[page])
    if "timed out" in reason:
        monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    with pytest.raises(DownloadError, match=reason) as caught:
        load_images("kmnist", tmp_path, train=True)
    assert files_in(tmp_path) == []
    message = str(caught.value)
    assert "codh.rois.ac.jp: " in message and "openml.org: " in message
    assert f"put {', '.join(files)} (or the same with .gz) into" in message
    assert str(tmp_path / "KMNIST" / "raw") in message
    assert "\n" not in message


def test_a_data_folder_that_cannot_be_made_is_named(sources, tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(DownloadError, match="nothing can be put into .*KMNIST.*; choose another --data"):
        load_images("kmnist", tmp_path / "data", train=True)


# --- existing files ---


@pytest.mark.parametrize("damage", [
    lambda content: content[: len(content) // 2],
    lambda content: content[:9] + bytes([content[9] ^ 1]) + content[10:],
    gzip.compress,
    lambda content: b"",
], ids=["truncated", "a flipped bit", "gzipped", "empty"])  # fmt: skip
@pytest.mark.parametrize("name", [IMAGES, "t10k-labels-idx1-ubyte"])
def test_a_damaged_file_is_named_and_not_replaced(folder, tmp_path, name, damage):
    damaged = damage((folder / name).read_bytes())
    (folder / name).write_bytes(damaged)
    with pytest.raises(UserError, match=f"{name}: damaged, or not the official file"):
        load_images("kmnist", tmp_path, train=True)
    assert (folder / name).read_bytes() == damaged


def test_all_damaged_files_are_named_at_once(folder, tmp_path):
    names = (IMAGES, "t10k-labels-idx1-ubyte")
    for name in names:
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"{names[0]}, .*{names[1]}: damaged"):
        load_images("kmnist", tmp_path, train=True)


def test_a_file_is_checked_each_time(folder, tmp_path):
    load_images("kmnist", tmp_path, train=True)
    path = folder / IMAGES
    content, before = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time stay the same
    with pytest.raises(UserError, match=IMAGES):
        load_images("kmnist", tmp_path, train=True)


# --- gzipped files that were put in place by hand ---


@pytest.mark.parametrize("gzipped", [ALL_FILES, [f"KMNIST/raw/{IMAGES}"]], ids=["all", "one"])
def test_gzipped_files_are_read_in_place(folder, files, tmp_path, gzipped):
    for path in gzipped:
        (tmp_path / f"{path}.gz").write_bytes(gzip.compress((tmp_path / path).read_bytes()))
        (tmp_path / path).unlink()
    before = files_in(tmp_path)
    assert download.is_available("kmnist", tmp_path)
    for train, size in ((True, TRAIN_SIZE), (False, TEST_SIZE)):
        images, labels = load_images("kmnist", tmp_path, train)[:]
        expected_images, expected_labels = made_up.make_images(size, seed=0 if train else 1)
        assert np.array_equal(images.squeeze(1), expected_images) and np.array_equal(labels, expected_labels)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("damage", [
    lambda content: gzip.compress(content[:-1] + b"\xaa"),  # as in the data set's older version
    lambda content: gzip.compress(content)[:-20],
    lambda content: gzip.compress(content)[:50] + bytes(50) + gzip.compress(content)[100:],
    lambda content: content,
], ids=["another file", "truncated", "damaged", "not gzipped"])  # fmt: skip
def test_a_damaged_gzipped_file_is_named_and_not_replaced(folder, files, tmp_path, damage):
    (folder / IMAGES).unlink()
    damaged = damage(files[IMAGES])
    (folder / f"{IMAGES}.gz").write_bytes(damaged)
    with pytest.raises(UserError, match=rf"{IMAGES}\.gz: damaged, or not the official file \(its sha256 differs\)"):
        load_images("kmnist", tmp_path, train=True)
    assert (folder / f"{IMAGES}.gz").read_bytes() == damaged


def test_of_a_file_and_its_archive_the_file_is_read(folder, tmp_path):
    (folder / f"{IMAGES}.gz").write_bytes(b"what a broken download left")
    images, _ = load_images("kmnist", tmp_path, train=True)[:]
    assert len(images) == TRAIN_SIZE


# --- what killed downloads leave behind ---


def write_download(data_dir, name, age_s) -> None:
    path = data_dir / f".download-{name}" / "codh.rois.ac.jp" / "KMNIST" / "raw" / f"{IMAGES}.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"partial")
    for each in (path, *path.parents[:5]):
        os.utime(each, (time.time() - age_s,) * 2)


def test_the_folder_of_a_killed_download_is_removed_after_an_hour(folder, files, tmp_path):
    write_download(tmp_path, "killed", age_s=4000)
    write_download(tmp_path, "running", age_s=4000)
    os.utime(next(tmp_path.rglob(f".download-running/**/{IMAGES}.gz")))  # more of it has just arrived
    load_images("kmnist", tmp_path, train=True)
    assert [path.name for path in tmp_path.glob(".download-*")] == [".download-running"]


def test_a_download_lies_in_the_data_folder(sources, files, monkeypatch, tmp_path):
    seen = []

    def fetch(folder):
        seen.append(folder)
        raise OSError("no route to host")

    monkeypatch.setitem(download.FETCHERS, "fetch", fetch)
    change_kmnist(monkeypatch, sources={"first.example": ("fetch",)})
    for existing in (tmp_path, tmp_path / "data" / "KMNIST" / "raw"):
        existing.mkdir(parents=True, exist_ok=True)
        before = [*tmp_path.rglob("*")]
        with pytest.raises(DownloadError):
            load_images("kmnist", tmp_path / "data", train=True)
        remove_empty_folders()  # as each command does at its end
        assert [*tmp_path.rglob("*")] == before
    assert [(path.parents[1], path.parent.name[:10]) for path in seen] == 2 * [(tmp_path / "data", ".download-")]


# --- data sets in other formats ---

NEW = ("cifar100", "emnist-letters", "emnist-balanced", "qmnist", "kuzushiji-49")


@pytest.fixture(params=NEW)
def other(request, monkeypatch) -> tuple[str, dict, dict[str, bytes]]:
    """Name, parts and files of a small made-up data set, whose checksums the catalogue holds until the test ends."""
    name, sizes = request.param, {"train_size": 60, "test_size": 30}
    parts = made_up.make_parts(name, **sizes)
    if name.startswith("emnist"):
        swapped = {part: (images[::-1], labels[::-1]) for part, (images, labels) in parts.items()}
        splits = {"letters": swapped, "balanced": swapped} | {name.removeprefix("emnist-"): parts}
        files = made_up.emnist_archive(**splits)
    else:
        files = made_up.official_files(name, parts)
    change_dataset(monkeypatch, name, **made_up.checksums(name, files), **sizes)
    return name, parts, files


def folder_of(name, data_dir):
    return data_dir / catalog.DATASETS[name].folder


def test_files_of_each_format_give_the_images_upright_and_the_labels_from_0(other, tmp_path):
    name, parts, files = other
    made_up.write_files(files, folder_of(name, tmp_path))
    assert download.is_available(name, tmp_path)
    info = catalog.DATASETS[name]
    for train, part in ((True, "train"), (False, "test")):
        images, labels = load_images(name, tmp_path, train)[:]
        expected_images, expected_labels = parts[part]
        assert images.shape == (len(expected_labels), info.channels, info.image_size, info.image_size)
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64 and images.is_contiguous()
        assert np.array_equal(images.numpy().reshape(expected_images.shape), expected_images)
        assert np.array_equal(labels, expected_labels)


def test_files_of_each_format_are_downloaded(server, other, tmp_path, monkeypatch):
    name, parts, files = other
    ((kind, *_), *_) = catalog.DATASETS[name].sources.values()
    if kind == "archive":
        page = made_up.cifar_archive(files, "cifar-100-python")
        server.pages["cifar.tar.gz"] = page
        source = (kind, f"{server.url}/cifar.tar.gz", hashlib.md5(page).hexdigest(), "cifar-100-python")
    else:
        server.pages |= files
        source = (kind, f"{server.url}/some/folder/", *files)
    change_dataset(monkeypatch, name, sources={"first.example": source})
    images, _ = load_images(name, tmp_path, train=False)[:]
    assert len(images) == len(parts["test"][0])
    assert files_in(tmp_path) == sorted(f"{catalog.DATASETS[name].folder}/{file}" for file in files)


def test_a_file_of_another_format_with_another_checksum_is_refused(server, other, tmp_path, monkeypatch):
    name, _, files = other
    first, kind = next(iter(files)), "md5" if name in ("cifar100", "kuzushiji-49") else "sha256"
    wrong = files | {first: files[first][:-1] + bytes([files[first][-1] ^ 1])}
    monkeypatch.setattr(pickle, "load", lambda *args, **kwargs: pytest.fail("unpickled"))
    server.pages |= wrong
    change_dataset(monkeypatch, name, sources={"first.example": ("files", f"{server.url}/", *files)})
    with pytest.raises(
        DownloadError, match=rf"what it sent as {first} is not the official file \(its {kind} differs\)"
    ):
        load_images(name, tmp_path, train=True)
    assert files_in(tmp_path) == []
    folder = made_up.write_files(wrong, folder_of(name, tmp_path))
    with pytest.raises(UserError, match=rf"{first}: damaged, or not the official file \(its {kind} differs\)"):
        load_images(name, tmp_path, train=True)
    if name == "cifar100":  # replaced after the check of all files
        with pytest.raises(UserError, match=r"train: damaged, or not the official file \(its md5 differs\); delete it"):
            download.read_cifar(folder, catalog.DATASETS[name], train=True)


def test_what_to_put_in_place_by_hand_is_named_as_it_is_published(other, tmp_path, monkeypatch):
    name, _, files = other
    change_dataset(monkeypatch, name, sources={})
    gzipped = r" \(or the same with \.gz\)" if name == "cifar100" else ""
    with pytest.raises(DownloadError, match=rf"put {', '.join(files)}{gzipped} into .* by hand"):
        load_images(name, tmp_path, train=True)


# --- CIFAR-10's archive ---


@pytest.fixture
def archive(server, cifar_batches, monkeypatch) -> bytes:
    """The made-up CIFAR-10's archive; its sources are moved to the loopback server, which doesn't serve it yet."""
    content = made_up.cifar_archive(cifar_batches)
    md5 = hashlib.md5(content).hexdigest()
    sources = {
        host: ("archive", f"{server.url}/{host}/cifar.tar.gz", md5, "cifar-10-batches-py")
        for host in catalog.DATASETS["cifar10"].sources
    }
    change_dataset(monkeypatch, "cifar10", sources=sources)
    return content


@pytest.mark.parametrize("first_works", [True, False])
def test_an_archive_is_fetched_unpacked_and_removed(server, archive, cifar_batches, tmp_path, first_works):
    first, second = (f"/{host}/cifar.tar.gz" for host in catalog.DATASETS["cifar10"].sources)
    server.pages |= {first if first_works else second: archive}
    images, _ = load_images("cifar10", tmp_path, train=False)[:]
    assert len(images) == made_up.CIFAR_BATCH_SIZE
    assert files_in(tmp_path) == sorted(f"cifar-10-batches-py/{name}" for name in cifar_batches)
    assert (second in server.requested) is not first_works


def test_an_archive_with_another_checksum_is_not_even_unpacked(server, archive, cifar_batches, tmp_path, monkeypatch):
    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: pytest.fail("unpacked"))
    server.pages["cifar.tar.gz"] = archive[:-1] + bytes([archive[-1] ^ 1])
    with pytest.raises(DownloadError, match="no source delivered the files"):
        load_images("cifar10", tmp_path, train=True)
    assert files_in(tmp_path) == []


# --- unequal classes ---


def test_unequal_classes_of_the_catalogue_are_named_with_the_options_for_them(folder, tmp_path, monkeypatch, caplog):
    images, _ = made_up.make_images(60, seed=0, classes=49)
    parts = {part: (images, np.minimum(np.arange(60), 48).astype(np.uint8)) for part in ("train", "test")}
    files = made_up.official_files("kuzushiji-49", parts)
    change_dataset(monkeypatch, "kuzushiji-49", **made_up.checksums("kuzushiji-49", files))
    made_up.write_files(files, folder_of("kuzushiji-49", tmp_path))
    load_data(TrainConfig(dataset="kuzushiji-49"), tmp_path)
    assert "iteration mark has 12.0 times as many images as a: --class-weights balanced weighs all" in caplog.text
    caplog.clear()
    load_data(TrainConfig(dataset="kuzushiji-49", class_weights="balanced"), tmp_path)
    load_data(TrainConfig(dataset="kmnist"), tmp_path)  # its classes are equally large
    assert not caplog.records
