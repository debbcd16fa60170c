"""Outputs: which of a command's files is written when."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Mapping, Sequence

from neural_lib.checkpoint import Checkpoint
from neural_lib.config import format_values
from neural_lib.data.images import Data
from neural_lib.evaluation.report_files import ReportFiles
from neural_lib.evaluation.scores import Scores
from neural_lib.records import is_kept, kept_path
from neural_lib.system import cli
from neural_lib.system.distributed import any_rank, from_rank_0, is_main, world_size
from neural_lib.system.errors import DivergedError, RunError
from neural_lib.system.files import Writer, remove_abandoned, write_file
from neural_lib.system.signals import GracefulStop, StoppedBetweenSteps
from neural_lib.training.command import Command
from neural_lib.training.progress import Progress
from neural_lib.training.run import Run

MIN_EPOCHS = 5  # of a run whose first epoch is unlikely to be the best
log = logging.getLogger(__name__)


def log_first_is_best(rows: Sequence[Mapping], best_row: Mapping, epochs: int) -> None:
    """Hint at the learning rate if the first of many epochs of a run was the best; with --init that is no surprise.

    rows: of the epochs that have ended. epochs: their requested number.
    """
    is_first = len(rows) > 1 and rows[0]["epoch"] == best_row["epoch"] == 1
    if is_first and epochs >= MIN_EPOCHS and best_row["val_accuracy"] < 1:
        log.info("epoch 1 of %d validated best: try a lower --lr", epochs)


class Outputs:
    """Writes checkpoint.pth and what is exported from it: model.pth, results.csv and .json, plot and report.

    Only rank 0 writes. A write that fails is logged, and tried again after each epoch and at the end.
    """

    def __init__(self, command: Command, progress: Progress) -> None:
        self.command, self.progress, self.writer = command, progress, Writer()
        self.is_old_report_removed = progress.manager.is_tested  # the report is that of this command's network
        self.position, self.finished = progress.position, len(progress.manager.finished)  # in checkpoint.pth
        self.exported: tuple[int, int] | None = None  # run and epoch of the network in model.pth
        manager = progress.manager
        manager.write = self.writer.write
        if is_main() and manager.rows:  # resumed
            manager.save()
            best = manager.best() or (
                manager.best_of(manager.number) if manager.number in manager.rows_by_run else None
            )
            is_current = command.model.exists() and os.path.getmtime(command.model) >= os.path.getmtime(command.state)
            if best and is_current:
                self.exported = best["run"], best["epoch"]

    @contextlib.contextmanager
    def recording_failure(self, number: int) -> Iterator[None]:
        """A block for run `number`: if it diverges or runs out of memory, that is recorded and the block just ends."""
        manager = self.progress.manager
        if manager.count > 1:
            varying = format_values(manager.label(number) | manager.derived(number))
            log.info("run %d of %d: %s", number, manager.count, varying)
        try:
            yield
        except (RunError, RuntimeError, MemoryError) as error:
            has_diverged = isinstance(error, DivergedError)
            if world_size() > 1 and not has_diverged:
                raise  # the other ranks are not where this one is
            reason = cli.reason_of(error)
            self.writer.pending.pop(self.command.state, None)  # the state in memory is that of the failure
            self.writer.retry()
            # a run that diverged would diverge again; a finished run that was given more epochs is not lost with them
            is_worth_keeping = self.progress.is_longer or (manager.count == 1 and not has_diverged)
            keep_state = is_worth_keeping and self.position is not None
            self.progress.fail_run(number, reason, keep_state)
            if not keep_state:
                self.save_checkpoint()
            if manager.count > 1:
                log.error("run %d failed: %s", number, reason)

    def begin_run(self, number: int, run: Run) -> None:
        """Begin a run, or resume it at the saved position; model.pth is written if it is missing or outdated."""
        self.progress.begin_run(number, run)
        if self.progress.network and not self.exported:
            self._export(self.progress.network)

    @contextlib.contextmanager
    def saved_if_stopped(self) -> Iterator[GracefulStop]:
        """A block in which a signal takes effect between two steps only, after checkpoint.pth has been written."""
        with GracefulStop() as stop:
            try:
                yield stop
            except StoppedBetweenSteps:
                self.save_checkpoint()
                raise
            stop.check(any_rank(stop.signum))  # a signal after the last step

    def save_checkpoint(self) -> None:
        """Write checkpoint.pth, between two steps."""

        def write() -> None:
            write_file(self.command.state, self.progress.to_bytes)
            self.position, self.finished = self.progress.position, len(self.progress.manager.finished)

        if is_main():
            self.writer.attempt(self.command.state, write)

    def end_epoch(self, val: Scores) -> bool:
        """Record an epoch that was trained and validated; True if model.pth has its network now."""
        self.writer.retry()
        is_best = self.progress.end_epoch(val)
        # Kept before checkpoint.pth is written: a command that is killed in between trains the epoch again.
        self._keep(self.progress.run)
        self.save_checkpoint()
        return is_best and self._export(self.progress.network)

    def _keep(self, run: Run) -> None:
        # Write model-epoch-10.pth if --keep-every names the epoch that has ended.
        epoch = run.state.rows[-1]["epoch"]
        if is_main() and self.command.keep_every and epoch and epoch % self.command.keep_every == 0:
            path = kept_path(self.command.model, epoch)
            remove_abandoned(path)
            self.writer.write(path, run.last_checkpoint().to_bytes)

    def end_run(self) -> None:
        """Record that the run under way has ended. Raises OSError if its network can't be written."""
        state, epochs = self.progress.run.state, self.progress.run.config.epochs
        if (ended := state.rows[-1]["epoch"]) < epochs:
            log.info("ending early, after %d of %d epochs: epoch %d was the best", ended, epochs, state.best_epoch)
        if kept := [path for path in self.writer.written if is_kept(path, self.command.model)]:
            networks = "1 network" if len(kept) == 1 else f"{len(kept)} networks"
            log.info("kept %s: %s", networks, kept_path(self.command.model, "*"))
        log.info("total time taken to train the model: %.2fs", state.seconds())
        self.writer.retry()
        before = self.progress.best
        self.progress.end_run()
        self.save_checkpoint()
        if self.progress.best is not before:
            self._export(self.progress.best)
        if self.command.model in self.writer.pending:
            why = "the best network could not be saved; make room, and give the same command with --resume"
            if self.command.state in self.writer.pending:
                why = "neither the best network nor the training state could be saved; make room"
            raise OSError(errno.EIO, why, str(self.command.model))

    def _export(self, network: Checkpoint) -> bool:
        # what is left of an earlier network's report is removed with that network
        def write() -> None:
            write_file(self.command.model, network.to_bytes)
            self.exported = number, network.metrics["epoch"]

        if not is_main():
            return False
        number = self.progress.manager.best()["run"] if self.progress.best else self.progress.manager.number
        is_written = self.writer.attempt(self.command.model, write)
        if is_written and not self.is_old_report_removed:
            for path in (self.command.plot, *ReportFiles.of_all_data_sets(self.command.model.parent)):
                with contextlib.suppress(OSError):  # it is missing, or a folder
                    path.unlink()
            self.is_old_report_removed = True
        return is_written

    def best_checkpoint(self, data: Data) -> Checkpoint:
        """The best network with its calibration, so that its probabilities are as high as it is often right.

        Rank 0 calibrates it, in float32, as whoever loads it will compute. Raises RunError if all runs failed.
        """
        manager, failures = self.progress.manager, self.progress.manager.failures
        if not self.progress.best:
            which = f"all {len(failures)} runs failed, the last one because " if len(failures) > 1 else ""
            raise RunError(f"{which}{failures[max(failures)]}{self.summary()}")
        best, row = from_rank_0(self.progress.calibrated_best, data), manager.best()
        name = f"run {row['run']}, " * (manager.count > 1) + f"epoch {row['epoch']}"
        log_first_is_best(manager.rows_by_run[row["run"]], row, self.progress.configs[row["run"] - 1].epochs)
        log.info("evaluating the network of %s on the test set...", name)
        return best

    def end_test(self, tested: Checkpoint) -> None:
        """Record the calibrated network of the best run, with its scores on the test set."""
        self.progress.end_test(tested)
        self.save_checkpoint()
        self._export(tested)
        self.progress.manager.save()

    def summary(self) -> str:
        """What is saved and how to resume, to follow "interrupted" in a message."""
        manager, model = self.progress.manager, self.command.model
        resume_command = "the same command with --resume"
        run = "run {}, " if manager.count > 1 else ""
        kept = f"; {model} was not written"
        if self.exported:
            kept = f"; {model} keeps {run.format(self.exported[0])}epoch {self.exported[1]}"
        elif model.exists():
            kept = f"; {model} holds an earlier network"
        if self.finished == manager.count:
            return f"{kept}, all is trained; {resume_command} tests and reports it"
        if self.position:
            number, epoch, step = self.position
            return f"{kept}; {resume_command} resumes at {run.format(number)}epoch {epoch}, step {step}"
        return f"{kept}; {resume_command} resumes" if self.finished else kept
