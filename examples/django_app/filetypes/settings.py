"""The settings of this project: no more than it needs."""

import os

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only for trying it out")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
INSTALLED_APPS = ["filetypes"]
ROOT_URLCONF = "filetypes.urls"
WSGI_APPLICATION = "filetypes.wsgi.application"
