"""Embeddings computed chunk by chunk: the loss, and the gradients, of the whole batch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retroclip.errors import RetroclipError
from retroclip.training import customize
from retroclip.training.chunks import in_chunks
from retroclip.training.customize import Contrast, Terms
from retroclip.training.examples import prepare
from retroclip.training.losses import clip_loss
from retroclip.training.tuning import TUNINGS, Towers


def gradients(nets, rows, size):
    for net in nets:
        net.zero_grad()
    u, v = (F.normalize(in_chunks(net, rows, size), dim=-1) for net in nets)
    loss = clip_loss(u, v, 10.0)
    loss.backward()
    return loss.detach(), [p.grad.clone() for net in nets for p in net.parameters()]


@pytest.mark.parametrize("size", [1, 3, 4, 12])
def test_gradients_are_those_of_the_whole_batch(size):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 4)).double() for _ in range(2)]
    rows = torch.randn(12, 5, dtype=torch.float64)
    whole, expected = gradients(nets, rows, None)
    loss, found = gradients(nets, rows, size)
    torch.testing.assert_close(loss, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_no_more_than_a_chunk_is_computed_at_a_time_and_each_twice():
    net, seen = nn.Linear(3, 3), []
    rows = torch.randn(7, 3)

    def encode(part):
        seen.append(len(part))
        return net(part)

    in_chunks(encode, rows, 3).sum().backward()
    assert seen[:3] == [3, 3, 1] and sorted(seen[3:]) == [1, 3, 3]
    seen.clear()
    with torch.no_grad():
        in_chunks(encode, rows, 3)
    assert seen == [7], "nothing is kept without gradients: chunks would only be slower"


def test_what_is_kept_for_the_backward_pass_is_inputs_and_embeddings():
    def kept(size: int | None) -> int:
        net, largest = nn.Sequential(nn.Linear(2, 1000), nn.Tanh(), nn.Linear(1000, 2)), 0

        def pack(tensor):
            nonlocal largest
            largest = max(largest, tensor.numel() if tensor.shape[:1] in ((64,), (8,)) else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            in_chunks(net, torch.randn(64, 2), size)
        return largest

    assert kept(None) == 64 * 1000 and kept(8) <= 64 * 2


def test_the_second_encoding_draws_the_same_random_numbers():
    scale = torch.ones(40, requires_grad=True)
    torch.manual_seed(0)
    rows = in_chunks(lambda part: F.dropout(part * scale, 0.5), torch.ones(6, 40), 2)
    rows.sum().backward()
    torch.testing.assert_close(scale.grad, rows.detach().sum(0))


@pytest.mark.parametrize("tuning", ["gated-image", "full", "gated-both"])
def test_a_customization_has_the_gradients_of_its_whole_batch(encoder, retrieved, tuning):
    terms = Terms("named", class_texts=1.0, distillation=3.0)
    found = []
    for size in (None, 5):
        torch.manual_seed(0)
        towers = Towers(encoder, TUNINGS[tuning], micro_batch=size)
        examples = prepare(towers, retrieved)
        batch = next(iter(examples.batches(16, 0)(0)))
        batch["trust"] = torch.linspace(0, 1, len(batch["trust"]))
        with torch.no_grad():  # gates that are closed have no gradient inside
            for name, parameter in towers.model.named_parameters():
                parameter.add_(0.3) if "alpha" in name else None
        objective = Contrast(towers, examples.prompts, terms, examples.counts)
        objective(batch)["loss"].backward()
        found.append([p.grad for p in objective.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_a_customization_in_chunks_ends_near_the_whole_one(encoder, retrieved):
    options = {"epochs": 2, "batch_size": 12, "gates": 2, "token_drop": 0.0}
    whole, chunked = (customize(encoder, retrieved, micro_batch=size, **options) for size in (None, 4))
    assert chunked.history["loss"] == pytest.approx(whole.history["loss"], rel=1e-4)


def test_sizes_and_batch_norms_that_cannot_be(encoder, retrieved):
    with pytest.raises(RetroclipError, match="number of pairs"):
        customize(encoder, retrieved, micro_batch=0)
    normed = copy.deepcopy(encoder.model)
    normed.visual.conv1 = nn.Sequential(normed.visual.conv1, nn.BatchNorm2d(normed.visual.conv1.out_channels))
    options = {"tuning": "locked-text", "recipe": "react-published", "epochs": 1}
    with pytest.raises(RetroclipError, match="batch norms"):
        customize(encoder.with_model(normed, name="normed"), retrieved, micro_batch=4, **options)
    customize(encoder.with_model(normed, name="normed"), retrieved, **options)  # the recipe's own part size gives way
