"""Images whose label is probably wrong, found by the labels of the other images (Northcutt et al. 2021, Confident
learning, arXiv:1911.00068).

A logistic regression on a network's features gives each image the probability of each class, fitted to other images
only. If another class is clearly more probable than the image's label, that label is worth a second look. The network
itself may have memorised a wrong label; its features tell the classes apart all the same. tests/README.md compares this
rule with others.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neural_lib.evaluation.linear_probe import fit, spread_over_classes

FOLDS = 5  # parts of the images; each gets its probabilities from a fit to the others
# The inverse strength of the penalty, times images and features: it makes probabilities as flat for many images and
# features as for few, so that one RATIO fits all, and the fit doesn't follow single wrong labels.
C_TIMES_SIZE = 250
RATIO = 0.57  # a suspect's label is less than that many times as probable as another class
# Limits of a fit: images, and images times features times classes. With 500 features these are 5,000 images of up to
# 80 classes and 4,000 of 100; with 1,280 features 1,560 of 100.
MAX_IMAGES, MAX_PRODUCT = 5_000, 200_000_000
MIN_OF_CLASS = 2  # images of each class, on average, that a fit needs within these limits
# Features that differ by less, as a share of the largest, are equal: the same image in another place of a batch may be
# computed in another order.
ROUNDING = 1e-5
MAX_FEATURE = 1e15  # absolute value; the square of a larger one may overflow


class Suspect(NamedTuple):
    """An image for which another class is more probable than its label."""

    index: int  # position among the given images
    label: int
    suggestion: int  # the most probable class
    probability: float  # of the label, 0 to 1
    suggested: float  # probability of the suggestion, 0 to 1


def cross_validated(features: Tensor, labels: Tensor, classes: int, seed: int = 0) -> Tensor:
    """The probability (N, classes) of each class for each image, by a fit to other images; float32.

    features: (N, F). labels: (N,). Classes count alike, however many images each has. An image about which nothing can
    be said has NaN: if its features aren't finite, if no other image has its label, or if there is one class only. So
    have all images if their features are equal or there are too many classes for a fit of bounded time.
    """
    nothing = torch.full((), torch.nan).expand(len(labels), classes)  # takes no memory
    limit = min(MAX_IMAGES, MAX_PRODUCT // (features.size(1) * classes))
    usable = (features.abs().amax(dim=1) < MAX_FEATURE).nonzero().flatten()  # NaN isn't below
    if limit < MIN_OF_CLASS * classes or not len(usable):
        return nothing
    lowest, highest = features[usable].aminmax(dim=0)
    if (highest - lowest).max() <= ROUNDING * torch.maximum(highest, -lowest).max():
        return nothing
    probabilities = nothing.clone()
    fold_of = _stratified_folds(labels[usable], seed)
    for fold in range(FOLDS):
        own, others = usable[fold_of == fold], usable[fold_of != fold]
        others = others[spread_over_classes(labels[others], limit)]
        present, targets = labels[others].unique(return_inverse=True)  # ascending
        own = own[torch.isin(labels[own], present)]
        if len(present) > 1 and len(own):
            inputs = features[others].float()
            weight, bias = fit(inputs, targets, len(present), balanced=True, c=C_TIMES_SIZE / inputs.numel())
            found = functional.linear(features[own].float(), weight, bias).softmax(dim=1)
            probabilities[own] = torch.zeros(len(own), classes).index_copy(1, present, found)
    return probabilities


def _stratified_folds(labels: Tensor, seed: int) -> Tensor:
    # The fold (N,) of each image, 0 to FOLDS - 1: images of a class are dealt out in a random order.
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return torch.empty_like(labels).index_copy(0, by_class, torch.arange(len(labels)) % FOLDS)


def find_suspects(probabilities: Tensor, labels: Tensor, ratio: float = RATIO) -> list[Suspect]:
    """The images whose label is less than `ratio` times as probable as another class, the lowest ratio first.

    probabilities: (N, classes), of cross_validated. labels: (N,). ratio: 1 for all images for which another class is
    more probable; this list begins with those of a lower ratio.
    """
    suggested, suggestions = probabilities.max(dim=1)
    of_label = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)  # (N, classes) -> (N,)
    ratios = of_label / suggested
    order = ratios.argsort(stable=True)
    chosen = order[ratios[order] < ratio]  # without NaN
    columns = (each[chosen].tolist() for each in (labels, suggestions, of_label, suggested))
    return [Suspect(*row) for row in zip(chosen.tolist(), *columns, strict=True)]
