"""compare.py, beyond/scale.py and beyond/plot.py: table, figures, pictures, and that wrong answers are told."""

import contextlib
import functools
import importlib.util
import io
import json
import os
import sys

import numpy as np
import pytest
from conftest import ROOT

import compare
from beyond import export as beyond_export
from beyond import plot, scale
from estimator_inference import tf
from model import model_fn
from support.errors import install

EXPECTED = {nb: 2 * nb for nb in range(100, 200)}
LAGS = 'FastPredict as the posts have it'
TEN = 'FastPredict, 10 a call (post B one by one)'


def fake(name, factor, **fields):
    return compare.Row(
        name,
        lambda model, stack: lambda numbers: [np.array([factor * nb]) for nb in numbers],
        **fields,
    )


def model(**fields):
    return compare.Model(
        **{'estimator': None, 'export_dir': '', 'layers': [], 'expected': EXPECTED, **fields}
    )


def write_checkpoint(directory, params, **values):
    """Writes a checkpoint of model.py's model with these variables."""
    with tf.Graph().as_default(), tf.Session() as session:
        model_fn(tf.placeholder(tf.float32, [None, 2]), None, 'infer', params)
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        for variable in tf.trainable_variables():
            variable.load(
                np.broadcast_to(values.get(variable.op.name.replace('/', '_'), 0), variable.shape),
                session,
            )
        tf.train.Saver().save(session, os.path.join(directory, 'model.ckpt'), 0)
    return str(directory)


@pytest.fixture(scope='module')
def table(trained, tmp_path_factory):
    """What compare.py prints, and the figures that it writes."""
    path, printed = tmp_path_factory.mktemp('table') / 'figures.json', io.StringIO()
    with contextlib.redirect_stdout(printed):
        compare.main(['--model-dir', trained, '--examples', '20', '--json', str(path)])
    return printed.getvalue().splitlines(), json.loads(path.read_text()), str(path)


def test_all_rows_in_one_table(table, trained):
    (machine, checkpoint, examples, header, *rows), figures, _ = table
    assert machine.startswith(f'Python {sys.version.split()[0]}, TensorFlow ') and ' on ' in machine
    assert checkpoint == f'Checkpoint {trained}/model.ckpt-1000, export made of it now'
    assert examples == f'20 examples a row; Estimator.predict: 1; {LAGS}: 4'
    assert header.split() == [
        'load',
        'first',
        'call',
        'median',
        'p99',
        'examples/s',
        'faster',
        'wrong',
        'post',
        'A',
        'post',
        'B',
    ]
    line = rows.index('Beyond the posts:')
    assert line == len(compare.POSTS)
    rows.pop(line)
    missing = rows.pop() if rows[-1].startswith('Not installed') else ''
    measured = [row for row in compare.ROWS if row.name not in missing]
    assert len(rows) == len(measured)
    assert all(row.startswith(f'{name} ') for row, (name, *_) in zip(rows, measured))
    assert all(len(row) == 120 for row in (header, *rows))
    assert rows[0].endswith('190 ms  115 ms') and '"100x"  178 us' in rows[4]


def test_figures(table, trained):
    _, figures, _ = table
    assert set(figures) == {'machine', 'checkpoint', 'rows'} and figures['checkpoint'].startswith(
        trained
    )
    assert set(figures['machine']) == {
        'python',
        'tensorflow',
        'numpy',
        'processor',
        'cores',
        'device',
    }
    rows = {record['row']: record for record in figures['rows']}
    assert (
        rows['FastPredict on a generator']['examples'] == 20
        and rows['Estimator.predict']['examples'] == 10
    )
    assert rows[TEN]['batch'] == 10 and rows[TEN]['examples'] == 100
    assert {
        row.name: (rows[row.name]['post_a'], rows[row.name]['post_b']) for row in compare.POSTS
    } == {
        'Estimator.predict': (0.19, 0.1152),
        LAGS: (None, 352e-6),
        'FastPredict on a generator': (None, None),
        TEN: (None, 238e-6),
        'Session.run: what tf.contrib.predictor did': ('"100x"', 178e-6),
    }
    for record in figures['rows']:
        assert (
            0 < record['median'] <= record['p99']
            and record['load'] > 0
            and record['first_call'] > 0
        )
    # Faster by orders of magnitude, not a matter of the machine.
    assert rows['Estimator.predict']['median'] > 100 * rows['predictor.from_saved_model']['median']


def test_only_the_posts_fast_predict_answers_wrong(table):
    wrong = {record['row']: record['wrong'] for record in table[1]['rows']}
    assert wrong.pop(LAGS) > 0
    assert set(wrong.values()) == {0}


def test_statistics_of_known_samples():
    stopwatch = compare.Stopwatch(compare.POSTS[0], model())
    stopwatch.loaded, stopwatch.times = 0.5, [0.25, *np.arange(1, 101) * 1e-6]
    record = stopwatch.record()
    assert record['median'] == pytest.approx(50.5e-6) and record['p99'] == pytest.approx(99.01e-6)
    assert record['mean'] == pytest.approx(50.5e-6) and record[
        'examples_per_second'
    ] == pytest.approx(1 / 50.5e-6)
    assert (record['load'], record['first_call'], record['examples']) == (0.5, 0.25, 100)
    assert compare.table_row(record, 101e-6) == [
        'Estimator.predict',
        '500 ms',
        '250 ms',
        '50 us',
        '99 us',
        '19,802',
        '2x',
        '0',
        '190 ms',
        '115 ms',
    ]
    stopwatch.row = stopwatch.row._replace(batch=10)
    assert compare.table_row(stopwatch.record(), None)[1:7] == [
        '500 ms',
        '250 ms',
        '5.0 us',
        '9.9 us',
        '198,020',
        '',
    ]
    assert stopwatch.record()['examples'] == 1000


def test_some_rows(trained, exported, capsys):
    compare.main(
        [
            '--model-dir',
            trained,
            '--export-dir',
            exported,
            '--examples',
            '20',
            '--rows',
            'predictor.from_estimator',
            'Session.run: what tf.contrib.predictor did',
        ]
    )
    _, checkpoint, _, _, *rows = capsys.readouterr().out.splitlines()
    assert f', export {exported}/' in checkpoint
    assert [row[:26].strip() for row in rows] == [
        'Session.run: what tf.contr',
        'Beyond the posts:',
        'predictor.from_estimator',
    ]
    assert not any('x  ' in row for row in rows)  # no Estimator.predict to compare with


def test_turns_are_interleaved():
    asked = []

    def recording(model, stack, name):
        stack.callback(asked.append, f'{name} closed')
        return lambda numbers: asked.append(name) or [np.array(2 * nb) for nb in numbers]

    rows = [compare.Row(name, functools.partial(recording, name=name)) for name in 'ab']
    stopwatches = list(compare.compare(rows, model(), examples=10))
    assert asked == ['a', 'b'] * (1 + compare.ROUNDS) + ['b closed', 'a closed']
    assert [(stopwatch.row.name, len(stopwatch.times)) for stopwatch in stopwatches] == [
        ('a', 11),
        ('b', 11),
    ]


@pytest.mark.parametrize('factor, answer', [(3, 300), (2.01, 201.0), (np.nan, 'nan')])
def test_a_wrong_answer_ends_the_run_and_names_the_row(factor, answer):
    with pytest.raises(compare.WrongAnswer) as error:
        list(compare.compare([fake('right', 2), fake('other', factor)], model(), examples=10))
    assert str(error.value).startswith(f'other: f(100) = {answer}'[:18]) and 'expected 200' in str(
        error.value
    )


def test_a_row_with_too_few_or_too_many_answers():
    for answers in ([], [np.array(200)] * 2):
        row = compare.Row('short', lambda *_, answers=answers: lambda numbers: answers)
        with pytest.raises(compare.WrongAnswer, match='short: '):
            list(compare.compare([row], model(), examples=10))


def test_wrong_answers_of_a_row_that_lags_are_counted():
    [stopwatch] = compare.compare([fake('late', 3, lags=True)], model(), examples=10)
    assert stopwatch.record()['wrong'] == 11


def test_a_row_is_a_few_lines(monkeypatch, trained, exported, ends, capsys):
    args = [
        '--model-dir',
        trained,
        '--export-dir',
        exported,
        '--examples',
        '20',
        '--rows',
        'LiteRT',
    ]
    monkeypatch.setattr(compare, 'ROWS', [fake('LiteRT', 2.0004)])
    compare.main(args)
    assert capsys.readouterr().out.splitlines()[-1].startswith('LiteRT ')
    monkeypatch.setattr(compare, 'ROWS', [fake('LiteRT', 2.1)])
    assert ends(compare, *args).startswith('LiteRT: f(100) = 210')


def test_what_is_not_installed_is_told(monkeypatch, trained, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if 'onnx' in name else find_spec(name)
    )
    compare.main(
        [
            '--model-dir',
            trained,
            '--examples',
            '20',
            '--rows',
            'ONNX Runtime',
            'predictor.from_estimator',
        ]
    )
    assert capsys.readouterr().out.splitlines()[-1] == (
        f'Not installed: ONNX Runtime. To compare with them: {install("benchmark")}'
    )


@pytest.mark.parametrize(
    'takes, line',
    [(20, ''), (42, 'This takes about 42 seconds.\n'), (182, 'This takes about 3 minutes.\n')],
)
def test_how_long_it_takes(takes, line, capsys):
    compare.describe_machine('CPU', takes)
    assert capsys.readouterr().out.partition('\n')[2] == line


@pytest.mark.parametrize('receiver', ['raw', 'example'])
def test_an_export_that_takes_no_number_is_refused(receiver, trained, tmp_path, ends):
    beyond_export.main(
        ['--model-dir', trained, '--export-dir', str(tmp_path), '--receiver', receiver, '--heads']
    )
    line = ends(compare, '--model-dir', trained, '--export-dir', tmp_path)
    [export_dir], [key] = (
        tmp_path.iterdir(),
        {'raw': ['feature'], 'example': ['examples']}[receiver],
    )
    assert line == (
        f"expected an export whose input is 'number', and {export_dir} takes ['{key}']: "
        'leave --export-dir out, and compare.py exports for itself'
    )


@pytest.mark.slow
def test_what_tensorflow_1_15_wrote_in_each_row(capsys):
    written = os.path.join(ROOT, 'tests/data/tensorflow_1_15')
    compare.main(
        [f'--model-dir={written}/model', f'--export-dir={written}/saved_model', '--examples', '20']
    )
    printed = capsys.readouterr().out
    assert all(name in printed for name in compare.NAMES)


def test_a_model_with_a_hidden_layer(tmp_path, capsys):
    model_dir = write_checkpoint(tmp_path, {'hidden_units': 4}, hidden_kernel=0.5, dense_kernel=0.5)
    compare.main(['--model-dir', model_dir, '--examples', '20'])
    assert len(capsys.readouterr().out.splitlines()) >= 3 + len(compare.POSTS)


def test_a_model_that_has_not_learned(tmp_path, ends):
    model_dir = write_checkpoint(tmp_path, {}, dense_kernel=0.9)
    assert 'the model has not learned 2x' in ends(compare, '--model-dir', model_dir)


def test_an_export_of_another_model_is_refused(exported, tmp_path, ends):
    hint = ': leave --export-dir out, and compare.py exports for itself'
    for number, params in enumerate([{}, {'hidden_units': 4}]):
        model_dir = write_checkpoint(
            tmp_path / str(number), params, hidden_kernel=0.5, dense_kernel=0.5 if params else 1.0
        )
        line = ends(compare, '--model-dir', model_dir, '--export-dir', exported)
        assert f'is of another model than {model_dir}/model.ckpt-0: its ' in line and line.endswith(
            f' differs{hint}'
        )
    line = ends(compare, '--model-dir', model_dir, '--export-dir', tmp_path)
    assert line == f'no export in {tmp_path}{hint}'


def test_device(trained, exported, monkeypatch, ends, capsys):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    args = (
        '--model-dir',
        trained,
        '--export-dir',
        exported,
        '--examples',
        '10',
        '--rows',
        'predictor.from_saved_model',
    )
    compare.main([*args, '--device', 'cpu'])
    assert capsys.readouterr().out.splitlines()[0].endswith(' on CPU')
    assert os.environ['CUDA_VISIBLE_DEVICES'] == '-1'
    if not tf.config.experimental.list_physical_devices('GPU'):
        assert 'TensorFlow sees no GPU' in ends(compare, *args, '--device', 'gpu')


def test_bad_flags(tmp_path, ends):
    assert "invalid choice: 'nonsense'" in ends(compare, '--rows', 'nonsense')
    assert "invalid choice: 'LiteRT'" in ends(scale, '--rows', 'LiteRT')
    for name in ('missing/x.json', ''):
        assert 'argument --json: expected a file' in ends(compare, '--json', tmp_path / name)
        assert 'argument --json: expected a file' in ends(scale, '--json', tmp_path / name)
    assert 'no checkpoint in' in ends(compare, '--model-dir', tmp_path)


def test_figures_that_cannot_be_written(ends):
    with pytest.raises(compare.Fault, match="can't write /dev/full: No space left on device"):
        compare.write_json('/dev/full', rows=[])


# beyond/scale.py and beyond/plot.py.


@pytest.fixture(scope='module')
def scaled(tmp_path_factory):
    path, printed = tmp_path_factory.mktemp('scale') / 'scale.json', io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(scale, 'PARAMETERS_AND_BATCHES', [(4, (1, 10)), (1000, (1,))])
        scale.main(
            [
                '--examples',
                '60',
                '--json',
                str(path),
                '--rows',
                'Session.run: what tf.contrib.predictor did',
                "the library's FastPredict",
            ]
        )
    return printed.getvalue().splitlines(), json.loads(path.read_text())['rows'], str(path)


def test_scale(scaled):
    (_, takes, header, *lines), rows, _ = scaled
    assert takes.startswith('This takes about ') and header.split() == [
        'parameters',
        'batch',
        'Session.run',
        'FastPredict',
    ]
    assert [line.split()[:2] for line in lines] == [['4', '1'], ['4', '10'], ['1,000', '1']]
    assert [(row['row'], row['parameters'], row['batch']) for row in rows] == [
        (name, parameters, batch)
        for parameters, batch in ((4, 1), (4, 10), (1000, 1))
        for name in ('Session.run: what tf.contrib.predictor did', "the library's FastPredict")
    ]
    assert all(row['median'] > 0 and row['peak_memory'] > 50e6 for row in rows)


@pytest.mark.parametrize(
    'name',
    [scale.NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in scale.NAMES[1:])],
)
def test_scale_measures_rows_of_compare(name, tmp_path):
    export_dir = scale.write_model(str(tmp_path), 10)
    record = scale.measure(name, str(tmp_path), export_dir, 10, batch=3, calls=3)
    assert (record['row'], record['parameters'], record['batch']) == (name, 13, 3) and record[
        'median'
    ] > 0


def test_pictures(table, scaled, tmp_path):
    pytest.importorskip('matplotlib')
    plot.main([table[2], str(tmp_path / 'rows.svg')])
    plot.main([scaled[2], str(tmp_path / 'scale.png')])
    drawn = (tmp_path / 'rows.svg').read_text()
    assert all(
        text in drawn
        for text in ('predictor.from_saved_model', 'post B, RTX 2080 Ti', 'wrong answers')
    )
    assert (tmp_path / 'scale.png').read_bytes().startswith(b'\x89PNG')


def test_picture_of_a_row_that_no_post_has(table, tmp_path):
    pytest.importorskip('matplotlib')
    figures, path = table[1], tmp_path / 'one.json'
    path.write_text(
        json.dumps(
            {'rows': [row for row in figures['rows'] if row['row'] == 'predictor.from_estimator']}
        )
    )
    plot.main([str(path), str(tmp_path / 'one.svg')])
    assert 'predictor.from_estimator' in (tmp_path / 'one.svg').read_text()


def test_pictures_that_cannot_be_drawn(table, tmp_path, monkeypatch, ends):
    picture = tmp_path / 'x.svg'
    assert 'ends in .svg or .png' in ends(plot, table[2], tmp_path / 'picture.gif')
    assert 'expected a file' in ends(plot, table[2], tmp_path / 'missing/x.svg')
    (tmp_path / 'other.json').write_text('{"rows": [{"median": 1}]}')
    for name in ('missing.json', 'other.json', os.path.basename(__file__)):
        path = os.path.join(os.path.dirname(__file__) if name.endswith('.py') else tmp_path, name)
        assert 'has no figures of compare.py or beyond.scale' in ends(plot, path, picture)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert ends(plot, table[2], picture) == f'beyond.plot needs matplotlib: {install("plot")}'
    assert not picture.exists()
