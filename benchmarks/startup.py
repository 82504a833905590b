"""What each script here imports first: missing packages are one message, and the suite's own modules are found."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, which has files of the same names

from machine import packages  # noqa: E402

packages.check()
