"""Predicts three flowers with the newest export and a predictor: serialized `tf.train.Example`s in. No Estimator.

python -m iris.serve
"""

from support import script  # before TensorFlow
from estimator_inference import exports, predictor
from iris.iris_data import FLOWERS, serialized, table


@script(reads='iris/saved_model')
def main(args):
    predict_fn = predictor.from_saved_model(exports.latest(args.export_dir))
    predictions = predict_fn({'inputs': serialized(FLOWERS)})
    print(table(predictions['classes'], predictions['scores']))


if __name__ == '__main__':
    main()
