"""The pictures of the documentation: `make screenshots` takes them anew, from made-up judgements.

python -m pytest tests/functional/screenshots.py
"""

import io
import math
import random
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone
from PIL import Image, ImageDraw

from annotation import services
from annotation.models import Project
from annotation.services.media import store_image
from annotation.services.quality import refresh_quality
from tests.annotation import factories
from tests.annotation.test_queue import answer, take
from tests.training import factories as trained
from training.models import Checkpoint, Match, Metric, Round, RoundStep, Run

pytestmark = pytest.mark.django_db(transaction=True)
FOLDER = Path(settings.BASE_DIR) / "docs" / "images"
WIDE = {"viewport": {"width": 1280, "height": 800}}
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
START = timezone.now() - timedelta(days=1)

EGG = """Soft-boiled eggs need a little patience, and that is all.

1. Bring a pot of water to a **rolling boil**.
2. Lower the eggs in with a spoon and wait *seven minutes*.
3. Move them to cold water for one minute.

The white sets at about 62 °C, the yolk at 68 °C, so the time depends on the size:

| size | soft | hard |
|-|-:|-:|
| small | 5 min | 9 min |
| large | 7 min | 12 min |

The time grows with the square of the diameter, $t \\approx c\\,d^2 \\ln\\frac{T_0 - T_w}{T_1 - T_w}$.

```python
def minutes(diameter: float) -> float:
    return 0.0015 * diameter**2  # millimetres
```"""
OTHER_EGG = """Soft-boiled eggs need some practice.

1. Bring a pot of water to a **boil**.
2. Lower the eggs in with a ladle and wait *six minutes*.
3. Move them to cold water.

Altitude matters more than size: water boils at 95 °C on a mountain of 1,500 m. Taste one, \
and correct the next. Keep them warm under a cloth until everybody sits.

> An egg is always an adventure."""
PLAIN = (
    "Soft-boiled eggs need some practice. Lower them into boiling water and wait six minutes.\n\n"
    "Altitude matters more than size: water boils at 80 °C on a mountain of 1,500 m.",
    "Soft-boiled eggs need a little patience. Lower them into boiling water and wait seven minutes.\n\n"
    "The white sets at about 62 °C, the yolk at 68 °C. Anybody can do it, even you.",
)
NAMES = (
    "**Crumb & Co.** Short, easy to say, and it tells what you bake.",
    "**The Daily Loaf.** Familiar; several bakeries have the name already.",
    "**Sourdough Republic.** Memorable, but long for a shop sign.",
    "**Bakery 24.** Says when you are open, not what is good about it.",
)
ARABIC = (
    "كيف أسلق بيضة بحيث يبقى صفارها طريًا؟",
    "يحتاج البيض نصف المسلوق إلى قليل من الصبر.\n\n1. اغلِ الماء في قدر.\n"
    "2. أنزل البيض بملعقة وانتظر **سبع دقائق**.\n3. انقله إلى ماء بارد دقيقة واحدة.",
    "يكفي أن تضع البيض في ماء مغلي ست دقائق، ثم في ماء بارد.\n\n> كل بيضة مغامرة.",
)
CATEGORIES = [
    {"name": "wrong", "title": "Wrong fact"},
    {"name": "unclear", "title": "Unclear"},
    {"name": "rude", "title": "Rude"},
]
REPLIES = (
    "Please wait. Parcel {} will come at some time.",
    "Sorry about that! Your parcel {} left on Monday. Should it not be there by **Friday**, write again.",
    "I am sorry that you have to wait for parcel {}. It left on Monday and is *one day late*.\n\n"
    "If it is not there on **Friday**, we send another one; you need not do anything.",
)
SEVERITIES = [{"name": "minor", "title": "Minor"}, {"name": "major", "title": "Major"}]
SPANS = [
    {
        "type": "marks",
        "kinds": ["span"],
        "categories": CATEGORIES,
        "severities": SEVERITIES,
        "required": True,
    },
    {"type": "critique"},
]


@pytest.fixture(autouse=True)
def same_every_time(monkeypatch):
    monkeypatch.setattr("annotation.services.queue._shuffle", lambda order: None)


def take_picture(page, name: str, *, whole: bool = False) -> None:
    """With a small palette: a quarter of the size, and nothing to see of it."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=whole)))
    image.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def landscape(*, sun: tuple[int, int], boat: int, sky: str, sea: str) -> bytes:
    """A sailing boat at sunset, drawn by hand."""
    size = 480
    image = Image.new("RGB", (size, size), sky)
    draw = ImageDraw.Draw(image)
    draw.ellipse((sun[0] - 50, sun[1] - 50, sun[0] + 50, sun[1] + 50), fill="#ffd166")
    draw.rectangle((0, 300, size, size), fill=sea)
    for row in range(6):
        points = [(x, 320 + 26 * row + 5 * math.sin(x / 26 + row)) for x in range(0, size, 6)]
        draw.line(points, fill="#ffffff40", width=2)
    draw.polygon([(boat - 70, 312), (boat + 70, 312), (boat + 44, 344), (boat - 44, 344)], fill="#7f2b1d")
    draw.polygon([(boat, 140), (boat, 304), (boat + 66, 304)], fill="#f8f4e9")
    draw.polygon([(boat - 6, 170), (boat - 6, 304), (boat - 52, 304)], fill="#e9dfc8")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def project_of(world, name: str, prompt, candidates: list[dict], n: int = 4, **values) -> Project:
    project = factories.make_project(
        by=world.manager, name=name, guidelines="Choose what helps more.", **values
    )
    services.add_comparisons(project=project, groups=[{"prompt": prompt, "candidates": candidates}] * n)
    return project


def texts(*answers: str) -> list[dict]:
    return [{"text": text, "source": f"model {number}"} for number, text in enumerate(answers)]


def judging(open_page, world, project, **options):
    page = open_page(world.manager, f"/projects/{project.pk}/judge/", **WIDE | options)
    page.wait_for_selector("main[data-ready]")
    page.wait_for_timeout(300)
    return page


def test_judging(open_page, world):
    egg = "How do I boil an egg so that the yolk stays soft?"
    kitchen = project_of(world, "Kitchen answers", egg, texts(EGG, OTHER_EGG))
    names = project_of(
        world, "Names", "A name for a small bakery that is open at night?", texts(*NAMES),
        questions=[{"type": "ranking"}, {"type": "critique"}],
    )  # fmt: skip
    spans = project_of(world, "Marked answers", egg, texts(*PLAIN), questions=SPANS)
    drawn = (
        {"sun": (330, 210), "boat": 170, "sky": "#f4845f", "sea": "#277da1"},
        {"sun": (130, 120), "boat": 300, "sky": "#8ecae6", "sea": "#1d5c7a"},
    )
    pictures = [{"image": store_image(landscape(**one)), "source": "x"} for one in drawn]
    boats = project_of(world, "Boats", "A sailing boat at sunset", pictures, modality="image")
    for scheme in ("light", "dark"):
        page = judging(open_page, world, kitchen, color_scheme=scheme)
        take_picture(page, f"judging-text-{scheme}")
        page = judging(open_page, world, boats, color_scheme=scheme)
        take_picture(page, f"judging-image-{scheme}")
        page = judging(open_page, world, names, color_scheme=scheme)
        for key in ("1", "3", "Shift+Digit2"):
            page.keyboard.press(key)
        take_picture(page, f"judging-ranking-{scheme}")
        page = judging(open_page, world, spans, color_scheme=scheme)
        mark_some(page)
        take_picture(page, f"judging-spans-{scheme}")
    take_picture(judging(open_page, world, kitchen, **PHONE), "judging-text-phone")
    page = judging(open_page, world, names, **PHONE)
    for number in (0, 2):
        page.tap(f".unranked .chip[data-candidate='{number}']")
    take_picture(page, "judging-ranking-phone")


def mark_some(page) -> None:
    """A wrong fact and a rude half sentence, with the second waiting for its category."""
    page.evaluate("localStorage.removeItem('tiebreak:drafts')")
    select = """([candidate, words]) => {
        const text = document.querySelectorAll('.candidate .plain')[candidate];
        const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            const start = node.data.indexOf(words);
            if (start >= 0) return getSelection().setBaseAndExtent(node, start, node, start + words.length);
        }
    }"""
    if page.locator(".marked li").count() == 0:
        page.evaluate(select, [0, "80 °C"])
        page.locator(".candidate .scroll").first.dispatch_event("pointerup")
        page.wait_for_selector(".categories:visible")
        page.keyboard.press("1")
        page.keyboard.press("2")
    page.evaluate(select, [1, "even you"])
    page.locator(".candidate .scroll").nth(1).dispatch_event("pointerup")
    page.wait_for_selector(".categories:visible")


def test_arabic(open_page, world):
    """The interface too, where the site speaks it."""
    prompt, first, second = ARABIC
    project = project_of(world, "إجابات المطبخ", prompt, texts(first, second))
    page = judging(open_page, world, project, locale="ar")
    take_picture(page, "judging-arabic")


def simulated(world) -> Project:
    """Six people of different care judge three models; one of them hardly looks."""
    dice = random.Random(7)
    project = factories.make_project(
        by=world.manager, name="Answers of the help desk", labels_per_comparison=3
    )
    sources, worth = ("base", "dpo-2", "dpo-3"), (0.0, 0.8, 1.3)
    groups, better = [], []
    for number in range(240):
        left, right = dice.sample(range(3), 2)
        candidates = [{"text": REPLIES[one].format(number), "source": sources[one]} for one in (left, right)]
        groups.append(
            {"prompt": f"Ticket {number}: the parcel has not come. What now?", "candidates": candidates}
        )
        better.append(worth[left] - worth[right])
    services.add_comparisons(project=project, groups=groups)
    cares = {"ada": 3.0, "berta": 2.4, "chiara": 2.0, "dunja": 1.6, "emil": 1.2, "farid": 0.0}
    people = {}
    for username, care in cares.items():
        people[username] = (factories.make_user(username=username), care)
        services.add_member(project=project, username=username, role="annotator", by=world.manager)
    first = project.comparisons.order_by("pk").first().pk
    clocks = dict.fromkeys(people, START)
    for turn in range(len(groups) * 3):
        username = list(people)[turn % len(people)]
        user, care = people[username]
        lease = take(project, user, now=clocks[username])
        if lease is None:
            continue
        clocks[username] += timedelta(seconds=3 if care == 0 else dice.uniform(12, 26))
        wins = care * better[lease.comparison_id - first] + dice.gauss(0, 1)
        choice = 0 if care == 0 and dice.random() < 0.92 else lease.order.index(0 if wins > 0 else 1)
        tie = care > 0 and abs(wins) < 0.15
        answer(lease, user, "tie" if tie else choice, strength=None if tie else 2, now=clocks[username])
    refresh_quality(now=timezone.now())
    return project


def train_some(world, project: Project, folder: Path) -> dict[str, str]:
    """A reward model, a tuned model that won a match, and a run under way: the addresses of their pages."""
    base = trained.make_base(folder / "tiny", name="help-desk-0.5b", by=world.manager)
    reward = trained.queued_run(project, base, method="reward_model")
    log_curves(reward, 60)
    figures = {"eval/accuracy_majority": 0.76, "eval/accuracy_low": 0.69, "eval/accuracy_high": 0.82}
    trained.finish(reward, **figures)
    tuned = trained.queued_run(project, base)
    log_curves(tuned, 120)
    checkpoint = trained.finish(tuned, **figures)
    took = {"step": 120, "total_steps": 120, "finished_at": START + timedelta(minutes=4)}
    Run.objects.filter(pk=tuned.pk).update(started_at=START, **took)
    Checkpoint.objects.filter(pk=checkpoint.pk).update(size=35_237_104)
    match = trained.make_match(project, checkpoint, base, prompts=80, judged=64, lost=19)
    under_way = trained.queued_run(project, base)
    log_curves(under_way, 50)
    progress = {"status": "running", "step": 50, "total_steps": 120, "attempt": 1, "started_at": START}
    Run.objects.filter(pk=under_way.pk).update(**progress)
    stopped = stopped_round(world, reward, tuned, match)
    return {"run": f"/runs/{tuned.pk}/", "match": f"/matches/{match.pk}/", "round": f"/rounds/{stopped.pk}/"}


def stopped_round(world, reward: Run, tuned: Run, match: Match) -> Round:
    """Three steps that are done, and a promotion that the length of the answers stopped."""
    won = {"rate": 0.703, "low": 0.582, "high": 0.801}
    longer = {"name": "length", "value": 2.31, "limit": [0.5, 2.0], "why": "too long"}
    evidence = won | {"bar": 0.5, "guardrails": [longer], "promoted": False, "why_not": ["too long"]}
    shown = Round.objects.create(
        project=tuned.project,
        name="weekly",
        number=3,
        status="stopped",
        created_by=world.manager,
        started_at=START,
        finished_at=START + timedelta(hours=5),
    )
    steps = [
        ("train", {"method": "reward_model"}, {"run": reward}),
        ("train", {"method": "dpo"}, {"run": tuned}),
        ("match", {}, {"match": match, "result": won}),
        ("promote", {}, {"status": "stopped", "result": evidence}),
    ]
    for index, (kind, spec, values) in enumerate(steps):
        found = {"status": "done", **values}
        RoundStep.objects.create(round=shown, index=index, kind=kind, spec=spec, **found)
    return shown


def log_curves(run: Run, steps: int) -> None:
    """A loss that falls and an accuracy that rises, with the noise of batches, and a few evaluations."""
    dice = random.Random(run.pk)
    for step in range(1, steps + 1):
        learnt = 1 - math.exp(-step / 40)
        values = {
            "time": 2.0 * step,
            "loss": 0.69 - 0.3 * learnt + dice.gauss(0, 0.03),
            "rewards/accuracy": 0.5 + 0.3 * learnt + dice.gauss(0, 0.04),
            "rewards/margin": 1.2 * learnt + dice.gauss(0, 0.1),
            "learning_rate": 2e-5 * min(1, step / 10) * (1 - step / (steps + 1)),
        }
        Metric.objects.create(run=run, step=step, values=values)
        if step % 20 == 0:
            held_out = {"eval/loss": 0.69 - 0.24 * learnt, "eval/rewards/accuracy": 0.5 + 0.25 * learnt}
            Metric.objects.create(run=run, step=step, kind="eval", values=held_out)


def test_training_pages(open_page, world, monkeypatch, tmp_path):
    monkeypatch.undo()
    project = simulated(world)
    pages = {"dashboard": f"/projects/{project.pk}/", **train_some(world, project, tmp_path)}
    for name, path in pages.items():
        take_picture(loaded(open_page(world.manager, path, **WIDE)), name, whole=True)
    phone = open_page(world.manager, pages["dashboard"], **PHONE)
    take_picture(loaded(phone), "dashboard-phone", whole=True)


def loaded(page):
    """Once what the page asks for by itself is there."""
    page.wait_for_load_state("networkidle")
    return page


def test_managers_pages(open_page, world, monkeypatch):
    monkeypatch.undo()  # sides are drawn again
    project = simulated(world)
    pages = {
        "project": "",
        "quality": "quality/",
        "leaderboard": "leaderboard/",
        "data-browser": "data/",
        "template-editor": "settings/",
        "review": "review/",
    }
    page = open_page(world.manager, **WIDE)
    for name, path in pages.items():
        page.goto(f"/projects/{project.pk}/{path}")
        page.wait_for_load_state("networkidle")
        if name == "template-editor":
            page.select_option("#add-kind", "tags")
            page.click("#add-question")
            page.wait_for_selector("#template-preview :text('Off topic')")
            page.locator("#template-preview").scroll_into_view_if_needed()
            page.evaluate(
                "scrollTo(0, document.querySelector('.edited').getBoundingClientRect().top + scrollY - 90)"
            )
        take_picture(page, name)
    page.emulate_media(color_scheme="dark")
    page.goto(f"/projects/{project.pk}/quality/")
    page.wait_for_load_state("networkidle")
    take_picture(page, "quality-dark")
