"""Known mistakes of preference trainers that no other test would notice, each put to the test."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tuning.test_direct_methods import rows
from tests.tuning.test_text_batches import open_model, some_groups
from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, result_weights, run
from training.tuning.data import Group
from training.tuning.losses.sft import dft_loss, sft_loss
from training.tuning.pairs import Pair
from training.tuning.run import Run
from training.tuning.rundir import RunDir
from training.tuning.text.batches import make_batch
from training.tuning.text.dataset import Example, choose_pairs
from training.tuning.text.direct import Direct
from training.tuning.text.pairs import pair_values
from training.tuning.text.tokens import EncodedGroup


def opened(folder: Path, **options: Any) -> Direct:
    found = Run(RunDir(folder))
    return Direct(found, choose_pairs(found.config), needs="", **options)


@pytest.mark.parametrize("case", ["dpo", "tdpo", "kto", "orpo"])
@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
def test_gradient_checkpointing_changes_nothing(case: str, lora: Any, tmp_path: Path, llama: Path) -> None:
    found = []
    for on in (False, True):
        config = QUICK | {"lora": lora, "gradient_checkpointing": on, "max_steps": 3, "learning_rate": 1e-3}
        folder = make_run(tmp_path / str(on), case, base=llama, config=config, rows=rows())
        assert run(folder) == 0
        found.append((result_weights(folder), metrics(folder)))
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], rtol=1e-4, atol=1e-6)
    for line, other in zip(found[0][1], found[1][1], strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_dropout_is_off_in_both_readings(tmp_path: Path) -> None:
    """A base with dropout everywhere: policy and reference still agree to the last bit."""
    base = save_causal(tmp_path / "base", "gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    config = QUICK | {"gradient_checkpointing": True, "reference": "live"}
    work = opened(make_run(tmp_path / "run", "dpo", base=base, config=config), reference="live")
    assert any(isinstance(module, nn.Dropout) for module in work.policy.model.modules())
    for micro in work.plan.step(1):
        values, _ = work.read_pairs(micro)
        assert torch.count_nonzero(values.chosen) == 0


@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
def test_the_policy_is_back_after_an_error_in_the_reference(lora: Any, tmp_path: Path, llama: Path) -> None:
    """An exception while the reference reads leaves the trained weights in place."""
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=QUICK | {"lora": lora})
    work = opened(folder, reference="live")
    with torch.no_grad():
        for value in work.policy.model.parameters():
            if value.requires_grad:
                value += 0.1
    batch = make_batch(some_groups(work.policy), causal=True)
    before = work.policy.token_logprobs(batch)

    def fail_in_the_reference() -> None:
        with work._frozen():
            assert not torch.equal(work.policy.token_logprobs(batch), before)
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail_in_the_reference()
    assert torch.equal(work.policy.token_logprobs(batch), before)


def test_a_log_ratio_does_not_drown_in_long_sums() -> None:
    """A thousand tokens of −8 each with a difference of 1e-5 per token: the sums alone would lose it."""
    group = EncodedGroup(prefix=[1], blocks=[[2] * 1000, [2]], starts=[0, 0])
    reference = torch.full((1001,), -8.0)
    policy = reference.clone()
    policy[:1000] += 1e-5
    values = pair_values(policy, reference, [Example(Group(prompt=""), group, [Pair(0, 1)])])
    exact = float((policy[:1000].double() - reference[:1000].double()).sum())
    assert values.chosen.item() == pytest.approx(exact, rel=1e-5)


def test_masks_and_lengths_count_the_same_tokens(llama: Path) -> None:
    """Tokens per answer are those whose log-probabilities are summed, the end token included."""
    model = open_model(llama)
    groups = some_groups(model)
    batch = make_batch(groups, causal=True)
    assert len(model.token_logprobs(batch)) == sum(batch.counts)
    assert batch.counts == [len(answer) for group in groups for answer in group.answers]
    assert all(answer[-1] == model.end_ids[0] for group in groups for answer in group.answers)


def test_aot_does_not_depend_on_the_layout(tmp_path: Path, llama: Path) -> None:
    """Quantiles of the whole batch, not of micro-batches: sorting each of two halves would give other
    losses.
    """
    found = []
    for size in (12, 5, 1):
        config = QUICK | {"loss": "aot", "pairs": "majority", "batch_size": 12, "micro_batch_size": size}
        config |= {"max_steps": 3, "learning_rate": 1e-2}
        folder = make_run(tmp_path / str(size), "dpo", base=llama, config=config)
        assert run(folder) == 0
        found.append([line["loss"] for line in metrics(folder)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0] == pytest.approx(found[2], rel=1e-4)


def test_a_moving_reference_moves(tmp_path: Path, llama: Path) -> None:
    """Moved all the way after every step, the reference is always the policy: the loss stays ln 2."""
    config = QUICK | {"reference": "live", "sync_reference_every": 1, "sync_reference_mix": 1.0}
    config |= {"max_steps": 4, "learning_rate": 1e-2}
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=config)
    assert run(folder) == 0
    assert [line["loss"] for line in metrics(folder)] == pytest.approx([math.log(2)] * 4, abs=1e-6)


@pytest.mark.system("s000-077")
def test_dynamic_fine_tuning_by_hand(tmp_path: Path, llama: Path) -> None:
    """p = ¼: ¼ ln 4, with the slope −p in log p, where likelihood has −1: a rare token no longer
    dominates.
    """
    logp = torch.tensor([0.25, 0.9]).log().requires_grad_(True)
    loss = dft_loss(logp)
    assert loss[0].item() == pytest.approx(0.25 * math.log(4))
    loss.sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([-0.25, -0.9])
    plain = torch.tensor([0.25, 0.9]).log().requires_grad_(True)
    sft_loss(plain).sum().backward()
    assert plain.grad is not None
    assert plain.grad.tolist() == [-1, -1]
    folder = make_run(tmp_path / "run", "sft", base=llama, config=QUICK | {"loss": "dft", "max_steps": 2})
    assert run(folder) == 0


@pytest.mark.system("s000-075")
def test_the_worst_group_counts_more(tmp_path: Path, llama: Path) -> None:
    """Two groups that want opposite things, one with a tenth of the votes: its loss ends lower than without
    robustness.
    """
    given = pair_rows(20)
    for at, row in enumerate(given):
        few = at % 10 == 0
        row["judgements"] = [{"choice": int(few), "annotator_group": "few" if few else "many"}]
    minority = [row for row in given if row["judgements"][0]["annotator_group"] == "few"]
    losses = {}
    for step in (None, 3.0):
        config = QUICK | {"max_steps": 8, "batch_size": 20, "learning_rate": 1e-3}
        folder = make_run(
            tmp_path / str(step),
            "dpo",
            base=llama,
            config=config | {"group_step": step},
            rows=given,
            held_out=minority,
        )
        assert run(folder) == 0
        losses[step] = metrics(folder)[-1]["eval/loss"]
    assert losses[3.0] < losses[None]
