"""Reduce the JSON files of a model to known keys with values of the right kind.

transformers trusts these files: a key of tokenizer_config.json may name a file to open as
vocabulary, a shard index may name weights anywhere on the disk, config.json may name code. So a
model is loaded from a copy that has only the keys below, none of which holds a path. A key that
only an attack would use (such as ``vocab`` naming a file) is an error; a key that is saved but not
needed for loading (``name_or_path``) is silently left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from surgery.errors import Fault, ModelUnsupported, UnsafeFiles
from surgery.models.source.json_checks import (
    WORD,
    Check,
    any_of,
    between,
    is_flag,
    is_number,
    is_text,
    is_whole,
    is_word,
    list_of,
    pick,
    read_object,
    table_of,
)

Json = dict[str, Any]
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"


MAX_SIZE = 1_000_000_000  # of any size in a config
MAX_DEPTH = 1_000  # layers, or how often one of them is run


def _by_key(names: Mapping[Check, str]) -> dict[str, Check]:
    """Key → check, from a mapping of each check to the keys it applies to."""
    return {key: check for check, keys in names.items() for key in keys.split()}


def is_shape(value: Any) -> bool:
    """Whether a value has settings of rotary positions, maybe for two kinds of attention."""
    plain = any_of(is_flag, is_number, is_word, list_of(is_number))
    return table_of(any_of(plain, table_of(plain, is_word)), is_word)(value)


# The keys that configs of the supported encoders declare, and further ones that models read.
CONFIG_KEYS = _by_key(
    {
        between(1, MAX_SIZE): """
            attention_head_size conv_groups d_head d_inner d_model dim embedding_size
            global_attn_every_n_layers head_dim hidden_dim hidden_size intermediate_size
            local_attention max_position_embeddings n_head n_heads num_attention_heads
            num_random_blocks block_size pooler_hidden_size relative_attention_num_buckets
            tpu_short_seq_length vocab_size
        """,
        # These multiply how long a forward pass takes, so they have a lower limit.
        between(
            1, MAX_DEPTH
        ): "inner_group_num n_layer n_layers num_hidden_groups num_hidden_layers",
        between(0, MAX_SIZE): """
            chunk_size_feed_forward conv_kernel_size mem_len num_decoder_layers reuse_len
            type_vocab_size
        """,
        is_whole: """
            bos_token_id clamp_len cls_token_id end_n_top max_relative_positions pad_token_id
            position_buckets sep_token_id sparse_pred_ignore_index start_n_top
        """,
        is_number: """
            activation_dropout attention_dropout attention_probs_dropout_prob classifier_dropout
            classifier_dropout_prob cls_dropout dropout embedding_dropout global_rope_theta
            hidden_dropout hidden_dropout_prob initializer_cutoff_factor initializer_range
            initializer_std layer_norm_eps local_rope_theta mlp_dropout norm_eps
            partial_rotary_factor pooler_dropout qa_dropout rope_theta seq_classif_dropout
            summary_first_dropout summary_last_dropout
        """,
        is_flag: """
            add_cross_attention attention_bias bi_data classifier_bias decoder_bias
            deterministic_flash_attn is_decoder is_encoder_decoder legacy mlp_bias norm_bias
            onnx_export output_attentions output_hidden_states pool_q_only position_biased_input
            relative_attention rescale_embeddings return_dict same_length separate_cls share_att_key
            sinusoidal_pos_embds sparse_prediction summary_proj_to_labels summary_use_proj
            talking_head tie_word_embeddings truncate_seq use_bias use_cache use_mems_eval
            use_mems_train use_tpu_fourier_optimizations
        """,
        is_word: """
            activation attention_type attn_type classifier_activation classifier_pooling conv_act
            ff_activation hidden_act hidden_activation model_type norm_rel_ebd pooler_hidden_act
            pooling_type position_embedding_type problem_type summary_activation summary_type
            transformers_version
        """,
        list_of(between(1, MAX_DEPTH)): "block_repeats block_sizes",
        list_of(is_word): "architectures layer_types",
        is_shape: "rope_parameters rope_scaling",
        any_of(is_whole, list_of(is_whole)): "attention_window eos_token_id",
        any_of(is_word, list_of(is_word)): "pos_att_type",
    }
)

TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def is_token(value: Any) -> bool:
    """Whether a value is a token: its text, or an object with its text and how it is matched."""
    if isinstance(value, dict):
        return is_text(value.get("content")) and all(
            is_flag(value[name]) for name in TOKEN_FLAGS if name in value
        )
    return is_text(value)


is_tokens = any_of(list_of(is_token), table_of(is_token))
# Further tokens may have other names, such as ``image_token``; see `_own_tokens`.
SPECIAL_TOKEN_KEYS = _by_key(
    {
        is_token: "bos_token eos_token unk_token sep_token pad_token cls_token mask_token",
        is_tokens: "additional_special_tokens extra_special_tokens",
    }
)
TOKENIZER_CONFIG_KEYS = SPECIAL_TOKEN_KEYS | _by_key(
    {
        table_of(is_token, str.isdecimal): "added_tokens_decoder",
        is_flag: """
            add_bos_token add_eos_token add_prefix_space clean_text clean_up_tokenization_spaces
            do_basic_tokenize do_lower_case handle_chinese_chars keep_accents legacy lowercase
            remove_space split_by_punct split_special_tokens strip_accents tokenize_chinese_chars
            trim_offsets
        """,
        is_number: "model_max_length max_length max_len stride",
        is_whole: "pad_to_multiple_of pad_token_id pad_token_type_id pad_token_segment_id unk_id",
        is_word: """
            backend errors padding_side tokenizer_class truncation_side truncation_strategy
            vocab_type
        """,
        is_text: "wordpieces_prefix",
        list_of(is_word): "model_input_names",
        list_of(is_text): "never_split",
    }
)


def _is_piece(entry: Any) -> bool:
    """Whether an entry is a token with its score, as in the vocabulary of unigram models."""
    return isinstance(entry, list) and len(entry) == 2 and is_text(entry[0]) and is_number(entry[1])


TOKENIZER_KEYS = (
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
)
# The dropout of merges is left out: with it, a text would have different tokens each time.
TOKENIZER_MODEL_KEYS = _by_key(
    {
        is_flag: "fuse_unk byte_fallback ignore_merges",
        is_whole: "max_input_chars_per_word unk_id",
        is_text: "unk_token continuing_subword_prefix end_of_word_suffix",
        is_word: "type",
        any_of(table_of(is_whole), list_of(_is_piece)): "vocab",
        any_of(list_of(is_text), list_of(list_of(is_text))): "merges",
    }
)
# Keys that make a tokenizer open a file, themselves or passed on as an argument. They are refused
# in forms that saving a tokenizer never writes.
OPENED = ("vocab", "merges", "gguf_file", "spm_file", "vocab_files", "init_inputs")


def clean_config(raw: bytes, model: str) -> Json:
    """config.json with the keys that are known of encoders. Raises ModelUnsupported."""
    document = read_object(raw, CONFIG, model)
    if document.get("quantization_config") is not None:
        raise ModelUnsupported(
            f"the weights of {model!r} are quantised (quantization_config in {CONFIG}), but "
            "gradients need unquantised weights: name the model they were made from"
        )
    kept = pick(document, CONFIG_KEYS, f"{CONFIG} of {model!r}")
    labels = document.get("id2label")
    if _is_label_table(labels):
        kept["id2label"] = labels
    return kept


def _is_label_table(value: Any) -> bool:
    """Whether a value maps the outputs' numbers to names. Other forms do not describe a head."""
    return isinstance(value, dict) and table_of(is_text, str.isdecimal)(value)


def clean_tokenizer_config(raw: bytes, model: str) -> Json:
    """tokenizer_config.json without code, templates and paths.

    Raises UnsafeFiles for a key that would open a file, and ModelUnsupported for values of a wrong
    kind.
    """
    document = read_object(raw, TOKENIZER_CONFIG, model)
    _refuse_files(document, TOKENIZER_CONFIG, model)
    allowed = TOKENIZER_CONFIG_KEYS | _own_tokens(document)
    kept = pick(document, allowed, f"{TOKENIZER_CONFIG} of {model!r}")
    return {key: _plain_tokens(value) for key, value in kept.items()}


def clean_special_tokens(raw: bytes, model: str) -> Json:
    """special_tokens_map.json with known keys; transformers passes each of them as an argument.

    Raises as `clean_tokenizer_config` does.
    """
    document = read_object(raw, SPECIAL_TOKENS, model)
    _refuse_files(document, SPECIAL_TOKENS, model)
    allowed = SPECIAL_TOKEN_KEYS | _own_tokens(document)
    kept = pick(document, allowed, f"{SPECIAL_TOKENS} of {model!r}")
    return {key: _plain_tokens(value) for key, value in kept.items()}


def _own_tokens(document: Json) -> dict[str, Check]:
    named = [key for key in document if key.endswith("_token") and WORD.fullmatch(key)]
    return dict.fromkeys((key for key in named if not is_flag(document[key])), is_token)


def _plain_tokens(value: Any) -> Any:
    """A value whose token objects, at any depth, have only the keys that tokens need."""
    if isinstance(value, list):
        return [_plain_tokens(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if "content" not in value:
        return {key: _plain_tokens(entry) for key, entry in value.items()}
    names = ("content", *TOKEN_FLAGS)
    plain = {name: value[name] for name in names if name in value}
    return {"__type": "AddedToken", **plain} if "__type" in value else plain


def _refuse_files(document: Json, name: str, model: str) -> None:
    """Raise UnsafeFiles, which names the key, if a key names a file to open."""
    named = {key: document[key] for key in OPENED if document.get(key) not in (None, [], {})}
    files = document.get("fast_tokenizer_files") or []
    if any("/" in str(file) for file in (files if isinstance(files, list) else [files])):
        named["fast_tokenizer_files"] = files
    pieces = document.get("sp_model_kwargs") or {}
    if not isinstance(pieces, dict) or {"model_file", "model_proto"} & pieces.keys():
        named["sp_model_kwargs.model_file"] = pieces
    for key in named:
        detail = (
            f"{name} of {model!r} has the key {key!r}, which makes a tokenizer open another file; "
            "a vocabulary must be in a file of the model's folder: leave the key out"
        )
        raise UnsafeFiles(detail, [Fault(detail, file=name, column=key)])


def clean_tokenizer(raw: bytes, model: str) -> Json:
    """tokenizer.json with known keys, including its vocabulary. Raises ModelUnsupported."""
    document = read_object(raw, TOKENIZER, model)
    where = f"{TOKENIZER} of {model!r}"
    kept = {key: document[key] for key in TOKENIZER_KEYS if key in document}
    if not isinstance(kept.get("model"), dict):
        raise ModelUnsupported(f"{where} has no model of tokens; it must have an object 'model'")
    kept["model"] = pick(kept["model"], TOKENIZER_MODEL_KEYS, f"{where}, model")
    tokens = kept.get("added_tokens")
    if tokens is not None and not (list_of(is_token)(tokens) and all(map(_has_id, tokens))):
        raise ModelUnsupported(f"{where}: added_tokens must be a list of tokens with their ids")
    return kept


def _has_id(token: Any) -> bool:
    return isinstance(token, dict) and is_whole(token.get("id"))


def clean_numbers(raw: bytes, name: str, model: str) -> Json:
    """A JSON file of tokens and their ids, such as vocab.json. Raises ModelUnsupported."""
    document = read_object(raw, name, model)
    if not table_of(is_whole)(document):
        raise ModelUnsupported(f"{name} of {model!r} must hold tokens and their whole numbers")
    return document


CLEANERS: Mapping[str, Callable[[bytes, str], Json]] = {
    CONFIG: clean_config,
    TOKENIZER_CONFIG: clean_tokenizer_config,
    SPECIAL_TOKENS: clean_special_tokens,
    TOKENIZER: clean_tokenizer,
    "added_tokens.json": lambda raw, model: clean_numbers(raw, "added_tokens.json", model),
    "vocab.json": lambda raw, model: clean_numbers(raw, "vocab.json", model),
}
