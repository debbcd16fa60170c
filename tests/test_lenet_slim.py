import pytest
import torch
from torch import nn

from neural_lib.lenet_slim import LeNetSlim
from neural_lib.models import build_model


class SourceNetwork(nn.Module):
    """The structured experiment's network, written after its text; it ends in logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, kernel_size=5), nn.Conv2d(6, 12, kernel_size=5)
        self.fc1, self.fc2, self.out = nn.Linear(12 * 4 * 4, 120), nn.Linear(120, 60), nn.Linear(60, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv1(x)), kernel_size=2, stride=2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv2(x)), kernel_size=2, stride=2)
        x = x.reshape(-1, 12 * 4 * 4)
        x = nn.functional.relu(self.fc1(x))
        return self.out(nn.functional.relu(self.fc2(x)))


def test_parameter_count():
    assert sum(p.numel() for p in LeNetSlim(1, 10).parameters()) == 32_998


def test_log_probabilities_with_nll_are_the_sources_logits_with_cross_entropy():
    torch.manual_seed(0)
    ours, source = build_model("lenet-slim", numChannels=1, classes=10), SourceNetwork()
    source.load_state_dict(ours.state_dict())  # the same layers, by the same names
    images, labels = torch.randn(32, 1, 28, 28), torch.arange(32) % 10
    loss = nn.functional.nll_loss(ours(images), labels)
    source_loss = nn.functional.cross_entropy(source(images), labels)
    torch.testing.assert_close(loss, source_loss)
    for each in (loss, source_loss):
        each.backward()
    for mine, theirs in zip(ours.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_images_too_small_are_refused():
    LeNetSlim(1, 10, image_size=16)
    with pytest.raises(ValueError, match="at least 16 pixels, not 15"):
        LeNetSlim(1, 10, image_size=15)
