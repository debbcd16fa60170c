"""Train a network on small images; validate, test, report, save and plot.

    python train.py                                  # the tutorial's recipe
    python train.py --recipe fast                    # as accurate, in seconds
    python train.py --recipe best                    # more accurate, in minutes
    python train.py --recipe best --arch vgg-small   # the most accurate
    python train.py --dataset photos/                # photos/cat/*.jpg, ...
    python train.py --lr 0.01 0.001 --seed 1 2       # a grid, its best run kept
    torchrun --standalone --nproc-per-node 4 train.py   # as four processes

Accuracies and times of training: README.md.
"""

import argparse
import contextlib
import logging
import sys

from neural_lib.config import TrainConfig, add_hyperparameters
from neural_lib.data.catalog import DATASETS, FALLBACK
from neural_lib.system import cli
from neural_lib.system.environment import DEVICES, ranks_from_environment, tune_for_cpu
from neural_lib.system.errors import RunError
from neural_lib.training.command import MAX_RUNS, prepare

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
    resume = "resume an interrupted command, or train for more --epochs, from checkpoint.pth beside the model"
    add("--resume", action="store_true", help=resume)
    add(
        "--checkpoint-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="also write checkpoint.pth after every so many steps (default: after each epoch)",
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
    if args.target_accuracy is not None and not 0 < args.target_accuracy <= 1:
        parser.error(f"--target-accuracy must be above 0 and at most 1 (0.94 is 94 %), not {args.target_accuracy}")
    return args


# ----------------------------------------------------------------------------
# one run


def train_run(run, outputs, bar, checkpoint_every: int = 0) -> None:
    """Train a run from its epoch and step on, validate its network after each epoch, and keep the best network.

    run: model, optimizer, loss, loaders, and its state: epoch, step and all results so far (build_run). outputs: what
    the command writes. bar: shows how far an epoch is. checkpoint_every: steps between two checkpoints within an epoch;
    0: none.
    """
    from neural_lib.training.loop import epoch_row, epochs_heading, train_one_epoch, validate

    config, state, seconds_before = run.config, run.state, run.state.seconds()
    log.info("training the network... (*: saved as the best so far)")
    log.info("%s", epochs_heading(config.monitor), extra={"bare": True})
    with outputs.saved_if_stopped() as stop:  # Ctrl-C and the like take effect between two steps
        for epoch in range(state.epoch, config.epochs + 1):
            if state.is_out_of_patience():  # perhaps already when it is resumed
                ended = (len(state.rows), config.epochs, state.best_epoch)
                log.info("ending early, after %d of %d epochs: epoch %d was the best", *ended)
                break
            with bar.epoch(epoch, run):
                train_one_epoch(run, stop, bar, outputs.save_checkpoint, checkpoint_every)
                val = validate(run, stop)
            is_best = outputs.end_epoch(val)  # adds a row, saves the state and, if it is the best so far, the network
            row = epoch_row(epoch, config.epochs, state.rows[-1], config.monitor)
            log.info("%s%s", row, "  *" if is_best else "", extra={"bare": True})
        outputs.end_run()
        log.info("total time taken to train the model: %.2fs", state.seconds() - seconds_before)


# ----------------------------------------------------------------------------
# the command: arguments, data, runs, test


def misses_target(accuracy: float, target: float | None) -> bool:
    """Log an error if a test accuracy is below --target-accuracy; True if it is."""
    if target is not None and accuracy < target:
        log.error("test accuracy %.4f is below --target-accuracy %s", accuracy, target)
        return True
    return False


def open_board(command, manager, data):
    """TensorBoard's files in --logdir, a folder for each run."""
    from neural_lib.training.tensorboard import TensorBoard

    prefix = command.options["recipe"] if manager.count == 1 else ""
    return TensorBoard(command.logdir, data.info.classes, prefix)


def save_and_report(command, outputs, tested, test, images) -> bool:
    """Save, draw and log what the best network scored on the test images; True if nothing has failed."""
    from neural_lib.evaluation import report  # scikit-learn and matplotlib, a second to import

    manager = outputs.progress.manager
    tested.metrics.update(test_loss=test.loss, test_accuracy=test.accuracy, test_f1=test.f1)
    outputs.end_test(tested)
    report.report_results(command.report, command.plot, manager, outputs.writer, tested, test, images)
    if manager.failures:
        log.error("%d of %d runs failed; %s tells why", len(manager.failures), manager.count, command.tables[1])
    is_complete = outputs.writer.finish()
    report.log_written([path for path in command.exports if outputs.writer.is_written(path)])
    return is_complete and not manager.failures


def main(argv=None) -> int:
    """Run the command and return its exit status."""
    args, ranks = parse_args(argv), ranks_from_environment()  # rank: the number of this process, 0 if it is alone
    cli.set_up_logging(args.quiet, rank=ranks.rank)
    with contextlib.ExitStack() as held:  # locks of the outputs, the connection of several processes
        # ---- all that can be checked before torch is loaded; rank 0 alone looks at its disk
        command, saved = None, None
        if ranks.rank == 0:
            command = prepare(args, sys.argv[1:] if argv is None else argv, held)
        tune_for_cpu()
        from neural_lib import checkpoint
        from neural_lib.data.images import load_data
        from neural_lib.evaluation.scores import score
        from neural_lib.system import devices, distributed
        from neural_lib.training.loop import ProgressBar, runs_bar
        from neural_lib.training.outputs import Outputs, is_done
        from neural_lib.training.progress import build_progress, load_saved
        from neural_lib.training.run import build_run

        # ---- what checkpoint.pth has of this command; device, processes
        if ranks.rank == 0:
            command, saved = load_saved(command)
        distributed.share_cores(ranks)
        device, reason = devices.select_device(command.device if command else args.device, ranks)
        log.info("computing on %s (%s)", device, reason)
        held.enter_context(distributed.process_group(ranks, device))
        held.enter_context(cli.failures_explained(lambda: "; the same command resumes" if saved else ""))
        command, saved = distributed.broadcast((command, saved))
        if distributed.in_main(lambda: is_done(command, saved)):
            log.info(
                "%s: already trained and tested; more --epochs train longer if --schedule is constant", command.model
            )
            return int(misses_target(saved["best"]["metrics"]["test_accuracy"], args.target_accuracy))

        # ---- data, once for all runs
        is_main, old_dataset, old_network = distributed.is_main(), "", ""
        if is_main and not saved:  # model.pth may hold a network that the embedded digits must not replace
            old_dataset, old_network = checkpoint.describe(command.model)
        may_fall_back = not command.dataset and (not old_network or old_dataset == FALLBACK)
        data = load_data(command.configs()[0], command.data_dir, may_fall_back, use_cache=not args.no_cache).to(device)
        progress = build_progress(command, data, device, saved)
        init = command.init and distributed.in_main(lambda: checkpoint.load_initial(command.init, progress.configs))
        if old_network:
            log.warning("%s holds %s; this run replaces it, its records and its report", command.model, old_network)
        if is_main and command.logdir:
            progress.manager.board = open_board(command, progress.manager, data)
        outputs = Outputs(command, progress)

        # ---- the runs: one for each combination of the given values, most often a single one
        is_quiet = args.quiet or not is_main
        with cli.failures_explained(outputs.summary):
            with runs_bar(progress.manager, is_quiet) as bar_of_runs:
                for number in progress.unfinished():
                    with outputs.recording_failure(number):  # after which the next run is trained
                        config = progress.configs[number - 1]
                        weights = None if progress.is_resumed(number) else init
                        run = build_run(config, data, device, weights, command.run_info, args.compile)
                        outputs.begin_run(number, run)
                        train_run(run, outputs, ProgressBar(is_quiet), args.checkpoint_every)
                    bar_of_runs.update()
            if not progress.best:
                raise RunError(f"{progress.why_all_failed()}{outputs.summary()}")

            # ---- test the network that validated best, once; in float32, as whoever loads it will compute
            best = distributed.in_main(lambda: progress.calibrated_best(data))
            log.info("evaluating the network of %s on the test set...", progress.name_of_best())
            test = score(best, best.build_model().to(device), data.test)
            has_succeeded = distributed.in_main(
                lambda: save_and_report(command, outputs, best, test, data.test.images.cpu())
            )
        is_missed = misses_target(test.accuracy, args.target_accuracy)
        if data.warning:
            log.warning(data.warning)
        return int(is_missed or not has_succeeded)


if __name__ == "__main__":
    sys.exit(cli.run(main, "train.py"))
