"""Recogniser in forked processes, such as those of gunicorn --preload, Celery and multiprocessing.Pool."""

import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from neural_lib import checkpoint
from neural_lib.checkpoint import Checkpoint
from neural_lib.networks import build_network
from neural_lib.prediction.recogniser import Recogniser

LIMIT = 20  # seconds that a child may take

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="children hang with GNU OpenMP, which Linux has"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12 and later
]


@pytest.fixture(autouse=True)
def _several_threads():
    # the suite computes in one thread
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(300_000).exp_()  # large enough for both
    yield
    torch.set_num_threads(before)


def ends_well_in_a_child(act: Callable[[], None]) -> bool:
    """True if `act` returns in a forked child; False if it raises, or does not end."""
    if not (child := os.fork()):
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)  # no clean-up of the tests that the parent is running
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def photo_network() -> Checkpoint:
    """A network for photos that has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = build_network("efficientnet-lite0", numChannels=3, classes=3, image_size=64).state_dict()
    return Checkpoint(
        arch="efficientnet-lite0", arch_args={"numChannels": 3, "classes": 3, "image_size": 64}, state_dict=weights,
        dataset="photos", classes=list("abc"), image_size=64, mean=[0.5] * 3, std=[0.25] * 3, config={}, metrics={},
    )  # fmt: skip


def digits_in_a_row(count: int) -> np.ndarray:
    """A page with the first `count` digits, dark on light."""
    page = np.full((200, 20 + 110 * count, 3), 240, np.uint8)
    for digit in range(count):
        cv2.putText(page, str(digit), (20 + 110 * digit, 150), cv2.FONT_HERSHEY_SIMPLEX, 4, (20, 20, 20), 12)
    return page


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lenet", "efficientnet-lite0"])
def test_forked_children_read_as_their_parent_does(kind, digits_model):
    reader = Recogniser(checkpoint.load(digits_model) if kind == "lenet" else photo_network(), torch.device("cpu"))
    pictures, page = [digits_in_a_row(1)] * 3, digits_in_a_row(3)

    def read() -> list[str]:
        return [each.label for each in (*reader.read(pictures), *reader.read_page(page))]

    def check() -> None:
        assert read() == expected

    def check_in_a_child() -> None:
        assert ends_well_in_a_child(check)

    def check_in_a_thread() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(check).result()

    assert ends_well_in_a_child(read), "after loading"
    expected = read()
    for act in (check, check_in_a_thread):
        assert ends_well_in_a_child(act), "after reading"
    assert ends_well_in_a_child(check_in_a_child), "in a child's child"
