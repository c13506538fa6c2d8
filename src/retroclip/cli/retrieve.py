"""`retroclip retrieve`"""

import math
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import MemoryName, Where, split_words
from retroclip.cli.terminal import print_facts, say, with_progress


@with_progress
def retrieve(
    memory: MemoryName,
    task: str,
    /,
    *,
    out: Path,
    search: str = "t2t,t2i",
    k: Annotated[
        int,
        Parameter(
            name=["-k", "--k"], help="Pairs per class, template and search mode.", validator=validators.Number(gte=1)
        ),
    ] = 50,
    where: Where = None,
    min_clip_score: str | None = None,
    exclude_near: str | None = None,
    max_per_class: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    selection: Literal["rank", "cover"] = "rank",
) -> None:
    """Find a memory's pairs for a task from its class names alone.

    Parameters
    ----------
    memory
        The memory to search.
    task
        A catalogue name (`retroclip tasks`), a YAML file, a .txt of one class a line, or `'cat, dog'`.
    out
        Folder to write the pairs to.
    search
        t2t: class texts against captions; t2i: class texts against images.
    min_clip_score
        Drop pairs whose image and caption agree less: a cosine, or `quantile` for the lowest 6.5 %.
    exclude_near
        A data set whose near-duplicates are left out, such as the one to evaluate on.
    max_per_class
        Keep at most so many pairs of each class.
    selection
        Which to keep then: the best ranked, or those that cover the others best (facility location).
    """
    threshold, modes = clip_score(min_clip_score), search_modes(search)

    from retroclip.memory import Memory
    from retroclip.pairs import load_labelled
    from retroclip.retrieval import named_classes
    from retroclip.retrieval import retrieve as retrieve_pairs
    from retroclip.tasks import Task

    found = retrieve_pairs(
        Memory.open(memory),
        Task.load(task),
        search=modes,
        k=k,
        where=where,
        min_clip_score=threshold,
        exclude_near=load_labelled(exclude_near) if exclude_near else None,
        max_per_class=max_per_class,
        selection=selection,
    )
    found.save(out)
    print_facts(f"{len(found)} pairs for {found.task.name} in {out}", found.provenance)
    if len(found) and not any(named_classes(found.captions, found.task)):
        say("no caption of theirs names a class: they are what the memory has nearest, perhaps nothing of the task")


def search_modes(text: str) -> tuple[str, ...]:
    """`t2t,t2i` → ("t2t", "t2i"); WrongUsageError for anything else."""
    modes = split_words(text)
    if not modes or not set(modes) <= {"t2t", "t2i"}:
        raise WrongUsageError(f"retrieve: --search is t2t, t2i or t2t,t2i, not {text!r}")
    return modes


def clip_score(text: str | None) -> float | Literal["quantile"] | None:
    """A cosine, "quantile" or nothing; WrongUsageError for anything else."""
    if text is None:
        return None
    if text == "quantile":
        return "quantile"
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not -1 <= score <= 1:
        raise WrongUsageError(f"--min-clip-score is a cosine, from -1 to 1, or `quantile`, not {text!r}")
    return score
