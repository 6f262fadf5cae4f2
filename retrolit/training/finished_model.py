"""The model folder of a run, from wherever its weights lie."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from torch import Tensor
from torch.distributed.tensor import DTensor

from retrolit.checkpoint.model_folder import LIGHTNING_PREFIX, save_weights
from retrolit.checkpoint.model_types import tensor_shapes
from retrolit.models.lazy_tensors import LazyTensors
from retrolit.models.lora import merge_lora
from retrolit.training.module import LanguageModule


def save_trained_model(trainer: L.Trainer, module: LanguageModule, folder: Path) -> None:
    """Write the model folder, from the first process; all of them call this.

    Of a model that is shared out, one tensor after the other is put together and written: no process ever holds more of
    it than its part and what one file of the folder holds.
    """
    tensors = {
        name.removeprefix(LIGHTNING_PREFIX): tensor
        for name, tensor in trainer.strategy.lightning_module_state_dict().items()
    }
    weights = LazyTensors(tensors, lambda name: _whole(tensors[name]))
    if trainer.is_global_zero:
        save_weights(module.config, weights, folder, module.data.tokenizer, module.data.chat_template)
    elif weights:  # none where the strategy has put everything together on the first process
        merged = merge_lora(weights)
        for name in tensor_shapes(module.config):
            merged[name]  # gives its part to the first process


def _whole(weight: Tensor) -> Tensor:
    """The weight, put together from its parts where it has any; all processes ask for it together."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
