"""Revision 0001 of the library's tables; and the model of jobs, which is not Django's to create."""

from __future__ import annotations

from django.db import migrations, models

from celery_progress_ext.django.revisions import to

_STATUSES = ("PENDING", "PROCESSING", "COMPLETED", "PARTIAL", "FAILED", "CANCELLED")


class Migration(migrations.Migration):
    """Runs it."""

    initial = True
    dependencies: list[tuple[str, str]] = []  # noqa: RUF012
    operations = [  # noqa: RUF012
        to("0001"),
        migrations.CreateModel(
            name="Job",
            fields=[
                ("id", models.CharField("ID", max_length=64, primary_key=True, serialize=False)),
                ("owner", models.CharField(db_column="matter_id", max_length=255, null=True)),
                ("subject", models.CharField(db_column="document_id", max_length=255, null=True)),
                ("title", models.CharField(max_length=255, null=True)),
                ("status", models.CharField(choices=[(s, s.capitalize()) for s in _STATUSES], max_length=16)),
                ("stage", models.TextField()),
                ("progress_pct", models.IntegerField("percent")),
                ("error", models.TextField(null=True)),
                ("unit", models.CharField(max_length=32)),
                ("pages_total", models.IntegerField("units in all")),
                ("pages_done", models.IntegerField("units done")),
                ("version", models.BigIntegerField()),
                ("run", models.IntegerField()),
                ("created_seconds", models.FloatField("created", db_column="created_at")),
                ("finished_seconds", models.FloatField("finished", db_column="finished_at", null=True)),
            ],
            options={
                "db_table": "processing_jobs",
                "ordering": ("-created_seconds", "id"),
                "permissions": (("retry_job", "Can retry what failed of a job"), ("cancel_job", "Can cancel a job")),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
