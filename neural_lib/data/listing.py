"""The files of a data set of user images: which part and class each belongs to, by folders, names or a table."""

import contextlib
import csv
import difflib
import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from neural_lib.data.archives import Member, Source, content_of, open_archive
from neural_lib.data.catalog import PART_OF, PARTS, check_class_names, dataset_error
from neural_lib.data.groups import groups_of
from neural_lib.data.pictures import FORMATS, is_hidden, kind_of, listed, natural_key
from neural_lib.system.errors import UserError

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")  # seg_train, segTrain and SEG-train have two words each
CLASS_IN_NAME = re.compile(r"(.*[^\W\d_])[\W\d_]*", re.DOTALL)  # "cat" in "cat (3)"; of a name without suffix
LAYOUT = "a data set is a folder with a subfolder of pictures for each class, or train/ and test/ with these in them"
TABLES = (".csv", ".tsv")  # suffixes
LABEL_TITLES = ("label", "labels", "class", "classes", "category", "target")  # they decide between several columns
SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif")  # that names may lack
ONE_HOT = {"0": False, "1": True, "0.0": False, "1.0": True}  # values of columns, each of which stands for a class
FIRST_ROWS = 1000  # of a table
MAX_SINGLE = 20  # pictures, of which each may have a name that no other has
MAX_EXAMPLES = 5  # class names in a message


class File(NamedTuple):
    """A file of a data set."""

    part: str  # one of PARTS
    name: str  # path relative to the folder of the class
    label: int
    path: str  # path relative to the data set's folder
    size: int  # bytes
    changed: tuple[int, int]  # last change of the content, and of permissions or name; nanoseconds since 1970


class Listing(NamedTuple):
    """The files of a data set, ordered by part, then name in the class folder (page2 before page10), then class."""

    classes: list[str]  # names, in the order of the labels
    files: list[File]
    stray: list[str]  # paths of the files that belong to no class
    notes: list[str]  # how the layout was understood, for the log
    hint: str  # what the user may have meant if there is but one class; "" if nothing is known
    source: Callable[[str], Source]  # path of a file -> where it is read from
    groups: Sequence[str] = ()  # of each file; empty if no grouping is asked for


class Tree(NamedTuple):
    """The visible folders and files of a folder or an archive; paths have slashes, and the one at the top is ""."""

    folders: dict[str, list[str]]  # path of a folder -> the names of its folders, in natural order
    files: dict[str, dict[str, tuple]]  # path of a folder -> the names of its files -> size and changed, as in File
    source: Callable[[str], Source]  # path of a file -> where it is read from

    def has_pictures(self, folder: str) -> bool:
        """True if a file in this folder itself is a picture, by its content."""
        return any(self.is_picture(_join(folder, name)) for name in self.files[folder])

    def is_picture(self, path: str) -> bool:
        """True if a file is a picture, by its content."""
        with contextlib.suppress(OSError, UserError):
            return kind_of(content_of(self.source(path))) in FORMATS
        return False

    def holds_mostly_folders(self, folder: str) -> bool:
        """True if a folder holds folders, and most files below it are in these."""
        return bool(self.folders[folder]) and 2 * len(self.files[folder]) < sum(1 for _ in self.below(folder))

    def holds_only_folders(self, folder: str) -> bool:
        """True if a folder holds folders and no picture itself."""
        return bool(self.folders[folder]) and not self.has_pictures(folder)

    def below(self, folder: str) -> Iterator[str]:
        """The paths, relative to a folder, of all files in it and in its folders."""
        yield from self.files[folder]
        for name in self.folders[folder]:
            yield from (_join(name, each) for each in self.below(_join(folder, name)))

    def status(self, path: str) -> tuple:
        """The size and the changes of a file, as in File."""
        folder, _, name = path.rpartition("/")
        return self.files[folder][name]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


@contextlib.contextmanager
def list_files(path: str, from_names: bool = False, group_by: str = "") -> Iterator[Listing]:
    """A context with the files of a data set in a folder, an archive, or a table of file names and labels.

    from_names: True if the files' names tell their classes, False if folders do. group_by: see groups_of; or the title
    of a column of a table. Raises UserError, naming the folder or file, if it can't be read, its layout isn't
    understood, or a picture has no group.
    """
    if os.path.isdir(path):
        yield _arranged(path, _walk(path), from_names, group_by)
    elif path.lower().endswith(TABLES):
        if from_names:
            raise dataset_error(path, "is a table, which gives the labels; leave out --labels-from-names")
        yield _from_table(path, group_by)
    else:
        with open_archive(path) as members:
            yield _arranged(path, _tree_of(members), from_names, group_by)


# --- the folders and files that exist ---


def _walk(path: str) -> Tree:
    # Links to folders are followed. Those that lead back up are listed like files, which are no pictures.
    folders, files = {}, {}

    def visit(folder: str, above: tuple[str, ...]) -> None:
        folders[folder], files[folder] = [], {}
        here = os.path.join(path, folder)
        try:
            with os.scandir(here) as found:
                visible = [entry for entry in found if not is_hidden(entry.name)]
        except OSError as error:
            raise dataset_error(here if folder else path, f"can't be looked into ({error.strerror})") from None
        for entry in sorted(visible, key=lambda each: natural_key(each.name)):
            is_link = entry.is_symlink()
            if os.path.isdir(entry) if is_link else entry.is_dir():
                target = os.path.realpath(entry.path) if is_link else os.path.join(above[-1], entry.name)
                if not any(Path(each).is_relative_to(target) for each in above):
                    folders[folder].append(entry.name)
                    visit(_join(folder, entry.name), (*above, target))
                    continue
            files[folder][entry.name] = _status(entry.path)

    visit("", (os.path.realpath(path),))
    return Tree(folders, files, lambda name: os.path.join(path, name))


def _status(path: str) -> tuple[int, tuple[int, int]]:
    # The size and the changes of a file, as in File; zeros if it can't be read, which read_picture reports later.
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a table may give a name that can be no file's
        return 0, (0, 0)
    return status.st_size, (status.st_mtime_ns, status.st_ctime_ns)


def _tree_of(members: Iterable[Member]) -> Tree:
    folders, files, by_path = {"": []}, {"": {}}, {}
    for member in sorted(members, key=lambda each: [natural_key(name) for name in each.name.split("/")]):
        *parents, name = member.name.split("/")  # the name is "" for a folder
        if any(map(is_hidden, (each for each in (*parents, name) if each))):
            continue
        for depth, folder in enumerate(parents):
            inner = "/".join(parents[: depth + 1])
            if inner not in folders:
                folders["/".join(parents[:depth])].append(folder)
                folders[inner], files[inner] = [], {}
        if name:
            files["/".join(parents)][name] = member.size, member.changed
            by_path[member.name] = member
    return Tree(folders, files, by_path.__getitem__)


# --- by folders ---


class _Labelled(NamedTuple):
    # A folder, or a file, whose part and class are known.
    part: str
    label: str  # the class name
    name: str  # path relative to the folder of the class; "" for that folder
    path: str


def _arranged(path: str, tree: Tree, from_names: bool, group_by: str) -> Listing:
    top = _unwrapped(tree, "")
    parts = _parts(path, tree, top)
    roots = {part: _unwrapped(tree, root, is_part=True) for part, root in parts.items()}
    notes = [f"{root}/ is taken as {part}/" for part, root in roots.items() if root.lower() not in PART_OF]
    if from_names:
        folders = []
        files = [
            _Labelled(part, label, name, _join(root, name))
            for part, root in (roots or {"train": top}).items()
            for name in tree.below(root)
            if (label := _class_in(name)) and tree.is_picture(_join(root, name))
        ]
        count, advice = len({each.label for each in files}), "the class comes first, then a number, as in cat.12.jpg"
        if not files or 2 * count > len(files) > MAX_SINGLE:
            raise dataset_error(path, f"the names of {len(files):,} pictures give {count:,} classes; {advice}")
    else:
        folders, files = _class_folders(path, tree, top, roots), []
        for folder in folders:
            files += [folder._replace(name=name, path=_join(folder.path, name)) for name in tree.below(folder.path)]
        if not files:
            raise dataset_error(path, f"its folders hold no files; {LAYOUT}")
        if not roots and any(each.part != "train" for each in folders):
            notes.append("the folders in each class are parts")
    if top and not roots:
        notes.append(f"the classes are the folders in {top}/")
    hint = ""
    if len({each.label for each in folders or files}) < 2:
        hint = "all names give one class" if from_names else _hint(path, tree, roots or {"train": top})
    used = {each.path for each in files}
    stray = [name for name in tree.below("") if name not in used]
    listing = _listing(path, folders or files, files, tree.status, tree.source, stray, notes, hint)
    groups = groups_of(path, [each.path for each in listing.files], group_by, is_picture=tree.is_picture)
    return listing._replace(groups=groups)


def _listing(
    path: str,
    labelled: Sequence[_Labelled],
    files: Iterable[_Labelled],
    status: Callable[[str], tuple],
    source: Callable[[str], Source],
    stray: list[str],
    notes: list[str],
    hint: str = "",
) -> Listing:
    # labelled: the parts and names of the classes.
    classes = _class_names(path, labelled)
    labels = {name: label for label, name in enumerate(classes)}
    found = [File(part, name, labels[label], file, *status(file)) for part, label, name, file in files]
    found.sort(key=lambda each: (PARTS.index(each.part), natural_key(each.name), each.label))
    return Listing(classes, found, stray, notes, hint, source)


def _unwrapped(tree: Tree, folder: str, is_part: bool = False) -> str:
    # The folder that holds the data: `folder`, or one in it if that is all that it holds. A data set's only part stays
    # in it, but a part may hold its name once more.
    while len(names := tree.folders[folder]) == 1 and tree.holds_only_folders(inner := _join(folder, names[0])):
        if not is_part and _part_of(tree, inner):
            break
        folder = inner
    return folder


def _part_of(tree: Tree, folder: str) -> str:
    # The part that a folder's name tells, or "". Names such as seg_train or Test_data count if the folder holds mostly
    # folders, because test_tube/ may be a class. A folder of several parts is none.
    if len({PART_OF[name.lower()] for name in tree.folders[folder] if name.lower() in PART_OF}) > 1:
        return ""
    name = folder.rpartition("/")[2]
    if name.lower() in PART_OF:
        return PART_OF[name.lower()]
    words = [re.sub(r"(set|data)$", "", word.lower()) for word in WORD.findall(name)]
    parts = {PART_OF[word] for word in words if word in PART_OF}
    return parts.pop() if len(parts) == 1 and tree.holds_mostly_folders(folder) else ""


def _parts(path: str, tree: Tree, top: str) -> dict[str, str]:
    # part -> its folder; empty if the folders are classes.
    parts = {name: part for name in tree.folders[top] if (part := _part_of(tree, _join(top, name)))}
    if parts and len(parts) == len(tree.folders[top]) or "train" in parts.values() and len(parts) > 1:
        if doubled := [name for name, part in parts.items() if list(parts.values()).count(part) > 1]:
            raise dataset_error(path, f"has {' and '.join(doubled)}, which mean the same; merge them")
        return {part: _join(top, name) for name, part in sorted(parts.items(), key=lambda each: PARTS.index(each[1]))}
    if mixed := [name for name in parts if name.lower() in PART_OF and tree.folders[_join(top, name)]]:
        others = [name for name in tree.folders[top] if name not in parts]
        near = [(name, each) for name in others for each in difflib.get_close_matches(name.lower(), PART_OF, 1)]
        advice = "did you mean {1} by {0}?".format(*near[0]) if near else "move it elsewhere"
        what = f"{mixed[0]}/ holds folders as a part does, and lies beside {listed(others)}"
        raise dataset_error(path, f"{what}; {advice}")
    return {}


def _class_folders(path: str, tree: Tree, top: str, roots: Mapping[str, str]) -> list[_Labelled]:
    # The folder of each class in each part. Raises UserError if it can't be told which these are.
    if not roots:
        roots = {"train": top}
        by_class = [_parts_in(tree, _join(top, name)) for name in tree.folders[top]]
        if by_class and all(by_class):
            return [
                _Labelled(part, name, "", folder)
                for name, parts in zip(tree.folders[top], by_class, strict=True)
                for part, folder in parts
            ]
        _check_are_classes(path, tree, top)
    for root in roots.values():
        if not tree.folders[root]:
            count = f", but {len(tree.files[root]):,} files" if tree.files[root] else ""
            where = os.path.join(path, root) if root else path
            raise dataset_error(where, f"holds no folders{count}; {_hint(path, tree, roots) or LAYOUT}")
    return [_Labelled(part, name, "", _join(root, name)) for part, root in roots.items() for name in tree.folders[root]]


def _parts_in(tree: Tree, folder: str) -> list[tuple[str, str]]:
    # The parts in the folder of a class and their folders, as in cat/train/ and cat/test/; none in another layout.
    names = tree.folders[folder] if tree.holds_only_folders(folder) else []
    is_known = all(name.lower() in PART_OF for name in names)
    return [(PART_OF[name.lower()], _join(folder, name)) for name in names] if is_known else []


def _check_are_classes(path: str, tree: Tree, top: str) -> None:
    # Refuse folders that hold, instead of pictures, folders of the same names: either may be the classes.
    names = [name for name in tree.folders[top] if tree.holds_only_folders(_join(top, name))]
    counts = Counter(inner for name in names for inner in tree.folders[_join(top, name)])
    if same := [inner for inner, count in counts.items() if count > 1]:
        what = f"{listed(names)} hold no pictures, but folders of the same names ({listed(same)})"
        advice = "name parts train, val and test, or move the pictures up into the folders of their classes"
        raise dataset_error(path, f"{what}, so it can't be told which are the classes; {advice}")


def _class_names(path: str, labelled: Sequence[_Labelled]) -> list[str]:
    # The class names in natural order: the training part's, or without one those of all parts.
    names = sorted({each.label for each in labelled}, key=natural_key)
    check_class_names(path, names)
    of_part = {part: {each.label for each in labelled if each.part == part} for part in PARTS}
    known = of_part["train"] or set(names)
    for part, labels in of_part.items():
        if unknown := sorted(labels - known, key=natural_key):
            why = f"{part}/ has {listed(unknown)}, and train/ has no class of that name; rename it"
            raise dataset_error(path, why)
    return [name for name in names if name in known]


# --- by the names of files ---


def _class_in(name: str) -> str:
    # The class that a file's name tells: all before the numbers and signs at its end. "" if nothing is left.
    match = CLASS_IN_NAME.fullmatch(PurePosixPath(name).stem)
    return match[1] if match else ""


def _hint(path: str, tree: Tree, roots: Mapping[str, str]) -> str:
    # What the user may have meant with files in folders without classes; "" if nothing is known.
    if tables := [name for name in tree.below("") if name.lower().endswith(TABLES)]:
        unpacked = "" if os.path.isdir(path) else "unpack the archive and "
        return f"if {tables[0]} holds the labels, {unpacked}give that file as --dataset"
    names = [(root, name) for root in roots.values() for name in tree.below(root)]
    counts = Counter(_class_in(name) for root, name in names if tree.is_picture(_join(root, name)))
    if len(counts) < 2 or "" in counts or min(counts.values()) < 2:
        return ""
    examples = listed(sorted(counts, key=natural_key), MAX_EXAMPLES)
    return f"the names look like {len(counts):,} classes, {examples}: give --labels-from-names"


# --- by a table ---


def _from_table(path: str, group_by: str) -> Listing:
    # A table of file names and labels, whose columns are known by their values. It may have titles, parts and groups.
    folder, rows = os.path.dirname(path), _rows_of(path)
    by_name = _files_near(folder)

    @functools.cache
    def file_of(value: str) -> str | None:
        value = value.replace("\\", "/")
        if value and os.path.isfile(os.path.join(folder, value)):
            return value
        name = PurePosixPath(value)
        stem = name.stem if name.suffix.lower() in SUFFIXES else name.name  # "1.jpg" may be 1.png, or "1" 1.jpg
        names = [name.name, *(stem + suffix for suffix in SUFFIXES)] if name.name else []
        return next((file for each in names if (file := by_name.get(each))), None)

    first = rows[:FIRST_ROWS]  # they decide which column names the files
    counts = [len(set(filter(None, map(file_of, column)))) for column in zip(*first, strict=True)]
    names = counts.index(max(counts))  # the number of the column of file names
    if 2 * counts[names] < len(first) - 1:
        why = "no column of it names files beside it or in the folders there, and it is no table of pixels"
        raise dataset_error(path, f"{why}; its last row is {listed(rows[-1])}")
    has_titles = file_of(rows[0][names]) is None
    titles = [title if has_titles and title else f"no. {number}" for number, title in enumerate(rows[0], start=1)]
    rows = rows[has_titles:]
    others = {number: column for number, column in enumerate(zip(*rows, strict=True)) if number != names}
    parts, group = _part_column(path, titles, others), titles.index(group_by) if group_by in titles else None
    may_be_labels = {number: others[number] for number in others if number not in (parts, group)}
    labels = _label_columns(path, titles, may_be_labels, [row[names] for row in rows])
    labelled, stray, column = [], [], {}
    for row in rows:
        name = file_of(row[names]) or row[names]  # read_picture reports a missing file later
        marked = [titles[number] for number in labels if ONE_HOT.get(row[number])]
        label = row[labels[0]] if len(labels) == 1 else marked[0]
        if label:
            part = "train" if parts is None else PART_OF[row[parts].lower()]
            labelled.append(_Labelled(part, label, name, name))
            if group is not None:
                column[name] = row[group]
        else:
            stray.append(name)
    if twice := [name for name, count in Counter(each.path for each in labelled).items() if count > 1]:
        raise dataset_error(path, f"has several rows for {listed(twice)}, and a picture belongs to one class")

    def source(name: str) -> str:
        return os.path.join(folder, name)

    which = listed([titles[number] for number in labels])
    notes = [f"the column {titles[names]} names the files, and {which} their classes"]
    if unused := [titles[number] for number in others if number not in (parts, group, *labels)]:
        notes.append(f"columns that are not used: {listed(unused)}")
    listing = _listing(path, labelled, labelled, lambda name: _status(source(name)), source, stray, notes)
    groups = groups_of(path, [each.path for each in listing.files], group_by, column or None)
    return listing._replace(groups=groups)


def _rows_of(path: str) -> list[list[str]]:
    # The rows of a table, all of one length, separated by commas, semicolons or tabs.
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            rows = [[value.strip() for value in row] for row in reader if any(row)]
    except OSError as error:
        raise dataset_error(path, f"can't be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise dataset_error(path, f"is no table in UTF-8 ({error})") from None
    if len(rows) < 2 or len(rows[0]) < 2:
        raise dataset_error(path, "is no table with a column of file names and a column of labels")
    if odd := [number for number, row in enumerate(rows) if len(row) != len(rows[0])]:
        raise dataset_error(path, f"row {odd[0] + 1} has {len(rows[odd[0]])} columns, and row 1 has {len(rows[0])}")
    return rows


def _files_near(folder: str) -> dict[str, str | None]:
    # The files in a folder, its folders and theirs: name -> path relative to the folder, None if several have the name.
    found: dict[str, str | None] = {}

    def visit(inner: str, depth: int) -> None:
        with contextlib.suppress(OSError), os.scandir(os.path.join(folder, inner)) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if not entry.is_dir():
                    found[entry.name] = None if entry.name in found else _join(inner, entry.name)
                elif depth:
                    visit(_join(inner, entry.name), depth - 1)

    visit("", 2)
    return found


def _part_column(path: str, titles: Sequence[str], columns: Mapping[int, Sequence[str]]) -> int | None:
    # The number of the column that tells each row's part; None if there is none.
    for number, values in columns.items():
        found = {PART_OF.get(value.lower()) for value in values}
        if None not in found:
            return number
        if len(found) > 2:
            odd = next(value for value in values if value.lower() not in PART_OF)
            raise dataset_error(path, f"the column {titles[number]} has parts, and {odd!r}; give train, val or test")
    return None


def _label_columns(
    path: str, titles: Sequence[str], columns: Mapping[int, Sequence[str]], names: Sequence[str]
) -> list[int]:
    # The number of the column of labels, or those of several columns that are one-hot. names: of the files.
    few = [number for number, values in columns.items() if 2 <= len({*values}) <= max(2, len(values) // 2)]
    if not few:
        raise dataset_error(path, "no column of it has a few values again and again, as labels have")
    titled = [number for number in few if titles[number].lower() in LABEL_TITLES]
    if not titled and len(few) > 1 and all({*columns[number]} <= ONE_HOT.keys() for number in few):
        for row, name in enumerate(names):
            marked = [titles[number] for number in few if ONE_HOT[columns[number][row]]]
            if len(marked) != 1:
                what = f"{name} has {listed(marked) or 'none'} of {listed([titles[each] for each in few])}"
                raise dataset_error(path, f"{what}, and a picture belongs to one class; title a column of labels label")
        return few
    combined = len(set(zip(*(columns[number] for number in few), strict=True)))
    if all(len({*columns[number]}) == combined for number in few):  # the same classes as names and as numbers
        few = sorted(few, key=lambda number: all(map(str.isdecimal, columns[number])))[:1]
    elif len(titled) == 1:
        few = titled
    if len(few) > 1:
        which = listed([titles[number] for number in few])
        raise dataset_error(path, f"{which} may all be the labels; title the right column label, or leave one")
    labels = {*columns[few[0]]}
    for label in sorted(labels):
        pieces = [piece for piece in re.split(r"[,;|\s]+", label) if piece]
        if len(pieces) > 1 and {*pieces} <= labels:
            raise dataset_error(path, f"{label!r} are several labels of a picture, and it belongs to one class")
    return few
