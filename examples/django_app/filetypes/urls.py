"""The URLs of this project."""

from django.urls import path

from filetypes.views import classify

urlpatterns = [path("classify", classify)]
