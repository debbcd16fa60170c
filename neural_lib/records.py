"""The records of a grid of runs: a row for each run and epoch, which are finished, which failed and why."""

import json
import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from neural_lib.config import in_words, may_train_longer
from neural_lib.errors import UserError
from neural_lib.files import atomic_write, check_output
from neural_lib.monitor import accuracy_of, judged_by
from neural_lib.results import MEASURES, check_is_ours, csv_text, differences, json_text, read_json

log = logging.getLogger(__name__)


class Spread(NamedTuple):
    """The validation accuracies of the best epochs of runs that differ in their seed alone."""

    hyperparameters: dict  # those that vary otherwise
    mean: float
    deviation: float  # standard deviation of the sample
    count: int


class Records:
    """What is known of a grid's runs, which are counted from 1; every change is written to both files, each whole.

    folder: where results.csv and results.json are. hyperparameters: of each run, all that is to be recorded; `monitor`
    among them says what epochs and runs are judged by. names: of those that tell the runs apart, all others following
    from them; without names, all that differ do.
    """

    def __init__(
        self, folder: str | Path, hyperparameters: Sequence[Mapping[str, object]], names: Iterable[str] = ()
    ) -> None:
        self.csv_path, self.json_path = Path(folder) / "results.csv", Path(folder) / "results.json"
        self.asked = [dict(each) for each in hyperparameters]  # what makes this grid the same as another
        self.hyperparameters = self.asked  # as they are recorded
        first, *others = self.asked
        if taken := {"run", "epoch", "failure", *MEASURES} & set(first):
            raise ValueError(f"a hyper-parameter can't have the name of a column: {', '.join(sorted(taken))}")
        self.differing = [name for name in first if any(other[name] != first[name] for other in others)]
        self.varying = [name for name in names or first if name in self.differing]
        self.monitor = first.get("monitor", "accuracy")
        self.rows_of: dict[int, list[dict]] = {}  # run: its rows, an epoch each
        self.finished: list[int] = []
        self.failures: dict[int, str] = {}  # why a run failed
        self.is_written = False  # whether the files are of these runs
        self.unwritten = False  # whether they lack what is known

    @property
    def count(self) -> int:
        """The number of runs in the grid."""
        return len(self.asked)

    def set_in_force(self, hyperparameters: Sequence[Mapping[str, object]]) -> None:
        """Say what the hyper-parameters came to, such as a precision that was left to the machine to choose.

        Another data set than was asked for makes another grid; nothing else does. Raises UserError where runs that have
        finished were trained with something else.
        """
        self.hyperparameters = [dict(each) for each in hyperparameters]
        for run in self.finished:
            recorded, now = self.rows_of[run][0], self.hyperparameters[run - 1]
            if other := {name: value for name, value in now.items() if recorded[name] != value}:
                before = {name: recorded[name] for name in other}
                raise UserError(
                    f"--resume: run {run} was trained with {in_words(before)}, and here it would be {in_words(other)}; "
                    "go on where it began, or start anew in another folder"
                )
        for asked, now in zip(self.asked, self.hyperparameters, strict=True):
            if "dataset" in now:
                asked["dataset"] = now["dataset"]

    @property
    def rows(self) -> list[dict]:
        """All rows, in the order of runs and epochs."""
        return [row for run in sorted(self.rows_of) for row in self.rows_of[run]]

    def common(self) -> dict:
        """The hyper-parameters that are the same in all runs, all but data set and network."""
        own = self.hyperparameters[0].items()
        return {name: value for name, value in own if name not in (*self.differing, "dataset", "arch")}

    def label(self, run: int) -> dict:
        """What tells this run from the others."""
        return {name: self.asked[run - 1][name] for name in self.varying}

    def name(self, run: int) -> str:
        """The same in words: "lr=0.01, batch_size=100"."""
        return in_words(self.label(run))

    def follows(self, run: int) -> dict:
        """What differs between the runs besides, because it follows from that: a recipe's values for the network."""
        own = self.hyperparameters[run - 1]
        return {name: own[name] for name in self.differing if name not in self.varying}

    # --- what happens ---

    def add(self, run: int, epoch: int, measures: Mapping[str, float]) -> None:
        """An epoch has ended."""
        self.rows_of.setdefault(run, []).append(self._row(run, epoch, measures))
        self.write()

    def finish(self, run: int) -> None:
        """A run has ended well."""
        self.finished.append(run)
        self.failures.pop(run, None)
        self.write()

    def fail(self, run: int, reason: str) -> None:
        """A run has failed; its epochs stay recorded."""
        self.failures[run] = reason
        self.write()

    def discard(self, run: int, keep: Sequence[Mapping[str, float | None]] = ()) -> None:
        """A run begins, perhaps once more: what is known of it is of an earlier attempt.

        keep: the measures of the epochs that are behind it, where it goes on.
        """
        self.rows_of.pop(run, None)
        self.failures.pop(run, None)
        if keep:
            self.rows_of[run] = [self._row(run, epoch, measures) for epoch, measures in enumerate(keep, start=1)]

    def _row(self, run: int, epoch: int, measures: Mapping[str, float | None]) -> dict:
        return {"run": run, "epoch": epoch, **measures, **self.hyperparameters[run - 1]}

    # --- what is asked ---

    def best_of(self, run: int) -> dict:
        """The run's best epoch, as `monitor` says, the earliest of equals."""
        return max(self.rows_of[run], key=self.judged)

    def best(self) -> dict | None:
        """The best epoch of the finished run that validated best, of equals the first to finish; None without any."""
        rows = [self.best_of(run) for run in self.finished]
        return max(rows, key=self.judged, default=None)

    def ranked(self) -> list[int]:
        """The finished runs, the best first; equals as they finished."""
        return sorted(self.finished, key=lambda run: -self.judged(self.best_of(run)))

    def judged(self, row: Mapping[str, float | None]) -> float:
        """What the runs' epochs are compared by, the higher the better."""
        return judged_by(row, self.monitor)

    def scale(self) -> tuple[str, dict[int, float]]:
        """What to colour many finished runs by: the varying number that has the most values, and its value in each run.

        The seed only where no other number varies: runs of different seeds are meant to look alike. Where no number
        varies at all, the best validation accuracy.
        """
        by_name = {name: {run: self.label(run)[name] for run in range(1, self.count + 1)} for name in self.varying}
        numbers = {
            name: values
            for name, values in by_name.items()
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
        }
        by_accuracy = "best validation accuracy", {run: accuracy_of(self.best_of(run)) for run in self.finished}
        return max(
            numbers.items(), key=lambda item: (item[0] != "seed", len(set(item[1].values()))), default=by_accuracy
        )

    def spreads(self) -> list[Spread]:
        """Mean and deviation over the seeds, for each two or more finished runs that differ in nothing else."""
        groups: dict[str, list[dict]] = {}
        for run in sorted(self.finished):
            others = {name: value for name, value in self.label(run).items() if name != "seed"}
            groups.setdefault(json.dumps(others), []).append(self.best_of(run))
        found = []
        for others, rows in groups.items():
            values = [accuracy for row in rows if (accuracy := accuracy_of(row)) is not None]
            if len(values) > 1:
                found.append(Spread(json.loads(others), statistics.mean(values), statistics.stdev(values), len(values)))
        return found

    # --- the files ---

    def write(self) -> None:
        """Write results.csv and results.json. Where that fails, `unwritten` says so, and the next try is for all."""
        try:
            self._write()
        except OSError as error:
            if not self.unwritten:
                log.warning("%s: %s; the records are kept in memory until the next try", error.filename, error.strerror)
            self.unwritten = True
        else:
            self.unwritten = False

    def write_again(self) -> None:
        """Write what could not be written before, if anything. Raises OSError where that fails again."""
        if self.unwritten:
            self._write()
            self.unwritten = False

    def _write(self) -> None:
        hyperparameters = list(self.hyperparameters[0])
        failures = [
            {"run": run, **self.hyperparameters[run - 1], "failure": reason} for run, reason in self.failures.items()
        ]
        table = csv_text(["run", "epoch", *MEASURES, *hyperparameters, "failure"], self.rows + failures)
        with atomic_write(self.csv_path) as handle:
            handle.write(table.encode())
        content = json_text(
            finished=self.finished, failures=self.failures, varying=self.varying, runs=self.asked, rows=self.rows
        )
        with atomic_write(self.json_path) as handle:
            handle.write(content.encode())
        self.is_written = True

    def open(self, resume: bool) -> None:
        """Try whether the files can be written; take over what is in them or make sure that it may be replaced.

        Raises UserError where they are somebody else's, of another grid that is to be resumed, or of an interrupted one
        that is not.
        """
        check_output(self.csv_path, "--model's results", (".csv",))
        check_output(self.json_path, "--model's results", (".json",))
        check_is_ours(self.csv_path, first="run,epoch,")
        if resume:
            self.resume()
        else:
            self.refuse_to_replace()

    def resume(self) -> None:
        """Take over what results.json, where there is one, holds of this very grid.

        Raises UserError where it is of another grid, naming the difference, or can't be read.
        """
        if (found := read_json(self.json_path)) is None:
            return
        if not found["finished"] and may_train_longer(found["runs"], self.asked):
            longer = zip(found["runs"], self.asked, strict=True)
            found["runs"] = [{**run, "epochs": now["epochs"]} for run, now in longer]
        if told := differences(found["runs"], self.asked):
            only_epochs = all(each.startswith("--epochs ") for each in told)
            why = " (more can be given to unfinished runs with a constant learning rate)" if only_epochs else ""
            raise UserError(
                f"--resume: {self.json_path} is of another command: {'; '.join(told)}{why}; give the same one, or a "
                "--model in another folder, or delete that file and checkpoint.pth, if it is there, to start anew"
            )
        self._take_over(found)

    def _take_over(self, found: Mapping) -> None:
        self.finished = found["finished"]
        for row in found["rows"]:
            self.rows_of.setdefault(row["run"], []).append(row)
        self.failures = {int(run): reason for run, reason in found["failures"].items()}

    def refuse_to_replace(self) -> None:
        """Raise UserError where results.json holds finished runs of a grid that was interrupted."""
        if (found := read_json(self.json_path)) is None:
            return
        finished, failed, count = (len(found[key]) for key in ("finished", "failures", "runs"))
        if finished and finished + failed < count:
            raise UserError(
                f"{self.json_path} is of an interrupted grid, {finished} of {count} runs have finished: go on with "
                "--resume, give a --model in another folder, or delete that file and checkpoint.pth, if it is there"
            )


def read_records(folder: str | Path) -> Records | None:
    """The records that a command left in a folder, for looking at; None where there are none that can be read."""
    try:
        found = read_json(Path(folder) / "results.json")
    except UserError:
        return None
    if found is None:
        return None
    records = Records(folder, found["runs"], names=found["varying"])
    records._take_over(found)
    return records
