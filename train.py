"""Train a network on small images: learn, validate, test, report, save and plot.

    python train.py                                  # the tutorial's: 95.1 %
    python train.py --recipe fast                    # 94.7 %, in 6.5 s
    python train.py --recipe best                    # 98.1 %, in 134 s
    python train.py --recipe best --arch vgg-small   # 98.9 %, in 17 minutes
    python train.py --lr 0.01 0.001 --seed 1 2       # a grid, its best run kept
    torchrun --standalone --nproc-per-node 4 train.py   # as four processes

Test accuracies on KMNIST and times of training on 2 CPU cores: see README.md.
"""

import argparse
import contextlib
import errno
import logging
import os
import shlex
import sys
import textwrap
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from neural_lib import cli, datasets, devices, machine, options, plots, report, results, resume, tables
from neural_lib.config import TrainConfig, in_words
from neural_lib.errors import DivergedError, RunError, UserError
from neural_lib.files import Writer, check_input, check_output, check_output_folder, locked, sweep

MODEL_SUFFIXES = (".pth", ".pt")

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("-m", "--model", default="output/model.pth", help="checkpoint to write (%(default)s)")
    add("-p", "--plot", help="learning curves to draw (plot.png beside the model)")
    add("--logdir", metavar="DIR", help="folder for TensorBoard's records (none are kept)")
    without = f"{TrainConfig.dataset}, or {datasets.FALLBACK} where that can't be downloaded"
    about = f"{', '.join(datasets.DATASETS)}; without this option {without}"
    add("-d", "--dataset", choices=datasets.DATASETS, metavar="NAME", help=about)
    add("--data", metavar="DIR", help="folder that holds the data sets (data)")
    about = (
        "go on where a command was interrupted, or for more --epochs, as checkpoint.pth beside the model, or PATH, says"
    )
    add("--resume", nargs="?", const=True, default=False, metavar="PATH", help=about)
    add(
        "--checkpoint-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="write checkpoint.pth after so many steps too; 0: after each epoch",
    )
    add("--yes", action="store_true", help=f"allow a grid of more than {options.MOST_RUNS:,} runs")
    add("--device", choices=devices.DEVICES, default="auto", help="auto takes an accelerator where there is one")
    add("--compile", action="store_true", help="torch.compile the network (slower on the CPUs tried)")
    add("--target-accuracy", type=float, metavar="X", help="exit with status 1 below this test accuracy")
    add("--quiet", action="store_true", help="print warnings and errors alone")
    options.add_hyperparameters(parser)
    args = parser.parse_args(argv)
    if args.checkpoint_every < 0:
        parser.error(f"--checkpoint-every must be a whole number of steps, 0 for none, not {args.checkpoint_every}")
    if args.target_accuracy is not None and not 0 < args.target_accuracy <= 1:
        parser.error(f"--target-accuracy must be above 0 and at most 1 (0.94 is 94 %), not {args.target_accuracy}")
    return args


# ----------------------------------------------------------------------------
# arguments and files, before torch is loaded; rank 0 alone looks at its disk


@dataclass
class Command:
    """What there is to do, and where its results go."""

    params: dict  # the hyper-parameters that were given, and their values
    configs: list[TrainConfig]  # of each run
    recipe: str
    data_dir: str
    model: Path
    plot: Path
    state: Path
    logdir: Path | None
    report: report.ReportFiles
    about: dict  # recorded in the model file: Checkpoint.training
    is_finished: bool = False  # whether nothing is left to do
    is_longer: bool = False  # whether a run goes on for more epochs than it was begun with
    earlier: dict | None = None  # what results.json says, where it is gone on with
    resume_from: Path | None = None  # the training state to go on from


def prepare(args: argparse.Namespace, argv: list[str]) -> Command:
    """Check the arguments, the outputs and what earlier commands left. Raises UserError where something doesn't fit."""
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    configs = None if args.resume else options.build_configs(args)
    model = check_output(args.model, "--model", MODEL_SUFFIXES)
    resume.check_model(model, MODEL_SUFFIXES)
    plot = check_output(args.plot or model.with_name("plot.png"), "--plot", plots.SUFFIXES)
    logdir = None if args.logdir is None else check_output_folder(args.logdir, "--logdir")
    state = check_output(model.with_name(resume.STATE_NAME), "--model's training state", MODEL_SUFFIXES)
    if state == model:
        raise UserError(f"--model {args.model}: is where the training state goes; give another name")
    table, records = results.check_files(model.parent)
    for path, option in ((records, "--model's results"), (plot, "--plot")):
        cli.at_end.enter_context(locked(path, option))
    report_files = report.ReportFiles(model.parent, "--model's report", taken=plot)
    ranks = devices.ranks_from_environment()
    launcher = ["torchrun", "--nproc-per-node", str(ranks.local_world_size)] if ranks.world_size > 1 else ["python"]
    about = {"command": shlex.join([*launcher, "train.py", *map(str, argv)]), "started": started}
    command = Command(
        args.params, configs, args.recipe or options.DEFAULT_RECIPE, args.data or "data", model, plot, state, logdir,
        report_files, about,
    )  # fmt: skip
    if args.resume:
        resume_command(command, args, records)
    else:
        resume.check_replaceable(records, state)
    about["data"] = os.path.abspath(command.data_dir)
    for path in (model, plot, state, table, records, *report_files):
        sweep(path)
    return command


def resume_command(command: Command, args: argparse.Namespace, records: Path) -> None:
    """Let a command go on where an earlier one left off; options that are not given are the earlier one's."""
    command.resume_from = resume.find_state(args.resume, command.state)
    source = command.resume_from.with_name(records.name) if command.resume_from else records
    found = results.read_json(source)
    if command.resume_from and not found:  # the state knows the options of its run
        machine.tune_for_cpu()
        from neural_lib import state

        source, config = command.resume_from, state.read(command.resume_from)["config"]
        found = {"runs": [config], "params": {}, "options": {}, "finished": [], "rows": [], "tested": False}
    if not found or not (found["rows"] or command.resume_from):
        command.configs = options.build_configs(args)
        return
    command.configs = options.resumed_configs(args, found, source)
    command.params = found["params"]
    command.recipe = found["options"].get("recipe", command.recipe)
    command.data_dir = args.data or found["options"].get("data", command.data_dir)
    command.about.update({name: found["options"][name] for name in ("command", "started") if name in found["options"]})
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
            why = f"{records} is of finished runs, whose best it must hold"
            check_input(command.model, "--model", otherwise=why)


# ----------------------------------------------------------------------------
# what is done besides


class Outputs:
    """The model file, the training state beside it, and what waits to be written; nothing in ranks other than 0."""

    def __init__(self, command: Command, manager) -> None:
        self.command, self.manager, self.writer = command, manager, Writer()
        manager.write = self.writer.write
        self.model = self.newest_model = None  # run and epoch of what is in the model file, and of what should be
        self.state = self.newest_state = None  # run, epoch and step of what is in the state file, and of what should be
        self.has_records = self.has_report = False  # of this command, on the disk

    def save_state(self, state) -> None:
        """Write checkpoint.pth, between two steps, after the records that it belongs to."""
        if not self.manager.folder:
            return
        self.has_records = self.has_records or self.manager.save()
        if not self.has_records:  # those of an earlier command would contradict it
            return
        self.newest_state = (self.manager.number, state.epoch, state.step + 1)
        if self.writer.write(self.command.state, state.to_bytes):
            self.state = self.newest_state

    def save_model(self, saved) -> None:
        """Write the model file; what is left of an earlier network's report goes with that network."""
        if not self.manager.folder:
            return
        self.newest_model = (self.manager.number, saved.metrics["epoch"])
        if self.writer.write(self.command.model, saved.to_bytes):
            self.model = self.newest_model
            if not self.has_report:
                for path in (self.command.plot, *self.command.report.of_all_data_sets(self.command.model.parent)):
                    with contextlib.suppress(OSError):  # it isn't there, or is a folder
                        path.unlink()
                self.has_report = True

    def is_model_saved(self) -> bool:
        """Whether the model file is up to date."""
        return self.command.model not in self.writer.pending

    def retry(self) -> None:
        """Try once more what could not be written."""
        self.writer.retry()
        if self.is_model_saved():
            self.model = self.newest_model or self.model
        if self.command.state not in self.writer.pending:
            self.state = self.newest_state or self.state

    def drop_state(self) -> None:
        """Remove checkpoint.pth: going on would lead to the same failure."""
        self.state = self.newest_state = None
        self.writer.pending.pop(self.command.state, None)
        if self.manager.folder:
            with contextlib.suppress(OSError):
                self.command.state.unlink()

    def kept(self, same: str) -> str:
        """What is on the disk and how to go on, to be said after "interrupted"; same: how to repeat the command."""
        run = "run {}, " if self.manager.count > 1 else ""
        model = f"; {self.command.model} was not written"
        if self.model:
            model = f"; {self.command.model} keeps {run.format(self.model[0])}epoch {self.model[1]}"
        if len(self.manager.finished) == self.manager.count:
            return f"{model}, all is trained; {same} tests and reports it"
        if self.state:
            number, epoch, step = self.state
            return f"{model}; {same} goes on with {run.format(number)}epoch {epoch}, step {step}"
        return f"{model}; {same} goes on" if self.manager.finished else model


def report_results(outputs: Outputs, saved, test, images) -> None:
    """Log, write and draw what the best network scored on the test set, and what the runs were."""
    command, manager, writer = outputs.command, outputs.manager, outputs.writer
    best, dataset = manager.best(), saved.dataset
    writer.attempt("the classification report", lambda: report.log_scores(saved, test))
    if manager.count > 1:
        writer.attempt("the table of the runs", lambda: tables.log_runs(manager))
    log.info("test accuracy: %.4f", test.accuracy)
    report.write(command.report, saved, dataset, test, images, writer, manager)

    network = f"{saved.arch} on {datasets.DATASETS[dataset].title}"
    epoch = f"run {best['run']}, epoch {best['epoch']}" if manager.count > 1 else f"epoch {best['epoch']}"
    title = f"{network}: test accuracy {test.accuracy:.2%} ({epoch})"
    if regularisation := TrainConfig(**saved.config).regularisation():
        title += f"\ntraining with {', '.join(regularisation)}"
    writer.write(command.plot, lambda: plots.to_bytes(plots.plot_results(manager, title), command.plot.suffix[1:]))


def misses_target(accuracy: float, target: float | None) -> bool:
    """Log an error where a test accuracy is below the one that was asked for; whether it is."""
    if target is not None and accuracy < target:
        log.error("test accuracy %.4f is below --target-accuracy %s", accuracy, target)
        return True
    return False


# ----------------------------------------------------------------------------
# the command


def main(argv=None) -> int:
    args, ranks = parse_args(argv), devices.ranks_from_environment()
    cli.set_up_logging(args.quiet, rank=ranks.rank)
    devices.check_device(args.device)
    command = prepare(args, sys.argv[1:] if argv is None else argv) if ranks.rank == 0 else None
    cli.when_interrupted(lambda: "; the same command goes on" if command and command.resume_from else "")

    machine.tune_for_cpu()
    import torch

    from neural_lib import checkpoint, distributed, fallback
    from neural_lib import state as states
    from neural_lib.augment import RandomDistortion
    from neural_lib.board import open_board
    from neural_lib.evaluation import evaluate
    from neural_lib.interrupts import GracefulStop, StoppedBetweenSteps
    from neural_lib.loaders import ImageTensors, Normalisation, evaluation_loader, make_loader, split
    from neural_lib.models import build_model
    from neural_lib.runs import RunManager
    from neural_lib.training import Progress, build_loss, build_optimizer, build_scheduler, runs_bar, train_one_epoch

    # ---- device, ranks, data
    distributed.share_cores(ranks)
    device, reason = devices.select_device(args.device, ranks)
    log.info("computing on %s (%s)", device, reason)
    cli.at_end.enter_context(distributed.process_group(ranks, device))
    command, is_main = distributed.broadcast(command), distributed.is_main()
    if command.is_finished:
        log.info("%s: all is trained and tested; more --epochs go on with a constant learning rate", command.model)
        accuracy = checkpoint.load(command.model).metrics.get("test_accuracy", 0.0) if is_main else 0.0
        return distributed.broadcast(int(is_main and misses_target(accuracy, args.target_accuracy)))
    configs, begun = devices.resolve_precision(command.configs, device), bool(command.earlier or command.resume_from)
    data = fallback.load_data(configs[0].dataset, command.data_dir, bool(args.dataset) or begun, command.model)
    info = datasets.DATASETS[data.dataset]
    configs = distributed.broadcast([replace(config, dataset=data.dataset) for config in configs])
    options.check_fit(configs, info)
    images, test_images = (ImageTensors(*each, device) for each in (data.train, data.test))
    log.info("%d images to train on and to validate, %d to test", len(images), len(test_images))
    normalise = Normalisation(info.mean, info.std).to(device)

    # ---- the runs: one for each combination of the values given, which most often is one
    recorded = {"recipe": command.recipe, "data": command.data_dir, "model": command.model.name, **command.about}
    requested, folder = [config.to_dict() for config in command.configs], command.model.parent if is_main else None
    manager = RunManager(command.params, folder, requested, options=recorded)
    if command.earlier:
        manager.take_over(command.earlier)
    manager.resolve([config.to_dict() for config in configs])
    network = "" if "arch" in manager.differing else f", {configs[0].arch}"
    values = textwrap.indent(textwrap.fill(in_words(manager.common()), 76), "    ")
    log.info("recipe %s%s, with\n%s", command.recipe, network, values)
    if is_main:
        manager.board = open_board(command.logdir, info.classes, command.recipe if manager.count == 1 else "")
    about = {**command.about, "device": devices.describe(device), "processes": distributed.world_size()}
    outputs, fingerprint = Outputs(command, manager), datasets.fingerprint(data.train)
    resumed, best = states.resume(outputs, configs, fingerprint, device) if is_main else (None, None)
    known = (resumed, manager.number, manager.finished, manager.rows_of)
    resumed, manager.number, manager.finished, manager.rows_of = distributed.broadcast(known)
    resumed_run = manager.number if resumed else 0
    if args.resume and not resumed and not manager.finished:
        missing = f"{command.state} is not there" if manager.rows else "nothing was interrupted here"
        log.warning("--resume: %s, so this is the beginning", missing)
    is_its_own = manager.finished or outputs.model or resumed and command.resume_from == command.state
    when = "now" if resumed else "when its first epoch ends"
    if is_main and not is_its_own and (warning := checkpoint.replacement_warning(command.model, when)):
        log.warning("%s", warning)
    same = f"the same command with{f' --dataset {data.dataset}' if data.warning else ''} --resume"
    cli.when_interrupted(lambda: outputs.kept(same))

    unfinished = sorted(map(manager.number_of, manager.unfinished()), key=lambda number: number != resumed_run)
    with runs_bar(manager.count, len(manager.finished), args.quiet or not is_main) as bar:
        for number in unfinished:
            run, config = manager.runs[number - 1], configs[number - 1]
            if manager.count > 1:
                differing = in_words(manager.label(number) | manager.derived(number))
                log.info("run %d of %d: %s", number, manager.count, differing)
            try:
                # ---- one run: data, model, optimizer, schedule, loss
                torch.manual_seed(config.seed)  # of the initial weights; everything else is derived where it is drawn
                train_set, val_set = split(images, config)
                distortion = RandomDistortion(config, info.image_size, device) if config.distorts() else None
                shuffle_seed = config.seed if config.shuffle else None
                train_loader = make_loader(train_set, config.batch_size, normalise, shuffle_seed, distortion)
                val_loader = evaluation_loader(val_set, normalise)
                network = {"numChannels": info.channels, "classes": len(info.classes), "image_size": info.image_size}
                network |= {"width": config.width} if config.width else {}
                model = build_model(config.arch, **network, dropout=config.dropout).to(device)
                optimizer = build_optimizer(model.parameters(), config)
                scheduler = build_scheduler(optimizer, config, len(train_loader))
                loss_fn = build_loss(config)
                state = states.TrainingState(config, model, optimizer, scheduler, fingerprint)
                if manager.count == 1:
                    log.info("initialized the %s model", config.arch)
                    log.info("%d images to train on, %d to validate", len(train_set), len(val_set))
                if resumed and number == resumed_run:
                    state.load_state_dict(resumed)
                    log.info("going on with epoch %d of %d, step %d", state.epoch, config.epochs, state.step + 1)
                distributed.log_shares(config.batch_size)
                if regularisation := config.regularisation():
                    log.info("%s: for training only", ", ".join(regularisation))
                if args.compile:
                    log.info("torch.compile: the first batches wait for the compiler...")
                    model.compile()
                replica = distributed.replicate(model)
                described = checkpoint.for_run(config, info, network, {**about, "val_images": len(val_set)})
                manager.begin_run(run, model, train_loader, optimizer, state.rows)
                legend = "" if manager.finished else " (*: the best epoch so far, saved)"
                log.info("training the network...%s", legend)

                if state.best_epoch and not manager.finished and not outputs.model:  # it is gone, or another's is there
                    outputs.save_model(state.best_of(described))

                # ---- its epochs, and what happens after each
                progress = Progress(config.epochs, len(train_set), args.quiet or not is_main)
                with_f1, start, before = config.monitor == "f1", machine.now(device), state.seconds()
                log.info("%s", tables.epochs_heading(with_f1), extra={"bare": True})
                with GracefulStop() as stop:
                    try:
                        for epoch in range(state.epoch, config.epochs + 1):
                            if state.lost_patience():
                                break
                            with progress.epoch(epoch):
                                while not train_one_epoch(
                                    replica, train_loader, loss_fn, optimizer, scheduler, state, stop, progress,
                                    most_steps=args.checkpoint_every,
                                ):  # fmt: skip
                                    outputs.save_state(state)
                                distributed.broadcast_buffers(model)  # every rank scores the network that is saved
                                val = evaluate(model, val_loader, config.precision, stop)
                            outputs.retry()
                            is_best = state.end_epoch(val)
                            manager.record_epoch(state.rows, len(train_set), val)
                            if is_best and not manager.finished:  # else a finished run's network is there
                                outputs.save_model(state.best_of(described))
                            is_saved = is_best and not manager.finished and outputs.is_model_saved()
                            row = tables.epoch_row(epoch, config.epochs, state.rows[-1], with_f1)
                            log.info("%s%s", row, "  *" if is_saved else "", extra={"bare": True})
                            outputs.save_state(state)
                    except StoppedBetweenSteps:
                        outputs.retry()
                        outputs.save_state(state)
                        raise
                    if state.epoch <= config.epochs:
                        ended = (len(state.rows), config.epochs, state.best_epoch)
                        log.info("ending early, after %d of %d epochs: epoch %d was the best", *ended)
                    earlier = f", after {before:.2f}s before the interruption" if number == resumed_run else ""
                    log.info("total time taken to train the model: %.2fs%s", machine.now(device) - start, earlier)
                    if manager.is_best(number):
                        best = state.best_of(described)
                        if manager.finished:
                            outputs.save_model(best)
                    outputs.retry()
                    if not outputs.is_model_saved():
                        why = "the best network could not be saved; make room, and give the same command with --resume"
                        if command.state in outputs.writer.pending or not outputs.has_records:
                            why = "neither the best network nor the training state could be saved; make room"
                        raise OSError(errno.EIO, why, str(command.model))
                    outputs.state = outputs.newest_state = None  # there is nothing to go on with
                    manager.end_run()
                    stop.check(distributed.any_rank(stop.signum))  # a signal after the last step
            except (RunError, RuntimeError, MemoryError) as error:
                if distributed.world_size() > 1 and not isinstance(error, DivergedError):
                    raise  # the other ranks are not where this one is
                outputs.retry()
                manager.fail_run(run, cli.reason_of(error))
                if (manager.count > 1 or isinstance(error, RunError)) and not command.is_longer:
                    outputs.drop_state()
                if manager.count > 1:
                    log.error("run %d failed: %s", number, cli.reason_of(error))
            bar.update()
    if not manager.finished:
        which = f"all {manager.count} runs failed, the last one because " if manager.count > 1 else ""
        raise RunError(f"{which}{manager.failures[manager.count]}{outputs.kept(same)}")

    # ---- test, once, the network that validated best, and in float32, as whoever loads it will compute
    best = distributed.broadcast(best)
    epoch = f"run {manager.best()['run']}, " * (manager.count > 1) + f"epoch {best.metrics['epoch']}"
    log.info("evaluating the network of %s on the test set...", epoch)
    test = report.score(best, best.build_model().to(device), test_images)
    status = 0
    if is_main:
        best.metrics.update(test_loss=test.loss, test_accuracy=test.accuracy, test_f1=test.f1)
        manager.number = manager.best()["run"]
        outputs.save_model(best)
        report_results(outputs, best, test, data.test.images)
        if gap := report.gap_warning(best, data.dataset, test):
            log.warning(gap)
        if manager.failures:
            log.error("%d of %d runs failed; %s tells why", len(manager.failures), manager.count, manager.json_path)
        is_missed = misses_target(test.accuracy, args.target_accuracy)
        if data.warning:
            log.warning(data.warning)
        is_complete = outputs.writer.finish()
        if outputs.writer.pending.keys() <= {command.state}:  # else --resume makes up for what is missing
            manager.is_tested = True
            is_complete = manager.save() and is_complete
        status = 1 if not is_complete or is_missed or manager.failures else 0
        files = [command.model, command.plot, manager.csv_path, manager.json_path, *command.report]
        report.log_written([path for path in files if path in outputs.writer.written])
    return distributed.broadcast(status)  # after which the other ranks may end


if __name__ == "__main__":
    sys.exit(cli.run(main, "train.py"))
