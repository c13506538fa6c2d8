"""What a benchmark measured, kept with its circumstances in benchmarks/results for `scale.py`."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def store(name: str, measured: dict[str, Any]) -> Path:
    """Write `results/NAME.json`: the figures, when, and on what processor."""
    RESULTS.mkdir(exist_ok=True)
    circumstances = {
        "command": f"python benchmarks/bench_{name}.py",
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_before": [round(value, 1) for value in os.getloadavg()],
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**circumstances, **measured}, indent=1) + "\n", encoding="utf-8")
    return path


def processor() -> str:
    """The processor's name as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
