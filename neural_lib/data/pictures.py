"""Find picture files, and read them as RGB arrays."""

import contextlib
import glob
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from neural_lib.system.errors import UserError

# endings by which pictures in a folder are recognised; a file's content decides how it is read, from these formats
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
SYSTEM_FILES = (
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir", "@recycle", "#recycle",
    "$recycle.bin",
)  # fmt: skip
MAX_PIXELS = 100_000_000  # a larger picture is refused; so many take up to 0.8 GB until they are reduced
MAX_NAMED = 10  # of the files in folders that are skipped
LONGEST_SIDE = 1024  # pixels; a larger picture is reduced to it as it is read


class PictureError(UserError):
    """A file that can't be read as a picture, or shows nothing; the message says why."""


class Found(NamedTuple):
    """The files and folders of a command line, looked up."""

    files: list[Path]  # to be read, in the order given; a folder's own by name
    skipped: list[Path]  # in folders: no pictures by their names
    unread: dict[Path, str]  # folders that can't be looked into, and why
    empty: dict[Path, str]  # folders without a picture, and what could be done about it

    def problems(self) -> list[str]:
        """A line for each thing that won't be read."""
        lines = [f"{printable(folder)}: can't be looked into ({why})" for folder, why in self.unread.items()]
        kinds = ", ".join(SUFFIXES)
        lines += [f"{printable(folder)}: holds no picture ({kinds}){advice}" for folder, advice in self.empty.items()]
        if self.skipped:
            named, more = self.skipped[:MAX_NAMED], len(self.skipped) - MAX_NAMED
            names = ", ".join(map(printable, named)) + (f" and {more:,} more" if more > 0 else "")
            lines.append(f"skipped, for its name is not that of a picture: {names}")
        return lines


def printable(path: str | Path) -> str:
    """A path as printable text on one line, whatever bytes a file's name holds."""
    return "".join(each if each.isprintable() else "?" for each in str(path))


def find(
    given: Iterable[str | Path], recursive: bool = False, is_own: Callable[[Path], bool] = lambda path: False
) -> Found:
    """The pictures that files, folders and patterns name. A file that is named is to be read whatever its ending is.

    recursive: look into folders within folders, but not through links. is_own: True for a file in a folder that
    predict.py wrote there, which is skipped.
    """
    found = Found([], [], {}, {})
    for path in [path for each in given for path in _expanded(each)]:
        if not os.path.isdir(path):
            found.files.append(path)
            continue
        before = len(found.files)
        for each in _files_in(path, recursive, found.unread):
            if not is_own(each):
                (found.files if each.suffix.lower() in SUFFIXES else found.skipped).append(each)
        if len(found.files) == before and path not in found.unread:
            deeper = not recursive and any(each.is_dir(follow_symlinks=False) for each in os.scandir(path))
            found.empty[path] = "; -r looks into its folders" if deeper else ""
    return found


def _expanded(given: str | Path) -> list[Path]:
    # a pattern that the shell left as it is, as Windows' do, unless a file really has that name
    if not os.path.lexists(given) and glob.has_magic(str(given)):
        return [Path(each) for each in sorted(glob.glob(str(given), recursive=True), key=natural_key)] or [Path(given)]
    return [Path(given)]


def _files_in(folder: Path, recursive: bool, unread: dict[Path, str]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        unread[Path(error.filename)] = error.strerror or str(error)

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(folders, key=natural_key) if recursive else []
        yield from (Path(parent, name) for name in sorted(names, key=natural_key))


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key to sort names by: page2 before page10."""
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
    return [*parts, (-2, name)]  # the name itself between 1 and 01


def is_hidden(name: str) -> bool:
    """True for the name of a file or folder that people don't see, or that a system leaves beside theirs."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def size_of(path: str | Path) -> tuple[int, int] | None:
    """Width and height, in pixels, of the picture in a file; None if it is none. Looks at the file's head alone."""
    with contextlib.suppress(PictureError), _picture_errors(), warnings.catch_warnings(action="ignore"):
        if stat.S_ISREG(os.stat(path).st_mode):
            with Image.open(path, formats=FORMATS) as image:
                return image.size
    return None


def read_picture(picture: str | Path | np.ndarray) -> np.ndarray:
    """A picture as RGB, uint8 (H, W, 3), at most LONGEST_SIDE high and wide.

    picture: a file, or a uint8 array (H, W) or (H, W, 3). Turned as a file's EXIF data say, what is transparent on
    white, the first of several frames, 16 bits reduced to 8.
    Raises PictureError if it isn't a file, is damaged or of another kind, or has more than MAX_PIXELS.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.ndim < 2 or not picture.size:
            raise PictureError(f"an array must be uint8 (H, W) or (H, W, 3), not {picture.dtype} {picture.shape}")
        return _as_rgb(Image.fromarray(picture))
    with _picture_errors(), warnings.catch_warnings(action="ignore"):  # Pillow's: of odd metadata and of many pixels
        if not stat.S_ISREG(os.stat(picture).st_mode):  # opening a pipe would wait for somebody to write to it
            raise PictureError("is not a file")
        with Image.open(picture, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(
                    f"has {image.width:,} x {image.height:,} pixels, and at most {MAX_PIXELS:,} are read; reduce it"
                )
            return _as_rgb(image)


def _as_rgb(image: Image.Image) -> np.ndarray:
    small = _averageable(_in_8_bits(image))
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    return np.array(_flatten_alpha(ImageOps.exif_transpose(small)))


@contextlib.contextmanager
def _picture_errors() -> Iterator[None]:
    # what Pillow raises for a file that can't be read, each in words that a person understands
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError:
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise PictureError(f"is not a {formats} file; convert it to one of these") from None
    except Image.DecompressionBombError:  # at the limit of Pillow's own, before there is a size to look at
        raise PictureError(f"has more than the {MAX_PIXELS:,} pixels that are read; reduce it") from None
    except MemoryError:
        raise PictureError("needs more memory than there is") from None
    except OSError as error:
        if error.errno:  # the system's: no such file, no permission
            raise PictureError(f"can't be read ({error.strerror})") from None
        raise PictureError(f"is damaged or cut short ({error})") from None
    except Exception as error:  # of no closed set, where a file's numbers make no sense
        raise PictureError(f"is damaged ({error})") from None


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    # only the values show the range
    full = next((each for each in (1, 255, 65_535) if values.max() <= each), values.max())
    return Image.fromarray((values.clip(0) * (255 / full)).round().astype(np.uint8))


def _averageable(image: Image.Image) -> Image.Image:
    # in a mode whose values can be averaged, as reducing a picture does
    if image.mode not in ("1", "P", "PA"):
        return image
    return image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")


def _flatten_alpha(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
