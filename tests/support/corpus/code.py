"""Models that bring code: through keys of their configs, pickles, and files of other libraries."""

from __future__ import annotations

import pickle  # noqa: TID251  # to make what must never be read
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.corpus.case import Case, both, either, refused, runs, setting, writing

RAN = "the-code-of-a-stranger-ran"  # the name of a file that such code would leave in /tmp
EVIL = f"from pathlib import Path\nPath('/tmp/{RAN}').touch()\n".encode()


class _Touch:
    """Leaves the file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp") / RAN,)


PICKLED = pickle.dumps(_Touch())
PICKLES = (
    *("pytorch_model.bin", "model.pt", "model.pkl", "weights.ckpt", "tf_model.h5"),
    *("flax_model.msgpack", "training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"),
)
AUTO = (
    *("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM"),
    *("AutoTokenizer", "AutoProcessor"),
)
QUANTISERS = (
    *("bitsandbytes", "gptq", "awq", "torchao", "hqq", "quanto", "compressed-tensors", "fp8"),
    *("evil.Module", "../evil"),
)
# Where a config names an implementation, a kernel or a class of somebody's.
NAMES = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "kernel_config", "use_kernels", "custom_pipelines", "auto_class"),
    *("trust_remote_code", "_commit_hash", "_name_or_path", "base_model_name_or_path"),
)
TOKENIZER_CLASSES = ("evil.Evil", "../evil", "os.system", "Evil", "__import__", "AutoTokenizer")
TYPES = (
    *("gpt2", "t5", "llama", "vit", "whisper", "clip", "bart", "evil", "__class__", "auto"),
    *("../bert", "bert\n", "BERT", ""),
)


def _instead(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(PICKLED)

    return change


EVIL_FILE = writing("evil.py", EVIL)
MODELS: dict[str, Case] = {
    **{f"instead-of-weights-{name}": refused(_instead(name)) for name in PICKLES},
    **{f"beside-weights-{name}": runs(writing(name, PICKLED)) for name in PICKLES},
    **{
        f"auto-map-{name}": runs(both(EVIL_FILE, setting("config.json", auto_map={name: "evil.E"})))
        for name in AUTO
    },
    **{
        f"auto-map-elsewhere-{name}": runs(
            setting("config.json", auto_map={name: "owner/other--evil.E"})
        )
        for name in AUTO
    },
    "auto-map-of-the-tokenizer": runs(
        both(EVIL_FILE, setting("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.E"]}))
    ),
    "auto-map-that-is-a-text": runs(both(EVIL_FILE, setting("config.json", auto_map="evil.E"))),
    **{
        f"quantised-{name}": refused(
            setting("config.json", quantization_config={"quant_method": name, "modules": "evil"})
        )
        for name in QUANTISERS
    },
    "quantised-by-a-text": refused(setting("config.json", quantization_config="evil")),
    **{f"names-{key}": runs(both(EVIL_FILE, setting("config.json", **{key: "evil/evil"})))
       for key in NAMES},
    **{f"class-{name}": either(both(EVIL_FILE, setting("tokenizer_config.json", tokenizer_class=name)))
       for name in TOKENIZER_CLASSES},
    **{f"type-{name!r}": refused(setting("config.json", model_type=name)) for name in TYPES},
    "architecture-of-code": either(both(EVIL_FILE, setting("config.json", architectures=["evil.E"]))),
    "peft": runs(setting("adapter_config.json", base_model_name_or_path="/etc", peft_type="LORA")),
    "generation": runs(setting("generation_config.json", custom_generate="owner/evil")),
    "sentence-transformers": runs(writing("modules.json", b'[{"idx":0,"type":"evil.E","path":""}]')),
    "processor": runs(setting("preprocessor_config.json", auto_map={"AutoProcessor": "evil.E"})),
    "code-beside": runs(both(writing("__init__.py", EVIL), writing("sitecustomize.py", EVIL))),
    "templates": runs(
        both(
            writing("chat_template.jinja", b"{{ ''.__class__.__mro__[1].__subclasses__() }}"),
            setting("tokenizer_config.json", chat_template="{% for n in range(10**12) %}x{% endfor %}"),
        )
    ),
}  # fmt: skip
