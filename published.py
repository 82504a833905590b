"""Results that others printed, and the tables of runs that differ from a row of ``recipes.py`` in a few flags.

Percent throughout. A table stands here where its source prints many runs of one method; the rest stands in its row.

Sources, short as in ``recipes.py``:
    AlignedReID   huanghoujing/AlignedReID-Re-Production-Pytorch at 2e2d454, AlignedReID-Scores.xlsx
    AlignedReID++ michuanhaohao/AlignedReID at fca9620, README.md
    BENCHMARK.md  KaiyangZhou/deep-person-reid at 016293c (v0.2.2), its first benchmark
    first release KaiyangZhou/deep-person-reid at af328ff (v0.0.9), README.md, Results
    Tiny          lulujianjie/person-reid-tiny-baseline at a13a8a8, README.md, Results
    BoT           michuanhaohao/reid-strong-baseline at 3da7e6f, README.md, Results
    wangguanan    wangguanan/light-reid at 758f517 (branch version_py2.7), README.md, Experiments
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Reranked(NamedTuple):
    """Rank-1 and mAP after k-reciprocal re-ranking, and its parameters; k1 None: the best of a search."""

    rank1: float
    mAP: float
    k1: int | None = 20
    k2: int = 6
    lambda_value: float = 0.3


class Published(NamedTuple):
    """A result somebody else printed and where it stands; the mean of `runs` trainings. None: not printed.

    ap: how its average precision was measured, as --ap has it.
    """

    rank1: float
    mAP: float
    source: str
    rank5: float | None = None
    rank10: float | None = None
    reranked: tuple[Reranked, ...] = ()
    runs: int = 1
    ap: str = "hits"


class Variant(NamedTuple):
    """A published run that is its row but for the flags `given`: fields, options, and flags of the data and the test.

    name: what its source calls it. published: data set -> result, as in a row. beyond: what of it no flag gives here;
    such a run is listed, and its numbers stand beside no run of ours.
    """

    name: str
    given: dict[str, Any]
    published: dict[str, Published]
    beyond: str = ""


def pair(key: str, test: str) -> frozenset[str] | None:
    """The training sets of the key `key` of a result on `test`, in whatever order they are named; None: another set's.

    ``market`` is trained and tested on market, ``cuhk03+duke2market`` trained on two sets and tested on a third.
    """
    if key == test:
        return frozenset((test,))
    return frozenset(key.removesuffix(f"2{test}").split("+")) if key.endswith(f"2{test}") else None


def between(results: Mapping[str, Published], trained_on: Iterable[str], test: str) -> Published | None:
    """The result of training on the sets `trained_on` and testing on `test`."""
    wanted = frozenset(trained_on)
    return next((result for key, result in results.items() if pair(key, test) == wanted), None)


def words(given: Mapping[str, Any]) -> list[str]:
    """The flags of ``main.py`` that say `given`."""
    found: list[str] = []
    for name, value in given.items():
        several = value if isinstance(value, (tuple, list)) else (value,)
        shown = ["soft" if each is None else str(each) for each in several]
        found += [f"--{name}", *({True: [], False: ["no"]}[value] if isinstance(value, bool) else shown)]
    return found


# ============ tables as text: a name, then its numbers; a dash where none is printed ============


def rows_of(text: str) -> list[tuple[str, list[Any]]]:
    """(name, numbers) of each line ``name | 87.05 71.38 - -``; None for ``-``."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, numbers = line.partition("|")
        found.append((name.strip(), [None if word == "-" else float(word) for word in numbers.split()]))
    return found


def with_reranked(
    source: str, rank1: float, mAP: float, again1: float | None, again: float | None, *, ap: str = "hits"
) -> Published:
    """A result and, where there is one, the same re-ranked with k1 20, k2 6, lambda 0.3."""
    reranked = () if again1 is None or again is None else (Reranked(again1, again),)
    return Published(rank1, mAP, source, reranked=reranked, ap=ap)


def under(name: str, tables: Mapping[str, Mapping[str, Published]]) -> dict[str, Published]:
    """Data set -> the result that its table prints under `name`."""
    return {on: table[name] for on, table in tables.items() if name in table}


# ============ Bag of Tricks and its descendants ============

_BOT = "reid-strong-baseline 3da7e6f README"
_NO_TRICK: dict[str, Any] = {  # configs/baseline.yml
    "warmup_epochs": 0, "erase": 0.0, "label_smoothing": 0.0, "last_stride": 2, "neck": "none", "center_weight": 0.0
}  # fmt: skip
_TRICKS = {  # added one after another -> the flag that is the row's again from there on
    "Standard baseline": "",
    "+ warm-up": "warmup_epochs",
    "+ random erasing": "erase",
    "+ label smoothing": "label_smoothing",
    "+ last stride 1": "last_stride",
    "+ BNNeck": "neck",
}
_ABLATION = """
Standard baseline | 87.7 74.0 79.7 63.8
+ warm-up         | 88.7 75.2 80.6 65.1
+ random erasing  | 91.3 79.3 81.5 68.3
+ label smoothing | 91.4 80.3 82.4 69.3
+ last stride 1   | 92.0 81.7 82.6 70.6
+ BNNeck          | 94.1 85.7 86.2 75.9
"""
_BACKBONES = """
resnet18            | 91.7 77.8 82.5 68.8
resnet34            | 92.7 82.7 86.4 73.6
resnet101           | 94.5 87.1 87.6 77.6
resnet152           | 80.9 59.0 87.5 78.0
se_resnet50         | 94.4 86.3 86.4 76.5
se_resnet101        | 94.6 87.3 87.5 78.0
se_resnext50_32x4d  | 94.9 87.6 88.0 78.3
se_resnext101_32x4d | 95.0 88.0 88.4 79.0
"""


def _market_and_duke(numbers: list, source: str) -> dict[str, Published]:
    rank1, mAP, duke_rank1, duke_mAP = numbers
    return {"market": Published(rank1, mAP, source), "duke": Published(duke_rank1, duke_mAP, source)}


def _ablation() -> Iterable[Variant]:
    given = dict(_NO_TRICK)
    for name, numbers in rows_of(_ABLATION):
        given.pop(_TRICKS[name], None)
        yield Variant(name, dict(given), _market_and_duke(numbers, f"{_BOT}, ablation, {name}"))


BOT = (  # over the row bot
    *_ablation(),
    *(
        Variant(name, {"backbone": name}, _market_and_duke(numbers, f"{_BOT}, backbone table, {name}"))
        for name, numbers in rows_of(_BACKBONES)
    ),
)

_TINY = "person-reid-tiny-baseline a13a8a8 README, Results"
TINY = (  # over the row tiny; its test with re-ranking: utils/metrics.py, searched: tools/search_reranking_params.py
    Variant("B1 + flipped feature", {"flip_test": True}, {"market": Published(93.9, 86.3, _TINY)}),
    Variant(
        "B1 + harder example mining",
        {"hard_factor": 0.2},
        {
            "market": Published(
                94.4, 86.2, _TINY, reranked=(Reranked(95.6, 94.1, 30, 10, 0.2), Reranked(95.8, 94.2, None))
            )
        },
    ),
    Variant(
        "B1 + flipped feature + harder example mining",
        {"hard_factor": 0.2, "flip_test": True},
        {"market": Published(94.6, 86.6, _TINY)},
    ),
)

_WANGGUANAN = "light-reid 758f517 (version_py2.7) README"
WANGGUANAN = {
    on: Published(rank1, mAP, f"{_WANGGUANAN}, Results (with REA), average of three", runs=3)
    for on, rank1, mAP in (
        ("market", 94.2, 85.8), ("market2duke", 28.9, 15.6), ("duke", 86.8, 76.6), ("duke2market", 48.8, 21.8)
    )
}  # fmt: skip
WANGGUANAN_VARIANTS = (
    Variant(
        "without random erasing",
        {"erase": 0.0},
        {
            on: Published(rank1, mAP, f"{_WANGGUANAN}, Results (without REA)")
            for on, rank1, mAP in (
                ("market", 93.6, 82.4), ("market2duke", 42.7, 26.4), ("duke", 84.9, 71.4), ("duke2market", 55.6, 26.9)
            )
        },
    ),
)  # fmt: skip
_WANGGUANAN_PCB = "Pytorch-Person-ReID-Baseline-PCB-Beyond-Part-Models 6bc07c5 README, Results"
_PCB_OWN = (
    "its own settings (main.py: 384x192, 18 x 4, rate 0.5, 120 epochs of 200 iterations, drops after 50, 80, 100; "
    "core/model.py: LeakyReLU in six classifiers of their own)"
)


def _pcb(name: str, *numbers: float) -> Variant:
    sets = ("market", "duke", "market2duke", "duke2market")
    found = {on: Published(numbers[2 * i], numbers[2 * i + 1], _WANGGUANAN_PCB) for i, on in enumerate(sets)}
    return Variant(f"wangguanan, {name}", {}, found, _PCB_OWN)


PCB = (
    _pcb("PCB w/ REA", 93.9, 83.2, 85.6, 75.3, 38.4, 23.7, 55.5, 28.5),
    _pcb("PCB", 93.4, 80.9, 86.7, 74.6, 44.0, 26.5, 59.2, 30.8),
)

# ============ AlignedReID ============

SKLEARN = "trapezoid"  # average_precision_score of scikit-learn 0.18.1, which huanghoujing's metric.py asks for

# Trained on Market-1501 for 300 epochs, the rate falling after 150. GL, LL, IDL, ML: global, local, identification and
# mutual loss; TWGD, TWLD, TWGALD: tested with global, local, both distances; M1, M2: the networks of a pair; NF:
# features normalised, before the loss and in the test. All: hard samples of the local loss by the local distance.
# Columns: rank-1, mAP, the same re-ranked.
_ALIGNED_MARKET = """
GL + TWGD                  | 87.05 71.38 89.85 85.49
GL + LL + TWGD             | 86.85 71.74 89.64 85.79
GL + LL + TWLD             | 87.86 72.25 90.71 87.07
GL + LL + TWGALD           | 88.18 73.34 90.59 87.06
GL + ML + TWGD, M1         | 88.78 75.76 91.92 88.27
GL + ML + TWGD, M2         | 89.28 75.68 91.81 88.30
GL + IDL + TWGD            | 84.68 68.02 87.56 82.53
GL + IDL + ML + TWGD, M1   | 87.59 74.33 90.38 85.84
GL + IDL + ML + TWGD, M2   | 87.68 74.27 89.88 85.84
GL + LL + ML + TWGD, M1    | 88.72 75.02 91.63 88.00
GL + LL + ML + TWLD, M1    | 87.77 72.74 91.09 87.69
GL + LL + ML + TWGALD, M1  | 88.69 75.18 91.15 88.30
GL + LL + ML + TWGD, M2    | 88.84 75.37 91.83 88.17
GL + LL + ML + TWLD, M2    | 88.42 72.92 91.51 87.92
GL + LL + ML + TWGALD, M2  | 89.22 75.36 91.81 88.52
"""
_ALIGNED_75 = """
GL + NF + TWGD | 83.31 67.11 84.12 76.98
GL + TWGD      | 85.30 67.39 89.28 83.82
GL + LL + TWGD | 86.22 69.48 89.64 85.06
GL + LL + TWLD | 85.93 69.23 89.64 85.15
GL + LL + TWGALD | 87.11 70.97 90.23 85.75
"""
_ALIGNED_100 = """
GL + NF + TWGD | 82.48 65.65 82.75 75.99
GL + TWGD      | 85.57 68.20 88.09 83.74
"""
# Trained on Market-1501, CUHK03 (detected, 767/700 split) and DukeMTMC-reID together
_ALIGNED_COMBINED = {
    "market": """
GL + TWGD                       | 86.13 70.08 88.75 83.49
GL + LL + TWGD                  | 86.10 71.23 89.99 85.07
GL + LL + TWLD                  | 87.50 72.65 91.21 86.79
GL + LL + TWGALD                | 87.59 73.44 91.18 86.83
GL + IDL + TWGD                 | 86.28 72.36 89.49 85.24
GL + LL + IDL + TWGD            | 87.77 72.92 90.14 85.88
GL + LL + IDL + TWLD            | 88.57 72.50 90.68 86.20
GL + LL + IDL + TWGALD          | 88.36 73.64 90.77 86.32
GL + LL + IDL + ML + TWGD, M1   | 90.08 76.31 91.75 87.65
GL + LL + IDL + ML + TWLD, M1   | 90.02 75.62 91.95 88.61
GL + LL + IDL + ML + TWGALD, M1 | 90.32 76.96 92.19 88.15
GL + LL + IDL + ML + TWGD, M2   | 89.82 76.30 91.69 87.64
GL + LL + IDL + ML + TWLD, M2   | 90.14 75.75 91.81 88.62
GL + LL + IDL + ML + TWGALD, M2 | 89.90 76.93 91.92 88.08
""",
    "cuhk03": """
GL + TWGD                       | 57.29 51.45 66.86 66.77
GL + LL + TWGD                  | 56.79 51.64 65.64 66.40
GL + LL + TWLD                  | 58.07 52.99 68.71 68.90
GL + LL + TWGALD                | 58.36 53.64 67.79 68.57
GL + IDL + TWGD                 | 56.43 51.49 64.21 65.44
GL + LL + IDL + TWGD            | 56.86 52.17 65.07 66.25
GL + LL + IDL + TWLD            | 56.93 51.16 66.00 66.74
GL + LL + IDL + TWGALD          | 56.86 52.70 64.93 66.58
GL + LL + IDL + ML + TWGD, M1   | 60.50 55.97 69.43 70.15
GL + LL + IDL + ML + TWLD, M1   | 59.29 54.67 70.57 71.40
GL + LL + IDL + ML + TWGALD, M1 | 60.64 56.47 69.64 70.93
GL + LL + IDL + ML + TWGD, M2   | 60.14 55.78 68.43 69.42
GL + LL + IDL + ML + TWLD, M2   | 59.57 54.46 70.36 71.05
GL + LL + IDL + ML + TWGALD, M2 | 60.29 56.36 69.50 70.31
""",
    "duke": """
GL + TWGD                       | 75.94 60.19 82.23 76.97
GL + LL + TWGD                  | 77.69 60.97 82.36 76.82
GL + LL + TWLD                  | 78.77 63.20 84.61 79.79
GL + LL + TWGALD                | 79.08 63.52 84.43 79.16
GL + IDL + TWGD                 | 79.76 62.61 84.02 78.08
GL + LL + IDL + TWGD            | 78.14 62.85 84.07 78.35
GL + LL + IDL + TWLD            | 79.53 63.76 85.86 79.94
GL + LL + IDL + TWGALD          | 78.68 63.75 84.47 79.25
GL + LL + IDL + ML + TWGD, M1   | 80.83 66.00 85.05 79.98
GL + LL + IDL + ML + TWLD, M1   | 81.60 66.67 86.71 82.65
GL + LL + IDL + ML + TWGALD, M1 | 81.51 66.94 85.32 80.86
GL + LL + IDL + ML + TWGD, M2   | 80.92 65.98 84.78 80.01
GL + LL + IDL + ML + TWLD, M2   | 82.36 66.68 86.76 82.90
GL + LL + IDL + ML + TWGALD, M2 | 81.51 66.93 85.59 81.13
""",
}
_TESTED = {"TWGD": "global", "TWLD": "local", "TWGALD": "both"}


def _aligned_flags(name: str) -> dict[str, Any]:
    """The flags of a run of the tables, over the row aligned_mutual if it is of a pair, else over the row aligned."""
    losses = name.removesuffix(", M1").removesuffix(", M2").split(" + ")
    given: dict[str, Any] = {} if "LL" in losses else {"local_triplet_weight": 0.0}
    if "ML" in losses and "IDL" not in losses:
        given |= {"id_weight": 0.0, "mutual_kl_weight": 0.0}
    if "ML" not in losses and "IDL" in losses:
        given |= {"id_weight": 1.0}
    if "NF" in losses:
        given |= {"triplet_normalize": True, "metric": "cosine"}
    if name.endswith(", M2"):
        given |= {"test_member": 2}
    return given | ({"test_distance": _TESTED[losses[-1]]} if _TESTED[losses[-1]] != "both" else {})


def _aligned(mutual: bool) -> Iterable[Variant]:
    """The runs of a pair of networks, or the others; first the row's own, of which only the numbers are its row's."""
    sheet = "AlignedReID 2e2d454, AlignedReID-Scores.xlsx; mAP by trapezoids (--ap trapezoid)"
    alone, combined = f"{sheet}, Train on Market1501", f"{sheet}, Train on Combined Trainval Set"
    tables: list[tuple[dict[str, Any], dict[str, str], str]] = [({}, {"market": _ALIGNED_MARKET}, alone)]
    tables += [({"epochs": 150, "milestones": (m,)}, {"market": text}, f"{alone}, decay after {m} epochs")
               for m, text in ((75, _ALIGNED_75), (100, _ALIGNED_100))]  # fmt: skip
    tables.append(({}, {f"cuhk03+duke+market2{on}": text for on, text in _ALIGNED_COMBINED.items()}, combined))
    for length, texts, source in tables:
        found = {on: {name: with_reranked(f"{source}, {name}", *numbers, ap=SKLEARN) for name, numbers in rows_of(text)}
                 for on, text in texts.items()}  # fmt: skip
        for name in dict.fromkeys(name for table in found.values() for name in table):
            if ("ML" in name.split(" + ")[:-1]) == mutual:
                yield Variant(name, _aligned_flags(name) | length, under(name, found))


def rows_own(variants: Iterable[Variant]) -> tuple[dict[str, Published], tuple[Variant, ...]]:
    """The results of runs that are the row itself, and the runs that are not."""
    own: dict[str, Published] = {}
    others = []
    for variant in variants:
        if variant.given or variant.beyond:
            others.append(variant)
        else:
            own |= variant.published
    return own, tuple(others)


ALIGNED, ALIGNED_VARIANTS = rows_own(_aligned(mutual=False))
ALIGNED_MUTUAL, ALIGNED_MUTUAL_VARIANTS = rows_own(_aligned(mutual=True))

_PLUS = {  # columns: Global, Local, DMLI, Global+DMLI, the same re-ranked; rank-1 and mAP of each
    "market": """
Alignedreid     | 89.2 75.9 90.7 75.5 91.1 77.4 91.0 77.6 92.0 88.5
Alignedreid(LS) | 90.6 77.7 91.4 76.7 91.9 78.8 91.8 79.1 92.8 89.4
""",
    "duke": """
Alignedreid     | 79.3 65.6 80.9 66.9 81.0 67.7 80.7 68.0 85.2 81.2
Alignedreid(LS) | 81.2 67.4 81.5 68.4 81.8 69.4 82.1 69.7 86.2 82.8
""",
    "cuhk03": """
Alignedreid     | 60.7 58.4 60.2 58.2 60.9 59.6 60.9 59.7 67.6 70.7
Alignedreid(LS) | 59.7 58.1 59.9 57.2 61.1 59.4 61.5 59.6 67.9 70.7
""",
    "msmt17": """
Alignedreid     | 63.4 38.4 63.8 -    66.3 40.2 66.3 40.6 - -
Alignedreid(LS) | 67.6 41.8 67.3 38.4 69.6 43.3 69.8 43.7 - -
""",
}


def _plus() -> Iterable[Variant]:
    columns = {"Global": "global", "Local": "local", "DMLI": "local", "Global+DMLI": "both"}
    lines = {on: dict(rows_of(text)) for on, text in _PLUS.items()}
    for loss, smoothing in (("Alignedreid(LS)", {}), ("Alignedreid", {"label_smoothing": 0.0})):
        for i, (column, distance) in enumerate(columns.items()):
            name, found = f"{loss}, {column}", {}
            for on, table in lines.items():
                rank1, mAP, again1, again = (*table[loss][2 * i : 2 * i + 2], *table[loss][8:])
                if rank1 is not None and mAP is not None:
                    again1, again = (again1, again) if distance == "both" else (None, None)
                    found[on] = with_reranked(f"AlignedReID++ fca9620 README, {name}", rank1, mAP, again1, again)
            beyond = "parts compared in order, not by their shortest path" if column == "Local" else ""
            yield Variant(name, smoothing | ({} if distance == "both" else {"test_distance": distance}), found, beyond)


ALIGNED_PLUS, ALIGNED_PLUS_VARIANTS = rows_own(_plus())

# ============ PCB with a convolution for each stripe, or one for all ============

_PARTS = "beyond-part-models 1686e88 README; mAP by trapezoids (--ap trapezoid)"
PCB_INDEPENDENT = {
    on: with_reranked(f"{_PARTS}, independent 1x1", *numbers, ap=SKLEARN)
    for on, numbers in rows_of(
        """
        market | 92.87 78.54 93.94 90.17
        duke   | 84.47 69.94 88.78 84.73
        cuhk03 | 59.14 53.93 69.07 70.17
        """
    )
}
PCB_SHARED = Variant(
    "shared 1x1",
    {"shared_reduction": True},
    {
        on: with_reranked(f"{_PARTS}, shared 1x1", *numbers, ap=SKLEARN)
        for on, numbers in rows_of(
            """
            market | 90.86 73.25 92.58 88.02
            duke   | 82.00 64.88 86.40 81.77
            cuhk03 | 47.29 42.05 56.50 57.91
            """
        )
    },
)

# ============ torchreid's first release and its first benchmark ============

# Over the row softmax: Adam at 3e-4, 60 epochs of shuffled batches of 32, a tenth every 20 epochs
# (train_img_model_xent.py at af328ff, train_imgreid_xent.py at 016293c); with the triplet loss 8 x 4, and at af328ff
# 180 epochs, a tenth every 60 (train_img_model_xent_htri.py, train_imgreid_xent_htri.py). The schedulers are stepped
# behind each epoch, which with their torch 0.4 makes the first drop one epoch later.
XENT: dict[str, Any] = {"optimizer": "adam", "milestones": (21, 41), "fixbase_epochs": 0}
HTRI: dict[str, Any] = XENT | {
    "milestones": (61, 121), "epochs": 180, "triplet_weight": 1.0, "p": 8, "k": 4, "epoch_length": "identities"
}  # fmt: skip
SHORT_HTRI: dict[str, Any] = HTRI | {"epochs": 60, "milestones": (21, 41)}
# What its author answered to those who asked how a number of BENCHMARK.md came about.
# 60 epochs behind 6 of the classifier, which have an optimiser of their own (016293c, train_imgreid_xent.py)
ISSUE_41: dict[str, Any] = {
    "epochs": 66, "fixbase_epochs": 6, "milestones": (27, 47), "optimizer_reset": "fixbase"
}  # fmt: skip
ISSUE_58: dict[str, Any] = SHORT_HTRI | {"optimizer": "amsgrad", "lr": 6.5e-4, "p": 16}  # batches of 64
_FROM_SCRATCH: dict[str, Any] = XENT | {"pretrained": "none", "batch_size": 32, "lr": 3e-4}
ISSUE_7: dict[str, Any] = _FROM_SCRATCH | {"epochs": 300, "milestones": (101, 201)}  # StepLR at that time
_SCRATCH = {"pretrained": "none"}
# what became another network since
_DENSE = "no ReLU behind the last batch norm of DenseNet"
_DROPPED = "dropout in front of the classifier"
_SQUEEZED = "SqueezeNet with batch norms and bypasses, whose feature is its logits"
_GROUPED = "ShuffleNet with a grouped first convolution in stage 2"
_RELU6 = "Xception with ReLU6"

_FIRST = {  # columns: rank-1, rank-5, rank-10, mAP; CUHK03 detected, 767/700 split
    "market": """
ResNet50, xent         | 85.4 94.1 95.9 68.8
ResNet50, xent+htri    | 87.5 95.3 97.3 72.3
DenseNet121, xent      | 86.5 93.6 95.7 67.8
DenseNet121, xent+htri | 89.5 96.3 97.5 72.6
ResNet50M, xent        | 89.4 95.9 97.4 75.0
ResNet50M, xent+htri   | 90.7 97.0 98.2 76.8
MuDeep, xent+htri      | 71.5 89.3 96.3 47.0
SqueezeNet, xent       | 65.1 82.3 87.9 41.6
MobileNetV2, xent      | 77.0 89.5 92.8 56.3
ShuffleNet, xent       | 68.7 85.7 90.2 44.9
Xception, xent         | 72.1 88.2 92.1 52.8
HACNN, xent            | 88.7 95.3 97.4 71.2
""",
    "cuhk03": """
ResNet50, xent         | 48.8 69.4 78.4 47.5
DenseNet121, xent      | 41.0 61.7 71.5 40.6
ResNet50M, xent        | 57.5 75.4 82.5 55.2
HACNN, xent            | 42.4 60.9 70.5 40.9
SqueezeNet, xent       | 20.0 38.4 48.2 20.0
MobileNetV2, xent      | 35.1 55.8 64.7 33.8
ShuffleNet, xent       | 22.0 39.3 49.9 21.2
""",
    "duke": """
ResNet50, xent         | 76.3 87.1 90.9 59.5
DenseNet121, xent      | 74.9 86.0 88.8 54.5
ResNet50M, xent        | 80.5 89.8 92.4 63.3
SqueezeNet, xent       | 50.2 68.9 75.3 30.3
MobileNetV2, xent      | 65.6 79.2 83.7 43.6
ShuffleNet, xent       | 56.9 74.6 80.5 37.8
HACNN, xent            | 78.5 88.8 91.3 60.8
""",  # ShuffleNet's is printed as 56.9/74.680.5
    "mars": """
ResNet50, xent         | 74.5 88.8 91.8 64.0
ResNet50, xent+htri    | 80.8 92.1 94.3 74.0
DenseNet121, xent      | 65.2 81.1 86.3 52.1
DenseNet121, xent+htri | 82.6 93.2 95.4 74.6
ResNet50M, xent        | 77.8 89.8 92.8 67.5
ResNet50M, xent+htri   | 82.3 93.8 95.3 75.4
""",
}
_BENCHMARK = """
ResNet50, xent         | 88.5 71.3 47.9 46.8 77.7 58.8 63.4 34.2
DenseNet121, xent      | 88.2 69.2 41.0 40.1 78.6 58.5 66.0 34.6
DenseNet121, htri      | 86.6 70.8 - - - - - -
DenseNet121, xent+htri | 90.1 74.0 - - - - - -
ResNet50M, xent        | 89.0 74.6 55.4 52.7 81.0 64.1 64.6 35.9
NasnetMobile, xent     | 83.8 64.9 42.4 42.4 74.0 53.7 57.1 30.2
SqueezeNet, xent       | 72.2 47.9 26.9 25.8 58.8 37.8 30.6 13.0
MobileNetV2, xent      | 84.2 65.8 41.0 40.3 73.2 52.5 44.9 21.1
ShuffleNet, xent       | 80.0 58.4 31.9 31.7 69.3 46.8 39.6 17.8
HACNN, xent            | 90.6 75.3 48.0 47.6 80.7 64.4 61.8 34.6
"""  # columns: rank-1 and mAP on market, cuhk03, duke, msmt17


def first(name: str, given: dict[str, Any], *, on: Iterable[str] = ("market", "cuhk03", "duke"), beyond: str = "",
          ) -> Variant:  # fmt: skip
    """A run of the first release by its model and loss, with the flags that make it of its row."""
    tables = {}
    for data in on:
        source = f"torchreid v0.0.9 (af328ff) README, {data}, {name}"
        lines = {key: Published(r1, mAP, source, r5, r10) for key, (r1, r5, r10, mAP) in rows_of(_FIRST[data])}
        tables[data] = lines
    return Variant(f"torchreid v0.0.9, {name}", given, under(name, tables), beyond)


def benchmark(name: str, given: dict[str, Any], beyond: str = "", settings: str = "") -> Variant:
    """A run of BENCHMARK.md, likewise; settings: where its author says which he trained with."""
    numbers = dict(rows_of(_BENCHMARK))[name]
    found = {}
    for i, on in enumerate(("market", "cuhk03", "duke", "msmt17")):
        rank1, mAP = numbers[2 * i : 2 * i + 2]
        if rank1 is not None and mAP is not None:
            said = f"; settings of {settings}" if settings else ""
            found[on] = Published(rank1, mAP, f"torchreid v0.2.2 (016293c), BENCHMARK.md, {name}{said}")
    return Variant(f"torchreid v0.2.2, {name}", given, found, beyond)


SOFTMAX: tuple[Variant, ...] = (  # over the row softmax
    first("ResNet50, xent", XENT),
    first("ResNet50, xent+htri", HTRI),
    first("SqueezeNet, xent", {"backbone": "squeezenet1_0"} | XENT | _SCRATCH, beyond=_SQUEEZED),
    first("Xception, xent", {"backbone": "xception"} | XENT | _SCRATCH, beyond=_RELU6),
    benchmark("ResNet50, xent", ISSUE_41, settings="issue 41"),
    benchmark("SqueezeNet, xent", {"backbone": "squeezenet1_0"} | XENT | _SCRATCH, _SQUEEZED),
)
# over the rows of their backbones
DENSENET = (
    first("DenseNet121, xent", {}, beyond=_DENSE),
    first("DenseNet121, xent+htri", HTRI, beyond=_DENSE),
    benchmark("DenseNet121, xent", {}, _DENSE),
    benchmark("DenseNet121, htri", SHORT_HTRI | {"id_weight": 0.0}, _DENSE),
    benchmark("DenseNet121, xent+htri", ISSUE_58, _DENSE, settings="issue 58"),
)
MOBILENET = (
    first("MobileNetV2, xent", _FROM_SCRATCH | {"epochs": 60}, beyond=_DROPPED),
    benchmark("MobileNetV2, xent", ISSUE_7, _DROPPED, settings="issues 7 and 54"),
)
SHUFFLENET = (first("ShuffleNet, xent", {}, beyond=_GROUPED), benchmark("ShuffleNet, xent", {}))
NASNET = (benchmark("NasnetMobile, xent", {}, _DROPPED),)
_ZOO = "torchreid f8cd150, docs/MODEL_ZOO.md"
_FROM_MSMT17 = """
resnet50       | 46.3 22.8 52.3 32.1
osnet_x1_0     | 66.6 37.5 66.0 45.3
osnet_x0_75    | 63.6 35.5 65.3 44.5
osnet_x0_5     | 64.3 34.9 65.2 43.3
osnet_x0_25    | 59.9 31.0 61.5 39.6
osnet_ibn_x1_0 | 66.5 37.2 67.4 45.6
osnet_ain_x1_0 | 70.1 43.3 71.1 52.7
"""  # trained on all images of msmt17; columns: rank-1 and mAP on market, duke
_FROM_THREE = """
osnet_x1_0     | 72.5 44.2 65.2 47.0 23.9 23.3 33.2 12.6
osnet_ibn_x1_0 | 73.0 44.9 64.6 45.7 25.7 25.4 39.8 16.2
osnet_ain_x1_0 | 73.3 45.8 65.6 47.2 27.4 27.1 40.2 16.2
"""  # rank-1 and mAP on market, duke, cuhk03, msmt17, each of a training on the three others
_JITTERED: dict[str, Any] = {"color_jitter": 1.0}  # "random_flip, color_jitter"
_AIN_50: dict[str, Any] = {  # im_osnet_ain_x1_0_softmax_256x128_amsgrad_cosine.yaml with max_epoch=50
    "epochs": 50, "schedule": "cosine", "milestones": (0,), "metric": "cosine"
}  # fmt: skip


def other_cameras(name: str, given: dict[str, Any], three: dict[str, Any] | None = None) -> tuple[Variant, ...]:
    """torchreid's runs of a network that were tested on a data set which they were not trained on.

    `given`: flags of the training on MSMT17 over the network's row. `three`: those of the trainings on three sets.
    """
    numbers, sets = dict(rows_of(_FROM_MSMT17))[name], ("market", "duke", "cuhk03", "msmt17")
    found = {f"msmt172{on}": numbers[2 * i : 2 * i + 2] for i, on in enumerate(sets[:2])}
    runs = [("trained on all of MSMT17", given | {"use_all_images": True}, found)]
    if three is not None:
        numbers = dict(rows_of(_FROM_THREE))[name]
        others = ("+".join(sorted(set(sets) - {on})) for on in sets)
        found = {f"{of}2{on}": numbers[2 * i : 2 * i + 2] for i, (of, on) in enumerate(zip(others, sets, strict=True))}
        runs.append(("trained on three sets", three, found))
    return tuple(
        Variant(
            f"torchreid's zoo, {what}",
            flags,
            {on: Published(rank1, mAP, f"{_ZOO}, {name}") for on, (rank1, mAP) in found.items()},
        )
        for what, flags, found in runs
    )


OSNET = {  # row -> its runs
    "osnet_x1_0": other_cameras("osnet_x1_0", _JITTERED, _JITTERED | {"epochs": 50, "metric": "cosine"}),
    **{name: other_cameras(name, _JITTERED) for name in ("osnet_x0_75", "osnet_x0_5", "osnet_x0_25")},
    "osnet_ibn_x1_0": other_cameras("osnet_ibn_x1_0", {}, _AIN_50),
    "osnet_ain_x1_0": other_cameras("osnet_ain_x1_0", {}, {"epochs": 50}),
}
SOFTMAX += other_cameras("resnet50", _JITTERED | {"translate": 0.0})


def paper(market: tuple[float, float], duke: tuple[float, float], cuhk03: tuple[float, float], name: str) -> Variant:
    """What the paper of a network prints of itself, by the first release (columns "Published Rank" and "Published mAP";
    CUHK03 detected, 767/700 split)."""
    source = f"the paper, by torchreid v0.0.9 (af328ff) README, {name}"
    found = zip(("market", "duke", "cuhk03"), (market, duke, cuhk03), strict=True)
    return Variant("the paper", {}, {on: Published(*pair, source) for on, pair in found}, "the authors' own training")


RESNET50M = (  # over the row resnet50mid
    first("ResNet50M, xent", XENT),
    first("ResNet50M, xent+htri", HTRI),
    benchmark("ResNet50M, xent", XENT),
    paper((89.9, 75.6), (80.4, 63.9), (47.1, 43.5), "ResNet50M"),
)
_UNSAID = "its schedule, which is not printed"
HACNN = (  # over the row hacnn; README of v0.0.9, Updates, prints the command of CUHK03 alone
    first(
        "HACNN, xent",
        {"optimizer": "adam", "lr": 3e-4, "epochs": 500, "milestones": (500,), "reduction": "sum"},
        on=("cuhk03",),
    ),
    first("HACNN, xent", {"reduction": "sum"}, on=("market", "duke"), beyond=_UNSAID),
    benchmark("HACNN, xent", {}, _UNSAID),
    paper((91.2, 75.7), (80.5, 63.8), (41.7, 38.6), "HACNN"),
)
MUDEEP = {"market": first("MuDeep, xent+htri", {}).published["market"]}


def _video(name: str, given: dict[str, Any], beyond: str = "") -> Variant:
    return first(name, {"mars_query_in_gallery": False} | given, on=("mars",), beyond=beyond)


_SHUFFLED = "shuffled tracklets, one loss (train_vid_model_xent.py), of which no row is"
VIDEO = (  # over the row resnet50_video; the gallery is without the queries
    _video("ResNet50, xent+htri", {}),
    _video("DenseNet121, xent+htri", {"backbone": "densenet121"}, _DENSE),
    _video("ResNet50M, xent+htri", {}, "ResNet50M"),
    *(_video(f"{model}, xent", {}, _SHUFFLED) for model in ("ResNet50", "DenseNet121", "ResNet50M")),
)

# ============ JSIA ============

JSIA = tuple(  # over the row jsia; columns: rank-1, rank-10, mAP
    Variant(
        f"JSIA, {search} search, {shots}-shot",
        given,
        {"sysu": Published(rank1, mAP, "JSIA-ReID 6eb008b, materials/results.png", rank10=rank10)},
        "trained with generated pairs of images",
    )
    for search, shots, given, rank1, rank10, mAP in (
        ("all", "single", {}, 38.1, 80.7, 36.9),
        ("all", "multi", {"sysu_shots": 10}, 45.1, 85.7, 29.5),
        ("indoor", "single", {"sysu_search": "indoor"}, 43.8, 86.2, 52.9),
        ("indoor", "multi", {"sysu_search": "indoor", "sysu_shots": 10}, 52.7, 91.1, 42.7),
    )
)


# ============ AGW on LLCM: ZYK100/LLCM at 886e27c, README.md, Results; AGW/train.py, its test FC ============

_ON_LLCM: dict[str, Any] = {"erase": 0.5, "erase_fill": "mean"}  # erased to 0 once normalised
LLCM = (
    Variant(
        "AGW on LLCM, IR to VIS",
        _ON_LLCM,
        {"llcm": Published(49.13, 55.80, "LLCM 886e27c README, AGW, first columns", rank10=79.06)},
    ),
    Variant(
        "AGW on LLCM, VIS to IR",
        _ON_LLCM | {"llcm_query": "vis"},
        {"llcm": Published(63.72, 47.21, "LLCM 886e27c README, AGW, last columns", rank10=88.66)},
        "drawn infrared images that ask for all visible ones (AGW/test.py)",
    ),
)
