"""Help, versions, and what was typed wrongly: nothing here needs a model, or may import torch."""

import subprocess
import sys

import pytest

import retroclip

VERBS = ["demo", "models", "tasks", "memory", "retrieve", "customize", "fuse", "train"]
VERBS += ["evaluate", "compare", "predict", "report"]


def test_help_lists_every_verb(run):
    shown = run("--help")
    assert shown.status == 0
    for verb in VERBS:
        assert f" {verb} " in shown.out


@pytest.mark.parametrize("verb", [*VERBS, "memory create", "memory search"])
def test_every_verb_has_help(run, verb):
    shown = run(f"{verb} --help")
    assert shown.status == 0
    assert f"Usage: retroclip {verb}" in shown.out


def test_version(run):
    assert run("--version").out.strip() == retroclip.__version__


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from retroclip.cli import main; main(['--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'open_clip', 'lance', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bogus", "bogus"),
        ("memory create mem", "SOURCES"),
        ("memory delete mem", "--where"),
        ("memory search mem --text x --image y", "either --text or --image"),
        ("memory search mem", "either --text or --image"),
        ("memory search mem --text x -k few", "few"),
        ("compare builtin cifar10 data", "--memory"),
        ("compare builtin cifar10 data --memory mem --also flowers", "TASK=DATASET"),
        ("customize found --out model --tuning magic", "magic"),
        ("retrieve mem cifar10 --out found --min-clip-score high", "high"),
        ("train recipe.yaml --lr 1", "--set.field"),
        ("train recipe.yaml --set.lr", "no value"),
        ("info mem --nosuch", "info"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run, line, told):
    wrong = run(line)
    assert wrong.status == 2
    assert wrong.out == ""
    assert told in wrong.line
    assert wrong.line.startswith("retroclip")
