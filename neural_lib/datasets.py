"""What each data set is, and its images as tensors in memory.

DATASETS is the one source of class names, checksums, statistics and licences. torch is imported where images are read.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from neural_lib import downloads, readers
from neural_lib.placement import Placement

if TYPE_CHECKING:
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
    placement: Placement | None = None  # None: photos, which fill their frame
    mirrors: bool = False  # whether the mirror image of one still shows its class
    shift_note: str = ""  # why validation may promise more than the test set keeps
    read: Callable[..., tuple] = readers.read_idx
    folder: str = ""  # of the files, under <data>, where torchvision has them
    sha256: Mapping[str, str] = field(default_factory=dict)  # of those files
    sources: Mapping[str, downloads.Fetch] = field(default_factory=dict)  # by host, in the order they are tried


class Images(NamedTuple):
    """One part of a data set: uint8 images (N, C, H, W) and int64 labels (N,)."""

    images: "Tensor"
    labels: "Tensor"


FALLBACK = "digits"  # needs no network
CIFAR10_ARCHIVE = {"md5": "c58f30108f718f92721af3b95e74349a", "folder": "cifar-10-batches-py"}  # torchvision's

DATASETS = {
    "kmnist": DatasetInfo(
        title="KMNIST",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        glyphs=("お", "き", "す", "つ", "な", "は", "ま", "や", "れ", "を"),
        train_size=60_000,
        test_size=10_000,
        placement=Placement(28, "box", stroke=1.55),
        licence="CC BY-SA 4.0",
        source='"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and others), '
        "doi:10.20676/00000341; Clanuwat et al., arXiv:1812.01718",
        mean=(0.1918,),  # of the 60,000 training images; tests/test_real_data.py computes both again
        std=(0.3483,),
        shift_note="KMNIST's test images differ in distribution from its training images, so a validation split drawn "
        "from the training images overstates test accuracy",
        folder="KMNIST/raw",
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
        placement=Placement(28, "box"),
        licence="MIT",
        source="Zalando Research; Xiao, Rasul and Vollgraf, arXiv:1708.07747",
        mean=(0.2860,),  # of the 60,000 training images; tests/test_real_data.py computes both again
        std=(0.3530,),
        mirrors=True,
        folder="FashionMNIST/raw",
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
    "mnist": DatasetInfo(
        title="MNIST",
        classes=tuple("0123456789"),
        train_size=60_000,
        test_size=10_000,
        placement=Placement(20, "mass", stroke=1.58),
        licence="CC BY-SA 3.0",
        source="LeCun, Cortes and Burges; LeCun et al., Gradient-based learning applied to document recognition, "
        "doi:10.1109/5.726791",
        mean=(0.1307,),  # of the 60,000 training images; tests/test_real_data.py computes both again
        std=(0.3081,),
        folder="MNIST/raw",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        sources={
            "ossci-datasets.s3.amazonaws.com": downloads.from_torchvision("MNIST"),
            "openml.org": downloads.from_openml("mnist_784", 1, image_shape=(28, 28), test_size=10_000),
        },
    ),
    "cifar10": DatasetInfo(
        title="CIFAR-10",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        train_size=50_000,
        test_size=10_000,
        licence="none stated",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, University of Toronto, 2009, "
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        mean=(0.4914, 0.4822, 0.4465),  # of the 50,000 training images; tests/test_real_data.py computes both again
        std=(0.2470, 0.2435, 0.2616),
        channels=3,
        image_size=32,
        mirrors=True,
        read=readers.read_cifar,
        folder="cifar-10-batches-py",
        # of the files in that archive, as several public projects list them beside its md5
        sha256={
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        },
        sources={
            "www.cs.toronto.edu": downloads.from_archive(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", **CIFAR10_ARCHIVE
            ),
            "dataset.bj.bcebos.com": downloads.from_archive(  # the same archive, where PaddlePaddle gets it
                "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz", **CIFAR10_ARCHIVE
            ),
        },
    ),
    "digits": DatasetInfo(
        title="digits",
        classes=tuple("0123456789"),
        train_size=readers.DIGITS_TRAIN_SIZE,
        test_size=297,
        image_size=readers.DIGITS_SIZE,
        read=readers.read_digits,
        mean=(0.3119,),  # of the 1,500 training images, enlarged; tests/test_datasets.py computes both again
        std=(0.3550,),
        placement=Placement(28, "box", stroke=3.60),
        licence="CC BY 4.0",
        source="scikit-learn's bundled load_digits: the test part of Alpaydin and Kaynak, Optical Recognition of "
        "Handwritten Digits, UCI, doi:10.24432/C50P49",
    ),
}


def fingerprint(images: Images) -> str:
    """The sha256 of the images and their labels, in their order."""
    digest = hashlib.sha256(str(tuple(images.images.shape)).encode())
    for tensor in images:
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()


def is_there(name: str, data_dir: str | Path) -> bool:
    """Whether load_images would find the files of the data set `name`, or needs none."""
    info = DATASETS[name]
    return all((Path(data_dir) / info.folder / file).exists() for file in info.sha256)


def load_images(name: str, data_dir: str | Path, train: bool) -> Images:
    """The training or the test images of the data set `name`, downloaded and verified first where that is needed.

    Raises downloads.DownloadError where files are missing and no source delivers them, and UserError where a file in
    place is not the official one.
    """
    import torch

    info = DATASETS[name]
    folder = Path(data_dir) / info.folder
    if info.sha256:
        downloads.ensure_files(folder, info.sha256, info.sources)
    images, labels = info.read(folder, info.sha256, train)
    return Images(torch.from_numpy(images), torch.from_numpy(labels).long())
