"""A model to begin with: `docker compose --profile dev up -d --wait` serves this folder, and follows its changes."""

from workers import as_model


@as_model
def shout(text: str) -> str:
    """Say it louder."""
    return text.upper() + "!"
