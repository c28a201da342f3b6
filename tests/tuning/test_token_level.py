"""Tokens that count more or less, and divergences token by token: TDPO, TGDPO, SparsePO, marks and edits."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tuning.test_text_batches import open_model, some_groups
from tests.tuning.text_models import tiny_tokenizer
from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, result_weights, run
from training.tuning.data import Group, Mark
from training.tuning.losses.dpo import dpo_loss
from training.tuning.losses.token_level import guided_weights, rrpo_loss, tdpo1_loss, tdpo2_loss
from training.tuning.methods.tdpo import TokenMasks, pair_metrics_of
from training.tuning.pairs import Pair
from training.tuning.text.batches import make_batch
from training.tuning.text.dataset import Example
from training.tuning.text.direct import Reading
from training.tuning.text.logprobs import token_kl, token_log_sum_squares
from training.tuning.text.token_weights import by_length, edit_weights, marked_weights, token_weights
from training.tuning.text.tokens import EncodedGroup, GroupTokenizer


def numbers(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], requires_grad=True) for value in values]


def heads(*rows: list[float]) -> torch.Tensor:
    """States that an identity matrix turns into these log-probabilities."""
    return torch.tensor(rows).log()


def test_divergence_by_hand() -> None:
    """π_ref (.5, .5), π (.8, .2): ½ ln(.5 / .8) + ½ ln(.5 / .2) = .2231; and nothing where they agree."""
    kl = token_kl(
        heads([0.8, 0.2], [0.5, 0.5]), torch.eye(2), None, heads([0.5, 0.5], [0.5, 0.5]), torch.eye(2),
        dtype=torch.float32,
    )  # fmt: skip
    assert kl.tolist() == pytest.approx([0.2231, 0.0], abs=5e-5)
    assert kl[1] == 0


def test_divergence_equals_full_logits(causal_folder: Callable[[str], Path]) -> None:
    """Values and gradients of the chunked form, with small chunks, against the distributions themselves."""
    model = open_model(causal_folder("qwen2"), torch.float64)
    batch = make_batch(some_groups(model), causal=True)
    other = open_model(causal_folder("qwen2"), torch.float64)
    with torch.no_grad():
        for value in other.model.parameters():
            value.mul_(1.1)
        reference = other.answer_states(batch)
    states, head = model.answer_states(batch), model.lm_head
    log_q = (reference @ other.lm_head.weight.detach().T).log_softmax(1)
    expected = (log_q.exp() * (log_q - (states @ head.weight.T).log_softmax(1))).sum(1)
    weights = torch.linspace(0, 1, len(expected), dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weights).sum(), list(model.model.parameters()))
    states = model.answer_states(batch)
    got = token_kl(states, head.weight, None, reference, other.lm_head.weight, dtype=torch.float64)
    torch.testing.assert_close(got, expected)
    found = torch.autograd.grad((got * weights).sum(), list(model.model.parameters()))
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_sum_of_squares_by_hand() -> None:
    """ln(.8² + .2²) = ln .68; of a fair coin ln ½."""
    found = token_log_sum_squares(heads([0.8, 0.2], [0.5, 0.5]), torch.eye(2), None, dtype=torch.float32)
    assert found.tolist() == pytest.approx([math.log(0.68), math.log(0.5)])


@pytest.mark.system("s001-007")
def test_tdpo_by_hand() -> None:
    """Equal at α = 1, where only TDPO1's gradient flows through the chosen answer's divergence."""
    values = (1.0, -2.0, 0.3, 0.8)
    z = 0.5 * (3 - 0.5)
    one, two = numbers(*values), numbers(*values)
    first = tdpo1_loss(*one, beta=0.5)
    second = tdpo2_loss(*two, beta=0.5, alpha=1.0)
    assert first.item() == second.item() == pytest.approx(math.log1p(math.exp(-z)))
    first.sum().backward()
    second.sum().backward()
    assert one[2].grad is not None
    assert one[2].grad.item() == pytest.approx(-0.5 * torch.sigmoid(torch.tensor(-z)).item())
    assert two[2].grad is None
    assert two[3].grad is not None
    assert two[3].grad.item() > 0  # the rejected answer's divergence is pushed down
    assert tdpo2_loss(*numbers(0.0, 0.0, 0.0, 0.0), beta=0.1, alpha=0.5).item() == pytest.approx(math.log(2))
    plain = dpo_loss(torch.tensor([1.0]), torch.tensor([-2.0]), beta=0.5)
    assert tdpo2_loss(*two, beta=0.5, alpha=0.0).item() == pytest.approx(plain.item())


@pytest.mark.system("s001-001")
def test_tgdpo_by_hand() -> None:
    """ρ 2, α ½, β .1: the chosen token weighs 1.1, so β r = .11 and the loss is .6397; the rejected .9."""
    chosen, rejected = guided_weights(torch.tensor([2.0]), alpha=0.5, beta=0.1)
    assert (chosen.item(), rejected.item()) == (pytest.approx(1.1), pytest.approx(0.9))
    loss = dpo_loss(chosen * torch.ones(1), rejected * torch.zeros(1), beta=0.1)
    assert loss.item() == pytest.approx(0.6397, abs=5e-5)
    none, _ = guided_weights(torch.tensor([0.0, 3.0]), alpha=0.0, beta=0.1)
    assert none.tolist() == [1, 1]


@pytest.mark.system("s001-001")
def test_tgdpo_run(tmp_path: Path, llama: Path, capsys: Any) -> None:
    """A tuned policy as guide changes what is learnt; one that agrees with its reference changes nothing."""
    config = QUICK | {"max_steps": 3, "learning_rate": 1e-2, "lora": {"r": 4}}
    tuned = make_run(tmp_path / "tuned", "dpo", base=llama, config=config | {"beta": 0.5})
    assert run(tuned) == 0
    still = make_run(tmp_path / "still", "dpo", base=llama, config=config | {"learning_rate": 1e-30})
    assert run(still) == 0
    found = {}
    for name, guide in (("none", None), ("tuned", tuned), ("still", still)):
        reward = {"reward": [{"model": str(guide / "result")}]} if guide else {}
        folder = make_run(
            tmp_path / f"by {name}", "dpo", base=llama, config=config | {"guidance": 5.0}, **reward
        )
        assert run(folder) == 0
        assert metrics(folder)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
        found[name] = result_weights(folder)
    for name, value in found["none"].items():
        torch.testing.assert_close(value, found["still"][name], rtol=1e-4, atol=1e-6)
    assert any((value - found["tuned"][name]).abs().max() > 1e-4 for name, value in found["none"].items())
    two = [{"model": str(tuned / "result")}, {"rule": "length:5"}]
    assert run(make_run(tmp_path / "two", "dpo", base=llama, config=config, reward=two)) == 1
    assert "one tuned policy as its guide" in capsys.readouterr().err


def reading() -> tuple[Reading, torch.Tensor]:
    """One pair, two tokens against one: log-ratios (.4, −.1) and .3, divergences (.02, .05) and .01."""
    group = EncodedGroup(prefix=[1], blocks=[[2, 3], [4]], starts=[0, 0])
    example = Example(Group(prompt=""), group, [Pair(0, 1)])
    policy = torch.tensor([0.4, -0.1, 0.3])
    batch = make_batch([group], causal=True)
    return Reading(batch, [example], policy, torch.zeros(3)), torch.tensor([0.02, 0.05, 0.01])


def sparse(**changes: Any) -> SimpleNamespace:
    keys = {
        "loss": "sparse",
        "beta": 0.5,
        "mask_penalty": 0.0,
        "ld_alpha": None,
        "focus": "all",
        "alpha": 0.5,
    }
    return SimpleNamespace(**keys | changes)


@pytest.mark.system("s001-012")
def test_sparse_masks_by_hand() -> None:
    """Masks of 1 are TDPO1, of 0 give ln 2; of one token alone its own terms; the penalty is their mean."""
    given, kl = reading()
    one, none = torch.ones(3), torch.zeros(3)

    def loss(masks: tuple[torch.Tensor, torch.Tensor], **changes: Any) -> float:
        return pair_metrics_of(given, kl, sparse(**changes), masks=masks)["loss"].item()

    tdpo1 = tdpo1_loss(*(torch.tensor([x]) for x in (0.3, 0.3, 0.07, 0.01)), beta=0.5)
    assert pair_metrics_of(given, kl, sparse(), masks=(one, one))["loss"].item() == pytest.approx(
        tdpo1.item()
    )
    assert pair_metrics_of(given, kl, sparse(), masks=(none, none))["loss"].item() == pytest.approx(
        math.log(2)
    )
    # u = β(.4 − 2 · .3), δ = β(.01 · 0 − .02 · 1): z = ½ (−.2 + .02)
    masks = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    assert loss(masks, mask_penalty=3.0) == pytest.approx(math.log1p(math.exp(0.09)) + 3 * 4 / 3)


@pytest.mark.system("s001-012")
def test_sparse_masks_are_learnt() -> None:
    """Not negative, and they get a gradient while the reference's states get none; the penalty thins them
    out.
    """
    masks, states = TokenMasks(4), torch.randn(3, 4, requires_grad=True)
    given, kl = reading()
    found = masks(states)
    assert all((mask >= 0).all() for mask in found)
    pair_metrics_of(given, kl, sparse(mask_penalty=0.1), masks=found)["loss"].sum().backward()
    assert states.grad is None
    assert masks.linear.weight.grad is not None
    assert masks.linear.weight.grad.abs().sum() > 0


@pytest.mark.system("s001-015")
def test_rrpo_by_hand() -> None:
    """Only the differing tokens carry the reward: 5 against 7 of (1, 5, 3) and (1, 7, 3); α D_w is added."""
    chosen, rejected = edit_weights([1, 5, 3], [1, 7, 3], rest=0.0)
    assert chosen.tolist() == rejected.tolist() == [0, 1, 0]
    ratios = torch.tensor([0.9, 0.4, -2.0]), torch.tensor([0.9, -0.6, 5.0])
    sides = [(ratio * weight).sum()[None] for ratio, weight in zip(ratios, (chosen, rejected), strict=True)]
    loss = rrpo_loss(*sides, torch.tensor([0.3]), beta=2.0, alpha=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)) + 0.15)


def test_edits_by_hand() -> None:
    """Insertions and what both share, in order; the rest may count a little."""
    chosen, rejected = edit_weights([1, 2, 3, 9], [1, 3, 9, 9], rest=0.25)
    assert chosen.tolist() == [0.25, 1, 0.25, 0.25]
    assert rejected.tolist() == [0.25, 0.25, 0.25, 1]


def test_lengths_by_hand() -> None:
    """Three tokens against one: two of them are beyond what the other has."""
    group = EncodedGroup(prefix=[1], blocks=[[2, 3, 4], [5]], starts=[0, 0])
    chosen, rejected = by_length(Example(Group(prompt=""), group), Pair(0, 1), alpha=0.3)
    assert chosen.tolist() == pytest.approx([1, 0.3, 0.3])
    assert rejected.tolist() == [1]


def span(start: int, end: int) -> Mark:
    return Mark(candidate=0, type="span", start=start, end=end)


def test_marks_by_hand() -> None:
    """Tokens that touch a span count; an end token, which holds no character, does not; no marks: all do."""
    offsets = [(0, 3), (3, 5), (5, 9), (9, 9)]
    assert marked_weights(offsets, [span(4, 6)], rest=0.5).tolist() == [0.5, 1, 1, 0.5]
    assert marked_weights(offsets, [span(0, 1), span(5, 6)], rest=0.0).tolist() == [1, 0, 1, 0]
    assert marked_weights(offsets, [], rest=0.0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_tokens_know_their_characters(template: str) -> None:
    """Each token's characters are those of the candidate's own text, whatever the template puts around it."""
    tokenizer = tiny_tokenizer() if template == "chat" else tiny_tokenizer(template=None)
    reader = GroupTokenizer(tokenizer, context=100, end_ids=[2])
    reader.with_offsets = True
    answers = ["Open the settings, then wait. ", "Press"]
    group = reader.encode("How do I reset it? ", list(answers))
    assert group.offsets is not None
    for text, ids, places in zip(answers, group.answers, group.offsets, strict=True):
        assert len(ids) == len(places)
        for token, (start, end) in zip(ids, places, strict=True):
            assert tokenizer.decode([token]).strip() in (text[start:end].strip(), "</s>")
        assert places[-1][0] == places[-1][1]
    short = GroupTokenizer(tokenizer, context=len(group.prefix) + 2, end_ids=[2])
    short.with_offsets = True
    cut = short.encode("How do I reset it? ", list(answers))
    assert cut.offsets is not None
    assert [len(places) for places in cut.offsets] == [len(ids) for ids in cut.answers]


def test_marks_reach_the_loss(tmp_path: Path, llama: Path) -> None:
    """With everything marked the run is the plain one; with one word marked it is another."""
    rows = pair_rows()
    config = QUICK | {"max_steps": 3, "learning_rate": 1e-2}

    def marked(end: int | None) -> list[dict[str, Any]]:
        copies = json.loads(json.dumps(rows))
        for row in copies:
            row["judgements"][0]["marks"] = [
                {"candidate": at, "type": "span", "start": 0, "end": end or len(one["text"])}
                for at, one in enumerate(row["candidates"])
            ]
        return copies

    def logps(name: str, given: list[dict[str, Any]], **keys: Any) -> float:
        folder = make_run(tmp_path / name, "dpo", base=llama, config=config | keys, rows=given)
        assert run(folder) == 0
        return float(metrics(folder)[0]["logps/chosen"])

    plain = logps("plain", rows)
    # The end token is in no span.
    assert logps("all", marked(None), focus="marks", rest_weight=1.0) == pytest.approx(plain)
    assert logps("unmarked", rows, focus="marks") == pytest.approx(plain)
    assert plain < logps("one", marked(1), focus="marks") < 0


def test_sources_of_weights_multiply() -> None:
    group = EncodedGroup(prefix=[1], blocks=[[2, 3, 4], [5]], starts=[0, 0])
    config = SimpleNamespace(ld_alpha=0.5, focus="edits", rest_weight=0.1)
    weigh = token_weights(config)
    assert weigh is not None
    chosen, rejected = weigh(Example(Group(prompt=""), group), Pair(0, 1))
    assert chosen.tolist() == [1, 0.5, 0.5]
    assert rejected.tolist() == [1]
    assert token_weights(SimpleNamespace(ld_alpha=1.0, focus="all")) is None


@pytest.mark.parametrize("loss", ["tdpo1", "tdpo2", "sparse", "rrpo"])
@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_first_loss_of_token_level_runs(
    loss: str, lora: Any, precision: str, tmp_path: Path, llama: Path
) -> None:
    """ln 2 and no divergence at all, with the other reading made live beside the policy's."""
    config = QUICK | {"loss": loss, "lora": lora, "precision": precision, "max_steps": 2}
    config |= {"mask_penalty": 0.0} if loss == "sparse" else {}
    folder = make_run(tmp_path / "run", "tdpo", base=llama, config=config)
    assert run(folder) == 0
    first, last = metrics(folder)[0], metrics(folder)[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["kl/chosen"] == first["kl/rejected"] == first["rewards/margin"] == 0
    assert last["kl/chosen"] > 0


@pytest.mark.system("s001-007")
def test_tdpo_holds_the_divergence(tmp_path: Path, llama: Path) -> None:
    """The claimed effect: with α the rejected answers' divergence stays smaller than without."""
    drift = {}
    for alpha in (0.0, 10.0):
        config = QUICK | {"alpha": alpha, "learning_rate": 1e-2, "max_steps": 20, "lora": {"r": 4}}
        folder = make_run(tmp_path / str(alpha), "tdpo", base=llama, config=config)
        assert run(folder) == 0
        drift[alpha] = metrics(folder)[-1]["kl/rejected"]
    assert drift[10.0] < 0.5 * drift[0.0]
