"""The process in which one rank is simulated: a default process group is global, and callers may have one."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.collection import paused
from inspector.core.devices import named
from inspector.core.errors import InspectError
from inspector.core.links import links
from inspector.models import Recipe, as_recipe
from inspector.models.inputs import Inputs, as_inputs, materialise
from inspector.models.small import with_batch
from inspector.profiling.run import needs_two
from inspector.scaling.bound import Machine
from inspector.scaling.layout import Layout
from inspector.scaling.simulate import simulate_rank
from inspector.scaling.step import Question
from inspector.scaling.summary import summary
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.values import batch_size


@dataclass(frozen=True)
class Request:
    """What the child is asked: everything in it can be pickled. `network`: GB/s between nodes for each
    device, None takes the table of links."""

    model: Any
    model_args: dict[str, Any]
    call: str | None
    inputs: Any
    batch: int | None
    layout: Layout
    optimizer: str | None
    amp: bool
    dtype: str | None
    attention: str
    seed: int
    gpu: str | None
    nodes: tuple[int, int] | None
    network: float | None
    defaults: tuple[str, ...] = ()

    def write(self, file: Path) -> None:
        """Tensors lose their values: the simulation needs none. Raises InspectError for a live model that
        another process cannot have."""
        stream = io.BytesIO()
        try:
            _WithoutValues(stream).dump(self)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InspectError(
                f"the model cannot be sent to the process of a simulated rank: {error}",
                "name it by a spec: file.py:ATTR, package.module:ATTR or hf:DIR",
            ) from error
        file.write_bytes(stream.getvalue())

    def machine(self) -> Machine | None:
        if self.gpu is None:
            return None
        device = named(self.gpu)
        own = links(device.name)
        if self.network is not None:
            own = type(own)(own.name, own.inside, self.network, f"{own.source}; between nodes as given")
        return Machine.of(device, own, self.nodes, self.layout.world_size)


class _WithoutValues(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
            return NotImplemented
        parameter = isinstance(value, nn.Parameter)
        return _made, (tuple(value.shape), value.stride(), value.dtype, parameter, value.requires_grad)


def _made(shape: Any, stride: Any, dtype: torch.dtype, parameter: bool, grad: bool) -> Tensor:
    data = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    return nn.Parameter(data, requires_grad=grad) if parameter else data.requires_grad_(grad)


def main(words: list[str]) -> dict[str, Any]:
    """Simulate the rank `words[1]` of the request in the file `words[0]`; its summary, or the error."""
    try:
        request = pickle.loads(Path(words[0]).read_bytes())
    except (AttributeError, ImportError) as error:
        text = f"the model's class cannot be imported by another process: {error}"
        return _failed(InspectError(text, "put it into a file, and name that: file.py:ATTR"))
    try:
        with paused():
            return run(request, int(words[1]))
    except InspectError as error:
        return _failed(error)


def _failed(error: InspectError) -> dict[str, Any]:
    return {"error": [error.message, error.hint]}


def run(request: Request, rank: int) -> dict[str, Any]:
    """The summary of one rank, in this process."""
    layout, machine = request.layout, request.machine()
    recipe = as_recipe(request.model, request.model_args, request.call)
    if recipe.only_on is not None:
        raise InspectError(f"{recipe.name} is quantized, and does not train", "name the float model")
    phase = "forward" if request.optimizer is None else "train"
    kernels = Kernels(
        "cuda", request.attention, "bfloat16" if request.amp else None,
        machine.device.major if machine is not None else None,
    )  # fmt: skip
    model = recipe.build("meta", request.seed)
    inputs = _inputs(request, recipe, phase, model)
    question = Question(recipe, inputs, request.optimizer, kernels, request.dtype, request.seed)
    samples = batch_size(*materialise(inputs, model, "meta"))
    notes = []
    try:
        recorded = simulate_rank(question, layout, rank, model)
    except InspectError as error:
        if request.batch is not None or request.inputs is not None or not needs_two(error):  # type: ignore[arg-type]
            raise
        samples, inputs = 2, with_batch(inputs, 2)
        recorded = simulate_rank(replace(question, inputs=inputs), layout, rank)
        notes.append("a batch of 2, because BatchNorm cannot train on one value per channel")
    made = summary(recorded, layout, machine)
    made["notes"] += notes
    return {"name": recipe.name, "source": recipe.source, "samples": samples, **made}


def _inputs(request: Request, recipe: Recipe, phase: str, model: nn.Module) -> Inputs:
    chosen = as_inputs(request.inputs) if request.inputs is not None else None
    inputs = recipe.inputs(model, chosen, phase)
    own = batch_size(*materialise(inputs, model, "meta"))
    if request.batch is None or request.batch == own:
        return inputs
    if own != 1:
        raise InspectError(
            f"the input has {own} samples, but `batch=` asks for {request.batch}",
            "give the input a first dimension of 1, or leave out `batch=`",
        )
    return with_batch(inputs, request.batch)
