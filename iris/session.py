"""Predicts three flowers with the newest export of iris.train and a session by hand.

    python -m iris.session

loads the newest export in iris/saved_model/.
"""

import support
from estimator_inference import exports, tf

from iris.iris_data import ROWS, print_table, to_examples


def main(argv=None):
    args = support.parser(__doc__, export_dir='iris/saved_model').parse_args(argv)

    with tf.Session(graph=tf.Graph()) as session:
        # Load: the graph, its variables, and what the export says of itself.
        export = tf.saved_model.loader.load(session, ['serve'], exports.latest(args.export_dir))

        # Look up: the signature says what the tensors are called in the graph.
        signature = export.signature_def['serving_default']
        inputs = signature.inputs['inputs'].name
        fetches = [signature.outputs[key].name for key in ('classes', 'scores')]

        # Run.
        examples = [example.SerializeToString() for example in to_examples(ROWS)]
        classes, scores = session.run(fetches, {inputs: examples})

    print_table(classes, scores)


if __name__ == '__main__':
    support.run(main)
