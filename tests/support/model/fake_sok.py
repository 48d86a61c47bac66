"""A stand-in for SOK 2.x that computes with TensorFlow's ops on the ranks of a test.

It returns what SOK's source says, and binds every call to the recorded signature first. Ids and
vectors travel through the cluster's `alltoall`, their gradients back through the same one.
"""

import functools
import types

import tensorflow as tf

from tests.support.model.sok_signatures import signature


def bound(name):
    """Makes a function reject calls that do not match the recorded signature."""
    expected = signature(name)

    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            expected.bind(*args, **kwargs)
            return function(*args, **kwargs)

        return call

    return decorate


def lookup_partitioned(cluster, param, keys):
    """Returns the vectors of keys: each key requests row key div N from rank key mod N."""
    owner = tf.cast(keys % cluster.size, tf.int32)
    order = tf.argsort(owner, stable=True)
    splits = tf.math.bincount(owner, minlength=cluster.size, maxlength=cluster.size)
    found, counts = cluster.alltoall(tf.gather(keys, order), splits, "fake_keys")
    vectors = tf.nn.embedding_lookup(param, found // cluster.size)
    vectors = exchange(cluster, vectors, counts, splits)
    return tf.gather(vectors, tf.math.invert_permutation(order))


def exchange(cluster, vectors, splits, back):
    """Sends vectors to the ranks; the gradient sends theirs back."""

    @tf.custom_gradient
    def send(values):
        received, _ = cluster.alltoall(values, splits, "fake_vectors")
        return received, lambda g: cluster.alltoall(tf.convert_to_tensor(g), back, "fake_back")[0]

    return send(vectors)


def module(cluster):
    """Returns a stand-in for the module `sparse_operation_kit` on one rank of a cluster."""
    owners = {}  # of each variable: the rank that holds it, -1 if its rows are partitioned

    @bound("Variable")
    def make_variable(*args, **kwargs):
        mode = kwargs.pop("mode", None) or "distributed"
        size, rank = cluster.size, cluster.rank
        if mode == "distributed":
            signature("DistributedVariable").bind(
                None, *args, **kwargs, global_gpu_id=rank, num_gpus=size
            )
            rows, width = kwargs["shape"]
            shape = (rows // size + (rank < rows % size), width)
            target = -1
        else:
            kind, target = mode.split(":")
            assert kind == "localized" and 0 <= int(target) < size
            target = int(target)
            signature("LocalizedVariable").bind(
                None, *args, **kwargs, global_gpu_id=rank, target_gpu=target
            )
            rows, width = kwargs["shape"]
            shape = (rows if rank == target else 0, width)
        initial = kwargs["initializer"](shape=shape, dtype=kwargs["dtype"])
        variable = tf.Variable(initial, name=kwargs["name"], dtype=kwargs["dtype"])
        owners[variable.ref()] = target
        return variable

    @bound("all2all_dense_embedding")
    def all2all_dense_embedding(param, indices):
        assert owners[param.ref()] == -1 and indices.dtype == tf.int64
        return lookup_partitioned(cluster, param, indices)

    @bound("lookup_sparse")
    def lookup_sparse(params, sp_ids, sp_weights=None, combiners=None):
        assert sp_weights is None and combiners == ["sum"] * len(params) == ["sum"] * len(sp_ids)
        targets = [owners[param.ref()] for param in params]
        assert set(targets) == set(range(cluster.size)), "every gpu must have table!"
        found = []
        for param, ragged, target in zip(params, sp_ids, targets):
            ids, size = ragged.values, tf.size(ragged.values)
            splits = tf.one_hot(target, cluster.size, on_value=size, off_value=0)
            asked, counts = cluster.alltoall(ids, splits, "fake_ids")
            vectors = exchange(cluster, tf.nn.embedding_lookup(param, asked), counts, splits)
            found.append(tf.math.segment_sum(vectors, ragged.value_rowids()))
        return found

    return types.SimpleNamespace(
        Variable=make_variable,
        all2all_dense_embedding=all2all_dense_embedding,
        lookup_sparse=lookup_sparse,
        init=bound("init")(lambda **_: None),
        __version__="2.1.0",
    )
