"""Several runs side by side, from the files in their folders: one table, one page, and the same table for a paper.

Runs whose settings are equal but for the seed are one row, mean ± std. Whether two rows differ is asked of the same
queries: their average precisions are drawn together (paired bootstrap), and the runs of a row with them.
"""

from __future__ import annotations

import csv
import glob
import html
import io
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from config import Recipe
from evaluate import QUERIES_TO_TELL
from machine import files
from machine.version import VERSION, commit
from page import template
from tester import queries_file

NUMBERS = {"rank1": "rank-1", "mAP": "mAP", "mINP": "mINP"}
COMPARED = {"rank1": "rank1", "mAP": "ap"}  # of a result -> of a line of queries.csv
DRAWS = 5_000  # of the bootstrap
NO_SETTING = {"version", "commit", "torch", "seed", "date", "command", "weights", "weights_sha256", "overrides", "runs",
              "fingerprint", "interpolation", "lengthened"}  # fmt: skip

# ============ what the folders say ============


@dataclass(frozen=True)
class Run:
    """One run, or one test of weights.

    results: "market", "market re-ranked", ... -> fractions by name. settings: all that decides them but the seed, flat.
    tested: of each result what must be equal for another to be comparable. about: commit, date, command, weights.
    state: of a run that is not finished, how far it is.
    """

    path: Path
    results: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    tested: Mapping[str, str]
    about: Mapping[str, Any]
    seed: int | None
    log: Sequence[Mapping[str, Any]] = ()
    state: str = ""
    family: Path | None = None  # the folder of --repeat or --all_splits that it belongs to

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return self.path.parent if self.path.suffix == ".json" else self.path


def found(path: Path, family: Path | None = None, deeper: bool = True) -> list[Run]:
    """The runs of `path`: a file of results, the folder of a run, of --repeat or --all_splits, or one of folders.

    Of a folder the results of its training count, where it has none those of its tests. Raises FileNotFoundError where
    there is no such path, ValueError that names a damaged file.
    """
    if path.is_file():
        return [read(path, family)]
    if not path.is_dir():
        raise FileNotFoundError(f"--mode report: there is no {path}: name folders of runs, or their metrics*.json")
    own, tests = path / "metrics.json", sorted(path.glob("metrics_*.json"))
    if own.is_file():
        children = next((each.get("measured", {}).get("runs") for each in _sets(own).values()), None)
        if not children:
            return [read(own, family)]
        return [run for child in children if (path / child).is_dir() for run in found(path / child, path, False)]
    if tests:
        return [read(test, family) for test in tests]
    if (path / "log.jsonl").is_file():
        return [unfinished(path, family)]
    inside = sorted(each for each in path.iterdir() if each.is_dir()) if deeper else ()
    return [run for each in inside for run in found(each, family, False)]


def read(path: Path, family: Path | None = None) -> Run:
    """The run that `path`, a metrics*.json, is of."""
    sets, about = _sets(path), {}
    results: dict[str, Mapping] = {}
    tested: dict[str, str] = {}
    for name, metrics in sets.items():
        measured = metrics.get("measured", {})
        about = {key: measured[key] for key in ("commit", "date", "command", "weights") if key in measured}
        told: dict[str, Any] = {key: measured.get(key) for key in ("data", "protocol")} | {
            "ap": metrics.get("ap", "hits")
        }
        for label, values in ((name, metrics), (f"{name} re-ranked", metrics.get("reranked"))):
            if values:
                results[label], tested[label] = _checked(values, path), json.dumps(told, sort_keys=True)
    own = _run(path.parent) if path.name == "metrics.json" else {}
    first: Mapping = next(iter(sets.values()), {}).get("measured", {})
    settings = _tested_by(sets) | (_trained_by(own) if own else _of_weights(first))
    if own:
        about |= {key: own["started"][-1].get(key) for key in ("device", "host", "command", "versions")}
    log = _log(path.parent / "log.jsonl") if path.name == "metrics.json" else []
    return Run(path, results, settings, tested, about, own.get("seed", first.get("seed")), log, "", family)


def unfinished(folder: Path, family: Path | None) -> Run:
    """A run that has a log and no results yet."""
    log, own = _log(folder / "log.jsonl"), _run(folder)
    whole = own.get("settings", {}).get("epochs")
    state = f"not finished: epoch {log[-1]['epoch'] if log else 0}" + (f" of {whole}" if whole else "")
    evaluated = [line for line in log if line.get("metrics")]
    results = {name: _checked(found, folder) for line in evaluated[-1:] for name, found in line["metrics"].items()}
    settings = _trained_by(own) if own else {"run": str(folder)}
    return Run(folder, results, settings | {"state": state}, {}, {}, own.get("seed"), log, state, family)


def _sets(path: Path) -> dict[str, dict]:
    """The results of a metrics*.json by data set."""
    content = _json(path)
    if not isinstance(content, dict) or not all(
        isinstance(each, dict) and isinstance(each.get("measured", {}), dict) for each in content.values()
    ):
        raise ValueError(f"{path} holds no results of this suite: expected data sets with their numbers")
    return content


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give its run's command again, or leave it out") from None


def _checked(values: Mapping, path: Path) -> Mapping:
    """`values` if they hold the numbers that a table shows, as fractions."""
    for key in ("rank1", "mAP"):
        value = values.get(key) if isinstance(values, Mapping) else None
        if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator]
            raise ValueError(f"{path}: {key} is {value!r}, expected a fraction: the file is damaged, or another's")
    return values


def _run(folder: Path) -> dict[str, Any]:
    """run.json, or nothing where a run of before has none."""
    path = folder / "run.json"
    content = _json(path) if path.is_file() else {}
    if content and not (isinstance(content, dict) and content.get("started") and "settings" in content):
        raise ValueError(f"{path} is no run.json of this suite: give the run's command again, or leave it out")
    return content


def _log(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    try:
        log = [json.loads(line) for line in lines]
        return [line | {"epoch": int(line["epoch"])} for line in log]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): give its run's command again, which writes it anew, or leave the run out"
        ) from None


def _trained_by(run: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of what decides the weights, flat."""
    plain = {key: run[key] for key in ("recipe", "trained_on", "amp", "validation_ids", "use_all_images") if key in run}
    data = {f"training images of {name}": said for name, said in run.get("data", {}).items()}
    rest = {key: run[key] for key in ("begun_after",) if key in run}
    return plain | Recipe.defaults() | run["settings"] | data | rest | run.get("machine", {})


def _of_weights(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What a test says of weights whose training is not known here."""
    return {"weights": measured.get("weights_sha256", "?")[:16], **measured.get("overrides", {})}


def _tested_by(sets: Mapping[str, Mapping]) -> dict[str, Any]:
    """What decides the results beside the weights, flat; once where it is the same for all data sets."""
    told: dict[str, dict[str, Any]] = {}
    for name, metrics in sets.items():
        measured = metrics.get("measured", {})
        plain = {k: v for k, v in measured.items() if k not in NO_SETTING and k not in ("options", "data")}
        plain |= measured.get("options", {})
        for key, value in plain.items():
            told.setdefault(key, {})[name] = value
        if "data" in measured:
            told[f"test images of {name}"] = {name: ", ".join(f"{k} {v}" for k, v in measured["data"].items())}
    same = {key: next(iter(of.values())) for key, of in told.items() if len({json.dumps(v) for v in of.values()}) == 1}
    apart = {f"{key} of {name}": v for key, of in told.items() if key not in same for name, v in of.items()}
    return same | apart


# ============ rows ============


@dataclass(eq=False)
class Row:
    """Runs with the same settings but for the seed."""

    letter: str
    runs: list[Run]
    name: str = ""

    def value(self, setting: str) -> Any:
        """What all its runs have, or how they differ."""
        told = {shown(run.settings.get(setting)) for run in self.runs}
        return told.pop() if len(told) == 1 else "varies"

    def cell(self, column: str, number: str) -> tuple[float, float | None, int] | None:
        """Mean in percent, standard deviation (None of one run), number of runs; None where no run has it."""
        values = [100 * run.results[column][number] for run in self.runs if number in run.results.get(column, {})]
        if not values:
            return None
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values)


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """The runs by their settings, in the order in which they came; a family whose data differ (--all_splits) is one."""
    keys = {run.path: _key(run) for run in runs}
    for family in {run.family for run in runs} - {None}:
        members = [run for run in runs if run.family == family and not run.state]
        if len({keys[run.path] for run in members}) == len(members) > 1:
            keys |= {run.path: str(family) for run in members}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(keys[run.path], []).append(run)
    rows = [Row(_letter(number), members) for number, members in enumerate(groups.values())]
    _name(rows)
    return rows


def _key(run: Run) -> str:
    settings = dict(run.settings)
    if settings.get("validation_ids"):  # which people are held out is drawn from the seed
        settings = {k: v for k, v in settings.items() if not k.startswith(("training images of", "test images of"))}
        settings["tested"] = {name: told for name, told in run.tested.items() if "_val" not in name}
    return json.dumps(settings, sort_keys=True, default=str)


def _letter(number: int) -> str:
    return ("" if number < 26 else _letter(number // 26 - 1)) + chr(ord("A") + number % 26)


def differing(rows: Sequence[Row]) -> list[str]:
    """The settings in which rows differ, those that one recipe's runs differ in first."""
    names = dict.fromkeys(name for row in rows for run in row.runs for name in run.settings)
    return [name for name in names if len({row.value(name) for row in rows}) > 1]


def _name(rows: Sequence[Row]) -> None:
    """A name for each: its recipe or weight file, and what sets it apart from other rows of that; where that is much,
    its folder."""
    for row in rows:
        first = row.runs[0]
        weights = "weights" in first.settings and first.about.get("weights")
        row.name = Path(str(weights)).name if weights else str(first.settings.get("recipe", first.folder.name))
    for name in {row.name for row in rows}:
        alike = [row for row in rows if row.name == name]
        told = [each for each in differing(alike) if "images of" not in each and each != "weights"]
        for row in alike if len(alike) > 1 else ():
            words = [f"{each} {row.value(each)}" for each in told]
            row.name = ", ".join([name, *words] if 0 < len(words) <= 3 else [name, row.runs[0].folder.name])
    for row in rows:
        if sum(other.name == row.name for other in rows) > 1:
            row.name = f"{row.name} ({row.runs[0].path})"


def shown(value: Any) -> str:
    """A setting as one would give it to its flag."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "–"
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


# ============ is the difference real? ============


class Difference(NamedTuple):
    """Of row `one` over row `other`, in percent: the difference of their means and its 95 % interval."""

    column: str
    number: str
    one: Row
    other: Row
    value: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether the interval, as it is printed, is on one side of 0."""
        return round(self.low, 2) > 0 or round(self.high, 2) < 0

    def __str__(self) -> str:
        told = "real" if self.real else "not told from chance"
        ends = f"{self.low:+.2f} to {self.high:+.2f}"
        return f"{self.one.letter} − {self.other.letter} = {self.value:+.2f} ({ends}): {told}"


def differences(rows: Sequence[Row], seed: int = 0) -> tuple[list[Difference], list[str]]:
    """Of every two rows in every column, and what could not be compared, in words.

    Paired bootstrap (Efron & Tibshirani 1993, Ch. 16): the same queries are drawn for all runs, and the runs of each
    row with them, `DRAWS` times. The interval so holds the chance of other queries and of other seeds; from two or
    three runs a row it is somewhat too narrow.
    """
    told: list[Difference] = []
    notes: list[str] = []
    columns = dict.fromkeys(column for row in rows for run in row.runs for column in run.results)
    queries = {run.path: _queries(run) for row in rows for run in row.runs if not run.state}
    for column in columns:
        having = [row for row in rows if any(column in run.results and not run.state for run in row.runs)]
        answered: dict[str, dict[str, list[list[list[float]]]]] = {}  # what was tested -> row -> `COMPARED` of each run
        for row, run in ((each, run) for each in having for run in each.runs) if len(having) > 1 else ():
            if column not in queries[run.path]:
                notes.append(f"{column}: {run.path} has no queries*.csv beside it: test it again to compare it")
                continue
            names, numbers = queries[run.path][column]
            same = json.dumps([run.tested.get(column), names])
            answered.setdefault(same, {}).setdefault(row.letter, []).append(numbers)
        by_letter = {row.letter: row for row in having}
        if len(answered) > 1:
            sides = "; ".join(" ".join(letters) for letters in answered.values())
            notes.append(f"{column}: not measured on the same images in the same way, and not compared: {sides}")
        for group in answered.values():
            if len(group) > 1:
                told += _compared(column, {by_letter[letter]: np.array(runs) for letter, runs in group.items()}, seed)
    for each in [each for each in told if math.isnan(each.low)][:1]:
        notes.append(f"{each.column}: {QUERIES_TO_TELL} queries with a match are needed to compare")
    return [each for each in told if not math.isnan(each.low)], list(dict.fromkeys(notes))


def _queries(run: Run) -> dict[str, tuple[list[str], list[list[float]]]]:
    """Column -> the queries with a match, and their (rank-1, AP), of the queries.csv beside the results of `run`."""
    path = queries_file(run.path)
    if not path.is_file():
        return {}
    found: dict[str, tuple[list[str], list[list[float]]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                for label, prefix in ((line["data"], ""), (f"{line['data']} re-ranked", "reranked_")):
                    if line.get(f"{prefix}ap"):
                        names, numbers = found.setdefault(label, ([], [[] for _ in COMPARED]))
                        names.append(line["query"])
                        for values, key in zip(numbers, COMPARED.values(), strict=True):
                            values.append(float(line[prefix + key]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): test its weights again, or remove it") from None
    return found


def _compared(column: str, measured: Mapping[Any, np.ndarray], seed: int) -> list[Difference]:
    """measured: row -> (runs, numbers, queries), of the same queries."""
    rows, count = list(measured), next(iter(measured.values())).shape[2]
    stacked = np.concatenate(list(measured.values()))  # (all runs, numbers, queries)
    random = np.random.default_rng(seed)
    enough = count >= QUERIES_TO_TELL
    parts = [
        np.einsum("dq,rnq->drn", random.multinomial(count, np.full(count, 1 / count), size=500) / count, stacked)
        for _ in range(DRAWS // 500 if enough else 0)
    ]
    means = np.concatenate([np.empty((0, *stacked.shape[:2])), *parts])  # (draws, all runs, numbers)
    drawn, start = {}, 0
    for row in rows:
        own = means[:, start : start + len(measured[row])]
        picked = random.integers(own.shape[1], size=own.shape[:2])  # which runs, each as often as it has runs
        drawn[row], start = np.take_along_axis(own, picked[..., None], axis=1).mean(1), start + own.shape[1]
    result = []
    for one, other in combinations(rows, 2):
        value = measured[one].mean((0, 2)) - measured[other].mean((0, 2))
        gap = drawn[one] - drawn[other]
        low, high = np.quantile(gap, (0.025, 0.975), axis=0) if enough else np.full((2, len(COMPARED)), math.nan)
        for place, number in enumerate(COMPARED):
            ends = (100 * float(each[place]) for each in (value, low, high))
            result.append(Difference(column, number, one, other, *ends))
    return result


# ============ the table, as text, for a paper, for a spreadsheet ============


class Report(NamedTuple):
    """What is written and printed."""

    rows: list[Row]
    columns: list[str]
    settings: list[str]  # that differ
    told: list[Difference]
    notes: list[str]


def number_text(cell: tuple[float, float | None, int] | None, plus: str = " ± ") -> str:
    """A cell in percent."""
    if cell is None:
        return "–"
    return f"{cell[0]:.2f}" + (f"{plus}{cell[1]:.2f}" if cell[1] is not None else "")


def best_of(report: Report, column: str, number: str) -> str:
    """The letter of the row with the highest mean."""
    cells = {row.letter: row.cell(column, number) for row in report.rows if not row.runs[0].state}
    return max((letter for letter in cells if cells[letter]), key=lambda x: cells[x][0], default="")  # type: ignore[index]


def text_table(report: Report) -> str:
    """For a terminal."""
    width = max(12, *(len(row.name) for row in report.rows)) + 4
    heads = [f"{column} {NUMBERS[number]}" for column in report.columns for number in COMPARED]
    lines = [f"{'':<{width}}{'runs':>6}" + "".join(f"{head:>{max(18, len(head) + 2)}}" for head in heads)]
    for row in report.rows:
        cells = [number_text(row.cell(column, number)) for column in report.columns for number in COMPARED]
        text = "".join(f"{cell:>{max(18, len(head) + 2)}}" for cell, head in zip(cells, heads, strict=True))
        lines.append(f"{f'{row.letter}  {row.name}':<{width}}{len(row.runs):>6}{text}")
    return "\n".join(lines)


def latex_table(report: Report) -> str:
    """For a paper, with booktabs; the highest of each column in bold."""
    plain = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{",
             "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}  # fmt: skip

    def escaped(text: str) -> str:
        return "".join(plain.get(letter, letter) for letter in text)

    heads = " & ".join(rf"\multicolumn{{{len(COMPARED)}}}{{c}}{{{escaped(column)}}}" for column in report.columns)
    names = " & ".join(NUMBERS[number] for _ in report.columns for number in COMPARED)
    lines = [
        "% percent; mean $\\pm$ standard deviation over the runs of a row; bold: the highest mean. Needs booktabs.",
        rf"\begin{{tabular}}{{l{'r' * (1 + len(COMPARED) * len(report.columns))}}}",
        r"\toprule",
        rf" & & {heads} \\",
        rf" & runs & {names} \\",
        r"\midrule",
    ]
    for row in report.rows:
        cells = []
        for column in report.columns:
            for number in COMPARED:
                text = number_text(row.cell(column, number), r" \pm ").replace("–", r"\text{--}")
                bold = best_of(report, column, number) == row.letter
                cells.append(rf"$\mathbf{{{text}}}$" if bold else "--" if "text" in text else f"${text}$")
        lines.append(rf"{escaped(row.name)} & {len(row.runs)} & {' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def markdown_table(report: Report) -> str:
    """For a page of text."""
    heads = ["run", "runs", *(f"{column} {NUMBERS[number]}" for column in report.columns for number in COMPARED)]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in report.rows:
        cells = [number_text(row.cell(column, number)) for column in report.columns for number in COMPARED]
        lines.append(f"| {' | '.join([row.name.replace('|', chr(92) + '|'), str(len(row.runs)), *cells])} |")
    return "\n".join(lines) + "\n"


def csv_table(report: Report) -> str:
    """For a spreadsheet: a line per row and column of results, with the settings that differ."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    heads = [f"{number}{part}" for number in NUMBERS for part in ("", "_std")]
    table.writerow(["run", "name", "runs", "data", *heads, *report.settings, "folders"])
    for row in report.rows:
        for column in report.columns:
            cells = [row.cell(column, number) or (None, None, 0) for number in NUMBERS]
            numbers = ["" if value is None else f"{value:.4f}" for cell in cells for value in cell[:2]]
            folders = " ".join(str(run.path) for run in row.runs)
            settings = [row.value(name) for name in report.settings]
            table.writerow([row.letter, row.name, len(row.runs), column, *numbers, *settings, folders])
    return text.getvalue()


# ============ all of it ============


def collected(paths: Iterable[Path], chosen: Sequence[str] = (), output: Path | None = None, seed: int = 0) -> Report:
    """Everything about the runs of `paths`; chosen: data sets, all where none is named; output: where it will be
    written.

    ValueError where there is no run to report.
    """
    runs: dict[Path, Run] = {}
    notes = []
    for path in (each for named in paths for each in _expanded(named)):
        inside = found(path)
        own = output is not None and path.resolve() == output.resolve()  # an earlier report, of runs/*
        notes += [] if inside or own else [f"left out: {path} holds no run (no metrics*.json, no log.jsonl)"]
        runs |= {run.path.resolve(): run for run in inside}
    if not runs:
        raise ValueError(
            "--mode report found no run: name folders of runs, as in --mode report runs/*"
            + "".join(f"; {n}" for n in notes)
        )
    rows = rows_of(list(runs.values()))
    for row in rows:
        seeds = [run.seed for run in row.runs if run.family is None]
        if len(set(seeds)) < len(seeds):
            notes.append(
                f"{row.letter}: a seed is there more than once ({', '.join(str(run.folder) for run in row.runs)})"
            )
    columns = dict.fromkeys(column for row in rows for run in row.runs for column in run.results)
    if chosen:
        columns = dict.fromkeys(each for each in columns if each.removesuffix(" re-ranked") in chosen)
        if not columns:
            raise ValueError(f"--test_dataset {' '.join(chosen)}: no run has results of it")
    told, more = differences(rows, seed)
    told = [each for each in told if each.column in columns]
    return Report(rows, list(columns), differing(rows), told, notes + more)


def _expanded(path: Path) -> list[Path]:
    """`path`; a pattern, which some shells hand over as it is, as what it matches."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    return [Path(each) for each in sorted(glob.glob(str(path)))] or [path]


def written(report: Report, output: Path) -> str:
    """Write the page and the tables of `report` into `output`; returns what to print."""
    texts = {"table.tex": latex_table(report), "table.md": markdown_table(report), "table.csv": csv_table(report)}
    for name, text in texts.items():
        files.write_text(output / name, text)
    files.write_text(output / "index.html", page(report, texts))
    told = []
    for column in report.columns:
        for number in COMPARED:
            best = best_of(report, column, number)
            mine = [each for each in report.told if (each.column, each.number) == (column, number)]
            told += [
                f"{column} {NUMBERS[number]}: {each}" for each in mine if best in (each.one.letter, each.other.letter)
            ]
    head = [f"Differences to the best of each column, with 95 % of {DRAWS:,} paired bootstrap draws:"] if told else []
    return "\n".join(
        [text_table(report), "", *head, *told, *report.notes, "",
         f"{'page':<14}{output / 'index.html'}", f"{'tables':<14}{', '.join(str(output / name) for name in texts)}"]
    )  # fmt: skip


# ============ the page ============


def page(report: Report, texts: Mapping[str, str]) -> str:
    """The report as one HTML page that needs no other file and no network; texts: name -> table, to copy."""
    count = sum(len(row.runs) for row in report.rows)
    title = f"{count} run{'s' * (count != 1)} in {len(report.rows)} row{'s' * (len(report.rows) != 1)}"
    made = f"{time.strftime('%Y-%m-%d %H:%M')}, suite {VERSION} {commit()}".strip()
    parts = [
        f"<h1>Runs compared: {title}</h1><p>{_text(made)}. Runs that differ in nothing but their seed are one row: "
        "mean ± standard deviation, in percent. The highest mean of a column is bold.</p>",
        f"<h2>Results</h2>{_results(report)}",
    ]
    if report.settings:
        heads = ["setting", *(f"{row.letter} {row.name}" for row in report.rows)]
        lines = [[name, *(str(row.value(name)) for row in report.rows)] for name in report.settings]
        parts.append(f"<h2>Settings that differ</h2>{_grid(heads, lines, 'words')}")
    if report.told:
        parts.append(
            "<h2>Is the difference real?</h2><p>The first row minus the second, in percent, with 95 % of "
            f"{DRAWS:,} paired bootstrap draws: the same queries are drawn for both, and the runs of each row with "
            "them. An interval without 0 is told from chance. Each pair is judged alone: of twenty pairs that do not "
            "differ, one is called real by chance.</p>"
        )
        heads = ["rows", "result", "difference", "95 % interval", "told from chance"]
        lines = [
            [f"{x.one.letter} − {x.other.letter}", f"{x.column} {NUMBERS[x.number]}", f"{x.value:+.2f}",
             f"{x.low:+.2f} to {x.high:+.2f}", "yes" if x.real else "no"] for x in report.told
        ]  # fmt: skip
        parts.append(_grid(heads, lines))
    parts.append("".join(f"<p>{_text(note)}</p>" for note in report.notes))
    parts.append('<h2>Curves</h2><div id="curves"></div>')
    heads = ["row", "run", "seed", "trained at commit", "weights", "state"]
    lines = [
        [row.letter, str(run.folder), shown(run.seed), shown(run.about.get("commit")), shown(run.about.get("weights")),
         run.state or "finished"] for row in report.rows for run in row.runs
    ]  # fmt: skip
    commands = {str(run.folder): run.about.get("command") for row in report.rows for run in row.runs}
    said = "\n".join(f"{folder}: {command}" for folder, command in commands.items() if command)
    parts.append(f"<h2>Runs</h2>{_grid(heads, lines, 'words')}")
    parts.append(
        f"<details><summary>their commands</summary><pre>{_text(said, lines=True)}</pre></details>" if said else ""
    )
    parts.append("<h2>For a paper</h2>")
    parts += [
        f"<details><summary>{_text(name)}</summary><pre>{_text(text, lines=True)}</pre></details>"
        for name, text in texts.items()
    ]
    return template.filled(
        "runs", f"Runs compared: {title}", {"curves": _curves(report)}, "\n".join(filter(None, parts))
    )


def _text(text: str, lines: bool = False) -> str:
    """`text` for HTML, whatever is in it; `lines`: its line ends stay."""
    kept = text.split("\n") if lines else [text]
    return html.escape("\n".join(map(files.printable, kept)))


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{_text(each)}</th>' for each in heads)
    rows = "".join(f"<tr>{''.join(f'<td>{_text(each)}</td>' for each in line)}</tr>" for line in lines)
    table = f'<table class="runs {kind}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _results(report: Report) -> str:
    """The table of results, which sorts by a click on a head."""
    places = [(column, number) for column in report.columns for number in NUMBERS]
    places = [place for place in places if any(row.cell(*place) for row in report.rows)]
    heads = ["row", "runs", *(f"{column} {NUMBERS[number]}" for column, number in places)]
    head = "".join(f'<th scope="col"><button type="button">{_text(each)}</button></th>' for each in heads)
    best = {place: best_of(report, *place) for place in places}
    rows = []
    for number, row in enumerate(report.rows):
        state = f"<br><small>{_text(row.runs[0].state)}</small>" if row.runs[0].state else ""
        name = f"{_text(f'{row.letter} {row.name}')}{state}"
        cells = [f'<td data-kind="{number}" data-value="{row.letter}">{name}</td><td>{len(row.runs)}</td>']
        for place in places:
            cell, text = row.cell(*place), number_text(row.cell(*place))
            shown_text = f"<b>{text}</b>" if best[place] == row.letter else text
            cells.append(f'<td data-value="{-1 if cell is None else cell[0]}">{shown_text}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    table = f'<table class="runs sorts"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _curves(report: Report) -> list[dict[str, Any]]:
    """The loss, and rank-1 and mAP of every data set, of all runs over each other: what charts.js draws."""
    wanted: dict[str, tuple[str, str | None, str]] = {"loss": ("loss", None, "mean of the epoch")}
    names = [column for column in report.columns if not column.endswith(" re-ranked")]
    wanted |= {f"{name} {NUMBERS[key]}": (key, name, f"{NUMBERS[key]} (%)") for name in names for key in COMPARED}
    curves = []
    for title, (key, name, ylabel) in wanted.items():
        series = []
        for kind, row in enumerate(report.rows):
            for run in row.runs:
                told = [
                    (line["epoch"], line if name is None else line.get("metrics", {}).get(name, {})) for line in run.log
                ]
                points = [(epoch, values[key] * (100 if name else 1)) for epoch, values in told
                          if type(values.get(key)) in (int, float) and math.isfinite(values[key])]  # fmt: skip
                if points:
                    x, y = zip(*points, strict=True)
                    said = {"name": files.printable(f"{row.letter} {row.name}"), "title": f"seed {shown(run.seed)}"}
                    series.append(said | {"kind": kind, "end": row.letter, "x": x, "y": y})
        if series:
            curves.append({"title": title, "ylabel": ylabel, "share": name is not None, "series": series})
    return curves
