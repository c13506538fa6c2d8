"""Robustness to poor neighbours: accuracy when a share of them is replaced by random pairs (methods.md, section 5)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from retroclip.classifiers import Classifier, zero_shot
from retroclip.errors import RetroclipError
from retroclip.evaluation.bootstrap import RESAMPLES, bootstrap_interval
from retroclip.evaluation.leakage import NEAR, memory_record, shielded
from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.protocols import register_protocol
from retroclip.evaluation.result import Result
from retroclip.evaluation.robustness import replaced, with_noise
from retroclip.evaluation.samples import Samples, load_samples
from retroclip.fusion import ReferenceEncoder

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.fusion import MemoryEncoder
    from retroclip.tasks import Task

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@register_protocol("corrupted-neighbours")
def evaluate_corrupted(
    model: "Encoder | Classifier",
    task: "Task",
    dataset: str | Path,
    *,
    where: str | None = None,
    method: str | None = None,
    share: float = 0.5,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Result:
    """Top-1 of a model that consults a memory or reference set when `share` of its neighbours are random.

    `metrics` have other shares. Images are embedded once. Class texts keep their true neighbours. Baseline: the model
    beneath, which consults nothing. Raises RetroclipError for a model that consults neither.
    """
    if isinstance(model, Classifier) or getattr(model, "consults", None) is None:
        raise RetroclipError("corrupted-neighbours needs a model that consults a memory: --method reco")
    if not 0 <= share <= 1:
        raise RetroclipError(f"share lies between 0 and 1, not {share:g}")
    start = time.perf_counter()
    samples = load_samples(task, dataset, where=where)
    clean, excluded = shielded(model, [samples])
    encoder = cast("MemoryEncoder | ReferenceEncoder", clean)
    embeddings, refined = looked_up(encoder, samples, seed)
    texts, outcomes = zero_shot(clean, task), {}
    for each in sorted({*SHARES, share}):
        outcomes[each] = Outcome.from_logits(_array(texts(refined(each))), samples.labels, keep_scores=False)
    alone = Outcome.from_logits(_array(zero_shot(encoder.base, task)(embeddings)), samples.labels, keep_scores=False)
    value, seconds = outcomes[share].value("top1"), time.perf_counter() - start
    intervals = {
        f"top1 at {each:g}": bootstrap_interval([outcome], "top1", resamples=resamples)
        for each, outcome in outcomes.items() if resamples
    }  # fmt: skip
    return Result(
        task=task.name,
        dataset=samples.dataset,
        split=samples.split,
        n=len(samples),
        protocol="corrupted-neighbours",
        method=method or str(getattr(encoder, "kind", "zero-shot")),
        model="",
        metric=f"top1 at {share:g}",
        value=value,
        interval=intervals.pop(f"top1 at {share:g}", None),
        metrics={f"top1 at {each:g}": outcome.value("top1") for each, outcome in outcomes.items()},
        intervals=intervals,
        baseline="the model beneath, which consults nothing",
        baselines={"top1": alone.value("top1")},
        templates=list(task.templates),
        missing_classes=samples.missing_classes,
        rejected=list(samples.rejected),
        seed=seed,
        data_hash=samples.hash,
        outcomes=[outcomes[share]],
        **memory_record(encoder, excluded, NEAR),
    ).made_by(encoder, seconds=seconds)


def looked_up(
    encoder: "MemoryEncoder | ReferenceEncoder", samples: Samples, seed: int
) -> tuple[torch.Tensor, Callable[[float], torch.Tensor]]:
    """Embeddings (n, d) of the samples under the model beneath, and what becomes of them by the random share."""
    if isinstance(encoder, ReferenceEncoder):
        plain, near = encoder.look_up(samples.images)
        everything = np.arange(encoder.pairs)

        def augmented(share: float) -> torch.Tensor:
            rows, _ = replaced(near.numpy(), everything, share, np.random.default_rng(seed))
            return encoder.augment(plain, torch.from_numpy(rows))

        return plain, augmented
    embeddings = samples.embed_base(encoder.base)
    return embeddings, lambda share: encoder.with_memory(with_noise(encoder.memory, share, seed)).refine_images(
        embeddings
    )


def _array(logits: torch.Tensor) -> NDArray[np.float32]:
    return logits.detach().float().cpu().numpy()
