import made_up
import pytest
import torch

from neural_lib.config import TrainConfig
from neural_lib.datasets import DATASETS
from neural_lib.errors import RunError
from neural_lib.experiment import Experiment
from neural_lib.loaders import ImageTensors

INFO = DATASETS["kmnist"]
DISTORTED = {"rotation": 10.0, "dropout": 0.2, "optimizer": "adamw", "schedule": "one-cycle"}


@pytest.fixture
def images() -> ImageTensors:
    pixels, labels = made_up.make_images(300, seed=0)
    return ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())


def weights_of(config: TrainConfig, images: ImageTensors) -> dict:
    experiment = Experiment(config, INFO, images)
    experiment.fit()
    return experiment.model.state_dict()


@pytest.mark.parametrize("values", [{}, DISTORTED, {"arch": "lenet-slim", "shuffle": False}])
def test_a_run_among_others_is_the_run_alone_bit_for_bit(images, values):
    config = TrainConfig(epochs=2, batch_size=32, **values)
    alone = weights_of(config, images)
    weights_of(TrainConfig(epochs=1, batch_size=50, seed=7, rotation=5.0, dropout=0.1), images)
    among = weights_of(config, images)
    assert all(torch.equal(alone[name], among[name]) for name in alone)


def test_without_shuffle_every_epoch_has_the_same_order(images):
    for shuffle in (True, False):
        loader = Experiment(TrainConfig(batch_size=32, shuffle=shuffle), INFO, images).train_loader
        first, second = (torch.cat([labels for _, labels in loader]) for _ in range(2))
        assert torch.equal(first, second) is not shuffle
        assert torch.equal(first.sort().values, second.sort().values)


def test_what_became_nan_is_told_with_advice(images):
    experiment = Experiment(TrainConfig(epochs=1, batch_size=32, lr=1e30), INFO, images)
    with pytest.raises(RunError, match=r"loss became \w+ at epoch 1, step \d+; try a lower --lr than 1e\+30"):
        experiment.fit()
