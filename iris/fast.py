"""Predicts three flowers with FastPredict: the canned Estimator kept open, a dict of features in.

python -m iris.fast
"""

from support import script  # before TensorFlow
from estimator_inference import FastPredict, tf
from iris.classifier import build_classifier
from iris.iris_data import FEATURES, FLOWERS, table


@script(reads='iris/model')
def main(args):
    feature_spec = {key: tf.TensorSpec([None], tf.float32) for key in FEATURES}
    with FastPredict(build_classifier(args.model_dir), feature_spec) as fast_predict:
        predictions = fast_predict.predict(FLOWERS)
    print(
        table(
            [prediction['all_classes'] for prediction in predictions],
            [prediction['probabilities'] for prediction in predictions],
        )
    )


if __name__ == '__main__':
    main()
