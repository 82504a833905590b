"""The learning rate of every row, epoch by epoch, and its iterations per epoch, against the public code it names.

``schedules.json`` holds, for each public code, the rates of its epochs as [rate, number of epochs]. They come from
running its own scheduler in the order of calls of its own training loop, outside this repository; where that code was
written for torch before 1.1, on a base class that does what torch's did then (a scheduler begins at -1, so that the
first step asks for epoch 0).
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import parity
import pytest
import torch

from loading.samplers import pk_batches
from recipes import RECIPES
from train import Training, lr_factor, rates, step_factor
from training import batches_of

CURVES = json.loads(Path(__file__).with_name("schedules.json").read_text(encoding="utf-8"))
COMMIT = r"\b[0-9a-f]{7}\b"
R50 = "im_r50_softmax_256x128_amsgrad.yaml"
AIN = "im_osnet_ain_x1_0_softmax_256x128_amsgrad_cosine.yaml"
BOT = "reid-strong-baseline"
TRUNKS = ("", "_r50_ibn", "_s50", "_r101_ibn")
CURVE_OF = {  # row -> public curve
    **dict.fromkeys(("bot", "bot_no_center", "bot_ibn"), BOT),
    **dict.fromkeys(("bot_arcface", "tiny"), "tiny"),
    "wangguanan": "wangguanan",
    **dict.fromkeys(("softmax", "softmax_triplet", "se_resnet50_fc512", "densenet121_fc512"), R50),
    **dict.fromkeys(("squeezenet1_0_fc512", "resnet50mid", "mlfn"), R50),
    **dict.fromkeys(("mobilenetv2_x1_0", "mobilenetv2_x1_4"), "torchreid mobilenetv2"),
    **dict.fromkeys(("densenet121", "shufflenet", "nasnsetmobile"), "torchreid v0.2.2 xent"),
    **dict.fromkeys(("softmax_fc512", "resnet50_fc512"), "im_r50fc512_softmax_256x128_amsgrad.yaml"),
    "mudeep": "torchreid v0.0.9 xent+htri",
    "resnet50_video": "torchreid v0.0.9 video",
    "osnet_x1_0": "im_osnet_x1_0_softmax_256x128_amsgrad_cosine.yaml",
    "osnet_x0_25": "im_osnet_x0_25_softmax_256x128_amsgrad.yaml",
    "osnet_x0_5": "im_osnet_x0_5_softmax_256x128_amsgrad.yaml",
    "osnet_x0_75": "im_osnet_x0_75_softmax_256x128_amsgrad.yaml",
    "osnet_ibn_x1_0": "im_osnet_ibn_x1_0_softmax_256x128_amsgrad.yaml",
    **dict.fromkeys(("osnet_ain_x1_0", "osnet_ain_x0_75", "osnet_ain_x0_5", "osnet_ain_x0_25"), AIN),
    "pcb": "PCB",
    "pcb_after": "PCB",
    "pcb_independent": "beyond-part",
    "pcb_rpp": "RPP",
    "pcb_rpp_induced": "RPP",
    "aligned": "AlignedReID",
    "aligned_mutual": "AlignedReID",
    "aligned_pp": "AlignedReID++",
    "pyramid": "Pyramid",
    "agw": "ReID-Survey",
    "agw_rgbir": "XM",
    "caj": "CAJ",
    **dict.fromkeys(("sbs", "sbs_r50_ibn", "sbs_s50", "sbs_r101_ibn", "mgn"), "fast-reid sbs"),
    **{f"fastreid_{key}{trunk}": "fast-reid bagtricks" for key in ("bot", "agw") for trunk in TRUNKS},
    "fastreid_vit": "fast-reid vit",
    "transreid": "TransReID",
    "transreid_baseline": "TransReID",
    **dict.fromkeys(("transreid_ssl_vit_small", "transreid_ssl_vit_small_ics"), "TransReID-SSL"),
    **dict.fromkeys(("transreid_ssl_vit_base_ics", "personvit_vit_small"), "TransReID-SSL"),
    "personvit_vit_base": "PersonViT base",
    "solider_swin_tiny": "SOLIDER tiny",
    **dict.fromkeys(("solider_swin_small", "solider_swin_base"), "SOLIDER"),
    **dict.fromkeys(("clip_reid", "clip_reid_sie_olp"), "CLIP-ReID"),
    "clip_reid_rn50": "CLIP-ReID RN50",
    "clip_baseline": "CLIP-ReID baseline",
    "clip_baseline_rn50": "CLIP-ReID baseline RN50",
    "jsia": "JSIA",
    "cal": "Simple-CCReID",
    "cal_video": "Simple-CCReID video",
    "cluster_contrast": "cluster-contrast",
    "hacnn": "torchreid hacnn",
    "light_mbn": "LightMBN",
    "light_mbn_r": "LightMBN",
}
FAST_REID = {"market": 202, "duke": 258}  # iterations of an epoch, images // 64


CLOSE = parity.largest(__file__, "test_the_rate_of_every_epoch_is_the_public_codes")
WITHIN = parity.largest(__file__, "test_a_warm_up_in_iterations_moves_within_an_epoch")
ENDS = parity.largest(__file__, "test_biases_begin_and_end_at_the_rate_of_weights_where_the_public_code_has_it")
LONGER = parity.largest(__file__, "test_an_epoch_is_as_long_as_the_public_one")


def rates_of(name: str) -> list[float]:
    """The public rate of each epoch."""
    return [rate for rate, count in CURVES[name]["rates"] for _ in range(count)]


def test_every_row_but_ours_has_its_public_curve():
    assert RECIPES.keys() - CURVE_OF.keys() == {"demo"}
    assert [name for name, curve in CURVES.items() if not re.search(COMMIT, curve["source"])] == []


@pytest.mark.parametrize("row", CURVE_OF)
def test_the_rate_of_every_epoch_is_the_public_codes(row):
    recipe = RECIPES[row]
    curves = (
        {CURVE_OF[row]: None} if CURVE_OF[row] in CURVES else {f"{CURVE_OF[row]} {k}": n for k, n in FAST_REID.items()}
    )
    for curve, steps in curves.items():
        of = () if steps is None else (steps,)
        ours = [recipe.lr * lr_factor(recipe, epoch, recipe.epochs, *of) for epoch in range(recipe.epochs)]
        if any(stage.changes for stage in recipe.stages):
            ours = [rate for _, rate in rates(recipe, recipe.epochs, absolute=True)]
        assert ours == pytest.approx(rates_of(curve), rel=CLOSE), CURVES[curve]["source"]


# TransReID dec5504: of weights and of biases, whose base rate is twice as high, by its own scheduler
@pytest.mark.parametrize(("epoch", "weights", "biases"), [
    (1, 1.664e-3, 3.264e-3), (2, 3.248e-3, 6.448e-3), (4, 6.416e-3, 1.2816e-2),
    (5, 7.965847886604252e-3, 1.5931627332099494e-2), (60, 4.008e-3, 8.008e-3),
    (100, 5.508265880925207e-4, 1.0867249729547659e-3), (119, 1.736795869757542e-5, 1.873865879534638e-5),
    (120, 1.6e-5, 1.6e-5),
])  # fmt: skip
def test_biases_begin_and_end_at_the_rate_of_weights_where_the_public_code_has_it(epoch, weights, biases):
    recipe = RECIPES["transreid"]
    for share, rate in ((1.0, weights), (recipe.bias_lr_mult, biases)):
        factor = step_factor(recipe, epoch - 1, recipe.epochs, 0, 1, share)
        assert share * recipe.lr * factor == pytest.approx(rate, rel=ENDS), share


@pytest.mark.parametrize("same_ends", [False, True])
def test_every_group_of_a_run_has_the_rate_of_its_share(same_ends):
    """What `Training.paced` writes into the optimiser, not the formula alone."""
    recipe = RECIPES["transreid"].with_(same_ends=same_ends, base_lr_mult=1.0)
    groups = [{"base_lr": recipe.lr}, {"base_lr": recipe.lr * recipe.bias_lr_mult}]
    loader = SimpleNamespace(steps=lambda epoch: 2, epoch=lambda epoch, start: iter([(None, None, None)] * 2))
    running = SimpleNamespace(
        stages=(SimpleNamespace(epochs=recipe.epochs, lr=0.0, restart=False, changes={}),), recipe=recipe,
        loader=loader, optimizers=[SimpleNamespace(param_groups=groups)], model=None,
    )  # fmt: skip
    ends = []
    for epoch in (0, recipe.epochs - 1):
        list(Training.paced(running, epoch, 0))
        ends.append(groups[1]["lr"] / groups[0]["lr"])
    assert ends == pytest.approx([3.264 / 1.664, 1.0] if same_ends else [2.0, 2.0])


# fast-reid c9bc3ce: rates of single iterations of its own loop at 202 and 258 iterations an epoch
@pytest.mark.parametrize(("steps", "expected"), [
    (202, {0: 3.5e-05, 1: 3.51575e-05, 201: 6.66575e-05, 202: 6.6815e-05, 999: 1.923425e-4, 1999: 3.498425e-4,
           2000: 3.5e-4, 6060: 3.5e-4, 6262: 3.4904324903e-4, 10100: 8.8025e-05, 12119: 1.6567509739e-06}),
    (258, {257: 7.54775e-05, 258: 7.5635e-05, 1999: 3.498425e-4, 2000: 3.5e-4, 7998: 3.4904324903e-4}),
])  # fmt: skip
def test_a_warm_up_in_iterations_moves_within_an_epoch(steps, expected):
    recipe = RECIPES["sbs"]
    for iteration, rate in expected.items():
        factor = step_factor(recipe, iteration // steps, recipe.epochs, iteration % steps, steps)
        assert recipe.lr * factor == pytest.approx(rate, rel=WITHIN), iteration


# ---------------------------------------------------------------------------------------------------------------------
# Iterations of an epoch
# ---------------------------------------------------------------------------------------------------------------------

MARKET = [  # how many of Market-1501's 751 identities have 2, 3, 4, ... training images
    3, 12, 12, 31, 24, 40, 39, 36, 36, 27, 36, 24, 29, 38, 34, 36, 25, 21, 26, 19, 20, 20, 10, 16, 20, 14, 12, 9, 5, 3,
    8, 9, 8, 2, 2, 3, 5, 5, 3, 4, 1, 1, 3, 0, 2, 1, 2, 2, 1, 1, 2, 0, 2, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1,
    0, 1,
]  # fmt: skip


def even(num_ids: int, num_images: int) -> list[int]:
    """Images of each identity, as equal as can be."""
    return [num_images // num_ids + (i < num_images % num_ids) for i in range(num_ids)]


TRANSFORMERS = ("transreid", "personvit", "solider")
COUNTS = {  # images of each training identity; the first as it is, the others with the right totals
    "market": [size for size, times in enumerate(MARKET, start=2) for _ in range(times)],
    "duke": even(702, 16_522),
    "cuhk03": even(767, 7_365),
}
LABELS = {name: torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)) for name, sizes in COUNTS.items()}
# Batches that the public samplers and loaders gave on these very labels, fewest and most of eight epochs


class Lengths(NamedTuple):
    source: str
    market: tuple[int, int]
    duke: tuple[int, int]
    cuhk03: tuple[int, int]


SHUFFLE = "torchreid f8cd150, torchreid/data/datamanager.py, PCB_RPP e29cf54, PCB.py: DataLoader, shuffled, drop_last"
SHUFFLED_32 = Lengths(SHUFFLE, (404, 404), (516, 516), (230, 230))
SHUFFLED_64 = Lengths(SHUFFLE, (202, 202), (258, 258), (115, 115))
SHUFFLED_128 = Lengths(SHUFFLE, (101, 101), (129, 129), (57, 57))
GROUPS_64 = Lengths(
    "reid-strong-baseline 3da7e6f, data/samplers/triplet_sampler.py: RandomIdentitySampler(64, 4)",
    (183, 184), (242, 242), (95, 95),
)  # fmt: skip
GROUPS_32 = Lengths(
    "torchreid f8cd150, torchreid/data/sampler.py: RandomIdentitySampler(32, 4)", (368, 370), (484, 485), (191, 191)
)
ONCE_32 = Lengths(
    "torchreid af328ff, samplers.py, AlignedReID++ fca9620, util/samplers.py: RandomIdentitySampler(4)",
    (93, 93), (87, 87), (95, 95),
)  # fmt: skip
ONCE_128 = Lengths("AlignedReID 2e2d454, aligned_reid/dataset/TrainSet.py, 32 identities", (23, 23), (21, 21), (23, 23))
PYRAMID = Lengths(
    "Pyramid 63ffd64, src/datasets/base_dataset.py: RandomIdSampler(8), last batch kept", (94, 94), (88, 88), (96, 96)
)
IMAGES_64 = Lengths("fast-reid c9bc3ce, fastreid/engine/defaults.py", (202, 202), (258, 258), (115, 115))
MIXED_64 = Lengths(
    "Simple-CCReID f773d01, data/samplers.py: two processes of 32 images, 8 each, drop_last",
    (176, 176), (222, 222), (95, 95),
)  # fmt: skip
MIXED_32 = Lengths(
    "Simple-CCReID f773d01, data/samplers.py: two processes of 16 clips, 4 each, drop_last",
    (371, 371), (485, 485), (191, 191),
)  # fmt: skip
CLUSTERS_200 = Lengths("cluster-contrast 57b62e9, README.md, --iters 200", (200, 200), (200, 200), (200, 200))
GROUPS_48 = Lengths(
    "LightMBN 1f4ec0d, data_v2/sampler.py: RandomIdentitySampler(48, 8)", (234, 235), (296, 296), (127, 127)
)
GIVEN_200 = Lengths("light-reid 758f517, core/train.py", (200, 200), (200, 200), (200, 200))
LENGTH_OF = {  # row -> (batch, epochs, batches of an epoch)
    **dict.fromkeys(("bot", "bot_no_center", "bot_ibn", "agw"), (64, 120, GROUPS_64)),
    **dict.fromkeys(("bot_arcface", "tiny"), (64, 200, GROUPS_64)),
    "wangguanan": (64, 120, GIVEN_200),
    "cal": (64, 60, MIXED_64),
    "cal_video": (32, 150, MIXED_32),
    "cluster_contrast": (256, 50, CLUSTERS_200),
    **dict.fromkeys((row for row in CURVE_OF if row.startswith(TRANSFORMERS)), (64, 120, GROUPS_64)),
    **dict.fromkeys(
        (row for row, curve in CURVE_OF.items() if "r50" in curve or "v0.2.2" in curve), (32, 60, SHUFFLED_32)
    ),
    **dict.fromkeys(("clip_reid", "clip_reid_sie_olp", "clip_reid_rn50"), (64, 180, GROUPS_64)),  # the second stage
    "clip_baseline": (64, 60, GROUPS_64),
    "clip_baseline_rn50": (64, 120, GROUPS_64),
    **dict.fromkeys(("mobilenetv2_x1_0", "mobilenetv2_x1_4"), (64, 90, SHUFFLED_64)),  # data_manager.py at 7ff331f
    "softmax_triplet": (32, 60, GROUPS_32),
    "mudeep": (32, 180, ONCE_32),
    "hacnn": (32, 300, SHUFFLED_32),
    "osnet_x1_0": (64, 250, SHUFFLED_64),
    "osnet_x0_25": (128, 180, SHUFFLED_128),
    "osnet_x0_5": (128, 180, SHUFFLED_128),
    "osnet_x0_75": (64, 150, SHUFFLED_64),
    "osnet_ibn_x1_0": (64, 150, SHUFFLED_64),
    **dict.fromkeys((row for row, curve in CURVE_OF.items() if curve == AIN), (64, 100, SHUFFLED_64)),
    **dict.fromkeys(("pcb", "pcb_after", "pcb_independent"), (64, 60, SHUFFLED_64)),
    **dict.fromkeys(("pcb_rpp", "pcb_rpp_induced"), (64, 50, SHUFFLED_64)),
    **dict.fromkeys(("light_mbn", "light_mbn_r"), (48, 130, GROUPS_48)),
    "aligned": (128, 300, ONCE_128),
    "aligned_mutual": (128, 300, ONCE_128),
    "aligned_pp": (32, 300, ONCE_32),
    "pyramid": (64, 120, PYRAMID),
    **dict.fromkeys((row for row, curve in CURVE_OF.items() if curve == "fast-reid sbs"), (64, 60, IMAGES_64)),
    **dict.fromkeys((row for row in CURVE_OF if row.startswith("fastreid")), (64, 120, IMAGES_64)),
}


def planned(row: str, labels: torch.Tensor, groups: torch.Tensor | None, epoch: int) -> torch.Tensor:
    """The batches of an epoch of that row, (iterations, choices, batch)."""
    data = SimpleNamespace(infrared=() if groups is None else (3,), numbering={}, wearers=(0, 0))
    return batches_of(RECIPES[row], data).plan(labels, groups, 0, epoch)


@pytest.mark.parametrize("row", LENGTH_OF)
def test_an_epoch_is_as_long_as_the_public_one(row):
    batch, epochs, lengths = LENGTH_OF[row]
    assert RECIPES[row].epochs == epochs
    assert re.search(COMMIT, lengths.source)
    for data, labels in LABELS.items():
        fewest, most = getattr(lengths, data)
        for epoch in (0, 1):
            steps, _, images = planned(row, labels, None, epoch).shape
            beyond = max(fewest - steps, steps - most, 0)
            assert images == batch and beyond <= LONGER, (data, steps, lengths.source)


def test_every_row_with_a_source_has_its_length():
    """The others train on other data: SYSU-MM01 (22,258 colour and 11,909 infrared images of 395 identities;
    XM e817a26, utils.py, IdentitySampler: 22,258 // 32 + 1) and MARS (625 identities, torchreid v0.0.9)."""
    assert RECIPES.keys() - LENGTH_OF.keys() == {"demo", "agw_rgbir", "caj", "jsia", "resnet50_video"}
    colour, infrared = (torch.arange(395).repeat_interleave(torch.tensor(even(395, n))) for n in (22_258, 11_909))
    groups = torch.cat([torch.zeros(22_258), torch.ones(11_909)]).bool()
    assert planned("agw_rgbir", torch.cat([colour, infrared]), groups, 0).shape == (696, 1, 64)
    assert planned("caj", torch.cat([colour, infrared]), groups, 0).shape == (696, 1, 96)  # ICCV21_CAJ/train_ext.py
    assert planned("jsia", torch.cat([colour, infrared]), groups, 0).shape == (200, 1, 128)  # core/train.py
    assert planned("resnet50_video", torch.arange(625).repeat_interleave(10), None, 0).shape == (78, 1, 32)


def test_an_identity_comes_once_in_an_epoch_of_identities():
    labels = LABELS["market"]
    for epoch_length, most in (("identities", 0), ("all_identities", 1)):
        batches = pk_batches(labels, 8, 8, 0, 3, None, epoch_length)
        seen = labels[batches].reshape(len(batches), 8, 8)
        assert (seen == seen[:, :, :1]).all()  # eight images of each
        times = torch.bincount(seen[:, :, 0].flatten(), minlength=751)
        assert int((times > 1).sum()) == most and int((times == 0).sum()) == (0 if most else 751 % 8)


def test_mixed_groups_are_each_seen_once():
    labels = torch.arange(9).repeat_interleave(torch.tensor([3, 8, 8, 9, 17, 31, 40, 4, 16]))
    batches = pk_batches(labels, 4, 4, 0, 3, None, "mixed")
    groups = batches.reshape(-1, 4)
    assert (labels[groups] == labels[groups[:, :1]]).all()
    counts = [max(n, 4) // 4 for n in torch.bincount(labels).tolist()]
    assert len(batches) == sum(counts) // 4
    seen = torch.bincount(labels[groups[:, 0]], minlength=9)
    assert (seen <= torch.tensor(counts)).all() and int(sum(counts) - seen.sum()) == sum(counts) % 4
    kept = groups[labels[groups[:, 0]] > 0].flatten()
    assert len(kept.unique()) == len(kept)  # only the identity of three images repeats one
    assert any(len(labels[each].unique()) < 4 for each in batches)  # an identity comes twice in a batch
    assert not torch.equal(batches, pk_batches(labels, 4, 4, 0, 4, None, "mixed"))


def test_epochs_by_images_are_one_endless_row_of_passes():
    labels = torch.arange(20).repeat_interleave(torch.tensor(even(20, 130)))
    p, k, count = 4, 2, 130 // 8
    passes = [pk_batches(labels, p, k, 5, number) for number in range(8)]
    assert any(len(each) != count for each in passes)
    row = torch.cat(passes)
    for epoch in range(4):
        found = pk_batches(labels, p, k, 5, epoch, None, "images")
        assert torch.equal(found, row[epoch * count : (epoch + 1) * count])
    with pytest.raises(ValueError, match="12 training images do not fill one batch of 4 identities x 4 images"):
        pk_batches(torch.arange(12), 4, 4, 0, 0, None, "images")
