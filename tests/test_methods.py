"""Every recipe through the real training loop on a small built-in set: losses fall, gradients arrive, mAP rises.

Networks are made small where the method allows it (a ResNet-18, little images, few branches' widths); what is tested is
the row with its losses, optimisers and stages, not the size of its backbone.
"""

import contextlib
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
import trees

import architectures
import datasets
import evaluate
import main
import models
import tester
import train
from config import check_trunk
from loading.views import Views
from papers import caj, cal, clip_reid, light_mbn
from recipes import RECIPES
from synthetic import pictures

IMAGE_SIZE = (64, 32)
STEPS = 6

# What a row is tested with. Rows that are not named here keep their backbone: it is small enough, or it is the row.
SMALL = {
    "resnet50": "resnet18",
    "resnet101": "resnet18",
    "resnet50_ibn_a": "resnet18",
    "resnet101_ibn_a": "resnet18",
    "resnest50": "resnest14d",
    "vit_base_patch16_224": "vit_tiny_patch16_224",
    "vit_small_patch16_224": "vit_tiny_patch16_224",
    "vit_base_patch16_clip_quickgelu_224": "vit_tiny_patch16_224",
    "clip_resnet50": "resnet18",
    "solider_swin_small": "solider_swin_tiny",
    "solider_swin_base": "solider_swin_tiny",
    "osnet_x1_0": "osnet_x0_25",
    "osnet_x0_75": "osnet_x0_25",
    "osnet_ain_x1_0": "osnet_ain_x0_25",
    "osnet_ain_x0_75": "osnet_ain_x0_25",
}
FIELDS = {
    "pcb": {"image_size": (96, 32)},
    "pcb_after": {"image_size": (96, 32)},
    "pcb_independent": {"image_size": (96, 32)},
    "pcb_rpp": {"image_size": (96, 32), "epochs": 2},
    "pcb_rpp_induced": {"image_size": (96, 32), "epochs": 3},
    "pyramid": {"image_size": (96, 32)},
    "resnet50mid": {"backbone": "resnet50"},  # it needs three blocks in the last stage
    "agw": {"options": {"non_local": (0, 1, 1, 0)}},
    "agw_rgbir": {"options": {"non_local": (0, 1, 1, 0)}},
    "caj": {"options": {"non_local": (0, 1, 1, 0)}},
    **{
        row: {"options": {"non_local": (0, 1, 1, 0)}}
        for row, recipe in RECIPES.items()
        if row.startswith(("fastreid_agw", "sbs")) and "non_local" in recipe.options
    },
    "hacnn": {"image_size": (80, 32)},
    "mudeep": {"image_size": (32, 16)},
    "mlfn": {"image_size": (32, 16)},
    **{
        row: {"options": recipe.options | {"text_width": 64, "text_depth": min(1, recipe.options["text_depth"])}}
        for row, recipe in RECIPES.items()
        if row.startswith("clip_")
    },
}


def small(name):
    """The row at a size for seconds."""
    recipe = RECIPES[name]
    backbone = SMALL.get(recipe.backbone, recipe.backbone)
    size = {"image_size": IMAGE_SIZE, "backbone": backbone, "pretrained": "none", "fixbase_epochs": 0, "steps": None}
    batch = {"p": 4, "k": 2} if recipe.p else {"batch_size": 8}
    return recipe.with_(**size | batch | FIELDS.get(name, {}))


# What no pretrained weights fill, by the beginnings of the names; everything else is the trunk.
BOT, PARTS, LOCAL = ("bottleneck.", "classifier."), ("reduction.", "classifier."), ("local_conv.", "local_bn.")
JPM = tuple(f"{kind}{i}." for kind in ("bottleneck", "classifier") for i in ("", "_1", "_2", "_3", "_4"))
CLIP = (*BOT, "bottleneck_1.", "classifier_1.", "base.sie_embed", "prompt_learner.cls_ctx")
ALIGNED_MEMBER = (*LOCAL, "classifier.")
NEW = {
    models.Softmax: ("fc.", "classifier."),
    models.ResNet50M: ("fc_fusion.", "classifier."),
    models.AlignedReID: ALIGNED_MEMBER,
    models.AlignedReIDPlusPlus: ("bn.", "conv1.", "classifier."),
    models.PCB: PARTS,
    models.RPP: (*PARTS, "part_classifier."),
    models.Pyramid: PARTS,
    models.BagOfTricks: (*BOT, "global_pool."),
    models.AGW: (*BOT, "global_pool."),
    models.TwoStreamAGW: (*BOT, "global_pool."),
    caj.ChannelAugmented: (*BOT, "global_pool."),
    models.MGN: ("heads.",),
    models.TransReID: ("base.sie_embed", *JPM),
    architectures.MuDeep: ("classifier.",),
    architectures.HACNN: ("classifier_global.", "classifier_local."),
    architectures.MLFN: ("classifier.",),
    architectures.SOLIDER: BOT,
    cal.CAL: ("bn.", "classifier."),
    cal.CALVideo: ("bn.", "classifier."),
    clip_reid.ClipReID: CLIP,
    clip_reid.ClipReIDResNet: CLIP,
    light_mbn.LightMBN: ("enhance.", "heads.", "shared.", "halves."),
}
# The last map of the trunk at the size above: (C, h, w).
MAPS = {
    "softmax": (512, 2, 1), "osnet_x0_25": (128, 4, 2), "bot": (512, 4, 2), "mudeep": (256, 8, 4),
    "resnet50mid": (3 * 2048, 2, 1), "hacnn": (384, 5, 2), "mlfn": (2048, 1, 1), "pcb": (512, 6, 2),
    "pcb_rpp": (512, 6, 2), "pcb_rpp_induced": (512, 6, 2),
    "aligned": (512, 2, 1), "aligned_mutual": (512, 2, 1), "aligned_pp": (512, 2, 1),
    "pyramid": (512, 6, 2), "agw": (512, 4, 2), "agw_rgbir": (512, 4, 2), "caj": (512, 4, 2), "sbs": (512, 4, 2),
    "light_mbn": (3 * 128, 4, 2), "light_mbn_r": (3 * 512, 4, 2), "mgn": (3 * 512, 4, 2),
    "transreid": (192, 5, 2), "transreid_baseline": (192, 4, 2),
    "solider_swin_tiny": (768, 2, 1), "fastreid_vit": (192, 4, 2), "demo": (128, 4, 2), "cal": (512, 4, 2),
    "cal_video": (512, 4, 2),
    **{row: (192, 4, 2) for row in RECIPES if row.startswith(("transreid_ssl", "personvit"))},
    "clip_reid": (192, 4, 2), "clip_reid_sie_olp": (192, 5, 2), "clip_reid_rn50": (512, 4, 2),
    "clip_baseline": (192, 4, 2), "clip_baseline_rn50": (512, 4, 2),
}  # fmt: skip


def names_of_new(recipe):
    begins = NEW[recipe.network]
    return (
        tuple(f"members.{i}.{name}" for i in range(recipe.members) for name in begins) if recipe.members > 1 else begins
    )


@pytest.mark.parametrize("name", RECIPES)
def test_which_parameters_get_which_rate_and_which_are_open_in_each_stage(name):
    recipe = small(name).with_(base_lr_mult=0.1, bias_lr_mult=1.0, lr=1.0)
    with torch.device("meta"):
        model, criterion = recipe.model(5, num_cameras=3), recipe.losses(5)
    named = dict(model.named_parameters())
    never = {n for n, p in named.items() if not p.requires_grad}
    new = {n for n in named if n.startswith(names_of_new(recipe))}
    assert new and new < set(named)
    rates = {id(p): group["lr"] for group in train.build_optimizers(model, criterion, recipe)[0].param_groups
             for p in group["params"]}  # fmt: skip
    assert {n: rates.get(id(p)) for n, p in named.items()} == {
        n: None if n in never else 1.0 if n in new else 0.1 for n in named
    }

    def opened(stage):
        train.open_layers(model, stage.trainable, never)
        for n, module in model.named_modules():
            moves = any(p.requires_grad for p in module.parameters())
            assert module.training == (moves or not stage.trainable), n
        return {n for n, p in named.items() if p.requires_grad}

    if recipe.stages:
        for stage in recipe.plan():
            groups = tuple(f"{group}." for group in stage.trainable)
            assert opened(stage) == {n for n in named if n.startswith(groups or "")} - never
    else:
        first, then = recipe.with_(fixbase_epochs=1, epochs=2).plan()
        groups = () if recipe.open_layers == ("new",) else tuple(f"{group}." for group in recipe.open_layers)
        expected = {n for n in new if n.startswith(groups)} if groups else new
        assert opened(first) == expected - never and opened(then) == set(named) - never


def test_a_stage_may_open_one_module_alone_as_torchreid_opens_the_classifier_of_osnet():
    recipe = small("osnet_x0_25").with_(fixbase_epochs=1, epochs=2)
    model = recipe.outline(5)
    train.open_layers(model, recipe.plan()[0].trainable, set())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    assert not model.fc[1].training
    with pytest.raises(ValueError, match="heads layers alone.*Softmax has none.*base, fc, classifier"):
        model.layers("heads")


@pytest.mark.parametrize(("name", "given", "message"), [
    ("bot", {"fixbase_epochs": 3}, "--fixbase_epochs 3 .*--pretrained none"),
    ("hacnn", {"base_lr_mult": 0.5}, "--base_lr_mult 0.5 .*hacnn starts with --pretrained none"),
    ("softmax", {"pretrained": "imagenet", "fixbase_epochs": 1, "id_loss": "arcface"}, "opens the classifier layers"),
])  # fmt: skip
def test_layers_cannot_be_treated_apart_that_are_not_there(name, given, message):
    with pytest.raises(ValueError, match=message):
        check_trunk(small(name).with_(**given), given)


def test_layers_can_be_treated_apart_that_are_there():
    for name, given in (("softmax", {"fixbase_epochs": 1}), ("mgn", {"base_lr_mult": 0.1, "fixbase_epochs": 2}),
                        ("mlfn", {"fixbase_epochs": 5}), ("aligned_mutual", {"fixbase_epochs": 1})):  # fmt: skip
        assert check_trunk(small(name).with_(pretrained="imagenet", **given), given) is None
    assert check_trunk(small("pcb"), {}) is None  # the row's own rates, from scratch
    assert check_trunk(small("pcb"), {"base_lr_mult": 1.0, "fixbase_epochs": 0}) is None


def randomised(recipe):
    """The row's network in eval mode, its norms away from the identity."""
    torch.manual_seed(0)
    model = recipe.model(5, num_cameras=3).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 1 and value.is_floating_point():
            value.add_(0.1 * torch.randn(value.shape))
    return model


def answering(model):
    """The network whose maps are read in a test: of mutual learning the first, of tracklets that of the frames."""
    model = getattr(model, "image_model", model)
    return answering(model.members[0]) if isinstance(model, models.Mutual) else model


@pytest.mark.parametrize("name", RECIPES)
def test_a_model_shows_the_maps_that_its_embedding_is_made_of(name, monkeypatch):
    recipe = small(name)
    model = randomised(recipe)
    network = answering(model)
    images, views = torch.randn(2, 2, 3, *recipe.image_size), Views(torch.tensor([0, 2]))
    with torch.no_grad():
        maps, embedding = network.maps(images[0], views), model(images[0], views).embedding
        shown = model.feature_map(images[0], views)
    assert shown.shape == (2, *MAPS[name]) if name in MAPS else shown.shape[:2] == (2, model.base.out_channels)

    # all that the embedding reads of the images are these maps, and it reads every one of them
    leaves = [each.clone().requires_grad_() for each in maps]
    monkeypatch.setattr(network, "maps", lambda images, views=None: tuple(leaves))
    again = model(images[1], views).embedding
    assert torch.equal(again, embedding)
    (again * torch.randn_like(again)).sum().backward()
    assert all(leaf.grad.any() for leaf in leaves)

    # and those that have a place in the image are what a picture shows, channel by channel
    placed = maps[:1] if name in ("hacnn", "mlfn") else maps  # of regions that move, of factors
    if isinstance(network, models.TransReID):  # the class token
        placed = [maps[0][:, 1:].transpose(1, 2).unflatten(2, shown.shape[2:])]
    if isinstance(network, clip_reid.ClipReIDResNet):  # the last stage reads its map
        placed = [network.base.layer4(maps[0])]
    enlarged = [F.interpolate(each, size=shown.shape[2:]) for each in placed]
    assert torch.equal(shown, torch.cat(enlarged, dim=1)) and network.shown == model.shown


# A row of each network that has maps of its own, and the size at which its grid has rows and columns to tell apart.
PLACES = {"bot": (128, 64), "mudeep": (64, 32), "resnet50mid": (256, 128), "hacnn": (160, 64), "mlfn": (128, 64),
          "pcb": (192, 64), "aligned_mutual": (256, 128), "agw_rgbir": (128, 64), "mgn": (192, 64),
          "light_mbn": (192, 64), "light_mbn_r": (192, 64),
          "transreid": (128, 64), "transreid_baseline": (128, 64), "solider_swin_tiny": (256, 128),
          "transreid_ssl_vit_small_ics": (128, 64), "nasnsetmobile": (128, 64)}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_a_map_is_upright(name):
    """What changes in a corner of the image changes the map most in that corner."""
    recipe = small(name).with_(image_size=PLACES[name])
    model = randomised(recipe)
    height, width = recipe.image_size
    images = torch.randn(1, 3, height, width).repeat(5, 1, 1, 1)
    quarters = [(slice(row, row + height // 2), slice(column, column + width // 2))
                for row in (0, height // 2) for column in (0, width // 2)]  # fmt: skip
    for i, quarter in enumerate(quarters, 1):
        images[(i, slice(None), *quarter)] = torch.randn(3, height // 2, width // 2)
    with torch.no_grad():
        shown = model.feature_map(images, Views(torch.zeros(5, dtype=torch.int64)))
    changed = (shown[1:] - shown[:1]).square().sum(dim=1)  # (4, h, w)
    middle_row, middle_column = (-(-size // 2) for size in changed.shape[1:])
    for i, each in enumerate(changed):
        rows = each[:middle_row].sum() - each[-middle_row:].sum()
        columns = each[:, :middle_column].sum() - each[:, -middle_column:].sum()
        assert (rows > 0, columns > 0) == (i < 2, i % 2 == 0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("methods") / "synthetic"
    return pictures.make(
        root, num_train_pids=12, num_test_pids=10, num_cameras=3, num_distractors=4, num_junk=4, progress=False
    )


@pytest.fixture(scope="session")
def samples(folder):
    return datasets.load_splits("market", folder).train


def loader_of(recipe, samples):
    worn = recipe.uses_clothes
    dressed = [dataclasses.replace(s, clothes=s.camid % 2) if worn else s for s in samples]
    data = datasets.combine([datasets.Splits("market", tuple(dressed), (), ())])
    shape = {"p": recipe.p, "k": recipe.k} if recipe.p else {"batch_size": recipe.batch_size}
    loader = trees.train_loader(
        data.samples, data.labels, image_size=recipe.image_size, **shape, steps=recipe.steps, pad=0, erase=0.0,
        mean=recipe.mean, std=recipe.std, progress=False, workers=1, infrared={3} if recipe.infrared else (),
        clothes=data.clothes,
    )  # fmt: skip
    return loader, data


def reached(*modules, but=()):
    """Names of the open parameters to which the last backward pass brought something; all must have a gradient, but
    those whose gradient is used up in a step of their own."""
    named = [(n, p) for module in modules for n, p in module.named_parameters() if p.requires_grad and n not in but]
    missing = [n for n, p in named if p.grad is None or not p.grad.isfinite().all()]
    assert not missing, f"no gradient, or not a number: {missing}"
    return {n for n, p in named if p.grad.any()}


# What these train on is told before an epoch: tests of their own (tests/test_clip_reid.py, ...).
ASKED = [name for name, recipe in RECIPES.items() if any(stage.changes for stage in recipe.stages)]


# Zero by arithmetic: a gate of one hidden unit (OSNet x0.25) whose ReLU is shut, a bias in front of a batch norm.
MAY_BE_ZERO = ("gate.fc", "spatial_attn.conv1.conv.bias")


def step(recipe, model, criterion, optimizers, batches):
    """The loop over `batches`; the mean of the loss."""
    return train.train_one_epoch(
        model,
        criterion,
        iter(batches),
        optimizers,
        train.Span(0, len(batches)),
        train.Conditions(clip_grad=recipe.clip_grad, clip_by=recipe.clip_by),
    )["loss"]


def remember(recipe, model, criterion, loader):
    """What a loss keeps of the training set before an epoch, of the true identities."""
    tested = tester.Tester(recipe, {}, tester.Options(progress=False), device=torch.device("cpu"))
    for loss in criterion.losses.values():
        if hasattr(loss, "begin_epoch"):
            loss.begin_epoch(tested.of_training(model, loader), loader.labels)


# Rows that differ in the size of their trunk alone are one row at the size of these tests: the first stands for them.
DISTINCT = list({small(name).digest(): name for name in reversed(RECIPES) if name not in ASKED}.values())[::-1]


@pytest.mark.parametrize("name", DISTINCT)
def test_the_loss_falls_and_every_open_parameter_gets_a_gradient(name, samples):
    """One batch over and over, stage by stage, with the row's own criterion, optimisers and rates."""
    recipe = small(name)
    loader, data = loader_of(recipe, samples)
    batch = next(iter(loader.epoch(0)))
    torch.manual_seed(0)
    model = recipe.model(data.num_pids, num_cameras=7)
    criterion = recipe.losses(data.num_pids, data.wearers or None)
    remember(recipe, model, criterion, loader)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    optimizers = train.build_optimizers(model, criterion, recipe)
    losses, seen = [], set()
    early = tuple(f"losses.{n}." for n, loss in criterion.losses.items() if hasattr(loss, "ahead"))
    alone = {n: p.detach().clone() for n, p in criterion.named_parameters() if early and n.startswith(early)}
    for index, stage in enumerate(recipe.plan()):
        model.begin_stage(index)
        train.open_layers(model, stage.trainable, frozen, model.unread(index))
        before = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        met = set()
        for _ in range(STEPS if index == 0 else 2):
            losses.append(step(recipe, model, criterion, optimizers, [batch]))
            met |= reached(model, criterion, but=alone)
        seen |= met
        moved = {n for n, p in model.named_parameters() if p.requires_grad and recipe.weight_decay}
        assert [n for n in moved - met if not any(part in n for part in MAY_BE_ZERO)] == [], "by weight decay alone"
        for parameter, value in model.named_parameters():
            assert parameter not in before or torch.equal(before[parameter], value), f"{parameter} moved"
    seen |= {n for n, p in criterion.named_parameters() if n in alone and not torch.equal(alone[n], p)}
    names = {n for module in (model, criterion) for n, p in module.named_parameters() if n not in frozen}
    assert not [n for n in names - seen if not any(part in n for part in MAY_BE_ZERO)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", [name for name in DISTINCT if name not in ("agw_rgbir", "caj")])
def test_a_step_never_waits_for_the_device(name, monkeypatch):
    """On the meta device, where there are no values, whatever needs one on the host is an error: on a GPU it would stop
    the host until the device has done all that was asked of it. (agw_rgbir and caj sort a batch by light.)"""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know "meta"
    recipe = small(name)
    with torch.device("meta"):
        model, criterion = recipe.model(6, num_cameras=7).train(), recipe.losses(6)
        images, ints = torch.empty(8, 3, *recipe.image_size), torch.empty(8, dtype=torch.int64)
    for loss in criterion.losses.values():
        if hasattr(loss, "memory"):
            loss.memory = torch.empty(6, loss.memory.shape[1], device="meta")
    terms = criterion(model(images, Views(ints)), ints, Views(ints, clothes=ints))
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters() if p.requires_grad)


# Row -> what makes it learn twelve people from nothing in some seconds.
QUICK = {
    "bot": {"lr": 1e-3},
    "osnet_x0_25": {"lr": 1e-2, "steps": 20},
    "pcb": {"lr": 0.05, "steps": 12},
    "aligned": {"lr": 1e-3},
    "aligned_pp": {"lr": 1e-3},
    "pyramid": {"lr": 1e-3, "optimizer": "adam", "steps": 12},
    "agw": {"lr": 1e-3},
    "transreid": {"lr": 3e-4, "optimizer": "adam", "steps": 12},
    "transreid_ssl_vit_small_ics": {"lr": 3e-4, "optimizer": "adam", "steps": 12},
}


def mean_average_precision(recipe, model, samples):
    """Of every image against all others of the training set, by what the recipe compares."""
    model.eval()
    loader = trees.eval_loader(samples, image_size=recipe.image_size, batch_size=60, mean=recipe.mean, std=recipe.std)
    embeddings, parts = evaluate.extract(model, loader)
    both = embeddings if recipe.distance is None else (embeddings, parts)
    pids, camids = zip(*((sample.pid, sample.camid) for sample in samples), strict=True)
    return evaluate.evaluate_features(
        both, both, pids, pids, camids, camids, recipe.metric, distance=recipe.distance
    ).mAP


@pytest.mark.parametrize("name", QUICK)
def test_the_network_learns_to_find_people(name, samples):
    """After two epochs of a few iterations, people are found across cameras far better than before them."""
    recipe = small(name).with_(**{"p": 6, "k": 3} if RECIPES[name].p else {"batch_size": 18}, base_lr_mult=1.0)
    recipe = recipe.with_(**{"steps": 8} | QUICK[name])
    loader, data = loader_of(recipe, samples)
    torch.manual_seed(0)
    model, criterion = recipe.model(data.num_pids, num_cameras=7), recipe.losses(data.num_pids)
    untrained = mean_average_precision(recipe, model, samples)
    optimizers = train.build_optimizers(model, criterion, recipe)
    model.train()
    for epoch in range(2):
        step(recipe, model, criterion, optimizers, list(loader.epoch(epoch)))
    trained = mean_average_precision(recipe, model, samples)
    assert trained > 1.5 * untrained and trained > untrained + 0.05, f"{untrained:.3f} before, {trained:.3f} after"


# ---------------------------------------------------------------------------------------------------------------------
# From the command line: what a row needs beyond the loop
# ---------------------------------------------------------------------------------------------------------------------


def run(*words):
    assert main.main([str(word) for word in words]) == 0


def short(name, folder, output, *more):
    """A run of three epochs of two iterations; {data set: metrics}."""
    recipe = small(name)
    batch = ("--p", 4, "--k", 2) if recipe.p else ("--batch_size", 8)
    run("--mode", "train", "--recipe", name, "--backbone", recipe.backbone, "--pretrained", "none", "--market_path",
        folder, "--output_path", output, "--image_size", *recipe.image_size, *batch, "--epochs", 3, "--steps", 2,
        "--amp", "none", "--num_queries", 0, "--workers", 1, *more)  # fmt: skip
    return json.loads((output / "metrics.json").read_text())


def result_of(folder, output, *more):
    run("--mode", "test", "--market_path", folder, "--weights", output / "model.pt", "--output_path", output, *more)
    newest = max(output.glob("metrics_model*.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_text())


def test_aligned_is_tested_by_global_local_and_both_with_and_without_reranking(folder, tmp_path):
    rerank = ("--rerank", "--rerank_k1", 5, "--rerank_k2", 2)
    first = short("aligned", folder, tmp_path, *rerank)["market"]
    found = {kind: result_of(folder, tmp_path, "--test_distance", kind, *rerank)["market"]
             for kind in ("global", "local", "both")}  # fmt: skip
    assert found["both"]["mAP"] == pytest.approx(first["mAP"]), "the row tests with both"
    assert len({round(metrics["mAP"], 6) for metrics in found.values()}) == 3
    assert all(metrics["reranked"]["mAP"] != metrics["mAP"] for metrics in found.values())


def test_pyramid_alternates_and_rpp_remembers_its_stage(folder, tmp_path, capsys):
    short("pyramid", folder, tmp_path / "pyramid", "--alternate", "--balance_rule", "paper")
    last = torch.load(tmp_path / "pyramid" / "last.pt", weights_only=True)
    assert "balanced" in last["loader"] and last["criterion"]["losses.balance.means"].all()
    first = short("pcb_rpp", folder, tmp_path / "rpp", "--milestones", 40)
    assert "milestones: (40,) (recipe: (20, 40)); stage 2 keeps its own\n" in capsys.readouterr().out
    assert torch.load(tmp_path / "rpp" / "model.pt", weights_only=True)["model"]["refined"]
    of_rpp = torch.load(tmp_path / "rpp" / "last.pt", weights_only=True)["optimizers"][0]["param_groups"]
    assert [group["lr"] for group in of_rpp] == [pytest.approx(0.01)], "RPP.py e29cf54, --lr_mult 1: of all layers"
    assert result_of(folder, tmp_path / "rpp")["market"]["mAP"] == pytest.approx(first["market"]["mAP"])


def test_transreid_keeps_the_cameras_it_was_trained_on(folder, tmp_path):
    """Its embeddings are of the training set's cameras; another set's take their mean, whatever their numbers."""
    first = short("transreid", folder, tmp_path, "--own_path", folder, "--train_dataset", "market")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state["cameras"] == {"market": [1, 2, 3]} and state["model"]["base.sie_embed"].shape[0] == 3
    again = result_of(folder, tmp_path, "--own_path", folder)
    assert {name: metrics["mAP"] for name, metrics in again.items()} == pytest.approx(
        {name: metrics["mAP"] for name, metrics in first.items()}
    )
    assert first["own"]["mAP"] != first["market"]["mAP"]
    numbering = {"duke": [1, 2], "market": [3, 4, 6]}
    assert [datasets.camera_label(numbering, "market", camid) for camid in (3, 4, 6, 1)] == [2, 3, 4, -1]
    assert datasets.camera_label({"duke": [1, 2]}, "market", 1) == -1
