"""Seconds and memory that reading one's own images takes, when they are new and from the cache.

    python tests/bench_data.py                    # 60,000 PNG files of 28x28 and 2,000 photos of 12 megapixels
    python tests/bench_data.py --files 0 --photos 100

Each reading is that of train.py, in a process of its own, after its imports; peak memory is the whole process's, less
what the imports take. Photos are hard links to ten different ones of 3 MB.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

READ = """
import resource, sys, time
from neural_lib.config import TrainConfig
from neural_lib.data.images import load_data
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
data = load_data(TrainConfig(dataset=sys.argv[1]), "data")
data.fingerprint, data.statistics
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(f"{seconds:7.2f} s {used / 1024:7.0f} MB  {tuple(data.train.images.shape)}")
"""


def write_files(folder: Path, count: int) -> None:
    """Grey PNG files of 28x28 pixels, each different, in ten classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 10) / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.GaussianBlur(generator.integers(0, 256, (28, 28), dtype=np.uint8), (5, 5), 0))


def write_photos(folder: Path, count: int) -> None:
    """JPEG files of 4000x3000 pixels in two classes."""
    generator, made = np.random.default_rng(0), folder.with_name("made")
    made.mkdir()
    for number in range(min(count, 10)):
        small = generator.integers(0, 256, (300, 400, 3), dtype=np.uint8)
        photo = cv2.resize(small, (4000, 3000), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(made / f"{number}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 90])
    for number in range(count):
        path = folder / ("cat", "dog")[number % 2] / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(made / f"{number % 10}.jpg", path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--photos", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, count, write in (("files", args.files, write_files), ("photos", args.photos, write_photos)):
            if not count:
                continue
            folder = Path(scratch, name)
            write(folder, count)
            for number in range(args.rounds):
                environment = os.environ | {"XDG_CACHE_HOME": f"{scratch}/{name}-cache{number}"}
                environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
                for start in ("new", "again"):
                    command = [sys.executable, "-c", READ, str(folder)]
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                    print(f"{count:,} {name}, {start:5}: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
