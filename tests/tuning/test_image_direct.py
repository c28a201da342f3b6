"""Methods on given pictures as runs: exact at step 0, the same however split or interrupted, options that do
what they say.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.tuning.image_models import save_picture, save_pipeline, save_sd3
from tests.tuning.image_runs import PROMPTS, cancelled_after, make_run, metrics, pair_rows, run
from training.tuning.config import DiffusionKTOConfig, ImageSFTConfig, SePPOConfig
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.data import Frame
from training.tuning.images.groups import ImageGroup
from training.tuning.images.preparation import timestep_table
from training.tuning.methods.diffusion_kto import balanced, mismatched
from training.tuning.methods.seppo import chosen_slot

LORA = {"r": 4, "alpha": 4, "target_modules": "all-linear"}
QUICK: dict[str, Any] = {
    "max_steps": 4,
    "batch_size": 4,
    "lora": LORA,
    "learning_rate": 1e-3,
    "warmup": 0,
    "log_every": 1,
    "save_every": 2,
    "samples": 0,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
}
KTO = QUICK | {"beta": 50.0}
SCORED = [{"rule": "sharpness", "weight": 0.05}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def thumb_rows(media: Path, *, count: int = 8) -> list[dict[str, Any]]:
    """Single pictures, one in four disliked."""
    rows = []
    for number in range(count):
        save_picture(media / f"{number}.png", seed=number)
        rows.append(
            {
                "prompt": PROMPTS[number % len(PROMPTS)],
                "candidates": [{"image": f"{number}.png"}],
                "judgements": [{"thumbs": [int(number % 4 != 0)]}],
            }
        )
    return rows


def start(folder: Path, method: str, **options: Any) -> Path:
    """A run directory; thumbs for Diffusion-KTO, pairs else, unless there are rows."""
    media = folder / "data" / "media"
    if "rows" not in options:
        options["rows"] = thumb_rows(media) if method == "diffusion_kto" else pair_rows(media)
    return make_run(folder, method, **options)


def values(folder: Path, *names: str) -> list[list[float]]:
    return [[row[name] for name in names] for row in metrics(folder) if "loss" in row]


CASES = {
    "diffusion_kto": KTO | {"liked_share": 0.8},
    "diffusion_kto mismatched": KTO | {"baseline": "mismatched", "reference": "live", "lora": None},
    "image_sft": QUICK | {"lora": None},
    "seppo": QUICK | {"references": 2, "keep_every": 1, "beta": 100.0},
    "image_sft softmax": QUICK | {"weights": "softmax"},
}


def reward_of(config: dict[str, Any]) -> list[dict[str, Any]] | None:
    return SCORED if config.get("weights", "votes") != "votes" else None


@pytest.mark.parametrize("name", CASES)
def test_resuming_equals_not_stopping(base, tmp_path, name):
    """Cancelled after step 3, run again: the same weights and metrics, to the bit."""
    config = CASES[name] | {"max_steps": 4}
    folders = [tmp_path / "through", tmp_path / "stopped"]
    for folder in folders:
        start(folder, name.split()[0], base=base, config=config, reward=reward_of(config))
    assert run(folders[0]) == EXIT_DONE
    with cancelled_after(3):
        assert run(folders[1]) == EXIT_CANCELLED
    assert run(folders[1]) == EXIT_DONE
    assert values(folders[0], "loss", "grad_norm") == values(folders[1], "loss", "grad_norm")
    found = [load_file(sorted(folder.glob("checkpoint-*"))[-1] / "weights.safetensors") for folder in folders]
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


@pytest.mark.parametrize("name", CASES)
def test_how_a_step_is_split_changes_nothing(base, tmp_path, name):
    """A batch of eight at once and one by one, also where the baseline is that of the whole batch."""
    config = CASES[name] | {"batch_size": 8, "max_steps": 3, "learning_rate": 3e-3}
    for size in (None, 1):
        folder = tmp_path / str(size)
        start(
            folder,
            name.split()[0],
            base=base,
            config=config | {"micro_batch_size": size},
            reward=reward_of(config),
        )
        assert run(folder) == EXIT_DONE
    whole, single = (torch.tensor(values(tmp_path / size, "loss", "grad_norm")) for size in ("None", "1"))
    torch.testing.assert_close(single, whole, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("reference", ["cached", "live"])
@pytest.mark.parametrize(
    ("utility", "expected"),
    [("kahneman_tversky", 0.5), ("loss_averse", math.log(2)), ("risk_seeking", -math.log(2))],
)
def test_kto_starts_exactly(base, tmp_path, utility, expected, reference, precision):
    config = KTO | {"max_steps": 1, "utility": utility, "reference": reference, "precision": precision}
    folder = start(tmp_path, "diffusion_kto", base=base, config=config)
    assert run(folder) == EXIT_DONE
    first = metrics(folder)[0]
    assert first["loss"] == pytest.approx(expected, abs=1e-7)
    assert first["rewards/chosen"] == first["rewards/rejected"] == first["baseline"] == 0


def test_kto_learns_likes_from_dislikes(base, tmp_path):
    """Of two, the bright picture is chosen: it is liked and the dark one disliked, and their gains part."""
    media = tmp_path / "data" / "media"
    rows = pair_rows(media)
    for row in rows:
        for index, candidate in enumerate(row["candidates"]):
            level = 230 if index == row["judgements"][0]["choice"] else 20
            Image.new("RGB", (16, 16), (level,) * 3).save(media / candidate["image"])
    config = KTO | {"lora": None, "scheduler": "constant", "max_steps": 40, "batch_size": 8, "beta": 20.0}
    assert run(start(tmp_path, "diffusion_kto", base=base, config=config, rows=rows)) == EXIT_DONE
    found = values(tmp_path, "loss", "rewards/chosen", "rewards/rejected")
    assert sum(row[0] for row in found[-5:]) / 5 < 0.45
    assert all(row[1] > row[2] for row in found[-5:])


def test_kto_baseline_is_that_of_the_whole_batch(base, tmp_path):
    """With held-out rows, and with other prompts; the baseline moves and is logged."""
    for baseline in ("mean", "mismatched"):
        config = KTO | {"lora": None, "learning_rate": 3e-3, "baseline": baseline, "batch_size": 8}
        folder = tmp_path / baseline
        rows = thumb_rows(folder / "data" / "media")
        start(folder, "diffusion_kto", base=base, config=config, rows=rows, held_out=rows[:3])
        assert run(folder) == EXIT_DONE
    found = [values(tmp_path / one, "baseline") for one in ("mean", "mismatched")]
    assert found[0][0] == found[1][0] == [0.0]
    assert found[0] != found[1]
    assert max(row[0] for row in found[0]) > 0


def test_kto_needs_both_kinds_and_two_prompts(base, tmp_path, capsys):
    rows = thumb_rows(tmp_path / "one" / "data" / "media", count=4)
    liked = [row | {"judgements": [{"thumbs": [1]}]} for row in rows]
    config = KTO | {"liked_share": 0.8}
    assert (
        run(start(tmp_path / "one", "diffusion_kto", base=base, config=config, rows=liked)) == EXIT_BAD_INPUT
    )
    assert "liked_share: there is no disliked picture" in capsys.readouterr().err
    shutil.copytree(tmp_path / "one" / "data" / "media", tmp_path / "two" / "data" / "media")
    same = [row | {"prompt": "a"} for row in rows]
    config = KTO | {"baseline": "mismatched"}
    assert (
        run(start(tmp_path / "two", "diffusion_kto", base=base, config=config, rows=same)) == EXIT_BAD_INPUT
    )
    assert "baseline: mismatched needs at least two prompts" in capsys.readouterr().err


def group(name: str, good: list[float], bad: list[float], prompt: str = "a") -> ImageGroup:
    files = [Path(f"{name}-{at}.png") for at in range(len(good))]
    return ImageGroup(name, prompt, files, Frame(16, 16), good=good, bad=bad)


def test_balancing_repeats_the_scarcer_kind():
    """One liked to three disliked; 0.8 liked means 4 to 1, so the liked come 12 times."""
    groups = [group("a", [1.0, 0.0], [0.0, 1.0]), group("b", [0.0], [1.0]), group("c", [0.0], [1.0])]
    found = balanced(groups, 0.8, seed=0)
    assert sum(sum(one.good) for one in found) == 12
    assert sum(sum(one.bad) for one in found) == 3
    assert len({one.name for one in found}) == len(found)
    assert {file.name for one in found if any(one.good) for file in one.files} == {"a-0.png"}
    # As they are already: 1 of 4 liked.
    assert len(balanced(groups, 0.25, seed=0)) == 4
    # Fewer liked than there are: the disliked are repeated, 9 of them to one liked.
    found = balanced(groups, 0.1, seed=0)
    assert (sum(sum(one.good) for one in found), sum(sum(one.bad) for one in found)) == (1, 9)


def test_mismatched_prompts_are_the_next_others():
    groups = [group(name, [1.0], [0.0], prompt) for name, prompt in ("ax", "bx", "cy")]
    assert [one.prompt for one in mismatched(groups)] == ["y", "y", "x"]
    assert [one.name for one in mismatched(groups)] == ["a", "b", "c"]


def test_sft_learns_the_chosen(base, tmp_path):
    """The chosen pictures are bright: their error falls. The same run with other weights is another run."""
    rows = pair_rows(tmp_path / "data" / "media")
    for row in rows:
        chosen = row["candidates"][row["judgements"][0]["choice"]]["image"]
        Image.new("RGB", (16, 16), (230, 230, 230)).save(tmp_path / "data" / "media" / chosen)
    config = QUICK | {"lora": None, "learning_rate": 3e-3, "max_steps": 30, "batch_size": 8}
    assert run(start(tmp_path, "image_sft", base=base, config=config, rows=rows)) == EXIT_DONE
    losses = [row[0] for row in values(tmp_path, "loss")]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.system("s000-020")
def test_sft_weighs_pictures_by_their_scores(base, tmp_path):
    """Ratings 1, 3 and 5 are 0, 1/2 and 1. GORS above 0.4 weighs the last two 1/2 and 1 and divides by 2;
    above 0.8 there is the last alone, so that its loss is known, and so is the other's; with votes nothing
    says which is good.
    """
    media = tmp_path / "rows"
    rows = [pair_rows(media, count=1)[0]]
    save_picture(media / "third.png", seed=9)
    rows[0]["candidates"].append({"image": "third.png"})
    rows[0]["judgements"] = [{"ratings": [{"looks": 1}, {"looks": 3}, {"looks": 5}]}]
    found = {}
    for name, keys in (
        ("last", {"weights": "threshold", "threshold": 0.8}),
        ("both", {"weights": "threshold", "threshold": 0.4}),
        ("exp", {"weights": "exp_score", "temperature": 0.5}),
        ("softmax", {"weights": "softmax", "temperature": 0.5}),
        ("votes", {}),
    ):
        folder = tmp_path / name
        shutil.copytree(media, folder / "data" / "media")
        start(folder, "image_sft", base=base, config=QUICK | {"max_steps": 1} | keys, rows=rows)
        found[name] = run(folder)
    assert found == dict.fromkeys(("last", "both", "exp", "softmax"), EXIT_DONE) | {"votes": EXIT_BAD_INPUT}
    loss, norm = (
        {name: metrics(tmp_path / name)[0][key] for name in found if name != "votes"}
        for key in ("loss", "grad_norm")
    )
    # The loss that is logged is the mean by weights, of e^0, e^1 and e^2 just as of their softmax; the
    # gradient is divided by the number of pictures, 3, where the weights are not probabilities.
    assert loss["exp"] == pytest.approx(loss["softmax"], rel=1e-5)
    assert norm["exp"] == pytest.approx(norm["softmax"] * (1 + math.e + math.e**2) / 3, rel=1e-3)
    assert loss["both"] != pytest.approx(loss["last"], rel=1e-6)


@pytest.mark.system("s004-016")
def test_real_pictures_beside_curated_ones(base, tmp_path):
    """Curated groups weigh 1 in all, a demonstration 1/λ: of two groups and one demonstration at λ = 2 the
    loss is the mean with weights 2 to 1/2.
    """
    media = tmp_path / "run" / "data" / "media"
    rows = pair_rows(media, count=2)
    save_picture(media / "real.png", seed=7)
    rows.append({"prompt": "k l", "candidates": [{"image": "real.png"}]})
    losses = {}
    for weight in (0.0, 0.5, 1e9):
        folder = tmp_path / f"run-{weight}"
        shutil.copytree(media, folder / "data" / "media")
        config = QUICK | {
            "weights": "softmax",
            "demonstration_weight": weight,
            "max_steps": 1,
            "batch_size": 8,
        }
        start(folder, "image_sft", base=base, config=config, rows=rows, reward=SCORED)
        assert run(folder) == EXIT_DONE
        losses[weight] = metrics(folder)[0]["loss"]
    assert losses[0.5] == pytest.approx((2 * losses[0.0] + 0.5 * losses[1e9]) / 2.5, rel=1e-5)


def test_keys_without_a_use_are_refused():
    for keys in (
        {"temperature": 2.0},
        {"weights": "threshold", "temperature": 2.0},
        {"weights": "softmax", "threshold": 0.1},
        {"weights": "exp_score", "demonstration_weight": 2.0},
        {"rating": "looks"},
        {"timesteps": [1], "timestep_low": 0.5},
        {"timesteps": [1], "timestep_sampling": "logit_normal"},
    ):
        with pytest.raises(ValueError, match=r"weights|timesteps"):
            ImageSFTConfig(**keys)


def test_tables_of_timesteps():
    """Uniform over the range; a list as it is; logit-normal: σ(z) < 1/4 has Φ(-ln 3) = 0.136."""
    assert list(timestep_table(ImageSFTConfig(timestep_low=0.25, timestep_high=0.5), 8)) == [2, 3]
    assert timestep_table(ImageSFTConfig(timesteps=[249, 999]), 1000) == [249, 999]
    table = timestep_table(DiffusionKTOConfig(timestep_sampling="logit_normal"), 1000)
    assert sum(time < 500 for time in table) / len(table) == pytest.approx(0.5, abs=1e-3)
    assert sum(time < 250 for time in table) / len(table) == pytest.approx(0.136, abs=1e-3)
    low = timestep_table(ImageSFTConfig(timestep_sampling="logit_normal", timestep_high=0.5), 1000)
    assert max(low) < 500


def test_timesteps_beyond_the_schedule_are_refused(base, tmp_path, capsys):
    folder = start(tmp_path, "diffusion_dpo", base=base, config=QUICK | {"timesteps": [1000]})
    assert run(folder) == EXIT_BAD_INPUT
    assert "config.timesteps: the model's timesteps end at 999" in capsys.readouterr().err


@pytest.mark.system("s002-056")
def test_flow_dpo_with_beta_over_time(tmp_path, capsys):
    """On a flow model β (1 - t)² at the one timestep t is β' = β (1 - t)² at all; a U-Net refuses it."""
    flow = save_sd3(tmp_path / "flow", shift=1.0)
    config = QUICK | {"lora": None, "timesteps": [499], "max_steps": 3}
    for name, keys in (
        ("weighted", {"beta": 400.0, "beta_schedule": "flow"}),
        ("constant", {"beta": 100.0}),
        ("strong", {"beta": 400.0}),
    ):
        folder = start(tmp_path / name, "diffusion_dpo", base=flow, config=config | keys)
        assert run(folder) == EXIT_DONE
    # σ at index 499 of 1,000 rising ones is 0.5.
    found = {one: values(tmp_path / one, "rewards/margin") for one in ("weighted", "constant", "strong")}
    assert found["weighted"][0] == [0.0]
    torch.testing.assert_close(
        torch.tensor(found["weighted"]), torch.tensor(found["constant"]), rtol=2e-3, atol=1e-6
    )
    assert found["weighted"][-1] != pytest.approx(found["strong"][-1], rel=0.1)
    betas = save_pipeline(tmp_path / "betas")
    refused = start(tmp_path / "no", "diffusion_dpo", base=betas, config=QUICK | {"beta_schedule": "flow"})
    assert run(refused) == EXIT_BAD_INPUT
    assert "config.beta_schedule: flow is for flow models" in capsys.readouterr().err


@pytest.mark.system("s004-031")
def test_seppo_needs_winners_alone_and_draws_the_rest(base, tmp_path):
    """Thumbs up are enough. At the start all of its own pictures count as worse, and the loss is ln 2."""
    rows = thumb_rows(tmp_path / "data" / "media")
    config = QUICK | {"lora": None, "keep_every": 2, "references": 2, "beta": 50.0, "max_steps": 6}
    folder = start(tmp_path, "seppo", base=base, config=config, rows=rows, held_out=rows[:2])
    assert run(folder) == EXIT_DONE
    found = metrics(folder)
    assert found[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[0]["pushed_down"] == 1
    assert found[0]["rewards/chosen"] == found[0]["rewards/sample"] == 0
    assert found[1]["rewards/sample"] != 0
    assert "eval/loss" in found[-1]
    assert "2 rows dropped: no picture was preferred" in (folder / "log.txt").read_text()


@pytest.mark.system("s004-031")
def test_seppo_references_are_earlier_policies_each_as_likely():
    """One slot until the first is kept; then all that are filled come up, the newest no more than others."""
    config = SePPOConfig(references=3, keep_every=10)
    assert {chosen_slot(step, config, seed=0) for step in range(1, 11)} == {0}
    assert {chosen_slot(step, config, seed=0) for step in range(11, 21)} == {0, 1}
    late = [chosen_slot(step, config, seed=0) for step in range(21, 921)]
    # 900 draws of one in three: 300 each, with a standard deviation of 14.
    assert all(abs(late.count(slot) - 300) < 70 for slot in range(3))


def test_every_method_says_what_it_sees(base, tmp_path):
    from training.tuning.__main__ import main

    for method in ("diffusion_kto", "image_sft", "seppo"):
        folder = start(tmp_path / method, method, base=base, config=QUICK)
        assert main(["inspect", str(folder)]) == EXIT_DONE
        assert json.loads((folder / "inspect.json").read_text())["groups"] == 8
