"""A chat: a conversation as one text, and a cache that keeps what was read."""

# Written by `make export` from ch06_real_model.ipynb; change it there.

import functools
import itertools

import torch

from .generation import KVCache, generate_steps
from .streaming import decode_pieces, until

__all__ = [
    "SYSTEM_PROMPT",
    "frame_ids",
    "chat_ids",
    "Chat",
    "chat",
]

# %% ch06_real_model.ipynb #ed09fc9f
SYSTEM_PROMPT = (
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # the one of its training
)


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

# %% ch06_real_model.ipynb #611746e9
class Chat:
    """A conversation: it keeps the messages, and the cache of what the model has read.

    options: those of generate_steps, such as temperature and generator.
    """

    def __init__(self, model, tokenizer, system=SYSTEM_PROMPT, max_new_tokens=256, **options):
        self.end = frame_ids(tokenizer)[1]
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.options = max_new_tokens, options
        self.messages = [("system", system)] if system else []
        self.cache, self.read = KVCache(model.config), []  # `read`: the ids whose keys the cache holds

    def say(self, text):
        """Yield the answer to `text` piece by piece; what was said so far stays when it is broken off."""
        self.messages += [("user", text), ("assistant", "")]
        for piece in decode_pieces(self.tokenizer, self._answer_ids(self._prompt_ids())):
            self.messages[-1] = ("assistant", self.messages[-1][1] + piece)
            yield piece

    def _answer_ids(self, ids):
        pairs = zip(ids[:-1], self.read)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.cache.rewind(same)
        self.read, unread = ids[:same], ids[same:]
        prompt = torch.tensor([ids], device=self.model.lm_head.weight.device)  # (1, T)
        options = {"eos_id": self.end, "n_vocab": self.tokenizer.n_vocab, "cache": self.cache} | self.options
        for index in until(self.end, generate_steps(self.model, prompt, self.max_new_tokens, **options)):
            self.read += unread
            unread = [index]
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

# %% ch06_real_model.ipynb #bc714c88
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
