"""From a training checkpoint to a model folder: the weights alone, put together from what each process wrote."""

from __future__ import annotations

from pathlib import Path

from retrolit.checkpoint.model_folder import chat_template_of, is_checkpoint, open_model, write_model_folder
from retrolit.tokens import load_tokenizer


def consolidate(checkpoint: Path, destination: Path, tokenizer: Path | None = None) -> list[str]:
    """Write the weights of a checkpoint, sharded or one file, as a model folder; the notes say what went in.

    Memory is that of one file of the folder. `tokenizer` is its folder or file; of a model folder the chat template is
    taken along too. Raises ValueError where `checkpoint` is none.
    """
    if checkpoint.exists() and not is_checkpoint(checkpoint):
        raise ValueError(
            f"{checkpoint}: expected a training checkpoint, got a folder that is none; name a run's "
            "checkpoints/step-XXXXXXXX.ckpt"
        )
    config, tensors = open_model(checkpoint)
    loaded = template = None
    notes = [f"{len(tensors)} tensors of {'one file' if checkpoint.is_file() else 'a sharded checkpoint'}"]
    if tokenizer is None:
        notes.append("no tokenizer: checkpoints have none; --tokenizer saves one with the model")
    else:
        loaded, template = load_tokenizer(tokenizer), chat_template_of(tokenizer)
    write_model_folder(destination, config, ((name, tensors[name]) for name in tensors), loaded, template)
    return notes
