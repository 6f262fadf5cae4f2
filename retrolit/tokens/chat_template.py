"""From a conversation to token ids and the mask of those that are trained, in one pass.

A template says what is written around and between the messages. What is written falls into pieces, each of them the
text of a prompt or that of a reply, and every piece becomes ids by itself: so a prompt has the same ids whether a reply
follows it or not, and what is trained begins and ends exactly where a reply does.

    System: Be kind.\\n\\nUser: Hi\\n\\nAssistant: | Hello!<|endoftext|>        "instructretro", trained behind the bar

A message that spells a special token stays text: only the template's own special tokens become their ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from os.path import commonprefix
from pathlib import Path
from typing import Any, Literal

from retrolit.storage import fingerprint, read_json, write_json
from retrolit.tokens.bpe import BPETokenizer
from retrolit.tokens.conversation import Conversation, Message
from retrolit.tokens.tokenizer import Tokenizer

TrainOn = Literal["last", "all"]

TEMPLATE_FILE = "retrolit_chat_template.json"
"""In a model folder: the template that the model was tuned with."""

PROMPT = -1


class Special(str):
    """The text of a special token, which becomes its one id."""


END = Special("{eod}")
"""The tokenizer's own end-of-document token, whatever its text."""

Piece = tuple[str, int]
"""Text or a special token, and the number of the reply it belongs to; PROMPT where it belongs to none."""


@dataclass
class Rendered:
    """One conversation as ids."""

    tokens: list[int]
    """(T,) ids."""

    mask: list[bool]
    """(T,) True where the id is trained: in a reply and in what ends it."""

    reply_bytes: int
    """Bytes of UTF-8 that the trained ids stand for."""


class ChatTemplate(ABC):
    """What is written around the messages of a conversation."""

    name: str

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides what it writes, in JSON's types."""

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits; two templates with the same one write the same."""
        return fingerprint(self.settings)

    @abstractmethod
    def pieces(self, conversation: Conversation, contexts: str) -> list[Piece]:
        """All that is written, in order, neighbours that are both text of one reply or prompt joined; `contexts` is
        the text of the contexts, perhaps cut, or empty. After a user's last turn it ends where a reply begins."""

    @abstractmethod
    def contexts_text(self, conversation: Conversation, num_contexts: int) -> str:
        """The first contexts as one text."""

    @cached_property
    def beginnings(self) -> list[str]:
        """Texts that conversations begin with unless they have a system message of their own, the longest first: one
        for those without contexts, one for all."""
        firsts = {(said, with_contexts): self.pieces(_talk(said), "c" * with_contexts)[0][0]
                  for said in "ab" for with_contexts in (0, 1)}  # fmt: skip
        without = [firsts["a", 0], firsts["b", 0]]
        found = [_common([*texts]) for texts in (without, [*without, firsts["a", 1]])]
        return [text for text in dict.fromkeys(found) if text]

    @cached_property
    def prompt_end(self) -> str:
        """The text that prompts end with; perhaps empty."""
        lasts = [self.pieces(Conversation([Message("user", said)]), "")[-1][0] for said in "ab"]
        return _common([last if type(last) is Special else last[::-1] for last in lasts])[::-1]

    @cached_property
    def reply_ends(self) -> tuple[list[str], list[str]]:
        """What comes first behind a reply, in the middle of a conversation and at its end: texts, and special tokens
        (without the tokenizer's own end of a document)."""
        turns = [Message("user", "question"), Message("assistant", "reply")]
        pieces = self.pieces(Conversation(turns * 2), "")
        texts, tokens = [], []
        for turn in (0, 1):
            own = [text for text, reply in pieces if reply == turn]
            while own and "reply" not in own[0]:
                del own[0]
            rest = own[0].partition("reply")[2] if own else ""
            if rest:
                texts.append(rest)
            elif own[1:] and own[1] != END:
                tokens.append(own[1])
        return list(dict.fromkeys(texts)), list(dict.fromkeys(tokens))

    def reply_end_ids(self, tokenizer: Tokenizer) -> list[int]:
        """The ids of the special tokens among them; one that the tokenizer lacks is told when a prompt is made."""
        known = getattr(tokenizer, "special_tokens", {})
        return [known[token] for token in self.reply_ends[1] if token in known]

    def save(self, folder: str | Path) -> None:
        """Writes the file that `load_chat_template(folder)` reads."""
        write_json(Path(folder) / TEMPLATE_FILE, {"type": type(self).__name__} | {"name": self.name} | self.settings)

    def render(
        self,
        conversation: Conversation,
        tokenizer: Tokenizer,
        max_length: int,
        train_on: TrainOn = "last",
        num_contexts: int = 5,
    ) -> Rendered:
        """A conversation that ends with a reply, as at most `max_length` ids.

        What is too long loses its contexts from their end, then its oldest turns; never the last question or reply.

        Args:
            conversation: Ends with the assistant's turn.
            tokenizer: Has the template's special tokens.
            max_length: Of the result.
            train_on: The last reply, as the paper, or all of them; with each its end.
            num_contexts: How many of the contexts are written.

        Raises:
            ValueError: it does not end with a reply, the last question and reply alone are too long, or a special
                token is not in the vocabulary.
        """
        [rendered] = self.render_all([conversation], tokenizer, max_length, train_on, num_contexts)
        if rendered is None:
            raise ValueError(
                f"{conversation.source or 'conversation'}: expected a last question and reply of at most {max_length} "
                "tokens together, got more; ask for longer samples or leave it out"
            )
        return rendered

    def render_all(
        self,
        conversations: Sequence[Conversation],
        tokenizer: Tokenizer,
        max_length: int,
        train_on: TrainOn = "last",
        num_contexts: int = 5,
    ) -> list[Rendered | None]:
        """As `render` for each, and the fast way; None for one that is too long."""
        if train_on not in ("last", "all"):
            raise ValueError(f"train_on: expected last or all, got {train_on!r}")
        for conversation in conversations:
            if conversation.messages[-1].role != "assistant":
                raise ValueError(
                    f"{conversation.source or 'conversation'}: expected a conversation that ends with the assistant's "
                    "reply, got one that ends with the user's turn"
                )
        written = [self.pieces(each, self.contexts_text(each, num_contexts)) for each in conversations]
        shared = (self.beginnings, self.prompt_end) if len(written) > 1 else ([], "")
        encoded = _encode(written, tokenizer, self.name, *shared)
        rendered: list[Rendered | None] = []
        for conversation, pieces, ids in zip(conversations, written, encoded, strict=True):
            if sum(map(len, ids)) > max_length:
                fitted = self._fit(conversation, tokenizer, max_length, num_contexts)
                if fitted is None:
                    rendered.append(None)
                    continue
                pieces, ids = fitted  # noqa: PLW2901
            rendered.append(_masked(pieces, ids, train_on))
        return rendered

    def prompt(
        self, conversation: Conversation, tokenizer: Tokenizer, max_length: int, num_contexts: int = 5
    ) -> list[int]:
        """The ids of a conversation that ends with the user's turn, up to where the reply begins.

        What is longer than `max_length` loses its contexts from their end, then its oldest turns. Raises ValueError
        where the conversation ends with a reply, or the last question alone is too long.
        """
        if conversation.messages[-1].role != "user":
            raise ValueError("prompt: expected a conversation that ends with the user's turn, got one with a reply")
        pieces = self.pieces(conversation, self.contexts_text(conversation, num_contexts))
        [ids] = _encode([pieces], tokenizer, self.name)
        if sum(map(len, ids)) > max_length:
            fitted = self._fit(conversation, tokenizer, max_length, num_contexts)
            if fitted is None:
                raise ValueError(
                    f"prompt: expected a last question of at most {max_length} tokens, got more; shorten it or leave "
                    "more room for the prompt"
                )
            _, ids = fitted
        return [i for piece in ids for i in piece]

    def _fit(
        self, conversation: Conversation, tokenizer: Tokenizer, max_length: int, num_contexts: int
    ) -> tuple[list[Piece], list[list[int]]] | None:
        """Pieces and ids of as much of it as there is room for; None where the last turns alone are too long."""

        def write(contexts: str) -> tuple[list[Piece], list[list[int]], int]:
            pieces = self.pieces(conversation, contexts)
            [ids] = _encode([pieces], tokenizer, self.name)
            return pieces, ids, max_length - sum(map(len, ids))

        contexts = self.contexts_text(conversation, num_contexts)
        pieces, ids, room = write("")
        while room < 0:
            if len(conversation.turns) <= 2:
                return None
            system = [message for message in conversation.messages if message.role == "system"]
            conversation = replace(conversation, messages=[*system, *conversation.turns[2:]])
            pieces, ids, room = write("")
        context_ids = tokenizer.encode(contexts)
        while room > 0 and contexts:
            # A cut may leave half a character behind.
            cut = tokenizer.decode(context_ids[:room]).rstrip("\ufffd")
            longer = write(cut)
            if longer[2] >= 0:
                return longer[:2]
            room += longer[2]
        return pieces, ids


def load_chat_template(name: str | Path) -> ChatTemplate:
    """The template of this name, that in a .yaml file, that of a model folder, or the `chat_template` of a Hugging Face
    tokenizer's folder.

    Raises FileNotFoundError where there is none, ValueError where it cannot be read.
    """
    from retrolit.tokens.jinja_template import JinjaTemplate
    from retrolit.tokens.text_template import TextTemplate

    path = Path(name)
    if (path / TEMPLATE_FILE).is_file():
        content = read_json(path / TEMPLATE_FILE)
        kinds = {kind.__name__: kind for kind in (TextTemplate, JinjaTemplate)}
        return kinds[content.pop("type")].of(content)
    if path.is_dir():
        return JinjaTemplate.load(path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return TextTemplate.load(path)
    built_in = Path(str(files("retrolit.tokens"))) / "chat_templates" / f"{name}.yaml"
    if not built_in.is_file():
        known = ", ".join(sorted(file.stem for file in built_in.parent.glob("*.yaml")))
        raise FileNotFoundError(
            f"chat template {name}: expected {known}, a .yaml file, or a Hugging Face tokenizer's folder"
        )
    return TextTemplate.load(built_in)


def _talk(said: str) -> Conversation:
    return Conversation([Message("user", said), Message("assistant", said)])


def _common(texts: Sequence[str]) -> str:
    """What all the texts begin with; nothing where one is a special token."""
    return "" if any(type(text) is Special for text in texts) else commonprefix(texts)  # noqa: RUF071 (texts, no paths)


def _encode(
    written: Sequence[list[Piece]], tokenizer: Tokenizer, name: str, beginnings: Sequence[str] = (), end: str = ""
) -> list[list[list[int]]]:
    """The ids of each piece of each conversation; all texts go to the tokenizer at once, equal ones only once, and so
    do the beginnings and the end that many share, as far as these can be cut off without changing an id."""
    numbers: dict[str, int] = {}
    for pieces in written:
        for text, _ in pieces:
            if type(text) is str:
                numbers.setdefault(text, len(numbers))
    texts = list(numbers)
    if isinstance(tokenizer, BPETokenizer) and (beginnings or end):
        ids = _encode_apart(texts, tokenizer, beginnings, end)
    else:
        ids = tokenizer.encode_batch(texts)
    specials: dict[str, list[int]] = {END: [tokenizer.eod_id]}

    def special(token: str) -> list[int]:
        if token not in specials:
            known = tokenizer.special_tokens
            if token not in known:
                raise ValueError(
                    f"chat template {name}: expected the special token {token!r} in the tokenizer, which has "
                    f"{', '.join(known)}; add it as tokenizer.special_tokens, or choose another template"
                )
            specials[token] = [known[token]]
        return specials[token]

    return [[ids[numbers[text]] if type(text) is str else special(text) for text, _ in pieces] for pieces in written]


def _encode_apart(
    texts: Sequence[str], tokenizer: BPETokenizer, beginnings: Sequence[str], end: str
) -> list[list[int]]:
    """As `encode_batch`, with what texts begin or end with encoded once."""
    heads = [(beginning, seam) for beginning in beginnings if (seam := tokenizer.seam(beginning))]
    head_ids = [tokenizer.encode(beginning[:seam]) for beginning, seam in heads]
    cut_end = tokenizer.spaces_begin_words and end[:1] in (" ", "\n")
    end_ids = tokenizer.encode(end) if cut_end else []
    nothing: list[int] = []
    rests, around = [], []
    for text in texts:
        start, stop, before, behind = 0, len(text), nothing, nothing
        for (beginning, seam), ids in zip(heads, head_ids, strict=True):
            if text.startswith(beginning):
                start, before = seam, ids
                break
        if cut_end and text.endswith(end) and stop - len(end) >= max(start, 1):
            place = stop - len(end)
            if not text[place - 1].isspace():
                stop, behind = place, end_ids
        rests.append(text[start:stop])
        around.append((before, behind))
    encoded = tokenizer.encode_batch(rests)
    return [
        ids if before is behind else before + ids + behind
        for ids, (before, behind) in zip(encoded, around, strict=True)
    ]


def _masked(pieces: list[Piece], ids: list[list[int]], train_on: TrainOn) -> Rendered:
    # The last piece is of the last reply.
    first = pieces[-1][1] if train_on == "last" else 0
    tokens: list[int] = []
    mask: list[bool] = []
    reply_bytes = 0
    for (text, reply), piece in zip(pieces, ids, strict=True):
        tokens += piece
        if reply < first:
            mask += [False] * len(piece)
        else:
            mask += [True] * len(piece)
            if type(text) is str:
                reply_bytes += len(text.encode())
    return Rendered(tokens, mask, reply_bytes)
