"""The Django app: ``INSTALLED_APPS = […, "celery_progress_ext.django"]``.

``conf`` finds the Celery app and gives it the project's settings; ``views`` and ``urls`` are the routes, ``admin`` the
list of jobs, ``templatetags`` the bar. Its migrations run the library's own revisions on Django's connection.
"""

from __future__ import annotations

from typing import Any


def owner_of(user: Any) -> str:
    """The owner of a user's own jobs: ``tracked_chord(…, owner=owner_of(request.user))``. Not the bare primary key,
    which may be a tenant's, too.
    """
    return f"user:{user.pk}"
