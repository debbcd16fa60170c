"""ONNX files, written by torch's exporter and run by OpenCV."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import made_up
import numpy as np
import pytest
import torch

from neural_lib.networks import build_network
from neural_lib.prediction import export
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system.errors import RunError

onnx = pytest.importorskip("onnx", reason="onnx, which --export needs, is not installed")


def recogniser_of(arch: str, dataset: str = "digits") -> Recogniser:
    saved = replace(made_up.make_checkpoint(dataset, arch), calibration={"temperature": 0.5})
    return Recogniser(saved, torch.device("cpu"))


@pytest.fixture(scope="module")
def exported(make_once) -> tuple[Recogniser, bytes]:
    """A recogniser, and its network as the content of an ONNX file."""
    recogniser = recogniser_of("lenet-slim", "kmnist")
    folder = make_once("onnx", lambda folder: (folder / "model.onnx").write_bytes(export.to_onnx(recogniser)))
    return recogniser, (folder / "model.onnx").read_bytes()


def test_an_exported_network_gives_the_same_in_opencv(exported):
    recogniser, content = exported
    assert export.verify(content, recogniser, export.noise(recogniser.saved, 260)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("arch", made_up.SMALL_ARCHS)
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_every_network_gives_the_same_in_opencv(arch, dataset):
    recogniser = recogniser_of(arch, dataset)
    assert export.verify(export.to_onnx(recogniser), recogniser, export.noise(recogniser.saved, 260)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [65, 66])
def test_a_network_for_photos_gives_the_same_in_opencv(size):
    """From 65 pixels its padding is even, from 66 uneven and then even."""
    arch_args = {"numChannels": 3, "classes": 10, "image_size": size}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = build_network("efficientnet-lite0", **arch_args).state_dict()
    saved = replace(
        made_up.make_checkpoint("cifar10", "lenet-slim"),
        arch="efficientnet-lite0", arch_args=arch_args, state_dict=weights, image_size=size,
    )  # fmt: skip
    recogniser = Recogniser(saved, torch.device("cpu"))
    assert export.verify(export.to_onnx(recogniser), recogniser, export.noise(saved, 5)) < 1e-5


def test_any_number_of_images_goes_through(exported):
    recogniser, content = exported
    network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    for count in (1, 2, 7):
        network.setInput(np.zeros((count, 1, 28, 28), np.float32))
        assert network.forward().shape == (count, 10)


def test_the_file_is_valid_and_names_its_inputs_and_outputs(exported):
    recogniser, content = exported
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    metadata = {each.key: each.value for each in model.metadata_props}
    assert json.loads(metadata["classes"]) == recogniser.saved.classes and json.loads(metadata["glyphs"])[2] == "す"
    assert (json.loads(metadata["mean"]), json.loads(metadata["std"])) == ([0.2], [0.3])
    assert (metadata["image_size"], metadata["arch"], metadata["dataset"]) == ("28", "lenet-slim", "kmnist")
    assert metadata["temperature"] == "0.5"
    (images,), (probabilities,) = model.graph.input, model.graph.output
    assert (images.name, probabilities.name) == (export.INPUT, export.OUTPUT)
    shape = images.type.tensor_type.shape.dim
    assert shape[0].dim_param and [each.dim_value for each in shape[1:]] == [1, 28, 28]


def test_the_file_names_no_folder_of_this_machine(exported):
    assert b"neural_lib/" not in exported[1] and b"site-packages" not in exported[1] and b".py" not in exported[1]


def test_the_metadata_are_enough_to_use_the_file(exported):
    recogniser, content = exported
    metadata = {
        each.key: json.loads(each.value)
        for each in onnx.load_from_string(content).metadata_props
        if each.value[0] == "["
    }
    pixels = export.noise(recogniser.saved, 3)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    network.setInput(((pixels.numpy() / 255 - metadata["mean"][0]) / metadata["std"][0]).astype(np.float32))
    assert np.allclose(network.forward(), recogniser.probabilities(pixels).numpy(), atol=1e-5)


def test_another_network_is_noticed(exported):
    _, content = exported
    other = recogniser_of("lenet", "kmnist")
    with pytest.raises(RunError, match=r"^in OpenCV \d+ of 300 predictions differ, and .*; nothing written$"):
        export.verify(content, other, export.noise(other.saved, 300))


def test_a_network_that_gives_no_numbers_is_noticed(exported):
    recogniser = recogniser_of("lenet-slim", "kmnist")
    with torch.no_grad():
        next(recogniser.model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="differ by up to nan; nothing written$"):
        export.verify(exported[1], recogniser, export.noise(recogniser.saved, 20))


def test_probabilities_may_differ_by_the_tolerance(exported, monkeypatch):
    recogniser, content = exported
    images, probabilities = export.noise(recogniser.saved, 20), recogniser.probabilities
    monkeypatch.setattr(recogniser, "probabilities", lambda images: probabilities(images) + 0.9 * export.TOLERANCE)
    assert export.verify(content, recogniser, images) == pytest.approx(0.9 * export.TOLERANCE, abs=1e-5)
    monkeypatch.setattr(recogniser, "probabilities", lambda images: probabilities(images) + 2 * export.TOLERANCE)
    with pytest.raises(RunError, match="0 of 20 predictions differ, and probabilities differ by up to 0.0002"):
        export.verify(content, recogniser, images)


def test_a_file_that_opencv_cannot_run_is_refused(exported):
    with pytest.raises(RunError, match="^OpenCV can't run the exported network"):
        export.verify(exported[1][:500], exported[0], export.noise(exported[0].saved, 2))


# --- export_network ---


@pytest.fixture
def export_to(exported, tmp_path, monkeypatch):
    """Export a network to a file whose content is that of `exported`, and return the file's path."""
    monkeypatch.setattr(export, "to_onnx", lambda recogniser: exported[1])

    def export_to(recogniser: Recogniser, images: torch.Tensor | None = None) -> Path:
        export.export_network(recogniser, tmp_path / "model.onnx", images)
        return tmp_path / "model.onnx"

    return export_to


def test_the_file_is_written_once_it_was_compared_on_the_images(exported, export_to, caplog):
    caplog.set_level(logging.INFO)
    recogniser, content = exported
    assert export_to(recogniser, export.noise(recogniser.saved, 20)).read_bytes() == content
    assert "the same labels in OpenCV's dnn for 20 test images of KMNIST" in caplog.text


def test_without_test_images_it_is_compared_on_noise(exported, export_to, caplog):
    caplog.set_level(logging.INFO)
    assert export_to(exported[0]).exists() and "for 1,000 images of noise (no KMNIST here)" in caplog.text


def test_a_file_that_differs_is_not_written(export_to, tmp_path):
    with pytest.raises(RunError, match="nothing written$"):
        export_to(recogniser_of("lenet", "kmnist"))
    assert list(tmp_path.iterdir()) == []
