"""CLIP-ReID: networks that CLIP has trained on images and their captions."""

from __future__ import annotations

from typing import Any

from config import IMAGENET_MEAN, IMAGENET_STD, Stage, Term
from papers import clip_reid
from published import Published, Reranked, Variant
from rows.table import row
from rows.transformers import TRANSREID

DIFFERS = "Starts from a whole CLIP, {file} of openai/CLIP, as TorchScript or state dict: --pretrained FILE. "

# The paper's tables are quoted, as found in these files; CLIP-ReID itself prints one result (README.md at eb1898b). The
# last does not say which model it quotes; its figures of Market-1501 are those of the first for SIE and OLP.
_REPORT = "the paper's, as quoted in adjcjh777/CLIP-ReID 740991c, docs/plans/2026-03-02-full-progress-report.md"
_FEATURES = "as quoted, of ViT-B/16, in kaiger666888/kais-shot-timeline a3f6806, .planning/research/FEATURES.md"
_DIFFREID = "as quoted in AWangYQ/DiffReID d40e90e, README.md"


def _compiled(name: str, rank1: float, mAP: float) -> Published:
    """What somebody measured of a model of that name, compiled for an accelerator: near the paper's, no more."""
    return Published(rank1, mAP, f"measured by Mobilint of its compiled model, huggingface.co/mobilint/{name}, card")


def _with_validation(*result: Any) -> Variant:
    """On MSMT17, of which CLIP-ReID's code trains on the validation part too (datasets/msmt17.py)."""
    return Variant("train and validation part", {"msmt17_use_val": True}, {"msmt17": Published(*result)})


BASELINE = row(
    TRANSREID,  # whose augmentation, distance and place of the test are CLIP-ReID's
    name="clip_baseline",
    title="CLIP-ReID's baseline: ViT-B/16 of CLIP, one stage",
    paper="Li et al., CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without Concrete Text "
    "Labels, AAAI 2023",
    source="CLIP-ReID, configs/person/vit_base.yml, config/defaults_base.py, solver/lr_scheduler.py, loss/make_loss.py",
    published={
        "duke": _compiled("CLIP_ReID_ViT_B_16_Baseline_DukeMTMC", 88.96, 79.87),
        "occludedduke": _compiled("CLIP_ReID_ViT_B_16_Baseline_OccDuke", 60.72, 52.97),
    },
    differs=DIFFERS.format(file="ViT-B-16.pt") + "Its README links to this model without figures.",
    network=clip_reid.ClipReID,
    options={"stride": 16, "jpm": False, "projection_dim": 512, "drop_path": 0.0, "text_depth": 0},
    backbone="vit_base_patch16_clip_quickgelu_224",
    pretrained="ViT-B-16.pt",
    sie_weight=0.0,
    optimizer="adam",
    lr=5e-6,
    epochs=60,
    schedule="multistep",
    milestones=(29, 49),  # its scheduler counts from 1 and is stepped as an epoch begins
    lr_floor=0.0,
    same_ends=False,
    warmup_epochs=10,
    warmup_factor=0.1,
    first_epoch=1,
    reduction="sum",
    label_smoothing=0.1,
    margin=0.3,
)

RN50 = {
    "network": clip_reid.ClipReIDResNet,
    "backbone": "clip_resnet50",
    "pretrained": "RN50.pt",
    "last_stride": 1,
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "lr": 3.5e-4,
    "weight_decay": 5e-4,
    "milestones": (39, 69),
    "warmup_factor": 0.01,
}

row(
    BASELINE,
    name="clip_baseline_rn50",
    title="CLIP-ReID's baseline: ResNet-50 of CLIP, one stage",
    source=BASELINE.source.replace("vit", "cnn"),
    published={
        "duke": _compiled("CLIP_ReID_RN50_Baseline_DukeMTMC", 88.11, 79.13),
        "occludedduke": _compiled("CLIP_ReID_RN50_Baseline_OccDuke", 53.48, 47.12),
    },
    differs=BASELINE.differs.replace("ViT-B-16", "RN50"),
    options={"attention_dim": 1024, "text_depth": 0},
    epochs=120,
    **RN50,
)

SENTENCES = {  # SOLVER.STAGE1: the context vectors alone, on features of images
    "optimizer": "adam",
    "lr": 3.5e-4,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "milestones": (0,),  # the cosine counts from the first epoch
    "lr_floor": 1e-6 / 3.5e-4,
    "warmup_epochs": 5,
    "warmup_factor": 1e-5 / 3.5e-4,
    "first_epoch": 1,
    "p": 0,
    "batch_size": 64,
    "id_weight": 0.0,
    "triplet_weight": 0.0,
    "terms": {"contrast": Term(1.0, clip_reid.PromptContrast)},
}
HEADS = ("bottleneck", "bottleneck_1", "classifier", "classifier_1")
NAMES = ("prompt_learner",)

CLIP_REID = row(
    BASELINE,
    name="clip_reid",
    title="CLIP-ReID, ViT-B/16 of CLIP",
    source="CLIP-ReID, configs/person/vit_clipreid.yml, config/defaults.py, processor/, solver/, loss/make_loss.py",
    published={
        "market": Published(95.5, 89.6, _REPORT),
        "duke": Published(90.0, 82.5, _FEATURES),
        "occludedduke": Published(67.1, 59.5, _FEATURES),
    },
    variants=(_with_validation(88.7, 73.4, _FEATURES),),
    differs=DIFFERS.format(file="ViT-B-16.pt")
    + "The tables of its paper were not at hand and are quoted as others print them; its README links to models and "
    "prints one result, of camera embeddings and overlapping patches on MSMT17, re-ranked. Users' own runs on "
    "Market-1501 gave 93.5 / 85.5 (its issue 52), 95.3 / 89.8 (7) and 95.5 / 90.5 (57); one who tested the released "
    "files found the paper's figures on Market-1501 and DukeMTMC-reID, and 87.0 / 70.7 on MSMT17 (40). On MSMT17 its "
    "code trains on the validation part too (issue 39; --msmt17_use_val). Stage 1 sees images as they are resized for "
    "training, bicubic, there bilinear, and leaves out the 63 at most that fill no batch, there a last, smaller one; "
    "features and texts are of float32, there in half precision.",
    options=BASELINE.options | {"text_depth": 12},
    hook=clip_reid.Sentences,
    id_weight=0.25,
    terms={"image_to_text": Term(1.0, clip_reid.ImageToText)},
    epochs=180,
    stages=(Stage(120, NAMES, changes=SENTENCES), Stage(60, ("base", "projection", *HEADS), restart=True)),
)

row(
    CLIP_REID,
    name="clip_reid_sie_olp",
    title="CLIP-ReID, ViT-B/16 of CLIP with camera embeddings and overlapping patches",
    source=f"{CLIP_REID.source}; README: SIE_CAMERA True, SIE_COE 1.0, STRIDE_SIZE [12, 12]",
    published={"market": Published(95.4, 90.5, _REPORT), "duke": Published(90.8, 83.1, _DIFFREID)},
    variants=(
        _with_validation(
            *(89.7, 75.8, f"{_DIFFREID}; re-ranked: CLIP-ReID eb1898b, README.md, utils/metrics.py"),
            *(None, None, (Reranked(91.1, 86.7, 50, 15, 0.3),)),
        ),
    ),
    options=CLIP_REID.options | {"stride": 12},
    sie_weight=1.0,
)

row(
    CLIP_REID,
    name="clip_reid_rn50",
    title="CLIP-ReID, ResNet-50 of CLIP",
    source=CLIP_REID.source.replace("vit", "cnn"),
    published={
        "market": _compiled("CLIP_ReID_RN50_Market1501", 95.67, 89.79),
        "duke": _compiled("CLIP_ReID_RN50_DukeMTMC", 89.68, 80.81),
        "occludedduke": _compiled("CLIP_ReID_RN50_OccDuke", 60.50, 52.98),
    },
    differs=CLIP_REID.differs.replace("ViT-B-16", "RN50"),
    options={"attention_dim": 1024, "text_depth": 12},
    id_weight=1.0,
    stages=(Stage(60, NAMES, changes=SENTENCES), Stage(120, ("base", "attention", *HEADS), restart=True)),
    **RN50,
)
