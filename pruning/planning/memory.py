"""Memory that measuring importance takes, from sizes alone, so that a person knows before starting.

    weights + gradients that the method keeps + activations of one batch + largest matrix at work

Activations, in floats per token (H hidden size, F MLP width, Q = n_q * d, V vocabulary). The attention of `sdpa` keeps no
scores; norms, rotations and masks that are shared or small do not count:

    forward only (wanda)      3H + 3F            one layer at a time: residual, normed input; gate, up and their product
    backward, activations     L (2H + 5Q + 4F)   q, k, v (k, v repeated for each query head), attention's output and copy;
      (gate, fisher)                             gate before and after silu, up, product; the inputs of both norms
    backward, weights         the same + 2H L    the outputs of both norms, which the gradients of the weights need
      (taylor, taylor_2nd)
    with any backward         + 4V               logits, their log-softmax, and the gradients of both; always float32

Compared with measured peaks on the demo model (batches of 1024 and 4096 tokens, the worker's allocator): 8 to 15 % below
them with a backward pass. Tensors of a forward pass alone are as computed; there the allocator held back up to 0.5 GB more.
"""

from ..methods import BACKWARD, FORWARD, IMPORTANCE_METHODS, WEIGHTS_ONLY
from .shape import LayerShape, ModelShape

_FLOAT32 = 4


def weight_bytes(shape: ModelShape, bytes_per_parameter: int) -> int:
    """Bytes of the loaded weights."""
    return shape.parameters * bytes_per_parameter


def measuring_bytes(shape: ModelShape, method: str, bytes_per_parameter: int, tokens: int) -> int:
    """Bytes that measuring all layers by an importance method takes at its peak; `tokens` are those of one batch.

    An estimate: the process itself and what its allocator holds back come on top of it.
    """
    passes = IMPORTANCE_METHODS[method].passes
    kept = gradient_bytes(shape, passes, bytes_per_parameter)
    widest = max(max(layer.intermediate_size, layer.num_attention_heads * layer.head_dim) for layer in shape.layers)
    at_work = IMPORTANCE_METHODS[method].matrices_at_work * shape.hidden_size * widest * bytes_per_parameter
    activations = activation_bytes(shape, passes, bytes_per_parameter, tokens)
    return weight_bytes(shape, bytes_per_parameter) + kept + max(at_work, activations)


def gradient_bytes(shape: ModelShape, passes: str, bytes_per_parameter: int) -> int:
    """Bytes of the gradients that stay over all batches: one for each prunable parameter, or none. `passes`: one of PASSES."""
    if passes != BACKWARD:
        return 0
    return (shape.attention_parameters + shape.mlp_parameters) * bytes_per_parameter


def activation_bytes(shape: ModelShape, passes: str, bytes_per_parameter: int, tokens: int) -> int:
    """Bytes of activations at the peak of one batch of `tokens` tokens; `passes` is one of PASSES."""
    if passes == WEIGHTS_ONLY:
        return 0
    if passes == FORWARD:
        widest = max(layer.intermediate_size for layer in shape.layers)
        return tokens * 3 * (shape.hidden_size + widest) * bytes_per_parameter
    kept = sum(kept_for_backward(layer, weights_too=passes == BACKWARD) for layer in shape.layers)
    return tokens * (kept * bytes_per_parameter + 4 * shape.vocab_size * _FLOAT32)


def kept_for_backward(layer: LayerShape, weights_too: bool) -> int:
    """Floats per token that one layer holds from its forward to its backward pass."""
    heads = layer.num_attention_heads * layer.head_dim
    norms = (4 if weights_too else 2) * layer.hidden_size
    return norms + 5 * heads + 4 * layer.intermediate_size
