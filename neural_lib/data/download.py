"""Download the official files of the catalogue's data sets, verify their checksums, and read them.

Sources are tried in order, each with a time limit. This module doesn't import torch.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import logging
import os
import pickle
import shutil
import socket
import sys
import tempfile
import textwrap
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from neural_lib.data.catalog import DATASETS, FALLBACK, DatasetInfo
from neural_lib.system.errors import RunError, UserError
from neural_lib.system.files import ABANDONED_AFTER, make_folder

log = logging.getLogger(__name__)
SCRATCH = ".download-"  # begins the name of the folder of a download under way, in the data folder
PIECE = 1 << 20  # bytes
TIMEOUT_S = 10.0  # seconds for a connection and for each read; torch.hub, torchvision and scikit-learn set no limit


PACKED = (".gz", ".zip", ".npz")  # files that are not packed once more


class DownloadError(RunError):
    """No source delivered the official files."""


def settle(dataset: str, data_dir: str | Path, may_fall_back: bool) -> tuple[str, str]:
    """Download the data set if it is missing; returns the one to train on, and a warning if that is another one.

    dataset: a name in DATASETS, or the path of user images, which is returned unchanged. may_fall_back: True if the
    embedded digits may replace a data set that can't be downloaded, which is logged as a banner; else DownloadError is
    raised. Raises UserError if an existing file is not the official one.
    """
    try:
        if dataset in DATASETS:
            ensure_dataset(dataset, data_dir)
        return dataset, ""
    except DownloadError as error:
        failure = f"{DATASETS[dataset].title} could not be loaded: {error}"
    if not may_fall_back:
        raise DownloadError(
            f"{failure}; or train on the embedded digits with --dataset {FALLBACK}, and with another --model if the "
            "network in this one is to stay"
        )
    ruler, warning = "=" * 78, f"this run uses {FALLBACK}, NOT {dataset}, which could not be loaded"
    folded = textwrap.fill(failure, 78, break_on_hyphens=False, break_long_words=False)  # file names aren't broken
    log.warning("\n%s\n%s\n\n%s\n%s", ruler, warning.upper(), folded, ruler)
    return FALLBACK, warning


def is_available(name: str, data_dir: str | Path) -> bool:
    """True if all files of a data set exist; name: in DATASETS, or the path of user images."""
    if name not in DATASETS:
        return os.path.exists(name)
    info = DATASETS[name]
    return all(_existing(Path(data_dir) / info.folder / file) for file in info.checksums)


def ensure_dataset(name: str, data_dir: str | Path) -> None:
    """Download the missing files of the data set `name` of the catalogue, and check the checksums of all its files.

    A file that is there as FILE.gz isn't missing: its unpacked content is checked and read. Raises DownloadError,
    naming each source and its failure, if no source delivers the files, and UserError for an existing file with
    another checksum, which is never replaced, since it may be the user's.
    """
    info = DATASETS[name]
    folder = Path(data_dir) / info.folder
    _remove_abandoned(Path(data_dir))
    missing = [file for file in info.checksums if not _existing(folder / file)]
    if wrong := [file for file in info.checksums if file not in missing and not is_official(folder, file, info)]:
        raise UserError(
            f"{', '.join(str(_existing(folder / file)) for file in wrong)}: damaged, or not the official file (its "
            f"{info.checksums[wrong[0]][0]} differs); delete it, and the next run downloads it again if it can"
        )
    if missing:
        _download(Path(data_dir), missing, info)


def _existing(path: Path) -> Path | None:
    # The file at this path, or else the gzipped one with the ending .gz, as many servers send it.
    paths = (path,) if path.suffix in PACKED else (path, path.with_name(f"{path.name}.gz"))
    return next((each for each in paths if each.exists()), None)


def _opened(path: Path) -> BinaryIO:
    # The file at this path, opened for reading; of the one with the ending .gz the unpacked content.
    return path.open("rb") if path.exists() else gzip.open(path.with_name(f"{path.name}.gz"))


def is_official(folder: Path, name: str, info: DatasetInfo) -> bool:
    """True if the file `name` of a data set, or the unpacked content of NAME.gz, has the official checksum."""
    algorithm, expected = info.checksums[name]
    digest = hashlib.new(algorithm, usedforsecurity=False)  # systems that forbid md5 allow it for other uses
    try:
        with _opened(folder / name) as handle:
            while piece := handle.read(PIECE):
                digest.update(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    return digest.hexdigest() == expected


def _remove_abandoned(data_dir: Path) -> None:
    # Remove the folders of downloads that were killed; as in files.remove_abandoned their age decides.
    for each in data_dir.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):  # it belongs to another user, or is gone already
            if time.time() - max(path.stat().st_mtime for path in (each, *each.rglob("*"))) > ABANDONED_AFTER:
                shutil.rmtree(each)


def _download(data_dir: Path, missing: list[str], info: DatasetInfo) -> None:
    folder, failures = data_dir / info.folder, []
    try:
        make_folder(data_dir)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=data_dir) as scratch:
            for host, source in info.sources.items():
                log.info("downloading from %s...", host)
                try:
                    fetched = _fetch_verified(source, Path(scratch) / host, info)
                except Exception as error:  # servers can send anything, and the libraries raise many kinds of errors
                    failures.append(f"{host}: {textwrap.shorten(str(error), 200) or type(error).__name__}")
                    continue
                if failures:
                    log.info("downloaded from %s, because others failed (%s)", host, "; ".join(failures))
                folder.mkdir(parents=True, exist_ok=True)
                for name in missing:
                    shutil.move(fetched / name, folder / name)  # a renaming, unless a link leads to another disk
                return
    except OSError as error:
        raise DownloadError(f"nothing can be put into {folder} ({error.strerror}); choose another --data") from None
    gzipped = "" if all(name.endswith(PACKED) for name in missing) else " (or the same with .gz)"
    raise DownloadError(
        f"no source delivered the files ({'; '.join(failures) or 'none is known'}); put {', '.join(missing)}{gzipped} "
        f"into {folder} by hand, or name the folder where the data sets are with --data"
    )


def _fetch_verified(source: tuple, folder: Path, info: DatasetInfo) -> Path:
    folder.mkdir()
    kind, *arguments = source
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(time_limit())
        if not sys.stderr.isatty():  # torchvision draws progress bars on stderr even if it is a log file
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        fetched = FETCHERS[kind](folder, *arguments)
    for name, (algorithm, _) in info.checksums.items():
        if not is_official(fetched, name, info):
            raise ValueError(f"what it sent as {name} is not the official file (its {algorithm} differs)")
    return fetched


# Each fetcher gets an empty folder and a source's arguments, puts files under the folder, and returns their folder.


def from_torchvision(folder: Path, class_name: str) -> Path:
    """Download through torchvision's data set class of this name, from its mirrors, with its check of the md5."""
    from torchvision import datasets

    return Path(getattr(datasets, class_name)(root=folder, download=True).raw_folder)


def from_archive(folder: Path, url: str, md5: str, subfolder: str) -> Path:
    """Download an archive and unpack it if its md5 is right; returns its `subfolder`.

    torchvision's class for CIFAR isn't used, because it would unpickle the files before their checksums are checked.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(url, folder, md5=md5)
    return folder / subfolder


def from_files(folder: Path, url: str, *names: str) -> Path:
    """Download the files url + name as they are; returns `folder`."""
    from torchvision.datasets.utils import download_url

    for name in names:
        download_url(url + name, folder)
    return folder


def from_openml(folder: Path, name: str, version: int, image_shape: tuple[int, ...], test_size: int) -> Path:
    """Download a table of OpenML, an image in each row, and write it as idx files; the last `test_size` rows are test.

    The order of the rows is assumed; the files' sha256 shows whether that is right. Returns `folder`. scikit-learn's
    parser "liac-arff" needs no pandas.
    """
    from sklearn.datasets import fetch_openml

    table = fetch_openml(name, version=version, data_home=folder, as_frame=False, parser="liac-arff", n_retries=1)
    images = table.data.astype(np.uint8).reshape(-1, *image_shape)  # (N, H * W) -> (N, H, W)
    labels = table.target.astype(np.uint8)
    for part, rows in (("train", slice(None, -test_size)), ("t10k", slice(-test_size, None))):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images[rows]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[rows]))
    return folder


FETCHERS = {"torchvision": from_torchvision, "archive": from_archive, "files": from_files, "openml": from_openml}


def idx_bytes(array) -> bytes:
    """Serialise a uint8 array to the idx format: 0, 0, 8 (uint8), the number of axes, their lengths, the values."""
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes((0, 0, 8, array.ndim)) + lengths + array.tobytes()


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """A block in which a connection, and each read from it, fails after TIMEOUT_S."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# --- read ---


# Each reader gets the files' folder and the data set's facts, and reads its training part or its test part.


def read_idx(folder: Path, info: DatasetInfo, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, 1, H, W) and labels (N,) in MNIST's format, idx (http://yann.lecun.com/exdb/mnist/)."""
    part = "train" if train else "t10k"
    images, labels = (_idx_array(_content(folder / f"{part}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1"))
    return images[:, None], labels  # (N, H, W) -> (N, 1, H, W)


def read_qmnist(folder: Path, info: DatasetInfo, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, 1, 28, 28) and labels (N,) of QMNIST (https://github.com/facebookresearch/qmnist)."""
    prefix = f"qmnist-{'train' if train else 'test'}"
    images, rows = (
        _idx_array(gzip.decompress(_content(folder / f"{prefix}-{kind}.gz")))
        for kind in ("images-idx3-ubyte", "labels-idx2-int")
    )
    return images[:, None], rows[:, 0]  # (N, H, W) -> (N, 1, H, W), (N, 8) -> (N,): the class, then the writer, ...


def read_emnist(
    split: str, first_label: int, folder: Path, info: DatasetInfo, train: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, 1, 28, 28) and labels (N,) of one of EMNIST's data sets, `split`, from gzip.zip.

    first_label: the file's label of the first class. The files hold each image transposed.
    """
    prefix = f"gzip/emnist-{split}-{'train' if train else 'test'}"
    with zipfile.ZipFile(folder / "gzip.zip") as archive:
        images, labels = (
            _idx_array(gzip.decompress(archive.read(f"{prefix}-{kind}-ubyte.gz")))
            for kind in ("images-idx3", "labels-idx1")
        )
    upright = np.ascontiguousarray(images.transpose(0, 2, 1))
    return upright[:, None], labels - first_label  # (N, H, W) -> (N, 1, H, W)


def _content(path: Path) -> bytes:
    with _opened(path) as handle:
        return handle.read()


def _idx_array(content: bytes) -> np.ndarray:
    # The inverse of idx_bytes, also for big-endian int32. torchvision's reader isn't used: its import takes a second,
    # and its KMNIST class prefers processed/training.pt, an unverified file of old versions.
    values = np.frombuffer(bytearray(content), dtype=np.uint8)  # a bytearray, since torch wants memory it may write to
    lengths = values[4 : 4 + 4 * values[3]].view(">i4")  # values[3]: the number of axes
    array = values[4 + 4 * values[3] :].view({8: np.uint8, 12: ">i4"}[int(values[2])]).reshape(lengths)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_kuzushiji49(folder: Path, info: DatasetInfo, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, 1, 28, 28) and labels (N,) of Kuzushiji-49's .npz files."""
    arrays = []
    for kind in ("imgs", "labels"):
        with np.load(folder / f"k49-{'train' if train else 'test'}-{kind}.npz", allow_pickle=False) as archive:
            arrays.append(archive["arr_0"])
    images, labels = arrays
    return images[:, None], labels  # (N, H, W) -> (N, 1, H, W)


def read_cifar(folder: Path, info: DatasetInfo, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, 3, 32, 32) and labels (N,), CIFAR-100's fine ones, of the "python version" of CIFAR-10 or -100.

    Its files (https://www.cs.toronto.edu/~kriz/cifar.html) are pickles, which can run any code when they are read, so
    the checksum of the same bytes is checked first. Raises UserError if a file isn't the official one.
    """
    batches = []
    for name, (algorithm, expected) in info.checksums.items():
        if name.startswith(("data_batch_", "train") if train else "test"):
            content = _content(folder / name)
            if hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() != expected:
                raise UserError(
                    f"{folder / name}: damaged, or not the official file (its {algorithm} differs); delete it"
                )
            with warnings.catch_warnings(action="ignore"):  # NumPy warns of dtypes pickled by Python 2
                batches.append(pickle.load(io.BytesIO(content), encoding="latin1"))
    pixels = np.concatenate([batch["data"] for batch in batches])  # (N, 3072): all red, then green, then blue
    labels = np.concatenate([batch["fine_labels" if "fine_labels" in batch else "labels"] for batch in batches])
    return pixels.reshape(-1, 3, 32, 32), labels


def read_digits(folder: Path, info: DatasetInfo, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, 1, 8, 8), float32, 0 to 255, and labels (N,) of scikit-learn's digits; the last 297 are test."""
    from sklearn.datasets import load_digits  # its import takes nearly a second, and only this data set needs it

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels * (255 / 16)).astype(np.float32).reshape(-1, 1, 8, 8)  # (N, 64) -> (N, 1, 8, 8)
    part = slice(None, info.train_size) if train else slice(info.train_size, None)
    return images[part], labels[part]


READERS = {
    "idx": read_idx,
    "qmnist": read_qmnist,
    "emnist-letters": functools.partial(read_emnist, "letters", 1),
    "emnist-balanced": functools.partial(read_emnist, "balanced", 0),
    "kuzushiji": read_kuzushiji49,
    "cifar": read_cifar,
    "digits": read_digits,
}
