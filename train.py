"""Train a network on small images: learn, validate, test, save and plot.

    python train.py --model output/model.pth --plot output/plot.png

With the default options on KMNIST, LeNet reaches 95.2 % +- 0.1 on the test set
(n = 3 seeds) after 10 epochs, in 85 s on 2 cores of an AMD EPYC, torch 2.15;
Results in README.md says how this was measured.
"""

import argparse
import logging
import os
import sys
import textwrap
from dataclasses import replace

from neural_lib import cli, datasets, plots, runtime
from neural_lib.config import TrainConfig
from neural_lib.downloads import DownloadError
from neural_lib.errors import Interrupted, RunError, UserError
from neural_lib.files import atomic_write, check_output

MODEL_SUFFIXES = (".pth", ".pt")
FALLBACK = "digits"  # needs no network
GAP_WORTH_A_WARNING = 0.01  # of accuracy: a point

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    default = TrainConfig()
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("-m", "--model", default="output/model.pth", help="checkpoint to write (%(default)s)")
    add("-p", "--plot", default="output/plot.png", help="learning curves to draw (%(default)s)")
    add(
        "-d",
        "--dataset",
        choices=datasets.DATASETS,
        help=f"data set; without this option {default.dataset}, or {FALLBACK} where that can't be downloaded",
    )
    add("--data", default="data", metavar="DIR", help="folder that holds the data sets (%(default)s)")
    add("--epochs", type=int, default=default.epochs, help="passes over the training images (%(default)s)")
    add("-b", "--batch-size", type=int, default=default.batch_size, help="images per optimizer step (%(default)s)")
    add("--lr", type=float, default=default.lr, help="Adam's learning rate (%(default)s)")
    add(
        "--train-split",
        type=float,
        default=default.train_split,
        metavar="SHARE",
        help="share of the training images to train on; the others validate (%(default)s)",
    )
    add("--seed", type=int, default=default.seed, help="of split, shuffle and initial weights (%(default)s)")
    add("--device", choices=runtime.DEVICES, default="auto", help="auto takes an accelerator where there is one")
    add("--target-accuracy", type=float, metavar="SHARE", help="exit with status 1 below this test accuracy")
    add("--quiet", action="store_true", help="print warnings and errors alone")
    args = parser.parse_args(argv)
    if args.target_accuracy is not None and not 0 < args.target_accuracy <= 1:
        parser.error(f"--target-accuracy must be above 0 and at most 1 (0.94 is 94 %), not {args.target_accuracy}")
    return args


def load_data(config: TrainConfig, args: argparse.Namespace) -> tuple[TrainConfig, list[datasets.Images], str]:
    """The training and test images, or the digits' where KMNIST can't be had and no data set was asked for.

    Returns the config with the data set that it came to, the two parts, and a warning where that is another one.
    """

    def read_both(name: str) -> list[datasets.Images]:
        return [datasets.load_images(name, args.data, train) for train in (True, False)]

    info = datasets.DATASETS[config.dataset]
    log.info("loading the %s dataset...", info.title)
    fell_back = ""
    try:
        parts = read_both(config.dataset)
    except DownloadError as error:
        failure = f"{info.title} could not be had: {error}"
        if args.dataset is not None:
            raise DownloadError(f"{failure}; or train on the embedded digits with --dataset {FALLBACK}") from None
        if holds_something_else(args.model):
            raise RunError(
                f"{failure}; and {args.model} holds something else than a network trained on {FALLBACK}: "
                f"to use these instead, give --dataset {FALLBACK} or another --model"
            ) from None
        fell_back = f"this run uses {FALLBACK}, NOT {config.dataset}, which could not be had"
        ruler = "=" * 78
        folded = textwrap.fill(failure, 78, break_on_hyphens=False, break_long_words=False)  # file names stay whole
        log.warning("\n%s\n%s\n\n%s\n%s", ruler, fell_back.upper(), folded, ruler)
        config = replace(config, dataset=FALLBACK)
        parts = read_both(FALLBACK)
    return config, parts, fell_back


def holds_something_else(path: str) -> bool:
    """Whether a run that nobody asked to use the digits would replace something else than a network trained on them."""
    from neural_lib import checkpoint

    try:
        return os.path.exists(path) and checkpoint.load(path).dataset != FALLBACK
    except UserError:
        return True


def main(argv=None) -> int:
    # arguments: everything that can be refused is refused here, before torch is loaded
    args = parse_args(argv)
    cli.set_up_logging(args.quiet)
    config = TrainConfig(
        dataset=args.dataset or TrainConfig.dataset,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        train_split=args.train_split,
        seed=args.seed,
    )
    config.split_sizes(datasets.DATASETS[config.dataset].train_size)
    runtime.check_device(args.device)
    model_path = check_output(args.model, "--model", MODEL_SUFFIXES)
    plot_path = check_output(args.plot, "--plot", plots.SUFFIXES)

    import torch

    from neural_lib import checkpoint
    from neural_lib.callbacks import BestEpoch, Progress
    from neural_lib.loaders import ImageTensors, Normalisation, make_loader, split
    from neural_lib.metrics import report
    from neural_lib.models import build_model
    from neural_lib.training import NonFiniteLossError, evaluate, fit

    # seed and device
    runtime.seed_everything(config.seed)
    device, reason = runtime.select_device(args.device)
    log.info("computing on %s (%s)", device, reason)

    # data
    config, parts, fell_back = load_data(config, args)
    info = datasets.DATASETS[config.dataset]
    normalisation = Normalisation(info.mean, info.std)
    train_val, test_set = (ImageTensors(*part, normalisation, device) for part in parts)

    log.info("generating the train/validation split...")
    train_set, val_set = split(train_val, config)
    train_loader = make_loader(train_set, config.batch_size, shuffle_seed=config.seed)
    val_loader = make_loader(val_set, config.batch_size)
    test_loader = make_loader(test_set, config.batch_size)
    log.info("%d images to train on, %d to validate, %d to test", len(train_set), len(val_set), len(test_set))

    # model
    log.info("initializing the %s model...", config.arch)
    arch_args = {"numChannels": info.channels, "classes": len(info.classes), "image_size": info.image_size}
    model = build_model(config.arch, **arch_args).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    loss_fn = torch.nn.NLLLoss()

    run = checkpoint.for_run(config, info, arch_args)

    def save(state_dict, metrics) -> None:
        checkpoint.save(replace(run, state_dict=state_dict, metrics=metrics), model_path)

    def kept() -> str:
        return f"{model_path} keeps epoch {best.epoch}" if best.epoch else f"{model_path} was not written"

    # fit: each epoch that validates better than all before is saved at once
    log.info("training the network...")
    best = BestEpoch(model, on_improved=save)
    start = runtime.now(device)
    try:
        with Progress(config.epochs, len(train_set), args.quiet) as progress:
            history = fit(
                model, train_loader, val_loader, loss_fn, optimizer, config.epochs, callbacks=(best, progress)
            )
    except NonFiniteLossError as error:
        raise RunError(f"{error}; {kept()}; try a lower --lr than {config.lr}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {kept()}") from None
    log.info("total time taken to train the model: %.2fs", runtime.now(device) - start)

    # test, once, with the weights that are kept
    log.info("evaluating the network of epoch %d on the test set...", best.epoch)
    model.load_state_dict(best.state_dict)
    test = evaluate(model, test_loader, loss_fn)

    # report
    log.info("classification report\n%s", report(test.labels, test.predictions, info.classes))
    log.info("test accuracy: %.4f", test.accuracy)

    # save and plot
    save(best.state_dict, best.metrics | {"test_loss": test.loss, "test_accuracy": test.accuracy})
    title = f"{type(model).__name__} on {info.title}: test accuracy {test.accuracy:.2%} (epoch {best.epoch})"
    with atomic_write(plot_path) as handle:
        plots.plot_history(history, best.epoch, title).savefig(handle, format=plot_path.suffix[1:])
    log.info("wrote %s and %s", model_path, plot_path)

    # verdicts
    gap = best.metrics["val_accuracy"] - test.accuracy
    if abs(gap) > GAP_WORTH_A_WARNING:
        why = f": {info.shift_note}" if info.shift_note and gap > 0 else ""
        apart = "validation accuracy %.4f and test accuracy %.4f are %.1f points apart%s"
        log.warning(apart, best.metrics["val_accuracy"], test.accuracy, 100 * abs(gap), why)
    missed = args.target_accuracy is not None and test.accuracy < args.target_accuracy
    if missed:
        log.error("test accuracy %.4f is below --target-accuracy %s", test.accuracy, args.target_accuracy)
    if fell_back:
        log.warning(fell_back)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "train.py"))
