"""Stronger baselines on convolutions: AGW, fast-reid's, MGN; colour and infrared."""

from __future__ import annotations

from typing import Any

import models
import published as results
from config import Term
from papers import caj
from published import Published, Variant
from rows.baselines import BOT
from rows.table import row

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

RGBIR = row(
    AGW,
    name="agw_rgbir",
    title="AGW for colour and infrared, two stems, ResNet-50",
    source="XM, train.py, model.py",
    published={
        "sysu": Published(47.50, 47.65, "XM e817a26 README; all search, single shot, mean of 10 galleries"),
        "regdb": Published(70.05, 66.37, "XM e817a26 README; visible asks for thermal"),
    },
    variants=results.LLCM,
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
    RGBIR,
    name="caj",
    title="CAJ for colour and infrared, channels exchanged, AGW's two stems, ResNet-50",
    paper="Ye et al., Channel Augmented Joint Learning for Visible-Infrared Recognition, ICCV 2021",
    source="XM, ICCV21_CAJ/train_ext.py, data_loader.py, loss.py, testa.py, at the command of its README",
    variants=(
        Variant(
            "CAJ",
            {"flip_test": True},
            {
                "sysu": Published(69.88, 66.89, "XM e817a26, ICCV21_CAJ/README; all search, single shot"),
                "regdb": Published(85.03, 79.14, "XM e817a26, ICCV21_CAJ/README; visible asks for thermal"),
            },
        ),
    ),
    differs="Its test compares features of images and mirror images: --flip_test. The names of the RegDB weights in "
    "its testa.py say sq0, the plain difference in place of the squared, which its README does not: --mining weighted "
    "--triplet_weight 1 --squared_weight 0. As row agw_rgbir in the identities of a batch, the filter, the epoch that "
    "counts. From random weights the first loss is 78.2, of which the squared difference is 74.1, here and in its code "
    "(ResNet-18 without non-local blocks, equal weights and batches of the built-in set, float32). At the whole rate "
    "at once both are at 5.0 after 16 steps and tell nobody apart; with the warm-up it learns (docs/results.md).",
    network=caj.ChannelAugmented,
    terms={"squared": Term(1.0, caj.SquaredDifference)},
    triplet_weight=0.0,
    extra_colour=True,
    extra_channels="exchange",
    infrared_channels="adaptive_grey",
    erase=0.5,
    erase_fill="value_raw",
    erase_value=(0.4914, 0.4822, 0.4465),
    epochs=100,
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
    "36.9. There images are grey, a triplet's negative and positive are of the other light, and each light goes "
    "through the encoder, and its batch norms, alone: with the latter two, fifteen steps of its encoder are those of "
    "its code, with neither the weights differ by 5e-3 of the largest, losses by 0.65. Its released encoder is read "
    "and gives its features of colour images here (docs/weights.md).",
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
    "metric features, as there. Its list of layers to freeze, backbone, b1, b2, b3, is read as beginnings of names "
    "(solver/build.py), and b1_head begins with b1: for 1,000 iterations nothing learns, only the batch norms of the "
    "heads gather statistics; --fixbase_learns yes trains the heads then. Rows that three does not divide (at other "
    "sizes than 384x128) are shared out evenly, there 16 as 6, 6, 4. The paper keeps stride 2 in the global branch, "
    "pools maxima and prints 95.7 / 86.9 on Market-1501.",
    network=models.MGN,
    options={"global_stride": 1},
    backbone="resnet50_ibn_a",
    last_stride=None,
    fixbase_learns=False,
)
