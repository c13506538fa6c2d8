"""The catalogue: every task loads, and agrees with what can be checked independently."""

import re

import open_clip
import pyarrow.parquet as pq
import pytest
from torchvision.datasets import Cityscapes

from retroclip.pairs.voc import VOC_MASK_CLASSES
from retroclip.tasks import Task, catalogue, template_sets
from retroclip.tasks.shared import imagenet_classes

COUNTS = {
    "bccd": 3, "birdsnap": 500, "camvid": 11, "caltech101": 96, "caltech101-full": 102, "cub200": 200,
    "cifar10": 10, "cifar100": 100, "clevr-counts": 8, "coco": 80, "coco-half": 80, "coco-novel": 65,
    "coco-panoptic": 133,
    "country211": 211, "dtd": 47, "eurosat": 10, "fer2013": 7, "fgvc-aircraft": 100, "flower-photos": 5,
    "flowers102": 102, "food101": 101, "gtsrb": 43, "hateful-memes": 2, "hmdb51": 51, "imagenet": 1000,
    "imagenet-a": 200, "imagenet-r": 200, "imagenet-sketch": 1000, "imagenet-v2": 1000, "intel-scenes": 6,
    "kinetics400": 400, "kitti-distance": 4, "mnist": 10, "oxford-pets": 37, "pcam": 2, "rendered-sst2": 2,
    "resisc45": 45, "stanford-cars": 196, "stanford-dogs": 120, "stl10": 10, "sun397": 397, "svhn": 10,
    "tiny-imagenet": 200, "ucf101": 101, "voc2007": 20, "ade20k": 150, "cityscapes": 19, "coco-stuff": 171,
    "kinetics600": 600, "objects365": 365, "places365": 365, "voc-segmentation": 21, "voc20-segmentation": 20,
}  # fmt: skip

SHARED = {
    "caltech101": "caltech101", "cifar10": "cifar10", "cifar100": "cifar100", "tiny-imagenet": "tiny_imagenet",
    "intel-scenes": "intel_scenes", "flower-photos": "flower_photos", "gtsrb": "gtsrb_signs",
}  # fmt: skip


def test_the_catalogue_is_this():
    assert catalogue() == sorted(COUNTS)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_every_task_loads(name):
    task = Task.load(name)
    assert task.name == name and len(task.classes) == COUNTS[name] and task.about
    for index, label in enumerate(task.classes):
        assert task.label_index[label] == index
        assert all("{}" not in prompt for prompt in task.prompts(label))


def test_metrics_are_those_of_the_papers():
    metrics = {name: Task.load(name).metric for name in catalogue()}
    assert {name for name, metric in metrics.items() if metric == "mean-per-class"} == {
        "caltech101", "caltech101-full", "fgvc-aircraft", "flowers102", "oxford-pets",
    }  # fmt: skip
    assert metrics["voc2007"] == "map11" and metrics["hateful-memes"] == "roc-auc"
    assert metrics["imagenet"] == metrics["cifar10"] == "top1"


def labels_of(path):
    return set(pq.read_table(path, columns=["label"])["label"].drop_null().to_pylist())


@pytest.mark.parametrize(("name", "file"), SHARED.items())
def test_classes_are_exactly_the_labels_of_the_shared_files(shared_data, name, file):
    assert set(Task.load(name).classes) == labels_of(shared_data / f"{file}.parquet")


def test_labels_of_the_larger_tasks_are_found(shared_data):
    ucf = Task.load("ucf101").label_index
    assert all(label in ucf for label in labels_of(shared_data / "ucf101_clips.parquet"))
    full, part = Task.load("caltech101-full"), Task.load("caltech101")
    assert all(label in full.label_index for label in part.classes)
    imagenet = Task.load("imagenet").label_index
    missing = {label for label in labels_of(shared_data / "imagenet1k_samples.parquet") if label not in imagenet}
    assert missing == {"crane", "maillot", "polecat", "tub"}  # WordNet's words for two classes each


def test_the_80_templates_are_open_clips():
    filled = [template("tench") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [template.replace("{}", "tench") for template in template_sets()["imagenet"]] == filled
    simple = {template("tench") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES}
    assert {template.replace("{}", "tench") for template in template_sets()["imagenet-7"]} == simple


def test_the_80_templates_are_figure_1_of_ra_clip(shared_data):
    paper = (shared_data.parent / "papers" / "ra-clip-supplementary.txt").read_text(encoding="utf-8")
    lines = [line for line in paper.splitlines() if line.count("{label}") == 4]
    figure = {re.sub(r"\{label\}", "{}", cell.strip()) for line in lines for cell in line.split("\t")}
    assert len(figure) == 80 and figure == set(template_sets()["imagenet"])


def test_segmentation_classes_are_in_the_order_of_their_mask_values():
    order = {each.train_id: each.name for each in Cityscapes.classes if 0 <= each.train_id < 255}
    task = Task.load("cityscapes")
    assert [order[index] for index in range(19)] == task.classes
    assert {each.name for each in Cityscapes.classes} <= {*task.classes, *task.ignored}
    voc, voc20 = Task.load("voc-segmentation"), Task.load("voc20-segmentation")
    assert voc.classes == list(VOC_MASK_CLASSES.values()) == ["background", *voc20.classes]
    assert voc20.ignored == ["background", "void"] and voc20.templates == voc.templates
    stuff = Task.load("coco-stuff")
    assert stuff.classes[:80] == Task.load("coco").classes and stuff.classes[80:] == sorted(stuff.classes[80:])
    assert all("-" not in stuff.display_name(name) for name in stuff.classes)
    assert Task.load("ade20k").classes[:3] == ["wall", "building", "sky"]
    assert [name for name in catalogue() if Task.load(name).reduce_zero_label] == ["ade20k"]
    protocols = {Task.load(name).protocol for name in ("ade20k", "cityscapes", "coco-stuff", "voc-segmentation")}
    assert protocols == {"segmentation"} and Task.load("objects365").protocol == "detection"


def test_larger_lists_agree_with_their_smaller_kin():
    kinetics = Task.load("kinetics600")
    # The length of the published list, a class a line.
    assert sum(len(name) + 1 for name in kinetics.classes) == 9209
    assert sum(name in kinetics.label_index for name in Task.load("kinetics400").classes) == 369
    # Places365's paths, as its list of categories has them.
    index = Task.load("places365").label_index
    assert index["apartment_building/outdoor"] == 8 and index["zen_garden"] == 364
    objects = Task.load("objects365")
    assert objects.display_name("Moniter/TV") == "monitor or TV" and objects.label_index["Table Tennis "] == 364
    assert all("/" not in objects.display_name(name) for name in objects.classes)


def test_template_counts_of_clip():
    counts = {name: len(Task.load(name).templates) for name in ("cifar10", "caltech101", "ucf101", "kinetics400")}
    assert counts == {"cifar10": 18, "caltech101": 34, "ucf101": 48, "kinetics400": 28}
    assert Task.load("oxford-pets").templates == ["a photo of a {}, a type of pet."]
    assert Task.load("food101").templates == ["a photo of {}, a type of food."]
    assert all(len(set(Task.load(name).templates)) == len(Task.load(name).templates) for name in catalogue())


def test_imagenet_keeps_openais_names_and_order():
    task, shared = Task.load("imagenet"), imagenet_classes()
    assert [task.display_name(name) for name in task.classes] == list(open_clip.IMAGENET_CLASSNAMES)
    assert sorted(shared.display) == ["missile (projectile)", "sunglasses (sunglass)"]
    assert task.label_index["n01440764"] == task.label_index["Tinca tinca"] == task.label_index["tench"] == 0
    assert task.descriptions["tench"].startswith("freshwater dace-like game fish")
    assert len(task.descriptions) == 1000


def test_subsets_of_imagenet():
    names = imagenet_classes().names
    dogs = Task.load("stanford-dogs")
    assert dogs.classes[0] == "Chihuahua" and "Dalmatian" not in dogs.classes and "dingo" in dogs.classes
    assert {"n02085620", "n02116738"} == {dogs.synonyms[dogs.classes[i]][-1] for i in (0, -1)}
    for name in ("imagenet-a", "imagenet-r"):
        positions = [names.index(label) for label in Task.load(name).classes]
        assert positions == sorted(positions)
