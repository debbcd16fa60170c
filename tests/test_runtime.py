"""Processes that train together: real ones, each with an interpreter of its own, over Gloo."""

import pytest
import ranks
import torch

from neural_lib import interrupts, launch
from neural_lib.errors import DivergedError, ProcessLostError
from neural_lib.processes import ALONE
from neural_lib.runtime import Group, together


@pytest.fixture(scope="module")
def alone() -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    outcome = {each.__name__: each(ALONE) for each in (ranks.train, ranks.evaluate, ranks.normalise)}
    torch.set_num_threads(threads)
    return outcome


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def several(request) -> list[dict]:
    """What came out in each of two processes, and in each of three."""
    return ranks.run("everything", request.param)


def test_several_processes_learn_what_one_learns(alone, several):
    for name, expected in alone["train"].items():
        for outcome in several:
            got = outcome["train"][name]
            for measure, values in expected["history"].items():
                assert got["history"][measure] == pytest.approx(values, abs=1e-4), (name, measure)
            for gradient, whole in zip(got["gradients"], expected["gradients"], strict=True):
                torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-6)


def test_no_image_is_left_out_and_none_counts_twice(alone, several):
    for name, values in ranks.RUNS.items():
        train_size = round(300 * values.get("train_split", 0.75))
        for outcome in [alone, *several]:
            assert outcome["train"][name]["counts"] == [(train_size, 300 - train_size)] * 2


def test_all_processes_have_the_same_weights_to_the_bit(several):
    for name in ranks.RUNS:
        first, *others = (outcome["train"][name]["weights"] for outcome in several)
        assert all(other == first for other in others)


def test_every_process_gets_the_scores_of_all_images_in_their_order(alone, several):
    expected = alone["evaluate"]
    for outcome in several:
        got = outcome["evaluate"]
        assert torch.equal(got.labels, expected.labels) and torch.equal(got.predictions, expected.predictions)
        assert (got.accuracy, got.f1) == (expected.accuracy, expected.f1)
        assert got.loss == pytest.approx(expected.loss, rel=1e-6)
        torch.testing.assert_close(got.probabilities, expected.probabilities)


def test_batch_normalisation_is_over_the_whole_batch_also_where_a_part_is_empty(alone, several):
    for turn, (outputs, gradients, buffers) in enumerate(alone["normalise"]):
        for rank, outcome in enumerate(several):
            own, own_gradients, own_buffers = outcome["normalise"][turn]
            torch.testing.assert_close(own, outputs[rank :: len(several)], rtol=1e-4, atol=1e-5)
            for gradient, whole in zip(own_gradients, gradients, strict=True):
                assert (gradient - whole).norm() < 1e-4 * whole.norm() + 1e-4
            torch.testing.assert_close(own_buffers, buffers)


def test_a_signal_to_one_stops_all_between_the_same_two_steps(several):
    assert [outcome["stop"] for outcome in several] == [(1, 20, 15)] * len(several)


def test_process_0_decides_when_training_ends(several):
    assert [outcome["end_early"] for outcome in several] == [1] * len(several)


def test_dropout_differs_between_processes_and_the_shuffle_does_not(several):
    dropout, shuffle = zip(*(outcome["diverge"] for outcome in several), strict=True)
    assert len(set(dropout)) == len(several) and len(set(shuffle)) == 1


# --- without others ---


def test_a_process_alone_has_the_whole_of_everything():
    batch = torch.arange(5)
    assert ALONE.part(batch) is batch and ALONE.whole(batch) == 5 and ALONE.joined(batch) is batch
    sums = torch.ones(2)
    with ALONE.summed(sums):
        pass
    assert sums.tolist() == [1, 1] and ALONE.of_first(True) is True
    with together(launch.Place(), torch.device("cpu")) as processes:
        assert processes is ALONE


def test_an_error_of_the_connection_is_a_lost_process_and_no_other_is(monkeypatch):
    monkeypatch.setattr(interrupts, "heed_none", lambda: None)  # for this process goes on
    group = object.__new__(Group)
    group.dist, group.count = torch.distributed, 3
    with pytest.raises(RuntimeError, match="shapes"), group.connected():
        raise RuntimeError("shapes don't fit")
    for told, because in (
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer", "has ended"),
        ("gloo: Timed out waiting 600000ms for send operation to complete", "does not answer any more"),
    ):
        with pytest.raises(ProcessLostError, match=f"one of the 3 processes {because}"), group.connected():
            raise RuntimeError(told)
    assert group.lost
    assert group.parted_by(ProcessLostError()) and group.parted_by(MemoryError())
    assert not group.parted_by(DivergedError())
    assert not ALONE.parted_by(MemoryError())
