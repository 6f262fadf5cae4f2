"""GPTModule: a GPT under Lightning."""

from __future__ import annotations

from typing import Any

from retrolit.data.batch import Batch
from retrolit.models import GPT, GPTConfig, Loss
from retrolit.training.module import LanguageModule
from retrolit.training.pretraining_data import streams


class GPTModule(LanguageModule):
    """Trains a GPT.

    Args:
        config: What the GPT is made of.
    """

    model_type = "gpt"

    def __init__(self, config: GPTConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.config: GPTConfig = config

    @property
    def decoder(self) -> GPT:
        """The model itself."""
        assert isinstance(self.model, GPT)
        return self.model

    def setup(self, stage: str) -> None:
        """Raises ValueError where model, data and trainer do not fit together."""
        super().setup(stage)
        streams(self.data)
        if self.data.num_neighbors:
            raise ValueError(
                f"data.num_neighbors: expected 0 for a GPT, which reads no neighbors, got {self.data.num_neighbors}"
            )

    def build(self) -> GPT:
        """A GPT with random weights."""
        return GPT(self.config)

    def loss(self, batch: Batch) -> Loss:
        """Next-token loss."""
        return self.decoder.loss(batch.tokens, batch.labels, batch.loss_mask)
