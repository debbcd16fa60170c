"""Output files: tried before the long work, written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from neural_lib.errors import UserError


def check_output(path: str | Path, option: str, suffixes: tuple[str, ...] = ()) -> Path:
    """Return `path` as a Path that can be written; its missing parent folders are made.

    `option` names the argument in the message; `suffixes` are the endings that can be written, any where it is empty.
    Raises UserError where the path is a folder, ends otherwise or lies where nothing can be written.
    """
    path = Path(path)
    if path.is_dir() or str(path) in ("", "."):
        raise UserError(f"{option} {path}: is a folder; give the name of a file in it")
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{option} {path}: can't write that kind of picture; end the name in {', '.join(suffixes)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path):  # a real try: permission bits say nothing about a read-only disk
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{option} {path}: can't write there ({reason}); choose another place") from None
    return path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for binary writing; it takes the name `path` when the block ends well.

    A reader finds the old file or the new one, never a part: written, fsynced, then os.replace. When the block raises,
    the old file stays as it was and the temporary one is removed.
    """
    path = Path(path)
    with _temporary(path) as (handle, temporary):
        yield handle
        handle.flush()
        os.fsync(handle.fileno())
        os.replace(temporary, path)
    _fsync_folder(path.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    # os.open gives the permissions of any new file here; tempfile's would be 0600
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as handle:
            yield handle, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows can't open a folder; its os.replace needs no second sync
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
