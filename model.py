"""The posts' model: learns f([x, x]) = 2x."""
from __future__ import annotations

import os
import sys
from typing import Any, Mapping, Optional, Union

from tf1 import tf


def number_to_features(number: tf.Tensor) -> tf.Tensor:
    """Returns the features [n, 2] of numbers [n, 1], float32. Training and serving both call it: they can't differ."""
    return tf.tile(number, [1, 2])


def build_fn(features: tf.Tensor, params: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """The network: put yours here, and all else stays as it is.

    Args:
      features: float32 [n, 2].
      params: `hidden_units`, the size of the hidden layer; 0 for none.

    Returns:
      {'predictions': float32 [n, 1]}, and what else should be predicted and exported with them, here
      {'hidden': float32 [n, hidden_units]}.
    """
    # Glorot's initializer, TensorFlow 1's default, but for its negative half: from there 1,000 steps may not suffice.
    initializer = tf.random_uniform_initializer(0, (6 / (2 + (params['hidden_units'] or 1))) ** 0.5)
    if params['hidden_units']:
        hidden = tf.layers.dense(features, params['hidden_units'], kernel_initializer=initializer, name='hidden')
        predictions = tf.layers.dense(hidden, 1, kernel_initializer=initializer, name='dense')
        return {'hidden': hidden, 'predictions': predictions}
    # One layer with the weights a and b: a·x + b·x = 2x. Its variables are dense/kernel and dense/bias, so that the
    # posts' own checkpoints fit.
    return {'predictions': tf.layers.dense(features, 1, kernel_initializer=initializer, name='dense')}


def model_fn(features: Union[tf.Tensor, Mapping[str, tf.Tensor]], labels: Optional[tf.Tensor], mode: str,
             params: Mapping[str, Any]) -> tf.estimator.EstimatorSpec:
    """Returns the EstimatorSpec for a mode.

    Args:
      features: float32 [n, 2], or a dict with it under `feature`.
      labels: float32 [n, 1]; None in PREDICT mode.
      mode: A `tf.estimator.ModeKeys`: TRAIN, EVAL or PREDICT.
      params: For `build_fn`.
    """
    if isinstance(features, dict):
        features = features['feature']
    outputs = build_fn(features, params)
    predictions = outputs['predictions']

    if mode == tf.estimator.ModeKeys.PREDICT:
        heads = {name: tf.estimator.export.PredictOutput({name: tensor})
                 for name, tensor in outputs.items() if name != 'predictions'}
        return tf.estimator.EstimatorSpec(
            mode, predictions=outputs if heads else predictions,
            export_outputs={
                'serving_default': tf.estimator.export.PredictOutput(outputs if heads else {'output': predictions}),
                'regression': tf.estimator.export.RegressionOutput(predictions),
                **heads})

    loss = tf.nn.l2_loss(predictions - labels)

    if mode == tf.estimator.ModeKeys.EVAL:
        metrics = {
            'mean_absolute_error': tf.metrics.mean_absolute_error(labels, predictions),
            'root_mean_squared_error': tf.metrics.root_mean_squared_error(labels, predictions),
        }
        return tf.estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)

    global_step = tf.train.get_global_step()
    # The posts' 0.5, which a hidden layer doesn't bear. At the end a tenth: large steps would undo the small bias.
    learning_rate = 0.2 / params['hidden_units'] ** 0.25 if params['hidden_units'] else 0.5
    learning_rate = tf.train.piecewise_constant(global_step, [700], [learning_rate, learning_rate / 10])
    train_op = tf.train.AdamOptimizer(learning_rate).minimize(loss, global_step)
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def output(prediction: Any) -> float:
    """Returns the number in one of the predictions that an Estimator yields: f([x, x])."""
    return (prediction['predictions'] if isinstance(prediction, dict) else prediction)[0]


def build_estimator(model_dir: str, hidden_units: int = 0,
                    config: Optional[tf.estimator.RunConfig] = None) -> tf.estimator.Estimator:
    """Returns the Estimator of all scripts, its checkpoints in `model_dir`."""
    return tf.estimator.Estimator(model_fn, model_dir, config, params={'hidden_units': hidden_units})


def load_estimator(model_dir: str, checkpoint: Optional[str] = None) -> tf.estimator.Estimator:
    """Returns the trained Estimator in `model_dir`, or ends the script with a line on what is wrong there.

    Args:
      model_dir: The directory of the checkpoints.
      checkpoint: The path of the one that will be used. Default: the newest.
    """
    if checkpoint is None:
        checkpoint = latest_checkpoint(model_dir)
    elif not os.path.isfile(f'{checkpoint}.index'):
        sys.exit(f'no checkpoint {checkpoint}: expected a path as {os.path.join(model_dir, "model.ckpt-1000")}')
    else:
        check_whole(checkpoint)
    if checkpoint is None:
        sys.exit(f'no checkpoint in {model_dir}: run python train.py --model-dir {model_dir}')
    hidden_units = checkpoint_hidden_units(checkpoint)
    check_fits(checkpoint, hidden_units)
    os.environ.pop('TF_CONFIG', None)  # it is for training: who predicts would wait for the cluster
    return build_estimator(model_dir, hidden_units)


def latest_checkpoint(model_dir: str, train: str = 'python train.py') -> Optional[str]:
    """Returns the path of the newest checkpoint, or None; ends the script with a line where it isn't whole.

    Args:
      model_dir: The directory of the checkpoints.
      train: The command that trains there, for that line.
    """
    try:
        state = tf.train.get_checkpoint_state(model_dir)
    except ValueError:  # empty, or no text; with other damage it returns None
        state = None
    if state:
        check_whole(state.model_checkpoint_path, train)
        return state.model_checkpoint_path
    written = tf.gfile.ListDirectory(model_dir) if tf.gfile.IsDirectory(model_dir) else []
    indexes = [name for name in written if name.endswith('.index')]
    # A training that was killed while it wrote its first checkpoint, of step 0, has nothing to go on from.
    if 'checkpoint' in written or indexes not in ([], ['model.ckpt-0.index']):
        sys.exit(f'{model_dir}/checkpoint is missing or damaged: move {model_dir} away and run '
                 f'{train} --model-dir {model_dir}')
    return None


def check_whole(checkpoint: str, train: str = 'python train.py') -> None:
    """Ends the script with a line where a checkpoint isn't there or can't be read to its end; see latest_checkpoint."""
    try:
        reader = tf.train.load_checkpoint(checkpoint)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)  # compares its checksum
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        model_dir = os.path.dirname(checkpoint)
        sys.exit(f'the checkpoint {checkpoint} is damaged ({str(error).splitlines()[0]:.200}): '
                 f'move {model_dir} away and run {train} --model-dir {model_dir}')


def checkpoint_hidden_units(checkpoint: str) -> int:
    """Returns what a checkpoint was trained with: its variables tell, so that no script must be told."""
    return dict(tf.train.list_variables(checkpoint)).get('hidden/kernel', [0, 0])[1]


def check_fits(checkpoint: str, hidden_units: int) -> None:
    """Ends the script with a line where a checkpoint is of another network than `build_fn` builds."""
    with tf.Graph().as_default():
        build_fn(tf.placeholder(tf.float32, [None, 2]), {'hidden_units': hidden_units})
        expected = {variable.op.name: variable.shape.as_list() for variable in tf.global_variables()}
    found = dict(tf.train.list_variables(checkpoint))
    misfits = {name: found.get(name) for name, shape in expected.items() if found.get(name) != shape}
    if misfits:
        sys.exit(f'the checkpoint {checkpoint} is of another network: it has {misfits}, and '
                 f'{dict((name, expected[name]) for name in misfits)} is expected: choose another --model-dir')


def device_config(device: str) -> tuple[str, tf.ConfigProto]:
    """Returns the name of the device to run on and the session config for it; ends the script if it isn't there."""
    gpus = [] if device == 'cpu' else tf.config.experimental.list_physical_devices('GPU')
    if device == 'gpu' and not gpus:
        sys.exit('--device gpu: TensorFlow sees no GPU. Try pip install -r requirements-gpu.txt; '
                 'TF_CPP_MIN_LOG_LEVEL=0 python train.py says more; --device cpu does without')
    session_config = tf.ConfigProto(device_count={'GPU': len(gpus)})
    session_config.gpu_options.allow_growth = True  # memory as it is needed, not all there is
    if not gpus:
        return 'CPU', session_config
    return tf.config.experimental.get_device_details(gpus[0]).get('device_name', gpus[0].name), session_config
