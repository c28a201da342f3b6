"""From a label to a downloaded checkpoint, on everything that `manage.py up` starts: nothing is pretended."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.conf import settings
from playwright.sync_api import Page, expect

from tests.functional.conftest import wait_until_saved
from tests.functional.pictures import disc
from webapp.embedded.supervisor import Supervisor

MODELS = settings.BASE_DIR / "webapp" / "demo" / "models"
PATIENCE = 300_000  # ms; a busy machine needs them


@dataclass
class Site:
    url: str
    folder: Path

    def manage(self, *arguments: str) -> list[str]:
        """What a management command prints."""
        own = {"DJANGO_SETTINGS_MODULE": "webapp.settings", "TIEBREAK_DATA": str(self.folder)}
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=settings.BASE_DIR, env=os.environ | own, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="tiebreak-loop-"))
    with Supervisor(folder, port=0) as running:
        yield Site(running.url, folder)
    shutil.rmtree(folder)


@pytest.fixture
def page(browser, site, watch) -> Iterator[Page]:
    context = browser.new_context(base_url=site.url, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    watch.follow(page)
    yield page
    context.close()


def import_rows(api, *, name: str, modality: str, file: tuple[str, bytes]) -> int:
    """A project with comparisons, over the HTTP API."""
    created = api.post("/api/v1/projects/", data={"name": name, "modality": modality})
    assert created.status == 201, created.text()
    project = created.json()["id"]
    upload = {"name": file[0], "mimeType": "application/octet-stream", "buffer": file[1]}
    job = api.post(f"/api/v1/projects/{project}/imports/", multipart={"file": upload, "format": "trl"})
    assert job.status == 202, job.text()
    address = f"/api/v1/imports/{job.json()['id']}/"
    deadline = time.monotonic() + PATIENCE / 1000
    while (state := api.get(address).json())["status"] in ("queued", "running"):
        assert time.monotonic() < deadline, state
        time.sleep(0.2)
    assert (state["status"], state["accepted"]) == ("done", 6), state
    return project


def text_file() -> tuple[str, bytes]:
    rows = [
        {"prompt": f"My parcel {n} is late.", "responses": [f"I will look for parcel {n}.", "Please wait."]}
        for n in range(6)
    ]
    return "rows.jsonl", "\n".join(json.dumps(row) for row in rows).encode()


def picture_file() -> tuple[str, bytes]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        rows = []
        for n in range(6):
            for side, colour in (("a", "#d7263d"), ("b", "#2e86ab")):
                archive.writestr(f"{n}{side}.png", disc(5 + n, colour, size=32))
            rows.append(
                {
                    "prompt": f"a red circle on a yellow background {n}",
                    "responses": [f"{n}a.png", f"{n}b.png"],
                }
            )
        archive.writestr("rows.jsonl", "\n".join(json.dumps(row) for row in rows))
    return "rows.zip", packed.getvalue()


def judge(page: Page, project: int, keys: str) -> None:
    """By keyboard alone."""
    page.goto(f"/projects/{project}/judge/")
    page.wait_for_selector("main[data-ready]")
    for key in keys:
        before = page.inner_text("#prompt .prose")
        page.keyboard.press(key)
        expect(page.locator("#prompt .prose")).not_to_have_text(before, timeout=PATIENCE)
    wait_until_saved(page)


def run_and_download(page: Page, project: int, method: str, folder: Path) -> Path:
    """A run from the form: look at its data, start it, watch it finish, download and unpack its result."""
    page.goto(f"/projects/{project}/runs/new/?method={method}")
    page.fill("[name=config_learning_rate]", "0.001")
    page.click("summary:has-text('more settings')")
    page.fill("[name=config_max_steps]", "3")
    page.fill("[name=config_samples]", "1")
    page.fill("[name=config_log_every]", "1")
    page.click("text=Look at the data first")
    expect(page.locator("#run-status")).to_have_text("draft", timeout=PATIENCE)
    assert page.locator(".preview-rows tbody tr").count() > 0
    page.click("button:has-text('Start')")
    expect(page.locator("#run-status")).to_have_text("done", timeout=PATIENCE)
    expect(page.locator(".chart polyline").first).to_be_attached(timeout=PATIENCE)
    assert page.locator(".sample").count() == 1
    with page.expect_download() as download:
        page.click("a:has-text('Download')")
    unpacked = folder / method
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(unpacked)
    assert "metadata.json" in os.listdir(unpacked)
    return unpacked


def ask_both(page: Page, project: int) -> list[str]:
    """In the arena: the base and what it became answer, one of them is preferred; then, who they were."""
    page.goto(f"/projects/{project}/arena/")
    boxes = page.locator("[name=models]")
    assert boxes.count() == 2
    for box in boxes.all():
        box.check()
    page.click("button:has-text('Save')")
    page.fill("[name=prompt]", "My parcel 7 is late.")
    page.click("button:has-text('Ask two models')")
    page.wait_for_selector("main[data-ready]")
    assert all(text.strip() for text in page.locator(".candidate .prose").all_inner_texts())
    page.keyboard.press("2")
    page.wait_for_selector("main[data-judged]")
    return page.locator(".candidate h2").all_inner_texts()


def test_from_a_label_to_a_checkpoint(site, page, tmp_path):
    token, link = site.manage("create_user", "mona", "--role", "manager", "--token", "--link", site.url)
    for modality in ("text", "image"):
        site.manage("register_model", f"demo-{modality}", str(MODELS / modality), "--modality", modality)
    visitor = page.context.browser.new_context(
        base_url=site.url, extra_http_headers={"Authorization": f"Token {token}"}
    )
    texts = import_rows(visitor.request, name="Answers", modality="text", file=text_file())
    pictures = import_rows(visitor.request, name="Shapes", modality="image", file=picture_file())

    page.goto(link)
    page.wait_for_selector("h1:has-text('Projects')")
    judge(page, texts, "16231")
    page.keyboard.press("z")
    expect(page.locator("#prompt .prose")).to_have_text("My parcel 4 is late.", timeout=PATIENCE)
    page.keyboard.press("7")
    expect(page.locator("#prompt .prose")).not_to_have_text("My parcel 4 is late.", timeout=PATIENCE)
    wait_until_saved(page)
    judge(page, pictures, "17263")
    said = visitor.request.get(f"/api/v1/projects/{texts}/").json()
    visitor.close()
    assert said["name"] == "Answers"

    adapter = run_and_download(page, texts, "dpo", tmp_path)
    lora = run_and_download(page, pictures, "diffusion_dpo", tmp_path)
    assert "demo-text" in "".join(ask_both(page, texts))

    from diffusers import StableDiffusionPipeline
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODELS / "text"), adapter)
    assert any(weight.abs().sum() > 0 for name, weight in tuned.named_parameters() if "lora_B" in name)
    pipeline = StableDiffusionPipeline.from_pretrained(MODELS / "image")
    pipeline.load_lora_weights(lora)
    assert pipeline.get_active_adapters()
