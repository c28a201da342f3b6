"""What must hold for every method that learns from given answers: its known first loss, the same updates
however a batch is split, and the same run when it was interrupted.
"""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.text_runs import QUICK, make_run, metrics, result_weights, run, sentence
from training.tuning.config import DPOConfig
from training.tuning.methods import kto
from training.tuning.run import Run
from training.tuning.rundir import RunDir
from training.tuning.text import direct
from training.tuning.text.dataset import choose_pairs
from training.tuning.text.direct import Direct

LN2 = math.log(2)


def rows(count: int = 12, *, seed: int = 0) -> list[dict[str, Any]]:
    """Groups of two answers with everything that somebody can say about them."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        choice = rng.randint(0, 1)
        found.append(
            {
                "prompt": sentence(rng, 2, 9),
                "candidates": [{"text": sentence(rng, 1, 6) + " a"}, {"text": sentence(rng, 1, 6) + " b"}],
                "judgements": [
                    {
                        "annotator": f"ann{rng.randint(0, 2)}",
                        "annotator_group": rng.choice(["x", "y"]),
                        "choice": choice,
                        "strength": rng.randint(1, 3),
                        "ratings": [{"quality": 5 - 4 * choice}, {"quality": 1 + 4 * choice}],
                    }
                ],
            }
        )
    return found


MAJORITY = {"pairs": "majority"}
# Config, and the loss before the first update: with log-ratios of 0 and the default beta of .1.
CASES: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "sigmoid": ("dpo", {}, LN2),
    "conservative": ("dpo", {"label_smoothing": 0.2}, LN2),
    "sigmoid_norm": ("dpo", {"loss": "sigmoid_norm"}, LN2),
    "hinge": ("dpo", {"loss": "hinge"}, 1),
    "ipo": ("dpo", {"loss": "ipo"}, 25),
    "ipo_norm": ("dpo", {"loss": "ipo_norm"}, 25),
    "exo_pair": ("dpo", {"loss": "exo_pair", "label_smoothing": 0.1}, math.log(5 / 3)),  # ½ ln(1 / (4 · .09))
    "nca_pair": ("dpo", {"loss": "nca_pair"}, 2 * LN2),
    "robust": ("dpo", {"loss": "robust", "label_smoothing": 0.2}, LN2),
    "bco_pair": ("dpo", {"loss": "bco_pair"}, 2 * LN2),
    "sppo_hard": ("dpo", {"loss": "sppo_hard"}, 50),
    "aot": ("dpo", {"loss": "aot", **MAJORITY}, LN2),
    "aot_unpaired": ("dpo", {"loss": "aot_unpaired", **MAJORITY}, LN2),
    "apo_zero": ("dpo", {"loss": "apo_zero"}, 1),
    "apo_down": ("dpo", {"loss": "apo_down"}, 1),
    "discopop": ("dpo", {"loss": "discopop"}, LN2 / 2 + 0.5),
    "forward_kl": ("dpo", {"f_divergence": "forward_kl"}, LN2),
    "davidson": ("dpo", {"ties": "davidson", "tie_rate": 1.0}, 2 * LN2),
    "rao_kupper": ("dpo", {"ties": "rao_kupper"}, 2 * LN2),
    "ld_alpha": ("dpo", {"ld_alpha": 0.3}, LN2),
    "on_policy": ("dpo", {"on_policy_weighting": True}, None),
    "margin": ("dpo", {"margin": 0.5}, None),
    "groups": ("dpo", {"group_step": 0.5}, LN2),
    "moving": ("dpo", {"reference": "live", "sync_reference_every": 2}, LN2),
    "tdpo": ("tdpo", {}, LN2),
    "sparse": ("tdpo", {"loss": "sparse", "mask_penalty": 0.0}, LN2),
    "kto": ("kto", {}, 0.5),
    "apo_zero_unpaired": ("kto", {"loss": "apo_zero_unpaired"}, 0.5),
    "uft": ("uft", {}, 0.25),
    "copg": ("copg", {}, 0.5),
    "orpo": ("orpo", {}, None),
    "simpo": ("simpo", {}, None),
    "alphapo": ("simpo", {"loss": "alphapo", "nll_weight": 0.5}, None),
    "cpo": ("cpo", {}, None),
    "redi": ("redi", {}, None),
}
# One of each kind of path: plain, coupled, remembering, weighing tokens, reading twice, without reference.
PATHS = [
    "sigmoid", "tdpo", "sparse", "bco_pair", "aot", "ld_alpha", "on_policy", "margin", "groups", "moving",
    "kto", "uft", "copg", "orpo", "alphapo", "cpo", "redi",
]  # fmt: skip


@pytest.mark.parametrize("case", [name for name, (_, _, first) in CASES.items() if first is not None])
def test_first_loss(case: str, tmp_path: Path, llama: Path) -> None:
    """Before the first update the policy is its reference: the loss has its value at log-ratios of 0."""
    method, config, first = CASES[case]
    config = QUICK | {"max_steps": 1, "micro_batch_size": 3} | config
    folder = make_run(tmp_path / "run", method, base=llama, config=config, rows=rows())
    assert run(folder) == 0
    values = metrics(folder)[0]
    assert values["loss"] == pytest.approx(first, abs=1e-6)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margin", "kl"):
        assert values.get(name, 0) == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize("reference", ["cached", "live"])
@pytest.mark.parametrize("size", [1, 12], ids=["alone", "packed"])
def test_log_ratios_are_exactly_zero_at_the_start(
    precision: str, lora: Any, reference: Any, size: int, tmp_path: Path, llama: Path
) -> None:
    """The one thing that all first losses follow from, in every way of computing it."""
    config = QUICK | {"precision": precision, "lora": lora, "micro_batch_size": size, "batch_size": 12}
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=config, rows=rows())
    opened = Run(RunDir(folder))
    work = Direct(opened, choose_pairs(opened.config), needs="", reference=reference)
    for micro in work.plan.step(1):
        values, _ = work.read_pairs(micro)
        assert torch.count_nonzero(values.chosen) == torch.count_nonzero(values.rejected) == 0
        assert values.reference_chosen.abs().min() > 1


@pytest.mark.parametrize("case", PATHS)
def test_splitting_a_batch_changes_nothing(case: str, tmp_path: Path, llama: Path) -> None:
    method, config, _ = CASES[case]
    config = QUICK | {"batch_size": 6, "max_steps": 3, "learning_rate": 1e-3, "optimizer": "sgd"} | config
    if method == "kto":
        config |= {"learning_rate": 1e-1}
    found = []
    for size in (6, 1):
        folder = make_run(
            tmp_path / str(size),
            method,
            base=llama,
            config=config | {"micro_batch_size": size},
            rows=rows(),
            held_out=rows(4, seed=1),
        )
        assert run(folder) == 0
        found.append((result_weights(folder), metrics(folder)))
    (one, logged), (two, logged_two) = found
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-6)
    for line, other in zip(logged, logged_two, strict=True):
        assert line == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("case", PATHS)
def test_resume_equals_uninterrupted(
    case: str, tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled after step 3 of 5 and run again: the same metrics, and weights equal to the last bit."""
    method, config, _ = CASES[case]
    config = QUICK | {"batch_size": 4, "max_steps": 5, "learning_rate": 1e-2} | config
    folders = [
        make_run(tmp_path / name, method, base=llama, config=config, rows=rows())
        for name in ("whole", "parts")
    ]
    assert run(folders[0]) == 0
    update = direct.update

    def cancel_in_step_three(*args: Any, **options: Any) -> Any:
        if options["step"] == 3:
            (folders[1] / "cancel").touch()
        return update(*args, **options)

    monkeypatch.setattr(direct, "update", cancel_in_step_three)
    assert run(folders[1]) == 130
    monkeypatch.setattr(direct, "update", update)
    assert run(folders[1]) == 0
    assert metrics(folders[0]) == metrics(folders[1])
    one, two = (result_weights(folder) for folder in folders)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("method", ["kto", "orpo", "simpo", "cpo", "uft", "copg"])
def test_it_learns(method: str, tmp_path: Path, learner: Callable[[str], Path]) -> None:
    """Answers that end in "a" are always the better ones: the loss falls on held-out ones too."""

    def always_a(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in found:
            row["judgements"] = [{"choice": 0, "ratings": [{"q": 5}, {"q": 1}]}]
        return found

    config = QUICK | {"learning_rate": 1e-2, "max_steps": 60, "lora": {"r": 8}, "log_every": 20}
    config |= {"beta": 1.0} if method in ("kto", "uft", "copg") else {}
    train, held_out = always_a(rows(32)), always_a(rows(12, seed=1))
    folder = make_run(
        tmp_path / "run", method, base=learner("llama"), config=config, rows=train, held_out=held_out
    )
    assert run(folder) == 0
    before, after = metrics(folder)[0], metrics(folder)[-1]
    assert after["eval/loss"] < 0.95 * before["loss"]


def test_kto_drift_is_that_of_mismatched_answers(tmp_path: Path, llama: Path) -> None:
    """z₀ is the mean log-ratio of each prompt with the next prompt's answer, whatever else is in the
    batch.
    """
    labels = [{"prompt": f"question {n}", "completion": f"answer {n}", "label": n % 2} for n in range(4)]
    config = QUICK | {"batch_size": 4, "max_steps": 4, "learning_rate": 5e-2, "warmup": 0}
    folder = make_run(tmp_path / "run", "kto", base=llama, config=config, rows=labels)
    opened = Run(RunDir(folder))
    work = Direct(opened, kto.choose(opened.config), needs="", reference="live")
    batch = [index for micro in work.plan.batches[0] for index in micro]
    others = kto.mismatch(work.tokenizer, work.examples, [batch], pool=work.examples)
    for at, index in enumerate(batch):
        following = work.examples[batch[(at + 1) % 4]]
        assert others[index].group.prompt == work.examples[index].group.prompt
        assert others[index].tokens.answers == following.tokens.answers
    assert run(folder) == 0
    assert metrics(folder)[0]["kl"] == 0


def test_kto_needs_two_prompts(tmp_path: Path, llama: Path, capsys: Any) -> None:
    labels = [{"prompt": "question", "completion": f"answer {n}", "label": n % 2} for n in range(4)]
    folder = make_run(tmp_path / "run", "kto", base=llama, config=QUICK, rows=labels)
    assert run(folder) == 1
    assert "answers to at least two prompts" in capsys.readouterr().err


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "smoothing": ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing does not work"),
    "exo": ({"loss": "exo_pair"}, "needs a label_smoothing above 0"),
    "robust": ({"loss": "robust"}, "needs a label_smoothing above 0"),
    "tau": ({"discopop_tau": 0.1}, "discopop_tau works with"),
    "divergence": ({"loss": "nca_pair", "f_divergence": "forward_kl"}, "f_divergence does not work"),
    "alpha": ({"alpha_divergence": 0.3}, "alpha_divergence needs"),
    "margin": ({"loss": "apo_zero", "margin": 1.0}, "margin needs"),
    "margin of a vote": ({"pairs": "soft", "margin": 1.0}, "margin needs"),
    "tie model": ({"ties": "davidson", "loss": "ipo"}, "go with the loss"),
    "tie rate": ({"tie_rate": 2.0}, "tie_rate needs"),
    "rao_kupper": ({"ties": "rao_kupper", "tie_rate": 1.0}, "is above 1"),
    "aot": ({"loss": "aot"}, 'needs "pairs": "majority"'),
    "groups": ({"group_step": 1.0, "loss": "bco_pair"}, "group_step needs"),
    "moving": ({"sync_reference_every": 3}, 'set "reference": "live"'),
    "weighting": ({"loss": "aot", "pairs": "majority", "on_policy_weighting": True}, "on_policy_weighting"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_keys_without_a_use_are_refused(name: str) -> None:
    config, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        DPOConfig(**config)
