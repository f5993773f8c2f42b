"""Post A's listings one after the other, in our words: they run with nothing but their import lines changed."""

import functools
import pathlib

import numpy as np

# Where the post says: import tensorflow as tf, and: from tensorflow.contrib import predictor
from estimator_inference import predictor, tf


def model_fn(features, labels, mode, params):
    if isinstance(features, dict):
        features = features['feature']
    predictions = tf.layers.dense(features, 1)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions=predictions)
    loss = tf.nn.l2_loss(predictions - labels)
    if mode == tf.estimator.ModeKeys.EVAL:
        return tf.estimator.EstimatorSpec(mode, loss=loss)
    if mode == tf.estimator.ModeKeys.TRAIN:
        train_op = tf.train.AdamOptimizer(learning_rate=0.5).minimize(
            loss, global_step=tf.train.get_global_step()
        )
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)
    raise NotImplementedError(mode)


def train_generator_fn():
    for n in range(100):
        yield [n, n], [2 * n]


def train_input_fn():
    dataset = tf.data.Dataset.from_generator(
        train_generator_fn, output_types=(tf.float32, tf.float32), output_shapes=(2, 1)
    )
    return dataset.batch(20).repeat(20)  # the post: 200 times


def my_service():
    for number in range(100, 103):
        yield number


def example_input_fn(number):
    dataset = tf.data.Dataset.from_generator(
        lambda: iter([[number, number]]), output_types=tf.float32, output_shapes=2
    )
    return dataset.batch(1).make_one_shot_iterator().get_next(), None


def serving_input_receiver_fn():
    number = tf.placeholder(dtype=tf.float32, shape=[None, 1], name='number')
    return tf.estimator.export.ServingInputReceiver(
        features=tf.tile(number, multiples=[1, 2]), receiver_tensors={'number': number}
    )


def test_listings_of_post_a(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimator = tf.estimator.Estimator(model_fn, 'model', params={})
    estimator.train(train_input_fn)
    assert estimator.latest_checkpoint() == 'model/model.ckpt-100'

    predicted = []
    for nb in my_service():
        for prediction in estimator.predict(functools.partial(example_input_fn, nb)):
            predicted.append(prediction)

    estimator.export_saved_model('saved_model', serving_input_receiver_fn)
    subdirs = [
        path
        for path in pathlib.Path('saved_model').iterdir()
        if path.is_dir() and 'temp' not in str(path)
    ]
    latest = str(sorted(subdirs)[-1])
    predict_fn = predictor.from_saved_model(latest)
    served = []
    for nb in my_service():
        served.append(predict_fn({'number': [[nb]]})['output'])

    # Whether the posts' settings converge depends on the initial weights: so the answers are compared with those.
    kernel, bias = (estimator.get_variable_value(f'dense/{name}') for name in ('kernel', 'bias'))
    expected = np.array([[nb, nb] for nb in my_service()]) @ kernel + bias
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate(served), expected, rtol=1e-5)
