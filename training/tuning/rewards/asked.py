"""Vision-language models that are asked about a picture, as a source of rewards."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.data import Text, plain_text
from training.tuning.errors import BadInput
from training.tuning.rewards.asking import Ask
from training.tuning.rewards.sources import Measured, Precision
from training.tuning.text.loading import is_adapter, load_model, load_processor


def yes_share(yes: Float[Tensor, " N"], no: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """P(yes) of yes and no, from their log-probabilities: e^yes / (e^yes + e^no), 0 where yes cannot be.

    The artifact reward of Understanding Reward Hacking in Text-to-Image Reinforcement Learning is 1 − this.
    """
    return torch.sigmoid(yes - no)


class AskedReward:
    """One question to a vision-language model (transformers, with processor and chat template)."""

    differentiable = False

    def __init__(self, folder: str, ask: Ask, *, device: torch.device, precision: Precision = "fp32") -> None:
        if is_adapter(folder):
            raise BadInput("an adapter cannot be asked; merge it into its model first", file=folder)
        self.processor = load_processor(folder)
        if self.processor is None:
            raise BadInput("not a vision-language model: it cannot see what it is asked about", file=folder)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model: Any = load_model(folder, kind="causal", dtype=dtype).to(device).eval()
        self.ask = ask
        self.device = device
        self.words = {word: self._tokens_of(word, folder) for word in ("yes", "no")}

    @torch.no_grad()
    def measure(self, prompts: Sequence[Text], candidates: Sequence[Any]) -> Measured:
        """The probability of the wanted answer for every picture (N, 1)."""
        shares = [self._asked(plain_text(one), image) for one, image in zip(prompts, candidates, strict=True)]
        return Measured(torch.stack(shares)[:, None])

    def measure_prompt(self, prompt: Text) -> Measured:
        """Always BadInput: there is nothing to see."""
        raise BadInput("a prompt without a picture has no score", field="reward")

    def reduce(self, outputs: Tensor, prompts: Sequence[Text]) -> Tensor:
        """The one output."""
        return outputs[:, 0]

    def _asked(self, prompt: str, image: Any) -> Float[Tensor, ""]:
        question = self.ask.question.replace("{prompt}", prompt)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self.processor(text=[text], images=[image.convert("RGB")], return_tensors="pt").to(
            self.device
        )
        numbers = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        logits = self.model(**numbers).logits[0, -1].float()
        yes, no = (logits[self.words[word]].logsumexp(dim=0) for word in ("yes", "no"))
        return yes_share(yes, no) if self.ask.wanted == "yes" else yes_share(no, yes)

    def _tokens_of(self, word: str, folder: str) -> list[int]:
        """All tokens that are this word, however it is written."""
        tokenizer = self.processor.tokenizer
        texts = ((token, tokenizer.decode([token])) for token in range(len(tokenizer)))
        found = [token for token, text in texts if text.strip().lower() == word]
        if not found:
            raise BadInput(f'the vocabulary has no token for "{word}"', file=folder)
        return found
