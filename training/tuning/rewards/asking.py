"""What else a reward model of pictures can be asked: keys of an entry of a ``reward`` list. Torch-free."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import Config

COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
Word = Annotated[str, Field(pattern=r"^\w[\w' -]*$")]


class Contrast(Config):
    """TextNorm (arXiv:2404.01863): what a picture is worth to its prompt, compared to prompts that say
    something else.

    ``prompts`` names such prompts, by prompt, as a person or a language model wrote them; for the others one
    word after the other is replaced by the rest of its list in ``words``.
    """

    temperature: float = Field(1.0, gt=0)
    prompts: dict[str, list[str]] = Field(default_factory=dict)
    words: list[list[Word]] = Field(default_factory=lambda: [COLOURS, NUMBERS])

    def contrasts(self, prompt: str) -> list[str]:
        """The prompts that a prompt is compared to: none twice, nor itself. ValueError if there are none."""
        found = list(self.prompts.get(prompt, [])) or self._by_rule(prompt)
        distinct = [one for one in dict.fromkeys(found) if one != prompt]
        if not distinct:
            raise ValueError(
                f'nothing to compare "{prompt}" to: it has none of the words of the contrast; name prompts '
                "for it under prompts, or more words"
            )
        return distinct

    def _by_rule(self, prompt: str) -> list[str]:
        found = []
        for words in self.words:
            for word in words:
                for match in re.finditer(rf"\b{re.escape(word)}\b", prompt, re.IGNORECASE):
                    before, after = prompt[: match.start()], prompt[match.end() :]
                    found += [f"{before}{other}{after}" for other in words if other != word]
        return found

    @model_validator(mode="after")
    def _words_differ(self) -> Self:
        if any(len(set(words)) < max(2, len(words)) for words in self.words):
            raise ValueError("each list of words needs two or more that differ")
        return self


class Ask(Config):
    """A vision-language model is shown the picture and asked; the score is how likely it gives the ``wanted``
    answer, of yes and no.

    Asked whether something is wrong with the picture, with no wanted, it is the artifact reward (1 − P(yes)).
    ``{prompt}`` in the question stands for the picture's prompt.
    """

    question: str = Field(
        "Look for unintended flaws in this picture: impossible light, broken shapes, parts that do not "
        "belong together, noise. A deliberate style is no flaw. Does it have any? Answer yes or no.",
        min_length=1,
    )
    wanted: Literal["yes", "no"] = "no"
