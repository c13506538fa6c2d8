"""`retroclip memory info`, `verify` and `search`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.memory.app import app
from retroclip.cli.options import Json, MemoryName, Where
from retroclip.cli.terminal import print_facts, print_json, print_table, say


@app.command
def info(
    memory: MemoryName,
    /,
    *,
    rejected: Annotated[bool, Parameter(negative=(), help="List what was left out instead, with the reasons.")] = False,
    json: Json = False,
) -> None:
    """Tell what a memory holds: pairs, sources, size, model, index."""
    from retroclip.memory import Memory

    opened = Memory.open(memory)
    if rejected:
        left_out = [asdict(item) for item in opened.rejected()]
        if json:
            print_json(left_out)
        else:
            print_table(f"rejected by {memory}", ["key", "source", "reason"], [row.values() for row in left_out])
        return
    facts = opened.info()
    if json:
        print_json(facts)
    else:
        print_facts(str(memory), facts)


@app.command
def verify(memory: MemoryName, /, *, json: Json = False) -> int:
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
    memory: MemoryName,
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
    if text is not None and not text.strip():
        raise WrongUsageError("memory search: --text is empty")
    from retroclip.encoders import load
    from retroclip.memory import Memory
    from retroclip.memory.metadata import record_of

    opened = Memory.open(memory)
    encoder = load(opened.model_reference)
    opened.check_encoder(encoder)
    query = encoder.encode_images([_picture(image)]) if image is not None else encoder.encode_texts([str(text)])
    hits = opened.search(query, by=by, k=k, where=where)
    ids, scores = hits.ids[0], hits.scores[0]
    found = opened.take(ids[ids >= 0], ["key", "caption", "label", "source", "license", "metadata"]).to_pylist()
    rows = [
        {"score": round(float(score), 4), "id": int(row_id)} | row
        for score, row_id, row in zip(scores, ids, found, strict=False)
    ]
    if json:
        print_json([row | {"metadata": record_of(row["metadata"])} for row in rows])
    else:
        columns = ["score", "key", "caption", "label"]
        cells = [[f"{row['score']:.4f}", *(row[name] for name in columns[1:])] for row in rows]
        print_table(f"{text or image} in {memory}", columns, cells)


def _picture(file: Path) -> Any:
    """The image, decoded here so that a failure names its file."""
    from retroclip.errors import BadImageError
    from retroclip.pairs import decode_image

    try:
        return decode_image(file)
    except BadImageError as error:
        told = str(error)
        raise BadImageError(told if str(file) in told else f"{file}: {told}") from error
