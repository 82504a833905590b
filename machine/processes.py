"""Several processes, one for each GPU or group of CPU cores, as torchrun starts them:

    torchrun --nproc_per_node=4 main.py --mode train ...

torch.distributed does the work; this file says what a re-ID run shares. Each process trains on its slice of every
batch. The losses compare all images of a batch, so every process computes them on the gathered `Output`, and the
gradients come out as those of one process. Without torchrun there is one process, and every function here does nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

TIMEOUT = timedelta(minutes=30)  # to wait for each other, such as for the one that makes the data


# ---------------------------------------------------------------------------------------------------------------------
# Start and end
# ---------------------------------------------------------------------------------------------------------------------


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this process writes, prints and shows progress."""
    return rank() == 0


def group():
    """The group of all processes, or None where there is one."""
    return dist.group.WORLD if world_size() > 1 else None


def launched() -> bool:
    """Whether torchrun started this process and others beside it."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def label() -> str:
    """Who speaks, where several do."""
    return f"[process {rank()}] " if not is_main() else ""


def local_device(name: str) -> str:
    """``--device`` for this process: of GPUs the one that torchrun's LOCAL_RANK names."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cuda", "cpu"):
        raise ValueError(f"--device {name} names one device, but torchrun started several processes: cuda or cpu")
    if name == "cpu":
        return name
    number, here = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= here:
        raise ValueError(f"torchrun started process {number + 1} of this machine, which has {here} GPUs; lower "
                         f"--nproc_per_node to {here}, or use --device cpu")  # fmt: skip
    return f"cuda:{number}"


@contextlib.contextmanager
def joined(device: str):
    """The other processes, if torchrun started any; yields the device of this one.

    GPUs talk through NCCL, everything on the host through gloo. When one process dies, the connections of the others
    break, or torchrun ends them: what they were waiting for raises instead of hanging.
    """
    if not launched():
        yield device
        return
    device = local_device(device)
    if device == "cpu":
        dist.init_process_group("gloo", timeout=TIMEOUT)
    else:
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT, device_id=torch.device(device))
    try:
        yield device
    except RuntimeError as error:
        if lost_another(error):
            raise RuntimeError(
                "another process of this run has ended, so this one cannot go on; its own message says why. The last "
                f"finished epoch is kept, and the same command goes on from it. ({str(error).splitlines()[0][:200]})"
            ) from error
        raise
    dist.destroy_process_group()  # not after an error: there may be nobody left to agree with


@contextlib.contextmanager
def stoppable():
    """SIGTERM, as torchrun, a scheduler or ``kill`` send it, raises KeyboardInterrupt, which Ctrl-C does anyway.

    Nothing else says why a run ended: without it the process would be gone without a word wherever no training is
    there to keep what it has done, such as between the error of a broken connection and its message.
    """

    def interrupt(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough, and the message must get out
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lost_another(error: RuntimeError) -> bool:
    """Whether a collective operation failed because a process is gone (gloo raises a plain RuntimeError)."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport", "Gloo", "NCCL")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


@contextlib.contextmanager
def main_first():
    """The first process of each machine runs the block before the others: it makes files that they then find."""
    first = world_size() == 1 or os.environ["LOCAL_RANK"] == "0"
    if not first:
        wait_for_all()
    yield
    if first:
        wait_for_all()


# ---------------------------------------------------------------------------------------------------------------------
# Plain values, over the host
# ---------------------------------------------------------------------------------------------------------------------


def wait_for_all() -> None:
    """Returns once every process has called it; at once if there is only one."""
    any_of(False)


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process; does not wait for a GPU."""
    if world_size() == 1:
        return flag
    found = torch.tensor([int(flag)])
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def from_main(value):
    """The main process's `value` (anything that pickles), in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


class _GatherRows(torch.autograd.Function):
    """(b, D) of each process -> (B, D) of all, in the order of ranks.

    Every process computes the whole loss of the B rows, so each holds the whole gradient, and the part of its own rows
    is what its own images contribute: nothing is left to sum. It is multiplied by the number of processes because
    DistributedDataParallel divides by it. (torch.distributed.nn's all_gather comes to the same by summing equal
    gradients over the network, and is deprecated.)
    """

    @staticmethod
    def forward(ctx, rows):
        gathered = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx, gradient):
        mine = len(gradient) // world_size()
        return gradient[rank() * mine : (rank() + 1) * mine] * world_size()


def from_all(few: Tensor) -> Tensor:
    """The tensor of every process, (W, ...) in the order of ranks; made for a few numbers on a CPU.

    Everyone sends to everyone: with two gloo processes on two busy cores 0.5 ms, an all_gather 0.8, an all_reduce 1.3.
    """
    if world_size() == 1:
        return few[None]
    received = few.new_empty(world_size(), *few.shape)
    dist.all_to_all_single(received, few.expand_as(received).contiguous())
    return received


def fields(output) -> list[Tensor]:
    """The tensors of an Output, in order: embedding, logits, feats, parts if there are any."""
    return [output.embedding, *output.logits, *output.feats, *([] if output.parts is None else [output.parts])]


def with_fields(output, tensors: list[Tensor]):
    """`output` with the tensors that `fields` would list replaced by `tensors`."""
    num_logits, num_feats = len(output.logits), len(output.feats)
    return output._replace(
        embedding=tensors[0],
        logits=tuple(tensors[1 : 1 + num_logits]),
        feats=tuple(tensors[1 + num_logits : 1 + num_logits + num_feats]),
        parts=None if output.parts is None else tensors[-1],
    )


def gathered(output, labels: Tensor):
    """(Output, labels) of the whole batch, from the slices of all processes; gradients flow back to the own slice.

    All fields travel as one tensor, in float32 if their types differ, which loses nothing, and come out in their own.
    """
    if world_size() == 1:
        return output, labels
    each = fields(output)
    rows = _GatherRows.apply(torch.cat([tensor.flatten(1) for tensor in each], dim=1))  # (B, sum of widths)
    split = rows.split([tensor[0].numel() for tensor in each], dim=1)
    whole = [new.unflatten(1, old.shape[1:]).to(old.dtype) for new, old in zip(split, each, strict=True)]
    return with_fields(output, whole), _GatherRows.apply(labels)


def gathered_views(views):
    """The `loading.views.Views` of the whole batch, as losses read them: without `there`, whose widths may differ."""
    return views._replace(there=None).each(lambda field: field if world_size() == 1 else _GatherRows.apply(field))


def parallel(network: nn.Module) -> nn.Module:
    """`network` in DistributedDataParallel; to be called again when other parameters are trained than before.

    Batch normalisation sees the images of one process only, and all of them start each step from the running
    statistics of the main one (see `synchronised_batch_norm`).
    """
    if world_size() == 1:
        return network
    return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)


def average_gradients(module: nn.Module) -> None:
    """Mean over the processes, which all computed these gradients: parameters stay alike to the last bit."""
    if world_size() > 1:
        for parameter in module.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size()


@torch.no_grad()
def same_everywhere(*modules: nn.Module) -> None:
    """Give every process the main one's parameters and buffers."""
    if world_size() > 1:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), src=0)


# ---------------------------------------------------------------------------------------------------------------------
# Batch normalisation over all processes
# ---------------------------------------------------------------------------------------------------------------------


class _Normalise(torch.autograd.Function):
    """Batch normalisation of x (b, C, ...) by the mean and variance over all processes, which have equal shares.

    The passes over x are torch's own: statistics, then xhat = (x - mean) / std as in eval mode, with its gradient
    g w / std. What is missing there is that mean and std depend on x too: -w / (std N) (sum g + xhat sum g xhat).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps, mean, var):
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, var = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack((grad_bias, grad_weight))  # (2, C): sum g, sum g xhat over the own images
        of_g, of_gx = from_all(sums).sum(0) / (world_size() * x.numel() // x.shape[1])
        scale = (var + ctx.eps).rsqrt()
        weight_ = torch.ones_like(scale) if weight is None else weight
        slope = weight_ * scale.square() * of_gx
        offset = weight_ * scale * of_g - slope * mean
        zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
        grad_x -= F.batch_norm(x, zeros, ones, slope, offset, training=False, eps=0.0)  # slope x + offset
        if weight is None:
            grad_weight = grad_bias = None
        return grad_x, grad_weight, grad_bias, None, None, None


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the images of all processes, on any device (torch's own needs a GPU)."""

    def _check_input_dim(self, x):
        pass

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        mean, var = self.statistics(x.detach())
        return _Normalise.apply(x, self.weight, self.bias, self.eps, mean, var)

    @torch.no_grad()
    def statistics(self, x):
        """Mean and biased variance (C,) of all images; moves the running ones."""
        dtype = torch.promote_types(x.dtype, torch.float32)  # of scratch: that of the statistics of a bfloat16 x
        scratch = torch.zeros(2, x.shape[1], device=x.device, dtype=dtype)
        own = torch.stack(torch.batch_norm_update_stats(x, *scratch, 0.0))  # (2, C)
        means, variances = from_all(own).unbind(1)  # (W, C) each
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        if self.track_running_stats:
            count = world_size() * x.numel() // x.shape[1]
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(var * count / max(count - 1, 1), share)
        return mean, var


def synchronised_batch_norm(network: nn.Module) -> nn.Module:
    """`network` whose batch normalisation runs over all processes, with the same parameters and names.

    Then N processes compute what one would, for a collective operation per layer and direction.
    ValueError for a layer type that mixes batch normalisation with something else.
    """
    for name, child in network.named_children():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            synchronised_batch_norm(child)
            continue
        if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise ValueError(f"--sync_bn does not know the layer {type(child).__name__} of this network; leave it out")
        if child.weight is not None and child.weight.device.type == "cuda":
            new = nn.SyncBatchNorm.convert_sync_batchnorm(child)
        else:
            new = SyncBatchNorm(child.num_features)
            new.__dict__.update(child.__dict__)
        setattr(network, name, new)
    return network
