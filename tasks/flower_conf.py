"""Flower: ``celery -A tasks.celery_app flower --conf=tasks/flower_conf.py``. FLOWER_BASIC_AUTH is ``user:password``.

Whoever opens Flower may stop workers and read the arguments of tasks, so it does not start without credentials.
"""

from __future__ import annotations

import os

from flower.views.monitor import Metrics
from tornado.web import authenticated

if not any(os.environ.get(name) for name in ("FLOWER_BASIC_AUTH", "FLOWER_AUTH")):
    raise SystemExit("Flower asks for credentials: set FLOWER_BASIC_AUTH to user:password, or FLOWER_AUTH (OAuth)")

# Flower leaves its metrics open, with the names of tasks and workers in them.
Metrics.get = authenticated(Metrics.get)
