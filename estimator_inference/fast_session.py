"""Calls a session fast: what the predictor and FastPredict have in common.

What makes it fast, where the caller's config leaves it open:

- A callable, made once, does what `tf.Session.run` does anew in each call.
- Operations run in the thread that calls (`RunOptions.inter_op_thread_pool = -1`) instead of being handed to
  TensorFlow's pool. A large operation still uses all cores, but parallel branches of a graph run one after the other:
  for a model with several branches of a millisecond or more, pass a config with `inter_op_parallelism_threads` set.
  And in that thread arithmetic is exact below 1.2e-38 (float32) too, where TensorFlow's own threads, and so
  `tf.Session.run`, take numbers for 0.
- Operations aren't fused (`RewriterConfig.remapping` off): with oneDNN, a fused matrix product costs a small batch 2 us
  more, and saves a batch of 10,000 a tenth.
- A model that is small (`FREEZE_BYTES`), on the CPU, and stateless but for reading variables to which nothing but their
  initializers and the restoring of a checkpoint assigns, is frozen: a copy of its graph, with constants for variables,
  runs in TensorFlow's single-threaded executor. What a caller assigns to a variable by other means, that copy doesn't
  see. Graphs over 2 GB, or with tables, queues, 1.x control flow or functions with variables, are run as they are.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from typing import Callable, Iterable, Optional, Sequence

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf import message
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

from estimator_inference import _private_api
from estimator_inference.feeds import Feed

# A model with variables of up to this many bytes is frozen. That saves a few microseconds a call: much for a small
# model, nothing for a large one, whose memory it would double.
FREEZE_BYTES = 4 << 20


def tuned(config: Optional[config_pb2.ConfigProto] = None) -> config_pb2.ConfigProto:
    """Returns a session config for low latency: what `config` leaves open is tuned, and what it sets stays.

    Default: the config that a `tf.Session` without one has, which `tf.config` rules.
    """
    copy = config_pb2.ConfigProto()
    copy.CopyFrom(_private_api.default_config() if config is None else config)
    rewrites = copy.graph_options.rewrite_options
    rewrites.remapping = rewrites.remapping or rewriter_config_pb2.RewriterConfig.OFF
    # L1, which is 0 and so the same as unset, would fold the copies of constants that FastSession returns.
    optimizer = copy.graph_options.optimizer_options
    optimizer.opt_level = optimizer.opt_level or config_pb2.OptimizerOptions.L0
    return copy


class FastSession:
    """Fetches the same tensors of a session again and again, from many threads at once.

    Attributes:
      session: The `tf.Session`. To close it is to close this.
      run: The function for all of `feeds`; see `function`.
    """

    def __init__(
        self,
        session: tf.Session,
        feeds: Sequence[Feed],
        fetches: Sequence[tf.Tensor],
        config: config_pb2.ConfigProto,
        freeze: bool = True,
        owner: str = 'predictor',
    ) -> None:
        """Prepares the function for `feeds`.

        Args:
          session: A session whose variables are initialized, made with `config`.
          feeds: What is fed; each tensor once.
          fetches: What is fetched, of any dtype.
          config: What `tuned` returned.
          freeze: Whether the graph may be frozen, where it can be.
          owner: What errors call this.
        """
        check_process(owner)
        self.session, self._fetches, self._owner = session, list(fetches), owner
        # Python functions in the graph too: in the thread that calls, they would be given a signal handler's error.
        in_pool = (
            config.inter_op_parallelism_threads > 0
            or len(config.session_inter_op_thread_pool) > 0
            or _calls_python(session.graph, self._fetches)
        )
        self._run_options = config_pb2.RunOptions(inter_op_thread_pool=0 if in_pool else -1)
        self._lock = threading.RLock()  # a signal handler may call, or close, meanwhile
        self._functions: dict[tuple[str, ...], Callable] = {}
        self._frozen = (
            self._freeze([feed.tensor for feed in feeds], config)
            if freeze and not in_pool
            else None
        )
        # Made now, since a first call that made them, interrupted within `Graph.as_default`, would leave that entered.
        self._answers = {
            each: _answers(each.graph, self._fetches) for each in (session, self._frozen) if each
        }
        session.close = _closing(self, session)
        _opened.add(self)
        self.run = self.function(feeds)

    def function(self, feeds: Sequence[Feed]) -> Callable[[list[np.ndarray], None], list]:
        """Returns the function from (a list of arrays, one for each of `feeds`, and None) to what is fetched.

        It returns what `tf.Session.run` returns: np.ndarray, for strings of dtype object, or scalars of NumPy's. It
        raises RuntimeError when this is closed or was made in the parent process, ValueError for what should be a
        string and isn't, and tf.errors.OpError where an operation fails or `close` in another thread cancels it.
        """
        names = tuple(feed.tensor.name for feed in feeds)
        with self._lock:
            if names not in self._functions:
                self._functions[names] = self._make_function(feeds)
            return self._functions[names]

    def close(self) -> None:
        """Frees the session. Later calls raise RuntimeError; closing again does nothing."""

        def closed(*_):
            raise RuntimeError(f'this {self._owner} is closed')

        with self._lock:
            self.run = closed
            self._functions = dict.fromkeys(self._functions, closed)
            self._make_function = lambda feeds: closed  # type: ignore[method-assign]
        for session in filter(None, (self._frozen, self.session)):
            type(session).close(session)

    def _make_function(self, feeds):
        if not self._fetches:
            return lambda arrays, _: []
        run = self._make_run([feed.tensor for feed in feeds])
        # Of the dtypes without an operation that copies (see _answers), TensorFlow makes strings anew in each call.
        shared = [
            i
            for i, tensor in enumerate(self._fetches)
            if tensor.dtype.base_dtype not in _COPIED and tensor.dtype.base_dtype != tf.string
        ]
        strings = [i for i, feed in enumerate(feeds) if feed.tensor.dtype == tf.string]
        if not shared and not strings:
            return run

        def run_and_copy(arrays, _):
            try:
                outputs = run(arrays, None)
            except tf.errors.InternalError:  # something other than str and bytes, for one
                for i in strings:
                    feeds[i].check_strings(arrays[i])
                raise
            for i in shared:
                outputs[i] = outputs[i].copy()
            return outputs

        return run_and_copy

    def _make_run(self, feeds):
        # With fewer feeds more of the graph runs, and that may be stateful.
        frozen = self._frozen and _is_freezable(self.session.graph, feeds, self._fetches)
        session = self._frozen if frozen else self.session
        return _private_api.make_callable(session, feeds, self._answers[session], self._run_options)

    def _freeze(self, feeds, config):
        """Returns a session for a copy of the graph with its variables made constants, or None."""
        if [device.device_type for device in self.session.list_devices()] != ['CPU']:
            return None  # the single-threaded executor runs on one device
        if config.experimental.executor_type or not _is_freezable(
            self.session.graph, feeds, self._fetches
        ):
            return None
        try:
            with _private_api.undeprecated():
                constant = tf.graph_util.convert_variables_to_constants(
                    self.session,
                    self.session.graph.as_graph_def(),
                    [tensor.op.name for tensor in (*self._fetches, *feeds)],
                )
            if not _CONTROL_FLOW.isdisjoint(_op_types(constant)):
                return None
            with tf.Graph().as_default() as graph:
                tf.import_graph_def(constant, name='')
        except (message.Error, ValueError, tf.errors.FailedPreconditionError):
            return None  # over the 2 GB of a GraphDef; a variable that goes into a function; one not initialized
        frozen_config = config_pb2.ConfigProto()
        frozen_config.CopyFrom(config)
        frozen_config.inter_op_parallelism_threads = -1
        frozen_config.experimental.executor_type = 'SINGLE_THREADED_EXECUTOR'
        return tf.Session(graph=graph, config=frozen_config)


def _closing(fast_session, session):
    """Returns the `close` of a session that closes its FastSession with it, and refers to neither: no cycle."""
    references = weakref.ref(fast_session), weakref.ref(session)

    def close():
        fast_session, session = (reference() for reference in references)
        if fast_session:
            fast_session.close()
        elif session:
            type(session).close(session)

    return close


def ancestors(tensors: Iterable[tf.Tensor], feeds: Iterable[tf.Tensor]) -> list[tf.Operation]:
    """Returns the operations that run to compute `tensors` when `feeds` are fed."""
    fed = {tensor.name for tensor in feeds}
    pending = [tensor.op for tensor in tensors if tensor.name not in fed]
    found: dict[str, tf.Operation] = {}
    while pending:
        op = pending.pop()
        if op.name not in found:
            found[op.name] = op
            pending += op.control_inputs
            pending += [tensor.op for tensor in op.inputs if tensor.name not in fed]
    return list(found.values())


def _calls_python(graph, fetches):
    """Whether functions in Python run to compute `fetches`, also within the graph's functions."""
    ops = ancestors(fetches, [])
    if not any(
        'func' in attr.type for op in ops if op.op_def is not None for attr in op.op_def.attr
    ):
        return any('PyFunc' in op.type for op in ops)
    try:
        return any('PyFunc' in op_type for op_type in _op_types(graph.as_graph_def()))
    except message.DecodeError:
        return True  # over the 2 GB of a GraphDef: they may be there


# TensorFlow 1.x's control flow, which the single-threaded executor refuses, some of it only as it runs.
_CONTROL_FLOW = {'Switch', 'Merge', 'Enter', 'Exit', 'NextIteration'}


def _op_types(graph_def):
    bodies = [graph_def.node, *(function.node_def for function in graph_def.library.function)]
    return {node.op for body in bodies for node in body}


# The dtypes of the operation Snapshot on the CPU.
_COPIED = {
    tf.float16,
    tf.bfloat16,
    tf.float32,
    tf.float64,
    tf.int8,
    tf.int16,
    tf.int32,
    tf.int64,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
    tf.complex64,
    tf.complex128,
    tf.bool,
}


def _answers(graph, fetches):
    """Returns what to fetch in a graph for each of `fetches` so that each answer has memory of its own.

    The function in C returns memory without a copy, and it may be that of a value fed, a variable or a constant, as
    grappler leaves the graph. Snapshot copies where, as the graph runs, anything else refers to the memory, and only
    there; `placeholder_with_default` keeps grappler from making one constant of both.
    """
    answers = []
    with _private_api.extending(graph):
        for tensor in (graph.get_tensor_by_name(fetch.name) for fetch in fetches):
            with graph.colocate_with(tensor.op, ignore_existing=True):
                answers.append(
                    tf.raw_ops.Snapshot(input=tf.placeholder_with_default(tensor, None))
                    if tensor.dtype.base_dtype in _COPIED
                    else tf.identity(tensor)
                )
    return answers


def _is_freezable(graph, feeds, fetches):
    """Whether between feeds and fetches nothing is stateful but reading constant variables, of FREEZE_BYTES at most."""
    variables, variable_bytes = [], 0
    for op in ancestors(fetches, feeds):
        if op.type in ('VarHandleOp', 'VariableV2'):
            shape, dtype = tf.TensorShape(op.get_attr('shape')), op.get_attr('dtype')
            if not shape.is_fully_defined() or dtype.name in ('string', 'resource', 'variant'):
                return False
            variables.append(op)
            variable_bytes += shape.num_elements() * dtype.size
        elif op.type not in ('ReadVariableOp', 'ResourceGather') and (
            op.op_def is None or op.op_def.is_stateful
        ):
            return False
        elif any(tensor.dtype != tensor.dtype.base_dtype for tensor in op.outputs):
            return False  # a reference to a variable passed on: something assigns to it
    if variable_bytes > FREEZE_BYTES:
        return False
    initializers = {
        variable.initializer.name
        for key in (tf.GraphKeys.GLOBAL_VARIABLES, tf.GraphKeys.LOCAL_VARIABLES)
        for variable in graph.get_collection(key)
    }
    return all(
        _only_reads(op, variable)
        or op.name in initializers
        or op.type.startswith('Assign')
        and _restores(op)
        for variable in variables
        for op in variable.outputs[0].consumers()
    )


def _only_reads(op, variable):
    if variable.type == 'VarHandleOp':
        return op.type in (
            'ReadVariableOp',
            'ResourceGather',
            'ResourceGatherNd',
            'VariableShape',
            'VarIsInitializedOp',
        )
    return (
        op.op_def is not None
        and op.type != 'Assign'
        and (
            op.type == 'IsVariableInitialized'
            or not any(argument.is_ref for argument in op.op_def.input_arg)
        )
    )


def _restores(op):
    """Whether what an Assign operation assigns comes from a checkpoint."""
    value = op.inputs[-1].op
    while value.type in ('Identity', 'Reshape', 'Cast'):
        value = value.inputs[0].op
    return value.type.startswith('Restore')


# Forks and the end of the process.

_opened: weakref.WeakSet[FastSession] = weakref.WeakSet()
_is_orphan = False  # whether this process was forked from one that had started TensorFlow


def check_process(owner: str = 'predictor') -> None:
    """Raises RuntimeError in a child that was forked after TensorFlow had started its threads: it would hang."""
    if _is_orphan:
        raise RuntimeError(
            'TensorFlow was used in the parent process, and does not work in a child that is forked '
            f'after that: fork first, then open a {owner}'
        )


def _after_fork():
    """In a child: puts out of use what the parent opened. It would wait for threads and locks that stayed there."""
    global _is_orphan
    _is_orphan = _is_orphan or _private_api.runtime_started()
    if not _is_orphan:
        return
    kept = [_private_api.eager_context()]  # deleted as Python ends, it waits or crashes too
    for fast_session in _opened:
        kept.append((fast_session, fast_session.run, fast_session.session.close))
        fast_session.run = fast_session.function = lambda *_, owner=fast_session._owner: (
            check_process(owner)
        )
        fast_session.close = fast_session.session.close = lambda: None
    _never_delete(kept)


def _never_delete(objects):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(objects))


os.register_at_fork(after_in_child=_after_fork)
# As Python 3.13 ends, TensorFlow's modules are emptied first, and its sessions, deleted later, complain on stderr.
atexit.register(lambda: _never_delete(list(_opened)))
