import js from "@eslint/js";
import hooks from "eslint-plugin-react-hooks";
import ts from "typescript-eslint";

export default ts.config(
  { ignores: ["node_modules", "src/api/schema.d.ts"] },
  js.configs.recommended,
  ts.configs.strictTypeChecked,
  hooks.configs.flat["recommended-latest"],
  {
    files: ["src/**/*.{ts,tsx}"],
    languageOptions: { parserOptions: { project: "./tsconfig.json" } },
    rules: {
      "max-lines-per-function": ["error", { max: 60, skipBlankLines: true, skipComments: true }],
      "no-restricted-globals": ["error", { name: "fetch", message: "use src/api/client.ts" }],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // What starts work without waiting for it says so with `void`.
      "@typescript-eslint/no-confusing-void-expression": "off",
    },
  },
  { files: ["*.{js,ts}"], extends: [ts.configs.disableTypeChecked] },
);
