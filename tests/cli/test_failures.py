"""From exceptions to lines and exit statuses."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from retroclip.cli import app as application
from retroclip.cli import main
from retroclip.cli.failures import DEBUG_VARIABLE, explain, is_full_disk
from retroclip.errors import SourceError


@pytest.fixture
def failing(monkeypatch, capsys):
    """`failing(error)`: the status and stderr of a verb that raises."""

    def fail(error):
        def verb(tokens, **options):
            raise error

        monkeypatch.setattr(application, "app", SimpleNamespace(meta=verb))
        return main([]), capsys.readouterr().err

    return fail


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SourceError("no images\nfound"), "retroclip: no images found\n"),
        (
            KeyboardInterrupt(),
            "retroclip: interrupted; run the same command again: what was finished is not done twice\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "retroclip: the disk is full; free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "mem"), "retroclip: mem: Permission denied\n"),
        (MemoryError(), "retroclip: out of memory"),
        (ZeroDivisionError("by\n\nzero"), "retroclip: ZeroDivisionError: by zero [this may be a bug"),
    ],
)
def test_every_failure_is_one_line_and_status_1(failing, error, told):
    status, err = failing(error)
    assert status == 1
    assert err.startswith(told)
    assert err.count("\n") == 1


@pytest.fixture(autouse=True)
def no_debug(monkeypatch):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)


def test_debug_shows_the_traceback(failing, monkeypatch):
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError("x"))


def test_a_full_disk_is_told_behind_other_errors():
    inner = OSError(errno.ENOSPC, "No space left on device")
    outer = RuntimeError("could not write")
    outer.__cause__ = inner
    assert explain(outer).startswith("the disk is full")
    assert is_full_disk(RuntimeError("LanceError(IO): No space left on device (os error 28)"))
    assert not is_full_disk(OSError(errno.EACCES, "Permission denied"))


def test_a_page_of_text_becomes_a_line():
    line = explain(ValueError("x\n" * 5000))
    assert "\n" not in line
    assert len(line) < 800


COMMAND = [sys.executable, "-m", "retroclip"]
PRINTING = [*COMMAND, "tasks", "--json"]  # fits into the buffer, which is written at the end
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full to write to")
def test_output_that_finds_the_disk_full_is_one_line_and_status_1():
    with open("/dev/full", "w") as full:
        ran = subprocess.run(PRINTING, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=BUFFERED)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert ran.stderr.startswith("retroclip: the disk is full")


def test_output_that_nobody_reads_is_silent_and_status_1():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        ran = subprocess.run(PRINTING, stdout=closed, stderr=subprocess.PIPE, text=True, check=False, env=BUFFERED)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_without_any_stdout_a_verb_still_works():
    code = f"import os, subprocess; os.close(1); exit(subprocess.run({[*COMMAND, '--version']}).returncode)"
    ran = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False, env=BUFFERED)
    assert (ran.returncode, ran.stderr) == (0, "")
