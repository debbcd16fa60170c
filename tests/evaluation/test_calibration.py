"""Temperature, distance and calibration error on made-up logits and features, and on trained networks."""

import json
import math
from dataclasses import replace

import made_up
import numpy as np
import odd
import pytest
import torch
from outcomes import outcome
from torch import nn

from neural_lib import checkpoint
from neural_lib.data import ink
from neural_lib.data.images import ImageTensors, Normalisation
from neural_lib.evaluation import calibration
from neural_lib.evaluation.calibration import (
    MAX_TEMPERATURE,
    Calibration,
    Outputs,
    at_temperature,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    outputs_of,
    outside,
    principal_directions,
    temperature_lowers_loss,
)
from neural_lib.evaluation.scores import score
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system import signals

CLASSES, FEATURES = 10, 60  # as in make_checkpoint's lenet-slim


def made_up_images(count: int, seed: int, classes: int = 10) -> ImageTensors:
    pixels, labels = made_up.make_images(count, seed, classes)
    return ImageTensors(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels).long())


@pytest.fixture(scope="module")
def saved() -> checkpoint.Checkpoint:
    """An untrained network for images like KMNIST's."""
    return made_up.make_checkpoint("kmnist")


def drawn_from(logits: torch.Tensor) -> torch.Tensor:
    """A label for each row of logits, drawn at random with the probabilities of the row's softmax."""
    return torch.multinomial(logits.softmax(dim=1), 1, generator=torch.Generator().manual_seed(1)).flatten()


# --- temperature ---


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0, 3.0])
def test_the_temperature_that_made_logits_over_or_underconfident_is_found(temperature):
    honest = 3 * torch.randn(20_000, CLASSES, generator=torch.Generator().manual_seed(0))
    stretched = (honest * temperature).log_softmax(dim=1)
    assert fit_temperature(stretched, drawn_from(honest)) == pytest.approx(temperature, rel=0.03)


def test_calibrated_probabilities_keep_their_order_and_sum_to_one():
    log_probs = torch.randn(500, CLASSES, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    for temperature in (0.1, 0.5, 1.0, 2.0, 10.0):
        probabilities = Calibration({"temperature": temperature}).probabilities(log_probs)
        assert torch.equal(probabilities.argsort(dim=1), log_probs.argsort(dim=1))
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(500))


@pytest.mark.parametrize("count", [1, 5, 30, 300])
def test_a_few_images_that_are_all_right_do_not_make_answers_certain(count):
    log_probs = (3 * torch.eye(CLASSES)).log_softmax(dim=1)[torch.arange(count) % CLASSES]
    temperature = fit_temperature(log_probs, torch.arange(count) % CLASSES)
    share = (count + 10 * log_probs.exp().amax(dim=1).mean().item()) / (count + 10)  # as if of ten more that many were
    assert at_temperature(log_probs, temperature).amax(dim=1).mean().item() == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 10])
def test_few_images_leave_an_honest_network_as_it_is(classes):
    """All of 20 images are right, as they most often are if each is with 99 %."""
    log_probs = torch.full((20, classes), 0.01 / (classes - 1)).log()
    log_probs[:, 0] = math.log(0.99)
    right = at_temperature(log_probs, fit_temperature(log_probs, torch.zeros(20, dtype=torch.long)))[:, 0]
    assert (right > 0.99).all() and (right < 0.999).all()


def test_a_temperature_has_bounds():
    log_probs, all_wrong = (10 * torch.eye(2)).log_softmax(dim=1).repeat(500, 1), torch.tensor([1, 0]).repeat(500)
    assert fit_temperature(log_probs, all_wrong) == pytest.approx(MAX_TEMPERATURE)
    assert fit_temperature(log_probs / 1e6, all_wrong.flip(0)) == pytest.approx(1 / MAX_TEMPERATURE)


def test_a_temperature_is_taken_only_if_it_lowers_the_loss_of_images_that_it_was_not_fitted_to():
    """Honest logits, and those times 2 and 1/2, of networks that are too sure and too unsure."""
    taken = {1: 0, 2: 0, 0.5: 0}
    for seed in range(20):
        honest = 3 * torch.randn(50, CLASSES, generator=torch.Generator().manual_seed(seed))
        labels = torch.multinomial(honest.softmax(dim=1), 1, generator=torch.Generator().manual_seed(seed)).flatten()
        for factor in taken:
            taken[factor] += temperature_lowers_loss((honest * factor).log_softmax(dim=1), labels)
    assert taken[1] <= 7 and taken[2] >= 18 and taken[0.5] >= 18


def test_a_network_keeps_its_own_probabilities_if_calibration_would_not_help(saved, monkeypatch):
    train, val = made_up_images(50, 0), made_up_images(40, 1)
    monkeypatch.setattr(calibration, "temperature_lowers_loss", lambda *_: False)
    refused = calibrate(saved, train, val)
    assert refused["temperature"] == 1 and refused["threshold"]  # strange pictures are still detected
    monkeypatch.setattr(calibration, "temperature_lowers_loss", lambda *_: True)
    assert calibrate(saved, train, val)["temperature"] == fit_temperature(
        outputs_of(saved.build_model(), Normalisation(saved.mean, saved.std)(val.images)).log_probs.detach(), val.labels
    )


# --- expected calibration error ---


def test_the_expected_calibration_error_of_four_predictions_by_hand():
    probabilities = torch.tensor([0.95, 0.91, 0.55, 0.3], dtype=torch.float64)
    is_right = torch.tensor([True, False, True, False])
    # Ten bins: two predictions with mean 0.93 and half of them right, 0.55 and right, 0.3 and wrong.
    assert expected_calibration_error(probabilities, is_right, bins=10) == pytest.approx((2 * 0.43 + 0.45 + 0.3) / 4)


def test_honest_probabilities_have_hardly_an_error_and_dishonest_ones_have():
    logits = 2 * torch.randn(20_000, CLASSES, generator=torch.Generator().manual_seed(0))
    labels = drawn_from(logits)
    errors = []
    for temperature in (1, 0.5, 2):
        probabilities, predictions = at_temperature(logits.log_softmax(dim=1), temperature).max(dim=1)
        errors.append(expected_calibration_error(probabilities, predictions == labels))
    assert errors[0] < 0.02 < 0.1 < min(errors[1:])


def test_probabilities_of_zero_and_one_have_a_bin():
    assert expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == 0
    assert expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([True, False])) == 1


# --- distance ---


def test_the_directions_are_those_in_which_features_vary():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(FEATURES, 4, generator=generator)).Q.T  # (4, F)
    features = 3 * basis[3] + torch.randn(400, 3, generator=generator) @ basis[:3]
    features += 0.01 * torch.randn(400, FEATURES, generator=generator)
    mean, directions = principal_directions(nn.functional.normalize(features))
    assert directions.shape == (3, FEATURES) and mean.shape == (FEATURES,)
    torch.testing.assert_close(directions @ directions.T, torch.eye(3))
    near = outside(features, mean, directions)
    torch.testing.assert_close(outside(7 * features, mean, directions), near)  # the length of features doesn't matter
    assert near.max() < 0.5 < outside(torch.randn(99, FEATURES, generator=generator), mean, directions).min()


def test_one_in_a_hundred_validation_images_is_unlike(saved):
    train, val = made_up_images(500, 0), made_up_images(730, 1)
    content = calibrate(saved, train, val)
    with torch.inference_mode():
        recogniser = Recogniser(replace(saved, calibration=content), torch.device("cpu"))
        probabilities, is_unlike = recogniser.answers_of(val.images)
    assert is_unlike.sum() == 7 and is_unlike.dtype == torch.bool
    assert torch.equal(probabilities, recogniser.probabilities(val.images))


def test_a_stray_picture_among_few_validation_images_does_not_set_the_threshold(saved):
    train, val = made_up_images(200, 0), made_up_images(60, 1)
    val.stored[7] = torch.randint(0, 256, (1, 28, 28), generator=torch.Generator().manual_seed(0)) // 128 * 255
    content = calibrate(saved, train, val)
    recogniser = Recogniser(replace(saved, calibration=content), torch.device("cpu"))
    assert recogniser.answers_of(val.images)[1].nonzero().tolist() == [[7]]  # as the furthest it would be the threshold


def test_of_few_validation_images_the_highest_logit_counts_half(saved):
    train, few, enough = made_up_images(200, 0), made_up_images(99, 1), made_up_images(100, 1)
    for val, factor in ((few, 2), (enough, 1)):
        with torch.inference_mode():
            recogniser = Recogniser(saved, torch.device("cpu"))
            highest = outputs_of(recogniser.model, recogniser.normalise(val.images)).logits.amax(dim=1)
        expected = [highest.mean().item(), factor * highest.std().item()]
        assert calibrate(saved, train, val)["highest"] == pytest.approx(expected, rel=1e-4)


def test_features_far_away_and_low_logits_are_unlike():
    content = {
        "temperature": 1.0, "mean": torch.zeros(3), "directions": torch.eye(3)[:2], "outside": [0.1, 0.05],
        "highest": [6.0, 2.0], "threshold": 3.0,
    }  # fmt: skip
    near, outside = torch.tensor([5.0, 1.0, 0.3]), torch.tensor([1.0, 1.0, 2.0])
    features, logits = torch.stack([near, outside, near]), torch.tensor([[6.0, 0.0], [6.0, 0.0], [-3.0, -4.0]])
    outputs = Outputs(logits.log_softmax(dim=1), logits, features)
    reader = Calibration(content)
    assert reader.is_unlike(outputs).tolist() == [False, True, True]
    rest = 0.3 / (25 + 1 + 0.09) ** 0.5
    expected = [(rest - 0.1) / 0.05, ((2 / 3) ** 0.5 - 0.1) / 0.05, (rest - 0.1) / 0.05 + 4.5]
    assert reader.distances(outputs).tolist() == pytest.approx(expected, rel=1e-4)


def test_a_network_without_a_calibration_is_read_as_it_was(saved):
    images = made_up_images(20, 0).images
    recogniser = Recogniser(saved, torch.device("cpu"))
    with torch.inference_mode():
        expected = recogniser.model(recogniser.normalise(images)).exp()
    probabilities, is_unlike = recogniser.answers_of(images)
    assert torch.equal(probabilities, expected) and not is_unlike.any()


@pytest.mark.few(1)
@pytest.mark.parametrize("arch", made_up.SMALL_ARCHS)
@pytest.mark.parametrize("dataset", ["kmnist", "cifar10"])
def test_every_network_is_calibrated_and_twice_the_same(arch, dataset, tmp_path):
    made = made_up.make_checkpoint(dataset, arch)
    size, channels = made.image_size, len(made.mean)
    generator = torch.Generator().manual_seed(0)
    count = 100 if arch == "resnet18" else 300
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    part = ImageTensors(images, torch.arange(count) % CLASSES)
    content, again = calibrate(made, part, part), calibrate(made, part, part)
    assert content["threshold"] and all(
        torch.equal(torch.as_tensor(content[name]), torch.as_tensor(value)) for name, value in again.items()
    )
    (tmp_path / "model.pth").write_bytes(replace(made, calibration=content).to_bytes())
    assert Recogniser.load(tmp_path / "model.pth", "cpu").answers_of(images)[1].sum() == count // 100
    outputs = outputs_of(made.build_model(), torch.zeros(3, channels, size, size))
    torch.testing.assert_close(outputs.logits.log_softmax(dim=1), outputs.log_probs)


def test_large_images_are_calibrated_in_small_batches(saved, monkeypatch):
    sizes, outputs = [], calibration.outputs_of
    monkeypatch.setattr(
        calibration, "outputs_of", lambda model, inputs: sizes.append(len(inputs)) or outputs(model, inputs)
    )
    monkeypatch.setattr(calibration, "eval_batch_size", lambda size, device: 40 if size == 28 else 0)
    calibrate(saved, made_up_images(50, 0), made_up_images(100, 1))
    assert sizes == [40, 40, 20, 40, 10]


@pytest.mark.parametrize("train, val", [(1, 1), (20, 5), (60, 19), (60, 20), (3, 99), (10, 100), (2, 150)])
@pytest.mark.parametrize("classes", [2, 10])
def test_small_data_sets_are_calibrated_and_only_enough_images_set_a_threshold(saved, caplog, train, val, classes):
    caplog.set_level("INFO")
    content = calibrate(saved, made_up_images(train, 0, classes), made_up_images(val, 1, classes))
    assert replace(saved, calibration=content).build_model()
    assert ("threshold" in content) is (val >= 20)
    text = f"pictures unlike the training images can't be marked ?: that needs 20 validation images, there are {val}"
    assert ((text.replace("are 1", "is 1") if val == 1 else text) in caplog.text) is (val < 20)
    if val < 20:
        assert not Calibration(content).is_unlike(outputs_of(saved.build_model(), torch.ones(1, 1, 28, 28))).any()


def test_outputs_that_are_not_finite_are_left_uncalibrated(saved):
    broken = {**saved.state_dict, "out.bias": torch.full((CLASSES,), float("nan"))}
    assert calibrate(replace(saved, state_dict=broken), made_up_images(200, 0), made_up_images(200, 1)) == {}


def test_a_dead_network_has_distances_of_zero(saved):
    """Its features are 0 for every image, so nothing varies that distances could be measured in."""
    dead = {**saved.state_dict, "fc2.weight": torch.zeros(FEATURES, 120), "fc2.bias": torch.full((FEATURES,), -1.0)}
    network = replace(saved, state_dict=dead)
    content = calibrate(network, made_up_images(200, 0), made_up_images(200, 1))
    assert (content["outside"], content["highest"][1], content["threshold"]) == ([0.0, 1.0], 1.0, 0.0)
    outputs = outputs_of(network.build_model(), torch.rand(5, 1, 28, 28))
    assert Calibration(content).distances(outputs).tolist() == [0.0] * 5


def test_of_many_images_some_are_taken_from_all_over(saved, monkeypatch):
    monkeypatch.setattr(calibration, "MAX_VAL", 100)
    val = made_up_images(1000, 1)
    every_tenth = val.subset(torch.arange(0, 1000, 10))
    train = made_up_images(100, 0)
    content, expected = calibrate(saved, train, val), calibrate(saved, train, every_tenth)
    assert content["threshold"] == expected["threshold"] and content["temperature"] == expected["temperature"]


# --- in train.py, the report and predict.py ---


def test_scores_have_the_probabilities_before_and_after(saved):
    images = made_up_images(300, 0)
    plain = score(saved, saved.build_model(), images)
    sharp = score(replace(saved, calibration={"temperature": 0.1}), saved.build_model(), images)
    assert plain.uncalibrated is None and torch.equal(sharp.uncalibrated, plain.probabilities)
    assert (sharp.probabilities > plain.probabilities).all()
    assert (sharp.loss, sharp.accuracy) == (plain.loss, plain.accuracy)


def test_a_trained_network_is_calibrated_and_refuses_noise(digits_model):
    saved, report = checkpoint.load(digits_model), json.loads(digits_model.with_name("report.json").read_text())
    assert saved.calibration["threshold"] > 0
    assert report["calibration"]["temperature"] == saved.calibration["temperature"]
    assert report["calibration"]["ece_after"] < report["calibration"]["ece_before"]  # fast smooths labels
    noise = torch.randint(0, 256, (200, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert Recogniser.load(digits_model).answers_of(noise)[1].float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_an_interrupted_run_is_calibrated_once_it_is_resumed(run_train, monkeypatch):
    command = ("-d", "digits", "--arch", "lenet-slim", "--quiet", "--epochs", 2, "--train-split", 0.6)
    run_train(*command, "-m", "whole/model.pth")
    numbers, check = iter(range(1, 1000)), signals.GracefulStop.check

    def stop(self, signum_of_any=None):
        self.signum = 2 if next(numbers) == 7 else self.signum
        check(self, signum_of_any)

    with monkeypatch.context() as patched:
        patched.setattr(signals.GracefulStop, "check", stop)
        assert run_train(*command)[0] == 130
    assert checkpoint.load("output/model.pth").calibration == {}
    assert run_train(*command, "--resume")[0] == 0
    assert outcome("output") == outcome("whole") and "threshold" in outcome("whole")["calibration"]


# --- odd pictures ---


def test_odd_pictures_are_of_five_kinds_always_the_same_and_all_can_be_read(saved):
    first = list(odd.pictures(seed=3, count=4))
    assert len(list(odd.pictures(seed=4, count=4))) == 20  # other pictures in between must change nothing
    second = list(odd.pictures(seed=3, count=4))
    assert [kind for kind, _ in first] == [kind for kind in odd.KINDS for _ in range(4)]
    for (_, picture), (_, again) in zip(first, second, strict=True):
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and np.array_equal(picture, again)
        assert ink.prepare(picture, saved.preparation).any()
