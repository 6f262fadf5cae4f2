"""A batch of conversations for people: what is trained in colour, where one conversation ends and the next begins."""

from __future__ import annotations

import itertools

from rich.console import Console
from rich.text import Text

from retrolit.data import Batch
from retrolit.tokens import Tokenizer
from retrolit.training import InstructionData

TRAINED = "bold green"


def show_conversations(data: InstructionData, step: int, number: int, characters: int, console: Console) -> None:
    """Prints the first samples of an optimizer step; what is trained is marked with `|` too, where there is no colour.

    Shown from the batch itself: a label that counts is a trained token, and its conversation is that of its input.
    """
    samples = data.training_samples()
    first = step * data.global_batch_size
    numbers = range(first, first + min(number, data.global_batch_size))
    batch = samples[numbers]
    console.print(f"step {step}: samples {first} to {first + data.global_batch_size - 1}", style="bold")
    for row, sample in enumerate(numbers):
        places = samples.places(sample)
        length = batch.tokens.shape[1]
        console.print(f"\nsample {sample}: {len(places)} of the conversations, {length} tokens", style="bold cyan")
        begin = used = trained = 0
        for place, (store, conversation) in enumerate(places):
            corpus = data.corpora["train"][store]
            start, width = begin, samples.width((store, conversation))
            begin += samples.shape.padding(corpus.store, conversation)
            end = begin + corpus.store.num_inputs(conversation)
            mask = batch.loss_mask[row, begin:end].bool().tolist()
            console.print(
                f"--- {corpus.name}, {corpus.store.source(conversation)}: {len(mask)} tokens from {begin}, "
                f"{sum(mask)} trained " + "-" * 8,
                style="cyan",
                markup=False,
            )
            if batch.segments is not None:
                assert set(batch.segments[row, begin:end].tolist()) == {place}
            ids = batch.tokens[row, begin:end].tolist() + batch.labels[row, end - 1 : end].tolist()
            console.print(_coloured(ids, [False, *mask], data.tokenizer)[:characters])
            if batch.neighbor_tokens is not None:
                _show_neighbors(data, batch, row, (start, begin, end), characters, console)
            used, trained = used + len(mask), trained + sum(mask)
            begin = start + width
        console.print(f"{trained} tokens trained, {used - trained} read only, {length - used} padding", style="cyan")


def _show_neighbors(
    data: InstructionData, batch: Batch, row: int, place: tuple[int, int, int], characters: int, console: Console
) -> None:
    """Prints what each chunk of a conversation reads; what several chunks in turn read, as contexts are, once.

    `place`: the column its first chunk begins in, that of its first token, and the one behind its last input.
    """
    assert batch.neighbor_tokens is not None
    assert batch.neighbor_mask is not None
    start, begin, end = place
    chunks: list[tuple[list[str], int, int]] = []  # texts of the neighbors, and which tokens of the conversation
    for column in range(start, end, data.chunk_length):
        chunk = column // data.chunk_length
        rows = zip(batch.neighbor_tokens[row, chunk], batch.neighbor_mask[row, chunk], strict=True)
        texts = [data.tokenizer.decode(ids[kept].tolist()) for ids, kept in rows if kept.any()]
        first, last = max(column, begin) - begin, min(column + data.chunk_length, end) - begin - 1
        if chunks and chunks[-1][0] == texts:
            first = chunks.pop()[1]
        chunks.append((texts, first, last))
    for texts, first, last in chunks:
        for text in texts:
            console.print(f"neighbor of tokens {first}-{last}: {text}"[:characters], style="magenta", markup=False)


def _coloured(ids: list[int], mask: list[bool], tokenizer: Tokenizer) -> Text:
    """The ids (T,) as text, trained ones (mask, (T,)) coloured and between bars, special tokens by their names."""
    names = {i: token for token, i in tokenizer.special_tokens.items()}
    shown = Text()
    # A token alone may be half a character: runs of one kind are decoded together.
    for trained, run in itertools.groupby(range(len(ids)), key=lambda place: mask[place]):
        style = TRAINED if trained else ""
        shown.append("|" if trained else "", style=TRAINED)
        for special, part in itertools.groupby(run, key=lambda place: names.get(ids[place], "")):
            places = list(part)
            text = special * len(places) if special else tokenizer.decode([ids[place] for place in places])
            shown.append(text, style=f"{style} reverse" if special else style)
        shown.append("|" if trained else "", style=TRAINED)
    return shown
