"""PPD: image models that know whom they draw for."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from tests.tuning.image_models import save_pipeline, save_sd3
from tests.tuning.image_runs import cancelled_after, make_run, metrics, run
from tests.tuning.test_image_online import weights
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images.errors import NoisyGroups, denoising_errors
from training.tuning.images.families import Family, load_family
from training.tuning.images.personal import PersonalPolicy, add_people, mixed
from training.tuning.losses.diffusion_dpo import diffusion_dpo_loss

pytestmark = pytest.mark.system("s000-033")
CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "max_steps": 6,
    "batch_size": 4,
    "beta": 50.0,
    "learning_rate": 0.02,
    "scheduler": "constant",
    "warmup": 0.0,
    "samples": 0,
    "log_every": 1,
    "caption_dropout": 0.0,
    "timestep_low": 0.5,
}


def save_grey(path: Path, *, level: int, seed: int) -> str:
    """A picture of this brightness with a little noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (16, 16, 3))
    Image.fromarray((level + noise).astype(np.uint8)).save(path)
    return path.name


def rows_of(media: Path, tastes: dict[str, int], *, count: int = 6, first: int = 0) -> list[dict[str, Any]]:
    """Bright against dark pictures, each judged by all these people; a taste is the index that is chosen."""
    rows = []
    for number in range(first, first + count):
        files = [
            save_grey(media / f"{number}-{side}.png", level=(210, 40)[side], seed=2 * number + side)
            for side in (0, 1)
        ]
        rows.append(
            {
                "prompt": "ab"[number % 2],
                "candidates": [{"image": name} for name in files],
                "judgements": [{"choice": taste, "annotator": name} for name, taste in tastes.items()],
            }
        )
    return rows


def make(folder: Path, base: Path, tastes: dict[str, int], *, rows: int = 6, **changes: Any) -> Path:
    found = rows_of(folder / "data" / "media", tastes, count=rows)
    return make_run(folder, "personal_dpo", base=base, config=QUICK | changes, rows=found)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("people"), base, {"bright": 0, "dark": 1}, save_every=1)
    assert run(folder) == EXIT_DONE
    return folder


def told(family: Family, person: torch.Tensor) -> dict[str, torch.Tensor]:
    return family.encode_prompts(["a"]) | {"person": person.view(1, 1, -1)}


def predicted(family: Family, conditioning: dict[str, torch.Tensor]) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return family.predict(family.denoiser, x, torch.tensor([500]), conditioning)


def test_people_change_nothing_until_they_are_learnt(base):
    """With W_v' = 0 the model is the base to the bit, for anybody; and only what people have of their own is
    trained, without biases.
    """
    plain, personal = load_family(str(base), device=CPU), load_family(str(base), device=CPU)
    expected = predicted(plain, plain.encode_prompts(["a"]))
    policy = add_people(personal, width=6, seed=0)
    for person in (torch.ones(6), torch.zeros(6)):
        assert torch.equal(predicted(personal, told(personal, person)), expected)
    trained = policy.trained
    assert all("_ip." in name or name.startswith("encoder_hid_proj.") for name in trained)
    assert not any(name.endswith("bias") for name in trained)
    assert sum("to_v_ip" in name for name in trained) == sum("attn2" in name for name in trained) / 2 > 0


def losses_of(policy: PersonalPolicy, people: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of one pair that two people judge, the second the other way round, at one noise."""
    family = policy.family
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    found = []
    for number, person in enumerate(people):
        batch = NoisyGroups(
            latents, torch.zeros(2, dtype=torch.long), noise, torch.tensor([600]), told(family, person)
        )
        errors = denoising_errors(family, policy.denoiser, batch)
        with torch.no_grad(), policy.as_reference() as module:
            reference = denoising_errors(family, module, batch)
        won, lost = number, 1 - number
        beta = torch.tensor([500.0])
        found.append(
            diffusion_dpo_loss(
                errors[[won]], errors[[lost]], reference[[won]], reference[[lost]], beta=beta
            ).sum()
        )
    return found


def gradients(policy: PersonalPolicy, people: list[torch.Tensor]) -> float:
    """The largest number in the gradient of both losses together, with regard to the values."""
    values = [value for name, value in policy.trained.items() if "to_v_ip" in name]
    found = torch.autograd.grad(torch.stack(losses_of(policy, people)).sum(), values)
    return max(one.abs().max().item() for one in found)


def test_opposite_judgements_cancel_unless_it_is_known_whose_they_are(base):
    """At ln 2 each. Told the same person twice, the two gradients add up to zero; told who it is, not."""
    policy = add_people(load_family(str(base), device=CPU), width=6, seed=0)
    one, other = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    for loss in losses_of(policy, [one, other]):
        assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    alone = gradients(policy, [one])
    assert gradients(policy, [one, one]) < 1e-4 * alone
    assert gradients(policy, [one, other]) > 1e-2 * alone


def test_two_opposite_tastes_are_learnt_at_once(base):
    """Below ln 2 on average, which no model that is told nothing reaches: -log σ(m) - log σ(-m) ≥ 2 ln 2."""
    policy = add_people(load_family(str(base), device=CPU), width=6, seed=0)
    people = list(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.Adam(policy.trained.values(), lr=0.01)
    for _ in range(30):
        loss = torch.stack(losses_of(policy, people)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert max(one.item() for one in losses_of(policy, people)) < math.log(2) - 0.05


def test_a_result_is_for_people_and_for_nobody_the_base(base, trained):
    """The run starts at ln 2 and with accuracy ½. With diffusers alone, to the bit."""
    rows = metrics(trained)
    assert rows[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert rows[0]["rewards/accuracy"] == 0.5
    people = load_file(trained / "result" / "people.safetensors")
    assert sorted(people) == ["bright", "dark"]
    torch.testing.assert_close(people["bright"], -people["dark"])
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.load_ip_adapter(
        str(trained / "result"), subfolder="", weight_name="ip_adapter.safetensors", image_encoder_folder=None
    )
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = load_family(str(base), device=CPU)
    prompt = plain.encode_prompts(["a"])["embeddings"]
    with torch.no_grad():
        nobody, bright = (
            pipeline.unet(
                x, 500, encoder_hidden_states=prompt, added_cond_kwargs={"image_embeds": [one.view(1, 1, -1)]}
            ).sample
            for one in (torch.zeros_like(people["dark"]), people["bright"])
        )
    assert torch.equal(nobody, predicted(plain, plain.encode_prompts(["a"])))
    assert (bright - nobody).abs().max() > 1e-2


def test_a_run_goes_on_to_the_bit(base, trained, tmp_path):
    stopped = make(tmp_path / "stopped", base, {"bright": 0, "dark": 1}, save_every=1)
    with cancelled_after(3):
        assert run(stopped) == EXIT_CANCELLED
    assert run(stopped) == EXIT_DONE
    assert all(torch.equal(value, weights(stopped)[name]) for name, value in weights(trained).items())


def test_new_people_come_with_four_pairs_and_without_training(trained, tmp_path):
    """Three pairs are too few, four will do; what was learnt stays."""
    folder = tmp_path / "more"
    media = folder / "data" / "media"
    rows = rows_of(media, {"new": 1}, count=4) + rows_of(media, {"rare": 0}, count=3, first=4)
    config = {"fit": "people"}
    assert (
        run(make_run(folder, "personal_dpo", base=trained / "result", config=config, rows=rows)) == EXIT_DONE
    )
    people = load_file(folder / "result" / "people.safetensors")
    assert sorted(people) == ["bright", "dark", "new"]
    assert torch.nn.functional.cosine_similarity(people["new"], people["dark"], dim=0) > 0.95
    old, new = (load_file(one / "result" / "ip_adapter.safetensors") for one in (trained, folder))
    assert all(torch.equal(value, new[name]) for name, value in old.items())


def draw(folder: Path, base: Path, people: dict[str, float], **changes: Any) -> Path:
    config = {"num_inference_steps": 3, "guidance_scale": 3.0, "people": people} | changes
    return make_run(folder, "image_generate", base=base, config=config, rows=[{"prompt": "a"}])


def test_pictures_are_drawn_for_somebody_or_between_people(base, trained, tmp_path, capsys):
    """For nobody the base's picture; for people other ones; half and half of opposite people is nobody."""
    result, pictures = trained / "result", {}
    asked = {"base": (base, {}), "nobody": (result, {}), "bright": (result, {"bright": 1.0})}
    asked |= {"half": (result, {"bright": 1.0, "dark": 1.0})}
    for name, (model, people) in asked.items():
        assert run(draw(tmp_path / name, model, people)) == EXIT_DONE
        picture = Image.open(tmp_path / name / "result" / "media" / "000000-00.png")
        pictures[name] = np.asarray(picture, dtype=int)
    assert np.abs(pictures["nobody"] - pictures["base"]).max() <= 1
    assert np.abs(pictures["half"] - pictures["base"]).max() <= 1
    assert np.abs(pictures["bright"] - pictures["base"]).max() > 5
    vectors = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])}
    assert mixed(vectors, {"a": 3.0, "b": 1.0}).tolist() == [0.75, 0.25]
    assert mixed(vectors, {"a": 0.5}).tolist() == [0.5, 0.0]
    for number, (model, people, changes, message) in enumerate(
        [
            (result, {"x": 1.0}, {}, "x is not known to this model"),
            (base, {"x": 1.0}, {}, "knows no people"),
            (result, {}, {"eta": 1.0}, "neither search nor eta"),
        ]
    ):
        assert run(draw(tmp_path / str(number), model, people, **changes)) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err


def test_what_cannot_be_is_refused(base, trained, tmp_path, capsys):
    sd3 = save_sd3(tmp_path / "sd3")
    cases: list[tuple[Path, str, dict[str, Any], int, str]] = [
        (base, "personal_dpo", {}, 3, "nobody has 4 pairs"),
        (base, "personal_dpo", {"fit": "people"}, 4, "needs a result of personal_dpo"),
        (trained / "result", "personal_dpo", {}, 4, "already knows people"),
        (trained / "result", "diffusion_dpo", {"lora": None}, 4, "is not trained on"),
        (sd3, "personal_dpo", {}, 4, "people are for Stable Diffusion"),
    ]
    for number, (model, method, changes, rows, message) in enumerate(cases):
        folder = make(tmp_path / str(number), model, {"ann": 0}, rows=rows, **changes)
        spec = json.loads((folder / "run.json").read_text()) | {"method": method}
        (folder / "run.json").write_text(json.dumps(spec))
        assert run(folder) == EXIT_BAD_INPUT
        assert message in capsys.readouterr().err
