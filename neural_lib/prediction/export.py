"""A trained network as an ONNX file, for other programs and languages; compared with the original in OpenCV's dnn.

torch's exporter needs the packages onnx and onnxscript, which nothing else here does.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from neural_lib.checkpoint import Checkpoint
from neural_lib.data.catalog import title_of
from neural_lib.data.images import EVAL_BATCH_SIZE
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system.errors import RunError
from neural_lib.system.files import write_file

INPUT, OUTPUT = "images", "probabilities"
TOLERANCE = 1e-4  # what a probability may differ by
NOISE = 1000  # images that networks are compared on where there are no test images

log = logging.getLogger(__name__)


def metadata(saved: Checkpoint) -> dict[str, str]:
    """The file's metadata; lists are JSON."""
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
    """The network as the content of an ONNX file: normalised images in any number -> probabilities, with metadata().

    They are calibrated, as predict.py's are; which images are unlike those of training is not part of it.
    """

    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = recogniser.model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return recogniser.calibration.probabilities(self.network(images))

    saved = recogniser.saved
    images = torch.zeros(2, len(saved.mean), saved.image_size, saved.image_size)  # 1 would be taken for a constant
    exporters = logging.getLogger("torch.onnx")
    before = exporters.level
    exporters.setLevel(logging.ERROR)  # it warns of torchvision's operators, which no network here has
    try:
        program = torch.onnx.export(
            Probabilities().eval(),
            (images,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    finally:
        exporters.setLevel(before)
    for node in program.model.graph:
        node.metadata_props.clear()  # which name this machine's folders, line by line
    program.model.metadata_props.update(metadata(saved))
    return program.model_proto.SerializeToString()


def noise(saved: Checkpoint, count: int) -> Tensor:
    """So many images of noise, uint8 (count, C, S, S), always the same ones: something to compare networks on."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, len(saved.mean), saved.image_size, saved.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def images_to_check(saved: Checkpoint, images: Tensor | None, most: int) -> tuple[Tensor, str]:
    """At most so many of the test images (N, C, S, S), spread evenly over them, or of noise; and what they are."""
    title = title_of(saved.dataset)
    if images is None:
        return noise(saved, most), f"images of noise (no {title} here)"
    count = min(len(images), most)
    return images[torch.arange(count) * len(images) // count], f"test images of {title}"


class DifferenceError(RunError):
    """An exported network gives something else than the original."""


def check_same(runner: str, ours: Tensor, theirs: Tensor, tolerance: float) -> float:
    """The greatest difference between two networks' probabilities (N, classes); runner: what gave theirs.

    Raises DifferenceError if one differs by more than the tolerance, or a label does.
    """
    greatest = (theirs - ours).abs().max()  # NaN where there is one
    wrong = int((theirs.argmax(dim=1) != ours.argmax(dim=1)).sum())
    if wrong or not greatest <= tolerance:  # which NaN isn't either
        raise DifferenceError(
            f"in {runner} {wrong:,} of {len(ours):,} predictions differ, and probabilities differ by up to "
            f"{greatest:.1g}; nothing written"
        )
    return float(greatest)


def verify(
    content: bytes, recogniser: Recogniser, images: Tensor, on_batch: Callable[[int], object] = lambda count: None
) -> float:
    """Check that the exported network, as OpenCV's dnn module runs it, gives what the original gives.

    images: (N, C, S, S), uint8. on_batch: called with the number of images of each batch. Returns the greatest
    difference of a probability. Raises RunError if OpenCV can't run the file, a label differs or a probability differs
    by more than TOLERANCE.
    """
    ours, theirs = [], []
    try:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        for batch in images.split(EVAL_BATCH_SIZE):
            network.setInput(recogniser.inputs(batch).contiguous().cpu().numpy())
            theirs.append(torch.from_numpy(network.forward().copy()))
            ours.append(recogniser.probabilities(batch))
            on_batch(len(batch))
    except cv2.error as error:
        raise RunError(f"OpenCV can't run the exported network ({error.err or error}); nothing written") from None
    return check_same("OpenCV", torch.cat(ours), torch.cat(theirs), TOLERANCE)


def export_network(recogniser: Recogniser, path: Path, images: Tensor | None = None) -> None:
    """Write the network to `path` as ONNX, once OpenCV gives the same for it.

    images: test images of its data set, uint8 (N, C, S, S); noise where not given. Raises RunError if OpenCV can't
    run what was exported, or gives something else; then nothing is written.
    """
    images, which = images_to_check(recogniser.saved, images, NOISE if images is None else len(images))
    content = to_onnx(recogniser)
    with tqdm(total=len(images), unit=" images", leave=False, disable=None, dynamic_ncols=True) as bar:
        greatest = verify(content, recogniser, images, bar.update)
    figures = (f"{len(images):,}", which, greatest)
    log.info("the same labels in OpenCV's dnn for %s %s; probabilities differ by at most %.0e", *figures)
    write_file(path, lambda: content)
    log.info("wrote %s: %s -> %s; mean and std are in its metadata", path, INPUT, OUTPUT)
