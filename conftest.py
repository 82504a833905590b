"""Puts the repository root on the import path, so that tests import the flat modules by name.

One thread per test process: the tensors are tiny, and two threads waiting for each other on a busy machine are slower
than one.
"""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser):
    """`--long` of the tests."""
    parser.addoption("--long", action="store_true", help="the long form of the tests of faults and of chance: hours")


@pytest.fixture(scope="session")
def long(request) -> bool:
    """Whether the long form of a test is asked for."""
    return request.config.getoption("--long")
