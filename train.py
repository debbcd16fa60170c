"""Train a network on small images: learn, validate, test, save and plot.

    python train.py                  # as the tutorial does
    python train.py --recipe fast    # its accuracy, as soon as possible
    python train.py --recipe best    # the most that LeNet can give

On KMNIST's test set these reach 94.9 %, 94.7 % and 98.0 % in 73, 6.5 and 134 s
of training (n = 5 seeds, 2 cores of an AMD EPYC, torch 2.15); Results in
README.md says how this was measured.
"""

import argparse
import logging
import os
import sys
import textwrap
from dataclasses import fields, replace

from neural_lib import cli, datasets, plots, runtime
from neural_lib.config import CHOICES, RECIPES, TrainConfig, values_of_recipes
from neural_lib.downloads import DownloadError
from neural_lib.errors import Interrupted, RunError, UserError
from neural_lib.files import atomic_write, check_output

MODEL_SUFFIXES = (".pth", ".pt")
FALLBACK = "digits"  # needs no network
GAP_WORTH_A_WARNING = 0.01  # of accuracy: a point

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__, epilog="recipes:\n" + describe_recipes())
    add = parser.add_argument
    add("-m", "--model", default="output/model.pth", help="checkpoint to write (%(default)s)")
    add("-p", "--plot", default="output/plot.png", help="learning curves to draw (%(default)s)")
    add(
        "-d",
        "--dataset",
        choices=datasets.DATASETS,
        help=f"data set; without this option {TrainConfig.dataset}, or {FALLBACK} where that can't be downloaded",
    )
    add("--data", default="data", metavar="DIR", help="folder that holds the data sets (%(default)s)")
    add(
        "-r",
        "--recipe",
        choices=RECIPES,
        default="classic",
        help="what the next options are if not given (%(default)s)",
    )

    def hyper(*flags: str, help: str) -> None:
        """An option for one hyper-parameter; type, choices and values are config's."""
        name = flags[-1].removeprefix("--").replace("-", "_")
        choices, kind = CHOICES.get(name), type(getattr(TrainConfig, name))
        metavar = None if choices else {int: "N", float: "X"}[kind]
        values = values_of_recipes(name)
        add(*flags, type=kind, choices=choices, metavar=metavar, help=f"{help} ({values})".replace("%", "%%"))

    hyper("--epochs", help="passes over the training images")
    hyper("-b", "--batch-size", help="images per optimizer step")
    hyper("--optimizer", help="how gradients become steps")
    hyper("--lr", help="learning rate, the highest one of a schedule")
    hyper("--schedule", help="of the learning rate, from step to step")
    hyper("--weight-decay", help="pull of the weights towards 0")
    hyper("--label-smoothing", help="share of the target spread over all classes")
    hyper("--dropout", help="share of a linear layer's inputs dropped in training")
    hyper("--rotation", help="turn training images by up to so many degrees")
    hyper("--scale", help="stretch or shrink them by up to this share")
    hyper("--shear", help="slant them by up to this slope")
    hyper("--shift", help="move them by up to so many pixels each way")
    hyper("--elastic", help="bend them by so many pixels, standard deviation")
    hyper("--precision", help="auto: bf16 where processor or GPU have it natively")
    hyper("--train-split", help="share to train on; the other images validate")
    hyper("--seed", help="of everything that is drawn by chance")
    add("--device", choices=runtime.DEVICES, default="auto", help="auto takes an accelerator where there is one")
    add("--compile", action="store_true", help="torch.compile the network (slower on the CPUs tried)")
    add("--target-accuracy", type=float, metavar="X", help="exit with status 1 below this test accuracy")
    add("--quiet", action="store_true", help="print warnings and errors alone")
    args = parser.parse_args(argv)
    if args.target_accuracy is not None and not 0 < args.target_accuracy <= 1:
        parser.error(f"--target-accuracy must be above 0 and at most 1 (0.94 is 94 %), not {args.target_accuracy}")
    return args


def describe_recipes() -> str:
    return "\n".join(f"  {name:9} {recipe.about}" for name, recipe in RECIPES.items())


def chosen_config(args: argparse.Namespace) -> TrainConfig:
    """The recipe's configuration; an option that was given wins over it."""
    given = {field.name: getattr(args, field.name, None) for field in fields(TrainConfig)}
    return RECIPES[args.recipe].config(**{name: value for name, value in given.items() if value is not None})


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
    config = chosen_config(args)
    info = datasets.DATASETS[config.dataset]
    config.split_sizes(info.train_size)
    config.check_image_size(info.image_size)
    runtime.check_device(args.device)
    model_path = check_output(args.model, "--model", MODEL_SUFFIXES)
    plot_path = check_output(args.plot, "--plot", plots.SUFFIXES)

    runtime.tune_for_cpu()
    import torch

    from neural_lib import checkpoint
    from neural_lib.augment import RandomDistortion
    from neural_lib.callbacks import BestEpoch, Progress
    from neural_lib.loaders import EVAL_BATCH_SIZE, ImageTensors, Normalisation, make_loader, split
    from neural_lib.metrics import report
    from neural_lib.models import build_model
    from neural_lib.optim import build_loss, build_optimizer, build_scheduler
    from neural_lib.training import NonFiniteLossError, evaluate, fit

    # seed, device and precision
    runtime.seed_everything(config.seed)
    device, reason = runtime.select_device(args.device)
    log.info("computing on %s (%s)", device, reason)
    precision, reason = runtime.select_precision(config.precision, device)
    log.info("precision: %s (%s)", precision, reason)
    if precision == "bf16" and not runtime.computes_bfloat16(device):
        log.warning("--precision bf16: the %s isn't known to compute it natively; fp32 may be faster", device)
    config = replace(config, precision=precision)
    log.info("recipe %s, with\n%s", args.recipe, textwrap.indent(textwrap.fill(str(config), 76), "    "))

    # data
    config, parts, fell_back = load_data(config, args)
    info = datasets.DATASETS[config.dataset]
    train_val, test_set = (ImageTensors(*part, device) for part in parts)

    log.info("generating the train/validation split...")
    train_set, val_set = split(train_val, config)
    normalise = Normalisation(info.mean, info.std).to(device)
    prepare = normalise
    if config.distorts():
        prepare = torch.nn.Sequential(RandomDistortion(config, info.image_size, device), normalise)
    train_loader = make_loader(train_set, config.batch_size, prepare, shuffle_seed=config.seed)
    val_loader = make_loader(val_set, EVAL_BATCH_SIZE, normalise)
    test_loader = make_loader(test_set, EVAL_BATCH_SIZE, normalise)
    log.info("%d images to train on, %d to validate, %d to test", len(train_set), len(val_set), len(test_set))

    # model
    log.info("initializing the %s model...", config.arch)
    arch_args = {"numChannels": info.channels, "classes": len(info.classes), "image_size": info.image_size}
    model = build_model(config.arch, **arch_args, dropout=config.dropout).to(device)
    optimizer = build_optimizer(model.parameters(), config)
    scheduler = build_scheduler(optimizer, config, len(train_loader))
    loss_fn = build_loss(config)
    if args.compile:
        log.info("torch.compile: the first batches wait for the compiler...")
        model.compile()

    run = checkpoint.for_run(config, info, arch_args)

    def save(state_dict, metrics) -> None:
        checkpoint.save(replace(run, state_dict=state_dict, metrics=metrics), model_path)

    def kept() -> str:
        return f"{model_path} keeps epoch {best.epoch}" if best.epoch else f"{model_path} was not written"

    # fit: each epoch that validates better than all before is saved at once
    if harder := config.regularisation():
        log.info("training, not validation, is with %s", ", ".join(harder))
    log.info("training the network...")
    best = BestEpoch(model, on_improved=save)
    start = runtime.now(device)
    try:
        with Progress(config.epochs, len(train_set), args.quiet) as progress:
            history = fit(
                model, train_loader, val_loader, loss_fn, optimizer, config.epochs,
                scheduler, precision, callbacks=(best, progress),
            )  # fmt: skip
    except NonFiniteLossError as error:
        raise RunError(f"{error}; {kept()}; try a lower --lr than {config.lr}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {kept()}") from None
    log.info("total time taken to train the model: %.2fs", runtime.now(device) - start)

    # test, once, with the weights that are kept and in float32, as whoever loads them will compute
    log.info("evaluating the network of epoch %d on the test set...", best.epoch)
    model.load_state_dict(best.state_dict)
    test = evaluate(model, test_loader)

    # report
    log.info("classification report\n%s", report(test.labels, test.predictions, info.classes))
    log.info("test accuracy: %.4f", test.accuracy)

    # save and plot
    save(best.state_dict, best.metrics | {"test_loss": test.loss, "test_accuracy": test.accuracy})
    title = f"{type(model).__name__} on {info.title}: test accuracy {test.accuracy:.2%} (epoch {best.epoch})"
    if harder:
        title += f"\ntraining with {', '.join(harder)}"
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
