"""The facts of each data set: class names, sizes, checksums, sources, licences.

This module reads and downloads nothing.
To add a data set, add an entry to DATASETS. Mean and standard deviation are computed from the training images.
"""

import difflib
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from neural_lib.config import MAX_SMALL_SIZE
from neural_lib.system.errors import UserError, printable

PARTS = ("train", "val", "test")  # the names of user images' parts
OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
PART_OF = {part: part for part in PARTS} | OTHER_NAMES  # any name in use -> part


class Placement(NamedTuple):
    """Size, position and stroke width of the light object on black that each image of a data set shows.

    Measured on its training images; tests/data/test_real_data.py repeats the measurement. Those of qmnist,
    kuzushiji-49 and EMNIST were not measured; a comment says where they are from.
    """

    box: int  # longer side of the object's bounding box, pixels; the aspect ratio is kept
    centre: str  # "box": the bounding box is centred; "mass": the centre of mass is in the pixel right and below of it
    stroke: float = 0.0  # width that 95 % of the strokes exceed, pixels; 0: the images show no strokes

    @property
    def is_written(self) -> bool:
        """True if the images show strokes, as handwriting on paper does."""
        return self.stroke > 0


class Preparation(NamedTuple):
    """The settings of ink.prepare, by which a picture becomes an image in training and in prediction."""

    image_size: int  # height and width, pixels
    channels: int  # 1: grey, 3: RGB
    placement: Placement | None  # size and position of the ink; None: a photo, which `fit` makes square
    fit: str = "crop"  # one of config.FITS

    @property
    def min_side(self) -> int:
        """The pixels of a photo's shorter side that suffice for a large image, for read_picture; 0: read them all."""
        return 2 * self.image_size if self.placement is None and self.image_size > MAX_SMALL_SIZE else 0


@dataclass(frozen=True)
class DatasetInfo:
    """One data set: its sizes, class names, files and sources."""

    title: str  # the name in plots and messages
    classes: tuple[str, ...]
    train_size: int  # images
    test_size: int
    licence: str
    source: str
    placement: Placement | None  # None: photos, which fill their frame
    channels: int = 1
    image_size: int = 28  # height and width, pixels
    glyphs: tuple[str, ...] = ()  # the written character of each class, if the classes are characters
    mirrors: bool = False  # True if the mirror image of an image still shows its class
    shift_note: str = ""  # why validation accuracy may overstate test accuracy
    fit: str = "crop"  # see Preparation
    format: str = "idx"  # file format, one of download.READERS
    folder: str = ""  # the files' folder under <data>; torchvision uses the same if it has the data set
    sha256: Mapping[str, str] = field(default_factory=dict)  # file name -> checksum
    md5: Mapping[str, str] = field(default_factory=dict)  # the same for files of which no sha256 is published
    # Host -> (a name in download.FETCHERS, *its arguments). Hosts are tried in this order.
    sources: Mapping[str, tuple] = field(default_factory=dict)
    other_names: tuple[str, ...] = ()  # names in use elsewhere, for "did you mean"

    @property
    def checksums(self) -> dict[str, tuple[str, str]]:
        """Name of each file -> the checksum's algorithm ("sha256" or "md5") and the checksum."""
        kinds = {"sha256": self.sha256, "md5": self.md5}
        return {name: (kind, value) for kind, values in kinds.items() for name, value in values.items()}

    @property
    def preparation(self) -> Preparation:
        """The settings by which a picture becomes an image of this data set."""
        return Preparation(self.image_size, self.channels, self.placement, self.fit)


FALLBACK = "digits"  # needs no download
# The archives' md5 and folder, from torchvision.
CIFAR10 = ("c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py")
CIFAR100 = ("eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python")
KMNIST_SOURCE = (
    '"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and others), '
    "doi:10.20676/00000341; Clanuwat et al., arXiv:1812.01718"
)
# EMNIST's data sets are members of one archive, which is kept as it is: checksums of its members aren't published.
# The sha256 is TensorFlow Datasets', the md5 of the same file torchvision's (58c8d27c78d21e728a6bc7b3cc06412e).
EMNIST = {
    "licence": "none stated",
    "source": "NIST; Cohen, Afshar, Tapson and van Schaik, EMNIST: an extension of MNIST to handwritten letters, "
    "arXiv:1702.05373",
    # Figure 1 of the paper: the bounding box is centred in a square with a border of 2 pixels. The stroke is MNIST's,
    # which was written on the same forms, in a box of 24 instead of 20 pixels: 1.58 * 24 / 20.
    "placement": Placement(24, "box", stroke=1.9),
    "folder": "EMNIST/raw",
    "sha256": {"gzip.zip": "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"},
    "sources": {"biometrics.nist.gov": ("files", "https://biometrics.nist.gov/cs_links/EMNIST/", "gzip.zip")},
}
# The sha256 are those of torchvision's prototype of its data sets, whose stable ones publish the md5 of the same files.
QMNIST = {
    "qmnist-train-images-idx3-ubyte.gz": "9e26a7bf1683614e065d7b76460ccd52807165b3f22561fb782bd9f38c52b51d",
    "qmnist-train-labels-idx2-int.gz": "2c05dc77f6b916b38e455e97ab129a42a444f3dbef09b278a366f82904e0dd9f",
    "qmnist-test-images-idx3-ubyte.gz": "43fc22bf7498b8fc98de98369d72f752d0deabc280a43a7bcc364ab19e57b375",
    "qmnist-test-labels-idx2-int.gz": "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06",
}
# md5 that several public projects publish for the files of the authors' server; nobody publishes a sha256.
KUZUSHIJI49 = {
    "k49-train-imgs.npz": "7ac088b20481cf51dcd01ceaab89d821",
    "k49-train-labels.npz": "44a8e1b893f81e63ff38d73cad420f7a",
    "k49-test-imgs.npz": "d352e201d846ce6b94f42c990966f374",
    "k49-test-labels.npz": "4da6f7a62e67a832d5eb1bd85c5ee448",
}

DATASETS = {
    "kmnist": DatasetInfo(
        title="KMNIST",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        glyphs=("お", "き", "す", "つ", "な", "は", "ま", "や", "れ", "を"),
        train_size=60_000,
        test_size=10_000,
        placement=Placement(28, "box", stroke=1.55),
        licence="CC BY-SA 4.0",
        source=KMNIST_SOURCE,
        other_names=("kuzushiji-mnist",),
        shift_note="KMNIST's test images differ from those of training",
        folder="KMNIST/raw",
        # The uncompressed files published since February 2019. Older files have other images and the same labels.
        sha256={
            "train-images-idx3-ubyte": "7112ba9ec422d98de4885262d4a4dff14cc4fefb81c11ace8bf563a8255df5c3",
            "train-labels-idx1-ubyte": "2a16eeae62da984b8bd24fa32e31d47291f01dac3fe84d5594f304f71e7d374b",
            "t10k-images-idx3-ubyte": "76fbd229ce87db80dd281af5e6670de4ad0e42fb30a7bd643972994c47c1f42e",
            "t10k-labels-idx1-ubyte": "a11dc742be8e781a40a92f53d6a4957e7b7d36df2faa097659131ebfd8fd60c6",
        },
        sources={
            "codh.rois.ac.jp": ("torchvision", "KMNIST"),
            # Public code uses this name and version. The checksums decide if it holds the corrected images.
            "openml.org": ("openml", "Kuzushiji-MNIST", 1, (28, 28), 10_000),
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
        mirrors=True,
        folder="FashionMNIST/raw",
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        sources={
            "fashion-mnist.s3-website.eu-central-1.amazonaws.com": ("torchvision", "FashionMNIST"),
            "openml.org": ("openml", "Fashion-MNIST", 1, (28, 28), 10_000),
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
        folder="MNIST/raw",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        sources={
            "ossci-datasets.s3.amazonaws.com": ("torchvision", "MNIST"),
            "openml.org": ("openml", "mnist_784", 1, (28, 28), 10_000),
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
        channels=3,
        image_size=32,
        mirrors=True,
        format="cifar",
        placement=None,
        folder="cifar-10-batches-py",
        # Checksums of the archive's files, which several public projects publish together with its md5.
        sha256={
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        },
        sources={
            "www.cs.toronto.edu": ("archive", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", *CIFAR10),
            # PaddlePaddle's copy of the same archive.
            "dataset.bj.bcebos.com": (
                "archive",
                "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
                *CIFAR10,
            ),
        },
    ),
    "cifar100": DatasetInfo(
        title="CIFAR-100",
        classes=(
            *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle"),
            *("bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle"),
            *("chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur"),
            *("dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard"),
            *("lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle"),
            *("mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear"),
            *("pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon"),
            *("ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail"),
            *("snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone"),
            *("television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale"),
            *("willow_tree", "wolf", "woman", "worm"),
        ),
        train_size=50_000,
        test_size=10_000,
        licence="none stated",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, University of Toronto, 2009, "
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        channels=3,
        image_size=32,
        mirrors=True,
        format="cifar",
        placement=None,
        folder="cifar-100-python",
        md5={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},  # torchvision's
        sources={
            "www.cs.toronto.edu": ("archive", "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", *CIFAR100),
            # PaddlePaddle's copy of the same archive.
            "dataset.bj.bcebos.com": (
                "archive",
                "https://dataset.bj.bcebos.com/cifar/cifar-100-python.tar.gz",
                *CIFAR100,
            ),
        },
    ),
    # Capital and small letters are one class.
    "emnist-letters": DatasetInfo(
        title="EMNIST letters",
        classes=tuple("abcdefghijklmnopqrstuvwxyz"),
        train_size=124_800,
        test_size=20_800,
        format="emnist-letters",
        **EMNIST,
    ),
    # Small letters that look like their capitals are one class with these.
    "emnist-balanced": DatasetInfo(
        title="EMNIST balanced",
        classes=tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
        train_size=112_800,
        test_size=18_800,
        format="emnist-balanced",
        **EMNIST,
    ),
    # MNIST's images made again from the same forms, and 50,000 more to test.
    "qmnist": DatasetInfo(
        title="QMNIST",
        classes=tuple("0123456789"),
        train_size=60_000,
        test_size=60_000,
        placement=Placement(20, "mass", stroke=1.58),  # MNIST's: the authors count differences of 3 levels of 255
        licence="BSD-style",
        source="Yadav and Bottou, Cold Case: The Lost MNIST Digits, arXiv:1905.10498, "
        "https://github.com/facebookresearch/qmnist",
        format="qmnist",
        folder="QMNIST/raw",
        sha256=QMNIST,
        sources={
            "raw.githubusercontent.com": (
                "files",
                "https://raw.githubusercontent.com/facebookresearch/qmnist/master/",
                *QMNIST,
            )
        },
    ),
    "kuzushiji-49": DatasetInfo(
        title="Kuzushiji-49",
        classes=(
            *("a", "i", "u", "e", "o", "ka", "ki", "ku", "ke", "ko", "sa", "shi", "su", "se", "so"),
            *("ta", "chi", "tsu", "te", "to", "na", "ni", "nu", "ne", "no", "ha", "hi", "fu", "he", "ho"),
            *("ma", "mi", "mu", "me", "mo", "ya", "yu", "yo", "ra", "ri", "ru", "re", "ro"),
            *("wa", "wi", "we", "wo", "n", "iteration mark"),
        ),
        glyphs=tuple(
            "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわゐゑをんゝ"
        ),
        train_size=232_365,
        test_size=38_547,
        placement=Placement(28, "box", stroke=1.55),  # KMNIST's, of which this is the authors' extension
        licence="CC BY-SA 4.0",
        source=KMNIST_SOURCE,
        other_names=("kmnist-49", "k49"),
        format="kuzushiji",
        folder="Kuzushiji-49",
        md5=KUZUSHIJI49,
        sources={"codh.rois.ac.jp": ("files", "http://codh.rois.ac.jp/kmnist/dataset/k49/", *KUZUSHIJI49)},
    ),
    "digits": DatasetInfo(
        title="digits",
        classes=tuple("0123456789"),
        train_size=1_500,
        test_size=297,
        format="digits",
        placement=Placement(28, "box", stroke=3.60),
        licence="CC BY 4.0",
        source="scikit-learn's bundled load_digits: the test part of Alpaydin and Kaynak, Optical Recognition of "
        "Handwritten Digits, UCI, doi:10.24432/C50P49",
    ),
}


def identify(given: str) -> str:
    """Resolve a value of --dataset: a name in DATASETS is returned as it is, an existing path as absolute path.

    Raises UserError for any other value.
    """
    if given in DATASETS:
        return given
    if not os.path.exists(given):
        folder, name = os.path.split(given.rstrip("/\\"))
        names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        beside = [os.path.join(folder, each) for each in difflib.get_close_matches(name, names, 1)]
        hint = " or ".join(([] if folder else _names_like(given)) or beside)
        hint = f"did you mean {printable(hint)}?" if hint else "--help lists the data sets"
        raise UserError(f"--dataset {given}: is no data set, file or folder; {hint}")
    path = os.path.abspath(given)
    if not is_text(path):
        raise UserError(f"--dataset {given!r}: its path is not UTF-8, or has control characters; rename it")
    return path


def _names_like(given: str) -> list[str]:
    # Names of data sets that begin like `given`, else the most similar one; case and separators don't count.
    def plain(name: str) -> str:
        return "".join(filter(str.isalnum, name.lower()))

    known = [(plain(each), name) for name, info in DATASETS.items() for each in (name, *info.other_names)]
    wanted = plain(given)
    near = difflib.get_close_matches(wanted, [each for each, _ in known], n=1)
    exact = [name for each, name in known if each == wanted]
    begun = [name for each, name in known if wanted and each.startswith(wanted)]
    return exact or list(dict.fromkeys(begun)) or [name for each, name in known if each in near][:1]


def dataset_error(path: str, why: str) -> UserError:
    """The error about a data set of user images: "--dataset PATH: why"."""
    return UserError(f"--dataset {printable(path)}: {why}")


def check_class_names(path: str, names: Iterable[str]) -> None:
    """Raise dataset_error if the name of a class is empty or no text, or if two names are spellings of one."""
    spellings: dict[str, str] = {}
    for name in names:
        if not is_text(name) or not name.strip():
            why = "is empty, not UTF-8, or has control characters; rename it"
            raise dataset_error(path, f"the class name {printable(name)!r} {why}")
        other = spellings.setdefault(unicodedata.normalize("NFC", name).casefold().strip(), name)
        if other != name:
            raise dataset_error(path, f"{other} and {name} would be one class in two spellings; rename one")


def is_text(name: str) -> bool:
    """True if a name can be shown in files and pictures: valid UTF-8 without control characters."""
    return not any(unicodedata.category(each) in ("Cc", "Cs") for each in name)


def title_of(dataset: str) -> str:
    """The name of a data set in messages and pictures: "KMNIST", or the last part of a path."""
    return DATASETS[dataset].title if dataset in DATASETS else os.path.basename(dataset)
