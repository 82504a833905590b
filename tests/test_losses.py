"""Losses against slow plain-Python float64 oracles, and at their degenerate inputs."""

import inspect
import itertools
import math
import random
import typing
from collections import namedtuple

import parity
import pytest
import torch
import torch.nn.functional as F

import criteria
import losses
from functions import distances

Output = namedtuple("Output", "embedding logits feats parts")


def output_of(*feats, logits=(), parts=None, embedding=None):
    return Output(feats[0] if embedding is None else embedding, tuple(logits), tuple(feats), parts)


def randn(*shape, seed=0, scale=1.0, grad=False, dtype=torch.float64):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return values.to(dtype).requires_grad_(grad)


def labels_of(p, k):
    return torch.arange(p).repeat_interleave(k)


def gradient(loss, tensor):
    return torch.autograd.grad(loss, tensor, retain_graph=True)[0]


def numeric_gradient(function, tensor, step=1e-6):
    """Central differences of a scalar function at a float64 tensor."""
    result = torch.zeros_like(tensor)
    flat, out = tensor.detach().clone().flatten(), result.flatten()
    for i in range(len(flat)):
        value = float(flat[i])
        flat[i] = value + step
        above = float(function(flat.view_as(tensor)))
        flat[i] = value - step
        below = float(function(flat.view_as(tensor)))
        flat[i] = value
        out[i] = (above - below) / (2 * step)
    return out.view_as(tensor)


# ---------------------------------------------------------------------------------------------------------------------
# Oracles: plain Python on lists of floats
# ---------------------------------------------------------------------------------------------------------------------


def dist(a, b):
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def unit(a):
    norm = math.sqrt(sum(v * v for v in a))
    return [v / max(norm, 1e-12) for v in a]


def slow_triplet(feats, labels, margin, hard_factor=0.0, normalize=False):
    rows, labels = feats.tolist(), labels.tolist()
    rows = [unit(row) for row in rows] if normalize else rows
    total = 0.0
    for a in range(len(rows)):
        ap, an = 0.0, math.inf
        for b in range(len(rows)):
            d = dist(rows[a], rows[b])
            if labels[a] == labels[b]:
                ap = max(ap, d)
            else:
                an = min(an, d)
        gap = (1 + hard_factor) * ap - (1 - hard_factor) * an
        total += math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin)
    return total / len(rows)


def slow_cross_entropy(logits, labels, smoothing=0.0):
    total, n = 0.0, logits.shape[1]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(v) for v in row))
        for j, v in enumerate(row):
            q = (1 - smoothing) * (j == label) + smoothing / n
            total -= q * (v - log_sum)
    return total / len(labels)


def all_paths(rows, columns):
    """Every way from (0, 0) to (rows-1, columns-1) by steps down or right, as lists of cells."""
    for downs in itertools.combinations(range(rows + columns - 2), rows - 1):
        i = j = 0
        cells = [(0, 0)]
        for step in range(rows + columns - 2):
            i, j = (i + 1, j) if step in downs else (i, j + 1)
            cells.append((i, j))
        yield cells


def slow_aligned(x, y, normalize=False):
    x = [unit(row) if normalize else row for row in x.tolist()]
    y = [unit(row) if normalize else row for row in y.tolist()]

    def element(i, j):
        e = math.exp(dist(x[i], y[j]))
        return (e - 1) / (e + 1)

    return min(sum(element(i, j) for i, j in path) for path in all_paths(len(x), len(y)))


def cosines(embedding, weight):
    rows = [unit(row) for row in embedding.tolist()]
    columns = [unit(row) for row in weight.tolist()]
    return [[sum(p * q for p, q in zip(row, column, strict=True)) for column in columns] for row in rows]


# ---------------------------------------------------------------------------------------------------------------------
# ID loss
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_id_loss_is_smoothed_cross_entropy_with_the_true_class_smoothed_too(smoothing, reduction):
    logits = [randn(6, 5, seed=s, scale=3) for s in range(3)]
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    slow = [slow_cross_entropy(part, labels, smoothing) for part in logits]
    expected = sum(slow) if reduction == "sum" else sum(slow) / 3
    loss = losses.IDLoss(smoothing, reduction)(output_of(randn(6, 2), logits=logits), labels)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_fast_reid_smoothing_is_ours_with_the_epsilon_that_the_docstring_says():
    logits, labels, n, eps = randn(4, 5, scale=2), torch.tensor([0, 1, 4, 4]), 5, 0.1
    target = torch.full((4, n), eps / (n - 1), dtype=torch.float64).scatter(1, labels[:, None], 1 - eps)
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    loss = losses.IDLoss(eps * n / (n - 1))(output_of(randn(4, 2), logits=[logits]), labels)
    torch.testing.assert_close(loss, expected)


def test_id_loss_of_half_logits_is_computed_in_float32():
    logits = randn(8, 700, scale=4, dtype=torch.float16)
    loss = losses.IDLoss(0.1)(output_of(randn(8, 2), logits=[logits]), torch.arange(8))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_cross_entropy(logits.double(), torch.arange(8), 0.1), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Triplet loss
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.3, 1.4, None])
@pytest.mark.parametrize("hard_factor", [0.0, 0.2])
@pytest.mark.parametrize("normalize", [False, True])
def test_triplet_loss_against_loops_over_explicit_triplets(margin, hard_factor, normalize):
    feats, labels = randn(11, 4, seed=1), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3])
    loss = losses.TripletLoss(margin, hard_factor, normalize)(output_of(feats), labels)
    assert loss.item() == pytest.approx(slow_triplet(feats, labels, margin, hard_factor, normalize), rel=1e-10)


@pytest.mark.parametrize("margin", [0.3, None])
def test_triplet_gradient_is_that_of_the_oracle(margin):
    feats, labels = randn(7, 3, seed=2, grad=True), torch.tensor([0, 0, 1, 1, 1, 2, 2])
    loss = losses.TripletLoss(margin, hard_factor=0.1)(output_of(feats), labels)
    expected = numeric_gradient(lambda x: slow_triplet(x, labels, margin, 0.1), feats)
    torch.testing.assert_close(gradient(loss, feats), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_feats_of_equal_and_of_different_width_are_reduced_alike(reduction):
    feats, labels = [randn(8, width, seed=width + i) for i, width in enumerate((4, 4, 6, 4, 3))], labels_of(4, 2)
    slow = [slow_triplet(feat, labels, 0.3) for feat in feats]
    expected = sum(slow) if reduction == "sum" else sum(slow) / len(slow)
    loss = losses.TripletLoss(0.3, reduction=reduction)(output_of(*feats), labels)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_anchor_without_positive_has_itself_at_distance_zero():
    feats, labels = randn(5, 3, seed=3), torch.tensor([0, 1, 2, 3, 3])
    loss = losses.TripletLoss(0.3)(output_of(feats), labels)
    assert loss.item() == pytest.approx(slow_triplet(feats, labels, 0.3), rel=1e-10)
    lonely = torch.arange(5)  # nobody has a positive: max(0, 0.3 - an)
    assert float(losses.TripletLoss(9.0)(output_of(feats), lonely)) == pytest.approx(slow_triplet(feats, lonely, 9.0))


@pytest.mark.parametrize(
    "loss", [losses.TripletLoss(), losses.WeightedRegularizedTriplet(), losses.CircleLoss(), losses.AlignedTriplet()]
)
def test_batch_of_one_identity_is_a_clear_error(loss):
    feats = randn(4, 3)
    with pytest.raises(ValueError, match="4 images of one identity .label 7."):
        loss(output_of(feats, parts=randn(4, 2, 3)), torch.tensor([7, 7, 7, 7]))


@pytest.mark.parametrize("margin, level", [(0.3, 0.3), (None, math.log(2))])
@pytest.mark.parametrize("value", [0.0, 1.0, 300.0])
def test_equal_features_sit_at_the_margin_with_zero_gradient(margin, level, value):
    feats = torch.full((8, 16), value, requires_grad=True)
    loss = losses.TripletLoss(margin, hard_factor=0.2)(output_of(feats), labels_of(4, 2))
    assert loss.item() == pytest.approx(level, rel=1e-6)
    assert torch.equal(gradient(loss, feats), torch.zeros_like(feats))


def test_duplicates_have_finite_gradients():
    feats = randn(4, 8, dtype=torch.float32).repeat_interleave(2, 0).requires_grad_()
    for normalize in (False, True):
        loss = losses.TripletLoss(None, normalize=normalize)(output_of(feats), torch.tensor([0, 0, 1, 1, 0, 0, 1, 2]))
        assert gradient(loss, feats).isfinite().all()


def test_tiny_spread_far_from_the_origin_is_not_lost_to_rounding():
    spread = randn(8, 64, seed=4, scale=1e-3, dtype=torch.float32)
    feats = spread + 50  # ||x||^2 + ||y||^2 - 2 x.y in float32 would be off by 0.03 here
    loss = losses.TripletLoss(0.3)(output_of(feats), labels_of(4, 2))
    assert loss.item() == pytest.approx(slow_triplet(feats, labels_of(4, 2), 0.3), abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_features_are_computed_in_float32(dtype):
    half = randn(8, 256, seed=5, scale=20, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.TripletLoss(0.3)(output_of(half), labels_of(4, 2))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_triplet(half.double(), labels_of(4, 2), 0.3), rel=1e-5)
    assert gradient(loss, half).isfinite().all()


def test_collapse_is_told_from_a_loss_that_passes_the_margin():
    labels = labels_of(8, 4)
    collapsed = output_of(randn(32, 16, scale=1e-4, dtype=torch.float32))
    for loss, level in ((losses.TripletLoss(0.3), 0.3), (losses.TripletLoss(None), math.log(2))):
        near, far = {}, {}
        mean = float(loss(collapsed, labels, near))
        assert mean == pytest.approx(level, rel=0.01)
        assert "collapsed" in loss.collapsed(mean, near) and "learning rate" in loss.collapsed(mean, near)
        loss(output_of(randn(32, 16, scale=5, dtype=torch.float32)), labels, far)
        assert loss.collapsed(level, far) is None  # the value alone, with features far apart
        assert loss.collapsed(0.9 * level, near) is None and loss.collapsed(1.6 * level, near) is None
        assert loss.collapsed(1.1 * level, near) is not None  # a real run rests at 0.33, 0.32 for 0.3
        assert loss.collapsed(math.nan, near) is None and loss.collapsed(math.inf, near) is None
        assert loss.collapsed(level, {}) is not None
    total, notes = losses.TripletLoss(0.3, reduction="sum"), {}
    total(output_of(*[randn(32, 8, seed=s, scale=1e-4) for s in range(5)]), labels, notes)
    assert "0.3" in total.collapsed(1.5, notes) and total.collapsed(0.3, notes) is None


def test_collapse_with_the_harder_example_factor_sits_above_the_margin():
    feats, labels, notes = randn(32, 16, scale=5e-4, dtype=torch.float32), labels_of(8, 4), {}
    loss = losses.TripletLoss(0.3, hard_factor=0.5)
    mean = float(loss(output_of(feats), labels, notes))
    assert mean > 0.3 * 1.01 and loss.collapsed(mean, notes) is not None


def test_no_loss_remembers_a_batch():
    """After a batch every loss is what it was before it, but for the running means of the dynamic balance."""
    first, second, parts = (randn(8, *shape, dtype=torch.float32) for shape in ((4,), (4,), (6, 4)))
    labels, output = labels_of(4, 2), output_of(first, second, logits=[second, first], parts=parts)
    balance = losses.DynamicBalance(losses.IDLoss(), losses.TripletLoss())
    some = criteria.Some(losses.TripletLoss(), slice(0, 1))
    criterion = losses.Criterion(
        balance=(1, balance), first=(1, some), plain=(1, losses.TripletLoss()), local=(1, losses.AlignedTriplet()),
        kl=(1, losses.MutualKL()), distance=(1, losses.MutualDistance()), focal=(1, losses.FocalLoss()),
        weighted=(1, losses.WeightedRegularizedTriplet()), circle=(1, losses.CircleLoss()), ring=(1, losses.RingLoss()),
        center=(1, losses.CenterLoss(4, 8)), arc=(1, losses.ArcFace(4, 4)),
    )  # fmt: skip

    def remembered():
        kept = ("_parameters", "_buffers", "_modules")
        plain = {(n, k): repr(v) for n, m in criterion.named_modules() for k, v in vars(m).items() if k not in kept}
        return plain, {n: v.clone() for n, v in criterion.state_dict().items() if not n.endswith("balance.means")}

    before = remembered()
    terms = criterion(output, labels)
    after = remembered()
    assert before[0] == after[0] and all(torch.equal(v, after[1][n]) for n, v in before[1].items())
    assert terms.notes.keys() == {"balance", "first", "plain"} and balance.means.any()
    assert terms.notes["first"]["num_feats"] == 1 and terms.notes["plain"]["num_feats"] == 2


# ---------------------------------------------------------------------------------------------------------------------
# Center loss
# ---------------------------------------------------------------------------------------------------------------------


def test_center_loss_and_the_gradient_of_the_centers_by_hand():
    loss = losses.CenterLoss(3, 4).double()
    feats, labels = randn(5, 4, seed=6), torch.tensor([0, 0, 2, 0, 2])
    x, centers = feats.tolist(), loss.centers.tolist()
    expected = sum(dist(x[i], centers[labels[i]]) ** 2 for i in range(5)) / 5
    value = loss(output_of(feats), labels)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    by_hand = torch.zeros(3, 4, dtype=torch.float64)
    for i in range(5):
        by_hand[labels[i]] += 2 * (loss.centers[labels[i]].detach() - feats[i]) / 5
    torch.testing.assert_close(gradient(value, loss.centers), by_hand)
    assert torch.equal(by_hand[1], torch.zeros(4, dtype=torch.float64))  # identity 1 is not in the batch


def test_center_step_is_the_one_that_the_docstring_says():
    loss, labels = losses.CenterLoss(16, 2).double(), labels_of(16, 4)
    feats = randn(64, 2, seed=7)
    before, mean = loss.centers.detach().clone(), feats.view(16, 4, 2).mean(1)
    loss(output_of(feats), labels).backward()
    with torch.no_grad():
        loss.centers -= loss.sgd_lr * loss.centers.grad
    torch.testing.assert_close(loss.centers.detach() - before, (mean - before) / 16)


def test_center_loss_reads_concatenated_feats_and_names_a_wrong_width():
    loss = losses.CenterLoss(4, 5, sgd_lr=0.1)
    assert loss.sgd_lr == 0.1
    loss(output_of(randn(4, 2), randn(4, 3)), torch.arange(4))
    with pytest.raises(ValueError, match="width 5.* 2 . 4; pass dim=6"):
        loss(output_of(randn(4, 2), randn(4, 4)), torch.arange(4))


# ---------------------------------------------------------------------------------------------------------------------
# Margin softmax, circle, ring, focal, weighted-regularised
# ---------------------------------------------------------------------------------------------------------------------


def test_arcface_against_angles():
    loss = losses.ArcFace(3, 4, scale=30, margin=0.5).double()
    weight = loss.weight.detach()
    embedding = torch.cat((randn(6, 3, seed=8), -2 * weight[1:2], 3 * weight[2:3]))  # theta = pi and theta = 0 too
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 1, 2])
    logits = []
    for row, label in zip(cosines(embedding, weight), labels.tolist(), strict=True):
        theta = math.acos(max(-1.0, min(1.0, row[label])))
        past_pi = theta + 0.5 > math.pi
        true = math.cos(theta) - 0.5 * math.sin(math.pi - 0.5) if past_pi else math.cos(theta + 0.5)
        logits.append([30 * (true if j == label else c) for j, c in enumerate(row)])
    expected = slow_cross_entropy(torch.tensor(logits, dtype=torch.float64), labels)
    assert loss(output_of(embedding), labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("head", [losses.ArcFace, losses.CosFace, losses.CircleSoftmax])
def test_margin_heads_have_finite_gradients_at_angles_zero_and_pi_and_at_zero(head):
    loss = head(8, 4)
    embedding = torch.cat((loss.weight.detach()[:2], -loss.weight.detach()[2:3], torch.zeros(1, 8))).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(output_of(embedding), torch.arange(4))
    assert value.dtype == torch.float32
    assert gradient(value, embedding).isfinite().all() and gradient(value, loss.weight).isfinite().all()


@pytest.mark.parametrize("cosine", [1.0, -1.0, math.cos(math.pi - 0.5)])
def test_arc_margin_has_a_finite_gradient_where_sine_has_none(cosine):
    cosine = torch.tensor(cosine, requires_grad=True)
    assert gradient(losses.arc_margin(cosine, 0.5), cosine).isfinite()


def test_cosface_and_circle_softmax_against_loops():
    embedding, labels = randn(6, 3, seed=9), torch.tensor([0, 1, 2, 3, 0, 1])
    cosface, circle = losses.CosFace(3, 4).double(), losses.CircleSoftmax(3, 4).double()
    logits = [
        [64 * (c - 0.35 * (j == label)) for j, c in enumerate(row)]
        for row, label in zip(cosines(embedding, cosface.weight.detach()), labels.tolist(), strict=True)
    ]
    expected = slow_cross_entropy(torch.tensor(logits, dtype=torch.float64), labels)
    assert cosface(output_of(embedding), labels).item() == pytest.approx(expected, rel=1e-9)
    logits = [
        [
            64 * (max(0, 1.35 - c) * (c - 0.65) if j == label else max(0, c + 0.35) * (c - 0.35))
            for j, c in enumerate(row)
        ]
        for row, label in zip(cosines(embedding, circle.weight.detach()), labels.tolist(), strict=True)
    ]
    expected = slow_cross_entropy(torch.tensor(logits, dtype=torch.float64), labels)
    assert circle(output_of(embedding), labels).item() == pytest.approx(expected, rel=1e-9)


def test_margin_head_names_a_wrong_width():
    with pytest.raises(ValueError, match="pass dim=6"):
        losses.ArcFace(5, 4)(output_of(randn(2, 6)), torch.arange(2))


def test_circle_loss_against_loops():
    feats, labels, m, gamma = randn(7, 3, seed=10), torch.tensor([0, 0, 0, 1, 1, 2, 3]), 0.25, 16.0
    s = cosines(feats, feats)
    total = 0.0
    for a in range(7):
        positive = negative = 0.0
        for b in range(7):
            if labels[a] != labels[b]:
                negative += math.exp(gamma * max(0, s[a][b] + m) * (s[a][b] - m))
            elif a != b:
                positive += math.exp(-gamma * max(0, 1 + m - s[a][b]) * (s[a][b] - 1 + m))
        total += math.log1p(positive * negative)
    loss = losses.CircleLoss(m, gamma)(output_of(feats), labels)
    assert loss.item() == pytest.approx(total / 7, rel=1e-9)


def test_weights_of_the_circle_losses_are_constants_for_the_gradient():
    feats, labels, m, gamma = randn(5, 3, seed=10, grad=True), torch.tensor([0, 0, 1, 1, 2]), 0.25, 16.0
    s = cosines(feats, feats)  # the weights are fixed at these

    def oracle(x):
        now, total = cosines(x, x), 0.0
        for a in range(5):
            others = [b for b in range(5) if labels[a] != labels[b]]
            same = [b for b in range(5) if labels[a] == labels[b] and a != b]
            negative = sum(math.exp(gamma * max(0, s[a][b] + m) * (now[a][b] - m)) for b in others)
            positive = sum(math.exp(-gamma * max(0, 1 + m - s[a][b]) * (now[a][b] - 1 + m)) for b in same)
            total += math.log1p(positive * negative)
        return total / 5

    value = losses.CircleLoss(m, gamma)(output_of(feats), labels)
    torch.testing.assert_close(gradient(value, feats), numeric_gradient(oracle, feats), rtol=1e-5, atol=1e-7)
    cosine = randn(2, 4, seed=11).tanh().requires_grad_()
    logits = losses.CircleSoftmax(3, 4).with_margin(cosine, torch.tensor([1, 3]))
    true = F.one_hot(torch.tensor([1, 3]), 4).bool()
    expected = torch.where(true, 1.35 - cosine.detach(), cosine.detach() + 0.35).clamp(min=0)
    torch.testing.assert_close(gradient(logits.sum(), cosine), expected)


def test_ring_loss_by_hand():
    loss = losses.RingLoss(radius=2.0).double()
    feats = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    value = loss(output_of(feats), torch.arange(2))
    assert value.item() == pytest.approx(((5 - 2) ** 2 + (1 - 2) ** 2) / 2)
    assert float(gradient(value, loss.radius)) == pytest.approx(-2 * ((5 - 2) + (1 - 2)) / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_against_loops_and_at_certainty(gamma):
    logits, labels = randn(5, 4, seed=11, scale=2), torch.tensor([0, 3, 1, 1, 2])
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = math.exp(row[label]) / sum(math.exp(v) for v in row)
        total -= (1 - p) ** gamma * math.log(p)
    loss = losses.FocalLoss(gamma)
    assert float(loss(output_of(randn(5, 2), logits=[logits]), labels)) == pytest.approx(total / 5, rel=1e-9)
    certain = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    value = loss(output_of(randn(2, 2), logits=[certain]), torch.tensor([0, 0]))  # one surely right, one surely wrong
    assert value.item() == pytest.approx(200, rel=1e-6) and gradient(value, certain).isfinite().all()


@pytest.mark.parametrize("exact", [False, True])
def test_weighted_regularized_triplet_against_loops(exact):
    feats, labels = randn(7, 3, seed=12, grad=True), torch.tensor([0, 0, 0, 1, 1, 2, 2])

    def oracle(x, normalize=False):
        x, total = [unit(row) if normalize else row for row in x.tolist()], 0.0
        for a in range(7):
            positive = [dist(x[a], x[b]) for b in range(7) if labels[a] == labels[b]]
            negative = [dist(x[a], x[b]) for b in range(7) if labels[a] != labels[b]]
            more, top = (0.0, 0.0) if exact else (1e-6, max(positive))
            furthest = sum(d * math.exp(d - top) for d in positive) / (sum(math.exp(d - top) for d in positive) + more)
            nearest = sum(d * math.exp(-d) for d in negative) / (sum(math.exp(-d) for d in negative) + more)
            total += math.log1p(math.exp(furthest - nearest))
        return total / 7

    loss = losses.WeightedRegularizedTriplet(exact=exact)
    value = loss(output_of(feats), labels)
    assert value.item() == pytest.approx(oracle(feats), rel=1e-9)
    torch.testing.assert_close(gradient(value, feats), numeric_gradient(oracle, feats), rtol=1e-5, atol=1e-7)
    normalized = losses.WeightedRegularizedTriplet(normalize=True, exact=exact)(output_of(feats), labels)
    assert normalized.item() == pytest.approx(oracle(feats, normalize=True), rel=1e-9)
    far = torch.eye(4, dtype=torch.float64) * 100  # every negative 141 away: exp(-141) keeps its weight, if exact
    assert float(loss(output_of(far), torch.arange(4))) == pytest.approx(0.0 if exact else math.log(2), abs=1e-30)


@pytest.mark.parametrize(
    ("scale", "value", "gradient_norm"),
    [
        (0.5, 0.6145488199573477, 0.2757322580120984),  # distances of about 3
        (1, 0.7016132416884424, 0.29153280772904316),
        (2, 0.9512440696791955, 0.3742774786227763),
        (3, 14.294463012475777, 1.7830448577946576),  # about 18: the weights of the negatives are all but gone
        (4, 23.0970218794074, 0.714120020478651),
        (8, 46.239013661168485, 0.7071060740939492),  # about 48
    ],
)
def test_weighted_regularized_triplet_is_the_released_one_at_any_distance(scale, value, gradient_norm):
    """Values and gradients of mangye16/ReID-Survey 38f5912, modeling/layer/triplet_loss.py, in float64.

    Its distance of a feature to itself is 1e-6, ours 0; the difference comes from that.
    """
    rows = [[scale * math.sin(i * i * 1.7 + j * j * 0.9 + i * j) for j in range(32)] for i in range(8)]
    feats = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    loss = losses.WeightedRegularizedTriplet()(output_of(feats), labels_of(4, 2))
    largest = parity.largest(__file__, "test_weighted_regularized_triplet_is_the_released_one_at_any_distance")
    assert loss.item() == pytest.approx(value, rel=largest)
    assert gradient(loss, feats).norm().item() == pytest.approx(gradient_norm, rel=largest)


@pytest.mark.parametrize("loss", [losses.WeightedRegularizedTriplet(), losses.CircleLoss(), losses.MutualDistance()])
@pytest.mark.parametrize("feats", [torch.zeros(4, 8), torch.ones(4, 8), torch.full((4, 8), 1e4)])
def test_equal_features_give_finite_gradients(loss, feats):
    feats = feats.clone().requires_grad_()
    value = loss(output_of(feats, feats), labels_of(2, 2))
    assert value.isfinite() and gradient(value, feats).isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# AlignedReID
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s, t", [(1, 1), (1, 4), (3, 1), (3, 4), (5, 5)])
@pytest.mark.parametrize("normalize", [False, True])
def test_aligned_distance_against_enumeration_of_all_paths(s, t, normalize):
    x, y = randn(3, s, 4, seed=13, grad=True), randn(5, t, 4, seed=14)
    expected = torch.tensor([[slow_aligned(a, b, normalize) for b in y] for a in x], dtype=torch.float64)
    dense = losses.aligned_distance(x, y, normalize)
    torch.testing.assert_close(dense.detach(), expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        for memory in (None, 1, 2 * s * 8 * 4):  # one block, one pair at a time, blocks of 4
            torch.testing.assert_close(losses.aligned_distance(x, y, normalize, memory), expected, rtol=1e-9, atol=1e-9)
    matched = losses.aligned_pair_distance(x, y[:3], normalize)
    torch.testing.assert_close(matched.detach(), expected[:, :3].diagonal(), rtol=1e-9, atol=1e-9)


def test_shortest_path_takes_the_detour():
    cost = torch.tensor([[1.0, 9.0, 1.0], [1.0, 9.0, 1.0], [1.0, 1.0, 1.0]], requires_grad=True)
    total = distances.shortest_path(cost)
    assert total.item() == 5
    assert torch.equal(gradient(total, cost), torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 1, 1]]))


def test_aligned_gradient_is_that_of_the_oracle():
    x, y = randn(2, 3, 2, seed=15, grad=True), randn(2, 3, 2, seed=16)
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)

    def oracle(x):
        return sum(float(weights[i, j]) * slow_aligned(x[i], y[j]) for i in range(2) for j in range(2))

    value = (losses.aligned_distance(x, y) * weights).sum()
    torch.testing.assert_close(gradient(value, x), numeric_gradient(oracle, x), rtol=1e-5, atol=1e-7)


def test_blocks_do_not_change_the_result_and_float32_agrees():
    x, y = randn(37, 8, 32, seed=17), randn(1200, 8, 32, seed=18)
    exact = losses.aligned_distance(x, y)
    for memory in (1 << 16, 1 << 20):
        torch.testing.assert_close(losses.aligned_distance(x, y, memory=memory), exact)
    torch.testing.assert_close(losses.aligned_distance(x.float(), y.float()).double(), exact, rtol=1e-5, atol=1e-5)
    half = x.bfloat16(), y.bfloat16()
    exact = losses.aligned_distance(half[0].double(), half[1].double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for grad in (False, True):
            auto = losses.aligned_distance(half[0].requires_grad_(grad), half[1]).detach()
            torch.testing.assert_close(auto, exact.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_threads_of_the_blocked_distance(threads, mode):
    x, before = randn(40, 3, 2, seed=19), torch.get_num_threads()
    expected, copy = distances.aligned_distance_dense(x, x), x.clone()
    torch.set_num_threads(threads)
    try:
        with mode():
            result = losses.aligned_distance(x, x, memory=1 << 12)
        assert torch.get_num_threads() == threads and torch.equal(x, copy)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(result, expected)


def test_same_parts_are_at_distance_zero_and_far_parts_do_not_overflow():
    x = torch.cat((torch.ones(1, 4, 8), torch.full((1, 4, 8), 1e4)))
    same = x[:1].clone().requires_grad_()
    distance = losses.aligned_distance(x, x)
    assert torch.equal(distance, torch.tensor([[0.0, 7.0], [7.0, 0.0]]))
    assert gradient(losses.aligned_distance(same, same).sum(), same).isfinite().all()


def test_empty_and_ill_shaped_parts():
    assert losses.aligned_distance(torch.zeros(0, 4, 8), torch.zeros(3, 4, 8)).shape == (0, 3)
    assert losses.aligned_distance(torch.zeros(3, 4, 8), torch.zeros(0, 4, 8)).shape == (3, 0)
    with pytest.raises(ValueError, match="same D"):
        losses.aligned_distance(torch.zeros(3, 4, 8), torch.zeros(3, 4, 7))


def slow_aligned_triplet(feat, parts, labels, margin, normalize, normalize_parts, mine):
    n, total = len(labels), 0.0
    feat = [unit(row) if normalize else row for row in feat.tolist()]
    local = [[slow_aligned(parts[a], parts[b], normalize_parts) for b in range(n)] for a in range(n)]
    mined = local if mine == "local" else [[dist(a, b) for b in feat] for a in feat]
    for a in range(n):
        positive = max((b for b in range(n) if labels[a] == labels[b]), key=lambda b: mined[a][b])
        negative = min((b for b in range(n) if labels[a] != labels[b]), key=lambda b: mined[a][b])
        total += max(0.0, local[a][positive] - local[a][negative] + margin)
    return total / n


@pytest.mark.parametrize("normalize_parts", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("mine", ["global", "local"])
def test_aligned_triplet_mines_by_the_global_or_the_local_distance(normalize, normalize_parts, mine):
    feat = randn(8, 3, seed=19) * torch.linspace(0.2, 3, 8)[:, None]  # normalising changes who is nearest
    parts, labels = randn(8, 3, 4, seed=20), labels_of(2, 4)
    loss = losses.AlignedTriplet(0.3, normalize, normalize_parts, mine)
    value = loss(output_of(feat, parts=parts), labels)
    expected = slow_aligned_triplet(feat, parts, labels, 0.3, normalize, normalize_parts, mine)
    assert value.item() == pytest.approx(expected)


def test_aligned_triplet_of_two_networks_is_the_sum_of_both():
    first, second, labels = randn(6, 3, seed=21), randn(6, 3, seed=22), labels_of(3, 2)
    parts, other = randn(6, 4, 2, seed=23), randn(6, 4, 2, seed=24)
    loss = losses.AlignedTriplet()
    both = loss(output_of(first, second, parts=torch.cat((parts, other), 1)), labels)
    apart = loss(output_of(first, parts=parts), labels) + loss(output_of(second, parts=other), labels)
    torch.testing.assert_close(both, apart)
    with pytest.raises(ValueError, match="4 parts for 3"):
        loss(output_of(first, first, first, parts=parts), labels)


# ---------------------------------------------------------------------------------------------------------------------
# Mutual learning
# ---------------------------------------------------------------------------------------------------------------------


def slow_kl(own, other):
    """Mean over the batch of KL(softmax(other) || softmax(own)) for lists of rows."""
    total = 0.0
    for a, b in zip(own, other, strict=True):
        p = [math.exp(v) / sum(math.exp(w) for w in a) for v in a]
        q = [math.exp(v) / sum(math.exp(w) for w in b) for v in b]
        total += sum(y * math.log(y / x) for x, y in zip(p, q, strict=True))
    return total / len(own)


def test_mutual_kl_in_both_directions_and_its_gradient():
    a, b = randn(4, 3, seed=25, grad=True), randn(4, 3, seed=26)
    value = losses.MutualKL()(output_of(randn(4, 2), logits=(a, b)), torch.arange(4))
    assert value.item() == pytest.approx(slow_kl(a.tolist(), b.tolist()) + slow_kl(b.tolist(), a.tolist()))
    only_own = numeric_gradient(lambda x: slow_kl(x.tolist(), b.tolist()), a)  # the other direction stops at a
    torch.testing.assert_close(gradient(value, a), only_own, rtol=1e-5, atol=1e-8)


def test_mutual_kl_of_three_networks_with_two_classifiers_each():
    logits = [randn(4, 3, seed=30 + i) for i in range(6)]
    value = losses.MutualKL(members=3)(output_of(randn(4, 2), logits=logits), torch.arange(4))
    expected = 0.0
    for i, j in itertools.permutations(range(3), 2):
        for c in range(2):
            expected += slow_kl(logits[2 * i + c].tolist(), logits[2 * j + c].tolist()) / 2 / 2
    assert value.item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="mutual learning of 4 networks got 6 logits"):
        losses.MutualKL(members=4)(output_of(randn(4, 2), logits=logits), torch.arange(4))


@pytest.mark.parametrize("normalize", [False, True])
def test_mutual_distance_and_its_gradient(normalize):
    a, b = randn(4, 3, seed=27, grad=True), randn(4, 5, seed=28)

    def oracle(x):
        rows = [[unit(v) if normalize else v for v in feats.tolist()] for feats in (x, b)]
        matrices = [[[dist(p, q) for q in feats] for p in feats] for feats in rows]
        return sum((matrices[0][i][j] - matrices[1][i][j]) ** 2 for i in range(4) for j in range(4)) / 16

    value = losses.MutualDistance(normalize=normalize)(output_of(a, b), torch.arange(4))
    assert value.item() == pytest.approx(2 * oracle(a))
    torch.testing.assert_close(gradient(value, a), numeric_gradient(oracle, a), rtol=1e-5, atol=1e-7)


def test_mutual_local_distance_is_that_of_the_released_code():
    """Value and gradient from local_dist of aligned_reid/model/loss.py and the lines 528-537 of train_ml.py
    (AlignedReID 2e2d454), run on these two (4, 3, 5) tensors of sines, the terms of both networks added."""
    close = parity.largest(__file__, "test_mutual_local_distance_is_that_of_the_released_code")
    one, two = ((torch.arange(60).double() * (0.37 + 0.11 * i) + i).sin().view(4, 3, 5) for i in range(2))
    value = losses.MutualLocalDistance()(output_of(randn(4, 2), parts=torch.cat((one.requires_grad_(), two), 1)), None)
    found = gradient(value, one)
    assert value.item() == pytest.approx(0.26698490830157173, rel=close)
    released = torch.tensor([0.0392364198946, 0.0172274478601, -0.0071131784247, -0.0304910693791, -0.0497421371332])
    torch.testing.assert_close(found.flatten()[:5], released.double(), rtol=0, atol=close)
    assert found.abs().sum().item() == pytest.approx(1.8081913447930142, rel=close)


# ---------------------------------------------------------------------------------------------------------------------
# Pyramid's dynamic rule
# ---------------------------------------------------------------------------------------------------------------------


class Recorded(torch.nn.Module):
    """A loss that replays a list of values."""

    def __init__(self, values):
        super().__init__()
        self.values = iter(values)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, output, labels):
        return self.scale * next(self.values)


def slow_decisions(id_values, triplet_values, rule, alpha=0.25, gamma=2.0, sigma=0.16):
    """The rule with its two divisions by zero written out -> list of 'id' or 'both'."""
    k_id = k_triplet = 0.0
    decisions = []
    for step, (l_id, l_triplet) in enumerate(zip(id_values, triplet_values, strict=True)):
        new_id, new_triplet = alpha * l_id + (1 - alpha) * k_id, alpha * l_triplet + (1 - alpha) * k_triplet
        p_id = 0.5 if step == 0 else min(new_id, k_id) / k_id if k_id else 1.0
        p_triplet = 0.5 if step == 0 else min(new_triplet, k_triplet) / k_triplet if k_triplet else 1.0
        fl_id = -((1 - p_id) ** gamma) * math.log(p_id)
        fl_triplet = -((1 - p_triplet) ** gamma) * math.log(p_triplet)
        k_id, k_triplet = new_id, new_triplet
        if fl_id == 0:
            decisions.append("id" if rule == "released" and fl_triplet > 0 else "both")
        else:
            decisions.append("id" if fl_triplet / fl_id < sigma else "both")
    return decisions


def record(steps, seed):
    """Loss values that fall on the whole, with noise: many steps at which a running mean rises."""
    rng = random.Random(seed)
    values = [(6 * 0.97**t * rng.uniform(0.7, 1.3), 2 * 0.98**t * rng.uniform(0.6, 1.4)) for t in range(steps)]
    return [v[0] for v in values], [v[1] for v in values]


def decide(balance, steps, labels=None):
    decisions = []
    for _ in range(steps):
        notes = {}
        terms = balance(None, labels, notes)
        assert list(terms) == ["id", "triplet"]
        decisions.append("id" if notes["id_only"] else "both")
        assert (terms["triplet"].item() == 0) == bool(notes["id_only"])
    return decisions


@pytest.mark.parametrize("rule", losses.BALANCE_RULES)
def test_dynamic_rule_on_a_recorded_sequence(rule):
    id_values, triplet_values = record(200, seed=0)
    expected = slow_decisions(id_values, triplet_values, rule)
    assert min(expected.count("id"), expected.count("both")) > 20  # the sequence does exercise both
    balance = losses.DynamicBalance(Recorded(id_values), Recorded(triplet_values), rule=rule)
    assert decide(balance, 200) == expected


# ID-only steps of `noisy_losses`, one bit each, as the released rule decides them: the lines of PersonReID-Pyramid
# 63ffd64, src/train.py, from `new_k_id =` to the sum of the losses, executed on these values in its numpy.
RELEASED_DECISIONS = bytes.fromhex(
    "01d267ab0f347d692b5bdff88c59c3df301bb7eefa87666fa2d935d30b95e6a77a8c7bedcfbf6af6c8690a7405fb752afe3ddeb6f7a5e3"
    "00b9d315e3d5277446efeb0a87ccc030f3d832e6bf6764f482d98acb58cd8dec561d8b1a7dad4b55656b35673d429ea42dc587972b91ea"
    "47e9384d737c2fcb145701eef9a1f1014fe8fed7456e72bb2198f64106f37e43ff4ff275a73a17e44b059c4b186d8f0217dea093d85a03"
    "5d3ff9a289d9b3ff9c9dfe2ba52747a358d8ade18d30571cbaedbe9b8460e09e77685df926106fdec9abe9b432012bb1fed590573232a8"
    "8a0df785f2d4c7462eceeda33e9c7fff56e46504bd6b18fc2ee7988b72844f194cd577de2fa4638acfb6a5b7f3b95b3ccdcf7accb76c2d"
    "b794b3b106b5d7bbf3e3baf227c2392375cc9471322ec21c3b1e1fd384a729542d9de9bb1879fa42289332fb4eddbef3d83eeda59a2d31"
    "e0335ced37efcd61adcccfdcbffa958cbdb26ed5364d23ff2773bc7dcee2bbccc17bc5f0ef09ac547c606ca5a9"
)


def noisy_losses(steps, seed):
    """Sums of 21 losses as a run has them, falling slowly under the noise of the batches, in float32."""
    rng = random.Random(seed)
    for t in range(steps):
        id_value = 21 * 6 * (0.02 + 0.98 * 0.999**t) * (0.7 + 0.6 * rng.random())
        triplet_value = 21 * 1.4 * (0.05 + 0.95 * 0.9985**t) * (0.6 + 0.8 * rng.random())
        yield torch.tensor([id_value, triplet_value])


def test_dynamic_rule_decides_3000_noisy_steps_as_the_released_code():
    expected = [bool(byte >> bit & 1) for byte in RELEASED_DECISIONS for bit in range(7, -1, -1)]
    found = {}
    for rule in losses.BALANCE_RULES:
        balance = losses.DynamicBalance(losses.IDLoss(), losses.TripletLoss(), rule=rule)
        found[rule] = [bool(balance.update(values)) for values in noisy_losses(3000, seed=14)]
    wrong = sum(ours != theirs for ours, theirs in zip(found["released"], expected, strict=True))
    largest = parity.largest(__file__, "test_dynamic_rule_decides_3000_noisy_steps_as_the_released_code")
    assert wrong <= largest and sum(expected) == 1637
    differ = sum(ours != theirs for ours, theirs in zip(found["paper"], expected, strict=True))
    assert differ == 763  # a quarter, as the row says


def test_performance_measure_by_hand():
    before, after = torch.tensor([4.0, 4.0, 4.0, 0.0, 0.0]), torch.tensor([3.0, 4.0, 5.0, 1.0, 0.0])
    measure = losses.focal_measure(before, after, gamma=2.0)
    torch.testing.assert_close(measure, torch.tensor([-(0.25**2) * math.log(0.75), 0.0, 0.0, 0.0, 0.0]))


def test_an_id_loss_that_rises_means_both_losses_or_by_the_released_rule_itself_alone():
    id_values, triplet_values = [4.0, 4.0, 1.0, 9.0, 9.0], [4.0, 4.0, 4.0, 0.1, 9.0]
    balance = losses.DynamicBalance(Recorded(id_values), Recorded(triplet_values), rule="paper")
    assert decide(balance, 5)[3:] == ["both", "both"]  # step 4: ID rises, triplet falls; step 5: both rise
    balance = losses.DynamicBalance(Recorded(id_values), Recorded(triplet_values), rule="released")
    assert decide(balance, 5)[3:] == ["id", "both"]


def test_dynamic_rule_falling_id_and_resting_triplet_is_id_only():
    id_values, triplet_values = [8.0] * 20 + [4.0], [2.0] * 20 + [9.0]
    balance = losses.DynamicBalance(Recorded(id_values), Recorded(triplet_values))
    assert decide(balance, 21)[-1] == "id"


def test_dynamic_rule_survives_zero_and_nonfinite_losses():
    id_values, triplet_values = [5.0, 4.0, math.nan, 3.0, math.inf, 2.0], [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    balance = losses.DynamicBalance(Recorded(id_values), Recorded(triplet_values))
    for _ in range(6):
        balance(None, None)
        assert balance.means.isfinite().all()
    k = 0.0
    for value in (5.0, 4.0, 3.0, 2.0):  # the two that are not finite are passed over
        k = 0.25 * value + 0.75 * k
    assert float(balance.means[0]) == pytest.approx(k)


def test_dynamic_state_resumes_bit_for_bit():
    id_values, triplet_values = record(60, seed=1)
    whole = losses.DynamicBalance(Recorded(id_values), Recorded(triplet_values))
    expected = decide(whole, 60)
    first = losses.DynamicBalance(Recorded(id_values), Recorded(triplet_values))
    decide(first, 25)
    second = losses.DynamicBalance(Recorded(id_values[25:]), Recorded(triplet_values[25:]))
    second.load_state_dict(first.state_dict())
    assert decide(second, 35) == expected[25:]
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers(), strict=True))


def test_dynamic_gradient_stops_in_id_only_steps_and_eval_changes_nothing():
    balance = losses.DynamicBalance(Recorded([8.0] * 21), Recorded([2.0] * 21))
    balance.means.copy_(torch.tensor([80.0, 1.0]))  # ID falls by far, triplet rises
    notes = {}
    terms = balance(None, None, notes)
    assert notes["id_only"] and terms["triplet"].item() == 0
    sum(terms.values()).backward()
    assert float(balance.triplet_loss.scale.grad) == 0 and float(balance.id_loss.scale.grad) == 8
    before = {key: value.clone() for key, value in balance.state_dict().items()}
    terms = balance.eval()(None, None)
    assert terms["triplet"].item() == 2
    assert all(torch.equal(value, before[key]) for key, value in balance.state_dict().items())


# ---------------------------------------------------------------------------------------------------------------------
# Criterion
# ---------------------------------------------------------------------------------------------------------------------


def test_criterion_weighs_names_and_orders_its_terms():
    feats, logits, labels = randn(8, 4, grad=True), randn(8, 3, seed=1), labels_of(2, 4)
    criterion = losses.Criterion(
        triplet=(2, losses.TripletLoss()), id=(1, losses.IDLoss()), center=(5e-4, losses.CenterLoss(2, 4).double())
    )
    output = output_of(feats, logits=[logits])
    terms = criterion(output, labels)
    assert list(terms) == ["triplet", "id", "center"]
    for name, weight, loss in criterion.terms:
        torch.testing.assert_close(terms[name], weight * loss(output, labels))
    sum(terms.values()).backward()
    assert feats.grad.abs().sum() > 0
    assert [name for name, _ in criterion.named_parameters()] == ["losses.center.centers"]
    assert [loss.sgd_lr for _, _, loss in criterion.terms if getattr(loss, "sgd_lr", None)] == [0.5]


def test_criterion_takes_the_terms_of_dynamic_balance():
    balance = losses.DynamicBalance(losses.IDLoss(reduction="sum"), losses.TripletLoss(1.4, reduction="sum"))
    criterion = losses.Criterion(pyramid=(2, balance), ring=(0.1, losses.RingLoss()))
    feats = [randn(8, 4, seed=s, scale=1e-4, dtype=torch.float32) for s in range(21)]
    output = output_of(*feats, logits=[randn(8, 3, seed=s) for s in range(21)])
    for _ in range(60):
        terms = criterion(output, labels_of(2, 4))
    assert list(terms) == ["id", "triplet", "ring"]
    slow = sum(slow_cross_entropy(part, labels_of(2, 4)) for part in output.logits)
    assert terms["id"].item() == pytest.approx(2 * slow, rel=1e-6)
    advice = criterion.collapsed({name: term.item() for name, term in terms.items()}, terms.notes)
    assert len(advice) == 1 and "1.4" in advice[0]  # seen in the running mean, not in the sum of both terms
    assert terms.id_only is False
    terms.notes["pyramid"]["id_only"] = torch.tensor(True)
    assert terms.id_only is True
    with pytest.raises(ValueError, match="same name"):
        losses.Criterion(pyramid=(1, balance), id=(1, losses.IDLoss()))


def test_criterion_passes_unweighted_means_to_collapsed():
    criterion = losses.Criterion(id=(1, losses.IDLoss()), triplet=(0.5, losses.TripletLoss(0.3)))
    notes = criterion(output_of(torch.zeros(4, 2), logits=[torch.zeros(4, 2)]), labels_of(2, 2)).notes
    assert len(criterion.collapsed({"id": 3.0, "triplet": 0.15}, notes)) == 1
    assert criterion.collapsed({"id": 0.3, "triplet": 0.3}, notes) == []


@pytest.mark.parametrize("weight", [0, 0.0, -1, math.nan, math.inf])
def test_criterion_refuses_a_weight_that_trains_nothing(weight):
    with pytest.raises(ValueError, match="weight of the id loss"):
        losses.Criterion(id=(weight, losses.IDLoss()))
    with pytest.raises(ValueError, match="no loss"):
        losses.Criterion()


@pytest.mark.parametrize(
    "loss, field", [(losses.IDLoss(), "logits"), (losses.TripletLoss(), "feats"), (losses.AlignedTriplet(), "parts")]
)
def test_criterion_names_the_field_that_the_model_lacks(loss, field):
    output = Output(randn(4, 3), (), () if field == "feats" else (randn(4, 3),), None)
    with pytest.raises(ValueError, match=rf"the mine loss \({type(loss).__name__}\) reads output\.{field}"):
        losses.Criterion(mine=(1, loss))(output, labels_of(2, 2))


def test_criterion_names_a_batch_of_another_size():
    with pytest.raises(ValueError, match="4 embeddings came with 3 labels"):
        losses.Criterion(triplet=(1, losses.TripletLoss()))(output_of(randn(4, 3)), torch.arange(3))


CLASSES = [
    value
    for value in vars(losses).values()
    if isinstance(value, type) and issubclass(value, torch.nn.Module) and value is not losses.Criterion
]


@pytest.mark.parametrize("loss", CLASSES, ids=lambda loss: loss.__name__)
def test_every_number_of_a_loss_is_held_to_its_range(loss):
    parameters = inspect.signature(loss).parameters
    needed = {name: 4 for name, each in parameters.items() if each.default is each.empty} | {"margin": 1}
    given = {name: value for name, value in needed.items() if name in parameters}
    hints = typing.get_type_hints(loss.__init__)
    numbers = [name for name in parameters if {int, float} & {hints[name], *typing.get_args(hints[name])}]
    for name in numbers:
        for wrong in (-1, 2**70, math.nan, True, "1"):
            with pytest.raises(ValueError, match=f"^{name} is .*, expected a (whole )?number"):
                loss(**given | {name: wrong})
    assert numbers or loss in (losses.WeightedRegularizedTriplet, losses.OfParts)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: losses.IDLoss(1.0), "label_smoothing is 1.0"),
        (lambda: losses.IDLoss(reduction="none"), "reduction is 'none'"),
        (lambda: losses.AlignedTriplet(mine="both"), "mine is 'both'"),
        (lambda: losses.MutualKL(members=1), "members is 1"),
        (lambda: losses.DynamicBalance(None, None, rule="other"), "rule is 'other'; choose one of released, paper"),
    ],
)
def test_options_out_of_range_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_every_loss_runs_in_one_criterion_in_bfloat16_autocast_and_reaches_its_inputs():
    labels = labels_of(4, 4)
    feats = [randn(16, 8, seed=s, dtype=torch.float32).requires_grad_() for s in range(2)]
    logits = [randn(16, 4, seed=s + 2, dtype=torch.float32).requires_grad_() for s in range(2)]
    parts = randn(16, 6, 8, seed=4, dtype=torch.float32).requires_grad_()
    criterion = losses.Criterion(
        id=(1, losses.IDLoss(0.1)),
        triplet=(1, losses.TripletLoss()),
        center=(5e-4, losses.CenterLoss(4, 16)),
        arc=(1, losses.ArcFace(8, 4)),
        cos=(1, losses.CosFace(8, 4)),
        circle_softmax=(1, losses.CircleSoftmax(8, 4)),
        circle=(1, losses.CircleLoss()),
        ring=(1, losses.RingLoss()),
        focal=(1, losses.FocalLoss()),
        weighted=(1, losses.WeightedRegularizedTriplet()),
        aligned=(1, losses.AlignedTriplet()),
        kl=(1, losses.MutualKL()),
        distance=(1, losses.MutualDistance()),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = criterion(Output(F.normalize(feats[0]), tuple(logits), tuple(feats), parts), labels)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    for tensor in (*feats, *logits, parts, *criterion.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0
