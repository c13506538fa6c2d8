"""Pairs of images and texts: read them from anywhere, decode them safely.

Training transforms are in `retroclip.pairs.augment`, which imports torchvision and timm.
"""

from retroclip.pairs.arrow import dataset_pairs
from retroclip.pairs.embeddings import EmbeddingFolder, EmbeddingSlice, Part, is_embedding_folder, open_embeddings
from retroclip.pairs.image import MAX_PIXELS, decode_image, image_suffix
from retroclip.pairs.labelled import LabelledSet, load_labelled
from retroclip.pairs.likeness import ALIKE, mirrored, thumbnail
from retroclip.pairs.masks import mask_classes, mask_source
from retroclip.pairs.pair import Pair, Rejected, clean_captions
from retroclip.pairs.readers import Reader, register_reader
from retroclip.pairs.reference import resolve
from retroclip.pairs.sources import count_pairs, read_pairs, unique_keys
from retroclip.pairs.where import Predicate, parse_where

__all__ = [
    "ALIKE",
    "MAX_PIXELS",
    "EmbeddingFolder",
    "EmbeddingSlice",
    "LabelledSet",
    "Pair",
    "Part",
    "Predicate",
    "Reader",
    "Rejected",
    "clean_captions",
    "count_pairs",
    "dataset_pairs",
    "decode_image",
    "image_suffix",
    "is_embedding_folder",
    "load_labelled",
    "mask_classes",
    "mask_source",
    "mirrored",
    "open_embeddings",
    "parse_where",
    "read_pairs",
    "register_reader",
    "resolve",
    "thumbnail",
    "unique_keys",
]
