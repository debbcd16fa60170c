"""The modes of predict.py: answers in tables, JSON, annotated pictures and windows; the network as a file or a page."""

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
from neural_lib.data.images import ImageTensors, load_images, load_user_test_images, pixels_of
from neural_lib.data.pictures import PictureFiles, listed
from neural_lib.evaluation import annotate
from neural_lib.prediction.export import export_network
from neural_lib.prediction.recogniser import Reading, Recogniser, convert
from neural_lib.prediction.webpage import export_page
from neural_lib.prediction.window import show_one_by_one
from neural_lib.system.errors import RunError, UserError, printable
from neural_lib.system.files import write_file

MIN_PATH = 16  # columns of the terminal
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
) -> None:
    """Print the answers to each picture, write the annotated pictures to `output`, and show them in a window.

    invert, order, top: see Recogniser.read_files. show_input: show the network's input beside a single character.
    A picture that can't be read gets a warning. Raises RunError if no picture can be read.
    """
    for line in to_read.problems():
        log.warning("%s", line)
    if not to_read.files:
        raise RunError("there is no picture to recognise; name files, or folders that hold pictures")
    saved = recogniser.saved
    if invert != "auto" and not saved.placement:
        title = title_of(saved.dataset)
        log.warning("--invert %s changes nothing: for %s pictures are taken as they are", invert, title)
    has_pages = order is not None and recogniser.reads_pages
    table = AnswerTable(saved, to_read.files, top, shutil.get_terminal_size().columns, has_pages)
    names = Counter(path.name for path in to_read.files)
    montage = annotate.Montage(output) if output else None
    room = annotate.PAGE if show else 0  # pictures that can still be kept for the window
    kept: list[Callable[[int], np.ndarray]] = []  # see _drawing
    are_sure, pictures, total = [], 0, 0  # are_sure: of each answer
    with tqdm(to_read.files, unit=" files", leave=False, disable=None, dynamic_ncols=True) as files:
        for result in recogniser.read_files(files, invert, order, top):
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
            draw_at = _drawing(saved, result, with_folder=names[path.name] > 1, show_input=show_input)
            if montage:
                montage.add_sheet(draw_at(1)) if is_page else montage.add(draw_at(1))
            if room > 0:
                kept.append(draw_at)
                room -= 5 if is_page else 1  # a page takes more memory
    if not pictures:
        raise RunError("no picture was recognised; see the warnings above")
    if montage:
        first, *others = montage.finish()
        log.info("wrote %s", listed([str(first), *(path.name for path in others)]))
    counts = f"{len(are_sure):,} characters in " * (len(are_sure) > pictures)
    why = f"less probable than {100 * recogniser.min_probability:.3g}%, unlike the training images, or too long for one"
    unsure = f", {are_sure.count(False):,} unsure (?: {why})" * (False in are_sure)
    log.info("recognised %s%d of %d picture%s%s", counts, pictures, total, "s" if total > 1 else "", unsure)
    if kept:
        show_one_by_one((draw_at(2) for draw_at in kept), "recognised")


def _drawing(saved: Checkpoint, reading: Reading, with_folder: bool, show_input: bool) -> Callable[[int], np.ndarray]:
    # A function that draws a picture with its answers: at scale 1 for the montage, at scale 2 for a window.
    # with_folder: the caption names the folder, too. show_input: show the network's input beside a single character.
    path, caption = reading.source.path, os.path.basename(reading.source.name)
    caption = printable(os.path.join(path.parent.name, caption) if with_folder else caption)
    names = [saved.display_name(each.top[0].index) for each in reading.answers]
    if len(names) == 1:
        (answer,) = reading.answers
        tile = (reading.picture, names[0], answer.probability, caption, answer.seen if show_input else None)
        return lambda scale: annotate.annotate_picture(*tile, scale=scale, is_sure=answer.is_sure)
    boxes = [tuple(value * reading.scale for value in each.box) for each in reading.answers]
    sure = [each.is_sure for each in reading.answers]
    return lambda scale: annotate.annotate_page(reading.picture, boxes, names, sure, caption)


class AnswerTable:
    """A table of answers whose rows can be printed one by one: its columns fit every possible answer.

    paths: all files to be read. top: classes in a row. width: terminal columns; a Hiragana takes two. has_pages: add a
    column for the number of a character on its page.
    """

    def __init__(self, saved: Checkpoint, paths: Iterable[Path], top: int, width: int, has_pages: bool = False) -> None:
        self.names = [saved.display_name(label) for label in range(len(saved.classes))]
        self.name_width = max(len("label"), *map(cell_len, self.names))
        self.number_width = NUMBER_WIDTH if has_pages else 0
        others = min(top, len(self.names)) - 1
        self.others_width = others and max(others * (self.name_width + len(" 99.9%, ")), len("next best"))
        self.path_width = 0
        room = width - 1 - len(self._line("", "", "", "", " ?")) - self.others_width
        longest = max((cell_len(printable(path)) for path in paths), default=0)
        self.path_width = max(MIN_PATH, min(room, longest))
        titles = self._line("picture", "no.", "label", "probability", "    next best" if others else "")
        self.head = [titles, f" {'-' * (len(titles) - 1)}"]

    def format(self, reading: Reading) -> str:
        """A line for each answer: path, number, class, probability, the next best; first of all, the titles."""
        path = printable(reading.source.name)
        while cell_len(path) > self.path_width:  # the end of a path is kept: it is the file's name
            path = "..." + path.removeprefix("...")[1:]
        lines, self.head = self.head, []
        for number, answer in enumerate(reading.answers, start=1):
            likely = [each for each in answer.top[1:] if each.probability >= 0.0005]  # others would be shown as 0.0%
            others = [f"{self.names[each.index]} {annotate.percent(each.probability)}" for each in likely]
            place, mark = str(number) if len(reading.answers) > 1 else "", "  " if answer.is_sure else " ?"
            name, probability = self.names[answer.top[0].index], annotate.percent(answer.probability)
            lines.append(self._line(path, place, name, probability, f"{mark}  {', '.join(others)}"))
        return "\n".join(lines)

    def _line(self, path: str, number: str, name: str, probability: str, rest: str) -> str:
        numbers = f"  {number:>{self.number_width}}" if self.number_width else ""
        picture, name = set_cell_size(path, self.path_width), set_cell_size(name, self.name_width)
        return f" {picture}{numbers}  {name}  {probability:>11}{rest}".rstrip()


def load_test_images(saved: Checkpoint, dataset: str, data_dir: str, use_cache: bool = True) -> ImageTensors:
    """The test images of a data set, with the network's channels and size, labelled with the network's classes.

    The test images of a user data set are those in test/; or those held out when this network was trained on it; or all
    images.
    Raises UserError if the network lacks a class or the data set isn't found, and RunError if it can't be downloaded.
    """
    if dataset in DATASETS:
        new_labels = _labels_of(saved, dataset, list(DATASETS[dataset].classes))
        try:
            images, labels = load_images(dataset, data_dir, train=False)
        except DownloadError as error:
            raise RunError(f"{title_of(dataset)} could not be loaded: {error}") from None
        converted, changes = convert(images, len(saved.mean), saved.image_size)
        if changes:
            log.warning("the images of %s are converted for this model: %s", dataset, ", ".join(changes))
        return ImageTensors(converted, new_labels[labels])
    if not is_available(dataset, data_dir):
        raise UserError(f"{dataset}, which this network was trained on, is not there; name a data set with --dataset")
    held_out = None
    if {"test_seed", "fingerprint"} <= saved.training.keys():
        config = replace(TrainConfig(**saved.config), seed=saved.training["test_seed"])
        held_out = (config, saved.training["fingerprint"])
    images, classes = load_user_test_images(dataset, saved.preparation, held_out, dataset == saved.dataset, use_cache)
    return images.labelled(_labels_of(saved, dataset, classes)[images.labels])


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


def export(recogniser: Recogniser, path: Path, data_dir: str, use_cache: bool = True) -> None:
    """Write the network as an ONNX file if the path ends in .onnx, else as a page.

    It is compared on the test images of its data set if they are in data_dir, else on noise. Raises what export_network
    and export_page do.
    """
    saved, images = recogniser.saved, None
    try:
        if is_available(saved.dataset, data_dir):
            images = load_test_images(saved, saved.dataset, data_dir, use_cache).on_cpu()
    except UserError as error:
        if saved.dataset in DATASETS:
            raise
        log.warning("%s", error)
    write = export_network if path.suffix.lower() == ".onnx" else export_page
    write(recogniser, path, images)


def draw(recogniser: Recogniser, page: Path, data_dir: str, use_cache: bool, show: bool) -> None:
    """Write the network as a page to draw on, and open it in the user's browser if `show`.

    Raises UserError if the network is for photos, and what export raises.
    """
    if not recogniser.saved.placement:
        title = title_of(recogniser.saved.dataset)
        raise UserError(f"--draw: this network knows {title}, photos, not drawings; give picture files instead")
    export(recogniser, page, data_dir, use_cache)
    try:
        is_open = show and webbrowser.open(page.absolute().as_uri())
    except webbrowser.Error:
        is_open = False
    if show and not is_open:
        log.warning("no browser can be opened; open %s in one", page)
