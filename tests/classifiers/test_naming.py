import numpy as np
import pyarrow as pa
import torch

from retroclip.classifiers import (
    class_texts,
    each_caption,
    memory_captions,
    most_frequent_names,
    real_prompt,
    zero_shot,
)


def test_most_frequent_name_of_a_class(task):
    captions = [("a tabby",), ("tabby and horse",), ("a kitty",), ("a cat",)]
    assert most_frequent_names(task, captions) == {"cat": "tabby", "sea horse": "sea horse", "horse": "horse"}


def test_real_prompt_is_the_zero_shot_head_under_other_names(encoder, task):
    images = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    unchanged = real_prompt(encoder, task, [("a cat",), ("a dog",)])
    torch.testing.assert_close(unchanged(images), zero_shot(encoder, task)(images))
    renamed = real_prompt(encoder, task, [("a tabby",), ("tabby",), ("a cat",)])
    assert renamed.classes == list(task.classes)
    other = task.model_copy(update={"display": {"cat": "tabby"}})
    torch.testing.assert_close(renamed.weights, class_texts(encoder, other))
    assert (renamed.weights[0] - zero_shot(encoder, task).weights[0]).abs().max() > 1e-3


def test_a_display_name_stays_where_no_synonym_wins(encoder, task):
    shown = task.model_copy(update={"display": {"horse": "cat"}})
    torch.testing.assert_close(real_prompt(encoder, shown, []).weights[2], class_texts(encoder, shown)[2])


def test_captions_of_a_memory_are_read_in_chunks():
    captions = [["a"], None, ["b", "c"], [], ["d"]]

    class Rows:
        def ids(self):
            return np.arange(5)

        def take(self, ids, columns):
            assert len(ids) <= 2
            return {"captions": pa.chunked_array([pa.array([captions[i] for i in ids], pa.list_(pa.string()))])}

    assert memory_captions(Rows(), chunk=2) == [("a",), (), ("b", "c"), (), ("d",)]
    captions[2:] = [None, "no list", None]
    assert next(each_caption(Rows(), chunk=2)) == ("a",), "a chunk was read that nobody asked for"
