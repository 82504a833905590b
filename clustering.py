"""Clusters of images from their distances, for training without labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rerank import Sparse


def dbscan(near: Sparse, min_samples: int = 4) -> Tensor:
    """DBSCAN (Ester et al., KDD 1996) on the neighbours `near` within its radius: labels (N,) int64, -1 for noise.

    A point with at least `min_samples` neighbours, itself among them, is a core point; core points that are neighbours
    share a cluster; another point joins a cluster that has a core point among its neighbours. Clusters are numbered in
    the order of their first core point, and a point that could join several joins the first of them: the labels are
    those of scikit-learn's DBSCAN, whose search takes the points in turn.

    near: symmetric, each point a neighbour of its own; `rerank.jaccard_neighbours` gives it.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components  # as long to import as all recipes

    count = len(near.start) - 1
    start, col = near.start.cpu().numpy(), near.col.cpu().numpy()
    core = np.diff(start) >= min_samples  # (N,)
    row = np.repeat(np.arange(count), np.diff(start))
    linked = core[row] & core[col]
    graph = csr_matrix((np.ones(linked.sum(), bool), (row[linked], col[linked])), shape=(count, count))
    _, part = connected_components(graph, directed=False)
    names, first = np.unique(part[core], return_index=True)  # in the order of their names, not of their first points
    number = np.full(part.max(initial=0) + 1, -1)
    number[names[np.argsort(first)]] = np.arange(len(names))
    labels = np.where(core, number[part], count)
    joins = ~core[row] & core[col]
    np.minimum.at(labels, row[joins], labels[col[joins]])
    return torch.from_numpy(np.where(labels == count, -1, labels).astype(np.int64))
