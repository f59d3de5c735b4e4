"""gunicorn: ``gunicorn -c web/gunicorn_conf.py "web:create_app()"``. The command line and GUNICORN_CMD_ARGS win.

Bind to loopback unless credentials are configured (PROGRESS_API_KEYS) and something in front speaks TLS.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

from celery_progress_ext.exceptions import InvalidSetting
from tasks.settings import ServiceSettings, whole_number

# Before any worker is forked: what is wrong is said once.
try:
    _settings = ServiceSettings.read()
    _port = whole_number(os.environ, "PORT", 8000, range(65536))
    workers = whole_number(os.environ, "WEB_CONCURRENCY", 1, range(1, 1000))
except InvalidSetting as error:
    sys.exit(str(error))
wsgi_app = "web:create_app()"
bind = f"{_settings.host}:{_port}"
worker_class = "gevent"
# Of requests; streams leave theirs. A worker without a free one does not even answer /healthz.
worker_connections = 2500
keepalive = 5
graceful_timeout = 5
# A worker that does not turn its loop for so long is replaced. Copying a large upload must fit into it.
timeout = 120
# The path alone, as web/logs.py has it: a query or a path may have a token in it.
access_log_format = '%(h)s "%(m)s %({progress.path}e)s" %(s)s %(B)s %(L)s'
errorlog = "-"
# A socket in the home directory would be shared by every instance of this user.
control_socket_disable = True


def post_fork(server: Any, worker: Any) -> None:
    """Each stream is a file descriptor; the usual soft limit of 1024 is below our cap of streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _settings.max_streams + 2 * worker_connections
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def post_worker_init(worker: Any) -> None:
    """End the streams as soon as the worker is told to stop, so that a deploy drains within seconds.

    A worker has no hook for the request to stop: its loop only looks at ``worker.alive``, and so do we.
    """
    import gevent

    from web import streams

    def drain() -> None:
        while worker.alive:
            gevent.sleep(0.25)
        streams.close(worker.wsgi)

    gevent.spawn(drain)


def worker_exit(server: Any, worker: Any) -> None:
    """Whichever way the worker ends, its connections do not stay behind."""
    from web import streams

    app = getattr(worker, "wsgi", None)
    if app is not None:
        streams.close(app)
