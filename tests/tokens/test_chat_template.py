"""Chat templates: what is written, which tokens are trained, and what gives way when there is too little room."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from retrolit.tokens import BPETokenizer, ByteTokenizer, Tokenizer, load_tokenizer, train_bpe
from retrolit.tokens.chat_template import ChatTemplate, Rendered, load_chat_template
from retrolit.tokens.conversation import Context, Conversation, Message

OWLS = [f"The owl number {i} reads a book about {i * i} old stars, quietly." for i in range(500)]
TURNS = [
    Message("user", "Who?"),
    Message("assistant", "An owl.\n\nTwo."),
    Message("user", "Où 🦉?"),
    Message("assistant", "Là."),
]
CONTEXTS = [Context("Owls", "They read."), Context("", "Quietly, at night.")]
SYSTEM = (
    "This is a chat between a user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions"
)


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return train_bpe(OWLS, 400, ["<|im_start|>", "<|im_end|>"])


def marked(rendered: Rendered, tokenizer: Tokenizer) -> str:
    """Text with [what is trained] in brackets and special tokens by name."""
    names = {i: name for name, i in tokenizer.special_tokens.items()}
    shown, run, before = "", [], False
    for i, trained in [*zip(rendered.tokens, rendered.mask, strict=True), (-1, False)]:
        if trained != before or i in names or i == -1:
            shown, run = shown + tokenizer.decode(run), []
        if trained != before:
            shown, before = shown + ("[" if trained else "]"), trained
        if i in names:
            shown += names[i]
        elif i >= 0:
            run.append(i)
    return shown


def slow_reference(conversation: Conversation, every: bool) -> str:
    """The paper's form, put together by hand."""
    shown = f"System: {SYSTEM}.\n\n"
    shown += "".join(f"title: {context.title}, source: {context.text}\n\n" for context in conversation.contexts)
    turns = list(conversation.turns)
    for place in range(0, len(turns), 2):
        last = place + 2 == len(turns)
        shown += f" {turns[place].content}\n\nAssistant:" if place else f"User: {turns[place].content}\n\nAssistant:"
        end = "<|endoftext|>" if last else "\n\nUser:"
        reply = f" {turns[place + 1].content}{end}"
        shown += f"[{reply}]" if every or last else reply
    return shown


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("train_on", ["last", "all"])
def test_the_papers_form_and_its_mask(kind: str, train_on: str, bpe: BPETokenizer) -> None:
    tokenizer = ByteTokenizer() if kind == "bytes" else bpe
    conversation = Conversation(TURNS, CONTEXTS)
    template = load_chat_template("instructretro-tuning")
    rendered = template.render(conversation, tokenizer, 5000, train_on)  # pyright: ignore[reportArgumentType]
    assert marked(rendered, tokenizer) == slow_reference(conversation, train_on == "all")
    trained = [" Là."] if train_on == "last" else [" An owl.\n\nTwo.\n\nUser:", " Là."]
    assert rendered.reply_bytes == len("".join(trained).encode())


def test_one_exchange_is_the_papers_ids(bpe: BPETokenizer) -> None:
    """Prompt as one text, then " answer", then the end: as NVIDIA's code tokenizes them."""
    template = load_chat_template("instructretro")
    conversation = Conversation(TURNS[:2], CONTEXTS[:1], answer_form="short")
    prompt = (
        f"System: {SYSTEM} based on the context. The assistant should also indicate when the answer cannot be found in "
        "the context.\n\ntitle: Owls, source: They read.\n\nUser: Answer the following question with a short span. Who?"
        "\n\nAssistant: The answer is"
    )
    rendered = template.render(conversation, bpe, 5000)
    answer = bpe.encode(" An owl.\n\nTwo.")
    assert rendered.tokens == [*bpe.encode(prompt), *answer, bpe.eod_id]
    assert sum(rendered.mask) == len(answer) + 1


@pytest.mark.parametrize("name", ["instructretro", "special-tokens"])
def test_a_prompt_is_the_beginning_of_what_is_trained(name: str, bpe: BPETokenizer) -> None:
    template = load_chat_template(name)
    rendered = template.render(Conversation(TURNS, CONTEXTS), bpe, 5000, "all")
    prompt = template.prompt(Conversation(TURNS[:3], CONTEXTS), bpe, 5000)
    assert rendered.tokens[: len(prompt)] == prompt
    assert not rendered.mask[len(prompt) - 1]
    assert all(rendered.mask[len(prompt) :])


@pytest.mark.parametrize("name", ["instructretro", "instructretro-tuning", "plain", "special-tokens"])
def test_many_at_once_are_what_each_is_alone(name: str, bpe: BPETokenizer) -> None:
    """Also where the beginning that they share is encoded once."""
    template = load_chat_template(name)
    assert name not in ("instructretro", "instructretro-tuning") or bpe.seam(template.beginnings[-1]) > 100
    assert name == "special-tokens" or template.prompt_end == "\n\nAssistant:"
    talks = [
        Conversation(TURNS),
        Conversation(TURNS[:2], CONTEXTS),
        Conversation([Message("system", "Be kind."), *TURNS]),
        Conversation(
            [
                Message("user", "  \n"),
                Message("assistant", template.beginnings[0] + "!" if template.beginnings else "!"),
            ]
        ),
        *(
            Conversation([Message("user", asked), Message("assistant", f"{asked}{template.prompt_end}")])
            for asked in ("Why?", "Why? ", "Why?\n", " ", "\u00a0", "é", template.prompt_end, f"x{template.prompt_end}")
        ),
        Conversation([Message("user", "'s"), TURNS[1]], answer_form="" if name == "plain" else "short"),
    ]
    for train_on in ("last", "all"):
        assert template.render_all(talks, bpe, 5000, train_on) == [
            template.render(talk, bpe, 5000, train_on) for talk in talks
        ]


def test_special_tokens_come_from_the_template_alone(bpe: BPETokenizer) -> None:
    template = load_chat_template("special-tokens")
    turns = [Message("system", "Be kind."), Message("user", "<|im_end|>{content}"), *TURNS[1:]]
    rendered = template.render(Conversation(turns), bpe, 5000, "all")
    assert marked(rendered, bpe) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n<|im_end|>{content}<|im_end|>\n"
        "<|im_start|>assistant\n[An owl.\n\nTwo.<|im_end|>]\n<|im_start|>user\nOù 🦉?<|im_end|>\n"
        "<|im_start|>assistant\n[Là.<|im_end|>]"
    )
    assert rendered.tokens.count(bpe.special_tokens["<|im_end|>"]) == 5
    with pytest.raises(ValueError, match=r"expected the special token .<\|im_start\|>. in the tokenizer"):
        template.render(Conversation(turns), ByteTokenizer(), 5000)


def test_contexts_give_way_first_then_old_turns_and_never_the_question() -> None:
    tokenizer, template = ByteTokenizer(), load_chat_template("instructretro")
    conversation = Conversation(TURNS, CONTEXTS)
    whole, bare = (template.render(Conversation(TURNS, contexts), tokenizer, 5000) for contexts in (CONTEXTS, ()))
    alone = template.render(Conversation(TURNS[2:]), tokenizer, 5000)
    assert len(alone.tokens) < len(bare.tokens) < len(whole.tokens)
    for room in range(len(alone.tokens), len(whole.tokens) + 1):
        cut = template.render(conversation, tokenizer, room)
        assert len(cut.tokens) <= room
        assert tokenizer.decode(cut.tokens).endswith("User: Où 🦉?\n\nAssistant: Là.")
        assert sum(cut.mask) == sum(whole.mask)
        if room >= len(bare.tokens):
            assert "Assistant: An owl.\n\nTwo.\n\nUser: Où 🦉?" in tokenizer.decode(cut.tokens)
    assert "title: Owls, so" in tokenizer.decode(template.render(conversation, tokenizer, len(bare.tokens) + 20).tokens)
    with pytest.raises(ValueError, match=f"expected a last question and reply of at most {len(alone.tokens) - 1} tok"):
        template.render(conversation, tokenizer, len(alone.tokens) - 1)
    both = template.render_all([conversation, Conversation(TURNS[:2])], tokenizer, len(alone.tokens) - 1)
    assert both[0] is None
    question = Conversation(TURNS[:3], CONTEXTS)
    prompt = template.prompt(question, tokenizer, 5000)
    assert "An owl" not in tokenizer.decode(template.prompt(question, tokenizer, len(prompt) - 90))
    with pytest.raises(ValueError, match="prompt: expected a last question of at most 10 tokens"):
        template.prompt(question, tokenizer, 10)


def test_what_is_no_conversation_is_refused() -> None:
    template, tokenizer = load_chat_template("instructretro"), ByteTokenizer()
    with pytest.raises(ValueError, match=r"Message.role: expected one of system, user, assistant, got 'tool'"):
        Message("tool", "x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"expected \[system,\] user, assistant, user, ... in turns, got assistant"):
        Conversation([Message("assistant", "x")])
    with pytest.raises(ValueError, match="expected a conversation that ends with the assistant's reply"):
        template.render(Conversation(TURNS[:1]), tokenizer, 100)
    with pytest.raises(ValueError, match="expected a conversation that ends with the user's turn"):
        template.prompt(Conversation(TURNS), tokenizer, 100)
    with pytest.raises(ValueError, match="train_on: expected last or all, got 'first'"):
        template.render(Conversation(TURNS), tokenizer, 100, "first")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="answer_form: expected one of those of chat template instructretro"):
        template.render(Conversation(TURNS, answer_form="rhyme"), tokenizer, 5000)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    fields = dict.fromkeys(["default_system", "between_contexts", "begin", "turn_end", "next"], "")
    fields |= {"system": "{content}", "context": "{title}{text}", "contexts": "{contexts}", "user": "Q{content}A",
               "reply": "{content}", "end": "{eod}"}  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(fields))
    tokenizer = ByteTokenizer()
    template: ChatTemplate = pickle.loads(pickle.dumps(load_chat_template(path)))
    assert marked(template.render(Conversation(TURNS[:2]), tokenizer, 99), tokenizer) == (
        "QWho?A[An owl.\n\nTwo.<|endoftext|>]"
    )
    path.write_text(json.dumps(fields | {"user": "Q"}))
    with pytest.raises(ValueError, match=r"chat template mine: user: expected \{content\} in it once"):
        load_chat_template(path)
    path.write_text(json.dumps({"user": "Q", "wrong": ""}))
    with pytest.raises(ValueError, match=r"it lacks begin, .*, has an unknown wrong"):
        load_chat_template(path)
    with pytest.raises(FileNotFoundError, match=r"chat template none: expected .*instructretro.*special-tokens"):
        load_chat_template("none")


CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n'}}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{m['content'] + '<|im_end|>'}}{% endgeneration %}{{'\n'}}{% else %}{{m['content'] + '<|im_end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def hugging_face(folder: Path, bpe: BPETokenizer, program: str) -> Path:
    folder.mkdir()
    bpe.save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": program}))
    return folder


def test_a_template_of_hugging_face_gives_its_tokens_and_its_mask(tmp_path: Path, bpe: BPETokenizer) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    folder = hugging_face(tmp_path / "model", bpe, CHATML)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": message.role, "content": message.content} for message in TURNS]
    wanted = theirs.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    rendered = load_chat_template(folder).render(Conversation(TURNS), load_tokenizer(folder), 5000, "all")
    count = len(rendered.tokens)
    assert rendered.tokens == list(wanted["input_ids"])[:count]
    assert [int(trained) for trained in rendered.mask] == list(wanted["assistant_masks"])[:count]
    assert theirs.decode(wanted["input_ids"][count:]) == "\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("{% for", "chat template model: "),
        ("{{ raise_exception('no system') }}", "chat template model: no system"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "this one changes them"),
        (
            "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
            "this one does not, and cannot",
        ),
    ],
)
def test_templates_that_cannot_say_what_a_reply_is_are_refused(
    program: str, message: str, tmp_path: Path, bpe: BPETokenizer
) -> None:
    folder = hugging_face(tmp_path / "model", bpe, program)
    with pytest.raises(ValueError, match=message):
        load_chat_template(folder).render(Conversation(TURNS), bpe, 5000)


def test_hugging_face_has_no_answer_forms_and_may_have_no_template(tmp_path: Path, bpe: BPETokenizer) -> None:
    folder = hugging_face(tmp_path / "model", bpe, CHATML)
    with pytest.raises(ValueError, match="chat template model is Hugging Face's and has none"):
        load_chat_template(folder).render(Conversation(TURNS, answer_form="short"), bpe, 5000)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a chat template in chat_template\.jinja or"):
        load_chat_template(folder)
