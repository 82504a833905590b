"""Loaders against the plain way: one image at a time, with Pillow and torchvision, as the authors' code does it."""

import errno
import math
import os
import random
import threading
from collections import Counter, namedtuple

import numpy as np
import pytest
import torch
import trees
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF
from trees import tensors

import loaders
from loading.samplers import pk_batches, shuffled
from loading.store import Cache, Decoding, ImageStore, UnreadableImages, decode
from machine.memory import free_memory

Sample = namedtuple("Sample", "path pid camid")
SIZE = (24, 12)  # small, and not the size of any file
MEAN, STD = loaders.IMAGENET_MEAN, loaders.IMAGENET_STD


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth and rough at once, so that resampling and rounding have something to get wrong."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 55, width)[None, :, None]
    return (ramp * rng.random(3) + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """40 images: mostly JPEG, and every mode that needs a conversion."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for i in range(40):
        image = Image.fromarray(noise(40 + i % 5, 18 + i % 3, i))
        special = {3: ("L", "jpg"), 7: ("CMYK", "jpg"), 11: ("RGBA", "png"), 15: ("P", "png")}
        mode, suffix = special.get(i, ("RGB", "jpg"))
        if i == 19:
            image = image.resize(SIZE[::-1])  # already of the right size: must not be resampled
        paths.append(str(folder / f"{i:04d}_c{i % 3}.{suffix}"))
        image.convert(mode).save(paths[-1])
    return paths


@pytest.fixture
def samples(files) -> list[Sample]:
    return [Sample(path, 100 + i // 5, i % 3) for i, path in enumerate(files)]


LABELS = [i // 5 for i in range(40)]  # 8 identities of 5 images


def plain(path: str, size=SIZE, interpolation=InterpolationMode.BILINEAR) -> Image.Image:
    return TF.resize(Image.open(path).convert("RGB"), list(size), interpolation)


def plain_batch(paths, size=SIZE) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(plain(path, size))) for path in paths])  # (B, H, W, 3)


def store(paths, cache="ram", **options) -> ImageStore:
    folder = options.pop("cache_dir", None)
    return ImageStore(paths, Decoding(SIZE, progress=False, **options), Cache(cache, folder))


def train_loader(samples, labels=LABELS, **options) -> loaders.TrainLoader:
    defaults = dict(image_size=SIZE, batch_size=8, cache="ram", progress=False, pad=3, seed=5)
    return trees.train_loader(samples, labels, **(defaults | options))


def same_batches(left, right) -> bool:
    left, right = list(left), list(right)
    return len(left) == len(right) > 0 and all(
        torch.equal(a, b)
        for one, two in zip(left, right, strict=True)
        for a, b in zip(tensors(one), tensors(two), strict=True)
    )


# decoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [SIZE, (64, 32), (17, 40)])
def test_decode_gives_the_bytes_of_torchvision_resize(files, size, interpolation):
    for path in files[:20]:
        expected = np.array(plain(path, size, InterpolationMode(interpolation)))
        assert np.array_equal(decode(path, size, interpolation), expected), path


# ImageStore -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_cache_holds_the_same_pixels(files, tmp_path, cache, workers):
    images = store(files, cache, cache_dir=tmp_path, workers=workers)
    batches = [torch.tensor([5, 3, 3, 39]), torch.arange(20), torch.tensor([0])]
    for index, got in zip(batches, images.stream(batches), strict=True):
        assert torch.equal(got, plain_batch([files[i] for i in index]))
    assert torch.equal(images.take(batches[0]), plain_batch([files[i] for i in batches[0]]))


def test_auto_takes_memory_then_disk_then_streams(files, tmp_path, monkeypatch):
    need = 40 * SIZE[0] * SIZE[1] * 3
    monkeypatch.setattr("loading.store.free_memory", lambda: 2 * need)
    assert store(files, "auto", cache_dir=tmp_path).cache == "ram"
    monkeypatch.setattr("loading.store.free_memory", lambda: 2 * need - 2)
    assert store(files, "auto", cache_dir=tmp_path).cache == "disk"
    assert store(files, "auto").cache == "none"
    monkeypatch.setattr("loading.store.free_memory", lambda: need - 1)
    with pytest.raises(RuntimeError, match="--cache disk"):
        store(files, "ram")


def test_free_memory_is_plausible():
    assert 1 << 24 < free_memory() < 1 << 50


def test_description_names_number_size_and_place(files):
    assert store(files).description == "40 images of 24x12 in host memory (below 1 MiB)"
    assert "decoded as needed" in store(files, "none").description


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(cache="gpu"), "--cache ram"),
        (dict(cache="disk"), "--cache_path"),
        (dict(cache="tape"), "choose one of auto"),
        (dict(interpolation="cubic"), "choose one of bilinear"),
    ],
)
def test_store_says_what_to_do_about_impossible_arguments(files, options, message):
    with pytest.raises(ValueError, match=message):
        store(files, **options)


def test_a_tracklet_is_refused_by_name():
    with pytest.raises(ValueError, match="tracklet"):
        store([("a.jpg", "b.jpg")])


# disk cache


@pytest.fixture
def copies(files, tmp_path) -> list[str]:
    paths = []
    for i, path in enumerate(files[:20]):
        paths.append(str(tmp_path / f"{i}.jpg"))
        plain(path, (30, 15)).save(paths[-1])
    return paths


def count_decoding(monkeypatch) -> list[str]:
    decoded, real = [], decode
    monkeypatch.setattr("loading.store.decode", lambda path, *a: (decoded.append(path), real(path, *a))[1])
    return decoded


def test_disk_cache_is_read_back_without_decoding(copies, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    first = store(copies, "disk", cache_dir=folder).take(torch.arange(20)).clone()
    decoded = count_decoding(monkeypatch)
    assert torch.equal(store(copies, "disk", cache_dir=folder).take(torch.arange(20)), first)
    assert not decoded
    assert len(list(folder.iterdir())) == 1  # nothing temporary is left


@pytest.mark.parametrize("change", ["touch", "replace", "order", "size", "filter"])
def test_disk_cache_is_never_stale(copies, tmp_path, monkeypatch, change):
    folder, size, interpolation = tmp_path / "cache", SIZE, "bilinear"
    store(copies, "disk", cache_dir=folder)
    if change == "touch":
        os.utime(copies[4], ns=(1, 1))
    elif change == "replace":
        Image.fromarray(noise(30, 15, 999)).save(copies[4])
    elif change == "order":
        copies = copies[::-1]
    elif change == "size":
        size = (20, 10)
    else:
        interpolation = "bicubic"
    decoded = count_decoding(monkeypatch)
    again = ImageStore(copies, Decoding(size, interpolation, progress=False), Cache("disk", folder))
    assert sorted(decoded) == sorted(copies)
    expected = [np.array(plain(path, size, InterpolationMode(interpolation))) for path in copies]
    assert np.array_equal(again.take(torch.arange(20)).numpy(), np.stack(expected))
    assert len(list(folder.iterdir())) == (1 if change in ("touch", "replace") else 2)  # the stale one is gone


@pytest.mark.parametrize("damage", ["cut", "empty", "trailer", "longer", "bit"])
def test_damaged_disk_cache_is_made_anew(copies, tmp_path, damage):
    folder = tmp_path / "cache"
    store(copies, "disk", cache_dir=folder)
    [file] = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[100:],
            "empty": b"",
            "trailer": content[:-20] + bytes(20),
            "longer": content + bytes(9),
            "bit": content[:50] + bytes([content[50] ^ 1]) + content[51:],
        }[damage]
    )
    assert torch.equal(store(copies, "disk", cache_dir=folder).take(torch.arange(20)), plain_batch(copies))
    assert file.read_bytes() == content


def test_disk_cache_remembers_what_was_skipped(copies, tmp_path):
    open(copies[3], "wb").close()
    for _ in range(2):
        images = store(copies, "disk", cache_dir=tmp_path / "cache", skip_bad=True)
        assert images.skipped == [copies[3]] and len(images) == 19
        assert torch.equal(images.take(torch.arange(19)), plain_batch(copies[:3] + copies[4:]))


def test_full_disk_is_one_message_and_leaves_nothing(copies, tmp_path, monkeypatch):
    folder = tmp_path / "cache"

    def no_room(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(RuntimeError, match="No space left.*--cache none"):
            store(copies, "disk", cache_dir=folder)
    assert not list(folder.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "free")(10))
    with pytest.raises(RuntimeError, match="make room"):
        store(copies, "disk", cache_dir=folder)


# bad images


@pytest.fixture
def damaged(copies, tmp_path) -> list[str]:
    """Positions 2 (truncated), 5 (empty), 9 (text), 11 (missing) are bad."""
    content = open(copies[2], "rb").read()
    open(copies[2], "wb").write(content[: len(content) // 2])
    open(copies[5], "wb").close()
    open(copies[9], "w").write("not an image")
    os.unlink(copies[11])
    return copies


BAD = (2, 5, 9, 11)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_bad_images_are_named_together_before_training(damaged, tmp_path, cache):
    with pytest.raises(UnreadableImages) as error:
        store(damaged, cache, cache_dir=tmp_path / "cache")
    message = str(error.value)
    assert message.startswith("4 of 20 images cannot be read") and "--skip_bad_images" in message
    assert all(damaged[i] in message for i in BAD)
    assert all(reason in message.lower() for reason in ("truncated", "is empty", "or a damaged one", "no such file"))


def test_only_the_first_five_bad_images_are_listed(tmp_path):
    with pytest.raises(UnreadableImages, match=r"^8 of 8 .* and 3 more\. Replace") as error:
        store([str(tmp_path / f"{i}.jpg") for i in range(8)])
    assert str(error.value).count("no such file") == 5 and len(error.value.paths) == 8


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
def test_skipped_images_keep_every_index_consistent(damaged, tmp_path, cache):
    samples = [Sample(path, i, i % 4) for i, path in enumerate(damaged)]
    good = [i for i in range(20) if i not in BAD]
    options = dict(cache=cache, cache_dir=tmp_path / "cache", skip_bad=True, image_size=SIZE, progress=False)
    loader = trees.train_loader(samples, list(range(20)), batch_size=16, flip=0, pad=0, erase=0, **options)
    assert loader.store.skipped == [damaged[i] for i in BAD] and loader.num_images == 16
    [(images, labels, views)] = loader.epoch(0)
    assert sorted(labels.tolist()) == good and views.camera.tolist() == [i % 4 for i in labels.tolist()]
    assert torch.equal(images, loaders.normalise(plain_batch([damaged[i] for i in labels])))
    loader = trees.eval_loader(samples, batch_size=5, **options)
    assert [sample.pid for sample in loader.samples] == good and len(loader) == 4
    images, views = zip(*loader, strict=True)
    assert torch.cat([each.camera for each in views]).tolist() == [i % 4 for i in good]
    images = torch.cat(images)
    assert torch.equal(images, loaders.normalise(plain_batch([damaged[i] for i in good])))


def test_streaming_names_the_bad_image_when_it_gets_there(damaged):
    samples = [Sample(path, 0, 0) for path in damaged]
    batches = iter(trees.eval_loader(samples, image_size=SIZE, batch_size=2, workers=2))
    next(batches)
    with pytest.raises(UnreadableImages, match="2.jpg"):
        list(batches)


def test_nothing_left_after_skipping_is_an_error(tmp_path):
    with pytest.raises(UnreadableImages, match="2 of 2"):
        store([str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")], skip_bad=True)


# samplers -------------------------------------------------------------------------------------------------------


def test_shuffled_is_one_pass_without_repetition():
    batches = shuffled(103, 10, seed=1, epoch=0)
    assert batches.shape == (10, 10) and len(set(batches.flatten().tolist())) == 100
    assert not torch.equal(batches, shuffled(103, 10, 1, 1))
    assert not torch.equal(batches, shuffled(103, 10, 2, 0))
    assert torch.equal(batches, shuffled(103, 10, 1, 0))


def test_shuffled_given_steps():
    batches = shuffled(7, 10, 1, 0, steps=5)
    counts = torch.bincount(batches.flatten(), minlength=7)
    assert batches.shape == (5, 10) and counts.max() - counts.min() <= 1
    with pytest.raises(ValueError, match="7 training images do not fill one batch of 10"):
        shuffled(7, 10, 1, 0)


def plain_identity_sampler(labels, p, k, rng):
    """RandomIdentitySampler of reid-strong-baseline and torchreid, with lists; returns (batches of groups)."""
    groups = {}
    for pid in sorted(set(labels)):
        images = [i for i, label in enumerate(labels) if label == pid]
        if len(images) < k:
            images = images + [rng.choice(images) for _ in range(k - len(images))]
        rng.shuffle(images)
        groups[pid] = [images[i : i + k] for i in range(0, len(images) - k + 1, k)]
    batches, left = [], list(groups)
    while len(left) >= p:
        chosen = rng.sample(left, p)
        batches.append([groups[pid].pop(0) for pid in chosen])
        left = [pid for pid in left if groups[pid]]
    return batches


def uneven_labels() -> list[int]:
    rng = random.Random(0)
    labels = [pid * 7 for pid in range(40) for _ in range(rng.randint(1, 30))]
    rng.shuffle(labels)
    return labels


def test_pk_one_pass_has_the_length_and_balance_of_the_authors_sampler():
    labels = uneven_labels()
    got = [pk_batches(labels, 6, 4, seed, 0) for seed in range(200)]
    want = [plain_identity_sampler(labels, 6, 4, random.Random(seed)) for seed in range(200)]
    lengths, wanted = np.array([len(b) for b in got]), np.array([len(b) for b in want])
    assert abs(lengths.mean() - wanted.mean()) < 5 * np.sqrt((lengths.var() + wanted.var()) / 200 + 1e-4)
    images_of = np.array(labels)[:, None] == np.unique(labels)  # (N, identities)
    used = np.stack([np.bincount(b.flatten(), minlength=len(labels)) @ images_of for b in got])
    wanted = np.stack([np.bincount(np.array(b).ravel(), minlength=len(labels)) @ images_of for b in want])
    error = np.sqrt((used.var(0) + wanted.var(0)) / 200 + 1e-4)
    assert (np.abs(used.mean(0) - wanted.mean(0)) < 5 * error).all()  # images of each identity in an epoch


@pytest.mark.parametrize("steps", [None, 50])
@pytest.mark.parametrize("p, k", [(6, 4), (40, 2), (1, 1), (7, 16)])
def test_pk_batches_are_exact(p, k, steps):
    labels = np.array(uneven_labels())
    batches = pk_batches(labels, p, k, 3, 1, steps)
    sizes = {pid: int((labels == pid).sum()) for pid in set(labels.tolist())}
    seen = Counter()
    for batch in batches.view(-1, p, k).tolist():
        pids = [set(labels[group].tolist()) for group in batch]
        assert all(len(pid) == 1 for pid in pids) and len(set.union(*pids)) == p
        for [pid], group in zip(pids, batch, strict=True):
            counts = Counter(group)
            assert len(counts) == min(k, sizes[pid])  # every image before any repeats
            assert max(counts.values()) == math.ceil(k / sizes[pid])
            seen[pid] += 1
    if steps is None:
        groups = {pid: max(1, size // k) for pid, size in sizes.items()}
        assert all(seen[pid] <= groups[pid] for pid in sizes)
        assert sum(seen[pid] < groups[pid] for pid in sizes) < p  # fewer than p identities had a group left
        flat = [i for i in batches.flatten().tolist() if sizes[labels[i]] >= k]
        assert len(flat) == len(set(flat))  # no image twice in an epoch
    else:
        assert len(batches) == steps
        assert max(seen[pid] for pid in sizes) - min(seen[pid] for pid in sizes) <= 1
        images = Counter(batches.flatten().tolist())
        for pid in sizes:
            counts = [images[i] for i in np.flatnonzero(labels == pid)]
            assert max(counts) - min(counts) <= 1


def test_pk_batches_are_a_function_of_seed_and_epoch():
    labels = torch.tensor(uneven_labels())
    for steps in (None, 20):
        one = pk_batches(labels, 5, 3, 1, 2, steps)
        assert torch.equal(one, pk_batches(labels.tolist(), 5, 3, 1, 2, steps))
        assert not torch.equal(one[:5], pk_batches(labels, 5, 3, 1, 3, steps)[:5])


def test_too_few_identities_says_how_many_there_are():
    with pytest.raises(ValueError, match="p=16 identities .* training set has 3: lower --p to at most 3"):
        pk_batches([0, 0, 1, 2], 16, 4, 0, 0)


# TrainLoader ----------------------------------------------------------------------------------------------------


def test_batches_equal_the_per_image_pipeline(samples):
    """Resize, flip, pad, crop, to tensor, normalise, erase, one PIL image at a time with the same parameters."""
    loader = train_loader(samples, p=4, k=2, batch_size=None)
    index = pk_batches(LABELS, 4, 2, seed=5, epoch=3)
    assert loader.steps(3) == len(index)
    for step, (images, labels, views) in enumerate(loader.epoch(3)):
        draws = loader.augmentation.draw(8, SIZE, 40, 5, 3, step)
        assert labels.tolist() == [LABELS[i] for i in index[step]] and labels.dtype == torch.int64
        assert views.camera.tolist() == [samples[i].camid for i in index[step]]
        for b, i in enumerate(index[step].tolist()):
            image = plain(samples[i].path)
            image = TF.hflip(image) if draws.flip[b] else image
            image = TF.crop(TF.pad(image, 3), *draws.pad[b].tolist(), *SIZE)
            expected = TF.normalize(TF.to_tensor(image), MEAN, STD)
            y, x, h, w, _ = draws.erase[b]
            expected[:, y : y + h, x : x + w] = torch.tensor(MEAN).view(3, 1, 1)
            assert torch.equal(images[b], expected)


EVERYTHING = dict(translate=0.5, random_patch=0.5, color_jitter=0.5, erase_fill="pixel")


def test_caches_and_workers_give_the_same_batches(samples, tmp_path):
    expected = list(train_loader(samples, **EVERYTHING).epoch(1))
    assert len(expected) == 5
    for cache in ("none", "disk"):
        for workers in (1, 3):
            loader = train_loader(samples, cache=cache, cache_dir=tmp_path, workers=workers, **EVERYTHING)
            assert same_batches(loader.epoch(1), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cache", ["gpu", "ram", "none"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_cuda_device_gives_the_batches_of_the_cpu(samples, cache, channels_last):
    options = dict(channels_last=channels_last, **EVERYTHING)
    on_device = train_loader(samples, cache=cache, device="cuda", **options).epoch(1)
    moved = ([part.cpu() for part in batch] for batch in on_device)
    assert same_batches(moved, train_loader(samples, **options).epoch(1))
    images = [images.cpu() for images, _ in trees.eval_loader(samples, image_size=SIZE, device="cuda", cache=cache)]
    assert torch.equal(torch.cat(images), loaders.normalise(plain_batch([sample.path for sample in samples])))


def test_epochs_do_not_depend_on_history(samples):
    loader = train_loader(samples, p=4, k=2, batch_size=None, steps=6, **EVERYTHING)
    expected = list(loader.epoch(4))
    next(loader.epoch(0))
    next(loader.epoch(2))
    assert same_batches(loader.epoch(4), expected)
    assert same_batches(loader.epoch(4, start=2), expected[2:])
    assert not same_batches(loader.epoch(5), expected)
    other = train_loader(samples, p=4, k=2, batch_size=None, steps=6, seed=6, **EVERYTHING)
    assert not same_batches(other.epoch(4), expected)


def test_layout_does_not_change_values(samples):
    expected = list(train_loader(samples, **EVERYTHING).epoch(0))
    loader = train_loader(samples, channels_last=True, **EVERYTHING)
    assert same_batches(loader.epoch(0), expected)
    assert next(loader.epoch(0))[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_parts_of_all_ranks_are_the_whole_batch(samples, cache):
    options = dict(p=4, k=2, batch_size=None, cache=cache, **EVERYTHING)
    whole = list(train_loader(samples, **options).epoch(2))
    parts = [list(train_loader(samples, rank=rank, world_size=2, **options).epoch(2)) for rank in range(2)]
    steps = [zip(*map(tensors, step), strict=True) for step in zip(*parts, strict=True)]
    together = [[torch.cat(pair) for pair in step] for step in steps]
    assert same_batches(together, whole)


def test_returned_batches_are_not_overwritten(samples):
    loader = train_loader(samples, flip=0, pad=0, erase=1.0)
    kept = [batch[0] for batch in loader.epoch(0)]
    copies = [image.clone() for image in kept]
    pixels = loader.store.data.clone()
    list(loader.epoch(1))
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert torch.equal(loader.store.data, pixels)


def test_alternate_switches_at_the_next_batch_and_is_resumed(samples):
    options = dict(p=4, k=2, batch_size=None, steps=4, alternate="random", erase=0)
    for cache in ("ram", "none"):
        loader = train_loader(samples, cache=cache, **options)
        seen = []
        for _, labels, _ in loader.epoch(0):
            seen.append(all(count == 2 for count in Counter(labels.tolist()).values()))
            loader.observe({"id": 1.0, "balanced": 0.0} if len(seen) == 2 else {"id": 1.0})
        assert seen == [True, True, False, False]
        resumed = train_loader(samples, cache=cache, **options)
        resumed.load_state_dict(loader.state_dict())
        assert same_batches(resumed.epoch(1), loader.epoch(1))
        loader.observe({"balanced": True})
        assert not same_batches(resumed.epoch(1), loader.epoch(1))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(p=0, k=4), "--p must be at least 1"),
        (dict(batch_size=0), "at least 1"),
        (dict(batch_size=9, world_size=2), "multiple of 2"),
        (dict(batch_size=None, p=9, k=2), "training set has 8"),
        (dict(batch_size=64), "40 training images"),
    ],
)
def test_train_loader_refuses_what_cannot_work_before_training(samples, options, message):
    with pytest.raises(ValueError, match=message):
        train_loader(samples, **options)


def test_a_store_can_be_shared(samples):
    loader = train_loader(samples)
    assert train_loader(samples, store=loader.store).store is loader.store
    assert trees.eval_loader(samples, image_size=SIZE, store=loader.store).store is loader.store
    with pytest.raises(ValueError, match="make a store of the same files"):
        trees.eval_loader(samples[::-1], image_size=SIZE, store=loader.store)
    with pytest.raises(ValueError, match="40 samples and 3 labels"):
        train_loader(samples, [0, 1, 2])


# EvalLoader -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_eval_loader_yields_everything_in_order(samples, cache):
    loader = trees.eval_loader(samples, image_size=SIZE, batch_size=16, cache=cache, workers=2, progress=False)
    for _ in range(2):  # it can be iterated again
        batches = list(loader)
        assert [len(images) for images, _ in batches] == [16, 16, 8] and len(loader) == 3 and loader.num_images == 40
        images = torch.cat([batch for batch, _ in batches])
        expected = [TF.normalize(TF.to_tensor(plain(sample.path)), MEAN, STD) for sample in samples]
        assert torch.equal(images, torch.stack(expected))
        assert [c for _, views in batches for c in views.camera.tolist()] == [sample.camid for sample in samples]


def test_an_empty_set_yields_nothing():
    assert list(trees.eval_loader([], image_size=SIZE)) == []


@pytest.mark.parametrize("ahead, asked", [(None, 1), (0, 1), (3, 4)])
def test_streaming_reads_ahead_but_not_without_bound(files, ahead, asked):
    drawn = []
    batches = store(files, "none", workers=2).stream((drawn.append(i) or i for i in torch.arange(40).split(4)), ahead)
    next(batches)
    assert len(drawn) == asked  # the batch in hand and `ahead` more; on a CPU none by default
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
