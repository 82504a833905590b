"""Images on the device: the two loaders.

A re-ID data set is small (Market-1501's training set at 128x64 takes 303 MiB), so it is decoded once and kept as one
uint8 tensor. The images of a step are a pure function of (seed, epoch, step).

A sample whose path is a tuple is a tracklet: a batch then counts tracklets, and the store holds their frames.

Behind this file, in `loading/`: `store` decodes images and keeps their pixels, `samplers` choose what makes a batch,
`augmentation` changes it.
"""

from __future__ import annotations

import copy
import functools
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from loading.augmentation import (
    COLOUR,
    EXTRA,
    IMAGENET_MEAN,
    IMAGENET_STD,
    INFRARED,
    Augmentation,
    Draws,
    check_one_of,
    normalise,
    random_generator,
    to_device,
)
from loading.samplers import SAMPLE_METHODS, Batches, sampled_frames
from loading.store import Cache, Decoding, ImageStore
from loading.views import Views
from machine import streams

# --------------------------------------------------------------------------------------------------- tracklets

TEST_FRAMES = ("all", "evenly", "dense")  # frames of a tracklet in a test
TRACKLET_CACHE = 2 << 30  # bytes of pixels of tracklets above which cache "auto" decodes as needed, see `_make_store`


def as_images(samples: Sequence) -> tuple[list, np.ndarray]:
    """(every frame of the tracklets as a sample of its own, which tracklet it is of)."""
    counts = [len(frames_of(sample)) for sample in samples]
    images = [type(sample)(path, sample.pid, sample.camid) for sample in samples for path in frames_of(sample)]
    return images, np.repeat(np.arange(len(samples)), counts)


def frames_of(sample) -> tuple[str, ...]:
    """Paths of the frames of a tracklet; an image is one frame."""
    return tuple(sample.path) if isinstance(sample.path, (tuple, list)) else (sample.path,)


def cut(samples: Sequence, length: int) -> tuple[list, np.ndarray]:
    """(parts of `length` frames of the tracklets, each a tracklet; which one it is of). What is left behind the last
    part is of it too, so that it has up to 2 length - 1 frames (Simple-CCReID f773d01, data/datasets/ccvid.py)."""
    parts, owner = [], []
    for i, sample in enumerate(samples):
        frames = frames_of(sample)
        borders = [*range(0, max(1, len(frames) // length) * length, length)]
        for begin, end in zip(borders, [*borders[1:], len(frames)], strict=True):
            parts.append(type(sample)(frames[begin:end], sample.pid, sample.camid))
            owner.append(i)
    return parts, np.array(owner)


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
    def of(cls, samples: Sequence, store: ImageStore) -> Rows:
        """An unreadable frame leaves its tracklet shorter; a sample without any frame left is not in use."""
        all_frames = [len(frames_of(sample)) for sample in samples]
        owner = np.repeat(np.arange(len(samples)), all_frames)[store.kept.numpy()]
        counts = np.bincount(owner, minlength=len(samples))
        kept = counts.nonzero()[0]
        return cls(kept, np.concatenate([[0], counts[kept].cumsum()]).astype(np.int64))

    def count(self, sample: int) -> int:
        """Frames of a sample."""
        return int(self.first[sample + 1] - self.first[sample])


def clips_of(count: int, seq_len: int, policy: str) -> list[np.ndarray]:
    """The clips that stand for a tracklet of `count` frames in a test; its feature is the mean of theirs.

    "all": one clip of every frame. "evenly": one clip, as in training. "dense": all frames in clips of seq_len, the
        last one completed from its own start (jiyanggao/Video-Person-ReID 7160572, video_loader.py).
    """
    if policy == "all":
        return [np.arange(count)]
    if policy == "evenly":
        return [sampled_frames(count, seq_len, "evenly")]
    return [np.resize(np.arange(i, min(i + seq_len, count)), seq_len) for i in range(0, count, seq_len)]


def stacked(images: Tensor, lengths: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """Frames of B tracklets in a row, (n, 3, H, W), as a batch (B, T, 3, H, W) with T = max(lengths).

    Returns: (images, there): there (B, T) on the CPU, False where a tracklet has ended and its images are zero; None if
        all have T frames.
    """
    shape = (len(lengths), int(lengths.max()))
    if (lengths == shape[1]).all():
        return images.unflatten(0, shape), None
    there = torch.arange(shape[1]) < torch.from_numpy(lengths)[:, None]  # (B, T)
    grid = images.new_empty((math.prod(shape), *images.shape[1:])).to(memory_format=_memory_format(images)).zero_()
    grid[to_device(there.flatten().nonzero()[:, 0], images.device)] = images
    return grid.unflatten(0, shape), there


def _memory_format(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def make_store(
    samples: Sequence, decoding: Decoding, cache: Cache | None = None, device: torch.device | str = "cpu"
) -> ImageStore:
    """The pixels of all frames of the samples.

    A cache of kind "auto" keeps the frames of tracklets only up to TRACKLET_CACHE: an epoch reads a few frames of each
    (of MARS, 33,192 of 509,914 at four each), so decoding all of them first would cost more than it saves.
    """
    paths, cache = [path for sample in samples for path in frames_of(sample)], cache or Cache()
    video = are_tracklets(samples)
    if cache.kind == "auto" and video and len(paths) * math.prod(decoding.image_size) * 3 > TRACKLET_CACHE:
        cache = Cache("none", cache.folder)
    # other accelerators lack the integer and double arithmetic that makes the pixels equal to Pillow's
    on_device = torch.device(device).type == "cuda"
    return ImageStore(paths, decoding, cache, device if on_device else "cpu")


def _same_files(samples: Sequence, store: ImageStore) -> None:
    """ValueError unless the store is of the frames of these samples."""
    if store.paths != [os.fspath(path) for sample in samples for path in frames_of(sample)]:
        raise ValueError(
            f"the store holds {len(store.paths):,} files and the loader was given {len(samples):,} other samples: make "
            "a store of the same files"
        )


def _lights(camids: Tensor, infrared: Iterable[int]) -> Tensor | None:
    """Which images were taken by one of the `infrared` cameras, (N,) bool; None if there is no such camera."""
    cameras = torch.tensor(sorted(infrared), dtype=torch.int64)
    return torch.isin(camids, cameras) if len(cameras) else None


@dataclass(frozen=True)
class Clips:
    """Which frames of a tracklet are trained on, see `sampled_frames`. Every number of a batch then counts tracklets.

    sample_method: with "frames" each frame of a tracklet is an image like any other, and the numbers count frames
        (torchreid v0.0.9, train_vid_model_xent_htri.py).
    frame_by_frame: hand on the frames of tracklets as images of their own, as torchreid trains (f8cd150, engine/video:
        each frame is classified, and only a test pools over time).
    same_augmentation: draw one augmentation for all frames of a tracklet; torchreid draws one for each.
    frame_stride: from one frame to the next of sample_method "stride".
    cut_tracklets: make each tracklet several of so many frames, see `cut`, which are drawn and counted on their own; 0:
        leave them whole.
    """

    seq_len: int = 15
    sample_method: str = "evenly"
    frame_by_frame: bool = False
    same_augmentation: bool = False
    frame_stride: int = 4
    cut_tracklets: int = 0

    def __post_init__(self):
        check_one_of("sample_method", self.sample_method, SAMPLE_METHODS)
        if min(self.seq_len, self.frame_stride) < 1:
            short = "seq_len" if self.seq_len < 1 else "frame_stride"
            raise ValueError(f"--{short} must be at least 1, found {getattr(self, short)}")

    def of(self, samples: Sequence) -> tuple[Sequence, np.ndarray]:
        """(what is drawn, images or tracklets; which of the `samples` each is of)."""
        if are_tracklets(samples) and self.sample_method == "frames":
            return as_images(samples)
        if are_tracklets(samples) and self.cut_tracklets:
            return cut(samples, self.cut_tracklets)
        return samples, np.arange(len(samples))


@dataclass(frozen=True)
class Delivery:
    """Where batches are wanted, and which part of each: of `world_size` processes this is number `rank`; the parts in
    order are the whole batch."""

    device: torch.device | str = "cpu"
    channels_last: bool = False
    rank: int = 0
    world_size: int = 1

    def of(self, batch_size: int) -> slice:
        """The rows of a whole batch that are this process's; ValueError if they cannot be equally many."""
        if batch_size % self.world_size or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"a batch of {batch_size} images cannot be shared by {self.world_size} processes (this is number "
                f"{self.rank}): choose a multiple of {self.world_size}"
            )
        part = batch_size // self.world_size
        return slice(self.rank * part, (self.rank + 1) * part)


# -------------------------------------------------------------------------------------------------- TrainLoader


class TrainLoader:
    """Augmented training batches on the device.

    Args:
        data: `datasets.TrainingSet`: samples, labels and cameras of each, and which cameras see infrared.
        store: pixels of the same files, see `make_store`.
        batches: what makes a batch (`loading.samplers`), of the whole batch over all processes.
        augmentation: what happens to its images.
        clips: of tracklets.
        delivery: where the batches go.
        seed: of the order and the augmentation.

    Attributes: `samples`, `labels` (n,), `views`: of the images in use, without the unreadable ones; `num_images` (or
        tracklets), `num_frames`; `store`; `augmentation`; `description`.
    Raises: ValueError for impossible arguments.
    """

    def __init__(
        self,
        data,
        store: ImageStore,
        batches: Batches,
        augmentation: Augmentation,
        *,
        clips: Clips | None = None,
        delivery: Delivery | None = None,
        seed: int = 0,
    ):
        self.store, self.batches, self.augmentation, self.seed = store, batches, augmentation, seed
        self.clips = clips or Clips()
        self.delivery = delivery = delivery or Delivery()
        self.device, self.channels_last = torch.device(delivery.device), delivery.channels_last
        self.batch_size, self.world_size = batches.batch_size, delivery.world_size
        self.mine = delivery.of(self.batch_size)
        self.choice = 0  # of what `batches` plans
        if not len(data.samples) == len(data.labels) == len(data.cameras):
            raise ValueError(f"{len(data.samples):,} samples and {len(data.labels):,} labels: they must be as many")
        _same_files(data.samples, store)
        samples, labels, cameras = data.samples, np.asarray(data.labels), np.asarray(data.cameras)
        clothes = np.asarray(data.clothes) if data.clothes else None
        self.tracklets = are_tracklets(samples) and self.clips.sample_method != "frames"
        samples, owner = self.clips.of(samples)
        labels, cameras = labels[owner], cameras[owner]
        clothes = None if clothes is None else clothes[owner]
        self.rows = Rows.of(samples, store)
        self.samples = [samples[i] for i in self.rows.kept.tolist()]
        self.labels = torch.from_numpy(labels[self.rows.kept].astype(np.int64))
        camera = torch.from_numpy(cameras[self.rows.kept].astype(np.int64))
        worn = None if clothes is None else torch.from_numpy(clothes[self.rows.kept].astype(np.int64))
        self.views = Views(camera, _lights(camera, data.infrared), clothes=worn)
        self.labels_of_set = self.labels
        self.inputs: Tensor | None = None
        self._given = samples
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
        batch = self.batches.words("tracklets" if self.tracklets else "images")
        if self.tracklets:
            clips = self.clips
            frames = {"all": "all frames", "stride": f"{clips.seq_len} frames {clips.frame_stride} apart"}
            chosen = frames.get(clips.sample_method, f"{clips.seq_len} {clips.sample_method} chosen frames")
            batch += f" with {chosen}" + (", each on its own" if clips.frame_by_frame else "")
        of = f"{self.num_images:,} tracklets of " if self.tracklets else ""
        return f"{of}{self.store.description}; {len(self)} batches of {batch}"

    @property
    def alternate(self) -> bool:
        """Whether what is observed of a step decides the next batch."""
        return self.batches.choices > 1

    def __len__(self) -> int:
        return self.steps(0)

    def steps(self, epoch: int) -> int:
        """Batches of that epoch. Differs between epochs only for p x k batches without a given number of steps."""
        return len(self._batches(epoch))

    def alike(self, batches: Batches, augmentation: Augmentation) -> TrainLoader:
        """A loader of the same images with other batches and another augmentation; pixels are decoded once for both."""
        other = copy.copy(self)
        other.batches, other.augmentation = batches, augmentation
        other.batch_size, other.choice = batches.batch_size, 0
        other.mine = self.delivery.of(batches.batch_size)
        other.redraw()
        other._planned = (0, other._plan(0))
        return other

    def redraw(self, labels: Tensor | None = None, inputs: Tensor | None = None) -> None:
        """From now on draw by `labels` (n,), -1: not at all, in place of the data set's, and yield rows of `inputs`
        (n, ...) in place of images; None: as it was made."""
        self.labels = self.labels_of_set if labels is None else labels
        self.inputs = inputs
        self._planned = (-1, torch.empty(0))

    def in_order(self, batch_size: int, part: slice = slice(None)) -> EvalLoader:
        """The samples in use in order, prepared as in a test, with the pixels that are decoded already.

        part: which of them. `views` are those of training.
        """
        normalisation = self.augmentation.mean, self.augmentation.std
        delivery = Delivery(self.device, self.channels_last)
        loader = EvalLoader(self._given, self.store, normalisation, batch_size=batch_size, delivery=delivery)
        loader.views, loader.part = self.views, part
        return loader

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Views]]:
        """Yield (images (B, 3, H, W), labels (B,) int64, views) on the device, from step `start`.

        Of tracklets: images (B, T, 3, H, W), and `views.there` where their lengths differ (`stacked`); with
        `frame_by_frame` as above, B then counts frames.
        Of `inputs`: rows of theirs in place of images.
        A pure function of (seed, epoch), and of what was observed in between if `alternate` is on.
        """
        yield from streams.aside(self._epoch(epoch, start), self.device)

    def _epoch(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor, Views]]:
        if self.inputs is not None:
            for step in range(start, self.steps(epoch)):
                index = self._batch(epoch, step)[self.mine]
                views = self.views.each(functools.partial(_rows_of, index))
                both = to_device(self.inputs[index], self.device), to_device(self.labels[index], self.device)
                yield *both, views.each(self._to_device)
            return
        draws: deque[tuple[Tensor, np.ndarray, Draws, int]] = deque()
        mine = self.mine

        def indices() -> Iterator[Tensor]:
            for step in range(start, self.steps(epoch)):
                index = self._batch(epoch, step)
                rows, lengths = self._frames(index, epoch, step)
                drawn = self._draw(index, lengths, epoch, step)
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
            images = images.to(self.device)
            labels, views = self.labels[index], self.views.each(functools.partial(_rows_of, index))
            if self.tracklets and self.clips.frame_by_frame:
                of_frames = np.repeat(np.arange(len(lengths)), lengths)
                labels, views = labels[of_frames], views.each(functools.partial(_rows_of, of_frames))
            elif self.tracklets:
                images, there = stacked(images, lengths)
                views = views._replace(there=there)
            yield images, to_device(labels, self.device), views.each(self._to_device)

    def _to_device(self, values: Tensor) -> Tensor:
        return to_device(values, self.device)

    def observe(self, terms: dict[str, float]) -> None:
        """Told the plain values of a step. With `alternate`, `terms["balanced"]` (true or false) chooses whether the
        next batches are p x k or shuffled; everything else is ignored."""
        if self.alternate and "balanced" in terms:
            self.choice = 0 if terms["balanced"] else 1

    def state_dict(self) -> dict[str, Any]:
        """What `observe` and `redraw` have changed and a checkpoint must keep."""
        labels = None if self.labels is self.labels_of_set else self.labels
        drawn = {name: rows for name, rows in (("labels", labels), ("inputs", self.inputs)) if rows is not None}
        return {"balanced": self.choice == 0} | drawn

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.choice = 0 if state["balanced"] else 1
        if "labels" in state or "inputs" in state:
            self.redraw(state.get("labels"), state.get("inputs"))

    def _frames(self, index: Tensor, epoch: int, step: int) -> tuple[Tensor, np.ndarray]:
        """(rows of the store, number of rows of each sample) for the samples of a whole batch."""
        if not self.tracklets:
            return index, np.ones(len(index), np.int64)
        rng, clips, stride = random_generator("frames", self.seed, epoch, step), self.clips, self.clips.frame_stride
        rows = [
            self.rows.first[i] + sampled_frames(self.rows.count(i), clips.seq_len, clips.sample_method, rng, stride)
            for i in index.tolist()
        ]
        return torch.from_numpy(np.concatenate(rows)), np.array([len(each) for each in rows])

    def _draw(self, index: Tensor, lengths: np.ndarray, epoch: int, step: int) -> Draws:
        """Random parameters of the frames of a whole batch."""
        kinds = np.full(len(index), COLOUR)
        if self.views.infrared is not None:
            kinds[self.views.infrared[index].numpy()] = INFRARED
        if self.batches.again is not None:
            kinds[self.batches.again] = EXTRA
        kinds = kinds if self.clips.same_augmentation else np.repeat(kinds, lengths)
        drawn = self.augmentation.draw(kinds, self.store.image_size, self.num_frames, self.seed, epoch, step)
        return drawn.repeat(lengths) if self.clips.same_augmentation else drawn

    def _batch(self, epoch: int, step: int) -> Tensor:
        return self._batches(epoch)[step, self.choice]  # (B,)

    def _batches(self, epoch: int) -> Tensor:
        if self._planned[0] != epoch:
            self._planned = (epoch, self._plan(epoch))
        return self._planned[1]

    def _plan(self, epoch: int) -> Tensor:
        """(steps, choices, B)"""
        used = (self.labels >= 0).nonzero()[:, 0]
        groups = getattr(self.views, self.batches.reads)
        groups = None if groups is None else groups[used]
        return used[self.batches.plan(self.labels[used], groups, self.seed, epoch)]


def _rows_of(rows: Tensor | np.ndarray, field: Tensor) -> Tensor:
    return field[rows]


def _patch_sources(drawn: Draws) -> Tensor:
    if drawn.patch is None:
        return torch.empty(0, dtype=torch.int64)
    return torch.from_numpy(drawn.patch[drawn.patch[:, 0] >= 0, 0])


# --------------------------------------------------------------------------------------------------- EvalLoader


@dataclass(frozen=True)
class TestClips:
    """Which frames of a tracklet a test looks at, see `clips_of`, and how many of them go through the network at a
    time."""

    test_frames: str = "all"
    seq_len: int = 15
    max_frames: int = 256
    __test__ = False  # pytest: not a class of tests

    def __post_init__(self):
        check_one_of("test_frames", self.test_frames, TEST_FRAMES)
        if min(self.seq_len, self.max_frames) < 1:
            raise ValueError(f"--seq_len must be at least 1, found {self.seq_len} (at a time: {self.max_frames})")


class EvalLoader:
    """Images or tracklets of a query or gallery set in order, resized and normalised, nothing else.

    Args:
        samples: as datasets.Sample. store: pixels of the same files; without a cache each batch is decoded by all
            workers, on a GPU while the network runs, and a store that keeps them serves several evaluations.
        normalisation: (mean, std) of values in [0, 1]. batch_size: images or tracklets.
        infrared: the cameras of the set that see infrared. clips: of tracklets. delivery: where the batches go.
    Yields: (images (B, 3, H, W) float, views) on the device; the last batch may be short. Of tracklets: (`Tracklets`,
        views). `views.camera` holds the data set's own camera numbers.
    Attributes: `samples`, the ones that are yielded (fewer than given if files were skipped: take pids from here);
        `num_images`; `store`; `description`.
    """

    def __init__(
        self,
        samples: Sequence,
        store: ImageStore,
        normalisation: tuple[Sequence[float], Sequence[float]] = (IMAGENET_MEAN, IMAGENET_STD),
        *,
        batch_size: int = 128,
        infrared: Iterable[int] = (),
        clips: TestClips | None = None,
        delivery: Delivery | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"--test_batch must be at least 1, found {batch_size}")
        _same_files(samples, store)
        self.clips, self.batch_size, self.store = clips or TestClips(), batch_size, store
        self.mean, self.std = (tuple(values) for values in normalisation)
        delivery = delivery or Delivery()
        self.device, self.channels_last = torch.device(delivery.device), delivery.channels_last
        self.tracklets = are_tracklets(samples)
        self.rows = Rows.of(samples, self.store)
        self.samples = [samples[i] for i in self.rows.kept.tolist()]
        self.part = slice(None)  # of them, what is yielded
        camids = torch.tensor([sample.camid for sample in self.samples], dtype=torch.int64)
        self.views = Views(camids, _lights(camids, infrared))

    @property
    def num_images(self) -> int:
        """Samples that are yielded, images or tracklets."""
        return len(range(*self.part.indices(len(self.samples))))

    @property
    def description(self) -> str:
        """What the test set and its store hold, for the log."""
        of = f"{self.num_images:,} tracklets ({self.clips.test_frames}) of " if self.tracklets else ""
        return of + self.store.description

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor | Tracklets, Views]]:
        batches = torch.arange(len(self.samples))[self.part].split(self.batch_size) if self.num_images else ()
        if self.tracklets:
            for index in batches:
                yield Tracklets(self, index.tolist()), self._views(index)
        else:
            for index, images in zip(batches, self.images(batches), strict=True):
                yield images, self._views(index)

    def _views(self, index: Tensor) -> Views:
        return self.views.each(lambda field: to_device(field[index], self.device))

    def images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images (B, 3, H, W) of each index tensor (B,) of rows of the store."""
        for pixels in self.store.stream(batches):
            images = normalise(pixels, self.mean, self.std, channels_last=self.channels_last)
            yield images.to(self.device)


class Tracklets:
    """The frames of B tracklets of an EvalLoader, decoded in chunks as a network asks for them.

    However many frames a tracklet has, no more than `max_frames` of the loader are in memory at a time.

    Attributes: `lengths`: frames of each clip; `clips`: clips of each of the B tracklets; `device`.
    """

    def __init__(self, loader: EvalLoader, index: Sequence[int], mirrored: bool = False):
        self.loader, self.index, self.mirrored, self.device = loader, index, mirrored, loader.device
        clips = [clips_of(loader.rows.count(i), loader.clips.seq_len, loader.clips.test_frames) for i in index]
        self.clips = tuple(len(each) for each in clips)
        self.lengths = tuple(len(clip) for each in clips for clip in each)
        self.frames = torch.from_numpy(
            np.concatenate([loader.rows.first[i] + clip for i, each in zip(index, clips, strict=True) for clip in each])
        )

    def __len__(self) -> int:
        return len(self.clips)

    def flip(self, dim: int) -> Tracklets:
        """The mirrored frames; `dim` 3 is the width of a frame, as in a batch of images (B, 3, H, W)."""
        if dim != 3:
            raise ValueError(f"frames (n, 3, H, W) are mirrored along dimension 3, not {dim}")
        return Tracklets(self.loader, self.index, not self.mirrored)

    def chunks(self) -> Iterator[Tensor]:
        """The frames of all clips in order, (n, 3, H, W) with n <= max_frames at a time."""
        for images in self.loader.images(self.frames.split(self.loader.clips.max_frames)):
            yield images.flip(3) if self.mirrored else images
