"""A drafter made from a tiny target by the command's own process: sampled, trained, interrupted,
gone on with, written, and loaded as an edge loads it."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from specedge.distill.corpus import piece_path
from specedge.distill.workspace import HELD_OUT_PIECE, Workspace
from specedge.engine.drafter_folder import is_drafter_folder, read_card
from specedge.engine.drafters import DrafterOptions, load_drafter
from specedge.engine.fingerprints import tokenizer_fingerprint
from specedge.engine.loading import load_tokenizer
from specedge.errors import ModelUnusable
from specedge.params import SamplingParams
from specedge.tree.token_tree import TokenTree
from tests.edge_world import make_tokenizer

pytestmark = pytest.mark.timeout(600)  # minutes, where others compute too

SIZES = ["--layers", "0,3", "--vocabulary", "256", "--corpus-tokens", "6000", "--piece", "32"]
SIZES += ["--lanes", "16", "--max-prompt", "12", "--max-answer", "24", "--held-out", "24"]
SIZES += ["--train-tokens", "80000", "--batch-tokens", "512", "--rate", "3e-3", "--threads", "1"]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers whose logits are far from uniform and depend on what came before."""
    folder = tmp_path_factory.mktemp("target")
    tokenizer = make_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    return folder


def command(target: Path, work: Path, *more: str) -> list[str]:
    names = ["--model", str(target), "--work", str(work), "--out", str(work / "drafter")]
    return [sys.executable, "-m", "specedge.distill", *names, *SIZES, *more]


@pytest.fixture(scope="module")
def made(target: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The drafter of a run that was interrupted in the middle of its training; its results."""
    work = tmp_path_factory.mktemp("work")
    sampled = subprocess.run(command(target, work, "--only", "sample"), check=False)
    assert sampled.returncode == 0
    with subprocess.Popen(command(target, work), stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        for line in first.stderr:
            if line.startswith("train:"):
                first.send_signal(signal.SIGINT)
                break
        said = first.stderr.read()
    assert first.returncode == 3, said
    assert not is_drafter_folder(work / "drafter")
    again = subprocess.run(
        command(target, work, "--json"), check=False, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    return work, json.loads(again.stdout)


def test_a_drafter_beats_its_own_starting_point(made: tuple[Path, dict[str, object]]) -> None:
    history = made[1]["history"]
    assert isinstance(history, list)
    # A random target's text differs by processor, and with it what can be learned of it.
    assert history[-1]["top_1"] > 1.5 * history[0]["top_1"]
    assert history[-1]["chain"] > history[0]["chain"]
    assert history[-1]["loss"] < history[0]["loss"] - 0.5


def test_an_interrupted_run_goes_on_where_it_was(made: tuple[Path, dict[str, object]]) -> None:
    history = made[1]["history"]
    assert isinstance(history, list)
    tokens = [entry["tokens"] for entry in history]
    assert tokens[0] == 0
    assert tokens == sorted(set(tokens)), "a measurement was made twice: the run began anew"
    assert tokens[-1] >= 80000


def test_the_written_drafter_is_loaded_and_drafts_with_what_it_borrows(
    made: tuple[Path, dict[str, object]], target: Path
) -> None:
    folder = made[0] / "drafter"
    fingerprint = tokenizer_fingerprint(load_tokenizer(target))
    assert read_card(folder).target_tokenizer == fingerprint
    assert "made from that model alone" in (folder / "README.md").read_text()
    options = DrafterOptions(cache_dir=folder, target=str(target), dtype="fp32", kv_bytes=1 << 20)
    drafter = load_drafter(str(folder), fingerprint, options)
    assert drafter is not None
    held_out = Workspace(made[0]).held_out(24)
    agreed = tried = 0
    for one in held_out:
        for place in range(one.prompt_len, len(one.tokens) - 1, 5):
            session = drafter.open(one.tokens[: place + 1], SamplingParams())
            tree = TokenTree.root_only(int(one.tokens[place]))
            proposed = session.expand(tree, np.zeros(1, dtype=np.int32))
            session.close()
            row = int(np.flatnonzero(np.flatnonzero(one.has_next) == place)[0])
            agreed += int(proposed.token[0, 0] == one.next_id[row, 0])
            tried += 1
    history = made[1]["history"]
    assert isinstance(history, list)
    assert tried > 50
    assert abs(agreed / tried - history[-1]["top_1"]) < 0.15, "stored, it is another drafter"


def test_a_drafter_for_another_target_is_refused_by_what_it_borrows(
    made: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    make_tokenizer(tmp_path)
    options = DrafterOptions(cache_dir=tmp_path, target=str(tmp_path), dtype="fp32")
    with pytest.raises(ModelUnusable, match="no safetensors"):
        load_drafter(str(made[0] / "drafter"), "", options)


def test_only_what_was_trained_is_written(
    made: tuple[Path, dict[str, object]], target: Path, tmp_path: Path
) -> None:
    def write(work: Path, out: Path) -> "subprocess.CompletedProcess[str]":
        words = command(target, work, "--only", "write", "--out", str(out))
        return subprocess.run(words, check=False, capture_output=True, text=True)

    never = write(tmp_path / "work", tmp_path / "never")
    assert never.returncode == 1
    assert "train first" in never.stderr
    assert not (tmp_path / "never").exists()
    again = write(made[0], tmp_path / "again")
    assert again.returncode == 0, again.stderr
    for name in ("model.safetensors", "drafter.json"):
        written = (tmp_path / "again" / name).read_bytes()
        assert written == (made[0] / "drafter" / name).read_bytes()


def test_a_larger_drafter_goes_on_from_a_smaller_one(
    made: tuple[Path, dict[str, object]], target: Path, tmp_path: Path
) -> None:
    work, smaller = tmp_path / "work", made[0] / "drafter"
    # Measured on the same conversations, and taught by others: its own it knows by heart.
    held_out = piece_path(work / "corpus", HELD_OUT_PIECE)
    held_out.parent.mkdir(parents=True)
    shutil.copy(piece_path(made[0] / "corpus", HELD_OUT_PIECE), held_out)
    more = ["--layers", "0,1,3", "--start-from", str(smaller), "--store", "int8", "--json"]
    text = ["--corpus-tokens", "18000", "--seed", "2", "--train-tokens", "30000"]
    run = subprocess.run(
        command(target, work, *more, *text),
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    before, after = made[1]["history"], json.loads(run.stdout)["history"]
    assert isinstance(before, list)
    assert abs(after[0]["top_1"] - before[-1]["top_1"]) < 0.03, "it began as another drafter"
    assert after[-1]["loss"] < after[0]["loss"] - 0.1
    card = (work / "drafter" / "README.md").read_text()
    assert "2 of them, the first ones and the last, went on from an earlier" in card
    assert card.count("specedge distill --model") == 2
    fingerprint = tokenizer_fingerprint(load_tokenizer(target))
    options = DrafterOptions(cache_dir=work, target=str(target), dtype="fp32", kv_bytes=1 << 20)
    assert load_drafter(str(work / "drafter"), fingerprint, options) is not None


def test_a_work_folder_goes_on_only_with_its_own_plan(
    made: tuple[Path, dict[str, object]], target: Path
) -> None:
    other = subprocess.run(
        command(target, made[0], "--seed", "9"), check=False, capture_output=True, text=True
    )
    assert other.returncode == 1
    assert "begun with seed 1, not 9" in other.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers", "0,9"], "layers 0 to 3"),
        (["--start-from", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_begun(
    target: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    ended = subprocess.run(
        command(target, tmp_path / "work", *flags), capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "work" / "plan.json").exists()
