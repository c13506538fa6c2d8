"""What a benchmark printed, kept as benchmarks/results/NAME.json with its circumstances, so that docs can cite it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import retroclip
from retroclip.files import write_whole

RESULTS = Path(__file__).parent / "results"


def store(name: str, figures: Mapping[str, Any], *, versions: tuple[str, ...] = ()) -> Path:
    """Write figures with processor, threads, load, options, versions of packages and date; returns the file."""
    packages = ("retroclip", "torch", "numpy", *versions)
    record = {
        "benchmark": name,
        "options": [text for text in sys.argv[1:] if os.sep not in text],  # no paths of this machine
        "figures": dict(figures),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    write_whole(file, json.dumps(record, indent=1) + "\n")
    print(f"stored: {file.name}")
    return file


def version(package: str) -> str:
    """The installed version, or that of this checkout."""
    return retroclip.__version__ if package == "retroclip" else importlib.metadata.version(package)


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
