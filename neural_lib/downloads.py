"""How a data set's files get onto the disk: sources tried in order, nothing kept but the official sha256."""

import contextlib
import hashlib
import io
import json
import logging
import os
import socket
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from neural_lib.errors import RunError, UserError
from neural_lib.files import atomic_write

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # for a connection and for each read; neither torchvision nor scikit-learn sets one


class DownloadError(RunError):
    """No source delivered the official files."""


def ensure_files(title: str, sha256: Mapping[str, str], data_dir: str | Path) -> Path:
    """Return the folder <data_dir>/<title>/raw once it holds the files named in `sha256`, each with that checksum.

    Missing files are downloaded. Raises DownloadError, naming every source and why it failed, where that can't be done,
    and UserError for a file in place with another content: it is never replaced, since it may be the user's own.
    """
    raw_folder = Path(data_dir) / title / "raw"
    missing = [name for name in sha256 if not (raw_folder / name).exists()]
    for name in sha256:
        if name not in missing and not _is_verified(raw_folder / name, sha256[name]):
            raise UserError(
                f"{raw_folder / name}: damaged, or not the official {title} file (another sha256); "
                "delete it, and the next run downloads it again"
            )
    if missing:
        _download(title, sha256, missing, raw_folder)
    return raw_folder


def _download(title: str, sha256: Mapping[str, str], missing: list[str], raw_folder: Path) -> None:
    try:
        raw_folder.mkdir(parents=True, exist_ok=True)
        scratch_folder = tempfile.TemporaryDirectory(prefix=".download-", dir=raw_folder.parent)
    except OSError as error:
        raise UserError(f"--data: {title} is not in {raw_folder} and can't be put there ({error.strerror})") from None
    failures = []
    with scratch_folder as scratch:
        for host, fetch in SOURCES[title].items():
            log.info("downloading %s from %s...", title, host)
            try:
                folder = _fetch_verified(fetch, Path(scratch) / host, sha256)
            except Exception as error:  # a server can send anything, and libraries stumble over it in many ways
                reason = textwrap.shorten(str(error), 200) or type(error).__name__
                log.warning("%s from %s failed: %s", title, host, reason)
                failures.append(f"{host}: {reason}")
                continue
            for name in missing:
                os.replace(folder / name, raw_folder / name)
            return
    raise DownloadError(
        f"{title} could not be downloaded ({'; '.join(failures)}); "
        f"put {', '.join(sha256)} (not gzipped) into {raw_folder} by hand"
    )


def _fetch_verified(fetch: Callable[[Path], Path], folder: Path, sha256: Mapping[str, str]) -> Path:
    folder.mkdir()
    with _network_timeout(TIMEOUT_S), _no_bars_in_logs(), warnings.catch_warnings(action="ignore"):
        fetched = fetch(folder)
    for name, expected in sha256.items():
        if _sha256(fetched / name) != expected:
            raise ValueError(f"what it sent as {name} is not the official file (another sha256)")
    return fetched


# --- sources: each puts idx files into a folder and returns where they are ---


def fetch_kmnist_torchvision(folder: Path) -> Path:
    """torchvision's own download of KMNIST from its mirror, whose gzip files it checks by md5."""
    from torchvision.datasets import KMNIST

    return Path(KMNIST(root=folder, download=True).raw_folder)


def fetch_kmnist_openml(folder: Path) -> Path:
    """OpenML's table "Kuzushiji-MNIST" through scikit-learn, written back as idx files, training images first.

    parser="liac-arff" needs no pandas and, for the 70,000 rows, under a minute (tests/test_real_kmnist.py, -m slow).
    The order of the rows is not documented: that the official checksums come out is what proves it.
    """
    import numpy as np
    from sklearn.datasets import fetch_openml

    table = fetch_openml(
        "Kuzushiji-MNIST", version=1, data_home=folder, as_frame=False, parser="liac-arff", n_retries=1
    )
    images = table.data.astype(np.uint8).reshape(-1, 28, 28)  # (70000, 784) -> (70000, 28, 28)
    labels = table.target.astype(np.uint8)
    test_size = len(labels) // 7  # 60,000 for training, 10,000 for the test
    for part, rows in (("train", slice(None, -test_size)), ("t10k", slice(-test_size, None))):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images[rows]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[rows]))
    return folder


SOURCES = {"KMNIST": {"codh.rois.ac.jp": fetch_kmnist_torchvision, "openml.org": fetch_kmnist_openml}}


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


# --- checksums, remembered in the user's cache folder so that an unchanged file is hashed once ---


def _is_verified(path: Path, expected: str) -> bool:
    status = path.stat()
    entry = {"sha256": expected, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    memory_file = _memory_file()
    memory = _read_memory(memory_file)
    key = str(path.resolve())
    if memory.get(key) == entry:
        return True
    if _sha256(path) != expected:
        return False
    with contextlib.suppress(OSError):  # a cache that can't be written costs one more hash, no more
        memory_file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(memory_file) as handle:
            handle.write(json.dumps(memory | {key: entry}, indent=1).encode())
    return True


def _memory_file() -> Path:
    # not beside the data: that folder may be read-only, shared, or come from somebody else together with such a file
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "neural_lib" / "verified.json"


def _read_memory(path: Path) -> dict:
    try:
        memory = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
