"""Calls a session fast: what the predictor and FastPredict have in common.

What makes it fast, where the graph and the caller's config leave it open (`tuned`):

- A callable, made once, does what `tf.Session.run` does anew in each call: 230 us become 22.
- Operations run in the thread that calls instead of being handed to TensorFlow's pool, in TensorFlow's
  single-threaded executor: 22 us become 13. A large operation still uses all cores, but parallel branches
  of a graph run one after the other: for a model with several branches of a millisecond or more, pass a
  config with `inter_op_parallelism_threads` set.
- Operations aren't fused (`RewriterConfig.remapping` off): 13 us become 6, since oneDNN prepares a fused
  matrix product anew in each call.

The graph that runs is the graph that was loaded, and what is fetched is what `tf.Session.run` fetches. Two
differences to its answers are left. In the thread that calls, arithmetic is exact below 1.2e-38 (float32),
where TensorFlow's own threads take numbers for 0. And where `tf.Session.run` fuses a matrix product with
tanh, gelu or another smooth activation, it computes that by an approximation of oneDNN's own, which
differs by up to 3e-7 of the largest value.
"""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from typing import Callable, Optional, Sequence, TypeVar

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf import message
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

from estimator_inference import _private_api
from estimator_inference.feeds import Feed

T = TypeVar('T')

# What may wait for something that another call or thread does, or runs Python, which a signal may interrupt.
_WAITS = re.compile('PyFunc|Queue|[Ss]tage|Barrier|Accumulator|Iterator|BatchFunction')
# What the single-threaded executor refuses: control flow of TensorFlow 1.x, and variables with references.
_OLD = re.compile('(Ref)?(Switch|Merge|Enter|Exit|NextIteration)|(Temporary)?Variable(V2)?')


def open_session(
    open_with: Callable[[config_pb2.ConfigProto], T],
    graph: tf.Graph,
    config: Optional[config_pb2.ConfigProto],
) -> T:
    """Returns what `open_with` returns for the config with which a session for this graph is fastest.

    Args:
      open_with: A function that makes a session with a config, restores its variables, and makes a callable.
      graph: The graph, as it will be run.
      config: The config of the caller; see `tuned`.
    """
    config = tuned(graph, config)
    try:
        return open_with(config)
    except tf.errors.OpError as error:
        if not is_refused(error):
            raise
    config.experimental.executor_type = ''
    return open_with(config)


def is_refused(error: Exception) -> bool:
    """Whether the single-threaded executor refuses a graph: XLA, for one, adds control flow as it runs."""
    return 'Single-threaded executor does not support' in str(error)


def tuned(
    graph: tf.Graph, config: Optional[config_pb2.ConfigProto] = None
) -> config_pb2.ConfigProto:
    """Returns a session config for low latency: what `config` leaves open is tuned, and what it sets stays.

    Default: the config that a `tf.Session` without one has, which `tf.config` rules.
    """
    copy = config_pb2.ConfigProto()
    copy.CopyFrom(_private_api.default_config() if config is None else config)
    rewrites = copy.graph_options.rewrite_options
    rewrites.remapping = rewrites.remapping or rewriter_config_pb2.RewriterConfig.OFF
    types = _operation_types(graph)
    # In the thread that calls, nothing times out.
    if (
        copy.inter_op_parallelism_threads == 0
        and not copy.session_inter_op_thread_pool
        and not copy.operation_timeout_in_ms
        and not any(map(_WAITS.search, types))
    ):
        copy.inter_op_parallelism_threads = -1
        if (
            not copy.experimental.executor_type
            and not any(map(_OLD.fullmatch, types))
            and _is_on_one_device(graph, copy)
        ):
            copy.experimental.executor_type = 'SINGLE_THREADED_EXECUTOR'
    return copy


def _operation_types(graph: tf.Graph) -> set[str]:
    """Returns the types of the operations of a graph, and of those in its functions where it calls any."""
    ops = {op.type: op for op in graph.get_operations()}
    if all(
        op.op_def is not None and not any('func' in attr.type for attr in op.op_def.attr)
        for op in ops.values()
    ):
        return set(ops)
    try:
        functions = graph.as_graph_def().library.function
    except message.DecodeError:  # over the 2 GB of a GraphDef: anything may be in there
        return {*ops, 'PyFunc'}
    return {*ops, *(node.op for function in functions for node in function.node_def)}


def _is_on_one_device(graph: tf.Graph, config: config_pb2.ConfigProto) -> bool:
    """Whether all operations run on one CPU: between two devices, the single thread would wait for itself."""
    with tf.Session(graph=tf.Graph(), config=config) as session:
        devices = session.list_devices()
    if any(device.device_type != 'CPU' for device in devices):
        return False
    named = {op.device for op in graph.get_operations()}
    return len(devices) == 1 or all(
        tf.DeviceSpec.from_string(name).device_index in (None, 0) for name in named
    )


class FastSession:
    """Fetches the same tensors of a session again and again, from many threads at once.

    Attributes:
      session: The `tf.Session`.
    """

    def __init__(self, session: tf.Session, fetches: Sequence[tf.Tensor], owner: str) -> None:
        """Takes a session whose variables are initialized, what to fetch, and what errors call this."""
        check_process(owner)
        self.session, self._fetches, self._owner = session, list(fetches), owner
        _opened.add(self)

    def function(self, feeds: Sequence[Feed]) -> Callable[[list[np.ndarray]], list]:
        """Returns a function from arrays, one for each of `feeds`, to what is fetched.

        It returns what `tf.Session.run` returns: np.ndarray, for strings of dtype object, or scalars of
        NumPy's. Each is the caller's own: TensorFlow's may be the memory of a variable, a constant or
        something fed, and is copied. The copy of a small answer costs 0.3 us.

        The function raises RuntimeError when the session is closed or was made in the parent process,
        ValueError for what should be a string and isn't, and tf.errors.OpError where an operation fails.
        """
        owner, names = self._owner, [feed.tensor.name for feed in feeds]
        fetches = [tensor for tensor in self._fetches if tensor.name not in names]
        # What is fed, TensorFlow doesn't fetch: {its place among the answers: that among the feeds}.
        fed = {
            place: names.index(tensor.name)
            for place, tensor in enumerate(self._fetches)
            if tensor.name in names
        }
        run = _private_api.make_callable(self.session, [feed.tensor for feed in feeds], fetches)
        has_strings = any(tensor.dtype.base_dtype == tf.string for tensor in fetches)

        def function(arrays: list[np.ndarray]) -> list:
            if _is_orphan:
                check_process(owner)
            try:
                outputs = run(arrays)
            except tf.errors.CancelledError as error:
                if 'Session has been closed' not in str(error):
                    raise
                raise RuntimeError(f'this {owner} is closed') from error
            except tf.errors.InternalError:  # something other than str and bytes, for one
                for feed, array in zip(feeds, arrays):
                    feed.check_strings(array)
                raise
            if has_strings:  # TensorFlow makes them anew in each call, and bytes have no `copy`
                outputs = [
                    output if isinstance(output, bytes) else output.copy() for output in outputs
                ]
            else:
                outputs = [output.copy() for output in outputs]
            for place, index in fed.items():
                outputs.insert(place, arrays[index].copy())
            return outputs

        return function

    def close(self) -> None:
        """Frees the session. Later calls raise RuntimeError; closing again does nothing."""
        if not _is_orphan:
            self.session.close()


# Forks.

_opened: weakref.WeakSet[FastSession] = weakref.WeakSet()
_is_orphan = False  # whether this process was forked from one that had started TensorFlow


def check_process(owner: str = 'predictor') -> None:
    """Raises RuntimeError in a child that was forked after TensorFlow had started its threads: it would hang."""
    if _is_orphan:
        raise RuntimeError(
            'TensorFlow was used in the parent process, and does not work in a child that is forked '
            f'after that: fork first, then open a {owner}'
        )


def _after_fork() -> None:
    global _is_orphan
    _is_orphan = _is_orphan or _private_api.runtime_started()
    if _is_orphan:
        # Deleted as Python ends, sessions wait for locks that a thread of the parent held: they never are.
        kept = [*_opened, _private_api.eager_context()]
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)
