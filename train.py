"""Optimisers, schedule, ``train_one_epoch`` and ``fit``.

The loop knows a model that answers with an Output, a criterion that answers with named terms, and a loader whose
batches are a function of (seed, epoch, position). It knows no method, no loss and no data set by name.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import checkpoints

HEARTBEAT = 20  # iterations between looks at the loss values: each is a wait for the device


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived. Inside an epoch `partial` holds what its remaining iterations need."""

    def __init__(self, message: str = "", partial: dict | None = None):
        super().__init__(message)
        self.partial = partial


# ---------------------------------------------------------------------------------------------------------------------
# Optimisers and schedule
# ---------------------------------------------------------------------------------------------------------------------


def build_optimizers(model: nn.Module, criterion: nn.Module, recipe) -> list[torch.optim.Optimizer]:
    """The main optimiser, then a plain SGD for each loss that asks for one (``sgd_lr``).

    Backbone parameters (``base.*``) get ``lr * base_lr_mult``, all others ``lr``. A loss with ``sgd_lr`` (center
    loss) gets SGD at ``sgd_lr / weight``: its authors divide the gradient by the weight before the step
    (reid-strong-baseline 3da7e6f, engine/trainer.py), which for plain SGD is the same step.
    """
    own = {id(p) for _, _, loss in criterion.terms if getattr(loss, "sgd_lr", None) for p in loss.parameters()}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in (*model.named_parameters(), *criterion.named_parameters()):
        if parameter.requires_grad and id(parameter) not in own:
            scale = recipe.base_lr_mult if name.startswith("base.") else 1.0
            groups.setdefault(scale, []).append(parameter)
    groups_of_main = [{"params": p, "lr": recipe.lr * scale} for scale, p in sorted(groups.items())]
    optimizers = [main_optimizer(recipe, groups_of_main)]
    for _, weight, loss in criterion.terms:
        if getattr(loss, "sgd_lr", None):
            optimizers.append(torch.optim.SGD(loss.parameters(), lr=loss.sgd_lr / weight))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


OPTIMIZERS = ("adam", "adamw", "amsgrad", "sgd")


def main_optimizer(recipe, groups: list[dict]) -> torch.optim.Optimizer:
    """``adam``, ``amsgrad`` and ``sgd`` add weight decay to the gradient, as the published recipes do; ``adamw`` does
    not. All run fused."""
    decay = recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decay, fused=True
        )
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=decay, fused=True)
    if recipe.optimizer in ("adam", "amsgrad"):
        return torch.optim.Adam(groups, weight_decay=decay, amsgrad=recipe.optimizer == "amsgrad", fused=True)
    raise ValueError(f"optimizer '{recipe.optimizer}' is not known; choose one of {', '.join(OPTIMIZERS)}")


SCHEDULES = ("multistep", "cosine", "exponential", "constant")


def lr_factor(recipe, epoch: int, epochs: int) -> float:
    """Learning rate of `epoch` (from 0, of `epochs`) over the base rate.

    warm-up      linear from `warmup_factor`, over `warmup_epochs`: with t = epoch + 1 and a = t / warmup_epochs,
                 f (1 - a) + a  (reid-strong-baseline 3da7e6f, solver/lr_scheduler.py)
    multistep    times `gamma` after each epoch count in `milestones`
    cosine       0.5 (1 + cos(pi epoch / epochs)), from the end of the warm-up on
    exponential  `gamma` ** ((t - t0) / (epochs - t0)) after t0 = milestones[0] epochs (triplet loss, Hermans et al.,
                 sec. 4.2; AlignedReID's recipe)
    """
    warm = 1.0
    if epoch + 1 < recipe.warmup_epochs:
        a = (epoch + 1) / recipe.warmup_epochs
        warm = recipe.warmup_factor * (1 - a) + a
    if recipe.schedule == "multistep":
        return warm * recipe.gamma ** sum(epoch >= m for m in recipe.milestones)
    if recipe.schedule == "cosine":
        start = recipe.warmup_epochs
        done = max(0, epoch - start) / max(1, epochs - start)
        return warm * 0.5 * (1 + math.cos(math.pi * done))
    if recipe.schedule == "exponential":
        start = recipe.milestones[0] if recipe.milestones else 0
        return warm * recipe.gamma ** (max(0, epoch + 1 - start) / max(1, epochs - start))
    if recipe.schedule == "constant":
        return warm
    raise ValueError(f"schedule '{recipe.schedule}' is not known; choose one of {', '.join(SCHEDULES)}")


def stage_of(stages, epoch: int):
    """The stage that `epoch` (from 0) falls in, with the epoch and the number of epochs its schedule counts."""
    start = 0
    for stage in stages:
        if epoch < start + stage.epochs:
            return stage, (epoch - start, stage.epochs) if stage.restart else (epoch, sum(s.epochs for s in stages))
        start += stage.epochs
    raise ValueError(f"epoch {epoch} lies behind the {start} epochs of the plan")


def open_layers(model: nn.Module, trainable: tuple[str, ...], frozen_by_model: set[str]) -> None:
    """Let parameters under the prefixes `trainable` move (empty: all) and put the rest to sleep.

    Modules without a single moving parameter go to eval mode, so that their BatchNorm statistics stay as they are.
    `frozen_by_model` names what the model itself never trains (the bias of the BN neck).
    """
    model.train()
    if trainable and not any(name.startswith(trainable) for name, _ in model.named_parameters()):
        raise ValueError(
            f"a training stage opens only {', '.join(trainable)}, but the network has no parameter of such a name; "
            "set --fixbase_epochs 0"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen_by_model and (not trainable or name.startswith(trainable)))
    for name, module in model.named_modules():
        if trainable and name and not f"{name}.".startswith(tuple(f"{prefix}." for prefix in trainable)):
            if not any(child.startswith(f"{name}.") for child in trainable):
                module.train(False)


# ---------------------------------------------------------------------------------------------------------------------
# One epoch
# ---------------------------------------------------------------------------------------------------------------------


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A seed for what a network draws in one iteration (dropout): a function of (seed, epoch, step) alone."""
    return ((seed * 1_000_003 + epoch) * 1_000_003 + step) % (2**63 - 1)


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    batches: Iterator,
    optimizers: list[torch.optim.Optimizer],
    *,
    epoch: int,
    num_steps: int,
    partial: dict | None = None,
    seed: int = 0,
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    scaler: torch.amp.GradScaler | None = None,
    clip_grad: float = 0.0,
    label: str = "",
    stop: threading.Event | None = None,
    on_terms: Callable[[dict[str, torch.Tensor]], None] | None = None,
) -> dict[str, float]:
    """Train over `batches` of (images (B, 3, H, W), labels (B,), camids (B,)); returns the mean of every term.

    `partial` is what an Interrupted of this epoch carried: {"step", "sums"}; `batches` then start at that step.
    Raises FloatingPointError when the loss is no longer a number, Interrupted when `stop` is set.
    """
    count, sums = (partial["step"], dict(partial["sums"])) if partial else (0, {})
    bar = tqdm(batches, total=num_steps, initial=count, desc=label, unit="batch", leave=False, dynamic_ncols=True)
    for step, (images, labels, camids) in enumerate(bar, start=count):
        torch.manual_seed(step_seed(seed, epoch, step))
        with autocast():
            output = model(images, camids)
            terms = criterion(output, labels)
            loss = sum(terms.values())
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        backward_and_step(loss, model, optimizers, scaler, clip_grad)
        if on_terms:
            on_terms(terms)
        for name, term in (("loss", loss), *terms.items()):
            sums[name] = sums[name] + term.detach() if name in sums else term.detach().clone()
        count = step + 1
        if count % HEARTBEAT == 0 or count == num_steps:
            bar.set_postfix({name: f"{float(total) / count:.3f}" for name, total in sums.items()})
            check_finite(sums, epoch, step)
        if stop is not None and stop.is_set() and count < num_steps:
            raise Interrupted(partial={"step": count, "sums": sums})
    return {name: float(total) / max(count, 1) for name, total in sums.items()}


def backward_and_step(loss, model, optimizers, scaler, clip_grad: float) -> None:
    """Backward pass and one step of every optimiser; `scaler` is None or disabled where nothing is scaled."""
    if scaler is None:
        scaler = torch.amp.GradScaler(enabled=False)
    scaler.scale(loss).backward()
    if clip_grad:
        scaler.unscale_(optimizers[0])
        nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()


def check_finite(sums: dict[str, torch.Tensor], epoch: int, step: int) -> None:
    """FloatingPointError that names the terms which are NaN or infinite, and says what helps."""
    bad = [name for name, total in sums.items() if not math.isfinite(float(total))]
    if bad:
        raise FloatingPointError(
            f"epoch {epoch + 1}, iteration {step + 1}: {', '.join(bad)} is not finite. The checkpoint of the last "
            "finished epoch is kept. Lower --lr, lengthen --warmup_epochs, set --clip_grad 5, or, with --amp fp16, "
            "use --amp bf16 or none; then start again with another --output_path."
        )


# ---------------------------------------------------------------------------------------------------------------------
# A whole run
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stop_on_signals():
    """An Event that SIGINT (Ctrl-C) or SIGTERM sets; a second signal ends the process at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(
    model: nn.Module,
    criterion: nn.Module,
    loader,
    recipe,
    *,
    output_path: Path,
    description: dict,
    device: torch.device,
    seed: int = 0,
    resume: bool = True,
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    scaler: torch.amp.GradScaler | None = None,
    forward: nn.Module | None = None,
    evaluate: Callable[[nn.Module, threading.Event], dict[str, dict]],
    say: Callable[[str], None] = print,
) -> list[dict]:
    """Train `model` by `recipe` and return the log, one dict per epoch.

    loader       ``loader.steps(epoch)``, ``loader.epoch(epoch)`` and, where the batches depend on what was seen,
                 ``loader.observe``, ``loader.state_dict``, ``loader.load_state_dict``
    description  plain values that rebuild the model (recipe name, overrides, num_pids); kept in every checkpoint and
                 compared on resume: a folder that holds another run is a ValueError
    forward      what is called in place of `model` (its compiled or distributed form)
    evaluate     called with (model, stop) after every ``eval_every`` epochs and the last: {data set: {metric: value}}

    Files in `output_path`: last.pt (all that is needed to go on; every epoch), log.jsonl (a line per epoch),
    model_<epoch>.pt (weights at each evaluation), model.pt (the newest of those). Raises Interrupted after a signal.
    """
    output_path.mkdir(parents=True, exist_ok=True)
    stages, epochs = recipe.plan(), sum(stage.epochs for stage in recipe.plan())
    frozen_by_model = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    optimizers = build_optimizers(model, criterion, recipe)
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    log, start, partial = [], 0, None
    parts = {"model": model, "criterion": criterion, "scaler": scaler, "loader": loader}
    last_pt = output_path / "last.pt"
    if resume and last_pt.exists():
        start, log, partial = restore(last_pt, description, parts, optimizers, device)
        where = f" and {partial['step']} iterations" if partial else ""
        say(f"Resuming {last_pt} after epoch {start}{where} of {epochs} (--resume no starts afresh).")
    board = tensorboard(output_path)

    def due(epoch: int) -> bool:
        return epoch + 1 == epochs or bool(recipe.eval_every and (epoch + 1) % recipe.eval_every == 0)

    with stop_on_signals() as stop:
        if log and due(start - 1) and "metrics" not in log[-1]:  # stopped between the epoch and its evaluation
            evaluate_epoch(model, evaluate, description, output_path, log[-1], stop)
            save_last(last_pt, description, parts, optimizers, log)
            write_log(output_path / "log.jsonl", log)
            say(epoch_line(log[-1], epochs))
        for epoch in range(start, epochs):
            stage, (counted, of) = stage_of(stages, epoch)
            factor = lr_factor(recipe, counted, of)
            for group in optimizers[0].param_groups:
                group["lr"] = group["base_lr"] * factor
            open_layers(model, stage.trainable, frozen_by_model)
            began, first = time.perf_counter(), partial["step"] if partial else 0
            try:
                means = train_one_epoch(
                    forward or model,
                    criterion,
                    loader.epoch(epoch, start=first),
                    optimizers,
                    epoch=epoch,
                    num_steps=loader.steps(epoch),
                    partial=partial,
                    seed=seed,
                    autocast=autocast,
                    scaler=scaler,
                    clip_grad=recipe.clip_grad,
                    label=f"epoch {epoch + 1}/{epochs}",
                    stop=stop,
                    on_terms=getattr(loader, "observe", None),
                )
            except Interrupted as stopped:
                save_last(last_pt, description, parts, optimizers, log, stopped.partial)
                step = stopped.partial["step"]
                raise Interrupted(
                    f"Stopped in epoch {epoch + 1} after iteration {step}; {last_pt} holds everything up to there. "
                    "The same command goes on from it."
                ) from None
            seconds = time.perf_counter() - began
            line = {"epoch": epoch + 1, "lr": recipe.lr * factor, "seconds": round(seconds, 3)}
            line["images_per_second"] = round((loader.steps(epoch) - first) * loader.batch_size / seconds, 1)
            line |= {name: round(value, 6) for name, value in means.items()}
            partial = None
            log.append(line)
            save_last(last_pt, description, parts, optimizers, log)
            if due(epoch):
                evaluate_epoch(model, evaluate, description, output_path, line, stop)
                save_last(last_pt, description, parts, optimizers, log)
            write_log(output_path / "log.jsonl", log)
            say(epoch_line(line, epochs))
            for advice in criterion.collapsed(means) if epoch else ():
                say(f"WARNING: {advice}")
            if board:
                for name, value in line.items():
                    if isinstance(value, (int, float)) and name != "epoch":
                        board.add_scalar(name, value, epoch + 1)
    if board:
        board.close()
    return log


def evaluate_epoch(model, evaluate, description: dict, output_path: Path, line: dict, stop) -> None:
    """Keep the weights of the epoch just done, as model_<epoch>.pt and model.pt, and put its results into `line`."""
    state = weights(model, description, line["epoch"])
    checkpoints.save(output_path / f"model_{line['epoch']}.pt", state)
    checkpoints.save(output_path / "model.pt", state)
    line["metrics"] = evaluate(model, stop)


def epoch_line(line: dict, epochs: int) -> str:
    """One line for people: epoch, rate, terms, speed, results."""
    rest = {k: v for k, v in line.items() if k not in ("epoch", "lr", "seconds", "images_per_second", "metrics")}
    terms = "  ".join(f"{name} {value:.4f}" for name, value in rest.items())
    text = f"epoch {line['epoch']:>3}/{epochs}  lr {line['lr']:.2e}  {terms}  {line['images_per_second']:.0f} images/s"
    for name, metrics in line.get("metrics", {}).items():
        text += f"  |  {name} rank-1 {100 * metrics['rank1']:.1f} mAP {100 * metrics['mAP']:.1f}"
    return text


def weights(model: nn.Module, description: dict, epoch: int) -> dict:
    """What a test needs: the network's weights and what rebuilds the network."""
    return {"format": checkpoints.FORMAT, **description, "epoch": epoch, "model": model.state_dict()}


def save_last(path: Path, description: dict, parts: dict, optimizers, log: list[dict], partial=None) -> None:
    """Everything that a run needs to go on as if it had never stopped; `partial` as in Interrupted."""
    state = {"format": checkpoints.FORMAT, **description, "epoch": len(log), "log": log, "partial": partial}
    state |= {name: part.state_dict() for name, part in parts.items() if hasattr(part, "state_dict")}
    state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    checkpoints.save(path, state)


def restore(path: Path, description: dict, parts: dict, optimizers, device) -> tuple[int, list[dict], dict | None]:
    """Load `path` into the parts; returns (epochs done, log, partial). ValueError if it is of another run."""
    state = checkpoints.load(path)
    for key, ours in description.items():
        theirs = state.get(key)
        if theirs != ours:
            raise ValueError(
                f"{path} holds a run with other settings ({key}: {difference(theirs, ours)}). Give another "
                "--output_path, the same settings as before, or --resume no to start afresh in this folder."
            )
    for name, part in parts.items():
        if hasattr(part, "load_state_dict") and name in state:
            part.load_state_dict(state[name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    partial = state["partial"]
    if partial:
        partial["sums"] = {name: total.to(device) for name, total in partial["sums"].items()}
    return state["epoch"], state["log"], partial


def difference(theirs, ours) -> str:
    """The first few entries in which two settings differ, for a message."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
        return ", ".join(f"{k} was {theirs.get(k, 'default')!r}, now {ours.get(k, 'default')!r}" for k in keys[:5])
    return f"was {theirs!r}, now {ours!r}"


def write_log(path: Path, log: list[dict]) -> None:
    """log.jsonl anew, so that a resumed run never holds an epoch twice."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
    temporary.replace(path)


def tensorboard(output_path: Path):
    """A SummaryWriter if TensorBoard is installed, else None (log.jsonl holds the same numbers)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(output_path / "tensorboard")
