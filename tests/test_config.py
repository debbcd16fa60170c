import math

import pytest

from neural_lib.config import TrainConfig
from neural_lib.errors import UserError


@pytest.mark.parametrize(
    "name, values",
    [
        ("epochs", [0, -1, 1.5, True]),
        ("batch_size", [0, -64]),
        ("lr", [0.0, -1e-3, math.inf, math.nan]),
        ("train_split", [0.0, 1.0, -0.5, 75.0, math.nan]),
        ("seed", [-1, 2**32]),
    ],
)
def test_a_value_out_of_range_is_named_with_its_option(name, values):
    for value in values:
        with pytest.raises(UserError, match=f"^--{name.replace('_', '-')} must be .*not {value}$"):
            TrainConfig(**{name: value})


def test_split_sizes_lose_no_image():
    assert TrainConfig().split_sizes(60_000) == (45_000, 15_000)
    assert TrainConfig(train_split=1 / 3, batch_size=1).split_sizes(10) == (3, 7)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"train_split": 0.001}, "leaves 0 of kmnist's 100 images"),
        ({"train_split": 0.999999, "batch_size": 1}, None),
        ({"batch_size": 76}, "--batch-size 76 is larger than the 75 images"),
    ],
)
def test_a_part_too_small_is_refused(values, message):
    config = TrainConfig(**values)
    if message is None:
        assert config.split_sizes(100) == (99, 1)
    else:
        with pytest.raises(UserError, match=message):
            config.split_sizes(100)


def test_one_part_is_never_empty():
    with pytest.raises(UserError, match="--train-split"):
        TrainConfig(batch_size=1).split_sizes(1)
