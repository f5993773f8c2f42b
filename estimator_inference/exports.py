"""Finds and reads exports, which lie side by side: export_dir_base/<number>/saved_model.pb."""

from __future__ import annotations

import os
import re
from typing import Union

import tensorflow.compat.v1 as tf
from google.protobuf import message, text_format
from tensorflow.core.protobuf import saved_model_pb2

Path = Union[str, bytes, 'os.PathLike[str]']  # Estimator.export_saved_model returns bytes


class DamagedExport(ValueError):
    """A SavedModel that can't be read, or not by this TensorFlow."""


def latest(export_dir_base: Path) -> str:
    """Returns the path of the newest export below a directory: the one with the largest number.

    As for TensorFlow Serving, a directory whose name is no number is no export. So an export is
    copied to another name first, and then renamed: nobody loads half of it.

    Raises:
      FileNotFoundError: There is no export, or no such directory.
    """
    base = os.fsdecode(export_dir_base)
    if tf.gfile.IsDirectory(base):
        names = (name.rstrip('/') for name in tf.gfile.ListDirectory(base))
        for name in sorted(filter(re.compile('[0-9]+').fullmatch, names), key=int, reverse=True):
            export_dir = os.path.join(base, name)
            if tf.saved_model.contains_saved_model(export_dir):
                return export_dir
    raise FileNotFoundError(f'no export in {base}')


def read(export_dir: Path) -> saved_model_pb2.SavedModel:
    """Returns what stands in the saved_model.pb, or saved_model.pbtxt, of an export.

    Raises:
      FileNotFoundError: It has neither.
      DamagedExport: It can't be read, or holds no graph.
    """
    path = os.path.join(os.fsdecode(export_dir), 'saved_model.pb')
    if not tf.gfile.Exists(path) and tf.gfile.Exists(f'{path}txt'):
        path += 'txt'
    saved_model = saved_model_pb2.SavedModel()
    try:
        with tf.gfile.Open(path, 'rb') as file:
            content = file.read()
        if path.endswith('txt'):
            text_format.Parse(content, saved_model)
        else:
            saved_model.ParseFromString(content)
    except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError):  # a directory, perhaps
        raise FileNotFoundError(f'no SavedModel: {path} is missing') from None
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise DamagedExport(f'{path} is damaged: {error}') from None
    if not saved_model.meta_graphs:
        raise DamagedExport(f'{path} is damaged: it holds no graph')
    return saved_model


def reason(error: BaseException) -> str:
    """Returns the line of a TensorFlow error that says what is wrong.

    Its text may have that behind headings and the stack traces of the graph.
    """
    headings = (
        '(?:Original|Graph execution) error:\n+|\nNode: .*\n'
        r'|\d+ root error\(s\) found\.\n *\(0\) (?:[A-Z_]+: )?'  # on a GPU, for one
    )
    return re.split(headings, str(error))[-1].partition('\n')[0][:300] or type(error).__name__
