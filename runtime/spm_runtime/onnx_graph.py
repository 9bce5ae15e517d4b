"""Looks into an ONNX file without loading it: operator domains and external data.

The runtime has no ``onnx`` package, and onnxruntime follows external data while it loads: too late to refuse. The
protobuf wire format is simple enough to walk for the few fields that matter.

Source: onnx/onnx.proto3 (field numbers) and the protobuf encoding specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spm_runtime.errors import ModelIntegrityError

__all__ = ["GraphFacts", "inspect_graph"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Graphs nest in the attributes of control flow; no exporter nests deeper than a few.
_MAX_DEPTH = 16


@dataclass(frozen=True)
class GraphFacts:
    """Domains of all operators used or imported, and names of the tensors stored outside."""

    domains: frozenset[str]
    external_data: tuple[str, ...]


def inspect_graph(data: bytes, file: Path) -> GraphFacts:
    """Collect the facts of an ONNX model.

    Parameters
    ----------
    data
        The file's bytes.
    file
        Its path, for messages.

    Raises
    ------
    ModelIntegrityError
        If the bytes are no ONNX model.
    """
    domains: set[str] = set()
    external: list[str] = []
    graphs = 0
    try:
        for number, value in _fields(memoryview(data)):
            if number == 7:  # graph
                graphs += 1
                _graph(value, domains, external, 0)
            elif number == 8:  # opset_import: domain = 1
                domains.add(_text(value, 1))
            elif number == 20:  # training_info: graphs that inference never runs
                raise ValueError("it carries training information")
            elif number == 25:  # functions: nodes = 7, opset_import = 9, domain = 10, attribute_proto = 11
                _function(value, domains, external)
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelIntegrityError(f"{file}: not an ONNX model ({error}). Install the model package again.") from error
    if graphs != 1:
        raise ModelIntegrityError(
            f"{file}: {graphs} graphs, expected an ONNX model with one. Install the package again."
        )
    return GraphFacts(frozenset(domains), tuple(external))


def _graph(data: memoryview, domains: set[str], external: list[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"graphs nested deeper than {_MAX_DEPTH}")
    for number, value in _fields(data):
        if number == 1:  # node
            _node(value, domains, external, depth)
        elif number == 5:  # initializer
            _tensor(value, external)
        elif number == 15:  # sparse_initializer: values = 1, indices = 2
            _sparse(value, external)


def _function(data: memoryview, domains: set[str], external: list[str]) -> None:
    domains.add(_text(data, 10))
    for number, value in _fields(data):
        if number == 7:
            _node(value, domains, external, 0)
        elif number == 9:
            domains.add(_text(value, 1))
        elif number == 11:
            _attribute(value, domains, external, 0)


def _node(data: memoryview, domains: set[str], external: list[str], depth: int) -> None:
    domains.add(_text(data, 7))
    for number, value in _fields(data):
        if number == 5:
            _attribute(value, domains, external, depth)


def _attribute(data: memoryview, domains: set[str], external: list[str], depth: int) -> None:
    for number, value in _fields(data):
        if number in (5, 10):  # t, tensors
            _tensor(value, external)
        elif number in (6, 11):  # g, graphs
            _graph(value, domains, external, depth + 1)
        elif number in (22, 23):  # sparse_tensor(s)
            _sparse(value, external)


def _sparse(data: memoryview, external: list[str]) -> None:
    for number, value in _fields(data):
        if number in (1, 2):
            _tensor(value, external)


def _tensor(data: memoryview, external: list[str]) -> None:
    # external_data = 13 (entries), data_location = 14 (EXTERNAL = 1); either makes it external.
    if any(number == 13 or (number == 14 and bytes(value) != b"\x00") for number, value in _fields(data)):
        external.append(_text(data, 8) or "unnamed")


def _text(data: memoryview, wanted: int) -> str:
    found = ""
    for number, value in _fields(data):
        if number == wanted:
            found = bytes(value).decode("utf-8")
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Fields of one message: number and content (the raw varint bytes reduced to one byte 0 or 1 for numbers)."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, memoryview(b"\x01" if value else b"\x00")
            continue
        if wire == _BYTES:
            length, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if number == 0 or position + length > len(data):
            raise ValueError("a field runs past the end")
        yield number, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("a number runs past the end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")
