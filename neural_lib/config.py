"""TrainConfig: every hyper-parameter with its option, default, unit and range; the recipes; the networks by name."""

import argparse
import hashlib
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields

from neural_lib.system.errors import UserError

ARCHS = {  # name: module and class; each class takes numChannels, classes, image_size and dropout
    "lenet": ("neural_lib.lenet", "LeNet"),
    "lenet-slim": ("neural_lib.networks", "LeNetSlim"),
    "vgg-small": ("neural_lib.networks", "VGGSmall"),
    "resnet18": ("neural_lib.torchvision_networks", "ResNet18"),
    "efficientnet-lite0": ("neural_lib.efficientnet", "EfficientNetLite0"),
}
WIDTH_ARCHS = ("vgg-small",)  # networks that take the argument width
# torchvision's classification networks, by torchvision's names: those with one output, a last layer that is an
# nn.Linear, weights for 224 pixels and a plain state_dict. Its resnet18 is not among them: that name is ours in ARCHS.
TORCHVISION_ARCHS = (
    "alexnet", "convnext_tiny", "convnext_small", "convnext_base", "convnext_large", "efficientnet_b0",
    "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6",
    "efficientnet_b7", "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l", "mobilenet_v2",
    "mobilenet_v3_small", "mobilenet_v3_large", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf",
    "regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf", "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf",
    "regnet_y_3_2gf", "regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf", "resnet34", "resnet50", "resnet101",
    "resnet152", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b",
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32",
    "vit_l_16", "vit_l_32", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
IMAGENET = "imagenet"  # a value of --init: weights learned on ImageNet
IMAGENET_ARCHS = ("efficientnet-lite0", *TORCHVISION_ARCHS)  # networks for photos, for which there are such weights
MAX_SMALL_SIZE = 64  # pixels of height and width: larger pictures are photos, if they show no writing
DEFAULT_SIZE = 32  # pixels of height and width: user images of mixed sizes get it, unless a recipe has another
PHOTO_SIZE = 64  # pixels of height and width: the smallest images that these networks take
VIT_SIZE = 224  # pixels: torchvision's vision transformers take images of no other size
PAGE_LIMIT = 40_000_000  # bytes of a page of predict.py --export
OPTIMIZERS = {  # name: class, and its arguments besides learning rate and weight decay; fused: one pass over all
    "adam": ("torch.optim.Adam", {"fused": True}),  # Kingma and Ba 2015, arXiv:1412.6980
    "adamw": ("torch.optim.AdamW", {"fused": True}),  # Loshchilov and Hutter 2019, arXiv:1711.05101
    "muon": ("neural_lib.training.optim.Muon", {"fused": True}),
    # 0.9 as in PyTorch's training references; a one-cycle schedule varies it from 0.85 to 0.95
    "sgd": ("torch.optim.SGD", {"momentum": 0.9, "nesterov": True, "fused": True}),
}
FITS = ("crop", "pad", "stretch")  # how a picture becomes square: cut to its middle, with black bars, or stretched


def _option(
    default: object,
    description: str,
    fits: Callable[[object], bool] | None = None,
    requirement: str = "",
    choices: Collection[str] = (),
    short: str = "",
    distorts: bool = False,
    prepares: bool = False,
) -> object:
    """A field of TrainConfig, with what its check, its option and --help need.

    description: text for --help. fits: True for an allowed value. requirement: the allowed values, in words. choices:
    the allowed names, instead of fits and requirement. short: the option's short form, such as "-b". distorts: True if
    a value other than 0 distorts training images. prepares: True if it controls how user images are prepared, which
    happens once for all runs.
    """
    if choices:
        fits, requirement = (lambda value: value in choices), f"one of {', '.join(choices)}"
    metadata = {"help": description, "fits": fits, "requirement": requirement, "choices": choices}
    return field(default=default, metadata=metadata | {"short": short, "distorts": distorts, "prepares": prepares})


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_expression(text: str) -> bool:
    # True for a regular expression.
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


# Checks of values, each with the requirement for messages.
COUNT = (lambda value: _is_int(value) and value >= 1, "a whole number of at least 1")
COUNT_OR_0 = (lambda value: _is_int(value) and value >= 0, "a whole number of at least 0")
ARCH = (
    lambda value: value in ARCHS or value in TORCHVISION_ARCHS,
    f"{', '.join(ARCHS)} (resnet18: for small images), or a network of torchvision by its name there, such as resnet50",
)
WIDTH = (lambda value: _is_int(value) and 0 <= value <= 1024, "a whole number from 1 to 1024, or 0 for the default")
SEED = (lambda value: _is_int(value) and 0 <= value < 2**32, "a whole number from 0 to 4294967295")
POSITIVE = (lambda value: 0 < value < math.inf, "a finite number above 0")
NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "a finite number of at least 0")
PIXELS = (NOT_NEGATIVE[0], "a finite number of pixels, at least 0")
SHARE = (lambda value: 0 <= value < 1, "at least 0 and below 1")
BETWEEN = (lambda value: 0 < value < 1, "between 0 and 1, both excluded")
SHARE_OR_ALL = (lambda value: 0 < value <= 1, "above 0 and at most 1")
FROM_0_TO_1 = (lambda value: 0 <= value <= 1, "from 0 to 1")
ANGLE = (lambda value: 0 <= value <= 180, "from 0 to 180 degrees")
IMAGE_SIZE = (
    lambda value: _is_int(value) and (value == 0 or 16 <= value <= 224),
    "a whole number from 16 to 224, or 0 for the default",
)
GROUPING = (_is_expression, "sheet, the title of a table's column, or a regular expression")
SWITCH = (lambda value: isinstance(value, bool), "on or off")


@dataclass(frozen=True)
class TrainConfig:
    """The hyper-parameters of one training run. Raises UserError for a value out of its range.

    The defaults are those of the tutorial that this project is based on (LeNet on KMNIST, Adam).
    """

    dataset: str = "kmnist"  # a name in catalog.DATASETS, or the path of user images; train.py defines --dataset
    arch: str = _option("lenet", f"network: {ARCH[1]}", *ARCH, short="-a")
    width: int = _option(0, f"filters of the first layers, for {' and '.join(WIDTH_ARCHS)} only; 0: default", *WIDTH)
    epochs: int = _option(10, "passes over the training images; 0 is possible with --init", *COUNT_OR_0)
    batch_size: int = _option(64, "images per optimizer step, over all processes", *COUNT, short="-b")
    shuffle: bool = _option(True, "a new order of the images in each epoch", *SWITCH)
    optimizer: str = _option("adam", "optimizer", choices=OPTIMIZERS)
    lr: float = _option(1e-3, "learning rate; with a schedule, its maximum", *POSITIVE)
    schedule: str = _option("constant", "schedule of the learning rate", choices=("constant", "one-cycle", "linear"))
    weight_decay: float = _option(0.0, "weight decay; decoupled with adamw and muon, else L2 penalty", *NOT_NEGATIVE)
    label_smoothing: float = _option(0.0, "label smoothing: share of the target spread over all classes", *SHARE)
    class_weights: str = _option(
        "none", "balanced: all classes have the same weight in the loss", choices=("none", "balanced")
    )
    dropout: float = _option(0.0, "dropout probability before each linear layer", *SHARE)
    freeze_norm: bool = _option(
        False, "batch normalisation keeps the mean and variance that it has, for small batches with --init", *SWITCH
    )
    rotation: float = _option(0.0, "rotate training images by up to X degrees", *ANGLE, distorts=True)
    scale: float = _option(0.0, "scale height and width, each by a factor from 1 - X to 1 + X", *SHARE, distorts=True)
    shear: float = _option(0.0, "shear training images by a slope of up to X", *FROM_0_TO_1, distorts=True)
    shift: float = _option(0.0, "shift training images by up to X pixels in each direction", *PIXELS, distorts=True)
    elastic: float = _option(0.0, "elastic distortion, standard deviation in pixels", *PIXELS, distorts=True)
    thickness: float = _option(0.0, "thicken or thin strokes by up to X pixels per side", *FROM_0_TO_1, distorts=True)
    gamma: float = _option(0.0, "raise brightness to a power from exp(-X) to exp(X)", *FROM_0_TO_1, distorts=True)
    flip: bool = _option(False, "mirror training images with probability 0.5", *SWITCH, distorts=True)
    zoom: float = _option(0.0, "show a random part of at least 1 - X of the image's area", *SHARE, distorts=True)
    color: float = _option(
        0.0, "brightness, contrast, saturation, each by a factor from 1 - X to 1 + X", *FROM_0_TO_1, distorts=True
    )
    precision: str = _option(  # weights are always float32
        "fp32",
        "number format of the layers; auto: bf16 if the device computes it natively",
        choices=("auto", "fp32", "bf16"),
    )
    train_split: float = _option(0.75, "share of the training images to train on; the rest is for validation", *BETWEEN)
    monitor: str = _option(
        "accuracy", "validation measure that selects the best epoch", choices=("accuracy", "loss", "f1")
    )
    patience: int = _option(0, "early stopping after N epochs without improvement; 0: never", *COUNT_OR_0)
    seed: int = _option(42, "random seed: split, shuffle, initial weights, distortions, dropout", *SEED)
    image_size: int = _option(
        0,
        "height and width, 16 to 224 pixels; 0: as the pictures if all are equal squares up to 64, else 32",
        *IMAGE_SIZE,
        prepares=True,
    )
    fit: str = _option(
        "crop", "make pictures square: cut to the middle, with black bars, or stretched", choices=FITS, prepares=True
    )
    writing: bool = _option(
        False, "pictures show written characters: find the ink, place it as in KMNIST", *SWITCH, prepares=True
    )
    labels_from_names: bool = _option(
        False, "the names of files tell their classes: cat.12.jpg, dog (3).jpg", *SWITCH, prepares=True
    )
    test: str = _option(
        "train", "part to take the test images from if there is no test/", choices=("train", "val"), prepares=True
    )
    test_split: float = _option(
        0.15, "share of each class in that part to test on; with --test val all of it", *SHARE_OR_ALL, prepares=True
    )
    group_by: str = _option(
        "",
        "keep the images of a group in one part: sheet (anna of anna-017.png), the title of a table's column, or a "
        "regular expression for paths",
        *GROUPING,
        prepares=True,
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.metadata and not each.metadata["fits"](value):
                raise UserError(f"{option_name(each.name)} must be {each.metadata['requirement']}, not {value}")
        if self.writing and self.fit != "crop":
            raise UserError(f"--fit {self.fit} doesn't go with --writing, which finds and places the ink")
        if self.test == "train" and self.test_split == 1:
            raise UserError("--test-split 1 leaves no image to train on; give a smaller share, or --test val too")

    def split_sizes(self, count: int) -> tuple[int, int]:
        """The numbers of images to train on, int(count * train_split), and to validate on: the rest of `count`.

        Raises UserError if a part would be empty, or the training part smaller than a batch.
        """
        train = int(count * self.train_split)
        if train < 1 or train == count:
            raise UserError(
                f"--train-split {self.train_split} leaves {train:,} of {self.dataset}'s {count:,} images "
                "to train on and the rest to validate: both need at least one"
            )
        if self.batch_size > train:
            which = f"the {train:,} images of {self.dataset} that are trained on"
            raise UserError(f"--batch-size {self.batch_size} is larger than {which}")
        return train, count - train

    def check_images(self, size: int, mirrors: bool) -> None:
        """Raise UserError if these images can't be distorted in this way.

        size: height and width, pixels; images must stay in their frame and not be folded. mirrors: True if the mirror
        image of an image still shows its class.
        """
        title = os.path.basename(self.dataset)
        for name, limit in (("shift", size / 4), ("elastic", size / 14)):
            if (value := getattr(self, name)) > limit:
                which = f"{title}'s images of {size} pixels"
                raise UserError(f"{option_name(name)} {value} is too far for {which}: at most {limit:g}")
        if self.flip and not mirrors:
            raise UserError(f"--flip on: in the mirror an image of {title} means something else, or nothing")

    def test_source(self, parts: Collection[str]) -> str:
        """The part of user images that gives the test images: "train", "val" or "test"; parts: the existing ones."""
        return "test" if "test" in parts else self.test

    def val_source(self, parts: Collection[str]) -> str:
        """The part of user images that gives the validation images: "train" or "val"; parts: the existing ones."""
        is_all_tested = self.test_source(parts) == "val" and self.test_split == 1
        return "val" if "val" in parts and not is_all_tested else "train"

    def without_effect(self, parts: Collection[str] | None) -> list[str]:
        """The names of the hyper-parameters that have no effect.

        parts: those in which user images are given; None for a data set of the catalogue.
        """
        names = [] if self.epochs else [*EPOCH_OPTIONS]
        if parts is None:
            return [*names, *PREPARATION_OPTIONS]
        names += ["test", "test_split"] if self.test_source(parts) == "test" else []
        return names + (["train_split"] if self.val_source(parts) == "val" else [])

    def check_arch(self, size: int) -> None:
        """Raise UserError if the network takes no images of this size; size: height and width, pixels."""
        if self.arch in IMAGENET_ARCHS and size < PHOTO_SIZE:
            needs, advice = f"at least {PHOTO_SIZE} pixels", "a larger --image-size, or --arch lenet"
        elif self.arch.startswith("vit_") and size != VIT_SIZE:
            needs, advice = f"{VIT_SIZE} pixels", f"--image-size {VIT_SIZE}"
        else:
            return
        raise UserError(f"--arch {self.arch}: needs images of {needs}, not {size}; give {advice}")

    def arch_args(self, channels: int, classes: int, image_size: int) -> dict[str, int]:
        """The arguments of networks.build_network besides dropout, for images of this size, in pixels."""
        sizes = {"numChannels": channels, "classes": classes, "image_size": image_size}
        return sizes | ({"width": self.width} if self.width else {})

    def distorts(self) -> bool:
        """True if training images are distorted."""
        return any(getattr(self, each.name) for each in fields(self) if each.metadata.get("distorts"))

    def to_dict(self) -> dict:
        """The values by name, as plain types."""
        return asdict(self)

    def regularisation(self) -> list[str]:
        """Names of the methods in use that apply to training alone and lower its scores, such as dropout."""
        distorted, smoothing = self.distorts(), self.label_smoothing
        strengths = {"distorted images": distorted, "dropout": self.dropout, "label smoothing": smoothing}
        return [name for name, strength in strengths.items() if strength and self.epochs]


# names of the hyper-parameters that say how user images are prepared
PREPARATION_OPTIONS = tuple(each.name for each in fields(TrainConfig) if each.metadata.get("prepares"))
EPOCH_OPTIONS = (  # names of the hyper-parameters that have no effect without an epoch of training
    *("batch_size", "shuffle", "optimizer", "lr", "schedule", "weight_decay", "label_smoothing", "dropout"),
    *("freeze_norm", *(each.name for each in fields(TrainConfig) if each.metadata.get("distorts")), "patience"),
)


def differences(saved: Mapping[str, object], current: Mapping[str, object]) -> list[str]:
    """A text for each hyper-parameter that differs between a saved and the current run: "--lr was 0.01, is 0.1"."""
    values = {name: [run.get(name, "") for run in (saved, current)] for name in saved | current}
    texts = {name: [format_value(value) or "not given" for value in both] for name, both in values.items()}
    return [f"{option_name(name)} was {old}, is {new}" for name, (old, new) in texts.items() if old != new]


def format_value(value: object) -> str:
    """A hyper-parameter's value as it is typed on the command line: 0.01, 64, on."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return str(value)


def format_values(values: Mapping[str, object]) -> str:
    """Hyper-parameters and their values in one line: "lr=0.01, batch_size=100"."""
    return ", ".join(f"{name}={format_value(value)}" for name, value in values.items())


def derived_seed(seed: int, purpose: str, *position: int) -> int:
    """A seed from 0 to 2**63 - 1, a hash of the run's seed, a purpose such as "shuffle", and a position.

    position: epoch, step and rank, as far as they matter. The seed doesn't depend on earlier draws, so a resumed run
    and every rank draw the same.
    """
    text = " ".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def option_name(name: str) -> str:
    """The option that sets a hyper-parameter: "--batch-size"."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Recipe:
    """A named set of hyper-parameters; TrainConfig's defaults apply to the rest."""

    description: str  # for --help, one line
    values: dict
    variants: tuple[tuple[dict, dict], ...] = ()  # (condition, values that apply if it holds)
    init: str = ""  # the value of --init if none is given

    def config(self, is_photos: bool = False, **overrides) -> TrainConfig:
        """The recipe's configuration; overrides replace its values. If several variants apply, the last wins.

        is_photos: whether the data set consists of user photos, which is a condition of variants, too.
        """
        chosen = TrainConfig().to_dict() | self.values | overrides | {"is_photos": is_photos}
        values = dict(self.values)
        for condition, variant in (*COMMON_VARIANTS, *self.variants):
            if condition.items() <= chosen.items():
                values |= variant
        return TrainConfig(**values | overrides)


COMMON_VARIANTS = ((dict(test="val"), dict(test_split=1.0)),)  # of every recipe
UNDISTORTED = {each.name: each.default for each in fields(TrainConfig) if each.metadata.get("distorts")}
RECIPES = {  # tests/README.md: how they were chosen, and the accuracy and time of each
    "classic": Recipe("the tutorial's hyper-parameters", {}),
    "fast": Recipe(
        "the tutorial's accuracy, as soon as possible",
        dict(epochs=1, batch_size=192, optimizer="muon", lr=16e-3, schedule="linear", weight_decay=0.01,
             label_smoothing=0.1, precision="auto"),
    ),
    "best": Recipe(
        "for the highest accuracy on small images, such as characters",
        dict(epochs=25, batch_size=128, optimizer="muon", lr=3e-3, schedule="one-cycle", weight_decay=0.1,
             label_smoothing=0.05, rotation=7.0, scale=0.1, shear=0.1, shift=2.0, elastic=0.5, thickness=0.7, gamma=0.6,
             train_split=0.9, precision="auto"),
        variants=(
            (dict(arch="vgg-small"), dict(width=32, epochs=30, lr=4e-3)),
            # Clothes are classified worse with KMNIST's distortions. Chosen on Fashion-MNIST's validation images.
            (dict(dataset="fashion-mnist"), UNDISTORTED | dict(shift=2.0, flip=True)),
            # Shifts and flips of He et al. 2016 (arXiv:1512.03385, section 4.2); no other values were tried.
            (dict(dataset="cifar10"), UNDISTORTED | dict(shift=4.0, flip=True)),
            (dict(is_photos=True), UNDISTORTED | dict(flip=True)),
        ),
    ),
    "photos": Recipe(
        "your photos: features learned on ImageNet, and a fitted last layer",
        # The values besides arch, image size and epochs are for --epochs above 0, which train all weights.
        dict(arch="efficientnet-lite0", image_size=224, epochs=0, batch_size=32, optimizer="adamw", lr=2e-4,
             schedule="one-cycle", label_smoothing=0.1, flip=True, freeze_norm=True, precision="auto"),
        init=IMAGENET,
    ),
}  # fmt: skip
DEFAULT_RECIPE, PHOTO_RECIPE = "classic", "photos"  # the second for user photos
MAX_WIDTH_OF_CHOICES = 24  # characters; --help names a longer list of choices as NAME, not as {a,b,c}


def values_of_recipes(name: str) -> str:
    """A hyper-parameter's default and its values in the recipes, for --help: "10; fast 1, best 25"."""
    default = format_value(getattr(TrainConfig(), name))
    others = [f"{key} {format_value(recipe.values[name])}" for key, recipe in RECIPES.items() if name in recipe.values]
    return f"{default}; {', '.join(others)}" if others else default


class _Values(argparse.Action):
    """Stores an option's values in `params`, in the order in which the options are given."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if isinstance(getattr(TrainConfig, self.dest), bool):
            values = [value == "on" for value in values] or [True]
        other_params = {name: given for name, given in namespace.params.items() if name != self.dest}
        namespace.params = {**other_params, self.dest: values}


def add_hyperparameters(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add --recipe and an option for each hyper-parameter. Given values are parsed into `params`: name -> list.

    Returns the group of options for user images.
    """
    descriptions = "\n".join(f"  {name:9} {recipe.description}" for name, recipe in RECIPES.items())
    parser.epilog = f"recipes:\n{descriptions}"
    parser.set_defaults(params={})
    general_group = parser.add_argument_group(
        "hyper-parameters",
        "Several values make a grid: a run for each combination, the last option's\n"
        "varying fastest. Defaults in brackets, then the values in other recipes.",
    )
    user_images_group = parser.add_argument_group(
        "for your own images",
        "How the pictures in --dataset become images to train on.",
    )
    recipe_help = f"a set of defaults for the options below ({DEFAULT_RECIPE}; {PHOTO_RECIPE} for photos of yours)"
    general_group.add_argument("-r", "--recipe", choices=RECIPES, help=recipe_help)
    for each in fields(TrainConfig):
        if not (option := each.metadata):  # --dataset, which train.py defines
            continue
        kind, is_flag = type(each.default), isinstance(each.default, bool) and option["prepares"]
        choices = () if is_flag else ("on", "off") if kind is bool else option["choices"]
        listed = "{" + ",".join(choices) + "}"
        is_short = len(listed) <= MAX_WIDTH_OF_CHOICES
        text = option["help"] if is_flag or each.default == "" else f"{option['help']} ({values_of_recipes(each.name)})"
        (user_images_group if option["prepares"] else general_group).add_argument(
            *filter(None, [option["short"], option_name(each.name)]),
            action=_Values,
            nargs=0 if is_flag else 1 if option["prepares"] else "+",
            type=str if choices else kind,
            choices=choices or None,
            metavar=(listed if is_short else "NAME") if choices else {int: "N", float: "X", str: "NAME"}.get(kind),
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
        )
    return user_images_group
