"""Arrays in one file."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from retroclip.errors import MemoryStoreError
from retroclip.memory.arrays import ArrayFile, new_arrays


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.arrays"
    with new_arrays(
        path, {"codes": (np.int8, (3, 5)), "ids": (np.int64, (3,)), "none": (np.float16, (0, 4))}
    ) as arrays:
        arrays["codes"][:] = np.arange(15).reshape(3, 5)
        arrays["ids"][:] = [7, 8, 2**40]
    return path


def test_what_is_written_is_read_also_by_safetensors(path):
    file = ArrayFile(path)
    assert file["codes"].tolist() == np.arange(15).reshape(3, 5).tolist()
    assert file["ids"].tolist() == [7, 8, 2**40]
    assert file["none"].shape == (0, 4)
    file.release()
    assert file["ids"][2] == 2**40
    other = load_file(path)
    assert all(np.array_equal(other[name], file[name]) for name in ("codes", "ids", "none"))


@pytest.mark.parametrize("left", [0, 5, 40, -1])
def test_a_file_cut_short_is_told(path, left):
    content = path.read_bytes()
    path.write_bytes(content[:left])
    with pytest.raises(MemoryStoreError, match=r"a\.arrays is missing or damaged"):
        ArrayFile(path)


def test_a_wrong_header_is_told(path):
    text = json.dumps({"codes": {"dtype": "F99", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"0")
    with pytest.raises(MemoryStoreError, match="damaged"):
        ArrayFile(path)
