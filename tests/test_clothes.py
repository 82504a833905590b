"""Losses that read what is worn: the interface (views, a step ahead, a later start) and CAL (papers/cal.py)."""

import copy
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trees
from PIL import Image
from test_train import Net
from torch import nn

import datasets
import losses
import main
import models
import train
import video
from loading.views import Views
from machine import graphs
from papers import cal
from recipes import RECIPES

WEARERS = (0, 0, 1, 2, 2, 2, 3)  # who wears each of the clothes
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
CLOTHES = torch.tensor([0, 1, 2, 2, 3, 5, 6, 6])


def views_of(clothes=CLOTHES):
    return Views(torch.zeros(len(clothes), dtype=torch.int64), clothes=clothes)


def output_of(feats):
    return type("Out", (), {})() if feats is None else cal.Output(feats, (), (feats,))


def test_adversarial_loss_against_its_formula():
    """Eq. (4) and (5): one image, one set of clothes at a time."""
    torch.manual_seed(0)
    logits = torch.randn(8, 7, dtype=torch.float64, requires_grad=True)
    own = torch.tensor(WEARERS) == LABELS[:, None]
    total = 0.0
    for i in range(8):
        mine = [c for c in range(7) if WEARERS[c] == LABELS[i]]
        others = sum(logits[i, c].exp() for c in range(7) if c not in mine)
        for c in mine:
            q = 0.1 / len(mine) + (0.9 if c == CLOTHES[i] else 0.0)
            total = total - q * (logits[i, c].exp() / (logits[i, c].exp() + others)).log()
    found = cal.clothes_adversarial_loss(logits, CLOTHES, own, 0.1)
    torch.testing.assert_close(found, total / 8)
    torch.testing.assert_close(
        *(torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (found, total / 8))
    )
    assert cal.clothes_adversarial_loss(100 * logits, CLOTHES, own, 0.1).isfinite()


def criterion_of(dim, begins=0):
    torch.manual_seed(1)
    clothes = cal.ClothesAdversary(WEARERS, dim, lr=0.01, weight_decay=0.1, clothes_from=begins)
    return losses.Criterion(id=(1, losses.IDLoss()), clothes=(0.5, clothes))


def recipe_of(**fields):
    return RECIPES["bot"].with_(optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, **fields)


def batch():
    torch.manual_seed(2)
    return torch.randn(8, 3, 4, 4), LABELS, views_of()


def test_the_step_ahead_is_made_before_the_terms_are_computed():
    """One iteration written out: the classifier of clothes learns on detached features; the network by what it says
    then; the classifier keeps still."""
    net, criterion = Net(), criterion_of(6)
    images, labels, views = batch()
    mine, theirs = copy.deepcopy(net), copy.deepcopy(criterion)
    optimizers = train.build_optimizers(net, criterion, recipe_of())
    assert [train.is_ahead(each) for each in optimizers] == [False, True]
    train.train_one_epoch(net, criterion, iter([(images, labels, views)]), optimizers, train.Span(0, 1))

    loss = theirs.losses["clothes"]
    own = torch.optim.Adam(loss.parameters(), lr=0.01, weight_decay=0.1)
    feats = mine(images).feats[0]
    F.cross_entropy(16 * F.linear(F.normalize(feats.detach()), F.normalize(loss.weight)), views.clothes).backward()
    own.step()
    out = mine(images)
    logits = 16 * F.linear(F.normalize(out.feats[0]), F.normalize(loss.weight.detach()))
    adversarial = cal.clothes_adversarial_loss(logits, views.clothes, loss.wearers == labels[:, None], 0.1)
    (F.cross_entropy(out.logits[0], labels) + 0.5 * adversarial).backward()
    torch.optim.SGD([p for p in mine.parameters() if p.grad is not None], lr=0.1).step()
    torch.testing.assert_close(criterion.losses["clothes"].weight, loss.weight, rtol=1e-6, atol=1e-7)
    for (name, p), q in zip(net.named_parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=name)


class Plain(models.Model):
    """No batch norm, which would see the chunks apart, and nothing drawn."""

    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Tanh())
        self.classifier = nn.Linear(6, 4)

    def forward(self, images, views=None):
        feature = self.base(images)
        return models.Output(feature, (self.classifier(feature),), (feature,))


def test_chunks_take_the_same_step_ahead():
    weights = []
    for chunks in (1, 2):
        torch.manual_seed(0)
        net, criterion = Plain(), criterion_of(6)
        optimizers = train.build_optimizers(net, criterion, recipe_of())
        how = train.Conditions(chunks=chunks)
        train.train_one_epoch(net, criterion, iter([batch(), batch()]), optimizers, train.Span(0, 2), how)
        weights.append([p.detach().clone() for p in (*net.parameters(), *criterion.parameters())])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_loss_that_begins_later_is_no_term_before_and_moves_nothing():
    net, criterion = Net(), criterion_of(6, begins=2)
    before = criterion.losses["clothes"].weight.detach().clone()
    optimizers = train.build_optimizers(net, criterion, recipe_of())
    names = []
    for epoch in range(4):
        criterion.epoch = epoch
        means = train.train_one_epoch(net, criterion, iter([batch()]), optimizers, train.Span(epoch, 1))
        names.append([*means])
        assert criterion.collapsed(means, {}) == []
        assert torch.equal(criterion.losses["clothes"].weight, before) == (epoch < 2)
    assert names == [["loss", "id"], ["loss", "id"], ["loss", "id", "clothes"], ["loss", "id", "clothes"]]
    criterion.check_begins(3)
    with pytest.raises(ValueError, match="clothes loss joins after epoch 2, and the run has 2 epochs.*--clothes_from"):
        criterion.check_begins(2)


def test_the_networks_optimiser_leaves_the_classifier_of_clothes_alone():
    net, criterion = Net(), criterion_of(6)
    main_one, own = train.build_optimizers(net, criterion, recipe_of())
    of_main = {id(p) for group in main_one.param_groups for p in group["params"]}
    assert id(criterion.losses["clothes"].weight) not in of_main
    assert isinstance(own, torch.optim.Adam) and own.param_groups[0]["weight_decay"] == 0.1
    center = losses.Criterion(id=(1, losses.IDLoss()), center=(5e-4, losses.CenterLoss(4, 6, sgd_lr=0.5)))
    _, sgd = train.build_optimizers(net, center, recipe_of())
    assert isinstance(sgd, torch.optim.SGD) and sgd.param_groups[0]["lr"] == 1000 and not train.is_ahead(sgd)


class Curious(nn.Module):
    """A network that would read what is worn."""

    def forward(self, images, views):
        assert views.clothes is None and views.infrared is not None
        return cal.Output(images.flatten(1))


def test_no_network_is_told_what_is_worn():
    told = views_of()._replace(infrared=torch.zeros(8, dtype=torch.bool))
    images, labels, _ = batch()

    def judge(output, labels, views):
        return {"x": views.clothes.sum()}

    terms, _ = train.whole(Curious(), judge, (images, labels, told), 0, train.Conditions())
    assert int(terms["x"]) == int(CLOTHES.sum())  # the losses are
    assert not graphs.Replayed.able(images, told)


def test_a_batch_without_clothes_is_an_error():
    loss = cal.ClothesAdversary(WEARERS, 6)
    feats = torch.randn(8, 6)
    for views in (None, Views(torch.zeros(8, dtype=torch.int64))):
        with pytest.raises(ValueError, match="what is worn in each image, and this batch does not say"):
            loss(cal.Output(feats, (), (feats,)), LABELS, views)


def test_the_loader_hands_out_the_clothes_of_each_image(tmp_path):
    names = [
        f"{pid:04d}_{worn}_c{camera}_{n}.png" for pid in (1, 2) for worn in (1, 2) for camera in (1, 2) for n in (0, 1)
    ]
    for folder in ("train", "query", "test"):
        (tmp_path / folder).mkdir()
        for i, name in enumerate(names):
            Image.fromarray(np.full((16, 8, 3), 10 * i, np.uint8)).save(tmp_path / folder / name)
    data = datasets.combine([datasets.load_splits("ltcc", tmp_path)])
    loader = trees.train_loader(data.samples, data.labels, clothes=data.clothes, p=2, k=4, image_size=(16, 8),
                                flip=0.0, pad=0, erase=0.0, progress=False, workers=1)  # fmt: skip
    for images, labels, views in loader.epoch(0):
        brightness = (images[:, 0, 0, 0] * 0.229 + 0.485) * 255 / 10
        wanted = torch.tensor([data.clothes[i] for i in brightness.round().int().tolist()])
        assert torch.equal(views.clothes, wanted) and torch.equal(torch.tensor(data.wearers)[views.clothes], labels)


# ---- over clips ----


def test_a_clip_is_the_mean_of_its_frames_ahead_of_batch_norm():
    """Written out, one clip and one frame at a time; clips of different lengths, and several clips of one tracklet."""
    torch.manual_seed(0)
    net = cal.CALVideo(num_pids=4, backbone="resnet18")
    model, lengths = video.Tracklet(net), (2, 3, 1)
    images = torch.randn(3, 3, 3, 64, 32)
    there = torch.arange(3) < torch.tensor(lengths)[:, None]
    views = Views(torch.zeros(3, dtype=torch.int64), there=there)
    twin = copy.deepcopy(net)
    found = model.train()(images, views)

    maps = twin.train().base(torch.cat([images[i, :n] for i, n in enumerate(lengths)]))  # one batch of six frames
    frames = iter(maps)
    means = []
    for n in lengths:
        maxima = [torch.stack([channel.max() for channel in next(frames)]) for _ in range(n)]
        means.append(sum(maxima) / n)
    pooled = torch.stack(means)
    mean, var = pooled.mean(0), pooled.var(0, correction=0)
    f = (pooled - mean) / (var + 1e-5).sqrt() * twin.bn.weight + twin.bn.bias
    logits = f @ twin.classifier.weight.T + twin.classifier.bias
    torch.testing.assert_close(found.feats[0], f, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits[0], logits, rtol=1e-4, atol=1e-4)
    assert found.embedding is found.feats[0] and found.parts is None
    assert not torch.allclose(found.feats[0][0], twin(images[0, :2]).feats[0].mean(0), atol=1e-2)  # frames ahead of it

    model.eval()  # tested in two chunks: clips 0 and 1 are one tracklet, 2 is another
    twin.load_state_dict(model.state_dict())
    packed = torch.cat([images[i, :n] for i, n in enumerate(lengths)])
    with torch.no_grad():
        tested = model.tracklets((packed[:4], packed[4:]), lengths, (2, 1), None)
        single = [twin.eval()(packed[i : i + 1]).embedding[0] for i in range(6)]  # an image: a clip of one frame
    clips = [(single[0] + single[1]) / 2, (single[2] + single[3] + single[4]) / 3, single[5]]
    torch.testing.assert_close(
        tested.embedding, torch.stack([(clips[0] + clips[1]) / 2, clips[2]]), rtol=1e-4, atol=1e-4
    )
    assert tested.logits == () and tested.feats[0].shape == (2, 512)


@pytest.mark.parametrize("how", ["max", "attention"])
def test_other_poolings_of_a_clip_come_ahead_of_batch_norm_too(how):
    torch.manual_seed(0)
    net = cal.CALVideo(num_pids=0, backbone="resnet18").eval()
    model = video.Tracklet(net, how).eval()
    images = torch.randn(2, 3, 3, 64, 32)
    with torch.no_grad():
        if how == "attention":
            torch.nn.init.normal_(model.attention.weight, std=0.1)
        maxima = net.base(images.flatten(0, 1)).amax(dim=(2, 3)).unflatten(0, (2, 3))  # (B, T, C)
        if how == "max":
            expected = maxima.amax(dim=1)
        else:
            expected = (model.attention(maxima).softmax(dim=1) * maxima).sum(dim=1)
        torch.testing.assert_close(model(images).embedding, net.bn(expected), rtol=1e-5, atol=1e-5)


def test_the_row_of_clips_is_the_configuration():
    """Simple-CCReID f773d01, configs/default_vid.py, c2dres50_ce_cal.yaml, script.sh: two processes of 16 clips."""
    recipe = RECIPES["cal_video"]
    assert (recipe.seq_len, recipe.sample_method, recipe.frame_stride, recipe.cut_tracklets) == (8, "stride", 4, 64)
    assert (recipe.p, recipe.k, recipe.epochs, recipe.milestones, recipe.lr) == (8, 4, 150, (40, 80, 120), 3.5e-4)
    assert (recipe.image_size, recipe.last_stride, recipe.metric, recipe.test_frames) == (
        (256, 128),
        1,
        "cosine",
        "dense",
    )
    small = recipe.with_(backbone="resnet18")
    (_, _, identity), (_, weight, loss) = small.losses(4, WEARERS).terms
    assert (identity.label_smoothing, weight, loss.scale, loss.epsilon, loss.begins) == (0.0, 1.0, 16.0, 0.1, 50)
    assert tuple(loss.weight.shape) == (7, 512) and recipe.model(0).embedding_dim == 2048


def gaits(root, people=10, seed=0):
    """`dressed` people in CCVID's layout: a tracklet of a few frames for each person, clothes and camera."""
    rng, lines = np.random.default_rng(seed), {"train": [], "query": [], "gallery": []}
    for pid, worn, camera in itertools.product((*range(people), *range(30, 30 + people)), (1, 2), (1, 2)):
        part = "train" if pid < 30 else "query" if camera == 1 else "gallery"
        place = f"session{camera}/{pid:03d}_{10 * worn + camera:02d}"
        (root / place).mkdir(parents=True)
        lines[part].append(f"{place}\t{pid:03d}\tu{worn}_l0_s0_c0_a0")
        legs, shade = 40 + np.random.default_rng(pid).integers(0, 180, 3), rng.integers(0, 40)
        for n in range(11 if part == "train" else 3):
            image = rng.integers(0, 80, (64, 32, 3)) + shade
            image[8:36, 6:26] = COLOURS[(pid + worn) % 4]
            image[40:60, 8:24] = legs + rng.integers(-25, 25, (20, 16, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / place / f"{n:05d}.png")
    for part, text in lines.items():
        (root / f"{part}.txt").write_text("\n".join(text) + "\n")
    return root


def test_cal_learns_from_clips(tmp_path):
    """Tracklets of people nobody has seen, in other clothes: mAP 0.29 to 0.54 over six seeds, 0.10 without training."""
    folder = gaits(tmp_path / "CCVID")
    words = ["--mode", "train", "--recipe", "cal_video", "--backbone", "osnet_x0_25", "--last_stride", "2",
             "--pretrained", "none", "--ccvid_path", folder, "--image_size", "64", "32", "--p", "8", "--k", "2",
             "--seq_len", "2", "--frame_stride", "2", "--cut_tracklets", "5", "--steps", "24", "--clothes_from", "3",
             "--epochs", "5", "--lr", "2e-3", "--eval_every", "0", "--amp", "none", "--num_queries", "0",
             "--workers", "1"]  # fmt: skip
    run(*words, "--output_path", tmp_path / "run")
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())["ccvid"]
    assert [*told["protocols"]] == ["market1501", "same_clothes"] and told["num_query"] == 20
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert ["clothes" in line for line in log] == [False] * 3 + [True] * 2 and log[-1]["id"] < log[0]["id"]
    run(*words, "--output_path", tmp_path / "start", "--epochs", "1", "--steps", "1", "--lr", "1e-9",
        "--clothes_from", "0")  # fmt: skip
    start = json.loads((tmp_path / "start" / "metrics.json").read_text())["ccvid"]
    assert told["mAP"] > start["mAP"] + 0.12
    run("--mode", "test", "--weights", tmp_path / "run" / "model.pt", "--ccvid_path", folder, "--output_path",
        tmp_path / "again", "--workers", "1")  # fmt: skip
    (found,) = (tmp_path / "again").glob("metrics*.json")
    assert json.loads(found.read_text())["ccvid"]["mAP"] == pytest.approx(told["mAP"], abs=1e-6)


# ---- from the command line: a small set in LTCC's layout ----

COLOURS = [(230, 30, 30), (30, 230, 30), (30, 30, 230), (230, 230, 30)]


def dressed(root, people=10, seed=0):
    """People whose legs (who they are) differ in shade a little, and whose coats (what they wear) differ much."""
    rng = np.random.default_rng(seed)
    for folder, pids in (("train", range(people)), ("query", range(30, 30 + people)), ("test", range(30, 30 + people))):
        (root / folder).mkdir(parents=True)
        for pid, worn, camera, n in itertools.product(pids, (1, 2), (1, 2), range(3 if folder == "train" else 1)):
            legs = 40 + np.random.default_rng(pid).integers(0, 180, 3)
            image = rng.integers(0, 80, (64, 32, 3)) + rng.integers(0, 40)
            image[8:36, 6:26] = COLOURS[(pid + worn) % 4]
            image[40:60, 8:24] = legs + rng.integers(-25, 25, (20, 16, 3))
            name = f"{pid:03d}_{worn}_c{camera + (2 if folder == 'test' else 0)}_{n:06d}.png"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / folder / name)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return dressed(tmp_path_factory.mktemp("clothes") / "LTCC")


def command(folder, output, *more):
    return ["--mode", "train", "--recipe", "cal", "--backbone", "osnet_x0_25", "--last_stride", "2", "--pretrained",
            "none", "--ltcc_path", folder, "--output_path", output, "--image_size", "64", "32", "--p", "4", "--k", "4",
            "--steps", "4", "--clothes_from", "2", "--epochs", "4", "--lr", "2e-3", "--eval_every", "0", "--erase", "0",
            "--amp", "none", "--num_queries", "0", "--workers", "1", *more]  # fmt: skip


def run(*words):
    assert main.main([str(word) for word in words]) == 0


def test_cal_learns_to_find_people_in_other_clothes(folder, tmp_path, capsys):
    """mAP of people nobody has seen, in other clothes: 0.41 here, where an untrained network has 0.08."""
    run(*command(folder, tmp_path, "--epochs", "6", "--steps", "16", "--p", "8"))
    text = capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["clothes" in line for line in log] == [False, False, *[True] * 4]
    told = json.loads((tmp_path / "metrics.json").read_text())["ltcc"]
    assert told["measured"]["protocol"] == "changed_clothes" and [*told["protocols"]] == ["market1501", "same_clothes"]
    assert "  same_clothes" in text and "  market1501" in text
    run(*command(folder, tmp_path / "start", "--epochs", "1", "--steps", "1", "--lr", "1e-9", "--clothes_from", "0"))
    start = json.loads((tmp_path / "start" / "metrics.json").read_text())["ltcc"]
    assert told["mAP"] > start["mAP"] + 0.15 and told["rank1"] > start["rank1"] and log[-1]["id"] < log[0]["id"]


def test_a_killed_run_of_cal_goes_on_bit_for_bit(folder, tmp_path, monkeypatch):
    run(*command(folder, tmp_path / "whole"))
    step, calls = train.backward_and_step, []

    def dies(*args):
        calls.append(1)
        if len(calls) == 15:  # in the last epoch
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(train, "backward_and_step", dies)
    assert main.main([str(word) for word in command(folder, tmp_path / "killed")]) != 0
    monkeypatch.setattr(train, "backward_and_step", step)
    run(*command(folder, tmp_path / "killed"))
    a, b = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "killed"))
    for part in ("model", "criterion"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])
    assert str(a["optimizers"][1]) == str(b["optimizers"][1]) and len(a["optimizers"]) == 2


def test_a_set_that_does_not_say_what_is_worn_is_refused(tmp_path, capsys):
    for name in ("bounding_box_train/0001_c1s1_000001_00.jpg", "bounding_box_train/0002_c2s1_000001_00.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 64), (40 * len(name), 9, 9)).save(tmp_path / name)
    words = [str(word) for word in command(tmp_path, tmp_path / "out")]
    words[words.index("--ltcc_path")] = "--market_path"
    assert main.main(words) != 0
    assert "recipe cal learns which clothes are worn, and market does not say" in capsys.readouterr().err


def test_a_start_behind_the_end_is_refused(folder, tmp_path, capsys):
    assert main.main([str(word) for word in command(folder, tmp_path, "--clothes_from", "4")]) != 0
    assert "the clothes loss joins after epoch 4, and the run has 4 epochs" in capsys.readouterr().err


def test_protocols_of_a_test_and_of_features(folder, tmp_path):
    """Every protocol asked for by name is the one measured beside the set's own; features in files say what is worn."""
    run(*command(folder, tmp_path, "--epochs", "3"))
    told = json.loads((tmp_path / "metrics.json").read_text())["ltcc"]
    run("--mode", "extract", "--ltcc_path", folder, "--weights", tmp_path / "model.pt", "--output_path", tmp_path / "f")
    files = [tmp_path / "f" / f"ltcc_{side}.npz" for side in ("query", "gallery")]
    run("--mode", "test", "--features", *files, "--output_path", tmp_path / "g")
    (found,) = (tmp_path / "g").glob("metrics*.json")
    again = next(iter(json.loads(found.read_text()).values()))
    assert again["mAP"] == pytest.approx(told["mAP"], abs=1e-6)
    assert told["protocols"]["same_clothes"]["mAP"] != told["mAP"]


def test_the_row_is_the_configuration():
    """Simple-CCReID f773d01, configs/default_img.py, res50_cels_cal.yaml."""
    recipe = RECIPES["cal"]
    assert recipe.uses_clothes and not RECIPES["bot"].uses_clothes
    assert not dataclasses.replace(recipe, options={"clothes_weight": 0.0}).uses_clothes
    (_, _, identity), (_, weight, loss) = recipe.with_(backbone="resnet18").losses(4, WEARERS).terms
    assert (identity.label_smoothing, weight, loss.scale, loss.epsilon, loss.begins) == (0.1, 1.0, 16.0, 0.1, 25)
    assert (loss.lr, loss.weight_decay, tuple(loss.weight.shape)) == (3.5e-4, 5e-4, (7, 1024))
    with pytest.raises(ValueError, match="clothes_from"):
        recipe.with_(backbone="resnet18", options={"clothes_from": -1}).losses(4)
