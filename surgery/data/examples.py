"""An invented row for every preset, in the shape of the benchmark's raw rows."""

from __future__ import annotations

from surgery.data.files.source import Row
from surgery.data.ingest.inputs import inputs_for
from surgery.data.presets.tasks import Task

_RAW: dict[str, Row] = {
    "glue/cola": {"sentence": "The kettle whistle loudly.", "label": 0},
    "glue/sst2": {"sentence": "a warm and patient portrait of a small town", "label": 1},
    "glue/mrpc": {
        "sentence1": "The bridge will open to traffic on Monday.",
        "sentence2": "Traffic can use the bridge from Monday.",
        "label": 1,
    },
    "glue/qqp": {
        "question1": "How do I sharpen a kitchen knife?",
        "question2": "How often should a knife be sharpened?",
        "label": 0,
    },
    "glue/stsb": {
        "sentence1": "A boy is flying a kite.",
        "sentence2": "A child plays with a kite.",
        "label": 3.6,
    },
    "glue/mnli": {
        "premise": "The last ferry left an hour ago.",
        "hypothesis": "The ferry is still at the pier.",
        "label": 2,
    },
    "glue/qnli": {
        "question": "When was the mill built?",
        "sentence": "The mill, built in 1871, still grinds rye.",
        "label": 0,
    },
    "glue/rte": {
        "sentence1": "Ines repaired the clock and sold it to a museum.",
        "sentence2": "A museum bought the clock.",
        "label": 0,
    },
    "glue/wnli": {
        "sentence1": "The jug would not fit in the box because it was too tall.",
        "sentence2": "The box was too tall.",
        "label": 0,
    },
    "super_glue/boolq": {
        "question": "does the mill still work",
        "passage": "The mill, built in 1871, still grinds rye.",
        "label": 1,
    },
    "super_glue/cb": {
        "premise": "A: Did he call? B: I don't think he called anyone.",
        "hypothesis": "he called someone",
        "label": 1,
    },
    "super_glue/copa": {
        "premise": "The pond froze overnight.",
        "choice1": "The wind turned to the north.",
        "choice2": "The children skated on it.",
        "question": "effect",
        "label": 1,
    },
    "super_glue/rte": {
        "premise": "Ines repaired the clock and sold it to a museum.",
        "hypothesis": "A museum bought the clock.",
        "label": 0,
    },
    "super_glue/wic": {
        "word": "bank",
        "sentence1": "She sat down on the bank of the river.",
        "sentence2": "The bank closes at four.",
        "start1": 20,
        "end1": 24,
        "start2": 4,
        "end2": 8,
        "label": 0,
    },
    "super_glue/wsc": {
        "text": "The crane could not lift the piano because it was too heavy.",
        "span1_index": 5,
        "span1_text": "the piano",
        "span2_index": 8,
        "span2_text": "it",
        "label": 1,
    },
    "super_glue/multirc": {
        "paragraph": "Ada keeps two goats. On Sundays her brother feeds them hay.",
        "question": "Who feeds the goats on Sundays?",
        "answer": "Ada's brother",
        "idx": {"paragraph": 0, "question": 2, "answer": 1},
        "label": 1,
    },
    "super_glue/record": {
        "passage": "Mayor Ida Berg welcomed the Lund Choir at the station.",
        "query": "In the evening @placeholder sang in front of the town hall.",
        "entities": ["Ida Berg", "Lund Choir"],
        "answers": ["Lund Choir"],
        "idx": {"passage": 0, "query": 0},
    },
    "super_glue/axg": {
        "premise": "The baker thanked the farmer because she had brought eggs.",
        "hypothesis": "The farmer had brought eggs.",
        "idx": 7,
        "label": 0,
    },
}
_SAME_SHAPE = {
    "glue/mnli_mismatched": "glue/mnli",
    "glue/ax": "glue/mnli",
    "super_glue/axb": "glue/rte",
}


def raw_example(task: Task) -> Row:
    """An invented row with the columns that the task's data have."""
    return _RAW[_SAME_SHAPE.get(task.name, task.name)]


def read_example(task: Task) -> list[Row]:
    """The example as ingesting stores it: one row, or several if its format expands a raw row."""
    form = task.format
    raw = [raw_example(task)] if form is None else form.rows(raw_example(task))
    columns, extras = (task.columns, ()) if form is None else (form.columns, form.extras)
    first = ("example", 1, raw[0])
    inputs = inputs_for(task.problem, columns, first, dict(task.questions), extras)
    stored = []
    for row in raw:
        content = inputs.read(row)
        names = [name for name, _ in inputs.fields]
        cells = dict(zip(names, (*content.cells, *content.extras), strict=True))
        stored.append({**cells, "label": inputs.label(row, content)})
    return stored
