"""One process at a time in the folder of a run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NAME = "in_use.lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder` (made where it is missing) for this process; a second one gets a RuntimeError that names the first.

    The operating system gives the lock back when the process ends, however it ends: a killed run leaves a file, and no
    lock. Where the file system has no locks (some network disks), nothing is held and nothing is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / NAME, "a+", encoding="utf-8") as file:
        try:
            take(file)
        except BlockingIOError:
            raise RuntimeError(
                f"{folder} is in use by {_owner(file)}: two runs in one folder would overwrite each other. Wait until "
                "it has ended, or give this one another --output_path"
            ) from None
        except OSError:
            yield
            return
        _write(file)
        try:
            yield
        finally:
            file.truncate(0)


def take(file) -> None:
    """Lock the open `file` until it is closed. BlockingIOError if somebody else holds it; another OSError where there
    are no locks."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 30)  # a byte that is never written: others may still read who holds it
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write(file) -> None:
    file.seek(0)
    file.truncate(0)
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
    file.flush()


def _owner(file, patience: float = 2.0) -> str:
    """Who holds the lock, in words. Between taking it and writing who it is the file is empty: that is waited for, for
    `patience` seconds at most."""
    until = time.monotonic() + patience
    while True:
        file.seek(0)
        try:
            owner = json.load(file)
            return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        except (ValueError, KeyError, TypeError):
            if time.monotonic() > until:
                return "another process"
        time.sleep(0.02)
