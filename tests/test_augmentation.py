"""Batched augmentation against one PIL image at a time, as the authors' code does it."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from loading import augmentation

SIZE = (24, 12)
MEAN, STD = augmentation.IMAGENET_MEAN, augmentation.IMAGENET_STD


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth and rough at once, so that resampling and rounding have something to get wrong."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 55, width)[None, :, None]
    return (ramp * rng.random(3) + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)


@pytest.mark.parametrize("mean, std", [(MEAN, STD), ((0.5,) * 3, (0.5,) * 3)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalise_is_bit_equal_to_torchvision(channels_last, mean, std):
    images = torch.arange(256, dtype=torch.uint8).repeat(9).view(2, 24, 16, 3)
    images = torch.cat([images, torch.from_numpy(noise(24, 16, 0))[None]])
    expected = torch.stack([TF.normalize(TF.to_tensor(image.numpy()), mean, std) for image in images])
    got = augmentation.normalise(images, mean, std, channels_last=channels_last)
    assert torch.equal(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


# random parameters ----------------------------------------------------------------------------------------------


def test_random_generator_is_pinned():
    """These numbers must never change: a resumed run of an older version would see other images."""
    got = augmentation.random_generator("erase", 1, 2, 3).random(3)
    again = augmentation.random_generator("erase", 1, 2, 3).random(3)
    assert np.array_equal(got, again)
    assert got.tolist() == PINNED
    keys = [
        ("erase", 1, 2, 3),
        ("flip", 1, 2, 3),
        ("erase", 2, 2, 3),
        ("erase", 1, 3, 3),
        ("erase", 1, 2, 4),
        ("erase", -1, 2, 3),
    ]
    assert len({augmentation.random_generator(*key).random() for key in keys}) == len(keys)


PINNED = [0.7278348791927702, 0.10784437422521442, 0.33627470860793196]


def plain_rectangle(uniform, place, size, area, aspect):
    """RandomErasing's rejection loop for one image, reading its random numbers from `uniform` (attempts, 2)."""
    H, W = size
    for a, r in uniform:
        target = (area[0] + (area[1] - area[0]) * a) * H * W
        ratio = aspect[0] + (aspect[1] - aspect[0]) * r
        h, w = int(round(math.sqrt(target * ratio))), int(round(math.sqrt(target / ratio)))
        if w < W and h < H:
            return [int(place[0] * (H - h + 1)), int(place[1] * (W - w + 1)), h, w]
    return None


@pytest.mark.parametrize("size, attempts", [((256, 128), 100), ((40, 40), 100), ((60, 12), 2)])
def test_rectangles_equal_the_rejection_loop(size, attempts):
    bounds = ((0.02, 0.4), (0.3, 1 / 0.3))
    got = augmentation._draw_rectangles(np.random.default_rng(3), 500, size, *bounds, attempts, False)
    rng = np.random.default_rng(3)
    uniform, place = rng.random((500, attempts, 2)), rng.random((500, 2))
    expected = [plain_rectangle(uniform[i], place[i], size, *bounds) for i in range(500)]
    assert any(box is None for box in expected) == (attempts == 2)
    for box, want in zip(got.tolist(), expected, strict=True):
        assert box[2] == 0 if want is None else box == want


def test_draws_have_the_statistics_of_the_authors_code():
    """Means of 40,000 draws against a plain loop over the `random` module; 5 standard errors."""
    n, size = 40_000, (64, 32)
    transform = augmentation.Augmentation(translate=0.5, random_patch=0.5, color_jitter=1.0)
    draws = transform.draw(n, size, 10, seed=1, epoch=0, step=0)
    plain_random = random.Random(0)
    boxes = [
        plain_rectangle(
            ((plain_random.random(), plain_random.random()) for _ in range(100)),
            (plain_random.random(), plain_random.random()),
            size,
            (0.02, 0.4),
            (0.3, 1 / 0.3),
        )
        for _ in range(n)
        if plain_random.uniform(0, 1) < 0.5
    ]
    erased = draws.erase[draws.erase[:, 2] > 0]
    assert abs(len(erased) / n - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert_same_mean(erased[:, :4], np.array(boxes))
    assert abs(draws.flip.mean() - 0.5) < 5 * 0.5 / math.sqrt(n)
    corners = [[plain_random.randint(0, 20), plain_random.randint(0, 20)] for _ in range(n)]
    assert_same_mean(draws.pad, np.array(corners))
    assert set(draws.pad.ravel()) == set(range(21))
    moved = draws.translate[draws.translate[:, 0] == 1, 1:]
    assert abs(len(moved) / n - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert_same_mean(
        moved,
        np.array([[int(round(plain_random.uniform(0, 8))), int(round(plain_random.uniform(0, 4)))] for _ in range(n)]),
    )
    assert_same_mean(
        draws.jitter[:, 2:],
        np.array([[plain_random.uniform(0.8, 1.2), plain_random.uniform(0.85, 1.15)] for _ in range(n)]),
    )
    orders = Counter(map(tuple, draws.jitter[:, :2].astype(int)))
    assert len(orders) == 12 and min(orders.values()) > n / 12 * 0.8
    patched = draws.patch[draws.patch[:, 0] >= 0]
    assert abs(len(patched) / n - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert set(patched[:, 0]) == set(range(10)) and abs(patched[:, 7].mean() - 0.5) < 0.02
    assert set(patched[:, 8]) == set(range(-10, 11))
    assert abs((patched[:, 8] != 0).mean() - 0.5 * 20 / 21) < 0.02
    assert (patched[:, 1] + patched[:, 3] <= 64).all() and (patched[:, 6] + patched[:, 4] <= 32).all()


def assert_same_mean(got: np.ndarray, want: np.ndarray) -> None:
    error = np.sqrt(got.var(0) / len(got) + want.var(0) / len(want))
    assert (np.abs(got.mean(0) - want.mean(0)) < 5 * error).all()
    assert np.allclose(got.std(0), want.std(0), rtol=0.05)


def test_switched_off_augmentations_draw_nothing_and_do_not_move_the_others():
    size = (64, 32)
    full = augmentation.Augmentation(random_patch=0.5, color_jitter=0.5).draw(16, size, 9, 1, 2, 3)
    less = augmentation.Augmentation(flip=0).draw(16, size, 9, 1, 2, 3)
    assert less.flip is None and less.patch is None and less.jitter is None
    assert np.array_equal(full.pad, less.pad) and np.array_equal(full.erase, less.erase)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(flip=1.5), "flip is a probability"),
        (dict(pad=-1), "pad"),
        (dict(erase_fill="white"), "choose one of mean_raw"),
        (dict(erase_area=(0.4, 0.02)), "erase_area"),
    ],
)
def test_impossible_augmentations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        augmentation.Augmentation(**options)


# augmentation: equal parameters, equal pixels --------------------------------------------------------------------


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.stack([torch.from_numpy(noise(*SIZE, i)) for i in range(12)])


@pytest.mark.parametrize("crop", [augmentation._flip_shift_loop, augmentation._flip_shift_gather])
@pytest.mark.parametrize("pad", [3, 14])
def test_flip_pad_crop_equals_pil(batch, crop, pad):
    rng = np.random.default_rng(0)
    flip, corner = rng.random(12) < 0.5, rng.integers(0, 2 * pad + 1, (12, 2))
    corner[0], corner[1] = (0, 0), (2 * pad, 2 * pad)
    before = batch.clone()
    got = crop(batch, flip, corner - pad)
    for image, mirrored, (top, left), result in zip(batch, flip, corner, got, strict=True):
        image = Image.fromarray(image.numpy())
        image = TF.hflip(image) if mirrored else image
        image = TF.crop(TF.pad(image, pad), top, left, *SIZE)
        assert np.array_equal(np.array(image), result.numpy())
    assert torch.equal(batch, before)


@pytest.mark.parametrize("size", [SIZE, (64, 32), (36, 50)])
@pytest.mark.parametrize("by", [1.125, 1.05])
@pytest.mark.parametrize("crop", [augmentation._enlarge_crop, augmentation._enlarge_crop_pillow])
def test_translation_equals_pil(crop, by, size):
    H, W = size
    batch = torch.stack([torch.from_numpy(noise(H, W, i)) for i in range(6)])
    large = augmentation.enlarged_size(size, by)
    assert large == (int(round(H * by)), int(round(W * by)))
    rng = np.random.default_rng(0)
    corner = np.stack([rng.integers(0, large[0] - H + 1, 6), rng.integers(0, large[1] - W + 1, 6)], 1)
    for image, (top, left), result in zip(batch, corner, crop(batch, corner, by), strict=True):
        image = Image.fromarray(image.numpy()).resize(large[::-1], Image.BILINEAR)
        image = image.crop((left, top, left + W, top + H))
        assert np.array_equal(np.array(image), result.numpy())


@pytest.mark.parametrize("paste", [augmentation._paste_gather, augmentation._paste_pillow])
def test_random_patch_equals_pil(paste):
    H, W, n = 48, 24, 60
    images = torch.stack([torch.from_numpy(noise(H, W, i)) for i in range(n)])
    sources = torch.stack([torch.from_numpy(noise(H, W, 100 + i)) for i in range(n)])
    draws = augmentation.Augmentation(random_patch=0.7).draw(n, (H, W), n, 4, 0, 0).patch
    rows = (draws[:, 0] >= 0).nonzero()[0]
    got = paste(images, rows, draws[rows], sources[draws[rows, 0]])
    for b in range(n):
        source, y, x, h, w, ty, tx, mirror, degrees = draws[b].tolist()
        image = Image.fromarray(images[b].numpy().copy())
        if source >= 0:
            patch = Image.fromarray(sources[source].numpy()).crop((x, y, x + w, y + h))
            patch = patch.transpose(Image.FLIP_LEFT_RIGHT) if mirror else patch
            image.paste(patch.rotate(degrees), (tx, ty))
        assert np.array_equal(np.array(image), got[b].numpy()), draws[b]


@pytest.mark.parametrize("apply", [augmentation._jitter_batch, augmentation._jitter_pillow])
def test_colour_jitter_equals_torchvision_on_pil_images(apply):
    n = 24
    images = torch.stack([torch.from_numpy(noise(32, 16, i)) for i in range(n)])
    draws = augmentation.Augmentation(color_jitter=0.8).draw(n, (32, 16), n, 0, 0, 0).jitter
    assert (draws[:, :2] < 0).all(axis=1).any()
    got = apply(images, draws)
    for b in range(n):
        image = Image.fromarray(images[b].numpy())
        steps = zip(draws[b, :2], (TF.adjust_brightness, TF.adjust_contrast), draws[b, 2:], strict=True)
        for place, operation, factor in sorted(steps, key=lambda step: step[0]):
            image = operation(image, factor) if place >= 0 else image
        assert np.array_equal(np.array(image), got[b].numpy()), b


FILL_VALUES = {  # in the normalised image
    "mean_raw": MEAN,
    "mean": (0.0, 0.0, 0.0),
    "black": tuple(-m / s for m, s in zip(MEAN, STD, strict=True)),
    "value": tuple((c - m) / s for c, m, s in zip((1.0, 0.5, 0.0), MEAN, STD, strict=True)),
    "value_raw": (1.0, 0.5, 0.0),
}


@pytest.mark.parametrize("put", [augmentation._erase_loop, augmentation._erase_where])
@pytest.mark.parametrize("fill", FILL_VALUES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_erasing_fills_exactly_the_rectangle(put, fill, memory_format):
    images = torch.randn(20, 3, *SIZE).contiguous(memory_format=memory_format)
    transform = augmentation.Augmentation(erase=0.6, erase_fill=fill, erase_value=(1.0, 0.5, 0.0))
    draws = transform.draw(20, SIZE, 1, 0, 0, 0).erase
    expected = images.clone()
    for image, (y, x, h, w, _) in zip(expected, draws.tolist(), strict=True):
        for channel in range(3):
            image[channel, y : y + h, x : x + w] = FILL_VALUES[fill][channel]
    got = put(images.clone(), draws, transform.fill_colour())
    assert torch.allclose(got, expected, rtol=0, atol=1e-6) and 0 < (draws[:, 2] > 0).sum() < 20
    assert got.is_contiguous(memory_format=memory_format)


def test_random_pixels_are_normal_and_the_same_both_ways():
    images = torch.zeros(64, 3, *SIZE)
    draws = augmentation.Augmentation(erase=1.0).draw(64, SIZE, 1, 0, 0, 0).erase
    one, two = (put(images.clone(), draws, None) for put in (augmentation._erase_loop, augmentation._erase_where))
    assert torch.equal(one, two)
    for (y, x, h, w, _), image in zip(draws.tolist(), one, strict=True):
        outside = image.clone()
        outside[:, y : y + h, x : x + w] = 0
        assert not outside.any()
    values = one[one != 0]
    assert abs(values.mean()) < 0.05 and abs(values.std() - 1) < 0.05
    assert abs((values.abs() < 1).float().mean() - 0.6827) < 0.02
    bank = augmentation._noise_bank(torch.device("cpu"))
    assert len(bank) == augmentation.NOISE_BANK and abs(bank.mean()) < 0.005 and abs(bank.std() - 1) < 0.005


def test_random_pixels_of_too_large_an_image_are_refused():
    with pytest.raises(ValueError, match="choose another fill"):
        augmentation.Augmentation(erase_fill="pixel").draw(2, (1024, 512), 1, 0, 0, 0)
    assert augmentation.Augmentation().draw(2, (1024, 512), 1, 0, 0, 0).erase.shape == (2, 5)
