"""How scores, and the models of the paper's tables, are headed where results are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# The models of the paper's tables, and how their columns are headed.
PUBLISHED = {"Llama 2 RAG 70B": "Llama 2\nRAG 70B", "InstructGPT-RAG 43B": "GPT\nRAG 43B",
             "InstructRetro 43B": "Instruct\nRetro 43B", "InstructRetro 48B": "Instruct\nRetro 48B"}  # fmt: skip
SOURCE = "published: arXiv 2310.07713, tables 1 to 3, zero-shot"
NAMES = {"exact_match": "EM", "f1": "F1", "first_f1": "paper's F1", "rouge": "ROUGE", "rouge1": "ROUGE-1",
         "rouge2": "ROUGE-2", "rougeL": "ROUGE-L",
         "in_contexts": "in contexts", "in_others_contexts": "by chance", "in_neighbors": "in neighbors",
         "in_others_neighbors": "by chance"}  # fmt: skip


def score_name(name: str) -> str:
    """How a score is headed."""
    return NAMES.get(name, name.replace("_", " "))


def published_models(results: Iterable[dict[str, Any]]) -> list[str]:
    """The models that something was published of for one of these results of tasks, as the paper's tables have them."""
    known = [scores for result in results for scores in result["published"].values()]
    return [model for model in PUBLISHED if any(model in scores for scores in known)]


def in_order(result: dict[str, Any]) -> list[str]:
    """The scores of a task's results: those beside published ones first."""
    published = result["published"]
    names = [*published, *(name for name in result["scores"] if name not in published)]
    return [name for name in names if name in result["scores"]]
