"""A linear probe: the logistic regression of classes on a network's features."""

import warnings

import torch
from torch import Tensor

C = 0.01  # inverse strength of the L2 penalty, in scikit-learn's units; tests/README.md compares values of both
MIN_DEVIATION = 0.3  # smallest standard deviation that a feature is divided by, as share of the features' RMS
MAX_ITERATIONS = 200  # of L-BFGS


def spread_over_classes(labels: Tensor, limit: int) -> Tensor:
    """The indices (n,) of about `limit` images, ascending: the same share of each class, and one image at least.

    labels: (N,). All images if they aren't more than that.
    """
    if len(labels) <= limit:
        return torch.arange(len(labels))
    by_class = labels.argsort(stable=True)
    is_first = labels[by_class].diff(prepend=labels.new_tensor([-1])) > 0  # of its class
    evenly = by_class[torch.arange(limit) * len(labels) // max(limit, 1)]
    return torch.cat([by_class[is_first], evenly]).unique()


def fit(features: Tensor, labels: Tensor, classes: int, balanced: bool = False, c: float = C) -> tuple[Tensor, Tensor]:
    """Weight (classes, F) and bias (classes,) of a linear layer, by logistic regression.

    features: (N, F). labels: (N,), of which each class has one. balanced: all classes have the same weight. c: inverse
    strength of the L2 penalty. Features are standardised for the fit; weight and bias take them as they are. A feature
    that hardly varies among a few training images is not enlarged as far, because it may be large for other images.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import

    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    std = std.clamp(min=max(MIN_DEVIATION * std.square().mean().sqrt().item(), 1e-6))
    model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS, class_weight="balanced" if balanced else None)
    # It warns if it ends near the optimum, which is near enough, and of many classes, which may be so.
    with warnings.catch_warnings(action="ignore"):
        model.fit((features - mean).div_(std).numpy(), labels.numpy())
    weight, bias = (torch.from_numpy(each).to(features.dtype) for each in (model.coef_, model.intercept_))
    if classes == 2:  # one row, for the difference of the two logits
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight = weight / std
    return weight, bias - weight @ mean
