"""CAJ: channels of images, images in colour twice in a batch, the squared difference."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trees
from PIL import Image

import datasets
import models
import training
from loading import augmentation, samplers
from loading.views import Views
from papers import caj
from recipes import RECIPES


def slow_channels(image, choice):
    """ChannelAug.py and data_loader.py of ICCV21_CAJ, written out: of one image (3, H, W)."""
    if choice == 0:
        return image
    one = image[choice - 1] if choice < 4 else 0.2989 * image[0] + 0.5870 * image[1] + 0.1140 * image[2]
    return torch.stack([one, one, one])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_channel_or_the_grey_value_stands_in_all_three(layout):
    torch.manual_seed(0)
    images = torch.randn(10, 3, 6, 4).contiguous(memory_format=layout)
    draws = np.arange(10) % 5
    found = augmentation.exchange_channels(images.clone(), draws)
    assert torch.equal(found, torch.stack([slow_channels(x, i) for x, i in zip(images, draws, strict=True)]))
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", augmentation.CHANNELS)
def test_what_becomes_of_channels_has_the_chances_of_the_public_classes(name):
    """ChannelExchange(gray=2 and 3), ChannelAdap, ChannelAdapGray(0.5): one of equally many, then half of the last."""
    n, of = 20_000, {0: "as it is", 1: "R", 2: "G", 3: "B", 4: "grey"}
    drawn = augmentation.Augmentation(colour_channels=name).draw(n, (8, 4), 1, 3, 1, 2).channels
    counts = Counter() if drawn is None else Counter(drawn.tolist())
    expected = {
        "keep": {},
        "exchange": {"R": 1 / 3, "G": 1 / 3, "B": 1 / 3},
        "exchange_grey": {"R": 1 / 4, "G": 1 / 4, "B": 1 / 4, "grey": 1 / 4},
        "adaptive": {"R": 1 / 4, "G": 1 / 4, "B": 1 / 4, "as it is": 1 / 4},
        "adaptive_grey": {"R": 1 / 4, "G": 1 / 4, "B": 1 / 4, "grey": 1 / 8, "as it is": 1 / 8},
    }[name]
    assert {of[choice] for choice in counts} == expected.keys()
    for choice, count in counts.items():
        chance = expected[of[choice]]
        assert abs(count / n - chance) < 5 * math.sqrt(chance * (1 - chance) / n)


def test_each_kind_of_image_has_channels_of_its_own_and_nothing_else_moves():
    kinds = np.arange(300) % 3
    plain = augmentation.Augmentation()
    mixed = augmentation.Augmentation(extra_channels="exchange", infrared_channels="adaptive_grey")
    before, after = (each.draw(kinds, (16, 8), 1, 0, 0, 0) for each in (plain, mixed))
    assert before.channels is None and not after.channels[kinds == augmentation.COLOUR].any()
    assert {*after.channels[kinds == augmentation.EXTRA]} == {1, 2, 3}
    assert {*after.channels[kinds == augmentation.INFRARED]} == {0, 1, 2, 3, 4}
    for name in ("flip", "pad", "erase"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    with pytest.raises(ValueError, match="extra_channels is 'grey': choose one of keep, exchange"):
        augmentation.Augmentation(extra_channels="grey")


def test_a_batch_holds_its_images_in_colour_twice():
    labels, lights = torch.arange(6).repeat_interleave(10), torch.arange(60) % 2 == 1
    twice, once = (samplers.BothLights(4, 3, extra=extra) for extra in (True, False))
    assert (twice.batch_size, once.batch_size) == (36, 24) and once.again is None
    found, plain = (each.plan(labels, lights, 0, 2) for each in (twice, once))
    assert found.shape == (plain.shape[0], 1, 36)
    of_ids, before = found.reshape(-1, 4, 3, 3), plain.reshape(-1, 4, 2, 3)
    assert torch.equal(of_ids[:, :, 0], of_ids[:, :, 1]) and torch.equal(of_ids[:, :, [0, 2]], before)
    again = twice.again.reshape(4, 3, 3)
    assert again[:, 1].all() and not again[:, [0, 2]].any()
    assert "4 identities x 3 images of each light, those in colour twice" in twice.words("images")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, samples = tmp_path_factory.mktemp("caj"), []
    for pid in range(4):
        for camid in (1, 2, 3, 6):
            for n in range(3):
                path = folder / f"{pid}_{camid}_{n}.png"
                noise = np.random.default_rng(pid * 100 + camid * 10 + n).integers(0, 256, (24, 12, 3), np.uint8)
                Image.fromarray(noise).save(path)
                samples.append(datasets.Sample(str(path), pid, camid))
    return datasets.combine([datasets.Splits("sysu", tuple(samples), (), (), infrared=frozenset({3, 6}))])


def loader_of(data, recipe, **options):
    return trees.loaders.TrainLoader(
        data,
        trees.loaders.make_store(data.samples, trees.loaders.Decoding(recipe.image_size, progress=False)),
        training.batches_of(recipe, data),
        training.augmentation_of(recipe),
        **options,
    )


def test_the_extra_images_are_the_same_augmented_otherwise(data):
    plain = RECIPES["caj"].with_(image_size=(24, 12), p=2, k=2, steps=3, pad=0, flip=0.0, erase=0.0)
    loader = loader_of(data, plain)
    seen = set()
    for images, labels, views in loader.epoch(0):
        images, infrared = images.unflatten(0, (2, 3, 2)), views.infrared.unflatten(0, (2, 3, 2))
        assert not infrared[:, :2].any() and infrared[:, 2].all()
        assert (labels.reshape(2, 6) == labels.reshape(2, 6)[:, :1]).all()
        for colour, extra in zip(images[:, 0].flatten(0, 1), images[:, 1].flatten(0, 1), strict=True):
            assert any(torch.equal(extra, slow_channels(colour, choice)) for choice in (1, 2, 3))
            assert not torch.equal(colour[0], colour[1]), "the first of the two keeps its colours"
        grey = (images[:, 2] == images[:, 2, :, :1]).flatten(2).all(2)
        seen |= {*grey.flatten().tolist()}
    assert seen == {True, False}, "seven of eight infrared images lose their noise of colours"
    erased = loader_of(data, plain.with_(flip=0.5, pad=2))
    images, _, _ = next(iter(erased.epoch(0)))
    crops = images.unflatten(0, (2, 3, 2)).mean(3)
    assert not torch.equal(crops[:, 0], crops[:, 1])


def test_two_processes_share_a_batch_with_images_twice(data):
    recipe = RECIPES["caj"].with_(image_size=(24, 12), p=2, k=2, steps=2)
    whole = [images for images, *_ in loader_of(data, recipe).epoch(1)]
    for rank in range(2):
        delivery = trees.loaders.Delivery(rank=rank, world_size=2)
        part = [images for images, *_ in loader_of(data, recipe, delivery=delivery).epoch(1)]
        assert all(torch.equal(x, y[6 * rank : 6 * rank + 6]) for x, y in zip(part, whole, strict=True))


@pytest.mark.parametrize("fields", [{"infrared": False}, {"p": 0}])
def test_images_twice_need_batches_of_both_lights(data, fields):
    with pytest.raises(ValueError, match=r"--extra_colour yes .*recipe caj has --infrared .*set --infrared yes"):
        training.batches_of(RECIPES["caj"].with_(**fields), data)


def slow_squared_difference(feats, labels, alpha, gamma):
    """Anchor by anchor; with the 1e-6 that keeps a sum from zero."""
    total = 0.0
    for i, anchor in enumerate(feats):
        distance = [float((anchor - other).norm()) for other in feats]
        p, n = ([d for d, y in zip(distance, labels.tolist(), strict=True) if (y == int(labels[i])) == same]
                for same in (True, False))  # fmt: skip
        weigh = [[math.exp(alpha * (d - max(p))) for d in p], [math.exp(-alpha * d) for d in n]]
        far, near = (sum(w * d for w, d in zip(ws, ds, strict=True)) / (sum(ws) + 1e-6)
                     for ws, ds in zip(weigh, (p, n), strict=True))  # fmt: skip
        squared = gamma * (far - near) ** 2
        total += math.log1p(math.exp(squared if far > near else -squared))
    return total / len(feats)


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 1.0), (2.0, 0.5)])
def test_squared_difference_is_that_of_single_anchors(alpha, gamma):
    torch.manual_seed(0)
    labels, signs = torch.arange(3).repeat_interleave(4), set()
    for spread in (0.2, 1.0, 2.0):
        feats = torch.randn(3, 5, dtype=torch.float64).repeat_interleave(4, 0) + spread * torch.randn(12, 5)
        found = float(caj.squared_difference(feats, labels, alpha, gamma))
        assert found == pytest.approx(slow_squared_difference(feats, labels, alpha, gamma), rel=1e-9)
        signs.add(found > math.log(2))
    assert signs == {True, False}


def test_a_squared_difference_above_88_has_no_gradient():
    feats = torch.tensor([[0.0], [30.0], [1.0], [31.0]], requires_grad=True)
    loss = caj.SquaredDifference()(models.Output(feats, (), (feats,)), torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert float(loss.detach()) == 88 and not feats.grad.any()


def test_mirror_images_are_averaged_as_directions():
    torch.manual_seed(0)
    recipe = RECIPES["caj"].with_(backbone="resnet18", options={"non_local": (0, 1, 1, 0)}, image_size=(64, 32))
    model = recipe.model(0).eval()
    views = Views(torch.zeros(4, dtype=torch.int64), torch.tensor([True, False, True, False]))
    with torch.no_grad():
        images = torch.randn(4, 3, 64, 32)
        found = model(images, views).embedding
        plain = models.TwoStreamAGW.answer(model, *model.maps(images, views)).embedding
    torch.testing.assert_close(found, F.normalize(plain, dim=1))
