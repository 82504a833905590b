"""Tracklets: which frames are read, how they are pooled, and the built-in moving pedestrians, end to end."""

import copy
import itertools
import json
import time
from collections import Counter, namedtuple

import numpy as np
import pytest
import torch
import trees
from PIL import Image
from torch import nn
from trees import tensors

import datasets
import evaluate
import loaders
import losses
import main
import models
import train
import video
from loading.samplers import sampled_frames
from loading.store import UnreadableImages
from loading.views import Views
from synthetic import people, sets

Sample = namedtuple("Sample", "path pid camid")
SIZE = (24, 12)
COUNTS = (1, 3, 4, 7, 12, 2, 5, 9)  # frames of the tracklets below


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """8 tracklets of 4 people. Red is the number of the tracklet, green that of the frame; blue grows to the right."""
    folder, made = tmp_path_factory.mktemp("tracklets"), []
    for i, count in enumerate(COUNTS):
        paths = []
        for t in range(count):
            paths.append(str(folder / f"{i}_{t:02d}.png"))
            pixels = np.empty((*SIZE, 3), np.uint8)
            pixels[..., 0], pixels[..., 1], pixels[..., 2] = 20 * i + 5, 15 * t + 5, np.arange(0, 240, 20)
            Image.fromarray(pixels).save(paths[-1])
        made.append(Sample(tuple(paths), i // 2, 1 + i % 2))
    return made


def labels_of(samples) -> list[int]:
    return [sample.pid for sample in samples]


PLAIN = {"flip": 0.0, "pad": 0, "erase": 0.0}


def train_loader(samples, **options) -> loaders.TrainLoader:
    defaults = {"image_size": SIZE, "batch_size": 4, "seq_len": 4, "progress": False, "seed": 3, "workers": 1}
    return trees.train_loader(samples, labels_of(samples), **(defaults | options))


def eval_loader(samples, **options) -> loaders.EvalLoader:
    defaults = {"image_size": SIZE, "batch_size": 3, "seq_len": 4, "progress": False, "workers": 1}
    return trees.eval_loader(samples, **(defaults | options))


def which(images: torch.Tensor) -> list[tuple[int, int]]:
    """(tracklet, frame) that images (n, 3, H, W) show, read back from their colours."""
    mean, std = (torch.tensor(v)[:, None] for v in (loaders.IMAGENET_MEAN, loaders.IMAGENET_STD))
    colours = (images[:, :, 0, 0].t() * std + mean) * 255
    return [(round((red - 5) / 20), round((green - 5) / 15)) for red, green, _ in colours.t().tolist()]


def same_batches(left, right) -> bool:
    left, right = list(left), list(right)
    return len(left) == len(right) > 0 and all(
        torch.equal(a, b)
        for one, two in zip(left, right, strict=True)
        for a, b in zip(tensors(one), tensors(two), strict=True)
    )


# which frames -----------------------------------------------------------------------------------------------------


def torchreid_evenly(count, seq_len):
    """The rule of torchreid/data/datasets/dataset.py, in plain Python."""
    if count >= seq_len:
        whole = count - count % seq_len
        return [int(i * whole / seq_len) for i in range(seq_len)]
    return list(range(count)) + [count - 1] * (seq_len - count)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11, 920])
def test_evenly_is_the_rule_of_torchreid(count):
    assert sampled_frames(count, 4, "evenly", None).tolist() == torchreid_evenly(count, 4)


def test_random_frames_are_in_order_without_repetition_where_possible_and_reach_every_frame():
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(300):
        frames = sampled_frames(6, 4, "random", rng).tolist()
        assert frames == sorted(set(frames)) and len(frames) == 4
        seen.update(frames)
        short = sampled_frames(2, 4, "random", rng).tolist()
        assert len(short) == 4 and short == sorted(short) and set(short) <= {0, 1}
    assert set(seen) == set(range(6)) and max(seen.values()) < 1.3 * min(seen.values())


@pytest.mark.parametrize("count", [1, 3, 4, 7, 11, 12, 13, 30])
def test_frames_a_stride_apart_are_drawn_as_by_simple_ccreid(count):
    """All that its TemporalRandomCrop(4, stride=3) can give, each about as often."""
    if count >= 12:
        possible = {tuple(range(begin, begin + 10, 3)) for begin in range(count - 9)}
    elif count >= 4:
        parts = [range(i * (count // 4), (i + 1) * (count // 4)) for i in range(4)]
        possible = set(itertools.product(*parts))
    else:
        possible = set(itertools.combinations_with_replacement(range(count), 4))
    rng = np.random.default_rng(0)
    seen = Counter(tuple(sampled_frames(count, 4, "stride", rng, 3).tolist()) for _ in range(200 * len(possible)))
    assert set(seen) == possible and (count < 4 or max(seen.values()) < 1.5 * min(seen.values()))


@pytest.mark.parametrize("count", [1, 4, 5, 9, 10, 11, 24])
def test_a_tracklet_is_cut_as_by_simple_ccreid(count):
    frames, expected = list(range(count)), []
    for i in range(count // 5):  # _densesampling_for_trainingset
        expected.append(tuple(frames[i * 5 :] if i == count // 5 - 1 else frames[i * 5 : (i + 1) * 5]))
    whole, other = Sample(tuple(map(str, frames)), 7, 2), Sample(("x",), 8, 1)
    parts, owner = loaders.cut([whole, other], 5)
    assert [tuple(map(int, part.path)) for part in parts[:-1]] == (expected or [tuple(frames)])
    assert {(part.pid, part.camid) for part in parts[:-1]} == {(7, 2)} and parts[-1] == other
    assert owner.tolist() == [0] * max(1, count // 5) + [1]


def test_the_mean_of_dense_clips_is_that_of_clips_with_gaps():
    """A test of Simple-CCReID (_recombination_for_testset): groups of 8 x 4 frames as four clips of every fourth frame,
    the rest with smaller gaps, what is left repeated. Of means over frames the mean is that of neighbouring frames."""
    for count in range(1, 100):
        x = np.random.default_rng(count).normal(size=count)
        clips = [list(range(i * 32 + j, (i + 1) * 32, 4)) for i in range(count // 32) for j in range(4)]
        rest, begin = count % 32, count // 32 * 32
        clips += [list(range(begin + i, begin + rest // 8 * 8, rest // 8)) for i in range(rest // 8)]
        left = list(range(count // 8 * 8, count))
        clips += [(left * 8)[:8]] if left else []
        theirs = np.mean([x[clip].mean() for clip in clips])
        ours = np.mean([x[clip].mean() for clip in loaders.clips_of(count, 8, "dense")])
        assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    "policy, count, expected",
    [
        ("all", 7, [[0, 1, 2, 3, 4, 5, 6]]),
        ("evenly", 7, [[0, 2, 4]]),
        ("evenly", 2, [[0, 1, 1]]),
        ("dense", 7, [[0, 1, 2], [3, 4, 5], [6, 6, 6]]),
        ("dense", 5, [[0, 1, 2], [3, 4, 3]]),
        ("dense", 1, [[0, 0, 0]]),
    ],
)
def test_clips_of_a_test(policy, count, expected):
    assert [clip.tolist() for clip in loaders.clips_of(count, 3, policy)] == expected


# TrainLoader ------------------------------------------------------------------------------------------------------


def test_a_batch_holds_the_frames_of_its_tracklets(samples):
    for images, labels, views in train_loader(samples, sample_method="evenly", **PLAIN).epoch(0):
        assert images.shape == (4, 4, 3, *SIZE) and labels.shape == views.camera.shape == (4,)
        for tracklet, label, camid in zip(images, labels.tolist(), views.camera.tolist(), strict=True):
            numbers, frames = zip(*which(tracklet), strict=True)
            assert len(set(numbers)) == 1 and list(frames) == torchreid_evenly(COUNTS[numbers[0]], 4)
            assert (samples[numbers[0]].pid, samples[numbers[0]].camid) == (label, camid)


def test_one_tracklet_of_one_frame_is_that_image(samples):
    """The fast path for images and the one for tracklets are one."""
    images = [sample._replace(path=sample.path[0]) for sample in samples]
    clips = [sample._replace(path=sample.path[:1]) for sample in samples]
    of_images = train_loader(images, pad=3).epoch(1)
    of_clips = train_loader(clips, pad=3, seq_len=1).epoch(1)
    for (left, *rest), (right, *others) in zip(of_images, of_clips, strict=True):
        assert torch.equal(left[:, None], right)
        assert all(torch.equal(a, b) for a, b in zip(tensors(rest), tensors(others), strict=True))


@pytest.mark.parametrize("method", ["evenly", "random", "all", "frames"])
@pytest.mark.parametrize("cache", ["ram", "none"])
def test_batches_are_a_function_of_seed_epoch_and_step(samples, method, cache):
    options = {"sample_method": method, "pad": 3}
    whole = list(train_loader(samples, cache="ram", **options).epoch(2))
    assert same_batches(whole, train_loader(samples, cache=cache, **options).epoch(2))
    assert same_batches(whole[1:], train_loader(samples, cache=cache, **options).epoch(2, start=1))
    assert not same_batches(whole, train_loader(samples, seed=4, **options).epoch(2))


def test_other_frames_are_drawn_in_every_step(samples):
    """One tracklet of 12 frames, again and again."""
    loader = train_loader(samples[4:5], batch_size=1, steps=8, sample_method="random", **PLAIN)
    drawn = [tuple(frame for _, frame in which(images[0])) for e in (0, 1) for images, _, _ in loader.epoch(e)]
    assert len(set(drawn)) > 8 and {frame for frames in drawn for frame in frames} == set(range(12))


@pytest.mark.parametrize("options", [{}, {"sample_method": "all"}, {"frame_by_frame": True}, {"random_patch": 0.7}])
def test_the_parts_of_two_processes_are_the_batch_of_one(samples, options):
    def parts(**more):
        return list(train_loader(samples, pad=3, **options, **more).epoch(0))

    for (images, labels, _), *halves in zip(
        parts(), parts(rank=0, world_size=2), parts(rank=1, world_size=2), strict=True
    ):
        assert torch.equal(labels, torch.cat([half[1] for half in halves]))
        for i, (part, _, _) in enumerate(halves):  # a part may be filled up to another length
            mine = images.chunk(2)[i]
            assert torch.equal(mine[:, : part.shape[1]], part)


def test_all_frames_fill_up_with_marked_zeros(samples):
    images, labels, views = next(train_loader(samples, batch_size=8, sample_method="all", **PLAIN).epoch(0))
    assert images.shape == (8, max(COUNTS), 3, *SIZE) and views.there.shape == (8, max(COUNTS))
    found = {}
    for tracklet, there in zip(images, views.there, strict=True):
        assert not tracklet[~there].any()
        numbers, frames = zip(*which(tracklet[there]), strict=True)
        found[numbers[0]] = list(frames)
    assert found == {i: list(range(count)) for i, count in enumerate(COUNTS)}


def test_frame_by_frame_hands_on_frames_as_images(samples):
    together = list(train_loader(samples, pad=3).epoch(0))
    alone = list(train_loader(samples, pad=3, frame_by_frame=True).epoch(0))
    for (images, labels, views), (frames, each, seen) in zip(together, alone, strict=True):
        assert torch.equal(images.flatten(0, 1), frames)
        assert torch.equal(labels.repeat_interleave(4), each)
        assert torch.equal(views.camera.repeat_interleave(4), seen.camera)


def test_frames_are_images_like_any_other(samples):
    """As if every frame had been given as an image."""
    images = [Sample(path, sample.pid, sample.camid) for sample in samples for path in sample.path]
    loader = train_loader(samples, sample_method="frames", pad=3)
    assert same_batches(loader.epoch(1), train_loader(images, pad=3).epoch(1))
    assert loader.num_images == sum(COUNTS) and not loader.tracklets


def test_same_augmentation_moves_all_frames_of_a_tracklet_alike(samples):
    """Zero where the padding came in: one place for all frames, or one for each."""

    def borders(**options):  # (B, T, H, W)
        images = next(train_loader(samples, batch_size=8, flip=0, erase=0, pad=8, **options).epoch(0))[0]
        return images[:, :, 0] < images[:, :, 0].amax(dim=(2, 3), keepdim=True)

    moved = borders(same_augmentation=True)
    assert moved.any() and (moved == moved[:, :1]).all()
    moved = borders()
    assert (moved != moved[:, :1]).any()


def test_channels_last_tracklets_flatten_to_channels_last_frames(samples):
    for method in ("evenly", "all"):
        images = next(train_loader(samples, channels_last=True, sample_method=method).epoch(0))[0]
        assert images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_pk_batches_count_tracklets(samples):
    images, labels, _ = next(train_loader(samples, batch_size=None, p=2, k=2, **PLAIN).epoch(0))
    assert images.shape[:2] == (4, 4) and sorted(Counter(labels.tolist()).values()) == [2, 2]


def test_skip_bad_shortens_a_tracklet_and_leaves_out_an_empty_one(samples, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    shorter, empty = samples[3]._replace(path=(str(bad), *samples[3].path[1:])), samples[1]._replace(path=(str(bad),))
    broken = [shorter, empty, *samples]
    with pytest.raises(UnreadableImages, match="bad.png"):
        train_loader(broken)
    loader = train_loader(broken, batch_size=1, skip_bad=True, sample_method="all", **PLAIN)
    assert loader.num_images == len(samples) + 1 and loader.samples[0] is broken[0]
    frames = sorted(tuple(f for _, f in which(images[0])) for images, labels, _ in loader.epoch(0))
    assert frames == sorted([tuple(range(1, 7)), *(tuple(range(count)) for count in COUNTS)])
    tests = eval_loader(broken, skip_bad=True)
    assert [sample.path for sample in tests.samples] == [sample.path for sample in loader.samples]


def test_what_cannot_be_loaded_is_said(samples):
    with pytest.raises(ValueError, match="images and some are tracklets"):
        train_loader([samples[0], samples[1]._replace(path="a.png")])
    with pytest.raises(ValueError, match="no frames"):
        train_loader([samples[0]._replace(path=())])
    with pytest.raises(ValueError, match="evenly, random, stride, all, frames"):
        train_loader(samples, sample_method="some")
    with pytest.raises(ValueError, match="all, evenly, dense"):
        eval_loader(samples, test_frames="random")


def test_parts_of_tracklets_are_drawn_on_their_own(samples):
    """Of 1, 3, 4, 7, 12, 2, 5, 9 frames, cut into threes: 1 + 1 + 1 + 2 + 4 + 1 + 1 + 3 parts, all in an epoch."""
    loader = train_loader(samples, batch_size=2, seq_len=2, sample_method="stride", frame_stride=1, cut_tracklets=3,
                          **PLAIN)  # fmt: skip
    parts, owner = loaders.cut(samples, 3)
    assert loader.num_images == len(parts) == 14 and loader.num_frames == sum(COUNTS)
    assert loader.labels.tolist() == [samples[i].pid for i in owner]
    assert "14 tracklets of 43 images" in loader.description and "with 2 frames 1 apart" in loader.description
    seen = set()
    for images, labels, _ in loader.epoch(0):
        for tracklet, label in zip(images, labels.tolist(), strict=True):
            (first, a), (second, b) = which(tracklet)
            assert first == second and label == samples[first].pid and (a <= b)
            (place,) = {i for i, part in enumerate(parts) if samples[first].path[a] in part.path}
            assert samples[second].path[b] in parts[place].path
            seen.add(place)
    assert seen == set(range(14))
    with pytest.raises(ValueError, match="--frame_stride must be at least 1"):
        train_loader(samples, frame_stride=0)


def test_description_counts_tracklets_and_frames(samples):
    text = train_loader(samples).description
    assert "8 tracklets of 43 images" in text and "4 tracklets with 4 evenly chosen frames" in text


def test_auto_keeps_few_tracklets_and_streams_many(samples, monkeypatch):
    assert train_loader(samples).store.cache == "ram"
    monkeypatch.setattr(loaders, "TRACKLET_CACHE", 43 * SIZE[0] * SIZE[1] * 3 - 1)
    assert train_loader(samples).store.cache == "none" == train_loader(samples, sample_method="frames").store.cache
    assert train_loader(samples, cache="ram").store.cache == "ram"


def test_an_epoch_over_as_many_frames_as_mars_starts_at_once(monkeypatch):
    """509,914 frames in 8,298 tracklets (issue 5: within 30 s); no file is read but those of the first batch."""
    reads = []
    monkeypatch.setattr(
        "loading.store.decode", lambda path, size, how: reads.append(path) or np.zeros((*size, 3), np.uint8)
    )
    tracklets = [
        Sample(
            tuple(f"bbox_train/{i % 625:04d}/{i}F{t:04d}.jpg" for t in range(62 if i < 3732 else 61)),
            i % 625,
            1 + i % 6,
        )
        for i in range(8298)
    ]
    began = time.process_time()
    loader = train_loader(tracklets, image_size=(256, 128), batch_size=None, p=4, k=2, sample_method="random")
    images, _, _ = next(loader.epoch(0))
    assert loader.num_frames == 3732 * 62 + 4566 * 61 == 509_910 and loader.store.cache == "none"
    assert images.shape[:2] == (8, 4) and len(reads) <= 4 * 8 * 4
    assert time.process_time() - began < 20


# EvalLoader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", loaders.TEST_FRAMES)
@pytest.mark.parametrize("max_frames", [1, 5, 100])
def test_a_test_reads_the_clips_in_chunks_within_the_bound(samples, policy, max_frames):
    loader = eval_loader(samples, test_frames=policy, max_frames=max_frames, cache="ram")
    seen = []
    for tracklets, views in loader:
        chunks = list(tracklets.chunks())
        assert all(0 < len(chunk) <= max_frames for chunk in chunks) and len(tracklets) == len(views.camera) <= 3
        seen += [frame for chunk in chunks for frame in which(chunk)]
        assert sum(tracklets.lengths) == sum(map(len, chunks)) and sum(tracklets.clips) == len(tracklets.lengths)
        mirrored = torch.cat(list(tracklets.flip(3).chunks()))
        assert torch.equal(mirrored.flip(3), torch.cat(chunks)) and not torch.equal(mirrored, torch.cat(chunks))
        assert torch.equal(torch.cat(list(tracklets.flip(3).flip(3).chunks())), torch.cat(chunks))
    assert seen == [
        (i, int(t)) for i, count in enumerate(COUNTS) for clip in loaders.clips_of(count, 4, policy) for t in clip
    ]
    assert len(loader) == 3 and loader.num_images == 8


# Tracklet ---------------------------------------------------------------------------------------------------------


class Toy(models.Model):
    """An image model with every field, small enough to follow: features are linear in the mean colour."""

    renames = ()

    def __init__(self):
        super().__init__()
        self.base = nn.Conv2d(3, 6, 1)
        self.bn = nn.BatchNorm1d(6)
        self.classifier = nn.Linear(6, 4)
        self.register_buffer("steps", torch.zeros(()))
        self.num_pids, self.embedding_dim, self.feat_dims, self.batches = 4, 6, (6,), []

    def forward(self, images, views=None):
        self.batches.append((len(images), views))
        self.steps += 1
        feature = self.base(images).mean(dim=(2, 3))  # (n, 6)
        neck = self.bn(feature)
        parts = torch.stack((feature, neck), dim=1)  # (n, 2, 6)
        return models.Output(neck, (self.classifier(neck),) if self.training else (), (feature,), parts)


def toy(pooling="avg") -> video.Tracklet:
    torch.manual_seed(0)
    model = video.Tracklet(Toy(), pooling)
    if pooling == "attention":
        nn.init.normal_(model.attention.weight, std=2.0)
    return model


def slow_pool(model, frames, how):
    """Fields of one tracklet's Output from its frames' (t, ...): in plain steps."""
    out = model.image_model(frames)
    if how == "attention":
        scores = [float((f * model.attention.weight[0]).sum() + model.attention.bias) for f in out.embedding]
        total = sum(np.exp(s - max(scores)) for s in scores)
        w = [float(np.exp(s - max(scores)) / total) for s in scores]
    else:
        w = [1 / len(frames)] * len(frames)

    def mean(x):
        return sum(a * v for a, v in zip(w, x, strict=True))

    pool = (lambda x: x.max(dim=0).values) if how == "max" else mean
    return pool(out.embedding), pool(out.feats[0]), pool(out.parts)


@pytest.mark.parametrize("how", ["avg", "max", "attention"])
@pytest.mark.parametrize("policy", loaders.TEST_FRAMES)
def test_a_test_pools_what_a_loop_over_tracklets_pools(samples, how, policy):
    model = toy(how).eval()
    expected = []
    with torch.no_grad():
        for i, count in enumerate(COUNTS):
            every = torch.cat(list(eval_loader(samples[i : i + 1], cache="ram").__iter__().__next__()[0].chunks()))
            clips = [slow_pool(model, every[clip], how) for clip in loaders.clips_of(count, 4, policy)]
            expected.append([torch.stack(field).mean(dim=0) for field in zip(*clips, strict=True)])
    for max_frames in (3, 64):
        loader = eval_loader(samples, test_frames=policy, max_frames=max_frames)
        embeddings, parts = evaluate.extract(model, loader)
        torch.testing.assert_close(embeddings, torch.stack([e for e, _, _ in expected]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(parts, torch.stack([p for _, _, p in expected]), atol=1e-5, rtol=1e-5)
    assert max(n for n, _ in model.image_model.batches[-20:]) <= 64


def test_a_long_tracklet_goes_through_in_pieces(samples):
    """2,000 frames: the network never sees more than the bound, and the answer is that of all frames."""
    long = samples[4]._replace(path=samples[4].path * 167)
    model = toy().eval()
    embedding, _ = evaluate.extract(model, eval_loader([long], max_frames=50, cache="none"), flip=True)
    sizes = [n for n, _ in model.image_model.batches]
    assert max(sizes) == 50 and sum(sizes) == 2 * 2004
    expected, _ = evaluate.extract(model, eval_loader([samples[4]]))
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["avg", "max", "attention"])
def test_frames_that_are_not_there_change_nothing(how):
    """Neither the answer nor the statistics of batch norm see what fills up a short tracklet."""
    torch.manual_seed(1)
    images, lengths = torch.randn(3, 5, 3, 4, 2), (5, 2, 3)
    views = Views(torch.tensor([1, 2, 3]), there=torch.arange(5) < torch.tensor(lengths)[:, None])
    for i, length in enumerate(lengths):
        images[i, length:] = 1e6
    model, packed = toy(how).train(), toy(how).train()
    output = model(images, views)
    frames = torch.cat([images[i, :length] for i, length in enumerate(lengths)])
    out = packed.image_model.train()(frames)
    assert torch.equal(model.image_model.bn.running_mean, packed.image_model.bn.running_mean)
    assert model.image_model.batches[0][1].camera.tolist() == [1] * 5 + [2] * 2 + [3] * 3
    for i, rows in enumerate(torch.arange(10).split(lengths)):
        feats, logits = out.feats[0][rows], out.logits[0][rows]
        if how == "max":
            torch.testing.assert_close(output.feats[0][i], feats.amax(dim=0))
        if how != "attention":
            torch.testing.assert_close(output.logits[0][i], logits.mean(dim=0))
            # the classifier of the pooled feature, for pooling avg
            torch.testing.assert_close(
                output.logits[0][i], packed.image_model.classifier(out.embedding[rows].mean(dim=0))
            )
    assert output.embedding.shape == (3, 6) and output.parts.shape == (3, 2, 6)


def test_attention_begins_as_the_average_and_learns():
    torch.manual_seed(0)
    model, average = video.Tracklet(Toy(), "attention"), toy("avg")
    images, views = torch.randn(2, 3, 3, 4, 2), Views(torch.tensor([1, 2]))
    output = model(images, views)
    torch.testing.assert_close(output.embedding, average(images, views).embedding)
    output.embedding.square().sum().backward()
    assert model.attention.weight.grad.abs().sum() > 0
    weights = toy("attention").weights(torch.randn(7, 6), (3, 4))
    torch.testing.assert_close(torch.stack([w.sum() for w in weights.split((3, 4))]), torch.ones(2))


def test_names_are_those_of_the_image_model_and_its_weights_fit():
    image_model = Toy()
    model = video.Tracklet(image_model, "max")
    assert list(model.state_dict()) == list(Toy().state_dict())
    assert [n for n, _ in video.Tracklet(Toy(), "attention").named_parameters()][-2:] == [
        "attention.weight",
        "attention.bias",
    ]
    trained = Toy()
    model.load_state_dict(trained.state_dict())
    images = torch.randn(5, 3, 4, 2)
    back = Toy()
    back.load_state_dict(model.state_dict())
    assert torch.equal(back.eval()(images).embedding, trained.eval()(images).embedding)
    assert torch.equal(model.eval()(images).embedding, trained.eval()(images).embedding)
    assert torch.equal(model(images[:, None]).embedding, trained(images).embedding)


def test_a_state_dict_is_the_image_models_wherever_the_tracklet_model_stands_and_errors_name_its_tensors():
    """Inside another module (DistributedDataParallel) as well, with the attention's own weights, and both ways."""
    model, other = toy("attention"), video.Tracklet(Toy(), "attention")
    assert list(model.state_dict()) == [*Toy().state_dict(), "attention.weight", "attention.bias"]
    wrapped = nn.ModuleDict({"module": other})
    wrapped.load_state_dict({f"module.{name}": value for name, value in model.state_dict().items()})
    assert all(torch.equal(value, model.state_dict()[name[7:]]) for name, value in wrapped.state_dict().items())
    state = model.state_dict()
    with pytest.raises(RuntimeError, match='Unexpected.*"attention.weight", "attention.bias"'):
        toy("avg").load_state_dict(state)
    del state["bn.weight"]
    missing, unexpected = model.load_state_dict({**state, "more": torch.zeros(1)}, strict=False)
    assert (missing, unexpected) == (["bn.weight"], ["more"])


def test_a_tracklet_model_moves_copies_and_changes_mode_as_one():
    model = video.Tracklet(Toy()).double().eval()
    twin = copy.deepcopy(model)
    twin.image_model.classifier.weight.data.zero_()
    assert model.image_model.classifier.weight.any() and not twin.state_dict()["classifier.weight"].any()
    output = model(torch.randn(2, 3, 3, 4, 2, dtype=torch.float64))
    steps = model.image_model.steps
    assert output.logits == () and steps.dtype == torch.float64 and int(steps) == 1
    model.train()
    assert len(model(torch.randn(2, 3, 3, 4, 2, dtype=torch.float64)).logits) == 1


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="temporal pooling"):
        video.Tracklet(Toy(), "median")


def test_every_field_of_real_networks_is_pooled():
    for make in (models.AlignedReID, models.PCB, models.BagOfTricks):
        model = video.Tracklet(make(num_pids=3, backbone="resnet18")).train()
        output = model(torch.randn(2, 2, 3, 96, 32), Views(torch.tensor([0, 1])))
        assert {len(x) for x in (output.embedding, *output.logits, *output.feats)} == {2}
        assert [x.shape[1] for x in output.feats] == list(model.feat_dims)


# the built-in set -------------------------------------------------------------------------------------------------

SIZES = {"num_train_pids": 12, "num_test_pids": 12, "num_cameras": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("video") / "set"
    return sets.VIDEO.make(root, processes=1, progress=False, **SIZES)


@pytest.fixture(scope="module")
def splits(folder):
    return datasets.load_splits("dukevid", folder)


def test_the_built_in_set_is_read_as_planned(splits):
    assert [splits.count(subset)[:2] for subset in ("train", "query", "gallery")] == [(12, 24), (12, 12), (12, 12)]
    every = (*splits.train, *splits.query, *splits.gallery)
    lengths = {len(sample.path) for sample in every}
    assert min(lengths) >= sets.SHORTEST and max(lengths) <= sets.LONGEST and len(lengths) > 3
    for sample in every:
        assert len(sample.path) == sets.tracklet_length(0, sample.pid, sample.camid)
        assert list(sample.path) == sorted(sample.path)


def test_frames_follow_each_other(splits):
    """Neighbouring frames differ, and less than frames of two tracklets of that camera."""

    def pixels(path):
        return np.asarray(Image.open(path), np.float32)

    near, far = [], []
    for camid in (1, 2, 3):
        clips = [[pixels(path) for path in sample.path[:5]] for sample in splits.train if sample.camid == camid][:4]
        near += [np.abs(a - b).mean() for clip in clips for a, b in zip(clip, clip[1:], strict=False)]
        far += [np.abs(a[0] - b[0]).mean() for a, b in zip(clips, clips[1:], strict=False)]
    assert min(near) > 1 and np.median(near) < 0.6 * np.median(far)


def test_the_legs_go_on_and_the_person_stays(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        people,
        "draw_person",
        lambda canvas, person, pose: drawn.append((canvas.pixels.copy(), person, pose)),
    )
    frames, _ = sets.draw_tracklet(0, 5, 2, 10)
    assert len(frames) == 10
    own = [each for each in drawn if each[1] is drawn[0][1]]  # without whoever walks in front
    phases = np.diff([pose.phase for _, _, pose in own])
    assert phases.min() > 0.5 and np.ptp(phases) < 1e-6
    assert np.ptp([pose.yaw for _, _, pose in own]) < 1 and np.ptp([pose.size for _, _, pose in own]) < 20
    assert any((a != b).any() for (a, _, _), (b, _, _) in zip(own, own[1:], strict=False))  # the background passes


def test_the_bytes_do_not_depend_on_the_processes_or_on_other_people(folder, tmp_path):
    sizes = SIZES | {"num_train_pids": 2, "num_test_pids": 1}
    again = sets.VIDEO.make(tmp_path / "set", processes=2, progress=False, **sizes)
    names = sorted(path.relative_to(again) for path in (again / "train").rglob("*.jpg"))
    places = {name.parts[1:3] for name in names}
    assert len(names) == sum(sets.tracklet_length(0, int(pid), int(camid)) for pid, camid in places)
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert sets.VIDEO.ensure(again, progress=False, **sizes) == again
    (again / names[0]).unlink()
    with pytest.raises(RuntimeError, match="not the built-in data set"):
        sets.VIDEO.ensure(again, progress=False, **sizes)


def test_impossible_sizes_are_refused(tmp_path):
    for sizes in ({"num_cameras": 1}, {"num_train_pids": 0}, {"people": 3}):
        with pytest.raises(ValueError, match="synthetic_video takes"):
            sets.VIDEO.make(tmp_path / "set", **sizes)


def test_video_through_the_command_line(folder, tmp_path):
    """Attention trained by one command; another tests its weights on clips, without a flag for the network."""
    words = ["--dukevid_path", str(folder), "--output_path", str(tmp_path)]
    small = "--image_size 64 32 --epochs 1 --steps 2 --p 4 --k 2 --seq_len 2 --num_queries 2 --amp none".split()
    assert main.main(["--mode", "train", "--recipe", "demo", *words, *small, "--temporal_pooling", "attention"]) == 0
    test = ["--mode", "test", "--weights", str(tmp_path / "model.pt"), *words, "--test_batch", "5"]
    assert main.main(test) == 0
    first, again = (
        json.loads((tmp_path / name).read_text())["dukevid"] for name in ("metrics.json", "metrics_model.json")
    )
    assert again["mAP"] == pytest.approx(first["mAP"], abs=1e-6) and again["num_query"] == 12
    assert main.main([*test, "--test_frames", "dense", "--flip_test"]) == 0
    assert (tmp_path / "visualize" / "batch.png").exists()
    assert main.main(["--mode", "train", *words, "--frame_by_frame", "--temporal_pooling", "attention"]) == 1


def test_video_trains_and_tests_end_to_end(splits):
    """The losses, the loop and the evaluator of images; the loss falls, and the network knows whom it was shown.

    (Thirty steps from random weights say nothing reliable about new people: their mAP differs between processors.)
    """
    torch.manual_seed(0)
    data = datasets.combine([splits])
    loader = trees.train_loader(
        data.samples,
        data.labels,
        image_size=(64, 32),
        p=6,
        k=2,
        steps=10,
        seq_len=2,
        pad=4,
        sample_method="random",
        erase=0.0,
        progress=False,
    )
    model = video.Tracklet(models.BagOfTricks(num_pids=data.num_pids, backbone="resnet18"))
    shown = trees.eval_loader(
        splits.train, image_size=(64, 32), batch_size=5, max_frames=32, progress=False, cache="ram"
    )

    def mean_ap():
        features, _ = evaluate.extract(model, shown)
        pids, camids = ([getattr(sample, of) for sample in shown.samples] for of in ("pid", "camid"))
        return evaluate.evaluate_features(features, features, pids, pids, camids, camids, metric="cosine").mAP

    before, criterion = mean_ap(), losses.Criterion(id=(1, losses.IDLoss(0.1)), triplet=(1, losses.TripletLoss(0.3)))
    optimizer, means = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True), []
    for epoch in range(3):
        model.train()
        means.append(
            train.train_one_epoch(
                model, criterion, loader.epoch(epoch), [optimizer], train.Span(epoch, loader.steps(epoch))
            )["loss"]
        )
    assert means[0] > means[1] > means[2] and means[2] < 0.7 * means[0]
    assert mean_ap() > before + 0.15
