"""What the methods that learn from given answers have in common: data, plan, policy, reference, and the dull
parts of the loop. The loop itself, and the loss, stand in each method.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.plan import MicroBatch, make_plan, split
from training.tuning.processes import add_up, shared
from training.tuning.run import Run
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.dataset import Choose, Example, Prepared, prepare, preview
from training.tuning.text.logprobs import token_kl, token_log_sum_squares
from training.tuning.text.pairs import PairIndex, PairValues, index_pairs, pair_values
from training.tuning.text.reference import reference_logprobs
from training.tuning.text.samples import write_samples
from training.tuning.text.saving import how_to_load, save_result
from training.tuning.text.setup import (
    TOKEN_BUDGET,
    open_group_tokenizer,
    open_policy,
    training_budget,
)
from training.tuning.text.tokens import GroupTokenizer, how_joined
from training.tuning.throughput import Throughput


@dataclass(frozen=True)
class Reading:
    """A micro-batch as it was read: per answer token the policy's and the reference's log-probability (C,).

    Without a reference its values are 0. ``log_sum_squares`` (C,) is there if it was asked for.
    """

    batch: GroupBatch
    examples: list[Example]
    policy: Float[Tensor, " C"]
    reference: Float[Tensor, " C"]
    log_sum_squares: Float[Tensor, " C"] | None = None


class Direct:
    """One training run on given answers. ``choose`` and ``needs`` are as for ``prepare``.

    ``reference``: ``cached`` and ``live`` are the model as it starts, with the same values; None leaves it
    out. ``companion`` makes, for the width of the model's states, a small network that is trained beside the
    policy and not part of the result.
    """

    def __init__(
        self,
        run: Run,
        choose: Choose,
        *,
        needs: str,
        reference: Literal["cached", "live"] | None,
        companion: Callable[[int], nn.Module] | None = None,
    ) -> None:
        config = run.config
        self.run = run
        self.tokenizer = _tokenizer(run)
        self.data = prepare(run.train, self.tokenizer, choose, file=run.dir.train_file, needs=needs)
        self.held_out = self._held_out(choose)
        budget = training_budget(run.device)
        self.plan = make_plan(self.data.sizes, config=config, seed=run.seed, budget=budget)
        sizes = [one.tokens.size for one in self.held_out]
        self.eval_batches = split(range(len(self.held_out)), sizes, most=None, budget=TOKEN_BUDGET)
        self.policy = open_policy(run, kind="causal")
        self.moving = self.policy.copy_trained() if getattr(config, "sync_reference_every", None) else None
        if reference == "live" and self.policy.whole is not None and not self.policy.fresh:
            raise BadInput('sharded on top of an adapter needs "reference": "cached"', field="config.sharded")
        self._reference = reference
        self._sources: dict[str, list[Example]] = {}
        self._cached: dict[str, dict[int, Tensor]] = {}
        if reference is not None:
            self._frozen = self.policy.frozen_start(self.moving)
        self.add_source("train", self.data.examples, self.plan.micro_batches())
        self.add_source("eval", self.held_out, self.eval_batches)
        self.companion = (
            companion(self.policy.lm_head.weight.shape[1]).to(self.policy.device) if companion else None
        )
        self.policy.divide()
        # One module, so that checkpoints hold both.
        both = {"policy": self.policy.model, "companion": self.companion}
        self._trained = nn.ModuleDict(both) if self.companion is not None else self.policy.model
        self._optimizer = make_optimizer(self._trained.parameters(), config)
        self._speed = Throughput()

    @property
    def examples(self) -> list[Example]:
        """The training groups; the plan's numbers are positions among them."""
        return self.data.examples

    def add_source(self, name: str, examples: list[Example], batches: Sequence[MicroBatch]) -> None:
        """Groups that are read in these micro-batches; now is when their reference values are cached."""
        self._sources[name] = examples
        if self._reference == "cached":
            self._cached[name] = reference_logprobs(
                self.run, self.policy, self._frozen, examples, batches, name=name
            )

    def begin(self, keep: dict[str, Tensor] | None = None) -> Iterator[int]:
        """The steps that are left, from 1; ``keep`` as for ``Run.begin``."""
        keep = dict(keep or {}) | {f"reference.{name}": value for name, value in (self.moving or {}).items()}
        total = self.plan.total_steps
        done = self.run.begin(self._trained, self._optimizer, total_steps=total, keep=keep)
        if done == 0:
            write_samples(self.run, self.policy, self.tokenizer, step=0, when="before")
        for step in self.run.steps(done):
            self._speed = Throughput()
            yield step

    def read(self, micro: MicroBatch, *, source: str = "train", log_sum_squares: bool = False) -> Reading:
        """Read a micro-batch of ``train``, ``eval`` or another source, with the policy and the reference."""
        examples = [self._sources[source][index] for index in micro]
        batch = make_batch([one.tokens for one in examples], causal=True, device=self.policy.device)
        states = self.policy.answer_states(batch)
        policy = self.policy.token_logprobs(batch, states)
        spread = None
        if log_sum_squares:
            head = self.policy.lm_head
            spread = token_log_sum_squares(states.detach(), head.weight, head.bias, dtype=self.policy.dtype)
        self._speed.add(batch.tokens)
        return Reading(batch, examples, policy, self._read_reference(batch, micro, policy, source), spread)

    def read_divergence(
        self, micro: MicroBatch, *, source: str = "train"
    ) -> tuple[Reading, Float[Tensor, " C"], Float[Tensor, "C H"]]:
        """Read a micro-batch with policy and live reference, and KL(π_ref ‖ π) of every answer token.

        Also the reference's states at these tokens.
        """
        examples = [self._sources[source][index] for index in micro]
        batch = make_batch([one.tokens for one in examples], causal=True, device=self.policy.device)
        policy = self.policy
        with torch.no_grad(), self._frozen():
            other = policy.answer_states(batch)
            reference = policy.token_logprobs(batch, other)
            weight = policy.lm_head.weight.detach()
        states = policy.answer_states(batch)
        head = policy.lm_head
        kl = token_kl(states, head.weight, head.bias, other, weight, dtype=policy.dtype)
        self._speed.add(batch.tokens)
        return Reading(batch, examples, policy.token_logprobs(batch, states), reference), kl, other

    def read_pairs(
        self, micro: MicroBatch, *, source: str = "train", **options: Any
    ) -> tuple[PairValues, PairIndex]:
        """The pairs of a micro-batch and what their losses read; ``options`` as for ``pair_values``."""
        reading = self.read(micro, source=source)
        pairs = index_pairs(reading.examples, device=self.policy.device)
        return pair_values(reading.policy, reading.reference, reading.examples, **options), pairs

    def evaluate(
        self, measure: Callable[[MicroBatch, str], tuple[dict[str, Tensor], Tensor]]
    ) -> dict[str, float]:
        """Means over the held-out groups of what ``measure`` gives for a micro-batch of a source: metrics
        (B,) and their weights (B,).
        """
        means = Means()
        for found in shared(self.eval_batches, lambda micro: measure(micro, "eval")):
            means.add(*found)
        return means.result()

    def end_step(self, step: int, means: Means, evaluate: Callable[[], dict[str, float]]) -> None:
        """Update the weights, log, evaluate and save when it is time to."""
        run, config = self.run, self.run.config
        changed = update(self._optimizer, config, step=step, total_steps=self.plan.total_steps)
        if self.moving is not None and step % config.sync_reference_every == 0:
            self.policy.mix_trained(self.moving, share=config.sync_reference_mix)
        run.log(step, means.result() | changed | add_up(self._speed.result()))
        if self.held_out and run.due(config.eval_every, step):
            with torch.no_grad():
                run.log_eval(step, evaluate())
        run.end_step(step)

    def finish(self) -> None:
        """Samples after training, and the result."""
        config = self.run.config
        write_samples(self.run, self.policy, self.tokenizer, step=self.run.total_steps, when="after")
        self.run.publish(
            save_result(self.policy, precision=config.precision, merged=config.merged),
            how_to_load=how_to_load(self.policy, kind="causal"),
            notes=[how_joined(self.policy.tokenizer, pair=False)],
        )

    def _held_out(self, choose: Choose) -> list[Example]:
        if not self.run.eval:
            return []
        found: Prepared = prepare(
            self.run.eval, self.tokenizer, choose, file=self.run.dir.eval_file, needs=None
        )
        return found.examples

    @torch.no_grad()
    def _read_reference(self, batch: GroupBatch, micro: MicroBatch, policy: Tensor, source: str) -> Tensor:
        if self._reference is None:
            return torch.zeros_like(policy)
        if self._reference == "cached":
            return torch.cat([self._cached[source][index] for index in micro])
        with self._frozen():
            return self.policy.token_logprobs(batch)


def inspect_direct(run: Run, choose: Choose, *, needs: str) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    tokenizer = _tokenizer(run)
    data = prepare(run.train, tokenizer, choose, file=run.dir.train_file, needs=needs)
    return preview(data, tokenizer.tokenizer, joined=how_joined(tokenizer.tokenizer, pair=False))


def _tokenizer(run: Run) -> GroupTokenizer:
    """The base's, which keeps the characters of tokens if spans of them weigh."""
    tokenizer = open_group_tokenizer(run.base, max_length=run.config.max_length)
    tokenizer.with_offsets = getattr(run.config, "focus", None) == "marks"
    return tokenizer
