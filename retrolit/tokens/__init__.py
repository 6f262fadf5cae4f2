"""From text to documents to tokens."""

from retrolit.tokens.blend import Blend
from retrolit.tokens.bpe import BPETokenizer, train_bpe
from retrolit.tokens.config import CorpusConfig, TokenizerConfig, TokensConfig
from retrolit.tokens.prepare import PreparedTokens, prepare_tokens
from retrolit.tokens.store import TokenStore, token_dtype
from retrolit.tokens.store_writer import StoreWriter, write_store
from retrolit.tokens.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "BPETokenizer",
    "Blend",
    "ByteTokenizer",
    "CorpusConfig",
    "PreparedTokens",
    "StoreWriter",
    "TokenStore",
    "Tokenizer",
    "TokenizerConfig",
    "TokensConfig",
    "load_tokenizer",
    "prepare_tokens",
    "token_dtype",
    "train_bpe",
    "write_store",
]
