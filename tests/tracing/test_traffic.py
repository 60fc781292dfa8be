"""Bytes read and written: each input once, each output once, float32 unless said."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

LONG = torch.int64


def bytes_of(counted):
    return counted.read, counted.written


def test_add_reads_two_and_writes_one(count, meta):
    assert bytes_of(count(torch.add, meta(2, 3), meta(2, 3))) == (2 * 24, 24)


def test_in_place_add_reads_both_and_writes_itself(count, meta):
    assert bytes_of(count(lambda x, y: x.add_(y), meta(2, 3), meta(2, 3))) == (2 * 24, 24)


def test_in_place_activation_reads_and_writes_itself(count, meta):
    assert bytes_of(count(lambda x: x.relu_(), meta(2, 3))) == (24, 24)


def test_result_put_into_a_given_tensor_does_not_read_it(count, meta):
    counted = count(lambda a, b, c: torch.add(a, b, out=c), meta(2, 3), meta(2, 3), meta(2, 3))
    assert bytes_of(counted) == (2 * 24, 24)


VIEWS = {
    "view": lambda x: x.view(3, 2),
    "transpose": lambda x: x.t(),
    "slice": lambda x: x[1:],
    "expand": lambda x: x[:1].expand(5, 3),
    "split": lambda x: x.split(1),
    "unsqueeze in place": lambda x: x.unsqueeze_(0),
    "contiguous already": lambda x: x.contiguous(),
    "detach": lambda x: x.detach(),
}


@pytest.mark.parametrize("case", VIEWS)
def test_view_moves_nothing(case, count, meta):
    counted = count(VIEWS[case], meta(2, 3))
    assert bytes_of(counted) == (0, 0)
    assert counted.pointwise == 0


def test_making_a_view_contiguous_copies_it(count, meta):
    assert bytes_of(count(lambda x: x.t().contiguous(), meta(2, 3))) == (24, 24)


def test_expanded_tensor_is_read_as_far_as_it_is_stored(count, meta):
    counted = count(lambda x, y: x.expand(5, 3) * y, meta(1, 3), meta(5, 3))
    assert bytes_of(counted) == (12 + 60, 60)


def test_tensor_times_itself_is_read_once(count, meta):
    assert bytes_of(count(lambda x: x * x, meta(2, 3))) == (24, 24)


def test_two_halves_of_one_tensor_are_both_read(count, meta):
    assert bytes_of(count(lambda x: x[:2] * x[2:], meta(4, 3))) == (2 * 24, 24)


def test_embedding_reads_only_the_rows_that_it_returns(count, meta):
    # 6 indices of 8 bytes, 6 rows of 4 floats; the table has 1000
    counted = count(F.embedding, meta(2, 3, dtype=LONG), meta(1000, 4))
    assert bytes_of(counted) == (6 * 8 + 6 * 16, 6 * 16)


def test_selecting_rows_reads_them_and_the_index(count, meta):
    counted = count(lambda x, i: x[i], meta(1000, 4), meta(3, dtype=LONG))
    assert bytes_of(counted) == (3 * 8 + 3 * 16, 3 * 16)


MADE = {
    "zeros": lambda x: torch.zeros(2, 3, device="meta"),
    "ones_like": lambda x: torch.ones_like(x),
    "fill in place": lambda x: x.fill_(1.0),
    "zero in place": lambda x: x.zero_(),
    "draw in place": lambda x: x.uniform_(),
    "new_zeros": lambda x: x.new_zeros(2, 3),
}


@pytest.mark.parametrize("case", MADE)
def test_filling_only_writes(case, count, meta):
    assert bytes_of(count(MADE[case], meta(2, 3))) == (0, 24)


def test_empty_memory_is_not_written(count, meta):
    assert bytes_of(count(lambda x: torch.empty_like(x), meta(2, 3))) == (0, 0)


def test_copy_reads_the_source_and_writes_the_destination(count, meta):
    counted = count(lambda x, y: x.copy_(y), meta(2, 3), meta(2, 3, dtype=torch.float64))
    assert bytes_of(counted) == (48, 24)


def test_conversion_reads_one_dtype_and_writes_another(count, meta):
    assert bytes_of(count(lambda x: x.half(), meta(2, 3))) == (24, 12)


def test_convolution_reads_input_weight_and_bias(count, meta):
    # 2 x 5 x 5, 3 x 2 x 3 x 3 and 3 read, 3 x 3 x 3 written
    counted = count(nn.Conv2d(2, 3, 3), meta(1, 2, 5, 5))
    assert bytes_of(counted) == (4 * (50 + 54 + 3), 4 * 27)


def test_max_pooling_writes_its_indices_too(count, meta):
    counted = count(lambda x: F.max_pool2d(x, 2), meta(1, 2, 4, 4))
    assert bytes_of(counted) == (4 * 32, 8 * (4 + 8))


def test_concatenation_reads_all_parts(count, meta):
    assert bytes_of(count(lambda a, b: torch.cat([a, b]), meta(2, 3), meta(1, 3))) == (36, 36)


def test_scatter_in_place_writes_only_its_source(count, meta):
    index, source = meta(1, 3, dtype=LONG), meta(1, 3)
    counted = count(lambda x, i, s: x.scatter_(0, i, s), meta(1000, 3), index, source)
    assert bytes_of(counted) == (3 * 8 + 12, 12)


def test_accumulating_scatter_in_place_also_reads_what_it_adds_to(count, meta):
    index, source = meta(1, 3, dtype=LONG), meta(1, 3)
    counted = count(lambda x, i, s: x.scatter_add_(0, i, s), meta(1000, 3), index, source)
    assert bytes_of(counted) == (3 * 8 + 12 + 12, 12)


def test_scatter_into_a_copy_reads_and_writes_the_whole_tensor(count, meta):
    index, source = meta(1, 3, dtype=LONG), meta(1, 3)
    counted = count(lambda x, i, s: x.scatter(0, i, s), meta(1000, 3), index, source)
    assert bytes_of(counted) == (12_000 + 3 * 8 + 12, 12_000)


def test_embedding_backward_writes_the_whole_table(count, meta):
    indices = meta(6, dtype=LONG)
    counted = count(F.embedding, indices, meta(1000, 4), phase="train", only="backward")
    assert bytes_of(counted) == (6 * 16 + 6 * 8, 1000 * 16)
