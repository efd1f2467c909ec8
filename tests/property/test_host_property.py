"""Constants as operands, lookups, plain tensors and islands: what stands between the integer rules."""

from hypothesis import given
from hypothesis import strategies as st
from onnx_text import model_of
from property.corners import Corner, assert_exact, corners, few

OPERANDS = {
    "Add": "k = Identity(c) y = Add(x, k)",
    "Sub": "k = Identity(c) y = Sub(k, x)",
    "Max": "k = Identity(c) y = Max(x, k)",
    "Mul": "k = Identity(c) y = Mul(x, k)",
    "MatMul": "k = Identity(m) y = MatMul(x, k)",
    "MatMul from the left": "k = Identity(l) y = MatMul(k, x)",
    "Concat": "k = Identity(c) y = Concat<axis = 3>(x, k)",
}


@few(6)
@given(corners(), st.sampled_from(tuple(OPERANDS)))
def test_constant_operand(corner: Corner, kind: str):
    text = "(float[1,4,3,5] x) => (float[1,4,s,t] z) <float[1,4,3,5] c, float[1,1,5,2] m, float[1,4,2,3] l>"
    model = model_of(f"{text} {{ {OPERANDS[kind]} z = Relu(y) }}", seed=corner.seed)
    assert_exact(model, corner, "const")


@few(3)
@given(corners(), st.integers(0, 1))
def test_lookup(corner: Corner, axis: int):
    """Rows of a table by the numbers of the input, negative ones from the end; every row is reached."""
    text = f"""(int64[1,9] i, float[1,4,9] x) => (float[1,s,t] z) <float[5,6] t> {{
      e = Gather<axis = {axis}>(t, i) y = Transpose<perm = [0, 2, 1]>(e) z = Relu(y)
    }}"""
    assert_exact(model_of(text, seed=corner.seed), corner, "lookup", rows=(5, 6)[axis])


@few(3)
@given(corners())
def test_plain_tensors(corner: Corner):
    """Integers, booleans and floats that follow from them, between inputs, lookup and outputs."""
    text = """(int64[1,7] i) => (float[1,7,4] z, int64[1,7] k, bool[1,7] b)
    <float[6,4] t, int64 two = {2}, int64 five = {5}, int64[1] last = {2}, float far = {-0.1}> {
      j = Mul(i, two) k = Mod(j, five) b = Less(k, i) e = Gather(t, k)
      f = Cast<to = 1>(b) g = Mul(f, far) u = Unsqueeze(g, last) m = Exp(u) q = Identity(m) z = Mul(e, q)
    }"""
    assert_exact(model_of(text, seed=corner.seed), corner, "lookup", "island", "mul", rows=6)


ISLANDS = {
    "CumSum": "y = CumSum(x, two)",
    "TopK": "y, k = TopK<axis = 2>(x, vector)",
    "ArgMax": "k = ArgMax<axis = 1>(x) f = Cast<to = 1>(k) g = Identity(f) y = Sub(g, x)",
    "Where": "b = Less(x, w) y = Where(b, x, w)",
    "Gather by computed numbers": "k = ArgMax<axis = 3>(x) f = Reshape(x, flat) y = Gather(f, k)",
    "Hardmax": "y = Hardmax(x)",
    "Not a number": "r = Sub(x, x) y = Div(r, r)",
    "Infinity": "r = Sub(x, x) y = Div(w, r)",
    "LRN": "y = LRN<size = 3>(x)",
    "Mod": "y = Mod<fmod = 1>(x, w)",
}


@few(9)
@given(corners(), st.sampled_from(tuple(ISLANDS)))
def test_island(corner: Corner, kind: str):
    text = f"""(float[1,4,3,5] x, float[1,4,3,5] w) => (float[a,b,c,d] z)
    <int64 two = {{2}}, int64[1] vector = {{2}}, int64[1] flat = {{-1}}> {{ {ISLANDS[kind]} z = Neg(y) }}"""
    assert_exact(model_of(text, seed=corner.seed), corner, "island")
