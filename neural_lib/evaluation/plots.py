"""Results as matplotlib figures."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image
from rich.cells import cell_len

from neural_lib.evaluation.annotate import glyph, shortened
from neural_lib.records import Records, accuracy_of

MAX_IN_LEGEND = 10  # runs; matplotlib has ten colours
MAX_IN_COLUMN, MAX_IN_LINE = 58, 120  # characters that fit a legend's entry, with two columns and with one
MAX_UPRIGHT = 6  # columns of a terminal; longer class names below the confusion matrix are slanted
SLANT = 45  # degrees
MIN_SPAN = 0.1  # smallest range of the diagonal's colour scale
DARK = 0.65  # position on a colour scale from which letters are white
GLYPH_ROOM, GLYPH_GAP = 18, 4  # room for a written character beside a name, and the part of it that stays empty, points
MAX_WITH_SHARES, MAX_WITH_COUNTS = 20, 100  # classes with which a cell of the confusion matrix has room for text
LOG_FROM = 20  # ratio of the highest value to the lowest from which a colour scale is logarithmic


def plot_results(records: Records, title: str) -> Figure:
    """Plot the curves of a single run, or of all finished runs of a grid."""
    if records.count == 1:
        return plot_history(records.rows_by_run[1], records.best()["epoch"], title)
    return plot_runs(records, title)


def colour_scale(records: Records) -> tuple[str, dict[int, float]]:
    """The name of the quantity that colours a grid's runs, and its value in each run.

    It is the numeric hyper-parameter with the most values in the grid. The seed is used only if no other number varies,
    because runs that differ in the seed should look alike; the best validation accuracy if no number varies.
    """
    by_name = {name: {run: records.label(run)[name] for run in range(1, records.count + 1)} for name in records.swept}
    numbers = {name: each for name, each in by_name.items() if {*map(type, each.values())} <= {int, float}}
    accuracies = {run: accuracy_of(records.best_of(run)) or 0.0 for run in records.finished}
    return max(
        numbers.items(),
        key=lambda item: (item[0] != "seed", len(set(item[1].values()))),
        default=("best validation accuracy", accuracies),
    )


def plot_history(rows: Sequence[Mapping[str, float]], best_epoch: int, title: str) -> Figure:
    """Plot the tutorial's four curves, loss and accuracy on separate axes; a line marks `best_epoch`.

    rows: "epoch" and the figures of each epoch, by records.MEASURES.
    """
    figure, loss_axes, accuracy_axes = _loss_and_accuracy(title, height=4.5)
    for axes, kind in ((loss_axes, "loss"), (accuracy_axes, "accuracy")):
        for part, colour in (("train", "tab:blue"), ("val", "tab:orange")):
            name = f"{part}_{kind}"
            figures = [row[name] for row in rows]
            axes.plot([row["epoch"] for row in rows], figures, label=name, color=colour, **_marks(len(rows)))
            if len(rows) == 1:  # a point is no curve: its value is written beside it, training's to the left
                offset, align = (-8, "right") if part == "train" else (8, "left")
                axes.annotate(
                    f"{figures[0]:.2%}" if kind == "accuracy" else f"{figures[0]:.4f}", (rows[0]["epoch"], figures[0]),
                    xytext=(offset, 0), textcoords="offset points", ha=align, va="center", color=colour,
                )  # fmt: skip
        axes.axvline(best_epoch, color="grey", linestyle="--", linewidth=1, label=f"saved: epoch {best_epoch}")
        axes.legend()
    top = loss_axes.get_ylim()[1]
    room = 0.1 * top if len(rows) == 1 else 0  # between the frame and the values beside the points
    loss_axes.set_ylim(-room, top + room)
    return figure


def plot_runs(records: Records, title: str) -> Figure:
    """Plot validation loss and accuracy of each finished run over its epochs; the line of the best is thicker.

    Up to MAX_IN_LEGEND runs have a colour and an entry in the legend each. With more runs only the best has an entry,
    in black, and the rest are coloured by colour_scale.
    """
    runs, best = {run: records.rows_by_run[run] for run in sorted(records.finished)}, records.best()["run"]
    many = len(runs) > MAX_IN_LEGEND
    names = {run: f"run {run}: {records.name(run)}{' (best)' * (run == best)}" for run in ([best] if many else runs)}
    entries = {run: textwrap.fill(name, MAX_IN_LINE, subsequent_indent="    ") for run, name in names.items()}
    columns = 1 if many or max(map(len, entries.values())) > MAX_IN_COLUMN else 2
    lines = sum(entry.count("\n") + 1 for entry in entries.values()) / columns
    figure, loss_axes, accuracy_axes = _loss_and_accuracy(title, height=4.8 + 0.2 * lines, of="validation ")
    colours = {run: f"C{index}" for index, run in enumerate(runs)}
    if many:
        name, values = colour_scale(records)
        low, high = min(values.values()), max(values.values())
        norm = LogNorm(low, high) if low > 0 and high / low >= LOG_FROM else Normalize(low, high)
        scale = ScalarMappable(norm, "viridis")
        figure.colorbar(scale, ax=figure.axes, label=name)
        colours = {run: scale.to_rgba(value) for run, value in values.items()} | {best: "black"}
    longest = max(map(len, runs.values()))
    for run, rows in runs.items():
        style = {"linewidth": 3, "zorder": 3} if run == best else {"linewidth": 0.8 if many else 1.2}
        style |= {} if many and longest > 1 else _marks(longest)
        for axes, measure in ((loss_axes, "val_loss"), (accuracy_axes, "val_accuracy")):
            figures = [row[measure] for row in rows]
            epochs, label = [row["epoch"] for row in rows], entries.get(run, "_")
            axes.plot(epochs, figures, label=label, color=colours[run], **style)
    handles = [line for line in loss_axes.get_lines() if line.get_label() != "_"]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)
    return figure


def _loss_and_accuracy(title: str, height: float, of: str = "") -> tuple:
    # An empty figure and its two axes.
    figure = Figure(figsize=(10, height), dpi=120, layout="constrained")
    _set_title(figure, title)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    loss_axes.set_ylabel(f"{of}loss (mean per image, nats)")
    accuracy_axes.set_ylabel(f"{of}accuracy")
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None))
    return figure, loss_axes, accuracy_axes


def _marks(epochs: int) -> dict:
    # The line's style: few epochs have markers, without which a single epoch would not show.
    return {"marker": "o" if epochs <= 30 else None, "markersize": 4}


def to_bytes(figure: Figure, kind: str, **options: object) -> bytes:
    """Encode a figure as the content of a file, the same bytes each time.

    kind: a format of matplotlib, such as png. options: see Figure.savefig.
    """
    file, metadata = io.BytesIO(), {"Date": None} if kind == "svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "neural_lib"}):
        figure.savefig(file, format=kind, metadata=metadata, **options)
    return file.getvalue()


def shares_and_scales(matrix: Sequence[Sequence[int]]) -> tuple[np.ndarray, dict[bool, tuple[float, float]]]:
    """Each cell's share (classes, classes) of its true class, 0 to 1, and the lowest and highest share of two scales.

    matrix: counts (true, predicted). True: the scale of the diagonal, which spans at least MIN_SPAN; False: that of the
    other cells.
    """
    counts, is_right = np.asarray(matrix), np.eye(len(matrix), dtype=bool)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    right, wrong = (shares[part & (counts > 0)] for part in (is_right, ~is_right))
    highest = right.max(initial=0.0)
    lowest = right.min(initial=highest - MIN_SPAN)
    return shares, {True: (max(0.0, lowest), highest), False: (0.0, wrong.max(initial=0.0))}


def plot_confusion(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], title: str, glyphs: Sequence[str] = ()
) -> Figure:
    """Plot a confusion matrix (true, predicted) of counts; each cell shows its count and its share of the row.

    The diagonal and the other cells have separate colour scales, so that a few confusions are seen beside many hits.
    classes: their names, in any script; long ones are shortened. glyphs: the written character of each class, which is
    drawn beside its name; empty: none. Of more than MAX_WITH_COUNTS classes, some names are left out.
    """
    counts, names = np.asarray(matrix), [shortened(name) for name in classes]
    shares, scales = shares_and_scales(matrix)
    has_shares, has_counts = (len(counts) <= most for most in (MAX_WITH_SHARES, MAX_WITH_COUNTS))
    side = max(6.0, min(len(counts), MAX_WITH_COUNTS) * (0.6 if has_shares else 0.35))  # inches
    named = range(0, len(counts), math.ceil(len(counts) / MAX_WITH_COUNTS))  # classes whose names have room
    figure = Figure(figsize=(side + 3, side + 1.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    is_right = np.eye(len(counts), dtype=bool)
    for part, colours, name in ((~is_right, "Oranges", "wrong"), (is_right, "Blues", "right")):
        shown = np.ma.masked_array(shares, ~part | (counts == 0))
        low, high = scales[name == "right"]
        low = max(0.0, low - 0.02)  # so that the lowest value is not white
        picture = axes.imshow(shown, cmap=colours, vmin=low, vmax=high or 1.0)
        bar = figure.colorbar(picture, ax=axes, shrink=0.6, pad=0.02, format=lambda share, _: f"{share:.1%}")
        bar.set_label(f"{name}, share of the true class")
        for row, column in zip(*np.nonzero(part & (counts > 0) & has_counts), strict=True):
            colour = "white" if picture.norm(shares[row, column]) > DARK else "black"
            text = f"{counts[row, column]}\n{shares[row, column]:.1%}" if has_shares else str(counts[row, column])
            size = 8 if has_shares else 7
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size, in_layout=False)
    slant = SLANT if max(map(cell_len, names)) > MAX_UPRIGHT or len(names) > MAX_WITH_SHARES else 0
    texts = [names[label] if can_draw(names[label]) else "" for label in named]
    axes.set_xticks(named, texts, rotation=slant, ha="right" if slant else "center", rotation_mode="anchor")
    axes.set_yticks(named, texts)
    pictures = {label: "" if text else names[label] for label, text in zip(named, texts, strict=True)}
    _add_pictures(axes, {label: glyphs[label] for label in named} if glyphs else pictures, 0 if glyphs else slant)
    if glyphs:
        axes.tick_params(pad=GLYPH_ROOM)  # they stand between the axes and the names
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (a row is 100 %)")
    _set_title(axes, title)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    return figure


def _set_title(owner: Figure | Axes, title: str) -> None:
    # Set a title. Its first line, which names the data set, becomes a picture if matplotlib's font lacks characters.
    if isinstance(owner, Figure):  # its title is inside of its upper edge
        set_title, inside, offset, edge = owner.suptitle, "figure fraction", -GLYPH_GAP, 1
    else:
        set_title, inside, offset, edge = owner.set_title, "axes fraction", GLYPH_GAP, 0
    first, *rest = title.split("\n")
    has_picture = not can_draw(first)
    set_title("\n".join([" " if has_picture else first, *rest]), parse_math=False)  # a name may contain a dollar sign
    if has_picture:
        owner.add_artist(_picture_box(first, (0.5, 1), (0, offset), (inside, inside), (0.5, edge)))


def can_draw(text: str) -> bool:
    """True if matplotlib's font has all characters of a text."""
    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(each)) for each in text)


def _add_pictures(axes: Axes, texts: Mapping[int, str], slant: float) -> None:
    # Draw a text for each class, by its label, beside the axes. slant: of those below the axes, degrees.
    for label, text in texts.items():
        if text:
            below, beside = (1 if slant else 0.5, 1), (1, 0.5)  # the corner or edge that stands at the tick
            for xy, offset, coordinates, alignment, angle in (
                ((label, 0), (0, -GLYPH_GAP), ("data", "axes fraction"), below, slant),
                ((0, label), (-GLYPH_GAP, 0), ("axes fraction", "data"), beside, 0),
            ):
                axes.add_artist(_picture_box(text, xy, offset, coordinates, alignment, angle))


def _picture_box(
    text: str,
    xy: tuple[float, float],
    offset: tuple[float, float],
    coordinates: tuple[str, str],
    alignment: tuple[float, float],
    angle: float = 0,
) -> AnnotationBbox:
    # A text drawn by annotate.glyph, for characters that matplotlib's font lacks.
    # xy: place, in `coordinates`. offset: from there, points. alignment: the point of the picture, 0 to 1, put there.
    picture = glyph(text)
    zoom = (GLYPH_ROOM - GLYPH_GAP) / len(picture)
    if angle:
        picture = np.asarray(Image.fromarray(picture).rotate(angle, Image.Resampling.BICUBIC, expand=True))
    where = {"xycoords": coordinates, "boxcoords": "offset points", "box_alignment": alignment}
    return AnnotationBbox(OffsetImage(picture, zoom=zoom), xy, xybox=offset, frameon=False, pad=0, **where)
