"""The largest differences from public code that the tests of this folder allow: ``parity.csv``, printed on
docs/parity.md. A test of parity asserts the figure of its own line: ``largest(__file__, its name)``."""

import csv
from pathlib import Path


def lines():
    """The rows of the table: what, source, largest, test."""
    with open(Path(__file__).with_suffix(".csv"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def largest(file, test):
    """The largest difference that `test` in `file` allows."""
    name = f"{Path(file).name}::{test}"
    (found,) = [float(line["largest"]) for line in lines() if line["test"] == name]
    return found
