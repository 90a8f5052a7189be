"""PEFT's adapters on our layers: they train, they are obeyed everywhere, and they merge."""

import peft
import pytest
import torch

import hybridgen as hg
from hybridgen.errors import HybridgenError
from hybridgen.hf import unwrap, wrap
from tests.helpers.hub_models import ids, language_model

# peft still asks transformers by the name that it gave up.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

TARGETS = ["in_proj", "out_proj", "x_proj", "dt_proj", "fc1", "fc2"]


def adapted(targets=TARGETS, seed=0, **parts):
    """A model with adapters that already say something, and the same model without."""
    torch.manual_seed(seed)
    plain = language_model(pattern="M A N B", **parts)
    kept = wrap(language_model(pattern="M A N B", **parts)).eval()
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(wrap(plain), config), kept


def test_only_adapters_get_gradients_and_every_one_does():
    model, _ = adapted()
    model.train()
    model(ids(), labels=ids()).loss.backward()
    for name, value in model.named_parameters():
        assert ("lora_" in name) == value.requires_grad
        assert (value.grad is not None and bool(value.grad.any())) == ("lora_" in name), name
    trained = {
        name.split(".lora_")[0].rsplit(".", 1)[1] for name, value in model.named_parameters() if value.requires_grad
    }
    assert trained == set(TARGETS)


@pytest.mark.parametrize("target", [*TARGETS, "lm_head", "embedding"])
def test_each_adapter_is_obeyed_in_every_way_to_run(target):
    """Without gradients our mixers can run in one call of their own, which must not go past an adapter."""
    parts = {"head": {"type": "lm", "tie_embeddings": False}}
    model, kept = adapted([target], **parts)
    model.eval()
    expected = model(ids()).logits
    assert (expected - kept(ids()).logits).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(model(ids()).logits, expected, rtol=1e-4, atol=1e-5)
        outputs = model(ids()[:, :1], use_cache=True)
        rows = [outputs.logits]
        for index in range(1, 12):
            outputs = model(ids()[:, index : index + 1], past_key_values=outputs.past_key_values)
            rows.append(outputs.logits)
    torch.testing.assert_close(torch.cat(rows, dim=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["lm_head", "out_proj"])
def test_the_loss_sees_adapters(target):
    model, kept = adapted([target], head={"type": "lm", "tie_embeddings": False})
    loss = model.train()(ids(), labels=ids()).loss
    flat = model(ids()).logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(flat, ids()[:, 1:].flatten()))
    assert (loss - kept(ids(), labels=ids()).loss).abs() > 1e-3


def test_disabled_adapters_leave_the_model_as_it_was():
    model, kept = adapted()
    model.eval()
    with model.disable_adapter():
        torch.testing.assert_close(model(ids()).logits, kept(ids()).logits)


def test_adapters_are_saved_and_loaded(tmp_path):
    model, _ = adapted()
    model.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(wrap(language_model(pattern="M A N B")), tmp_path).eval()
    assert torch.equal(again(ids()).logits, model(ids()).logits)


def test_merged_models_are_plain_again_and_save(tmp_path):
    model, _ = adapted()
    model.eval()
    expected = model(ids()).logits
    with pytest.raises(HybridgenError, match="merge_and_unload"):
        unwrap(model.get_base_model())
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(ids()).logits, expected, rtol=1e-4, atol=1e-5)
    hg.save(unwrap(merged), tmp_path / "ours")
    hg.save(merged, tmp_path / "theirs", format="hf")
    for name in ("ours", "theirs"):
        assert torch.equal(hg.load(tmp_path / name).eval()(ids()), merged(ids()).logits)


def test_adapters_of_transformers_itself(tmp_path):
    model = wrap(language_model(pattern="M A N B")).eval()
    before = model(ids()).logits
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["in_proj"], init_lora_weights=False))
    after = model(ids()).logits
    assert (after - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "generation_config.json"
    }  # fmt: skip
    again = wrap(language_model(pattern="M A N B")).eval()
    again.load_adapter(str(tmp_path))
    torch.testing.assert_close(again(ids()).logits, after)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_with_adapters(reentrant):
    model, _ = adapted()
    model.train()
    model(ids(), labels=ids()).loss.backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
    model.zero_grad(set_to_none=True)
    model.enable_input_require_grads()
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": reentrant})
    model(ids(), labels=ids()).loss.backward()
    for name, value in model.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(value.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_adapters_train():
    model, _ = adapted()
    tokens = ids(4, 16)
    optimizer = torch.optim.AdamW((value for value in model.parameters() if value.requires_grad), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model.train()(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # generate gives them
@pytest.mark.parametrize("pattern", ["A A", "M A N"])
def test_prompts_train_and_generate(pattern):
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, token_dim=32, num_layers=2, num_attention_heads=4
    )
    model = peft.get_peft_model(wrap(language_model(pattern=pattern)), config)
    mask = torch.ones(2, 12, dtype=torch.int64)
    model.train()(input_ids=ids(), attention_mask=mask, labels=ids()).loss.backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None and bool(value.grad.any())}
    assert trained == {name for name, _ in model.named_parameters() if "prompt" in name}
    mask[0, :4] = 0
    model.eval()
    made = [
        model.generate(input_ids=ids(), attention_mask=mask, max_new_tokens=4, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*made)


def test_an_adapted_scaled_embedding_is_merged_as_it_was():
    parts = {"input": {"type": "tokens", "vocab_size": 50, "pad_vocab_size_multiple": 8, "embed_scale": 3.0}}
    model, _ = adapted(["embedding"], head={"type": "lm", "tie_embeddings": False}, **parts)
    expected = model.eval()(ids()).logits
    embedded = model.get_input_embeddings()(ids())
    torch.testing.assert_close(model(inputs_embeds=embedded).logits, expected)
    torch.testing.assert_close(model.merge_and_unload()(ids()).logits, expected, rtol=1e-4, atol=1e-5)
