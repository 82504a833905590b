"""The table: one row per published method, with its numbers, its result and where each was read.

A row sets everything a run needs; flags of ``main.py`` carry the same names as the fields and override them. What the
fields mean stands in ``config.Recipe``. A row that begins with another row holds only what differs from it.

Sources named in short below (github.com/...):
    reid-strong-baseline  michuanhaohao/reid-strong-baseline at 3da7e6f
    torchreid             KaiyangZhou/deep-person-reid at f8cd150; its v0.0.9 is af328ff, v0.2.2 016293c, v0.5.0 e9a2b7c
    fast-reid             JDAI-CV/fast-reid at c9bc3ce
    PCB_RPP               syfafterzy/PCB_RPP_for_reID at e29cf54
    beyond-part           huanghoujing/beyond-part-models at 1686e88
    Pyramid               TencentYoutuResearch/PersonReID-Pyramid at 63ffd64
    AlignedReID           huanghoujing/AlignedReID-Re-Production-Pytorch at 2e2d454
    AlignedReID++         michuanhaohao/AlignedReID at fca9620
    ReID-Survey           mangye16/ReID-Survey at 38f5912
    TransReID             damo-cv/TransReID at dec5504
    Tiny                  lulujianjie/person-reid-tiny-baseline at a13a8a8
    light-reid            wangguanan/light-reid at 758f517, branch version_py2.7
    XM                    mangye16/Cross-Modal-Re-ID-baseline at e817a26
    TransReID-SSL         damo-cv/TransReID-SSL at fc39e88
    PersonViT             hustvl/PersonViT at de479ab
    SOLIDER-REID          tinyvision/SOLIDER-REID at 8c08e1c
    CUHK03-NP             zhunzhong07/person-re-ranking at 278f2c7, CUHK03-NP/README.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import architectures
import models
import published as results
from config import IMAGENET_MEAN, Recipe, Stage, checked
from published import Published, Reranked, Variant

RECIPES: dict[str, Recipe] = {}


def row(base: Recipe | None = None, **fields) -> Recipe:
    """Add a row to the table; `base` is the row it differs from in `fields` only.

    ValueError that names file, line and row for a field or option that does not exist, a value that it cannot have, and
    a name that is taken.
    """
    caller = sys._getframe(1)
    place = f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}"
    name = fields.get("name", getattr(base, "name", "without a name"))
    try:
        recipe = checked(base, fields | {"place": place})
        if recipe.name in RECIPES:
            raise ValueError(f"two recipes are called {name}; the other is at {RECIPES[name].place}")
    except ValueError as error:
        raise ValueError(f"{place}, row {name}: {error}") from None
    RECIPES[recipe.name] = recipe
    return recipe


# ============ baselines ============

BOT = row(
    name="bot",
    title="Bag of Tricks, ResNet-50",
    paper="Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW 2019",
    source="reid-strong-baseline 3da7e6f, configs/softmax_triplet_with_center.yml, solver/lr_scheduler.py",
    published={
        "market": Published(
            94.5, 85.9, "reid-strong-baseline 3da7e6f README, ablation, + center loss", reranked=(Reranked(95.4, 94.2),)
        ),
        "duke": Published(
            86.4, 76.4, "reid-strong-baseline 3da7e6f README, ablation, + center loss", reranked=(Reranked(90.3, 89.1),)
        ),
    },
    variants=results.BOT,
    differs=(
        "The rates are the released scheduler's with torch before 1.1, for which it was written: 3.5e-6 in epoch 1, "
        "3.5e-4 from epoch 11 on, drops after 40 and 70 epochs. torch 1.1 and later count one epoch more: 3.8e-5 in "
        "epoch 1, drops after 39 and 69. The paper warms up with t/10 from 3.5e-5 in epoch 1. "
        "The released ResNet leaves out the ReLU after the stem (modeling/backbones/resnet.py); here it is in, as in "
        "the network that the ImageNet weights come from (--stem_relu no for the other: on equal random weights "
        "features differ by 17 % of their length)."
    ),
    network=models.BagOfTricks,
    backbone="resnet50",
    last_stride=1,
    image_size=(256, 128),
    pad=10,
    erase=0.5,
    p=16,
    k=4,
    optimizer="adam",
    lr=3.5e-4,
    epochs=120,
    milestones=(40, 70),
    warmup_epochs=10,
    warmup_factor=0.01,
    eval_every=40,
    triplet_weight=1.0,
    center_weight=5e-4,
    metric="cosine",
)

row(
    BOT,
    name="bot_no_center",
    title="Bag of Tricks without center loss, ResNet-50",
    published={
        "market": Published(94.1, 85.7, "reid-strong-baseline 3da7e6f README, ablation, + BNNeck"),
        "duke": Published(86.2, 75.9, "reid-strong-baseline 3da7e6f README, ablation, + BNNeck"),
    },
    center_weight=0.0,
)

row(
    BOT,
    name="bot_ibn",
    title="Bag of Tricks, ResNet-50-IBN-a",
    backbone="resnet50_ibn_a",
    published={
        "market": Published(95.0, 88.2, "reid-strong-baseline 3da7e6f README, backbone table"),
        "duke": Published(90.1, 79.1, "reid-strong-baseline 3da7e6f README, backbone table"),
    },
)

TINY = row(
    BOT,
    name="tiny",
    title="person-reid-tiny-baseline, Bag of Tricks for 200 epochs, ResNet-50",
    source="Tiny, config/default.py, config/configs.py",
    published={"market": Published(94.1, 85.8, "person-reid-tiny-baseline a13a8a8 README, Results, B1")},
    variants=results.TINY,
    differs="As row bot in schedule. Its numbers are of epochs 175 and 185, chosen on the test set "
    "(config/configs.py); here the last one counts.",
    erase_fill="value_raw",  # datasets/make_dataloader.py, behind Normalize
    erase_value=(0.4914, 0.4822, 0.4465),
    stem_relu=False,  # model/backbones/resnet.py, which pools 2x2 as well
    stem_pool="2x2",
    epochs=200,
    milestones=(40, 70, 130),
    eval_every=5,
)

row(
    TINY,
    name="bot_arcface",
    title="Bag of Tricks with ArcFace alone, ResNet-50",
    source="lulujianjie/person-reid-tiny-baseline a13a8a8, config/configs.py (the run with COS_LAYER), "
    "config/default.py, loss/make_loss.py; Deng et al., ArcFace, CVPR 2019",
    published={},
    differs="As row bot in schedule.",
    id_loss="arcface",
    triplet_weight=0.0,
    center_weight=0.0,
)

row(
    BOT,
    name="wangguanan",
    title="wangguanan's Bag of Tricks, 200 iterations an epoch, no center loss, ResNet-50",
    source="light-reid, main.py, core/base.py, core/models.py, core/train.py, core/data_loader/__init__.py",
    published=results.WANGGUANAN,
    variants=results.WANGGUANAN_VARIANTS,
    differs="A batch is the next 64 images of a list with four of each identity, anew for each pass, of which the last "
    "batch has fewer identities (Market-1501: one in 47 has 15); here every batch is 16 x 4.",
    stem_relu=False,  # core/models.py
    interpolation="bicubic",
    steps=200,
    center_weight=0.0,
)

SOFTMAX = row(
    name="softmax",
    title="Plain softmax baseline, ResNet-50",
    paper="Zheng et al., Person Re-identification: Past, Present and Future, arXiv 2016 (IDE)",
    source="torchreid, configs/im_r50_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(87.9, 70.4, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50"),
        "duke": Published(78.3, 58.9, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50"),
        "msmt17": Published(63.2, 33.9, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50"),
    },
    variants=results.SOFTMAX,
    differs="The zoo's table names random_flip and random_crop, its config file only random_flip: the table's.",
    network=models.Softmax,
    backbone="resnet50",
    translate=0.5,
    batch_size=32,
    optimizer="amsgrad",
    lr=3e-4,
    epochs=60,
    fixbase_epochs=5,
    open_layers=("classifier",),
    milestones=(20, 40),  # StepLR: every 20 epochs
)

SOFTMAX_FC512 = row(
    SOFTMAX,
    name="softmax_fc512",
    title="Softmax baseline, ResNet-50 with a 512-d reduction",
    source="torchreid, configs/im_r50fc512_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(90.8, 75.3, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50_fc512"),
        "duke": Published(81.0, 64.0, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50_fc512"),
        "msmt17": Published(69.6, 38.4, "torchreid f8cd150, docs/MODEL_ZOO.md, resnet50_fc512"),
    },
    last_stride=1,
    fc_dims=(512,),
    open_layers=("fc", "classifier"),
)

row(
    SOFTMAX,
    name="softmax_triplet",
    title="Softmax + hard triplet baseline, ResNet-50",
    paper="Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, arXiv 2017",
    source="torchreid, scripts/default_config.py (margin 0.3, batches of 32, 4 instances) on the softmax row",
    published={},
    differs="torchreid's default weights the ID term 0 (weight_x); here both terms weigh 1, as its README trains them.",
    triplet_weight=1.0,
    p=8,
    k=4,
)

# The backbones of torchreid that have a published result of their own, under its keys. Any other backbone is
# --recipe softmax --backbone NAME.
ZOO = "The zoo does not print this network's schedule; its author names the ResNet-50 configuration for " \
    "ImageNet-pretrained networks (torchreid issue 380)."  # fmt: skip
for key, fields, paper, where, values in (
    ("resnet50_fc512", {"backbone": "resnet50", "fc_dims": (512,), "last_stride": 1}, "He et al., CVPR 2016",
     "f8cd150, docs/MODEL_ZOO.md", ((90.8, 75.3), (81.0, 64.0), (69.6, 38.4))),
    ("se_resnet50_fc512",
     {"backbone": "se_resnet50", "fc_dims": (512,), "last_stride": 1, "options": {"head_std": 0.0}},
     "Hu et al., CVPR 2018", "v0.5.0, MODEL_ZOO.md", ((91.9, 75.9), (81.5, 63.7), (71.1, 39.8))),
    ("densenet121_fc512", {"backbone": "densenet121", "fc_dims": (512,)}, "Huang et al., CVPR 2017",
     "v0.5.0, MODEL_ZOO.md", ((87.8, 68.0), (79.7, 58.8), (67.6, 35.0))),
    ("squeezenet1_0_fc512", {"backbone": "squeezenet1_0", "fc_dims": (512,)}, "Iandola et al., arXiv 2016",
     "v0.5.0, MODEL_ZOO.md", ((79.3, 52.2), (66.6, 42.6), (44.1, 17.1))),
    ("mobilenetv2_x1_0", {"backbone": "mobilenetv2_x1_0", "variants": results.MOBILENET}, "Sandler et al., CVPR 2018",
     "f8cd150, docs/MODEL_ZOO.md", ((85.6, 67.3), (74.2, 54.7), (57.4, 29.3))),
    ("mobilenetv2_x1_4", {"backbone": "mobilenetv2_x1_4"}, "Sandler et al., CVPR 2018",
     "f8cd150, docs/MODEL_ZOO.md", ((87.0, 68.5), (76.2, 55.8), (60.1, 31.5))),
):  # fmt: skip
    row(
        SOFTMAX,
        name=key,
        title=f"Softmax baseline, {key}",
        paper=f"{paper} ({key})",
        published={
            data: Published(*value, f"torchreid {where}, {key}")
            for data, value in zip(("market", "duke", "msmt17"), values, strict=True)
        },
        differs=ZOO,
        open_layers=("fc", "classifier") if "fc_dims" in fields else ("classifier",),
        **fields,
    )

# Those of torchreid's first benchmark alone, with its settings.
for key, paper, fields, runs, differs in (
    ("densenet121", "Huang et al., CVPR 2017", {"backbone": "densenet121_linear"}, results.DENSENET, ""),
    ("shufflenet", "Zhang et al., CVPR 2018", {"pretrained": "none"}, results.SHUFFLENET, ""),
    ("nasnsetmobile", "Zoph et al., CVPR 2018", {}, results.NASNET,  # torchreid's spelling
     "Its dropout in front of the classifier is left out."),
):  # fmt: skip
    published, variants = results.rows_own(runs)
    row(
        SOFTMAX,
        name=key,
        title=f"Softmax baseline, {key}",
        paper=f"{paper} ({key})",
        source="torchreid v0.2.2 (016293c), train_imgreid_xent.py",
        published=published,
        variants=variants,
        differs=differs,
        options={"head_std": 0.0},
        **{"backbone": key} | results.XENT | fields,
    )

# ============ networks drawn for re-ID, in the order of the papers ============

MUDEEP = row(
    SOFTMAX,
    name="mudeep",
    title="MuDeep",
    paper="Qian et al., Multi-scale Deep Learning Architectures for Person Re-identification, ICCV 2017",
    source="torchreid v0.0.9, train_img_model_xent_htri.py",
    published=results.MUDEEP,
    differs="The network and the numbers are torchreid's, which averages the last map 4x4 where the paper does not. "
    "With torch from 1.1 on its rates drop after 60 and 120 epochs.",
    network=architectures.MuDeep,
    pretrained="none",
    p=8,
    k=4,
    epoch_length="identities",
    optimizer="adam",
    epochs=180,
    fixbase_epochs=0,
    milestones=(61, 121),  # StepLR(60), stepped behind each epoch with torch 0.4
    triplet_weight=1.0,
)

row(
    SOFTMAX,
    name="resnet50mid",
    title="ResNet50M, mid-level features beside the last",
    paper="Yu et al., The Devil is in the Middle, arXiv 2017",
    source="torchreid, configs/im_r50_softmax_256x128_amsgrad.yaml, which its author names for variants of ResNet-50 "
    "(issue 380)",
    published={
        "market": Published(90.2, 76.0, "torchreid v0.5.0, MODEL_ZOO.md, resnet50mid"),
        "duke": Published(81.6, 64.0, "torchreid v0.5.0, MODEL_ZOO.md, resnet50mid"),
        "msmt17": Published(69.0, 38.0, "torchreid v0.5.0, MODEL_ZOO.md, resnet50mid"),
    },
    variants=results.RESNET50M,
    differs="",
    network=models.ResNet50M,
)

row(
    SOFTMAX,
    name="hacnn",
    title="HACNN, from scratch",
    paper="Li et al., Harmonious Attention Network for Person Re-Identification, CVPR 2018",
    source="torchreid issue 27, its author's settings for about rank-1 91; size and augmentation of docs/MODEL_ZOO.md",
    published={
        "market": Published(90.9, 75.6, "torchreid f8cd150, docs/MODEL_ZOO.md, hacnn"),
        "duke": Published(80.1, 63.2, "torchreid f8cd150, docs/MODEL_ZOO.md, hacnn"),
        "msmt17": Published(64.7, 37.2, "torchreid f8cd150, docs/MODEL_ZOO.md, hacnn"),
    },
    variants=results.HACNN,
    differs="Weight decay, momentum and batch are torchreid's defaults, which the issue leaves unsaid. The two "
    "classifiers' losses are averaged, as there (DeepSupervision). The paper prints 91.2 / 75.7 on Market-1501. A "
    "region is cut out as torch does it since 1.3; before, corners were aligned: --align_corners yes for weights of "
    "that time, as the zoo's of 2018 are (on random weights features differ by 8 % of the largest).",
    network=architectures.HACNN,
    pretrained="none",
    image_size=(160, 64),
    optimizer="sgd",
    lr=0.03,
    epochs=300,
    fixbase_epochs=0,
    open_layers=("classifier_global", "classifier_local"),
    milestones=(150, 225),
)

row(
    SOFTMAX,
    name="mlfn",
    title="MLFN",
    paper="Chang et al., Multi-Level Factorisation Net for Person Re-Identification, CVPR 2018",
    source="torchreid, configs/im_r50_softmax_256x128_amsgrad.yaml, which its author names for MLFN (issue 380)",
    variants=(
        Variant(
            "torchreid's zoo",
            {"pretrained": "FILE", "fixbase_epochs": 5},
            {
                "market": Published(90.1, 74.3, "torchreid f8cd150, docs/MODEL_ZOO.md, mlfn"),
                "duke": Published(81.1, 63.2, "torchreid f8cd150, docs/MODEL_ZOO.md, mlfn"),
                "msmt17": Published(66.4, 37.2, "torchreid f8cd150, docs/MODEL_ZOO.md, mlfn"),
            },
        ),
        Variant(
            "the paper",
            {},
            {"cuhk03": Published(52.8, 47.8, "paper, by CUHK03-NP; detected, 767/700 split")},
            "the authors' own training",
        ),
    ),
    differs="torchreid starts from its own ImageNet weights of MLFN, which no package offers: name their file with "
    "--pretrained FILE --fixbase_epochs 5. Without it the network starts from random weights, and all of it at once.",
    network=architectures.MLFN,
    pretrained="none",
    fixbase_epochs=0,
)

OSNET = row(
    name="osnet_x1_0",
    title="OSNet x1.0",
    paper="Zhou et al., Omni-Scale Feature Learning for Person Re-Identification, ICCV 2019",
    source="torchreid, configs/im_osnet_x1_0_softmax_256x128_amsgrad_cosine.yaml",
    published={
        "market": Published(94.2, 82.6, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "duke": Published(87.0, 70.2, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "msmt17": Published(74.9, 43.8, "torchreid f8cd150, docs/MODEL_ZOO.md"),
    },
    variants=results.OSNET["osnet_x1_0"],
    network=models.Softmax,
    backbone="osnet_x1_0",
    fc_dims=(512,),
    batch_size=64,
    optimizer="amsgrad",
    lr=1.5e-3,
    epochs=250,
    fixbase_epochs=10,
    open_layers=("classifier",),
    schedule="cosine",
)

OSNET_STEP = row(
    OSNET,
    name="osnet_x0_25",
    title="OSNet x0.25",
    backbone="osnet_x0_25",
    source="torchreid, configs/im_osnet_x0_25_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(91.2, 75.0, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "duke": Published(82.0, 61.4, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "msmt17": Published(61.4, 29.5, "torchreid f8cd150, docs/MODEL_ZOO.md"),
    },
    variants=results.OSNET["osnet_x0_25"],
    batch_size=128,
    lr=3e-3,
    epochs=180,
    schedule="multistep",
    milestones=(80, 160),
)

row(
    OSNET_STEP,
    name="osnet_x0_5",
    title="OSNet x0.5",
    backbone="osnet_x0_5",
    source="torchreid, configs/im_osnet_x0_5_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(92.5, 79.8, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "duke": Published(85.1, 67.4, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "msmt17": Published(69.7, 37.5, "torchreid f8cd150, docs/MODEL_ZOO.md"),
    },
    variants=results.OSNET["osnet_x0_5"],
)

row(
    OSNET_STEP,
    name="osnet_x0_75",
    title="OSNet x0.75",
    backbone="osnet_x0_75",
    source="torchreid, configs/im_osnet_x0_75_softmax_256x128_amsgrad.yaml",
    published={
        "market": Published(93.7, 81.2, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "duke": Published(85.8, 69.8, "torchreid f8cd150, docs/MODEL_ZOO.md"),
        "msmt17": Published(72.8, 41.4, "torchreid f8cd150, docs/MODEL_ZOO.md"),
    },
    variants=results.OSNET["osnet_x0_75"],
    batch_size=64,
    lr=1.5e-3,
    epochs=150,
    milestones=(60, 120),
)

row(
    OSNET,
    name="osnet_ibn_x1_0",
    title="OSNet-IBN x1.0, for other cameras than it was trained on",
    backbone="osnet_ibn_x1_0",
    source="torchreid, configs/im_osnet_ibn_x1_0_softmax_256x128_amsgrad.yaml",
    published={
        "market2duke": Published(48.5, 26.7, "torchreid f8cd150, docs/MODEL_ZOO.md, cross-domain", 62.3, 67.4),
        "duke2market": Published(57.7, 26.1, "torchreid f8cd150, docs/MODEL_ZOO.md, cross-domain", 73.7, 80.0),
    },
    variants=results.OSNET["osnet_ibn_x1_0"],
    color_jitter=1.0,
    epochs=150,
    schedule="multistep",
    milestones=(60, 120),
)

OSNET_AIN = row(
    OSNET,
    name="osnet_ain_x1_0",
    title="OSNet-AIN x1.0, for other cameras than it was trained on",
    paper="Zhou et al., Learning Generalisable Omni-Scale Representations for Person Re-Identification, TPAMI 2021",
    backbone="osnet_ain_x1_0",
    source="torchreid, configs/im_osnet_ain_x1_0_softmax_256x128_amsgrad_cosine.yaml",
    published={
        "market2duke": Published(52.4, 30.5, "torchreid f8cd150, docs/MODEL_ZOO.md, cross-domain", 66.1, 71.2),
        "duke2market": Published(61.0, 30.6, "torchreid f8cd150, docs/MODEL_ZOO.md, cross-domain", 77.0, 82.5),
    },
    variants=results.OSNET["osnet_ain_x1_0"],
    color_jitter=1.0,
    epochs=100,
    metric="cosine",
)

for width in ("x0_75", "x0_5", "x0_25"):
    row(
        OSNET_AIN,
        name=f"osnet_ain_{width}",
        title=f"OSNet-AIN {width.replace('_', '.')}",
        backbone=f"osnet_ain_{width}",
        published={},
    )

# ============ parts and alignment ============

OPENCV = (
    "Images are resized by OpenCV there, which does not average where it makes them smaller: 0.3 of 255 from ours "
    "on Market-1501, which grows, 2.9 on a set that shrinks to half."
)

PCB = row(
    name="pcb",
    title="PCB, six stripes",
    paper="Sun et al., Beyond Part Models: Person Retrieval with Refined Part Pooling, ECCV 2018",
    source="PCB_RPP, train_PCB.sh and PCB.py",
    published={
        "market": Published(92.3, 77.4, "paper, abstract"),
        "duke": Published(81.9, 65.3, "paper, by beyond-part-models 1686e88 README"),
        "cuhk03": Published(61.3, 54.2, "paper, by beyond-part-models 1686e88 README; 767/700 split"),
    },
    variants=results.PCB,
    differs="The authors' code prints 93.0 / 78.0 on Market-1501. It has one 1x1 convolution for all stripes (see "
    "pcb_independent) and compares the six pooled stripes in front of it; --recipe pcb_after compares what is behind. "
    "The six losses are summed, as in its trainer (reid/trainers_partloss.py).",
    network=models.PCB,
    options={"parts": 6, "reduced_dim": 256, "dropout": 0.5, "test_feature": "before"},
    backbone="resnet50",
    last_stride=1,
    image_size=(384, 128),
    batch_size=64,
    optimizer="sgd",
    lr=0.1,
    base_lr_mult=0.1,
    nesterov=True,
    epochs=60,
    milestones=(40,),
    label_smoothing=0.0,
    reduction="sum",
)

row(
    PCB,
    name="pcb_after",
    title="PCB, compared by the six reduced 256-d features",
    published={},
    options=PCB.options | {"test_feature": "after"},
)

row(
    PCB,
    name="pcb_independent",
    title="PCB with a 1x1 convolution for each stripe",
    source="beyond-part, script/experiment/train_pcb.py and bpm/model/PCBModel.py",
    published=results.PCB_INDEPENDENT,
    variants=(results.PCB_SHARED,),
    differs=OPENCV,
    options=PCB.options | {"shared_reduction": False, "dropout": 0.0, "test_feature": "after", "normalize_each": False},
    mean=(0.486, 0.459, 0.408),
    nesterov=False,
)

row(
    PCB,
    name="pcb_rpp",
    title="PCB with refined part pooling",
    source="PCB_RPP, train_RPP.sh and RPP.py: 20 epochs of PCB, then RPP up to epoch 50; a tenth every 20",
    published={
        "market": Published(93.8, 81.6, "paper, abstract: 92.3 + 1.5 and 77.4 + 4.2"),
        "duke": Published(83.3, 69.2, "paper, by Pyramid 63ffd64, figures/performance1.JPG"),
        "cuhk03": Published(63.7, 57.5, "paper, by CUHK03-NP; detected, 767/700 split"),
    },
    differs="The paper trains the part classifier alone before everything (its induced training); the code does not. "
    "Here 5 of the 30 epochs are the classifier's, a number of ours. The code's second part trains the backbone at the "
    "rate of the new layers, this row at a tenth of it throughout. The authors' code prints 93.5 / 81.5 on "
    "Market-1501.",
    network=models.RPP,
    epochs=50,
    milestones=(20, 40),
    stages=(Stage(20), Stage(5, ("part_classifier",)), Stage(25)),
)

ALIGNED = row(
    name="aligned",
    title="AlignedReID, global and local distance",
    paper="Zhang et al., AlignedReID: Surpassing Human-Level Performance in Person Re-Identification, arXiv 2017",
    source="AlignedReID, README (examples) and script/experiment/train.py",
    published=results.ALIGNED,
    variants=results.ALIGNED_VARIANTS,
    differs="The numbers are those of the reproduction, which trains on one data set or three; the paper trains on "
    "four. Hard samples of the local loss are found by the local distance, as in the reproduction's results (LHSFLD); "
    "the paper's --local_mining global. Rows are averaged as there; the paper takes their maximum. --test_distance "
    "global, local or both; --id_weight 1 adds the paper's ID loss. " + OPENCV,
    network=models.AlignedReID,
    options={"local_dim": 128, "local_pooling": "avg"},
    backbone="resnet50",
    mean=(0.486, 0.459, 0.408),
    p=32,
    k=4,
    epoch_length="identities",
    optimizer="adam",
    lr=2e-4,
    epochs=300,
    schedule="exponential",
    first_epoch=1,
    milestones=(150,),
    gamma=0.001,
    id_weight=0.0,
    label_smoothing=0.0,
    triplet_weight=1.0,
    margin=0.3,
    local_triplet_weight=1.0,
    local_mining="local",
    test_distance="both",
)

row(
    ALIGNED,
    name="aligned_mutual",
    title="AlignedReID, two networks that learn from each other",
    source="AlignedReID, README (examples) and script/experiment/train_ml.py",
    published=results.ALIGNED_MUTUAL,
    variants=results.ALIGNED_MUTUAL_VARIANTS,
    differs="As row aligned. The losses of the two networks are summed, as each is trained by its own there. Which "
    "mutual losses a line of the table has, it does not say: those of script/experiment/train_ml.py by default, and "
    "without ID loss the distances' alone, as in README's example.",
    members=2,
    reduction="sum",
    id_weight=1.0,
    mutual_kl_weight=1.0,
    mutual_distance_weight=1.0,
)

row(
    ALIGNED,
    name="aligned_pp",
    title="AlignedReID++, label smoothing and DMLI",
    paper="Luo et al., AlignedReID++: Dynamically matching local information for person re-identification, Pattern "
    "Recognition 2019",
    source="AlignedReID++, train_alignedreid.py --labelsmooth --test_distance global_local",
    published=results.ALIGNED_PLUS,
    variants=results.ALIGNED_PLUS_VARIANTS,
    differs="The code adds the squared euclidean distance of normalised features, which is twice the cosine distance, "
    "to the local one; half the local distance beside the cosine distance ranks alike. With torch from 1.1 on its "
    "rate drops after 150 epochs.",
    network=models.AlignedReIDPlusPlus,
    local_mining="global",
    options={"local_dim": 128},
    mean=IMAGENET_MEAN,
    translate=0.5,
    p=8,
    k=4,
    epoch_length="identities",
    schedule="multistep",
    milestones=(151,),  # StepLR(150), stepped behind each epoch with torch 0.4
    gamma=0.1,
    id_weight=1.0,
    label_smoothing=0.1,
    metric="cosine",
    local_weight=0.5,
)

row(
    name="pyramid",
    title="Pyramid, 21 branches with dynamic training",
    paper="Zheng et al., Pyramidal Person Re-IDentification via Multi-Loss Dynamic Training, CVPR 2019",
    source="Pyramid, src/config.py and src/train.py",
    published={
        "market": Published(95.7, 88.2, "Pyramid 63ffd64, figures/performance0.JPG (the paper's table 1)", 98.4, 99.0),
        "duke": Published(89.0, 79.0, "Pyramid 63ffd64, figures/performance1.JPG (the paper's table 2)", 94.7, 96.3),
        "cuhk03": Published(78.9, 74.8, "Pyramid 63ffd64, figures/performance2.JPG (table 3), detected, 767/700 split"),
    },
    differs="As the released code: where the running ID loss rises, the ID loss trains alone if the triplet loss fell, "
    "which the ratio of the paper does not say (they differ in 25 % of 3,000 noisy steps: losses.DynamicBalance); and "
    "every batch is P x K, where the paper's next batch after an ID-only step is random. The paper's way is "
    "--balance_rule paper --alternate. The code keeps the epoch of best mAP on the test set, here the last one counts. "
    "The last batch of an epoch is filled up with identities a second time (1 of 751 on Market-1501, 2 of 702 on "
    "DukeMTMC-reID); there it is smaller. The rates are those of torch before 1.1, for which the code was written (its "
    "readme: 0.4 or later); with the 1.1.0 of its requirements.txt they drop one epoch sooner.",
    network=models.Pyramid,
    options={"parts": 6, "branch_dim": 128, "dropout": 0.2},
    backbone="resnet101",
    last_stride=1,
    image_size=(384, 128),
    interpolation="bicubic",
    erase=0.2,
    erase_fill="mean",
    p=8,
    k=8,
    epoch_length="all_identities",
    optimizer="sgd",
    lr=0.1,
    base_lr_mult=0.1,
    epochs=120,
    milestones=(60, 70, 80, 90, 100),
    gamma=0.5,
    reduction="sum",
    label_smoothing=0.0,
    triplet_weight=1.0,
    margin=1.4,
    balance_sigma=0.16,
    balance_alpha=0.25,
    balance_gamma=2.0,
    balance_rule="released",
)

row(
    name="resnet50_video",
    title="torchreid's video baseline, ResNet-50, trained on frames, averaged over 15",
    paper="Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, arXiv 2017",
    source="torchreid v0.0.9, train_vid_model_xent_htri.py",
    variants=results.VIDEO,
    network=models.Softmax,
    options={"head_std": 0.0},
    sample_method="frames",
    test_frames="evenly",
    seq_len=15,
    image_size=(256, 128),
    translate=0.5,
    p=8,
    k=4,
    epoch_length="identities",
    lr=3e-4,
    epochs=500,
    milestones=(201, 401),  # StepLR(200), stepped behind each epoch with torch 0.4
    triplet_weight=1.0,
)

# ============ stronger baselines ============

AGW = row(
    BOT,
    name="agw",
    title="AGW, non-local blocks, GeM and weighted triplet, ResNet-50",
    paper="Ye et al., Deep Learning for Person Re-Identification: A Survey and Outlook, TPAMI 2021",
    source="ReID-Survey, configs/AGW_baseline.yml",
    published={
        "market": Published(95.1, 87.8, "ReID-Survey 38f5912 README"),
        "duke": Published(89.0, 79.6, "ReID-Survey 38f5912 README"),
        "cuhk03": Published(63.6, 62.0, "ReID-Survey 38f5912 README; split not stated"),
        "msmt17": Published(68.3, 49.3, "ReID-Survey 38f5912 README"),
    },
    differs="As row bot in schedule and stem. The triplet loss's weights are the released code's, which vanish where "
    "all negatives are further than about 15; --mining weighted_exact keeps them (16.1 against 0.0098 in one batch).",
    network=models.AGW,
    options={"non_local": (0, 2, 3, 0)},
    pooling="gem",
    mining="weighted",
)

row(
    AGW,
    name="agw_rgbir",
    title="AGW for colour and infrared, two stems, ResNet-50",
    source="XM, train.py, model.py",
    published={
        "sysu": Published(47.50, 47.65, "XM e817a26 README; all search, single shot, mean of 10 galleries"),
        "regdb": Published(70.05, 66.37, "XM e817a26 README; visible asks for thermal"),
    },
    differs="Identities and images are drawn in turns, not anew for each batch. Images are resized with a bilinear "
    "filter, theirs beforehand with Lanczos. The code keeps the epoch of best rank-1 on the test set, here the last "
    "one counts. See row agw for the loss.",
    network=models.TwoStreamAGW,
    infrared=True,
    image_size=(288, 144),
    erase=0.0,
    p=8,
    k=4,
    optimizer="sgd",
    nesterov=True,
    lr=0.1,
    base_lr_mult=0.1,
    epochs=81,
    milestones=(20, 50),
    warmup_epochs=10,
    warmup_factor=0.0,
    first_epoch=1,
    eval_every=10,
    label_smoothing=0.0,
    center_weight=0.0,
)

row(
    BOT,
    name="jsia",
    title="JSIA's retrieval network for colour and infrared, without the generated images, ResNet-50",
    paper="Wang et al., Cross-Modality Paired-Images Generation for RGB-Infrared Person Re-Identification, AAAI 2020",
    source="wangguanan/JSIA-ReID at 6eb008b, main.py, core/base.py, core/networks.py (Encoder), core/train.py",
    published={
        "sysu": Published(32.1, 31.9, "JSIA-ReID 6eb008b, materials/paper.pdf, table 3, without alignment", rank10=75.7)
    },
    variants=results.JSIA,
    differs="JSIA turns each image into one of the other light with two generators, aligns the sets of both lights by "
    "them and each pair of images by a KL divergence of weight 0.01. None of that is here: this row is its encoder "
    "alone with the losses that train it, the first line of the paper's table 3. By that table the alignment of sets "
    "is worth 3.0 points of rank-1 and 1.9 of mAP on SYSU-MM01, that of pairs 3.9 and 3.6, both 6.0 and 5.0: 38.1 / "
    "36.9. There images are grey and a triplet's negative and positive are of the other light. Its released encoder "
    "is read and gives its features of colour images here (docs/weights.md).",
    infrared=True,
    stem_relu=False,  # core/networks.py, Encoder
    interpolation="bicubic",
    pad=0,
    erase=0.0,
    steps=200,
    lr=4.5e-4,
    epochs=50,
    milestones=(30,),
    warmup_epochs=0,
    eval_every=10,
    center_weight=0.0,
)

# What all rows of fast-reid have in common; its configurations say the rest.
FAST_SHAPES = "Images are erased with torchvision's shapes, height / width up to 3.3 for 1 / 0.3, 10 attempts for 100. "
FAST_REID = (
    f"Label smoothing there gives the true class no share of epsilon (751 identities: 0.9 for 0.90013). {FAST_SHAPES}"
)
ZOO = "fast-reid c9bc3ce, MODEL_ZOO.md"


def zoo(key: str, *values: tuple[float, float]) -> dict[str, Published]:
    """fast-reid's results of the model `key` on its three sets."""
    return {
        data: Published(*each, f"{ZOO}, {key}") for data, each in zip(("market", "duke", "msmt17"), values, strict=True)
    }


FAST_BOT = row(
    BOT,
    name="fastreid_bot",
    title="Bag of Tricks as in fast-reid, ResNet-50",
    source="fast-reid, configs/Base-bagtricks.yml, configs/Market1501/bagtricks_R50.yml",
    published=zoo("BoT(R50)", (94.4, 86.1), (87.2, 77.0), (74.1, 50.2)),
    differs=FAST_REID + "Its steps 40 and 90 count from the last epoch of the warm-up: drops after 49 and 99 epochs of "
    "Market-1501, 47 and 97 of DukeMTMC-reID.",
    options={"head_std": 0.01},  # modeling/heads/embedding_head.py
    stem_ceil=True,
    interpolation="bicubic",
    erase_fill="mean",
    erase_area=(0.02, 0.33),
    epoch_length="images",
    milestones=(40, 90),
    warmup_epochs=0,
    warmup_iterations=2000,
    warmup_factor=0.1,
    eval_every=30,
    center_weight=0.0,
)

FAST_AGW = row(
    FAST_BOT,
    name="fastreid_agw",
    title="AGW as in fast-reid, ResNet-50",
    paper="Ye et al., Deep Learning for Person Re-Identification: A Survey and Outlook, TPAMI 2021",
    source="fast-reid, configs/Base-AGW.yml, configs/Market1501/AGW_R50.yml",
    published=zoo("AGW(R50)", (95.3, 88.2), (89.0, 79.9), (78.3, 55.6)),
    network=models.AGW,
    options=FAST_BOT.options | {"non_local": (0, 2, 3, 0)},
    pooling="gem_fixed",
    mining="weighted",
)

SBS = row(
    FAST_AGW,
    name="sbs",
    title="SBS, fast-reid's stronger baseline, ResNet-50",
    paper="He et al., FastReID: A Pytorch Toolbox for General Instance Re-identification, arXiv 2020",
    source="fast-reid, configs/Base-SBS.yml, configs/Market1501/sbs_R50.yml",
    published={
        "market": Published(95.4, 88.2, "fast-reid c9bc3ce, MODEL_ZOO.md, SBS(R50)"),
        "duke": Published(90.3, 80.3, "fast-reid c9bc3ce, MODEL_ZOO.md, SBS(R50)"),
        "msmt17": Published(81.8, 58.4, "fast-reid c9bc3ce, MODEL_ZOO.md, SBS(R50)"),
    },
    differs=FAST_REID + "AutoAugment changes the resized image, there the image before it is resized: with equal draws "
    "on images of Market-1501 pixels differ by 6.3 of 255 on average, by 27 in the worst sub-policy, which turns "
    "or shears; it acts on a tenth of the images.",
    pooling="gem",
    metric_neck="after",
    auto_augment=0.1,
    image_size=(384, 128),
    p=4,
    k=16,
    epochs=60,
    fixbase_iterations=1000,
    schedule="cosine",
    milestones=(30,),
    lr_floor=0.002,  # 7e-7 / 3.5e-4
    eval_every=10,
    id_loss="circle",
    id_scale=64.0,
    id_margin=0.35,
    mining="hard",
    margin=None,
)

# The same three with its other backbones. Its ResNeSt is built without non-local blocks, whatever WITH_NL says, and
# pools its stem with padding (modeling/backbones/resnest.py).
S50: dict[str, Any] = {"network": models.BagOfTricks, "options": FAST_BOT.options, "stem_ceil": False}
for base, key, name, backbone, scores in (
    (FAST_BOT, "BoT", "r50_ibn", "resnet50_ibn_a", ((94.9, 87.6), (89.3, 79.6), (77.0, 54.4))),
    (FAST_BOT, "BoT", "s50", "resnest50", ((95.2, 88.7), (90.0, 80.13), (80.8, 59.9))),
    (FAST_BOT, "BoT", "r101_ibn", "resnet101_ibn_a", ((95.4, 88.9), (91.2, 81.2), (81.0, 59.4))),
    (FAST_AGW, "AGW", "r50_ibn", "resnet50_ibn_a", ((95.1, 88.7), (90.5, 80.8), (81.2, 59.7))),
    (FAST_AGW, "AGW", "s50", "resnest50", ((95.3, 89.3), (90.9, 82.4), (82.6, 62.6))),
    (FAST_AGW, "AGW", "r101_ibn", "resnet101_ibn_a", ((95.5, 89.5), (91.7, 82.3), (82.0, 61.4))),
    (SBS, "SBS", "r50_ibn", "resnet50_ibn_a", ((95.7, 89.3), (90.8, 81.2), (83.9, 60.6))),
    (SBS, "SBS", "s50", "resnest50", ((95.8, 89.4), (91.0, 81.4), (84.1, 61.7))),
    (SBS, "SBS", "r101_ibn", "resnet101_ibn_a", ((96.3, 90.3), (91.9, 83.6), (84.8, 62.8))),
):
    label = name.upper().replace("_IBN", "-ibn")  # as its files and tables spell it
    deep = "non_local" in base.options and "101" in name
    row(
        base,
        name=f"{base.name}_{name}",
        title=base.title.replace("ResNet-50", backbone),
        source=base.source.replace("_R50.yml", f"_{label}.yml"),
        published=zoo(f"{key}({label})", *scores),
        backbone=backbone,
        **(S50 if name == "s50" else {"options": base.options | ({"non_local": (0, 2, 9, 0)} if deep else {})}),
    )

row(
    SBS,
    name="mgn",
    title="MGN as in fast-reid, ResNet-50-IBN-a",
    paper="Wang et al., Learning Discriminative Features with Multiple Granularities for Person Re-Identification, "
    "ACM Multimedia 2018",
    source="fast-reid, configs/Base-MGN.yml, configs/Market1501/mgn_R50-ibn.yml, modeling/meta_arch/mgn.py",
    published={
        "market": Published(95.8, 89.8, "fast-reid c9bc3ce, MODEL_ZOO.md, MGN"),
        "duke": Published(91.1, 82.0, "fast-reid c9bc3ce, MODEL_ZOO.md, MGN"),
        "msmt17": Published(85.1, 65.4, "fast-reid c9bc3ce, MODEL_ZOO.md, MGN"),
    },
    differs="As row sbs. The losses are averaged over the eight classifiers, each with its circle margin, and the five "
    "metric features, as there. The paper keeps stride 2 in the global branch, pools "
    "maxima and prints 95.7 / 86.9 on Market-1501.",
    network=models.MGN,
    options={"global_stride": 1},
    backbone="resnet50_ibn_a",
    last_stride=None,
)

TRANSREID = row(
    name="transreid",
    title="TransReID, ViT-B/16 with stride 12, camera embedding and jigsaw branch",
    paper="He et al., TransReID: Transformer-based Object Re-Identification, ICCV 2021",
    source="TransReID, configs/Market/vit_transreid_stride.yml, config/defaults.py, solver/scheduler_factory.py",
    published={
        "market": Published(95.1, 89.0, "TransReID dec5504 README, TransReID*(ViT), 256x128"),
        "duke": Published(90.7, 82.2, "TransReID dec5504 README, TransReID*(ViT), 256x128"),
        "msmt17": Published(85.3, 67.8, "TransReID dec5504 README, TransReID*(ViT), 256x128"),
    },
    differs="Its ImageNet weights are timm's older file for this ViT (jx_vit_base_p16_224-80ecf9dd.pth): "
    "--pretrained FILE.",
    network=models.TransReID,
    options={"stride": 12, "jpm": True},
    backbone="vit_base_patch16_224",
    test_neck="before",
    sie_weight=3.0,
    image_size=(256, 128),
    interpolation="bicubic",
    test_interpolation="bilinear",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pad=10,
    erase=0.5,
    erase_fill="pixel",
    erase_area=(0.02, 1 / 3),
    erase_log_aspect=True,
    p=16,
    k=4,
    optimizer="sgd",
    lr=0.008,
    bias_lr_mult=2.0,
    weight_decay=1e-4,
    epochs=120,
    schedule="cosine",
    milestones=(0,),  # the cosine counts from the first epoch, not from the end of the warm-up
    lr_floor=0.002,
    warmup_epochs=5,
    warmup_factor=0.01,
    first_epoch=1,
    reduction="half",  # loss/make_loss.py: the global feature as much as the four local ones together
    label_smoothing=0.0,
    triplet_weight=1.0,
    margin=None,
    metric="cosine",
)

row(
    TRANSREID,
    name="transreid_baseline",
    title="TransReID's baseline, ViT-B/16 with BNNeck",
    source="TransReID, configs/Market/vit_base.yml",
    published={
        "market": Published(94.6, 87.1, "TransReID dec5504 README, Baseline(ViT)"),
        "duke": Published(89.0, 79.6, "TransReID dec5504 README, Baseline(ViT)"),
        "msmt17": Published(81.8, 61.8, "TransReID dec5504 README, Baseline(ViT)"),
    },
    options={"stride": 16, "jpm": False},
    sie_weight=0.0,
    reduction="mean",
)

TRANSREID_SSL = row(
    TRANSREID,
    name="transreid_ssl_vit_small",
    title="TransReID-SSL, ViT-S/16 pre-trained on LUPerson",
    paper="Luo et al., Self-Supervised Pre-Training for Transformer-Based Person Re-Identification, arXiv 2021",
    source="TransReID-SSL, transreid_pytorch/configs/market/vit_small.yml, solver/scheduler_factory.py, "
    "processor/processor.py",
    published={
        "market": Published(95.8, 91.2, "TransReID-SSL fc39e88 README, line 63, reproduced"),
        "msmt17": Published(84.8, 66.3, "TransReID-SSL fc39e88 README, line 70, reproduced"),
    },
    differs="Starts from its weights of LUPerson: --pretrained FILE, a checkpoint with student and teacher or the bare "
    "network. Biases have twice the rate of weights throughout, in the code both begin and end at the same. On MSMT17 "
    "the code trains on the validation part too (--msmt17_use_val).",
    options={"stride": 16, "jpm": False},
    backbone="vit_small_patch16_224",
    pretrained="vit_small_cfs_lup.pth",
    sie_weight=0.0,
    lr=4e-4,
    warmup_epochs=20,
    first_epoch=0,  # its scheduler is stepped as an epoch ends, there as one begins
    reduction="mean",
)

for size, config, image_size, lines, market, msmt17 in (
    ("small", "vit_small_ics", (256, 128), (64, 71), (96.2, 91.4), (86.2, 68.3)),
    ("base", "vit_base_ics_384", (384, 128), (65, 72), (96.6, 93.1), (89.6, 75.1)),
):
    row(
        TRANSREID_SSL,
        name=f"transreid_ssl_vit_{size}_ics",
        title=f"TransReID-SSL, ViT-{size[0].upper()}/16 with a convolution stem",
        source=TRANSREID_SSL.source.replace("vit_small", config),
        published={
            "market": Published(*market, f"TransReID-SSL fc39e88 README, line {lines[0]}, reproduced"),
            "msmt17": Published(*msmt17, f"TransReID-SSL fc39e88 README, line {lines[1]}, reproduced"),
        },
        options=TRANSREID_SSL.options | {"conv_stem": True},
        backbone=f"vit_{size}_patch16_224",
        pretrained=f"vit_{size}_ics_cfs_lup.pth",
        image_size=image_size,
    )

for size, warmup, figures in (
    ("small", 20, {"market": (96.8, 92.9), "duke": (91.9, 84.7), "msmt17": (89.2, 74.3), "occludedduke": (73.2, 65.2)}),
    ("base", 5, {"market": (97.6, 95.0), "duke": (93.8, 88.1), "msmt17": (92.0, 80.8), "occludedduke": (79.8, 72.2)}),
):
    row(
        TRANSREID_SSL,
        name=f"personvit_vit_{size}",
        title=f"PersonViT, ViT-{size[0].upper()}/16",
        paper="Hu et al., PersonViT: Large-scale Self-supervised Vision Transformer for Person Re-Identification, "
        "arXiv 2024",
        source=f"PersonViT, transreid_pytorch/configs/market/vit_{size}.yml, run_batch.sh; its code is TransReID-SSL's",
        published={name: Published(*pair, "PersonViT de479ab, pics/sota_table.png") for name, pair in figures.items()},
        differs=f"{TRANSREID_SSL.differs} ViT-B warms up over 5 epochs on Market-1501, over 20 on the other sets.",
        backbone=f"vit_{size}_patch16_224",
        pretrained=f"vit{size[0]}.lup.256x128.wopt.csk.4-8.ar.375.n8/checkpoint0220.pth",  # as in its README's example
        warmup_epochs=warmup,
    )

SOLIDER = row(
    TRANSREID_SSL,
    name="solider_swin_tiny",
    title="SOLIDER, Swin-T",
    paper="Chen et al., Beyond Appearance: a Semantic Controllable Self-Supervised Learning Framework for "
    "Human-Centric Visual Tasks, CVPR 2023",
    source="SOLIDER-REID, configs/market/swin_tiny.yml, run.sh, solver/scheduler_factory.py, processor/processor.py",
    published={
        "market": Published(96.1, 91.6, "SOLIDER-REID 8c08e1c README, line 39, Swin Tiny"),
        "msmt17": Published(85.9, 67.4, "SOLIDER-REID 8c08e1c README, line 39, Swin Tiny"),
    },
    differs="Starts from the teacher of SOLIDER's pre-training on LUPerson (linked in its README, unwrapped by its "
    "convert_model.py or not): --pretrained FILE. Otherwise as row transreid_ssl_vit_small.",
    network=architectures.SOLIDER,
    options={"semantic_weight": 0.2},
    backbone="solider_swin_tiny",
    pretrained="swin_tiny/checkpoint_tea.pth",  # as run.sh calls it
    last_stride=None,
    image_size=(384, 128),
    lr=8e-4,
    eval_every=10,
)

for size, name, line, market, msmt17 in (
    ("small", "Small", 40, (96.6, 93.3), (90.8, 76.9)),
    ("base", "Base", 41, (96.9, 93.9), (90.7, 77.1)),
):
    row(
        SOLIDER,
        name=f"solider_swin_{size}",
        title=f"SOLIDER, Swin-{name[0]}",
        source=SOLIDER.source.replace("tiny", size),
        published={
            "market": Published(*market, f"SOLIDER-REID 8c08e1c README, line {line}, Swin {name}"),
            "msmt17": Published(*msmt17, f"SOLIDER-REID 8c08e1c README, line {line}, Swin {name}"),
        },
        differs=f"{SOLIDER.differs} The rate is that of run.sh, for MSMT17; the configuration files say 8e-4.",
        backbone=f"solider_swin_{size}",
        pretrained=f"swin_{size}/checkpoint_tea.pth",
        lr=2e-4,
    )

row(
    RECIPES["transreid_baseline"],
    name="fastreid_vit",
    title="Bag of Tricks on ViT-B/16 as in fast-reid",
    source="fast-reid, configs/Market1501/bagtricks_vit.yml",
    published={},
    options=RECIPES["transreid_baseline"].options | {"head_std": 0.01},
    differs=FAST_SHAPES.strip(),
    test_neck="after",
    test_interpolation="same",
    erase_fill="value",  # ImageNet's mean, which is not the one that images are normalised with
    erase_value=IMAGENET_MEAN,
    erase_area=(0.02, 0.33),
    erase_log_aspect=False,
    epoch_length="images",
    bias_lr_mult=1.0,
    norm_decay=5e-4,  # WEIGHT_DECAY_NORM and _BIAS, which the file leaves at their defaults
    clip_grad=5.0,
    clip_by="group",  # "for each parameter", each of which is a group's buffer (solver/build.py, utils/params.py)
    milestones=(),
    warmup_epochs=0,
    warmup_iterations=1000,
    first_epoch=0,
    eval_every=5,
)

# ============ the built-in data set ============

row(
    BOT,
    name="demo",
    title="Bag of Tricks on OSNet x0.25 at 128x64: minutes on two CPU cores",
    paper="Luo et al., CVPRW 2019; Zhou et al., ICCV 2019",
    source="this suite: the bot row at a size for the built-in data set",
    published={},
    differs="Not a published recipe: a demonstration.",
    backbone="osnet_x0_25",
    last_stride=None,
    pretrained="none",
    image_size=(128, 64),
    pad=5,
    lr=2e-3,
    schedule="cosine",
    milestones=(),
    epochs=24,
    warmup_epochs=1,
    warmup_factor=0.55,  # of the first epoch; 0.1 of it costs the run ten points of rank-1
    steps=40,
    eval_every=0,
    center_weight=0.0,
)
