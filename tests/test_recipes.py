"""The table of methods: every row builds, every field is read, every published number has its source."""

import dataclasses
import math
import re
from pathlib import Path

import parity
import pytest
import torch

import models
import recipes
from config import (
    FIELDS,
    HINTS,
    Published,
    Recipe,
    Stage,
    Term,
    applies,
    check_network_fields,
    check_test_distance,
    number_of,
    value_of,
)
from machine.ranges import Few
from recipes import RECIPES

ROOT = Path(__file__).parents[1]
NAMES = sorted(RECIPES)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_names_paper_and_sources(name):
    recipe = RECIPES[name]
    assert recipe.name == name and recipe.title and recipe.source
    assert re.search(r"\b(19|20)\d\d\b", recipe.paper), "a citation has a year"
    for result in recipe.published.values():
        assert isinstance(result, Published) and 0 < result.rank1 <= 100
        assert 0 < result.mAP <= result.rank1 or "sysu" in recipe.published  # many matches: mAP may be the higher one
        assert len(result.source) > 10


# ---------------------------------------------------------------------------------------------------------------------
# What the public code does to its training images
# ---------------------------------------------------------------------------------------------------------------------

IMAGENET, HALF, CAFFE = (0.485, 0.456, 0.406), (0.5, 0.5, 0.5), (0.486, 0.459, 0.408)
LEAST = {  # resized, mirrored, normalised
    "image_size": (256, 128), "interpolation": "bilinear", "test_filter": "bilinear", "mean": IMAGENET,
    "std": (0.229, 0.224, 0.225), "flip": 0.5, "pad": 0, "translate": 0.0, "erase": 0.0, "color_jitter": 0.0,
    "random_patch": 0.0, "auto_augment": 0.0, "enlarge": 1.125, "extra_colour": False,
    "colour_channels": "keep", "extra_channels": "keep", "infrared_channels": "keep",
}  # fmt: skip
ERASED = {"pad": 10, "erase": 0.5, "erase_fill": "mean_raw", "erase_area": (0.02, 0.4), "erase_log_aspect": False}
BICUBIC = {"interpolation": "bicubic", "test_filter": "bicubic"}
FAST = BICUBIC | ERASED | {"erase_fill": "mean", "erase_area": (0.02, 0.33)}
TIMM = ERASED | {
    "interpolation": "bicubic", "mean": HALF, "std": HALF, "erase_fill": "pixel", "erase_area": (0.02, 1 / 3),
    "erase_log_aspect": True,
}  # fmt: skip
TALL = {"image_size": (384, 128)}
TRUNKS = ("", "_r50_ibn", "_s50", "_r101_ibn")
AUGMENTED = {  # where it stands -> what it is beyond the least, and the rows that have it
    "reid-strong-baseline 3da7e6f, data/transforms/build.py, configs/softmax_triplet_with_center.yml": (
        ERASED, "bot bot_no_center bot_ibn"),
    "ReID-Survey 38f5912, data/transforms.py, configs/AGW_baseline.yml": (ERASED, "agw"),
    "person-reid-tiny-baseline a13a8a8, datasets/make_dataloader.py": (
        ERASED | {"erase_fill": "value_raw", "erase_value": (0.4914, 0.4822, 0.4465)}, "tiny bot_arcface"),
    "light-reid 758f517, core/data_loader/__init__.py": (BICUBIC | ERASED, "wangguanan"),
    "JSIA-ReID 6eb008b, core/data_loader/__init__.py (transform_reid), core/networks.py": (BICUBIC, "jsia"),
    "torchreid f8cd150, docs/MODEL_ZOO.md (random_flip, random_crop), torchreid/data/transforms.py": (
        {"translate": 0.5}, "softmax softmax_triplet softmax_fc512 resnet50_fc512 mlfn mobilenetv2_x1_0 "
        "mobilenetv2_x1_4"),
    "torchreid f8cd150, docs/MODEL_ZOO.md, hacnn": ({"translate": 0.5, "image_size": (160, 64)}, "hacnn"),
    "torchreid e9a2b7c (v0.5.0), MODEL_ZOO.md (Random2DTranslation, RandomHorizontalFlip)": (
        {"translate": 0.5}, "se_resnet50_fc512 densenet121_fc512 squeezenet1_0_fc512 resnet50mid"),
    "torchreid 016293c (v0.2.2), train_imgreid_xent.py:133": (
        {"translate": 0.5}, "densenet121 shufflenet nasnsetmobile"),
    "torchreid af328ff (v0.0.9), train_img_model_xent_htri.py:108, train_vid_model_xent_htri.py:99": (
        {"translate": 0.5}, "mudeep resnet50_video"),
    "torchreid f8cd150, configs/im_osnet_x*.yaml": ({}, "osnet_x1_0 osnet_x0_75 osnet_x0_5 osnet_x0_25"),
    "torchreid f8cd150, configs/im_osnet_ibn_x1_0_*.yaml, im_osnet_ain_x1_0_*.yaml": (
        {"color_jitter": 1.0}, "osnet_ibn_x1_0 osnet_ain_x1_0 osnet_ain_x0_75 osnet_ain_x0_5 osnet_ain_x0_25"),
    "PCB_RPP e29cf54, PCB.py:31, train_PCB.sh, train_RPP.sh": (TALL, "pcb pcb_after pcb_rpp pcb_rpp_induced"),
    "beyond-part-models 1686e88, script/experiment/train_pcb.py, bpm/dataset/PreProcessImage.py": (
        TALL | {"mean": CAFFE}, "pcb_independent"),
    "AlignedReID 2e2d454, script/experiment/train.py, aligned_reid/dataset/PreProcessImage.py": (
        {"mean": CAFFE}, "aligned aligned_mutual"),
    "AlignedReID++ fca9620, train_alignedreid.py:117": ({"translate": 0.5}, "aligned_pp"),
    "Pyramid 63ffd64, src/train.py:53, src/config.py": (
        TALL | BICUBIC | ERASED | {"pad": 0, "erase": 0.2, "erase_fill": "mean"}, "pyramid"),
    "XM e817a26, train.py:107": ({"image_size": (288, 144), "pad": 10}, "agw_rgbir"),
    "XM e817a26, ICCV21_CAJ/data_loader.py (SYSUData), ICCV21_CAJ/ChannelAug.py": (
        ERASED | {"image_size": (288, 144), "erase_fill": "value_raw", "erase_value": (0.4914, 0.4822, 0.4465),
                  "extra_colour": True, "extra_channels": "exchange", "infrared_channels": "adaptive_grey"}, "caj"),
    "fast-reid c9bc3ce, fastreid/data/transforms/build.py, configs/Base-bagtricks.yml": (
        FAST, " ".join(f"fastreid_{name}{trunk}" for name in ("bot", "agw") for trunk in TRUNKS)),
    "fast-reid c9bc3ce, configs/Base-SBS.yml": (
        FAST | TALL | {"auto_augment": 0.1}, " ".join(["mgn", *(f"sbs{trunk}" for trunk in TRUNKS)])),
    "fast-reid c9bc3ce, configs/Market1501/bagtricks_vit.yml, fastreid/config/defaults.py (REA.VALUE)": (
        FAST | {"mean": HALF, "std": HALF, "erase_fill": "value", "erase_value": IMAGENET}, "fastreid_vit"),
    "Simple-CCReID f773d01, data/img_transforms.py, data/__init__.py, configs/default_img.py": (
        {"image_size": (384, 192), "translate": 0.5, "erase": 0.5, "erase_area": (0.02, 0.4),
         "erase_log_aspect": False, "erase_fill": "value_raw", "erase_value": (0.4914, 0.4822, 0.4465)}, "cal"),
    "Simple-CCReID f773d01, data/spatial_transforms.py, data/__init__.py, configs/default_vid.py": (
        BICUBIC | {"image_size": (256, 128), "pad": 0, "same_augmentation": True}, "cal_video"),
    "cluster-contrast 57b62e9, examples/cluster_contrast_train_usl.py, utils/data/transforms.py": (
        BICUBIC | ERASED, "cluster_contrast"),
    "TransReID dec5504, datasets/make_dataloader.py, configs/Market/*.yml": (TIMM, "transreid transreid_baseline"),
    "TransReID-SSL fc39e88, PersonViT de479ab, transreid_pytorch/datasets/make_dataloader.py, configs/market/*.yml": (
        TIMM, "transreid_ssl_vit_small transreid_ssl_vit_small_ics personvit_vit_small personvit_vit_base"),
    "TransReID-SSL fc39e88, transreid_pytorch/configs/market/vit_base_ics_384.yml": (
        TIMM | TALL, "transreid_ssl_vit_base_ics"),
    "LightMBN 1f4ec0d, data_v2/datamanager.py, data_v2/transforms.py, lmbn_config.yaml (random_erasing, no cutout)": (
        TALL | ERASED | {"pad": 0, "translate": 0.5, "enlarge": 1.05, "erase_fill": "value_raw",
                         "erase_value": (0.4914, 0.4822, 0.4465)}, "light_mbn light_mbn_r"),
    "SOLIDER-REID 8c08e1c, datasets/make_dataloader.py, configs/market/*.yml": (
        TIMM | TALL, "solider_swin_tiny solider_swin_small solider_swin_base"),
    "CLIP-ReID eb1898b, datasets/make_dataloader_clipreid.py, configs/person/vit_*.yml": (
        TIMM, "clip_reid clip_reid_sie_olp clip_baseline"),
    "CLIP-ReID eb1898b, datasets/make_dataloader_clipreid.py, configs/person/cnn_*.yml": (
        TIMM | {"mean": IMAGENET, "std": LEAST["std"]}, "clip_reid_rn50 clip_baseline_rn50"),
}  # fmt: skip


@pytest.mark.parametrize("source", AUGMENTED)
def test_images_are_augmented_as_in_the_public_code(source):
    more, rows = AUGMENTED[source]
    largest = parity.largest(__file__, "test_images_are_augmented_as_in_the_public_code")
    for name in rows.split():
        expected = LEAST | more
        differing = {field: getattr(RECIPES[name], field) for field in expected}.items() - expected.items()
        assert len(differing) <= largest, (name, differing)


def test_every_row_but_ours_has_a_source_for_its_augmentation():
    """As for its rates and the length of its epochs, in test_schedules.py."""
    told = [name for _, rows in AUGMENTED.values() for name in rows.split()]
    assert sorted(told) == sorted(RECIPES.keys() - {"demo"})
    assert all(re.search(r"\b[0-9a-f]{7}\b", source) for source in AUGMENTED)


def test_every_field_with_a_flag_says_what_it_is():
    for name, about in FIELDS.items():
        assert about.help and about.group, f"{name} has no help"
        assert not about.choices or getattr(Recipe, name) in about.choices


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_covers_the_epochs(name):
    recipe = RECIPES[name]
    for epochs in (recipe.epochs, 7, 3):
        plan = recipe.with_(epochs=epochs).plan()
        assert sum(stage.epochs for stage in plan) == epochs
    if recipe.stages:
        assert recipe.plan() == recipe.stages, "the row's epochs are those of its stages"


@pytest.mark.parametrize("name", NAMES)
def test_every_network_field_that_a_row_sets_reaches_its_network(name):
    """A number that the network has no argument for would be a claim about the method that is not true."""
    recipe = RECIPES[name]
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    for field in (name for name, about in FIELDS.items() if about.network):
        if field != "backbone" and getattr(recipe, field) != defaults[field]:
            assert applies(recipe, field), f"{name} sets {field}, which {recipe.network.__name__} does not read"


def test_a_field_without_meaning_for_the_network_is_an_error():
    check_network_fields(RECIPES["bot"], {"neck": "none", "lr": 1.0, "image_size": (64, 32)})
    with pytest.raises(ValueError, match="PCB has no neck"):
        check_network_fields(RECIPES["pcb"], {"neck": "none"})
    with pytest.raises(ValueError, match="network of its own"):
        check_network_fields(RECIPES["hacnn"], {"backbone": "resnet18"})


def test_stages_keep_their_proportions_and_one_epoch_at_least():
    recipe = RECIPES["pcb_rpp_induced"]
    assert [stage.epochs for stage in recipe.with_(epochs=100).plan()] == [40, 10, 50]
    assert [stage.epochs for stage in recipe.with_(epochs=4).plan()] == [2, 1, 1]
    assert [stage.epochs for stage in recipe.with_(epochs=3).plan()] == [1, 1, 1]
    with pytest.raises(ValueError, match="too few for 3"):
        recipe.with_(epochs=2).plan()


def test_fixbase_epochs_come_first_and_open_new_layers_only():
    plan = RECIPES["bot"].with_(epochs=10, fixbase_epochs=3).plan()
    assert plan == (Stage(3, ("new",)), Stage(7))


@pytest.mark.parametrize(("open_layers", "rows"), [
    (("classifier",), ("softmax", "resnet50mid", "mlfn", "osnet_x1_0", "osnet_x0_25", "osnet_x0_5", "osnet_x0_75",
                       "osnet_ibn_x1_0", "osnet_ain_x1_0", "densenet121")),
    (("fc", "classifier"), ("softmax_fc512", "resnet50_fc512", "densenet121_fc512")),
])  # fmt: skip
def test_torchreids_fixbase_epochs_open_what_its_configurations_open(open_layers, rows):
    """torchreid f8cd150, configs/*.yaml, open_layers; those without one of their own follow ResNet-50's."""
    for row in rows:
        model = RECIPES[row].outline(3)
        opened = {id(p) for group in RECIPES[row].open_layers for p in model.layers(group)}
        children = {name.split(".")[0] for name, p in model.named_parameters() if id(p) in opened}
        assert RECIPES[row].open_layers == open_layers and children == {*open_layers}


def test_bot_trains_id_triplet_and_center():
    recipe = RECIPES["bot"].with_(backbone="resnet18")
    criterion = recipe.losses(5)
    assert [(name, weight) for name, weight, _ in criterion.terms] == [("id", 1.0), ("triplet", 1.0), ("center", 5e-4)]
    assert dict(criterion.named_parameters())["losses.center.centers"].shape == (5, 512)


def test_arcface_trains_alone_with_smoothed_labels():
    """lulujianjie/person-reid-tiny-baseline a13a8a8: LOSS_TYPE 'softmax', LOSS_LABELSMOOTH 'on', s 30, m 0.5."""
    ((name, weight, loss),) = RECIPES["bot_arcface"].with_(backbone="resnet18").losses(5).terms
    assert (name, weight, loss.scale, loss.margin, loss.label_smoothing) == ("id", 1.0, 30.0, 0.5, 0.1)


def test_terms_and_weights_of_the_parts_methods():
    def terms(name, **fields):
        fields = {"backbone": "resnet18"} | fields
        criterion = RECIPES[name].with_(**fields).losses(5)
        return {term: (weight, loss) for term, weight, loss in criterion.terms}

    assert terms("pcb")["id"][1].reduction == "sum"
    pyramid = terms("pyramid")["balance"][1]
    assert (pyramid.alpha, pyramid.gamma, pyramid.sigma, pyramid.rule) == (0.25, 2.0, 0.16, "released")
    assert terms("pyramid", balance_rule="paper")["balance"][1].rule == "paper"
    assert pyramid.id_loss.reduction == pyramid.triplet_loss.reduction == "sum" and pyramid.triplet_loss.margin == 1.4
    assert list(terms("aligned")) == ["triplet", "local"] and terms("aligned")["local"][1].mine == "local"
    assert list(terms("aligned_mutual")) == ["id", "triplet", "local", "mutual_kl", "mutual_distance"]
    own = terms("aligned_mutual", mutual_local_weight=0.5, margin=0.2, local_margin=0.4)
    assert (own["triplet"][1].margin, own["local"][1].margin, own["mutual_local"][0]) == (0.2, 0.4, 0.5)
    half = terms("transreid", backbone="vit_tiny_patch16_224")
    assert {name: weight for name, (weight, _) in half.items()} == {
        "id": 0.5, "id_parts": 0.5, "triplet": 0.5, "triplet_parts": 0.5
    }  # fmt: skip
    circle = terms("sbs")["id"][1]
    assert (circle.scale, circle.margin, circle.label_smoothing) == (64.0, 0.35, 0.1)


def test_mgn_has_a_circle_margin_on_each_of_its_eight_parts():
    """fast-reid c9bc3ce, configs/Base-MGN.yml on Base-SBS.yml: CLS_LAYER CircleSoftmax, s 64, m 0.35, in each head."""
    recipe = RECIPES["mgn"].with_(backbone="resnet18")
    loss = dict((name, loss) for name, _, loss in recipe.losses(5).terms)["id"]
    assert [(part.scale, part.margin, tuple(part.weight.shape)) for part in loss.parts] == [(64.0, 0.35, (5, 256))] * 8
    torch.manual_seed(0)
    output, labels = models.Output(torch.randn(6, 8 * 256)), torch.arange(6) % 5
    parts = output.embedding.split(256, dim=1)
    alone = [part(models.Output(x), labels) for part, x in zip(loss.parts, parts, strict=True)]
    torch.testing.assert_close(loss(output, labels), sum(alone) / 8)


def test_fast_reids_gem_learns_its_exponent_in_sbs_and_not_in_agw():
    """fast-reid c9bc3ce: POOL_LAYER GeneralizedMeanPoolingP in Base-SBS.yml, GeneralizedMeanPooling in Base-AGW.yml."""
    learned = {row: RECIPES[row].outline(3).global_pool.p.requires_grad for row in ("sbs", "fastreid_agw", "agw")}
    assert learned == {"sbs": True, "fastreid_agw": False, "agw": True}


def test_half_weighs_the_first_feature_as_much_as_all_others():
    """damo-cv/TransReID at dec5504, loss/make_loss.py, written out."""
    torch.manual_seed(0)
    recipe = RECIPES["transreid"].with_(backbone="vit_tiny_patch16_224")
    logits, feats = [tuple(torch.randn(8, n) for _ in range(5)) for n in (4, 6)]
    labels = torch.arange(4).repeat_interleave(2)
    found = recipe.losses(4)(models.Output(torch.cat(feats, 1), logits, feats), labels)
    cross = [torch.nn.functional.cross_entropy(x, labels) for x in logits]
    assert float(found["id"] + found["id_parts"]) == pytest.approx(float(0.5 * cross[0] + 0.5 * sum(cross[1:]) / 4))
    with pytest.raises(ValueError, match="only one"):
        recipe.losses(4)(models.Output(feats[0], logits[:1], feats[:1]), labels)


@pytest.mark.parametrize("id_loss", ["focal", "arcface", "cosface", "circle"])
def test_every_id_loss_and_every_metric_term_trains(id_loss):
    recipe = RECIPES["bot"].with_(backbone="resnet18", id_loss=id_loss, circle_weight=1.0, ring_weight=0.1)
    model, criterion = recipe.model(4), recipe.losses(4)
    output = model.train()(torch.randn(8, 3, 64, 32))
    terms = criterion(output, torch.arange(4).repeat_interleave(2))
    assert list(terms) == ["id", "triplet", "center", "circle", "ring"]
    assert all(term.isfinite() and term > 0 for term in terms.values())
    assert model.num_pids == (4 if id_loss == "focal" else 0), "a loss with its own weights needs no classifier"


def test_test_distances():
    torch.manual_seed(0)
    query, gallery = ((torch.randn(n, 6), torch.randn(n, 3, 4)) for n in (2, 5))
    recipe = RECIPES["aligned"]
    both = recipe.distance(query, gallery)
    local = recipe.with_(test_distance="local").distance(query, gallery)
    assert recipe.with_(test_distance="global").distance is None
    torch.testing.assert_close(both - local, torch.cdist(query[0], gallery[0]))
    plus = RECIPES["aligned_pp"]
    ours = plus.distance(query, gallery)
    q, g = (torch.nn.functional.normalize(x[0], dim=1) for x in (query, gallery))
    theirs = torch.cdist(q, g).square() + plus.with_(test_distance="local").distance(query, gallery)
    torch.testing.assert_close(2 * ours, theirs)
    normalised = recipe.with_(test_distance="local", normalize_parts=True).distance(query, gallery)
    assert not torch.allclose(normalised, local)


def test_a_local_test_distance_needs_parts():
    check_test_distance(RECIPES["aligned"].with_(backbone="resnet18"))
    with pytest.raises(ValueError, match="BagOfTricks of recipe bot has none"):
        check_test_distance(RECIPES["bot"].with_(backbone="resnet18", test_distance="local"))


@pytest.mark.parametrize(("name", "backbone", "fields"), [
    ("bot", "densenet121", {"last_stride": 2}),
    ("bot", "shufflenet_v2_x1_0", {"last_stride": None}),
    ("bot", "vit_tiny_patch16_224", {"last_stride": None}),
    ("pcb", "osnet_x1_0", {"last_stride": None}),
    ("pcb_rpp", "resnet34", {}),
    ("aligned", "mobilenetv2_x1_0", {}),
    ("aligned_mutual", "osnet_x0_25", {}),
    ("pyramid", "densenet121", {"last_stride": None}),
    ("agw", "resnext50_32x4d", {}),
    ("mgn", "resnet50", {}),
    ("transreid", "deit_small_patch16_224", {}),
])  # fmt: skip
def test_any_backbone_goes_with_any_head_that_its_map_allows(name, backbone, fields):
    recipe = RECIPES[name].with_(backbone=backbone, **fields)
    images = torch.empty(2, 3, *recipe.image_size, device="meta")
    with torch.inference_mode():
        assert recipe.outline(3).eval()(images).embedding.shape[0] == 2


@pytest.mark.parametrize(("name", "backbone", "reason"), [
    ("bot", "densenet121", "last_stride=1 does not apply"),
    ("resnet50mid", "densenet121", "reads inside the stages of a ResNet"),
    ("agw", "osnet_x1_0", "last_stride=1 does not apply"),
    ("mgn", "mobilenetv2_x1_0", "no ResNet stem"),
    ("transreid", "resnet50", "not a vision transformer"),
])  # fmt: skip
def test_an_impossible_pair_says_why(name, backbone, reason):
    with pytest.raises(ValueError, match=reason):
        RECIPES[name].with_(backbone=backbone).outline(3)


def test_an_unknown_field_is_an_error():
    with pytest.raises(TypeError):
        RECIPES["bot"].with_(label_smooth=0.1)


def test_two_rows_of_one_name_are_an_error_that_says_where_both_are():
    with pytest.raises(ValueError, match=r"^test_recipes.py:\d+, row bot: two recipes.*at baselines.py:\d+"):
        recipes.row(RECIPES["bot"])


class Head(torch.nn.Module):
    """A network of a row below; not one that could run."""

    def __init__(self, *, num_pids, pretrained=False, stripes: Few = 6, mode="avg"):
        super().__init__()


class Narrow(torch.nn.Module):
    def __init__(self, *, num_pids):
        super().__init__()


class NeedsMore(torch.nn.Module):
    def __init__(self, *, num_pids, dim, pretrained=False, temperature):
        super().__init__()


@pytest.mark.parametrize(("fields", "message"), [
    ({"label_smooth": 0.1}, r"no field label_smooth \(did you mean label_smoothing\?\)"),
    ({"optimiser": "sgd"}, r"no field optimiser \(did you mean optimizer\?\)"),
    ({"lr": "0.1"}, r"lr is '0.1' \(str\), expected float"),
    ({"epochs": 1.5}, "epochs is 1.5 .*expected int"),
    ({"epochs": True}, "epochs is True .*expected int"),
    ({"nesterov": 1}, "nesterov is 1 .*expected bool"),
    ({"image_size": (256,)}, r"image_size is \(256,\) .*expected tuple\[int, int\]"),
    ({"milestones": [40]}, r"milestones is \[40\] \(list\), expected tuple"),
    ({"margin": "soft"}, r"margin is 'soft' .*expected float \| None"),
    ({"stages": (20, 30)}, r"stages is .*expected tuple\[Stage, \.\.\.\]"),
    ({"published": {"market": (90, 80)}}, "published is .*Published"),
    ({"schedule": "cosin"}, r"schedule is 'cosin', expected multistep.*\(did you mean cosine\?\)"),
    ({"erase_fill": "grey"}, "erase_fill is 'grey', expected mean_raw"),
    ({"network": Head, "neck": "none"}, "neck is 'none', but Head has no argument neck"),
    ({"network": Head, "options": {"stripe": 3}}, r"options has stripe.*of Head \(did you mean stripes\?\)"),
    ({"network": Head, "options": {"stripes": "6"}}, "option stripes is '6' .*expected int"),
    ({"network": Head, "options": {"lr": 0.1}}, "lr is a field"),
    ({"network": Head, "options": {"stripes": 0}}, r"option stripes is 0, expected a whole number \(1 to 64\)"),
    ({"terms": {"mine": Term(1.0, Narrow)}, "options": {"mine_weight": -1.0}}, "option mine_weight is -1.0, expected"),
    ({"network": NeedsMore}, "NeedsMore needs dim, temperature"),
    ({"network": torch.nn.Identity}, "Identity has no argument num_pids"),
    ({"terms": {"mine": Term(1.0, NeedsMore)}}, "NeedsMore needs temperature"),
    ({"terms": {"mine": (1.0, NeedsMore)}}, r"terms is .*expected dict\[str, Term\]"),
    ({"terms": {"center": Term(1.0, NeedsMore)}}, "cannot be called center"),
])  # fmt: skip
def test_a_mistake_in_a_row_is_answered_with_file_and_row(fields, message):
    with pytest.raises(ValueError, match=rf"^test_recipes.py:\d+, row mistaken: .*{message}"):
        recipes.row(RECIPES["bot"], **({"name": "mistaken", "last_stride": None} | fields))
    assert "mistaken" not in RECIPES


@pytest.mark.parametrize("name", [name for name in FIELDS if number_of(name)])
def test_a_number_of_a_row_out_of_its_range_names_row_and_field(name):
    number, value = number_of(name), value_of(HINTS[name])
    for wrong in (number.within.low - 1, number.within.high + 1, math.nan, math.inf):
        fields = {name: (wrong,) * (value.length or 1) if value.length is not None else wrong}
        with pytest.raises(ValueError, match=rf"^test_recipes.py:\d+, row mistaken: {name} is .*expected"):
            recipes.row(RECIPES["bot"], name="mistaken", **fields)


def test_a_row_that_leaves_out_what_every_row_has_names_it():
    with pytest.raises(ValueError, match="row mistaken: title, paper, source, network must be given"):
        recipes.row(name="mistaken")


def test_an_option_with_a_value_that_its_network_refuses_names_the_row():
    recipe = RECIPES["pcb"].with_(backbone="resnet18", options={"test_feature": "middle"})
    with pytest.raises(ValueError, match=r"^recipe pcb \(parts.py:\d+\): test_feature is 'middle'"):
        recipe.outline(3)


def test_a_term_of_a_row_gets_its_arguments_and_its_weight():
    import losses

    base = RECIPES["softmax"].with_(backbone="resnet18", terms={"far": Term(0.25, losses.CenterLoss)})
    criterion = base.losses(5)
    assert [(name, weight) for name, weight, _ in criterion.terms] == [("id", 1.0), ("far", 0.25)]
    assert dict(criterion.named_parameters())["losses.far.centers"].shape == (5, 512)
    assert [name for name, *_ in base.with_(options={"far_weight": 0.0}).losses(5).terms] == ["id"]
    with pytest.raises(ValueError, match="names a term of its own triplet"):
        base.with_(triplet_weight=1.0, terms={"triplet": Term(1.0, losses.RingLoss)}).losses(5)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_builds_without_allocating(name):
    with torch.device("meta"):
        model = RECIPES[name].model(7)
    assert model.num_pids == (7 if RECIPES[name].reads_logits else 0)
    assert model.embedding_dim > 0 and model.feat_dims
