"""evaluate.py against slow oracles in plain Python, ties included."""

import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import parity
import pytest
import torch
from torch import nn

import details
import evaluate
import losses
import protocols
import rerank
from machine.memory import Budget

SEEDS = range(40)
PLAIN = [name for name, rule in protocols.PROTOCOLS.items() if not rule.clothes]  # the others: test_datasets_clothes.py


# ---------------------------------------------------------------- oracles


def kept_images(q, qp, gp, qc, gc, protocol, same_item):
    """Gallery indices that query q sees."""
    rules = {
        "market1501": lambda g: not (gp[g] == qp[q] and gc[g] == qc[q]),
        "cuhk03": lambda g: not (gp[g] == qp[q] and gc[g] == qc[q]),
        "sysu": lambda g: not (qc[q] == 3 and gc[g] == 2),
        "llcm": lambda g: not (gp[g] == qp[q] and gc[g] % 10 == qc[q] % 10),
        "none": lambda g: True,
    }
    return [g for g in range(len(gp)) if gp[g] != -1 and rules[protocol](g) and not same_item(q, g)]


def trapezoid(right):
    """Area under precision over recall, down a sorted list of bools, by trapezoids from (recall 0, precision 1) on."""
    area, recall, precision = 0.0, 0.0, 1.0
    for rank in range(1, len(right) + 1):
        found = sum(right[:rank])
        area += (found / sum(right) - recall) * (found / rank + precision) / 2
        recall, precision = found / sum(right), found / rank
    return area


def oracle(d, qp, gp, qc, gc, protocol, max_rank, drawn=None, own=None, same_item=lambda q, g: False, rule="hits"):
    """(per-query AP, INP and list of first ranks, index of valid queries): sorts whole rows, wrong before right."""
    result = []
    for q in range(len(qp)):
        kept = kept_images(q, qp, gp, qc, gc, protocol, same_item)
        order = sorted(kept, key=lambda g: (d[q][g], gp[g] == qp[q]))
        ranks = [r for r, g in enumerate(order, 1) if gp[g] == qp[q]]
        if not ranks:
            continue
        ap = sum(j / r for j, r in enumerate(ranks, 1)) / len(ranks)
        ap = trapezoid([gp[g] == qp[q] for g in order]) if rule == "trapezoid" else ap
        inp = len(ranks) / ranks[-1]
        if protocol in ("sysu", "llcm"):
            first = [first_of_identities(d[q], kept, gp, qp[q])]
        elif protocol == "cuhk03":
            hits = [g for g in order if gp[g] == qp[q]]
            first = []
            for shot, u in zip(drawn, own[:, q], strict=True):
                mine = d[q][hits[int(u * len(hits))]]
                first.append(1 + sum(d[q][g] <= mine for g in shot if gp[g] != qp[q]))
        else:
            first = [ranks[0]]
        result.append((q, ap, inp, first))
    return result


def first_of_identities(row, kept, gp, own):
    """Walk down the sorted list, counting every identity when it is first met."""
    seen = []
    for g in sorted(kept, key=lambda g: (row[g], gp[g] == own)):
        if gp[g] not in seen:
            seen.append(gp[g])
    return seen.index(own) + 1


def problem(seed, queries=9, gallery=40, pids=6, cameras=4, levels=7):
    """Few distance levels, so that ties are everywhere; pid -1 and 0 included, some queries without any match."""
    rng = np.random.default_rng(seed)
    qp, gp = rng.integers(-1, pids, queries), rng.integers(-1, pids - 1, gallery)
    qc, gc = rng.integers(1, cameras + 1, queries), rng.integers(1, cameras + 1, gallery)
    d = rng.integers(0, levels, (queries, gallery)).astype(np.float32)
    return d, qp, gp, qc, gc


def assert_equal_to_oracle(metrics, expected, max_rank):
    assert metrics.num_valid == len(expected)
    np.testing.assert_allclose(metrics.ap, [ap for _, ap, _, _ in expected], rtol=1e-12)
    assert metrics.mAP == pytest.approx(np.mean([ap for _, ap, _, _ in expected]), rel=1e-12)
    assert metrics.mINP == pytest.approx(np.mean([inp for _, _, inp, _ in expected]), rel=1e-12)
    first = np.array([first for _, _, _, first in expected])
    cmc = [(first <= k).mean() for k in range(1, max_rank + 1)]
    assert metrics.cmc.shape == (max_rank,)
    np.testing.assert_allclose(metrics.cmc, cmc, rtol=1e-12)


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize("rule", protocols.AP_RULES)
@pytest.mark.parametrize("protocol", ["market1501", "cuhk03", "sysu", "llcm", "none"])
def test_metrics_equal_the_oracle_ties_included(protocol, rule):
    for seed in SEEDS:
        d, qp, gp, qc, gc = problem(seed, levels=(2, 7, 1000)[seed % 3])
        labels = protocols.Labels(qp, gp, qc, gc, protocol, seed=seed)
        drawn = None if labels.drawn is None else labels.columns[labels.drawn].numpy()
        own = None if labels.own is None else labels.own.numpy()
        expected = oracle(d, qp, gp, qc, gc, protocol, 50, drawn, own, rule=rule)
        metrics = evaluate.rank_metrics(d, qp, gp, qc, gc, max_rank=50, protocol=protocol, seed=seed, ap=rule)
        assert_equal_to_oracle(metrics, expected, 50)


def test_ap_by_trapezoids_is_that_of_the_public_code_and_goes_through_the_streaming_path():
    """Values of layumi/Person_reID_baseline_pytorch 82ff40f, evaluate_gpu.py, compute_mAP, run on these lists."""
    rng = random.Random(14)
    d = [[rng.random() for _ in range(60)] for _ in range(4)]
    gp = [rng.randrange(5) for _ in range(60)]
    metrics = evaluate.rank_metrics(torch.tensor(d), [0, 1, 2, 3], gp, [1] * 4, [2] * 60, ap="trapezoid")
    released = [0.2217570507853839, 0.32257430002770826, 0.23596516480473959, 0.14093809064136095]
    largest = parity.largest(
        __file__, "test_ap_by_trapezoids_is_that_of_the_public_code_and_goes_through_the_streaming_path"
    )
    np.testing.assert_allclose(metrics.ap, released, rtol=largest)
    features = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    given = (features[:4], features[4:], [0, 1, 2, 3], gp, [1] * 4, [2] * 60)
    streamed = evaluate.evaluate_features(*given, ap="trapezoid", memory_gb=0.001)
    distances = evaluate.pairwise_distance(*given[:2])
    torch.testing.assert_close(streamed.ap, evaluate.rank_metrics(distances, *given[2:], ap="trapezoid").ap)
    assert streamed.mAP < evaluate.evaluate_features(*given).mAP
    with pytest.raises(ValueError, match="hits or trapezoid"):
        evaluate.evaluate_features(*given, ap="pascal")


def test_hand_worked_example():
    # query pid 1 camera 1; in order of distance: junk, wrong, hit, wrong, hit
    d = [[0.1, 0.2, 0.3, 0.4, 0.5]]
    metrics = evaluate.rank_metrics(np.array(d), [1], [1, 2, 1, 3, 1], [1], [1, 1, 2, 2, 3], max_rank=3)
    assert metrics.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert metrics.mINP == pytest.approx(2 / 4)
    assert metrics.cmc.tolist() == [0, 1, 1]


def test_ties_put_the_wrong_image_first():
    metrics = evaluate.rank_metrics(torch.zeros(1, 3), [1], [1, 2, 1], [1], [2, 2, 2], max_rank=3)
    assert metrics.ap.tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2])


@pytest.mark.parametrize("protocol", ["market1501", "sysu", "none"])
def test_gallery_order_does_not_matter(protocol):
    for seed in range(10):
        d, qp, gp, qc, gc = problem(seed)
        order = np.random.default_rng(seed).permutation(len(gp))
        one = evaluate.rank_metrics(d, qp, gp, qc, gc, protocol=protocol)
        two = evaluate.rank_metrics(d[:, order], qp, gp[order], qc, gc[order], protocol=protocol)
        assert one.ap.tolist() == two.ap.tolist() and one.cmc.tolist() == two.cmc.tolist()


@pytest.mark.parametrize("convert", [list, np.asarray, torch.as_tensor, lambda x: np.asarray(x, dtype=np.int32)])
def test_label_and_distance_types(convert):
    d, qp, gp, qc, gc = problem(3)
    expected = evaluate.rank_metrics(d, qp, gp, qc, gc)
    labels = [convert(x) for x in (qp, gp, qc, gc)]
    for matrix in (d, torch.from_numpy(d), d.astype(np.float64), torch.from_numpy(d).half(), d.astype(np.int64)):
        assert evaluate.rank_metrics(matrix, *labels).ap.tolist() == expected.ap.tolist()


def test_input_matrix_is_not_changed():
    for protocol in PLAIN:
        d, qp, gp, qc, gc = problem(5)
        before = d.copy()
        evaluate.rank_metrics(d, qp, gp, qc, gc, protocol=protocol)
        assert (d == before).all()


def test_none_removes_only_the_query_image_itself():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        pids, cameras = rng.integers(0, 5, 20), np.ones(20, dtype=int)
        d = rng.integers(0, 6, (20, 20)).astype(np.float32)
        items = [f"{i}.jpg" for i in range(20)]
        chosen = rng.permutation(20)[:12]  # all against all, queries in another order
        metrics = evaluate.rank_metrics(
            d[chosen],
            pids[chosen],
            pids,
            cameras[chosen],
            cameras,
            protocol="none",
            query_items=[items[i] for i in chosen],
            gallery_items=items,
        )
        expected = oracle(
            d[chosen],
            pids[chosen],
            pids,
            cameras[chosen],
            cameras,
            "none",
            50,
            same_item=lambda q, g, chosen=chosen: chosen[q] == g,
        )
        assert_equal_to_oracle(metrics, expected, 50)


def test_cuhk03_draws_are_uniform_over_the_images_a_query_sees():
    """Exact expectation of the single-gallery-shot CMC by enumeration, against the mean over many seeds."""
    d, qp, gp, qc, gc = problem(11, queries=5, gallery=14, pids=4, levels=30)
    expected = np.zeros(5)
    valid = 0
    for q in range(5):
        kept = kept_images(q, qp, gp, qc, gc, "cuhk03", lambda q, g: False)
        hits = [g for g in kept if gp[g] == qp[q]]
        if not hits:
            continue
        valid += 1
        for hit in hits:
            share = np.array([1.0])  # distribution of the number of wrong identities before the hit
            for pid in set(gp) - {qp[q], -1}:
                near = np.mean([d[q][g] <= d[q][hit] for g in range(14) if gp[g] == pid])
                share = np.convolve(share, [1 - near, near])
            expected += np.cumsum(np.pad(share, (0, 5)))[:5] / len(hits)
    mean = np.mean(
        [evaluate.rank_metrics(d, qp, gp, qc, gc, 5, "cuhk03", seed=seed).cmc.numpy() for seed in range(300)], axis=0
    )
    np.testing.assert_allclose(mean, expected / valid, atol=0.02)  # 3,000 draws: standard error < 0.006


def test_count_of_entries_within_levels_both_ways():
    generator = torch.Generator().manual_seed(0)
    for high in (3, 1000):
        block = torch.randint(high, (7, 50), generator=generator).float()
        levels = torch.randint(high, (7, 6), generator=generator).float().sort(1).values
        num = torch.tensor([6, 0, 1, 6, 3, 6, 2])
        expected = (block[:, None] <= levels[:, :, None]).sum(2)
        rows = evaluate._count_row_by_row(block, levels, num)
        assert (evaluate._count_by_sort(block, levels) == expected).all()
        assert all((rows[i, :n] == expected[i, :n]).all() for i, n in enumerate(num.tolist()))


# ---------------------------------------------------------------- distances and features


def test_pairwise_distance_equals_float64():
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(7, 33)), rng.normal(size=(11, 33))
    query[2] = gallery[4]
    difference = np.linalg.norm(query[:, None] - gallery, axis=2)
    cosine = 1 - (query @ gallery.T) / np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(gallery, axis=1))
    for metric, expected in (("euclidean", difference), ("sqeuclidean", difference**2), ("cosine", cosine)):
        found = evaluate.pairwise_distance(query, gallery, metric)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found, expected, atol=1e-6)  # sqrt of a rounding error at distance 0
        single = evaluate.pairwise_distance(query.astype(np.float32), torch.from_numpy(gallery).float(), metric)
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single, expected, atol=5e-3 if metric == "euclidean" else 5e-5)
    same = torch.randn(50, 33, generator=torch.Generator().manual_seed(0))
    assert evaluate.pairwise_distance(same, same, "cosine").min() >= 0
    assert evaluate.pairwise_distance(np.zeros((1, 3)), np.ones((1, 3)), "cosine").item() == 1
    half = evaluate.pairwise_distance(torch.full((1, 4), 300.0).half(), torch.zeros(1, 4).half())
    assert half.item() == 600  # the square, 360,000, is past half precision


def test_distance_ignores_autocast():
    query, gallery = torch.randn(4, 64), torch.randn(5, 64)
    expected = evaluate.pairwise_distance(query, gallery)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(evaluate.pairwise_distance(query, gallery), expected)


def clusters(seed, queries=60, gallery=300, pids=15, width=24, spread=1.0, integers=False):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(pids, width))
    qp, gp = rng.integers(0, pids, queries), rng.integers(0, pids, gallery)
    qc, gc = rng.integers(1, 5, queries), rng.integers(1, 5, gallery)
    query, gallery = (centres[p] + spread * rng.normal(size=(len(p), width)) for p in (qp, gp))
    if integers:  # then every distance is exact, whatever the block size
        query, gallery = np.rint(2 * query), np.rint(2 * gallery)
    return torch.tensor(query).float(), torch.tensor(gallery).float(), qp, gp, qc, gc


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("protocol", PLAIN)
def test_streaming_equals_the_matrix(metric, protocol):
    query, gallery, *labels = clusters(1, integers=True)
    expected = evaluate.rank_metrics(evaluate.pairwise_distance(query, gallery, metric), *labels, protocol=protocol)
    for memory_gb in (None, 1e-9, 3e-5):  # 1e-9: one query at a time
        found = evaluate.evaluate_features(query, gallery, *labels, metric, protocol, memory_gb=memory_gb)
        assert found.ap.tolist() == expected.ap.tolist() and found.cmc.tolist() == expected.cmc.tolist()


def test_single_precision_is_good_enough():
    query, gallery, *labels = clusters(2, queries=200, gallery=2000, width=128)
    for metric in ("euclidean", "cosine"):
        single = evaluate.evaluate_features(query, gallery, *labels, metric)
        double = evaluate.evaluate_features(query.double(), gallery.double(), *labels, metric)
        assert abs(single.mAP - double.mAP) < 1e-5 and (single.cmc - double.cmc).abs().max() < 1e-2
        assert evaluate.evaluate_features(query.numpy(), gallery.numpy(), *labels, metric).mAP == single.mAP


def test_custom_distance_of_several_tensors():
    query, gallery, *labels = clusters(3)
    q, g = (query, query.view(-1, 4, 6)), (gallery, gallery.view(-1, 4, 6))

    def distance(rows, gallery):
        parts = (rows[1][:, None] - gallery[1]).norm(dim=3).sum(2)
        return evaluate.pairwise_distance(rows[0], gallery[0]) + parts

    expected = evaluate.rank_metrics(distance(q, g), *labels)
    found = evaluate.evaluate_features(q, g, *labels, distance=distance, memory_gb=3e-5)
    assert found.mAP == pytest.approx(expected.mAP, abs=1e-6)
    arrays = [tuple(x.numpy() for x in pair) for pair in (q, g)]
    assert evaluate.evaluate_features(*arrays, *labels, distance=distance).mAP == pytest.approx(expected.mAP, abs=1e-6)


def test_re_ranking_gets_normalised_features_under_cosine():
    rerank = pytest.importorskip("rerank")
    query, gallery, *labels = clusters(4)
    options = {"k1": 8, "k2": 3, "lambda_value": 0.3}
    unit = [nn.functional.normalize(x, dim=1) for x in (query, gallery)]
    for metric, features in (("euclidean", (query, gallery)), ("cosine", unit)):
        final = rerank.k_reciprocal(*features, **options)
        expected = evaluate.rank_metrics(final, *labels)
        found = evaluate.evaluate_features(query, gallery, *labels, metric, rerank=options)
        assert found.mAP == pytest.approx(expected.mAP, abs=1e-6)
        custom = evaluate.evaluate_features(*features, *labels, rerank=options, distance=evaluate.pairwise_distance)
        assert custom.mAP == pytest.approx(expected.mAP, abs=1e-5)
    plain = evaluate.evaluate_features(query, gallery, *labels)
    assert abs(found.mAP - plain.mAP) > 1e-3


def test_plan_keeps_to_the_budget():
    plan = evaluate.plan_blocks(3368, 516_000, memory_gb=0.25)
    assert 1 < plan.rows < 3368 and plan.peak <= 0.25 * 2**30
    assert evaluate.plan_blocks(10, 100).rows == 10
    assert evaluate.plan_blocks(10, 10**9, memory_gb=0.1).rows == 1
    assert "3,368" in str(plan) and "GiB" in str(plan)


def test_verbose_prints_the_peak(capsys):
    query, gallery, *labels = clusters(1)
    evaluate.evaluate_features(query, gallery, *labels, verbose=True)
    assert "peak" in capsys.readouterr().out


CHILD = """
import sys
def peak():  # KiB; not ru_maxrss, which the child of a large process inherits
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
import evaluate
torch.set_num_threads(1)
rng = np.random.default_rng(0)
query, gallery = rng.random((1500, 8), dtype=np.float32), rng.random((80_000, 8), dtype=np.float32)
labels = [rng.integers(0, 750, n) for n in (1500, 80_000)] + [rng.integers(1, 7, n) for n in (1500, 80_000)]
evaluate.evaluate_features(query[:8], gallery, labels[0][:8], labels[1], labels[2][:8], labels[3])
before = peak()
evaluate.evaluate_features(query, gallery, *labels, memory_gb=0.05)
print((peak() - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_within_the_budget_measured_in_a_child_process():
    root = str(Path(evaluate.__file__).parent)
    run = subprocess.run([sys.executable, "-c", CHILD, root], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 0.05 * 1024 + 40  # MiB; (Q, G) is 458 MiB


# ---------------------------------------------------------------- errors


def test_no_match_says_which_rule_removed_it():
    with pytest.raises(ValueError, match="none of the 2 queries .* 2 show a pid that is not in the gallery"):
        evaluate.rank_metrics(np.ones((2, 3)), [1, 2], [3, 4, 5], [1, 1], [2, 2, 2])
    with pytest.raises(ValueError, match="2 have their pid .* that protocol market1501 leaves.*--protocol none"):
        evaluate.rank_metrics(np.ones((2, 2)), [1, 2], [1, 2], [1, 1], [1, 1])


def test_queries_without_a_match_are_skipped_and_counted():
    metrics = evaluate.rank_metrics(np.ones((2, 2)), [1, 9], [1, 2], [1, 1], [2, 2])
    assert metrics.num_valid == 1 and metrics.ap.shape == (1,)


def test_bad_features_are_named():
    query, gallery, *labels = clusters(1)
    names = {"query_items": [f"q{i}.jpg" for i in range(60)], "gallery_items": [f"g{i}.jpg" for i in range(300)]}
    for bad in (math.nan, math.inf):
        broken = gallery.clone()
        broken[17, 3] = bad
        with pytest.raises(ValueError, match="g17.jpg"):
            evaluate.evaluate_features(query, broken, *labels, **names)
        with pytest.raises(ValueError, match="gallery image 17"):
            evaluate.evaluate_features(query, broken, *labels)
        broken = query.clone()
        broken[5] = bad
        with pytest.raises(ValueError, match="q5.jpg"):
            evaluate.evaluate_features(broken, gallery, *labels, **names)


@pytest.mark.parametrize("position", [(0, 0), (8, 39)])
def test_nan_distance_is_an_error(position):
    d, *labels = problem(0)
    d[position] = math.nan
    with pytest.raises(ValueError, match=f"query {position[0]} to gallery image {position[1]}"):
        evaluate.rank_metrics(d, *labels)


def test_infinite_distances_are_allowed_and_last():
    d = torch.tensor([[math.inf, 0.0, -math.inf]])
    assert evaluate.rank_metrics(d, [1], [1, 2, 3], [1], [2, 2, 2]).mAP == pytest.approx(1 / 3)
    # a hit at infinity beside the padding of a query with fewer images
    d = torch.full((2, 3), math.inf)
    assert evaluate.rank_metrics(d, [1, 2], [1, 1, 2], [1, 1], [2, 2, 2]).ap.tolist() == pytest.approx([7 / 12, 1 / 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "market"}, "protocol 'market' is unknown"),
        ({"distmat": np.ones((9, 39))}, "labels are for"),
        ({"query_pids": [1, 2]}, "expected one integer of each per image"),
        ({"query_pids": list("abcdefghi")}, "expected one integer"),
        ({"query_pids": [2**63] * 9}, "uint64 .* expected one integer"),
        ({"query_camids": [10**20] * 9}, "object .* expected one integer"),
        ({"gallery_pids": [], "gallery_camids": []}, "integer|no gallery images"),
        ({"max_rank": 0}, "max_rank is 0"),
    ],
)
def test_wrong_arguments(change, message):
    names = ("distmat", "query_pids", "gallery_pids", "query_camids", "gallery_camids")
    with pytest.raises(ValueError, match=message):
        evaluate.rank_metrics(**(dict(zip(names, problem(0), strict=True)) | change))


PAIR, ONE = np.eye(2, dtype=np.float32), ([1, 2], [1, 2], [1, 1], [2, 2])
TAKES = {  # function, with the argument that a number is given as
    "max_rank": lambda **given: evaluate.rank_metrics(PAIR, *ONE, **given),
    "k": lambda **given: evaluate.expand_queries(PAIR, PAIR, **given),
    "alpha": lambda **given: evaluate.expand_queries(PAIR, PAIR, k=1, **given),
    "memory_gb": lambda **given: evaluate.evaluate_features(PAIR, PAIR, *ONE, **given),
    "seed": lambda **given: protocols.Labels(*ONE, **given),
    "level": lambda **given: evaluate.confidence_intervals(
        evaluate.rank_features(PAIR, PAIR, protocols.Labels(*ONE)), **given
    ),
    "top_k": lambda **given: details.RankedLists(protocols.Labels(*ONE), **given),
    "k1": lambda **given: evaluate.evaluate_features(PAIR, PAIR, *ONE, rerank=given),
    "k2": lambda **given: evaluate.evaluate_features(PAIR, PAIR, *ONE, rerank=given),
    "lambda_value": lambda **given: evaluate.evaluate_features(PAIR, PAIR, *ONE, rerank=given),
}


@pytest.mark.parametrize("name", TAKES)
def test_a_number_out_of_its_range_is_named(name):
    for wrong in (-1, 2**70, math.nan, math.inf, True, "1", 1j):
        with pytest.raises(ValueError, match=rf"^{name} is .*, expected a (whole )?number \("):
            TAKES[name](**{name: wrong})
    TAKES[name](**{name: 1})


def test_features_of_two_models():
    query, gallery, *labels = clusters(1)
    with pytest.raises(ValueError, match="24 wide"):
        evaluate.evaluate_features(query, gallery[:, :20], *labels)
    with pytest.raises(ValueError, match="59 query"):
        evaluate.evaluate_features(query[:59], gallery, *labels)
    with pytest.raises(ValueError, match="metric 'manhattan' is unknown"):
        evaluate.evaluate_features(query, gallery, *labels, "manhattan")


# ---------------------------------------------------------------- beside the metrics


@pytest.mark.parametrize("protocol", ["market1501", "sysu"])
def test_verification_counts_are_exact_at_its_thresholds(protocol, monkeypatch):
    monkeypatch.setattr(details, "pairs_needed", lambda rate: 100)
    query, gallery, qp, gp, qc, gc = clusters(5, spread=1.6)
    labels = protocols.Labels(qp, gp, qc, gc, protocol)
    found = details.verification(evaluate.distance_blocks(query, gallery, memory_gb=3e-5), labels, (1e-3, 1e-2, 0.1))
    d = evaluate.pairwise_distance(query, gallery).numpy()
    genuine, impostor = [], []
    for q in range(len(qp)):
        for g in kept_images(q, qp, gp, qc, gc, protocol, lambda q, g: False):
            (genuine if qp[q] == gp[g] else impostor).append(d[q, g])
    genuine, impostor = np.array(genuine), np.array(impostor)
    assert (found.num_genuine, found.num_impostor) == (len(genuine), len(impostor))
    for t, fpr, tpr in list(zip(found.curve_thresholds, found.curve_fpr, found.curve_tpr, strict=True))[::50]:
        assert fpr.item() == pytest.approx((impostor <= t.item()).mean())
        assert tpr.item() == pytest.approx((genuine <= t.item()).mean())
    for level, tpr, t in zip(found.levels, found.tpr, found.thresholds, strict=True):
        assert (impostor <= t.item()).mean() <= level < (impostor <= t.item() * 1.001).mean() + 1e-3
        assert tpr.item() == pytest.approx((genuine <= t.item()).mean())
    rates = (impostor <= found.eer_threshold).mean(), (genuine > found.eer_threshold).mean()
    assert rates == pytest.approx((found.eer, found.eer), abs=2e-3)


def test_verification_of_separable_pairs():
    d, people = 1 - torch.eye(100), list(range(100))
    labels = protocols.Labels(people, people, [1] * 100, [2] * 100)
    found = details.verification([(0, 100, d)], labels)
    assert found.tpr.isnan().tolist() == [True, True, False, False]  # of 9,900 pairs of two people
    assert found.tpr[2:].tolist() == [1, 1] and found.eer == 0 and 0 <= found.eer_threshold < 1
    with pytest.raises(ValueError, match="expected 0 or more"):
        details.verification([(0, 100, d - 1)], labels)
    with pytest.raises(ValueError, match="^a false positive rate is 0.0, expected a number"):
        details.verification([(0, 100, d)], labels, [0.0])


def test_too_few_pairs_or_queries_tell_nothing():
    labels = protocols.Labels(*ONE)
    found = details.verification([(0, 2, torch.tensor(PAIR))], labels)
    assert all(math.isnan(value) for value in (found.eer, found.eer_threshold, *found.tpr, *found.thresholds))
    for queries, told in ((29, False), (30, True)):
        people = list(range(queries))
        features = np.eye(queries, dtype=np.float32)
        ranks = evaluate.rank_features(
            features, features, protocols.Labels(people, people, [1] * queries, [2] * queries)
        )
        assert evaluate.confidence_intervals(ranks)["mAP"] == pytest.approx((1 if told else math.nan,) * 2, nan_ok=True)


def test_confidence_intervals_agree_with_the_normal_approximation():
    query, gallery, *labels = clusters(6, queries=400, spread=1.6)
    ranks = evaluate.rank_features(query, gallery, protocols.Labels(*labels))
    found = evaluate.confidence_intervals(ranks)
    for name, values in (("mAP", ranks.ap.numpy()), ("rank1", (ranks.first[:, 0] == 1).numpy())):
        half = 1.96 * values.std() / np.sqrt(len(values))
        assert found[name] == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
    assert found == evaluate.confidence_intervals(ranks)


def test_camera_pairs_are_evaluations_of_parts_of_the_gallery():
    query, gallery, qp, gp, qc, gc = clusters(7)
    found = details.camera_pairs(
        evaluate.distance_blocks(query, gallery, memory_gb=3e-5), protocols.Labels(qp, gp, qc, gc)
    )
    assert found.query_camids.tolist() == found.gallery_camids.tolist() == [1, 2, 3, 4]
    for a in range(1, 5):
        for b in range(1, 5):
            rows, columns = qc == a, gc == b
            if a == b:
                assert torch.isnan(found.mAP[a - 1, b - 1]) and found.num_valid[a - 1, b - 1] == 0
                continue
            d = evaluate.pairwise_distance(query[rows], gallery[columns])
            expected = evaluate.rank_metrics(d, qp[rows], gp[columns], qc[rows], gc[columns])
            assert found.mAP[a - 1, b - 1].item() == pytest.approx(expected.mAP, abs=1e-6)
            assert found.num_valid[a - 1, b - 1] == expected.num_valid


# ---------------------------------------------------------------- rows that a person is shown


def sorted_row(q, d, labels, protocol, same_item, show_junk):
    """[(image, mark, rank)] of the whole gallery: sorts the row, wrong before removed before right."""
    qp, gp, qc, gc = labels
    kept = set(kept_images(q, qp, gp, qc, gc, protocol, same_item))
    there = [g for g in range(len(gp)) if gp[g] != -1]
    mark = {g: "junk" if g not in kept else "right" if gp[g] == qp[q] else "wrong" for g in there}
    order = sorted(mark, key=lambda g: (d[q][g], ("wrong", "junk", "right").index(mark[g]), g))
    rank, rows = 0, []
    for g in order:
        rank += mark[g] != "junk"
        if show_junk or mark[g] != "junk":
            rows.append((g, mark[g], None if mark[g] == "junk" else rank))
    return rows


@pytest.mark.parametrize("protocol", PLAIN)
@pytest.mark.parametrize("show_junk", [False, True])
def test_rows_equal_the_oracle_and_the_metric(protocol, show_junk):
    for seed in range(12):
        d, *labels = problem(seed)
        items = (list(range(9)), list(range(4, 44)))  # images 4 to 8 are on both sides
        labels[0][4:9] = labels[1][:5]
        same = lambda q, g: q == g + 4  # noqa: E731
        for top_k in (1, 5, 60):
            named = protocols.Labels(*labels, protocol, query_items=items[0], gallery_items=items[1])
            if not (named.num_hits > 0).any():
                continue
            ranks, lists = evaluate.RankCollector(named), details.RankedLists(named, top_k, show_junk)
            distances = torch.tensor(d)
            evaluate.collect([(0, 4, distances[:4]), (4, 9, distances[4:])], [ranks, lists])
            ap = dict(zip(ranks.result().query.tolist(), ranks.result().ap.tolist(), strict=True))
            found = lists.choose("given", num=9)
            assert [row.query for row in found] == list(range(9))
            for row in found:
                expected = sorted_row(row.query, d, labels, protocol, same, show_junk)
                hits = [(g, rank) for g, mark, rank in expected if mark == "right"]
                shown = expected[:top_k]
                if hits and not any(mark == "right" for _, mark, _ in shown):
                    shown.append((hits[0][0], "right", hits[0][1]))
                # which of several wrong images at one distance stands last is open
                assert [x[1:] for x in shown] == list(zip(row.mark, row.rank, strict=True))
                assert [d[row.query][g] for g, _, _ in shown] == list(row.distance)
                assert [d[row.query][g] for g in row.index] == list(row.distance)
                assert len(set(row.index)) == len(row.index)
                assert row.num_hits == len(hits) and row.first_hit == (hits[0][1] if hits else None)
                assert row.ap == ap[row.query] if hits else math.isnan(row.ap) and row.query not in ap


def test_tied_rows_show_the_metrics_number():
    d, labels = torch.tensor([[1.0, 2, 2, 3]]), ([1], [1, 2, 1, 1], [1], [2, 2, 2, 2])
    lists = details.RankedLists(protocols.Labels(*labels))
    evaluate.collect([(0, 1, d)], [lists])
    (row,) = lists.choose()
    assert row.ap == evaluate.rank_metrics(d, *labels).mAP == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert row.index == (0, 1, 2, 3) and row.mark == ("right", "wrong", "right", "right")


def results(query, gallery, labels, protocol, rerank):
    """Everything that is computed from features: metrics, rows with their gallery images, search, details."""
    known = protocols.Labels(*labels, protocol)
    collectors = [details.RankedLists(known, 5, show_junk=True), details.VerificationCounts(known),
                  details.CameraPairCollector(known)]  # fmt: skip
    ranks = evaluate.rank_features(query, gallery, known, evaluate.Comparison("cosine", rerank=rerank), collectors)
    grid = rerank and rerank_grid(rerank)
    return {
        "metrics": evaluate.evaluate_features(query, gallery, *labels, "cosine", protocol, rerank=rerank),
        "ranks": ranks,
        "matrix": evaluate.rank_metrics(evaluate.pairwise_distance(query, gallery), *labels, protocol=protocol),
        "rows": collectors[0].choose("given", num=len(query)),
        "verification": collectors[1].result(),
        "cameras": collectors[2].result(),
        "search": grid and evaluate.search(query, gallery, known, grid),
    }


def rerank_grid(options):
    return rerank.Grid((options["k1"],), (options["k2"],), (options["lambda_value"],))


@pytest.mark.parametrize("options", [None, {"k1": 8, "k2": 3, "lambda_value": 0.3}])
@pytest.mark.parametrize("protocol", PLAIN)
def test_junk_is_as_if_it_had_not_been_given(protocol, options):
    query, gallery, *labels = clusters(12, integers=True)
    junk = np.random.default_rng(0).random(len(gallery)) < 0.3
    without = results(
        query, gallery[~junk], (labels[0], labels[1][~junk], labels[2], labels[3][~junk]), protocol, options
    )
    marked = [labels[0], np.where(junk, -1, labels[1]), *labels[2:]]
    found = results(query, gallery, marked, protocol, options)
    assert 0 < junk.sum() and found["metrics"].num_valid == without["metrics"].num_valid > 0
    rows = (~junk).nonzero()[0].tolist()  # of the whole gallery
    without["rows"] = [row._replace(index=tuple(rows[column] for column in row.index)) for row in without["rows"]]
    assert repr(found) == repr(without)


def test_a_query_of_junk_has_no_match_and_is_counted_as_skipped():
    metrics = evaluate.rank_metrics(np.ones((2, 3)), [-1, 4], [-1, 4, 5], [1, 1], [2, 2, 2])
    assert metrics.num_valid == 1 and metrics.mAP == pytest.approx(1 / 2)  # pid 5 is tied; the junk image is not there
    with pytest.raises(ValueError, match=r"none of the 1 queries .* \(2 images, 1 of pid -1 left out\)"):
        evaluate.rank_metrics(np.ones((1, 3)), [-1], [-1, 4, 5], [1], [2, 2, 2])
    with pytest.raises(ValueError, match="all 2 gallery images have pid -1"):
        evaluate.rank_metrics(np.ones((1, 2)), [-1], [-1, -1], [1], [2, 2])


def test_which_queries_are_chosen():
    d = torch.tensor([[1.0, 2, 3], [3, 1, 2], [2, 1, 3], [1, 2, 3]])
    labels = protocols.Labels([1, 1, 1, 9], [1, 2, 2], [1] * 4, [2] * 3)
    lists = details.RankedLists(labels, top_k=2)
    evaluate.collect([(0, 4, d)], [lists])
    queries = lambda *options, **more: [row.query for row in lists.choose(*options, **more)]  # noqa: E731
    assert queries() == [1, 2, 0] and queries("best") == [0, 2, 1] and queries("best", num=1) == [0]
    assert queries("given") == [0, 1, 2, 3] and sorted(queries("random")) == [0, 1, 2, 3]
    assert queries("random", seed=3) == queries("random", seed=3)
    assert queries(only="right") == [0] and queries("given", "wrong") == [1, 2]
    nobody = protocols.Labels([9], [1, 2, 2], [1], [2] * 3)
    none = details.RankedLists(nobody)
    evaluate.collect([(0, 1, d[:1])], [none])
    assert none.choose() == none.choose(only="wrong") == []
    assert lists.choose("worst")[0].index == (1, 2, 0) and lists.choose("worst")[0].rank == (1, 2, 3)
    for options, words in ((("first",), "worst, best"), (("worst", "some"), "--only")):
        with pytest.raises(ValueError, match=words):
            lists.choose(*options)


def test_rows_without_labels():
    labels = protocols.Labels([0], [0] * 4, [0], [0] * 4, "none", query_items=["q"], gallery_items=list("abqc"))
    lists = details.RankedLists(labels, top_k=3, labelled=False)
    evaluate.collect([(0, 1, torch.tensor([[3.0, 1, 0, 2]]))], [lists])
    (row,) = lists.choose()
    assert row.index == (1, 3, 0) and row.mark == (None,) * 3 and row.rank == (1, 2, 3) and row.first_hit is None
    with pytest.raises(ValueError, match="no labels"):
        lists.choose(only="right")


# ---------------------------------------------------------------- memory, of each thing that grows with Q or G


def peak_bytes(work):
    """Most bytes that torch's allocator held at a time in `work`, from the events of the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(live.max())


Q, G, D = 400, 4000, 32
MATRIX = 4 * Q * G  # 6.1 MiB
BUDGET = MATRIX // 8
LABELS = 64 * (Q + G)  # a few vectors of integers


@pytest.fixture(scope="module")
def many():
    query, gallery, *labels = clusters(11, queries=Q, gallery=G, pids=300, width=D)
    return query, gallery, protocols.Labels(*labels)


def blocks_of(many):
    return evaluate.distance_blocks(*many[:2], memory_gb=BUDGET / 2**30)


FED = {
    "ranks": evaluate.RankCollector,
    "rows": lambda labels: details.RankedLists(labels, show_junk=True),
    "verification": details.VerificationCounts,
    "camera pairs": details.CameraPairCollector,
}


def measured_parts(query, gallery, memory_gb):
    x, y = query.view(Q, 4, -1), gallery.view(G, 4, -1)
    for _ in evaluate.distance_blocks(x, y, distance=losses.aligned_distance, memory_gb=memory_gb):
        pass


def pooled(query, gallery, memory_gb):
    there = np.arange(G), np.ones(G, int)
    evaluate.pool_queries(there[0][:Q], there[1][:Q], gallery, *there, memory_gb=memory_gb)


def expanded(query, gallery, memory_gb):
    evaluate.expand_queries(query, gallery, 50, memory_gb=memory_gb)


def searched(query, gallery, memory_gb):
    labels = protocols.Labels(np.arange(Q) % 9, np.arange(G) % 9, [1] * Q, [2] * G)
    how = evaluate.Comparison(budget=Budget(memory_gb))
    evaluate.search(query, gallery, labels, rerank.Grid((5,), (2,), (0.3,)), how)


@pytest.mark.parametrize("name", FED)
@pytest.mark.parametrize("protocol", ["market1501", "sysu"])
def test_what_is_fed_keeps_to_the_budget(many, name, protocol):
    labels = protocols.Labels(
        many[2].query_pids, many[2].gallery_pids, many[2].query_camids, many[2].gallery_camids, protocol
    )
    collector = FED[name](labels)
    fixed = LABELS + 4 * 8 * details._NUM_BINS * (name == "verification")  # its histograms
    peak = peak_bytes(lambda: evaluate.collect(blocks_of(many), [collector], BUDGET / 2**30))
    assert collector.found and peak < BUDGET + fixed


@pytest.mark.parametrize("step", [measured_parts, pooled, expanded, searched])
def test_what_makes_features_or_distances_keeps_to_the_budget(many, step):
    width = 8 * D if step is pooled else D
    query, gallery = (x.repeat(1, width // D) for x in many[:2])
    copies = LABELS + 4 * (Q + G) * D * 2  # what re-ranking and aligned_distance make of the features, and the result
    if step is searched:
        copies += 600 * (Q + G)  # neighbour lists and sets of every image
    peak = peak_bytes(lambda: step(query, gallery, BUDGET / 2**30))
    free = peak_bytes(lambda: step(query, gallery, None))
    assert peak < BUDGET + copies and free > 2 * peak


def test_query_expansion():
    query, gallery, *_ = clusters(8)
    unit_q, unit_g = (nn.functional.normalize(x, dim=1).double() for x in (query, gallery))
    for k, alpha in ((1, 0.0), (4, 3.0), (300, 0.5)):  # the last has negative cosines
        found = evaluate.expand_queries(query, gallery, k, alpha, memory_gb=3e-5)
        for q, row in enumerate(found.double()):
            similarity = unit_g @ unit_q[q]
            total = unit_q[q].clone()
            for g in sorted(range(len(gallery)), key=lambda g: -similarity[g].item())[:k]:  # noqa: B023
                total += max(similarity[g].item(), 0) ** alpha * unit_g[g]
            torch.testing.assert_close(row, total / total.norm(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="k is 301"):
        evaluate.expand_queries(query, gallery, 301)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_multi_query_pooling(how):
    rng = np.random.default_rng(0)
    features, pids, camids = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 3, 40), rng.integers(1, 3, 40)
    found = evaluate.pool_queries([2, 0, 2], [1, 2, 1], features, pids, camids, how)
    for row, pid, camid in zip(found, (2, 0, 2), (1, 2, 1), strict=True):
        own = features[(pids == pid) & (camids == camid)]
        np.testing.assert_allclose(row, own.mean(0) if how == "mean" else own.max(0), rtol=1e-5)
    unit = nn.functional.normalize(torch.from_numpy(features), dim=1)
    expected = evaluate.pool_queries([2, 0, 2], [1, 2, 1], unit, pids, camids, how)
    scaled = features * rng.uniform(0.1, 10, (40, 1)).astype(np.float32)
    cosine = evaluate.pool_queries([2, 0, 2], [1, 2, 1], scaled, pids, camids, how, metric="cosine")
    torch.testing.assert_close(cosine, expected)  # the length of a feature counts for nothing
    with pytest.raises(ValueError, match="pid 7 camid 1"):
        evaluate.pool_queries([7], [1], features, pids, camids, how)


# ---------------------------------------------------------------- extraction


class Output(NamedTuple):
    embedding: torch.Tensor
    logits: tuple = ()
    feats: tuple = ()
    parts: torch.Tensor | None = None


class Net(nn.Module):
    def __init__(self, parts=True):
        super().__init__()
        self.bn, self.drop, self.with_parts = nn.BatchNorm2d(3), nn.Dropout(), parts

    def forward(self, images, camids=None):
        x = self.drop(self.bn(images))
        embedding = (x * torch.arange(x.shape[3])).flatten(2).sum(2) + camids[:, None]
        return Output(embedding, parts=x.mean(3).transpose(1, 2) if self.with_parts else None)


def batches(count=11, size=4):
    images = torch.randn(count, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    camids = torch.arange(count) % 3
    return images, camids, [(images[a : a + size], camids[a : a + size]) for a in range(0, count, size)]


def test_extract_in_order_with_the_models_modes_kept():
    images, camids, loader = batches()
    model = Net().train()
    model.drop.eval()  # frozen on purpose
    embeddings, parts = evaluate.extract(model, loader)
    assert model.training and model.bn.training and not model.drop.training
    model.eval()
    with torch.no_grad():
        expected = model(images, camids)
    torch.testing.assert_close(embeddings, expected.embedding)
    torch.testing.assert_close(parts, expected.parts)
    assert embeddings.dtype == torch.float32 and not embeddings.is_inference()
    assert evaluate.extract(Net(parts=False), loader)[1] is None


def test_flip_is_the_mean_with_the_mirror_image():
    images, camids, loader = batches()
    model = Net().eval()
    embeddings, parts = evaluate.extract(model, loader, flip=True)
    with torch.no_grad():
        one, two = model(images, camids), model(images.flip(3), camids)
    torch.testing.assert_close(embeddings, (one.embedding + two.embedding) / 2)
    torch.testing.assert_close(parts, (one.parts + two.parts) / 2)


def test_half_precision_output_becomes_float32():
    _, _, loader = batches()

    class Half(Net):
        def forward(self, images, views=None):
            output = super().forward(images, views)
            return output._replace(embedding=output.embedding.bfloat16())

    low, full = evaluate.extract(Half(), loader)[0], evaluate.extract(Net(), loader)[0]
    assert low.dtype == torch.float32 and torch.equal(low, full.bfloat16().float())


def test_features_too_large_for_the_memory_go_to_a_file(capsys):
    _, _, loader = batches()
    expected = evaluate.extract(Net(), loader)
    embeddings, parts = evaluate.extract(Net(), loader, memory_gb=1e-9)
    assert torch.equal(embeddings, expected[0]) and torch.equal(parts, expected[1])
    assert "in a file" in capsys.readouterr().err


class Announced:
    def __init__(self, loader, count):
        self.loader, self.num_images = loader, count

    def __iter__(self):
        return iter(self.loader)


def test_loader_must_keep_its_word():
    _, _, loader = batches()
    for count in (10, 12):
        with pytest.raises(RuntimeError, match=f"announced {count} images"):
            evaluate.extract(Net(), Announced(loader, count))
    with pytest.raises(ValueError, match="num_images"):
        evaluate.extract(Net(), iter(loader))


# ---------------------------------------------------------------- several processes


def _sharded(rank, world, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}/init", rank=rank, world_size=world)
    query, gallery, *labels = clusters(9, queries=61)
    group = torch.distributed.group.WORLD
    start, stop = evaluate.shard(len(gallery), group)
    gathered = evaluate.gather_rows(gallery[start:stop], len(gallery), group)
    assert torch.equal(gathered, gallery)
    found = {p: evaluate.evaluate_features(query, gathered, *labels, protocol=p, group=group) for p in PLAIN}
    torch.save({p: m._asdict() for p, m in found.items()}, f"{path}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(os.name == "nt", reason="gloo over a file")
def test_two_processes_give_the_numbers_of_one(tmp_path):
    torch.multiprocessing.spawn(_sharded, (2, str(tmp_path)), nprocs=2)
    query, gallery, *labels = clusters(9, queries=61)
    for rank in range(2):
        for protocol, found in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            expected = evaluate.evaluate_features(query, gallery, *labels, protocol=protocol)
            assert found["num_valid"] == expected.num_valid
            torch.testing.assert_close(found["ap"], expected.ap)
            torch.testing.assert_close(found["cmc"], expected.cmc)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_numbers_of_the_cpu():
    query, gallery, *labels = clusters(10, integers=True)
    for protocol in PLAIN:
        cpu = evaluate.evaluate_features(query, gallery, *labels, protocol=protocol)
        gpu = evaluate.evaluate_features(query.cuda(), gallery.cuda(), *labels, protocol=protocol)
        assert cpu.ap.tolist() == gpu.ap.tolist() and cpu.cmc.tolist() == gpu.cmc.tolist()


# -- CUHK03's draws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_query", [True, False])
def test_draws_have_the_means_of_the_public_code(per_query):
    """KaiyangZhou/deep-person-reid, run on these distances and labels with 20,000 draws: eval_cuhk03 of its first
    release (eval_metrics.py at af328ff, whose AP is of the drawn galleries) and of today's (metrics/rank.py at
    f8cd150, whose AP is of the whole one)."""
    distances = torch.from_numpy(np.random.RandomState(0).rand(6, 24).round(3))
    labels = protocols.Labels(
        np.arange(6) // 2,
        np.arange(24) // 4,
        [0, 1, 0, 1, 0, 2],
        [0, 1, 1, 2] * 6,
        "cuhk03",
    ).with_draws(4_000, per_query)
    ranks = evaluate.rank_blocks([(0, 6, distances)], labels)
    found = evaluate.summarize(ranks, 5)
    assert found.cmc.tolist() == pytest.approx([0.1895, 0.4586, 0.6815, 0.8240, 0.8960], abs=0.012)
    assert float((1 / ranks.first.double()).mean()) == pytest.approx(0.4651, abs=0.008)
    largest = parity.largest(__file__, "test_draws_have_the_means_of_the_public_code")
    assert found.mAP == pytest.approx(0.226901485, abs=largest)


def test_draws_per_query_are_independent_and_the_same_in_any_blocks():
    rng = np.random.RandomState(1)
    distances = torch.from_numpy(rng.rand(8, 60))
    sides = np.zeros(8, int), np.arange(60) // 6, np.zeros(8, int), np.ones(60, int)
    labels = protocols.Labels(*sides, "cuhk03").with_draws(per_query=True)
    drawn = [labels.drawn_for(query).tolist() for query in range(8)]
    assert all(len(rows) == 10 for rows in drawn) and len({str(rows) for rows in drawn}) == 8
    assert {tuple(labels.gallery_pids[images].tolist()) for images in drawn[3]} == {tuple(range(10))}
    whole = evaluate.rank_blocks([(0, 8, distances)], labels)
    parts = evaluate.rank_blocks([(0, 3, distances[:3]), (3, 8, distances[3:])], labels)
    assert torch.equal(whole.first, parts.first)
    shared = protocols.Labels(*sides, "cuhk03")
    assert torch.equal(shared.drawn_for(0), shared.drawn_for(5))
    another = protocols.Labels(*sides, "cuhk03", seed=1).with_draws(per_query=True)
    assert another.drawn_for(0).tolist() != drawn[0]
