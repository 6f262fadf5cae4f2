import pytest

from retrolit.training.settings import refuse_changes


def test_every_difference_is_named_with_old_and_new_value():
    before = {"optimizer": {"lr": 0.1, "betas": (0.9, 0.95)}, "seed": 1, "old": True}
    now = {"optimizer": {"lr": 0.2, "betas": [0.9, 0.95]}, "seed": 1, "new": None}
    with pytest.raises(ValueError, match="other settings") as error:
        refuse_changes("model", before, now)
    message = str(error.value)
    assert "model.optimizer.lr was 0.1, is now 0.2" in message
    assert "model.old was True, is now not there" in message
    assert "betas" not in message
    assert "seed" not in message


def test_equal_settings_pass():
    refuse_changes("data", {"a": (1, 2)}, {"a": [1, 2]})
