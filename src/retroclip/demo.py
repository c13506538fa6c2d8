"""The demo: the whole flow on the photos that ship with retroclip."""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from retroclip.encoders import Encoder, load
from retroclip.errors import MemoryStoreError, SourceError
from retroclip.memory import Memory
from retroclip.memory.disk import read_json, write_json
from retroclip.report import Report
from retroclip.report.figures import duration
from retroclip.study import Study, run_study
from retroclip.tasks import Task
from retroclip.version import __version__

SAMPLES = Path(__file__).parent / "samples"
METHODS = (
    "zero-shot", "primed", "mean-neighbours", "tip-adapter", "stacked-linear", "stacked-linear-features", "reco",
    "locked-text", "gated-image",
)  # fmt: skip
MADE_HERE = ("memory", "memory.partial", "runs", "results.json", "report.html")

INTRODUCTION = (
    "What a model gains from a memory of image-text pairs, on photos that ship with retroclip. The task is to tell "
    "{classes} kinds of thing apart in {images} photos. The memory holds {pairs} other pairs: photos of those kinds "
    "whose captions name them, and more that have nothing to do with the task. No method saw a label or an evaluated "
    "photo; what they found in the memory they found from the class names. Captions that name a class are a strong "
    "hint: on a memory of ordinary captions the gains are smaller."
)
NOTES = (
    "The captions of the memory were written by a program from the data sets' labels.",
    "What customization forgets is measured on 250 photos of five kinds of flower. The memory holds 600 other photos "
    "of flowers whose captions name them, so that models which learnt from it may gain there instead.",
    "Photos: Caltech-101 (CC BY 4.0), TensorFlow flower photos (CC BY 2.0), BCCD (MIT); see samples/ATTRIBUTION.md.",
)

Tell = Callable[[str], None]


def run_demo(
    out: Path, *, model: str = "builtin", seeds: Sequence[int] = (0,), tell: Tell = print, progress: bool = False
) -> Study:
    """Build a memory from the samples in `out`, compare methods on it, and write results and report there.

    Run again it takes up what is there; with another model or version it starts over. progress: show a bar while the
    memory is built. Raises SourceError when the samples were not installed.
    """
    start = time.perf_counter()
    if not (SAMPLES / "memory.parquet").is_file():
        raise SourceError(f"{SAMPLES} has no samples: install retroclip again, or run recipes/make_samples.py")
    encoder = load(model)
    out.mkdir(parents=True, exist_ok=True)
    start_over_unless_same(
        out, {"fingerprint": encoder.fingerprint, "samples": samples_hash(), "retroclip": __version__}
    )
    memory = demo_memory(out / "memory", encoder, tell, progress=progress)
    task, flowers = Task.load(SAMPLES / "things.yaml"), Task.load(SAMPLES / "flowers.yaml")
    images = pq.read_metadata(SAMPLES / "things.parquet").num_rows
    frame = Report(
        results=[],
        title="retroclip demo: what a memory gains",
        introduction=INTRODUCTION.format(classes=len(task.classes), images=images, pairs=f"{len(memory):,}"),
        notes=NOTES,
    )
    tell(f"comparing {len(METHODS)} methods on {images} photos of {len(task.classes)} kinds")
    study = run_study(
        encoder,
        task,
        SAMPLES / "things.parquet",
        memory,
        out,
        methods=METHODS,
        seeds=seeds,
        also=[(flowers, SAMPLES / "flowers.parquet")],
        frame=frame,
        tell=tell,
    )
    tell(f"done in {duration(time.perf_counter() - start)}")
    return study


def demo_memory(path: Path, encoder: Encoder, tell: Tell, *, progress: bool = False) -> Memory:
    """The memory of the samples: the finished one, or made now (going on with one that was interrupted)."""
    if path.exists():
        tell(f"using the memory {path}")
        return Memory.open(path)
    source = SAMPLES / "memory.parquet"
    begun = path.with_name(path.name + ".partial").exists()
    tell(
        f"{'going on with' if begun else 'building'} the memory {path} from {pq.read_metadata(source).num_rows:,} pairs"
    )
    start = time.perf_counter()
    memory = Memory.create(path, encoder, [source], progress=progress)
    tell(f"{len(memory):,} pairs in {duration(time.perf_counter() - start)}")
    return memory


def start_over_unless_same(out: Path, circumstances: dict[str, str]) -> None:
    """Remove what an earlier demo made in `out` under other circumstances; they are written to `out/demo.json`.

    Only what a demo makes is removed, and only where that file, be it damaged, says that a demo made it.
    """
    card = out / "demo.json"
    try:
        if read_json(card) == circumstances:
            return
    except MemoryStoreError:
        pass  # damaged, so nobody knows the circumstances
    except FileNotFoundError:
        write_json(card, circumstances)
        return
    for name in MADE_HERE:
        made = out / name
        if made.is_dir():
            shutil.rmtree(made)
        else:
            made.unlink(missing_ok=True)
    write_json(card, circumstances)


def samples_hash() -> str:
    """16 hex digits that change with the samples."""
    digest = hashlib.sha256()
    for path in sorted(SAMPLES.glob("*.parquet")) + sorted(SAMPLES.glob("*.yaml")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
