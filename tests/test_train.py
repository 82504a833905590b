"""The optimisers, schedules, loop and files of a run, against slow plain versions."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import os
import shutil
import signal
import threading
from functools import partial
from types import SimpleNamespace

import parity
import pytest
import torch
from torch import nn

import checkpoints
import losses
import main as suite
import models
import train
from config import Stage
from loading.views import Views
from networks import blocks
from recipes import RECIPES

DEMO = RECIPES["demo"]


def recipe(**fields):
    return DEMO.with_(**{"warmup_epochs": 0, "milestones": (), "schedule": "constant", **fields})


# ---------------------------------------------------------------------------------------------------------------------
# Schedules
# ---------------------------------------------------------------------------------------------------------------------


def test_cosine_after_warmup_starts_at_the_full_rate_and_never_rises_again():
    row = recipe(schedule="cosine", warmup_epochs=4, warmup_factor=0.1)
    factors = [train.lr_factor(row, epoch, 20) for epoch in range(20)]
    assert factors[:4] == pytest.approx([0.1, 0.1 * 0.75 + 0.25, 0.1 * 0.5 + 0.5, 0.1 * 0.25 + 0.75])
    assert factors[4] == 1 and all(a > b for a, b in zip(factors[4:], factors[5:], strict=False))
    assert factors[12] == pytest.approx(0.5)


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="multistep"):
        train.lr_factor(recipe(schedule="stairs"), 0, 1)
    with pytest.raises(ValueError, match="amsgrad"):
        train.main_optimizer(recipe(optimizer="lion"), [{"params": [nn.Parameter(torch.zeros(1))]}])


def test_stages():
    stages = (Stage(2, ("classifier",)), Stage(3), Stage(2, (), restart=True))
    found = [train.stage_of(stages, epoch) for epoch in range(7)]
    assert [index for index, _ in found] == [0, 0, 1, 1, 1, 2, 2]
    assert [counted for _, counted in found] == [(0, 7), (1, 7), (2, 7), (3, 7), (4, 7), (0, 2), (1, 2)]
    with pytest.raises(ValueError, match="epoch 7"):
        train.stage_of(stages, 7)


# ---------------------------------------------------------------------------------------------------------------------
# Optimisers and layers
# ---------------------------------------------------------------------------------------------------------------------


class Net(models.Model):
    """Trunk, BN neck without shift, classifier: what the suite's models are made of."""

    def __init__(self, num_pids=4, dropout=0.0):
        super().__init__()
        self.base = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = blocks.bn_neck(6)
        self.bottleneck_1 = blocks.bn_neck(6)
        self.classifier = nn.Linear(6, num_pids, bias=False)

    def forward(self, images, views=None):
        feature = self.dropout(self.base(images).mean((2, 3)))
        after = self.bottleneck(feature) + self.bottleneck_1(feature)
        return models.Output(after, (self.classifier(after),), (feature,))


class NoBatchNorm(models.Model):
    def __init__(self, num_pids=4):
        super().__init__()
        self.base = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 8, 6), nn.Tanh(), nn.Dropout(0.2))
        self.classifier = nn.Linear(6, num_pids)

    def forward(self, images, views=None):
        feature = self.base(images)
        return models.Output(feature, (self.classifier(feature),), (feature,), feature.unflatten(1, (2, 3)))


def criterion(center=0.0):
    terms = {"id": (1, losses.IDLoss(0.1)), "triplet": (1, losses.TripletLoss(0.3))}
    if center:
        terms["center"] = (center, losses.CenterLoss(4, 6, sgd_lr=0.5))
    return losses.Criterion(**terms)


def test_backbone_gets_its_own_rate_and_frozen_parameters_no_optimiser():
    torch.manual_seed(0)
    net, terms = Net(), losses.Criterion(id=(1, losses.IDLoss()), arcface=(1, losses.ArcFace(6, 4)))
    [optimizer] = train.build_optimizers(net, terms, recipe(lr=0.5, base_lr_mult=0.1))
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in (*net.named_parameters(), *terms.named_parameters()):
        expected = None if name.endswith("k.bias") or name.endswith("_1.bias") else 0.5
        expected = 0.05 if name.startswith("base.") else expected
        assert rate.get(id(parameter)) == pytest.approx(expected) if expected else id(parameter) not in rate, name
    assert all(group["base_lr"] == group["lr"] for group in optimizer.param_groups)


def test_the_frozen_start_may_have_a_rate_of_its_own(tmp_path):
    """torchreid v0.x's fixbase_lr: constant, whatever the schedule and the warm-up say of these epochs."""
    row = recipe(epochs=4, fixbase_epochs=2, fixbase_lr=0.02, lr=0.1, warmup_epochs=3, warmup_factor=0.1)
    assert [line["lr"] for line in fit(tmp_path, row=row).log[:2]] == pytest.approx([0.02, 0.02])
    plain = row.with_(fixbase_lr=0.0)
    assert [line["lr"] for line in fit(tmp_path / "plain", row=plain).log[2:]] == pytest.approx(
        [0.1 * train.lr_factor(row, epoch, 4) for epoch in (2, 3)]
    )


def test_biases_may_have_a_rate_of_their_own():
    net = Net()
    [optimizer] = train.build_optimizers(net, losses.Criterion(id=(1, losses.IDLoss())), recipe(
        lr=0.5, base_lr_mult=0.1, bias_lr_mult=2.0))  # fmt: skip
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: rate[id(p)] for name, p in net.named_parameters() if id(p) in rate}
    assert {name for name in names if "bias" in name}
    for name, found in names.items():
        expected = (0.05 if name.startswith("base.") else 0.5) * (2 if "bias" in name else 1)
        assert found == pytest.approx(expected), name


@pytest.mark.parametrize("name", train.OPTIMIZERS)
def test_optimisers_step_as_torchs_plain_ones(name):
    row = recipe(optimizer=name, lr=0.1, weight_decay=0.01, nesterov=True)
    plain = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01),
        "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01, amsgrad=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.99, weight_decay=0.01, momentum=0.9),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=True),
    }[name]
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    pair = [(ours, train.main_optimizer(row, [{"params": [ours], "lr": 0.1}])), (theirs, plain([theirs]))]
    for step in range(4):
        for parameter, optimizer in pair:
            parameter.grad = torch.linspace(-1, 1, 5) * (step + 1)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_center_loss_steps_as_if_its_gradient_were_divided_by_the_weight():
    """reid-strong-baseline 3da7e6f, engine/trainer.py: grad *= 1 / weight, then SGD(lr=0.5)."""
    torch.manual_seed(0)
    terms = criterion(center=5e-4)
    centers = terms.losses["center"].centers
    net, images, labels = Net(), torch.randn(8, 3, 12, 8), torch.arange(4).repeat_interleave(2)
    optimizers = train.build_optimizers(net, terms, recipe())
    assert len(optimizers) == 2
    output = net(images)
    feats, expected = output.feats[0].detach(), centers.detach().clone()
    for i in range(4):  # d/dc of the unweighted mean over the batch of ||x - c||^2
        own = feats[labels == i]
        expected[i] -= 0.5 * (2 * (expected[i] - own)).sum(0) / len(feats)
    sum(terms(output, labels).values()).backward()
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(centers.detach(), expected)


def test_open_layers_freezes_batch_norm_with_its_parameters():
    net = Net()
    neck = {"bottleneck.bias", "bottleneck_1.bias"}
    train.open_layers(net, ("new",), neck)
    moving = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert moving == {"classifier.weight", "bottleneck.weight", "bottleneck_1.weight"}
    training = {name for name, module in net.named_modules() if module.training}
    assert training == {"", "classifier", "bottleneck", "bottleneck_1"}
    before = net.base[1].running_mean.clone()
    net(torch.randn(4, 3, 12, 8))
    assert torch.equal(net.base[1].running_mean, before) and net.bottleneck.running_mean.abs().sum() > 0

    train.open_layers(net, ("base.1",), neck)  # a module below the top: the way down to it is awake
    assert net.base.training and net.base[1].training and not net.base[0].training and not net.bottleneck.training

    train.open_layers(net, (), neck)
    assert all(module.training for module in net.modules())
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert frozen == neck
    with pytest.raises(ValueError, match="fixbase_epochs"):
        train.open_layers(net, ("head",), neck)


# ---------------------------------------------------------------------------------------------------------------------
# One epoch
# ---------------------------------------------------------------------------------------------------------------------

LABELS = torch.arange(4).repeat_interleave(2)


def batch_of(step: int):
    images = torch.randn(8, 3, 12, 8, generator=torch.Generator().manual_seed(step))
    return images + LABELS[:, None, None, None] / 2, LABELS, Views(torch.zeros(8, dtype=torch.int64))


class Batches:
    """A loader whose batches depend on (epoch, step) only."""

    batch_size, alternate = 8, None

    def __init__(self, steps=5):
        self.number = steps

    def steps(self, epoch):
        return self.number

    def epoch(self, epoch, start=0):
        return (batch_of(100 * epoch + step) for step in range(start, self.number))


def test_an_epoch_is_the_plain_loop():
    torch.manual_seed(0)
    net, reference = Net(dropout=0.3), Net(dropout=0.3)
    reference.load_state_dict(net.state_dict())
    terms, row = criterion(), recipe(optimizer="sgd", lr=0.05, momentum=0.9)
    means = train.train_one_epoch(
        net,
        terms,
        Batches(4).epoch(3),
        train.build_optimizers(net, terms, row),
        train.Span(3, 4),
        train.Conditions(seed=7),
    )

    optimizer = torch.optim.SGD([p for p in reference.parameters() if p.requires_grad], 0.05, 0.9, weight_decay=5e-4)
    sums = {"loss": 0.0, "id": 0.0, "triplet": 0.0}
    for step in range(4):
        images, labels, camids = batch_of(300 + step)
        torch.manual_seed(train.step_seed(7, 3, step))
        found = terms(reference(images), labels)
        optimizer.zero_grad()
        (found["id"] + found["triplet"]).backward()
        optimizer.step()
        for name, term in (*found.items(), ("loss", found["id"] + found["triplet"])):
            sums[name] += term.item()
    assert means == pytest.approx({name: total / 4 for name, total in sums.items()}, rel=1e-5)
    for a, b in zip(net.state_dict().values(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_disabled_scaler_changes_nothing_and_an_enabled_one_only_scales():
    results = []
    scalers = torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for more in ({}, *({"scaler": scaler} for scaler in scalers)):
        torch.manual_seed(0)
        net, terms = Net(), criterion(center=5e-4)
        optimizers = train.build_optimizers(net, terms, recipe(optimizer="sgd", lr=0.05))
        how = train.Conditions(clip_grad=0.5, **more)
        train.train_one_epoch(net, terms, Batches(3).epoch(0), optimizers, train.Span(0, 3), how)
        results.append([*net.state_dict().values(), *terms.state_dict().values()])
    for plain, disabled, scaled in zip(*results, strict=True):
        assert torch.equal(plain, disabled)
        torch.testing.assert_close(plain, scaled)


def test_clip_grad_limits_the_norm():
    torch.manual_seed(0)
    net, terms = Net(), criterion()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizers = train.build_optimizers(net, terms, recipe(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0))
    how = train.Conditions(clip_grad=0.01)
    train.train_one_epoch(net, terms, Batches(1).epoch(0), optimizers, train.Span(0, 1), how)
    moved = sum((a - b).square().sum() for a, b in zip(net.parameters(), before, strict=True)).sqrt()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_clipping_by_group_is_fast_reids():
    """Two steps of fast-reid c9bc3ce's own optimiser (solver/build.py with CLIP_GRADIENTS, utils/params.py) as
    configs/Market1501/bagtricks_vit.yml sets it: its `clip_grad_norm_` gets the buffer of a whole group."""
    net = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    net.trunk = list
    terms, row = criterion(), RECIPES["fastreid_vit"]
    optimizers = train.build_optimizers(net, terms, row)

    def backward(scale):
        for i, parameter in enumerate(net.parameters(), start=1):
            parameter.grad = torch.linspace(-3, 5, parameter.numel()).view_as(parameter) * i * scale

    with torch.no_grad():
        for i, parameter in enumerate(net.parameters(), start=1):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) * i / 4)
    for scale in (1.0, -0.3):
        how = train.Conditions(clip_grad=row.clip_grad, clip_by=row.clip_by)
        train.backward_and_step(partial(backward, scale), net, terms, optimizers, how)
    released = {
        "0.weight": (-0.24706832, -0.20232445, -0.15758057, -0.1128367, -0.06809284, -0.02334896, 0.02139489,
                     0.06613876, 0.11088263, 0.15562651, 0.20037039, 0.24511424),
        "0.bias": (-0.49542937, -0.00152161, 0.49238616),
        "1.weight": (-0.74314404, -0.00228242, 0.73857921),
        "1.bias": (-0.99085873, -0.00304322, 0.98477232),
        "2.weight": (-1.23534155, -0.743159, -0.25097644, 0.24120609, 0.73338866, 1.22557127),
        "2.bias": (-1.48628807, 1.47715843),
    }  # fmt: skip
    atol = parity.largest(__file__, "test_clipping_by_group_is_fast_reids")
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach().flatten(), torch.tensor(released[name]), rtol=0, atol=atol)


@pytest.mark.parametrize("chunks", [2, 4])
def test_chunks_give_the_step_of_the_whole_batch(chunks):
    results = []
    for parts in (1, chunks):
        torch.manual_seed(0)
        net, terms = NoBatchNorm().double(), criterion(center=0.1).double()
        net.base[3].p = 0.0  # dropout draws other numbers for a part than for the whole
        optimizers = train.build_optimizers(net, terms, recipe(optimizer="sgd", lr=0.05))
        batches = ((images.double(), labels, camids) for images, labels, camids in Batches(4).epoch(0))
        means = train.train_one_epoch(net, terms, batches, optimizers, train.Span(0, 4), train.Conditions(chunks=parts))
        results.append([*net.state_dict().values(), *terms.state_dict().values(), torch.tensor(list(means.values()))])
    for one, many in zip(*results, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-9, atol=1e-12)


def test_chunks_repeat_dropout_and_move_running_statistics_once():
    torch.manual_seed(0)
    net, terms = Net(dropout=0.5), criterion()
    expected = Net()
    expected.load_state_dict(net.state_dict())
    images, labels, _ = batch_of(0)
    for part in images.chunk(2):
        expected.base(part)
    seen = []
    net.dropout.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    optimizers = train.build_optimizers(net, terms, recipe())
    train.train_one_epoch(net, terms, Batches(1).epoch(0), optimizers, train.Span(0, 1), train.Conditions(chunks=2))
    torch.testing.assert_close(net.base[1].running_mean, expected.base[1].running_mean)
    assert net.base[1].num_batches_tracked == 2
    assert len(seen) == 4 and torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])


def test_a_loss_that_is_not_finite_is_named():
    net, terms = Net(), criterion()
    images, labels, camids = batch_of(0)
    batches = iter([(images * math.nan, labels, camids)] * 2)
    optimizers = train.build_optimizers(net, terms, recipe())
    with pytest.raises(FloatingPointError, match=r"epoch 3, iteration 2: .*id.* not finite.*--lr"):
        train.train_one_epoch(net, terms, batches, optimizers, train.Span(2, 2))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_weights_that_are_no_numbers_end_the_epoch(wrong):
    net = Net()
    train.check_learning(net, 5.0, 3.0, 0)
    train.check_learning(net, 40.0, 0.3, 0)  # a triplet loss may begin below 1
    net.base[1].running_var[2] = wrong
    with pytest.raises(FloatingPointError, match="epoch 2: weights are not finite"):
        train.check_learning(net, 5.0, 3.0, 1)


def test_an_interrupted_epoch_goes_on_bit_for_bit():
    def start():
        torch.manual_seed(0)
        net, terms = Net(dropout=0.3), criterion()
        return net, terms, train.build_optimizers(net, terms, recipe())

    net, terms, optimizers = start()
    means = train.train_one_epoch(net, terms, Batches(5).epoch(0), optimizers, train.Span(0, 5))

    again, terms, optimizers = start()
    stop = threading.Event()

    def until_second():
        for step, batch in enumerate(Batches(5).epoch(0)):
            if step == 1:
                stop.set()
            yield batch

    with pytest.raises(train.Interrupted) as stopped:
        train.train_one_epoch(again, terms, until_second(), optimizers, train.Span(0, 5), stop=stop)
    partial = stopped.value.partial
    assert partial["step"] == 2
    rest = train.Span(0, 5, partial)
    assert train.train_one_epoch(again, terms, Batches(5).epoch(0, start=2), optimizers, rest) == means
    for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------------------------------------------------------
# A whole run
# ---------------------------------------------------------------------------------------------------------------------

METRICS = {"set": {"rank1": 0.5, "mAP": 0.25}}


def fit(
    folder,
    loader=None,
    row=None,
    evaluate=lambda model, stop: METRICS,
    description=None,
    net=None,
    resume=True,
    tested="",
):
    torch.manual_seed(0)
    net = net or Net(dropout=0.2)
    terms = criterion(center=5e-4)
    row = row or recipe(epochs=4, eval_every=2, optimizer="amsgrad", schedule="cosine")
    said = []
    log = train.fit(
        net, terms, loader or Batches(), row,
        checkpoints.Folder(folder, description or {"recipe": "demo"}, resume, tested=tested),
        evaluate, say=said.append,
    )  # fmt: skip
    return SimpleNamespace(log=log, said=said, net=net, terms=terms, state=checkpoints.load(folder / "last.pt"))


def comparable(log):
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in log]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k not in ("seconds", "images_per_second"))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_files_of_a_run(tmp_path):
    run = fit(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == run.log == run.state["log"]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line.get("metrics") for line in lines] == [None, METRICS, None, METRICS]
    assert {"lr", "seconds", "images_per_second", "loss", "id", "triplet", "center"} <= lines[0].keys()
    assert lines[0]["lr"] == pytest.approx(DEMO.lr) and lines[2]["lr"] == pytest.approx(DEMO.lr / 2)
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        "last.pt", "previous.pt", "model.pt", "model_2.pt", "model_4.pt"
    }  # fmt: skip
    final = checkpoints.load(tmp_path / "model.pt")
    assert final["epoch"] == 4 and same(final["model"], dict(run.net.state_dict())) and final["recipe"] == "demo"
    assert not same(checkpoints.load(tmp_path / "model_2.pt")["model"], final["model"])
    assert len(run.said) == 4 and "rank-1 50.0 mAP 25.0" in run.said[-1]


def test_a_run_that_diverges_to_numbers_ends_with_an_error_and_keeps_the_last_good_epoch(tmp_path):
    with pytest.raises(FloatingPointError, match=r"epoch 1: the loss is \d.*before the first step.*diverged.*--lr"):
        fit(tmp_path / "hot", row=recipe(lr=1e3, epochs=4))
    assert not (tmp_path / "hot" / "last.pt").exists()
    with pytest.raises(FloatingPointError, match="epoch 3: the loss is .*diverged"):
        fit(tmp_path / "late", row=recipe(schedule="multistep", milestones=(2,), gamma=1e6, epochs=4))
    assert checkpoints.load(tmp_path / "late" / "last.pt")["epoch"] == 2


class DiesAt(Batches):
    """Stands for a kill: the loader raises at (epoch, step)."""

    def __init__(self, epoch, step):
        super().__init__()
        self.at = epoch, step

    def epoch(self, epoch, start=0):
        for step, batch in enumerate(super().epoch(epoch, start), start=start):
            if (epoch, step) == self.at:
                raise MemoryError("killed by the test")
            yield batch


@pytest.mark.parametrize("at", [(1, 0), (2, 3), (3, 4)])
def test_a_run_that_died_ends_as_one_that_did_not(tmp_path, at):
    whole = fit(tmp_path / "whole")
    with pytest.raises(MemoryError):
        fit(tmp_path / "died", DiesAt(*at))
    died = fit(tmp_path / "died")
    assert same(died.state, whole.state) and comparable(died.log) == comparable(whole.log)
    assert f"after epoch {at[0]}" in died.said[0]


class StopsAt(Batches):
    """Stands for Ctrl-C: sends SIGTERM to this process at (epoch, step)."""

    def epoch(self, epoch, start=0):
        for step, batch in enumerate(super().epoch(epoch, start), start=start):
            if (epoch, step) == (1, 2):
                signal.raise_signal(signal.SIGTERM)
            yield batch


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_in_mid_epoch_keeps_every_iteration(tmp_path):
    whole = fit(tmp_path / "whole")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(train.Interrupted, match="epoch 2 after iteration 3"):
        fit(tmp_path / "stopped", StopsAt())
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoints.load(tmp_path / "stopped" / "last.pt")["partial"]["step"] == 3
    stopped = fit(tmp_path / "stopped")
    assert same(stopped.state, whole.state)
    assert "after epoch 1 and 3 iterations" in stopped.said[0]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_the_same_signal_twice_ends_at_once_but_two_kinds_do_not():
    with train.stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # torchrun's, on Ctrl-C
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_an_evaluation_that_was_stopped_is_made_up_for(tmp_path):
    def stopped(model, stop):
        raise train.Interrupted("while evaluating")

    with pytest.raises(train.Interrupted):
        fit(tmp_path, evaluate=stopped)
    assert "metrics" not in checkpoints.load(tmp_path / "last.pt")["log"][-1]
    run = fit(tmp_path)
    assert [line.get("metrics") for line in run.log] == [None, METRICS, None, METRICS]


def test_a_folder_of_another_run_is_refused_and_kept(tmp_path):
    fit(tmp_path, description={"recipe": "demo", "overrides": {"lr": 0.1}})
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=r"lr was 0.1, now 0.2"):
        fit(tmp_path, description={"recipe": "demo", "overrides": {"lr": 0.2}})
    assert (tmp_path / "last.pt").read_bytes() == before
    assert len(fit(tmp_path, description={"recipe": "other"}, resume=False).said) == 4


def test_a_disk_that_is_full_ends_the_run_with_its_message(tmp_path, monkeypatch):
    def full(path, state):
        raise RuntimeError("no space left")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(RuntimeError, match="no space left"):
        fit(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "last.pt").exists()


def test_a_checkpoint_is_of_the_moment_it_was_asked_for(tmp_path, monkeypatch):
    save, trained_on = checkpoints.save, threading.Event()

    def slow(path, state):
        assert trained_on.wait(timeout=60)
        save(path, state)

    monkeypatch.setattr(checkpoints, "save", slow)
    tensor, log = torch.zeros(3), [{"a": 1}]
    with checkpoints.Files(tmp_path) as files:
        files.write(tmp_path / "last.pt", lambda: {"tensor": tensor, "log": log})
        tensor += 1
        log[0]["a"] = 2
        trained_on.set()
    assert same(checkpoints.load(tmp_path / "last.pt"), {"tensor": torch.zeros(3), "log": [{"a": 1}]})


def test_stages_begin_with_the_model_told_and_layers_closed(tmp_path):
    class Staged(Net):
        begun: list

        def begin_stage(self, index):
            self.begun.append(index)

    net = Staged()
    net.begun = []

    def trunk(model):  # weights, and the statistics of the frozen batch norm
        return torch.cat([model.base[0].weight.detach().flatten(), model.base[1].running_mean])

    first = trunk(net)
    stages = (Stage(2, ("classifier",)), Stage(1))
    seen = []
    fit(tmp_path, net=net, row=recipe(stages=stages, epochs=3, eval_every=1),
        evaluate=lambda model, stop: seen.append(trunk(model)) or METRICS)  # fmt: skip
    assert net.begun == [0, 1]
    assert [torch.equal(first, values) for values in seen] == [True, True, False]
    assert not (first == seen[-1]).any()


def test_only_a_loader_that_alternates_is_told_what_was_seen(tmp_path):
    told = []

    class Alternating(Batches):
        alternate = "random"

        def observe(self, values):
            told.append(values)

    fit(tmp_path / "a", Alternating(3), row=recipe(epochs=1))
    assert told == [{"balanced": True}] * 3
    plain = Batches(3)
    plain.observe = lambda values: pytest.fail("a loader that does not alternate was told")
    fit(tmp_path / "b", plain, row=recipe(epochs=1))


def test_a_collapsed_triplet_loss_is_warned_of_from_the_second_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(losses.Criterion, "collapsed", lambda self, means, notes: ["it has collapsed"])
    assert sum("WARNING: it has collapsed" in text for text in fit(tmp_path).said) == 3


def test_all_that_differs_between_two_settings_is_named():
    theirs = {"seed": 1, "overrides": {"lr": 0.1, "epochs": 3}, "data": {"market": "9 images"}}
    ours = {"seed": 2, "overrides": {"p": 4, "epochs": 5}, "data": {"market": "8 images"}, "amp": "none"}
    assert checkpoints.differences(theirs, ours, {"epochs"}) == [
        "seed was 1, now 2",
        "lr was 0.1, now the default",
        "p was the default, now 4",
        "market was 9 images, now 8 images",
        "amp was not recorded, now none",
    ]
    assert not checkpoints.differences(theirs, theirs)


def test_a_run_from_before_a_setting_goes_on_with_its_default_and_with_no_other_value(tmp_path):
    """Each new field of a recipe would else be a difference to every run that an older version began."""
    row = recipe(epochs=2)
    older = {name: value for name, value in row.settings().items() if name not in ("same_ends", "terms", "p")}
    defaults = {"settings": row.defaults()}
    folder = functools.partial(checkpoints.Folder, tmp_path, defaults=defaults)
    state = {"version": checkpoints.VERSION, "settings": older}
    folder(description={"settings": row.with_(p=row.defaults()["p"]).settings()}).check_same(state, tmp_path)
    with pytest.raises(ValueError, match="same_ends was False, now True"):
        folder(description={"settings": row.with_(same_ends=True).settings()}).check_same(state, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "gone", "field"])
def test_without_a_whole_last_pt_the_one_before_it_is_gone_on_from(tmp_path, damage):
    """And the run ends bit for bit as one that nothing happened to."""
    whole = fit(tmp_path / "whole", row=recipe(epochs=4, schedule="cosine"))

    with pytest.raises(MemoryError):
        fit(tmp_path / "died", DiesAt(2, 0), row=recipe(epochs=4, schedule="cosine"))
    last = tmp_path / "died" / "last.pt"
    assert [checkpoints.load(last.with_name(name))["epoch"] for name in ("previous.pt", "last.pt")] == [1, 2]
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:-999])
    elif damage == "gone":
        last.unlink()
    else:
        checkpoints.save(last, {k: v for k, v in checkpoints.load(last).items() if k != "optimizers"})
    run = fit(tmp_path / "died", row=recipe(epochs=4, schedule="cosine"))
    assert same(run.state, whole.state) and "after epoch 1 of 4" in run.said[0]
    assert ("previous.pt instead" in run.said[0]) == (damage != "gone")


def test_where_no_checkpoint_is_whole_the_message_can_be_followed(tmp_path):
    fit(tmp_path)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match="last.pt .* --resume no"):
        fit(tmp_path)


def test_what_a_finished_run_has_lost_is_written_again(tmp_path):
    run = fit(tmp_path)
    weights = checkpoints.load(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(b"damaged")
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "model_4.pt").unlink()
    again = fit(tmp_path, evaluate=lambda model, stop: pytest.fail("there is nothing new to measure"))
    assert again.log == run.log and (tmp_path / "log.jsonl").exists()
    assert all(same(checkpoints.load(tmp_path / name), weights) for name in ("model.pt", "model_4.pt"))


def test_another_test_of_a_finished_run_is_measured_anew(tmp_path):
    before, other = fit(tmp_path), {"set": {"rank1": 0.75, "mAP": 0.5}}
    again = fit(tmp_path, evaluate=lambda model, stop: other, tested="other options")
    assert again.log[-1]["metrics"] == other and again.log[:-1] == before.log[:-1]
    assert same(again.net.state_dict(), before.net.state_dict())
    fit(tmp_path, evaluate=lambda model, stop: pytest.fail("it was measured already"), tested="other options")


def test_a_run_that_is_made_longer_is_the_long_run_where_its_rates_are(tmp_path):
    steps = dict(schedule="multistep", milestones=(3,))
    long = fit(tmp_path / "long", row=recipe(epochs=6, **steps))
    fit(tmp_path / "short", row=recipe(epochs=4, **steps))
    again = fit(tmp_path / "short", row=recipe(epochs=6, **steps))
    assert same(again.net.state_dict(), long.net.state_dict()) and "lengthened" not in again.state
    with pytest.raises(ValueError, match="6 epochs behind it, more than the 5"):
        fit(tmp_path / "short", row=recipe(epochs=5, **steps))


def test_a_run_that_is_made_longer_past_its_schedule_says_so(tmp_path):
    fit(tmp_path, row=recipe(epochs=3, schedule="cosine"))
    again = fit(tmp_path, row=recipe(epochs=5, schedule="cosine"))
    assert any("made for 3" in text for text in again.said) and again.state["lengthened"] == [3]
    assert checkpoints.load(tmp_path / "model.pt")["lengthened"] == [3] and len(again.log) == 5
    assert not any("made for 3" in text for text in fit(tmp_path, row=recipe(epochs=5, schedule="cosine")).said)

    with pytest.raises(MemoryError):
        fit(tmp_path / "unfinished", DiesAt(2, 0), row=recipe(epochs=4, schedule="cosine"))
    with pytest.raises(ValueError, match="begun with --epochs 4 and is in epoch 3.*other rates"):
        fit(tmp_path / "unfinished", row=recipe(epochs=6, schedule="cosine"))


def test_compiled_network_trains_alike():
    """--compile: the same output and gradients; on a CPU through the C++ wrapper."""
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("needs a C++ compiler")
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5)
    model, images = nn.Sequential(*layers), torch.randn(4, 3, 8, 8)
    twin = copy.deepcopy(model)
    for network in (suite.compiled(model, torch.device("cpu")), twin):
        network(images).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model[1].running_mean, twin[1].running_mean)


def test_a_compiled_network_that_has_no_length_is_a_network_all_the_same(tmp_path):
    """torch 2.14 answers bool(torch.compile(model)) with a TypeError about len()."""

    class Compiled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def __len__(self):
            raise TypeError("Net does not support len()")

        def forward(self, *batch):
            return self.model(*batch)

    net, row = Net(), recipe(epochs=1)
    folder = checkpoints.Folder(tmp_path, {})
    training = train.Training(net, criterion(), Batches(), row, folder, train.Conditions(forward=Compiled(net)))
    training.begin(0)
    assert type(training.network) is Compiled


def test_compiling_without_a_compiler_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="--compile needs a C\\+\\+ compiler"):
        suite.compiled(nn.Linear(2, 2), torch.device("cpu"))


class Watched(Batches):
    """A loader that notes the learning rates and the weights of `net` before each batch but the first."""

    def __init__(self, net, steps=5):
        super().__init__(steps)
        self.net, self.seen = net, []

    def epoch(self, epoch, start=0):
        for batch in super().epoch(epoch, start):
            state = {name: value.clone() for name, value in self.net.state_dict().items()}
            self.seen.append(state | {"training": self.net.base.training})
            yield batch


def test_a_start_counted_in_iterations_ends_within_an_epoch(tmp_path):
    """fast-reid's freeze: 7 iterations of 5 an epoch leave the trunk as it is, its batch norm too; then all moves as if
    there had been no earlier step."""
    net = Net()
    loader = Watched(net)
    row = recipe(epochs=3, optimizer="adam", fixbase_iterations=7, warmup_iterations=10, warmup_factor=0.1)
    run = fit(tmp_path, loader, row, net=net)
    trunk = [all(torch.equal(a[key], loader.seen[0][key]) for key in a if key.startswith("base.")) for a in loader.seen]
    assert trunk == [True] * 8 + [False] * 7
    head = [torch.equal(a["classifier.weight"], b["classifier.weight"]) for a, b in itertools.pairwise(loader.seen)]
    assert not any(head)
    assert int(run.state["optimizers"][0]["state"][0]["step"]) == 15 - 7
    assert [line["lr"] / row.lr for line in run.log] == pytest.approx([0.1 + 0.9 * 0.2, 0.1 + 0.9 * 0.7, 1.0])


def test_such_a_start_can_be_without_any_learning(tmp_path):
    """fast-reid's MGN: its patterns for what is frozen fit the names of the heads too, of which only the statistics of
    batch norms move then (c9bc3ce, configs/Base-MGN.yml, solver/build.py)."""
    net = Net()
    loader = Watched(net)
    row = recipe(epochs=3, optimizer="adam", fixbase_iterations=7, fixbase_learns=False)
    run = fit(tmp_path, loader, row, net=net)
    parameters = [name for name, _ in net.named_parameters()]
    still = [all(torch.equal(a[name], loader.seen[0][name]) for name in parameters) for a in loader.seen]
    assert still == [True] * 8 + [False] * 7
    means = [a["bottleneck.running_mean"] for a in loader.seen]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(means))
    assert int(run.state["optimizers"][0]["state"][0]["step"]) == 15 - 7
    assert not RECIPES["mgn"].fixbase_learns and RECIPES["sbs"].fixbase_learns


LATER = (Stage(1, ("classifier",)), Stage(1, ("base",)), Stage(1))


def one_by_one(kind, groups, *, fused, **how):
    """An optimiser of torch in its plainest form."""
    return kind(groups, foreach=False, fused=False, **how)


RESETS = [  # flags, and the iteration (5 an epoch) that begins with an empty optimiser
    ({"optimizer_reset": "fixbase", "fixbase_epochs": 1}, 5),
    ({"optimizer_reset": "fixbase", "fixbase_iterations": 7}, 7),
    ({"optimizer_reset": "warmup", "warmup_epochs": 2}, 10),
    ({"optimizer_reset": "warmup", "warmup_epochs": 2, "first_epoch": 1}, 5),
    ({"optimizer_reset": "warmup", "warmup_iterations": 8, "first_epoch": 1}, 8),
    ({"optimizer_reset": "warmup", "warmup_iterations": 8, "fixbase_epochs": 1}, 8),
    ({"optimizer_reset": "never", "warmup_epochs": 2}, 0),
]


@pytest.mark.parametrize(("fields", "reset"), RESETS)
def test_the_optimiser_forgets_once_where_the_full_rate_begins_or_all_layers_do(tmp_path, fields, reset):
    row = recipe(epochs=3, optimizer="adam", **fields)
    state = fit(tmp_path, row=row).state["optimizers"][0]["state"]
    assert {int(moments["step"]) for moments in state.values()} == {15 - reset}
    factors = [train.step_factor(row, epoch, 3, step, 5) for epoch in range(3) for step in range(5)]
    if row.optimizer_reset == "warmup":
        assert factors.index(1.0) == reset


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("iterations", [7, 8, 9])
def test_a_run_stopped_about_such_a_place_goes_on_with_the_same_bytes(tmp_path, iterations):
    row = recipe(epochs=3, optimizer="adam", warmup_iterations=iterations, optimizer_reset="warmup")
    whole = fit(tmp_path / "whole", row=row)
    with pytest.raises(train.Interrupted, match="epoch 2 after iteration 3"):
        fit(tmp_path / "stopped", StopsAt(), row=row)
    assert same(fit(tmp_path / "stopped", row=row).state, whole.state)


@pytest.mark.parametrize("opened", [{"fixbase_epochs": 1}, {"fixbase_iterations": 7}, {"stages": LATER}])
@pytest.mark.parametrize(
    "fields", [{"optimizer": name} for name in train.OPTIMIZERS] + [{"optimizer": "sgd", "nesterov": True}]
)
def test_layers_may_open_later_whatever_the_optimiser(tmp_path, monkeypatch, fields, opened):
    """As with an optimiser that takes one parameter after another, where none has to begin beside the others."""
    row = recipe(epochs=3, lr=1e-3, weight_decay=1e-3, **fields, **opened)
    found = fit(tmp_path / "fused", row=row).state
    for kind in ("SGD", "Adam", "AdamW"):
        monkeypatch.setattr(torch.optim, kind, partial(one_by_one, getattr(torch.optim, kind)))
    expected = fit(tmp_path / "plain", row=row).state
    torch.testing.assert_close(found["model"], expected["model"], atol=1e-6, rtol=1e-5)
    assert len(found["optimizers"][0]["state"]) == len(expected["optimizers"][0]["state"])


def test_norm_layers_and_biases_decay_apart():
    """fast-reid c9bc3ce, solver/build.py: WEIGHT_DECAY_NORM for all of a norm layer, WEIGHT_DECAY_BIAS for biases."""
    net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.BatchNorm1d(3))
    net.trunk = net.parameters
    (optimizer,) = train.build_optimizers(net, criterion(), recipe(norm_decay=0.5, weight_decay=0.1))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in net.parameters()] == [0.1, 0.5, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("iterations", [7, 8, 9])
def test_a_run_stopped_about_the_end_of_such_a_start_goes_on_with_the_same_bytes(tmp_path, iterations):
    row = recipe(epochs=3, fixbase_iterations=iterations, warmup_iterations=10, warmup_factor=0.1)
    whole = fit(tmp_path / "whole", row=row)
    with pytest.raises(train.Interrupted, match="epoch 2 after iteration 3"):
        fit(tmp_path / "stopped", StopsAt(), row=row)
    assert same(fit(tmp_path / "stopped", row=row).state, whole.state)
