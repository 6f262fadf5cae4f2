"""Prompts to text: every prompt's tokens once, then one token a step for all rows that are not finished.

B rows (prompts that are not finished), T columns of the longest prompt, V the tokenizer's vocabulary. The picture:

    prompts -> (B, T), padded at the left -> read -> [draw a token a row -> drop finished rows -> read the tokens] ...

A Retro with a retriever seeks neighbors while it reads: see retrieval.py.
"""

from __future__ import annotations

import collections.abc
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from retrolit.generation.given_neighbors import GivenNeighbors, GivenReading
from retrolit.generation.reading import Reading
from retrolit.generation.retrieval import ChunkNeighbors, RetrievalSettings, RetrievingReading
from retrolit.generation.sampling import SamplingConfig, next_tokens
from retrolit.generation.text import TextStream
from retrolit.models import GPT, Retro
from retrolit.retrieval import Retriever
from retrolit.tokens import Tokenizer

FinishReason = Literal["stop", "end", "length"]


@dataclass
class Generation:
    """How one prompt was continued."""

    text: str
    """The continuation, without the prompt and without the stop text."""

    tokens: list[int]
    """The ids drawn, those of a stop text too, a token that ends the text not."""

    finish_reason: FinishReason
    """stop: a stop text came; end: the model ended the document, or drew a stop token; length: max_new_tokens came."""

    neighbors: list[ChunkNeighbors] = field(default_factory=list)
    """What was retrieved for each chunk of the prompt and the continuation; empty without retrieval."""


Prompt = str | Sequence[int]
"""Text, or the token ids that a chat template made of it."""

Pieces = collections.abc.Generator[str, None, Generation]
"""A continuation while it is made: its text in pieces, each as soon as it is certain; what it returns is the whole."""


class Generator:
    """A model and its tokenizer, continuing text.

    A prompt is continued in the same way alone and beside others: padding is never seen, and each row draws from a
    random generator of its own. (Floating-point sums may differ in their last bits with the batch size, and with them,
    rarely, a choice between two tokens of almost equal logits.) An empty prompt starts from the end-of-document token,
    as every document of the training does.

    A Retro with a `retriever` reads neighbors of every chunk of the prompt, and of the last chunk_length tokens each
    time that `retrieval_stride` new ones have come; chunk_length when not given. It reads `num_neighbors` of them, as
    many as in training when not given, and `gate` scales what they add. With gate 0, or without a retriever, nothing is
    retrieved and the Retro's decoder writes alone.
    """

    def __init__(
        self, model: GPT | Retro, tokenizer: Tokenizer, retriever: Retriever | None = None, *,
        num_neighbors: int | None = None, retrieval_stride: int | None = None, gate: float = 1.0,
    ) -> None:  # fmt: skip
        """Raises ValueError where model, tokenizer and retriever do not fit together."""
        self.model = model
        self.decoder = model.decoder if isinstance(model, Retro) else model
        self.tokenizer = tokenizer
        vocab_size = self.decoder.config.vocab_size
        if tokenizer.vocab_size > vocab_size:
            raise ValueError(
                f"tokenizer: expected at most the {vocab_size} ids the model has (vocab_size), got "
                f"{tokenizer.vocab_size}; use the tokenizer that the model was trained with"
            )
        self.retrieval: RetrievalSettings | None = None
        """How neighbors are sought; None without a retriever. Its gate may be changed between texts."""
        if retriever is not None:
            if not isinstance(model, Retro):
                raise ValueError(
                    "retriever: expected a Retro, which reads neighbors, got a GPT; leave the retriever out"
                )
            retrieval = RetrievalSettings(retriever, num_neighbors, retrieval_stride, gate)
            retrieval.check(model, tokenizer)
            self.retrieval = retrieval

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig | None = None, batch_size: int = 16, *,
        given: GivenNeighbors | None = None,
    ) -> list[Generation]:  # fmt: skip
        """One continuation a prompt (text, or token ids), in their order; `batch_size` of them are computed together.

        A Retro reads the neighbors that are `given` with the prompts in place of retrieved ones. The same prompt given
        twice gets two different samples. Raises ValueError before any work when a prompt and max_new_tokens reach
        beyond learned positions.
        """
        if isinstance(prompts, str):
            raise ValueError("prompts: expected a list of texts, got one text; write generate([prompt])")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if given is not None:
            given.check(self.model, len(prompts))
            batch_size = given.batch_size(batch_size)
        sampling = sampling or SamplingConfig()
        rows = self._rows(prompts, sampling)
        # Prompts of like length together: less padding.
        by_length = sorted(rows, key=lambda row: len(row.prompt))
        for start in range(0, len(rows), batch_size):
            for _ in self._steps(by_length[start : start + batch_size], sampling, given):
                pass
        return [row.generation() for row in rows]

    def stream(self, prompt: Prompt, sampling: SamplingConfig | None = None) -> Pieces:
        """What `generate` gives for this prompt, its text in pieces, each as soon as it is certain."""
        sampling = sampling or SamplingConfig()
        return self._pieces(self._rows([prompt], sampling)[0], sampling)

    def _pieces(self, row: _Row, sampling: SamplingConfig) -> Pieces:
        given = 0
        for _ in self._steps([row], sampling):
            if len(row.text) > given:
                yield row.text[given:]
                given = len(row.text)
        return row.generation()

    def _rows(self, prompts: Sequence[Prompt], sampling: SamplingConfig) -> list[_Row]:
        """Every prompt's state before its first token, checked."""
        seed = sampling.seed
        if seed is None and sampling.temperature > 0:
            seed = int(torch.randint(2**62, ()))
        copies: Counter[str] = Counter()
        device = self.decoder.embedding.weight.device
        rows = []
        texts = iter(self.tokenizer.encode_batch([prompt for prompt in prompts if isinstance(prompt, str)]))
        for number, prompt in enumerate(prompts):
            encoded = next(texts) if isinstance(prompt, str) else list(prompt)
            written = prompt if isinstance(prompt, str) else str(encoded)
            own_seed = row_seed(seed, written, copies[written])
            copies[written] += 1
            rows.append(
                _Row(
                    number,
                    prompt=encoded or [self.tokenizer.eod_id],
                    stream=TextStream(self.tokenizer, encoded, sampling.stop),
                    generator=torch.Generator(device).manual_seed(own_seed),
                )
            )
        self._check_reach(rows, sampling.max_new_tokens)
        return rows

    def _check_reach(self, rows: Sequence[_Row], max_new_tokens: int) -> None:
        config = self.decoder.config
        limit = config.max_position_embeddings
        longest = max((len(row.prompt) for row in rows), default=0)
        if longest + max_new_tokens <= limit:
            return
        if config.position_embedding == "learned":
            remedy = f"set max_new_tokens to at most {limit - longest}" if longest < limit else "shorten the prompt"
            raise ValueError(
                f"prompt: expected at most {limit} tokens together with the new ones (max_position_embeddings), got a "
                f"prompt of {longest} and max_new_tokens {max_new_tokens}; {remedy}"
            )
        warnings.warn(
            f"a prompt of {longest} tokens and max_new_tokens {max_new_tokens} reach beyond the {limit} tokens the "
            f"model is meant for (max_position_embeddings); the text may get worse from there on",
            stacklevel=4,
        )

    @torch.no_grad()  # not inference_mode: what the model keeps from here (rotary tables) has to serve training too
    def _steps(self, rows: list[_Row], sampling: SamplingConfig, given: GivenNeighbors | None = None) -> Iterator[None]:
        """Draws one token for each of the rows at every step, until the last of them is finished."""
        training = self.model.training
        self.model.eval()
        try:
            reading = self._reading(rows, sampling.max_new_tokens, given)
            logits = reading.prompts()
            if not logits.isfinite().all():
                raise ValueError("the model's logits are not finite: its weights hold NaN, or overflow in this dtype")
            seen = None if sampling.repetition_penalty == 1 else self._seen(rows)
            while True:
                # A model may have more ids than its tokenizer (padding of the vocabulary): those have no text.
                logits = logits[:, : self.tokenizer.vocab_size]  # (B, V)
                tokens = next_tokens(logits, sampling, [row.generator for row in rows], seen)  # (B,)
                for row, token in zip(rows, tokens.tolist(), strict=True):
                    row.add(token, {self.tokenizer.eod_id, *sampling.stop_tokens}, sampling.max_new_tokens)
                yield
                going = [index for index, row in enumerate(rows) if row.finish_reason is None]
                if not going:
                    return
                if len(going) < len(rows):
                    rows = [rows[index] for index in going]
                    kept = torch.tensor(going, device=tokens.device)
                    tokens, seen = tokens[kept], None if seen is None else seen[kept]
                    reading.keep(kept)
                if seen is not None:
                    seen.scatter_(1, tokens[:, None], True)
                logits = reading.next(tokens)
        finally:
            self.model.train(training)

    def _reading(self, rows: Sequence[_Row], max_new_tokens: int, given: GivenNeighbors | None) -> Reading:
        prompts = [row.prompt for row in rows]
        if given is not None and given.gate != 0:
            assert isinstance(self.model, Retro)
            numbers = [row.number for row in rows]
            return GivenReading(self.model, given, numbers, prompts, max_new_tokens, self.tokenizer.eod_id)
        if self.retrieval is None or self.retrieval.gate == 0:
            return Reading(self.decoder, prompts, max_new_tokens)
        assert isinstance(self.model, Retro)
        found = [row.neighbors for row in rows]
        return RetrievingReading(self.model, self.retrieval, self.tokenizer, prompts, max_new_tokens, found)

    def _seen(self, rows: Sequence[_Row]) -> Tensor:
        """(B, V) bool: the tokens of each row's prompt."""
        seen = torch.zeros(len(rows), self.tokenizer.vocab_size, dtype=torch.bool)
        for row, marks in zip(rows, seen, strict=True):
            marks[row.prompt] = True
        return seen.to(self.decoder.embedding.weight.device)


@dataclass
class _Row:
    """One prompt and what it has been continued by so far."""

    number: int
    prompt: list[int]
    stream: TextStream
    generator: torch.Generator

    def __post_init__(self) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.neighbors: list[ChunkNeighbors] = []

    def add(self, token: int, ends: set[int], max_new_tokens: int) -> None:
        if token in ends:
            self.finish_reason = "end"
        else:
            self.tokens.append(token)
            self.text += self.stream.push(token)
            if self.stream.stopped:
                self.finish_reason = "stop"
            elif len(self.tokens) == max_new_tokens:
                self.finish_reason = "length"
        if self.finish_reason is not None:
            self.text += self.stream.finish()

    def generation(self) -> Generation:
        assert self.finish_reason is not None
        return Generation(self.text, self.tokens, self.finish_reason, self.neighbors)


def row_seed(seed: int | None, prompt: str, copy: int) -> int:
    """A row's own seed: of the prompt and how often it came before, so that its place in the batch does not matter."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {copy} {prompt}".encode(), digest_size=8).digest(), "big")
