"""Predicts three flowers with FastPredict: the Estimator is kept open, and features go in.

    python -m iris.fast

asks the Estimator of iris.train, kept open.
"""

import support
from estimator_inference import FastPredict, tf

from iris.iris_data import FEATURES, FLOWERS, build_classifier, print_table


def main(argv=None):
    args = support.parser(__doc__, model_dir='iris/model').parse_args(argv)

    if not tf.train.latest_checkpoint(args.model_dir):
        raise support.Error(f'no checkpoint in {args.model_dir}: run python -m iris.train')
    feature_spec = {key: tf.TensorSpec([None], tf.float32) for key in FEATURES}
    with FastPredict(build_classifier(args.model_dir), feature_spec) as fast_predict:
        predictions = fast_predict.predict(FLOWERS)
    classes = [prediction['all_classes'] for prediction in predictions]
    print_table(classes, [prediction['probabilities'] for prediction in predictions])


if __name__ == '__main__':
    support.run(main)
