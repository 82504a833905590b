"""What the tests of the data sets share: small trees of empty files with real names, and one-line error messages."""

import os
import re

import pytest


def tree(root, *names):
    """Empty files at the given paths below `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def names(samples, root):
    """(path below root, pid, camid) of each sample; of a tracklet, the tuple of its frames."""

    def below(path):
        if isinstance(path, tuple):
            return tuple(below(each) for each in path)
        return os.path.relpath(path, root).replace(os.sep, "/")

    return [(below(s.path), s.pid, s.camid) for s in samples]


def error(kind, *texts):
    """Context that expects `kind` with a message of one line that holds every one of `texts`."""
    return pytest.raises(kind, match="^(?!.*\n)" + "".join(f"(?=.*{re.escape(text)})" for text in texts))


def tensors(batch):
    """The tensors of a loader's batch, those of its views included."""
    parts = [part if isinstance(part, tuple) else (part,) for part in batch]
    return [tensor for part in parts for tensor in part if tensor is not None]


def oddities(folder):
    """What looks like an image by its name and is none: an AppleDouble file, a hidden one, a folder, a pipe, a text."""
    tree(folder, "._0001_c1.jpg", ".0001_c1.png", "0001_c1.txt")
    (folder / "0001_c1.jpg").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "0002_c1.jpg")
