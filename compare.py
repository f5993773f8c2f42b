"""Measures every way to predict side by side, beside the figures of the posts.

    python compare.py                         the table, in a minute or two
    python compare.py --batch 10 --threads 8  the same, 10 examples a call, by 8 threads
    python compare.py --parameters 1000 1000000 --rows predictor.from_saved_model
    python compare.py --check                 the ratios that docs/speed.md promises

All rows predict from one checkpoint and take turns: what slows the machine down slows down each.
Every answer is compared with what the checkpoint's variables give. With several values of --batch
or --parameters, each figure is of a process of its own, whose peak of memory is shown.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from typing import Any, Callable, NamedTuple, Optional, Sequence, Union

import support
import estimator_inference
import numpy as np
import tensorflow as tf2
from estimator_inference import predictor, tf
from export import serving_input_receiver_fn
from fast_predict import FastPredict, PostsFastPredict
from model import model_fn

ROUNDS = 10
SECONDS = 0.5  # after which a row's turn is over, however many examples are left


class Model(NamedTuple):
    """What the rows load and are asked."""

    estimator: Any  # with a checkpoint
    export_dir: str  # of an export of that checkpoint
    numbers: np.ndarray  # what is asked: [n]
    answers: np.ndarray  # what the checkpoint's variables give for them: float [n]
    batch: int = 1  # examples a call


class Row(NamedTuple):
    """A way to predict.

    `open(model, stack)` loads, and leaves to an ExitStack what is to be closed. It returns a
    function from inputs (a list for one example, as in the posts, an array for several) to their
    predictions: a list of n, an array [n, 1] or a dict of arrays.
    """

    name: str
    open: Callable[[Model, contextlib.ExitStack], Callable]
    columns: int = 1  # what it takes: `number` [n, 1], or the features [n, 2]
    batch: Optional[int] = None  # examples a call, if not as many as --batch says
    own: bool = False  # whether each thread needs one of its own
    post_a: Union[float, str, None] = None  # seconds an example, on the machine of its author
    post_b: Optional[float] = None  # likewise, on an NVIDIA RTX 2080 Ti
    lags: bool = False  # whether it is known to answer earlier questions
    needs: Sequence[str] = ()  # packages without which it is left out


def open_estimator(model, stack):
    def input_fn(features):  # as in predict.py
        dataset = tf.data.Dataset.from_generator(lambda: features, tf.float32, [2])
        return dataset.batch(len(features))

    return lambda features: list(model.estimator.predict(functools.partial(input_fn, features)))


def open_generator(kind, model, stack):
    opened = kind(model.estimator)
    # An open Estimator.predict leaves its graph as the default graph of the thread that started it,
    # and is to be closed there. In between, any thread may ask it.
    thread = stack.enter_context(futures.ThreadPoolExecutor(1))
    stack.callback(lambda: thread.submit(opened.close).result())
    thread.submit(opened.predict, [[100, 100]]).result()
    return opened.predict


def open_fast_predict(model, stack):
    spec = tf.TensorSpec([None, 2], tf.float32)
    return stack.enter_context(estimator_inference.FastPredict(model.estimator, spec)).predict


def open_session(model, stack):
    session = stack.enter_context(contextlib.closing(tf.Session(graph=tf.Graph())))
    meta_graph = tf.saved_model.loader.load(session, ['serve'], model.export_dir)
    signature = meta_graph.signature_def['serving_default']
    tensor = session.graph.get_tensor_by_name
    number = tensor(signature.inputs['number'].name)
    outputs = {key: tensor(info.name) for key, info in signature.outputs.items()}
    return lambda numbers: session.run(outputs, {number: numbers})


def open_saved_model(model, stack):
    predict_fn = stack.enter_context(predictor.from_saved_model(model.export_dir))
    return lambda numbers: predict_fn({'number': numbers})


def open_from_estimator(model, stack):
    predict_fn = predictor.from_estimator(model.estimator, serving_input_receiver_fn)
    stack.enter_context(predict_fn)
    return lambda numbers: predict_fn({'number': numbers})


def open_tf2(model, stack):
    loaded = tf2.saved_model.load(model.export_dir)

    def ask(numbers):
        outputs = loaded.signatures['serving_default'](number=tf2.constant(numbers, tf2.float32))
        return {key: output.numpy() for key, output in outputs.items()}

    return ask


def open_onnx(model, stack):
    import onnx
    import onnxruntime

    layers = read_layers(model.estimator)
    steps = ' '.join(f'x{i + 1} = Gemm(x{i}, kernel{i}, bias{i})' for i in range(len(layers)))
    made = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 13]>
        f (float[n, 1] number) => (float[n, 1] x{len(layers)}) {{
            x0 = Concat<axis = 1>(number, number)
            {steps}
        }}""")
    for i, layer in enumerate(layers):
        for name, array in zip(('kernel', 'bias'), layer):
            made.graph.initializer.append(onnx.numpy_helper.from_array(array, f'{name}{i}'))
    providers = ['CPUExecutionProvider']
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=providers)
    return lambda numbers: session.run(None, {'number': np.asarray(numbers, np.float32)})[0]


def open_lite(model, stack):
    from ai_edge_litert.interpreter import Interpreter

    layers = read_layers(model.estimator)
    function = tf2.function(lambda number: apply(layers, tf2.tile(number, [1, 2])))
    concrete = function.get_concrete_function(tf2.TensorSpec([model.batch, 1], tf2.float32))
    converter = tf2.lite.TFLiteConverter.from_concrete_functions([concrete], function)
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    number = interpreter.get_input_details()[0]['index']
    output = interpreter.get_output_details()[0]['index']

    def ask(numbers):
        interpreter.set_tensor(number, np.asarray(numbers, np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return ask


def apply(layers, x):
    """Returns what layers give for features [n, 2]: [n, 1]."""
    for kernel, bias in layers:
        x = x @ kernel + bias
    return x


open_posts = functools.partial(open_generator, PostsFastPredict)
open_right = functools.partial(open_generator, FastPredict)
POSTS = [
    Row('Estimator.predict', open_estimator, 2, post_a=0.19, post_b=0.1152),
    Row('FastPredict as the posts have it', open_posts, 2, own=True, post_b=352e-6, lags=True),
    Row('FastPredict on a generator', open_right, 2, own=True),
    Row('FastPredict, 10 a call (post B one by one)', open_right, 2, 10, own=True, post_b=238e-6),
    Row('Session.run: what tf.contrib.predictor did', open_session, post_a='"100x"', post_b=178e-6),
]
BEYOND = [
    Row("the library's FastPredict", open_fast_predict, 2),
    Row("the library's FastPredict, 10 a call", open_fast_predict, 2, 10),
    Row('predictor.from_saved_model', open_saved_model),
    Row('predictor.from_estimator', open_from_estimator),
    Row('tf.saved_model.load', open_tf2),
    Row('ONNX Runtime', open_onnx, needs=['onnx', 'onnxruntime']),
    Row('LiteRT', open_lite, own=True, needs=['ai_edge_litert']),
]
ROWS = {row.name: row for row in POSTS + BEYOND}
MISSING = [row for row in BEYOND if not all(map(importlib.util.find_spec, row.needs))]


def large_model_fn(features, labels, mode, params):
    """The model of --parameters: three layers with random weights, which answer a multiple of x."""
    x = features['feature'] if isinstance(features, dict) else features
    for name, units in (('hidden', params['width']), ('second', params['width']), ('dense', 1)):
        weights = tf.random_uniform_initializer(0, 1 / int(x.shape[1]), seed=1)
        x = tf.layers.dense(x, units, kernel_initializer=weights, name=name)
    train_op = tf.assign_add(tf.train.get_global_step(), 1)
    return tf.estimator.EstimatorSpec(mode, predictions=x, loss=tf.reduce_sum(x), train_op=train_op)


def load(directory: str, model_dir: str, parameters: Optional[int], batch: int) -> Model:
    """Returns a Model; its export, and a model of --parameters, are made if they aren't there."""
    if parameters:
        model_dir, params = os.path.join(directory, 'model'), {'width': round(parameters**0.5)}
        estimator = tf.estimator.Estimator(large_model_fn, model_dir, params=params)
        estimator.train(lambda: tf.zeros([1, 2]), max_steps=1)
    else:
        estimator = tf.estimator.Estimator(model_fn, model_dir, params=support.params(model_dir))
    numbers = np.arange(100, 200, dtype=np.float32)
    answers = apply(read_layers(estimator), np.stack([numbers, numbers], axis=1)).ravel()
    exports = os.path.join(directory, 'saved_model')
    if not os.path.exists(exports):
        estimator.export_saved_model(exports, serving_input_receiver_fn)
    return Model(estimator, os.path.join(exports, *os.listdir(exports)), numbers, answers, batch)


def read_layers(estimator):
    """Returns the kernel and the bias of each layer in the checkpoint."""
    names, get = estimator.get_variable_names(), estimator.get_variable_value
    layers = [name for name in ('hidden', 'second', 'dense') if f'{name}/kernel' in names]
    return [(get(f'{layer}/kernel'), get(f'{layer}/bias')) for layer in layers]


class Stopwatch:
    """Opens a row, times its calls and counts its wrong answers."""

    def __init__(self, row, model, threads, stack):
        self.row, self.threads, self.batch = row, threads, row.batch or model.batch
        order = np.arange(100 * self.batch).reshape(100, self.batch) % 100
        inputs = model.numbers[order][..., None].repeat(row.columns, axis=2)
        questions = inputs if self.batch > 1 else inputs.tolist()
        self.questions = itertools.cycle(zip(questions, model.answers[order]))
        # Calls are made in threads of their own: Ctrl-C would break one off in the midst of it.
        self.pool = stack.enter_context(futures.ThreadPoolExecutor(threads))
        start, model = time.perf_counter(), model._replace(batch=self.batch)
        opened = [row.open(model, stack) for _ in range(threads if row.own else 1)]
        self.load, self.calls = time.perf_counter() - start, opened * (threads // len(opened))
        self.turns, self.times, self.wrong = [], [], 0  # seconds of an example, and of a call
        self.turn(threads)
        self.first_call = self.times[0]
        self.turns, self.times = [], []

    def turn(self, calls: int) -> None:
        """Makes so many calls, or those that there is time for."""
        asked = [list(itertools.islice(self.questions, calls // self.threads)) for _ in self.calls]
        start = time.perf_counter()
        results = list(itertools.chain(*self.pool.map(ask, self.calls, asked)))
        elapsed = time.perf_counter() - start
        times = [seconds for seconds, _, _ in results]
        # Of several threads: how long it takes for one of them to have its answer.
        took = np.median(times) if self.threads == 1 else elapsed / len(times)
        self.turns.append(float(took) / self.batch)
        self.times += times
        self.wrong += sum(count_wrong(answers, expected) for _, answers, expected in results)

    def record(self) -> dict[str, Any]:
        """Returns the figures. Seconds are those of an example, but for `load` and `first_call`."""
        record = {'row': self.row.name, 'batch': self.batch, 'threads': self.threads}
        record.update(load=self.load, first_call=self.first_call, median=np.median(self.turns))
        record.update(p99=np.percentile(self.times, 99) / self.batch, wrong=self.wrong)
        examples = len(self.times) * self.batch
        return {**record, 'examples': examples, 'examples_per_second': 1 / np.mean(self.turns)}


def ask(call: Callable, questions: Sequence) -> list[tuple[float, Any, np.ndarray]]:
    """Returns (seconds, answers, what was expected) of each call."""
    results, end = [], time.perf_counter() + SECONDS
    for question, expected in questions:
        start = time.perf_counter()
        answers = call(question)
        results.append((time.perf_counter() - start, answers, expected))
        if start > end:
            break
    return results


def count_wrong(answers: Any, expected: np.ndarray) -> int:
    """Returns how many answers of a call aren't within 0.1% of what is expected, float [n]."""
    if isinstance(answers, dict):
        answers = answers.get('predictions', answers.get('output'))
    elif isinstance(answers, list):
        answers = [support.number_in(prediction) for prediction in answers]
    answers = np.asarray(answers).astype(float).reshape(len(expected), -1).T
    return int(np.sum(~(abs(answers - expected) <= 1e-3 * abs(expected)).all(axis=0)))


def measure(rows: Sequence[Row], model: Model, threads: int, examples: int) -> list[Stopwatch]:
    """Measures rows in turns. Raises support.Error where one that doesn't lag answers wrong."""
    with contextlib.ExitStack() as stack:
        stopwatches = [Stopwatch(row, model, threads, stack) for row in rows]
        for _ in range(ROUNDS):
            for stopwatch in stopwatches:
                stopwatch.turn(max(threads, round(examples / ROUNDS / stopwatch.batch)))
    for row, wrong in ((stopwatch.row, stopwatch.wrong) for stopwatch in stopwatches):
        if wrong and not row.lags:
            raise support.Error(f'{row.name} gave {wrong:,} wrong answers')
    return stopwatches


def peak_memory() -> Optional[int]:
    """Returns the peak of this process's memory in bytes, or None where Python doesn't know it."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def measure_alone(names, directory, model_dir, parameters, batch, threads, examples):
    """Returns the figures of rows, with the peak of this process's memory."""
    model = load(directory, model_dir, parameters, batch)
    size = sum(array.size for layer in read_layers(model.estimator) for array in layer)
    stopwatches = measure([ROWS[name] for name in names], model, threads, examples)
    more = {'parameters': size, 'peak_memory': peak_memory()}
    return [{**stopwatch.record(), **more} for stopwatch in stopwatches]


def print_line(name, *cells):
    print((f'{name:42}' + ''.join(f'{cell:>12}' for cell in cells)).rstrip(), flush=True)


def table(rows, model, args):
    """Prints a line for each row; returns the figures."""
    print(f'{model.batch} a call, threads: {args.threads}, up to {args.examples:,} examples a row')
    print_line('', 'an example', 'faster', 'wrong', 'post A', 'post B')
    as_posts = model.batch == args.threads == 1 and args.parameters == [None]  # what they measured
    records, baseline = [], None
    for stopwatch in measure(rows, model, args.threads, args.examples):
        row, record = stopwatch.row, stopwatch.record()
        posts = {'post_a': row.post_a, 'post_b': row.post_b} if as_posts else {}
        records.append({**record, **posts})
        if row is BEYOND[0]:
            print('Beyond the posts:')
        baseline = record['median'] if row is POSTS[0] else baseline
        faster = f'{baseline / record["median"]:,.0f}x' if baseline else ''
        times = [shown(time) for time in (record['median'], *posts.values())]
        print_line(row.name, times[0], faster, f'{record["wrong"]:,}', *times[1:])
    return records


def shown(time):
    return time if isinstance(time, str) else support.seconds(time) if time else ''


def growth(rows, args):
    """Prints time and memory for each number of parameters, batch and row; returns the figures."""
    print_line('', 'parameters', 'batch', 'an example', 'peak memory')
    records, each = [], [[row.name] for row in rows]
    for parameters in args.parameters:
        with tempfile.TemporaryDirectory() as directory:
            # The first process measures nothing, and makes the model.
            for batch, names in [(1, []), *itertools.product(args.batch, each)]:
                asked = names, directory, args.model_dir, parameters, batch
                for record in in_process(*asked, args.threads, args.examples):
                    records.append(record)
                    sizes = [f'{record[key]:,}' for key in ('parameters', 'batch')]
                    memory = f'{peak / 1e6:,.0f} MB' if (peak := record['peak_memory']) else ''
                    print_line(*names, *sizes, shown(record['median']), memory)
    return records


def in_process(*args):
    """Returns what `measure_alone` returns in a process of its own."""
    code = f'import compare, json; print(json.dumps(compare.measure_alone(*{args})))'
    environ = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    command = [sys.executable, '-c', code]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True)
    if ended.returncode:
        reason = ended.stderr.strip() or f'a process ended with {ended.returncode}'
        raise support.Error(reason.splitlines()[-1])
    return json.loads(ended.stdout.splitlines()[-1])


def plot(path, records):
    """Draws a bar for each figure, beside those of the posts."""
    import matplotlib.figure

    names = ('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color')
    gray = dict.fromkeys(names, '#808080')  # legible on white and on black
    with matplotlib.rc_context({**gray, 'svg.fonttype': 'none', 'svg.hashsalt': 'compare'}):
        axes = matplotlib.figure.Figure((9, 0.4 * len(records) + 1.2)).subplots()
        for record in records:
            label, text = record['row'], shown(record['median']) + ', wrong' * bool(record['wrong'])
            if 'parameters' in record:
                label += ', {parameters:,} parameters, {batch:,} a call'.format(**record)
            axes.barh(label, record['median'], color='#4c8bf5', height=0.6)
            for post, marker in (('post_a', 'D'), ('post_b', 'o')):
                if isinstance(record.get(post), float):
                    axes.plot(record[post], label, marker, color='#d93025')
            axes.text(1.01, label, text, va='center', transform=axes.get_yaxis_transform())
        axes.set(xscale='log', xlabel='seconds an example; red: post A (diamond), post B (circle)')
        axes.invert_yaxis()
        axes.figure.savefig(path, transparent=True, bbox_inches='tight')


PREDICTOR, FAST = 'predictor.from_saved_model', "the library's FastPredict"
SESSION, TF2 = 'Session.run: what tf.contrib.predictor did', 'tf.saved_model.load'
# How many times the predictor's time a row takes, at least and at most; noise leaves it a margin.
TENFOLD = {SESSION: (10, np.inf), TF2: (10, np.inf), 'ONNX Runtime': (0.5, np.inf)}
TWICE = {SESSION: (2, np.inf), TF2: (2, np.inf)}
NO_SLOWER = {SESSION: (1 / 1.3, np.inf)}
STRINGS = tf.string, lambda number: tf.strings.join([number, '0'])
LARGE = tf.float32, lambda number: tf.tile(10 * number, [1, 20_000_000])
PROMISES = [  # title, batch, threads, examples, promises, another model, which gives 10x
    ('1 a call', 1, 1, 10_000, {FAST: (0, 1.6), **TENFOLD}, None),
    ('10 a call', 10, 1, 100_000, {FAST: (0, 2), **TENFOLD}, None),
    ('1,000 a call', 1000, 1, 2_000_000, {FAST: (0, 12), **TWICE}, None),  # 1,000 predictions
    ('1 a call, 8 threads', 1, 8, 10_000, {FAST: (0, 3), **TWICE}, None),
    ('10 a call, 8 threads', 10, 8, 100_000, {FAST: (0, 3), **TWICE}, None),
    ('1,000 a call, 8 threads', 1000, 8, 2_000_000, {FAST: (0, 12), **TWICE}, None),
    ('100 strings a call', 100, 1, 100_000, NO_SLOWER, STRINGS),
    ('An answer of 80 MB, which is copied', 1, 1, 10, {SESSION: (0.1, np.inf)}, LARGE),
]
CALLS, MEGABYTES = 100_000, 4  # in so many calls, the peak of memory grows by no more than that


def check(model, directory):
    """Prints the promised ratios. Raises support.Error where one isn't kept."""
    kept = []

    def promise(text, least, figure, most):
        kept.append(bool(least <= figure <= most))
        limit = f'at least {least:.2f}' if most == np.inf else f'at most {most:.2f}'
        print(f'{text}, {limit}: {"ok" if kept[-1] else "NOT KEPT"}', flush=True)

    for name in (PREDICTOR, FAST) if peak_memory() else ():
        with contextlib.ExitStack() as stack:
            call, question, peaks = ROWS[name].open(model, stack), [[3.0] * ROWS[name].columns], []
            for calls in (1000, CALLS):
                for _ in range(calls):
                    call(question)
                peaks.append(peak_memory())
        grown = (peaks[1] - peaks[0]) / 1e6
        promise(f'{CALLS:,} calls of {name}: memory grows by {grown:.1f} MB', 0, grown, MEGABYTES)
    for title, batch, threads, examples, promises, saved in PROMISES:
        asked = save(model, os.path.join(directory, title), *saved) if saved else model
        rows = [ROWS[name] for name in (PREDICTOR, *promises) if ROWS[name] not in MISSING]
        first, *others = measure(rows, asked._replace(batch=batch), threads, examples)
        print(f'{title}: {PREDICTOR} takes {shown(np.median(first.turns) * batch)}')
        for other in others:
            ratios = np.divide(other.turns, first.turns)
            ratio, (least, most) = np.median(ratios), promises[other.row.name]
            text = f'{ratio:7.2f} x ({ratios.min():.2f} to {ratios.max():.2f})'
            promise(f'  {other.row.name:42}{text}', least, ratio, most)
    if not all(kept):
        raise support.Error(f'{kept.count(False)} of {len(kept)} promises are not kept')


def save(model, export_dir, dtype, function):
    """Saves another model, and returns the Model of it."""
    with tf.Graph().as_default(), tf.Session() as session:
        number = tf.placeholder(dtype, [None, 1])
        outputs = {'output': function(number)}
        tf.saved_model.simple_save(session, export_dir, {'number': number}, outputs)
    numbers = model.numbers.astype(int).astype(str).astype(dtype.as_numpy_dtype)
    return model._replace(export_dir=export_dir, numbers=numbers, answers=10 * model.numbers)


def main(argv=None):
    parser = support.parser(__doc__, model_dir='model', examples=10_000, threads=1)
    many = {'type': support.number, 'nargs': '+', 'metavar': 'N'}
    parser.add_argument('--batch', **many, default=[1], help='examples a call; default: 1')
    parser.add_argument('--parameters', **many, default=[None], help='a model with about so many')
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS), metavar='NAME')
    parser.add_argument('--json', metavar='FILE', help='write the figures there')
    parser.add_argument('--plot', metavar='FILE', help='draw them there: .svg or .png')
    parser.add_argument('--check', action='store_true', help='status 1 if a promise is not kept')
    args = parser.parse_args(argv)
    if args.plot and not importlib.util.find_spec('matplotlib'):
        raise support.Error('--plot needs matplotlib: pip install matplotlib')
    tf.logging.set_verbosity(tf.logging.ERROR)
    versions = platform.python_version(), tf2.__version__, np.__version__
    system = platform.system(), platform.machine(), os.cpu_count(), support.device()
    machine = 'Python {}, TensorFlow {}, numpy {}; {} {}, {} cores, {}'.format(*versions, *system)
    print(machine)
    for row in MISSING:
        print(f'Without {row.name}: pip install {" ".join(row.needs)}')
    rows = [row for name, row in ROWS.items() if name in args.rows and row not in MISSING]
    rows = [row for row in rows if args.batch == [1] or not row.batch]  # 10 a call, beside 1
    if len(args.batch) * len(args.parameters) > 1:
        records = growth(rows, args)
    else:
        with tempfile.TemporaryDirectory() as directory:
            model = load(directory, args.model_dir, *args.parameters, *args.batch)
            if args.check:
                return check(model, directory)
            records = table(rows, model, args)
    if args.json:
        with open(args.json, 'w') as file:
            json.dump({'machine': machine, 'rows': records}, file, indent=2)
    if args.plot:
        plot(args.plot, records)


if __name__ == '__main__':
    support.run(main)
