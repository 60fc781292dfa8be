"""A spec string becomes a model with its inputs. One file a source; `resolve` picks the file."""

from inspector.models.resolve import Model, as_recipe, resolve
from inspector.models.subject import Recipe, Subject

__all__ = ["Model", "Recipe", "Subject", "as_recipe", "resolve"]
