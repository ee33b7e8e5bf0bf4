"""Ask about some texts, twice: `python ask_mood.py`."""

from producer import Producer

TEXTS = ["The film was lovely.", "I found the book quite horrible.", "A terrible day.", "This is fine!"]

with Producer() as producer:
    for _ in range(2):
        pendings = producer.submit_many("mood", TEXTS)
        print(*(f"{pending.result(timeout=60)['label']} ({pending.source})" for pending in pendings), sep=", ")
