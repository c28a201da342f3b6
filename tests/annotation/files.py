"""Files to import, and importing them as a worker does."""

import io
import json
import zipfile

from django.core.files.base import ContentFile
from PIL import Image

from annotation import services

GOOD = {"prompt": "What is 2 + 2?", "responses": ["4", "5"]}


def png(size=(8, 6), colour="red", **options):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG", **options)
    return out.getvalue()


def jsonl(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def start(project, data, format="trl", **values):
    file = ContentFile(data, name="rows.jsonl")
    return services.start_import(project=project, by=project.created_by, file=file, format=format, **values)


def run(project, data, format="trl", **values):
    job = start(project, data, format, **values)
    services.run_import(job.pk)
    job.refresh_from_db()
    return job


def rejected(job):
    return [(row.line, row.field, row.reason) for row in job.rejected_rows.order_by("pk")]


def image_row(*names, **values):
    return {"prompt": "a red circle", "responses": list(names), **values}
