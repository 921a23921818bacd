"""A reader's own texts: files and folders as they come, what is held out, what is too short; and streams."""

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ch01_tokenization.tokenizer import BPETokenizer
from ch05_training.training import TrainConfig
from ch06_inference import folders, terminal, texts
from ch06_inference.texts import (
    Texts,
    beginnings,
    check_length,
    fewer_steps,
    load_texts,
    read_text,
    read_texts,
    recorded,
    split_texts,
    texts_of_run,
    train_tokenizer,
)

GREEK = "ἄνδρα μοι ἔννεπε, μοῦσα, πολύτροπον, ὃς μάλα πολλὰ\nπλάγχθη, ἐπεὶ Τροίης ἱερὸν πτολίεθρον ἔπερσεν\n"
CHINESE = "子曰:「學而時習之,不亦說乎?有朋自遠方來,不亦樂乎?人不知而不慍,不亦君子乎?」"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---------------------------------------------------------------- one file


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbfone\r\ntwo\r\n", "one\ntwo\n"),
        (b"one\rtwo\r\rthree", "one\ntwo\n\nthree"),
        (b"mixed\r\nends\nhere\r", "mixed\nends\nhere\n"),
        ("one \ufeff inside\n".encode(), "one \ufeff inside\n"),  # only at the beginning it is a mark
        (GREEK.encode(), GREEK),
        (CHINESE.encode(), CHINESE),
        ("🐚 \u2028 \x0b \x85 é".encode(), "🐚 \u2028 \x0b \x85 é"),  # other line ends stay characters
    ],
    ids=["mark and CRLF", "CR", "mixed", "mark inside", "Greek", "Chinese", "others"],
)
def test_text_as_editors_save_it(tmp_path, content, text):
    assert read_text(write(tmp_path / "a b.txt", content)) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text".encode("utf-16"), ["is not UTF-8 but UTF-16", "save it as UTF-8"]),
        ("text".encode("utf-16-be"), ["is not UTF-8 text: it holds zero bytes"]),
        (b"\x89PNG\r\n\x1a\n\0\0", ["is not UTF-8 text: it holds zero bytes"]),
        ("déjà".encode("latin-1"), ["is not UTF-8 (byte 1 is 0xe9: ", "save it as UTF-8"]),
        (b"", ["the text is empty"]),
        (b"\xef\xbb\xbf \r\n\t", ["the text is empty"]),
        (None, ["cannot be read (No such file or directory)", "name a file or folder"]),
    ],
    ids=["UTF-16", "UTF-16 without a mark", "binary", "Latin-1", "empty", "only white space", "missing"],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "my text.txt"
    if content is not None:
        write(path, content)
    with pytest.raises((ValueError, OSError)) as error:
        load_texts(path)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and all(word in message for word in words)


def test_a_file_without_permission(tmp_path, monkeypatch):
    """Tests may run as root, who may read all."""
    path = write(tmp_path / "a.txt", "text")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match=r"a\.txt cannot be read \(Permission denied\); name a file"):
        load_texts(path)


def test_the_tilde_is_the_home_folder(tmp_path, monkeypatch):
    """make gpt TEXT=~/book.txt hands it on in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "book.txt", GREEK * 20)
    assert load_texts("~/book.txt").source["text"] == str((tmp_path / "book.txt").resolve())


# ---------------------------------------------------------------- a folder


def test_a_folder_of_files(tmp_path):
    for name in ("b.txt", "a.MD", "deep/er/c.Txt", "deep/d e.md"):
        write(tmp_path / name, f"text of {name}\r\n")
    for name in (".hidden.txt", "._b.txt", ".git/e.txt", "picture.png", "notes.docx", "deep/f"):
        write(tmp_path / name, "text of something else")
    write(tmp_path / "deep/copy.txt", "text of b.txt\n")
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "latin.txt", "é".encode("latin-1"))
    (tmp_path / "folder.txt").mkdir()
    found, remark = read_texts(tmp_path)
    names = [Path(name).relative_to(tmp_path).as_posix() for name in found]
    assert names == ["a.MD", "b.txt", "deep/d e.md", "deep/er/c.Txt"]
    assert list(found.values()) == [f"text of {name}\n" for name in names]
    first, *others = remark.split("\n")
    assert first == f"4 files of {tmp_path}, {sum(map(len, found.values()))} characters"
    for words in ("empty.txt is empty", "latin.txt is not UTF-8", "copy.txt is a copy", "3 files of other"):
        assert sum(words in line for line in others) == 1
    assert len(others) == 4 and "hidden" not in remark


@pytest.mark.parametrize(
    ("names", "words"), [([], "it is empty"), (["a.pdf", "b.docx"], "2 files of other kinds")], ids=str
)
def test_a_folder_without_text(tmp_path, names, words):
    for name in names:
        write(tmp_path / name, "text")
    with pytest.raises(ValueError, match="holds no text in files that end in .txt or .md") as error:
        load_texts(tmp_path)
    assert words in str(error.value)


def test_a_long_list_of_what_was_passed_over_is_cut(tmp_path):
    for number in range(30):
        write(tmp_path / f"{number}.txt", "")
    write(tmp_path / "good.txt", GREEK)
    remark = read_texts(tmp_path)[1]
    assert remark.count("\n") == 10 and remark.endswith("passed over: 21 more")


# ---------------------------------------------------------------- what is held out


SEVERAL = st.lists(st.text("ab \n", min_size=1, max_size=60), min_size=1, max_size=8, unique=True)


@given(SEVERAL, st.floats(0.01, 0.99))
def test_each_character_is_trained_on_or_held_out(contents, share):
    everything = {str(number): text for number, text in enumerate(contents)}
    train, held, _ = split_texts(everything, share)
    assert {name: train.get(name, "") + held.get(name, "") for name in everything} == everything
    assert "" not in [*train.values(), *held.values()]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, "0.5"])
def test_the_end_of_one_text_is_held_out(tmp_path, share):
    """From the beginning of a line, and as much as was asked for to within one line."""
    text = "".join(f"line {number} of the text\n" for number in range(1000))
    own = load_texts(write(tmp_path / "a.txt", text), share)
    ((_, train),), ((_, held),) = own.train.items(), own.held_out.items()
    assert train + held == text and held.startswith("line ") and train.endswith("\n")
    assert len(held) == pytest.approx(float(share) * len(text), abs=30)
    assert "the end of the text, " in own.remarks[1]


def test_a_tenth_by_default_and_a_text_without_lines(tmp_path):
    own = load_texts(write(tmp_path / "a.txt", CHINESE * 50))
    assert list(own.train.values()) == [CHINESE * 45] and list(own.held_out.values()) == [CHINESE * 5]
    assert own.source["held_out"] == 0.1 and own.source["held_out_of"] == [str(tmp_path / "a.txt")]


def test_of_several_texts_whole_ones_are_held_out(tmp_path):
    for number in range(20):
        write(tmp_path / f"{number:02}.txt", f"{number:02}" * 50)
    own = load_texts(tmp_path)
    assert [Path(name).name for name in own.held_out] == ["18.txt", "19.txt"] and len(own.train) == 18
    assert "2 whole files" in own.remarks[1] and "18.txt" in own.remarks[1]


def test_of_two_large_texts_the_ends_are_held_out(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.txt", "".join(f"{name} {number}\n" for number in range(500)))
    own = load_texts(tmp_path)
    assert len(own.train) == len(own.held_out) == 2
    assert all(own.train[name] + own.held_out[name] == read_text(name) for name in own.train)


def test_another_file_or_folder_is_held_out(tmp_path):
    text, other = write(tmp_path / "a.txt", GREEK), write(tmp_path / "other/b.txt", CHINESE)
    for held in (other, other.parent):
        own = load_texts(text, held)
        assert list(own.train.values()) == [GREEK] and list(own.held_out.values()) == [CHINESE]
        assert own.source["held_out"] == str(held.resolve())
    own = load_texts(tmp_path, str(other))  # a file of the very folder: it is not trained on
    assert list(own.train.values()) == [GREEK] and list(own.held_out.values()) == [CHINESE]


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ("a.txt", "a.txt holds all of "),
        ("copy of a.txt", "copy of a.txt holds all of "),
        ("part of a.txt", "stands word for word in "),
    ],
)
def test_what_is_trained_on_is_not_held_out(tmp_path, held, words):
    path = write(tmp_path / "a.txt", GREEK * 9)
    write(tmp_path / "copy of a.txt", GREEK * 9)
    write(tmp_path / "part of a.txt", GREEK.split("\n")[1] + "\r\n")
    with pytest.raises(ValueError, match=re.escape(words)):
        load_texts(path, tmp_path / held)


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "1.5", "nan", "inf", 0, 1])
def test_a_share_is_above_0_and_below_1(tmp_path, share):
    with pytest.raises(ValueError, match=f"--held-out {share} must be above 0 and below 1, or name a file"):
        load_texts(write(tmp_path / "a.txt", GREEK), share)


@pytest.mark.parametrize("share", ["20%", "0,2", "12.5 %"])
def test_a_share_as_others_write_it(tmp_path, share):
    path = write(tmp_path / "a.txt", GREEK)
    with pytest.raises(ValueError, match=f"--held-out {share}: write a share with a point and without"):
        load_texts(path, share)


def test_a_share_of_the_plays():
    with pytest.raises(ValueError, match="--held-out goes with --text"):
        load_texts(None, "0.1")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(str.strip))
def test_prompts_are_beginnings_of_what_is_held_out(text):
    for prompt in beginnings({"a": text}):
        assert (
            prompt
            and prompt in text
            and "\n" not in prompt
            and len(prompt) <= 24
            and prompt == prompt.strip()
        )


def test_prompts_by_example():
    lines = "".join(f"{number:03} words that make up a line\n" for number in range(300))
    assert beginnings({"a": lines}) == [f"{number} words that make up" for number in ("001", "101", "201")]
    assert beginnings({"a": CHINESE * 10})[0] == CHINESE[:24]


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [("Sing, goddess", ' --prompt "Sing, goddess"'), ("it's", ""), ("$HOME", ""), ('"a', ""), ("a\\", "")],
)
def test_the_prompt_of_the_hint_is_safe_in_any_shell(prompt, hint):
    assert Texts({}, {}, prompts=(prompt,), source={"text": "a"}).hint == hint
    assert Texts({}, {}).hint == ' --prompt "ROMEO:"'


# ---------------------------------------------------------------- short texts


@pytest.mark.parametrize("text", [GREEK, CHINESE, "abc abd " * 300, "def f(x):\n    return x\n" * 9])
def test_a_short_text_gives_fewer_tokens(text, capsys):
    """As many as there are: one more is refused by the trainer itself."""
    tokenizer = train_tokenizer([text], 2000)
    assert f"vocab_size={tokenizer.n_vocab}." in capsys.readouterr().out
    assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text
    with pytest.raises(ValueError, match="no pair is left"):
        BPETokenizer.train([text], tokenizer.n_vocab + 1)
    assert train_tokenizer([text], tokenizer.n_vocab).n_vocab == tokenizer.n_vocab
    assert "short" not in capsys.readouterr().out


def test_a_vocabulary_that_is_too_small_stays_an_error():
    with pytest.raises(ValueError, match="vocab_size=100 must be a whole number of at least 257"):
        train_tokenizer([GREEK], 100)


def test_too_short_says_how_much_is_missing(tokenizer):
    """And that much more is enough."""
    line = "Who's there? Nay, answer me: stand, and unfold yourself.\n"
    short = Texts({"a": line * 50}, {"a": line * 2}, "a.txt")
    with pytest.raises(ValueError, match=r"a\.txt is too short: the part held out has \d+ tokens") as error:
        check_length(short, tokenizer, 64)
    more = int(re.search(r"about ([\d,]+) characters more", str(error.value))[1].replace(",", ""))
    longer = Texts(short.train, {"a": line * (2 + more // len(line) + 1)}, "a.txt")
    check_length(longer, tokenizer, 64)
    shorter = int(re.search(r"a --context-length of (\d+) at most", str(error.value))[1])
    check_length(short, tokenizer, shorter)
    with pytest.raises(ValueError, match="the part held out"):
        check_length(short, tokenizer, shorter + 1)
    with pytest.raises(ValueError, match="in that part; give more text$"):
        check_length(Texts({}, short.held_out, "a.txt"), tokenizer, 64)  # no context is short enough
    with pytest.raises(ValueError, match="the part to train on has"):
        check_length(Texts(short.held_out, short.train, "a.txt"), tokenizer, 64)


def test_a_short_text_is_not_learned_by_heart(capsys):
    """4 times 30,000 tokens of 3 bytes are 117 steps of 1,024 tokens; a longer text takes all steps."""
    own, config = Texts({"a": "子" * 30_000}, {}), TrainConfig(steps=1400)
    fewer = fewer_steps(own, config, 128)
    assert texts.passes_of(own, fewer, 128) == pytest.approx(4, abs=0.02)
    assert (fewer.steps, fewer.warmup_steps, fewer.eval_every) == (117, 11, 30)
    assert "117 steps instead of 1400; to ask for more give --steps" in capsys.readouterr().out
    for text, steps in (("a" * 900, 100), ("子" * 400_000, 1400)):
        assert fewer_steps(Texts({"a": text}, {}), config, 128).steps == steps
    assert fewer_steps(own, TrainConfig(steps=20, warmup_steps=2), 32).steps == 20


@pytest.mark.parametrize(
    ("characters", "size"), [(100, 512), (45_000, 512), (46_080, 576), (100_000, 1216), (10**6, 2048)]
)
def test_the_vocabulary_of_a_short_text(characters, size, capsys):
    assert texts.fewer_tokens(Texts({"a": "x" * characters}, {}), 2048) == size
    assert ("give --vocab-size" in capsys.readouterr().out) == (size < 2048)
    assert texts.fewer_tokens(Texts({"a": "x" * characters}, {}), 300) == 300


# ---------------------------------------------------------------- what a run remembers


def test_a_run_remembers_its_texts(tmp_path, monkeypatch):
    """From any folder, and when the text has moved."""
    text = write(tmp_path / "my texts/a b.txt", GREEK * 20)
    monkeypatch.chdir(tmp_path)
    own = load_texts("my texts/a b.txt", 0.2)
    (tmp_path / "run").mkdir()
    texts.record_texts(tmp_path / "run", own)
    monkeypatch.chdir("/")
    again = texts_of_run(tmp_path / "run")
    assert (again.source, again.prompts, again.line) == (own.source, own.prompts, own.line)
    assert list(again.held_out.values()) == list(own.held_out.values())
    moved = text.rename(tmp_path / "moved.txt")
    with pytest.raises(FileNotFoundError, match="the text of .* is not at .*a b.txt any more; name it with"):
        texts_of_run(tmp_path / "run")
    assert texts_of_run(tmp_path / "run", moved).train.popitem()[1] == own.train.popitem()[1]  # share 0.2


def test_a_run_of_the_plays_remembers_nothing(tmp_path):
    texts.record_texts(tmp_path, load_texts())
    assert (
        list(tmp_path.iterdir()) == [] and recorded(tmp_path) == {} and texts_of_run(tmp_path).noun == "plays"
    )


def test_a_damaged_record(tmp_path):
    write(tmp_path / "data.json", "{")
    with pytest.raises(ValueError, match="data.json is damaged .*--text"):
        texts_of_run(tmp_path)


# ---------------------------------------------------------------- folders


def test_runs_in_their_order(tmp_path):
    names = ["mine", "2026-01-02-000000", "2026-01-02-000000-2", "2026-01-02-000000-10", "2026-02-01-000000"]
    for name in names:
        write(tmp_path / name / "checkpoints" / "step-000010.safetensors", "")
    for name in (".2027-01-01-000000", "2027-01-02-000000/x"):
        write(tmp_path / name / "checkpoints" / "step-000010.safetensors", "")
    write(tmp_path / "2027-01-03-000000" / "checkpoints" / "step-best.safetensors", "")
    write(tmp_path / "2027-01-04-000000" / "step-000010.safetensors", "")
    assert [path.name for path in folders.runs_in(tmp_path)] == names
    later = time.time() + 1  # a clock may tick once in some milliseconds only
    os.utime(tmp_path / names[1] / "checkpoints" / "step-000010.safetensors", (later, later))  # it went on
    assert folders.runs_in(tmp_path)[-1].name == names[1]
    assert folders.runs_in(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, ["there is no such folder", "ch06_inference.gpt train"]),
        ([], ["it is empty", "ch06_inference.gpt train"]),
        (["a.txt", "b.txt", "c.txt", "d.txt"], ["it holds a.txt, b.txt, c.txt, ..."]),
        (["tokenizer.json", "metrics.jsonl"], ["has no checkpoint yet"]),
        (["x/checkpoints/step-1.safetensors"], ["is not a run but holds 1; name one of them, such as", "/x"]),
        (["checkpoints/step-best.safetensors"], ["has no checkpoint yet"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_folder_that_is_something_else(tmp_path, files, words):
    path = tmp_path / "gpt2"
    for name in files or []:
        write(path / name, "")
    if files is not None:
        path.mkdir(exist_ok=True)
    assert not folders.holds_weights(path)
    message = folders.what_is_there(path)
    assert message.startswith(f"{path} ") and all(word in message for word in words)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "x.gguf"])
def test_a_folder_of_a_model_from_elsewhere(tmp_path, name):
    """What is missing in it the reader of such folders knows best."""
    write(tmp_path / name, "")
    assert folders.holds_weights(tmp_path) and folders.holds_weights(tmp_path / name)
    (tmp_path / name).rename(tmp_path / f"._{name}")
    assert not folders.holds_weights(tmp_path)


# ---------------------------------------------------------------- streams


SAY = "from ch06_inference.terminal import prepare_streams; import sys; prepare_streams(); "


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1:strict", "cp437", "utf-8"])
def test_a_stand_in_for_what_a_stream_cannot_write(encoding):
    code = SAY + "print('a “quoted” 子 \\ud83d b'); print('é 子', file=sys.stderr); print(input())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        input="x \xff\x81 y\n".encode("latin-1"),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split(b"\n")
    assert lines[0].startswith(b"a ") and lines[0].rstrip().endswith(b" b") and lines[1].startswith(b"x ")


class Broken(io.StringIO):
    """A stream on a file of its own that cannot be written."""

    def __init__(self, path):
        super().__init__()
        self.file = open(path, "w")

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        self.write("")

    def fileno(self):
        return self.file.fileno()


def test_a_lasting_stream_outlives_its_reader(tmp_path):
    broken = Broken(tmp_path / "file")
    lasting = terminal.Lasting(broken)
    with contextlib.redirect_stdout(lasting):
        print("lost", flush=True)
    os.write(broken.fileno(), b"x")
    assert (tmp_path / "file").read_bytes() == b""  # what is written now goes nowhere
    assert lasting.isatty() is False  # all else is that of the stream
    broken.file.close()
