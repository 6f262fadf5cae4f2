"""From and to Hugging Face's, Megatron's and training's checkpoints."""

from __future__ import annotations

from pathlib import Path


def from_hf(source: str, destination: str, eod_token: str | None = None) -> None:
    """Convert a Hugging Face model to a model folder.

    GPT-2, GPT-NeoX, Llama, Mistral, Qwen2, Qwen3 and Nemotron; the tokenizer goes along. A switch that retrolit's GPT
    lacks is refused by name.

    Args:
        source: a folder with config.json and safetensors, or a .gguf file (needs the extra "hf").
        destination: the model folder to write; must not exist.
        eod_token: the token that closes a document, when the tokenizer's files do not say which.
    """
    from retrolit.checkpoint.huggingface import from_huggingface

    notes = from_huggingface(Path(source), Path(destination), eod_token)
    _report(notes, destination, _parameters(destination), _next_for_a_model(destination))


def from_megatron(
    source: str,
    destination: str,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    chunk_length: int | None = None,
) -> None:
    """Convert a Megatron-LM GPT or Retro checkpoint to a model folder.

    Core, TransformerEngine and legacy names; any tensor-parallel size is merged. Nothing in the files is ever run.

    Args:
        source: the folder with latest_checkpointed_iteration.txt, or one iteration's folder.
        destination: the model folder to write; must not exist.
        tokenizer: a tokenizer's folder or file, to be saved with the model.
        vocab_size: the true number of token ids, when no tokenizer is given: the padding above it is cut off.
        chunk_length: of a Retro whose checkpoint does not know it; 64, as NVIDIA's released models, when not given.
    """
    from retrolit.checkpoint import megatron_files
    from retrolit.tokens import load_tokenizer

    loaded = load_tokenizer(tokenizer) if tokenizer is not None else None
    notes = megatron_files.from_megatron(Path(source), Path(destination), loaded, vocab_size, chunk_length)
    if loaded is None:
        notes.append("no tokenizer: Megatron's checkpoints have none; --tokenizer saves one with the model")
    _report(notes, destination, _parameters(destination), _next_for_a_model(destination))


def to_hf(model: str, destination: str, decoder_only: bool = False) -> None:
    """Write a model as a Hugging Face folder, which transformers loads by itself.

    The family is the first that has all of the model's switches.

    Args:
        model: a model folder, or a Lightning checkpoint of retrolit's training.
        destination: the folder to write; must not exist.
        decoder_only: write a Retro's decoder, which is a GPT.
    """
    from retrolit.checkpoint.huggingface import to_huggingface

    notes = to_huggingface(Path(model), Path(destination), decoder_only)
    _report(notes, destination, None, f'transformers.AutoModelForCausalLM.from_pretrained("{destination}")')


def to_gpt(model: str, destination: str) -> None:
    """Write a Retro's decoder as the model folder of a GPT: what is left when retrieval is taken away.

    Its tokenizer and chat template go along.

    Args:
        model: a model folder, or a Lightning checkpoint of retrolit's training.
        destination: the model folder to write; must not exist.
    """
    from retrolit.checkpoint.decoder import extract_decoder

    notes = extract_decoder(Path(model), Path(destination))
    _report(notes, destination, _parameters(destination), _next_for_a_model(destination))


def to_megatron(
    model: str,
    destination: str,
    tensor_parallel: int = 1,
    vocab_size_divisible_by: int = 128,
    decoder_only: bool = False,
) -> None:
    """Write a model as a Megatron Core checkpoint, in TransformerEngine's names.

    Args:
        model: a model folder, or a Lightning checkpoint of retrolit's training.
        destination: the folder to write; must not exist.
        tensor_parallel: number of ranks to cut the weights for.
        vocab_size_divisible_by: as Megatron's --make-vocab-size-divisible-by; times tensor_parallel.
        decoder_only: write a Retro's decoder, which is a GPT.
    """
    from retrolit.checkpoint import megatron_files

    notes = megatron_files.to_megatron(
        Path(model), Path(destination), tensor_parallel, vocab_size_divisible_by, decoder_only
    )
    _report(notes, destination, None, f"start Megatron with --load {destination} --use-checkpoint-args")


def consolidate(checkpoint: str, destination: str, tokenizer: str | None = None) -> None:
    """Write the weights of a training checkpoint, of one file or sharded, as a model folder.

    A run that has ended has its model folder already. Nothing in the files is ever run.

    Args:
        checkpoint: a run's checkpoints/step-XXXXXXXX.ckpt.
        destination: the model folder to write; must not exist.
        tokenizer: a tokenizer's folder or file, to be saved with the model; a model folder gives its chat template too.
    """
    from retrolit.checkpoint import consolidate as consolidating

    notes = consolidating.consolidate(
        Path(checkpoint), Path(destination), None if tokenizer is None else Path(tokenizer)
    )
    _report(notes, destination, _parameters(destination), _next_for_a_model(destination))


COMMANDS = {
    "from-hf": from_hf,
    "from-megatron": from_megatron,
    "to-hf": to_hf,
    "to-megatron": to_megatron,
    "to-gpt": to_gpt,
    "consolidate": consolidate,
}


def _report(notes: list[str], destination: str, parameters: int | None, then: str) -> None:
    for note in notes:
        print(f"  {note}")
    print(f"  {parameters:,} parameters\nwritten to {destination}" if parameters else f"written to {destination}")
    print(f"next: {then}")


def _parameters(model_folder: str) -> int:
    from retrolit.storage import Manifest

    return Manifest.read(model_folder, "model").sizes["parameters"]


def _next_for_a_model(folder: str) -> str:
    return f'retrolit generate {folder} --prompt "Once upon a time"'
