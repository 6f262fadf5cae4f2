"""What the model writes, now and then: losses do not tell everything."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from retrolit.generation import Generator, SamplingConfig
from retrolit.training.module import LanguageModule

FILE_NAME = "samples.jsonl"


class TextSamples(L.Callback):
    """Continues a few prompts after every validation: prints them and appends them to samples.jsonl.

    Args:
        prompts: The beginnings to continue; an empty list samples nothing, an empty text starts a new document.
        max_new_tokens: How long the continuations are.
        temperature: Of the sampling; 0 takes the likeliest token.
    """

    def __init__(self, prompts: list[str] | None = None, max_new_tokens: int = 64, temperature: float = 0.8) -> None:
        self.prompts = ["The "] if prompts is None else prompts
        self.sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature, seed=0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sample on the first process, where every process holds the whole model."""
        assert isinstance(pl_module, LanguageModule)
        whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        wanted = self.prompts and trainer.state.fn == "fit" and not trainer.sanity_checking
        if not (wanted and whole and trainer.is_global_zero):
            return
        texts = Generator(pl_module.decoder, pl_module.data.tokenizer).generate(self.prompts, self.sampling)
        rows = [
            {"step": trainer.global_step, "prompt": prompt, "text": sample.text}
            for prompt, sample in zip(self.prompts, texts, strict=True)
        ]
        for row in rows:
            print(f"  {row['prompt']}|{row['text']}".replace("\n", "\n  "), flush=True)
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            with open(Path(trainer.default_root_dir) / FILE_NAME, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
