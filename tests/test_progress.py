"""Who waits is shown how far it is, and nobody else."""

import itertools

import pytest

from retroclip import progress
from retroclip.progress import counted, encodings_shown


@pytest.fixture
def clock(monkeypatch):
    """Each look at the clock is 20 seconds after the one before."""
    ticks = itertools.count(0, 20)
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))


def count(rows, what="images", *, known=True):
    with counted(rows if known else lambda: None, what) as done:
        for _ in range(rows):
            done(1)


def test_a_log_gets_a_line_a_minute(clock, capsys):
    with encodings_shown():
        count(6)
    told = "encoding: 3 of 6 images, 0 images/s, 0:01:00 left\nencoding: 6 images, 0 images/s\n"
    assert capsys.readouterr().err == told
    with encodings_shown():
        count(3, known=False)
    assert capsys.readouterr().err == "encoding: 3 images, 0 images/s\n"


def test_nothing_unless_somebody_waits_nor_of_parts(clock, capsys):
    count(9)
    with encodings_shown(), counted(1, "images"):
        count(9)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_once_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with encodings_shown():
        count(3)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress, "BAR_SECONDS", 0)
        count(3, "texts")
    assert "texts" in capsys.readouterr().err
