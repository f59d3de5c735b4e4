import os

from celery.schedules import crontab

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
PRICE_LIST = os.environ.get("PRICE_LIST", "prices.csv")
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", "shop.sqlite3")}
DATABASES = {"default": SQLITE | {"OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20}}}
CONTRIB = ["admin", "auth", "contenttypes", "messages", "sessions"]
INSTALLED_APPS = [f"django.contrib.{name}" for name in CONTRIB] + ["django_celery_results", "shop"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
BACKEND = "django.template.backends.django.DjangoTemplates"
CONTEXT = [f"django.{name}" for name in ("template.context_processors.request", "contrib.auth.context_processors.auth")]
CONTEXT += ["django.contrib.messages.context_processors.messages"]
TEMPLATES = [{"BACKEND": BACKEND, "APP_DIRS": True, "OPTIONS": {"context_processors": CONTEXT}}]

CELERY_BROKER_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
CELERY_RESULT_BACKEND = "django-db"
CELERY_TASK_ACKS_LATE = CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BEAT_SCHEDULE = {"import": {"task": "shop.tasks.nightly_import", "schedule": crontab(hour=3, minute=0)}}
