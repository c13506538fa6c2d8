"""Self-training: retrieved images with the untuned model's answers instead of their captions (REACT, Table 8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from retroclip.classifiers import class_texts

if TYPE_CHECKING:
    from retroclip.encoders import Encoder
    from retroclip.retrieval import Retrieved


def pseudo_labelled(encoder: Encoder, retrieved: Retrieved) -> Retrieved:
    """The same pairs, each with the prompts of the class that the encoder's zero-shot head gives its image.

    Customized with REACT's loss over them, which is UniCL's: images of one pseudo-label are positives of each other.
    """
    task = retrieved.task
    answers = (retrieved.image_embeddings @ class_texts(encoder, task).T).argmax(dim=1).tolist()
    prompts = [tuple(task.prompts(name)) for name in task.classes]
    return replace(
        retrieved, captions=[prompts[answer] for answer in answers], classes=[(answer,) for answer in answers]
    )
