"""What answers that the policy wrote are worth to the rewards of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.errors import BadInput
from training.tuning.processes import leads
from training.tuning.rewards.compose import Rewards, Scored, open_rewards
from training.tuning.rewards.credited import Credited, Sampled
from training.tuning.rewards.implicit import ImplicitReward
from training.tuning.rewards.sources import LearnedReward
from training.tuning.run import Run
from training.tuning.rundir import whole_rows, write_text
from training.tuning.text.models import Frozen, TextModel
from training.tuning.text.online import Online
from training.tuning.text.rollouts import Prompt, Rollout, Step, roll_out
from training.tuning.text.tokens import answer_offsets

REFERENCE_ANSWERS = 10  # of the start, for every prompt, where a reward is centred on them


@dataclass(frozen=True)
class Judged:
    """Rewards of N answers with C tokens in all. ``total`` is what to maximise; it is the sum of ``whole``,
    which belongs to an answer as a whole, and of the answer's ``tokens``.
    """

    total: Float[Tensor, " N"]
    whole: Float[Tensor, " N"]
    tokens: Float[Tensor, " C"]
    scored: Scored


class Judge:
    """The rewards of a run, with what they need besides the answers themselves."""

    def __init__(
        self, run: Run, policy: TextModel, frozen: Frozen, prompts: Sequence[Prompt], *, context: int
    ) -> None:
        config = run.config
        self.rewards: Rewards = open_rewards(
            run.reward, modality="text", device=run.device, precision=config.precision, max_length=None
        )
        self.tokenizer, self.device = policy.tokenizer, policy.device
        self._check_vocabularies()
        if any(prompt.pictures for prompt in prompts):
            self._check_pictures()
        self.missing_end_penalty = config.missing_end_penalty
        self.references: dict[str, list[str]] | None = None
        if self.rewards.needs_references:
            with frozen():
                self.references = _reference_answers(run, policy, prompts, context=context)

    def _check_vocabularies(self) -> None:
        """Sampled tokens that are read by other models must mean the same to them."""
        own = self.tokenizer.get_vocab()
        for source in self.rewards.sources:
            for model in source.models if isinstance(source, Credited) else ():
                if model.tokenizer.get_vocab() != own:
                    raise BadInput(
                        "a model that gives tokens their rewards needs the policy's own tokenizer",
                        file=model.base,
                    )

    def _check_pictures(self) -> None:
        """BadInput for a model that would score answers to pictures without seeing them."""
        for source in self.rewards.sources:
            if isinstance(source, Credited):
                raise BadInput(
                    "rewards of single tokens read no pictures; leave such prompts out", field="reward"
                )
            if not isinstance(source, LearnedReward | ImplicitReward):
                continue  # rules read the words, or nothing but the answer
            tokenizer = source.tokenizer
            if getattr(tokenizer, "reader", None) is None:
                raise BadInput(
                    "prompts hold pictures, which this reward does not read; name a reward model that does",
                    file=tokenizer.tokenizer.name_or_path,
                    field="reward",
                )

    def score(self, rollouts: Sequence[Rollout]) -> Judged:
        """Every answer in the order of the rollouts. An answer that cannot be read is worth the worst of its
        batch; one that did not end costs ``missing_end_penalty``.
        """
        flat = [
            (one, text, answer)
            for one in rollouts
            for text, answer in zip(one.texts, one.answers, strict=True)
        ]
        with_offsets = any(isinstance(source, Credited) for source in self.rewards.sources)
        answers = [
            Sampled(
                prompt=one.prompt.text,
                prompt_ids=one.prompt.ids,
                text=text,
                ids=answer.ids,
                offsets=answer_offsets(self.tokenizer, answer.ids, text) if with_offsets else [],
            )
            for one, text, answer in flat
        ]
        references = self.references
        found = self.rewards.credit(
            answers,
            references=[references[str(one.prompt)] for one in answers] if references else None,
        )
        scored, sums = found.scored, found.scored.total - found.whole
        kept = scored.total[~scored.total.isnan()]
        ended = torch.tensor([answer.ended for _, _, answer in flat], device=scored.total.device)
        total = scored.total.nan_to_num(nan=float(kept.min()) if len(kept) else 0.0)
        total = total - self.missing_end_penalty * ~ended
        whole = total - sums.nan_to_num()
        return Judged(total.to(self.device), whole.to(self.device), found.tokens.to(self.device), scored)

    def metrics(self, judged: Judged) -> dict[str, float]:
        """Means for the log: of the rewards, and of every entry's scores."""
        scored = replace(judged.scored, total=judged.total.to(judged.scored.total))
        return scored.metrics(self.rewards.labels)

    def measure(self, rollouts: Sequence[Rollout], laid: Step) -> dict[str, float]:
        """What an evaluation logs: rewards, KL and length."""
        return self.metrics(self.score(rollouts)) | laid.facts()


def open_judge(online: Online) -> Judge:
    """The rewards of a run whose policy is loaded."""
    prompts = online.prompts + online.held_out
    return Judge(online.run, online.policy, online.frozen, prompts, context=online.context)


def _reference_answers(
    run: Run, policy: TextModel, prompts: Sequence[Prompt], *, context: int
) -> dict[str, list[str]]:
    """Answers of the start to every prompt, by its text; kept in ``references.jsonl`` for a run that
    resumes.
    """
    path = run.dir.path / "references.jsonl"
    found = {row["prompt"]: row["texts"] for row in whole_rows(path)} if path.exists() else {}
    missing = [prompt for prompt in prompts if str(prompt.text) not in found]
    if missing:
        written = roll_out(
            policy, prompts, run.config, key=f"{run.seed}/reference", count=REFERENCE_ANSWERS, context=context
        )
        found = {str(one.prompt.text): [text or " " for text in one.texts] for one in written}
        rows = [{"prompt": prompt, "texts": texts} for prompt, texts in found.items()]
        if leads():
            write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return found
