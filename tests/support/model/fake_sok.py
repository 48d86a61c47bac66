"""Stand-ins for SOK 2.x and 1.x: the recorded signatures, TensorFlow's ops, a test's ranks.

What they return is what SOK's source says; every call is bound to the real signature first. Ids
and vectors travel through the cluster's `alltoall`, their gradients through the same one back.
"""

import functools
import types

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import ResourceVariable, variable_accessed

from tests.support.model.sok_signatures import signature


def bound(api, name, method=False):
    """Makes a function reject calls that do not fit the recorded signature."""
    expected = signature(api, name)

    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            expected.bind(*((None, *args) if method else args), **kwargs)
            return function(*args, **kwargs)

        return call

    return decorate


def deal(cluster, lookup, keys):
    """Returns the vectors of keys: each asks rank key mod N for row key div N."""
    owner = tf.cast(keys % cluster.size, tf.int32)
    order = tf.argsort(owner, stable=True)
    splits = tf.math.bincount(owner, minlength=cluster.size, maxlength=cluster.size)
    found, counts = cluster.alltoall(tf.gather(keys, order), splits, "fake_keys")
    vectors = travel(cluster, lookup(found // cluster.size), counts, splits)
    return tf.gather(vectors, tf.math.invert_permutation(order))


def travel(cluster, vectors, splits, back):
    """Sends vectors to the ranks, and their gradients back."""

    @tf.custom_gradient
    def send(values):
        received, _ = cluster.alltoall(values, splits, "fake_vectors")
        return received, lambda g: cluster.alltoall(tf.convert_to_tensor(g), back, "fake_back")[0]

    return send(vectors)


def sok2(cluster):
    """Returns a module-like SOK 2.x for one rank of a cluster."""
    places = {}

    @bound("2", "Variable")
    def make_variable(*args, **kwargs):
        mode = kwargs.pop("mode", None) or "distributed"
        size, rank = cluster.size, cluster.rank
        if mode == "distributed":
            signature("2", "DistributedVariable").bind(
                None, *args, **kwargs, global_gpu_id=rank, num_gpus=size
            )
            rows, width = kwargs["shape"]
            shape = (rows // size + (rank < rows % size), width)
            target = -1
        else:
            kind, target = mode.split(":")
            assert kind == "localized" and 0 <= int(target) < size
            target = int(target)
            signature("2", "LocalizedVariable").bind(
                None, *args, **kwargs, global_gpu_id=rank, target_gpu=target
            )
            rows, width = kwargs["shape"]
            shape = (rows if rank == target else 0, width)
        initial = kwargs["initializer"](shape=shape, dtype=kwargs["dtype"])
        variable = tf.Variable(initial, name=kwargs["name"], dtype=kwargs["dtype"])
        places[variable.ref()] = target
        return variable

    @bound("2", "all2all_dense_embedding")
    def all2all_dense_embedding(param, indices):
        assert places[param.ref()] == -1 and indices.dtype == tf.int64
        return deal(cluster, functools.partial(tf.nn.embedding_lookup, param), indices)

    @bound("2", "lookup_sparse")
    def lookup_sparse(params, sp_ids, sp_weights=None, combiners=None):
        assert sp_weights is None and combiners == ["sum"] * len(params) == ["sum"] * len(sp_ids)
        targets = [places[param.ref()] for param in params]
        assert set(targets) == set(range(cluster.size)), "every gpu must have table!"
        found = []
        for param, ragged, target in zip(params, sp_ids, targets):
            ids, size = ragged.values, tf.size(ragged.values)
            splits = tf.one_hot(target, cluster.size, on_value=size, off_value=0)
            asked, counts = cluster.alltoall(ids, splits, "fake_ids")
            vectors = travel(cluster, tf.nn.embedding_lookup(param, asked), counts, splits)
            found.append(tf.math.segment_sum(vectors, ragged.value_rowids()))
        return found

    return types.SimpleNamespace(
        Variable=make_variable,
        all2all_dense_embedding=all2all_dense_embedding,
        lookup_sparse=lookup_sparse,
        init=bound("2", "init")(lambda **_: None),
        __version__="2.1.0",
    )


class Sok1Variable(ResourceVariable):
    """Like SOK 1.x's EmbeddingVariable: its rows are reached under another handle than its own."""

    def __init__(self, shape):
        super().__init__(np.full((1, 1), np.nan, np.float32), name="sok1", trainable=True)
        self.rows = tf.Variable(tf.zeros(shape), trainable=False)
        self.own_handle = self._handle

    @property
    def shape(self):
        return self.rows.shape


def sok1(cluster):
    """Returns a module-like SOK 1.x for one rank of a cluster."""

    class All2AllDenseEmbedding:
        @bound("1", "All2AllDenseEmbedding", method=False)
        def __init__(
            self, *, dtype, dynamic_input, use_hashtable, slot_num, nnz_per_slot, **options
        ):
            assert dynamic_input and not use_hashtable and slot_num >= 1 and nnz_per_slot == 1
            assert options["key_dtype"] == tf.int64
            self._half = {"mixed_float16": True, "float32": False}[dtype]
            self.embedding_variable = Sok1Variable(
                (options["max_vocabulary_size_per_gpu"], options["embedding_vec_size"])
            )

        @bound("1", "All2AllDenseEmbedding.call", method=False)
        def __call__(self, inputs, training):
            variable = self.embedding_variable
            variable_accessed(variable)

            def lookup(rows):
                @tf.custom_gradient
                def gather(handle, rows):
                    vectors = tf.gather(variable.rows, rows)

                    def gradient(g):
                        values = tf.cast(g, tf.float32)
                        return tf.IndexedSlices(values, rows, tf.shape(variable.rows)), None

                    return tf.cast(vectors, tf.float16) if self._half else vectors, gradient

                return gather(variable.handle, rows)

            return deal(cluster, lookup, inputs)

    class OptimizerScope:
        @bound("1", "OptimizerScope", method=False)
        def __init__(self, variables):
            assert isinstance(variables, list)
            self._variables = variables

        def __enter__(self):
            for variable in self._variables:
                variable._handle = variable.rows.handle

        def __exit__(self, *error):
            for variable in self._variables:
                variable._handle = variable.own_handle

    return types.SimpleNamespace(
        Init=bound("1", "Init")(lambda **_: None),
        All2AllDenseEmbedding=All2AllDenseEmbedding,
        OptimizerScope=OptimizerScope,
        __version__="1.3.0",
    )
