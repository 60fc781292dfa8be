"""FLOPs of regions, scatters, order, Fourier transforms and fake quantisation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import nms, roi_align

LONG = torch.int64


# Regions.


def test_roi_align_averages_bilinear_samples(count, meta):
    def align(x, boxes):
        return roi_align(x, boxes, 2, sampling_ratio=2)

    # 4 boxes, 3 channels, 2 x 2 outputs: 2 x 2 samples of 7 and an addition
    assert count(align, meta(1, 3, 8, 8), meta(4, 5)).pointwise == 48 * 4 * 8
    boxes = meta(4, 5)
    backward = count(lambda x: align(x, boxes), meta(1, 3, 8, 8), phase="train", only="backward")
    assert backward.pointwise == 48 * 4 * 8


def test_nms_compares_all_pairs_of_boxes_after_sorting(count):
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [3, 3, 4, 4], [0, 0, 3, 3]])
    counted = count(lambda b, s: nms(b, s, 0.5), boxes, torch.rand(4), device="cpu")
    assert counted.pointwise == 13 * 6 + 4 * 2  # 6 pairs; 4 log2 4


# Scatters and selections.


def test_embedding_selects_and_its_backward_adds(count, meta):
    indices = meta(2, 3, dtype=LONG)
    assert count(F.embedding, indices, meta(7, 4)).pointwise == 0
    backward = count(F.embedding, indices, meta(7, 4), phase="train", only="backward")
    assert backward.pointwise == 6 * 4


def test_embedding_bag_adds_each_row_that_it_reads(count, meta):
    bag = count(lambda i, w: F.embedding_bag(i, w, mode="sum"), meta(2, 3, dtype=LONG), meta(7, 4))
    assert bag.pointwise == 6 * 4


@pytest.mark.parametrize(
    ("options", "forward", "backward"),
    [
        # 6 rows of 4 are added, and so are their gradients
        ({"mode": "sum"}, 24, 24),
        ({"mode": "sum", "scale_grad_by_freq": True}, 24, 24 + 24),
        # 2 bags of 4 are divided
        ({"mode": "mean"}, 24 + 8, 24 + 8),
        # 24 comparisons; each of 2x4 gradients goes to one row
        ({"mode": "max"}, 24, 8),
        # each row is multiplied; 6 dot products of 4 for the gradients of the weights, 2 FLOPs an element
        ({"mode": "sum", "weights": True}, 24 + 24, 24 + 24 + 2 * 24),
    ],
)
def test_embedding_bag_counts_what_its_mode_and_weights_ask_for(count, meta, options, forward, backward):
    weighted = "weights" in options
    mode = {name: value for name, value in options.items() if name != "weights"}

    def bag(indices, table, weights):
        return F.embedding_bag(indices, table, **mode, per_sample_weights=weights if weighted else None)

    tensors = meta(2, 3, dtype=LONG), meta(7, 4), meta(2, 3)
    assert count(bag, *tensors).pointwise == forward
    assert count(bag, *tensors, phase="train", only="backward").pointwise == backward


def test_scatter_add_adds_as_many_elements_as_it_has_indices(count, meta):
    def scatter(x, index, source):
        return x.scatter_add(0, index, source)

    counted = count(scatter, meta(4, 3), meta(2, 3, dtype=LONG), meta(5, 3))
    assert counted.pointwise == 6


def test_index_add_adds_its_source(count, meta):
    counted = count(lambda x, i, s: x.index_add(0, i, s), meta(4, 3), meta(2, dtype=LONG), meta(2, 3))
    assert counted.pointwise == 6


def test_indexed_assignment_adds_only_where_it_accumulates(count, meta):
    index = meta(2, dtype=LONG)
    for accumulate, expected in ((True, 6), (False, 0)):
        counted = count(lambda x, i, v, a=accumulate: x.index_put((i,), v, a), meta(4, 3), index, meta(2, 3))
        assert counted.pointwise == expected


MOVES = {
    "pad": lambda x: F.pad(x, (1, 1)),
    "reflect": lambda x: F.pad(x, (1, 1), mode="reflect"),
    "cat": lambda x: torch.cat([x, x]),
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 0),
    "gather": lambda x: x.gather(1, torch.zeros(2, 2, dtype=LONG, device="meta")),
    "repeat": lambda x: x.repeat(2, 2),
    "to half": lambda x: x.half(),
    "draw": lambda x: torch.randn_like(x),
    "triangle": lambda x: x.tril(),
    "transpose and copy": lambda x: x.t().contiguous(),
}


@pytest.mark.parametrize("case", MOVES)
def test_moving_and_drawing_elements_is_no_arithmetic(case, count, meta):
    counted = count(MOVES[case], meta(2, 5))
    assert (counted.macs, counted.pointwise, counted.activations) == (0, 0, 0)


def test_fold_adds_its_blocks_and_unfold_copies_them(count, meta):
    # 9 blocks of 2 x 2 in 2 channels
    assert count(lambda x: F.fold(x, (4, 4), 2), meta(1, 8, 9)).pointwise == 8 * 9
    assert count(lambda x: F.unfold(x, 2), meta(1, 2, 4, 4)).pointwise == 0


# Order: n log2 n comparisons along the dimension.

SORTS = {
    # 20 elements; log2 of 5 is 3 rounded up, of 4 it is 2
    "rows": (lambda x: torch.sort(x, 0), 20 * 3),
    "columns": (torch.sort, 20 * 2),
    "stable": (lambda x: torch.sort(x, dim=0, stable=True), 20 * 3),
    "indices": (lambda x: torch.argsort(x, 0), 20 * 3),
    "top three": (lambda x: torch.topk(x, 3), 20 * 2),
    "top one": (lambda x: torch.topk(x, 1), 20),
    "first dimension": (torch.msort, 20 * 3),
    # 7 boundaries tell 8 places apart
    "buckets": (lambda x: torch.bucketize(x, torch.empty(7, device="meta")), 20 * 3),
    "search": (lambda x: torch.searchsorted(torch.empty(7, device="meta"), x), 20 * 3),
}


@pytest.mark.parametrize("case", SORTS)
def test_order_counts_comparisons_along_its_dimension(case, count, meta):
    function, expected = SORTS[case]
    assert count(function, meta(5, 4)).pointwise == expected


def test_unique_sorts_all_elements_or_slices(price):
    assert price("aten._unique2", [(20,)], (5, 4)).pointwise == 20 * 5  # log2 20 rounded up
    assert price("aten.unique_dim", [(5, 4)], (5, 4), 1).pointwise == 20 * 2


# Fourier transforms: 5 N log2 N, real data half.

TRANSFORMS = {
    # name: (function, shape, complex, FLOPs)
    "complex": (torch.fft.fft, (2, 8), True, 2 * 5 * 8 * 3),
    "inverse": (torch.fft.ifft, (2, 8), True, 2 * 5 * 8 * 3),
    "along rows": (lambda x: torch.fft.fft(x, dim=0), (2, 8), True, 8 * 5 * 2 * 1),
    "two dimensions": (torch.fft.fft2, (2, 4, 8), True, 2 * 5 * 32 * 5),
    "real": (torch.fft.rfft, (2, 8), False, 240 // 2),
    "real, both halves": (torch.fft.fft, (2, 8), False, 240 // 2),
    "real, two dimensions": (torch.fft.rfft2, (2, 4, 8), False, 1600 // 2),
    "to real": (torch.fft.irfft, (2, 5), True, 240 // 2),
}


@pytest.mark.parametrize("case", TRANSFORMS)
def test_fourier_transform_takes_five_n_log_n(case, count, meta):
    function, shape, is_complex, expected = TRANSFORMS[case]
    x = meta(*shape, dtype=torch.complex64 if is_complex else torch.float32)
    assert count(function, x).pointwise == expected


def test_fake_quantisation_goes_there_and_back(count):
    # scale, round, shift, two bounds, shift, scale
    def quantise(x):
        return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255)

    counted = count(quantise, torch.rand(2, 5), device="cpu")  # no kernel on meta
    assert counted.pointwise == 7 * 10


def test_trace_adds_the_diagonal(count, meta):
    assert count(torch.trace, meta(5, 4)).pointwise == 4


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_backward_adds_what_was_copied(mode, count, meta):
    def pad(x):
        return F.pad(x, (1, 1), mode=mode)

    counted = count(pad, meta(1, 2, 5), phase="train", only="backward")
    assert counted.pointwise == 2 * 7


def test_renormalised_embedding_scales_the_rows_that_it_reads(price):
    # 3 rows of 4: power and sum, and a factor
    assert price("aten.embedding_renorm", (7, 4), (7, 4), (3,), 1.0, 2.0).pointwise == 3 * 12


KERNELS = {
    # name: (arguments, FLOPs for each of 24 elements)
    "aten.cudnn_batch_norm": (((2, 3, 4), (3,), (3,), (3,), (3,), True, 0.1, 1e-5), 5),
    "aten.miopen_batch_norm": (((2, 3, 4), (3,), (3,), (3,), (3,), False, 0.1, 1e-5), 2),
    "aten._batch_norm_with_update": (((2, 3, 4), (3,), (3,), (3,), (3,), 0.1, 1e-5), 5),
    "aten._batch_norm_no_update": (((2, 3, 4), None, None, (3,), (3,), 0.1, 1e-5), 1),
    "aten.cudnn_batch_norm_backward": (((2, 3, 4), (2, 3, 4), (3,)), 13),
    "aten._safe_softmax": (((2, 3, 4), -1), 5),
    "aten._weight_norm_interface_backward": (((2, 3, 4), (2, 3, 4), (2, 1, 1), (2, 1, 1), 0), 5),
    "aten.quantize_per_tensor": (((2, 3, 4), 0.1, 0, "quint8"), 4),  # scale, round, shift, clamp
    "aten.dequantize": (((2, 3, 4),), 2),  # shift, scale
    "quantized.cat": (([(1, 3, 4), (1, 3, 4)], 0, None, None), 0),
    "quantized.add": (((2, 3, 4), (2, 3, 4), 0.1, 0), 1),
    "quantized.add_relu": (((2, 3, 4), (2, 3, 4), 0.1, 0), 2),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_of_one_device_costs_what_its_definition_does(name, price):
    arguments, each = KERNELS[name]
    assert price(name, (2, 3, 4), *arguments) == (0, each * 24, 0)


def test_quantised_convolution_requantises_each_output(price):
    cost = price("quantized.conv2d", (1, 3, 5, 5), (1, 2, 7, 7), (3, 2, 3, 3))
    assert cost == (75 * 18, 75, 75)
