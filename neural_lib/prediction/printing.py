"""--sheet of predict.py: sheets of boxes to write in, as a PDF to print."""

import io
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from neural_lib.data import sheet
from neural_lib.data.catalog import DATASETS, is_text
from neural_lib.data.pictures import listed
from neural_lib.data.sheet import SheetPage
from neural_lib.evaluation.annotate import LACKING, can_draw, glyph
from neural_lib.system.errors import UserError, printable
from neural_lib.system.files import check_output, write_file

MM_PER_INCH, POINTS_PER_MM = 25.4, 72 / 25.4
FAINT = "0.72"  # grey of the boxes: seen by the writer, and fainter than any pen
LABEL_HEIGHT, GLYPH_HEIGHT = 3.6, 96  # of the small print above a box: mm on paper, pixels of its bitmap
LONGEST_LABEL = 60  # bytes
MAX_PAGES = 200
RULE = "Write one character in each box. Cross a mistake out, from corner to corner of its box."

log = logging.getLogger(__name__)


def print_sheet(path: str, labels: str | None, labels_from: str | None, copies: int) -> None:
    """Write a sheet with `copies` boxes for each label as a PDF; without labels an answer sheet of `copies` boxes.

    labels: see labels_of. labels_from: a data set of the catalogue, whose written characters, or else class names, are
    the labels. Raises UserError if nothing can be written there or the labels can't be used.
    """
    output = check_output(path, "--sheet", (".pdf",))
    names = labels_of(labels) if labels is not None else []
    if labels_from:
        names = DATASETS[labels_from].glyphs or DATASETS[labels_from].classes
    if lacking := [name for name in names if not can_draw(name)]:
        log.warning("no font here has %s: printed as %s; write them by hand", listed(lacking), LACKING)
    total = copies * max(1, len(names))
    if total > MAX_PAGES * sheet.MAX_PER_PAGE or len(pages := sheet.pages_of(names, copies)) > MAX_PAGES:
        raise UserError(f"--copies {copies}: {total:,} boxes take more than {MAX_PAGES} pages; ask for fewer")
    write_file(output, lambda: pdf_of(pages))
    what = f"{len(names)} label{'s' * (len(names) > 1)}, {copies} for each" if names else "an answer sheet"
    counts = f"{len(pages)} page{'s' * (len(pages) > 1)}, {total} box{'es' * (total > 1)}"
    log.info("wrote %s: %s (%s)", output, counts, what)


def labels_of(given: str) -> list[str]:
    """The labels in a text, see sheet.labels_in, or in a text file, one on each line.

    Raises UserError if the file can't be read or a label can't be used.
    """
    option = f"--labels {printable(given)}"
    if os.path.isfile(given):
        try:
            labels = [line.strip() for line in Path(given).read_text("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is no text in UTF-8"
            raise UserError(f"{option}: can't be read ({reason})") from None
    elif given.lower().endswith((".txt", ".csv")) or os.sep in given and len(given) > 1 and " " not in given:
        raise UserError(f"{option}: there is no such file")
    else:
        labels = sheet.labels_in(given)
    if not labels:
        raise UserError(f"{option}: has no labels")
    for label in labels:
        if not is_text(label) or len(label.encode()) > LONGEST_LABEL:
            limit = f"has control characters, is not UTF-8, or has more than {LONGEST_LABEL} bytes"
            raise UserError(f"--labels: {printable(label)!r} {limit}; give another name")
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise UserError(f"--labels: {listed(twice)} is given more than once; --copies sets the boxes for each")
    return labels


def pdf_of(pages: Sequence[SheetPage]) -> bytes:
    """The pages of a sheet as the content of a PDF file."""
    content = io.BytesIO()
    with PdfPages(content) as pdf:
        for page in pages:
            pdf.savefig(figure_of(page))
    return content.getvalue()


def figure_of(page: SheetPage) -> Figure:
    """A page of a sheet as a matplotlib figure in its size on paper."""
    figure = Figure(figsize=[length / MM_PER_INCH for length in sheet.PAPER])
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, sheet.PAPER[0]), ylim=(sheet.PAPER[1], 0))
    axes.set_axis_off()
    for at, identifier in zip(sheet.CORNERS, page.markers, strict=True):
        marker = cv2.aruco.generateImageMarker(sheet.DICTIONARY, identifier, 8)  # a pixel for each of its squares
        _draw_squares(axes, marker, at, sheet.MARKER)
    parameters = cv2.QRCodeEncoder.Params()
    parameters.correction_level = cv2.QRCODE_ENCODER_CORRECT_LEVEL_M  # 15 % of it may be lost
    code = cv2.QRCodeEncoder.create(parameters).encode(page.code)
    _draw_squares(axes, code, sheet.CODE_AT, sheet.CODE)
    line = sheet.MARGIN + sheet.MARKER
    axes.plot([38, sheet.CODE_AT[0] - 8], [line, line], color="0.3", linewidth=0.3 * POINTS_PER_MM)
    axes.text(26, line, "Name", size=10, va="baseline")
    axes.text(26, line + 8, RULE, size=7, va="baseline", color="0.3")
    of = f"page {page.number} of {page.pages}" if page.pages > 1 else ""
    axes.text(26, line + 13, of, size=7, va="baseline", color="0.3")
    for number, (left, top, width, height) in zip(page.numbers, page.boxes, strict=True):
        axes.add_patch(
            Rectangle((left, top), width, height, fill=False, edgecolor=FAINT, linewidth=0.3 * POINTS_PER_MM)
        )
        label = page.label(number)
        if label:
            _print_above(axes, label, left, top, width)
        else:  # at the left, where annotated pages have it, too
            axes.text(left, top - 0.8, str(number), size=8, va="baseline")
    return figure


def _draw_squares(axes: Axes, squares: np.ndarray, at: tuple[float, float], side: float) -> None:
    # A marker or a code without its white border; each pixel becomes an exact square on paper.
    rows, columns = np.nonzero(squares == 0)
    box = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    inner = np.kron(squares[box[0] : box[1], box[2] : box[3]], np.ones((16, 16), np.uint8))  # programs blur small ones
    extent = (at[0], at[0] + side, at[1] + side, at[1])
    axes.imshow(inner, cmap="gray", vmin=0, vmax=255, interpolation="none", extent=extent, aspect="auto")


def _print_above(axes: Axes, text: str, left: float, top: float, width: float) -> None:
    bitmap = glyph(text, GLYPH_HEIGHT)
    length = min(width, LABEL_HEIGHT * bitmap.shape[1] / bitmap.shape[0])
    middle, bottom = left + width / 2, top - 0.2
    extent = (middle - length / 2, middle + length / 2, bottom, bottom - LABEL_HEIGHT)
    axes.imshow(bitmap, interpolation="none", extent=extent, aspect="auto")
