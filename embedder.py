"""Images to embeddings, for people who only want that.

    from embedder import Embedder
    embedder = Embedder("model.pt")
    features = embedder(["a.jpg", "b.jpg"])          # (2, D) float32
    embedder.distance(features, features) <= embedder.threshold

The way of an image is that of ``--mode test``: the same reading, the same network, the same numbers bit for bit, as
long as the images come in the same order and in batches of the same size.

To be used from another folder: ``sys.path.append(<this folder>)``. Behind everything else, so that `datasets`,
`evaluate` and your own `models.py` stay what they are to you; see `our_own_modules`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

HERE = Path(__file__).resolve().parent


@contextlib.contextmanager
def our_own_modules() -> Iterator[None]:
    """The flat modules of this suite by their names inside, and everybody else's again afterwards.

    The names are common: `datasets` and `evaluate` are packages of Hugging Face, and who has no `models.py`? What was
    imported under them before is put aside and comes back. A module of ours keeps its name only where Python finds no
    other under it: a later ``import datasets`` of the program that calls us is its own.
    """
    names = {file.stem for file in HERE.glob("*.py")} | {file.parent.name for file in HERE.glob("*/__init__.py")}
    names -= {__name__}

    def ours(module: Any) -> bool:
        file = getattr(module, "__file__", None) or getattr(module, "origin", None)
        return file is not None and HERE in Path(file).resolve().parents

    flat = [name for name in sys.modules if name.partition(".")[0] in names]
    theirs = {name for name in names if not ours(sys.modules.get(name))}  # with all that is inside of them
    others = {name: sys.modules.pop(name) for name in flat if name.partition(".")[0] in theirs}
    sys.path.insert(0, str(HERE))
    try:
        yield
    finally:
        sys.path.remove(str(HERE))
        kept = {name for name in names if ours(importlib.machinery.PathFinder.find_spec(name))}
        for name in [name for name in sys.modules if name.partition(".")[0] in names - kept]:
            del sys.modules[name]
        sys.modules.update(others)


with our_own_modules():
    import evaluate
    import rebuild
    import tester
    from cli import named_recipe
    from config import check_test_distance
    from datasets import IMAGE_SUFFIXES, Sample, Splits
    from loading.store import UnreadableImages
    from machine import files, fingerprint
    from machine.device import pick_device, tuned
    from machine.imagefile import Held, reason
    from parsers.base import images_below
    from weights import reading

COLOUR, INFRARED = 0, 1  # the two cameras of a network that tells them apart


class Embedder:
    """A network that embeds images of people, from any weight file that ``--mode test`` reads.

    weights: a checkpoint of ours or anybody's file; device: "auto", "cpu", "cuda", "cuda:1", ...; batch_size: images
        that go through the network at a time, as --test_batch; flip: mean of the features of an image and its mirror
        image, as --flip_test. recipe and fields: what a test would be told by flags, under the names of the flags
        (``recipe="bot"``, ``image_size=(256, 128)``, ``stem_pool="2x2"``, ``metric="cosine"``), where the file does not
        say it itself.

    Attributes: `dim`, D of an embedding; `image_size` (H, W) that images are resized to; `metric`, "euclidean" or
        "cosine"; `recipe`, its name; `said`, what was read of the file, and how, in words; `model`, the network.
    Raises ValueError or FileNotFoundError, in one line, for a device that is not there, a file that holds no weights or
        not all of its network, and values that no flag would take.

    A network that embeds cameras uses the mean of its cameras here. Of methods that compare parts too (AlignedReID) the
    embedding is the global one: what ``--test_distance global`` compares.
    """

    def __init__(
        self,
        weights: str | os.PathLike,
        device: str = "auto",
        *,
        batch_size: int = 128,
        flip: bool = False,
        recipe: str | None = None,
        **fields: Any,
    ):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}: expected a whole number of images, 1 or more")
        self._device = pick_device(str(device))
        file = reading.read(weights)
        given = {"test_distance": "global"} | {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        loaded = rebuild.network_of(file, None if recipe is None else named_recipe(recipe), given)
        check_test_distance(loaded.recipe)
        if loaded.recipe.test_distance != "global":
            raise ValueError(
                f"test_distance is {loaded.recipe.test_distance!r}: it compares parts, which are no embedding; leave "
                "it out, or test with --mode test"
            )
        self.weights, self.said, self.recipe = file.path, loaded.said, loaded.recipe.name
        self.model = loaded.model.to(self._device).to(memory_format=torch.channels_last).eval()
        self.dim: int = loaded.model.embedding_dim
        self.image_size: tuple[int, int] = tuple(loaded.recipe.image_size)  # type: ignore[assignment]
        self.metric: str = loaded.recipe.metric
        self._tells_light = loaded.recipe.infrared
        lights = Splits("images", (), (), (), infrared=frozenset({INFRARED}))
        self._tester = tester.Tester(
            loaded.recipe,
            {"images": lights} if self._tells_light else {},
            tester.Options(batch_size=batch_size, flip=flip, progress=False),
            device=self._device,
            channels_last=True,
            camera_label=(lambda name, camid: -1) if loaded.recipe.uses_cameras else None,
        )

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Embedder({str(self.weights)!r}: {self.recipe}, {height}x{width} -> {self.dim}, {self.metric})"

    def __call__(self, images: Any, *, bgr: bool = False, infrared: bool = False) -> np.ndarray:
        """Embeddings (N, D) float32 of N images or tracklets, in their order.

        images: one or several of
            the path of an image file; the path of a folder stands for all images below it, in the order of `images_in`;
            a Pillow image;
            an array (H, W, 3) or (N, H, W, 3), uint8, RGB, of any size;
            a tensor (3, H, W) or (N, 3, H, W), uint8, or float from 0 to 1, which is rounded to 8 bits; it is not
            normalised before: that is done here;
            a list of frames, each one of these, or an array (T, H, W, 3) in a list: a tracklet, which gets one row.
        bgr: the arrays and tensors are BGR, as OpenCV and trackers hand them.
        infrared: all of these images are infrared; of networks for colour and infrared alone.

        Raises ValueError in one line for whatever could only give a wrong number: no image, one without pixels or that
        cannot be read, floats that are not 0 to 1, grey or transparent arrays, channels at the wrong end.
        """
        if infrared and not self._tells_light:
            raise ValueError(
                f"infrared=True is for networks of colour and infrared images, and {self.recipe} treats all alike: "
                "leave it out"
            )
        light = INFRARED if infrared else COLOUR
        samples = [Sample(source, 0, light) for source in sources(images, bgr)]  # type: ignore[arg-type]
        if len({isinstance(sample.path, tuple) for sample in samples}) > 1:
            raise ValueError("some of these are images and some are tracklets (lists of frames): embed each kind alone")
        name = "images" if self._tells_light else ""
        try:
            with tuned(self._device):
                found = self._tester.features(self.model, samples, "images", name=name)
        except UnreadableImages as error:
            raise ValueError(f"{error.found}: leave them out, or replace them") from None
        return np.ascontiguousarray(found.embeddings.cpu().numpy(), dtype=np.float32)

    def distance(self, a: Any, b: Any) -> np.ndarray:
        """Distances (N, M) between the rows of `a` (N, D) and `b` (M, D), by `metric`; small is alike."""
        sides = []
        for name, side in (("a", a), ("b", b)):
            array = side.detach().cpu().numpy() if isinstance(side, Tensor) else np.asarray(side)
            if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[1] != self.dim or not len(array):
                raise ValueError(
                    f"{name} is {array.dtype} {array.shape}: expected embeddings (N, {self.dim}) of this network"
                )
            evaluate.check_finite(array, f"{name}'s")
            sides.append(array)
        return evaluate.pairwise_distance(sides[0], sides[1], self.metric).numpy()

    @property
    def threshold(self) -> float:
        """The distance up to which two images are held to show one person, where as many pairs of one person are
        refused as of two accepted (equal error rate): learnt by the last ``--mode test --details`` of these weights.

        ValueError where there was none, or one that compared otherwise than this embedder does.
        """
        learn = f"learn one with: python main.py --mode test --weights {self.weights} --details --market_path DIR"
        path = threshold_file(self.weights)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            was, now = kept["compared"], comparison(self._tester)
            value = float(kept["threshold"])
        except FileNotFoundError:
            raise ValueError(f"no threshold of {self.weights} is known ({path.name} is not there): {learn}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({reading.first_line(error)}): {learn}") from None
        if kept.get("weights_sha256") != self._sha256:
            raise ValueError(f"{path} was learnt with other weights than those of {self.weights}: {learn}")
        differ = [
            f"{name} {was.get(name)} there, {value} here" for name, value in now.items() if was.get(name) != value
        ]
        if differ:
            raise ValueError(f"the threshold of {path} is of another comparison ({'; '.join(differ)}): {learn}")
        return value

    @functools.cached_property
    def _sha256(self) -> str:
        return fingerprint.of_file(self.weights)


def images_in(folder: str | os.PathLike) -> list[str]:
    """Paths of all images in a folder and below it, in the order in which they are embedded; ValueError if none is."""
    found = images_below(os.fspath(folder))
    if not found:
        raise ValueError(f"{os.fspath(folder)} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Whatever holds an image
# ---------------------------------------------------------------------------------------------------------------------

Source = str | tuple[str, ...]  # of an image: its path, or what is `Held`; of a tracklet: those of its frames


def sources(images: Any, bgr: bool = False) -> list[Source]:
    """One source for each of `images`, as `Embedder` takes them; ValueError, which names the first that cannot be."""
    if isinstance(images, (str, os.PathLike)) and os.path.isdir(images):
        refuse_order(bgr, "a folder", "files")
        return list(images_in(images))
    alone = isinstance(images, (str, os.PathLike, Image.Image)) or getattr(images, "ndim", 4) in (2, 3)
    if alone:
        images = [images]
    elif isinstance(images, (Set, Mapping, bytes)) or not isinstance(images, Iterable):
        raise ValueError(f"images are a {type(images).__name__}: expected a list, an array, a tensor or a folder")
    given = list(images)
    if not given:
        raise ValueError("there is no image: the list is empty")
    return [source(f"image {i}" if len(given) > 1 else "the image", each, bgr) for i, each in enumerate(given)]


def source(name: str, image: Any, bgr: bool, frame: bool = False) -> Source:
    """What stands for one image or, unless it is a `frame` itself, one tracklet; `name` is for messages."""
    if isinstance(image, (str, os.PathLike)):
        refuse_order(bgr, name, "a file")
        path = os.fsdecode(image)
        if os.path.isdir(path):
            raise ValueError(f"{name} is the folder {path}: give a folder alone, or its files by images_in")
        return path
    if isinstance(image, Image.Image):
        refuse_order(bgr, name, "a Pillow image")
        return held(name, image)
    if isinstance(image, Tensor) and image.ndim < 4:
        return held(name, Image.fromarray(pixels(name, channels_last(name, image), bgr)))
    if isinstance(image, np.ndarray) and image.ndim < 4:
        return held(name, Image.fromarray(pixels(name, image, bgr)))
    if frame or not isinstance(image, (list, tuple, np.ndarray, Tensor)):
        kind = "a list in a tracklet" if frame else f"a {type(image).__name__}"
        raise ValueError(f"{name} is {kind}: expected a path, a Pillow image, an array (H, W, 3) or a tensor (3, H, W)")
    if not len(image):
        raise ValueError(f"{name} is a tracklet without frames")
    frames = (source(f"frame {j} of {name}", each, bgr, frame=True) for j, each in enumerate(image))
    return tuple(frames)  # type: ignore[arg-type]


def refuse_order(bgr: bool, name: str, kind: str) -> None:
    """ValueError if `bgr` is said of what tells the order of its channels itself."""
    if bgr:
        raise ValueError(
            f"bgr=True is said of arrays and tensors, and {name} is {kind}, which is read as RGB: leave it out"
        )


def held(name: str, image: Image.Image) -> Held:
    """A Pillow image, read from its file if it is not yet."""
    if 0 in image.size:
        raise ValueError(f"{name} has no pixels ({image.size[0]}x{image.size[1]}): leave out crops of no size")
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise anything
        raise ValueError(f"{name} cannot be read: {reason(error, getattr(image, 'filename', '') or name)}") from None
    return Held(name, image)


def pixels(name: str, array: np.ndarray, bgr: bool) -> np.ndarray:
    """An array (H, W, 3) uint8 in RGB; ValueError for all that is none, with what to do about it."""
    shape, expected = array.shape, "expected (H, W, 3) uint8"
    found = f"{name} is {array.dtype} {shape}, {expected}"
    if array.ndim == 2 or (array.ndim == 3 and shape[2] == 1):
        raise ValueError(f"{found}: it is grey; give it three channels, np.repeat(image.reshape(h, w, 1), 3, axis=2)")
    if array.ndim != 3:
        raise ValueError(found)
    if shape[2] == 4:
        raise ValueError(f"{found}: it has a fourth channel; drop it, image[..., :3]")
    if shape[2] != 3:
        turn = "; its channels are first: image.transpose(1, 2, 0)" if shape[0] == 3 else ""
        raise ValueError(f"{found}{turn}")
    if 0 in shape:
        raise ValueError(f"{found}: it has no pixels; leave out crops of no size, and clip boxes to the frame")
    if array.dtype != np.uint8:
        scale = "(image * 255).round()" if array.dtype.kind == "f" else "image"
        raise ValueError(f"{found}: bring its values to 0..255, {scale}.astype(np.uint8)")
    return np.ascontiguousarray(array[..., ::-1] if bgr else array)


def channels_last(name: str, image: Tensor) -> np.ndarray:
    """A tensor (3, H, W), uint8 or float from 0 to 1, as (H, W, 3) uint8."""
    found = f"{name} is a tensor {str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
    if image.ndim != 3 or image.shape[0] != 3:
        turn = ": its channels are last, permute them" if image.shape[-1:] == (3,) else ""
        raise ValueError(f"{found}, expected (3, H, W){turn}")
    values = image.detach().cpu()
    if values.is_floating_point() and values.numel():
        low, high = values.min().item(), values.max().item()
        if not (low >= 0 and high <= 1):  # NaN neither
            why = "divide it by 255" if low >= 0 and high <= 255 else "do not normalise it: that is done here"
            raise ValueError(f"{found} of values from {low:.3g} to {high:.3g}, expected 0 to 1 or uint8: {why}")
        values = values.float().mul(255).round().to(torch.uint8)
    if values.is_floating_point():
        values = values.to(torch.uint8)  # it has no pixels
    if values.dtype != torch.uint8:
        raise ValueError(f"{found}, expected uint8, or float from 0 to 1")
    return values.permute(1, 2, 0).numpy()


# ---------------------------------------------------------------------------------------------------------------------
# The threshold, kept with the weights
# ---------------------------------------------------------------------------------------------------------------------


def threshold_file(weights: Path) -> Path:
    """Where the threshold of a weight file is kept: beside it. Its name is none of a weight file."""
    return weights.with_name(f"{weights.name.replace('.', '_')}.threshold.json")


def comparison(tested: tester.Tester) -> dict[str, Any]:
    """What decides whether a threshold of given weights holds, as plain values."""
    found = tested.compared | {"flip": tested.options.flip}
    return json.loads(json.dumps(found))


def keep_threshold(weights: Path, results: Mapping[str, dict], tested: tester.Tester) -> list[str]:
    """Keep the threshold that a test with --details found, of the last of its sets, beside the weights.

    results: of each set, as `tester.Tester` gives them. Returns lines that say so, or why there is none to keep.
    """
    learnt = {name: found["verification"] for name, found in results.items() if "verification" in found}
    learnt = {name: same for name, same in learnt.items() if same["eer_threshold"] is not None}
    if not learnt:
        return []
    options, path = tested.options, threshold_file(weights)
    changed = [f"--{flag}" for flag, value in (("multi_query", options.multi_query),
                                               ("query_expansion", options.expansion)) if value]  # fmt: skip
    if tested.recipe.distance is not None:
        changed.append(f"--test_distance {tested.recipe.test_distance}")
    if changed:
        return [f"the threshold is not kept for embeddings: {' and '.join(changed)} compares something else"]
    name, same = list(learnt.items())[-1]
    kept = {
        "threshold": same["eer_threshold"],
        "eer": same["eer"],
        "data": name,
        "date": time.strftime("%Y-%m-%d"),
        "weights": weights.name,
        "weights_sha256": fingerprint.of_file(weights),
        "compared": comparison(tested),
    }
    try:
        files.write_json(path, kept)
    except RuntimeError as error:  # a folder of others
        return [f"WARNING: the threshold is not kept beside the weights: {error}"]
    return [f"{'threshold':<14}{path} ({name}; embedder.Embedder reads it)"]
