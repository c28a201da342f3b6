"""Tokens of groups: boundaries, end tokens, truncation, templates."""

from pathlib import Path
from typing import Any

import pytest

from tests.tuning.text_models import tiny_tokenizer
from training.tuning.data import Message
from training.tuning.errors import BadInput
from training.tuning.text.loading import padding_token
from training.tuning.text.tokens import (
    GroupTokenizer,
    PairTokenizer,
    Unusable,
    common_length,
    how_joined,
    leading_special_ids,
)

END = 2


def reader(*, template: bool = True, context: int = 200, **options: Any) -> GroupTokenizer:
    tokenizer = tiny_tokenizer() if template else tiny_tokenizer(template=None)
    return GroupTokenizer(tokenizer, context=context, end_ids=[END], **options)


def text(tokens: GroupTokenizer, ids: list[int]) -> str:
    return str(tokens.tokenizer.decode(ids))


def test_prefix_and_answers() -> None:
    tokens = reader()
    group = tokens.encode("Why?", ["One", "Two is more"])
    assert text(tokens, group.prefix) == "<|user|>Why?<|assistant|>"
    assert [text(tokens, block) for block in group.blocks] == ["One</s>", "Two is more</s>"]
    assert group.starts == [0, 0]
    assert group.size == len(group.prefix) + sum(map(len, group.blocks))


def test_messages_and_strings_are_the_same_prompt() -> None:
    tokens = reader()
    turns = [Message(role="user", content="Why?")]
    answer = [Message(role="assistant", content="One")]
    assert tokens.encode(turns, [answer]) == tokens.encode("Why?", ["One"])


@pytest.mark.parametrize("answer", ["One", "One</s>", "One</s></s>", "One</s>\n"])
@pytest.mark.parametrize("template", [True, False])
def test_end_exactly_once(answer: str, template: bool) -> None:
    """Written out by somebody, added by the template, or by neither: one end token, last."""
    group = reader(template=template).encode("Why?", [answer])
    assert group.answers[0].count(END) == 1
    assert group.answers[0][-1] == END


def test_end_inside_an_answer_is_refused() -> None:
    with pytest.raises(Unusable, match="contains the end token"):
        reader().encode("Why?", ["One</s>Two"])


def test_answer_of_end_tokens_only_is_empty() -> None:
    with pytest.raises(Unusable, match="empty but for the end token"):
        reader().encode("Why?", ["</s>"])


def test_without_end() -> None:
    group = reader(with_end=False).encode("Why?", ["One", "Two</s>"])
    assert END not in group.blocks[0] + group.blocks[1]


def test_boundary_inside_a_token() -> None:
    """Without a template "shor" + "t ..." merges: the token is the answer's, the prefix ends before."""
    tokens = reader(template=False)
    group = tokens.encode("Please write a shor", ["t answer", "e line"])
    prefix = text(tokens, group.prefix)
    assert "Please write a shor".startswith(prefix)
    whole = [text(tokens, group.prefix + block[:-1]) for block in group.blocks]
    assert whole == ["Please write a short answer", "Please write a shore line"]
    first = [text(tokens, answer[:1]) for answer in group.answers]
    assert first[0] == " short"
    assert len(prefix) < len("Please write a shor")
    # For the second candidate the tokens of "shor" are prompt, and lie in its own block.
    assert group.starts[0] == 0
    assert group.starts[1] > 0
    assert text(tokens, group.answers[1]).startswith("e line")


def test_offsets_with_bytes_of_one_character() -> None:
    tokens = reader()
    group = tokens.encode("Grüße 漢字?", ["é", "漢字 ok"])
    assert [text(tokens, answer) for answer in group.answers] == ["é</s>", "漢字 ok</s>"]


def test_truncation_is_the_same_for_all_answers() -> None:
    tokens = reader(context=40)
    group = tokens.encode("Why?", ["One", "x " * 60, "y " * 60])
    room = 40 - len(group.prefix)
    assert [len(answer) for answer in group.answers] == [len(group.answers[0]), room, room]
    assert group.answers[0][-1] == END
    assert END not in group.answers[1]
    assert group.truncated
    assert not tokens.encode("Why?", ["One"]).truncated


def test_at_least_one_token_of_an_answer_is_kept() -> None:
    tokens = reader()
    length = len(tokens.prompt_ids("Why?"))
    tight = reader(context=length + 1).encode("Why?", ["One", "Two is more"])
    assert [len(answer) for answer in tight.answers] == [1, 1]
    for read in (
        reader(context=length).prompt_ids,
        lambda prompt: reader(context=length).encode(prompt, ["One"]),
    ):
        with pytest.raises(Unusable, match="longer than the context"):
            read("Why?")


def test_generation_and_training_see_the_same_prompt() -> None:
    tokens = reader()
    assert tokens.prompt_ids("Why?") == tokens.encode("Why?", ["One", "Two"]).prefix


def test_leading_token_of_plain_text_is_kept_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(template=None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert leading_special_ids(tokenizer) == [1]
    group = GroupTokenizer(tokenizer, context=50, end_ids=[END]).encode("Why", [" One"])
    assert (group.prefix + group.blocks[0]).count(1) == 1
    assert group.prefix[0] == 1
    assert group.answers[0].count(END) == 1


def test_no_prompt_at_all() -> None:
    with pytest.raises(Unusable, match="the prompt has no token"):
        reader(template=False).encode("", ["One"])


def test_template_that_changes_the_prompt_is_refused() -> None:
    """A template that drops earlier turns once there is an answer cannot tell prompt from answer."""
    tokens = reader()
    tokens.tokenizer.chat_template = (
        "{% if messages[-1]['role'] == 'assistant' %}{{ messages[-1]['content'] }}"
        "{% else %}{{ messages[0]['content'] }}{% endif %}"
    )
    with pytest.raises(BadInput, match="changes the prompt"):
        tokens.encode("Why?", ["One"])


def test_template_that_opens_the_answer_differently() -> None:
    """A generation prompt ends in a line break which an answer's own turn has not: it is not prompt."""
    tokens = reader()
    tokens.tokenizer.chat_template += "{% if add_generation_prompt %}\n{% endif %}"
    group = tokens.encode("Why?", ["One"])
    assert text(tokens, group.answers[0]) == "One</s>"


def test_messages_need_a_template() -> None:
    with pytest.raises(BadInput, match="needs a tokenizer with a chat template"):
        reader(template=False).encode([Message(role="user", content="Why?")], ["One"])


@pytest.mark.parametrize("roles", [["user"], ["assistant", "user"], []])
def test_answer_of_other_messages_is_refused(roles: list[str]) -> None:
    answer = [Message(role=role, content="x") for role in roles]
    with pytest.raises(BadInput, match="one message of the assistant"):
        reader().encode("Why?", [answer])


def test_how_joined_names_the_way() -> None:
    assert "no chat template" in how_joined(tiny_tokenizer(template=None), pair=False)
    assert "chat template" in how_joined(tiny_tokenizer(), pair=False)
    assert "text pair" in how_joined(tiny_tokenizer(), pair=True)


def test_padding_token_never_ends_a_text() -> None:
    tokenizer = tiny_tokenizer()
    assert padding_token(tokenizer) == "<pad>"
    tokenizer.pad_token = "</s>"
    assert padding_token(tokenizer) == "<unk>"


def test_common_length() -> None:
    assert [common_length("abc", "abd"), common_length("ab", "abc"), common_length("", "x")] == [2, 2, 0]


def test_pairs_for_encoders(encoder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokens = PairTokenizer(tokenizer, context=16)
    group = tokens.encode("why so", ["yes", "a very long answer indeed it is"])
    expected = tokenizer("why so", "yes")
    assert group.blocks[0] == expected["input_ids"]
    assert group.types is not None
    assert group.types[0] == expected["token_type_ids"]
    assert text_of(tokenizer, group.answers[0]) == "yes [SEP]"
    assert len(group.blocks[1]) == 16
    assert group.blocks[1][-1] == tokenizer.sep_token_id
    assert group.truncated
    with pytest.raises(Unusable, match="longer than the context"):
        tokens.encode("a prompt of many letters", ["yes"])


def text_of(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))
