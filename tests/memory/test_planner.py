"""What is planned for so many rows and so much RAM."""

import pytest

from retroclip.errors import MemoryStoreError
from retroclip.memory.planner import parsed_size, planned


@pytest.mark.parametrize(
    ("rows", "ram", "kind", "dims"),
    [
        (10_000, 4e9, "exact", 0),
        (100_000, 1e8, "ivf", 512),
        (1_000_000, 4e9, "ivf", 512),
        (1_000_000, 1e9, "ivf", 512),
        (1_000_000, 5e8, "ivf", 256),
        (1_000_000, 2e8, "ivf", 128),
        (1_000_000, 1.2e8, "ivfpq", 0),
        (400_000_000, 80e9, "ivf", 128),
        (400_000_000, 40e9, "ivfpq", 0),
    ],
)
def test_the_best_that_fits_is_planned(rows, ram, kind, dims):
    plan = planned(rows, 512, ram=int(ram))
    assert (plan.kind, plan.dims) == (kind, dims)
    assert plan.ram <= ram
    assert plan.told()["rows"] == rows


def test_what_never_fits_is_told():
    with pytest.raises(MemoryStoreError, match=r"no index of 1000000 rows fits into 10\.0 MB: the smallest needs"):
        planned(1_000_000, 512, ram=10_000_000)
    with pytest.raises(MemoryStoreError, match=r"hnsw of 1000000 rows needs 2\.\d\d GB, more than 1\.00 GB"):
        planned(1_000_000, 512, kind="hnsw", ram=10**9)


def test_factory_strings_are_planned():
    plan = planned(1_000_000, 512, kind="OPQ256_768,IVF131072_HNSW32,PQ256x8", ram=4 * 10**9)
    assert (plan.kind, plan.lists) == ("factory", 131072)
    assert 0.25e9 < plan.ram < 1e9
    assert planned(1_000_000, 512, kind="HNSW32", ram=4 * 10**9).ram > 2e9


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("500 MB", 5 * 10**8), ("1.5g", 15 * 10**8), ("77", 77)]
)
def test_sizes(text, size):
    assert parsed_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8 apples", "0"])
def test_wrong_sizes(text):
    with pytest.raises(MemoryStoreError, match="no amount of memory"):
        parsed_size(text)
