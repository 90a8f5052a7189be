"""Compiles a model without a graph break and compares it with itself; a program, as no hook may wrap what it runs."""

import torch

from tests.hf.kinds import ids, wrapped

LENGTH = 9


def main() -> None:
    """Fails where logits or gradients differ."""
    torch.set_num_threads(1)
    model, tokens = wrapped("hybrid2", "float32"), ids(LENGTH)
    mask = torch.ones_like(tokens)
    mask[0, :3], mask[1, 6] = 0, 0
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, use_cache=True).logits, model(tokens).logits)
    labels = tokens.masked_fill(mask == 0, -100)
    found = []
    for each in (compiled, model):
        model.zero_grad()
        outputs = each(tokens, attention_mask=mask, labels=labels, use_cache=False)
        outputs.loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append({"logits": outputs.logits[mask.bool()], "loss": outputs.loss} | gradients)
    for name, expected in found[1].items():
        torch.testing.assert_close(found[0][name], expected, rtol=1e-4, atol=1e-6, msg=name)


if __name__ == "__main__":
    main()
