"""Predicts three flowers with the newest export of iris.train and a predictor.

    python -m iris.serve

loads the newest export in iris/saved_model/.
"""

import support
from estimator_inference import exports, predictor

from iris.iris_data import ROWS, print_table, to_examples


def main(argv=None):
    args = support.parser(__doc__, export_dir='iris/saved_model').parse_args(argv)

    predict_fn = predictor.from_saved_model(exports.latest(args.export_dir))
    examples = [example.SerializeToString() for example in to_examples(ROWS)]
    predictions = predict_fn({'inputs': examples})
    print_table(predictions['classes'], predictions['scores'])


if __name__ == '__main__':
    support.run(main)
