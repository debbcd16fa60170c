"""Pages of HTML, each in one file that refers to no other, from Jinja's templates."""

import base64
import functools
from pathlib import Path

import jinja2

from neural_lib.checkpoint import Checkpoint
from neural_lib.config import TrainConfig, format_value, option_name
from neural_lib.data.catalog import DATASETS, title_of


def render(template: Path, saved: Checkpoint, **values: object) -> str:
    """Fill in a template with `values`, the checkpoint, and the title of its data set and its settings."""
    defaults = TrainConfig().to_dict()
    parts = None if saved.dataset in DATASETS else saved.training.get("parts", ())
    hidden = TrainConfig(**saved.config).without_effect(parts)
    settings = [
        {"option": option_name(name), "value": value, "is_default": value == defaults.get(name)}
        for name, value in saved.config.items()
        if name not in hidden
    ]
    title = title_of(saved.dataset)
    page = _environment(template.parent).get_template(template.name)
    return page.render(saved=saved, trained_on=title, settings=settings, **values)


@functools.cache  # an environment keeps the templates that it has compiled
def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,  # names come from data and files
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["format_value"] = format_value
    return environment


def base64_text(content: bytes) -> str:
    """Encode bytes as base64 text."""
    return base64.b64encode(content).decode()
