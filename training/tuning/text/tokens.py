"""From a prompt and its answers to tokens.

Prompt and answer are always tokenised together, as one string; which tokens belong to the answer is decided
by character offsets, for each candidate on its own. A token that holds the last characters of the prompt and
the first of the answer belongs to the answer, and the prefix that candidates share ends before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError

from training.tuning.data import Message, Text, pictures_of, plain_text, tools_of, turns_of
from training.tuning.errors import BadInput
from training.tuning.text.pictures import Picture, PictureReader, expanded

TOO_LONG = "the prompt is longer than the context"
END_INSIDE = "an answer contains the end token"
NO_PREFIX = "the prompt has no token"
NO_PICTURES = "the prompt holds pictures, which this model does not read"
Tools = list[dict[str, Any]] | None


class Unusable(Exception):
    """A row that cannot be used, with the reason under which it is counted."""


@dataclass(frozen=True)
class EncodedGroup:
    """Tokens of one group.

    ``prefix`` is shared by all candidates; ``blocks[i]`` follows it for candidate i, and its tokens from
    ``starts[i]`` on are the answer. In the layout ``separate`` the prefix is empty and a block holds prompt
    and answer; ``types`` are then the encoder's token types, if it has any. ``offsets``, if they were asked
    for, are the characters of each candidate's text that each answer token holds (none: the end token).
    ``pictures`` are those of the prompt, whose tokens stand in the prefix.
    """

    prefix: list[int]
    blocks: list[list[int]]
    starts: list[int]
    types: list[list[int]] | None = None
    truncated: bool = False
    offsets: list[list[tuple[int, int]]] | None = None
    pictures: list[Picture] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Tokens that the model sees."""
        return len(self.prefix) + sum(len(block) for block in self.blocks)

    @property
    def lengths(self) -> list[int]:
        """Tokens of prompt and answer, for each candidate."""
        return [len(self.prefix) + len(block) for block in self.blocks]

    @property
    def answer_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(len(block) - start for block, start in zip(self.blocks, self.starts, strict=True))

    @property
    def answers(self) -> list[list[int]]:
        """The answers' tokens."""
        return [block[start:] for block, start in zip(self.blocks, self.starts, strict=True)]


class GroupTokenizer:
    """Tokenises groups for a causal model; ``context`` is the most tokens of prompt and answer together.

    ``end_ids`` are the tokens that end an answer, the tokenizer's own first. Every answer ends with exactly
    one of them unless it was cut, or unless ``with_end`` is false. ``share`` false leaves the prompt in every
    block. With a ``reader`` prompts may hold pictures.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        context: int,
        end_ids: list[int],
        with_end: bool = True,
        share: bool = True,
        reader: PictureReader | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.end_ids = end_ids
        self.with_end = with_end
        self.share = share
        self.with_offsets = False
        self.reader = reader
        self._end_texts = [tokenizer.decode([token]) for token in end_ids]
        self._leading = leading_special_ids(tokenizer)

    def prompt_ids(self, prompt: Text) -> list[int]:
        """The prompt alone, ready for an answer to be generated. Raises Unusable if it leaves no room."""
        text = self._prompt_text(prompt)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = self._with_leading(self._with_pictures(prompt, ids))
        if len(ids) >= self.context:
            raise Unusable(TOO_LONG)
        if not ids:
            raise Unusable(NO_PREFIX)
        return ids

    def encode(self, prompt: Text, answers: list[Text]) -> EncodedGroup:
        """All candidates of one prompt. Raises Unusable with the reason, or BadInput."""
        found = [self._encode_one(prompt, answer) for answer in answers]
        encoded = [(ids, start) for ids, start, _ in found]
        room = self.context - max(start for _, start in encoded)
        if room < 1:
            raise Unusable(TOO_LONG)
        # One limit for all answers of a prompt, so that they stay comparable.
        cut = [(ids[: start + room], start) for ids, start in encoded]
        shared = min(start for _, start in cut)
        while any(ids[:shared] != cut[0][0][:shared] for ids, _ in cut):
            shared -= 1
        if shared == 0:
            raise Unusable(NO_PREFIX)
        if not self.share:
            shared = 0
        return EncodedGroup(
            prefix=cut[0][0][:shared],
            blocks=[ids[shared:] for ids, _ in cut],
            starts=[start - shared for _, start in cut],
            truncated=any(len(ids) < len(whole) for (ids, _), (whole, _) in zip(cut, encoded, strict=True)),
            offsets=[offsets[:room] for _, _, offsets in found] if self.with_offsets else None,
            pictures=self.pictures(prompt),
        )

    def pictures(self, prompt: Text) -> list[Picture]:
        """The pictures of a prompt. Unusable if this model reads none, or nobody said where they lie."""
        parts = pictures_of(prompt)
        if parts and self.reader is None:
            raise Unusable(NO_PICTURES)
        if any(part.path is None for part in parts):
            raise Unusable("the prompt's pictures were not found")
        return [Picture(part.path, self.reader) for part in parts if part.path and self.reader]

    def _with_pictures(self, prompt: Text, ids: list[int]) -> list[int]:
        """The prompt's tokens with those of its pictures in their places."""
        pictures = self.pictures(prompt)
        return ids if self.reader is None else expanded(ids, pictures, self.reader)

    def _encode_one(self, prompt: Text, answer: Text) -> tuple[list[int], int, list[tuple[int, int]]]:
        """Tokens of prompt and answer, where the answer starts, and (if asked for) its tokens' characters."""
        turn = _answer_turn(answer)
        assert isinstance(turn.content, str)  # only prompts hold pictures
        content = self._without_end(turn.content)
        if not content.strip() and not turn.tool_calls:
            raise Unusable("an answer is empty but for the end token")
        prompt_text = self._prompt_text(prompt)
        full = self._full_text(prompt, turn.model_copy(update={"content": content}), prompt_text)
        # The prompt as it stands before this answer: some templates open the answer's turn differently.
        boundary = common_length(prompt_text, full)
        encoding = self.tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        start = next((at for at, (_, end) in enumerate(offsets) if end > boundary), len(ids))
        ended = self._ended(ids[start:], offsets[start:], full)
        places = (
            self._places(offsets[start:], len(ended), full, boundary, content) if self.with_offsets else []
        )
        before = self._with_leading(self._with_pictures(prompt, ids[:start]))
        if self.reader is not None and self.reader.token_id in ended:
            raise Unusable("an answer contains the token of pictures")
        return before + ended, len(before), places

    def _places(
        self, offsets: list[tuple[int, int]], count: int, full: str, boundary: int, content: str
    ) -> list[tuple[int, int]]:
        """The characters of ``content`` in each of ``count`` answer tokens."""
        at = full.find(content.strip(), boundary)
        if at < 0:
            raise Unusable("the chat template changes the answer, so marks have no place in it")
        origin, size = at - (len(content) - len(content.lstrip())), len(content)
        found = [
            (min(max(start - origin, 0), size), min(max(end - origin, 0), size)) for start, end in offsets
        ]
        return (found + [(size, size)] * count)[:count]

    def _ended(self, ids: list[int], offsets: list[tuple[int, int]], full: str) -> list[int]:
        """The answer's tokens with exactly one end token, last (or none)."""
        ends = [at for at, token in enumerate(ids) if token in self.end_ids]
        if not ends:
            return [*ids, self.end_ids[0]] if self.with_end else ids
        # What a template puts after the end of the turn (a line break) is nothing that the model has to say.
        if len(ends) > 1 or full[offsets[ends[0]][1] :].strip():
            raise Unusable(END_INSIDE)
        return ids[: ends[0] + self.with_end]

    def _without_end(self, text: str) -> str:
        """The answer without end tokens that somebody wrote out at its end."""
        trimmed = text
        while ends := [end for end in self._end_texts if end and trimmed.rstrip().endswith(end)]:
            trimmed = trimmed.rstrip().removesuffix(ends[0])
        return trimmed

    def _prompt_text(self, prompt: Text) -> str:
        if self.tokenizer.chat_template is None:
            return _plain_prompt(prompt)
        turns, tools = turns_of(prompt), tools_of(prompt)
        text = self._rendered(turns, tools=tools, add_generation_prompt=True)
        if tools and text == self._rendered(turns, add_generation_prompt=True):
            raise self._template_ignores("tools: the prompt reads the same without them")
        self._check_calls(turns, tools)
        return text

    def _full_text(self, prompt: Text, answer: Message, prompt_text: str) -> str:
        if self.tokenizer.chat_template is None:
            if answer.tool_calls:
                raise BadInput("an answer that calls tools needs a chat template", field="candidates")
            return prompt_text + answer.words
        turns, tools = turns_of(prompt), tools_of(prompt)
        self._check_calls([answer], tools, before=turns)
        full = self._rendered([*turns, answer], tools=tools)
        bare = self._rendered(turns, tools=tools)
        if common_length(prompt_text, full) < common_length(prompt_text, bare):
            raise BadInput(
                "the chat template changes the prompt when an answer follows; answers cannot be told from "
                "prompts",
                file=self.tokenizer.name_or_path,
                field="chat_template",
            )
        return full

    def _check_calls(self, turns: Sequence[Message], tools: Tools, *, before: Sequence[Message] = ()) -> None:
        """BadInput if the template leaves out what ``turns`` call. They are read after ``before``."""
        if any(turn.tool_calls for turn in turns):
            silent = [turn.model_copy(update={"tool_calls": None}) for turn in turns]
            if self._rendered([*before, *turns], tools=tools) == self._rendered(
                [*before, *silent], tools=tools
            ):
                raise self._template_ignores("calls of tools: messages read the same without them")

    def _template_ignores(self, what: str) -> BadInput:
        return BadInput(
            f"the chat template ignores {what}; start from a model whose template knows tools, or leave "
            "these rows out",
            file=self.tokenizer.name_or_path,
            field="chat_template",
        )

    def _rendered(
        self, turns: Sequence[Message], *, tools: Tools = None, add_generation_prompt: bool = False
    ) -> str:
        """Messages as the chat template writes them. Unusable if it refuses them."""
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    self._messages(turns),
                    tools=tools,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        except TemplateError as error:
            raise Unusable(f"the chat template refuses the messages: {error}") from error

    def _messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Turns as the template takes them: those of vision-language models take parts throughout."""
        turns = [message.model_dump(exclude={"tools"}) for message in messages]
        if self.reader is not None:
            for turn in turns:
                if isinstance(turn["content"], str):
                    turn["content"] = [{"type": "text", "text": turn["content"]}]
        return turns

    def _with_leading(self, ids: list[int]) -> list[int]:
        """A template writes its own special tokens; plain text gets the tokenizer's leading ones."""
        return ids if self.tokenizer.chat_template is not None else self._leading + ids


class PairTokenizer:
    """Tokenises groups for a bidirectional encoder: every candidate as a text pair, prompt and answer."""

    def __init__(self, tokenizer: Any, *, context: int) -> None:
        self.tokenizer = tokenizer
        self.context = context

    def encode(self, prompt: Text, answers: list[Text]) -> EncodedGroup:
        """All candidates of one prompt, in the layout ``separate``. Raises Unusable with the reason."""
        if tools_of(prompt):
            raise Unusable("the row has tools, which need a chat template")
        if pictures_of(prompt):
            raise Unusable(NO_PICTURES)
        question = plain_text(prompt)
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        length = len(self.tokenizer(question, add_special_tokens=False)["input_ids"])
        if length + special >= self.context:
            raise Unusable(TOO_LONG)
        encoded = [
            self.tokenizer(
                question,
                _answer_turn(answer).words,
                truncation="only_second",
                max_length=self.context,
                return_token_type_ids=True,
                return_overflowing_tokens=True,
                return_special_tokens_mask=True,
            )
            for answer in answers
        ]
        blocks = [list(one["input_ids"][0]) for one in encoded]
        return EncodedGroup(
            prefix=[],
            blocks=blocks,
            starts=[_second_starts(one) for one in encoded],
            types=[list(one["token_type_ids"][0]) for one in encoded],
            truncated=any(len(one["input_ids"]) > 1 for one in encoded),
        )


def _second_starts(encoding: Any) -> int:
    """Where the second text of a pair starts."""
    return next(at for at, sequence in enumerate(encoding.sequence_ids(0)) if sequence == 1)


def answer_offsets(tokenizer: Any, ids: list[int], text: str) -> list[tuple[int, int]]:
    """The characters of ``text`` that each token of a sampled answer holds; none: the end token.

    Sampled tokens are not always those that the tokenizer would make of their text: then they are decoded one
    more at a time.
    """
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    known = encoding["input_ids"]
    if known == ids[: len(known)] and len(ids) - len(known) <= 1:
        found = [(start, end) for start, end in encoding["offset_mapping"]]
        return found + [(len(text), len(text))] * (len(ids) - len(known))
    ends = [0]
    for count in range(1, len(ids) + 1):
        whole = tokenizer.decode(ids[:count], skip_special_tokens=True)
        ends.append(max(ends[-1], common_length(whole, text)))
    return list(pairwise(ends))


def common_length(one: str, other: str) -> int:
    """How many characters two texts have in common at their start."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def leading_special_ids(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text: none, or the one for the beginning."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    dressed = tokenizer("a")["input_ids"]
    for at in range(len(dressed)):
        if dressed[at : at + len(bare)] == bare:
            return list(dressed[:at])
    return []


def how_joined(tokenizer: Any, *, pair: bool) -> str:
    """One sentence for the preview, the log and the card."""
    if pair:
        return "Prompt and answer are given to the encoder as a text pair."
    if tokenizer.chat_template is None:
        return "The tokenizer has no chat template: the answer follows the prompt's text directly."
    return "Prompt and answer are rendered with the tokenizer's chat template."


def _plain_prompt(prompt: Text) -> str:
    if isinstance(prompt, str):
        return prompt
    raise BadInput("a prompt of messages needs a tokenizer with a chat template", field="prompt")


def _answer_turn(answer: Text) -> Message:
    if isinstance(answer, str):
        return Message(role="assistant", content=answer)
    if len(answer) == 1 and isinstance(answer[0], Message) and answer[0].role == "assistant":
        return answer[0]
    raise BadInput("an answer in messages must be one message of the assistant", field="candidates")
