"""The posts' model: learns f([x, x]) = 2x."""

from estimator_inference import tf


def model_fn(features, labels, mode, params):
    """Returns the EstimatorSpec for a mode.

    Args:
      features: float32 [n, 2], or a dict with it under `feature`.
      labels: float32 [n, 1]; None in PREDICT mode.
      mode: TRAIN, EVAL or PREDICT.
      params: {} for the posts' model. `hidden_units`: the size of post B's hidden layer. `learning_rate`: Adam's, a
        number or a function that returns a tensor.
    """
    features = features['feature'] if isinstance(features, dict) else features

    if params.get('hidden_units'):
        # Post B's changed outputs: a dict, and the SavedModel returns both under these keys.
        hidden = tf.layers.dense(features, params['hidden_units'], name='hidden')
        output = tf.layers.dense(hidden, 1, name='dense')
        predictions = {'hidden': hidden, 'predictions': output}
    else:
        # One layer with the weights a and b: a·x + b·x = 2x. The SavedModel returns it under the key `output`.
        output = predictions = tf.layers.dense(features, 1, name='dense')

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
        optimizer = tf.train.AdamOptimizer(params.get('learning_rate', 0.5))
        train_op = optimizer.minimize(loss, global_step=tf.train.get_global_step())
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)

    raise NotImplementedError(f'unknown mode {mode}')
