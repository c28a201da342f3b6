"""Pictures in prompts: in through a file, safely onto the page, and out again."""

import io
import json
import re
import zipfile

import pytest
from django.core.files.storage import default_storage
from PIL import Image

from annotation import services
from annotation.errors import Invalid
from annotation.formats import FORMATS
from annotation.markdown import first_line, render_content
from annotation.models import Comparison, ExportJob, Media
from annotation.services.searching import read_prompts
from tests.annotation.conftest import api_client
from tests.annotation.files import jsonl, png, rejected, run, zipped

pytestmark = pytest.mark.django_db

ASK = {"type": "text", "text": "Which animal is *this*?"}
ANSWERS = {"chosen": "A dog.", "rejected": "A cat."}
PLACE = {"type": "image"}


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def uploaded(project, *rows, form="trl", **pictures):
    files = {f"{name}.png": data for name, data in pictures.items()} or {"a.png": png()}
    return run(project, zipped({"rows.jsonl": jsonl(*rows), **files}), form)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": user(PLACE, ASK), "images": ["a.png"], **ANSWERS},
        {"prompt": ASK["text"], "image": "a.png", **ANSWERS},
        {"prompt": user(ASK), "images": ["a.png"], **ANSWERS},
        {"prompt": [{"role": "user", "content": ASK["text"]}], "images": ["a.png"], **ANSWERS},
        {"prompt": user({"type": "image", "image": "a.png"}, ASK), **ANSWERS},
        {"prompt": user({"type": "image_url", "image_url": {"url": "a.png"}}, ASK), **ANSWERS},
        {
            "images": ["a.png"],
            "chosen": [*user(PLACE, ASK), {"role": "assistant", "content": "A dog."}],
            "rejected": [*user(PLACE, ASK), {"role": "assistant", "content": "A cat."}],
        },
    ],
)
def test_ways_to_say_where_the_picture_stands(project, row):
    """TRL's `images` with and without places, and parts that name their picture: the same prompt."""
    job = uploaded(project, row)
    assert (job.accepted, rejected(job)) == (1, [])
    comparison, picture = Comparison.objects.get(), Media.objects.get()
    assert comparison.prompt == user({"type": "image", "image": picture.sha256}, ASK)
    assert "images" not in comparison.meta
    assert "image" not in comparison.meta


def test_the_picture_is_our_own_encoding(project):
    """What rode along in the upload is gone: the stored bytes are a plain PNG."""
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    Image.new("RGB", (4, 4), "red").save(out, "JPEG", exif=exif)
    uploaded(project, {"prompt": "p", "image": "a.png", **ANSWERS}, a=out.getvalue())
    stored = default_storage.open(Media.objects.get().storage_key).read()
    assert stored.startswith(b"\x89PNG")
    assert b"secret" not in stored


def test_rows_that_cannot_be_used_are_listed(project):
    job = uploaded(
        project,
        {"prompt": user(PLACE, PLACE, ASK), "images": ["a.png"], **ANSWERS},
        {"prompt": "p", "image": "gone.png", **ANSWERS},
        {"prompt": "p", "image": "https://example.org/a.png", **ANSWERS},
        {"prompt": user({"type": "video", "video": "a.mp4"}), **ANSWERS},
        {"prompt": user(PLACE, ASK), **ANSWERS},
        {"prompt": "p", "image": "notes.png", **ANSWERS},
        {"prompt": "p", "chosen": [{"role": "assistant", "content": [PLACE]}], "rejected": "x"},
        notes=b"no picture",
    )
    assert job.accepted == 0
    reasons = [f"{field}: {reason}" for _, field, reason in rejected(job)]
    assert reasons[0] == "images: are 1; the prompt has places for 2"
    assert "'gone.png', which is not in the zip" in reasons[1]
    assert reasons[2].startswith("prompt: 'https://example.org/a.png'")  # no allowlist, no request
    assert "type video" in reasons[3]
    assert "a picture that is null" in reasons[4]
    assert reasons[5].startswith("prompt: 'notes.png'")
    assert "type image" in reasons[6]


def test_shown_to_who_judges_under_an_address_of_the_lease(project, annotator, outsider, annotator_page):
    """Page and API show the picture; its name in the storage is not told, and nobody else gets it."""
    uploaded(project, {"prompt": user(PLACE, ASK), "images": ["a.png"], "responses": ["A dog.", "A cat."]})
    sha256 = Media.objects.get().sha256
    client = api_client(annotator)
    lease = client.post(f"/api/v1/projects/{project.pk}/next/?html=1").json()
    part, text = lease["prompt"][0]["content"]
    assert part == {"type": "image", "url": part["url"], "width": 8, "height": 6}
    assert text == ASK
    assert sha256 not in json.dumps(lease)
    image = f'<img class="of-prompt" src="{part["url"]}" width="8" height="6" alt="'
    assert image in lease["prompt_html"]
    picture = client.get(part["url"])
    assert (picture["Content-Type"], picture["X-Content-Type-Options"]) == ("image/png", "nosniff")
    assert Image.open(io.BytesIO(picture.content)).getpixel((0, 0)) == (255, 0, 0)
    assert client.get(part["url"].replace("/0", "/1")).status_code == 404
    assert api_client(outsider).get(part["url"]).status_code == 404
    page = annotator_page.get(f"/projects/{project.pk}/judge/").content.decode()
    assert part["url"] in page
    body = {"client_id": "1c5f40a4-0000-4000-8000-000000000000", "choice": 0}
    assert client.post(f"/api/v1/leases/{lease['lease']}/judgement/", body).status_code == 201
    (line,) = client.get(f"/api/v1/projects/{project.pk}/history/").json()
    assert line["prompt"][0]["content"][0]["url"] == part["url"]


def test_managers_see_it_and_others_do_not(project, manager_page, outsider_page):
    uploaded(project, {"prompt": user(PLACE, ASK), "images": ["a.png"], **ANSWERS})
    comparison = Comparison.objects.get()
    page = manager_page.get(f"/projects/{project.pk}/data/{comparison.pk}/").content.decode()
    (address,) = re.findall(r'<img class="of-prompt" src="([^"]+)"', page)
    assert manager_page.get(address)["Content-Type"] == "image/png"
    assert manager_page.get(address.replace("/0/", "/7/")).status_code == 404
    assert outsider_page.get(address).status_code == 404


def test_nothing_but_our_own_address_becomes_an_image():
    """A name from a file is no source: without an address of this site the picture is only mentioned."""
    prompt = user({"type": "image", "image": 'x" onerror="alert(1)'}, {"type": "text", "text": "<img src=x>"})
    html = render_content(prompt)
    assert "<img" not in html
    assert "onerror" not in html
    assert first_line(user({"type": "image", "image": "x"})) == "[picture]"
    assert first_line(prompt) == "<img src=x>"


def test_out_again_in_the_formats_that_hold_it(project):
    """Groups and TRL come back as they went in; another format says what it left out."""
    uploaded(project, {"prompt": user(PLACE, ASK), "images": ["a.png"], **ANSWERS})
    before = Comparison.objects.get()
    for form in ("groups", "trl"):
        job = exported(project, form)
        data = default_storage.open(job.storage_key).read()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            (row,) = map(json.loads, archive.read("data.jsonl").splitlines())
            (media,) = [name for name in archive.namelist() if name.startswith("media/")]
        if form == "trl":
            assert row["prompt"] == user(PLACE, ASK)
            assert [f"media/{name}" for name in row["images"]] == [media]
            assert row["chosen"] == [{"role": "assistant", "content": "A dog."}]
        other = services.create_project(by=project.created_by, name=form, modality="text")
        assert run(other, data, form).accepted == 1
        back = other.comparisons.get()
        assert back.prompt == before.prompt
        assert back.judgements.get().choice == 0
    job = exported(project, "hh-rlhf")
    assert (job.rows, job.left_out) == (0, {"comparisons with pictures in the prompt": 1})
    assert [name for name, form in FORMATS.items() if form.holds.prompt_pictures] == ["groups", "trl"]


def exported(project, form):
    job = services.start_export(project=project, by=project.created_by, format=form)
    services.run_export(job.pk)
    return ExportJob.objects.get(pk=job.pk)


def test_equal_prompts_are_equal_by_their_pictures(project):
    row = {"prompt": "p", "image": "a.png", **ANSWERS}
    job = uploaded(
        project,
        row,
        row | {"image": "b.png"},
        row | {"image": "c.png"},
        a=png(),
        b=png(),
        c=png(colour="blue"),
    )
    assert (job.accepted, job.duplicates) == (3, 1)


def test_searched_by_its_words(project, manager_page):
    uploaded(project, {"prompt": user(PLACE, ASK), "images": ["a.png"], **ANSWERS})
    read_prompts()
    find = lambda word: manager_page.get(f"/projects/{project.pk}/data/?q={word}").context["page"].rows
    assert len(find("animal")) == 1
    assert len(find("type")) == 0


def test_edited_without_borrowing_another_picture(project):
    uploaded(project, {"prompt": user(PLACE, ASK), "images": ["a.png"], "responses": ["x", "y"]})
    comparison, mine = Comparison.objects.get(), Media.objects.get()
    other = services.media.store_image(png(colour="blue"))
    changed = user({"type": "text", "text": "What?"}, {"type": "image", "image": mine.sha256})
    services.edit_comparison(comparison=comparison, prompt=changed)
    assert Comparison.objects.get().prompt == changed
    stolen = user({"type": "image", "image": other.sha256})
    with pytest.raises(Invalid, match="a picture that this prompt does not have"):
        services.edit_comparison(comparison=comparison, prompt=stolen)
