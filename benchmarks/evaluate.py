"""Speed and memory of the evaluator; run from the repository root:

    python benchmarks/evaluate.py                     every table, about four minutes on two cores
    python benchmarks/evaluate.py matrix features     some tables: matrix, ways, features, rows, large, scaling
    python benchmarks/evaluate.py matrix --cython DIR also torchreid's compiled evaluator (rank_cy), built in DIR

Labels have the sizes of Market-1501; features are synthetic clusters with an mAP of about 0.8. Times are the best of
three. What memory is measured of runs in a child process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import startup  # noqa: F401

# isort: split
import numpy as np
import torch

import details
import evaluate
import options
import protocols
from machine.device import describe

MARKET = (3368, 15_913, 750)  # queries, gallery images, identities


def best(function, repeat: int = 3) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def row(name: str, seconds: float, note: str = "") -> None:
    print(f"  {name:<58}{seconds:>9.3f} s  {note}")


def labels_like_market(num_query: int, num_gallery: int, num_pids: int, seed: int = 0):
    """(query_pids, gallery_pids, query_camids, gallery_camids); 18 % of the gallery are distractors of pid 0."""
    rng = np.random.default_rng(seed)
    query_pids = rng.integers(1, num_pids + 1, num_query)
    gallery_pids = rng.integers(1, num_pids + 1, num_gallery)
    gallery_pids[: max(num_gallery * 18 // 100, num_gallery - 13_115 * num_query // 3368)] = 0
    return query_pids, gallery_pids, rng.integers(1, 7, num_query), rng.integers(1, 7, num_gallery)


def clustered(query_pids, gallery_pids, width: int, seed: int = 0, latent: int = 32, spread: float = 0.7):
    """Features (Q, D), (G, D): a latent centre per identity (per image for distractors), noise, and a random map."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(int(max(query_pids.max(), gallery_pids.max())) + 1, latent, generator=generator)
    project = torch.randn(latent, width, generator=generator) / latent**0.5

    def draw(pids):
        pids = torch.as_tensor(pids)
        features = torch.empty(len(pids), width)
        for a in range(0, len(pids), 16_384):
            part = pids[a : a + 16_384]
            z = torch.randn(len(part), latent, generator=generator)
            z = torch.where(part[:, None] > 0, centres[part] + spread * z, (1 + spread**2) ** 0.5 * z)
            features[a : a + 16_384] = z @ project
        return features

    return draw(query_pids), draw(gallery_pids)


# ---------------------------------------------------------------- the published algorithm, as yardstick and oracle


def published(distmat, query_pids, gallery_pids, query_camids, gallery_camids, max_rank=50):
    """mAP, CMC and number of valid queries the way everybody does it: argsort of the whole matrix, a loop over queries
    (protocol of Zheng et al., ICCV 2015; the steps of torchreid metrics/rank.py at f8cd150, with numpy sums)."""
    indices = np.argsort(distmat, axis=1)  # (Q, G) int64
    matches = gallery_pids[indices] == query_pids[:, None]
    cmc, aps = np.zeros(max_rank), []
    for q in range(len(distmat)):
        removed = matches[q] & (gallery_camids[indices[q]] == query_camids[q])
        hits = matches[q][~removed]
        if hits.any():
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            aps.append(precision[hits].mean())
            cmc += np.cumsum(hits)[:max_rank] > 0
    return np.mean(aps), cmc / len(aps), len(aps)


def table_matrix(cython: str | None) -> None:
    print("\nMetrics from a given distance matrix, 3,368 x 15,913, float32")
    labels = labels_like_market(*MARKET)
    distmat = evaluate.pairwise_distance(*clustered(*labels[:2], 512)).numpy()
    found = evaluate.rank_metrics(distmat, *labels)
    ours = best(lambda: evaluate.rank_metrics(distmat, *labels))
    row("rank_metrics", ours, f"mAP {found.mAP:.6f} rank-1 {found.cmc[0]:.6f}, {found.num_valid} queries")
    noise = np.random.default_rng(0).random(distmat.shape, dtype=np.float32)
    seconds = best(lambda: evaluate.rank_metrics(noise, *labels))
    row("rank_metrics, distances without any order (the worst case)", seconds)
    seconds = best(lambda: np.sort(distmat, axis=1))
    row("np.sort of the matrix, for scale", seconds, f"{seconds / ours:.1f} x ours")
    start = time.perf_counter()
    mAP, cmc, _ = published(distmat, *labels)
    seconds = time.perf_counter() - start
    row(
        "published algorithm in numpy",
        seconds,
        f"{seconds / ours:.0f} x ours; differs by {abs(mAP - found.mAP):.1e} mAP, "
        f"{np.abs(cmc - found.cmc.numpy()).max():.1e} CMC",
    )
    if cython:
        sys.path.insert(0, cython)
        from rank_cy import evaluate_cy  # torchreid/metrics/rank_cylib

        start = time.perf_counter()
        cmc, mAP = evaluate_cy(distmat, *labels, 50)
        seconds = time.perf_counter() - start
        row(
            "torchreid, compiled",
            seconds,
            f"{seconds / ours:.0f} x ours; differs by {abs(mAP - found.mAP):.1e} mAP, "
            f"{np.abs(np.asarray(cmc) - found.cmc.numpy()).max():.1e} CMC",
        )


# ---------------------------------------------------------------- ways to count


def table_ways() -> None:
    """Why `_count_row_by_row`: the same counts six ways, for a good model and for distances without any order."""
    labels = labels_like_market(*MARKET)
    for name, distmat in (
        ("a good model", evaluate.pairwise_distance(*clustered(*labels[:2], 512))),
        ("distances without any order", torch.rand(MARKET[:2], generator=torch.Generator().manual_seed(0))),
    ):
        print(f"\nWays to count what is nearer than each match, 3,368 x 15,913: {name}")
        every = protocols.Labels(*labels)
        match = [(distmat[a : a + 256], evaluate._match(distmat[a : a + 256], a, every)) for a in range(0, 3368, 256)]
        rows = [(block, m.hits, m.num_hits) for block, m in match]
        expected = torch.cat([_checked(evaluate._count_row_by_row(*x), x[2]) for x in rows])
        for way in (evaluate._count_row_by_row, sort_rows, count_per_match, torch_sort, torch_compare, torch_bucketize):
            found = torch.cat([_checked(way(*x), x[2]) for x in rows])
            assert torch.equal(found, expected), way.__name__
            seconds = best(lambda: [way(*x) for x in rows], 2)  # noqa: B023
            row(way.__name__.strip("_"), seconds)


def _checked(counts, num):
    return torch.cat([counts[i, :n] for i, n in enumerate(num.tolist())])


def sort_rows(block, levels, num):
    """np.sort of every row, whole."""
    rows = np.sort(block.numpy(), axis=1)
    counts = [r.searchsorted(x, side="right") for r, x in zip(rows, levels.numpy(), strict=True)]
    return torch.from_numpy(np.stack(counts))


def count_per_match(block, levels, num):
    """One comparison of the row per match."""
    counts = np.zeros(levels.shape, dtype=np.int64)
    rows, levels = block.numpy(), levels.numpy()
    for i, n in enumerate(num.tolist()):
        counts[i, :n] = [np.count_nonzero(rows[i] <= x) for x in levels[i, :n]]
    return torch.from_numpy(counts)


def torch_sort(block, levels, num):
    """What an accelerator does."""
    return evaluate._count_by_sort(block, levels)


def torch_compare(block, levels, num):
    """One comparison of the block per column of matches."""
    return torch.stack([(block <= level[:, None]).sum(1) for level in levels.unbind(1)], dim=1)


def torch_bucketize(block, levels, num):
    """Each distance into the interval between two matches, then a histogram."""
    width = levels.shape[1] + 1
    interval = torch.searchsorted(levels, block) + width * torch.arange(len(block))[:, None]
    return torch.bincount(interval.flatten(), minlength=width * len(block)).view(-1, width).cumsum(1)[:, :-1]


# ---------------------------------------------------------------- from features


def table_features() -> None:
    print("\nFrom features, 3,368 x 15,913, float32; yardstick: the matrix product alone, in one piece")
    labels = labels_like_market(*MARKET)
    for width in (512, 2048):
        query, gallery = clustered(*labels[:2], width)
        product = protocols.INF
        names = ("euclidean", "cosine")
        taken = dict.fromkeys(names, protocols.INF)
        for _ in range(4):  # in turns, so that another program on the machine slows down both sides of the ratio
            product = min(product, best(lambda: query @ gallery.T, 1))  # noqa: B023
            for metric in names:
                run = lambda: evaluate.evaluate_features(query, gallery, *labels, metric)  # noqa: B023, E731
                taken[metric] = min(taken[metric], best(run, 1))
        row(f"{width}-d: matrix product", product)
        for metric, seconds in taken.items():
            mAP = evaluate.evaluate_features(query, gallery, *labels, metric).mAP
            row(
                f"{width}-d: evaluate_features, {metric}",
                seconds,
                f"{seconds / product:.2f} x the product, + {seconds - product:.2f} s; mAP {mAP:.4f}",
            )
    blocks = lambda: evaluate.distance_blocks(query, gallery)  # noqa: E731
    every = protocols.Labels(*labels)
    row("2048-d: verification (ROC, EER), product included", best(lambda: details.verification(blocks(), every), 1))
    row("2048-d: camera pairs, product included", best(lambda: details.camera_pairs(blocks(), every), 1))
    ranks = evaluate.rank_features(query, gallery, every)
    row("confidence intervals, 2,000 samples", best(lambda: evaluate.confidence_intervals(ranks), 1))


def table_rows() -> None:
    print("\nBlock size: evaluate_features on 3,368 x 15,913")
    labels = labels_like_market(*MARKET)
    usual = evaluate.MAX_ROWS
    for width in (512, 2048):
        query, gallery = clustered(*labels[:2], width)
        for rows in (32, 64, 128, 256, 512, 1024):
            evaluate.MAX_ROWS = rows
            seconds = best(lambda q=query, g=gallery: evaluate.evaluate_features(q, g, *labels, memory_gb=4))
            row(f"{width}-d, {rows} queries", seconds)
    evaluate.MAX_ROWS = usual


# ---------------------------------------------------------------- memory, in child processes


def table_large() -> None:
    print("\nMarket-1501 + 500k distractors: 3,368 x 516,000, 512-d (features 0.99 GiB), in a child process")
    sizes = {"num_query": 3368, "num_gallery": 516_000, "num_pids": 750, "width": 512}
    with tempfile.TemporaryDirectory() as folder:
        mapped = str(Path(folder) / "gallery.npy")
        child(**sizes, gallery_file=mapped)  # writes the file
        for way, file in (("in memory", None), ("memory-mapped", mapped)):
            out = child(**sizes, gallery_file=file)
            row(
                f"features {way}",
                out["seconds"],
                f"{out['seconds'] / out['product']:.2f} x the product by blocks ({out['product']:.1f} s); peak "
                f"{out['peak']:.2f} GiB, {out['above']:.2f} above program and features; mAP {out['mAP']:.4f}",
            )


def table_scaling() -> None:
    print("\nScaling: N gallery images and N / 5 queries, 512-d, each in a child process")
    print(f"  {'N':>8}{'queries':>9}{'seconds':>10}{'x product':>11}{'peak GiB':>10}{'features':>10}{'above both':>12}")
    for n in (5_000, 10_000, 20_000, 40_000, 80_000):
        out = child(num_query=n // 5, num_gallery=n, num_pids=n // 20, width=512, gallery_file=None)
        print(
            f"  {n:>8,}{n // 5:>9,}{out['seconds']:>10.2f}{out['seconds'] / out['product']:>11.2f}"
            f"{out['peak']:>10.2f}{1.2 * n * 512 * 4 / evaluate.GIB:>10.2f}{out['above']:>12.2f}"
        )


def child(**job) -> dict:
    job["threads"] = torch.get_num_threads()
    run = subprocess.run([sys.executable, __file__, "--child", json.dumps(job)], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout)


def run_child(num_query, num_gallery, num_pids, width, gallery_file, threads) -> dict:
    """Evaluate and measure; with a `gallery_file` that is not there yet, write it instead."""
    import resource  # not on Windows

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux -> GiB

    torch.set_num_threads(threads)
    labels = labels_like_market(num_query, num_gallery, num_pids)
    mapped = gallery_file is not None and Path(gallery_file).exists()
    query, gallery = clustered(labels[0], labels[1][:1] if mapped else labels[1], width)
    if mapped:
        gallery = np.load(gallery_file, mmap_mode="r")
    elif gallery_file is not None:
        np.save(gallery_file, gallery.numpy())
        return {}
    evaluate.evaluate_features(query[:4], query[:4], [1] * 4, [1] * 4, [1] * 4, [2] * 4)  # load the program itself
    before = peak()
    start = time.perf_counter()
    metrics = evaluate.evaluate_features(query, gallery, *labels)
    out = {"seconds": time.perf_counter() - start, "peak": peak(), "above": peak() - before, "mAP": metrics.mAP}
    gallery = torch.as_tensor(gallery)
    start = time.perf_counter()
    for part in query.split(256):
        part @ gallery.T
    return out | {"product": time.perf_counter() - start}


TABLES = {
    "matrix": table_matrix,
    "ways": table_ways,
    "features": table_features,
    "rows": table_rows,
    "large": table_large,
    "scaling": table_scaling,
}


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tables", nargs="*", type=options.one_of(TABLES), metavar="TABLE", help="of " + ", ".join(TABLES)
    )
    parser.add_argument("--threads", type=options.COUNT, default=2)
    parser.add_argument(
        "--cython", type=options.folder, metavar="DIR", help="folder with a built rank_cy, for table `matrix`"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(run_child(**json.loads(args.child))))
        return
    torch.set_num_threads(args.threads)
    print(
        f"{describe(torch.device('cpu'))}, {args.threads} threads; torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}"
    )
    for name in args.tables or TABLES:
        TABLES[name](args.cython) if name == "matrix" else TABLES[name]()


if __name__ == "__main__":
    main()
