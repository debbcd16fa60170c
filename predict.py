"""Show what a trained network sees in test images: in log, picture and window.

    python predict.py --model output/model.pth

Data set, class names and network are those that the checkpoint names.
"""

import argparse
import logging
import sys

from neural_lib import cli, datasets, display, runtime
from neural_lib.errors import UserError
from neural_lib.files import atomic_write, check_input, check_output

MOST_SAMPLES = 1000  # more would make one picture too large for viewers, at 174 x 234 pixels a sample

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("-m", "--model", default="output/model.pth", help="checkpoint that train.py wrote (%(default)s)")
    add("-n", "--samples", type=int, default=10, help="test images to draw at random (%(default)s)")
    add("--seed", type=int, default=42, help="of that draw (%(default)s)")
    add("--data", default="data", metavar="DIR", help="folder that holds the data sets (%(default)s)")
    add("-o", "--output", default="output/predictions.png", help="annotated picture to write (%(default)s)")
    add(
        "--show",
        action=argparse.BooleanOptionalAction,
        help="show the images one by one: any key steps on, q or Esc ends (where there is a display)",
    )
    add("--device", choices=runtime.DEVICES, default="auto", help="auto takes an accelerator where there is one")
    args = parser.parse_args(argv)
    if not 1 <= args.samples <= MOST_SAMPLES:
        parser.error(f"--samples must be from 1 to {MOST_SAMPLES}, not {args.samples}")
    if args.seed < 0:
        parser.error(f"--seed must be 0 or more, not {args.seed}")
    return args


def main(argv=None) -> int:
    args = parse_args(argv)
    cli.set_up_logging()
    runtime.check_device(args.device)

    check_input(args.model, "--model", otherwise="train a network first, with train.py")

    from neural_lib import annotate

    output_path = check_output(args.output, "--output", annotate.SUFFIXES)
    show = args.show is not False and display.is_available()
    if args.show and not show:
        raise UserError("--show: no display here to open a window on; without --show the picture is only written")

    import numpy as np
    import torch

    from neural_lib import checkpoint
    from neural_lib.loaders import Normalisation

    # network: everything about it comes from the checkpoint
    log.info("loading the model %s...", args.model)
    saved = checkpoint.load(args.model)
    device, reason = runtime.select_device(args.device)
    model = saved.build_model().to(device)
    log.info("%s trained on %s, computing on %s (%s)", saved.arch, saved.dataset, device, reason)

    # images: N of the test set at random, none twice
    info = datasets.DATASETS.get(saved.dataset)
    if info is None:
        raise UserError(
            f"--model {args.model}: its data set {saved.dataset!r} is not one of {', '.join(datasets.DATASETS)}"
        )
    if not saved.fits(info):
        raise UserError(f"--model {args.model}: its network is not for images like {saved.dataset}'s; train it again")
    if args.samples > info.test_size:
        raise UserError(f"--samples {args.samples}: {saved.dataset} has {info.test_size:,} test images; ask for fewer")
    images, labels = datasets.load_images(saved.dataset, args.data, train=False)
    chosen = np.random.default_rng(args.seed).choice(len(images), size=args.samples, replace=False).tolist()

    # predictions: one batch
    with torch.inference_mode():
        inputs = Normalisation(saved.mean, saved.std).to(device)(images[chosen].to(device))
        probabilities, predictions = (each.cpu() for each in model(inputs).exp().max(dim=1))
    truths = labels[chosen]

    # annotation
    annotations = []
    for index, truth, predicted, probability in zip(
        chosen, truths.tolist(), predictions.tolist(), probabilities.tolist(), strict=True
    ):
        log.info(
            "ground truth label: %s, predicted label: %s (%s)",
            saved.classes[truth],
            saved.classes[predicted],
            annotate.percent(probability),
        )
        pixels = images[index].permute(1, 2, 0).squeeze(2).numpy()  # (C, H, W) -> (H, W, 3) or (H, W)
        annotations.append((pixels, saved.written(predicted), probability, saved.written(truth)))
    right = int((predictions == truths).sum())

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
