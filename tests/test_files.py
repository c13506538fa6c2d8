"""Files that appear whole or not at all."""

import errno
from pathlib import Path

import numpy as np
import pytest

from retroclip.evaluation.outcome import Outcome
from retroclip.evaluation.result import Result, save_results
from retroclip.files import whole_file, write_whole
from retroclip.report.files import write_as
from retroclip.report.html import Report, write_report
from retroclip.tasks import Task

RESULT = Result(task="t", dataset="d", n=1, method="zero-shot", model="m", metric="top1", value=0.5)
ANSWERS = np.zeros(3, np.int64)


def outcome() -> Outcome:
    return Outcome(ANSWERS, ANSWERS, ANSWERS < 1, np.ones(3), 2)


WRITERS = {
    "text": lambda path: write_whole(path, "é" * 9),
    "results": lambda path: save_results([RESULT], path),
    "report.html": lambda path: write_report(Report(results=[RESULT]), path),
    "report.md": lambda path: write_as([RESULT], path),
    "task.yaml": lambda path: Task("t", classes=["a", "b"]).to_yaml(path),
    "outcome.npz": lambda path: outcome().save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(tmp_path, name, monkeypatch):
    file, plain = tmp_path / name, Path.open

    def full(path, *args, **given):
        stream = plain(path, *args, **given)
        stream.write("half" if "b" not in stream.mode else b"half")
        stream.close()
        raise OSError(errno.ENOSPC, "No space left on device")

    file.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        patch.setattr(Path, "write_text", lambda path, text, **given: full(path, "w"))
        with pytest.raises(OSError, match="No space left"):
            WRITERS[name](file)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "old")]
    WRITERS[name](file)
    assert [path.name for path in tmp_path.iterdir()] == [name] and file.read_bytes() != b"old"


def test_an_unfinished_file_takes_the_name_at_the_end(tmp_path):
    file = tmp_path / "a.txt"
    with whole_file(file) as unfinished:
        unfinished.write_text("new")
        assert unfinished.parent == tmp_path and not file.exists()
    assert file.read_text() == "new"
