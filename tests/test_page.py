"""report.html as text: its figures are those of report.json and results.json. test_browser.py opens it."""

import html
import re
from html.parser import HTMLParser

import numpy as np
import page_parts
import pytest
import torch
from page_parts import COUNT, NAMES

from neural_lib import page
from neural_lib.runs import read_results


class Tables(HTMLParser):
    """The data-values of the body rows of each table that has an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.table, self.in_body = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "table":
            self.table = attrs.get("id", "")
            self.rows[self.table] = []
        elif tag in ("tbody", "thead", "tfoot"):
            self.in_body = tag == "tbody"
        elif tag == "tr" and self.in_body:
            self.rows[self.table].append([])
        elif tag in ("td", "th") and self.in_body:
            self.rows[self.table][-1].append(attrs.get("data-value"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the report of a grid, its report.json and its page."""
    folder = tmp_path_factory.mktemp("grid")
    report = page_parts.write(folder, page_parts.write_grid(folder))
    return folder, report, (folder / "report.html").read_text(encoding="utf-8")


def test_every_score_is_report_jsons(written):
    _, report, text = written
    rows = Tables(text).rows["scores"]
    for number, (row, expected) in enumerate(zip(rows, report["classes"], strict=True), start=1):
        figures = [expected[name] for name in ("precision", "recall", "f1-score", "support")]
        assert [float(value) for value in row] == [number, *figures]
    assert float(re.search(r'id="accuracy" data-value="([^"]*)"', text)[1]) == report["accuracy"]
    right = sum(report["confusion_matrix"][label][label] for label in range(len(NAMES)))
    assert f"{right} of\n        {COUNT} images right" in text


def test_the_matrix_holds_report_jsons_counts(written):
    _, report, text = written
    found = dict(re.findall(r'data-cell="(\d,\d)" data-count="(\d+)"', text))
    matrix = report["confusion_matrix"]
    assert found == {f"{t},{p}": str(n) for t, row in enumerate(matrix) for p, n in enumerate(row) if n}


def test_every_run_is_results_jsons_the_best_first_and_the_failed_last(written):
    folder, _, text = written
    records = read_results(folder)
    rows = Tables(text).rows["runs"]
    assert [int(row[0]) for row in rows] == [*records.ranked(), 5, 6]
    for row in rows[:-2]:
        best = records.best_of(int(row[0]))
        names = ("lr", "seed", "val_accuracy", "val_f1", "val_loss", "train_accuracy", "epoch")
        assert [float(value) for value in row[1:-1]] == [best[name] for name in names]
        assert float(row[-1]) == records.rows_of[best["run"]][-1]["run_duration"]
    assert "failed: the training loss became nan &lt;at&gt; epoch 1" in text
    assert (
        re.search(r'<tr class="best" aria-current="true"><td class="number" data-value="(\d)"', text)[1] == rows[0][0]
    )
    spreads = [[float(value) for value in row] for row in Tables(text).rows["seeds"]]
    assert spreads == [[each.hyperparameters["lr"], *each[1:]] for each in records.spreads()]


def test_names_are_escaped_and_nothing_is_fetched(written):
    _, _, text = written
    assert "<b>" not in text and "<script>alert" not in text and "a <b> c" not in text
    assert all(html.escape(name).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text for name in NAMES)
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)", text)
    assert addresses and all(uri.startswith("data:") for found in addresses for uri in found if uri)
    assert "default-src 'none'" in text


def test_what_is_needed_to_repeat_it_is_there(written):
    _, _, text = written
    command = "<span>python</span> <span>train.py</span> <span>--model</span>"
    for told in (command, "2026-11-26 01:02:03+00:00", "cpu, 2 threads, 2 processes",
                 "18.0 s in\n      4 runs", "--lr", "torch "):  # fmt: skip
        assert told in text


def test_curves_are_there_where_there_are_two_epochs(tmp_path):
    for epochs, is_drawn in ((2, True), (1, False)):
        page_parts.write(tmp_path, page_parts.write_grid(tmp_path, epochs))
        assert ("data:image/svg+xml;base64," in (tmp_path / "report.html").read_text()) is is_drawn


def test_without_records_there_are_neither_curves_nor_runs(tmp_path):
    report = page_parts.write(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "svg+xml" not in text and 'id="runs"' not in text and 'id="learning"' not in text
    assert str(report["accuracy"]) in text


def test_the_page_is_the_same_each_time(tmp_path, written):
    folder, _, text = written
    page_parts.write(tmp_path, read_results(folder))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text


def test_the_surest_images_of_each_cell_are_chosen():
    found, evaluation = page.images_of_cells(page_parts.evaluation(), len(NAMES)), page_parts.evaluation()
    for (truth, predicted), indices in found.items():
        inside = (evaluation.labels == truth) & (evaluation.predictions == predicted)
        expected = sorted(inside.nonzero().flatten().tolist(), key=lambda index: -evaluation.probabilities[index])
        assert indices == expected[: page.MOST_IMAGES] and expected
    counts = sum(len(indices) < page.MOST_IMAGES for indices in found.values())
    assert 0 < counts < len(found)  # both kinds of cell


def test_images_that_take_too_much_room_are_compressed_and_at_last_left_out(monkeypatch):
    cells = page.images_of_cells(page_parts.evaluation(), len(NAMES))

    def kinds_and_most(limit: int) -> tuple[set, int, int]:
        monkeypatch.setattr(page, "IMAGE_BYTES", limit)
        uris, shown = page._as_uris(page_parts.images(), cells, mistakes=[COUNT - 1])
        assert COUNT - 1 in uris
        kinds = {re.match(r"data:image/(\w+);", uri)[1] for uri in uris.values()}
        return kinds, max(map(len, shown.values())), sum(map(len, uris.values()))

    kinds, most, size = kinds_and_most(10**9)
    assert (kinds, most) == ({"png"}, page.MOST_IMAGES)
    for limit, expected in ((size - 1, 20), (size // 3, 8), (size // 8, 2), (10_000, 0)):
        kinds, most, size_now = kinds_and_most(limit)
        assert (kinds, most) == ({"webp"}, expected) and size_now <= limit + 2000  # and the one that was too many


@pytest.mark.slow  # 2,000 images of noise, which nothing compresses well
def test_the_page_of_the_worst_images_stays_below_4_mb(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.integers(0, 256, (4000, 3, 32, 32), dtype=np.uint8))
    labels, predictions = torch.from_numpy(rng.integers(0, 10, (2, 4000)))
    evaluation = page_parts.evaluation()._replace(
        labels=labels, predictions=predictions, probabilities=torch.from_numpy(rng.random(4000, np.float32))
    )
    monkeypatch.setattr(page_parts, "NAMES", list("0123456789"))
    monkeypatch.setattr(page_parts, "evaluation", lambda: evaluation)
    monkeypatch.setattr(page_parts, "images", lambda: noise)
    page_parts.write(tmp_path)
    assert 1_000_000 < (tmp_path / "report.html").stat().st_size < 4_000_000
