"""Searching for better pictures while they are drawn: keys of the job that draws."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import PRIMARY, Config

Share = Annotated[float, Field(gt=0, lt=1)]

# Which searches use a key; the others refuse it.
USES: dict[str, tuple[str, ...]] = {
    "search_size": ("best_of_n", "particles", "candidates", "noise"),
    "search_strength": ("particles", "candidates", "guidance"),
    "search_cuts": ("best_of_n",),
    "search_share": ("best_of_n",),
    "search_ranks": ("best_of_n",),
    "search_from": ("particles", "guidance"),
    "search_until": ("particles", "guidance"),
    "search_every": ("particles",),
    "search_potential": ("particles",),
    "search_adaptive": ("particles",),
    "search_greedy": ("candidates",),
    "search_noise_by": ("noise",),
    "search_iterations": ("noise",),
    "search_learning_rate": ("noise",),
    "search_eta": ("best_of_n", "particles", "candidates", "guidance"),
}


class SearchKeys(Config):
    """How a reward steers the drawing of a picture. No weight changes."""

    search: Literal["none", "best_of_n", "particles", "candidates", "noise", "guidance"] = Field(
        "none",
        title="Search",
        description="How the rewards steer each picture. best_of_n: many noises, of which the poor ones are "
        "given up early (TTSnap). particles: pictures that multiply where the reward grows "
        "(arXiv:2501.06848). candidates: the better of several next states in every step "
        "(arXiv:2408.08252). noise: a better starting noise, by the reward's gradient (arXiv:2406.04312) or "
        "its value (arXiv:2407.19453). guidance: the reward's gradient in every step (arXiv:2501.13918).",
        json_schema_extra=PRIMARY,
    )
    search_size: int = Field(
        8,
        ge=2,
        title="Size of the search",
        description="Noises, particles, or candidates in each step; for noise by value, the pictures of a "
        "round.",
    )
    search_strength: float = Field(
        5.0,
        gt=0,
        title="Strength",
        description="What is drawn is as likely as before, times exp(strength · reward).",
    )
    search_cuts: list[Share] = Field(
        [],
        title="Cuts",
        description="For best_of_n: after these shares of the steps only the best go on, as in 0.1, 0.3, "
        "0.55. Empty: all are drawn to the end.",
    )
    search_share: float = Field(
        0.4, gt=0, lt=1, title="Share kept", description="For best_of_n: how many go on after a cut."
    )
    search_ranks: bool = Field(
        False,
        title="Sum of ranks",
        description="For best_of_n with several rewards: add up ranks instead of weighted scores.",
    )
    search_from: float = Field(
        0.2, ge=0, lt=1, title="From", description="Share of the steps before the reward is asked."
    )
    search_until: float = Field(
        0.8, gt=0, le=1, title="Until", description="Share of the steps after which it is asked no more."
    )
    search_every: int = Field(
        5, ge=1, title="Every", description="For particles: steps from one weighing to the next."
    )
    search_potential: Literal["difference", "max", "sum"] = Field(
        "difference",
        title="Potential",
        description="For particles: what a weighing counts: the growth of the reward, its maximum so far, or "
        "its sum.",
    )
    search_adaptive: bool = Field(
        True,
        title="Adaptive",
        description="For particles: draw them anew only when fewer than half count; weights are carried on.",
    )
    search_greedy: bool = Field(
        False, title="Greedy", description="For candidates: take the best instead of drawing by value."
    )
    search_noise_by: Literal["gradient", "value"] = Field(
        "gradient",
        title="Noise by",
        description="gradient: needs a reward with a gradient, and suits models of few steps. value: any "
        "reward.",
    )
    search_iterations: int = Field(
        50, ge=1, title="Iterations", description="For noise: gradient steps, or rounds of pictures."
    )
    search_learning_rate: float | None = Field(
        None,
        gt=0,
        title="Learning rate of noise",
        description="Empty: as published, 5 by gradient and 0.001 by value.",
    )
    search_eta: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Eta",
        description="Chance in the steps while searching: 1 is the ancestral sampler, 0 none. Particles and "
        "candidates live by it; for noise there is none.",
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        for key, searches in USES.items():
            if self.is_changed(key) and self.search not in searches:
                raise ValueError(f"{key} has a use only with the search {' or '.join(searches)}")
        if self.search in ("particles", "candidates") and not self.search_eta:
            raise ValueError(f"{self.search} need chance in the steps: search_eta above 0")
        if self.search_from >= self.search_until:
            raise ValueError("search_from must be below search_until")
        return self
