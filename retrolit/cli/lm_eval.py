"""Our models in EleutherAI's lm-evaluation-harness, by the name "retrolit".

    python -m retrolit.cli.lm_eval run --model retrolit --model_args model=runs/retro/model,retriever=prepared/wiki \\
        --tasks hellaswag,boolq --batch_size 16

is the harness's own command line with one more model in it. Its arguments: model, tokenizer, retriever, gate,
num_neighbors, retrieval_stride, exclude, dtype and max_length, as `retrolit generate` has them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

from retrolit.cli.load_generator import load_generator
from retrolit.evaluation.continuations import likelihoods
from retrolit.generation import SamplingConfig

try:
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError('lm-evaluation-harness is not installed: pip install "retrolit[lm-eval]"') from error


@register_model("retrolit")
class HarnessModel(TemplateLM):
    """A model of ours as the harness asks it: how likely a text is, and what it writes."""

    def __init__(
        self,
        model: str,
        tokenizer: str | None = None,
        retriever: str | None = None,
        gate: float = 1.0,
        num_neighbors: int | None = None,
        retrieval_stride: int | None = None,
        exclude: str | None = None,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int | str = 16,
        max_length: int | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """Opens everything. Raises ValueError or FileNotFoundError where something is missing or does not fit."""
        super().__init__()
        self.generator = load_generator(
            model, tokenizer, _device(device), dtype, retriever, gate=gate, num_neighbors=num_neighbors,
            retrieval_stride=retrieval_stride, exclude=None if exclude is None else [exclude],
        )  # fmt: skip
        self.batch_size = 16 if str(batch_size).startswith("auto") else int(batch_size)
        self.max_length = max_length or self.generator.decoder.config.max_position_embeddings

    @property
    def eot_token_id(self) -> int:
        """What stands before a text that has no context."""
        return self.generator.tokenizer.eod_id

    @property
    def tokenizer_name(self) -> str:
        """What the harness calls its saved requests by."""
        return f"retrolit-{self.generator.tokenizer.fingerprint[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text; none are added."""
        return self.generator.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        found = likelihoods(self.generator, [(context, said) for _, context, said in requests], self.batch_size)
        answers = [(one.log_probability, one.greedy) for one in found]
        for (asked, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", asked, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text, in windows of the model's length, the first behind an end of document."""
        windows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.eot_token_id, self.max_length, context_len=1):
                windows.append(make_disjoint_window(window))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, one in zip(owners, likelihoods(self.generator, windows, self.batch_size), strict=True):
            totals[owner] += one.log_probability
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each context, up to a stop text; greedy unless the task draws."""
        alike: dict[str, list[int]] = defaultdict(list)  # requests with the same settings are computed together
        for number, request in enumerate(requests):
            alike[repr(sorted(request.args[1].items()))].append(number)
        texts = [""] * len(requests)
        for numbers in alike.values():
            wanted = requests[numbers[0]].args[1]
            new = min(int(wanted.get("max_gen_toks", 256)), self.max_length // 2)
            until = wanted.get("until") or []
            temperature = float(wanted.get("temperature", 1.0)) if wanted.get("do_sample") else 0.0
            sampling = SamplingConfig(
                max_new_tokens=new, temperature=temperature, top_p=wanted.get("top_p"), top_k=wanted.get("top_k"),
                stop=[text for text in ([until] if isinstance(until, str) else until) if text], seed=0,
            )  # fmt: skip
            prompts = [self.tok_encode(requests[number].args[0])[-(self.max_length - new) :] for number in numbers]
            for number, made in zip(numbers, self.generator.generate(prompts, sampling, self.batch_size), strict=True):
                texts[number] = made.text
                self.cache_hook.add_partial("generate_until", requests[number].args, made.text)
        return texts


def _device(name: str | None) -> Literal["auto", "cpu", "cuda"]:
    if name is None:
        return "auto"
    return "cuda" if name.startswith("cuda") else "cpu"


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    cli_evaluate()
