import torch
import torch.nn.functional as F

from retroclip.fusion import CentredMeanFusion, MemoryEncoder, build_fusion, load_memory_encoder
from retroclip.fusion.centred import modality_mean


def prepared(memory, weight=0.4):
    fusion = CentredMeanFusion(16, weight)
    fusion.prepare(memory)
    return fusion


def test_means_leave_out_pairs_without_text(memory):
    texts = memory.parts["text"]
    torch.testing.assert_close(modality_mean(memory, "image"), memory.parts["image"].mean(0))
    torch.testing.assert_close(modality_mean(memory, "text"), texts[texts.norm(dim=1) > 0].mean(0))


def test_refinement_equals_a_loop(memory, encoder):
    """Neighbours by the centred query against keys as they are, means taken out of both modalities."""
    images, texts = memory.parts["image"], memory.parts["text"]
    wrapped = MemoryEncoder(encoder, memory, prepared(memory), k=3)
    queries = F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(9)), dim=-1)
    own_mean, other_mean = images.mean(0), texts[texts.norm(dim=1) > 0].mean(0)
    for query, refined in zip(queries, wrapped.refine(queries, "image"), strict=True):
        asked = (query - own_mean) / (query - own_mean).norm()
        scores = images @ asked
        scores[3:6] = -torch.inf
        near = [F.normalize(texts[row] - other_mean, dim=0) for row in scores.topk(3).indices]
        expected = 0.6 * asked + 0.4 * sum(near) / 3
        torch.testing.assert_close(refined, expected / expected.norm())
    refined = wrapped.refine(queries, "text")
    torch.testing.assert_close(refined, F.normalize(queries - other_mean, dim=1))


def test_it_undoes_a_shift_of_either_modality():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(200, 8, generator=generator)
    fusion = CentredMeanFusion(8)
    fusion.image_mean, fusion.text_mean = rows.mean(0) + 3.0, rows.mean(0) - 2.0
    torch.testing.assert_close(fusion.asking(rows + 3.0, "image"), fusion.asking(rows - 2.0, "text"))


def test_its_means_are_saved(memory, encoder, tmp_path):
    wrapped = MemoryEncoder(encoder, memory, prepared(memory), k=3)
    wrapped.save(tmp_path / "centred")
    again = load_memory_encoder(tmp_path / "centred", base=encoder, memory=memory)
    images = memory.parts["image"][:5]
    torch.testing.assert_close(again.refine(images, "image"), wrapped.refine(images, "image"))
    assert again.kind == "centred-mean" and again.trained_parameters == 0
    assert isinstance(build_fusion("centred-mean", dim=16), CentredMeanFusion)
