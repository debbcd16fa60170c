"""Data sets of user images: pictures in a folder or an archive, or arrays in a file.

Decoded images are cached in the user's cache folder and read from it until one of the files changes.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import math
import os
import shutil
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from neural_lib.config import DEFAULT_SIZE, MAX_SMALL_SIZE, TrainConfig, option_name
from neural_lib.data.archives import Member, Source, content_of, open_archive
from neural_lib.data.arrays import (
    Arrays,
    is_npz,
    is_pixel_table,
    pixel_tables,
    read_kuzushiji,
    read_npz,
    read_pixel_tables,
    shorter_side,
)
from neural_lib.data.catalog import DATASETS, PARTS, DatasetInfo, Placement, Preparation, dataset_error
from neural_lib.data.groups import groups_of
from neural_lib.data.ink import prepare, to_grey
from neural_lib.data.listing import LAYOUT, TABLES, Listing, list_files
from neural_lib.data.pictures import (
    MAX_NAMED,
    PictureError,
    count_pages,
    is_hidden,
    listed,
    read_picture,
    reduced,
    size_of,
)
from neural_lib.system.distributed import is_main
from neural_lib.system.environment import check_memory, size_text, usable_cores
from neural_lib.system.errors import UserError, printable
from neural_lib.system.files import MappedPages, atomic_write, make_folder, remove_abandoned

KEPT_SIZES = range(16, MAX_SMALL_SIZE + 1)  # pixels; images that are all squares of one of them keep it. LeNet needs 16
SAMPLE = 10  # pictures of a folder that decide if a data set shows photos
BATCH = 16  # pictures per task of a thread
BATCH_BYTES = 1 << 25  # of the files of a task that are read from an archive
# Bytes per file up to which one thread reads faster: threads that read small files wait for each other.
# Measured with 20,000 files: 2.0 s with one thread, 4.5 s with two.
SMALL_FILE = 10_000
GREY_TOLERANCE = 8  # largest difference of a grey picture's channels, levels of 255; lossy WebP has no exact grey
MAX_CLASSES = 2000  # the confusion matrix of more is too large for the report's files
UNEQUAL_FROM = 3  # times as many images of one class as of another are worth a hint
CACHE_FORMAT = 5  # increase it when a change of the code makes the same files decode to other pixels
LENGTH_BYTES = 8  # at the end of a cache file: the length of its header
SMALLER = "give a smaller --image-size, or fewer images"
ELSEWHERE = f"set XDG_CACHE_HOME to a folder on a disk with more room, or {SMALLER}"

log = logging.getLogger(__name__)


class Request(NamedTuple):
    """The requested preparation of images, from TrainConfig's hyper-parameters of these names."""

    image_size: int = 0  # pixels; 0: the common size of the pictures, or DEFAULT_SIZE
    fit: str = "crop"
    writing: bool = False

    def preparation(self, sizes: Iterable[tuple[int, int] | None]) -> Preparation:
        """Resolve the request to a Preparation for colour pictures. sizes: see common_size."""
        if not self.writing:
            return Preparation(self.image_size or common_size(sizes), 3, None, self.fit)
        kmnist = DATASETS["kmnist"]
        size = self.image_size or kmnist.image_size
        box, centre, stroke = kmnist.placement
        scale = size / kmnist.image_size
        return Preparation(size, 1, Placement(round(box * scale), centre, stroke * scale))


class Decoded(NamedTuple):
    """Decoded pictures, all of one size."""

    images: np.ndarray | None  # uint8 (M, C, S, S); zeros for a picture that was left out; None if they are in a file
    preparation: Preparation
    left_out: dict[int, str]  # index of a picture that could not be read -> reason
    several_pages: list[int]  # indices of files with several pages, of which the first is the image


class Collection(NamedTuple):
    """A data set of user images, all parts in one array."""

    path: str
    classes: list[str]
    images: np.ndarray  # uint8 (M, C, S, S); to be read only, as they may be mapped from a file
    labels: np.ndarray  # int64 (M,)
    indices: Mapping[str, np.ndarray]  # part (one of PARTS) -> indices of its images, ascending; only existing parts
    names: Sequence[str]  # (M,), a name for each image, such as its file's path
    preparation: Preparation
    groups: Sequence[str] = ()  # (M,), the group of each image; empty if no grouping is asked for

    def info(self, train_size: int, test_size: int) -> DatasetInfo:
        """The facts of this data set, in the form of a catalogue entry."""
        return DatasetInfo(
            title=os.path.basename(self.path), classes=tuple(self.classes), train_size=train_size, test_size=test_size,
            licence="", source="", mirrors=self.preparation.placement is None, **self.preparation._asdict(),
        )  # fmt: skip


def load(
    path: str, how: Request | Preparation, use_cache: bool = True, from_names: bool = False, group_by: str = ""
) -> Collection:
    """Read a data set of user images.

    path: a folder or an archive of pictures, a table of file names and labels, or arrays in an .npz or .csv file.
    how: a Request reads it for training, a trained network's Preparation for scoring, which needs no training part.
    from_names, group_by: see list_files.
    Raises UserError, naming the file or folder, if it holds no data set, one that is too large for the memory, or an
    image without a group.
    """
    if os.path.isfile(path) and is_npz(path):
        return _from_arrays(path, *read_npz(path), how, group_by)
    if tables := {"train": path} if os.path.isfile(path) and is_pixel_table(path) else pixel_tables(path):
        return _from_arrays(path, *read_pixel_tables(path, tables), how, group_by)
    if several := sorted(Path(path).glob("*-train-imgs.npz")):
        if len(several) > 1:
            names = listed([each.name for each in several])
            raise dataset_error(path, f"holds several data sets: {names}; move one of them")
        return _from_arrays(path, *read_kuzushiji(several[0]), how, group_by)
    with list_files(path, from_names, group_by) as listing:
        return _from_files(path, listing, how, use_cache)._replace(groups=listing.groups)


def _check_trainable(
    path: str, how: Request | Preparation, classes: Sequence[str], parts: Iterable[str], hint: str = ""
) -> None:
    if isinstance(how, Request) and "train" not in parts:
        raise dataset_error(path, f"has images for {' and '.join(parts)} alone, and none to train on")
    if isinstance(how, Request) and len(classes) > MAX_CLASSES:
        why = f"has {len(classes):,} classes, and {MAX_CLASSES:,} is the limit; is each folder a class?"
        raise dataset_error(path, why)
    if isinstance(how, Request) and len(classes) < 2:
        why = f"{printable(classes[0])} is the only class, and there must be two or more; {hint or LAYOUT}"
        raise dataset_error(path, why)


def _collect(
    path: str,
    classes: list[str],
    names: Sequence[str],
    labels: np.ndarray,
    parts: np.ndarray,
    decoded: Decoded,
    stray: Sequence[str] = (),
) -> Collection:
    # Build the data set from decoded pictures, and warn of files that are left out. parts: each picture's part; stray:
    # names of files in no class's folder. Raises UserError if a part, or a class to train on, has no readable picture.
    left_out = [(name, "belongs to no class") for name in stray]
    left_out += [(names[index], why) for index, why in sorted(decoded.left_out.items())]
    if left_out:
        lines = [f"    {printable(name)}: {why}" for name, why in left_out[:MAX_NAMED]]
        if len(left_out) > MAX_NAMED:
            lines.append(f"    and {len(left_out) - MAX_NAMED:,} more")
        count = f"{len(left_out):,} file{'s are' if len(left_out) > 1 else ' is'}"
        log.warning("%s: %s left out\n%s", printable(os.path.basename(path)), count, "\n".join(lines))
    is_read = np.ones(len(labels), dtype=bool)
    is_read[list(decoded.left_out)] = False
    indices = {part: np.flatnonzero(is_read & (parts == part)) for part in PARTS if (parts == part).any()}
    empty = [f"{part}/" for part, chosen in indices.items() if part != "train" and not len(chosen)]
    if "train" in indices:
        known = set(labels[indices["train"]].tolist())
        empty += [name for label, name in enumerate(classes) if label not in known]
    if empty:
        raise dataset_error(path, f"no picture that can be read in {listed(empty)}; add some, or leave it out")
    return Collection(path, classes, decoded.images, labels, indices, names, decoded.preparation)


# --- files and arrays ---


def _from_files(path: str, listing: Listing, how: Request | Preparation, use_cache: bool) -> Collection:
    classes, files, stray = listing.classes, listing.files, listing.stray
    _check_trainable(path, how, classes, {each.part for each in files}, listing.hint)
    for note in listing.notes:
        log.info("%s: %s", printable(os.path.basename(path)), note)
    names, digest = [each.path for each in files], _digest(CACHE_FORMAT, files)
    labels, parts = np.array([each.label for each in files]), np.array([each.part for each in files])

    def collect(decoded: Decoded) -> Collection:
        collection = _collect(path, classes, names, labels, parts, decoded, stray)
        if several := [names[index] for index in decoded.several_pages]:
            title = printable(os.path.basename(path))
            log.warning("%s: only the first page of a file is an image: %s", title, listed(several))
        return collection

    if cached := _cached(path, digest, how) if use_cache else None:
        return collect(cached)
    sources = [listing.source(name) for name in names]
    preparation = how.preparation(map(_size_of, _as_stored(sources))) if isinstance(how, Request) else how
    may_become_grey = isinstance(how, Request) and preparation.channels == 3
    pictures = Pictures(sources, preparation, may_become_grey, sum(each.size for each in files) / len(files))
    if not use_cache:
        return collect(decode(path, pictures))
    try:
        return _keep(path, digest, how, pictures, collect)
    except OSError as error:
        reason = f"{error.filename or cache_folder()}: the images can't be cached ({error.strerror or error})"
    collection = collect(decode(path, pictures, f"{reason}; {ELSEWHERE}"))
    log.warning("%s, so the next run decodes them again", reason)
    return collection


def _from_arrays(path: str, classes: list[str], parts: Arrays, how: Request | Preparation, group_by: str) -> Collection:
    _check_trainable(path, how, classes, parts, "all labels are equal")
    names = [f"{part.name}[{index}]" for part in parts.values() for index in range(len(part.images))]
    groups = groups_of(path, names, group_by)
    labels = np.concatenate([part.labels for part in parts.values()])
    part_of = np.repeat(list(parts), [len(part.labels) for part in parts.values()])
    arrays = [part.images for part in parts.values()]
    sizes = {images.shape[2:0:-1] for images in arrays}  # (width, height)
    has_colour = any(images.ndim == 4 and not _is_grey(images) for images in arrays)
    preparation = how.preparation(sizes) if isinstance(how, Request) else how
    if isinstance(how, Request) and not has_colour:
        preparation = preparation._replace(channels=1)
    is_square = preparation.placement is None and sizes == {(preparation.image_size,) * 2}
    has_channels = not has_colour if preparation.channels == 1 else all(images.ndim == 4 for images in arrays)
    if is_square and has_channels:  # the arrays can be used unchanged
        arrays = [images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None] for images in arrays]
        images = np.concatenate([images[:, : preparation.channels] for images in arrays])
        decoded = Decoded(images, preparation, {}, [])
    else:
        pictures = [image for images in arrays for image in images]
        mean_bytes = sum(image.nbytes for image in pictures) / len(pictures)
        decoded = decode(path, Pictures(pictures, preparation, False, mean_bytes))
    return _collect(path, classes, names, labels, part_of, decoded)._replace(groups=groups)


# --- decoding ---


def common_size(sizes: Iterable[tuple[int, int] | None]) -> int:
    """The height and width in pixels of pictures that are all squares of one of KEPT_SIZES, else DEFAULT_SIZE.

    sizes: (width, height) of each picture, None for a file that can't be read; consumed only as far as needed.
    """
    first = None
    for size in sizes:
        first = first or size
        if size and (size != first or size[0] != size[1] or size[0] not in KEPT_SIZES):
            return DEFAULT_SIZE
    return first[0] if first else DEFAULT_SIZE


def shows_photos(path: str, from_names: bool = False) -> bool:
    """True if the pictures of a data set are photos rather than small images: if most are larger than 64 pixels.

    The shorter side counts. SAMPLE pictures of each folder at the top are looked at, or about as many in all of an
    archive or a table, of arrays the first one. from_names: see list_files. False if there are no pictures, or the path
    can't be read; `load` reports why.
    """
    if os.path.isfile(path) and (is_npz(path) or is_pixel_table(path)):
        with contextlib.suppress(Exception):  # NumPy raises exceptions of many types
            return shorter_side(path) > MAX_SMALL_SIZE
        return False
    sizes = []
    if os.path.isdir(path):  # a few of each folder, which takes less time than to list all
        with contextlib.suppress(OSError):
            inner = [entry.path for entry in os.scandir(path) if entry.is_dir() and not is_hidden(entry.name)]
            sizes = [size for folder in (path, *inner) for size in itertools.islice(_sizes_in(folder), SAMPLE)]
    else:
        with contextlib.suppress(UserError), list_files(path, from_names) as listing:
            spread = listing.files[:: max(1, len(listing.files) // SAMPLE)]
            sources = _as_stored([listing.source(each.path) for each in spread])
            sizes = [size for source in sources if (size := _size_of(source))]
    return bool(sizes) and statistics.median(map(min, sizes)) > MAX_SMALL_SIZE


def _sizes_in(folder: str) -> Iterator[tuple[int, int]]:
    # Width and height of the pictures in a folder and its folders, pixels: of a few in each, which don't depend on the
    # order in which the file system lists them.
    for parent, folders, names in os.walk(folder):
        folders.sort()
        visible = sorted(name for name in names if not is_hidden(name))
        for name in visible[:: -(-len(visible) // SAMPLE) or 1]:
            if size := size_of(os.path.join(parent, name)):
                yield size


def _as_stored(sources: Sequence[Source]) -> list[Source]:
    # Pictures in the order in which they are read fastest: that of the archive that they are in.
    return sorted(sources, key=lambda each: each.position if isinstance(each, Member) else 0)


def _size_of(source: Source) -> tuple[int, int] | None:
    with contextlib.suppress(PictureError):
        return size_of(content_of(source))
    return None


class Pictures(NamedTuple):
    """Pictures to decode, and how."""

    sources: Sequence[Source | np.ndarray]
    preparation: Preparation
    may_become_grey: bool  # True to reduce the images to one channel if all pictures are grey
    mean_bytes: float  # mean size of a picture, bytes

    @property
    def size(self) -> int:
        """The size of the images, bytes."""
        return math.prod(_shape(self.sources, self.preparation))

    def __str__(self) -> str:
        return f"{len(self.sources):,} images of {self.preparation.image_size}x{self.preparation.image_size} pixels"


def _shape(sources: Sequence, preparation: Preparation) -> tuple[int, int, int, int]:
    return len(sources), preparation.channels, preparation.image_size, preparation.image_size


def decode(path: str, pictures: Pictures, advice: str = SMALLER) -> Decoded:
    """Decode pictures in memory. path: the data set's name in messages.

    Raises UserError, which ends in the advice, if the images need more memory than is free.
    """
    check_memory(f"--dataset {printable(path)}: {pictures} take", pictures.size, advice)
    file = io.BytesIO()
    decoded = decode_to(file, pictures)
    shape = _shape(pictures.sources, decoded.preparation)
    return decoded._replace(images=np.frombuffer(file.getbuffer(), np.uint8).reshape(shape))


def decode_to(file: BinaryIO, pictures: Pictures) -> Decoded:
    """Write the pixels of decoded pictures to an empty file; on all cores unless the pictures are small.

    Returns Decoded without images. Raises OSError if the file can't be written.
    """
    sources, preparation, may_become_grey, mean_bytes = pictures
    count, *shape = _shape(sources, preparation)
    left_out, in_colour, several_pages, lock = {}, [], [], threading.Lock()
    batches = _batches(sources)
    waiting = iter(batches)

    def read_batch(_: int) -> int:
        with lock:  # an archive is read in its order, whichever thread comes first
            batch = next(waiting)
            read = [_content(sources[index]) for index in batch]
        images = np.zeros((len(batch), *shape), np.uint8)
        for image, index, source in zip(images, batch, read, strict=True):
            try:
                if isinstance(source, PictureError):
                    raise source
                picture = read_picture(source, min_side=preparation.min_side)
                image[:] = prepare(picture, preparation)
            except PictureError as error:
                left_out[index] = str(error)
                continue
            if not isinstance(source, np.ndarray) and count_pages(source) > 1:
                several_pages.append(index)
            if may_become_grey and not in_colour and not _is_grey(picture, GREY_TOLERANCE):
                in_colour.append(index)
        with lock:
            if batch == [*range(batch[0], batch[0] + len(batch))]:  # side by side, unless an archive has another order
                images, batch = [images], batch[:1]
            for pixels, index in zip(images, batch, strict=True):
                file.seek(index * math.prod(shape))
                file.write(pixels)
        return len(read)

    disable = not is_main() or None  # None: unless stderr is a terminal
    bar = tqdm(total=count, desc="reading", unit=" images", leave=False, disable=disable, dynamic_ncols=True)
    threads = usable_cores() if mean_bytes > SMALL_FILE else 1
    with bar, ThreadPoolExecutor(threads) as pool:
        # on an exception such as Ctrl-C it cancels all later batches
        for done in pool.map(read_batch, range(len(batches))):
            bar.update(done)
    if may_become_grey and not in_colour:
        for index in range(count):  # each grey image takes the place of an earlier one in colour
            file.seek(index * math.prod(shape))
            image = np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
            # The first channel alone would not do: enlarged channels can differ by 1, and prepare uses to_grey.
            file.seek(index * image[0].nbytes)
            file.write(to_grey(image.transpose(1, 2, 0)))
        file.truncate()
        preparation = preparation._replace(channels=1)
    return Decoded(None, preparation, left_out, sorted(several_pages))


def _batches(sources: Sequence[Source | np.ndarray]) -> list[list[int]]:
    # The indices of the sources in batches of at most BATCH, or fewer large files that are read from an archive, in the
    # archive's order.
    batches, size = [[]], 0
    for index in sorted(range(len(sources)), key=lambda index: getattr(sources[index], "position", index)):
        added = sources[index].size if isinstance(sources[index], Member) else 0
        if len(batches[-1]) == BATCH or batches[-1] and size + added > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(index)
        size += added
    return batches


def _content(source: Source | np.ndarray) -> str | bytes | np.ndarray | PictureError:
    # What read_picture takes, or the reason why it can't be read from its archive.
    try:
        return content_of(source)
    except PictureError as error:
        return error


def _is_grey(pictures: np.ndarray, tolerance: int = 0) -> bool:
    # True if neighbouring channels of pictures (..., 3) differ by no more than the tolerance, levels of 255.
    return bool((cv2.absdiff(pictures[..., :2], pictures[..., 1:]) <= tolerance).all())


def _is_table(dataset: str) -> bool:
    return dataset.lower().endswith(TABLES) and not os.path.isdir(dataset)


def path_of(dataset: str, name: str) -> str:
    """The path of an image of a data set: of its file, or its place in an archive or a file of arrays.

    dataset: a path, or the name of a data set of the catalogue, whose images have a name alone. name: as in Collection.
    """
    if dataset in DATASETS:
        return name
    return os.path.join(os.path.dirname(dataset) if _is_table(dataset) else dataset, name)


def read_originals(dataset: str, names: Sequence[str], longest: int) -> dict[str, np.ndarray]:
    """The pictures in files of a data set, by name: RGB, uint8 (H, W, 3), whole, of at most `longest` pixels.

    dataset, names: see path_of. Images that aren't in files, and files that can't be read, are left out.
    """
    with contextlib.ExitStack() as stack:
        sources: dict[str, Source] = {}
        if not names or dataset in DATASETS or os.path.isfile(dataset) and (is_npz(dataset) or is_pixel_table(dataset)):
            return {}
        if os.path.isdir(dataset) or _is_table(dataset):
            sources = {name: path for name in names if os.path.isfile(path := path_of(dataset, name))}
        else:
            with contextlib.suppress(UserError):
                members = stack.enter_context(open_archive(dataset))
                wanted = set(names)
                sources = {each.name: each for each in members if each.name in wanted}

        def read(name: str, content: object) -> tuple[str, np.ndarray | None]:
            with contextlib.suppress(PictureError):
                if not isinstance(content, PictureError):
                    return name, reduced(read_picture(content, min_side=longest), longest)
            return name, None

        read_names, found = list(sources), {}
        with ThreadPoolExecutor(usable_cores()) as pool:
            for batch in _batches(list(sources.values())):  # files of an archive are read by one thread
                contents = [_content(sources[read_names[index]]) for index in batch]
                found |= pool.map(read, [read_names[index] for index in batch], contents)
        return {name: picture for name, picture in found.items() if picture is not None}


# --- the cache: each file is the images' bytes, the header (JSON), and the header's length ---


def cache_folder() -> Path:
    """The folder of cached images, which can be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "neural_lib")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()


def _cached(path: str, listing: str, how: Request | Preparation) -> Decoded | None:
    # The cached images of a folder, or None. listing: digest of the files that they were decoded from.
    for file in cache_folder().glob(f"{_digest(path)[:16]}-*.images"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError), file.open("rb") as handle:
            handle.seek(-LENGTH_BYTES, os.SEEK_END)
            length = int.from_bytes(handle.read())
            end = handle.seek(-LENGTH_BYTES - length, os.SEEK_END)
            header = json.loads(handle.read(length))
            size, channels, placement, fit = header["preparation"]
            preparation = Preparation(size, channels, Placement(*placement) if placement else None, fit)
            request = header["request"] and Request(*header["request"])
            if header["listing"] == listing and how in (preparation, request):
                shape = (header["count"], channels, size, size)
                left_out = {int(index): why for index, why in header["left_out"].items()}
                if math.prod(shape) == end:
                    return Decoded(_mapped(file, shape), preparation, left_out, header["several_pages"])
    return None


def _mapped(file: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    return np.memmap(file, np.uint8, "c", 0, shape)


def _keep(
    path: str,
    listing: str,
    how: Request | Preparation,
    pictures: Pictures,
    collect: Callable[[Decoded], Collection],
) -> Collection:
    # Decode pictures straight into a file of the cache and map it: the images may be larger than the memory. `collect`
    # is called before the file takes its name, so that nothing is kept of a data set that it refuses.
    # Raises UserError if the disk has too little room for them, and OSError if the file can't be written.
    folder = cache_folder()
    file = folder / f"{_digest(path)[:16]}-{_digest(how)[:8]}.images"
    make_folder(folder)
    remove_abandoned(file)
    with atomic_write(file) as handle:
        free = shutil.disk_usage(folder).free
        if pictures.size > free:
            sizes = f"{size_text(pictures.size)}, and {size_text(free)} are free in {folder}"
            raise dataset_error(path, f"{pictures} take {sizes}; {ELSEWHERE}")
        decoded = decode_to(handle, pictures)
        collection = collect(decoded)
        request = how if isinstance(how, Request) else None
        header = decoded._asdict() | {"path": printable(path), "listing": listing, "request": request}
        content = json.dumps(header | {"count": len(pictures.sources)}).encode()
        handle.seek(0, os.SEEK_END)
        handle.write(content + len(content).to_bytes(LENGTH_BYTES))
    return collection._replace(images=_mapped(file, _shape(pictures.sources, decoded.preparation)))


def log_summary(collection: Collection, parts: Mapping[str, np.ndarray], config: TrainConfig) -> None:
    """Log what a data set holds and how it is divided, and warn of what makes its scores doubtful.

    parts: "training", "validation" and "test" -> indices of their images, as config divides them.
    """
    title, (size, channels, placement, fit) = os.path.basename(collection.path), collection.preparation
    counts = np.bincount(collection.labels[collection.indices["train"]], minlength=len(collection.classes)).tolist()
    named = [f"{name} ({count:,})" for name, count in zip(collection.classes, counts, strict=True)]
    colour = "in colour" if channels == 3 else "grey"
    shape = {"crop": "the middle of each", "pad": "padded to squares", "stretch": "stretched to squares"}[fit]
    how = "their ink placed as KMNIST's" if placement else shape
    log.info("%s: %d classes, %s images to learn from: %s", title, len(counts), f"{sum(counts):,}", listed(named))
    log.info("%s: %dx%d pixels, %s, %s", title, size, size, colour, how)
    for part in ("test", *(["validation"] if "val" in collection.indices else [])):
        known = set(collection.labels[parts[part]].tolist())
        if missing := [name for label, name in enumerate(collection.classes) if label not in known]:
            log.warning("%s: the %s part has no image of %s", title, part, listed(missing))
    source, val_source = config.test_source(collection.indices), config.val_source(collection.indices)
    held_out, to_validate = f"{len(parts['test']):,}", f"{len(parts['validation']):,}"
    share = f"{config.test_split:.0%} of each class, drawn by seed {config.seed}"
    share = f"whole groups, as near as they come to {share}" if config.group_by else share
    if source == "test":
        names = [name for name in ("test", "test_split") if getattr(config, name) != getattr(TrainConfig, name)]
        if names:
            log.warning("%s has no effect, as the test part of %s is given", option_name(names[0]), title)
    elif source == "val" and val_source == "val":
        log.info("%s: %s images of val/ are held out for test: %s; %s validate", title, held_out, share, to_validate)
    elif source == "val":
        log.info("%s: the %s images of val/ are the test set; %s of train/ validate", title, held_out, to_validate)
    elif val_source == "val":
        which = f"{held_out} images of train/ are held out for test ({share}), while the {to_validate} images of val/"
        log.info("%s has no test/: %s validate; --test val scores val/ as test instead", title, which)
    else:
        log.info("%s: %s images are held out for test: %s", title, held_out, share)
    if config.group_by:
        _log_groups(title, {part: {collection.groups[index] for index in parts[part]} for part in parts}, config)
    warn_if_unequal(collection.classes, counts, config)
    if copies := same_images(collection.images, parts):
        examples = "; ".join(f"{collection.names[one]} and {collection.names[other]}" for one, other in copies[:2])
        images, are = (f"{len(copies):,} images", "are") if len(copies) > 1 else ("1 image", "is")
        text = "%s of the validation or test part %s in an earlier part, too, so the scores promise too much: %s"
        log.warning(text, images, are, examples)


def _log_groups(title: str, groups: Mapping[str, set[str]], config: TrainConfig) -> None:
    # groups: the groups in each part, as in log_summary. Only parts that are given can share one.
    every, (train, val, test) = set.union(*groups.values()), (f"{len(each):,}" for each in groups.values())
    counts = f"{train} train, {val} validate, {test} test"
    log.info("%s: %s groups by %s: %s", title, f"{len(every):,}", printable(config.group_by), counts)
    if shared := sorted(name for name in every if sum(name in part for part in groups.values()) > 1):
        are = "groups are" if len(shared) > 1 else "group is"
        text = "%s: %d %s in two parts, because these are given, so the scores promise too much: %s"
        log.warning(text, title, len(shared), are, listed(shared))


def warn_if_unequal(classes: Sequence[str], counts: Sequence[int], config: TrainConfig) -> None:
    """Warn if one class has many times the training images of another and the loss doesn't make up for it.

    counts: images of each class.
    """
    common, rare = counts.index(max(counts)), counts.index(min(counts))
    ratio = counts[common] / max(counts[rare], 1)
    if ratio >= UNEQUAL_FROM and config.class_weights == "none":
        log.warning(
            "%s has %.1f times as many images as %s: --class-weights balanced weighs all classes alike, and "
            "--monitor f1 chooses the epoch by a score that does",
            *(classes[common], ratio, classes[rare]),
        )


def same_images(images: np.ndarray, parts: Mapping[str, np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of images (M, C, S, S) with equal pixels in two parts: the index in the earlier part, then in the later."""
    seen: dict[bytes, tuple[str, int]] = {}
    pairs, pages = [], MappedPages(images.base)
    for part, indices in parts.items():
        for index in indices.tolist():
            digest = hashlib.blake2b(images[index].tobytes(), digest_size=16).digest()
            pages.add(1, images[index].nbytes)
            first_part, first = seen.setdefault(digest, (part, index))
            if first_part != part:
                pairs.append((first, index))
    return pairs
