"""Settings for tests: those of the product in a temporary data directory, which conftest.py removes."""

import os
import tempfile

os.environ["TIEBREAK_DATA"] = tempfile.mkdtemp(prefix="tiebreak-test-")
os.environ.pop("DATABASE_URL", None)
os.environ.pop("CELERY_BROKER_URL", None)
os.environ.pop("STORAGE_URL", None)

from webapp.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast
STORAGES = STORAGES | {  # noqa: F405
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
}
CELERY_BROKER_URL = "memory://"
STATIC_ROOT.mkdir(parents=True)  # noqa: F405  whitenoise warns about a missing folder
