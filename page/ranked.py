"""Writes the page of ranked queries: ``index.html`` with all that it shows but the thumbnails beside it.

It is handed finished rankings, metrics and words, and judges nothing. What the page does with them is in ``ranked.js``.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

import visualize
from machine import files
from page import template, thumbnails

MARKS = {"right": "r", "wrong": "w", "junk": "j", None: "-"}
NUMBERS = (("rank1", "rank-1"), ("mAP", "mAP"), ("mINP", "mINP"))


class Measured(NamedTuple):
    """What stands at the head of a page of one ranking."""

    metrics: Mapping[str, Any] = {}  # as in metrics.json: rank1, mAP, mINP with their ``_interval``s, cmc
    published: Sequence[Mapping[str, Any]] = ()  # rank1, mAP in percent and source, of the very same run
    beside: str = ""  # what else is published, or why nothing
    facts: Mapping[str, str] = {}  # name -> words: weights, recipe, data, protocol, options
    verification: Mapping[str, Any] = {}  # eer, eer_threshold
    histogram: Mapping[str, Sequence[float]] = {}  # `details.VerificationCounts.histogram`
    camera_pairs: Mapping[str, Any] = {}  # query_cameras, gallery_cameras, mAP


class Inside(NamedTuple):
    """What is known of how the network sees the images of a ranking; all may be empty."""

    maps: Mapping[Any, np.ndarray] = {}  # path of an image -> its energy (h, w) in [0, 1]
    map_name: str = ""  # which feature map that is
    stripes: Sequence[int] = ()  # into how many stripes the map is cut, for each way of cutting
    alignments: Mapping[tuple[int, int], str] = {}  # (query row, gallery row) -> `details.alignment`
    soft: bool = False  # its parts have no borders


@dataclass(frozen=True)
class View:
    """A ranking of all queries of a page: as compared, re-ranked, or by other weights."""

    name: str
    rankings: Sequence[Any]  # `details.Ranking`, one of each query, in the order of the queries
    unit: str = "distance"  # what its distances are
    measured: Measured = Measured()
    inside: Inside = Inside()


@dataclass(frozen=True)
class Page:
    """A page of the rankings of the same queries in the same gallery."""

    title: str
    views: Sequence[View]  # the first is shown first; what got better or worse is said against the others
    note: str = ""  # which queries these are and how they were compared
    labelled: bool = True  # False: nothing is known of identities
    infrared: frozenset[int] = frozenset()  # cameras that see infrared light
    distractors: frozenset[int] = frozenset()  # identities in the gallery that are nobody's who is looked for
    log: Sequence[Mapping[str, Any]] = ()  # lines of log.jsonl
    pictures: Mapping[str, visualize.ImageFile] = field(default_factory=dict)  # title -> file, shown
    links: Mapping[str, visualize.ImageFile] = field(default_factory=dict)  # title -> file or folder, named
    start: Mapping[str, str] = field(default_factory=dict)  # state of the page as it opens: sort, rank1


def write(folder: visualize.ImageFile, page: Page, query: Sequence[Any], gallery: Sequence[Any]) -> Path:
    """``index.html`` in `folder`, and ``thumbs/``; returns the page. Then what an earlier one had beside it is removed.

    query, gallery: samples with `path` (or a tuple of frame paths), `pid`, `camid`. FileNotFoundError or ValueError
    that name an image that cannot be read.
    """
    folder = Path(folder)
    shown = sorted({row for view in page.views for ranking in view.rankings for row in ranking.index})
    samples = [*query, *(gallery[row] for row in shown)]
    place = {row: len(query) + i for i, row in enumerate(shown)}  # of a gallery image among the samples
    found = thumbnails.write([sample.path for sample in samples], folder / "thumbs")
    maps = {id(view.inside.maps): view.inside.maps for view in page.views}  # views of one network share them
    data = {
        "title": files.printable(page.title),
        "note": files.printable(page.note),
        "labelled": page.labelled,
        "queries": len(query),
        "images": _images(samples, found),
        "infrared": sorted(page.infrared),
        "distractors": sorted(page.distractors & {sample.pid for sample in samples}),
        "maps": [_maps(each, samples) for each in maps.values()],
        "views": [_view(view, place) | {"maps": [*maps].index(id(view.inside.maps))} for view in page.views],
        "log": list(page.log),
        "pictures": _relative(page.pictures, folder),
        "links": _relative(page.links, folder),
        "start": dict(page.start),
        "heat": [f"rgb({r},{g},{b})" for r, g, b in visualize.HEAT],
    }
    out = folder / "index.html"
    files.write_text(out, template.filled("ranked", page.title, data))
    thumbnails.remove_others(folder / "thumbs", found)
    return out


def _images(samples: Sequence[Any], found: Sequence[thumbnails.Thumbnail]) -> dict[str, list]:
    return {
        "name": _names([Path(visualize.one_path(sample.path)) for sample in samples]),
        "pid": [int(sample.pid) for sample in samples],
        "cam": [int(sample.camid) for sample in samples],
        "file": [thumbnail.file.removesuffix(".jpg") for thumbnail in found],
        "width": [thumbnail.width for thumbnail in found],
        "height": [thumbnail.height for thumbnail in found],
        "frames": [thumbnail.frames for thumbnail in found],
        "length": [len(sample.path) if isinstance(sample.path, tuple) else 1 for sample in samples],
    }


def _names(paths: Sequence[Path]) -> list[str]:
    """The ends of these paths, of as many parts as tell them from each other, four at most."""
    names: list[str] = []
    for parts in range(1, 5):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return [files.printable(name) for name in names]


def _maps(maps: Mapping[Any, np.ndarray], samples: Sequence[Any]) -> dict[str, Any]:
    """Size of the activation maps, and number of an image -> its own, a byte each position."""
    found = {str(i): maps[sample.path] for i, sample in enumerate(samples) if sample.path in maps}
    shapes = {each.shape for each in found.values()}
    return (
        {"size": shapes.pop(), "of": {i: _packed(each) for i, each in found.items()}}
        if len(shapes) == 1
        else {"of": {}}
    )


def _view(view: View, place: Mapping[int, int]) -> dict[str, Any]:
    metrics, inside = view.measured.metrics, view.inside
    numbers = [
        {"key": key, "name": name, "value": metrics[key], "interval": metrics.get(f"{key}_interval")}
        for key, name in NUMBERS
        if key in metrics
    ]
    return {
        "name": files.printable(view.name),
        "unit": view.unit,
        "numbers": numbers,
        "valid": metrics.get("num_valid"),
        "cmc": metrics.get("cmc", ()),
        "published": view.measured.published,
        "beside": files.printable(view.measured.beside),
        "facts": {name: files.printable(words) for name, words in view.measured.facts.items()},
        "verification": view.measured.verification,
        "histogram": view.measured.histogram,
        "cameras": view.measured.camera_pairs,
        "stripes": inside.stripes,
        "soft": inside.soft,
        "mapName": inside.map_name,
        "rows": [_row(ranking, place, inside.alignments) for ranking in view.rankings],
    }


def _row(ranking: Any, place: Mapping[int, int], alignments: Mapping[tuple[int, int], str]) -> list:
    """AP, rank of the first hit, hits in the gallery, then of each image its number, distance, mark and rank."""
    row = [
        None if math.isnan(ranking.ap) else round(ranking.ap, 6),
        ranking.first_hit,
        ranking.num_hits,
        [place[index] for index in ranking.index],
        [float(f"{distance:.5g}") for distance in ranking.distance],
        "".join(MARKS[mark] for mark in ranking.mark),
        ranking.rank,
    ]
    paths = [alignments.get((ranking.query, index)) for index in ranking.index]
    return [*row, paths] if any(paths) else row


def _packed(energy: np.ndarray) -> str:
    return base64.b64encode((energy * 255).round().astype(np.uint8).tobytes()).decode("ascii")


def _relative(named: Mapping[str, visualize.ImageFile], folder: Path) -> dict[str, str]:
    return {title: quote(Path(os.path.relpath(path, folder)).as_posix()) for title, path in named.items()}
