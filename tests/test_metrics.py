import pytest
import torch
from torch.nn.functional import nll_loss

from neural_lib.metrics import (
    RunningScores,
    batch_sums,
    confusion_matrix,
    confusions,
    macro_f1,
    report,
    scores,
    standard_error,
    worst,
)


def test_sums_over_samples_whatever_the_batches():
    torch.manual_seed(0)
    log_probs = torch.randn(103, 10).log_softmax(dim=1)
    labels = torch.randint(10, (103,))
    scores = RunningScores()
    for part in torch.arange(103).split(32):  # the last batch has 7
        loss_sum = nll_loss(log_probs[part], labels[part], reduction="sum")
        scores.add(batch_sums(loss_sum, log_probs[part], labels[part]), len(part))
    assert scores.count == 103
    assert scores.loss == pytest.approx(nll_loss(log_probs, labels).item(), rel=1e-6)
    assert scores.accuracy == (log_probs.argmax(1) == labels).double().mean().item()


def test_many_small_losses_are_not_lost_in_a_large_sum():
    scores = RunningScores()
    log_probs, labels = torch.tensor([[0.0, -9.0]]), torch.tensor([0])
    scores.add(batch_sums(torch.tensor(1e8), log_probs, labels), 1)
    for _ in range(1000):
        scores.add(batch_sums(torch.tensor(1.0), log_probs, labels), 1)
    assert scores.loss * scores.count == 1e8 + 1000  # float32 would still say 1e8


def test_the_report_has_a_line_for_every_class_also_one_that_never_occurs():
    text = report(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), ["o", "ki", "su"])
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["o"] == ["1.0000", "0.5000", "0.6667", "2"]
    assert rows["su"] == ["0.0000", "0.0000", "0.0000", "0"]
    assert rows["accuracy"] == ["0.6667", "3"]


def random_predictions(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels, guesses = torch.randint(classes, (2, count), generator=generator)
    return labels, torch.where(torch.rand(count, generator=generator) < 0.6, labels, guesses)


@pytest.mark.parametrize("count", [1, 7, 500])
def test_macro_f1_is_scikit_learns_and_the_reports(count):
    from sklearn.metrics import f1_score

    labels, predictions = random_predictions(count, 12)
    classes = range(15)  # also some that never occur
    ours = macro_f1(confusion_matrix(labels, predictions, 15))
    theirs = f1_score(labels, predictions, labels=classes, average="macro", zero_division=0)
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert ours == pytest.approx(
        scores(labels, predictions, list(map(str, classes)))["macro avg"]["f1-score"], rel=1e-12
    )


def test_the_scores_are_those_of_the_report_unrounded():
    labels, predictions = random_predictions(300, 3)
    found = scores(labels, predictions, ["o", "ki", "su", "never"])
    assert [each["class"] for each in found["classes"]] == ["o", "ki", "su", "never"]
    assert [each["support"] for each in found["classes"]] == [*labels.bincount().tolist(), 0]
    told = {
        row.split("  ")[0]: row.split()[-4:] for row in report_rows(labels, predictions, ["o", "ki", "su", "never"])
    }
    for own in found["classes"]:
        assert told[own["class"]] == [f"{own[name]:.4f}" for name in KINDS] + [str(own["support"])]
    for mean in ("macro avg", "weighted avg"):
        assert told[mean] == [f"{found[mean][name]:.4f}" for name in KINDS] + [str(found[mean]["support"])]
    assert found["accuracy"] == (labels == predictions).double().mean().item()
    row = confusion_matrix(labels, predictions, 4)[1].double()
    assert found["classes"][1]["recall"] == pytest.approx((row[1] / row.sum()).item(), rel=1e-12)


KINDS = ("precision", "recall", "f1-score")


def report_rows(labels, predictions, classes) -> list[str]:
    return [row.strip() for row in report(labels, predictions, classes).splitlines() if row.strip()]


def test_the_most_confident_mistakes_come_first():
    labels, predictions = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 2, 5, 3, 9])
    probabilities = torch.tensor([0.9, 0.5, 0.8, 1.0, 0.7])
    assert worst(labels, predictions, probabilities, most=9) == [2, 4, 1]
    assert worst(labels, predictions, probabilities, most=2) == [2, 4]
    assert worst(labels, labels, probabilities, most=9) == []


def test_confusions_are_counted_by_pair_the_most_frequent_first():
    pairs = confusions([[5, 1, 0], [3, 6, 1], [0, 0, 9]])
    assert [(pair["truth"], pair["predicted"], pair["count"], pair["support"]) for pair in pairs] == [
        (1, 0, 3, 10), (0, 1, 1, 6), (1, 2, 1, 10),
    ]  # fmt: skip
    assert confusions([[5, 0], [0, 5]]) == []


def test_the_standard_error_is_the_scatter_of_many_test_sets_accuracies():
    draws = torch.distributions.Binomial(300, torch.tensor(0.9)).sample((20_000,)) / 300
    assert standard_error(0.9, 300) == pytest.approx(draws.std().item(), rel=0.05)
