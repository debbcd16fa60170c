"""The paths of a report's files, checked before the long work."""

import json
from collections.abc import Iterator
from pathlib import Path

from neural_lib.data.catalog import DATASETS
from neural_lib.system.errors import UserError
from neural_lib.system.files import begins_with, check_is_ours, check_output

REPORT_FORMAT = {"format": "neural_lib report", "format_version": 1}
REPORT_NAMES = ("report.json", "confusion.png", "mistakes.png", "report.html")
REPORT_MARK = REPORT_FORMAT["format"].encode()
PAGE_MARK = b"<!-- neural_lib report -->"
OTHER_FOLDER = "move it, or choose another folder"


class ReportFiles:
    """The paths of report.json, confusion.png, mistakes.png and report.html in one folder, of one data set.

    suffix: of all four names. Raises UserError if one of them can't be written, is the file `taken` by another
    output, or where report.json or report.html is somebody else's or of another data set than `dataset`, if given.
    """

    def __init__(
        self, folder: Path, option: str, suffix: str = "", taken: Path | None = None, dataset: str = ""
    ) -> None:
        paths = [_with_suffix(folder / name, suffix) for name in REPORT_NAMES]
        checked = (check_output(path, option, (path.suffix,)) for path in paths)
        self.json, self.confusion, self.mistakes, self.page = checked
        check_is_ours(self.json, REPORT_MARK, OTHER_FOLDER)
        if dataset and _dataset_of(self.json) not in ("", dataset):
            raise UserError(f"{self.json}: is of another data set of that name; give --output, a folder for this one")
        check_is_ours(self.page, PAGE_MARK, OTHER_FOLDER)
        if taken in (self.confusion, self.mistakes):
            raise UserError(f"--plot {taken}: is where a picture of the report goes; choose another name")

    @staticmethod
    def of_all_data_sets(folder: Path) -> list[Path]:
        """The paths that reports in a folder can have: one set for each data set, and for each of one's own there."""
        own = (path.stem for path in folder.glob("report-*.json") if begins_with(path, REPORT_MARK))
        suffixes = dict.fromkeys(
            ["", *(f"-{name}" for name in DATASETS), *(name.removeprefix("report") for name in own)]
        )
        return [_with_suffix(folder / name, suffix) for name in REPORT_NAMES for suffix in suffixes]

    def __iter__(self) -> Iterator[Path]:
        return iter((self.json, self.confusion, self.mistakes, self.page))


def _dataset_of(path: Path) -> str:
    # of a report.json; empty where there is none that can be read
    try:
        return str(json.loads(path.read_bytes())["dataset"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_stem(f"{path.stem}{suffix}")
