"""FastPredict and predictor shared by threads: answers and memory, and a process that forks or ends meanwhile.

By 16 threads in the slow tests, and by 4 in the others.
"""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, Process, slow

# What is opened, and by how many threads it is used.
SLOW_KINDS = ['FastPredict 16', 'frozen 16', 'in the pool 16', 'from_estimator 16']
each_kind = pytest.mark.parametrize('kind', ['FastPredict 4', 'frozen 4', *slow(*SLOW_KINDS)])
DUMPS = 'Traceback', 'terminate called', 'Fatal', 'core dumped', 'Segmentation', 'Exception ignored'

# Integers that float32 holds: answers are exact. Each question is another, so that no answer fits two.
HEAD = f"""
import gc, multiprocessing, os, signal, sys, threading, time, warnings
sys.path.insert(0, {ROOT!r})
warnings.simplefilter('ignore', DeprecationWarning)  # that fork and threads don't go together is what is tested
import numpy as np
from estimator_inference import FastPredict, exports, predictor, tf

W = np.float32([[3, -1], [2, 5]])

def model_fn(features, labels, mode):
    w = tf.get_variable('w', initializer=W)
    if mode != 'infer':
        train_op = tf.assign_add(tf.train.get_global_step(), 1)
        return tf.estimator.EstimatorSpec(mode, loss=tf.zeros([]), train_op=train_op)
    y = tf.matmul(features['feature'] if isinstance(features, dict) else features, w)
    outputs = {{'serving_default': tf.estimator.export.PredictOutput({{'y': y}})}}
    return tf.estimator.EstimatorSpec(mode, predictions=y, export_outputs=outputs)

def receiver_fn():
    x = tf.placeholder(tf.float32, [None, 2])
    return tf.estimator.export.ServingInputReceiver(x, {{'x': x}})

def open_one():
    global opened, ask
    if kind == 'FastPredict':
        opened = FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32))
        ask = opened.predict
        return
    if kind == 'from_estimator':
        opened = predictor.from_estimator(estimator, receiver_fn)
    else:
        config = tf.ConfigProto(inter_op_parallelism_threads=2) if kind == 'in the pool' else None
        opened = predictor.from_saved_model(exports.latest('export'), config=config)
    ask = lambda x, opened=opened: opened({{'x': x}})['y']

def work(i):
    rng = np.random.default_rng(i)
    while not stop.is_set():
        x = rng.integers(-2**20, 2**20, (rng.integers(1, 51), 2)).astype(np.float32)
        try:
            wrong[i] += not np.array_equal(ask(x), x @ W)
        except Exception as error:
            errors[i] = error
            return
        calls[i] += 1

def end_threads():
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == [0] * count and min(calls) > 10, (wrong, calls, errors)

def megabytes():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6

kind, count = sys.argv[1].rsplit(' ', 1)
count, daemon = int(count), 'not' not in sys.argv
estimator = tf.estimator.Estimator(model_fn, 'model')
stop, calls, wrong, errors = threading.Event(), [0] * count, [0] * count, [None] * count
if count:
    open_one()
    threads = [threading.Thread(target=work, args=(i,), daemon=daemon) for i in range(count)]
    for thread in threads:
        thread.start()
    while min(calls) <= 10 and errors == [None] * count:
        time.sleep(.1)
"""


@pytest.fixture(scope='module')
def python(tmp_path_factory):
    """Runs code after HEAD in a process of its own: python(code, kind) -> (return code, stdout, stderr).

    In a forked one, or where Python's own end belongs to the test, in one that is not.
    """
    directory = tmp_path_factory.mktemp('threads')

    def run(code, *args, timeout=240, forked=True):
        path = directory / 'program.py'
        path.write_text(HEAD + code)
        if forked:
            process = Process([path, *args], directory, directory)
            try:
                process.wait(timeout)
            finally:
                process.kill()
            return process.returncode, process.stdout, process.stderr
        done = subprocess.run(
            [sys.executable, path, *args],
            cwd=directory,
            text=True,
            capture_output=True,
            timeout=timeout,
        )
        return done.returncode, done.stdout, done.stderr

    made = run(
        'estimator.train(lambda: tf.data.Dataset.from_tensors(0), steps=1)\n'
        "estimator.export_saved_model('export', receiver_fn)",
        'nothing 0',
    )
    assert made[0] == 0, made
    return run


def assert_clean(returncode, stderr):
    assert returncode == 0 and not [text for text in DUMPS if text in stderr], stderr


@pytest.mark.skipif(
    not os.path.exists('/proc/self/statm'), reason='reads the memory in use as Linux tells it'
)
@pytest.mark.parametrize(
    'kind, warm_up, seconds',
    [('FastPredict 4', 1, 2), ('frozen 4', 1, 2), *slow(*((kind, 5, 20) for kind in SLOW_KINDS))],
)
def test_answers_and_memory(python, kind, warm_up, seconds):
    returncode, printed, stderr = python(
        f"""
time.sleep({warm_up})
before = megabytes()
time.sleep({seconds - warm_up})
after, counts = megabytes(), list(calls)
end_threads()
assert errors == [None] * count, errors
print(sum(counts), before, after)
""",
        kind,
    )
    assert_clean(returncode, stderr)
    calls, before, after = map(float, printed.split())
    print(
        f'{kind}: {calls:,.0f} calls in {seconds} s, {before:.1f} MB after {warm_up} s, {after:.1f} MB at the end'
    )
    assert after - before < 2


@pytest.mark.parametrize('kind', ['FastPredict 4', *slow(*SLOW_KINDS)])
def test_forks_meanwhile(python, kind):
    returncode, _, stderr = python(
        """
def is_refused():
    for do in (lambda: ask([[1, 2]]), lambda: ask([[1, 2]] * 1000), open_one):
        try:
            do()
        except RuntimeError as error:
            assert 'fork first' in str(error), error
        else:
            raise AssertionError('not refused')

def delete():
    global opened, ask
    opened = ask = None
    gc.collect()

children = [lambda: os._exit(0), lambda: None, lambda: os.execv('/bin/true', ['true']), is_refused,
            lambda: (opened.close(), opened.close()), delete]
for child in children:
    pid = os.fork()
    if not pid:
        child()
        sys.exit(0)  # and so to the end of Python, which deletes what is left
    deadline = time.monotonic() + 60
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(.01)
    assert status == 0, (children.index(child), status)
end_threads()
assert errors == [None] * count, errors
""",
        kind,
        timeout=420,
        forked=False,
    )
    assert_clean(returncode, stderr)


@each_kind
def test_a_pool_forks_meanwhile(python, kind):
    returncode, printed, stderr = python(
        """
def is_refused(i):
    try:
        ask([[i, i]])
    except RuntimeError as error:
        return 'fork first' in str(error)

with multiprocessing.get_context('fork').Pool(2) as pool:
    print(pool.map_async(is_refused, range(10)).get(60))
end_threads()
""",
        kind,
    )
    assert_clean(returncode, stderr)
    assert printed == f'{[True] * 10}\n'


@pytest.mark.parametrize('kind', ['FastPredict 4', *slow(*SLOW_KINDS)])
@pytest.mark.parametrize('daemon', ['daemon', *slow('not')])
@pytest.mark.parametrize(
    'code, expected',
    [
        ('pass', 0),
        *slow(
            ('os.kill(os.getpid(), signal.SIGINT); time.sleep(60)', -signal.SIGINT),
            ('raise SystemExit(3)', 3),
            ('os._exit(4)', 4),
            ('os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)', -signal.SIGTERM),
        ),
    ],
    ids=['return', 'SIGINT', 'SystemExit', '_exit', 'SIGTERM'],
)
def test_ends_meanwhile(python, kind, daemon, code, expected):
    others_end = (
        'threading.Thread(target=lambda: (threading.main_thread().join(), stop.set())).start()\n'
    )
    returncode, _, stderr = python(
        (others_end if daemon == 'not' else '') + code, kind, daemon, forked=False
    )
    assert returncode == expected, stderr
    for text in DUMPS:
        assert text not in stderr or text == 'Traceback' and expected == -signal.SIGINT, (
            stderr
        )  # KeyboardInterrupt's


@each_kind
def test_closes_meanwhile(python, kind):
    returncode, _, stderr = python(
        """
opened.close()
for thread in threads:
    thread.join(60)
assert not any(thread.is_alive() for thread in threads)
assert all(isinstance(error, (RuntimeError, tf.errors.OpError)) for error in errors), errors
end_threads()
""",
        kind,
    )
    assert_clean(returncode, stderr)


def test_a_fork_after_tensorflow_was_used_by_other_means(python):
    """What is opened in the child then is an error instead of hanging; forked before that, it works."""
    returncode, printed, stderr = python(
        '''
import tensorflow

def in_child(function):
    """Returns what a forked child prints as it runs the function, or 'hangs'."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, str(function()).encode())
        os._exit(0)
    os.close(writer)
    for _ in range(3000):
        if os.waitpid(pid, os.WNOHANG)[0]:
            with os.fdopen(reader) as file:
                return file.read()
        time.sleep(.01)
    os.kill(pid, signal.SIGKILL)
    return 'hangs'

def opens():
    """Whether each kind opens and answers, in a child of its own; or the error that says that it doesn't."""
    answers = []
    for kind in kinds:
        def one():
            globals()['kind'] = kind
            try:
                open_one()
                return ask([[1, 2]]).tolist() if kind != 'FastPredict' else ask([[1, 2]])[0].tolist()
            except RuntimeError as error:
                return error
        answers.append(in_child(one))
    return answers

def plain_session():
    with tf.Session(graph=tf.Graph()) as session, session.graph.as_default():
        return session.run(tf.constant(1) + 1)

def estimators_own():
    return next(estimator.predict(lambda: tf.data.Dataset.from_tensors([[1., 2.]])))

def eager():
    return tensorflow.constant(1) + 1

def using(kind_):
    def use():
        globals()['kind'] = kind_
        open_one()
        ask([[1, 2]])
    return use

kinds = ['FastPredict', 'frozen', 'from_estimator']
for use in (lambda: None, plain_session, estimators_own, eager, *map(using, kinds)):
    print(in_child(lambda: (use(), opens())[1]))
''',
        'nothing 0',
    )
    assert_clean(returncode, stderr)
    first, *others = printed.splitlines()
    assert first == "['[7.0, 9.0]', '[[7.0, 9.0]]', '[[7.0, 9.0]]']"
    assert len(others) == 6
    for line in others:
        assert line.count('TensorFlow was used in the parent process') == 3, printed
