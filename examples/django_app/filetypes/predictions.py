"""The one producer of this process, and the model that is asked."""

from pydantic import BaseModel

from producer import Producer

__all__ = ["Label", "file_type"]


class Label(BaseModel):
    """A file's type, as the model tells it."""

    label: str
    mime_type: str
    score: float


# It connects at its first use, is safe for threads, and begins anew in a forked child: with `gunicorn --preload`, every
# worker has its own connections, even if the parent had used it before.
producer = Producer()
file_type = producer.model("file-type", output=Label)
