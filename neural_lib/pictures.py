"""Picture files: found on the disk, and read whatever is in them. Pillow is imported where one is read."""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

# names by which a picture is known in a folder, and the formats that are read, whatever a file's name is
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
MOST_PIXELS = 100_000_000  # 400 MB once decoded; a larger picture is refused
MOST_NAMED = 10  # of the files in folders that are skipped
LONGEST_SIDE = 1024  # pixels; a larger picture is reduced to it as it is read


class PictureError(Exception):
    """A file that can't be read as a picture; the message says why, without its name."""


class Found(NamedTuple):
    """What was given on a command line, looked up."""

    files: list[Path]  # to be read, in the order given; a folder's own by name
    skipped: list[Path]  # in folders: no pictures by their names
    unread: dict[Path, str]  # folders that can't be looked into, and why
    empty: dict[Path, str]  # folders without a picture, and what could be done about it

    def told(self) -> list[str]:
        """A line for each thing that won't be read."""
        lines = [f"{folder}: can't be looked into ({why})" for folder, why in self.unread.items()]
        lines += [
            f"{folder}: holds no picture ({', '.join(SUFFIXES)}){advice}" for folder, advice in self.empty.items()
        ]
        if self.skipped:
            named, more = self.skipped[:MOST_NAMED], len(self.skipped) - MOST_NAMED
            names = ", ".join(map(str, named)) + (f" and {more:,} more" if more > 0 else "")
            lines.append(f"no pictures by their names, and skipped: {names}")
        return lines


def find(given: Iterable[str | Path], recursive: bool = False) -> Found:
    """The pictures that files and folders name. A file that is named itself is to be read whatever its ending is.

    recursive: look into folders within folders, but not through links.
    """
    found = Found([], [], {}, {})
    for path in map(Path, given):
        if not os.path.isdir(path):
            found.files.append(path)
            continue
        before = len(found.files)
        for each in _files_in(path, recursive, found.unread):
            (found.files if each.suffix.lower() in SUFFIXES else found.skipped).append(each)
        if len(found.files) == before and path not in found.unread:
            deeper = not recursive and any(each.is_dir() for each in os.scandir(path))
            found.empty[path] = "; -r looks into its folders" if deeper else ""
    return found


def _files_in(folder: Path, recursive: bool, unread: dict[Path, str]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        unread[Path(error.filename)] = error.strerror or str(error)

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(folders) if recursive else []
        yield from (Path(parent, name) for name in sorted(names))


def read(path: str | Path) -> "np.ndarray":
    """A picture as RGB, uint8 (H, W, 3), at most LONGEST_SIDE high and wide.

    Turned as its EXIF data say, what is transparent on white, the first of several frames, 16 bits reduced to 8.
    Raises PictureError where it isn't a file, is damaged or of another kind, or has more than MOST_PIXELS.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with _told(), warnings.catch_warnings(action="ignore"):  # Pillow's: of odd metadata and of many pixels
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for somebody to write to it
            raise PictureError("is not a file")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise PictureError(
                    f"has {image.width:,} x {image.height:,} pixels, and at most {MOST_PIXELS:,} are read; reduce it"
                )
            image.draft(None, (LONGEST_SIDE, LONGEST_SIDE))  # a JPEG of twice the size or more is decoded reduced
            image = _on_white(_in_8_bits(ImageOps.exif_transpose(image)))
            if max(image.size) > LONGEST_SIDE:
                image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
            return np.array(image)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    # what Pillow raises for a file that can't be read, each in words that a person understands
    import struct
    import zlib

    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError:
        raise PictureError(f"is no picture that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:  # at the limit of Pillow's own, before there is a size to look at
        raise PictureError(f"has more than the {MOST_PIXELS:,} pixels that are read; reduce it") from None
    except OSError as error:
        if error.errno:  # the system's: no such file, no permission
            raise PictureError(f"can't be read ({error.strerror})") from None
        raise PictureError(f"is damaged or cut short ({error})") from None
    except (SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, struct.error, zlib.error) as error:
        raise PictureError(f"is damaged ({error})") from None
    except MemoryError:
        raise PictureError("needs more memory than there is") from None


def _in_8_bits(image: "Image") -> "Image":
    if not image.mode.startswith(("I", "F")):
        return image
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    full = next((each for each in (1, 255, 65_535) if values.max() <= each), values.max())
    full = 65_535 if image.mode.startswith("I;16") else full  # the format says so; elsewhere only the values can
    return Image.fromarray((values.clip(0) * (255 / full)).round().astype(np.uint8))


def _on_white(image: "Image") -> "Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
