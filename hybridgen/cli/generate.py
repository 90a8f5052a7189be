"""`hybridgen generate`: continue token ids with a saved model."""

from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.cli.arguments import Device, DType, ModelDirectory, check_has_values
from hybridgen.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

    from hybridgen.spec import ModelSpec

Prompt = Annotated[
    str,
    typer.Option(help="Ids to continue, such as '1 2 3'; for codebooks the codes of each token, such as '1,2 3,4'."),
]


def generate(
    model_dir: ModelDirectory,
    prompt_ids: Prompt,
    *,
    max_new_tokens: Annotated[int, typer.Option(min=0, help="Tokens to add at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 picks the likeliest token every time.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Pick among the k likeliest tokens; 0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Pick among the likeliest tokens that make up this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Drop tokens less likely than this share of the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, tokens seen before become less likely.")] = 1.0,
    eos: Annotated[int | None, typer.Option(help="Stop after this token.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the choice repeatable; random if not given.")] = None,
    device: Device = "cpu",
    dtype: Annotated[DType | None, typer.Option(help="Format of the weights; as saved if not given.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print each token as soon as it is chosen.")] = False,
) -> None:
    """Continue token ids with a saved model; prints the new ids, separated by spaces."""
    import torch

    from hybridgen.allocator import keep_memory
    from hybridgen.checkpoint import load
    from hybridgen.model.generate import generate as generate_ids

    keep_memory()
    model = load(model_dir, device=device, dtype=dtype and dtype.value)
    check_has_values(model)
    prompt = torch.tensor([_parse_prompt(prompt_ids, model.spec)], device=model.device)
    ids = generate_ids(
        model,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        eos_token_id=eos,
        seed=seed,
        on_token=_print_token if stream else None,
    )
    new = ids[0, prompt.shape[1] :]
    typer.echo("" if stream else " ".join(_token_text(token) for token in new))


def _parse_prompt(text: str, spec: "ModelSpec") -> list[int] | list[list[int]]:
    """Reads a prompt for a model: a list of ids, or a list of the codes of each token.

    Raises:
        UnsupportedError: If the model reads no ids, or the prompt does not fit what it reads.
    """
    if spec.input.type not in ("tokens", "codebooks"):
        raise UnsupportedError(
            f"generate needs a model that reads token ids or codes; this one has input: {{type: {spec.input.type}}}"
        )
    assert spec.input.type in ("tokens", "codebooks")
    width = spec.input.n_codebooks if spec.input.type == "codebooks" else 1
    try:
        tokens = [[int(code) for code in word.split(",")] for word in text.split()]
    except ValueError:
        tokens = []
    if not tokens or any(len(codes) != width for codes in tokens):
        form = "whole numbers separated by spaces" if width == 1 else f"tokens of {width} codes, joined by commas"
        raise UnsupportedError(f"--prompt-ids must be {form}; given {text!r}")
    wrong = [code for codes in tokens for code in codes if not 0 <= code < spec.input.vocab_size]
    if wrong:
        raise UnsupportedError(f"--prompt-ids must lie in 0 .. {spec.input.vocab_size - 1}; given {wrong[0]}")
    return tokens if spec.input.type == "codebooks" else [code for (code,) in tokens]


def _token_text(token: "torch.Tensor") -> str:
    return ",".join(str(code) for code in token.reshape(-1).tolist())


def _print_token(token: "torch.Tensor") -> None:
    print(_token_text(token), end=" ", flush=True)
