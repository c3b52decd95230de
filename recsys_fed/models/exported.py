"""The released model for other people's software: an ONNX graph, a faiss index, a Parquet table.

All of it is post-processing of what was released: it costs no budget, and holds nothing of any user. In each of the
three an item is a row of the catalogue.

    .onnx       fold-in and scores: a history goes in, scores and a list come out, as `Recommender.recommend` has them
    .faiss      the rows (v_i, b_i) as an `IndexFlatIP`, whose inner product with (u, 1) is the score v_i u + b_i
    .parquet    a row an item: id, title, vector, bias, weight in a history; in its metadata the fold-in
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import ConfigurationError
from recsys_fed.files import write_whole
from recsys_fed.models.items import ItemEmbeddings, gramian_of, item_embeddings_bytes
from recsys_fed.signing import sha256
from recsys_fed.versions import import_extra

_IR_VERSION, _OPSET = 9, 18


def export_model(model: ItemEmbeddings, catalogue: Catalogue, path: Path) -> None:
    """Write a model in the format that the ending of the path names; the file appears whole or not at all.

    ONNX: see `_GRAPH` for the inputs and outputs. Times of interactions are no input, so a half-life in days does not
    count, as in `Recommender`. The metadata of ONNX and Parquet hold the catalogue's hash and the SHA-256 of the
    model that the certificates name.

    Raises:
        ConfigurationError: another ending.
        MissingExtraError: onnx or faiss is not installed.
    """
    writers: dict[str, Callable[[ItemEmbeddings, Catalogue], bytes]] = {
        ".onnx": _onnx_bytes,
        ".faiss": _faiss_bytes,
        ".parquet": _parquet_bytes,
    }
    if path.suffix not in writers:
        raise ConfigurationError(f"Expected a file that ends in {', '.join(writers)}, got {path}.")
    write_whole(path, writers[path.suffix](model, catalogue))


def _origin(model: ItemEmbeddings) -> dict[str, str]:
    return {"catalogue_hash": model.catalogue_hash, "model_sha256": sha256(item_embeddings_bytes(model))}


def _parquet_bytes(model: ItemEmbeddings, catalogue: Catalogue) -> bytes:
    values = pa.array(model.vectors.numpy().ravel())
    columns = {
        "item": pa.array(catalogue.item_ids.tolist(), pa.string()),
        **({"title": pa.array(catalogue.titles, pa.string())} if catalogue.titles is not None else {}),
        "vector": pa.FixedSizeListArray.from_arrays(values, model.embedding_dim),
        "bias": pa.array(model.bias.numpy()),
        "history_weight": pa.array(model.history_weights.numpy()),
    }
    metadata = {**_origin(model), "fold_in": json.dumps(model.fold_in.record(), sort_keys=True)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), sink)
    return bytes(sink.getvalue())


def _faiss_bytes(model: ItemEmbeddings, _: Catalogue) -> bytes:
    faiss = import_extra("faiss")
    index = faiss.IndexFlatIP(model.embedding_dim + 1)
    index.add(np.column_stack((model.vectors.numpy(), model.bias.numpy())))
    return bytes(faiss.serialize_index(index))


# history         int64 [users, length]: rows of items, the newest last; -1 is no item. Of equal ones the last counts.
# ratings         of a model of ratings: float32 [users, length], NaN where there is none.
# k               int64 [1]: length of the list.
# all_scores      float32 [users, items], -inf for what is in the history.
# items, scores   the k best rows, int64 [users, k], and their scores; at -inf stand rows beyond the end of a list.
_GRAPH = """
<ir_version: {ir}, opset_import: ["": {opset}], producer_name: "recsys-fed">
scorer (int64[users, length] history, {ratings_input} int64[1] k)
    => (int64[users, listed] items, float[users, listed] scores, float[users, {n_items}] all_scores)
{{
    there = GreaterOrEqual(history, none)
    earlier = Unsqueeze(history, two)
    later = Unsqueeze(history, one)
    same = Equal(earlier, later)
    equals = Cast<to = 1>(same)
    after = Trilu<upper = 1>(equals, first)
    repeats = ReduceSum<keepdims = 0>(after, two)
    last = Equal(repeats, zero)
    each = And(there, last)
    {rated}
    ones = Cast<to = 1>(counted)
    rows = Max(history, none)
    vectors_of = Gather(vectors, rows)
    weights_of = Gather(history_weights, rows)
    present = Mul(weights_of, ones)
    {aged}
    {fold_in}
    every = Gemm<transB = 1>(user, vectors, bias)
    hidden = Where(there, lowest, highest)
    all_scores = ScatterElements<axis = 1, reduction = "min">(every, rows, hidden)
    length_of_list = Min(k, n_items)
    scores, items = TopK(all_scores, length_of_list)
}}
"""
_RATED = """
    unrated = IsNaN(ratings)
    known = Not(unrated)
    counted = And(each, known)
"""
# 2^(-age / half-life), age the number of later interactions
_AGED = """
    age = CumSum<exclusive = 1, reverse = 1>(ones, second_axis)
    halvings = Div(age, minus_half_life)
    decay = Pow(base, halvings)
    weight = Mul(present, decay)
"""
# u = sum w v / ||w||
_PROJECTION = """
    weight_row = Unsqueeze(weight, one)
    sums = MatMul(weight_row, vectors_of)
    projected = Squeeze(sums, one)
    squares = Mul(weight, weight)
    square = ReduceSum<keepdims = 1>(squares, one)
    norm = Sqrt(square)
    divisor = Max(norm, tiny)
    user = Div(projected, divisor)
"""
# [A | b] with A = sum w v v^T + shared, b = sum w target v, reduced to [I | A^-1 b] by Gauss and Jordan in double
# precision: A is positive definite, so that no pivot has to be looked for. Users without a finite solution get zeros.
_NORMAL_EQUATIONS = """
    v = Cast<to = 11>(vectors_of)
    w = Cast<to = 11>(weight)
    w_column = Unsqueeze(w, two)
    weighted = Mul(v, w_column)
    transposed = Transpose<perm = [0, 2, 1]>(weighted)
    products = MatMul(transposed, v)
    matrix = Add(products, shared)
    {targets}
    right = MatMul(transposed, target)
    begun = Concat<axis = 2>(matrix, right)
    solved = Loop<body = eliminate (int64 column, bool go_on, double[users, dim, wide] now)
        => (bool goes_on, double[users, dim, wide] next)
    {{
        goes_on = Identity(go_on)
        row = Gather<axis = 1>(now, column)
        column_of = Gather<axis = 2>(now, column)
        pivot = Gather<axis = 1>(column_of, column)
        pivots = Unsqueeze(pivot, one)
        scaled = Div(row, pivots)
        unit = Gather(identity, column)
        change = Sub(column_of, unit)
        left_factor = Unsqueeze(change, two)
        right_factor = Unsqueeze(scaled, one)
        outer = MatMul(left_factor, right_factor)
        next = Sub(now, outer)
    }}>(dim, yes, begun)
    solution = Gather<axis = 2>(solved, dim)
    narrow = Cast<to = 1>(solution)
    zeros = Mul(narrow, zero)
    defect = ReduceSum<keepdims = 1>(zeros, one)
    finite = Equal(defect, zero)
    user = Where(finite, narrow, zero)
"""
# r_i - b_i; zero where there is none, whose weight is zero, too
_RATING_TARGETS = """
    levels = Gather(bias, rows)
    residuals = Sub(ratings, levels)
    aims = Where(counted, residuals, zero)
    wide_aims = Cast<to = 11>(aims)
    target = Unsqueeze(wide_aims, two)
"""
_ONE_TARGETS = """
    all_ones = Cast<to = 11>(ones)
    target = Unsqueeze(all_ones, two)
"""


def _onnx_bytes(model: ItemEmbeddings, catalogue: Catalogue) -> bytes:
    onnx = import_extra("onnx")
    import_extra("onnx.parser")
    how = model.fold_in
    rated = how.kind == "ratings"
    equations = _NORMAL_EQUATIONS.format(targets=_RATING_TARGETS if rated else _ONE_TARGETS)
    text = _GRAPH.format(
        ir=_IR_VERSION,
        opset=_OPSET,
        n_items=model.n_items,
        ratings_input="float[users, length] ratings," if rated else "",
        rated=_RATED if rated else "counted = Identity(each)",
        aged=_AGED if how.half_life else "weight = Identity(present)",
        fold_in=_PROJECTION if how.kind == "projection" else equations,
    )
    made, words = onnx.parser.parse_model(text), set(re.findall(r"\w+", text))
    tables = ((name, table) for name, table in _constants(model).items() if name in words)
    made.graph.initializer.extend(onnx.numpy_helper.from_array(table, name) for name, table in tables)
    origin = {**_origin(model), "items": json.dumps(catalogue.item_ids.tolist())}
    onnx.helper.set_model_props(made, origin)
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def _constants(model: ItemEmbeddings) -> dict[str, Any]:
    """Constants of all graphs by name."""
    how, dim = model.fold_in, model.embedding_dim
    shared = how.regularization * np.eye(dim)
    if how.kind == "ridge":
        shared += how.unobserved_weight * gramian_of(model.vectors).numpy()
    single = {
        "zero": 0.0,
        "base": 2.0,
        "tiny": float(np.finfo(np.float32).tiny),
        "lowest": -np.inf,
        "highest": np.inf,
    }
    return {
        "vectors": model.vectors.numpy(),
        "bias": model.bias.numpy(),
        "history_weights": model.history_weights.numpy(),
        "n_items": np.array([model.n_items]),
        "none": np.array(0),
        "first": np.array(1),
        "second_axis": np.array(1),
        "one": np.array([1]),
        "two": np.array([2]),
        "minus_half_life": np.float32(-how.half_life),
        "shared": shared,
        "identity": np.eye(dim),
        "dim": np.array(dim),
        "yes": np.array(True),
        **{name: np.float32(value) for name, value in single.items()},
    }
