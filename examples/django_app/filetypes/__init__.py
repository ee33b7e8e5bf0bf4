"""A Django application that tells files' types."""
