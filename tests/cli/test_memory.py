"""A memory from the command line, with good and bad sources."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from retroclip.memory import Memory


def test_create_info_verify_search(run, model, memory):
    info = json.loads(run("memory info mem --json").out)
    assert (info["rows"], info["with_text"], info["rejected"]) == (20, 20, 0)
    assert info["model_reference"] == str(model.resolve())
    assert run("memory verify mem").status == 0
    found = json.loads(run("memory search mem --image photos/03.jpg -k 3 --json").out)
    assert found[0]["key"] == "03"
    assert found[0]["score"] > 0.99
    assert len(found) == 3
    assert run("memory search mem --text ''").status == 2
    by_text = json.loads(run('memory search mem --text "picture 7 of a dog" --by text -k 1 --json').out)
    assert by_text[0]["caption"] == "picture 7 of a dog" and by_text[0]["metadata"] == {}


def test_many_questions_in_one_call(run, memory, tmp_path, monkeypatch):
    monkeypatch.setattr("retroclip.cli.memory.searching.BATCH", 3)
    words = [f"picture {number} of a {('cat', 'dog')[number % 2]}" for number in range(7)]
    (tmp_path / "words.txt").write_text("\n\n".join(words), encoding="utf-8-sig")
    answers = json.loads(run("memory search mem --texts words.txt --by text -k 2 --json").out)
    assert [answer["query"] for answer in answers] == words
    assert [answer["hits"][0]["caption"] for answer in answers] == words
    single = json.loads(run(f"memory search mem --text '{words[4]}' --by text -k 2 --json").out)
    assert [hit["key"] for hit in answers[4]["hits"]] == [hit["key"] for hit in single]
    (tmp_path / "photos" / "05.jpg").write_bytes(b"broken")
    told = run("memory search mem --images photos -k 1 --where \"key > '02'\" --json")
    answers = {answer["query"]: answer["hits"] for answer in json.loads(told.out)}
    assert told.status == 0 and "photos/05.jpg: " in told.err and "1 of 20 images could not be read" in told.err
    assert answers.pop("photos/05.jpg") == [] and len(answers) == 19
    assert all(hits[0]["key"] == query[7:9] for query, hits in answers.items() if query > "photos/02z")
    (tmp_path / "some.txt").write_text("photos/07.jpg\nphotos/03.jpg\n")
    rows = [line for line in run("memory search mem --images some.txt -k 1").out.splitlines() if "photos" in line]
    assert "picture 7 of a dog" in rows[0] and "picture 3 of a dog" in rows[1]
    (tmp_path / "some.txt").write_text("photos/05.jpg\n")
    assert run("memory search mem --images some.txt --json").status == 1
    (tmp_path / "some.txt").write_text("photos/gone.jpg\nphotos/07.jpg\n")
    told = run("memory search mem --images some.txt -k 1 --json")
    assert [len(answer["hits"]) for answer in json.loads(told.out)] == [0, 1] and told.status == 0
    assert "photos/gone.jpg: No such file" in told.err and "1 of 2 images could not be read" in told.err
    assert run("memory search mem --texts words.txt --json --where nonesuch=1").out == ""
    (tmp_path / "none.txt").write_bytes(b"\xff\xfe")
    assert "none.txt is not UTF-8" in run("memory search mem --texts none.txt").line
    (tmp_path / "none.txt").write_text(" \n")
    assert "none.txt has no line" in run("memory search mem --texts none.txt").line


def test_what_filling_and_indexing_did_as_json(run, model, photos):
    made = json.loads(run(f"memory create mem photos --model {model} --json").out)
    assert made == {"rows": 20, "duplicates": 0, "rejected": 0, "captions": 0}
    added = json.loads(run("memory add mem photos --json").out)
    assert (added["read"], added["rows"], added["duplicates"]) == (20, 0, 20)
    plan = json.loads(run("memory index mem --kind flat --dry-run --json").out)
    assert plan["image"]["kind"] == "flat" and plan["image"]["rows"] == 20
    assert json.loads(run("memory index mem --kind flat --json").out)["kind"] == "flat"


def test_search_and_info_as_tables(run, memory):
    found = run("memory search mem --image photos/03.jpg").out
    assert "picture 3 of a dog" in found
    scores = [line.split()[1] for line in found.splitlines() if "picture" in line]
    assert len(scores) == 10 and all(len(score.partition(".")[2]) == 4 for score in scores)
    assert "fingerprint" in run("memory info mem").out
    built = run("memory index mem --kind flat").out
    told = run("memory info mem").out
    assert "index keys image recall own" in told and "1: 1.0, 10: 1.0" in told
    assert not set("{}[]") & set(built + told)  # nested values have lines of their own


def test_a_memory_names_no_machine_and_finds_its_model_from_everywhere(run, model, photos, memory, monkeypatch):
    assert json.loads(run("memory info mem --json").out)["model"] == model.name
    assert run(f"fuse mem --model {model} --kind mean --out fused -k 3").status == 0
    assert run("memory create other photos --model fused").status == 0
    assert json.loads(run("memory info other --json").out)["model"] == "fused"
    monkeypatch.chdir(photos)
    assert json.loads(run("memory search ../other --image 03.jpg -k 1 --json").out)[0]["key"] == "03"
    assert run("memory add ../mem .").status == 0


def test_delete_add_index(run, memory):
    assert "1 pairs deleted" in run("""memory delete mem --where "key = '04'" """).line
    assert json.loads(run("memory info mem --json").out)["rows"] == 19
    assert "1 pairs added, 19 were there" in run("memory add mem photos").line
    assert run("memory index mem --kind flat").status == 0
    assert json.loads(run("memory info mem --json").out)["index"]["kind"] == "flat"


def test_verify_names_what_is_broken(run, memory):
    data = next((memory / "pairs.lance" / "data").glob("*"))
    data.write_bytes(data.read_bytes()[:100])
    broken = run("memory verify mem")
    assert broken.status == 1
    assert "pairs.lance" in broken.out


def test_embeddings_of_another_tool(run, model, memory, tmp_path):
    folder = tmp_path / "embeddings" / "img_emb"
    folder.mkdir(parents=True)
    rows = Memory.open(memory).embeddings().numpy()
    np.save(folder / "img_emb_0.npy", rows)
    assert run(f"memory create imported embeddings --model {model} --no-index").status == 0
    assert "0 pairs added, 20 were there" in run("memory add imported embeddings").line
    twice = run(f"memory create twice embeddings embeddings --model {model} --no-index --json")
    assert twice.line == "twice: 20 pairs, 20 were there, 0 rejected"
    assert json.loads(twice.out) == {"rows": 20, "duplicates": 20, "rejected": 0, "captions": 0}
    added = run("memory add imported embeddings --known replace").line
    assert "20 pairs added, 20 of them in place of old ones" in added
    np.save(folder / "img_emb_0.npy", rows[:, 1:])
    failed = run(f"memory create other embeddings --model {model}")
    assert failed.status == 1
    assert "of dimension" in failed.line


def test_compact_names_readers_only_where_there_are_some(run, memory, monkeypatch):
    kept = "versions of the last day are kept for others who read them"
    reader = Memory.open("mem")
    assert kept in run("memory compact mem").line
    del reader
    assert run("memory compact mem").line.endswith("MB freed")
    told = {"files_before": 2, "files": 1, "bytes_before": 1_000_000, "bytes": 1_200_000, "old_versions_kept": False}
    monkeypatch.setattr(Memory, "compact", lambda self: told)
    assert run("memory compact mem").line == "mem: 2 files became 1, 0.2 MB more"


def test_export_compact_purge(run, memory, model):
    assert "20 pairs written" in run("memory export mem out --format clip-retrieval").line
    assert run(f"memory create again out --model {model}").status == 0
    assert run("memory export mem out --format parquet").status == 1
    assert run("memory export mem out --format nosuch").status == 2
    assert "1 pairs deleted" in run("""memory delete mem --where "key = '04'" """).line
    assert json.loads(run("memory compact mem --json").out)["files"] == 1
    assert "MB freed" in run("memory compact mem").line
    assert "1 pairs would be purged" in run("""memory purge mem --where "key = '05'" --dry-run""").line
    assert "1 pairs purged" in run("""memory purge mem --where "key = '05'" """).line
    assert json.loads(run("memory info mem --json").out)["rows"] == 18
    assert "MB" in run("memory info mem").out or "kB" in run("memory info mem").out


def test_dry_run_and_migrate(run, model, photos, memory, tiny_model):
    told = json.loads(run(f"memory create other photos --model {model} --dry-run --json").out)
    assert (told["rows"], told["rows_exact"]) == (20, True)
    assert not (photos.parent / "other").exists()
    told = json.loads(run("memory add mem photos --dry-run --json").out)
    assert (told["rows"], told["rows_exact"]) == (20, False)  # some may be there
    for dry_run in ("", " --dry-run"):
        assert "was made by" in run(f"memory migrate mem --model {model}{dry_run}").line
    told = json.loads(run(f"memory migrate mem --model {tiny_model(1)} --dry-run --json").out)
    assert (told["rows"], told["rows_exact"], told["rejected_share"]) == (20, True, 0)
    assert min(told["seconds"], told["disk_bytes"], told["free_bytes"], told["ram_bytes"]) > 0
    assert sorted(path.name for path in photos.parent.glob("mem*")) == ["mem"]
    migrated = run(f"memory migrate mem --model {tiny_model(1)}")
    assert migrated.status == 0
    assert "earlier migration" in run(f"memory migrate mem --model {model} --dry-run").line
    assert "mem.old holds the rows" in run("memory purge mem --where 'key IS NOT NULL' --dry-run").line
    assert "20 pairs" in migrated.line
    assert json.loads(run("memory search mem --image photos/03.jpg -k 1 --json").out)[0]["key"] == "03"


def test_clean_and_blocklist(run, memory, photos, model):
    (photos.parent / "block.txt").write_text("key:03\nsource:nosuch\n")
    assert json.loads(run("memory clean mem --blocklist block.txt --dry-run --json").out)["unwanted"] == 1
    assert json.loads(run("memory clean mem --blocklist block.txt --purge --json").out)["deleted"] == 1
    assert "0 pairs added, 19 were there, 1 rejected" in run("memory add mem photos").err
    assert "19 pairs, 1 rejected" in run(f"memory create other photos --model {model} --blocklist block.txt").err
    assert run("memory clean mem").status == 2
    assert run("memory clean mem --min-clip-score high").status == 2
    assert "from -1 to 1" in run("memory clean mem --min-clip-score nan").line
    assert run("memory clean mem --min-clip-score 1").status == 0
    assert json.loads(run("memory info mem --json").out)["rows"] == 0
    (photos.parent / "block.txt").write_text("nonsense\n")
    assert "line 1" in run("memory clean mem --blocklist block.txt").line


def test_images_as_chosen(run, model, photos):
    assert run(f"memory create small photos --model {model} --images none").status == 0
    assert json.loads(run("memory info small --json").out)["with_image"] == 0
    listed = hashlib.sha256(next(photos.glob("*.jpg")).read_bytes()).hexdigest()
    (photos.parent / "block.txt").write_text(f"sha256:{listed}\nkey:03\n")
    cleaned = run("memory clean small --blocklist block.txt --json")
    assert json.loads(cleaned.out)["blocked"] == 1
    assert "20 pairs keep no image: the sha256 and md5 entries of block.txt (1)" in cleaned.line
    assert run(f"memory create whole photos --model {model}").status == 0
    assert run("memory clean whole --blocklist block.txt --json").err == ""
    assert run(f"memory create other photos --model {model} --images tiny").status == 2


def test_ray_takes_an_address_or_none(run, model, photos, monkeypatch):
    create = f"memory create other photos --model {model}"
    assert "--workers is for --ray" in run(f"{create} --workers 2").line
    assert "in photos for where \"caption = 'x'\"" in run(f"""{create} --where "caption = 'x'" """).line
    failed = run(f"{create} --ray host:1 mem")
    assert (failed.status, "takes one address" in failed.line) == (2, True)
    monkeypatch.setitem(sys.modules, "ray", None)
    for given in ("--ray", "--ray auto", "--ray --workers 2"):
        failed = run(f"{create} {given}")
        assert failed.status == 1
        assert "pip install 'retroclip[ray]'" in failed.line
    assert not (photos.parent / "other").exists()


def test_a_recall_that_is_not_reached_is_told(run, memory, monkeypatch):
    assert "only" not in run("memory index mem --kind flat").err
    monkeypatch.setattr("retroclip.memory.measure.recall_of", lambda exact, found: 0.4)
    told = run("memory index mem --kind hnsw --recall 0.9")
    assert told.status == 0 and "image: recall@10 is only 0.400, not the 0.9 wanted" in told.err


def test_a_kind_that_cant_be_built_is_told_before_and_leaves_nothing(run, memory):
    for dry_run in ("", " --dry-run"):
        failed = run(f"memory index mem --kind Nonsense99{dry_run}")
        assert failed.status == 1 and "give auto, exact, flat" in failed.line and ".cpp" not in failed.line
    assert "can't be trained on 20 rows" in run("memory index mem --kind IVF64,Flat").err
    assert not list(Path("mem/index").glob("*.tmp"))


def test_an_emptied_memory_says_that_it_has_nothing_to_index(run, memory):
    failed = run("memory index mem --ram lots")
    assert (failed.status, "no amount of memory" in failed.line) == (2, True)
    assert "20 pairs purged" in run("memory purge mem --where 'key IS NOT NULL'").line
    assert run("memory index mem --dry-run").line == "mem: no pairs to index"
