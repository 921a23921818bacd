"""Models with a state of one size: linear recurrences, scans, and the Mamba block."""

# Written by `make export` from d_state_space.ipynb; change it there.

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from .previous_chapters import GPT, make_norm

__all__ = [
    "zero_order_hold",
    "ssm_kernel",
    "causal_convolution",
    "scan_in_steps",
    "scan_by_doubling",
    "scan_in_chunks",
    "fastest_scan",
    "LinearScan",
    "linear_scan",
    "DiagonalSSM",
    "random_deltas",
    "selective_scan",
    "SelectiveSSM",
    "MambaBlock",
    "LayerState",
    "StateCache",
    "MambaLayer",
    "mamba_gpt",
]

# %% d_state_space.ipynb #6f5fbf91
def zero_order_hold(A, delta):
    """Continuous h' = A h + x, sampled every delta: h_t = a h_{t-1} + b x_t. Returns a and b.

    A: any shape, below 0; delta: above 0, of a shape that fits. x is held for the whole interval: Gu et al.
    2022 (S4D), section 2; Gu and Dao 2023, equation 4, with B = 1.
    """
    return (delta * A).exp(), (delta * A).expm1() / A

# %% d_state_space.ipynb #ca482e26
def ssm_kernel(a, b, c, length):
    """What an input of 1 sends to each later step, sum over n of c_n a_n^k b_n: (..., N) -> (..., length).

    S4D, equation 8: the state is diagonal.
    """
    steps = torch.arange(length, dtype=a.dtype, device=a.device)  # (T,)
    return ((b * c).unsqueeze(-2) @ a.unsqueeze(-1) ** steps).squeeze(-2)  # (..., 1, N) @ (..., N, T)

# %% d_state_space.ipynb #a3c798a6
def causal_convolution(x, kernel):
    """y_t = sum over k of kernel_k x_{t-k}, by FFT: x (B, T, D), kernel (D, T) -> (B, T, D).

    Zeros behind both keep the end from coming around to the beginning. A longer kernel is cut.
    """
    x = x.to(torch.promote_types(x.dtype, kernel.dtype))  # an FFT has no 16-bit form
    n = 2 * x.size(1)
    kernel = kernel[:, : x.size(1)]  # the text begins T - 1 tokens back at most
    spectrum = torch.fft.rfft(x, n, dim=1) * torch.fft.rfft(kernel.T, n, dim=0)  # (B, T + 1, D)
    return torch.fft.irfft(spectrum, n, dim=1)[:, : x.size(1)]  # (B, 2T, D) -> (B, T, D)

# %% d_state_space.ipynb #a7717896
def scan_in_steps(a, u):
    """h_t = a_t h_{t-1} + u_t from h_0 = 0, one step after another: (B, T, ...) twice -> (B, T, ...)."""
    states = [u[:, 0]]
    for t in range(1, u.size(1)):
        states.append(torch.addcmul(u[:, t], a[:, t], states[-1]))  # u + a * h
    return torch.stack(states, dim=1)

# %% d_state_space.ipynb #7daea425
def scan_by_doubling(a, u):
    """The same by log2 T steps, each on all positions at once: Hillis and Steele 1986."""
    reach = 1  # position t holds the composition of its last `reach` steps
    while reach < u.size(1):
        earlier_a, earlier_u = a[:, :-reach], u[:, :-reach]
        u = torch.cat([u[:, :reach], torch.addcmul(u[:, reach:], a[:, reach:], earlier_u)], dim=1)
        a = torch.cat([a[:, :reach], a[:, reach:] * earlier_a], dim=1)
        reach *= 2
    return u

# %% d_state_space.ipynb #d1ef01b1
def scan_in_chunks(a, u, chunk=None):
    """The same in chunks: steps within all chunks at once, steps from chunk to chunk, then one sum.

    chunk: steps in each; None: about the square root of T.
    """
    T, rest = u.size(1), u.shape[2:]
    L = chunk or math.ceil(math.sqrt(T))
    filling = (0, 0) * len(rest) + (0, -T % L)  # zeros behind the end
    a, u = (F.pad(x, filling).unflatten(1, (-1, L)) for x in (a, u))  # (B, T, ...) -> (B, M, L, ...)
    inner, decay = scan_in_steps(a.flatten(0, 1), u.flatten(0, 1)), a.cumprod(dim=2)  # (B M, L, ...)
    inner = inner.view_as(u)  # each chunk from 0
    ends = scan_in_steps(decay[:, :, -1], inner[:, :, -1])  # (B, M, ...): states after each chunk
    before = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], dim=1).unsqueeze(2)  # (B, M, 1, ...)
    return torch.addcmul(inner, decay, before).flatten(1, 2)[:, :T]  # (B, M, L, ...) -> (B, T, ...)

# %% d_state_space.ipynb #992175f0
def fastest_scan(a):
    """Steps where each is wide enough to keep a CPU busy, else chunks; a: (B, T, ...)."""
    return scan_in_steps if a.device.type == "cpu" and a[:, 0].numel() >= 2**11 else scan_in_chunks


class LinearScan(torch.autograd.Function):
    """h_t = a_t h_{t-1} + u_t, with its gradient written by hand: a scan backwards in time."""

    @staticmethod
    def forward(context, a, u):
        h = fastest_scan(a)(a, u)
        context.save_for_backward(a, h)
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        a, h = context.saved_tensors
        later = torch.cat([a[:, :1], a[:, 1:].flip(1)], dim=1)  # a_{t+1}, backwards; the first is not used
        at_u = fastest_scan(a)(later, gradient.flip(1)).flip(1)  # g_t = gradient_t + a_{t+1} g_{t+1}
        at_a = torch.cat([torch.zeros_like(h[:, :1]), at_u[:, 1:] * h[:, :-1]], dim=1)  # g_t h_{t-1}
        return at_a, at_u


def linear_scan(a, u, state=None):
    """h_t = a_t h_{t-1} + u_t for all t: a, u (B, T, ...), state h_0 (B, ...) or None for 0: (B, T, ...)."""
    if state is not None:
        u = torch.cat([u[:, :1] + a[:, :1] * state.unsqueeze(1), u[:, 1:]], dim=1)
    return LinearScan.apply(a, u)

# %% d_state_space.ipynb #0bf74406
class DiagonalSSM(nn.Module):
    """A state space that treats every token alike (S4D-Real: Gu et al. 2022, section 4): (B, T, D) -> same.

    Each of the D channels has its own N states. They start with A = -1 .. -N and a delta of 0.001 to 0.1.
    Without a state it is a convolution; with h_0 (B, D, N) a scan, which returns the last state as well.
    """

    def __init__(self, d_inner, d_state=16):
        super().__init__()
        self.log_delta = nn.Parameter(random_deltas(d_inner).log())  # (D,)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))  # (D, N)
        self.C = nn.Parameter(torch.randn(d_inner, d_state))  # (D, N); B = 1, since only B * C matters
        self.skip = nn.Parameter(torch.ones(d_inner))

    def forward(self, x, state=None):
        a, b = zero_order_hold(-self.A_log.exp(), self.log_delta.exp().unsqueeze(-1))  # (D, N) each
        if state is None:
            y, last = causal_convolution(x, ssm_kernel(a, b, self.C, x.size(1))), None
        else:
            u = b * x.unsqueeze(-1)  # (B, T, D, N)
            h = linear_scan(a.expand_as(u), u, state)  # (B, T, D, N)
            y, last = (h * self.C).sum(-1), h[:, -1]
        return (y + self.skip * x).to(x.dtype), last  # (B, T, D), (B, D, N)


def random_deltas(n, low=0.001, high=0.1):
    """n steps of time between low and high, equally likely on a logarithmic scale: (n,)."""
    return torch.exp(torch.empty(n).uniform_(math.log(low), math.log(high)))

# %% d_state_space.ipynb #5505a46a
def selective_scan(x, delta, A, B, C, state=None):
    """Algorithm 2 of Gu and Dao 2023: y (B, T, D) and the last state (B, D, N).

    x, delta: (B, T, D); A: (D, N), below 0; B, C: (B, T, N), what each token writes to and reads from; state:
    h_0 (B, D, N), or None for 0. a = exp(delta A) and b = delta B, as in Mamba's code. Computed in A's dtype.
    """
    x, delta, B, C = (tensor.to(A.dtype) for tensor in (x, delta, B, C))
    a = (delta.unsqueeze(-1) * A).exp()  # (B, T, D, 1) * (D, N) -> (B, T, D, N)
    u = (delta * x).unsqueeze(-1) * B.unsqueeze(2)  # (B, T, D, 1) * (B, T, 1, N) -> (B, T, D, N)
    h = linear_scan(a, u, state)  # (B, T, D, N)
    return (h * C.unsqueeze(2)).sum(-1), h[:, -1]


class SelectiveSSM(nn.Module):
    """A state space whose delta, B and C each token chooses (S6): (B, T, D) -> the same, and the last state.

    Gu and Dao 2023, section 3.2 and 3.6: delta = softplus of a projection through dt_rank numbers. The start:
    A = -1 .. -N, and for x = 0 a delta of 0.001 to 0.1.
    """

    def __init__(self, d_inner, d_state=16, dt_rank=1):
        super().__init__()
        self.sizes = [dt_rank, d_state, d_state]
        self.x_proj = nn.Linear(d_inner, sum(self.sizes), bias=False)  # delta before its widening, B, C
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))  # (D, N)
        self.skip = nn.Parameter(torch.ones(d_inner))
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(dt_rank**-0.5), dt_rank**-0.5)
            self.dt_proj.bias.copy_(random_deltas(d_inner).expm1().log())  # softplus of it: the deltas

    def forward(self, x, state=None):
        narrow, B, C = self.x_proj(x).split(self.sizes, dim=-1)  # (B, T, dt_rank), (B, T, N) twice
        delta = F.softplus(self.dt_proj(narrow))  # (B, T, dt_rank) -> (B, T, D)
        y, last = selective_scan(x, delta, -self.A_log.exp(), B, C, state)
        return (y + self.skip * x).to(x.dtype), last

# %% d_state_space.ipynb #e1d8c4eb
class MambaBlock(nn.Module):
    """Figure 3 of Gu and Dao 2023: x (B, T, D) -> (B, T, D), causal; takes the place of attention.

    Widen by `expand`, a convolution over the last d_conv tokens, the state space, a gate, narrow. dt_rank:
    None for D / 16, rounded up. selective=False: DiagonalSSM in place of SelectiveSSM. cache: one layer of a
    StateCache. cos_sin is not used: a recurrence knows the order. ValueError for a mask: it cannot obey one.
    """

    def __init__(self, d_model, d_state=16, d_conv=4, expand=2, dt_rank=None, selective=True):
        super().__init__()
        E = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * E, bias=False)
        self.conv1d = nn.Conv1d(E, E, d_conv, groups=E)  # a filter for each channel
        if selective:
            self.ssm = SelectiveSSM(E, d_state, dt_rank or math.ceil(d_model / 16))
        else:
            self.ssm = DiagonalSSM(E, d_state)
        self.out_proj = nn.Linear(E, d_model, bias=False)

    def forward(self, x, mask=None, cache=None, cos_sin=None):
        if mask is not None:
            raise ValueError("a state space reads every token and has no mask; give rows of equal length")
        hidden, gate = self.in_proj(x).chunk(2, dim=-1)  # (B, T, D) -> (B, T, E) twice
        hidden = F.silu(self.convolve(hidden, cache))  # (B, T, E)
        if cache is None:
            y, _ = self.ssm(hidden)  # (B, T, E)
        else:
            y, last = self.ssm(hidden, cache.state)
            cache.state, cache.length = last.detach().clone(), cache.length + x.size(1)
        return self.out_proj(y * F.silu(gate))  # (B, T, E) -> (B, T, D)

    def convolve(self, hidden, cache=None):
        """A causal convolution over time: (B, T, E) -> (B, T, E). It looks d_conv - 1 tokens back."""
        if cache is None:
            earlier = hidden.new_zeros(len(hidden), self.conv1d.kernel_size[0] - 1, hidden.size(-1))
        else:
            if cache.state is None:
                cache.start(hidden, self.conv1d.kernel_size[0] - 1, self.ssm.A_log.size(1))
            earlier = cache.inputs
        padded = torch.cat([earlier, hidden], dim=1)  # (B, d_conv - 1 + T, E)
        if cache is not None:
            cache.inputs = padded[:, hidden.size(1) :].detach().clone()  # (B, d_conv - 1, E)
        return self.conv1d(padded.transpose(1, 2)).transpose(1, 2)  # over the last dimension, and back

# %% d_state_space.ipynb #85692905
class LayerState:
    """What a MambaBlock remembers of all tokens so far: state (B, E, N), inputs (B, d_conv - 1, E)."""

    def __init__(self):
        self.state, self.inputs, self.length = None, None, 0

    def start(self, hidden, n_inputs, d_state):
        """Zeros, as before the first token; hidden: (B, T, E)."""
        B, _, E = hidden.shape
        self.state, self.inputs = hidden.new_zeros(B, E, d_state), hidden.new_zeros(B, n_inputs, E)


class StateCache:
    """The states of every layer: give it to `model(token_ids, cache)`, as a KVCache. It cannot be rewound."""

    def __init__(self, config):
        self.layers = [LayerState() for _ in range(config.n_layers)]

    def __getitem__(self, layer):
        return self.layers[layer]

    @property
    def length(self):
        """How many tokens it has read."""
        return self.layers[0].length

    @property
    def n_bytes(self):
        """The memory of its states, whatever the length."""
        return sum(t.nbytes for layer in self.layers for t in (layer.state, layer.inputs) if t is not None)

# %% d_state_space.ipynb #821018bd
class MambaLayer(nn.Module):
    """x + MambaBlock(norm(x)): (B, T, D) -> (B, T, D). It takes the place of a TransformerBlock."""

    def __init__(self, config, **sizes):
        super().__init__()
        self.norm = make_norm(config)
        self.mixer = MambaBlock(config.d_model, **sizes)
        with torch.no_grad():
            self.mixer.out_proj.weight /= math.sqrt(config.n_layers)  # as GPT-2 does with what is added up

    def forward(self, x, mask=None, cache=None, cos_sin=None):
        return x + self.mixer(self.norm(x), mask, cache)


def mamba_gpt(config, **sizes):
    """A GPT whose n_layers blocks are MambaLayers, with no attention, no feed-forward layer and no positions.

    sizes: what MambaBlock takes besides d_model. n_heads and d_ff have no meaning here.
    """
    model = GPT(replace(config, position="rope"))  # nothing is added to the embedding
    model.rope = None  # and nothing is rotated
    model.blocks = nn.ModuleList([MambaLayer(config, **sizes) for _ in range(config.n_layers)])
    return model
