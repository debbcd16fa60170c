"""Command: what train.py has to do and where its results go; checked before torch is loaded."""

import argparse
import contextlib
import logging
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from neural_lib.config import (
    DEFAULT_RECIPE,
    DEFAULT_SIZE,
    IMAGENET,
    IMAGENET_ARCHS,
    PHOTO_RECIPE,
    PHOTO_SIZE,
    PREPARATION_OPTIONS,
    RECIPES,
    WIDTH_ARCHS,
    TrainConfig,
    differences,
    format_value,
    option_name,
)
from neural_lib.data.catalog import DATASETS, DatasetInfo, identify
from neural_lib.evaluation.report_files import ReportFiles
from neural_lib.records import check_results, is_kept, kept_path, owner_of
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
    sha256_of,
)
from neural_lib.training.runs import RunBuilder

log = logging.getLogger(__name__)
RESUMED = ("command", "started", "init", "init_sha256")  # entries of run_info that stay when a command is resumed
MIN_VAL = 100  # photos that validate: the standard error of an accuracy of 90 % on 100 images is 3 points
MAX_RUNS = 1000  # a larger grid is probably a mistake
NO_GRID = "--keep-every: is for one run, not for a grid; the best run's network is kept"
OTHER_MODEL = "move it, or give a --model in another folder"
MODEL_SUFFIXES = (".pth", ".pt")
# those of matplotlib's formats (FigureCanvasBase.filetypes) that know transparency
PLOT_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
DATA_DIR = "data"
STATE_NAME = "checkpoint.pth"  # beside the model
STATE_MARK, MODEL_MARK = b"neural_lib training state", b"neural_lib checkpoint"  # in the first bytes of these files
TORCH_MARKS = (b"PK", b"\x80")  # first bytes of torch.save's files: a zip archive or, before torch 1.6, a pickle


@dataclass(frozen=True)
class Command:
    """The runs to train, and where their results go."""

    params: dict  # hyper-parameter: its given values
    recipe: str  # "" if none was given
    dataset: str  # a name in catalog.DATASETS or a path; "" if none was given
    data_dir: str  # "" if none was given
    use_cache: bool
    device: str  # as --device takes it
    model: Path
    plot: Path
    state: Path
    logdir: Path | None
    tables: tuple[Path, Path]  # results.csv and results.json
    report: ReportFiles
    run_info: dict  # how it was started, for the model file: keys of Checkpoint.training
    is_resume: bool  # whether --resume was given
    keep_every: int = 0  # epochs from one kept network to the next; 0: none is kept
    is_longer: bool = False  # whether the runs are resumed with more epochs than before
    replaced: str = ""  # the network that --model holds and the command will replace, in words
    may_fall_back: bool = False  # whether the embedded digits may replace a data set that can't be downloaded
    init: str = ""  # the weights that the runs begin from: a model file, or config.IMAGENET
    is_photos: bool = False  # whether the data set consists of user photos
    saved_configs: tuple[TrainConfig, ...] = ()  # the requested configurations, if the command is resumed

    @property
    def exports(self) -> list[Path]:
        """The files that are written from checkpoint.pth."""
        return [self.model, self.plot, *self.tables, *self.report]

    @property
    def options(self) -> dict[str, str]:
        """The command as results.json and checkpoint.pth record it."""
        own = {"recipe": self.recipe or DEFAULT_RECIPE, "model": self.model.name, "device": self.device}
        return own | self.run_info

    @property
    def data_options(self) -> dict[str, object]:
        """The arguments of load_data; all runs have the same images."""
        may_add = self.is_photos and "train_split" not in self.params
        return {"config": self.configs()[0], "data_dir": self.data_dir or DATA_DIR, "may_fall_back": self.may_fall_back,
                "use_cache": self.use_cache, "min_val": MIN_VAL if may_add else 0}  # fmt: skip

    def configs(self, dataset: str = "") -> list[TrainConfig]:
        """The requested configuration of each run; dataset: the one that is trained on, if it isn't the requested one.

        Raises UserError if one is invalid.
        """
        dataset = dataset or self.dataset or TrainConfig.dataset
        return list(self.saved_configs) or build_configs(self.params, self.recipe, dataset, self.init, self.is_photos)

    def with_recipe(self, is_photos: bool) -> "Command":
        """The command with the recipe that holds if none was given, and its weights to begin from.

        is_photos: whether the data set consists of photos, as custom.shows_photos finds out. Photos are trained by the
        recipe "photos", unless pictures show writing, are to become small images, or a given network doesn't know
        ImageNet. Raises UserError if a configuration is invalid.
        """
        is_photos = is_photos and not any(self.params.get("writing", ()))
        is_small = any(0 < size < PHOTO_SIZE for size in self.params.get("image_size", ()))
        recipe = self.recipe
        if not recipe and is_photos and not is_small and {*self.params.get("arch", ())} <= {*IMAGENET_ARCHS}:
            recipe = PHOTO_RECIPE
            log.info("these are photos, so --recipe %s; --recipe classic or --arch lenet trains from scratch", recipe)
        init = self.init or RECIPES[recipe or DEFAULT_RECIPE].init
        run_info = self.run_info | ({"init": init} if init else {})
        command = replace(self, recipe=recipe, is_photos=is_photos, init=init, run_info=run_info)
        size = command.configs()[0].image_size or DEFAULT_SIZE
        if is_photos and size < PHOTO_SIZE:
            log.warning("the photos are reduced to %dx%d pixels; --recipe %s is for photos", size, size, PHOTO_RECIPE)
        return command


def prepare(args: argparse.Namespace, argv: Sequence[str], held: contextlib.ExitStack) -> Command:
    """Check the arguments and the outputs, and lock these until `held` is closed. Raises UserError."""
    dataset = "" if args.dataset is None else identify(args.dataset)
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    if not (args.resume and Path(args.model).with_name(STATE_NAME).exists()):
        count = math.prod(len(values) for values in args.params.values())
        if count > MAX_RUNS and not args.yes:
            raise UserError(f"these are {count:,} runs; give --yes to train more than {MAX_RUNS:,}")
        is_decided = args.recipe or dataset in ("", *DATASETS)  # else a look at the pictures decides
        init = (args.init or RECIPES[args.recipe or DEFAULT_RECIPE].init) if is_decided else None
        build_configs(args.params, args.recipe, dataset or TrainConfig.dataset, init)
    model = check_output(args.model, "--model", MODEL_SUFFIXES)
    _check_model(model)
    if args.keep_every < 0:
        raise UserError(f"--keep-every must be a whole number of epochs, 0 for none, not {args.keep_every}")
    if args.keep_every:
        if math.prod(map(len, args.params.values())) > 1:
            raise UserError(NO_GRID)
        check_output(kept_path(model, args.keep_every), "--keep-every", MODEL_SUFFIXES)
        for other in filter(lambda other: is_kept(other, model), model.parent.iterdir()):
            check_is_ours(other, MODEL_MARK, OTHER_MODEL)
    plot = check_output(args.plot or model.with_name("plot.png"), "--plot", PLOT_SUFFIXES)
    logdir = None if args.logdir is None else check_output_folder(args.logdir, "--logdir")
    state = check_output(model.with_name(STATE_NAME), "--model's training state", MODEL_SUFFIXES)
    if state == model:
        raise UserError(f"--model {args.model}: is where the training state goes; give another name")
    check_is_ours(state, STATE_MARK, OTHER_MODEL)
    table, records = check_results(model.parent)
    for path, option in ((records, "--model's results"), (plot, "--plot")):
        held.enter_context(locked(path, option))
    report = ReportFiles(model.parent, "--model's report", taken=plot)
    ranks = ranks_from_environment()
    launcher = ["torchrun", "--nproc-per-node", str(ranks.local_world_size)] if ranks.world_size > 1 else ["python"]
    run_info = {"command": shlex.join([*launcher, "train.py", *map(str, argv)]), "started": started}
    run_info["data"] = os.path.abspath(args.data or DATA_DIR)
    if args.init == IMAGENET:
        run_info["init"] = IMAGENET
    elif args.init:
        run_info |= _init_info(args.init)
        if math.prod(map(len, args.params.values())) > 1 and model.exists() and os.path.samefile(args.init, model):
            raise UserError(f"--init {args.init}: is --model too, which this grid's first run would replace; copy it")
    for path in (model, plot, state, table, records, *report):
        remove_abandoned(path)
    return Command(
        params=args.params, recipe=args.recipe or "", dataset=dataset, data_dir=args.data or "",
        use_cache=not args.no_cache, device=args.device, model=model, plot=plot, state=state, logdir=logdir,
        tables=(table, records), report=report, run_info=run_info, is_resume=args.resume, init=run_info.get("init", ""),
        keep_every=args.keep_every,
    )  # fmt: skip


def _init_info(path: str) -> dict[str, str]:
    check_input(path, "--init", "give a model file that train.py wrote")
    if begins_with(Path(path), STATE_MARK):
        raise UserError(f"--init {path}: is a training state, for --resume; give the network beside it, model.pth")
    with open(path, "rb") as file:
        if not file.read(2).startswith(TORCH_MARKS):
            raise UserError(f"--init {path}: is no model file of train.py, and no file of torch.save; give one")
    return {"init": os.path.abspath(path), "init_sha256": sha256_of(path)}


# --- resuming ---


def resumed(command: Command, saved: Mapping) -> Command:
    """The saved command, to be resumed: an option that was not given to `command` has its saved value.

    saved: the content of checkpoint.pth. Raises UserError if a given option differs from the saved one, except for
    more epochs at a constant learning rate, to a single run or to a grid of which no run has finished; or if --init's
    file has changed while a run is still to begin from it.
    """
    options, runs = saved["options"], [_config(each) for each in saved["requested"]]
    params, dataset = saved["params"], command.dataset or runs[0].dataset
    recipe, is_photos = command.recipe or options["recipe"], saved["is_photos"]
    if command.keep_every and len(runs) > 1:
        raise UserError(NO_GRID)
    configs = build_configs(params | command.params, recipe, dataset, options.get("init", ""), is_photos)
    values, new_values = _values(runs), _values(configs)
    given = {*command.params, *(["dataset"] if command.dataset else []), *(values if command.recipe else [])}
    changed = [name for name in values if name in given and values[name] != new_values[name]]
    is_longer = changed == ["epochs"] and len(new_values["epochs"]) == 1
    reason = _why_not_longer(runs, saved["finished"], configs[0].epochs) if is_longer else ""
    if changed and (reason or not is_longer):
        texts = [{name: " ".join(map(format_value, each[name])) for name in changed} for each in (values, new_values)]
        raise _refusal(command.state, "; ".join(differences(*texts)) + reason)

    run_info = command.run_info | {name: options[name] for name in RESUMED if name in options}
    if command.init and command.init != options.get("init", ""):
        raise _refusal(command.state, f"--init was {options.get('init', 'not given')}, is {command.init}")
    init = ""
    if "init" in options and set(range(1, len(runs) + 1)) - {*saved["finished"], number_under_way(saved)}:
        init = options["init"]
        if init != IMAGENET and _init_info(init)["init_sha256"] != options["init_sha256"]:
            raise UserError(f"--init {init}: has changed, and a run is still to begin from it; put it back")
    if is_longer:
        epochs = configs[0].epochs
        runs = [replace(run, epochs=epochs) for run in runs]
        params = {**params, "epochs": [epochs]} if "epochs" in params else params
        run_info["command"] += f" --epochs {epochs}"  # the last one counts
    if not command.data_dir:
        run_info["data"] = options["data"]
    device = command.device
    if device == "auto" and ranks_from_environment().world_size == 1:  # only rank 0 of several has read `saved`
        device = "cpu" if options["device"] == "cpu" else "auto"
    return replace(
        command, params=params, recipe=options["recipe"], dataset=dataset, data_dir=run_info["data"], device=device,
        run_info=run_info, is_longer=is_longer, init=init, is_photos=is_photos, saved_configs=tuple(runs),
    )  # fmt: skip


def number_under_way(saved: Mapping) -> int:
    """The number of the run that was interrupted, from 1; 0 if none was. saved: the content of checkpoint.pth."""
    return saved["number"] if saved["run"] and saved["number"] not in saved["finished"] else 0


def _config(saved: Mapping) -> TrainConfig:
    if saved.keys() != {each.name for each in fields(TrainConfig)}:
        raise UserError(f"{STATE_NAME} belongs to another version of the program; use that one, or delete the file")
    return TrainConfig(**saved)


def _refusal(state: Path, differences: str) -> UserError:
    return UserError(
        f"--resume: {state} belongs to another command: {differences}; give the same one, or a --model in another "
        "folder, or delete that file to start anew"
    )


def _values(configs: Sequence[TrainConfig]) -> dict[str, list]:
    # the different values of each hyper-parameter
    return {name: list(dict.fromkeys(getattr(each, name) for each in configs)) for name in configs[0].to_dict()}


def _why_not_longer(runs: Sequence[TrainConfig], finished: Sequence[int], epochs: int) -> str:
    # a reason in brackets, or nothing if they can
    if any(run.schedule != "constant" and run.epochs for run in runs):
        return f" (a {runs[0].schedule} schedule is laid out for its number of epochs and can't be prolonged)"
    if any(run.epochs > epochs for run in runs):
        return " (fewer than before)"
    if len({run.epochs for run in runs}) > 1:
        return " (the runs of this grid differ in their epochs)"
    return " (runs of this grid have finished with fewer)" if len(runs) > 1 and finished else ""


# --- the runs ---


def build_configs(
    params: Mapping[str, Sequence], recipe: str | None, dataset: str, init: str | None = "", is_photos: bool = False
) -> list[TrainConfig]:
    """The configuration of each run of a grid, checked against the data set if that is in the catalogue.

    params: hyper-parameter: its values. recipe: "" or None for the default one. init: the weights to begin from, None
    if they are still to be decided. is_photos: see Recipe.config. Raises UserError if one is invalid.
    """
    info = DATASETS.get(dataset)
    if info and recipe == PHOTO_RECIPE:
        raise UserError(f"--recipe {recipe}: for photos of yours, --dataset FOLDER, not for {info.title}")
    if info and (wrong := [option_name(name) for name in PREPARATION_OPTIONS if name in params]):
        which = "your own images, --dataset FOLDER or FILE"
        raise UserError(f"{', '.join(wrong)}: for {which}, not for {info.title}")
    if len(params.get("monitor", [])) > 1:
        raise UserError("--monitor takes one value: the runs of a grid are compared by it")
    make = RECIPES[recipe or DEFAULT_RECIPE].config
    configs = [make(is_photos, **{"dataset": dataset, **run._asdict()}) for run in RunBuilder.get_runs(params)]
    check_fit(configs, info, init)
    return configs


def check_fit(configs: Sequence[TrainConfig], info: DatasetInfo | None, init: str | None) -> None:
    """Raise UserError if a configuration doesn't suit the data set, its network or the weights to begin from.

    info, init: None if still unknown.
    """
    for config in configs:
        if init == "" and not config.epochs:
            raise UserError(
                "--epochs 0: nothing would be learned; give 1 or more, or --init with weights to begin from"
            )
        if init == IMAGENET and config.arch not in IMAGENET_ARCHS:
            raise UserError(
                f"--init {IMAGENET}: there are no such weights for {config.arch}; give --arch {IMAGENET_ARCHS[0]}, or "
                "a network of torchvision such as resnet50"
            )
        if config.dataset in DATASETS:
            config.split_sizes(info.train_size)
        if size := info.image_size if info else config.image_size:
            config.check_arch(size)
        if info:
            config.check_images(info.image_size, info.mirrors)
        if config.width and config.arch not in WIDTH_ARCHS:
            takers = ", ".join(WIDTH_ARCHS)
            raise UserError(f"--width {config.width}: {config.arch} has its own; only {takers} takes one")


# --- other models in the same folder ---


def _check_model(path: Path) -> None:
    # A folder has the records, the report and the pictures of one model, which results.json names; those of another
    # model would be replaced. A copy of that model does no harm.
    check_is_ours(path, MODEL_MARK, OTHER_MODEL)
    for other in sorted(path.parent.iterdir()):
        if (
            other == path
            or is_kept(other, path)
            or other.suffix.lower() not in MODEL_SUFFIXES
            or not begins_with(other, MODEL_MARK)
        ):
            continue
        if not path.exists() or owner_of(path.parent, default=path.name) != path.name:
            raise UserError(
                f"--model {path}: {other} is a network in the same folder, and its report, records and pictures would "
                "be replaced; give each network a folder of its own"
            )
