"""How well sheets are collected and marked: test images of KMNIST on sheets, photographed, through predict.py.

    python tests/bench_classroom.py --model output/best/model.pth --data data

Collecting: sheets with ten boxes for each class are printed, written on with test images (one in twenty boxes stays
empty, three on a page are crossed out), photographed by tests/sheets.py and given to predict.py --collect. A box is cut
out right if its picture, placed like a training image, has the ink that was written there and no other (ALIKE), or if
there is none because the box is empty or crossed out.
Marking: answer sheets of 40 boxes, of which nine in ten hold the expected character, are marked with a key.
Times are those of whole commands in this process, without imports, divided by the number of pages.
"""

import argparse
import csv
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import predict
from neural_lib.data import ink
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import load_images
from neural_lib.data.pictures import PictureError
from neural_lib.data.sheet import pages_of
from tests import sheets

ALIKE = 0.9  # share of the ink of each of two 28 x 28 images that is at most a pixel away from the other's
ANSWERS = 40  # boxes of an answer sheet
INFO = DATASETS["kmnist"]


def photos_of(folder: Path, sheet: str, paper: np.ndarray, generator: np.random.Generator) -> None:
    """Photograph a paper with a camera of 1,400 to 3,000 pixels and write the JPEG file."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = sheets.photograph(paper, generator, longest=int(generator.integers(1400, 3001)))
    cv2.imwrite(str(folder / f"{sheet}.jpg"), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])


def placed(picture: np.ndarray) -> np.ndarray | None:
    """The ink of a picture, dark on light, as a training image, (S, S); None if there is none."""
    try:
        return ink.place(ink.find_ink(picture, "yes"), INFO.placement, INFO.image_size)
    except PictureError:
        return None


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """The share of the ink of each of two images that is at most a pixel away from the other's, 0 to 1; the smaller."""
    shares = []
    for some, rest in ((one, other), (other, one)):
        near = cv2.dilate((rest > 255 * ink.SEEN_FROM).astype(np.uint8), np.ones((3, 3), np.uint8))
        shares.append(float((some * near.astype(float)).sum() / some.sum()))
    return min(shares)


def collecting(folder: Path, images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> None:
    """Compose sheets, collect them, and print how many boxes are cut out right."""
    (page,) = pages_of(INFO.glyphs, 10)
    paper = sheets.printed(page)
    truth: dict[tuple[str, int], np.ndarray | None] = {}  # (sheet, number) -> the image written there
    for number in range(count):
        generator, name = np.random.default_rng([seed, number]), f"pupil{number:02}"
        written = {
            each: images[generator.choice(np.flatnonzero(labels == INFO.glyphs.index(page.label(each))))]
            for each in page.numbers
            if generator.uniform() >= 0.05
        }
        state = generator.bit_generator.state
        filled = sheets.fill_in(paper, page, written, generator)
        crossed = [int(each) for each in generator.choice(list(written), 3, replace=False)]
        photos_of(folder / "scans", name, sheets.cross_out(filled, page, crossed, generator), generator)
        same = np.random.default_rng()
        same.bit_generator.state = state
        clean = sheets.fill_in(np.full_like(paper, 255), page, written, same)  # the same ink on empty paper
        per_mm = sheets.DPI / 25.4
        for each, (left, top, side, _) in zip(page.numbers, page.boxes * per_mm, strict=True):
            rows, columns = (slice(round(at - 0.05 * side), round(at + 1.05 * side)) for at in (top, left))
            is_kept = each in written and each not in crossed
            truth[name, each] = placed(ink.to_grey(clean[rows, columns])) if is_kept else None
    start = time.perf_counter()
    predict.main(["--collect", str(folder / "scans"), "--into", str(folder / "characters")])
    seconds = time.perf_counter() - start
    found = {}
    for path in (folder / "characters").glob("*/*.png"):
        name, _, number = path.stem.rpartition("-")
        found[name, int(number)] = path
    counts: Counter[str] = Counter()
    likenesses = []
    for (name, number), image in truth.items():
        path = found.pop((name, number), None)
        if path is None or image is None:
            counts[
                "right" if path is None and image is None else "missing" if path is None else "should be left out"
            ] += 1
            continue
        seen = placed(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        likenesses.append(0.0 if seen is None else likeness(seen, image))
        is_alike, has_label = likenesses[-1] >= ALIKE, path.parent.name == page.label(number)
        counts["wrong label" if not has_label else "right" if is_alike else "another picture"] += 1
    counts["nowhere written"] += len(found)
    total = len(truth)
    print(f"\ncollected: {count} sheets, {total:,} boxes, {counts['right'] / total:.2%} right; not:", end=" ")
    print(", ".join(f"{name} {number}" for name, number in counts.items() if name != "right" and number) or "none")
    low = ", ".join(f"{each:.3f}" for each in np.quantile(likenesses, (0, 0.01, 0.5)))
    print(f"share of the ink in common (smallest, first percentile, median): {low}")
    print(f"{seconds / count:.2f} s a page")


def marking(folder: Path, images: np.ndarray, labels: np.ndarray, count: int, seed: int, model: str) -> None:
    """Compose answer sheets, mark them, and print how many marks are right."""
    (page,) = pages_of((), ANSWERS)
    paper = sheets.printed(page)
    expected = np.random.default_rng([seed, 1000]).integers(0, len(INFO.classes), ANSWERS)
    lines = [
        ["number", "expected"],
        *([number, INFO.glyphs[label]] for number, label in zip(page.numbers, expected, strict=True)),
    ]
    with (folder / "key.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
    is_right: dict[tuple[str, int], bool | None] = {}  # None: an empty box
    for pupil in range(count):
        generator, name, written = np.random.default_rng([seed, 1, pupil]), f"pupil{pupil:02}", {}
        for number, label in zip(page.numbers, expected.tolist(), strict=True):
            if generator.uniform() < 0.03:
                is_right[name, number] = None
                continue
            answer = label if generator.uniform() < 0.9 else int(generator.integers(len(INFO.classes)))
            is_right[name, number] = answer == label
            written[number] = images[generator.choice(np.flatnonzero(labels == answer))]
        photos_of(folder / "tests", name, sheets.fill_in(paper, page, written, generator), generator)
    start = time.perf_counter()
    predict.main(
        [str(folder / "tests"), "--key", str(folder / "key.csv"), "--output", str(folder / "marks"), "--model", model]
    )
    seconds = time.perf_counter() - start
    counts: Counter[tuple[bool | None, str]] = Counter()
    with (folder / "marks" / "marks.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            counts[is_right.pop((Path(row["file"]).stem, int(row["number"]))), row["mark"]] += 1
    what = f"{count} sheets, {counts.total():,} boxes, {len(is_right)} without a mark"
    print(f"\nmarked: {what}, {seconds / count:.2f} s a page")
    for truth, text in ((True, "right"), (False, "wrong"), (None, "empty")):
        total = sum(number for (each, _), number in counts.items() if each is truth)
        shares = [f"{mark} {counts[truth, mark] / max(total, 1):.2%}" for mark in ("right", "wrong", "unsure", "empty")]
        print(f"{text}: {total:,} boxes, marked {', '.join(shares)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/best/model.pth")
    parser.add_argument("--data", default="data")
    parser.add_argument("--sheets", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", metavar="FOLDER", help="keep scans, characters and marks there")
    args = parser.parse_args()
    images, labels = (each.numpy() for each in load_images("kmnist", args.data, train=False)[:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.write or temporary)
        collecting(folder, images[:, 0], labels, args.sheets, args.seed)
        marking(folder, images[:, 0], labels, args.sheets, args.seed, args.model)


if __name__ == "__main__":
    main()
