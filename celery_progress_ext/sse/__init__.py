"""The live stream and the HTTP routes around it: bytes on the wire, the fan-out hub, and what each route answers.

``routes`` needs no web framework, and whatever it stands on neither; ``blueprint``, which serves it with Flask on
flask-sse, needs the extra ``celery-progress-ext[web]``.
"""
