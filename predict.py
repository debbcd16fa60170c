"""Show what a trained network sees in test images, or how good it is on all.

    python predict.py --model output/model.pth              # ten of them
    python predict.py --model output/model.pth --evaluate   # train.py's report

Network and class names are those of the checkpoint, and so is the data set,
unless another one is named.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from neural_lib import cli, datasets, display, report, runtime
from neural_lib.errors import UserError
from neural_lib.files import atomic_write, check_input, check_output, check_output_folder, sweep

NO_FOLDER = (".png", ".jpg", ".json", ".pdf")  # what ends so was meant as a file
MOST_SAMPLES = 1000  # more would make one picture too large for viewers, at 174 x 234 pixels a sample

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("-m", "--model", default="output/model.pth", help="checkpoint that train.py wrote (%(default)s)")
    add("--evaluate", action="store_true", help="score all test images: a report, on the terminal and as files")
    add("-n", "--samples", type=int, default=10, help="test images to draw at random (%(default)s)")
    add("--seed", type=int, default=42, help="of that draw (%(default)s)")
    names = ", ".join(datasets.DATASETS)
    add("-d", "--dataset", choices=datasets.DATASETS, metavar="NAME", help=f"{names}; without this option the model's")
    add("--data", default="data", metavar="DIR", help="folder that holds the data sets (%(default)s)")
    add(
        "-o",
        "--output",
        help="annotated picture to write (output/predictions.png); with --evaluate the folder for the report's "
        "files (the model's own)",
    )
    add(
        "--show",
        action=argparse.BooleanOptionalAction,
        help="show the images one by one: any key steps on, q or Esc ends (where there is a display)",
    )
    add("--device", choices=runtime.DEVICES, default="auto", help="auto takes an accelerator where there is one")
    args = parser.parse_args(argv)
    if not 1 <= args.samples <= MOST_SAMPLES:
        parser.error(f"--samples must be from 1 to {MOST_SAMPLES}, not {args.samples}")
    if args.evaluate and args.show:
        parser.error("--evaluate opens no window; leave out --show")
    if args.evaluate and Path(args.output or "").suffix in NO_FOLDER:
        parser.error(f"--output {args.output}: with --evaluate it names a folder")
    if args.seed < 0:
        parser.error(f"--seed must be 0 or more, not {args.seed}")
    return args


def main(argv=None) -> int:
    args = parse_args(argv)
    cli.set_up_logging()
    runtime.check_device(args.device)

    check_input(args.model, "--model", otherwise="train a network first, with train.py")

    show = args.show is not False and not args.evaluate and display.is_available()
    if args.show and not show:
        raise UserError("--show: no display here to open a window on; without --show the picture is only written")
    if args.evaluate:
        model_path = Path(args.model)
        beside = os.path.realpath(model_path) if model_path.is_symlink() else model_path  # as train.py has it
        folder = Path(args.output or Path(beside).parent)
        check_output_folder(folder, "--output")
    else:
        from neural_lib import annotate

        output_path = check_output(args.output or "output/predictions.png", "--output", annotate.SUFFIXES)
        sweep(output_path)

    import numpy as np
    import torch

    from neural_lib import checkpoint
    from neural_lib.convert import convert
    from neural_lib.loaders import Normalisation

    # network: everything about it comes from the checkpoint
    log.info("loading the model %s...", args.model)
    saved = checkpoint.load(args.model)
    device, reason = runtime.select_device(args.device)
    model = saved.build_model().to(device)
    log.info("%s trained on %s, computing on %s (%s)", saved.arch, saved.dataset, device, reason)

    # data set: the model's own or another one with as many classes
    dataset = args.dataset or saved.dataset
    info = datasets.DATASETS.get(dataset)
    if info is None:
        raise UserError(f"--model {args.model}: its data set {dataset!r} is not one of {', '.join(datasets.DATASETS)}")
    if len(saved.classes) != len(info.classes):
        raise UserError(
            f"--model {args.model}: it tells {len(saved.classes)} classes apart, and {dataset} has {len(info.classes)}"
        )
    if args.dataset and saved.classes != list(info.classes):
        own, theirs = (", ".join(names) for names in (saved.classes, info.classes))
        log.warning("the classes of %s are %s; this model calls them, in that order, %s", dataset, theirs, own)
    if not args.evaluate and args.samples > info.test_size:
        raise UserError(f"--samples {args.samples}: {dataset} has {info.test_size:,} test images; ask for fewer")

    # images: all of the test set, or N of it at random, none twice; as the network takes them
    images, labels = datasets.load_images(dataset, args.data, train=False)
    if not args.evaluate:
        chosen = np.random.default_rng(args.seed).choice(len(images), size=args.samples, replace=False)
        images, labels = images[chosen], labels[chosen]
    images, changes = convert(images, len(saved.mean), saved.image_size)
    if changes:
        log.warning("the images of %s are converted for this model: %s", dataset, ", ".join(changes))

    # all of them: the scores that train.py gives
    if args.evaluate:
        files = report.ReportFiles(folder, "--output", suffix="" if dataset == saved.dataset else f"-{dataset}")
        evaluation = report.score(saved, model, datasets.Images(images, labels), device)
        log.info("classification report\n%s", report.text(saved, evaluation))
        log.info("test accuracy: %.4f", evaluation.accuracy)
        for path in report.write(files, saved, dataset, evaluation, images):
            log.info("wrote %s", path)
        return 0

    # predictions: one batch
    with torch.inference_mode():
        inputs = Normalisation(saved.mean, saved.std).to(device)(images.to(device))
        probabilities, predictions = (each.cpu() for each in model(inputs).exp().max(dim=1))

    # annotation
    annotations = []
    for image, truth, predicted, probability in zip(
        images, labels.tolist(), predictions.tolist(), probabilities.tolist(), strict=True
    ):
        log.info(
            "ground truth label: %s, predicted label: %s (%s)",
            saved.classes[truth],
            saved.classes[predicted],
            annotate.percent(probability),
        )
        pixels = annotate.pixels_of(image)
        annotations.append((pixels, saved.written(predicted), probability, saved.written(truth)))
    right = int((predictions == labels).sum())

    picture = annotate.encode(annotate.montage([annotate.annotate(*each) for each in annotations]), output_path.suffix)
    with atomic_write(output_path) as handle:
        handle.write(picture)
    log.info("%d of %d right; wrote %s", right, len(annotations), output_path)

    if show:
        log.info("showing them one by one: any key steps on, q or Esc ends")
        display.show_one_by_one((annotate.annotate(*each, scale=2) for each in annotations), "prediction")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "predict.py"))
