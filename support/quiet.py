"""Imports TensorFlow without its noise, and so that it takes GPU memory as it needs it, not all there is.

Import it before anything else that imports TensorFlow.

Two kinds of noise bury the log lines that matter here, Estimator's own:

- What TensorFlow's C++ libraries write to stderr. Set TF_CPP_MIN_LOG_LEVEL to see it: 0 shows all, also why a GPU
  isn't used.
- A warning for each deprecated name, Estimator's all among them. Set PYTHONWARNINGS, or run `python -W`, to see them.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import warnings

os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
if importlib.util.find_spec('tf_keras'):
    os.environ['TF_USE_LEGACY_KERAS'] = (
        '1'  # as tf1.py does, which a script imports after TensorFlow
    )
if 'TF_CPP_MIN_LOG_LEVEL' in os.environ or not shutil.which('grep'):
    import tensorflow
else:
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'  # 2 reports on the GPU that a machine doesn't have
    # TensorFlow 2.21 logs a few lines while it is imported, before it obeys that variable. A process of its own
    # filters them, so that the last words of an import that kills Python still come through.
    stderr = os.dup(2)
    noise = (
        '^(WARNING: All log messages before absl::InitializeLog|I0000 |W0000 .*computation placer|'
        'E0000 .*Unable to register cu)'
    )
    grep = subprocess.Popen(
        ['grep', '--line-buffered', '-vE', noise], stdin=subprocess.PIPE, stdout=stderr
    )
    assert grep.stdin
    os.dup2(grep.stdin.fileno(), 2)
    try:
        import tensorflow
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        grep.communicate()
        del os.environ[
            'TF_CPP_MIN_LOG_LEVEL'
        ]  # read by now; a process started from here decides for itself


_NOISE = (
    'Instructions for updating',
    'global step (tf.train.get_gl',  # two operations of a training step race, and the one that reads it may come first
    'does not use tf.data.Dataset',  # fast_predict.py does so on purpose
    'Using config: ',
    'Using default config',
    'Signatures ',
    'assets to ',
    'Assets added',
    'local_init_op',
    'Create CheckpointSaverHook',
    'Calling checkpoint listeners',
)

if not sys.warnoptions:
    tensorflow.get_logger().addFilter(
        lambda record: not any(noise in str(record.msg) for noise in _NOISE)
    )
    warnings.filterwarnings('ignore', message='`tf.layers')
