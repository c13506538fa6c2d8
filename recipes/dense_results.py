"""Measure the protocols beside classification: python recipes/dense_results.py ../shared/data [ROW ...]

Each row of `ROWS` is one evaluation on a split `val`, stored as docs/results/protocols/ROW.json and printed as a line
of a table: the figure, its 95 % interval, and the baseline. Rows that are there already, of the same model, are only
printed; --again measures them anew. The same figure comes from
`retroclip evaluate builtin TASK DATA --protocol P --set.NAME VALUE`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import retroclip
from retroclip.evaluation import Result, load_results, save_results
from retroclip.evaluation.protocol_runs import evaluate_protocol
from retroclip.report.figures import interval_of, percent
from retroclip.report.notes import COMPARED, compared_text
from retroclip.tasks import Task

CAMVID, COCO = "camvid_segmentation.parquet#", "coco128.parquet#"
BCCD, SCENES, FLOWERS = "bccd_detection.parquet#", "intel_scenes.parquet#", "flower_photos.parquet#"
DENSE = {"features": "dense", "size": 224}
PIXELS: dict[str, Any] = {"size": 288}
SMOOTHED, DENOISED = PIXELS | {"smoothing": True}, PIXELS | {"denoising": 0.5}
STUDENT: dict[str, Any] = {"size": 224, "epochs": 6, "train": CAMVID + "train"}
MASKFORMER = STUDENT | {"student": "maskformer", "epochs": 8}
# name: (task, data, protocol, options, method)
ROWS: dict[str, tuple[str, str, str, dict[str, Any], str]] = {
    "regions-coco": ("coco", COCO, "regions", {}, "zero-shot"),
    "regions-bccd": ("bccd", BCCD, "regions", {}, "zero-shot"),
    "regions-bccd-dense": ("bccd", BCCD, "regions", DENSE, "zero-shot"),
    "regions-coco-dense": ("coco-half", COCO, "regions", DENSE, "zero-shot"),
    "segmentation-camvid": ("camvid", CAMVID, "segmentation", PIXELS, "zero-shot"),
    "segmentation-camvid-smoothing": ("camvid", CAMVID, "segmentation", SMOOTHED, "zero-shot"),
    "segmentation-camvid-denoising": ("camvid", CAMVID, "segmentation", DENOISED, "zero-shot"),
    "segmentation-coco": ("coco-panoptic", COCO, "segmentation", PIXELS, "zero-shot"),
    "segmentation-coco-smoothing": ("coco-panoptic", COCO, "segmentation", SMOOTHED, "zero-shot"),
    "segmentation-coco-denoising": ("coco-panoptic", COCO, "segmentation", DENOISED, "zero-shot"),
    "detection-coco-grid": ("coco-half", COCO, "detection", DENSE, "zero-shot"),
    "detection-coco-truth": ("coco-half", COCO, "detection", DENSE | {"proposals": "truth"}, "zero-shot"),
    "detection-bccd-grid": ("bccd", BCCD, "detection", DENSE | {"limit": 200}, "zero-shot"),
    "detection-coco-trained": ("coco-half", COCO, "detection", DENSE | {"train": COCO + "train"}, "zero-shot"),
    "segmentation-camvid-trained": ("camvid", CAMVID, "segmentation", STUDENT, "zero-shot"),
    "segmentation-camvid-maskformer": ("camvid", CAMVID, "segmentation", MASKFORMER, "zero-shot"),
    "segmentation-camvid-maskformer-base": (
        "camvid", CAMVID, "segmentation", MASKFORMER | {"targets": "base"}, "zero-shot",
    ),
    "attack-scenes": ("intel-scenes", SCENES, "typographic-attack", {}, "zero-shot"),
    "attack-flowers": ("flower-photos", FLOWERS, "typographic-attack", {}, "zero-shot"),
    "video-ucf101": ("ucf101", "ucf101_clips.parquet#", "video", {}, "zero-shot"),
    "corrupted-flowers": ("flower-photos", FLOWERS, "corrupted-neighbours", {"share": 0.5}, "mean-neighbours"),
}  # fmt: skip
SEEDS = dict.fromkeys(
    ("detection-coco-trained", "segmentation-camvid-trained", "segmentation-camvid-maskformer"), (0, 1, 2)
)
"""Rows that are measured once a seed; a row of the table is the first."""
RESULTS = Path("docs/results/protocols")


def measure(data: Path, name: str, encoder: Any, work: Path, seed: int | None = None) -> Result:
    """One row, with a seed where it has several; a memory of `train` is made in `work` where its method needs one."""
    task_name, file, protocol, options, method = ROWS[name]
    task, dataset = Task.load(task_name), f"{data / file}val"
    if "train" in options:
        options = options | {"train": str(data / options["train"])}
    if seed is not None:
        options = options | {"seed": seed}
    memory = None
    if method != "zero-shot":
        place = work / made_by(name, encoder)
        if not place.exists():
            source = f"{data / file}train"
            retroclip.Memory.create(place, encoder, [source], labels_as_captions=True)
        memory = retroclip.Memory.open(place)
    return evaluate_protocol(protocol, encoder, task, dataset, memory, method=method, options=options)


def made_by(name: str, encoder: Any) -> str:
    """A row's memory: another one for another model."""
    return f"{name}-{encoder.fingerprint[:8]}"


def stands(name: str, path: Path, encoder: Any) -> bool:
    """Whether the row is stored, measured with this model; with a memory that is told by the memory's name."""
    if not path.exists():
        return False
    result = load_results(path)[0]
    return encoder.fingerprint == result.fingerprint or result.memory == made_by(name, encoder)


def line(name: str, result: Result) -> str:
    """A row of the table: every metric with its interval, and the baselines."""
    intervals = {"top1": result.top1_interval, result.metric: result.interval, **result.intervals}
    shown = [
        f"{metric} {percent(value)}" + (f" ({interval_of(intervals[metric])})" if intervals.get(metric) else "")
        for metric, value in result.metrics.items()
        if not metric.startswith(COMPARED)
    ] + [compared_text(result, metric) for metric in result.metrics if metric.startswith(COMPARED)]
    baselines = ", ".join(f"{metric} {percent(value)}" for metric, value in result.baselines.items())
    return f"| {name} | {result.n} | {', '.join(shown)} | {result.baseline}: {baselines} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/protocols"))
    given = parser.parse_intermixed_args()
    if unknown := sorted(set(given.rows) - set(ROWS)):
        parser.error(f"no row {unknown[0]!r}; the rows are {', '.join(ROWS)}")
    encoder = retroclip.load(given.model)
    RESULTS.mkdir(parents=True, exist_ok=True)
    print("| row | images | figures (95 % intervals) | baseline |\n| --- | ---: | --- | --- |")
    for name in given.rows or ROWS:
        path = RESULTS / f"{name}.json"
        if given.again or not stands(name, path, encoder):
            seeds = SEEDS.get(name, (None,))
            save_results([measure(given.data, name, encoder, given.work, seed) for seed in seeds], path)
        print(line(name, load_results(path)[0]), flush=True)


if __name__ == "__main__":
    main()
