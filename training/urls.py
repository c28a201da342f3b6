"""Addresses of the pages about runs, models, matches and schedules."""

from django.urls import path, re_path

from training.views import arena, galleries, jobs, matches, models, overview, rounds, runs, schedules

app_name = "training"

urlpatterns = [
    path("projects/<int:pk>/training/", overview.overview, name="overview"),
    path("projects/<int:pk>/runs/", runs.runs, name="runs"),
    path("projects/<int:pk>/runs/new/", runs.run_new, name="run_new"),
    path("projects/<int:pk>/runs/compare/", runs.compare, name="compare"),
    path("runs/<int:pk>/", runs.run, name="run"),
    path("runs/<int:pk>/progress.json", runs.run_progress, name="run_progress"),
    path("runs/<int:pk>/samples/<str:name>", runs.run_sample, name="run_sample"),
    path("runs/<int:pk>/gallery/", galleries.run_gallery, name="run_gallery"),
    path("runs/<int:pk>/gallery/<str:name>", galleries.run_picture, name="run_picture"),
    re_path(r"^runs/(?P<pk>\d{1,18})/(?P<action>start|cancel|retry)/$", runs.run_action, name="run_action"),
    path("projects/<int:pk>/jobs/<slug:job>/new/", jobs.job_new, name="job_new"),
    path("runs/<int:pk>/suggestions/", jobs.run_suggestions, name="run_suggestions"),
    path("runs/<int:pk>/priorities/", jobs.run_priorities, name="run_priorities"),
    path("runs/<int:pk>/comparisons/", jobs.run_comparisons, name="run_comparisons"),
    path("projects/<int:pk>/models/", models.models, name="models"),
    path("checkpoints/<int:pk>/download/", models.checkpoint_download, name="checkpoint_download"),
    path("checkpoints/<int:pk>/upload/", models.checkpoint_upload, name="checkpoint_upload"),
    path("projects/<int:pk>/matches/", matches.matches, name="matches"),
    path("matches/<int:pk>/", matches.match, name="match"),
    path("projects/<int:pk>/arena/", arena.arena, name="arena"),
    path("projects/<int:pk>/arena/models/", arena.arena_models, name="arena_models"),
    path("duels/<int:pk>/", arena.duel, name="duel"),
    path("duels/<int:pk>/vote/", arena.duel_vote, name="duel_vote"),
    re_path(r"^duels/(?P<pk>\d{1,18})/(?P<action>more|retry|leave)/$", arena.duel_action, name="duel_action"),
    path("rounds/<int:pk>/", rounds.one_round, name="round"),
    re_path(r"^rounds/(?P<pk>\d{1,18})/(?P<action>cancel|retry)/$", rounds.round_action, name="round_action"),
    path("projects/<int:pk>/schedules/", schedules.schedules, name="schedules"),
    re_path(
        r"^schedules/(?P<pk>\d{1,18})/(?P<action>enable|disable|delete)/$",
        schedules.schedule_action,
        name="schedule_action",
    ),
]
