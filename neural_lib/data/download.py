"""Download a data set's files: sources in order, each with a time limit, and only files with the official sha256."""

import contextlib
import hashlib
import io
import logging
import os
import socket
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from neural_lib.system.errors import RunError, UserError

log = logging.getLogger(__name__)
TIMEOUT_S = 10.0  # for a connection and for each read; neither torchvision nor scikit-learn sets one


class DownloadError(RunError):
    """No source delivered the official files."""


def ensure_files(folder: str | Path, sha256: Mapping[str, str], sources: Mapping[str, tuple]) -> None:
    """Return once `folder` holds the files named in `sha256`, each with that checksum.

    Missing files are fetched from the sources, in their order, each under its host's name. Raises DownloadError, naming
    every source and why it failed, where that can't be done, and UserError for a file in place with another content: it
    is never replaced, since it may be the user's own.
    """
    folder = Path(folder)
    missing = [name for name in sha256 if not (folder / name).exists()]
    if wrong := [folder / name for name in sha256 if name not in missing and _sha256(folder / name) != sha256[name]]:
        raise UserError(
            f"{', '.join(map(str, wrong))}: damaged, or not the official file (its sha256 differs); "
            "delete it, and the next run downloads it again if it can"
        )
    if missing:
        _download(folder, sha256, missing, sources)


def _download(folder: Path, sha256: Mapping[str, str], missing: list[str], sources: Mapping[str, tuple]) -> None:
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    failures = []
    try:
        # on the same file system, and gone afterwards: a folder that holds no data set stays as it was
        with tempfile.TemporaryDirectory(prefix=".download-", dir=there) as scratch:
            for host, source in sources.items():
                log.info("downloading from %s...", host)
                try:
                    fetched = _fetch_verified(source, Path(scratch) / host, sha256)
                except Exception as error:  # a server can send anything, and libraries stumble over it in many ways
                    failures.append(f"{host}: {textwrap.shorten(str(error), 200) or type(error).__name__}")
                    continue
                if failures:
                    log.info("downloaded from %s, because others failed (%s)", host, "; ".join(failures))
                folder.mkdir(parents=True, exist_ok=True)
                for name in missing:
                    os.replace(fetched / name, folder / name)
                return
    except OSError as error:
        raise DownloadError(f"nothing can be put into {folder} ({error.strerror}); choose another --data") from None
    raise DownloadError(
        f"no source delivered the files ({'; '.join(failures) or 'none is known'}); put {', '.join(missing)} (not "
        f"gzipped) into {folder} by hand, or name the folder where the data sets are with --data"
    )


def _fetch_verified(source: tuple, folder: Path, sha256: Mapping[str, str]) -> Path:
    folder.mkdir()
    with _network_timeout(TIMEOUT_S), _no_bars_in_logs(), warnings.catch_warnings(action="ignore"):
        kind, *facts = source
        fetched = FETCHERS[kind](folder, *facts)
    for name, expected in sha256.items():
        if _sha256(fetched / name) != expected:
            raise ValueError(f"what it sent as {name} is not the official file (its sha256 differs)")
    return fetched


# Each is called with an empty folder and the facts of a source, puts files somewhere under it, and returns where.


def from_torchvision(folder: Path, class_name: str) -> Path:
    """The download that torchvision's data set of that name does itself, from its mirrors, checked by md5."""
    from torchvision import datasets

    return Path(getattr(datasets, class_name)(root=folder, download=True).raw_folder)


def from_archive(folder: Path, url: str, md5: str, subfolder: str) -> Path:
    """An archive, through torchvision's downloader, which unpacks it if it has that md5; the files are in `subfolder`.

    torchvision's class for such a data set would also read what it has unpacked, which for CIFAR is to unpickle it.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(url, folder, md5=md5)
    return folder / subfolder


def from_openml(folder: Path, name: str, version: int, image_shape: tuple[int, ...], test_size: int) -> Path:
    """A table of OpenML through scikit-learn, a row an image, as idx files; the last `test_size` rows are the test.

    That order, like whether the content is the official one, is a guess until the checksums of all files are checked.
    Returns `folder`. scikit-learn's parser "liac-arff" needs no pandas; 70,000 rows take it about a minute.
    """
    from sklearn.datasets import fetch_openml

    table = fetch_openml(name, version=version, data_home=folder, as_frame=False, parser="liac-arff", n_retries=1)
    images = table.data.astype(np.uint8).reshape(-1, *image_shape)  # (N, H * W) -> (N, H, W)
    labels = table.target.astype(np.uint8)
    for part, rows in (("train", slice(None, -test_size)), ("t10k", slice(-test_size, None))):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images[rows]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[rows]))
    return folder


FETCHERS = {"torchvision": from_torchvision, "archive": from_archive, "openml": from_openml}


def idx_bytes(array) -> bytes:
    """A NumPy uint8 array in the idx format: 0, 0, 8 (uint8), the number of axes, their lengths, the values."""
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes((0, 0, 8, array.ndim)) + lengths + array.tobytes()


@contextlib.contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _no_bars_in_logs():
    # torchvision draws its progress bars on any stderr, a log file's too
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
