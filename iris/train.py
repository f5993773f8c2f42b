"""Trains a canned Estimator on 120 flowers, evaluates it on 30 others, predicts three, and exports it.

    python -m iris.train

leaves checkpoints in iris/model/ and an export, which takes serialized `tf.train.Example`s, in iris/saved_model/.
"""

from support import script  # before TensorFlow
from estimator_inference import tf
from iris.classifier import build_classifier, feature_columns
from iris.iris_data import EXPECTED, FLOWERS, SPECIES, load
from support.command_line import positive
from support.directories import writing_to


def train_input_fn(features, labels, batch_size):
    """Returns batches of features, {name: float32 [batch_size]}, and labels, int32 [batch_size], without end."""
    return (
        tf.data.Dataset.from_tensor_slices((dict(features), labels))
        .shuffle(1000)
        .repeat()
        .batch(batch_size)
    )


def eval_input_fn(features, labels=None):
    """Returns all flowers in one batch: features {name: float32 [n]} and, if there are any, labels [n]."""
    return tf.data.Dataset.from_tensors(
        dict(features) if labels is None else (dict(features), labels)
    )


@script(
    writes='iris/model',
    export_dir='iris/saved_model',
    seed=1,
    steps=dict(
        metavar='N',
        type=positive,
        default=1000,
        help='train until the step N (default: %(default)s)',
    ),
)
def main(args):
    classifier = build_classifier(args.model_dir, tf.estimator.RunConfig(tf_random_seed=args.seed))
    classifier.train(
        lambda: train_input_fn(*load('iris_training.csv'), batch_size=100), max_steps=args.steps
    )

    metrics = classifier.evaluate(lambda: eval_input_fn(*load('iris_test.csv')))
    print(f'Test set accuracy: {metrics["accuracy"]:.3f}')

    for prediction, expected in zip(classifier.predict(lambda: eval_input_fn(FLOWERS)), EXPECTED):
        class_id = prediction['class_ids'][0]
        print(
            f'Prediction is "{SPECIES[class_id]}" ({prediction["probabilities"][class_id]:.1%}), '
            f'expected "{SPECIES[expected]}"'
        )

    feature_spec = tf.feature_column.make_parse_example_spec(feature_columns())
    receiver_fn = tf.estimator.export.build_parsing_serving_input_receiver_fn(feature_spec)
    with writing_to(args.export_dir):
        export_dir = classifier.export_saved_model(args.export_dir, receiver_fn).decode()
    print(f'Exported to {export_dir}')


if __name__ == '__main__':
    main()
