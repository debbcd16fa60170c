"""Which files a report may replace."""

import pytest

from neural_lib.evaluation.report_files import REPORT_FORMAT, ReportFiles
from neural_lib.records import json_text
from neural_lib.system.errors import UserError


def test_a_report_of_another_program_is_not_replaced(tmp_path):
    files = ReportFiles(tmp_path, "--model's report")
    assert [path.name for path in files] == [
        "report.json", "confusion.png", "mistakes.png", "labels.csv", "report.html",
    ]  # fmt: skip
    assert ReportFiles(tmp_path, "--output", suffix="-mnist").json == tmp_path / "report-mnist.json"
    for path in (files.json, files.page, files.labels):
        path.write_text("mine")
        with pytest.raises(UserError, match=f"{path.name}: was not written by train.py; move it"):
            ReportFiles(tmp_path, "--model's report")
        path.unlink()
    with pytest.raises(UserError, match="--plot .*confusion.png: is reserved for a picture of the report"):
        ReportFiles(tmp_path, "--model's report", taken=files.confusion)


def test_a_report_on_other_images_of_the_same_name_is_not_replaced(tmp_path):
    """Its network was trained on the images that are scored now, which the report names, too."""
    content = {**REPORT_FORMAT, "dataset": "/b/photos", "trained_on": "/a/photos", "config": {"dataset": "/a/photos"}}
    (tmp_path / "report-photos.json").write_text(json_text(**content))
    assert ReportFiles(tmp_path, "--output", suffix="-photos", dataset="/b/photos").json.exists()
    with pytest.raises(UserError, match="report-photos.json: is of another data set of that name"):
        ReportFiles(tmp_path, "--output", suffix="-photos", dataset="/a/photos")
