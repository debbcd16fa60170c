"""The printed boxes of a page, for a character each: found among the rectangles that its lines enclose, and completed.

Masks have a 1 in the pixels of ink or lines. Sizes and places are in pixels.
"""

import cv2
import numpy as np

# In sides of a box or shares.
MOST_BOXES = 2000  # more are too small for characters
FEW_BOXES = 3  # fewer of one size are no boxes for a character each
LONGEST_BOX = 2.0  # longer side of a box divided by its shorter one
SAME_SIZE = 0.12  # difference in width and in height, and in place along a row or a column
DRAWN_FROM = 0.5  # share of a side that is seen


def find_boxes(
    cells: list[tuple[int, int, int, int]], mask: np.ndarray, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """The cells that are boxes for a character each, completed: (N, 4), N is 0 or at least FEW_BOXES.

    cells: left, top, width, height of the rectangles that lines enclose. mask: of ink. across, down: masks of level and
    of upright pieces of lines. A box beside others that is no cell, because ink covers or divides it, is added.
    """
    nothing, every = np.zeros((0, 4), int), np.array(cells, int).reshape(-1, 4)
    shaped = every[every[:, 2:].max(1) <= LONGEST_BOX * every[:, 2:].min(1)]
    if len(shaped) < FEW_BOXES:
        return nothing
    sizes, counts = np.unique(shaped[:, 2:], axis=0, return_counts=True)
    alike = (np.abs(sizes[:, None] - sizes) <= SAME_SIZE * sizes[:, None] + 3).all(2) @ counts
    size = sizes[np.lexsort((sizes.prod(1), alike))[-1]]  # the most frequent one, of several the largest
    twice = (np.abs(shaped[:, 2:] - 2 * size) <= 2 * SAME_SIZE * size + 3).all(1)
    if np.count_nonzero(twice) >= FEW_BOXES:  # dashed guides divide boxes into quarters
        size = np.median(shaped[twice, 2:], axis=0)
    boxes = shaped[(np.abs(shaped[:, 2:] - size) <= SAME_SIZE * size + 3).all(1)]
    if len(boxes) > MOST_BOXES or _is_squared(boxes, across, down):
        return nothing
    away = boxes[:, None, :2] - boxes[:, :2]  # (N, N, 2), in x and in y, from the second to the first
    is_beside = np.abs(away[..., ::-1]) <= SAME_SIZE * size[::-1] + 3  # [..., 0]: in a row, [..., 1]: in a column
    is_beside &= np.abs(away) > 0.5 * size
    boxes = boxes[is_beside.any((1, 2))]
    if len(boxes) < FEW_BOXES:
        return nothing
    others = every[every[:, 2:].prod(1) > 1.2 * size.prod()]
    others = [each for each in others if not _are_in(boxes, each).any()]  # such as cells as wide as two
    return _completed(boxes, others, mask, across, down)


def step_of(boxes: np.ndarray, axis: int) -> np.ndarray | None:
    """The step from a box (N, 4) to the next one in its row (axis 0) or column (axis 1), in x and y.

    None if no two boxes are in one.
    """
    size = np.median(boxes[:, 2:], axis=0)
    away = boxes[:, None, :2] - boxes[:, :2]  # (N, N, 2), in x and in y, from the second to the first
    is_next = (np.abs(away[..., 1 - axis]) <= SAME_SIZE * size[1 - axis] + 3) & (away[..., axis] > 0.5 * size[axis])
    length = np.where(is_next, away[..., axis], np.inf).min(0)  # to the nearest
    if not np.isfinite(length).any():
        return None
    usual = np.quantile(length[np.isfinite(length)], 0.3, method="inverted_cdf")
    return np.median(away[is_next & (np.abs(away[..., axis] - usual) <= SAME_SIZE * size[axis])], axis=0)


def _completed(
    boxes: np.ndarray, others: list[np.ndarray], mask: np.ndarray, across: np.ndarray, down: np.ndarray
) -> np.ndarray:
    # The boxes (N, 4) and those of their grid that were not found: three sides are drawn, or two are, beside boxes, and
    # there is ink, or there is a box on all sides. In larger cells, `others`, all sides must be drawn: a cell may be as
    # wide as two.
    size = np.median(boxes[:, 2:], axis=0)
    right, below = step_of(boxes, 0), step_of(boxes, 1)
    steps = [sign * step for step in (right, below) if step is not None for sign in (1, -1)]
    gaps = [step[axis] - size[axis] for axis, step in enumerate((right, below)) if step is not None]
    near = min(reach_of(*size), max(4, round(min(gaps) / 2)))  # not to take the next box's side for this one's
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    is_growing = True
    while is_growing:
        is_growing = False
        for middle in np.concatenate([middles + step for step in steps]):
            if (np.abs(middles - middle) < 0.5 * size).all(1).any():
                continue
            box = np.append(middle - size / 2, size)
            beside = sum((np.abs(middles - middle - step) < 0.25 * size).all(1).any() for step in steps)
            drawn = _count_drawn(box, across, down, near)
            if any(_are_in(box[None], each)[0] for each in others):
                is_missed = drawn == 4
            else:
                is_missed = drawn >= 3 or beside == 4 or min(drawn, beside) >= 2 and _has_ink(box, mask)
            if is_missed:
                middles, is_growing = np.vstack([middles, middle]), True
    added = middles[len(boxes) :]
    added = np.column_stack([added - size / 2, np.broadcast_to(size, added.shape)])
    return np.concatenate([boxes, added.round().astype(int)])


def _has_ink(box: np.ndarray, mask: np.ndarray) -> bool:
    left, top, right, bottom = np.append(box[:2] + 0.2 * box[2:], box[:2] + 0.8 * box[2:]).round().astype(int).clip(0)
    part = mask[top:bottom, left:right]
    return part.size > 0 and part.mean() >= 0.03


def _are_in(boxes: np.ndarray, around: np.ndarray) -> np.ndarray:
    # True for each of the boxes (N, 4) whose middle is in another one.
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    return ((middles >= around[:2]) & (middles <= around[:2] + around[2:])).all(1)


def _count_drawn(box: np.ndarray, across: np.ndarray, down: np.ndarray, near: int) -> int:
    # The number of a box's sides of which at least DRAWN_FROM is drawn, at most `near` pixels from their places.
    left, top, wide, high = box.round().astype(int).tolist()
    count = 0
    for pieces, at, start, length in (
        (across, top, left, wide), (across, top + high, left, wide),
        (down.T, left, top, high), (down.T, left + wide, top, high),
    ):  # fmt: skip
        part = pieces[max(0, at - near) : max(0, at + near), max(0, start) : max(0, start + length)]
        count += part.size > 0 and part.any(0).sum() >= DRAWN_FROM * length
    return int(count)


def _is_squared(boxes: np.ndarray, across: np.ndarray, down: np.ndarray) -> bool:
    # True if lines lead on from the outermost boxes on two sides or more, as on squared paper.
    left, top, wide, high = boxes.T
    count = 0
    for pieces, first, length, start, breadth in ((down, top, high, left, wide), (across.T, left, wide, top, high)):
        reach = round(float(np.median(length)) / 2)
        lines = np.concatenate([start, start + breadth])
        before, after = int(first.min()), int((first + length).max())
        for rows in (
            slice(max(0, before - reach), max(0, before - reach // 4)),
            slice(after + reach // 4, after + reach),
        ):
            strip = pieces[rows]
            if len(strip) >= reach // 4:
                leads_on = cv2.dilate((strip.mean(0) > 0.5).astype(np.uint8)[None], np.ones((1, 13), np.uint8))[0]
                count += leads_on[lines.clip(0, len(leads_on) - 1)].mean() > 0.5
    return count >= 2


def reach_of(width: float, height: float) -> int:
    """How far from its place a side of a box of this size may be drawn."""
    return 3 + round(SAME_SIZE / 2 * min(width, height))
