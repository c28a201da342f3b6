"""Rollouts: answers that the policy writes while it is trained, as groups that it is then trained on.

An answer is trained on as it was sampled, token for token; it is never read again from its text. Its
log-probabilities before the first update are computed by the same code and in the same micro-batches as those
with a gradient, so that every ratio starts at exactly one.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.tuning.config import RolloutKeys
from training.tuning.data import Group, Text
from training.tuning.errors import BadInput
from training.tuning.plan import MicroBatch, halved, split
from training.tuning.processes import count as process_count
from training.tuning.processes import shared
from training.tuning.run import Run
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.dataset import PREVIEW_ROWS, summary
from training.tuning.text.generation import Answer, Guided, batches_of, sample_answers, text_of
from training.tuning.text.logprobs import token_kl
from training.tuning.text.models import Frozen, TextModel
from training.tuning.text.pictures import Picture
from training.tuning.text.samples import as_json
from training.tuning.text.setup import open_group_tokenizer, training_budget
from training.tuning.text.tokens import EncodedGroup, GroupTokenizer, Unusable, how_joined


@dataclass(frozen=True)
class Prompt:
    """A prompt with its tokens, and the other keys of its row."""

    ids: list[int]
    group: Group
    pictures: list[Picture] = field(default_factory=list)

    @property
    def text(self) -> Text:
        return self.group.prompt


@dataclass(frozen=True)
class Rollout:
    """k answers to one prompt."""

    prompt: Prompt
    answers: list[Answer]
    texts: list[str]
    tokens: EncodedGroup


@dataclass(frozen=True)
class Micro:
    """A forward pass over some rollouts: its batch, and which answers of the step it holds."""

    batch: GroupBatch
    answers: slice
    tokens: slice


@dataclass(frozen=True)
class Step:
    """The rollouts of one step, laid out for training: N answers with C tokens in all, in one order."""

    rollouts: list[Rollout]
    micros: list[Micro]
    lengths: Float[Tensor, " N"]
    old: Float[Tensor, " C"]
    reference: Float[Tensor, " C"]
    top: tuple[Int[Tensor, "C K"], Float[Tensor, "C K"]] | None = None
    full_kl: Float[Tensor, " C"] | None = None

    @property
    def tokens(self) -> int:
        """What a pass over the step computes, prompts included."""
        return sum(micro.batch.tokens for micro in self.micros)

    def spread(self, values: Float[Tensor, " N"]) -> Float[Tensor, " C"]:
        """A value of each answer, for each of its tokens."""
        return values.repeat_interleave(self.lengths.long())

    def sums(self, values: Float[Tensor, " C"]) -> Float[Tensor, " N"]:
        """Sums over the tokens of each answer."""
        return torch.stack([part.sum() for part in values.split(self.lengths.long().tolist())])

    def facts(self) -> dict[str, float]:
        """What every online method logs of its rollouts."""
        answers = [answer for rollout in self.rollouts for answer in rollout.answers]
        sampled = torch.tensor([value for answer in answers for value in answer.logprobs])
        return {
            "answers/length": float(self.lengths.mean()),
            "answers/ended": sum(answer.ended for answer in answers) / len(answers),
            "answers/logprob_gap": float((sampled - self.old.cpu()).abs().mean()),
            "kl": float(self.sums(self.old - self.reference).mean()),
        }


def open_prompts(groups: Sequence[Group], tokenizer: GroupTokenizer, *, run: Run) -> list[Prompt]:
    """Every different prompt of the rows once. Raises BadInput if none can be answered."""
    found: dict[str, Prompt] = {}
    reasons = set()
    for group in groups:
        try:
            ids, pictures = tokenizer.prompt_ids(group.prompt), tokenizer.pictures(group.prompt)
            found.setdefault(str(group.prompt), Prompt(ids, group, pictures))
        except Unusable as reason:
            reasons.add(str(reason))
    if groups and not found:
        raise BadInput(f"no prompt can be used: {'; '.join(sorted(reasons))}", file=run.dir.train_file)
    return list(found.values())


def roll_out(
    policy: TextModel,
    prompts: Sequence[Prompt],
    config: RolloutKeys,
    *,
    key: str,
    count: int,
    context: int,
    guided: Guided | None = None,
) -> list[Rollout]:
    """``count`` answers to each prompt. ``key`` seeds them; they do not depend on how they are batched.

    ``guided`` as for ``sample_answers``.
    """
    found: dict[int, Rollout] = {}
    share = -(-len(prompts) // process_count())  # of each process, rounded up
    batches = batches_of(
        [prompt.ids for prompt in prompts],
        context=context,
        max_new_tokens=config.max_new_tokens,
        size=max(1, min(config.generation_batch_size // count, share)),
    )

    seeing = any(prompt.pictures for prompt in prompts)

    def write(batch: tuple[list[int], int]) -> list[Answer]:
        indices, room = batch
        return sample_answers(
            policy,
            [prompts[index].ids for index in indices],
            keys=[f"{key}/{index}/{number}" for index in indices for number in range(count)],
            max_new_tokens=room,
            temperature=config.temperature,
            guided=guided,
            pictures=[prompts[index].pictures for index in indices] if seeing else (),
        )

    work = list(batches)
    for (indices, _), answers in zip(work, shared(work, write), strict=True):
        for place, index in enumerate(indices):
            own = answers[place * count : (place + 1) * count]
            found[index] = make_rollout(policy, prompts[index], own)
    return [found[index] for index in range(len(prompts))]


def make_rollout(policy: TextModel, prompt: Prompt, answers: list[Answer]) -> Rollout:
    """Answers to a prompt as a group: the prompt once where the model's layers allow it."""
    shared = policy.layout == "shared"
    start = 0 if shared else len(prompt.ids)
    return Rollout(
        prompt=prompt,
        answers=answers,
        texts=[text_of(answer, policy) for answer in answers],
        tokens=EncodedGroup(
            prefix=prompt.ids if shared else [],
            blocks=[answer.ids if shared else [*prompt.ids, *answer.ids] for answer in answers],
            starts=[start] * len(answers),
            pictures=prompt.pictures,
        ),
    )


@torch.no_grad()
def lay_out(
    policy: TextModel,
    frozen: Frozen,
    rollouts: list[Rollout],
    config: RolloutKeys,
    *,
    with_old: bool = True,
    keep_top: int = 0,
    with_kl: bool = False,
) -> Step:
    """Micro-batches of the rollouts, with the log-probabilities of policy and reference before an update.

    Without ``with_old`` the policy's are zeros, to be filled in by the pass that computes them anyway. With
    ``keep_top``, also those of the policy's likeliest tokens, renormalised, the sampled one first. With
    ``with_kl``, KL(policy ‖ reference) of every token over the whole vocabulary.
    """
    sizes = [rollout.tokens.size for rollout in rollouts]
    budget = training_budget(policy.device)
    parts: list[MicroBatch] = split(range(len(rollouts)), sizes, most=config.micro_batch_size, budget=budget)
    micros, answers, tokens = [], 0, 0
    for part in halved(parts, sizes, multiple=process_count()):
        batch = make_batch([rollouts[index].tokens for index in part], causal=True, device=policy.device)
        here = Micro(
            batch,
            answers=slice(answers, answers + len(batch.counts)),
            tokens=slice(tokens, tokens + sum(batch.counts)),
        )
        answers, tokens = here.answers.stop, here.tokens.stop
        micros.append(here)

    def read(micro: Micro) -> dict[str, Tensor]:
        batch, found = micro.batch, {}
        if with_old or with_kl:
            states = policy.answer_states(batch)
        if with_old:
            found["old"] = policy.token_logprobs(batch, states, temperature=config.temperature)
        if keep_top:
            found["tokens"], found["top"] = _top(
                policy, states, batch.targets, count=keep_top, temperature=config.temperature
            )
        with frozen():
            other = policy.answer_states(batch)
            found["reference"] = policy.token_logprobs(batch, other, temperature=config.temperature)
            start_head = policy.lm_head.weight.detach()
        if with_kl:
            found["kl"] = _full_kl(policy, states, other, start_head, temperature=config.temperature)
        return found

    parts_read = shared(micros, read)
    values = {name: torch.cat([one[name] for one in parts_read]) for name in parts_read[0]}
    return Step(
        rollouts=rollouts,
        micros=micros,
        lengths=torch.tensor(
            [count for micro in micros for count in micro.batch.counts],
            dtype=values["reference"].dtype,
            device=policy.device,
        ),
        old=values["old"] if with_old else torch.zeros_like(values["reference"]),
        reference=values["reference"],
        top=(values["tokens"], values["top"]) if keep_top else None,
        full_kl=values.get("kl"),
    )


def _full_kl(
    policy: TextModel, states: Tensor, reference: Tensor, reference_head: Tensor, *, temperature: float
) -> Tensor:
    """KL(policy ‖ reference) (C,) of the next token's distribution, from the states of both."""
    head = policy.lm_head
    bias = None if head.bias is None else head.bias / temperature
    found: Tensor = token_kl(
        reference / temperature, reference_head, bias, states / temperature, head.weight, dtype=policy.dtype
    )
    return found


def _top(
    policy: TextModel, states: Tensor, sampled: Tensor, *, count: int, temperature: float
) -> tuple[Tensor, Tensor]:
    likeliest = policy.likeliest(states, count=count)
    # The sampled token comes first; where it is among the likeliest, the last of them makes room.
    others = torch.where(likeliest == sampled[:, None], likeliest[:, -1:], likeliest)[:, :-1]
    columns = torch.cat([sampled[:, None], others], dim=1)
    return columns, policy.logprobs_of(states, columns, temperature=temperature).log_softmax(dim=1)


def some_prompts(prompts: Sequence[Prompt], count: int, *, seed: str) -> list[Prompt]:
    """``count`` prompts drawn at random, each once as long as there are enough."""
    rng = random.Random(seed)
    if count >= len(prompts):
        return list(prompts)
    return rng.sample(list(prompts), count)


def preview_prompts(run: Run) -> dict[str, Any]:
    """The prompts of a run as the policy will see them, for ``inspect``."""
    tokenizer = open_group_tokenizer(run.base, max_length=run.config.max_length)
    kept = {id(prompt.group): len(prompt.ids) for prompt in open_prompts(run.train, tokenizer, run=run)}
    rows = []
    why = []
    for group in run.train:
        reason = None
        if id(group) not in kept:
            try:
                tokenizer.prompt_ids(group.prompt)
                reason = "the prompt stands in an earlier row"
            except Unusable as found:
                reason = str(found)
            why.append(reason)
        tokens = {"prompt": kept[id(group)]} if reason is None else None
        rows.append(
            {
                "line": group.line,
                "prompt": as_json(group.prompt),
                "candidates": [],
                "tokens": tokens,
                "kept": reason is None,
                "why": reason,
            }
        )
    return summary(
        rows=rows[:PREVIEW_ROWS],
        lengths=list(kept.values()),
        groups=len(kept),
        pairs=0,
        dropped=why,
        total_tokens=sum(kept.values()),
        joined=how_joined(tokenizer.tokenizer, pair=False),
    )
