"""Prints the ratios that predictor.py and fast_predict.py are held to, each measured in turns in this one process.

    make benchmark

It needs requirements-benchmark.txt for ONNX Runtime, and does without where that isn't installed.
"""
import contextlib
import os
import sys
import tempfile
import threading
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import export  # noqa: E402
import fast_predict  # noqa: E402
import latency  # noqa: E402
import model  # noqa: E402
import predictor  # noqa: E402
import train  # noqa: E402
from tf1 import tf  # noqa: E402

import tensorflow as tf2  # noqa: E402


def medians(calls, seconds):
    """Returns {name: median seconds of a call}, the calls taking turns of 20 ms; each is warmed up first."""
    times = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(20):
            call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            turn_end = time.perf_counter() + 0.02
            while time.perf_counter() < turn_end:
                tic = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - tic)
    return {name: float(np.median(values)) for name, values in times.items()}


def line(text, time_, ratio=None, bound=''):
    print(f'  {text:<64} {latency.seconds(time_):>7}' + (f'  {ratio:7.2f} x {bound}' if ratio else ''), flush=True)


def open_onnx(kernel, bias):
    """Returns ONNX Runtime's session for the same model, or None."""
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError:
        return None
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    graph = helper.make_graph(
        [helper.make_node('Tile', ['number', 'twice'], ['features']),
         helper.make_node('MatMul', ['features', 'kernel'], ['product']),
         helper.make_node('Add', ['product', 'bias'], ['output'])], 'double',
        [helper.make_tensor_value_info('number', onnx.TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info('output', onnx.TensorProto.FLOAT, [None, 1])],
        [to_tensor(np.array([1, 2]), 'twice'), to_tensor(kernel, 'kernel'), to_tensor(bias, 'bias')])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    print(f'ONNX Runtime {onnxruntime.__version__}')
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=['CPUExecutionProvider'])


def wide_graph(branches, width, layers=3):
    """Returns (session, input, output) of a model with branches that TensorFlow could run in parallel."""
    graph = tf.Graph()
    with graph.as_default():
        tf.set_random_seed(1)
        x = tf.placeholder(tf.float32, [None, width])
        outputs = []
        for _ in range(branches):
            output = x
            for _ in range(layers):
                weights = tf.Variable(tf.random.normal([width, width], stddev=width ** -0.5), use_resource=True)
                output = tf.nn.relu(tf.matmul(output, weights))
            outputs.append(output)
        y = tf.add_n(outputs)
        session = tf.Session()
        session.run(tf.global_variables_initializer())
    return session, x, y


def benchmark_predictor(model_dir, export_dir):
    predict_fn = predictor.from_saved_model(export_dir)
    with tf.Graph().as_default():
        session = tf.Session()
        signature = tf.saved_model.loader.load(session, ['serve'], export_dir).signature_def['serving_default']
        number = session.graph.get_tensor_by_name(signature.inputs['number'].name)
        outputs = {'output': session.graph.get_tensor_by_name(signature.outputs['output'].name)}
    loaded = tf2.saved_model.load(export_dir)
    tf2_signature = loaded.signatures['serving_default']
    onnx = open_onnx(tf.train.load_variable(model_dir, 'dense/kernel'), tf.train.load_variable(model_dir, 'dense/bias'))
    nb = 3.0

    print('predictor.py, batch 1:')
    calls = {'predictor': lambda: predict_fn({'number': [[nb]]})['output'],
             'Session.run with a feed dict': lambda: session.run(outputs, {number: [[nb]]})['output'],
             'TensorFlow 2 signature': lambda: tf2_signature(number=tf2.constant([[nb]]))['output'].numpy()}
    if onnx:
        calls['ONNX Runtime'] = lambda: onnx.run(['output'], {'number': np.array([[nb]], np.float32)})[0]
    times = medians(calls, 10.0)
    for name, bound in zip(calls, ('', 'at least 15', 'at least 20', 'at least 1')):
        line(name, times[name], times[name] / times['predictor'], bound)

    print('predictor.py, an example in batches:')
    for batch in (10, 100, 1000, 10_000):
        numbers = np.arange(batch, dtype=np.float32)[:, None]
        times = medians({'predictor': lambda: predict_fn({'number': numbers}),
                         'Session.run': lambda: session.run(outputs, {number: numbers})}, 2.0)
        line(f'batch {batch:,}: Session.run / predictor', times['predictor'] / batch,
             times['Session.run'] / times['predictor'], 'at least 1')

    print('predictor.py, 8 threads:')
    rates = {name: throughput(call) for name, call in list(calls.items())[:2] * 2}
    line('an example, all threads together: Session.run / predictor', 1 / rates['predictor'],
         rates['predictor'] / rates['Session.run with a feed dict'], 'at least 1')

    print('predictor.py, parallel branches of 3 layers, batch 1: in the calling thread, and in TensorFlow\'s pool:')
    for branches, width in ((2, 64), (8, 64), (8, 256), (2, 1024), (8, 1024)):
        wide, x, y = wide_graph(branches, width)
        value = np.ones([1, width], np.float32)
        inline = predictor.Predictor(wide, {'x': x}, {'y': y}, tuned=True)
        pool = predictor.Predictor(wide, {'x': x}, {'y': y}, tuned=False)
        times = medians({'inline': lambda: inline({'x': value}), 'pool': lambda: pool({'x': value})}, 2.0)
        line(f'{branches} branches, {width} wide: pool / calling thread', times['inline'],
             times['pool'] / times['inline'])
        inline.close()


def throughput(call, threads=8, seconds=2.0):
    """Returns the calls a second of several threads together."""
    counts, end = [0] * threads, time.perf_counter() + seconds

    def work(index):
        while time.perf_counter() < end:
            call()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def benchmark_fast_predict(model_dir):
    estimator = model.load_estimator(model_dir)
    features = np.array([[3.0, 3.0]], np.float32)
    ten = features.repeat(10, axis=0)

    def endless():  # the posts' FastPredict: the answers are late by what tf.data reads ahead, but as fast
        while True:
            yield features[0]

    posts = estimator.predict(lambda: tf.data.Dataset.from_generator(endless, tf.float32, [2]).batch(1))
    opened = threading.Thread(target=next, args=(posts,))  # in a thread of its own, which it leaves unusable
    opened.start()
    opened.join()

    with fast_predict.FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) as opened_fast_predict:
        times = medians({"the posts' FastPredict (wrong answers)": lambda: next(posts),
                         'FastPredict': lambda: opened_fast_predict.predict(features),
                         'FastPredict, 10 examples': lambda: opened_fast_predict.predict(ten)}, 6.0)
    print('fast_predict.py:')
    slow = times["the posts' FastPredict (wrong answers)"]
    line("the posts' FastPredict (wrong answers)", slow)
    line('FastPredict', times['FastPredict'], slow / times['FastPredict'], 'at least 4')
    ten_time = times['FastPredict, 10 examples'] / 10
    line('FastPredict, an example in calls of 10', ten_time, slow / ten_time, 'at least 25')


def main():
    tf.logging.set_verbosity(tf.logging.ERROR)
    print(f'Python {sys.version.split()[0]}, TensorFlow {tf2.__version__}, numpy {np.__version__}, '
          f'{len(os.sched_getaffinity(0))} cores')
    with tempfile.TemporaryDirectory() as directory:
        model_dir, export_dir = os.path.join(directory, 'model'), os.path.join(directory, 'saved_model')
        with contextlib.redirect_stdout(None):
            train.main(['--model-dir', model_dir])
            export.main(['--model-dir', model_dir, '--export-dir', export_dir])
        tf.logging.set_verbosity(tf.logging.ERROR)
        benchmark_predictor(model_dir, predictor.latest_export(export_dir))
        benchmark_fast_predict(model_dir)
        sys.stdout.flush()
        os._exit(0)  # the posts' FastPredict can't be closed


if __name__ == '__main__':
    main()
