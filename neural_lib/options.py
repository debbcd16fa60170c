"""The hyper-parameters as command-line options, each of one or more values, and the grid that they make."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from neural_lib.config import RECIPES, TrainConfig, flag_of, shown, values_of_recipes
from neural_lib.datasets import DATASETS, DatasetInfo
from neural_lib.errors import UserError
from neural_lib.models import HAVE_WIDTH
from neural_lib.runs import RunBuilder

DEFAULT_RECIPE = "classic"
MOST_RUNS = 1000  # more are rather a slip than meant

WIDEST_CHOICES = 24  # characters of choices, in --help beside the option's name; more are told in its description


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
        help=f"what the next options are if not given ({DEFAULT_RECIPE})",
    )
    for each in fields(TrainConfig):
        if not (about := each.metadata):  # --dataset takes one value, and can be left open
            continue
        choices = ("on", "off") if isinstance(each.default, bool) else about["choices"]
        kind = type(each.default)
        group.add_argument(
            *([about["short"]] if about["short"] else []),
            flag_of(each.name),
            action=_Values,
            nargs="+",
            type=str if choices else kind,
            choices=choices or None,
            metavar=_metavar(choices) if choices else {int: "N", float: "X"}[kind],
            default=argparse.SUPPRESS,
            help=f"{about['about']} ({values_of_recipes(each.name)})".replace("%", "%%"),
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
    recipe = RECIPES[args.recipe or DEFAULT_RECIPE]
    configs = [recipe.config(**own, **run._asdict()) for run in RunBuilder.get_runs(args.params)]
    if len({config.monitor for config in configs}) > 1:  # by the recipe, for different networks
        configs = [replace(config, monitor=TrainConfig.monitor) for config in configs]
    check_fit(configs, info)
    return configs


def resumed_configs(args: argparse.Namespace, found: dict, path: Path) -> list[TrainConfig]:
    """The configuration of each run that results.json, at `path`, is of: options that are not given come from there.

    found: what results.read_json gave. More epochs may be given where the learning rate is constant, to a single run or
    to a grid of which no run has finished. Raises UserError, naming them, where options are given that differ.
    """
    names = {each.name for each in fields(TrainConfig)}
    if found["params"] is None or any(run.keys() != names for run in found["runs"]):
        raise UserError(f"--resume: {path} is of another program or version; use that one, or delete the file")
    try:
        runs = [TrainConfig(**run) for run in found["runs"]]
    except (UserError, TypeError) as error:
        raise UserError(f"--resume: {path} was changed ({error}); delete it to start anew") from None
    given = {**args.params, **({"dataset": [args.dataset]} if args.dataset else {})}
    if args.recipe:
        own = [{name: getattr(run, name) for name in ("dataset", *found["params"])} for run in runs]
        of_recipe = [RECIPES[args.recipe].config(**values) for values in own]
        for name in of_recipe[0].to_dict().keys() - own[0].keys() - {"monitor"}:
            given.setdefault(name, _values(of_recipe, name))
    differing = [name for name, values in given.items() if values != _values(runs, name)]
    if not differing:
        return runs
    told = [
        f"{flag_of(name)} {' '.join(map(shown, _values(runs, name)))} there, {' '.join(map(shown, given[name]))} here"
        for name in differing
    ]
    why = ""
    if differing == ["epochs"] and len(given["epochs"]) == 1:
        why = _why_not_longer(runs, found, given["epochs"][0])
        if not why:
            return [replace(run, epochs=given["epochs"][0]) for run in runs]
    raise UserError(
        f"--resume: {path} is of another command: {'; '.join(told)}{why}; give the same one, or a --model in another "
        "folder, or delete that file and checkpoint.pth, if it is there, to start anew"
    )


def _values(runs: Sequence[TrainConfig], name: str) -> list:
    return list(dict.fromkeys(getattr(run, name) for run in runs))


def _why_not_longer(runs: Sequence[TrainConfig], found: dict, epochs: int) -> str:
    # why these runs can't be trained for so many epochs; nothing where they can
    if any(run.schedule != "constant" for run in runs):
        return f" (a {runs[0].schedule} schedule is laid out for its number of epochs and can't be prolonged)"
    if any(run.epochs > epochs for run in runs):
        return " (fewer than before)"
    return " (runs of this grid have finished with fewer)" if len(runs) > 1 and found["finished"] else ""


def check_fit(configs: Sequence[TrainConfig], info: DatasetInfo) -> None:
    """Raise UserError where one of the configurations can't be with a data set like this, or with its network."""
    for config in configs:
        config.split_sizes(info.train_size)
        config.check_images(info.image_size, info.mirrors)
        if config.width and config.arch not in HAVE_WIDTH:
            takers = ", ".join(HAVE_WIDTH)
            raise UserError(f"--width {config.width}: {config.arch} has its own; only {takers} takes one")
