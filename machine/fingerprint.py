"""What a run was made of, as digests that can be compared: images with their labels, files, settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LENGTH = 16  # hexadecimal digits that are kept


def of_samples(samples: Iterable[tuple[Any, ...]]) -> str:
    """Digest of (path or tuple of frame paths, pid, camid, further labels) in any order: names, labels, and the sizes
    of the files.

    Names count from the folder that all images share, so a data set that was moved as a whole stays the same. A file
    that is not there has size -1.
    """
    rows = [(path if isinstance(path, tuple) else (path,), labels) for path, *labels in samples]
    folders = {os.path.dirname(frame) for frames, _ in rows for frame in frames}
    root = os.path.commonpath(folders) if folders else ""
    lines = sorted(
        "\0".join((os.path.relpath(frame, root).replace(os.sep, "/"), str(_size(frame)), *map(str, labels)))
        for frames, labels in rows
        for frame in frames
    )
    return _short(hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")))


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, whole: what others print of a weight file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def of_settings(settings: Mapping[str, Any]) -> str:
    """Digest of plain values by name; tuples and lists are the same."""
    return _short(hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _short(found) -> str:
    return found.hexdigest()[:LENGTH]
