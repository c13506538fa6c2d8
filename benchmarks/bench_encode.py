"""Images and texts a second of the builtin, decoding included, beside plain open_clip: make bench

Both see the same JPEGs (the samples') and the same captions, in the same process, one after the other, best of three.
The peer is open_clip as its README shows it: one image preprocessed after the other, fp32, texts at full length.
Kept in benchmarks/results/encode.json; a minute, and true only on a machine that does nothing else: time by the clock.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from importlib.resources import files

import open_clip
import pyarrow.parquet as pq
import torch
from PIL import Image
from record import store

import retroclip

IMAGES, TEXTS, BATCH = 512, 512, 64


def rate(work: Callable[[], object], count: int) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return count / best


def main() -> None:
    rows = pq.read_table(str(files("retroclip") / "samples" / "memory.parquet"), columns=["image", "caption"])
    images = rows["image"].to_pylist()[:IMAGES]
    texts = [text for text in rows["caption"].to_pylist() if text][:TEXTS]
    encoder, plain = retroclip.load("builtin"), retroclip.load("builtin", precision="fp32")

    @torch.inference_mode()
    def peer_images() -> None:
        for start in range(0, len(images), BATCH):
            batch = [
                plain.preprocess(Image.open(io.BytesIO(data)).convert("RGB")) for data in images[start : start + BATCH]
            ]
            plain.model.encode_image(torch.stack(batch), normalize=True)

    @torch.inference_mode()
    def peer_texts() -> None:
        for start in range(0, len(texts), BATCH):
            plain.model.encode_text(plain.tokenizer(texts[start : start + BATCH]), normalize=True)

    print(
        f"builtin, precision {encoder.precision}, {torch.get_num_threads()} threads, open_clip {open_clip.__version__}"
    )
    figures: dict[str, object] = {"model": "builtin", "precision": encoder.precision}
    for name, ours, peer, count in (
        ("images", lambda: encoder.encode_images(images), peer_images, len(images)),
        ("texts", lambda: encoder.encode_texts(texts), peer_texts, len(texts)),
    ):
        fast, slow = rate(ours, count), rate(peer, count)
        print(f"{name}: {fast:.0f}/s, plain open_clip {slow:.0f}/s, ratio {fast / slow:.2f}")
        figures[name] = {"count": count, "per_second": fast, "peer_per_second": slow, "ratio": fast / slow}
    store("encode", figures, versions=("open_clip_torch",))


if __name__ == "__main__":
    main()
