"""Nearest spellings: what a user most likely meant by a name that does not exist."""

from collections.abc import Collection, Iterable

_LONGEST_WORD = 64

SYNONYMS = {
    "hidden_size": "d_model",
    "n_embd": "d_model",
    "embed_dim": "d_model",
    "dim": "d_model",
    "num_layers": "n_layer",
    "n_layers": "n_layer",
    "num_hidden_layers": "n_layer",
    "depth": "n_layer",
    "layers": "n_layer",
    "num_attention_heads": "num_heads",
    "n_heads": "num_heads",
    "n_head": "num_heads",
    "heads": "num_heads",
    "nheads": "num_heads",
    "num_key_value_heads": "num_heads_kv",
    "num_kv_heads": "num_heads_kv",
    "n_kv_heads": "num_heads_kv",
    "kv_heads": "num_heads_kv",
    "dim_head": "head_dim",
    "sliding_window": "window",
    "window_size": "window",
    "rope_theta": "rotary_emb_base",
    "rotary_base": "rotary_emb_base",
    "rope_dim": "rotary_emb_dim",
    "rotary_dim": "rotary_emb_dim",
    "is_causal": "causal",
    "attention_sink": "sink",
    "attn_logit_softcapping": "logit_softcap",
    "final_logit_softcapping": "logit_softcap",
    "intermediate_size": "d_intermediate",
    "ffn_dim": "d_intermediate",
    "d_ff": "d_intermediate",
    "hidden_dim": "d_intermediate",
    "hidden_act": "gate_activation",
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "time_step_rank": "dt_rank",
    "time_step_min": "dt_min",
    "time_step_max": "dt_max",
    "time_step_limit": "dt_limit",
    "n_groups": "ngroups",
    "rms_norm_eps": "eps",
    "layer_norm_eps": "eps",
    "layer_norm_epsilon": "eps",
    "epsilon": "eps",
    "tie_word_embeddings": "tie_embeddings",
    "n_vocab": "vocab_size",
    "num_tokens": "vocab_size",
    "num_codebooks": "n_codebooks",
    "layer_types": "pattern",
    "attn_layers": "attn_layer_idx",
    "attention_layers": "attn_layer_idx",
    "mamba": "ssm",
    "attention": "attn",
    "ffn": "mlp",
    "feed_forward": "mlp",
    "img_size": "image_size",
    "input_size": "image_size",
    "in_chans": "channels",
    "in_channels": "channels",
    "num_channels": "channels",
    "nb_classes": "num_classes",
    "if_cls_token": "cls_token",
    "class_token": "cls_token",
    "use_middle_cls_token": "cls_token",
    "use_double_cls_token": "cls_token",
    "if_abs_pos_embed": "pos_embed",
    "if_rope": "rotary",
    "if_rope_residual": "rotary",
    "pt_hw_seq_len": "rotary_grid",
    "final_pool_type": "pool",
    "global_pool": "pool",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "bimamba_type": "bidirectional",
    "if_bimamba": "bidirectional",
    "bimamba": "bidirectional",
    "if_bidirectional": "bidirectional",
    "if_divide_out": "divide_out",
    "if_devide_out": "divide_out",
    "init_layer_scale": "layer_scale",
    "layer_scale_init_value": "layer_scale",
    "qkv_bias": "qkv_proj_bias",
}

SHORT_KINDS = {"attn": "attention", "mha": "attention", "gqa": "attention", "ln": "layer"}
"""Short names of kinds, which resemble no kind."""


VALUE_TIPS = {
    ("none", "v1", "v2"): {
        "true": "write v2",
        "layers": "write it in backbone, where bidirectional: layers makes pairs",
    },
    ("none", "layers"): {
        "true": "write ssm_bidirectional: v2 for mixers that read both ways, or layers for pairs of layers",
        "v1": "write ssm_bidirectional: v1, which is of the mixers",
        "v2": "write ssm_bidirectional: v2, which is of the mixers",
    },
}
"""What is meant by wrong values of a field with these choices, where another field takes them."""


def distance(left: str, right: str) -> int:
    """Edits between two words: insertions, deletions, substitutions, and swaps of neighbours (optimal alignment)."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(right, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and b == left[i - 2]:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]


def nearest(word: str, choices: Iterable[str], taken: Collection[str] = ()) -> str | None:
    """Finds the choice that a user most likely meant.

    Args:
        word: What the user wrote.
        choices: What could have been written.
        taken: Choices that the user has written already beside the word: among equals, the others come first.

    Returns:
        The choice, or None if nothing is near.
    """
    if len(word) > _LONGEST_WORD:
        return None
    given = bare(word)
    edits = {choice: distance(given, bare(choice)) for choice in choices}
    least = min(edits.values(), default=0)
    equals = [choice for choice, count in edits.items() if count == least]
    if equals and least <= max(1, len(given) // 3):
        best = min(equals, key=lambda choice: (*_unlikeness(word, choice), choice in taken))
        return best if least < max(len(given), len(bare(best))) else None
    return min(
        (choice for choice in edits if _begins(given, bare(choice))), key=lambda choice: edits[choice], default=None
    )


def _unlikeness(word: str, choice: str) -> tuple[int, int, int]:
    """Ranks choices that are equally far but for case and underscores: edits with these, other length, other start."""
    same = next((i for i, (a, b) in enumerate(zip(word, choice, strict=False)) if a != b), len(word))
    return distance(word, choice), abs(len(word) - len(choice)), -same


def bare(word: str) -> str:
    """A word without case, underscores and hyphens."""
    return word.lower().replace("_", "").replace("-", "").strip()


def _begins(given: str, choice: str) -> bool:
    """Whether one of the words is the beginning of the other, and long enough to mean it."""
    return min(len(given), len(choice)) >= 3 and (given.startswith(choice) or choice.startswith(given))


def synonym(word: str) -> str | None:
    """The name that hybridgen uses for another library's field."""
    return SYNONYMS.get(word.lower().replace("-", "_"))
