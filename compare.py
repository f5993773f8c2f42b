"""Measures every way to predict side by side, in one run, from one checkpoint, beside the figures of the posts.

    python compare.py

The rows take turns, a round each, so that a machine which gets slower or faster meanwhile does so for all of them.
Each answer is compared with what the checkpoint's variables give.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from concurrent import futures
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence, Union

import numpy as np
import tensorflow as tf2

import estimator_inference
import fast_predict
from support import checkpoints, script  # before TensorFlow
from estimator_inference import exports, predictor, tf
from export import serving_input_receiver_fn
from model import model_fn
from support.command_line import directory
from support.errors import Fault, WrongAnswer, install
from support.timing import check, number_in, seconds

ROUNDS = 10


class Model(NamedTuple):
    estimator: Any
    export_dir: str
    layers: list[
        tuple[np.ndarray, np.ndarray]
    ]  # the kernel and the bias of each, from the checkpoint
    expected: dict[int, float]  # the answer to each number


class Row(NamedTuple):
    """A way to predict. `open(model, stack)` loads, and leaves to an ExitStack what is to be closed. It returns a
    function from a list of n numbers to their predictions: a list of n, or a dict of arrays [n, 1]."""

    name: str
    open: Callable[[Model, contextlib.ExitStack], Callable]
    batch: int = 1  # examples a call
    share: float = 1.0  # the part of --examples to ask for
    post_a: Union[float, str, None] = None  # seconds an example, on the machine of its author
    post_b: Optional[float] = None  # likewise, on an NVIDIA RTX 2080 Ti
    lags: bool = False  # whether it is known to give the answers of earlier requests
    needs: Sequence[str] = ()  # packages without which it is left out


def open_estimator(model, stack):
    def input_fn(numbers):  # as in predict.py, for several numbers too
        return tf.data.Dataset.from_generator(
            lambda: [[nb, nb] for nb in numbers], tf.float32, [2]
        ).batch(len(numbers))

    return lambda numbers: list(model.estimator.predict(functools.partial(input_fn, numbers)))


class PostsFastPredict(fast_predict.FastPredict):
    """As the posts have it: an endless generator of requests, from which today's tf.data reads ahead."""

    def input_fn(self):
        return tf.data.Dataset.from_generator(self.generator, tf.float32, [2]).batch(1)

    def generator(self):
        while True:
            yield from self.features


def open_generator(model, stack, kind=fast_predict.FastPredict):
    opened = kind(model.estimator)
    stack.callback(opened.predictions.close)
    return lambda numbers: opened.predict([[nb, nb] for nb in numbers])


def open_fast_predict(model, stack):
    spec = tf.TensorSpec([None, 2], tf.float32)
    opened = stack.enter_context(estimator_inference.FastPredict(model.estimator, spec))
    return lambda numbers: opened.predict([[nb, nb] for nb in numbers])


def open_session(model, stack):
    session = stack.enter_context(contextlib.closing(tf.Session(graph=tf.Graph())))
    signature = tf.saved_model.loader.load(session, ['serve'], model.export_dir).signature_def[
        'serving_default'
    ]
    tensor = session.graph.get_tensor_by_name
    number = tensor(signature.inputs['number'].name)
    outputs = {key: tensor(info.name) for key, info in signature.outputs.items()}
    return lambda numbers: session.run(outputs, {number: [[nb] for nb in numbers]})


def open_predictor(model, stack, make):
    predict_fn = stack.enter_context(make(model))
    return lambda numbers: predict_fn({'number': [[nb] for nb in numbers]})


def open_tf2(model, stack):
    loaded = tf2.saved_model.load(model.export_dir)
    stack.callback(lambda: loaded)  # its variables live as long as it does
    signature = loaded.signatures['serving_default']
    return lambda numbers: {
        key: output.numpy()
        for key, output in signature(
            number=tf2.constant([[nb] for nb in numbers], tf2.float32)
        ).items()
    }


def open_function(model, stack, make):
    function = make(model.layers)
    return lambda numbers: {'output': function(np.array([[nb] for nb in numbers], np.float32))}


def onnx_function(layers):
    """Returns a function from an array [n, 1] to an array [n, 1]: ONNX Runtime's, for a model of layers."""
    import onnx
    import onnxruntime

    steps = ' '.join(f'x{i + 1} = Gemm(x{i}, kernel{i}, bias{i})' for i in range(len(layers)))
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 13]>
        double (float[n, 1] number) => (float[n, 1] x{len(layers)}) {{
            x0 = Concat<axis = 1>(number, number)
            {steps}
        }}""")
    for i, (kernel, bias) in enumerate(layers):
        model.graph.initializer.extend(
            [
                onnx.numpy_helper.from_array(kernel, f'kernel{i}'),
                onnx.numpy_helper.from_array(bias, f'bias{i}'),
            ]
        )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    return lambda array: session.run(None, {'number': array})[0]


def lite_function(layers, batch=1):
    """Returns a function from an array [batch, 1] to an array [batch, 1]: LiteRT's, for a model of layers."""
    from ai_edge_litert.interpreter import Interpreter

    double = tf2.function(lambda number: apply(layers, tf2.tile(number, [1, 2])))
    concrete = double.get_concrete_function(tf2.TensorSpec([batch, 1], tf2.float32))
    converter = tf2.lite.TFLiteConverter.from_concrete_functions([concrete], double)
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    number, output = (
        interpreter.get_input_details()[0]['index'],
        interpreter.get_output_details()[0]['index'],
    )

    def run(array):
        interpreter.set_tensor(number, array)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def apply(layers, x):
    """Returns what a model of layers gives for features [n, 2]: [n, 1]."""
    for kernel, bias in layers:
        x = x @ kernel + bias
    return x


POSTS = [
    Row('Estimator.predict', open_estimator, share=0.01, post_a=0.19, post_b=0.1152),
    Row(
        'FastPredict as the posts have it',
        functools.partial(open_generator, kind=PostsFastPredict),
        share=0.2,
        post_b=352e-6,
        lags=True,
    ),
    Row('FastPredict on a generator', open_generator),
    Row('FastPredict, 10 a call (post B one by one)', open_generator, batch=10, post_b=238e-6),
    Row('Session.run: what tf.contrib.predictor did', open_session, post_a='"100x"', post_b=178e-6),
]
BEYOND = [
    Row("the library's FastPredict", open_fast_predict),
    Row("the library's FastPredict, 10 a call", open_fast_predict, batch=10),
    Row(
        'predictor.from_saved_model',
        functools.partial(
            open_predictor, make=lambda model: predictor.from_saved_model(model.export_dir)
        ),
    ),
    Row(
        'predictor.from_estimator',
        functools.partial(
            open_predictor,
            make=lambda model: predictor.from_estimator(model.estimator, serving_input_receiver_fn),
        ),
    ),
    Row('tf.saved_model.load', open_tf2),
    Row(
        'ONNX Runtime',
        functools.partial(open_function, make=onnx_function),
        needs=('onnx', 'onnxruntime'),
    ),
    Row('LiteRT', functools.partial(open_function, make=lite_function), needs=('ai_edge_litert',)),
]
ROWS = POSTS + BEYOND
NAMES = [row.name for row in ROWS]


def result(future: futures.Future) -> Any:
    """Waits for a result, a second at a time: Ctrl-C just before a wait is seen only after it."""
    while not futures.wait([future], timeout=1).done:
        pass
    return future.result()


class Stopwatch:
    """Times a row, in a thread of its own: a live `Estimator.predict` leaves its graph as the default graph of its
    thread, where others would fail."""

    def __init__(self, row, model):
        self.row, self.model, self.stack = row, model, contextlib.ExitStack()
        self.times, self.wrong, self.stopped = [], 0, False
        self.numbers, self.thread = itertools.cycle(model.expected), futures.ThreadPoolExecutor(1)

    def load(self):
        """Loads the model and makes the first call."""
        start = time.perf_counter()
        self.predict = result(self.thread.submit(self.row.open, self.model, self.stack))
        self.loaded = time.perf_counter() - start
        self.ask(1)

    def close(self):
        self.stopped = True  # after Ctrl-C the thread still asks
        result(self.thread.submit(self.stack.close))
        self.thread.shutdown()

    def ask(self, calls):
        """Raises WrongAnswer where a row that doesn't lag has an answer that isn't within 0.1%."""
        result(self.thread.submit(self._ask, calls))

    def _ask(self, calls):
        for _ in range(calls):
            if self.stopped:
                return
            numbers = list(itertools.islice(self.numbers, self.row.batch))
            start = time.perf_counter()
            answers = self.predict(numbers)
            self.times.append(time.perf_counter() - start)
            if isinstance(answers, dict):  # with a hidden layer, of both layers
                answers = answers.get('predictions', next(iter(answers.values())))
            for nb, answer in itertools.zip_longest(
                numbers, map(number_in, answers), fillvalue=np.nan
            ):
                expected = self.model.expected.get(nb)  # None: one answer too many
                if expected is None or not abs(answer - expected) <= 1e-3 * nb:
                    self.wrong += 1
                    if not self.row.lags:
                        raise WrongAnswer(
                            f'{self.row.name}: f({nb}) = {answer}, expected {expected}'
                        )

    def record(self) -> dict[str, Any]:
        """Returns the figures, in seconds, all but `load` and `first_call` an example."""
        times = np.array(self.times[1:]) / self.row.batch
        return {
            'row': self.row.name,
            'batch': self.row.batch,
            'examples': len(times) * self.row.batch,
            'load': self.loaded,
            'first_call': self.times[0],
            'mean': times.mean(),
            'median': np.median(times),
            'p99': np.percentile(times, 99),
            'examples_per_second': 1 / times.mean(),
            'wrong': self.wrong,
            'post_a': self.row.post_a,
            'post_b': self.row.post_b,
        }


def compare(rows: Sequence[Row], model: Model, examples: int) -> Iterator[Stopwatch]:
    """Measures rows in turns, and yields each as soon as its last turn is over."""
    with contextlib.ExitStack() as stack:
        stopwatches = [
            stack.enter_context(contextlib.closing(Stopwatch(row, model))) for row in rows
        ]
        gc.disable()
        gc.freeze()  # collecting at the end of a round passes over all that stands now
        stack.callback(gc.unfreeze)
        stack.callback(gc.enable)
        for turn in range(ROUNDS + 1):
            for stopwatch in stopwatches:
                row = stopwatch.row
                progress(f'{f"round {turn} of {ROUNDS}" if turn else "loading"}: {row.name}')
                if turn == 0:
                    stopwatch.load()
                else:
                    stopwatch.ask(-(-max(1, round(examples * row.share / ROUNDS)) // row.batch))
                if turn == ROUNDS:
                    progress('')
                    yield stopwatch
            gc.collect()


def progress(text: str) -> None:
    """Shows, on a terminal, what is going on, in place of what was shown before."""
    if sys.stderr.isatty():
        print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)


def describe_machine(device: str, takes: float) -> dict[str, str]:
    """Prints and returns what the figures depend on, and prints how many seconds they take if it is over 30."""
    models = [
        line.partition(': ')[2]
        for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines()
        if line.startswith('model name')
    ]
    machine = {
        'python': platform.python_version(),
        'tensorflow': tf2.__version__,
        'numpy': np.__version__,
        'processor': (models or [platform.machine()])[0],
        'cores': str(len(os.sched_getaffinity(0))),
        'device': device,
    }
    print('Python {}, TensorFlow {}, numpy {}; {}, {} cores, on {}'.format(*machine.values()))
    if takes > 30:
        print(
            'This takes about',
            f'{takes / 60:,.0f} minutes.' if takes > 100 else f'{takes:.0f} seconds.',
            flush=True,
        )
    return machine


def print_row(
    name: str, *cells: str, widths: Sequence[int] = (42, 7, 12, 8, 8, 11, 9, 7, 8, 8)
) -> None:
    print(name.ljust(widths[0]) + ''.join(map(str.rjust, cells, widths[1:])), flush=True)


def table_row(record: dict, baseline: Optional[float]) -> list[str]:
    """Returns the cells of a row; `baseline` is the median of Estimator.predict, if that was measured."""

    def time_(key):
        return (
            record[key]
            if isinstance(record[key], str)
            else seconds(record[key])
            if record[key]
            else ''
        )

    return [
        record['row'],
        *map(time_, ('load', 'first_call', 'median', 'p99')),
        f'{record["examples_per_second"]:,.0f}',
        f'{baseline / record["median"]:,.0f}x' if baseline else '',
        f'{record["wrong"]:,}',
        time_('post_a'),
        time_('post_b'),
    ]


def write_json(path: Optional[str], **figures: Any) -> None:
    try:
        if path:
            pathlib.Path(path).write_text(json.dumps(figures, indent=2))
    except OSError as error:
        raise Fault(f"can't write {path}: {error.strerror}") from None


def same_export(export_dir_base: str, checkpoint: str) -> str:
    """Returns the path of the newest export; raises Fault where it takes no `number` or has other variables."""
    try:
        export_dir = exports.latest(export_dir_base)
        inputs = list(
            exports.read(export_dir).meta_graphs[0].signature_def['serving_default'].inputs
        )
        if inputs != ['number']:
            raise Fault(
                f"expected an export whose input is 'number', and {export_dir} takes {inputs}"
            )
        checkpoints.check(f'{export_dir}/variables/variables')
        exported, trained = map(
            tf.train.load_checkpoint, (f'{export_dir}/variables/variables', checkpoint)
        )
        for name in exported.get_variable_to_shape_map():
            if not trained.has_tensor(name) or not np.array_equal(
                exported.get_tensor(name), trained.get_tensor(name)
            ):
                raise Fault(
                    f'{export_dir} is of another model than {checkpoint}: its {name} differs'
                )
        return export_dir
    except (FileNotFoundError, checkpoints.DamagedCheckpoint, Fault) as error:
        raise Fault(f'{error}: leave --export-dir out, and compare.py exports for itself') from None


@script(
    reads='model',
    export_dir=dict(
        metavar='DIR',
        type=directory,
        help='take the newest export there, whose input is `number` (default: make one)',
    ),
    examples=10_000,
    rows=dict(
        nargs='+',
        choices=NAMES,
        default=NAMES,
        metavar='NAME',
        help='what to measure (default: all): ' + ', '.join(map('"{}"'.format, NAMES)),
    ),
    json=None,
)
def main(args):
    tf.logging.set_verbosity(tf.logging.ERROR)
    estimator = tf.estimator.Estimator(model_fn, args.model_dir, params=args.params)
    checkpoint = estimator.latest_checkpoint()
    export_dir = args.export_dir and same_export(args.export_dir, checkpoint)
    asked = [row for row in ROWS if row.name in args.rows]
    rows = [row for row in asked if all(map(importlib.util.find_spec, row.needs))]

    machine = describe_machine(
        args.device,
        5 + len(rows) + sum(args.examples * row.share * (row.post_b or 1e-4) for row in rows),
    )
    print(f'Checkpoint {checkpoint}, export {export_dir or "made of it now"}')
    fewer = ''.join(
        f'; {row.name}: {max(1, round(args.examples * row.share)):,}'
        for row in rows
        if row.share < 1
    )
    print(f'{args.examples:,} examples a row{fewer}')
    variables = tf.train.load_checkpoint(checkpoint)
    layers = [
        (variables.get_tensor(f'{name}/kernel'), variables.get_tensor(f'{name}/bias'))
        for name in ('hidden', 'dense')
        if variables.has_tensor(f'{name}/kernel')
    ]
    expected = {nb: apply(layers, np.array([nb, nb])).item() for nb in range(100, 200)}
    check(list(expected), list(expected.values()))

    records = []
    with tempfile.TemporaryDirectory() as directory:
        export_dir = (
            export_dir
            or estimator.export_saved_model(directory, serving_input_receiver_fn).decode()
        )
        print_row(
            '',
            'load',
            'first call',
            'median',
            'p99',
            'examples/s',
            'faster',
            'wrong',
            'post A',
            'post B',
        )
        for stopwatch in compare(
            rows, Model(estimator, export_dir, layers, expected), args.examples
        ):
            if stopwatch.row not in POSTS and (
                not records or records[-1]['row'] in NAMES[: len(POSTS)]
            ):
                print('Beyond the posts:')
            records.append(stopwatch.record())
            baseline = records[0]['median'] if records[0]['row'] == 'Estimator.predict' else None
            print_row(*table_row(records[-1], baseline))
    missing = ', '.join(row.name for row in asked if row not in rows)
    if missing:
        print(f'Not installed: {missing}. To compare with them: {install("benchmark")}')
    write_json(args.json, machine=machine, checkpoint=checkpoint, rows=records)


if __name__ == '__main__':
    main()
