"""Examples of request bodies, which the OpenAPI document shows."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"

RANKING_BODIES: Json = {
    "shortest": {
        "summary": "A preset, with every default",
        "value": {"model": MODEL_ID, "dataset": "glue/cola"},
    },
    "hub": {
        "summary": "A dataset of the Hub, with the aggregate of the paper's released code",
        "value": {
            "model": "google-bert/bert-base-cased",
            "dataset": {
                "hub": "cornell-movie-review-data/rotten_tomatoes",
                "columns": {"text": "text", "label": "label"},
            },
            "aggregate": "frobenius",
            "samples": 512,
        },
    },
    "how sure of the rows": {
        "summary": "Score rows until the top layers are certain",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "adaptive": True,
            "samples": 2048,
            "fisher": "exact",
        },
    },
    "how sure of the head": {
        "summary": "Average over several new heads and report how far they differ",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "head": {"init": "new", "warmup_epochs": 2},
            "head_seeds": 4,
        },
    },
    "the task's own": {
        "summary": "Rank by what the labels add to the scores on shuffled labels",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "head": {"init": "new"},
            "minus": "shuffled",
        },
    },
    "every method": {
        "summary": "Rank by Fisher information and compare with every other method",
        "value": {"model": MODEL_ID, "dataset": "glue/rte", "method": "all", "samples": 256},
    },
    "can it learn": {
        "summary": "Rank by the tangent kernels: which layer can learn the task?",
        "value": {"model": MODEL_ID, "dataset": "glue/rte", "method": "tangent", "samples": 512},
    },
    "fine-grained": {
        "summary": "Rank attention and feed-forward parts by their mean per parameter, in bfloat16",
        "value": {
            "model": MODEL_ID,
            "dataset": "super_glue/copa",
            "granularity": "sublayer",
            "aggregate": "mean",
            "precision": "bf16",
            "model_prior": False,
        },
    },
    "as published": {
        "summary": "The computation of the paper's released code, for comparison",
        "value": {"model": MODEL_ID, "dataset": "glue/rte", "method": "paper_compat"},
    },
}
FINETUNE_BODIES: Json = {
    "top two": {
        "summary": "The two best layers, ranked first if they have not been ranked yet",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "top_k", "k": 2},
            "training": {"epochs": 3, "learning_rate": 1e-4},
        },
    },
    "by name": {
        "summary": "Layers by name and index, stored as a whole transformers folder",
        "value": {
            "model": MODEL_ID,
            "dataset": "ds_01kasz3v7d9q6m8x2c4n5b7t1w",
            "selection": {"policy": "layers", "layers": ["encoder.layer.1", 4]},
            "checkpoints": {"keep": "best", "form": "full"},
        },
    },
    "searched": {
        "summary": "The layers and the learning rate that a search finds first",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "search", "search": {"families": ["single", "pairs", "all"]}},
        },
    },
    "share of the score": {
        "summary": "The fewest layers that hold 70 % of the total score",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "top_share", "share": 0.7},
        },
    },
    "budget": {
        "summary": "The best attention and feed-forward parts that fit into two million parameters",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {
                "policy": "max_parameters",
                "max_parameters": 2_000_000,
                "granularity": "sublayer",
                "ranking": {"aggregate": "mean"},
            },
        },
    },
    "tensors": {
        "summary": "The ten best tensors of a ranking of tensors, and the pooler",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {
                "policy": "top_k",
                "k": 10,
                "ranking": "rk_01kasz3v7d9q6m8x2c4n5b7t1w",
                "granularity": "tensor",
                "include": ["pooler"],
            },
        },
    },
    "measured elsewhere": {
        "summary": "Train on MNLI; evaluate on its second validation set and the diagnostics too",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/mnli",
            "selection": {"policy": "top_k", "k": 2},
            "also_evaluate": ["glue/mnli_mismatched", "glue/ax"],
        },
    },
    "tracked": {
        "summary": "The best layer by another method; does the ranking change while it trains?",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "selection": {"policy": "top_k", "k": 1, "ranking": {"method": "tangent"}},
            "track_ranking": True,
        },
    },
    "unfrozen gradually": {
        "summary": "The top layer first, then one more below it in each epoch, rates decaying down",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "last_k", "k": 3},
            "training": {
                "epochs": 5,
                "learning_rate": 1e-4,
                "layer_learning_rate_decay": 0.8,
                "layer_schedule": {"type": "gradual", "every_epochs": 1},
            },
        },
    },
    "layers in turn": {
        "summary": "Two layers at a time, drawn anew every 50 steps (LISA)",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "all", "include": ["embeddings"]},
            "training": {"layer_schedule": {"type": "lisa", "layers": 2, "interval": 50}},
        },
    },
    "best of three rates": {
        "summary": "The learning rate that does best on a fifth of the train rows",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "top_k", "k": 2},
            "training": {"epochs": 3, "learning_rates": [1e-4, 3e-4, 1e-3]},
        },
    },
    "continued": {
        "summary": "Continue from a checkpoint with another layer, and export the best one to ONNX",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "continue_from": "ck_01kaszq0m3f4h5j6k7m8n9p0q1",
            "selection": {"policy": "layers", "layers": [3]},
            "checkpoints": {"keep": 2, "onnx": True},
        },
    },
}
SEARCH_BODIES: Json = {
    "shortest": {
        "summary": "A preset, with every default",
        "value": {"model": MODEL_ID, "dataset": "glue/cola"},
    },
    "few candidates": {
        "summary": "Single layers and all layers, at two rates, for ten minutes at most",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "families": ["single", "all"],
            "learning_rates": [1e-4, 5e-4],
            "budget_seconds": 600,
            "training": {"epochs": 5, "batch_size": 16},
        },
    },
}
PREDICTION_BODIES: Json = {
    "texts": {
        "summary": "Two sentences for a checkpoint of glue/cola",
        "value": {
            "checkpoint": "ck_01kaszq0m3f4h5j6k7m8n9p0q1",
            "rows": [
                {"sentence": "The more we study verbs, the crazier they get."},
                {"sentence": "The more study we verbs, they crazier the get."},
            ],
        },
    },
    "pairs": {
        "summary": "A pair of texts for a checkpoint of glue/rte, without probabilities",
        "value": {
            "checkpoint": "ck_01kat2n5p7r9s1t3v5w7x9y1z3",
            "rows": [{"sentence1": "It rained all day.", "sentence2": "The sun shone."}],
            "top": 0,
        },
    },
}
EXPORT_BODIES: Json = {
    "a folder": {
        "summary": "A plain transformers folder of the object store, called cola-reader",
        "value": {"to": "folder", "target": "cola-reader"},
    },
    "a registered model": {
        "summary": "A version of the registered model cola-reader at MLflow",
        "value": {"to": "mlflow", "target": "cola-reader"},
    },
    "a repository": {
        "summary": "A commit in a private repository of the Hugging Face Hub",
        "value": {"to": "hub", "target": "acme/cola-reader", "message": "Second round of labels"},
    },
    "a delta": {
        "summary": "The trained tensors alone, with a label",
        "value": {
            "to": "folder",
            "target": "cola-reader-delta",
            "form": "delta",
            "metadata": {"team": "search"},
        },
    },
}
COMPARISON_BODIES: Json = {
    "against all": {
        "summary": "The two best layers, the last two, LoRA and all layers, each at its best rate",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "arms": [
                {"name": "top-2", "selection": {"policy": "top_k", "k": 2}},
                {"name": "last-2", "selection": {"policy": "last_k", "k": 2}},
                {
                    "name": "lora",
                    "adapter": {"type": "lora", "rank": 8},
                    "learning_rates": [3e-4, 1e-3, 3e-3],
                },
                {"name": "all", "selection": {"policy": "all"}},
            ],
            "seeds": [0, 1, 2],
            "training": {"epochs": 3, "learning_rates": [3e-5, 1e-4, 3e-4]},
        },
    },
    "schedules": {
        "summary": "All layers at once, unfrozen from the top, and two at a time",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "arms": [
                {"name": "all", "selection": {"policy": "all"}},
                {
                    "name": "gradual",
                    "selection": {"policy": "all"},
                    "layer_schedule": {"type": "gradual", "every_steps": 100},
                },
                {
                    "name": "lisa",
                    "selection": {"policy": "all"},
                    "layer_schedule": {"type": "lisa", "layers": 2, "interval": 50},
                },
            ],
            "training": {"epochs": 3, "learning_rates": [5e-5, 1e-4]},
        },
    },
    "which to take": {
        "summary": "Two ways to choose two layers, which may be the same, LoRA and the head alone",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "arms": [
                {"name": "fisher", "selection": {"policy": "top_k", "k": 2}},
                {"name": "last-2", "selection": {"policy": "last_k", "k": 2}},
                {"name": "lora", "adapter": {"type": "lora", "rank": 8}},
                {"name": "head", "selection": {"policy": "head_only"}},
            ],
            "seeds": [0, 1, 2, 3, 4],
        },
    },
    "each layer alone": {
        "summary": "Each layer alone: does any score predict which layer is worth tuning?",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/rte",
            "single_layers": True,
            "arms": [{"name": "head", "selection": {"policy": "head_only"}}],
            "seeds": [0, 1, 2],
        },
    },
    "measured elsewhere too": {
        "summary": "Two ways to train on MNLI, evaluated on its second set and the diagnostics too",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/mnli",
            "arms": [
                {"name": "last-2", "selection": {"policy": "last_k", "k": 2}},
                {"name": "all", "selection": {"policy": "all"}},
            ],
            "also_evaluate": ["glue/mnli_mismatched", "glue/ax"],
        },
    },
}

ESTIMATE_BODIES: Json = {
    "every k": {
        "summary": "Every number of layers, chosen by the default ranking",
        "value": {"model": MODEL_ID, "dataset": "glue/cola"},
    },
    "some k": {
        "summary": "The topmost one, two and four layers, without the prefix cache",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "last_k"},
            "k": [1, 2, 4],
            "training": {"epochs": 5, "prefix_cache": "off"},
        },
    },
    "several rates": {
        "summary": "What it costs to choose among three learning rates first",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "selection": {"policy": "last_k", "k": 2},
            "training": {"learning_rates": [1e-4, 3e-4, 1e-3]},
        },
    },
    "search": {
        "summary": "A search, instead of a fine-tune",
        "value": {"model": MODEL_ID, "dataset": "glue/cola", "search": {"budget_share": 0.2}},
    },
    "adapter": {
        "summary": "A LoRA adapter instead of layers",
        "value": {
            "model": MODEL_ID,
            "dataset": "glue/cola",
            "adapter": {"type": "lora", "rank": 16},
        },
    },
}

DATASET_BODIES: Json = {
    "from the Hub": {
        "summary": "A dataset of the Hub, pinned to its present commit",
        "value": {
            "hub": "stanfordnlp/imdb",
            "validation": "test",
            "columns": {"text": "text", "label": "label"},
            "name": "film reviews",
        },
    },
    "several labels": {
        "summary": "Rows with any number of labels, written as one text such as late;refund",
        "value": {
            "hub": "acme/support-tickets",
            "columns": {"text": "message", "label": "tags"},
            "problem": "multi_label",
            "label_separator": ";",
        },
    },
}
DATASET_CHANGES: Json = {
    "a name": {"summary": "Another name", "value": {"name": "film reviews, cleaned"}},
}
CHANGES: Json = {
    "urgent": {"summary": "Run it before others", "value": {"priority": 10}},
    "labels": {
        "summary": "A name, one more label, and one label less",
        "value": {"name": "for the report", "metadata": {"team": "search", "draft": None}},
    },
}
