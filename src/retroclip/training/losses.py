"""Losses as pure functions of unit-norm embeddings; `scale` is always exp(logit_scale) = 1/τ.

`u` and `v` are paired rows of the two modalities, float (B, d), ℓ2-normalised. Every function returns a scalar tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retroclip.training.partition import log_partitions


def clip_loss(u: Tensor, v: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE: row i of `u` belongs to row i of `v` and to no other. Formal CLIP, Eq. 1; REACT, γ = 1."""
    logits = scale * u @ v.T
    diagonal = torch.arange(len(u), device=u.device)
    return 0.5 * (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal))


def positives(labels: Tensor) -> Tensor:
    """Boolean (B, B): pairs that share a label. A negative label means "unlabelled": such a pair is its own class."""
    same = labels[:, None] == labels[None, :]
    same &= labels[:, None] >= 0
    return same | torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def text_positives(texts: Tensor, threshold: float = 0.9) -> Tensor:
    """Boolean (B, B): captions whose embeddings (B, d) have a cosine of at least `threshold`. REACT, Eq. 4, γ = 0.9."""
    return (texts @ texts.T >= threshold) | torch.eye(len(texts), dtype=torch.bool, device=texts.device)


def multi_positive_loss(
    u: Tensor, v: Tensor, positive: Tensor, scale: Tensor | float, weights: Tensor | None = None
) -> Tensor:
    """Both directions of the contrastive loss with a boolean (B, B) matrix of positives. REACT, Eq. 4-6.

    L_u→v = −mean_i 1/|P(i)| Σ_{k∈P(i)} log [exp(s·u_iᵀv_k) / Σ_j exp(s·u_iᵀv_j)]; positives stay in the denominator.
    With `weights` (B,) ≥ 0, a pair counts that much as a row and as a positive of others, fully as a negative [D].
    """
    logits = scale * u @ v.T
    weights = torch.ones(len(u), device=u.device) if weights is None else weights
    targets = positive * weights
    # A row whose positives all weigh nothing has weight nothing itself: the clamp only avoids 0/0.
    targets = targets / targets.sum(dim=1, keepdim=True).clamp_min(1e-12)
    rows = weights / weights.sum().clamp_min(1e-12)
    u_to_v = -(rows * (targets * logits.log_softmax(dim=1)).sum(dim=1)).sum()
    v_to_u = -(rows * (targets * logits.T.log_softmax(dim=1)).sum(dim=1)).sum()
    return 0.5 * (u_to_v + v_to_u)


def class_aware_loss(
    u: Tensor,
    v: Tensor,
    labels: Tensor,
    scale: Tensor | float,
    *,
    products: torch.dtype | None = None,
) -> Tensor:
    """CLIP's loss in which pairs of one label (B,) are positives of each other; UniCL's and REACT's, Eq. 4.

    Equals `clip_loss` when all labels are distinct or negative (unlabelled). It is `multi_positive_loss` of the labels'
    `positives`, without weights: so only the logits are of size B × B, since the positives of a row enter by their
    mean. `products`: see `log_partitions`; the positives are always multiplied in full.
    """
    drawn_apart = log_partitions(u, v, scale, products)
    group = groups(labels)
    drawn_together = (u * _group_means(v, group)).sum() + (v * _group_means(u, group)).sum()
    return 0.5 * (drawn_apart - scale * drawn_together / len(u))


def groups(labels: Tensor) -> Tensor:
    """Labels (B,) as group numbers: rows of one label share one, a row with a negative label has one of its own."""
    own = labels.max().clamp_min(-1) + 1 + torch.arange(len(labels), device=labels.device)
    return torch.where(labels < 0, own, labels).unique(return_inverse=True)[1]


def _group_means(rows: Tensor, group: Tensor) -> Tensor:
    """For each row of (B, d) the mean of its group's rows."""
    count = torch.bincount(group)
    return (rows.new_zeros(len(count), rows.shape[1]).index_add(0, group, rows) / count[:, None])[group]


def classification_loss(u: Tensor, class_texts: Tensor, labels: Tensor, scale: Tensor | float) -> Tensor:
    """Cosine classifier with text embeddings (K, d) as its weights; `labels` (B,) index them. iCAR, Eq. 3 and 4."""
    return F.cross_entropy(scale * u @ class_texts.T, labels)


def unified_loss(
    images: Tensor,
    labels: Tensor,
    class_texts: Tensor,
    caption_texts: Tensor,
    scale: Tensor | float,
    *,
    symmetric: bool = False,
    allowed: Tensor | None = None,
) -> Tensor:
    """Image classification and image-text alignment as one loss, image → text. iCAR, Eq. 6.

    `labels` (B,): the row of `class_texts` (K, d) a classification sample belongs to, or −1 for a caption sample; the
    caption samples own the rows of `caption_texts` (C, d) in order. A classification sample is told from the texts of
    all K classes, a caption sample from the captions of the batch [P, D]; all samples count the same. `symmetric` adds
    the text → image direction within each kind: captions among caption samples, classes present among classified ones
    [D]. `allowed` (B', K), boolean, one row a classification sample: the classes it is told from, where several data
    sets share a batch [D]. Raises ValueError if the captions are not as many as the samples without a label.
    """
    classified = labels >= 0
    captioned = images[~classified]
    if len(captioned) != len(caption_texts):
        raise ValueError(f"{len(captioned)} samples have no label but there are {len(caption_texts)} captions")
    share = classified.float().mean()
    loss = images.new_zeros(())
    if len(caption_texts):
        own = torch.arange(len(captioned), device=images.device)
        logits = scale * captioned @ caption_texts.T
        term = F.cross_entropy(logits, own)
        if symmetric:
            term = 0.5 * (term + F.cross_entropy(logits.T, own))
        loss = loss + (1 - share) * term
    if classified.any():
        logits = scale * images[classified] @ class_texts.T
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -1e4)  # finite, so that the other direction has no NaN
        term = F.cross_entropy(logits, labels[classified])
        if symmetric:
            term = 0.5 * (term + _texts_to_images(logits, labels[classified]))
        loss = loss + share * term
    return loss


def _texts_to_images(logits: Tensor, labels: Tensor) -> Tensor:
    """The classes present in `labels` (B,), each against the batch's images: logits (B, K), mean over positives."""
    present, index = labels.unique(return_inverse=True)
    targets = F.one_hot(index, len(present)).T.to(logits.dtype)
    targets = targets / targets.sum(dim=1, keepdim=True)
    return -(targets * logits.T[present].log_softmax(dim=1)).sum(dim=1).mean()


def reco_loss(
    refined_u: Tensor,
    refined_v: Tensor,
    u: Tensor,
    v: Tensor,
    scale: Tensor | float,
    *,
    labels: Tensor | None = None,
    products: torch.dtype | None = None,
) -> Tensor:
    """L = NCE(ū, v̄) + NCE(ū, v) + NCE(u, v̄), each in both directions: refined and original stay aligned. RECO, Eq. 3.

    With `labels` (B,), pairs that share one (identical captions, say) are positives of each other [D]. `products`: see
    `class_aware_loss`.
    """
    labels = torch.arange(len(u), device=u.device) if labels is None else labels
    terms = ((refined_u, refined_v), (refined_u, v), (u, refined_v))
    return sum((class_aware_loss(a, b, labels, scale, products=products) for a, b in terms), start=u.new_zeros(()))


def siglip_loss(
    u: Tensor, v: Tensor, scale: Tensor | float, bias: Tensor | float, labels: Tensor | None = None
) -> Tensor:
    """Pairwise sigmoid loss −1/B Σ_ij log σ(z_ij (s·u_iᵀv_j + b)), z = ±1, shared labels positive. SigLIP, Eq. 1."""
    labels = torch.arange(len(u), device=u.device) if labels is None else labels
    return sigmoid_loss(u, v, positives(labels), scale, bias)


def sigmoid_loss(
    u: Tensor,
    v: Tensor,
    positive: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    weights: Tensor | None = None,
) -> Tensor:
    """`siglip_loss` with a boolean (B, B) matrix of positives.

    With `weights` (B,) ≥ 0 the two pairs of a cell count by the smaller of theirs where it is a positive, fully where
    it is a negative [D].
    """
    losses = -F.logsigmoid((2.0 * positive - 1.0) * (scale * u @ v.T + bias))
    if weights is not None:
        losses = torch.where(positive, torch.minimum(weights[:, None], weights[None, :]) * losses, losses)
    return losses.sum() / len(u)


def balanced_bias(logits: Tensor, positive: Tensor, *, steps: int = 60) -> float:
    """The bias b at which the mean of σ(logits + b), (B, B), is the share of positives: where SigLIP's loss can start.

    SigLIP's own start, −10, is for a scale of 10; a tuned CLIP's scale is near 100. By bisection. [D]
    """
    share, values = float(positive.float().mean()), logits.double()
    low, high = -float(values.max()) - 50.0, -float(values.min()) + 50.0
    for _ in range(steps):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(torch.sigmoid(values + middle).mean()) < share else (low, middle)
    return 0.5 * (low + high)


def distillation_loss(
    student: Tensor, teacher: Tensor, texts: Tensor, scale: Tensor | float, weights: Tensor | None = None
) -> Tensor:
    """KL from the teacher's to the student's softmax over `texts` (T, d), per image; both image embeddings (B, d). [D]

    Keeps what an image means to the text tower, not where it lies: directions no text looks at stay free. With
    `weights` (B,) an image counts that much; the mean is over all B.
    """
    target = (scale * teacher @ texts.T).log_softmax(dim=1)
    divergence = F.kl_div((scale * student @ texts.T).log_softmax(dim=1), target, log_target=True, reduction="none")
    per_image = divergence.sum(dim=1)
    return per_image.mean() if weights is None else (weights * per_image).sum() / len(student)
