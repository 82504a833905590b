"""From a model and a data set to the numbers that a person reads.

``evaluate`` computes on tensors; this file feeds it from images and says what came out: plain values for metrics.json,
the closing table, and in ``Tester.last`` what ``pictures`` draws.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import functools
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

import datasets
import evaluate
import loaders
import protocols
import video
from config import ABOUT, RESULT_FIELDS, Recipe, option_defaults, plain, with_values
from details import PAIRS_TO_TELL, CameraPairCollector, RankedLists, Ranking, VerificationCounts
from machine import fingerprint, processes
from machine.memory import Budget
from machine.progress import Progress
from published import Published, Reranked, Variant, between
from rerank import Grid

GRID = Grid((5, 10, 15, 20, 25, 30, 35, 40, 45, 50), (1, 3, 6, 9, 12), (0.1, 0.2, 0.3, 0.5))  # of the search


@dataclass(frozen=True)
class Options:
    """How a test is done; the flags of ``main.py`` carry the same names."""

    batch_size: int = 128
    workers: int | None = None
    flip: bool = False  # mean of the features of an image and its mirror image
    protocol: str | None = None  # None: the data set's own
    ap: str = "hits"  # what an average precision is, see `protocols.Labels`
    draws: int | None = None  # of protocol cuhk03; None: as many as it has
    draws_per_query: bool = False  # each query its own, not all the same
    max_rank: int = 50
    rerank: dict | None = None  # k1, k2, lambda_value
    search: bool = False  # a table of re-ranking parameters
    grid: Grid | None = None  # that it tries; None: `GRID`
    expansion: tuple[int, float] | None = None  # alpha query expansion: k, alpha
    multi_query: str | None = None  # mean or max over all images of the query's person and camera
    details: bool = False  # verification rates and camera pairs
    top_k: int = 0  # gallery images of each query that are kept for the pages; 0: none
    show_junk: bool = False  # in these lists, what the protocol removes
    budget: Budget = Budget()  # for everything that grows with queries or gallery
    skip_bad: bool = False
    progress: bool = True  # a bar in a terminal


@dataclass(frozen=True)
class Features:
    """Samples with their embeddings (N, D) and parts (N, S, D) or None."""

    samples: tuple[datasets.Sample, ...]
    embeddings: torch.Tensor
    parts: torch.Tensor | None

    def compared(self, recipe) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor | None]:
        """What `recipe` compares: embeddings by its metric, or (embeddings, parts) by its distance."""
        return self.embeddings if recipe.distance is None else (self.embeddings, self.parts)

    def only(self, rows: list[int]) -> Features:
        """The samples of these rows."""
        parts = None if self.parts is None else self.parts[rows]
        return Features(tuple(self.samples[i] for i in rows), self.embeddings[rows], parts)

    @property
    def pids(self) -> list[int]:
        """Identity of each row."""
        return [sample.pid for sample in self.samples]

    @property
    def camids(self) -> list[int]:
        """Camera of each row."""
        return [sample.camid for sample in self.samples]

    @property
    def worn(self) -> list:
        """Clothes of each row, None where nobody says."""
        return [sample.clothes for sample in self.samples]

    @property
    def paths(self) -> list:
        """Image file of each row; of a tracklet, its frames."""
        return [sample.path for sample in self.samples]


def gallery_images(splits: datasets.Splits) -> tuple[datasets.Sample, ...]:
    """The gallery, or the images of all published ones, each once, however many of them show it."""
    if not splits.trials:
        return splits.gallery
    return tuple({sample.path: sample for trial in splits.trials for sample in trial}.values())


class Sized:
    """Batches with a length and a number of images, for progress bars."""

    def __init__(self, batches, length: int, num_images: int):
        self.batches, self.length, self.num_images = batches, length, num_images

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return self.length


class Tester:
    """Evaluates a model on data sets.

    recipe: image size, normalisation, metric, distance. camera_label: called with (data set, camid), the camera as a
    network that embeds cameras knows it (-1: unseen), or None. group: processes that each take a part of the work.
    """

    def __init__(
        self,
        recipe,
        splits: dict[str, datasets.Splits],
        options: Options,
        *,
        device: torch.device,
        channels_last: bool = False,
        camera_label: Callable[[str, int], int] | None = None,
        group=None,
    ):
        # An expanded query is of length 1 and a gallery image of any: only their directions can be compared.
        self.recipe = recipe.with_(metric="cosine") if options.expansion else recipe
        self.splits, self.options = splits, options
        self.device, self.channels_last = device, channels_last
        self.camera_label, self.group = camera_label, group
        self.left_out: dict[str, dict[str, list[str]]] = {}  # data set -> side -> files that could not be read
        self.queries: dict[str, list[dict]] = {}  # a line per query, of the last evaluation of each set
        self.last: dict[str, Shown] = {}  # what pages are drawn from, of the last evaluation of each set
        if recipe.test_distance == "local" and (options.multi_query or options.expansion):
            raise ValueError(
                "--multi_query and --query_expansion make new embeddings, and --test_distance local compares parts: "
                "leave them out, or use --test_distance global"
            )
        for name in splits:
            self.check_options(name)

    def protocol(self, name: str) -> str:
        """Of the test of data set `name`: the one asked for, or its own."""
        return self.options.protocol or self.splits[name].protocol

    def check_options(self, name: str) -> None:
        """ValueError if data set `name` cannot be tested as asked: before anything is trained for it or computed."""
        if self.options.multi_query and not self.splits[name].multi_query:
            raise ValueError(f"{name} has no multi-query images (Market-1501 keeps them in gt_bbox/)")
        asked = "draws" if self.options.draws else "draws_per_query" if self.options.draws_per_query else ""
        if asked and protocols.PROTOCOLS[self.protocol(name)].cmc != "draws":
            raise ValueError(
                f"--{asked} is of protocol cuhk03, and {name} is tested by protocol {self.protocol(name)}: give "
                "--protocol cuhk03 with it, or leave it out"
            )
        shown = gallery_images(self.splits[name])
        if self.protocol(name) not in protocols.those_for((*self.splits[name].query, *shown)):
            raise ValueError(f"{name}: {protocols.nobody_knows_clothes(self.protocol(name))}")
        count = len(shown)
        if self.options.expansion and self.options.expansion[0] > count:
            raise ValueError(
                f"--query_expansion {self.options.expansion[0]} asks for more neighbours than the gallery of {name} "
                f"has: {count:,}"
            )

    def loader(self, samples: Sequence[datasets.Sample], name: str = "") -> loaders.EvalLoader:
        """`samples` of set `name` in order, prepared as the recipe tests.

        Images of no set of this tester (an empty `name`) nobody has looked at: all are read before this returns.
        """
        recipe, loose = self.recipe, name not in self.splits
        tells_light = recipe.infrared and not loose
        decoding = loaders.Decoding(
            recipe.image_size,
            recipe.test_filter,
            self.options.workers,
            self.options.skip_bad,
            processes.is_main() and self.options.progress,
            check=loose,
        )
        return loaders.EvalLoader(
            samples,
            loaders.make_store(samples, decoding, loaders.Cache("auto" if loose else "none"), self.device),
            (recipe.mean, recipe.std),
            batch_size=self.options.batch_size,
            infrared=self.splits[name].infrared if tells_light else (),
            clips=loaders.TestClips(recipe.test_frames, recipe.seq_len),
            delivery=loaders.Delivery(self.device, self.channels_last),
        )

    def check_images(self) -> None:
        """Read every image of the tests once: UnreadableImages names those that cannot be, unless they are left out."""
        if self.options.skip_bad:
            return
        decoding = loaders.Decoding(self.recipe.image_size, workers=self.options.workers, check=True)
        for splits in self.splits.values():
            sides = (splits.query, splits.gallery, *splits.trials, *splits.multi_query)
            shown = {sample.path: sample for side in sides for sample in side}
            loaders.make_store(list(shown.values()), decoding, loaders.Cache("none"))

    def batches(self, loader: loaders.EvalLoader, name: str, stop=None):
        """(images, views with cameras as the network knows them); raises `Stopped` once `stop` is set."""
        for images, views in loader:
            if stop is not None and stop.is_set():
                raise Stopped
            if self.camera_label is not None:
                known = [self.camera_label(name, camid) for camid in views.camera.tolist()]
                views = views._replace(camera=torch.tensor(known, device=views.camera.device))
            yield images, views

    def features(self, model, samples, label: str, stop=None, name: str = "") -> Features:
        """`Features` of `samples` of set `name`, in order, without those that could not be read (`skip_bad`)."""
        loader = self.loader(samples, name)
        self.leave_out(loader.store, label, name)
        if loader.tracklets:
            model = video.for_tracklets(model, self.recipe.temporal_pooling)
        sized = Sized(self.batches(loader, name, stop), len(loader), loader.num_images)
        unit = "tracklets" if loader.tracklets else "images"
        progress = Progress(loader.num_images, label, unit, shown=processes.is_main() and self.options.progress)
        embeddings, parts = evaluate.extract(
            model, sized, flip=self.options.flip, progress=progress, memory_gb=self.options.budget
        )
        for computed in (embeddings, parts):
            if computed is not None:
                evaluate.check_finite(computed, label, [sample.path for sample in loader.samples])
        return Features(tuple(loader.samples), embeddings, parts)

    def leave_out(self, store: loaders.ImageStore, label: str, name: str) -> None:
        """Keep which files of the store are left out, and print it, unless that was said before."""
        found, side = self.left_out.setdefault(name, {}), label.removesuffix(f" of {name}")
        if store.skipped and store.skipped != found.get(side):
            print(f"{label}: {store.left_out}", flush=True)
        found[side] = store.skipped

    def shared(self, model, samples, label: str, stop=None, name: str = "") -> Features:
        """`features`, of which each process computes its part. Unreadable images would make the parts uneven."""
        if self.group is None or self.options.skip_bad:
            return self.features(model, samples, label, stop, name)
        first, last = evaluate.shard(len(samples), self.group)
        mine = self.features(model, samples[first:last], label, stop, name)
        gather = functools.partial(evaluate.gather_rows, count=len(samples), group=self.group)
        return Features(tuple(samples), gather(mine.embeddings), None if mine.parts is None else gather(mine.parts))

    def of_training(self, model, loader: loaders.TrainLoader, stop=None) -> torch.Tensor:
        """Embeddings (n, D) of the samples of a training loader, in order and as tested but never mirrored; each
        process computes its part and gets all."""
        count = loader.num_images
        first, last = (0, count) if self.group is None else evaluate.shard(count, self.group)
        images = loader.in_order(self.options.batch_size, slice(first, last))
        if images.tracklets:
            model = video.for_tracklets(model, self.recipe.temporal_pooling)

        def batches():
            for batch in images:
                if stop is not None and stop.is_set():
                    raise Stopped
                yield batch

        sized = Sized(batches(), len(images), images.num_images)
        progress = Progress(sized.num_images, "training set", "images", shown=processes.is_main())
        found, _ = evaluate.extract(model, sized, progress=progress, memory_gb=self.options.budget)
        evaluate.check_finite(found, "training set", [sample.path for sample in loader.samples[first:last]])
        found = found if self.group is None else evaluate.gather_rows(found, count, self.group)
        return found.clone()  # not of inference mode: losses may keep it

    def query_and_gallery(self, model, name: str, stop=None) -> tuple[Features, Features]:
        """Features of both sides of data set `name`, after multi-query pooling and query expansion if asked for."""
        splits = self.splits[name]
        shown = gallery_images(splits)
        query = self.shared(model, splits.query, f"query of {name}", stop, name)
        gallery = self.shared(model, shown, f"gallery of {name}", stop, name)
        check_distinct(query, gallery, name)
        if self.options.multi_query:
            images = sorted({s for group in splits.multi_query for s in group}, key=lambda s: s.path)
            more = self.shared(model, images, f"multi-query of {name}", stop, name)
            pooled = evaluate.pool_queries(
                query.pids,
                query.camids,
                more.embeddings,
                more.pids,
                more.camids,
                self.options.multi_query,
                self.options.budget,
                self.recipe.metric,
            )
            query = Features(query.samples, pooled, query.parts)
        return self.expanded(query, gallery), gallery

    def expanded(self, query: Features, gallery: Features) -> Features:
        """The queries, expanded if asked for."""
        if not self.options.expansion:
            return query
        k, alpha = self.options.expansion
        sides = query.embeddings, gallery.embeddings
        embeddings = evaluate.expand_queries(*sides, k, alpha, self.options.budget, self.group)
        return Features(query.samples, embeddings, query.parts)

    def labels(self, name: str, query: Features, gallery: Features, protocol: str | None = None) -> protocols.Labels:
        """Who is on which image, under `protocol`, the one asked for or the set's own."""
        labels = protocols.Labels(
            query.pids,
            gallery.pids,
            query.camids,
            gallery.camids,
            protocol or self.protocol(name),
            query_items=query.paths,
            gallery_items=gallery.paths,
        ).measured(self.options.ap)
        labels.wearing(protocols.clothes_of(query.samples, gallery.samples))
        return labels.with_draws(self.options.draws or protocols.NUM_DRAWS, self.options.draws_per_query)

    def __call__(self, model, stop=None) -> dict[str, dict]:
        """{data set: metrics as plain values}; ``reranked``, ``search`` and ``verification`` inside where asked for."""
        model.eval()
        validations = [name for name in self.splits if name.endswith("_val")]
        results, chosen = {}, None
        for name in (*validations, *(n for n in self.splits if n not in validations)):
            results[name] = self.one(model, name, stop, chosen)
            if "search" in results[name] and name in validations and chosen is None:
                best = results[name]["search"][0]
                chosen = {key: best[key] for key in ("k1", "k2", "lambda_value")}
        return {name: results[name] for name in self.splits}

    def one(self, model, name: str, stop=None, chosen: dict | None = None) -> dict:
        """Everything that `options` ask of data set `name`; `chosen`: re-ranking parameters found on other people.

        The distances are computed once: metrics, details and the lists of the pages are gathered in one pass over
        them, the lists and the AP that a page shows in that of the re-ranked distances where there are such. Of a set
        with several published galleries the metrics and the search are means over them, the details are of all their
        pairs, and the lists of the first.
        """
        began = time.perf_counter()
        query, gallery = self.query_and_gallery(model, name, stop)
        seconds = time.perf_counter() - began
        reranked, trials = chosen or self.options.rerank, self.splits[name].trials
        found: list[dict] = []  # of each gallery: its metrics, those re-ranked, its search, its details
        again: list[dict] = []
        searched: list[list[evaluate.Trial]] = []
        pairs: list[list] = []
        ranks: list[list[evaluate.RankCollector]] = []
        cameras = torch.tensor(gallery.camids).unique()
        for part in self.galleries(name, gallery):
            labels, keep = self.labels(name, query, part), bool(self.options.top_k) and not found
            ranks += [[evaluate.RankCollector(labels) for _ in range(1 + bool(reranked))]]
            details, lists = self.collectors(labels, cameras, keep)
            found.append(self.metrics(query, part, labels, others=[*details, *lists, ranks[-1][0]]))
            pairs.append(details)
            if keep:
                parts = None if self.recipe.distance is None else (query.parts, part.parts)
                kept = query.samples, part.samples, lists[0], found[-1], None, len(trials), details, parts
                self.last[name] = Shown(*kept)
            if reranked:
                more, lists = self.collectors(labels, cameras, True) if keep else ([], [])
                again.append(self.metrics(query, part, labels, reranked, [*more, *lists, ranks[-1][1]]))
                if keep:
                    plain = self.last[name]
                    self.last[name] = plain._replace(
                        lists=lists[0], metrics=again[-1], reranked=reranked, details=more, before=plain
                    )
            if self.options.search and chosen is None:
                searched.append(self.search(query, part, labels))
        self.queries[name] = query_lines(query, zip(*ranks, strict=True))
        result = mean_and_std(found) if trials else found[0]
        if not trials:
            result["images_per_second"] = round((len(query.samples) + len(gallery.samples)) / seconds, 1)
        if reranked:
            result["reranked"] = (mean_and_std(again) if trials else again[0]) | reranked
        result |= self.also(name, query, gallery)
        if searched:
            result["search"] = best_first(searched)
        if self.options.details:
            result |= plain_details(*zip(*pairs, strict=True))
        left_out = {"entries": [*self.splits[name].left_out], **self.left_out.get(name, {})}
        if any(left_out.values()):
            result["left_out"] = {side: files for side, files in left_out.items() if files}
        return result

    def also(self, name: str, query: Features, gallery: Features) -> dict[str, Any]:
        """``protocols``: metrics by the further protocols that set `name` is reported by, and ``protocol``, by which
        all others are; nothing where one was asked for. One that leaves no query a match has no entry."""
        found = {}
        for protocol in () if self.options.protocol else self.splits[name].also:
            pairs = [(part, self.labels(name, query, part, protocol)) for part in self.galleries(name, gallery)]
            if all(bool(labels.num_hits.any()) for _, labels in pairs):
                each = [self.metrics(query, part, labels) for part, labels in pairs]
                found[protocol] = mean_and_std(each) if self.splits[name].trials else each[0]
        return {"protocol": self.protocol(name), "protocols": found} if found else {}

    def alone(self) -> Tester:
        """The same for one process, once training is over and the others are not here to share the work."""
        other = copy.copy(self)
        other.group = None
        other.options = dataclasses.replace(self.options, search=False, details=False)
        return other

    def collectors(self, labels: protocols.Labels, cameras: torch.Tensor, keep: bool) -> tuple[list, list]:
        """What is fed from a pass over the distances beside the metrics: the details of a gallery of these cameras, if
        they are asked for or a page shows them, and if `keep` the lists of that page. (Of 3,368 queries in 15,913
        images, ranked in 0.97 s by one core, details take 0.45 s: a page always has them.)"""
        wanted = self.options.details or keep
        details = [VerificationCounts(labels), CameraPairCollector(labels, cameras)] if wanted else []
        return details, [RankedLists(labels, self.options.top_k, self.options.show_junk)] if keep else []

    def conditions(self, name: str) -> dict:
        """What else decides the numbers of data set `name`: the comparison, every option of the test, the images."""
        options = self.options
        names = ("flip", "rerank", "search", "grid", "expansion", "multi_query", "ap", "max_rank", "details")
        asked = {key: getattr(options, key) for key in (*names, "skip_bad")}
        protocol = self.protocol(name)
        if protocols.PROTOCOLS[protocol].cmc == "draws":
            asked |= {"draws": options.draws or protocols.NUM_DRAWS, "draws_per_query": options.draws_per_query}
        facts = {"recipe": self.recipe.name, "protocol": protocol, **self.compared}
        also = self.splits[name].also if options.protocol is None else ()
        return facts | {"options": asked, "data": self.data[name]} | ({"also": list(also)} if also else {})

    @property
    def compared(self) -> dict[str, Any]:
        """What of the recipe decides an embedding of given weights and its distance to another."""
        found = {key: getattr(self.recipe, key) for key in ("image_size", "mean", "std", *RESULT_FIELDS)}
        return found | {"interpolation": self.recipe.test_filter}

    @functools.cached_property
    def data(self) -> dict[str, dict[str, str]]:
        """Data set -> fingerprints of its query and gallery, as they are when somebody asks first."""
        return {
            name: {
                side: fingerprint.of_samples(sample.labelled for sample in getattr(splits, side))
                for side in ("query", "gallery")
            }
            for name, splits in self.splits.items()
        }

    def told(self, name: str) -> dict[str, Any]:
        """The flags of the test of set `name` that are not at their defaults, and images that are not the published."""
        options, splits = self.options, self.splits[name]
        ap, known = options.ap, name in datasets.DATASETS
        one_trial = known and datasets.num_trials(name, **splits.options) > 1 and not splits.trials  # of a mean
        not_whole = any(not line.startswith("train") for line in splits.differences())
        asked = {
            "flip_test": options.flip,
            "query_expansion": options.expansion,
            "multi_query": options.multi_query,
            "protocol": options.protocol if options.protocol != splits.protocol else None,
            "ap": ap if ap != "hits" else None,
            f"{name}_trial": one_trial and "one",
            "test images": f"{len(splits.query):,} + {len(splits.gallery):,}" if not_whole else "",
            "left_out": sum(map(len, self.left_out.get(name, {}).values())) + len(splits.left_out),
        }
        return {key: value for key, value in asked.items() if value} | {
            f"{name}_{option}": value for option, value in splits.options.items()
        }

    def digest(self) -> str:
        """Of all that decides the results beside the weights."""
        return fingerprint.of_settings({name: self.conditions(name) for name in self.splits})

    def galleries(self, name: str, gallery: Features) -> list[Features]:
        """The gallery, or each of the published ones; `gallery` holds the images of all of them."""
        row = {sample.path: i for i, sample in enumerate(gallery.samples)}
        trials = self.splits[name].trials
        return [gallery.only([row[s.path] for s in trial if s.path in row]) for trial in trials] or [gallery]

    def comparison(self, reranked: Mapping | None = None) -> evaluate.Comparison:
        """How features are compared, as the recipe says or re-ranked on top of that."""
        recipe = self.recipe
        return evaluate.Comparison(recipe.metric, recipe.distance, reranked, self.options.budget, self.group)

    def metrics(self, query: Features, gallery: Features, labels: protocols.Labels, reranked=None, others=()) -> dict:
        """Metrics as plain values; ``rank1_interval``, ``mAP_interval`` and ``mINP_interval`` are 95 % bootstrap
        intervals, None where too few queries have a match to tell them.

        others: collectors (`evaluate.Collector`) that are fed from the same pass over the distances.
        """
        ranks = evaluate.rank_features(
            query.compared(self.recipe),
            gallery.compared(self.recipe),
            labels,
            self.comparison(reranked),
            others,
            verbose=processes.is_main(),
        )
        found = evaluate.summarize(ranks, max(self.options.max_rank, *RANKS))  # whatever the length of the curve
        intervals = evaluate.confidence_intervals(ranks)
        told = {key: None if math.isnan(ends[0]) else list(ends) for key, ends in intervals.items()}
        cmc = found.cmc.tolist()
        drawn = {} if labels.drawn is None else {"mAP_drawn": float((1 / ranks.first.double()).mean())}
        return {
            "mAP": float(found.mAP),
            **drawn,  # of galleries of one image per identity, where the AP is 1 / rank
            "mINP": float(found.mINP),
            **{f"rank{r}": cmc[r - 1] for r in RANKS},
            "num_query": len(query.samples),
            "num_gallery": len(gallery.samples),
            "num_valid": int(found.num_valid),
            "rank1_interval": told["rank1"],
            "mAP_interval": told["mAP"],
            "mINP_interval": told["mINP"],
            "cmc": cmc[: self.options.max_rank],
            "ap": self.options.ap,
        }

    def search(self, query: Features, gallery: Features, labels: protocols.Labels) -> list[evaluate.Trial]:
        """mAP and rank-1 after re-ranking for every combination of the grid."""
        compared = query.compared(self.recipe), gallery.compared(self.recipe)
        return evaluate.search(*compared, labels, self.options.grid or GRID, self.comparison())

    def nearest(self, query: Features, gallery: Features, top_k: int) -> list[Ranking]:
        """The `top_k` nearest gallery images of each query, of which nobody knows who is on them."""
        nobody = [0] * len(query.samples), [0] * len(gallery.samples)
        labels = protocols.Labels(*nobody, *nobody, "none", query_items=query.paths, gallery_items=gallery.paths)
        lists = RankedLists(labels, top_k, labelled=False)
        compared = self.expanded(query, gallery).compared(self.recipe), gallery.compared(self.recipe)
        evaluate.rank_features(*compared, labels, self.comparison(self.options.rerank), [lists])
        return lists.choose("given", num=len(query.samples))


def check_distinct(query: Features, gallery: Features, name: str) -> None:
    """ValueError if the network has one answer to every image, to rounding: any metric of that is a number of ties."""
    first = query.embeddings[0]
    rounding = 1e-6 * first.abs().max()
    chunks = (chunk for side in (query, gallery) for chunk in side.embeddings.split(1024))
    if all((chunk - first).abs().max() <= rounding for chunk in chunks):
        raise ValueError(
            f"all {len(query.samples) + len(gallery.samples):,} query and gallery images of {name} have the same "
            "feature: the training has diverged or collapsed, the weights are empty, or the images are all alike. "
            "Lower --lr and train again, or check --weights and the images"
        )


def query_lines(query: Features, measured: Iterable[Sequence[evaluate.RankCollector]]) -> list[dict[str, Any]]:
    """A line of queries.csv per query: its image, named from the folder that all share, and its average precision, its
    rank-1 and the rank of its first hit, None where it has no match; then the same re-ranked.

    measured: of the plain and of the re-ranked distances the ranks in each gallery, over which the means are taken.
    """
    folders = {os.path.dirname(sample.frames[0]) for sample in query.samples}
    root = os.path.commonpath(folders) if folders else ""
    lines: list[dict[str, Any]] = [
        {"query": Path(os.path.relpath(s.frames[0], root)).as_posix(), "pid": s.pid, "camid": s.camid}
        for s in query.samples
    ]
    for prefix, galleries in zip(("", "reranked_"), measured, strict=False):
        total = torch.zeros(4, len(lines), dtype=torch.float64)  # sums over galleries, and in how many it has a match
        for ranks in (each.result() for each in galleries):
            first = ranks.first.double()
            values = ranks.ap, (first == 1).double().mean(1), first.mean(1), torch.ones_like(ranks.ap)
            total.index_add_(1, ranks.query, torch.stack(values))
        for line, (ap, rank1, first_hit, count) in zip(lines, total.T.tolist(), strict=True):
            for key, value in (("ap", ap), ("rank1", rank1), ("first_hit", first_hit)):
                line[prefix + key] = value / count if count else None
    return lines


def queries_file(results: Path) -> Path:
    """The queries.csv that belongs to a file of results: of ``metrics_model.json`` it is ``queries_model.csv``."""
    return results.with_name(f"{results.stem.replace('metrics', 'queries', 1)}.csv")


def queries_table(tested: Tester, model) -> str:
    """What queries.csv says of every set of `tested`, as CSV; evaluated where the last evaluation was in another
    process."""
    for name in tested.splits.keys() - tested.queries.keys():
        tested.alone().one(model, name)
    rows = [{"data": name, **line} for name in tested.splits for line in tested.queries[name]]
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: f"{value:.10g}" if type(value) is float else value for key, value in row.items()})
    return text.getvalue()


class Shown(NamedTuple):
    """What the page of a data set is drawn from."""

    query: tuple[datasets.Sample, ...]
    gallery: tuple[datasets.Sample, ...]
    lists: RankedLists
    metrics: dict
    reranked: Mapping | None  # parameters of the re-ranking behind lists and metrics
    num_galleries: int = 0  # published ones, of which this is the first
    details: Sequence = ()  # `VerificationCounts` and `CameraPairCollector` of this gallery
    parts: tuple | None = None  # of queries and gallery (N, S, D), where the distance compares them
    before: Shown | None = None  # the same before re-ranking


def best_first(runs: list[list[evaluate.Trial]]) -> list[dict]:
    """A search as plain values, best mAP first; of several galleries the means."""
    trials = []
    for same in zip(*runs, strict=True):
        means = {key: sum(getattr(trial, key) for trial in same) / len(same) for key in ("mAP", "rank1")}
        trials.append(same[0]._asdict() | means)
    return sorted(trials, key=lambda trial: -trial["mAP"])


def plain_details(counts: Sequence[VerificationCounts], cameras: Sequence[CameraPairCollector]) -> dict:
    """``verification`` (same person or not, by a threshold on the distance) and ``camera_pairs`` as plain values, of
    the pairs of all galleries together."""
    for collectors in (counts, cameras):
        collectors[0].found = [part for collector in collectors for part in collector.found]
    pairs = cameras[0].result()
    return {
        "verification": counts[0].plain(),
        "camera_pairs": {
            "query_cameras": pairs.query_camids.tolist(),
            "gallery_cameras": pairs.gallery_camids.tolist(),
            "mAP": [[None if value != value else value for value in row] for row in pairs.mAP.tolist()],
            "num_valid": pairs.num_valid.tolist(),
        },
    }


class Stopped(Exception):
    """A signal arrived while evaluating."""


# ---------------------------------------------------------------------------------------------------------------------
# What a person reads
# ---------------------------------------------------------------------------------------------------------------------


def table(results: dict[str, dict], trained_on: str, compared: Mapping[str, Beside]) -> str:
    """The closing table; what others published of this very run stands in a column of its own.

    trained_on: data sets joined by "+", for labels such as ``market2duke``, or a file of which nobody says on what.
    """
    pair = set(trained_on.split("+")) <= datasets.DATASETS.keys()
    called = {name: f"{trained_on}2{name}" if pair else f"{trained_on} on {name}" for name in results}
    width = max(34, *(len(each) + 2 for each in called.values()))
    ranks = "".join(f"{f'rank-{r}':>8}" for r in RANKS)
    lines = [f"{'':<{width}}{ranks}{'mAP':>8}{'mINP':>8}{'queries':>10}{'published':>18}"]
    notes = []
    for name, metrics in results.items():
        theirs = compared.get(name, Beside())
        further = [(f"  {protocol}", values) for protocol, values in metrics.get("protocols", {}).items()]
        for label, values in ((called[name], metrics), ("  re-ranked", metrics.get("reranked")), *further):
            if values:
                numbers = "".join(f"{100 * values[k]:>8.2f}" for k in (*(f"rank{r}" for r in RANKS), "mAP", "mINP"))
                again = reranked_alike(theirs, values) if label == "  re-ranked" else []
                result = (theirs.results if values is metrics else again)[:1]
                cell = f"{result[0].rank1:.1f} / {result[0].mAP:.1f}" if result else ""
                lines.append(f"{label:<{width}}{numbers}{values['num_valid']:>10}{cell:>18}".rstrip())
        if metrics.get("rank1_interval"):
            low, high = metrics["rank1_interval"]
            notes.append(f"{name}: rank-1 {100 * low:.1f} to {100 * high:.1f} (95 % of bootstrap draws over queries)")
        elif "rank1_interval" in metrics:
            notes.append(f"{name}: rank-1 – to – ({evaluate.QUERIES_TO_TELL} queries are needed for an interval)")
        if "protocols" in metrics:
            notes.append(f"{name}: by protocol {metrics['protocol']}, and below by {', '.join(metrics['protocols'])}")
        if metrics.get("num_runs", 1) > 1:
            spread = 100 * metrics["rank1_std"]
            notes.append(f"{name}: mean over {metrics['num_runs']} galleries, rank-1 ± {spread:.2f}")
        if metrics.get("ap", "hits") != "hits":
            notes.append(f"{name}: AP and mAP with trapezoids between the hits (--ap {metrics['ap']})")
        if "mAP_drawn" in metrics:
            notes.append(
                f"{name}: mAP over the drawn galleries {100 * metrics['mAP_drawn']:.2f}, as torchreid v0.0.9 has it"
            )
        if metrics.get("images_per_second"):
            notes.append(f"{name}: {metrics['images_per_second']:,.0f} images/s from file to feature")
        if metrics["num_valid"] < metrics["num_query"]:
            skipped = metrics["num_query"] - metrics["num_valid"]
            notes.append(f"{name}: {skipped} queries without a match in the gallery are skipped")
        notes += published_lines(name, theirs)
        if name.startswith("synthetic"):
            notes.append(f"{name} is a built-in demonstration set, not a benchmark")
        notes += more_lines(name, metrics)
    return "\n".join(lines + notes)


def reranked_alike(theirs: Beside, values: Mapping) -> list[Reranked]:
    """The published re-ranked results of the same parameters as `values` have."""
    names = ("k1", "k2", "lambda_value")
    return [each for result in theirs.results for each in result.reranked
            if all(getattr(each, key) == values.get(key) for key in names)]  # fmt: skip


def published_lines(name: str, theirs: Beside) -> list[str]:
    """Where the published results of a run are from, with what else they print; or why there is none."""
    lines = []
    for result in theirs.results:
        more = [f"rank-{r} {value}" for r, value in ((5, result.rank5), (10, result.rank10)) if value is not None]
        more += [f"re-ranked ({f'k1 {k1}, k2 {k2}, lambda {x}' if k1 else 'parameters searched'}) {rank1} / {mAP}"
                 for rank1, mAP, k1, k2, x in result.reranked]  # fmt: skip
        more += [f"mean of {result.runs} runs"] if result.runs > 1 else []
        said = f" ({'; '.join(more)})" if more else ""
        lines.append(f"{name}: published rank-1 / mAP {result.rank1} / {result.mAP}{said} from {result.source}")
    if theirs.differs:
        lines.append(f"{name}: nothing is published of this run; {theirs.differs}")
    return lines


RANKS = (1, 5, 10, 20)
NUMBERS = ("mAP", "mINP", *(f"rank{r}" for r in RANKS))


def mean_and_std(runs: list[dict]) -> dict:
    """Metrics of several runs or trials as one: the mean of each number, and ``<number>_std`` over them, None of a
    single one; likewise of the re-ranked ones where all have them."""
    numbers = (*NUMBERS, *({"mAP_drawn"} & runs[0].keys()))
    result = {key: sum(run[key] for run in runs) / len(runs) for key in numbers}
    for key in numbers:
        values = torch.tensor([run[key] for run in runs], dtype=torch.float64)
        result[f"{key}_std"] = float(values.std()) if len(runs) > 1 else None
    for key in ("num_query", "num_gallery", "num_valid"):
        result[key] = runs[0][key]
    result["cmc"] = torch.tensor([run["cmc"] for run in runs], dtype=torch.float64).mean(0).tolist()
    if all("reranked" in run for run in runs):
        result["reranked"] = mean_and_std([run["reranked"] for run in runs])
    shared = [name for name in runs[0].get("protocols", ()) if all(name in run.get("protocols", ()) for run in runs)]
    if shared:
        result["protocol"] = runs[0]["protocol"]
        result["protocols"] = {name: mean_and_std([run["protocols"][name] for run in runs]) for name in shared}
    return result | {"num_runs": len(runs), "ap": runs[0].get("ap", "hits")}


def runs_table(summary: dict[str, dict]) -> str:
    """Mean and standard deviation over several runs, in percent."""
    count = next(iter(summary.values()))["num_runs"] if summary else 0
    lines = [f"{f'mean ± std over {count} runs':<34}{'rank-1':>16}{'rank-5':>16}{'mAP':>16}"]
    for name, found in summary.items():
        for label, values in ((name, found), ("  re-ranked", found.get("reranked"))):
            if values:
                spread = {k: "–" if values[f"{k}_std"] is None else f"{100 * values[f'{k}_std']:.2f}" for k in NUMBERS}
                cells = (f"{100 * values[k]:.2f} ± {spread[k]}" for k in ("rank1", "rank5", "mAP"))
                lines.append(f"{label:<34}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def more_lines(name: str, metrics: dict) -> list[str]:
    """Lines for what was asked beyond the table: verification and the search of re-ranking parameters."""
    lines = []
    if "verification" in metrics:
        lines += verification_lines(name, metrics["verification"])
    if "search" in metrics:
        lines.append(f"{name}: re-ranking parameters by mAP (k1, k2, lambda: mAP, rank-1)")
        lines += [
            f"  {t['k1']:>3} {t['k2']:>3} {t['lambda_value']:>5}: {100 * t['mAP']:.2f} {100 * t['rank1']:.2f}"
            for t in metrics["search"][:8]
        ]
        lines.append(
            "The test sets are re-ranked with the best of these."
            if name.endswith("_val")
            else "WARNING: parameters chosen on the test set are not a fair result. Choose them on people who are held "
            "out of training: --validation_ids in training and with --search_rerank."
        )
    return lines


def verification_lines(name: str, same: dict) -> list[str]:
    """Threshold and rates of `VerificationCounts.plain`; a dash where the pairs are too few, and how many it takes."""
    few = f"{name}: compared were {same['pairs_of_one']:,} pairs of one person and {same['pairs_of_two']:,} of two"
    if same["eer"] is None:
        return [f"{name}: same person if the distance is at most – (equal error rate –)",
                f"{few}; {PAIRS_TO_TELL:,} of each are needed"]  # fmt: skip
    shown = ["–" if r["tpr"] is None else f"{100 * r['tpr']:.1f} %" for r in same["rates"]]
    rates = [f"{tpr} at FPR {r['fpr']:g}" for tpr, r in zip(shown, same["rates"], strict=True)]
    lines = [
        f"{name}: same person if the distance is at most {same['eer_threshold']:.4f} (equal error rate "
        f"{100 * same['eer']:.2f} %); true positive rate {', '.join(rates)}"
    ]
    needed = [f"{r['pairs_needed']:,} for FPR {r['fpr']:g}" for r in same["rates"] if r["tpr"] is None]
    return [*lines, f"{few}; needed of two people are {', '.join(needed)}"] if needed else lines


# ---------------------------------------------------------------------------------------------------------------------
# What others published of the very run
# ---------------------------------------------------------------------------------------------------------------------


SAID = 4  # differences that are named


class Beside(NamedTuple):
    """The published results of a run, and, where there are only those of other runs, what the nearest has instead."""

    results: tuple[Published, ...] = ()
    differs: str = ""


def beside(row: Recipe, run: Recipe, trained_on: Iterable[str], name: str, told: Mapping[str, Any]) -> Beside:
    """What the sources of `row` print of training `run` on the sets `trained_on` and testing it on `name`.

    run: the row with all that the user changed. told: the flags of data and test that are not at their defaults, and
    what else makes this another experiment. A result counts only if its run has the same of all of them.
    """
    given = {key: plain(value) for key, value in told.items()} | deciding(run)
    others = []
    exact: list[Published] = []
    for variant in (Variant(row.title, {}, row.published), *row.variants):
        result = between(variant.published, trained_on, name)
        if result is None:
            continue
        known = {*ABOUT, *option_defaults(row)}
        fields = {key: value for key, value in variant.given.items() if key in known}
        theirs = {key: plain(value) for key, value in variant.given.items() if key not in known}
        theirs |= deciding(with_values(row, fields)) | ({} if result.ap == "hits" else {"ap": result.ap})
        differing = [key for key in given | theirs if given.get(key) != theirs.get(key)]
        if not differing and not variant.beyond:
            exact.append(result)
        said = [
            f"{key} {shown(theirs.get(key, 'as published'))}, not {shown(given.get(key, 'default'))}"
            for key in differing
        ]
        others.append([f"the nearest, {variant.name}, has", *said, *filter(None, [variant.beyond])])
    if exact or not others:
        return Beside(tuple(exact))
    start, *said = min(others, key=len)
    more = [f"and {len(said) - SAID} more"] if len(said) > SAID else []
    return Beside(differs=f"{start} {'; '.join(said[:SAID] + more)}")


def deciding(recipe: Recipe) -> dict[str, Any]:
    """Everything of a recipe that decides its result, as plain values; a weight file to start from is just FILE."""
    found = recipe.settings() | {name: plain(getattr(recipe, name)) for name in RESULT_FIELDS}
    found |= {name: plain(value) for name, value in option_defaults(recipe).items()}
    named = recipe.pretrained in ("imagenet", "none")
    for name in ("options", "eval_every", "start_eval"):  # the first stands in its parts, the others move nothing
        found.pop(name, None)
    return found | {"pretrained": recipe.pretrained if named else "FILE"}


def shown(value: Any) -> str:
    """A plain value as a flag has it."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def training_told(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a checkpoint says of its training set, what makes it another than the published one."""
    if origin.get("use_all_images"):
        return {"use_all_images": True}
    found, data = {}, origin.get("data")
    for name, said in data.items() if isinstance(data, dict) else ():
        entry = datasets.DATASETS.get(name)
        whole = (entry.published or {}).get("train") if entry else None
        if whole and None not in whole[:2] and not str(said).startswith(f"{whole[1]:,} images of {whole[0]:,} people"):
            found[f"training set {name}"] = str(said).partition(" (")[0]
    return found
