"""The data-parallel training loop and its checks. `inspector.ddp(model)` is `api.ddp.ddp`."""

from inspector.rooms import callable_room

callable_room(__name__, "inspector.api.ddp", "ddp")
