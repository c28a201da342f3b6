"""Methods that follow a reward's gradient, as runs: they raise it, resume exactly, refuse what they must."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.image_models import save_flux, save_picture, save_pipeline, save_sd3, save_sdxl
from tests.tuning.image_runs import cancelled_after, make_run, metrics, run
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE

LORA = {"r": 4, "alpha": 4, "target_modules": "all-linear"}
QUICK: dict[str, Any] = {
    "max_steps": 8,
    "batch_size": 2,
    "num_generations": 2,
    "lora": LORA,
    "learning_rate": 1e-2,
    "samples": 0,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
    "height": 16,
    "width": 16,
}
METHODS: dict[str, dict[str, Any]] = {
    "draft": {"last_steps": 2},
    "refl": {},
    "srpo": {"num_inference_steps": 6, "most_noise": 1.0},
    "adjoint_matching": {"num_inference_steps": 8, "learning_rate": 3e-3, "drop_share": 0.0},
    "vard": {"value_warmup": 2, "pull": 0.0, "value_learning_rate": 3e-3},
    "r0": {"pull": 1e-6},
}
FAST_AND_SLOW = [
    one if one in ("draft", "vard") else pytest.param(one, marks=pytest.mark.slow) for one in METHODS
]
BRIGHT = [{"rule": "brightness", "weight": 10.0}]
KINDS: dict[str, Any] = {"sdxl": save_sdxl, "sd3": save_sd3, "flux": save_flux}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def make(folder: Path, base: Path, method: str, *, reward: Any = BRIGHT, **changes: Any) -> Path:
    rows = changes.pop("rows", [{"prompt": letter} for letter in "abcd"])
    held_out = [{"prompt": "x"}, {"prompt": "y"}, {"prompt": "z"}] if changes.pop("held_out", False) else None
    config = QUICK | METHODS[method] | changes
    return make_run(folder, method, base=base, config=config, rows=rows, held_out=held_out, reward=reward)


def evaluations(folder: Path) -> list[float]:
    return [row["eval/reward"] for row in metrics(folder) if "eval/reward" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted(folder.glob("checkpoint-*"))[-1] / "weights.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_the_reward_of_new_prompts_rises(base: Path, tmp_path: Path, method: str) -> None:
    """Brightness at fixed seeds, drawn as the result will be, before and after training."""
    before = make(tmp_path / "before", base, method, held_out=True, max_steps=1, learning_rate=1e-9)
    after = make(tmp_path / "after", base, method, held_out=True)
    assert run(before) == run(after) == EXIT_DONE
    assert evaluations(after)[-1] > evaluations(before)[-1] + 0.002


@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_every_method_is_the_same_however_interrupted(base: Path, tmp_path: Path, method: str) -> None:
    """With both kinds of checkpointing and guidance; cancelled after the second of four steps."""
    changes = {"max_steps": 4, "save_every": 1, "gradient_checkpointing": True, "guidance_scale": 3.0}
    whole = make(tmp_path / "whole", base, method, **changes)
    parts = make(tmp_path / "parts", base, method, **changes)
    assert run(whole) == EXIT_DONE
    with cancelled_after(2):
        assert run(parts) == EXIT_CANCELLED
    assert run(parts) == EXIT_DONE
    ours, theirs = weights(whole), weights(parts)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [row["step"] for row in metrics(parts)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "kind", ["sd3", *(pytest.param(one, marks=pytest.mark.slow) for one in ("sdxl", "flux"))]
)
def test_every_family(tmp_path: Path, kind: str) -> None:
    """All methods move an adapter, or all weights, of every family; bfloat16 too."""
    base = KINDS[kind](tmp_path / "base")
    for method in METHODS:
        folder = make(tmp_path / method, base, method, max_steps=1, precision="bf16", guidance_scale=2.0)
        assert run(folder) == EXIT_DONE
        row = metrics(folder)[-1]
        assert math.isfinite(row["reward"])
        assert row["grad_norm"] > 0


@pytest.mark.parametrize("method", ["draft", pytest.param("adjoint_matching", marks=pytest.mark.slow)])
def test_full_fine_tuning_and_micro_batches(base: Path, tmp_path: Path, method: str) -> None:
    """All weights are trained; pictures one by one give the same gradient as all together."""
    norms = []
    for size in (1, 4):
        changes = {"max_steps": 1, "lora": None, "micro_batch_size": size}
        folder = make(tmp_path / f"{size}", base, method, **changes)
        assert run(folder) == EXIT_DONE
        norms.append(metrics(folder)[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=2e-3)


def test_adjoint_matching_starts_at_the_base(base: Path, tmp_path: Path) -> None:
    """Step 0: with no reward to speak of the policy is the base, and the loss exactly nothing."""
    reward = [{"rule": "brightness", "weight": 0.0}]
    folder = make(tmp_path / "run", base, "adjoint_matching", reward=reward, max_steps=1)
    assert run(folder) == EXIT_DONE
    assert metrics(folder)[0]["loss"] == 0.0


@pytest.mark.system("s002-011")
def test_r0_gives_no_reward_more_say_for_its_scale(base: Path, tmp_path: Path) -> None:
    """Ten times a reward is the same update, and a weight of two is twice as much."""
    norms = []
    for scale, weight in ((1.0, 1.0), (10.0, 1.0), (1.0, 2.0)):
        reward = [
            {
                "rule": "brightness",
                "weight": weight,
                "transform": [{"name": "affine", "scale": scale, "shift": 0.0}],
            }
        ]
        folder = make(tmp_path / f"{scale}-{weight}", base, "r0", reward=reward, max_steps=1, pull=0.0)
        assert run(folder) == EXIT_DONE
        norms.append(metrics(folder)[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert norms[2] == pytest.approx(2 * norms[0], rel=1e-4)


@pytest.mark.system("s000-016")
def test_refl_from_pictures(base: Path, tmp_path: Path) -> None:
    """The preferred picture is what is noised: with the reward off, the loss is its denoising error alone,
    which another preferred picture changes.
    """
    losses = []
    for chosen in (0, 1):
        folder = tmp_path / f"{chosen}"
        rows = []
        for number, letter in enumerate("ab"):
            for side in (0, 1):
                save_picture(folder / "data" / "media" / f"{number}-{side}.png", seed=2 * number + side)
            candidates = [{"image": f"{number}-{side}.png"} for side in (0, 1)]
            rows.append({"prompt": letter, "candidates": candidates, "judgements": [{"choice": chosen}]})
        reward = [{"rule": "brightness", "weight": 0.0}]
        changes = {"rows": rows, "start": "pictures", "picture_weight": 1.0, "max_steps": 1}
        make(folder, base, "refl", reward=reward, **changes)
        assert run(folder) == EXIT_DONE
        losses.append(metrics(folder)[0]["loss"])
    assert min(losses) > 0
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
    # Neighbouring steps that agree leave the loss: what is missing to the goal, and U on top.
    folder = tmp_path / "uncertain"
    for number in range(2):
        save_picture(folder / "data" / "media" / f"{number}.png", seed=number)
    rows = [{"prompt": letter, "candidates": [{"image": f"{n}.png"}]} for n, letter in enumerate("ab")]
    changes = {"rows": rows, "start": "pictures", "uncertainty": True, "goal": 100.0, "plain_every": 2}
    make(folder, base, "refl", **changes, max_steps=2)
    assert run(folder) == EXIT_DONE
    assert [row["loss"] > 0 for row in metrics(folder)] == [True, True]


@pytest.mark.system("s000-005")
def test_srpo_needs_the_words(base: Path, tmp_path: Path) -> None:
    """A reward that does not read the prompt cancels but for the strength: the loss is −k · r."""
    changes = {"wanted": "good", "unwanted": "bad", "inversion": False, "max_steps": 1, "strength": 0.5}
    folder = make(tmp_path / "run", base, "srpo", **changes)
    assert run(folder) == EXIT_DONE
    row = metrics(folder)[0]
    assert row["loss"] == pytest.approx(-0.5 * row["reward"], rel=1e-4)


@pytest.mark.parametrize("method", ["draft", "refl", "srpo", "adjoint_matching", "r0"])
def test_a_reward_without_a_gradient_is_refused(base: Path, tmp_path: Path, method: str, capsys: Any) -> None:
    folder = make(tmp_path / "run", base, method, reward=[{"rule": "jpeg_size"}])
    assert run(folder) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "jpeg_size has no gradient" in said
    assert "brightness" in said


@pytest.mark.system("s000-063")
def test_a_value_takes_any_reward(base: Path, tmp_path: Path) -> None:
    """The size as JPEG has no gradient; its learned value has, and the value's error falls."""
    changes = {"max_steps": 6, "value_warmup": 4, "value_learning_rate": 3e-2}
    folder = make(tmp_path / "run", base, "vard", reward=[{"rule": "jpeg_size"}], **changes)
    assert run(folder) == EXIT_DONE
    rows = metrics(folder)
    assert rows[-1]["value_loss"] < 0.5 * rows[0]["value_loss"]
    assert "value" not in rows[0]
    assert "value" in rows[-1]


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("draft", {"redraws": 2, "last_steps": 3}, "redraws are of the last step"),
        ("draft", {"last_steps_by": "normal", "last_steps": 3}, "last_steps has no use"),
        ("refl", {"plain_every": 2}, 'has a use only with the start "pictures"'),
        ("refl", {"start": "pictures", "uncertainty": True}, "set one"),
        ("refl", {"start": "pictures"}, "no preferred picture"),
        ("srpo", {"wanted": "good"}, "come together"),
        ("srpo", {"num_inference_steps": 1}, "fewer than two noise levels"),
    ],
)
def test_what_cannot_be_used(
    base: Path, tmp_path: Path, method: str, changes: dict[str, Any], words: str, capsys: Any
) -> None:
    folder = make(tmp_path / "run", base, method, **changes)
    assert run(folder) == EXIT_BAD_INPUT
    assert words in capsys.readouterr().err


def test_how_far_the_gradient_reaches(base: Path, tmp_path: Path) -> None:
    """AlignProp draws it anew for every step of training; DRaFT-LV redraws the last step."""
    for changes in (
        {"last_steps": None, "last_steps_by": "uniform"},
        {"last_steps_by": "normal", "eta": 1.0},
    ):
        folder = make(
            tmp_path / changes["last_steps_by"],
            base,
            "draft",
            **METHODS["draft"] | {"last_steps": 1} | changes,
        )
        assert run(folder) == EXIT_DONE
        reached = {row["steps_with_gradient"] for row in metrics(folder)}
        assert reached <= {1.0, 2.0, 3.0, 4.0}
    folder = make(tmp_path / "redraws", base, "draft", last_steps=1, redraws=2, max_steps=1)
    assert run(folder) == EXIT_DONE
