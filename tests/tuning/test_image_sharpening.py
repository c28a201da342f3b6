"""Diffusion-Sharpening: the best noise learns; and pairs that rewards label."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tuning.image_models import save_pipeline
from tests.tuning.image_runs import cancelled_after, make_run, metrics, pair_rows, read_rows, run
from tests.tuning.test_image_direct import LORA, values
from training.tuning.config import DiffusionSharpeningConfig
from training.tuning.data import Group
from training.tuning.errors import EXIT_CANCELLED, EXIT_DONE
from training.tuning.losses.sharpening import best_and_worst, sharpening_dpo_loss
from training.tuning.methods import diffusion_sharpening
from training.tuning.methods.image_score import judged_pairs

QUICK: dict[str, Any] = {
    "max_steps": 3,
    "batch_size": 4,
    "lora": LORA,
    "learning_rate": 1e-3,
    "warmup": 0,
    "log_every": 1,
    "save_every": 1,
    "samples": 0,
    "num_inference_steps": 3,
    "guidance_scale": 1.0,
    "roll": 2,
}
BRIGHT = [{"rule": "brightness"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.mark.system("s000-045")
def test_best_and_worst_noise_by_hand():
    """Rewards 1, 3, 2: the second is best, the first worst. At the reference ln 2, with slopes ±β/2."""
    best, worst = best_and_worst(torch.tensor([[1.0, 3.0, 2.0]]))
    assert (best.item(), worst.item()) == (1, 0)
    good, bad = (torch.tensor([0.3], requires_grad=True) for _ in range(2))
    loss = sharpening_dpo_loss(good, bad, good.detach(), bad.detach(), beta=2500.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert (good.grad.item(), bad.grad.item()) == (1250.0, -1250.0)


@pytest.mark.system("s000-045")
def test_only_the_best_noise_has_a_gradient(base, tmp_path, monkeypatch):
    """Three noises scored 1, 3, 2 in turn: what learns is the second of every picture."""
    given = iter([1.0, 3.0, 2.0] * 8)
    tried, learnt = [], []
    roll, noise_error = diffusion_sharpening.roll, diffusion_sharpening.noise_error
    monkeypatch.setattr(diffusion_sharpening, "score", lambda *args: torch.tensor(next(given)))
    monkeypatch.setattr(diffusion_sharpening, "roll", lambda *args: tried.append(roll(*args)) or tried[-1])
    monkeypatch.setattr(
        diffusion_sharpening, "noise_error", lambda *args: learnt.append(args[2]) or noise_error(*args)
    )
    folder = make_run(
        tmp_path / "run", "diffusion_sharpening", base=base, config=QUICK | {"max_steps": 1}, reward=BRIGHT
    )
    assert run(folder) == EXIT_DONE
    assert len(tried) == 24
    assert [one is other for one, other in zip(learnt, tried[1::3], strict=True)] == [True] * 8
    assert len({float(one.noise.sum()) for one in tried}) == 24
    assert metrics(folder)[0]["reward_gap"] == 2


@pytest.mark.system("s000-045")
@pytest.mark.parametrize("loss", ["sft", "rlhf"])
def test_resuming_equals_not_stopping(base, tmp_path, loss):
    config = QUICK | ({"loss": "rlhf", "beta": 50.0, "lora": None} if loss == "rlhf" else {})
    folders = [tmp_path / "through", tmp_path / "stopped"]
    for folder in folders:
        rows = pair_rows(folder / "data" / "media", count=4)
        make_run(
            folder,
            "diffusion_sharpening",
            base=base,
            config=config,
            rows=rows,
            held_out=rows[:1],
            reward=BRIGHT,
        )
    assert run(folders[0]) == EXIT_DONE
    with cancelled_after(2):
        assert run(folders[1]) == EXIT_CANCELLED
    assert run(folders[1]) == EXIT_DONE
    found = [values(folder, "loss", "reward", "grad_norm") for folder in folders]
    assert found[0] == found[1]
    if loss == "rlhf":
        assert found[0][0][0] == pytest.approx(math.log(2), abs=1e-6)
    assert "eval/error" in metrics(folders[0])[-1]


def test_keys_without_a_use_are_refused():
    for keys in ({"beta": 5.0}, {"timestep_low": 0.5}, {"num_inference_steps": 2}):
        with pytest.raises(ValueError, match=r"beta|no use|num_inference_steps"):
            DiffusionSharpeningConfig(**keys)


def edited(change: float) -> tuple[list[Group], list[list[float | None]]]:
    """Pictures and their edits, by how much an edit changes the score."""
    rows = [
        Group.model_validate(
            {
                "prompt": f"p{number}",
                "candidates": [{"image": f"{number}.png"}, {"image": f"{number}-edit.png"}],
            }
        )
        for number in range(3)
    ]
    return rows, [[float(number), number + change] for number in range(3)]


def test_edits_are_labelled_by_the_reward_and_near_ties_dropped():
    """An editor that does nothing gives no pair; if it helps the edit wins, if it harms it loses."""
    assert judged_pairs(*edited(0.0), margin=0.0) == []
    for change, choice in ((0.5, 1), (-0.5, 0)):
        pairs = judged_pairs(*edited(change), margin=0.2)
        assert [row["judgements"] for row in pairs] == [[{"kind": "judge", "choice": choice}]] * 3
        assert [one["image"] for one in pairs[0]["candidates"]] == ["0.png", "0-edit.png"]
    assert judged_pairs(*edited(0.1), margin=0.2) == []
    assert judged_pairs(edited(1.0)[0], [[None, 1.0], [], [2.0, 1.0]], margin=0.0)[0]["prompt"] == "p2"


def test_labelled_edits_train(base, tmp_path):
    """Scored by brightness, the brighter edit wins, and Diffusion-DPO takes the rows as they are."""
    media = tmp_path / "score" / "data" / "media"
    rows = pair_rows(media, count=2)
    for row in rows:
        del row["judgements"]
        Image.new("RGB", (16, 16), "white").save(media / row["candidates"][1]["image"])
    config = {"select": "pairs", "margin": 0.1}
    folder = make_run(tmp_path / "score", "image_score", base=None, config=config, rows=rows, reward=BRIGHT)
    assert run(folder) == EXIT_DONE
    chosen = read_rows(folder / "result" / "selected.jsonl")
    assert [row["judgements"][0]["choice"] for row in chosen] == [1, 1]
    tuned = tmp_path / "tuned"
    (tuned / "data").mkdir(parents=True)
    (tuned / "data" / "media").symlink_to(media)
    config = {key: value for key, value in QUICK.items() if key != "roll"} | {"max_steps": 1}
    assert run(make_run(tuned, "diffusion_dpo", base=base, config=config, rows=chosen)) == EXIT_DONE
