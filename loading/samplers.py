"""Which images or frames make a batch: index tensors as pure functions of (labels, seed, epoch)."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from loading.augmentation import check_one_of, random_generator


def _permutation(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.random(n).argsort(kind="stable")


def shuffled(num_images: int, batch_size: int, seed: int, epoch: int, steps: int | None = None) -> Tensor:
    """Batches of a shuffled data set: (steps, batch_size) int64.

    steps: exactly that many batches, reshuffling whenever all images have been seen; None for one pass, without the
        images that do not fill a batch.
    Raises: ValueError if there is no full batch.
    """
    if num_images < 1 or (steps is None and num_images < batch_size):
        raise ValueError(
            f"{num_images:,} training images do not fill one batch of {batch_size}: "
            f"lower --batch_size to at most {num_images}, or set --steps"
        )
    if steps is None:
        steps = num_images // batch_size
    rng = random_generator("sampler", seed, epoch)
    passes = [_permutation(rng, num_images) for _ in range(math.ceil(steps * batch_size / num_images))]
    return torch.from_numpy(np.concatenate(passes)[: steps * batch_size].reshape(steps, batch_size))


EPOCH_LENGTHS = ("groups", "identities", "all_identities", "images", "mixed")


def pk_batches(
    labels: Sequence[int] | Tensor,
    p: int,
    k: int,
    seed: int,
    epoch: int,
    steps: int | None = None,
    epoch_length: str = "groups",
) -> Tensor:
    """Batches of p identities with k images each: (steps, p * k) int64, the images of an identity side by side.

    epoch_length, of a data set of N images of M identities:
        groups: one pass as RandomIdentitySampler of reid-strong-baseline 3da7e6f (data/samplers/triplet_sampler.py)
            and torchreid f8cd150 (data/sampler.py): the images of each identity are shuffled and cut into groups of k,
            the rest is left out; p identities at a time are drawn from those that have a group left, until fewer
            than p have. The number of batches depends on the draws.
        identities: M // p batches, in which no identity comes twice (AlignedReID 2e2d454, torchreid v0.0.9).
        all_identities: M / p batches, rounded up: the last is filled up with identities a second time. (The sampler
            of Pyramid 63ffd64 leaves that batch smaller.)
        images: N // (p k) batches of passes as in groups, one after another over all epochs (NaiveIdentitySampler and
            the loop of fast-reid c9bc3ce).
        mixed: the groups of k of all identities in one shuffle, p at a time, without those that do not fill a batch, so
            that an identity may come twice in one (Simple-CCReID f773d01, data/samplers.py).
    steps=n: exactly n batches. Identities are taken from one shuffle after another, so that each is seen equally
        often (the counts differ by at most one), and so are the images of an identity over its turns.
    An identity with fewer than k images gives all of them and then repeats (the authors' samplers draw all k with
    replacement, and may leave one out). No identity comes twice in a batch, but of "mixed".
    Raises: ValueError if there are fewer than p identities, of "images" fewer than p k images, of "mixed" fewer than p
        groups.
    """
    names, inverse = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < p:
        raise ValueError(
            f"batches of p={p} identities were asked for and the training set has {len(names)}: "
            f"lower --p to at most {len(names)}"
        )
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    rng = random_generator("sampler", seed, epoch)
    if steps is None and epoch_length == "groups":
        batches = _one_pass(members, p, k, rng)
    elif steps is None and epoch_length == "mixed":
        batches = _mixed(members, p, k, rng)
    elif steps is None and epoch_length == "images":
        batches = _endless(members, p, k, seed, epoch)
    else:
        once = len(names) // p if epoch_length == "identities" else math.ceil(len(names) / p)
        batches = _cycled(members, p, k, rng, once if steps is None else steps)
    return torch.from_numpy(np.array(batches, dtype=np.int64).reshape(-1, p * k))


def _endless(members: list[np.ndarray], p: int, k: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of `epoch` from an endless row of passes, N // (p k) in each epoch."""
    sizes = tuple(map(len, members))
    count = sum(sizes) // (p * k)
    if not count:
        raise ValueError(
            f"{sum(sizes):,} training images do not fill one batch of {p} identities x {k} images: lower --p or --k, "
            "or set --steps"
        )
    number, skip = 0, epoch * count
    while (length := _pass_length(sizes, p, k, seed, number)) <= skip:
        number, skip = number + 1, skip - length
    batches: list[np.ndarray] = []
    while len(batches) < skip + count:
        batches += _one_pass(members, p, k, random_generator("sampler", seed, number))
        number += 1
    return batches[skip : skip + count]


@functools.lru_cache(4096)  # an epoch asks for all passes before it
def _pass_length(sizes: tuple[int, ...], p: int, k: int, seed: int, number: int) -> int:
    members = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return len(_one_pass(members, p, k, random_generator("sampler", seed, number)))


def _groups(members: list[np.ndarray], k: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """The images of each identity, shuffled and cut into groups of k."""
    groups = []
    for images in members:
        order = images[_permutation(rng, len(images))]
        order = np.resize(order, max(k, len(order)))  # np.resize repeats: all images first, then again
        groups.append(list(order[: len(order) // k * k].reshape(-1, k)))
    return groups


def _mixed(members: list[np.ndarray], p: int, k: int, rng: np.random.Generator) -> list[np.ndarray]:
    groups = np.concatenate([np.stack(of_one) for of_one in _groups(members, k, rng)])  # (groups, k)
    order = _permutation(rng, len(groups))[: len(groups) // p * p]
    return list(groups[order].reshape(-1, p * k))


def _one_pass(members: list[np.ndarray], p: int, k: int, rng: np.random.Generator) -> list[np.ndarray]:
    groups = _groups(members, k, rng)
    left, batches = np.arange(len(members)), []
    counts = np.array([len(each) for each in groups])
    while len(left) >= p:
        chosen = left[_permutation(rng, len(left))[:p]]
        batches.append(np.concatenate([groups[i].pop() for i in chosen]))
        counts[chosen] -= 1
        left = left[counts[left] > 0]
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
    pids, lights = np.asarray(labels), np.asarray(groups)
    kinds, sizes = np.unique(lights, return_counts=True)
    members = {name: [np.flatnonzero((pids == name) & (lights == kind)) for kind in kinds] for name in np.unique(pids)}
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


def gallery_batches(
    labels: Sequence[int] | Tensor,
    cameras: Sequence[int] | Tensor,
    p: int,
    k: int,
    seed: int,
    epoch: int,
    steps: int | None = None,
) -> Tensor:
    """Batches of p identities with k images each, where they can of several cameras: (steps, p * k) int64.

    As RandomMultipleGallerySampler of cluster-contrast-reid 57b62e9 (clustercontrast/utils/data/sampler.py; SpCL's and
    MMT's too): of each identity one image at random; then k - 1 of its images from other cameras than that image's, or
    where there are none of its other images, each once if there are at least k of them, else with replacement. An image
    that is the only one of its identity comes k times. Identities come in one random order after another; what is left
    over of one order by full batches is dropped. Fewer than p identities are repeated to fill a batch.

    steps=None: one order, N identities // p batches, at least one.
    """
    names, inverse = np.unique(np.asarray(labels), return_inverse=True)
    if not len(names):
        raise ValueError("there is no image to make a batch of")
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    of_camera, rng = np.asarray(cameras), random_generator("sampler", seed, epoch)
    once = max(1, len(names) // p)
    batches: list[np.ndarray] = []
    while len(batches) < (once if steps is None else steps):
        order = np.resize(_permutation(rng, len(names)), once * p)
        images = [_across(members[i], of_camera, k, rng) for i in order]
        batches += [np.concatenate(images[start : start + p]) for start in range(0, once * p, p)]
    return torch.from_numpy(np.array(batches[:steps], dtype=np.int64).reshape(-1, p * k))


def _across(images: np.ndarray, cameras: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """One image of an identity at random and k - 1 others, of other cameras than its if there are any."""
    first = images[int(rng.random() * len(images))]
    others = images[cameras[images] != cameras[first]]
    others = others if len(others) else images[images != first]
    if not len(others):
        return np.full(k, first)
    if len(others) >= k:
        chosen = others[_permutation(rng, len(others))[: k - 1]]
    else:
        chosen = others[(rng.random(k - 1) * len(others)).astype(np.int64)]
    return np.concatenate([[first], chosen])


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


# What a loader is handed: each knows the size of a batch and plans an epoch, (steps, choices, B) int64. There is one
# choice but for `Alternating`.


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"--{name} must be at least 1, found {number}")


@dataclass(frozen=True)
class Shuffled:
    """Batches of shuffled images, see `shuffled`."""

    batch_size: int
    steps: int | None = None
    choices: int = field(default=1, init=False)
    reads: ClassVar[str] = "infrared"  # the field of `Views` that the images are grouped by

    def __post_init__(self):
        _positive(batch_size=self.batch_size)

    @property
    def again(self) -> np.ndarray | None:
        """(B,) bool: which places of a batch hold an image for the second time; None where none does."""
        return None

    def plan(self, labels: Tensor, groups: Tensor | None, seed: int, epoch: int) -> Tensor:
        """labels (N,), groups (N,) or None -> (steps, 1, B)."""
        return shuffled(len(labels), self.batch_size, seed, epoch, self.steps)[:, None]

    def words(self, what: str) -> str:
        """What a batch holds, of `what` (images, tracklets)."""
        return f"{self.batch_size} {what}"


@dataclass(frozen=True)
class PK:
    """Batches of p identities with k images each, see `pk_batches`."""

    p: int
    k: int
    steps: int | None = None
    epoch_length: str = "groups"
    choices: int = field(default=1, init=False)
    reads: ClassVar[str] = "infrared"  # the field of `Views` that the images are grouped by

    def __post_init__(self):
        _positive(p=self.p, k=self.k)
        check_one_of("epoch_length", self.epoch_length, EPOCH_LENGTHS)

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.p * self.k

    @property
    def again(self) -> np.ndarray | None:
        """(B,) bool: which places of a batch hold an image for the second time; None where none does."""
        return None

    def plan(self, labels: Tensor, groups: Tensor | None, seed: int, epoch: int) -> Tensor:
        """labels (N,), groups (N,) or None -> (steps, 1, B)."""
        return pk_batches(labels, self.p, self.k, seed, epoch, self.steps, self.epoch_length)[:, None]

    def words(self, what: str) -> str:
        """What a batch holds, of `what` (images, tracklets)."""
        return f"{self.p} identities x {self.k} {what}"


class AcrossCameras(PK):
    """Batches of p identities with k images each, of different cameras as far as there are, see `gallery_batches`."""

    reads: ClassVar[str] = "camera"

    def plan(self, labels: Tensor, groups: Tensor | None, seed: int, epoch: int) -> Tensor:
        """labels (N,), groups (N,): cameras -> (steps, 1, B)."""
        cameras = torch.zeros(len(labels), dtype=torch.int64) if groups is None else groups
        return gallery_batches(labels, cameras, self.p, self.k, seed, epoch, self.steps)[:, None]

    def words(self, what: str) -> str:
        """What a batch holds, of `what` (images, tracklets)."""
        return f"{super().words(what)} across cameras"


@dataclass(frozen=True)
class BothLights(PK):
    """Batches of p identities with k images in colour and k in infrared each, see `balanced_batches`.

    extra: the images in colour twice, so that they can be augmented in two ways (Ye et al., ICCV 2021;
    Cross-Modal-Re-ID-baseline e817a26, ICCV21_CAJ/data_loader.py).
    """

    extra: bool = False

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return (3 if self.extra else 2) * self.p * self.k

    @property
    def again(self) -> np.ndarray | None:
        """(B,) bool: of the images in colour the second k of each identity, where they are there twice."""
        return np.tile(np.repeat([False, True, False], self.k), self.p) if self.extra else None

    def plan(self, labels: Tensor, groups: Tensor | None, seed: int, epoch: int) -> Tensor:
        """labels (N,), groups (N,) bool: in infrared -> (steps, 1, B)."""
        lights = torch.zeros(len(labels), dtype=torch.bool) if groups is None else groups
        batches = balanced_batches(labels, lights, self.p, self.k, seed, epoch, self.steps)
        if self.extra:
            batches = batches.unflatten(1, (self.p, 2, self.k))[:, :, [0, 0, 1]].flatten(1)
        return batches[:, None]

    def words(self, what: str) -> str:
        """What a batch holds, of `what` (images, tracklets)."""
        return f"{super().words(what)} of each light{', those in colour twice' if self.extra else ''}"


@dataclass(frozen=True)
class Alternating(PK):
    """p x k batches, or shuffled ones of the same size where training asks for them (Pyramid: Zheng et al., CVPR 2019,
    Sec. 3.3)."""

    choices: int = field(default=2, init=False)

    def plan(self, labels: Tensor, groups: Tensor | None, seed: int, epoch: int) -> Tensor:
        """labels (N,), groups (N,) or None -> (steps, 2, B)."""
        balanced = pk_batches(labels, self.p, self.k, seed, epoch, self.steps, self.epoch_length)
        random = shuffled(len(labels), self.batch_size, seed, epoch, len(balanced))
        return torch.stack([balanced, random], dim=1)


Batches = Shuffled | PK  # and what is made of PK

SAMPLE_METHODS = ("evenly", "random", "stride", "all", "frames")  # frames of a tracklet in training


def sampled_frames(
    count: int, seq_len: int, method: str, rng: np.random.Generator | None = None, stride: int = 4
) -> np.ndarray:
    """Which of the `count` frames of a tracklet to train on, ascending (torchreid f8cd150, data/datasets/dataset.py).

    "evenly": seq_len frames, count // seq_len apart from the first on; always the same. A shorter tracklet is completed
        by its last frame. "random": any seq_len frames, with repetition only if there are fewer. "all": every frame.
    "stride": seq_len frames, `stride` apart, from anywhere on; of a tracklet too short for that one of each of seq_len
        equal parts, the rest behind them unused; with repetition if there are fewer (Simple-CCReID f773d01,
        data/temporal_transforms.py, TemporalRandomCrop).
    """
    if method == "all":
        return np.arange(count)
    if method == "evenly":
        apart = count // seq_len
        return np.arange(seq_len) * apart if apart else np.minimum(np.arange(seq_len), count - 1)
    assert rng is not None  # the two above draw nothing
    if method == "stride" and count >= seq_len * stride:
        return int(rng.integers(count - (seq_len - 1) * stride)) + np.arange(seq_len) * stride
    if method == "stride" and count >= seq_len:
        part = count // seq_len
        return np.arange(seq_len) * part + rng.integers(part, size=seq_len)
    if count >= seq_len:
        return np.sort(_permutation(rng, count)[:seq_len])
    return np.sort((rng.random(seq_len) * count).astype(np.int64))
