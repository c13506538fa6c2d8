"""Which method a memory gets where none is named."""

import numpy as np
import pyarrow as pa
import pytest

from retroclip.errors import RetroclipError
from retroclip.methods import default_method, may_train, pick_method
from retroclip.tasks import Task


class Captions:
    """A memory of 19 pairs that name one class, `more` that do, and others that name both classes or none."""

    def __init__(self, more):
        self.captions = [["a cat"], ["a dog"]] * 9 + [["two cats"]] + [["a dog"]] * more
        self.captions += [["a cat", "and a dog"], ["grass"], None] * 9

    def ids(self):
        return np.arange(len(self.captions))

    def take(self, ids, columns):
        return pa.table({"captions": [self.captions[number] for number in ids]})


def test_the_default_is_a_head_where_enough_captions_name_one_class():
    pets, cows = Task("pets", classes=["cat", "dog"]), Task("cows", classes=["cow"])
    assert [default_method(Captions(more), pets) for more in (0, 1)] == ["primed", "stacked-linear"]
    assert default_method(Captions(1), cows) == "primed" == default_method(Captions(1), pets, "regions")
    assert default_method(Captions(1), protocol="image-text-retrieval") == "mean-neighbours"
    assert {default_method(None, pets, protocol) for protocol in ("classification", "video")} == {"zero-shot"}
    names = [pick_method(name, Captions(1), pets).name for name in ("default", "tip-x")]
    assert names == ["stacked-linear", "tip-x"]
    with pytest.raises(RetroclipError, match="no method is called 'nope'"):
        pick_method("nope", None)


def test_the_default_may_be_trained_where_captions_decide():
    assert may_train("default", Captions(0)) and may_train("reco", None)
    assert not (may_train("default", None) or may_train("primed", None))
