"""On-policy distillation: the divergence by hand and as in TRL, the teacher reached, and runs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.test_grpo import PROMPTS, QUICK, make
from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import make_run, metrics, result_weights, run
from training.tuning.__main__ import main
from training.tuning.losses.distillation import generalised_jsd
from training.tuning.text.logprobs import token_divergence

STUDENT = {"method": "distillation", "num_generations": None}


@pytest.fixture(scope="module")
def student(learner: Callable[[str], Path]) -> Path:
    return learner("llama")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: Any) -> Path:
    """Another seed, another width, a larger vocabulary by padding: as teachers are."""
    folder: Path = tmp_path_factory.mktemp("teacher")
    return save_causal(folder, "llama", seed=5, hidden_size=48, intermediate_size=96)


def test_divergence_by_hand() -> None:
    """p = (.5, .5), q = (.9, .1): KL(q ‖ p) = .9 ln 1.8 + .1 ln .2; KL(p ‖ q) = .5 ln (.25 / .09); β = ½: the
    mean of the distances to (.7, .3)."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    forward = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    reverse = 0.5 * math.log(0.25 / 0.09)
    of_q = 0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3)
    middle = (of_q + 0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3)) / 2
    for beta, wanted in ((0.0, forward), (1.0, reverse), (0.5, middle)):
        assert generalised_jsd(p, q, beta=beta).item() == pytest.approx(wanted, abs=1e-6)
        assert generalised_jsd(p, p, beta=beta).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_divergence_is_trls(beta: float) -> None:
    trainer = pytest.importorskip("trl.experimental.gkd.gkd_trainer").GKDTrainer
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 7, 11, generator=generator, requires_grad=True) for _ in range(2))
    labels = torch.ones(2, 7, dtype=torch.long)
    labels[0, :3] = labels[1, 5:] = -100
    kept = labels != -100
    expected = trainer.generalized_jsd_loss(one, other.detach(), labels, beta=beta)
    found = generalised_jsd(one[kept].log_softmax(1), other[kept].detach().log_softmax(1), beta=beta).mean()
    torch.testing.assert_close(found, expected)
    (mine,), (its,) = torch.autograd.grad(found, [one]), torch.autograd.grad(expected, [one])
    torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_student_reaches_the_teacher(beta: float) -> None:
    """A bandit of four answers: every divergence has its only minimum at the teacher."""
    teacher = torch.tensor([[0.7, 0.2, 0.09, 0.01]], dtype=torch.float64).log()
    logits = torch.tensor([[0.0, 0.0, 2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(1500):
        optimizer.zero_grad()
        generalised_jsd(logits.log_softmax(1), teacher, beta=beta).mean().backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach().log_softmax(1).exp(), teacher.exp(), atol=1e-4, rtol=0)


def test_padding_of_a_vocabulary_is_left_out() -> None:
    """A teacher with two rows more than the student has is read without them, with gradients as without."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 4, generator=generator, requires_grad=True)
    weight, its = torch.randn(6, 4, generator=generator), torch.randn(8, 3, generator=generator)
    other = torch.randn(5, 3, generator=generator)

    def distance(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        return generalised_jsd(log_p, log_q, beta=0.5)

    cut = token_divergence((states, weight, None), (other, its, None), distance, dtype=torch.float32)
    plain = distance((states @ weight.T).log_softmax(1), (other @ its[:6].T).log_softmax(1))
    torch.testing.assert_close(cut, plain)
    for one, two in zip(
        torch.autograd.grad(cut.sum(), [states]), torch.autograd.grad(plain.sum(), [states]), strict=True
    ):
        torch.testing.assert_close(one, two)


def distil(folder: Path, student: Path, teacher: Path, **config: Any) -> Path:
    return make(folder, student, reward=[{"model": str(teacher)}], **STUDENT | config)


def test_a_student_becomes_like_its_teacher(tmp_path: Path, student: Path, teacher: Path) -> None:
    """On its own answers, of one token: the divergence falls to a small part of what it was."""
    config = {"lora": None, "learning_rate": 5e-3, "scheduler": "cosine", "max_steps": 60, "batch_size": 6}
    config["max_new_tokens"] = 1
    folder = distil(tmp_path / "run", student, teacher, interpolation=0.5, **config)
    assert run(folder) == 0
    losses = [row["loss"] for row in metrics(folder)]
    assert metrics(folder)[0]["kl"] == 0
    assert sum(losses[-5:]) / 5 < 0.25 * losses[0]


def test_a_teacher_that_is_the_student_teaches_nothing(tmp_path: Path, student: Path) -> None:
    folder = distil(tmp_path / "run", student, student, max_steps=2, interpolation=1.0)
    assert run(folder) == 0
    assert [row["loss"] for row in metrics(folder)] == pytest.approx([0, 0], abs=1e-6)


def test_resumed_equals_uninterrupted(tmp_path: Path, student: Path, teacher: Path) -> None:
    config = {"max_steps": 4, "save_every": 2, "eval_every": 2}
    whole, parts, cut = (
        distil(tmp_path / name, student, teacher, **config) for name in ("whole", "parts", "cut")
    )
    assert run(whole) == run(cut) == 0
    (cut / "checkpoint-000002").rename(parts / "checkpoint-000002")
    assert main([str(parts)]) == 0
    assert metrics(parts)[-2:] == metrics(whole)[-2:]
    for name, value in result_weights(whole).items():
        assert torch.equal(value, result_weights(parts)[name])


def test_answers_of_the_rows_and_of_the_student(tmp_path: Path, student: Path, teacher: Path) -> None:
    """With on_policy 0 every step learns on the rows' answers, several to a prompt; ½ takes both in turn."""
    rows = [row | {"candidates": [{"text": "a good answer"}, {"text": "another"}]} for row in PROMPTS]
    keys = {name: value for name, value in QUICK.items() if name != "num_generations"} | {"max_steps": 6}
    lengths = {}
    for share in (0.0, 0.5):
        folder = make_run(
            tmp_path / str(share), "distillation", base=student, rows=rows, held_out=PROMPTS[:2],
            config=keys | {"on_policy": share}, reward=[{"model": str(teacher)}],
        )  # fmt: skip
        assert run(folder) == 0
        found = metrics(folder)
        lengths[share] = {round(row["answers/length"], 3) for row in found if "answers/length" in row}
        assert "eval/loss" in found[-1]
    assert len(lengths[0.0]) == 1
    assert len(lengths[0.5] - lengths[0.0]) >= 1
    assert run(distil(tmp_path / "none", student, teacher, on_policy=0.5)) == 1  # rows without answers


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ([{"rule": "words"}], "one language model as its teacher"),
        ([{"model": "TEACHER", "weight": 2.0}], "one language model as its teacher"),
    ],
)
def test_what_is_no_teacher(
    tmp_path: Path, student: Path, teacher: Path, reward: Any, words: str, capsys: Any
) -> None:
    named = [{**one, "model": str(teacher)} if "model" in one else one for one in reward]
    assert run(make(tmp_path / "run", student, reward=named, **STUDENT)) == 1
    assert words in capsys.readouterr().err
