"""Check and hash the files of a model's folder that are read; no other file is ever opened."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from surgery.errors import Fault, ModelUnsupported, UnsafeFiles, UnsafeWeights
from surgery.io.regular_files import check_regular, open_regular, read_regular
from surgery.io.safetensors import TensorHeader, check_count, read_open_header
from surgery.models.inputs import longest_row
from surgery.models.source.checks import other_weights
from surgery.models.source.documents import CLEANERS, CONFIG, TOKENIZER, TOKENIZER_CONFIG
from surgery.models.source.json_checks import SMALL_BYTES, read_object

INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model(-(\d{5})-of-(\d{5}))?\.safetensors")
# The largest encoder that is loaded, DeBERTa-v2-xxlarge, has 6.3 GB in float32.
MAX_WEIGHT_BYTES = 8_000_000_000
# The largest vocabulary that is checked at submission, since parsing blocks the process. The
# worker checks larger ones before it copies them.
MAX_PARSED_BYTES = 200_000
# Files beside the weights → the most bytes that they may have. The largest real ones are a
# tokenizer.json of 17 MB (XLM-R) and a vocabulary of 5 MB.
OTHER_FILES = {
    CONFIG: SMALL_BYTES,
    INDEX: SMALL_BYTES,
    TOKENIZER: 40_000_000,
    TOKENIZER_CONFIG: SMALL_BYTES,
    "special_tokens_map.json": MAX_PARSED_BYTES,
    "added_tokens.json": MAX_PARSED_BYTES,
    "vocab.txt": 32_000_000,
    "vocab.json": 32_000_000,
    "merges.txt": 32_000_000,
    "spm.model": 32_000_000,
    "spiece.model": 32_000_000,
    "sentencepiece.bpe.model": 32_000_000,
}
VOCABULARIES = {
    TOKENIZER,
    "vocab.txt",
    "vocab.json",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
}
# Tokenizer classes of transformers that use the tokenizers library, without the suffix Fast.
TOKENIZER_CLASSES = frozenset(
    [
        "AlbertTokenizer",
        "BartTokenizer",
        "BarthezTokenizer",
        "BertTokenizer",
        "BigBirdTokenizer",
        "CLIPTokenizer",
        "CamembertTokenizer",
        "DPRQuestionEncoderTokenizer",
        "DPRContextEncoderTokenizer",
        "DPRReaderTokenizer",
        "DebertaTokenizer",
        "DebertaV2Tokenizer",
        "DistilBertTokenizer",
        "ElectraTokenizer",
        "FNetTokenizer",
        "FunnelTokenizer",
        "GPT2Tokenizer",
        "GPTNeoXTokenizer",
        "GemmaTokenizer",
        "HerbertTokenizer",
        "LEDTokenizer",
        "LlamaTokenizer",
        "LongformerTokenizer",
        "LxmertTokenizer",
        "MBart50Tokenizer",
        "MBartTokenizer",
        "MPNetTokenizer",
        "MobileBertTokenizer",
        "NllbTokenizer",
        "OpenAIGPTTokenizer",
        "PegasusTokenizer",
        "PreTrainedTokenizer",
        "Qwen2Tokenizer",
        "ReformerTokenizer",
        "RemBertTokenizer",
        "RoFormerTokenizer",
        "RobertaTokenizer",
        "SplinterTokenizer",
        "T5Tokenizer",
        "TokenizersBackend",
        "XGLMTokenizer",
        "XLMRobertaTokenizer",
        "XLNetTokenizer",
    ]
)
GENERIC_CLASS = "PreTrainedTokenizerFast"  # reads tokenizer.json as it is
MAX_DIGESTS = 4096
_DIGESTS: dict[tuple[int, ...], str] = {}  # device, inode, size and times of a file
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class ModelFolder:
    """The checked files of a model's folder; ``config`` is its cleaned config.json.

    ``longest`` is the most tokens of a row, None if that is not known.
    """

    files: tuple[str, ...]
    config: dict[str, Any]
    fingerprint: str
    tensors: dict[str, TensorHeader]
    longest: int | None


def is_read(name: str) -> bool:
    """Whether a file of this name is read."""
    return name in OTHER_FILES or WEIGHTS.fullmatch(name) is not None


def limit_of(name: str) -> int:
    """The most bytes that a file of this name may have."""
    return OTHER_FILES.get(name, MAX_WEIGHT_BYTES)


def weights_among(files: Collection[str]) -> list[str]:
    """The files with the weights, in order: model.safetensors if it exists, or else its parts."""
    if WEIGHTS_FILE in files:
        return [WEIGHTS_FILE]
    return sorted(name for name in files if WEIGHTS.fullmatch(name))


def read_folder(directory: Path, model: str) -> ModelFolder:
    """Check every file of a folder that loading would read.

    Raises UnsafeFiles (for a file that is not a regular file, is too large or refers to others),
    UnsafeWeights or ModelUnsupported. Sizes and kinds are checked first, the weights' content last.
    """
    names = _names(directory)
    files = tuple(sorted(name for name in names if is_read(name)))
    if CONFIG in files:
        check_names(files, model, names)
    try:
        states = {name: (directory / name).lstat() for name in files}
    except OSError as error:
        raise UnsafeFiles(f"the files of {model!r} cannot be read: {error.strerror}") from None
    for name, state in states.items():
        check_regular(name, state, limit_of(name))
    whole = sum(state.st_size for name, state in states.items() if WEIGHTS.fullmatch(name))
    if whole > MAX_WEIGHT_BYTES:
        raise UnsafeFiles(
            f"the weights of {model!r} have {whole:,} bytes; at most {MAX_WEIGHT_BYTES:,} are read"
        )
    documents = checked_documents(files, lambda name: directory / name, model)
    tensors = tensors_in(directory, files, model)
    digests = {name: digest_of(directory / name, limit_of(name)) for name in files}
    headers = {tensor: header for tensor, (_, header) in tensors.items()}
    longest = longest_row(documents[CONFIG], documents.get(TOKENIZER_CONFIG, {}))
    return ModelFolder(files, documents[CONFIG], fingerprint_of(digests), headers, longest)


def _names(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except OSError as error:
        raise UnsafeFiles(f"the model's folder cannot be listed: {error.strerror}") from None


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """A model's fingerprint, from the SHA-256 of each of its files by name."""
    whole = hashlib.sha256()
    for name in sorted(digests):
        whole.update(f"{name}:{digests[name]}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def digest_of(path: Path, max_bytes: int) -> str:
    """The SHA-256 of a regular file in hex, remembered by this process until the file changes."""
    with open_regular(path, max_bytes) as file:
        return digest_of_open(file)


def digest_of_open(file: BufferedReader) -> str:
    """As `digest_of`, for an open file at any position."""
    state = os.fstat(file.fileno())
    same = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if same not in _DIGESTS:
        if len(_DIGESTS) >= MAX_DIGESTS:
            _DIGESTS.clear()
        file.seek(0)
        _DIGESTS[same] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[same]


def checked_documents(
    files: Collection[str], path_of: Callable[[str], Path], model: str
) -> dict[str, dict[str, Any]]:
    """The small JSON files of a model, cleaned; tokenizer.json is only checked.

    Raises as `read_folder` does.
    """
    if CONFIG not in files:
        raise ModelUnsupported(f"model {model!r} has no config.json")
    documents = {CONFIG: CLEANERS[CONFIG](_content(path_of(CONFIG), CONFIG), model)}
    check_names(files, model)
    for name in sorted(CLEANERS.keys() & set(files) - {CONFIG}):
        path = path_of(name)
        state = path.lstat()
        if name in VOCABULARIES and state.st_size > MAX_PARSED_BYTES:
            continue
        if name == TOKENIZER:
            _check_once(path, state.st_ctime_ns, state.st_size, model)
        else:
            documents[name] = CLEANERS[name](_content(path, name), model)
    check_tokenizer_class(documents.get(TOKENIZER_CONFIG, {}), files, model)
    if WEIGHTS_FILE not in files:
        check_index(_content(path_of(INDEX), INDEX), files, model)
    return documents


def _content(path: Path, name: str) -> bytes:
    # ``path`` may have another name: the Hub's cache names files by their content.
    return read_regular(path, limit_of(name))


@lru_cache(maxsize=1024)
def _check_once(path: Path, changed: int, size: int, model: str) -> None:  # noqa: ARG001  # the key
    CLEANERS[TOKENIZER](_content(path, TOKENIZER), model)


def check_names(files: Collection[str], model: str, others: Collection[str] = ()) -> None:
    """Raise UnsafeWeights or ModelUnsupported unless weights and a vocabulary are among the files.

    Weights in several parts need their index. ``others`` are the folder's other files, which the
    message names.
    """
    weights = weights_among(files)
    if not weights:
        unread = other_weights(others)
        what = f" (it has {', '.join(unread[:5])[:200]})" if unread else ""
        raise UnsafeWeights(
            f"model {model!r} has no model.safetensors{what}; pickled weights (pytorch_model.bin) "
            "and those of other frameworks are never read. Convert it with transformers' "
            "save_pretrained and name that copy"
        )
    if not VOCABULARIES & set(files):
        raise ModelUnsupported(f"model {model!r} has no tokenizer files")
    if WEIGHTS_FILE not in files and INDEX not in files:
        raise ModelUnsupported(
            f"model {model!r} has its weights in {len(weights)} parts but lacks {INDEX}, which "
            "says what each contains; copy it into the model's folder"
        )


def check_tokenizer_class(config: Mapping[str, Any], files: Collection[str], model: str) -> None:
    """Raise ModelUnsupported for a tokenizer that the tokenizers library cannot run."""
    name = str(config.get("tokenizer_class") or GENERIC_CLASS)
    if name.removesuffix("Fast") not in TOKENIZER_CLASSES and TOKENIZER not in files:
        raise ModelUnsupported(
            f"model {model!r} has a {name}, which is not a tokenizer of the tokenizers library; "
            "give the model a tokenizer.json"
        )


def check_index(raw: bytes, files: Collection[str], model: str) -> None:
    """Check that the index names only parts of the weights, and that all of them exist.

    Raises UnsafeFiles for a name that is not that of a part, and ModelUnsupported for a part that
    is missing.
    """
    shards = read_object(raw, INDEX, model).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelUnsupported(f"{INDEX} of {model!r} has no weight_map of tensors to files")
    for tensor, shard in shards.items():
        if not isinstance(shard, str) or not WEIGHTS.fullmatch(shard):
            detail = (
                f"{INDEX} of {model!r} names {str(shard)[:100]!r} under weight_map, "
                f"{tensor[:100]}: weights are read only from files of the model's folder named "
                "like model-00001-of-00002.safetensors"
            )
            raise UnsafeFiles(
                detail, [Fault(detail, file=INDEX, column=f"weight_map.{tensor[:100]}")]
            )
        if shard not in files:
            raise ModelUnsupported(
                f"model {model!r} lacks {shard}, in which {INDEX} says {tensor[:100]} lies; copy "
                "it into the model's folder"
            )


def tensors_in(
    directory: Path, files: Collection[str], model: str
) -> dict[str, tuple[str, TensorHeader]]:
    """Tensor → its file and its header, for all parts of a model's weights.

    Raises UnsafeWeights if two parts hold the same tensor.
    """
    tensors: dict[str, tuple[str, TensorHeader]] = {}
    for name in weights_among(files):
        with open_regular(directory / name, limit_of(name)) as file:
            header, _ = read_open_header(file, name)
        for tensor, entry in header.items():
            if tensor in tensors:
                other = tensors[tensor][0]
                raise UnsafeWeights(f"{name} and {other} of {model!r} both hold {tensor!r}")
            tensors[tensor] = (name, entry)
        check_count(len(tensors), model)
    return tensors
