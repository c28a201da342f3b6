"""How answers are written: plainly, the best of several, or guided by rewards."""

import math
from collections.abc import Callable
from typing import Any

from training.tuning.errors import BadInput
from training.tuning.rewards.compose import Rewards, open_rewards
from training.tuning.rewards.selection import best_of
from training.tuning.run import Run
from training.tuning.text.generation import Guided, generate
from training.tuning.text.guided import Guide, Segments, check_same_tokens, write_by_segments
from training.tuning.text.loading import load_for_use
from training.tuning.text.models import TextModel

# Rows, a key for each answer's random numbers, and most tokens, to texts.
Writer = Callable[[list[int], list[str], int], list[str]]


def open_writer(run: Run, model: TextModel, prompts: dict[int, list[int]]) -> Writer:
    """What answers rows, one for each key, within so many tokens: plainly, or as rewards would have it."""
    config = run.config
    sampling = {"temperature": config.temperature, "top_p": config.top_p}
    rewarded = config.best_of > 1 or config.guidance != "none"
    if rewarded != bool(run.reward):
        wrong = "best_of and guidance need a list of rewards" if rewarded else "rewards have no use here"
        raise BadInput(
            f"{wrong}; set best_of or guidance, or leave them out", file=run.dir.run_file, field="reward"
        )
    if config.guidance == "models":
        sampling["guided"] = _open_guides(run, model)
    if not run.reward or config.guidance == "models":
        return lambda rows, keys, room: write_answers(
            model, [prompts[row] for row in rows], keys=keys, max_new_tokens=room, **sampling
        )
    rewards = open_rewards(run.reward, modality="text", device=run.device, precision=config.precision)
    if config.guidance == "segments":
        return _by_segments(run, model, prompts, rewards)
    return _best_of(run, model, prompts, rewards, sampling)


def _best_of(
    run: Run, model: TextModel, prompts: dict[int, list[int]], rewards: Rewards, sampling: dict[str, Any]
) -> Writer:
    def write(rows: list[int], keys: list[str], room: int) -> list[str]:
        ids = [prompts[row] for row in rows]
        samples = []
        for number in range(run.config.best_of):
            own = [f"{key}/{number}" for key in keys]
            samples.append(write_answers(model, ids, keys=own, max_new_tokens=room, **sampling))
        chosen = []
        for row, texts in zip(rows, zip(*samples, strict=True), strict=True):
            prompt = run.train[row].prompt
            scores = rewards.score([prompt] * len(texts), texts, unusable=-math.inf)
            chosen.append(texts[best_of(scores.tolist())])
        return chosen

    return write


def _by_segments(run: Run, model: TextModel, prompts: dict[int, list[int]], rewards: Rewards) -> Writer:
    config = run.config
    settings = Segments(
        goal=config.segment_goal,
        horizon=config.segment_horizon,
        entropy=config.segment_entropy,
        alpha=config.segment_alpha,
        beta=config.segment_beta,
    )

    def write(rows: list[int], keys: list[str], room: int) -> list[str]:
        return [
            write_by_segments(
                model,
                prompts[row],
                run.train[row].prompt,
                rewards,
                settings,
                key=key,
                max_new_tokens=room,
                temperature=config.temperature,
            )
            for row, key in zip(rows, keys, strict=True)
        ]

    return write


def _open_guides(run: Run, model: TextModel) -> Guided:
    """The models of the reward list as guides."""
    guides = []
    for number, entry in enumerate(run.reward):
        if entry.model is None or entry.transform or entry.gate is not None:
            raise BadInput(
                "a guide is a language model with a weight, and nothing else",
                file=run.dir.run_file,
                field=f"reward.{number}",
            )
        guide = load_for_use(entry.model, kind="causal", precision=run.config.precision, device=run.device)
        check_same_tokens(model, guide)
        guides.append(guide)
    weights = [entry.weight for entry in run.reward]
    return lambda mask: Guide(guides, weights, mask)


def write_answers(
    model: TextModel, prompts: list[list[int]], *, keys: list[str], temperature: float, **options: Any
) -> list[str]:
    """Answers to prompts; an empty one, which nobody could compare, is sampled again (four times at most)."""
    texts = generate(model, prompts, keys=keys, temperature=temperature, **options)
    for attempt in range(1, 5):
        empty = [index for index, text in enumerate(texts) if not text.strip()]
        if not empty or temperature == 0:
            break
        again = generate(
            model,
            [prompts[index] for index in empty],
            keys=[f"{keys[index]}/again{attempt}" for index in empty],
            temperature=temperature,
            **options,
        )
        for index, text in zip(empty, again, strict=True):
            texts[index] = text
    return texts
