"""What a log says of a run that nobody watches."""

import io
import re
import tarfile

from retroclip import progress
from retroclip.evaluation.cleaning import clean_memory
from retroclip.memory import Blocklist, Memory


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
    memory.add(sources, encoder, where="key LIKE '%1'", batch_size=16, progress=True)
    assert re.match(r"encoding: 16 pairs, ", capfd.readouterr().err)  # it had told the time that all 400 would take
    memory.migrate(type(encoder)(seed=1), batch_size=16, progress=True)
    assert re.match(r"encoding: \d+ of 400 pairs", capfd.readouterr().err)


def test_other_long_work_says_how_far_it_is(tmp_path, encoder, pairs, monkeypatch, capfd):
    """Building an index, exporting and cleaning had said nothing, which over millions of pairs takes hours."""
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    memory = Memory.create(tmp_path / "m", encoder, pairs[:40])

    def told(*doing):
        lines = [line for line in capfd.readouterr().err.splitlines() if " pairs/s" in line or " rows/s" in line]
        assert list(dict.fromkeys(line.partition(":")[0] for line in lines)) == list(doing)
        return lines

    steps = [f"{of}s, {doing}" for of in ("image", "text") for doing in ("copy", "index")]
    memory.index("ivf", progress=True)
    assert re.fullmatch(r"images, copy: 40 rows, [\d,]+ rows/s", told(*steps)[0])
    memory.add(pairs[40:], encoder)
    memory.index("ivf", progress=True)
    assert told(*steps)[1].startswith("images, copy: 60 rows")
    memory.index("flat", progress=True)
    told(*steps)
    for format in ("clip-retrieval", "webdataset", "parquet"):
        memory.export(tmp_path / format, format, progress=True)
        assert told("exporting")[0].startswith("exporting: 60 pairs")
    memory.export(tmp_path / "quiet", "parquet")
    clean_memory(memory, near=0.99, blocklist=Blocklist({"key": frozenset(["p000"])}), progress=True)
    told("blocklist", "near copies")


def test_a_short_run_says_nothing(tmp_path, encoder, pairs, capfd):
    Memory.create(tmp_path / "m", encoder, pairs, progress=True)
    assert capfd.readouterr().err == ""
