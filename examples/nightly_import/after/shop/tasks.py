import csv
from itertools import islice

from celery import shared_task
from django.conf import settings

from celery_progress_ext import tracked_chord
from shop.models import Product

ROWS = 100


@shared_task
def import_rows(path, first, last):
    with open(path, newline="") as file:
        for row in islice(csv.DictReader(file), first - 1, last):
            Product.objects.update_or_create(sku=row["sku"], defaults={"name": row["name"], "cents": row["cents"]})
    return last - first + 1


@shared_task
def finish_import(counts, path):
    return f"{path}: {sum(counts)} products"


@shared_task
def nightly_import():
    return start_import(settings.PRICE_LIST).id


def start_import(path):
    with open(path) as file:
        rows = sum(1 for _ in file) - 1
    ranges = [(first, min(first + ROWS - 1, rows)) for first in range(1, rows + 1, ROWS)]
    header = [import_rows.s(path, *each) for each in ranges]
    job = tracked_chord(header, finish_import.s(path), subject=path, ranges=ranges, unit="rows")
    return job.apply_async()
