import torch

from retrolit.data import Batch


def test_to_moves_every_tensor_and_leaves_none_alone():
    batch = Batch(tokens=torch.zeros(2, 3, dtype=torch.int64), labels=torch.ones(2, 3), loss_mask=torch.ones(2, 3))
    moved = batch.to("meta")
    assert moved.tokens.is_meta
    assert moved.labels.is_meta
    assert moved.loss_mask.is_meta
    assert moved.neighbor_tokens is None

    with_neighbors = Batch(
        batch.tokens,
        batch.labels,
        batch.loss_mask,
        neighbor_tokens=torch.zeros(2, 1, 2, 4),
        neighbor_mask=torch.ones(2, 1, 2, 4),
    ).to("meta")
    assert with_neighbors.neighbor_tokens is not None
    assert with_neighbors.neighbor_tokens.is_meta
    assert with_neighbors.neighbor_mask is not None
    assert with_neighbors.neighbor_mask.is_meta


def test_lightning_moves_a_batch_like_a_tensor():
    from lightning.fabric.utilities.apply_func import move_data_to_device

    batch = Batch(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    assert move_data_to_device(batch, torch.device("meta")).tokens.is_meta
