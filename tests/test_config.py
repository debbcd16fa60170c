import math
from dataclasses import fields

import pytest

from neural_lib.config import (
    RECIPES,
    Recipe,
    TrainConfig,
    Variant,
    derived_seed,
    differences,
    values_of_recipes,
)
from neural_lib.datasets import DATASETS
from neural_lib.errors import UserError
from neural_lib.models import ARCHS


def choices() -> dict[str, tuple]:
    """The hyper-parameters that are one of a few names."""
    return {each.name: each.metadata["choices"] for each in fields(TrainConfig) if each.metadata.get("choices")}


@pytest.mark.parametrize(
    "name, values",
    [
        ("epochs", [0, -1, 1.5, True]),
        ("batch_size", [0, -64]),
        ("lr", [0.0, -1e-3, math.inf, math.nan]),
        ("train_split", [0.0, 1.0, -0.5, 75.0, math.nan]),
        ("seed", [-1, 2**32]),
        ("weight_decay", [-0.1, math.inf, math.nan]),
        ("label_smoothing", [-0.1, 1.0, math.nan]),
        ("dropout", [-0.1, 1.0, math.nan]),
        ("rotation", [-1.0, 181.0, math.nan]),
        ("scale", [-0.1, 1.0, math.nan]),
        ("shear", [-0.1, 1.1, math.nan]),
        ("shift", [-1.0, math.inf, math.nan]),
        ("elastic", [-1.0, math.inf, math.nan]),
        ("optimizer", ["adamax"]),
        ("schedule", ["cosine"]),
        ("precision", ["fp16"]),
        ("flip", [1, "on"]),
        ("monitor", ["precision"]),
        ("patience", [-1, 1.5, True]),
        ("width", [-1, 0.5, 1025]),
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


def test_an_unknown_choice_is_answered_with_the_known_ones():
    for name, known in choices().items():
        with pytest.raises(UserError, match=", ".join(known)):
            TrainConfig(**{name: "something"})


@pytest.mark.parametrize("name, most", [("shift", 7), ("elastic", 2)])
def test_images_are_neither_moved_out_of_their_frame_nor_folded(name, most):
    TrainConfig(**{name: float(most)}).check_images(28, mirrors=True)
    with pytest.raises(
        UserError, match=f"--{name} {most}.5 is too far for kmnist's images of 28 pixels: at most {most}"
    ):
        TrainConfig(**{name: most + 0.5}).check_images(28, mirrors=True)


def test_only_images_that_keep_their_class_are_mirrored():
    TrainConfig(dataset="cifar10", flip=True).check_images(32, mirrors=True)
    with pytest.raises(
        UserError, match="^--flip on: in the mirror an image of kmnist means something else, or nothing$"
    ):
        TrainConfig(flip=True).check_images(28, mirrors=False)


def test_of_a_recipes_variants_those_that_apply_win_the_last_one_first():
    variants = (
        Variant({"arch": "resnet18"}, {"lr": 0.2, "epochs": 2}),
        Variant({"dataset": "cifar10"}, {"flip": True}),
        Variant({"dataset": "cifar10", "arch": "resnet18"}, {"lr": 0.3}),
    )
    recipe = Recipe("", {"lr": 0.1, "dropout": 0.5}, variants)
    assert recipe.config() == TrainConfig(lr=0.1, dropout=0.5)
    resnet = {"arch": "resnet18", "dropout": 0.5}
    assert recipe.config(arch="resnet18") == TrainConfig(lr=0.2, epochs=2, **resnet)
    on_cifar = recipe.config(arch="resnet18", dataset="cifar10", epochs=9)
    assert on_cifar == TrainConfig(lr=0.3, epochs=9, flip=True, dataset="cifar10", **resnet)
    assert recipe.config(dataset="cifar10").flip and not recipe.config(dataset="cifar10", flip=False).flip


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_fits_every_data_set_with_every_network(recipe, dataset, arch):
    info, config = DATASETS[dataset], recipe.config(dataset=dataset, arch=arch)
    config.check_images(info.image_size, info.mirrors)
    config.split_sizes(info.train_size)


def test_the_classic_recipe_is_the_default_and_the_tutorials():
    assert RECIPES["classic"].config() == TrainConfig()
    tutorial = {
        "epochs": 10,
        "batch_size": 64,
        "optimizer": "adam",
        "lr": 1e-3,
        "train_split": 0.75,
        "precision": "fp32",
    }
    assert TrainConfig().to_dict().items() >= tutorial.items()
    assert TrainConfig().schedule == "constant" and not TrainConfig().distorts()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_is_a_valid_configuration_of_which_any_value_can_be_replaced(recipe):
    assert recipe.config().to_dict().items() >= recipe.values.items()
    assert recipe.config(epochs=3, lr=0.5) == TrainConfig(**recipe.values | {"epochs": 3, "lr": 0.5})


@pytest.mark.parametrize("name", ["rotation", "scale", "shear", "shift", "elastic"])
def test_any_range_alone_distorts(name):
    assert TrainConfig(**{name: 0.1}).distorts()


def test_flipping_distorts_too():
    assert TrainConfig(flip=True).distorts()


def test_the_values_of_a_hyper_parameter_by_recipe():
    assert values_of_recipes("train_split") == "0.75"
    assert values_of_recipes("epochs").startswith(f"10; fast {RECIPES['fast'].config().epochs}, best ")


def test_two_grids_are_told_apart_by_the_values_of_each_option():
    here = [{"lr": 0.1, "batch_size": 64, "shuffle": True}, {"lr": 0.2, "batch_size": 64, "shuffle": True}]
    there = [{"lr": 0.1, "batch_size": 32, "shuffle": False}]
    assert differences(there, here) == [
        "--lr 0.1 there, 0.1 0.2 here",
        "--batch-size 32 there, 64 here",
        "--shuffle off there, on here",
    ]
    assert differences(here, here) == []
    assert differences(here, here[::-1]) == ["--lr 0.1 0.2 there, 0.2 0.1 here"]


def test_another_order_of_the_same_values_is_another_grid():
    runs = [{"lr": lr, "seed": seed} for lr in (0.1, 0.2) for seed in (1, 2)]
    other = [{"lr": lr, "seed": seed} for seed in (1, 2) for lr in (0.1, 0.2)]
    assert differences(runs, other) == ["their runs are in another order"]


def test_an_option_that_one_of_them_does_not_know_is_a_difference():
    assert differences([{"lr": 0.1}], [{"lr": 0.1, "arch": "lenet"}]) == ["--arch nothing there, lenet here"]


def test_a_derived_seed_tells_purposes_and_places_apart_and_is_the_same_each_time():
    places = [(seed, purpose, *position) for seed in (1, 2) for purpose in ("shuffle", "dropout")
              for position in ((1,), (2,), (1, 2), (12,), (2, 1))]  # fmt: skip
    seeds = [derived_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [derived_seed(*place) for place in places]
    assert (
        derived_seed(42, "shuffle", 1) == 6778651827863829506
    )  # of every version, or old states would go on otherwise
