"""The table of benchmarks/scale.py: from measured rates, and nothing else."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scale.py"
STORED = {
    "embed": {"pairs_per_second": 100.0, "image_bytes": 100_000, "thumbnail_bytes": 20_000},
    "import": {"rows_per_second": 50_000.0, "bytes_per_row": 2_300},
    "index": {"rows_per_second": 20_000.0, "ms": 0.5, "rows": 1_000_000, "kind": "ivf 1024 lists"},
}


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    if not SCRIPT.exists():
        pytest.skip("the benchmarks are not part of an installed package")
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)

    def call(*options):
        monkeypatch.setattr(sys, "argv", ["scale.py", "--results", str(tmp_path), *options])
        scale.main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def stored(tmp_path):
    for name, content in STORED.items():
        told = {"cores": 2, "processor": "one", "date": "today", "figures": content}
        (tmp_path / f"{name}.json").write_text(json.dumps(told))


def test_the_table_follows_from_the_rates(run, stored):
    out = run("--pairs", "400e6", "--machines", "1,100", "--price-hour", "0.5", "--price-gb-month", "0.02")
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:5]] for line in out.splitlines()[2:10]
    }
    assert rows["embedding, 1 machines"] == ["1,111.1", "", "556"]
    assert rows["embedding, 100 machines"] == ["11.1", "", "556"]
    assert rows["or importing embeddings"][0] == "2.2"
    assert rows["store, `--images none`"] == ["", "920.0 GB", "18 a month"]
    assert rows["store, `--images store`"][1] == "40.92 TB"
    assert "embed: `python benchmarks/bench_embed.py` on 2 cores of one, today" in out
    out = run("--embed-rate", "200")
    assert "| embedding, 1 machines | 555.6 |" in out


def test_what_another_kind_of_index_took_is_left_out(run, stored):
    same, other = run("--pairs", "10e6", "--ram", "16GB"), run("--pairs", "400e6")
    assert "| index of images or texts (ivf of 512 bytes): build; RAM | 0.1 |" in same and "ms a query" in same
    assert "PQ64x8): build; RAM | not measured |" in other and "ms a query" not in other


def test_what_was_not_measured_is_named(run):
    with pytest.raises(SystemExit, match=r"--embed-rate \(or run benchmarks/bench_embed.py\)"):
        run()
