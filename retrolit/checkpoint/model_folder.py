"""A model folder: everything that is needed to use a model again, in plain files.

    config.json         {"format": "retrolit", "format_version": 1, "model_type": "gpt" or "retro", "config": {...}}
    model.safetensors   the weights; several files and model.safetensors.index.json when they are large
    tokenizer files     whatever `load_tokenizer` reads, when the model came with a tokenizer
    retrolit_chat_template.json   how conversations are written, when the model was made for them
    manifest.json       sizes and checksums of the files above

It is read strictly: a tensor that is missing, left over or of another shape is an error that names it.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrolit.checkpoint.model_types import (
    CONFIGS,
    Config,
    Model,
    decoder_of,
    empty_model,
    model_type_of,
    tensor_shapes,
)
from retrolit.checkpoint.tables import refuse_other_names
from retrolit.checkpoint.tensor_files import TensorFolder, write_tensors
from retrolit.models.lora import merge_lora
from retrolit.storage import Manifest, atomic_folder, read_json, write_json
from retrolit.tokens import Tokenizer
from retrolit.tokens.chat_template import TEMPLATE_FILE, ChatTemplate, load_chat_template

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
LIGHTNING_PREFIX = "model."
SHARDED_FILE = ".metadata"
"""Lies in a sharded training checkpoint, and in no model folder; see sharded_files.py, which is imported for one."""


def save_model(
    model: Model, folder: str | Path, tokenizer: Tokenizer | None = None, chat_template: ChatTemplate | None = None
) -> None:
    """Write a model folder, weights in the model's own dtype; it appears whole or not at all.

    A model folder of this name is replaced; anything else that lies there raises FileExistsError. The decoder of a
    Retro is saved as the plain GPT it is without the Retro, and adapters (LoRA) as part of the weights they belong to.
    """
    save_weights(model.config, model.state_dict(), Path(folder), tokenizer, chat_template)


def save_weights(
    config: Config,
    weights: Mapping[str, Tensor],
    folder: Path,
    tokenizer: Tokenizer | None = None,
    chat_template: ChatTemplate | None = None,
) -> None:
    """As `save_model`, of the weights of a model, each asked for when it is written."""
    state = merge_lora(weights)
    tensors = ((name, state[name]) for name in tensor_shapes(config))
    if not _is_model_folder(folder):
        return write_model_folder(folder, config, tensors, tokenizer, chat_template)
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write_model_folder(fresh, config, tensors, tokenizer, chat_template)
    os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old)


def write_model_folder(
    folder: Path,
    config: Config,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: Tokenizer | None = None,
    chat_template: ChatTemplate | None = None,
) -> None:
    """Write a model folder from tensors that come one by one; memory is that of one file, not of the model.

    Raises FileExistsError when `folder` exists, ValueError when the tensors are not those the config asks for or the
    tokenizer has more ids than the model.
    """
    vocab_size = decoder_of(config).vocab_size
    if tokenizer is not None and tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"{folder}: expected a tokenizer of at most {vocab_size} ids (the model's vocab_size), "
            f"got one of {tokenizer.vocab_size}"
        )
    shapes = tensor_shapes(config)
    with atomic_folder(folder) as partial:
        write_tensors(_only_expected(tensors, shapes, folder), partial)
        described = {"model_type": model_type_of(config), "config": asdict(config)}
        write_json(partial / CONFIG_FILE, {"format": "retrolit", "format_version": FORMAT_VERSION} | described)
        if tokenizer is not None:
            tokenizer.save(partial)
        if chat_template is not None:
            chat_template.save(partial)
        Manifest(
            kind="model",
            settings=described,
            inputs={} if tokenizer is None else {"tokenizer": tokenizer.fingerprint},
            sizes={"parameters": sum(shape.numel() for shape in shapes.values())},
            files={str(file.relative_to(partial)): {} for file in sorted(partial.rglob("*")) if file.is_file()},
        ).write(partial)


def load_model(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """The model of a model folder or of a Lightning checkpoint written by retrolit's training, in eval mode.

    Raises FileNotFoundError or ValueError that says what else the path seems to be, or which tensors do not fit.
    """
    path = Path(path)
    config, tensors = open_model(path)
    model = empty_model(config)
    expected = {name: parameter.shape for name, parameter in model.state_dict().items()}
    refuse_other_names(expected, tensors, path)
    state = {}
    for name, shape in expected.items():
        tensor = tensors[name]
        _check_shape(name, tensor, shape, path)
        state[name] = tensor.to(device, dtype, copy=True)
    model.load_state_dict(state, assign=True)
    return model.eval()


def chat_template_of(folder: Path) -> ChatTemplate | None:
    """The chat template in a model folder; None where there is none, and for a checkpoint."""
    return load_chat_template(folder) if (folder / TEMPLATE_FILE).is_file() else None


def open_model(path: Path) -> tuple[Config, Mapping[str, Tensor]]:
    """Config and tensors of a model folder or a Lightning checkpoint, the tensors read when they are asked for."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such model folder or checkpoint")
    if is_checkpoint(path):
        return _open_lightning(path)
    return _open_folder(path)


def is_checkpoint(path: Path) -> bool:
    """Whether this is a training checkpoint, one file or sharded, and no model folder."""
    return path.is_file() or is_sharded(path)


def is_sharded(path: Path) -> bool:
    """Whether this is a folder that many processes wrote a training checkpoint to, whole or not."""
    return (path / SHARDED_FILE).is_file()


def _open_folder(folder: Path) -> tuple[Config, Mapping[str, Tensor]]:
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{folder}: no model folder, it has no {CONFIG_FILE}{_what_it_may_be(folder)}")
    content = read_json(folder / CONFIG_FILE)
    if content.get("format") != "retrolit":
        raise ValueError(
            f"{folder}: not a model folder of retrolit's; if it is Hugging Face's: "
            f"retrolit convert from-hf {folder} NEW_FOLDER"
        )
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{folder / CONFIG_FILE}: expected format_version {FORMAT_VERSION}, got {version}; update retrolit"
        )
    return _config(content, folder), TensorFolder(folder)


def _open_lightning(path: Path) -> tuple[Config, Mapping[str, Tensor]]:
    checkpoint, weights = _read_file(path) if path.is_file() else _read_sharded(path)
    if not isinstance(checkpoint, dict) or "retrolit" not in checkpoint:
        raise ValueError(f"{path}: expected a checkpoint of retrolit's training, got another torch file")
    return _config(checkpoint["retrolit"], path), merge_lora(weights)


def _read_file(path: Path) -> tuple[Any, Mapping[str, Tensor]]:
    """What a checkpoint of one file holds, and its model's tensors."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{path}: damaged, or not a checkpoint of retrolit's training ({reason})") from error
    state = checkpoint.get("state_dict", {}) if isinstance(checkpoint, dict) else {}
    return checkpoint, {
        name.removeprefix(LIGHTNING_PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(LIGHTNING_PREFIX)
    }


def _read_sharded(path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """As `_read_file`, of a folder."""
    from retrolit.checkpoint.sharded_files import WEIGHTS, ShardedCheckpoint  # takes as long as the rest of a start

    checkpoint = ShardedCheckpoint(path)
    return checkpoint.rest(), checkpoint.part(WEIGHTS + LIGHTNING_PREFIX)


def _config(content: dict[str, Any], where: Path) -> Config:
    model_type = content.get("model_type")
    if model_type not in CONFIGS:
        raise ValueError(f"{where}: expected model_type {' or '.join(CONFIGS)}, got {model_type}; update retrolit")
    try:
        return CONFIGS[model_type].from_dict(content["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: the config is not that of a {model_type} ({error})") from error


def _only_expected(
    tensors: Iterable[tuple[str, Tensor]], shapes: dict[str, torch.Size], where: Path
) -> Iterator[tuple[str, Tensor]]:
    """The tensors as they come, each checked; at the end none may be missing."""
    found = set()
    for name, tensor in tensors:
        found.add(name)
        if name in shapes:
            _check_shape(name, tensor, shapes[name], where)
        yield name, tensor
    refuse_other_names(shapes, found, where)


def _check_shape(name: str, tensor: Tensor, expected: torch.Size, where: Path) -> None:
    if tensor.shape != expected:
        raise ValueError(
            f"{where}: {name}: expected the shape {tuple(expected)} from the config, got {tuple(tensor.shape)}"
        )


def _is_model_folder(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and read_json(folder / CONFIG_FILE).get("format") == "retrolit"


def _what_it_may_be(folder: Path) -> str:
    if (folder / "model" / CONFIG_FILE).is_file():
        return f"; did you mean {folder / 'model'}?"
    if (folder / "latest_checkpointed_iteration.txt").is_file():
        return f"; it is Megatron's: retrolit convert from-megatron {folder} NEW_FOLDER"
    return ""
