"""Real processes that train together over Gloo, each with an interpreter of its own; ranks.py has their work."""

import math
import pickle
import time
from datetime import timedelta
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed as dist
from conftest import leave_out_figures

from neural_lib.system import distributed
from neural_lib.system.environment import Ranks
from neural_lib.system.errors import RunError, UserError

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """The results of one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    outcome = {each.__name__: each() for each in (ranks.train, ranks.evaluate, ranks.normalise, ranks.fit)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_figures(monkeypatch)
        outcome["command"] = ranks.command(tmp_path_factory.mktemp("alone"))
    torch.set_num_threads(threads)
    return outcome


@pytest.fixture(scope="module", params=[pytest.param(count, marks=pytest.mark.slow) for count in (2, 3)])
def several(request, make_once) -> list[dict]:
    """The results of each of two processes, and of each of three."""
    count = request.param

    def make(folder: Path) -> None:
        (folder / "results").write_bytes(pickle.dumps(ranks.run(count)))

    return pickle.loads((make_once(f"ranks-{count}", make) / "results").read_bytes())


def test_several_processes_learn_what_one_learns(alone, several):
    for name, expected in alone["train"].items():
        for outcome in several:
            got = outcome["train"][name]
            for row, other in zip(got["rows"], expected["rows"], strict=True):
                assert {each: row[each] for each in FIGURES} == pytest.approx(
                    {each: other[each] for each in FIGURES}, abs=1e-4
                ), name
            for gradient, whole in zip(got["gradients"], expected["gradients"], strict=True):
                torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-6)


def test_no_image_is_left_out_or_counted_twice(alone, several):
    for name, values in ranks.RUNS.items():
        train_size = math.floor(300 * values.get("train_split", 0.75))
        for outcome in [alone, *several]:
            assert outcome["train"][name]["counts"] == [(train_size, 300 - train_size)] * 2


def test_all_ranks_have_the_same_weights_to_the_bit(several):
    for name in ranks.RUNS:
        first, *others = (outcome["train"][name]["weights"] for outcome in several)
        assert all(other == first for other in others)


def test_every_rank_gets_the_scores_of_all_images_in_their_order(alone, several):
    expected = alone["evaluate"]
    for outcome in several:
        got = outcome["evaluate"]
        assert torch.equal(got.labels, expected.labels) and torch.equal(got.predictions, expected.predictions)
        assert (got.accuracy, got.f1) == (expected.accuracy, expected.f1)
        assert got.loss == pytest.approx(expected.loss, rel=1e-6)
        torch.testing.assert_close(got.probabilities, expected.probabilities)


def test_every_rank_scores_with_rank_0s_statistics_and_empty_shards_do_no_harm(alone, several):
    for outcome in several:
        for own, first in zip(outcome["normalise"]["scored"], several[0]["normalise"]["own"], strict=True):
            assert torch.equal(own, first)
        assert outcome["normalise"]["val"] == several[0]["normalise"]["val"]
    for outcome in [alone, *several]:
        assert all(value.isfinite().all() for value in outcome["normalise"]["own"])
    for rank in range(1, len(several)):  # each rank's statistics are of its shards, and near those of all images
        for own, whole in zip(several[rank]["normalise"]["own"], alone["normalise"]["own"], strict=True):
            if own.is_floating_point():
                assert (own - whole).norm() < 0.5 * whole.norm() + 0.5


def test_all_ranks_get_the_layer_that_one_process_fits(alone, several):
    for outcome in several:
        assert torch.equal(outcome["fit"]["weight"], several[0]["fit"]["weight"])
        torch.testing.assert_close(outcome["fit"]["weight"], alone["fit"]["weight"], rtol=1e-3, atol=1e-4)
        assert outcome["fit"]["scores"] == pytest.approx(alone["fit"]["scores"], rel=1e-4)


def test_a_signal_to_one_stops_all_between_the_same_two_steps(several):
    assert [outcome["stop"] for outcome in several] == [(1, 16, 15)] * len(several)


def test_dropout_differs_between_ranks_and_is_resumed_bit_for_bit(several):
    assert len({outcome["dropout"]["dropped"] for outcome in several}) == len(several)
    if len(several) == 2:  # of three, DDP adds the gradients up in another order after the first step
        for outcome in several:
            assert outcome["dropout"]["resumed"] == outcome["dropout"]["whole"]


def test_a_command_of_several_ranks_is_the_command_of_one(alone, several):
    (first, *others), expected = [outcome["command"] for outcome in several], alone["command"]
    for row, other in zip(first["rows"], expected["rows"], strict=True):
        assert (row["run"], row["epoch"]) == (other["run"], other["epoch"])
        for name in FIGURES:
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-4), name
    assert first["confusions"] == expected["confusions"]
    assert [outcome["command"]["status"] for outcome in [alone, *several]] == [0] * (1 + len(several))
    assert all(other["stdout"] == other["stderr"] == "" and other["files"] == [] for other in others)  # rank 0 alone
    assert "[INFO] batches of 48 images: " in first["stdout"] and "evaluating the network" in first["stdout"]


# --- one process ---


def test_with_one_process_every_function_is_the_identity():
    batch, model = torch.arange(5), torch.nn.Linear(1, 1)
    assert torch.equal(distributed.shard(batch), batch) and torch.equal(distributed.gather_rows(batch), batch)
    assert distributed.is_main() and distributed.world_size() == 1 and not distributed.is_padding(1)
    assert distributed.replicate(model) is model and distributed.broadcast("x") == "x" and distributed.any_rank(3) == 3
    sums = torch.ones(2)
    with distributed.process_group(Ranks(), torch.device("cpu")), distributed.all_reduce_during(sums):
        pass
    assert torch.equal(distributed.all_reduce(sums), torch.ones(2))


def test_the_size_of_each_shard_is_logged(monkeypatch, caplog):
    caplog.set_level("INFO")
    for count, batch_size in ((1, 64), (2, 64), (3, 64), (2, 1), (3, 2)):
        monkeypatch.setattr(distributed, "world_size", lambda count=count: count)
        distributed.log_shard_sizes(batch_size)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "batches of 64 images: 32 in each of 2 processes"),
        ("INFO", "batches of 64 images: 21 or 22 in each of 3 processes"),
        ("WARNING", "batches of 1 image: 0 or 1 in each of 2 processes"),
        ("WARNING", "batches of 2 images: 0 or 1 in each of 3 processes"),
    ]


def test_an_environment_without_an_address_is_refused(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(UserError, match="no address of rank 0: MASTER_ADDR None"),
        distributed.process_group(Ranks(0, 2, 0, 2), torch.device("cpu")),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_do_not_come_are_waited_for_only_until_the_limit(monkeypatch, rank):
    """Rank 0 waits for the others, and rank 1 for rank 0's store."""
    monkeypatch.setattr(distributed, "JOIN_LIMIT", timedelta(seconds=0.5))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(ranks.free_port()))
    for name, value in (("RANK", rank), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    start = time.monotonic()
    with (
        pytest.raises(
            RunError, match=rf"^rank {rank} of 2 could not connect to the other ranks at 127\.0\.0\.1:\d+ in \d+ s \("
        ),
        distributed.process_group(Ranks(rank, 2, rank, 2), torch.device("cpu")),
    ):
        pass
    assert time.monotonic() - start < 5


def test_restarted_ranks_do_not_read_the_keys_of_the_ended_ones(monkeypatch):
    """torchrun --max-restarts keeps its store, and with it the addresses of processes that have ended."""
    kept, has_old_key = dist.HashStore(), []

    def init_process_group(_, store, **__):
        has_old_key.append(store.check(["address"]))
        store.set("address", "127.0.0.1")
        raise RuntimeError("no connection")

    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(kept, 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", init_process_group)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    for attempt in ("0", "0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        with pytest.raises(RunError), distributed.process_group(Ranks(0, 2, 0, 2), torch.device("cpu")):
            pass
    assert has_old_key == [False, True, False]
