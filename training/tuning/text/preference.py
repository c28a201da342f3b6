"""From the values of pairs to their losses, as the config of a preference method says."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from training.tuning.config.direct import SMOOTHED
from training.tuning.losses import divergences, dpo, ties
from training.tuning.metrics import pair_metrics
from training.tuning.text.pairs import PairIndex, PairValues

LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": dpo.dpo_loss,
    "sigmoid_norm": dpo.dpo_loss,
    "hinge": dpo.hinge_loss,
    "ipo": dpo.ipo_loss,
    "ipo_norm": dpo.ipo_loss,
    "exo_pair": dpo.exo_loss,
    "nca_pair": dpo.nca_loss,
    "robust": dpo.robust_loss,
    "bco_pair": dpo.bco_loss,
    "sppo_hard": dpo.sppo_loss,
    "aot": dpo.aot_loss,
    "aot_unpaired": dpo.aot_unpaired_loss,
    "apo_zero": dpo.apo_zero_loss,
    "apo_down": dpo.apo_down_loss,
    "discopop": dpo.discopop_loss,
}
PER_TOKEN = {"sigmoid_norm", "ipo_norm"}


def pair_losses(
    values: PairValues, pairs: PairIndex, config: Any, *, delta: Tensor | float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (B,) and metrics of pairs.

    A target p below 1 (soft labels, ties) weighs the loss of both directions.
    """
    options: dict[str, Any] = {"beta": config.beta}
    if config.loss in SMOOTHED:
        options["label_smoothing"] = config.label_smoothing
    if config.loss == "discopop":
        options["tau"] = config.discopop_tau
    if config.loss == "bco_pair":
        options["delta"] = delta
    chosen, rejected = _scores(values, config)
    if config.ties in ties.MODELS:
        losses = _with_ties(config.beta * (chosen - rejected), pairs, config)
    elif config.loss == "aot":
        losses = dpo.aot_loss(chosen, rejected, values.reference_chosen, values.reference_rejected, **options)
    else:
        loss, lead = LOSSES[config.loss], config.margin / config.beta * pairs.strength
        forward, backward = loss(chosen - lead, rejected, **options), loss(rejected - lead, chosen, **options)
        losses = pairs.target * forward + (1 - pairs.target) * backward
        if config.loss == "aot_unpaired":
            losses = forward
    losses = losses * values.chosen_weight * values.rejected_weight
    return losses, {"loss": losses} | measured(values, pairs, config.beta)


def measured(values: PairValues, pairs: PairIndex, beta: float) -> dict[str, Tensor]:
    """What pair methods log, (B,) each: rewards (β times the log-ratios), the policy's log-probabilities."""
    chosen, rejected = (beta * side.detach() for side in (values.chosen, values.rejected))
    return pair_metrics(chosen, rejected, pairs.target + pairs.tie / 2) | {
        "logps/chosen": values.chosen + values.reference_chosen,
        "logps/rejected": values.rejected + values.reference_rejected,
    }


def _scores(values: PairValues, config: Any) -> tuple[Tensor, Tensor]:
    """The two sides' scores (B,): log-ratios through the divergence's link, per token where the loss wants
    it.
    """
    links: dict[str, Callable[[Tensor], Tensor]] = {
        "reverse_kl": divergences.reverse_kl_score,
        "forward_kl": divergences.forward_kl_score,
        "js_divergence": divergences.js_score,
        "alpha_divergence": partial(divergences.alpha_score, alpha=config.alpha_divergence),
    }
    link = links[config.f_divergence]
    chosen, rejected = link(values.chosen), link(values.rejected)
    if config.loss in PER_TOKEN:
        return chosen / values.chosen_tokens, rejected / values.rejected_tokens
    return chosen, rejected


def _with_ties(margin: Tensor, pairs: PairIndex, config: Any) -> Tensor:
    """Losses of the three outcomes, by their shares of the votes."""
    win, tie = (partial(loss, nu=config.tie_rate) for loss in ties.MODELS[config.ties])
    lost = 1 - pairs.target - pairs.tie
    return pairs.target * win(margin) + lost * win(-margin) + pairs.tie * tie(margin)
