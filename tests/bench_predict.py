"""How many pictures of a data set's test images are read right; seconds for pages and files.

    python tests/bench_predict.py --model output/model.pth --data data

Read right: the test images as they are, and made into pictures as people make them (tests/drawn.py).
Unsure: how often an answer has a probability below a half or is to an image unlike those of training, of pictures that
show no character of the data set (tests/odd.py), and of all its test images.
Pages: from a file to its answers, of a page of 12 megapixels with 100 characters, and of a photo of 1,200 x 1,600
pixels with one, as a page and with --single.
Files: predict.py on small PNGs, in a separate process, with its montage and with --json, which has none; also the peak
of its memory.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import drawn
import numpy as np
import odd
import pages
import torch

from neural_lib.data import ink
from neural_lib.data.catalog import Preparation
from neural_lib.data.images import eval_batch_size, load_images
from neural_lib.prediction import PictureError, Recogniser
from neural_lib.prediction.recogniser import convert

ROOT = Path(__file__).resolve().parents[1]
MEASURED = """
import re, sys
import predict
from neural_lib.system import cli
status = cli.run(predict.main, "predict.py")
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # Linux; ru_maxrss may be the parent's
print(int(peak[1]) / 1000, file=sys.stderr)
sys.exit(status)
"""

WAYS = {  # of making an image a picture: drawn.picture's arguments
    **{f"{size} pixels": {"size": size} for size in (40, 120, 400)},
    **{f"{size}, inverted, JPEG": {"size": size, "inverted": True, "quality": 50} for size in (40, 120, 400)},
    "250, JPEG, light falls off by 80, noise 6": {
        "size": 250,
        "inverted": True,
        "quality": 60,
        "shade": 80,
        "noise": 6,
    },
}


def print_accuracies(recogniser: Recogniser, data_dir: str, count: int) -> None:
    saved = recogniser.saved
    how_trained = saved.preparation
    images, labels = (each[:count] for each in load_images(saved.dataset, data_dir, train=False)[:])

    def accuracy(prepared: list[np.ndarray]) -> float:
        inputs, _ = convert(torch.from_numpy(np.stack(prepared)), len(saved.mean), saved.image_size)
        predictions = torch.cat([recogniser.probabilities(batch).argmax(1) for batch in inputs.split(250)])
        return float((predictions == labels).float().mean())

    def prepare(picture: np.ndarray, how: Preparation = how_trained) -> np.ndarray:
        try:
            return ink.prepare(picture, how)
        except PictureError:  # counts as wrong
            return np.zeros((how.channels, how.image_size, how.image_size), np.uint8)

    print(f"the first {len(images):,} test images of {saved.dataset}")
    print(f"  as they are: {accuracy(list(images.numpy())):.2%}")
    for name, how in WAYS.items():
        generator = np.random.default_rng(0)
        pictures = (drawn.picture(image, generator=generator, **how) for image in images[:, 0].numpy())
        print(f"  {name}: {accuracy([prepare(each) for each in pictures]):.2%}", flush=True)
    thin = [drawn.skeleton(image, size=250, width=4) for image in images[:, 0].numpy()]
    print(f"  a pen of 4 in 250 pixels: {accuracy([prepare(each) for each in thin]):.2%}")
    not_thickened = how_trained._replace(placement=how_trained.placement._replace(stroke=0.0))
    print(f"  ... not thickened: {accuracy([prepare(each, not_thickened) for each in thin]):.2%}")


def print_unsure(recogniser: Recogniser, data_dir: str, seed: int = 0, count: int = 40) -> None:
    saved = recogniser.saved

    def answers(images: torch.Tensor) -> list[torch.Tensor]:  # predictions, whether below a half, whether unlike: (N,)
        batches = (
            recogniser.answers_of(batch) for batch in images.split(eval_batch_size(images.shape[-1], recogniser.device))
        )
        probabilities, is_unlike = map(torch.cat, zip(*batches, strict=True))
        return [probabilities.argmax(1), probabilities.amax(1) < 0.5, is_unlike]

    def line(what: str, is_low: torch.Tensor, is_unlike: torch.Tensor) -> None:
        rates = (100 * each.double().mean().item() for each in (is_low | is_unlike, is_low, is_unlike))
        texts = "{:6.2f} %, by probability {:.2f} %, by distance {:.2f} %".format(*rates)
        print(f"  {what:26} {len(is_low):6,}  {texts}")

    kinds, pictures = zip(*odd.pictures(seed, count), strict=True)
    prepared = torch.from_numpy(np.stack([ink.prepare(each, saved.preparation) for each in pictures]))
    _, *both = answers(convert(prepared, len(saved.mean), saved.image_size)[0])
    print("unsure")
    line("odd pictures", *both)
    for kind in odd.KINDS:
        line(f"... {kind}", *(each[[each == kind for each in kinds]] for each in both))
    images, labels = load_images(saved.dataset, data_dir, train=False)[:]
    predictions, *both = answers(images)
    line(f"{saved.dataset}'s test images", *both)
    line("... read right", *(each[predictions == labels] for each in both))
    line("... read wrong", *(each[predictions != labels] for each in both))


def page_seconds(recogniser: Recogniser, data_dir: str, folder: Path, rounds: int) -> None:
    images = load_images(recogniser.saved.dataset, data_dir, train=False).images[:, 0].numpy()
    for paper in ("plain", "squared"):
        page = pages.compose(images, np.random.default_rng(7), paper, count=100, size=150).picture
        scale = (12_000_000 / page.shape[0] / page.shape[1]) ** 0.5
        large = cv2.resize(page, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        one = cv2.resize(pages.compose(images, np.random.default_rng(8), paper, 1, 200).picture, (1200, 1600))
        for name, pixels in {"page": large, "photo": one}.items():
            path = str(folder / f"{name}.jpg")
            cv2.imwrite(path, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            ways = {f"{name} of {pixels.shape[1]}x{pixels.shape[0]}": recogniser.read_page}
            ways |= {"... with --single": recogniser.read} if name == "photo" else {}
            for label, read in ways.items():
                seconds = []
                for _ in range(rounds):
                    start = time.perf_counter()
                    answers = read(path)
                    seconds.append(time.perf_counter() - start)
                count = len(answers) if isinstance(answers, list) else 1
                spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
                print(f"{paper} {label}, {count} found: {statistics.median(seconds):.2f} s ({spread}; n = {rounds})")


def write_pictures(folder: Path, count: int) -> None:
    images = load_images("digits", "nowhere", train=True).images.numpy()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:05}.png"), 255 - images[number % len(images), 0])


def run(*arguments: object) -> tuple[float, float]:
    # seconds, and MB at the peak
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, float(done.stderr.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="output/model.pth")
    parser.add_argument("--data", default="data")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5, help="for pages")
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10_000])
    args = parser.parse_args()
    model = str(Path(args.model).resolve())
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {versions}, {torch.get_num_threads()} threads")
    recogniser = Recogniser.load(model, "cpu")
    print_accuracies(recogniser, args.data, args.images)
    print_unsure(recogniser, args.data)
    record = {"model": args.model}
    with tempfile.TemporaryDirectory() as folder:
        page_seconds(recogniser, args.data, Path(folder), args.rounds)
        for count in args.files:
            pictures = Path(folder, str(count))
            pictures.mkdir()
            write_pictures(pictures, count)
            for name, options in {"montage": ["-o", f"{folder}/p.png", "--no-show"], "json": ["--json"]}.items():
                taken, peak = run(pictures, "--model", model, *options)
                print(f"{count:,} files, {name}: {taken:.1f} s, {count / taken:,.0f} files/s, peak {peak:,.0f} MB")
                record[f"{count}_{name}"] = [taken, peak]
    print(json.dumps(record))


if __name__ == "__main__":
    main()
