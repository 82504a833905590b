"""Batched augmentation of training images, on the device.

Every random number is drawn on the CPU for a whole global batch from (seed, epoch, step) alone: what happens to an
image depends neither on the device, nor on workers, cache or the number of processes.

Order of the transforms, as in reid-strong-baseline 3da7e6f data/transforms/build.py and torchreid f8cd150
torchreid/data/transforms.py: AutoAugment, flip, pad and crop, 2D translation, random patch, colour jitter,
(x / 255 - mean) / std, random erasing, channels.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from loading import policy

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STREAMS = ("flip", "pad", "translate", "patch", "jitter", "erase", "sampler", "noise", "frames", "policy", "channels")
JITTER = (0.2, 0.15)  # brightness, contrast: torchreid f8cd150, torchreid/data/transforms.py
FILLS = ("mean_raw", "mean", "black", "pixel", "value", "value_raw")
# What becomes of the channels of an image (Ye et al., ICCV 2021): chances that it stays as it is; that R,
# G or B stands in all three; that its grey value does. Cross-Modal-Re-ID-baseline e817a26, ICCV21_CAJ/data_loader.py
# (ChannelExchange: exchange with gray=2, exchange_grey with 3) and ChannelAug.py (ChannelAdap, ChannelAdapGray).
CHANNELS = {
    "keep": (1.0, 0.0, 0.0, 0.0, 0.0),
    "exchange": (0.0, 1 / 3, 1 / 3, 1 / 3, 0.0),
    "exchange_grey": (0.0, 0.25, 0.25, 0.25, 0.25),
    "adaptive": (0.25, 0.25, 0.25, 0.25, 0.0),
    "adaptive_grey": (0.125, 0.25, 0.25, 0.25, 0.125),
}
COLOUR, EXTRA, INFRARED = range(3)  # what an image of a batch is: an extra one is there in colour already
NOISE_BANK = 1 << 20  # normal numbers kept for erase_fill="pixel"; each image reads a run of them from a random place


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small host tensor to `device` without waiting for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def check_one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """ValueError that lists `choices` if `value`, given for option `name`, is none of them."""
    if value not in choices:
        raise ValueError(f"{name} is '{value}': choose one of {', '.join(choices)}")


# --------------------------------------------------------------------------------------------------- normalise


def normalise(
    images: Tensor,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    *,
    channels_last: bool = False,
) -> Tensor:
    """(x / 255 - mean) / std, bit for bit what torchvision's ToTensor and Normalize compute.

    Args: images (B, H, W, 3) uint8; mean, std of R, G, B in [0, 1]; channels_last: memory format of the result.
    Returns: (B, 3, H, W) float32 on the device of images.
    """
    _, height, width, _ = images.shape
    if channels_last or images.device.type != "cpu":
        scale, centre, spread = _constants(tuple(mean), tuple(std), height, width, True, images.device)
        out = images.float().div_(scale).sub_(centre).div_(spread).permute(0, 3, 1, 2)  # (B, 3, H, W)
        return out if channels_last else out.contiguous()
    scale, centre, spread = _constants(tuple(mean), tuple(std), height, width, False, images.device)
    return images.permute(0, 3, 1, 2).contiguous().float().div_(scale).sub_(centre).div_(spread)


@lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], height: int, width: int, channels_last: bool, device: torch.device
) -> list[Tensor]:
    """255, mean and std as full (H, W, 3) or (3, H, W) images.

    A (3,) tensor would broadcast along the innermost dimension in loops of three (4 times slower on a CPU), and
    CUDA divides by a Python number through its reciprocal, one rounding away from the CPU's quotient.
    """
    images = [
        torch.tensor(v, dtype=torch.float32).view(3, 1, 1).expand(3, height, width) for v in ((255.0,) * 3, mean, std)
    ]
    return [(image.permute(1, 2, 0) if channels_last else image).contiguous().to(device) for image in images]


# ------------------------------------------------------------------------------------------- random parameters


def random_generator(stream: str, seed: int, epoch: int = 0, step: int = 0) -> np.random.Generator:
    """A generator that is a pure function of its arguments; each stream is independent of the others.

    Only uniform numbers are taken from it, since NumPy keeps the bits behind `random` fixed over versions.
    """
    key = [int(v) % 2**64 for v in (seed, epoch, step)]  # SeedSequence takes no negative numbers
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([STREAMS.index(stream), *key])))


def _randint(u: np.ndarray, high: np.ndarray | int) -> np.ndarray:
    """Uniform u in [0, 1) -> uniform integer in [0, high] (both ends included, as random.randint)."""
    return np.floor(u * (np.asarray(high) + 1)).astype(np.int64)


def _draw_rectangles(
    rng: np.random.Generator,
    count: int,
    image_size: tuple[int, int],
    area: tuple[float, float],
    aspect: tuple[float, float],
    attempts: int,
    log_aspect: bool,
) -> np.ndarray:
    """Rectangles (count, 4) int64 of y, x, height, width; height 0 where no attempt fitted strictly in the image.

    The rejection loop of reid-strong-baseline data/transforms/transforms.py RandomErasing.__call__, all at once.
    """
    H, W = image_size
    u = rng.random((count, attempts, 2))
    target = (area[0] + (area[1] - area[0]) * u[..., 0]) * H * W
    if log_aspect:
        ratio = np.exp(np.log(aspect[0]) + np.log(aspect[1] / aspect[0]) * u[..., 1])
    else:
        ratio = aspect[0] + (aspect[1] - aspect[0]) * u[..., 1]
    heights, widths = np.rint(np.sqrt(target * ratio)), np.rint(np.sqrt(target / ratio))  # (count, attempts)
    fits = (heights < H) & (widths < W)
    first = fits.argmax(axis=1)[:, None]
    h = np.take_along_axis(heights, first, 1)[:, 0].astype(np.int64)
    w = np.take_along_axis(widths, first, 1)[:, 0].astype(np.int64)
    h = np.where(fits.any(axis=1) & (w > 0), h, 0)
    place = rng.random((count, 2))
    return np.stack([_randint(place[:, 0], H - h), _randint(place[:, 1], W - w), h, w], axis=1)


class Draws(NamedTuple):
    """Random parameters of one batch of B images, on the CPU. None where the augmentation is off."""

    flip: np.ndarray | None  # (B,) bool
    pad: np.ndarray | None  # (B, 2) top, left of the crop in the padded image
    translate: np.ndarray | None  # (B, 3) enlarged or not, top, left of the crop in the enlarged image
    patch: np.ndarray | None  # (B, 9) source row (-1: none), source y, x, h, w, target y, x, mirrored, degrees
    jitter: np.ndarray | None  # (B, 4) float64: place of brightness and contrast (-1: left out), then their factors
    erase: np.ndarray | None  # (B, 5) y, x, h, w (h = 0: none), start in the noise bank
    policy: np.ndarray | None  # (B, 7) as `policy.draw`
    channels: np.ndarray | None  # (B,) 0: as it is; 1 to 3: R, G or B; 4: grey

    def slice(self, start: int, stop: int) -> "Draws":
        """The parameters of images start to stop - 1."""
        return Draws(*(None if field is None else field[start:stop] for field in self))

    def repeat(self, times: np.ndarray) -> "Draws":
        """The parameters of image i for times[i] (B,) images in a row: the frames of a tracklet."""
        return Draws(*(None if field is None else np.repeat(field, times, axis=0) for field in self))


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, and how often. The defaults are those of Bag of Tricks.

    auto_augment: probability of AutoAugment's ImageNet policy (`policy`), before everything else.
    flip: probability of a horizontal flip. Luo et al. (CVPRW 2019), Sec. 2: 0.5.
    pad: black pixels added on each side before a random crop back to the input size. Same section: 10.
    translate: probability of enlarging by `enlarge` and cropping (torchreid Random2DTranslation, its default 0.5).
    enlarge: 1.125 in torchreid; 1.05 in LightMBN (1f4ec0d, data_v2/transforms.py).
    random_patch: probability of pasting a patch of another training image (torchreid RandomPatch, its default 0.5).
        There the patches come from the images seen before; here from any image, so that a step needs no history.
    color_jitter: probability of changing brightness by up to 0.2 and contrast by up to 0.15, in random order, as
        torchvision's ColorJitter does on a PIL image (torchreid's "color_jitter", there always).
    erase: probability of random erasing (Zhong et al., AAAI 2020, Algorithm 1).
    erase_fill: what the rectangle holds.
        "mean_raw": `mean` written into the normalised image, as reid-strong-baseline and torchreid do;
        "mean": `mean` written before normalising, hence 0 (fast-reid); "black": black before normalising;
        "pixel": a normal number for each value of the normalised image (timm's "pixel", TransReID);
        "value": the colour `erase_value` in [0, 1], before normalising;
        "value_raw": `erase_value` written into the normalised image (person-reid-tiny-baseline).
    erase_area: bounds of the share of the image that is erased. Zhong et al.: 0.02, 0.4.
    erase_aspect: bounds of height / width. Zhong et al.: 0.3, 1 / 0.3.
    erase_log_aspect: draw the aspect log-uniformly (timm) instead of uniformly (all re-ID code).
    erase_attempts: rectangles tried until one fits. reid-strong-baseline: 100; timm: 10.
    colour_channels, extra_channels, infrared_channels: what becomes of the channels (`CHANNELS`) of images in colour,
        of those that a batch holds a second time, and of infrared ones; on the normalised image, erased or not.
    """

    auto_augment: float = 0.0
    flip: float = 0.5
    pad: int = 10
    translate: float = 0.0
    enlarge: float = 1.125
    random_patch: float = 0.0
    color_jitter: float = 0.0
    erase: float = 0.5
    erase_fill: str = "mean_raw"
    erase_value: tuple[float, float, float] = (0.0, 0.0, 0.0)
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    erase_log_aspect: bool = False
    erase_attempts: int = 100
    colour_channels: str = "keep"
    extra_channels: str = "keep"
    infrared_channels: str = "keep"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("auto_augment", "flip", "translate", "random_patch", "color_jitter", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability and must lie in [0, 1]: {getattr(self, name)}")
        if self.pad < 0:
            raise ValueError(f"pad must not be negative: {self.pad}")
        check_one_of("erase_fill", self.erase_fill, FILLS)
        for name in ("colour_channels", "extra_channels", "infrared_channels"):
            check_one_of(name, getattr(self, name), CHANNELS)
        for name, high in (("erase_area", 1), ("erase_aspect", math.inf)):
            low, top = getattr(self, name)
            if not 0 < low <= top <= high:
                raise ValueError(f"{name} must be two increasing numbers in (0, {high}]: {getattr(self, name)}")

    def draw(
        self,
        kinds: int | np.ndarray,
        image_size: tuple[int, int],
        num_images: int,
        seed: int,
        epoch: int,
        step: int,
    ) -> Draws:
        """Parameters for images of image_size (H, W): a pure function of (kinds, seed, epoch, step).

        kinds: (B,) COLOUR, EXTRA or INFRARED, what each image is; or B, of as many in colour.
        num_images: size of the data set that patches are taken from.
        """
        kinds = np.full(kinds, COLOUR) if isinstance(kinds, int) else kinds
        count = len(kinds)
        H, W = image_size

        def rng(stream: str) -> np.random.Generator:
            return random_generator(stream, seed, epoch, step)

        flip = rng("flip").random(count) < self.flip if self.flip else None
        pad = _randint(rng("pad").random((count, 2)), 2 * self.pad) if self.pad else None
        translate = None
        if self.translate:
            u = rng("translate").random((count, 3))
            spare = np.array(enlarged_size(image_size, self.enlarge)) - (H, W)
            # int(round(uniform(0, spare))), as torchreid: both ends are half as likely
            translate = np.column_stack([u[:, 0] < self.translate, np.rint(u[:, 1:] * spare)]).astype(np.int64)
        return Draws(
            flip,
            pad,
            translate,
            self._draw_patch(rng("patch"), count, image_size, num_images),
            self._draw_jitter(rng("jitter"), count),
            self._draw_erase(rng("erase"), count, image_size),
            policy.draw(rng("policy").random((count, 8)), self.auto_augment) if self.auto_augment else None,
            self._draw_channels(rng("channels"), kinds),
        )

    def _draw_channels(self, rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray | None:
        how = (self.colour_channels, self.extra_channels, self.infrared_channels)
        if {*how} == {"keep"}:
            return None
        bounds = np.array([CHANNELS[name] for name in how]).cumsum(axis=1)[kinds]  # (B, 5)
        return (rng.random(len(kinds))[:, None] >= bounds[:, :-1]).sum(axis=1)

    def _draw_erase(self, rng: np.random.Generator, count: int, image_size: tuple[int, int]) -> np.ndarray | None:
        if not self.erase:
            return None
        u = rng.random((count, 2))
        boxes = _draw_rectangles(
            rng, count, image_size, self.erase_area, self.erase_aspect, self.erase_attempts, self.erase_log_aspect
        )
        boxes[u[:, 0] >= self.erase, 2] = 0
        spare = NOISE_BANK - 3 * image_size[0] * image_size[1]
        if spare < 0 and self.erase_fill == "pixel":
            raise ValueError(
                f"erase_fill 'pixel' takes images of up to {NOISE_BANK // 3:,} pixels: "
                f"{image_size[0]}x{image_size[1]} is larger, choose another fill"
            )
        start = _randint(u[:, 1], max(0, spare))
        return np.column_stack([boxes, start])

    def _draw_patch(
        self, rng: np.random.Generator, count: int, image_size: tuple[int, int], num_images: int
    ) -> np.ndarray | None:
        """torchreid RandomPatch: area 0.01 to 0.5, aspect 0.1 to 10, mirrored half the time, turned by up to 10 degrees
        half the time."""
        if not self.random_patch:
            return None
        u = rng.random((count, 7))
        y, x, h, w = _draw_rectangles(rng, count, image_size, (0.01, 0.5), (0.1, 10.0), 100, False).T
        source = np.where((u[:, 0] < self.random_patch) & (h > 0), _randint(u[:, 1], num_images - 1), -1)
        degrees = np.where(u[:, 5] < 0.5, _randint(u[:, 6], 20) - 10, 0)
        return np.column_stack(
            [
                source,
                y,
                x,
                h,
                w,
                _randint(u[:, 2], image_size[0] - h),
                _randint(u[:, 3], image_size[1] - w),
                u[:, 4] < 0.5,
                degrees,
            ]
        ).astype(np.int64)

    def _draw_jitter(self, rng: np.random.Generator, count: int) -> np.ndarray | None:
        if not self.color_jitter:
            return None
        u = rng.random((count, 9))
        # a random permutation of ColorJitter's four operations, of which saturation and hue keep their strength of 0
        place = u[:, :4].argsort(axis=1)[:, :2]
        place[u[:, 8] >= self.color_jitter] = -1
        strength = np.array(JITTER)
        return np.column_stack([place, 1 - strength + 2 * strength * u[:, 4:6]])

    def __call__(
        self, images: Tensor, draws: Draws, patches: Tensor | None = None, *, channels_last: bool = False
    ) -> Tensor:
        """Augment and normalise: images (B, H, W, 3) uint8 -> (B, 3, H, W) float32 on the same device.

        patches: (n, H, W, 3) uint8, the images `draws.patch` takes its patches from, one per row with a patch.
        """
        if draws.policy is not None:
            images = policy.apply(images, draws.policy)
        if draws.flip is not None or draws.pad is not None:
            images = flip_pad_crop(images, draws.flip, draws.pad, self.pad)
        if draws.translate is not None:
            images = translate(images, draws.translate, self.enlarge)
        if draws.patch is not None:
            images = paste_patches(images, draws.patch, patches)
        if draws.jitter is not None:
            images = jitter(images, draws.jitter)
        images = normalise(images, self.mean, self.std, channels_last=channels_last)
        if draws.erase is not None:
            images = erase(images, draws.erase, self.fill_colour())
        if draws.channels is not None:
            images = exchange_channels(images, draws.channels)
        return images

    def fill_colour(self) -> tuple[float, ...] | None:
        """The erased colour in normalised values; None for random pixels."""
        if self.erase_fill == "pixel":
            return None
        if self.erase_fill in ("mean_raw", "value_raw"):
            return tuple(self.mean if self.erase_fill == "mean_raw" else self.erase_value)
        colour = {"mean": self.mean, "black": (0.0, 0.0, 0.0), "value": self.erase_value}[self.erase_fill]
        return tuple((c - m) / s for c, m, s in zip(colour, self.mean, self.std, strict=True))


# ------------------------------------------------------------------------------------------------ augmentation
# Each operation is one function of images (B, H, W, 3) uint8 and host parameters. On a CPU a loop of whole-row copies
# is fastest; on other devices the same result comes from one gather, with no loop over samples and no wait for the
# device (its parameters are copied from pinned memory).


def flip_pad_crop(images: Tensor, flip: np.ndarray | None, corner: np.ndarray | None, pad: int) -> Tensor:
    """Horizontal flip where flip (B,), then pad by `pad` black pixels and crop (H, W) at corner (B, 2) = top, left."""
    B, H, W, _ = images.shape
    flip = np.zeros(B, bool) if flip is None else flip
    shift = np.zeros((B, 2), np.int64) if corner is None else corner - pad  # in [-pad, pad]
    crop = _flip_shift_loop if images.device.type == "cpu" else _flip_shift_gather
    return crop(images, flip, shift)


def _flip_shift_loop(images: Tensor, flip: np.ndarray, shift: np.ndarray) -> Tensor:
    """Crops of a flipped image are flipped crops with the opposite horizontal shift: crop first, in whole rows."""
    H, W = images.shape[1:3]
    out = images.clone() if not shift.any() else torch.zeros_like(images)
    if shift.any():
        source, target = images.numpy(), out.numpy()
        dx = np.where(flip, -shift[:, 1], shift[:, 1]).tolist()
        for b, (y, x) in enumerate(zip(shift[:, 0].tolist(), dx, strict=True)):
            top, left = max(0, -y), max(0, -x)
            bottom, right = min(H, H - y), min(W, W - x)
            if top < bottom and left < right:  # else nothing of the image is left, only padding
                target[b, top:bottom, left:right] = source[b, top + y : bottom + y, left + x : right + x]
    rows = torch.from_numpy(flip.nonzero()[0])
    return out.index_copy_(0, rows, out[rows].flip(2))


def _flip_shift_gather(images: Tensor, flip: np.ndarray, shift: np.ndarray) -> Tensor:
    B, H, W, _ = images.shape
    device = images.device
    mirrored, moved = to_device(torch.from_numpy(flip), device), to_device(torch.from_numpy(shift), device)
    y = torch.arange(H, device=device) + moved[:, :1]  # (B, H) row in the image before padding
    x = torch.arange(W, device=device) + moved[:, 1:]  # (B, W)
    inside = ((y >= 0) & (y < H))[:, :, None] & ((x >= 0) & (x < W))[:, None, :]  # (B, H, W)
    x = torch.where(mirrored[:, None], W - 1 - x, x).clamp(0, W - 1)
    sample = torch.arange(B, device=device)[:, None, None]
    return images[sample, y.clamp(0, H - 1)[:, :, None], x[:, None, :]] * inside[..., None]


def enlarged_size(image_size: tuple[int, int], by: float = 1.125) -> tuple[int, int]:
    """Size before the crop of torchreid's Random2DTranslation."""
    return round(image_size[0] * by), round(image_size[1] * by)


def translate(images: Tensor, draws: np.ndarray, by: float = 1.125) -> Tensor:
    """Enlarge with Pillow's bilinear filter and crop (H, W) at top, left. draws (B, 3): on, top, left."""
    rows = draws[:, 0].nonzero()[0]
    if not len(rows):
        return images
    index = to_device(torch.from_numpy(rows), images.device)
    crop = _enlarge_crop_pillow if images.device.type == "cpu" else _enlarge_crop
    return images.index_copy(0, index, crop(images[index], draws[rows, 1:], by))


def _enlarge_crop_pillow(images: Tensor, corner: np.ndarray, by: float) -> Tensor:
    H, W = images.shape[1:3]
    size = enlarged_size((H, W), by)[::-1]
    out = torch.empty_like(images)
    for source, target, (y, x) in zip(images.numpy(), out.numpy(), corner.tolist(), strict=True):
        large = Image.fromarray(source).resize(size, Image.Resampling.BILINEAR)
        target[:] = np.asarray(large)[y : y + H, x : x + W]
    return out


def _enlarge_crop(images: Tensor, corner: np.ndarray, by: float) -> Tensor:
    """The same bytes from Pillow's fixed-point arithmetic (libImaging/Resample.c), columns first, then rows."""
    B, H, W, _ = images.shape
    start = to_device(torch.from_numpy(corner), images.device)
    large_h, large_w = enlarged_size((H, W), by)
    sample = torch.arange(B, device=images.device)[:, None, None]
    every = torch.arange(H, device=images.device)[None, :, None]
    taps, weights = _bilinear_taps(W, large_w, images.device)  # (W', 2)
    column = start[:, 1:] + torch.arange(W, device=images.device)  # (B, W)
    images = _fixed_point(
        images[sample, every, taps[column, t][:, None, :]] * weights[column, t][:, None, :, None] for t in range(2)
    )  # (B, H, W, 3)
    taps, weights = _bilinear_taps(H, large_h, images.device)
    row = start[:, :1] + torch.arange(H, device=images.device)  # (B, H)
    every = torch.arange(W, device=images.device)[None, None, :]
    return _fixed_point(
        images[sample, taps[row, t][:, :, None], every] * weights[row, t][:, :, None, None] for t in range(2)
    )


PRECISION = 22  # bits behind the point of Pillow's 8-bit resampling weights


def _fixed_point(terms: Iterable[Tensor]) -> Tensor:
    first, *others = terms
    return ((sum(others, first) + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=16)
def _bilinear_taps(size: int, large: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices and fixed-point weights (large, 2) of Pillow's bilinear filter for enlarging `size` to `large` pixels."""
    scale = size / large
    taps, weights = np.zeros((large, 2), np.int64), np.zeros((large, 2), np.int32)
    for i in range(large):
        centre = (i + 0.5) * scale
        first, last = max(0, int(centre - 0.5)), min(size, int(centre + 1.5))
        k = [max(0.0, 1 - abs(j - centre + 0.5)) for j in range(first, last)]
        taps[i, : len(k)] = range(first, last)
        weights[i, : len(k)] = [int(0.5 + v / sum(k) * (1 << PRECISION)) for v in k]
    return torch.from_numpy(taps).to(device), torch.from_numpy(weights).to(device)


def paste_patches(images: Tensor, draws: np.ndarray, sources: Tensor | None) -> Tensor:
    """Paste a rectangle of another image, mirrored or not and turned about its centre, black where it turned away.

    Args: images (B, H, W, 3); draws (B, 9) as in `Draws.patch`; sources (n, H, W, 3), one per row with a patch.
    """
    rows = (draws[:, 0] >= 0).nonzero()[0]
    if not len(rows):
        return images
    assert sources is not None and len(sources) == len(rows)
    paste = _paste_pillow if images.device.type == "cpu" else _paste_gather
    return paste(images, rows, draws[rows], sources)


def _paste_pillow(images: Tensor, rows: np.ndarray, drawn: np.ndarray, sources: Tensor) -> Tensor:
    out = images.clone()
    target = out.numpy()
    for row, (_, sy, sx, h, w, y, x, mirror, degrees), image in zip(rows, drawn.tolist(), sources.numpy(), strict=True):
        patch = image[sy : sy + h, sx : sx + w]
        patch = patch[:, ::-1] if mirror else patch
        target[row, y : y + h, x : x + w] = Image.fromarray(patch).rotate(degrees) if degrees else patch
    return out


def _paste_gather(images: Tensor, rows: np.ndarray, drawn: np.ndarray, sources: Tensor) -> Tensor:
    """The rotation is Pillow's nearest-neighbour one, in its 16-bit fixed-point arithmetic (libImaging/Geometry.c)."""
    device, (H, W) = images.device, images.shape[1:3]
    numbers = to_device(torch.from_numpy(np.column_stack([drawn, _rotations(drawn)])), device)
    _, sy, sx, h, w, ty, tx, mirror, _, a, b, c, d, e, f = numbers[:, :, None, None].unbind(1)  # (n, 1, 1) each
    y = torch.arange(H, device=device)[:, None] - ty  # (n, H, 1) row in the patch
    x = torch.arange(W, device=device) - tx  # (n, 1, W)
    covered = (y >= 0) & (y < h) & (x >= 0) & (x < w)  # (n, H, W)
    px, py = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    seen = (px >= 0) & (px < w) & (py >= 0) & (py < h)
    px = torch.where(mirror > 0, w - 1 - px, px)
    sample = torch.arange(len(rows), device=device)[:, None, None]
    patch = sources[sample, (sy + py).clamp(0, H - 1), (sx + px).clamp(0, W - 1)] * seen[..., None]
    index = to_device(torch.from_numpy(rows), device)
    return images.index_copy(0, index, torch.where(covered[..., None], patch, images[index]))


def _rotations(draws: np.ndarray) -> np.ndarray:
    """Fixed-point coefficients (n, 6) of the map from a turned patch's pixels to the patch, as Image.rotate makes them:
    px = (a x + b y + c) >> 16, py = (d x + e y + f) >> 16."""
    h, w, degrees = draws[:, 3], draws[:, 4], draws[:, 8]
    angle = -np.radians(degrees % 360)
    cos, sin = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
    a, b, d, e = cos, sin, -sin, cos
    c = a * (-w / 2) + b * (-h / 2) + w / 2
    f = d * (-w / 2) + e * (-h / 2) + h / 2
    matrix = np.column_stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5])
    return np.floor(matrix * 65536 + 0.5).astype(np.int64)


def jitter(images: Tensor, draws: np.ndarray) -> Tensor:
    """Brightness and contrast as torchvision's ColorJitter changes them on PIL images.

    draws (B, 4): place of each operation in the sequence (-1: left out), then its factor.
    """
    return (_jitter_pillow if images.device.type == "cpu" else _jitter_batch)(images, draws)


def _jitter_pillow(images: Tensor, draws: np.ndarray) -> Tensor:
    out = images.clone()
    for row in np.flatnonzero((draws[:, :2] >= 0).any(axis=1)):
        image = Image.fromarray(images[row].numpy())
        for number in draws[row, :2].argsort():
            if draws[row, number] >= 0:
                image = (ImageEnhance.Brightness, ImageEnhance.Contrast)[number](image).enhance(draws[row, 2 + number])
        out[row] = torch.from_numpy(np.array(image))
    return out


def _jitter_batch(images: Tensor, draws: np.ndarray) -> Tensor:
    for place in range(4):
        for number, operation in enumerate((adjust_brightness, adjust_contrast)):
            rows = (draws[:, number] == place).nonzero()[0]
            if len(rows):
                index = to_device(torch.from_numpy(rows), images.device)
                factor = torch.from_numpy(draws[rows, 2 + number].astype(np.float32))
                factor = to_device(factor, images.device)[:, None, None, None]  # (n, 1, 1, 1)
                images = images.index_copy(0, index, operation(images[index], factor))
    return images


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Image.blend: degenerate + factor (images - degenerate), clipped and truncated."""
    return (degenerate + factor * (images.int() - degenerate)).clamp(0, 255).to(torch.uint8)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Brightness: images (n, H, W, 3) uint8, factor (n, 1, 1, 1)."""
    return _blend(torch.zeros_like(images, dtype=torch.int32), images, factor)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """ImageEnhance.Contrast: away from the image's mean luma, rounded; luma as Pillow's "L" (libImaging/Convert.c)."""
    r, g, b = images.int().unbind(-1)  # (n, H, W) each
    luma = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16
    mean = (luma.sum((1, 2)).double() / luma[0].numel() + 0.5).int()
    return _blend(mean[:, None, None, None], images, factor)


def erase(images: Tensor, draws: np.ndarray, colour: tuple[float, ...] | None) -> Tensor:
    """Fill one rectangle of each image, in place.

    Args: images (B, 3, H, W) float32, normalised; draws (B, 5): y, x, h, w (h = 0: none), start in the noise bank;
        colour: three normalised values, or None for random pixels.
    """
    if images.device.type == "cpu":
        return _erase_loop(images, draws, colour)
    return _erase_where(images, draws, colour)


def _erase_loop(images: Tensor, draws: np.ndarray, colour: tuple[float, ...] | None) -> Tensor:
    H, W = images.shape[2:]
    for b in draws[:, 2].nonzero()[0].tolist():
        y, x, h, w, start = draws[b].tolist()
        fill = _noise_bank(images.device)[start : start + H * W * 3] if colour is None else _colour_image(colour, H, W)
        box = (slice(y, y + h), slice(x, x + w))
        images[b].permute(1, 2, 0)[box] = fill.view(H, W, 3)[box]  # whole rows if channels are last
    return images


def _erase_where(images: Tensor, draws: np.ndarray, colour: tuple[float, ...] | None) -> Tensor:
    B, _, H, W = images.shape
    device = images.device
    numbers = to_device(torch.from_numpy(draws), device)
    y, x, h, w = numbers[:, :4, None, None, None].unbind(1)  # (B, 1, 1, 1) each
    row, column = torch.arange(H, device=device)[:, None], torch.arange(W, device=device)
    inside = (row >= y) & (row < y + h) & (column >= x) & (column < x + w)  # (B, 1, H, W)
    if colour is not None:
        fill = _colour_image(colour, H, W, device).permute(2, 0, 1)
    else:
        noise = _noise_bank(device)[numbers[:, 4:] + torch.arange(H * W * 3, device=device)]  # (B, H W 3)
        fill = noise.view(B, H, W, 3).permute(0, 3, 1, 2)
    return torch.where(inside, fill, images, out=images)  # `out` also keeps the memory format


@lru_cache(maxsize=16)
def _colour_image(colour: tuple, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor(colour, dtype=torch.float32).expand(height, width, 3).contiguous().to(device)


@lru_cache(maxsize=4)
def _noise_bank(device: torch.device) -> Tensor:
    """NOISE_BANK normal numbers (Box and Muller, from uniform ones), the same for every run."""
    u = random_generator("noise", 0).random((2, NOISE_BANK // 2))
    radius, angle = np.sqrt(-2 * np.log1p(-u[0])), 2 * np.pi * u[1]
    bank = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return torch.from_numpy(bank.astype(np.float32)).to(device)


GREY = (0.2989, 0.5870, 0.1140)  # ICCV21_CAJ/ChannelAug.py, ChannelAdapGray


def exchange_channels(images: Tensor, draws: np.ndarray) -> Tensor:
    """Put one channel of an image, or its grey value, into all three, in place.

    Args: images (B, 3, H, W) float32; draws (B,) as in `Draws.channels`.
    """
    for choice in range(1, 5):
        rows = (draws == choice).nonzero()[0]
        if len(rows):
            index = to_device(torch.from_numpy(rows), images.device)
            r, g, b = chosen = images[index].split(1, dim=1)  # (n, 1, H, W) each
            one = GREY[0] * r + GREY[1] * g + GREY[2] * b if choice == 4 else chosen[choice - 1]
            images.index_copy_(0, index, one.expand(-1, 3, -1, -1).contiguous())
    return images
