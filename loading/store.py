"""Decoded and resized images of a list of files: the one place that opens image files for a network."""

import hashlib
import json
import math
import os
import shutil
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loading.augmentation import (
    check_one_of,
    to_device,
)
from machine import files, imagefile
from machine.memory import free_memory
from machine.progress import Progress
from machine.threads import cores

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


CACHES = ("auto", "ram", "gpu", "disk", "none")


CHUNK = 16  # images per task of a decoding thread: long enough to hide the task's own cost, short enough to balance


class UnreadableImages(RuntimeError):
    """Files that Pillow cannot decode; the message names the first five and counts the rest."""

    def __init__(self, bad: Sequence[tuple[str, str]], total: int):
        named = ", ".join(f"{files.printable(path)} ({reason})" for path, reason in bad[:5])
        more = f" and {len(bad) - 5:,} more" if len(bad) > 5 else ""
        self.found = f"{len(bad):,} of {total:,} images cannot be read: {named}{more}"
        super().__init__(f"{self.found}. Replace them, or leave them out with --skip_bad_images.")
        self.paths = tuple(path for path, _ in bad)


def decode(path: str, image_size: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """Decode and resize one image: the bytes of torchvision's Resize((H, W)) on what `machine.imagefile.read` gives.

    Args: path; image_size (H, W) in pixels; interpolation "bilinear" or "bicubic" (both antialiased by Pillow).
    Returns: (H, W, 3) uint8.
    Raises: as `machine.imagefile.read`.
    """
    height, width = image_size
    image = imagefile.read(path).rgb
    if image.size != (width, height):
        image = image.resize((width, height), FILTERS[interpolation])
    return np.asarray(image)


def _decode_into(out: np.ndarray, paths: Sequence[str], interpolation: str) -> list[tuple[int, str]]:
    """Decode `paths` into the rows of out (n, H, W, 3), or, if they have no pixel, only read them. Returns [(row,
    reason)] of those that failed."""
    bad = []
    for row, path in enumerate(paths):
        try:
            if out.size:
                out[row] = decode(path, out.shape[1:3], interpolation)
            else:
                imagefile.read(path)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
            bad.append((row, imagefile.reason(error, path)))
    return bad


def _size(num_bytes: int) -> str:
    if num_bytes < 2**20:
        return "below 1 MiB"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels."""

    image_size: tuple[int, int]  # (H, W) in pixels
    interpolation: str = "bilinear"  # or bicubic
    workers: int | None = None  # decoding threads; None for one per core
    skip_bad: bool = False  # leave out files that cannot be read instead of raising; they are named in `skipped`
    progress: bool = True  # show how far the decoding has come
    check: bool = False  # read every file once before anything is computed, even if no pixels are kept

    def __post_init__(self):
        check_one_of("interpolation", self.interpolation, FILTERS)


@dataclass(frozen=True)
class Cache:
    """Where decoded pixels live.

    kind: "ram": host memory. "gpu": on the device. "disk": a memory-mapped file in `folder`, named by a fingerprint of
        paths, sizes, modification times, image size and filter. "none": decoded each time they are asked for. "auto":
        on the device if that is a GPU and the pixels take at most a third of its free memory; else "ram" if they take
        at most half of the free host memory; else "disk" if there is a `folder`; else "none".
    """

    kind: str = "auto"
    folder: str | os.PathLike | None = None

    def __post_init__(self):
        check_one_of("cache", self.kind, CACHES)


class ImageStore:
    """Decoded and resized images of a list of files, as uint8 (N, H, W, 3).

    Channels are last because that is what Pillow hands over, what a crop copies in whole rows and what a
    channels-last network reads: no transposition anywhere.

    Args:
        paths: N image files.
        decoding: how they become pixels.
        cache: where the pixels live.
        device: where `stream` delivers batches.

    Attributes: `kept` (n,) int64, the positions in `paths` that the rows stand for; `skipped`, the files left out;
        `cache`, the kind in use; `description`, one sentence for the log.
    Raises: UnreadableImages (for "none" only when the image is reached, unless `skip_bad` or `check`), ValueError for
        impossible arguments, RuntimeError if the pixels do not fit where they were asked to be.
    """

    VERSION = 3  # of the pixels and the file layout of the disk cache

    def __init__(
        self, paths: Sequence[str], decoding: Decoding, cache: Cache | None = None, device: torch.device | str = "cpu"
    ):
        cache = cache or Cache()
        if any(not isinstance(path, (str, os.PathLike)) for path in paths):
            raise ValueError("the loaders take one image per sample, and found a tracklet of several frames")
        self.paths = [os.fspath(path) for path in paths]
        self.image_size = (int(decoding.image_size[0]), int(decoding.image_size[1]))
        self.interpolation, self.skip_bad, self.progress = decoding.interpolation, decoding.skip_bad, decoding.progress
        self.check = decoding.check or decoding.skip_bad  # which files are bad must be known before an index is drawn
        self.workers = max(1, decoding.workers or cores())
        self.device = torch.device(device)
        self.cache = self._choose(cache)
        self.kept = torch.arange(len(self.paths))
        self.skipped: list[str] = []
        self.data = self._fill(cache)

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

    @property
    def left_out(self) -> str:
        """How many files could not be read and are left out, and the first of them, in words; empty if none."""
        if not self.skipped:
            return ""
        more = f" and {len(self.skipped) - 5:,} more" if len(self.skipped) > 5 else ""
        named = ", ".join(files.printable(path) for path in self.skipped[:5])
        return f"{len(self.skipped):,} of {len(self.paths):,} images cannot be read and are left out: {named}{more}"

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
        assert self.data is not None
        shape = (len(index), *self.image_size, 3)
        if self.data.device.type != "cpu":
            return self.data.index_select(0, to_device(index, self.device))
        out = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        # rows are copied whole: on (N, H * W * 3) index_select is one memcpy per image
        torch.index_select(self.data.flatten(1), 0, index, out=out.flatten(1))
        return out.to(self.device, non_blocking=True)

    # filling ------------------------------------------------------------------------------------------------

    def _choose(self, cache: Cache) -> str:
        on_gpu = self.device.type == "cuda"
        if cache.kind == "gpu" and not on_gpu:
            raise ValueError("--cache gpu needs --device cuda: use --cache ram on the CPU")
        if cache.kind == "disk" and cache.folder is None:
            raise ValueError("--cache disk needs a folder for its file: give --cache_path")
        if cache.kind == "ram" and self.num_bytes > free_memory():
            raise RuntimeError(
                f"{len(self.paths):,} images of {self.image_size[0]}x{self.image_size[1]} take "
                f"{_size(self.num_bytes)} and {_size(free_memory())} of memory are free: "
                "use --cache disk or --cache none"
            )
        if cache.kind != "auto":
            return cache.kind
        if on_gpu and self.num_bytes <= torch.cuda.mem_get_info(self.device)[0] // 3:
            return "gpu"
        if self.num_bytes <= free_memory() // 2:
            return "ram"
        return "disk" if cache.folder is not None else "none"

    def _fill(self, cache: Cache) -> Tensor | None:
        if self.cache == "disk":
            assert cache.folder is not None  # `_choose`
            return self._fill_disk(Path(cache.folder))
        if self.cache == "none":
            if self.check:
                deque(self._decode_all("checking images", (0, 0)), maxlen=0)
            return None
        data = torch.empty((len(self.paths), *self.image_size, 3), dtype=torch.uint8)
        row = 0
        for images in self._decode_all("decoding images", self.image_size):
            data[row : row + len(images)] = torch.from_numpy(images)
            row += len(images)
        return data[:row].to(self.device) if self.cache == "gpu" else data[:row]

    def _decode_all(self, title: str, image_size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Decode every file in parallel; yield (n, H, W, 3) chunks of the good images, in order. Images of (0, 0) are
        only read, which for a JPEG of 128x64 takes half as long.

        At the end sets `kept` and `skipped`, or raises UnreadableImages.
        """
        chunks = [range(i, min(i + CHUNK, len(self.paths))) for i in range(0, len(self.paths), CHUNK)]

        def decode_chunk(chunk: range) -> tuple[np.ndarray, list[tuple[int, str]]]:
            images = np.empty((len(chunk), *image_size, 3), np.uint8)
            return images, _decode_into(images, [self.paths[i] for i in chunk], self.interpolation)

        bad: list[tuple[int, str]] = []
        tasks = ([partial(decode_chunk, chunk)] for chunk in chunks)
        with Progress(len(self.paths), title, shown=self.progress) as progress:
            for chunk, [(images, failed)] in zip(chunks, _pipeline(tasks, self.workers, 4 * self.workers), strict=True):
                progress.update(len(chunk))
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
        files.sweep(folder)
        names, stats = self._fingerprints()
        path = folder / f"images_{names[:12]}_{stats[:20]}.cache"
        data = self._open_disk(path, stats)
        if data is None:
            self._write_disk(path, stats)
            for old in folder.glob(f"images_{names[:12]}_*.cache"):  # the same list before some file changed
                if old != path:
                    old.unlink(missing_ok=True)
            data = self._open_disk(path, stats)
            if data is None:
                raise RuntimeError(f"{path} was changed while it was written: give each run its own --cache_path")
        return data

    def _fingerprints(self) -> tuple[str, str]:
        """Hex digests of (the list and its settings, the same with each file's size and modification time)."""
        settings = json.dumps(
            [self.VERSION, self.image_size, self.interpolation, self.skip_bad, Image.__version__]
        ).encode()
        names, stats = hashlib.sha256(settings), hashlib.sha256(settings)
        for path in self.paths:
            name = os.path.abspath(path).encode(errors="surrogateescape") + b"\0"
            try:
                found = os.stat(path)
                state = f"{found.st_size} {found.st_mtime_ns}\n".encode()
            except OSError:
                state = b"missing\n"
            names.update(name)
            stats.update(name + state)
        return names.hexdigest(), stats.hexdigest()

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
            if pixels != math.prod(shape) or trailer["crc32"] != _crc32_of(path, pixels, trailer["skipped"]):
                return None
            # copy on write: torch wants writable memory, the file itself stays as it is
            data = torch.from_numpy(np.memmap(path, np.uint8, mode="c", shape=shape))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self._leave_out(trailer["skipped"])
        return data

    def _write_disk(self, path: Path, fingerprint: str) -> None:
        files.check_folder(path.parent, "--cache_path")
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < self.num_bytes:
            raise RuntimeError(
                f"the disk cache needs {_size(self.num_bytes)} and {path.parent} has {_size(free)} "
                "free: make room, give another --cache_path, or use --cache none"
            )
        # written, not mapped: a full disk is then an error and not a bus error
        with files.replace(path, needed=self.num_bytes, flag="--cache_path, or leave it out with --cache none") as file:
            checksum = zlib.crc32(b"")
            for images in self._decode_all("decoding images", self.image_size):
                file.write(images.data)
                checksum = zlib.crc32(images.data, checksum)
            gone = set(self.skipped)
            skipped = [i for i, name in enumerate(self.paths) if name in gone]
            checksum = zlib.crc32(str(skipped).encode(), checksum)
            trailer = json.dumps({"fingerprint": fingerprint, "skipped": skipped, "crc32": checksum}).encode()
            file.write(trailer + len(trailer).to_bytes(8, "little"))


def _crc32_of(path: Path, length: int, skipped: list[int]) -> int:
    """CRC-32 of `length` bytes of pixels and of what was skipped, a second per GB; else a flipped bit would train."""
    checksum = zlib.crc32(b"")
    with open(path, "rb") as file:
        while piece := file.read(min(1 << 22, length)):
            checksum, length = zlib.crc32(piece, checksum), length - len(piece)
    return zlib.crc32(str(skipped).encode(), checksum)


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
