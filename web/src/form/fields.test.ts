import { expect, test } from "vitest";
import { faultsAt } from "./faults";
import { fieldInfo } from "./openapi";
import { valueAt, withValue } from "./pointer";
import { labelOf, textOf, valueOf } from "./values";

const SCHEMAS = {
  Spec: {
    properties: {
      policy: { $ref: "#/components/schemas/Policy", default: "top_k" },
      k: { anyOf: [{ type: "integer", minimum: 1 }, { type: "null" }], description: "How many." },
      training: { $ref: "#/components/schemas/Training", default: { epochs: 7 } },
      seeds: { type: "array", items: { type: "integer" }, default: [0, 1] },
    },
  },
  Policy: { type: "string", enum: ["top_k", "all"], description: "How the layers are chosen." },
  Training: {
    properties: {
      epochs: { type: "integer", minimum: 1, maximum: 1000, default: 3 },
      learning_rate: { type: "number", exclusiveMinimum: 0, default: 5e-5 },
    },
  },
};

test("a field is as the service describes it", () => {
  expect(fieldInfo(SCHEMAS, "Spec", "/policy")).toEqual({
    type: "choice",
    values: ["top_k", "all"],
    preset: "top_k",
    limits: "",
    description: "How the layers are chosen.",
  });
  expect(fieldInfo(SCHEMAS, "Spec", "/k")).toMatchObject({
    type: "integer",
    preset: undefined,
    limits: "at least 1",
    description: "How many.",
  });
  expect(fieldInfo(SCHEMAS, "Spec", "/seeds")).toMatchObject({ type: "list", preset: [0, 1] });
});

test("the default of an object goes before those of its fields", () => {
  expect(fieldInfo(SCHEMAS, "Spec", "/training/epochs").preset).toBe(7);
  expect(fieldInfo(SCHEMAS, "Spec", "/training/learning_rate")).toMatchObject({ preset: 5e-5, limits: "above 0" });
});

test("a field that the service does not have is an error, not an empty input", () => {
  expect(() => fieldInfo(SCHEMAS, "Spec", "/training/epoch")).toThrow("/training/epoch");
});

test("a value is set, read and taken away by its pointer", () => {
  const set = withValue({ model: "m" }, "/training/epochs", 2);
  expect(set).toEqual({ model: "m", training: { epochs: 2 } });
  expect(valueAt(set, "/training/epochs")).toBe(2);
  expect(valueAt(set, "/model/epochs")).toBeUndefined();
  expect(withValue(set, "/training/epochs", undefined)).toEqual({ model: "m" });
  expect(withValue({}, "/a~1b", 1)).toEqual({ "a/b": 1 });
});

test("texts of inputs stand for values, and a wrong number stays a text", () => {
  expect(valueOf(" 1e-3 ", "number")).toBe(0.001);
  expect(valueOf("three", "integer")).toBe("three");
  expect(valueOf("0, 1,", "list")).toEqual([0, 1]);
  expect(valueOf("single,all", "list")).toEqual(["single", "all"]);
  expect(valueOf("12", "text")).toBe("12");
  expect(valueOf(" ", "integer")).toBeUndefined();
  expect(textOf([0.001, "all"])).toBe("0.001, all");
  expect(labelOf("/training/learning_rate")).toBe("Learning rate");
  expect(labelOf("/adapter/type")).toBe("Adapter");
});

test("a fault is told at its field and at those around it", () => {
  const faults = [{ detail: "too small", pointer: "/training/epochs" }, { detail: "missing" }];
  expect(faultsAt(faults, "/training/epochs")).toHaveLength(1);
  expect(faultsAt(faults, "/training")).toHaveLength(1);
  expect(faultsAt(faults, "/train")).toHaveLength(0);
});
