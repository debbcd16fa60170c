"""A trained network as an ONNX file, for other programs and languages; compared with the original in OpenCV's dnn.

torch's exporter needs the packages onnx and onnxscript, which nothing else here does.
"""

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from neural_lib.checkpoint import Checkpoint
from neural_lib.data.images import EVAL_BATCH_SIZE
from neural_lib.prediction.recogniser import Recogniser
from neural_lib.system.errors import RunError, UserError
from neural_lib.system.files import write_file

NEEDS = ("onnx", "onnxscript")
INPUT, OUTPUT = "images", "probabilities"
CLOSE = 1e-4  # what a probability may differ by

log = logging.getLogger(__name__)


class Comparison(NamedTuple):
    """How an exported network differs from the original."""

    images: int
    other_labels: int
    greatest: float  # difference of a probability


def check_packages() -> None:
    """Raise UserError if a package is missing that --export needs."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise UserError(f"--export needs {' and '.join(missing)}: pip install {' '.join(missing)}")


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
        "arch": saved.arch,
        "dataset": saved.dataset,
        "metrics": json.dumps(saved.metrics),
    }


def to_onnx(recogniser: Recogniser) -> bytes:
    """The network as the content of an ONNX file: normalised images in any number -> probabilities, with metadata()."""

    class Probabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = recogniser.model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images).exp()

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


def noise(saved: Checkpoint, count: int = 1000) -> Tensor:
    """So many images of noise, uint8 (count, C, S, S), always the same ones: something to compare networks on."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, len(saved.mean), saved.image_size, saved.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def compare(
    content: bytes, recogniser: Recogniser, images: Tensor, done: Callable[[int], object] = lambda count: None
) -> Comparison:
    """Give both networks the same images, (N, C, H, W), uint8; the exported one as OpenCV's dnn module runs it.

    done: called with the number of images of each batch that has been compared. Raises RunError if OpenCV can't
    run the file.
    """
    other_labels, greatest = 0, torch.tensor(0.0)
    try:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        for batch in images.split(EVAL_BATCH_SIZE):
            network.setInput(recogniser.inputs(batch).contiguous().cpu().numpy())
            theirs, ours = torch.from_numpy(network.forward()), recogniser.probabilities(batch)
            other_labels += int((theirs.argmax(1) != ours.argmax(1)).sum())
            greatest = torch.maximum(greatest, (theirs - ours).abs().max())  # NaN where there is one
            done(len(batch))
    except cv2.error as error:
        raise RunError(
            f"--export: OpenCV can't run what was exported ({error.err or error}); nothing written"
        ) from None
    return Comparison(len(images), other_labels, float(greatest))


def check(comparison: Comparison) -> None:
    """Raise RunError if the exported network isn't the original."""
    if comparison.other_labels or not comparison.greatest <= CLOSE:  # which NaN isn't either
        raise RunError(
            f"--export: in OpenCV {comparison.other_labels:,} of {comparison.images:,} labels are others, and "
            f"probabilities differ by up to {comparison.greatest:.1g}; nothing written"
        )


def export_network(recogniser: Recogniser, path: Path, images: Tensor | None = None) -> None:
    """Write the network to `path` as ONNX, once OpenCV gives the same for it.

    images: test images of its data set, uint8 (N, C, S, S); noise where not given. Raises RunError if OpenCV can't
    run what was exported, or gives something else; then nothing is written.
    """
    check_packages()
    which = f"test images of {recogniser.info.title}"
    if images is None:
        images, which = (
            noise(recogniser.saved),
            f"images of noise (no {recogniser.info.title} here)",
        )
    content = to_onnx(recogniser)
    with tqdm(total=len(images), unit=" images", leave=False, disable=None, dynamic_ncols=True) as bar:
        comparison = compare(content, recogniser, images, bar.update)
    check(comparison)
    figures = (comparison.images, which, comparison.greatest)
    log.info("the same labels in OpenCV's dnn for %d %s; probabilities differ by at most %.0e", *figures)
    write_file(path, lambda: content)
    log.info("wrote %s: %s -> %s; its metadata tell the normalisation", path, INPUT, OUTPUT)
