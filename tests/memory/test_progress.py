"""What a log says of a run that nobody watches."""

import io
import re
import tarfile

from retroclip.memory import Memory, progress


def shards(folder, stub, count):
    """Two tars, which don't tell how many pairs they hold."""
    paths = [folder / f"{number}.tar" for number in range(2)]
    for path in paths:
        with tarfile.open(path, "w") as tar:
            for number in range(count // 2):
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(data := stub.photo(number))
                tar.addfile(member, io.BytesIO(data))
    return [str(path) for path in paths]


def test_a_log_gets_rate_rejected_and_remaining_time(tmp_path, encoder, stub, monkeypatch, capfd):
    """A run under nohup had said nothing for hours, and one over tars nothing of the time that is left."""
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    sources = shards(tmp_path, stub, 400)
    memory = Memory.create(tmp_path / "m", encoder, sources, batch_size=16, progress=True)
    lines = capfd.readouterr().err.splitlines()
    told = [
        re.fullmatch(r"encoding: (\d+) of (\d+) pairs, [\d,]+ pairs/s, 0 rejected, [\d:]+ left", line) for line in lines
    ]
    assert told[0] and int(told[0][1]) == 16 and 100 <= int(told[0][2]) <= 600
    memory.migrate(type(encoder)(seed=1), batch_size=16, progress=True)
    assert re.match(r"encoding: \d+ of 400 pairs", capfd.readouterr().err)


def test_a_short_run_says_nothing(tmp_path, encoder, pairs, capfd):
    Memory.create(tmp_path / "m", encoder, pairs, progress=True)
    assert capfd.readouterr().err == ""
