"""AutoAugment against JDAI-CV/fast-reid c9bc3ce, data/transforms/autoaugment.py."""

import numpy as np
import parity
import pytest
import torch
from PIL import Image

from loading import policy
from loading.augmentation import Augmentation

# Weighted sums of the pixels of `picture` after both operations of each of the 25 sub-policies of the public code, its
# own draws replaced: as drawn with a bilinear filter, and turned the other way with a bicubic one
PUBLIC = [
    [1682526, 1884724, 2080467, 1654416, 811599, 1905049, 1944631, 1924235, 1670565, 1927004, 1677030, 1863074, 2080467,
     1958715, 1670414, 1678124, 1006743, 1855734, 1913765, 1946998, 811599, 1884724, 1958715, 1670414, 2080467],
    [1671126, 1884724, 2080467, 1654416, 811599, 1893094, 1944631, 1924235, 1552561, 1927004, 1674926, 1859966, 2080467,
     1958715, 1670414, 1675899, 1006743, 1855734, 1917109, 1946998, 811599, 1884724, 1958715, 1670414, 2080467],
]  # fmt: skip


def picture() -> np.ndarray:
    """(48, 24, 3) uint8, rough and smooth, without chance."""
    y, x, c = np.meshgrid(np.arange(48), np.arange(24), np.arange(3), indexing="ij")
    return ((7 * y * y + 13 * x * (y % 5) + 31 * c * x + 5 * x * x * (c + 1)) % 201 + 20).astype(np.uint8)


@pytest.mark.parametrize("turned", [0, 1])
def test_every_sub_policy_gives_the_public_pixels(turned):
    weights = 1 + np.arange(48 * 24 * 3).reshape(48, 24, 3) % 7
    close = parity.largest(__file__, "test_every_sub_policy_gives_the_public_pixels")
    for chosen, expected in enumerate(PUBLIC[turned]):
        found = policy.augmented(Image.fromarray(picture()), chosen, 1, 1, turned, turned, turned, turned)
        assert int((found * weights).sum()) == pytest.approx(expected, rel=close), policy.IMAGENET[chosen]


def test_a_tenth_of_the_images_is_changed_each_by_its_own_draws():
    augmentation = Augmentation(auto_augment=0.1, flip=0, pad=0, erase=0, mean=(0, 0, 0), std=(1, 1, 1))
    draws = augmentation.draw(20_000, (48, 24), 1, 0, 0, 0)
    chosen = draws.policy[:, 0]
    assert (chosen >= 0).mean() == pytest.approx(0.1, abs=0.008)
    assert np.bincount(chosen[chosen >= 0], minlength=25).min() > 50
    second = chosen == 4  # equalize 0.4, solarize 0.2
    everyone = policy.draw(np.random.default_rng(0).random((50_000, 8)), 1.0)
    happens = everyone[everyone[:, 0] == 4][:, 1:3].mean(axis=0)
    assert second.any() and happens == pytest.approx([0.4, 0.2], abs=0.04)
    images = torch.from_numpy(picture()).expand(200, -1, -1, -1)
    whole = augmentation(images, draws.slice(0, 200))
    assert torch.equal(whole[50:90], augmentation(images[50:90], draws.slice(50, 90)))
    same = (whole == augmentation(images, draws._replace(policy=None))).flatten(1).all(1)
    assert set(np.flatnonzero(~same.numpy())) <= set(np.flatnonzero(chosen[:200] >= 0)) and not same.all()
