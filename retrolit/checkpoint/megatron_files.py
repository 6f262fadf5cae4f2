"""Megatron-LM's checkpoint folders, read into a model folder and written from one.

    latest_checkpointed_iteration.txt            a number, or the word release
    iter_0000100/mp_rank_00/model_optim_rng.pt   one file for each tensor-parallel rank (or release/mp_rank_00/...)

The ranks' files are memory-mapped and converted tensor by tensor, so memory is that of one file written.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrolit.checkpoint import megatron, megatron_retro
from retrolit.checkpoint.model_folder import open_model, write_model_folder
from retrolit.checkpoint.model_types import (
    DECODER,
    Config,
    decoder_of,
    tensor_shapes,
    with_vocab_size,
    without_retrieval,
)
from retrolit.checkpoint.tables import Rule, fill_in, refuse_other_names, to_theirs
from retrolit.checkpoint.unpickle import load_foreign
from retrolit.models import RetroConfig
from retrolit.models.config import GATED_ACTIVATIONS
from retrolit.models.lazy_tensors import LazyTensors
from retrolit.storage import atomic_folder
from retrolit.tokens import Tokenizer

TRACKER = "latest_checkpointed_iteration.txt"
RANK_FILE = "model_optim_rng.pt"
VOCABULARY_TENSORS = ("embedding.weight", "output.weight")


@dataclass
class MegatronCheckpoint:
    """One checkpoint, opened: its options and every tensor-parallel rank's tensors by name, memory-mapped."""

    path: Path
    options: dict[str, Any]
    ranks: list[dict[str, Tensor]]
    ignored: list[str] = field(default_factory=list)


def open_megatron(folder: Path) -> MegatronCheckpoint:
    """Open the checkpoint that the folder's tracker names, or the folder itself if it holds the ranks.

    Raises FileNotFoundError or ValueError for what is missing or cannot be converted: pipeline parallelism, the sharded
    torch_dist format, checkpoint versions before 2.0.
    """
    folder = _iteration_folder(folder)
    files = _rank_files(folder)
    contents = [_load_rank(file) for file in files]
    options = vars(contents[0]["args"])
    version = contents[0].get("checkpoint_version", 0)
    if version < 2.0:
        raise ValueError(f"{files[0]}: checkpoint_version: expected 2.0 or later (2020), got {version}")
    ranks, ignored = [], set()
    for content in contents:
        named = {megatron.modern_name(name): value for name, value in _flatten(content["model"])}
        tensors = {name: value for name, value in named.items() if _is_weight(name, value)}
        ignored |= set(named) - set(tensors)
        ranks.append(tensors)
    for file, tensors in zip(files, ranks, strict=True):
        refuse_other_names(ranks[0], tensors, file)
    return MegatronCheckpoint(folder, options, ranks, sorted(ignored))


def from_megatron(
    source: Path,
    destination: Path,
    tokenizer: Tokenizer | None = None,
    vocab_size: int | None = None,
    chunk_length: int | None = None,
) -> list[str]:
    """Convert a Megatron GPT or Retro to a model folder; the notes say what was decided and left out.

    The vocabulary's padding is cut off when its true size is given, or known from the tokenizer or the options.
    `chunk_length` is for Retros from before Megatron Core, whose checkpoints do not know it.
    """
    checkpoint = open_megatron(source)
    spelling, padded = _config(checkpoint, chunk_length)
    size, how = _vocab_size(checkpoint.options, decoder_of(padded).vocab_size, tokenizer, vocab_size)
    config = with_vocab_size(padded, size)
    decoder = decoder_of(config)
    weights = _Merged(checkpoint, config, spelling)
    write_model_folder(destination, config, weights.items(), tokenizer)
    notes = [f"read {checkpoint.path}: {spelling} names, {len(checkpoint.ranks)} tensor-parallel rank(s)", how]
    if decoder.activation.startswith("gelu"):
        why = "or openai_gelu is on" if decoder.activation == "gelu_tanh" else "and openai_gelu are off"
        notes.append(f"activation {decoder.activation}, because bias_gelu_fusion {why}")
    if isinstance(config, RetroConfig):
        notes.append(_about_retro(config, known=bool(chunk_length or checkpoint.options.get("retro_chunk_length"))))
    if checkpoint.ignored:
        kinds = sorted({name.rpartition(".")[2] for name in checkpoint.ignored})
        notes.append(f"left out {len(checkpoint.ignored)} entries that are no weights: {', '.join(kinds)}")
    if weights.differing:
        notes.append(f"ranks disagree about {len(weights.differing)} tensors that should be equal; rank 0's were taken")
    return notes


def open_weights(path: Path, vocab_size: int, chunk_length: int | None = None) -> tuple[Config, Mapping[str, Tensor]]:
    """As `open_model`, and of Megatron's checkpoints too: config and tensors, each made when it is asked for.

    Of a Megatron checkpoint the first `vocab_size` rows of the vocabulary are taken, as the rest may be padding;
    `chunk_length` as for `from_megatron`. A process that takes a part of each tensor holds no more than one at a time.
    """
    if not path.is_dir() or not ((path / TRACKER).is_file() or list(path.glob("mp_rank_*"))):
        return open_model(path)
    checkpoint = open_megatron(path)
    spelling, padded = _config(checkpoint, chunk_length)
    rows = decoder_of(padded).vocab_size
    if vocab_size > rows:
        raise ValueError(
            f"{path}: expected a vocab_size of up to the {rows} rows that the checkpoint has, got {vocab_size}"
        )
    config = with_vocab_size(padded, vocab_size)
    return config, _Merged(checkpoint, config, spelling)


def to_megatron(
    source: Path, destination: Path, tensor_parallel: int = 1, divisible_by: int = 128, decoder_only: bool = False
) -> list[str]:
    """Write a model folder as a Megatron Core checkpoint with TransformerEngine's names; the notes say how.

    The vocabulary is padded with zero rows to a multiple of `divisible_by` x `tensor_parallel`, as Megatron asks.
    """
    for name, number in (("tensor_parallel", tensor_parallel), ("divisible_by", divisible_by)):
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
    config, tensors = open_model(source)
    if decoder_only:
        config, tensors = without_retrieval(config, tensors)
    decoder = decoder_of(config)
    for name in ("num_query_groups", "num_attention_heads", "ffn_hidden_size"):
        if getattr(decoder, name) % tensor_parallel:
            raise ValueError(
                f"tensor_parallel: expected a divisor of {name} ({getattr(decoder, name)}), got {tensor_parallel}"
            )
    multiple = divisible_by * tensor_parallel
    padded_size = -(-decoder.vocab_size // multiple) * multiple
    if isinstance(config, RetroConfig):
        options = megatron_retro.options_from_retro_config(config, padded_size, tensor_parallel)
    else:
        options = megatron.options_from_config(config, padded_size, tensor_parallel)
    options["make_vocab_size_divisible_by"] = divisible_by
    moves = fill_in(_rules(config, "te"), decoder, tensor_shapes(config))
    refuse_other_names(tensor_shapes(config), tensors, source)
    with atomic_folder(destination) as partial:
        for rank in range(tensor_parallel):
            shard = _share_of(tensors, rank, tensor_parallel, padded_size)
            # cloned, because a slice is saved with all the memory it is cut from
            state = {name: tensor.clone() for name, tensor in to_theirs(moves, decoder, shard)}
            file = partial / "release" / f"mp_rank_{rank:02d}" / RANK_FILE
            file.parent.mkdir(parents=True)
            state |= dict.fromkeys(_extra_states(state))
            content = {"args": Namespace(**options), "checkpoint_version": 3.0, "iteration": 0, "model": state}
            torch.save(content, file)
        (partial / TRACKER).write_text("release", encoding="utf-8")
    return [
        f"Megatron Core with TransformerEngine's names, {tensor_parallel} tensor-parallel rank(s)",
        f"vocabulary padded from {decoder.vocab_size} to {padded_size} rows",
        *(megatron_retro.core_computes_otherwise(config) if isinstance(config, RetroConfig) else []),
    ]


class _Merged(LazyTensors):
    """Our tensors of a Megatron checkpoint, each put together from its ranks' parts when it is asked for."""

    def __init__(self, checkpoint: MegatronCheckpoint, config: Config, spelling: megatron.Spelling) -> None:
        self._ranks, self._decoder = checkpoint.ranks, decoder_of(config)
        moves = fill_in(_rules(config, spelling), self._decoder, tensor_shapes(config))
        refuse_other_names([name for move in moves for name in move.theirs], checkpoint.ranks[0], checkpoint.path)
        self._moves = {name: (move, place) for move in moves for place, name in enumerate(move.ours)}
        self.differing: set[str] = set()
        """Tensors met so far that are not cut, and that the ranks have different ones of."""
        super().__init__(self._moves, self._whole)

    def _whole(self, name: str) -> Tensor:
        move, place = self._moves[name]
        parts = [
            move.layout.to_ours(self._decoder, [rank[theirs] for theirs in move.theirs])[place] for rank in self._ranks
        ]
        if megatron.cut_axis(name) is None and any(not torch.equal(parts[0], other) for other in parts[1:]):
            self.differing.add(name)
        whole = _merge(name, parts)
        return whole[: self._decoder.vocab_size] if _is_vocabulary(name) else whole


def _share_of(tensors: Mapping[str, Tensor], rank: int, ranks: int, padded_size: int) -> LazyTensors:
    """One rank's share of our tensors, cut when it is asked for."""

    def cut(name: str) -> Tensor:
        tensor = tensors[name]
        if _is_vocabulary(name):
            tensor = torch.cat([tensor, tensor.new_zeros(padded_size - len(tensor), tensor.shape[1])])
        axis = megatron.cut_axis(name)
        return tensor if axis is None else tensor.chunk(ranks, dim=axis)[rank]

    return LazyTensors(tensors, cut)


def _iteration_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    tracker = folder / TRACKER
    if not tracker.is_file():
        if list(folder.glob("mp_rank_*")):
            return folder
        raise FileNotFoundError(f"{folder}: expected Megatron's {TRACKER} or folders mp_rank_00, ...; found neither")
    written = tracker.read_text(encoding="utf-8").strip()
    if written != "release" and not written.isdecimal():
        raise ValueError(f"{tracker}: expected a number or release, got {written[:40]!r}")
    return folder / (written if written == "release" else f"iter_{int(written):07d}")


def _rank_files(folder: Path) -> list[Path]:
    if (folder / "metadata.json").is_file() or (folder / ".metadata").is_file():
        raise ValueError(
            f"{folder}: is in the sharded torch_dist format; write it again with Megatron's --ckpt-format torch, "
            "then convert"
        )
    folders = sorted(path for path in folder.glob("mp_rank_*") if path.is_dir())
    numbers = [path.name.removeprefix("mp_rank_") for path in folders]
    if any(re.fullmatch(r"\d+_\d+", number) for number in numbers):
        raise ValueError(f"{folder}: was saved with pipeline parallelism; write it again with one pipeline stage")
    if not folders or [int(number) for number in numbers] != list(range(len(folders))):
        raise FileNotFoundError(
            f"{folder}: expected mp_rank_00, mp_rank_01, ... without a gap, got {', '.join(numbers) or 'none'}"
        )
    files = [path / RANK_FILE for path in folders]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: missing")
    return files


def _load_rank(file: Path) -> dict[str, Any]:
    content = load_foreign(file)
    if not (
        isinstance(content, dict)
        and isinstance(content.get("args"), Namespace)
        and isinstance(content.get("model"), dict)
    ):
        raise ValueError(f"{file}: expected a Megatron checkpoint with args and model, got another torch file")
    ranks = getattr(content["args"], "tensor_model_parallel_size", None)
    found = len(list(file.parents[1].glob("mp_rank_*")))
    if ranks is not None and ranks != found:
        raise ValueError(f"{file.parents[1]}: expected {ranks} tensor-parallel ranks (args), got {found}")
    return content


def _flatten(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_weight(name: str, value: Any) -> bool:
    """Not weights: `_extra_state` (TransformerEngine's) and the rotary tables that old versions saved."""
    return isinstance(value, Tensor) and not name.endswith(("_extra_state", "inv_freq"))


def _merge(name: str, shards: list[Tensor]) -> Tensor:
    axis = megatron.cut_axis(name)
    return shards[0] if axis is None or len(shards) == 1 else torch.cat(shards, dim=axis)


def _vocab_size(
    options: dict[str, Any], padded: int, tokenizer: Tokenizer | None, given: int | None
) -> tuple[int, str]:
    known = megatron.true_vocab_size(options)
    candidates = [
        (given, "as given"),
        (tokenizer.vocab_size if tokenizer else None, "the tokenizer's"),
        (known, "as its args say"),
    ]
    for size, source in candidates:
        if size is not None:
            if not 0 < size <= padded:
                raise ValueError(
                    f"vocab_size: expected up to the {padded} rows of the checkpoint, got {size} ({source})"
                )
            return size, f"vocabulary of {size} ({source}); {padded - size} padding rows cut off"
    return (
        padded,
        f"vocabulary of {padded}, padding included: its true size is not known (give vocab_size or tokenizer)",
    )


def _config(checkpoint: MegatronCheckpoint, chunk_length: int | None) -> tuple[megatron.Spelling, Config]:
    """How the checkpoint spells its names, and what it holds by its options and names, its vocabulary padded."""
    options, names = checkpoint.options, checkpoint.ranks[0]
    try:
        spelling = megatron.spelling_of(names)
        if megatron_retro.retro_layers_of(names):
            return spelling, megatron_retro.retro_config_from_options(options, names, spelling, chunk_length)
        return spelling, megatron.config_from_options(options, final_norm=megatron.has_final_norm(names))
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from error


def _rules(config: Config, spelling: megatron.Spelling) -> list[Rule]:
    if isinstance(config, RetroConfig):
        return megatron_retro.retro_rules(config, spelling)
    return megatron.rules(spelling, config.activation in GATED_ACTIVATIONS)


def _about_retro(config: RetroConfig, known: bool) -> str:
    how = "" if known else " (that of the released models: the checkpoint does not know its own; give chunk_length)"
    numbers = ", ".join(str(number) for number in config.retro_layers)
    kind = "Megatron Core's" if config.encoder_residual == "normed" else "of before Megatron Core"
    return f"a Retro {kind}, cross-attention in layers {numbers}, chunks of {config.chunk_length} tokens{how}"


def _is_vocabulary(name: str) -> bool:
    return name.removeprefix(DECODER) in VOCABULARY_TENSORS


def _extra_states(names: Iterable[str]) -> set[str]:
    """What Megatron Core expects beside every linear layer's and attention's weights; None when it wrote no FP8."""
    modules = {name.rpartition(".")[0] for name in names if ".linear_" in name or name.startswith("output_layer")}
    attention = {name.replace("linear_proj", "core_attention") for name in modules if name.endswith("linear_proj")}
    return {f"{name}._extra_state" for name in modules | attention}
