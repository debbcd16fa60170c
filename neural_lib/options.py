"""The hyper-parameters as command-line options, each of one or more values, and the grid that they make."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

from neural_lib.config import CHOICES, RECIPES, TrainConfig, values_of_recipes
from neural_lib.datasets import DATASETS, DatasetInfo
from neural_lib.errors import UserError
from neural_lib.models import ARCHS, HAVE_WIDTH
from neural_lib.runs import RunBuilder

MOST_RUNS = 1000  # more are rather a slip than meant

WIDEST_CHOICES = 24  # characters of choices, in --help beside the option's name; more are told in its description

OPTIONS = {  # flags: what it is; type, choices and defaults are config's
    ("-a", "--arch"): f"network: {', '.join(ARCHS)}",
    ("--width",): f"filters of the first layers, of {' and '.join(HAVE_WIDTH)} alone; 0: its own",
    ("--epochs",): "passes over the training images",
    ("-b", "--batch-size"): "images per optimizer step, of all processes",
    ("--shuffle",): "draw a new order of the images each epoch",
    ("--optimizer",): "how gradients become steps",
    ("--lr",): "learning rate, the highest one of a schedule",
    ("--schedule",): "of the learning rate, from step to step",
    ("--weight-decay",): "pull of the weights towards 0",
    ("--label-smoothing",): "share of the target spread over all classes",
    ("--dropout",): "share of a linear layer's inputs dropped in training",
    ("--rotation",): "turn training images by up to so many degrees",
    ("--scale",): "stretch or shrink them by up to this share",
    ("--shear",): "slant them by up to this slope",
    ("--shift",): "move them by up to so many pixels each way",
    ("--elastic",): "bend them by so many pixels, standard deviation",
    ("--flip",): "mirror them with a chance of one half",
    ("--precision",): "auto: bf16 where processor or GPU have it natively",
    ("--train-split",): "share to train on; the other images validate",
    ("--monitor",): "what makes an epoch the best, in validation",
    ("--patience",): "end after so many epochs without a better one; 0: don't",
    ("--seed",): "of everything that is drawn by chance",
}


class _Values(argparse.Action):
    """Keeps an option's values in `params`, under its name, in the order in which the options are given."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if isinstance(getattr(TrainConfig, self.dest), bool):
            values = [value == "on" for value in values]
        before = {name: given for name, given in namespace.params.items() if name != self.dest}
        namespace.params = {**before, self.dest: values}


def add_hyperparameters(parser: argparse.ArgumentParser) -> None:
    """Give the parser --recipe and the hyper-parameters' options; what is given of these arrives in `params`."""
    names = "\n".join(f"  {name:9} {recipe.about}" for name, recipe in RECIPES.items())
    parser.epilog = f"recipes:\n{names}"
    parser.set_defaults(params={})
    group = parser.add_argument_group(
        "hyper-parameters",
        "Several values make a grid: a run for each combination, the last option's\n"
        "varying fastest. In brackets what they are if not given.",
    )
    group.add_argument(
        "-r",
        "--recipe",
        choices=RECIPES,
        default="classic",
        help="what the next options are if not given (%(default)s)",
    )
    for flags, about in OPTIONS.items():
        name = flags[-1].removeprefix("--").replace("-", "_")
        kind = type(getattr(TrainConfig, name))
        choices = {"arch": tuple(ARCHS), "shuffle": ("on", "off"), "flip": ("on", "off"), **CHOICES}.get(name)
        group.add_argument(
            *flags,
            action=_Values,
            nargs="+",
            type=str if choices else kind,
            choices=choices,
            metavar=_metavar(choices) if choices else {int: "N", float: "X"}[kind],
            default=argparse.SUPPRESS,
            help=f"{about} ({values_of_recipes(name)})".replace("%", "%%"),
        )


def _metavar(choices: Sequence[str]) -> str:
    listed = "{" + ",".join(choices) + "}"
    return listed if len(listed) <= WIDEST_CHOICES else "NAME"


def build_configs(args: argparse.Namespace) -> list[TrainConfig]:
    """The configuration of each run that the parsed options ask for, each checked against its data set.

    All runs are judged by the same measure, so that they can be compared.

    Raises UserError where one of them can't be, or where they are more than MOST_RUNS and --yes was not given.
    """
    count = math.prod(len(values) for values in args.params.values())
    if count > MOST_RUNS and not args.yes:
        raise UserError(f"these are {count:,} runs; give --yes to train more than {MOST_RUNS:,}")
    info = DATASETS[args.dataset or TrainConfig.dataset]
    own = {"dataset": args.dataset} if args.dataset else {}
    if len(args.params.get("monitor", [])) > 1:
        raise UserError("--monitor takes one value: the runs of a grid are compared by it")
    configs = [RECIPES[args.recipe].config(**own, **run._asdict()) for run in RunBuilder.get_runs(args.params)]
    if len({config.monitor for config in configs}) > 1:  # by the recipe, for different networks
        configs = [replace(config, monitor=TrainConfig.monitor) for config in configs]
    check_fit(configs, info)
    return configs


def check_fit(configs: Sequence[TrainConfig], info: DatasetInfo) -> None:
    """Raise UserError where one of the configurations can't be with a data set like this, or with its network."""
    for config in configs:
        config.split_sizes(info.train_size)
        config.check_images(info.image_size, info.mirrors)
        if config.width and config.arch not in HAVE_WIDTH:
            takers = ", ".join(HAVE_WIDTH)
            raise UserError(f"--width {config.width}: {config.arch} has its own; only {takers} takes one")
