"""Methods that learn without labels: clusters of features take the place of identities."""

from __future__ import annotations

import models
from config import Term
from papers import cluster_contrast
from published import Published, Variant
from rows.table import row

RESULTS = "cluster-contrast 57b62e9, figs/resultsv2.png, Ours/Dbscan"

row(
    name="cluster_contrast",
    title="Cluster Contrast, without labels, ResNet-50 with GeM",
    paper="Dai et al., Cluster Contrast for Unsupervised Person Re-Identification, ACCV 2022",
    source="cluster-contrast, README.md, examples/cluster_contrast_train_usl.py",
    published={
        "market": Published(92.3, 82.1, RESULTS, rank5=96.7, rank10=97.9),
        "duke": Published(84.9, 72.6, RESULTS, rank5=91.9, rank10=93.9),
    },
    variants=(
        Variant(
            "MSMT17",
            {"steps": 400},
            {"msmt17": Published(56.0, 27.6, RESULTS, rank5=66.8, rank10=71.5)},
        ),
    ),
    differs="There a batch is shared by four GPUs, each of which normalises its 64 images by their own statistics, and "
    "the first one's are kept: --accumulate 4, or four processes; one process normalises over all 256. The code keeps "
    "the epoch of highest mAP on the test set among every tenth, here the last counts. A cluster of one image gives "
    "it k times, there once, which moves all later batches of the pass; with fewer than p clusters a batch holds some "
    "twice, there the run ends. Clusters are equal: Jaccard distances agree to 1e-6, DBSCAN's labels altogether. "
    "--pooling avg is the paper's average; InfoMap clusters (83.0 / 92.9 on Market-1501) are not here. Not trained "
    "here at its size; a short run on MobileNetV2 is in docs/results.md. Its 30 neighbours are for sets with as many "
    "images of a person as Market-1501, 17: of the built-in set, which has 11, they make 13 clusters of 150 people "
    "(features of 25 mAP; 8 % of the images are of their cluster's main person), --cluster_k1 8 --cluster_k2 3 "
    "--cluster_eps 0.5 makes 104 (67 %). There it does not gain with these either (benchmarks/README.md).",
    network=models.BagOfTricks,
    hook=cluster_contrast.Clusters,
    terms={"cluster": Term(1.0, cluster_contrast.ClusterMemory)},
    pooling="gem",
    last_stride=1,
    metric_neck="after",
    id_weight=0.0,
    interpolation="bicubic",
    pad=10,
    erase=0.5,
    p=16,
    k=16,
    across_cameras=True,
    steps=200,
    lr=3.5e-4,
    weight_decay=5e-4,
    epochs=50,
    milestones=(20, 40),
    eval_every=10,
    metric="cosine",
)
