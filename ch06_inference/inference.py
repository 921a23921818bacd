"""From text to text: streaming, the surprise of a text, and a chat."""

# Written by `make export` from ch06_inference.ipynb; change it there.

import codecs
import functools
import itertools

import torch

from .generation import KVCache, LayerCache, generate, generate_steps
from .maps import plot_attention
from .pretrained import load_gpt2, load_smollm2, save_pretrained

__all__ = [
    "SYSTEM_PROMPT",
    "decode_pieces",
    "surprises",
    "until",
    "stream",
    "frame_ids",
    "chat_ids",
    "Chat",
    "chat",
    "LayerCache",
    "generate",
    "load_gpt2",
    "load_smollm2",
    "plot_attention",
    "save_pretrained",
]

# %% ch06_inference.ipynb #393927d3
def decode_pieces(tokenizer, ids):
    """An iterable of ids -> str pieces as soon as they are whole characters; joined they are the text.

    Bytes that never become a character turn into U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for index in ids:
        piece = decoder.decode(tokenizer.decode_bytes([index]))
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest

# %% ch06_inference.ipynb #7eeb9c3b
@torch.no_grad()
def surprises(model, tokenizer, text):
    """The tokens of a text and the surprise of each, -log p: (list of T bytes, (T,) float32 tensor of nats).

    ValueError for an empty text.
    The first token is judged after <|endoftext|>. A text longer than the context is read in windows that
    overlap by half, so that each later token is judged with at least half a context before it.
    """
    ids = [tokenizer.eot_token, *tokenizer.encode_ordinary(text)]
    if len(ids) < 2:
        raise ValueError("the text is empty; give at least one token")
    ids = torch.tensor(ids, device=model.lm_head.weight.device)  # (T + 1,)
    context, nats = model.config.context_length, []
    stride = max(1, context // 2)
    for start in range(0, max(1, len(ids) - 1 - (context - stride)), stride):
        window = ids[start : start + context + 1]
        log_p = model(window[None, :-1])[0].float().log_softmax(dim=-1)  # (n, V)
        found = -log_p.gather(-1, window[1:, None]).squeeze(-1)  # (n,)
        nats.append(found if start == 0 else found[context - stride :])
    return [tokenizer.decode_bytes([index]) for index in ids[1:].tolist()], torch.cat(nats).cpu()

# %% ch06_inference.ipynb #c0241a8b
def until(stop_id, steps):
    """Steps of one row, (1,) each -> their ids, up to stop_id, which is left out."""
    for next_ids in steps:
        if next_ids.item() == stop_id:
            return
        yield next_ids.item()


def stream(model, tokenizer, prompt, max_new_tokens, **options):
    """Yield the continuation of a text piece by piece, as str; options are those of generate_steps.

    It ends at <|endoftext|>, and an empty prompt starts there. Special tokens in the prompt stay text.
    """
    eot = tokenizer.eot_token
    ids = torch.tensor([tokenizer.encode_ordinary(prompt) or [eot]], device=model.lm_head.weight.device)
    options = {"n_vocab": tokenizer.n_vocab, "eos_id": eot} | options
    yield from decode_pieces(tokenizer, until(eot, generate_steps(model, ids, max_new_tokens, **options)))

# %% ch06_inference.ipynb #ed09fc9f
SYSTEM_PROMPT = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # the one of its training
)

# %% ch06_inference.ipynb #af6bde51
def frame_ids(tokenizer):
    """The ids of <|im_start|> and <|im_end|>. ValueError for a tokenizer that has none."""
    try:
        return [tokenizer.special_tokens[name] for name in ("<|im_start|>", "<|im_end|>")]
    except KeyError as name:
        raise ValueError(f"this model has not learned to chat: no token {name}; take smollm2") from None


def chat_ids(tokenizer, messages):
    """A conversation in the form of SmolLM2's template -> list of ids, ending where the assistant speaks.

    messages: [(role, text)], role one of system, user, assistant. Only the frame around a message is made of
    special tokens; what stands in the text stays text. ValueError for another role.
    """
    start, end = frame_ids(tokenizer)
    newline, ids = tokenizer.encode_ordinary("\n"), []
    for role, text in messages:
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"role {role!r} is unknown; choose one of system, user, assistant")
        ids += [start, *tokenizer.encode_ordinary(f"{role}\n{text}"), end, *newline]
    return [*ids, start, *tokenizer.encode_ordinary("assistant\n")]

# %% ch06_inference.ipynb #611746e9
class Chat:
    """A conversation: it keeps the messages, and the cache of what the model has read.

    options: those of generate_steps, such as temperature and generator.
    """

    def __init__(self, model, tokenizer, system=SYSTEM_PROMPT, max_new_tokens=256, **options):
        frame_ids(tokenizer)  # or it cannot chat
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.options = max_new_tokens, options
        self.messages = [("system", system)] if system else []
        self.cache, self.read = KVCache(model.config), []  # `read`: the ids whose keys the cache holds

    def say(self, text):
        """Yield the answer to `text` piece by piece; what was said so far stays when it is broken off."""
        self.messages += [("user", text), ("assistant", "")]
        for piece in decode_pieces(self.tokenizer, self._answer_ids()):
            self.messages[-1] = ("assistant", self.messages[-1][1] + piece)
            yield piece

    def _answer_ids(self):
        end = frame_ids(self.tokenizer)[1]
        ids = self._prompt_ids()
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids[:-1], self.read)))
        self.cache.rewind(same)
        self.read, new = ids[:same], torch.tensor([ids[same:]], device=self.model.lm_head.weight.device)
        options = {"eos_id": end, "n_vocab": self.tokenizer.n_vocab, "cache": self.cache} | self.options
        pending = ids[same:]
        for index in until(end, generate_steps(self.model, new, self.max_new_tokens, **options)):
            self.read += pending
            pending = [index]
            yield index

    def _prompt_ids(self):
        """The ids of the conversation; when there is no room for an answer, the oldest turns are dropped."""
        context, kept = self.model.config.context_length, self.messages[:-1]
        while len(ids := chat_ids(self.tokenizer, kept)) > context - self.max_new_tokens:
            turns = [n for n, (role, _) in enumerate(kept) if role == "user"]
            if len(turns) < 2:
                del self.messages[-2:]  # what was said before stays
                n = self.max_new_tokens
                raise ValueError(f"the text and max_new_tokens={n} pass context_length={context}; shorten it")
            del kept[turns[0] : turns[1]]
        self.messages = [*kept, self.messages[-1]]
        return ids

# %% ch06_inference.ipynb #bc714c88
def chat(model, tokenizer, read=input, write=None, **options):
    """Talk with a model at the keyboard; returns the messages.

    "bye", Ctrl-D, or Ctrl-C at the prompt end it; Ctrl-C in an answer breaks off the answer. read: prompt ->
    a line of text; write: str -> None, print by default. options: those of Chat.
    """
    write = write or functools.partial(print, end="", flush=True)
    conversation = Chat(model, tokenizer, **options)
    write('Ask something. Ctrl-C breaks off an answer; "bye" or Ctrl-D ends.\n')
    while True:
        try:
            line = read("you: ").strip()
        except (EOFError, KeyboardInterrupt):
            line = "bye"
        if line.lower() in ("bye", "exit", "quit"):
            write("\n")
            return conversation.messages
        if not line:
            continue
        try:
            for piece in itertools.chain(["model: "], conversation.say(line)):
                write(piece)
        except KeyboardInterrupt:
            write(" ... (stopped)")
        except ValueError as error:
            write(f"({error})")
        write("\n")
