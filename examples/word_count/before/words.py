"""The most frequent words of some text files: python words.py FILE…"""

import os
import re
import sys
from collections import Counter
from pathlib import Path

from celery import Celery, chord

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
app = Celery("words", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)


@app.task
def count(path):
    return Counter(re.findall(r"\w+", Path(path).read_text().lower()))


@app.task
def most_frequent(counts):
    return sum(map(Counter, counts), Counter()).most_common(3)


if __name__ == "__main__":
    job = chord([count.s(path) for path in sys.argv[1:]], most_frequent.s()).apply_async()
    print(job.get())
