import { expect, test } from "vitest";
import { asKind, beginning, fromRanking, parsed } from "./request";

const SPEC = { model: "m", dataset: "glue/cola", samples: 64, name: "old" };

test("a fine-tune of a ranking trains its top layers on its model and dataset", () => {
  expect(fromRanking("finetune", "rk_1", SPEC, 3)).toEqual({
    model: "m",
    dataset: "glue/cola",
    selection: { policy: "top_k", ranking: "rk_1", k: 3 },
  });
});

test("a comparison sets the ranking's top layers beside as many others", () => {
  const { arms } = fromRanking("comparison", "rk_1", SPEC, 3);
  expect(arms).toEqual([
    { name: "top 3", selection: { policy: "top_k", ranking: "rk_1", k: 3 } },
    { name: "last 3", selection: { policy: "last_k", k: 3 } },
    { name: "all layers", selection: { policy: "all" } },
  ]);
});

test("another kind keeps what both kinds know", () => {
  const tune = { ...beginning("finetune"), ...SPEC, training: { epochs: 5 } };
  expect(asKind(tune, "finetune", "search")).toEqual({
    model: "m",
    dataset: "glue/cola",
    name: "old",
    training: { epochs: 5 },
  });
  expect(asKind(tune, "finetune", "ranking")).toEqual({ model: "m", dataset: "glue/cola", name: "old" });
});

test("only an object is a request", () => {
  expect(parsed('{"model": "m"}')).toEqual({ body: { model: "m" } });
  expect(parsed("[1]")).toHaveProperty("fault");
  expect(parsed("{")).toHaveProperty("fault");
});
