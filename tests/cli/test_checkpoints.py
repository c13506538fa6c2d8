import pytest

from retroclip.cli.checkpoints import resumable


def test_kept_after_a_failure_and_found_again_by_the_same_settings_only(tmp_path):
    with pytest.raises(KeyboardInterrupt), resumable(tmp_path / "model", lr=1) as first:
        first.mkdir()
        raise KeyboardInterrupt
    with resumable(tmp_path / "model", lr=2) as other:
        assert not other.exists()
    with resumable(tmp_path / "model", lr=1) as second:
        assert second == first
        assert second.exists()
    assert not first.exists()
