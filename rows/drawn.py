"""Networks drawn for re-ID, in the order of the papers."""

from __future__ import annotations

import architectures
import models
import published as results
from published import Published, Variant
from rows.baselines import SOFTMAX
from rows.table import row

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
