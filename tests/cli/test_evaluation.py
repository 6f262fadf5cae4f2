"""`retrolit test` in windows inside documents: against a slow way that shares with it only model and embedder, and in
two processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from retrolit import load_model
from retrolit.models import Retro
from retrolit.retrieval import load_embedder
from retrolit.tokens import ByteTokenizer, TokenStore

RUN = Path("runs/retro")
LENGTH, STRIDE, M, K = 32, 16, 8, 2


@pytest.fixture
def trained(recipe, retrolit_process) -> Path:
    """The settings of a Retro of few steps, fitted to nothing; its weights are made large, so that neighbors show."""
    data = yaml.safe_load(Path("data.yaml").read_text())
    data["retrieval"] = {"chunk_length": M, "neighbors": {"num_saved": 4, "num_searched": 16}}
    Path("data.yaml").write_text(yaml.safe_dump(data))
    settings = yaml.safe_load(recipe.read_text())
    arguments = settings["model"]["init_args"]
    config = {"decoder": arguments["config"], "retro_layers": [2], "chunk_length": M, "encoder_layers": 1}
    settings["model"] = {"class_path": "RetroModule", "init_args": {"config": config, "optimizer": {"lr": 0.1}}}
    settings["data"]["init_args"]["num_neighbors"] = K
    settings["trainer"] |= {"default_root_dir": str(RUN), "max_steps": 5}
    Path("retro.yaml").write_text(yaml.safe_dump(settings))
    assert retrolit_process("fit", "-c", "retro.yaml") == 0
    return RUN / "config.yaml"


def chunks(store: TokenStore) -> list[tuple[int, list[int]]]:
    """The documents' chunks in order: of which document, and the ids."""
    texts = [store[document][:-1].tolist() for document in range(len(store))]
    return [(number, text[start : start + M]) for number, text in enumerate(texts) for start in range(0, len(text), M)]


def embedded(embedder, own: list[list[int]]) -> np.ndarray:
    lengths = np.array([len(ids) for ids in own])
    return embedder.embed(np.array([ids + [0] * (M - len(ids)) for ids in own]), lengths)


@torch.no_grad()
def slow_losses(with_neighbors: bool) -> list[float]:
    """Of every label of the test split, in the window that it is new in."""
    (folder,), (embedder_folder,) = (
        Path("prepared/tokens").glob("words-*"),
        Path("prepared/retrieval").glob("embed*r-*"),
    )
    train, test = TokenStore(folder / "train"), TokenStore(folder / "test")
    embedder, model = load_embedder(embedder_folder, ByteTokenizer()), load_model(RUN / "model")
    assert isinstance(model, Retro)
    database = chunks(train)
    vectors = embedded(embedder, [ids for _, ids in database])
    losses = []
    for document in test:
        ids = document.tolist()
        own = [ids[start : min(start + M, len(ids) - 1)] for start in range(0, len(ids) - 1, M)]
        alike = embedded(embedder, own) @ vectors.T
        nearest = np.argsort(-alike.round(5), axis=1, kind="stable")[:, :K]
        neighbors = torch.zeros(len(own), K, 2 * M, dtype=torch.long)
        mask = torch.zeros(neighbors.shape, dtype=torch.bool)
        for chunk, found in enumerate(nearest.tolist()):
            for rank, id in enumerate(found):
                number, text = database[id]
                follows = database[id + 1][1] if id + 1 < len(database) and database[id + 1][0] == number else []
                read = torch.tensor(text + follows)
                neighbors[chunk, rank, : len(read)], mask[chunk, rank, : len(read)] = read, True
        begun, chances = -1, torch.empty(0)
        for label in range(1, len(ids)):
            start = max(0, -(-(label - LENGTH) // STRIDE) * STRIDE)
            if start > begun:  # another window; its later tokens do not matter to the earlier labels
                begun = start
                window = torch.zeros(1, LENGTH, dtype=torch.long)
                window[0, : len(ids[start : start + LENGTH])] = torch.tensor(ids[start : start + LENGTH])
                read = slice(start // M, start // M + LENGTH // M)
                blank = torch.zeros(LENGTH // M - len(neighbors[read]), K, 2 * M)
                given = [torch.cat([part[read], blank.to(part)])[None] for part in (neighbors, mask)]
                chances = (model(window, *given) if with_neighbors else model(window)).log_softmax(-1)
            losses.append(-float(chances[0, label - start - 1, ids[label]]))
    return losses


def results() -> dict:
    return json.loads((RUN / "results.json").read_text())["splits"]["test"]


def test_windows_inside_documents(trained, retrolit_process):
    command = ("test", "-c", trained, "--evaluation.stride", STRIDE, "--evaluation.num_resamples", 50)
    assert retrolit_process(*command) == 0
    alone = results()
    for reading, with_neighbors in (("retrieved", True), ("none", False)):
        losses = slow_losses(with_neighbors)
        assert alone["tokens"] == len(losses)
        assert alone["readings"][reading]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert abs(alone["gain"]["none"]) > 1e-3  # neighbors do matter

    together = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
    assert retrolit_process(*command, *together, processes=2) == 0
    assert flat(results()) == pytest.approx(flat(alone), rel=1e-5, abs=1e-6)


def flat(found: object, name: str = "") -> dict[str, float]:
    """All numbers of a result, by where they stand."""
    if isinstance(found, dict):
        return {key: value for own in found for key, value in flat(found[own], f"{name}.{own}").items()}
    if isinstance(found, list):
        return {key: value for place, own in enumerate(found) for key, value in flat(own, f"{name}.{place}").items()}
    return {name: found} if isinstance(found, int | float) else {}
