"""CLIP-ReID: networks that CLIP has trained on images and their captions."""

from __future__ import annotations

from config import IMAGENET_MEAN, IMAGENET_STD, Stage, Term
from papers import clip_reid
from rows.table import row
from rows.transformers import TRANSREID

DIFFERS = "Starts from a whole CLIP, {file} of openai/CLIP, as TorchScript or state dict: --pretrained FILE. "

BASELINE = row(
    TRANSREID,  # whose augmentation, distance and place of the test are CLIP-ReID's
    name="clip_baseline",
    title="CLIP-ReID's baseline: ViT-B/16 of CLIP, one stage",
    paper="Li et al., CLIP-ReID: Exploiting Vision-Language Model for Image Re-Identification without Concrete Text "
    "Labels, AAAI 2023",
    source="CLIP-ReID, configs/person/vit_base.yml, config/defaults_base.py, solver/lr_scheduler.py, loss/make_loss.py",
    published={},
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
    differs=DIFFERS.format(file="ViT-B-16.pt")
    + "The tables of its paper were not at hand; its README links to models and prints one result: with camera "
    "embeddings and overlapping patches, re-ranked, 91.1 / 86.7 on MSMT17. Users' own runs on Market-1501 gave 93.5 / "
    "85.5 (its issue 52), 95.3 / 89.8 (7) and 95.5 / 90.5 (57). On MSMT17 its code trains on the validation part too "
    "(issue 39; --msmt17_use_val). Stage 1 sees images as they are resized for training, bicubic, there bilinear, and "
    "leaves out the 63 at most that fill no batch, there a last, smaller one; features and texts are of float32, "
    "there in half precision.",
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
    options=CLIP_REID.options | {"stride": 12},
    sie_weight=1.0,
)

row(
    CLIP_REID,
    name="clip_reid_rn50",
    title="CLIP-ReID, ResNet-50 of CLIP",
    source=CLIP_REID.source.replace("vit", "cnn"),
    differs=CLIP_REID.differs.replace("ViT-B-16", "RN50"),
    options={"attention_dim": 1024, "text_depth": 12},
    id_weight=1.0,
    stages=(Stage(60, NAMES, changes=SENTENCES), Stage(120, ("base", "attention", *HEADS), restart=True)),
    **RN50,
)
