"""The sources against a real HTTP server on loopback."""

import gzip
import hashlib
import json
import logging
import os

import loopback
import made_up
import numpy as np
import pytest
from conftest import change_dataset
from sklearn.datasets import _openml
from torchvision.datasets import KMNIST

from neural_lib import datasets, downloads
from neural_lib.datasets import load_images
from neural_lib.downloads import DownloadError
from neural_lib.errors import UserError

IMAGES = "train-images-idx3-ubyte"


@pytest.fixture
def sources(server, made_up_kmnist, monkeypatch):
    """Both sources moved to the loopback server, which knows neither data set yet."""
    monkeypatch.setattr(KMNIST, "mirrors", [f"{server.url}/codh/"])
    for name in ("_SEARCH_NAME", "_DATA_INFO", "_DATA_FEATURES", "_DATA_QUALITIES"):
        path = getattr(_openml, name).removeprefix("https://www.openml.org")
        monkeypatch.setattr(_openml, name, server.url + path)
    return server


def serve_codh(server, files, monkeypatch) -> None:
    archives = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in archives.items()]
    monkeypatch.setattr(KMNIST, "resources", resources)
    server.pages |= archives


def serve_openml(server, files) -> None:
    """OpenML's four answers about a table and the table itself: training images first, then the test images."""
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


def left_in(data_dir) -> list[str]:
    return sorted(str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file())


ALL_FILES = sorted(f"KMNIST/raw/{name}" for name in made_up.make_files())


def test_the_first_source_serves(sources, made_up_kmnist, monkeypatch, tmp_path):
    serve_codh(sources, made_up_kmnist, monkeypatch)
    images, _ = load_images("kmnist", tmp_path, train=True)
    assert len(images) == made_up.TRAIN_SIZE
    assert left_in(tmp_path) == ALL_FILES  # no archive, no scratch
    asked = len(sources.requested)
    load_images("kmnist", tmp_path, train=False)
    assert len(sources.requested) == asked  # what is there is not asked for again


def test_the_second_source_serves_after_the_first_failed(sources, made_up_kmnist, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    serve_openml(sources, made_up_kmnist)
    images, labels = load_images("kmnist", tmp_path, train=False)
    expected_images, expected_labels = made_up.make_images(made_up.TEST_SIZE, seed=1)
    assert np.array_equal(images.squeeze(1), expected_images) and np.array_equal(labels, expected_labels)
    assert left_in(tmp_path) == ALL_FILES
    assert "downloading from codh.rois.ac.jp..." in caplog.text and "downloading from openml.org..." in caplog.text


def test_files_already_there_stay_when_the_others_are_fetched(sources, made_up_kmnist, monkeypatch, tmp_path):
    serve_codh(sources, made_up_kmnist, monkeypatch)
    raw = made_up.write_files({IMAGES: made_up_kmnist[IMAGES]}, tmp_path / "KMNIST" / "raw")
    before = (raw / IMAGES).stat()
    load_images("kmnist", tmp_path, train=True)
    assert os.path.samestat((raw / IMAGES).stat(), before)


def _wrong_content(server, files, monkeypatch):
    # a well-formed archive with its right md5, but of other images: such as the data set's older version
    files[IMAGES] = files[IMAGES][:-1] + b"\xaa"
    serve_codh(server, files, monkeypatch)


def _wrong_md5(server, files, monkeypatch):
    serve_codh(server, files, monkeypatch)
    server.pages[f"{IMAGES}.gz"] = gzip.compress(b"something else")


def _truncated(server, files, monkeypatch):
    serve_codh(server, files, monkeypatch)
    server.pages[f"{IMAGES}.gz"] = (loopback.TRUNCATE, server.pages[f"{IMAGES}.gz"])


def _one_missing(server, files, monkeypatch):
    serve_codh(server, files, monkeypatch)
    server.pages["t10k-labels-idx1-ubyte.gz"] = 404


def _hanging(server, files, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.5)
    serve_codh(server, files, monkeypatch)
    server.pages[f"{IMAGES}.gz"] = loopback.HANG


def _hanging_openml(server, files, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.5)
    serve_openml(server, files)
    server.pages["/kmnist.arff"] = loopback.HANG


def _truncated_openml(server, files, monkeypatch):
    serve_openml(server, files)
    server.pages["/kmnist.arff"] = (loopback.TRUNCATE, server.pages["/kmnist.arff"])


def _wrong_openml(server, files, monkeypatch):
    files[IMAGES] = files[IMAGES][:-1] + b"\xaa"
    serve_openml(server, files)


def _garbled_openml(server, files, monkeypatch):
    serve_openml(server, files)
    server.pages["/api/v1/json/data/1"] = b"<html>maintenance</html>"


@pytest.mark.parametrize("arrange, reason", [
    (_wrong_content, "codh.rois.ac.jp: what it sent as train-images-idx3-ubyte is not the official file"),
    (_wrong_md5, "codh.rois.ac.jp: .*corrupted"),
    (_truncated, "codh.rois.ac.jp: .*corrupted"),
    (_one_missing, "codh.rois.ac.jp: .*t10k-labels.*404"),
    (_hanging, "codh.rois.ac.jp: .*timed out"),
    (_hanging_openml, "openml.org: .*timed out"),
    (_truncated_openml, "openml.org: .*"),
    (_wrong_openml, "openml.org: what it sent as train-images-idx3-ubyte is not the official file"),
    (_garbled_openml, "openml.org: .*"),
])  # fmt: skip
def test_a_bad_source_leaves_nothing_behind(sources, made_up_kmnist, monkeypatch, tmp_path, arrange, reason):
    arrange(sources, dict(made_up_kmnist), monkeypatch)
    with pytest.raises(DownloadError, match=reason) as caught:
        load_images("kmnist", tmp_path, train=True)
    assert left_in(tmp_path) == []
    message = str(caught.value)
    assert "codh.rois.ac.jp: " in message and "openml.org: " in message
    assert all(name in message for name in made_up_kmnist)
    assert str(tmp_path / "KMNIST" / "raw") in message
    assert "\n" not in message


def test_a_data_folder_that_cannot_be_made_is_named(sources, tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(DownloadError, match="nothing can be put into .*KMNIST.*; choose another --data"):
        load_images("kmnist", tmp_path / "data", train=True)


def test_a_file_is_checked_each_time(kmnist_dir):
    load_images("kmnist", kmnist_dir, train=True)
    path = kmnist_dir / "KMNIST" / "raw" / IMAGES
    content, before = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size and time
    with pytest.raises(UserError, match=IMAGES):
        load_images("kmnist", kmnist_dir, train=True)


# --- CIFAR-10's archive ---


@pytest.fixture
def archive(server, cifar_batches, monkeypatch) -> bytes:
    """The made-up CIFAR-10's archive; both of its sources are moved to the loopback server, which doesn't serve it."""
    content = made_up.cifar_archive(cifar_batches)
    described = {"md5": hashlib.md5(content).hexdigest(), "folder": "cifar-10-batches-py"}
    sources = {
        host: downloads.from_archive(f"{server.url}/{host}/cifar.tar.gz", **described)
        for host in datasets.DATASETS["cifar10"].sources
    }
    change_dataset(monkeypatch, "cifar10", sources=sources)
    return content


@pytest.mark.parametrize("first_works", [True, False])
def test_an_archive_is_fetched_unpacked_and_removed(server, archive, cifar_batches, tmp_path, first_works):
    first, second = (f"/{host}/cifar.tar.gz" for host in datasets.DATASETS["cifar10"].sources)
    server.pages |= {first if first_works else second: archive}
    images, _ = load_images("cifar10", tmp_path, train=False)
    assert len(images) == made_up.CIFAR_BATCH_SIZE
    assert left_in(tmp_path) == sorted(f"cifar-10-batches-py/{name}" for name in cifar_batches)
    assert (second in server.requested) is not first_works


def test_an_archive_with_another_checksum_is_not_even_unpacked(server, archive, cifar_batches, tmp_path, monkeypatch):
    import tarfile

    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: pytest.fail("unpacked"))
    server.pages["cifar.tar.gz"] = archive[:-1] + bytes([archive[-1] ^ 1])
    with pytest.raises(DownloadError, match="no source delivered the files"):
        load_images("cifar10", tmp_path, train=True)
    assert left_in(tmp_path) == []
