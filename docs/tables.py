"""Writes the tables in docs/*.md from the recipes, the data sets and benchmarks/results.csv: ``python docs/tables.py``.

A page is written by hand but for what stands between ``<!-- name -->`` and ``<!-- /name -->``. A test compares the
pages with what this file makes, so that no number stands in two places by hand.
"""

from __future__ import annotations

import csv
import functools
import re
import shlex
import statistics
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "benchmarks"))  # last: it has files called as some of the suite's

import startup  # noqa: E402, F401

# isort: split
import architectures  # noqa: E402
import cli  # noqa: E402
import datasets  # noqa: E402
import gains  # noqa: E402
import reproduce  # noqa: E402
from networks import backbones  # noqa: E402
from published import Published, Variant, words  # noqa: E402
from recipes import RECIPES  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results.csv"

# ============ benchmarks/results.csv ============

FIELDS = ("kind", "what", "data", "seed", "rank1", "mAP", "mINP", "value", "yardstick", "published", "source", "git",
          "hardware", "seconds", "command", "settings")  # fmt: skip
MOVED = "moved"  # in place of the digest of settings: the command trains otherwise by now
NEEDED = {  # kind of row -> what it may not leave empty
    "accuracy": ("what", "data", "rank1", "mAP", "mINP", "git", "hardware", "command"),
    "speed": ("what", "value", "yardstick", "git", "hardware", "command"),
}
BY_HAND = {  # timed once, in turns with another suite, without a script that a command could name; let there be no more
    "extraction from JPEG, OSNet x0.25, 256x128",
    "extraction from JPEG, OSNet x0.25, 256x128, 1,200 images",
}
EMPTY = {  # kind of row -> what has no meaning for it
    "accuracy": ("value", "yardstick"),
    "speed": ("data", "seed", "rank1", "mAP", "mINP", "published", "source", "settings"),
}
NUMBER = r"\d+(\.\d+)?"
FORMS = {  # what a field that is not empty looks like
    "seed": r"\d+",
    "rank1": NUMBER,
    "mAP": NUMBER,
    "mINP": NUMBER,
    "seconds": NUMBER,
    "published": rf"{NUMBER} / {NUMBER}",  # rank-1 / mAP
    "git": r"[0-9a-f]{7,40}(, [0-9a-f]{7,40})*",
    "command": r"(python|torchrun) .+",
    "settings": rf"[0-9a-f]{{8}}|{MOVED}",
}


def results(path: Path = RESULTS) -> list[dict[str, str]]:
    """The rows of a results file; ValueError that names the line and the fault of the first bad one."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if tuple(header) != FIELDS:
            raise ValueError(f"{path}: the header is {','.join(header)}; expected {','.join(FIELDS)}")
        rows = []
        for fields in lines:
            fault = fault_of(fields)
            if fault:
                raise ValueError(f"{path}, line {lines.line_num}: {fault}")
            row = dict(zip(FIELDS, fields, strict=True))
            if row in rows:
                raise ValueError(f"{path}, line {lines.line_num}: '{row['what']}' stands there twice with all it has")
            rows.append(row)
    return rows


def fault_of(fields: list[str]) -> str | None:
    """What is wrong with one parsed row, or None."""
    if len(fields) != len(FIELDS):
        return f"{len(fields)} fields, the header has {len(FIELDS)}; quote a field that holds a comma"
    row = dict(zip(FIELDS, fields, strict=True))
    kind = row["kind"]
    if kind not in NEEDED:
        return f"kind is '{kind}'; expected one of {', '.join(NEEDED)}"
    for name, value in row.items():
        if value != value.strip():
            return f"{name} is '{value}', with blanks around it"
        if not value and name in NEEDED[kind] and not (name == "command" and row["what"] in BY_HAND):
            return f"{name} is empty, which a row of kind {kind} needs"
        if value and name in EMPTY[kind]:
            return f"{name} is '{value}', which a row of kind {kind} has no place for"
        if value and name in FORMS and not re.fullmatch(FORMS[name], value):
            return f"{name} is '{value}'; expected the form {FORMS[name]}"
        if value and name in ("rank1", "mAP", "mINP") and float(value) > 100:
            return f"{name} is {value}; expected percent"
    if bool(row["published"]) != bool(row["source"]):
        return "a published value and its source belong together"
    if (kind == "accuracy" and "--mode train" in row["command"]) != bool(row["settings"]):
        return f"settings is '{row['settings']}'; a training has the digest of its settings there, and nothing else has"
    if row["settings"] == MOVED and row["published"]:
        return "a published value stands beside a training whose settings have moved since"
    return None


def settings_of(command: str) -> str:
    """The digest of what a training command sets by the recipes as they are now."""
    args, row = cli.parse(shlex.split(command)[2:])
    return cli.customised(row, cli.overrides(args)).digest()


# ============ the tables ============


def cell(text: str) -> str:
    """`text` in one cell of a table: on one line, its bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def grid(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def recipe_table() -> str:
    """One row per recipe: command, what it is, published rank-1 / mAP with source, and what it gave here."""
    rows, here = [], reproduced()
    for name, recipe in RECIPES.items():
        published = "; ".join(f"{on} {p.rank1} / {p.mAP}" for on, p in recipe.published.items()) or "none"
        sources = "; ".join(dict.fromkeys(p.source for p in recipe.published.values())) or recipe.source
        rows.append((f"`--recipe {name}`", recipe.title, published, here.get(name, ""), sources))
    return grid(("flag", "method", "published rank-1 / mAP", "trained here, as published", "source"), rows)


def reproduced() -> dict[str, str]:
    """Recipe -> rank-1 / mAP of its trainings that stand beside a published value; of several seeds mean ± std."""
    found: dict[str, dict[str, dict[str, dict[str, str]]]] = {}  # recipe, data set, seed
    for row in results():
        if row["kind"] == "accuracy" and row["settings"] and row["published"]:
            name = cli.parse(shlex.split(row["command"])[2:])[1].name
            found.setdefault(name, {}).setdefault(row["data"].split(" → ")[-1], {})[row["seed"]] = row
    return {name: "; ".join(f"{on} {mean_of(rows, 'rank1')} / {mean_of(rows, 'mAP')}" for on, rows in sets.items())
            for name, sets in found.items()}  # fmt: skip


def mean_of(seeds: dict[str, dict[str, str]], name: str) -> str:
    """Of a column, over seeds; of several with the standard deviation (of n - 1)."""
    values = [float(row[name]) for row in seeds.values()]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def result_of(result: Published) -> tuple[str, ...]:
    """Its numbers and what they are of, as cells."""
    ranks = [str(each) if each is not None else "" for each in (result.rank1, result.rank5, result.rank10, result.mAP)]
    again = [f"{each.rank1} / {each.mAP} ({f'{each.k1}, {each.k2}, {each.lambda_value}' if each.k1 else 'searched'})"
             for each in result.reranked]  # fmt: skip
    return (*ranks, "; ".join(again), str(result.runs), result.source)


def variant_table() -> str:
    """Published runs that a row gives with a few flags, and everything that is printed of the rows themselves."""
    rows = []
    for name, recipe in RECIPES.items():
        for variant in (Variant("", {}, recipe.published), *recipe.variants):
            ap = {each.ap for each in variant.published.values()} - {"hits"}
            command = " ".join(["--recipe", name, *words(variant.given), *(f"--ap {each}" for each in ap)])
            lacking = f" (and {variant.beyond})" if variant.beyond else ""
            for on, result in variant.published.items():
                if variant.given or lacking or result.rank5 or result.reranked or result.runs > 1:
                    rows.append((f"`{command}`{lacking}", on, *result_of(result)))
    header = ("flags", "data", "rank-1", "rank-5", "rank-10", "mAP", "re-ranked (k1, k2, lambda)", "runs", "source")
    return grid(header, rows)


def difference_list() -> str:
    """What the recipes say of paper, authors' code and this suite; once where several rows say the same."""
    names: dict[str, list[str]] = {}
    for name, recipe in RECIPES.items():
        names.setdefault(cell(recipe.differs), []).append(f"`{name}`")
    return "\n".join(f"- {', '.join(of)}: {differs}" for differs, of in names.items() if differs)


def dataset_table() -> str:
    """One row per data set; what to put where is the parser's own docstring, from "Folders:" on."""
    rows = []
    for name, entry in datasets.DATASETS.items():
        layout, offer = entry.layout or "see below", entry.offer or "made or kept by you"
        rows.append((f"`--{name}_path`", entry.description, layout, offer))
    return grid(("flag", "data set", "what to put where", "where it is offered, on what terms"), rows)


def network_table() -> str:
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


def name_table() -> str:
    """Keys of other public factories -> what they are here."""
    rows = []
    for name, (library, key) in backbones.ALIASES.items():
        if name not in architectures.NETWORKS:
            rows.append(
                (
                    f"`{name}`",
                    f"`--backbone {name}`",
                    f"{'networks/backbones.py' if library == 'here' else library}: {key}",
                )
            )
    rows += [
        (f"`{name}`", here, "") for name, here in backbones.ELSEWHERE.items() if name not in architectures.NETWORKS
    ]
    return grid(("key elsewhere", "here", "comes from"), rows)


def paper_list() -> str:
    """The papers of all recipes."""
    return "\n".join(f"- {paper}" for paper in sorted({r.paper for r in RECIPES.values()}))


def accuracy_table() -> str:
    """Runs of ours; what others published stands in columns of its own."""
    columns = ("what", "data", "seed", "rank1", "mAP", "mINP", "seconds", "hardware", "commit", "published", "source")
    header = ("run", "trained on → tested on", "seed", "rank-1", "mAP", "mINP", "seconds", "hardware", "commit",
              "published rank-1 / mAP", "source of the published")  # fmt: skip
    rows = [row for row in results() if row["kind"] == "accuracy"]
    for row in rows:
        row["commit"] = row["git"] + (", whose settings have moved since" if row["settings"] == MOVED else "")
    return grid(header, [tuple(row[c] for c in columns) for row in rows])


def seed_table() -> str:
    """Trainings that were run with several seeds: mean and standard deviation (of n - 1) of the numbers as shown."""
    runs: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in results():
        if row["kind"] == "accuracy" and row["seed"]:
            of = tuple(row[name] for name in ("what", "data", "settings", "published", "source"))
            runs.setdefault(of, {})[row["seed"]] = row  # of several rows of a seed the last counts
    lines = []
    for (what, data, _, published, source), seeds in runs.items():
        if len(seeds) > 1:
            means = [mean_of(seeds, name) for name in ("rank1", "mAP", "mINP")]
            lines.append((what, data, ", ".join(sorted(seeds)), *means, published, source))
    header = ("run", "trained on → tested on", "seeds", "rank-1", "mAP", "mINP", "published rank-1 / mAP", "source")
    return grid(header, lines)


FORMS_OF = {  # end of a picture's name -> form of the list, as of reproduce.py --short, and its images
    "": (0, reproduce.SHORT_SIZE),
    "_short": (1, reproduce.SHORT_SIZE),
    "_short3": (3, reproduce.SHORT_SIZE),
    "_tall": (1, (192, 64)),
}


def steps(group: str, short: int, image_size: tuple[int, int]) -> tuple[str, list[gains.Gain]]:
    """Of a group of benchmarks/reproduce.py, in one of its forms: its title, and what was found."""
    listed = [each for each in reproduce.experiments(short, image_size) if each.group == group]
    return gains.parts(listed)[0], gains.found(listed, results())


def measured(group: str) -> dict[str, tuple[str, list[gains.Gain]]]:
    """End of a picture's name -> title and steps, of the forms in which something is a step from something."""
    forms = {end: steps(group, *form) for end, form in FORMS_OF.items()}
    return {end: form for end, form in forms.items() if any(gain.gained for gain in form[1])}


def gain_table(group: str) -> str:
    """A picture and a table of each form that is measured."""
    parts = []
    for end, (title, found) in measured(group).items():
        parts.append(f"![{title}: what each step gives]({group}{end}.svg)\n\n{title}, rank-1 / mAP:\n\n"
                     + grid(gains.HEADER, gains.cells(found)))  # fmt: skip
    return "\n\n".join(parts)


def speed_table() -> str:
    """Measurements of speed and memory, each with what was measured beside it in the same run."""
    header = ("measured", "value", "yardstick in the same run", "hardware", "commit")
    columns = ("what", "value", "yardstick", "hardware", "git")
    return grid(header, [tuple(row[c] for c in columns) for row in results() if row["kind"] == "speed"])


def parity_table() -> str:
    """What tests compare with public code, and the largest difference that they allow."""
    with open(ROOT / "tests" / "parity.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows = [(line["what"], line["source"], line["largest"], f"`{line['test']}`") for line in lines]
    return grid(("what", "against", "largest difference", "test"), rows)


GROUPS = ("tricks", "methods")  # of benchmarks/reproduce.py, whose lines are steps
PAGES = {  # page -> its sections
    "recipes.md": {"recipes": recipe_table, "variants": variant_table, "differs": difference_list},
    "networks.md": {"networks": network_table, "names": name_table},
    "results.md": {
        "seeds": seed_table,
        "accuracy": accuracy_table,
        **{group: functools.partial(gain_table, group) for group in GROUPS},
        "speed": speed_table,
    },
    "datasets.md": {"datasets": dataset_table},
    "papers.md": {"papers": paper_list},
    "parity.md": {"parity": parity_table},
}


def pictures() -> dict[str, tuple[str, list[gains.Gain]]]:
    """File of docs/ -> title and steps."""
    return {f"{group}{end}.svg": form for group in GROUPS for end, form in measured(group).items()}


def filled(page: str, text: str) -> str:
    """The text of a page with each of its marked sections written anew."""
    for name, make in PAGES[page].items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"docs/{page} needs one {start} and one {end} after it")
        head, rest = text.split(start)
        text = f"{head}{start}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Write the tables of all pages, and the pictures."""
    for page in PAGES:
        path = DOCS / page
        path.write_text(filled(page, path.read_text(encoding="utf-8")), encoding="utf-8")
    for picture, (title, found) in pictures().items():
        (DOCS / picture).write_text(gains.picture(found, title), encoding="utf-8")


if __name__ == "__main__":
    main()
