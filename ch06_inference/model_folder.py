"""The folder of a model as others write it: its weights and its tokenizer, read and written.

Written by hand, since the forms of these files teach nothing about language models.
"""

import functools
import json
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .previous_chapters import GPT2_SPLIT_PATTERN, BPETokenizer, byte_of_character, special_pattern

# GPT-2's words, but each digit is a piece of its own, and so white space before a digit stays together
SMOLLM_SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
spelt_bytes = functools.cache(byte_of_character)  # {character: byte}, made when it is first needed
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# ---------------------------------------------------------------- weights


def read_json(path):
    """A JSON file that holds an object -> dict. ValueError when it is cut short or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not a whole JSON file ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got a {type(content).__name__}; fetch it again")
    return content


def visible(folder, pattern="*"):
    """What a folder holds, sorted; hidden files, such as ._model.safetensors, are left out."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def weight_files(folder):
    """The .safetensors files that hold the model of a folder.

    As in transformers: model.safetensors, else the files that model.safetensors.index.json names. Without
    either, the only .safetensors file there is. FileNotFoundError when there is none, ValueError for several.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
    files = [path for path in visible(folder, "*.safetensors") if path.is_file()]
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ValueError(
            f"{folder} holds {names}, and neither model.safetensors nor an index says "
            "which of them are the model; name one file, or fetch the index too"
        )
    if not files:
        raise FileNotFoundError(f"{folder} holds no model: {what_the_folder_holds(folder)}")
    return files


def what_the_folder_holds(folder):
    """What a folder without .safetensors files holds, and what to do about it."""
    names = [path.name for path in visible(folder)]
    if not names:
        return "the folder is empty; name a folder with config.json and model.safetensors"
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    other = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"))]
    if other:
        return (
            f"{other[0]} is not read here, since such files can run code; write it as safetensors, with "
            "transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    return f"there is {shown}, and no model.safetensors; name the folder that holds it"


def read_weights(source):
    """(folder, {name: tensor}) of a folder, one .safetensors file, or the name of a repository to fetch.

    ValueError or OSError say what is wrong.
    """
    source = Path(source) if Path(source).exists() else fetch_model(str(source))
    if source.is_file() and source.suffix != ".safetensors":
        raise ValueError(f"{source}: expected a .safetensors file, or the folder of a model")
    weights = {}
    for file in weight_files(source) if source.is_dir() else [source]:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, though the index names it; fetch it too")
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise ValueError(
                f"{source} does not hold whole files ({file.name}: {error}); fetch them again"
            ) from None
    return source if source.is_dir() else source.parent, weights


def misfit(weights, expected):
    """What keeps weights {name: tensor} from having the names and shapes of `expected`, in words; else ""."""
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    needed = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    lists = {
        "missing": [name for name in needed if name not in found],
        "extra": [name for name in found if name not in needed],
        "misshapen": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in needed.items()
            if found.get(name, shape) != shape
        ],
    }
    return "; ".join(f"{kind}: {', '.join(names[:8])}" for kind, names in lists.items() if names)


def fetch_model(name):
    """The folder of a model in huggingface_hub's cache, fetched where there is a network."""
    try:
        from huggingface_hub import snapshot_download

        repository = name if "/" in name else f"openai-community/{name}"
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "merges.txt"]))
    except Exception as error:  # no package, no network, no such repository: many types, one way out
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"{name} was not fetched ({reason}); give a folder of the model") from None


# ---------------------------------------------------------------- tokenizers


class AddedTokensTokenizer(BPETokenizer):
    """A BPETokenizer with added tokens: {str: id}, each one id wherever it stands, even in ordinary text.

    A special token is written by a program only; an added one, such as <tool> or a run of spaces, by anybody.
    """

    def __init__(self, vocab, merges, special_tokens, added_tokens, pattern, drop_unknown=True):
        super().__init__(vocab, merges, special_tokens | added_tokens, pattern, drop_unknown)
        self._special, self.added_tokens = frozenset(special_tokens), added_tokens

    def encode_ordinary(self, text):
        """str -> list of ids; special tokens are taken as ordinary text, added ones as one id."""
        ids = []
        for number, part in enumerate(special_pattern(frozenset(self.added_tokens)).split(text)):
            ids += [self.added_tokens[part]] if number % 2 else super().encode_ordinary(part)
        return ids


def make_tokenizer(vocab, merges, special_tokens, added_tokens, pattern):
    """A BPETokenizer, or one that knows added tokens where there are some."""
    if added_tokens:
        return AddedTokensTokenizer(vocab, merges, special_tokens, added_tokens, pattern)
    return BPETokenizer(vocab, merges, special_tokens, pattern, drop_unknown=True)


def spelling(token):
    """A token as GPT-2's files write it, each byte as a printable character -> bytes."""
    try:
        return bytes(map(spelt_bytes().__getitem__, token))
    except KeyError as error:
        raise ValueError(
            f"the token {token!r} holds {error}, which stands for no byte in GPT-2's spelling"
        ) from None


def tables(ids, merges, special):
    """{spelt token: id} and spelt merges -> (vocab, merges) as BPETokenizer takes them."""
    vocab = {index: spelling(token) for token, index in ids.items() if token not in special}
    return vocab, [(spelling(left), spelling(right)) for left, right in merges]


def folder_tokenizer(folder, vocab_size):
    """The BPETokenizer in a folder: tokenizer.json, or vocab.json and merges.txt.

    A folder without these gets GPT-2's own when vocab_size is that of GPT-2, or that filled up to 50,304.
    ValueError for a tokenizer of another kind, and for one that does not belong to a model of vocab_size ids.
    """
    folder_has = {path.name for path in visible(folder)}
    if "tokenizer.json" in folder_has:
        tokenizer = read_tokenizer_json(folder / "tokenizer.json")
    elif {"vocab.json", "merges.txt"} <= folder_has:
        tokenizer = read_vocab_and_merges(folder)
    elif 50257 <= vocab_size <= 50304:
        return BPETokenizer.gpt2()
    else:
        raise ValueError(
            f"{folder} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt), and a model of "
            f"{vocab_size:,} ids has another than GPT-2, whose are 50,257; put its files there"
        )
    if (
        not tokenizer.n_vocab <= vocab_size < tokenizer.n_vocab + 1024
    ):  # models are filled up to a round number
        raise ValueError(
            f"the tokenizer in {folder} has {tokenizer.n_vocab:,} ids and the model {vocab_size:,}: they do "
            "not belong together; put the model's own tokenizer there"
        )
    return tokenizer


def read_vocab_and_merges(folder):
    """GPT-2's two files. A token that is neither a byte nor made by a merge is a special one."""
    ids, lines = read_json(folder / "vocab.json"), (folder / "merges.txt").read_text("utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    made = {left + right for left, right in merges} | set(spelt_bytes())
    special = {token: index for token, index in ids.items() if token not in made}
    return make_tokenizer(*tables(ids, merges, special), special, {}, GPT2_SPLIT_PATTERN)


def read_tokenizer_json(path):
    """A tokenizer.json, of Hugging Face's form or our own. ValueError names what is not done here."""
    content = read_json(path)
    if content.get("format") == "bpe-tokenizer":
        return BPETokenizer.load(path)
    model = content.get("model") or {}
    added = content.get("added_tokens") or []
    post = json.dumps(content.get("post_processor") or {})
    problems = {
        "model.type": model.get("type", "BPE") != "BPE" or "merges" not in model,
        "normalizer": content.get("normalizer"),
        "post_processor": "SpecialToken" in post,
        **{f"model.{name}": model.get(name) for name in ("dropout", "byte_fallback", "ignore_merges")},
        **{f"model.{name}": model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")},
        "added_tokens": any(
            token.get(flag) for token in added for flag in ("lstrip", "rstrip", "single_word")
        ),
    }
    for name, problem in problems.items():
        if problem:
            raise ValueError(f"{path}: expected a byte-level BPE like GPT-2's, got another {name}")
    ids, merges = model["vocab"], [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    special, own = (
        {t["content"]: t["id"] for t in added if bool(t.get("special")) == kind} for kind in (True, False)
    )
    vocab, merges = tables(ids, merges, special | own)
    return make_tokenizer(
        vocab, merges, special, own, split_pattern(path, content.get("pre_tokenizer") or {})
    )


def split_pattern(path, pre_tokenizer):
    """The pattern that cuts text into words, from the steps of a tokenizer.json."""
    match pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        case [{"type": "ByteLevel", "add_prefix_space": False, **rest}] if rest.get("use_regex", True):
            return GPT2_SPLIT_PATTERN
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, **rest},
        ] if rest.get("use_regex", True):
            return SMOLLM_SPLIT_PATTERN
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return pattern
    raise ValueError(f"{path}: expected a byte-level BPE like GPT-2's, got the pre_tokenizer {pre_tokenizer}")


def end_and_start(tokenizer):
    """The tokens that end and begin a text, each (str, id) or None; those of a chat where there are some."""
    special = tokenizer.special_tokens
    end, start = (
        next(((name, special[name]) for name in names if name in special), None)
        for names in (("<|im_end|>", "<|endoftext|>"), ("<|im_start|>", "<|endoftext|>"))
    )
    return end, start


def token_ids_for_config(tokenizer):
    """What config.json says of a tokenizer; without one, that no token ends a text."""
    end, start = (None, None) if tokenizer is None else end_and_start(tokenizer)
    end, start = end and end[1], start and start[1]
    return {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def write_tokenizer_json(tokenizer, folder, context_length):
    """Write tokenizer.json and tokenizer_config.json, for AutoTokenizer, which then gives equal ids.

    ValueError for a special token that is spelt like an ordinary one: transformers could not tell them apart.
    """

    characters = {byte: character for character, byte in spelt_bytes().items()}

    def spell(token):
        return "".join(map(characters.__getitem__, token))

    ids = {spell(token): index for index, token in tokenizer.vocab.items()}
    special, added = tokenizer.special_tokens, getattr(tokenizer, "added_tokens", {})
    if both := sorted(set(special) & set(ids)):
        raise ValueError(
            f"the special token {both[0]!r} is also an ordinary one, which transformers would mix up"
        )
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    bytes_as_characters = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    words = {
        "type": "Split",
        "pattern": {"Regex": tokenizer.pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False}
    model |= {"vocab": ids | special, "merges": [" ".join(map(spell, pair)) for pair in tokenizer.merges]}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, **flags, "special": token not in added}
            for token, index in sorted(special.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, bytes_as_characters]},
        "post_processor": None,
        "decoder": bytes_as_characters,
        "model": model,
    }
    write_json(folder / "tokenizer.json", content)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings["model_max_length"] = context_length
    end, start = end_and_start(tokenizer)
    settings |= {"eos_token": end[0], "pad_token": end[0]} if end else {}
    settings |= {"bos_token": start[0]} if start else {}
    if {"<|im_start|>", "<|im_end|>"} <= set(special):
        settings["chat_template"] = CHAT_TEMPLATE
    write_json(folder / "tokenizer_config.json", settings)


def write_folder(folder, weights, config, tokenizer, context_length):
    """Write config.json, weights and, unless it is None, a tokenizer; the folder appears whole or not at all.

    Without a tokenizer no token ends a text. Returns the folder. FileExistsError when it exists already,
    ValueError for a tokenizer with more ids than the model, OSError when it cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; name a new folder")
    if tokenizer is not None and tokenizer.n_vocab > config["vocab_size"]:
        sizes = f"the tokenizer has {tokenizer.n_vocab:,} ids and the model {config['vocab_size']:,}"
        raise ValueError(f"{sizes}: they do not belong together; export each model with its own")
    ends = token_ids_for_config(tokenizer)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary, folder.name)
            made.mkdir()
            write_json(made / "config.json", config | ends)
            write_json(made / "generation_config.json", ends)
            if tokenizer is not None:
                write_tokenizer_json(tokenizer, made, context_length)
            weights = {name: tensor.cpu() for name, tensor in weights.items()}
            save_file(weights, made / "model.safetensors", {"format": "pt"})
            os.replace(made, folder)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{folder} was not written ({error}); make room, or name another place") from None
    return folder
