"""Images on the device: the two loaders.

A re-ID data set is small (Market-1501's training set at 128x64 takes 303 MiB), so it is decoded once and kept as one
uint8 tensor. The images of a step are a pure function of (seed, epoch, step).

A sample whose path is a tuple is a tracklet: a batch then counts tracklets, and the store holds their frames.

Behind this file, in `loading/`: `store` decodes images and keeps their pixels, `samplers` choose what makes a batch,
`augmentation` changes it.
"""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from loading.augmentation import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Draws,
    check_one_of,
    normalise,
    random_generator,
    to_device,
)
from loading.samplers import SAMPLE_METHODS, balanced_batches, pk_batches, sampled_frames, shuffled
from loading.store import ImageStore
from loading.views import Views

# --------------------------------------------------------------------------------------------------- tracklets

TEST_FRAMES = ("all", "evenly", "dense")  # frames of a tracklet in a test
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


def _lights(camids: Tensor, infrared: Iterable[int]) -> Tensor | None:
    """Which images were taken by one of the `infrared` cameras, (N,) bool; None if there is no such camera."""
    cameras = torch.tensor(sorted(infrared), dtype=torch.int64)
    return torch.isin(camids, cameras) if len(cameras) else None


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
            (`balanced_batches`), 2 p k in all.
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
        self.views = Views(self.camids, _lights(self.camids, self.infrared))
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

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Views]]:
        """Yield (images (B, 3, H, W), labels (B,) int64, views) on the device, from step `start`.

        Of tracklets: images (B, T, 3, H, W), and `views.there` where their lengths differ (`stacked`); with
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
            labels, views = self.labels[index], self.views.each(lambda field, rows=index: field[rows])
            if self.tracklets and self.frame_by_frame:
                of_frames = np.repeat(np.arange(len(lengths)), lengths)
                labels, views = labels[of_frames], views.each(lambda field, rows=of_frames: field[rows])
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
            balanced = balanced_batches(
                self.labels, self.views.infrared, self.p, self.k, self.seed, epoch, self.steps_asked
            )
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
    Yields: (images (B, 3, H, W) float, views) on the device; the last batch may be short. Of tracklets: (`Tracklets`,
        views). `views.camera` holds the data set's own camera numbers.
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
        self.views = Views(camids, _lights(camids, infrared))

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

    def __iter__(self) -> Iterator[tuple[Tensor, Views]]:
        batches = torch.arange(self.num_images).split(self.batch_size) if self.num_images else ()
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
