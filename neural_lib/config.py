"""TrainConfig: every hyper-parameter, its option, default, unit and range; the recipes, and the networks' names."""

import argparse
import hashlib
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields

from neural_lib.system.errors import UserError

ARCHS = {  # name: module and class; each takes numChannels, classes, image_size and dropout
    "lenet": ("neural_lib.lenet", "LeNet"),
    "lenet-slim": ("neural_lib.networks", "LeNetSlim"),
    "vgg-small": ("neural_lib.networks", "VGGSmall"),
    "resnet18": ("neural_lib.resnet", "ResNet18"),
}
HAVE_WIDTH = ("vgg-small",)  # those that take an argument width
OPTIMIZERS = {  # name: class, and its arguments besides learning rate and weight decay; fused: one pass over all
    "adam": ("torch.optim.Adam", {"fused": True}),  # Kingma and Ba 2015, arXiv:1412.6980
    "adamw": ("torch.optim.AdamW", {"fused": True}),  # Loshchilov and Hutter 2019, arXiv:1711.05101
    "muon": ("neural_lib.training.optim.Muon", {"fused": True}),
    # 0.9 as in PyTorch's own training references; a one-cycle schedule varies it from 0.85 to 0.95
    "sgd": ("torch.optim.SGD", {"momentum": 0.9, "nesterov": True, "fused": True}),
}
FITS = ("crop", "pad", "stretch")  # how a picture becomes square: its middle, with black bars, or out of proportion


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
    """A field of TrainConfig with all that its option, its check and --help need.

    description: for --help. fits: returns True for an allowed value; requirement: what is allowed, in words. short:
    the option's short form, such as "-b". distorts: whether a value other than 0 distorts training images. prepares:
    whether it says how one's own images are prepared, once for all runs.
    """
    if choices:
        fits, requirement = (lambda value: value in choices), f"one of {', '.join(choices)}"
    metadata = {"help": description, "fits": fits, "requirement": requirement, "choices": choices}
    return field(default=default, metadata=metadata | {"short": short, "distorts": distorts, "prepares": prepares})


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# what is allowed, and how messages say it
COUNT = (lambda value: _is_int(value) and value >= 1, "a whole number of at least 1")
COUNT_OR_0 = (lambda value: _is_int(value) and value >= 0, "a whole number of at least 0 (0: never)")
WIDTH = (
    lambda value: _is_int(value) and 0 <= value <= 1024,
    "a whole number from 1 to 1024, or 0 for the network's own",
)
SEED = (lambda value: _is_int(value) and 0 <= value < 2**32, "a whole number from 0 to 4294967295")
POSITIVE = (lambda value: 0 < value < math.inf, "a finite number above 0")
NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "a finite number of at least 0")
PIXELS = (NOT_NEGATIVE[0], "a finite number of pixels, at least 0")
SHARE = (lambda value: 0 <= value < 1, "at least 0 and below 1")
BETWEEN = (lambda value: 0 < value < 1, "between 0 and 1, both excluded")
FROM_0_TO_1 = (lambda value: 0 <= value <= 1, "from 0 to 1")
ANGLE = (lambda value: 0 <= value <= 180, "from 0 to 180 degrees")
IMAGE_SIZE = (
    lambda value: _is_int(value) and (value == 0 or 16 <= value <= 224),
    "a whole number from 16 to 224, or 0 for the images' own",
)
SWITCH = (lambda value: isinstance(value, bool), "on or off")


@dataclass(frozen=True)
class TrainConfig:
    """The hyper-parameters of one training run; a value out of its range raises UserError.

    The defaults are those of the tutorial that this project comes from (LeNet on KMNIST, Adam).
    """

    dataset: str = "kmnist"  # a name in catalog.DATASETS or a path; its option is --dataset's own
    arch: str = _option("lenet", f"network: {', '.join(ARCHS)}", choices=tuple(ARCHS), short="-a")
    width: int = _option(0, f"filters of the first layers, for {' and '.join(HAVE_WIDTH)} only; 0: its own", *WIDTH)
    epochs: int = _option(10, "passes over the training images", *COUNT)
    batch_size: int = _option(64, "images per optimizer step, of all processes", *COUNT, short="-b")
    shuffle: bool = _option(True, "a new order of the images in each epoch", *SWITCH)
    optimizer: str = _option("adam", "optimizer", choices=OPTIMIZERS)
    lr: float = _option(1e-3, "learning rate; with a schedule the highest", *POSITIVE)
    schedule: str = _option("constant", "schedule of the learning rate", choices=("constant", "one-cycle", "linear"))
    weight_decay: float = _option(0.0, "weight decay; decoupled with adamw and muon, else L2 penalty", *NOT_NEGATIVE)
    label_smoothing: float = _option(0.0, "label smoothing: share of the target spread over all classes", *SHARE)
    class_weights: str = _option(
        "none",
        "balanced: the loss weighs all classes alike, however many images each has",
        choices=("none", "balanced"),
    )
    dropout: float = _option(0.0, "dropout probability before each linear layer", *SHARE)
    rotation: float = _option(0.0, "rotate training images by up to so many degrees", *ANGLE, distorts=True)
    scale: float = _option(0.0, "scale them by up to this share, height and width apart", *SHARE, distorts=True)
    shear: float = _option(0.0, "shear them by up to this slope", *FROM_0_TO_1, distorts=True)
    shift: float = _option(0.0, "move them by up to so many pixels each way", *PIXELS, distorts=True)
    elastic: float = _option(0.0, "elastic distortion, standard deviation in pixels", *PIXELS, distorts=True)
    thickness: float = _option(
        0.0, "make strokes wider or thinner on each side by up to so many pixels, 0 to 1", *FROM_0_TO_1, distorts=True
    )
    gamma: float = _option(
        0.0, "brightness to a power from exp(-X) to exp(X), X from 0 to 1", *FROM_0_TO_1, distorts=True
    )
    flip: bool = _option(False, "mirror them with probability 0.5", *SWITCH, distorts=True)
    precision: str = _option(  # weights are float32 always
        "fp32", "of the layers; auto: bf16 if the device computes it natively", choices=("auto", "fp32", "bf16")
    )
    train_split: float = _option(0.75, "share of the training images to train on; the others validate", *BETWEEN)
    monitor: str = _option(
        "accuracy", "validation measure that decides which epoch is best", choices=("accuracy", "loss", "f1")
    )
    patience: int = _option(0, "early stopping: epochs without improvement; 0: never", *COUNT_OR_0)
    seed: int = _option(42, "random seed: split, shuffle, initial weights, distortions, dropout", *SEED)
    image_size: int = _option(
        0, "height and width, 16 to 224 pixels; 0: their own up to 64, else 32", *IMAGE_SIZE, prepares=True
    )
    fit: str = _option(
        "crop", "make them square: their middle, with black bars, or out of proportion", choices=FITS, prepares=True
    )
    writing: bool = _option(
        False, "they show written characters: find the ink, place it as KMNIST's", *SWITCH, prepares=True
    )
    test_split: float = _option(0.15, "share held out for test, where no test/ is given", *BETWEEN, prepares=True)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.metadata and not each.metadata["fits"](value):
                raise UserError(f"{option_name(each.name)} must be {each.metadata['requirement']}, not {value}")
        if self.writing and self.fit != "crop":
            raise UserError(f"--fit {self.fit} doesn't go with --writing, which finds and places what is written")

    def split_sizes(self, count: int) -> tuple[int, int]:
        """How many of `count` images train and how many validate, as int(count * train_split) and the rest.

        Raises UserError if one part would be empty or a batch would be larger than the training part.
        """
        train = int(count * self.train_split)
        if train < 1 or train == count:
            raise UserError(
                f"--train-split {self.train_split} leaves {train:,} of {self.dataset}'s {count:,} images "
                "to train on and the rest to validate: both need at least one"
            )
        if self.batch_size > train:
            raise UserError(
                f"--batch-size {self.batch_size} is larger than the {train:,} images of {self.dataset} "
                "that are trained on"
            )
        return train, count - train

    def check_images(self, size: int, mirrors: bool) -> None:
        """Raise UserError if images can't be distorted like this.

        size: their height and width, pixels; they must stay in the frame and unfolded. mirrors: whether the mirror
        image of one still shows its class.
        """
        for name, most in (("shift", size / 4), ("elastic", size / 14)):
            if getattr(self, name) > most:
                raise UserError(
                    f"{option_name(name)} {getattr(self, name)} is too far for {os.path.basename(self.dataset)}'s "
                    f"images of {size} pixels: at most {most:g}"
                )
        if self.flip and not mirrors:
            which = os.path.basename(self.dataset)
            raise UserError(f"--flip on: in the mirror an image of {which} means something else, or nothing")

    def distorts(self) -> bool:
        """True if training images are distorted."""
        return any(getattr(self, each.name) for each in fields(self) if each.metadata.get("distorts"))

    def to_dict(self) -> dict:
        """The values as plain types, for the checkpoint."""
        return asdict(self)

    def regularisation(self) -> list[str]:
        """Names of what makes training scores lower than validation scores: distortions, dropout, label smoothing."""
        regularisers = {
            "distorted images": self.distorts(),
            "dropout": self.dropout > 0,
            "label smoothing": self.label_smoothing > 0,
        }
        return [what for what, is_on in regularisers.items() if is_on]


PREPARING = tuple(each.name for each in fields(TrainConfig) if each.metadata.get("prepares"))  # of one's own images


def differences(saved: Mapping[str, object], current: Mapping[str, object]) -> list[str]:
    """The hyper-parameters in which two runs differ, as text: "--lr was 0.01, is 0.1"."""
    texts = {name: [format_value(run.get(name, "not given")) for run in (saved, current)] for name in saved | current}
    return [f"{option_name(name)} was {old}, is {new}" for name, (old, new) in texts.items() if old != new]


def format_value(value: object) -> str:
    """A hyper-parameter's value as text: 0.01, 64, on."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return str(value)


def format_values(values: Mapping[str, object]) -> str:
    """Hyper-parameters and their values: "lr=0.01, batch_size=100"."""
    return ", ".join(f"{name}={format_value(value)}" for name, value in values.items())


def derived_seed(seed: int, purpose: str, *position: int) -> int:
    """A seed, 0 to 2**63 - 1, computed from a run's seed, the purpose and the position: an epoch, a step, a rank.

    It doesn't depend on what was drawn before, so a resumed run and every rank draw the same.
    """
    text = " ".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def option_name(name: str) -> str:
    """The option that sets a hyper-parameter: "--batch-size"."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Recipe:
    """A named set of hyper-parameters; the others have TrainConfig's defaults."""

    about: str  # one line
    values: dict
    variants: tuple[tuple[dict, dict], ...] = ()  # (condition, values) pairs; a later matching one wins

    def config(self, **own) -> TrainConfig:
        """The recipe's configuration; `own` values replace the recipe's."""
        chosen = TrainConfig().to_dict() | self.values | own
        values = self.values
        for where, others in self.variants:
            if all(chosen[name] == value for name, value in where.items()):
                values = values | others
        return TrainConfig(**values | own)


UNDISTORTED = {each.name: each.default for each in fields(TrainConfig) if each.metadata.get("distorts")}

# How they were chosen, and how each was measured: tests/README.md. Below: test accuracy on KMNIST, mean and standard
# deviation over seeds 1 to 3 (fast: 1 to 5), and seconds of training on 2 CPU cores. The tutorial's plain loop:
# 94.86 % +- 0.55, 124 s.
RECIPES = {
    # 95.14 % +- 0.14, 73 s
    "classic": Recipe("the tutorial's hyper-parameters", {}),
    # 95.09 % +- 0.24, 3.5 s
    "fast": Recipe(
        "the tutorial's accuracy, as soon as possible",
        dict(epochs=1, batch_size=192, optimizer="muon", lr=16e-3, schedule="linear", weight_decay=0.01,
             label_smoothing=0.1, precision="auto"),
    ),
    # 98.27 % +- 0.12, 137 s; with epochs=75 98.58 % +- 0.08, 434 s
    "best": Recipe(
        "the most accurate LeNet; other values for some networks and data",
        dict(epochs=25, batch_size=128, optimizer="muon", lr=3e-3, schedule="one-cycle", weight_decay=0.1,
             label_smoothing=0.05, rotation=7.0, scale=0.1, shear=0.1, shift=2.0, elastic=0.5, thickness=0.7, gamma=0.6,
             train_split=0.9, precision="auto"),
        variants=(
            (dict(arch="vgg-small"), dict(width=32, epochs=30, lr=4e-3)),  # 99.01 % +- 0.03, 14 minutes
            # KMNIST's distortions take accuracy away from clothes; chosen on its validation images
            (dict(dataset="fashion-mnist"), UNDISTORTED | dict(shift=2.0, flip=True)),
            # crops by shifting, and flips, as He et al. 2016 (arXiv:1512.03385, section 4.2) have them; not chosen here
            (dict(dataset="cifar10"), UNDISTORTED | dict(shift=4.0, flip=True)),
        ),
    ),
}  # fmt: skip


def values_of_recipes(name: str) -> str:
    """The hyper-parameter's value in each recipe, as --help shows it: "10; fast 1, best 25"."""
    default = format_value(getattr(TrainConfig(), name))
    others = [f"{key} {format_value(recipe.values[name])}" for key, recipe in RECIPES.items() if name in recipe.values]
    return f"{default}; {', '.join(others)}" if others else default


DEFAULT_RECIPE = "classic"
WIDEST_CHOICES = 24  # characters of choices, in --help beside the option's name; more are listed in its description


class _Values(argparse.Action):
    """Stores an option's values in `params`, in the order in which the options are given."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if isinstance(getattr(TrainConfig, self.dest), bool):
            values = [value == "on" for value in values] or [True]
        before = {name: given for name, given in namespace.params.items() if name != self.dest}
        namespace.params = {**before, self.dest: values}


def add_hyperparameters(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add --recipe and an option for each hyper-parameter; the given ones are parsed into `params`.

    Returns the group of those for images of one's own.
    """
    names = "\n".join(f"  {name:9} {recipe.about}" for name, recipe in RECIPES.items())
    parser.epilog = f"recipes:\n{names}"
    parser.set_defaults(params={})
    group = parser.add_argument_group(
        "hyper-parameters",
        "Several values make a grid: a run for each combination, the last option's\n"
        "varying fastest. Defaults in brackets, then what a recipe has instead.",
    )
    own = parser.add_argument_group(
        "for your own images",
        "How the pictures in --dataset FOLDER or FILE.npz become images to train on.",
    )
    group.add_argument(
        "-r",
        "--recipe",
        choices=RECIPES,
        help=f"a set of defaults for the options below ({DEFAULT_RECIPE})",
    )
    for each in fields(TrainConfig):
        if not (about := each.metadata):  # --dataset takes one value, and can be left open
            continue
        kind, is_flag = type(each.default), isinstance(each.default, bool) and about["prepares"]
        choices = () if is_flag else ("on", "off") if isinstance(each.default, bool) else about["choices"]
        (own if about["prepares"] else group).add_argument(
            *([about["short"]] if about["short"] else []),
            option_name(each.name),
            action=_Values,
            nargs=0 if is_flag else 1 if about["prepares"] else "+",
            type=str if choices else kind,
            choices=choices or None,
            metavar=_metavar(choices) if choices else {int: "N", float: "X"}.get(kind),
            default=argparse.SUPPRESS,
            help=(about["help"] if is_flag else f"{about['help']} ({values_of_recipes(each.name)})").replace("%", "%%"),
        )
    return own


def _metavar(choices: Collection[str]) -> str:
    listed = "{" + ",".join(choices) + "}"
    return listed if len(listed) <= WIDEST_CHOICES else "NAME"
