"""The interface: JSON in and out, described by OpenAPI, and a form for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
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
from rainbow_ray.serving.auth import App, Gate, Guard
from rainbow_ray.serving.service import Service

FORM = Path(__file__).with_name("form.html")
MOST_TOLD = 20  # problems of a request
MOST_TEXTS, MOST_CHARACTERS, MOST_SEGMENTS = 64, 20_000, 2_000
LARGEST_TIME = 1e15  # beyond, no unit is likely
FORM_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def _is_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half a character, as JSON may write it
        raise ValueError("this is no UTF-8 text") from error
    return text


def _read_seconds(value: object) -> object:
    """A time as a number of seconds; clock times and durations as text are read too."""
    if isinstance(value, bool):
        raise ValueError("a time is a number of seconds, or text such as 1:23.5")
    seconds = parse_seconds(value) if isinstance(value, str) else value
    if isinstance(seconds, float) and math.isnan(seconds):
        raise ValueError("no time is given")
    if isinstance(seconds, int | float) and DAY < seconds < LARGEST_TIME:
        raise ValueError(f"{describe_length(seconds)} is more than a day; times are seconds from the song's start"
                         f" ({likely_unit(seconds)})")  # fmt: skip
    return seconds


Text = Annotated[str, Field(max_length=MOST_CHARACTERS), AfterValidator(_is_text)]
Seconds = Annotated[
    float,
    BeforeValidator(_read_seconds),
    Field(ge=0, le=DAY, allow_inf_nan=False, description="seconds from the song's start; text such as 1:23.5 is read"),
]
Name = Annotated[str, Field(max_length=200), AfterValidator(_is_text)]


class Texts(BaseModel):
    texts: list[Text] = Field(min_length=1, max_length=MOST_TEXTS, examples=[["a door that was a wall until then"]])


class Predicted(BaseModel):
    prediction: bool | str | float | list[str] | None = Field(description="null where there is no text")
    scores: dict[str, float] = Field(description="by class; `score` where there is one")
    reason: str | None = Field(description="why there is none")
    modalities: str | None = Field(None, description="of a model that reads audio or MIDI too: what the score has read")


class Predictions(BaseModel):
    predictions: list[Predicted]


class ToExplain(BaseModel):
    text: Text
    label: Name | None = Field(None, description="the class whose score is explained; by default the likeliest")


class Word(BaseModel):
    word: str
    by: float = Field(description="how much higher the score is for this word's being there")


class Explained(BaseModel):
    label: str
    words: list[Word]


class Segment(BaseModel):
    song: Name = "song"
    start: Seconds
    end: Seconds
    text: Text = ""


class Segments(BaseModel):
    segments: list[Segment] = Field(min_length=1, max_length=MOST_SEGMENTS)

    @model_validator(mode="after")
    def _are_seconds(self) -> Segments:
        problem = self.check_unit().problem
        if problem is not None:
            raise ValueError(problem)
        return self

    def check_unit(self) -> UnitCheck:
        """Whether the times can be in seconds."""
        rows = [(one.song, one.start, one.end, len(one.text.split())) for one in self.segments]
        return check_unit(pd.DataFrame(rows, columns=["song", "start", "end", "words"]))


class Timeline(BaseModel):
    segments: list[dict[str, Any]]
    stretches: list[dict[str, Any]]
    notes: list[str] = Field(default=[], description="what is doubtful about the request's times")


router = APIRouter()


def _service(request: Request) -> Service:
    found: Service = request.app.state.service()
    return found


Model = Annotated[Service, Depends(_service)]


def make_app(service: Callable[[], Service], gate: Gate) -> App:
    """The whole interface around a service, which is asked for when a request is there."""
    app = FastAPI(title="rainbow_ray", version=__version__, docs_url=None, redoc_url=None)
    app.openapi_version = "3.0.2"  # what the packaged page can show
    app.state.service = service
    app.mount("/static", StaticFiles(directory=swagger_ui_path), name="static")
    app.add_exception_handler(RequestValidationError, _invalid)
    app.include_router(router)
    return Guard(app, gate)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """What is wrong and where, without the input itself."""
    assert isinstance(error, RequestValidationError)
    told = [{"where": ".".join(map(str, one["loc"])), "what": one["msg"]} for one in error.errors()]
    return JSONResponse({"detail": told[:MOST_TOLD]}, status_code=422)


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def form() -> HTMLResponse:
    """A page to paste a concept into."""
    return HTMLResponse(FORM.read_text(encoding="utf-8"), headers={"content-security-policy": FORM_POLICY})


@router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
async def docs() -> HTMLResponse:
    """The interface, described."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json", title="rainbow_ray", swagger_js_url="/static/swagger-ui-bundle.js",
        swagger_css_url="/static/swagger-ui.css", swagger_favicon_url="/static/favicon-32x32.png",
    )  # fmt: skip


@router.get("/healthz")
async def health(model: Model) -> dict[str, str]:
    """Whether a model is there to be asked."""
    return {"status": "ok", "problem": model.info["problem"]}


@router.get("/info")
async def info(model: Model) -> dict[str, Any]:
    """What the model is."""
    return model.info


@router.post("/predict", response_model_exclude_unset=True)
async def predict(asked: Texts, model: Model) -> Predictions:
    """Scores of texts, and what they say."""
    return Predictions(predictions=[Predicted(**one.to_json()) for one in await model.predict(asked.texts)])


@router.post("/explain")
async def explain(asked: ToExplain, model: Model) -> Explained:
    """The words that moved a score, those that raised it first."""
    names = model.info["scores"]
    labels = [name.removeprefix("score_") for name in names]
    if asked.label is None:
        answer = (await model.predict([asked.text]))[0]
        if answer.reason is not None:
            raise HTTPException(422, answer.reason)
        column = column_to_explain(names, np.array(list(answer.scores.values())))
    elif asked.label in labels:
        column = names[labels.index(asked.label)]
    else:
        raise HTTPException(404, f"no such class; there are: {', '.join(labels)}")
    words = await model.explain(asked.text, column)
    return Explained(label=column.removeprefix("score_"), words=[Word(word=one.word, by=one.effect) for one in words])


@router.post("/segments")
async def segments(asked: Segments, model: Model) -> Timeline:
    """Of a model of segments: each with its label, in the order asked, and the stretches that they make.

    A segment without a score, or of no length, has a `reason`.
    """
    if not model.info["segments"]:
        raise HTTPException(404, "this model reads whole texts: ask /predict")
    found, stretches = await model.predict_segments([one.model_dump() for one in asked.segments])
    suspicion = asked.check_unit().warning
    return Timeline(segments=found, stretches=stretches, notes=[suspicion] if suspicion else [])
