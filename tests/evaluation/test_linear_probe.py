"""The logistic regression of classes on features."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from neural_lib.evaluation import linear_probe
from neural_lib.evaluation.linear_probe import fit


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
