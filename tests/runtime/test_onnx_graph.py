"""The walk over ONNX bytes, on messages encoded by hand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spm_runtime.errors import ModelIntegrityError
from spm_runtime.onnx_graph import inspect_graph

FILE = Path("weights.onnx")


def varint(value):
    out = bytearray()
    while True:
        out.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def field(number, content):
    """A length-delimited field, or a varint one for an int."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def node(op, domain="", attributes=b""):
    return field(4, op) + (field(7, domain) if domain else b"") + attributes


def model(graph, opset=None):
    return field(1, 8) + field(7, graph) + (field(8, field(2, 18)) if opset is None else opset)


def test_a_plain_graph():
    facts = inspect_graph(model(field(1, node("Conv")) + field(5, field(8, "w") + field(9, b"\0" * 8))), FILE)
    assert facts.domains == {""}
    assert facts.external_data == ()


def test_custom_operators_are_seen_wherever_they_hide():
    inner = field(1, node("Evil", "my.ops"))
    branch = field(5, field(6, inner))  # an attribute that is a graph
    assert "my.ops" in inspect_graph(model(field(1, node("If", attributes=branch))), FILE).domains
    function = field(25, field(10, "f") + field(7, node("Evil", "my.ops")))
    assert "my.ops" in inspect_graph(model(field(1, node("Conv"))) + function, FILE).domains
    defaults = field(25, field(10, "f") + field(11, field(6, inner)))
    assert "my.ops" in inspect_graph(model(b"") + defaults, FILE).domains
    assert "my.ops" in inspect_graph(model(b"", opset=field(8, field(1, "my.ops") + field(2, 1))), FILE).domains


@pytest.mark.parametrize("marker", [field(14, 1), field(13, field(1, "location") + field(2, "/etc/passwd"))])
def test_external_data_is_seen_wherever_it_hides(marker):
    tensor = field(8, "w") + marker
    for graph in (
        field(5, tensor),
        field(15, field(1, tensor)),
        field(1, node("Constant", attributes=field(5, field(5, tensor)))),
        field(1, node("If", attributes=field(5, field(6, field(5, tensor))))),
    ):
        assert inspect_graph(model(graph), FILE).external_data == ("w",)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"not a model at all", model(b"") * 2, field(7, b"\x0a\xff\x01")])
def test_other_bytes_are_refused(data):
    with pytest.raises(ModelIntegrityError, match=r"weights\.onnx"):
        inspect_graph(data, FILE)


def test_training_information_is_refused():
    with pytest.raises(ModelIntegrityError, match="training"):
        inspect_graph(model(b"") + field(20, field(1, field(1, node("Conv")))), FILE)


def test_deep_nesting_is_refused():
    graph = b""
    for _ in range(60):
        graph = field(1, node("If", attributes=field(5, field(6, graph))))
    with pytest.raises(ModelIntegrityError, match="nested"):
        inspect_graph(model(graph), FILE)


def outcome(data):
    """The domains of a model, or the type of the error."""
    try:
        return inspect_graph(data, FILE).domains
    except ModelIntegrityError as error:
        return type(error)


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_otherwise(data):
    for candidate in (data, model(data), model(field(1, data))):
        assert outcome(candidate) is ModelIntegrityError or isinstance(outcome(candidate), frozenset)
