"""The same log-probabilities and losses as TRL on the same tokens, where TRL is right; and where it is not.

TRL's own loss code runs on the same batch of tokens, with policy and reference apart. It comes with the extra
`bench`; without it this module is skipped.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tuning.test_text_batches import open_model
from training.tuning.config import CPOConfig, DPOConfig, ORPOConfig, SimPOConfig
from training.tuning.data import Group
from training.tuning.losses.kto import apo_bad_loss, apo_good_loss, kto_bad_loss, kto_good_loss
from training.tuning.methods import cpo, orpo, simpo
from training.tuning.pairs import Pair
from training.tuning.text.attention import ordinary_attention
from training.tuning.text.batches import make_batch
from training.tuning.text.dataset import Example
from training.tuning.text.logprobs import token_log_sum_squares
from training.tuning.text.models import TextModel
from training.tuning.text.pairs import PairIndex, PairValues, index_pairs, pair_values
from training.tuning.text.preference import pair_losses
from training.tuning.text.token_weights import token_weights
from training.tuning.text.tokens import EncodedGroup, GroupTokenizer

pytest.importorskip("trl", reason="TRL is not installed (extra: bench)")
CPU = torch.device("cpu")
ANSWERS = [
    ("How do I reset it?", "Open the settings.", "No."),
    ("Write a short answer to the question below, please.", "A 3 b c, and.", "Press the button."),
    ("Why", "Because.", "One is more"),
]


@pytest.fixture(scope="module")
def both(causal_folder: Callable[[str], Path]) -> tuple[TextModel, TextModel, list[Example]]:
    """A policy, another model as its reference, and three pairs."""
    reference = open_model(causal_folder("llama"))
    policy = open_model(causal_folder("llama"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in policy.model.parameters():
            value += 0.02 * torch.randn(value.shape, generator=generator)
    tokenizer = GroupTokenizer(policy.tokenizer, context=200, end_ids=policy.end_ids)
    groups = [tokenizer.encode(prompt, list(answers)) for prompt, *answers in ANSWERS]
    return policy, reference, [Example(Group(prompt=""), group, [Pair(0, 1)]) for group in groups]


def ours(both: tuple[TextModel, TextModel, list[Example]], config: Any) -> tuple[PairValues, PairIndex]:
    policy, reference, examples = both
    batch = make_batch([one.tokens for one in examples], causal=True)
    states = policy.answer_states(batch)
    spread = token_log_sum_squares(states, policy.lm_head.weight, None, dtype=torch.float32)
    with torch.no_grad():
        other = reference.token_logprobs(batch)
    weigh = token_weights(config) if hasattr(config, "ld_alpha") else None
    weighting = spread if getattr(config, "on_policy_weighting", False) else None
    values = pair_values(
        policy.token_logprobs(batch, states), other, examples, log_sum_squares=weighting, token_weights=weigh
    )
    return values, index_pairs(examples, device=CPU)


def padded(groups: list[EncodedGroup], side: int) -> tuple[list[list[int]], list[int]]:
    rows = [group.prefix + group.blocks[side] for group in groups]
    return rows, [len(group.prefix) + group.starts[side] for group in groups]


def trl_inputs(examples: list[Example]) -> dict[str, Tensor]:
    """TRL's batch: the chosen, then the rejected, padded on the right."""
    groups = [one.tokens for one in examples]
    (chosen, starts), (rejected, more) = padded(groups, 0), padded(groups, 1)
    rows, starts = chosen + rejected, starts + more
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [3] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        "completion_mask": torch.tensor(
            [
                [0] * start + [1] * (len(row) - start) + [0] * (width - len(row))
                for row, start in zip(rows, starts, strict=True)
            ]
        ),
    }


def trl_loss(both: Any, **changes: Any) -> tuple[float, dict[str, Any]]:
    """TRL's DPO loss, from its own code."""
    from accelerate import Accelerator
    from trl import DPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    policy, reference, examples = both
    models = [deepcopy(one.inner) for one in (policy, reference)]
    trainer: Any = object.__new__(DPOTrainer)
    options = {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "use_weighting": False,
    }
    loss = changes.pop("loss", "sigmoid")
    vars(trainer).update(options | changes)
    trainer.loss_types, trainer.loss_weights = [loss], [1.0]
    trainer.model, trainer.ref_model, trainer.accelerator = *models, Accelerator(cpu=True)
    trainer.args = SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05)
    trainer.aux_loss_enabled = trainer.precompute_ref_logps = False
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    with ordinary_attention(models[0]), ordinary_attention(models[1]):
        outputs = ["log_probs", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs"]
        add_fused_lm_head(models[0], outputs=outputs)
        add_fused_lm_head(models[1])
        value = trainer._compute_loss(models[0], trl_inputs(examples), False)
    return value.item(), {name: values[-1] for name, values in trainer._metrics["eval"].items()}


# Ours, TRL's name and options.
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    name: ({"loss": name}, {"loss": name})
    for name in (
        "sigmoid", "hinge", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop",
        "sigmoid_norm",
    )
} | {
    "ipo_norm": ({"loss": "ipo_norm"}, {"loss": "ipo"}),
    "robust": ({"loss": "robust", "label_smoothing": 0.2},) * 2,
    "exo_pair": ({"loss": "exo_pair", "label_smoothing": 0.01},) * 2,
    "aot": ({"loss": "aot", "pairs": "majority"}, {"loss": "aot"}),
    "aot smoothed": (
        {"loss": "aot", "pairs": "majority", "label_smoothing": 0.1},
        {"loss": "aot", "label_smoothing": 0.1},
    ),
    "aot_unpaired": ({"loss": "aot_unpaired", "pairs": "majority"}, {"loss": "aot_unpaired"}),
    "forward_kl": ({"f_divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
    "js": ({"f_divergence": "js_divergence"}, {"f_divergence_type": "js_divergence"}),
    "alpha": ({"f_divergence": "alpha_divergence"}, {"f_divergence_type": "alpha_divergence"}),
    "hinge on js": (
        {"f_divergence": "js_divergence", "loss": "hinge"},
        {"f_divergence_type": "js_divergence", "loss": "hinge"},
    ),
    "ld_alpha": ({"ld_alpha": 0.3}, {"ld_alpha": 0.3}),
    "wpo": ({"on_policy_weighting": True}, {"use_weighting": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_loss_is_trls(case: str, both: Any) -> None:
    keys, options = SAME[case]
    config = DPOConfig(**keys)
    losses, logged = pair_losses(*ours(both, config), config)
    expected, metrics = trl_loss(both, **options)
    assert losses.mean().item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for name, other in (("chosen", "chosen"), ("rejected", "rejected"), ("margin", "margins")):
        assert logged[f"rewards/{name}"].mean().item() == pytest.approx(
            metrics[f"rewards/{other}"], rel=1e-5, abs=1e-5
        )
    assert logged["logps/chosen"].mean().item() == pytest.approx(metrics["logps/chosen"], rel=1e-5)


def test_the_two_models_differ(both: Any) -> None:
    """Else every comparison above were empty."""
    values, _ = ours(both, DPOConfig())
    assert values.chosen.abs().min() > 0.05


def test_trl_drops_label_smoothing(both: Any) -> None:
    """TRL's sigmoid is the same at 0 and .4; ours is −.6 ln σ(βh) − .4 ln σ(−βh)."""
    assert trl_loss(both, label_smoothing=0.4)[0] == trl_loss(both)[0]
    config = DPOConfig(label_smoothing=0.4)
    values, pairs = ours(both, config)
    z = 0.1 * (values.chosen - values.rejected)
    expected = -0.6 * torch.sigmoid(z).log() - 0.4 * torch.sigmoid(-z).log()
    torch.testing.assert_close(pair_losses(values, pairs, config)[0], expected)


def test_trl_counts_ties_as_wrong(both: Any) -> None:
    """At the start nothing is preferred: TRL reads accuracy 0, and a coin would have ½."""
    policy, _, examples = both
    _, metrics = trl_loss((policy, policy, examples))
    assert metrics["rewards/accuracies"] == 0
    values, pairs = ours((policy, policy, examples), DPOConfig())
    assert pair_losses(values, pairs, DPOConfig())[1]["rewards/accuracy"].tolist() == [0.5] * 3


def test_trls_ipo_is_a_mean_per_token(both: Any) -> None:
    """The paper's Eq. 17 has the whole answer's log-ratio: `ipo`. TRL's is here under the name `ipo_norm`."""
    values, pairs = ours(both, DPOConfig(loss="ipo"))
    expected = (values.chosen - values.rejected - 5) ** 2
    torch.testing.assert_close(pair_losses(values, pairs, DPOConfig(loss="ipo"))[0], expected)
    assert trl_loss(both, loss="ipo")[0] != pytest.approx(expected.mean().item(), rel=1e-2)


def test_trl_ignores_divergences_that_a_loss_has_no_place_for(both: Any) -> None:
    plain, _ = trl_loss(both, loss="nca_pair")
    assert trl_loss(both, loss="nca_pair", f_divergence_type="forward_kl")[0] == plain
    with pytest.raises(ValueError, match="f_divergence does not work with the loss"):
        DPOConfig(loss="nca_pair", f_divergence="forward_kl")


def test_rounded_references_start_elsewhere() -> None:
    """References stored in bfloat16, as TRL precomputes them: −1635 and −330 become −1632 and −330, and the
    untrained loss at β .1 is ln(1 + e^{.3}); ours stay float32.
    """
    policy = torch.tensor([-1635.0, -330.0])
    rounded = policy.bfloat16().float()
    assert rounded.tolist() == [-1632.0, -330.0]
    chosen, rejected = (policy - rounded)[:1], (policy - rounded)[1:]
    one, zero = torch.ones(1), torch.zeros(1)
    pairs = PairIndex(torch.tensor([0]), torch.tensor([1]), one, one, zero, one, (None,))
    values = PairValues(chosen, rejected, rounded[:1], rounded[1:], one, one, one, one)
    assert pair_losses(values, pairs, DPOConfig())[0].item() == pytest.approx(math.log1p(math.exp(0.3)))


def reference_free(both: Any) -> tuple[PairValues, PairIndex]:
    policy, _, examples = both
    batch = make_batch([one.tokens for one in examples], causal=True)
    logps = policy.token_logprobs(batch)
    return pair_values(logps, torch.zeros_like(logps), examples), index_pairs(examples, device=CPU)


@pytest.mark.parametrize(
    ("loss", "config", "options"),
    [
        ("simpo", SimPOConfig(), {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0}),
        ("simpo", SimPOConfig(label_smoothing=0.2), {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0}),
        ("alphapo", SimPOConfig(loss="alphapo"), {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0}),
        ("cpo", CPOConfig(nll_weight=0), {"loss_type": "sigmoid", "beta": 0.1}),
        ("cpo", CPOConfig(nll_weight=0, loss="hinge"), {"loss_type": "hinge", "beta": 0.1}),
        ("cpo", CPOConfig(nll_weight=0, loss="ipo"), {"loss_type": "ipo", "beta": 0.1}),
    ],
)
def test_reference_free_losses_are_trls(loss: str, config: Any, options: dict[str, Any], both: Any) -> None:
    """From the same log-probabilities, per token where TRL averages them."""
    cpo_trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer").CPOTrainer
    values, pairs = reference_free(both)
    module = simpo if isinstance(config, SimPOConfig) else cpo
    got = module.pair_losses(values, pairs, config)["loss"]
    mean = options["loss_type"] in ("simpo", "ipo")
    chosen = values.chosen / (values.chosen_tokens if mean else 1)
    rejected = values.rejected / (values.rejected_tokens if mean else 1)
    fake = SimpleNamespace(
        alpha=config.alpha if loss == "alphapo" else 0.0,
        label_smoothing=config.label_smoothing,
        accelerator=SimpleNamespace(device=CPU),
        **options,
    )
    torch.testing.assert_close(got, cpo_trainer.cpo_loss(fake, chosen, rejected)[0], rtol=1e-5, atol=1e-6)


def test_orpo_is_trls(both: Any) -> None:
    orpo_trainer = pytest.importorskip("trl.experimental.orpo.orpo_trainer").ORPOTrainer
    values, pairs = reference_free(both)
    got = orpo.pair_losses(values, pairs, ORPOConfig(beta=0.3))["loss"]
    chosen, rejected = values.chosen / values.chosen_tokens, values.rejected / values.rejected_tokens
    fake = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device=CPU))
    ratio = orpo_trainer.odds_ratio_loss(fake, chosen, rejected)[0]
    torch.testing.assert_close(got, -chosen - ratio, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_kto_is_trls(loss: str, both: Any) -> None:
    """Of six answers three are good; the drift is that of the first prompt's reading, given to both."""
    from accelerate import Accelerator
    from trl import KTOTrainer
    from trl.trainer.utils import add_fused_lm_head

    policy, reference, examples = both
    inputs = trl_inputs(examples)
    other = {f"KL_{name}": values.flip(0) for name, values in inputs.items()}
    models = [deepcopy(one.inner) for one in (policy, reference)]
    trainer: Any = object.__new__(KTOTrainer)
    trainer.model, trainer.ref_model, trainer.accelerator = *models, Accelerator(cpu=True)
    trainer.args = SimpleNamespace(gradient_checkpointing_kwargs=None)
    trainer.beta, trainer.loss_type, trainer.calculate_KL = 0.1, loss, loss == "kto"
    trainer.desirable_weight, trainer.undesirable_weight = 1.0, 1.5
    trainer.aux_loss_enabled = trainer.precompute_ref_logps = False
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    with ordinary_attention(models[0]), ordinary_attention(models[1]):
        add_fused_lm_head(models[0], outputs=["log_probs", "entropy", "mean_logits"])
        add_fused_lm_head(models[1], outputs=["log_probs", "entropy", "mean_logits"])
        label = torch.tensor([1, 1, 1, 0, 0, 0])
        expected = trainer._compute_loss(models[0], {**inputs, **other, "label": label}, False).item()
    values, _ = ours(both, DPOConfig())
    kl = max(0.0, torch.cat([values.chosen, values.rejected]).mean().item()) if loss == "kto" else 0.0
    assert trainer._metrics["eval"]["kl"][-1] == pytest.approx(kl, abs=1e-5)
    if loss == "kto":
        good = kto_good_loss(values.chosen, beta=0.1, kl=kl)
        bad = kto_bad_loss(values.rejected, beta=0.1, kl=kl)
    else:
        good, bad = apo_good_loss(values.chosen, beta=0.1), apo_bad_loss(values.rejected, beta=0.1)
    assert torch.cat([good, 1.5 * bad]).mean().item() == pytest.approx(expected, rel=1e-5)
