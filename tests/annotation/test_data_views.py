"""The pages that bring data in and out, show it, and say how far people agree."""

import re

from django.urls import reverse
from django.utils import timezone

from annotation import services
from annotation.models import ExportJob
from tests.annotation import factories


def test_import_page(manager_page, project, tmp_path, django_capture_on_commit_callbacks):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "p", "chosen": "c"}\n{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    with file.open("rb") as rows:
        response = manager_page.post(f"/projects/{project.pk}/imports/", {"file": rows, "format": "trl"})
    job = project.importjobs.get()
    assert response.url == f"/imports/{job.pk}/"
    assert 'hx-trigger="every 1s"' in manager_page.get(response.url).content.decode()
    services.run_import(job.pk)
    part = manager_page.get(response.url, headers={"HX-Request": "true"}).content.decode()
    assert "every 1s" not in part
    assert "<!doctype" not in part
    assert "rejected" in part
    table = b"".join(manager_page.get(f"/imports/{job.pk}/rejected.csv").streaming_content).decode()
    assert table.splitlines()[0] == "line,field,reason"
    assert table.splitlines()[1].startswith("1,rejected,")


def test_import_refused(manager_page, project, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.touch()
    with file.open("rb") as rows:
        response = manager_page.post(f"/projects/{project.pk}/imports/", {"file": rows, "format": "trl"})
    assert response.status_code == 400
    assert not project.importjobs.exists()


def test_export_page(manager_page, annotator, project):
    factories.add_texts(project, 2)
    factories.judge(annotator, project)
    address = f"/projects/{project.pk}/exports/"
    assert manager_page.post(address, {"format": "groups", "judged": "on"}).url == address
    job = ExportJob.objects.get()
    assert job.filters == {"judged": True}
    services.run_export(job.pk)
    body = manager_page.get(address).content.decode()
    link = reverse("export-download", args=[job.pk])
    assert link in body
    assert b"".join(manager_page.get(link).streaming_content).count(b"\n") == 1


def test_data_filters(manager_page, annotator, project):
    factories.add_texts(project, 2)
    services.add_comparisons(project=project, groups=factories.text_groups(1, start=7), held_out=True)
    factories.judge(annotator, project)

    def found(query: str) -> list[str]:
        body = manager_page.get(f"/projects/{project.pk}/data/?{query}").content.decode()
        return re.findall(r">(Question \d)\?</a>", body)

    services.read_prompts()
    assert found("") == ["Question 0", "Question 1", "Question 7"]
    assert found("q=question+1") == ["Question 1"]
    assert found("state=waiting") == ["Question 1", "Question 7"]
    assert found("state=judged") == ["Question 0"]
    assert found("state=split") == []
    assert found("use=held-out") == ["Question 7"]
    assert found("use=training&state=waiting") == ["Question 1"]


def test_disagreements_of_one_person(manager, manager_page):
    """Three people, two comparisons: on the second, one stands against two."""
    project = factories.make_project(by=manager, labels_per_comparison=3)
    people = factories.add_annotators(project, 3)
    factories.add_texts(project, 2)
    for person, answers in zip(people, (("tie", "tie"), ("tie", "tie"), ("tie", "both_bad")), strict=True):
        for answer in answers:
            factories.judge(person, project, answer)
    for person in people:
        address = f"/projects/{project.pk}/data/?against={person.username}"
        assert re.findall(r">(Question \d)", manager_page.get(address).content.decode()) == ["Question 1"]
    assert "Nothing fits" in manager_page.get(f"/projects/{project.pk}/data/?against=nobody").content.decode()


def test_sources_stay_hidden_from_who_judges(manager, manager_page, project):
    """A manager who holds a comparison does not see where its candidates come from; afterwards they do."""
    comparison = factories.add_texts(project, 1)[0]
    address = f"/projects/{project.pk}/data/{comparison.pk}/"
    assert "secret-model" in manager_page.get(address).content.decode()
    services.next_lease(project=project, user=manager, now=timezone.now())
    assert "secret-model" not in manager_page.get(address).content.decode()
    factories.judge(manager, project)
    assert "secret-model" in manager_page.get(address).content.decode()
