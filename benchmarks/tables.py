"""Writes README's tables from recipes.py, datasets.py and results.csv: ``python benchmarks/tables.py``.

A test compares README with what this prints, so that no number stands in two places by hand.
"""

from __future__ import annotations

import csv
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import architectures  # noqa: E402
import datasets  # noqa: E402
from networks import backbones  # noqa: E402
from recipes import RECIPES  # noqa: E402

RESULTS = Path(__file__).parent / "results.csv"


def grid(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def recipe_table() -> str:
    """One row per recipe: command, what it is, published rank-1 / mAP with source."""
    rows = []
    for name, recipe in RECIPES.items():
        published = "; ".join(f"{on} {p.rank1} / {p.mAP}" for on, p in recipe.published.items()) or "none"
        sources = "; ".join(dict.fromkeys(p.source for p in recipe.published.values())) or recipe.source
        rows.append((f"`--recipe {name}`", recipe.title, published, sources))
    return grid(("flag", "method", "published rank-1 / mAP", "source"), rows)


def dataset_table() -> str:
    """One row per data set; what to put where is the parser's own docstring, from "Folders:" on."""
    rows = []
    for name, entry in datasets.DATASETS.items():
        layout = (inspect.getdoc(entry.parse) or "").partition("Folders:")[2]
        layout = " ".join(layout.split()) or "see below"
        rows.append((f"`--{name}_path`", entry.description, layout, entry.offer or "made or kept by you"))
    return grid(("flag", "data set", "what to put where", "where it is offered, on what terms"), rows)


def backbone_table() -> str:
    """torchreid's keys -> where the network comes from."""
    rows = []
    for key, network in architectures.NETWORKS.items():
        options = getattr(network, "keywords", {})
        if "backbone" in options:
            library, name = backbones.resolve(options["backbone"])
            source = "networks/backbones.py" if library == "here" else f"{library}: {name}"
            wide = f", then {options['fc_dims'][0]}-d" if "fc_dims" in options else ""
            rows.append((f"`{key}`", f"{source}{wide}"))
        else:
            kind = getattr(network, "func", network)
            rows.append((f"`{key}`", f"{kind.__module__.replace('.', '/')}.py: {kind.__name__}"))
    return grid(("torchreid's key", "comes from"), rows)


def paper_list() -> str:
    return "\n".join(f"- {paper}" for paper in sorted({r.paper for r in RECIPES.values()}))


def results_tables() -> str:
    """Accuracy runs, then measurements of speed and memory."""
    with open(RESULTS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    accuracy = [
        (r["what"], r["data"], r["seed"], r["rank1"], r["mAP"], r["mINP"], r["seconds"], r["hardware"])
        for r in rows
        if r["kind"] == "accuracy"
    ]
    speed = [(r["what"], r["value"], r["yardstick"], r["hardware"]) for r in rows if r["kind"] == "speed"]
    text = grid(("run", "trained on → tested on", "seed", "rank-1", "mAP", "mINP", "seconds", "hardware"), accuracy)
    return text + "\n\n" + grid(("measured", "value", "yardstick in the same run", "hardware"), speed)


SECTIONS = {
    "recipes": recipe_table,
    "backbones": backbone_table,
    "results": results_tables,
    "datasets": dataset_table,
    "papers": paper_list,
}


def filled(text: str) -> str:
    """README with every marked section written anew."""
    for name, make in SECTIONS.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, rest = text.split(start)
        text = f"{head}{start}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
