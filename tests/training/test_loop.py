"""The training loop: fixed numbers, continued and reused runs, what may go wrong."""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tune_resnet.config.sections import ModelSpec, TrainSpec
from tune_resnet.data.types import Split
from tune_resnet.training.device import epoch_seed
from tune_resnet.training.evaluation import evaluate
from tune_resnet.training.loop import TrainingRun
from tune_resnet.training.metrics import EpochMetrics, NonFiniteLoss
from tune_resnet.training.model import ResNet9, fresh_network
from tune_resnet.training.schedule import momentum_at

SPEC = TrainSpec(epochs=4, batch_size=50, precision="fp32", seed=7)
WIDTH = ModelSpec(width=2)
TIMINGS = ("seconds", "images_per_second")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums are then added up in one order."""
    torch.set_num_threads(1)


def numbers(metrics: EpochMetrics) -> dict[str, float]:
    return {name: value for name, value in metrics.columns("val").items() if name not in TIMINGS}


def trained(run: TrainingRun, epochs: int) -> list[dict[str, float]]:
    return [numbers(run.run_epoch()) for _ in range(epochs)]


def weights(run: TrainingRun) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.judged.state_dict().items()}


def assert_same_weights(first: TrainingRun, second: TrainingRun) -> None:
    for one, other in ((first.model, second.model), (first.judged, second.judged)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_average_of_the_weights_is_pytorchs_and_is_what_is_judged(split: Split) -> None:
    """Beside a run without one, which takes the same steps."""
    plain, run = (TrainingRun(replace(SPEC, ema_decay=decay), split, model=WIDTH) for decay in (0.0, 0.9))
    theirs = AveragedModel(plain.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    whole = plain._step

    def step(images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        loss = whole(images, labels, step)
        theirs.update_parameters(plain.model)
        return loss

    plain._step = step  # type: ignore[method-assign]
    for _ in range(2):
        with_average, without = run.run_epoch(), plain.run_epoch()
        assert with_average.train_loss == without.train_loss
        assert with_average.loss != without.loss
        theirs.eval()
        loss, accuracy, *_ = evaluate(lambda images: theirs(plain.normalise(images)), plain.held_out).tolist()
        assert with_average.loss == pytest.approx(loss, abs=1e-6)
        assert with_average.accuracy == accuracy
    assert all(
        torch.equal(tensor, run.judged.state_dict()[name])
        for name, tensor in theirs.module.state_dict().items()
        if tensor.is_floating_point()  # its count of batches loses a fraction each time
    )
    assert all(torch.equal(tensor, run.model.state_dict()[name]) for name, tensor in plain.model.state_dict().items())
    run.reset(SPEC)
    assert run.judged is run.model


def test_a_small_training_gives_the_known_losses(split: Split) -> None:
    """Had with torch 2.14.1 on a Zen 4; other instruction sets add in another order and move the later epochs most."""
    run = TrainingRun(replace(SPEC, max_lr=1e-3), split, model=ModelSpec(width=4), flip=False)
    epochs = trained(run, 4)
    assert [row["train_loss"] for row in epochs] == pytest.approx([3.1228, 2.8471, 2.5725, 2.4887], abs=0.015)
    assert [row["val_loss"] for row in epochs] == pytest.approx([2.3043, 2.3069, 2.3167, 2.3368], abs=0.003)
    assert [row["lr"] for row in epochs] == [run.lr_at(step) for step in (3, 7, 11, 15)]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]


def test_only_the_last_epoch_is_judged_where_that_is_enough(split: Split) -> None:
    each = TrainingRun(SPEC, split, model=WIDTH, flip=False)
    last = TrainingRun(SPEC, split, model=WIDTH, flip=False, judge_each=False)
    expected, found = trained(each, 4), trained(last, 4)
    assert found[-1] == expected[-1]
    assert [row["train_loss"] for row in found] == [row["train_loss"] for row in expected]
    assert all(math.isnan(row[name]) for row in found[:-1] for name in ("val_loss", "val_accuracy"))
    assert_same_weights(each, last)


def test_it_learns(split: Split) -> None:
    run = TrainingRun(replace(SPEC, epochs=15, batch_size=20), split, model=ModelSpec(width=8), flip=False)
    last = trained(run, 15)[-1]
    assert last["val_accuracy"] >= 0.7  # chance is 0.1
    assert last["train_loss"] < 0.7


def test_the_last_batch_may_be_smaller_and_every_image_counts_once(split: Split) -> None:
    run = TrainingRun(replace(SPEC, batch_size=70), split, model=WIDTH)
    assert run.steps_per_epoch == 3  # 70 + 70 + 40
    assert math.isfinite(run.run_epoch().train_loss)


@pytest.mark.parametrize(("stop_after", "ema_decay"), [(0, 0.0), (1, 0.0), (3, 0.0), (0, 0.9), (1, 0.9)])
def test_a_continued_run_equals_an_unbroken_one(split: Split, stop_after: int, ema_decay: float) -> None:
    spec = replace(SPEC, ema_decay=ema_decay)
    unbroken = TrainingRun(spec, split, model=WIDTH)
    expected = trained(unbroken, 4)

    broken = TrainingRun(spec, split, model=WIDTH)
    before = trained(broken, stop_after)
    file = io.BytesIO()
    torch.save(broken.state_dict(), file)
    file.seek(0)

    continued = TrainingRun(replace(SPEC, max_lr=0.5, seed=1), split, model=WIDTH)
    continued.run_epoch()
    continued.load_state_dict(torch.load(file, weights_only=True))
    assert continued.epochs_done == stop_after
    assert before + trained(continued, 4 - stop_after) == expected
    assert_same_weights(continued, unbroken)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_reset_run_equals_a_fresh_one(precision: str, split: Split, few: Split) -> None:
    if precision == "fp16":
        split = few
    first = replace(SPEC, precision=precision, batch_size=len(split.train.images) // 3)
    other = replace(first, max_lr=0.003, weight_decay=0.0, grad_clip=1.0, seed=3)
    fresh = TrainingRun(other, split, model=WIDTH)
    reused = TrainingRun(first, split, model=WIDTH)
    reused.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=precision == "fp16")  # as if it had adapted
    trained(reused, 2)
    reused.reset(other)
    assert trained(reused, 4) == trained(fresh, 4)
    assert_same_weights(reused, fresh)


@pytest.mark.parametrize("flip", [True, False])
def test_a_run_reset_to_another_network_equals_a_fresh_one(split: Split, flip: bool) -> None:
    other = replace(SPEC, max_lr=0.003, seed=3)
    fresh = TrainingRun(other, split, model=ModelSpec(width=6), flip=flip)
    reused = TrainingRun(SPEC, split, model=WIDTH, flip=not flip)
    reused.run_epoch()
    reused.reset(other, ModelSpec(width=6), flip=flip)
    assert trained(reused, 4) == trained(fresh, 4)
    assert_same_weights(reused, fresh)


def test_training_leaves_the_callers_random_numbers_alone(split: Split) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    TrainingRun(SPEC, split, model=WIDTH).run_epoch()
    assert torch.equal(torch.rand(3), expected)


def test_seed_changes_everything_random(split: Split) -> None:
    first, second = (TrainingRun(replace(SPEC, seed=seed), split, model=WIDTH) for seed in (0, 1))
    assert not torch.equal(*(run.model.get_parameter("conv1.0.weight") for run in (first, second)))
    assert len({epoch_seed(seed, epoch) for seed in range(30) for epoch in range(30)}) == 900


def test_gradients_are_clipped_by_value_and_decay_is_l2_in_the_gradient(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of ours against Adam on clipped gradients with decay added, written out."""
    decay = 0.1
    spec = replace(SPEC, epochs=1, batch_size=len(split.train), grad_clip=1e-3, weight_decay=decay)
    run = TrainingRun(spec, split, model=WIDTH, flip=False)
    before = weights(run)
    gradients: dict[str, torch.Tensor] = {}

    step = run.optimizer.step

    def noted_step() -> None:
        gradients.update({name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None})
        step()

    monkeypatch.setattr(run.optimizer, "step", noted_step)
    run.run_epoch()
    lr = run.lr_at(0)
    clipped = [gradient - decay * before[name] for name, gradient in gradients.items()]
    assert max(gradient.abs().max().item() for gradient in clipped) == pytest.approx(1e-3, rel=1e-4)
    for name, parameter in run.model.named_parameters():
        total = gradients[name]
        # Adam's first step, bias corrected: lr * g / (|g| + eps)
        expected = before[name] - lr * total / (total.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=1e-4)


VARIANTS = {
    "the reference": {},
    "AdamW, cosine, momentum that cycles": {
        "schedule": "cosine", "momentum": 0.95, "momentum_at_peak": 0.85, "decoupled_decay": True, "weight_decay": 0.1,
    },
    "SGD, linear, smoothed labels": {"optimizer": "sgd", "schedule": "linear", "label_smoothing": 0.2, "peak_at": 0.25},
    "weighted classes": {"class_weights": "balanced"},
    "weighted classes, smoothed labels": {"class_weights": "balanced", "label_smoothing": 0.2},
}  # fmt: skip


@pytest.fixture
def uneven(split: Split) -> Split:
    """With a fifth of the images of half the classes."""
    rare = split.train.labels < 5
    return replace(split, train=split.train.subset(~rare | (np.arange(len(rare)) % 5 == 0)))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_it_does_what_a_plain_loop_does_with_pytorchs_optimizers(uneven: Split, changes: dict[str, Any]) -> None:
    split = uneven
    balanced = compute_class_weight("balanced", classes=np.arange(10), y=split.train.labels)
    assert balanced.max() > 3 * balanced.min()
    class_weights = torch.from_numpy(balanced).float() if "class_weights" in changes else None
    spec = replace(SPEC, epochs=2, max_lr=0.01, dropout=0.0, crop_padding=0, **changes)
    run = TrainingRun(spec, split, model=WIDTH, flip=False)
    network = fresh_network(WIDTH, len(split.classes), spec.seed, run.device)
    assert isinstance(network, ResNet9)
    network.dropout.p = 0.0
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[spec.optimizer]
    options: dict[str, Any] = {"weight_decay": spec.weight_decay, "fused": True}
    if spec.decoupled_decay:
        make = torch.optim.AdamW
    if spec.optimizer == "sgd":
        options |= {"momentum": spec.momentum, "nesterov": True}
    theirs = make(network.parameters(), lr=torch.tensor(0.1), **options)
    for epoch in (1, 2):
        network.train()
        generator = torch.Generator().manual_seed(epoch_seed(spec.seed, epoch))
        order = torch.randperm(len(run.train_images), generator=generator)
        for place, rows in enumerate(order.split(spec.batch_size)):
            step = (epoch - 1) * run.steps_per_epoch + place
            group = theirs.param_groups[0]
            group["lr"].fill_(run.lr_at(step))
            momentum = momentum_at(spec, step, 2 * run.steps_per_epoch)
            group.update({"momentum": momentum} if spec.optimizer == "sgd" else {"betas": (momentum, 0.999)})
            logits = network(run.normalise(run.train_images.images[rows]))
            theirs.zero_grad()
            labels, smoothing = run.train_images.labels[rows], spec.label_smoothing
            cross_entropy(logits, labels, weight=class_weights, label_smoothing=smoothing).backward()
            torch.nn.utils.clip_grad_value_(network.parameters(), spec.grad_clip)
            theirs.step()
        run.run_epoch()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("change", [{"label_smoothing": 0.5}, {"class_weights": "balanced"}])
def test_the_training_loss_is_of_the_labels_and_classes_as_they_are(uneven: Split, change: dict[str, Any]) -> None:
    """A search compares it over configurations, smoothed or weighted or not."""
    spec = replace(SPEC, max_lr=1e-12, epochs=1, dropout=0.0, batch_size=len(uneven.train))
    plain, other = (TrainingRun(each, uneven, model=WIDTH, flip=False) for each in (spec, replace(spec, **change)))
    assert trained(plain, 1) == trained(other, 1)


def test_an_epoch_has_what_its_last_logits_are_worth(uneven: Split) -> None:
    run = TrainingRun(replace(SPEC, batch_size=10), uneven, model=WIDTH, flip=False)
    last = [run.run_epoch() for _ in range(4)][-1]
    with torch.no_grad():
        for parameter in run.model.parameters():  # what is said of an epoch is of the pass that judged it
            parameter.zero_()
    labels, predicted = uneven.held_out.labels, run.held_out_logits().argmax(1).numpy()
    assert last.accuracy == (labels == predicted).mean()
    assert last.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert last.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert {"val_loss", "val_accuracy", "val_macro_f1"} <= last.columns("val", "macro_f1").keys()
    assert "val_balanced_accuracy" not in last.columns("val", "macro_f1")


def test_a_reused_run_takes_every_setting_of_the_next_configuration(split: Split) -> None:
    second = replace(
        SPEC, optimizer="sgd", momentum=0.8, label_smoothing=0.1, class_weights="balanced", dropout=0.5, crop_padding=2,
        cutout=8,
    )  # fmt: skip
    reused = TrainingRun(SPEC, split, model=WIDTH)
    reused.run_epoch()
    reused.reset(second)
    assert trained(reused, 2) == trained(TrainingRun(second, split, model=WIDTH), 2)
    reused.reset(SPEC)
    assert trained(reused, 2) == trained(TrainingRun(SPEC, split, model=WIDTH), 2)


def test_a_loss_that_is_not_finite_carries_the_last_good_epoch(split: Split) -> None:
    run = TrainingRun(SPEC, split, model=WIDTH)
    good = run.run_epoch()
    with torch.no_grad():
        run.model.get_parameter("classifier.3.weight").fill_(math.nan)
    with pytest.raises(NonFiniteLoss, match="not finite in epoch 2") as caught:
        run.run_epoch()
    assert caught.value.last_good == good
    assert pickle.loads(pickle.dumps(caught.value)).last_good == good
    run.reset(SPEC)
    assert numbers(run.run_epoch()) == numbers(good)


def test_a_first_epoch_that_is_not_finite_has_no_good_one(split: Split) -> None:
    run = TrainingRun(SPEC, split, model=WIDTH)
    with torch.no_grad():
        run.model.get_parameter("classifier.3.weight").fill_(math.inf)
    with pytest.raises(NonFiniteLoss) as caught:
        run.run_epoch()
    assert (caught.value.epoch, caught.value.last_good) == (1, None)


def test_there_is_no_epoch_after_the_last(split: Split) -> None:
    run = TrainingRun(replace(SPEC, epochs=1), split, model=WIDTH)
    run.run_epoch()
    with pytest.raises(IndexError, match="all 1 epochs are done"):
        run.run_epoch()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_train_like_fp32(few: Split, precision: str) -> None:
    spec = replace(SPEC, batch_size=12)
    full = TrainingRun(spec, few, model=WIDTH).run_epoch()
    lower = TrainingRun(replace(spec, precision=precision), few, model=WIDTH).run_epoch()
    assert lower.train_loss == pytest.approx(full.train_loss, rel=0.05)


def test_evaluation_changes_nothing_and_ignores_dropout(split: Split) -> None:
    run = TrainingRun(SPEC, split, model=WIDTH)
    metrics = run.run_epoch()
    state = weights(run)
    network = run.model.eval()
    with torch.inference_mode():
        logits = network(run.normalise(run.held_out.images))
    accuracy = (logits.argmax(1) == run.held_out.labels).double().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, run.held_out.labels).item()
    assert [metrics.accuracy, metrics.loss] == [accuracy, pytest.approx(loss, rel=1e-5)]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_gpu_trains_what_the_cpu_trains(split: Split) -> None:
    cpu = TrainingRun(SPEC, split, model=WIDTH, flip=False).run_epoch()
    gpu = TrainingRun(SPEC, split, "cuda", WIDTH, flip=False).run_epoch()
    assert gpu.train_loss == pytest.approx(cpu.train_loss, rel=0.2)  # other random numbers, the same loop
