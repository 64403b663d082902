"""The HTTP API of the service: endpoints with JSON requests and responses, OpenAPI, and an HTML form."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from starlette.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from rainbow_ray import __version__
from rainbow_ray.data.time_units import UnitCheck, check_unit, describe_length, likely_unit
from rainbow_ray.data.times import DAY, parse_seconds
from rainbow_ray.inference.occlusion import column_to_explain
from rainbow_ray.serving.auth import MAX_BODY_BYTES, AccessPolicy, bearer_scheme, make_middleware
from rainbow_ray.serving.service import Service

FORM = Path(__file__).with_name("form.html")
MAX_PROBLEMS = 20  # of a request that are reported
MAX_TEXTS, MAX_CHARACTERS, MAX_SEGMENTS = 64, 20_000, 2_000
MAX_NAME_CHARACTERS = 200
MAX_LIKELY_SECONDS = 1e15  # times beyond it are in no likely unit
FORM_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def _check_utf8(text: str) -> str:
    """Reject unpaired surrogates, which JSON escapes can express."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text is not valid UTF-8") from error
    return text


def _parse_seconds(value: object) -> object:
    """Convert clock times and durations to seconds."""
    if isinstance(value, bool):
        raise ValueError("a time is a number of seconds, or text such as 1:23.5")
    seconds = parse_seconds(value) if isinstance(value, str) else value
    if isinstance(seconds, float) and math.isnan(seconds):
        raise ValueError("no time is given")
    if isinstance(seconds, int | float) and DAY < seconds < MAX_LIKELY_SECONDS:
        raise ValueError(f"{describe_length(seconds)} is more than a day; times are seconds from the song's start"
                         f" ({likely_unit(seconds)})")  # fmt: skip
    return seconds


Text = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_check_utf8)]
Seconds = Annotated[
    float,
    BeforeValidator(_parse_seconds),
    Field(ge=0, le=DAY, allow_inf_nan=False, description="seconds from the song's start, or text such as 1:23.5"),
]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS), AfterValidator(_check_utf8)]


class PredictRequest(BaseModel):
    """Texts to predict."""

    texts: list[Text] = Field(min_length=1, max_length=MAX_TEXTS, examples=[["a door that was a wall until then"]])


class TextPrediction(BaseModel):
    """Prediction for a text."""

    prediction: bool | str | float | list[str] | None = Field(description="null for an empty text")
    scores: dict[str, float] = Field(description="scores by class; `score` of models with a single score")
    reason: str | None = Field(description="why there is no prediction")
    novelty: float | None = Field(
        None, description="how unlike the training songs the text is; above 1 for 5% of held-out training songs"
    )
    modalities: str | None = Field(
        None, description="modalities that the score was computed from, of models that read audio or MIDI as well"
    )


class PredictResponse(BaseModel):
    """Predictions, in the order of the texts."""

    predictions: list[TextPrediction]


class ExplainRequest(BaseModel):
    """A text to explain."""

    text: Text
    label: Name | None = Field(None, description="class whose score is explained; default: the one with highest score")


class WordChange(BaseModel):
    """Effect of a word on a score."""

    word: str
    effect: float = Field(description="score of the text minus its score without this word")
    by: float = Field(description="former name of `effect`", deprecated=True)


class ExplainResponse(BaseModel):
    """Words with an effect on a score, in descending order of it."""

    label: str
    words: list[WordChange]


class SegmentInput(BaseModel):
    """A segment of a song."""

    song: Name = "song"
    start: Seconds
    end: Seconds
    text: Text = ""


class SegmentsRequest(BaseModel):
    """Segments to predict."""

    segments: list[SegmentInput] = Field(min_length=1, max_length=MAX_SEGMENTS)

    @model_validator(mode="after")
    def _check_times(self) -> SegmentsRequest:
        problem = self.check_unit().problem
        if problem is not None:
            raise ValueError(problem)
        return self

    def check_unit(self) -> UnitCheck:
        """Check whether the times can be seconds.

        Returns:
            A problem or a warning, or neither.
        """
        rows = [(segment.song, segment.start, segment.end, len(segment.text.split())) for segment in self.segments]
        return check_unit(pd.DataFrame(rows, columns=["song", "start", "end", "words"]))


class SegmentsResponse(BaseModel):
    """Predictions of segments, and the intervals that neighboring segments with the same prediction form."""

    segments: list[dict[str, Any]]
    intervals: list[dict[str, Any]]
    stretches: list[dict[str, Any]] = Field(description="former name of `intervals`", deprecated=True)
    notes: list[str] = Field(default=[], description="doubts about the unit of the times")


public_router = APIRouter()
router = APIRouter()


def _get_service(request: Request) -> Service:
    service: Service = request.app.state.get_service()
    return service


ServiceDependency = Annotated[Service, Depends(_get_service)]


def make_app(get_service: Callable[[], Service], policy: AccessPolicy) -> FastAPI:
    """Return the application.

    Args:
        get_service: Returns the service; called for each request.
        policy: Who may use the service.

    Returns:
        The application with its middleware.
    """
    app = FastAPI(
        title="rainbow_ray", version=__version__, docs_url=None, redoc_url=None, middleware=make_middleware(policy),
        description=f"Requests are limited to {MAX_BODY_BYTES:,} bytes.",
        exception_handlers={RequestValidationError: _invalid_request, RecursionError: _nested_too_deeply},
    )  # fmt: skip
    app.openapi_version = "3.0.2"  # the latest version that the packaged Swagger UI can display
    app.state.get_service = get_service
    app.mount("/static", StaticFiles(directory=swagger_ui_path), name="static")
    app.include_router(public_router)
    # the middleware checks the token; the dependency adds the scheme to OpenAPI
    app.include_router(router, dependencies=[] if policy.token_hash is None else [Security(bearer_scheme)])
    return app


async def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Report validation errors in FastAPI's format, but without the input, which may be confidential or large."""
    assert isinstance(error, RequestValidationError)
    problems = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()[:MAX_PROBLEMS]]
    return JSONResponse({"detail": problems}, status_code=422)


async def _nested_too_deeply(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "this JSON is nested too deeply"}, status_code=400)


@public_router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def form() -> HTMLResponse:
    """Serve the HTML form.

    Returns:
        The page.
    """
    return HTMLResponse(FORM.read_text(encoding="utf-8"), headers={"content-security-policy": FORM_POLICY})


@public_router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
async def docs() -> HTMLResponse:
    """Serve Swagger UI from files of this package, so that it needs no network access.

    Returns:
        The page.
    """
    return get_swagger_ui_html(
        openapi_url="/openapi.json", title="rainbow_ray", swagger_js_url="/static/swagger-ui-bundle.js",
        swagger_css_url="/static/swagger-ui.css", swagger_favicon_url="/static/favicon-32x32.png",
    )  # fmt: skip


@public_router.get("/healthz", summary="Health", description="Checks that a model is loaded.")
async def health(service: ServiceDependency) -> dict[str, str]:
    """Check that a model is loaded.

    Args:
        service: The service.

    Returns:
        The status and the task of the model.
    """
    task = service.info["task"]
    return {"status": "ok", "task": task, "problem": task}


@router.get("/info", summary="Model", description="Describes the model: task, target, names of scores.")
async def info(service: ServiceDependency) -> dict[str, Any]:
    """Describe the model.

    Args:
        service: The service.

    Returns:
        Metadata of the model.
    """
    return service.info


@router.post("/predict", response_model_exclude_unset=True, summary="Predict", description="Predicts texts.")
async def predict(request: PredictRequest, service: ServiceDependency) -> PredictResponse:
    """Predict texts.

    Args:
        request: Texts.
        service: The service.

    Returns:
        A prediction per text.
    """
    predictions = await service.predict(request.texts)
    return PredictResponse(predictions=[TextPrediction(**prediction.to_json()) for prediction in predictions])


@router.post(
    "/explain", summary="Explain",
    description="Finds the words with the largest effect on a score: those that raise it first.",
)  # fmt: skip
async def explain(request: ExplainRequest, service: ServiceDependency) -> ExplainResponse:
    """Find the words with the largest effect on a score.

    Args:
        request: A text and a class.
        service: The service.

    Returns:
        Words, those that raise the score first.

    Raises:
        HTTPException: The text is empty, or the model has no such class.
    """
    names = service.info["scores"]
    labels = [name.removeprefix("score_") for name in names]
    if request.label is None:
        prediction = (await service.predict([request.text]))[0]
        if prediction.reason is not None:
            raise HTTPException(422, prediction.reason)
        column = column_to_explain(names, np.array(list(prediction.scores.values())))
    elif request.label in labels:
        column = names[labels.index(request.label)]
    else:
        raise HTTPException(404, f"no such class; available classes: {', '.join(labels)}")
    effects = await service.explain(request.text, column)
    words = [WordChange(word=item.word, effect=item.effect, by=item.effect) for item in effects]
    return ExplainResponse(label=column.removeprefix("score_"), words=words)


@router.post(
    "/segments", summary="Predict segments",
    description="Predicts segments of songs, for models of segments. A segment without a score, or without a length,"
    " has a `reason`.",
)  # fmt: skip
async def segments(request: SegmentsRequest, service: ServiceDependency) -> SegmentsResponse:
    """Predict segments of songs.

    Args:
        request: Segments.
        service: The service.

    Returns:
        A prediction per segment, in the order of the request, and intervals.

    Raises:
        HTTPException: The model does not predict segments.
    """
    if not service.info["segments"]:
        raise HTTPException(404, "this model predicts whole texts: use /predict")
    predictions, intervals = await service.predict_segments([segment.model_dump() for segment in request.segments])
    warning = request.check_unit().warning
    notes = [warning] if warning else []
    return SegmentsResponse(segments=predictions, intervals=intervals, stretches=intervals, notes=notes)
