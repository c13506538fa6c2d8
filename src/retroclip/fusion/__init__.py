"""Fusion: refine a query embedding with its neighbours' embeddings; the encoder that consults a memory."""

from retroclip.fusion.base import Fusion
from retroclip.fusion.centred import CentredMeanFusion
from retroclip.fusion.encoder import KINDS, MemoryEncoder, build_fusion, load_memory_encoder
from retroclip.fusion.mean import MeanFusion, mean_fusion
from retroclip.fusion.neighbours import Neighbours, find_neighbours
from retroclip.fusion.ram import RetrievalAugmentation
from retroclip.fusion.reco import RecoFusion
from retroclip.fusion.reference import ReferenceAugmentation, ReferenceEncoder

__all__ = [
    "KINDS",
    "CentredMeanFusion",
    "Fusion",
    "MeanFusion",
    "MemoryEncoder",
    "Neighbours",
    "RecoFusion",
    "ReferenceAugmentation",
    "ReferenceEncoder",
    "RetrievalAugmentation",
    "build_fusion",
    "find_neighbours",
    "load_memory_encoder",
    "mean_fusion",
]
