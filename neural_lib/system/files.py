"""Files: checked before the long work, written whole or not at all, retried if a write fails, locked."""

import atexit
import contextlib
import csv
import hashlib
import io
import logging
import mmap
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import filelock

from neural_lib.system.errors import UserError

log = logging.getLogger(__name__)
ABANDONED_AFTER = 3600  # seconds
HEAD = 4096  # bytes
MAX_MAPPED = 1 << 27  # bytes read from a mapped file until its pages are given back
READ_AROUND = 1 << 19  # bytes around a page that Linux maps with it, at most: it maps whole folios
# The beginning of a cell that spreadsheets take for a formula (OWASP, CSV Injection); after apostrophes, too.
FORMULA = r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
# Folders made for files that may never come. One list for the process: many functions check outputs, and the folders
# are removed when the process ends.
_made: list[Path] = []


def check_input(path: str | Path, option: str, hint: str) -> None:
    """Raise UserError, with the advice `hint`, if `path` is no file that can be opened for reading.

    option: that gave the path, empty where none did.
    """
    name = f"{option} {path}".strip()
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISFIFO(mode):  # opening a pipe would wait until another program writes to it
            model = Path(path) / "model.pth"  # what is meant if it is there
            hint = f"give {model}" if model.is_file() else hint
            raise UserError(f"{name}: is a {'folder' if stat.S_ISDIR(mode) else 'pipe'}, not a file; {hint}")
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{name}: can't be read ({error.strerror or error}); {hint}") from None


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file's content, 64 hexadecimal digits. Raises OSError if it can't be read."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def begins_with(path: Path, mark: bytes) -> bool:
    """True if `mark` is in the first bytes of a file; each file format of this project has one."""
    try:
        if not path.is_file():  # opening a pipe would wait until another program writes to it
            return False
        with path.open("rb") as handle:
            return mark in handle.read(HEAD)
    except OSError:
        return False


def check_is_ours(path: Path, mark: bytes, hint: str) -> None:
    """Raise UserError, with the advice `hint`, if `path` is a file without the mark, which another program wrote."""
    if path.exists() and not (path.is_file() and path.stat().st_size == 0) and not begins_with(path, mark):
        raise UserError(f"{path}: was not written by train.py; {hint}")


def check_output(path: str | Path, option: str, suffixes: tuple[str, ...]) -> Path:
    """The path at which a file is to be written: its missing parent folders are made, a link to a file is followed.

    remove_empty_folders() removes those folders again if nothing is written to them.

    `option` names the argument in the message; `suffixes` are the endings that are allowed.
    Raises UserError if it is a folder or a device, has another ending, or nothing can be written there.
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
    """The folder `path`, which is made with its parents if it is missing.

    Raises UserError if no file can be made in it.
    """
    if not str(path):
        raise UserError(f"{option} needs the name of a folder")
    if os.path.isfile(path):
        raise UserError(f"{option} {path}: is a file; give the name of a folder")
    _try_to_write(Path(path) / "try", Path(path), option)
    return Path(path)


def _try_to_write(file: Path, given: Path, option: str) -> None:
    # creates a file and removes it: permission bits do not show that a disk is read-only
    try:
        make_folder(file.parent)
        temporary = _temporary_beside(file)
        _create(temporary).close()
        temporary.unlink()
        _provide_temporary_folder(file)
    except OSError as error:
        raise _cannot_write(given, option, error) from None


def _provide_temporary_folder(output: Path) -> None:
    # torch's optimizers and exporters, and matplotlib, need a temporary folder. If the system's can't be written, they
    # get one beside `output` until the process ends; tempfile alone would take the working folder or raise an error.
    with contextlib.suppress(FileNotFoundError):
        usual = {"/tmp", "/var/tmp", "/usr/tmp", *map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))}
        if tempfile.gettempdir() != os.getcwd() or os.getcwd() in usual:
            return
    folder = _temporary_beside(output.absolute())
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)  # the variable is for child processes
    atexit.register(_remove_temporary_folder, folder)  # runs after those of the libraries, which are imported later


def _remove_temporary_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    remove_empty_folders()


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents; remove_empty_folders() removes them again if they stay empty."""
    folder = folder.absolute()
    _made.extend(each for each in (folder, *folder.parents) if not each.exists())
    folder.mkdir(parents=True, exist_ok=True)


def remove_empty_folders() -> None:
    """Remove the folders that were made for files and stayed empty, because the command was refused or failed."""
    for folder in sorted(_made, key=lambda folder: -len(folder.parts)):  # the deepest first
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()
    _made[:] = [folder for folder in _made if folder.exists()]


def remove_abandoned(path: Path) -> None:
    """Remove temporary files and folders of `path` that processes left when they were killed, an hour ago or more.

    Age decides: a process identifier says nothing about another container's processes, and a write takes seconds.
    """
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+\.)?[0-9a-f]{{8}}\.tmp")
    for each in os.scandir(path.parent):
        with contextlib.suppress(OSError):  # it belongs to another user, or is gone already
            if pattern.fullmatch(each.name) and time.time() - each.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(each.path) if each.is_dir(follow_symlinks=False) else os.unlink(each.path)


def _cannot_write(path: Path, option: str, error: OSError) -> UserError:
    return UserError(f"{option} {path}: can't write there ({error.strerror or error}); choose another place")


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for binary writing; it takes the name `path` when the block ends well.

    A reader finds the old file or the new one, never a part: written, fsynced, then os.replace. When the block raises,
    the old file stays as it was and the temporary one is removed. After a power failure it may be the old one, too.
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
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None  # the path that the user knows, not the temporary file's
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def _create(path: Path) -> BinaryIO:
    # os.open gives the permissions of any new file here; tempfile's would be 0600
    binary = getattr(os, "O_BINARY", 0)  # Windows' text mode would change line ends
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | binary, 0o666), "w+b")


def write_file(path: str | Path, make: Callable[[], bytes]) -> None:
    """Write what `make` returns, whole or not at all. Raises what `make` raises, and OSError if a write fails."""
    content = make()
    with atomic_write(path) as handle:
        handle.write(content)


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    """A table for spreadsheets: RFC 4180 in UTF-8 after a byte order mark; no cell is a formula there.

    A cell that would be one begins with an apostrophe, which csv_rows removes.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([re.sub(rf"\A(?={FORMULA})", "'", str(cell)) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8-sig", errors="backslashreplace")


def csv_rows(content: bytes, delimiter: str = ",") -> list[list[str]]:
    """The rows that csv_bytes was given, as text; the byte order mark may be missing. Raises csv.Error."""
    text = io.StringIO(content.decode("utf-8-sig", errors="replace"), newline="")
    return [[re.sub(rf"\A'(?={FORMULA})", "", cell) for cell in row] for row in csv.reader(text, delimiter=delimiter)]


class Writer:
    """Writes files without ending the run if that fails: it warns, and retry and finish try again."""

    def __init__(self) -> None:
        self.pending: dict[Path | str, Callable[[], object]] = {}  # file or thing that failed: how to try it again
        self.written: set[Path] = set()

    def write(self, path: Path, make: Callable[[], bytes]) -> bool:
        """Write what `make` returns; if that fails, warn and keep it for the next try."""
        return self.attempt(path, lambda: write_file(path, make))

    def attempt(self, what: Path | str, act: Callable[[], object], level: int = logging.WARNING) -> bool:
        """Call `act`; if that fails, warn and keep it for the next try. what: the file or thing to be named."""
        try:
            act()
        except BrokenPipeError:  # stdout was closed
            raise
        except Exception as error:  # a figure can fail in as many ways as the libraries that draw it
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if isinstance(error, OSError) and error.strerror:
                elsewhere = error.filename not in (None, str(what))
                reason = f"{error.strerror} ({error.filename})" if elsewhere else error.strerror
            outlook = "it was not written" if level == logging.ERROR else "trying again later"
            log.log(level, "%s: %s; %s", what, reason, outlook)
            self.pending[what] = act
            return False
        self.pending.pop(what, None)
        if isinstance(what, Path):
            self.written.add(what)
        return True

    def is_written(self, path: Path) -> bool:
        """True if the last attempt to write this file succeeded."""
        return path in self.written and path not in self.pending

    def retry(self, level: int = logging.WARNING) -> None:
        """Repeat each attempt that failed."""
        for what, act in list(self.pending.items()):
            self.attempt(what, act, level)

    def finish(self) -> bool:
        """Repeat each failed attempt for the last time and log an error if it fails again; True if none does."""
        self.retry(logging.ERROR)
        return not self.pending


class MappedPages:
    """Bounds the resident memory of a mapped file, of which a process reads more and more.

    Pages that were read count as the process's memory until the system takes them back. Here they are given back, to
    the system's file cache, after each MAX_MAPPED bytes; changes of a private mapping are lost then.
    """

    def __init__(self, mapping: object) -> None:
        """mapping: an mmap.mmap; for another object, or a small file, nothing is done."""
        is_large = isinstance(mapping, mmap.mmap) and len(mapping) > MAX_MAPPED
        self._mapping = mapping if is_large and hasattr(mmap, "MADV_DONTNEED") else None  # Windows lacks it
        self._read = 0

    def add(self, count: int, size: int) -> None:
        """Note that `count` pieces of `size` bytes each have been read, anywhere in the file."""
        self._read += count * (size + READ_AROUND)
        if self._mapping and self._read > MAX_MAPPED:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._read = 0


@contextlib.contextmanager
def locked(path: Path, option: str) -> Iterator[None]:
    """Lock `path` within the block, by a hidden file beside it; the lock ends with this process, however that ends.

    Raises UserError if another process holds the lock. If the file system has no locks, a warning says so.
    """
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{option} {path}: another run is writing there; wait for its end, or choose another place"
        ) from None
    except (OSError, NotImplementedError) as error:
        log.warning("%s can't be locked (%s); let no other run write there", path, error)
        yield
        return
    try:
        yield
    finally:
        lock.release()
        if os.name != "nt":  # Windows can't remove an open file, so the lock file remains there
            Path(lock.lock_file).unlink(missing_ok=True)
