"""Images on the device: pixel cache, samplers and the two loaders.

A re-ID data set is small (Market-1501's training set at 128x64 takes 303 MiB), so it is decoded once and kept as one
uint8 tensor. The images of a step are a pure function of (seed, epoch, step).

A sample whose path is a tuple is a tracklet: a batch then counts tracklets, and the store holds their frames.

Sections: decoding, ImageStore, samplers, tracklets, TrainLoader, EvalLoader.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from augmentation import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Draws,
    check_one_of,
    normalise,
    random_generator,
    to_device,
)
from memory import free_memory

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CACHES = ("auto", "ram", "gpu", "disk", "none")
CHUNK = 16  # images per task of a decoding thread: long enough to hide the task's own cost, short enough to balance


# ---------------------------------------------------------------------------------------------------- decoding


class UnreadableImages(RuntimeError):
    """Files that Pillow cannot decode; the message names the first five and counts the rest."""

    def __init__(self, bad: Sequence[tuple[str, str]], total: int):
        lines = [f"  {path}: {reason}" for path, reason in bad[:5]]
        if len(bad) > 5:
            lines.append(f"  and {len(bad) - 5:,} more")
        super().__init__(
            f"{len(bad):,} of {total:,} images cannot be read:\n"
            + "\n".join(lines)
            + "\nReplace them, or leave them out with --skip_bad_images."
        )
        self.paths = tuple(path for path, _ in bad)


def decode(path: str, image_size: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """Decode and resize one image: the bytes of torchvision's Resize((H, W)) on `Image.open(path).convert("RGB")`.

    Args: path; image_size (H, W) in pixels; interpolation "bilinear" or "bicubic" (both antialiased by Pillow).
    Returns: (H, W, 3) uint8.
    Raises: OSError and others from Pillow if the file is missing, truncated or no image.
    """
    height, width = image_size
    with open(path, "rb") as file:
        image = Image.open(file)  # no `draft`: the JPEG scaler would be faster and change pixels
        image = image.convert("RGB") if image.mode != "RGB" else image
        if image.size != (width, height):
            image = image.resize((width, height), FILTERS[interpolation])
        return np.asarray(image)  # loads the pixels if neither of the two did


def _decode_into(out: np.ndarray, paths: Sequence[str], interpolation: str) -> list[tuple[int, str]]:
    """Decode `paths` into the rows of out (n, H, W, 3). Returns [(row, reason)] of those that failed."""
    bad = []
    for row, path in enumerate(paths):
        try:
            out[row] = decode(path, out.shape[1:3], interpolation)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
            bad.append((row, _reason(error, path)))
    return bad


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow knows"
    return str(error) or type(error).__name__


def default_workers() -> int:
    """Number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; also right inside a container with fewer cores
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


# -------------------------------------------------------------------------------------------------- ImageStore


class ImageStore:
    """Decoded and resized images of a list of files, as uint8 (N, H, W, 3).

    Channels are last because that is what Pillow hands over, what a crop copies in whole rows and what a
    channels-last network reads: no transposition anywhere.

    Args:
        paths: N image files.
        image_size: (H, W) in pixels.
        interpolation: "bilinear" or "bicubic".
        cache: where the pixels live. "ram": host memory. "gpu": on `device`. "disk": a memory-mapped file in
            `cache_dir`, named by a fingerprint of paths, sizes, modification times, image_size and filter.
            "none": decoded each time they are asked for. "auto": on the device if that is a GPU and the pixels take
            at most a third of its free memory; else "ram" if they take at most half of the free host memory; else
            "disk" if there is a `cache_dir`; else "none".
        device: where `stream` delivers batches.
        workers: decoding threads; None for one per core.
        cache_dir: folder of the disk cache.
        skip_bad: leave out files that cannot be read instead of raising; they are named in `skipped`.
        progress: show a bar while decoding.

    Attributes: `kept` (n,) int64, the positions in `paths` that the rows stand for; `skipped`, the files left out;
        `cache`, the mode in use; `description`, one sentence for the log.
    Raises: UnreadableImages (for "none" only when the image is reached, unless `skip_bad`), ValueError for
        impossible arguments, RuntimeError if the pixels do not fit where they were asked to be.
    """

    VERSION = 1  # of the pixels and the file layout of the disk cache

    def __init__(
        self,
        paths: Sequence[str],
        image_size: tuple[int, int],
        *,
        interpolation: str = "bilinear",
        cache: str = "auto",
        device: torch.device | str = "cpu",
        workers: int | None = None,
        cache_dir: str | os.PathLike | None = None,
        skip_bad: bool = False,
        progress: bool = True,
    ):
        check_one_of("cache", cache, CACHES)
        check_one_of("interpolation", interpolation, FILTERS)
        if any(not isinstance(path, (str, os.PathLike)) for path in paths):
            raise ValueError("the loaders take one image per sample, and found a tracklet of several frames")
        self.paths = [os.fspath(path) for path in paths]
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.interpolation = interpolation
        self.device = torch.device(device)
        self.workers = max(1, workers or default_workers())
        self.progress = progress
        self.skip_bad = skip_bad
        self.cache = self._choose(cache, cache_dir)
        self.kept = torch.arange(len(self.paths))
        self.skipped: list[str] = []
        self.data = self._fill(cache_dir)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def num_bytes(self) -> int:
        """Bytes of all pixels, whether they are kept or not."""
        return len(self.paths) * self.image_size[0] * self.image_size[1] * 3

    @property
    def description(self) -> str:
        """Number, size and place of the images and how many were left out, for the log."""
        place = {
            "ram": "in host memory",
            "gpu": f"on {self.device}",
            "disk": "in a memory-mapped file",
            "none": "decoded as needed",
        }[self.cache]
        height, width = self.image_size
        skipped = f", {len(self.skipped):,} unreadable left out" if self.skipped else ""
        return f"{len(self):,} images of {height}x{width} {place} ({_size(self.num_bytes)}{skipped})"

    def stream(self, batches: Iterable[Tensor], ahead: int | None = None) -> Iterator[Tensor]:
        """Yield the pixels of each index tensor: (B,) int64 on the CPU -> (B, H, W, 3) uint8 on `device`.

        Without a cache the workers decode up to `ahead` batches in advance, so memory is bounded by ahead + 1 batches.
        The default is 3 for a GPU and 0 on a CPU, which decodes and computes with the same cores: OSNet x0.25 on two of
        them trains at 639 and 637 images/s in turns with the decoding, at 649 and 609 beside it.
        """
        if ahead is None:
            ahead = 0 if self.device.type == "cpu" else 3
        return self._decode_ahead(batches, ahead) if self.cache == "none" else map(self.take, batches)

    def take(self, index: Tensor) -> Tensor:
        """Pixels of the rows in index (B,) int64 on the CPU -> (B, H, W, 3) uint8 on `device`."""
        if self.cache == "none":
            return next(self._decode_ahead([index], 1))
        shape = (len(index), *self.image_size, 3)
        if self.data.device.type != "cpu":
            return self.data.index_select(0, to_device(index, self.device))
        out = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        # rows are copied whole: on (N, H * W * 3) index_select is one memcpy per image
        torch.index_select(self.data.flatten(1), 0, index, out=out.flatten(1))
        return out.to(self.device, non_blocking=True)

    # filling ------------------------------------------------------------------------------------------------

    def _choose(self, cache: str, cache_dir) -> str:
        on_gpu = self.device.type == "cuda"
        if cache == "gpu" and not on_gpu:
            raise ValueError("cache 'gpu' needs --device cuda: use --cache ram on the CPU")
        if cache == "disk" and cache_dir is None:
            raise ValueError("cache 'disk' needs a folder for its file: give --cache_dir")
        if cache == "ram" and self.num_bytes > free_memory():
            raise RuntimeError(
                f"{len(self.paths):,} images of {self.image_size[0]}x{self.image_size[1]} take "
                f"{_size(self.num_bytes)} and {_size(free_memory())} of memory are free: "
                "use --cache disk or --cache none"
            )
        if cache != "auto":
            return cache
        if on_gpu and self.num_bytes <= torch.cuda.mem_get_info(self.device)[0] // 3:
            return "gpu"
        if self.num_bytes <= free_memory() // 2:
            return "ram"
        return "disk" if cache_dir is not None else "none"

    def _fill(self, cache_dir) -> Tensor | None:
        if self.cache == "disk":
            return self._fill_disk(Path(cache_dir))
        if self.cache == "none":
            if self.skip_bad:  # which files are bad must be known before the first index is drawn
                deque(self._decode_all("checking images"), maxlen=0)
            return None
        data = torch.empty((len(self.paths), *self.image_size, 3), dtype=torch.uint8)
        row = 0
        for images in self._decode_all("decoding images"):
            data[row : row + len(images)] = torch.from_numpy(images)
            row += len(images)
        return data[:row].to(self.device) if self.cache == "gpu" else data[:row]

    def _decode_all(self, title: str) -> Iterator[np.ndarray]:
        """Decode every file in parallel; yield (n, H, W, 3) chunks of the good images, in order.

        At the end sets `kept` and `skipped`, or raises UnreadableImages.
        """
        chunks = [range(i, min(i + CHUNK, len(self.paths))) for i in range(0, len(self.paths), CHUNK)]

        def decode_chunk(chunk: range) -> tuple[np.ndarray, list[tuple[int, str]]]:
            images = np.empty((len(chunk), *self.image_size, 3), np.uint8)
            return images, _decode_into(images, [self.paths[i] for i in chunk], self.interpolation)

        bad: list[tuple[int, str]] = []
        tasks = ([partial(decode_chunk, chunk)] for chunk in chunks)
        silent = not self.progress or None  # None: unless this is a terminal
        with tqdm(total=len(self.paths), desc=title, unit="image", disable=silent, leave=False) as bar:
            for chunk, [(images, failed)] in zip(chunks, _pipeline(tasks, self.workers, 4 * self.workers), strict=True):
                bar.update(len(chunk))
                bad += [(chunk[row], reason) for row, reason in failed]
                yield np.delete(images, [row for row, _ in failed], axis=0) if failed else images
        if bad and (not self.skip_bad or len(bad) == len(self.paths)):
            raise UnreadableImages([(self.paths[i], reason) for i, reason in bad], len(self.paths))
        self._leave_out([i for i, _ in bad])

    def _leave_out(self, positions: Sequence[int]) -> None:
        self.skipped = [self.paths[i] for i in positions]
        good = np.delete(np.arange(len(self.paths)), positions)
        self.kept = torch.from_numpy(good)

    def _decode_ahead(self, batches: Iterable[Tensor], ahead: int) -> Iterator[Tensor]:
        buffers: deque[tuple[Tensor, list[str]]] = deque()

        def tasks() -> Iterator[list]:
            for index in batches:
                paths = [self.paths[i] for i in self.kept[index].tolist()]
                out = torch.empty(
                    (len(paths), *self.image_size, 3), dtype=torch.uint8, pin_memory=self.device.type == "cuda"
                )
                buffers.append((out, paths))
                size = max(1, min(CHUNK, math.ceil(len(paths) / self.workers)))
                yield [
                    partial(_decode_into, out.numpy()[i : i + size], paths[i : i + size], self.interpolation)
                    for i in range(0, len(paths), size)
                ]

        for results in _pipeline(tasks(), self.workers, ahead):
            out, paths = buffers.popleft()
            step = max(1, min(CHUNK, math.ceil(len(paths) / self.workers)))
            bad = [(paths[task * step + row], reason) for task, failed in enumerate(results) for row, reason in failed]
            if bad:
                raise UnreadableImages(bad, len(self.paths))
            yield out.to(self.device, non_blocking=True)

    # disk cache: the pixels, then a JSON trailer, then the trailer's length in 8 bytes ------------------------

    def _fill_disk(self, folder: Path) -> Tensor:
        files, stats = self._fingerprints()
        path = folder / f"images_{files[:12]}_{stats[:20]}.cache"
        data = self._open_disk(path, stats)
        if data is None:
            self._write_disk(path, stats)
            for old in folder.glob(f"images_{files[:12]}_*.cache"):  # the same list before some file changed
                if old != path:
                    old.unlink(missing_ok=True)
            data = self._open_disk(path, stats)
            if data is None:
                raise RuntimeError(f"{path} was changed while it was written: give each run its own --cache_dir")
        return data

    def _fingerprints(self) -> tuple[str, str]:
        """Hex digests of (the list and its settings, the same with each file's size and modification time)."""
        settings = json.dumps(
            [self.VERSION, self.image_size, self.interpolation, self.skip_bad, Image.__version__]
        ).encode()
        files, stats = hashlib.sha256(settings), hashlib.sha256(settings)
        for path in self.paths:
            name = os.path.abspath(path).encode(errors="surrogateescape") + b"\0"
            try:
                found = os.stat(path)
                state = f"{found.st_size} {found.st_mtime_ns}\n".encode()
            except OSError:
                state = b"missing\n"
            files.update(name)
            stats.update(name + state)
        return files.hexdigest(), stats.hexdigest()

    def _open_disk(self, path: Path, fingerprint: str) -> Tensor | None:
        """The pixels in the file, memory-mapped; None if the file is absent or not exactly what was asked for."""
        try:
            with open(path, "rb") as file:
                file.seek(-8, os.SEEK_END)
                length = int.from_bytes(file.read(8), "little")
                file.seek(-8 - length, os.SEEK_END)
                pixels = file.tell()
                trailer = json.loads(file.read(length))
            if trailer["fingerprint"] != fingerprint:
                return None
            shape = (len(self.paths) - len(trailer["skipped"]), *self.image_size, 3)
            if pixels != math.prod(shape):
                return None
            # copy on write: torch wants writable memory, the file itself stays as it is
            data = torch.from_numpy(np.memmap(path, np.uint8, mode="c", shape=shape))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self._leave_out(trailer["skipped"])
        return data

    def _write_disk(self, path: Path, fingerprint: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < self.num_bytes:
            raise RuntimeError(
                f"the disk cache needs {_size(self.num_bytes)} and {path.parent} has {_size(free)} "
                "free: make room, give another --cache_dir, or use --cache none"
            )
        handle, temporary = tempfile.mkstemp(prefix=path.stem, suffix=".part", dir=path.parent)
        try:
            # written, not mapped: a full disk is then an error and not a bus error
            with os.fdopen(handle, "wb") as file:
                for images in self._decode_all("decoding images"):
                    file.write(images.data)
                gone = set(self.skipped)
                skipped = [i for i, name in enumerate(self.paths) if name in gone]
                trailer = json.dumps({"fingerprint": fingerprint, "skipped": skipped}).encode()
                file.write(trailer + len(trailer).to_bytes(8, "little"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise RuntimeError(
                f"cannot write the disk cache {path}: {error.strerror}. Make room, give another "
                "--cache_dir, or use --cache none"
            ) from error
        finally:
            Path(temporary).unlink(missing_ok=True)


def _pipeline(groups: Iterable[list], workers: int, ahead: int) -> Iterator[list]:
    """Run groups of callables in threads; yield each group's results in order, starting `ahead` groups in advance."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: deque[list] = deque()
    try:
        for group in groups:
            pending.append([pool.submit(task) for task in group])
            if len(pending) > ahead:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------------------------------- samplers
# Each returns index tensors (steps, B) int64 as a pure function of its arguments.


def _permutation(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.random(n).argsort(kind="stable")


def shuffled(
    num_images: int, batch_size: int, seed: int, epoch: int, drop_last: bool = True, steps: int | None = None
) -> Tensor:
    """Batches of a shuffled data set: (steps, batch_size) int64.

    drop_last: leave out the images that do not fill a batch; otherwise the last batch is completed from a second
        shuffle, so that all batches have one size.
    steps: exactly that many batches, reshuffling whenever all images have been seen; None for one pass.
    Raises: ValueError if there is no full batch.
    """
    if num_images < 1 or (steps is None and drop_last and num_images < batch_size):
        raise ValueError(
            f"{num_images:,} training images do not fill one batch of {batch_size}: "
            f"lower --batch_size to at most {num_images}, or set --steps"
        )
    if steps is None:
        steps = num_images // batch_size if drop_last else math.ceil(num_images / batch_size)
    rng = random_generator("sampler", seed, epoch)
    passes = [_permutation(rng, num_images) for _ in range(math.ceil(steps * batch_size / num_images))]
    return torch.from_numpy(np.concatenate(passes)[: steps * batch_size].reshape(steps, batch_size))


def pk_batches(
    labels: Sequence[int] | Tensor, p: int, k: int, seed: int, epoch: int, steps: int | None = None
) -> Tensor:
    """Batches of p identities with k images each: (steps, p * k) int64, the images of an identity side by side.

    steps=None: one pass as RandomIdentitySampler of reid-strong-baseline 3da7e6f (data/samplers/triplet_sampler.py)
        and torchreid f8cd150 (data/sampler.py): the images of each identity are shuffled and cut into groups of k,
        the rest is left out; p identities at a time are drawn from those that have a group left, until fewer
        than p have. The number of batches depends on the draws.
    steps=n: exactly n batches. Identities are taken from one shuffle after another, so that each is seen equally
        often (the counts differ by at most one), and so are the images of an identity over its turns.
    An identity with fewer than k images gives all of them and then repeats (the authors' samplers draw all k with
    replacement, and may leave one out). No identity comes twice in a batch.
    Raises: ValueError if there are fewer than p identities.
    """
    labels = np.asarray(labels)
    names, inverse = np.unique(labels, return_inverse=True)
    if len(names) < p:
        raise ValueError(
            f"batches of p={p} identities were asked for and the training set has {len(names)}: "
            f"lower --p to at most {len(names)}"
        )
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    rng = random_generator("sampler", seed, epoch)
    batches = _one_pass(members, p, k, rng) if steps is None else _cycled(members, p, k, rng, steps)
    return torch.from_numpy(np.array(batches, dtype=np.int64).reshape(-1, p * k))


def _one_pass(members: list[np.ndarray], p: int, k: int, rng: np.random.Generator) -> list[np.ndarray]:
    groups = []
    for images in members:
        order = images[_permutation(rng, len(images))]
        order = np.resize(order, max(k, len(order)))  # np.resize repeats: all images first, then again
        groups.append(list(order[: len(order) // k * k].reshape(-1, k)))
    left, batches = np.arange(len(members)), []
    while len(left) >= p:
        chosen = left[_permutation(rng, len(left))[:p]]
        batches.append(np.concatenate([groups[i].pop() for i in chosen]))
        left = np.array([i for i in left if groups[i]], dtype=np.int64)
    return batches


def balanced_batches(
    labels: Sequence[int] | Tensor,
    groups: Sequence[int] | Tensor,
    p: int,
    k: int,
    seed: int,
    epoch: int,
    steps: int | None = None,
) -> Tensor:
    """Batches of p identities with k images of each group (colour and infrared): (steps, p * k * number of groups).

    groups: of each image. The images of an identity stand side by side, the k of the first group before those of the
        next. Identities that are not in every group are not drawn.
    steps=None: one more than the largest group has whole batches of p * k images (IdentitySampler in
        Cross-Modal-Re-ID-baseline e817a26, utils.py). There each batch draws its identities and, with replacement,
        their images anew; here both are taken in turns, as `pk_batches` does for a given number of steps.
    Raises: ValueError if there are fewer than two groups, or fewer than p identities in all of them.
    """
    labels, groups = np.asarray(labels), np.asarray(groups)
    kinds, sizes = np.unique(groups, return_counts=True)
    members = {
        name: [np.flatnonzero((labels == name) & (groups == kind)) for kind in kinds] for name in np.unique(labels)
    }
    complete = [images for images in members.values() if all(map(len, images))]
    if len(kinds) < 2 or len(complete) < p:
        raise ValueError(
            f"batches of p={p} identities with images of both colour and infrared cameras were asked for "
            f"and the training set has {len(complete) if len(kinds) > 1 else 0} of {len(members)}: "
            "lower --p, or train on a set with both kinds of cameras, such as SYSU-MM01"
        )
    steps = int(sizes.max()) // (p * k) + 1 if steps is None else steps
    rng = random_generator("sampler", seed, epoch)
    identities = _Cycle(np.arange(len(complete)), rng)
    images = [[_Cycle(each, rng) for each in of_groups] for of_groups in complete]
    batches = [np.concatenate([cycle.take(k) for i in identities.take(p) for cycle in images[i]]) for _ in range(steps)]
    return torch.from_numpy(np.array(batches, dtype=np.int64).reshape(steps, -1))


def _cycled(members: list[np.ndarray], p: int, k: int, rng: np.random.Generator, steps: int) -> list[np.ndarray]:
    identities = _Cycle(np.arange(len(members)), rng)
    images = [_Cycle(each, rng) for each in members]
    return [np.concatenate([images[i].take(k) for i in identities.take(p)]) for _ in range(steps)]


class _Cycle:
    """Items in one random order after another; `take(n)` repeats an item only when n exceeds their number."""

    def __init__(self, items: np.ndarray, rng: np.random.Generator):
        self.items, self.rng = items, rng
        self.queue = items[:0]

    def _shuffle(self) -> np.ndarray:
        return self.items[_permutation(self.rng, len(self.items))]

    def take(self, n: int) -> np.ndarray:
        """The next n items, (n,)."""
        whole, rest = divmod(n, len(self.items))  # every item `whole` times, then `rest` different ones
        if len(self.queue) < rest:
            fresh = self._shuffle()
            held = np.isin(fresh, self.queue)  # items this call already takes go behind the others
            self.queue = np.concatenate([self.queue, fresh[~held], fresh[held]])
        taken, self.queue = self.queue[:rest], self.queue[rest:]
        return np.concatenate([*(self._shuffle() for _ in range(whole)), taken])


# --------------------------------------------------------------------------------------------------- tracklets

SAMPLE_METHODS = ("evenly", "random", "all", "frames")  # frames of a tracklet in training
TEST_FRAMES = ("all", "evenly", "dense")  # frames of a tracklet in a test
NO_FRAME = torch.iinfo(torch.int64).min  # stands for the camera where a short tracklet of a batch is filled up
TRACKLET_CACHE = 2 << 30  # bytes of pixels of tracklets above which cache "auto" decodes as needed, see `_make_store`


def as_images(samples: Sequence, labels: Sequence[int] | Tensor) -> tuple[list, list[int]]:
    """(samples, labels) with every frame of a tracklet as a sample of its own."""
    counts = [len(frames_of(sample)) for sample in samples]
    images = [type(sample)(path, sample.pid, sample.camid) for sample in samples for path in frames_of(sample)]
    return images, [int(label) for label, count in zip(labels, counts, strict=True) for _ in range(count)]


def frames_of(sample) -> tuple[str, ...]:
    """Paths of the frames of a tracklet; an image is one frame."""
    return tuple(sample.path) if isinstance(sample.path, (tuple, list)) else (sample.path,)


def are_tracklets(samples: Sequence) -> bool:
    """Whether the samples are tracklets. Raises ValueError where some are and some are not."""
    kinds = {isinstance(sample.path, (tuple, list)) for sample in samples}
    if len(kinds) > 1:
        raise ValueError("some samples are images and some are tracklets: train and test on sets of one kind")
    if kinds == {True} and not all(sample.path for sample in samples):
        raise ValueError("a tracklet has no frames: leave it out of the data set")
    return kinds == {True}


class Rows(NamedTuple):
    """Which rows of a store belong to the n samples in use: rows first[i] to first[i + 1] are the frames of i."""

    kept: np.ndarray  # (n,) positions of these samples among those that were given
    first: np.ndarray  # (n + 1,)

    @classmethod
    def of(cls, samples: Sequence, store: ImageStore) -> "Rows":
        """An unreadable frame leaves its tracklet shorter; a sample without any frame left is not in use."""
        counts = [len(frames_of(sample)) for sample in samples]
        owner = np.repeat(np.arange(len(samples)), counts)[store.kept.numpy()]
        counts = np.bincount(owner, minlength=len(samples))
        kept = counts.nonzero()[0]
        return cls(kept, np.concatenate([[0], counts[kept].cumsum()]).astype(np.int64))

    def count(self, sample: int) -> int:
        """Frames of a sample."""
        return int(self.first[sample + 1] - self.first[sample])


def sampled_frames(count: int, seq_len: int, method: str, rng: np.random.Generator) -> np.ndarray:
    """Which of the `count` frames of a tracklet to train on, ascending (torchreid f8cd150, data/datasets/dataset.py).

    "evenly": seq_len frames, count // seq_len apart from the first on; always the same. A shorter tracklet is completed
        by its last frame. "random": any seq_len frames, with repetition only if there are fewer. "all": every frame.
    """
    if method == "all":
        return np.arange(count)
    if method == "evenly":
        apart = count // seq_len
        return np.arange(seq_len) * apart if apart else np.minimum(np.arange(seq_len), count - 1)
    if count >= seq_len:
        return np.sort(_permutation(rng, count)[:seq_len])
    return np.sort((rng.random(seq_len) * count).astype(np.int64))


def clips_of(count: int, seq_len: int, policy: str) -> list[np.ndarray]:
    """The clips that stand for a tracklet of `count` frames in a test; its feature is the mean of theirs.

    "all": one clip of every frame. "evenly": one clip, as in training. "dense": all frames in clips of seq_len, the
        last one completed from its own start (jiyanggao/Video-Person-ReID 7160572, video_loader.py).
    """
    if policy == "all":
        return [np.arange(count)]
    if policy == "evenly":
        return [sampled_frames(count, seq_len, "evenly", None)]
    return [np.resize(np.arange(i, min(i + seq_len, count)), seq_len) for i in range(0, count, seq_len)]


def stacked(images: Tensor, lengths: np.ndarray, camids: Tensor) -> tuple[Tensor, Tensor]:
    """Frames of B tracklets in a row as a batch (B, T, 3, H, W) with T = max(lengths).

    Args: images (n, 3, H, W); lengths (B,), n in all; camids (B,) on the CPU.
    Returns: (images, camids), camids (B,), or, if lengths differ, (B, T) with NO_FRAME where a tracklet has ended and
        its images are zero.
    """
    shape = (len(lengths), int(lengths.max()))
    if (lengths == shape[1]).all():
        return images.unflatten(0, shape), camids
    there = torch.arange(shape[1]) < torch.from_numpy(lengths)[:, None]  # (B, T)
    grid = images.new_empty((math.prod(shape), *images.shape[1:])).to(memory_format=_memory_format(images)).zero_()
    grid[to_device(there.flatten().nonzero()[:, 0], images.device)] = images
    return grid.unflatten(0, shape), torch.where(there, camids[:, None], NO_FRAME)


def _memory_format(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _make_store(
    samples: Sequence, image_size: tuple[int, int], store: ImageStore | None, cache: str, video: bool, **options
) -> ImageStore:
    """The given store, if it is of these samples, or a new one.

    "auto" keeps the frames of a `video` only up to TRACKLET_CACHE: an epoch reads a few frames of each tracklet (of
    MARS, 33,192 of 509,914 at four each), so decoding all of them first would cost more than it saves.
    """
    paths = [path for sample in samples for path in frames_of(sample)]
    if store is not None:
        if store.image_size != tuple(image_size) or store.paths != [os.fspath(path) for path in paths]:
            raise ValueError(
                f"the store holds {len(store.paths):,} files at {store.image_size} (H, W) and the loader "
                f"was given {len(samples):,} samples at {tuple(image_size)}: make a store of the same "
                "files"
            )
        return store
    if cache == "auto" and video and len(paths) * math.prod(image_size) * 3 > TRACKLET_CACHE:
        cache = "none"
    return ImageStore(paths, image_size, cache=cache, **options)


def _signed(camids: Tensor, infrared: Iterable[int]) -> Tensor:
    """camids, of infrared cameras as -1 - camid: a two-stream network tells the light by the sign (`models`)."""
    return torch.where(torch.isin(camids, torch.tensor(sorted(infrared), dtype=torch.int64)), -1 - camids, camids)


# -------------------------------------------------------------------------------------------------- TrainLoader


class TrainLoader:
    """Augmented training batches on the device.

    Args:
        samples: (path, pid, camid) of each image, as datasets.Sample; labels: their (N,) contiguous identity labels.
        image_size: (H, W) in pixels.
        batch_size: images of a shuffled batch; or p, k: identities and images of each in a batch (`pk_batches`).
            All of them count the whole batch over all processes.
        steps: batches per epoch; None for what one pass gives.
        drop_last: of shuffled batches, see `shuffled`.
        seq_len, sample_method: of tracklets, see `sampled_frames`. Every number above then counts tracklets. With
            "frames" each frame of a tracklet is an image like any other, and the numbers count frames (torchreid
            v0.0.9, train_vid_model_xent_htri.py).
        frame_by_frame: hand on the frames of tracklets as images of their own, as torchreid trains (f8cd150,
            engine/video: each frame is classified, and only a test pools over time).
        same_augmentation: draw one augmentation for all frames of a tracklet; torchreid draws one for each.
        infrared: the infrared cameras. With p and k, a batch holds p identities with k images of each light
            (`balanced_batches`), 2 p k in all; and the camids of infrared images are yielded as -1 - camid.
        alternate: "random": `observe` may switch between p x k batches and shuffled batches of the same size, as
            Pyramid's dynamic training does (Zheng et al., CVPR 2019, Sec. 3.3).
        flip ... erase_log_aspect, mean, std: see `Augmentation`.
        interpolation, cache, cache_dir, workers, skip_bad, progress: see `ImageStore`.
        device, channels_last, dtype: of the images.
        seed: of the order and the augmentation.
        rank, world_size: this process takes its part of each batch; the parts in order are the whole batch.
        store: an ImageStore of the same files to use instead of a new one.

    Attributes: `samples`, `labels` (n,), `camids` (n,): of the images in use, without the unreadable ones;
        `num_images` (or tracklets), `num_frames`; `store`; `augmentation`; `description`.
    Raises: ValueError for impossible arguments, and what ImageStore raises.
    """

    def __init__(
        self,
        samples: Sequence,
        labels: Sequence[int] | Tensor,
        *,
        image_size: tuple[int, int],
        batch_size: int | None = None,
        p: int | None = None,
        k: int | None = None,
        steps: int | None = None,
        drop_last: bool = True,
        alternate: str | None = None,
        seq_len: int = 15,
        sample_method: str = "evenly",
        frame_by_frame: bool = False,
        same_augmentation: bool = False,
        infrared: Iterable[int] = (),
        flip: float = 0.5,
        pad: int = 10,
        translate: float = 0.0,
        random_patch: float = 0.0,
        color_jitter: float = 0.0,
        jitter_strength: tuple[float, float, float, float] = (0.2, 0.15, 0.0, 0.0),
        erase: float = 0.5,
        erase_fill: str | tuple[float, float, float] = "mean_raw",
        erase_area: tuple[float, float] = (0.02, 0.4),
        erase_aspect: tuple[float, float] = (0.3, 1 / 0.3),
        erase_log_aspect: bool = False,
        erase_attempts: int = 100,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        device: torch.device | str = "cpu",
        seed: int = 0,
        cache: str = "auto",
        cache_dir: str | os.PathLike | None = None,
        workers: int | None = None,
        skip_bad: bool = False,
        progress: bool = True,
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
        store: ImageStore | None = None,
    ):
        if len(labels) != len(samples):
            raise ValueError(f"{len(samples):,} samples and {len(labels):,} labels: they must be as many")
        self.infrared = frozenset(infrared)
        self.batch_size, self.p, self.k = _batch_shape(batch_size, p, k, 2 if self.infrared else 1)
        check_one_of("sample_method", sample_method, SAMPLE_METHODS)
        if seq_len < 1:
            raise ValueError(f"seq_len must be at least 1: {seq_len}")
        self.seq_len, self.sample_method = seq_len, sample_method
        self.frame_by_frame, self.same_augmentation = frame_by_frame, same_augmentation
        if alternate not in (None, "random") or (alternate and self.p is None):
            raise ValueError(f"alternate is {alternate!r}: it must be None, or 'random' together with p and k")
        if self.batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"a batch of {self.batch_size} images cannot be shared by {world_size} processes "
                f"(this is number {rank}): choose a multiple of {world_size}"
            )
        self.augmentation = Augmentation(
            flip=flip,
            pad=pad,
            translate=translate,
            random_patch=random_patch,
            color_jitter=color_jitter,
            jitter_strength=jitter_strength,
            erase=erase,
            erase_fill=erase_fill,
            erase_area=erase_area,
            erase_aspect=erase_aspect,
            erase_log_aspect=erase_log_aspect,
            erase_attempts=erase_attempts,
            mean=mean,
            std=std,
        )
        self.steps_asked, self.drop_last, self.alternate = steps, drop_last, alternate
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.device, self.channels_last, self.dtype = torch.device(device), channels_last, dtype
        self.balanced = True
        # other accelerators lack the integer and double arithmetic that makes the pixels equal to Pillow's
        pixel_device = self.device if self.device.type == "cuda" else torch.device("cpu")
        video = are_tracklets(samples)
        self.tracklets = video and sample_method != "frames"
        if video and not self.tracklets:
            samples, labels = as_images(samples, labels)
        self.store = _make_store(
            samples,
            image_size,
            store,
            cache,
            video,
            interpolation=interpolation,
            device=pixel_device,
            workers=workers,
            cache_dir=cache_dir,
            skip_bad=skip_bad,
            progress=progress,
        )
        self.rows = Rows.of(samples, self.store)
        self.samples = [samples[i] for i in self.rows.kept.tolist()]
        self.labels = torch.as_tensor(labels, dtype=torch.int64)[torch.from_numpy(self.rows.kept)]
        self.camids = torch.tensor([sample.camid for sample in self.samples], dtype=torch.int64)
        self._planned: tuple[int, Tensor] = (0, self._plan(0))  # raises now what would raise in the first epoch

    @property
    def num_images(self) -> int:
        """Samples in use, images or tracklets."""
        return len(self.samples)

    @property
    def num_frames(self) -> int:
        """Images in the store: all frames of the tracklets, or one for each sample."""
        return len(self.store)

    @property
    def description(self) -> str:
        """What a batch and the store hold, for the log."""
        kind = "tracklets" if self.tracklets else "images"
        batch = f"{self.p} identities x {self.k} {kind}" if self.p else f"{self.batch_size} {kind}"
        if self.infrared:
            batch += " of each light"
        if self.tracklets:
            number = "all" if self.sample_method == "all" else f"{self.seq_len} {self.sample_method} chosen"
            batch += f" with {number} frames" + (", each on its own" if self.frame_by_frame else "")
        of = f"{self.num_images:,} tracklets of " if self.tracklets else ""
        return f"{of}{self.store.description}; {len(self)} batches of {batch}"

    def __len__(self) -> int:
        return self.steps(0)

    def steps(self, epoch: int) -> int:
        """Batches of that epoch. Differs between epochs only for p x k batches without a given number of steps."""
        return len(self._batches(epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (images (B, 3, H, W), labels (B,) int64, camids (B,) int64) on the device, from step `start`.

        Of tracklets: images (B, T, 3, H, W), and camids (B, T) where their lengths differ (`stacked`); with
        `frame_by_frame` as above, B then counts frames.
        A pure function of (seed, epoch), and of what was observed in between if `alternate` is on.
        """
        draws: deque[tuple[Tensor, np.ndarray, Draws, int]] = deque()
        part = self.batch_size // self.world_size
        mine = slice(self.rank * part, (self.rank + 1) * part)

        def indices() -> Iterator[Tensor]:
            for step in range(start, self.steps(epoch)):
                index = self._batch(epoch, step)
                rows, lengths = self._frames(index, epoch, step)
                drawn = self._draw(lengths, epoch, step)
                here = slice(int(lengths[: mine.start].sum()), int(lengths[: mine.stop].sum()))
                drawn = drawn.slice(here.start, here.stop)
                sources = _patch_sources(drawn)
                draws.append((index[mine], lengths[mine], drawn, len(sources)))
                yield torch.cat([rows[here], sources])

        # a batch must not be chosen before the last one was observed
        for pixels in self.store.stream(indices(), ahead=0 if self.alternate else None):
            index, lengths, drawn, num_sources = draws.popleft()
            batch = len(pixels) - num_sources
            images = self.augmentation(pixels[:batch], drawn, pixels[batch:], channels_last=self.channels_last)
            images = images.to(self.device, self.dtype)
            labels, camids = self.labels[index], _signed(self.camids[index], self.infrared)
            if self.tracklets and self.frame_by_frame:
                labels, camids = (each.repeat_interleave(torch.from_numpy(lengths)) for each in (labels, camids))
            elif self.tracklets:
                images, camids = stacked(images, lengths, camids)
            yield images, to_device(labels, self.device), to_device(camids, self.device)

    def observe(self, terms: dict[str, float]) -> None:
        """Told the plain values of a step. With `alternate`, `terms["balanced"]` (true or false) chooses whether the
        next batches are p x k or shuffled; everything else is ignored."""
        if self.alternate and "balanced" in terms:
            self.balanced = bool(terms["balanced"])

    def state_dict(self) -> dict[str, bool]:
        """What `observe` has changed and a checkpoint must keep."""
        return {"balanced": self.balanced}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        """Goes on from a `state_dict`."""
        self.balanced = bool(state["balanced"])

    def _frames(self, index: Tensor, epoch: int, step: int) -> tuple[Tensor, np.ndarray]:
        """(rows of the store, number of rows of each sample) for the samples of a whole batch."""
        if not self.tracklets:
            return index, np.ones(len(index), np.int64)
        rng = random_generator("frames", self.seed, epoch, step)
        rows = [
            self.rows.first[i] + sampled_frames(self.rows.count(i), self.seq_len, self.sample_method, rng)
            for i in index.tolist()
        ]
        return torch.from_numpy(np.concatenate(rows)), np.array([len(each) for each in rows])

    def _draw(self, lengths: np.ndarray, epoch: int, step: int) -> Draws:
        """Random parameters of the frames of a whole batch."""
        count = len(lengths) if self.same_augmentation else int(lengths.sum())
        drawn = self.augmentation.draw(count, self.store.image_size, self.num_frames, self.seed, epoch, step)
        return drawn.repeat(lengths) if self.same_augmentation else drawn

    def _batch(self, epoch: int, step: int) -> Tensor:
        batch = self._batches(epoch)[step]  # (B,), or (2, B) with `alternate`: p x k and shuffled
        return batch[0 if self.balanced else 1] if self.alternate else batch

    def _batches(self, epoch: int) -> Tensor:
        if self._planned[0] != epoch:
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def _plan(self, epoch: int) -> Tensor:
        """(steps, B), or (steps, 2, B) with `alternate`."""
        if self.p is None:
            return shuffled(self.num_images, self.batch_size, self.seed, epoch, self.drop_last, self.steps_asked)
        if self.infrared:
            light = torch.isin(self.camids, torch.tensor(sorted(self.infrared), dtype=torch.int64))
            balanced = balanced_batches(self.labels, light, self.p, self.k, self.seed, epoch, self.steps_asked)
        else:
            balanced = pk_batches(self.labels, self.p, self.k, self.seed, epoch, self.steps_asked)
        if not self.alternate:
            return balanced
        random = shuffled(self.num_images, self.batch_size, self.seed, epoch, steps=len(balanced))
        return torch.stack([balanced, random], dim=1)


def _batch_shape(
    batch_size: int | None, p: int | None, k: int | None, groups: int
) -> tuple[int, int | None, int | None]:
    if (p is None) != (k is None):
        raise ValueError(f"p (identities) and k (images of each) go together: p={p}, k={k}")
    if p is None and batch_size is None:
        raise ValueError("give batch_size for shuffled batches, or p and k for batches of p identities x k images")
    whole = None if p is None else p * k * groups
    if p is not None and batch_size not in (None, whole):
        raise ValueError(
            f"batch_size={batch_size} contradicts p={p} x k={k}{f' x {groups}' if groups > 1 else ''} = "
            f"{whole}: leave one of them out"
        )
    if min(v for v in (batch_size, p, k) if v is not None) < 1:
        raise ValueError(f"batch_size={batch_size}, p={p}, k={k} must be at least 1")
    return (batch_size or whole), p, k


def _patch_sources(drawn: Draws) -> Tensor:
    if drawn.patch is None:
        return torch.empty(0, dtype=torch.int64)
    return torch.from_numpy(drawn.patch[drawn.patch[:, 0] >= 0, 0])


# --------------------------------------------------------------------------------------------------- EvalLoader


class EvalLoader:
    """Images or tracklets of a query or gallery set in order, resized and normalised, nothing else.

    Args: as TrainLoader's. Without a cache each batch is decoded by all workers, on a GPU while the network runs;
        a `store` keeps the pixels from one evaluation to the next.
        test_frames, seq_len: frames of a tracklet that are looked at, see `clips_of`.
        max_frames: how many frames of tracklets are decoded and go through the network at a time.
    Yields: (images (B, 3, H, W) float, camids (B,) int64) on the device; the last batch may be short. Of tracklets:
        (`Tracklets`, camids (B,)).
    Attributes: `samples`, the ones that are yielded (fewer than given if files were skipped: take pids from here);
        `num_images`; `store`; `description`.
    """

    def __init__(
        self,
        samples: Sequence,
        *,
        image_size: tuple[int, int],
        batch_size: int = 128,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        device: torch.device | str = "cpu",
        cache: str = "none",
        cache_dir: str | os.PathLike | None = None,
        workers: int | None = None,
        skip_bad: bool = False,
        progress: bool = True,
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
        store: ImageStore | None = None,
        infrared: Iterable[int] = (),
        test_frames: str = "all",
        seq_len: int = 15,
        max_frames: int = 256,
    ):
        if min(batch_size, seq_len, max_frames) < 1:
            raise ValueError(
                f"batch_size, seq_len and max_frames must be at least 1: {batch_size}, {seq_len}, {max_frames}"
            )
        check_one_of("test_frames", test_frames, TEST_FRAMES)
        self.test_frames, self.seq_len, self.max_frames = test_frames, seq_len, max_frames
        self.batch_size, self.mean, self.std = batch_size, tuple(mean), tuple(std)
        self.device, self.channels_last, self.dtype = torch.device(device), channels_last, dtype
        self.tracklets = are_tracklets(samples)
        self.store = _make_store(
            samples,
            image_size,
            store,
            cache,
            self.tracklets,
            interpolation=interpolation,
            device=device,
            workers=workers,
            cache_dir=cache_dir,
            skip_bad=skip_bad,
            progress=progress,
        )
        self.rows = Rows.of(samples, self.store)
        self.samples = [samples[i] for i in self.rows.kept.tolist()]
        camids = torch.tensor([sample.camid for sample in self.samples], dtype=torch.int64)
        self.camids = _signed(camids, infrared)

    @property
    def num_images(self) -> int:
        """Samples in use, images or tracklets."""
        return len(self.samples)

    @property
    def description(self) -> str:
        """What the test set and its store hold, for the log."""
        of = f"{self.num_images:,} tracklets ({self.test_frames}) of " if self.tracklets else ""
        return of + self.store.description

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = torch.arange(self.num_images).split(self.batch_size) if self.num_images else ()
        if self.tracklets:
            for index in batches:
                yield Tracklets(self, index.tolist()), to_device(self.camids[index], self.device)
        else:
            for index, images in zip(batches, self.images(batches), strict=True):
                yield images, to_device(self.camids[index], self.device)

    def images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images (B, 3, H, W) of each index tensor (B,) of rows of the store."""
        for pixels in self.store.stream(batches):
            images = normalise(pixels, self.mean, self.std, channels_last=self.channels_last)
            yield images.to(self.device, self.dtype)


class Tracklets:
    """The frames of B tracklets of an EvalLoader, decoded in chunks as a network asks for them.

    However many frames a tracklet has, no more than `max_frames` of the loader are in memory at a time.

    Attributes: `lengths`: frames of each clip; `clips`: clips of each of the B tracklets; `device`.
    """

    def __init__(self, loader: EvalLoader, index: Sequence[int], mirrored: bool = False):
        self.loader, self.index, self.mirrored, self.device = loader, index, mirrored, loader.device
        clips = [clips_of(loader.rows.count(i), loader.seq_len, loader.test_frames) for i in index]
        self.clips = tuple(len(each) for each in clips)
        self.lengths = tuple(len(clip) for each in clips for clip in each)
        self.frames = torch.from_numpy(
            np.concatenate([loader.rows.first[i] + clip for i, each in zip(index, clips, strict=True) for clip in each])
        )

    def __len__(self) -> int:
        return len(self.clips)

    def flip(self, dim: int) -> "Tracklets":
        """The mirrored frames; `dim` 3 is the width of a frame, as in a batch of images (B, 3, H, W)."""
        if dim != 3:
            raise ValueError(f"frames (n, 3, H, W) are mirrored along dimension 3, not {dim}")
        return Tracklets(self.loader, self.index, not self.mirrored)

    def chunks(self) -> Iterator[Tensor]:
        """The frames of all clips in order, (n, 3, H, W) with n <= max_frames at a time."""
        for images in self.loader.images(self.frames.split(self.loader.max_frames)):
            yield images.flip(3) if self.mirrored else images
