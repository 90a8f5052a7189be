"""transformers' Trainer on our models, unchanged."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import hybridgen as hg
from hybridgen.hf import wrap
from tests.helpers.hub_models import document, ids, image_document, language_model

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


class Rows(torch.utils.data.Dataset):
    """Rows that count up from a random token: easy to learn."""

    def __init__(self, count, seed=0):
        starts = ids(count, 1, seed)
        self.rows = (starts + torch.arange(16)) % 50

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def arguments(tmp_path, **options):
    defaults = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        "save_strategy": "no",
    }
    return TrainingArguments(output_dir=str(tmp_path), **(defaults | options))


def train(tmp_path, model=None, resume=None, trainer_options=None, **options):
    model = model or wrap(language_model())
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, **options),
        train_dataset=Rows(32),
        eval_dataset=Rows(8, seed=1),
        **(trainer_options or {}),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_learns_evaluates_and_saves_what_both_worlds_load(tmp_path):
    trainer = train(tmp_path, max_steps=12, eval_strategy="steps", eval_steps=6, save_strategy="steps", save_steps=6)
    history = losses(trainer)
    assert history[-1] < history[0] - 0.5
    evaluations = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 2
    model = trainer.model.eval()
    tokens = Rows(8, seed=1).rows
    assert evaluations[-1] == pytest.approx(model(tokens, labels=tokens).loss.item(), rel=1e-4)
    saved = tmp_path / "checkpoint-12"
    expected = model(tokens).logits
    assert torch.equal(hg.load(saved).eval()(tokens), expected)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(saved)(tokens).logits, expected)
    trainer.save_model(tmp_path / "final")
    assert torch.equal(hg.load(tmp_path / "final").eval()(tokens), expected)


def test_resuming_ends_where_an_uninterrupted_run_does(tmp_path):
    whole = train(tmp_path / "whole", save_strategy="steps", save_steps=3)
    resumed = train(tmp_path / "again", resume=str(tmp_path / "whole/checkpoint-3"))
    assert resumed.state.global_step == 6
    for (name, value), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_accumulated_batches_are_one_batch(tmp_path):
    """The number of labels of the whole batch, `num_items_in_batch`, makes it so where rows are padded differently."""

    def collate(rows):
        tokens = torch.stack([row["input_ids"] for row in rows])
        labels = tokens.clone()
        for row, start in enumerate(tokens[:, 0].tolist()):
            labels[row, : start % 12] = -100
        return {"input_ids": tokens, "labels": labels}

    options = {"trainer_options": {"data_collator": collate}, "max_steps": 3, "optim": "sgd", "max_grad_norm": 0.0}
    one = train(tmp_path, per_device_train_batch_size=8, learning_rate=0.5, **options)
    four = train(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, learning_rate=0.5, **options)
    for (name, value), other in zip(one.model.named_parameters(), four.model.named_parameters(), strict=True):
        torch.testing.assert_close(value, other[1], rtol=1e-3, atol=1e-5, msg=name)
    assert losses(four) == pytest.approx(losses(one), rel=1e-3)


def test_metrics_get_logits_and_the_best_model_comes_back(tmp_path):
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions.shape)
        hits = prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:]
        return {"accuracy": float(hits.mean())}

    trainer = train(
        tmp_path,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=False,
        trainer_options={"compute_metrics": metrics},
    )
    assert set(seen) == {(8, 16, 56)}
    best = hg.load(trainer.state.best_model_checkpoint)
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, best.get_parameter(name)), name


def test_label_smoothing_gets_its_logits(tmp_path):
    trainer = train(tmp_path, max_steps=2, label_smoothing_factor=0.1)
    plain = train(tmp_path, max_steps=2)
    assert losses(trainer)[0] > losses(plain)[0] - 0.5
    assert losses(trainer)[1] < losses(trainer)[0]
    assert losses(trainer) != losses(plain)


def test_label_smoothing_looks_at_the_next_token(tmp_path):
    """Trainer shifts labels by itself here, for classes that it knows to predict the next token."""
    without = losses(train(tmp_path, max_steps=1))
    assert losses(train(tmp_path, max_steps=1, label_smoothing_factor=1e-9)) == pytest.approx(without, rel=1e-4)


@pytest.mark.parametrize("kind", ["rows", "images"])
def test_classifiers_accumulate_gradients_as_one_batch_has_them(tmp_path, kind):
    if kind == "rows":
        spec = document(head={"type": "classifier", "num_classes": 5})
        data = [{"input_ids": row["input_ids"], "labels": index % 5} for index, row in enumerate(Rows(8))]
    else:
        spec = image_document(num_classes=5)
        generator = torch.Generator().manual_seed(0)
        data = [{"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": index % 5} for index in range(8)]
    found = []
    for size, steps in ((8, 1), (2, 4)):
        model = wrap(hg.build(hg.ModelSpec.model_validate(spec), seed=1))
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer = Trainer(model=model, args=arguments(tmp_path, **options), train_dataset=data)
        trainer.train()
        found.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_groups_of_parameters_that_spare_scans_from_decay(tmp_path):
    """As docs/huggingface.md has it."""
    model = wrap(language_model())
    exempt = model.no_weight_decay()
    assert {name.rpartition(".")[2] for name in exempt} == {"A_log", "D", "dt_bias"}
    groups = {True: [], False: []}
    for name, weight in model.named_parameters():
        groups[weight.ndim > 1 and name not in exempt].append(weight)
    options = {"params": [{"params": groups[True], "weight_decay": 0.1}, {"params": groups[False]}], "lr": 1e-3}
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, max_steps=1),
        train_dataset=Rows(4),
        optimizer_cls_and_kwargs=(torch.optim.AdamW, options | {"weight_decay": 0.0}),
    )
    trainer.train()
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.1, 0.0]
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(list(model.parameters()))


def test_bfloat16_and_checkpointing(tmp_path):
    trainer = train(tmp_path, bf16=True, activation_checkpointing=True)
    assert losses(trainer)[-1] < losses(trainer)[0]
    assert trainer.model.dtype == torch.float32


def test_images(tmp_path):
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 16

        def __getitem__(self, index):
            label = index % 5
            return {"pixel_values": torch.full((3, 8, 8), label / 5), "labels": label}

    model = wrap(hg.build(hg.ModelSpec.model_validate(image_document())))
    trainer = Trainer(
        model=model, args=arguments(tmp_path, max_steps=15), train_dataset=Images(), eval_dataset=Images()
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < losses(trainer)[0]
    assert trainer.predict(Images()).predictions.shape == (16, 5)
