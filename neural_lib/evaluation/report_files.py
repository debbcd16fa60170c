"""The paths of a report's files, checked before the long work."""

import json
from collections.abc import Iterator
from pathlib import Path

from neural_lib.data.catalog import DATASETS
from neural_lib.system.errors import UserError
from neural_lib.system.files import begins_with, check_is_ours, check_output

REPORT_FORMAT = {"format": "neural_lib report", "format_version": 1}
REPORT_NAMES = ("report.json", "confusion.png", "mistakes.png", "labels.csv", "report.html")
REPORT_MARK = REPORT_FORMAT["format"].encode()
PAGE_MARK = b"<!-- neural_lib report -->"
LABELS_COLUMNS = ("path", "label", "suggestion", "probability")
LABELS_MARK = ",".join(LABELS_COLUMNS).encode("utf-8-sig")  # the first bytes of labels.csv
OTHER_FOLDER = "move it, or choose another folder"


class ReportFiles:
    """The paths of a report's files, REPORT_NAMES, in one folder, of one data set.

    suffix: of all names. taken: the file of another output. Raises UserError if a file can't be written, is taken,
    or belongs to another program or, if `dataset` is given, to another data set.
    """

    def __init__(
        self, folder: Path, option: str, suffix: str = "", taken: Path | None = None, dataset: str = ""
    ) -> None:
        paths = [_with_suffix(folder / name, suffix) for name in REPORT_NAMES]
        checked = (check_output(path, option, (path.suffix,)) for path in paths)
        self.json, self.confusion, self.mistakes, self.labels, self.page = checked
        check_is_ours(self.json, REPORT_MARK, OTHER_FOLDER)
        is_report = dataset and begins_with(self.json, REPORT_MARK)
        # at the beginning of a line, as json_text writes it; "config" names the data set of the training, too
        if is_report and not begins_with(self.json, f'\n "dataset": {json.dumps(dataset)}'.encode()):
            raise UserError(f"{self.json}: is of another data set of that name; give --output, a folder for this one")
        check_is_ours(self.page, PAGE_MARK, OTHER_FOLDER)
        check_is_ours(self.labels, LABELS_MARK, OTHER_FOLDER)
        if taken in (self.confusion, self.mistakes):
            raise UserError(f"--plot {taken}: is reserved for a picture of the report; choose another name")

    @staticmethod
    def of_all_data_sets(folder: Path) -> list[Path]:
        """The paths that reports in a folder can have, for the data sets of the catalogue and for user images."""
        own = (path for path in folder.glob("report-*.json") if begins_with(path, REPORT_MARK))
        suffixes = {"", *(f"-{name}" for name in DATASETS), *(path.stem.removeprefix("report") for path in own)}
        return [_with_suffix(folder / name, suffix) for name in REPORT_NAMES for suffix in suffixes]

    def __iter__(self) -> Iterator[Path]:
        return iter((self.json, self.confusion, self.mistakes, self.labels, self.page))


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_stem(f"{path.stem}{suffix}")
