"""The decoder on its own: a Retro's model folder without retrieval, which is a GPT's."""

from __future__ import annotations

from pathlib import Path

from retrolit.checkpoint.model_folder import chat_template_of, is_checkpoint, open_model, write_model_folder
from retrolit.checkpoint.model_types import without_retrieval
from retrolit.models import RetroConfig
from retrolit.tokens import load_tokenizer


def extract_decoder(source: Path, destination: Path) -> list[str]:
    """Write the decoder of a model folder or checkpoint as a GPT's model folder; the notes say what was left out.

    Raises ValueError for what is a GPT already.
    """
    config, tensors = open_model(source)
    if not isinstance(config, RetroConfig):
        raise ValueError(f"{source}: expected a Retro, got a GPT, which is a decoder on its own already")
    decoder, kept = without_retrieval(config, tensors)
    notes = [f"left out {len(tensors) - len(kept)} tensors of encoder and cross-attention"]
    tokenizer = template = None
    if not is_checkpoint(source):
        try:
            tokenizer, template = load_tokenizer(source), chat_template_of(source)
        except FileNotFoundError:
            notes.append(f"no tokenizer: {source} has none")
    else:
        notes.append(f"no tokenizer: {source} is a checkpoint, which has none")
    write_model_folder(destination, decoder, kept.items(), tokenizer, template)
    return notes
