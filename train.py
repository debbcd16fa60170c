"""Train a network on small images: learn, validate, test, report, save and plot.

    python train.py                                  # the tutorial's: 94.9 %
    python train.py --recipe fast                    # 94.7 %, in 6.5 s
    python train.py --recipe best                    # 98.0 %, in 134 s
    python train.py --recipe best --arch vgg-small   # 98.9 %, in 17 minutes
    python train.py --lr 0.01 0.001 --seed 1 2       # a grid, its best run kept
    torchrun --standalone --nproc-per-node 4 train.py   # as four processes

Test accuracies on KMNIST and times of training on 2 CPU cores: see README.md.
"""

import argparse
import logging
import os
import shlex
import sys
import textwrap
from dataclasses import replace
from datetime import datetime
from functools import partial

from neural_lib import (
    cli,
    datasets,
    devices,
    interrupts,
    launch,
    machine,
    options,
    plots,
    report,
    resume,
    runtime,
    tables,
)
from neural_lib.board import open_board
from neural_lib.config import TrainConfig, in_words
from neural_lib.errors import RunError, UserError
from neural_lib.fallback import FALLBACK, load_data
from neural_lib.files import Attempts, atomic_write, check_input, check_output, check_output_folder, locked, sweep
from neural_lib.runs import RunManager

MODEL_SUFFIXES = (".pth", ".pt")

log = logging.getLogger("neural_lib")


def parse_args(argv=None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("-m", "--model", default="output/model.pth", help="checkpoint to write (%(default)s)")
    add("-p", "--plot", help="learning curves to draw (plot.png beside the model)")
    add("--logdir", metavar="DIR", help="folder for TensorBoard's records (none are kept)")
    without = f"{TrainConfig.dataset}, or {FALLBACK} where that can't be downloaded"
    about = f"{', '.join(datasets.DATASETS)}; without this option {without}"
    add("-d", "--dataset", choices=datasets.DATASETS, metavar="NAME", help=about)
    add("--data", default="data", metavar="DIR", help="folder that holds the data sets (%(default)s)")
    about = "go on where the same command was interrupted, as checkpoint.pth beside the model, or PATH, says"
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


def main(argv=None) -> int:
    place = launch.place()
    if place.rank:  # under torchrun, all but process 0
        from neural_lib.follower import follow

        return follow(place, partial(parse_args, argv))
    if place.count > 1:
        interrupts.heed_only_first()

    # arguments: everything that can be refused is refused here, before torch is loaded
    args = parse_args(argv)
    started = datetime.now().astimezone()
    cli.set_up_logging(args.quiet)
    configs = options.build_configs(args)
    devices.check_device(args.device)
    model_path = check_output(args.model, "--model", MODEL_SUFFIXES)
    resume.check_only_model(model_path, MODEL_SUFFIXES)
    plot_path = check_output(args.plot or model_path.with_name("plot.png"), "--plot", plots.SUFFIXES)
    logdir = None if args.logdir is None else check_output_folder(args.logdir, "--logdir")
    state_path = check_output(model_path.with_name(resume.STATE_NAME), "--model's training state", MODEL_SUFFIXES)
    if state_path == model_path:
        raise UserError(f"--model {args.model}: is where the training state goes; give another name")
    manager = RunManager(args.params, model_path.parent, [config.to_dict() for config in configs])
    records, is_grid = manager.records, len(manager.runs) > 1
    for path, option in ((records.json_path, "--model's results"), (plot_path, "--plot")):
        cli.at_end.enter_context(locked(path, option))
    records.open(bool(args.resume))
    resume_from = resume.check_resume(args.resume, state_path)
    cli.when_interrupted(lambda: "; the same command goes on" if records.finished or resume_from else "")
    report_files = report.ReportFiles(model_path.parent, "--model's report", taken=plot_path)
    for path in (model_path, plot_path, state_path, records.csv_path, records.json_path, *report_files):
        sweep(path)
    if records.finished:
        best_of = f"{records.json_path} is of finished runs, whose best it must hold"
        check_input(model_path, "--model", otherwise=best_of)

    machine.tune_for_cpu()
    from neural_lib import checkpoint, state
    from neural_lib.callbacks import runs_bar
    from neural_lib.loaders import ImageTensors
    from neural_lib.saver import StateFile
    from neural_lib.session import Session

    # device and precision
    machine.share_cores(place)
    device, reason = devices.select_device(args.device, place)
    log.info("computing on %s (%s)", device, reason)
    processes = cli.at_end.enter_context(runtime.together(place, device))
    for asked in dict.fromkeys(config.precision for config in configs):
        precision, reason = devices.select_precision(asked, device)
        log.info("precision: %s%s", precision, f" ({reason})" if reason else "")
        if precision == "bf16" and not devices.computes_bfloat16(device):
            log.warning("--precision bf16: the %s isn't known to compute it natively; fp32 may be faster", device)
        configs = [replace(each, precision=precision) if each.precision == asked else each for each in configs]

    # data
    begun = bool(records.finished or resume_from)
    data = load_data(configs[0].dataset, args.data, args.dataset is not None, model_path, begun)
    info = datasets.DATASETS[data.dataset]
    configs = [replace(config, dataset=data.dataset) for config in configs]
    options.check_fit(configs, info)
    records.set_in_force([config.to_dict() for config in configs])
    train_val = ImageTensors(*data.train, device)
    log.info("%d images to train on and to validate, %d to test", len(train_val), len(data.test.labels))
    processes.tell(data.train)

    # runs: one for each combination of the values given, which most often is one
    log.info("recipe %s, with\n%s", args.recipe, textwrap.indent(textwrap.fill(in_words(records.common()), 76), "    "))
    manager.board = open_board(logdir, info.classes, prefix=args.recipe if records.count == 1 else "")
    model_file = checkpoint.ModelFile(model_path, outdated=report_files.of_all_data_sets(model_path.parent))
    state_file, fingerprint = StateFile(state_path), datasets.fingerprint(data.train)
    training = {
        "command": shlex.join(["python", "train.py", *map(str, sys.argv[1:] if argv is None else argv)]),
        "started": started.isoformat(timespec="seconds"),
        "device": devices.describe(device),
        "processes": processes.count,
        "data": os.path.abspath(args.data),
    }
    how = {"compiles": args.compile, "checkpoint_every": args.checkpoint_every, "quiet": args.quiet}
    session = Session(train_val, fingerprint, manager, model_file, state_file, processes, training, **how)
    if records.finished:
        saved = checkpoint.load(model_path)
        model_file.kept = f"{model_path} keeps run {manager.take_over(saved.config, saved.metrics)}"
        log.info("%d of %d runs had finished; %s", len(records.finished), records.count, model_file.kept)
    number, unfinished = 0, [manager.number_of(run) for run in manager.unfinished()]
    if resumed := state.find(resume_from, configs, records.finished, fingerprint, device.type):
        state_file.where, number = resumed.state.where(), resumed.run
        unfinished.sort(key=lambda each: each != number)  # first, for another one would replace its state
        if resumed.state.best and not records.finished and model_path.exists():
            model_file.kept = f"{model_path} keeps epoch {resumed.state.best['metrics']['epoch']}"
    elif args.resume and not records.finished:
        missing = f"{state_path} is not there" if records.rows else "nothing was interrupted here"
        log.warning("--resume: %s, so this is the beginning", missing)
    if not records.finished and not resumed and (replaced := checkpoint.replacement_warning(model_path)):
        log.warning("%s", replaced)
    digits = f" --dataset {data.dataset}" if data.warning else ""

    def what_is_kept() -> str:
        return resume.what_is_kept(model_file.kept, state_file.where, records, number, digits)

    cli.when_interrupted(what_is_kept)
    with runs_bar(records.count, len(records.finished), args.quiet) as bar:
        for number in unfinished:
            try:
                if is_grid:
                    told = in_words(records.label(number) | records.follows(number))
                    log.info("run %d of %d: %s", number, records.count, told)
                goes_on = resumed.state if resumed and resumed.run == number else None
                run, config = manager.runs[number - 1], configs[number - 1]
                session.train(run, config, goes_on)
            except (RunError, RuntimeError, MemoryError) as error:
                model_file.try_again()
                if processes.parted_by(error):
                    raise RunError(f"{cli.reason_of(error)}{what_is_kept()}") from None
                manager.fail_run(manager.runs[number - 1], cli.reason_of(error))
                if is_grid or isinstance(error, RunError):
                    state_file.remove()  # the next run would replace it; going on would lead there again
                if is_grid:
                    log.error("run %d failed: %s", number, cli.reason_of(error))
            bar.update()
    if not records.finished:
        which = f"all {records.count} runs failed, the last one because " if is_grid else ""
        goes_on = f"; --resume goes on with {state_file.where}" if state_file.where else ""
        raise RunError(f"{which}{records.failures[records.count]}; {model_file.kept}{goes_on}")

    # test, once, the network that validated best, and in float32, as whoever loads it will compute
    saved = checkpoint.load(model_path)
    epoch = f"run {records.best()['run']}, " * is_grid + f"epoch {saved.metrics['epoch']}"
    log.info("evaluating the network of %s on the test set...", epoch)
    model = saved.build_model().to(device)
    test = report.score(saved, model, data.test, device)
    saved.metrics.update(test_loss=test.loss, test_accuracy=test.accuracy, test_f1=test.f1)
    attempts = Attempts()  # from here on what can't be written costs a file and not the run
    with attempts(model_path):
        checkpoint.save(saved, model_path)
    state_file.remove()
    with attempts(records.json_path):
        records.write_again()

    # report
    with attempts(report_files.json):
        report.tell(saved, test)
    if is_grid:
        log.info("the runs, by validation %s\n%s", records.monitor, tables.runs_table(records))
        if over_seeds := tables.spreads_text(records):
            log.info("validation accuracy, mean and standard deviation over the seeds\n%s", over_seeds)
    log.info("test accuracy: %.4f", test.accuracy)
    report.write(report_files, saved, data.dataset, test, data.test.images, attempts, records)

    # plot
    title = f"{type(model).__name__} on {info.title}: test accuracy {test.accuracy:.2%} ({epoch})"
    if harder := configs[records.best()["run"] - 1].regularisation():
        title += f"\ntraining with {', '.join(harder)}"
    with attempts(plot_path), atomic_write(plot_path) as handle:
        plots.plot_results(records, title).savefig(handle, format=plot_path.suffix[1:])

    # verdicts
    if gap := report.gap_warning(saved, data.dataset, test):
        log.warning(gap)
    if records.failures:
        log.error("%d of %d runs failed; %s tells why", len(records.failures), records.count, records.json_path)
    missed = args.target_accuracy is not None and test.accuracy < args.target_accuracy
    if missed:
        log.error("test accuracy %.4f is below --target-accuracy %s", test.accuracy, args.target_accuracy)
    if data.warning:
        log.warning(data.warning)
    outputs = [model_path, plot_path, records.csv_path, records.json_path, *report_files]
    report.tell_written([path for path in outputs if str(path) not in attempts.failed and path.exists()])
    return 1 if missed or records.failures or attempts.failed else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "train.py"))
