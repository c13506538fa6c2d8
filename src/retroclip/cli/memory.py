"""`retroclip memory ...`"""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.options import Json, ModelReference, Precision, Where
from retroclip.cli.terminal import is_interactive, print_facts, print_json, print_table, say

app = App(name="memory", help="Make, change, inspect and search a memory of image-text pairs.")

BatchSize = Annotated[int, Parameter(validator=validators.Number(gte=1))]
BlocklistFile = Annotated[
    Path | None,
    Parameter(help="File of pairs to leave out, now and later: sha256:…, md5:…, key:…, source:… or url:… a line."),
]
DryRun = Annotated[bool, Parameter(negative=(), help="Only tell rows, seconds, disk and RAM, from a sample.")]
Check = Annotated[bool, Parameter(help="Compare some imported text embeddings with the model's.")]
MaxRejected = Annotated[float, Parameter(help="Share of bad pairs in the first shard above which to stop.")]


@app.command
def create(
    memory: Path,
    sources: list[str],
    /,
    *,
    model: ModelReference = "builtin",
    precision: Precision = "auto",
    where: Where = None,
    labels_as_captions: Annotated[bool, Parameter(negative=())] = False,
    store_images: bool = True,
    check: Check = True,
    blocklist: BlocklistFile = None,
    build_index: Annotated[bool, Parameter(name="--index")] = True,
    max_rejected: MaxRejected = 0.1,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Embed pairs into a new memory. Interrupted and repeated, it goes on where it stopped.

    Parameters
    ----------
    memory
        Folder to make.
    sources
        Folders (image and same-named .txt or .json, or class sub-folders), tar shards (`{000..012}.tar`), parquet, csv;
        or folders of embeddings in clip-retrieval's layout (img_emb/, text_emb/, metadata/), which are imported as the
        work of the named model.
    labels_as_captions
        Give labelled pairs without caption the caption "a photo of a {label}.".
    store_images
        Keep the images in the memory; customization needs them.
    build_index
        Build a search index at the end where the memory is large enough to need one.
    """
    from retroclip.encoders import load
    from retroclip.memory import Ingest, Keeping, Memory

    encoder = load(model, precision=precision)
    if dry_run:
        _print_estimate(
            memory,
            encoder,
            sources,
            where,
            Ingest(batch_size, labels_as_captions),
            Keeping(store_images, check=check),
            json,
        )
        return
    made = Memory.create(
        memory,
        encoder,
        sources,
        where=where,
        store_images=store_images,
        labels_as_captions=labels_as_captions,
        check=check,
        blocklist=_read_blocklist(blocklist),
        index=build_index,
        max_rejected=max_rejected,
        batch_size=batch_size,
        progress=is_interactive(),
    )
    say(f"{memory}: {len(made)} pairs, {len(made.rejected())} rejected")


@app.command
def add(
    memory: Path,
    sources: list[str],
    /,
    *,
    precision: Precision = "auto",
    where: Where = None,
    known: Literal["skip", "replace"] = "skip",
    check: Check = True,
    blocklist: BlocklistFile = None,
    max_rejected: MaxRejected = 0.1,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Embed more pairs into a memory, with the model that made it. Pairs that are there already are skipped.

    Parameters
    ----------
    known
        What becomes of the pairs with a key that is there: skipped (another picture of the same name gets a new key),
        or put in the place of the old ones.
    """
    from retroclip.encoders import load
    from retroclip.memory import Ingest, Keeping, Memory

    opened = Memory.open(memory)
    encoder = load(opened.model, precision=precision)
    if dry_run:
        kept = opened.manifest.creation
        options = Ingest(batch_size, kept["labels_as_captions"])
        _print_estimate(memory, encoder, sources, where, options, Keeping(kept["store_images"], check=check), json)
        return
    added = opened.add(
        sources,
        encoder,
        where=where,
        known=known,
        check=check,
        blocklist=_read_blocklist(blocklist),
        max_rejected=max_rejected,
        batch_size=batch_size,
        progress=is_interactive(),
    )
    replaced = f"{added.replaced} of them in place of old ones, " if known == "replace" else ""
    say(f"{memory}: {added.rows} pairs added, {replaced}{added.duplicates} were there, {added.rejected} rejected")


def _read_blocklist(path: Path | None) -> Any:
    from retroclip.memory import Blocklist

    return None if path is None else Blocklist.read(path)


def _print_estimate(
    memory: Path, encoder: Any, sources: list[str], where: str | None, options: Any, keeping: Any, json: bool
) -> None:
    from retroclip.memory import estimated

    told = estimated(memory, encoder, sources, where, options, keeping)
    if json:
        print_json(told)
    else:
        print_facts(f"{memory}: nothing was written", told)


@app.command
def delete(memory: Path, /, *, where: Annotated[str, Parameter(help="SQL predicate: which pairs.")]) -> None:
    """Delete the pairs for which a SQL predicate holds, such as "source = 'flickr'"."""
    from retroclip.memory import Memory

    say(f"{memory}: {Memory.open(memory).delete(where)} pairs deleted")


@app.command
def migrate(
    memory: Path, /, *, model: ModelReference, precision: Precision = "auto", batch_size: BatchSize = 64
) -> None:
    """Embed all pairs anew with another model. The old memory answers meanwhile, and is kept beside as MEM.old."""
    from retroclip.encoders import load
    from retroclip.memory import Memory

    opened = Memory.open(memory)
    old = opened.migrate(load(model, precision=precision), batch_size=batch_size)
    say(f"{memory}: {len(opened)} pairs, now of {model}; delete {old} when you don't need it any more")


@app.command
def clean(
    memory: Path,
    /,
    *,
    near: Annotated[float | None, Parameter(help="Pairs whose image nearly is another's (cosine above this).")] = None,
    near_to: Annotated[tuple[str, ...], Parameter(help="Pairs that nearly are an image of this data set.")] = (),
    min_clip_score: Annotated[str | None, Parameter(help="Cosine of image and text, or `quantile`.")] = None,
    blocklist: BlocklistFile = None,
    purge: Annotated[bool, Parameter(negative=(), help="Remove their bytes, too (`memory purge`).")] = False,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only count them.")] = False,
    json: Json = False,
) -> None:
    """Delete unwanted pairs: near copies, mismatched ones, those of evaluation sets, those on a blocklist."""
    if near is None and not near_to and min_clip_score is None and blocklist is None:
        raise WrongUsageError("memory clean: give --near, --near-to, --min-clip-score or --blocklist")
    from retroclip.cli.retrieve import clip_score
    from retroclip.evaluation.cleaning import clean_memory
    from retroclip.memory import Memory

    told = clean_memory(
        Memory.open(memory),
        near=near,
        near_to=near_to,
        min_clip_score=clip_score(min_clip_score),
        blocklist=_read_blocklist(blocklist),
        purge=purge,
        dry_run=dry_run,
    )
    if json:
        print_json(told)
    else:
        print_facts(str(memory), told)


@app.command
def compact(memory: Path, /, *, json: Json = False) -> None:
    """Merge small files and free the room of deleted pairs."""
    from retroclip.memory import Memory

    told = Memory.open(memory).compact()
    if json:
        print_json(told)
    else:
        freed = (told["bytes_before"] - told["bytes"]) / 1e6
        say(f"{memory}: {told['files_before']} files became {told['files']}, {freed:,.1f} MB freed")


@app.command
def purge(memory: Path, /, *, where: Annotated[str, Parameter(help="SQL predicate: which pairs.")]) -> None:
    """Delete pairs and remove their bytes from every file: old versions, indexes and rejected rows included."""
    from retroclip.memory import Memory

    say(f"{memory}: {Memory.open(memory).purge(where)} pairs purged")


@app.command
def export(
    memory: Path,
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

    count = Memory.open(memory).export(directory, format, where=where, images=images)
    say(f"{directory}: {count} pairs written")


@app.command
def index(
    memory: Path,
    /,
    *,
    kind: str = "auto",
    ram: str | None = None,
    recall: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1))] = 0.95,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
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
    for of, plan in opened.plan(kind, ram=ram).items():
        say(f"{of}: " + ", ".join(f"{name} {value}" for name, value in plan.told().items()))
    if not dry_run:
        print_facts("index", opened.index(kind, recall=recall, ram=ram))


@app.command
def info(memory: Path, /, *, json: Json = False) -> None:
    """Tell what a memory holds: pairs, sources, size, model, index."""
    from retroclip.memory import Memory

    facts = Memory.open(memory).info()
    if json:
        print_json(facts)
    else:
        print_facts(str(memory), facts)


@app.command
def verify(memory: Path, /, *, json: Json = False) -> int:
    """Read everything and name what is broken. Exit status 1 if anything is."""
    from retroclip.memory import Memory

    problems = Memory.open(memory).verify()
    if json:
        print_json(problems)
    else:
        for problem in problems:
            print(problem)
    say(f"{memory}: {len(problems)} problems" if problems else f"{memory}: whole")
    return 1 if problems else 0


@app.command
def search(
    memory: Path,
    /,
    *,
    text: str | None = None,
    image: Path | None = None,
    by: Annotated[Literal["image", "text"], Parameter(help="Compare with the pairs' images or captions.")] = "image",
    k: Annotated[int, Parameter(name=["-k", "--k"], validator=validators.Number(gte=1))] = 10,
    where: Where = None,
    json: Json = False,
) -> None:
    """Find the pairs nearest to a text or an image."""
    if (text is None) == (image is None):
        raise WrongUsageError("memory search: give either --text or --image")
    from retroclip.encoders import load
    from retroclip.memory import Memory

    opened = Memory.open(memory)
    encoder = load(opened.model)
    opened.check_encoder(encoder)
    query = encoder.encode_images([image]) if image is not None else encoder.encode_texts([str(text)])
    hits = opened.search(query, by=by, k=k, where=where)
    ids, scores = hits.ids[0], hits.scores[0]
    found = opened.take(ids[ids >= 0], ["key", "caption", "label", "source", "license"]).to_pylist()
    rows = [
        {"score": round(float(score), 4), "id": int(row_id)} | row
        for score, row_id, row in zip(scores, ids, found, strict=False)
    ]
    if json:
        print_json(rows)
    else:
        columns = ["score", "key", "caption", "label"]
        print_table(f"{text or image} in {memory}", columns, [[row[name] for name in columns] for row in rows])
