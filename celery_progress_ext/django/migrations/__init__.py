"""One migration for each revision of the library's tables (``celery_progress_ext/migrations``), with its number."""
