"""Does retrieval give a model knowledge? A made-up world, told in documents, some of it never trained on.

    python -m benchmarks.knowledge [--compare] [--plot knowledge.png]

Every entity of the world has a name of two words and for each of seven attributes one of 32 values. A document names an
entity among words without meaning (chunk 0), then tells its facts (chunk 1), always in the same order:

    kosu mide um pa lo pa ...  |  mide city baro trade kilu colour fesi ...

Stories of some entities are trained on. Records, other documents with the same facts, two of each entity, make the
database; among them are those of strangers, of whom there is no story to train on. GPT and Retro, with the same decoder
on the same samples, are asked for the facts of strangers, each given the document before it. GPT can only guess, 1 in
32. Retro finds the records by the words of the name, with the built-in embedder and an index as in any other run. At
last the strangers' facts are changed in the database alone, and the same weights are asked again.

Goals: at least 90 % of the facts as told, and of the facts as changed. With --compare further Retros are trained, each
with one thing otherwise, and the step is told at which each of them completes half of the facts.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tokenizers
import torch
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor

from benchmarks.machine import describe
from retrolit.data import Batch, DataConfig, Prepared, PretrainingSamples, SampleNeighbors, TrainingWindows, prepare
from retrolit.models import GPT, GPTConfig, Retro, RetroConfig
from retrolit.retrieval import LiveRetriever, NeighborConfig, PreparedRetriever, RetrievalConfig
from retrolit.tokens import Blend, CorpusConfig, Tokenizer, TokenizerConfig, TokensConfig, TokenStore, load_tokenizer
from retrolit.training import OptimizerConfig, ScheduleConfig
from retrolit.training.clipping import clip_gradients
from retrolit.training.optimizer import make_optimizer
from retrolit.training.schedule import learning_rate

ATTRIBUTES = ("city", "trade", "colour", "animal", "metal", "fruit", "tool")
NUM_VALUES = 32
CHUNK_LENGTH = 2 * (len(ATTRIBUTES) + 1)  # half a name, the facts, and the end of the document
NUM_NEIGHBORS = 2
GOAL = 0.9
END = "<|endoftext|>"


@dataclass
class World:
    """Words, and who is who."""

    names: list[str]
    """Two words each; the strangers come last."""

    facts: list[list[str]]
    """Of each entity, one value for each of ATTRIBUTES."""

    values: list[list[str]]
    """Of each attribute, all there are."""

    fillers: list[str]
    """Words without meaning."""

    num_strangers: int

    @classmethod
    def make(cls, num_known: int, num_strangers: int, draw: random.Random) -> World:
        """Everything drawn at random, each word in one role only."""
        syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
        words = [first + second for first in syllables for second in syllables if first + second not in ATTRIBUTES]
        draw.shuffle(words)
        first, last = ([words.pop() for _ in range(150)] for _ in range(2))
        names = draw.sample([f"{one} {other}" for one in first for other in last], num_known + num_strangers)
        values = [[words.pop() for _ in range(NUM_VALUES)] for _ in ATTRIBUTES]
        facts = [[draw.choice(choices) for choices in values] for _ in names]
        return cls(names, facts, values, [words.pop() for _ in range(40)], num_strangers)

    @property
    def strangers(self) -> range:
        """The numbers of the entities that no model is trained on."""
        return range(len(self.names) - self.num_strangers, len(self.names))

    def changed(self, draw: random.Random) -> World:
        """The same world, but every fact of every stranger is another one."""
        facts = list(self.facts)
        for entity in self.strangers:
            facts[entity] = [
                draw.choice([value for value in choices if value != fact])
                for fact, choices in zip(self.facts[entity], self.values, strict=True)
            ]
        return replace(self, facts=facts)

    def document(self, entity: int, draw: random.Random) -> str:
        """Two chunks of text: the name and fillers, then half the name and the facts; 2 M tokens with its end."""
        name = self.names[entity].split()
        fillers = draw.choices(self.fillers, k=CHUNK_LENGTH - 2)
        told = [word for pair in zip(ATTRIBUTES, self.facts[entity], strict=True) for word in pair]
        return " ".join([*name, *fillers, draw.choice(name), *told])

    def tokenizer(self) -> str:
        """A tokenizer.json in which every word is a token."""
        words = [END, "a", *ATTRIBUTES, *self.fillers, *(word for name in self.names for word in name.split())]
        words += [value for choices in self.values for value in choices]
        model = tokenizers.Tokenizer(WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, END))
        model.pre_tokenizer = WhitespaceSplit()
        return model.to_str()


def prepare_world(world: World, folder: Path, draw: random.Random) -> Prepared:
    """Stories of the known, two records of everybody, index and neighbors of the stories."""
    folder.mkdir(parents=True)
    known = range(world.strangers.start)
    texts = {"stories": [world.document(i, draw) for i in known]}
    texts["records"] = [world.document(i, draw) for i in range(len(world.names)) for _ in range(NUM_NEIGHBORS)]
    for name, documents in texts.items():
        rows = (json.dumps({"text": text}) + "\n" for text in documents)
        (folder / f"{name}.jsonl").write_text("".join(rows))
    (folder / "tokenizer.json").write_text(world.tokenizer())
    return prepare(
        DataConfig(
            folder=str(folder / "prepared"),
            tokens=TokensConfig(
                corpora={name: CorpusConfig(str(folder / f"{name}.jsonl")) for name in texts},
                tokenizer=TokenizerConfig(type="file", path=str(folder / "tokenizer.json")),
                splits={"train": 1.0},
            ),
            retrieval=RetrievalConfig(
                chunk_length=CHUNK_LENGTH,
                corpora=["records"],
                neighbors=NeighborConfig(num_saved=4, num_searched=16),
            ),
        )
    )


def training_samples(prepared: Prepared, sequence_length: int) -> PretrainingSamples:
    """Samples of the stories, with the neighbors of their chunks."""
    assert prepared.retrieval is not None
    store = TokenStore(prepared.tokens.stores["train"]["stories"])
    table = prepared.retrieval.tables["train"]["stories"]
    retriever = PreparedRetriever(table, store, prepared.retrieval.database())
    windows = TrainingWindows(store, sequence_length, CHUNK_LENGTH, seed=1, name="stories")
    return PretrainingSamples([windows], Blend([1.0]), SampleNeighbors([retriever], NUM_NEIGHBORS))


class Questions:
    """Stories of strangers, and what an index holds about them."""

    def __init__(self, world: World, prepared: Prepared, tokenizer: Tokenizer, draw: random.Random) -> None:
        assert prepared.retrieval is not None
        texts = [world.document(entity, draw) for entity in world.strangers]
        self.tokens = torch.tensor([[*ids, tokenizer.eod_id] for ids in tokenizer.encode_batch(texts)])  # (N, 2 M)
        self.places = torch.arange(CHUNK_LENGTH + 1, 2 * CHUNK_LENGTH - 1, 2)
        """Of the attributes; each value follows its own."""
        self.answers = self.tokens[:, self.places + 1]
        self.ask(prepared)

    def ask(self, prepared: Prepared) -> None:
        """Retrieve from this index, with the names' chunk; nothing is retrieved for the chunk of the facts."""
        assert prepared.retrieval is not None
        retriever = LiveRetriever(prepared.retrieval.index_folder)
        first = self.tokens[:, :CHUNK_LENGTH].numpy()  # (N, M)
        found = retriever.retrieve(first, np.full(len(first), CHUNK_LENGTH), NUM_NEIGHBORS)
        tokens, mask = torch.from_numpy(found.tokens), torch.from_numpy(found.mask)  # (N, K, R)
        self.neighbors = torch.stack([tokens, tokens], dim=1)  # (N, L, K, R)
        self.mask = torch.stack([mask, torch.zeros_like(mask)], dim=1)

    @torch.no_grad()
    def share_completed(self, model: GPT | Retro, answers: Tensor | None = None) -> float:
        """The share of facts whose likeliest value is that of `answers` (N, facts), of these stories if not given."""
        if isinstance(model, Retro):
            logits = model(self.tokens, self.neighbors, self.mask)
        else:
            logits = model(self.tokens)
        right = logits[:, self.places].argmax(-1) == (self.answers if answers is None else answers)
        return right.float().mean().item()


Curve = list[tuple[int, float]]
"""Optimizer steps done, share of facts completed."""


def train(
    model: GPT | Retro, samples: PretrainingSamples, questions: Questions, steps: int, *, batch_size: int, lr: float,
    warmup: int, every: int = 25,
) -> Curve:  # fmt: skip
    """Next-token training as GPTModule's and RetroModule's; the strangers' facts are asked for now and then."""
    optimizer = make_optimizer(model, OptimizerConfig(lr=lr))
    schedule = ScheduleConfig(warmup=warmup, min_lr=lr / 10)
    curve, lost, begin = [], 0.0, time.process_time()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, lr, step, steps)
        batch = samples[range((step - 1) * batch_size, step * batch_size)]
        loss = loss_of(model, batch)
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        lost += loss.item() / every
        if step % every == 0:
            curve.append((step, questions.share_completed(model)))
            seconds = time.process_time() - begin
            print(f"  step {step}  loss {lost:.3f}  completed {curve[-1][1]:.1%}  CPU {seconds:.0f} s", flush=True)
            lost = 0.0
    return curve


def loss_of(model: GPT | Retro, batch: Batch) -> Tensor:
    """The mean loss of a batch's tokens."""
    if isinstance(model, Retro):
        return model.loss(batch.tokens, batch.labels, batch.loss_mask, batch.neighbor_tokens, batch.neighbor_mask).mean
    return model.loss(batch.tokens, batch.labels, batch.loss_mask).mean


def make_configs(vocab_size: int) -> dict[str, GPTConfig | RetroConfig]:
    """What is trained: the GPT, the Retro, and, to compare, Retros with one thing otherwise."""
    decoder = GPTConfig(
        vocab_size=vocab_size, hidden_size=64, num_layers=2, num_attention_heads=4,
        max_position_embeddings=4 * CHUNK_LENGTH, normalization="rmsnorm", bias=False, tied_embeddings=True,
    )  # fmt: skip
    retro = RetroConfig(decoder, retro_layers=[2], chunk_length=CHUNK_LENGTH, encoder_layers=1)
    return {
        "GPT": decoder,
        "Retro": retro,
        "cross_rotary: false": replace(retro, cross_rotary=False),
        "encoder_rotary: false": replace(retro, encoder_rotary=False),
        "both false": replace(retro, cross_rotary=False, encoder_rotary=False),
        "init_std: 0.02": replace(retro, decoder=replace(decoder, init_std=0.02)),
    }


def half_known(curve: Curve) -> str:
    """The step by which half of the facts are completed, for people."""
    return next((f"step {step}" for step, share in curve if share >= 0.5), f"not by step {curve[-1][0]}")


def plot(curves: dict[str, Curve], changed: float, path: Path) -> None:
    """Draw how much is completed over the steps, and the changed facts as a point at the end."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for name, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), label=name)
    axes.plot(curves["Retro"][-1][0], changed, "o", label="Retro, facts changed in the database")
    axes.axhline(1 / NUM_VALUES, color="gray", linestyle=":", label="chance")
    axes.set(xlabel="optimizer steps", ylabel="facts of strangers completed", ylim=(0, 1.02))
    figure.legend(loc="outside right upper")
    figure.savefig(path)


def main() -> None:
    """Makes the world, trains, asks, changes the facts, asks again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--known", type=int, default=3000, help="entities with stories to train on")
    parser.add_argument("--strangers", type=int, default=200, help="entities in the database only")
    parser.add_argument("--compare", action="store_true", help="train Retros with one thing otherwise, too")
    parser.add_argument("--plot", type=Path, help='draw the curves into this file (pip install "retrolit[plot]")')
    arguments = parser.parse_args()
    print(describe(), flush=True)
    draw = random.Random(1)
    world = World.make(arguments.known, arguments.strangers, draw)
    curves: dict[str, Curve] = {}
    models: dict[str, GPT | Retro] = {}
    with tempfile.TemporaryDirectory() as folder:
        told = prepare_world(world, Path(folder) / "told", draw)
        changed_world = world.changed(draw)
        changed = prepare_world(changed_world, Path(folder) / "changed", draw)
        tokenizer = load_tokenizer(told.tokens.tokenizer_folder)
        samples = training_samples(told, 4 * CHUNK_LENGTH)
        questions = Questions(world, told, tokenizer, draw)
        configs = make_configs(tokenizer.vocab_size)
        for name in configs if arguments.compare else ("GPT", "Retro"):
            config = configs[name]
            torch.manual_seed(1)
            models[name] = Retro(config) if isinstance(config, RetroConfig) else GPT(config)
            print(f"{name}, {models[name].num_parameters():,} parameters", flush=True)
            curves[name] = train(models[name], samples, questions, arguments.steps, batch_size=8, lr=2e-3, warmup=50)
        answers_told = questions.answers
        questions.ask(changed)
        texts = [" ".join(changed_world.facts[entity]) for entity in world.strangers]
        answers_changed = torch.tensor(tokenizer.encode_batch(texts))  # (N, facts)
        share_changed = questions.share_completed(models["Retro"], answers_changed)
        share_old = questions.share_completed(models["Retro"], answers_told)
    print(f"\nfacts of {arguments.strangers} strangers completed after {arguments.steps} steps")
    for name, curve in curves.items():
        print(f"  {name:<24} {curve[-1][1]:6.1%}   half of them: {half_known(curve)}")
    print(f"  {'Retro, facts changed':<24} {share_changed:6.1%}   (of the facts as they were told: {share_old:.1%})")
    print(f"  goals: {GOAL:.0%} told and changed; chance {1 / NUM_VALUES:.1%}")
    if arguments.plot:
        plot(curves, share_changed, arguments.plot)
        print(f"wrote {arguments.plot}")


if __name__ == "__main__":
    main()
