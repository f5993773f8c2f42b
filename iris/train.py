"""Trains a canned Estimator on 120 flowers, evaluates it on 30 others, predicts three, and exports it.

    python -m iris.train

leaves checkpoints in iris/model/ and an export, which takes serialized `tf.train.Example`s, in iris/saved_model/.
"""
from __future__ import annotations

from typing import Mapping, Optional, Sequence

import cli
import export
from iris import classifier, iris_data
from tf1 import tf


def train_input_fn(features: Mapping[str, Sequence[float]], labels: Sequence[int], seed: int) -> tf.data.Dataset:
    """Returns batches of features, {name: float32 [100]}, and labels, int32 [100], without end."""
    return tf.data.Dataset.from_tensor_slices((dict(features), labels)).shuffle(1000, seed).repeat().batch(100)


def eval_input_fn(features: Mapping[str, Sequence[float]], labels: Optional[Sequence[int]] = None) -> tf.data.Dataset:
    """Returns all flowers in one batch: features {name: float32 [n]} and, if there are any, labels [n]."""
    return tf.data.Dataset.from_tensors(dict(features) if labels is None else (dict(features), labels))


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--model-dir', default='iris/model')
    parser.add('--export-dir', default='iris/saved_model')
    parser.add_argument('--steps', type=cli.positive, default=1000, metavar='N',
                        help='train until the step N, from the beginning on (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=1, metavar='N',
                        help='of the initial weights and the order of the flowers (default: %(default)s)')
    args = parser.parse_args(argv)

    tf.logging.set_verbosity(tf.logging.INFO)
    classifier.latest_checkpoint(args.model_dir)  # ends here where it is damaged
    estimator = classifier.build_estimator(args.model_dir, tf_random_seed=args.seed)
    with cli.writing_to(args.model_dir):
        estimator.train(lambda: train_input_fn(*iris_data.load('iris_training.csv'), args.seed), max_steps=args.steps)
        metrics = estimator.evaluate(lambda: eval_input_fn(*iris_data.load('iris_test.csv')))
    print(f'Test set accuracy: {metrics["accuracy"]:.3f}')

    predictions = estimator.predict(lambda: eval_input_fn(iris_data.FLOWERS))
    for prediction, expected in zip(predictions, iris_data.EXPECTED):
        class_id = prediction['class_ids'][0]
        print(f'Prediction is "{iris_data.SPECIES[class_id]}" ({prediction["probabilities"][class_id]:.1%}), '
              f'expected "{iris_data.SPECIES[expected]}"')

    spec = tf.feature_column.make_parse_example_spec(classifier.feature_columns())
    receiver_fn = tf.estimator.export.build_parsing_serving_input_receiver_fn(spec)
    print(f'Exported to {export.export_model(estimator, args.export_dir, receiver_fn)}')


if __name__ == '__main__':
    main()
