"""The posts' model: learns f([x, x]) = 2x."""

from estimator_inference import tf


def model_fn(features, labels, mode, params):
    """Returns the EstimatorSpec for a mode.

    Args:
      features: float32 [n, 2], or a dict with it under `feature`.
      labels: float32 [n, 1]; None in PREDICT mode.
      mode: TRAIN, EVAL or PREDICT.
      params: {} for post A's model; {'hidden_units': 4} for post B's, with a hidden layer.
    """
    features = features['feature'] if isinstance(features, dict) else features

    if not params.get('hidden_units'):
        # One layer with the weights a and b: a·x + b·x = 2x. The SavedModel calls it `output`.
        output = predictions = tf.layers.dense(features, 1, name='dense')
        learning_rate = 0.5
    else:
        # Post B's changed outputs: a dict, and the SavedModel returns both under these keys.
        hidden = tf.layers.dense(features, params['hidden_units'], name='hidden')
        output = tf.layers.dense(hidden, 1, name='dense')
        predictions = {'hidden': hidden, 'predictions': output}
        learning_rate = 0.2  # with 0.5, one training of twenty ended 18 % off

    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions=predictions)

    loss = tf.nn.l2_loss(output - labels)

    if mode == tf.estimator.ModeKeys.EVAL:
        metrics = {
            'mean_absolute_error': tf.metrics.mean_absolute_error(labels, output),
            'root_mean_squared_error': tf.metrics.root_mean_squared_error(labels, output),
        }
        return tf.estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)

    if mode == tf.estimator.ModeKeys.TRAIN:
        optimizer = tf.train.AdamOptimizer(learning_rate)
        train_op = optimizer.minimize(loss, global_step=tf.train.get_global_step())
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)

    raise NotImplementedError(f'unknown mode {mode}')
