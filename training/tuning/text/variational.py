"""Variational preference learning (VPL, arXiv:2408.10075): a latent z for each annotator.

1. Every answer is read once by the model as it was before training (without the adapter).
2. Of a pair, an encoder makes a vote for z and how much it counts, from how the states of 1 differ between
   its answers. A person's votes and the prior N(0, I) multiply: q(z | pairs). What is learnt about a pair
   starts from others of the same person, drawn anew each time.
3. The reward of an answer is f(y) · (W z + b): f(y) are the reward model's outputs, and the decoder, W and b,
   makes of z how much each counts.
4. Somebody new needs no training: their pairs go through the encoder. With ``fit: people`` that is where they
   start; then each person's q itself is trained, and nothing else (semi-amortised, arXiv:1802.02550).

In the published code a person's pairs meet in an attention layer and are averaged; here they multiply, so
that q narrows with every pair. There the encoder reads both states side by side, and
the decoder is a perceptron of f(y) and z. But answers to one prompt have states that are nearly the same, so
what the encoder should see is lost beside what they share, and a perceptron finds that f(y) and z multiply
too late: z stays at the prior. So here the encoder reads the difference, brought to one size, a pair the
other way round has the opposite vote, and f(y) and z multiply from the start. Saved beside the reward model:
encoder, decoder, and everybody's q.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.tuning.losses.variational import pooled_posterior, scaled_reward
from training.tuning.plan import split
from training.tuning.rewards.info import Taste
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.dataset import Example
from training.tuning.text.models import TextModel
from training.tuning.text.setup import TOKEN_BUDGET

HIDDEN = 64
SLOPE = 0.2  # of the leaky ReLU, as published


class Latents(nn.Module):
    """Encoder, decoder, and q(z) = N(mean, exp(log_variance)) of everybody known (U, L)."""

    def __init__(self, taste: Taste, width: int, outputs: int) -> None:
        super().__init__()
        self.users = {name: number for number, name in enumerate(taste.users)}
        self.encoder = _layers(width, 2 * taste.count)
        self.decoder = nn.Linear(taste.count, outputs)
        size = (len(taste.users), taste.count)
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.log_variance = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.references: Tensor
        self.register_buffer("references", torch.zeros(taste.references, outputs))

    def read(self, model: TextModel, batch: GroupBatch) -> Tensor:
        """f(y) of every candidate (N, T)."""
        return model.outputs(batch)

    def infer(self, chosen: Tensor, rejected: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """q(z) (B, L) from K pairs each, states (B, K, H); a pair of weight (B, K) 0 counts for nothing."""
        seen = _normed(_normed(chosen) - _normed(rejected))
        (vote, raw), (opposite, reverse) = (self.encoder(one).chunk(2, dim=-1) for one in (seen, -seen))
        precisions = F.softplus((raw + reverse) / 2) * weight[..., None]
        return pooled_posterior((vote - opposite) / 2, precisions)

    def rewards(self, outputs: Tensor, z: Tensor) -> Tensor:
        """r(y, z) (N,) of outputs (N, T) under latents (N, L)."""
        rewards: Tensor = (outputs * self.decoder(z.to(outputs.dtype))).sum(dim=1)
        return rewards

    def scores(self, model: TextModel, outputs: Tensor, users: Sequence[str | None]) -> Tensor:
        """r(y, μ) (N,), scaled if there are references; somebody unknown has the prior's mean, 0."""
        nobody = self.mean.new_zeros(self.mean.shape[1])
        z = torch.stack([self.mean[self.users[one]] if one in self.users else nobody for one in users])
        rewards = self.rewards(outputs, z)
        if not len(self.references):
            return rewards
        count = len(self.references)
        others = self.rewards(self.references.repeat(len(z), 1), z.repeat_interleave(count, dim=0))
        return scaled_reward(rewards, others.view(len(z), count))


def _normed(states: Tensor) -> Tensor:
    return F.layer_norm(states, states.shape[-1:])


def _layers(size: int, outputs: int) -> nn.Sequential:
    """A perceptron with two hidden layers."""
    widths = [size, HIDDEN, HIDDEN]
    parts: list[nn.Module] = []
    for one, other in pairwise(widths):
        parts += [nn.Linear(one, other), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*parts, nn.Linear(HIDDEN, outputs))


class Contexts:
    """Everybody's pairs, read by the model without its adapter: states (N, H), weights (N,)."""

    def __init__(self, model: TextModel, examples: Sequence[Example], users: dict[str, int]) -> None:
        self.row_of: dict[int, int] = {}  # of an example's first pair
        chosen, rejected, weight = [], [], []
        owners: list[int] = []
        for example, states in zip(examples, frozen_reads(model, examples), strict=True):
            self.row_of[id(example.group)] = len(owners)
            for pair in example.pairs:
                chosen.append(states[pair.chosen])
                rejected.append(states[pair.rejected])
                weight.append(2 * pair.target - 1)  # a tie says nothing
                owners.append(users[pair.annotator or ""])
        self.chosen, self.rejected = torch.stack(chosen), torch.stack(rejected)
        self.weight = torch.tensor(weight, device=self.chosen.device)
        self.rows = [[at for at, owner in enumerate(owners) if owner == user] for user in users.values()]
        self.owners = owners

    def read(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs of several people, (B, K, H) twice and (B, K), filled up with weight 0."""
        most = max((len(own) for own in rows), default=0) or 1
        at = torch.tensor([[*own, *[0] * (most - len(own))] for own in rows])
        is_there = torch.tensor([[1.0] * len(own) + [0.0] * (most - len(own)) for own in rows])
        weight = self.weight[at] * is_there.to(self.weight)
        return self.chosen[at], self.rejected[at], weight

    def draw(self, row: int, *, most: int) -> list[int]:
        """One to ``most`` other pairs of whoever gave this one."""
        others = [at for at in self.rows[self.owners[row]] if at != row]
        count = int(torch.randint(1, most + 1, ()))
        return [others[at] for at in torch.randperm(len(others))[:count].tolist()]


@torch.no_grad()
def frozen_reads(model: TextModel, examples: Sequence[Example]) -> list[Tensor]:
    """The state (K, H) that a head would read of each candidate, of the model without its adapter."""
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    off = model.model.disable_adapter() if hasattr(model.model, "disable_adapter") else nullcontext()
    with off:
        for rows, batch in _batches(model, examples):
            for at, states in zip(rows, model.reads(batch).split(batch.sizes), strict=True):
                found[at] = states
    return found


@torch.no_grad()
def reference_outputs(model: TextModel, examples: Sequence[Example], *, most: int) -> Tensor:
    """f(y) (R, T) of answers to compare with: evenly spread over the data, ``most`` at most."""
    step = max(1, -(-len(examples) // most))
    outputs = [model.outputs(batch) for _, batch in _batches(model, examples[::step])]
    found = torch.cat(outputs)
    return found[:: max(1, -(-len(found) // most))]


def _batches(model: TextModel, examples: Sequence[Example]) -> Iterator[tuple[list[int], GroupBatch]]:
    """Examples laid out together, as many as fit: their places and the batch."""
    sizes = [one.tokens.size for one in examples]
    for micro in split(range(len(examples)), sizes, most=None, budget=TOKEN_BUDGET):
        yield (
            micro,
            make_batch(
                [examples[at].tokens for at in micro],
                causal=model.layout != "separate",
                device=model.device,
                position_offset=model.position_offset,
            ),
        )
