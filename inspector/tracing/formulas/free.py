"""Operators that do no arithmetic: they make, move, select or draw elements.

Views are not listed: the schema of an operator tells them. Drawing random numbers is not counted
as arithmetic.
"""

from __future__ import annotations

from typing import Any

from inspector.tracing.formulas.registry import FREE, Cost, formula

NAMES = """
    _assert_async _assert_scalar _assert_tensor_metadata _chunk_cat _conj_copy _copy_from
    _copy_from_and_resize _cudnn_init_dropout_state _cudnn_rnn_flatten_weight _efficientzerotensor
    _foreach_copy _foreach_zero _functional_assert_async _functional_assert_scalar
    _functional_sym_constrain_range _functional_sym_constrain_range_for_size _has_same_storage_numel
    _jagged_to_padded_dense_forward _linalg_check_errors _local_scalar_dense _make_dual
    _make_per_channel_quantized_tensor _make_per_tensor_quantized_tensor _nested_from_padded
    _nested_get_lengths _nested_get_offsets _nested_get_values _nested_tensor_from_mask
    _nested_tensor_from_tensor_list _nested_tensor_size _nested_tensor_storage_offsets
    _nested_tensor_strides _nested_view_from_buffer _nested_view_from_buffer_copy
    _pack_padded_sequence _pad_packed_sequence _padded_dense_to_jagged_forward _pin_memory _print
    _reshape_alias_copy _reshape_copy _resize_output _sample_dirichlet _shape_as_tensor
    _sobol_engine_draw _standard_gamma _to_copy _unsafe_index _unsafe_view _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d _use_cudnn_rnn_flatten_weight alias arange
    as_strided as_strided_copy as_strided_scatter atleast_1d bernoulli binomial block_diag
    broadcast_to cat cauchy channel_shuffle chunk clone complex constant_pad_nd contiguous copy
    detach diag diag_embed diagonal diagonal_backward diagonal_scatter embedding empty empty_like
    empty_permuted empty_quantized empty_strided expand_copy exponential eye fill fill_diagonal flip
    full full_like gather geometric hstack im2col imag index index_copy index_fill index_select
    int_repr is_nonzero is_pinned is_same_size is_set_to item lift lift_fresh lift_fresh_copy
    linspace log_normal logspace lu_unpack masked_scatter masked_scatter_backward masked_select
    max_unpool2d max_unpool3d meshgrid multinomial narrow_copy native_channel_shuffle
    nested_to_padded_tensor new_empty new_empty_strided new_full new_ones new_zeros nonzero
    nonzero_static normal normal_functional one_hot ones ones_like permute_copy pin_memory
    pixel_shuffle pixel_unshuffle poisson put q_scale q_zero_point rand rand_like randint
    randint_like randn randn_like random randperm real record_stream reflection_pad1d
    reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d resize resolve_conj resolve_neg roll rot90 scalar_tensor scatter
    select_backward select_copy select_scatter set slice_backward slice_copy slice_scatter split
    split_copy split_with_sizes split_with_sizes_copy squeeze_copy stack sym_constrain_range
    sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride
    t_copy take tensor_split to to_padded_tensor transpose_copy tril tril_indices triu triu_indices
    unbind_copy unfold_backward unfold_copy uniform unsafe_chunk unsafe_split
    unsafe_split_with_sizes unsqueeze_copy upsample_nearest1d upsample_nearest2d upsample_nearest3d
    values view_as_complex_copy view_as_real_copy view_copy vstack zero zeros zeros_like
"""


def free(out: Any, *_: Any, **__: Any) -> Cost:
    return FREE


for _name in NAMES.split():
    formula(f"aten.{_name}")(free)
for _name in """
    prim.device prims.convert_element_type prims.device_put profiler._record_function_enter_new
    profiler._record_function_exit quantized.cat quantized.conv2d_prepack quantized.linear_prepack
""".split():
    formula(_name)(free)


@formula("aten.col2im")
def col2im(out: Any, x: Any, *_: Any, **__: Any) -> Cost:
    """nn.Fold adds up overlapping blocks: one addition for each element of the columns."""
    return Cost(0, x.numel)
