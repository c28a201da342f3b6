"""GARDO: the divergence of doubtful pictures, a start that follows, and credit for unlike pictures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tuning.image_models import save_pipeline
from tests.tuning.image_runs import cancelled_after, make_run, metrics, run
from tests.tuning.test_image_online import QUICK, weights
from tests.tuning.test_image_online_gaussians import Shifted, flow, noise
from training.tuning.config import ImageRewardModelConfig
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.policy_gradient import surrogate
from training.tuning.images.reward_files import reward_for_training, save_image_reward
from training.tuning.images.trajectories import sample
from training.tuning.losses.advantages import group_relative
from training.tuning.losses.gating import (
    adapted_share,
    distance_gains,
    diverse_advantages,
    doubt,
    doubtful,
    win_rates,
)
from training.tuning.rewards.pictures import PictureReward

pytestmark = pytest.mark.system("s003-021")


def test_unlike_pictures_get_more_credit():
    """r = (0, 1, 2), features e1, e1, e2: distances 0, 0, 1 of mean 1/3: A = (-1, 0, 3). All alike: r - 1."""
    rewards = torch.tensor([[0.0, 1.0, 2.0]])
    centred = group_relative(rewards, scale="none")
    features = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 5.0]]])
    assert diverse_advantages(centred, distance_gains(features)).tolist() == [[-1, 0, pytest.approx(3)]]
    assert diverse_advantages(centred, distance_gains(torch.ones(1, 3, 2))).tolist() == [[-1, 0, 1]]


def test_what_only_the_proxy_likes_is_doubtful():
    """Win rates of four in a row are 0, 1/3, 2/3, 1. The proxy's best is the others' worst: U = 1 there, and
    -1 where the others like best. With ranks from the best, as in the authors' code, it would be the reverse.
    """
    proxy, others = torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    found = doubt(proxy, [others, others + 7])
    torch.testing.assert_close(found, torch.tensor([[-1, -1 / 3, 1 / 3, 1]]))
    assert doubtful(found, share=0.1).tolist() == [[False, False, False, True]]
    assert doubtful(found, share=1.0).tolist() == [[False, False, True, True]]
    assert not doubtful(doubt(proxy, [proxy]), share=1.0).any()
    assert win_rates(torch.tensor([[1.0, 1.0, 0.0]])).tolist() == [[0.75, 0.75, 0.0]]


def test_the_share_follows_the_disagreement():
    """A tenth more above the recent range, a tenth less below it, within 0.02 and 0.2."""
    assert adapted_share(0.1, 0.4, []) == 0.1
    assert adapted_share(0.1, 0.4, [0.2, 0.3]) == pytest.approx(0.11)
    assert adapted_share(0.1, 0.1, [0.2, 0.3]) == pytest.approx(0.09)
    assert adapted_share(0.1, 0.25, [0.2, 0.3]) == 0.1
    assert adapted_share(0.195, 0.4, [0.2]) == 0.2
    assert adapted_share(0.021, 0.1, [0.2]) == 0.02


def test_pictures_that_are_not_held_move_freely():
    """Of two pictures the second is held: the KL, and its gradient, is its alone."""
    known, sampler = flow(4, 0.7)
    chain = sample(known, sampler, noise(2, 0), generators=torch.Generator().manual_seed(0))
    policy = Shifted(known, sampler)
    with torch.no_grad():
        policy.shifts += 0.1
    keys: dict[str, Any] = {"clip": 1e-4, "beta": 1.0}
    said = known(chain.before(1), float(sampler.schedule.times[1]))
    advantages = torch.full((2,), 1e-12, dtype=torch.float64)
    both, _ = surrogate(policy, sampler, chain, 1, advantages, reference=said, **keys)
    one, facts = surrogate(
        policy, sampler, chain, 1, advantages, reference=said, held=torch.tensor([0.0, 2.0]), **keys
    )
    assert one.tolist() == [pytest.approx(0, abs=1e-9), pytest.approx(2 * both[1].item(), abs=1e-9)]
    assert facts["kl"].tolist() == [0, pytest.approx(2 * both[1].item(), abs=1e-9)]
    assert both[0].item() > 1e-4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def make(folder: Path, base: Path, *, second: bool = True, **changes: Any) -> Path:
    config = QUICK | {"scale": "none", "guidance_scale": 1.0, "max_steps": 3, "save_every": 1} | changes
    reward: list[dict[str, Any]] = [{"rule": "brightness"}]
    reward += [{"rule": "sharpness", "weight": 0}, {"rule": "jpeg_size", "weight": 0}] if second else []
    rows = [{"prompt": letter} for letter in "abcd"]
    return make_run(folder, "flow_grpo", base=base, config=config, rows=rows, reward=reward)


def test_the_start_follows_and_comes_back_after_a_stop(base, tmp_path):
    """With a new start after every second step the divergence is 0 in the first and the third; interrupted
    after the second step, the run goes on to the same weights, to the bit.
    """
    keys: dict[str, Any] = {"kl_on": "uncertain", "kl_reset_every": 2, "diversity": True, "beta": 0.5}
    folders = [make(tmp_path / name, base, **keys) for name in ("through", "stopped")]
    assert run(folders[0]) == EXIT_DONE
    rows = metrics(folders[0])
    assert [row["ratio_error"] for row in rows] == [0, 0, 0]
    assert rows[0]["kl"] == rows[2]["kl"] == 0
    assert all(0 < row["pictures/uncertain"] < 0.6 for row in rows)
    with cancelled_after(2):
        assert run(folders[1]) == EXIT_CANCELLED
    assert run(folders[1]) == EXIT_DONE
    for name, value in weights(folders[0]).items():
        assert torch.equal(value, weights(folders[1])[name])


def test_a_far_policy_is_the_next_start(base, tmp_path):
    """The second step's divergence exceeds the limit: the third is from there, hence 0."""
    folder = make(tmp_path / "run", base, kl_reset_at=1e-12, beta=0.5)
    assert run(folder) == EXIT_DONE
    first, second, third = (row["kl"] for row in metrics(folder))
    assert first == 0 < second
    assert third == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_on": "uncertain", "second": False}, "needs a second opinion"),
        ({"kl_on": "uncertain", "beta": 0.0}, "no use without beta"),
        ({"kl_share": 0.2}, "kl_share has a use only"),
    ],
)
def test_what_has_no_use_is_refused(base, tmp_path, capsys, changes, message):
    assert run(make(tmp_path / "run", base, **changes)) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_features_of_a_learned_reward_tell_pictures_apart(tmp_path):
    """Whatever the prompt and the batch: equal pictures are at distance 0, a third one is not."""
    model = reward_for_training(None, ImageRewardModelConfig(), seed=0)
    save_image_reward(model, tmp_path / "reward")
    source = PictureReward(str(tmp_path / "reward"), device=torch.device("cpu"))
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "red", "blue")]
    found = source.features(pictures)
    assert found.shape == (3, 128)
    torch.testing.assert_close(found[2:], source.features(pictures[2:]))
    gains = distance_gains(found[None])[0]
    assert gains[:2].tolist() == pytest.approx([0, 0], abs=1e-5)
    assert gains[2].item() == pytest.approx(3, abs=1e-4)
