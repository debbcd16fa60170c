"""Made-up images in the shapes and file formats of the catalogue, small and easy enough to be learned in seconds."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from neural_lib.config import ARCHS, TrainConfig
from neural_lib.data import catalog
from neural_lib.data.download import idx_bytes

if TYPE_CHECKING:
    from neural_lib.checkpoint import Checkpoint

TRAIN_SIZE, TEST_SIZE = 600, 100  # 6 to 1, as KMNIST's 60,000 and 10,000
SMALL_ARCHS = [arch for arch in ARCHS if arch != "efficientnet-lite0"]  # networks for the images of the catalogue


def make_images(count: int, seed: int, classes: int = 10, size: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (count, size, size) and labels (count,): a bright bar on noise; its place depends on the class.

    In smaller images, or of more classes, some bars are outside.
    """
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.uint8)
    images = generator.integers(0, 60, size=(count, size, size), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 + 12 * int(label // 5), 2 + 5 * int(label % 5)
        image[row : row + 9, column : column + 4] += 180
    order = generator.permutation(count)
    return images[order], labels[order]


def make_files(
    train_size: int = TRAIN_SIZE, test_size: int = TEST_SIZE, classes: int = 10, size: int = 28
) -> dict[str, bytes]:
    """The four idx files of a made-up KMNIST, or of one with other classes and pixels, by their official names."""
    files = {}
    for part, count, seed in (("train", train_size, 0), ("t10k", test_size, 1)):
        images, labels = make_images(count, seed, classes, size)
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(labels)
    return files


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    """Put the files into that folder, which is made and returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def sha256(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def checksums(dataset: str, files: dict[str, bytes]) -> dict[str, dict[str, str]]:
    """The field of DatasetInfo, "sha256" or "md5", in which the catalogue has that data set's, and these files' own."""
    kind = "sha256" if catalog.DATASETS[dataset].sha256 else "md5"
    return {kind: {name: hashlib.new(kind, content).hexdigest() for name, content in files.items()}}


# --- the other formats ---


def make_parts(dataset: str, train_size: int, test_size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images of that data set's shape, (N, H, W) or (N, 3, H, W), and labels (N,) of the parts "train" and "test"."""
    info = catalog.DATASETS[dataset]
    make = make_images if info.channels == 1 else make_colour_images
    sizes = enumerate({"train": train_size, "test": test_size}.items())
    return {part: make(size, seed, classes=len(info.classes)) for seed, (part, size) in sizes}


def official_files(dataset: str, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, bytes]:
    """The files of that data set, by their official names, with these images and labels from 0."""
    files = {}
    for part, (images, labels) in parts.items():
        if dataset == "qmnist":
            rows = np.zeros((len(labels), 8), ">i4")  # class, series, writer, digit of the writer, NIST's class, ...
            rows[:, 0], rows[:, 2], rows[:, 4] = labels, 2599, 30 + labels
            files[f"qmnist-{part}-images-idx3-ubyte.gz"] = gzip.compress(idx_bytes(images))
            header = bytes((0, 0, 12, 2)) + struct.pack(">2i", *rows.shape)
            files[f"qmnist-{part}-labels-idx2-int.gz"] = gzip.compress(header + rows.tobytes())
        elif dataset == "kuzushiji-49":
            files[f"k49-{part}-imgs.npz"] = npz_bytes(arr_0=images)
            files[f"k49-{part}-labels.npz"] = npz_bytes(arr_0=labels)
        elif dataset == "cifar100":
            files[part] = cifar_batch(images, labels, "fine_labels")
        else:
            raise ValueError(dataset)
    return files


def npz_bytes(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def emnist_archive(**splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, bytes]:
    """EMNIST's gzip.zip. splits: of letters and balanced, images (N, 28, 28) and labels from 0 of the parts.

    In the files the images are transposed, and the labels of letters begin with 1.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for split, parts in splits.items():
            for part, (images, labels) in parts.items():
                prefix = f"gzip/emnist-{split}-{part}"
                first = {"letters": 1, "balanced": 0}[split]
                transposed = np.ascontiguousarray(images.swapaxes(1, 2))
                archive.writestr(f"{prefix}-images-idx3-ubyte.gz", gzip.compress(idx_bytes(transposed)))
                archive.writestr(f"{prefix}-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(labels + np.uint8(first))))
    return {"gzip.zip": content.getvalue()}


# --- CIFAR-10 ---

RECONSTRUCT = np.empty(0).__reduce__()[0]  # a private function of NumPy's, and of another module in each version
CIFAR_BATCH_SIZE = 60  # images in each of the five training batches and in the test batch


def make_colour_images(count: int, seed: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (count, 3, 32, 32) and labels (count,): a bar on noise; its place and colour depend on the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = generator.integers(0, 60, size=(count, 3, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        column = 3 + 6 * (label % 5)
        image[2 * (label // 5 % 2), 8:24, column : column + 4] += 180  # red or blue
    order = generator.permutation(count)
    return images[order], labels[order]


def make_cifar_batches(batch_size: int = CIFAR_BATCH_SIZE, classes: int = 10) -> dict[str, bytes]:
    """The six batches of a made-up CIFAR-10, by their official names."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {name: cifar_batch(*make_colour_images(batch_size, seed, classes)) for seed, name in enumerate(names)}


def cifar_batch(images: np.ndarray, labels: np.ndarray, key: str = "labels") -> bytes:
    """A batch as Python 2 and the NumPy of 2009 pickled it; with the key fine_labels CIFAR-100's, with coarse ones."""
    content = io.BytesIO()
    batch = {"batch_label": "made up", key: labels.tolist(), "data": images.reshape(len(images), -1)}
    if key == "fine_labels":
        batch["coarse_labels"] = [19] * len(labels)
    _Python2Pickler(content, protocol=2).dump(batch | {"filenames": [f"{n}.png" for n in range(len(images))]})
    return content.getvalue()


class _Python2Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str | bytes) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch[str] = dispatch[bytes] = save_string

    def reducer_override(self, value: object) -> object:
        if isinstance(value, np.ndarray):
            state = (1, value.shape, value.dtype, False, value.tobytes())
            return RECONSTRUCT, (np.ndarray, (0,), b"b"), state
        if isinstance(value, np.dtype):
            return np.dtype, (value.str.lstrip("|"), 0, 1), (3, "|", None, None, None, -1, -1, 0)
        return NotImplemented

    def save_global(self, value: object, name: str | None = None) -> None:
        if value is RECONSTRUCT:
            self.write(pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n")
        else:
            super().save_global(value, name)


def cifar_archive(batches: dict[str, bytes], folder: str = "cifar-10-batches-py") -> bytes:
    """cifar-10-python.tar.gz, or with CIFAR-100's folder cifar-100-python.tar.gz, with these batches in it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, batch in batches.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(batch)
            archive.addfile(member, io.BytesIO(batch))
    return content.getvalue()


# --- checkpoints ---


def make_checkpoint(dataset: str, arch: str = "lenet-slim") -> "Checkpoint":
    """A checkpoint for that data set, as a run writes it, whose network is untrained and always the same."""
    import torch

    from neural_lib import checkpoint
    from neural_lib.networks import build_network

    info = catalog.DATASETS[dataset]
    arch_args = {"numChannels": info.channels, "classes": len(info.classes), "image_size": info.image_size}
    statistics = ([0.2] * info.channels, [0.3] * info.channels)
    described = checkpoint.without_weights(TrainConfig(dataset=dataset, arch=arch), info, arch_args, statistics, {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return replace(described, state_dict=build_network(arch, **arch_args).state_dict())


def write_photos(folder: Path, seed: int = 0, sides: tuple[int, int] = (30, 60), **counts: int) -> Path:
    """A folder of folders: so many pictures of each colour, of mixed sizes and formats, each different.

    sides: limits of height and width, pixels.
    """
    generator = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            height, width = generator.integers(*sides, 2)
            pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
            pixels[5:-5, 5:-5, ("red", "green", "blue").index(name)] += 150
            path = folder / name / f"{name}{number}.{('png', 'jpg', 'bmp')[number % 3]}"
            cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return folder


def write_parts(folder: Path, parts: dict[str, tuple]) -> Path:
    """Images (N, C, H, W) and labels (N,) of each part as PNG files in folders of parts and classes, in their order."""
    for part, (images, labels) in parts.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / part / str(int(label)) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.ascontiguousarray(np.asarray(image).transpose(1, 2, 0)[..., ::-1]))
    return folder


def write_npz(path: Path, parts: dict[str, tuple]) -> Path:
    """The same as an .npz with MedMNIST's keys."""
    arrays = {}
    for part, (images, labels) in parts.items():
        pixels = np.asarray(images).transpose(0, 2, 3, 1)
        arrays |= {f"{part}_images": pixels[..., 0] if pixels.shape[3] == 1 else pixels}
        arrays |= {f"{part}_labels": np.asarray(labels)[:, None]}
    np.savez(path, **arrays)
    return path
