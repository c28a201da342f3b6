"""One view, one query."""

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path


def one_query(request: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return JsonResponse({"one": cursor.fetchone()[0]}, status=201)


urlpatterns = [path("one-query/", one_query)]
