"""Speed and memory of exact k-reciprocal re-ranking, beside the plain published algorithm.

    python benchmarks/rerank.py market     # Market-1501 size, 2048 and 512 dimensions, with the published algorithm
    python benchmarks/rerank.py msmt17     # MSMT17 size, features to metrics, streamed
    python benchmarks/rerank.py search     # 50 (k1, k2) x 4 lambda at Market-1501 size
    python benchmarks/rerank.py scaling    # N = 5k ... 80k
    python benchmarks/rerank.py clusters   # distances of clusters and DBSCAN: training sets of Market-1501 and MSMT17
    options: --device cuda  --threads 2  --dim 2048  --skip_published
    torchrun --nproc_per_node=4 -- benchmarks/rerank.py --shared parts      memory of each of several processes (or of
                                    one, without torchrun): parts, search, search_parts, features, clusters

Every measurement runs in a child process of its own, so that its peak memory (ru_maxrss, on a GPU the allocator's peak)
is its own. Features are synthetic: identities of about 22 images in a 64-dimensional subspace with unequal noise and
15 % distractors, which gives an mAP of about 0.7 before re-ranking and sets R* as large as those of a trained network.
The yardsticks are measured in the same run: the upper half of the (N, N) product in tiles by torch.mm, the same by the
fastest float32 product at hand, torch.topk over rows and columns of the tiles, and the published algorithm.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import startup  # noqa: F401

# isort: split
import numpy as np
import torch
import torch.nn.functional as F

import clustering
import options
import rerank

MARKET = (3368, 15913)
MSMT17 = (11659, 82161)


def features(num_query, num_gallery, dim, device, per_id=22, noise=1.15, distractors=0.15, rank=64):
    """L2-normalised query (Q, D) and gallery (G, D), their identities and cameras; distractors have identity -1."""
    rng = torch.Generator().manual_seed(0)
    num_all = num_query + num_gallery
    known = num_all - int(num_all * distractors)
    centre = torch.randn(max(1, known // per_id), rank, generator=rng)
    pid = torch.randint(0, len(centre), (num_all,), generator=rng)
    pid[torch.randperm(num_gallery, generator=rng)[: num_all - known] + num_query] = -1
    z = torch.where(pid[:, None] >= 0, centre[pid.clamp(min=0)], torch.randn(num_all, rank, generator=rng))
    spread = 0.6 + 0.8 * torch.rand(num_all, 1, generator=rng)
    z += noise * spread * torch.randn(num_all, rank, generator=rng)
    lift = torch.randn(rank, dim, generator=rng) / rank**0.5
    x = torch.empty(num_all, dim)
    for s in range(0, num_all, 4096):
        part = z[s : s + 4096] @ lift
        x[s : s + 4096] = F.normalize(part + 0.3 * noise * torch.randn(part.shape, generator=rng))
    camid = torch.randint(0, 6, (num_all,), generator=rng)
    x, q = x.to(device), num_query
    return x[:q], x[q:], pid[:q], pid[q:], camid[:q], camid[q:]


# ---------------------------------------------------------------- yardsticks


def published(query, gallery, k1=20, k2=6, lambda_value=0.3):
    """Zhong et al., CVPR 2017, as a dense loop over rows in float32, the way the released Python code runs."""
    num_query = len(query)
    x = torch.cat([query, gallery]).double()
    sq = x.square().sum(1)
    original = (sq[:, None] + sq - 2 * (x @ x.T)).clamp_(min=0).float().numpy()
    original /= original.max(0)
    original = original.T
    rank = np.argsort(original, axis=1).astype(np.int32)
    v = np.zeros_like(original)
    narrow = round(k1 / 2)

    def reciprocal(i, k):
        forward = rank[i, : k + 1]
        return forward[(rank[forward, : k + 1] == i).any(1)]

    for i in range(len(v)):
        near = reciprocal(i, k1)
        sets = [near]
        for candidate in near:
            brought = reciprocal(candidate, narrow)
            if len(np.intersect1d(brought, near)) > 2 / 3 * len(brought):
                sets.append(brought)
        members = np.unique(np.concatenate(sets))
        weight = np.exp(-original[i, members])
        v[i, members] = weight / weight.sum()
    original = original[:num_query].copy()
    if k2 != 1:
        v = np.stack([v[rank[i, :k2]].mean(0) for i in range(len(v))])
    column = [np.flatnonzero(v[:, j]) for j in range(len(v))]
    jaccard = np.empty_like(original)
    for i in range(num_query):
        shared = np.zeros(len(v), np.float32)
        for j in np.flatnonzero(v[i]):
            shared[column[j]] += np.minimum(v[i, j], v[column[j], j])
        jaccard[i] = 1 - shared / (2 - shared)
    return torch.from_numpy((jaccard * (1 - lambda_value) + original * lambda_value)[:, num_query:])


def half_product(x, k=0, fast=False, tile=1024):
    """Tiles of the upper half of x x^T; with k also the k smallest of each row and column of each tile."""
    fast = fast and x.device.type == "cpu"
    tile = tile if x.device.type == "cpu" else 8192
    for r in range(0, len(x), tile):
        left = x[r : r + tile].to_mkldnn() if fast else x[r : r + tile]
        for c in range(r, len(x), tile):
            d = F.linear(left, x[c : c + tile])
            d = d.to_dense() if fast else d
            if k:
                d.topk(min(k, d.shape[1]), 1, largest=False)
                if c != r:
                    d.T.contiguous().topk(min(k, d.shape[0]), 1, largest=False)


# ---------------------------------------------------------------- measurements, each in a child process


def measure(work, q, g, dim, device):
    """Run one piece of work in this process; returns what the table shows."""
    query, gallery, *labels = features(q, g, dim, device)
    x = torch.cat([query, gallery]) if work.startswith("half") else None
    if torch.device(device).type == "cuda":  # the first call loads kernels
        rerank.k_reciprocal(query[:64], gallery[:512])
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        rerank.k_reciprocal(query[:8], gallery[:64])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {}
    start, cpu = time.perf_counter(), time.process_time()
    if work == "half":
        half_product(x)
    elif work == "half_fast":
        half_product(x, fast=True)
    elif work == "half_topk":
        half_product(x, k=29, fast=True)
    elif work == "published":
        final = published(query, gallery)
    elif work == "exact":
        final = rerank.k_reciprocal(query, gallery)
    elif work == "clusters":
        near = rerank.jaccard_neighbours(torch.cat([query, gallery]), 30, 6, 0.6)
        result["clusters"] = int(clustering.dbscan(near, 4).max()) + 1
    elif work == "stream":
        for _ in rerank.iter_k_reciprocal(query, gallery):
            pass
    elif work == "metrics":
        import evaluate

        labels = [torch.as_tensor(x) for x in labels]
        found = evaluate.evaluate_features(query, gallery, *labels, rerank=dict(k1=20, k2=6, lambda_value=0.3))
        result["mAP"] = float(found.mAP)
    elif work == "search":
        import evaluate
        import protocols

        grid = rerank.Grid(range(10, 30, 2), (1, 3, 6, 9, 12))
        trials = evaluate.search(query, gallery, protocols.Labels(*labels), grid)
        assert len(trials) == 200
        best = max(trials, key=lambda t: t.mAP)
        result["best"] = f"k1 {best.k1} k2 {best.k2} lambda {best.lambda_value}: mAP {best.mAP:.4f}"
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    result["seconds"], result["cpu"] = time.perf_counter() - start, time.process_time() - cpu
    if torch.device(device).type == "cuda":
        result["peak_gib"] = (torch.cuda.max_memory_allocated() - before) / 2**30
    else:
        result["peak_gib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**30
    if work in ("exact", "published"):
        torch.save(final.cpu(), f".rerank_{work}.pt")
    return result


def run(work, q, g, dim, args):
    command = [sys.executable, __file__, "--child", work, str(q), str(g), str(dim)]
    command += ["--device", args.device, "--threads", str(args.threads)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(f"{work} failed:\n{found.stderr[-2000:]}")
    result = json.loads(found.stdout.splitlines()[-1])
    more = "".join(f"  {k} {v}" for k, v in result.items() if k not in ("seconds", "cpu", "peak_gib"))
    size, seconds, cpu = f"{q + g:,} x {dim}", f"{result['seconds']:.2f} s", f"{result['cpu']:.2f} s CPU"
    print(f"{work:10}{size:>15}{seconds:>11}{cpu:>15}{result['peak_gib']:7.2f} GiB{more}", flush=True)
    return result


def market(args):
    for dim in args.dim or (2048, 512):
        half, fast, topk = (run(w, *MARKET, dim, args)["seconds"] for w in ("half", "half_fast", "half_topk"))
        exact = run("exact", *MARKET, dim, args)
        run("metrics", *MARKET, dim, args)
        print(
            f"  exact / half product: {exact['seconds'] / half:.2f} (torch.mm), {exact['seconds'] / fast:.2f} (fastest)"
            f"; / (fastest half product + top-k): {exact['seconds'] / topk:.2f}"
        )
        if not args.skip_published:
            plain = run("published", *MARKET, dim, args)
            paths = [Path(f".rerank_{w}.pt") for w in ("exact", "published")]
            a, b = (torch.load(p) for p in paths)
            apart = ((a - b).abs() > 1e-5).sum().item()
            print(f"  published / exact: {plain['seconds'] / exact['seconds']:.1f} in time;", end=" ")
            print(f"largest difference {(a - b).abs().max():.1e}, {apart} of {a.numel()} above 1e-5")
        for path in Path().glob(".rerank_*.pt"):
            path.unlink()


def msmt17(args):
    for dim in args.dim or (2048,):
        fast = run("half_fast", *MSMT17, dim, args)["seconds"]
        stream = run("stream", *MSMT17, dim, args)["seconds"]
        print(f"  re-ranking - 1.5 x half product: {stream - 1.5 * fast:.1f} s")
        run("metrics", *MSMT17, dim, args)


def search(args):
    for dim in args.dim or (2048,):
        single = run("metrics", *MARKET, dim, args)["seconds"]
        many = run("search", *MARKET, dim, args)["seconds"]
        print(f"  200 combinations / one run with metrics: {many / single:.1f}")


def clusters(args):
    for count in (12_936, 32_621):
        for dim in args.dim or (2048,):
            run("half_fast", 1, count - 1, dim, args)
            run("clusters", 1, count - 1, dim, args)


def scaling(args):
    for dim in args.dim or (512,):
        for n in (5000, 10000, 20000, 40000, 80000):
            run("half_fast", n // 8, n - n // 8, dim, args)
            run("stream", n // 8, n - n // 8, dim, args)


def shared(work):
    """Highest resident memory of the most loaded process of one piece of work at Market-1501's size, beyond what was
    there before it. Of `search` 2 x 2 x 2 combinations; of parts 4 x 32 numbers, whose (N, N) distances are what is
    held whatever the parts."""
    import evaluate
    import losses
    import protocols
    from machine import processes

    with processes.joined("cpu"):
        group = processes.group()
        query, gallery, *labels = features(*MARKET, 128 if "parts" in work else 2048, "cpu")
        distance = losses.aligned_distance if "parts" in work else None
        if distance:
            query, gallery = (x.unflatten(1, (4, 32)) for x in (query, gallery))
        how = evaluate.Comparison(distance=distance, rerank=dict(k1=20, k2=6, lambda_value=0.3), group=group)
        labels[1] = labels[1].clamp(min=0)  # distractors, which are compared; -1 would be left out
        labels = protocols.Labels(*labels)
        list(evaluate.distance_blocks(query[:64], gallery[:64], distance=distance, rerank=how.rerank))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        if work == "clusters":
            rerank.jaccard_neighbours(torch.cat([query, gallery])[:12_936], 30, 6, 0.6, group=group)
        elif work.startswith("search"):
            evaluate.search(query, gallery, labels, rerank.Grid((15, 20), (3, 6), (0.1, 0.3)), how)
        else:
            evaluate.rank_features(query, gallery, labels, how)
        grown = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before])
        mib = [int(each) // 1024 for each in processes.from_all(grown)]
        if processes.is_main():
            held = sum(x.numel() for x in (query, gallery)) * 4 // 2**20
            seconds = time.perf_counter() - start
            print(f"{work:14}{len(mib)} processes  {max(mib)} MiB of {mib}, features {held} MiB, {seconds:.0f} s")


TABLES = dict(market=market, msmt17=msmt17, search=search, scaling=scaling, clusters=clusters)


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=options.one_of(TABLES), metavar="TABLE")
    parser.add_argument("--device", type=options.device, default="cpu")
    parser.add_argument("--threads", type=options.COUNT, default=2)
    parser.add_argument("--dim", type=options.COUNT, nargs="+")
    parser.add_argument("--skip_published", action="store_true")
    parser.add_argument("--shared", choices=("parts", "search", "search_parts", "features", "clusters"))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.shared:
        shared(args.shared)
        return
    if args.child:
        work, *sizes = args.child
        print(json.dumps(measure(work, *map(int, sizes), args.device)))
        return
    for name in args.tables or ("market", "search", "scaling"):
        print(f"-- {name}, {args.device}, {args.threads} threads, torch {torch.__version__}")
        TABLES[name](args)


if __name__ == "__main__":
    main()
