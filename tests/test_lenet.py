import pytest
import torch
from torch import nn
from tutorial import TutorialLeNet

from neural_lib.lenet import LeNet


def test_the_layers_and_the_state_dict_are_the_tutorials():
    layers = [name for name, _ in LeNet(numChannels=1, classes=10).named_children()]
    assert layers == [
        *("conv1", "relu1", "maxpool1", "conv2", "relu2", "maxpool2", "dropout", "fc1", "relu3", "fc2", "logSoftmax"),
    ]
    shapes = {name: tuple(value.shape) for name, value in LeNet(1, 10).state_dict().items()}
    assert shapes == {
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "fc1.weight": (500, 800),
        "fc1.bias": (500,),
        "fc2.weight": (10, 500),
        "fc2.bias": (10,),
    }


def test_pooling_before_relu_is_the_same_function_with_the_same_gradients():
    torch.manual_seed(0)
    ours, tutorial = LeNet(1, 10), TutorialLeNet(1, 10)
    tutorial.load_state_dict(ours.state_dict())
    images, labels = torch.randn(32, 1, 28, 28), torch.arange(32) % 10
    outputs = [model(images) for model in (ours, tutorial)]
    for output in outputs:
        nn.functional.nll_loss(output, labels).backward()
    assert torch.equal(*outputs)
    for mine, other in zip(ours.parameters(), tutorial.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_dropout_drops_inputs_of_both_linear_layers_in_training_only():
    torch.manual_seed(0)
    model, plain = LeNet(1, 10, dropout=0.4), LeNet(1, 10)
    plain.load_state_dict(model.state_dict())  # dropout has no parameters
    dropped = {}
    for name in ("fc1", "fc2"):
        getattr(model, name).register_forward_pre_hook(
            lambda _, inputs, name=name: dropped.update({name: (inputs[0] == 0).double().mean().item()})
        )
    images = torch.rand(64, 1, 28, 28)
    assert torch.equal(model.eval()(images), plain(images))
    zeros = dropped.copy()  # shares of zeros that ReLU makes
    model.train()(images)
    for name, share in zeros.items():
        assert dropped[name] == pytest.approx(share + (1 - share) * 0.4, abs=0.03)


@pytest.mark.parametrize("channels, size, parameters", [(3, 32, 657_080), (1, 16, 56_080)])
def test_fc1_follows_the_image_size(channels, size, parameters):
    model = LeNet(channels, 10, image_size=size)
    assert model(torch.rand(2, channels, size, size)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_images_too_small_are_refused():
    with pytest.raises(ValueError, match="at least 16 pixels, not 15"):
        LeNet(1, 10, image_size=15)
