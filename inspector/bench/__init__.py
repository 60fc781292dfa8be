"""The precision benchmark. `inspector.bench(model)` is `api.bench.bench`."""

from inspector.rooms import callable_room

callable_room(__name__, "inspector.api.bench", "bench")
