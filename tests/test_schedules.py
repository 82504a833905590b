"""The learning rate of every row, epoch by epoch, against the public code that the row names.

``schedules.json`` holds, for each public code, the rates of its epochs as [rate, number of epochs]. They come from
running its own scheduler in the order of calls of its own training loop, outside this repository; where that code was
written for torch before 1.1, on a base class that does what torch's did then (a scheduler begins at -1, so that the
first step asks for epoch 0).
"""

import json
from pathlib import Path

import pytest

from config import check_given
from recipes import RECIPES
from train import lr_factor, step_factor

CURVES = json.loads(Path(__file__).with_name("schedules.json").read_text(encoding="utf-8"))
R50 = "im_r50_softmax_256x128_amsgrad.yaml"
AIN = "im_osnet_ain_x1_0_softmax_256x128_amsgrad_cosine.yaml"
BOT = "reid-strong-baseline"
CURVE_OF = {  # row -> public curve
    **dict.fromkeys(("bot", "bot_no_center", "bot_ibn", "bot_arcface"), BOT),
    **dict.fromkeys(("softmax", "softmax_triplet", "se_resnet50_fc512", "densenet121", "densenet121_fc512"), R50),
    **dict.fromkeys(("squeezenet1_0_fc512", "mobilenetv2_x1_0", "mobilenetv2_x1_4", "shufflenet"), R50),
    **dict.fromkeys(("nasnsetmobile", "resnet50mid", "mlfn"), R50),
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
    "aligned": "AlignedReID",
    "aligned_mutual": "AlignedReID",
    "aligned_pp": "AlignedReID++",
    "pyramid": "Pyramid",
    "agw": "ReID-Survey",
    "agw_rgbir": "XM",
    "sbs": "fast-reid sbs",
    "mgn": "fast-reid sbs",
    "transreid": "TransReID",
    "transreid_baseline": "TransReID",
}
WITHOUT_CODE = {"demo", "hacnn"}  # ours; an issue that names half and three quarters of 300 epochs
FAST_REID = {"market": 202, "duke": 258}  # iterations of an epoch, images // 64


def rates_of(name: str) -> list[float]:
    """The public rate of each epoch."""
    return [rate for rate, count in CURVES[name]["rates"] for _ in range(count)]


def test_every_row_has_its_public_curve():
    assert RECIPES.keys() - CURVE_OF.keys() == WITHOUT_CODE
    assert RECIPES["hacnn"].milestones == (150, 225) and RECIPES["hacnn"].epochs == 300


@pytest.mark.parametrize("row", CURVE_OF)
def test_the_rate_of_every_epoch_is_the_public_codes(row):
    recipe = RECIPES[row]
    curves = (
        {CURVE_OF[row]: None} if CURVE_OF[row] in CURVES else {f"{CURVE_OF[row]} {k}": n for k, n in FAST_REID.items()}
    )
    for curve, steps in curves.items():
        of = () if steps is None else (steps,)
        ours = [recipe.lr * lr_factor(recipe, epoch, recipe.epochs, *of) for epoch in range(recipe.epochs)]
        assert ours == pytest.approx(rates_of(curve), rel=1e-6), CURVES[curve]["source"]


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
        assert recipe.lr * factor == pytest.approx(rate, rel=1e-8), iteration


ITERATIONS = {"warmup_epochs": 0, "warmup_iterations": 2000, "warmup_factor": 0.1, "milestones": (40, 90)}
VIT = {"warmup_epochs": 0, "warmup_iterations": 1000, "schedule": "cosine", "milestones": (), "lr_floor": 0.002}


@pytest.mark.parametrize(("curve", "fields"), [
    ("tiny", {"epochs": 200, "milestones": (40, 70, 130)}),
    ("wangguanan", {}),
    ("fast-reid bagtricks market", ITERATIONS),
    ("fast-reid vit market", VIT | {"lr": 0.008}),
])  # fmt: skip
def test_public_runs_without_a_row_are_bag_of_tricks_with_other_fields(curve, fields):
    recipe = RECIPES["bot"].with_(**fields)
    ours = [recipe.lr * lr_factor(recipe, epoch, recipe.epochs) for epoch in range(recipe.epochs)]
    assert ours == pytest.approx(rates_of(curve), rel=1e-6)


def test_a_warm_up_counts_epochs_or_iterations():
    with pytest.raises(ValueError, match=r"--warmup_epochs 5 and --warmup_iterations 2000 .* one of them to 0"):
        check_given(RECIPES["sbs"], {"warmup_epochs": 5})
    check_given(RECIPES["sbs"], {"warmup_epochs": 5, "warmup_iterations": 0})
