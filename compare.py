"""Measures every way to predict side by side, beside the figures of the posts.

    python compare.py                        the table, in a minute
    python compare.py --batch 10 --threads 8
    python compare.py --parameters 1000 1000000 --rows predictor.from_saved_model
    python compare.py --check                the ratios that docs/speed.md promises

All rows predict from one checkpoint, and take turns, so that a machine which gets slower or faster
meanwhile does so for each of them. Every answer is compared with what the checkpoint's variables
give. With several values for --batch or --parameters, each figure is measured in a process of its
own, whose peak memory is shown.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import math
import os
import pathlib
import platform
import statistics
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
SECONDS = 0.5  # a row's turn is over after so long, however many examples are left


class Model(NamedTuple):
    """What the rows load, and what they are asked.

    Attributes:
      estimator: The Estimator, with a checkpoint.
      export_dir: The path of an export of that checkpoint.
      layers: Returns the kernel and the bias of each layer, read from the checkpoint.
      numbers: What is asked, [n].
      answers: What is to be answered, float [n].
      batch: How many examples a call has.
    """

    estimator: Any
    export_dir: str
    layers: Callable[[], list]
    numbers: np.ndarray
    answers: np.ndarray
    batch: int = 1


class Row(NamedTuple):
    """A way to predict.

    Attributes:
      name: As the table shows it.
      open: Loads a Model, leaves to an ExitStack what is to be closed, and returns a function from
        a batch of inputs to the predictions: a list of n, an array [n, 1], or a dict of arrays.
      columns: 1 if that function takes `number`, [n, 1]; 2 if it takes the features, [n, 2]. They
        are lists for one example, as in the posts, and an array for several.
      batch: Examples a call, if not as many as --batch says.
      own: Whether each thread needs one of its own.
      post_a, post_b: Seconds an example in the posts: on the machine of post A's author, and on
        post B's NVIDIA RTX 2080 Ti.
      lags: Whether it is known to answer earlier questions.
      needs: Packages without which the row is left out.
    """

    name: str
    open: Callable[[Model, contextlib.ExitStack], Callable]
    columns: int = 1
    batch: Optional[int] = None
    own: bool = False
    post_a: Union[float, str, None] = None
    post_b: Optional[float] = None
    lags: bool = False
    needs: Sequence[str] = ()


# Each way to predict.


def open_estimator(model, stack):
    def input_fn(features):  # as in predict.py
        dataset = tf.data.Dataset.from_generator(lambda: features, tf.float32, [2])
        return dataset.batch(len(features))

    return lambda features: list(model.estimator.predict(functools.partial(input_fn, features)))


def open_generator(kind, model, stack):
    opened = kind(model.estimator)
    # An open Estimator.predict leaves its graph as the default graph of the thread that started it,
    # and has to be closed there. In between it may be asked by any thread.
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
    stack.callback(lambda: loaded)  # its variables live as long as it does
    signature = loaded.signatures['serving_default']

    def ask(numbers):
        outputs = signature(number=tf2.constant(numbers, tf2.float32))
        return {key: output.numpy() for key, output in outputs.items()}

    return ask


def open_onnx(model, stack):
    import onnx
    import onnxruntime

    layers = model.layers()
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

    layers = model.layers()
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


ESTIMATOR = Row('Estimator.predict', open_estimator, 2, post_a=0.19, post_b=0.1152)
SESSION = Row(
    'Session.run: what tf.contrib.predictor did', open_session, post_a='"100x"', post_b=178e-6
)
posts, right = (functools.partial(open_generator, kind) for kind in (PostsFastPredict, FastPredict))
POSTS = [
    ESTIMATOR,
    Row('FastPredict as the posts have it', posts, 2, own=True, post_b=352e-6, lags=True),
    Row('FastPredict on a generator', right, 2, own=True),
    Row('FastPredict, 10 a call (post B one by one)', right, 2, 10, own=True, post_b=238e-6),
    SESSION,
]
FAST_PREDICT = Row("the library's FastPredict", open_fast_predict, 2)
PREDICTOR = Row('predictor.from_saved_model', open_saved_model)
TF2 = Row('tf.saved_model.load', open_tf2)
ONNX = Row('ONNX Runtime', open_onnx, needs=['onnx', 'onnxruntime'])
ROWS = [
    *POSTS,
    FAST_PREDICT,
    Row("the library's FastPredict, 10 a call", open_fast_predict, 2, 10),
    PREDICTOR,
    Row('predictor.from_estimator', open_from_estimator),
    TF2,
    ONNX,
    Row('LiteRT', open_lite, own=True, needs=['ai_edge_litert']),
]
NAMES = [row.name for row in ROWS]


# What they predict from.


def large_model_fn(features, labels, mode, params):
    """A model for --parameters: three layers with random weights, which answers a multiple of x."""
    x = features['feature'] if isinstance(features, dict) else features
    for name, units in (('hidden', params['width']), ('second', params['width']), ('dense', 1)):
        weights = tf.random_uniform_initializer(0, 1 / int(x.shape[1]), seed=1)
        x = tf.layers.dense(x, units, kernel_initializer=weights, name=name)
    return tf.estimator.EstimatorSpec(mode, predictions=x)


def make(directory: str, model_dir: str, parameters: Optional[int]) -> tuple[str, str]:
    """Exports a checkpoint, for --parameters one that it makes; returns the paths of both."""
    if parameters:
        model_dir = os.path.join(directory, 'model')
        with tf.Graph().as_default(), tf.Session() as session:
            features, params = tf.placeholder(tf.float32, [None, 2]), large_params(parameters)
            large_model_fn(features, None, tf.estimator.ModeKeys.PREDICT, params)
            tf.train.create_global_step()
            session.run(tf.global_variables_initializer())
            tf.train.Saver().save(session, os.path.join(model_dir, 'model.ckpt'), 0)
    export_dir_base = os.path.join(directory, 'saved_model')
    estimator = make_estimator(model_dir, parameters)
    return model_dir, estimator.export_saved_model(
        export_dir_base, serving_input_receiver_fn
    ).decode()


def large_params(parameters: int) -> dict[str, int]:
    """Returns the width w that gives about so many parameters, w² + 5w + 1."""
    return {'width': max(1, round(math.sqrt(parameters + 5.25) - 2.5))}


def make_estimator(model_dir: str, parameters: Optional[int]) -> Any:
    if parameters:
        return tf.estimator.Estimator(large_model_fn, model_dir, params=large_params(parameters))
    return tf.estimator.Estimator(model_fn, model_dir, params=support.params(model_dir))


def read_layers(checkpoint: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the kernel and the bias of each layer.

    Raises:
      support.Error: The checkpoint is of no model that compare.py knows.
    """
    reader = tf.train.load_checkpoint(checkpoint)
    names = [name for name in ('hidden', 'second', 'dense') if reader.has_tensor(f'{name}/kernel')]
    layers = [
        tuple(reader.get_tensor(f'{name}/{of}') for of in ('kernel', 'bias')) for name in names
    ]
    if 'dense' not in names or layers[0][0].shape[0] != 2:
        raise support.Error(f'{checkpoint} is of another model than that of model.py')
    return layers


def load(model_dir: str, export_dir: str, parameters: Optional[int], batch: int) -> Model:
    estimator = make_estimator(model_dir, parameters)
    layers = functools.partial(read_layers, estimator.latest_checkpoint())
    numbers = np.arange(100, 200, dtype=np.float32)
    answers = apply(layers(), np.stack([numbers, numbers], axis=1)).ravel()
    return Model(estimator, export_dir, layers, numbers, answers, batch)


# Measuring.


class Stopwatch:
    """Opens a row, times its calls and counts its wrong answers."""

    def __init__(self, row: Row, model: Model, threads: int, stack: contextlib.ExitStack) -> None:
        self.row, self.threads, self.batch = row, threads, row.batch or model.batch
        order = np.arange(len(model.numbers) * self.batch).reshape(-1, self.batch)
        order %= len(model.numbers)
        inputs = model.numbers[order][..., None].repeat(row.columns, axis=2)
        questions = list(inputs) if self.batch > 1 else inputs.tolist()
        self.questions = itertools.cycle(zip(questions, model.answers[order]))

        start = time.perf_counter()
        model = model._replace(batch=self.batch)
        opened = [row.open(model, stack) for _ in range(threads if row.own else 1)]
        self.load = time.perf_counter() - start
        self.asks = opened * (threads // len(opened))
        self.pool = stack.enter_context(futures.ThreadPoolExecutor(threads))
        self.turns: list[float] = []  # seconds an example, for each turn
        self.times: list[float] = []  # seconds a call, for each call
        self.wrong = 0
        self.turn(threads)
        self.first_call = self.times[0]
        self.turns, self.times = [], []

    def turn(self, calls: int) -> None:
        """Makes so many calls, or those for which there is time."""
        each = [
            list(itertools.islice(self.questions, -(-calls // self.threads))) for _ in self.asks
        ]
        start = time.perf_counter()
        if self.threads == 1:
            results = [work(self.asks[0], each[0])]
        else:
            results = list(self.pool.map(work, self.asks, each))
        elapsed = time.perf_counter() - start
        times = [seconds for result in results for seconds, _ in result]
        # Of several threads: how long it takes for one of them to have an answer.
        took = statistics.median(times) if self.threads == 1 else elapsed / len(times)
        self.turns.append(took / self.batch)
        self.times += times
        for questions, result in zip(each, results):
            for (_, expected), (_, answers) in zip(questions, result):
                self.wrong += count_wrong(answers, expected)

    def record(self) -> dict[str, Any]:
        """Returns the figures, in seconds; those that are not of a call are an example's."""
        return {
            'row': self.row.name,
            'batch': self.batch,
            'threads': self.threads,
            'examples': len(self.times) * self.batch,
            'load': self.load,
            'first_call': self.first_call,
            'median': statistics.median(self.turns),
            'p99': np.percentile(self.times, 99) / self.batch,
            'examples_per_second': 1 / statistics.fmean(self.turns),
            'wrong': self.wrong,
        }


def work(ask: Callable, questions: Sequence) -> list[tuple[float, Any]]:
    """Returns (seconds, answers) for each call."""
    results, end = [], time.perf_counter() + SECONDS
    for question, _ in questions:
        start = time.perf_counter()
        answers = ask(question)
        stop = time.perf_counter()
        results.append((stop - start, answers))
        if stop > end:
            break
    return results


def count_wrong(answers: Any, expected: np.ndarray) -> int:
    """Returns how many answers of a call are not within 0.1% of what is expected, float [n]."""
    if isinstance(answers, dict):
        answers = answers.get('predictions', answers.get('output'))
    elif isinstance(answers, list):
        answers = [support.number_in(prediction) for prediction in answers]
    answers = np.asarray(answers).astype(float).reshape(len(expected), -1).T
    return int(np.sum(~(abs(answers - expected) <= 1e-3 * abs(expected)).all(axis=0)))


def measure(rows: Sequence[Row], model: Model, threads: int, examples: int) -> list[Stopwatch]:
    """Measures rows in turns."""
    with contextlib.ExitStack() as stack:
        stopwatches = [Stopwatch(row, model, threads, stack) for row in rows]
        for _ in range(ROUNDS):
            for stopwatch in stopwatches:
                stopwatch.turn(max(1, round(examples / ROUNDS / stopwatch.batch)))
    return stopwatches


def peak_memory() -> Optional[int]:
    """Returns the peak memory of this process in bytes, or None on Windows, which has another way."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def measure_alone(
    name: str, model_dir: str, export_dir: str, parameters: Optional[int], batch: int, *how: int
) -> dict[str, Any]:
    """Returns the figures of one row, and the peak memory of the process."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    model = load(model_dir, export_dir, parameters, batch)
    shapes = (layer.shape for layer in itertools.chain(*model.layers()))
    parameters = sum(map(math.prod, shapes))
    [stopwatch] = measure([ROWS[NAMES.index(name)]], model, *how)
    return {**stopwatch.record(), 'parameters': parameters, 'peak_memory': peak_memory()}


def in_process(function: Callable, *args: Any) -> Any:
    """Returns what a function of this module returns in a process of its own."""
    code = f'import compare, json; print(json.dumps(compare.{function.__name__}(*{args!r})))'
    path = os.pathsep.join([os.path.dirname(os.path.abspath(__file__)), *sys.path])
    command, environ = [sys.executable, '-c', code], {**os.environ, 'PYTHONPATH': path}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True)
    if ended.returncode:
        raise support.Error(f'{args}: {ended.stderr.strip().splitlines()[-1]}')
    return json.loads(ended.stdout.splitlines()[-1])


# Printing.


def machine() -> dict[str, Any]:
    """Prints and returns what the figures depend on."""
    found = {
        'python': platform.python_version(),
        'tensorflow': tf2.__version__,
        'numpy': np.__version__,
        'machine': f'{platform.system()} {platform.machine()}',
        'cores': os.cpu_count(),
        'device': support.device(),
    }
    print('Python {}, TensorFlow {}, numpy {}; {}, {} cores, on {}'.format(*found.values()))
    return found


def installed(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows whose packages are installed, and names the others."""
    found = [row for row in rows if all(map(importlib.util.find_spec, row.needs))]
    for row in rows:
        if row not in found:
            print(f'{row.name} is left out: pip install {" ".join(row.needs)}')
    return found


def print_line(name: str, *cells: str) -> None:
    print(f'{name:42}' + ''.join(f'{cell:>12}' for cell in cells), flush=True)


def table(rows: Sequence[Row], model: Model, args: Any) -> list[dict[str, Any]]:
    """Measures and prints a line for each row; returns the figures."""
    took = f'{args.examples:,} examples a row, or what {ROUNDS * SECONDS:.0f} seconds allow'
    print(f'{took}; {model.batch} a call, {args.threads} thread(s)', flush=True)
    stopwatches = measure(rows, model, args.threads, args.examples)
    # What the posts measured is this, and nothing else.
    posts = model.batch == args.threads == 1 and not args.parameters
    records = []
    print_line('', 'an example', 'faster', 'wrong', 'post A', 'post B')
    for stopwatch in stopwatches:
        row, record = stopwatch.row, stopwatch.record()
        record.update(post_a=row.post_a if posts else None, post_b=row.post_b if posts else None)
        if row not in POSTS and (not records or records[-1]['row'] in NAMES[: len(POSTS)]):
            print('Beyond the posts:')
        records.append(record)
        slowest = records[0]['median'] if rows[0] is ESTIMATOR else None
        faster = f'{slowest / record["median"]:,.0f}x' if slowest else ''
        figures = [shown(record['median']), faster, f'{record["wrong"]:,}']
        print_line(row.name, *figures, shown(record['post_a']), shown(record['post_b']))
    refuse_wrong(stopwatches)
    return records


def shown(time: Union[float, str, None]) -> str:
    return time if isinstance(time, str) else support.seconds(time) if time else ''


def refuse_wrong(stopwatches: Sequence[Stopwatch]) -> None:
    for stopwatch in stopwatches:
        if stopwatch.wrong and not stopwatch.row.lags:
            raise support.Error(f'{stopwatch.row.name} gave {stopwatch.wrong:,} wrong answers')


def growth(rows: Sequence[Row], args: Any) -> list[dict[str, Any]]:
    """Prints time and memory for each number of parameters, batch and row; returns the figures."""
    print_line('', 'parameters', 'batch', 'an example', 'peak memory')
    records = []
    for parameters in args.parameters or [None]:
        with tempfile.TemporaryDirectory() as directory:
            paths = in_process(make, directory, args.model_dir, parameters)
            for batch, row in itertools.product(args.batch, rows):
                how = batch, args.threads, args.examples
                record = in_process(measure_alone, row.name, *paths, parameters, *how)
                records.append(record)
                peak = record['peak_memory']
                print_line(
                    row.name,
                    f'{record["parameters"]:,}',
                    f'{batch:,}',
                    support.seconds(record['median']),
                    f'{peak / 1e6:,.0f} MB' if peak else '',
                )
    return records


# Promises.


class Case(NamedTuple):
    """What --check measures.

    Attributes:
      title: What is asked.
      promises: {Row: (at least, at most)} so many times the predictor's time it takes. Each has a
        margin, for the noise of a machine that others use too.
      model: Returns the Model, given that of the posts and a directory to write to.
      batch, threads, examples: As the flags say them.
    """

    title: str
    promises: dict[str, tuple[float, float]]
    batch: int = 1
    threads: int = 1
    examples: int = 10_000
    model: Callable[[Model, str], Model] = lambda model, directory: model


def strings(model: Model, directory: str) -> Model:
    """Returns a Model that takes a number as text and appends a 0: 10x."""
    return save(
        model._replace(
            numbers=np.array([b'%d' % number for number in model.numbers], object),
            answers=10 * model.numbers,
        ),
        os.path.join(directory, 'strings'),
        tf.string,
        lambda number: tf.strings.join([number, '0']),
    )


def large_answer(model: Model, directory: str) -> Model:
    """Returns a Model that answers a number with 80 MB of it."""
    return save(
        model._replace(answers=model.numbers),
        os.path.join(directory, 'large'),
        tf.float32,
        lambda number: tf.tile(number, [1, 20_000_000]),
    )


def save(model: Model, export_dir: str, dtype: Any, function: Callable) -> Model:
    with tf.Graph().as_default(), tf.Session() as session:
        number = tf.placeholder(dtype, [None, 1])
        output = function(number)
        tf.saved_model.simple_save(session, export_dir, {'number': number}, {'output': output})
    return model._replace(export_dir=export_dir)


# At 1,000 examples a call, FastPredict makes 1,000 predictions of an array.
INFINITY = math.inf
PROMISES = [
    Case(
        f'{batch:,} a call, {threads} thread{"s" * (threads > 1)}',
        {
            FAST_PREDICT.name: (0, 1.6 if batch < 1000 else 12),
            SESSION.name: (least, INFINITY),
            TF2.name: (least, INFINITY),
            ONNX.name: (0.6, INFINITY),
        },
        batch,
        threads,
        examples,
    )
    for batch, threads, least, examples in [
        (1, 1, 10, 10_000),
        (10, 1, 10, 100_000),
        (1000, 1, 4, 2_000_000),
        (1, 8, 2, 10_000),
        (10, 8, 2, 100_000),
        (1000, 8, 2, 2_000_000),
    ]
] + [
    Case('Strings, 100 a call', {SESSION.name: (1 / 1.3, INFINITY)}, 100, 1, 100_000, strings),
    Case('An answer of 80 MB', {SESSION.name: (1 / 1.3, INFINITY)}, 1, 1, 10, large_answer),
]
MEMORY = 8e6  # how many bytes the peak may grow by in 100,000 calls
CALLS = 100_000


def check(model: Model, directory: str) -> None:
    """Measures what PROMISES has, and prints the ratios with their spread over the rounds.

    Raises:
      support.Error: One isn't kept.
    """
    kept = [check_memory(row, model) for row in (PREDICTOR, FAST_PREDICT)]
    for case in PROMISES:
        rows = [row for row in ROWS if row.name in case.promises]
        rows = [row for row in rows if all(map(importlib.util.find_spec, row.needs))]
        asked = case.model(model, directory)._replace(batch=case.batch)
        predictor, *others = measure([PREDICTOR, *rows], asked, case.threads, case.examples)
        refuse_wrong([predictor, *others])
        call = support.seconds(statistics.median(predictor.turns) * case.batch)
        print(f'{case.title}: the predictor takes {call} a call', flush=True)
        for other in others:
            least, most = case.promises[other.row.name]
            ratios = np.divide(other.turns, predictor.turns)
            ratio = np.median(ratios)
            kept.append(bool(least <= ratio <= most))
            print(
                f'  {other.row.name:42} {ratio:6.2f} x ({ratios.min():.2f} to {ratios.max():.2f}),',
                f'at most {most:.2f}:' if most < INFINITY else f'at least {least:.2f}:',
                'ok' if kept[-1] else 'NOT KEPT',
                flush=True,
            )
    if not all(kept):
        raise support.Error(f'{kept.count(False)} of {len(kept)} promises are not kept')


def check_memory(row: Row, model: Model) -> bool:
    with contextlib.ExitStack() as stack:
        ask, question = row.open(model, stack), [[3.0] * row.columns]
        for _ in range(1000):
            ask(question)
        before = peak_memory()
        for _ in range(CALLS):
            ask(question)
        after = peak_memory()
    if before is None or after is None:
        print('Memory is not measured: this Python has no module resource')
        return True
    kept = after - before <= MEMORY
    grown = f'the peak of memory grows by {(after - before) / 1e6:.1f} MB'
    print(f'{CALLS:,} calls of {row.name}: {grown}, at most {MEMORY / 1e6:.1f}:', end=' ')
    print('ok' if kept else 'NOT KEPT', flush=True)
    return kept


# Drawing.

GRAY = '#808080'  # legible on white and on black


def plot(path: str, records: Sequence[dict[str, Any]]) -> None:
    """Draws what the table or the growth shows."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    names = 'text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color'
    settings: dict[str, Any] = dict.fromkeys(names, GRAY)
    settings.update({'font.size': 11, 'svg.fonttype': 'none', 'svg.hashsalt': 'compare'})
    with pyplot.rc_context(settings):
        grows = 'peak_memory' in records[0]
        size = (9, 4.5) if grows else (9, 0.45 * len(records) + 1.2)
        figure, axes = pyplot.subplots(figsize=size)
        (draw_growth if grows else draw_rows)(axes, records)
        axes.legend(labelcolor=GRAY, framealpha=0)
        metadata = {'Date': None} if path.endswith('svg') else {}
        figure.savefig(path, transparent=True, bbox_inches='tight', metadata=metadata)
        pyplot.close(figure)


def draw_rows(axes: Any, records: Sequence[dict[str, Any]]) -> None:
    names = [record['row'] for record in records]
    axes.barh(names, [record['median'] * 1e6 for record in records], color='#4c8bf5', height=0.6)
    ends = [record['median'] * 1e6 for record in records]
    for key, marker, color, label in [
        ('post_a', 'D', '#e8710a', "post A, its author's machine"),
        ('post_b', 'o', '#d93025', 'post B, RTX 2080 Ti'),
    ]:
        times = [record[key] if isinstance(record[key], float) else math.nan for record in records]
        axes.plot(np.multiply(times, 1e6), names, marker, color=color, zorder=3, label=label)
        ends = [max(end, time * 1e6) if time > 0 else end for end, time in zip(ends, times)]
    for end, record in zip(ends, records):
        text = support.seconds(record['median']) + ', wrong answers' * bool(record['wrong'])
        axes.text(end * 1.3, record['row'], text, va='center')
    axes.set(xscale='log', xlabel='microseconds an example (median), logarithmic')
    axes.set_xlim(0.3, max(ends) * 30)
    axes.invert_yaxis()


def draw_growth(axes: Any, records: Sequence[dict[str, Any]]) -> None:
    x = 'parameters' if len({record['parameters'] for record in records}) > 1 else 'batch'
    for name in dict.fromkeys(record['row'] for record in records):
        line = [record for record in records if record['row'] == name]
        times = [record['median'] * 1e6 for record in line]
        axes.plot([record[x] for record in line], times, marker='o', label=name)
    axes.set(xscale='log', yscale='log', ylabel='microseconds an example (median)')
    axes.set_xlabel('parameters of the model' if x == 'parameters' else 'examples a call')


def main(argv=None):
    parser = support.parser(__doc__, model_dir='model', examples=10_000, threads=1)
    many = {'type': support.number, 'nargs': '+', 'metavar': 'N'}
    parser.add_argument('--batch', **many, default=[1], help='examples a call; default: 1')
    parser.add_argument(
        '--parameters', **many, help="a model of three layers with about N, in place of the posts'"
    )
    parser.add_argument(
        '--rows', nargs='+', choices=NAMES, default=NAMES, metavar='NAME', help='default: all'
    )
    parser.add_argument('--json', metavar='FILE', help='write the figures there')
    parser.add_argument('--plot', metavar='FILE', help='draw them there, .svg or .png')
    parser.add_argument('--check', action='store_true', help='fail if a promise is not kept')
    args = parser.parse_args(argv)
    if args.plot and not importlib.util.find_spec('matplotlib'):
        raise support.Error('--plot needs matplotlib: pip install matplotlib')

    tf.logging.set_verbosity(tf.logging.ERROR)
    figures = {'machine': machine()}
    # Rows of 10 a call stand beside rows of one.
    rows = [row for row in ROWS if row.name in args.rows and (not row.batch or args.batch == [1])]
    rows = installed(rows)
    if len(args.batch) * len(args.parameters or [1]) > 1:
        figures['rows'] = growth(rows, args)
    else:
        [parameters], [batch] = args.parameters or [None], args.batch
        with tempfile.TemporaryDirectory() as directory:
            paths = make(directory, args.model_dir, parameters)
            model = load(*paths, parameters, batch)
            if args.check:
                return check(model, directory)
            figures['rows'] = table(rows, model, args)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(figures, indent=2))
    if args.plot:
        plot(args.plot, figures['rows'])


if __name__ == '__main__':
    support.run(main)
