"""Hugging Face model folders (config.json, safetensors, tokenizer.json), read into a model folder and written from one.

Weights are read without transformers. Only GGUF files, which hold quantized weights, need it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from retrolit.checkpoint.families import FAMILIES, Family, family_of, read_config
from retrolit.checkpoint.model_folder import chat_template_of, open_model, write_model_folder
from retrolit.checkpoint.model_types import tensor_shapes, without_retrieval
from retrolit.checkpoint.tables import fill_in, lost_switches, refuse_other_names, to_ours, to_theirs
from retrolit.checkpoint.tensor_files import TensorFolder, write_tensors
from retrolit.models import GPTConfig, RetroConfig
from retrolit.models.lazy_tensors import LazyTensors
from retrolit.storage import atomic_folder, read_json, write_json
from retrolit.tokens import Tokenizer, load_tokenizer
from retrolit.tokens.chat_template import ChatTemplate, load_chat_template
from retrolit.tokens.jinja_template import SOURCE, JinjaTemplate
from retrolit.tokens.text_template import TextTemplate, as_jinja

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# Tables that old versions of transformers saved beside the weights.
NO_WEIGHTS = re.compile(r"(\.attn|\.attention)\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")


def from_huggingface(source: Path, destination: Path, eod_token: str | None = None) -> list[str]:
    """Convert a Hugging Face folder, or a .gguf file, to a model folder; the notes say what was decided and left out.

    `eod_token` is the token that closes a document, for a tokenizer whose files do not say which. Raises
    FileNotFoundError or ValueError: unknown families, switches our GPT lacks, weights that do not fit.
    """
    if source.suffix == ".gguf":
        return _from_gguf(source, destination, eod_token)
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source}: expected a Hugging Face folder with a config.json, or a .gguf file")
    hf, tokenizer = read_json(source / "config.json"), _tokenizer(source, eod_token)
    return _convert(hf, TensorFolder(source), tokenizer, _chat_template(source), source, destination)


def to_huggingface(source: Path, destination: Path, decoder_only: bool = False) -> list[str]:
    """Write a model folder as a Hugging Face folder that transformers loads; the notes say as which family.

    Raises ValueError when no family has all of the model's switches, naming those the nearest one lacks, and for a
    Retro unless only its decoder is asked for.
    """
    config, tensors = open_model(source)
    if decoder_only:
        config, tensors = without_retrieval(config, tensors)
    if isinstance(config, RetroConfig):
        raise ValueError(
            f"{source}: expected a GPT, got a Retro, for which Hugging Face has no model; "
            "write its decoder alone (--decoder_only)"
        )
    family = _family_for(config)
    shapes = tensor_shapes(config)
    refuse_other_names(shapes, tensors, source)
    moves = fill_in(family.rules, config, shapes)
    content = family.write(config) | {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "torch_dtype": str(tensors["embedding.weight"].dtype).removeprefix("torch."),
    }
    notes = [f"{family.architecture}, {content['torch_dtype']}"]
    with atomic_folder(destination) as partial:
        write_tensors(to_theirs(moves, config, tensors), partial)
        if all((source / name).is_file() for name in TOKENIZER_FILES):
            content["eos_token_id"] = load_tokenizer(source).eod_id
            for name in TOKENIZER_FILES:
                shutil.copyfile(source / name, partial / name)
            template = chat_template_of(source)
            if template is not None:
                _write_chat_template(template, partial)
                notes.append(f"chat template {template.name}")
        else:
            notes.append(f"no tokenizer: {source} has no {TOKENIZER_FILES[0]}")
        write_json(partial / "config.json", content)
    return notes


def _convert(
    hf: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    chat_template: ChatTemplate | None,
    source: Path,
    destination: Path,
) -> list[str]:
    try:
        family = family_of(hf)
        config = read_config(family, hf)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    notes = [f"{hf['model_type']} ({len(tensors)} tensors)"]
    moves = fill_in(family.rules, config, tensor_shapes(config))
    needed = {name for move in moves for name in move.theirs}
    found = {_full_name(name, family, needed): name for name in tensors}
    left_out = [name for name in found if name not in needed and _may_be_left_out(name, config)]
    refuse_other_names(needed, found.keys() - set(left_out), source)
    if left_out:
        notes.append(f"left out {len(left_out)} tensors that are no weights of their own: {', '.join(left_out[:3])}")
    if tokenizer is None:
        notes.append(f"no tokenizer: {source} has none")
    if chat_template is not None:
        notes.append("with its chat template")
    renamed = LazyTensors(found, lambda name: tensors[found[name]])
    write_model_folder(destination, config, to_ours(moves, config, renamed), tokenizer, chat_template)
    return notes


def _from_gguf(source: Path, destination: Path, eod_token: str | None) -> list[str]:
    if not source.is_file():
        raise FileNotFoundError(f"{source}: there is no such file")
    try:
        import accelerate  # noqa: F401  transformers needs these two only once it reads
        import gguf  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ValueError(f'{source}: reading GGUF needs {error.name}; pip install "retrolit[hf]"') from error
    try:
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    except Exception as error:  # whatever transformers raises for a damaged file or a model it does not know
        raise ValueError(f"{source}: transformers cannot read it ({error})") from error
    config = model.config.to_dict() | {"quantization_config": None}  # transformers has undone it while reading
    with TemporaryDirectory() as folder:
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
        tokenizer, template = _tokenizer(Path(folder), eod_token), _chat_template(Path(folder))
    notes = _convert(config, model.state_dict(), tokenizer, template, source, destination)
    return [*notes, "GGUF weights, quantized in the file, are now float32"]


def _tokenizer(folder: Path, eod_token: str | None) -> Tokenizer | None:
    try:
        return load_tokenizer(folder, eod_token)
    except FileNotFoundError:
        return None


def _chat_template(folder: Path) -> ChatTemplate | None:
    try:
        return load_chat_template(folder)
    except FileNotFoundError:
        return None


def _write_chat_template(template: ChatTemplate, folder: Path) -> None:
    """As transformers reads it: the program in a file, the tokens it names in tokenizer_config.json; and as we do."""
    template.save(folder)
    if isinstance(template, TextTemplate):
        program = as_jinja(template)
    else:
        assert isinstance(template, JinjaTemplate)
        program = template.source
        config = read_json(folder / TOKENIZER_FILES[1])
        write_json(folder / TOKENIZER_FILES[1], template.named_tokens | config)
    (folder / SOURCE).write_text(program, encoding="utf-8")


def _family_for(config: GPTConfig) -> Family:
    """The first family that loses nothing."""
    lost = {family.model_type: _lost(config, family) for family in FAMILIES}
    nearest = min(FAMILIES, key=lambda family: len(lost[family.model_type]))
    if lost[nearest.model_type]:
        raise ValueError(
            f"no Hugging Face family has all this model's switches; the nearest, {nearest.model_type}, has nothing for "
            f"{', '.join(lost[nearest.model_type])}"
        )
    return nearest


def _lost(config: GPTConfig, family: Family) -> list[str]:
    """What this family cannot say of the model; dropout, no part of what a trained model computes, does not count."""
    plain = replace(config, attention_dropout=0.0, hidden_dropout=0.0)
    try:
        return lost_switches(plain, read_config(family, family.write(plain)))
    except ValueError:  # what the family keeps of it is no possible GPT
        return [field.name for field in fields(config)]


def _full_name(name: str, family: Family, needed: set[str]) -> str:
    return name if name in needed or family.prefix + name not in needed else family.prefix + name


def _may_be_left_out(name: str, config: GPTConfig) -> bool:
    """Masks and rotary tables of old versions, and the output layer's second copy where it is the embedding."""
    return bool(NO_WEIGHTS.search(name)) or (config.tied_embeddings and name in ("lm_head.weight", "embed_out.weight"))
