"""Command: what train.py has to do and where its results go; checked before torch is loaded."""

import argparse
import hashlib
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path

from neural_lib.config import DEFAULT_RECIPE, HAVE_WIDTH, PREPARING, RECIPES, TrainConfig, format_value, option_name
from neural_lib.data.catalog import DATASETS, DatasetInfo, identify
from neural_lib.records import ReportFiles, check_results, owner_of, read_json
from neural_lib.system import cli
from neural_lib.system.environment import ranks_from_environment
from neural_lib.system.errors import UserError
from neural_lib.system.files import (
    begins_with,
    check_input,
    check_is_ours,
    check_output,
    check_output_folder,
    locked,
    remove_abandoned,
)
from neural_lib.training.runs import RunBuilder

RESUMED = ("command", "started", "init", "init_sha256")  # of what is recorded of a command
MAX_RUNS = 1000  # a larger grid is probably a mistake
OTHER_MODEL = "move it, or give a --model in another folder"
MODEL_SUFFIXES = (".pth", ".pt")
# of what matplotlib writes (FigureCanvasBase.filetypes), all that knows transparency
PLOT_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
STATE_NAME = "checkpoint.pth"  # beside the model
STATE_MARK, MODEL_MARK = b"neural_lib training state", b"neural_lib checkpoint"  # in the first bytes of these files


@dataclass
class Command:
    """The runs to train, and where their results go."""

    params: dict  # the hyper-parameters that were given, and their values
    configs: list[TrainConfig]  # of each run
    recipe: str
    data_dir: str
    model: Path
    plot: Path
    state: Path
    logdir: Path | None
    report: ReportFiles
    about: dict  # recorded in the model file: Checkpoint.training
    is_resume: bool  # whether --resume was given
    is_finished: bool = False  # whether nothing is left to do
    is_longer: bool = False  # whether a run goes on for more epochs than it was begun with
    init: str = ""  # the model file whose weights to begin from
    earlier: dict | None = None  # what results.json says, if the command goes on with it
    resume_from: Path | None = None  # the training state to go on from
    options: dict = field(default_factory=dict)  # recorded in results.json


def prepare(args: argparse.Namespace, argv: Sequence[str]) -> Command:
    """Check the arguments, the outputs and what earlier commands left. Raises UserError if something doesn't fit."""
    args.dataset = None if args.dataset is None else identify(args.dataset)
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    configs = [] if args.resume else build_configs(args)
    model = check_output(args.model, "--model", MODEL_SUFFIXES)
    _check_model(model)
    plot = check_output(args.plot or model.with_name("plot.png"), "--plot", PLOT_SUFFIXES)
    logdir = None if args.logdir is None else check_output_folder(args.logdir, "--logdir")
    state = check_output(model.with_name(STATE_NAME), "--model's training state", MODEL_SUFFIXES)
    if state == model:
        raise UserError(f"--model {args.model}: is where the training state goes; give another name")
    table, records = check_results(model.parent)
    for path, option in ((records, "--model's results"), (plot, "--plot")):
        cli.exit_stack.enter_context(locked(path, option))
    report = ReportFiles(model.parent, "--model's report", taken=plot)
    ranks = ranks_from_environment()
    launcher = ["torchrun", "--nproc-per-node", str(ranks.local_world_size)] if ranks.world_size > 1 else ["python"]
    about = {"command": shlex.join([*launcher, "train.py", *map(str, argv)]), "started": started}
    if args.init:
        about |= _init(args.init, model, len(configs))
    recipe, data_dir = args.recipe or DEFAULT_RECIPE, args.data or "data"
    command = Command(
        args.params, configs, recipe, data_dir, model, plot, state, logdir, report, about, bool(args.resume)
    )
    command.init = about.get("init", "")
    if args.resume:
        _resume(command, args, records)
    else:
        _check_replaceable(records, state)
    about = command.about
    about["data"] = os.path.abspath(command.data_dir)
    command.options = {"recipe": command.recipe, "model": model.name, "device": args.device, **about}
    for path in (model, plot, state, table, records, *report):
        remove_abandoned(path)
    return command


def _resume(command: Command, args: argparse.Namespace, records: Path) -> None:
    # go on where an earlier command left off; options that are not given are the earlier one's
    command.resume_from = _find_state(args.resume, command.state)
    source = command.resume_from.with_name(records.name) if command.resume_from else records
    found = read_json(source)
    if command.resume_from and not found:
        raise UserError(
            f"--resume {command.resume_from}: {records.name}, which was written beside it, is missing; put it back, or "
            f"delete {command.resume_from} to start anew"
        )
    if not found or not (found["rows"] or command.resume_from):
        command.configs = build_configs(args)
        return
    command.configs, command.init = _resumed_configs(args, found, source), ""
    command.params = found["params"]
    command.recipe = found["options"].get("recipe", command.recipe)
    command.data_dir = args.data or found["options"].get("data", command.data_dir)
    if args.device == "auto" and ranks_from_environment().world_size == 1:  # of several only this one has read it
        args.device = "cpu" if found["options"].get("device") == "cpu" else "auto"
    command.about = _resumed_about(command, args, found, source)
    command.is_longer = command.configs[0].epochs > found["runs"][0]["epochs"]
    if command.is_longer:
        if not command.resume_from:
            raise UserError(f"--resume: more epochs need {command.state}, which is not there")
        if "epochs" in command.params:
            command.params = {**command.params, "epochs": [command.configs[0].epochs]}
        found["finished"], found["tested"] = [], False
        command.about["command"] += f" --epochs {command.configs[0].epochs}"  # the last one counts
    if source == records:
        command.earlier = found
        command.is_finished = found["tested"] and len(found["finished"]) == len(found["runs"])
        if found["finished"]:
            hint = f"{records} is of finished runs, whose best it must hold"
            check_input(command.model, "--model", hint)


def _init(path: str, model: Path, runs: int) -> dict[str, str]:
    # what is recorded of --init
    check_input(path, "--init", "give a model file that train.py wrote")
    if not begins_with(Path(path), MODEL_MARK):
        raise UserError(f"--init {path}: is no model file of train.py; give one")
    if runs > 1 and model.exists() and os.path.samefile(path, model):
        raise UserError(f"--init {path}: is --model too, which the first run of this grid would replace; copy it first")
    with open(path, "rb") as handle:
        return {"init": os.path.abspath(path), "init_sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _resumed_about(command: Command, args: argparse.Namespace, found: dict, source: Path) -> dict[str, str]:
    # what was recorded of the command that is gone on with; --init is needed only where a run has yet to begin
    options, hint = found["options"], "give the same one, or a --model in another folder"
    about = command.about | {name: options[name] for name in RESUMED if name in options}
    given, there = command.about.get("init", ""), options.get("init", "")
    if given and given != there:
        raise UserError(
            f"--resume: {source} is of a command with {f'--init {there}' if there else 'no --init'}; {hint}"
        )
    if there and len(found["runs"]) - len(found["finished"]) > bool(command.resume_from):
        command.init = there
        if _init(there, command.model, len(found["runs"]))["init_sha256"] != about["init_sha256"]:
            raise UserError(f"--init {there}: has changed, and a run is still to begin from it; put it back")
    return about


# --- the runs ---


def build_configs(args: argparse.Namespace) -> list[TrainConfig]:
    """The configuration of each run that the parsed options ask for, each checked against its data set.

    Raises UserError if a configuration is invalid, or there are more than MAX_RUNS and --yes was not given.
    """
    count = math.prod(len(values) for values in args.params.values())
    if count > MAX_RUNS and not args.yes:
        raise UserError(f"these are {count:,} runs; give --yes to train more than {MAX_RUNS:,}")
    info = DATASETS.get(args.dataset or TrainConfig.dataset)
    if info and (wrong := [option_name(name) for name in PREPARING if name in args.params]):
        which = "images of your own, --dataset FOLDER or FILE.npz"
        raise UserError(f"{', '.join(wrong)}: for {which}, not for {info.title}")
    own = {"dataset": args.dataset} if args.dataset else {}
    if len(args.params.get("monitor", [])) > 1:
        raise UserError("--monitor takes one value: the runs of a grid are compared by it")
    recipe = RECIPES[args.recipe or DEFAULT_RECIPE]
    configs = [recipe.config(**own, **run._asdict()) for run in RunBuilder.get_runs(args.params)]
    check_fit(configs, info)
    return configs


def check_fit(configs: Sequence[TrainConfig], info: DatasetInfo | None) -> None:
    """Raise UserError if a configuration doesn't suit the data set or its network. info: None where not known yet."""
    for config in configs:
        if config.dataset in DATASETS:
            config.split_sizes(info.train_size)
        if info:
            config.check_images(info.image_size, info.mirrors)
        if config.width and config.arch not in HAVE_WIDTH:
            takers = ", ".join(HAVE_WIDTH)
            raise UserError(f"--width {config.width}: {config.arch} has its own; only {takers} takes one")


def _resumed_configs(args: argparse.Namespace, found: dict, path: Path) -> list[TrainConfig]:
    # the configuration of each run in `path`, whose content is `found`; more epochs may be given where the learning
    # rate is constant, to a single run or to a grid of which no run has finished
    names = {each.name for each in fields(TrainConfig)}
    if any(run.keys() != names for run in found["runs"]):
        raise UserError(f"--resume: {path} is of another program or version; use that one, or delete the file")
    try:
        runs = [TrainConfig(**run) for run in found["runs"]]
    except (UserError, TypeError) as error:
        raise UserError(f"--resume: {path} was changed ({error}); delete it to start anew") from None
    given = {**args.params, **({"dataset": [args.dataset]} if args.dataset else {})}
    if args.recipe:
        own = [{name: getattr(run, name) for name in ("dataset", *found["params"])} for run in runs]
        of_recipe = [RECIPES[args.recipe].config(**values) for values in own]
        for name in of_recipe[0].to_dict().keys() - own[0].keys():
            given.setdefault(name, _values(of_recipe, name))
    differing = [name for name, values in given.items() if values != _values(runs, name)]
    if not differing:
        return runs
    reason = ""
    if differing == ["epochs"] and len(given["epochs"]) == 1:
        reason = _why_not_longer(runs, found, given["epochs"][0])
        if not reason:
            return [replace(run, epochs=given["epochs"][0]) for run in runs]
    there = {name: " ".join(map(format_value, _values(runs, name))) for name in differing}
    here = {name: " ".join(map(format_value, given[name])) for name in differing}
    differences = "; ".join(f"{option_name(name)} {there[name]} there, {here[name]} here" for name in differing)
    raise UserError(
        f"--resume: {path} is of another command: {differences}{reason}; give the same one, or a --model in another "
        f"folder, or delete that file and {STATE_NAME}, if it is there, to start anew"
    )


def _values(runs: Sequence[TrainConfig], name: str) -> list:
    return list(dict.fromkeys(getattr(run, name) for run in runs))


def _why_not_longer(runs: Sequence[TrainConfig], found: dict, epochs: int) -> str:
    # why these runs can't be trained for more epochs; empty if they can
    if any(run.schedule != "constant" for run in runs):
        return f" (a {runs[0].schedule} schedule is laid out for its number of epochs and can't be prolonged)"
    if any(run.epochs > epochs for run in runs):
        return " (fewer than before)"
    return " (runs of this grid have finished with fewer)" if len(runs) > 1 and found["finished"] else ""


# --- what earlier commands left in the model's folder ---


def _find_state(resume: bool | str, state_path: Path) -> Path | None:
    # the training state to go on from, if any; resume: --resume, without or with a path
    check_is_ours(state_path, STATE_MARK, OTHER_MODEL)
    if isinstance(resume, str):
        resume = os.path.join(resume, STATE_NAME) if os.path.isdir(resume) else resume
        check_input(resume, "--resume", f"give the {STATE_NAME} of a run")
        if state_path.exists() and not os.path.samefile(resume, state_path):
            raise UserError(
                f"--resume {resume}: {state_path} is there too and would be replaced: give --resume alone to go on "
                "with that, or delete it"
            )
        return state_path if state_path.exists() else Path(resume)  # whatever it is called
    return state_path if state_path.exists() else None


def _check_replaceable(results_path: Path, state_path: Path) -> None:
    # a new command must not replace a run or a grid that has not finished
    check_is_ours(state_path, STATE_MARK, OTHER_MODEL)
    found = read_json(results_path)
    hint = "go on with --resume, give a --model in another folder, or delete"
    if found:
        finished, failed, count = (len(found[key]) for key in ("finished", "failures", "runs"))
        if finished and finished + failed < count:
            raise UserError(
                f"{results_path} is of an interrupted grid, {finished} of {count} runs have finished: {hint} that "
                f"file and {STATE_NAME}, if it is there"
            )
    if state_path.exists() and not (found and found["tested"]):
        raise UserError(f"{state_path} is of an interrupted run: {hint} that file")


def _check_model(path: Path) -> None:
    # the model's path must not hold something else, nor its folder another model: the records, report and pictures in a
    # folder are of one model, which results.json names, and would be replaced; a copy of it does no harm
    check_is_ours(path, MODEL_MARK, OTHER_MODEL)
    for other in sorted(path.parent.iterdir()):
        if other == path or other.suffix.lower() not in MODEL_SUFFIXES or not begins_with(other, MODEL_MARK):
            continue
        if not path.exists() or owner_of(path.parent, default=path.name) != path.name:
            raise UserError(
                f"--model {path}: {other} is a network in the same folder, and its report, records and pictures would "
                "be replaced; give each network a folder of its own"
            )
