import math

import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn.functional import nll_loss

from neural_lib.data.images import Normalisation, make_loader
from neural_lib.evaluation.scores import (
    RunningScores,
    batch_sums,
    confusion_matrix,
    confusions,
    evaluate,
    macro_f1,
    most_confident_mistakes,
    standard_error,
)
from neural_lib.networks import build_network

NORMALISE = Normalisation((0.2,), (0.3,))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network("lenet", numChannels=1, classes=10)


# --- evaluate ---


def test_evaluate_scores_every_image_once_whatever_the_batch_size(images, model):
    whole, odd = (evaluate(model, make_loader(images, size, NORMALISE)) for size in (300, 7))
    assert torch.equal(odd.labels, images.labels)
    assert torch.equal(odd.predictions, whole.predictions)
    assert odd.accuracy == whole.accuracy == (whole.predictions == whole.labels).double().mean().item()
    assert odd.loss == pytest.approx(whole.loss, rel=1e-5)


def test_the_probabilities_are_those_of_the_predictions(images, model):
    scores = evaluate(model, make_loader(images, 50, NORMALISE))
    with torch.no_grad():
        expected = model(NORMALISE(images.images)).exp()
    torch.testing.assert_close(scores.probabilities, expected.max(dim=1).values)
    assert torch.equal(scores.predictions, expected.argmax(dim=1))


def test_macro_f1_weighs_every_class_of_the_network_equally(images):
    def always_zero(batch):
        return torch.zeros(len(batch), 12).index_fill_(1, torch.tensor([0]), 1.0).log_softmax(dim=1)

    model = torch.nn.Linear(1, 1)
    model.forward = always_zero
    scores = evaluate(model, make_loader(images, 50, NORMALISE))
    precision, recall = (images.labels == 0).double().mean().item(), 1.0  # of class 0
    assert scores.f1 == pytest.approx(2 * precision * recall / (precision + recall) / 12)


# --- running sums ---


def test_sums_are_over_images_whatever_the_batches():
    torch.manual_seed(0)
    log_probs = torch.randn(103, 10).log_softmax(dim=1)
    labels = torch.randint(10, (103,))
    sums = RunningScores()
    for batch in torch.arange(103).split(32):  # the last batch has 7
        loss_sum = nll_loss(log_probs[batch], labels[batch], reduction="sum")
        sums.add(batch_sums(loss_sum, log_probs[batch], labels[batch]), len(batch))
    assert sums.count == 103
    assert sums.loss == pytest.approx(nll_loss(log_probs, labels).item(), rel=1e-6)
    assert sums.accuracy == (log_probs.argmax(1) == labels).double().mean().item()


def test_many_small_losses_are_not_lost_in_a_large_sum():
    sums = RunningScores()
    log_probs, labels = torch.tensor([[0.0, -9.0]]), torch.tensor([0])
    sums.add(batch_sums(torch.tensor(1e8), log_probs, labels), 1)
    for _ in range(1000):
        sums.add(batch_sums(torch.tensor(1.0), log_probs, labels), 1)
    assert sums.loss * sums.count == 1e8 + 1000  # in float32 it would stay 1e8


def test_sums_are_saved_as_plain_numbers_and_restored():
    sums, restored = RunningScores(), RunningScores()
    assert math.isnan(sums.loss) and math.isnan(sums.accuracy)  # no images yet
    sums.add(batch_sums(torch.tensor(3.0), torch.tensor([[0.0, -9.0]] * 2), torch.tensor([0, 1])), 2)
    assert sums.state_dict() == {"count": 2, "loss_sum": 3.0, "correct": 1.0}
    restored.load_state_dict(sums.state_dict())
    assert (restored.count, restored.loss, restored.accuracy) == (2, 1.5, 0.5)


# --- figures ---


@pytest.mark.parametrize("count", [1, 7, 500])
def test_macro_f1_is_scikit_learns(count):
    generator = torch.Generator().manual_seed(0)
    labels, guesses = torch.randint(12, (2, count), generator=generator)
    predictions = torch.where(torch.rand(count, generator=generator) < 0.6, labels, guesses)
    expected = f1_score(
        labels, predictions, labels=range(15), average="macro", zero_division=0
    )  # 3 classes never occur
    assert macro_f1(confusion_matrix(labels, predictions, 15)) == pytest.approx(expected, rel=1e-12)


def test_the_most_confident_mistakes_come_first():
    labels, predictions = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 2, 5, 3, 9])
    probabilities = torch.tensor([0.9, 0.5, 0.8, 1.0, 0.7])
    assert most_confident_mistakes(labels, predictions, probabilities, max_count=9) == [2, 4, 1]
    assert most_confident_mistakes(labels, predictions, probabilities, max_count=2) == [2, 4]
    assert most_confident_mistakes(labels, labels, probabilities, max_count=9) == []


def test_confusions_are_counted_by_pair_the_most_frequent_first():
    pairs = confusions([[5, 1, 0], [3, 6, 1], [0, 0, 9]])
    assert [(pair["truth"], pair["predicted"], pair["count"], pair["support"]) for pair in pairs] == [
        (1, 0, 3, 10), (0, 1, 1, 6), (1, 2, 1, 10),
    ]  # fmt: skip
    assert confusions([[5, 0], [0, 5]]) == []


def test_the_standard_error_is_the_deviation_of_accuracies_over_many_test_sets():
    draws = torch.distributions.Binomial(300, torch.tensor(0.9)).sample((20_000,)) / 300
    assert standard_error(0.9, 300) == pytest.approx(draws.std().item(), rel=0.05)
    assert standard_error(1.0, 300) > 0
