"""build_run: each hyper-parameter reaches the part that it is for."""

from dataclasses import replace

import pytest
import torch
from one_run import make_run, run_of, train_epochs, train_steps, weights_of

from neural_lib.config import OPTIMIZERS, TrainConfig
from neural_lib.data.catalog import DATASETS
from neural_lib.data.images import Data
from neural_lib.system import devices
from neural_lib.training.run import build_run, resolve


def batch_of(run, epoch: int = 1) -> torch.Tensor:
    """The first batch of an epoch, as the network gets it."""
    run.train_loader.sampler.set_epoch(epoch)
    return next(iter(run.train_loader))[0]


@pytest.mark.parametrize("values", [
    {"rotation": 20.0}, {"scale": 0.2}, {"shear": 0.2}, {"shift": 2.0}, {"elastic": 1.0}, {"thickness": 0.5},
    {"gamma": 0.5}, {"flip": True}, {"zoom": 0.5}, {"color": 0.5},
])  # fmt: skip
def test_training_images_are_distorted_and_validation_images_are_not(images, values):
    plain, distorted = make_run(images, shuffle=False), make_run(images, shuffle=False, **values)
    assert not torch.equal(batch_of(plain), batch_of(distorted))
    assert not torch.equal(batch_of(distorted), batch_of(distorted, epoch=2))
    for (seen, _), (expected, _) in zip(distorted.val_loader, plain.val_loader, strict=True):
        assert torch.equal(seen, expected)


def test_images_are_shuffled_anew_in_each_epoch_unless_shuffle_is_off(images):
    ordered, shuffled = make_run(images, shuffle=False), make_run(images)
    assert torch.equal(batch_of(ordered), batch_of(ordered, epoch=2))
    assert not torch.equal(batch_of(shuffled), batch_of(shuffled, epoch=2))
    labels = torch.cat([labels for _, labels in ordered.train_loader])
    assert torch.equal(labels, ordered.train_loader.dataset.labels)


def test_dropout_reaches_the_network(images):
    for share in (0.0, 0.4):
        run = make_run(images, dropout=share)
        assert [each.p for each in run.model.modules() if isinstance(each, torch.nn.Dropout)] == [share]


def test_the_schedule_moves_the_learning_rate_while_training(images):
    run = make_run(images, schedule="one-cycle", epochs=2)
    before = run.optimizer.param_groups[0]["lr"]
    train_steps(run, 3)
    assert run.optimizer.param_groups[0]["lr"] != before


def test_balanced_weights_count_the_images_that_are_trained_on(images):
    # the validation part, given apart, has other counts; no image of the last class is trained on
    few = torch.cat([torch.arange(len(images))[images.labels == label][: 2 + 3 * label] for label in range(9)])
    train, val = images.subset(few), images.subset(torch.arange(100))
    data = Data("kmnist", DATASETS["kmnist"], train, val, val=val)
    run = build_run(TrainConfig(class_weights="balanced", batch_size=16), data, images.device)
    log_probs, label = torch.full((1, 10), 0.1).log(), torch.tensor([1])
    expected = -log_probs[0, 0] * len(few) / (10 * 5)  # images / (classes * images of class 1)
    assert torch.isclose(run.loss_fn(log_probs, label), expected)


def test_the_seed_decides_the_initial_weights_the_split_and_the_order(images):
    first, again, other = (make_run(images, seed=seed) for seed in (1, 1, 2))
    assert weights_of(first) == weights_of(again) and weights_of(first) != weights_of(other)
    assert torch.equal(batch_of(first), batch_of(again)) and not torch.equal(batch_of(first), batch_of(other))


def test_the_checkpoint_describes_the_network(images):
    run = train_epochs(make_run(images, arch="vgg-small", width=4, epochs=1), 1)
    saved = run.best_checkpoint()
    assert saved.arch_args == {"numChannels": 1, "classes": 10, "image_size": 28, "width": 4}
    counts = {"val_images": 75, "test_images": 300}
    assert saved.training == {"device": devices.describe(images.device), "processes": 1, **counts}
    assert saved.config == run.config.to_dict() and saved.metrics["epoch"] == 1


def test_an_optimizer_is_added_in_one_place(images, monkeypatch):
    """As neural_lib/README.md says; RMSprop has no fused kind."""
    monkeypatch.setitem(OPTIMIZERS, "rmsprop", ("torch.optim.RMSprop", {"alpha": 0.9}))
    whole, begun, resumed = (make_run(images, optimizer="rmsprop") for _ in range(3))
    assert isinstance(whole.optimizer, torch.optim.RMSprop) and whole.optimizer.param_groups[0]["alpha"] == 0.9
    train_epochs(whole, 2)
    train_epochs(begun, 1)
    resumed.state.load_state_dict(begun.state.state_dict())
    assert weights_of(train_epochs(resumed, 1)) == weights_of(whole)
    assert whole.state.rows[1]["train_loss"] < whole.state.rows[0]["train_loss"]


def test_a_loss_is_changed_in_one_place(images, monkeypatch):
    class Focal(torch.nn.Module):
        def forward(self, log_probs, labels):
            chosen = log_probs.gather(1, labels[:, None])[:, 0]
            return -((1 - chosen.exp()) ** 2 * chosen).sum()

    monkeypatch.setattr("neural_lib.training.run.build_loss", lambda config, counts: Focal())
    run = train_epochs(run_of(TrainConfig(batch_size=32, epochs=2), images), 2)
    assert isinstance(run.loss_fn, Focal) and run.state.rows[1]["train_loss"] < run.state.rows[0]["train_loss"]


# --- resolve ---


def test_precision_is_resolved_for_each_run_and_logged_once(images, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: False)
    data = Data("kmnist", DATASETS["kmnist"], images, images)
    configs = [TrainConfig(precision=precision) for precision in ("auto", "bf16", "auto")]
    resolved = resolve(configs, data, torch.device("cpu"))
    assert resolved == [replace(TrainConfig(), precision=each) for each in ("fp32", "bf16", "fp32")]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    assert "precision: fp32 (the cpu is not known to compute bf16 natively)" in caplog.text
    assert "--precision bf16: the cpu is not known to compute bf16 natively; fp32 may be faster" in caplog.text
