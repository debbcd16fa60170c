"""A trained network as an ONNX file, for other programs and languages; compared with the original in OpenCV's dnn.

Only torch's exporter needs the packages onnx and onnxscript.
"""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from neural_lib.checkpoint import Checkpoint
from neural_lib.data.catalog import title_of
from neural_lib.data.images import eval_batch_size
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system.errors import RunError
from neural_lib.system.files import write_file

INPUT, OUTPUT = "images", "probabilities"
TOLERANCE = 1e-4  # the largest difference of a probability, 0 to 1
CHECKED = 1000  # images that the answers are compared on

log = logging.getLogger(__name__)


def metadata(saved: Checkpoint) -> dict[str, str]:
    """The metadata of the ONNX file; lists are JSON."""
    return {
        "classes": json.dumps(saved.classes),
        **({"glyphs": json.dumps(saved.glyphs, ensure_ascii=False)} if saved.glyphs else {}),
        "mean": json.dumps(saved.mean),
        "std": json.dumps(saved.std),
        "image_size": str(saved.image_size),
        "input": "float32 (N, C, H, W): (pixel / 255 - mean) / std, with mean and std of each channel",
        "output": "probability of each class, float32 (N, classes)",
        "temperature": str(saved.calibration.get("temperature", 1.0)),
        "arch": saved.arch,
        "dataset": saved.dataset,
        "metrics": json.dumps(saved.metrics),
    }


def to_onnx(recogniser: Recogniser) -> bytes:
    """The network as the content of an ONNX file, with metadata().

    It maps normalised images (N, C, S, S) to probabilities (N, classes), calibrated as predict.py's are. Whether an
    image is unlike the training images is not part of the file.
    """

    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = recogniser.model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return recogniser.calibration.probabilities(self.network(images))

    saved = recogniser.saved
    images = torch.zeros(2, len(saved.mean), saved.image_size, saved.image_size)  # a batch of 1 would become a constant
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision's operators; no network has one
    program = torch.onnx.export(
        Probabilities().eval(), (images,), input_names=[INPUT], output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("N")},), dynamo=True, verbose=False,
    )  # fmt: skip
    for node in program.model.graph:
        node.metadata_props.clear()  # they name folders of this machine
    program.model.metadata_props.update(metadata(saved))
    return program.model_proto.SerializeToString()


def noise(saved: Checkpoint, count: int) -> Tensor:
    """Images of noise, uint8 (count, C, S, S), the same at each call: inputs to compare networks on."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, len(saved.mean), saved.image_size, saved.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def images_to_check(saved: Checkpoint, images: Tensor | None, max_images: int) -> tuple[Tensor, str]:
    """At most max_images of the test images (N, C, S, S), evenly spaced, or of noise; and their name for the log."""
    title = title_of(saved.dataset)
    if images is None:
        return noise(saved, max_images), f"images of noise (no {title} here)"
    count = min(len(images), max_images)
    return images[torch.arange(count) * len(images) // count], f"test images of {title}"


class DifferenceError(RunError):
    """The answers of an exported network differ from the original's."""


def check_same(runner: str, original: Tensor, exported: Tensor, tolerance: float) -> float:
    """The greatest difference between the probabilities (N, classes) of the original and the exported network.

    runner: the name of the program that ran the exported network. Raises DifferenceError if a probability differs by
    more than the tolerance, or a label differs.
    """
    greatest = (exported - original).abs().max()  # NaN if a probability is
    wrong = int((exported.argmax(dim=1) != original.argmax(dim=1)).sum())
    if wrong or not greatest <= tolerance:  # "not": true of NaN, too
        raise DifferenceError(
            f"in {runner} {wrong:,} of {len(original):,} predictions differ, and probabilities differ by up to "
            f"{greatest:.1g}; nothing written"
        )
    return float(greatest)


def verify(content: bytes, recogniser: Recogniser, images: Tensor) -> float:
    """Check that OpenCV's dnn module gives the original's answers for an ONNX file.

    content: of the file. images: (N, C, S, S), uint8. Returns and raises what check_same does; raises RunError if
    OpenCV can't run the file.
    """
    original, exported = [], []
    try:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        for batch in images.split(eval_batch_size(recogniser.saved.image_size, recogniser.device)):
            network.setInput(recogniser.normalise(batch.to(recogniser.device)).contiguous().cpu().numpy())
            exported.append(torch.from_numpy(network.forward().copy()))
            original.append(recogniser.probabilities(batch))
    except cv2.error as error:
        raise RunError(f"OpenCV can't run the exported network ({error.err or error}); nothing written") from None
    return check_same("OpenCV", torch.cat(original), torch.cat(exported), TOLERANCE)


def export_network(recogniser: Recogniser, path: Path, images: Tensor | None = None) -> None:
    """Write the network to `path` as ONNX, once OpenCV has given the same answers.

    images: test images of its data set, uint8 (N, C, S, S); default: noise. Raises RunError as verify does.
    """
    images, which = images_to_check(recogniser.saved, images, CHECKED)
    content = to_onnx(recogniser)
    figures = (f"{len(images):,}", which, verify(content, recogniser, images))
    log.info("the same labels in OpenCV's dnn for %s %s; probabilities differ by at most %.0e", *figures)
    write_file(path, lambda: content)
    log.info("wrote %s: %s -> %s; mean and std are in its metadata", path, INPUT, OUTPUT)
