"""The Django app: ``INSTALLED_APPS = […, "celery_progress_ext.django"]``.

``conf`` finds the Celery app and gives it the project's settings; ``views`` and ``urls`` are the routes, ``admin`` the
list of jobs, ``templatetags`` the bar. Its migrations run the library's own revisions on Django's connection.
"""
