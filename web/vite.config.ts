import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// Addresses are relative, so that the page also works below a path of a reverse proxy.
export default defineConfig({
  base: "./",
  plugins: [react()],
  build: {
    outDir: process.env.PAGE_OUT ?? "../app/api/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the policy of the page lets nothing inline run
    modulePreload: { polyfill: false },
  },
  // `npm run dev` shows the page beside a service that runs on its usual port.
  server: { proxy: { "/v1": "http://127.0.0.1:8000", "/healthz": "http://127.0.0.1:8000" } },
});
