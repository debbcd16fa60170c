"""Archives of pictures (zip, tar and compressed tar), read in place: nothing is unpacked to the disk."""

import contextlib
import functools
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from neural_lib.data.catalog import dataset_error
from neural_lib.data.pictures import PictureError
from neural_lib.system.environment import size_text
from neural_lib.system.errors import UserError, printable

KINDS = ".zip, .tar, .tar.gz, .npz and .csv"
MARKS = {
    b"PK": "is a zip archive that is cut short",
    b"Rar!": "is a RAR archive; unpack it",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"\x1f\x8b": "is compressed, but no tar archive",
}  # first bytes
HEAD_SIZE = 8  # bytes
MAX_MEMBERS = 2_000_000
# Limits against decompression bombs. Pictures are compressed themselves; blank BMP files shrink by a few hundred times.
MAX_RATIO = 200  # size of all members, in sizes of the archive
SMALL = 100_000_000  # bytes in all that no archive is refused for
MAX_HEADER = 1 << 20  # bytes of a name and attributes in a tar
MAX_SIZE = 1 << 29  # bytes of a member, which is read into memory


@dataclass(frozen=True)
class Member:
    """A file or a folder in an archive."""

    name: str  # path with slashes; a folder's ends in one
    size: int  # bytes
    changed: tuple[int, int]  # the archive's last change of content, and of permissions or name; ns since 1970
    position: int  # in the archive; a compressed tar can only be read in ascending order, or from its beginning
    read_bytes: Callable[[], bytes] = field(repr=False)

    def read(self) -> bytes:
        """The file's content. Raises PictureError if it can't be read."""
        if self.size > MAX_SIZE:
            limit = f"at most {size_text(MAX_SIZE)} of a file are read from an archive"
            raise PictureError(f"has {size_text(self.size)}, and {limit}")
        try:
            return self.read_bytes()
        except Exception as error:  # zipfile, tarfile and the decompressors raise many types for damaged archives
            raise PictureError(f"can't be read from the archive ({error})") from None


Source = str | Member  # the path of a file, or a file in an archive


def content_of(source: object) -> object:
    """What read_picture takes: the content of a file in an archive; any other source is returned as it is.

    Raises PictureError if it can't be read from the archive.
    """
    return source.read() if isinstance(source, Member) else source


@contextlib.contextmanager
def open_archive(path: str) -> Iterator[list[Member]]:
    """A context with the members of an archive, in their order in it.

    Raises UserError if it is no archive, damaged or encrypted, if a name points outside of it, or if its members are
    so many or so large that they can't be pictures.
    """
    with contextlib.ExitStack() as stack:
        try:
            status = os.stat(path)
            if zipfile.is_zipfile(path):
                found = _in_zip(path, stack.enter_context(zipfile.ZipFile(path)))
            elif archive := _tar_of(path):
                found = _in_tar(stack.enter_context(archive))
            else:
                with open(path, "rb") as file:
                    head = file.read(HEAD_SIZE)
                why = next((why for mark, why in MARKS.items() if head.startswith(mark)), "is none of them, or damaged")
                raise dataset_error(path, f"{why}; a folder, {KINDS} are read")
            members, total = [], 0
            for name, size, read in found:
                name, total = name.replace("\\", "/"), total + size
                if name.startswith("/") or ":" in name.partition("/")[0] or ".." in name.split("/"):
                    what = f"has a member outside of its folder, {printable(name)}"
                    raise dataset_error(path, f"{what}; unpack it with care")
                changed = status.st_mtime_ns, status.st_ctime_ns
                members.append(Member(name.removeprefix("./"), size, changed, len(members), read))
                if len(members) > MAX_MEMBERS or total > max(SMALL, MAX_RATIO * status.st_size):
                    what = f"{len(members):,} members or more, of {size_text(total)} or more"
                    raise dataset_error(path, f"takes {size_text(status.st_size)} and claims to hold {what}; unpack it")
        except UserError:
            raise
        except OSError as error:
            raise dataset_error(path, f"can't be read ({error.strerror or error})") from None
        except Exception as error:  # zipfile, tarfile and the decompressors raise many types for damaged archives
            raise dataset_error(path, f"is damaged or cut short ({error})") from None
        yield members


Found = Iterator[tuple[str, int, Callable[[], bytes]]]  # for each member: name, size in bytes, how to read it


def _in_zip(path: str, archive: zipfile.ZipFile) -> Found:
    for info in archive.infolist():
        if info.flag_bits & 1:
            raise dataset_error(path, "is encrypted; unpack it")
        yield info.filename, info.file_size, functools.partial(archive.read, info)


class _Header(tarfile.TarInfo):
    # A member's header, whose long name or attributes would be read into memory, however large they claim to be.

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        return super()._proc_pax(self._checked(archive))

    def _proc_gnulong(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        return super()._proc_gnulong(self._checked(archive))

    def _checked(self, archive: tarfile.TarFile) -> tarfile.TarFile:
        if self.size > MAX_HEADER:
            raise dataset_error(archive.name, f"has a header of {size_text(self.size)}, as decompression bombs have")
        return archive


def _tar_of(path: str) -> tarfile.TarFile | None:
    try:
        return tarfile.open(path, tarinfo=_Header)
    except tarfile.ReadError:
        return None


def _in_tar(archive: tarfile.TarFile) -> Found:
    for info in archive:

        def read(info: tarfile.TarInfo = info) -> bytes:
            if not info.isfile():
                raise ValueError("it is a link or a device")
            return archive.extractfile(info).read()

        yield f"{info.name}/" if info.isdir() else info.name, info.size, read
