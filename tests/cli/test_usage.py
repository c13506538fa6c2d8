"""Help, versions, and what was typed wrongly: nothing here needs a model, or may import torch."""

import subprocess
import sys

import pytest

import retroclip

VERBS = ["demo", "models", "tasks", "memory", "retrieve", "customize", "fuse", "train"]
VERBS += ["evaluate", "compare", "predict", "export", "report"]


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
        ("memory search mem --text x --image y", "one of --text, --image, --texts and --images"),
        ("memory search mem", "one of --text, --image, --texts and --images"),
        ("memory search mem --texts x --text y", "one of --text, --image, --texts and --images"),
        ("memory search mem --text x -k few", "few"),
        ("compare builtin cifar10 data", "--memory"),
        ("compare builtin cifar10 data --memory mem --also flowers", "TASK=DATASET"),
        ("compare builtin cifar10 data --memory mem --seeds 0", "--seeds"),
        ("demo --seeds 0", "--seeds"),
        ("evaluate builtin image-text-retrieval data --train other", "leave out --train"),
        ("evaluate builtin cifar10 data --shots 4", "name another split of them with --train"),
        ("customize found --out model --tuning magic", "magic"),
        ("retrieve mem cifar10 --out found --min-clip-score high", "high"),
        ("retrieve mem cifar10 --out found --search bogus", "t2t, t2i or t2t,t2i, not 'bogus'"),
        ("retrieve mem cifar10 --out found --search ''", "t2t, t2i or t2t,t2i"),
        ("retrieve mem cifar10 --out found -k 0", ">= 1"),
        ("memory create mem photos --batch-size 0", ">= 1"),
        ("memory add mem photos --batch-size 0", ">= 1"),
        ("memory search mem --text x -k 0", ">= 1"),
        ("memory clean mem --near 95", "<= 1"),
        ("fuse mem --out model --seed -1", ">= 0"),
        ("customize found --out model --batch-size 0", ">= 1"),
        ("customize found --out model --epochs 0", ">= 1"),
        ("fuse mem --out model -k 0", ">= 1"),
        ("customize found --out model --gates 0", ">= 1"),
        ("customize found --out model --tuning locked-text --gates 2", "--gates is for a gated tuning, not for locked"),
        ("customize found --out model --views -1", ">= 0"),
        ("customize found --out model --lr 0", "> 0"),
        ("customize found --out model --warmup 1.5", "<= 1"),
        ("customize found --out model --weight-decay -0.1", ">= 0"),
        ("customize found --out model --loss hinge", "hinge"),
        ("customize found --out model --positives all", "all"),
        ("fuse mem --out model --init random", "random"),
        ("fuse mem --out model --blocks 0", ">= 1"),
        ("fuse mem --out model --search text", "text"),
        ("fuse mem --out model --values both", "both"),
        ("fuse mem --out model --relevance -1", ">= 0"),
        ("fuse mem --out model --blocks 2", "--blocks is for --kind ra-clip, not for reco"),
        ("fuse mem --out model --kind mean --init plain", "--init is for --kind reco, not for mean"),
        ("fuse mem --out model --values query --relevance 1", "there are no neighbours"),
        ("train recipe.yaml --lr 1", "--set.field"),
        ("train recipe.yaml --set.lr", "no value"),
        ("info mem --nosuch", "info"),
        ("predict builtin cifar10 photos --min-confidence 50", "<= 1"),
        ("predict builtin cifar10 photos --max-error 0.1", "See `retroclip predict --help`"),
        ("memory search mem", "See `retroclip memory search --help`"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run, line, told):
    wrong = run(line)
    assert wrong.status == 2
    assert wrong.out == ""
    assert told in wrong.line
    assert wrong.line.startswith("retroclip")


def test_the_verb_after_an_option_is_named(run, monkeypatch):
    monkeypatch.setenv("RETROCLIP_DEBUG", "1")  # restored afterwards: --debug sets it
    assert "See `retroclip memory search --help`" in run("--debug memory search mem").line
