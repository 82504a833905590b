"""What of ``requirements.txt`` is missing or too old, said before anything of it is imported."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
OLDEST_PYTHON = (3, 10)
IMPORTED_AS = {"Pillow": "PIL", "pytest-xdist": "xdist"}
ON_DEMAND = {"timm", "h5py"}  # of one network or one data set: asked for where it is used
OF_TESTS = {"pytest", "pytest-xdist"}
OF_STYLE = {"ruff", "mypy"}
INSTALL = "python -m pip install -r requirements.txt"


def required() -> dict[str, str]:
    """Name -> oldest version that will do, as requirements.txt has them; nothing where that file was left behind."""
    text = REQUIREMENTS.read_text(encoding="utf-8") if REQUIREMENTS.is_file() else ""
    return dict(re.findall(r"^([\w.-]+)>=([\d.]+)", text, re.MULTILINE))


def numbers(version: str) -> tuple[int, ...]:
    """``2.14.1+cu130`` -> (2, 14, 1): the release, without what a build or a release candidate adds to it."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def lacking(name: str, oldest: str) -> str | None:
    """What is wrong with the package `name`, of which `oldest` would do, in a few words; None if nothing is.

    One that can be imported but was not installed as a package has no version, and is taken as it is.
    """
    if importlib.util.find_spec(IMPORTED_AS.get(name, name)) is None:
        return f"{name} (not installed)"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return f"{name} ({version}; {oldest} or newer is needed)" if numbers(version) < numbers(oldest) else None


def check_python() -> None:
    """Ends the program with one message if this Python is too old to read the suite."""
    if sys.version_info < OLDEST_PYTHON:
        this, oldest = (".".join(map(str, version)) for version in (sys.version_info[:3], OLDEST_PYTHON))
        sys.exit(f"error: Python {this} ({sys.executable}) is too old: {oldest} or newer is needed.")


def check(tests: bool = False) -> None:
    """Ends the program with one message unless Python and the packages will do that a run, or the tests, need."""
    check_python()
    unasked = ON_DEMAND | OF_STYLE | (set() if tests else OF_TESTS)
    asked = {name: oldest for name, oldest in required().items() if name not in unasked}
    found = [problem for name, oldest in asked.items() if (problem := lacking(name, oldest))]
    if found:
        sys.exit(f"error: packages of {sys.executable} are missing or too old: {', '.join(found)}.\nDo: {INSTALL}")


def demand(name: str, what: str) -> None:
    """RuntimeError unless the package `name` will do, which `what` needs and other runs do not."""
    problem = lacking(name, required().get(name, "0"))
    if problem:
        raise RuntimeError(f"{what} needs the package {problem}: {INSTALL}")
