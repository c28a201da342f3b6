"""D3PO: tune an image model on comparisons, step by step of how the pictures were drawn. arXiv:2311.13231.

1. Judgements become weighted pairs. The pictures were drawn by the job that draws pictures, with ``eta``:
   its record (seeds and settings) gives every chain again, which is checked against the picture.
2. The reference is the model before training, which drew them. Its log-probabilities of all steps are
   computed once, in the very same micro-batches, so that all ratios start at 1.
3. The loss of a pair is DPO's on every step of both chains, or on a share of the steps, with ratios clipped.
"""

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.tuning.config import D3POConfig
from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.chains import (
    ChainRecord,
    dominant,
    draw_chains,
    is_picture_of,
    pictures_of,
    record_of,
    recorded_denoiser,
)
from training.tuning.images.direct import PIXELS, publish
from training.tuning.images.families import Family
from training.tuning.images.groups import count_reasons
from training.tuning.images.loading import load_for_sampling, load_for_training
from training.tuning.images.pair_index import PairIndex, index_pairs
from training.tuning.images.preparation import autocast, remove_cache
from training.tuning.images.preview import preview
from training.tuning.images.prompts import EncodedPrompts
from training.tuning.images.samples import draw_samples
from training.tuning.images.trajectories import Chain, replay
from training.tuning.losses.d3po import clipped_log_ratio, d3po_loss
from training.tuning.metrics import Means, pair_metrics
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import Pair, make_pairs, why_no_pairs
from training.tuning.plan import make_plan
from training.tuning.run import Run

logger = logging.getLogger("training.tuning")


@dataclass(frozen=True)
class ChainGroup:
    """A prompt, and the pictures of a row that its pairs name, with the seeds that drew them."""

    line: int
    prompt: str
    files: list[Path]
    seeds: list[int]
    pairs: list[Pair]
    record: ChainRecord

    @property
    def pixels(self) -> int:
        """Of all pictures together."""
        return len(self.files) * self.record.height * self.record.width


@dataclass(frozen=True)
class Recalled:
    """The chains of a micro-batch's pictures, drawn again; ``reference`` (K, N) are their steps'
    log-probabilities, of the steps that have one.
    """

    chain: Chain
    reference: Float[Tensor, "K N"]
    prompts: list[str]
    record: ChainRecord


def train(run: Run) -> None:
    """Train a policy on pairs of chains. See the module for the steps."""
    config: D3POConfig = run.config
    policy = load_for_training(run.base, lora=config.lora, keep_copy=False, seed=run.seed, device=run.device)
    family = policy.family
    if config.gradient_checkpointing:
        policy.denoiser.enable_gradient_checkpointing()
    groups = usable(run, family)
    plan = make_plan(
        [group.pixels for group in groups],
        config=config,
        seed=run.seed,
        budget=PIXELS,
        buckets=[group.record.settings for group in groups],
    )
    encoded = EncodedPrompts(
        family,
        [group.prompt for group in groups],
        folder=run.dir.path / "cache" / "prompts",
        on_batch=run.check_stop,
    )
    # Before the first step and before resuming: the policy still is the reference.
    recalled = {
        tuple(micro): recall(run, family, encoded, [groups[at] for at in micro], key=micro[0])
        for micro in plan.micro_batches()
    }
    optimizer = make_optimizer(policy.denoiser.parameters(), config)
    done = run.begin(policy.denoiser, optimizer, total_steps=plan.total_steps)
    if done == 0:
        draw_samples(run, family, step=0, when="before")
    for step in run.steps(done):
        started, means = time.perf_counter(), Means()
        micro_batches = plan.step(step)
        own = [groups[at] for micro in micro_batches for at in micro]
        total = sum(pair.weight for group in own for pair in group.pairs)
        for micro in micro_batches:
            chains, pairs = recalled[tuple(micro)], pairs_of([groups[at] for at in micro], family)
            denoise = recorded_denoiser(
                family,
                policy.denoiser,
                encoded.rows(chains.prompts),
                chains.record,
                autocast=autocast(config),
            )
            sampler = chains.record.sampler(family)
            steps = chosen_steps(len(sampler.stochastic), config.step_share, key=f"{run.seed}/{step}")
            for place in steps:
                logps = replay(denoise, sampler, chains.chain, sampler.stochastic[place])
                values = pair_values(logps, chains.reference[place], pairs, config)
                (values["loss"] * pairs.weight).sum().div(total * len(steps)).backward()
                means.add(values, pairs.weight)
        metrics = means.result() | update(optimizer, config, step=step, total_steps=plan.total_steps)
        pictures = sum(len(group.files) for group in own)
        run.log(step, metrics | {"images_per_second": pictures / (time.perf_counter() - started)})
        run.end_step(step)
    draw_samples(run, family, step=run.total_steps, when="after")
    publish(run, policy)
    remove_cache(run)


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    family = load_for_sampling(run.base, device=run.device)
    reasons = [found if isinstance(found := select(run, family, group), str) else None for group in run.train]

    def pairs(group: Group) -> list[Pair]:
        return make_pairs(judged(group, run.config), run.config)

    return preview(run.train, reasons=reasons, pairs=pairs, count_tokens=family.count_tokens)


def usable(run: Run, family: Family) -> list[ChainGroup]:
    """The rows that can be trained on; the log says why others cannot."""
    found = [select(run, family, group) for group in run.train]
    for reason, count in count_reasons([one if isinstance(one, str) else None for one in found]).items():
        logger.info("%d rows dropped: %s", count, reason)
    groups = [one for one in found if isinstance(one, ChainGroup)]
    if not groups:
        problem = "no row gives a pair of recorded chains; `inspect` lists the reasons"
        raise BadInput(problem, file=run.dir.train_file)
    return groups


def select(run: Run, family: Family, group: Group) -> ChainGroup | str:
    """A row as it is trained on, or why it is not."""
    own = judged(group, run.config)
    pairs = make_pairs(own, run.config)
    if not pairs:
        return why_no_pairs(own) if run.config.pareto is None else "no picture dominates"
    record = record_of(group)
    if record is None:
        return "no record of how the pictures were drawn; draw them with eta"
    prompt, longest = plain_text(group.prompt), run.config.max_length or family.reader[1]
    if family.count_tokens(prompt) > min(longest, family.reader[1]):
        return f"prompt longer than {min(longest, family.reader[1])} tokens"
    used = sorted({at for pair in pairs for at in (pair.chosen, pair.rejected)})
    place = {at: position for position, at in enumerate(used)}
    return ChainGroup(
        group.line,
        prompt,
        [run.dir.media / str(group.candidates[at].image) for at in used],
        [record.seeds[at] for at in used],
        [Pair(place[pair.chosen], place[pair.rejected], pair.weight, pair.target) for pair in pairs],
        record,
    )


def judged(group: Group, config: D3POConfig) -> Group:
    """The row with the choices that count: those given, or those that several aspects agree on."""
    return group if config.pareto is None else dominant(group, config.pareto)


@torch.no_grad()
def recall(
    run: Run, family: Family, encoded: EncodedPrompts, groups: Sequence[ChainGroup], *, key: int
) -> Recalled:
    """Draw the chains of a micro-batch again with the model as it is, once in a run, and ask it for their
    steps. BadInput where a chain does not end at its picture.
    """
    run.check_stop()
    record = groups[0].record
    prompts = [group.prompt for group in groups for _ in group.files]
    seeds = [seed for group in groups for seed in group.seeds]
    file = run.dir.path / "cache" / f"chains-{key}-{run.fingerprint[:16]}.safetensors"
    sampler, computed = record.sampler(family), autocast(run.config)
    if not file.exists():
        rows, module = encoded.rows(prompts), family.denoiser
        chain = draw_chains(family, module, rows, record, seeds)
        check(run, family, groups, chain)
        denoise = recorded_denoiser(family, module, rows, record, autocast=computed)
        reference = [replay(denoise, sampler, chain, index) for index in sampler.stochastic]
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        stored = {"states": torch.stack(chain.states), "reference": torch.stack(reference)}
        save_file({name: value.cpu().contiguous() for name, value in stored.items()}, partial)
        partial.replace(file)
    kept = {name: value.to(family.device) for name, value in load_file(file).items()}
    return Recalled(Chain(0, list(kept["states"]), {}, {}), kept["reference"], prompts, record)


def check(run: Run, family: Family, groups: Sequence[ChainGroup], chain: Chain) -> None:
    """BadInput, naming the row, for a picture that its record does not give."""
    drawn = iter(pictures_of(family, chain.final))
    for group in groups:
        for file in group.files:
            if not is_picture_of(file, next(drawn)):
                problem = (
                    f"{file.name} is not what this base draws by the row's record; name the one that did"
                )
                raise BadInput(problem, file=run.dir.train_file, line=group.line, field="meta.chains")


def chosen_steps(count: int, share: float, *, key: str) -> list[int]:
    """This share of the steps, at least one, in an order of chance."""
    return random.Random(f"{key}/steps").sample(range(count), max(1, round(share * count)))


def pairs_of(groups: Sequence[ChainGroup], family: Family) -> PairIndex:
    """The pairs of these groups, as positions among their pictures."""
    return index_pairs(
        [group.pairs for group in groups], [len(group.files) for group in groups], device=family.device
    )


def pair_values(
    logps: Float[Tensor, " N"], reference: Float[Tensor, " N"], pairs: PairIndex, config: D3POConfig
) -> dict[str, Float[Tensor, " P"]]:
    """Each pair's loss at one step of the chains, and what is logged of it."""
    chosen, rejected = logps[pairs.chosen], logps[pairs.rejected]
    reference_chosen, reference_rejected = reference[pairs.chosen], reference[pairs.rejected]
    keys = {"beta": config.beta, "clip": config.ratio_clip}
    for_chosen = d3po_loss(chosen, rejected, reference_chosen, reference_rejected, **keys)
    for_rejected = d3po_loss(rejected, chosen, reference_rejected, reference_chosen, **keys)
    losses = pairs.target * for_chosen + (1 - pairs.target) * for_rejected
    rewards = pair_metrics(
        config.beta * clipped_log_ratio(chosen, reference_chosen, clip=config.ratio_clip),
        config.beta * clipped_log_ratio(rejected, reference_rejected, clip=config.ratio_clip),
        pairs.target,
    )
    return {"loss": losses, **rewards, "logps/chosen": chosen, "logps/rejected": rejected}
