"""Copies that find_copies finds: altered training images put among the test images, and real data sets as they are.

    python tests/bench_copies.py --model output/photos/model.pth --data data

The model decides the data set, which is user images with the parts train and val, or one of the catalogue. Of at most
300 training images (--count), altered in one way at a time, it counts those that are found, with the right original;
then the pairs of the real parts. --sheet FILE draws these beside each other.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import torch
from torch import Tensor

from neural_lib import checkpoint
from neural_lib.data import custom
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import ImageTensors, Normalisation, load_images
from neural_lib.evaluation.copies import Copy, find_copies
from neural_lib.evaluation.data_check import features_and_answers

SHOWN = 48  # pairs on the sheet


def saved_as_jpeg(image: np.ndarray, quality: int = 60) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_UNCHANGED)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if size < len(image) else cv2.INTER_CUBIC)


def cropped(image: np.ndarray, share: float) -> np.ndarray:
    """Without that share of the rows below and of the columns on the left."""
    cut = round(share * len(image))
    return resized(image[: len(image) - cut, cut:], len(image))


ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # images (S, S) or (S, S, 3)
    "the same": lambda image: image,
    "JPEG, quality 85": lambda image: saved_as_jpeg(image, 85),
    "JPEG, quality 60": saved_as_jpeg,
    "half the size": lambda image: resized(resized(image, len(image) // 2), len(image)),
    "lighter: 1.15 x + 12": lambda image: np.clip(1.15 * image + 12, 0, 255).astype(np.uint8),
    "darker: 0.8 x - 5": lambda image: np.clip(0.8 * image.astype(float) - 5, 0, 255).astype(np.uint8),
    "cropped by 5 %": lambda image: cropped(image, 0.05),
    "cropped by 10 %": lambda image: cropped(image, 0.1),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "mirrored, cropped by 5 %, JPEG": lambda image: saved_as_jpeg(cropped(np.ascontiguousarray(image[:, ::-1]), 0.05)),
}


def altered(image: Tensor, change: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    changed = change(np.ascontiguousarray(image.permute(1, 2, 0).numpy().squeeze()))
    return torch.from_numpy(changed.reshape(*changed.shape[:2], -1).transpose(2, 0, 1).copy())


def compared(saved: checkpoint.Checkpoint, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and answers, as the report has them."""
    dataset = ImageTensors(images, torch.zeros(len(images)))
    return features_and_answers(saved.build_model(), Normalisation(saved.mean, saved.std), dataset)


def images_of(saved: checkpoint.Checkpoint, data_dir: str) -> tuple[Tensor, Tensor]:
    if saved.dataset in DATASETS:
        return tuple(load_images(saved.dataset, data_dir, train=part).images for part in (True, False))
    collection = custom.load(saved.dataset, saved.preparation)
    return tuple(torch.from_numpy(collection.images[collection.indices[part]]) for part in ("train", "val"))


def sheet(copies: list[Copy], parts: dict[str, tuple[Tensor, Tensor]]) -> np.ndarray:
    """The images of pairs beside each other, six pairs in a row."""
    tiles = []
    for copy in copies[:SHOWN]:
        pair = (parts[copy.part][1][copy.index], parts[copy.other_part][1][copy.other_index])
        pixels = [np.ascontiguousarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy()[..., ::-1]) for image in pair]
        pixels = [cv2.resize(each, (112, 112), interpolation=cv2.INTER_NEAREST) for each in pixels]
        tiles.append(np.pad(np.concatenate(pixels, axis=1), ((4, 4), (4, 4), (0, 0)), constant_values=200))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 6)
    return np.concatenate([np.concatenate(tiles[first : first + 6], axis=1) for first in range(0, len(tiles), 6)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/model.pth")
    parser.add_argument("--data", default="data")
    parser.add_argument("--count", type=int, default=300, help="training images that are altered (300)")
    parser.add_argument("--sheet", help="picture to draw of the pairs of the real parts")
    args = parser.parse_args()
    saved = checkpoint.load(args.model)
    train, test = images_of(saved, args.data)
    (train_features, train_answers), (test_features, test_answers) = (compared(saved, each) for each in (train, test))

    count = min(args.count, len(train))
    chosen = (torch.arange(count) * len(train) // count).tolist()
    for name, change in ALTERED.items():
        images = torch.stack([altered(train[index], change) for index in chosen])
        features, answers = compared(saved, images)
        parts = {"training": (train_features, train), "test": (features, images)}
        copies = find_copies(parts, {"training": train_answers, "test": answers})
        right = sum(copy.index == chosen[copy.other_index] for copy in copies)
        print(f"{name:32}{right:5} of {count} found ({right / count:.0%}), {len(copies) - right} with another image")

    parts = {"training": (train_features, train), "test": (test_features, test)}
    start, cpu = time.perf_counter(), time.process_time()
    copies = find_copies(parts, {"training": train_answers, "test": test_answers})
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    sizes = f"{len(train):,} and {len(test):,} images, {train_features.shape[1]:,} features"
    equal = sum(copy.is_equal for copy in copies)
    print(
        f"{saved.dataset}: {len(copies)} pairs, {equal} of equal pixels; {sizes}, {seconds:.1f} s ({cpu:.1f} s of CPU)"
    )
    if args.sheet and copies:
        cv2.imwrite(args.sheet, sheet(copies, parts))


if __name__ == "__main__":
    main()
