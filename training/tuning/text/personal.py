"""Reward models for people who differ: what stands beside the head, and what is learnt.

The head gives each answer several outputs; a taste makes one score of them, for somebody or under a prompt.
It is saved beside the reward model, as ``personal.safetensors``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.tuning.config import RewardModelConfig
from training.tuning.data import Group, Text
from training.tuning.errors import BadInput
from training.tuning.losses.personal import distance, hedge_loss, ideal_point_loss, mixture_loss
from training.tuning.losses.variational import variational_loss
from training.tuning.pairs import Pair, make_pairs, why_no_pairs
from training.tuning.rewards.info import RewardInfo, Taste, read_info
from training.tuning.text.batches import GroupBatch
from training.tuning.text.dataset import Example, texts_of
from training.tuning.text.models import TextModel
from training.tuning.text.pairs import sides
from training.tuning.text.tokens import Unusable
from training.tuning.text.variational import Contexts, Latents, reference_outputs

FILE = "personal.safetensors"
ROUTER_WIDTH = 128
REFERENCES = 64  # answers that scaled rewards are compared with
MOST_PAIRS = 256  # of one person that their latent is inferred from
# What is of the people of a base's data, and not of others.
OF_PEOPLE = ("weights", "mean", "log_variance")


class IdealPoints(nn.Module):
    """A person likes what lies near their ideal point, which mixes K prototypes that all people share.

    u = f(Σ_k softmax(w)_k p_k), with f the reward model's head: prototypes are states. Somebody unknown gets
    the mean of everybody's shares. (PAL, arXiv:2406.08469, model A.)
    """

    def __init__(self, taste: Taste, width: int, outputs: int) -> None:
        super().__init__()
        self.users = {name: number for number, name in enumerate(taste.users)}
        self.prototypes = nn.Parameter(torch.randn(taste.count, width))
        self.weights = nn.Parameter(torch.zeros(len(taste.users), taste.count))

    def read(self, model: TextModel, batch: GroupBatch) -> Tensor:
        """f(y) of every candidate (N, D)."""
        return model.outputs(batch)

    def ideals(self, model: TextModel, users: Sequence[str | None]) -> Tensor:
        """u of each of ``users``, (B, D)."""
        shares = self.weights.softmax(dim=1)
        rows = [shares[self.users[one]] if one in self.users else shares.mean(dim=0) for one in users]
        return model.score_head(torch.stack(rows) @ self.prototypes)

    def scores(self, model: TextModel, outputs: Tensor, users: Sequence[str | None]) -> Tensor:
        """−‖f(y) − u‖ (N,)."""
        return -distance(outputs, self.ideals(model, users))


class Mixture(nn.Module):
    """K rewards, and a router that says from the prompt how much each of them counts. (MiCRo,
    arXiv:2505.24846.)
    """

    def __init__(self, taste: Taste, width: int, outputs: int) -> None:
        super().__init__()
        self.router = nn.Sequential(
            nn.Linear(width, ROUTER_WIDTH), nn.ReLU(), nn.Linear(ROUTER_WIDTH, taste.count)
        )

    def read(self, model: TextModel, batch: GroupBatch) -> Tensor:
        """The K rewards of every candidate, and its prompt's K logits of the router (N, 2 K)."""
        states = model.states(batch)
        ends = [segment.start + segment.prefix - 1 for segment in batch.layout.segments]
        prompts, answers = states[ends], states.index_select(0, batch.last)
        rewards = model.score_head(answers.to(torch.promote_types(answers.dtype, torch.float32)))
        counts = torch.tensor(batch.sizes, device=states.device)
        logits = self.router(prompts.to(rewards.dtype))
        return torch.cat([rewards, logits.repeat_interleave(counts, dim=0)], dim=1)

    def scores(self, model: TextModel, outputs: Tensor, users: Sequence[str | None]) -> Tensor:
        """Σ_k f_k(x) r_k (N,), whoever asks."""
        rewards, logits = outputs.chunk(2, dim=1)
        return (logits.softmax(dim=1) * rewards).sum(dim=1)


Link = IdealPoints | Mixture | Latents
TASTES: dict[str, type[Link]] = {"ideal_point": IdealPoints, "mixture": Mixture, "variational": Latents}


class PersonalObjective:
    """Pairs, each with who chose: the losses ``ideal_point`` and ``mixture``."""

    counted = "prototypes"  # the config's key for what the taste counts

    def __init__(self, config: RewardModelConfig, groups: Sequence[Group]) -> None:
        self.config = config
        self.outputs = config.prototypes if config.loss == "mixture" else config.dimensions
        users = {pair.annotator or "" for group in groups for pair in self._pairs(group)}
        self.taste = self._taste(sorted(users))
        self.link: Any = None
        self.model: Any = None

    def _taste(self, users: list[str]) -> Taste:
        named = users if self.config.loss == "ideal_point" else []
        return Taste(kind=self.config.loss, count=self.config.prototypes, users=named)

    def attach(self, model: TextModel, examples: Sequence[Example]) -> None:
        """Make what stands beside the head, or, to fit it alone, take what the base has; freeze the rest.
        ``examples``: what is trained on.
        """
        if self.config.loss == "mixture" and model.layout != "shared":
            raise BadInput("the loss mixture needs prompts that answers share: a decoder", file=model.base)
        self.model = model
        if self.config.fit == "people":
            self.taste = self.taste.model_copy(update={"references": self._known(model.base).references})
        self.link = TASTES[self.taste.kind](self.taste, width_of(model), self.outputs)
        if self.config.fit == "people":
            self._take_over(model)

    def _known(self, base: str) -> Taste:
        """What the base says of tastes. BadInput unless the config says the same."""
        info = read_info(base)
        if info is None or info.taste is None or info.taste.kind != self.config.loss:
            raise BadInput(f'fit "people" needs a base of the loss {self.config.loss}', file=base)
        for name, own, given in (
            (self.counted, info.taste.count, self.taste.count),
            ("dimensions", info.outputs, self.outputs),
        ):
            if own != given:
                raise BadInput(f"the base has {own} {name}, and the config {given}", field=f"config.{name}")
        return info.taste

    def _take_over(self, model: TextModel) -> None:
        known = load_file(Path(model.base) / FILE)
        self.link.load_state_dict(
            {name: known[name] for name in known if name not in OF_PEOPLE}, strict=False
        )
        model.model.requires_grad_(False)
        for name, value in self.link.named_parameters():
            value.requires_grad_(self._is_of_people(name))

    def _is_of_people(self, name: str) -> bool:
        return name != "prototypes"

    def finish(self) -> None:
        """What is found only once training is over."""

    def choose(self, group: Group) -> tuple[list[Text], list[Pair]]:
        """All candidates, and a pair for each person's choices."""
        pairs = self._pairs(group)
        if not pairs:
            raise Unusable(why_no_pairs(group))
        return texts_of(group), pairs

    def weights(self, example: Example) -> list[float]:
        """Of the pairs."""
        return [pair.weight for pair in example.pairs]

    def losses(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """(B, 1): of every pair."""
        chosen, rejected = sides(outputs, examples)
        pairs = [pair for example in examples for pair in example.pairs]
        target = outputs.new_tensor([pair.target for pair in pairs])
        if self.config.loss == "ideal_point":
            ideal = self.link.ideals(self.model, [pair.annotator or "" for pair in pairs])
            forward, back = (
                ideal_point_loss(chosen, rejected, ideal),
                ideal_point_loss(rejected, chosen, ideal),
            )
        else:
            margins, router = (chosen - rejected).chunk(2, dim=1)[0], chosen.chunk(2, dim=1)[1]
            forward, back = (self._routed(sign * margins, router) for sign in (1, -1))
        return (target * forward + (1 - target) * back)[:, None]

    def _routed(self, margins: Tensor, router: Tensor) -> Tensor:
        if self.config.fit == "people":
            return hedge_loss(margins, router, temperature=self.config.router_temperature)
        return mixture_loss(margins, router, entropy=self.config.router_entropy)

    def pair_scores(self, outputs: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Scores (B,) of both sides of the pairs, by the taste of whoever chose."""
        users = [pair.annotator or "" for example in examples for pair in example.pairs]
        chosen, rejected = (self.link.scores(self.model, one, users) for one in sides(outputs, examples))
        return chosen, rejected

    def _pairs(self, group: Group) -> list[Pair]:
        return make_pairs(group, self.config, apart=("annotator",))


class VariationalObjective(PersonalObjective):
    """Pairs, each with who chose: the loss ``variational``. See `training.tuning.text.variational`."""

    counted = "latent"
    is_finished = False

    def _taste(self, users: list[str]) -> Taste:
        return Taste(
            kind="variational",
            count=self.config.latent,
            users=users,
            references=REFERENCES if self.config.scaled else 0,
        )

    def attach(self, model: TextModel, examples: Sequence[Example]) -> None:
        """As of the others; all pairs are read by the model without its adapter, and, to fit people alone,
        everybody starts from what the encoder makes of theirs.
        """
        super().attach(model, examples)
        self.link.to(model.device)
        self.examples = examples
        self.contexts = Contexts(model, examples, self.link.users)
        if self.config.fit == "people":
            self._infer_all()

    def _is_of_people(self, name: str) -> bool:
        return name in OF_PEOPLE

    def finish(self) -> None:
        """Everybody's q from their pairs, and the answers that scaled rewards are compared with."""
        if self.config.fit == "all":
            self._infer_all()
            if self.config.scaled:
                found = reference_outputs(self.model, self.examples, most=REFERENCES)
                self.link.references[:] = found.repeat(-(-REFERENCES // len(found)), 1)[:REFERENCES]
        self.is_finished = True

    @torch.no_grad()
    def _infer_all(self) -> None:
        """Person by person, since some have many pairs."""
        for user, rows in enumerate(self.contexts.rows):
            found = self.link.infer(*self.contexts.read([rows[:MOST_PAIRS]]))
            for kept, value in zip((self.link.mean, self.link.log_variance), found, strict=True):
                kept[user] = value[0]

    def losses(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """(B, 1): of every pair, under a draw of z; of held-out pairs under everybody's mean, without KL."""
        chosen, rejected = sides(outputs, examples)
        pairs = [pair for example in examples for pair in example.pairs]
        target = outputs.new_tensor([pair.target for pair in pairs])
        if all(id(example.group) in self.contexts.row_of for example in examples):
            mean, log_variance = self._posteriors(examples)
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            kl = self.config.latent_kl
        else:
            z = self._means(examples)
            mean = log_variance = torch.zeros_like(z)
            kl = 0.0
        liked, other = (self.link.rewards(side, z) for side in (chosen, rejected))
        return variational_loss(liked, other, target, mean, log_variance, kl=kl)[:, None]

    def pair_scores(self, outputs: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Scores (B,) of both sides of the pairs, under the mean of whoever chose; as published once that
        is settled.
        """
        if self.is_finished:
            return super().pair_scores(outputs, examples)
        z = self._means(examples)
        chosen, rejected = (self.link.rewards(side, z) for side in sides(outputs, examples))
        return chosen, rejected

    @torch.no_grad()
    def _means(self, examples: Sequence[Example]) -> Tensor:
        """The mean (B, L) of every pair's person, from what they said in training; 0 of somebody unknown."""
        users = [self.link.users.get(pair.annotator or "") for one in examples for pair in one.pairs]
        found = {None: self.link.mean.new_zeros(self.taste.count)}
        for user in {user for user in users if user is not None}:
            if self.config.fit == "people":
                found[user] = self.link.mean[user]
            else:
                rows = self.contexts.rows[user][:MOST_PAIRS]
                found[user] = self.link.infer(*self.contexts.read([rows]))[0][0]
        return torch.stack([found[user] for user in users])

    def _posteriors(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """q(z) of every pair's person, from others of their pairs or as it is being trained."""
        rows = [
            self.contexts.row_of[id(example.group)] + number
            for example in examples
            for number in range(len(example.pairs))
        ]
        if self.config.fit == "people":
            users = [self.contexts.owners[row] for row in rows]
            return self.link.mean[users], self.link.log_variance[users]
        drawn = [self.contexts.draw(row, most=self.config.context_pairs) for row in rows]
        mean, log_variance = self.link.infer(*self.contexts.read(drawn))
        return mean, log_variance


def width_of(model: TextModel) -> int:
    """The numbers of a state."""
    return int(model.inner.config.get_text_config().hidden_size)


def save_taste(folder: Path, link: nn.Module) -> None:
    """Write what stands beside the head."""
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in link.state_dict().items()}, folder / FILE
    )


def load_taste(info: RewardInfo, model: TextModel) -> Link:
    """What stands beside a reward model's head."""
    assert info.taste is not None
    link = TASTES[info.taste.kind](info.taste, width_of(model), info.outputs)
    link.load_state_dict(load_file(Path(model.base) / FILE))
    return link.requires_grad_(False).to(model.device)
