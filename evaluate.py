"""How well a model retrieves: features, distances, and the metrics of the re-ID protocols.

Running order is reading order: `extract` features, distances for a block of queries, the ranks of the matches in that
block, and from the ranks AP, CMC and mINP. Nothing here holds the whole (Q, G) matrix unless it is handed in, and
nothing argsorts it: a metric needs the ranks of a query's few matches only, and a rank is a count.

    labels = Labels(query_pids, gallery_pids, query_camids, gallery_camids, "market1501")
    ranks = rank_features(query, gallery, labels, "cosine")     # what happened to each query
    summarize(ranks), confidence_intervals(ranks)
    verification(distance_blocks(query, gallery, "cosine"), labels)

`evaluate_features` and `rank_metrics` are the two short cuts from features and from a distance matrix to `Metrics`.

Ties. Among gallery images at equal distance the wrong ones stand before the right ones: with hits sorted by distance
d_1 <= d_2 <= ... and w(d) = number of wrong gallery images at distance <= d, hit j has rank j + w(d_j). This is the
worst order that a sort could have produced, and it does not depend on the order of the gallery.

Symbols: Q queries, G gallery images, D feature width, b queries in a block, K the largest number of gallery images
that share the identity of one query, H <= K hits of a query, P gallery identities, R draws (protocol "cuhk03").
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import rerank as reranking
from machine.memory import free_memory
from protocols import INF, NUM_DRAWS, Labels, pair_of_labels

GIB = 2**30


class Metrics(NamedTuple):
    """Fractions in [0, 1]; the tensors are float64 on the CPU.

    `mAP` is the mean of `ap` (num_valid,): one average precision (mean over hits of the precision at the hit) per
    query that has a match, in query order. `mINP` is the mean of hits / rank of the last hit (AGW: Ye et al., "Deep
    Learning for Person Re-identification: A Survey and Outlook", Sec. 4). `cmc` (max_rank,): `cmc[k - 1]` is the share
    of queries whose first hit has rank <= k.
    """

    mAP: float
    mINP: float
    cmc: Tensor
    ap: Tensor
    num_valid: int


class Ranks(NamedTuple):
    """What is known of the n queries that have a match; `summarize` makes `Metrics` of it.

    `query` (n,) int64: the row of each among the queries. `first` (n, R) int64: the rank that CMC counts, from 1, with
    R = 1 or the number of draws. `ap`, `inp` (n,) float64.
    """

    query: Tensor
    first: Tensor
    ap: Tensor
    inp: Tensor


# ---------------------------------------------------------------------------------------------------------------------
# Features
# ---------------------------------------------------------------------------------------------------------------------


def extract(
    model,
    loader,
    *,
    flip: bool = False,
    autocast_dtype: torch.dtype | None = None,
    progress: str | bool | None = None,
    out: str | os.PathLike | None = None,
    device: torch.device | str | None = None,
    memory_gb: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Features of every image of `loader`, in its order: embeddings (N, D) and parts (N, S, D) or None, float32, CPU.

    loader: yields (images (B, 3, H, W), views). Its number of images is read before the first batch, from
        `loader.num_images`, `len(loader.dataset)`, or the batches themselves if it is a list.
    flip: mean of the features of each image and of its mirror image, before any normalisation, as fast-reid
        (evaluation/evaluator.py at c9bc3ce). The sum that other code takes has the same direction.
    autocast_dtype: e.g. torch.bfloat16; None computes in the model's own precision.
    progress: text of a progress bar, True for a bar without text, None for no bar; in a terminal only.
    out: a .npy file for the embeddings, which then stay memory-mapped from it; parts go beside it, `<stem>.parts.npy`.
        Without it features live in memory, and where they would take more than `memory_gb` (default: half of what is
        free) in a memory-mapped temporary file, which is said on stderr.
    device: where to move images to; None leaves them where the loader put them.

    The model is put into eval mode and every module gets its own mode back afterwards.
    """
    count = _num_images(loader)
    embeddings, parts = _Rows(count, out, memory_gb), _Rows(count, _beside(out), memory_gb)
    with _eval_mode(model), torch.inference_mode():
        title = progress if isinstance(progress, str) else None
        for images, views in tqdm(loader, desc=title, disable=not progress or None):
            if device is not None:
                images = images.to(device, non_blocking=True)
            with torch.autocast(images.device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                output = model(images, views)
                mirrored = model(images.flip(3), views) if flip else output
            embeddings.add(output.embedding, mirrored.embedding)
            if output.parts is not None:
                parts.add(output.parts, mirrored.parts)
    return embeddings.finish(), parts.finish() if parts.filled else None


def _num_images(loader) -> int:
    if hasattr(loader, "num_images"):
        return loader.num_images
    if hasattr(loader, "dataset"):
        return len(loader.dataset)
    if isinstance(loader, (list, tuple)):
        return sum(len(images) for images, _ in loader)
    raise ValueError(f"{type(loader).__name__} does not say how many images it yields: give it `num_images`")


def _beside(out) -> Path | None:
    return None if out is None else Path(out).with_suffix(".parts.npy")


@contextmanager
def _eval_mode(model):
    """Eval mode, then each module's own mode again: `train()` would also wake BatchNorm layers frozen on purpose."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Rows:
    """(count, ...) float32 rows filled batch by batch, in memory or in a memory-mapped .npy file."""

    def __init__(self, count: int, out: str | os.PathLike | None, memory_gb: float | None):
        self.count, self.out, self.memory_gb = count, None if out is None else Path(out), memory_gb
        self.rows, self.filled = None, 0

    def add(self, batch: Tensor, mirrored: Tensor) -> None:
        """Append the mean of the two (the batch itself where both are one tensor)."""
        mean = batch.float() if mirrored is batch else (batch.float() + mirrored.float()) / 2
        if self.rows is None:
            with torch.inference_mode(False):  # what is handed out shall be an ordinary tensor
                self.rows = self._allocate((self.count, *mean.shape[1:]), mean.is_cuda)
        end = self.filled + len(mean)
        if end > self.count:
            raise RuntimeError(f"the loader announced {self.count} images and yields more")
        self.rows[self.filled : end].copy_(mean, non_blocking=True)
        self.filled = end

    def _allocate(self, shape: tuple[int, ...], pinned: bool) -> Tensor:
        size = 4 * int(np.prod(shape, dtype=np.int64))
        budget = free_memory() / 2 if self.memory_gb is None else self.memory_gb * GIB
        if self.out is None and size <= budget:
            return torch.empty(shape, pin_memory=pinned)  # pinned: the copy does not wait for the network
        if self.out is not None:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            return torch.from_numpy(np.lib.format.open_memmap(self.partial, "w+", np.float32, shape))
        handle, path = tempfile.mkstemp(suffix=".npy", prefix="features-")
        os.close(handle)
        rows = torch.from_numpy(np.lib.format.open_memmap(path, "w+", np.float32, shape))
        print(
            f"features take {size / GIB:.1f} GiB, more than {budget / GIB:.1f} GiB: they are in a file in "
            f"{os.path.dirname(path)} while this process lives",
            file=sys.stderr,
        )
        with suppress(OSError):  # the mapping keeps the file alive; Windows refuses, and the file stays
            os.unlink(path)
        return rows

    @property
    def partial(self) -> Path:
        """Where rows go until all are there: a killed run must not leave a file that looks whole."""
        return self.out.with_name(self.out.name + ".partial")

    def finish(self) -> Tensor:
        """All rows, (count, D), a file of them under its final name; RuntimeError if the loader yielded too few."""
        if self.filled != self.count:
            raise RuntimeError(f"the loader announced {self.count} images and yielded {self.filled}")
        if self.rows is None:
            raise ValueError("the loader has no images")
        if self.rows.is_pinned():
            torch.cuda.synchronize()
        if self.out is not None:
            self.rows = None  # closes the mapping, without which Windows does not rename
            os.replace(self.partial, self.out)
            self.rows = torch.from_numpy(np.load(self.out, mmap_mode="r+"))
        return self.rows


def concatenate(*features: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Several features (N, D_i) of the same images as one (N, sum D_i), each L2-normalised, times its weight.

    Squared distances add: |x - y|^2 = sum_i w_i^2 |x_i - y_i|^2; with equal weights, cosine is the mean of cosines.
    """
    weights = [1.0] * len(features) if weights is None else weights
    return torch.cat(
        [w * F.normalize(_as_features(x, "given"), dim=1) for w, x in zip(weights, features, strict=True)], dim=1
    )


def pool_queries(query_pids, query_camids, features, pids, camids, how: str = "mean") -> Tensor:
    """Multi-query (Zheng et al., ICCV 2015, Sec. 5.2): one feature per query from all its images -> (Q, D).

    `features` (M, D), `pids`, `camids` (M,) are those of Market-1501's `gt_bbox`; a query's images are the ones of its
    pid and camid. how: "mean" or "max", element by element.
    """
    if how not in ("mean", "max"):
        raise ValueError(f"pooling '{how}' is unknown: expected mean or max")
    features = _as_features(features, "multi-query")
    wanted = torch.stack(pair_of_labels(query_pids, query_camids, "query"), dim=1)  # (Q, 2)
    given = torch.stack(pair_of_labels(pids, camids, "multi-query"), dim=1)  # (M, 2)
    groups, of_query = torch.cat([given, wanted]).unique(dim=0, return_inverse=True)
    of_image, of_query = (x.to(features.device) for x in (of_query[: len(given)], of_query[len(given) :]))
    missing = (~torch.isin(of_query, of_image)).nonzero().flatten().tolist()
    if missing:
        pid, camid = wanted[missing[0]].tolist()
        raise ValueError(f"{len(missing)} queries have no multi-query image, the first is pid {pid} camid {camid}")
    index = of_image[:, None].expand_as(features)
    pooled = features.new_zeros(len(groups), features.shape[1])
    return pooled.scatter_reduce_(0, index, features, "mean" if how == "mean" else "amax", include_self=False)[of_query]


def expand_queries(query, gallery, k: int = 5, alpha: float = 3.0, memory_gb: float | None = None) -> Tensor:
    """alpha query expansion (Radenovic et al., TPAMI 2019, Sec. 3.3), Chum's AQE at alpha = 0 -> (Q, D), unit length.

    With x of unit length, q' = q + sum over the k nearest gallery images g of max(q.g, 0)^alpha g, normalised. Rank
    by cosine afterwards. The protocol plays no part: the neighbours may come from the query's own camera, as in
    fast-reid (evaluation/query_expansion.py at c9bc3ce, which also expands the gallery: call this on it for that).
    """
    query, gallery = _same_width(query, gallery)
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k is {k}: expected 1 to the gallery's {len(gallery)} images")
    expanded = []
    for start, stop, block in distance_blocks(query, gallery, "cosine", memory_gb=memory_gb):
        distance, index = block.topk(k, dim=1, largest=False)  # (b, k)
        weight = (1 - distance).clamp_min(0).pow(alpha)
        near = F.normalize(gallery[index], dim=2)  # (b, k, D)
        expanded.append(F.normalize(query[start:stop], dim=1) + (weight[:, :, None] * near).sum(1))
    return F.normalize(torch.cat(expanded), dim=1)


# ---------------------------------------------------------------------------------------------------------------------
# Distances
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _full_precision(device: torch.device):
    """No autocast and no TF32 or bf16 matrix products: they would move ranks in the third digit."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _as_tensor(array) -> Tensor:
    """Tensor over the same memory where that is possible (numpy, memory-mapped included)."""
    if isinstance(array, Tensor):
        return array.detach()
    with warnings.catch_warnings():  # a read-only memory map is fine: nothing here writes to its input
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def _as_features(features, what: str) -> Tensor:
    """(N, D) float32 or float64; half precision is widened, because its squares overflow."""
    features = _as_tensor(features)
    if features.ndim != 2 or not len(features) or features.is_complex():
        raise ValueError(f"{what} features have shape {tuple(features.shape)}: expected (images, width)")
    return features if features.dtype in (torch.float32, torch.float64) else features.float()


def _same_width(query, gallery) -> tuple[Tensor, Tensor]:
    query, gallery = _as_features(query, "query"), _as_features(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query features are {query.shape[1]} wide, gallery features {gallery.shape[1]}: "
            "extract both with the same model"
        )
    if query.device != gallery.device:
        raise ValueError(f"query features are on {query.device}, gallery features on {gallery.device}: move one")
    if query.dtype != gallery.dtype:
        query, gallery = query.float(), gallery.float()
    return query, gallery


def _squared_norms(features: Tensor) -> Tensor:
    """(N,) of (N, ...). One buffer for the squares: a temporary per piece breaks the heap up and costs a GiB."""
    features = features.flatten(1)
    norms = features.new_empty(len(features), dtype=features.dtype if features.dtype.itemsize >= 4 else torch.float32)
    squares = norms.new_empty(min(1024, len(features)), features.shape[1])
    for part, norm in zip(features.split(1024), norms.split(1024), strict=True):
        buffer = squares[: len(part)].copy_(part)
        torch.sum(buffer.square_(), dim=1, out=norm)
    return norms


class _Metric:
    """`metric` against one gallery, whose norms are computed once; called with queries (b, D) -> (b, G)."""

    def __init__(self, gallery: Tensor, metric: str):
        if metric not in ("euclidean", "sqeuclidean", "cosine"):
            raise ValueError(f"metric '{metric}' is unknown: expected euclidean, sqeuclidean or cosine")
        self.gallery, self.metric = gallery, metric
        self.square = _squared_norms(gallery)  # (G,)
        # 1e-12 as in F.normalize: a zero vector has cosine 0 with everything
        self.inverse = self.square.sqrt().clamp_min(1e-12).reciprocal() if metric == "cosine" else None

    def __call__(self, query: Tensor) -> Tensor:
        with _full_precision(query.device):
            if self.metric == "cosine":
                block = F.normalize(query, dim=1) @ self.gallery.T  # (b, G)
                return block.mul_(self.inverse).neg_().add_(1).clamp_(0, 2)
            # |q - g|^2 = |g|^2 - 2 q.g + |q|^2; rounding can leave it slightly below 0
            block = torch.addmm(self.square, query, self.gallery.T, alpha=-2)  # (b, G)
            block.add_(_squared_norms(query)[:, None]).clamp_min_(0)
            return block.sqrt_() if self.metric == "euclidean" else block


def pairwise_distance(query, gallery, metric: str = "euclidean") -> Tensor:
    """Distances between the rows of `query` (Q, D) and `gallery` (G, D) -> (Q, G).

    metric: "euclidean" |q - g|, "sqeuclidean" |q - g|^2, "cosine" 1 - cos(q, g) in [0, 2] (a zero row has cosine 0).
    Tensors or numpy arrays; the result is a tensor on their device, float32, or float64 if both are. Products are full
    float32 whatever TF32 or autocast setting is in force.
    """
    query, gallery = _same_width(query, gallery)
    return _Metric(gallery, metric)(query)


class Plan(NamedTuple):
    """How many queries a block has and what that costs beyond the features, in bytes."""

    rows: int
    num_query: int
    num_gallery: int
    peak: int

    def __str__(self) -> str:
        return (
            f"evaluation of {self.num_query:,} queries against {self.num_gallery:,} gallery images in blocks of "
            f"{self.rows:,}: peak {self.peak / GIB:.2f} GiB beyond the features"
        )


MAX_ROWS = 256  # past this the matrix product gains nothing (benchmarks/evaluate.py, table "block size")


def plan_blocks(
    num_query: int, num_gallery: int, memory_gb: float | None = None, device: torch.device | str = "cpu"
) -> Plan:
    """Block size for a memory budget. memory_gb: GiB beyond the features, default a quarter of what is free and at
    most 0.5 GiB on the CPU, 8 GiB on an accelerator, past which nothing gets faster. One query is the least."""
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    # distances, one copy, masks; on an accelerator also the sorted values, their indices and the sort's own buffers
    per_row = (10 if on_cpu else 40) * num_gallery
    budget = min(free_memory(device) / 4, (0.5 if on_cpu else 8) * GIB) if memory_gb is None else memory_gb * GIB
    rows = max(1, min(int(budget // per_row), num_query, MAX_ROWS if on_cpu else 4096))
    return Plan(rows, num_query, num_gallery, rows * per_row)


def check_finite(features, what: str, items: Sequence | None = None) -> None:
    """Raise ValueError naming the images, by their `items` if given, whose features (N, ...) are NaN or infinite."""
    features = _as_tensor(features)
    bad = (~torch.isfinite(_squared_norms(features))).nonzero().flatten().tolist()
    if bad:
        names = ", ".join(str(items[i]) if items is not None else f"{what} image {i}" for i in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(
            f"{len(bad)} of {len(features)} {what} features are NaN, infinite or too large to square: "
            f"{names}{more}. Check these images, the weights, and half-precision overflow in the model"
        )


Block = tuple[int, int, Tensor]  # start, stop, distances (stop - start, G)


def distance_blocks(
    query,
    gallery,
    metric: str = "euclidean",
    *,
    rerank: dict | None = None,
    distance: Callable | None = None,
    memory_gb: float | None = None,
) -> Iterator[Block]:
    """Distances of successive queries to the whole gallery: (start, stop, (stop - start, G)).

    distance: replaces `metric`; called with (query rows, gallery) -> (b, G) on slices of what is given here, which may
        be tensors of any shape, e.g. parts (Q, S, D), or tuples of tensors, e.g. (embeddings, parts).
    rerank: keyword arguments of `rerank.k_reciprocal`; features are L2-normalised first if the metric is "cosine".
        With `distance` it is `rerank.k_reciprocal_from_distances`, which holds all (Q + G)^2 distances.
    memory_gb: see `plan_blocks`. A block is valid until the next one is asked for.
    """
    if distance is None:
        query, gallery = _same_width(query, gallery)
        if rerank is not None:
            if metric == "cosine":
                query, gallery = F.normalize(query, dim=1), F.normalize(gallery, dim=1)
            yield from reranking.iter_k_reciprocal(query, gallery, **rerank, memory_gb=memory_gb)
            return
        measure = _Metric(gallery, metric)
    elif rerank is not None:
        pairs = ((query, gallery), (query, query), (gallery, gallery))
        given = [
            torch.cat([block for _, _, block in distance_blocks(x, y, distance=distance, memory_gb=memory_gb)])
            for x, y in pairs
        ]
        final = reranking.k_reciprocal_from_distances(*given, **rerank, memory_gb=memory_gb)
        yield 0, len(final), final
        return
    else:
        query, gallery = _tensors(query), _tensors(gallery)

        def measure(rows):
            return distance(rows, gallery)

    num_query, device = len(_first(query)), _first(query).device
    plan = plan_blocks(num_query, len(_first(gallery)), memory_gb, device)
    for start in range(0, num_query, plan.rows):
        stop = min(start + plan.rows, num_query)
        with torch.no_grad():
            block = measure(_rows(query, start, stop))
        yield start, stop, block


def _tensors(features):
    return tuple(_as_tensor(x) for x in features) if isinstance(features, tuple) else _as_tensor(features)


def _first(features) -> Tensor:
    return features[0] if isinstance(features, tuple) else features


def _rows(features, start: int, stop: int):
    """Images start:stop of a tensor, or of each tensor of a tuple."""
    return tuple(x[start:stop] for x in features) if isinstance(features, tuple) else features[start:stop]


# ---------------------------------------------------------------------------------------------------------------------
# Ranks and metrics
# ---------------------------------------------------------------------------------------------------------------------


def _count_within(block: Tensor, levels: Tensor, num: Tensor) -> Tensor:
    """How many entries of row i of `block` (b, G) are <= levels[i, j], for j < num[i] -> (b, K) int64.

    `levels` (b, K) ascend along a row; past num[i] the counts mean nothing.
    """
    return _count_row_by_row(block, levels, num) if block.device.type == "cpu" else _count_by_sort(block, levels)


def _count_by_sort(block: Tensor, levels: Tensor) -> Tensor:
    """One batched sort of values: what an accelerator is good at."""
    return torch.searchsorted(block.sort(1).values, levels, right=True)


def _count_row_by_row(block: Tensor, levels: Tensor, num: Tensor) -> Tensor:
    """Only the entries up to the row's last level are picked out and sorted, for a usable model a few per cent of it.

    numpy, because its sort is several times faster than torch's on a CPU; benchmarks/evaluate.py times six ways.
    """
    counts = np.zeros(levels.shape, dtype=np.int64)
    rows, limits = block.numpy(), levels.numpy()
    for i, n in enumerate(num.tolist()):
        if n:
            near = np.compress(rows[i] <= limits[i, n - 1], rows[i])
            near.sort()
            counts[i, :n] = near.searchsorted(limits[i, :n], side="right")
    return torch.from_numpy(counts)


class _Matches(NamedTuple):
    """A block seen from its hits. `block` (b, G) with removed cameras at +inf; `hits` (b, K) d_1 <= d_2 <= ..., then
    +inf; `num_hits` (b,); `wrong` (b, K) = w(d_j)."""

    block: Tensor
    hits: Tensor
    num_hits: Tensor
    wrong: Tensor


def _match(block: Tensor, start: int, labels: Labels) -> _Matches:
    stop = start + len(block)
    block = labels.hide_cameras(block, start, stop)
    index, same, kept = (x.to(block.device) for x in labels.candidates(start, stop))  # (b, K)
    distance = block.gather(1, index)
    hits = distance.masked_fill(~kept, INF).sort(1).values
    alike = distance.masked_fill(~same, INF).sort(1).values
    num_hits = kept.sum(1)
    # the wrong ones within d_j are all within d_j less those of the query's identity, seen or removed
    alike_within = torch.searchsorted(alike, hits, right=True).minimum(same.sum(1, keepdim=True))
    return _Matches(block, hits, num_hits, _count_within(block, hits, num_hits) - alike_within)


def _first_image(match: _Matches, start: int, labels: Labels) -> Tensor:
    """Rank of the first hit among images (b, 1)."""
    return 1 + match.wrong[:, :1]


def _first_identity(match: _Matches, start: int, labels: Labels) -> Tensor:
    """Rank of the query's identity when each gallery identity stands where its nearest image does (b, 1)."""
    block, device = match.block, match.block.device
    pids, column = labels.gallery_pids.unique(return_inverse=True)
    column = column.to(device).expand(len(block), -1)
    nearest = block.new_full((len(block), len(pids)), INF).scatter_reduce_(1, column, block, "amin")  # (b, P)
    other = (labels.query_pids[start : start + len(block), None] != pids).to(device)
    return 1 + ((nearest <= match.hits[:, :1]) & other).sum(1, keepdim=True)


def _first_draw(match: _Matches, start: int, labels: Labels) -> Tensor:
    """Rank of one of the query's hits in each drawn gallery of one image per identity (b, R)."""
    block, device = match.block, match.block.device
    stop = start + len(block)
    pick = (labels.own[:, start:stop].to(device) * match.num_hits).long()  # (R, b): which hit, counted by distance
    right = match.hits.gather(1, pick.T)  # (b, R)
    other = (labels.query_pids[start:stop, None] != labels.gallery_pids[labels.drawn[0]]).to(device)  # (b, P)
    return torch.stack(
        [
            1 + ((block[:, images] <= right[:, r, None]) & other).sum(1)
            for r, images in enumerate(labels.drawn.to(device))
        ],
        dim=1,
    )


FIRST_RANK = {"images": _first_image, "identities": _first_identity, "draws": _first_draw}


def _rank_block(block: Tensor, start: int, labels: Labels) -> Ranks:
    """`Ranks` of queries start, start + 1, ... from their distances (b, G)."""
    match = _match(block, start, labels)
    first = FIRST_RANK[labels.protocol.cmc](match, start, labels)
    valid = match.num_hits > 0
    num_hits, wrong = match.num_hits[valid].cpu(), match.wrong[valid].cpu()  # (n,), (n, K)
    j = torch.arange(1, wrong.shape[1] + 1)
    # precision at hit j = j / rank_j, rank_j = j + w(d_j); AP = 1/H sum_j j / rank_j; INP = H / rank_H
    precision = (j.double() / (j + wrong)).masked_fill(j > num_hits[:, None], 0)
    # a sum in order: its last bit must not depend on K, which is a property of the block
    ap = precision.cumsum(1)[:, -1] / num_hits
    inp = precision.gather(1, num_hits[:, None] - 1).flatten()
    return Ranks(start + valid.nonzero().flatten().cpu(), first[valid].cpu(), ap, inp)


def _pieces(blocks: Iterable[Block], labels: Labels) -> Iterator[tuple[int, Tensor]]:
    """(start, distances) in pieces that fit in memory together with what is computed from them."""
    for start, _, block in blocks:
        if block.ndim != 2 or block.shape[1] != labels.shape[1]:
            raise ValueError(f"distances have shape {tuple(block.shape)}, the gallery has {labels.shape[1]} images")
        rows = plan_blocks(len(block), block.shape[1], device=block.device).rows
        for a, piece in zip(range(start, start + len(block), rows), block.split(rows), strict=True):
            piece = piece if piece.dtype in (torch.float32, torch.float64) else piece.float()
            if torch.isnan(piece.sum()) and torch.isnan(piece).any():  # the sum alone is NaN for inf - inf as well
                row, column = torch.isnan(piece).nonzero()[0].tolist()
                raise ValueError(f"the distance of query {a + row} to gallery image {column} is NaN")
            yield a, piece


def rank_blocks(blocks: Iterable[Block], labels: Labels) -> Ranks:
    """`Ranks` from an iterator of (start, stop, distances (stop - start, G))."""
    width = NUM_DRAWS if labels.protocol.cmc == "draws" else 1
    empty = Ranks(
        torch.empty(0, dtype=torch.int64),
        torch.empty(0, width, dtype=torch.int64),
        torch.empty(0, dtype=torch.float64),
        torch.empty(0, dtype=torch.float64),
    )
    parts = [_rank_block(block, start, labels) for start, block in _pieces(blocks, labels)]
    return Ranks(*(torch.cat(field) for field in zip(empty, *parts, strict=True)))


def summarize(ranks: Ranks, max_rank: int = 50) -> Metrics:
    """Means over the queries that have a match. CMC stays flat past the size of the gallery."""
    if max_rank < 1:
        raise ValueError(f"max_rank is {max_rank}: expected 1 or more")
    found = torch.bincount(ranks.first.flatten().clamp_max(max_rank + 1), minlength=max_rank + 2)
    cmc = found[1:-1].cumsum(0).double() / ranks.first.numel()
    return Metrics(ranks.ap.mean().item(), ranks.inp.mean().item(), cmc, ranks.ap, len(ranks.query))


def rank_metrics(
    distmat,
    query_pids,
    gallery_pids,
    query_camids,
    gallery_camids,
    max_rank: int = 50,
    protocol: str = "market1501",
    *,
    query_items: Sequence | None = None,
    gallery_items: Sequence | None = None,
    seed: int = 0,
) -> Metrics:
    """`Metrics` from a distance matrix (Q, G), tensor or numpy, on any device; it is not changed.

    Labels, items and seed: see `Labels`. Queries without a match are skipped; `num_valid` counts the others.
    Raises ValueError if no query has a match, a distance is NaN, or shapes disagree.
    """
    labels = Labels(
        query_pids,
        gallery_pids,
        query_camids,
        gallery_camids,
        protocol,
        query_items=query_items,
        gallery_items=gallery_items,
        seed=seed,
    )
    distmat = _as_tensor(distmat)
    if tuple(distmat.shape) != labels.shape:
        raise ValueError(f"the distance matrix is {tuple(distmat.shape)}, the labels are for {labels.shape}")
    labels.need_matches()
    return summarize(rank_blocks([(0, len(distmat), distmat)], labels), max_rank)


def rank_features(
    query,
    gallery,
    labels: Labels,
    metric: str = "euclidean",
    *,
    rerank: dict | None = None,
    distance: Callable | None = None,
    memory_gb: float | None = None,
    group=None,
    verbose: bool = False,
) -> Ranks:
    """`Ranks` from features, block by block; the arguments are those of `distance_blocks` and `evaluate_features`."""
    labels.need_matches()
    for features, what, items in ((query, "query", labels.query_items), (gallery, "gallery", labels.gallery_items)):
        for part in features if isinstance(features, tuple) else (features,):
            check_finite(part, what, items)
    first, last = 0, labels.shape[0]
    if group is not None and rerank is None:
        first, last = shard(labels.shape[0], group)
    if verbose and rerank is None and (group is None or dist.get_rank(group) == 0):
        print(plan_blocks(last - first, labels.shape[1], memory_gb, _as_tensor(_first(query)).device))
    if first == last:
        blocks = iter(())
    else:
        blocks = distance_blocks(
            _rows(query, first, last), gallery, metric, rerank=rerank, distance=distance, memory_gb=memory_gb
        )
    ranks = rank_blocks(((first + start, first + stop, block) for start, stop, block in blocks), labels)
    return ranks if group is None or rerank is not None else _gather(ranks, group)


def evaluate_features(
    query,
    gallery,
    query_pids,
    gallery_pids,
    query_camids,
    gallery_camids,
    metric: str = "euclidean",
    protocol: str = "market1501",
    max_rank: int = 50,
    rerank: dict | None = None,
    *,
    distance: Callable | None = None,
    query_items: Sequence | None = None,
    gallery_items: Sequence | None = None,
    seed: int = 0,
    memory_gb: float | None = None,
    group=None,
    verbose: bool = False,
) -> Metrics:
    """`Metrics` from features `query` (Q, D), `gallery` (G, D): those of `rank_metrics(pairwise_distance(...), ...)`
    without ever holding (Q, G).

    Tensors on one device, or numpy arrays (memory-mapped ones are read through, not loaded).
    rerank, distance: see `distance_blocks`; with `distance` the features may be tuples of tensors.
    memory_gb: GiB beyond the features, see `plan_blocks`; for re-ranking see `rerank.k_reciprocal`.
    group: a process group (`torch.distributed.group.WORLD` under torchrun). Each process, holding all features, ranks
        its slice of the queries, and all get the result. Re-ranking is not split: each process then does all of it.
    verbose: print the block size and the peak memory before the work starts (re-ranking has its own figure).
    Raises ValueError if no query has a match, or for NaN or infinite features, which are named (by items if given).
    """
    labels = Labels(
        query_pids,
        gallery_pids,
        query_camids,
        gallery_camids,
        protocol,
        query_items=query_items,
        gallery_items=gallery_items,
        seed=seed,
    )
    found = len(_first(query)), len(_first(gallery))
    if found != labels.shape:
        raise ValueError(
            f"{found[0]} query and {found[1]} gallery features were given, with labels for "
            f"{labels.shape[0]} and {labels.shape[1]}"
        )
    return summarize(
        rank_features(
            query,
            gallery,
            labels,
            metric,
            rerank=rerank,
            distance=distance,
            memory_gb=memory_gb,
            group=group,
            verbose=verbose,
        ),
        max_rank,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Beside the metrics
# ---------------------------------------------------------------------------------------------------------------------


def confidence_intervals(
    ranks: Ranks, level: float = 0.95, num_samples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over queries (Efron & Tibshirani 1993, Ch. 13): {"rank1": (low, high), "mAP": (low, high)}.

    It says how far another draw of as many queries could move the number, gallery and model held fixed. num_samples:
    a multiple of 50.
    """
    if num_samples < 50 or num_samples % 50:
        raise ValueError(f"num_samples is {num_samples}: expected a multiple of 50")
    values = torch.stack([(ranks.first == 1).double().mean(1), ranks.ap], dim=1)  # (n, 2)
    generator = torch.Generator().manual_seed(seed)
    means = torch.cat(
        [
            values[torch.randint(len(values), (size, len(values)), generator=generator)].mean(1)
            for size in [50] * (num_samples // 50)
        ]
    )  # (num_samples, 2)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(tails, dim=0).tolist()
    return {"rank1": (low[0], high[0]), "mAP": (low[1], high[1])}


class CameraPairs(NamedTuple):
    """`mAP` (A, B) float64: queries of camera `query_camids[a]` against the gallery images of `gallery_camids[b]`
    alone; NaN where no such query has a match. `num_valid` (A, B): how many have."""

    query_camids: Tensor
    gallery_camids: Tensor
    mAP: Tensor
    num_valid: Tensor


def camera_pairs(blocks: Iterable[Block], labels: Labels) -> CameraPairs:
    """mAP for each pair of query camera and gallery camera; under "market1501" a camera against itself has none."""
    query_cameras, row = labels.query_camids.unique(return_inverse=True)
    gallery_cameras = labels.gallery_camids.unique()
    columns = [(labels.gallery_camids == camera).nonzero().flatten() for camera in gallery_cameras]
    parts = [labels.only(index) for index in columns]
    total = torch.zeros(len(query_cameras), len(gallery_cameras), dtype=torch.float64)
    count = torch.zeros_like(total)
    for start, block in _pieces(blocks, labels):
        for b, (index, part) in enumerate(zip(columns, parts, strict=True)):
            ranks = _rank_block(block[:, index.to(block.device)], start, part)
            total[:, b].index_add_(0, row[ranks.query], ranks.ap)
            count[:, b].index_add_(0, row[ranks.query], torch.ones_like(ranks.ap))
    return CameraPairs(query_cameras, gallery_cameras, total / count, count.long())


class Verification(NamedTuple):
    """Same person or not, decided by distance <= threshold, over all pairs of a query and a gallery image it sees.

    `levels` (F,) are the false positive rates asked for; `tpr`, `thresholds` (F,) belong to the largest threshold whose
    rate does not exceed the level. At `eer_threshold` false positive and false negative rate are equal, to `eer`.
    `curve_thresholds`, `curve_fpr`, `curve_tpr` (T,) are the ROC.
    """

    levels: Tensor
    tpr: Tensor
    thresholds: Tensor
    eer: float
    eer_threshold: float
    curve_thresholds: Tensor
    curve_fpr: Tensor
    curve_tpr: Tensor
    num_genuine: int
    num_impostor: int


_DROPPED_BITS = 11  # of a float32's 23-bit fraction: thresholds lie on a grid of relative spacing 2^-12 to 2^-13
_NUM_BINS = (0x7F800000 >> _DROPPED_BITS) + 1  # 0x7F800000 is +inf, the bin of what the protocol hides


def verification(
    blocks: Iterable[Block], labels: Labels, levels: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1)
) -> Verification:
    """ROC, TPR at given false positive rates, and the equal error rate, without holding the pairs.

    Distances must be finite and not negative: then the bit patterns of float32 are ordered as they are, and pairs are
    counted by their leading bits. Thresholds so lie on a grid 0.02 % apart, and the rates at each are exact. Between
    the two thresholds around the crossing the equal error rate is interpolated.
    """
    genuine, impostor = torch.zeros(2, _NUM_BINS, dtype=torch.int64)
    for start, block in _pieces(blocks, labels):
        if block.min() < 0:
            raise ValueError(f"a distance is {block.min().item():g}: expected 0 or more")
        block = labels.hide_cameras(block, start, start + len(block))
        index, same, kept = (x.to(block.device) for x in labels.candidates(start, start + len(block)))
        distance = block.gather(1, index)
        genuine += _histogram(distance[kept])
        impostor += _histogram(block) - _histogram(distance[same])
    genuine[-1] = impostor[-1] = 0
    return _roc(genuine, impostor, torch.tensor(levels, dtype=torch.float64))


def _histogram(distance: Tensor) -> Tensor:
    """Counts (bins,) by the leading bits of the float32 pattern."""
    bits = distance.float().contiguous().view(torch.int32).flatten() & 0x7FFFFFFF  # -0.0 is 0.0
    return torch.bincount(bits >> _DROPPED_BITS, minlength=_NUM_BINS).cpu()


def _roc(genuine: Tensor, impostor: Tensor, levels: Tensor) -> Verification:
    num_genuine, num_impostor = int(genuine.sum()), int(impostor.sum())
    if not num_genuine or not num_impostor:
        raise ValueError(
            f"verification needs pairs of both kinds: found {num_genuine} of the same person and {num_impostor} of two"
        )
    used = ((genuine > 0) | (impostor > 0)).nonzero().flatten()
    upper = ((used + 1 << _DROPPED_BITS) - 1).to(torch.int32).view(torch.float32)  # the largest float of each bin
    thresholds = F.pad(upper.double(), (1, 0))  # (T,), the first below every pair of a distance > 0
    fpr, tpr = (F.pad(counts[used].cumsum(0).double() / counts.sum(), (1, 0)) for counts in (impostor, genuine))

    at = torch.searchsorted(fpr, levels, right=True) - 1  # the last with fpr <= level
    gap = (1 - tpr) - fpr  # falls from 1 to -1
    i = int((gap <= 0).nonzero()[0])
    t = gap[i - 1] / (gap[i - 1] - gap[i])
    eer, eer_threshold = (torch.lerp(x[i - 1], x[i], t).item() for x in (fpr, thresholds))
    return Verification(
        levels, tpr[at], thresholds[at], eer, eer_threshold, thresholds, fpr, tpr, num_genuine, num_impostor
    )


# ---------------------------------------------------------------------------------------------------------------------
# Several processes
# ---------------------------------------------------------------------------------------------------------------------


def shard(count: int, group=None) -> tuple[int, int]:
    """This process's contiguous slice (start, stop) of `count` items; the slices differ by one at most."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    return count * rank // world, count * (rank + 1) // world


def _gather(ranks: Ranks, group) -> Ranks:
    parts: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(parts, ranks, group=group)
    return Ranks(*(torch.cat(field) for field in zip(*parts, strict=True)))


def gather_rows(rows: Tensor, count: int, group=None) -> Tensor:
    """All `count` rows from each process's slice `shard(count, group)` of them: after `extract` on that slice.

    Tensors must be where the backend wants them: on the CPU for gloo, on the GPU for nccl.
    """
    world = dist.get_world_size(group)
    bounds = [count * rank // world for rank in range(world + 1)]
    longest = max(b - a for a, b in zip(bounds, bounds[1:], strict=False))
    padded = rows.new_zeros(longest, *rows.shape[1:])  # all_gather wants equal sizes
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[: b - a] for part, a, b in zip(parts, bounds, bounds[1:], strict=False)])
