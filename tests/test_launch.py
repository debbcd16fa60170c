import pytest

from neural_lib import launch
from neural_lib.errors import UserError
from neural_lib.launch import Place

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def environment(monkeypatch):
    def change(**values: object) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return change


def test_without_a_launcher_a_process_is_alone(environment):
    for values in ({}, {"WORLD_SIZE": 1}, {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}):
        environment(**values)
        assert launch.place() == Place(0, 1, 0, 1)


def test_torchrun_tells_a_process_its_place(environment):
    environment(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4)
    assert launch.place() == Place(rank=5, count=8, local_rank=1, local_count=4)


def test_a_launcher_that_knows_no_machines_has_one(environment):
    environment(RANK=1, WORLD_SIZE=2)
    assert launch.place() == Place(1, 2, 1, 2)


@pytest.mark.parametrize("values, told", [
    ({"WORLD_SIZE": 4}, "RANK is not set, WORLD_SIZE 4"),
    ({"WORLD_SIZE": 4, "RANK": 4}, "RANK 4, WORLD_SIZE 4"),
    ({"WORLD_SIZE": "many", "RANK": 0}, "RANK 0, WORLD_SIZE many"),
    ({"WORLD_SIZE": 2, "RANK": -1}, "RANK -1, WORLD_SIZE 2"),
    ({"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 2}, "LOCAL_RANK 2, LOCAL_WORLD_SIZE 2"),
])  # fmt: skip
def test_an_environment_that_is_no_launchers_is_refused(environment, values, told):
    environment(**values)
    with pytest.raises(UserError, match=f"no place among several processes: .*{told}.*; start them with torchrun"):
        launch.place()


def test_how_a_batch_is_dealt_out_is_told():
    assert launch.share_in_words(64, 2) == "batches of 64 images: 32 in each of 2 processes"
    assert launch.share_in_words(64, 3) == "batches of 64 images: 21 or 22 in each of 3 processes"
    assert launch.share_in_words(1, 2) == "batches of 1 image: 0 or 1 in each of 2 processes"
    assert launch.share_in_words(2, 3) == "batches of 2 images: 0 or 1 in each of 3 processes"
