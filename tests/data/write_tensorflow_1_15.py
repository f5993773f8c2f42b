"""Writes the checkpoint and the export in tensorflow_1_15/, which the tests load today.

Needs TensorFlow 1.15 on Python 3.7: pip install 'tensorflow==1.15.5' 'protobuf<3.21' 'numpy<1.19'
"""

import glob
import os
import shutil

import tensorflow as tf

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'tensorflow_1_15')


def model_fn(features, labels, mode):
    features = features['feature'] if isinstance(features, dict) else features
    outputs = tf.layers.dense(features, 1)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(
            mode,
            predictions=outputs,
            export_outputs={
                'serving_default': tf.estimator.export.PredictOutput({'output': outputs})
            },
        )
    loss = tf.nn.l2_loss(outputs - labels)
    train_op = tf.train.AdamOptimizer(0.5).minimize(loss, tf.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def input_fn():
    number = tf.reshape(tf.range(100.0), [100, 1])
    dataset = tf.data.Dataset.from_tensor_slices((tf.tile(number, [1, 2]), 2 * number))
    return dataset.shuffle(100, 1).repeat().batch(20)


def serving_input_receiver_fn():
    number = tf.placeholder(tf.float32, [None, 1])
    return tf.estimator.export.ServingInputReceiver(tf.tile(number, [1, 2]), {'number': number})


estimator = tf.estimator.Estimator(
    model_fn,
    os.path.join(DIRECTORY, 'model'),
    config=tf.estimator.RunConfig(tf_random_seed=1, keep_checkpoint_max=1),
)
estimator.train(input_fn, max_steps=1000)
estimator.export_saved_model(os.path.join(DIRECTORY, 'saved_model'), serving_input_receiver_fn)
for path in glob.glob(os.path.join(DIRECTORY, 'model', '*')):  # only what a checkpoint is
    if 'events' in path or 'graph' in path or path.endswith('.meta') or os.path.isdir(path):
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
