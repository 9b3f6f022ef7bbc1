"""Memory that measuring importance takes, from sizes alone, so that a person knows before starting."""

from .shape import ModelShape


def weight_bytes(shape: ModelShape, bytes_per_parameter: int) -> int:
    """Bytes of the loaded weights."""
    return shape.parameters * bytes_per_parameter


def measuring_bytes(shape: ModelShape, method: str, bytes_per_parameter: int) -> int:
    """Bytes of weights plus what the method keeps for every prunable parameter; activations come on top of it.

    `taylor` keeps one gradient for each.
    """
    gradients = {"taylor": 1}[method] * (shape.attention_parameters + shape.mlp_parameters)
    return weight_bytes(shape, bytes_per_parameter) + gradients * bytes_per_parameter
