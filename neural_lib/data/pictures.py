"""Find picture files, by their content, and read their pages as RGB arrays."""

import contextlib
import glob
import itertools
import os
import re
import shlex
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from neural_lib.system.errors import UserError

# what is read, whatever a file's name is
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", *(["AVIF"] if features.check("avif") else []))
HEADS = {  # how files begin, those of kinds that are to be converted too; the first that fits
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # the size of its second header
    "TIFF": rb"II[*+]\0|MM\0[*+]",  # + of BigTIFF
    "AVIF": rb".{4}ftyp(?:avi[fs]|m[is]f1.*avi[fs])",  # ISO/IEC 23008-12: the main brand, and those it fits besides
    "HEIC": rb".{4}ftyp(?:he[iv][cmsx]|m[is]f1)",
    "PDF": rb"%PDF-",
}
HEAD = re.compile(b"|".join(b"(?P<%s>%s)" % (kind.encode(), head) for kind, head in HEADS.items()), re.DOTALL)
HEAD_SIZE = 64  # bytes
MAGICK = "convert it to JPEG, as with ImageMagick: magick {file} {jpg}"
CONVERSIONS = {  # what a file of a kind is, and how to make a picture of it that is read
    "HEIC": f"is a HEIC photo; {MAGICK}",
    "AVIF": f"is an AVIF photo; {MAGICK}",  # where Pillow is built without it
    "PDF": "is a PDF; convert it to PNG, as with Poppler: pdftoppm -r 300 -png {file} {stem}",
}
SYSTEM_FILES = (
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir", "@recycle", "#recycle",
    "$recycle.bin",
)  # fmt: skip
MAX_PIXELS = 100_000_000  # a larger picture is refused; so many take up to 0.8 GB until they are reduced
MAX_NAMED = 10  # names in a message
LONGEST_SIDE = 1024  # pixels; a larger picture is reduced to it as it is read
SUBFILE_TYPE = 254  # TIFF 6.0, section 8
NO_PAGE = 0b101  # bits of SUBFILE_TYPE: a smaller version of another image, a mask for one


class PictureError(UserError):
    """A file that can't be read as a picture, or shows nothing; the message says why."""


class Found(NamedTuple):
    """The files and folders of a command line, looked up."""

    files: list[Path]  # to be read, in the order given; a folder's own by name
    skipped: dict[str, list[Path]]  # in folders, by what their content is: "", no picture, or one of CONVERSIONS
    unread: dict[Path, str]  # folders, and files in folders, that can't be looked into, and why
    empty: dict[Path, str]  # folders without a picture, and what could be done about it

    def problems(self) -> list[str]:
        """A line for each kind of thing that won't be read."""
        lines = []
        for why in dict.fromkeys(self.unread.values()):
            first, *others = [path for path, reason in self.unread.items() if reason == why]
            lines.append(f"{_with_others(first, others)}: {why}")
        kinds = ", ".join(FORMATS)
        lines += [f"{printable(folder)}: holds no picture ({kinds}){advice}" for folder, advice in self.empty.items()]
        for kind, paths in self.skipped.items():
            if kind:
                first, *others = paths
                lines.append(f"{_with_others(first, others)}: {'each ' if others else ''}{_conversion(kind, first)}")
            else:
                lines.append(f"skipped, for the content is not that of a picture: {listed(paths)}")
        return lines


def _with_others(first: Path, others: list[Path]) -> str:
    return printable(first) + (f" and {len(others):,} more" if others else "")


def _conversion(kind: str, path: str | Path) -> str:
    path = Path(path)
    converted = path.with_suffix(".jpg")
    converted = converted if converted != path else path.with_stem(f"{path.stem}-converted")
    names = {"file": path, "stem": path.with_suffix(""), "jpg": converted}
    return CONVERSIONS[kind].format(**{key: printable(shlex.quote(str(name))) for key, name in names.items()})


def printable(path: str | Path) -> str:
    """A path as printable text on one line, whatever bytes a file's name holds."""
    return "".join(each if each.isprintable() else "?" for each in str(path))


def listed(names: Sequence[str | Path]) -> str:
    """The first names, separated by commas, and how many there are besides."""
    more = len(names) - MAX_NAMED
    return ", ".join(map(printable, names[:MAX_NAMED])) + (f" and {more:,} more" if more > 0 else "")


def find(
    given: Iterable[str | Path], recursive: bool = False, is_own: Callable[[Path], bool] = lambda path: False
) -> Found:
    """The pictures that files, folders and patterns name. A file that is named is to be read whatever it holds.

    Of a folder the files are taken whose content begins as a picture's; hidden and system files are passed over.
    recursive: look into folders within folders, but not through links. is_own: True for a picture in a folder that
    predict.py wrote there, which is passed over too.
    """
    found = Found([], {}, {}, {})
    for path in [path for each in given for path in _expanded(each)]:
        if not os.path.isdir(path):
            found.files.append(path)
            continue
        before = len(found.files), len(found.unread)
        for each in _files_in(path, recursive, found.unread):
            try:
                kind = kind_of(each)
            except OSError as error:
                found.unread[each] = f"can't be read ({error.strerror or error})"
                continue
            if kind not in FORMATS:
                found.skipped.setdefault(kind, []).append(each)
            elif not is_own(each):
                found.files.append(each)
        if (len(found.files), len(found.unread)) == before:
            deeper = not recursive and any(
                each.is_dir(follow_symlinks=False) for each in os.scandir(path) if not is_hidden(each.name)
            )
            found.empty[path] = "; -r looks into its folders" if deeper else ""
    return found


def kind_of(path: str | Path) -> str:
    """What a file holds by its first bytes: one of FORMATS or of CONVERSIONS, "" for anything else.

    Raises OSError if it can't be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for somebody to write to it
        return ""
    with open(path, "rb", buffering=0) as file:
        return _kind(file)


def _kind(file: BinaryIO) -> str:
    file.seek(0)
    match = HEAD.match(file.read(HEAD_SIZE))
    return match.lastgroup if match else ""


def _expanded(given: str | Path) -> list[Path]:
    # a pattern that the shell left as it is, as Windows' do, unless a file really has that name
    if not os.path.lexists(given) and glob.has_magic(str(given)):
        return [Path(each) for each in sorted(glob.glob(str(given), recursive=True), key=natural_key)] or [Path(given)]
    return [Path(given)]


def _files_in(folder: Path, recursive: bool, unread: dict[Path, str]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        unread[Path(error.filename)] = f"can't be looked into ({error.strerror or error})"

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted((name for name in folders if not is_hidden(name)), key=natural_key) if recursive else []
        yield from (Path(parent, name) for name in sorted(names, key=natural_key) if not is_hidden(name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key to sort names by: page2 before page10."""
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
    return [*parts, (-2, name)]  # the name itself between 1 and 01


def is_hidden(name: str) -> bool:
    """True for the name of a file or folder that people don't see, or that a system leaves beside theirs."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def size_of(path: str | Path, page: int = 0) -> tuple[int, int] | None:
    """Width and height, in pixels, of a page of a file; None if it has none. Not turned; decodes nothing but GIFs."""
    with contextlib.suppress(PictureError), _opened(path, page) as image:
        return image.size
    return None


def count_pages(path: str | Path) -> int:
    """How many pictures a file holds: the pages of a TIFF or the frames of a GIF; 1 for all else. Decodes nothing.

    A TIFF's smaller versions of a page and masks are no pages. 1 also for what can't be read: read_picture says why.
    """
    with contextlib.suppress(OSError):
        kind = kind_of(path)
        if kind == "TIFF":
            with contextlib.suppress(PictureError), _opened(path) as image:
                return len(_places_of_pages(image))
        if kind == "GIF":
            with contextlib.suppress(Exception), Image.open(path, formats=["GIF"]) as image:
                try:
                    return image.n_frames
                except Exception:  # of no closed set, where a frame is damaged; it counts, for reading it says so
                    return image.tell() + 2
    return 1


def read_picture(picture: str | Path | np.ndarray, page: int = 0, longest: int | None = LONGEST_SIDE) -> np.ndarray:
    """A picture as RGB, uint8 (H, W, 3).

    picture: a file, or a uint8 array (H, W) or (H, W, 3). page: from 0, of count_pages; a GIF's as it is displayed.
    longest: pixels; a picture that is higher or wider is reduced to it; None leaves it as large as it is.
    Turned as a file's EXIF data say, what is transparent on white, more than 8 bits reduced to 8.
    Raises PictureError if it isn't a file, is damaged or of another kind, or has more than MAX_PIXELS.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.ndim < 2 or not picture.size:
            raise PictureError(f"an array must be uint8 (H, W) or (H, W, 3), not {picture.dtype} {picture.shape}")
        return _as_rgb(Image.fromarray(picture), longest)
    with _opened(picture, page) as image:
        rawmode = _rawmode(image)
        small = _in_8_bits(image)
        if rawmode.startswith(("RGB;16", "RGBA;16", "RGBX;16", "LA;16")) and page == 0:
            small.load()
            if max(high for _, high in small.getextrema()[:3]) < 128:  # Pillow has dropped each value's lower byte
                small = _in_full_colour(image, picture)
        return _as_rgb(small, longest)


def reduced(picture: np.ndarray, longest: int) -> np.ndarray:
    """A picture (H, W) or (H, W, C), averaged to that many pixels in height and width if it is larger."""
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _as_rgb(image: Image.Image, longest: int | None) -> np.ndarray:
    small = _averageable(image)
    if longest is not None:
        small.thumbnail((longest, longest), Image.Resampling.BOX)
    return np.array(_flatten_alpha(ImageOps.exif_transpose(small)))


@contextlib.contextmanager
def _opened(path: str | Path, page: int = 0) -> Iterator[Image.Image]:
    # a page of a file, not decoded yet; what goes wrong until it is closed becomes a PictureError
    with _picture_errors(), warnings.catch_warnings(action="ignore"):  # Pillow's: of odd metadata and of many pixels
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for somebody to write to it
            raise PictureError("is not a file")
        with open(path, "rb") as file, _image_of(file, path) as image:  # by its name Pillow 13 garbles turned TIFFs
            _check_pixels(image)
            pages = range(1)
            if image.format == "TIFF":
                pages = _places_of_pages(image)
            elif image.format == "GIF":
                pages = range(page + 1)  # seek finds out
            if not 0 <= page < len(pages):
                raise PictureError(f"has no page {page + 1:,}")
            if frame := pages[page]:
                image.seek(frame)
                _check_pixels(image)
            yield image


def _image_of(file: BinaryIO, path: str | Path) -> Image.Image:
    with contextlib.suppress(UnidentifiedImageError):
        return Image.open(file, formats=FORMATS)
    if not os.fstat(file.fileno()).st_size:
        raise PictureError("is empty")
    kind = _kind(file)
    if kind in CONVERSIONS and kind not in FORMATS:
        raise PictureError(_conversion(kind, path))
    raise PictureError(f"is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file; convert it to one of these")


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(
            f"has {image.width:,} x {image.height:,} pixels, and at most {MAX_PIXELS:,} are read; reduce it"
        )


def _places_of_pages(image: Image.Image) -> list[int]:
    # where the pages of an opened TIFF are among its images: not its smaller versions and masks
    places = []
    for place in itertools.count():
        try:
            image.seek(place)
            is_page = not image.tag_v2.get(SUBFILE_TYPE, 0) & NO_PAGE
        except EOFError:  # after the last one
            break
        except Exception:  # of no closed set, where one is damaged; it counts, for reading it says so
            places.append(place)
            break
        if is_page:
            places.append(place)
    image.seek(0)
    return places or [0]


# --- errors, and pixels of every kind ---


@contextlib.contextmanager
def _picture_errors() -> Iterator[None]:
    # what Pillow raises for a file that can't be read, each in words that a person understands
    try:
        yield
    except PictureError:
        raise
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
    # full scale is the next power of two above the highest value, for only the values show it: 12 bits come as 16
    if image.mode.startswith("I;16"):
        return _like(image, _shifted(np.asarray(image)))
    if image.mode not in ("I", "F"):
        return image
    values = np.nan_to_num(np.asarray(image)).clip(0)
    if values.max() <= 1:
        return _like(image, (values * 255).round().astype(np.uint8))
    if image.mode == "I":
        return _like(image, _shifted(values))
    full = 2.0 ** _bits(values) - 1
    return _like(image, (values * np.float32(255 / full)).round().clip(max=255).astype(np.uint8))


def _bits(values: np.ndarray) -> int:
    return max(8, int(values.max()).bit_length())


def _shifted(values: np.ndarray) -> np.ndarray:
    return (values >> (_bits(values) - 8)).astype(np.uint8)


def _like(image: Image.Image, values: np.ndarray) -> Image.Image:
    # an image of other values that is turned as this one is to be
    other = Image.fromarray(values)
    other.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return other


def _rawmode(image: Image.Image) -> str:
    # how a value lies in the file; "" where that differs or is not known
    found = {tile.args if isinstance(tile.args, str) else str((*(tile.args or ()), "")[0]) for tile in image.tile}
    return found.pop() if len(found) == 1 else ""


def _in_full_colour(image: Image.Image, path: str | Path) -> Image.Image:
    # 16 bits of each colour, as OpenCV reads them
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return image
    return _like(image, np.dstack([_shifted(values[..., 2::-1]), values[..., 3:] >> 8]).astype(np.uint8))


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
