"""Results as text: tables for a terminal."""

import io
import shutil
from typing import TYPE_CHECKING

from neural_lib.config import in_words, shown
from neural_lib.records import Records

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 40  # of a table on a terminal; results.csv has all


def runs_table(records: Records, width: int | None = None) -> str:
    """The grid's runs, the best first and those that failed last.

    width: of the terminal, in characters; as it is where not given. Where columns of their own don't fit, all
    hyper-parameters share one.
    """
    width = width or shutil.get_terminal_size().columns
    names = records.varying
    table = _table(records, {name: [name] for name in names})
    if _widest(table) > width:
        table = _table(records, {"hyper-parameters": names})
    left_out = max(0, len(records.finished) - MOST_ROWS) + max(0, len(records.failures) - MOST_ROWS)
    rest = f"\n and {left_out} more in {records.csv_path}" if left_out else ""
    return _rendered(table, width) + rest


def spreads_text(records: Records) -> str:
    """A line for each group of runs that differ in their seed alone: mean, standard deviation, number."""
    lines = [
        f"{in_words(each.hyperparameters) or 'all'}: {each.mean:.4f} +- {each.deviation:.4f} (n = {each.count})"
        for each in records.spreads()
    ]
    return "\n".join(f"    {line}" for line in lines)


def _table(records: Records, columns: dict[str, list[str]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("run", justify="right")
    for title in columns:
        table.add_column(title, justify="right" if len(columns[title]) == 1 else "left", overflow="fold")
    measures = {"val acc": "val_accuracy", "val loss": "val_loss", "train acc": "train_accuracy"}
    if records.monitor == "f1":
        measures = {"val f1": "val_f1", **measures}
    for title in (*measures, "epoch", "seconds"):
        table.add_column(title, justify="right")

    def own(run: int) -> list[str]:
        label = records.label(run)
        return [
            shown(label[names[0]]) if len(names) == 1 else in_words({name: label[name] for name in names})
            for names in columns.values()
        ]

    ranked = sorted(records.finished, key=lambda run: -records.judged(records.best_of(run)))  # equals as they finished
    for run in ranked[:MOST_ROWS]:
        row = records.best_of(run)
        seconds = records.rows_of[run][-1]["run_duration"]
        figures = [_figure(row[name]) for name in measures.values()]
        table.add_row(str(run), *own(run), *figures, str(row["epoch"]), f"{seconds:.1f}")
    for run in sorted(records.failures)[:MOST_ROWS]:
        table.add_row(str(run), *own(run), "failed")
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _widest(table: "Table") -> int:
    from rich.console import Console

    return Console(width=10_000).measure(table).maximum


def _rendered(table: "Table", width: int) -> str:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=width, force_terminal=False, color_system=None, legacy_windows=False).print(table)
    plain = text.getvalue().replace("\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-")  # for terminals without that letter
    return "\n".join(line.rstrip() for line in plain.splitlines()).strip("\n")
