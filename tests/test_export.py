"""ONNX files, written by torch's exporter and run by OpenCV."""

import json

import cv2
import numpy as np
import pytest
import torch

from neural_lib import checkpoint, datasets, export
from neural_lib.config import TrainConfig
from neural_lib.errors import RunError, UserError
from neural_lib.export import Comparison
from neural_lib.models import ARCHS, build_model
from neural_lib.recogniser import Recogniser

onnx = pytest.importorskip("onnx", reason="onnx, which --export needs, is not installed")


def recogniser_of(arch: str, dataset: str = "digits") -> Recogniser:
    info = datasets.DATASETS[dataset]
    arguments = {"numChannels": info.channels, "classes": 10, "image_size": info.image_size}
    torch.manual_seed(0)
    model = build_model(arch, **arguments)
    described = checkpoint.for_run(TrainConfig(dataset=dataset, arch=arch), info, arguments)
    return Recogniser(
        checkpoint.Checkpoint(**{**vars(described), "state_dict": model.state_dict()}), torch.device("cpu")
    )


@pytest.fixture(scope="module")
def exported() -> tuple[Recogniser, bytes]:
    recogniser = recogniser_of("lenet-slim", "kmnist")
    return recogniser, export.to_onnx(recogniser)


@pytest.mark.parametrize(
    "arch", [*(pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHS if arch != "lenet"), "lenet"]
)
@pytest.mark.parametrize("dataset", ["digits", pytest.param("cifar10", marks=pytest.mark.slow)])
def test_every_network_gives_the_same_in_opencv(arch, dataset):
    recogniser = recogniser_of(arch, dataset)
    content = export.to_onnx(recogniser)
    comparison = export.compare(content, recogniser, export.noise(recogniser.saved, 260))
    assert comparison.images == 260 and comparison.other_labels == 0 and comparison.greatest < 1e-5
    export.check(comparison)


def test_any_number_of_images_goes_through(exported):
    recogniser, content = exported
    network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    for count in (1, 2, 7):
        network.setInput(np.zeros((count, 1, 28, 28), np.float32))
        assert network.forward().shape == (count, 10)


def test_the_file_is_valid_and_tells_what_it_takes_and_gives(exported):
    recogniser, content = exported
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    told = {each.key: each.value for each in model.metadata_props}
    assert json.loads(told["classes"]) == recogniser.saved.classes and json.loads(told["glyphs"])[2] == "す"
    assert (json.loads(told["mean"]), json.loads(told["std"])) == ([0.1918], [0.3483])
    assert (told["image_size"], told["arch"], told["dataset"]) == ("28", "lenet-slim", "kmnist")
    (images,), (probabilities,) = model.graph.input, model.graph.output
    assert (images.name, probabilities.name) == (export.INPUT, export.OUTPUT)
    shape = images.type.tensor_type.shape.dim
    assert shape[0].dim_param and [each.dim_value for each in shape[1:]] == [1, 28, 28]


def test_the_file_names_no_folder_of_this_machine(exported):
    assert b"neural_lib/" not in exported[1] and b"site-packages" not in exported[1] and b".py" not in exported[1]


def test_what_the_metadata_say_is_enough_to_use_it(exported):
    recogniser, content = exported
    told = {
        each.key: json.loads(each.value)
        for each in onnx.load_from_string(content).metadata_props
        if each.value[0] == "["
    }
    pixels = export.noise(recogniser.saved, 3)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
    network.setInput(((pixels.numpy() / 255 - told["mean"][0]) / told["std"][0]).astype(np.float32))
    assert np.allclose(network.forward(), recogniser.probabilities(pixels).numpy(), atol=1e-5)


def test_another_network_is_noticed(exported):
    _, content = exported
    other = recogniser_of("lenet", "kmnist")
    with pytest.raises(RunError, match=r"^--export: in OpenCV \d+ of 300 labels are others.*nothing written$"):
        export.check(export.compare(content, other, export.noise(other.saved, 300)))


def test_a_network_that_gives_no_numbers_is_noticed(exported):
    recogniser = recogniser_of("lenet-slim", "kmnist")
    with torch.no_grad():
        next(recogniser.model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="differ by up to nan; nothing written$"):
        export.check(export.compare(exported[1], recogniser, export.noise(recogniser.saved, 20)))


@pytest.mark.parametrize("comparison, passes", [
    (Comparison(10, 0, 1e-5), True), (Comparison(10, 1, 1e-5), False), (Comparison(10, 0, 1e-3), False),
    (Comparison(10, 0, float("nan")), False),
])  # fmt: skip
def test_what_passes(comparison, passes):
    if passes:
        export.check(comparison)
    else:
        with pytest.raises(RunError):
            export.check(comparison)


def test_a_file_that_opencv_cannot_run_is_told(exported):
    with pytest.raises(RunError, match="^--export: OpenCV can't run what was exported"):
        export.compare(exported[1][:500], exported[0], export.noise(exported[0].saved, 2))


def test_a_package_that_is_missing_is_told(monkeypatch):
    export.check_packages()
    monkeypatch.setattr(export, "NEEDS", ("onnx", "onnxfoo", "onnxbar"))
    with pytest.raises(UserError, match="^--export needs onnxfoo and onnxbar: pip install onnxfoo onnxbar$"):
        export.check_packages()
