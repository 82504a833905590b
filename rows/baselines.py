"""Baselines on a plain network: Bag of Tricks and its relatives, softmax, torchreid's networks."""

from __future__ import annotations

from typing import Any

import models
import published as results
from published import Published, Reranked
from rows.table import row

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
    differs="The zoo's table names random_flip and random_crop, its config file only random_flip: the table's. The "
    "file names the network resnet50_fc512, the table resnet50: the table's.",
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
    differs="The zoo's table names random_flip and random_crop, its config file only random_flip: the table's.",
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
ZOO = {
    "source": "torchreid, configs/im_r50_softmax_256x128_amsgrad.yaml, which its author names for ImageNet-pretrained "
    "networks (issue 380); open_layers of im_r50fc512_softmax_256x128_amsgrad.yaml",
    "differs": "The zoo does not print this network's schedule. The code of its time (v0.5.0, e9a2b7c) trains the "
    "classifier's epochs on top of --epochs and forgets the optimiser's state behind them: --optimizer_reset fixbase.",
}
MOBILE: dict[str, Any] = {  # 80 epochs behind the first 10
    "source": "torchreid issue 116, its author's command of March 2019; args.py and train_imgreid_xent.py at 7ff331f",
    "differs": "The command is of mobilenetv2_x1_0 on Market-1501; here it is of both widths and all sets. Behind "
    "the first 10 epochs Adam forgets there what it has gathered of the classifier's gradients, here it goes on: "
    "--optimizer_reset fixbase. With torch from 1.1 on the rate drops after 40 and 60 of the 80 epochs, with the torch "
    "of that time after 41 and 61.",
    "batch_size": 64,
    "lr": 6e-4,
    "epochs": 90,
    "fixbase_epochs": 10,
    "milestones": (51, 71),
}
for key, fields, paper, where, values in (
    ("resnet50_fc512",
     {"source": SOFTMAX_FC512.source, "differs": SOFTMAX_FC512.differs, "backbone": "resnet50", "fc_dims": (512,),
      "last_stride": 1},
     "He et al., CVPR 2016", "f8cd150, docs/MODEL_ZOO.md", ((90.8, 75.3), (81.0, 64.0), (69.6, 38.4))),
    ("se_resnet50_fc512",
     ZOO | {"backbone": "se_resnet50", "fc_dims": (512,), "last_stride": 1, "options": {"head_std": 0.0}},
     "Hu et al., CVPR 2018", "v0.5.0, MODEL_ZOO.md", ((91.9, 75.9), (81.5, 63.7), (71.1, 39.8))),
    ("densenet121_fc512", ZOO | {"backbone": "densenet121", "fc_dims": (512,)}, "Huang et al., CVPR 2017",
     "v0.5.0, MODEL_ZOO.md", ((87.8, 68.0), (79.7, 58.8), (67.6, 35.0))),
    ("squeezenet1_0_fc512", ZOO | {"backbone": "squeezenet1_0", "fc_dims": (512,)}, "Iandola et al., arXiv 2016",
     "v0.5.0, MODEL_ZOO.md", ((79.3, 52.2), (66.6, 42.6), (44.1, 17.1))),
    ("mobilenetv2_x1_0", MOBILE | {"variants": results.MOBILENET}, "Sandler et al., CVPR 2018",
     "f8cd150, docs/MODEL_ZOO.md", ((85.6, 67.3), (74.2, 54.7), (57.4, 29.3))),
    ("mobilenetv2_x1_4", MOBILE, "Sandler et al., CVPR 2018",
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
        open_layers=("fc", "classifier") if "fc_dims" in fields else ("classifier",),
        **{"backbone": key} | fields,
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
