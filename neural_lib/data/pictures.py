"""Find picture files, by their content, and read their pages as RGB arrays."""

import contextlib
import glob
import io
import itertools
import math
import os
import re
import shlex
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Union

import cv2
import numpy as np
from PIL import Image, ImageOps

from neural_lib.system.environment import available_memory, size_text
from neural_lib.system.errors import UserError, printable

if TYPE_CHECKING:
    from torch import Tensor

# The formats that are read. A file's content decides, not its name.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "AVIF", "PPM")  # Pillow's names; PPM is PGM and PBM, too
HEADS = {  # kind of file -> pattern of its first bytes; the first match counts. CONVERSIONS has kinds that aren't read
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # sizes that the second header can have
    "TIFF": rb"II[*+]\0|MM\0[*+]",  # the + is BigTIFF's
    "AVIF": rb".{4}ftyp(?:avi[fs]|m[is]f1.*avi[fs])",  # ISO/IEC 23008-12: the main brand or a compatible one
    "PPM": rb"P[1-6]\s+(?:#|\d+\s+[\d#])",  # a comment, or width and height
    "HEIC": rb".{4}ftyp(?:he[iv][cmsx]|m[is]f1)",
    "PDF": rb"%PDF-",
}
HEAD = re.compile(b"|".join(b"(?P<%s>%s)" % (kind.encode(), head) for kind, head in HEADS.items()), re.DOTALL)
HEAD_SIZE = 64  # bytes
CONVERSIONS = {  # kind of file that isn't read -> error message with a command to convert it
    "HEIC": "is a HEIC photo; convert it to JPEG, as with ImageMagick: magick {file} {jpg}",
    "PDF": "is a PDF; convert it to PNG, as with Poppler: pdftoppm -r 300 -png {file} {stem}",
}
SYSTEM_FILES = (
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "lost+found", "@eadir", "@recycle", "#recycle",
    "$recycle.bin",
)  # fmt: skip
COMMAND_TABLES = ("answers.csv", "sheets.csv")  # what --sort-into and --collect of predict.py list, beside pictures
MAX_PIXELS = 400_000_000  # larger pictures are refused
LARGE = 80_000_000  # pixels; larger pictures are decoded one at a time. Pillow warns from 89 million
MAX_RATIO = 1000  # pixels of a large picture per byte of its file; a blank page with 8 bits a pixel has as many
MAX_NAMED = 10  # names in a message
BYTES_PER_PIXEL = {8: 10, 16: 26}  # bits of a colour, up to -> memory until a large picture is reduced; measured
LONGEST_SIDE = 1024  # pixels; larger pictures are reduced to it when they are read
SUBFILE_TYPE = 254  # a tag in TIFF 6.0, section 8
NO_PAGE = 0b101  # bits of SUBFILE_TYPE: a smaller version of another image, a mask of another image

Encoded = str | Path | bytes | bytearray | memoryview | BinaryIO  # a file's path, its content, or the open file
Picture = Union[Encoded, Image.Image, np.ndarray, "Tensor"]  # see read_picture


# Pillow's warnings about odd metadata. Ignored once, for warnings.catch_warnings isn't safe with several threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
_one_large = threading.Lock()


class PictureError(UserError):
    """A picture can't be used, because its file can't be read or it shows no ink; the message names the reason."""


class PictureFiles(NamedTuple):
    """The picture files that a command line names, and the problems with the rest."""

    files: list[Path]  # to be read, in the given order; the files of a folder by name
    skipped: dict[str, list[Path]]  # kind ("": no picture, or one of CONVERSIONS) -> files in folders
    unread: dict[Path, str]  # folders, and files in folders, that can't be read -> reason
    empty: dict[Path, str]  # folders without a picture -> advice
    closed: list[Path]  # folders with pictures, and with folders that are not looked into

    def refused(self) -> dict[Path, str]:
        """The reason for each file that can't be read though it may be a picture, and each such folder."""
        files = [(path, kind) for kind, paths in self.skipped.items() if kind for path in paths]
        return self.unread | {path: _conversion(kind, path) for path, kind in files}

    def problems(self) -> list[str]:
        """Warnings about what won't be read, a line for each kind of problem."""
        lines = []
        for why in dict.fromkeys(self.unread.values()):
            lines.append(f"{listed([path for path, reason in self.unread.items() if reason == why], 1)}: {why}")
        kinds = ", ".join(FORMATS)
        lines += [f"{printable(folder)}: holds no picture ({kinds}){advice}" for folder, advice in self.empty.items()]
        lines += [f"{printable(folder)}: the folders in it are not looked into; -r does" for folder in self.closed]
        for kind, paths in self.skipped.items():
            if kind:
                each = "each " if len(paths) > 1 else ""
                lines.append(f"{listed(paths, 1)}: {each}{_conversion(kind, paths[0])}")
            else:
                lines.append(f"skipped, for the content is not that of a picture: {listed(paths)}")
        return lines


def _conversion(kind: str, path: str | Path) -> str:
    path = Path(path)
    converted = path.with_stem(f"{path.stem}-converted") if path.suffix == ".jpg" else path
    names = {"file": path, "stem": path.with_suffix(""), "jpg": converted.with_suffix(".jpg")}
    return CONVERSIONS[kind].format(**{key: printable(shlex.quote(str(name))) for key, name in names.items()})


def listed(names: Sequence[str | Path], count: int = MAX_NAMED) -> str:
    """The first `count` names, separated by commas, and the number of the rest: "a, b and 3 more"."""
    more = len(names) - count
    return ", ".join(map(printable, names[:count])) + (f" and {more:,} more" if more > 0 else "")


def find(
    given: Iterable[str | Path], recursive: bool = False, is_excluded: Callable[[Path], bool] = lambda path: False
) -> PictureFiles:
    """Find the pictures that files, folders and patterns name.

    given: a named file is taken whatever its content is; in a folder the files that begin like a picture, except hidden
    and system files. recursive: include subfolders, but don't follow links. is_excluded: True for a picture that is
    skipped in folders, as those that predict.py wrote.
    """
    result = PictureFiles([], {}, {}, {}, [])
    for path in [path for each in given for path in expanded(each)]:
        if not os.path.isdir(path):
            result.files.append(path)
            continue
        before = len(result.files), len(result.unread)
        for each in _files_in(path, recursive, result.unread):
            try:
                kind = kind_of(each)
            except OSError as error:
                result.unread[each] = f"can't be read ({error.strerror or error})"
                continue
            if kind not in FORMATS:
                result.skipped.setdefault(kind, []).append(each)
            elif not is_excluded(each):
                result.files.append(each)
        has_folders = not recursive and path not in result.unread and _has_folders(path)
        if (len(result.files), len(result.unread)) == before:
            result.empty[path] = "; -r looks into its folders" if has_folders else ""
        elif has_folders:
            result.closed.append(path)
    return result


def _has_folders(folder: Path) -> bool:
    with os.scandir(folder) as found:
        return any(each.is_dir(follow_symlinks=False) and not is_hidden(each.name) for each in found)


def kind_of(picture: Encoded) -> str:
    """The kind of a file by its first bytes: one of FORMATS or CONVERSIONS, or "" for any other kind.

    Raises OSError if the file can't be read.
    """
    with contextlib.suppress(PictureError), _binary(picture) as file:
        return _kind(file.read(HEAD_SIZE))
    return ""  # it is a folder, or a pipe


def _kind(head: bytes) -> str:
    match = HEAD.match(head)
    return match.lastgroup if match else ""


def expanded(given: str | Path) -> list[Path]:
    """The paths that match a pattern; a path that exists, or that nothing matches, is itself the only one.

    Windows' shells expand no patterns.
    """
    matches = [] if os.path.lexists(given) else sorted(glob.glob(str(given), recursive=True), key=_file_key)
    return [Path(each) for each in matches or [given]]


def _files_in(folder: Path, recursive: bool, unread: dict[Path, str]) -> Iterator[Path]:
    # The visible files in a folder, by name. Folders that can't be listed are added to `unread`.
    def note(error: OSError) -> None:
        unread[Path(error.filename)] = f"can't be looked into ({error.strerror or error})"

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted((name for name in folders if not is_hidden(name)), key=natural_key) if recursive else []
        yield from (Path(parent, name) for name in sorted(names, key=_file_key) if not is_hidden(name))


def _file_key(name: str) -> list[tuple[int, str]]:
    # without the suffix: anna.jpg before anna2.jpg
    return [*natural_key(os.path.splitext(name)[0]), (-2, name)]


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key to sort names by: page2 before page10."""
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
    return [*parts, (-2, name)]  # the name itself decides between 1 and 01


def is_hidden(name: str) -> bool:
    """True for the name of a hidden file or folder, or of one that isn't the user's.

    Operating systems create some, such as Thumbs.db; predict.py writes COMMAND_TABLES.
    """
    return name.startswith(".") or name.lower() in SYSTEM_FILES or name in COMMAND_TABLES


def size_of(picture: Picture, page: int = 0) -> tuple[int, int] | None:
    """Width and height of a page of a picture, pixels, before EXIF rotation; None if the page can't be read.

    Decodes nothing, except GIFs.
    """
    with contextlib.suppress(PictureError), _opened(picture, page) as image:
        return image.size
    return None


def count_pages(picture: Picture) -> int:
    """The number of pictures in a file: pages of a TIFF, frames of a GIF, 1 for all other kinds. Decodes nothing.

    Smaller versions and masks of a TIFF's pages are not counted. A file that can't be read counts as 1, so that
    read_picture reports the reason.
    """
    with contextlib.suppress(OSError, PictureError):
        if _is_encoded(picture) and kind_of(picture) in ("TIFF", "GIF"):
            with _opened(picture) as image:
                return len(_page_positions(image))
    return 1


def read_picture(picture: Picture, page: int = 0, longest: int = LONGEST_SIDE, min_side: int = 0) -> np.ndarray:
    """Read a picture as RGB, uint8 (H, W, 3).

    picture: a file's path, its content as bytes, or a file open in binary mode, which is read from its beginning and
    stays open; a Pillow image, at its current frame, which stays as it is; a uint8 array (H, W) or (H, W, 3); or a
    torch tensor (1, H, W) or (3, H, W), uint8 or floating-point from 0 to 1.
    page: 0 to count_pages - 1; frames of a GIF are read as they are displayed. longest: a picture that is higher or
    wider is reduced to this number of pixels. min_side: if not 0, a JPEG file is decoded at 1/2, 1/4 or 1/8 of its
    size, which is faster, if both sides keep this number of pixels. A LARGE one always is, if one side keeps `longest`.
    The picture is rotated by its EXIF data, transparent pixels are shown on white, more than 8 bits are reduced to 8.
    Raises PictureError if it isn't a file, is damaged or of another kind, or has more pixels than MAX_PIXELS, MAX_RATIO
    or the memory allow; and TypeError if it is an object of none of these types.
    """
    with _opened(picture, page) as image, contextlib.ExitStack() as stack:
        if isinstance(picture, Image.Image):
            image = ImageOps.exif_transpose(image)  # a copy
        # Pillow's tiles name the format of a pixel in the file, such as RGB;16B
        has_16_bits = image.mode in ("RGB", "RGBA", "LA") and ";16" in str(getattr(image, "tile", ""))
        if math.prod(image.size) > LARGE:
            bits = 16 if has_16_bits or image.mode.startswith(("I", "F")) else 8
            stack.enter_context(_alone(image, longest, BYTES_PER_PIXEL[bits]))
        elif min_side:
            image.draft(None, (min_side, min_side))  # only JPEG files that aren't decoded yet heed it
        image = _in_full_colour(image, picture) if has_16_bits and page == 0 else _in_8_bits(image)
        return _as_rgb(image, longest)


def reduced(picture: np.ndarray, longest: int) -> np.ndarray:
    """Reduce a picture (H, W) or (H, W, C), by averaging, to at most `longest` pixels in height and width."""
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _as_rgb(image: Image.Image, longest: int) -> np.ndarray:
    if image.mode in ("1", "P", "PA"):  # values that can't be averaged, as reducing a picture does
        image = image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((longest, longest), Image.Resampling.BOX)
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


@contextlib.contextmanager
def _alone(image: Image.Image, longest: int, bytes_per_pixel: int) -> Iterator[None]:
    # Decode a large picture, a JPEG reduced, while no other one is decoded. Raises PictureError if it doesn't fit into
    # the memory.
    pixels, bands = math.prod(image.size), len(image.getbands())
    image.draft(None, [max(1, side * longest // max(image.size)) for side in image.size])
    coefficients = 2 * bands * pixels if "progressive" in image.info else 0  # 16 bits each, kept until all are read
    needed = bytes_per_pixel * math.prod(image.size) + coefficients
    with _one_large:
        if needed > (available := available_memory()):
            raise PictureError(f"takes {size_text(needed)} of memory, and {size_text(available)} are free; reduce it")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # checked again when a TIFF is decoded
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _opened(picture: Picture, page: int = 0) -> Iterator[Image.Image]:
    # Open a page of a picture without decoding it. All errors until it is closed become PictureErrors.
    is_encoded = _is_encoded(picture)
    with _picture_errors(), contextlib.ExitStack() as stack:
        if is_encoded:
            file = stack.enter_context(_binary(picture))
            image = stack.enter_context(_image_of(file, picture))
            positions = _page_positions(image) if page or image.format == "TIFF" else [0]
        else:
            image, positions = _image_in_memory(picture), [0]
        if not 0 <= page < len(positions):
            raise PictureError(f"has no page {page + 1:,}")
        if positions[page]:
            image.seek(positions[page])
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise PictureError(f"has {width:,} x {height:,} pixels, and at most {MAX_PIXELS:,} are read; reduce it")
        if is_encoded and width * height > LARGE:
            position, size = file.tell(), file.seek(0, os.SEEK_END)
            file.seek(position)
            if width * height > MAX_RATIO * size:
                what = f"{width:,} x {height:,} pixels in {size:,} bytes"
                raise PictureError(f"has {what}, as decompression bombs do; reduce it")
        yield image


def _is_encoded(picture: Picture) -> bool:
    # Raises TypeError if an object is no picture.
    if isinstance(picture, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(picture, "seekable"):
        return True
    if isinstance(picture, Image.Image | np.ndarray) or hasattr(picture, "detach"):
        return False
    kinds = "a path, bytes, an open binary file, a Pillow image, a NumPy array or a torch tensor"
    raise TypeError(f"a picture must be {kinds}, not {type(picture).__name__}")


def _image_in_memory(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        if 0 in picture.size:
            raise PictureError("has no pixels")
        return picture
    if not isinstance(picture, np.ndarray):
        return Image.fromarray(_array_of(picture))
    if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.ndim < 2 or not picture.size:
        raise PictureError(f"an array must be uint8 (H, W) or (H, W, 3), not {picture.dtype} {picture.shape}")
    return Image.fromarray(picture)


def _array_of(tensor: "Tensor") -> np.ndarray:
    # A torch tensor, uint8 or floating-point from 0 to 1: (1, H, W) -> (H, W), (3, H, W) -> (H, W, 3)
    values = tensor.detach().cpu()
    values = (values.float() if values.is_floating_point() else values).numpy()
    what = f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")
    if values.dtype == np.float32 and values.size:
        if not 0 <= values.min() <= values.max() <= 1:  # NaN, too, is out of this range
            what = f"{what} from {values.min():.3g} to {values.max():.3g}"
        else:
            values = (values * 255).round().astype(np.uint8)
    if values.dtype != np.uint8 or values.ndim != 3 or len(values) not in (1, 3) or not values.size:
        raise PictureError(f"a tensor must be (1, H, W) or (3, H, W), uint8 or floats from 0 to 1, not {what}")
    return values[0] if len(values) == 1 else values.transpose(1, 2, 0)


@contextlib.contextmanager
def _binary(picture: Encoded) -> Iterator[BinaryIO]:
    # The content of an encoded picture as an open file, at its beginning.
    if isinstance(picture, bytes | bytearray | memoryview):
        yield io.BytesIO(picture)
    elif isinstance(picture, str | os.PathLike):
        if not stat.S_ISREG(os.stat(picture).st_mode):  # opening a pipe would wait until something writes to it
            raise PictureError("is not a file")
        with open(picture, "rb") as file:  # given a path, Pillow 13 garbles rotated TIFFs
            yield file
    elif picture.closed:
        raise PictureError("is closed")
    elif picture.read(0) == "":
        raise PictureError("is open as text; open it in binary mode")
    elif not picture.seekable():
        raise PictureError("can't be read from its beginning; give the bytes that its read() returns")
    else:
        picture.seek(0)
        yield io.BytesIO(picture.read())  # Pillow may close the file that it gets, or go around it to its descriptor


def _image_of(file: BinaryIO, picture: Encoded) -> Image.Image:
    head = file.read(HEAD_SIZE)
    file.seek(0)
    if not head:
        raise PictureError("is empty")
    kind = _kind(head)
    if kind in FORMATS:
        Image.preinit()
        if kind not in Image.OPEN:
            Image.init()
        open_file, _ = Image.OPEN[kind]  # Image.open is the same, with a limit of 179 million pixels
        return open_file(file, "")
    if kind in CONVERSIONS:
        path = picture if isinstance(picture, str | os.PathLike) else f"picture.{kind.lower()}"
        raise PictureError(_conversion(kind, path))
    raise PictureError(f"is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file; convert it to one of these")


def _page_positions(image: Image.Image) -> Sequence[int]:
    # The positions of pages among the images of an opened file. A TIFF's smaller versions and masks are no pages.
    if image.format == "GIF":
        try:
            return range(image.n_frames)
        except Exception:  # Pillow raises many types for a damaged frame; it is counted: reading it fails
            return range(image.tell() + 2)
    if image.format != "TIFF":
        return [0]
    positions = []
    for position in itertools.count():
        try:
            image.seek(position)
            if not image.tag_v2.get(SUBFILE_TYPE, 0) & NO_PAGE:
                positions.append(position)
        except EOFError:  # after the last image
            break
        except Exception:  # Pillow raises many types for a damaged image; its position is kept: reading it fails
            positions.append(position)
            break
    image.seek(0)  # away from a damaged image, to which seek would not go again
    return positions or [0]


# --- errors, and pixels of every kind ---


@contextlib.contextmanager
def _picture_errors() -> Iterator[None]:
    # Turn the exceptions that Pillow raises for a file that can't be read into PictureErrors.
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError:  # Pillow's limit for a WebP or GIF, checked when they are opened
        raise PictureError("has more pixels than are read in this format; reduce it, or save it as a JPEG") from None
    except MemoryError:
        raise PictureError("needs more memory than is free") from None
    except Exception as error:  # Pillow raises many types for damaged files
        if isinstance(error, OSError) and error.errno:  # from the operating system; Pillow's have no number
            raise PictureError(f"can't be read ({error.strerror})") from None
        raise PictureError(f"is damaged or cut short ({error})") from None


def _in_8_bits(image: Image.Image) -> Image.Image:
    # Files don't record how many bits are used (12 bits are stored as 16), so full scale is taken to be the next power
    # of two above the highest value.
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image)).clip(0)
    return _like(image, _scaled(values) if values.max() > 1 else (values * 255).round().astype(np.uint8))


def _scaled(values: np.ndarray) -> np.ndarray:
    bits = max(8, int(values.max()).bit_length())
    if values.dtype.kind == "f":
        return (values * np.float32(255 / (2.0**bits - 1))).round().clip(max=255).astype(np.uint8)
    return (values >> (bits - 8)).astype(np.uint8)


def _like(image: Image.Image, values: np.ndarray) -> Image.Image:
    # An image of other values with the metadata of this one, such as its rotation.
    other = Image.fromarray(values)
    other.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return other


def _in_full_colour(image: Image.Image, picture: Encoded) -> Image.Image:
    # Read the file with OpenCV, which keeps 16 bits per channel; returns `image` if it can't. Pillow keeps the upper 8,
    # which loses most of a picture with fewer than 16 bits.
    image.load()  # raises an exception if the file is damaged
    with _binary(picture) as file:
        values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[1::-1] != image.size or values.ndim != 3:
        return image
    return _like(image, np.dstack([_scaled(values[..., 2::-1]), values[..., 3:] >> 8]).astype(np.uint8))
