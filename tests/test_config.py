import math
from dataclasses import fields

import pytest

from neural_lib.config import (
    ARCHS,
    PHOTO_RECIPE,
    RECIPES,
    Recipe,
    TrainConfig,
    derived_seed,
    differences,
    format_value,
    format_values,
    option_name,
    values_of_recipes,
)
from neural_lib.data.catalog import DATASETS
from neural_lib.system.errors import UserError


def choices() -> dict[str, tuple]:
    """The hyper-parameters that take one of several names, with these names."""
    return {each.name: each.metadata["choices"] for each in fields(TrainConfig) if each.metadata.get("choices")}


@pytest.mark.parametrize(
    "name, values",
    [
        ("epochs", [-1, 1.5, True]),
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
        ("thickness", [-0.1, 1.1, math.nan]),
        ("gamma", [-0.1, 1.1, math.nan]),
        ("zoom", [-0.1, 1.0, math.nan]),
        ("color", [-0.1, 1.1, math.nan]),
        ("optimizer", ["adamax"]),
        ("schedule", ["cosine"]),
        ("precision", ["fp16"]),
        ("flip", [1, "on"]),
        ("monitor", ["something"]),
        ("patience", [-1, 1.5, True]),
        ("width", [-1, 0.5, 1025]),
        ("test_split", [0.0, -0.1, 1.1, math.nan]),
    ],
)
def test_a_value_out_of_range_is_named_with_its_option(name, values):
    for value in values:
        with pytest.raises(UserError, match=f"^--{name.replace('_', '-')} must be .*not {value}$"):
            TrainConfig(**{name: value})


def test_split_sizes_lose_no_image():
    assert TrainConfig().split_sizes(60_000) == (45_000, 15_000)
    assert TrainConfig(train_split=1 / 3, batch_size=1).split_sizes(10) == (3, 7)
    assert TrainConfig(train_split=0.999999, batch_size=1).split_sizes(100) == (99, 1)


@pytest.mark.parametrize("values, count, message", [
    ({"train_split": 0.001}, 100, "--train-split 0.001 leaves 0 of kmnist's 100 images"),
    ({"batch_size": 1}, 1, "--train-split 0.75 leaves 0 of kmnist's 1 images"),
    ({"batch_size": 76}, 100, "--batch-size 76 is larger than the 75 images"),
])  # fmt: skip
def test_a_part_that_is_empty_or_smaller_than_a_batch_is_refused(values, count, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**values).split_sizes(count)


def test_an_unknown_choice_is_answered_with_the_known_ones():
    for name, known in choices().items():
        with pytest.raises(UserError, match=", ".join(known)):
            TrainConfig(**{name: "something"})


@pytest.mark.parametrize("name, limit", [("shift", 7), ("elastic", 2)])
def test_images_are_neither_moved_out_of_their_frame_nor_folded(name, limit):
    TrainConfig(**{name: float(limit)}).check_images(28, mirrors=True)
    message = f"--{name} {limit}.5 is too far for kmnist's images of 28 pixels: at most {limit}"
    with pytest.raises(UserError, match=message):
        TrainConfig(**{name: limit + 0.5}).check_images(28, mirrors=True)


def test_only_images_that_keep_their_class_are_mirrored():
    TrainConfig(dataset="cifar10", flip=True).check_images(32, mirrors=True)
    message = "^--flip on: in the mirror an image of kmnist means something else, or nothing$"
    with pytest.raises(UserError, match=message):
        TrainConfig(flip=True).check_images(28, mirrors=False)


def test_the_last_variant_of_a_recipe_that_applies_wins():
    variants = (
        ({"arch": "resnet18"}, {"lr": 0.2, "epochs": 2}),
        ({"dataset": "cifar10"}, {"flip": True}),
        ({"dataset": "cifar10", "arch": "resnet18"}, {"lr": 0.3}),
    )
    recipe = Recipe("", {"lr": 0.1, "dropout": 0.5}, variants)
    assert recipe.config() == TrainConfig(lr=0.1, dropout=0.5)
    resnet = {"arch": "resnet18", "dropout": 0.5}
    assert recipe.config(arch="resnet18") == TrainConfig(lr=0.2, epochs=2, **resnet)
    on_cifar = recipe.config(arch="resnet18", dataset="cifar10", epochs=9)
    assert on_cifar == TrainConfig(lr=0.3, epochs=9, flip=True, dataset="cifar10", **resnet)
    assert recipe.config(dataset="cifar10").flip and not recipe.config(dataset="cifar10", flip=False).flip


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_all_of_val_is_the_test_set_unless_a_share_is_given(recipe):
    shares = [recipe.config(**given).test_split for given in ({}, {"test": "val"}, {"test": "val", "test_split": 0.5})]
    assert shares == [0.15, 1, 0.5]
    with pytest.raises(UserError, match="^--test-split 1 leaves no image to train on; give a smaller share, or --test"):
        recipe.config(test_split=1.0)


@pytest.mark.parametrize("parts, values, sources, without_effect", [
    (["train"], {}, ("train", "train"), []),
    (["train", "val"], {}, ("train", "val"), ["train_split"]),
    (["train", "val"], {"test": "val", "test_split": 1.0}, ("val", "train"), []),
    (["train", "val"], {"test": "val", "test_split": 0.5}, ("val", "val"), ["train_split"]),
    (["train", "test"], {}, ("test", "train"), ["test", "test_split"]),
    (["train", "val", "test"], {"test": "val", "test_split": 1.0}, ("test", "val"),
     ["test", "test_split", "train_split"]),
])  # fmt: skip
def test_the_parts_that_give_test_and_validation_images(parts, values, sources, without_effect):
    config = TrainConfig(**values)
    assert (config.test_source(parts), config.val_source(parts)) == sources
    assert config.without_effect(parts) == without_effect


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != PHOTO_RECIPE])
def test_every_recipe_fits_every_data_set_with_every_network(recipe):
    for dataset, info in DATASETS.items():
        for arch in ARCHS:
            config = RECIPES[recipe].config(dataset=dataset, arch=arch)
            config.check_images(info.image_size, info.mirrors)
            config.split_sizes(info.train_size)


def test_the_classic_recipe_is_the_default_and_the_tutorials():
    assert RECIPES["classic"].config() == TrainConfig()
    tutorial = dict(epochs=10, batch_size=64, optimizer="adam", lr=1e-3, train_split=0.75, precision="fp32")
    assert TrainConfig().to_dict().items() >= tutorial.items()
    assert TrainConfig().schedule == "constant" and not TrainConfig().distorts()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_any_value_of_a_recipe_can_be_replaced(recipe):
    assert recipe.config().to_dict().items() >= recipe.values.items()
    assert recipe.config(epochs=3, lr=0.5) == TrainConfig(**recipe.values | {"epochs": 3, "lr": 0.5})


def test_any_range_distorts_and_so_does_flipping():
    for name in ("rotation", "scale", "shear", "shift", "elastic", "zoom", "color"):
        assert TrainConfig(**{name: 0.1}).distorts()
    assert TrainConfig(flip=True).distorts()


def test_regularisation_is_named():
    assert TrainConfig().regularisation() == []
    config = TrainConfig(flip=True, dropout=0.1, label_smoothing=0.1)
    assert config.regularisation() == ["distorted images", "dropout", "label smoothing"]


def test_the_values_of_a_hyper_parameter_by_recipe():
    assert values_of_recipes("dropout") == "0"
    assert values_of_recipes("epochs").startswith(f"10; fast {RECIPES['fast'].config().epochs}, best ")


def test_differences_are_named_by_option():
    current, saved = {"lr": 0.1, "batch_size": 64, "shuffle": True}, {"lr": 0.1, "batch_size": 32, "shuffle": False}
    assert differences(saved, current) == ["--batch-size was 32, is 64", "--shuffle was off, is on"]
    assert differences(saved, saved) == []
    assert differences({"lr": 0.1}, {"lr": 0.1, "arch": "lenet"}) == ["--arch was not given, is lenet"]


def test_values_are_formatted_as_they_are_typed():
    assert [format_value(value) for value in (True, False, 0.01, 1e-5, 64, "adam")] == [
        *("on", "off", "0.01", "1e-05", "64", "adam"),
    ]
    assert format_value(0.1234567) == "0.1234567"  # no digit is lost
    assert format_values({"lr": 0.01, "flip": True}) == "lr=0.01, flip=on"
    assert option_name("batch_size") == "--batch-size"


def test_derived_seeds_differ_by_purpose_and_position_and_are_repeatable():
    positions = [(seed, purpose, *position) for seed in (1, 2) for purpose in ("shuffle", "dropout")
              for position in ((1,), (2,), (1, 2), (12,), (2, 1))]  # fmt: skip
    seeds = [derived_seed(*position) for position in positions]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [derived_seed(*position) for position in positions]
    # It must not change between versions, or runs resumed from older states would draw other numbers.
    assert derived_seed(42, "shuffle", 1) == 6778651827863829506
