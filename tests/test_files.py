"""Files that appear whole or not at all."""

import errno
import os
import threading
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


def test_of_two_that_write_one_file_the_last_stands_whole(tmp_path):
    file = tmp_path / "a.txt"
    with whole_file(file) as first:
        first.write_text("first")
        with whole_file(file) as second:
            second.write_text("the second")
            assert first.read_text() == "first"
        assert file.read_text() == "the second"
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_goes_on_pointing_at_its_file(tmp_path):
    (tmp_path / "there").mkdir()
    there, link = tmp_path / "there" / "a.txt", tmp_path / "link"
    there.write_text("old")
    link.symlink_to(there)
    write_whole(link, "new")
    assert link.is_symlink() and there.read_text() == "new"
    assert list(there.parent.iterdir()) == [there]


def test_permissions_are_the_earlier_files_or_the_usual_ones(tmp_path):
    file, plain = tmp_path / "a.txt", tmp_path / "plain"
    plain.touch()
    write_whole(file, "a")
    assert file.stat().st_mode == plain.stat().st_mode
    file.chmod(0o600)
    write_whole(file, "b")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_whole(pipe, "through")
    reader.join(10)
    assert read == ["through"] and pipe.is_fifo()


def test_a_folder_that_is_not_there_and_one_in_the_way_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder: '.*/nosuch'$"):
        write_whole(tmp_path / "nosuch" / "a.txt", "")
    with pytest.raises(IsADirectoryError, match=f"{tmp_path}'$"):
        write_whole(tmp_path, "")
