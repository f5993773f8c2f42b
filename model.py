"""The posts' model: learns f([x, x]) = 2x with one dense layer of one output."""
from __future__ import annotations

import os
import sys
from typing import Any, Mapping, Optional, Union

from tf1 import tf


def model_fn(features: Union[tf.Tensor, Mapping[str, tf.Tensor]], labels: Optional[tf.Tensor], mode: str,
             params: Mapping[str, Any]) -> tf.estimator.EstimatorSpec:
    """Returns the EstimatorSpec for a mode.

    Args:
      features: float32 [n, 2], or a dict with it under `feature`.
      labels: float32 [n, 1]; None in PREDICT mode.
      mode: A `tf.estimator.ModeKeys`: TRAIN, EVAL or PREDICT.
      params: Not used by this model; Estimator hands it over.
    """
    if isinstance(features, dict):
        features = features['feature']

    # One layer with the weights a and b, as good as without bias: a·x + b·x = 2x. Its variables are dense/kernel
    # and dense/bias, so that a checkpoint of the posts' own scripts fits.
    # The initializer is TensorFlow 1's default. Today's draws from a generator that no seed of Estimator's reaches.
    predictions = tf.layers.dense(features, 1, kernel_initializer=tf.glorot_uniform_initializer(), name='dense')

    if mode == tf.estimator.ModeKeys.PREDICT:
        export_outputs = {'serving_default': tf.estimator.export.PredictOutput({'output': predictions})}
        return tf.estimator.EstimatorSpec(mode, predictions=predictions, export_outputs=export_outputs)

    loss = tf.nn.l2_loss(predictions - labels)

    if mode == tf.estimator.ModeKeys.EVAL:
        metrics = {
            'mean_absolute_error': tf.metrics.mean_absolute_error(labels, predictions),
            'root_mean_squared_error': tf.metrics.root_mean_squared_error(labels, predictions),
        }
        return tf.estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)

    train_op = tf.train.AdamOptimizer(learning_rate=0.5).minimize(loss, tf.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def build_estimator(model_dir: str, **config) -> tf.estimator.Estimator:
    """Returns the Estimator of all scripts, its checkpoints in `model_dir`; `config` goes to its RunConfig."""
    return tf.estimator.Estimator(model_fn, params={}, config=tf.estimator.RunConfig(model_dir, **config))


def load_estimator(model_dir: str) -> tf.estimator.Estimator:
    """Returns the trained Estimator in `model_dir`, or ends the script with a line on what is wrong there."""
    checkpoint = latest_checkpoint(model_dir)
    if checkpoint is None:
        sys.exit(f'no checkpoint in {model_dir}: run python train.py --model-dir {model_dir}')
    return build_estimator(model_dir)


def latest_checkpoint(model_dir: str) -> Optional[str]:
    """Returns the path of the newest checkpoint, or None; ends the script with a line where it isn't whole."""
    try:
        state = tf.train.get_checkpoint_state(model_dir)
        if state is None:
            if tf.gfile.Glob(os.path.join(model_dir, '*.index')):
                raise ValueError('its file `checkpoint` is missing or unreadable')
            return None
        reader = tf.train.load_checkpoint(state.model_checkpoint_path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)  # compares its checksum
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        sys.exit(f'the checkpoint in {model_dir} is damaged ({str(error).splitlines()[0]:.200}): '
                 f'move {model_dir} away and run python train.py --model-dir {model_dir}')
    return state.model_checkpoint_path
