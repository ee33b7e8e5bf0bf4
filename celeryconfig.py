"""This deployment's Celery settings: foreseen's own, and whatever is changed below.

Selected with Celery's `CELERY_CONFIG_MODULE=celeryconfig`, as compose does.
"""

from foreseen.celery_settings import *  # noqa: F403 - a settings module
