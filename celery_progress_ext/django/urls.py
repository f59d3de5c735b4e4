"""``path("progress/", include("celery_progress_ext.django.urls"))``."""

from __future__ import annotations

from django.urls import path

from celery_progress_ext.django.views import view_of
from celery_progress_ext.sse.routes import ROUTES

app_name = "celery_progress"

urlpatterns = [path(route.spelled("<str:{}>").lstrip("/"), view_of(route), name=route.name) for route in ROUTES]
