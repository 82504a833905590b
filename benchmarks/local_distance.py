"""Time and memory of AlignedReID's local distance for a whole test set, against its bare matrix product.

`python benchmarks/local_distance.py` compares the 3,368 queries of Market-1501 with its 15,913 gallery images, 8 parts
of 128 numbers each. The bare product is the (M S, D) x (D, N S) product inside it, written to one reused buffer, in
float32. Each run is a child process of its own, so that its peak memory is its own; the least time of the
runs counts.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import startup  # noqa: F401

# isort: split
import torch

import losses
import options


def main():
    args = arguments()
    if args.job:
        print(json.dumps(measure(args)))
        return
    print(f"{args.queries:,} x {args.gallery:,} images, {args.parts} parts, {args.dim}-d, torch {torch.__version__}")
    rows = {job: [run_child(job) for _ in range(args.runs)] for job in ("product", "distance")}
    print(f"{'':<24}{'seconds':>9}{'runs':>22}{'peak memory':>14}")
    for job, title in (("product", "bare matrix product"), ("distance", "aligned_distance")):
        seconds = sorted(row["seconds"] for row in rows[job])
        peak = max(row["peak_mib"] for row in rows[job])
        runs = " ".join(f"{s:.2f}" for s in seconds)
        print(f"{title:<24}{seconds[0]:>9.2f}{runs:>22}{peak:>10,.0f} MiB")
    ratio = min(r["seconds"] for r in rows["distance"]) / min(r["seconds"] for r in rows["product"])
    print(f"ratio {ratio:.2f}, threads {rows['distance'][0]['threads']}, device {args.device}")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=options.COUNT, default=3368)
    parser.add_argument("--gallery", type=options.COUNT, default=15913)
    parser.add_argument("--parts", type=options.COUNT, default=8)
    parser.add_argument("--dim", type=options.COUNT, default=128)
    parser.add_argument(
        "--memory", type=options.COUNT, default=None, help="bytes of aligned_distance's buffers (its default)"
    )
    parser.add_argument("--threads", type=options.THREADS, default=0, help="CPU threads (torch's default)")
    parser.add_argument("--device", type=options.device, default="cpu")
    parser.add_argument("--runs", type=options.COUNT, default=3, help="child processes per row; the fastest counts")
    parser.add_argument("--job", choices=("product", "distance"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run_child(job):
    """One run in a process of its own, with this process's options -> its measurement."""
    command = [sys.executable, __file__, *sys.argv[1:], "--job", job]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(args):
    """Seconds of the job, the peak memory of this process in MiB (and of the device, if that is not the CPU)."""
    if args.threads:
        torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    shapes = (args.queries, args.parts, args.dim), (args.gallery, args.parts, args.dim)
    x, y = (torch.randn(shape, generator=generator).to(args.device) for shape in shapes)
    job = bare_product if args.job == "product" else losses.aligned_distance
    options = {} if args.job == "product" or args.memory is None else {"memory": args.memory}
    job(x[:64], y[:64], **options)  # starts the thread pool and loads the kernels
    synchronize(args.device)
    start = time.perf_counter()
    job(x, y, **options)
    synchronize(args.device)
    seconds = time.perf_counter() - start
    # ru_maxrss is in KiB on Linux, in bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    if args.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"seconds": seconds, "peak_mib": peak, "threads": torch.get_num_threads()}


def synchronize(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def bare_product(x, y, rows=1024):
    """The product of all parts of x (M, S, D) with all parts of y (N, S, D), `rows` rows at a time into one buffer."""
    x, y = x.flatten(0, 1), y.flatten(0, 1)  # (M S, D), (N S, D)
    buffer = x.new_empty(min(rows, len(x)), len(y))
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        torch.mm(block, y.T, out=buffer[: len(block)])


if __name__ == "__main__":
    main()
