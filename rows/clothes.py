"""People who change their clothes."""

from __future__ import annotations

from config import Term
from papers import cal
from published import Published, Variant
from rows.table import row

CAL = row(
    name="cal",
    title="CAL, clothes-based adversarial loss, ResNet-50",
    paper="Gu et al., Clothes-Changing Person Re-identification with RGB Modality Only, CVPR 2022",
    source="Simple-CCReID, configs/default_img.py, configs/res50_cels_cal.yaml, main.py, train.py, data/samplers.py",
    published={},
    variants=tuple(
        Variant(
            f"AIM, {name.upper()}",
            {"epochs": 100, "flip_test": True} | given,
            {name: Published(*result, "AIM-CCReID c3bda2b README, Repo, cloth-changing")},
            "Yang et al., CVPR 2023: its causal branches, on this code",
        )
        for name, given, result in (("prcc", {"prcc_gallery": "all"}, (58.2, 58.0)), ("ltcc", {}, (40.8, 19.2)))
    ),
    differs=(
        "Its repository prints no results; those of AIM, which is built on it, are listed. Its tests add the "
        "features of the mirror image (--flip_test), and on PRCC they take all images of the gallery (--prcc_gallery "
        "all), although its loader draws ten galleries of one image each. It trains on two GPUs, each with batch "
        "statistics of its own 32 images; here they are of all 64, but with torchrun and two processes. For LaST it "
        "takes batches of 16 x 4 (--p 16 --k 4) and a triplet loss on cosines, for DeepChange batches of 16 x 4. "
        "Tracklets are for cal_video."
    ),
    network=cal.CAL,
    terms={"clothes": Term(1.0, cal.ClothesAdversary)},
    last_stride=1,
    image_size=(384, 192),
    translate=0.5,
    erase=0.5,
    erase_fill="value_raw",  # data/img_transforms.py, behind Normalize
    erase_value=(0.4914, 0.4822, 0.4465),
    p=8,
    k=8,
    epoch_length="mixed",
    optimizer="adam",
    lr=3.5e-4,
    epochs=60,
    milestones=(20, 40),
    eval_every=5,
    label_smoothing=0.1,
    metric="cosine",
)

row(
    CAL,
    name="cal_video",
    title="CAL over clips, ResNet-50 frame by frame (C2D)",
    source="Simple-CCReID, configs/default_vid.py, configs/c2dres50_ce_cal.yaml, models/vid_resnet.py, "
    "data/temporal_transforms.py, data/datasets/ccvid.py, data/__init__.py, test.py",
    published={},
    variants=(),
    differs=(
        "Its repository prints no results on CCVID; a user's run gave mAP 77.9 in the general test and 75.7 where "
        "clothes changed, and its author answered that results on this set are not stable (issue 18). It trains on two "
        "GPUs, each with batch statistics of its own 16 clips; here they are of all 32, but with torchrun and two "
        "processes. Its test cuts a tracklet into as many clips of eight frames, most of them four frames apart, where "
        "--test_frames dense takes neighbours: the mean over a network without convolutions over time is the same to "
        "rounding. Its networks with them (I3D, AP3D, non-local blocks) are not here."
    ),
    network=cal.CALVideo,
    options={"clothes_from": 50},
    image_size=(256, 128),
    interpolation="bicubic",
    translate=0.0,
    erase=0.0,
    seq_len=8,
    sample_method="stride",
    frame_stride=4,
    cut_tracklets=64,
    same_augmentation=True,
    test_frames="dense",
    k=4,
    epochs=150,
    milestones=(40, 80, 120),
    eval_every=10,
    label_smoothing=0.0,
)
