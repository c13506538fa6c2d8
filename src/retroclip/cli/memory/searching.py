"""`retroclip memory search`: one question, or many that share one loading of model and memory."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, validators

from retroclip.cli.failures import WrongUsageError
from retroclip.cli.memory.app import app
from retroclip.cli.options import Json, MemoryName, Where
from retroclip.cli.terminal import print_json, print_json_list, print_table, say

if TYPE_CHECKING:
    from retroclip.memory import Memory

COLUMNS = ("key", "caption", "label", "source", "license", "metadata")
BATCH = 1024
"""Questions answered at a time."""

Row = dict[str, Any]


@app.command
def search(
    memory: MemoryName,
    /,
    *,
    text: str | None = None,
    image: Path | None = None,
    texts: Path | None = None,
    images: Path | None = None,
    by: Annotated[Literal["image", "text"], Parameter(help="Compare with the pairs' images or captions.")] = "image",
    k: Annotated[int, Parameter(name=["-k", "--k"], validator=validators.Number(gte=1))] = 10,
    where: Where = None,
    json: Json = False,
) -> int:
    """Find the pairs nearest to a text or an image, or to each of many.

    Parameters
    ----------
    texts
        A file of texts, one a line. With --json: a list of a `query` and its `hits` each.
    images
        A folder of images, or a .txt of their names, one a line; those that can't be read are named on stderr.
    """
    if sum(given is not None for given in (text, image, texts, images)) != 1:
        raise WrongUsageError("memory search: give one of --text, --image, --texts and --images")
    if text is not None and not text.strip():
        raise WrongUsageError("memory search: --text is empty")
    many = texts is not None or images is not None
    questions = _questions(texts, images) if many else [image if image is not None else str(text)]
    from retroclip.encoders import load
    from retroclip.errors import BadImageError
    from retroclip.memory import Memory

    opened = Memory.open(memory)
    encoder = load(opened.model_reference)
    opened.check_encoder(encoder)
    shown = many and not (json and sys.stdout.isatty())  # rows at a terminal show how far it is
    answers = _answers(opened, encoder, questions, {"by": by, "k": k, "where": where}, progress=shown)
    if not many:
        _, hits, error = next(answers)
        if error is not None:
            raise BadImageError(error)
        _print_one(f"{text or image} in {memory}", hits, json)
        return 0
    unread = 0

    def told() -> Iterator[tuple[str, list[Row]]]:
        nonlocal unread
        for query, hits, error in answers:
            if error is not None:
                unread += 1
                say(error)
            yield query, hits

    if json:
        print_json_list({"query": query, "hits": hits} for query, hits in told())
    else:
        cells = [[query, *_cells(row)] for query, hits in told() for row in hits]
        print_table(f"{texts or images} in {memory}", ["query", "score", *COLUMNS[:3]], cells)
    if unread:
        say(f"{unread} of {len(questions)} images could not be read")
    return 1 if unread == len(questions) else 0


def _questions(texts: Path | None, images: Path | None) -> Sequence[str | Path]:
    """The lines of a file of texts, or the image files that a folder or a list has."""
    from retroclip.prediction import find_images

    if images is None:
        return _lines(Path(str(texts)))
    return [Path(line) for line in _lines(images)] if images.suffix == ".txt" else find_images([images])


def _lines(file: Path) -> list[str]:
    """The lines of a file that aren't empty. Raises SourceError where it has none, or they aren't UTF-8."""
    from retroclip.errors import SourceError

    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise SourceError(f"{file} is not UTF-8: {error}") from None
    found = [line for line in lines if line]
    if not found:
        raise SourceError(f"{file} has no line to search for")
    return found


def _answers(
    opened: "Memory", encoder: Any, questions: Sequence[str | Path], options: dict[str, Any], *, progress: bool
) -> Iterator[tuple[str, list[Row], str | None]]:
    """Each question with its hits, best first; none, and why, for an image that can't be read."""
    from retroclip.evaluation.image_text import encode_readable
    from retroclip.memory.progress import steps

    with steps("searching", "queries", len(questions), progress) as done:
        for start in range(0, len(questions), BATCH):
            part = questions[start : start + BATCH]
            if isinstance(part[0], Path):
                queries, bad = encode_readable(encoder, [Path(file) for file in part])
            else:
                queries, bad = encoder.encode_texts([str(text) for text in part]), {}
            answered = _hits(opened, queries, options)
            for place, question in enumerate(part):
                if place in bad:
                    reason = bad[place]
                    yield str(question), [], reason if str(question) in reason else f"{question}: {reason}"
                else:
                    yield str(question), next(answered), None
            done(start + len(part))


def _hits(opened: "Memory", queries: Any, options: dict[str, Any]) -> Iterator[list[Row]]:
    """The rows found for each query (n, d), with their scores."""
    from retroclip.memory.metadata import record_of

    hits = opened.search(queries, **options)
    rows = iter(opened.take(hits.ids[hits.ids >= 0], COLUMNS).to_pylist())
    for ids, scores in zip(hits.ids, hits.scores, strict=True):
        found = []
        for row_id, score in zip(ids[ids >= 0], scores, strict=False):
            row = next(rows)
            own = {"score": round(float(score), 4), "id": int(row_id)}
            found.append(own | row | {"metadata": record_of(row["metadata"])})
        yield found


def _print_one(title: str, hits: list[Row], json: bool) -> None:
    if json:
        print_json(hits)
    else:
        print_table(title, ["score", *COLUMNS[:3]], map(_cells, hits))


def _cells(row: Row) -> list[Any]:
    return [f"{row['score']:.4f}", *(row[name] for name in COLUMNS[:3])]
