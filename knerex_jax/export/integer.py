"""`<model>.integer.onnx`: the fixed program in standard ONNX operators, the same codes on plain ONNX Runtime.

ONNX Runtime computes few integer operators, so integers are held in float32 and float64, within what these hold
exactly; the proven bounds of the program say which type each sum needs, or into which parts it is cut. The claim does
not depend on the order of summation or on fused products, so a graph optimizer may do what it likes.
"""

from collections.abc import Callable, Collection
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from knerex_jax.artifacts.bie import Bie
from knerex_jax.errors import UnsupportedOpError
from knerex_jax.export.elementwise import align, interp, matmul, max_pool, move, mul, pool_sum, table
from knerex_jax.export.mac import activate, mac
from knerex_jax.export.shift import in_type, number
from knerex_jax.export.site import Site
from knerex_jax.export.tape import Tape, Value
from knerex_jax.fixedpoint.qformat import data_limits
from knerex_jax.probe import behind_islands
from knerex_jax.program.bounds import bound_program
from knerex_jax.program.primitives import (
    Activate,
    Align,
    Const,
    Instruction,
    Interp,
    Island,
    Lookup,
    Mac,
    MatMul,
    MaxPool,
    Move,
    Mul,
    PoolSum,
    Table,
)

OPSET, IR_VERSION = 17, 8

_RULES: dict[type, Callable[..., Value]] = {
    Mac: mac, Activate: activate, Align: align, Mul: mul, MatMul: matmul, PoolSum: pool_sum, MaxPool: max_pool,
    Interp: interp, Move: move, Table: table,
}  # fmt: skip


def integer_onnx(bie: Bie, *, taps: Collection[str] = ()) -> onnx.ModelProto:
    """The fixed-point model as ONNX.

    Inputs are those of the model, in real units (float32), one sample at a time. Every output comes twice: under its
    name in real units, and as codes (int8 or int16) under `<name>_codes`; plain outputs come once, as they are. An
    output that is an input has its real units under `<name>_output`.

    Args:
      bie: the model.
      taps: further tensors wanted as codes.

    Raises:
      UnsupportedOpError: a sum that no operator of ONNX Runtime adds exactly, or host operators of different opsets.
    """
    program = bie.program
    named = {f"{t}_{end}" for t in (*program.outputs, *taps) for end in ("codes", "output")}
    tape = Tape(taken={*program.inputs, *program.outputs, *named})
    site = Site(tape, program, bound_program(program, bie.constants), _opset(bie))
    values: dict[str, Value] = {}
    plain: dict[str, str] = {}
    for t in program.inputs:
        tape.scope = t
        if t in program.exact:
            plain[t] = t
        else:
            values[t] = _quantized(tape, bie, t, t)
    for i in program.instructions:
        tape.scope = i.name
        _translate(site, bie, i, values, plain)
    outputs = []
    for t in dict.fromkeys((*program.outputs, *taps)):
        tape.scope = t
        if t in program.exact:
            if t in program.outputs:
                if t not in program.inputs:
                    tape.emit("Identity", plain[t], output=t)
                outputs.append(_info(t, program.exact[t].dtype, site.shape(t)))
            continue
        codes = in_type(tape, values[t], "float32").name
        if t in program.outputs:
            inverse = _broadcast(bie, t, "inverse")
            real = f"{t}_output" if t in program.inputs else t  # no node of ONNX makes an input
            tape.emit("Mul", codes, tape.constant(inverse), output=real)
            outputs.append(_info(real, "float32", site.shape(t)))
        kind = "int8" if program.tensor[t].bits == 8 else "int16"
        tape.emit("Cast", codes, output=f"{t}_codes", to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
        outputs.append(_info(f"{t}_codes", kind, site.shape(t)))
    inputs = [
        _info(t, program.exact[t].dtype if t in program.exact else "float32", site.shape(t)) for t in program.inputs
    ]
    graph = helper.make_graph(tape.nodes, program.name or "model", inputs, outputs, initializer=tape.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _opset(bie))], producer_name="knerex_jax")
    model.ir_version = max(IR_VERSION, 10 if _opset(bie) > 20 else IR_VERSION)
    helper.set_model_props(model, _metadata(bie))
    return model


def _translate(site: Site, bie: Bie, i: Instruction, values: dict[str, Value], plain: dict[str, str]) -> None:
    tape, constants = site.tape, bie.constants.get(i.name, {})
    match i:
        case Island():
            _island(site, bie, i, values, plain)
        case Const():
            codes = np.asarray(constants["codes"])
            if i.output in site.program.exact:
                plain[i.output] = tape.constant(codes)
            else:
                shaped = codes.reshape(site.shape(i.output))
                values[i.output] = Value(tape.integers(shaped), int(np.abs(shaped.astype(np.int64)).max(initial=0)))
        case Lookup():
            codes = np.asarray(constants["codes"])
            place = tape.cast(plain[i.inputs[0]], "int64")
            name = tape.emit("Gather", tape.integers(codes), place, axis=i.at)
            values[i.output] = Value(name, int(np.abs(codes.astype(np.int64)).max(initial=0)))
        case _:
            read = [in_type(tape, values[t], "float32") for t in i.inputs]
            made = in_type(tape, _RULES[type(i)](site, i, constants, *read), "float32")
            values[i.output] = made


def _island(site: Site, bie: Bie, i: Island, values: dict[str, Value], plain: dict[str, str]) -> None:
    """The float operator between a product by the inverse and the rule of the boundary."""
    tape, node = site.tape, onnx.NodeProto.FromString(i.node)
    held = bie.constants.get(i.name, {})
    names = []
    for t in node.input:
        if t in held:
            kind = dict(i.constant_types).get(t, str(np.asarray(held[t]).dtype))
            tensor = numpy_helper.from_array(np.asarray(held[t]), tape.fresh(f"{i.name}/{t}"))
            if kind != str(np.asarray(held[t]).dtype):
                names.append(tape.cast(tape.constant(np.asarray(held[t])), kind))
                continue
            tape.tensors.append(tensor)
            names.append(tensor.name)
        elif t in plain:
            names.append(plain[t])
        elif t:
            codes = in_type(tape, values[t], "float32").name
            names.append(tape.emit("Mul", codes, tape.constant(_broadcast(bie, t, "inverse"))))
        else:
            names.append("")
    made = {t: tape.fresh(f"{i.name}/{t}") for t in node.output if t}
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:], copy.output[:]
    copy.input.extend(names)
    copy.output.extend(made.get(t, "") for t in node.output)
    copy.name = tape.fresh(f"{i.name}/{node.op_type}")
    tape.nodes.append(copy)
    for t, name in zip(i.outputs, (made[o] for o in node.output if o in made), strict=False):
        if t in site.program.exact:
            plain[t] = tape.cast(name, site.program.exact[t].dtype)
        else:
            values[t] = _quantized(tape, bie, t, name)


def _quantized(tape: Tape, bie: Bie, tensor: str, name: str) -> Value:
    """saturate(rint(x * factor)), one float32 product."""
    low, high = data_limits(bie.program.tensor[tensor].bits)
    scaled = tape.emit("Round", tape.emit("Mul", name, tape.constant(_broadcast(bie, tensor, "factor"))))
    ends = (number(tape, np.float64(v), "float32") for v in (low, high))
    return Value(tape.emit("Clip", scaled, *ends), -low)


def _broadcast(bie: Bie, tensor: str, name: str) -> np.ndarray:
    values = np.ravel(np.asarray(bie.constants[f"tensor:{tensor}"][name], np.float32))
    held = bie.program.tensor[tensor]
    if len(values) == 1 or held.axis is None:
        return values.reshape((1,) * len(held.shape))
    return values.reshape([-1 if k == held.axis else 1 for k in range(len(held.shape))])


def _info(name: str, dtype: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    kind = TensorProto.BOOL if dtype == "bool" else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)


def _opset(bie: Bie) -> int:
    found = {i.opset for i in bie.program.islands}
    if len(found) > 1:
        raise UnsupportedOpError(
            f"operators on the host follow opsets {sorted(found)}", where=bie.program.name, fix="convert to one opset"
        )
    return max(found, default=OPSET)


def _metadata(bie: Bie) -> dict[str, str]:
    program = bie.program
    behind = behind_islands(program)
    said: dict[str, Any] = {
        "arith_version": program.arith_version,
        "source_sha256": bie.header.get("source_sha256", ""),
        "platform": program.platform,
        "islands": [i.name for i in program.islands],
        "equal_outputs": [t for t in program.outputs if t not in behind],
        "outputs_behind_islands": [t for t in program.outputs if t in behind],
    }
    return {f"knerex.{k}": v if isinstance(v, str) else msgspec.json.encode(v).decode() for k, v in said.items()}
