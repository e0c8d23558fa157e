import { expect, test } from "vitest";
import { curvesOf, merged } from "./curves";

const at = (name: string, step: number, value: number | null) => ({ name, step, epoch: step / 10, value });

test("a step that is written again replaces what was there", () => {
  const known = [at("train_loss", 10, 2), at("train_loss", 20, 1)];
  expect(merged(known, [at("train_loss", 20, 1.5), at("train_loss", 30, 0.5)])).toEqual([
    at("train_loss", 10, 2),
    at("train_loss", 20, 1.5),
    at("train_loss", 30, 0.5),
  ]);
});

test("curves go by step, loss first, with the baseline of their metric and without gaps", () => {
  const curves = curvesOf([
    at("validation_accuracy", 20, 0.7),
    at("validation_accuracy", 10, 0.6),
    at("baseline_accuracy", 10, 0.5),
    at("learning_rate", 10, 1e-4),
    at("train_loss", 10, null),
    at("train_loss", 20, 1),
    at("baseline_loss", 10, 0.69),
    at("epoch_something", 10, 3),
  ]);
  expect(curves.map((curve) => curve.name)).toEqual([
    "train_loss",
    "learning_rate",
    "epoch_something",
    "validation_accuracy",
  ]);
  expect(curves[0]).toEqual({ name: "train_loss", points: [{ step: 20, value: 1 }], baseline: 0.69, gaps: 1 });
  expect(curves[3]?.points.map((point) => point.step)).toEqual([10, 20]);
  expect(curves[3]?.baseline).toBe(0.5);
  expect(curves[1]?.baseline).toBeNull();
});
