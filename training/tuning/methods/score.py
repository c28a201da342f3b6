"""Scores of candidates by a reward model (``base``), or by a list of rewards (``reward``).

Rows of data/train.jsonl are groups; the result is ``scores.jsonl``, a row ``{"scores": [...]}`` for each in
the input's order, with as many scores as candidates. A group that cannot be scored has nulls, and ``"why"``.
A reward model of several outputs adds ``"outputs"``, an ensemble ``"disagreement"``, and a list ``"parts"``,
what each of its entries added. ``selected.jsonl`` holds what ``select`` chose, as rows to train on. A
transform that compares with reference answers finds them in the rows' ``reference``. ``passes`` with dropout
make an ensemble of a reward model with one output; ``features`` and ``surface``
add those of every candidate.
"""

import json
import random
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from training.tuning.config import PairKeys, ScoreConfig
from training.tuning.data import Group, Text, plain_text
from training.tuning.errors import BadInput
from training.tuning.pairs import Pair, make_pairs
from training.tuning.rewards.compose import Rewards, Scored, open_rewards
from training.tuning.rewards.conditions import with_context
from training.tuning.rewards.info import read_info
from training.tuning.rewards.selection import (
    best_and_worst,
    best_of,
    best_share,
    rejection_sample,
    sure_pairs,
)
from training.tuning.rewards.sources import LearnedReward, Measured, join
from training.tuning.rewards.spec import RewardEntry
from training.tuning.rewards.surface import surface
from training.tuning.rewards.transforms import disagreement
from training.tuning.run import Run
from training.tuning.rundir import finite, write_text
from training.tuning.text.dataset import Prepared, prepare, preview, texts_of
from training.tuning.text.samples import as_json
from training.tuning.text.setup import open_tokenizer
from training.tuning.text.tokens import PairTokenizer, Unusable, how_joined


def train(run: Run) -> None:
    """Score every candidate."""
    for key in ("passes", "features") if run.reward else ():
        if getattr(run.config, key):
            raise BadInput("needs a reward model as base", file=run.dir.run_file, field=f"config.{key}")
    rewards = open_scorers(run, passes=run.config.passes, dropout=run.config.dropout, seed=run.seed)
    groups = [with_context(group, context_of(run)) for group in run.train]
    if not any(group.candidates for group in groups):
        raise BadInput("no row has a candidate", file=run.dir.train_file)
    run.dir.cut_back(-1)
    scored, outputs = score_groups(run, rewards, groups)
    rows = score_rows(run, groups, scored, outputs, rewards)
    if run.config.features or run.config.surface:
        add_features(run, rewards, groups, rows)

    def write(folder: Path) -> None:
        write_lines(folder / "scores.jsonl", rows)
        if run.config.select == "sure_pairs":
            write_lines(folder / "selected.jsonl", sure_rows(run, rows))
        elif run.config.select != "none":
            scores = [row["scores"] for row in rows]
            write_lines(folder / "selected.jsonl", selected_rows(run.train, scores, run.config, run.seed))

    run.publish(write)


def open_scorers(run: Run, **passes: Any) -> Rewards:
    """The reward model that ``base`` names, read in so many ``passes``, or the sources of the reward list."""
    if bool(run.base) == bool(run.reward):
        raise BadInput(
            "name a reward model as base, or give a reward list", file=run.dir.run_file, field="base"
        )
    options = {"precision": run.config.precision, "max_length": run.config.max_length}
    if run.reward:
        return open_rewards(run.reward, modality="text", device=run.device, **options)
    options |= passes
    if run.base and knows_people(run.base):
        person = LearnedReward(run.base, device=run.device, annotator=run.config.context, **options)
        return Rewards([RewardEntry(model=run.base)], [person])
    model = LearnedReward(run.base, device=run.device, **options)
    if (model.info.condition != "none") != (run.config.context is not None):
        needs = "needs" if run.config.context is None else "was trained without conditions and takes no"
        raise BadInput(f"the reward model {needs} context", file=run.dir.run_file, field="config.context")
    return Rewards([RewardEntry(model=run.base)], [model])


def knows_people(base: str) -> bool:
    """Whether a reward model knows annotators by their names."""
    info = read_info(base)
    return info is not None and info.taste is not None and info.taste.kind != "mixture"


def context_of(run: Run) -> str | None:
    """What is put before the prompts: not the name of somebody whom the reward model knows."""
    return None if run.base and knows_people(run.base) else run.config.context


def score_groups(run: Run, rewards: Rewards, groups: Sequence[Group]) -> tuple[Scored, list[Measured]]:
    """All candidates, flat: measured batch by batch, then transformed and added up as a whole."""
    measured: list[list[Measured]] = [[] for _ in rewards.sources]
    start, size = time.perf_counter(), run.config.batch_size
    for at in range(0, len(groups), size):
        prompts, candidates = flatten(groups[at : at + size])
        if candidates:
            for number, source in enumerate(rewards.uncredited()):
                measured[number].append(source.measure(prompts, candidates))
        done = min(at + size, len(groups))
        run.progress(done, len(groups), {"groups_per_second": done / (time.perf_counter() - start)})
    prompts, _ = flatten(groups)
    outputs = [join(parts) for parts in measured]
    centres = rewards.reference_scores(prompts, references_of(groups)) if rewards.needs_references else None
    return rewards.combine(outputs, prompts, centres), outputs


def flatten(groups: Sequence[Group]) -> tuple[list[Text], list[Text]]:
    """Prompts and candidates side by side."""
    pairs = [(group.prompt, text) for group in groups for text in texts_of(group)]
    return [prompt for prompt, _ in pairs], [text for _, text in pairs]


def references_of(groups: Sequence[Group]) -> list[list[str]]:
    """The reference answers of each candidate's row: a text, or a list of texts."""
    found = []
    for group in groups:
        given = group.reference if isinstance(group.reference, list) else [group.reference]
        if not all(isinstance(text, str) and text.strip() for text in given):
            raise BadInput("must be an answer or a list of answers", line=group.line, field="reference")
        found += [given] * len(group.candidates)
    return found


def score_rows(
    run: Run, groups: Sequence[Group], scored: Scored, outputs: Sequence[Measured], rewards: Rewards
) -> list[dict[str, Any]]:
    """A row for each group: see the module."""
    rows, at = [], 0
    several = _several(run, rewards, outputs[0])
    for group in groups:
        own = range(at, at + len(group.candidates))
        row: dict[str, Any] = {"scores": _finite(scored.total[own.start : own.stop])}
        why = next((scored.why[index] for index in own if index in scored.why), None)
        if why is not None or not own:
            row["why"] = why or "no candidates"
        if several is not None:
            row["outputs"] = [_finite(line) for line in several[own.start : own.stop]]
            source = rewards.sources[0]
            if isinstance(source, LearnedReward) and source.info.kind == "ensemble":
                row["disagreement"] = _finite(disagreement(several[own.start : own.stop]))
        if run.reward:
            columns = zip(rewards.labels, scored.parts.unbind(dim=1), strict=True)
            row["parts"] = {label: _finite(part[own.start : own.stop]) for label, part in columns}
        rows.append(row)
        at = own.stop
    return rows


def add_features(run: Run, rewards: Rewards, groups: Sequence[Group], rows: Sequence[dict[str, Any]]) -> None:
    """Put ``features`` of every candidate into the rows: the model's, and those of the surface."""
    model = rewards.sources[0]
    for at in range(0, len(groups), run.config.batch_size):
        part = groups[at : at + run.config.batch_size]
        prompts, texts = flatten(part)
        found: list[list[float | None]] = [[] for _ in texts]
        if run.config.features:
            assert isinstance(model, LearnedReward)
            found = [_finite(line) for line in model.features(prompts, texts, count=run.config.features)]
        if run.config.surface:
            seen = zip(prompts, texts, strict=True)
            surfaces = [surface(plain_text(prompt), plain_text(text)) for prompt, text in seen]
            found = [[*own, *more] for own, more in zip(found, surfaces, strict=True)]
        lines = iter(found)
        for row, group in zip(rows[at:], part, strict=False):
            row["features"] = list(islice(lines, len(group.candidates)))


def sure_rows(run: Run, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs that the members agree about, and people's pairs: what a round of uncertainty-enhanced preference
    optimisation trains on (arXiv:2409.11212).
    """
    found, margins = [], []
    for group, row in zip(run.train, rows, strict=True):
        if "disagreement" not in row:
            raise BadInput("sure_pairs needs an ensemble, or passes", file=run.dir.run_file)
        if (
            row["scores"]
            and None not in row["scores"]
            and (pair := best_and_worst(row["scores"])) is not None
        ):
            better, worse = (row["outputs"][at] for at in pair)
            margins.append([one - other for one, other in zip(better, worse, strict=True)])
            found.append(_pair(group, *pair))
    generator = random.Random(f"{run.seed}/sure")
    kept = sure_pairs(margins, share=run.config.share, generator=generator)
    made = [found[at] for at in kept]
    share = run.config.judged_share
    return made + _judged(run, round(share / (1 - share) * len(made)), generator) if share else made


def _judged(run: Run, count: int, generator: random.Random) -> list[dict[str, Any]]:
    """``count`` of the pairs that people decided by their majority, or all if there are fewer."""
    keys = PairKeys(pairs="majority")
    pairs = [(group, pair) for group in run.train for pair in make_pairs(group, keys) if pair.target > 0.5]
    if not pairs:
        raise BadInput("judged_share needs judgements", file=run.dir.train_file)
    chosen = generator.sample(pairs, min(count, len(pairs)))
    return [_pair(group, pair.chosen, pair.rejected) for group, pair in chosen]


def _pair(group: Group, chosen: int, rejected: int) -> dict[str, Any]:
    better, worse = (as_json(texts_of(group)[at]) for at in (chosen, rejected))
    return {"prompt": as_json(group.prompt), "chosen": better, "rejected": worse}


def _several(run: Run, rewards: Rewards, measured: Measured) -> Tensor | None:
    """All outputs of a reward model that has several; of steps there is one score alone."""
    source = rewards.sources[0]
    steps = isinstance(source, LearnedReward) and source.info.kind == "steps"
    return None if run.reward or steps or measured.outputs.shape[1] == 1 else measured.outputs


def selected_rows(
    groups: Sequence[Group], scores: Sequence[Sequence[float | None]], config: ScoreConfig, seed: int
) -> list[dict[str, Any]]:
    """Rows to train on: answers, ranked answers, or pairs."""
    usable = [row for row, own in enumerate(scores) if own and all(score is not None for score in own)]
    known = [[score for score in scores[row] if score is not None] for row in usable]
    if config.select == "top_share":
        best = best_share(known, config.share)
        return [_answers(groups[usable[row]], [at]) for row, at in best]
    rows = []
    for row, own in zip(usable, known, strict=True):
        if config.select == "best":
            rows.append(_answers(groups[row], [best_of(own)]))
        elif config.select == "rejection":
            generator = random.Random(f"{seed}/rejection/{row}")
            kept = rejection_sample(own, keep=config.keep, beta=config.beta, generator=generator)
            rows.append(_ranked(groups[row], kept, own))
        elif (pair := best_and_worst(own)) is not None:
            rows.append(_pair(groups[row], *pair))
    return rows


def _ranked(group: Group, kept: Sequence[int], scores: Sequence[float]) -> dict[str, Any]:
    """The kept answers with a judge's ranking of them; equal scores are tied."""
    tiers: dict[float, list[int]] = {}
    for place, at in enumerate(kept):
        tiers.setdefault(scores[at], []).append(place)
    ranking = [tiers[score] for score in sorted(tiers, reverse=True)]
    return _answers(group, kept) | {"judgements": [{"kind": "judge", "ranking": ranking}]}


def _answers(group: Group, kept: Sequence[int]) -> dict[str, Any]:
    candidates = [{"text": as_json(texts_of(group)[at])} for at in kept]
    return {"prompt": as_json(group.prompt), "candidates": candidates, "meta": group.meta}


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A JSONL file."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def inspect(run: Run) -> dict[str, Any]:
    """The candidates as the model will see them."""
    model = run.base or next((entry.model for entry in run.reward if entry.model), None)
    if model is None:
        raise BadInput(
            "only rules and functions score here: there are no tokens to show", file=run.dir.run_file
        )
    tokenizer = open_tokenizer(model, kind="reward", max_length=run.config.max_length)
    pair = isinstance(tokenizer, PairTokenizer)
    data: Prepared = prepare(
        [with_context(group, context_of(run)) for group in run.train],
        tokenizer,
        _all_candidates,
        file=run.dir.train_file,
        needs="at least one candidate",
    )
    return preview(data, tokenizer.tokenizer, joined=how_joined(tokenizer.tokenizer, pair=pair))


def _all_candidates(group: Group) -> tuple[list[Text], list[Pair]]:
    if not group.candidates:
        raise Unusable("no candidates")
    return texts_of(group), []


def _finite(values: Tensor) -> list[float | None]:
    numbers = values.tolist()
    named = finite({str(index): value for index, value in enumerate(numbers)})
    return [named[str(index)] for index in range(len(numbers))]
