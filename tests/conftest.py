"""What several test files share. One thread: arrays are small, and test processes run side by side."""

import os
import signal
import tempfile

import matplotlib
import pytest
import torch
from hypothesis import settings

from ch01_tokenization.corpus import load_plays
from ch01_tokenization.tokenizer import BPETokenizer

matplotlib.use("Agg")
# Who starts the tests in the background may have Ctrl-C ignored, and an ignored signal stays ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the kernels and programs that tests start
torch.set_num_threads(1)
folder_of_runs = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # not among a reader's own runs
os.environ["COURSE_RUNS"] = folder_of_runs.name
settings.register_profile("course", derandomize=True, deadline=None)  # the same cases in every run
settings.load_profile("course")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def plays():
    return load_plays()


@pytest.fixture(scope="session")
def tokenizer(plays):
    """600 ids, trained on one play."""
    return BPETokenizer.train(plays["hamlet"], 600)


@pytest.fixture(scope="session")
def gpt2():
    return BPETokenizer.gpt2()
