"""Train a network on images; validate, test, report, save and plot.

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

from neural_lib.config import IMAGENET, IMAGENET_ARCHS, TrainConfig, add_hyperparameters
from neural_lib.data.catalog import DATASETS, FALLBACK
from neural_lib.system import cli
from neural_lib.system.environment import DEVICES, ranks_from_environment, tune_for_cpu
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
    own = "or yours: a folder with a subfolder for each class, a zip or tar of it, an .npz or .csv file"
    add("-d", "--dataset", metavar="NAME", help=f"{', '.join(DATASETS)}, {own} ({default})")
    add("--data", metavar="DIR", help="folder of the data sets (default: data)")
    known = f"{IMAGENET_ARCHS[0]} and torchvision's networks"
    init = f"weights to begin from: {IMAGENET}, for {known}, or a model file of the same network"
    add("--init", metavar="WEIGHTS", help=f"{init}; the last layer is fitted first (photos: {IMAGENET})")
    resume = "resume an interrupted command, or train for more --epochs, from checkpoint.pth beside the model"
    add("--resume", action="store_true", help=resume)
    add(
        "--checkpoint-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="also write checkpoint.pth after every STEPS steps (default: after each epoch)",
    )
    add("--keep-every", type=int, default=0, metavar="N", help="also keep every Nth epoch's network: model-epoch-N.pth")
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


def train_run(number, run, outputs, bar, checkpoint_every: int = 0) -> None:
    """Train run `number`, validate its network after each epoch, and keep the best network.

    outputs: writes the files. bar: shows how far an epoch is. checkpoint_every: steps between two checkpoints within an
    epoch; 0: none.
    """
    from neural_lib.training.loop import log_epoch, log_heading, train_one_epoch, validate
    from neural_lib.training.probe import fit_last_layer

    outputs.begin_run(number, run)  # an interrupted run is resumed at its saved epoch and step
    log.info("training the network... (*: saved as the best so far)")
    log_heading(run.config)
    with outputs.saved_if_stopped() as stop:  # Ctrl-C and other signals take effect between two steps
        first_epoch = run.state.epoch  # 1, with --init 0, or where the run was interrupted
        for epoch in range(first_epoch, run.config.epochs + 1):
            if run.state.is_out_of_patience():  # --patience epochs were no better than the best
                break
            with bar.epoch(epoch, run):
                if epoch == 0:  # the network begins from other weights: its last layer is fitted first
                    fit_last_layer(run, stop, bar)
                else:  # for each batch: zero_grad, forward, loss, backward, step
                    train_one_epoch(run, stop, bar, outputs.save_checkpoint, checkpoint_every)
                val = validate(run, stop)
            is_best = outputs.end_epoch(val)  # records the scores, saves the state and, if it is the best, the network
            log_epoch(run, is_best)
        outputs.end_run()  # all its epochs, or early


# ----------------------------------------------------------------------------
# the command: arguments, data, runs, test


def start(args, argv, until_end):
    """Check the arguments, resume from checkpoint.pth if asked, choose the device, connect torchrun's processes.

    until_end: an ExitStack, which keeps the output files locked and the processes connected until it is closed.
    Returns the command, what checkpoint.pth has saved of it (None: nothing), and the device.
    """
    ranks = ranks_from_environment()  # of several processes, rank 0 alone looks at files, logs and writes
    cli.set_up_logging(args.quiet, rank=ranks.rank)
    command, saved = None, None
    if ranks.rank == 0:
        command = prepare(args, sys.argv[1:] if argv is None else argv, until_end)
    tune_for_cpu()
    from neural_lib.system import devices, distributed
    from neural_lib.training.progress import load_saved

    if command:
        command, saved = load_saved(command)
    device, reason = devices.select_device(command.device if command else args.device, ranks)
    log.info("computing on %s (%s)", device, reason)
    until_end.enter_context(distributed.process_group(ranks, device))
    until_end.enter_context(cli.failures_explained(lambda: "; the same command resumes" if saved else ""))
    command, saved = distributed.broadcast((command, saved))
    return command, saved, device


def open_board(command, data):
    """TensorBoard's files in --logdir, a folder for each run; None without --logdir, and in ranks other than 0."""
    if not command.logdir or ranks_from_environment().rank:
        return None
    from neural_lib.training.tensorboard import TensorBoard

    prefix = command.options["recipe"] if len(command.configs()) == 1 else ""
    return TensorBoard(command.logdir, data.info.classes, prefix, data.info.glyphs)


def save_and_report(command, outputs, best, model, test, data, target_accuracy) -> int:
    """Save, draw and log what the best network scored on the test images; returns the exit status."""
    from neural_lib.evaluation import report  # scikit-learn and matplotlib, a second to import

    manager = outputs.progress.manager
    best.metrics.update(test_loss=test.loss, test_accuracy=test.accuracy, test_f1=test.f1)
    outputs.end_test(best)
    report.report_results(command.report, command.plot, manager, outputs.writer, best, model, test, data.given)
    if manager.failures:
        log.error("%d of %d runs failed; %s tells why", len(manager.failures), manager.count, command.tables[1])
    is_complete = outputs.writer.finish()
    report.log_written([path for path in command.exports if outputs.writer.is_written(path)])
    is_missed = target_accuracy is not None and (test.accuracy < target_accuracy or bool(data.warning))
    if data.warning:  # the accuracy on the digits says nothing about the target for another data set
        log.log(logging.ERROR if is_missed else logging.WARNING, data.warning)
    elif is_missed:
        log.error("test accuracy %.4f is below --target-accuracy %s", test.accuracy, target_accuracy)
    return 0 if is_complete and not manager.failures and not is_missed else 1


def main(argv=None) -> int:
    """Run the command and return its exit status."""
    args = parse_args(argv)
    with contextlib.ExitStack() as until_end:
        # command: the options, or those of the resumed command; saved: what checkpoint.pth has of it, or None
        command, saved, device = start(args, argv, until_end)
        from neural_lib.data.images import load_data
        from neural_lib.evaluation.scores import score
        from neural_lib.system.distributed import from_rank_0
        from neural_lib.training.loop import ProgressBar, runs_to_train
        from neural_lib.training.outputs import Outputs
        from neural_lib.training.progress import build_progress
        from neural_lib.training.run import build_run

        # ---- load the images
        data = load_data(**command.data_options).to(device)

        # ---- train the runs: one for each combination of the given values, most often a single one
        board = open_board(command, data)  # TensorBoard's files, or None
        progress = build_progress(command, data, device, saved, board)  # all results so far, and which runs have ended
        outputs = Outputs(command, progress)  # writes the files
        until_end.enter_context(cli.failures_explained(outputs.summary))  # an error says what is saved
        for number, config, init in runs_to_train(progress, args.quiet):  # init: weights to begin from, or None
            with outputs.recording_failure(number):  # the next run is trained all the same
                run = build_run(config, data, device, init, command.run_info, args.compile)  # model, optimizer, loaders
                train_run(number, run, outputs, ProgressBar(args.quiet), args.checkpoint_every)

        # ---- test the network that validated best, once
        best = outputs.best_checkpoint(data)
        model = best.build_model().to(device)
        test = score(best, model, data.test)
        # of several processes the first one (rank 0) reports; all return its exit status
        return from_rank_0(save_and_report, command, outputs, best, model, test, data, args.target_accuracy)


if __name__ == "__main__":
    sys.exit(cli.run(main, "train.py"))
