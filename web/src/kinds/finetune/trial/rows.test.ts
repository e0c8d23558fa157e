import { expect, test } from "vitest";
import { fieldsOf, rowOf } from "./rows";

test("a text or a pair is asked for by the names of its columns", () => {
  const fields = fieldsOf({ parts: ["text", "text_pair"], columns: { text: "premise", text_pair: "hypothesis" } });
  expect(fields.map((field) => field.column)).toEqual(["premise", "hypothesis"]);
  expect(rowOf(fields, { premise: "a b" })).toEqual({ premise: "a b", hypothesis: "" });
});

test("words are parted at spaces, and choices are lines or a column each", () => {
  const words = fieldsOf({ parts: ["tokens"], columns: {} });
  expect(rowOf(words, { tokens: " Anna lives\nin Rome " })).toEqual({ tokens: ["Anna", "lives", "in", "Rome"] });
  const lines = fieldsOf({ parts: ["text", "choices"], columns: { text: "q", choices: "answers" } });
  expect(rowOf(lines, { q: "why?", answers: "so\n\nbecause it is" })).toEqual({ q: "why?", answers: ["so", "because it is"] });
  const columns = fieldsOf({ parts: ["choices"], columns: { choices: ["one", "two"] } });
  expect(rowOf(columns, { one: "a", two: "b" })).toEqual({ one: "a", two: "b" });
});
