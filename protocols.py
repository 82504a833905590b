"""Protocols: which gallery rows a query may count, and which of them are right."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

INF = float("inf")


@dataclass(frozen=True)
class Protocol:
    """same_camera: gallery images of the query's pid *and* camid are removed. cameras: (query camid, gallery camid)
    pairs; that whole gallery camera is removed for queries from that camera. cmc: what CMC counts, see FIRST_RANK.
    Whatever the protocol, a gallery image that is the query image itself is removed where images are identified."""

    same_camera: bool
    cameras: tuple[tuple[int, int], ...]
    cmc: str


PROTOCOLS = {
    # Zheng et al., ICCV 2015; torchreid metrics/rank.py at f8cd150, eval_market1501
    "market1501": Protocol(same_camera=True, cameras=(), cmc="images"),
    # Single gallery shot: CMC over galleries of one drawn image per identity. AP and mINP are of the full gallery,
    # as in torchreid metrics/rank.py at f8cd150, eval_cuhk03, which draws anew for each query; here the queries share
    # the draws (a gallery is drawn, then searched), which has the same expectation.
    "cuhk03": Protocol(same_camera=True, cameras=(), cmc="draws"),
    # SYSU-MM01 (Wu et al., ICCV 2017): CMC counts each identity once, AP and mINP count images;
    # mangye16/Cross-Modal-Re-ID-baseline eval_metrics.py at a903f42, eval_sysu
    "sysu": Protocol(same_camera=False, cameras=((3, 2),), cmc="identities"),
    "none": Protocol(same_camera=False, cameras=(), cmc="images"),
}


NUM_DRAWS = 10  # num_repeats in torchreid's eval_cuhk03


class Labels:
    """Identities and cameras of both sides under a protocol.

    query_pids, query_camids (Q,), gallery_pids, gallery_camids (G,): integers as lists, arrays or tensors.
    query_items (Q,), gallery_items (G,): what identifies an image, e.g. its path. Where both are given, the query image
        itself is removed from what it sees, which protocol "none" needs when queries are part of the gallery; errors
        name images by them.
    seed: of the draws of protocol "cuhk03". They depend on the order of the images, not on blocks or processes.
    """

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
        seed: int = 0,
    ):
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol '{protocol}' is unknown: expected one of {', '.join(PROTOCOLS)}")
        self.name, self.protocol, self.seed = protocol, PROTOCOLS[protocol], seed
        self.query_pids, self.query_camids = pair_of_labels(query_pids, query_camids, "query")
        self.gallery_pids, self.gallery_camids = pair_of_labels(gallery_pids, gallery_camids, "gallery")
        self.query_items, self.gallery_items = query_items, gallery_items
        self.query_codes, self.gallery_codes = self._item_codes()
        self._index()

    def _item_codes(self) -> tuple[Tensor | None, Tensor | None]:
        """Images as integers, equal where the image is the same one."""
        if self.query_items is None or self.gallery_items is None:
            return None, None
        code: dict = {}
        query, gallery = (
            torch.tensor([code.setdefault(item, len(code)) for item in items])
            for items in (self.query_items, self.gallery_items)
        )
        if (len(query), len(gallery)) != self.shape:
            raise ValueError(
                f"{len(query)} query and {len(gallery)} gallery items were given for {self.shape[0]} and "
                f"{self.shape[1]} images: give one per image"
            )
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
        self.drawn, self.own = self._draw() if self.protocol.cmc == "draws" else (None, None)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """`drawn` (R, P): gallery index of the image drawn for each identity; `own` (R, Q) in [0, 1): which of its hits
        stands for the query's own identity, of which the query sees only some images."""
        generator = torch.Generator().manual_seed(self.seed)
        _, counts = self.gallery_pids.unique(return_counts=True)  # (P,) in the order of self.order
        start = counts.cumsum(0) - counts
        u = torch.rand(NUM_DRAWS, len(counts), generator=generator, dtype=torch.float64)
        own = torch.rand(NUM_DRAWS, len(self.query_pids), generator=generator, dtype=torch.float64)
        return self.order[start + (u * counts).long()], own

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)"""
        return len(self.query_pids), len(self.gallery_pids)

    def only(self, columns: Tensor) -> Labels:
        """These labels with only some images of the gallery, by index."""
        part = copy.copy(self)
        part.gallery_pids, part.gallery_camids = self.gallery_pids[columns], self.gallery_camids[columns]
        part.gallery_items = None
        part.gallery_codes = None if self.gallery_codes is None else self.gallery_codes[columns]
        part._index()
        return part

    def candidates(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gallery images of the identity of each query start:stop: their `index` (b, K); `same` (b, K), False where the
        row is padding; and `kept` (b, K), False also where the protocol removes the image."""
        low, high = self.low[start:stop, None], self.high[start:stop, None]
        position = low + torch.arange(max(int((high - low).max()), 1))  # (b, K)
        same = position < high
        index = self.order[position.clamp_max(len(self.order) - 1)]
        camera, query_camera = self.gallery_camids[index], self.query_camids[start:stop, None]
        kept = same.clone()
        if self.protocol.same_camera:
            kept &= camera != query_camera
        for from_camera, removed in self.protocol.cameras:
            kept &= (query_camera != from_camera) | (camera != removed)
        if self.gallery_codes is not None:
            kept &= self.gallery_codes[index] != self.query_codes[start:stop, None]
        return index, same, kept

    def hide_cameras(self, block: Tensor, start: int, stop: int) -> Tensor:
        """The block (b, G) with +inf where the protocol removes a whole gallery camera; the input stays as it is."""
        for from_camera, removed in self.protocol.cameras:
            hidden = (self.query_camids[start:stop, None] == from_camera) & (self.gallery_camids == removed)
            block = block.masked_fill(hidden.to(block.device), INF)
        return block

    def need_matches(self) -> None:
        """Raise ValueError, and say why, if no query has a match that the protocol lets it see."""
        num_query, step = len(self.query_pids), 256
        if any(self.candidates(a, min(a + step, num_query))[2].any() for a in range(0, num_query, step)):
            return
        present = int((self.high > self.low).sum())
        if not present:
            raise ValueError(
                f"none of the {num_query} queries has its identity in the gallery: query and gallery must "
                "show the same people with the same pids"
            )
        raise ValueError(
            f"{present} of {num_query} queries have their identity in the gallery, but protocol "
            f"'{self.name}' removes every such image (same camera or same image): give the true camera "
            "ids, or use protocol 'none' if there is one camera"
        )


def pair_of_labels(pids, camids, what: str) -> tuple[Tensor, Tensor]:
    """(N,) int64 each, on the CPU."""
    arrays = [np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x) for x in (pids, camids)]
    if any(x.ndim != 1 or x.dtype.kind not in "iu" for x in arrays) or len(arrays[0]) != len(arrays[1]):
        found = " and ".join(f"{x.dtype} {x.shape}" for x in arrays)
        raise ValueError(f"{what} pids and camids are {found}: expected one integer of each per image")
    if not len(arrays[0]):
        raise ValueError(f"there are no {what} images")
    pids, camids = (torch.from_numpy(x.astype(np.int64)) for x in arrays)
    return pids, camids
