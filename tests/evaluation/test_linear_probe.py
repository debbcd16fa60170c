"""The logistic regression of classes on features."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from neural_lib.evaluation import linear_probe
from neural_lib.evaluation.linear_probe import fit, spread_over_classes


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_layer_gives_the_probabilities_of_scikit_learns_logistic_regression(classes, balanced):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator) * torch.arange(8) + 5  # one is constant
    labels = (features[:, 7] > 4).long() + (features[:, 6] > 9).long() * (classes - 2)
    weight, bias = fit(features, labels, classes, balanced)
    assert weight.shape == (classes, 8) and bias.shape == (classes,)
    deviations = features.std(0, correction=0)
    standard = (features - features.mean(0)) / deviations.clamp(min=0.3 * deviations.square().mean().sqrt())
    reference = LogisticRegression(C=linear_probe.C, class_weight="balanced" if balanced else None, max_iter=1000)
    expected = torch.from_numpy(reference.fit(standard.numpy(), labels.numpy()).predict_proba(standard.numpy()))
    found = functional.linear(features, weight, bias).softmax(dim=1)
    torch.testing.assert_close(found, expected, check_dtype=False, atol=1e-3, rtol=0)


def test_a_feature_that_hardly_varies_decides_little():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 5, generator=generator)
    labels = (features[:, 0] > 0).long()
    features[:, 4] = 1e-3 * labels  # varies little here, and a lot elsewhere
    weight, _ = fit(features, labels, 2)
    assert abs(weight[1, 4]) < abs(weight[1, 0])


def test_the_inverse_strength_of_the_penalty_can_be_given():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator)
    labels = (features[:, 0] > 0).long()
    weak, strong = (fit(features, labels, 2, c=c)[0].norm() for c in (linear_probe.C, linear_probe.C / 100))
    assert strong < weak / 10


# --- a share of the images for a fit ---


def test_of_many_images_the_same_share_of_each_class_is_chosen():
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)[torch.randperm(1000)]
    chosen = spread_over_classes(labels, 100)
    assert torch.equal(chosen, chosen.unique())
    assert (torch.bincount(labels[chosen]) - torch.tensor([60, 30, 10])).abs().max() <= 2


def test_every_class_is_chosen_however_rare_it_is():
    labels = torch.tensor([0] * 500 + [1] * 500 + [2, 3])[torch.randperm(1002)]
    counts = torch.bincount(labels[spread_over_classes(labels, 20)], minlength=4)
    assert counts[2:].tolist() == [1, 1] and (counts[:2] - 10).abs().max() <= 1


def test_few_images_are_chosen_all():
    assert spread_over_classes(torch.tensor([1, 0, 1]), 3).tolist() == [0, 1, 2]
