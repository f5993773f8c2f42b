"""Calls a session fast: what the predictor and FastPredict have in common.

What makes it fast, where the graph and the caller's config leave it open:

- A callable, made once, does what `tf.Session.run` does anew in each call: 230 us become 22.
- Operations run in the thread that calls, not in TensorFlow's pool, and in TensorFlow's
  single-threaded executor: 22 us become 13. A large operation still uses all cores, but parallel
  branches of a graph run one after the other: for a model with several branches of a millisecond or
  more, pass a config with `inter_op_parallelism_threads` set.
- Operations aren't fused (`RewriterConfig.remapping` off): 13 us become 6, since oneDNN prepares a
  fused matrix product anew in each call.

The graph that runs is the graph that was loaded, and what is fetched is what `tf.Session.run`
fetches. Two differences to its answers are left. In the thread that calls, arithmetic is exact
below 1.2e-38 (float32), where TensorFlow's own threads take numbers for 0. And where
`tf.Session.run` fuses a matrix product with an activation like tanh or gelu, oneDNN approximates
that, which differs by up to 3e-7 of the largest value.
"""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from typing import Any, Callable, List, Optional, Sequence, TypeVar

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

from estimator_inference import _private_api
from estimator_inference.feeds import Array, Feed

Opened = TypeVar('Opened')
Function = Callable[[List[Array]], List[Any]]

# What may wait for another call or thread, or runs Python, which a signal may interrupt.
_WAITS = re.compile('PyFunc|Queue|[Ss]tage|Barrier|Accumulator|Iterator|BatchFunction|MutexLock')
# What the single-threaded executor refuses: control flow and variables of TensorFlow 1.x.
_OLD = re.compile('(Ref)?(Switch|Merge|Enter|Exit|NextIteration)|(Temporary)?Variable(V2)?')


def open_session(
    open_with: Callable[[config_pb2.ConfigProto], Opened],
    graph: tf.Graph,
    config: Optional[config_pb2.ConfigProto],
) -> Opened:
    """Calls `open_with` with the config that makes a session for this graph fastest.

    Args:
      open_with: A function that makes a session with a config, restores it, and makes a callable.
      graph: The graph, as it will be run.
      config: The config of the caller; see `tuned`.
    """
    config = tuned(graph, config)
    try:
        return open_with(config)
    except tf.errors.OpError as error:  # XLA, for one, adds control flow when a callable is made
        if 'Single-threaded executor does not support' not in str(error):
            raise
    config.experimental.executor_type = ''
    return open_with(config)


def tuned(
    graph: tf.Graph, config: Optional[config_pb2.ConfigProto] = None
) -> config_pb2.ConfigProto:
    """Returns a config for low latency: what `config` leaves open is tuned, what it sets stays.

    Default: the config that a `tf.Session` without one has, which `tf.config` rules.
    """
    copy = config_pb2.ConfigProto()
    copy.CopyFrom(_private_api.default_config() if config is None else config)
    rewrites = copy.graph_options.rewrite_options
    rewrites.remapping = rewrites.remapping or rewriter_config_pb2.RewriterConfig.OFF
    types = _operation_types(graph)
    if (
        copy.inter_op_parallelism_threads == 0
        and not copy.session_inter_op_thread_pool
        and not copy.operation_timeout_in_ms  # nothing times out in the thread that calls
        and not any(map(_WAITS.search, types))
    ):
        copy.inter_op_parallelism_threads = -1  # the thread that calls
        if (
            not copy.experimental.executor_type
            and not any(map(_OLD.fullmatch, types))
            and _is_on_one_device(graph, copy)
        ):
            copy.experimental.executor_type = 'SINGLE_THREADED_EXECUTOR'
    return copy


def _operation_types(graph: tf.Graph) -> set[str]:
    """Returns the types of a graph's operations, and where it calls functions, of theirs too."""
    ops = {op.type: op for op in graph.get_operations()}
    if any(
        op.op_def is None or any('func' in attr.type for attr in op.op_def.attr)
        for op in ops.values()
    ):
        functions = graph.as_graph_def().library.function
        return {*ops, *(node.op for function in functions for node in function.node_def)}
    return set(ops)


def _is_on_one_device(graph: tf.Graph, config: config_pb2.ConfigProto) -> bool:
    """Whether all runs on one CPU. Between two devices, a single thread would wait for itself."""
    with tf.Session(graph=tf.Graph(), config=config) as session:
        devices = session.list_devices()
    if len(devices) > 1:
        names = {op.device for op in graph.get_operations()}
        if any(tf.DeviceSpec.from_string(name).device_index for name in names):
            return False
    return all(device.device_type == 'CPU' for device in devices)


class FastSession:
    """Fetches the same tensors of a session again and again, from many threads at once.

    Attributes:
      session: The `tf.Session`.
    """

    def __init__(self, session: tf.Session, fetches: Sequence[tf.Tensor], owner: str) -> None:
        """Takes a session that is initialized, what to fetch, and what errors call this."""
        check_process(owner)
        self.session, self._fetches, self._owner = session, list(fetches), owner
        _opened.add(self)

    def function(self, feeds: Sequence[Feed]) -> Function:
        """Returns a function from arrays, one for each of `feeds`, to what is fetched.

        It returns what `tf.Session.run` returns: np.ndarray, for strings of dtype object, or
        scalars of NumPy's. Each is the caller's own: what TensorFlow returns may be the memory of a
        variable, a constant or a feed, and is copied. That takes 0.3 us for a small answer, and as
        long as to compute it for one of 80 MB that a single operation has made.

        The function raises RuntimeError when the session is closed or was made in the parent
        process, ValueError for what should be a string and isn't, and tf.errors.OpError where an
        operation fails.
        """
        owner, names = self._owner, [feed.tensor.name for feed in feeds]
        fetches = [tensor for tensor in self._fetches if tensor.name not in names]
        # What is fed, TensorFlow does not fetch: (place among the answers, place among the feeds).
        fed = [
            (place, names.index(tensor.name))
            for place, tensor in enumerate(self._fetches)
            if tensor.name in names
        ]
        run = _private_api.make_callable(self.session, [feed.tensor for feed in feeds], fetches)

        def function(arrays: list[Array]) -> list[Any]:
            if _is_orphan:
                check_process(owner)
            try:
                outputs = run(arrays, None)
            except tf.errors.CancelledError as error:
                if 'Session has been closed' in str(error):
                    raise RuntimeError(f'this {owner} is closed') from error
                raise
            except tf.errors.InternalError:
                for feed, array in zip(feeds, arrays):
                    feed.copy(array)  # raises where something is neither str nor bytes
                raise
            for place, output in enumerate(outputs):
                if type(output) is not bytes:  # a scalar string, which has no copy and needs none
                    outputs[place] = output.copy()
            for place, index in fed:
                outputs.insert(place, feeds[index].copy(arrays[index]))
            return outputs

        return function


# Forks.

_opened: weakref.WeakSet[FastSession] = weakref.WeakSet()
_is_orphan = False  # whether this process was forked from one that had started TensorFlow


def check_process(owner: str = 'predictor') -> None:
    """Raises RuntimeError in a child forked after TensorFlow had started threads: it would hang."""
    if _is_orphan:
        raise RuntimeError(
            'TensorFlow was used in the parent process, and does not work in a child that is '
            f'forked after that: fork first, then open a {owner}'
        )


def close_session(session: tf.Session) -> None:
    """Closes a session, but not in a forked child, where that would wait for ever."""
    if not _is_orphan:
        session.close()


def _after_fork() -> None:
    global _is_orphan
    _is_orphan = _is_orphan or _private_api.runtime_started()
    if _is_orphan:
        # Deleted as Python ends, they wait for locks that threads of the parent held at the fork.
        kept = [*_opened, _private_api.eager_context()]
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)
