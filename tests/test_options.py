from dataclasses import fields

import pytest

import train
from neural_lib.config import RECIPES, TrainConfig, flag_of, shown
from neural_lib.errors import UserError
from neural_lib.options import MOST_RUNS, build_configs


def configs(*arguments: object) -> list[TrainConfig]:
    return build_configs(train.parse_args([str(argument) for argument in arguments]))


def test_every_hyper_parameter_has_an_option():
    names = [field.name for field in fields(TrainConfig) if field.name != "dataset"]
    for name in names:
        value = getattr(TrainConfig(), name)
        given = train.parse_args([flag_of(name), shown(value)])
        assert given.params == {name: [value]}
    assert len(names) == 22


def test_no_option_is_one_run_with_the_defaults():
    assert configs() == [TrainConfig()]
    assert configs("--recipe", "best", "-d", "digits") == [RECIPES["best"].config(dataset="digits")]


def test_several_values_are_a_grid_in_the_order_in_which_the_options_are_given():
    grid = configs("--lr", 0.1, 0.2, "--shuffle", "on", "off", "-b", 16)
    assert [(each.lr, each.shuffle, each.batch_size) for each in grid] == [
        (0.1, True, 16), (0.1, False, 16), (0.2, True, 16), (0.2, False, 16),
    ]  # fmt: skip
    grid = configs("--shuffle", "on", "off", "--lr", 0.1, 0.2)
    assert [(each.shuffle, each.lr) for each in grid] == [(True, 0.1), (True, 0.2), (False, 0.1), (False, 0.2)]


def test_an_option_given_again_replaces_what_was_given_before():
    assert [each.lr for each in configs("--lr", 0.1, 0.2, "--seed", 1, "--lr", 0.3)] == [0.3]
    assert configs() == [TrainConfig()]  # nothing of one command is left for the next


def test_networks_too_can_be_compared():
    assert [each.arch for each in configs("--arch", "lenet", "lenet-slim")] == ["lenet", "lenet-slim"]


def test_a_very_large_grid_wants_a_yes():
    seeds = ("--seed", *range(MOST_RUNS + 1))
    with pytest.raises(UserError, match="these are 1,001 runs; give --yes"):
        configs(*seeds)
    assert len(configs(*seeds, "--yes")) == MOST_RUNS + 1
    assert len(configs(*seeds[:-1])) == MOST_RUNS
    with pytest.raises(UserError, match="these are 1,000,000,000 runs"):  # said before they are made
        configs("--seed", *range(1000), "--epochs", *range(1, 1001), "--batch-size", *range(1, 1001))


@pytest.mark.parametrize("arguments, message", [
    (["--lr"], "argument --lr: expected at least one argument"),
    (["--lr", ""], "argument --lr: invalid float value: ''"),
    (["--lr", "0.1", "high"], "argument --lr: invalid float value: 'high'"),
    (["--batch-size", "64", "1e2"], "argument -b/--batch-size: invalid int value: '1e2'"),
    (["--lr", "0.1", "0.10"], "--lr 0.1 is given twice"),
    (["--shuffle", "on", "on"], "--shuffle on is given twice"),
    (["--lr", "0.1", "0"], "--lr must be a finite number above 0, not 0.0"),
    (["--batch-size", "64", "45001"], "--batch-size 45001 is larger than the 45,000 images"),
    (["--shift", "1", "9"], "--shift 9.0 is too far for kmnist's images"),
    (["--precision", "fp32", "fp8"], "argument --precision: invalid choice: 'fp8'"),
])  # fmt: skip
def test_a_bad_value_among_good_ones_is_named_with_its_option(arguments, message):
    with pytest.raises(UserError) as caught:
        configs(*arguments)
    assert message in str(caught.value)
