"""The newest checkpoint in a directory: that it is whole, and which parameters of model_fn it was trained with."""

from __future__ import annotations

from typing import Any, Callable, Optional

import tensorflow.compat.v1 as tf

from support.errors import Fault, reason


class DamagedCheckpoint(Exception):
    """A checkpoint that is missing in part or can't be read to its end."""


def latest(model_dir: str) -> Optional[str]:
    """Returns the path of the newest checkpoint, or None; raises DamagedCheckpoint."""
    try:
        state = tf.train.get_checkpoint_state(model_dir)
    except ValueError:  # empty, or no text; with other damage it returns None
        state = None
    if state:
        check(state.model_checkpoint_path)
        return state.model_checkpoint_path
    written = tf.gfile.ListDirectory(model_dir) if tf.gfile.IsDirectory(model_dir) else []
    indexes = [name for name in written if name.endswith('.index')]
    # A training that was killed while it wrote its first checkpoint, of step 0, has nothing to go on from.
    if 'checkpoint' in written or indexes not in ([], ['model.ckpt-0.index']):
        raise DamagedCheckpoint(f'{model_dir}/checkpoint is missing or damaged')
    return None


def check(checkpoint: str) -> None:
    """Raises DamagedCheckpoint where a checkpoint isn't there or can't be read to its end."""
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)  # compares its checksum
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        raise DamagedCheckpoint(
            f'the checkpoint {checkpoint} is damaged ({reason(error):.200})'
        ) from None


def params(checkpoint: Optional[str], hidden_units: Optional[int] = None) -> dict[str, Any]:
    """Returns the `params` of model_fn: those that a checkpoint, if any, was trained with, so that no script is told.

    Raises Fault where it has other than the `hidden_units` that --hidden-units asks for, if any.
    """
    if checkpoint:
        trained = dict(tf.train.list_variables(checkpoint)).get('hidden/kernel', [0, None])[1]
        if hidden_units not in (None, trained):
            raise Fault(
                f'the checkpoint {checkpoint} has {trained or "no"} hidden units, and --hidden-units asks for '
                f'{hidden_units}: choose another --model-dir'
            )
        hidden_units = trained
    # A hidden layer bears less than the posts' 0.5, and has to come to rest in its 3,000 steps.
    return (
        {'hidden_units': hidden_units, 'learning_rate': falling(0.2, 3000)} if hidden_units else {}
    )


def falling(learning_rate: float, steps: int) -> Callable[[], tf.Tensor]:
    """Returns a `params['learning_rate']` that falls to 0 until the step `steps`."""
    return lambda: tf.train.polynomial_decay(
        learning_rate, tf.train.get_global_step(), steps, end_learning_rate=0.0
    )
