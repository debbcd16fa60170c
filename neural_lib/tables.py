"""Results as text: tables for a terminal."""

import io
import logging
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from neural_lib.config import in_words, shown
from neural_lib.runs import RunManager

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

MOST_ROWS = 40  # of a table on a terminal; results.csv has all


def epochs_heading(with_f1: bool = False) -> str:
    """The columns of epoch_row. with_f1: whether validation's macro F1 is one of them."""
    f1 = f"{'val f1':>9}" if with_f1 else ""
    return f"{'epoch':>10}{'train loss':>13}{'train acc':>11}{'val loss':>11}{'val acc':>10}{f1}{'seconds':>10}"


def epoch_row(epoch: int, epochs: int, measures: Mapping[str, float | None], with_f1: bool = False) -> str:
    """An epoch's figures in the columns of epochs_heading: "   3/25   0.0920 ...". measures: as in the manager."""
    f1 = f"{_figure(measures['val_f1']):>9}" if with_f1 else ""
    train = f"{_figure(measures['train_loss']):>13}{_figure(measures['train_accuracy']):>11}"
    val = f"{_figure(measures['val_loss']):>11}{_figure(measures['val_accuracy']):>10}{f1}"
    return f"{f'{epoch}/{epochs}':>10}{train}{val}{measures['epoch_duration']:>10.1f}"


def log_runs(manager: RunManager) -> None:
    """Log the grid's runs, and means over the seeds where there are several."""
    log.info("the runs, by validation %s\n%s", manager.monitor, runs_table(manager))
    if over_seeds := spreads_text(manager):
        log.info("validation accuracy, mean and standard deviation over the seeds\n%s", over_seeds)


def runs_table(manager: RunManager, width: int | None = None) -> str:
    """The grid's runs, the best first and those that failed last.

    width: of the terminal, in characters; as it is where not given. Where columns of their own don't fit, all
    hyper-parameters share one.
    """
    width = width or shutil.get_terminal_size().columns
    names = manager.swept
    table = _table(manager, {name: [name] for name in names})
    if _widest(table) > width:
        table = _table(manager, {"hyper-parameters": names})
    left_out = max(0, len(manager.finished) - MOST_ROWS) + max(0, len(manager.failures) - MOST_ROWS)
    rest = f"\n and {left_out} more in {manager.csv_path}" if left_out else ""
    return _rendered(table, width) + rest


def spreads_text(manager: RunManager) -> str:
    """A line for each group of runs that differ in their seed alone: mean, standard deviation, number."""
    lines = [
        f"{in_words(each.hyperparameters) or 'all'}: {each.mean:.4f} +- {each.deviation:.4f} (n = {each.count})"
        for each in manager.spreads()
    ]
    return "\n".join(f"    {line}" for line in lines)


def _table(manager: RunManager, columns: dict[str, list[str]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("run", justify="right")
    for title in columns:
        table.add_column(title, justify="right" if len(columns[title]) == 1 else "left", overflow="fold")
    measures = {"val acc": "val_accuracy", "val loss": "val_loss", "train acc": "train_accuracy"}
    if manager.monitor == "f1":
        measures = {"val f1": "val_f1", **measures}
    for title in (*measures, "epoch", "seconds"):
        table.add_column(title, justify="right")

    def own(run: int) -> list[str]:
        label = manager.label(run)
        return [
            shown(label[names[0]]) if len(names) == 1 else in_words({name: label[name] for name in names})
            for names in columns.values()
        ]

    for run in manager.ranked()[:MOST_ROWS]:
        row = manager.best_of(run)
        seconds = manager.rows_of[run][-1]["run_duration"]
        figures = [_figure(row[name]) for name in measures.values()]
        table.add_row(str(run), *own(run), *figures, str(row["epoch"]), f"{seconds:.1f}")
    for run in sorted(manager.failures)[:MOST_ROWS]:
        table.add_row(str(run), *own(run), "failed")
    return table


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 10_000 else f"{value:.2e}"  # a diverging loss stays in its column


def _widest(table: "Table") -> int:
    from rich.console import Console

    return Console(width=10_000).measure(table).maximum


def _rendered(table: "Table", width: int) -> str:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False, color_system=None, legacy_windows=False).print(table)
    plain = text.getvalue().replace("\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-")  # for terminals without that letter
    return "\n".join(line.rstrip() for line in plain.splitlines()).strip("\n")
