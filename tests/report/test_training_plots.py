import numpy as np
import torch
from PIL import Image

from retroclip.pairs import Pair
from retroclip.report.training_plots import plot_similarities, plot_training, sample_pairs


def test_a_run_is_drawn_with_and_without_measurements(tmp_path):
    rows = [{"step": i, "epoch": 0, "lr": 0.1, "seconds": i, "loss": 1 / i, "contrast": 1 / i} for i in range(1, 5)]
    plot_training(rows, tmp_path / "plain.png")
    rows[-1]["cifar10"] = 0.3
    plot_training(rows, tmp_path / "measured.png")
    heights = [Image.open(tmp_path / name).height for name in ("plain.png", "measured.png")]
    assert heights == [300, 500]


def test_pairs_are_spread_over_the_source(tmp_path, make_image):
    for number in range(9):
        make_image(number).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"caption {number}")
    assert [pair.caption for pair in sample_pairs(str(tmp_path), 3)] == ["caption 0", "caption 4", "caption 8"]
    assert len(sample_pairs(str(tmp_path), 20)) == 9


def test_a_matrix_of_cosines_is_drawn(tmp_path, make_encoded):
    pairs = [Pair(str(i), make_encoded(i), (f"a caption of the picture {i}",)) for i in range(3)]
    plot_similarities(pairs, torch.eye(3), tmp_path / "pairs.png")
    assert np.asarray(Image.open(tmp_path / "pairs.png")).std() > 10
