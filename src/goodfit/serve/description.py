"""What a server says of itself: its model, and its interface as OpenAPI."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from goodfit.core.figures import TaskName
from goodfit.core.fitted_task import plain_task
from goodfit.predict.predictor import Predictor
from goodfit.serve.options import ServeOptions

NUMBER: dict[str, Any] = {"type": "number"}
TEXT: dict[str, Any] = {"type": "string"}
NAMES: dict[str, Any] = {"type": "array", "items": TEXT}
PROBABILITIES: dict[str, Any] = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
ANSWERS: dict[TaskName, dict[str, Any]] = {
    "classes": {"label": TEXT, "probability": PROBABILITIES["items"], "classes": NAMES, "probabilities": PROBABILITIES},
    "labels": {"labels": NAMES, "classes": NAMES, "probabilities": PROBABILITIES},
    "numbers": {
        "numbers": {"type": "object", "additionalProperties": NUMBER},
        "intervals": {"type": "object", "additionalProperties": {"type": "array", "items": NUMBER}},
    },
}
REFUSALS = {
    401: "The token is missing or another.", 403: "The Host header or the origin is another.", 413: "Too many bytes or images.",
    422: "No image that can be read.", 500: "The model failed.", 503: "The queue is full; Retry-After says when to come back.",
}  # fmt: skip


def describe_model(predictor: Predictor, options: ServeOptions, facts: dict[str, Any]) -> dict[str, Any]:
    """What the model answers, as /model shows it: its task with what was fitted for it, its outputs, and what its run says of it."""
    return {
        **facts,
        "task": plain_task(predictor.task),
        "classes": list(predictor.classes),
        "sizes": [list(member.preprocess.size) for member in predictor.members],
        "temperatures": [member.temperature for member in predictor.members],
        "reject_below": options.reject_below,
        "engine": options.engine,
        "max_bytes": options.max_bytes,
        "max_pixels": options.max_pixels,
    }


def openapi(task: TaskName, options: ServeOptions, has_token: bool) -> dict[str, Any]:
    """The interface of a server as an OpenAPI 3.1 document."""
    image = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"image": {"type": "array", "items": image}}, "required": ["image"]}
    top = {
        "name": "top",
        "in": "query",
        "description": "How many classes to answer.",
        "schema": {"type": "integer", "minimum": 1, "default": 5},
    }
    refusals = {str(status): _answer(text, {"$ref": "#/components/schemas/Refusal"}) for status, text in REFUSALS.items()}
    predictions = {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}
    post = {
        "summary": "Predict what images show.",
        "description": "One image as the body, or any number as the files of a form. An image that cannot be read has a problem.",
        "parameters": [top],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "image/*": {"schema": image},
                "application/octet-stream": {"schema": image},
            },
        },
        "responses": {"200": _answer("A prediction for each image, in their order.", predictions), **refusals},
    }
    gets = {
        "/model": _get("What the model answers.", {"type": "object"}),
        "/health": _get("That the server answers.", _object({"status": {"type": "string", "enum": ["ok"]}}), is_open=True),
        "/metrics": _get("What was counted, for Prometheus.", TEXT, "text/plain"),
        "/openapi.json": _get("This document.", {"type": "object"}, is_open=True),
        "/docs": _get("A page to read and try it.", TEXT, "text/html", is_open=True),
    }
    bearer = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if has_token else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Goodfit", "version": version("goodfit"), "description": "Predictions of a trained image classifier."},
        "paths": {"/predict": {"post": post}, **gets},
        "components": {"schemas": {"Prediction": _prediction(task, options), "Refusal": _object({"error": TEXT, "kind": TEXT})}, **bearer},
        **({"security": [{"token": []}]} if has_token else {}),
    }


def _prediction(task: TaskName, options: ServeOptions) -> dict[str, Any]:
    rejected = {"rejected": {"type": "boolean"}} if options.reject_below else {}
    return _object({"name": TEXT, **ANSWERS[task], "problem": TEXT, **rejected})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _answer(text: str, schema: dict[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"description": text, "content": {media: {"schema": schema}}}


def _get(text: str, schema: dict[str, Any], media: str = "application/json", is_open: bool = False) -> dict[str, Any]:
    security: dict[str, Any] = {"security": []} if is_open else {}
    return {"get": {"summary": text, "responses": {"200": _answer(text, schema, media)}, **security}}
