"""Tensors and plain types in one file with a checksum: the only torch.save and torch.load of the project.

weights_only=True reads it, so no code in a file is ever run
(https://docs.pytorch.org/docs/stable/notes/serialization.html). The file is torch.save's zip archive. Its CRCs are no
help: torch.load doesn't look at them, and they leave the archive's own structure out. So the archive's comment, with
which it ends, holds a sha256 of every byte before it.
"""

import hashlib
import io
import struct
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from neural_lib.errors import UserError
from neural_lib.files import check_input, write_file

MARK = b"neural_lib sha256 "  # then 64 hexadecimal digits
COMMENT_SIZE = len(MARK) + 64
END = b"PK\x05\x06"  # begins the last record of a zip archive: 22 bytes, the last two the comment's length
END_SIZE = 22


@dataclass(frozen=True)
class Kind:
    """What sort of content a file has, and who is to be asked for it."""

    format: str  # its name, in the file
    version: int  # the one that is written
    read: Collection[int]  # those that are read
    noun: str  # "checkpoint"
    option: str  # "--model", which gives the path
    otherwise: str  # what to do where there is no such file
    instead: str  # and where it is damaged
    unsummed: Collection[int] = ()  # versions from before there was a checksum


def to_bytes(content: Mapping[str, object], kind: Kind) -> bytearray:
    """Tensors and plain types as the bytes of a file."""
    archive = io.BytesIO()
    torch.save({"format": kind.format, "format_version": kind.version, **content}, archive)
    return _with_checksum(archive.getbuffer())


def save(content: Mapping[str, object], path: str | Path, kind: Kind) -> None:
    """Write tensors and plain types to `path`, whole or not at all. Raises OSError where it can't be written."""
    write_file(path, lambda: to_bytes(content, kind))


def _with_checksum(archive: bytes | memoryview) -> bytearray:
    end = len(archive) - END_SIZE
    assert archive[end : end + 4] == END and archive[-2:] == b"\0\0", "torch.save's archive ends otherwise than it did"
    whole = bytearray(archive)
    whole[-2:] = struct.pack("<H", COMMENT_SIZE)
    whole += MARK
    whole += hashlib.sha256(whole).hexdigest().encode()
    return whole


def load(path: str | Path, kind: Kind) -> dict:
    """Read what `save` wrote, its tensors on the CPU, without running any code that the file may hold.

    Raises UserError, naming the file, where it is missing, damaged, or of another kind or version.
    """
    check_input(path, kind.option, kind.otherwise)
    whole = Path(path).read_bytes()
    summed = whole[-COMMENT_SIZE:].startswith(MARK)
    if summed and hashlib.sha256(whole[:-64]).hexdigest().encode() != whole[-64:]:
        raise _refused(path, kind, "is damaged: its checksum is another one")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign files; what counts is said below
            content = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load fails in many ways on a foreign file, and each means the same here
        raise _refused(path, kind, _what_is_wrong(error, kind.noun)) from None
    if not isinstance(content, dict) or content.get("format") != kind.format:
        raise UserError(f"{kind.option} {path}: holds data, but is no {kind.noun} of train.py; {kind.otherwise}")
    version = content.get("format_version")
    if not isinstance(version, int) or version not in kind.read:
        raise UserError(
            f"{kind.option} {path}: has {kind.noun} format {version}, and this version reads format "
            f"{' and '.join(map(str, kind.read))}; use the version of the project that wrote it"
        )
    if not summed and version not in kind.unsummed:
        raise _refused(path, kind, "is damaged or was changed: it lacks its checksum")
    return content


def _refused(path: str | Path, kind: Kind, why: str) -> UserError:
    return UserError(f"{kind.option} {path}: {why}; nothing in it was run; {kind.instead}")


def _what_is_wrong(error: Exception, noun: str) -> str:
    if "GLOBAL" in str(error):  # the unpickler's word for "import this and call it"
        return "holds pickled Python objects, such as torch.save(model) leaves, and loading those can run any code"
    return f"is damaged, cut short or no {noun} at all"
