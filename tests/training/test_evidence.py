import torch
import torch.nn.functional as F

from retroclip.tasks import Task
from retroclip.training.evidence import borrow_captions, evidence, neighbour_votes


def clusters(labels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    noise = 0.1 * torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(torch.eye(16)[labels] + noise, dim=-1)


TASK = Task("animals", classes=["cat", "dog", "bird"])
TRUTH = torch.arange(3).repeat(20)
IMAGES = clusters(TRUTH)


def test_votes_equal_a_loop():
    named = TRUTH.clone()
    named[::7] = -1
    votes = neighbour_votes(IMAGES, named, 3, k=5)
    for row in range(len(IMAGES)):
        others = [j for j in range(len(IMAGES)) if j != row and named[j] >= 0]
        near = sorted(others, key=lambda j: -float(IMAGES[row] @ IMAGES[j]))[:5]
        expected = torch.zeros(3)
        for j in near:
            expected[named[j]] += torch.exp(20 * (IMAGES[row] @ IMAGES[j] - 1))
        torch.testing.assert_close(votes[row], expected / expected.sum())


def test_wrong_captions_are_distrusted_and_right_ones_kept():
    wrong = torch.zeros(60, dtype=torch.bool)
    wrong[torch.randperm(60, generator=torch.Generator().manual_seed(1))[:10]] = True
    told = torch.where(wrong, (TRUTH + 1) % 3, TRUTH)
    captions = [(f"a photo of a {TASK.classes[label]}.",) for label in told]
    found = evidence(captions, IMAGES, TASK, cleaned=True)
    assert torch.equal(found.named, told)
    assert found.trust[~wrong].mean() > 0.9 and found.trust[wrong].mean() < 0.35
    assert torch.equal(evidence(captions, IMAGES, TASK, cleaned=False).trust, torch.ones(60))


def test_captions_that_name_no_class_or_several_are_evidence_of_none():
    captions = [("a cat",), ("a cat and a dog",), ("grass",)]
    found = evidence(captions, IMAGES[:3], TASK, cleaned=True)
    assert found.named.tolist() == [0, -1, -1]
    assert found.trust.tolist() == [1.0, 0.0, 0.0]


def test_nobody_to_vote():
    assert neighbour_votes(IMAGES[:2], torch.tensor([-1, -1]), 3).sum() == 0
    assert evidence([("a cat",)], IMAGES[:1], TASK, cleaned=True).trust.tolist() == [1.0]


def test_a_nameless_pair_among_pairs_of_a_class_borrows_the_nearest_ones_caption():
    captions = [(f"a photo of a {TASK.classes[label]}, number {row}.",) for row, label in enumerate(TRUTH.tolist())]
    nameless = torch.arange(0, 60, 4).tolist()
    for row in nameless:
        captions[row] = ("grass",)
    captions[1] = ("a cat and a dog",)  # names classes, if too many: keeps what it says
    borrowed = borrow_captions(captions, IMAGES, TASK, share=0.3)
    for row in range(60):
        if row not in nameless:
            assert borrowed[row] == captions[row]
            continue
        lenders = [j for j in range(60) if j != row and j not in (*nameless, 1) and TRUTH[j] == TRUTH[row]]
        assert borrowed[row] == captions[max(lenders, key=lambda j: float(IMAGES[row] @ IMAGES[j]))]
    assert borrow_captions(captions, IMAGES, TASK, share=1.0)[0] == ("grass",)
    assert borrow_captions([("grass",)], IMAGES[:1], TASK, share=0.3) == [("grass",)]
