"""Cluster Contrast: Dai, Wang, Yuan, Zhu, Tan, Cluster Contrast for Unsupervised Person Re-Identification, ACCV 2022
(arXiv:2103.11568); code: alibaba/cluster-contrast-reid at 57b62e9.

No label is read. Before each epoch the training set is clustered by the features of the network as it is (`Clusters`);
the epoch then trains each image towards the mean feature of its cluster and away from the others (`ClusterMemory`). The
network is `models.BagOfTricks` without classifiers, with the generalised mean; batches are those of
`loading.samplers.AcrossCameras`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import clustering
import rerank
from epochs import Answer, Hook, Moment
from losses import Output, full_precision
from machine import processes, ranges
from machine.ranges import Fraction, Neighbours, Positive

# ============ section 3.2, before each epoch: clusters of the features ============


class Clusters(Hook):
    """Labels from DBSCAN on Jaccard distances of the L2-normalised features, anew before each epoch
    (examples/cluster_contrast_train_usl.py). Images in no cluster are left out of the epoch.

    cluster_k1, cluster_k2: neighbours of the Jaccard distance. cluster_eps, cluster_min: radius and number of
    neighbours, the image among them, of DBSCAN.
    """

    @ranges.checked
    def __init__(
        self,
        cluster_k1: Neighbours = 30,
        cluster_k2: Neighbours = 6,
        cluster_eps: Fraction = 0.6,
        cluster_min: Neighbours = 4,
    ):
        self.k1, self.k2, self.eps, self.min_samples = cluster_k1, cluster_k2, cluster_eps, cluster_min

    def begin_epoch(self, moment: Moment) -> Answer:
        """The clusters, and the normalised features, from which `ClusterMemory` begins.

        ValueError where there are fewer than two: nothing could be told apart.
        """
        features = F.normalize(moment.features())  # (n, D)
        near = rerank.jaccard_neighbours(features, self.k1, self.k2, self.eps, group=processes.group())
        labels = clustering.dbscan(near, self.min_samples)  # (n,)
        count = int(labels.max()) + 1
        if count < 2:
            raise ValueError(
                f"epoch {moment.epoch + 1}: {len(labels):,} images form {count} cluster(s) of --cluster_min "
                f"{self.min_samples} images within --cluster_eps {self.eps:g}, and at least 2 are needed: raise "
                "--cluster_eps, lower --cluster_min, or start from other weights with --pretrained"
            )
        return Answer(labels, features=features, told={"clusters": count, "left_out": int((labels < 0).sum())})


# ============ sections 3.3 and 3.4: the memory of the clusters, its update and the loss ============


class ClusterMemory(nn.Module):
    """ClusterNCE, Eq. (3): cross-entropy of the cosines of each feature to the features of all clusters, over tau.

    Reads feats[0] (B, D), which is L2-normalised here. The memory (number of clusters, D) begins an epoch as the
    normalised means of the clusters' features, Eq. (1). After each batch, with m = `memory_momentum`, Eq. (4):
        phi_y <- m phi_y + (1 - m) q, normalised, for each image q of cluster y in the order of the batch;
        `memory_hard`: once for each cluster of the batch, with its q that is least like phi_y
    (models/cm.py: CM, CM_Hard, in whose backward pass it is done). The gradient is that of the memory before it.

    The loop over images there runs over their places within the cluster here, all clusters at once; p and k, of the
    batch, say how many places there can be (p 0: as many as images), so that nothing is waited for.
    """

    needs = ("feats",)
    memory: Tensor

    @ranges.checked
    def __init__(
        self,
        dim: int,
        memory_momentum: Fraction = 0.1,
        memory_temperature: Positive = 0.05,
        memory_hard: bool = False,
        p: int = 0,
        k: int = 0,
    ):
        super().__init__()
        self.p, self.k = p, k
        self.momentum, self.temperature, self.hard = memory_momentum, memory_temperature, memory_hard
        self.register_buffer("memory", torch.zeros(0, dim))

    def begin_epoch(self, features: Tensor, labels: Tensor) -> None:
        """Means of the clusters, normalised: features (n, D), labels (n,) with -1 for images in none."""
        used = (labels >= 0).nonzero()[:, 0]
        sums = features.new_zeros(int(labels.max()) + 1, features.shape[1], dtype=torch.float64)
        for rows in used.split(4096):
            sums.index_add_(0, labels[rows], features[rows].double())
        means = sums / torch.bincount(labels[used])[:, None]
        self.memory = F.normalize(means).to(self.memory)  # Eq. (1)

    def forward(self, output: Output, labels: Tensor) -> Tensor:
        """The loss of labels (B,), clusters from 0; in training the memory moves."""
        with torch.autocast(labels.device.type, enabled=False):
            q = F.normalize(full_precision(output.feats[0]))  # (B, D)
            memory = self.memory
            loss = F.cross_entropy(q @ memory.T / self.temperature, labels)  # Eq. (3)
            if self.training:
                update = hardest_in if self.hard else each_in
                most = min(len(labels), self.k * math.ceil(self.p / max(1, len(memory))) or len(labels))
                self.memory = update(memory, q.detach(), labels, self.momentum, most)  # Eq. (4)
        return loss

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        """There are as many clusters as the epoch had that was kept."""
        kept = state_dict.get(f"{prefix}memory")
        if kept is not None and kept.shape[1:] == self.memory.shape[1:]:
            self.memory = self.memory.new_empty(kept.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


@torch.no_grad()
def each_in(memory: Tensor, q: Tensor, labels: Tensor, momentum: float, most: int) -> Tensor:
    """The memory (C, D) after each image of a batch in turn: q (B, D) normalised, labels (B,) -> (C, D).

    most: images of a cluster in a batch, at most.
    """
    same, phi = labels[:, None] == labels, memory[labels]  # (B, B), (B, D): of one cluster all rows stay alike
    place = same.tril(-1).sum(1)  # (B,) how many of its cluster come before an image
    for turn in range(most):
        now = same & (place == turn)  # (B, B) in each row the one image of the cluster whose turn it is, or none
        moved = F.normalize(momentum * phi + (1 - momentum) * q[now.int().argmax(1)])
        phi = torch.where(now.any(1, keepdim=True), moved, phi)
    return memory.index_put((labels,), phi)


@torch.no_grad()
def hardest_in(memory: Tensor, q: Tensor, labels: Tensor, momentum: float, most: int) -> Tensor:
    """As `each_in`, with the one image of each cluster that is least like it, the first of several."""
    phi = memory[labels]  # (B, D)
    cosine = (q * phi).sum(1)  # (B,)
    least = cosine.masked_fill(labels[:, None] != labels, torch.inf).argmin(1)  # (B,) of the image's cluster
    return memory.index_put((labels,), F.normalize(momentum * phi + (1 - momentum) * q[least]))
