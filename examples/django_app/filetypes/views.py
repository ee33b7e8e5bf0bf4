"""The view."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from filetypes.predictions import file_type
from producer import (
    BrokerUnavailable,
    CacheUnavailable,
    ForeseenError,
    ModelNotServed,
    PredictionFailed,
    PredictionTimeout,
)

TIMEOUT_S = 10


@csrf_exempt
@require_POST
def classify(request: HttpRequest) -> JsonResponse:
    """Tell the type of the file in the request's body."""
    try:
        # Not `file_type.predict`, which returns the bare output: a pending prediction knows its source.
        pending = file_type.submit(request.body, deadline_s=TIMEOUT_S)
        label = pending.result(TIMEOUT_S)
    except (BrokerUnavailable, CacheUnavailable, ModelNotServed) as error:
        response = _told(error, 503)
        response["Retry-After"] = "5"
        return response
    except PredictionTimeout as error:
        return _told(error, 504)
    except PredictionFailed as error:
        return _told(error, 502)
    return JsonResponse({"source": pending.source, **label.model_dump()})


def _told(error: ForeseenError, status: int) -> JsonResponse:
    return JsonResponse({"error": type(error).__name__, "message": str(error)}, status=status)
