"""`from_torch`: a `torch.nn.Module` that reads prompts as tokens, as a learner."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from mesalens.adapters._fit import reason_of
from mesalens.adapters._numpy import NumpyLearner
from mesalens.checks import InputError, count, one_of

LAYOUTS = ("interleaved", "joint")


def from_torch(
    module: Any,
    layout: str | Callable[..., Any] = "interleaved",
    *,
    width: int | None = None,
    batch_size: int = 1024,
    device: Any = None,
) -> NumpyLearner:
    """A learner that passes prompts as tokens to a PyTorch module and reads its prediction.

    The module is called with the following, for N prompts of n examples with d covariates and m
    outputs:

    | `layout` | argument | rows |
    | --- | --- | --- |
    | `"interleaved"` | (N, 2n + 1, width) | x₁, y₁, …, xₙ, yₙ, x_query, each followed by zeros |
    | `"joint"` | (N, n + 1, width) | (x₁, y₁), …, (xₙ, yₙ), (x_query, 0), followed by zeros |
    | a function | what it returns, a tensor or a tuple of them | |

    A layout function is called with tensors `xs` (N, n, d), `ys` (N, n, m) and `queries` (N, d) on
    the device of the module. The prediction is read at the last token, that of the query:

    | the module returns | the prediction is |
    | --- | --- |
    | (N, m), or (N,) if m = 1 | this |
    | (N, T, m), or (N, T) with T > 1 if m = 1 | the last of the T |
    | (N, T, width) of `"joint"` tokens | the entries of the last row in the place of y |

    The interleaved layout is that of Garg et al., *What can transformers learn in-context?*
    (NeurIPS 2022). The module is called without gradients, in the floating-point type and on the
    device of its first parameter.

    Args:
        module: A `torch.nn.Module` in evaluation mode.
        layout: How a prompt becomes tokens.
        width: The number of entries of a token. By default max(d, m) for interleaved tokens and d +
            m for joint ones, or `in_features` of the module's first `torch.nn.Linear` if that is
            larger.
        batch_size: The number of prompts in one call of the module.
        device: The device that the module is moved to, such as `"cuda"`. By default it is not
            moved.

    Returns:
        The learner. JAX cannot differentiate it.

    Raises:
        ValueError: If PyTorch is not installed, the module is not a `torch.nn.Module` or is in
            training mode, the layout is unknown, or the device is not available; on a call, if the
            prompts do not fit the width, or the module fails or returns another shape.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError("from_torch needs PyTorch: install mesalens[torch].")
    torch = importlib.import_module("torch")
    name = type(module).__name__
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"module must be a torch.nn.Module; got {name}.")
    if not callable(layout):
        one_of("layout", str(layout), LAYOUTS)
    if width is not None:
        count("width", width)
    if device is not None:
        try:
            module = module.to(device)
        except Exception as error:
            reason = reason_of(error)
            raise InputError(f"the device {str(device)!r} is not available ({reason}).") from error
    function = ModuleOnTokens(module, layout, width, count("batch_size", batch_size))
    function.require_evaluation()
    return NumpyLearner(function)


class ModuleOnTokens:
    """A function of batches of prompts: the module's predictions, read at the query's token."""

    def __init__(
        self, module: Any, layout: str | Callable[..., Any], width: int | None, batch_size: int
    ):
        self.module = module
        self.layout = layout
        self.width = width
        self.batch_size = batch_size
        self.__name__ = type(module).__name__

    def __repr__(self) -> str:
        layout = self.layout if isinstance(self.layout, str) else _name(self.layout)
        return f"{type(self).__name__}({self.__name__}, {layout})"

    def require_evaluation(self) -> None:
        """Raises `InputError` if the module or a part of it is in training mode."""
        if any(part.training for part in self.module.modules()):
            raise InputError(
                f"{self.__name__} is in training mode, in which predictions may be random; call "
                "its method eval() first."
            )

    def __call__(self, xs: np.ndarray, ys: np.ndarray, queries: np.ndarray) -> np.ndarray:
        torch = importlib.import_module("torch")
        self.require_evaluation()
        like = self._first_number(torch)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(xs), self.batch_size):
                batch = slice(start, start + self.batch_size)
                prompts = (
                    torch.tensor(part[batch], dtype=like.dtype, device=like.device)
                    for part in (xs, ys, queries)
                )
                parts.append(self._predictions(torch, *prompts))
        return np.concatenate(parts)

    def _first_number(self, torch: Any) -> Any:
        """A tensor of the module's type and on its device."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.empty(0)

    def _predictions(self, torch: Any, xs: Any, ys: Any, queries: Any) -> np.ndarray:
        arguments = self._tokens(torch, xs, ys, queries)
        shapes = " and ".join(str(tuple(getattr(each, "shape", ()))) for each in arguments)
        try:
            output = self.module(*arguments)
            found = self._at_query(torch, output, *ys.shape[::2], d=xs.shape[-1])
            return found.to("cpu", torch.promote_types(found.dtype, torch.float32)).numpy()
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{self.__name__} failed on tokens of shape {shapes}: {reason_of(error)}"
                f"{self._too_narrow(torch, xs.shape[-1], ys.shape[-1])}."
            ) from error

    def _tokens(self, torch: Any, xs: Any, ys: Any, queries: Any) -> tuple[Any, ...]:
        if callable(self.layout):
            try:
                tokens = self.layout(xs, ys, queries)
            except Exception as error:
                raise InputError(
                    f"the layout {_name(self.layout)} failed on prompts of {xs.shape[1]} examples: "
                    f"{reason_of(error)}."
                ) from error
            return tokens if isinstance(tokens, tuple) else (tokens,)
        N, n, d = xs.shape
        m = ys.shape[-1]
        joint = self.layout == "joint"
        least = self._least_width(d, m)
        width = self._width(torch, least)
        if width < least:
            raise InputError(
                f"{self.layout} tokens of {d} covariates and {m} outputs need a width of at least "
                f"{least}; {self.__name__} has width={width}."
            )
        if joint:
            tokens = xs.new_zeros(N, n + 1, width)
            tokens[:, :n, :d], tokens[:, n, :d] = xs, queries
            tokens[:, :n, d : d + m] = ys
        else:
            tokens = xs.new_zeros(N, 2 * n + 1, width)
            tokens[:, 0:-1:2, :d], tokens[:, -1, :d] = xs, queries
            tokens[:, 1::2, :m] = ys
        return (tokens,)

    def _least_width(self, d: int, m: int) -> int:
        return d + m if self.layout == "joint" else max(d, m)

    def _width(self, torch: Any, least: int) -> int:
        if self.width is not None:
            return self.width
        return max(least, self._reads(torch) or 0)

    def _reads(self, torch: Any) -> int | None:
        """How many entries the first linear map of the module reads; it need not be of tokens."""
        linear = (part for part in self.module.modules() if isinstance(part, torch.nn.Linear))
        first = next(linear, None)
        return None if first is None else first.in_features

    def _too_narrow(self, torch: Any, d: int, m: int) -> str:
        """What may be wrong with a module that failed, where it cannot read the tokens."""
        least, reads = self._least_width(d, m), self._reads(torch)
        if callable(self.layout) or reads is None or reads >= least:
            return ""
        return (
            f"; {self.layout} tokens of {d} covariates and {m} outputs have {least} entries, and "
            f"the first Linear of the module reads {reads}"
        )

    def _at_query(self, torch: Any, output: Any, N: int, m: int, d: int) -> Any:
        """The prediction (N, m) in what the module returned."""
        if not isinstance(output, torch.Tensor):
            raise InputError(
                f"{self.__name__} must return a tensor; got a {type(output).__name__}."
            )
        shape = tuple(output.shape)
        if shape == (N, m):
            return output
        if m == 1 and shape == (N,):
            return output[:, None]
        if shape[:1] == (N,) and 0 not in shape:
            if m == 1 and len(shape) == 2:
                return output[:, -1:]
            if len(shape) == 3 and shape[2] == m:
                return output[:, -1]
            if len(shape) == 3 and shape[2] >= d + m and self.layout == "joint":
                return output[:, -1, d : d + m]
        raise InputError(
            f"{self.__name__} returned shape {shape} for {N} prompts; a prediction of {m} "
            f"{'outputs' if m > 1 else 'output'} is read from {(N, m)} or ({N}, T, {m})."
        )


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
