"""Labels worth a second look, near-copies and samples, on a network and images as train.py has them."""

from dataclasses import replace

import made_up
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neural_lib.checkpoint import Checkpoint
from neural_lib.config import TrainConfig
from neural_lib.data.augment import RandomDistortion
from neural_lib.data.images import ImageTensors, Parts, split
from neural_lib.evaluation import data_check
from neural_lib.evaluation.data_check import SAMPLES, DataCheck, check_data
from neural_lib.networks import build_network
from neural_lib.system.errors import UserError

CLASSES = 4


def bars(count: int, seed: int) -> ImageTensors:
    """Noisy images (N, 1, 28, 28) with a bar at one of four places, which is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) // 2 % CLASSES
    images = torch.randint(0, 90, (count, 1, 28, 28), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, :, 3 + 6 * label : 7 + 6 * label] += 150
    return ImageTensors(images.to(torch.uint8), labels, names=[f"{seed}-{index}.png" for index in range(count)])


def checkpoint_of(**config) -> Checkpoint:
    saved = made_up.make_checkpoint("kmnist", "lenet-slim")
    return replace(saved, config=TrainConfig(**{"epochs": 1, "train_split": 0.75, **config}).to_dict())


def checked(parts: Parts, **config) -> DataCheck:
    saved = checkpoint_of(**config)
    return check_data(saved, saved.build_model(), parts)


def flipped(images: ImageTensors, *indices: int) -> ImageTensors:
    labels = images.labels.clone()
    labels[[*indices]] = (labels[[*indices]] + 1) % CLASSES
    return images.labelled(labels)


def names(check: DataCheck, places) -> list[str]:
    return [check.parts[place.part].name(place.index) for place in places]


def test_wrong_labels_of_training_and_validation_are_named_and_no_others():
    parts = Parts(flipped(bars(40, 2), 3), flipped(bars(80, 0), 5, 30), flipped(bars(40, 1), 7))
    check = checked(parts)
    suspects = check.doubtful[: check.suspects]
    assert check.checked == 120
    assert set(names(check, [place for place, _ in suspects])) == {"0-5.png", "0-30.png", "1-7.png"}
    for place, each in suspects:
        assert each.suggestion == (each.label - 1) % CLASSES and each.probability < each.suggested
        assert each.index == place.index
        assert each.label == check.parts[place.part].labels[place.index]
    assert [check.suspects <= len(check.doubtful), check.total] == [True, 160]


def test_validation_images_are_those_of_the_run():
    train, config = bars(80, 0), TrainConfig(seed=7, train_split=0.75, batch_size=8)
    check = checked(Parts(bars(40, 2), train), seed=7, batch_size=8)
    for part, expected in zip(("training", "validation"), split(train, config), strict=True):
        images = check.parts[part]
        assert [images.name(i) for i in range(len(images))] == [expected.name(i) for i in range(len(expected))]


def test_a_copy_of_a_training_image_is_found_in_the_test_part():
    train, test = bars(40, 0), bars(40, 2)
    pixels = test.images.clone()
    pixels[9] = train.images[21]
    (copy,) = checked(Parts(ImageTensors(pixels, test.labels), train, bars(40, 1))).copies
    assert (copy.part, copy.index, copy.other_part, copy.other_index) == ("training", 21, "test", 9)


def test_of_many_images_a_share_is_compared_and_named_right(monkeypatch):
    parts = Parts(bars(40, 2), flipped(bars(160, 0), 2, 36, 71, 100), bars(40, 1))
    whole = checked(parts)
    assert sum(map(len, whole.parts.values())) == whole.total == 240
    saved = checkpoint_of()
    image = torch.zeros(1, 1, 28, 28)
    monkeypatch.setattr(data_check, "MAX_OPERATIONS", 120 * data_check._operations(saved.build_model(), image))
    check = checked(parts)
    assert [len(each) for each in check.parts.values()] == [80, 20, 20] and check.total == 240
    found = names(check, [place for place, _ in check.doubtful[: check.suspects]])
    assert set(found) == {"0-2.png", "0-36.png", "0-100.png"}  # each second image, so not 71


@pytest.mark.parametrize("epoch, is_missing", [(0, False), (3, False), (3, True)])
def test_of_a_fine_tuned_network_the_labels_are_judged_by_what_it_began_from(monkeypatch, caplog, epoch, is_missing):
    imagenet, models = made_up.make_checkpoint("kmnist", "lenet-slim"), []
    imagenet.state_dict.update({name: value + 1 for name, value in imagenet.state_dict.items()})
    imagenet.classes[:] = [""] * 10

    def load(arch: str) -> Checkpoint:
        assert arch == "lenet-slim"
        if is_missing:
            raise UserError("the package is not installed")
        return imagenet

    def compare(model, normalise, images) -> tuple:
        models.append(model)
        return torch.rand(len(images), 5), torch.zeros(len(images))

    monkeypatch.setattr(data_check, "load_imagenet", load)
    monkeypatch.setattr(data_check, "features_and_answers", compare)
    saved = replace(checkpoint_of(), training={"init": "imagenet"}, metrics={"epoch": epoch})
    trained = saved.build_model()
    check_data(saved, trained, Parts(bars(8, 2), bars(16, 0), bars(8, 1)))
    expected = imagenet if epoch and not is_missing else saved
    weights = expected.state_dict["conv1.weight"]
    assert len(models) == 3 and all(torch.equal(each.conv1.weight, weights) for each in models)
    assert ("not installed; so the trained network judges the labels" in caplog.text) is is_missing


def test_each_part_keeps_an_image_and_all_parts_a_limited_number(monkeypatch):
    monkeypatch.setattr(data_check, "MAX_IMAGES", 40)
    check = checked(Parts(bars(40, 2), bars(400, 0), bars(3, 1)))
    assert [len(each) for each in check.parts.values()] == [36, 1, 4] and check.total == 443


@pytest.mark.parametrize("arch, size", [("lenet", 28), ("resnet18", 28), ("efficientnet-lite0", 64)])
def test_the_operations_are_those_that_torch_counts(arch, size):
    model = build_network(arch, numChannels=3, classes=5, image_size=size).eval()
    image = torch.zeros(1, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert data_check._operations(model, image) == counter.get_total_flops()
    assert not any(each._forward_hooks for each in model.modules())


@pytest.mark.parametrize("classes, expected", [(1, [16]), (2, [8, 8]), (3, [6, 5, 5]), (10, [2] * 6 + [1] * 4)])
def test_the_samples_show_as_many_of_each_class_as_there_is_room_for(classes, expected):
    train = bars(60, 0)
    train = train.labelled(torch.arange(60) % classes)
    samples = checked(Parts(bars(40, 2), train, bars(40, 1)), seed=3).samples
    other = checked(Parts(bars(40, 2), train, bars(40, 1)), seed=4).samples
    assert [samples.name(i) for i in range(SAMPLES)] != [other.name(i) for i in range(SAMPLES)]
    counts = torch.bincount(samples.labels)
    assert sorted(counts.tolist(), reverse=True) == expected and len(samples) == SAMPLES
    assert samples.labels.tolist() == sorted(samples.labels.tolist())
    for index in range(SAMPLES):  # undistorted, so each is the image of its name
        number = int(samples.name(index).partition("-")[2].removesuffix(".png"))
        assert torch.equal(samples.images[index], train.images[number])
        assert samples.labels[index] == train.labels[number]


@pytest.mark.parametrize("epochs", [0, 1])
def test_the_samples_are_distorted_as_in_training(epochs):
    parts = Parts(bars(40, 2), bars(60, 0), bars(40, 1))
    plain, check = checked(parts), checked(parts, rotation=10.0, epochs=epochs)
    assert check.is_distorted is bool(epochs) and not plain.is_distorted
    assert torch.equal(check.samples.images, plain.samples.images) is not bool(epochs)
    distortion = RandomDistortion(TrainConfig(rotation=10.0), 28)
    if epochs:
        assert torch.equal(check.samples.images, distortion(plain.samples.images).round().to(torch.uint8))
    assert check.samples.images.dtype == torch.uint8 and len(check.samples) == SAMPLES


@pytest.mark.parametrize("change", ["one class", "one colour", "two images"])
def test_where_nothing_can_be_said_nothing_is(change):
    train, val, test = bars(24, 0), bars(8, 1), bars(8, 2)
    if change == "one class":
        train, val, test = (each.labelled(torch.zeros(len(each), dtype=torch.int64)) for each in (train, val, test))
    elif change == "one colour":
        train, val, test = (ImageTensors(torch.full_like(each.images, 7), each.labels) for each in (train, val, test))
    else:
        train, val = train.subset(torch.tensor([0])), val.subset(torch.tensor([1]))
    check = checked(Parts(test, train, val))
    assert check.checked == check.suspects == len(check.doubtful) == len(check.copies) == 0
