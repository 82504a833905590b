"""What tests share: trees of empty files with real names, copies of the suite, one-line error messages, loaders from
flat options."""

import os
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

import datasets
import loaders
from loading import samplers

ROOT = Path(__file__).parents[1]
WRITTEN = (".py", ".md", ".txt", ".toml", ".ini")
OTHERS = ("benchmarks", "docs", "tests")  # folders that are no packages


def suite(home, *left_out):
    """A copy of the suite at `home` but for names like `left_out`. A clone may hold anything else beside it: data sets,
    runs, an environment of some GiB."""

    def gone(folder, names):
        paths = [ROOT / name for name in names] if Path(folder) == ROOT else []
        foreign = {path.name for path in paths if path.suffix not in WRITTEN and path.name not in OTHERS
                   and not (path / "__init__.py").exists()}  # fmt: skip
        return foreign | shutil.ignore_patterns(*left_out)(folder, names)

    return Path(shutil.copytree(ROOT, home, ignore=gone))


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


def taken(kind, options):
    """`kind`, a dataclass, made of those of `options` that are its fields, which are taken out."""
    return kind(
        **{field.name: options.pop(field.name) for field in fields(kind) if field.init and field.name in options}
    )


def store_of(samples, options):
    """The store among the options, or the pixels of `samples` by options of Decoding, cache, cache_dir and device."""
    if "store" in options:
        for name in ("image_size", "cache", "progress"):
            options.pop(name, None)
        return options.pop("store")
    cache = loaders.Cache(options.pop("cache", "auto"), options.pop("cache_dir", None))
    return loaders.make_store(samples, taken(loaders.Decoding, options), cache, options.get("device", "cpu"))


def train_loader(samples, labels, *, camids=None, infrared=(), clothes=(), **options):
    """A TrainLoader from flat options, each named like a field of one of its parts."""
    camids = [sample.camid for sample in samples] if camids is None else camids
    fields = tuple(samples), tuple(labels), 0, tuple(camids), frozenset(infrared), {}
    data = datasets.TrainingSet(*fields, clothes=tuple(clothes))
    store = store_of(samples, options)
    kind = samplers.Shuffled
    if "p" in options:
        kind = samplers.Alternating if options.pop("alternate", False) else samplers.PK
        kind = samplers.BothLights if infrared else kind
        options.pop("batch_size", None)
    batches, seed = taken(kind, options), options.pop("seed", 0)
    clips, delivery = taken(loaders.Clips, options), taken(loaders.Delivery, options)
    augmentation = loaders.Augmentation(**options)
    return loaders.TrainLoader(data, store, batches, augmentation, clips=clips, delivery=delivery, seed=seed)


def eval_loader(samples, **options):
    """An EvalLoader from flat options."""
    store = store_of(samples, options := {"cache": "none"} | options)
    norm = options.pop("mean", loaders.IMAGENET_MEAN), options.pop("std", loaders.IMAGENET_STD)
    clips, delivery = taken(loaders.TestClips, options), taken(loaders.Delivery, options)
    return loaders.EvalLoader(samples, store, norm, clips=clips, delivery=delivery, **options)
