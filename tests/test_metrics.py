import pytest
import torch
from torch.nn.functional import nll_loss

from neural_lib.metrics import RunningScores, report


def test_sums_over_samples_whatever_the_batches():
    torch.manual_seed(0)
    log_probs = torch.randn(103, 10).log_softmax(dim=1)
    labels = torch.randint(10, (103,))
    scores = RunningScores()
    for part in torch.arange(103).split(32):  # the last batch has 7
        scores.update(nll_loss(log_probs[part], labels[part]), log_probs[part], labels[part])
    assert scores.count == 103
    assert scores.loss == pytest.approx(nll_loss(log_probs, labels).item(), rel=1e-6)
    assert scores.accuracy == (log_probs.argmax(1) == labels).double().mean().item()


def test_many_small_losses_are_not_lost_in_a_large_sum():
    scores = RunningScores()
    log_probs, labels = torch.tensor([[0.0, -9.0]]), torch.tensor([0])
    scores.update(torch.tensor(1e8), log_probs, labels)
    for _ in range(1000):
        scores.update(torch.tensor(1.0), log_probs, labels)
    assert scores.loss * scores.count == 1e8 + 1000  # float32 would still say 1e8


def test_the_report_has_a_line_for_every_class_also_one_that_never_occurs():
    text = report(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), ["o", "ki", "su"])
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["o"] == ["1.0000", "0.5000", "0.6667", "2"]
    assert rows["su"] == ["0.0000", "0.0000", "0.0000", "0"]
    assert rows["accuracy"] == ["0.6667", "3"]
