"""Thumbnails of the pictures in a folder, and a contact sheet of them all."""

import os
from pathlib import Path

from celery import Celery
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from PIL import Image

from celery_progress_ext import CeleryProgress, tracked_chord
from celery_progress_ext.asgi import progress_router

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
PICTURES = Path(os.environ.get("PICTURES", "pictures"))
SIZE = 128

app = FastAPI()
celery_app = Celery("app", broker=REDIS_URL, backend=REDIS_URL)
celery_app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)
progress = CeleryProgress(celery_app)
app.include_router(progress_router(progress, authorize=lambda request, job: True), prefix="/progress")


@celery_app.task
def thumbnail(path):
    target = Path(path).with_suffix(".thumb.png")
    with Image.open(path) as picture:
        picture.thumbnail((SIZE, SIZE))
        picture.save(target)
    return str(target)


@celery_app.task
def contact_sheet(thumbnails, folder):
    sheet = Image.new("RGB", (SIZE * len(thumbnails), SIZE))
    for index, path in enumerate(thumbnails):
        with Image.open(path) as picture:
            sheet.paste(picture, (index * SIZE, 0))
    sheet.save(Path(folder) / "sheet.png")
    return len(thumbnails)


@app.post("/folders/{name}", response_class=HTMLResponse)
def make(name: str):
    folder = PICTURES / Path(name).name
    header = [thumbnail.s(str(path)) for path in sorted(folder.glob("*.jpg"))]
    job = tracked_chord(header, contact_sheet.s(str(folder)), subject=name, unit="pictures").apply_async()
    script = '<script type="module" src="/progress/assets/job-progress.js"></script>'
    return f'{script}<job-progress job="{job.id}"></job-progress>'
