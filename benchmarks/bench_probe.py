"""CLIP's logistic-regression probe beside scikit-learn's with the same sweep, 20,000 × 512: make bench

Features are drawn so as to look like a CLIP's: unit norm, one common direction, a power-law spectrum, classes that
overlap. Both search C as CLIP does (seven powers of ten, then halved steps) by accuracy on the same held-out rows, and
fit once more at the best; the accuracy is that of other rows. scikit-learn gets float32 and its default tolerance, by
which it stops early where C is large; so it is fitted once more at our C to its optimum, which doesn't count as time.
With `--to-the-optimum` its whole sweep is run to the optimum, and kept in a file of its own (some 20 minutes).
Time is processor time and, between brackets, by the clock; kept in benchmarks/results/probe.json.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from typing import Any

import torch
from record import store
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from retroclip.classifiers.logistic import COARSE, STEPS_A_DECADE, LogisticProblem, regularisation_sweep, sweep

DIM, HELD_OUT, TEST, MAX_ITER = 512, 4000, 10_000, 1000
DEFAULT: dict[str, Any] = {"max_iter": MAX_ITER, "random_state": 0}
OPTIMUM = DEFAULT | {"tol": 1e-7, "max_iter": 5 * MAX_ITER}


def draw(n: int, centres: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n unit-norm features and their classes."""
    labels = torch.randint(0, len(centres), (n,), generator=generator)
    spectrum = torch.arange(1, DIM + 1).float().pow(-0.5)
    rows = 0.2 * centres[labels] + torch.randn(n, DIM, generator=generator)
    common = torch.zeros(DIM)
    common[0] = 8.0
    return torch.nn.functional.normalize(rows * spectrum + common, dim=1), labels


def main() -> None:
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--steps-a-decade", type=int, default=STEPS_A_DECADE)
    parser.add_argument("--to-the-optimum", action="store_true", help="scikit-learn's sweep, too")
    given = parser.parse_args()
    how = OPTIMUM if given.to_the_optimum else DEFAULT
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(given.classes, DIM, generator=generator)
    (features, labels), held, test = (draw(n, centres, generator) for n in (given.rows, HELD_OUT, TEST))
    size = f"{given.rows} x {DIM}, {given.classes} classes"
    print(f"{size}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")

    def accuracy(weights: Tensor, bias: Tensor) -> float:
        return float(((test[0] @ weights.T + bias).argmax(1) == test[1]).double().mean())

    start, clock = time.process_time(), time.perf_counter()
    best, scores = regularisation_sweep(
        features, labels, held, given.classes, max_iter=MAX_ITER, steps_a_decade=given.steps_a_decade
    )
    value = accuracy(*LogisticProblem(features, labels, given.classes).fit(best, max_iter=MAX_ITER))
    seconds, wall = time.process_time() - start, time.perf_counter() - clock
    print(
        f"ours: C {best:.3g} of {len(scores)}, top-1 {100 * value:.2f} %, {seconds:.1f} processor seconds"
        f" ({wall:.1f} s)",
        flush=True,
    )
    ours = {"c": best, "tried": len(scores), "top1": value, "processor_seconds": seconds, "seconds": wall}

    def peer_score(c: float) -> float:
        peer = LogisticRegression(C=c, **how).fit(features.numpy(), labels.numpy())
        print(f"  scikit-learn at C {c:.3g}: {peer.n_iter_[0]} steps, {time.process_time() - start:.0f} s", flush=True)
        return float(peer.score(held[0].numpy(), held[1].numpy()))

    start, clock = time.process_time(), time.perf_counter()
    best, scores = sweep(peer_score, coarse=COARSE, steps_a_decade=given.steps_a_decade)
    peer = LogisticRegression(C=best, **how).fit(features.numpy(), labels.numpy())
    theirs = float(peer.score(test[0].numpy(), test[1].numpy()))
    peer_seconds, peer_wall = time.process_time() - start, time.perf_counter() - clock
    print(
        f"scikit-learn: C {best:.3g} of {len(scores)}, top-1 {100 * theirs:.2f} %, {peer_seconds:.1f} processor seconds"
        f" ({peer_wall:.1f} s)"
    )
    print(
        f"difference {100 * (value - theirs):+.2f} points, {peer_seconds / seconds:.1f} times as fast"
        f" ({peer_wall / wall:.1f} by the clock)"
    )
    peer = LogisticRegression(C=ours["c"], **OPTIMUM).fit(features.numpy(), labels.numpy())
    optimum = float(peer.score(test[0].numpy(), test[1].numpy()))
    print(
        f"scikit-learn at our C, tolerance {OPTIMUM['tol']:g}: {peer.n_iter_[0]} steps, top-1 {100 * optimum:.2f} %,"
        f" difference {100 * (value - optimum):+.2f} points"
    )
    others = {"c": best, "tried": len(scores), "top1": theirs, "processor_seconds": peer_seconds, "seconds": peer_wall}
    others |= {"top1_at_our_c": optimum, "steps_at_our_c": int(peer.n_iter_[0])}
    figures = {"rows": given.rows, "dim": DIM, "classes": given.classes, "ours": ours, "scikit-learn": others}
    store("probe-optimum" if given.to_the_optimum else "probe", figures, versions=("scikit-learn", "scipy"))


if __name__ == "__main__":
    main()
