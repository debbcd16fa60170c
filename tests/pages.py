"""Pages of several characters as people photograph and scan them, made of a data set's images; and how they are read.

    python tests/pages.py --model output/model.pth --data data

Composes 200 pages of test images, on plain, ruled and squared paper, in boxes, with dark edges, with specks and with
pairs of characters that touch, and a seventh as many with a name above boxes of which some are left blank. Reads them
and prints for each kind of page: characters found (a box that overlaps theirs by half or more of both together), boxes
where there is none, boxes around several characters, those of them that are sure, pages in the right order, characters
that have their number (in boxes blank ones count, and a name has none), answers that are unsure, accuracy on what was
found, and that on the images.
"""

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

KINDS = ("plain", "ruled", "squared", "boxes", "edges", "specks", "touching")
BLANKS = "blanks"  # another kind: boxes of which some are left blank, below a line for the name


class Page(NamedTuple):
    """A page and what is on it, in reading order."""

    picture: np.ndarray  # RGB, uint8 (H, W, 3)
    boxes: np.ndarray  # (N, 4): left, top, width, height of the ink of each character, pixels
    indices: np.ndarray  # (N,) of the images
    order: str  # "rows" or "columns"
    numbers: np.ndarray  # (N,) in reading order, in which blank boxes count; 0 for the characters of a name


def written(image: np.ndarray, size: int, pen: str) -> np.ndarray:
    """An image (S, S), light on black, as ink of a size and a pen ("brush", "thin" or "thick"): float32, 0 to 1."""
    ink = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32).clip(0, 255) / 255
    if pen == "thin":  # the middle of each stroke, and what is left of wide ones
        middle = cv2.ximgproc.thinning(np.where(ink > 0.3, np.uint8(255), np.uint8(0))).astype(np.float32) / 255
        middle = cv2.dilate(middle, _disc(max(2, round(0.03 * size))))
        return np.minimum(ink, np.maximum(middle, cv2.erode(ink, _disc(max(2, round(0.05 * size))))))
    if pen == "thick":
        return cv2.dilate(ink, _disc(max(2, round(0.04 * size))))
    return ink


def _disc(width: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))


def room_before(ink: np.ndarray, mark: np.ndarray, x: int, y: int) -> int:
    """Pixels by which a mark at (x, y) can move to the left until it touches ink; 0 if it would pass it by."""
    before = np.where(ink[y : y + len(mark), :x] > 0.3, np.arange(x), -np.inf).max(1)  # the last ink of each row
    first = np.where(mark > 0.3, np.arange(x, x + len(mark)), np.inf).min(1)
    room = (first - before).min() - 1
    return int(room) if np.isfinite(room) else 0


def compose(
    images: np.ndarray, generator: np.random.Generator, kind: str, count: int | None = None, size: int | None = None
) -> Page:
    """A page of some of the images (N, S, S), light on black, on one of KINDS of paper or BLANKS.

    count: characters, or boxes on BLANKS, default 1 to 60. size: of a character, pixels, default 30 to 200.
    """
    uniform, integers = generator.uniform, generator.integers
    count = count or min(int(integers(1, 61)), int(integers(1, 61)))
    size = size or round(math.exp(uniform(math.log(30), math.log(200))))
    order = "columns" if uniform() < 0.2 else "rows"
    if kind == BLANKS:
        count, order = max(count, 6), "rows"
    across, down = size * uniform(1.35, 1.9, 2)  # between the middles of neighbours
    if kind in ("boxes", BLANKS) or kind == "squared" and uniform() < 0.5:  # a cell for each character
        across = down = size * uniform(1.3, 1.6)
    in_cells = across == down
    columns = int(np.clip(round(math.sqrt(count * uniform(0.5, 2.5))), 1, count))
    lines = -(-count // columns)  # the last one may be shorter
    if order == "columns":
        columns, lines = lines, columns
    margin = 0.4 * size + 50 + 0.04 * max(columns * across, lines * down)  # turned, all stays on the page
    width = math.ceil(max(columns * across + 2 * margin, uniform(600, 1300)))
    height = math.ceil(max(lines * down + 2 * margin, uniform(600, 1700)))
    above = round(2 * size) if kind == BLANKS else 0  # room for the name
    height += above
    left = uniform(margin, width - margin - columns * across) + across / 2
    top = above + uniform(margin, height - above - margin - lines * down) + down / 2

    # ---- ink, on straight paper
    ink, boxes = np.zeros((height, width), np.float32), []
    pen = ("brush", "brush", "thin", "thick")[integers(4)]
    indices = integers(0, len(images), count)
    places = [(n % columns, n // columns) if order == "rows" else (columns - 1 - n // lines, n % lines)
              for n in range(count)]  # fmt: skip
    numbers = np.arange(1, count + 1)
    if kind == BLANKS:
        is_blank = uniform(size=count) < 0.3
        is_blank[columns * integers(lines) :][:columns] |= uniform() < 0.3  # a whole row
        is_blank[integers(count)] = False
        numbers, indices = numbers[~is_blank], indices[~is_blank]
    for index, (column, line) in zip(indices, [places[number - 1] for number in numbers], strict=True):
        own = round(size * uniform(0.88, 1.0))
        mark = written(images[index], own, pen)
        rows, cols = (np.flatnonzero(mark.max(axis) > 0.3) for axis in (1, 0))
        y, x = (round(middle + uniform(-0.05, 0.05) * size - own / 2)
                for middle in (top + line * down, left + column * across))  # fmt: skip
        if kind == "touching" and (column if order == "rows" else line) % 2 and uniform() < 0.6:
            overlap = round(uniform(0, 0.05) * size)
            if order == "rows":
                x -= room_before(ink, mark, x, y) + overlap
            else:
                y -= room_before(ink.T, mark.T, y, x) + overlap
        part = ink[y : y + own, x : x + own]
        np.maximum(part, mark, out=part)
        boxes.append((x + cols[0], y + rows[0], np.ptp(cols) + 1, np.ptp(rows) + 1))
    lines_on = np.zeros_like(ink)  # 1: a printed line
    thick = min(int(integers(1, 4)), max(1, round(size / 25)))  # pixels
    if kind == "ruled":
        spacing = down if uniform() < 0.5 else uniform(60, 110)
        for y in np.arange(top + 0.6 * size - 50 * spacing, height, spacing):
            cv2.line(lines_on, (0, round(y)), (width, round(y)), 1.0, thick)
    if kind == "squared":
        step = across if in_cells else uniform(35, 60)
        for x in np.arange(left - across / 2 - 50 * step, width, step):
            cv2.line(lines_on, (round(x), 0), (round(x), height), 1.0, thick)
        for y in np.arange(top - down / 2 - 50 * step, height, step):
            cv2.line(lines_on, (0, round(y)), (width, round(y)), 1.0, thick)
    if kind in ("boxes", BLANKS):
        side = across * (1.0 if uniform() < 0.3 else uniform(0.86, 0.94))
        for n in range(columns * lines):  # those after the last character are empty
            x, y = left + n % columns * across - side / 2, top + n // columns * down - side / 2
            cv2.rectangle(lines_on, (round(x), round(y)), (round(x + side), round(y + side)), 1.0, thick)
    if kind == BLANKS:
        x, y, own = left - across / 2, top - down / 2 - 0.6 * size, round(size * uniform(0.5, 0.8))
        label = 0.5 * own / cv2.getTextSize("N", cv2.FONT_HERSHEY_SIMPLEX, 1, 1)[0][1]
        at = round(x), round(y)
        printed_label = np.zeros(ink.shape, np.uint8)  # putText takes no floats
        cv2.putText(printed_label, "Name:", at, cv2.FONT_HERSHEY_SIMPLEX, label, 255, thick, cv2.LINE_AA)
        np.maximum(lines_on, printed_label / np.float32(255), out=lines_on)
        x += cv2.getTextSize("Name:", cv2.FONT_HERSHEY_SIMPLEX, label, 1)[0][0] + 0.3 * own
        letters = integers(0, len(images), min(int(integers(2, 7)), int((width - margin - x) / (1.35 * own))))
        cv2.line(lines_on, (round(x), round(y)), (round(x + 1.35 * own * len(letters)), round(y)), 1.0, thick)
        for index in letters:
            mark = written(images[index], own, pen)
            rows, cols = (np.flatnonzero(mark.max(axis) > 0.3) for axis in (1, 0))
            start, first = round(y) - own + int(integers(-2, 3)), round(x)
            part = ink[start : start + own, first : first + own]
            np.maximum(part, mark, out=part)
            boxes.append((first + cols[0], start + rows[0], np.ptp(cols) + 1, np.ptp(rows) + 1))
            x += 1.35 * own
        boxes = boxes[len(numbers) :] + boxes[: len(numbers)]  # the name is read first
        numbers, indices = np.append(np.zeros_like(letters), numbers), np.append(letters, indices)

    # ---- the sheet, turned
    paper, dark = uniform(205, 250), uniform(15, 80)
    printed = uniform(130, 170) if kind not in ("boxes", BLANKS) else uniform(20, 150)
    sheet = paper + (printed - paper) * lines_on
    sheet = np.minimum(sheet, paper + (dark - paper) * ink)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), uniform(-3, 3), 1.0)
    sheet = cv2.warpAffine(sheet, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    turned = []
    for x, y, w, h in boxes:
        corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]]) @ turn[:, :2].T + turn[:, 2]
        (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
        turned.append((x0, y0, x1 - x0, y1 - y0))

    # ---- light, edges, specks, the camera
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    if uniform() < 0.5:
        angle = uniform(0, 2 * math.pi)
        sheet *= 1 - uniform(0.05, 0.4) * (0.5 + 0.5 * ((x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)))
    if uniform() < 0.3:  # the shadow of a hand
        angle, softness = uniform(0, 2 * math.pi), uniform(0.02, 0.1)
        across_edge = (x - uniform(0.2, 0.8)) * math.cos(angle) + (y - uniform(0.2, 0.8)) * math.sin(angle)
        sheet *= 1 - uniform(0.1, 0.35) / (1 + np.exp(-across_edge / softness))
    if kind == "edges":
        for side in generator.permutation(4)[: integers(1, 5)]:
            thickness, slope = uniform(15, 55), uniform(-0.02, 0.02)
            along, away = ((x * width, y * height), (y * height, x * width), (x * width, (1 - y) * height),
                           (y * height, (1 - x) * width))[side]  # fmt: skip
            is_edge = away < thickness + slope * (along - along.max() / 2)
            sheet[is_edge] = uniform(5, 60) + generator.normal(0, 3, np.count_nonzero(is_edge))
    if kind == "specks":
        for cx, cy in generator.uniform(0, (width - 1, height - 1), (300, 2)):
            cv2.circle(sheet, (round(cx), round(cy)), 1, uniform(20, 150), cv2.FILLED)
    sheet += generator.normal(0, uniform(1, 8), sheet.shape)
    tint = np.array([1.0, uniform(0.94, 1.0), uniform(0.85, 1.0)])
    pixels = (sheet[..., None] * tint).round().clip(0, 255).astype(np.uint8)
    if uniform() < 0.7:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(integers(50, 95))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
    return Page(pixels, np.array(turned), indices, order, numbers)


# --- how they are read ---


def common_area(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that each two boxes (N, 4) and (M, 4) have in common: (N, M)."""
    first = np.maximum(some[:, None, :2], others[None, :, :2])
    last = np.minimum(some[:, None, :2] + some[:, None, 2:], others[None, :, :2] + others[None, :, 2:])
    return (last - first).clip(0).prod(2)


def overlaps(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What each two boxes (N, 4) and (M, 4) have in common, of what they cover together: (N, M), 0 to 1."""
    common = common_area(some, others)
    return common / (some[:, 2:].prod(1)[:, None] + others[:, 2:].prod(1) - common)


class Counts(NamedTuple):
    """What was right, of pages or of several."""

    pages: int
    in_order: int  # pages
    characters: int
    found: int
    answers: int
    false: int  # answers with a box where no character is, or one was found already; not those without a number
    numbered: int  # characters with a number
    number_right: int  # of those, found with their number
    unsure: int  # answers
    merged: int  # answers with a box around several characters
    merged_sure: int  # of those, the sure ones
    right: int  # of those found
    right_alone: int  # of those found, as images


def judge(page: Page, answers: list, labels: np.ndarray, is_right: np.ndarray) -> Counts:
    """answers: Recogniser.read_page's. labels, is_right: of the images, and whether they are read right as images."""
    whole = (0, 0, *page.picture.shape[1::-1])  # the box of an answer to the whole picture
    boxes = np.array([answer.box or whole for answer in answers], float).reshape(-1, 4)
    shared = overlaps(page.boxes, boxes) if len(boxes) else np.zeros((len(page.boxes), 1))
    best, is_found = shared.argmax(1), shared.max(1) >= 0.5
    place = best[is_found]
    read = [answers[each].top[0].index for each in place]
    is_around = common_area(page.boxes, boxes) > 0.8 * page.boxes[:, 2:].prod(1)[:, None]
    given = np.array([answer.place.number if answer.place else 0 for answer in answers], int)
    merged = [answer.is_sure for answer, count in zip(answers, is_around.sum(0), strict=True) if count > 1]
    return Counts(
        pages=1,
        in_order=int((np.diff(place) > 0).all()),
        characters=len(page.boxes),
        found=len(place),
        answers=len(boxes),
        false=len({each for each, answer in enumerate(answers) if answer.place or not answer.box} - {*place.tolist()}),
        numbered=np.count_nonzero(page.numbers),
        number_right=np.count_nonzero((given[place] == page.numbers[is_found]) & (given[place] > 0)),
        unsure=sum(not answer.is_sure for answer in answers),
        merged=len(merged),
        merged_sure=sum(merged),
        right=int((np.array(read, int) == labels[page.indices[is_found]]).sum()),
        right_alone=int(is_right[page.indices[is_found]].sum()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/model.pth")
    parser.add_argument("--data", default="data")
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", metavar="FOLDER", help="write the pages that are not read quite right there")
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import torch

    from neural_lib.data.images import load_images
    from neural_lib.prediction import PictureError, Recogniser

    recogniser = Recogniser.load(args.model, "cpu")
    images, labels = load_images(recogniser.saved.dataset, args.data, train=False)[:]
    is_right = torch.cat([recogniser.probabilities(each).argmax(1) for each in images.split(1000)]) == labels
    totals: dict[str, list[Counts]] = defaultdict(list)
    kinds = [KINDS[number % len(KINDS)] for number in range(args.pages)] + [BLANKS] * (args.pages // len(KINDS))
    for number, kind in enumerate(kinds):
        page = compose(images[:, 0].numpy(), np.random.default_rng([args.seed, number]), kind)
        try:
            answers = recogniser.read_page(page.picture, order=page.order, top=1)
        except PictureError:
            answers = []
        counts = judge(page, answers, labels.numpy(), is_right.numpy())
        totals[kind].append(counts)
        if args.write and (counts.found < counts.characters or counts.false or not counts.in_order):
            Path(args.write).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(f"{args.write}/{number}-{kind}.png", cv2.cvtColor(page.picture, cv2.COLOR_RGB2BGR))
    totals["all"] = [counts for each in totals.values() for counts in each]
    print(
        "| paper | pages | characters | found | false | several | sure | in order | right number | unsure | read right "
        "| as images |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, each in totals.items():
        sums = Counts(*np.sum(each, axis=0))
        print(
            f"| {kind} | {sums.pages} | {sums.characters:,} | {sums.found / sums.characters:.2%} "
            f"| {sums.false / max(sums.answers, 1):.2%} | {sums.merged} | {sums.merged_sure} "
            f"| {sums.in_order / sums.pages:.1%} | {sums.number_right / sums.numbered:.2%} "
            f"| {sums.unsure / max(sums.answers, 1):.2%} "
            f"| {sums.right / max(sums.found, 1):.2%} | {sums.right_alone / max(sums.found, 1):.2%} |"
        )


if __name__ == "__main__":
    main()
