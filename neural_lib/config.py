"""TrainConfig: every hyper-parameter of a run, its default, its unit and what it may be."""

import math
from dataclasses import asdict, dataclass

from neural_lib.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """The hyper-parameters of one training run; a value out of its range raises UserError.

    The defaults are those of the tutorial that this project comes from (LeNet on KMNIST, Adam).
    """

    dataset: str = "kmnist"  # a name in datasets.DATASETS
    arch: str = "lenet"  # a name in models.ARCHS
    epochs: int = 10  # passes over the training images
    batch_size: int = 64  # images per optimizer step
    lr: float = 1e-3  # Adam's step size, no unit
    train_split: float = 0.75  # share of the training images that is trained on; the rest validates
    seed: int = 42  # of the split, the shuffle and the initial weights

    def __post_init__(self) -> None:
        self._require("epochs", _is_int(self.epochs) and self.epochs >= 1, "a whole number of at least 1")
        self._require("batch_size", _is_int(self.batch_size) and self.batch_size >= 1, "a whole number of at least 1")
        self._require("lr", 0 < self.lr < math.inf, "a finite number above 0")
        self._require("train_split", 0 < self.train_split < 1, "between 0 and 1, both excluded")
        # NumPy's legacy generator takes 32 bits, the narrowest of the generators that are seeded
        self._require("seed", _is_int(self.seed) and 0 <= self.seed < 2**32, "a whole number from 0 to 4294967295")

    def _require(self, name: str, holds: bool, requirement: str) -> None:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} must be {requirement}, not {getattr(self, name)}")

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

    def to_dict(self) -> dict:
        """The values as plain types, for the checkpoint."""
        return asdict(self)


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
