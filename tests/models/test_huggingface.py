"""transformers models from a local configuration: no hub, no weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

import inspector  # noqa: E402
from inspector.core.errors import InspectError  # noqa: E402
from inspector.models import resolve  # noqa: E402

Save = Callable[..., str]

LLAMA = {
    "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
    "max_position_embeddings": 16,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64,
}  # fmt: skip
BERT = {
    "model_type": "bert", "vocab_size": 50, "hidden_size": 8, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a configuration and give its spec back."""

    def write(content: Any, name: str = "config.json") -> str:
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return f"hf:{file}"

    return write


def metric(spec: str, name: str, inputs: Any = None, **options: Any) -> int:
    return inspector.profile(spec, inputs, **options).metrics[name].value


def refused(spec: str, **model_args: Any) -> InspectError:
    with pytest.raises(InspectError) as caught:
        resolve(spec, model_args).build("meta")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.hint
    return caught.value


def test_gpt2_small_counts_its_closed_form(save: Save) -> None:
    report = inspector.profile(save({"model_type": "gpt2"}), "input_ids=int64[1,128]")
    layer = 128 * 768 * 2304 + 128 * 768 * 768 + 2 * 128 * 768 * 3072 + 2 * 12 * 128 * 128 * 64
    assert report.metrics["macs"].value == 12 * layer + 128 * 768 * 50257 == 16_114_089_984
    # OpenAI's "124M": the head is the token embedding, counted once.
    assert report.metrics["params"].value == 124_439_808
    assert report.metrics["unknown_ops"].value == 0


def test_tied_embeddings_are_counted_once_and_both_names_shown(save: Save) -> None:
    # vocabulary 50 x 8, positions 4 x 8, no layers, a final norm of 2 x 8
    tied = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 8, "n_positions": 4, "n_layer": 0}
    ledger = inspector.params(save(tied)).to_frame().set_index("name")
    assert ledger["numel"].sum() == 50 * 8 + 4 * 8 + 2 * 8
    assert ledger.loc["transformer.wte.weight", "tied"] == "lm_head.weight"
    untied = {**tied, "tie_word_embeddings": False}
    assert inspector.params(save(untied)).metrics["params"].value == 2 * 50 * 8 + 4 * 8 + 2 * 8


def test_llama_with_grouped_key_and_value_heads_counts_its_closed_form(save: Save) -> None:
    # 16 tokens; 8 heads of 8 share 2 heads of keys and values: 16 wide instead of 64
    queries_and_output, keys_and_values = 2 * 16 * 64 * 64, 2 * 16 * 64 * 16
    attention, mlp, head = 2 * 8 * 16 * 16 * 8, 3 * 16 * 64 * 96, 16 * 64 * 100
    layer = queries_and_output + keys_and_values + attention + mlp
    assert metric(save(LLAMA), "macs") == 2 * layer + head == 1_085_440
    # embedding and head, per layer the same four and three matrices and two norms, a last norm
    matrices = 2 * 64 * 64 + 2 * 64 * 16 + 3 * 64 * 96 + 2 * 64
    assert metric(save(LLAMA), "params") == 2 * 100 * 64 + 2 * matrices + 64


@pytest.mark.parametrize("experts", ["grouped_mm", "eager", "batched_mm"])
def test_mixtral_counts_the_same_with_every_kind_of_experts(save: Save, experts: str) -> None:
    # 64 tokens, 4 heads of 8 with 2 for keys and values, a router, 2 of 4 experts for each token:
    # a gate and an up projection together (32 x 96), and down (48 x 32)
    projections = 64 * (2 * 32 * 32 + 2 * 32 * 16)
    attention, router, experts_ = 2 * 4 * 64 * 64 * 8, 64 * 32 * 4, 64 * 2 * (32 * 96 + 48 * 32)
    expected = 2 * (projections + attention + router + experts_) + 64 * 32 * 64
    model_args = {"experts_implementation": experts}
    try:
        found = metric(save(MIXTRAL), "macs", model_args=model_args)
    except InspectError as error:
        if "experts_implementation" in str(error):
            pytest.skip("this transformers has one kind of experts")
        raise
    assert found == expected == 2_244_608


def test_mixtral_trains_with_twice_the_work_backward(save: Save) -> None:
    metrics = inspector.profile(save(MIXTRAL), phase="train").metrics
    # Every contraction has two gradients, the first one too: its input is an embedding's output.
    assert metrics["backward_macs"].value == 2 * metrics["forward_macs"].value == 2 * 2_244_608


def test_a_folder_is_read_by_its_config_json(save: Save, tmp_path: Path) -> None:
    spec = save(BERT)
    assert metric(f"hf:{tmp_path}", "params") == metric(spec, "params")
    assert metric(f"huggingface:{tmp_path}", "params") == metric(spec, "params")


def test_the_architecture_that_the_file_names_is_built(save: Save) -> None:
    def built(**more: Any) -> str:
        return type(resolve(save({**BERT, **more})).build("meta")).__name__

    assert built(architectures=["BertForMaskedLM"]) == "BertForMaskedLM"
    assert built(architectures=["NoSuchModel"]) == built() == built(architectures=None)
    assert built(architectures=[5]) == built(architectures="BertModel") == built()


def test_the_default_input_is_128_tokens_or_the_longest_position(save: Save) -> None:
    def tokens(**more: Any) -> Any:
        recipe = resolve(save({**LLAMA, **more}))
        inputs = recipe.defaults(recipe.build("meta"), "forward")
        assert inputs is not None
        return inputs.kwargs["input_ids"]

    assert tokens().shape == (1, 16)
    assert tokens(max_position_embeddings=4096).shape == (1, 128)
    assert tokens().dtype is torch.int64
    assert tokens().below == 100


def test_an_image_model_takes_the_image_of_its_configuration(save: Save) -> None:
    spec = save({
        "model_type": "vit", "image_size": 32, "patch_size": 16, "num_channels": 1,
        "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
    })  # fmt: skip
    report = inspector.profile(spec)
    assert report.subject["inputs"] == ["pixel_values=float32[1,1,32,32]"]


def test_training_a_language_model_gives_it_labels(save: Save) -> None:
    report = inspector.profile(save(LLAMA), phase="train")
    assert "labels=int64[1,16]" in report.subject["inputs"]


def test_model_arguments_change_the_configuration(save: Save) -> None:
    spec = save(LLAMA)
    two, one = (metric(spec, "params", model_args={"num_hidden_layers": n}) for n in (2, 1))
    assert two - one == 2 * 64 * 64 + 2 * 64 * 16 + 3 * 64 * 96 + 2 * 64


def test_a_model_argument_under_its_common_name_works(save: Save) -> None:
    spec = save({"model_type": "gpt2", "n_layer": 1})
    assert metric(spec, "params", "input_ids=int64[1,4]", model_args={"num_hidden_layers": 12}) == 124_439_808


def test_a_misspelt_model_argument_is_refused_and_not_ignored(save: Save) -> None:
    error = refused(save(LLAMA), num_hiden_layers=1)
    assert "num_hiden_layers" in error.message
    assert "num_hidden_layers" in (error.hint or "")


@pytest.mark.parametrize(
    "content", ["{", "", "[]", "null", "{}", '"gpt2"', '{"vocab_size": 5}', "[" * 100_000]
)
def test_a_file_without_a_model_type_is_refused(save: Save, content: str) -> None:
    error = refused(save(content))
    assert "not a model configuration" in error.message
    assert "model_type" in (error.hint or "")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "not a model configuration" in refused(f"hf:{tmp_path}").message


@pytest.mark.parametrize("model_type", ["gtp2", "GPT2", 5, ["gpt2"], None, ""])
def test_an_unknown_model_type_is_named(save: Save, model_type: Any) -> None:
    error = refused(save({"model_type": model_type}))
    assert repr(model_type) in error.message


def test_an_unknown_model_type_gets_the_nearest_one(save: Save) -> None:
    assert "gpt2" in (refused(save({"model_type": "gtp2"})).hint or "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_type": "gpt2", "n_head": 0},
        {"model_type": "gpt2", "vocab_size": "many"},
        {"model_type": "llama", "hidden_size": -4},
        {"model_type": "gpt2", "architectures": ["GPT2Config"]},
    ],
)
def test_fields_that_make_no_model_are_an_error(save: Save, wrong: Any) -> None:
    refused(save(wrong))


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert "no configuration" in refused(f"hf:{tmp_path}/nowhere").message
    assert "config.json" in refused(f"hf:{tmp_path}").message


def test_the_command_line_prints_one_error_and_one_hint(save: Save, inspect: Any) -> None:
    code, out, err = inspect("profile", save({"model_type": "gtp2"}))
    assert (code, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error", "hint"]


def test_without_transformers_the_install_command_is_named(save: Save, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert "pip install 'torch-inspector[hf]'" in (refused(save(BERT)).hint or "")


REMOTE = {
    "architectures": ["EvilNet"], "trust_remote_code": True,
    "auto_map": dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "evil.Evil"),
}  # fmt: skip


@pytest.mark.parametrize("content", [LLAMA, BERT], ids=["with a causal model", "without"])
def test_code_beside_a_configuration_never_runs(
    save: Save, tmp_path: Path, content: Any, monkeypatch: Any
) -> None:
    """Nor is anybody asked on the terminal whether it may."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    trusted: list[Any] = []
    for name in ("AutoModel", "AutoModelForCausalLM"):
        kind = getattr(transformers, name)
        build = kind.from_config
        monkeypatch.setattr(
            kind,
            "from_config",
            lambda *a, build=build, **k: trusted.append(k["trust_remote_code"]) or build(*a, **k),
        )
    subject = resolve(save({**content, **REMOTE}), {})
    subject.build("meta")
    assert set(trusted) == {False}
    assert not (tmp_path / "ran").exists()
    assert any("is not run: built as transformers'" in note for note in subject.notes)


@pytest.mark.parametrize("place", ["field", "nested", "argument"])
def test_kernels_from_the_hub_are_refused(save: Save, place: str) -> None:
    kernel = {"attn_implementation": "evil/kernels"}
    content = {
        **LLAMA,
        **(kernel if place == "field" else {"text_config": kernel} if place == "nested" else {}),
    }
    error = refused(save(content), **(kernel if place == "argument" else {}))
    assert "code on the hub, which is not run" in error.message
