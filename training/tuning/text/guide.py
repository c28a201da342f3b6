"""A tuned policy as guide of the next one: its token rewards weigh the tokens of DPO (TGDPO)."""

from collections.abc import Sequence

from torch import Tensor

from training.tuning.errors import BadInput
from training.tuning.losses.token_level import guided_weights
from training.tuning.pairs import Pair
from training.tuning.run import Run
from training.tuning.text.dataset import Example, texts_of
from training.tuning.text.pairs import TokenWeights


def open_guide(run: Run, examples: Sequence[Example]) -> TokenWeights | None:
    """Weights from the one policy in the run's ``reward`` list; None without it.

    Its log-ratios to what it started from are computed once, for every token of the examples' answers.
    """
    if not run.reward:
        return None
    entry = run.reward[0]
    if len(run.reward) > 1 or entry.model is None or entry.transform or entry.gate or entry.weight != 1:
        raise BadInput(
            "dpo takes one tuned policy as its guide: a single model with neither weight, transform nor "
            "gate; "
            "guidance says how strongly it counts",
            file=run.dir.run_file,
            field="reward",
        )
    found = _token_rewards(run, entry.model, examples)
    alpha, beta = run.config.guidance, run.config.beta

    def weigh(example: Example, pair: Pair) -> tuple[Tensor, Tensor]:
        rewards = found[id(example)]
        chosen, _ = guided_weights(rewards[pair.chosen], alpha=alpha, beta=beta)
        _, rejected = guided_weights(rewards[pair.rejected], alpha=alpha, beta=beta)
        return chosen, rejected

    return weigh


def _token_rewards(run: Run, folder: str, examples: Sequence[Example]) -> dict[int, list[Tensor]]:
    """The guide's log-ratios of every token of all answers, by example."""
    from training.tuning.rewards.implicit import ImplicitReward, is_policy

    if not is_policy(folder):
        raise BadInput(
            "the guide of dpo is a tuned policy, not a scorer", file=folder, field="reward.0.model"
        )
    config = run.config
    guide = ImplicitReward(
        folder, device=run.device, precision=config.precision, max_length=config.max_length
    )
    found: dict[int, list[Tensor]] = {}
    for example in examples:
        run.check_stop()
        texts = texts_of(example.group)
        rewards = guide.token_rewards([example.group.prompt] * len(texts), texts)
        lengths = [len(answer) for answer in example.tokens.answers]
        if any(len(reward) < length for reward, length in zip(rewards, lengths, strict=True)):
            raise BadInput("the guide has another tokenizer than the policy", file=folder)
        # What the policy does not read of a long answer, the guide does not judge.
        found[id(example)] = [reward[:length] for reward, length in zip(rewards, lengths, strict=True)]
    return found
