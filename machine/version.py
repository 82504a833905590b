"""Which code this is: the suite's version, and the commit of a checkout."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

VERSION = "1.0.0"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "Pillow")  # that can move a number


@functools.cache
def commit() -> str:
    """The commit of the checkout this file is in, with ``+`` where files differ from it; empty outside of one."""
    home = Path(__file__).parents[1]

    def git(*words: str) -> str:
        asked = subprocess.run(("git", *words), cwd=home, capture_output=True, text=True, timeout=10, check=True)
        return asked.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != home.resolve():
            return ""  # a copy of the suite inside somebody else's repository
        sha = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return sha + ("+" if changed else "")


def versions() -> dict[str, str]:
    """Of Python and of the packages that a number may depend on; without those that are not installed as packages."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
