"""Every address of the site. Pages belong to the apps, the API of both lies under /api/v1/."""

from django.urls import include, path
from django.views.decorators.http import require_POST
from django.views.i18n import set_language
from drf_spectacular.views import SpectacularAPIView

import annotation.api
import annotation.assignment_api
import annotation.data_api
import annotation.quality_api
import annotation.webhook_api
import training.api
import training.arena_api
import training.evaluation_api
from webapp import health, metrics

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", metrics.metrics, name="metrics"),
    path("language/", require_POST(set_language), name="set_language"),
    path("api/schema/", SpectacularAPIView.as_view(), name="api-schema"),
    path("api/v1/", include(annotation.api.urlpatterns + annotation.assignment_api.urlpatterns)),
    path("api/v1/", include(annotation.quality_api.urlpatterns)),
    path(
        "api/v1/",
        include(
            annotation.data_api.urlpatterns + annotation.webhook_api.urlpatterns + training.api.urlpatterns
        ),
    ),
    path("api/v1/", include(training.evaluation_api.urlpatterns + training.arena_api.urlpatterns)),
    path("account/", include("webapp.account_urls")),
    path("", include("annotation.urls")),
    path("", include("training.urls")),
]
