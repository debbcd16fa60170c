"""Made-up images in KMNIST's shape and file format, small and easy enough to be learned in seconds."""

import hashlib
from pathlib import Path

import numpy as np

from neural_lib.downloads import idx_bytes

TRAIN_SIZE, TEST_SIZE = 600, 100  # 6 to 1, as KMNIST's 60,000 and 10,000


def make_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (count, 28, 28) and labels (count,): a bright bar, its place told by the class, on noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.uint8) % 10
    images = generator.integers(0, 60, size=(count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 + 12 * (label // 5), 2 + 5 * (label % 5)
        image[row : row + 9, column : column + 4] += 180
    order = generator.permutation(count)
    return images[order], labels[order]


def make_files() -> dict[str, bytes]:
    """The four idx files of a made-up KMNIST, by their official names."""
    files = {}
    for part, count, seed in (("train", TRAIN_SIZE, 0), ("t10k", TEST_SIZE, 1)):
        images, labels = make_images(count, seed)
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(labels)
    return files


def write_files(files: dict[str, bytes], data_dir: Path) -> Path:
    """Put the files where torchvision expects KMNIST's; returns that folder."""
    raw = data_dir / "KMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    return raw


def sha256(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
