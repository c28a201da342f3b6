"""Reward models for unfinished pictures (TTSnap)."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tuning.gaussians import MEAN, SPREAD
from tests.tuning.image_models import save_pipeline
from tests.tuning.image_runs import cancelled_after, make_run, metrics, read_rows, run
from tests.tuning.tilted import exact, flow, noise
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.reward_files import load_image_reward, save_image_reward
from training.tuning.images.schedules import ddim
from training.tuning.images.search.best_of_n import Cut, best_of_n
from training.tuning.images.search.walk import Walk, one_generator
from training.tuning.methods.early_reward_model import distillation_loss, rows_of
from training.tuning.rewards.pictures import PictureReward
from training.tuning.run import Run
from training.tuning.rundir import RunDir

QUICK: dict[str, Any] = {
    "levels": [0.25, 0.5],
    "samples_per_prompt": 4,
    "batch_size": 4,
    "epochs": 2,
    "learning_rate": 3e-3,
    "warmup": 0,
    "log_every": 1,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
    "height": 16,
    "width": 16,
}
ROWS = [{"prompt": prompt} for prompt in ("a b", "c d")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    config = {"max_steps": 20, "width": 16, "hidden": 4, "learning_rate": 1e-2}
    assert run(make_run(folder, "image_reward_model", base=None, config=config)) == EXIT_DONE
    return folder / "result"


def make(folder: Path, base: Path, reward: Path, **changes: Any) -> Path:
    entries = [{"model": str(reward)}]
    config = QUICK | changes
    return make_run(folder, "early_reward_model", base=base, config=config, rows=ROWS, reward=entries)


@pytest.mark.system("s002-064")
def test_the_loss_by_hand():
    """Scores 1 and 3 for worths 2 and 3: (1 + 0) / 2, and the errors as slopes; none to RM."""
    said, worth = (torch.tensor(values, requires_grad=True) for values in ([[1.0], [3.0]], [[2.0], [3.0]]))
    loss = distillation_loss(said, worth)
    loss.backward()
    assert loss.item() == 0.5
    assert said.grad.flatten().tolist() == [-1.0, 0.0]
    assert worth.grad is None


@pytest.mark.system("s002-064")
def test_a_promise_that_knows_the_end_prunes_as_if_it_had_seen_it():
    """Gaussian data, no chance on the way, a reward that likes values near m + 1.5 s. Early estimates x̂_0
    shrink towards m, so that the reward itself keeps those that will overshoot. Scored as the end will be, of
    which x̂_0 is a linear function, nothing is lost.
    """
    schedule = flow(20)
    walk, start, goal = Walk.of(exact(schedule), ddim(schedule, eta=0.0)), noise(64), MEAN + 1.5 * SPREAD

    def score(x):
        return -(x - goal).square().flatten(1).sum(dim=1)

    ends = walk.draw(start, generators=one_generator(0))
    latents = start
    for index in range(4):
        latents = walk.propose(latents, index).mean
    estimates = walk.propose(latents, 4).clean
    # Linear from estimate to end, as everything is Gaussian: what distillation has to learn.
    both = torch.stack([estimates.flatten(), torch.ones(64).to(estimates)], dim=1)
    line = torch.linalg.lstsq(both, ends.flatten()[:, None]).solution.flatten()

    def promise(x, calls):
        assert calls == 5
        return score(line[0] * x + line[1])

    best = best_of_n(walk, score, start, generators=one_generator(0))
    given = {"cuts": [Cut(5, 0.02)], "generators": one_generator(0)}
    assert torch.equal(best_of_n(walk, score, start, promise=promise, **given), best)
    blind = best_of_n(walk, score, start, **given)
    assert score(blind) < score(best) - 0.1


def test_levels_are_learnt_from_clean_to_noisy(base, reward, tmp_path):
    """Each from the weights before, at a falling rate; each comes nearer to the reward's word."""
    folder = make(tmp_path, base, reward, epochs=20)
    assert run(folder) == EXIT_DONE
    rows = metrics(folder)
    assert [row["level"] for row in rows] == [0.5] * 40 + [0.25] * 40
    assert rows[0]["learning_rate"] == pytest.approx(3e-3)
    first, second = [row["loss"] for row in rows[:40]], [row["loss"] for row in rows[40:]]
    for losses in (first, second):
        assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    source = PictureReward(str(folder / "result"), device=torch.device("cpu"))
    assert sorted(source.early) == [0.25, 0.5]
    images = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    plain = PictureReward(str(reward), device=torch.device("cpu")).measure(["a b"] * 2, images).outputs
    assert torch.equal(source.measure(["a b"] * 2, images).outputs, plain)  # finished ones as ever
    for share, level in ((0.3, 0.25), (0.9, 0.5)):
        own = load_image_reward(folder / "result" / "early" / f"{level:g}").scores("a b", images)
        with source.judging_after(share):
            assert source.measure(["a b"] * 2, images).outputs[:, 0].tolist() == pytest.approx(own, rel=1e-5)


def test_it_resumes_exactly(base, reward, tmp_path):
    """Cancelled after six of eight steps, within the second level, and begun again."""
    whole, half = (make(tmp_path / name, base, reward) for name in ("whole", "half"))
    assert run(whole) == EXIT_DONE
    with cancelled_after(6):
        assert run(half) == EXIT_CANCELLED
    assert run(half) == EXIT_DONE
    one, other = (load_image_reward(folder / "result" / "early" / "0.25") for folder in (whole, half))
    mine = other.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in one.state_dict().items())


def test_every_picture_is_seen_once_in_a_pass(base, reward, tmp_path):
    folder = make(tmp_path, base, reward)
    opened = Run(RunDir(folder))
    for count in (8, 10):
        seen = [row for within in range(count // 2) for row in rows_of(opened, count, 0, within)]
        assert sorted(seen[:count]) == list(range(count))
        assert sorted(seen[count : 2 * count]) == list(range(count))
    assert rows_of(opened, 8, 0, 0) != rows_of(opened, 8, 1, 0)


def test_the_search_asks_the_early_models_at_its_cuts(base, reward, tmp_path):
    """A model for level 0.25 that says something else than the reward keeps another picture."""
    turned = tmp_path / "turned"
    shutil.copytree(reward, turned)
    model = load_image_reward(reward)
    with torch.no_grad():
        model.head.mlp[-1].weight.mul_(-1)
        model.head.log_scale.fill_(-30.0)
    save_image_reward(model, turned / "early" / "0.25")
    found = {}
    for name, folder in (("plain", reward), ("early", turned)):
        config = {"search": "best_of_n", "search_size": 8, "search_cuts": [0.25], "search_share": 0.13}
        config |= {key: QUICK[key] for key in ("num_inference_steps", "guidance_scale", "height", "width")}
        entries = [{"model": str(folder)}]
        made = make_run(
            tmp_path / name, "image_generate", base=base, config=config, rows=ROWS, reward=entries
        )
        assert run(made) == EXIT_DONE
        row = read_rows(made / "result" / "generations.jsonl")[0]
        found[name] = (made / "result" / "media" / row["candidates"][0]["image"]).read_bytes()
    assert found["plain"] != found["early"]


def test_one_image_reward_model_is_needed(base, tmp_path, capsys):
    rules = [{"rule": "brightness"}]
    folder = make_run(tmp_path, "early_reward_model", base=base, config=QUICK, rows=ROWS, reward=rules)
    assert run(folder) == EXIT_BAD_INPUT
    assert "one image reward model" in capsys.readouterr().err
