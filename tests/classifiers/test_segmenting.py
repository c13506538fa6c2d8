"""Key smoothing and prompt denoising against loops."""

import torch

from retroclip.classifiers.segmenting import key_smoothing, prompt_denoising


def test_key_smoothing_by_loops():
    generator = torch.Generator().manual_seed(0)
    scores, keys = (torch.randn(7, n, generator=generator, dtype=torch.float64) for n in (3, 5))
    expected = torch.zeros(7, 3, dtype=torch.float64)
    for i in range(7):
        for j in range(7):
            cosine = keys[i] @ keys[j] / (keys[i].norm() * keys[j].norm())
            expected[i] += cosine * scores[j]
    torch.testing.assert_close(key_smoothing(scores, keys), expected)


def test_denoising_drops_classes_that_no_patch_is_sure_of():
    scores = torch.tensor([[9.0, 0.0, 1.0], [0.0, 8.0, 7.9], [5.0, 0.0, 0.0]])
    assert prompt_denoising(scores, 0.5).tolist() == [True, True, False]
    assert prompt_denoising(torch.zeros(4, 10), 0.5).all()  # no class is sure: all stay
    assert prompt_denoising(torch.tensor([[1.0, 0.9, 0.0]]), 0.5).tolist() == [True, False, False]
