"""Settings of Tiebreak, in one file.

Everything has a working default inside one data directory (`TIEBREAK_DATA`, `./data` if unset);
`DATABASE_URL`, `CELERY_BROKER_URL` and `STORAGE_URL` replace the embedded parts.
"""

import contextlib
import os
import secrets
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import dj_database_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from webapp.embedded.broker import broker_url
from webapp.embedded.postgres import database_url

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("TIEBREAK_DATA", BASE_DIR / "data")).resolve()


def _flag(name: str, default: bool) -> bool:
    value = os.environ.get(name, "1" if default else "0")
    if value.lower() not in {"0", "1", "true", "false"}:
        raise ImproperlyConfigured(f"{name} is {value!r}; set it to 0 or 1.")
    return value.lower() in {"1", "true"}


def _seconds(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or int(value) == 0:
        raise ImproperlyConfigured(f"{name} is {value!r}; set it to a whole number of seconds from 1 on.")
    return int(value)


def _list(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def _rate(name: str, default: str) -> tuple[int, timedelta] | None:
    value = os.environ.get(name, default)
    if not value:
        return None
    number, _, unit = value.partition("/")
    if not number.isdecimal() or int(number) == 0 or unit not in {"second", "minute", "hour", "day"}:
        raise ImproperlyConfigured(f"{name} is {value!r}; write it as 120/minute, or leave it empty.")
    return int(number), timedelta(**{f"{unit}s": 1})


def _session_settings() -> dict[str, str]:
    """Nobody waits for ever for the locks of a process that stands still, or whose machine is gone. What must
    be free sooner says so itself (`annotation.postgres.base.limit_silence`). A pooler refuses such settings.
    """
    if DATABASE_POOLED:
        return {}
    own = os.environ.get("PGOPTIONS", "")  # which counts only where the connection says nothing
    return {"options": f"-c idle_in_transaction_session_timeout=10min -c jit=off {own}".rstrip()}


def _openid_connect() -> dict[str, object]:
    """Single sign-on with one provider: OIDC_ISSUER, OIDC_CLIENT_ID, OIDC_CLIENT_SECRET and OIDC_NAME."""
    issuer = os.environ.get("OIDC_ISSUER", "")
    if not issuer:
        return {}
    missing = [name for name in ("OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET") if not os.environ.get(name)]
    if missing:
        raise ImproperlyConfigured(f"OIDC_ISSUER is set, but {' and '.join(missing)} is not.")
    app = {
        "provider_id": "sso",
        "name": os.environ.get("OIDC_NAME", "single sign-on"),
        "client_id": os.environ["OIDC_CLIENT_ID"],
        "secret": os.environ["OIDC_CLIENT_SECRET"],
        "settings": {"server_url": issuer},
    }
    return {"openid_connect": {"APPS": [app], "OAUTH_PKCE_ENABLED": True}}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _secret_key() -> str:
    """From SECRET_KEY, else made once and kept in the data directory; never one that ships with the code."""
    if key := os.environ.get("SECRET_KEY"):
        if len(key) < 32:
            raise ImproperlyConfigured(
                "SECRET_KEY is shorter than 32 characters; make one with `openssl rand -hex 32`."
            )
        return key
    if os.environ.get("DATABASE_URL") and not DEBUG:  # several machines would make several
        raise ImproperlyConfigured(
            "DATABASE_URL is set, but SECRET_KEY is not; make one with `openssl rand -hex 32`."
        )
    path = DATA_DIR / "secret_key"
    if not path.exists():
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"secret_key.{os.getpid()}")
        new.touch(mode=0o600)
        new.write_text(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(new, path)  # the first of several processes wins
        new.unlink()
    return path.read_text().strip()


def _storage(url: str | None) -> dict[str, object]:
    """`None`: files in the data directory. `s3://KEY:SECRET@bucket/prefix?endpoint=https://…&region=…`."""
    if not url:
        folder = str(DATA_DIR / "storage")
        return {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": folder}}
    parts = urlsplit(url)
    if parts.scheme == "file":
        return {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": parts.path}}
    if parts.scheme != "s3" or not parts.hostname:
        raise ImproperlyConfigured("STORAGE_URL is neither s3://bucket/prefix nor file:///folder.")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if unknown := query.keys() - {"endpoint", "region"}:
        raise ImproperlyConfigured(f"STORAGE_URL has an unknown parameter {sorted(unknown)[0]!r}.")
    options: dict[str, object] = {
        "bucket_name": parts.hostname,
        "location": parts.path.strip("/"),
        "file_overwrite": True,
    }
    options |= {"access_key": unquote(parts.username)} if parts.username else {}
    options |= {"secret_key": unquote(parts.password)} if parts.password else {}
    options |= {"endpoint_url": query["endpoint"]} if "endpoint" in query else {}
    options |= {"region_name": query["region"]} if "region" in query else {}
    return {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}


# Core
DEBUG = _flag("DEBUG", default=False)
SECRET_KEY = _secret_key()
ALLOWED_HOSTS = _list("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = _list("CSRF_TRUSTED_ORIGINS")
ROOT_URLCONF = "webapp.urls"
WSGI_APPLICATION = "webapp.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "csp",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "rest_framework",
    "drf_spectacular",
    "pgtrigger",
    "webapp",
    "training",
    "annotation",
]
MIDDLEWARE = [
    "webapp.logs.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "webapp.content_policy.ContentPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "annotation.audit.AuditMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": ["django.templatetags.static", "django.templatetags.i18n"],
        },
    }
]

# Database
DATABASE_URL = os.environ.get("DATABASE_URL") or database_url(DATA_DIR)
if urlsplit(DATABASE_URL).scheme not in {"postgres", "postgresql"}:
    raise ImproperlyConfigured("DATABASE_URL must be postgres://…; Tiebreak relies on Postgres' locks.")
CACHES = {  # shared by all processes; for counts of guessed codes, too rare to want a second store
    "default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "tiebreak_cache"}
}
DATABASE_POOLED = _flag("DATABASE_POOLED", default=False)  # PgBouncer (or the like) in transaction mode
DATABASES = {
    "default": dj_database_url.parse(
        DATABASE_URL,
        engine="annotation.postgres",
        conn_max_age=60,
        conn_health_checks=True,
        disable_server_side_cursors=DATABASE_POOLED,
    )
}
DATABASES["default"]["OPTIONS"] = {
    # A database whose machine is gone is noticed within a minute.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    **_session_settings(),
    **DATABASES["default"].get("OPTIONS", {}),
}

# Accounts
AUTH_USER_MODEL = "annotation.User"
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend", "sesame.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "annotation:sign_in"
LOGIN_REDIRECT_URL = "annotation:home"
LOGOUT_REDIRECT_URL = "annotation:sign_in"
ACCOUNT_ADAPTER = "annotation.adapters.AccountAdapter"
ACCOUNT_EMAIL_VERIFICATION = "none"  # no mail is sent; managers invite
ACCOUNT_SIGNUP_FIELDS = ["username*"]
ACCOUNT_REAUTHENTICATION_REQUIRED = True
MFA_ADAPTER = "annotation.adapters.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = "Tiebreak"
MFA_TOTP_TOLERANCE = 1  # a code may change while one types it (RFC 6238, section 5.2)
MFA_ALLOW_UNVERIFIED_EMAIL = True
SOCIALACCOUNT_ADAPTER = "annotation.adapters.SocialAccountAdapter"
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_PROVIDERS = _openid_connect()
SESAME_ONE_TIME = True
SESAME_MAX_AGE = timedelta(days=1)

# Words and numbers
LANGUAGE_CODE = "en"
LANGUAGES = [  # each in its own words, for the menu
    ("en", "English"),
    ("de", "Deutsch"),
    ("fr", "Français"),
    ("es", "Español"),
    ("pt", "Português"),
    ("zh-hans", "中文"),
    ("ja", "日本語"),
    ("hi", "हिन्दी"),
    ("ar", "العربية"),
]
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"
LOCALE_PATHS = [BASE_DIR / "locale", BASE_DIR / "locale" / "libraries"]  # the second: what theirs lack
USE_TZ = True
TIME_ZONE = "UTC"

# Files. Media never has a URL of its own: views check who asks.
STORAGES = {
    "default": _storage(os.environ.get("STORAGE_URL")),
    "staticfiles": {"BACKEND": "webapp.static_files.HashedFiles"},
}
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = DEBUG
IMPORT_MAX_BYTES = int(os.environ.get("IMPORT_MAX_BYTES", 2 * 1024**3))
# Hosts from which an import may fetch pictures that rows point to, such as "*.example.org"; else none.
IMPORT_URL_ALLOWLIST = _list("IMPORT_URL_ALLOWLIST")
# Hosts outside the public internet to which imports and webhooks may connect all the same.
OUTGOING_PRIVATE_HOSTS = _list("OUTGOING_PRIVATE_HOSTS")
IMAGE_MAX_PIXELS = int(os.environ.get("IMAGE_MAX_PIXELS", 50_000_000))
FILE_UPLOAD_HANDLERS = ["webapp.uploads.InMemory", "webapp.uploads.OnDisk"]
FILE_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = 5 * 1024 * 1024

# Security. Secure cookies and HSTS are on as soon as the site is reached by https.
BEHIND_HTTPS = _flag("BEHIND_HTTPS", default=False)
if BEHIND_HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = ["^healthz$", "^readyz$", "^metrics$"]
    SECURE_HSTS_SECONDS = 31_536_000
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = BEHIND_HTTPS
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF],
        "font-src": [SELF],
        "connect-src": [SELF],
        # A form that starts single sign-on is redirected to the provider.
        "form-action": [SELF, *([_origin(os.environ["OIDC_ISSUER"])] if SOCIALACCOUNT_PROVIDERS else [])],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}

# API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "annotation.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.CursorPagination",
    "PAGE_SIZE": 100,
    "DEFAULT_THROTTLE_CLASSES": ["annotation.throttling.ApiThrottle"],
    "NUM_PROXIES": 1 if BEHIND_HTTPS else 0,
    "EXCEPTION_HANDLER": "annotation.problems.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
# For each user; "120/minute", or empty for no limit. Sign-ins have limits of their own.
RATE_LIMITS = {
    "api": _rate("RATE_LIMIT_API", "600/minute"),
    "judging": _rate("RATE_LIMIT_JUDGING", "1200/minute"),
    "arena": _rate("RATE_LIMIT_ARENA", "120/hour"),  # each question is two runs
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tiebreak",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "JobStatus": "annotation.models.Job.Status",
        "RunStatus": "training.models.Run.Status",
        "MatchStatus": "training.models.Match.Status",
        "DuelStatus": "training.arena_api.STATES",
    },
}

# Background work
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL") or broker_url(DATA_DIR / "broker")
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_BACKEND_THREAD_SAFE = True  # there is none, and no thread need look for one again
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_DEFAULT_QUEUE = "light"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1  # who is busy with an import keeps nothing from the others
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # nothing depends on inspect or revoke
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"  # nothing to remember: all that is periodic is so often

# Training
WORK_DIR = Path(os.environ.get("TIEBREAK_WORK_DIR", DATA_DIR / "work"))  # a worker's own disk
HF_TOKEN = os.environ.get("HF_TOKEN", "")  # a light worker's, for copies of results on a model hub
RUN_DEVICE_KIND = os.environ.get("RUN_DEVICE_KIND", "cpu")  # whose queue new runs join: cpu, cuda
# A run goes to another worker when its own was silent, or its trainer stood still, for that many seconds.
RUN_STALE_AFTER = timedelta(seconds=_seconds("RUN_STALE_AFTER", 60))
RUN_STALL_AFTER = timedelta(seconds=_seconds("RUN_STALL_AFTER", 1800))
RUN_MAX_ATTEMPTS = 3
# So long, times the attempts lost so far, a run waits after an attempt that its worker saw fail.
RUN_RETRY_PAUSE = timedelta(seconds=_seconds("RUN_RETRY_PAUSE", 30))

# Operation
METRICS_TOKEN = os.environ.get("METRICS_TOKEN", "")  # who may read /metrics; nobody if unset

LOG_FORMAT = os.environ.get("LOG_FORMAT", "line")
if LOG_FORMAT not in ("line", "json"):
    raise ImproperlyConfigured(f"LOG_FORMAT is {LOG_FORMAT!r}; set it to line or json.")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"},
        "json": {"()": "webapp.logs.Json"},
    },
    "filters": {"ids": {"()": "webapp.logs.Ids"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["ids"]},
    },
    # gunicorn writes the lines about requests, unless they are wanted as JSON
    "loggers": {"webapp.access": {"level": "INFO" if LOG_FORMAT == "json" else "WARNING"}},
    "root": {"handlers": ["console"], "level": os.environ.get("LOG_LEVEL", "INFO")},
}
