"""Measures every way to predict side by side, in one run on one model, beside the figures of the posts.

    python compare.py

Ways that are to be compared take turns, a round each, so that a machine which gets slower or faster meanwhile does so
for all of them. All answers are checked.
"""
from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import signal
import sys
import tempfile
from concurrent import futures
from typing import Any, Callable, ContextManager, Iterator, NamedTuple, Optional, Sequence

import numpy as np

import cli
import export
import fast_predict
import latency
import model
import predict
import predictor
import serve
from tf1 import tf

import tensorflow as tf2  # after tf1, which sets it up

ROUNDS = 10
PARAMETERS_AND_BATCHES = [(3, (1, 10, 100, 1000, 10_000)), (1000, (1,)), (100_000, (1,)), (1_000_000, (1,)),
                          (10_000_000, (1,)), (30_000_000, (1,))]


class Protocol(NamedTuple):
    """One way to predict: a row of the table.

    Attributes:
      name: What it is called.
      open: A function of --model-dir and --export-dir that returns a context manager. To enter it is to load the model;
        it gives `get_predictions`, a function from a list of numbers to their predictions.
      batch: Examples in a call.
      share: The part of --examples to ask for, where a call takes long.
      post_a: Seconds an example in post A, on its author's machine, and
      post_b: in post B, on an NVIDIA RTX 2080 Ti. None where they don't say.
    """
    name: str
    open: Callable[[str, str], ContextManager[Callable]]
    batch: int = 1
    share: float = 1.0
    post_a: Optional[float] = None
    post_b: Optional[float] = None


@contextlib.contextmanager
def open_from_estimator(model_dir: str) -> Iterator[Callable]:
    """A predictor made from the Estimator, without an export."""
    with predictor.from_estimator(model.load_estimator(model_dir), export.serving_input_receiver_fn) as predict_fn:
        yield serve.asking(predict_fn, predict_fn.feed_tensors, predict_fn.fetch_tensors)


@contextlib.contextmanager
def open_tf2(export_dir: str) -> Iterator[Callable]:
    """`tf.saved_model.load`: the TensorFlow 2 way, to which post B looks ahead."""
    loaded = tf2.saved_model.load(latest_export(export_dir))
    signature = loaded.signatures['serving_default']
    feeds = signature.structured_input_signature[1]

    def predict_fn(inputs):
        outputs = signature(**{key: tf2.constant(value, feeds[key].dtype) for key, value in inputs.items()})
        return {key: output.numpy() for key, output in outputs.items()}

    yield serve.asking(predict_fn, feeds, signature.structured_outputs)


@contextlib.contextmanager
def open_session(export_dir: str) -> Iterator[Callable]:
    """`Session.run` with a feed dict: what `tf.contrib.predictor` did."""
    with tf.Graph().as_default() as graph:
        session = tf.Session()
        meta_graph = tf.saved_model.loader.load(session, ['serve'], latest_export(export_dir))
    signature = meta_graph.signature_def['serving_default']
    feeds = {key: graph.get_tensor_by_name(info.name) for key, info in signature.inputs.items()}
    fetches = {key: graph.get_tensor_by_name(info.name) for key, info in signature.outputs.items()}

    def predict_fn(inputs):
        return session.run(fetches, {feeds[key]: value for key, value in inputs.items()})

    with contextlib.closing(session):
        yield serve.asking(predict_fn, feeds, fetches)


def latest_export(export_dir: str) -> str:
    """Returns the path of the newest export, or ends the script with a line."""
    try:
        return predictor.latest_export(export_dir)
    except OSError as error:
        sys.exit(f'{error}: run python export.py --export-dir {export_dir}')


PROTOCOLS = [
    Protocol('Estimator.predict', lambda model_dir, _: predict.open_estimator(model_dir), share=0.01,
             post_a=0.19, post_b=0.1152),
    Protocol('FastPredict', lambda model_dir, _: fast_predict.open_fast_predict(model_dir), post_b=0.352e-3),
    Protocol('FastPredict, 10 a call', lambda model_dir, _: fast_predict.open_fast_predict(model_dir), batch=10,
             post_b=0.238e-3),
    Protocol('predictor.from_saved_model', lambda _, export_dir: serve.open_saved_model(export_dir), post_b=0.178e-3),
    Protocol('predictor.from_estimator', lambda model_dir, _: open_from_estimator(model_dir)),
    Protocol('tf.saved_model.load', lambda _, export_dir: open_tf2(export_dir)),
    Protocol('Session.run', lambda _, export_dir: open_session(export_dir)),
]


def compare(protocols: Sequence[Protocol], model_dir: str, export_dir: str,
            examples: int) -> Iterator[tuple[Protocol, latency.Timing]]:
    """Measures protocols in turns, and yields each with its timing as soon as its last turn is over.

    Raises:
      WrongAnswer: A prediction is more than 0.1% off. The message begins with the protocol's name.
    """
    with contextlib.ExitStack() as stack:
        stopwatches = {}
        for turn in range(ROUNDS + 1):  # the first loads, and warms up
            for protocol in protocols:
                progress(f'{"round " + str(turn) + " of " + str(ROUNDS) if turn else "loading"}: {protocol.name}')
                gc.collect()
                gc.disable()
                try:
                    if turn == 0:
                        stopwatch = latency.Stopwatch(protocol.open(model_dir, export_dir), protocol.batch)
                        stopwatches[protocol] = stack.enter_context(stopwatch)
                    else:
                        stopwatches[protocol].ask(max(1, round(examples * protocol.share / ROUNDS)))
                except latency.WrongAnswer as error:
                    raise latency.WrongAnswer(f'{protocol.name}: {error}') from None
                finally:
                    gc.enable()
                if turn == ROUNDS:
                    progress('')
                    yield protocol, stopwatches[protocol].timing


def progress(text: str) -> None:
    """Shows, on a terminal, what is going on, in place of what was shown before."""
    if sys.stderr.isatty():
        print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)


def describe_machine(device: str) -> dict[str, str]:
    """Returns what the figures depend on: versions, processor, number of cores, device."""
    with open('/proc/cpuinfo') as file:
        models = [line.partition(':')[2].strip() for line in file if line.startswith('model name')]
    return {'python': platform.python_version(), 'tensorflow': tf2.__version__, 'numpy': np.__version__,
            'processor': (models or [platform.machine()])[0], 'cores': str(len(os.sched_getaffinity(0))),
            'device': device}


def to_record(protocol: Protocol, timing: latency.Timing) -> dict:
    """Returns a row's full figures for JSON, in seconds an example."""
    return {'protocol': protocol.name, 'batch': protocol.batch, 'examples': len(timing.examples) * timing.batch,
            'load': timing.load, 'first_call': timing.first, 'mean': float(timing.examples.mean()),
            'median': float(np.median(timing.examples)), 'p99': float(np.percentile(timing.examples, 99)),
            'examples_per_second': float(1 / timing.examples.mean()), 'post_a': protocol.post_a,
            'post_b': protocol.post_b}


HEADER = ('', 'load', 'first call', 'median', 'p99', 'examples/s', 'faster', 'post A', 'post B')


def table_row(record: dict, baseline: Optional[float]) -> tuple[str, ...]:
    """Returns the cells of a row; `baseline` is the median of Estimator.predict, if that was measured."""
    def seconds(value):
        return latency.seconds(value) if value else ''
    return (record['protocol'], *(seconds(record[key]) for key in ('load', 'first_call', 'median', 'p99')),
            f'{record["examples_per_second"]:,.0f}', f'{baseline / record["median"]:,.0f} x' if baseline else '',
            seconds(record['post_a']), seconds(record['post_b']))


def print_row(cells: Sequence[str], widths: Sequence[int]) -> None:
    print(' | '.join([cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]),
          flush=True)


def compare_protocols(protocols: Sequence[Protocol], args: argparse.Namespace) -> list[dict]:
    """Prints the table, a row as soon as it is measured, and returns the figures."""
    widths = [max(len(protocol.name) for protocol in PROTOCOLS), 7, 10, 7, 7, 10, 9, 7, 7]
    print_row(HEADER, widths)
    records, baseline = [], None
    for protocol, timing in compare(protocols, args.model_dir, args.export_dir, args.examples):
        records.append(to_record(protocol, timing))
        if protocol.name == 'Estimator.predict':
            baseline = records[-1]['median']
        print_row(table_row(records[-1], baseline), widths)
    return records


def build_fn_with_table(rows: int) -> Callable:
    """Returns a `build_fn` that knows 2x from the start, and has a table of parameters besides, as for embeddings.

    A prediction looks one row up: the parameters grow, and the work stays the same.
    """
    def build_fn(features, params):
        predictions = tf.layers.dense(features, 1, kernel_initializer=tf.ones_initializer(), name='dense')
        if rows:
            table = tf.get_variable('table', [rows, 1], initializer=tf.zeros_initializer(), use_resource=True)
            predictions += tf.gather(table, tf.cast(features[:, 0], tf.int32) % rows)
        return {'predictions': predictions}
    return build_fn


def write_model(directory: str, parameters: int) -> None:
    """Writes a checkpoint and an export of a 2x model with so many parameters."""
    model.build_fn = build_fn_with_table(parameters - 3)
    with tf.Graph().as_default(), tf.Session() as session:
        model.build_fn(tf.placeholder(tf.float32, [None, 2]), {})
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, os.path.join(directory, 'model.ckpt'), 0)
    model.load_estimator(directory).export_saved_model(os.path.join(directory, 'saved_model'),
                                                       export.serving_input_receiver_fn)


def measure_model(name: str, directory: str, parameters: int, batch: int, calls: int) -> dict:
    """Returns the median time of an example, in seconds, and the peak of this process's memory, in bytes."""
    model.build_fn = build_fn_with_table(parameters - 3)
    [protocol] = [protocol for protocol in PROTOCOLS if protocol.name == name]
    opened = protocol.open(directory, os.path.join(directory, 'saved_model'))
    timing = latency.measure(opened, batch * max(3, round(calls * protocol.share)), batch)
    return {'protocol': name, 'parameters': parameters, 'batch': batch, 'median': float(np.median(timing.examples)),
            'peak_memory': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def in_child(function: Callable, *args: Any) -> Any:
    """Calls a function in a process of its own, so that its peak of memory is its own too."""
    context = multiprocessing.get_context('forkserver')  # forks a process that has imported TensorFlow, not used it
    context.set_forkserver_preload([__name__])
    silently = signal.signal, (signal.SIGINT, signal.SIG_DFL)  # how it dies of Ctrl-C: this process says it
    with futures.ProcessPoolExecutor(1, context, *silently) as pool:
        return pool.submit(function, *args).result()


def compare_scale(protocols: Sequence[Protocol], calls: int) -> list[dict]:
    """Prints latency and memory as the parameters and the batch grow, and returns the figures."""
    records = []
    widths = [10, 6, *(max(18, len(protocol.name)) for protocol in protocols)]
    print_row(['parameters', 'batch', *(protocol.name for protocol in protocols)], widths)
    for parameters, batches in PARAMETERS_AND_BATCHES:
        with tempfile.TemporaryDirectory() as directory:
            in_child(write_model, directory, parameters)
            for batch in batches:
                cells = [f'{parameters:,}', f'{batch:,}']
                for protocol in protocols:
                    progress(f'{parameters:,} parameters, {batch:,} examples a call: {protocol.name}')
                    records.append(in_child(measure_model, protocol.name, directory, parameters, batch, calls))
                    cells.append(f'{latency.seconds(records[-1]["median"])}, '
                                 f'{records[-1]["peak_memory"] / 1e6:4.0f} MB')
                progress('')
                print_row(cells, widths)
    return records


def plot(records: Sequence[dict], path: str) -> None:
    """Draws the figures of `compare_protocols` or of `compare_scale` as SVG or PNG."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    gray = '#808080'  # legible on white and on black
    pyplot.rcParams.update({'text.color': gray, 'axes.labelcolor': gray, 'axes.edgecolor': gray, 'xtick.color': gray,
                            'ytick.color': gray, 'font.size': 11, 'svg.fonttype': 'none', 'svg.hashsalt': 'compare'})
    protocols = list(dict.fromkeys(record['protocol'] for record in records))
    if 'load' in records[0]:
        figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(records) + 1.2))
        axes.barh(protocols, [record['median'] * 1e6 for record in records], color='#4c8bf5', height=0.6)
        for record in records:
            right = max(filter(None, (record['median'], record['post_a'], record['post_b'])))
            axes.text(right * 1.3e6, record['protocol'], latency.seconds(record['median']), va='center')
        for post, marker, color in (('post_a', 'D', '#e8710a'), ('post_b', 'o', '#d93025')):
            posts = [(record[post] * 1e6, record['protocol']) for record in records if record[post]]
            times, names = [seconds for seconds, _ in posts], [name for _, name in posts]
            axes.scatter(times, names, marker=marker, color=color, zorder=3,
                         label={'post_a': "post A, its author's machine", 'post_b': 'post B, RTX 2080 Ti'}[post])
        axes.set(xscale='log', xlabel='microseconds an example (median), logarithmic', xlim=(1, 2e6))
        axes.invert_yaxis()
        axes.legend(loc='lower right', labelcolor=gray, framealpha=0)
    else:
        figure, axes = pyplot.subplots(figsize=(9, 4.5))
        for number, protocol in enumerate(protocols):
            line = [(record['parameters'], record['median'] * 1e6) for record in records
                    if record['protocol'] == protocol and record['batch'] == 1]
            axes.plot(*zip(*line), marker='o', label=protocol, linestyle=('-', '--')[number % 2])
        axes.set(xscale='log', yscale='log', xlabel='parameters of the model',
                 ylabel='microseconds an example (median)')
        axes.legend(bbox_to_anchor=(1.02, 1), loc='upper left', labelcolor=gray, framealpha=0)
    figure.savefig(path, transparent=True, bbox_inches='tight', metadata={'Date': None} if path.endswith('svg') else {})
    pyplot.close(figure)


def main(argv: Optional[Sequence[str]] = None) -> None:
    names = [protocol.name for protocol in PROTOCOLS]
    parser = cli.Parser(__doc__)
    parser.add('--model-dir', '--export-dir', '--examples', '--device')
    parser.add_argument('--protocols', nargs='+', choices=names, default=names, metavar='NAME',
                        help='the rows to measure (default: all): ' + ', '.join(map(repr, names)))
    parser.add_argument('--scale', action='store_true',
                        help='measure models of 3 to 30 million parameters, and calls of 1 to 10,000 examples, instead')
    parser.add_argument('--json', type=cli.new_file, metavar='FILE', help='write the full figures there')
    parser.add_argument('--plot', type=cli.picture, metavar='FILE', help='draw them there, as .svg or .png')
    args = parser.parse_args(argv)

    protocols = [protocol for protocol in PROTOCOLS if protocol.name in args.protocols]
    if args.scale:
        protocols = [protocol for protocol in protocols if protocol.batch == 1]  # it has its own batches
        if not protocols:
            parser.error('--scale measures none of --protocols')
    if args.plot and importlib.util.find_spec('matplotlib') is None:
        sys.exit('--plot needs matplotlib: pip install -r requirements-plot.txt')
    if args.device == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = '-1'  # TensorFlow looks for GPUs at its first use, after this
    tf.logging.set_verbosity(tf.logging.ERROR)
    machine = describe_machine(model.device_config(args.device)[0])
    print('Python {python}, TensorFlow {tensorflow}, numpy {numpy}; {processor}, {cores} cores, on {device}; '
          '{examples:,} examples a row (Estimator.predict: a hundredth, at least {rounds})'.format(
              **machine, examples=args.examples, rounds=ROUNDS), flush=True)

    if args.scale:
        records = compare_scale(protocols, args.examples // 20)
    else:
        records = compare_protocols(protocols, args)
    try:
        if args.json:
            with open(args.json, 'w') as file:
                json.dump({'machine': machine, 'rows': records}, file, indent=2)
        if args.plot:
            plot(records, args.plot)
    except OSError as error:
        sys.exit(f"can't write {args.json or args.plot}: {error.strerror}")


if __name__ == '__main__':
    main()
