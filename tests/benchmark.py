"""Prints how fast each way to predict is beside the predictor, measured in turns in this one process.

    make benchmark

A ratio is the median of the rounds, behind it are the smallest and the largest. A limit has a margin, and whether it is
reached is printed and no more: how far noise moves a ratio, the spread tells.
"""

import contextlib
import functools
import importlib.util
import os
import sys
import tempfile
import threading
import time
from concurrent import futures

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402
import tensorflow as tf2  # noqa: E402

import support  # noqa: E402, F401  before TensorFlow
import compare  # noqa: E402
import export  # noqa: E402
import fast_predict  # noqa: E402
import train  # noqa: E402
from estimator_inference import FastPredict, exports, predictor, tf  # noqa: E402
from estimator_inference.fast_session import tuned  # noqa: E402
from model import model_fn  # noqa: E402
from support.timing import seconds  # noqa: E402

ROUNDS, TURN = 15, 0.05


def turn(calls):
    """Returns the median time of a call; of several, each in a thread of its own, how long it takes for one to end."""
    if len(calls) == 1:
        times, end = [], time.perf_counter() + TURN
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            calls[0]()
            times.append(time.perf_counter() - start)
        return float(np.median(times))
    counts, start = [0] * len(calls), time.perf_counter()

    def work(index):
        while not counts[index] or time.perf_counter() < start + TURN:
            calls[index]()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - start) / sum(counts)


def measure(title, makers, limits=(), threads=1):
    """Prints a line for each way to predict, the first of which the others are compared with.

    Args:
      title: What is printed above.
      makers: {name: a function of an ExitStack that loads a model and returns a call without arguments}. Each has a
        thread of its own, as in compare.py.
      limits: {name: (least ratio, or None; most, or None)}.
      threads: How many threads call at the same time.
    """
    times = {name: [] for name in makers}
    with contextlib.ExitStack() as stack:
        turns = {}
        for name, maker in makers.items():
            thread, opened = (
                stack.enter_context(futures.ThreadPoolExecutor(1)),
                contextlib.ExitStack(),
            )
            stack.callback(
                lambda thread=thread, opened=opened: thread.submit(opened.close).result()
            )
            calls = [
                thread.submit(maker, opened).result()
                for _ in range(threads if name == 'LiteRT' else 1)
            ]
            turns[name] = functools.partial(thread.submit, turn, calls * (threads // len(calls)))
            turns[name]().result()  # warms up
        for _ in range(ROUNDS):
            for name, start in turns.items():
                times[name].append(start().result())
    print(f'{title}:')
    first = next(iter(times))
    for name in times:
        ratios = np.divide(times[name], times[first])
        ratio, text = np.median(ratios), f'  {name:<40} {seconds(np.median(times[name])):>7}'
        if name != first:
            text += f'  {ratio:7.2f} x ({ratios.min():.2f} to {ratios.max():.2f})'
        if name in limits:
            least, most = limits[name]
            reached = (least is None or ratio >= least) and (most is None or ratio <= most)
            text += f'  at {f"least {least}" if least else f"most {most}"}: {"ok" if reached else "not reached"}'
        print(text, flush=True)


def session_call(model, array, stack):
    """`Session.run` with a feed dict, as tf.contrib.predictor's."""
    with tf.Graph().as_default() as graph:
        session = stack.enter_context(contextlib.closing(tf.Session()))
        signature = tf.saved_model.loader.load(session, ['serve'], model.export_dir).signature_def[
            'serving_default'
        ]
    feed = {graph.get_tensor_by_name(signature.inputs['number'].name): array}
    fetch = {'output': graph.get_tensor_by_name(signature.outputs['output'].name)}
    return lambda: session.run(fetch, feed)


def tf2_call(model, array, stack):
    loaded = tf2.saved_model.load(model.export_dir)
    stack.callback(lambda: loaded)  # its variables live as long
    signature = loaded.signatures['serving_default']
    return lambda: signature(number=tf2.constant(array))['output'].numpy()


def ways(model, batch):
    """Returns {name: maker}, see `measure`, for a batch of so many numbers."""
    array = np.full([batch, 1], 3, np.float32)
    features, spec = array.repeat(2, axis=1), tf.TensorSpec([None, 2], tf.float32)
    makers = {
        'predictor': lambda stack: functools.partial(
            stack.enter_context(predictor.from_saved_model(model.export_dir)), {'number': array}
        ),
        'FastPredict': lambda stack: functools.partial(
            stack.enter_context(FastPredict(model.estimator, spec)).predict, features
        ),
        'Session.run': functools.partial(session_call, model, array),
        'TensorFlow 2 signature': functools.partial(tf2_call, model, array),
    }
    if importlib.util.find_spec('onnxruntime') and importlib.util.find_spec('onnx'):
        makers['ONNX Runtime'] = lambda stack: functools.partial(
            compare.onnx_function(model.layers), array
        )
    if importlib.util.find_spec('ai_edge_litert'):
        makers['LiteRT'] = lambda stack: functools.partial(
            compare.lite_function(model.layers, batch), array
        )
    return makers


def wide_graph(branches, width, layers=3):
    """Returns (session, input, output, config) of a model with branches that TensorFlow could run in parallel."""
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(1)
        x = tf.placeholder(tf.float32, [None, width])
        outputs = []
        for _ in range(branches):
            output = x
            for _ in range(layers):
                weights = tf.Variable(
                    tf.random.normal([width, width], stddev=width**-0.5), use_resource=True
                )
                output = tf.nn.relu(tf.matmul(output, weights))
            outputs.append(output)
        initializer, y = tf.global_variables_initializer(), tf.add_n(outputs)

    def maker(threads, stack):
        config = tuned(graph, tf.ConfigProto(inter_op_parallelism_threads=threads))
        session = tf.Session(graph=graph, config=config)
        session.run(initializer)
        predict_fn = stack.enter_context(predictor.Predictor(session, {'x': x}, {'y': y}))
        return functools.partial(predict_fn, {'x': np.ones([1, width], np.float32)})

    return {
        'in the calling thread': functools.partial(maker, 0),
        "in TensorFlow's pool": functools.partial(maker, len(os.sched_getaffinity(0))),
    }


def posts(model):
    """Returns the makers for FastPredict, the library's and those on a generator."""

    def generator(kind, stack):
        return functools.partial(compare.open_generator(model, stack, kind), [3])

    return {
        "the library's FastPredict": ways(model, 1)['FastPredict'],
        'FastPredict on a generator': functools.partial(generator, fast_predict.FastPredict),
        'FastPredict as the posts have it (wrong)': functools.partial(
            generator, compare.PostsFastPredict
        ),
    }


def main():
    with tempfile.TemporaryDirectory() as directory:
        model_dir, export_dir = (
            os.path.join(directory, 'model'),
            os.path.join(directory, 'saved_model'),
        )
        with contextlib.redirect_stdout(None):
            train.main(['--model-dir', model_dir])
            export.main(['--model-dir', model_dir, '--export-dir', export_dir])
        tf.logging.set_verbosity(tf.logging.ERROR)
        layers = [
            tuple(tf.train.load_variable(model_dir, f'dense/{name}') for name in ('kernel', 'bias'))
        ]
        estimator = tf.estimator.Estimator(model_fn, model_dir, params={})
        model = compare.Model(estimator, exports.latest(export_dir), layers, {})
        compare.describe_machine('CPU' if not tf.config.list_physical_devices('GPU') else 'GPU', 60)
        for batch in (1, 10, 1000):
            limits = {
                'Session.run': (10 if batch < 1000 else 0.8, None),
                'ONNX Runtime': (0.7, None),
            }
            limits.update({'TensorFlow 2 signature': (15, None)} if batch == 1 else {})
            both = (
                {'FastPredict': (None, 1.6)} if batch < 1000 else {}
            )  # of 1,000 it makes 1,000 predictions
            measure(f'A call of {batch:,}', ways(model, batch), {**limits, **both})
            measure(
                f'A call of {batch:,}, 8 threads together',
                ways(model, batch),
                {'Session.run': (0.8, None), **both},
                8,
            )
        measure(
            'FastPredict', posts(model), {'FastPredict as the posts have it (wrong)': (4, None)}
        )
        for branches, width in ((2, 64), (8, 64), (8, 256), (2, 1024), (8, 1024)):
            measure(
                f'{branches} parallel branches of 3 layers, {width} wide',
                wide_graph(branches, width),
            )


if __name__ == '__main__':
    main()
