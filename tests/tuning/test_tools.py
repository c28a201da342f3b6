"""Tools in chats: from rows to tokens, and what a template must not leave out."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tests.tuning.text_models import save_causal, tiny_tokenizer
from tests.tuning.text_runs import QUICK, make_run, metrics, read_rows, run
from training.tuning.config import GoalDPOConfig
from training.tuning.data import Group, Message, plain_text, tools_of
from training.tuning.errors import BadInput
from training.tuning.methods.goal_dpo import with_goals
from training.tuning.reading import load_groups
from training.tuning.rewards.conditions import conditioned
from training.tuning.text.tokens import GroupTokenizer, PairTokenizer, Unusable
from training.tuning.views import at_turns

# As Qwen2.5's: the schemas in the system turn, calls and what came of them between tags.
TEMPLATE = """
{%- if tools %}<|system|>
{%- if messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}Tools:
{%- for tool in tools %} {{ tool | tojson }}{% endfor %}</s>
{%- elif messages[0].role == 'system' %}<|system|>{{ messages[0].content }}</s>{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|user|><result>{{ message.content }}</result></s>
{%- elif message.role == 'user' %}<|user|>{{ message.content }}</s>
{%- elif message.role == 'assistant' %}<|assistant|>{{ message.content }}
{%- for call in message.tool_calls %}<call>{{ call.function | tojson }}</call>{% endfor %}</s>
{%- elif message.role != 'system' %}{{ raise_exception('no role ' + message.role) }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
CALLS_LEFT_OUT = TEMPLATE.replace("message.tool_calls", "[]")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What it is like outside.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def call(city: str, **more: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": {"city": city}}
    return {"role": "assistant", "tool_calls": [{"function": function}], **more}


CHAT = [
    {"role": "user", "content": "Rome or Oslo?"},
    call("Rome"),
    {"role": "tool", "name": "weather", "content": "sunny"},
]
ROW = {
    "prompt": CHAT,
    "tools": [WEATHER],
    "candidates": [{"text": "Rome."}, {"text": [call("Oslo")]}],
    "judgements": [{"annotator": "ann", "choice": 1}],
}


def tool_tokenizer(template: str = TEMPLATE) -> Any:
    tokenizer = tiny_tokenizer(template=template)
    tokenizer.add_tokens([AddedToken(tag) for tag in ("<call>", "</call>", "<result>", "</result>")])
    return tokenizer


def reader(template: str = TEMPLATE) -> GroupTokenizer:
    return GroupTokenizer(tool_tokenizer(template), context=2000, end_ids=[2])


def load(tmp_path: Path, *rows: Any, modality: Any = "text") -> list[Group]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_groups(path, modality=modality)


def texts(group: Group) -> list[Any]:
    return [one.text for one in group.candidates]


def test_prompt_and_answers_are_the_templates(tmp_path: Path) -> None:
    """The tokens are those of the whole chat; the answer starts where the assistant's turn does."""
    tokens = reader()
    (group,) = load(tmp_path, ROW)
    encoded = tokens.encode(group.prompt, texts(group))
    decoded = [tokens.tokenizer.decode(answer) for answer in encoded.answers]
    assert decoded == [
        "Rome.</s>",
        '<call>{"name": "weather", "arguments": {"city": "Oslo"}}</call></s>',
    ]
    template = tokens.tokenizer.apply_chat_template
    chat = [CHAT[0], CHAT[1] | {"content": ""}, CHAT[2]]
    prompt = template(chat, tools=[WEATHER], add_generation_prompt=True, return_dict=False)
    assert tokens.prompt_ids(group.prompt) == prompt
    assert encoded.prefix + encoded.blocks[0][: encoded.starts[0]] == prompt
    for answer, block in zip(
        ({"role": "assistant", "content": "Rome."}, call("Oslo", content="")), encoded.blocks, strict=True
    ):
        whole = template([*chat, answer], tools=[WEATHER], return_dict=False)
        assert encoded.prefix + block == whole
    assert '"What it is like outside."' in tokens.tokenizer.decode(encoded.prefix)
    assert "<result>sunny</result>" in tokens.tokenizer.decode(encoded.prefix)


def test_words_and_calls_in_one_answer() -> None:
    tokens = reader()
    tokens.with_offsets = True
    prompt = [Message(role="user", content="Oslo?", tools=[WEATHER])]
    answer = [Message.model_validate(call("Oslo", content="Wait.</s>"))]
    encoded = tokens.encode(prompt, [answer])
    assert tokens.tokenizer.decode(encoded.answers[0]).startswith('Wait.<call>{"name": "weather"')
    assert encoded.answers[0].count(2) == 1
    assert encoded.offsets is not None
    (places,) = encoded.offsets
    said = [place for place in places if place[0] < place[1]]
    assert (said[0][0], said[-1][1]) == (0, 5)  # "Wait.": marks reach the words, not the call


def test_arguments_as_a_string_and_the_public_columns(tmp_path: Path) -> None:
    spelled = {
        "id": "1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }
    answer = [{"role": "assistant", "content": None, "tool_calls": [spelled]}]
    row = {"prompt": "Oslo?", "chosen": answer, "rejected": "No.", "tools": [WEATHER]}
    group, alone, none = load(
        tmp_path, row, {"prompt": "Oslo?", "tools": [WEATHER]}, {"prompt": "Oslo?", "tools": None}
    )
    assert tools_of(group.prompt) == tools_of(alone.prompt) == [WEATHER]
    assert group.tools is None
    assert none.prompt == "Oslo?"
    assert plain_text(group.candidates[0].text or "") == '{"name":"weather","arguments":{"city":"Oslo"}}'
    first = group.candidates[0].text
    assert isinstance(first, list)
    assert first[0].model_dump() == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "id": "1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
        ],
    }
    assert Message(role="user", content="Why?").model_dump() == {"role": "user", "content": "Why?"}


BAD = {
    "twice": (ROW | {"prompt": [CHAT[0] | {"tools": [WEATHER]}]}, "tools stand once"),
    "late": (ROW | {"prompt": [*CHAT, CHAT[0] | {"tools": [WEATHER]}]}, "tools stand once"),
    "user": (
        ROW | {"prompt": [call("Rome") | {"role": "user"}]},
        "line 1, prompt.0: the assistant alone calls tools",
    ),
    "not a list": (ROW | {"tools": WEATHER}, "line 1, tools: Input should be a valid list"),
    "no words": (
        ROW | {"prompt": [{"role": "user", "content": None}]},
        "line 1, prompt.0.content: Input should be a valid string",
    ),
    "arguments": (
        ROW
        | {
            "prompt": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": "{city"}}]}
            ]
        },
        r"prompt.0.tool_calls.0.function.arguments: not JSON: Expecting property name",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_tools(case: str, tmp_path: Path) -> None:
    row, words = BAD[case]
    with pytest.raises(BadInput, match=words):
        load(tmp_path, row)


def test_image_models_call_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="image models call no tools"):
        load(tmp_path, {"prompt": "a cat", "candidates": [], "tools": [WEATHER]}, modality="image")


def test_a_template_that_ignores_tools_or_calls_is_refused() -> None:
    """Read without what it may call, a model would learn something else, and nobody would see it."""
    prompt = [Message(role="user", content="Oslo?", tools=[WEATHER])]
    plain = GroupTokenizer(tiny_tokenizer(), context=2000, end_ids=[2])
    for read in (plain.prompt_ids, lambda given: plain.encode(given, ["No."])):
        with pytest.raises(BadInput, match="chat_template: the chat template ignores tools: the prompt"):
            read(prompt)
    halves = reader(CALLS_LEFT_OUT)
    said = Message.model_validate(call("Oslo", content="Wait."))
    assert halves.encode(prompt, ["No."]).answer_tokens > 0
    with pytest.raises(BadInput, match="ignores calls of tools"):
        halves.prompt_ids([*prompt, said, Message(role="tool", content="sunny")])
    with pytest.raises(BadInput, match="ignores calls of tools"):
        halves.encode(prompt, ["No.", [said]])


def test_who_reads_no_tools(tmp_path: Path, encoder: Path) -> None:
    from transformers import AutoTokenizer

    prompt = [Message(role="user", content="Oslo?", tools=[WEATHER])]
    with pytest.raises(Unusable, match="tools, which need a chat template"):
        PairTokenizer(AutoTokenizer.from_pretrained(encoder), context=100).encode(prompt, ["No."])
    bare = GroupTokenizer(tiny_tokenizer(template=None), context=100, end_ids=[2])
    with pytest.raises(BadInput, match="needs a chat template"):
        bare.encode("Oslo?", [[Message.model_validate(call("Oslo"))]])


def test_a_template_that_refuses_a_role_leaves_the_row_out() -> None:
    with pytest.raises(Unusable, match="the chat template refuses the messages: no role judge"):
        reader().prompt_ids([Message(role="judge", content="Guilty.")])


def test_tools_stay_first_when_something_is_put_before() -> None:
    """A goal in a new system turn, or in the one that is there; a condition before the first words."""
    ratings = [{"quality": 5}, {"quality": 1}]
    row = {"prompt": "Oslo?", "candidates": [{"text": "a"}, {"text": "b"}]}
    judged = row | {"judgements": [{"choice": 0, "ratings": ratings}]}
    config = GoalDPOConfig(goal_text="Goal {goal}.")
    for prompt, opening in (
        ([Message(role="user", content="Oslo?", tools=[WEATHER])], "Goal 10."),
        ([Message(role="system", content="Be kind.", tools=[WEATHER])], "Be kind.\nGoal 10."),
    ):
        group, _ = with_goals([Group.model_validate(judged).model_copy(update={"prompt": prompt})], config)
        assert tools_of(group.prompt) == [WEATHER]
        assert isinstance(group.prompt, list)
        assert group.prompt[0].content == opening
        assert [turn.tools for turn in group.prompt[1:]] == [None] * (len(group.prompt) - 1)
        assert tools_of(conditioned(prompt, "safety")) == [WEATHER]


def test_a_judged_turn_after_a_call() -> None:
    """The call and what came of it are before the turn, and the same in both: they are the prompt."""

    def judged(cities: tuple[str, str]) -> Group:
        ends = [{"role": "assistant", "content": f"See {at}."} for at in range(2)]
        chats = [[call(city), CHAT[2], end] for city, end in zip(cities, ends, strict=True)]
        row = {"prompt": CHAT[:1], "candidates": [{"text": chat} for chat in chats]}
        return Group.model_validate(row | {"judgements": [{"turns": [{"turn": 1, "choice": 0}]}]})

    (found,) = at_turns(judged(("Rome", "Rome")))
    assert isinstance(found.prompt, list)
    assert [turn.role for turn in found.prompt] == ["user", "assistant", "tool"]
    assert [plain_text(one.text or "") for one in found.candidates] == ["See 0.", "See 1."]
    assert list(at_turns(judged(("Rome", "Oslo")))) == []  # not the same call before it


def test_a_policy_learns_when_to_call(tmp_path: Path) -> None:
    base = save_causal(
        tmp_path / "base", tokenizer=tool_tokenizer(), sharp=False, max_position_embeddings=1024
    )
    config = QUICK | {
        "max_length": 1000,
        "max_steps": 3,
        "batch_size": 2,
        "lora": None,
        "learning_rate": 1e-3,
    }
    rows = [ROW, {"prompt": "Oslo?", "chosen": [call("Oslo")], "rejected": "No.", "tools": [WEATHER]}]
    folder = make_run(tmp_path / "run", "dpo", base=base, config=config, rows=rows)
    assert run(folder) == 0
    logged = metrics(folder)
    assert logged[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert logged[-1]["loss"] < 0.69
    asked = [{"prompt": "Oslo?", "tools": [WEATHER]}]
    keys = {"max_new_tokens": 4}
    writing = make_run(tmp_path / "write", "generate", base=folder / "result", rows=asked, config=keys)
    assert run(writing) == 0
    (written,) = read_rows(writing / "result" / "generations.jsonl")
    assert written["prompt"][0]["tools"] == [WEATHER]
