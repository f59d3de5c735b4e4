"""The live stream: bytes on the wire, the fan-out hub, and the Flask blueprint on flask-sse.

``wire`` and ``hub`` need no web framework; ``blueprint`` needs the extra ``celery-progress-ext[web]``.
"""
