"""Conversions as tables: which of our tensors are made of which foreign ones, and how.

A table is a list of rules over module names. In a name `{n}` stands for every layer's number and `{p}` for `weight` and
`bias`; whether a model has a bias at all is decided by our own tensor names, so a rule never says it. For example

    Rule("layers.{n}.attention_norm.{p}", "model.layers.{n}.input_layernorm.{p}")

reads and writes the first norm of every layer. Both directions come from the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from retrolit.models import GPTConfig

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Layout:
    """How the tensors of one rule are laid out on either side; the two functions are each other's inverse."""

    to_ours: Callable[[GPTConfig, Tensors], Tensors]
    to_theirs: Callable[[GPTConfig, Tensors], Tensors]


def _join_heads(config: GPTConfig, tensors: Tensors) -> Tensors:
    """Query, key and value (H d or G d rows each) to one tensor: per group its query heads, its key, its value."""
    assert config.num_query_groups is not None
    groups = config.num_query_groups
    return [torch.cat([tensor.unflatten(0, (groups, -1)) for tensor in tensors], dim=1).flatten(0, 1)]


def _separate_heads(config: GPTConfig, tensors: Tensors) -> Tensors:
    assert config.num_query_groups is not None
    assert config.head_dim is not None
    queries = config.num_attention_heads // config.num_query_groups * config.head_dim
    grouped = tensors[0].unflatten(0, (config.num_query_groups, -1))
    return [part.flatten(0, 1) for part in grouped.split([queries, config.head_dim, config.head_dim], dim=1)]


def _transpose(config: GPTConfig, tensors: Tensors) -> Tensors:
    return [tensor.t() for tensor in tensors]  # a bias has one axis: t() leaves it alone


SAME = Layout(lambda config, tensors: tensors, lambda config, tensors: tensors)
"""The same numbers under another name."""

SEPARATE_QKV = Layout(_join_heads, _separate_heads)
"""Query, key and value as three tensors, heads in order (Llama and its kin)."""

TRANSPOSED = Layout(_transpose, _transpose)
"""(in, out) instead of (out, in): the Conv1D of GPT-2."""

TRANSPOSED_QKV = Layout(
    lambda config, tensors: _join_heads(config, tensors[0].t().chunk(3)),
    lambda config, tensors: [torch.cat(list(_separate_heads(config, tensors))).t()],
)
"""GPT-2's fused attention: all queries, all keys, all values, as a Conv1D."""

GATE_THEN_UP = Layout(lambda config, tensors: tensors[0].chunk(2), lambda config, tensors: [torch.cat(list(tensors))])
"""A gated MLP's two projections stacked in one tensor, the gate's rows first (Megatron)."""


@dataclass(frozen=True)
class Rule:
    """Our tensors and theirs, and the layout between them."""

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    layout: Layout = SAME


@dataclass(frozen=True)
class Move:
    """A rule with its names filled in."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    layout: Layout


def fill_in(rules: Iterable[Rule], config: GPTConfig, names: Collection[str]) -> list[Move]:
    """The rules for every layer and parameter among `names`, our model's tensor names; each is covered exactly once."""
    moves = []
    for rule in rules:
        ours, theirs = _as_tuple(rule.ours), _as_tuple(rule.theirs)
        for layer in range(config.num_layers) if "{n}" in ours[0] else (0,):
            for parameter in ("weight", "bias") if "{p}" in ours[0] else ("",):
                mine = tuple(name.format(n=layer, p=parameter) for name in ours)
                if all(name in names for name in mine):
                    moves.append(Move(mine, tuple(name.format(n=layer, p=parameter) for name in theirs), rule.layout))
    covered = [name for move in moves for name in move.ours]
    assert sorted(covered) == sorted(names), f"table does not fit: {sorted(set(names) ^ set(covered))}"
    return moves


def to_ours(moves: Iterable[Move], config: GPTConfig, theirs: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our tensors, one rule's at a time."""
    for move in moves:
        yield from zip(move.ours, move.layout.to_ours(config, [theirs[name] for name in move.theirs]), strict=True)


def to_theirs(moves: Iterable[Move], config: GPTConfig, ours: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Their tensors, one rule's at a time."""
    for move in moves:
        yield from zip(move.theirs, move.layout.to_theirs(config, [ours[name] for name in move.ours]), strict=True)


def refuse_other_names(needed: Collection[str], found: Collection[str], where: object) -> None:
    """Raise ValueError naming what is missing from `found` or was not asked for; `where` is the file or folder."""
    missing, unexpected = sorted(set(needed) - set(found)), sorted(set(found) - set(needed))
    if missing or unexpected:
        said = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise ValueError(f"{where}: not the tensors that were expected: {'; '.join(said)}")


def lost_switches(config: GPTConfig, back: GPTConfig) -> list[str]:
    """The fields, with their values, that changed on the way to the other side's options and back."""
    return [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in fields(config)
        if getattr(config, field.name) != getattr(back, field.name)
    ]


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
