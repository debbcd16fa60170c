"""Groups of images, such as all that one person wrote: told from the files' paths, and kept together in one part."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from neural_lib.data.catalog import dataset_error
from neural_lib.system.errors import printable

SHEET = r"([^/]+)-\d+(?:\.[^/.-]*)?\Z"  # "anna-2" in "a/anna-2-017.png", the 17th character of that sheet
# Random choices of groups that are improved: DRAWS, of which the best is used, or fewer if one comes as near as NEAR to
# the share of each class (root mean square); up to ATTEMPTS until each part has each class.
DRAWS, NEAR, ATTEMPTS = 3, 0.01, 30


def groups_of(
    path: str,
    names: Sequence[str],
    group_by: str,
    column: Mapping[str, str] | None = None,
    is_picture: Callable[[str], bool] = lambda name: True,
) -> list[str]:
    """The group of each image; empty if group_by is "".

    path: the data set's, for messages. names: of the images, as in custom.Collection. group_by: "sheet" for a file's
    name without the number after its last hyphen, or a regular expression that is searched in the names: the group is
    what its first parentheses match, or all of it. column: the groups by name, if a table gives them. is_picture: False
    for a name of which no group is expected.
    Raises UserError, naming an image, if one has no group.
    """
    if not group_by:
        return []
    if column is None:
        matches = [re.search(SHEET if group_by == "sheet" else group_by, name) for name in names]
        groups = [match and match[1 if match.re.groups else 0] or "" for match in matches]
        needed = "names such as anna-017.png" if group_by == "sheet" else "to match a part of each path, or to be sheet"
    else:
        groups, needed = [column[name] for name in names], "a value in each row"
    lacking = [name for name, group in zip(names, groups, strict=True) if not group]
    if example := next(filter(is_picture, lacking), None):
        why = f"{len(lacking):,} of {len(names):,} images have no group, such as {printable(example)}"
        raise dataset_error(path, f"{why}; --group-by {printable(group_by)} needs {needed}")
    return groups


def grouped_split(labels: np.ndarray, groups: Sequence[str], share: float, seed: int, min_count: int = 1) -> np.ndarray:
    """Divide whole groups at random, so that about a share of each class's images belongs to the first of two parts.

    labels: (N,). groups: of each image. min_count: the number of parts into which the first part will be divided.
    Returns whether each image belongs to the first part, bool (N,). All parts have each class, if that is possible and
    a way is found.
    """
    _, group_of = np.unique(groups, return_inverse=True)
    classes, label_of = np.unique(labels, return_inverse=True)
    # The cells (n,) of the table of groups and classes that have images.
    cells, images = np.unique(group_of * len(classes) + label_of, return_counts=True)
    cell_group, cell_label = np.divmod(cells, len(classes))
    generator, fewest = torch.Generator().manual_seed(seed), (np.inf, np.inf)
    is_hopeless = np.bincount(cell_label).min() <= min_count
    for attempt in range(1 if is_hopeless else ATTEMPTS):
        order = torch.randperm(group_of.max() + 1, generator=generator).numpy()  # position of each group
        found = _choose(order[cell_group], cell_label, images, 1 - share, min_count)
        is_first, lacking, distance = ~found[0][order[group_of]], *found[1:]
        if not lacking and min_count > 1:  # then the first part, too, must leave each class to its parts
            own, inner = labels[is_first], [group for group, is_in in zip(groups, is_first, strict=True) if is_in]
            is_inner = grouped_split(own, inner, 1 - 1 / min_count, seed, min_count - 1)
            lacking = sum(len(classes) - len(np.unique(own[part])) for part in (is_inner, ~is_inner))
        if (lacking, distance) < fewest:
            best, fewest = is_first, (lacking, distance)
        if not fewest[0] and (attempt + 1 >= DRAWS or fewest[1] < NEAR):
            break
    return best


def _choose(
    group: np.ndarray, label: np.ndarray, images: np.ndarray, share: float, min_count: int
) -> tuple[np.ndarray, int, float]:
    # Choose groups whose images are about a share of each class: begin with that share of the groups, the first ones;
    # then, as long as one does, change the side of the group that helps most. A class that lacks groups outweighs the
    # shares: it needs one that is chosen, and min_count that aren't.
    # group, label, images: of each cell (n,), its group and class from 0, and its number of images.
    # Returns whether each group is chosen, (G,), how many groups the classes lack, and the root mean square of the
    # differences from the share.
    part = images / np.bincount(label, images)[label]  # of the images of the class
    total = np.bincount(label)  # groups of each class
    is_chosen = np.arange(group.max() + 1) < share * (group.max() + 1)

    def lacking(chosen: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.maximum(1 - chosen, 0) + np.maximum(min_count - (total - chosen), 0)

    while True:
        is_cell_chosen = is_chosen[group]
        sign = np.where(is_cell_chosen, -1, 1)  # what a change of sides adds
        chosen, still = np.bincount(label, is_cell_chosen), share - np.bincount(label, part * is_cell_chosen)
        now = lacking(chosen, total)
        change = (len(total) + 1) * (lacking(chosen[label] + sign, total[label]) - now[label])
        change = np.bincount(group, change + part * (part - 2 * sign * still[label]))
        if change.min() > -1e-9:
            return is_chosen, int(now.sum()), float(np.sqrt(np.square(still).mean()))
        is_chosen[change.argmin()] ^= True
