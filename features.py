"""Features without their images: what ``--mode extract`` writes, and what ``--mode test --features`` measures.

A file holds the rows of one side (query or gallery) or both sides, from here or from anywhere: see `read`. The
measuring is the Tester's own, so every option of a test that reads no image holds here too.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import evaluate
import tester
from cli import named_recipe
from config import Recipe
from datasets import DATASETS, Sample, Splits
from machine import files, fingerprint
from machine.version import VERSION, commit
from parsers.base import mat_variables
from protocols import PROTOCOLS
from recipes import RECIPES
from weights.reading import existing_file, first_line

# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def write(path: Path, found: tester.Features, facts: Mapping[str, Any], labelled: bool) -> Path:
    """`found` as one .npz in one step: ``features`` (N, D) float32, ``paths`` (N,), where they are known ``pids``,
    ``camids`` and ``clothes`` (N,), where they are compared ``parts`` (N, S, D), and each of `facts`. A tracklet's path
    is the JSON list of its frames. Needs no pickle to be read."""
    names = [each if isinstance(each, str) else json.dumps(list(each)) for each in found.paths]
    arrays: dict[str, Any] = {"features": found.embeddings.cpu().numpy(), "paths": np.array(names)}
    if labelled:
        arrays |= {"pids": np.array(found.pids, np.int64), "camids": np.array(found.camids, np.int64)}
        if None not in found.worn:
            arrays["clothes"] = np.array(found.worn, np.int64)
    if found.parts is not None and facts.get("test_distance", "global") != "global":
        arrays["parts"] = found.parts.cpu().numpy()
    arrays |= {name: np.array(value) for name, value in facts.items()}
    with files.replace(path, needed=sum(array.nbytes for array in arrays.values())) as file:
        np.savez(file, **arrays)
    return path


def write_folder(folder: Path, found: tester.Features, facts: Mapping[str, Any]) -> str:
    """features.npy with paths.txt beside it, and both as features.npz; returns what to tell."""
    # all are complete before any takes its place: a row and a line of the same number are of one image
    with files.replace(folder / "paths.txt", "w") as lines:
        lines.writelines(f"{files.as_line(path)}\n" for path in found.paths)
        lines.flush()
        with files.replace(folder / "features.npy") as file:
            np.save(file, found.embeddings.cpu().numpy())
            write(folder / "features.npz", found, facts, labelled=False)
    return (
        f"\n{len(found.samples):,} embeddings of {found.embeddings.shape[1]} numbers, "
        f"to be compared with {facts['metric']} distance\n"
        f"features      {folder / 'features.npy'}\npaths         {folder / 'paths.txt'}\n"
        f"both          {folder / 'features.npz'}"
    )


def write_sets(folder: Path, tested: tester.Tester, model: nn.Module, weights: Path) -> Iterator[str]:
    """<set>_query.npz and <set>_gallery.npz of each set of `tested`, in `folder`; yields what to tell."""
    for name, splits in tested.splits.items():
        facts = facts_of(tested, weights) | {"data": name, "protocol": tested.protocol(name)}
        if splits.trials:
            yield f"{name}: the gallery is the first of {len(splits.trials)}, over which a test takes the mean"
        for side in SIDES:
            rows = tested.features(model, getattr(splits, side), f"{side} of {name}", name=name)
            path = write(folder / f"{name}_{side}.npz", rows, facts | {"side": side}, labelled=True)
            yield f"{'features':<14}{path}: {len(rows.samples):,} rows of {rows.embeddings.shape[1]}"


def facts_of(tested: tester.Tester, weights: Path) -> dict[str, Any]:
    """What has to be known of embeddings: of which weights they are and how they are compared."""
    recipe = tested.recipe
    kept = {name: getattr(recipe, name) for name in ("metric", "test_distance", "local_weight", "image_size")}
    origin = {"weights": weights.name, "weights_sha256": fingerprint.of_file(weights), "version": VERSION}
    return {"recipe": recipe.name, **kept, "flip": tested.options.flip, **origin}


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------

SIDES = ("query", "gallery")
NAMES = {  # what a file may call it: ours first; f, label and cam are those of layumi/Person_reID_baseline_pytorch
    "features": ("features", "f", "feature", "feats", "feat", "embeddings"),
    "pids": ("pids", "label", "labels", "pid"),
    "camids": ("camids", "cam", "cams", "camid"),
    "clothes": ("clothes", "clothes_ids"),
    "paths": ("paths",),
    "parts": ("parts",),
}
DISTANCES = ("distmat", "dist", "distances")
FACTS = ("recipe", "metric", "protocol", "data", "test_distance", "local_weight", "side")
KINDS = (".npz", ".npy", ".mat", ".pt", ".pth")


class Side(NamedTuple):
    """Rows of one side: features (N, D) or None where distances are given; labels (N,) or None where none are told."""

    features: Tensor | None
    pids: np.ndarray | None
    camids: np.ndarray | None
    paths: list[str] | None
    parts: Tensor | None
    clothes: np.ndarray | None = None


class Given(NamedTuple):
    """What the files hold. distances (Q, G) or None; among: those of the queries and of the gallery among themselves,
    where they are given; facts: what ours say of themselves."""

    query: Side
    gallery: Side
    distances: Tensor | None
    among: tuple[Tensor | None, Tensor | None]
    facts: dict[str, Any]


def read(paths: Sequence[Path]) -> Given:
    """Features or a distance matrix with labels, from the query's file and the gallery's, or from one with both.

    .npz (ours, or anybody's without pickled objects), .mat of MATLAB to version 7, .pt of plain tensors: names as in
    `NAMES`, in a file of both sides behind ``query_`` and ``gallery_``; a distance matrix is ``distmat`` (Q, G), and
    re-ranking takes ``query_distmat`` (Q, Q) and ``gallery_distmat`` (G, G) too. .npy: the rows alone.
    Raises FileNotFoundError and ValueError, which say what a file holds and what is wanted.
    """
    if len(paths) > 2:
        raise ValueError(f"--features takes the query's file and the gallery's, or one of both; found {len(paths)}")
    held = [variables(path) for path in paths]
    facts = {name: held[-1][name].item() for name in FACTS if name in held[-1] and held[-1][name].size == 1}
    if len(held) == 2:
        for path, side, found in zip(paths, SIDES, held, strict=True):
            told = str(found["side"]) if "side" in found else side
            if told != side:
                raise ValueError(f"{path} is of the {told}: give the query's file first, then the gallery's")
        sides = [side_of(path, found, "", required=True) for path, found in zip(paths, held, strict=True)]
        check_alike(paths, held)
        return Given(sides[0], sides[1], None, (None, None), facts)
    [path], [found] = paths, held
    name = next((name for name in DISTANCES if name in found), "" if "" in found else None)
    if name is None:
        if pick(found, "", "features") is not None:
            raise ValueError(f"{path} holds the features of one side: give the query's file and the gallery's")
        both = [side_of(path, found, f"{side}_", required=True) for side in SIDES]
        return Given(both[0], both[1], None, (None, None), facts)
    among = [found.get(f"{side}_distmat") for side in SIDES]
    matrices = [None if each is None else matrix(path, each) for each in (found[name], *among)]
    both = [side_of(path, found, f"{side}_", required=False) for side in SIDES]
    return Given(both[0], both[1], matrices[0], (matrices[1], matrices[2]), facts)


def variables(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; that of a .npy has the name ""."""
    existing_file(path, "feature")
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{path} is none of {', '.join(KINDS)}: save features with numpy.savez (docs/embedding.md)")
    try:
        if kind == ".mat":
            return mat_variables(str(path))
        if kind in (".pt", ".pth"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            return {str(name): value.numpy() if isinstance(value, Tensor) else np.asarray(value)
                    for name, value in state.items()}  # fmt: skip
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if kind == ".npz" else {"": np.asarray(loaded)}
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file anything
        raise ValueError(
            f"{path} cannot be read as features ({files.size_text(path.stat().st_size)}; {first_line(error)}): "
            "save it again, of plain numbers"
        ) from None


def pick(found: Mapping[str, np.ndarray], prefix: str, what: str) -> np.ndarray | None:
    """`what` of `NAMES` in a file, under any of its names; a bare .npy is features."""
    names = [f"{prefix}{name}" for name in NAMES[what]] + ([""] if what == "features" and not prefix else [])
    return next((found[name] for name in names if name in found), None)


def side_of(path: Path, found: Mapping[str, np.ndarray], prefix: str, required: bool) -> Side:
    """One side of a file; ValueError where its features are missing but `required`, or its arrays do not agree."""
    given: dict[str, Any] = {what: pick(found, prefix, what) for what in NAMES}
    if required and given["features"] is None:
        wanted = " or ".join(f"{prefix}{name}" for name in NAMES["features"][:2])
        raise ValueError(
            f"{path} holds {', '.join(sorted(found)[:12]) or 'nothing'}: expected {wanted}, or {DISTANCES[0]}"
        )
    features = None if given["features"] is None or not required else matrix(path, given["features"])
    labels = {what: None if given[what] is None else whole(path, f"{prefix}{what}", given[what])
              for what in ("pids", "camids", "clothes")}  # fmt: skip
    names = None if given["paths"] is None else [str(each) for each in np.ravel(given["paths"])]
    parts = None if given["parts"] is None else torch.from_numpy(np.asarray(given["parts"]))
    counts = {what: len(each) for what, each in (("features", features), *labels.items(), ("paths", names))
              if each is not None}  # fmt: skip
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{number:,} {prefix}{what}" for what, number in counts.items())
        raise ValueError(f"{path} holds {told}: expected a row and a label for each image")
    return Side(features, labels["pids"], labels["camids"], names, parts, labels["clothes"])


def matrix(path: Path, array: np.ndarray) -> Tensor:
    """Numbers (N, D) as a tensor."""
    array = np.asarray(array)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise ValueError(f"{path} holds {array.dtype} {array.shape}, expected a row of numbers for each image (N, D)")
    wide = array.dtype if array.dtype in (np.float32, np.float64) else np.float32
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.dtype(wide).newbyteorder("=")))


def whole(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Labels (N,), (1, N) or (N, 1) of whole numbers as int64."""
    flat = np.ravel(array)
    if flat.dtype.kind not in "iuf" or (flat.dtype.kind == "f" and not (np.isfinite(flat) & (flat % 1 == 0)).all()):
        raise ValueError(f"{name} of {path} are {flat.dtype}, expected a whole number for each image")
    return flat.astype(np.int64)


def check_alike(paths: Sequence[Path], held: Sequence[Mapping[str, np.ndarray]]) -> None:
    """ValueError if two files of ours are of different weights, or made to be compared differently."""
    for name in ("weights_sha256", "metric", "flip", "image_size"):
        told = [found[name].tolist() for found in held if name in found]
        if len(told) == 2 and told[0] != told[1]:
            raise ValueError(
                f"{paths[0]} and {paths[1]} are of different {name} ({told[0]}, {told[1]}): no distance is"
            )


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


class Matrix:
    """A distance matrix in the place of a distance: images are their numbers, queries first, then the gallery."""

    def __init__(self, distances: Tensor, among: tuple[Tensor | None, Tensor | None]):
        self.blocks = {(True, False): distances, (True, True): among[0], (False, False): among[1]}
        self.num_query, self.num_gallery = distances.shape

    def rows(self) -> tuple[Tensor, Tensor]:
        """The numbers of the queries (Q, 1) and of the gallery (G, 1)."""
        numbers = torch.arange(self.num_query + self.num_gallery, dtype=torch.float64)[:, None]
        return numbers[: self.num_query], numbers[self.num_query :]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        sides = [bool(numbers[0, 0] < self.num_query) for numbers in (a, b)]
        block = self.blocks[sides[0], sides[1]]
        if block is None:
            raise ValueError(
                "--rerank needs the distances of the queries among themselves and of the gallery too: put them into "
                "the file as query_distmat (Q, Q) and gallery_distmat (G, G), or give features"
            )
        rows, columns = (
            (n[:, 0] - (0 if side else self.num_query)).long() for n, side in zip((a, b), sides, strict=True)
        )
        found = block.index_select(0, rows)
        return found if len(columns) == found.shape[1] else found.index_select(1, columns)


class Scored(tester.Tester):
    """A Tester whose features are there already; its one set is called as the files are."""

    def __init__(self, given: Given, splits: Splits, recipe: Recipe, options: tester.Options, paths: Sequence[Path]):
        self.paths = paths
        self.distance = None if given.distances is None else Matrix(given.distances, given.among)
        if self.distance is not None:
            if options.expansion:
                raise ValueError("--query_expansion makes new features, and these are distances: leave it out")
            if options.search or options.rerank:
                counts = (self.distance.num_query, self.distance.num_gallery)
                for side, block, count in zip(SIDES, given.among, counts, strict=True):
                    if block is None or tuple(block.shape) != (count, count):
                        raise ValueError(
                            f"re-ranking needs {side}_distmat ({count}, {count}) in {paths[0]} beside the distances: "
                            "put it there, give features, or leave --rerank out"
                        )
        super().__init__(recipe, {splits.name: splits}, options, device=torch.device("cpu"))
        rows: Any = self.distance.rows() if self.distance else (given.query.features, given.gallery.features)
        self.given = {
            side: tester.Features(samples, row, told.parts)
            for side, samples, row, told in zip(SIDES, (splits.query, splits.gallery), rows, given[:2], strict=True)
        }

    def shared(self, model, samples, label: str, stop=None, name: str = "") -> tester.Features:
        """The features that were given for this side."""
        return self.given[label.partition(" ")[0]]

    def comparison(self, reranked: Mapping | None = None) -> evaluate.Comparison:
        """By the distances that were given, or as the features are compared."""
        distance = self.distance or self.recipe.distance
        return evaluate.Comparison(self.recipe.metric, distance, reranked, self.options.budget)

    def one(self, model, name: str, stop=None, chosen: dict | None = None) -> dict:
        """As of images, but for their speed."""
        found = super().one(model, name, stop, chosen)
        return {key: value for key, value in found.items() if key != "images_per_second"}

    @property
    def compared(self) -> dict[str, Any]:
        """What is known of the comparison."""
        if self.distance is not None:
            return {"metric": "distances as given"}
        return {name: getattr(self.recipe, name) for name in ("metric", "test_distance")}

    @functools.cached_property
    def data(self) -> dict[str, dict[str, str]]:
        """The files and their digests."""
        return {name: {str(path): fingerprint.of_file(path) for path in self.paths} for name in self.splits}

    def told(self, name: str) -> dict[str, Any]:
        """Of the run behind the features nothing is known."""
        return {}


def scorer(paths: Sequence[Path], options: tester.Options, metric: str | None, known: Splits | None) -> Scored:
    """A tester of the features in `paths`; prints what they are and how they are compared.

    metric: the one asked for, or None. known: a data set whose images the rows are of, in its order, for files that
    hold no labels. ValueError where something does not fit, before anything is computed.
    """
    given = read(paths)
    facts = given.facts
    protocol = options.protocol or facts.get("protocol") or (known.protocol if known else "market1501")
    splits = labelled(given, paths, protocol, known)
    recipe = row_of(facts)
    if given.distances is not None:
        if metric is not None:
            raise ValueError(f"--metric {metric} compares features, and {paths[0]} holds distances: leave it out")
        low, high = given.distances.min().item(), given.distances.abs().max().item()
        if not math.isfinite(high):
            raise ValueError(f"distances of {paths[0]} are not all finite numbers: give one for every pair of images")
        if low < -1e-3 * high:
            raise ValueError(
                f"distances of {paths[0]} go down to {low:.3g}: a similarity? Give distances, such as 1 - it"
            )
        said = "distances as given"
    else:
        widths = [side.features.shape[1] for side in given[:2] if side.features is not None]
        if widths[0] != widths[1]:
            raise ValueError(
                f"query features are {widths[0]} wide, gallery features {widths[1]}: of different networks"
            )
        recipe = recipe.with_(metric=metric or facts.get("metric", "euclidean"))
        asked = "" if metric or "metric" in facts or options.expansion else ", since the file names none (--metric)"
        said = f"{widths[0]} numbers each, {{}} distance{asked}"
    scored = Scored(given, splits, recipe, options, paths)
    print(
        f"{' and '.join(map(str, paths))}: {len(splits.query):,} queries, {len(splits.gallery):,} gallery images; "
        f"{said.format(scored.recipe.metric)}; protocol {protocol}"
    )
    return scored


def row_of(facts: Mapping[str, Any]) -> Recipe:
    """The row behind features of ours, with the distance they were extracted for; of others only its metric counts."""
    name = facts.get("recipe")
    recipe = named_recipe(name) if name in RECIPES else RECIPES["softmax"]
    kept = {key: facts[key] for key in ("test_distance", "local_weight") if key in facts}
    return recipe.with_(**{"test_distance": "global"} | kept, infrared=False)


def labelled(given: Given, paths: Sequence[Path], protocol: str, known: Splits | None) -> Splits:
    """The files as a data set: who is on which row."""
    counts = given.distances.shape if given.distances is not None else [len(s.features) for s in given[:2]]  # type: ignore[arg-type]
    cameras = PROTOCOLS[protocol].same_camera or PROTOCOLS[protocol].cameras if protocol in PROTOCOLS else True
    found = []
    for side, told, count, path in zip(SIDES, given[:2], counts, (paths[0], paths[-1]), strict=True):
        theirs = getattr(known, side) if known else ()
        if told.pids is None:
            if known is None:
                raise ValueError(
                    f"{path} says of no {side} image who is on it: add {side}_pids and {side}_camids (a file of one "
                    "side: pids, camids), or name the data set whose images these are, such as --market_path DIR"
                )
            if len(theirs) != count:
                raise ValueError(f"{path} has {count:,} {side} rows, and {known.name} {len(theirs):,} {side} images")
            found.append(tuple(theirs))
            continue
        if known is not None:
            raise ValueError(f"{path} holds its own labels: leave out the path of data set {known.name}")
        if len(told.pids) != count:
            raise ValueError(f"{path} has {count:,} {side} rows and {len(told.pids):,} labels: expected one for each")
        if told.camids is None and cameras:
            raise ValueError(
                f"{path} has no {side} cameras, by which protocol {protocol} removes images: add {side}_camids (a file "
                "of one side: camids), or use --protocol none"
            )
        camids = np.zeros(count, np.int64) if told.camids is None else told.camids
        names = told.paths or [f"{path.name}, {side} row {row}" for row in range(count)]
        worn = [None] * count if told.clothes is None else told.clothes.tolist()
        rows = zip(names, told.pids.tolist(), camids.tolist(), worn, strict=True)
        found.append(tuple(Sample(*row) for row in rows))
    name = known.name if known else str(given.facts.get("data") or files.safe_name(paths[0].stem))
    if known:
        print(
            f"The rows are taken in the order of the images of {name}: sorted by path, as --mode extract writes them."
        )
    return Splits(name, (), found[0], found[1], protocol=protocol)


READS = frozenset(  # the flags of a test that read no image; all others would do nothing
    "mode features output_path metric protocol ap draws draws_per_query max_rank rerank rerank_k1 rerank_k2 "
    "rerank_lambda search_rerank search_k1 search_k2 search_lambda query_expansion details memory_gb threads debug "
    "test_dataset".split()
)


def refuse_others(said: Sequence[str]) -> None:
    """ValueError if one of the flags `said` is about images or a network; paths and options of data sets are not."""
    others = sorted(set(said) - READS - {f"{name}_path" for name in DATASETS})
    if others:
        raise ValueError(
            f"--features measures rows that are there already, and --{others[0]} is of images: leave it out"
        )


def measure(scored: Scored) -> dict[str, dict]:
    """The metrics of `scored`, for metrics.json: under ``measured`` how and of what."""
    origin = {"version": VERSION, "commit": commit(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    results = scored(nn.Identity())
    told = {name: scored.conditions(name) for name in results}
    return {name: found | {"measured": origin | told[name]} for name, found in results.items()}
