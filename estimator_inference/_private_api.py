"""All that this package uses of TensorFlow without its promise to keep it, but for what tf1.py puts back.

Each function tells since when TensorFlow has what it uses, and does what can be done without it.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Callable, Iterator, Optional

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2


def make_callable(
    session: tf.Session,
    feeds: list[tf.Tensor],
    fetches: list[tf.Tensor],
    run_options: config_pb2.RunOptions,
) -> Callable[[list, None], list]:
    """Returns a function from (a list of arrays, None) to the list of what is fetched.

    `Session._make_callable_from_options` exists from TensorFlow 1.5 to 2.21 at least, and takes a twentieth of the
    time of the public `Session.make_callable`, which does without it.
    """
    if not hasattr(session, '_make_callable_from_options'):
        function = session.make_callable(
            fetches, [tensor.name for tensor in feeds], accept_options=True
        )
        return lambda arrays, _: function(*arrays, options=run_options)
    function = session._make_callable_from_options(
        config_pb2.CallableOptions(
            feed=[tensor.name for tensor in feeds],
            fetch=[tensor.name for tensor in fetches],
            run_options=run_options,
        )
    )
    # Its `__call__` is four steps in Python around one function in C, which TensorFlow 2.15 and 2.21 have under this
    # name. To call that directly saves 0.3 us of 4.
    try:
        from tensorflow.python.client import pywrap_tf_session

        run = functools.partial(
            pywrap_tf_session.TF_SessionRunCallable, function._session._session, function._handle
        )
    except (ImportError, AttributeError):
        return lambda arrays, _: function(*arrays)
    run.owner = function  # type: ignore[attr-defined]  # it frees the handle when it is deleted
    return run


def default_config() -> config_pb2.ConfigProto:
    """Returns the config of a `tf.Session` without one: what `tf.config` rules, and soft placement.

    Only the eager context knows it, in TensorFlow 2.0 to 2.21. Without it: the soft placement alone.
    """
    try:
        from tensorflow.python.eager import context

        with tf.init_scope():  # within a graph, it would answer that soft placement is off
            return context.context().config
    except (ImportError, AttributeError):
        return config_pb2.ConfigProto(allow_soft_placement=True)


@contextlib.contextmanager
def extending(graph: tf.Graph) -> Iterator[None]:
    """Lets operations be added to a graph, also to one that is finalized, as MonitoredSession leaves its graph.

    `Graph._unsafe_unfinalize` exists from TensorFlow 1.4 to 2.21 at least; there is no other way.
    """
    finalized = graph.finalized
    if finalized:
        graph._unsafe_unfinalize()
    try:
        with graph.as_default(), tf.control_dependencies(None):
            yield
    finally:
        if finalized:
            graph.finalize()


@contextlib.contextmanager
def undeprecated() -> Iterator[None]:
    """Keeps TensorFlow from logging that a name is deprecated.

    `tf.saved_model.loader.load` and `tf.graph_util.convert_variables_to_constants` are, without another name that does
    the same for a session; whoever uses this package can't mend that. TensorFlow 1.13 to 2.21 have `silence`. Without
    it, three warnings are logged, once in a process.
    """
    try:
        from tensorflow.python.util.deprecation import silence
    except ImportError:
        silence = contextlib.nullcontext
    silenced = silence()
    silenced.__enter__()
    try:
        yield
    finally:
        silenced.__exit__(
            None, None, None
        )  # never with an error, after which TensorFlow's would stay silent


def warm_start(estimator: Any, checkpoint: Optional[str]) -> None:
    """Does what `Estimator.predict` does for an Estimator without a checkpoint: `warm_start_from`, if it has one.

    A Keras model's weights come that way. The method is in tensorflow-estimator 1.13 to 2.15, which is the last.
    Without it, such an Estimator predicts with its initial weights.
    """
    if hasattr(estimator, '_maybe_warm_start'):
        estimator._maybe_warm_start(checkpoint)


def runtime_started() -> bool:
    """Whether TensorFlow's threads may run in this process: it has made a session, or run an operation eagerly.

    The counter of sessions is in TensorFlow 2.2 to 2.21, the eager context's handle in 2.0 to 2.21. Without them, a
    process that was forked from one that has used TensorFlow by itself hangs, instead of raising an error.
    """
    try:
        from tensorflow.python.client.session import _python_session_create_counter
        from tensorflow.python.eager import context

        eager = context.context_safe()
        return _python_session_create_counter.get_cell().value() > 0 or bool(
            eager and eager._context_handle
        )
    except (ImportError, AttributeError):
        return False


def eager_context() -> Any:
    """Returns TensorFlow's eager context, or None. Deleted in a forked child, it waits for threads of the parent."""
    try:
        from tensorflow.python.eager import context

        return context.context_safe()
    except (ImportError, AttributeError):
        return None
