"""Optimisers, schedule, ``train_one_epoch`` and ``fit``.

The loop knows a model that answers with an Output, a criterion that answers with named terms, and a loader whose
batches are a function of (seed, epoch, position). It knows no method, no loss and no data set by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import checkpoints
from epochs import Between, Hook, Moment, Phase, checked
from loading.views import Views
from losses import Criterion, Terms
from machine import graphs, loggers, processes, threads
from machine.progress import Progress
from models import Model

HEARTBEAT = 20  # iterations between looks at the loss values


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived. Inside an epoch `partial` holds what its remaining iterations need."""

    def __init__(self, message: str = "", partial: dict | None = None):
        super().__init__(message)
        self.partial = partial


# ---------------------------------------------------------------------------------------------------------------------
# Optimisers and schedule
# ---------------------------------------------------------------------------------------------------------------------


NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def build_optimizers(model: Model, criterion: Criterion, recipe) -> list[torch.optim.Optimizer]:
    """The main optimiser, then that of each loss that brings one for its own parameters (``own_optimizer(weight)``).

    The model's trunk gets ``lr * base_lr_mult``, everything else ``lr``; biases, of either, that times
    ``bias_lr_mult`` (damo-cv/TransReID dec5504, solver/make_optimizer.py: whatever has "bias" in its name). Biases and
    norm layers decay by ``norm_decay``, where that is given (fast-reid c9bc3ce, solver/build.py).
    The schedule moves the rates of the main optimiser alone. Groups of an optimiser whose loss learns before the
    network does (``losses``: ``ahead``) say so under "ahead".
    """
    apart = [(weight, loss) for _, weight, loss in criterion.terms if hasattr(loss, "own_optimizer")]
    own = {id(p) for _, loss in apart for p in loss.parameters()}
    trunk = {id(p) for p in model.trunk()}
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in (*model.named_parameters(), *criterion.named_parameters()):
        if parameter.requires_grad and id(parameter) not in own:
            scale = recipe.base_lr_mult if id(parameter) in trunk else 1.0
            scale *= recipe.bias_lr_mult if "bias" in name else 1.0
            other = recipe.norm_decay is not None and ("bias" in name or id(parameter) in norms)
            groups.setdefault((scale, recipe.norm_decay if other else recipe.weight_decay), []).append(parameter)
    groups_of_main = [{"params": p, "lr": recipe.lr * k[0], "weight_decay": k[1]} for k, p in sorted(groups.items())]
    optimizers = [main_optimizer(recipe, groups_of_main)]
    for weight, loss in apart:
        optimizers.append(loss.own_optimizer(weight))  # type: ignore[operator]
        for group in optimizers[-1].param_groups if hasattr(loss, "ahead") else ():
            group["ahead"] = True
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


OPTIMIZERS = ("adam", "adamw", "amsgrad", "rmsprop", "sgd")


def main_optimizer(recipe, groups: list[dict]) -> torch.optim.Optimizer:
    """All but ``adamw`` add weight decay to the gradient, as the published recipes do. All that can run fused;
    ``rmsprop`` with torchreid's alpha of 0.99 (f8cd150, torchreid/optim/optimizer.py)."""
    decay = recipe.weight_decay
    if recipe.optimizer == "sgd":
        sgd = torch.optim.SGD(
            groups, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decay, fused=True
        )
        if recipe.momentum:
            sgd.register_step_pre_hook(begin_momenta)
        return sgd
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, alpha=0.99, momentum=recipe.momentum, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=decay, fused=True)
    if recipe.optimizer in ("adam", "amsgrad"):
        return torch.optim.Adam(groups, weight_decay=decay, amsgrad=recipe.optimizer == "amsgrad", fused=True)
    raise ValueError(f"optimizer '{recipe.optimizer}' is not known; choose one of {', '.join(OPTIMIZERS)}")


def begin_momenta(sgd: torch.optim.Optimizer, *_) -> None:
    """Before a step: a momentum of zeros for what moves for the first time, where others of its group move already.

    As a first step, m 0 + g = g. Layers may open later than others, and fused SGD begins with all of a group or none
    (torch 2.14.1, torch/optim/sgd.py, is_first_step).
    """
    for group in sgd.param_groups:
        moving = [p for p in group["params"] if p.grad is not None]
        new = [p for p in moving if sgd.state[p].get("momentum_buffer") is None]
        for parameter in new if len(new) < len(moving) else ():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


SCHEDULES = ("multistep", "cosine", "exponential", "constant")


MARKET_STEPS = 12_936 // 64  # iterations of an epoch where a schedule counts them and nothing else is known


def lr_factor(recipe, epoch: int, epochs: int, steps: int = MARKET_STEPS) -> float:
    """Learning rate of `epoch` (from 0, of `epochs`) over the base rate: the mean over its `steps` iterations.

    They differ only in a warm-up that counts iterations (`warmup_iterations`).
    """
    if not recipe.warmup_iterations:
        return step_factor(recipe, epoch, epochs, 0, steps)
    return sum(step_factor(recipe, epoch, epochs, step, steps) for step in range(steps)) / steps


def step_factor(recipe, epoch: int, epochs: int, step: int, steps: int, share: float = 1.0) -> float:
    """Learning rate of iteration `step` (from 0, of `steps`) of `epoch` (from 0, of `epochs`) over the base rate.

    With t = epoch + `first_epoch`:
    warm-up      linear from `warmup_factor` f: f (1 - a) + a with a = t / warmup_epochs (reid-strong-baseline 3da7e6f,
                 solver/lr_scheduler.py), or a = iterations done / warmup_iterations (fast-reid c9bc3ce); with
                 `warmup_method` constant it is f all through, as in both
    multistep    times `gamma` after each epoch count in `milestones`
    cosine       0.5 (1 + cos(pi d)), down to `lr_floor` instead of 0, and
    exponential  `gamma` ** d (triplet loss, Hermans et al., sec. 4.2), both behind the warm-up, with
                 d = (t - t0) / (epochs - t0) and t0 = milestones[0], or without milestones the end of the warm-up
    A warm-up that counts iterations keeps the schedule at its start until its last epoch (fast-reid c9bc3ce,
    engine/hooks.py, LRScheduler.after_epoch; solver/build.py).
    share: base rate of the parameters over the recipe's. With `same_ends` f and `lr_floor` are shares of the recipe's
    rate, whatever theirs is: all begin and end alike (TransReID dec5504, solver/scheduler_factory.py, cosine_lr.py).
    """
    t, late = epoch + recipe.first_epoch, 0
    ends = share if recipe.same_ends and share else 1.0
    factor, floor = recipe.warmup_factor / ends, recipe.lr_floor / ends
    a = t / recipe.warmup_epochs if recipe.warmup_epochs else 1.0
    if recipe.warmup_iterations:
        a, late = (epoch * steps + step) / recipe.warmup_iterations, math.ceil(recipe.warmup_iterations / steps)
    warm = factor * (1 - a) + a if a < 1 else 1.0
    if recipe.warmup_method == "constant" and a < 1:
        warm = factor
    if recipe.schedule == "multistep":
        return warm * recipe.gamma ** sum(epoch - max(0, late - 1) >= m for m in recipe.milestones)
    if recipe.schedule == "constant" or (recipe.schedule in SCHEDULES and a < 1):
        return warm
    start = recipe.milestones[0] if recipe.milestones else recipe.warmup_epochs
    done = max(0, t - max(start, late - 1)) / max(1, epochs - max(start, late))
    if recipe.schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    if recipe.schedule == "exponential":
        return recipe.gamma**done
    raise ValueError(f"schedule '{recipe.schedule}' is not known; choose one of {', '.join(SCHEDULES)}")


def forgets(recipe, epoch: int, counted: int, step: int, steps: int) -> bool:
    """Whether iteration `step` (from 0, of `steps`) of `epoch` is the first behind what `optimizer_reset` names.

    Its schedule calls that epoch `counted` (see `stage_of`). Behind frozen epochs torchreid's early code forgets
    (7ff331f, train_imgreid_xent.py). Behind a warm-up Adam divides by gradients of the untrained network for as long as
    it remembers (benchmarks/README.md).
    """
    start = recipe.optimizer_reset
    if start == "never":
        return False
    iterations, epochs = (getattr(recipe, f"{start}_{unit}") for unit in ("iterations", "epochs"))
    done = counted if start == "warmup" else epoch
    if iterations:
        return done * steps + step == iterations
    return step == 0 and done == (epochs - recipe.first_epoch if start == "warmup" else epochs)


def stage_of(stages, epoch: int) -> tuple[int, tuple[int, int]]:
    """Index of the stage that `epoch` (from 0) falls in, and (epoch, number of epochs) as its schedule counts them."""
    start = 0
    for index, stage in enumerate(stages):
        if epoch < start + stage.epochs:
            of_stage = stage.restart or stage.changes
            return index, (epoch - start, stage.epochs) if of_stage else (epoch, sum(s.epochs for s in stages))
        start += stage.epochs
    raise ValueError(f"epoch {epoch} lies behind the {start} epochs of the plan")


def open_layers(
    model: Model, trainable: tuple[str, ...], frozen_by_model: set[str], unread: Iterable[nn.Parameter] = ()
) -> None:
    """Let the model's layers of the groups `trainable` move (empty: all; `Model.layers`) and put the rest to sleep.

    Modules in which no parameter moves go to eval mode, so that their BatchNorm statistics stay as they are.
    `frozen_by_model` names what the model itself never trains (the bias of the BN neck), `unread` is what the stage
    does not reach (`Model.unread`).
    """
    model.train()
    opened = {id(p) for group in trainable for p in model.layers(group)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen_by_model and (not trainable or id(parameter) in opened))
    for module in model.modules() if trainable else ():
        module.training = any(parameter.requires_grad for parameter in module.parameters())
    for parameter in unread:
        parameter.requires_grad_(False)


# ---------------------------------------------------------------------------------------------------------------------
# One epoch
# ---------------------------------------------------------------------------------------------------------------------


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A seed for what a network draws in one iteration (dropout): a function of (seed, epoch, step, process) alone."""
    return (((seed * 1_000_003 + epoch) * 1_000_003 + step) * 1_000_003 + 1_009 * processes.rank()) % (2**63 - 1)


Batch = tuple[torch.Tensor, torch.Tensor, Views]  # images (B, 3, H, W), labels (B,), views of B images


@dataclasses.dataclass(frozen=True)
class Conditions:
    """How a step is computed. But for rounding only `seed`, `clip_grad` and `clip_by` decide what is learnt."""

    seed: int = 0
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    scaler: torch.amp.GradScaler = dataclasses.field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    clip_grad: float = 0.0  # largest gradient norm; 0: no clipping
    clip_by: str = "whole"  # whose norm: "whole", the network's, or "group", of each group of the optimiser
    chunks: int = 1  # parts of a batch whose graphs are not held at the same time, see `in_chunks`
    forward: nn.Module | None = None  # called in place of the model: its compiled form, or what replays it
    print_freq: int = 0  # iterations between lines of text, 0 for none; each waits for the device
    best_on: tuple[str, ...] = ()  # test sets whose mean mAP finds the weights to keep as model_best.pt
    tell: Sequence[loggers.Logger] = ()  # what is told the numbers of each epoch, in the main process
    between: Between = Between()  # what happens between epochs


class Span(NamedTuple):
    """The part of an epoch that is to be trained."""

    epoch: int  # from 0
    num_steps: int  # of the whole epoch
    partial: dict | None = None  # what an Interrupted of this epoch carried; the batches then start at its step
    label: str = ""  # of the progress
    steps_after: int = 0  # of the epochs that follow


def train_one_epoch(
    network: nn.Module,
    criterion: Criterion,
    batches: Iterator[Batch],
    optimizers: list[torch.optim.Optimizer],
    span: Span,
    conditions: Conditions | None = None,
    *,
    stop: threading.Event | None = None,
    after_step: Callable[[Terms], None] | None = None,
) -> dict[str, float]:
    """Train over `batches` of (images (B, 3, H, W), labels (B,), views); returns the mean of every term.

    Nothing here waits for a GPU before the epoch's last iteration. Raises FloatingPointError when the loss is no longer
    a number, Interrupted when `stop` is set.
    """
    how, glance = conditions or Conditions(), Glance()
    count, sums = (span.partial["step"], dict(span.partial["sums"])) if span.partial else (0, {})
    sums.pop("loss", None)  # of a run that was begun when the whole loss was a sum of its own
    after, shown = span.steps_after, processes.is_main()
    progress = Progress(span.num_steps, span.label, "batches", done=count, after=after, shown=shown)
    judge = functools.partial(judged, criterion, [each for each in optimizers if is_ahead(each)])
    for step, batch in enumerate(progress.over(threads.balanced(batches), size_of), start=count):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        compute = whole if how.chunks == 1 else in_chunks
        terms, backward = compute(network, judge, batch, step_seed(how.seed, span.epoch, step), how)
        backward_and_step(backward, network, criterion, optimizers, how)
        if after_step:
            after_step(terms)
        for name, term in terms.items():
            sums[name] = sums[name] + term.detach() if name in sums else term.detach().clone()
        del terms, term, backward  # what they hold of autograd's graph may not stand in the way of a CUDA graph
        count = step + 1
        if count % HEARTBEAT == 0:
            glance.begin(sums, count)
        for means, at in glance.arrived():
            progress.tell(means)
            check_finite(means, span.epoch, at)
        if how.print_freq and count % how.print_freq == 0:
            said = "  ".join(f"{name} {mean:.4f}" for name, mean in means_of(sums, count).items())
            print(f"{span.label}  iteration {count}/{span.num_steps}  {said}", flush=True)
        if stop is not None and processes.any_of(stop.is_set()) and count < span.num_steps:
            raise Interrupted(partial={"step": count, "sums": sums})
    means = means_of(sums, count)
    check_finite(means, span.epoch, count)
    return means


def size_of(batch: Batch) -> int:
    """Images, or tracklets, of the whole batch over all processes."""
    return len(batch[1]) * processes.world_size()


Judge = Callable[..., Any]  # (Output, labels, views) of this process's images -> Terms


def judged(
    criterion: Criterion, ahead: Sequence[torch.optim.Optimizer], output, labels: torch.Tensor, views: Views
) -> Terms:
    """The terms of the whole batch, over all processes, behind a step of the optimisers that learn `ahead` of them.

    Their losses are computed and differentiated in full precision: nothing of them is scaled.
    """
    output, labels = processes.gathered(output, labels)
    views = processes.gathered_views(views) if criterion.takes_views else views
    first = criterion.ahead(output, labels, views) if ahead else None
    if first is not None:
        first.backward()
        processes.average_gradients(criterion)
        for optimizer in ahead:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # nobody averages these gradients once more
    return criterion(output, labels, views)


def is_ahead(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step of `optimizer` is made before the terms are computed."""
    return any(group.get("ahead", False) for group in optimizer.param_groups)


def loss_of(terms: Terms) -> torch.Tensor:
    """What trains; without the zero that `sum` begins with, which is a kernel more on a GPU."""
    return functools.reduce(torch.add, terms.values())


def whole(network, judge: Judge, batch: Batch, seed: int, how: Conditions) -> tuple[Terms, Callable[[], None]]:
    """Terms of a batch, and the function that leaves their gradients in the parameters."""
    images, labels, views = batch
    torch.manual_seed(seed)
    with how.autocast():
        terms = judge(network(images, views.told()), labels, views)
    return terms, how.scaler.scale(loss_of(terms)).backward


def in_chunks(network, judge: Judge, batch: Batch, seed: int, how: Conditions) -> tuple[Terms, Callable[[], None]]:
    """As `whole`, in the memory that a batch of B / `how.chunks` images takes (GradCache: Gao et al., RepL4NLP 2021).

    The losses compare all images of the batch, so summing over small batches would be another loss. Instead: the Output
    of every chunk without a graph; the losses of the whole Output and their gradient with respect to it; each chunk
    once more, with a graph, from which that gradient flows on. The gradients are those of the whole batch, to rounding;
    but batch normalisation computes its statistics chunk by chunk. The price is a second forward pass.
    """
    images, labels, views = batch[0].chunk(how.chunks), batch[1], batch[2]
    before = [buffer.clone() for buffer in network.buffers()]  # running statistics must move once, not twice

    def forward(i: int) -> list[torch.Tensor]:
        torch.manual_seed(seed + i)  # the same dropout both times
        with how.autocast():
            return network(images[i], views.told().each(lambda field: field.chunk(how.chunks)[i]))

    with torch.no_grad():
        outputs = [forward(i) for i in range(len(images))]
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
    fields = zip(*(processes.fields(output) for output in outputs), strict=True)
    leaves = [torch.cat(parts).requires_grad_() for parts in fields]  # the Output of the whole batch
    with how.autocast():
        terms = judge(processes.with_fields(outputs[0], leaves), labels, views)

    def backward() -> None:
        how.scaler.scale(loss_of(terms)).backward()
        gradients = [() if leaf.grad is None else leaf.grad.chunk(how.chunks) for leaf in leaves]
        for i in range(len(images)):
            last = i + 1 == len(images)  # only then do the processes exchange their gradients
            with contextlib.nullcontext() if last else getattr(network, "no_sync", contextlib.nullcontext)():
                each = zip(processes.fields(forward(i)), gradients, strict=True)
                flows = ((tensor, parts[i]) for tensor, parts in each if parts and tensor.requires_grad)
                tensors, parts = zip(*flows, strict=True)
                torch.autograd.backward(tensors, parts)

    return terms, backward


def backward_and_step(backward: Callable[[], None], network, criterion, optimizers, how: Conditions) -> None:
    """Backward pass and one step of every optimiser but those that made theirs; `how.scaler` is disabled where nothing
    is scaled."""
    backward()
    processes.average_gradients(criterion)
    if how.clip_grad:
        how.scaler.unscale_(optimizers[0])
        groups = [group["params"] for group in optimizers[0].param_groups]
        for parameters in groups if how.clip_by == "group" else [network.parameters()]:
            nn.utils.clip_grad_norm_(parameters, how.clip_grad)
    for optimizer in optimizers:
        if not is_ahead(optimizer):
            how.scaler.step(optimizer)
    how.scaler.update()


def means_of(sums: dict[str, torch.Tensor], count: int) -> dict[str, float]:
    """Means over `count` iterations as floats, in one wait for the device."""
    glance = Glance()
    glance.begin(sums, count)
    return next((means for means, _ in glance.arrived(wait=True)), {})


class Glance:
    """A look at the means so far that does not wait for a GPU: begun at one iteration, it arrives at a later one."""

    def __init__(self):
        self.under_way: tuple | None = None

    def begin(self, sums: dict[str, torch.Tensor], count: int) -> None:
        """Ask for the means over `count` iterations, unless an older answer is still under way."""
        if not sums or self.under_way:
            return
        totals = checkpoints.on_host(torch.stack(list(sums.values())))
        copied = next(iter(sums.values())).is_cuda and torch.cuda.Event()
        if copied:
            copied.record()
        self.under_way = tuple(sums), totals, count, copied

    def arrived(self, wait: bool = False) -> Iterator[tuple[dict[str, float], int]]:
        """The means and how many iterations they are of, once, as soon as they are here."""
        if self.under_way is None:
            return
        names, totals, count, copied = self.under_way
        if copied and wait:
            copied.synchronize()
        if not copied or copied.query():
            self.under_way = None
            means = {name: total / count for name, total in zip(names, totals.tolist(), strict=True)}
            yield {"loss": sum(means.values()), **means}, count


def check_finite(means: dict[str, float], epoch: int, count: int) -> None:
    """FloatingPointError that names the terms which are NaN or infinite after `count` iterations; says what helps."""
    bad = [name for name, mean in means.items() if not math.isfinite(mean)]
    if bad:
        raise diverged(f"epoch {epoch + 1}, iteration {count}: {', '.join(bad)} is not finite")


def check_learning(model: nn.Module, loss: float, untrained: float, epoch: int) -> None:
    """FloatingPointError if an epoch with the mean `loss` has lost what it was to learn: a weight is not finite, or the
    loss is fifty times that of the network before its first step (or of 1, where that was less)."""
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    if tensors and not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
        raise diverged(f"epoch {epoch + 1}: weights are not finite")
    if loss > 50 * max(untrained, 1.0):
        raise diverged(f"epoch {epoch + 1}: the loss is {loss:.3g}, and was {untrained:.3g} before the first step")


def diverged(found: str) -> FloatingPointError:
    """The error of a training that cannot go on; says what helps."""
    return FloatingPointError(
        f"{found}: the training has diverged. The checkpoint of the last finished epoch is kept. Lower --lr, lengthen "
        "--warmup_epochs, set --clip_grad 5, or, with --amp fp16, use --amp bf16 or none; then start again with "
        "another --output_path."
    )


# ---------------------------------------------------------------------------------------------------------------------
# A whole run
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stop_on_signals():
    """An Event that SIGINT (Ctrl-C) or SIGTERM sets; the same signal once more ends the process at once.

    (Ctrl-C under torchrun reaches its processes twice: as SIGINT, and as SIGTERM from torchrun.)
    """
    stop, seen = threading.Event(), set()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number, frame):
        if number in seen:
            raise KeyboardInterrupt
        seen.add(number)
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


Evaluate = Callable[[nn.Module, threading.Event], dict[str, dict]]  # (model, stop) -> {data set: {metric: value}}


def fit(
    model: Model,
    criterion: Criterion,
    loader,
    recipe,
    folder: checkpoints.Folder,
    evaluate: Evaluate,
    conditions: Conditions | None = None,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """Train `model` by `recipe` and return the log, one dict per epoch.

    loader       ``loader.steps(epoch)``, ``loader.epoch(epoch)`` and, where the batches depend on what was seen,
                 ``loader.alternate`` (true), ``loader.observe``, ``loader.state_dict``, ``loader.load_state_dict``
    folder       its description is compared on resume: a folder that holds another run is a ValueError
    evaluate     called after every ``eval_every`` epochs and the last

    Files in the folder: last.pt (all that is needed to go on; every epoch) and previous.pt (the one before), log.jsonl
    (a line per epoch), model_<epoch>.pt (weights at each evaluation), model.pt (the newest of those). What a finished
    run has lost of them is written again; more epochs lengthen it. Raises Interrupted after a signal.
    Of several processes (``processes``) all call this, and the main one alone reads and writes.
    """
    how = conditions or Conditions()
    run = Training(model, criterion, loader, recipe, folder, how)
    run.resume(say)
    with stop_on_signals() as stop, checkpoints.Files(folder.path, how.tell) as writer:
        if run.log and not run.partial and run.due(run.start - 1):
            run.make_up(evaluate, writer, stop)
            say(epoch_line(run.log[-1], run.epochs))
        for epoch in range(run.start, run.epochs):
            means = run.one_epoch(epoch, writer, stop)
            if run.due(epoch):
                run.evaluate_now(evaluate, writer, stop)
            writer.write_log(run.log)
            say(epoch_line(run.log[-1], run.epochs))
            for advice in run.criterion.collapsed(means, run.notes) if epoch else ():
                say(f"WARNING: {advice}")
    return run.log


class Training:
    """The parts of a run, and where it is."""

    def __init__(self, model: Model, criterion: Criterion, loader, recipe, folder, how: Conditions):
        self.model, self.folder, self.how, self.whole = model, folder, how, recipe
        self.notes: dict[str, dict] = {}  # of the last batch, by loss
        self.untrained: float | None = None  # the loss before the first step of what the stage trains with
        self.phase: Phase | None = None
        self.stages = recipe.plan()
        self.epochs = sum(stage.epochs for stage in self.stages)
        self.phases = how.between.phases or (Phase(recipe, criterion, loader),) * len(self.stages)
        self.criteria = tuple({id(c): c for c in (criterion, *(p.criterion for p in self.phases))}.values())
        self.frozen_by_model = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self.resting: list[nn.Parameter] = []  # what `fixbase_iterations` keeps as it is
        self.enter(0)
        self.begun = folder.description.get("begun_after", 0)  # epochs behind the weights that this run starts from
        self.start = self.begun  # epochs done
        self.log: list[dict] = []  # of each epoch done
        self.partial: dict | None = None  # what is done of the next
        self.told: dict[str, float] = {}  # by the hook, of the epoch that is trained
        self.network: nn.Module = model  # or DistributedDataParallel around it
        self.stage = -1
        processes.same_everywhere(model, *self.criteria)

    def enter(self, stage: int) -> None:
        """Take up what `stage` trains with: its criterion, its loader, optimisers of its own; those of the stage
        before it go on where that is made of the same `Phase`."""
        phase = self.phases[stage]
        if self.phase is phase:
            return
        self.phase, self.entered = phase, stage
        self.recipe, self.criterion, self.loader = phase
        self.how = dataclasses.replace(self.how, clip_grad=self.recipe.clip_grad, clip_by=self.recipe.clip_by)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in self.frozen_by_model)
        self.optimizers = build_optimizers(self.model, self.criterion, self.recipe)
        if self.recipe.fixbase_iterations:
            self.optimizers[0].register_step_pre_hook(self.rest)
        criterion = self.criterion if len(self.criteria) == 1 else nn.ModuleList(self.criteria)
        self.parts = {"model": self.model, "criterion": criterion, "scaler": self.how.scaler, "loader": self.loader}
        self.untrained, self.notes = None, {}

    def resume(self, say: Callable[[str], None]) -> None:
        """Go on from the run that is there. ValueError if it is another."""
        found = processes.from_main(self.folder.earlier() if processes.is_main() else None)
        if found is None:
            if self.begun:
                say(f"Starting after epoch {self.begun} of {self.epochs}, with new states of the optimisers.")
            return
        state, warning = found
        lengthened = check_length(state, self.whole)
        self.enter(state.get("stage", 0))
        try:
            for name, part in self.parts.items():
                if hasattr(part, "load_state_dict") and name in state:
                    part.load_state_dict(state[name])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.start, self.log, self.partial = state["epoch"], state["log"], state["partial"]
            if self.partial:
                device = next(self.model.parameters()).device
                self.partial["sums"] = {name: total.to(device) for name, total in self.partial["sums"].items()}
            # not the loss of the first step any more, but one of as many digits
            before = sum(stage.epochs for stage in self.stages[: self.entered]) - self.begun
            lines = self.log[max(0, before) :]
            self.untrained = lines[0]["loss"] if lines else (self.partial or {}).get("untrained")
            self.told = (self.partial or {}).get("told", {})
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.folder.path} holds a run that cannot be gone on with ({type(error).__name__}: {error}): its "
                "last.pt is damaged or of another version. --resume no starts afresh."
            ) from error
        where = f" and {self.partial['step']} iterations" if self.partial else ""
        say(f"{warning}Resuming {self.folder.path} after epoch {self.start}{where} of {self.epochs}.")
        if lengthened:
            self.folder.description["lengthened"] = lengthened
        if state["epochs"] != self.whole.epochs and self.start < self.epochs:
            say(self.changed_length(state["epochs"], lengthened != state.get("lengthened", [])))

    def changed_length(self, before: int, other: bool) -> str:
        """What another number of epochs than `before` means for the rates; `other`: those that are done differ."""
        found = [lr for _, lr in rates(self.whole, self.epochs, absolute=True)]
        first, last = found[self.start], found[-1]
        now = f"epochs {self.start + 1} to {self.epochs} begin with lr {first:.2e} and end with {last:.2e}"
        if not other:
            return f"{self.whole.epochs} epochs instead of {before}: the rates so far are the same, {now}."
        return (
            f"WARNING: a run of {self.whole.epochs} epochs from the start would have had other rates in the first "
            f"{self.start} than this one, which was made for {before}; its files say so; {now}."
        )

    def due(self, epoch: int) -> bool:
        """Whether `epoch` (from 0) is followed by an evaluation."""
        every = self.whole.eval_every
        begun = epoch + 1 >= self.whole.start_eval
        return epoch + 1 == self.epochs or bool(every and begun and (epoch + 1) % every == 0)

    def begin(self, epoch: int, stop: threading.Event | None = None) -> None:
        """Take up the stage of `epoch`, which the losses are told, ask the hook, and open layers."""
        index, _ = stage_of(self.stages, epoch)
        self.enter(index)
        self.criterion.epoch = epoch
        if index != self.stage:
            self.model.begin_stage(index)
        if self.how.between.hook is not None and not self.partial:
            self.ask(self.how.between.hook, epoch, index, stop)
        open_layers(self.model, self.stages[index].trainable, self.frozen_by_model, self.model.unread(index))
        if index != self.stage:
            self.network, self.stage = self.model, index  # the old one lets go of the parameters first
            if isinstance(self.how.forward, graphs.Replayed):
                self.how.forward.forget()
            self.network = processes.parallel(self.model if self.how.forward is None else self.how.forward)

    def ask(self, hook: Hook, epoch: int, stage: int, stop: threading.Event | None) -> None:
        """Ask the hook what `epoch` trains on, and hand it to the loader and the losses."""
        loader, extract = self.loader, self.how.between.features
        processes.same_everywhere(self.model)  # running statistics
        self.model.eval()
        first = epoch in (self.begun, sum(each.epochs for each in self.stages[:stage]))
        labels = getattr(loader, "labels_of_set", loader.labels)
        features = functools.partial(extract, self.model, loader, stop)
        criteria = tuple(phase.criterion for phase in self.phases)
        moment = Moment(epoch, stage, first, self.how.seed, labels, loader.views.camera, features, self.model, criteria)
        answer, self.told = hook.begin_epoch(moment), {}
        if answer is None:
            return
        who = type(hook).__name__
        answer = checked(answer, len(labels), getattr(self.model, "num_pids", 0), who)
        answer = answer._replace(labels=processes.from_main(answer.labels))
        loader.redraw(answer.labels, answer.inputs)
        self.told = dict(answer.told)
        for _, _, loss in self.criterion.terms if answer.features is not None else ():
            begin: Any = getattr(loss, "begin_epoch", None)
            if begin is not None:
                begin(answer.features, loader.labels)
        processes.same_everywhere(self.criterion)  # what a memory begins as, whatever machine computed it

    def pause(self, now: bool) -> None:
        """Let nothing but `open_layers` and losses move from here on, not even statistics of batch norms; or let all.

        As fast-reid c9bc3ce does (engine/hooks.py, LayerFreeze). A stage would end with an epoch.
        Without `fixbase_learns` of these only the statistics move.
        """
        opened = {id(p) for group in self.recipe.open_layers for p in self.model.layers(group)}
        learning = opened | {id(p) for p in self.criterion.parameters()} if self.recipe.fixbase_learns else set()
        every = itertools.chain(self.model.parameters(), self.criterion.parameters())
        self.resting = [p for p in every if now and id(p) not in learning]
        for module in self.model.modules():
            if not any(id(p) in opened for p in module.parameters()):
                module.training = not now

    def rest(self, *_) -> None:
        """Before a step of the optimiser: no gradient, no step, no momentum (solver/build.py there)."""
        for parameter in self.resting:
            parameter.grad = None

    def paced(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of `epoch` from iteration `first` on, each at its learning rate."""
        (index, counted), steps = stage_of(self.stages, epoch), self.loader.steps(epoch)
        fixed = self.stages[index].lr / self.recipe.lr
        for step, batch in enumerate(self.loader.epoch(epoch, start=first), start=first):
            left = self.recipe.fixbase_iterations - epoch * steps - step
            if self.recipe.fixbase_iterations and (left == 0 or (left > 0 and step == first)):
                self.pause(left > 0)
            if forgets(self.recipe, epoch, counted[0], step, steps):
                self.optimizers[0].state.clear()
            for group in self.optimizers[0].param_groups:
                share = group["base_lr"] / self.recipe.lr
                group["lr"] = group["base_lr"] * (fixed or step_factor(self.recipe, *counted, step, steps, share))
            told = getattr(self.model, "reads_labels", False)
            yield (batch[0], batch[1], batch[2]._replace(label=batch[1])) if told else batch

    def one_epoch(self, epoch: int, writer: checkpoints.Files, stop: threading.Event) -> dict[str, float]:
        """Train `epoch` (from 0), or what is left of it, and write it down; returns the mean of every term."""
        began = time.perf_counter()
        self.begin(epoch, stop)
        first = self.partial["step"] if self.partial else 0
        steps = self.loader.steps(epoch)
        index, counted = stage_of(self.stages, epoch)
        factor = self.stages[index].lr / self.recipe.lr or lr_factor(self.recipe, *counted, steps)
        try:
            means = train_one_epoch(
                self.network,
                self.criterion,
                self.paced(epoch, first),
                self.optimizers,
                Span(epoch, steps, self.partial, f"epoch {epoch + 1}/{self.epochs}", (self.epochs - epoch - 1) * steps),
                self.how,
                stop=stop,
                after_step=self.observe,
            )
        except Interrupted as stopped:
            partial = (stopped.partial or {}) | {"untrained": self.untrained, "told": self.told}
            writer.keep(self.folder, functools.partial(self.everything, partial))
            writer.wait()
            raise Interrupted(
                f"Stopped in epoch {epoch + 1} after iteration {partial['step']}; "
                f"{self.folder.path / checkpoints.LAST} holds everything up to there. The same command goes on from it."
            ) from None
        check_learning(self.model, means["loss"], self.untrained or 0.0, epoch)
        seconds = time.perf_counter() - began
        line = {"epoch": epoch + 1, "lr": self.recipe.lr * factor, "seconds": round(seconds, 3)}
        line["images_per_second"] = round((steps - first) * self.loader.batch_size / seconds, 1)
        self.log.append(line | {name: round(value, 6) for name, value in (means | self.told).items()})
        self.partial = None
        writer.keep(self.folder, self.everything)
        return means

    def observe(self, terms: Terms) -> None:
        """Keep what the losses noticed; tell a loader whose batches depend on it, which waits for the device."""
        self.notes.update(terms.notes)
        if self.untrained is None:
            self.untrained = float(sum(term.detach() for term in terms.values()))
        if getattr(self.loader, "alternate", None):
            self.loader.observe({"balanced": not terms.id_only})

    def make_up(self, evaluate: Evaluate, writer: checkpoints.Files, stop: threading.Event) -> None:
        """What is missing after the last epoch: its evaluation, if it was stopped before it or if another is asked for
        now, and files that are no longer there or no longer whole."""
        line = self.log[-1]
        if "metrics" not in line or line.get("tested", "") != self.folder.tested:
            self.evaluate_now(evaluate, writer, stop)
        else:
            for path in self.weight_files():
                if not checkpoints.intact(path, line["epoch"]):
                    writer.write(path, self.weights)
        writer.write_log(self.log)

    def evaluate_now(self, evaluate: Evaluate, writer: checkpoints.Files, stop: threading.Event) -> None:
        """Keep the weights of the epoch just done and put its results into the last line of the log."""
        for path in self.weight_files():
            writer.write(path, self.weights)
        processes.same_everywhere(self.model)  # running statistics
        self.log[-1] |= {"metrics": evaluate(self.model, stop), "tested": self.folder.tested}
        if self.how.best_on and best(self.log, self.how.best_on) is self.log[-1]:
            writer.write(self.folder.path / "model_best.pt", self.weights)
        writer.keep(self.folder, self.everything)

    def weight_files(self) -> tuple[Path, Path]:
        """Where the weights after the epoch just done are kept."""
        return self.folder.path / f"model_{self.log[-1]['epoch']}.pt", self.folder.path / "model.pt"

    def weights(self) -> dict:
        """What a test needs: the network's weights and what rebuilds the network."""
        return checkpoints.header(self.folder.description, self.begun + len(self.log)) | {
            "model": self.model.state_dict()
        }

    def everything(self, partial: dict | None = None) -> dict:
        """All that a run needs to go on as if it had never stopped; `partial` as in Interrupted."""
        state = checkpoints.header(self.folder.description, self.begun + len(self.log)) | {
            "log": self.log,
            "partial": partial,
        }
        state |= {name: part.state_dict() for name, part in self.parts.items() if hasattr(part, "state_dict")}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        return state | {"epochs": self.whole.epochs, "stage": self.entered}


def best(log: list[dict], on: Sequence[str]) -> dict | None:
    """The line of the log with the highest mean mAP over the test sets `on`, the first of several; None without one."""
    told = [line for line in log if set(on) <= line.get("metrics", {}).keys()]
    return max(told, key=lambda line: sum(line["metrics"][name]["mAP"] for name in on), default=None)


def back_to_best(model: nn.Module, log: list[dict], folder: Path, on: Sequence[str]) -> dict:
    """Give `model` the weights of the `best` epoch of a finished run in `folder`, and answer with its line of the log.

    model_best.pt is written again where it is not there; ValueError if no file holds those weights any more.
    """
    line, path = best(log, on) or log[-1], folder / "model_best.pt"
    if processes.is_main():
        files_of_it = (path, folder / f"model_{line['epoch']}.pt")
        found = next((each for each in files_of_it if checkpoints.intact(each, line["epoch"])), None)
        if found is None:
            raise ValueError(
                f"the weights of epoch {line['epoch']}, the best, are lost: neither {files_of_it[0]} nor "
                f"{files_of_it[1].name} holds them. Leave --keep_best out for the last epoch's, or train anew with "
                "--resume no"
            )
        state = checkpoints.load(found)
        if found != path:
            checkpoints.save(path, state)
        model.load_state_dict(state["model"])
    processes.same_everywhere(model)
    return line


def epoch_line(line: dict, epochs: int) -> str:
    """One line for people: epoch, rate, terms, speed, results."""
    rest = {
        k: v for k, v in line.items() if k not in ("epoch", "lr", "seconds", "images_per_second", "metrics", "tested")
    }
    words = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in rest.items()}
    terms = "  ".join(f"{name} {value}" for name, value in words.items())
    text = f"epoch {line['epoch']:>3}/{epochs}  lr {line['lr']:.2e}  {terms}  {line['images_per_second']:.0f} images/s"
    for name, metrics in line.get("metrics", {}).items():
        text += f"  |  {name} rank-1 {100 * metrics['rank1']:.1f} mAP {100 * metrics['mAP']:.1f}"
    return text


def look_back(folder: checkpoints.Folder, recipe) -> tuple[bool, bool]:
    """(whether the run in `folder` has no epoch left to train, whether its results are those that are asked for).

    ValueError if it is another run: for a look before anything slow.
    """
    found = folder.earlier()
    if found is None:
        return False, False
    state, _ = found
    check_length(state, recipe)
    trained = state["epoch"] == sum(stage.epochs for stage in recipe.plan())
    last = state["log"][-1] if state["log"] else {}
    return trained, trained and "metrics" in last and last.get("tested", "") == folder.tested


def check_length(state: dict, recipe) -> list[int]:
    """The numbers of epochs that the run `state` was made for before it was lengthened past their schedules.

    Another number of epochs is the same run if the epochs that are done keep their rates; a finished run is lengthened
    in any case. ValueError if an unfinished one would have had other rates, or has more epochs behind it.
    """
    lengthened, done = list(state.get("lengthened", [])), state["epoch"]
    if state["epochs"] == recipe.epochs:
        return lengthened
    before = dataclasses.replace(recipe, epochs=state["epochs"])
    of_before, of_now = (sum(stage.epochs for stage in each.plan()) for each in (before, recipe))
    if done > of_now or (state["partial"] and done == of_now):
        raise ValueError(
            f"the run in this folder has {done} epochs behind it, more than the {of_now} of --epochs {recipe.epochs}: "
            "ask for more, or test the weights of an earlier epoch with --mode test --resume_test_epoch EPOCH"
        )
    begun = done + bool(state["partial"])
    if rates(before, begun) == rates(recipe, begun):
        return lengthened
    if done < of_before:
        raise ValueError(
            f"the run in this folder was begun with --epochs {state['epochs']} and is in epoch {done + 1}; with "
            f"--epochs {recipe.epochs} those before would have had other rates (--schedule {recipe.schedule}). Finish "
            "it with the number it was begun with, and lengthen it then; or give another --output_path"
        )
    return [*lengthened, state["epochs"]]


def rates(recipe, epochs: int, absolute: bool = False) -> list[tuple[tuple[str, ...], float]]:
    """(open layers, rate over that of `recipe`, or `absolute`) of each of the first `epochs` epochs."""
    stages, found = recipe.plan(), []
    for epoch in range(epochs):
        index, counted = stage_of(stages, epoch)
        of_stage = recipe.of_stage(index) if stages[index].changes else recipe
        factor = stages[index].lr / of_stage.lr or lr_factor(of_stage, *counted)
        if of_stage is not recipe:
            factor *= of_stage.lr / recipe.lr
        found.append((stages[index].trainable, factor * recipe.lr if absolute else factor))
    return found
