"""Train a network on small images; validate, test, report, save and plot.

    python train.py                                  # the tutorial's: 95.1 %
    python train.py --recipe fast                    # 95.1 %, in 3.5 s
    python train.py --recipe best                    # 98.3 %, in 137 s
    python train.py --recipe best --arch vgg-small   # 99.0 %, in 14 minutes
    python train.py --dataset photos/                # photos/cat/*.jpg, ...
    python train.py --lr 0.01 0.001 --seed 1 2       # a grid, its best run kept
    torchrun --standalone --nproc-per-node 4 train.py   # as four processes

Test accuracies on KMNIST and times of training on 2 CPU cores: see README.md.
"""

import argparse
import logging
import sys
import textwrap
from dataclasses import replace

from neural_lib.config import PREPARING, TrainConfig, add_hyperparameters, format_values
from neural_lib.data.catalog import DATASETS, FALLBACK
from neural_lib.system import cli
from neural_lib.system.environment import DEVICES, ranks_from_environment, tune_for_cpu
from neural_lib.system.errors import DivergedError, RunError
from neural_lib.training.command import MAX_RUNS, check_fit, prepare

MAX_MINUTES = 10_000  # a week

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    """The options; raises UserError if one is invalid."""
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("-m", "--model", default="output/model.pth", help="model file to write (default: %(default)s)")
    add("-p", "--plot", help="learning curves to draw (default: plot.png beside the model)")
    add("--logdir", metavar="DIR", help="folder for TensorBoard's files (default: none)")
    default = f"default: {TrainConfig.dataset}, or {FALLBACK} if that can't be downloaded"
    own = "or your own: a folder with a subfolder for each class, or an .npz file"
    add("-d", "--dataset", metavar="NAME", help=f"{', '.join(DATASETS)}, {own} ({default})")
    add("--data", metavar="DIR", help="folder of the data sets (default: data)")
    add("--init", metavar="PATH", help="begin from the weights in a model file of the same network")
    resume = "continue an interrupted command, or train for more --epochs, from checkpoint.pth beside the model or PATH"
    add("--resume", nargs="?", const=True, default=False, metavar="PATH", help=resume)
    add(
        "--checkpoint-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="also write checkpoint.pth after every so many steps (default: after each epoch)",
    )
    add(
        "--minutes",
        type=float,
        metavar="M",
        help="train for so long: some steps are timed, and the epochs chosen that fit, 1 at least; for one run",
    )
    add("--yes", action="store_true", help=f"allow a grid of more than {MAX_RUNS:,} runs")
    add("--device", choices=DEVICES, default="auto", help="default: auto, an accelerator if there is one")
    add("--compile", action="store_true", help="torch.compile the network (slower on the CPUs tried)")
    add("--target-accuracy", type=float, metavar="X", help="exit with status 1 below this test accuracy")
    add("--quiet", action="store_true", help="print only warnings and errors")
    add = add_hyperparameters(parser).add_argument
    add("--no-cache", action="store_true", help="neither read nor write the cache of decoded images")
    args = parser.parse_args(argv)
    if args.checkpoint_every < 0:
        parser.error(f"--checkpoint-every must be a whole number of steps, 0 for none, not {args.checkpoint_every}")
    if args.minutes is not None:
        if not 0 < args.minutes <= MAX_MINUTES:
            parser.error(f"--minutes must be above 0 and at most {MAX_MINUTES:,}, not {args.minutes:g}")
        if args.compile or "epochs" in args.params or any(len(values) > 1 for values in args.params.values()):
            parser.error("--minutes chooses the epochs of one run: not with --epochs, a grid or --compile")
    if args.target_accuracy is not None and not 0 < args.target_accuracy <= 1:
        parser.error(f"--target-accuracy must be above 0 and at most 1 (0.94 is 94 %), not {args.target_accuracy}")
    return args


# ----------------------------------------------------------------------------
# one run


def train_run(args: argparse.Namespace, outputs, data, initial, number: int, resumed: dict | None):
    """Train the network of run `number`, validate it after each epoch and save the best; the loop of this project.

    outputs, data, initial: as main has them. resumed: an interrupted run's TrainingState.state_dict().
    Returns the checkpoint of the best epoch if it is the best of all runs so far, else None.
    """
    import torch

    from neural_lib import checkpoint
    from neural_lib.data.augment import RandomDistortion
    from neural_lib.data.images import Normalisation, evaluation_loader, make_loader
    from neural_lib.evaluation.scores import evaluate
    from neural_lib.networks import build_network
    from neural_lib.system import devices, distributed
    from neural_lib.system.signals import GracefulStop, StoppedBetweenSteps
    from neural_lib.training import loop
    from neural_lib.training.state import TrainingState

    # ---- data, model, optimizer, schedule, loss
    manager, config, info = outputs.manager, outputs.command.configs[number - 1], data.info
    torch.manual_seed(config.seed)  # of the initial weights; everything else is derived where it is drawn
    device = data.train.device
    train_set, val_set = data.split(config)
    normalise = Normalisation(*data.statistics).to(device)
    distortion = RandomDistortion(config, info.image_size, device) if config.distorts() else None
    shuffle_seed = config.seed if config.shuffle else None
    train_loader = make_loader(train_set, config.batch_size, normalise, shuffle_seed, distortion)
    val_loader = evaluation_loader(val_set, normalise)
    network = {"numChannels": info.channels, "classes": len(info.classes), "image_size": info.image_size}
    network |= {"width": config.width} if config.width else {}
    model = build_network(config.arch, **network, dropout=config.dropout).to(device)
    loss_fn = loop.build_loss(config, torch.bincount(train_set.labels, minlength=len(info.classes)))
    if args.minutes:
        log.info("timing the first steps...")
        config = loop.fit_epochs(args.minutes, config, model, loss_fn, train_loader, val_loader)
        outputs.set_epochs(number, config.epochs)
    optimizer = loop.build_optimizer(model.parameters(), config)
    scheduler = loop.build_scheduler(optimizer, config, len(train_loader))

    # ---- where training stands: at the beginning, or where it was interrupted
    state = TrainingState(config, model, optimizer, scheduler, data.fingerprint)
    if manager.count == 1:
        log.info("initialized the %s model", config.arch)
        log.info("%s images to train on, %s to validate", f"{len(train_set):,}", f"{len(val_set):,}")
    if initial and not resumed:
        fresh = "; ".join(checkpoint.begin_from(model, initial, info.classes)) or "nothing"
        log.info("starting from the weights in %s; newly initialised: %s", outputs.command.init, fresh)
    if resumed:
        state.load_state_dict(resumed)
        if state.epoch > config.epochs:
            log.info("all %d epochs had ended", config.epochs)
        else:
            log.info("going on with epoch %d of %d, step %d", state.epoch, config.epochs, state.step + 1)
    distributed.log_shard_sizes(config.batch_size)
    if regularisation := config.regularisation():
        log.info("for training only: %s", ", ".join(regularisation))
    if args.compile:
        log.info("torch.compile: the first batches wait for the compiler...")
        model.compile()
    replica = distributed.replicate(model)  # with several processes, DistributedDataParallel
    about = {**outputs.command.about, "val_images": len(val_set)}
    if data.is_own:
        about |= {"fingerprint": data.fingerprint, "test_seed": outputs.command.configs[0].seed}
    described = checkpoint.for_run(config, info, network, data.statistics, about)
    manager.begin_run(manager.runs[number - 1], model, train_loader, optimizer, state.rows)
    log.info("training the network...%s", "" if manager.finished else " (*: the best epoch so far, saved)")
    if state.best_epoch and not manager.finished and not outputs.model:  # model.pth is missing, or of another run
        outputs.save_model(state.best_of(described))

    # ---- the epochs, and what happens after each
    progress = loop.Progress(config.epochs, len(train_set), args.quiet or not distributed.is_main())
    start, before = devices.now(device), state.seconds()
    log.info("%s", loop.epochs_heading(config.monitor), extra={"bare": True})
    with GracefulStop() as stop:
        try:
            for epoch in range(state.epoch, config.epochs + 1):
                if state.is_out_of_patience():
                    break
                with progress.epoch(epoch):
                    while not loop.train_one_epoch(
                        replica, train_loader, loss_fn, optimizer, scheduler, state, stop, progress,
                        most_steps=args.checkpoint_every,
                    ):  # fmt: skip
                        outputs.save_state(state)
                    distributed.broadcast_buffers(model)  # every rank scores the network that is saved
                    val = evaluate(model, val_loader, config.precision, stop)
                outputs.writer.retry()
                is_best = state.end_epoch(val)
                manager.record_epoch(state.rows, len(train_set), val)
                if is_best and not manager.finished:  # else a finished run's network is there
                    outputs.save_model(state.best_of(described))
                is_saved = is_best and not manager.finished and outputs.is_model_saved()
                row = loop.epoch_row(epoch, config.epochs, state.rows[-1], config.monitor)
                log.info("%s%s", row, "  *" if is_saved else "", extra={"bare": True})
                outputs.save_state(state)
        except StoppedBetweenSteps:
            outputs.writer.retry()
            outputs.save_state(state)
            raise
        if state.epoch <= config.epochs:
            ended = (len(state.rows), config.epochs, state.best_epoch)
            log.info("ending early, after %d of %d epochs: epoch %d was the best", *ended)
        earlier = f", after {before:.2f}s before the interruption" if resumed else ""
        log.info("total time taken to train the model: %.2fs%s", devices.now(device) - start, earlier)
        best = state.best_of(described) if manager.is_best(number) else None
        if best and manager.finished:
            outputs.save_model(best)
        outputs.end_run()
        manager.end_run()
        stop.check(distributed.any_rank(stop.signum))  # a signal after the last step
    return best


# ----------------------------------------------------------------------------
# the command: arguments, data, runs, test


def misses_target(accuracy: float, target: float | None) -> bool:
    """Log an error if a test accuracy is below --target-accuracy; True if it is."""
    if target is not None and accuracy < target:
        log.error("test accuracy %.4f is below --target-accuracy %s", accuracy, target)
        return True
    return False


def main(argv=None) -> int:
    """Run the command and return its exit status."""
    # ---- arguments and files, before torch is loaded; rank 0 alone looks at its disk
    args, ranks = parse_args(argv), ranks_from_environment()
    cli.set_up_logging(args.quiet, rank=ranks.rank)
    command = prepare(args, sys.argv[1:] if argv is None else argv) if ranks.rank == 0 else None
    cli.when_interrupted(lambda: "; the same command goes on" if command and command.resume_from else "")

    tune_for_cpu()
    from neural_lib import checkpoint
    from neural_lib.data.images import load_data
    from neural_lib.evaluation.calibration import calibrate
    from neural_lib.evaluation.scores import score
    from neural_lib.system import devices, distributed
    from neural_lib.training import loop
    from neural_lib.training.runs import RunManager
    from neural_lib.training.state import Outputs

    # ---- device, ranks, data
    distributed.share_cores(ranks)
    device, reason = devices.select_device(args.device, ranks)
    log.info("computing on %s (%s)", device, reason)
    cli.exit_stack.enter_context(distributed.process_group(ranks, device))
    command, is_main = distributed.broadcast(command), distributed.is_main()
    if command.earlier or command.resume_from:
        args.minutes = None  # the epochs have been chosen
    if command.is_finished:
        log.info(
            "%s: already trained and tested; to train longer, give more --epochs (constant learning rate only)",
            command.model,
        )
        accuracy = checkpoint.load(command.model).metrics.get("test_accuracy", 0.0) if is_main else 0.0
        return distributed.broadcast(int(is_main and misses_target(accuracy, args.target_accuracy)))
    there, description = checkpoint.describe(command.model) if is_main else ("", "")
    may_fall_back = not (args.dataset or command.earlier or command.resume_from) and (
        not description or there == FALLBACK
    )
    configs = loop.resolve_precision(command.configs, device)
    initial = checkpoint.load_initial(command.init, configs) if command.init and is_main else None
    initial = distributed.broadcast(initial)
    data = load_data(configs[0], command.data_dir, may_fall_back, not args.no_cache).to(device)
    configs = distributed.broadcast([replace(config, dataset=data.dataset) for config in configs])
    check_fit(configs, data.info)
    if data.is_own:
        configs = loop.fit_batches(configs, data, "batch_size" in command.params)
    counts = (f"{len(data.train) + len(data.val or ()):,}", f"{len(data.test):,}")
    log.info("%s images to train on and to validate, %s to test", *counts)

    # ---- the runs: one for each combination of the values given, which most often is one
    requested, folder = [config.to_dict() for config in command.configs], command.model.parent if is_main else None
    manager = RunManager(command.params, folder, requested, options=command.options)
    if command.earlier:
        manager.take_over(command.earlier)
    manager.resolve([config.to_dict() for config in configs])
    command.configs = configs
    command.about |= {"device": devices.describe(device), "processes": distributed.world_size()}
    network = "" if "arch" in manager.varying else f", {configs[0].arch}"
    hidden = (() if data.is_own else PREPARING) + (("epochs",) if args.minutes else ())
    common = {name: value for name, value in manager.common().items() if name not in hidden}
    values = textwrap.indent(textwrap.fill(format_values(common), 76, break_on_hyphens=False), "    ")
    log.info("recipe %s%s, with\n%s", command.recipe, network, values)
    if command.logdir and is_main:
        from neural_lib.training.tensorboard import TensorBoard

        prefix = command.recipe if manager.count == 1 else ""
        manager.board = TensorBoard(command.logdir, data.info.classes, prefix)
    outputs = Outputs(command, manager)
    resumed, best = outputs.resume(data.fingerprint, device, description)
    resumed_run = manager.number if resumed else 0
    resume_command = f"the same command with{f' --dataset {data.dataset}' if data.warning else ''} --resume"
    cli.when_interrupted(lambda: outputs.summary(resume_command))

    numbers = [manager.runs.index(run) + 1 for run in manager.unfinished()]
    with loop.runs_bar(manager.count, len(manager.finished), args.quiet or not is_main) as bar:
        for number in sorted(numbers, key=lambda number: number != resumed_run):
            if manager.count > 1:
                varying = format_values(manager.label(number) | manager.derived(number))
                log.info("run %d of %d: %s", number, manager.count, varying)
            try:
                state = resumed if number == resumed_run else None
                best = train_run(args, outputs, data, initial, number, state) or best
            except (RunError, RuntimeError, MemoryError) as error:
                if distributed.world_size() > 1 and not isinstance(error, DivergedError):
                    raise  # the other ranks are not where this one is
                reason = cli.reason_of(error)
                would_fail_again = (manager.count > 1 or isinstance(error, RunError)) and not command.is_longer
                outputs.fail_run(number, reason, would_fail_again)
                if manager.count > 1:
                    log.error("run %d failed: %s", number, reason)
            bar.update()
    if not manager.finished:
        which = f"all {manager.count} runs failed, the last one because " if manager.count > 1 else ""
        raise RunError(f"{which}{manager.failures[manager.count]}{outputs.summary(resume_command)}")

    # ---- calibrate the network that validated best, and test it, once; in float32, as whoever loads it will compute
    if is_main:
        best = replace(best, calibration=calibrate(best, *data.split(TrainConfig(**best.config))))
    best = distributed.broadcast(best)
    epoch = f"run {manager.best()['run']}, " * (manager.count > 1) + f"epoch {best.metrics['epoch']}"
    log.info("evaluating the network of %s on the test set...", epoch)
    test = score(best, best.build_model().to(device), data.test)
    status = 0
    if is_main:
        from neural_lib.evaluation import report  # scikit-learn and matplotlib, a second to import

        best.metrics.update(test_loss=test.loss, test_accuracy=test.accuracy, test_f1=test.f1)
        manager.number = manager.best()["run"]
        outputs.save_model(best)
        report.report_results(command.report, command.plot, manager, outputs.writer, best, test, data.test.images.cpu())
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
        report.log_written([path for path in files if outputs.writer.is_written(path)])
    return distributed.broadcast(status)  # after which the other ranks may end


if __name__ == "__main__":
    sys.exit(cli.run(main, "train.py"))
