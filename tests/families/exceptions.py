"""Sizes of families whose sizes depend on each other, and kinds of layers that a family's default does not have."""

from __future__ import annotations

from typing import Any

SLIDING_AND_FULL = ["sliding_attention", "full_attention"]
RECURRENT_AND_FULL = ["linear_attention", "full_attention"]
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

TEXT = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
IMAGES = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"image_size": 16, "patch_size": 4},
}

EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": SLIDING_AND_FULL,
        "rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE},
    },
    "dbrx.attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
    "dbrx.ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    "dots3_note_text": {
        "num_key_value_heads": 4,
        **{"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 8, "swa_kv_lora_rank": 8},
        **{"swa_head_dim": 12, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8},
    },
    "dots3_note.vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
    "dots3_note.audio_config": {"downsample_hidden_size": 8, "adapter_input_size": 32, "adapter_out_dim": 32},
    "falcon_h1": {"mamba_d_ssm": 64},
    "fuyu": {"text_config": TEXT | {"model_type": "persimmon"}, "patch_size": 4, "image_token_id": 90},
    "gemma3": {"vision_config": IMAGES | {"model_type": "siglip_vision_model"}, "mm_tokens_per_image": 4},
    "gemma4.vision_config": {"position_embedding_size": 64, "num_key_value_heads": 4},
    "gemma4_unified.vision_config": {
        **{"mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 32},
        **{"patch_size": 4},
    },
    "gemma4_unified.audio_config": {"audio_embed_dim": 32},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": SLIDING_AND_FULL * 2},
    "got_ocr2": {"text_config": TEXT | {"model_type": "qwen2"}, "image_token_index": 90},
    "got_ocr2.vision_config": IMAGES
    | {"output_channels": 8, "window_size": 2, "global_attn_indexes": [0], "mlp_dim": 48},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": RECURRENT_AND_FULL},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"head_dim": 4, "zero_expert_num": 2},
    "mellum": {"layer_types": SLIDING_AND_FULL},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "moss_transcribe_diarize": {"text_config": TEXT | {"model_type": "qwen3"}, "audio_token_id": 90},
    "mpt.attn_config": {"attn_pdrop": 0},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "phi4_multimodal.audio_config": {
        **{"num_blocks": 1, "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32},
        **{"nemo_conv_channels": 8, "chunk_size": -1, "audio_token_id": 90},
    },
    "phi4_multimodal.vision_config": IMAGES | {"crop_size": 16, "image_token_id": 91},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "attn_layers": ["local", "local"],
        "axial_pos_embds": False,
        "local_attn_chunk_length": 4,
    },
    "roc_bert": {
        **{"pronunciation_embed_dim": 16, "pronunciation_vocab_size": 32},
        **{"shape_embed_dim": 16, "shape_vocab_size": 32},
    },
    "xlstm": {"mode": "inference"},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "n_mamba_heads": 8,
        "adapter_rank": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
}
