"""InstructRetroModule: instruction tuning under Lightning, of a Retro or a GPT."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from retrolit.checkpoint.model_types import decoder_of, empty_model, model_type_of
from retrolit.data.batch import Batch
from retrolit.evaluation.retrieval_gain import RetrievalTotals
from retrolit.models import GPT, GPTConfig, Loss, Retro, RetroConfig
from retrolit.models.lora import LoRAConfig, add_lora
from retrolit.training.module import LanguageModule
from retrolit.training.retro_module import check_neighbors, with_decoder


class InstructRetroModule(LanguageModule):
    """Tunes a Retro, or a GPT, on conversations; the loss is that of the replies alone.

    Every trained token of an optimizer step counts the same, however the step is divided into micro-batches and over
    devices: the step's loss is the sum over its trained tokens divided by their number.

    Args:
        config: What the model is made of: a Retro's, or for the baseline a GPT's.
        gate: 0, as in the paper: encoder and cross-attention are not run, not trained and not decayed, they stay as
            they were bit for bit. 1: each chunk reads its neighbors, where the data have some for it.
        lora: Train adapters of this size in place of the weights; the model folder has them merged.
    """

    def __init__(
        self,
        config: RetroConfig | GPTConfig,
        *,
        gate: Literal[0, 1] = 0,
        lora: LoRAConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(with_decoder(config, None) if isinstance(config, RetroConfig) else config, **settings)
        if gate not in (0, 1):
            raise ValueError(f"model.gate: expected 0 or 1, got {gate!r}")
        if gate and isinstance(config, GPTConfig):
            raise ValueError("model.gate: expected 0 for a GPT, which reads no neighbors, got 1")
        self.model_type = model_type_of(config)
        self.gate = gate
        self.lora = lora
        self.counted = torch.tensor(0.0)
        """Trained tokens of the optimizer step so far, on this device."""
        self.retrieval_totals = RetrievalTotals()

    @property
    def decoder(self) -> GPT:
        """The GPT in the model, or that it is."""
        assert self.model is not None
        return self.model.decoder if isinstance(self.model, Retro) else self.model

    def setup(self, stage: str) -> None:
        """Raises ValueError where model, data and trainer do not fit together."""
        super().setup(stage)
        if stage == "fit" and self.starts_fresh and self.init_from is None:
            raise ValueError("model.init_from: expected the model folder or checkpoint to tune, got none")
        if self.gate:
            assert isinstance(self.config, RetroConfig)
            check_neighbors(self.config, self.data, stage)
        elif self.data.num_neighbors:
            raise ValueError(
                f"data.num_neighbors: expected 0, as model.gate 0 reads no neighbors, got {self.data.num_neighbors}"
            )

    def build(self) -> GPT | Retro:
        """The model; what gate 0 leaves alone is frozen, and with adapters all but these."""
        model = GPT(self.config) if isinstance(self.config, GPTConfig) else Retro(self.config)
        if isinstance(model, Retro) and not self.gate:
            for name, weight in model.named_parameters():
                weight.requires_grad = not (name.startswith("encoder.") or "cross_attention" in name)
        if self.lora is not None:
            add_lora(model, self.lora)
        return model

    def loss(self, batch: Batch) -> Loss:
        """Loss of the replies, with the batch's neighbors when the gate is 1."""
        assert self.model is not None
        neighbors = (batch.neighbor_tokens, batch.neighbor_mask) if self.gate else ()
        return self.model.loss(batch.tokens, batch.labels, batch.loss_mask, *neighbors, segments=batch.segments)

    def start_evaluation(self, split: str) -> None:
        """Begin; with all kinds of neighbors where the gate is 1."""
        super().start_evaluation(split)
        self.retrieval_totals = RetrievalTotals()

    def evaluate(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Add one batch; its token losses (B, T) come back. Where the gate is 1 it is read with the retrieved
        neighbors, with none, and with those of another conversation at the same chunks."""
        if not self.gate:
            return super().evaluate(batch, batch_idx)
        assert batch.neighbor_tokens is not None
        assert batch.neighbor_mask is not None
        # The sample's before it; in a batch of one, the chunk's before it.
        axis = 0 if len(batch.tokens) > 1 else 1
        others = (batch.neighbor_tokens.roll(1, axis), batch.neighbor_mask.roll(1, axis))
        return self.retrieval_totals.read(self.loss, batch, *others)

    def results(self, split: str) -> dict[str, float]:
        """loss, perplexity and bits_per_byte of the replies; where the gate is 1 those of `RetrievalTotals.result`."""
        if not self.gate:
            return super().results(split)
        return self.retrieval_totals.result(self.sum_over_devices, self.data.bytes_per_token(split), self.say)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum over the micro-batch's trained tokens, divided by how many they would be if all tokens were trained.

        The step's own number is not known before its last micro-batch; `configure_gradient_clipping` makes up for it.
        """
        trained = batch.loss_mask.sum()
        self.counted = self.counted.to(trained.device) + trained
        return self.loss(batch).mean * (trained / self._all_tokens)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Make the gradient that of the mean over the whole step's trained tokens; then clip it."""
        counted = torch.as_tensor(self.trainer.strategy.reduce(self.counted, reduce_op="mean"))  # a device
        self.counted = torch.zeros_like(self.counted)
        self.loss_scale = self._all_tokens * self.trainer.accumulate_grad_batches / counted.clamp(min=1)
        for weight in self.parameters():
            if weight.grad is not None:
                weight.grad.mul_(self.loss_scale)
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def flops_per_token(self, sequence_length: int) -> int:
        """With gate 0 those of the decoder alone. Frozen weights are counted as if they were trained."""
        return empty_model(self.config if self.gate else decoder_of(self.config)).flops_per_token(sequence_length)

    def settings(self) -> dict[str, Any]:
        """What a resumed run must not change."""
        return super().settings() | {"gate": self.gate, "lora": None if self.lora is None else asdict(self.lora)}

    @property
    def _all_tokens(self) -> int:
        """Tokens of a micro-batch, trained or not."""
        return self.data.micro_batch_size * self.data.sequence_length
