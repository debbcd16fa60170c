import made_up
import pytest
import torch

from neural_lib.evaluation import evaluate
from neural_lib.loaders import ImageTensors, Normalisation, make_loader
from neural_lib.models import build_model

NORMALISE = Normalisation((0.2,), (0.3,))


@pytest.fixture
def images() -> ImageTensors:
    pixels, labels = made_up.make_images(300, seed=0)
    return ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())


def test_evaluate_scores_every_image_once_whatever_the_batch_size(images):
    torch.manual_seed(0)
    model = build_model("lenet", numChannels=1, classes=10)
    whole, odd = (evaluate(model, make_loader(images, size, NORMALISE)) for size in (300, 7))
    assert torch.equal(odd.labels, images.labels)
    assert torch.equal(odd.predictions, whole.predictions)
    assert odd.accuracy == whole.accuracy == (whole.predictions == whole.labels).double().mean().item()
    assert odd.loss == pytest.approx(whole.loss, rel=1e-5)
