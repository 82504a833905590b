"""How well a model retrieves: features, distances, and the metrics of the re-ID protocols.

Running order is reading order: `extract` features, distances for a block of queries, the ranks of the matches in that
block, and from the ranks AP, CMC and mINP. Nothing here holds the whole (Q, G) matrix unless it is handed in, and
nothing argsorts it: a metric needs the ranks of a query's few matches only, and a rank is a count.

    labels = Labels(query_pids, gallery_pids, query_camids, gallery_camids, "market1501")
    pages, pairs = RankedLists(labels, top_k=10), details.VerificationCounts(labels)
    ranks = rank_features(query, gallery, labels, Comparison("cosine"), [pages, pairs])  # one pass serves all
    summarize(ranks), confidence_intervals(ranks), pages.choose("worst", num=20), pairs.result()

`evaluate_features` and `rank_metrics` are the two short cuts from features and from a distance matrix to `Metrics`.

Ties. Among gallery images at equal distance the wrong ones stand before the right ones: with hits sorted by distance
d_1 <= d_2 <= ... and w(d) = number of wrong gallery images at distance <= d, hit j has rank j + w(d_j). This is the
worst order that a sort could have produced, and it does not depend on the order of the gallery.

Symbols: Q queries, G gallery images, D feature width, b queries in a block, K the largest number of gallery images
that share the identity of one query, H <= K hits of a query, P gallery identities, R draws (protocol "cuhk03").
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

import rerank as reranking
from machine import ranges, threads
from machine.memory import GIB, Budget, FeatureRows
from machine.progress import Progress
from machine.ranges import ALPHA, Neighbours, Seed, Share
from protocols import INF, Labels, pair_of_labels


class Metrics(NamedTuple):
    """Fractions in [0, 1]; the tensors are float64 on the CPU.

    `mAP` is the mean of `ap` (num_valid,): one average precision (by default the mean over hits of the precision at the
    hit, see `Labels`) per query that has a match, in query order. `mINP` is the mean of hits / rank of the last hit
    (AGW: Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", Sec. 4). `cmc` (max_rank,):
    `cmc[k - 1]` is the share of queries whose first hit has rank <= k.
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
    model, loader, *, flip: bool = False, progress: Progress | None = None, memory_gb: float | Budget | None = None
) -> tuple[Tensor, Tensor | None]:
    """Features of every image of `loader`, in its order: embeddings (N, D) and parts (N, S, D) or None, float32, CPU.

    loader: yields (images (B, 3, H, W), views). Its number of images is read before the first batch, from
        `loader.num_images`, `len(loader.dataset)`, or the batches themselves if it is a list.
    flip: mean of the features of each image and of its mirror image, before any normalisation, as fast-reid
        (evaluation/evaluator.py at c9bc3ce). The sum that other code takes has the same direction. What a model does to
        an embedding before it is compared (`models.Model.compared`) is done to that mean.
    progress: told of each image (or tracklet).
    memory_gb: where features would take more (default: half of what is free) they live in a memory-mapped temporary
        file, which is said on stderr.

    The model is put into eval mode and every module gets its own mode back afterwards.
    """
    count, budget = _num_images(loader), Budget.of(memory_gb)
    embeddings, parts = FeatureRows(count, budget, getattr(model, "compared", None)), FeatureRows(count, budget)
    with _eval_mode(model), torch.inference_mode(), progress or nullcontext():
        for images, views in threads.balanced(loader):
            output = model(images, views)
            mirrored = model(images.flip(3), views) if flip else output
            embeddings.add(output.embedding, mirrored.embedding)
            if output.parts is not None:
                parts.add(output.parts, mirrored.parts)
            if progress:
                progress.update(len(output.embedding))
    return embeddings.finish(), parts.finish() if parts.filled else None


def _num_images(loader) -> int:
    if hasattr(loader, "num_images"):
        return loader.num_images
    if hasattr(loader, "dataset"):
        return len(loader.dataset)
    if isinstance(loader, (list, tuple)):
        return sum(len(images) for images, _ in loader)
    raise ValueError(f"{type(loader).__name__} does not say how many images it yields: give it `num_images`")


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


def pool_queries(
    query_pids,
    query_camids,
    features,
    pids,
    camids,
    how: str = "mean",
    memory_gb: float | Budget | None = None,
    metric: str = "euclidean",
) -> Tensor:
    """Multi-query (Zheng et al., ICCV 2015, Sec. 5.2): one feature per query from all its images -> (Q, D).

    `features` (M, D), `pids`, `camids` (M,) are those of Market-1501's `gt_bbox`; a query's images are the ones of its
    pid and camid. how: "mean" or "max", element by element. metric: what the result will be compared by; under
    "cosine" every image counts alike, so features are brought to unit length first.
    """
    if how not in ("mean", "max"):
        raise ValueError(f"pooling '{how}' is unknown: expected mean or max")
    features = _as_features(features, "multi-query")
    check_finite(features, "multi-query")
    wanted = torch.stack(pair_of_labels(query_pids, query_camids, "query"), dim=1)  # (Q, 2)
    given = torch.stack(pair_of_labels(pids, camids, "multi-query"), dim=1)  # (M, 2)
    groups, of_query = torch.cat([given, wanted]).unique(dim=0, return_inverse=True)
    of_image, of_query = (x.to(features.device) for x in (of_query[: len(given)], of_query[len(given) :]))
    missing = (~torch.isin(of_query, of_image)).nonzero().flatten().tolist()
    if missing:
        pid, camid = wanted[missing[0]].tolist()
        raise ValueError(f"{len(missing)} queries have no multi-query image, the first is pid {pid} camid {camid}")
    pooled = features.new_empty(len(of_query), features.shape[1])
    length = _squared_norms(features).sqrt_().clamp_min_(1e-12)[:, None] if metric == "cosine" else None
    column = (2 * len(groups) + len(features) + len(of_query)) * features.element_size()  # bytes
    step = Budget.of(memory_gb).rows(column, features.device)  # columns at a time
    for part, out in zip(features.split(step, dim=1), pooled.split(step, dim=1), strict=True):
        part = part.contiguous() if length is None else part / length  # contiguous: else the index is copied
        index = of_image[:, None].expand_as(part)
        sums = features.new_zeros(len(groups), part.shape[1])
        sums.scatter_reduce_(0, index, part, "mean" if how == "mean" else "amax", include_self=False)
        out.copy_(sums[of_query])
    return pooled


@ranges.checked
def expand_queries(
    query,
    gallery,
    k: Neighbours = 5,
    alpha: Annotated[float, ALPHA] = 3.0,
    memory_gb: float | Budget | None = None,
    group=None,
) -> Tensor:
    """alpha query expansion (Radenovic et al., TPAMI 2019, Sec. 3.3), Chum's AQE at alpha = 0 -> (Q, D), unit length.

    With x of unit length, q' = q + sum over the k nearest gallery images g of max(q.g, 0)^alpha g, normalised. Rank
    by cosine afterwards. The protocol plays no part: the neighbours may come from the query's own camera, as in
    fast-reid (evaluation/query_expansion.py at c9bc3ce, which also expands the gallery: call this on it for that).
    group: processes that all hold the features: each expands its slice of the queries, and all get the whole.
    """
    query, gallery = _same_width(query, gallery)
    check_finite(query, "query")
    check_finite(gallery, "gallery")
    if k > len(gallery):
        raise ValueError(f"k is {k}: expected 1 to the gallery's {len(gallery)} images")
    budget = Budget.of(memory_gb)
    step = budget.rows(4 * k * gallery.shape[1] * gallery.element_size(), gallery.device)
    num_query = len(query)
    first, last = (0, num_query) if group is None else shard(num_query, group)
    query = query[first:last]
    expanded = query.new_empty(query.shape)
    blocks = distance_blocks(query, gallery, "cosine", memory_gb=budget) if len(query) else ()
    for start, stop, block in blocks:
        distance, index = block.topk(k, dim=1, largest=False)  # (b, k)
        weight = (1 - distance).clamp_min(0).pow(alpha)
        for a in range(start, stop, step):
            rows = slice(a - start, min(a + step, stop) - start)
            near = F.normalize(gallery[index[rows]], dim=2).mul_(weight[rows, :, None]).sum(1)  # (b, D)
            expanded[a : a + len(near)] = F.normalize(query[a : a + len(near)], dim=1).add_(near)
    expanded = F.normalize(expanded, dim=1)
    return expanded if group is None else gather_rows(expanded, num_query, group)


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
        self.inverse = self.square.sqrt().clamp_min(1e-12).reciprocal()

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
        peak = f"{self.peak / GIB:.2f}" if self.peak >= GIB / 100 else "below 0.01"
        return (
            f"evaluation of {self.num_query:,} queries against {self.num_gallery:,} gallery images in blocks of "
            f"{self.rows:,}: peak {peak} GiB beyond the features"
        )


BLOCK_BYTES = 10  # on the CPU, of each distance of a block with what is computed from it
MAX_ROWS = 256  # past this the matrix product gains nothing (benchmarks/evaluate.py, table "block size")


def plan_blocks(
    num_query: int, num_gallery: int, memory_gb: float | Budget | None = None, device: torch.device | str = "cpu"
) -> Plan:
    """Block size for a memory budget. memory_gb: GiB beyond the features, default a quarter of what is free and at
    most 0.5 GiB on the CPU, 8 GiB on an accelerator, past which nothing gets faster. One query is the least."""
    on_cpu = torch.device(device).type == "cpu"
    # distances, one copy, masks; on an accelerator also the sorted values, their indices and the sort's own buffers
    per_row = (BLOCK_BYTES if on_cpu else 40) * num_gallery
    rows = min(Budget.of(memory_gb).rows(per_row, device), num_query, MAX_ROWS if on_cpu else 4096)
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


@dataclass(frozen=True)
class Comparison:
    """How features are compared.

    metric, distance, rerank: see `distance_blocks`. budget: working memory. group: a process group
    (`torch.distributed.group.WORLD` under torchrun), whose processes each rank a slice of the queries.
    """

    metric: str = "euclidean"
    distance: Callable | None = None
    rerank: Mapping | None = None
    budget: Budget = Budget()
    group: Any = None


def distance_blocks(
    query,
    gallery,
    metric: str = "euclidean",
    *,
    rerank: Mapping | None = None,
    distance: Callable | None = None,
    memory_gb: float | Budget | None = None,
    group=None,
) -> Iterator[Block]:
    """Distances of successive queries to the whole gallery: (start, stop, (stop - start, G)).

    distance: replaces `metric`; called with (query rows, gallery rows) -> (b, g) on slices of what is given here, which
        may be tensors of any shape, e.g. parts (Q, S, D), or tuples of tensors, e.g. (embeddings, parts).
    rerank: keyword arguments of `rerank.k_reciprocal`; features are L2-normalised first if the metric is "cosine".
        With `distance` it is `rerank.k_reciprocal_from_distances`, of which all (Q + G)^2 distances are held.
    memory_gb: see `plan_blocks`. A block is valid until the next one is asked for.
    group: of a re-ranking: processes that each yield the blocks of their slice of the queries, and hold their part of
        the distances.
    """
    budget = Budget.of(memory_gb)
    if rerank is not None:
        options = {**rerank, "memory_gb": budget, "group": group}
        if distance is None:
            yield from reranking.iter_k_reciprocal(*_normalised(query, gallery, metric), **options)
        else:
            yield from reranking.iter_k_reciprocal_measured(_measured(query, gallery, distance, budget), **options)
        return
    if distance is None:
        query, gallery = _same_width(query, gallery)
        measure: Callable = _Metric(gallery, metric)
    else:
        query, gallery = _tensors(query), _tensors(gallery)
        measure = functools.partial(_measure_in_parts, distance, gallery=gallery, budget=budget)
    num_query, device = len(_first(query)), _first(query).device
    plan = plan_blocks(num_query, len(_first(gallery)), budget, device)
    for start in range(0, num_query, plan.rows):
        stop = min(start + plan.rows, num_query)
        with torch.no_grad():
            block = measure(_rows(query, start, stop))
        yield start, stop, block


def _normalised(query, gallery, metric: str) -> tuple[Tensor, Tensor]:
    """The features that re-ranking compares by squared euclidean distance."""
    query, gallery = _same_width(query, gallery)
    return (F.normalize(query, dim=1), F.normalize(gallery, dim=1)) if metric == "cosine" else (query, gallery)


def _measure_in_parts(distance: Callable, query, gallery, budget: Budget) -> Tensor:
    """`distance` of all pairs (b, G). Under a given budget it sees few enough images at a time that what it allocates
    beside its result keeps to half of that: copies of the gallery rows and, of parts, a plane of pairs for each."""
    if budget.gb is None:
        return distance(query, gallery)
    num_query, num_gallery = len(_first(query)), len(_first(gallery))
    tensors = gallery if isinstance(gallery, tuple) else (gallery,)
    copies = 4 * sum(x[0].numel() * x.element_size() for x in tensors)  # bytes of a gallery image
    planes = 8 * sum(x.shape[1] for x in tensors if x.ndim == 3)  # bytes of a pair of images
    columns = min(num_gallery, max(1, budget.bytes() // (4 * copies)))
    rows = min(num_query, max(1, budget.bytes() // (4 * max(planes, 1) * columns)))
    block = torch.empty(0)
    for a, c in itertools.product(range(0, num_query, rows), range(0, num_gallery, columns)):
        part = distance(_rows(query, a, a + rows), _rows(gallery, c, c + columns))
        if not a and not c:
            block = part.new_empty(num_query, num_gallery)
        block[a : a + rows, c : c + columns] = part
    return block


def _measured(query, gallery, distance: Callable, budget: Budget) -> reranking.Measured:
    """The distances that re-ranking reads: of queries and gallery to each other and among themselves."""
    query, gallery = _tensors(query), _tensors(gallery)
    num_query = len(_first(query))

    def images(start: int, stop: int):
        if start < num_query:
            return _rows(query, start, stop)
        return _rows(gallery, start - num_query, stop - num_query)

    def between(a: tuple[int, int], b: tuple[int, int]) -> Tensor:
        with torch.no_grad():
            return _measure_in_parts(distance, images(*a), images(*b), budget)

    return reranking.Measured(between, num_query, num_query + len(_first(gallery)))


def _tensors(features):
    return tuple(_as_tensor(x) for x in features) if isinstance(features, tuple) else _as_tensor(features)


def _without_junk(gallery, labels: Labels):
    """Gallery features, tensor or tuple of tensors, without the images that no query sees."""
    tensors = _tensors(gallery)
    return tuple(map(labels.without_junk, tensors)) if isinstance(tensors, tuple) else labels.without_junk(tensors)


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


class Piece:
    """Some queries and their distances to the whole gallery, seen from their hits: what collectors are fed.

    distances (b, G): as measured. seen (b, G): +inf where the protocol removes a whole camera. index, same, kept:
    `Labels.candidates` (b, K), whose distances are `own` (b, K).
    """

    def __init__(self, distances: Tensor, start: int, labels: Labels):
        self.labels, self.start, self.stop = labels, start, start + len(distances)
        self.distances, self.seen = distances, labels.hide_cameras(distances, self.start, self.stop)
        candidates = labels.candidates(self.start, self.stop)
        self.index, self.same, self.kept = (x.to(distances.device) for x in candidates)
        self.own = self.seen.gather(1, self.index)
        self.num_hits = self.kept.sum(1)  # (b,)

    @functools.cached_property
    def hits(self) -> Tensor:
        """(b, K): d_1 <= d_2 <= ..., then +inf."""
        return self.own.masked_fill(~self.kept, INF).sort(1).values

    @functools.cached_property
    def wrong(self) -> Tensor:
        """(b, K): w(d_j)."""
        alike = self.own.masked_fill(~self.same, INF).sort(1).values
        # the wrong ones within d_j are all within d_j less those of the query's identity, seen or removed
        alike_within = torch.searchsorted(alike, self.hits, right=True).minimum(self.same.sum(1, keepdim=True))
        return _count_within(self.seen, self.hits, self.num_hits) - alike_within

    @functools.cached_property
    def ranks(self) -> Ranks:
        """`Ranks` of these queries."""
        first = FIRST_RANK[self.labels.protocol.cmc](self)
        valid = self.num_hits > 0
        num_hits, wrong = self.num_hits[valid].cpu(), self.wrong[valid].cpu()  # (n,), (n, K)
        j = torch.arange(1, wrong.shape[1] + 1)
        # precision at hit j = j / rank_j, rank_j = j + w(d_j); AP = 1/H sum_j j / rank_j; INP = H / rank_H
        precision = j.double() / (j + wrong)
        if self.labels.ap == "trapezoid":  # with the precision one image before: (j - 1) / (rank_j - 1), 1 at the start
            before = ((j - 1).double() / (j - 1 + wrong)).nan_to_num(1.0)
            precision = (precision + before) / 2
        precision = precision.masked_fill(j > num_hits[:, None], 0)
        # a sum in order: its last bit must not depend on K, which is a property of the block
        ap = precision.cumsum(1)[:, -1] / num_hits
        last = num_hits[:, None] - 1
        inp = num_hits.double() / (num_hits + wrong.gather(1, last).flatten())
        return Ranks(self.start + valid.nonzero().flatten().cpu(), first[valid].cpu(), ap, inp)


def _first_image(piece: Piece) -> Tensor:
    """Rank of the first hit among images (b, 1)."""
    return 1 + piece.wrong[:, :1]


def _first_identity(piece: Piece) -> Tensor:
    """Rank of the query's identity when each gallery identity stands where its nearest image does (b, 1)."""
    block, device, labels = piece.seen, piece.seen.device, piece.labels
    pids, column = labels.gallery_pids.unique(return_inverse=True)
    column = column.to(device).expand(len(block), -1)
    nearest = block.new_full((len(block), len(pids)), INF).scatter_reduce_(1, column, block, "amin")  # (b, P)
    other = (labels.query_pids[piece.start : piece.stop, None] != pids).to(device)
    return 1 + ((nearest <= piece.hits[:, :1]) & other).sum(1, keepdim=True)


def _first_draw(piece: Piece) -> Tensor:
    """Rank of one of the query's hits in each drawn gallery of one image per identity (b, R)."""
    block, device, labels, rows = piece.seen, piece.seen.device, piece.labels, slice(piece.start, piece.stop)
    assert labels.drawn is not None and labels.own is not None  # this protocol draws
    pick = (labels.own[:, rows].to(device) * piece.num_hits).long()  # (R, b): which hit, counted by distance
    right = piece.hits.gather(1, pick.T)  # (b, R)
    other = (labels.query_pids[rows, None] != labels.gallery_pids[labels.drawn[0]]).to(device)  # (b, P)
    if labels.draws_per_query:
        drawn = (labels.drawn_for(query).to(device) for query in range(piece.start, piece.stop))
        return torch.stack(
            [1 + ((block[i, images] <= right[i, :, None]) & other[i]).sum(1) for i, images in enumerate(drawn)]
        )
    return torch.stack(
        [
            1 + ((block[:, images] <= right[:, r, None]) & other).sum(1)
            for r, images in enumerate(labels.drawn.to(device))
        ],
        dim=1,
    )


FIRST_RANK = {"images": _first_image, "identities": _first_identity, "draws": _first_draw}


class Collector:
    """Something to be known of a test, gathered piece by piece in one pass over the distances.

    `found` is a list to which `add` may append; those of several processes, or of several galleries, are concatenated.
    `pair_bytes`: what `add` allocates for each distance of a piece, on the CPU.
    """

    pair_bytes = 6

    def __init__(self, labels: Labels):
        self.labels = labels
        self.found: list = []

    def add(self, piece: Piece) -> None:
        """Take what is needed of these queries."""
        raise NotImplementedError


class RankCollector(Collector):
    """`Ranks` of all queries."""

    def add(self, piece: Piece) -> None:
        """Take the ranks of the piece."""
        self.found.append(piece.ranks)

    def result(self) -> Ranks:
        """`Ranks` of the queries that have a match."""
        width = self.labels.num_draws if self.labels.protocol.cmc == "draws" else 1
        empty = Ranks(torch.empty(0).long(), torch.empty(0, width).long(), *torch.empty(2, 0, dtype=torch.float64))
        return Ranks(*(torch.cat(field) for field in zip(empty, *self.found, strict=True)))


def collect(blocks: Iterable[Block], collectors: Sequence[Collector], memory_gb: float | Budget | None = None) -> None:
    """Feed the distances, in pieces that fit in memory together with what is computed from them, to the collectors.

    blocks: of the whole gallery as given, or of what `Labels.without_junk` leaves of it.
    """
    labels, budget = collectors[0].labels, Budget.of(memory_gb)
    cost = max(collector.pair_bytes for collector in collectors) + (8 if labels.protocol.cameras else 0)
    for start, _, block in blocks:
        if block.ndim == 2 and block.shape[1] == labels.num_given:
            block = labels.without_junk(block, dim=1)
        if block.ndim != 2 or block.shape[1] != labels.shape[1]:
            raise ValueError(f"distances have shape {tuple(block.shape)}, the gallery has {labels.num_given} images")
        rows = plan_blocks(len(block), block.shape[1], budget, block.device).rows
        if block.device.type == "cpu":  # 4 of BLOCK_BYTES are the block itself
            rows = max(1, rows * min(cost, BLOCK_BYTES - 4) // cost)
        for a, piece in zip(range(start, start + len(block), rows), block.split(rows), strict=True):
            piece = piece if piece.dtype in (torch.float32, torch.float64) else piece.float()
            if torch.isnan(piece.sum()) and torch.isnan(piece).any():  # the sum alone is NaN for inf - inf as well
                row, column = torch.isnan(piece).nonzero()[0].tolist()
                raise ValueError(f"the distance of query {a + row} to gallery image {labels.as_given(column)} is NaN")
            seen = Piece(piece, a, labels)
            for collector in collectors:
                collector.add(seen)


def rank_blocks(blocks: Iterable[Block], labels: Labels, memory_gb: float | Budget | None = None) -> Ranks:
    """`Ranks` from an iterator of (start, stop, distances (stop - start, G))."""
    ranks = RankCollector(labels)
    collect(blocks, [ranks], memory_gb)
    return ranks.result()


@ranges.checked
def summarize(ranks: Ranks, max_rank: ranges.Ranks = 50) -> Metrics:
    """Means over the queries that have a match. CMC stays flat past the size of the gallery."""
    found = torch.bincount(ranks.first.flatten().clamp_max(max_rank + 1), minlength=max_rank + 2)
    cmc = found[1:-1].cumsum(0).double() / ranks.first.numel()
    return Metrics(ranks.ap.mean().item(), ranks.inp.mean().item(), cmc, ranks.ap, len(ranks.query))


@ranges.checked
def rank_metrics(
    distmat,
    query_pids,
    gallery_pids,
    query_camids,
    gallery_camids,
    max_rank: ranges.Ranks = 50,
    protocol: str = "market1501",
    *,
    query_items: Sequence | None = None,
    gallery_items: Sequence | None = None,
    clothes: tuple[Sequence, Sequence] | None = None,
    seed: Seed = 0,
    ap: str = "hits",
) -> Metrics:
    """`Metrics` from a distance matrix (Q, G), tensor or numpy, on any device; it is not changed.

    Labels, items, clothes, seed, ap: see `Labels`. Queries without a match are skipped; `num_valid` counts the others.
    Raises ValueError if no query has a match, a distance is NaN, or shapes disagree.
    """
    labels = (
        Labels(
            query_pids,
            gallery_pids,
            query_camids,
            gallery_camids,
            protocol,
            query_items=query_items,
            gallery_items=gallery_items,
            seed=seed,
        )
        .measured(ap)
        .wearing(clothes)
    )
    distmat = _as_tensor(distmat)
    expected = (labels.shape[0], labels.num_given)
    if tuple(distmat.shape) != expected:
        raise ValueError(f"the distance matrix is {tuple(distmat.shape)}, the labels are for {expected}")
    labels.need_matches()
    return summarize(rank_blocks([(0, len(distmat), distmat)], labels), max_rank)


def _moved(blocks: Iterable[Block], first: int, progress: Progress) -> Iterator[Block]:
    """Blocks of queries that are the rows from `first` on of a larger set."""
    for start, stop, block in blocks:
        yield first + start, first + stop, block
        progress.update(stop - start)


def rank_features(
    query,
    gallery,
    labels: Labels,
    how: Comparison | None = None,
    others: Sequence[Collector] = (),
    *,
    verbose: bool = False,
) -> Ranks:
    """`Ranks` from features, block by block; `others` are fed from the same pass. verbose: see `evaluate_features`."""
    how = how or Comparison()
    labels.need_matches()
    for features, what, items in ((query, "query", labels.query_items), (gallery, "gallery", labels.gallery_items)):
        for part in features if isinstance(features, tuple) else (features,):
            check_finite(part, what, items)
    gallery = _without_junk(gallery, labels)  # re-ranking does not see it either
    first, last = (0, labels.shape[0]) if how.group is None else shard(labels.shape[0], how.group)
    together = how.group if how.rerank is not None else None  # all have to be there, with all queries
    if verbose and how.rerank is None and (how.group is None or dist.get_rank(how.group) == 0):
        print(plan_blocks(last - first, labels.shape[1], how.budget, _as_tensor(_first(query)).device))
    ranks = RankCollector(labels)
    collectors = [ranks, *others]
    if first < last or together is not None:
        mine = query if together is not None else _rows(query, first, last)
        options: dict = {"rerank": how.rerank, "distance": how.distance, "memory_gb": how.budget, "group": together}
        blocks = distance_blocks(mine, gallery, how.metric, **options)
        with Progress(last - first, "ranking", "queries", shown=verbose) as progress:
            collect(_moved(blocks, 0 if together is not None else first, progress), collectors, how.budget)
    if how.group is not None:
        _gather(collectors, how.group)
    return ranks.result()


@ranges.checked
def evaluate_features(
    query,
    gallery,
    query_pids,
    gallery_pids,
    query_camids,
    gallery_camids,
    metric: str = "euclidean",
    protocol: str = "market1501",
    max_rank: ranges.Ranks = 50,
    rerank: dict | None = None,
    *,
    distance: Callable | None = None,
    query_items: Sequence | None = None,
    gallery_items: Sequence | None = None,
    clothes: tuple[Sequence, Sequence] | None = None,
    seed: Seed = 0,
    ap: str = "hits",
    memory_gb: float | Budget | None = None,
    group=None,
    verbose: bool = False,
) -> Metrics:
    """`Metrics` from features `query` (Q, D), `gallery` (G, D): those of `rank_metrics(pairwise_distance(...), ...)`
    without ever holding (Q, G).

    Tensors on one device, or numpy arrays (memory-mapped ones are read through, not loaded). clothes, seed, ap: see
    `Labels`.
    rerank, distance: see `distance_blocks`; with `distance` the features may be tuples of tensors.
    memory_gb: GiB beyond the features, see `plan_blocks`; for re-ranking see `rerank.k_reciprocal`.
    group: a process group (`torch.distributed.group.WORLD` under torchrun). Each process, holding all features, ranks
        its slice of the queries, and all get the result.
    verbose: print the block size and the peak memory before the work starts (re-ranking has its own figure).
    Raises ValueError if no query has a match, or for NaN or infinite features, which are named (by items if given).
    """
    labels = (
        Labels(
            query_pids,
            gallery_pids,
            query_camids,
            gallery_camids,
            protocol,
            query_items=query_items,
            gallery_items=gallery_items,
            seed=seed,
        )
        .measured(ap)
        .wearing(clothes)
    )
    found, expected = (len(_first(query)), len(_first(gallery))), (labels.shape[0], labels.num_given)
    if found != expected:
        raise ValueError(
            f"{found[0]} query and {found[1]} gallery features were given, with labels for "
            f"{expected[0]} and {expected[1]}"
        )
    how = Comparison(metric, distance, rerank, Budget.of(memory_gb), group)
    return summarize(rank_features(query, gallery, labels, how, verbose=verbose), max_rank)


# ---------------------------------------------------------------------------------------------------------------------
# Beside the metrics
# ---------------------------------------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """One row of a search for re-ranking parameters; fractions in [0, 1]."""

    k1: int
    k2: int
    lambda_value: float
    mAP: float
    rank1: float


def search(query, gallery, labels: Labels, grid: reranking.Grid, how: Comparison | None = None) -> list[Trial]:
    """mAP and rank-1 after re-ranking for every combination of `grid`: the numbers that `evaluate_features` gives with
    these parameters, at a fraction of the time, because what the combinations share is made once.

    how: metric or distance of the features, the memory, and the processes that share the work: all get the table. A
    value that `grid` has twice is tried once. Choosing by this table on a test set is not a fair result.
    """
    how = how or Comparison()
    labels.need_matches()
    gallery = _without_junk(gallery, labels)
    grid = reranking.Grid(*(list(dict.fromkeys(each)) for each in grid))  # type: ignore[arg-type]
    options: dict = {"memory_gb": how.budget, "group": how.group}
    if how.distance is None:
        steps = reranking.iter_search(*_normalised(query, gallery, how.metric), grid, **options)
    else:
        steps = reranking.iter_search_measured(_measured(query, gallery, how.distance, how.budget), grid, **options)
    ranks: dict[tuple, RankCollector] = {each: RankCollector(labels) for each in itertools.product(*grid)}
    for parameters, start, stop, block in steps:
        collect([(start, stop, block)], [ranks[parameters]], how.budget)
    trials = []
    for parameters in list(ranks):
        collector = ranks.pop(parameters)
        if how.group is not None:
            _gather([collector], how.group)
        found = summarize(collector.result(), max_rank=1)
        trials.append(Trial(*parameters, found.mAP, found.cmc[0].item()))
    return trials


QUERIES_TO_TELL = 30  # fewer, drawn again and again, do not tell how far another draw would move their mean


@ranges.checked
def confidence_intervals(
    ranks: Ranks, level: Share = 0.95, num_samples: ranges.Ranks = 2000, seed: Seed = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over queries (Efron & Tibshirani 1993, Ch. 13) of "rank1", "mAP" and "mINP": (low, high).

    It says how far another draw of as many queries could move the number, gallery and model held fixed. Both ends are
    NaN of fewer than QUERIES_TO_TELL queries with a match. num_samples: a multiple of 50.
    """
    if len(ranks.ap) < QUERIES_TO_TELL:
        return dict.fromkeys(("rank1", "mAP", "mINP"), (float("nan"), float("nan")))
    if num_samples % 50:
        raise ValueError(f"num_samples is {num_samples}: expected a multiple of 50")
    values = torch.stack([(ranks.first == 1).double().mean(1), ranks.ap, ranks.inp], dim=1)  # (n, 3)
    generator = torch.Generator().manual_seed(seed)
    means = torch.cat(
        [
            values[torch.randint(len(values), (size, len(values)), generator=generator)].mean(1)
            for size in [50] * (num_samples // 50)
        ]
    )  # (num_samples, 3)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = means.quantile(tails, dim=0).tolist()
    return dict(zip(("rank1", "mAP", "mINP"), zip(low, high, strict=True), strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Several processes
# ---------------------------------------------------------------------------------------------------------------------


def shard(count: int, group=None) -> tuple[int, int]:
    """This process's contiguous slice (start, stop) of `count` items; the slices differ by one at most."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    return count * rank // world, count * (rank + 1) // world


def _gather(collectors: Sequence[Collector], group) -> None:
    """Every process gets what all have found, in the order of the queries."""
    parts: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(parts, [collector.found for collector in collectors], group=group)
    for collector, found in zip(collectors, zip(*parts, strict=True), strict=True):
        collector.found = list(itertools.chain(*found))


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
