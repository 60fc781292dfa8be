"""Every private name of torch (and a few of torchvision) that inspector uses, each in one place.

A name is looked up when it is first used: `from inspector.tracing._torch import tree_map`, or
`_torch.parameters_of(module)`. Where the installed torch no longer has it, its entry in `FALLBACKS` takes its
place; a name without a fallback raises InspectError with the name and torch's version.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn

from inspector.core.errors import InspectError

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
    from torch.nn.modules.batchnorm import _NormBase as NormBase
    from torch.nn.modules.conv import _ConvNd as ConvNd
    from torch.nn.modules.dropout import _DropoutNd as DropoutNd
    from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._python_dispatch import TorchDispatchMode as DispatchMode
    from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

    __all__ = [
        "BatchNorm",
        "ConvNd",
        "DispatchMode",
        "DropoutNd",
        "InstanceNorm",
        "NormBase",
        "TorchDispatchMode",
        "tree_flatten",
        "tree_leaves",
        "tree_map",
        "tree_unflatten",
    ]

TESTED = "2.8 to 2.15"

NAMES = {
    "TorchDispatchMode": "torch.utils._python_dispatch.TorchDispatchMode",
    "tree_flatten": "torch.utils._pytree.tree_flatten",
    "tree_leaves": "torch.utils._pytree.tree_leaves",
    "tree_map": "torch.utils._pytree.tree_map",
    "tree_unflatten": "torch.utils._pytree.tree_unflatten",
    "unseen": "torch.utils._python_dispatch._disable_current_modes",
    "functorch_level": "torch._C._functorch.maybe_current_level",
    "over_all_scores": "torch.nn.attention.flex_attention._vmap_for_bhqkv",
    "attention_in_parts": "torch._higher_order_ops.flex_attention.math_attention",
    "index_by_tensors": "torch._dynamo._trace_wrapped_higher_order_op.TransformGetItemToIndex",
    "scanned_by_pairs": "torch._higher_order_ops.associative_scan.generic_associative_scan",
    "next_sequence_number": "torch._C._autograd._get_sequence_nr",
    "running_node": "torch._C._current_autograd_node",
    "function_mode_is_on": "torch._C._is_torch_function_mode_enabled",
    "VF": "torch._VF",
    "DispatchKey": "torch._C.DispatchKey",
    "DispatchKeySet": "torch._C.DispatchKeySet",
    "include_key": "torch._C._IncludeDispatchKeyGuard",
    "exclude_keys": "torch._C._ExcludeDispatchKeyGuard",
    "key_is_excluded": "torch._C._dispatch_tls_is_dispatch_key_excluded",
    "set_key_excluded": "torch._C._dispatch_tls_set_dispatch_key_excluded",
    "registrations_for_key": "torch._C._dispatch_get_registrations_for_dispatch_key",
    "flash_attention": "torch.ops.aten._scaled_dot_product_flash_attention.default",
    "flash_attention_on_cpu": "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default",
    "cudnn_attention": "torch.ops.aten._scaled_dot_product_cudnn_attention.default",
    "efficient_attention": "torch.ops.aten._scaled_dot_product_efficient_attention.default",
    "scaled_product": "torch._scaled_mm",
    "compiler_config": "torch._dynamo.config",
    "fresh_compiler_cache": "torch._inductor.utils.fresh_cache",
    "NestedTensor": "torch.nested._internal.nested_tensor.NestedTensor",
    "EventType": "torch._C._profiler._EventType",
    "make_subclass": "torch.Tensor._make_subclass",
    "empty_quantized": "torch._empty_affine_quantized",
    "EXTRA_STATE": "torch.nn.modules.module._EXTRA_STATE_KEY_SUFFIX",
    "BatchNorm": "torch.nn.modules.batchnorm._BatchNorm",
    "ConvNd": "torch.nn.modules.conv._ConvNd",
    "DropoutNd": "torch.nn.modules.dropout._DropoutNd",
    "InstanceNorm": "torch.nn.modules.instancenorm._InstanceNorm",
    "NormBase": "torch.nn.modules.batchnorm._NormBase",
    "SpectralNorm": "torch.nn.utils.parametrizations._SpectralNorm",
    "batched_nms": "torchvision.ops.boxes._batched_nms_coordinate_trick",
    "FakeTensor": "torch._subclasses.fake_tensor.FakeTensor",
    "in_fake_kernel": "torch._subclasses.fake_tensor.in_kernel_invocation_manager",
    "FakeTensorMode": "torch._subclasses.fake_tensor.FakeTensorMode",
    "FakeStore": "torch.testing._internal.distributed.fake_pg.FakeStore",
    "FSDPParamGroup": "torch.distributed.fsdp._fully_shard._fsdp_param_group.FSDPParamGroup",
    "fsdp_parameters": "torch.distributed.fsdp._fully_shard._fsdp_param",
    "start_fsdp": "torch.distributed.fsdp._fully_shard._fsdp_state.FSDPState._lazy_init",
    "fsdp_state_of": "torch.distributed.fsdp.FSDPModule._get_fsdp_state",
    "ShardingPropagator": "torch.distributed.tensor._sharding_prop.ShardingPropagator",
    "has_kernel": "torch._C._dispatch_has_kernel_for_dispatch_key",
    "collectives_on_meta": "torch.distributed._tools.fake_collectives.functional_collectives",
    "rebuild_buckets": "torch._C._distributed_c10d.Reducer._rebuild_buckets",
    "group_by_name": "torch.distributed.distributed_c10d._resolve_process_group",
    "multiscale_roi_align": "torchvision.ops.poolers._multiscale_roi_align",
}
"""Functions, classes and constants: the name here, and where torch keeps it."""

MEMBERS = {
    "parameters_of": "torch.nn.Module._parameters",
    "buffers_of": "torch.nn.Module._buffers",
    "children_of": "torch.nn.Module._modules",
    "non_persistent_of": "torch.nn.Module._non_persistent_buffers_set",
    "pre_hooks_of": "torch.nn.Module._forward_pre_hooks",
    "forward_hooks_of": "torch.nn.Module._forward_hooks",
    "gradient_hooks_of": "torch.Tensor._backward_hooks",
    "accumulation_hooks_of": "torch.Tensor._post_accumulate_grad_hooks",
    "version_of": "torch.Tensor._version",
    "is_view": "torch.Tensor._is_view",
    "sparse_indices_of": "torch.Tensor._indices",
    "sparse_values_of": "torch.Tensor._values",
    "sequence_number_of": "torch.autograd.graph.Node._sequence_nr",
    "schema_of": "torch.library.OpOverload._schema",
    "unregister": "torch.library.Library._destroy",
    "compiled_from": "torch.compile(module)._orig_mod",
    "packed_of": "torch.ao.nn.quantized.Linear._packed_params",
    "packed_pair_of": "torch.ao.nn.quantized.Conv2d._weight_bias",
    "reduces": "torchvision.models.mobilenetv2.InvertedResidual._is_cn",
    "proposals_of": "torchvision.models.detection.rpn.RegionProposalNetwork._post_nms_top_n",
}
"""Attributes of an object: a function that reads it from the object, and the class that has it."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
FALLBACKS: dict[str, Any] = {
    # The public classes: a class of the user's own that is derived from the private one is not recognised.
    "BatchNorm": _NORMS,
    "InstanceNorm": _INSTANCE_NORMS,
    "NormBase": (*_NORMS, *_INSTANCE_NORMS),
    "DropoutNd": (
        nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
    ),
    "ConvNd": (
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    ),
    # The benchmark's row is then absent.
    "scaled_product": None,
    # The first call of a compiled row is then faster than that of a user, whose cache is empty.
    "fresh_compiler_cache": nullcontext,
    # What existing files contain.
    "EXTRA_STATE": "_extra_state",
    # Most objects have none of these: absence is an answer.
    "accumulation_hooks_of": None,
    "compiled_from": None,
    "packed_of": None,
    "packed_pair_of": None,
    "reduces": False,
}  # fmt: skip
"""What replaces a name that is gone; for a member, the value read from an object without it."""

COMPILED = "_orig_mod"
"""The part that torch.compile adds to the names of a module's state."""

FLEX_DEVICES = "_validate_device"
"""The function by which torch.nn.attention.flex_attention refuses a device."""
FLEX_UNCOMPILED = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"
"""The flag there (torch 2.9) by which it runs as it is, without advice to compile."""

STAGE_RELEASES = "_output_slot_is_releasable"
"""The method by which a stage of torch.distributed.pipelining (2.15) asks whether an output that was sent may
go."""

CHUNKS = "_chunk_with_empty"
"""The function of `fsdp_parameters` by which FSDP2 cuts a tensor into as many parts as there are ranks."""

_GONE = object()


def __getattr__(name: str) -> Any:
    if name == "DispatchMode":
        value: Any = _dispatch_mode()
    elif name in NAMES:
        value = _look_up(NAMES[name])
        if value is _GONE:
            value = FALLBACKS.get(name, _GONE)
        if value is _GONE:
            raise missing(NAMES[name])
    elif name in MEMBERS:
        value = _reader(MEMBERS[name], FALLBACKS.get(name, _GONE))
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _dispatch_mode() -> type:
    """A mode that torch (2.9 and later) does not wrap for the compiler's sake: the wrapper costs microseconds
    an operator, and imports the compiler. Nothing may be compiled under it."""
    base: Any = __getattr__("TorchDispatchMode")

    class DispatchMode(base):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False

    return DispatchMode


def prepare_collectives() -> None:
    """Let collectives run on tensors without values: torch 2.8 registers that only on this import."""
    import torch.distributed  # noqa: F401

    if not __getattr__("has_kernel")("c10d::allreduce_", "Meta"):
        __getattr__("collectives_on_meta")


def missing(path: str) -> InspectError:
    """The error for a private name that this torch does not have."""
    version = import_module(path.partition(".")[0]).__version__.partition("+")[0]
    return InspectError(
        f"this inspector needs {path}, which {path.partition('.')[0]} {version} does not have",
        f"install a torch that it is tested with ({TESTED}), or a newer inspector",
    )


def _look_up(path: str) -> Any:
    parts = path.split(".")
    value: Any = import_module(parts[0])
    for position, part in enumerate(parts[1:], 2):
        try:
            value = getattr(value, part)
        except AttributeError:
            try:
                value = import_module(".".join(parts[:position]))
            except ImportError:  # a function may hide the module of the same name
                value = getattr(sys.modules.get(".".join(parts[: position - 1])), part, _GONE)
                if value is _GONE:
                    return _GONE
    return value


def _reader(path: str, fallback: Any) -> Callable[[Any], Any]:
    attribute = path.rpartition(".")[2]

    def read(owner: Any) -> Any:
        try:
            return getattr(owner, attribute)
        except AttributeError:
            if fallback is _GONE:
                raise missing(path) from None
            return fallback

    return read
