"""Chapter 6 in one place: generation, streaming, attention maps, real models and chat. Imports only."""

from .chat import SYSTEM_PROMPT, Chat, chat, chat_ids
from .generation import KVCache, LayerCache, generate, generate_steps
from .maps import plot_attention
from .pretrained import load_gguf, load_gpt2, load_pretrained, load_smollm2, save_pretrained
from .streaming import decode_pieces, stream, surprises

__all__ = [
    "Chat",
    "KVCache",
    "LayerCache",
    "SYSTEM_PROMPT",
    "chat",
    "chat_ids",
    "decode_pieces",
    "generate",
    "generate_steps",
    "load_gguf",
    "load_gpt2",
    "load_pretrained",
    "load_smollm2",
    "plot_attention",
    "save_pretrained",
    "stream",
    "surprises",
]
