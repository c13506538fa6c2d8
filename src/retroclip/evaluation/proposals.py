"""Where objects may be: boxes for a detector to classify, from a file, a grid, the annotations, or a network."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retroclip.errors import SourceError
from retroclip.evaluation.boxes import BoxedImages, check_box
from retroclip.evaluation.samples import MAX_REJECTED

if TYPE_CHECKING:
    from retroclip.evaluation.proposal_network import ProposalNetwork

Proposals = tuple[NDArray[np.float64], NDArray[np.float64]]
Propose = Callable[[int], Proposals]
"""From an image's position to boxes (n, 4) of x, y, w, h and objectness (n,) in [0, 1]."""

GRID_SIDES = (0.25, 0.4, 0.6, 0.9)  # of the shorter side
GRID_SHAPES = (1.0, 2.0, 0.5)  # width over height
ROUNDING = 1e-4  # by how much a probability that was stored in few digits may leave 0 to 1


def choose_proposals(name: str, data: BoxedImages, *, limit: int, network: "ProposalNetwork | None" = None) -> Propose:
    """`grid`, `network`, `truth` (the annotated boxes: an upper bound), or a .json of boxes; at most `limit` an image.

    Raises SourceError for another name, and as `read_proposals`.
    """
    if name == "grid":
        return lambda i: top(grid(*data.sizes[i]), limit)
    if name == "truth":
        return lambda i: (data.boxes[data.image_of == i], np.ones(int((data.image_of == i).sum())))
    if network is not None:
        return lambda i: top(network(data.images[i]), limit)
    if name.endswith(".json"):
        given = read_proposals(Path(name), data)
        return lambda i: top(given[i], limit)
    raise SourceError(
        f"no proposals {name!r}: choose grid, network, truth, or a .json of boxes (image_id or file_name, bbox, score)"
    )


def grid(width: int, height: int) -> Proposals:
    """Windows of several sizes and shapes that overlap by half, larger ones first; their objectness is 1."""
    rows = []
    for side in sorted(GRID_SIDES, reverse=True):
        for shape in GRID_SHAPES:
            w = min(side * min(width, height) * shape**0.5, width)
            h = min(side * min(width, height) / shape**0.5, height)
            lefts = np.linspace(0, width - w, max(1, round((width - w) / (w / 2)) + 1))
            tops = np.linspace(0, height - h, max(1, round((height - h) / (h / 2)) + 1))
            rows += [(x, y, w, h) for y in tops for x in lefts]
    return np.array(rows), np.ones(len(rows))


def top(proposals: Proposals, limit: int) -> Proposals:
    """The `limit` boxes of highest objectness, the earlier ones where it is equal."""
    boxes, scores = proposals
    order = np.argsort(-scores, kind="stable")[:limit]
    return boxes[order], scores[order]


def read_proposals(path: Path, data: BoxedImages) -> list[Proposals]:
    """Boxes by image from a list of {image_id or file_name, bbox, score}, as COCO's results are written.

    An image is named by COCO's `image_id`, its key, or the file's name (`image_position`). Boxes that can't be used, or
    whose score is no number, are left out and named in `data.rejected`. SourceError: another file, scores that are no
    probabilities, no box for any image of the set, or over 10 % unusable.
    """
    try:
        rows = json.loads(path.read_bytes())
        by_name = names_of(data)
        given = [(image_position(row, by_name, data), tuple(row["bbox"]), float(row.get("score", 1))) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path} is not a list of {{image_id, bbox, score}}: {' '.join(str(error).split())[:80]}"
        ) from None
    found: list[list[tuple]] = [[] for _ in data.keys]
    rejected = []
    for where, box, score in given:
        if where is None:
            continue
        if math.isfinite(score) and not -ROUNDING <= score <= 1 + ROUNDING:
            raise SourceError(
                f"{path} gives a box of {data.keys[where]} the score {score:g}: scores must be probabilities of an "
                "object, from 0 to 1 (of logits, the sigmoid)"
            )
        checked = check_box(("", *box), *data.sizes[where])
        if isinstance(checked, str):
            rejected.append(f"{data.keys[where]}: proposal: {checked}")
        elif not math.isfinite(score):
            rejected.append(f"{data.keys[where]}: proposal: a score that isn't a number")
        else:
            found[where].append((*checked[0], min(max(score, 0.0), 1.0)))
    usable = sum(map(len, found))
    if len(rejected) > MAX_REJECTED * (usable + len(rejected)):
        raise SourceError(f"{path}: {len(rejected)} proposals can't be used, such as {rejected[0]}")
    if not usable:
        raise SourceError(f"{path} has no box for any of the {len(data)} images, such as {data.keys[0]!r}")
    data.rejected += rejected
    arrays = [np.array(own).reshape(-1, 5) for own in found]
    return [(own[:, :4], own[:, 4]) for own in arrays]


def names_of(data: BoxedImages) -> dict[str, int]:
    """Positions of the images by key, by the key's last part, and by that without leading zeros (COCO's number)."""
    found: dict[str, int] = {}
    for i, key in enumerate(data.keys):
        stem = Path(key).name
        for name in (key, stem, stem.lstrip("0") or "0"):
            found.setdefault(name, i)
    return found


def image_position(row: dict[str, Any], by_name: Mapping[str, int], data: BoxedImages) -> int | None:
    """The image of a proposal, None where it isn't in the set; a number is COCO's `image_id` if images have one."""
    number = row.get("image_id")
    if "file_name" not in row and isinstance(number, int) and data.numbers:
        return data.numbers.get(number)
    name = str(row.get("file_name", number))
    return by_name.get(name, by_name.get(Path(name).stem))
