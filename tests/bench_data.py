"""Seconds and memory that reading user images takes, when they are new and from the cache.

    python tests/bench_data.py         # 60,000 PNG files, 20,000 photos of 500x375, 2,000 photos of 12 megapixels
    python tests/bench_data.py --files 0 --photos 1000 --large 0 --rounds 1

Photos become images of 224x224 pixels: 20,000 take 3 GB. Each reading is that of train.py, with statistics and
fingerprint, in a process of its own, after its imports; then all images to train on are read once more, in shuffled
batches. "Of all cores" is the processor's time, which other programs delay less. Peak memory is the whole process's,
mapped pages included, beyond that after the imports. For photos the first round ends with the features of the images to
train on and the fit of the last layer, as train.py's recipe for photos has them. Large photos are hard links to ten
files of 3 MB. Files are written to the folder for temporary ones (TMPDIR), at most 5 GB at a time.
"""

import argparse
import os
import platform
import shutil
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
from neural_lib.data.images import Normalisation, load_data, make_loader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, computed = time.perf_counter(), time.process_time()
data = load_data(TrainConfig(dataset=sys.argv[1], image_size=int(sys.argv[2])), "data")
data.fingerprint, data.statistics
read, computed = time.perf_counter(), time.process_time() - computed
for batch in make_loader(data.train, 32, Normalisation(*data.statistics), shuffle_seed=0):
    pass
end = time.perf_counter()
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
shape = (len(data.train), *data.train.stored.shape[1:])
seconds = f"{read - start:7.2f} s, of all cores {computed:6.2f} s, batches {end - read:6.2f} s"
print(f"{seconds}, peak {used / 1024:5.0f} MB, {shape} to train on")
"""

FIT = """
from neural_lib.system.environment import tune_for_cpu
tune_for_cpu()
import sys, time, torch
from neural_lib.config import RECIPES
from neural_lib.data.images import load_data
from neural_lib.evaluation.linear_probe import fit
from neural_lib.pretrained import load_imagenet
from neural_lib.training.probe import features_of
from neural_lib.training.run import build_run, resolve
config = RECIPES["photos"].config(dataset=sys.argv[1])
data = load_data(config, "data")
(config,) = resolve([config], data, torch.device("cpu"))
run = build_run(config, data, torch.device("cpu"), load_imagenet(config.arch))
start = time.perf_counter()
features, labels = features_of(run, run.train_loader.dataset)
computed = time.perf_counter()
fit(features, labels, run.classes)
end = time.perf_counter()
print(f"{computed - start:7.2f} s, in {config.precision}, of {len(labels):,} images; the fit {end - computed:6.2f} s")
"""


def write_files(folder: Path, count: int) -> None:
    """Grey PNG files of 28x28 pixels, each different, in ten classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 10) / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.GaussianBlur(generator.integers(0, 256, (28, 28), dtype=np.uint8), (5, 5), 0))


def write_photos(folder: Path, count: int) -> None:
    """JPEG files of 500x375 pixels and about 50 kB in ten classes, each different."""
    generator, contents = np.random.default_rng(0), []
    y, x = np.mgrid[0:1:375j, 0:1:500j]
    for _ in range(40):
        noise = generator.normal(scale=10, size=(375, 500, 3)) + generator.normal(scale=30, size=3)
        waves = 70 * np.sin(generator.uniform(3, 30) * x[..., None] + generator.uniform(3, 30, 3) * y[..., None])
        photo = cv2.GaussianBlur(np.clip(128 + noise + waves, 0, 255).astype(np.uint8), (3, 3), 0)
        contents.append(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 92])[1])
    for number in range(count):
        content = contents[number % 40].copy()
        table = content.tobytes().index(b"\xff\xdb") + 5  # the quantisation table of brightness, 64 bytes
        content[table + 1 : table + 3] = 1 + number // 40 % 25, 1 + number // 1000  # changes all pixels
        path = folder / str(number % 10) / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.tobytes())


def write_large(folder: Path, count: int) -> None:
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
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--large", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, count, size, write in (
            ("files", args.files, 28, write_files),
            ("photos", args.photos, 224, write_photos),
            ("large photos", args.large, 224, write_large),
        ):
            if not count:
                continue
            folder, cache = Path(scratch, name), Path(scratch, "cache")
            write(folder, count)
            environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
            environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
            for number in range(args.rounds):
                for start in ("new", "again"):
                    command = [sys.executable, "-c", READ, str(folder), str(size)]
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                    print(f"{count:,} {name}, {start:5}: {done.stdout.strip()}", flush=True)
                if number == 0 and size > 64:
                    done = subprocess.run(
                        [sys.executable, "-c", FIT, str(folder)],
                        env=environment,
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    print(f"{count:,} {name}, features: {done.stdout.splitlines()[-1]}", flush=True)
                shutil.rmtree(cache)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
