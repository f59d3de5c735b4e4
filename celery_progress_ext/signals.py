"""Signals that the library sends."""

from celery.utils.dispatch import Signal

#: Retention removed jobs: ``receiver(sender=app, jobs=(ForgottenJob, …), **_)``, after the commit, where the tick runs.
#: What a receiver raises is logged. Sent at most once per job; if the process dies first, the rest is lost.
jobs_forgotten = Signal(name="jobs_forgotten", providing_args={"jobs"})
