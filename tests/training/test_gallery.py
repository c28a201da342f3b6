"""What jobs gave, as cards: by score, filtered, page by page; and the pictures on them."""

import html
import io
import re

import pytest
from django.urls import reverse
from django.utils import timezone
from PIL import Image

from annotation import services as annotation_services
from annotation.models import Comparison
from annotation.permissions import ALLOWED, Action
from annotation.services.media import store_image
from tests.annotation.factories import make_project, make_user, text_groups
from tests.annotation.files import png
from tests.training import factories
from tests.training.conftest import client_of
from tests.training.factories import ended
from training import galleries, services
from training.models import Run

pytestmark = pytest.mark.django_db
SCORES = [[0.5, 2.0], [None, -1.0], [2.0, 1.5]]


def scored(project, scores, **values) -> Run:
    rules = [{"rule": "words" if project.modality == "text" else "brightness"}]
    run = services.create_scoring(by=project.created_by, project=project, reward=rules, **values)
    why = {"why": "the answer is <too> long"}
    rows = [{"scores": own} | (why if None in own else {}) for own in scores]
    return ended(run, rows, name="scores.jsonl")


def wrote(project, base, rows, pictures=()) -> Run:
    prompts = [row["prompt"] for row in rows]
    run = services.create_generation(by=project.created_by, project=project, base=base.name, prompts=prompts)
    return ended(run, rows, pictures)


def address(run, query="") -> str:
    return reverse("training:run_gallery", args=[run.pk]) + (f"?{query}" if query else "")


def cards(page) -> list[str]:
    """The cards of a page, each as its HTML."""
    return re.findall(r"<li>.*?</li>", page.split('<ul class="gallery', 1)[-1], re.DOTALL)


def texts(page) -> list[str]:
    return re.findall(r"<p>((?:Good|Bad|Answer) [\d.]+)</p>", page)


@pytest.fixture
def scoring(manager) -> Run:
    return scored(factories.judged_project(by=manager, prompts=3, votes=0), SCORES)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ["Bad 0.", "Good 2.", "Bad 2.", "Good 0.", "Bad 1.", "Good 1."]),
        ("order=highest", ["Bad 0.", "Good 2.", "Bad 2.", "Good 0.", "Bad 1.", "Good 1."]),
        ("order=lowest", ["Bad 1.", "Good 0.", "Bad 2.", "Bad 0.", "Good 2.", "Good 1."]),
        ("order=given", ["Good 0.", "Bad 0.", "Good 1.", "Bad 1.", "Good 2.", "Bad 2."]),
        ("at_least=1.5", ["Bad 0.", "Good 2.", "Bad 2."]),
        ("at_least=0", ["Bad 0.", "Good 2.", "Bad 2.", "Good 0."]),
        ("at_most=0.5", ["Good 0.", "Bad 1."]),
        ("at_least=0.5&at_most=1.5&order=lowest", ["Good 0.", "Bad 2."]),
        ("q=2%3F question", ["Good 2.", "Bad 2."]),
        ("q=nowhere", []),
        ("at_least=much", ["Bad 0.", "Good 2.", "Bad 2.", "Good 0.", "Bad 1.", "Good 1."]),
        ("order=nonsense", ["Bad 0.", "Good 2.", "Bad 2.", "Good 0.", "Bad 1.", "Good 1."]),
    ],
)
def test_order_and_filters(scoring, as_mona, query, shown):
    page = as_mona.get(address(scoring, query)).text
    assert texts(page) == shown
    assert f'<p class="muted">{len(shown)}' in page
    assert ("Nothing fits these filters" in page) == (not shown)


def test_a_card(scoring, as_mona):
    """Its score, its rank among those that have one, and why it has none."""
    best, *_, alone, none = cards(as_mona.get(address(scoring)).text)
    assert "score <strong>2</strong>" in best
    assert "rank 1 of 2" in best
    assert "score <strong>−1</strong>" in alone
    assert "rank" not in alone
    assert "could not be scored: <bdi>the answer is &lt;too&gt; long</bdi>" in none
    run = scored(scoring.project, [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert as_mona.get(address(run)).text.count("rank 1 of 2") == 6


def test_what_became_of_the_comparison(scoring, as_mona):
    """What was scored is shown as it was; a comparison that is gone, or none of the project's, is no link."""
    gone, kept, _ = Comparison.objects.order_by("rank")
    gone.delete()
    annotation_services.edit_comparison(comparison=kept, prompt="Other?")
    page = as_mona.get(address(scoring, "order=given")).text
    links = [re.findall(r'href="([^"]*)"', card) for card in cards(page)]
    there = reverse("annotation:comparison", args=[scoring.project_id, kept.pk])
    assert links[:4] == [[], [], [there], [there]]
    assert texts(page)[:2] == ["Good 0.", "Bad 0."]
    assert "Question 1?" in page
    assert "Other?" not in page


def test_rows_from_outside(scoring, as_mona):
    """Groups that somebody gave over the API lead to no comparison, nor does a number of another project."""
    stranger = factories.judged_project(prompts=1).comparisons.get()
    asked = [{"prompt": "p", "candidates": [{"text": "Answer 1"}]}]
    groups = [*asked, asked[0] | {"meta": {"comparison": stranger.pk}}]
    groups.append({"prompt": [{"role": "user", "content": "in parts"}], "candidates": [{"text": "Answer 2"}]})
    run = scored(scoring.project, [[float(n)] for n in range(len(groups))], groups=groups)
    page = as_mona.get(address(run)).text
    assert texts(page) == ["Answer 2", "Answer 1", "Answer 1"]
    assert not re.findall(r"href", "".join(cards(page)))
    assert texts(as_mona.get(address(run, "q=PARTS")).text) == ["Answer 2"]


def test_pages(manager, as_mona, monkeypatch):
    """Fifty on each, from the best on; the links keep the filters; far behind there is an end."""
    project = make_project(by=manager)
    annotation_services.add_comparisons(project=project, groups=text_groups(60))
    run = scored(project, [[n, -n] for n in range(60)])
    query, seen = "order=lowest&at_least=-1000", []
    for size in (50, 50, 20):
        page = as_mona.get(address(run, query)).text
        found = texts(page)
        assert len(found) == size
        seen += found
        query = html.unescape(next(iter(re.findall(r'rel="next" href="\?([^"]*)"', page)), ""))
    assert not query
    assert seen == [
        *(f"Answer {n}.1" for n in range(59, 0, -1)),
        *("Answer 0.0", "Answer 0.1"),
        *(f"Answer {n}.0" for n in range(1, 60)),
    ]
    back = html.unescape(re.findall(r'rel="prev" href="\?([^"]*)"', page)[0])
    assert texts(as_mona.get(address(run, back)).text) == seen[50:100]
    assert texts(as_mona.get(address(run, "before=-3")).text) == texts(as_mona.get(address(run)).text)
    monkeypatch.setattr(galleries, "MOST_SHOWN", 100)
    page = as_mona.get(address(run, "after=100000000000000000")).text
    assert len(texts(page)) == 50
    assert 'rel="next"' not in page
    assert "The pages end after 100" in page


def test_groups_behind_other_pages_are_not_read(scoring, manager, monkeypatch):
    """Of a thousand groups those of the page alone are read, which scored from 949 to 900."""
    group = b'{"prompt": "p", "candidates": [{"text": "a"}]}'

    def rows(run):
        for score in range(1000):
            yield group if 900 <= score < 950 else b"nothing to read", {"scores": [score]}

    monkeypatch.setattr(galleries, "_rows", rows)
    gallery = galleries.gallery_of(scoring, {}, user=manager, after=50)
    assert (gallery.count, [card.score for card in gallery.page.rows]) == (1000, [*range(949, 899, -1)])


def test_what_its_reader_is_to_judge_is_left_out(scoring, as_mona, manager):
    lease = annotation_services.next_lease(project=scoring.project, user=manager, now=timezone.now())
    page = as_mona.get(address(scoring)).text
    assert lease.comparison.prompt not in page
    assert "What you are to judge yourself is not shown." in page
    assert len(texts(page)) == 4


def test_answers(manager, base, as_mona):
    """In the order of their prompts, without what a scoring has; of the reader's own work nothing."""
    project = make_project(by=manager)
    written = [
        {"prompt": f"Question {n}?", "candidates": [{"text": f"Answer {n}"}, {"text": "Good 9."}], "meta": {}}
        for n in (2, 0, 1)
    ]
    run = wrote(project, base, written)
    page = as_mona.get(address(run)).text
    assert texts(page) == ["Answer 2", "Good 9.", "Answer 0", "Good 9.", "Answer 1", "Good 9."]
    assert "score" not in "".join(cards(page))
    assert 'name="order"' not in page
    assert 'name="at_least"' not in page
    assert base.name not in "".join(cards(page))
    assert texts(as_mona.get(address(run, "q=0&at_least=5&order=lowest")).text) == ["Answer 0", "Good 9."]
    annotation_services.add_comparisons(project=project, groups=text_groups(1))
    annotation_services.next_lease(project=project, user=manager, now=timezone.now())
    assert texts(as_mona.get(address(run)).text) == ["Answer 2", "Good 9.", "Answer 1", "Good 9."]
    empty = wrote(project, base, [written[0] | {"candidates": []}])
    assert "The run gave nothing." in as_mona.get(address(empty)).text


def pictures_of(page) -> list[str]:
    return re.findall(r'<img src="([^"]*)" width="8" height="6"', page)


def test_drawn_pictures(manager, as_mona, tmp_path):
    project = make_project(by=manager, modality="image")
    base = factories.make_base(tmp_path / "unet", name="unet", modality="image", by=manager)
    drawn = {"red.png": png(), "blue.png": png(colour="blue")}
    row = {"prompt": "a dot", "candidates": [{"image": name} for name in drawn], "meta": {}}
    run = wrote(project, base, [row], drawn.items())
    shown = pictures_of(as_mona.get(address(run)).text)
    assert [as_mona.get(one).content for one in shown] == [*drawn.values()]
    response = as_mona.get(shown[0])
    assert response["Content-Type"] == "image/png"
    assert response["Cache-Control"] == "private, max-age=86400, immutable"
    for wrong in (
        "green.png",
        "..%2Fgenerations.jsonl",
        "%2E%2E",
        "generations.jsonl",
        "red.png%2F",
        "C:%5Cred.png",
    ):
        assert as_mona.get(address(run) + wrong).status_code == 404


def test_scored_pictures(manager, as_mona):
    """As they were scored, and still there when their comparison is gone."""
    project = make_project(by=manager, modality="image")
    candidates = [{"image": store_image(png(colour=colour))} for colour in ("red", "blue")]
    annotation_services.add_comparisons(project=project, groups=[{"prompt": "p", "candidates": candidates}])
    run = scored(project, [[0.25, 0.75]])
    project.comparisons.get().delete()
    shown = pictures_of(as_mona.get(address(run)).text)
    found = [Image.open(io.BytesIO(as_mona.get(one).content)).getpixel((0, 0)) for one in shown]
    assert found == [(0, 0, 255), (255, 0, 0)]
    assert as_mona.get(address(run) + "other.png").status_code == 404


def test_number_of_queries(manager, as_mona, django_assert_num_queries):
    for prompts in (2, 40):
        project = make_project(by=manager)
        annotation_services.add_comparisons(project=project, groups=text_groups(prompts))
        run = scored(project, [[1.0, 2.0]] * prompts)
        # Session, user, run, whether it is a duel's, result, in hands, comparisons, navigation.
        with django_assert_num_queries(8):
            as_mona.get(address(run))


def test_the_runs_page_leads_there(scoring, run, as_mona, base):
    written = wrote(scoring.project, base, [{"prompt": "p", "candidates": [{"text": "a"}], "meta": {}}])
    for job in (scoring, written):
        assert address(job) in as_mona.get(job.get_absolute_url()).text
    factories.finish(run)
    assert address(run) not in as_mona.get(run.get_absolute_url()).text
    assert as_mona.get(address(run)).status_code == 404
    Run.objects.filter(pk=scoring.pk).update(status=Run.Status.RUNNING)
    assert as_mona.get(address(scoring)).status_code == 404


def test_nobody_looks_into_an_arena(project, base, manager, as_mona, tmp_path):
    small = factories.make_base(tmp_path / "small", name="small", by=manager)
    duel = factories.make_duel(project, (base, small), asker=manager)
    answered = duel.turns.get().left_run
    ended(answered, [{"prompt": "Question?", "candidates": [{"text": "Left."}], "meta": {}}])
    assert as_mona.get(address(answered)).status_code == 404


def test_who_looks(scoring):
    """Those who may watch runs, who are all among those who may browse the project's data."""
    assert set(ALLOWED[Action.WATCH]) <= set(ALLOWED[Action.BROWSE])
    for role, status in {"viewer": 200, "reviewer": 403, "annotator": 403}.items():
        user = make_user()
        annotation_services.add_member(
            project=scoring.project, username=user.username, role=role, by=scoring.created_by
        )
        assert client_of(user).get(address(scoring)).status_code == status
    assert client_of(make_user("manager")).get(address(scoring)).status_code == 404
