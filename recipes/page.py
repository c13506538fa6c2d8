"""Write the tables of docs/results.md from what is stored: python recipes/page.py

Every block `<!-- table: NAME [ARGUMENT ...] -->` … `<!-- end -->` of the page is filled by the function of that name in
`TABLES`, from the JSON files in docs/results; the text around the blocks stays as it is. Verdicts on the papers'
findings are computed from the figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from page_pretraining import icar, icar_findings, small_clip
from page_protocols import by_class, by_seed, protocols
from page_ra_clip import ra_clip, ra_clip_findings, ra_clip_random
from page_systems import ablation_circumstances, ablation_findings, ablations, controls, elsewhere, systems
from page_why import why_circumstances, why_classes, why_moved, why_parts

from retroclip.files import write_whole

PAGE = Path("docs/results.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+)(?P<arguments>[^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every block's table made anew. Raises KeyError for a block that no table belongs to."""

    def block(found: re.Match[str]) -> str:
        made = TABLES[found["name"]](*found["arguments"].split()).strip()
        return f"{found[1]}\n{made}\n\n{found[4]}"

    return BLOCK.sub(block, page)


TABLES: dict[str, Callable[..., str]] = {
    "systems": systems,
    "controls": controls,
    "elsewhere": elsewhere,
    "why-circumstances": why_circumstances,
    "why-parts": why_parts,
    "why-moved": why_moved,
    "why-classes": why_classes,
    "ablations": ablations,
    "ablation-circumstances": ablation_circumstances,
    "ablation-findings": ablation_findings,
    "protocols": protocols,
    "by-seed": by_seed,
    "by-class": by_class,
    "small-clip": small_clip,
    "icar": icar,
    "icar-findings": icar_findings,
    "ra-clip": ra_clip,
    "ra-clip-random": ra_clip_random,
    "ra-clip-findings": ra_clip_findings,
}

if __name__ == "__main__":
    write_whole(PAGE, filled(PAGE.read_text()))
    print(f"{PAGE}: {len(BLOCK.findall(PAGE.read_text()))} tables written")
