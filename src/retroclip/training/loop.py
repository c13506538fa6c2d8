"""The one training loop: every recipe is an objective, a stream of batches and a handful of numbers handed to `fit`."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from retroclip.errors import DivergedError, RetroclipError
from retroclip.training.sharding import Sharded, Whole

SHARES = "shares"


@dataclass
class History:
    """One row a logged step: `step`, `epoch`, `lr`, `seconds` since the start and the numbers of the objective."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[float]:
        return [row[name] for row in self.rows if name in row]


def warmup_cosine(step: int, *, steps: int, warmup: int) -> float:
    """Factor on the learning rate at `step`: linear from 1/warmup to 1, then a half cosine to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def parameter_groups(
    module: nn.Module, *, lr: float, weight_decay: float, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """AdamW groups over the trainable parameters: no weight decay on vectors and scalars (biases, norms, logit_scale).

    `lr_scale(name)` multiplies the learning rate of one parameter, so that a warm-started tower can move more slowly.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.ndim > 1 else 0.0
            # What lies in shares (`sharding`) can't be updated in one go with what doesn't.
            key = (lr * lr_scale(name), decay, hasattr(parameter, "full_tensor"))
            groups.setdefault(key, []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay, _), params in groups.items()]


def adamw(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    lr_scale: Callable[[str], float],
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`."""
    groups = parameter_groups(module, lr=lr, weight_decay=weight_decay, lr_scale=lr_scale)
    # fused: one pass over the parameters instead of a dozen (B/32's gates on a CPU, one thread: 0.09 for 0.78 s)
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)


def fit(
    objective: nn.Module,
    batches: Callable[[int], Iterable[Any]],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-8,
    warmup: int = 0,
    grad_clip: float | None = None,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    after_step: Callable[[], None] | None = None,
    checkpoint: Path | None = None,
    save_every: int = 500,
    log_every: int = 10,
    on_log: Callable[[dict[str, float]], None] | None = None,
    shard: bool = False,
    seed: int = 0,
) -> History:
    """Minimise `objective(batch)["loss"]` with AdamW, warm-up and cosine decay to 0.

    `objective` is a module whose forward takes a batch and returns a dict of scalar tensors with a "loss"; what it
    keeps frozen should not be registered on it, so that neither the optimiser nor a checkpoint carries it.
    `batches(epoch)` gives one epoch and depends on nothing but `epoch`. `after_step` runs after each update, to clamp
    a temperature, say. `on_log` takes each row of the history, on the main process only. `lr_scale(name)`: see
    `parameter_groups`.

    With `checkpoint` (a folder), the state is written there every `save_every` steps and at the end, under a temporary
    name first, and a killed run goes on from it with the result of an undisturbed one. Starts under `torchrun` or
    `accelerate launch` as it is; there, `shard` shares weights, gradients and optimiser state out over the processes
    (`sharding`), for objectives whose forward reaches all of their parameters. Raises DivergedError when the loss
    is not finite, RetroclipError for a checkpoint that was shared out otherwise, ValueError without a batch.
    """
    set_seed(seed)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    kind = Sharded if shard and accelerator.num_processes > 1 else Whole
    settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
    state = kind(objective, accelerator, partial(adamw, lr_scale=lr_scale, **settings))
    model, optimizer = state.model, state.optimizer
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        state.schedulable, lambda step: warmup_cosine(step, steps=steps, warmup=warmup)
    )
    accelerator.register_for_checkpointing(scheduler)
    model.train()

    history, step, epoch, skip, spent = History(), 0, 0, 0, 0.0
    if checkpoint is not None and _recover(accelerator, checkpoint, shared=kind is Sharded):
        accelerator.load_state(str(checkpoint))
        state.load(checkpoint / SHARES)
        progress = json.loads((checkpoint / "progress.json").read_text())
        history.rows = progress["rows"]
        step, epoch, skip, spent = (progress[name] for name in ("step", "epoch", "skip", "seconds"))
    start = time.perf_counter() - spent
    while step < steps:
        before = step
        for batch in islice(batches(epoch), skip, None):
            values: dict[str, Tensor] = model(batch)
            accelerator.backward(values["loss"])
            state.finish_gradients(grad_clip)
            rate = float(scheduler.get_last_lr()[0])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
            if after_step is not None:
                after_step()
            step, skip = step + 1, skip + 1
            if step % log_every == 0 or step == steps:
                seconds = time.perf_counter() - start
                row: dict[str, float] = {"step": step, "epoch": epoch, "lr": rate, "seconds": seconds}
                row |= {name: float(value.detach()) for name, value in values.items()}
                if not math.isfinite(row["loss"]):
                    raise DivergedError(f"the loss is {row['loss']} at step {step}: lower the learning rate")
                history.rows.append(row)
                state.write_back()
                if on_log is not None and accelerator.is_main_process:
                    on_log(row)
            if checkpoint is not None and (step % save_every == 0 or step == steps):
                progress = {"step": step, "epoch": epoch, "skip": skip, "seconds": time.perf_counter() - start}
                _save(accelerator, state, checkpoint, {**progress, "rows": history.rows})
            if step == steps:
                break
        if step == before and skip == 0:
            raise ValueError("an epoch without a single batch: there is nothing to train on")
        epoch, skip = epoch + 1, 0
    accelerator.wait_for_everyone()
    objective.eval()
    return history


def _save(accelerator: Accelerator, state: Whole | Sharded, checkpoint: Path, progress: dict[str, Any]) -> None:
    """Write the whole state beside `checkpoint` and swap it in, so that a kill at any moment leaves a usable one."""
    fresh, stale = _beside(checkpoint)
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    state.save(fresh / SHARES)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (fresh / "progress.json").write_text(json.dumps(progress))
        shutil.rmtree(stale, ignore_errors=True)
        if checkpoint.exists():
            checkpoint.rename(stale)
        fresh.rename(checkpoint)
        shutil.rmtree(stale, ignore_errors=True)
    accelerator.wait_for_everyone()


def _recover(accelerator: Accelerator, checkpoint: Path, *, shared: bool) -> bool:
    """Whether there is a state to go on from; one that a kill kept from its name between two renamings is put back.

    Raises RetroclipError for one that is whole where it is to be `shared` out, or the other way round.
    """
    _, stale = _beside(checkpoint)
    if accelerator.is_main_process and not checkpoint.exists() and stale.exists():
        stale.rename(checkpoint)
    accelerator.wait_for_everyone()
    there = (checkpoint / "progress.json").exists()
    if there and (checkpoint / SHARES).exists() != shared:
        raise RetroclipError(
            f"{checkpoint} was saved {'whole' if shared else 'in shares (shard)'}, and this run keeps it otherwise: go "
            "on with shard and as many processes as it was begun with, or delete it"
        )
    return there


def _beside(checkpoint: Path) -> tuple[Path, Path]:
    return checkpoint.with_name(checkpoint.name + ".new"), checkpoint.with_name(checkpoint.name + ".old")
