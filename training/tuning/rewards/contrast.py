"""Rewards that count how much better a picture fits its prompt than prompts that say something else."""

import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.data import Text, plain_text
from training.tuning.errors import BadInput
from training.tuning.rewards.asking import Contrast
from training.tuning.rewards.sources import Measured, PixelSource, Source


def text_norm(own: Float[Tensor, " T"], others: Float[Tensor, "C T"], *, temperature: float) -> Tensor:
    """exp(r(x, y) / τ) / Σ over y and its C contrasts of the same, (T,): TextNorm, arXiv:2404.01863.

    Each of T outputs by itself, so that an ensemble's members are calibrated before they become one score.
    What all prompts give a picture alike, such as its beauty, cancels.
    """
    scores = torch.cat([own[None], others]).float() / temperature
    return scores.log_softmax(dim=0)[0].exp()


class ContrastReward:
    """Another source, calibrated: each of its outputs is between 0 and 1."""

    def __init__(self, source: Source, contrast: Contrast) -> None:
        self.source = source
        self.contrast = contrast

    @property
    def differentiable(self) -> bool:
        """As the source itself; the gradient passes through the scores of all prompts."""
        return isinstance(self.source, PixelSource) and self.source.differentiable

    def measure(self, prompts: Sequence[Text], candidates: Sequence[object]) -> Measured:
        """The calibrated outputs."""
        return self._calibrated(
            prompts, lambda texts, at: self.source.measure(texts, [candidates[i] for i in at])
        )

    def measure_pixels(self, prompts: Sequence[Text], pixels: Float[Tensor, "N 3 H W"]) -> Measured:
        """The same of pictures in -1..1, with a gradient."""
        source = self.source
        assert isinstance(source, PixelSource)
        return self._calibrated(prompts, lambda texts, at: source.measure_pixels(texts, pixels[list(at)]))

    def measure_prompt(self, prompt: Text) -> Measured:
        """As the source itself."""
        return self.source.measure_prompt(prompt)

    def reduce(self, outputs: Tensor, prompts: Sequence[Text]) -> Tensor:
        """As the source itself."""
        return self.source.reduce(outputs, prompts)

    def _calibrated(
        self, prompts: Sequence[Text], measure: Callable[[list[Text], Sequence[int]], Measured]
    ) -> Measured:
        asked: list[tuple[Text, int]] = []  # prompts with the number of their candidate
        starts = [0]
        for number, prompt in enumerate(prompts):
            try:
                others = self.contrast.contrasts(plain_text(prompt))
            except ValueError as error:
                raise BadInput(str(error), field="reward") from None
            asked += [(text, number) for text in (prompt, *others)]
            starts.append(len(asked))
        # One prompt's candidates stand together, so that sources read it once.
        order = sorted(range(len(asked)), key=lambda at: plain_text(asked[at][0]))
        measured = measure([asked[at][0] for at in order], [asked[at][1] for at in order])
        back = torch.tensor(order).argsort()
        outputs = measured.outputs[back.to(measured.outputs.device)]
        rows = [
            text_norm(outputs[a], outputs[a + 1 : b], temperature=self.contrast.temperature)
            for a, b in itertools.pairwise(starts)
        ]
        why = {asked[order[at]][1]: reason for at, reason in measured.why.items()}
        return Measured(torch.stack(rows), why)
