"""The data set that a command is about, or the embedded digits where nobody asked for one and it can't be had."""

import logging
import os
import textwrap
from pathlib import Path
from typing import NamedTuple

from neural_lib import checkpoint, datasets
from neural_lib.datasets import FALLBACK
from neural_lib.distributed import broadcast, is_main
from neural_lib.downloads import DownloadError
from neural_lib.errors import RunError, UserError

log = logging.getLogger(__name__)


class Data(NamedTuple):
    """The images of a data set, and a warning where it is another one than was meant."""

    dataset: str  # a name in datasets.DATASETS
    train: datasets.Images
    test: datasets.Images
    warning: str = ""


def load_data(dataset: str, data_dir: str | Path, is_fixed: bool, model_path: str | Path) -> Data:
    """Load `dataset`, or the digits where it can't be had, is not fixed and nothing else is lost by that.

    is_fixed: asked for, or recorded by runs that are gone on with. model_path: a network there that was trained on
    something else is not replaced. Rank 0 loads, and downloads, first; the others then read what it has read. Raises
    downloads.DownloadError and errors.RunError.
    """
    data = _load(dataset, data_dir, is_fixed, model_path) if is_main() else None
    loaded = broadcast(data.dataset if data else None)
    return data or Data(loaded, *_both_parts(loaded, data_dir))


def _load(dataset: str, data_dir: str | Path, is_fixed: bool, model_path: str | Path) -> Data:
    info = datasets.DATASETS[dataset]
    log.info("loading the %s dataset...", info.title)
    try:
        return Data(dataset, *_both_parts(dataset, data_dir))
    except DownloadError as error:
        failure = f"{info.title} could not be had: {error}"
    if is_fixed:
        raise DownloadError(f"{failure}; or train on the embedded digits with --dataset {FALLBACK}")
    if _holds_something_else(model_path):
        raise RunError(
            f"{failure}; and {model_path} holds something else than a network trained on {FALLBACK}: "
            f"to use these instead, give --dataset {FALLBACK} or another --model"
        )
    warning = f"this run uses {FALLBACK}, NOT {dataset}, which could not be had"
    ruler = "=" * 78
    folded = textwrap.fill(failure, 78, break_on_hyphens=False, break_long_words=False)  # file names stay whole
    log.warning("\n%s\n%s\n\n%s\n%s", ruler, warning.upper(), folded, ruler)
    return Data(FALLBACK, *_both_parts(FALLBACK, data_dir), warning)


def _both_parts(dataset: str, data_dir: str | Path) -> list[datasets.Images]:
    return [datasets.load_images(dataset, data_dir, train) for train in (True, False)]


def _holds_something_else(path: str | Path) -> bool:
    try:
        return os.path.exists(path) and checkpoint.load(path).dataset != FALLBACK
    except UserError:
        return True
