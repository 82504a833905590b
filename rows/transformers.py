"""Transformers: TransReID and those that self-supervised weights start."""

from __future__ import annotations

import architectures
import models
from config import IMAGENET_MEAN
from published import Published
from rows.stronger import FAST_SHAPES
from rows.table import RECIPES, row

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
    same_ends=True,  # warmup_lr_init and lr_min are those of BASE_LR for biases too
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
    "network. On MSMT17 the code trains on the validation part too (--msmt17_use_val).",
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
    same_ends=False,
    norm_decay=5e-4,  # WEIGHT_DECAY_NORM and _BIAS, which the file leaves at their defaults
    clip_grad=5.0,
    clip_by="group",  # "for each parameter", each of which is a group's buffer (solver/build.py, utils/params.py)
    milestones=(),
    warmup_epochs=0,
    warmup_iterations=1000,
    first_epoch=0,
    eval_every=5,
)
