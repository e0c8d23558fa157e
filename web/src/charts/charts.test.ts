import { expect, test } from "vitest";
import { axisDigits, blockOf, metricTitle, shortNames } from "./names";
import { paretoLine } from "./pareto";
import { orderOf, placesOf } from "./ranks";

test("the Pareto line leaves out what costs more and reaches no more", () => {
  const points = [
    { name: "all", cost: 10, value: 0.9 },
    { name: "two", cost: 3, value: 0.88 },
    { name: "dear", cost: 5, value: 0.5 },
    { name: "head", cost: 1, value: 0.4 },
    { name: "as good as two, dearer", cost: 4, value: 0.88 },
  ];
  expect(paretoLine(points).map((each) => each.name)).toEqual(["head", "two", "all"]);
  expect(paretoLine([])).toEqual([]);
});

test("of equal ways the Pareto line keeps all", () => {
  const one = { cost: 1, value: 1 };
  expect(paretoLine([one, { ...one }])).toHaveLength(2);
});

test("orders become places, and scores become orders with ties as given", () => {
  expect(orderOf({ a: 1, b: 3, c: 3, d: -2 })).toEqual(["b", "c", "a", "d"]);
  expect(placesOf([["fisher", ["b", "a"]], ["last", ["a", "b"]]])).toEqual([
    { column: "fisher", layer: "b", rank: 1 },
    { column: "fisher", layer: "a", rank: 2 },
    { column: "last", layer: "a", rank: 1 },
    { column: "last", layer: "b", rank: 2 },
  ]);
});

test("names are shortened to what tells them apart", () => {
  expect([...shortNames(["encoder.layer.0", "encoder.layer.11"]).values()]).toEqual(["layer 0", "layer 11"]);
  expect(shortNames(["encoder.layer.0.attention", "encoder.layer.0.ffn"]).get("encoder.layer.0.ffn")).toBe("ffn");
  expect(shortNames(["encoder.layer.1.ffn", "encoder.layer.0.ffn"]).get("encoder.layer.1.ffn")).toBe("1.ffn");
  expect(shortNames(["one.layer"]).get("one.layer")).toBe("layer");
  expect(shortNames([]).size).toBe(0);
});

test("the block of a layer is in its name", () => {
  expect(blockOf("encoder.layer.11")).toBe(11);
  expect(blockOf("encoder.layer.3.attention")).toBe(3);
  expect(blockOf("pooler")).toBeNull();
});

test("an axis has prefixes of the SI, whatever the language", () => {
  expect([0, 0.25, 500, 2000, -2500, 500_000, 1_000_000, 3e9].map(axisDigits)).toEqual([
    "0", "0.25", "500", "2k", "-2.5k", "500k", "1M", "3G",
  ]);
});

test("metrics are named in words", () => {
  expect(metricTitle("matthews_correlation")).toBe("Matthews correlation");
});
