"""`retroclip memory info` and `verify`."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from retroclip.cli.memory.app import app, shown_index
from retroclip.cli.options import Json, MemoryName
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
        print_facts(str(memory), facts | {"index": shown_index(facts["index"])})


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
