"""Pairs a second of `memory create`, beside clip-retrieval 2.45: make bench-memory

Both embed the same tar of 1,024 JPEGs of 500 × 375 pixels (the samples' photos, enlarged) and captions with the same
ViT-B-32, its random weights read from a file, one after the other; models are loaded before the clock starts, and both
write their results. The peer is installed into a virtual environment of its own (`--venv DIR` keeps one for the next
time); it needs setuptools < 80, and reads tars only: its folder reader hangs. It gets one process that decodes: a tar's
reader in a second one would find no tar left, which today's webdataset calls an error; one is enough for its model.
Printed: both rates, their ratio, and the smallest cosine between our stored embeddings and its.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
from record import store

COUNT, SIZE, MODEL = 1024, (500, 375), "ViT-B-32"
KINDS = {"image": "img_emb", "text": "text_emb"}
PEER = ("clip-retrieval==2.45.0", "setuptools<80")
PATIENCE = 1800  # seconds for one of the two
PEER_SCRIPT = """
import os, sys, time, traceback
from clip_retrieval.clip_inference import worker
from clip_retrieval.clip_inference.main import main
from clip_retrieval.clip_inference.runner import Runner

seconds = []

class Timed(Runner):
    def __call__(self, i):
        build, began = self.logger_builder, []
        def logger(i):  # built when the models are loaded
            began.extend([time.perf_counter(), sum(os.times()[:4])])
            return build(i)
        self.logger_builder = logger
        super().__call__(i)
        seconds.extend([time.perf_counter() - began[0], sum(os.times()[:4]) - began[1]])

worker.Runner = Timed
status = 1
try:
    main(sys.argv[1], sys.argv[2], input_format="webdataset", clip_model=sys.argv[3], num_prepro_workers=1,
         wds_number_file_per_input_file=1024)
    print("\\nSECONDS", *seconds)  # its logger leaves a line open
    status = 0
except BaseException:
    traceback.print_exc()
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)  # after an error its logger's process never ends, and a plain exit would wait for that
"""
OWN_SCRIPT = """
import os, sys, time
import retroclip

encoder = retroclip.load(sys.argv[3])
start, used = time.perf_counter(), sum(os.times()[:4])
retroclip.Memory.create(sys.argv[2], encoder, sys.argv[1])
print("SECONDS", time.perf_counter() - start, sum(os.times()[:4]) - used, encoder.precision)
"""


def make_tar(path: Path) -> None:
    import pyarrow.parquet as pq
    from PIL import Image

    rows = pq.read_table(str(files("retroclip") / "samples" / "memory.parquet"), columns=["image", "caption"])
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows.slice(0, COUNT).to_pylist()):
            image, buffer = Image.open(io.BytesIO(row["image"])).convert("RGB").resize(SIZE), io.BytesIO()
            image.save(buffer, "JPEG", quality=90)
            for suffix, data in (("jpg", buffer.getvalue()), ("txt", (row["caption"] or "a photo").encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def peer_python(folder: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        print("installing clip-retrieval ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-I", "-m", "pip", "install", "--quiet", *PEER], check=True)
    return python


def seconds_of(python: str | Path, script: str, *arguments: object) -> tuple[float, float, str]:
    """Seconds, seconds of processor time (of all processes), and what else the script said."""
    command = [str(python), "-c", script, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:  # not a pipe: a process left behind would keep that open
        try:
            status = subprocess.run(command, check=False, stdout=output, stderr=output, timeout=PATIENCE).returncode
        except subprocess.TimeoutExpired:
            status = None
        output.seek(0)
        text = output.read()
    told = [line.split() for line in text.splitlines() if line.startswith("SECONDS")]
    if status is None:
        raise SystemExit(f"{python} has not ended after {PATIENCE} s:\n{text[-2000:]}")
    if status or not told or len(told[0]) < 3:
        raise SystemExit(f"{python} failed:\n{text[-4000:]}")
    return float(told[0][1]), float(told[0][2]), " ".join(told[0][3:])


def smallest_cosine(peer: Path, memory: Path, kind: str) -> float:
    import pyarrow.parquet as pq

    from retroclip import Memory

    theirs = np.load(next((peer / f"{KINDS[kind]}").glob("*.npy"))).astype(np.float32)
    keys = pq.read_table(next((peer / "metadata").glob("*.parquet")))["image_path"].to_pylist()
    opened = Memory.open(memory)
    ours = dict(zip(opened.take(opened.ids(), ["key"])["key"].to_pylist(), opened.embeddings(of=kind), strict=True))
    own = np.stack([ours[key].numpy() for key in keys])
    return float(((theirs * own).sum(1) / np.linalg.norm(theirs, axis=1)).min())


def image_sizes(memory: Path) -> dict[str, float]:
    """Mean bytes of an image, and of the thumbnail that `--images thumbnail` would keep of it."""
    from retroclip import Memory
    from retroclip.memory.pictures import kept_image

    opened = Memory.open(memory)
    images = opened.take(opened.ids()[:128], ["image"])["image"].to_pylist()
    kept = {"image_bytes": images, "thumbnail_bytes": [kept_image(image, "thumbnail") for image in images]}
    return {name: float(np.mean([len(image or b"") for image in own])) for name, own in kept.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, help="where the peer is, or will be, installed")
    chosen = parser.parse_args().venv
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as name:
        folder = Path(name)
        import open_clip
        import torch

        torch.manual_seed(0)
        torch.save(open_clip.create_model(MODEL).state_dict(), folder / "random.pt")
        make_tar(folder / "pairs.tar")
        python = peer_python(chosen or folder / "venv")
        own, own_used, precision = seconds_of(
            sys.executable, OWN_SCRIPT, folder / "pairs.tar", folder / "memory", f"{MODEL}@{folder / 'random.pt'}"
        )
        model = f"open_clip:{MODEL}/{folder / 'random.pt'}"
        peer, peer_used, _ = seconds_of(python, PEER_SCRIPT, folder / "pairs.tar", folder / "peer", model)
        cosines = {kind: smallest_cosine(folder / "peer", folder / "memory", kind) for kind in ("image", "text")}
        sizes = image_sizes(folder / "memory")
    store("embed", {
        "model": MODEL, "precision": precision, "pairs": COUNT, "pairs_per_second": COUNT / own,
        "pairs_per_cpu_second": COUNT / own_used, "clip_retrieval_pairs_per_second": COUNT / peer,
        "smallest_cosines": cosines, **sizes,
    })  # fmt: skip
    print(
        f"{COUNT} pairs, {MODEL} in {precision}: retroclip {COUNT / own:.1f} pairs/s, "
        f"clip-retrieval {COUNT / peer:.1f}, ratio {peer / own:.2f} (of processor time {peer_used / own_used:.2f}); "
        f"smallest cosine: images {cosines['image']:.5f}, texts {cosines['text']:.5f}"
    )


if __name__ == "__main__":
    main()
