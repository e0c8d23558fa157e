"""Rank a model's layers, fine-tune the best two and use what was trained: URL MODEL CSV FOLDER."""

import sys

from transformers import pipeline

from surgeon import Client

url, model, csv, folder = sys.argv[1:]
with Client(url) as client:
    dataset = client.upload(csv)
    ranking = client.rank(model, dataset, samples=64).wait()
    best = {"policy": "top_k", "k": 2, "ranking": ranking}
    tuned = client.tune(model, dataset, selection=best, training={"epochs": 20}).wait()
    print(tuned.result.trained_layers, tuned.result.best.metrics)
    tuned.download(folder, form="full")
print(pipeline("text-classification", folder)(["a fine sentence", "a poor sentence"]))
