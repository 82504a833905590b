"""Protocols: which gallery rows a query may count, and which of them are right.

`Protocol.removes` is the rule, `Labels` the rule applied to the images of a test. Metrics, the search of re-ranking
parameters, the check of the queries, the data-set doctor and the pages of ranked queries all ask here.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from machine import ranges

INF = float("inf")
INT64_MAX = np.iinfo(np.int64).max
JUNK_PID = -1  # of images too poor to be called right or wrong: no query sees them


@dataclass(frozen=True)
class Protocol:
    """same_camera: gallery images of the query's pid *and* camid are removed. cameras: (query camid, gallery camid)
    pairs; that whole gallery camera is removed for queries from that camera. cmc: what CMC counts, see FIRST_RANK of
    `evaluate`. Whatever the protocol, a gallery image that is the query image itself is removed where images are
    identified. words: what is removed, after "gallery images taken away". clothes: of the query's person only images in
    "changed" or in the "same" clothes are right, the others are removed too; "": clothes play no part.
    period: cameras whose numbers differ by a multiple of it are one camera, which takes images in two lights; 0: each
    number is a camera of its own."""

    same_camera: bool
    cameras: tuple[tuple[int, int], ...]
    cmc: str
    words: str
    clothes: str = ""
    period: int = 0

    def removes(self, query_camid, camid, same_pid, same_image, same_clothes=False):
        """Whether a gallery image is taken away from what a query sees; tensors, which are broadcast, or plain values.

        query_camid, camid: cameras of the query and of the image. same_pid, same_image: bool or tensors of bool,
        whether the image shows the query's identity, and whether it is the query image itself. same_clothes: likewise,
        whether both wear clothes of one number; read only where the protocol asks for it and the identity is the same.
        """
        rules = [same_image]
        if self.clothes:
            rules.append(same_pid & (same_clothes == (self.clothes == "changed")))
        if self.same_camera:
            apart = query_camid - camid
            rules.append(((apart % self.period if self.period else apart) == 0) & same_pid)
        rules += [(query_camid == asking) & (camid == hidden) for asking, hidden in self.cameras]
        return functools.reduce(operator.or_, rules)


PROTOCOLS = {
    # Zheng et al., ICCV 2015; torchreid metrics/rank.py at f8cd150, eval_market1501
    "market1501": Protocol(True, (), "images", "of the query's person in its camera"),
    # Single gallery shot: CMC over galleries of one drawn image per identity. AP and mINP are of the full gallery,
    # as in torchreid metrics/rank.py at f8cd150, eval_cuhk03; its first release (eval_metrics.py at af328ff) took the
    # AP of the drawn galleries, which `Ranks.first` gives. Both draw anew for each query; unless that is asked for, the
    # queries share the draws here (a gallery is drawn, then searched), which has the same expectation.
    "cuhk03": Protocol(True, (), "draws", "of the query's person in its camera"),
    # SYSU-MM01 (Wu et al., ICCV 2017): CMC counts each identity once, AP and mINP count images;
    # mangye16/Cross-Modal-Re-ID-baseline eval_metrics.py at a903f42, eval_sysu
    "sysu": Protocol(False, ((3, 2),), "identities", "of camera 2, for queries of camera 3"),
    # LLCM (Zhang and Wang, CVPR 2023): as sysu, without the query's person in its camera, in whatever light;
    # ZYK100/LLCM AGW/eval_metrics.py at 886e27c, eval_llcm. Infrared cameras are ten further here
    "llcm": Protocol(True, (), "identities", "of the query's person in its camera, in either light", period=10),
    "none": Protocol(False, (), "images", "that are the query itself"),
    # Qian et al., ACCV 2020 (LTCC); guxinqian/Simple-CCReID tools/eval_metrics.py at f773d01, evaluate_with_clothes,
    # mode CC and SC
    "changed_clothes": Protocol(
        True, (), "images", "of the query's person in its camera, or in its clothes", clothes="changed"
    ),
    "same_clothes": Protocol(
        True, (), "images", "of the query's person in its camera, or in other clothes", clothes="same"
    ),
}


def those_for(samples: Iterable) -> list[str]:
    """The protocols that `samples` can be measured by: those about clothes where every sample says what is worn."""
    told = all(sample.clothes is not None for sample in samples)
    return [name for name, protocol in PROTOCOLS.items() if told or not protocol.clothes]


AP_RULES = ("hits", "trapezoid")  # see `Labels`
NUM_DRAWS = 10  # num_repeats in torchreid's eval_cuhk03; 100 in its first release
CHUNK = 256  # queries whose candidates are looked at together


class Labels:
    """Identities and cameras of both sides under a protocol.

    query_pids, query_camids (Q,), gallery_pids, gallery_camids (G,): integers as lists, arrays or tensors. Gallery
        images of pid -1 (`JUNK_PID`) are taken out as if they had not been given: `columns` holds the rows that
        remain, None where that is all of them, and every G of this class counts those. A query of pid -1 so has no
        match.
    query_items (Q,), gallery_items (G,): what identifies an image, e.g. its path. Where both are given, the query image
        itself is removed from what it sees, which protocol "none" needs when queries are part of the gallery; errors
        name images by them.
    seed: of the draws of protocol "cuhk03", see `with_draws`. They depend on the order of the images, not on blocks or
        processes.
    ap, which `measured` sets: an average precision is the mean over hits of the precision at the hit ("hits"), or of
        that and the one at the image before it ("trapezoid").
    """

    @ranges.checked
    def __init__(
        self,
        query_pids,
        gallery_pids,
        query_camids,
        gallery_camids,
        protocol: str = "market1501",
        *,
        query_items: Sequence | None = None,
        gallery_items: Sequence | None = None,
        seed: ranges.Seed = 0,
    ):
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol '{protocol}' is unknown: expected one of {', '.join(PROTOCOLS)} (--protocol)")
        self.name, self.protocol, self.seed, self.ap = protocol, PROTOCOLS[protocol], seed, "hits"
        self.num_draws, self.draws_per_query = NUM_DRAWS, False
        self.query_pids, self.query_camids = pair_of_labels(query_pids, query_camids, "query")
        self.gallery_pids, self.gallery_camids = pair_of_labels(gallery_pids, gallery_camids, "gallery")
        self.query_items, self.gallery_items = query_items, gallery_items  # as given
        self.num_given = len(self.gallery_pids)
        self.clothes: tuple[Tensor, Tensor] | None = None  # see `wearing`
        self.columns: Tensor | None = None
        if (self.gallery_pids == JUNK_PID).any():
            self.columns = (self.gallery_pids != JUNK_PID).nonzero().flatten()
            self.gallery_pids, self.gallery_camids = self.gallery_pids[self.columns], self.gallery_camids[self.columns]
            if not len(self.columns):
                raise ValueError(
                    f"all {self.num_given:,} gallery images have pid {JUNK_PID}, which is junk: none is left"
                )
        self.query_codes, self.gallery_codes = self._item_codes()
        self._index()

    def measured(self, ap: str) -> Labels:
        """These labels with the average precision `ap`."""
        if ap not in AP_RULES:
            raise ValueError(f"the average precision '{ap}' is unknown: expected {' or '.join(AP_RULES)} (--ap)")
        self.ap = ap
        return self

    @classmethod
    def of(cls, query: Sequence, gallery: Sequence, protocol: str = "market1501") -> Labels:
        """Labels of samples, which have `pid`, `camid` and `path`; the path says which image is which."""
        for samples, subset in ((query, "query"), (gallery, "gallery")):
            if not samples:
                raise ValueError(f"the {subset} set is empty: there is nothing to measure")
        (pids, camids, paths), (of_pids, of_camids, of_paths) = (
            [[getattr(sample, field) for sample in side] for field in ("pid", "camid", "path")]
            for side in (query, gallery)
        )
        labels = cls(pids, of_pids, camids, of_camids, protocol, query_items=paths, gallery_items=of_paths)
        return labels.wearing(clothes_of(query, gallery))

    def wearing(self, clothes: tuple[Sequence, Sequence] | None) -> Labels:
        """These labels with what is worn by the queries (Q,) and by the gallery as given: integers that tell the
        clothes of one person apart, which the protocols about clothes need. None: nobody knows."""
        if clothes is None:
            return self
        query, gallery = (torch.as_tensor(np.asarray(side)).to(torch.int64) for side in clothes)
        if (len(query), len(gallery)) != (len(self.query_pids), self.num_given):
            raise ValueError(
                f"clothes of {len(query)} query and {len(gallery)} gallery images were given for "
                f"{len(self.query_pids)} and {self.num_given}: give one number per image"
            )
        self.clothes = query, self.without_junk(gallery)
        return self

    def _item_codes(self) -> tuple[Tensor | None, Tensor | None]:
        """Images as integers, equal where the image is the same one."""
        if self.query_items is None or self.gallery_items is None:
            return None, None
        code: dict = {}
        query, gallery = (
            torch.tensor([code.setdefault(item, len(code)) for item in items])
            for items in (self.query_items, self.gallery_items)
        )
        if (len(query), len(gallery)) != (self.shape[0], self.num_given):
            raise ValueError(
                f"{len(query)} query and {len(gallery)} gallery items were given for {self.shape[0]} and "
                f"{self.num_given} images: give one per image"
            )
        gallery = self.without_junk(gallery)
        pid = torch.zeros(len(code), dtype=torch.int64)
        pid[gallery] = self.gallery_pids
        wrong = (torch.isin(query, gallery) & (pid[query] != self.query_pids)).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(
                f"image {self.query_items[wrong[0]]} has one pid among the queries and another in the gallery"
            )
        return query, gallery

    def _index(self) -> None:
        """Sort the gallery by identity, so that a query's own identity is a slice of it."""
        self.order = self.gallery_pids.argsort(stable=True)  # (G,)
        pids = self.gallery_pids[self.order]
        self.low = torch.searchsorted(pids, self.query_pids)  # (Q,): the query's identity is order[low:high]
        self.high = torch.searchsorted(pids, self.query_pids, right=True)
        self.drawn: Tensor | None = None
        self.own: Tensor | None = None
        if self.protocol.cmc == "draws":
            _, self.counts = self.gallery_pids.unique(return_counts=True)  # (P,) in the order of self.order
            self.drawn, self.own = self._draw()

    @ranges.checked
    def with_draws(self, number: ranges.Ranks = NUM_DRAWS, per_query: bool = False) -> Labels:
        """These labels with `number` drawn galleries; each query has its own, as torchreid draws, or all share them."""
        other = copy.copy(self)
        other.num_draws, other.draws_per_query = number, per_query
        other._index()
        return other

    def _draw(self) -> tuple[Tensor, Tensor]:
        """`drawn` (R, P): gallery index of the image drawn for each identity; `own` (R, Q) in [0, 1): which of its hits
        stands for the query's own identity, of which the query sees only some images."""
        generator = torch.Generator().manual_seed(self.seed)
        u = torch.rand(self.num_draws, len(self.counts), generator=generator, dtype=torch.float64)
        own = torch.rand(self.num_draws, len(self.query_pids), generator=generator, dtype=torch.float64)
        return self._images(u), own

    def drawn_for(self, query: int) -> Tensor:
        """(R, P): the images drawn for the query of this number, or those that all queries share."""
        if not self.draws_per_query:
            assert self.drawn is not None
            return self.drawn
        u = np.random.default_rng((self.seed, query)).random((self.num_draws, len(self.counts)))
        return self._images(torch.from_numpy(u))

    def _images(self, u: Tensor) -> Tensor:
        """Gallery indices (R, P) for numbers `u` (R, P) in [0, 1)."""
        start = self.counts.cumsum(0) - self.counts
        return self.order[start + (u * self.counts).long()]

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)"""
        return len(self.query_pids), len(self.gallery_pids)

    def without_junk(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Of the `num_given` entries of `tensor` along `dim`, one per gallery image as given, the G that remain."""
        if self.columns is None:
            return tensor
        if tensor.shape[dim] != self.num_given:
            raise ValueError(f"{tensor.shape[dim]} gallery images were given, with labels for {self.num_given}")
        return tensor.index_select(dim, self.columns.to(tensor.device))

    def as_given(self, column: int) -> int:
        """The row among the gallery images as given of the one at `column`."""
        return column if self.columns is None else int(self.columns[column])

    def only(self, columns: Tensor) -> Labels:
        """These labels with only some images of the gallery, by index."""
        part = copy.copy(self)
        part.gallery_pids, part.gallery_camids = self.gallery_pids[columns], self.gallery_camids[columns]
        part.gallery_items, part.columns, part.num_given = None, None, len(columns)
        part.gallery_codes = None if self.gallery_codes is None else self.gallery_codes[columns]
        part.clothes = None if self.clothes is None else (self.clothes[0], self.clothes[1][columns])
        part._index()
        return part

    def judge(self, query: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Gallery images `index` (b, n) for the queries `query` (b,): whether each shows the query's identity, and
        whether the protocol removes it; (b, n) bool each."""
        same = self.gallery_pids[index] == self.query_pids[query, None]
        itself = torch.zeros_like(same)
        if self.gallery_codes is not None and self.query_codes is not None:
            itself = self.gallery_codes[index] == self.query_codes[query, None]
        camids = self.query_camids[query, None], self.gallery_camids[index]
        if self.protocol.clothes and self.clothes is None:
            raise ValueError(nobody_knows_clothes(self.name))
        worn = False if self.clothes is None else self.clothes[0][query, None] == self.clothes[1][index]
        return same, self.protocol.removes(*camids, same, itself, worn)

    def candidates(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gallery images of the identity of each query start:stop: their `index` (b, K); `same` (b, K), False where the
        row is padding; and `kept` (b, K), False also where the protocol removes the image."""
        low, high = self.low[start:stop, None], self.high[start:stop, None]
        position = low + torch.arange(max(int((high - low).max()), 1))  # (b, K)
        same = position < high
        index = self.order[position.clamp_max(len(self.order) - 1)]
        _, removed = self.judge(torch.arange(start, stop), index)
        return index, same, same & ~removed

    def hide_cameras(self, block: Tensor, start: int, stop: int) -> Tensor:
        """The block (b, G) with +inf where the protocol removes a whole gallery camera; the input stays as it is."""
        if not self.protocol.cameras:
            return block
        hidden = self._hidden(self.query_camids[start:stop])
        return block.masked_fill(hidden.to(block.device), INF)

    def _hidden(self, query_camids: Tensor) -> Tensor:
        """(b, G) bool: images of other people that queries of these cameras do not see."""
        return self.protocol.removes(query_camids[:, None], self.gallery_camids, same_pid=False, same_image=False)

    def _count(self) -> tuple[Tensor, Tensor]:
        """(Q,) int64 each: images of the query's identity, and those of them that it sees."""
        count = torch.empty(2, len(self.query_pids), dtype=torch.int64)
        for start in range(0, count.shape[1], CHUNK):
            stop = min(start + CHUNK, count.shape[1])
            _, same, kept = self.candidates(start, stop)
            count[0, start:stop], count[1, start:stop] = same.sum(1), kept.sum(1)
        return count[0], count[1]

    @property
    def num_hits(self) -> Tensor:
        """(Q,) int64: how many right images each query sees."""
        return self._count()[1]

    @property
    def num_removed(self) -> Tensor:
        """(Q,) int64: how many gallery images the protocol takes away from each query."""
        present, seen = self._count()
        if not self.protocol.cameras:
            return present - seen
        cameras, row = self.query_camids.unique(return_inverse=True)
        pids, column = self.gallery_pids.unique(return_inverse=True)
        hidden = torch.stack([torch.bincount(column[gone], minlength=len(pids)) for gone in self._hidden(cameras)])
        own = torch.searchsorted(pids, self.query_pids).clamp_max(len(pids) - 1)
        own_hidden = torch.where(pids[own] == self.query_pids, hidden[row, own], 0)
        return present - seen + hidden.sum(1)[row] - own_hidden

    def need_matches(self) -> None:
        """Raise ValueError, and say why and what to do, if no query has a match that the protocol lets it see."""
        num_query = len(self.query_pids)
        if any(self.candidates(a, min(a + CHUNK, num_query))[2].any() for a in range(0, num_query, CHUNK)):
            return
        present = int((self.high > self.low).sum())
        reasons, advice = [], []
        if present < num_query:
            reasons.append(f"{num_query - present:,} show a pid that is not in the gallery")
            advice.append(
                f"check that query and gallery number people alike (query pids {_few(self.query_pids)}; "
                f"gallery pids {_few(self.gallery_pids)})"
            )
        if present and self.name == "none":
            reasons.append(f"{present:,} are themselves the only image of their pid in the gallery")
            advice.append("add a second image of these people to the gallery")
        elif present and self.protocol.clothes:
            reasons.append(
                f"{present:,} have their pid in the gallery only in images that protocol {self.name} leaves out "
                f"({self.protocol.words})"
            )
            advice.append("check the clothes in the names, or measure whatever is worn with --protocol market1501")
        elif present:
            reasons.append(
                f"{present:,} have their pid in the gallery only in images that protocol {self.name} leaves out "
                f"({self.protocol.words})"
            )
            advice.append(
                "give each image its true camera number, or, if all were taken by one camera, use --protocol none "
                f"(query cameras {_few(self.query_camids)}; gallery cameras {_few(self.gallery_camids)})"
            )
        raise ValueError(
            f"none of the {num_query:,} queries has a match in the gallery ({len(self.gallery_pids):,} images"
            f"{'' if self.columns is None else f', {self.num_given - self.shape[1]:,} of pid {JUNK_PID} left out'}): "
            f"{'; '.join(reasons)}. To do: {'; '.join(advice)}."
        )


def nobody_knows_clothes(protocol: str) -> str:
    """Why images that do not say what is worn cannot be measured by `protocol`."""
    return (
        f"protocol {protocol} tells the clothes of a person apart, and these images do not say what is worn: use it "
        "with a set that does, such as ltcc, prcc or ccvid, or choose another --protocol"
    )


def clothes_of(query: Sequence, gallery: Sequence) -> tuple[list[int], list[int]] | None:
    """The clothes of samples on both sides; None where one does not say what is worn."""
    asking, asked = ([sample.clothes for sample in side] for side in (query, gallery))
    return None if None in asking or None in asked else (asking, asked)


def _few(numbers: Tensor, limit: int = 5) -> str:
    """`1, 2, 3 and 4 more`, sorted, each once."""
    found = numbers.unique().tolist()
    more = f" and {len(found) - limit:,} more" if len(found) > limit else ""
    return ", ".join(map(str, found[:limit])) + more


def pair_of_labels(pids, camids, what: str) -> tuple[Tensor, Tensor]:
    """(N,) int64 each, on the CPU."""
    arrays = [np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x) for x in (pids, camids)]
    wrong = (x.ndim != 1 or x.dtype.kind not in "iu" or (x > INT64_MAX).any() for x in arrays)
    if any(wrong) or len(arrays[0]) != len(arrays[1]):
        found = " and ".join(f"{x.dtype} {x.shape}" for x in arrays)
        raise ValueError(f"{what} pids and camids are {found}: expected one integer of each per image, up to 2^63 - 1")
    if not len(arrays[0]):
        raise ValueError(f"there are no {what} images")
    pids, camids = (torch.from_numpy(x.astype(np.int64)) for x in arrays)
    return pids, camids
