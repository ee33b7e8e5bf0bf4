"""Predictions over HTTP: `uvicorn app:app`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypedDict

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from latencies import Latencies, Summary
from pydantic import BaseModel

from producer import (
    AsyncModelHandle,
    AsyncProducer,
    BrokerUnavailable,
    CacheUnavailable,
    DeadlineExceeded,
    ForeseenError,
    InputRefused,
    InvalidInput,
    InvalidKey,
    ModelNotServed,
    PredictionFailed,
    PredictionTimeout,
    Source,
    UnknownKey,
)

#: The most specific class of an error counts.
STATUS: dict[type, int] = {
    UnknownKey: 404,
    InvalidInput: 422,
    InvalidKey: 422,
    InputRefused: 422,
    PredictionFailed: 502,
    BrokerUnavailable: 503,
    CacheUnavailable: 503,
    ModelNotServed: 503,
    DeadlineExceeded: 504,
    PredictionTimeout: 504,
}
RETRY_AFTER_S = 5


class Label(BaseModel):
    """A file's type, as the model tells it."""

    label: str
    mime_type: str
    group: str
    score: float


class Prediction(BaseModel):
    """A prediction: its key, how it was answered, and its result once it is done."""

    key: str
    source: Source
    status: Literal["pending", "done"]
    result: Label | None = None


class State(TypedDict):
    """What lives as long as the application."""

    producer: AsyncProducer
    latencies: Latencies


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[State, None]:
    """Open one producer for all requests: theirs travel together on its connection."""
    async with AsyncProducer() as producer:
        yield {"producer": producer, "latencies": Latencies()}


app = FastAPI(title="File types", lifespan=lifespan)


def the_model(request: Request) -> AsyncModelHandle[Label]:
    """Return the model, with outputs as `Label`."""
    producer: AsyncProducer = request.state.producer
    return producer.model("file-type", output=Label)


def the_latencies(request: Request) -> Latencies:
    """Return what was measured so far."""
    latencies: Latencies = request.state.latencies
    return latencies


async def the_file(request: Request) -> bytes:
    """Return the request's body."""
    return await request.body()


@app.post("/predictions", status_code=202)
async def submit(
    file: Annotated[bytes, Depends(the_file)], model: Annotated[AsyncModelHandle[Label], Depends(the_model)]
) -> Prediction:
    """Have a file looked at; the result is fetched with the key."""
    pending = await model.submit(file)
    return Prediction(key=pending.key, source=pending.source, status="done" if pending.done() else "pending")


@app.get("/predictions/{key:path}")
async def poll(
    key: str, response: Response, model: Annotated[AsyncModelHandle[Label], Depends(the_model)]
) -> Prediction:
    """Return what has become of a prediction."""
    pending = await model.pending(key)
    if pending.done():
        return Prediction(key=key, source=pending.source, status="done", result=await pending)
    await pending.cancel()  # this request waits no longer; whoever submitted still gets an answer
    response.status_code = 202
    return Prediction(key=key, source=pending.source, status="pending")


@app.post("/predict")
async def predict(
    file: Annotated[bytes, Depends(the_file)],
    model: Annotated[AsyncModelHandle[Label], Depends(the_model)],
    latencies: Annotated[Latencies, Depends(the_latencies)],
    timeout_s: Annotated[float, Query(gt=0, le=60)] = 30,
) -> Prediction:
    """Have a file looked at, and wait for the result."""
    began = time.perf_counter()
    # Not `model.predict`, which returns the bare output: a pending prediction knows its source and its key.
    pending = await model.submit(file, deadline_s=timeout_s)
    result = await pending.result(timeout_s)
    latencies.add(pending.source, time.perf_counter() - began)
    return Prediction(key=pending.key, source=pending.source, status="done", result=result)


@app.get("/latency")
async def latency(latencies: Annotated[Latencies, Depends(the_latencies)]) -> dict[Source, Summary]:
    """Return how long `POST /predict` took, by source."""
    return latencies.by_source()


@app.exception_handler(ForeseenError)
async def tell(_: Request, error: ForeseenError) -> JSONResponse:
    """Answer with the status of the error, and say whether a retry may help."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.retryable else None
    content = {"error": type(error).__name__, "message": str(error), "retryable": error.retryable}
    return JSONResponse(content, status, headers)
