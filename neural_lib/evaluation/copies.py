"""Near-identical pictures in two parts of a data set: copies of training images make test scores too high.

A network's features find a candidate for each image, and the pixels decide: features of one class are all similar.
tests/README.md has what is found of altered copies and in real data sets.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neural_lib.config import MAX_SMALL_SIZE
from neural_lib.data.images import ImagesOnCPU, pixels_of
from neural_lib.data.ink import to_grey

MAX_SAMPLE, MAX_DIRECTIONS = 1000, 128  # feature vectors that principal components are computed of, and components
MIN_VARIANCE = 1e-6  # of a component, as share of the first one's
MAX_SIMILARITIES = 1 << 24  # computed together: 64 MB

# Correlations of fine detail above which two images are copies. Different small images, such as two digits of 8x8
# pixels or two pairs of trousers, are often nearly equal; different photos never are, even if aligned.
MIN_SMALL, MIN_PHOTO = 0.98, 0.5
FINE = 1.5  # pixels: standard deviation of the Gaussian blur that detail remains of
MIN_CONTRAST = 0.25  # grey levels: standard deviation of the detail of an image that isn't blank
ROUGH_SIZE, MIN_ROUGH = 8, 0.5  # photos are aligned if, reduced to so many pixels, they correlate at least so much
MIN_OVERLAP = 0.5  # share of a photo that the other one covers once they are aligned
ALIGN_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)  # iterations, change of the correlation


class Copy(NamedTuple):
    """A pair of near-identical images in two parts of a data set."""

    part: str  # the earlier part
    index: int  # of the image in that part
    other_part: str  # the later part
    other_index: int
    is_equal: bool  # True if all pixels are equal


def find_copies(
    parts: Mapping[str, tuple[Tensor, Tensor | ImagesOnCPU]], answers: Mapping[str, Tensor] | None = None
) -> list[Copy]:
    """The images of later parts that are near-identical to one of an earlier part, each with the most similar one.

    parts: in the order training, validation, test; of each the features (N, F) of its images, which are the inputs of
    a network's last layer, and the images, uint8 (N, C, H, W), of which single ones are read. answers: the network's
    (N,) for each part; images with different answers aren't compared, which saves most of the time. Found are copies
    that were saved again, reduced or changed in brightness; of photos (above MAX_SMALL_SIZE pixels) also mirrored or
    cropped ones. Blank images and those whose features aren't finite are no copies. In the order of the later part.
    """
    copies = []
    for part, index, other_part, other_index in _candidates({part: each[0] for part, each in parts.items()}, answers):
        image, other = parts[part][1][index], parts[other_part][1][other_index]
        if _is_copy(image, other):
            copies.append(Copy(part, index, other_part, other_index, torch.equal(image, other)))
    return copies


# --- candidates, by features ---


def _candidates(
    features: Mapping[str, Tensor], answers: Mapping[str, Tensor] | None
) -> Iterator[tuple[str, int, str, int]]:
    # For each image of a later part, the image of an earlier part with the most similar features among those with the
    # same answer.
    finite = {part: each.isfinite().all(dim=1).nonzero().flatten() for part, each in features.items()}
    rows = [(part, index) for part, indices in finite.items() for index in indices.tolist()]
    sizes = [len(indices) for indices in finite.values()]
    if not rows:
        return
    vectors = _comparable([each[finite[part]].float().cpu() for part, each in features.items()])
    group_of = torch.cat([answers[part][finite[part]] for part in features]) if answers else torch.zeros(len(rows))
    first = 0  # row of the later part's first image
    for size in sizes:
        pairs = []
        for group in group_of[first : first + size].unique():
            earlier = (group_of[:first] == group).nonzero().flatten()
            later = first + (group_of[first : first + size] == group).nonzero().flatten()
            nearest = _nearest(vectors[earlier], vectors[later])
            pairs += zip(later.tolist(), earlier[nearest].tolist(), strict=False)  # none if there is no earlier one
        for row, index in sorted(pairs):
            yield *rows[index], *rows[row]
        first += size


def _comparable(features: Sequence[Tensor]) -> Tensor:
    # Features of all parts (N, F), a tensor for each part -> unit vectors (N, k), k <= MAX_DIRECTIONS, whose products
    # are similarities. They are principal components divided by the square root of their standard deviation: the first
    # ones, which tell classes apart, else outweigh those that tell images of a class apart.
    counts = [(len(each), min(len(each), MAX_SAMPLE)) for each in features]
    spread = [torch.arange(count) * size // max(count, 1) for size, count in counts]
    sample = torch.cat([each[indices] for each, indices in zip(features, spread, strict=True)])
    mean = sample.mean(dim=0)
    _, deviations, directions = torch.linalg.svd(sample - mean, full_matrices=False)
    variances = deviations[:MAX_DIRECTIONS].square()
    is_kept = variances > MIN_VARIANCE * variances[0]
    directions = directions[:MAX_DIRECTIONS][is_kept] / variances[is_kept, None] ** 0.25
    return torch.cat([functional.normalize((each - mean) @ directions.T) for each in features])


def _nearest(earlier: Tensor, later: Tensor) -> list[int]:
    # For each row of `later` the index of the most similar row of `earlier`; empty if one of them has no rows.
    if not len(earlier):
        return []
    chunks = later.split(max(1, MAX_SIMILARITIES // len(earlier)))
    return torch.cat([(chunk @ earlier.T).argmax(dim=1) for chunk in chunks]).tolist()


# --- verified, by pixels ---


def _is_copy(image: Tensor, other: Tensor) -> bool:
    # Images uint8 (C, H, W).
    grey, other_grey = _grey(image), _grey(other)
    if image.shape[-1] <= MAX_SMALL_SIZE:
        return _detail_correlation(grey, other_grey) >= MIN_SMALL
    for turned in (other_grey, other_grey[:, ::-1].copy()):
        if _detail_correlation(grey, turned) >= MIN_PHOTO:
            return True
        if _correlation(*(_reduced(each, ROUGH_SIZE) for each in (grey, turned))) >= MIN_ROUGH:
            aligned, is_covered = _aligned(turned, grey)
            if is_covered.mean() >= MIN_OVERLAP and _detail_correlation(grey, aligned, is_covered) >= MIN_PHOTO:
                return True
    return False


def _grey(image: Tensor) -> np.ndarray:
    # uint8 (C, H, W) -> float32 (H, W); photos are reduced to MAX_SMALL_SIZE pixels.
    pixels = pixels_of(image)
    grey = to_grey(np.ascontiguousarray(pixels)) if pixels.ndim == 3 else pixels
    return _reduced(grey.astype(np.float32), min(len(grey), MAX_SMALL_SIZE))


def _reduced(grey: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA)


def _detail_correlation(grey: np.ndarray, other: np.ndarray, is_covered: np.ndarray | None = None) -> float:
    # The correlation, -1 to 1, of what a blur takes away; 0 if one of the images is blank. is_covered: the pixels
    # (H, W) that count; default: all.
    details = [each - cv2.GaussianBlur(each, (0, 0), FINE) for each in (grey, other)]
    return _correlation(*(each if is_covered is None else each[is_covered] for each in details))


def _correlation(values: np.ndarray, others: np.ndarray) -> float:
    # Pearson's; 0 if values hardly vary.
    values, others = values - values.mean(), others - others.mean()
    deviations = values.std(), others.std()
    return 0.0 if min(deviations) < MIN_CONTRAST else float((values * others).mean() / math.prod(deviations))


def _aligned(grey: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A photo moved, scaled and turned so that it correlates best with another one, and the pixels that it covers.
    # Evangelidis and Psarakis 2008, Parametric image alignment using enhanced correlation coefficient maximization;
    # first of halved photos, so that an offset of several pixels is found.
    size, warp = len(grey), np.eye(2, 3, dtype=np.float32)
    try:
        for scale, blur in ((2, 5), (1, 3)):
            images = [_reduced(each, size // scale) for each in (target, grey)]
            warp[:, 2] /= scale
            _, warp = cv2.findTransformECC(*images, warp, cv2.MOTION_AFFINE, ALIGN_STEPS, None, blur)
            warp[:, 2] *= scale
    except cv2.error:  # it finds no way to a higher correlation
        return grey, np.zeros(grey.shape, bool)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved, covered = (cv2.warpAffine(each, warp, (size, size), flags=how) for each in (grey, np.ones_like(grey)))
    return moved, covered > 0.99
