"""The table of comparisons with public code names tests that exist, with a figure and a commit."""

import importlib
import re

import parity
import pytest


@pytest.mark.parametrize("line", parity.lines(), ids=lambda line: line["test"])
def test_a_line_names_its_test_its_source_and_its_figure(line):
    file, name = line["test"].split("::")
    assert callable(getattr(importlib.import_module(file.removesuffix(".py")), name.split("[")[0]))
    assert re.search(r"\b[0-9a-f]{7}\b", line["source"]) and line["what"]
    assert 0 <= parity.largest(file, name) < 0.01


def test_a_comparison_stands_in_the_table_once():
    tests = [line["test"] for line in parity.lines()]
    assert len(tests) == len(set(tests)) > 40
