"""Input and output files: tried before the long work; outputs are written whole or not at all."""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from neural_lib.errors import UserError


def check_input(path: str | Path, option: str, otherwise: str) -> None:
    """Raise UserError, with the advice `otherwise`, where no file `path` can be opened for reading."""
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # opening it would wait for somebody to write to it
            raise UserError(f"{option} {path}: is a pipe, not a file; {otherwise}")
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{option} {path}: can't be read ({error.strerror or error}); {otherwise}") from None


def check_output(path: str | Path, option: str, suffixes: tuple[str, ...]) -> Path:
    """Return where the file `path` is to be written; its missing parent folders are made, a link to a file is followed.

    `option` names the argument in the message; `suffixes` are the endings that are allowed.
    Raises UserError where the path is a folder or a device, ends otherwise or lies where nothing can be written.
    """
    path = Path(path)
    try:
        if path.is_symlink():
            path = Path(os.path.realpath(path))  # Path.resolve answers a loop of links with a RuntimeError
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a device or a pipe"
            raise UserError(f"{option} {path}: is {kind}; give the name of a file")
        if path.suffix.lower() not in suffixes:
            raise UserError(f"{option} {path}: can't write that kind of file; end the name in {', '.join(suffixes)}")
    except OSError as error:
        raise _cannot_write(path, option, error) from None
    _try_to_write(path, path, option)
    return path


def check_output_folder(path: str | Path, option: str) -> Path:
    """Return the folder `path`, with its parents made where it is missing.

    Raises UserError where no file can be made in it.
    """
    if not str(path):
        raise UserError(f"{option} needs the name of a folder")
    if os.path.isfile(path):
        raise UserError(f"{option} {path}: is a file; give the name of a folder")
    _try_to_write(Path(path) / "try", Path(path), option)
    return Path(path)


def _try_to_write(file: Path, given: Path, option: str) -> None:
    # a real try, beside the file: permission bits say nothing about a read-only disk
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_beside(file)
        _create(temporary).close()
        temporary.unlink()
    except OSError as error:
        raise _cannot_write(given, option, error) from None


def _cannot_write(path: Path, option: str, error: OSError) -> UserError:
    return UserError(f"{option} {path}: can't write there ({error.strerror or error}); choose another place")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for binary writing; it takes the name `path` when the block ends well.

    A reader finds the old file or the new one, never a part: written, fsynced, then os.replace. When the block raises,
    the old file stays as it was and the temporary one is removed.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        with _create(temporary) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)  # after closing it: Windows renames no open file
    except OSError as error:
        error.filename = error.filename or str(path)  # a write to a full disk doesn't say which file it was
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _create(path: Path) -> BinaryIO:
    # os.open gives the permissions of any new file here; tempfile's would be 0600
    binary = getattr(os, "O_BINARY", 0)  # Windows' text mode would change line ends
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | binary, 0o666), "w+b")


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows can't open a folder; its os.replace needs no second sync
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
