"""`retroclip memory create`, `add` and `migrate`: what encodes."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.memory.app import BatchSize, BlocklistFile, app, read_blocklist
from retroclip.cli.options import Json, MemoryName, ModelReference, Precision, Where
from retroclip.cli.terminal import print_facts, print_json, say

if TYPE_CHECKING:
    from retroclip.pairs import Rejected

DryRun = Annotated[bool, Parameter(negative=(), help="Only tell rows, seconds, disk and RAM, from a sample.")]
Check = Annotated[bool, Parameter(help="Compare some imported text embeddings with the model's.")]
MaxRejected = Annotated[float, Parameter(help="Share of bad pairs in the first shard above which to stop.")]
Images = Annotated[
    Literal["store", "thumbnail", "none"],
    Parameter(
        help="Keep them, JPEGs of at most 320 pixels a side, or only their source; customization and migrate need some."
    ),
]
Ray = Annotated[
    tuple[str, ...] | None,
    Parameter(
        name="--ray",
        consume_multiple=True,
        negative=(),
        help="Encode on the Ray at this address (`auto`, `host:6379`), or on one started here; give it last.",
    ),
]
Workers = Annotated[
    int | None, Parameter(validator=validators.Number(gte=1), help="How many processes encode on Ray; default: as fit.")
]

NAMED = 5
"""How many rejected pairs are named at the end; `memory info --rejected` lists all."""


@dataclass(frozen=True)
class Filling:
    """Options that `create` and `add` share: which pairs are taken, and how they are encoded."""

    check: Check = True
    blocklist: BlocklistFile = None
    max_rejected: MaxRejected = 0.1
    batch_size: BatchSize = 64
    ray: Ray = None
    workers: Workers = None
    dry_run: DryRun = False
    json: Json = False

    def arguments(self) -> dict[str, Any]:
        """As `Memory.create` and `Memory.add` take them. Raises WrongUsageError for those that don't go together."""
        return {
            "check": self.check,
            "blocklist": read_blocklist(self.blocklist),
            "max_rejected": self.max_rejected,
            "batch_size": self.batch_size,
            "ray": _ray_address(self.ray, self.workers),
            "workers": self.workers,
            "progress": True,
        }

    def print_estimate(
        self,
        memory: str,
        encoder: Any,
        sources: list[str],
        where: str | None,
        *,
        images: Any,
        labels: bool,
        adding: bool,
    ) -> None:
        """What `--dry-run` tells."""
        from retroclip.memory import Ingest, Keeping, estimated

        options = Ingest(self.batch_size, labels, images=images)
        told = estimated(memory, encoder, sources, where, options, Keeping(check=self.check), adding=adding)
        print_estimate(memory, told, self.json)


Shared = Annotated[Filling, Parameter(name="*")]


@app.command
def create(
    memory: MemoryName,
    sources: list[str],
    /,
    *,
    model: ModelReference = "builtin",
    precision: Precision = "auto",
    where: Where = None,
    labels_as_captions: Annotated[bool, Parameter(negative=())] = False,
    images: Images = "store",
    build_index: Annotated[bool, Parameter(name="--index")] = True,
    shared: Shared = Filling(),
) -> None:
    """Embed pairs into a new memory. Interrupted and repeated, it goes on where it stopped.

    Parameters
    ----------
    memory
        Folder or URL to make.
    sources
        Folders (image and same-named .txt or .json, or class sub-folders), tar shards (`{000..012}.tar`), parquet, csv,
        folders of tars or parquet files; or folders of embeddings in clip-retrieval's layout (img_emb/, text_emb/,
        metadata/), which are imported as the work of the named model.
    labels_as_captions
        Give labelled pairs without caption the caption "a photo of a {label}.".
    build_index
        Build a search index at the end where the memory is large enough to need one.
    """
    from retroclip.encoders import load
    from retroclip.memory import Memory
    from retroclip.memory.ingest import is_kept

    given, encoder = shared.arguments(), load(model, precision=precision)
    if shared.dry_run:
        shared.print_estimate(memory, encoder, sources, where, images=images, labels=labels_as_captions, adding=False)
        return
    given |= {"where": where, "images": images, "labels_as_captions": labels_as_captions, "index": build_index}
    made = Memory.create(memory, encoder, sources, **given)
    rejected, known = made.rejected(), made.manifest.counts.get("duplicates", 0)
    if shared.json:
        captions = sum(map(is_kept, rejected))
        print_json({"rows": len(made), "duplicates": known, "rejected": len(rejected) - captions, "captions": captions})
    there = f"{known} were there, " if known else ""
    say(f"{memory}: {len(made)} pairs, {there}{told_rejected(len(rejected), sum(map(is_kept, rejected)))}")
    name_rejected(memory, rejected, len(rejected))


@app.command
def add(
    memory: MemoryName,
    sources: list[str],
    /,
    *,
    precision: Precision = "auto",
    where: Where = None,
    known: Literal["skip", "replace"] = "skip",
    images: Images | None = None,
    shared: Shared = Filling(),
) -> None:
    """Embed more pairs into a memory, with the model that made it. Pairs that are there already are skipped.

    Parameters
    ----------
    known
        What becomes of the pairs with a key that is there: skipped (another picture of the same name gets a new key),
        or put in the place of the old ones.
    """
    from retroclip.encoders import load
    from retroclip.memory import Memory

    given, opened = shared.arguments(), Memory.open(memory)
    encoder = load(opened.model_reference, precision=precision)
    if shared.dry_run:
        made = opened.manifest.creation
        labels, kept = made["labels_as_captions"], images or made["images"]
        shared.print_estimate(memory, encoder, sources, where, images=kept, labels=labels, adding=True)
        return
    before = set(opened.rejected())
    added = opened.add(sources, encoder, where=where, known=known, images=images, **given)
    if shared.json:
        print_json(asdict(added))
    count = added.rejected + added.captions
    replaced = f"{added.replaced} of them in place of old ones, " if known == "replace" else ""
    again = f", {added.known} had been rejected before" if added.known else ""
    say(
        f"{memory}: {added.rows} pairs added, {replaced}{added.duplicates} were there, "
        f"{told_rejected(count, added.captions)}{again}"
    )
    name_rejected(memory, [item for item in opened.rejected() if item not in before], count)


def told_rejected(count: int, captions: int) -> str:
    """How many rows of the `rejected` table there are, and how many of them left their image."""
    of_captions = f", {captions} of them captions whose images are kept" if captions else ""
    return f"{count} rejected{of_captions}"


def name_rejected(memory: str, rejected: "list[Rejected]", count: int) -> None:
    """The first `NAMED` of what was rejected, a line each, and where to read of the rest of the `count`."""
    for item in rejected[:NAMED]:
        say(f"  {item.key}: {item.reason}")
    more = count - len(rejected[:NAMED])
    if more:
        say(f"  … and {more} more: `retroclip memory info {memory} --rejected` lists all")


def _ray_address(named: tuple[str, ...] | None, workers: int | None) -> str | None:
    """None without --ray, its address, or "local" where it names none."""
    if named is None:
        if workers is not None:
            raise WrongUsageError("memory: --workers is for --ray")
        return None
    if len(named) > 1:
        raise WrongUsageError(f"memory: --ray takes one address, not {' '.join(named)}: give it after the sources")
    return named[0] if named else "local"


@app.command
def migrate(
    memory: MemoryName,
    /,
    *,
    model: ModelReference,
    precision: Precision = "auto",
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Embed all pairs anew with another model. The old memory answers meanwhile, and is kept beside as MEM.old."""
    from retroclip.encoders import load
    from retroclip.memory import Memory

    opened, encoder = Memory.open(memory), load(model, precision=precision)
    if dry_run:
        print_estimate(memory, opened.estimate_migration(encoder, batch_size=batch_size), json)
        return
    old = opened.migrate(encoder, batch_size=batch_size, progress=True)
    if json:
        print_json({"rows": len(opened), "old": str(old)})
    say(f"{memory}: {len(opened)} pairs, now of {model}; delete {old} when you don't need it any more")


def print_estimate(memory: str, told: dict[str, Any], json: bool) -> None:
    """What `--dry-run` tells of work that encodes."""
    if json:
        print_json(told)
    else:
        print_facts(f"{memory}: nothing was written", told)
