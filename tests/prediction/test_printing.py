"""predict.py --sheet: labels in texts and files, what is refused, the PDF and what is drawn in it."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import sheets

import predict
from neural_lib.data.catalog import DATASETS
from neural_lib.data.sheet import FIRST, PITCH, labels_in, pages_of
from neural_lib.prediction.printing import labels_of, print_sheet
from neural_lib.system import cli
from neural_lib.system.errors import UserError


def pages_in(pdf: Path) -> int:
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    return len(re.findall(rb"/Type /Page\b", content))


@pytest.mark.parametrize("text, labels", [
    ("a b c", ["a", "b", "c"]),
    ("あいう", ["あ", "い", "う"]),
    ("か\u3099あ", ["が", "あ"]),  # as macOS writes it
    ("x\u0302y", ["x\u0302", "y"]),  # a mark that has no character with it
    ("cat dog", ["cat", "dog"]),
    ("a, b, c", ["a", "b", "c"]),
    ("a,b,c", ["a", "b", "c"]),
    ("あ、い、う", ["あ", "い", "う"]),
    (", . ;", [",", ".", ";"]),
    ("1 2 ,", ["1", "2", ","]),
    ("/ . CON", ["/", ".", "CON"]),
    ("  ", []),
])  # fmt: skip
def test_labels_are_separated_by_spaces_or_commas_or_are_characters(text, labels):
    assert labels_in(text) == labels


def test_a_file_has_a_label_on_each_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\ufeffice cream\n\n あ \n", encoding="utf-8")
    assert labels_of(str(path)) == ["ice cream", "あ"]


@pytest.mark.parametrize("given, message", [
    ("none.txt", "there is no such file"),
    ("labels/none", "there is no such file"),
    ("", "has no labels"),
    ("a b a", "a is given more than once"),
    ("a\x07 b", "has control characters"),
    ("a " + "b" * 61, "has more than 60 bytes"),
])  # fmt: skip
def test_labels_that_cannot_be_used_are_refused(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        labels_of(given)


@pytest.mark.parametrize("labels, copies, pages, said", [
    ("a b c", 10, 1, "1 page, 30 boxes (3 labels, 10 for each)"),
    (None, 1, 1, "1 page, 1 box (an answer sheet)"),
    ("abcdefghijkl", 10, 2, "2 pages, 120 boxes (12 labels, 10 for each)"),
])  # fmt: skip
def test_a_sheet_is_written_as_a_pdf(tmp_path, caplog, labels, copies, pages, said):
    with caplog.at_level(logging.INFO, "neural_lib"):
        print_sheet(str(tmp_path / "new" / "s.pdf"), labels, None, copies)
    assert pages_in(tmp_path / "new" / "s.pdf") == pages and said in caplog.messages[-1]


def test_characters_that_no_font_has_are_named(tmp_path, caplog):
    print_sheet(str(tmp_path / "s.pdf"), "あ é 漢 א 😀", None, 1)
    (warning,) = caplog.messages
    assert "no font here has 😀: printed as □" in warning


def test_too_many_pages_are_refused(tmp_path):
    with pytest.raises(UserError, match="take more than 200 pages"):
        print_sheet(str(tmp_path / "s.pdf"), None, None, 20_001)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_needs_no_model_and_no_torch(run_without_torch, tmp_path):
    done = run_without_torch("predict", "--sheet", "s.pdf", "--labels-from", "kmnist", "--copies", "2")
    assert (done.returncode, done.stderr) == (0, "") and pages_in(tmp_path / "s.pdf") == 1


def test_the_labels_of_a_data_set_are_its_written_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = []
    monkeypatch.setattr("neural_lib.prediction.printing.pdf_of", lambda pages: printed.extend(pages) or b"")
    for name in ("kmnist", "digits"):
        assert cli.run(predict.main, "predict.py", ["--sheet", "s.pdf", "--labels-from", name]) == 0
    assert [each.labels for each in printed] == [DATASETS["kmnist"].glyphs, DATASETS["digits"].classes]


@pytest.mark.parametrize("labels", [["お", "a"], []])
def test_each_box_has_its_label_or_its_number_above_it_and_nothing_in_it(labels):
    (page,) = pages_of(labels, 6)
    paper, per_mm = sheets.printed(page), sheets.DPI / 25.4
    for left, top, side, _ in page.boxes:
        rows, columns = (slice(round((at + 1) * per_mm), round((at + side - 1) * per_mm)) for at in (top, left))
        assert paper[rows, columns].min() == 255  # empty
        above = paper[round((top - (PITCH[1] - side) + 0.5) * per_mm) : round((top - 0.5) * per_mm), columns]
        dark = np.flatnonzero(above.min((1, 2)) < 100)
        assert len(dark) >= 0.8 * per_mm  # at least 0.8 mm high
        gap_below, gap_above = len(above) - 1 - dark[-1], dark[0]
        assert gap_below <= gap_above or top == FIRST[1]  # nearer to this box than to the one above
