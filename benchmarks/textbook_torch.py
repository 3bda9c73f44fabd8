"""The textbook way in PyTorch, as the field writes it; it uses nothing of mesalens' computations.

Modules of `nn.Linear`, batches drawn by torch, `torch.optim.Adam` with b2 = 0.98 on gradients cut
by `clip_grad_norm_`, eager or through `torch.compile`, on as many threads as torch takes. Linear
self-attention is `LinearSelfAttention`. `TorchTransformer` is the module of a mesalens
`Transformer`, with the same weights.
"""

from typing import Any

import numpy as np
import torch
from textbook import INITIAL_VARIANCE, LEARNING_RATE
from torch import Tensor, nn
from torch.nn import functional


class LinearSelfAttention(nn.Module):
    """Layers of linear self-attention on tokens (B, n + 1, d + 1); predictions (B,)."""

    def __init__(self, layers: int, dim: int, clip: float | None = None):
        super().__init__()
        self.clip = clip
        self.layers: Any = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(dim + 1, dim + 1, bias=False) for name in "QKVP"})
            for _ in range(layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Minus the y-part of the query token after the last layer."""
        for layer in self.layers:
            context = tokens[:, :-1]
            queries, keys, values = layer["Q"](tokens), layer["K"](context), layer["V"](context)
            tokens = tokens + layer["P"](queries @ keys.mT @ values)
            if self.clip is not None:
                tokens = tokens.clamp(-self.clip, self.clip)
        return -tokens[:, -1, -1]


def with_weights(module: LinearSelfAttention, weights) -> LinearSelfAttention:
    """The module with the weights of `textbook.initial_weights`."""
    for layer, of_layer in zip(module.layers, weights, strict=True):
        for name, matrix in of_layer.items():
            layer[name].weight.data = as_tensor(matrix)
    return module


def results(weights, tokens, targets, clip: float | None = None):
    """Predictions, loss and gradients, as arrays, of the weights and prompts of the textbook."""
    module = LinearSelfAttention(len(weights), tokens.shape[-1] - 1, clip)
    predictions = with_weights(module, weights)(as_tensor(tokens))
    loss = functional.mse_loss(predictions, as_tensor(targets))
    loss.backward()
    gradients = [
        {name: linear.weight.grad.numpy() for name, linear in layer.items()}
        for layer in module.layers
    ]
    return predictions.detach().numpy(), loss.detach().numpy(), gradients


def draw_batch(batch_size: int, context_length: int, dim: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets."""
    x = torch.rand(batch_size, context_length + 1, dim) - 0.5
    y = torch.einsum("bnd,bd->bn", x, torch.randn(batch_size, dim))
    tokens = torch.cat([x, y[..., None]], dim=-1)
    tokens[:, -1, -1] = 0
    return tokens, y[:, -1]


class LinearTraining:
    """Training of layers of linear self-attention, a fresh batch at each step."""

    def __init__(self, layers, context_length, dim, batch_size, clip=None, *, compiled=False):
        self._sizes = batch_size, context_length, dim
        self.module = LinearSelfAttention(layers, dim, clip)
        for weight in self.module.parameters():
            nn.init.normal_(weight, std=(INITIAL_VARIANCE / layers / (dim + 1)) ** 0.5)
        self._forward: Any = compiled_module(self.module) if compiled else self.module
        self._optimiser = torch.optim.Adam(
            self.module.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98)
        )

    def step(self) -> None:
        """One step of training."""
        tokens, targets = draw_batch(*self._sizes)
        loss = functional.mse_loss(self._forward(tokens), targets)
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1e-3)
        self._optimiser.step()


class TorchAttention(nn.Module):
    """Attention with heads, linear or softmax, of a layer of mesalens without biases."""

    Q: nn.Linear
    K: nn.Linear
    V: nn.Linear

    def __init__(self, attention, softmax: bool, causal: bool):
        super().__init__()
        self.heads, key_size, width = attention.W_Q.shape
        self.softmax, self.causal = softmax, causal
        for name in ("Q", "K", "V"):
            weight = as_tensor(getattr(attention, f"W_{name}")).reshape(-1, width)
            setattr(self, name, linear(weight))
        self.P = linear(as_tensor(attention.P).permute(1, 0, 2).reshape(width, -1))
        self.key_size = key_size

    def forward(self, rows: Tensor) -> Tensor:
        """What is added to each row."""
        context = rows if self.causal else rows[:, :-1]
        q, k, v = (
            self._split(self.Q(rows)),
            self._split(self.K(context)),
            self._split(self.V(context)),
        )
        if self.softmax:
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            out = q @ k.mT @ v
        return self.P(out.transpose(1, 2).flatten(2))

    def _split(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, self.key_size)).transpose(1, 2)


class TorchTransformer(nn.Module):
    """The module of a mesalens `Transformer`, on the rows of its prompts (B, rows, D)."""

    def __init__(self, model, softmax: list[bool], causal: bool):
        super().__init__()
        embedding = model.embedding
        projection = embedding.projection
        self.projection = None if projection is None else linear(as_tensor(projection.weight))
        self.mlp = None if embedding.mlp is None else mlp(embedding.mlp)
        self.concatenate = embedding.combination == "concatenate"
        self.positions = None
        if embedding.positions is not None:
            rows = model.tokens.rows(10)
            table = as_tensor(embedding.positions(rows))
            trained = hasattr(embedding.positions, "table")
            self.positions = nn.Parameter(table, requires_grad=trained)
        self.layers: Any = nn.ModuleList()
        for layer, kind in zip(model.stored_layers, softmax, strict=True):
            width = layer.attention.W_Q.shape[-1]
            norms = layer.attention_norm is not None
            parts = {
                "norm": nn.LayerNorm(width) if norms else nn.Identity(),
                "attention": TorchAttention(layer.attention, kind, causal),
            }
            if layer.mlp is not None:
                parts |= {
                    "mlp_norm": nn.LayerNorm(width) if norms else nn.Identity(),
                    "mlp": mlp(layer.mlp),
                }
            self.layers.append(nn.ModuleDict(parts))
        self.readout = None if model.readout is None else linear_of(model.readout)
        self.label = embedding.token_width(model.dim + model.outputs) - 1

    def forward(self, rows: Tensor) -> Tensor:
        """Predictions (B,)."""
        if self.projection is not None:
            rows = self.projection(rows)
        if self.mlp is not None:
            rows = rows + self.mlp(rows)
        if self.positions is not None:
            if self.concatenate:
                table = self.positions.expand(len(rows), *self.positions.shape)
                rows = torch.cat([rows, table], dim=-1)
            else:
                rows = rows + self.positions
        for layer in self.layers:
            rows = rows + layer["attention"](layer["norm"](rows))
            if "mlp" in layer:
                rows = rows + layer["mlp"](layer["mlp_norm"](rows))
        if self.readout is not None:
            return self.readout(rows[:, -1])[:, 0]
        return -rows[:, -1, self.label]


class GivenPrompts:
    """Gradient steps of a module on one batch of prompts."""

    def __init__(self, module: nn.Module, rows, targets, rate: float, *, compiled: bool = False):
        self.module, self._rows, self._targets = module, as_tensor(rows), as_tensor(targets)
        self._forward: Any = compiled_module(module) if compiled else module
        self._optimiser = torch.optim.SGD(
            [weight for weight in module.parameters() if weight.requires_grad], lr=rate
        )

    def results(self) -> tuple[np.ndarray, float, float]:
        """Predictions, loss, and the norm of its gradient."""
        self._optimiser.zero_grad()
        predictions = self._forward(self._rows)
        loss = functional.mse_loss(predictions, self._targets)
        loss.backward()
        weights = [weight for group in self._optimiser.param_groups for weight in group["params"]]
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(weight.grad) for weight in weights])
        )
        return predictions.detach().numpy(), loss.item(), norm.item()

    def step(self) -> None:
        """One step of gradient descent."""
        self._optimiser.zero_grad()
        functional.mse_loss(self._forward(self._rows), self._targets).backward()
        self._optimiser.step()


def bytes_for_backward(step) -> int:
    """Bytes of the tensors that autograd keeps during a step, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def compiled_module(module: nn.Module) -> Any:
    """The module through `torch.compile`."""
    # Modules of one class share the code of `forward`, which is compiled again for each
    torch._dynamo.config.recompile_limit = 100
    return torch.compile(module, dynamic=False)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear map with these weights."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight.data = weight.contiguous()
    if bias is not None:
        made.bias.data = bias
    return made


def linear_of(given) -> nn.Linear:
    """The linear map of Equinox."""
    return linear(as_tensor(given.weight), None if given.bias is None else as_tensor(given.bias))


def mlp(given) -> nn.Sequential:
    """The MLP of Equinox, with its GELU."""
    first, second = given.layers
    return nn.Sequential(linear_of(first), nn.GELU(approximate="tanh"), linear_of(second))


def as_tensor(array) -> Tensor:
    """A copy in float32 (arrays of JAX cannot be written to)."""
    return torch.from_numpy(np.array(array, np.float32))
