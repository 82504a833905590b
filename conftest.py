"""Puts the repository root on the import path, so that tests import the flat modules by name.

One thread per test process: the tensors are tiny, and two threads waiting for each other on a busy machine are slower
than one.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long form of tests/test_faults.py, which takes hours")
