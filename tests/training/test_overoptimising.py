"""Over-optimisation: the law by hand, hacking found where it begins, and the curves on a run's page."""

import math

import pytest
from django.urls import reverse

from tests.training import factories
from training import services
from training.models import Metric, Run
from training.overoptimisation import Law, fit_law, hacked_from


@pytest.mark.system("s002-029")
def test_the_law_by_hand() -> None:
    """α = 1, β = ½: it turns at e with a gain of e / 2, and is back at nothing at e². It is linear in both,
    so that four points on it give both back; two distances do not.
    """
    law = Law(1.0, 0.5)
    assert law.peak == pytest.approx(math.e)
    assert law.at(math.e) == pytest.approx(math.e / 2)
    assert law.at(math.e**2) == pytest.approx(0, abs=1e-12)
    assert (law.at(0), Law(1.0, 0.0).peak) == (0, None)
    distances = [0.0, 0.5, 1.0, 3.0, 8.0]
    found = fit_law(distances, [law.at(d) for d in distances])
    assert found is not None
    assert (found.alpha, found.beta) == (pytest.approx(1), pytest.approx(0.5))
    assert fit_law([0.0, 1.0, 2.0], [0.0, 1.0, 1.5]) is None


@pytest.mark.system("s002-008")
def test_hacking_begins_where_the_proxy_falls_and_the_golden_distance_rises() -> None:
    """(3, 2, 1.5, 1.2) against (4, 3, 2.8, 3.1): at the fourth. The oracle as teacher hides nothing."""
    assert hacked_from([3, 2, 1.5, 1.2], [4, 3, 2.8, 3.1]) == 3
    assert hacked_from([3, 2, 1.5, 1.2], [3, 2, 1.5, 1.2]) is None
    assert hacked_from([3, 2, 2.5, 2.6], [4, 3, 3.5, 3.6]) is None, "both worsen: that is no hacking"


def log(run: Run, distances, *, gold=None) -> None:
    rows = []
    for step, d in enumerate(distances, start=1):
        values = {"kl": d * d, "reward": 2 + d, "reward/words": 2 + d}
        rows.append(
            Metric(run=run, step=step, values=values | ({"reward/characters": gold(d)} if gold else {}))
        )
    Metric.objects.bulk_create(rows)


@pytest.mark.django_db
@pytest.mark.system("s002-029")
def test_the_curves_of_a_run(project, base, as_mona, as_manager):
    """The gold reward follows the law with its turn at e: proxy and gold part there, at the step of d = 2.75.

    The win rate of its checkpoint, ¾, stands ¼ above one half, at the last distance.
    """
    reward = [{"rule": "words"}, {"rule": "characters", "weight": 0}]
    run = factories.queued_run(project, base, method="grpo", reward=reward)
    log(run, [0.25 * n for n in range(17)], gold=lambda d: 1 + Law(1.0, 0.5).at(d))
    match = factories.make_match(project, factories.finish(run), base, judged=4)
    found = services.overoptimisation_of(Run.objects.get(pk=run.pk))
    assert found["law"] == {"alpha": pytest.approx(1), "beta": pytest.approx(0.5), "of": "gold"}
    assert (found["stop"]["d"], found["stop"]["step"]) == (pytest.approx(math.e), 12)
    assert found["hacked_at"] == 13, "d = 3 is the first beyond the turn"
    assert found["proxy"][4] == {"step": 5, "d": 1.0, "gain": 1.0}
    (people,) = found["people"]
    assert (people["d"], people["gain"], people["match"]) == (4, 0.25, match.pk)
    assert as_manager.get(f"/api/v1/runs/{run.pk}/overoptimisation/").json()["curves"]["hacked_at"] == 13
    page = as_mona.get(reverse("training:run", args=[run.pk])).content.decode()
    assert "near step 12." in page
    assert "From step 13 on" in page


@pytest.mark.django_db
def test_people_alone_give_the_law(project, base):
    """Without a gold reward the law is fitted to win rates at three distances; without a KL there is none."""
    for d in (1.0, 2.0, 4.0):
        run = factories.queued_run(project, base, method="grpo", reward=[{"rule": "words"}])
        log(run, [0.0, d])
        factories.make_match(project, factories.finish(run), base)
    found = services.overoptimisation_of(run)
    assert [one["d"] for one in found["people"]] == [1, 2, 4]
    assert found["law"]["of"] == "people"
    assert (found["gold"], found["hacked_at"]) == ([], None)
    silent = factories.queued_run(project, base)
    factories.log_metrics(silent)
    assert services.overoptimisation_of(silent) == {}
