"""One view, one query."""

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path


def one_query(request: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        response = JsonResponse({"one": cursor.fetchone()[0]}, status=201)
    response["Content-Length"] = len(response.content)  # the middleware that does it is not here
    return response


urlpatterns = [path("one-query/", one_query)]
