import { beforeAll, expect, test, vi } from "vitest";

beforeAll(() => {
  vi.stubGlobal("sessionStorage", { getItem: () => "sk_secret" });
  vi.stubGlobal("document", { baseURI: "http://127.0.0.1:8000/?x=1" });
});

test("a command quotes what a shell would take apart, and never shows the key", async () => {
  const { curlOf } = await import("./commands");
  const command = curlOf({ method: "POST", path: "/v1/rankings", body: { name: "Ann's" } });
  expect(command).toBe(
    "curl 'http://127.0.0.1:8000/v1/rankings' -X POST \\\n" +
      '  -H "Authorization: Bearer $SURGEON_API_KEY" \\\n' +
      "  -H 'Content-Type: application/json' \\\n" +
      `  -d '{"name":"Ann'\\''s"}'`,
  );
});

test("JSON becomes Python", async () => {
  const { pythonLiteral } = await import("./commands");
  expect(pythonLiteral({ a: [true, null, 1.5], b: {} })).toBe(
    '{\n    "a": [\n        True,\n        None,\n        1.5,\n    ],\n    "b": {},\n}',
  );
});
