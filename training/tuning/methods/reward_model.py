"""Reward models: Bradley-Terry (Stiennon et al., arXiv:2009.01325) and its relatives, by the key ``loss``.

1. The base gets a head with an output for every member, attribute or dimension: a decoder reads from the last
   token of prompt and answer, an encoder from its first.
2. Tokenise the groups, take from their judgements what the loss reads, and plan the micro-batches. A list of
   rewards, if given, corrects doubtful pairs first.
3. Per step: outputs of all candidates, the loss of every term by every member, the mean over their weights.
4. Evaluate on held-out groups: agreement and calibration. The result is the best of the evaluated
   checkpoints, with ``reward.json``, which says how outputs become a score.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.tuning.config import RewardModelConfig
from training.tuning.data import Group, Text
from training.tuning.errors import BadInput
from training.tuning.losses.general_preference import preference_scores
from training.tuning.metrics import Means, pair_metrics
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import Pair
from training.tuning.plan import MicroBatch, make_plan, split
from training.tuning.processes import add_up, mine
from training.tuning.rewards.compose import open_rewards
from training.tuning.rewards.conditions import split_by_condition
from training.tuning.rewards.transforms import aggregate, disagreement
from training.tuning.run import Run
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.dataset import Example, Prepared, prepare, preview, texts_of
from training.tuning.text.models import TextModel
from training.tuning.text.pairs import sides
from training.tuning.text.personal import PersonalObjective
from training.tuning.text.reward_evaluation import Evaluation
from training.tuning.text.reward_objectives import Objective, RatingObjective, objective_of
from training.tuning.text.reward_saving import info_of, reward_notes, save_reward
from training.tuning.text.reward_training import (
    bootstrap_weights,
    corrected,
    moments,
    peer_weights,
    reference_groups,
    scale_head,
    source_weights,
    start_head,
)
from training.tuning.text.saving import how_to_load
from training.tuning.text.setup import TOKEN_BUDGET, open_policy, open_tokenizer, training_budget
from training.tuning.text.tokens import GroupTokenizer, PairTokenizer, how_joined
from training.tuning.text.vocabulary import narrow, tokens_of, widen
from training.tuning.throughput import Throughput

NEEDS = {
    "regression": "ratings of its attributes",
    "other": "a choice between two candidates or a ranking (or the columns prompt, chosen, rejected)",
}
Batches = list[tuple[GroupBatch, list[Example]]]


def train(run: Run) -> None:
    """Train a reward model on preferences. See the module for the steps."""
    config = run.config
    objective = objective_of(config, run.train)
    tokenizer = open_tokenizer(run.base, kind="reward", max_length=config.max_length)
    data = _prepare(run, tokenizer, objective, held_out=False)
    held_out = _prepare(run, tokenizer, objective, held_out=True).examples if run.eval else []
    budget = training_budget(run.device, encoder=isinstance(tokenizer, PairTokenizer))
    plan = make_plan(data.sizes, config=config, seed=run.seed, budget=budget)

    model = open_model(run, objective)
    data.examples = _corrected(run, data.examples)
    references = _references(run, model, tokenizer) if config.normalise != "none" else []
    read_at_all = tokens_of(one.tokens for one in (*data.examples, *held_out))
    read_at_all.update(*(batch.input_ids.flatten().tolist() for batch, _ in references))
    narrow(model, read_at_all, config)
    if isinstance(objective, PersonalObjective):
        objective.attach(model, data.examples)
    start_head(model.model, outputs=_outputs_of_a_head(model, objective), start=config.start_head)
    if config.normalise == "standardise":
        found = moments(model, references)
        scale_head(model.model, found, outputs=_outputs_of_a_head(model, objective))
    trained = nn.ModuleDict({"model": model.model})
    if objective.link is not None:
        trained["link"] = objective.link.to(model.device)
    optimizer = optimizer_of(trained, objective, config)
    done = run.begin(trained, optimizer, total_steps=plan.total_steps)

    def read(micro: MicroBatch) -> tuple[GroupBatch, list[Example]]:
        return _batch(model, [data.examples[index] for index in micro])

    for step in run.steps(done):
        speed, means = Throughput(), Means()
        micro_batches = plan.step(step)
        total = sum(sum(objective.weights(data.examples[at])) for micro in micro_batches for at in micro)
        shares = step_weights(model, objective, config, read, micro_batches)
        for number, micro in mine(list(enumerate(micro_batches))):
            batch, examples = read(micro)
            outputs = outputs_of(model, objective, batch)
            losses = objective.losses(outputs, examples)
            weight = term_weights(objective, examples, config, seed=run.seed).to(losses)
            if shares is not None:
                weight = weight * shares[number].to(losses)
            (losses * weight).sum().div(total * losses.shape[1]).backward()
            means.add({"loss": losses.mean(dim=1)}, _plain_weights(objective, examples))
            add_pair_metrics(means, outputs, examples, config, objective)
            speed.add(batch.tokens)
        values = means.result() | update(optimizer, config, step=step, total_steps=plan.total_steps)
        run.log(step, values | add_up(speed.result()))
        if held_out and run.due(config.eval_every, step):
            best_by = config.metric_for_best if config.keep_best else None
            run.log_eval(step, evaluate(model, objective, config, held_out).values(), best_by=best_by)
        run.end_step(step)

    kept = run.load_best(trained)
    widen(model)
    publish(run, model, objective, kept=kept, held_out=held_out, references=references)


def open_model(run: Run, objective: Objective) -> TextModel:
    """The backbone with a head for all outputs, or with an adapter and a head for each member."""
    config = run.config
    if config.member_kind == "adapters":
        names = [f"member-{number}" for number in range(config.members)]
        return open_policy(run, kind="reward", members=names)
    return open_policy(run, kind="reward", outputs=objective.outputs)


def optimizer_of(
    trained: nn.ModuleDict, objective: Objective, config: RewardModelConfig
) -> torch.optim.Optimizer:
    """What stands for people has a learning rate of its own."""
    if not isinstance(objective, PersonalObjective):
        return make_optimizer(trained.parameters(), config)
    people = (trained["link"].parameters(), config.people_learning_rate)
    return make_optimizer(trained["model"].parameters(), config, others=[people])


def outputs_of(model: TextModel, objective: Objective, batch: GroupBatch) -> Tensor:
    """What the objective reads of a batch's candidates (N, T)."""
    if isinstance(objective, PersonalObjective):
        return objective.link.read(model, batch)
    return model.outputs(batch)


def step_weights(
    model: TextModel,
    objective: Objective,
    config: RewardModelConfig,
    read: Callable[[MicroBatch], tuple[GroupBatch, list[Example]]],
    micro_batches: Sequence[MicroBatch],
) -> list[Tensor] | None:
    """What each term of a step counts by each member, where that depends on the whole step."""
    if config.correction == "peer_review":
        return peer_weights(model, read, micro_batches, rate=config.noise_rate)
    if config.sources == "min_norm":
        return source_weights(model, objective, read, micro_batches)
    return None


def term_weights(
    objective: Objective, examples: Sequence[Example], config: RewardModelConfig, *, seed: int
) -> Tensor:
    """Weights (B, 1) of the terms, or (B, M) if each member has a sample of its own."""
    weight = _plain_weights(objective, examples)[:, None]
    if not config.bootstrap:
        return weight
    terms = [len(objective.weights(example)) for example in examples]
    return weight * bootstrap_weights(examples, config.members, seed=seed, terms=terms)


def score_of(outputs: Tensor, config: RewardModelConfig, names: Sequence[str] = ()) -> Tensor:
    """One score (N,) of outputs (N, T), as ``reward.json`` will say."""
    if config.attribute_weights:
        return outputs @ outputs.new_tensor([config.attribute_weights.get(name, 0.0) for name in names])
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return aggregate(outputs, how=config.aggregate, penalty=config.penalty)


def pair_scores(
    outputs: Tensor, examples: Sequence[Example], config: RewardModelConfig, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Scores (B,) of both sides of the pairs; of general preferences half the preference for each."""
    if isinstance(objective, PersonalObjective):
        return objective.pair_scores(outputs, examples)
    if config.loss == "general_preference":
        preference = preference_scores(*sides(outputs, examples)) / config.preference_temperature
        return preference / 2, -preference / 2
    names = objective.names if isinstance(objective, RatingObjective) else []
    chosen, rejected = sides(score_of(outputs, config, names)[:, None], examples)
    return chosen[:, 0], rejected[:, 0]


@torch.no_grad()
def add_pair_metrics(
    means: Means,
    outputs: Tensor,
    examples: Sequence[Example],
    config: RewardModelConfig,
    objective: Objective,
) -> None:
    """``rewards/…`` of the pairs, and how far the members are apart."""
    pairs = [pair for example in examples for pair in example.pairs]
    if pairs and not config.attribute_weights:
        target = outputs.new_tensor([pair.target + pair.tie / 2 for pair in pairs])
        weight = outputs.new_tensor([pair.weight for pair in pairs])
        means.add(pair_metrics(*pair_scores(outputs, examples, config, objective), target), weight)
    if config.members > 1:
        apart = disagreement(outputs)
        means.add({"disagreement": apart}, torch.ones_like(apart))


@torch.no_grad()
def evaluate(
    model: TextModel, objective: Objective, config: RewardModelConfig, examples: list[Example]
) -> Evaluation:
    """Loss, agreement with all votes and with the majority, calibration, accuracy of attributes."""
    names: list[str] = objective.names if isinstance(objective, RatingObjective) else []
    found = Evaluation(names)
    sizes = [one.tokens.size for one in examples]
    for micro in split(range(len(examples)), sizes, most=None, budget=TOKEN_BUDGET):
        batch, chosen = _batch(model, [examples[index] for index in micro])
        outputs = outputs_of(model, objective, batch)
        losses = objective.losses(outputs, chosen).mean(dim=1)
        found.add_losses(losses, _plain_weights(objective, chosen))
        if any(one.pairs for one in chosen):
            found.add_pairs(chosen, *pair_scores(outputs, chosen, config, objective))
        if isinstance(objective, RatingObjective):
            for one, own in zip(chosen, outputs.split(batch.sizes), strict=True):
                found.add_ratings(objective.ratings(one.group), own)
    return found


def publish(
    run: Run,
    model: TextModel,
    objective: Objective,
    *,
    kept: int,
    held_out: list[Example],
    references: Batches,
) -> None:
    """Write the result, with what the kept weights' outputs mean."""
    config = run.config
    if isinstance(objective, PersonalObjective):
        objective.finish()
    found = evaluate(model, objective, config, held_out) if held_out else None
    normal = moments(model, references) if references else None
    info = info_of(config, objective, model, moments=normal, evaluation=found)
    run.publish(
        save_reward(model, info, config, objective, bins=found.bins() if found else []),
        how_to_load=how_to_load(model, kind="reward"),
        notes=[
            how_joined(model.tokenizer, pair=model.layout == "separate"),
            f"Weights of step {kept}. Only differences between answers to the same prompt mean anything.",
            *reward_notes(info),
        ],
    )


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    tokenizer = open_tokenizer(run.base, kind="reward", max_length=run.config.max_length)
    pair = isinstance(tokenizer, PairTokenizer)
    data = _prepare(run, tokenizer, objective_of(run.config, run.train), held_out=False)
    return preview(data, tokenizer.tokenizer, joined=how_joined(tokenizer.tokenizer, pair=pair))


def _prepare(
    run: Run, tokenizer: GroupTokenizer | PairTokenizer, objective: Objective, *, held_out: bool
) -> Prepared:
    groups, file = (run.eval, run.dir.eval_file) if held_out else (run.train, run.dir.train_file)
    needs = None if held_out else NEEDS.get(run.config.loss, NEEDS["other"])
    if not objective.outputs:
        raise BadInput(f"no row can be used: no ratings. The method needs {needs}", file=file)
    groups = split_by_condition(groups, run.config.condition)
    if not groups and not held_out:
        raise BadInput(f"no judgement says its {run.config.condition}", file=file)
    return prepare(groups, tokenizer, objective.choose, file=file, needs=needs)


def _corrected(run: Run, examples: list[Example]) -> list[Example]:
    """The examples, corrected by the run's rewards if it has any."""
    uses = run.config.correction in ("flip", "margin", "smooth")
    if uses != bool(run.reward):
        wrong = "needs a list of rewards" if uses else "has no use for rewards"
        message = f'the correction "{run.config.correction}" {wrong}'
        raise BadInput(message, file=run.dir.run_file, field="reward")
    if not uses:
        return examples
    options = {"precision": run.config.precision, "max_length": run.config.max_length}
    rewards = open_rewards(run.reward, modality="text", device=run.device, **options)
    return corrected(examples, rewards, run.config)


def _references(run: Run, model: TextModel, tokenizer: GroupTokenizer | PairTokenizer) -> Batches:
    """The answers on which scores are normalised, in batches."""

    def choose(group: Group) -> tuple[list[Text], list[Pair]]:
        return texts_of(group), []

    groups = reference_groups(split_by_condition(run.train, run.config.condition), run.config.normalise_on)
    examples = prepare(groups, tokenizer, choose, file=run.dir.train_file, needs="answers").examples
    sizes = [one.tokens.size for one in examples]
    micro_batches = split(range(len(examples)), sizes, most=None, budget=TOKEN_BUDGET)
    return [_batch(model, [examples[index] for index in micro]) for micro in micro_batches]


def _outputs_of_a_head(model: TextModel, objective: Objective) -> int:
    return 1 if model.members else objective.outputs


def _plain_weights(objective: Objective, examples: Sequence[Example]) -> Tensor:
    return torch.tensor([value for example in examples for value in objective.weights(example)])


def _batch(model: TextModel, examples: list[Example]) -> tuple[GroupBatch, list[Example]]:
    batch = make_batch(
        [one.tokens for one in examples],
        causal=model.layout != "separate",
        device=model.device,
        position_offset=model.position_offset,
    )
    return batch, examples
