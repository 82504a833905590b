"""The hook before an epoch and stages that change the recipe: what is trained on, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import Net, comparable, recipe, same
from torch import nn

import checkpoints
import config
import datasets
import epochs
import models
import tester
import train
import training
from config import Stage, Term
from epochs import Answer, Hook
from recipes import RECIPES
from run import Run

SIZE = (12, 8)


class Memory(nn.Module):
    """The mean feature of each label, set before an epoch; the loss is the distance to it. Its size follows."""

    means: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("means", torch.zeros(0, 6))

    def begin_epoch(self, features, labels):
        used = labels >= 0
        sums = torch.zeros(int(labels.max()) + 1, features.shape[1]).index_add_(0, labels[used], features[used])
        self.means = sums / torch.bincount(labels[used])[:, None]

    def forward(self, output, labels):
        return (output.embedding - self.means[labels]).square().sum(1).mean()

    def _load_from_state_dict(self, state, prefix, *rest):
        self.means = state[f"{prefix}means"].clone()
        super()._load_from_state_dict(state, prefix, *rest)


class Halves(Hook):
    """Labels by the side of the median on which the first coordinate lies; one sample in `omit` is left out."""

    def __init__(self, omit: int = 4):
        self.omit = omit

    def begin_epoch(self, moment):
        assert not moment.model.training
        features = moment.features()
        assert not features.is_inference()
        labels = (features[:, 0] > features[:, 0].median()).long()
        labels[(torch.arange(len(labels)) + moment.epoch) % self.omit == 0] = -1
        return Answer(labels=labels, features=features, told={"left_out": int((labels < 0).sum())})


class Cached(Hook):
    """The features of the first epoch of the first stage, for all of that stage."""

    def begin_epoch(self, moment):
        return Answer(inputs=moment.features()) if moment.stage == 0 and moment.first else None


class Watched(Net):
    """Answers for rows (B, 6) as for images, and writes down what it was given in training: inputs, labels."""

    reads_labels = True

    def __init__(self):
        super().__init__(dropout=0.2)
        self.seen = []

    def forward(self, images, views=None):
        if self.training:
            self.seen.append((images.detach().clone(), views.label))
        feature = self.dropout(self.base(images).mean((2, 3)) if images.ndim == 4 else images)
        after = self.bottleneck(feature) + self.bottleneck_1(feature)
        return models.Output(after, (self.classifier(after),), (feature,))


@pytest.fixture
def data(tmp_path):
    rng, samples = np.random.default_rng(0), []
    for i in range(16):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
        samples.append(datasets.Sample(str(path), i // 4, i % 3))
    return datasets.combine([datasets.Splits("toy", tuple(samples), (), ())])


def toy(**fields):
    """The demonstration's recipe at the size of the toy images, 2 x 4 of them in a batch."""
    own = {"image_size": SIZE, "p": 2, "k": 4, "steps": 3, "epochs": 3, "epoch_length": "groups"}
    return recipe(**{**own, **fields})


BY_HALVES = {"hook": Halves, "id_weight": 0.0, "terms": {"memory": Term(1.0, Memory)}}


def run_of(data, folder, row, stop_at=None, resume=True, chunks=1):
    """A training as ``main.ready`` makes it, around a small network. stop_at: (epoch, step), stands for Ctrl-C."""
    args = SimpleNamespace(
        cache="ram", cache_path=None, workers=1, skip_bad_images=False, seed=0, accumulate=1, grad_checkpoint=False
    )
    device = torch.device("cpu")
    run = Run(device, "none", False, folder)
    loader = training.data(args, row, run, data)
    torch.manual_seed(0)
    net = Watched()
    torch.manual_seed(0)
    criterion = row.losses(4)
    phases = training.phases_of(args, data, epochs.Phase(row, criterion, loader), run)
    for each in {id(found): found for found in (loader, *(phase.loader for phase in phases))}.values():
        each.epoch = functools.partial(stopping, each.epoch, stop_at)
    tested = tester.Tester(row, {}, tester.Options(batch_size=5, progress=False), device=device)
    between = epochs.Between(row.before_epochs(), tested.of_training, phases)
    conditions = train.Conditions(between=between, chunks=chunks)
    said, where = [], checkpoints.Folder(folder, {"recipe": "toy"}, resume)
    log = train.fit(net, criterion, loader, row, where, lambda model, stop: {}, conditions, said.append)
    state = checkpoints.load(folder / "last.pt")
    return SimpleNamespace(log=log, net=net, criterion=criterion, said=said, state=state, phases=phases, loader=loader)


def stopping(batches, at, epoch, start=0):
    for step, batch in enumerate(batches(epoch, start), start=start):
        if (epoch, step) == at:
            signal.raise_signal(signal.SIGTERM)
        yield batch


# ============ a hook that labels, one that feeds ============


def test_a_hook_that_labels_decides_what_is_drawn_and_reaches_losses_and_log(data, tmp_path):
    found = run_of(data, tmp_path / "a", toy(**BY_HALVES))
    assert [line["left_out"] for line in found.log] == [4, 4, 4] and "left_out 4" in found.said[0]
    labels = torch.cat([label for _, label in found.net.seen])
    assert set(labels.tolist()) == {0, 1} and len(labels) == 3 * 3 * 8
    assert found.criterion.losses["memory"].means.shape == (2, 6)
    drawn = found.state["loader"]["labels"]
    assert (drawn == -1).sum() == 4 and found.state["loader"].keys() == {"balanced", "labels"}


def test_true_labels_do_not_matter_to_a_hook_that_leaves_them_alone(data, tmp_path):
    other = dataclasses.replace(data, labels=tuple((i * 7 + 3) % 4 for i in range(16)))
    runs = [run_of(each, tmp_path / str(i), toy(**BY_HALVES)) for i, each in enumerate((data, other))]
    assert same(*(dict(run.net.state_dict()) for run in runs))
    labelled = [run_of(each, tmp_path / f"l{i}", toy()) for i, each in enumerate((data, other))]
    assert not same(*(dict(run.net.state_dict()) for run in labelled))


def test_a_hook_that_feeds_features_yields_rows_of_them(data, tmp_path):
    found = run_of(data, tmp_path / "a", toy(hook=Cached))
    rows = found.state["loader"]["inputs"]
    assert rows.shape == (16, 6) and len(found.net.seen) == 9
    for inputs, labels in found.net.seen:
        which = (inputs[:, None] == rows).all(2).nonzero()
        assert torch.equal(which[:, 0], torch.arange(8)) and torch.equal(which[:, 1] // 4, labels)


def test_rows_that_a_hook_feeds_are_trained_in_parts_too(data, tmp_path):
    """Losses read them, and no gradient flows on to them (--accumulate)."""
    found = run_of(data, tmp_path, toy(hook=Cached, triplet_weight=1.0), chunks=2)
    assert [math.isfinite(line["triplet"]) for line in found.log] == [True] * 3
    torch.manual_seed(0)
    assert not torch.equal(found.net.classifier.weight, Watched().classifier.weight)


def test_features_are_of_the_test_form_in_order_whatever_the_batch(data, tmp_path):
    row = toy(**BY_HALVES, pad=3, erase=1.0)
    found = run_of(data, tmp_path / "a", row)
    pixels = [torch.from_numpy(np.array(Image.open(sample.path))) for sample in data.samples]
    images = torch.stack(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(row.mean)[:, None, None]
    net = found.net.eval()
    expected = net(images / torch.tensor(row.std)[:, None, None]).embedding
    tested = tester.Tester(row, {}, tester.Options(batch_size=5, progress=False), device=torch.device("cpu"))
    torch.testing.assert_close(tested.of_training(net, found.loader), expected.detach(), rtol=1e-5, atol=1e-6)


# ============ stages that change the recipe ============

PROMPTS = Stage(
    2, ("bottleneck",), changes={"optimizer": "sgd", "lr": 0.5, "p": 0, "batch_size": 6, "steps": 2, "id_weight": 2.0}
)
STAGED = {"hook": Cached, "stages": (PROMPTS, Stage(2)), "epochs": 4, "optimizer": "adam", "lr": 0.01}


def test_a_stage_trains_by_the_recipe_as_it_changes_it(data, tmp_path):
    found = run_of(data, tmp_path / "a", toy(**STAGED))
    assert [line["lr"] for line in found.log] == [0.5, 0.5, 0.01, 0.01]
    assert [tuple(images.shape) for images, _ in found.net.seen] == [(6, 6)] * 4 + [(8, 3, *SIZE)] * 6
    assert found.state["stage"] == 1 and "inputs" not in found.state["loader"]
    assert [type(phase.recipe.optimizer) and phase.recipe.optimizer for phase in found.phases] == ["sgd", "adam"]
    first, then = (phase.criterion for phase in found.phases)
    assert first.weights["id"] == 2 and then.weights["id"] == 1 and then is found.criterion


def test_the_schedule_of_a_stage_with_changes_starts_with_it():
    changes = {"schedule": "cosine", "lr": 0.1}
    row = toy(stages=(Stage(2), Stage(4, changes=changes)), epochs=6, lr=0.01)
    found = [rate for _, rate in train.rates(row, 6, absolute=True)]
    cosine = [0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    assert found == pytest.approx([0.01, 0.01, *cosine])


# ============ resumed bit for bit ============


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("fields", [BY_HALVES, STAGED], ids=["labels", "stages"])
@pytest.mark.parametrize("at", [(0, 0), (1, 1), (2, 0), (2, 1)])
def test_a_run_stopped_in_mid_epoch_goes_on_as_if_it_had_not(data, tmp_path, fields, at):
    whole = run_of(data, tmp_path / "whole", toy(**fields))
    with pytest.raises(train.Interrupted):
        run_of(data, tmp_path / "stopped", toy(**fields), stop_at=at)
    stopped = run_of(data, tmp_path / "stopped", toy(**fields))
    assert same(stopped.state, whole.state) and comparable(stopped.log) == comparable(whole.log)


# ============ refused ============


class Answers(Hook):
    def __init__(self, given=None):
        self.given = given

    def begin_epoch(self, moment):
        return self.given


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(labels=torch.zeros(5)), "Answers answered 5 labels for 16 training samples"),
        (Answer(inputs=torch.zeros(5, 2)), "Answers answered 5 inputs for 16 training samples"),
        (Answer(labels=-torch.ones(16)), "Answers left out all of the 16 training samples"),
        (Answer(labels=torch.arange(16)), "label 15, and the network classifies 4 identities.*--id_weight 0"),
        (Answer(inputs=torch.full((16, 2), math.nan)), "inputs that are not finite"),
    ],
)
def test_an_answer_that_does_not_fit_is_one_message(answer, message):
    with pytest.raises(ValueError, match=message):
        epochs.checked(answer, 16, 4, "Answers")


def test_features_without_a_way_to_compute_them_are_one_message(data, tmp_path):
    with pytest.raises(ValueError, match="no way to compute them"):
        epochs.Between().features(None, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (8, 8)}, "changes image_size, which holds for a whole run"),
        ({"optimiser": "sgd"}, r"changes optimiser, which is no field \(did you mean optimizer\?\)"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"optimizer": "lion"}, "optimizer is 'lion', expected"),
    ],
)
def test_a_stage_cannot_change_what_holds_for_a_run(changes, message):
    with pytest.raises(ValueError, match=message):
        config.checked(RECIPES["demo"], {"name": "mine", "stages": (Stage(1, changes=changes),)})


def test_a_hook_with_an_option_has_a_flag_and_one_without_its_default_is_refused():
    row = config.checked(RECIPES["demo"], {"name": "mine", "hook": Halves, "options": {"omit": 5}})
    assert config.option_defaults(row)["omit"] == 5 and row.before_epochs().omit == 5
    assert row.settings()["hook"] == "Halves"

    class Needs(Hook):
        def __init__(self, depth):
            self.depth = depth

    with pytest.raises(ValueError, match="Needs needs depth"):
        config.checked(RECIPES["demo"], {"name": "mine", "hook": Needs})
