"""Ask the model twice: `python ask.py`."""

from producer import Producer

TEXT = "A cache keeps answers. Whoever asks the cache again gets answers at once; answers nobody keeps are computed."

with Producer() as producer:
    keywords = producer.model("keywords", output=list[str])
    first = keywords.submit(TEXT)
    print(first.source, first.result(timeout=10))
    again = keywords.submit(TEXT)
    print(again.source, again.result(timeout=10))
    print(again.key)
