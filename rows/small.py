"""Small networks that reach what large ones do: LightMBN."""

from __future__ import annotations

from config import Term
from papers import light_mbn
from published import Published, Reranked, Variant
from rows.table import row

_README = "LightMBN 1f4ec0d README, Results"
_FLIPPED = {"flip_test": True}
_CUHK03 = {"p": 8, "k": 8, "flip_test": True}  # README: "on cuhk03 dataset with MS Loss, the batch size of 8 x 8"
_DIFFERS = (
    "A test there adds the features of the mirrored image before each part is brought to length 1: --flip_test does. "
    "Where an identity has fewer than eight images all of them come and then repeat; there eight are drawn with "
    "replacement. Weights are kept there at the epoch of best mAP on the test set, here the last one counts. For "
    "CUHK03 its README recommends batches of 8 x 8."
)

LIGHT_MBN = row(
    name="light_mbn",
    title="LightMBN, three branches of OSNet x1.0",
    paper="Herzog et al., Lightweight Multi-Branch Network for Person Re-Identification, ICIP 2021",
    source="LightMBN, README.md (command), lmbn_config.yaml, model/lmbn_n.py, optim/warmup_cosine_scheduler.py",
    variants=(
        Variant(
            "LightMBN",
            _FLIPPED,
            {
                "market": Published(96.3, 91.5, _README, reranked=(Reranked(96.8, 95.3),)),
                "duke": Published(92.1, 83.7, _README, reranked=(Reranked(93.5, 90.2),)),
            },
        ),
        Variant(
            "LightMBN, CUHK03-D",
            _CUHK03,
            {"cuhk03": Published(85.4, 82.6, _README, reranked=(Reranked(90.2, 90.6),))},
        ),
        Variant(
            "LightMBN, CUHK03-L",
            _CUHK03 | {"cuhk03_labeled": True},
            {"cuhk03": Published(87.2, 85.1, _README, reranked=(Reranked(91.3, 92.2),))},
        ),
    ),
    differs=_DIFFERS,
    network=light_mbn.LightMBN,
    options={"drop": 0.33, "similarity_margin": 0.7},
    terms={"similarity": Term(0.5, light_mbn.MultiSimilarity)},
    backbone="osnet_x1_0",
    pooling="avg",
    image_size=(384, 128),
    translate=0.5,
    enlarge=1.05,
    erase=0.5,
    erase_fill="value_raw",
    erase_value=(0.4914, 0.4822, 0.4465),
    p=6,
    k=8,
    lr=6e-4,
    epochs=130,
    schedule="cosine",
    milestones=(11,),  # the cosine is counted from the second epoch behind the warm-up, over one epoch less
    warmup_epochs=10,
    warmup_factor=0.0,
    first_epoch=1,
    lr_floor=0.001,
    eval_every=20,
    reduction="sum",
    id_weight=0.5,
    label_smoothing=0.1,
    metric="cosine",
)

row(
    LIGHT_MBN,
    name="light_mbn_r",
    title="LightMBN on ResNet-50",
    source="LightMBN, model/lmbn_r.py; the rest as row light_mbn",
    variants=(
        Variant(
            "LightMBN(ResNet)",
            _FLIPPED,
            {"market": Published(96.1, 90.5, _README), "duke": Published(90.5, 82.0, _README)},
        ),
        Variant("LightMBN(ResNet), CUHK03-D", _CUHK03, {"cuhk03": Published(81.0, 79.2, _README)}),
        Variant(
            "LightMBN(ResNet), CUHK03-L", _CUHK03 | {"cuhk03_labeled": True}, {"cuhk03": Published(83.7, 82.5, _README)}
        ),
    ),
    differs=f"The README names no command for this network: the numbers are those of row light_mbn. {_DIFFERS}",
    backbone="resnet50",
    pooling="max",
)
