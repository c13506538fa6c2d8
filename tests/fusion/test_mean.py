import torch
import torch.nn.functional as F

from retroclip.fusion import MeanFusion, mean_fusion


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_mean_fusion_equals_a_loop():
    query, neighbours = unit(4, 8), unit(4, 3, 8)
    for q, rs, fused in zip(query, neighbours, mean_fusion(query, neighbours, 0.3), strict=True):
        expected = 0.7 * q + 0.3 * (rs[0] + rs[1] + rs[2]) / 3
        torch.testing.assert_close(fused, expected / expected.norm())


def test_masked_neighbours_count_for_nothing_and_none_leaves_the_query():
    query, neighbours = unit(2, 8), unit(2, 3, 8)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    fused = MeanFusion(8, 0.5)(query, neighbours, side="image", mask=mask)
    torch.testing.assert_close(fused[:1], mean_fusion(query[:1], neighbours[:1, [0, 2]], 0.5))
    torch.testing.assert_close(fused[1], query[1])
