"""Trains a DNNClassifier on 120 flowers, evaluates it on 30, predicts three, and exports it.

    python -m iris.train

leaves checkpoints in iris/model/ and an export in iris/saved_model/.
"""

import support
from estimator_inference import tf

from iris.iris_data import COLUMNS, FLOWERS, SPECIES, build_classifier, load


def train_input_fn(features, labels, batch_size):
    """Returns batches without end: features {name: float32 [batch_size]}, labels [batch_size]."""
    dataset = tf.data.Dataset.from_tensor_slices((features, labels))
    return dataset.shuffle(1000).repeat().batch(batch_size)


def eval_input_fn(features, labels=None):
    """Returns all flowers as one batch: features {name: float32 [n]} and labels [n], if any."""
    inputs = features if labels is None else (features, labels)
    return tf.data.Dataset.from_tensors(inputs)


def main(argv=None):
    flags = support.parser(__doc__, model_dir='iris/model', export_dir='iris/saved_model')
    args = flags.parse_args(argv)

    classifier = build_classifier(args.model_dir)
    features, labels = load('iris_training.csv')
    classifier.train(lambda: train_input_fn(features, labels, batch_size=100), max_steps=1000)

    metrics = classifier.evaluate(lambda: eval_input_fn(*load('iris_test.csv')))
    print(f'Test set accuracy: {metrics["accuracy"]:.3f}')

    for prediction, expected in zip(classifier.predict(lambda: eval_input_fn(FLOWERS)), SPECIES):
        class_id = prediction['class_ids'][0]
        probability = prediction['probabilities'][class_id]
        print(f'Prediction is "{SPECIES[class_id]}" ({probability:.1%}), expected "{expected}"')

    feature_spec = tf.feature_column.make_parse_example_spec(COLUMNS)
    receiver_fn = tf.estimator.export.build_parsing_serving_input_receiver_fn(feature_spec)
    export_dir = classifier.export_saved_model(args.export_dir, receiver_fn)
    print(f'Exported to {export_dir.decode()}')


if __name__ == '__main__':
    support.run(main)
