"""Make `src/retroclip/samples/` from the development data: python recipes/make_samples.py ../shared/data

Deterministic: no random numbers; rows are taken evenly from each class in the order of their keys. Only images whose
licence allows redistribution are taken: Caltech-101 (CC BY 4.0), TensorFlow flower photos (CC BY 2.0), BCCD (MIT).
Left out: Caltech's portraits of people (`faces`) and its drawings of protected characters (`garfield`, `snoopy`).
"""

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

TASK_CLASSES = 36
RELEVANT_PER_CLASS = 32
FLOWERS_PER_CLASS = 120
OTHERS_PER_CLASS = 12
NOT_SHIPPED = {"faces", "garfield", "snoopy"}

# A class of the task must be recognisable in a caption by its name alone, and in no caption of the unrelated pairs.
AMBIGUOUS = {"chair", "crocodile", "flamingo", "sunflower", "cougar face", "lotus", "bass"}

SPOKEN = {"car side": "car", "water lilly": "water lily"}

CAPTIONS = (
    "a photo of a {}",
    "{}",
    "a picture with a {} in it",
    "here you can see a {}",
    "{}, small photo",
    "one {} among the many pictures we took",
    "look at this {}!",
    "a {} in the middle of the picture",
    "image of a {} from our collection",
    "this one shows a {}",
    "snapshot: {}",
)
FLOWER_CAPTIONS = (
    "{} in bloom",
    "a close-up of {} in a garden",
    "{} photographed in spring",
    "some {}",
    "a picture of {}",
    "petals of {} in the light",
    "{}, found on a walk",
)
FLOWER_NAMES = {"daisy": "daisies", "dandelion": "dandelions"}
BLOOD = {"RBC": "red blood cells", "WBC": "white blood cells", "Platelets": "platelets"}

CALTECH_CREDIT = (
    "Caltech 101 (Li, Andreeto, Ranzato, Perona), CaltechDATA, doi:10.22002/D1.20086, CC BY 4.0; "
    "image {}; reduced in size"
)
FLOWER_CREDIT = "Flickr photo {} by its author on Flickr, via TensorFlow flower_photos, CC BY 2.0; reduced in size"
BLOOD_CREDIT = "BCCD Dataset, Copyright (c) 2017 shenggan, MIT; image {}; reduced in size"

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.binary()),
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("label", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("attribution", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, help="folder of caltech101.parquet, flower_photos.parquet, bccd_detection.parquet"
    )
    samples = Path(__file__).resolve().parents[1] / "src" / "retroclip" / "samples"
    parser.add_argument("--out", type=Path, default=samples)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    caltech = [row for row in read(arguments.data / "caltech101.parquet") if row["label"] not in NOT_SHIPPED]
    flowers = read(arguments.data / "flower_photos.parquet")
    classes = task_classes(caltech)
    memory = [
        *caltech_pairs(of_split(caltech, "train"), classes, RELEVANT_PER_CLASS, "Caltech-101, the task's classes"),
        *flower_pairs(of_split(flowers, "train")),
        *blood_pairs(of_split(read(arguments.data / "bccd_detection.parquet"), "train")),
        *other_pairs(of_split(caltech, "train"), classes),
    ]
    check(memory, classes)
    write(interleaved(memory), arguments.out / "memory.parquet")
    write(
        [labelled(row, caltech_credit(row)) for row in of_split(caltech, "val") if row["label"] in classes],
        arguments.out / "things.parquet",
    )
    write([labelled(row, flower_credit(row)) for row in of_split(flowers, "val")], arguments.out / "flowers.parquet")
    write_task(
        arguments.out / "things.yaml",
        "things",
        [spoken(name) for name in classes],
        "mean-per-class",
        ["a photo of a {}.", "a picture of a {}.", "an image of one {}."],
    )
    write_task(
        arguments.out / "flowers.yaml",
        "flowers",
        sorted({row["label"] for row in flowers}),
        "top1",
        ["a photo of {}, a type of flower."],
    )


def read(path: Path) -> list[Row]:
    columns = ["key", "image", "label", "split", "source", "license", "width", "height", "boxes"]
    return sorted(pq.read_table(path, columns=columns).to_pylist(), key=lambda row: row["key"])


def of_split(rows: Iterable[Row], split: str) -> list[Row]:
    return [row for row in rows if row["split"] == split]


def task_classes(caltech: Sequence[Row]) -> list[str]:
    """The classes with most validation images, alphabetically among equals, without those whose name is ambiguous."""
    sizes = Counter(row["label"] for row in of_split(caltech, "val"))
    ranked = sorted((name for name in sizes if name not in AMBIGUOUS), key=lambda name: (-sizes[name], name))
    return sorted(ranked[:TASK_CLASSES])


def spoken(label: str) -> str:
    """The name as a caption or a class list has it."""
    return SPOKEN.get(label, label.removesuffix("s") if label in {"motorbikes", "leopards"} else label)


def evenly(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows, spread over all of them."""
    return [rows[index * len(rows) // count] for index in range(count)] if len(rows) > count else list(rows)


def by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row["label"]].append(row)
    return dict(sorted(groups.items()))


def caltech_pairs(rows: Sequence[Row], classes: Sequence[str], count: int, source: str) -> list[Row]:
    """Pairs whose captions name their class, in changing words."""
    pairs = []
    for offset, (label, group) in enumerate(item for item in by_label(rows).items() if item[0] in classes):
        for position, row in enumerate(evenly(group, count)):
            caption = CAPTIONS[(position + offset) % len(CAPTIONS)].format(spoken(label))
            pairs.append(captioned(row, caption, caltech_credit(row)) | {"source": source})
    return pairs


def other_pairs(rows: Sequence[Row], classes: Sequence[str]) -> list[Row]:
    """Photos of Caltech's other classes, in the same words as the relevant ones: only the names tell them apart."""
    others = sorted({row["label"] for row in rows} - set(classes))
    return caltech_pairs(rows, others, OTHERS_PER_CLASS, "Caltech-101, other classes")


def flower_pairs(rows: Sequence[Row]) -> list[Row]:
    pairs = []
    for label, group in by_label(rows).items():
        for position, row in enumerate(evenly(group, FLOWERS_PER_CLASS)):
            caption = FLOWER_CAPTIONS[position % len(FLOWER_CAPTIONS)].format(FLOWER_NAMES.get(label, label))
            pairs.append(captioned(row, caption, flower_credit(row)) | {"source": "TensorFlow flower photos"})
    return pairs


def blood_pairs(rows: Sequence[Row]) -> list[Row]:
    """Blood smears, described from their boxes."""
    pairs = []
    for row in rows:
        kinds = Counter(BLOOD[box["label"]] for box in row["boxes"])
        seen = ", ".join(f"{name} ({count})" for name, count in kinds.most_common())
        credit = BLOOD_CREDIT.format(row["key"].rpartition("/")[2])
        pairs.append(
            captioned(row, f"a blood smear under the microscope: {seen}", credit) | {"source": "BCCD blood smears"}
        )
    return pairs


def caltech_credit(row: Row) -> str:
    return CALTECH_CREDIT.format("/".join(row["key"].split("/")[-2:]))


def flower_credit(row: Row) -> str:
    return FLOWER_CREDIT.format(row["key"].rpartition("/")[2].partition("_")[0])


def captioned(row: Row, caption: str, credit: str) -> Row:
    # No label: a memory knows its pairs by image and caption, and the demo must not look at anything else.
    return row | {"caption": caption, "captions": [caption], "label": None, "attribution": credit}


def labelled(row: Row, credit: str) -> Row:
    return row | {"caption": None, "captions": None, "label": spoken(row["label"]), "attribution": credit}


def names_class(caption: str, classes: Sequence[str]) -> list[str]:
    """The classes whose name stands in a caption as a word, singular or plural."""
    return [name for name in classes if re.search(rf"\b{re.escape(spoken(name))}s?\b", caption)]


def check(memory: Sequence[Row], classes: Sequence[str]) -> None:
    """The relevant pairs name exactly one class each, the unrelated ones none, and these are not the fewer."""
    named = [names_class(row["caption"], classes) for row in memory]
    relevant = sum(len(names) == 1 for names in named)
    if any(len(names) > 1 for names in named):
        raise ValueError(f"a caption names two classes: {next(names for names in named if len(names) > 1)}")
    expected = TASK_CLASSES * RELEVANT_PER_CLASS
    if relevant != expected or len(memory) - relevant < relevant:
        raise ValueError(
            f"{relevant} of {len(memory)} captions name a class, not {expected} of at least {2 * expected}"
        )
    print(f"memory: {relevant} captions name one of {len(classes)} classes, {len(memory) - relevant} name none")


def interleaved(rows: Sequence[Row]) -> list[Row]:
    """A fixed order without any run of one class: by the position of each row in a golden-ratio sequence."""
    golden = 0.6180339887498949
    return [row for _, row in sorted(enumerate(rows), key=lambda item: (item[0] * golden) % 1)]


def write(rows: Sequence[Row], path: Path) -> None:
    table = pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in rows], schema=SCHEMA)
    pq.write_table(table, path, compression="zstd", row_group_size=512)
    print(f"{path.name}: {len(rows)} rows, {path.stat().st_size / 1e6:.1f} MB")


def write_task(path: Path, name: str, classes: Sequence[str], metric: str, templates: Sequence[str]) -> None:
    task = {"name": name, "classes": list(classes), "templates": list(templates), "metric": metric}
    path.write_text(yaml.safe_dump(task, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    main()
