"""What each data set is, and its images as tensors in memory.

DATASETS is the one source of class names, checksums, statistics and licences. torch is imported where images are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neural_lib import downloads

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class DatasetInfo:
    """One data set: sizes, names and where it is from."""

    title: str  # as a plot names it
    classes: tuple[str, ...]
    train_size: int  # images
    test_size: int
    mean: tuple[float, ...]  # per channel, of the training images' pixels scaled to 0..1; see Normalisation
    std: tuple[float, ...]
    licence: str
    source: str
    channels: int = 1
    image_size: int = 28  # pixels, height and width
    glyphs: tuple[str, ...] = ()  # the written character of each class, where a class is one
    shift_note: str = ""  # why validation may promise more than the test set keeps
    folder: str = ""  # torchvision's: the files are under <data>/<folder>/raw
    sha256: Mapping[str, str] = field(default_factory=dict)  # of those files
    sources: Mapping[str, downloads.Fetch] = field(default_factory=dict)  # by host, in the order they are tried


class Images(NamedTuple):
    """One part of a data set: uint8 images (N, C, H, W) and int64 labels (N,)."""

    images: "Tensor"
    labels: "Tensor"


DATASETS = {
    "kmnist": DatasetInfo(
        title="KMNIST",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        glyphs=("お", "き", "す", "つ", "な", "は", "ま", "や", "れ", "を"),
        train_size=60_000,
        test_size=10_000,
        licence="CC BY-SA 4.0",
        source='"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and others), '
        "doi:10.20676/00000341; Clanuwat et al., arXiv:1812.01718",
        mean=(0.1918,),  # of the 60,000 training images; tests/test_real_data.py computes both again
        std=(0.3483,),
        shift_note="KMNIST's test images differ in distribution from its training images, so a validation split drawn "
        "from the training images overstates test accuracy",
        folder="KMNIST",
        # of the uncompressed files as published since February 2019; the older images differ, their labels don't
        sha256={
            "train-images-idx3-ubyte": "7112ba9ec422d98de4885262d4a4dff14cc4fefb81c11ace8bf563a8255df5c3",
            "train-labels-idx1-ubyte": "2a16eeae62da984b8bd24fa32e31d47291f01dac3fe84d5594f304f71e7d374b",
            "t10k-images-idx3-ubyte": "76fbd229ce87db80dd281af5e6670de4ad0e42fb30a7bd643972994c47c1f42e",
            "t10k-labels-idx1-ubyte": "a11dc742be8e781a40a92f53d6a4957e7b7d36df2faa097659131ebfd8fd60c6",
        },
        sources={
            "codh.rois.ac.jp": downloads.from_torchvision("KMNIST"),
            # the name and version that public code uses; whether it holds the corrected images, the checksums tell
            "openml.org": downloads.from_openml("Kuzushiji-MNIST", 1, image_shape=(28, 28), test_size=10_000),
        },
    ),
    "fashion-mnist": DatasetInfo(
        title="Fashion-MNIST",
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        train_size=60_000,
        test_size=10_000,
        licence="MIT",
        source="Zalando Research; Xiao, Rasul and Vollgraf, arXiv:1708.07747",
        mean=(0.2860,),  # of the 60,000 training images; tests/test_real_data.py computes both again
        std=(0.3530,),
        folder="FashionMNIST",
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        sources={
            "fashion-mnist.s3-website.eu-central-1.amazonaws.com": downloads.from_torchvision("FashionMNIST"),
            "openml.org": downloads.from_openml("Fashion-MNIST", 1, image_shape=(28, 28), test_size=10_000),
        },
    ),
    "digits": DatasetInfo(
        title="digits",
        classes=tuple("0123456789"),
        train_size=1_500,
        test_size=297,
        mean=(0.3119,),  # of the 1,500 training images, enlarged; tests/test_datasets.py computes both again
        std=(0.3550,),
        licence="CC BY 4.0",
        source="scikit-learn's bundled load_digits: the test part of Alpaydin and Kaynak, Optical Recognition of "
        "Handwritten Digits, UCI, doi:10.24432/C50P49",
    ),
}


def load_images(name: str, data_dir: str | Path, train: bool) -> Images:
    """The training or the test images of the data set `name`, downloaded and verified first where that is needed.

    Raises downloads.DownloadError where files are missing and no source delivers them, and UserError where a file in
    place is not the official one.
    """
    info = DATASETS[name]
    if name == "digits":
        return _read_digits(info, train)
    folder = Path(data_dir) / info.folder / "raw"
    downloads.ensure_files(folder, info.sha256, info.sources)
    return _read_idx(folder, train)


def _read_idx(folder: Path, train: bool) -> Images:
    import torch

    part = "train" if train else "t10k"
    images = torch.from_numpy(_idx_array(folder / f"{part}-images-idx3-ubyte"))
    labels = torch.from_numpy(_idx_array(folder / f"{part}-labels-idx1-ubyte"))
    return Images(images.unsqueeze(1), labels.long())  # (N, H, W) -> (N, 1, H, W)


def _idx_array(path: Path) -> "np.ndarray":
    # The inverse of downloads.idx_bytes, for files whose checksums are right. torchvision can read them, but its import
    # takes another 0.4 s after torch's (warm; 2 cores), and its KMNIST class would prefer an unverified
    # processed/training.pt, which old versions of torchvision left behind.
    import numpy as np

    values = np.fromfile(path, dtype=np.uint8)
    lengths = values[4 : 4 + 4 * values[3]].view(">i4")  # values[3]: the number of axes
    return values[4 + 4 * values[3] :].reshape(lengths)


def _read_digits(info: DatasetInfo, train: bool) -> Images:
    # 8x8 pixels of 0..16, enlarged; the last 297 are the test part, always the same ones
    import torch
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) * (255 / 16)  # (N, 64) -> (N, 1, 8, 8)
    images = torch.nn.functional.interpolate(images, size=info.image_size, mode="bicubic")  # -> (N, 1, 28, 28)
    part = slice(None, info.train_size) if train else slice(info.train_size, None)
    return Images(images.round().clamp(0, 255).to(torch.uint8)[part], torch.from_numpy(labels).long()[part])
