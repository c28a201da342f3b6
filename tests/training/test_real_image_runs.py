"""Image runs with the real trainer on a tiny pipeline: pictures in, samples and an adapter out, a match."""

import pytest
from PIL import Image

from annotation import services as annotation_services
from annotation.services.media import store_image
from tests.annotation.factories import make_project
from tests.training.test_executing import work
from tests.training.test_real_runs import result_of
from tests.tuning.image_models import save_picture, save_pipeline
from training import services

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
PROMPTS = ["a red b", "c d", "blue e", "f g h"]


@pytest.fixture
def pictures(manager, tmp_path, monkeypatch):
    """A project with judged pairs of random pictures."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    project = make_project(by=manager, modality="image")
    groups = []
    for number, prompt in enumerate(PROMPTS):
        pair = [
            store_image(save_picture(tmp_path / f"{number}-{side}.png", seed=2 * number + side).read_bytes())
            for side in (0, 1)
        ]
        judgement = {"annotator": "ann", "kind": "regular", "order": [0, 1], "choice": number % 2}
        candidates = [{"image": picture, "source": ""} for picture in pair]
        groups.append({"prompt": prompt, "candidates": candidates, "judgements": [judgement]})
    annotation_services.add_comparisons(project=project, groups=groups)
    return project


def test_diffusion_dpo_samples_and_match(manager, pictures, tmp_path):
    location = str(save_pipeline(tmp_path / "pipeline"))
    services.register_base_model(by=manager, name="shapes", modality="image", location=location)
    config = {"max_steps": 2, "batch_size": 2, "samples": 1, "num_inference_steps": 2, "log_every": 1}
    run = services.create_run(
        by=manager, project=pictures, method="diffusion_dpo", base="shapes", config=config, eval_fraction=0.3
    )
    services.prepare_run(run_id=run.pk)
    work()
    run.refresh_from_db()
    assert run.status == "done", run.error
    assert "pytorch_lora_weights.safetensors" in result_of(run).namelist()
    assert [row["when"] for row in run.samples] == ["before", "after"]
    for row in run.samples:
        with services.open_sample_image(run, row["image"]) as file:
            assert Image.open(file).size > (0, 0)

    match = services.create_match(
        by=manager, project=pictures, left=f"checkpoint:{run.checkpoint.pk}", right="shapes",
        config={"num_inference_steps": 2},
    )  # fmt: skip
    work()
    services.advance_matches()
    match.refresh_from_db()
    assert match.status == "judging", match.error
    assert match.comparisons.count() + match.identical == match.prompts == run.snapshot.counts["eval_groups"]
