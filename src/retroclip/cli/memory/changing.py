"""`retroclip memory delete`, `clean`, `compact`, `purge`, `index` and `export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.memory.app import BlocklistFile, Predicate, app, read_blocklist, shown_index
from retroclip.cli.options import Json, MemoryName, Where
from retroclip.cli.terminal import print_facts, print_json, say

OnlyCount = Annotated[bool, Parameter(name="--dry-run", negative=(), help="Only count them.")]


@app.command
def delete(memory: MemoryName, /, *, where: Predicate, dry_run: OnlyCount = False) -> None:
    """Delete the pairs for which a SQL predicate holds, such as "source = 'flickr'"."""
    from retroclip.memory import Memory

    opened = Memory.open(memory)
    if dry_run:
        say(f"{memory}: {opened.count(where)} pairs would be deleted")
    else:
        say(f"{memory}: {opened.delete(where)} pairs deleted")


@app.command
def clean(
    memory: MemoryName,
    /,
    *,
    near: Annotated[
        float | None,
        Parameter(
            help="Pairs whose image nearly is another's (cosine above this).", validator=validators.Number(gt=0, lte=1)
        ),
    ] = None,
    near_to: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Pairs that nearly are an image of this data set.")
    ] = (),
    min_clip_score: Annotated[str | None, Parameter(help="Cosine of image and text, or `quantile`.")] = None,
    blocklist: BlocklistFile = None,
    purge: Annotated[bool, Parameter(negative=(), help="Remove their bytes, too (`memory purge`).")] = False,
    dry_run: OnlyCount = False,
    json: Json = False,
) -> None:
    """Delete unwanted pairs: near copies, mismatched ones, those of evaluation sets, those on a blocklist."""
    if near is None and not near_to and min_clip_score is None and blocklist is None:
        raise WrongUsageError("memory clean: give --near, --near-to, --min-clip-score or --blocklist")
    from retroclip.cli.retrieve import clip_score
    from retroclip.evaluation.cleaning import clean_memory
    from retroclip.memory import Memory

    opened, listed = Memory.open(memory), read_blocklist(blocklist)
    unseen = opened.count("image IS NULL") if listed and listed.hashes else 0
    told = clean_memory(
        opened,
        near=near,
        near_to=near_to,
        min_clip_score=clip_score(min_clip_score),
        blocklist=listed,
        purge=purge,
        dry_run=dry_run,
        progress=True,
    )
    if listed and unseen:
        say(
            f"{memory}: {unseen} pairs keep no image: the sha256 and md5 entries of {blocklist} ({listed.hashes}) "
            "could not be compared with them"
        )
    if json:
        print_json(told)
    else:
        print_facts(str(memory), told)


@app.command
def compact(memory: MemoryName, /, *, json: Json = False) -> None:
    """Merge small files and free the room of deleted pairs."""
    from retroclip.memory import Memory

    told = Memory.open(memory).compact()
    if json:
        print_json(told)
    else:
        say(f"{memory}: {told['files_before']} files became {told['files']}, {_room(told)}")


def _room(told: dict[str, int]) -> str:
    """What a compaction did to the room that a memory takes."""
    freed = (told["bytes_before"] - told["bytes"]) / 1e6
    kept = "; versions of the last day are kept for others who read them" if told["old_versions_kept"] else ""
    return f"{abs(freed):,.1f} MB {'freed' if round(freed, 1) >= 0 else 'more'}{kept}"


@app.command
def purge(memory: MemoryName, /, *, where: Predicate, dry_run: OnlyCount = False) -> None:
    """Delete pairs and remove their bytes from every file: old versions, indexes and rejected rows included."""
    from retroclip.memory import Memory

    count = Memory.open(memory).purge(where, dry_run=dry_run)
    say(f"{memory}: {count} pairs {'would be ' if dry_run else ''}purged")


def _size(_: object, text: str | None) -> None:
    from retroclip.errors import MemoryStoreError
    from retroclip.memory.planner import parsed_size

    try:
        if text is not None:
            parsed_size(text)
    except MemoryStoreError as error:
        raise ValueError(str(error)) from None


@app.command
def index(
    memory: MemoryName,
    /,
    *,
    kind: str = "auto",
    ram: Annotated[str | None, Parameter(validator=_size)] = None,
    recall: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1))] = 0.95,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Build the search indexes, or bring them up to date. Small memories need none: they are searched exactly.

    Parameters
    ----------
    kind
        auto, exact, flat, hnsw, ivf (8-bit rows in lists), ivfpq, or a FAISS factory string.
    ram
        What the indexes may take while they are searched, such as 8GB. Default: half of what is free.
    recall
        Wanted recall@10; what was measured is stored beside the index.
    dry_run
        Only tell what would be built.
    """
    from retroclip.memory import Memory

    opened = Memory.open(memory)
    plans = opened.plan(kind, ram=ram)
    if not plans:
        say(f"{memory}: no pairs to index")
    for of, plan in plans.items():
        say(f"{of}: " + ", ".join(f"{name} {value}" for name, value in plan.told().items()))
    told = (
        {of: asdict(plan) for of, plan in plans.items()}
        if dry_run
        else opened.index(kind, recall=recall, ram=ram, progress=True)
    )
    for of, samples in ({} if dry_run else told["recall"]).items():
        lowest = min((each["10"] for each in samples.values()), default=1.0)
        if lowest < recall:
            say(f"{of}: recall@10 is only {lowest:.3f}, not the {recall:g} wanted: choose another kind, such as flat")
    if json:
        print_json(told)
    elif not dry_run:
        print_facts("index", shown_index(told))


@app.command
def export(
    memory: MemoryName,
    directory: Path,
    /,
    *,
    format: Annotated[Literal["clip-retrieval", "webdataset", "parquet"], Parameter(name="--format")],
    where: Where = None,
    images: bool = True,
) -> None:
    """Write a memory's pairs as a new folder that other tools read; read back, nothing has changed.

    Parameters
    ----------
    format
        clip-retrieval: embeddings, metadata and images; webdataset: tar shards; parquet: pairs without embeddings.
    images
        Put the stored images into the metadata of clip-retrieval's layout.
    """
    from retroclip.memory import Memory

    count = Memory.open(memory).export(directory, format, where=where, images=images, progress=True)
    say(f"{directory}: {count} pairs written")
