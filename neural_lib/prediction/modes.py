"""The modes of predict.py: answers in tables, JSON, annotated pictures and windows; the network as a file or a page."""

import contextlib
import json
import logging
import os
import shutil
import sys
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.cells import cell_len, set_cell_size
from torch import Tensor
from tqdm import tqdm

from neural_lib.checkpoint import Checkpoint
from neural_lib.config import TrainConfig
from neural_lib.data.catalog import DATASETS, title_of
from neural_lib.data.download import DownloadError, is_available
from neural_lib.data.images import ImageTensors, Parts, load_images, load_user_test_images, pixels_of
from neural_lib.data.pictures import PictureFiles, listed
from neural_lib.evaluation import annotate
from neural_lib.prediction.export import export_network
from neural_lib.prediction.recogniser import Reading, Recogniser, Source, convert
from neural_lib.prediction.sort import Sorting
from neural_lib.prediction.webpage import export_page
from neural_lib.prediction.window import show_one_by_one
from neural_lib.system.errors import RunError, UserError, printable
from neural_lib.system.files import write_file

MIN_PATH = 20  # columns of the terminal; fewer next best classes are listed if a path has less room
NUMBER_WIDTH = 3  # columns of a character's number; numbers above 999 are wider

log = logging.getLogger(__name__)


def recognise_pictures(
    recogniser: Recogniser,
    to_read: PictureFiles,
    output: Path | None,
    *,
    invert: str,
    order: str | None,
    top: int,
    as_json: bool,
    show_input: bool,
    show: bool,
    into: Sorting | None = None,
) -> None:
    """Print the answers to each picture, write the annotated pictures to `output`, and show them in a window.

    invert, order, top: see Recogniser.read_files. show_input: show the network's input beside a single character, and
    beside a photo also what decided, as a heat map. into: copies each picture, of which only the first page is read,
    into the folder of its class.
    A picture that can't be read gets a warning. Raises RunError if no picture can be read.
    """
    for line in to_read.problems():
        log.warning("%s", line)
    refused = to_read.refused()
    for path, why in refused.items() if as_json else ():
        print(json.dumps(Reading(Source(path), reason=why).to_dict()), flush=True)
    files = into.begin(to_read.files, refused) if into else to_read.files
    if not to_read.files:
        raise RunError("there is no picture to recognise; name files, or folders that hold pictures")
    saved = recogniser.saved
    recognised = "recognised" if saved.placement else "answered"  # characters and drawings, or photos
    if invert != "auto" and not saved.placement:
        title = title_of(saved.dataset)
        log.warning("--invert %s changes nothing: for %s pictures are taken as they are", invert, title)
    has_pages = order is not None and recogniser.reads_pages
    table = AnswerTable(saved, files, top, shutil.get_terminal_size().columns, has_pages)
    names = Counter(path.name for path in files)
    montage = annotate.Montage(output) if output else None
    room = annotate.PAGE if show else 0  # pictures that can still be kept for the window
    kept: list[Callable[[int], np.ndarray]] = []  # see _drawing
    are_sure, pictures, total = [], 0, len(refused)  # are_sure: of each answer
    with_heat = show_input and not saved.placement
    with tqdm(files, unit=" files", leave=False, disable=None, dynamic_ncols=True) as progress:
        readings = recogniser.read_files(progress, invert, order, top, first_page=into is not None)
        for result in into.sort(readings) if into else readings:
            total += 1
            if as_json or result.answers:
                text = json.dumps(result.to_dict()) if as_json else table.format(result)
                tqdm.write(text, file=sys.stdout)  # makes room beside the progress bar
                sys.stdout.flush()
            if not result.answers:
                log.warning("%s: %s", printable(result.source.name), result.reason)
                continue
            pictures += 1
            are_sure += [each.is_sure for each in result.answers]
            path, is_page = result.source.path, len(result.answers) > 1
            if not montage and room <= 0:
                continue
            heat = recogniser.heat_map(result.answers[0]) if with_heat else None
            draw_at = _drawing(saved, result, with_folder=names[path.name] > 1, show_input=show_input, heat=heat)
            if montage:
                montage.add_sheet(draw_at(1)) if is_page else montage.add(draw_at(1))
            if room > 0:
                kept.append(draw_at)
                room -= 5 if is_page else 1  # a page takes more memory
    if not pictures and not (into and into.earlier):
        raise RunError(f"no picture was {recognised}; see the warnings above")
    if montage:
        first, *others = montage.finish()
        log.info("wrote %s", listed([str(first), *(path.name for path in others)]))
    counts = f"{len(are_sure):,} characters in " * (len(are_sure) > pictures)
    reasons = [f"less probable than {100 * recogniser.min_probability:.3g}%"]
    reasons += ["unlike the training images"] * recogniser.calibration.has_distance + ["too long for one"] * has_pages
    why = ", ".join([*reasons[:-1], "or " * (len(reasons) > 1) + reasons[-1]])
    unsure = f", {are_sure.count(False):,} unsure (?: {why})" * (False in are_sure)
    if total:
        log.info("%s %s%d of %d picture%s%s", recognised, counts, pictures, total, "s" if total > 1 else "", unsure)
    if into:
        log.info("%s", into.summary())
    if kept:
        show_one_by_one((draw_at(2) for draw_at in kept), recognised)


def _drawing(
    saved: Checkpoint, reading: Reading, with_folder: bool, show_input: bool, heat: np.ndarray | None = None
) -> Callable[[int], np.ndarray]:
    # A function that draws a picture with its answers: at scale 1 for the montage, at scale 2 for a window.
    # with_folder: the caption names the folder, too. show_input: see recognise_pictures. heat: of a single answer.
    path, caption = reading.source.path, os.path.basename(reading.source.name)
    caption = printable(os.path.join(path.parent.name, caption) if with_folder else caption)
    names = [saved.display_name(each.top[0].index) for each in reading.answers]
    if len(names) == 1:
        (answer,) = reading.answers
        seen = answer.seen if show_input else None
        tile = (reading.picture, names[0], answer.probability, caption, seen, heat)
        return lambda scale: annotate.annotate_picture(*tile, scale=scale, is_sure=answer.is_sure)
    boxes = [tuple(value * reading.scale for value in each.box) for each in reading.answers]
    texts = [
        f"{f'{each.place.number}: ' if each.place else ''}{annotate.shortened(name)}{'' if each.is_sure else ' ?'}"
        for name, each in zip(names, reading.answers, strict=True)
    ]
    colours = [annotate.DARK_GREEN if each.is_sure else annotate.DARK_AMBER for each in reading.answers]
    return lambda scale: annotate.annotate_page(reading.picture, boxes, texts, colours, caption)


class AnswerTable:
    """A table of answers whose rows can be printed one by one: its columns fit every possible answer.

    paths: all files to be read. top: classes in a row, fewer if the paths need the room. width: terminal columns; a
    Hiragana takes two. has_pages: add a column for the number of a character on its page.
    If the paths don't fit, the folder of all of them is in the title instead; what is still too long is shortened.
    """

    def __init__(self, saved: Checkpoint, paths: Iterable[Path], top: int, width: int, has_pages: bool = False) -> None:
        names, paths = [saved.display_name(label) for label in range(len(saved.classes))], list(map(str, paths))
        self.names = [annotate.shortened(name, width // 3) for name in names]
        name_sizes = sorted(map(cell_len, self.names), reverse=True)
        self.name_width, self.number_width = max(len("label"), name_sizes[0]), NUMBER_WIDTH if has_pages else 0
        self.folder, self.path_width = "", 0
        longest = self._longest(paths)
        for self.others in range(min(top, len(names)) - 1, -1, -1):  # next best classes in a row
            others_width = max(sum(size + len(", 99.9% ") for size in name_sizes[: self.others]), len("  next best"))
            room = width - 1 - len(self._line("", "", "", "", " ?")) - (self.others and others_width)
            if room >= min(longest, MIN_PATH):
                break
        if longest > room and len(paths) > 1:
            with contextlib.suppress(ValueError):  # absolute paths and relative ones have no common folder
                self.folder = os.path.commonpath([os.path.dirname(path) for path in paths])
            longest = self._longest(paths)
        title = f"picture in {printable(self.folder)}" if self.folder else "picture"
        self.path_width = max(MIN_PATH, min(room, max(longest, cell_len(title))))
        if self.folder:
            title = f"picture in {annotate.shortened(printable(self.folder), self.path_width - len('picture in '))}"
        titles = self._line(title, "no.", "label", "prob.", "    next best" if self.others else "")
        self.head = [titles, f" {'-' * (cell_len(titles) - 1)}"]

    def _longest(self, paths: list[str]) -> int:
        return max((cell_len(self._shown(path)) for path in paths), default=0)

    def _shown(self, path: str) -> str:
        return printable(path.removeprefix(os.path.join(self.folder, "")) if self.folder else path)

    def format(self, reading: Reading) -> str:
        """A line for each answer: path, number, class, probability, the next best; first of all, the titles.

        The number is empty for ink outside of printed boxes, and for a single answer that would be number 1.
        """
        path = annotate.shortened(self._shown(reading.source.name), self.path_width)
        lines, self.head = self.head, []
        for answer in reading.answers:
            likely = [each for each in answer.top[1 : self.others + 1] if each.probability >= 0.0005]  # not 0.0%
            others = [f"{self.names[each.index]} {annotate.percent(each.probability)}" for each in likely]
            place, mark = answer.place, "  " if answer.is_sure else " ?"
            number = str(place.number) if place and max(len(reading.answers), place.number) > 1 else ""
            name, probability = self.names[answer.top[0].index], annotate.percent(answer.probability)
            lines.append(self._line(path, number, name, probability, f"{mark}  {', '.join(others)}"))
        return "\n".join(lines)

    def _line(self, path: str, number: str, name: str, probability: str, rest: str) -> str:
        numbers = f"  {number:>{self.number_width}}" if self.number_width else ""
        picture, name = set_cell_size(path, self.path_width), set_cell_size(name, self.name_width)
        return f" {picture}{numbers}  {name}  {probability:>6}{rest}".rstrip()


def load_test_images(
    saved: Checkpoint,
    dataset: str,
    data_dir: str,
    use_cache: bool = True,
    from_names: bool = False,
    with_train: bool = False,
) -> Parts:
    """The test images of a data set, with the network's channels and size, labelled with the network's classes.

    The test images of a user data set are those in test/; or those held out when this network was trained on it; or all
    images. with_train: True to read what the network was trained and validated on, too, if it is of this data set.
    Raises UserError if the network lacks a class or the data set isn't found, and RunError if it can't be downloaded.
    """
    if dataset in DATASETS:
        new_labels = _labels_of(saved, dataset, list(DATASETS[dataset].classes))
        try:
            test = load_images(dataset, data_dir, train=False)
        except DownloadError as error:
            raise RunError(f"{title_of(dataset)} could not be loaded: {error}") from None
        converted, changes = convert(test.images, len(saved.mean), saved.image_size)
        if changes:
            log.warning("the images of %s are converted for this model: %s", dataset, ", ".join(changes))
        test = ImageTensors(converted, new_labels[test.labels], names=test.names)
        is_known = with_train and dataset == saved.dataset and not changes
        return Parts(test, load_images(dataset, data_dir, train=True) if is_known else None)
    if not is_available(dataset, data_dir):
        raise UserError(f"{dataset}, which this network was trained on, is not there; name a data set with --dataset")
    held_out = None
    if {"test_seed", "fingerprint"} <= saved.training.keys():
        config = replace(TrainConfig(**saved.config), seed=saved.training["test_seed"])
        held_out = (config, saved.training["fingerprint"])
    is_same, group_by = dataset == saved.dataset, saved.config.get("group_by", "")
    from_names |= is_same and saved.config.get("labels_from_names", False)
    parts, classes = load_user_test_images(
        dataset, saved.preparation, held_out, is_same, use_cache, from_names, group_by
    )
    return parts.labelled(_labels_of(saved, dataset, classes))


def _labels_of(saved: Checkpoint, dataset: str, classes: list[str]) -> Tensor:
    # the network's label for each class of a data set: by name, or in the catalogue by number if all names differ
    title, unknown = title_of(dataset), [name for name in classes if name not in saved.labels]
    if not unknown:
        return torch.tensor([saved.labels[name] for name in classes])
    if dataset not in DATASETS or len(unknown) < len(classes):
        raise UserError(f"{title} has classes that this network doesn't know: {listed(unknown)}")
    if len(saved.classes) != len(classes):
        raise UserError(f"{title} has {len(classes)} classes, and this network {len(saved.classes)}")
    names = (", ".join(each) for each in (classes, saved.classes))
    log.warning("the classes of %s are %s; this model calls them, in that order, %s", title, *names)
    return torch.arange(len(classes))


def show_test_images(
    recogniser: Recogniser, images: ImageTensors, samples: int, seed: int, path: Path, show: bool
) -> None:
    """Log the answers to test images, drawn by the seed without repetition, and write them annotated to `path`."""
    saved = recogniser.saved
    chosen = np.random.default_rng(seed).choice(len(images), size=samples, replace=False)
    pixels, labels = images[torch.from_numpy(chosen)]
    probabilities, predictions = recogniser.probabilities(pixels).max(dim=1)
    tiles = []
    for image, truth, predicted, probability in zip(
        pixels, labels.tolist(), predictions.tolist(), probabilities.tolist(), strict=True
    ):
        names = (saved.classes[truth], saved.classes[predicted], annotate.percent(probability))
        log.info("ground truth label: %s, predicted label: %s (%s)", *names)
        tiles.append((pixels_of(image), saved.display_name(predicted), probability, saved.display_name(truth)))
    picture = annotate.encode(annotate.montage([annotate.annotate_image(*each) for each in tiles]), path.suffix)
    write_file(path, lambda: picture)
    log.info("%d of %d right; wrote %s", int((predictions == labels).sum()), samples, path)
    if show:
        show_one_by_one((annotate.annotate_image(*each, scale=2) for each in tiles), "prediction")


# --- the exported network ---


def export(recogniser: Recogniser, path: Path, data_dir: str, use_cache: bool = True, title: str = "") -> None:
    """Write the network as an ONNX file if the path ends in .onnx, else as a page. title: of the page; see to_html.

    It is compared on the test images of its data set if they are in data_dir, else on noise. Raises what export_network
    and export_page do.
    """
    saved, images = recogniser.saved, None
    try:
        if is_available(saved.dataset, data_dir):
            images = load_test_images(saved, saved.dataset, data_dir, use_cache).test.on_cpu()
    except UserError as error:
        if saved.dataset in DATASETS:
            raise
        log.warning("%s", error)
    if path.suffix.lower() == ".onnx":
        export_network(recogniser, path, images)
    else:
        export_page(recogniser, path, images, title)


def draw(recogniser: Recogniser, page: Path, data_dir: str, use_cache: bool, show: bool, title: str = "") -> None:
    """Write the network as a page to draw on, and open it in the user's browser if `show`. title: see to_html.

    Raises UserError if the network is for photos, and what export raises.
    """
    if not recogniser.saved.placement:
        title = title_of(recogniser.saved.dataset)
        raise UserError(f"--draw: this network knows {title}, photos, not drawings; give picture files instead")
    export(recogniser, page, data_dir, use_cache, title)
    try:
        is_open = show and webbrowser.open(page.absolute().as_uri())
    except webbrowser.Error:
        is_open = False
    if show and not is_open:
        log.warning("no browser can be opened; open %s in one", page)
