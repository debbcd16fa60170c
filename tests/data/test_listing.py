"""The files of a data set: the classes and parts of folders, of archives, of names and of tables."""

import io
import itertools
import os
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from neural_lib.data import archives, custom
from neural_lib.data.custom import Request
from neural_lib.data.listing import Listing, list_files
from neural_lib.system.errors import UserError

PICTURE = cv2.imencode(".png", np.zeros((20, 20), np.uint8))[1].tobytes()


def listing_of(path: Path, from_names: bool = False) -> Listing:
    with list_files(str(path), from_names) as listing:
        return listing


def found(listing: Listing) -> list[str]:
    """The files with their part and class: "train cat cats/1.png"."""
    return [f"{each.part} {listing.classes[each.label]} {each.path}" for each in listing.files]


def load(path: Path, **options) -> custom.Collection:
    return custom.load(str(path), Request(), use_cache=False, **options)


def layout(tmp_path: Path, *files: str, content: bytes = b"") -> Path:
    """A folder with files of these names."""
    for name in files:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"" if name.endswith(".txt") else content)
    return tmp_path / "d"


# --- folders ---


@pytest.mark.parametrize("files, classes, expected, stray", [
    (["b/1.png", "a/2.png", "a/10.png"], ["a", "b"], ["train b b/1.png", "train a a/2.png", "train a a/10.png"], []),
    (["@/1", "a/2"], ["@", "a"], ["train @ @/1", "train a a/2"], []),
    (["c10/1", "c9/1"], ["c9", "c10"], ["train c9 c9/1", "train c10 c10/1"], []),  # natural order, then the class
    (["train/a/1", "train/b/2", "test/a/3", "valid/b/4"], ["a", "b"],
     ["train a train/a/1", "train b train/b/2", "val b valid/b/4", "test a test/a/3"], []),
    (["Training/a/1", "Training/b/2"], ["a", "b"], ["train a Training/a/1", "train b Training/b/2"], []),
    (["train/1", "car/2", "plane/3"], ["car", "plane", "train"],  # toys, not parts
     ["train train train/1", "train car car/2", "train plane plane/3"], []),
    (["train/a/1", "train/b/1", "test/a/1", "more/a/1"], ["a", "b"],
     ["train a train/a/1", "train b train/b/1", "test a test/a/1"], ["more/a/1"]),
    (["a/x/2", "a/1", "b/3"], ["a", "b"], ["train a a/1", "train b b/3", "train a a/x/2"], []),
    (["a/1", "b/1", "answers.csv", "sheets.csv"], ["a", "b"], ["train a a/1", "train b b/1"], []),
    (["a/1", "b/1", "notes.txt", ".git/x", "a/.DS_Store", "a/Thumbs.db", "b/._1", "a/@eaDir/1", "__MACOSX/a/1"],
     ["a", "b"], ["train a a/1", "train b b/1"], ["notes.txt"]),
])  # fmt: skip
def test_a_folder_is_laid_out_by_class_or_by_part_and_class(tmp_path, files, classes, expected, stray):
    listing = listing_of(layout(tmp_path, *files))
    assert listing.classes == classes and listing.stray == stray and not listing.notes
    assert found(listing) == expected
    assert all(each.path.endswith(f"{classes[each.label]}/{each.name}") for each in listing.files)


@pytest.mark.parametrize("training, other, part", [
    ("training_set", "test_set", "test"),
    ("seg_train", "seg_test", "test"),
    ("seg_train/seg_train", "seg_test/seg_test", "test"),
    ("Train_data", "validation_data", "val"),
    ("trainingSet/trainingSet", "testSet/testSet", "test"),
    ("trainset", "testset", "test"),
    ("flower-photos-train", "flower-photos-val", "val"),
    ("train/images", "test/images", "test"),
    ("photos/train", "photos/test", "test"),
    ("photos_test/train", "photos_test/test", "test"),  # a folder of several parts is none
    ("a/b/train_set", "a/b/test_set", "test"),
])  # fmt: skip
def test_parts_are_known_by_the_names_in_use(tmp_path, caplog, training, other, part):
    caplog.set_level("INFO")
    names = [f"{root}/{label}/{each}.png" for root in (training, other) for label in ("cat", "dog") for each in "12"]
    folder = layout(tmp_path, *names, content=PICTURE)
    listing = listing_of(folder)
    assert listing.classes == ["cat", "dog"] and not listing.stray
    assert [each.part for each in listing.files] == ["train"] * 4 + [part] * 4
    data = load(folder)
    assert {name: len(indices) for name, indices in data.indices.items()} == {"train": 4, part: 4}
    assert f"d: {training}/ is taken as train/" in caplog.text  # not silently


def test_files_beside_parts_of_other_names_are_left_out(tmp_path, caplog):
    """The layout of a much copied course: training_set, test_set, and two pictures to predict."""
    names = [f"{part}_set/{label}s/{label}.{number}.png" for part in ("training", "test") for label in ("cat", "dog")
             for number in "12"]  # fmt: skip
    folder = layout(tmp_path, *names, "single_prediction/cat_or_dog_1.png", "notes.txt", content=PICTURE)
    assert load(folder).classes == ["cats", "dogs"]
    assert "single_prediction/cat_or_dog_1.png: belongs to no class" in caplog.text


@pytest.mark.parametrize("files, classes", [
    (["d/photos/a/1.png", "d/photos/b/1.png"], ["a", "b"]),
    (["photos/more/a/1.png", "photos/more/b/1.png", "readme.txt"], ["a", "b"]),
    (["test_tube/1.png", "train_station/2.png"], ["test_tube", "train_station"]),  # folders of pictures are classes
    (["test_tube/old/1.png", "flask/2.png"], ["flask", "test_tube"]),
    (["cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"], ["cat", "dog"]),
    (["cat/1.png", "cat/2020/1.png", "dog/2020/1.png"], ["cat", "dog"]),
    (["cat/2020/1.png", "dog/1.png"], ["cat", "dog"]),
    (["cat/black/1.png", "dog/white/1.png"], ["cat", "dog"]),
])  # fmt: skip
def test_classes_are_found_below_a_folder_too_many_and_above_folders_of_their_own(tmp_path, files, classes):
    listing = listing_of(layout(tmp_path, *files, content=PICTURE))
    assert listing.classes == classes and len(listing.files) == sum(name.endswith("png") for name in files)


def test_a_stray_picture_beside_the_classes_of_a_part_makes_no_class_of_it(tmp_path, caplog):
    names = [f"{part}_set/{label}/{number}.png" for part in ("training", "test") for label in "ab" for number in "123"]
    data = load(layout(tmp_path, *names, "training_set/preview.png", content=PICTURE))
    assert data.classes == ["a", "b"] and [*data.indices] == ["train", "test"]
    assert "training_set/preview.png: belongs to no class" in caplog.text


def test_parts_in_each_class_are_parts(tmp_path):
    files = ["cat/train/1.png", "cat/val/2.png", "dog/train/1.png", "dog/valid/2.png", "dog/test/3.png"]
    listing = listing_of(layout(tmp_path, *files, content=PICTURE))
    assert found(listing) == [
        *("train cat cat/train/1.png", "train dog dog/train/1.png"),
        *("val cat cat/val/2.png", "val dog dog/valid/2.png", "test dog dog/test/3.png"),
    ]
    assert listing.notes == ["the folders in each class are parts"]


def test_names_that_differ_in_zeros_alone_have_one_order(tmp_path):
    orders = itertools.permutations(["1/01.png", "01/1.png", "001/001.png"])
    listings = [listing_of(layout(tmp_path / str(number), *each)) for number, each in enumerate(orders)]
    assert all(each.classes == listings[0].classes for each in listings)
    assert len({tuple(file.path for file in each.files) for each in listings}) == 1


@pytest.mark.parametrize("files, message", [
    ([], "holds no folders; a data set is a folder with a subfolder"),
    (["1.png", "2.png"], "holds no folders, but 2 files; a data set is a folder"),
    (["a/1"], "a is the only class"),
    (["test/a/1", "test/b/1"], "has images for test alone, and none to train on"),
    (["train/a/1", "train/b/1", "test/A/1"], "A and a would be one class in two spellings; rename one"),
    (["train/a/1", "train/b/1", "a/1", "b/1"], "holds folders as a part does, and lies beside a, b; move it elsewhere"),
    (["train/a/1", "train/b/1", "tets/a/1", "tets/b/1"], "and lies beside tets; did you mean test by tets?"),
    (["Cat/1", "cat/1"], "Cat and cat would be one class in two spellings"),
    (["cafe\u0301/1", "caf\u00e9/1"], "would be one class in two spellings"),
    (["train/a/1", "train/b/1", "test/c/1"], "test/ has c, and train/ has no class of that name"),
    (["train/a/1", "train/b/1", "val/a/1", "valid/a/1"], "has val and valid, which mean the same"),
    (["train1/a/1", "train2/a/1", "train1/b/1"], "has train1 and train2, which mean the same; merge them"),
    ([b"caf\xe9/1".decode(errors="surrogateescape"), "a/1"], "the class name 'caf?' is empty, not UTF-8, or"),
    (["a\x1b[31m/1", "b/1"], "the class name 'a?[31m' is empty, not UTF-8, or has control characters; rename it"),
    (["a/1", "b/1"], "no picture that can be read in a, b; add some, or leave it out"),
    (["fold1/a/1", "fold1/b/1", "fold2/a/1", "fold2/b/1"],
     "fold1, fold2 hold no pictures, but folders of the same names (a, b), so it can't be told which are the classes"),
    (["A/a/1", "A/b/1", "B/a/1", "B/b/1", "C/1"], "A, B hold no pictures, but folders of the same names (a, b)"),
    (["a/2019/1", "a/2020/1", "b/2019/1", "b/2021/1"], "but folders of the same names (2019), so it can't be told"),
    (["train/1.png", "test/2.png"], "train: holds no folders, but 1 files; a data set is a folder"),
])  # fmt: skip
def test_a_folder_that_is_no_data_set_is_refused(tmp_path, files, message):
    (tmp_path / "d").mkdir()
    folder = layout(tmp_path, *files)
    with pytest.raises(UserError, match="^--dataset ") as error:
        load(folder)
    assert message in str(error.value) and "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_folder_of_very_many_files_is_refused_in_a_line(tmp_path):
    names = [f"{number}.jpg" for number in range(2000)]
    with pytest.raises(UserError, match="holds no folders, but 2,000 files; ") as error:
        load(layout(tmp_path, *names))
    assert len(str(error.value)) < 300


def test_folders_that_hold_nothing_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="its folders hold no files"):
        load(tmp_path / "d")


def test_links_are_followed_unless_they_loop(tmp_path):
    photos = layout(tmp_path, "cat/1.png", "dog/1.png", content=PICTURE)
    elsewhere = layout(tmp_path / "elsewhere", "2.png", content=PICTURE)
    os.symlink(photos / "cat", photos / "fox")  # a link to a class folder is a class
    os.symlink(elsewhere, photos / "dog" / "more")  # and one to a folder in a class is read
    os.symlink(photos, photos / "all")
    os.symlink("self", photos / "self")
    os.symlink(photos, photos / "dog" / "back")
    os.symlink(photos / "dog", elsewhere / "round")  # from there back to where it was linked
    listing = listing_of(photos)
    assert listing.classes == ["cat", "dog", "fox"] and listing.stray == ["all", "self"]
    assert [each.path for each in listing.files] == [
        *("cat/1.png", "dog/1.png", "fox/1.png"),
        *("dog/back", "dog/more/2.png", "dog/more/round"),  # links back up are listed, and reported as no pictures
    ]
    assert len(load(photos).indices["train"]) == 4


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path):
    photos = layout(tmp_path, "cat/1.png", "dog/1.png")
    for path in (photos / "cat", photos):
        path.chmod(0)
        try:
            with pytest.raises(UserError, match=rf"{path}: can't be looked into \(Permission denied\)"):
                load(photos)
        finally:
            path.chmod(0o755)


@pytest.mark.parametrize("inner", ["", "cat"])
def test_a_folder_that_fails_is_named(tmp_path, monkeypatch, inner):
    photos = layout(tmp_path, "cat/1.png", "dog/1.png")
    scandir = os.scandir

    def fail(path):
        if os.path.realpath(path) == os.path.realpath(photos / inner):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(UserError, match=rf"{photos / inner}: can't be looked into \(Permission denied\)"):
        load(photos)


# --- names ---

CATS_AND_DOGS = ["cat.0.png", "cat.1.png", "cat_12.png", "dog (3).png", "dog-4.png", "dog5.png", "big dog 6.png",
                 "big dog 7.png"]  # fmt: skip


def test_files_whose_names_tell_classes_are_offered_and_read_with_the_option(tmp_path):
    folder = layout(tmp_path, *CATS_AND_DOGS, "readme.txt", content=PICTURE)
    with pytest.raises(UserError, match="the names look like 3 classes, big dog, cat, dog: give --labels-from-names$"):
        load(folder)
    data = load(folder, from_names=True)
    assert data.classes == ["big dog", "cat", "dog"]
    assert {name: data.classes[label] for name, label in zip(data.names, data.labels, strict=True)} == {
        name: name.rstrip("png").rstrip(" .-_()0123456789") for name in CATS_AND_DOGS
    }


@pytest.mark.parametrize("names", [
    ["IMG_0001.png", "IMG_0002.png"], ["1.png", "2.png", "a3.png", "a4.png"], ["cat1.png", "cat2.png", "fox.png"], [],
])  # fmt: skip
def test_names_that_tell_no_classes_are_not_offered(tmp_path, names):
    folder = layout(tmp_path, *(f"one/{name}" for name in names or ["x"]), content=PICTURE)
    with pytest.raises(UserError, match="one is the only class") as error:
        load(folder)
    assert "--labels-from-names" not in str(error.value)


def test_names_tell_the_classes_of_parts_too(tmp_path, caplog):
    folder = layout(tmp_path, "train/cat.0.png", "train/dog.0.png", "test1/7.png", "val/dog.1.png", content=PICTURE)
    with pytest.raises(UserError, match=r"train: holds no folders, but 2 files"):
        load(folder)
    data = load(folder, from_names=True)
    assert data.classes == ["cat", "dog"] and {part: len(each) for part, each in data.indices.items()} == {
        "train": 2, "val": 1,
    }  # fmt: skip
    assert "test1/7.png: belongs to no class" in caplog.text
    for names, message in ((["1.png", "2.png"], "the names of 0 pictures give 0 classes; the class comes"),
                           ([f"{number}_cat.png" for number in range(30)], "names of 30 pictures give 30 classes"),
                           (["cat1.png", "cat2.png"], "cat is the only class, and there must be two or more; all"),
                           ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            load(layout(tmp_path / names[0], *names, content=PICTURE), from_names=True)


# --- tables ---


def write_table(folder: Path, *rows: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_text("\n".join(rows) + "\n", encoding=encoding)
    return folder / name


@pytest.mark.parametrize("rows", [
    ["image,label", "1.png,cat", "2.png,cat", "3.png,dog", "4.png,dog"],
    ["1.png,cat", "2.png,cat", "3.png,dog", "4.png,dog"],  # without titles
    ["id;breed", "1;cat", "2;cat", "3;dog", "4;dog"],  # names without suffix
    ["label\tpath", "cat\timages/1.png", "cat\timages/2.png", "dog\timages/3.png", "dog\timages/4.png"],
    ["path,label", "/somebody/elses/1.png,cat", "/somebody/elses/2.png,cat", "C:\\x\\3.png,dog", "4.png,dog"],
    ["image,label,name", "1.png,0,cat", "2.png,0,cat", "3.png,1,dog", "4.png,1,dog"],  # a class's number and name
    ["image,camera,label", "1.png,a,cat", "2.png,b,cat", "3.png,a,dog", "4.png,a,dog"],  # the title decides
    ['image,label,text', '1.png,cat,"a, b"', "2.png,cat,x", "3.png,dog,y", "4.png,dog,z"],
    ["image,cat,dog", "1.png,1,0", "2.png,1,0", "3.png,0,1", "4.png,0,1"],  # one-hot
    ["image,label", "1.jpg,cat", "2.jpg,cat", "3.jpg,dog", "4.jpg,dog"],  # converted since
])  # fmt: skip
@pytest.mark.parametrize("folder", ["images", "."])
def test_a_table_names_files_and_their_classes(tmp_path, rows, folder):
    top = layout(tmp_path, *(f"{folder}/{number}.png" for number in "1234"), content=PICTURE)
    if folder == "." and "images" in rows[1]:
        rows = [row.replace("images/", "") for row in rows]
    data = load(write_table(top, *rows, encoding="utf-8-sig"))
    labels = {Path(name).name: data.classes[label] for name, label in zip(data.names, data.labels, strict=True)}
    assert labels == {"1.png": "cat", "2.png": "cat", "3.png": "dog", "4.png": "dog"}


def test_a_table_may_tell_parts_and_name_missing_files(tmp_path, caplog):
    caplog.set_level("INFO")
    top = layout(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.png", content=PICTURE)
    rows = ["file,class,split,size", "1.png,x,train,7", "2.png,y,train,7", "3.png,x,valid,8", "4.png,y,Test,9",
            "9.png,x,train,8", "5.png,,train,1", "z\0.png,x,train,1"]  # fmt: skip
    data = load(write_table(top, *rows, name="all.csv"))
    assert {part: [data.names[each] for each in indices] for part, indices in data.indices.items()} == {
        "train": ["a/1.png", "a/2.png"], "val": ["b/3.png"], "test": ["b/4.png"],
    }  # fmt: skip
    assert "9.png: can't be read (No such file or directory)" in caplog.text
    assert "z?.png: can't be read" in caplog.text or "z?.png: is damaged" in caplog.text
    assert "5.png: belongs to no class" in caplog.text
    assert "all.csv: the column file names the files, and class their classes" in caplog.text
    assert "all.csv: columns that are not used: size" in caplog.text
    with pytest.raises(UserError, match="is a table, which gives the labels; leave out --labels-from-names"):
        load(top / "all.csv", from_names=True)


@pytest.mark.parametrize("rows, message", [
    (["image,label", "7.png,cat", "8.png,dog"], "and it is no table of pixels; its last row is 8.png, dog"),
    (["image,text", "1.png,a", "2.png,b", "3.png,c", "4.png,d"], "no column of it has a few values again and again"),
    (["image,a,b", "1.png,x,u", "2.png,x,v", "3.png,y,u", "4.png,y,v"], "a, b may all be the labels; title the right"),
    (["image,a,b,c", "1.png,1,0,0", "2.png,1,1,0", "3.png,0,0,1", "4.png,0,1,0"], "2.png has a, b of a, b, c, and a p"),
    (["image,label", "1.png,a b", "2.png,b", "3.png,a", "4.png,b", "7.png,a", "8.png,a"],
     "'a b' are several labels of a picture, and it belongs to one class"),
    (["image,label", "1.png,cat", "1.png,dog", "2.png,dog"], "has several rows for 1.png, and a picture belongs to "),
    (["image,label,split", "1.png,cat,train", "2.png,cat,test", "3.png,dog,", "4.png,dog,train"],
     "the column split has parts, and ''; give train, val or test"),
    (["image,label", "1.png,cat", "2.png"], "row 3 has 1 columns, and row 1 has 2"),
    (["image", "1.png"], "is no table with a column of file names and a column of labels"),
    (['image,label', '1.png,"cat'], "is no table in UTF-8"),
    (["image,label", "1.png,cat", "2.png,cat"], "no column of it has a few values"),
    (["image,label", "5.png,cat", "5.png,dog"], "no column of it names files beside it"),  # two files have the name
])  # fmt: skip
def test_a_table_that_is_not_understood_is_refused(tmp_path, rows, message):
    top = layout(tmp_path, *(f"{name}.png" for name in ("1", "2", "3", "4", "a/5", "b/5")), content=PICTURE)
    path = write_table(top, *rows)
    with pytest.raises(UserError, match=f"^--dataset {path}: ") as error:
        load(path)
    assert message in str(error.value)


def test_a_folder_with_a_table_beside_its_pictures_says_so(tmp_path):
    top = layout(tmp_path, "train/1.png", "test/2.png", content=PICTURE)
    write_table(top, "id,breed", "1,cat")
    with pytest.raises(UserError, match="if labels.csv holds the labels, give that file as --dataset"):
        load(top)
    archive = write_archive(tmp_path / "d.zip", {"train/1.png": PICTURE, "labels.csv": b""})
    with pytest.raises(UserError, match="if labels.csv holds the labels, unpack the archive and give that file as --"):
        load(archive)


# --- archives ---


def write_archive(path: Path, contents: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


KINDS = ["d.zip", "d.tar", "d.tar.gz", "d.tar.bz2", "d.tar.xz"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"use_cache": True}])
def test_an_archive_is_read_as_the_folder_is(tmp_path, monkeypatch, kind, options):
    """In any order of its members, and by several threads, though a compressed tar is only read from front to back."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(custom, "SMALL_FILE", 10)
    monkeypatch.setattr(custom, "usable_cores", lambda: 3)
    monkeypatch.setattr(custom, "BATCH", 2)
    generator = np.random.default_rng(0)
    contents = {}
    for number in generator.permutation(20).tolist():
        pixels = generator.integers(0, 256, (18, 18 + number % 2, 3), dtype=np.uint8)
        contents[f"pets/{('cat', 'dog')[number % 2]}/{number}.png"] = cv2.imencode(".png", pixels)[1].tobytes()
    contents |= {"__MACOSX/pets/cat/1.png": b"", "pets/readme.txt": b"about", "pets/cat/.DS_Store": b""}
    contents |= {"pets/train.txt": b"", "pets/a.txt": b""}
    positions, read = [], archives.Member.read
    monkeypatch.setattr(archives.Member, "read", lambda self: positions.append(self.position) or read(self))
    for name, content in contents.items():
        layout(tmp_path, name, content=content)
    options = {"use_cache": False} | options
    folder, archive = (
        custom.load(str(path), Request(), **options)
        for path in (tmp_path / "d", write_archive(tmp_path / kind, {f"./{name}": contents[name] for name in contents}))
    )
    decoded = positions[-20:]
    assert decoded == sorted(decoded) and len({*decoded}) == 20  # from front to back
    assert listing_of(tmp_path / "d").stray == listing_of(tmp_path / kind).stray
    assert folder.classes == archive.classes == ["cat", "dog"] and len(archive.names) == 20
    assert list(folder.names) == list(archive.names) and (folder.images == archive.images).all()
    before = set(tmp_path.rglob("*"))
    again = custom.load(str(tmp_path / kind), Request(), **options)
    assert (again.images == archive.images).all() and set(tmp_path.rglob("*")) == before  # nothing is unpacked


def test_an_archive_in_any_order_gives_each_file_its_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(custom, "BATCH", 4)
    order = [0, 2, 1, 3, 7, 4, 5, 6]  # the first four are a batch from 0 to 3, but not side by side
    contents = {
        f"{'ab'[number % 2]}/{number}.png": cv2.imencode(".png", np.full((20, 20), number, np.uint8))[1].tobytes()
        for number in order
    }
    data = load(write_archive(tmp_path / "d.zip", contents))
    assert {Path(name).stem: image.max() for name, image in zip(data.names, data.images, strict=True)} == {
        str(number): number for number in order
    }


@pytest.mark.parametrize("limit, sizes", [(1 << 25, [4, 4, 2]), (0, [1] * 10)])
def test_few_files_of_an_archive_are_in_memory_together_if_they_are_large(tmp_path, monkeypatch, limit, sizes):
    monkeypatch.setattr(custom, "BATCH", 4)
    monkeypatch.setattr(custom, "BATCH_BYTES", limit)
    batches, found_by = [], custom._batches
    monkeypatch.setattr(custom, "_batches", lambda *given: batches.extend(found_by(*given)) or batches)
    load(write_archive(tmp_path / "d.tar", {f"{label}/{number}.png": PICTURE for label in "ab" for number in range(5)}))
    assert [len(batch) for batch in batches] == sizes and sorted(sum(batches, [])) == [*range(10)]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_header_that_is_a_bomb_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MAX_HEADER", 10_000)
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz", format=kind) as archive:
        archive.addfile(tarfile.TarInfo(f"a/{'x' * 20_000}"))
    with pytest.raises(UserError, match="has a header of 0.0 MB, as decompression bombs have"):
        load(tmp_path / "d.tar.gz")


def test_a_changed_archive_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for level in (0, 255):  # in files of the same size
        content = cv2.imencode(".bmp", np.full((20, 20), level, np.uint8))[1].tobytes()
        path = write_archive(tmp_path / "d.zip", {"a/1.bmp": content, "b/1.png": PICTURE})
        assert custom.load(str(path), Request()).images[0].max() == level


def encrypt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")  # the directory's entry of the first member
    content[start + 8] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind, contents, damage, message", [
    ("d.zip", {"../a/1.png": PICTURE}, None, "has a member outside of its folder, ../a/1.png; unpack it with care"),
    ("d.tar", {"/etc/a/1.png": PICTURE}, None, "has a member outside of its folder, /etc/a/1.png"),
    ("d.zip", {"C:\\a\\1.png": PICTURE}, None, "has a member outside of its folder, C:/a/1.png"),
    ("d.zip", {"a/1.png": PICTURE, "b/1.png": PICTURE}, encrypt, "is encrypted; unpack it"),
    ("d.zip", {"a/1.png": PICTURE}, lambda path: path.write_bytes(path.read_bytes()[:60]), "is a zip archive that is"),
    ("d.tar.gz", {"a/1.png": os.urandom(5000), "b/1.png": PICTURE},
     lambda path: path.write_bytes(path.read_bytes()[:2000]), "is damaged or cut short"),
    ("d.rar", {}, lambda path: path.write_bytes(b"Rar!\x1a\x07\x00"), "is a RAR archive; unpack it; a folder, "),
    ("d.zip", {"1.png": PICTURE}, None, "holds no folders, but 1 files"),
])  # fmt: skip
def test_an_archive_that_cannot_be_read_is_refused(tmp_path, kind, contents, damage, message):
    path = tmp_path / kind if kind == "d.rar" else write_archive(tmp_path / kind, contents)
    if damage:
        damage(path)
    with pytest.raises(UserError, match=f"^--dataset {path}: ") as error:
        load(path)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["d.zip", "d.tar.gz"])
@pytest.mark.parametrize("limit", ["MAX_RATIO", "MAX_MEMBERS"])
def test_a_decompression_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch, kind, limit):
    monkeypatch.setattr(archives, "SMALL", 1000)
    contents = {f"{name}/{number}.png": bytes(300_000) for name in "ab" for number in range(5)}
    path = tmp_path / kind
    if kind == "d.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        write_archive(path, contents)
    if limit == "MAX_MEMBERS":
        monkeypatch.setattr(archives, "MAX_RATIO", 1e6)
        monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    else:
        monkeypatch.setattr(archives.Member, "read", lambda _: pytest.fail("read"))
    with pytest.raises(UserError, match=r"takes .* and claims to hold \d+ members or more, of [\d.]+ MB or more"):
        load(path)


def test_what_is_no_picture_in_an_archive_is_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(archives, "MAX_SIZE", 5000)
    contents = {"a/1.png": PICTURE, "b/1.png": PICTURE, "b/2.png": bytes(6000), "a/x": b"x"}
    path = write_archive(tmp_path / "d.tar", contents)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("a/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert list(load(path).indices["train"]) == [0, 1]
    assert "a/link.png: can't be read from the archive (it is a link or a device)" in caplog.text
    assert "b/2.png: has 0.0 MB, and at most 0.0 MB of a file are read" in caplog.text
    assert "a/x: is not a PNG" in caplog.text


def test_a_damaged_member_of_an_archive_is_left_out(tmp_path, caplog):
    path = write_archive(tmp_path / "d.zip", {"a/1.png": PICTURE, "a/2.png": PICTURE, "b/1.png": PICTURE})
    content = bytearray(path.read_bytes())
    content[content.index(PICTURE) + 30] ^= 1
    path.write_bytes(content)
    assert len(load(path).indices["train"]) == 2
    assert "a/1.png: can't be read from the archive (Bad CRC-32" in caplog.text
