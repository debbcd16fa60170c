"""Epoch 0: the last layer, fitted to the features of the training images."""

import pytest
import torch
from one_run import OTHER_CLASSES, begun_run, run_of, train_epochs

from neural_lib.config import TrainConfig
from neural_lib.data.catalog import DATASETS
from neural_lib.evaluation.calibration import outputs_of
from neural_lib.networks import last_layer_of
from neural_lib.system.signals import GracefulStop, StoppedBetweenSteps
from neural_lib.training import probe
from neural_lib.training.loop import validate
from neural_lib.training.probe import fit_last_layer
from neural_lib.training.run import Run


def test_epoch_0_fits_the_last_layer_alone_and_scores_the_training_images(images):
    run = begun_run(images, OTHER_CLASSES)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    random = validate(run)
    assert run.state.epoch == 0 and run.fits_last_layer
    fit_last_layer(run)
    changed = [name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["out.weight", "out.bias"]
    assert (run.state.sums.count, run.state.sums.accuracy) == (225, pytest.approx(_accuracy_on_training(run)))
    val = validate(run)
    assert val.accuracy > 0.9 > 0.3 > random.accuracy
    assert run.state.end_epoch(val) and run.state.epoch == 1
    assert run.best_checkpoint().metrics["epoch"] == 0
    run.state.sums.load_state_dict({"count": 0, "loss_sum": 0.0, "correct": 0})
    train_epochs(run, 1)
    assert [row["epoch"] for row in run.state.rows] == [0, 1]


def _accuracy_on_training(run: Run) -> float:
    images, labels = run.train_loader.dataset[:]
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (run.model_file.mean, run.model_file.std))
    with torch.inference_mode():
        return (run.model.eval()((images / 255 - mean) / std).argmax(dim=1) == labels).float().mean().item()


def test_features_are_of_undistorted_images_in_evaluation_mode(images):
    plain, other = (
        begun_run(images, OTHER_CLASSES),
        begun_run(images, OTHER_CLASSES, dropout=0.5, rotation=90.0, flip=True),
    )
    for run in (plain, other):
        fit_last_layer(run)
    assert torch.equal(last_layer_of(plain.model).weight, last_layer_of(other.model).weight)


def test_the_images_are_normalised_as_those_of_the_weights(images):
    run = begun_run(images, OTHER_CLASSES)
    assert (run.model_file.mean, run.model_file.std) == ([0.2], [0.3])  # as made_up.make_checkpoint has them
    inputs, _ = next(iter(run.val_loader))
    stored = run.val_loader.dataset[: len(inputs)][0]
    torch.testing.assert_close(inputs, (stored / 255 - 0.2) / 0.3)


def test_the_last_layer_of_a_network_for_the_same_data_set_is_scored_as_it_is(images):
    run = begun_run(images)
    weight = last_layer_of(run.model).weight.clone()
    assert not run.fits_last_layer and run.state.epoch == 0
    fit_last_layer(run)
    assert torch.equal(last_layer_of(run.model).weight, weight) and run.state.sums.count == 225
    assert begun_run(images, [*DATASETS["kmnist"].classes[:9], "another"]).fits_last_layer
    assert begun_run(images, dataset="fashion-mnist").fits_last_layer


@pytest.mark.parametrize("name, limit", [("MAX_FEATURES", 60 * 60), ("MAX_LOGITS", 60 * 10)])
def test_many_images_are_represented_by_some(images, monkeypatch, name, limit):
    monkeypatch.setattr(probe, name, limit)
    run = begun_run(images, OTHER_CLASSES)
    fit_last_layer(run)
    assert 60 <= run.state.sums.count <= 70  # with the first image of each class


def test_a_signal_ends_epoch_0_between_two_batches(images):
    run, stop = begun_run(images, OTHER_CLASSES), GracefulStop()
    weight = last_layer_of(run.model).weight.clone()
    stop.signum = 2
    with pytest.raises(StoppedBetweenSteps):
        fit_last_layer(run, stop)
    assert torch.equal(last_layer_of(run.model).weight, weight) and run.state.epoch == 0


def test_features_are_the_inputs_of_the_last_layer(images):
    run = begun_run(images, OTHER_CLASSES)
    features, labels = probe.features_of(run, run.train_loader.dataset)
    inputs = (run.train_loader.dataset.images / 255 - 0.2) / 0.3
    with torch.inference_mode():
        torch.testing.assert_close(features, outputs_of(run.model, inputs).features)
    assert torch.equal(labels, run.train_loader.dataset.labels)


# --- batch normalisation in the epochs after it ---


@pytest.mark.parametrize("is_frozen", [False, True])
def test_frozen_batch_normalisation_keeps_its_mean_and_variance(images, is_frozen):
    run = run_of(TrainConfig(arch="vgg-small", width=4, batch_size=32, freeze_norm=is_frozen), images)
    before = {name: value.clone() for name, value in run.model.named_buffers()}
    scale = run.model.pair1[1].weight.clone()
    train_epochs(run, 1)
    for name, value in run.model.named_buffers():
        assert torch.equal(value, before[name]) is is_frozen, name
    assert not torch.equal(run.model.pair1[1].weight, scale)
