"""Groups of images: told from paths and tables, and kept in one part."""

import itertools
import re
import zipfile
from pathlib import Path

import cv2
import made_up
import numpy as np
import pytest
import torch

from neural_lib.config import TrainConfig
from neural_lib.data.groups import grouped_split, groups_of
from neural_lib.data.images import Data, ImageTensors, load_user_images
from neural_lib.system.errors import UserError

CLASSES = ("green", "red")


def make_groups(
    generator: np.random.Generator, count: int, classes: int, chance: float
) -> tuple[np.ndarray, list[str]]:
    """Labels and groups of made-up images, in mixed order; a group has a class by chance, and then 1 to 6 of it."""
    table = generator.integers(1, 7, (count, classes)) * (generator.random((count, classes)) < chance)
    groups, labels = (np.repeat(each.ravel(), table.ravel()) for each in np.indices(table.shape))
    order = generator.permutation(len(labels))
    return labels[order], [f"sheet-{group}" for group in groups[order]]


def have_each_class(labels: np.ndarray, *parts: np.ndarray) -> bool:
    return all(set(labels[part]) == set(labels) for part in parts)


def could_be_divided(labels: np.ndarray, groups: list[str]) -> bool:
    """True if any of all divisions of the groups into three parts gives each part each class."""
    has = np.array(
        [
            [((np.array(groups) == group) & (labels == label)).any() for label in set(labels)]
            for group in np.unique(groups)
        ]
    )  # (G, classes)
    divisions = np.array([*itertools.product(range(3), repeat=len(has))])  # (3 ** G, G)
    return bool(np.all([(divisions == part).astype(int) @ has > 0 for part in range(3)], axis=(0, 2)).any())


def write_sheets(folder: Path, sheets: int, seed: int = 0, of_class: int = 3) -> Path:
    """A folder of characters, each a picture of another grey: <class>/pupil-<sheet>-<number>.png."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for sheet in range(sheets):
            for number in range(1 + int(generator.integers(of_class))):
                pixels = generator.integers(0, 256, (20, 20), dtype=np.uint8)
                cv2.imwrite(str(folder / name / f"pupil-{sheet}-{label}{number:02}.png"), pixels)
    return folder


def write_table(folder: Path, sheets: int) -> Path:
    """The same pictures, named by numbers, with a table of their labels and pupils."""
    rows = ["file,label,pupil,age"]
    for number, path in enumerate(sorted(write_sheets(folder / "named", sheets).rglob("*.png"))):
        rows.append(f"{number}.png,{path.parent.name},{path.stem.rsplit('-', 1)[0]},{7 + number / 100}")
        path.rename(folder / f"{number}.png")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


def write_zip(path: Path, sheets: int) -> Path:
    folder = write_sheets(path.with_suffix(""), sheets)
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, f"top/{file.relative_to(folder)}")
    return path


def load(path: Path, group_by: str = "sheet", **values) -> Data:
    return load_user_images(TrainConfig(dataset=str(path), group_by=group_by, **values), use_cache=False)


def parts_of(data: Data, **values) -> list[ImageTensors]:
    """The images to train on, to validate and to test."""
    return [*data.split(TrainConfig(**values)), data.test]


def names_of(images: ImageTensors) -> list[str]:
    return [images.name(index) for index in range(len(images))]


# --- which group an image belongs to ---


@pytest.mark.parametrize("group_by, name, group", [
    ("sheet", "ma/anna-2-017.png", "anna-2"), ("sheet", "train/ma/x/anna-2-017.png", "anna-2"),
    ("sheet", "anna-1", "anna"), ("sheet", "page.v2-3.5-12.jpeg", "page.v2-3.5"), ("sheet", "a-1/b-2-3.png", "b-2"),
    (r"patient\d+", "ill/patient12/patient3_a.png", "patient12"), (r"/(\w+?)_", "ill/p7_a.png", "p7"),
    (r"p\d+|(scan)", "scan1.png", "scan"),
])  # fmt: skip
def test_a_group_is_told_from_a_path(group_by, name, group):
    assert groups_of("d", [name], group_by) == [group]


@pytest.mark.parametrize("group_by, name", [
    ("sheet", "ma/017.png"), ("sheet", "a-1/017.png"), ("sheet", "anna-017b.png"), ("sheet", "-017.png"),
    (r"patient\d+", "ill/1.png"), ("x*", "ill/1.png"), (r"p\d+|(scan)", "p7.png"),
])  # fmt: skip
def test_an_image_without_a_group_is_named(group_by, name):
    with pytest.raises(UserError, match="^--dataset d: 2 of 3 images have no group, such as ") as error:
        groups_of("d", ["xscan/p0-patient1-0.png", name, name], group_by)
    assert name in str(error.value) and "--group-by " in str(error.value)
    assert groups_of("d", [name], "") == []


def test_a_file_that_is_no_picture_needs_no_group(tmp_path):
    (write_sheets(tmp_path / "d", 4) / "red" / "notes").write_text("about them")
    assert len(load(tmp_path / "d").test)
    cv2.imwrite(str(tmp_path / "d" / "red" / "odd.png"), np.zeros((20, 20)))
    with pytest.raises(UserError, match=r"2 of \d+ images have no group, such as red/odd.png; --group-by sheet needs"):
        load(tmp_path / "d")


def test_a_column_of_a_table_gives_the_groups(tmp_path, caplog):
    path = write_table(tmp_path, 12)
    caplog.set_level("INFO")
    data = load(path, "pupil")
    assert "labels.csv: 12 groups by pupil: " in caplog.text and "columns that are not used: age\n" in caplog.text
    assert {*data.train.groups} == {f"pupil-{number}" for number in range(12)}
    path.write_text(path.read_text().replace("label,pupil,", "kind,sheet,"))  # both have a few values again and again
    assert load(path, "sheet").train.groups == data.train.groups
    with pytest.raises(UserError, match="may all be the labels"):
        load(path, r"\d")
    path.write_text(path.read_text().replace(",pupil-3,", ",,"))
    with pytest.raises(UserError, match=r"have no group, such as \d+.png; --group-by sheet needs a value in each row"):
        load(path, "sheet")


# --- whole groups in each part ---


@pytest.mark.slow
def test_whole_groups_have_about_the_share_of_each_class():
    generator = np.random.default_rng(0)
    for seed in range(60):
        share, classes = generator.uniform(0.1, 0.9), int(generator.integers(1, 12))
        labels, groups = make_groups(generator, int(generator.integers(20, 60)), classes, chance=0.8)
        is_first = grouped_split(labels, groups, share, seed)
        assert not {*np.array(groups)[is_first]} & {*np.array(groups)[~is_first]}
        assert have_each_class(labels, is_first, ~is_first)
        shares = np.array([is_first[labels == label].mean() for label in range(classes)])
        largest = max(
            ((np.array(groups) == group) & (labels == label)).sum() / (labels == label).sum()
            for group in set(groups) for label in range(classes)
        )  # fmt: skip
        assert np.sqrt(np.square(shares - share).mean()) < largest
        assert np.array_equal(is_first, grouped_split(labels, groups, share, seed))


def test_seeds_draw_different_groups():
    labels, groups = make_groups(np.random.default_rng(0), 30, 5, chance=0.9)
    drawn = {frozenset(np.array(groups)[~grouped_split(labels, groups, 0.85, seed)]) for seed in range(40)}
    assert len(drawn) > 30 and len(frozenset.union(*drawn)) == 30


def test_a_large_group_is_left_where_smaller_ones_come_nearer():
    labels, groups = np.zeros(100, int), ["large"] * 60 + [f"{number}" for number in range(40)]
    for seed in range(20):
        assert grouped_split(labels, groups, 0.85, seed).sum() == 85
    assert grouped_split(labels, ["a"] * 80 + ["b"] * 20, 0.95, 0).sum() == 80  # no part is empty
    for seed in range(20):
        assert 1 <= grouped_split(labels, ["a"] * 34 + ["b"] * 33 + ["c"] * 33, 0.999, seed, 2).sum() < 100


def test_each_part_has_each_class_if_any_division_gives_it():
    generator, counts = np.random.default_rng(0), {True: 0, False: 0}
    for seed in range(300):
        classes, chance = 3 + seed % 5, generator.uniform(0.35, 0.65)
        labels, groups = make_groups(generator, int(generator.integers(4, 9)), classes, chance)
        if min(len({*np.array(groups)[labels == label]}) for label in range(classes)) < 3:
            continue
        is_first = grouped_split(labels, groups, 0.85, seed, min_count=2)
        is_found = have_each_class(labels, is_first, ~is_first)
        if is_found:
            rest = np.array(groups)[is_first].tolist()
            is_train = grouped_split(labels[is_first], rest, 0.75, seed + 1)
            is_found = have_each_class(labels[is_first], is_train, ~is_train)
        assert is_found == could_be_divided(labels, groups), (seed, labels, groups)
        counts[is_found] += 1
    assert counts[True] > 40 and counts[False] > 2


# --- data sets ---


@pytest.mark.few(3)
@pytest.mark.parametrize("write, group_by", [
    (lambda folder, count: write_sheets(folder / "d", count), "sheet"), (write_table, "pupil"),
    (lambda folder, count: write_zip(folder / "d.zip", count), "sheet"),
    (lambda folder, count: write_sheets(folder / "d", count), r"pupil-\d+"),
], ids=["folder", "table", "zip", "expression"])  # fmt: skip
@pytest.mark.parametrize("sheets", [3, 13, 30])
def test_no_group_of_a_data_set_is_in_two_parts(tmp_path, caplog, write, group_by, sheets):
    path = write(tmp_path, sheets)
    caplog.set_level("INFO")
    for seed in range(3):
        data = load(path, group_by, seed=seed)
        parts = parts_of(data, seed=seed)
        names, groups = [names_of(part) for part in parts], [set(part.own_groups()) for part in parts]
        assert sorted(sum(names, [])) == sorted(data.train.names) and sum(map(len, groups)) == sheets
        assert set.union(*groups) == {f"pupil-{number}" for number in range(sheets)}
        assert all(len(part.labels.unique()) == 2 for part in parts)
        counts = "{} train, {} validate, {} test".format(*map(len, groups))
        assert f"{path.name}: {sheets} groups by {group_by}: {counts}\n" in caplog.text
        if sheets == 30:
            total = sum(map(len, parts))
            assert abs(len(parts[2]) / total - 0.15) < 0.05 and abs(len(parts[1]) / total - 0.85 * 0.25) < 0.05
        again = parts_of(load(path, group_by, seed=seed), seed=seed)
        assert [names_of(part) for part in again] == names
    assert "in two parts" not in caplog.text


def test_images_keep_their_groups_wherever_they_go(tmp_path):
    train = load(write_sheets(tmp_path / "d", 9)).train
    chosen, expected = torch.tensor([4, 0, 7]), train.own_groups()
    moved = [train.to("meta", as_a_whole=True), train.to("meta", as_a_whole=False), train.labelled(train.labels + 1)]
    assert [each.own_groups() for each in moved] == [expected] * 3
    assert moved[2].subset(chosen).own_groups() == [expected[index] for index in (4, 0, 7)]


def test_photos_that_get_more_to_validate_stay_in_their_groups(tmp_path):
    config = TrainConfig(dataset=str(write_sheets(tmp_path / "d", 30, of_class=6)), group_by="sheet", train_split=0.9)
    data = load_user_images(config, use_cache=False, min_val=50)
    train, val = data.split(data.with_enough_to_validate(config))
    assert 40 < len(val) < 60 and not {*train.own_groups()} & {*val.own_groups()}


@pytest.mark.parametrize("given, values, expected", [
    (("train", "val"), {}, "in two parts"), (("train", "test"), {}, "in two parts"),
    (("train", "val"), {"test": "val", "test_split": 1.0}, "in two parts"),
    (("train", "val"), {"test": "val", "test_split": 0.5}, "in two parts"), (("train", "val", "test"), {}, "in two"),
])  # fmt: skip
def test_given_parts_stay_and_a_group_in_two_is_named(tmp_path, caplog, given, values, expected):
    for number, part in enumerate(given):
        write_sheets(tmp_path / "d" / part, 5 + number, seed=number)
        for path in (tmp_path / "d" / part).rglob("*.png"):  # pupils 4, 5, ... are in this part alone
            if path.name.split("-")[1] != "0":
                path.rename(path.with_name(f"{part}-{path.name}"))
    data = load(tmp_path / "d", **values)
    parts = parts_of(data, **values)
    if val_is_given := "val" in given and values.get("test_split") != 1:
        parts[0], parts[1] = data.train, data.val
    sources = [{name.split("/")[0] for name in names_of(part)} for part in parts]
    assert sources[0] == {"train"} and sources[1] == {"val" if val_is_given else "train"}
    for one, other in itertools.combinations(range(3), 2):
        shared = {*parts[one].own_groups()} & {*parts[other].own_groups()}
        assert shared <= {"pupil-0"} and not (shared and sources[one] == sources[other])
    warning = "d: 1 group is in two parts, because these are given, so the scores promise too much: pupil-0"
    assert warning in caplog.text


@pytest.mark.parametrize("sheets, group_by, message", [
    (2, "sheet", r"a class needs 3 or more groups by sheet, so that each part has one: .*; too few: green 2, red 2; "
                 r"add some, or leave out --group-by$"),
    (9, "pupil", r"a class needs 3 or more groups by pupil, so .*; too few: green 1, red 1; add some, or "
                 r"leave out --group-by$"),
    (9, "green|red", r"too few: green 1, red 1; add some, or leave out --group-by$"),
    (9, "patient", r"have no group, such as green/pupil-\d-\d+.png; --group-by patient needs to match"),
])  # fmt: skip
def test_groups_that_cannot_be_divided_are_refused(tmp_path, sheets, group_by, message):
    with pytest.raises(UserError, match=message) as error:
        load(write_sheets(tmp_path / "d", sheets), group_by)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--dataset {tmp_path / 'd'}: ")


def test_classes_that_share_their_groups_in_an_impossible_way_are_named(tmp_path):
    folder = tmp_path / "d"
    # Of four groups with one class alone in each pair of three classes, no three parts have all.
    for name, pupils in (("a", "123"), ("b", "124"), ("c", "134")):
        (folder / name).mkdir(parents=True)
        for pupil in pupils:
            cv2.imwrite(str(folder / name / f"pupil-{pupil}-1.png"), np.full((20, 20), int(pupil), np.uint8))
    with pytest.raises(UserError) as error:
        load(folder)
    found = re.fullmatch(
        r"--dataset \S+: no way was found to divide its groups by sheet that leaves images of [abc](, [abc])? to "
        r"(train|validate|test); add groups with such images, or leave out --group-by",
        str(error.value),
    )
    assert found
    cv2.imwrite(str(folder / "b" / "pupil-3-1.png"), np.full((20, 20), 9, np.uint8))
    assert all(len(part.labels.unique()) == 3 for part in parts_of(load(folder)))


def test_arrays_have_no_sheets(tmp_path):
    images = {part: (torch.zeros(12, 1, 20, 20), torch.arange(12) % 2) for part in ("train", "test")}
    with pytest.raises(UserError, match=r"24 of 24 images have no group, such as train_images\[0\]"):
        load(made_up.write_npz(tmp_path / "d.npz", images))


@pytest.mark.parametrize("group_by", ["(", "[", "*", "a{99999999999999}"])
def test_what_is_no_expression_is_refused_before_anything_is_read(group_by):
    with pytest.raises(UserError, match="^--group-by must be sheet, the title of a table's column, or a regular exp"):
        TrainConfig(group_by=group_by)
