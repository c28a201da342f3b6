"""Text encoders and the autoencoder leave the device while nobody needs them: `Family.rest`."""

from pathlib import Path

import pytest
import torch
from accelerate.hooks import CpuOffload, UserCpuOffloadHook

from tests.tuning.image_models import save_pipeline
from tests.tuning.image_runs import make_run, metrics
from tests.tuning.test_image_families import CPU, SAVE, side_of
from training.tuning.__main__ import main as train
from training.tuning.images.families import base, load_family
from training.tuning.images.generation import Request, Sampling, generate_images

DDPO = {
    "max_steps": 2, "batch_size": 2, "num_generations": 2, "num_inference_steps": 2,
    "height": 16, "width": 16, "samples": 1, "eval_every": 1,
}  # fmt: skip


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Which part came and which left, as if the CPU were a device to leave."""
    seen: list[tuple[str, object]] = []
    come, leave = CpuOffload.pre_forward, UserCpuOffloadHook.offload

    def coming(self, module, *args, **kwargs):
        seen.append(("comes", module))
        return come(self, module, *args, **kwargs)

    def leaving(self):
        seen.append(("leaves", self.model))
        return leave(self)

    monkeypatch.setattr(base, "NOWHERE_TO_GO", ())
    monkeypatch.setattr(CpuOffload, "pre_forward", coming)
    monkeypatch.setattr(UserCpuOffloadHook, "offload", leaving)
    return seen


def away(moves: list[tuple[str, object]], parts: list[object]) -> list[bool]:
    """Whether each part is away after these moves."""
    now = {id(part): what for what, part in moves}
    return [now.get(id(part)) == "leaves" for part in parts]


@pytest.mark.parametrize("kind", SAVE)
def test_what_is_called_comes_back(kind: str, tmp_path: Path, moves: list[tuple[str, object]]) -> None:
    """Of every family: pictures are the same to the bit, and whatever drew them was there."""
    saved = SAVE[kind](tmp_path)
    family = load_family(str(saved), device=CPU)
    side = side_of(family)
    sampling = Sampling(2, 2.0, side, side)
    asked = [Request("a b", 1), Request("c", 2)]
    before = generate_images(family, asked, sampling)
    parts = [*family.encoders, family.pipeline.vae]
    family.rest()
    assert away(moves, parts) == [True] * len(parts)
    told = family.encode_prompts(["a b"])
    assert away(moves, parts) == [False] * len(family.encoders) + [True]
    family.rest()
    family.decode_latents(torch.zeros(1, *family.latent_shape(side, side)))
    assert away(moves, parts) == [True] * len(family.encoders) + [False]
    family.rest()
    after = generate_images(family, asked, sampling)
    assert away(moves, parts) == [False] * len(parts)
    assert all(one.tobytes() == other.tobytes() for one, other in zip(before, after, strict=True))
    assert all(torch.equal(value, family.encode_prompts(["a b"])[name]) for name, value in told.items())


def test_training_online_goes_on_without_them(tmp_path: Path, moves: list[tuple[str, object]]) -> None:
    """A run is the same with parts that leave, and ends with all of them away; during its steps the
    autoencoder alone comes.
    """
    saved = save_pipeline(tmp_path / "model")
    rows = [{"prompt": letter} for letter in "abc"]
    reward = [{"rule": "brightness"}]
    found = []
    for name in ("resting", "staying"):
        folder = make_run(
            tmp_path / name,
            "ddpo",
            base=saved,
            config=DDPO,
            rows=rows,
            held_out=[{"prompt": "x"}],
            reward=reward,
        )
        if name == "staying":
            base.NOWHERE_TO_GO = ("cpu",)
        assert train([str(folder)]) == 0
        found.append([[row[key] for key in ("reward", "loss") if key in row] for row in metrics(folder)])
    assert found[0] == found[1]
    parts = list({id(part): part for _, part in moves}.values())
    assert away(moves, parts) == [True, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: there is no other device to leave")
def test_memory_is_given_back(tmp_path: Path) -> None:
    family = load_family(str(save_pipeline(tmp_path)), device=torch.device("cuda"))
    held = torch.cuda.memory_allocated()
    family.rest()
    weights = sum(one.nbytes for part in (*family.encoders, family.pipeline.vae) for one in part.parameters())
    assert held - torch.cuda.memory_allocated() > 0.9 * weights
    assert family.device.type == "cuda"
    assert family.encode_prompts(["a"])["embeddings"].device.type == "cuda"
