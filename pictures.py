"""From a tested network to the pictures and the pages of it: finished rows, words and maps for ``visualize``, ``page``.

What is right or wrong was judged by the test; here it is decided what stands on a page.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

import datasets
import details
import tester
import visualize
from machine import threads
from machine.progress import Progress
from page import ranked

MAP_ROWS = 24  # of an activation map on a page, at most: those of PCB's 384 pixels; a page of 30,000 grows by 8 MB


@dataclass(frozen=True)
class Wanted:
    """What is drawn of a test; the flags of ``main.py`` carry the same names."""

    what: Sequence[str] = ("ranks",)  # ranks, actmap
    num_queries: int = 20  # that are drawn as strips
    num_maps: int = 30_000  # images of a page that have activation maps
    order: str = "worst"
    only: str = "all"
    seed: int = 0  # of order "random"
    log: Sequence[Mapping[str, Any]] = ()  # of the network's training
    figures: Mapping[str, Path] = dataclasses.field(default_factory=dict)  # title -> file, for every page


class Source(NamedTuple):
    """A network, what tests it, and what is known of its weights."""

    tested: tester.Tester
    model: Any
    name: str = ""  # in one or two words, where a page shows two
    measured: Mapping[str, Mapping[str, Any]] = {}  # data set -> ``measured`` of metrics.json
    beside: Mapping[str, tester.Beside] = {}  # data set -> what is published of the very same run
    trained_on: str = ""


def training_pictures(log, batch, folder: Path) -> dict[str, Path]:
    """``curves.png`` of the lines of a log and ``batch.png`` of a training batch, where there are such: title -> file.

    batch: (images (B, 3, H, W) or tracklets (B, T, 3, H, W), labels (B,), mean, std), or None.
    """
    found = {}
    if log:
        found["Training"] = visualize.curves(log, folder / "curves.png")
    if batch is not None:
        images, labels, mean, std = batch
        groups = torch.unique_consecutive(labels, return_counts=True)[1].tolist()  # of one identity, side by side
        if images.ndim == 5:
            groups = [images.shape[1]] * len(images)
        sheet = visualize.augmented_batch(images.flatten(0, -4), mean, std, folder / "batch.png", groups=groups)
        found["A training batch as the network sees it"] = sheet
    return found


def pages(sources: Sequence[Source], folder: Path, wanted: Wanted) -> list[Path]:
    """A page of all queries per data set under `folder`, strips of some, CMC curve and activation maps; returns the
    pages, or without "ranks" the pictures. A set without a query of the kind asked for has no page, which is printed.

    sources: the network, then those it is compared with. They show the lists that the tester's last evaluation of this
    very model gathered, and evaluate where there was none: after multi-query, expansion and re-ranking as the options
    ask, with the AP that the metrics count.
    """
    drawn: list[Path] = []
    first = sources[0]
    for name, splits in first.tested.splits.items():
        shown = [evaluated(source, name) for source in sources]
        place = folder / name
        links = {"CMC curve": visualize.cmc_curve({name: shown[0].metrics["cmc"]}, place / "cmc.png")}
        rankings = shown[0].lists.choose(wanted.order, wanted.only, wanted.num_queries, wanted.seed)
        if "actmap" in wanted.what and (worst := shown[0].lists.choose("worst", num=min(wanted.num_queries, 12))):
            links["Activation maps"] = activation_sheet(first, name, shown[0], worst, place)
        if "ranks" not in wanted.what:
            drawn += links.values()
            continue
        which = chosen_text(len(rankings), len(shown[0].query), wanted)
        if not rankings:
            print(f"{name}: no page: {which}")
            continue
        visualize.draw_strips(place, rankings, shown[0].query, shown[0].gallery)
        links["Strips"] = place / "ranks"
        title = f"{first.tested.recipe.name} on {splits.title or datasets.DATASETS[name].title}"
        people = {sample.pid for sample in shown[0].query}
        made = ranked.Page(
            title,
            [view for source, each in zip(sources, shown, strict=True) for view in views(source, name, each, wanted)],
            "; ".join([*ranked_text(shown[0], first.tested.options), f"strips of {which}"])
            + (". The built-in set is a demonstration, not a benchmark" if name.startswith("synthetic") else ""),
            infrared=frozenset(splits.infrared),
            distractors=frozenset(sample.pid for sample in shown[0].gallery) - people,
            log=wanted.log,
            pictures={title: path for title, path in wanted.figures.items() if path.stem == "batch"},
            links=links | {title: path for title, path in wanted.figures.items() if path.stem != "batch"},
            start=start(wanted),
        )
        drawn.append(ranked.write(place, made, shown[0].query, shown[0].gallery))
    return drawn


def start(wanted: Wanted) -> dict[str, str]:
    """The state of the page as it opens: in the order and with the queries that the flags ask for."""
    order = {"worst": {"sort": "ap"}, "best": {"sort": "ap", "down": "1"}}.get(wanted.order, {"sort": "given"})
    return order | ({"rank1": wanted.only} if wanted.only != "all" else {})


def evaluated(source: Source, name: str) -> tester.Shown:
    """What the last evaluation of data set `name` gathered; evaluates where there was none."""
    tested = source.tested
    if name not in tested.last:
        tested.alone().one(source.model, name)
    return tested.last[name]


def views(source: Source, name: str, shown: tester.Shown, wanted: Wanted) -> list[ranked.View]:
    """The ranking that was measured, and where it was re-ranked also the one before, of all queries."""
    found = [shown] if shown.before is None else [shown, shown.before]
    rankings = [each.lists.choose("given", num=len(shown.query)) for each in found]
    chosen = shown.lists.choose(wanted.order, wanted.only, len(shown.query), wanted.seed)
    order = list(dict.fromkeys([*(ranking.query for ranking in chosen), *range(len(shown.query))]))
    maps = activations(source, name, shown, rankings, order, wanted.num_maps) if "actmap" in wanted.what else {}
    recipe, known = source.tested.recipe, source.measured.get(name, {})
    result = []
    for each, rows in zip(found, rankings, strict=True):
        words = "re-ranked" if each.reranked else f"{recipe.metric} distance"
        inside = inside_of(source.model, maps, alignments(each.parts, rows, recipe))
        published, beside = published_of(source, name, each)
        counts, cameras = each.details
        judged = tester.plain_details([counts], [cameras])
        result.append(
            ranked.View(
                ": ".join(filter(None, (source.name, words))),
                rows,
                "re-ranked distance" if each.reranked else words,
                ranked.Measured(
                    each.metrics,
                    published,
                    beside,
                    facts(known, source.trained_on, each),
                    judged["verification"],
                    counts.histogram(),
                    judged["camera_pairs"],
                ),
                inside,
            )
        )
    return result


def published_of(source: Source, name: str, shown: tester.Shown) -> tuple[list[dict[str, Any]], str]:
    """The published values of this very ranking in percent, and what else there is to say of others' results."""
    beside = source.beside.get(name, tester.Beside())
    found: list[tuple[Any, str]] = [(result, result.source) for result in beside.results]
    if shown.reranked:
        found = [
            (each, result.source)
            for result in beside.results
            for each in tester.reranked_alike(tester.Beside((result,)), shown.reranked)
        ]
    said = [{"rank1": result.rank1, "mAP": result.mAP, "source": words} for result, words in found]
    return said, f"Nothing is published of this run; {beside.differs}" if beside.differs else ""


def facts(known: Mapping[str, Any], trained_on: str, shown: tester.Shown) -> dict[str, str]:
    """What was measured, with what: the lines of ``measured`` that a reader asks for, in words."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{key} {text(each)}" for key, each in value.items())
        return " ".join(map(text, value)) if isinstance(value, (list, tuple)) else str(value)

    options = {key: value for key, value in known.get("options", {}).items() if value not in (None, False)}
    compared = ("metric", "test_distance", "test_feature", "test_neck", "normalize_parts")
    found = {
        "Weights": known.get("weights"),
        "SHA-256 of the weights": known.get("weights_sha256"),
        "Trained on": trained_on,
        "Recipe": known.get("recipe"),
        "Changed in the recipe": known.get("overrides"),
        "Input size, height and width": known.get("image_size"),
        "Data": f"{len(shown.query):,} queries, {len(shown.gallery):,} gallery images",
        "Fingerprint of the data": known.get("data"),
        "Protocol": known.get("protocol"),
        "Compared by": {key: known[key] for key in compared if known.get(key) not in (None, False)},
        "Options of the test": options,
        "Date": known.get("date"),
        "Version": " ".join(str(known[key]) for key in ("version", "commit") if known.get(key)),
        "torch": known.get("torch"),
        "Seed": known.get("seed"),
        "Command": known.get("command"),
    }
    return {name: text(value) for name, value in found.items() if value not in (None, "", {})}


def chosen_text(number: int, count: int, wanted: Wanted) -> str:
    """Which queries are drawn as strips, in words."""
    which = {"worst": ", worst first", "best": ", best first", "random": ", at random", "given": ""}[wanted.order]
    kind = {"all": "", "right": " with a right first image", "wrong": " with a wrong first image"}[wanted.only]
    return f"{number} of {count:,} queries{kind}{which}"


def ranked_text(shown: tester.Shown, options: tester.Options) -> list[str]:
    """What was ranked, and how, in words."""
    said = [f"{len(shown.query):,} queries in a gallery of {len(shown.gallery):,}"]
    if options.multi_query:
        said.append(f"by the {options.multi_query} over all images of the query's person and camera")
    if options.expansion:
        said.append("after query expansion with k {}, alpha {}".format(*options.expansion))
    if shown.reranked:
        said.append("re-ranked with " + ", ".join(f"{key} {value}" for key, value in shown.reranked.items()))
    if shown.num_galleries > 1:
        said.append(f"the first of {shown.num_galleries} galleries")
    return said


def apart(*weights: Path) -> list[str]:
    """Names of weight files that are told from each other by them: the last parts of their paths, as few as do it."""
    parts = [path.absolute().parts for path in weights]
    for last in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-last:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def unlabelled_page(
    source: Source, folder: Path, ranking: details.Ranking, sides: Sequence[tester.Features], unit: str
) -> Path:
    """The page of one image's ranking in a folder of which nobody knows who is on it; sides: query and gallery."""
    query, gallery = (side.samples for side in sides)
    visualize.draw_strips(folder, [ranking], query, gallery, labelled=False)
    title = f"{Path(visualize.one_path(query[0].path)).name} in a folder of {len(gallery):,} images"
    shown = [query[0], *(gallery[row] for row in ranking.index)]
    maps = {sample.path: each.numpy() for sample, each in zip(shown, energy(source, "", shown), strict=True)}
    paths = alignments([side.parts for side in sides], [ranking], source.tested.recipe)
    inside = inside_of(source.model, maps, paths)
    made = ranked.Page(title, [ranked.View(unit, [ranking], unit, inside=inside)], "1 query", labelled=False)
    return ranked.write(folder, dataclasses.replace(made, links={"Strip": folder / "ranks"}), query, gallery)


# ---------------------------------------------------------------------------------------------------------------------
# What the network sees
# ---------------------------------------------------------------------------------------------------------------------


def inside_of(model: Any, maps: Mapping[Any, Any], paths: Mapping[tuple[int, int], str]) -> ranked.Inside:
    """What a page shows of how `model` sees its images."""
    return ranked.Inside(maps, model.shown, () if model.soft_parts else model.stripes, paths, model.soft_parts)


def activations(source: Source, name: str, shown: tester.Shown, rankings, order: Sequence[int], most: int) -> dict:
    """Path of an image -> where the network answers on it, (h, w) in [0, 1], of `most` images of a page's lists.

    First all queries in `order`, then the image that the large view of each opens with, its first hit, and so on down
    the lists. Each costs what it cost in the test, and no image is on a page that was not tested.
    """
    lists = []
    for query in order:
        rows = [(each[query].index, each[query].mark) for each in rankings]
        first = [index[mark.index(kind)] for index, mark in rows for kind in ("right", "wrong") if kind in mark]
        rest = [row for index, _ in rows for row in index]
        lists.append([shown.query[query], *(shown.gallery[row] for row in dict.fromkeys([*first, *rest]))])
    in_turn = (sample for depth in itertools.zip_longest(*lists) for sample in depth if sample is not None)
    samples = {sample.path: sample for sample in in_turn}
    kept = list(samples.values())[:most]
    found = energy(source, name, kept) if kept else torch.empty(0)
    if len(kept) and found.shape[1] > MAP_ROWS:
        found = F.interpolate(found[:, None], scale_factor=MAP_ROWS / found.shape[1], mode="area")[:, 0]
    return {sample.path: each.numpy() for sample, each in zip(kept, found, strict=True)}


@torch.inference_mode()
def energy(source: Source, name: str, samples: Sequence[datasets.Sample]) -> torch.Tensor:
    """Where the network answers on these images of set `name`, (N, h, w) in [0, 1]; of a tracklet on its middle one."""
    frames = [dataclasses.replace(sample, path=str(visualize.one_path(sample.path))) for sample in samples]
    tested, model, found = source.tested, source.model.eval(), []
    with Progress(len(frames), f"activation maps of {name or 'images'}", shown=tested.options.progress) as progress:
        for batch in threads.balanced(tested.batches(tested.loader(frames, name), name)):
            found.append(visualize.energy(model.feature_map(*batch)))
            progress.update(len(found[-1]))
    return torch.cat(found)


def activation_sheet(source: Source, name: str, shown: tester.Shown, rankings, folder: Path) -> Path:
    """``activation.png`` in `folder`: where the network answers on the queries of these rankings."""
    samples = [shown.query[ranking.query] for ranking in rankings]
    paths = [visualize.one_path(sample.path) for sample in samples]
    captions = [
        f"id {sample.pid}  cam {sample.camid}  AP {100 * ranking.ap:.1f} %"
        for sample, ranking in zip(samples, rankings, strict=True)
    ]
    return visualize.activation_maps(energy(source, name, samples), paths, captions, folder / "activation.png")


def alignments(parts, rankings: Iterable[details.Ranking], recipe) -> dict[tuple[int, int], str]:
    """(query row, gallery row) -> how the parts of the two are matched, where the distance matches them.

    parts: of queries and gallery (N, S, D), or None.
    """
    if recipe.distance is None or parts is None or parts[0] is None:
        return {}
    pairs = [(ranking.query, index) for ranking in rankings for index in ranking.index]
    found: dict[tuple[int, int], str] = {}
    for start in range(0, len(pairs), 4096):
        some = pairs[start : start + 4096]
        sides = [each[[pair[i] for pair in some]] for i, each in enumerate(parts)]
        if recipe.normalize_parts:
            sides = [F.normalize(side, dim=-1) for side in sides]
        found |= dict(zip(some, details.alignment(*sides), strict=True))
    return found


def search_heatmap(trials: list[dict], path: Path) -> Path:
    """mAP over k1 and k2, at the best lambda of the search, as a picture."""
    best = trials[0]["lambda_value"]
    value = {(t["k1"], t["k2"]): 100 * t["mAP"] for t in trials if t["lambda_value"] == best}
    k1s, k2s = (sorted({key[i] for key in value}) for i in (0, 1))
    table = [[value[k1, k2] for k1 in k1s] for k2 in k2s]
    words = {"title": f"mAP after re-ranking, lambda {best:g} (the best)", "unit": "mAP (%)"}
    axes = {"xlabel": "k1 (neighbours)", "ylabel": "k2 (neighbours)"}
    return visualize.heatmap(table, k1s, k2s, path, **words, **axes)
