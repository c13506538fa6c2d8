"""The `retroclip` command: its verbs, and what becomes of a failure."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from retroclip.cli import (
    compare,
    customize,
    demo,
    evaluate,
    export,
    fuse,
    memory,
    models,
    predict,
    report,
    retrieve,
    tasks,
    train,
)
from retroclip.cli.failures import DEBUG_VARIABLE, WrongUsageError, explain, silence_libraries
from retroclip.version import __version__

HELP = "An external memory of image-text pairs for any CLIP-like model. Start with `retroclip demo`."
DONE, FAILED, WRONG_USAGE = 0, 1, 2

app = App(name="retroclip", help=HELP, version=__version__, result_action="return_value")
for each in (app, app.meta):
    each.suppress_keyboard_interrupt = False  # Ctrl-C is ours: one line and exit status 1
app.command(demo.demo)
app.command(models.models)
app.command(tasks.tasks)
app.command(memory.app)
app.command(retrieve.retrieve)
app.command(customize.customize)
app.command(fuse.fuse)
app.command(train.train)
app.command(evaluate.evaluate)
app.command(compare.compare)
app.command(predict.predict)
app.command(export.export)
app.command(report.report)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: Annotated[bool, Parameter(negative=())] = False,
) -> int | None:
    """Run a verb.

    Parameters
    ----------
    debug
        Show the whole traceback of a failure, and the warnings of the libraries beneath.
    """
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    else:
        silence_libraries()
    return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage."""
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        print(end="", flush=True)  # at exit it would be too late to tell a failure; without a stdout it does nothing
        return DONE if status is None else int(status)
    except CycloptsError as error:
        verb = " ".join(["retroclip", *(error.command_chain or ())])
        print(f"{verb}: {' '.join(str(error).split())} See `{verb} --help`.", file=sys.stderr)
        return WRONG_USAGE
    except WrongUsageError as error:
        print(f"retroclip {error}. See `{named_verb(tokens)} --help`.", file=sys.stderr)
        return WRONG_USAGE
    except BrokenPipeError:
        discard_unwritable()  # the reader of our output, `head` say, has what it wanted
        return FAILED
    except (Exception, KeyboardInterrupt) as error:
        discard_unwritable()
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if arguments is None:
            # The process ends now; an impatient second Ctrl-C would only print what Python was doing meanwhile.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"retroclip: {explain(error)}", file=sys.stderr)
        return FAILED


def named_verb(tokens: Sequence[str]) -> str:
    """The command with the verb that the tokens begin with: `retroclip memory search`."""
    chain, _, _ = app.parse_commands([token for token in tokens if token != "--debug"])
    return " ".join(["retroclip", *chain])


def discard_unwritable() -> None:
    """Flush stdout, and turn it to the null device if that fails: Python would fail again at exit, with status 120."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
