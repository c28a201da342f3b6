"""The implicit reward: how much likelier a tuned policy finds an answer than its reference.

r(x, y) = Σ_t log π(y_t | x, y_<t) − log π_ref(y_t | x, y_<t): DPO's reward (arXiv:2305.18290) without its β,
which is the entry's ``weight``. Each token's term is a reward of that token.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.tuning.data import Text
from training.tuning.errors import BadInput
from training.tuning.plan import split
from training.tuning.rewards.sources import Measured, Precision
from training.tuning.text.batches import make_batch
from training.tuning.text.loading import is_adapter, load_for_use, model_folder
from training.tuning.text.setup import TOKEN_BUDGET, open_group_tokenizer
from training.tuning.text.tokens import EncodedGroup, Unusable


def reference_of(folder: str) -> str:
    """What a tuned policy started from: as its metadata say, or what its adapter lies on."""
    path = Path(folder) / "metadata.json"
    if path.is_file():
        return str(json.loads(path.read_text(encoding="utf-8"))["base"])
    if is_adapter(folder):
        return model_folder(folder)
    raise BadInput(
        "a policy as a reward needs its reference, which metadata.json or an adapter names", file=folder
    )


class ImplicitReward:
    """A tuned policy and its reference."""

    def __init__(
        self,
        folder: str,
        *,
        device: torch.device,
        precision: Precision = "fp32",
        max_length: int | None = 1024,
    ) -> None:
        self.policy = load_for_use(folder, kind="causal", precision=precision, device=device)
        self.reference = load_for_use(reference_of(folder), kind="causal", precision=precision, device=device)
        self.tokenizer = open_group_tokenizer(folder, max_length=max_length)

    def measure(self, prompts: Sequence[Text], candidates: Sequence[Any]) -> Measured:
        """The sequence log-ratio as the one output."""
        why: dict[int, str] = {}
        tokens = self.token_rewards(prompts, candidates, why=why)
        sums = [one.sum() if at not in why else one.new_tensor(torch.nan) for at, one in enumerate(tokens)]
        return Measured(torch.stack(sums)[:, None], why)

    def measure_prompt(self, prompt: Text) -> Measured:
        """Nothing was answered yet: 0."""
        return Measured(torch.zeros(1, 1, device=self.policy.device))

    def reduce(self, outputs: Tensor, prompts: Sequence[Text]) -> Tensor:
        """The one output."""
        return outputs[:, 0]

    @torch.no_grad()
    def token_rewards(
        self, prompts: Sequence[Text], candidates: Sequence[Any], *, why: dict[int, str] | None = None
    ) -> list[Tensor]:
        """The log-ratio of every answer token (the end token last), a tensor per candidate.

        A candidate that cannot be read is BadInput, or, if ``why`` is given, has no tokens and its reason
        there.
        """
        found: dict[int, Tensor] = {}
        groups: list[tuple[list[int], EncodedGroup]] = []
        for _, run in groupby(range(len(prompts)), key=lambda at: prompts[at]):
            for at in run:
                try:
                    groups.append(([at], self.tokenizer.encode(prompts[at], [candidates[at]])))
                except Unusable as reason:
                    if why is None:
                        raise BadInput(str(reason), field=f"candidates.{at}") from None
                    why[at] = str(reason)
        for micro in split(
            range(len(groups)), [one.size for _, one in groups], most=None, budget=TOKEN_BUDGET
        ):
            batch = make_batch([groups[index][1] for index in micro], causal=True, device=self.policy.device)
            ratio = self.policy.token_logprobs(batch) - self.reference.token_logprobs(batch)
            rows = [at for index in micro for at in groups[index][0]]
            found |= dict(zip(rows, ratio.split(batch.counts), strict=True))
        return [found.get(at, torch.zeros(0)) for at in range(len(prompts))]


def is_policy(folder: str) -> bool:
    """Whether a folder holds a language model (or its adapter) and no scorer."""
    adapter = Path(folder) / "adapter_config.json"
    if adapter.is_file():
        return json.loads(adapter.read_text(encoding="utf-8")).get("task_type") == "CAUSAL_LM"
    config = Path(folder) / "config.json"
    if not config.is_file():
        return False
    architectures = json.loads(config.read_text(encoding="utf-8")).get("architectures") or []
    return any(name.endswith(("CausalLM", "LMHeadModel")) for name in architectures)
