"""`retroclip demo`"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from retroclip.cli.options import Json, ModelReference
from retroclip.cli.terminal import is_interactive, print_json, print_results, say, told_failures


def demo(
    *,
    out: Path = Path("retroclip-demo"),
    model: ModelReference = "builtin",
    seeds: Annotated[int, Parameter(help="Runs of each trained method.", validator=validators.Number(gte=1))] = 1,
    json: Json = False,
) -> int:
    """Run the whole flow on the photos that ship with retroclip: memory, retrieval, every method, table and report.

    Parameters
    ----------
    out
        Where the memory, the results and `report.html` go. Run again, it goes on from what is there.
    """
    from retroclip.demo import run_demo

    finished = run_demo(out, model=model, seeds=range(seeds), tell=say, progress=is_interactive())
    if json:
        print_json([result.model_dump(mode="json") for result in finished.results])
    else:
        print_results(finished.results)
    say(f"report: {finished.report}")
    return told_failures(finished.results)
