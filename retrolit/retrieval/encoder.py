"""Chunks embedded by a text encoder: any sentence-transformers or Hugging Face model, by name or folder.

Needs the extra `hf`. Nearly all of the time is in the model's matrix products, so the model runs in bfloat16 where that
is faster (cosine to float32 above 0.999). On processors this is tried out when the model is loaded: of two with the
same bfloat16 instructions one takes half of float32's time and the other twice. Batches have about as many tokens each,
of texts of like length.

Legend: n texts, T tokens of the encoder in the longest text of a batch, D width.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from retrolit.retrieval.embedder import KIND
from retrolit.storage import Manifest, read_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrolit.tokens import Tokenizer

Pooling = Literal["mean", "mean_content", "cls"]

TOKENS_A_BATCH = {"cpu": 2_048, "cuda": 65_536}
"""Padded tokens in a batch: small enough for a processor's cache, large enough to fill a GPU."""


class EncoderEmbedder:
    """Embedder by a text encoder: chunks are decoded to text, encoded, pooled, and brought to length 1.

    Args:
        name: a folder, or a name on the Hugging Face hub.
        tokenizer: of the chunks; it turns them into text.
        pooling: over a text's tokens: mean of all; mean_content, of all but special tokens (NVIDIA's BERT); cls, the
            first. None takes what the model's sentence-transformers files say, mean where there are none.
        max_length: tokens of a text that are read; the rest is cut.
        dtype: auto is bfloat16 where this machine is faster in it, else float32. Vectors of the two are comparable.
        device: None is the GPU where there is one.

    Raises:
        ValueError: transformers is not installed, an argument is none of those above, there is no such model, or it has
            layers after the pooling, which are not supported.
    """

    threads = 1

    def __init__(
        self,
        name: str | Path,
        tokenizer: Tokenizer,
        *,
        pooling: Pooling | None = None,
        max_length: int = 256,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        device: str | None = None,
    ) -> None:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise ValueError('an encoder embedder needs transformers: pip install "retrolit[hf]"') from error
        self.name, self.tokenizer, self.max_length = str(name), tokenizer, max_length
        self.pooling = pooling or _own_pooling(Path(name))
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling: expected one of {', '.join(get_args(Pooling))}, got {self.pooling!r}")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = _fastest_dtype(self.device) if dtype == "auto" else getattr(torch, dtype)
        try:
            self.text_tokenizer: Any = AutoTokenizer.from_pretrained(self.name)
            self.model: Any = AutoModel.from_pretrained(self.name, dtype=torch.float32).eval()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"retrieval.embedder.name: expected the folder of a text encoder (config.json, weights, tokenizer) or "
                f"its name on the Hugging Face hub, got {self.name} ({str(error).splitlines()[0]})"
            ) from error
        # Not the precision, nor where the model lies: the vectors are comparable.
        form = f"encoder 1 {self.pooling} {self.max_length} {tokenizer.fingerprint}"
        self.fingerprint = _sha256(form, self.model.state_dict())
        self.model.to(self.device, self.dtype)
        self.dimension: int = self.model.config.hidden_size

    def embed(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, D) float32 of chunks: tokens (n, M) of which the first lengths (n,) of each row count."""
        return self.embed_text(
            [self.tokenizer.decode(row[:n].tolist()) for row, n in zip(tokens, lengths, strict=True)]
        )

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors (n, D) float32 of texts; a row of zeros for one without any character but spaces."""
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        filled = [number for number, text in enumerate(texts) if text.strip()]
        if not filled:
            return rows
        encoded = self.text_tokenizer(
            [texts[number] for number in filled],
            truncation=True,
            max_length=self.max_length,
            return_special_tokens_mask=True,
            return_attention_mask=False,
        )
        for batch in _batches([len(ids) for ids in encoded["input_ids"]], TOKENS_A_BATCH[self.device.type]):
            ids = _padded([encoded["input_ids"][i] for i in batch], self.text_tokenizer.pad_token_id or 0)
            special = _padded([encoded["special_tokens_mask"][i] for i in batch], 1)
            mask = _padded([[1] * len(encoded["input_ids"][i]) for i in batch], 0)
            vectors = self._encode(ids.to(self.device), mask.to(self.device), special.to(self.device))
            rows[[filled[i] for i in batch]] = vectors.cpu().numpy()
        return rows

    def save(self, folder: str | Path) -> None:
        """Writes down which model it is; the model itself stays where it lies."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "type": "encoder",
            "name": self.name,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "dimension": self.dimension,
            "fingerprint": self.fingerprint,
        }
        Manifest(KIND, settings, {"tokenizer": self.tokenizer.fingerprint}, {}, {}).write(folder)

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Tokenizer) -> EncoderEmbedder:
        """What `save` wrote; use `load_embedder`, which checks the tokenizer.

        Raises:
            ValueError: the model has other weights by now.
        """
        settings = Manifest.read(folder, KIND).settings
        embedder = cls(settings["name"], tokenizer, pooling=settings["pooling"], max_length=settings["max_length"])
        if embedder.fingerprint != settings["fingerprint"]:
            raise ValueError(
                f"{folder}: fingerprint: expected {settings['fingerprint'][:12]}, got {embedder.fingerprint[:12]}; the "
                f"model at {settings['name']} is not the one the vectors were made with"
            )
        return embedder

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor, special: torch.Tensor) -> torch.Tensor:
        """ids, mask, special (n, T) -> (n, D) float32 rows of length 1."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, T, D)
        if self.pooling == "cls":
            pooled = hidden[:, 0].float()
        else:
            counted = mask if self.pooling == "mean" else mask * (1 - special)
            # The sum over T as a product of matrices. A mean or a sum: the length is 1 in the end.
            pooled = torch.bmm(counted[:, None].to(hidden.dtype), hidden)[:, 0].float()  # (n, D)
        return torch.nn.functional.normalize(pooled, dim=-1)


def _own_pooling(folder: Path) -> str:
    """The pooling a sentence-transformers model folder asks for; mean when it does not say."""
    if not (folder / "modules.json").is_file():
        return "mean"
    kinds = [module["type"].rsplit(".", 1)[-1] for module in read_json(folder / "modules.json")]
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise ValueError(
            f"{folder}: modules: expected Transformer, Pooling and Normalize, got {', '.join(unknown)} too"
        )
    pooling = next(
        (folder / m["path"] for m in read_json(folder / "modules.json") if m["type"].endswith("Pooling")), None
    )
    if pooling is None:
        return "mean"
    modes = [name for name, on in read_json(pooling / "config.json").items() if name.startswith("pooling_mode") and on]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise ValueError(f"{pooling}: expected pooling of the mean or of the cls token, got {modes}")
    return known[modes[0]]


def _fastest_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # By a clear margin, so that a run that is resumed chooses the same again.
    return (
        torch.bfloat16 if _time_of_product(torch.bfloat16) < 0.75 * _time_of_product(torch.float32) else torch.float32
    )


@torch.inference_mode()
def _time_of_product(dtype: torch.dtype) -> float:
    """Seconds that a product of matrices of an encoder's size takes on the processor, the best of a few."""
    rows, weight = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _sha256(form: str, state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(form.encode())
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().numpy().data)
    return digest.hexdigest()


def _batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Numbers of texts, the longest first, in batches of at most `budget` tokens with the padding."""
    batches: list[list[int]] = []
    room = 0
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not room:
            room = max(budget // max(lengths[number], 1), 1)
            batches.append([])
        batches[-1].append(number)
        room -= 1
    return batches


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """(n, T) int64, rows filled up on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
