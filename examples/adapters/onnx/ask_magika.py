"""Ask for the types of the files in this folder, twice: `python ask_magika.py`."""

from pathlib import Path

from producer import Producer

files = sorted(Path(__file__).parent.glob("*.[mp][dy]"))
with Producer() as producer:
    for _ in range(2):
        pendings = producer.submit_many("magika-onnx", [file.read_bytes() for file in files])
        for file, pending in zip(files, pendings, strict=True):
            print(f"{file.name}: {pending.result(timeout=60)['label']} ({pending.source})")
