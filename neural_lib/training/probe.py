"""Epoch 0 of a run that begins from other weights: its last layer is fitted to the training images (a linear probe).

The features of a network that was trained on other classes are often separated well by a linear layer, which
logistic regression finds in seconds. Training all weights from a random last layer would first spoil these features
(Kumar et al. 2022, Fine-tuning can distort pretrained features and underperform out-of-distribution, arXiv:2202.10054).
"""

import logging

import torch
from torch import Tensor
from torch.nn import functional

from neural_lib.data.images import ImageTensors, Normalisation, evaluation_loader
from neural_lib.evaluation.calibration import outputs_of
from neural_lib.evaluation.linear_probe import fit, spread_over_classes
from neural_lib.evaluation.scores import as_float64
from neural_lib.networks import last_layer_of
from neural_lib.system.devices import autocast
from neural_lib.system.distributed import PADDING, any_rank, from_rank_0, gather_rows
from neural_lib.system.signals import GracefulStop
from neural_lib.training.loop import ProgressBar
from neural_lib.training.run import Run

# Limits of the images that the layer is fitted to, which bound memory and time: all their features (160 MB), and images
# times classes. With 1,280 features these are 31,250 images of up to 640 classes, and 20,000 of 1,000.
MAX_FEATURES, MAX_LOGITS = 40_000_000, 20_000_000

log = logging.getLogger(__name__)


@torch.no_grad()  # not inference_mode, in which autocast would convert all weights again for each batch
def fit_last_layer(run: Run, stop: GracefulStop | None = None, bar: ProgressBar | None = None) -> None:
    """Fit the network's last layer to the features of the training images, if run.fits_last_layer, and score these.

    The features are computed once, in evaluation mode, of undistorted images. run.state.sums become the scores. Raises
    StoppedBetweenSteps if any rank has received a signal.
    """
    layer = last_layer_of(run.model)
    limit = min(MAX_FEATURES // layer.in_features, MAX_LOGITS // run.classes)
    images = run.train_loader.dataset
    chosen = images.subset(spread_over_classes(images.labels.cpu(), limit))
    features, labels = features_of(run, chosen, stop, bar)
    if run.fits_last_layer:
        log.info("fitting the last layer to the features of %s images", f"{len(labels):,}")
        weight, bias = from_rank_0(fit, features, labels, run.classes, run.config.class_weights == "balanced")
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    log_probs = functional.linear(features, layer.weight.cpu(), layer.bias.cpu()).log_softmax(dim=1)
    loss_sum = functional.nll_loss(log_probs, labels, reduction="sum")
    correct = (log_probs.argmax(dim=1) == labels).sum()
    run.state.sums.add(torch.stack([as_float64(loss_sum), as_float64(correct)]), len(labels))


@torch.no_grad()
def features_of(
    run: Run, images: ImageTensors, stop: GracefulStop | None = None, bar: ProgressBar | None = None
) -> tuple[Tensor, Tensor]:
    """The features (N, F) of images, the inputs of the network's last layer, and their labels (N,); on the CPU.

    Each rank computes those of its shards and gets all of them.
    """
    normalise = Normalisation(run.model_file.mean, run.model_file.std).to(images.device)
    loader, batches = evaluation_loader(images, normalise), []
    run.model.eval()
    with autocast(images.device, run.config.precision):
        for inputs, labels in loader:
            if stop:
                stop.check(any_rank(stop.signum))
            is_image = labels != PADDING
            batches.append((outputs_of(run.model, inputs).features[is_image].cpu(), labels[is_image].cpu()))
            if bar:
                bar.advance(loader.sampler.size(loader.sampler.step))
    features, labels = (torch.cat(column) for column in zip(*batches, strict=True))
    return gather_rows(features), gather_rows(labels)
