"""What becomes of every constructor argument of x-transformers: which field of ours it is, or why there is none.

Import words its refusals with these reasons, and `docs/attn_options.md` is the same as a table.
"""

OURS = {
    "num_tokens": "`input.vocab_size`",
    "max_seq_len": "no field: a state is made for as many tokens as one likes",
    "attn_layers": "`backbone`",
    "emb_dim": "`backbone.d_model`, if it is equal to it",
    "logits_dim": "`input.vocab_size`, if it is equal to it",
    "tie_embedding": "`head.tie_embeddings`",
    "tie_embedding_scale": "`head.logit_scale`",
    "use_abs_pos_emb": "false: no field; true is refused, there are no learned absolute positions",
    "disable_abs_pos_emb": "true: no field; false is refused, there are no learned absolute positions",
    "emb_dropout": "`input.dropout`",
    "num_memory_tokens": "`input.memory_tokens`",
    "dim": "`backbone.d_model`",
    "depth": "`backbone.n_layer`",
    "heads": "`attn.num_heads`",
    "only_attn": "`backbone.attn_mlp_d_intermediate: 0`, or blocks with `mlp: null`",
    "use_rmsnorm": "`backbone.norm.type: rms`",
    "norm_add_unit_offset": "`backbone.norm.unit_offset`",
    "pre_norm": "`backbone.norm_placement`: `pre`, or `residual` for false",
    "sandwich_norm": "`backbone.norm_placement: sandwich`",
    "residual_attn": "`backbone.residual_attn: {carry: upstream}`; `raw` and `mean` are ours",
    "rotary_pos_emb": "`attn.rotary_emb_dim` (with `rotary_emb_interleaved: true`)",
    "rotary_emb_dim": "`attn.rotary_emb_dim`",
    "rotary_base_rescale_factor": "`attn.rotary_emb_base`",
    "alibi_pos_bias": "`attn.alibi`",
    "alibi_num_heads": "`attn.alibi_slopes`, with zeros for the other heads",
    "rel_pos_kwargs": "`attn.alibi_slopes` for `slopes`; others are refused",
    "add_value_residual": "`backbone.value_residual: learned`",
    "learned_value_residual_mix": "`backbone.value_residual`: `learned`, or `half` for false",
    "layer_dropout": "`backbone.layer_dropout`",
    "attn_dim_head": "`attn.head_dim`",
    "attn_kv_heads": "`attn.num_heads_kv`",
    "attn_one_kv_head": "`attn.num_heads_kv: 1`",
    "attn_project_out": "true: `out_proj`, which is always there; false is refused",
    "attn_max_attend_past": "`attn.window`, one more: a window counts the token itself",
    "attn_selective": "`attn.selective`",
    "attn_softclamp_logits": "`attn.logit_softcap`",
    "attn_logit_softclamp_value": "`attn.logit_softcap`",
    "attn_head_learned_sink": "`attn.sink`",
    "attn_gate_values": "`attn.output_gate: elementwise`",
    "attn_gate_values_headwise": "`attn.output_gate: head`",
    "attn_dropout": "`attn.dropout`",
    "ff_mult": "`mlp.d_intermediate`",
    "ff_glu": "`mlp.gated`",
    "ff_swish": "`mlp.gate_activation: silu`",
    "ff_relu_squared": "`mlp.gate_activation: relu2`",
    "ff_no_bias": "`mlp.bias`, `mlp.out_bias`",
    "ff_dropout": "`mlp.dropout`",
}
"""Arguments that are read, and what they become."""

_REASONS = (
    ("a Decoder is causal", "causal"),
    (
        "a stack reads one sequence: there is no context of another one",
        "cross_attend only_cross cross_residual_attn cross_attn_tokens_dropout attn_dim_context "
        "attn_inverted_attention",
    ),
    (
        "norms are RMS or layer norms with fixed weights, in front of, behind, around or after a branch",
        "use_scalenorm use_dynamic_tanh use_derf dynamic_tanh_init_alpha use_simple_rmsnorm pre_and_post_norm "
        "pre_norm_has_final_norm post_emb_norm l2norm_embed",
    ),
    (
        "there is no condition beside the tokens for norms or branches to follow",
        "use_adaptive_layernorm use_adaptive_rmsnorm use_adaptive_layerscale dim_condition adaptive_condition_mlp "
        "adaptive_condition_mlp_expansion",
    ),
    (
        "positions are rotary, ALiBi's or none; nothing learned is added to the scores",
        "rel_pos_bias rel_pos_num_buckets rel_pos_max_distance dynamic_pos_bias dynamic_pos_bias_log_distance "
        "dynamic_pos_bias_mlp_depth dynamic_pos_bias_norm polar_pos_emb polar_bias_uniform_init scaled_sinu_pos_emb "
        "attn_use_rel_proj_pos_bias attn_rel_proj_num_distance_basis attn_rel_proj_max_dist attn_use_cope "
        "attn_cope_max_pos attn_cope_soft_onehot_pos attn_cope_talking_heads",
    ),
    (
        "the slopes of ALiBi are constants; a forget gate made of the tokens is a scan over time of its own",
        "attn_data_dependent_alibi attn_data_dependent_alibi_per_row attn_data_dependent_alibi_per_row_dim_head "
        "attn_data_dependent_alibi_kwargs",
    ),
    (
        "rotation is by position alone and in all heads alike",
        "rotary_xpos rotary_xpos_scale_base rotary_interpolation_factor rotate_num_heads",
    ),
    (
        "the order of layers is a pattern of blocks, each with weights of its own; import reads attention and "
        "MLP in turn",
        "weight_tie_layers custom_layers layers_execute_order sandwich_coef par_ratio looped max_looped_steps "
        "recycling "
        "train_max_recycle_steps",
    ),
    ("an MLP's output has no factor, so half a step before and one behind the attention cannot be said", "macaron"),
    (
        "the residual stream is one sum without weights, gates or limits",
        "attn_aggregated_residuals attn_aggregated_residual_kwargs gate_residual orthog_residual mv_split_residual "
        "gated_multi_residual scale_residual scale_residual_constant depth_scale_residual softclamp_output "
        "softclamp_output_value use_layerscale layerscale_init_value unet_skips integrate_layers "
        "layer_integrate_use_softmax num_residual_streams qkv_receive_diff_residuals reinject_input "
        "learned_reinject_input_gate residual_fn_kwargs hyper_conn_sinkhorn_iters",
    ),
    ("a token is mixed with earlier ones by mixers alone; `d_conv` is our way to look back a little", "shift_tokens"),
    (
        "heads do not exchange scores or weights, which fused attention never has in hand",
        "attn_pre_talking_heads attn_post_talking_heads attn_pre_scale_post_talking_heads",
    ),
    (
        "attention is a softmax over all keys seen, of products of queries and keys",
        "attn_sparse_topk attn_sparse_topk_straight_through attn_hard attn_l2_distance attn_sigmoid "
        "attn_gumbel_softmax "
        "attn_gumbel_softmax_temp attn_gumbel_softmax_hard attn_cog_signed attn_custom_attn_fn attn_laser "
        "attn_laser_softclamp_value",
    ),
    (
        "keys belong to tokens; `sink` is our logit without a value, `memory_tokens` our learned tokens",
        "attn_num_mem_kv attn_add_zero_kv memory_tokens_interspersed_every",
    ),
    (
        "dropout is of weights, hidden layers, embeddings and whole branches, not of what a branch returns",
        "attn_sublayer_dropout ff_sublayer_dropout",
    ),
    (
        "the output's gate is one sigmoid of the layer's input, `output_gate`",
        "attn_head_scale attn_on_attn attn_gate_value_heads attn_swiglu_values attn_gate_values_rank "
        "attn_output_gate "
        "attn_output_gate_rank attn_output_gate_headwise attn_low_rank_silu_gates attn_orthog_projected_values "
        "attn_orthog_projected_values_per_head",
    ),
    (
        "queries and keys are normalised by one RMS weight for all heads, or over all heads (`qk_norm`); "
        "upstream has a "
        "weight per head, or unit length and a fixed scale",
        "attn_qk_norm attn_qk_norm_groups attn_qk_norm_scale attn_qk_norm_dim_scale attn_qk_rmsnorm attn_k_rmsnorm "
        "attn_value_rmsnorm",
    ),
    (
        "a hybrid has its mixers in layers of their own, not two in one",
        "attn_hybrid_module attn_hybrid_mask_kwarg attn_hybrid_fold_axial_dim attn_hybrid_learned_mix",
    ),
    (
        "values are as wide as keys, and a layer as wide at its end as in front",
        "attn_value_dim_head attn_dim_out ff_dim_out",
    ),
    (
        "keys and values are projected from the stream itself; latents are a mixer of another kind",
        "attn_use_latent_q attn_dim_latent_q attn_use_latent_kv attn_dim_latent_kv attn_latent_rope_subheads",
    ),
    ("packing is `seq_idx` on every device, not a kernel", "attn_flash_pack_seq"),
    (
        "an MLP is two maps and one activation of the table in the grammar",
        "ff_glu_mult_bias ff_solu ff_custom_activation ff_post_act_ln ff_softclamp_value ff_glu_softclamp "
        "ff_glu_gate_softclamp_value ff_glu_up_softclamp_value ff_deep_embed",
    ),
    (
        "what is read is one table of tokens",
        "embed_num_tokens token_emb emb_frac_gradient use_cls_token num_cls_tokens average_pool_embed attn_pool "
        "num_pooled_tokens attn_pool_depth dim_pooled_tokens",
    ),
    (
        "the head is one linear map",
        "return_only_embed num_output_heads squeeze_out_last_dim mixture_of_softmax mixture_of_softmax_k "
        "sigsoftmax_logits "
        "to_logits add_continuous_pred_head attn_z_loss_weight",
    ),
    ("what came before stands in a state, not in memories given by the caller", "max_mem_len shift_mem_down"),
    ("a call with a state is given the new tokens alone", "input_not_include_cache"),
)
REASONS = {name: reason for reason, names in _REASONS for name in names.split()}
"""Arguments that must be at their defaults, and why there is nothing that they could become."""

NEUTRAL = {
    "verbose": "messages",
    "zero_init_branch_output": "starting values",
    "attn_zero_init_output": "starting values",
    "ff_zero_init_output": "starting values",
    "attn_flash": "a kernel; ours are chosen by themselves, see `hybridgen doctor`",
    "attn_onnxable": "a kernel",
    "attn_attend_sdp_kwargs": "a kernel",
}
"""Arguments that change no value of a model whose weights are there, and what they do choose."""
