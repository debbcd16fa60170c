"""TrainConfig: every hyper-parameter of a run, its default, its unit and what it may be; and the named recipes."""

import hashlib
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from neural_lib.errors import UserError
from neural_lib.models import ARCHS, HAVE_WIDTH

LONGEST_VALUES = 60  # characters of a hyper-parameter's values, in a message


def _option(
    default: object,
    about: str,
    fits: Callable[[object], bool] | None = None,
    requirement: str = "",
    choices: Sequence[str] = (),
    short: str = "",
) -> object:
    """A hyper-parameter: all that is known of it, for its option, its check and --help.

    about: what it is, for --help. fits: whether a value is allowed; requirement: what is, in words. short: "-b".
    """
    if choices:
        fits, requirement = (lambda value: value in choices), f"one of {', '.join(choices)}"
    about = {"about": about, "fits": fits, "requirement": requirement, "choices": choices, "short": short}
    return field(default=default, metadata=about)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return _is_int(value) and value >= 1


def _is_share(value: float) -> bool:
    return 0 <= value < 1


def _is_length(value: float) -> bool:
    return 0 <= value < math.inf


COUNT = (_is_count, "a whole number of at least 1")
SHARE = (_is_share, "at least 0 and below 1")
PIXELS = (_is_length, "a finite number of pixels, at least 0")
SWITCH = (lambda value: isinstance(value, bool), "on or off")


@dataclass(frozen=True)
class TrainConfig:
    """The hyper-parameters of one training run; a value out of its range raises UserError.

    The defaults are those of the tutorial that this project comes from (LeNet on KMNIST, Adam).
    """

    dataset: str = "kmnist"  # a name in datasets.DATASETS; its option is --dataset's own
    arch: str = _option("lenet", f"network: {', '.join(ARCHS)}", choices=tuple(ARCHS), short="-a")
    width: int = _option(
        0, f"filters of the first layers, of {' and '.join(HAVE_WIDTH)} alone; 0: its own",
        lambda value: _is_int(value) and 0 <= value <= 1024,
        "a whole number from 1 to 1024, or 0 for the network's own",
    )  # fmt: skip
    epochs: int = _option(10, "passes over the training images", *COUNT)
    batch_size: int = _option(64, "images per optimizer step, of all processes", *COUNT, short="-b")
    shuffle: bool = _option(True, "draw a new order of the images each epoch", *SWITCH)
    optimizer: str = _option("adam", "how gradients become steps", choices=("adam", "adamw", "sgd"))
    lr: float = _option(
        1e-3, "learning rate, the highest one of a schedule",
        lambda value: 0 < value < math.inf, "a finite number above 0",
    )  # fmt: skip
    schedule: str = _option("constant", "of the learning rate, from step to step", choices=("constant", "one-cycle"))
    weight_decay: float = _option(  # L2 penalty with adam and sgd; share of each weight, times lr, with adamw
        0.0, "pull of the weights towards 0", _is_length, "a finite number of at least 0"
    )
    label_smoothing: float = _option(0.0, "share of the target spread over all classes", *SHARE)
    dropout: float = _option(0.0, "share of a linear layer's inputs dropped in training", *SHARE)
    rotation: float = _option(
        0.0, "turn training images by up to so many degrees", lambda value: 0 <= value <= 180, "from 0 to 180 degrees"
    )
    scale: float = _option(0.0, "stretch or shrink them by up to this share", *SHARE)
    shear: float = _option(0.0, "slant them by up to this slope", lambda value: 0 <= value <= 1, "from 0 to 1")
    shift: float = _option(0.0, "move them by up to so many pixels each way", *PIXELS)
    elastic: float = _option(0.0, "bend them by so many pixels, standard deviation", *PIXELS)
    flip: bool = _option(False, "mirror them with a chance of one half", *SWITCH)
    precision: str = _option(  # of the network's layers; weights are float32 always
        "fp32", "auto: bf16 where processor or GPU have it natively", choices=("auto", "fp32", "bf16")
    )
    train_split: float = _option(
        0.75, "share to train on; the other images validate",
        lambda value: 0 < value < 1, "between 0 and 1, both excluded",
    )  # fmt: skip
    monitor: str = _option(
        "accuracy", "what makes an epoch the best, in validation", choices=("accuracy", "loss", "f1")
    )
    patience: int = _option(
        0, "end after so many epochs without a better one; 0: don't",
        lambda value: _is_int(value) and value >= 0, "a whole number, 0 for never",
    )  # fmt: skip
    seed: int = _option(
        42, "of everything that is drawn by chance",
        lambda value: _is_int(value) and 0 <= value < 2**32, "a whole number from 0 to 4294967295",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.metadata:
                self._require(each.name, each.metadata["fits"](getattr(self, each.name)), each.metadata["requirement"])

    def _require(self, name: str, holds: bool, requirement: str) -> None:
        if not holds:
            raise UserError(f"{flag_of(name)} must be {requirement}, not {getattr(self, name)}")

    def split_sizes(self, count: int) -> tuple[int, int]:
        """How many of `count` images train and how many validate, as int(count * train_split) and the rest.

        Raises UserError where one part would be empty or a batch would be larger than the training part.
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
        """Raise UserError where images can't be distorted like this.

        size: their height and width, pixels; they must stay in the frame and unfolded. mirrors: whether the mirror
        image of one still shows its class.
        """
        for name, most in (("shift", size / 4), ("elastic", size / 14)):
            if getattr(self, name) > most:
                raise UserError(
                    f"{flag_of(name)} {getattr(self, name)} is too far for {self.dataset}'s images of {size} pixels: "
                    f"at most {most:g}"
                )
        if self.flip and not mirrors:
            raise UserError(f"--flip on: in the mirror an image of {self.dataset} means something else, or nothing")

    def distorts(self) -> bool:
        """Whether training images are to be distorted."""
        return any((self.rotation, self.scale, self.shear, self.shift, self.elastic, self.flip))

    def to_dict(self) -> dict:
        """The values as plain types, for the checkpoint."""
        return asdict(self)

    def regularisation(self) -> list[str]:
        """What makes training harder than validation, in words; its scores are the lower for it."""
        in_force = {
            "distorted images": self.distorts(),
            "dropout": self.dropout > 0,
            "label smoothing": self.label_smoothing > 0,
        }
        return [what for what, is_on in in_force.items() if is_on]


def differences(there: Sequence[Mapping[str, object]], here: Sequence[Mapping[str, object]]) -> list[str]:
    """What tells two grids apart, by the values of each hyper-parameter: "--lr 0.01 there, 0.1 here"."""

    def values(runs: Sequence[Mapping[str, object]], name: str) -> str:
        text = " ".join(dict.fromkeys(shown(run[name]) if name in run else "nothing" for run in runs))
        return textwrap.shorten(text, LONGEST_VALUES, placeholder=" ...")

    names = dict.fromkeys([*there[0], *here[0]])
    compared = [(name, values(there, name), values(here, name)) for name in names]
    differing = [f"{flag_of(name)} {old} there, {new} here" for name, old, new in compared if old != new]
    return differing or (["their runs are in another order"] if list(there) != list(here) else [])


def shown(value: object) -> str:
    """A hyper-parameter's value as a person writes it: 0.01, 64, on."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return str(value)


def in_words(values: Mapping[str, object]) -> str:
    """Hyper-parameters and their values: "lr=0.01, batch_size=100"."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def derived_seed(seed: int, purpose: str, *position: int) -> int:
    """A seed, 0 to 2**63 - 1, that follows from a run's seed, what is drawn, and where: an epoch, a step, a rank.

    So nothing needs to be known of what was drawn before: a resumed run and every rank draw the same.
    """
    text = " ".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def flag_of(name: str) -> str:
    """The option that sets a hyper-parameter: "--batch-size"."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Variant:
    """What a recipe has otherwise for some networks or data sets."""

    where: dict  # hyper-parameters and their values, all of which must hold: {"arch": "resnet18"}
    values: dict


@dataclass(frozen=True)
class Recipe:
    """A named set of hyper-parameters; what it doesn't name is TrainConfig's default."""

    about: str  # one line
    values: dict
    variants: tuple[Variant, ...] = ()  # of several that apply, the last one wins

    def config(self, **own) -> TrainConfig:
        """The recipe's configuration, with the caller's `own` values where the two differ."""
        chosen = TrainConfig().to_dict() | self.values | own
        values = self.values
        for variant in self.variants:
            if all(chosen[name] == value for name, value in variant.where.items()):
                values = values | variant.values
        return TrainConfig(**values | own)


# Chosen on KMNIST's validation images, one to five seeds a try. Below: test accuracy (mean and standard deviation) over
# seeds 1 to 3, of best over 1 and 2 (tests/bench_accuracy.py), and seconds of training (median of five seeds, of an
# earlier version whose epochs take as long; 2 cores of an AMD EPYC with AVX512-BF16, torch 2.15;
# tests/bench_train.py --rounds 0 --seeds 5). The tutorial's plain loop: 94.86 % +- 0.55, 155 s.
RECIPES = {
    # 95.14 % +- 0.14, 73 s
    "classic": Recipe("the tutorial's hyper-parameters", {}),
    # 94.68 % +- 0.20, 6.5 s; with 2 epochs and batches of 64, label smoothing 0.15 and weight decay 0.05 96.25 %, 10 s
    "fast": Recipe(
        "the tutorial's accuracy, as soon as possible",
        {
            "epochs": 1,
            "batch_size": 48,
            "optimizer": "adamw",
            "lr": 8e-3,
            "schedule": "one-cycle",
            "weight_decay": 0.01,
            "label_smoothing": 0.1,
            "precision": "auto",
        },
    ),
    # 98.08 % +- 0.15, 134 s
    "best": Recipe(
        "the most LeNet can give; other values for vgg-small and cifar10",
        {
            "epochs": 25,
            "batch_size": 128,
            "optimizer": "adamw",
            "lr": 3e-3,
            "schedule": "one-cycle",
            "weight_decay": 0.1,
            "label_smoothing": 0.05,
            "rotation": 7.0,
            "scale": 0.1,
            "shear": 0.1,
            "shift": 1.0,
            "elastic": 0.5,
            "precision": "auto",
        },
        variants=(
            # 98.86 % +- 0.05 and 17 minutes over seeds 1 to 3; tests/bench_accuracy.py
            Variant(
                {"arch": "vgg-small"},
                {"width": 32, "epochs": 31, "weight_decay": 0.05, "train_split": 0.9, "monitor": "loss"},
            ),
            # crops by shifting, and flips, as He et al. 2016 (arXiv:1512.03385, section 4.2) have them; not chosen here
            Variant(
                {"dataset": "cifar10"},
                {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 4.0, "elastic": 0.0, "flip": True},
            ),
        ),
    ),
}


def values_of_recipes(name: str) -> str:
    """The hyper-parameter's value in each recipe, as --help shows it: "10; fast 1, best 25"."""
    default = shown(getattr(TrainConfig(), name))
    others = [f"{key} {shown(recipe.values[name])}" for key, recipe in RECIPES.items() if name in recipe.values]
    return f"{default}; {', '.join(others)}" if others else default
