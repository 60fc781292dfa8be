"""The record of one pass, and the pass itself. `inspector.trace(model)` is `api.profile.trace`."""

from inspector.rooms import callable_room

callable_room(__name__, "inspector.api.profile", "trace")
