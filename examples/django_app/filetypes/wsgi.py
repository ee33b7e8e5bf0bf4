"""For a WSGI server: `gunicorn --preload filetypes.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "filetypes.settings")
application = get_wsgi_application()
