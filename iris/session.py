"""Predicts three flowers with the newest export and nothing but a session: load, look up the signature, run.

python -m iris.session
"""

import tensorflow.compat.v1 as tf

from support import script  # before TensorFlow
from estimator_inference import exports
from iris.iris_data import FLOWERS, serialized, table


def predict(export_dir, examples):
    """Returns an export's answer to n serialized `tf.train.Example`s: classes, bytes [n, 3], and scores [n, 3]."""
    with tf.Session(graph=tf.Graph()) as session:
        try:
            meta_graph = tf.saved_model.loader.load(session, ['serve'], export_dir)
        except (OSError, tf.errors.OpError) as error:
            raise exports.DamagedExport(f'{export_dir} is damaged: {error}') from None
        signature = meta_graph.signature_def['serving_default']
        if signature.method_name != tf.saved_model.signature_constants.CLASSIFY_METHOD_NAME:
            raise ValueError(f'{export_dir} has no classifier for its serving_default')
        fetches = signature.outputs['classes'].name, signature.outputs['scores'].name
        return session.run(fetches, {signature.inputs['inputs'].name: examples})


@script(reads='iris/saved_model')
def main(args):
    print(table(*predict(exports.latest(args.export_dir), serialized(FLOWERS))))


if __name__ == '__main__':
    main()
