"""An ONNX predictor reads the same cells as texts as the run that it was exported from."""

from __future__ import annotations

import pandas as pd

from rainbow_ray.data import text_cells as normalize
from rainbow_ray.inference import onnx_predictor
from rainbow_ray.inference.input_tables import read_texts


def test_bytes_are_read_as_the_run_reads_them():
    cells = ["a door", b"caf\xc3\xa9", bytearray(b"a wall"), memoryview(b"an open gate"), b"caf\xe9", None, pd.NA]
    texts, undecodable = onnx_predictor._plain_texts(cells)
    run_texts = read_texts(cells, [], reads_text=True)
    assert texts == run_texts.texts == ["a door", "café", "a wall", "an open gate", "", "", ""]
    assert undecodable == run_texts.undecodable.tolist() == [False, False, False, False, True, False, False]
    assert onnx_predictor._plain_texts(b"a door") == (["a door"], [False])
    assert onnx_predictor.NOT_UTF8 == normalize.NOT_UTF8
