"""Call the newsroom's tasks and print what they say: `python desk.py`."""

# Celery ships no types: to a type checker a task is its function.
# pyright: reportFunctionMemberAccess=false

from newsroom import file, keywords

ARTICLE = (
    "Rain in the north, rain in the south, and in the east a sun that was warm. The rain ends on Sunday, the sun stays."
)

first = keywords.delay(ARTICLE)
print(first.get(timeout=60))

# Asked again, by whomever, it is there already; arguments given otherwise are the same arguments.
again = keywords.apply_async(kwargs={"text": ARTICLE})
print(again.ready(), again.get(), again.source, again.id == first.id)

print(file.delay(ARTICLE).get(timeout=60))
