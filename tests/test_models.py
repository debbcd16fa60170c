"""What every network has in common."""

import pytest
import torch

from neural_lib.models import ARCHS, build_model


@pytest.mark.parametrize("channels, size", [(1, 28), (3, 32)])
@pytest.mark.parametrize("arch", ARCHS)
def test_images_to_log_probabilities(arch, channels, size):
    torch.manual_seed(0)
    model = build_model(arch, numChannels=channels, classes=7, image_size=size)
    log_probs = model(torch.rand(5, channels, size, size))
    assert log_probs.shape == (5, 7) and log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(5))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.rand(5, channels, size, size)).dtype == torch.float32


@pytest.mark.parametrize("arch", ARCHS)
def test_dropout_is_for_training_alone_and_adds_no_parameter(arch):
    torch.manual_seed(0)
    model = build_model(arch, numChannels=1, classes=10, dropout=0.5)
    assert model.state_dict().keys() == build_model(arch, numChannels=1, classes=10).state_dict().keys()
    images = torch.rand(4, 1, 28, 28)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError, match="alexnet"):
        build_model("alexnet", numChannels=1, classes=10)
