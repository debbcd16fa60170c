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


def test_the_probabilities_are_those_of_the_predictions(images):
    torch.manual_seed(0)
    model = build_model("lenet", numChannels=1, classes=10)
    evaluation = evaluate(model, make_loader(images, 50, NORMALISE))
    with torch.no_grad():
        expected = model(NORMALISE(images.images)).exp()
    torch.testing.assert_close(evaluation.probabilities, expected.max(dim=1).values)
    assert torch.equal(evaluation.predictions, expected.argmax(dim=1))


def test_macro_f1_weighs_every_class_of_the_network_the_same(images):
    def always_zero(batch):
        return torch.zeros(len(batch), 12).index_fill_(1, torch.tensor([0]), 1.0).log_softmax(dim=1)

    model = torch.nn.Linear(1, 1)
    model.forward = always_zero
    evaluation = evaluate(model, make_loader(images, 50, NORMALISE))
    precision, recall = (images.labels == 0).double().mean().item(), 1.0  # of class 0
    assert evaluation.f1 == pytest.approx(2 * precision * recall / (precision + recall) / 12)
