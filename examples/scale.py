"""Measures latency and memory as the parameters and the batch grow: 4 to 30 million, and 1 to 10,000.

    python -m beyond.scale

Each figure is of a process of its own, whose peak of memory is shown beside the time of an example.
"""

import multiprocessing
import resource
import signal
import tempfile
from concurrent import futures
from multiprocessing import forkserver

from support import script  # before TensorFlow
from compare import (
    ROWS,
    Model,
    Stopwatch,
    describe_machine,
    print_row,
    progress,
    result,
    write_json,
)
from estimator_inference import tf
from export import serving_input_receiver_fn
from support.timing import seconds

PARAMETERS_AND_BATCHES = [
    (4, (1, 10, 100, 1000, 10_000)),
    (1000, (1,)),
    (100_000, (1,)),
    (1_000_000, (1,)),
    (10_000_000, (1,)),
    (30_000_000, (1,)),
]
HEADS = {  # the names of the rows of compare.py, and what stands above their columns
    'Estimator.predict': 'Estimator.predict',
    'Session.run: what tf.contrib.predictor did': 'Session.run',
    "the library's FastPredict": 'FastPredict',
    'predictor.from_saved_model': 'from_saved_model',
    'predictor.from_estimator': 'from_estimator',
    'tf.saved_model.load': 'saved_model.load',
}
NAMES = list(HEADS)


def model_fn(features, labels, mode, params):
    """Answers 2x untrained. It looks up one row of a table, so that the model can grow and the work stays the same."""
    features = features['feature'] if isinstance(features, dict) else features
    table = tf.get_variable(
        'table', [params['rows'], 1], initializer=tf.zeros_initializer(), use_resource=True
    )
    output = tf.layers.dense(features, 1, kernel_initializer=tf.ones_initializer(), name='dense')
    output += tf.gather(table, tf.cast(features[:, 0], tf.int32) % params['rows'])
    return tf.estimator.EstimatorSpec(mode, predictions=output)


def write_model(directory, rows):
    """Writes a checkpoint, and an export of it; returns the path of the export."""
    with tf.Graph().as_default(), tf.Session() as session:
        model_fn(tf.placeholder(tf.float32, [None, 2]), None, 'infer', {'rows': rows})
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, f'{directory}/model.ckpt', 0)
    estimator = tf.estimator.Estimator(model_fn, directory, params={'rows': rows})
    return estimator.export_saved_model(
        f'{directory}/saved_model', serving_input_receiver_fn
    ).decode()


def measure(name, directory, export_dir, rows, batch, calls):
    """Returns the figures of a row of compare.py: seconds an example, and the peak of memory in bytes."""
    [row] = [row._replace(batch=batch) for row in ROWS if row.name == name]
    estimator = tf.estimator.Estimator(model_fn, directory, params={'rows': rows})
    stopwatch = Stopwatch(
        row, Model(estimator, export_dir, [], {nb: 2 * nb for nb in range(100, 200)})
    )
    stopwatch.load()
    stopwatch.ask(max(3, round(calls * row.share)))
    stopwatch.close()
    return {
        'row': name,
        'parameters': rows + 3,
        'batch': batch,
        'median': stopwatch.record()['median'],
        'peak_memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_child(function, *args):
    """Calls a function in a process of its own."""
    context = multiprocessing.get_context(
        'forkserver'
    )  # its server has imported TensorFlow and not used it
    context.set_forkserver_preload(['compare'])
    before = signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # inherited: at Ctrl-C this process kills the child
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)
    with futures.ProcessPoolExecutor(1, context) as pool:
        try:
            return result(pool.submit(function, *args))
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.kill()
            raise


@script(
    examples=10_000,
    json=None,
    rows=dict(
        nargs='+',
        choices=NAMES,
        default=NAMES,
        metavar='NAME',
        help='what to measure (default: all): ' + ', '.join(map('"{}"'.format, NAMES)),
    ),
)
def main(args):
    names = [name for name in NAMES if name in args.rows]
    machine = describe_machine(args.device, 200 * len(names) / len(NAMES))
    widths = 10, 7, *(max(16, len(HEADS[name]) + 1) for name in names)
    print_row('parameters', 'batch', *map(HEADS.get, names), widths=widths)
    records = []
    for parameters, batches in PARAMETERS_AND_BATCHES:
        with tempfile.TemporaryDirectory() as directory:
            export_dir = in_child(write_model, directory, parameters - 3)
            for batch in batches:
                cells = []
                for name in names:
                    progress(f'{parameters:,} parameters, {batch:,} examples a call: {name}')
                    record = in_child(
                        measure,
                        name,
                        directory,
                        export_dir,
                        parameters - 3,
                        batch,
                        args.examples // 20,
                    )
                    cells.append(
                        f'{seconds(record["median"])}, {record["peak_memory"] / 1e6:.0f} MB'
                    )
                    records.append(record)
                progress('')
                print_row(f'{parameters:,}', f'{batch:,}', *cells, widths=widths)
    write_json(args.json, machine=machine, rows=records)


if __name__ == '__main__':
    main()
