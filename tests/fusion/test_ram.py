import torch
import torch.nn.functional as F
from torch import nn

from retroclip.fusion import RetrievalAugmentation, build_fusion
from retroclip.fusion.ram import RamBlock


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


V, KEY, VALUE = unit(3, 16), unit(3, 5, 16, seed=1), unit(3, 5, 16, seed=2)


def attention(block: RamBlock, query, key, value):
    """Multi-head attention of one query, head by head."""
    weight, bias = block.attention.in_proj_weight, block.attention.in_proj_bias
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weight.chunk(3), bias.chunk(3), strict=True))
    heads = []
    for part in torch.arange(16).chunk(block.attention.num_heads):
        heads.append((k[:, part] @ q[part] / len(part) ** 0.5).softmax(0) @ v[:, part])
    return block.attention.out_proj(torch.cat(heads))


def test_block_equals_its_equation():
    torch.manual_seed(0)
    block = RamBlock(16, heads=4)
    for linear in (block.attention.out_proj, block.linear2):
        nn.init.normal_(linear.weight, std=0.3)
    a = unit(3, 16, seed=3)
    for i, out in enumerate(block(V, KEY, VALUE, a)):
        query = block.norm_query(V[i] + a[i])
        step = a[i] + attention(block, query, block.norm_key(KEY[i]), block.norm_value(VALUE[i]))
        torch.testing.assert_close(out, step + block.linear2(F.gelu(block.linear1(block.norm(step)))))


def test_fresh_module_is_the_identity_and_stacks():
    torch.manual_seed(0)
    module = RetrievalAugmentation(16, heads=4, blocks=3)
    torch.testing.assert_close(module(V, VALUE, keys=KEY), V)
    assert len(module.texts) == len(module.images) == 3


def test_each_stack_reads_one_modality_through_the_other_and_starts_from_nothing():
    torch.manual_seed(0)
    module = RetrievalAugmentation(16, heads=4)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    a_text = module.texts[0](V, KEY, VALUE, torch.zeros_like(V))
    a_image = module.images[0](V, VALUE, KEY, torch.zeros_like(V))
    torch.testing.assert_close(module(V, VALUE, keys=KEY), F.normalize(V + a_text + a_image, dim=-1))


def test_the_input_has_the_length_it_is_given_and_one_where_an_older_card_says_none():
    torch.manual_seed(0)
    module = RetrievalAugmentation(16, heads=4, length=4.0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    a_text = module.texts[0](4 * V, KEY, VALUE, torch.zeros_like(V))
    a_image = module.images[0](4 * V, VALUE, KEY, torch.zeros_like(V))
    torch.testing.assert_close(module(V, VALUE, keys=KEY), F.normalize(4 * V + a_text + a_image, dim=-1))
    assert build_fusion("ra-clip", **module.options).length == 4
    assert build_fusion("ra-clip", dim=16, heads=4, blocks=1).length == 1


def test_query_without_neighbours_stays_as_it_is():
    torch.manual_seed(0)
    module = RetrievalAugmentation(16, heads=4)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    mask = torch.tensor([[True] * 5, [False] * 5, [True, True, False, False, False]])
    out = module(V, VALUE, keys=KEY, mask=mask)
    torch.testing.assert_close(out[1], V[1])
    torch.testing.assert_close(out[2:], module(V[2:], VALUE[2:, :2], keys=KEY[2:, :2]))


def test_parameters_have_gradients_of_zero_where_no_query_has_neighbours():
    """Another process, whose queries have some, waits for them."""
    module = RetrievalAugmentation(16, heads=4)
    module(V, VALUE, keys=KEY, mask=torch.zeros(3, 5, dtype=torch.bool)).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in module.parameters())
